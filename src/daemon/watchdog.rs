//! Telling the service manager that requests are still answered.

use super::notify;
use std::path::PathBuf;

/// Asks the file system something now and then, through the kernel, and says so if it answers. A
/// daemon that does not is killed by the service manager, and the next one goes on.
///
/// # Errors
/// If the system has no room for a thread.
pub(super) fn start(mountpoint: PathBuf) -> std::io::Result<()> {
    let Some(interval) = notify::watchdog() else { return Ok(()) };
    std::thread::Builder::new().name("watchdog".to_owned()).spawn(move || {
        loop {
            // An error is an answer too: only silence is not.
            let _whatever_it_says = rustix::fs::statvfs(&mountpoint);
            notify::notify("WATCHDOG=1");
            std::thread::sleep(interval);
        }
    })?;
    Ok(())
}
