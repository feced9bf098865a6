//! The lower directory: which recordings are local, and directories for those that are not.

use super::error::{RebuildError, Result};
use super::packed;
use crate::catalog::Attributes;
use crate::catalog::rebuild::scratch;
use crate::limits;
use crate::lower::Lower;
use crate::recording::{Attr, Kind, NodeId};
use rusqlite::{Connection, OptionalExtension, params};
use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// Files with an identity, and their names in the order in which they were met.
const TABLES: &str = "
CREATE TABLE file(id INTEGER PRIMARY KEY, attr BLOB NOT NULL, path BLOB NOT NULL);
CREATE TABLE further(id INTEGER NOT NULL, number INTEGER NOT NULL, path BLOB NOT NULL,
    PRIMARY KEY(id, number)) WITHOUT ROWID;
";

/// Files read in one go.
const BATCH: i64 = limits::REBUILD_BATCH as i64;

/// A local file with an identity, by its names.
#[derive(Debug)]
pub(super) struct LocalFile {
    pub id: NodeId,
    pub attr: Attr,
    pub names: Vec<PathBuf>,
}

/// What is below. The files are kept in a file without a name.
#[derive(Debug)]
pub(super) struct Tree {
    conn: Connection,
    /// By path, parents before what is in them; not the root.
    pub dirs: BTreeMap<PathBuf, (NodeId, Attr)>,
    /// Directories that were made anew.
    pub made: Vec<PathBuf>,
    /// Files looked at.
    pub looked_at: u64,
    /// What could not be looked at.
    pub left_out: Vec<(PathBuf, String)>,
    next_id: u64,
}

impl Tree {
    /// Walks all of it. Directories without an identity are given one, from `first_id` on.
    pub fn read(lower: &Lower, first_id: u64, state_dir: &Path) -> Result<Tree> {
        let mut tree = Tree {
            conn: scratch(state_dir, TABLES, limits::REBUILD_CACHE_BYTES / 2)?,
            dirs: BTreeMap::new(),
            made: Vec::new(),
            looked_at: 0,
            left_out: Vec::new(),
            next_id: first_id,
        };
        let mut nameless = Vec::new();
        let mut stack = vec![PathBuf::new()];
        while let Some(dir) = stack.pop() {
            let names = match lower.names(&dir) {
                Ok(names) => names,
                // Nothing is taken for gone because the disk did not answer.
                Err(e) if dir.as_os_str().is_empty() => return Err(e.into()),
                Err(e) => {
                    tree.left_out.push((dir, e.to_string()));
                    continue;
                }
            };
            for name in names {
                let path = dir.join(OsStr::from_bytes(&name));
                let stat = match lower.stat(&path) {
                    Ok(stat) => stat,
                    Err(e) => {
                        tree.left_out.push((path, e.to_string()));
                        continue;
                    }
                };
                tree.next_id = tree.next_id.max(stat.node.map_or(0, |id| id.0 + 1));
                match (stat.attr.kind, stat.node) {
                    (Kind::Dir, id) => {
                        stack.push(path.clone());
                        match id {
                            Some(id) => drop(tree.dirs.insert(path, (id, stat.attr))),
                            None => nameless.push((path, stat.attr)),
                        }
                    }
                    (Kind::File, Some(id)) => {
                        tree.looked_at += 1;
                        tree.keep(id, &stat.attr, &path)?;
                    }
                    (Kind::File, None) => tree.looked_at += 1,
                    // Links and the like are never archived, and adopted at the next mount.
                    _ => {}
                }
            }
        }
        for (path, attr) in nameless {
            let id = tree.fresh();
            lower.identify(&path, id)?;
            tree.dirs.insert(path, (id, attr));
        }
        Ok(tree)
    }

    fn keep(&mut self, id: NodeId, attr: &Attr, path: &Path) -> Result<()> {
        let (id, path) = (id.0.cast_signed(), path.as_os_str().as_bytes());
        let mut first = self
            .conn
            .prepare_cached("INSERT OR IGNORE INTO file(id, attr, path) VALUES(?1, ?2, ?3)")?;
        if first.execute(params![id, packed::pack_file(attr), path])? == 0 {
            let number = self.looked_at.cast_signed();
            self.conn
                .prepare_cached("INSERT INTO further(id, number, path) VALUES(?1, ?2, ?3)")?
                .execute(params![id, number, path])?;
        }
        Ok(())
    }

    /// Whether a recording is below.
    pub fn has(&self, id: NodeId) -> Result<bool> {
        let mut query = self.conn.prepare_cached("SELECT 1 FROM file WHERE id = ?1")?;
        Ok(query.query_row([id.0.cast_signed()], |_| Ok(())).optional()?.is_some())
    }

    /// The next files with an identity after one, in the order of their identities.
    pub fn files_after(&self, after: NodeId) -> Result<Vec<LocalFile>> {
        let mut files = Vec::new();
        let mut query = self
            .conn
            .prepare_cached("SELECT id, attr, path FROM file WHERE id > ?1 ORDER BY id LIMIT ?2")?;
        let mut further =
            self.conn.prepare_cached("SELECT path FROM further WHERE id = ?1 ORDER BY number")?;
        let mut rows = query.query([after.0.cast_signed(), BATCH])?;
        while let Some(row) = rows.next()? {
            let (number, attr, path): (i64, Vec<u8>, Vec<u8>) =
                (row.get(0)?, row.get(1)?, row.get(2)?);
            let id = NodeId(number.cast_unsigned());
            let attr = packed::unpack_file(&attr).ok_or(RebuildError::Unpacked(id))?;
            let mut names = vec![super::path(&path)];
            for path in further.query_map([number], |row| row.get::<_, Vec<u8>>(0))? {
                names.push(super::path(&path?));
            }
            files.push(LocalFile { id, attr, names });
        }
        Ok(files)
    }

    /// No identity given from now on is one of these.
    pub fn above(&mut self, id: NodeId) {
        self.next_id = self.next_id.max(id.0.saturating_add(1));
    }

    fn fresh(&mut self) -> NodeId {
        let id = NodeId(self.next_id);
        self.next_id += 1;
        id
    }

    /// The directory at a path, if it is one.
    pub fn dir(&self, path: &Path) -> Option<NodeId> {
        match path.as_os_str().is_empty() {
            true => Some(NodeId::ROOT),
            false => self.dirs.get(path).map(|(id, _)| *id),
        }
    }

    /// Makes the directories of a path that are not there; false if something else is in the way.
    /// They get the attributes that were told, else those of the directory they are in.
    pub fn need(
        &mut self,
        lower: &Lower,
        path: &Path,
        told: &BTreeMap<Vec<u8>, Attributes>,
    ) -> Result<bool> {
        let mut missing: Vec<&Path> = path
            .ancestors()
            .take_while(|p| !p.as_os_str().is_empty() && !self.dirs.contains_key(*p))
            .collect();
        if missing.is_empty() {
            return Ok(true);
        }
        if missing.iter().any(|p| lower.stat(p).is_ok()) {
            return Ok(false);
        }
        missing.reverse();
        for dir in missing {
            let above = match dir.parent().and_then(|p| self.dirs.get(p)) {
                Some((_, attr)) => attr.clone(),
                None => lower.stat(Path::new(""))?.attr,
            };
            let attr = match told.get(dir.as_os_str().as_bytes()) {
                Some(a) => Attr { mode: a.mode, uid: a.uid, gid: a.gid, ..above },
                None => above,
            };
            let id = self.fresh();
            lower.restore_dir(dir, id, &attr)?;
            let attr = lower.stat(dir)?.attr;
            self.made.push(dir.to_owned());
            self.dirs.insert(dir.to_owned(), (id, attr));
        }
        Ok(true)
    }
}
