//! Finding nodes.

use super::inode::{Inode, Mark, Place};
use super::partial::live_attr;
use super::{Entry, Result, Vfs, VfsError};
use crate::catalog::{NodeRow, Op};
use crate::lower::{Dir, LowerStat, Partial};
use crate::recording::{Attr, Kind, NodeId, State};
use rustix::io::Errno;
use std::path::PathBuf;
use std::sync::Arc;

/// A node that was found: below, or released.
#[derive(Debug)]
pub(super) enum Found {
    Local(NodeId, LowerStat),
    /// With the partial recording that it is.
    Released(Box<NodeRow>, Option<Arc<Partial>>),
}

impl Found {
    pub fn id(&self) -> NodeId {
        match self {
            Found::Local(id, _) => *id,
            Found::Released(row, _) => row.id,
        }
    }

    pub fn kind(&self) -> Kind {
        match self {
            Found::Local(_, stat) => stat.attr.kind,
            Found::Released(row, _) => row.attr.kind,
        }
    }

    /// What `stat` shows.
    pub fn attr(&self) -> Attr {
        match self {
            Found::Local(_, stat) => stat.attr.clone(),
            Found::Released(row, partial) => live_attr(partial.as_deref(), released_attr(row)),
        }
    }
}

/// What `stat` shows of a released recording: one block, because `tar -S` takes a file of none
/// for a hole and does not even open it.
pub(super) fn released_attr(row: &NodeRow) -> Attr {
    let blocks = if row.attr.size > 0 { 1 } else { 0 };
    Attr { blocks, nlink: row.attr.nlink.max(1), ..row.attr.clone() }
}

/// An archived recording that is missing below counts as released: its bytes are in the archive.
pub(super) fn is_released(row: &NodeRow) -> bool {
    matches!(row.state, State::Released | State::Archived)
}

impl Vfs {
    /// The node named `name` in a directory.
    ///
    /// # Errors
    /// `NOENT` if there is none; `MustWait` for the name of a join.
    pub fn lookup(&self, parent: NodeId, name: &[u8]) -> Result<Entry> {
        if let Some(found) = self.lookup_virtual(parent, name) {
            return found;
        }
        let parent = self.inode(parent)?;
        let dir = self.dir(&parent)?;
        let mark = self.mark(parent.id);
        let found = self.find(&parent, &dir, name)?;
        Ok(self.enter(&parent, name, found, mark))
    }

    /// The kernel gave back `count` references to a node.
    pub fn forget(&self, id: NodeId, count: u64) {
        if Vfs::is_virtual(id) {
            return self.forget_virtual(id, count);
        }
        self.inodes.forget(id, count);
    }

    /// What `stat` shows of a node; of an open file if the handle is given.
    ///
    /// # Errors
    /// `STALE` if it is gone.
    pub fn getattr(&self, id: NodeId, handle: Option<u64>) -> Result<Attr> {
        if Vfs::is_virtual(id) {
            return self.attr_virtual(id);
        }
        let handle = handle.filter(|_| self.lower.partial(id).is_none());
        if let Some(file) = handle.and_then(|h| self.handles.get(h).ok()).and_then(|h| h.file()) {
            let held = self.inodes.get(id).is_some_and(|i| matches!(*i.place(), Place::Held));
            let attr = crate::lower::stat_file(&*file)?.attr;
            return Ok(if held { self.without_hold(attr) } else { attr });
        }
        self.attr_of(&*self.inode(id)?)
    }

    pub(super) fn attr_of(&self, inode: &Inode) -> Result<Attr> {
        let place = inode.place();
        if let Place::Gone(ghost) = &*place {
            return Ok(live_attr(self.lower.partial(inode.id).as_deref(), ghost.attr()));
        }
        match self.whereabouts(inode, &place)? {
            Whereabouts::Root(dir) => Ok(dir.stat_self()?.attr),
            Whereabouts::Named(parent, dir, name) => {
                let found = self.find(&parent, &dir, &name)?;
                if found.id() != inode.id {
                    return Err(Errno::STALE.into());
                }
                Ok(found.attr())
            }
            Whereabouts::Held(stat) => Ok(self.without_hold(stat.attr)),
        }
    }

    /// The names in the private directory are nobody's business.
    fn without_hold(&self, attr: Attr) -> Attr {
        Attr { nlink: 0, ..attr }
    }

    /// Looks below first, then asks the catalog for a released recording.
    pub(super) fn find(&self, parent: &Inode, dir: &Dir, name: &[u8]) -> Result<Found> {
        let placed = self.lower.placed();
        match self.find_below(parent, dir, name) {
            Err(VfsError::Kernel(Errno::NOENT)) => {}
            found => return found,
        }
        match self.catalog.lookup(parent.id, name) {
            Ok(Some(row)) if is_released(&row) => {
                let partial = self.lower.partial(row.id);
                if partial.is_none() && self.lower.placed() != placed {
                    // It may have become whole between the looks, and the catalog not know yet.
                    match self.find_below(parent, dir, name) {
                        Err(VfsError::Kernel(Errno::NOENT)) => {}
                        found => return found,
                    }
                }
                Ok(Found::Released(Box::new(row), partial))
            }
            // It came back between the two looks.
            Ok(Some(_)) => self.find_below(parent, dir, name),
            Ok(None) => Err(Errno::NOENT.into()),
            // A call must be able to make a file of this name: the catalog is loud elsewhere.
            Err(_unusable) => Err(Errno::NOENT.into()),
        }
    }

    fn find_below(&self, parent: &Inode, dir: &Dir, name: &[u8]) -> Result<Found> {
        let stat = dir.stat(name)?;
        match stat.node {
            Some(id) => Ok(Found::Local(id, stat)),
            None => self.adopt(parent, dir, name),
        }
    }

    /// Gives what was found below, and is not known yet, its identity.
    fn adopt(&self, parent: &Inode, dir: &Dir, name: &[u8]) -> Result<Found> {
        let _names = self.lower.names_change(parent.id, parent.id);
        let _one_at_a_time = self.adopting.lock();
        let stat = dir.stat(name)?;
        if let Some(id) = stat.node {
            return Ok(Found::Local(id, stat));
        }
        let id = self.catalog.alloc();
        if let Err(errno) = dir.identify(name, id) {
            // Immutable, or on a file system mounted read-only since: served, but its inode
            // number lasts only as long as the kernel remembers it.
            tracing::debug!(%errno, "a file below can not be given an identity");
            return Ok(Found::Local(NodeId(stat.version.ino | 1 << 62), stat));
        }
        let stat = dir.stat(name)?;
        let (name, attr, version) = (name.to_vec(), stat.attr.clone(), stat.version);
        let op = Op::Create { id, parent: parent.id, name, attr, version, adopted: true };
        self.catalog.record(op);
        Ok(Found::Local(id, stat))
    }

    /// Counts a reference of the kernel to what was found, and answers it. `mark` is from before
    /// the look.
    pub(super) fn enter(
        &self,
        parent: &Arc<Inode>,
        name: &[u8],
        found: Found,
        mark: Option<Mark>,
    ) -> Entry {
        let place = Place::Named(parent.clone(), name.into());
        let inode = self.inodes.intern(found.id(), found.kind(), place, 1);
        if inode.id != NodeId::ROOT && !inode.is_at(parent.id, name) {
            self.another_name(&inode, parent, name, &found);
        }
        self.saw(&inode, mark, &found);
        Entry { id: inode.id, attr: found.attr() }
    }

    /// A known node was found under another name than the one it is looked for at: a further
    /// name, or it is being renamed. Only what is still true while it can not move is believed.
    fn another_name(&self, inode: &Inode, parent: &Arc<Inode>, name: &[u8], found: &Found) {
        let Ok(dir) = self.dir(parent) else { return };
        let mut place = inode.moving();
        let still = match found {
            Found::Local(..) => dir.stat(name).is_ok_and(|s| s.node.is_none_or(|n| n == inode.id)),
            Found::Released(..) => {
                matches!(self.catalog.lookup(parent.id, name), Ok(Some(r)) if r.id == inode.id)
            }
        };
        if still {
            *place = Place::Named(parent.clone(), name.into());
        }
    }

    /// The node, if the kernel may know it: also from before a restart, so that nobody finds it at
    /// its old place while it moves.
    pub(super) fn known(&self, id: NodeId) -> Option<Arc<Inode>> {
        let before = || if self.resumed_at.is_some() { self.inode(id).ok() } else { None };
        self.inodes.get(id).or_else(before)
    }

    /// The node with this identity. One the kernel knows from before a restart is found again
    /// through the catalog.
    pub(super) fn inode(&self, id: NodeId) -> Result<Arc<Inode>> {
        if let Some(inode) = self.inodes.get(id) {
            return Ok(inode);
        }
        if Vfs::is_virtual(id) {
            return Err(Errno::PERM.into());
        }
        let (parent, name) = self.catalog.name_of(id)?.ok_or(Errno::STALE)?;
        let row = self.catalog.node(id)?.ok_or(Errno::STALE)?;
        let parent = self.inode(parent)?;
        Ok(self.inodes.intern(id, row.attr.kind, Place::Named(parent, name.into()), 0))
    }

    /// A directory below.
    pub(super) fn dir(&self, inode: &Inode) -> Result<Dir> {
        if let Some(dir) = self.inodes.cached_dir(inode.id) {
            return Ok(dir);
        }
        if inode.kind != Kind::Dir {
            return Err(Errno::NOTDIR.into());
        }
        let dir = match &*inode.place() {
            Place::Root => self.lower.root().clone(),
            Place::Named(parent, name) => self.dir(parent)?.subdir(name)?,
            Place::Held | Place::Lost | Place::Gone(_) => return Err(Errno::STALE.into()),
        };
        self.inodes.cache_dir(inode.id, &dir);
        Ok(dir)
    }

    /// Where a node is below. The caller holds its place, so that it stays there.
    pub(super) fn whereabouts(&self, inode: &Inode, place: &Place) -> Result<Whereabouts> {
        let (parent, name) = match place {
            Place::Root => return Ok(Whereabouts::Root(self.lower.root().clone())),
            Place::Held => return Ok(Whereabouts::Held(self.lower.held(inode.id)?)),
            Place::Named(parent, name) => (parent.clone(), name.clone()),
            Place::Gone(_) => return Err(Errno::STALE.into()),
            Place::Lost => {
                let (parent, name) = self.catalog.name_of(inode.id)?.ok_or(Errno::STALE)?;
                (self.inode(parent)?, name.into())
            }
        };
        let dir = self.dir(&parent)?;
        Ok(Whereabouts::Named(parent, dir, name))
    }

    /// The path of a node, for messages.
    pub(super) fn path_of(&self, inode: &Inode) -> PathBuf {
        use std::os::unix::ffi::OsStrExt;
        match &*inode.place() {
            Place::Named(parent, name) => {
                self.path_of(parent).join(std::ffi::OsStr::from_bytes(name))
            }
            Place::Root | Place::Held | Place::Lost | Place::Gone(_) => PathBuf::new(),
        }
    }
}

/// A node's place, ready to be used.
pub(super) enum Whereabouts {
    Root(Dir),
    Named(Arc<Inode>, Dir, Arc<[u8]>),
    Held(LowerStat),
}
