//! Names in the order in which they were made, for those who follow them: never the call path.

use super::sql_row::{
    DEPTH_MAX, NODE, NODE_COLUMNS, Paths, names_of, node, path_buf, sql, unsigned,
};
use super::{Catalog, CatalogError, NodeRow, Result, schema};
use crate::recording::{NodeId, State};
use rusqlite::{Connection, OptionalExtension, params};
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::rc::Rc;

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

/// How often many nodes are read again because of a commit meanwhile; then one by one.
const ATTEMPTS: usize = 3;

/// A node at its first name, with the directories that the path goes through.
type AtPath = (NodeRow, PathBuf, Rc<Vec<NodeId>>);

impl Catalog {
    /// Nodes, each with the path of its first name relative to the mount, all of one moment and read
    /// at once; `None`: it is gone or has no name.
    ///
    /// # Errors
    /// `Unusable`.
    pub fn nodes_at(&self, ids: &[NodeId]) -> Result<Vec<Option<(NodeRow, PathBuf)>>> {
        for _ in 0..ATTEMPTS {
            let read = self.shared.readers.snapshot(|conn, committed| {
                let mut above = Above::default();
                let rows = ids.iter().map(|id| at_path(conn, &mut above, *id));
                Ok((committed, rows.collect::<rusqlite::Result<Vec<_>>>()?))
            });
            // What is not committed is answered by the overlay, one by one.
            let Ok((committed, rows)) = read else { break };
            let open: Vec<bool> = {
                let overlay = self.shared.overlay.read();
                if overlay.dropped() > committed {
                    continue;
                }
                let newer = |id: &NodeId| overlay.is_newer(*id, committed);
                let above = |row: &Option<AtPath>| row.iter().any(|row| row.2.iter().any(newer));
                ids.iter().zip(&rows).map(|(id, row)| newer(id) || above(row)).collect()
            };
            let settled = rows.into_iter().zip(ids).zip(open).map(|((row, id), open)| {
                if open { self.node_at(*id) } else { Ok(row.map(|(row, path, _)| (row, path))) }
            });
            return settled.collect();
        }
        ids.iter().map(|id| self.node_at(*id)).collect()
    }

    /// One of them, with what is not committed.
    fn node_at(&self, id: NodeId) -> Result<Option<(NodeRow, PathBuf)>> {
        let Some(row) = self.node(id)? else { return Ok(None) };
        let mut names: Vec<Vec<u8>> = Vec::new();
        let mut at = id;
        while at != NodeId::ROOT {
            match self.name_of(at)? {
                Some((parent, name)) if names.len() < DEPTH_MAX => {
                    names.push(name);
                    at = parent;
                }
                _ => return Ok(None),
            }
        }
        names.reverse();
        Ok(Some((row, path_buf(names.join(&b'/')))))
    }
}

/// The path of a directory, with its identity and those above it.
type DirPath = (Vec<u8>, Rc<Vec<NodeId>>);

/// Directories whose paths were looked for.
#[derive(Default)]
struct Above(HashMap<NodeId, Option<DirPath>>);

impl Above {
    fn dir(&mut self, conn: &Connection, id: NodeId) -> rusqlite::Result<Option<DirPath>> {
        if let Some(known) = self.0.get(&id) {
            return Ok(known.clone());
        }
        let (mut names, mut ids, mut at) = (Vec::new(), Vec::new(), id);
        let mut whole = true;
        while at != NodeId::ROOT {
            ids.push(at);
            match names_of(conn, at, 1)?.pop() {
                Some((parent, name)) if names.len() < DEPTH_MAX => {
                    names.push(name);
                    at = parent;
                }
                _ => {
                    whole = false;
                    break;
                }
            }
        }
        names.reverse();
        let found = whole.then(|| (names.join(&b'/'), Rc::new(ids)));
        self.0.insert(id, found.clone());
        Ok(found)
    }
}

fn at_path(conn: &Connection, above: &mut Above, id: NodeId) -> rusqlite::Result<Option<AtPath>> {
    let text = format!(
        "SELECT {NODE}, e.parent, e.name FROM node n JOIN entry e ON e.node = n.id
         WHERE n.id = ?1 ORDER BY e.id LIMIT 1"
    );
    let mut statement = conn.prepare_cached(&text)?;
    let found = statement.query_row([sql(id.0)], |row| {
        let parent = NodeId(unsigned(row.get(NODE_COLUMNS)?));
        Ok((node(row)?.node.row, parent, row.get::<_, Vec<u8>>(NODE_COLUMNS + 1)?))
    });
    let Some((row, parent, name)) = found.optional()? else { return Ok(None) };
    let Some((mut path, ids)) = above.dir(conn, parent)? else { return Ok(None) };
    if !path.is_empty() {
        path.push(b'/');
    }
    path.extend_from_slice(&name);
    Ok(Some((row, path_buf(path), ids)))
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
        self.said(standing(&self.conn.lock(), id))
    }

    /// As [`Catalog::names_after`].
    ///
    /// # Errors
    /// `Unusable`.
    pub fn names_after(&self, cursor: u64, limit: usize) -> Result<NamesPage> {
        self.said(names_after(&self.conn.lock(), cursor, limit))
    }

    fn said<T>(&self, answer: rusqlite::Result<T>) -> Result<T> {
        answer.map_err(|error| CatalogError::Unusable {
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
