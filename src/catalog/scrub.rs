//! What a scrub asks and changes: objects in a row, and what becomes of a bad one.

use super::Catalog;
use super::error::Result;
use super::row::{ObjectRow, ObjectState};
use super::sql_row::{self, OBJECT};
use crate::recording::State;
use rusqlite::params;

/// What is to be done about an object that is not as it was verified.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Remedy {
    /// It counts as verified no more; the local copy is archived again, under another key.
    Local,
    /// It counts as verified no more; another target has the same.
    Elsewhere,
    /// There is no other copy: nothing was changed.
    None,
    /// Somebody else has seen to it.
    Settled,
}

impl Catalog {
    /// Verified objects behind a row number, in their order.
    ///
    /// # Errors
    /// `Unusable`.
    pub fn verified_objects(&self, after: i64, limit: usize) -> Result<Vec<ObjectRow>> {
        self.read_drained(|conn| {
            let text = format!(
                "SELECT {OBJECT} FROM object o LEFT JOIN generation g
                    ON g.node = o.node AND g.generation = o.generation
                 WHERE o.id > ?1 AND o.state = 2 ORDER BY o.id LIMIT ?2"
            );
            let limit = i64::try_from(limit).unwrap_or(i64::MAX);
            let mut statement = conn.prepare_cached(&text)?;
            let rows = statement.query_map([after, limit], sql_row::object)?;
            rows.collect()
        })
    }

    /// How many objects are verified, and the row number of the last.
    ///
    /// # Errors
    /// `Unusable`.
    pub fn count_verified(&self) -> Result<(u64, i64)> {
        self.read_drained(|conn| {
            let count = "SELECT count(*), ifnull(max(id), 0) FROM object WHERE state = 2";
            conn.query_row(count, [], |r| Ok((sql_row::unsigned(r.get(0)?), r.get(1)?)))
        })
    }

    /// An object is gone from its target, or is not what was verified. Its key is never used
    /// again, unless it is the only copy there is: that stays, so that nothing is forgotten. `spare`:
    /// the same bytes of another target are at hand.
    ///
    /// # Errors
    /// `Unusable`.
    pub fn object_bad(&self, object: &ObjectRow, spare: bool) -> Result<Remedy> {
        let object = object.clone();
        self.shared.write(false, move |tx| {
            let mut statement = tx.conn.prepare_cached(
                "SELECT state, (SELECT count(*) FROM object a WHERE a.node = o.node
                     AND a.generation = o.generation AND a.state = 2 AND a.id <> o.id)
                 FROM object o WHERE id = ?1",
            )?;
            let (state, others): (i64, i64) =
                statement.query_row([object.id], |r| Ok((r.get(0)?, r.get(1)?)))?;
            let Some(old) = tx.node(object.node)? else { return Ok(Remedy::Settled) };
            if state != sql_row::object_code(ObjectState::Verified) {
                return Ok(Remedy::Settled);
            }
            let row = &old.node.row;
            // Also one that is open or waits to be hashed: unchanged, it would be archived again on
            // the strength of this object.
            let below = matches!(row.state, State::Recording | State::Closed | State::Archived);
            let local = below && row.generation == object.generation;
            if !local && (others == 0 || !spare) {
                return Ok(Remedy::None);
            }
            tx.conn
                .prepare_cached("UPDATE object SET state = 3 WHERE id = ?1")?
                .execute(params![object.id])?;
            if local && others == 0 {
                let mut new = old.node.clone();
                if row.state == State::Archived {
                    new.row.state = State::Closed;
                }
                new.row.archived_at = None;
                tx.save(Some(&old), &new)?;
            } else if old.told
                && row.archived_at.is_some()
                && row.generation == object.generation
                // Of one that is open the present size is not the archived one's.
                && row.state != State::Recording
            {
                // Else a rebuild would count on it.
                tx.tell_archived(&old.node, "archived", tx.now)?;
            }
            tx.wake.set(true);
            Ok(if local { Remedy::Local } else { Remedy::Elsewhere })
        })
    }

    /// The path of a node, also that of a tombstone.
    ///
    /// # Errors
    /// `Unusable`.
    pub fn last_path(&self, id: crate::recording::NodeId) -> Result<Option<std::path::PathBuf>> {
        self.read_drained(|conn| Ok(sql_row::path_of(conn, id)?.map(sql_row::path_buf)))
    }
}
