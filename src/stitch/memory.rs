//! What recordings are, remembered: a join must know how long its legs are without reading them,
//! also when they are in a target. What is remembered of those that are gone is forgotten
//! (`watch.rs`), so there are not more rows than recordings.
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
/// Goes up when more can be told of recordings: what could not be told is found out again.
const VERSION: i64 = 1;

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
            let found: i64 = connection.query_row("PRAGMA user_version", [], |r| r.get(0))?;
            if found != VERSION {
                connection.execute_batch(&format!(
                    "BEGIN; DELETE FROM audio WHERE said LIKE '{{\"Err\"%';
                     PRAGMA user_version = {VERSION}; COMMIT;"
                ))?;
            }
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

    /// What was found out about these contents, each in its place.
    pub fn recall(&self, keys: &[Key<'_>]) -> Vec<Option<Result<Audio, String>>> {
        let Some(connection) = self.0.as_ref().filter(|_| !keys.is_empty()) else {
            return vec![None; keys.len()];
        };
        let connection = connection.lock();
        // One snapshot for all of them; without one each is read in its own.
        let _snapshot = connection.unchecked_transaction();
        keys.iter().map(|key| recall(&connection, *key)).collect()
    }

    /// Recordings of which something is remembered, after this one.
    pub fn after(&self, node: NodeId, limit: usize) -> Vec<NodeId> {
        let Some(connection) = &self.0 else { return Vec::new() };
        nodes_after(&connection.lock(), node, limit).unwrap_or_default()
    }

    /// Forgets recordings.
    pub fn forget(&self, nodes: &[NodeId]) {
        let Some(connection) = self.0.as_ref().filter(|_| !nodes.is_empty()) else { return };
        let connection = connection.lock();
        let forgotten = connection.unchecked_transaction().and_then(|transaction| {
            for node in nodes {
                transaction
                    .prepare_cached("DELETE FROM audio WHERE node = ?1")?
                    .execute([node.0.cast_signed()])?;
            }
            transaction.commit()
        });
        if let Err(error) = forgotten {
            tracing::debug!(%error, "recordings that are gone could not be forgotten");
        }
    }

    /// Keeps what was found out, in the place of what older contents were.
    pub fn keep(&self, found: &[(Key<'_>, &Result<Audio, String>)]) {
        let Some(connection) = self.0.as_ref().filter(|_| !found.is_empty()) else { return };
        let connection = connection.lock();
        let kept = connection.unchecked_transaction().and_then(|transaction| {
            for (key, audio) in found {
                keep(&transaction, *key, audio)?;
            }
            transaction.commit()
        });
        if let Err(error) = kept {
            tracing::debug!(%error, "what recordings are could not be kept");
        }
    }
}

fn nodes_after(
    connection: &Connection,
    node: NodeId,
    limit: usize,
) -> rusqlite::Result<Vec<NodeId>> {
    let limit = i64::try_from(limit).unwrap_or(i64::MAX);
    connection
        .prepare_cached("SELECT node FROM audio WHERE node > ?1 ORDER BY node LIMIT ?2")?
        .query_map([node.0.cast_signed(), limit], |row| {
            Ok(NodeId(row.get::<_, i64>(0)?.cast_unsigned()))
        })?
        .collect()
}

fn recall(connection: &Connection, key: Key<'_>) -> Option<Result<Audio, String>> {
    let said: Option<String> = connection
        .prepare_cached(
            "SELECT said FROM audio WHERE node = ?1 AND size = ?2 AND mtime = ?3 AND suffix = ?4",
        )
        .ok()?
        .query_row(
            params![key.node.0.cast_signed(), key.size.cast_signed(), key.mtime.0, key.suffix],
            |row| row.get(0),
        )
        .optional()
        .ok()?;
    serde_json::from_str(&said?).ok()
}

fn keep(
    connection: &Connection,
    key: Key<'_>,
    audio: &Result<Audio, String>,
) -> rusqlite::Result<()> {
    let Ok(said) = serde_json::to_string(audio) else { return Ok(()) };
    let mut statement = connection.prepare_cached(
        "INSERT OR REPLACE INTO audio (node, size, mtime, suffix, said)
         VALUES (?1, ?2, ?3, ?4, ?5)",
    )?;
    let (node, size) = (key.node.0.cast_signed(), key.size.cast_signed());
    statement.execute(params![node, size, key.mtime.0, key.suffix, said]).map(|_| ())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_known_is_known_of_one_content_and_outlives_the_daemon() {
        let dir = tempfile::tempdir().unwrap();
        let key = Key { node: NodeId(7), size: 100, mtime: Timestamp(5), suffix: "wav" };
        let no = Err("it is empty".to_owned());
        Memory::open(dir.path()).keep(&[(key, &no)]);
        let memory = Memory::open(dir.path());
        let others = [
            key,
            Key { size: 101, ..key },
            Key { mtime: Timestamp(6), ..key },
            Key { suffix: "alaw", ..key },
            key,
        ];
        let found = Some(no.clone());
        assert_eq!(memory.recall(&others), [found.clone(), None, None, None, found]);
        assert_eq!(memory.after(NodeId(0), 10), [NodeId(7)]);
        assert_eq!(memory.after(NodeId(7), 10), []);
        memory.forget(&[NodeId(7), NodeId(8)]);
        assert_eq!(memory.recall(&[key]), [None]);
        let (known, unknown) = (Key { node: NodeId(8), ..key }, Key { node: NodeId(9), ..key });
        let coding = crate::codec::Coding::Gsm;
        let gsm = Audio { coding, rate: 8000, channels: 1, at: 0, samples: 160, frames: None };
        memory.keep(&[(known, &Ok(gsm.clone())), (unknown, &no)]);
        drop(memory);
        let older = Connection::open(dir.path().join(FILE)).unwrap();
        older.pragma_update(None, "user_version", VERSION - 1).unwrap();
        drop(older);
        let memory = Memory::open(dir.path());
        assert_eq!(memory.recall(&[known, unknown]), [Some(Ok(gsm)), None]);
        let nowhere = Memory::open(&dir.path().join("none"));
        nowhere.keep(&[(key, &Err(String::new()))]);
        assert_eq!(nowhere.recall(&[key]), [None]);
    }
}
