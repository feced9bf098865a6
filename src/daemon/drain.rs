//! A stop: new files go to the plain directory at once, open ones are served until closed.

use crate::fuse::Mounted;
use crate::limits::BUSY_NAMED_MAX;
use rustix::fs::{AtFlags, StatxFlags};
use std::io;
use std::path::Path;
use std::sync::mpsc;
use std::time::{Duration, Instant};

/// Unmounts, and serves files that are open for at most `patience`; says whose they are.
///
/// # Errors
/// As `umount`.
pub(super) fn unmount(
    mounted: &Mounted,
    end: &mpsc::Receiver<io::Result<()>>,
    patience: Duration,
) -> io::Result<()> {
    let device = device_of(mounted.path());
    let deadline = Instant::now() + patience;
    if mounted.unmount()? {
        let _ended = end.recv_timeout(patience);
        return Ok(());
    }
    tracing::warn!(
        seconds = patience.as_secs(),
        busy = device.map(busy).unwrap_or_default(),
        "files are open; they can be finished within drain_timeout, new ones go to the plain \
         directory"
    );
    let left = deadline.saturating_duration_since(Instant::now());
    if let Err(mpsc::RecvTimeoutError::Timeout) = end.recv_timeout(left) {
        tracing::error!(
            busy = device.map(busy).unwrap_or_default(),
            "files were still open at drain_timeout: their writers get an error from now on, what \
             they wrote is on disk"
        );
    }
    Ok(())
}

/// Who has files of this device open: `asterisk (812), sox (4711)`.
fn busy(device: (u32, u32)) -> String {
    let mut names = Vec::new();
    let processes = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    for process in
        processes.filter(|p| p.file_name().as_encoded_bytes().iter().all(u8::is_ascii_digit))
    {
        if !has_open(&process.path(), device) {
            continue;
        }
        if names.len() == BUSY_NAMED_MAX {
            names.push("and others".to_owned());
            break;
        }
        let name = std::fs::read_to_string(process.path().join("comm")).unwrap_or_default();
        names.push(format!("{} ({})", name.trim(), process.file_name().to_string_lossy()));
    }
    if names.is_empty() { "processes that can not be seen".to_owned() } else { names.join(", ") }
}

fn has_open(process: &Path, device: (u32, u32)) -> bool {
    let files = std::fs::read_dir(process.join("fd")).into_iter().flatten().flatten();
    files.filter_map(|f| device_of(&f.path())).any(|of| of == device)
}

/// On which device a file is, without asking the file system: that is us, and a daemon that waits
/// for itself when it is killed never ends.
fn device_of(path: &Path) -> Option<(u32, u32)> {
    let stat =
        rustix::fs::statx(rustix::fs::CWD, path, AtFlags::STATX_DONT_SYNC, StatxFlags::empty());
    stat.ok().map(|s| (s.stx_dev_major, s.stx_dev_minor))
}
