//! A note in the runtime directory of when the daemon was ready, for whoever judges its end
//! (ExecStopPost=): one that served for a while did not fail to take over.

use crate::clock::Timestamp;
use crate::limits;
use std::io;
use std::path::{Path, PathBuf};

/// Notes that the daemon is ready.
///
/// # Errors
/// As writing a file.
pub(crate) fn ready(runtime_dir: &Path, now: Timestamp) -> io::Result<()> {
    std::fs::write(place(runtime_dir), now.0.to_string())
}

/// Whether the daemon that ended just now had served for a while. Takes the note away, for the next
/// one may not get as far as to leave its own.
pub(crate) fn take(runtime_dir: &Path, now: Timestamp) -> bool {
    let place = place(runtime_dir);
    let ready = std::fs::read_to_string(&place).ok().and_then(|text| text.parse().ok());
    let Some(ready) = ready.map(Timestamp) else { return false };
    // What can not be taken away is not believed: it may be another's.
    std::fs::write(place, "").is_ok() && ready.age_at(now) >= limits::KEEPER_SETTLED_AFTER
}

fn place(runtime_dir: &Path) -> PathBuf {
    runtime_dir.join("ready")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_note_is_for_one_life() {
        let dir = tempfile::tempdir().expect("a directory");
        let second = |s| Timestamp::from_parts(s, 0);
        assert!(!take(dir.path(), second(0)), "it never was ready");
        ready(dir.path(), second(10)).expect("written");
        assert!(take(dir.path(), second(15)));
        assert!(!take(dir.path(), second(15)), "the next one was not ready");
        ready(dir.path(), second(20)).expect("written");
        assert!(!take(dir.path(), second(24)), "too short");
        ready(dir.path(), second(30)).expect("written");
        assert!(!take(dir.path(), second(3)), "the clock was set back");
    }
}
