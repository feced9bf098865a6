//! chmod, chown, utimens, truncate.

use super::acl;
use super::inode::Inode;
use super::lookup::{Found, Whereabouts, released_attr};
use super::partial::live_attr;
use super::{Caller, Patience, Result, Vfs};
use crate::catalog::{NodeRow, Op};
use crate::clock::Timestamp;
use crate::lower::{Dir, LowerStat, Partial, SetTime, Times, stat_file};
use crate::recording::{Attr, Kind, NodeId};
use rustix::fs::OFlags;
use rustix::io::Errno;
use std::sync::Arc;

/// What to change; `None` leaves it as it is.
#[derive(Clone, Copy, Debug, Default)]
pub struct SetAttr {
    /// Permission bits.
    pub mode: Option<u32>,
    /// Owner.
    pub uid: Option<u32>,
    /// Group.
    pub gid: Option<u32>,
    /// Length.
    pub size: Option<u64>,
    /// Last access.
    pub atime: Option<SetTime>,
    /// Last change.
    pub mtime: Option<SetTime>,
}

impl SetAttr {
    pub(super) fn times(&self) -> Times {
        Times { atime: self.atime, mtime: self.mtime }
    }

    /// What becomes of attributes that no file system keeps.
    pub(super) fn on(&self, attr: &Attr, now: Timestamp) -> Attr {
        let time = |new: Option<SetTime>, old: Timestamp| match new {
            None => old,
            Some(SetTime::Now) => now,
            Some(SetTime::At(t)) => t,
        };
        // chown takes setuid away, and setgid where it is not a mark for locking.
        let kept = match attr.mode {
            mode if !self.gives_away() => mode,
            mode if mode & 0o010 != 0 => mode & !0o6000,
            mode => mode & !0o4000,
        };
        Attr {
            mode: self.mode.map_or(kept, |m| m & 0o7777),
            uid: self.uid.unwrap_or(attr.uid),
            gid: self.gid.unwrap_or(attr.gid),
            atime: time(self.atime, attr.atime),
            mtime: time(self.mtime, attr.mtime),
            ctime: now,
            ..attr.clone()
        }
    }

    /// Whether this is a chown. One that names neither user nor group takes setuid away too; the
    /// kernel leaves that to us (FUSE_HANDLE_KILLPRIV_V2) and asks for a change of nothing.
    fn gives_away(&self) -> bool {
        let nothing = self.mode.is_none() && self.size.is_none() && self.no_times();
        self.uid.is_some() || self.gid.is_some() || nothing
    }

    fn is_only_size(&self) -> bool {
        self.mode.is_none() && self.uid.is_none() && self.gid.is_none() && self.no_times()
    }

    pub(super) fn no_times(&self) -> bool {
        self.atime.is_none() && self.mtime.is_none()
    }
}

impl Vfs {
    /// Changes attributes.
    ///
    /// # Errors
    /// `MustWait` if a released recording is cut; as `chmod`, `chown`, `utimensat`, `truncate`.
    pub fn setattr(
        &self,
        caller: Caller,
        id: NodeId,
        set: SetAttr,
        handle: Option<u64>,
        patience: Patience,
    ) -> Result<Attr> {
        if Vfs::is_virtual(id) {
            return self.set_attr_virtual(id, set);
        }
        if let Some(size) = set.size {
            self.truncate(caller, id, size, handle, patience)?;
            if set.is_only_size() {
                return self.getattr(id, handle);
            }
        }
        let inode = self.inode(id)?;
        if let Some(mut ghost) = inode.ghost() {
            let now = self.clock.now();
            ghost.set_attr(set, now)?;
            let attr = ghost.attr();
            let partial = self.lower.partial(id);
            if let Some(partial) = partial.as_ref().filter(|_| set.mtime.is_some()) {
                partial.set_mtime(attr.mtime, now);
            }
            return Ok(live_attr(partial.as_deref(), attr));
        }
        let place = inode.place();
        match self.whereabouts(&inode, &place)? {
            Whereabouts::Root(dir) => {
                dir.set_self(set.mode, (set.uid, set.gid), set.times())?;
                Ok(dir.stat_self()?.attr)
            }
            Whereabouts::Held(_) => self.set_held(&inode, set),
            Whereabouts::Named(parent, dir, name) => {
                // Neither released nor recalled between the look and the change.
                let _names = self.lower.names_change(parent.id, parent.id);
                match self.find(&parent, &dir, &name)? {
                    Found::Local(found, before) if found == id => {
                        self.set_local(&inode, &dir, &name, set, &before)
                    }
                    Found::Released(row, partial) if row.id == id => {
                        Ok(self.set_released(&row, partial.as_deref(), set))
                    }
                    _ => Err(Errno::STALE.into()),
                }
            }
        }
    }

    fn set_local(
        &self,
        inode: &Inode,
        dir: &Dir,
        name: &[u8],
        set: SetAttr,
        before: &LowerStat,
    ) -> Result<Attr> {
        apply(dir, name, set)?;
        let after = dir.stat(name)?;
        self.record_attr(inode, before, &after);
        Ok(after.attr)
    }

    /// Tells the catalog that only attributes changed. With a writer about, that can not be told
    /// from a change of content, and the hash will settle it.
    pub(super) fn record_attr(&self, inode: &Inode, before: &LowerStat, after: &LowerStat) {
        let quiet = inode.kind == Kind::File
            && inode.opens.lock().writers == 0
            && before.version.ino == after.version.ino
            && before.version.size == after.version.size;
        self.catalog.record(Op::SetAttr {
            id: inode.id,
            attr: after.attr.clone(),
            version: quiet.then_some(after.version),
            before: quiet.then_some(before.version),
        });
    }

    fn set_held(&self, inode: &Inode, set: SetAttr) -> Result<Attr> {
        let file = self.lower.open_held(inode.id, OFlags::RDONLY | OFlags::NONBLOCK)?;
        if set.gives_away() {
            let uid = set.uid.map(rustix::fs::Uid::from_raw);
            let gid = set.gid.map(rustix::fs::Gid::from_raw);
            rustix::fs::fchown(&file, uid, gid)?;
        }
        if let Some(mode) = set.mode {
            rustix::fs::fchmod(&file, rustix::fs::Mode::from_raw_mode(mode & 0o7777))?;
        }
        if !set.no_times() {
            crate::lower::set_times(&file, set.times())?;
        }
        let attr = stat_file(&file)?.attr;
        Ok(Attr { nlink: attr.nlink.saturating_sub(1), ..attr })
    }

    /// A released recording's attributes are the catalog's alone; nothing is fetched.
    fn set_released(&self, row: &NodeRow, partial: Option<&Partial>, set: SetAttr) -> Attr {
        let attr = set.on(&row.attr, self.clock.now());
        if let Some(mode) = set.mode {
            self.list_follows_mode(row, mode);
        }
        self.catalog.record(Op::SetAttr {
            id: row.id,
            attr: attr.clone(),
            version: None,
            before: None,
        });
        if let Some(partial) = partial.filter(|_| set.mtime.is_some()) {
            partial.set_mtime(attr.mtime, attr.ctime);
        }
        live_attr(partial, released_attr(&NodeRow { attr, ..row.clone() }))
    }

    fn list_follows_mode(&self, row: &NodeRow, mode: u32) {
        let mut xattrs = row.xattrs.clone();
        if acl::list_follows_mode(&mut xattrs, mode) {
            self.record_xattrs(row.id, xattrs);
        }
    }

    /// The lower file system takes setuid and setgid away when somebody else than root cuts.
    fn truncate(
        &self,
        caller: Caller,
        id: NodeId,
        size: u64,
        handle: Option<u64>,
        patience: Patience,
    ) -> Result<()> {
        if let Some(file) = handle.and_then(|h| self.writer(h).ok()).filter(|h| h.writable) {
            self.fill_kept(id, patience)?;
            let file = file.file().ok_or(Errno::BADF)?;
            return self.resize(caller, id, &file, size);
        }
        let inode = self.inode(id)?;
        if inode.kind != Kind::File {
            let errno = if inode.kind == Kind::Dir { Errno::ISDIR } else { Errno::INVAL };
            return Err(errno.into());
        }
        self.must_be_writable(caller, id, "truncate")?;
        self.cut(caller, id, size, patience)
    }

    /// After a change that touched no content but moves the ctime (rename, link, unlink of
    /// another name): lets the stamp of the hash follow.
    pub(super) fn follow_ctime(
        &self,
        inode: &Arc<Inode>,
        dir: &Dir,
        name: &[u8],
        before: &LowerStat,
    ) {
        if inode.kind == Kind::File
            && let Ok(after) = dir.stat(name)
            && before.version != after.version
        {
            self.record_attr(inode, before, &after);
        }
    }
}

/// chown first: it clears setuid and setgid, which a mode given with it means to keep.
fn apply(dir: &Dir, name: &[u8], set: SetAttr) -> rustix::io::Result<()> {
    if set.gives_away() {
        dir.chown(name, set.uid, set.gid)?;
    }
    if let Some(mode) = set.mode {
        dir.chmod(name, mode)?;
    }
    if !set.no_times() {
        dir.utimens(name, set.times())?;
    }
    Ok(())
}
