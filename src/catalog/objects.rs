//! Objects and their keys.
//!
//! **Invariant:** a key that any object of a target had is never given again, whatever became of
//! the object; the UNIQUE constraint on `object(target, key)` sees to it.

use super::Catalog;
use super::error::Result;
use super::row::{ObjectRow, ObjectState};
use super::sql_row::{self, OBJECT, object_code, sql};
use super::tx::Tx;
use crate::clock::Timestamp;
use crate::recording::{Generation, NodeId, Stored};
use rusqlite::{Connection, OptionalExtension, params};

impl Catalog {
    /// The objects of a node: of one generation, or of all.
    ///
    /// # Errors
    /// `Unusable`.
    pub fn objects(&self, id: NodeId, generation: Option<Generation>) -> Result<Vec<ObjectRow>> {
        self.read_drained(|conn| {
            let all = objects_of(conn, id)?;
            Ok(all.into_iter().filter(|o| generation.is_none_or(|g| g == o.generation)).collect())
        })
    }

    /// The objects of one generation, for who must not wait for the catalog's thread. Nothing in the
    /// log is about objects: what the engine did to them is committed when it goes on.
    ///
    /// # Errors
    /// `Unusable`.
    pub fn objects_at_once(&self, id: NodeId, generation: Generation) -> Result<Vec<ObjectRow>> {
        let all = self.shared.readers.with(|conn| objects_of(conn, id));
        let all = all.map_err(|e| self.unreadable(&e))?;
        Ok(all.into_iter().filter(|o| o.generation == generation).collect())
    }

    /// Takes a key for an object that is going to be the recording as it is: see
    /// [`Catalog::assign_key_for`].
    ///
    /// # Errors
    /// `Unusable`; also if the generation is not known, or every key is taken.
    pub fn assign_key(
        &self,
        id: NodeId,
        generation: Generation,
        target: &str,
        keys: &[String],
    ) -> Result<ObjectRow> {
        self.assign(id, generation, target, keys, None)
    }

    /// Takes a key for an object: the first of `keys` that no object of this target ever had. If
    /// the generation has an `Assigned` or `Verified` object in the target, that is returned,
    /// whatever it is; a new one is going to be `stored`.
    ///
    /// # Errors
    /// `Unusable`; also if the generation is not known, or every key is taken.
    pub fn assign_key_for(
        &self,
        id: NodeId,
        generation: Generation,
        target: &str,
        keys: &[String],
        stored: &Stored,
    ) -> Result<ObjectRow> {
        self.assign(id, generation, target, keys, Some(stored.clone()))
    }

    fn assign(
        &self,
        id: NodeId,
        generation: Generation,
        target: &str,
        keys: &[String],
        stored: Option<Stored>,
    ) -> Result<ObjectRow> {
        let (to, keys) = (target.to_owned(), keys.to_vec());
        let assigned = self
            .shared
            .write(false, move |tx| assign(tx, id, generation, &to, &keys, stored.as_ref()))?;
        assigned.ok_or_else(|| {
            let g = generation.0;
            self.shared.unusable(format!(
                "no key of {target:?} is free for generation {g} of recording {id}"
            ))
        })
    }

    /// The key turned out to be taken in the target: never use it again. One that somebody else has
    /// verified meanwhile stays.
    ///
    /// # Errors
    /// `Unusable`.
    pub fn abandon_key(&self, object: i64) -> Result<()> {
        self.shared.write(false, move |tx| {
            tx.conn
                .prepare_cached("UPDATE object SET state = 3 WHERE id = ?1 AND state <> 2")?
                .execute([object])?;
            Ok(())
        })
    }

    /// The object is in the target, verified.
    ///
    /// # Errors
    /// `Unusable`.
    pub fn verified(&self, object: i64, at: Timestamp) -> Result<()> {
        self.shared.write(false, move |tx| verified(tx, object, at))
    }
}

fn objects_of(conn: &Connection, id: NodeId) -> rusqlite::Result<Vec<ObjectRow>> {
    let text = format!(
        "SELECT {OBJECT} FROM object o LEFT JOIN generation g
            ON g.node = o.node AND g.generation = o.generation
         WHERE o.node = ?1 ORDER BY o.generation, o.target, o.id"
    );
    let mut statement = conn.prepare_cached(&text)?;
    let rows = statement.query_map([sql(id.0)], sql_row::object)?;
    rows.collect()
}

fn one_object(conn: &Connection, object: i64) -> rusqlite::Result<Option<ObjectRow>> {
    let text = format!(
        "SELECT {OBJECT} FROM object o LEFT JOIN generation g
            ON g.node = o.node AND g.generation = o.generation
         WHERE o.id = ?1"
    );
    conn.prepare_cached(&text)?.query_row([object], sql_row::object).optional()
}

fn assign(
    tx: &Tx<'_>,
    id: NodeId,
    generation: Generation,
    target: &str,
    keys: &[String],
    stored: Option<&Stored>,
) -> rusqlite::Result<Option<ObjectRow>> {
    let present = objects_of(tx.conn, id)?.into_iter().find(|o| {
        o.generation == generation && o.target == target && o.state != ObjectState::Abandoned
    });
    if present.is_some() {
        return Ok(present);
    }
    insert(tx, (id, generation, ObjectState::Assigned), target, keys, stored)
}

/// A new object under the first of `keys` that no object of the target ever had; `None`: all were
/// taken, or the generation is not known.
pub(super) fn insert(
    tx: &Tx<'_>,
    (id, generation, state): (NodeId, Generation, ObjectState),
    target: &str,
    keys: &[String],
    stored: Option<&Stored>,
) -> rusqlite::Result<Option<ObjectRow>> {
    let (encoding, size, sha256) = stored.map(sql_row::stored_columns).unwrap_or_default();
    for key in keys {
        let taken = tx
            .conn
            .prepare_cached(
                "INSERT INTO object(node, generation, target, key, state, size, sha256,
                    encoding, stored_size, stored_sha256)
                 SELECT node, generation, ?3, ?4, ?5, size, sha256, ?6, ?7, ?8 FROM generation
                 WHERE node = ?1 AND generation = ?2
                 ON CONFLICT(target, key) DO NOTHING",
            )?
            .execute(params![
                sql(id.0),
                generation.0,
                target,
                key,
                object_code(state),
                encoding,
                size,
                sha256
            ])?;
        if taken > 0 {
            let object = tx.conn.last_insert_rowid();
            tx.conn
                .prepare_cached("UPDATE node SET objects = 1 WHERE id = ?1")?
                .execute([sql(id.0)])?;
            return one_object(tx.conn, object);
        }
    }
    Ok(None)
}

fn verified(tx: &Tx<'_>, object: i64, at: Timestamp) -> rusqlite::Result<()> {
    tx.conn
        .prepare_cached(
            "UPDATE object SET state = 2, verified_at = ifnull(verified_at, ?2)
             WHERE id = ?1 AND state <> 3",
        )?
        .execute([object, at.0])?;
    tell(tx, object, at)
}

/// Tells of a further object of what is archived.
pub(super) fn tell(tx: &Tx<'_>, object: i64, at: Timestamp) -> rusqlite::Result<()> {
    tx.wake.set(true);
    let Some(row) = one_object(tx.conn, object)? else { return Ok(()) };
    // A further target got a generation whose archive was already told.
    if let Some(stored) = tx.node(row.node)? {
        let node = &stored.node;
        let told = stored.told && node.row.generation == row.generation;
        if told && node.row.archived_at.is_some() {
            tx.tell_archived(node, "archived", at)?;
        }
    }
    Ok(())
}
