//! Reads for the file system: the overlay over SQLite.
//!
//! **Invariant:** what the overlay holds is taken before SQLite is read, and laid only over a
//! snapshot whose own position is known; so an effect counts once, and none is missed.

use super::Catalog;
use super::apply::{self, Node};
use super::error::{CatalogError, Fault, Result, fault};
use super::log::Effect;
use super::row::NodeRow;
use super::sql_row::{self, NODE, Stored, sql};
use crate::recording::{NodeId, State};
use rusqlite::{Connection, OptionalExtension, params};
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// Lays effects newer than the snapshot over a node.
pub(super) fn lay(
    effects: &[Arc<Effect>],
    committed: u64,
    id: NodeId,
    node: Option<Node>,
) -> Option<Node> {
    let newer = effects.iter().filter(|e| e.seq > committed);
    newer.fold(node, |node, effect| apply::apply(&effect.op, id, node))
}

impl Catalog {
    /// Says why SQLite could not answer, and lets the thread look if the file seems damaged.
    pub(super) fn unreadable(&self, error: &rusqlite::Error) -> CatalogError {
        if matches!(fault(error), Fault::Garbage | Fault::Io) {
            self.shared.suspect.store(true, Ordering::SeqCst);
            self.shared.ring();
        }
        self.shared.unusable(error.to_string())
    }

    /// Reads SQLite after everything logged before is in it: for the engine, which may wait.
    pub(super) fn read_drained<T>(
        &self,
        read: impl FnOnce(&Connection) -> rusqlite::Result<T>,
    ) -> Result<T> {
        self.shared.drain()?;
        self.shared.readers.with(read).map_err(|e| self.unreadable(&e))
    }

    /// The node named `name` in `parent`. Tombstones are not found.
    ///
    /// # Errors
    /// `Unusable`.
    pub fn lookup(&self, parent: NodeId, name: &[u8]) -> Result<Option<NodeRow>> {
        let (slot, dropped) = {
            let overlay = self.shared.overlay.read();
            (overlay.slot(parent, name).map(|s| s.node), overlay.dropped())
        };
        let id = match slot {
            Some(None) => return Ok(None),
            Some(Some(id)) => id,
            None => {
                let found = self.shared.readers.with(|conn| by_name(conn, parent, name));
                let Some(stored) = found.map_err(|e| self.unreadable(&e))? else {
                    return Ok(None);
                };
                let row = stored.node.row;
                let overlay = self.shared.overlay.read();
                if overlay.dropped() == dropped && overlay.effects(row.id).is_empty() {
                    return Ok(Some(row));
                }
                row.id
            }
        };
        Ok(self.node(id)?.filter(|row| row.state != State::Deleted))
    }

    /// The node with this identity, also a tombstone.
    ///
    /// # Errors
    /// `Unusable`.
    pub fn node(&self, id: NodeId) -> Result<Option<NodeRow>> {
        let effects = self.shared.overlay.read().effects(id);
        let readers = &self.shared.readers;
        let read = if effects.is_empty() {
            readers.with(|conn| Ok((0, sql_row::load(conn, id)?)))
        } else {
            readers.snapshot(|conn, committed| Ok((committed, sql_row::load(conn, id)?)))
        };
        let (committed, stored) = match read {
            Ok(read) => read,
            // A node just made needs nothing from SQLite.
            Err(_) if starts_with_create(&effects) => (0, None),
            Err(error) => return Err(self.unreadable(&error)),
        };
        Ok(lay(&effects, committed, id, stored.map(|s| s.node)).map(|n| n.row))
    }

    /// A name of the node: directory and name there. With several, the first made.
    ///
    /// # Errors
    /// `Unusable`.
    pub fn name_of(&self, id: NodeId) -> Result<Option<(NodeId, Vec<u8>)>> {
        let effects = self.shared.overlay.read().effects(id);
        let readers = &self.shared.readers;
        if effects.is_empty() {
            let first = readers.with(|conn| sql_row::names_of(conn, id, 1));
            return first.map(|mut names| names.pop()).map_err(|e| self.unreadable(&e));
        }
        let read = readers.snapshot(|conn, c| Ok((c, sql_row::names_of(conn, id, -1)?)));
        let (committed, mut names) = match read {
            Ok(read) => read,
            Err(_) if starts_with_create(&effects) => (0, Vec::new()),
            Err(error) => return Err(self.unreadable(&error)),
        };
        for effect in effects.iter().filter(|e| e.seq > committed) {
            apply::apply_names(&effect.op, id, &mut names);
        }
        Ok(names.into_iter().next())
    }
}

fn starts_with_create(effects: &[Arc<Effect>]) -> bool {
    effects.first().is_some_and(|e| matches!(e.op, super::Op::Create { .. }))
}

fn by_name(conn: &Connection, parent: NodeId, name: &[u8]) -> rusqlite::Result<Option<Stored>> {
    let text = format!(
        "SELECT {NODE} FROM entry e JOIN node n ON n.id = e.node
         WHERE e.parent = ?1 AND e.name = ?2"
    );
    conn.prepare_cached(&text)?.query_row(params![sql(parent.0), name], sql_row::node).optional()
}
