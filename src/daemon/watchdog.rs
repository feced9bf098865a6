//! Tells the service manager that calls are still answered: it asks the mount itself, as a call
//! would, and says `WATCHDOG=1` when an answer came. A mount that hangs says nothing.

use super::notify::{notify, watchdog};
use std::path::Path;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::Duration;

/// Starts, if the service manager wants it; ends when what it returns is dropped.
///
/// # Errors
/// If there is no room for a thread.
pub(super) fn feed(mountpoint: &Path) -> std::io::Result<Option<Sender<()>>> {
    let Some(every) = watchdog() else { return Ok(None) };
    let (end, ended) = channel();
    let mountpoint = mountpoint.to_owned();
    let ask = move || run(&mountpoint, every, &ended);
    // Never waited for: it may be in the mount when that has no daemon any more.
    std::thread::Builder::new().name("spoolfs-watchdog".to_owned()).spawn(ask)?;
    Ok(Some(end))
}

fn run(mountpoint: &Path, every: Duration, ended: &Receiver<()>) {
    loop {
        // An error is an answer, too.
        let _answer = rustix::fs::statfs(mountpoint);
        notify("WATCHDOG=1");
        if ended.recv_timeout(every) != Err(RecvTimeoutError::Timeout) {
            return;
        }
    }
}
