//! Names of which the catalog and the lower directory say that different things have them.

use super::Walk;
use crate::catalog::{Fate, NodeRow, Op, beside};
use crate::clock::Timestamp;
use crate::engine::error::{EngineError, Result};
use crate::engine::shared::DEPTH_MAX;
use crate::lower::{LowerError, LowerStat, trash_path};
use crate::recording::{Kind, NodeId, State};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// Files that are moved on for the sake of one.
pub(super) const SHIFTED_MAX: u32 = 32;
/// In a directory.
type Name = (NodeId, Vec<u8>);

/// Whether a released recording or a directory that is nowhere below got its name after what is there
/// last changed, as far as the clock tells.
pub(super) fn came_later(row: &NodeRow, stat: &LowerStat) -> bool {
    let only_in_catalog = row.state == State::Released || row.attr.kind == Kind::Dir;
    only_in_catalog && stat.version.ctime <= row.attr.ctime
}

/// False if what is to be done is kept from it by something that is there.
fn unless_in_the_way(done: Result<bool>) -> Result<bool> {
    use std::io::ErrorKind::{AlreadyExists, InvalidInput, NotADirectory};
    match done {
        Err(EngineError::Lower(LowerError::Changed { .. })) => Ok(false),
        Err(EngineError::Lower(LowerError::Io { source, .. }))
            if matches!(source.kind(), AlreadyExists | InvalidInput | NotADirectory) =>
        {
            Ok(false)
        }
        done => done,
    }
}

impl Walk<'_> {
    /// Whether the catalog has a directory within another, or they are one.
    pub(super) fn is_inside(&self, dir: NodeId, of: NodeId) -> Result<bool> {
        let mut at = dir;
        for _ in 0..DEPTH_MAX {
            match self.shared.catalog.name_of(at)? {
                _ if at == of => return Ok(true),
                Some((parent, _)) => at = parent,
                None => return Ok(false),
            }
        }
        Ok(true)
    }

    /// Moves what is below to where the catalog has it, and what is there before, if that moved on or
    /// was removed, too; at most so many. Tells whether it was done. The caller keeps names from moving.
    pub(super) fn as_told(
        &mut self,
        path: &Path,
        id: NodeId,
        place: Option<Name>,
        depth: u32,
    ) -> Result<bool> {
        let shared = self.shared;
        let Some((parent, name)) = place else {
            if shared.lower.stat(path)?.attr.kind != Kind::File {
                return Ok(false);
            }
            let stat = self.to_trash(path, id)?;
            self.trashed.push((id, stat, path.to_owned()));
            return Ok(true);
        };
        if !unless_in_the_way(self.make_dir(parent))? {
            return Ok(false);
        }
        let Some(dir) = shared.path_of(parent)? else { return Ok(false) };
        let to = dir.join(OsStr::from_bytes(&name));
        let there = shared.lower.stat(&to).ok().and_then(|stat| stat.node);
        if let Some(other) = there.filter(|other| *other != id) {
            let next = shared.catalog.name_of(other)?;
            if depth == 0
                || next.as_ref() == Some(&(parent, name))
                || !self.as_told(&to, other, next, depth - 1)?
            {
                return Ok(false);
            }
        }
        if !unless_in_the_way(shared.lower.rename(path, &to).map(|()| true).map_err(Into::into))? {
            return Ok(false);
        }
        tracing::warn!(from = %path.display(), to = %to.display(), "a name was changed shortly before \
            the power went, and the catalog has another there; it was changed once more");
        if shared.lower.stat(&to)?.attr.kind == Kind::Dir {
            // What is contested in it was so under its old path.
            self.contested.insert(to);
        }
        Ok(true)
    }

    /// Makes a directory, and those above it, that the catalog has and the disk had not yet; not if it
    /// is elsewhere.
    fn make_dir(&self, id: NodeId) -> Result<bool> {
        let Some((above, _)) = self.shared.catalog.name_of(id)? else { return Ok(true) };
        let Some(path) = self.shared.path_of(id)? else { return Ok(false) };
        if self.unsettled.contains(&id) || !self.make_dir(above)? {
            return Ok(false);
        }
        if let Some(row) = self.shared.catalog.node(id)? {
            self.shared.lower.restore_dir(&path, id, &row.attr)?;
        }
        Ok(true)
    }

    /// Takes a name from what the catalog has there, and what is nowhere below, for what is.
    pub(super) fn make_way(
        &mut self,
        parent: NodeId,
        name: &[u8],
        path: &Path,
        row: &NodeRow,
        at: Timestamp,
    ) {
        // What was found elsewhere gets its name there.
        if row.attr.kind != Kind::Dir && !self.unsettled.contains(&row.id) {
            return self.unlink(parent, name.to_vec(), row, at);
        }
        // If released recordings are in it, it is made again; else it is forgotten.
        let aside = beside(name, row.id);
        if row.attr.kind == Kind::Dir {
            tracing::warn!(path = %path.display(), aside = %String::from_utf8_lossy(&aside),
                "something else has the name of a directory; what is still in it is there");
        }
        self.record(Op::Rename {
            fate: Fate::Kept,
            id: row.id,
            parent,
            name: name.to_vec(),
            new_parent: parent,
            new_name: aside,
            replaced: None,
            at,
        });
    }

    fn unlink(&mut self, parent: NodeId, name: Vec<u8>, row: &NodeRow, at: Timestamp) {
        let last = row.attr.nlink <= 1;
        if last && matches!(row.state, State::Released | State::Archived) {
            tracing::warn!(name = %String::from_utf8_lossy(&name), id = %row.id, "another file has the \
                name of an archived recording, which is put into the trash");
        }
        // What is archived can be brought back.
        let fate = Fate::Trash;
        self.record(Op::Unlink { fate, parent, name, id: row.id, last, at });
    }

    pub(super) fn is_in_trash(&self, id: NodeId) -> bool {
        self.shared.lower.stat(&trash_path(id)).is_ok_and(|stat| stat.node == Some(id))
    }

    /// The caller keeps names from moving.
    pub(super) fn to_trash(&self, path: &Path, id: NodeId) -> Result<LowerStat> {
        // What somebody has open already is left out until it is closed.
        drop(self.shared.lower.quiet(path)?);
        tracing::warn!(path = %path.display(), "a file was removed or replaced shortly \
            before the power went, and is still there; it is put into the trash");
        Ok(self.shared.lower.path_to_trash(path, id)?)
    }
}
