//! Telling the service manager that requests are still answered.

use super::notify;
use crate::fuse::Watch;
use std::sync::Arc;

/// Says so as long as no thread is stuck at a request. A daemon whose threads are is killed by the
/// service manager, and the next one goes on.
///
/// The mount itself must not be asked: a daemon that is killed while one of its own threads waits
/// for the answer of its own file system never ends, and none can follow it.
///
/// # Errors
/// If the system has no room for a thread.
pub(super) fn start(watch: Arc<Watch>) -> std::io::Result<()> {
    let Some(interval) = notify::watchdog() else { return Ok(()) };
    std::thread::Builder::new().name("watchdog".to_owned()).spawn(move || {
        loop {
            if watch.stuck(interval) {
                tracing::error!(
                    "a request is not answered: the service manager will restart spoolfs"
                );
            } else {
                notify::notify("WATCHDOG=1");
            }
            std::thread::sleep(interval);
        }
    })?;
    Ok(())
}
