//! What a scrub asks and changes: objects in a row, and what becomes of a bad one.

use super::Catalog;
use super::error::Result;
use super::objects;
use super::row::{ObjectRow, ObjectState};
use super::sql_row::{self, OBJECT};
use crate::clock::Timestamp;
use crate::recording::{NodeId, State};
use rusqlite::{OptionalExtension, params};

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

/// Objects that something rests on, or should.
const TO_READ: &str = "(o.state = 2 OR o.state = 1 AND EXISTS (SELECT 1 FROM node n
    WHERE n.id = o.node AND n.state = 4 AND n.generation = o.generation))";

impl Catalog {
    /// Objects of a target that are to be read, behind a row number, in their order: those that are
    /// verified, and those of released recordings that are to be proved.
    ///
    /// # Errors
    /// `Unusable`.
    pub fn objects_to_read(
        &self,
        target: &str,
        after: i64,
        limit: usize,
    ) -> Result<Vec<ObjectRow>> {
        self.read_drained(|conn| {
            let text = format!(
                "SELECT {OBJECT} FROM object o LEFT JOIN generation g
                    ON g.node = o.node AND g.generation = o.generation
                 WHERE o.id > ?1 AND o.target = ?2 AND {TO_READ} ORDER BY o.id LIMIT ?3"
            );
            let limit = i64::try_from(limit).unwrap_or(i64::MAX);
            let mut statement = conn.prepare_cached(&text)?;
            let rows = statement.query_map(params![after, target, limit], sql_row::object)?;
            rows.collect()
        })
    }

    /// How many these are, and the row number of the last.
    ///
    /// # Errors
    /// `Unusable`.
    pub fn count_objects_to_read(&self, target: &str) -> Result<(u64, i64)> {
        self.read_drained(|conn| {
            let count = format!(
                "SELECT count(*), ifnull(max(id), 0) FROM object o WHERE target = ?1 AND {TO_READ}"
            );
            conn.query_row(&count, [target], |r| Ok((sql_row::unsigned(r.get(0)?), r.get(1)?)))
        })
    }

    /// Objects of released recordings that a target had and lost, and has no other of; behind a row
    /// number.
    ///
    /// # Errors
    /// `Unusable`.
    pub fn given_up_objects(
        &self,
        target: &str,
        after: i64,
        limit: usize,
    ) -> Result<Vec<ObjectRow>> {
        self.read_drained(|conn| {
            let text = format!(
                "SELECT {OBJECT} FROM object o LEFT JOIN generation g
                    ON g.node = o.node AND g.generation = o.generation
                 JOIN node n ON n.id = o.node AND n.generation = o.generation AND n.state = 4
                 WHERE o.id > ?1 AND o.state = 3 AND o.target = ?2 AND o.verified_at IS NOT NULL
                   AND NOT EXISTS (SELECT 1 FROM object a WHERE a.node = o.node
                     AND a.generation = o.generation AND a.target = o.target
                     AND (a.state = 2
                       OR a.state = 3 AND a.verified_at IS NOT NULL AND a.id > o.id))
                 ORDER BY o.id LIMIT ?3"
            );
            let limit = i64::try_from(limit).unwrap_or(i64::MAX);
            let mut statement = conn.prepare_cached(&text)?;
            let rows = statement.query_map(params![after, target, limit], sql_row::object)?;
            rows.collect()
        })
    }

    /// Files that are not deleted, behind an identity, in the order of identities.
    ///
    /// # Errors
    /// `Unusable`.
    pub fn files(&self, after: NodeId, limit: usize) -> Result<Vec<NodeId>> {
        self.read_drained(|conn| {
            let limit = i64::try_from(limit).unwrap_or(i64::MAX);
            conn.prepare_cached(
                "SELECT id FROM node WHERE id > ?1 AND kind = 1 AND state <> 5 ORDER BY id LIMIT ?2",
            )?
            .query_map([sql_row::sql(after.0), limit], |r| Ok(NodeId(sql_row::unsigned(r.get(0)?))))?
            .collect()
        })
    }

    /// The object that has a key.
    ///
    /// # Errors
    /// `Unusable`.
    pub fn object_of_key(&self, target: &str, key: &str) -> Result<Option<ObjectRow>> {
        self.read_drained(|conn| {
            let text = format!(
                "SELECT {OBJECT} FROM object o LEFT JOIN generation g
                    ON g.node = o.node AND g.generation = o.generation
                 WHERE o.target = ?1 AND o.key = ?2"
            );
            conn.prepare_cached(&text)?.query_row([target, key], sql_row::object).optional()
        })
    }

    /// An object that was given up was proved again. False if its generation has another in the
    /// target; one that was only begun is given up.
    ///
    /// # Errors
    /// `Unusable`.
    pub fn good_again(&self, object: i64, at: Timestamp) -> Result<bool> {
        self.shared.write(false, move |tx| {
            let changed = tx
                .conn
                .prepare_cached(
                    "UPDATE object AS o SET state = 2, verified_at = ?2
                     WHERE id = ?1 AND state = 3 AND NOT EXISTS (SELECT 1 FROM object a
                         WHERE a.node = o.node AND a.generation = o.generation
                           AND a.target = o.target AND a.state = 2)",
                )?
                .execute(params![object, at.0])?;
            if changed == 0 {
                return Ok(false);
            }
            // Its replacement was not proved, and is not needed any more.
            tx.conn
                .prepare_cached(
                    "UPDATE object SET state = 3 WHERE state = 1 AND (node, generation, target)
                         = (SELECT node, generation, target FROM object WHERE id = ?1)",
                )?
                .execute([object])?;
            objects::tell(tx, object, at)?;
            Ok(true)
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
    pub fn last_path(&self, id: NodeId) -> Result<Option<std::path::PathBuf>> {
        self.read_drained(|conn| Ok(sql_row::path_of(conn, id)?.map(sql_row::path_buf)))
    }
}
