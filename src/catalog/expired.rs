//! Marks of recordings that a rule lets go: a setting for each, named by the node. Their objects may
//! be deleted as soon as they have no name.

use super::Catalog;
use super::error::Result;
use super::sql_row::sql;
use crate::clock::Timestamp;
use crate::recording::{ExpiryPermit, Generation, NodeId};
use rusqlite::{OptionalExtension, params};

const PREFIX: &str = "expired.";

/// Marks, by a range of the settings' primary key, with whether the node lost its name by what the
/// mark was set for: a user may have deleted it instead.
const MARKED: &str = "
    SELECT CAST(substr(s.key, 9) AS INTEGER) AS node, CAST(s.value AS INTEGER),
        n.state = 5 AND n.deleted_at = CAST(s.value AS INTEGER)
    FROM setting s LEFT JOIN node n ON n.id = CAST(substr(s.key, 9) AS INTEGER)
    WHERE s.key > 'expired.' AND s.key < 'expired/' AND CAST(substr(s.key, 9) AS INTEGER) > ?1
    ORDER BY 1 LIMIT ?2";

/// A recording that was to be deleted by a rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Marked {
    /// Which.
    pub node: NodeId,
    /// Since when.
    pub since: Timestamp,
    /// Its name is gone, by that: its objects may be deleted.
    pub gone: bool,
}

fn key(id: NodeId) -> String {
    format!("{PREFIX}{}", sql(id.0))
}

impl Catalog {
    /// Marks a node; on the disk when this returns.
    ///
    /// # Errors
    /// `Unusable`.
    pub fn mark_expired(&self, id: NodeId, at: Timestamp) -> Result<()> {
        let (key, at) = (key(id), at.0.to_string());
        self.shared.write(true, move |tx| super::settings::set(tx.conn, &key, &at))
    }

    /// Takes a recording out of the trash for good, and marks it: its objects may be deleted. On the
    /// disk when this returns; whether it was there, in the archive alone.
    ///
    /// # Errors
    /// `Unusable`.
    pub fn empty_trash(&self, permit: &ExpiryPermit) -> Result<bool> {
        let id = permit.node();
        self.shared.write(true, move |tx| {
            let gone = tx
                .conn
                .prepare_cached(
                    "SELECT n.deleted_at, n.generation, t.path FROM trash t JOIN node n ON n.id = t.node
                     WHERE t.node = ?1 AND t.local = 0 AND n.state = 5",
                )?
                .query_row([sql(id.0)], |r| {
                    Ok((r.get::<_, i64>(0)?, r.get(1)?, r.get::<_, Vec<u8>>(2)?))
                })
                .optional()?;
            let Some((since, generation, path)) = gone else { return Ok(false) };
            super::settings::set(tx.conn, &key(id), &since.to_string())?;
            tx.conn.prepare_cached("DELETE FROM trash WHERE node = ?1")?.execute([sql(id.0)])?;
            tx.changed.borrow_mut().push(id);
            tx.tell_deleted(id, &path, Generation(generation), false, Timestamp(since))?;
            Ok(true)
        })
    }

    /// Takes the mark of a node away.
    ///
    /// # Errors
    /// `Unusable`.
    pub fn unmark_expired(&self, id: NodeId) -> Result<()> {
        let key = key(id);
        self.shared.write(false, move |tx| {
            tx.conn.prepare_cached("DELETE FROM setting WHERE key = ?1")?.execute([&key])?;
            Ok(())
        })
    }

    /// Nodes with a mark, at most `limit` behind `after`.
    ///
    /// # Errors
    /// `Unusable`.
    pub fn marked_expired(&self, after: NodeId, limit: usize) -> Result<Vec<Marked>> {
        self.read_drained(|conn| {
            let mut statement = conn.prepare_cached(MARKED)?;
            let limit = i64::try_from(limit).unwrap_or(i64::MAX);
            let marks = statement.query_map(params![sql(after.0), limit], |r| {
                Ok(Marked {
                    node: NodeId(r.get::<_, i64>(0)?.cast_unsigned()),
                    since: Timestamp(r.get(1)?),
                    gone: r.get::<_, Option<bool>>(2)?.unwrap_or(false),
                })
            })?;
            marks.collect()
        })
    }

    /// An object of a deleted recording is not in its target any more; its key stays taken.
    ///
    /// # Errors
    /// `Unusable`.
    pub fn object_expired(&self, object: i64) -> Result<()> {
        self.shared.write(false, move |tx| {
            let node: Option<i64> = tx
                .conn
                .prepare_cached(
                    "UPDATE object SET state = 3, verified_at = NULL WHERE id = ?1 RETURNING node",
                )?
                .query_row([object], |r| r.get(0))
                .optional()?;
            super::rewrite::unmark(tx, object)?;
            tx.changed.borrow_mut().extend(node.map(|node| NodeId(node.cast_unsigned())));
            tx.conn
                .prepare_cached("DELETE FROM object_lock WHERE object = ?1")?
                .execute([object])?;
            Ok(())
        })
    }
}
