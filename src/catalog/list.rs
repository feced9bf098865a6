//! What `readdir` must add to the lower directory: released nodes.
//!
//! The cursor of a name is the number of its entry, which is that of the effect that made it, and
//! a renamed entry keeps it. So it is known before the commit, and the same after it.

use super::Catalog;
use super::error::Result;
use super::log::Effect;
use super::op::Name;
use super::overlay::{Origin, Overlay, Slot};
use super::reads::lay;
use super::row::ListRow;
use super::sql_row::{self, NODE, NODE_COLUMNS, Stored, sql, unsigned};
use crate::recording::{NodeId, State};
use rusqlite::{Connection, OptionalExtension, params};
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// The mark lies this many changes back: the catalog says `released` a moment before the bytes
/// are gone below, and a reader between the two sees the file in both places.
const MARK_BACK: u64 = 1024;

/// What the overlay says of one directory, and of the nodes in question.
struct Pending {
    names: HashMap<Name, Slot>,
    effects: HashMap<NodeId, Vec<Arc<Effect>>>,
}

/// One row of SQLite.
struct Row {
    cursor: u64,
    name: Name,
    tier: u64,
    stored: Stored,
}

impl Catalog {
    /// A mark to pass to `list_released`, taken before the lower directory is read.
    pub fn tier_mark(&self) -> u64 {
        self.shared.tier.load(Ordering::SeqCst).saturating_sub(MARK_BACK)
    }

    /// Released nodes in `parent`, and those that moved between local and released after `mark`,
    /// from `cursor` (0: the beginning) on, at most `limit`, in a stable order.
    ///
    /// # Errors
    /// `Unusable`.
    pub fn list_released(
        &self,
        parent: NodeId,
        cursor: u64,
        mark: u64,
        limit: usize,
    ) -> Result<Vec<ListRow>> {
        let mut cursor = cursor;
        while limit > 0 {
            let (rows, next) = self.list_page(parent, cursor, mark, limit)?;
            match next {
                // Everything on this page was taken away by operations not yet committed, or
                // some were committed while it was read.
                Some(next) if rows.is_empty() => cursor = next,
                _ => return Ok(rows),
            }
        }
        Ok(Vec::new())
    }

    /// Whether the directory has released nodes in it (rmdir must say ENOTEMPTY).
    ///
    /// # Errors
    /// `Unusable`.
    pub fn has_released(&self, parent: NodeId) -> Result<bool> {
        let mut cursor = 0;
        loop {
            let rows = self.list_released(parent, cursor, u64::MAX >> 1, 16)?;
            let Some(last) = rows.last() else { return Ok(false) };
            if rows.iter().any(|r| r.row.state == State::Released) {
                return Ok(true);
            }
            cursor = last.cursor;
        }
    }

    /// One page, and where SQLite's next one begins if there may be more.
    fn list_page(
        &self,
        parent: NodeId,
        cursor: u64,
        mark: u64,
        limit: usize,
    ) -> Result<(Vec<ListRow>, Option<u64>)> {
        let names = pending_names(&self.shared.overlay.read(), parent);
        let page = self.shared.readers.snapshot(|conn, committed| {
            let rows = sql_page(conn, parent, cursor, mark, limit)?;
            let full = rows.len() >= limit;
            let next = rows.last().map(|r| r.cursor).filter(|_| full);
            let moved = moved_here(conn, parent, &names, committed)?;
            Ok((committed, rows, moved, next))
        });
        let (committed, rows, moved, next) = page.map_err(|e| self.unreadable(&e))?;
        let Some(pending) = self.pending(names, &rows, &moved, committed) else {
            return Ok((Vec::new(), Some(cursor)));
        };
        let mut listed = Vec::new();
        for row in rows {
            let elsewhere = pending.names.get(&row.name).is_some_and(|s| s.seq > committed);
            if !elsewhere {
                let laid = self
                    .listed(&pending, committed, mark, row.cursor, row.name, row.tier, row.stored);
                listed.extend(laid);
            }
        }
        for row in moved {
            let in_page = row.cursor > cursor && next.is_none_or(|last| row.cursor <= last);
            if in_page {
                let laid = self
                    .listed(&pending, committed, mark, row.cursor, row.name, row.tier, row.stored);
                listed.extend(laid.filter(|r| r.moved || r.row.state == State::Released));
            }
        }
        listed.sort_by_key(|r| r.cursor);
        listed.truncate(limit);
        Ok((listed, next))
    }

    /// Effects on the nodes of a page; `None` if some were dropped since its snapshot.
    fn pending(
        &self,
        names: HashMap<Name, Slot>,
        rows: &[Row],
        moved: &[Row],
        committed: u64,
    ) -> Option<Pending> {
        let overlay = self.shared.overlay.read();
        if overlay.dropped() > committed {
            return None;
        }
        let ids = rows.iter().chain(moved).map(|r| r.stored.node.row.id);
        let effects = ids.map(|id| (id, overlay.effects(id))).collect();
        Some(Pending { names, effects })
    }

    #[allow(clippy::too_many_arguments)]
    fn listed(
        &self,
        pending: &Pending,
        committed: u64,
        mark: u64,
        cursor: u64,
        name: Name,
        tier: u64,
        stored: Stored,
    ) -> Option<ListRow> {
        let id = stored.node.row.id;
        let before = stored.node.row.state;
        let none = Vec::new();
        let effects = pending.effects.get(&id).unwrap_or(&none);
        let row = lay(effects, committed, id, Some(stored.node))?.row;
        if row.state == State::Deleted {
            return None;
        }
        let changed = (row.state == State::Released) != (before == State::Released);
        Some(ListRow { cursor, name, moved: tier > mark || changed, row })
    }
}

/// Names of the directory that effects not yet committed speak of, without those of new nodes:
/// they are local.
fn pending_names(overlay: &Overlay, parent: NodeId) -> HashMap<Name, Slot> {
    let local = |slot: &Slot| slot.node.is_some_and(|id| overlay.is_new(id));
    let names = overlay.names(parent).filter(|(_, slot)| !local(slot));
    names.map(|(name, slot)| (name.clone(), slot.clone())).collect()
}

fn sql_page(
    conn: &Connection,
    parent: NodeId,
    cursor: u64,
    mark: u64,
    limit: usize,
) -> rusqlite::Result<Vec<Row>> {
    let mut rows = Vec::new();
    for text in [&released_sql(), &moved_sql()] {
        let mut statement = conn.prepare_cached(text)?;
        let found = statement.query_map(
            params![sql(parent.0), sql(cursor), limit as u64 as i64, sql(mark)],
            entry,
        )?;
        for row in found {
            rows.push(row?);
        }
    }
    rows.sort_by_key(|r| r.cursor);
    rows.truncate(limit);
    Ok(rows)
}

pub(super) fn released_sql() -> String {
    format!(
        "SELECT {NODE}, e.id, e.name, e.tier FROM entry e INDEXED BY entry_released
         JOIN node n ON n.id = e.node
         WHERE e.parent = ?1 AND e.released = 1 AND e.id > ?2 AND ?4 = ?4
         ORDER BY e.id LIMIT ?3"
    )
}

/// Few: those that came back since a directory was opened.
pub(super) fn moved_sql() -> String {
    format!(
        "SELECT {NODE}, e.id, e.name, e.tier FROM entry e INDEXED BY entry_moved
         JOIN node n ON n.id = e.node
         WHERE e.parent = ?1 AND e.released = 0 AND e.tier > 0 AND e.tier > ?4 AND e.id > ?2
         ORDER BY e.id LIMIT ?3"
    )
}

fn entry(row: &rusqlite::Row<'_>) -> rusqlite::Result<Row> {
    Ok(Row {
        stored: sql_row::node(row)?,
        cursor: unsigned(row.get(NODE_COLUMNS)?),
        name: row.get(NODE_COLUMNS + 1)?,
        tier: unsigned(row.get(NODE_COLUMNS + 2)?),
    })
}

/// Nodes that effects not yet committed gave a name in this directory.
fn moved_here(
    conn: &Connection,
    parent: NodeId,
    names: &HashMap<Name, Slot>,
    committed: u64,
) -> rusqlite::Result<Vec<Row>> {
    let mut rows = Vec::new();
    for (name, slot) in names.iter().filter(|(_, slot)| slot.seq > committed) {
        let Some(id) = slot.node else { continue };
        let Some(stored) = sql_row::load(conn, id)? else { continue };
        let cursor = match &slot.origin {
            Origin::Made(seq) => Some(*seq),
            // Committed in between: then it has its new name.
            Origin::Moved(from, old) => match entry_id(conn, *from, old, id)? {
                None => entry_id(conn, parent, name, id)?,
                found => found,
            },
        };
        let cursor = cursor.unwrap_or(slot.seq);
        rows.push(Row { cursor, name: name.clone(), tier: stored.tier, stored });
    }
    Ok(rows)
}

fn entry_id(
    conn: &Connection,
    parent: NodeId,
    name: &Name,
    node: NodeId,
) -> rusqlite::Result<Option<u64>> {
    conn.prepare_cached("SELECT id FROM entry WHERE parent = ?1 AND name = ?2 AND node = ?3")?
        .query_row(params![sql(parent.0), name, sql(node.0)], |r| r.get(0).map(unsigned))
        .optional()
}
