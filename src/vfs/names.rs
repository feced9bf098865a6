//! Making and removing names.

use super::ghost::Ghost;
use super::inode::{Inode, Place};
use super::lookup::Found;
use super::{Caller, Entry, Patience, Result, Vfs, VfsError, Waits};
use crate::catalog::{CatalogError, Fate, Intent, Op};
use crate::faults;
use crate::limits::LARGE_UNLINK_BYTES;
use crate::lower::{Dir, LowerStat};
use crate::recording::{Attr, Kind, LowerVersion, NodeId};
use rustix::io::Errno;
use std::sync::Arc;

impl Vfs {
    /// Makes a directory.
    ///
    /// # Errors
    /// `EXIST` for everything that is there, also the mount's own root.
    pub fn mkdir(&self, caller: Caller, parent: NodeId, name: &[u8], mode: u32) -> Result<Entry> {
        self.make(caller, parent, name, (Kind::Dir, mode), &|dir, mode| dir.mkdir(name, mode))
    }

    /// Makes a FIFO, socket, device or empty regular file.
    ///
    /// # Errors
    /// As `mknod`.
    pub fn mknod(
        &self,
        caller: Caller,
        parent: NodeId,
        name: &[u8],
        mode: u32,
        rdev: u32,
    ) -> Result<Entry> {
        let file = rustix::fs::FileType::from_raw_mode(mode) == rustix::fs::FileType::RegularFile;
        let kind = if file { Kind::File } else { Kind::Other };
        self.make(caller, parent, name, (kind, mode), &|dir, masked| {
            dir.mknod(name, mode, masked, rdev)
        })
    }

    /// Makes a symbolic link.
    ///
    /// # Errors
    /// As `symlink`.
    pub fn symlink(
        &self,
        caller: Caller,
        parent: NodeId,
        name: &[u8],
        target: &[u8],
    ) -> Result<Entry> {
        self.make(caller, parent, name, (Kind::Symlink, 0o777), &|dir, _| dir.symlink(target, name))
    }

    fn make(
        &self,
        caller: Caller,
        parent: NodeId,
        name: &[u8],
        (kind, mode): (Kind, u32),
        make: &dyn Fn(&Dir, u32) -> rustix::io::Result<()>,
    ) -> Result<Entry> {
        if let Some(made) = self.made_before(caller) {
            return self.entered(made);
        }
        let parent = self.inode(parent)?;
        let dir = self.dir(&parent)?;
        let _names = self.lower.names_change(parent.id, parent.id);
        self.must_not_be_released(&parent, name)?;
        let mode = self.masked(&dir, mode, caller);
        let id = self.catalog.alloc();
        let mut intent = self.intend_new(caller, &dir, (id, parent.id, name), (kind, mode));
        faults::point("make.after_intent");
        let made = make(&dir, mode).and_then(|()| self.dress(&dir, name, id, mode, caller));
        let stat = self.refused(made, &mut intent)?;
        faults::point("make.after_make");
        self.record_new(intent, id, parent.id, name, &stat);
        if stat.attr.kind == Kind::File {
            self.record_closed(id, &stat);
        }
        Ok(self.enter(&parent, name, Found::Local(id, stat), None))
    }

    /// Owner, identity and mode of what was just made.
    fn dress(
        &self,
        dir: &Dir,
        name: &[u8],
        id: NodeId,
        mode: u32,
        caller: Caller,
    ) -> rustix::io::Result<LowerStat> {
        let gid = self.new_gid(dir, caller)?;
        if caller.uid != 0 || gid.is_some() {
            dir.chown(name, Some(caller.uid), gid)?;
        }
        dir.identify(name, id)?;
        let stat = dir.stat(name)?;
        if mode & 0o6000 != 0 && matches!(stat.attr.kind, Kind::File | Kind::Other) {
            dir.chmod(name, mode)?;
        }
        Ok(stat)
    }

    /// Logs that a node is about to be made. Without room in the log it is made all the same.
    pub(super) fn intend_new(
        &self,
        caller: Caller,
        dir: &Dir,
        (id, parent, name): (NodeId, NodeId, &[u8]),
        (kind, mode): (Kind, u32),
    ) -> Option<Intent<'_>> {
        let now = self.clock.now();
        let setgid = dir.stat_self().map(|s| s.attr).ok().filter(|a| a.mode & 0o2000 != 0);
        let attr = Attr {
            kind,
            mode: mode & 0o7777,
            uid: caller.uid,
            gid: setgid.map_or(caller.gid, |a| a.gid),
            size: 0,
            mtime: now,
            atime: now,
            ctime: now,
            nlink: 1,
            rdev: 0,
            blocks: 0,
            special: 0,
        };
        let version = LowerVersion { ino: 0, size: 0, mtime: now, ctime: now };
        let name = name.to_vec();
        let op = Op::Create { id, parent, name, attr, version, adopted: false };
        self.catalog.intend(caller.unique, op).ok()
    }

    /// What the lower directory refused was not done.
    pub(super) fn refused<T>(
        &self,
        made: rustix::io::Result<T>,
        intent: &mut Option<Intent<'_>>,
    ) -> Result<T> {
        if made.is_err()
            && let Some(intent) = intent.take()
        {
            intent.failed();
        }
        Ok(made?)
    }

    /// Tells the catalog of a node that was made.
    pub(super) fn record_new(
        &self,
        intent: Option<Intent<'_>>,
        id: NodeId,
        parent: NodeId,
        name: &[u8],
        stat: &LowerStat,
    ) {
        let (name, attr, version) = (name.to_vec(), stat.attr.clone(), stat.version);
        let op = Op::Create { id, parent, name, attr, version, adopted: false };
        match intent {
            Some(intent) => intent.done_as(op),
            None => self.catalog.record(op),
        }
    }

    /// Reads a symbolic link.
    ///
    /// # Errors
    /// As `readlink`.
    pub fn readlink(&self, id: NodeId) -> Result<Vec<u8>> {
        let inode = self.inode(id)?;
        let place = inode.place();
        match self.whereabouts(&inode, &place)? {
            super::lookup::Whereabouts::Named(_, dir, name) => Ok(dir.readlink(&name)?),
            _ => Err(Errno::INVAL.into()),
        }
    }

    /// A further name for a file. A released one is brought back first.
    ///
    /// # Errors
    /// `MustWait` if it is released; as `link`.
    pub fn link(
        &self,
        caller: Caller,
        id: NodeId,
        parent: NodeId,
        name: &[u8],
        patience: Patience,
    ) -> Result<Entry> {
        if let Some(made) = self.made_before(caller) {
            return self.entered(made);
        }
        if self.is_released(id) {
            if patience == Patience::None {
                return Err(VfsError::MustWait(Waits::Archive));
            }
            self.archive.recall(id).map_err(VfsError::Remote)?;
        }
        let inode = self.inode(id)?;
        let parent = self.inode(parent)?;
        let dir = self.dir(&parent)?;
        let _names = self.lower.names_change(parent.id, parent.id);
        self.must_not_be_released(&parent, name)?;
        let place = inode.place();
        match self.whereabouts(&inode, &place)? {
            super::lookup::Whereabouts::Named(_, from, old) => {
                let before = from.stat(&old)?;
                let op = Op::Link { id, parent: parent.id, name: name.to_vec() };
                let mut intent = self.catalog.intend(caller.unique, op.clone()).ok();
                self.refused(from.link(&old, &dir, name), &mut intent)?;
                match intent {
                    Some(intent) => intent.done(),
                    None => self.catalog.record(op),
                }
                self.follow_ctime(&inode, &dir, name, &before);
            }
            super::lookup::Whereabouts::Held(_) => return Err(Errno::NOENT.into()),
            super::lookup::Whereabouts::Root(_) => return Err(Errno::PERM.into()),
        }
        drop(place);
        let stat = dir.stat(name)?;
        Ok(self.enter(&parent, name, Found::Local(id, stat), None))
    }

    /// Removes a name. An archived recording leaves a tombstone in the catalog and its object in
    /// the archive.
    ///
    /// # Errors
    /// `PERM` if it is on legal hold; as `unlink`.
    pub fn unlink(&self, caller: Caller, parent: NodeId, name: &[u8]) -> Result<()> {
        if self.done_before(caller) {
            return Ok(());
        }
        self.must_not_be_virtual(parent, name)?;
        let parent = self.inode(parent)?;
        let dir = self.dir(&parent)?;
        let _names = self.lower.names_change(parent.id, parent.id);
        let found = self.find(&parent, &dir, name)?;
        let id = found.id();
        self.must_not_be_held(caller, id, "unlink")?;
        let inode = self.known(id);
        let mut place = inode.as_ref().map(|i| i.moving());
        let last = match &found {
            Found::Local(_, stat) => stat.attr.nlink <= 1,
            Found::Released(row, _) => row.attr.nlink <= 1,
        };
        let fate = self.fate_of(last, &parent, name, &found)?;
        let op = Op::Unlink {
            parent: parent.id,
            name: name.to_vec(),
            id,
            last,
            fate,
            at: self.clock.now(),
        };
        let intent = self.intend(caller, &found, op)?;
        faults::point("unlink.after_intent");
        let ghost = last.then(|| Ghost::of(&dir, name, &found));
        let removed = match &found {
            Found::Local(_, stat) if stat.attr.kind == Kind::Dir => Err(Errno::ISDIR.into()),
            Found::Local(_, stat) => {
                self.remove_local(id, (&dir, name), last.then_some(fate), stat.attr.size)
            }
            Found::Released(..) => Ok(false),
        };
        faults::point("unlink.after_removal");
        self.settle(intent, removed.is_ok());
        faults::point("unlink.after_done");
        let held = removed?.then_some(id);
        let node = inode.as_deref().zip(place.as_deref_mut());
        self.name_is_gone(node, (parent.id, name), held, ghost);
        if last {
            self.let_go_partial(id);
        }
        self.follow_to_trash(fate, &found);
        Ok(())
    }

    /// Takes a local name away; of the `last` one it is known what becomes of the file. What is open, or so large that removing its bytes takes long, is
    /// kept under a name in the private directory; tells whether it is.
    pub(super) fn remove_local(
        &self,
        id: NodeId,
        (dir, name): (&Dir, &[u8]),
        last: Option<Fate>,
        size: u64,
    ) -> Result<bool> {
        let open = last.is_some() && self.is_open(id);
        let moves = last == Some(Fate::Moved);
        if last.is_some() && !moves && !open && size >= LARGE_UNLINK_BYTES {
            self.lower.hold_last(dir, name, id)?;
            return Ok(true);
        }
        if open {
            self.lower.hold(dir, name, id)?;
            faults::point("unlink.after_hold");
        }
        let removed = match moves {
            true => self.lower.to_trash(dir, name, id).map_err(VfsError::from),
            false => dir.unlink(name).map_err(VfsError::from),
        };
        if removed.is_err() && open {
            let _not_held_after_all = self.lower.unhold(id);
        }
        removed.map(|()| open)
    }

    /// After a name was removed, while its node may not move: where the node is now, if the kernel
    /// knows it, and what becomes of a copy that is `held` in the private directory. `last` is
    /// what is left of the node, if this was its last name.
    pub(super) fn name_is_gone(
        &self,
        node: Option<(&Inode, &mut Place)>,
        (parent, name): (NodeId, &[u8]),
        held: Option<NodeId>,
        last: Option<Ghost>,
    ) {
        let mut wanted = false;
        if let Some((inode, place)) = node {
            wanted = held.is_some() && inode.opens.lock().handles > 0;
            if wanted {
                *place = Place::Held;
            } else if let Some(ghost) = last {
                *place = Place::Gone(Box::new(ghost));
            } else if place.is(parent, name) {
                *place = Place::Lost;
            }
        }
        if let Some(id) = held.filter(|_| !wanted) {
            self.let_go(id);
        }
    }

    pub(super) fn is_open(&self, id: NodeId) -> bool {
        self.inodes.get(id).is_some_and(|i| i.opens.lock().handles > 0)
    }

    /// Removes an empty directory; one with released recordings in it is not empty.
    ///
    /// # Errors
    /// `NOTEMPTY`; as `rmdir`.
    pub fn rmdir(&self, caller: Caller, parent: NodeId, name: &[u8]) -> Result<()> {
        if self.done_before(caller) {
            return Ok(());
        }
        self.must_not_be_virtual(parent, name)?;
        let parent = self.inode(parent)?;
        let dir = self.dir(&parent)?;
        let _names = self.lower.names_change(parent.id, parent.id);
        let found = self.find(&parent, &dir, name)?;
        let id = found.id();
        if found.kind() != Kind::Dir {
            return Err(Errno::NOTDIR.into());
        }
        // Nothing may be released in it between the question and the deed.
        let _inside = self.lower.names_change(id, id);
        if self.catalog.has_released(id)? {
            return Err(Errno::NOTEMPTY.into());
        }
        // Found while it still has a name.
        let inode = self.known(id);
        let intent = self.intend(
            caller,
            &found,
            Op::Unlink {
                fate: Fate::Kept,
                parent: parent.id,
                name: name.to_vec(),
                id,
                last: true,
                at: self.clock.now(),
            },
        )?;
        let ghost = Ghost::of(&dir, name, &found);
        let removed = dir.rmdir(name);
        faults::point("rmdir.after_removal");
        self.settle(intent, removed.is_ok());
        removed?;
        self.inodes.drop_dir(id);
        if let Some(inode) = inode.or_else(|| self.inodes.get(id)) {
            let node = (&*inode, &mut *inode.moving());
            self.name_is_gone(Some(node), (parent.id, name), None, Some(ghost));
        }
        Ok(())
    }

    /// Logs an operation before it is done. Without room in the log, what the catalog may know as
    /// archived is not touched; anything else goes on, and is reconciled later.
    pub(super) fn intend(
        &self,
        caller: Caller,
        found: &Found,
        op: Op,
    ) -> Result<Option<Intent<'_>>> {
        let deletes = matches!(op, Op::Unlink { .. });
        match self.catalog.intend(caller.unique, op) {
            Ok(intent) => Ok(Some(intent)),
            Err(CatalogError::LogFull { bytes }) => match found {
                // Without a tombstone it would come back as released.
                Found::Local(id, _) if deletes && self.is_archived(*id) => {
                    Err(CatalogError::LogFull { bytes }.into())
                }
                Found::Local(..) => Ok(None),
                Found::Released(..) => Err(CatalogError::LogFull { bytes }.into()),
            },
            Err(other) => Err(other.into()),
        }
    }

    fn is_archived(&self, id: NodeId) -> bool {
        matches!(self.catalog.node(id), Ok(Some(row)) if super::lookup::is_released(&row))
    }

    /// Tells the catalog how an operation ended. One that could not be logged before is found by
    /// comparing the directories.
    pub(super) fn settle(&self, intent: Option<Intent<'_>>, done: bool) {
        match intent {
            Some(intent) if done => intent.done(),
            Some(intent) => intent.failed(),
            None if done => self.catalog.doubt(),
            None => {}
        }
    }

    /// Where a name was, for messages and moves.
    pub(super) fn at(&self, parent: NodeId) -> Result<(Arc<Inode>, Dir)> {
        let inode = self.inode(parent)?;
        let dir = self.dir(&inode)?;
        Ok((inode, dir))
    }
}
