//! Objects that others take the place of: the same content, stored otherwise (docs/DURABILITY.md,
//! "Storing anew").
//!
//! **Invariant:** in each target a content has one object that counts, the old one or the new one, and
//! both are never lost from sight: whichever does not count has a mark, a setting named by its row,
//! until it was seen to be gone.

use super::Catalog;
use super::error::Result;
use super::objects;
use super::row::{ObjectRow, ObjectState};
use super::settings;
use super::sql_row::{self, OBJECT, unsigned};
use super::tx::Tx;
use crate::clock::Timestamp;
use crate::recording::{Generation, NodeId, State, Stored};
use rusqlite::{OptionalExtension, params};

/// Marks, by a range of the settings' primary key.
const MARKED: &str = "
    SELECT CAST(substr(key, 9) AS INTEGER) AS object, value FROM setting
    WHERE key > 'leaving.' AND key < 'leaving/' AND CAST(substr(key, 9) AS INTEGER) > ?1
    ORDER BY 1 LIMIT ?2";

/// An object that does not count, and is to be deleted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Leaving {
    /// Row number of the object.
    pub object: i64,
    /// Since when.
    pub since: Timestamp,
    /// The journal row that tells what counts instead: a target must have it first.
    pub told: u64,
}

fn key(object: i64) -> String {
    format!("leaving.{object}")
}

/// The object is gone, or counts: it does not leave.
pub(super) fn unmark(tx: &Tx<'_>, object: i64) -> rusqlite::Result<()> {
    tx.conn.prepare_cached("DELETE FROM setting WHERE key = ?1")?.execute([key(object)])?;
    Ok(())
}

/// The object leaves, as soon as its target has the journal as far as it goes now.
pub(super) fn mark(tx: &Tx<'_>, object: i64, at: Timestamp) -> rusqlite::Result<()> {
    settings::set(tx.conn, &key(object), &format!("{} {}", at.0, tx.journal.get()))
}

impl Catalog {
    /// Takes a key for an object that is to take the place of the one that a target has of this
    /// content: the first of `keys` that no object of the target ever had. Until
    /// [`Catalog::take_places`] it does not count, and is one of those that leave.
    ///
    /// # Errors
    /// `Unusable`; also if every key is taken.
    pub fn reserve_key(
        &self,
        (id, generation): (NodeId, Generation),
        target: &str,
        keys: &[String],
        stored: &Stored,
        at: Timestamp,
    ) -> Result<ObjectRow> {
        let (to, keys, stored) = (target.to_owned(), keys.to_vec(), stored.clone());
        let reserved = self.shared.write(false, move |tx| {
            let what = (id, generation, ObjectState::Abandoned);
            let row = objects::insert(tx, what, &to, &keys, Some(&stored))?;
            if let Some(row) = &row {
                mark(tx, row.id, at)?;
            }
            Ok(row)
        })?;
        reserved.ok_or_else(|| {
            self.shared.unusable(format!("no key of {target:?} is free for recording {id}"))
        })
    }

    /// From now on these new objects count, and in their targets no other one of the same content:
    /// those leave. All in one step, on the disk when this returns. False, and nothing was changed: the
    /// recording is not archived as it was any more, or one of the new ones has nothing to take the
    /// place of.
    ///
    /// # Errors
    /// `Unusable`.
    pub fn take_places(
        &self,
        (id, generation): (NodeId, Generation),
        new: &[i64],
        at: Timestamp,
    ) -> Result<bool> {
        let new = new.to_vec();
        self.shared.write(true, move |tx| {
            let Some(old) = tx.node(id)? else { return Ok(false) };
            let row = &old.node.row;
            let archived = matches!(row.state, State::Archived | State::Released);
            if !archived || row.generation != generation {
                return Ok(false);
            }
            let mut pairs = Vec::new();
            for object in &new {
                let others = rivals(tx, *object)?;
                if others.is_empty() {
                    return Ok(false);
                }
                pairs.push((*object, others));
            }
            for (object, others) in &pairs {
                tx.conn
                    .prepare_cached("UPDATE object SET state = 2, verified_at = ?2 WHERE id = ?1")?
                    .execute([*object, at.0])?;
                unmark(tx, *object)?;
                for other in others {
                    tx.conn
                        .prepare_cached(
                            "UPDATE object SET state = 3, verified_at = NULL WHERE id = ?1",
                        )?
                        .execute([other])?;
                }
            }
            tx.tell_archived(&old.node, "archived", at)?;
            // With the number of the row that tells of it.
            pairs
                .iter()
                .flat_map(|(_, others)| others)
                .try_for_each(|other| mark(tx, *other, at))?;
            tx.wake.set(true);
            Ok(true)
        })
    }

    /// Objects that leave, at most `limit` behind a row number.
    ///
    /// # Errors
    /// `Unusable`.
    pub fn leaving(&self, after: i64, limit: usize) -> Result<Vec<Leaving>> {
        self.read_drained(|conn| {
            let limit = i64::try_from(limit).unwrap_or(i64::MAX);
            let mut statement = conn.prepare_cached(MARKED)?;
            let rows = statement.query_map(params![after, limit], |r| {
                let (object, text): (i64, String) = (r.get(0)?, r.get(1)?);
                let (since, told) = text.split_once(' ').unwrap_or((&text, "0"));
                let since = Timestamp(since.parse().unwrap_or(0));
                Ok(Leaving { object, since, told: told.parse().unwrap_or(u64::MAX) })
            })?;
            rows.collect()
        })
    }

    /// One object; `None`: there is no such row.
    ///
    /// # Errors
    /// `Unusable`.
    pub fn object(&self, object: i64) -> Result<Option<ObjectRow>> {
        self.read_drained(|conn| {
            let text = format!(
                "SELECT {OBJECT} FROM object o LEFT JOIN generation g
                    ON g.node = o.node AND g.generation = o.generation
                 WHERE o.id = ?1"
            );
            conn.prepare_cached(&text)?.query_row([object], sql_row::object).optional()
        })
    }

    /// The row number of the newest object; 0: there is none.
    ///
    /// # Errors
    /// `Unusable`.
    pub fn last_object(&self) -> Result<i64> {
        self.read_drained(|conn| {
            conn.prepare_cached("SELECT ifnull(max(id), 0) FROM object")?
                .query_row([], |r| r.get(0))
        })
    }

    /// An object does not leave: it counts again, or must be left alone.
    ///
    /// # Errors
    /// `Unusable`.
    pub fn stays(&self, object: i64) -> Result<()> {
        self.shared.write(false, move |tx| unmark(tx, object))
    }

    /// Up to which row a target has the journal.
    ///
    /// # Errors
    /// `Unusable`.
    pub fn told_up_to(&self, target: &str) -> Result<u64> {
        self.read_drained(|conn| {
            let seq = conn
                .prepare_cached("SELECT seq FROM journal_mark WHERE target = ?1")?
                .query_row([target], |r| r.get(0))
                .optional()?;
            Ok(seq.map_or(0, unsigned))
        })
    }
}

/// Of a reserved object: the verified ones of the same content in the same target.
fn rivals(tx: &Tx<'_>, object: i64) -> rusqlite::Result<Vec<i64>> {
    let mut statement = tx.conn.prepare_cached(
        "SELECT a.id FROM object o JOIN object a ON a.node = o.node
             AND a.generation = o.generation AND a.target = o.target AND a.state = 2
         WHERE o.id = ?1 AND o.state = 3 AND a.id <> o.id",
    )?;
    let rows = statement.query_map([object], |r| r.get(0))?;
    rows.collect()
}
