//! A note beside the operation log that the mount was taken away in an emergency: recordings are
//! written to the plain directory and not archived until a daemon runs again.

use crate::clock::Timestamp;
use serde::{Deserialize, Serialize};
use std::io;
use std::path::{Path, PathBuf};

/// Since when, and why.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Alarm {
    /// When the mount was taken away.
    pub since: Timestamp,
    /// The reason, a sentence.
    pub reason: String,
}

impl Alarm {
    /// Leaves the note, unless there is one: the first emergency is where it began.
    ///
    /// # Errors
    /// As writing a file.
    pub fn raise(&self, runtime_dir: &Path) -> io::Result<()> {
        if Alarm::read(runtime_dir).is_some() {
            return Ok(());
        }
        std::fs::create_dir_all(runtime_dir)?;
        std::fs::write(place(runtime_dir), serde_json::to_vec(self)?)
    }

    /// The note, if there is one.
    pub fn read(runtime_dir: &Path) -> Option<Alarm> {
        serde_json::from_slice(&std::fs::read(place(runtime_dir)).ok()?).ok()
    }

    /// Takes the note away and returns it: recordings are archived again.
    pub fn clear(runtime_dir: &Path) -> Option<Alarm> {
        let alarm = Alarm::read(runtime_dir);
        if let Err(error) = std::fs::remove_file(place(runtime_dir))
            && error.kind() != io::ErrorKind::NotFound
        {
            tracing::warn!(%error, "the note of an emergency could not be taken away");
        }
        alarm
    }
}

fn place(runtime_dir: &Path) -> PathBuf {
    runtime_dir.join("bypassed.json")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_alarm_stays_until_it_is_cleared() {
        let dir = tempfile::tempdir().expect("a directory");
        let runtime = dir.path().join("run");
        assert_eq!(Alarm::clear(&runtime), None);
        let first = Alarm { since: Timestamp(1), reason: "first".into() };
        first.raise(&runtime).expect("raised");
        Alarm { since: Timestamp(2), reason: "second".into() }.raise(&runtime).expect("raised");
        assert_eq!(Alarm::read(&runtime), Some(first.clone()));
        assert_eq!(Alarm::clear(&runtime), Some(first));
        assert_eq!(Alarm::read(&runtime), None);
    }
}
