//! What recordings are, remembered: a join must know how long its legs are without reading them,
//! also when they are in a target.
//!
//! `stitched.sqlite` in the state directory, a table and no more. It may be deleted at any time;
//! then headers are read again. It is never waited for on the way of a call.

use crate::clock::Timestamp;
use crate::codec::Audio;
use crate::recording::NodeId;
use parking_lot::Mutex;
use rusqlite::{Connection, OptionalExtension, params};
use std::path::Path;

const FILE: &str = "stitched.sqlite";

/// Which content of which recording.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Key<'a> {
    pub node: NodeId,
    pub size: u64,
    pub mtime: Timestamp,
    /// What its name ends with: it may decide on the format.
    pub suffix: &'a str,
}

/// What was found out about recordings.
#[derive(Debug)]
pub(super) struct Memory(Option<Mutex<Connection>>);

impl Memory {
    /// Opens it, or does without.
    pub fn open(state_dir: &Path) -> Memory {
        let path = state_dir.join(FILE);
        let open = || {
            let connection = Connection::open(&path)?;
            connection.pragma_update(None, "journal_mode", "wal")?;
            // What a power cut takes is read again.
            connection.pragma_update(None, "synchronous", "off")?;
            connection.execute_batch(
                "CREATE TABLE IF NOT EXISTS audio (node INTEGER PRIMARY KEY, size INTEGER NOT NULL,
                    mtime INTEGER NOT NULL, suffix TEXT NOT NULL, said TEXT NOT NULL) STRICT",
            )?;
            Ok::<_, rusqlite::Error>(connection)
        };
        match open() {
            Ok(connection) => Memory(Some(Mutex::new(connection))),
            Err(error) => {
                tracing::warn!(
                    path = %path.display(), %error,
                    "what recordings are is not remembered: joins read headers again; delete the \
                     file if it stays so"
                );
                Memory(None)
            }
        }
    }

    /// What was found out about this content.
    pub fn recall(&self, key: Key<'_>) -> Option<Result<Audio, String>> {
        let connection = self.0.as_ref()?.lock();
        let said: Option<String> = connection
            .prepare_cached(
                "SELECT said FROM audio WHERE node = ?1 AND size = ?2 AND mtime = ?3 AND suffix = ?4",
            )
            .ok()?
            .query_row(
                params![
                    key.node.0.cast_signed(),
                    key.size.cast_signed(),
                    key.mtime.0,
                    key.suffix
                ],
                |row| row.get(0),
            )
            .optional()
            .ok()?;
        serde_json::from_str(&said?).ok()
    }

    /// Keeps what was found out, in the place of what an older content was.
    pub fn keep(&self, key: Key<'_>, audio: &Result<Audio, String>) {
        let Some(connection) = &self.0 else { return };
        let Ok(said) = serde_json::to_string(audio) else { return };
        let kept = connection.lock().execute(
            "INSERT OR REPLACE INTO audio (node, size, mtime, suffix, said)
             VALUES (?1, ?2, ?3, ?4, ?5)",
            params![
                key.node.0.cast_signed(),
                key.size.cast_signed(),
                key.mtime.0,
                key.suffix,
                said
            ],
        );
        if let Err(error) = kept {
            tracing::debug!(%error, "what a recording is could not be kept");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_known_is_known_of_one_content_and_outlives_the_daemon() {
        let dir = tempfile::tempdir().unwrap();
        let key = Key { node: NodeId(7), size: 100, mtime: Timestamp(5), suffix: "wav" };
        let no = Err("it is empty".to_owned());
        Memory::open(dir.path()).keep(key, &no);
        let memory = Memory::open(dir.path());
        assert_eq!(memory.recall(key), Some(no));
        assert_eq!(memory.recall(Key { size: 101, ..key }), None);
        assert_eq!(memory.recall(Key { mtime: Timestamp(6), ..key }), None);
        assert_eq!(memory.recall(Key { suffix: "alaw", ..key }), None);
        let nowhere = Memory::open(&dir.path().join("none"));
        nowhere.keep(key, &Err(String::new()));
        assert_eq!(nowhere.recall(key), None);
    }
}
