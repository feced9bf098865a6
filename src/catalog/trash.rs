//! The trash: what lost its last name and is kept, with the path that it had
//! (docs/SEMANTICS.md, "Deleting").
//!
//! **Invariant:** a node in the trash has no name, and is either a tombstone with a verified object,
//! or a file in the private directory. Who gives it a name again takes it out in the same
//! transaction.

use super::Catalog;
use super::apply::{self, Node};
use super::engine::all_verified;
use super::error::Result;
use super::op::{Fate, Op};
use super::row::NodeRow;
use super::sql_row::{self, NODE, NODE_COLUMNS, path_buf, sql, unsigned};
use super::tx::{Change, Tx};
use crate::clock::Timestamp;
use crate::recording::{Attr, Kind, LowerVersion, NodeId, ReleasePermit, State, Stem, stem};
use rusqlite::{Connection, OptionalExtension, params};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// A recording in the trash.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TrashRow {
    /// What the catalog knows of it; `attr` is what it shows when it is restored.
    pub row: NodeRow,
    /// The path that it had.
    pub path: PathBuf,
    /// When it was deleted.
    pub at: Timestamp,
    /// Its bytes are in the private directory.
    pub local: bool,
    /// Every required target had it, verified.
    pub archived: bool,
}

/// Where a listing of the trash goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TrashCursor {
    at: i64,
    node: i64,
}

impl TrashRow {
    /// A listing goes on behind this row with it.
    pub fn cursor(&self) -> TrashCursor {
        TrashCursor { at: self.at.0, node: sql(self.row.id.0) }
    }
}

/// Values of `trash.local`.
mod local {
    /// Only objects.
    pub const NO: i64 = 0;
    /// A file in the private directory, to be archived.
    pub const WAITS: i64 = 1;
    /// The same, archived: it may go.
    pub const SPARE: i64 = 2;
}

const ROW: &str = "t.path, t.at, t.local, g.size, g.mtime";

fn row(r: &rusqlite::Row<'_>) -> rusqlite::Result<TrashRow> {
    let mut row = sql_row::node(r)?.node.row;
    let local = r.get::<_, i64>(NODE_COLUMNS + 2)? != local::NO;
    let size: Option<i64> = r.get(NODE_COLUMNS + 3)?;
    // What was written to it after it was archived last is not in the trash.
    if let Some(size) = size.map(unsigned).filter(|_| !local)
        && (row.hashed.is_none() || row.attr.size != size)
    {
        row.attr.size = size;
        row.attr.mtime = sql_row::time(r, NODE_COLUMNS + 4)?;
    }
    row.attr.nlink = 1;
    let (path, at) = (path_buf(r.get(NODE_COLUMNS)?), sql_row::time(r, NODE_COLUMNS + 1)?);
    let archived = matches!(row.state, State::Archived | State::Deleted);
    Ok(TrashRow { row, path, at, local, archived })
}

fn select(rest: &str) -> String {
    format!(
        "SELECT {NODE}, {ROW} FROM trash t JOIN node n ON n.id = t.node
         LEFT JOIN generation g ON g.node = n.id AND g.generation = n.generation {rest}"
    )
}

pub(super) fn below_sql() -> String {
    select(
        "WHERE t.path >= ?1 AND t.path < ?2
           AND (t.path > ?1 OR t.at < ?3 OR t.at = ?3 AND t.node < ?4)
         ORDER BY t.path, t.at DESC, t.node DESC LIMIT ?5",
    )
}

impl Catalog {
    /// What is in the trash, deleted last first, behind a row; at or below `below`, if given.
    ///
    /// # Errors
    /// `Unusable`.
    pub fn trash(
        &self,
        below: Option<&Path>,
        after: Option<TrashCursor>,
        limit: usize,
    ) -> Result<Vec<TrashRow>> {
        let after = after.unwrap_or(TrashCursor { at: i64::MAX, node: i64::MAX });
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        self.read_drained(|conn| match below.filter(|p| !p.as_os_str().is_empty()) {
            None => {
                let text = select(
                    "WHERE (t.at, t.node) < (?1, ?2) ORDER BY t.at DESC, t.node DESC LIMIT ?3",
                );
                let mut statement = conn.prepare_cached(&text)?;
                statement.query_map(params![after.at, after.node, limit], row)?.collect()
            }
            Some(below) => {
                // Sorted before the other tables are looked at.
                let text = select(
                    "WHERE t.node IN (SELECT node FROM trash
                         WHERE (path = ?4 OR path > ?5 AND path < ?6) AND (at, node) < (?1, ?2)
                         ORDER BY at DESC, node DESC LIMIT ?3)
                     ORDER BY t.at DESC, t.node DESC",
                );
                let path = below.as_os_str().as_bytes();
                let (from, to) = ([path, b"/"].concat(), [path, b"0"].concat());
                let params = params![after.at, after.node, limit, path, from, to];
                conn.prepare_cached(&text)?.query_map(params, row)?.collect()
            }
        })
    }

    /// What is in the trash at or below a path, in the order of the paths, of each deleted last
    /// first, behind a row: a page takes as long as it is, however much there is.
    ///
    /// # Errors
    /// `Unusable`.
    pub fn trash_below(
        &self,
        below: &Path,
        after: Option<&TrashRow>,
        limit: usize,
    ) -> Result<Vec<TrashRow>> {
        let path = below.as_os_str().as_bytes();
        let with = |end: &[u8]| [path, end].concat();
        // The path itself, and what is below it: no path has a zero in it, and '0' follows '/'.
        let ranges = [(path.to_vec(), with(b"\0")), (with(b"/"), with(b"0"))];
        self.read_drained(|conn| {
            let mut statement = conn.prepare_cached(&below_sql())?;
            let mut found = Vec::new();
            for (from, to) in &ranges {
                let behind = after.map(|row| (row.path.as_os_str().as_bytes(), row.cursor()));
                let start = (&**from, TrashCursor { at: i64::MAX, node: i64::MAX });
                let (from, cursor) = behind.filter(|(path, _)| *path >= &**from).unwrap_or(start);
                let left = i64::try_from(limit - found.len()).unwrap_or(i64::MAX);
                let params = params![from, to, cursor.at, cursor.node, left];
                for row in statement.query_map(params, row)? {
                    found.push(row?);
                }
            }
            Ok(found)
        })
    }

    /// What is in the trash in the archive alone, and was deleted at or before `until`: deleted first
    /// first, behind a row.
    ///
    /// # Errors
    /// `Unusable`.
    pub fn trash_until(
        &self,
        until: Timestamp,
        after: Option<TrashCursor>,
        limit: usize,
    ) -> Result<Vec<TrashRow>> {
        let after = after.unwrap_or(TrashCursor { at: i64::MIN, node: i64::MIN });
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        self.read_drained(|conn| {
            let text = select(
                "WHERE t.at <= ?1 AND (t.at, t.node) > (?2, ?3) AND t.local = 0
                 ORDER BY t.at, t.node LIMIT ?4",
            );
            let params = params![until.0, after.at, after.node, limit];
            conn.prepare_cached(&text)?.query_map(params, row)?.collect()
        })
    }

    /// What a user deleted everywhere (`delete_mode`), behind a node. Not the very last ones.
    ///
    /// # Errors
    /// `Unusable`.
    pub fn trash_to_erase(&self, after: NodeId, limit: usize) -> Result<Vec<TrashRow>> {
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        let found = self.shared.readers.with(|conn| {
            let text = select("WHERE t.erase = 1 AND t.node > ?1 ORDER BY t.node LIMIT ?2");
            conn.prepare_cached(&text)?.query_map(params![sql(after.0), limit], row)?.collect()
        });
        found.map_err(|e| self.unreadable(&e))
    }

    /// What is in the trash and was in one directory with this stem, at most `limit`.
    ///
    /// # Errors
    /// `Unusable`.
    pub fn trash_group(&self, dir: &Path, wanted: &Stem, limit: usize) -> Result<Vec<TrashRow>> {
        let mut base = dir.as_os_str().as_bytes().to_vec();
        if !base.is_empty() {
            base.push(b'/');
        }
        base.extend(&wanted.0);
        // A role ("-all") or an extension follows a stem: their first bytes come before '/'.
        let to = [&base[..], b"/"].concat();
        let is_of_it = |row: &TrashRow| {
            let name = row.path.file_name().unwrap_or_default().as_bytes();
            row.path.parent() == Some(dir) && stem(name) == *wanted
        };
        self.read_drained(|conn| {
            let text = select("WHERE t.path >= ?1 AND t.path < ?2");
            let mut statement = conn.prepare_cached(&text)?;
            let rows = statement.query_map(params![base, to], row)?;
            rows.filter(|row| row.as_ref().map_or(true, is_of_it)).take(limit).collect()
        })
    }

    /// What is in the trash and had this path.
    ///
    /// # Errors
    /// `Unusable`.
    pub fn trash_at(&self, path: &Path) -> Result<Vec<NodeId>> {
        self.read_drained(|conn| {
            let mut statement = conn.prepare_cached("SELECT node FROM trash WHERE path = ?1")?;
            let of = |row: &rusqlite::Row<'_>| Ok(NodeId(unsigned(row.get(0)?)));
            statement.query_map([path.as_os_str().as_bytes()], of)?.collect()
        })
    }

    /// One recording in the trash.
    ///
    /// # Errors
    /// `Unusable`.
    pub fn trashed(&self, id: NodeId) -> Result<Option<TrashRow>> {
        self.read_drained(|conn| {
            let text = select("WHERE t.node = ?1");
            conn.prepare_cached(&text)?.query_row([sql(id.0)], row).optional()
        })
    }
}

impl Catalog {
    /// Mode, owner and group of a directory that is gone, if anything in the trash was in it.
    ///
    /// # Errors
    /// `Unusable`.
    pub fn lost_dir(&self, path: &Path) -> Result<Option<(u32, u32, u32)>> {
        let found = self.shared.readers.with(|conn| {
            conn.prepare_cached("SELECT mode, uid, gid FROM trash_dir WHERE path = ?1")?
                .query_row([path.as_os_str().as_bytes()], |r| Ok((r.get(0)?, r.get(1)?, r.get(2)?)))
                .optional()
        });
        found.map_err(|e| self.unreadable(&e))
    }
}

impl Catalog {
    /// What is archived and has bytes in the private directory, behind a node.
    ///
    /// # Errors
    /// `Unusable`.
    pub fn trash_spare(&self, after: NodeId, limit: usize) -> Result<Vec<NodeId>> {
        let text = "SELECT node FROM trash INDEXED BY trash_spare WHERE local = 2 AND node > ?1
                    ORDER BY node LIMIT ?2";
        self.trash_nodes(text, after, limit)
    }

    /// What is not archived and has bytes in the private directory, behind a node.
    ///
    /// # Errors
    /// `Unusable`.
    pub fn trash_waiting(&self, after: NodeId, limit: usize) -> Result<Vec<NodeId>> {
        let text = "SELECT node FROM trash INDEXED BY trash_waits WHERE local = 1 AND node > ?1
                    ORDER BY node LIMIT ?2";
        self.trash_nodes(text, after, limit)
    }

    fn trash_nodes(&self, text: &str, after: NodeId, limit: usize) -> Result<Vec<NodeId>> {
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        self.read_drained(|conn| {
            let of = |row: &rusqlite::Row<'_>| Ok(NodeId(unsigned(row.get(0)?)));
            conn.prepare_cached(text)?.query_map(params![sql(after.0), limit], of)?.collect()
        })
    }

    /// Compare-and-set, by permit, of a recording in the trash: its bytes are about to go, what is
    /// left is a tombstone. Committed and synced before it returns. `attr` and `xattrs` are what
    /// the file showed last.
    ///
    /// # Errors
    /// `Unusable`.
    pub fn buried(
        &self,
        permit: &ReleasePermit,
        attr: Attr,
        xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    ) -> Result<bool> {
        let (id, version) = (permit.node(), permit.version());
        let required = permit.required().to_vec();
        self.shared.write(true, move |tx| {
            let Some(old) = tx.node(id)? else { return Ok(false) };
            let row = &old.node.row;
            let current = row.state == State::Archived
                && row.hashed == Some(version)
                && row.suspect.is_none()
                && since(tx.conn, id)?.is_some()
                && all_verified(tx.conn, id, row.generation, &required)?;
            if !current {
                return Ok(false);
            }
            let mut new = old.node.clone();
            new.row.state = State::Deleted;
            new.row.attr = Attr { nlink: 1, ..attr.clone() };
            new.row.xattrs = xattrs.clone();
            tx.save(Some(&old), &new)?;
            tx.conn
                .prepare_cached("UPDATE trash SET local = 0, size = ?2 WHERE node = ?1")?
                .execute([sql(id.0), sql(new.row.attr.size)])?;
            tx.clear_trouble(id)?;
            tx.tell_looks(&old, &new, tx.now)?;
            Ok(true)
        })
    }

    /// The file of a recording in the trash is gone: what is left is a tombstone, if it was
    /// archived.
    ///
    /// # Errors
    /// `Unusable`.
    pub fn trash_lost(&self, id: NodeId) -> Result<()> {
        self.shared.write(false, move |tx| {
            let Some(old) = tx.node(id)? else { return Ok(()) };
            if old.node.row.state == State::Deleted || since(tx.conn, id)?.is_none() {
                return Ok(());
            }
            let kept = has_archive(tx.conn, &old.node)?;
            let mut new = old.node.clone();
            new.row.state = State::Deleted;
            new.row.suspect = None;
            match old.node.objects {
                true => tx.save(Some(&old), &new)?,
                false => tx.forget(id)?,
            }
            let text = match kept {
                true => "UPDATE trash SET local = 0 WHERE node = ?1",
                false => "DELETE FROM trash WHERE node = ?1",
            };
            tx.conn.prepare_cached(text)?.execute([sql(id.0)])?;
            tx.clear_trouble(id)
        })
    }

    /// A file is in the trash that has no name: the node it belongs to is in the trash, and hashed
    /// again unless it is what was hashed. `path` is for one that nothing is known of.
    ///
    /// # Errors
    /// `Unusable`.
    pub fn trash_found(
        &self,
        id: NodeId,
        attr: Attr,
        version: LowerVersion,
        path: &Path,
    ) -> Result<()> {
        let path = path.as_os_str().as_bytes().to_vec();
        self.shared.write(false, move |tx| {
            let known = tx.node(id)?;
            if !sql_row::names_of(tx.conn, id, 1)?.is_empty() {
                return Ok(());
            }
            let attr = Attr { nlink: 1, ..attr.clone() };
            let new = match &known {
                None => Some(apply::created(id, &attr, version, true)),
                Some(old) if old.node.row.state == State::Deleted => {
                    let mut node = old.node.clone();
                    node.row.state = State::Closed;
                    Some(apply::found(Node { row: node.row, ..node }, &attr, version))
                }
                Some(old) if old.node.row.hashed == Some(version) => None,
                Some(old) => Some(apply::found(old.node.clone(), &attr, version)),
            };
            let in_trash = since(tx.conn, id)?;
            if let Some(new) = &new {
                tx.save(known.as_ref(), new)?;
            }
            let Some(node) = new.or_else(|| known.map(|k| k.node)) else { return Ok(()) };
            let was = sql_row::path_of(tx.conn, id)?.filter(|path| !path.is_empty());
            let path = was.unwrap_or_else(|| path.clone());
            tx.conn
                .prepare_cached("UPDATE node SET path = ?2, deleted_at = ?3 WHERE id = ?1")?
                .execute(params![sql(id.0), path, in_trash.unwrap_or(tx.now).0])?;
            put(tx.conn, &node, &path, Fate::Moved, in_trash.unwrap_or(tx.now))
        })
    }
}

/// The path that a recording had whose bytes are in the trash.
pub(super) fn local_path(conn: &Connection, id: NodeId) -> rusqlite::Result<Option<Vec<u8>>> {
    conn.prepare_cached("SELECT path FROM trash WHERE node = ?1 AND local > 0")?
        .query_row([sql(id.0)], |r| r.get(0))
        .optional()
}

/// How many recordings are in the trash, and their bytes.
pub(super) fn counts(conn: &Connection) -> rusqlite::Result<(u64, u64)> {
    conn.prepare_cached("SELECT files, bytes FROM trash_tally WHERE id = 1")?
        .query_row([], |r| Ok((unsigned(r.get(0)?), unsigned(r.get(1)?))))
}

/// When a node was deleted, if it is in the trash.
pub(super) fn since(conn: &Connection, id: NodeId) -> rusqlite::Result<Option<Timestamp>> {
    conn.prepare_cached("SELECT at FROM trash WHERE node = ?1")?
        .query_row([sql(id.0)], |r| sql_row::time(r, 0))
        .optional()
}

/// Puts a node into the trash.
pub(super) fn put(
    conn: &Connection,
    node: &Node,
    path: &[u8],
    fate: Fate,
    at: Timestamp,
) -> rusqlite::Result<()> {
    let kept = match node.row.state {
        State::Deleted => local::NO,
        State::Archived => local::SPARE,
        _ => local::WAITS,
    };
    conn.prepare_cached(
        "INSERT INTO trash(node, at, path, size, local, erase) VALUES(?1, ?2, ?3, ?4, ?5, ?6)
         ON CONFLICT(node) DO UPDATE SET at = ?2, path = ?3, size = ?4, local = ?5, erase = max(erase, ?6)",
    )?
    .execute(params![
        sql(node.row.id.0),
        at.0,
        path,
        sql(node.row.attr.size),
        kept,
        fate == Fate::Erased
    ])?;
    Ok(())
}

impl Tx<'_> {
    /// What an operation puts into the trash, and takes out of it.
    pub(super) fn trash_effect(
        &self,
        op: &Op,
        changes: &[Change],
        at: Timestamp,
    ) -> rusqlite::Result<()> {
        if let Op::Unlink { id, .. } | Op::Rename { replaced: Some((id, _)), .. } = op
            && let Some(gone) = changes.iter().find(|change| change.id == *id)
        {
            self.lost_dir(gone)?;
        }
        match op {
            Op::Restore { id, .. } | Op::Link { id, .. } | Op::Create { id, .. } => {
                self.out_of_trash(*id)
            }
            Op::Unlink { id, last: true, fate, .. }
            | Op::Rename { replaced: Some((id, true)), fate, .. }
                if *fate != Fate::Kept =>
            {
                let change = changes.iter().find(|change| change.id == *id);
                change.map_or(Ok(()), |change| self.throw_away(*fate, change, at))
            }
            _ => Ok(()),
        }
    }

    fn throw_away(&self, fate: Fate, change: &Change, at: Timestamp) -> rusqlite::Result<()> {
        let (Some(old), Some(new)) = (&change.old, &change.new) else { return Ok(()) };
        let path = change.path.as_deref().unwrap_or_default();
        let was_there = old.node.row.state != State::Deleted;
        let stays = match new.row.state {
            State::Deleted => was_there && has_archive(self.conn, &old.node)?,
            _ => fate == Fate::Moved,
        };
        if !stays {
            return Ok(());
        }
        self.conn
            .prepare_cached("UPDATE node SET path = ?2, deleted_at = ?3 WHERE id = ?1")?
            .execute(params![sql(change.id.0), path, at.0])?;
        put(self.conn, new, path, fate, at)
    }

    /// A directory is gone: what it showed is remembered if something in the trash was in it.
    fn lost_dir(&self, change: &Change) -> rusqlite::Result<()> {
        let (Some(old), Some(path)) = (&change.old, &change.path) else { return Ok(()) };
        let attr = &old.node.row.attr;
        if attr.kind != Kind::Dir || change.new.is_some() {
            return Ok(());
        }
        let (from, to) = ([path, &b"/"[..]].concat(), [path, &b"0"[..]].concat());
        self.conn
            .prepare_cached(
                "INSERT OR REPLACE INTO trash_dir(path, mode, uid, gid)
                 SELECT ?1, ?2, ?3, ?4 WHERE EXISTS(
                    SELECT 1 FROM trash WHERE path > ?5 AND path < ?6)",
            )?
            .execute(params![path, attr.mode, attr.uid, attr.gid, from, to])?;
        Ok(())
    }

    /// It has a name again.
    fn out_of_trash(&self, id: NodeId) -> rusqlite::Result<()> {
        let was =
            self.conn.prepare_cached("DELETE FROM trash WHERE node = ?1")?.execute([sql(id.0)])?;
        if was > 0 {
            self.conn
                .prepare_cached("UPDATE node SET path = NULL, deleted_at = NULL WHERE id = ?1")?
                .execute([sql(id.0)])?;
        }
        Ok(())
    }
}

/// Whether a target holds the generation that counts.
fn has_archive(conn: &Connection, node: &Node) -> rusqlite::Result<bool> {
    let (row, attr) = (&node.row, &node.row.attr);
    if row.archived_at.is_none() || attr.kind != Kind::File {
        return Ok(false);
    }
    conn.prepare_cached(
        "SELECT 1 FROM object WHERE node = ?1 AND generation = ?2 AND state = 2 LIMIT 1",
    )?
    .exists(params![sql(row.id.0), row.generation.0])
}
