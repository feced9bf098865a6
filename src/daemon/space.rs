//! Tells the file system, now and then, how much disk could be had by releasing, which `df` counts as
//! free, and to let idle writers rest.

use super::Daemon;
use crate::recording::State;
use crate::units::Age;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::Duration;

/// How often it is counted.
const EVERY: Duration = Duration::from_secs(30);

/// Starts counting; ends when what it returns is dropped.
///
/// # Errors
/// If there is no room for a thread.
pub(super) fn watch(daemon: Arc<Daemon>) -> std::io::Result<Sender<()>> {
    let (end, ended) = channel();
    let count = move || run(&daemon, &ended);
    std::thread::Builder::new().name("spoolfs-space".to_owned()).spawn(count)?;
    Ok(end)
}

fn run(daemon: &Daemon, ended: &Receiver<()>) {
    loop {
        daemon.vfs.rest_idle();
        daemon.vfs.set_releasable(releasable(daemon));
        if ended.recv_timeout(EVERY) != Err(RecvTimeoutError::Timeout) {
            return;
        }
    }
}

/// Bytes of archived local copies that the rules would let go one day. Unknown counts as none.
fn releasable(daemon: &Daemon) -> u64 {
    let kept = {
        let config = daemon.config.read();
        config.write_back.keep_local == Age::Forever || !config.has_needed_target()
    };
    if kept {
        return 0;
    }
    let counts = daemon.catalog.counts().unwrap_or_default();
    counts.states.iter().filter(|(s, ..)| *s == State::Archived).map(|(_, _, bytes)| bytes).sum()
}
