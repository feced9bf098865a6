//! What a mount shows of a recording, and waiting for it.

use super::mount::Mount;
use std::path::Path;
use std::time::{Duration, Instant};

/// Longest that a test waits for what must happen. A guard against hanging and no measurement: the disk of a
/// machine that others use, too, may stand still for many seconds.
pub const PATIENCE: Duration = Duration::from_secs(120);

/// An extended attribute that is text.
pub fn xattr(path: &Path, name: &str) -> Option<String> {
    let mut value = vec![0; 4096];
    let len = rustix::fs::getxattr(path, name, &mut value[..]).ok()?;
    value.truncate(len);
    String::from_utf8(value).ok()
}

/// Where a recording stands.
pub fn state(path: &Path) -> String {
    xattr(path, "user.spoolfs.state").unwrap_or_default()
}

#[track_caller]
pub fn wait_for_state(path: &Path, wanted: &str) {
    let until = Instant::now() + PATIENCE;
    while state(path) != wanted {
        assert!(Instant::now() < until, "{path:?} is {:?}, not {wanted}", state(path));
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Waits until the daemon knows that nobody has it open for writing: close(2) does not wait for that.
#[track_caller]
pub fn closed(path: &Path) {
    let until = Instant::now() + PATIENCE;
    while state(path) == "recording" {
        assert!(Instant::now() < until, "{path:?} is still open for writing");
        std::thread::sleep(Duration::from_millis(1));
    }
}

#[track_caller]
pub fn eventually(mount: &Mount, what: &str, mut is: impl FnMut() -> bool) {
    let until = Instant::now() + PATIENCE;
    while !is() {
        assert!(Instant::now() < until, "{what}\n{}", mount.said());
        std::thread::sleep(Duration::from_millis(50));
    }
}
