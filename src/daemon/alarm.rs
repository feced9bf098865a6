//! A note beside the operation log that the mount was taken away in an emergency: recordings are
//! written to the plain directory and not archived until a daemon runs again.

use crate::clock::Timestamp;
use serde::{Deserialize, Serialize};
use std::io;
use std::path::{Path, PathBuf};

/// Since when, and why.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Alarm {
    /// When the mount was taken away first.
    pub since: Timestamp,
    /// When it was taken away last: it may have been mounted again and never become ready.
    #[serde(default)]
    pub last: Timestamp,
    /// The reason of the last time, a sentence.
    pub reason: String,
}

impl Alarm {
    /// The mount was taken away at `now`.
    pub fn new(now: Timestamp, reason: &str) -> Alarm {
        Alarm { since: now, last: now, reason: reason.to_owned() }
    }

    /// Leaves the note. One that is there from before tells when the emergency began.
    ///
    /// # Errors
    /// As writing a file.
    pub fn raise(mut self, runtime_dir: &Path) -> io::Result<()> {
        if let Some(before) = Alarm::read(runtime_dir) {
            self.since = before.since;
        }
        std::fs::create_dir_all(runtime_dir)?;
        // In one step: who reads it meanwhile finds the one before or this one.
        let place = place(runtime_dir);
        let new = place.with_extension("new");
        std::fs::write(&new, serde_json::to_vec(&self)?)?;
        std::fs::rename(new, place)
    }

    /// The note, if there is one.
    pub fn read(runtime_dir: &Path) -> Option<Alarm> {
        serde_json::from_slice(&std::fs::read(place(runtime_dir)).ok()?).ok()
    }

    /// Takes the note away if the mount is in its place: recordings are archived again. A note of
    /// this mount comes after it was taken away, so that one which was there before the mount was
    /// looked for is of an earlier mount, however late it came. The note, if it is over.
    pub fn end(runtime_dir: &Path, in_place: impl FnOnce() -> bool) -> Option<Alarm> {
        let noted = Alarm::read(runtime_dir)?;
        if !in_place() || Alarm::read(runtime_dir).as_ref() != Some(&noted) {
            return None;
        }
        if let Err(error) = std::fs::remove_file(place(runtime_dir)) {
            tracing::warn!(%error, "the note of an emergency could not be taken away");
        }
        Some(noted)
    }
}

fn place(runtime_dir: &Path) -> PathBuf {
    runtime_dir.join("bypassed.json")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_alarm_tells_when_the_emergency_began_until_it_is_cleared() {
        let dir = tempfile::tempdir().expect("a directory");
        let runtime = dir.path().join("run");
        Alarm::new(Timestamp(1), "first").raise(&runtime).expect("raised");
        Alarm::new(Timestamp(2), "second").raise(&runtime).expect("raised");
        let alarm = Alarm::read(&runtime).expect("a note");
        assert_eq!((alarm.since, &*alarm.reason), (Timestamp(1), "second"));
        assert_eq!(Alarm::end(&runtime, || false), None, "the mount is not there");
        assert_eq!(Alarm::end(&runtime, || true), Some(alarm));
        assert_eq!(Alarm::read(&runtime), None);
        assert_eq!(Alarm::end(&runtime, || true), None, "there is nothing any more");
    }

    #[test]
    fn regression_who_became_ready_does_not_clear_the_alarm_of_a_bypass_meanwhile() {
        let dir = tempfile::tempdir().expect("a directory");
        Alarm::new(Timestamp(1), "before the mount").raise(dir.path()).expect("raised");
        let looks = || {
            Alarm::new(Timestamp(2), "of the new mount").raise(dir.path()).expect("raised");
            true
        };
        assert_eq!(Alarm::end(dir.path(), looks), None);
        assert_eq!(Alarm::read(dir.path()).expect("it stays").reason, "of the new mount");
    }
}
