//! Names in the order in which they were made, for those who follow them: never the call path.

use super::sql_row::{NODE, NODE_COLUMNS, Paths, names_of, node, path_buf, sql, unsigned};
use super::{Catalog, CatalogError, NodeRow, Result, schema};
use crate::recording::{NodeId, State};
use rusqlite::{Connection, OptionalExtension, params};
use std::path::{Path, PathBuf};

/// A file and its first name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NamedRow {
    /// The file.
    pub row: NodeRow,
    /// Its path relative to the mount.
    pub path: PathBuf,
}

/// Some names, and where to go on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NamesPage {
    /// Files whose first name is among them.
    pub rows: Vec<NamedRow>,
    /// The last name looked at: to be passed to the next question.
    pub cursor: u64,
    /// There are more names.
    pub more: bool,
}

impl Catalog {
    /// Files in the order in which their names were made, after a cursor (0: from the first). A
    /// rename keeps a name's place. What is not committed yet comes later.
    ///
    /// # Errors
    /// `Unusable`.
    pub fn names_after(&self, cursor: u64, limit: usize) -> Result<NamesPage> {
        let page = self.shared.readers.snapshot(|conn, _| names_after(conn, cursor, limit));
        page.map_err(|e| self.unreadable(&e))
    }

    /// Where a node stands and its first name, as far as committed; `None`: it has no name.
    ///
    /// # Errors
    /// `Unusable`.
    pub fn standing(&self, id: NodeId) -> Result<Option<(State, PathBuf)>> {
        self.shared.readers.with(|conn| standing(conn, id)).map_err(|e| self.unreadable(&e))
    }
}

/// The database of a daemon that does not run, to be read only. What its log still held is missing.
#[derive(Debug)]
pub struct Glimpse {
    path: PathBuf,
    conn: parking_lot::Mutex<Connection>,
}

impl Glimpse {
    /// Opens it.
    ///
    /// # Errors
    /// `Unusable`.
    pub fn open(state_dir: &Path) -> Result<Glimpse> {
        let path = state_dir.join("catalog.db");
        match schema::open_reader(&path) {
            Ok(conn) => Ok(Glimpse { path, conn: conn.into() }),
            Err(error) => Err(CatalogError::Unusable { path, reason: error.to_string() }),
        }
    }

    /// As [`Catalog::standing`].
    ///
    /// # Errors
    /// `Unusable`.
    pub fn standing(&self, id: NodeId) -> Result<Option<(State, PathBuf)>> {
        standing(&self.conn.lock(), id).map_err(|error| CatalogError::Unusable {
            path: self.path.clone(),
            reason: error.to_string(),
        })
    }
}

fn standing(conn: &Connection, id: NodeId) -> rusqlite::Result<Option<(State, PathBuf)>> {
    let Some((parent, name)) = names_of(conn, id, 1)?.pop() else { return Ok(None) };
    let state: Option<i64> = conn
        .prepare_cached("SELECT state FROM node WHERE id = ?1")?
        .query_row([sql(id.0)], |r| r.get(0))
        .optional()?;
    let path = path_buf(Paths::default().file(conn, parent, &name)?);
    Ok(state.and_then(State::from_code).map(|state| (state, path)))
}

fn names_after(conn: &Connection, cursor: u64, limit: usize) -> rusqlite::Result<NamesPage> {
    let text = format!(
        "SELECT {NODE}, e.id, e.parent, e.name, n.nlink > 1 AND EXISTS(
            SELECT 1 FROM entry o WHERE o.node = e.node AND o.id < e.id)
         FROM entry e JOIN node n ON n.id = e.node WHERE e.id > ?1 ORDER BY e.id LIMIT ?2"
    );
    let mut statement = conn.prepare_cached(&text)?;
    let mut rows = statement.query(params![sql(cursor), limit as u64 as i64])?;
    let (mut page, mut paths, mut count) =
        (NamesPage { cursor, ..NamesPage::default() }, Paths::default(), 0);
    while let Some(row) = rows.next()? {
        count += 1;
        page.cursor = unsigned(row.get(NODE_COLUMNS)?);
        let stored = node(row)?;
        let further: bool = row.get(NODE_COLUMNS + 3)?;
        if further || stored.node.row.attr.kind != crate::recording::Kind::File {
            continue;
        }
        let parent = NodeId(unsigned(row.get(NODE_COLUMNS + 1)?));
        let name: Vec<u8> = row.get(NODE_COLUMNS + 2)?;
        let path = path_buf(paths.file(conn, parent, &name)?);
        page.rows.push(NamedRow { row: stored.node.row, path });
    }
    page.more = count == limit;
    Ok(page)
}
