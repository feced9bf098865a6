//! Legal holds as targets have them (docs/HOLDS.md, "In the store"): what was asked for an object,
//! and what the target was seen to have. What should be is not here; it follows from `held`.

use super::Catalog;
use super::error::Result;
use super::sql_row::{self, sql, unsigned};
use crate::clock::Timestamp;
use crate::recording::NodeId;
use rusqlite::{Connection, Row, params};
use std::collections::BTreeMap;

/// How far a legal hold on an object is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LockState {
    /// It could not be asked for yet.
    Wanted,
    /// It is about to be asked for, or was: the target may have it.
    Asked,
    /// The target was seen to have it.
    On,
    /// It was there before it was asked for: somebody else's.
    Foreign,
    /// No hold is on the recording, and the target refused to delete the object.
    Undeletable,
}

impl LockState {
    const ALL: [LockState; 5] = [
        LockState::Wanted,
        LockState::Asked,
        LockState::On,
        LockState::Foreign,
        LockState::Undeletable,
    ];

    fn code(self) -> i64 {
        match self {
            LockState::Wanted => 0,
            LockState::Asked => 1,
            LockState::On => 2,
            LockState::Foreign => 3,
            LockState::Undeletable => 4,
        }
    }
}

/// What is known of the legal hold on one object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LockRow {
    /// Row number of the object.
    pub object: i64,
    /// The recording.
    pub node: NodeId,
    /// Name of the target.
    pub target: String,
    /// How far it is.
    pub state: LockState,
    /// The version of the object that it is on; empty: not known.
    pub version: String,
    /// When that was found.
    pub at: Timestamp,
    /// Failures in a row.
    pub attempts: u32,
    /// Next try after a failure.
    pub not_before: Timestamp,
    /// The last failure, in a sentence; none since it went well.
    pub error: Option<String>,
}

/// What a target has of the recordings of one hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LockCount {
    /// Verified objects.
    pub objects: u64,
    /// Those of them on which a legal hold was seen.
    pub locked: u64,
    /// Why one of the others has none.
    pub error: Option<String>,
}

const LOCK: &str =
    "l.object, l.node, l.target, l.state, l.version, l.at, l.attempts, l.not_before, l.error";

fn lock(row: &Row<'_>) -> rusqlite::Result<LockRow> {
    let code: i64 = row.get(3)?;
    let state = LockState::ALL.into_iter().find(|s| s.code() == code);
    Ok(LockRow {
        object: row.get(0)?,
        node: NodeId(unsigned(row.get(1)?)),
        target: row.get(2)?,
        state: state.ok_or(rusqlite::Error::IntegralValueOutOfRange(3, code))?,
        version: row.get(4)?,
        at: sql_row::time(row, 5)?,
        attempts: row.get(6)?,
        not_before: sql_row::time(row, 7)?,
        error: row.get(8)?,
    })
}

fn store(conn: &Connection, row: &LockRow) -> rusqlite::Result<()> {
    conn.prepare_cached(
        "INSERT OR REPLACE INTO object_lock(object, node, target, state, version, at, attempts,
            not_before, error) VALUES(?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)",
    )?
    .execute(params![
        row.object,
        sql(row.node.0),
        row.target,
        row.state.code(),
        row.version,
        row.at.0,
        row.attempts,
        row.not_before.0,
        row.error
    ])?;
    Ok(())
}

impl Catalog {
    /// What is known of legal holds on the objects of a recording in a target.
    ///
    /// # Errors
    /// `Unusable`.
    pub fn locks(&self, node: NodeId, target: &str) -> Result<Vec<LockRow>> {
        self.read_drained(|conn| {
            let text = format!(
                "SELECT {LOCK} FROM object_lock l INDEXED BY object_lock_node
                 WHERE l.node = ?1 AND l.target = ?2"
            );
            conn.prepare_cached(&text)?.query_map(params![sql(node.0), target], lock)?.collect()
        })
    }

    /// The same of all objects of a target, at most `limit` behind a row number.
    ///
    /// # Errors
    /// `Unusable`.
    pub fn locks_behind(&self, target: &str, after: i64, limit: usize) -> Result<Vec<LockRow>> {
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        self.read_drained(|conn| {
            let text = format!(
                "SELECT {LOCK} FROM object_lock l INDEXED BY object_lock_target
                 WHERE l.target = ?1 AND l.object > ?2 ORDER BY l.object LIMIT ?3"
            );
            conn.prepare_cached(&text)?.query_map(params![target, after, limit], lock)?.collect()
        })
    }

    /// Remembers what is known of some. `durable`: on the disk when it returns, because a target is
    /// asked on the strength of it.
    ///
    /// # Errors
    /// `Unusable`.
    pub fn set_locks(&self, rows: &[LockRow], durable: bool) -> Result<()> {
        let rows = rows.to_vec();
        self.shared.write(durable, move |tx| rows.iter().try_for_each(|row| store(tx.conn, row)))
    }

    /// No legal hold of ours is on these objects any more.
    ///
    /// # Errors
    /// `Unusable`.
    pub fn drop_locks(&self, objects: &[i64]) -> Result<()> {
        let objects = objects.to_vec();
        self.shared.write(false, move |tx| {
            objects.iter().try_for_each(|object| {
                tx.conn
                    .prepare_cached("DELETE FROM object_lock WHERE object = ?1")?
                    .execute([object])
                    .map(drop)
            })
        })
    }

    /// Whether a hold is on a recording that is to be locked in targets: one that means it, or that
    /// was put on it provisionally at or before `since`.
    ///
    /// # Errors
    /// `Unusable`.
    pub fn is_held_for_sure(&self, node: NodeId, since: Timestamp) -> Result<bool> {
        self.read_drained(|conn| {
            conn.prepare_cached(
                "SELECT 1 FROM held d JOIN hold h ON h.id = d.hold
                 WHERE d.node = ?1 AND h.lifted_at IS NULL
                   AND (d.provisional = 0 OR d.since <= ?2) LIMIT 1",
            )?
            .exists(params![sql(node.0), since.0])
        })
    }

    /// What the targets have of the recordings of a hold, by target.
    ///
    /// # Errors
    /// `Unusable`.
    pub fn lock_counts(&self, hold: u64) -> Result<BTreeMap<String, LockCount>> {
        self.read_drained(|conn| {
            let mut statement = conn.prepare_cached(
                "SELECT o.target, count(*), sum(ifnull(l.state IN (2, 3), 0)), max(l.error)
                 FROM held d INDEXED BY held_hold
                 JOIN object o ON o.node = d.node AND o.state = 2
                 LEFT JOIN object_lock l ON l.object = o.id
                 WHERE d.hold = ?1 GROUP BY o.target",
            )?;
            let rows = statement.query_map([sql(hold)], |r| {
                let (objects, locked) = (unsigned(r.get(1)?), unsigned(r.get(2)?));
                Ok((r.get(0)?, LockCount { objects, locked, error: r.get(3)? }))
            })?;
            rows.collect()
        })
    }

    /// How many objects of deleted recordings a target refuses to delete, and why one of them.
    ///
    /// # Errors
    /// `Unusable`.
    pub fn undeletable(&self) -> Result<Option<(u64, String)>> {
        self.read_drained(|conn| {
            let mut statement = conn.prepare_cached(
                "SELECT count(*), max(error) FROM object_lock INDEXED BY object_lock_undeletable
                 WHERE state = 4",
            )?;
            statement.query_row([], |r| {
                let count = unsigned(r.get(0)?);
                let why: Option<String> = r.get(1)?;
                Ok((count > 0).then(|| (count, why.unwrap_or_default())))
            })
        })
    }
}
