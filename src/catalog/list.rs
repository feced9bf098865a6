//! What `readdir` must add to the lower directory: released nodes.
//!
//! The cursor of a name is the number of its entry, which is that of the effect that made it, and
//! a renamed entry keeps it. So it is known before the commit, and the same after it.

use super::Catalog;
use super::error::Result;
use super::op::Name;
use super::overlay::{Origin, Overlay, Slot};
use super::reads::lay;
use super::row::ListRow;
use super::sql_row::{self, NODE, NODE_COLUMNS, Stored, sql, unsigned};
use crate::recording::{NodeId, State};
use rusqlite::{Connection, OptionalExtension, params};
use std::collections::HashMap;
use std::sync::atomic::Ordering;

/// The mark lies this many changes back: the catalog says `released` a moment before the bytes
/// are gone below, and a reader between the two sees the file in both places.
const MARK_BACK: u64 = 1024;

/// One row of SQLite.
pub(super) struct Row {
    pub(super) cursor: u64,
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
    /// from `cursor` (0: the beginning) on, at most `limit`, in a stable order. An empty answer is
    /// the end; a short one is not.
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
        if limit == 0 {
            return Ok(Vec::new());
        }
        loop {
            let (rows, next) = self.list_page(parent, cursor, mark, limit)?;
            match next {
                // Everything on this page was taken away by operations not yet committed, or
                // some were committed while it was read.
                Some(next) if rows.is_empty() => cursor = next,
                _ => return Ok(rows),
            }
        }
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
        let (names, newest) = {
            let overlay = self.shared.overlay.read();
            (pending_names(&overlay, parent), overlay.newest())
        };
        let page = self.shared.readers.snapshot(|conn, committed| {
            let rows = sql_page(conn, parent, cursor, mark, limit)?;
            let moved = moved_here(conn, parent, &names, committed)?;
            Ok((committed, rows, moved))
        });
        let (committed, rows, moved) = page.map_err(|e| self.unreadable(&e))?;
        let next = rows.last().map(|r| r.cursor).filter(|_| rows.len() >= limit);
        let overlay = self.shared.overlay.read();
        if overlay.dropped() > committed {
            // It no longer has everything that the snapshot has not.
            return Ok((Vec::new(), Some(cursor)));
        }
        // What came after the names were taken must not hide a row whose new name is not listed.
        let overlaid = |row: &Row| {
            let slot = overlay.slot(parent, &row.name).filter(|s| s.seq <= newest);
            slot.or(names.get(&row.name)).is_some_and(|s| s.seq > committed)
        };
        let in_page = |row: &Row| row.cursor > cursor && next.is_none_or(|last| row.cursor <= last);
        let rows = rows.into_iter().filter(|row| !overlaid(row));
        let all = rows.chain(moved.into_iter().filter(in_page));
        let mut listed: Vec<ListRow> =
            all.filter_map(|row| listed(&overlay, committed, mark, row)).collect();
        listed.sort_by_key(|r| r.cursor);
        listed.truncate(limit);
        Ok((listed, next))
    }
}

/// The row as it is after the effects not yet committed; `None` if it need not be listed.
fn listed(overlay: &Overlay, committed: u64, mark: u64, row: Row) -> Option<ListRow> {
    let Row { cursor, name, tier, stored } = row;
    let (id, before) = (stored.node.row.id, stored.node.row.state);
    let row = lay(&overlay.effects(id), committed, id, Some(stored.node))?.row;
    let released = row.state == State::Released;
    let moved = tier > mark || released != (before == State::Released);
    let wanted = row.state != State::Deleted && (released || moved);
    wanted.then_some(ListRow { cursor, name, moved, row })
}

/// Names of the directory that effects not yet committed speak of, without those of new nodes:
/// they are local.
fn pending_names(overlay: &Overlay, parent: NodeId) -> HashMap<Name, Slot> {
    let names = overlay.names(parent).filter(|(_, slot)| !slot.local);
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

/// Takes the mark only so that both queries have the same parameters.
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
         WHERE e.parent = ?1 AND e.released = 2 AND e.tier > ?4 AND e.id > ?2
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
pub(super) fn moved_here(
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
            // Committed in between: then it has its new name,
            Origin::Moved(from, old) => match entry_id(conn, *from, old, id)? {
                None => match entry_id(conn, parent, name, id)? {
                    // or one between the two.
                    None => only_entry(conn, *from, id)?,
                    found => found,
                },
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

/// The entry of a node that has one name in a directory.
fn only_entry(conn: &Connection, parent: NodeId, node: NodeId) -> rusqlite::Result<Option<u64>> {
    let mut statement =
        conn.prepare_cached("SELECT id FROM entry WHERE node = ?1 AND parent = ?2 LIMIT 2")?;
    let ids = statement.query_map([sql(node.0), sql(parent.0)], |r| r.get(0).map(unsigned))?;
    let ids = ids.collect::<rusqlite::Result<Vec<u64>>>()?;
    Ok(ids.first().copied().filter(|_| ids.len() == 1))
}
