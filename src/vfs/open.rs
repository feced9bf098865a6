//! Opening, reading, writing and closing files.

use super::handle::OpenKind;
use super::inode::{Inode, Mode as OpenMode, Opens, Place};
use super::kept::Cut;
use super::lookup::{Found, Whereabouts};
use super::partial::live_attr;
use super::table::{Record, Use};
use super::{Caller, Entry, Patience, Result, Vfs, VfsError, Waits};
use crate::catalog::Op;
use crate::faults;
use crate::lower::{Dir, Looks, LowerStat, identify_file, stat_file};
use crate::recording::{Attr, Kind, LowerVersion, NodeId};
use crate::sys::WithoutReserve;
use rustix::fs::{Gid, Mode, OFlags, Uid};
use rustix::io::Errno;
use std::fs::File;
use std::sync::Arc;

/// An open file, as the kernel is told.
#[derive(Clone, Copy, Debug)]
pub struct Opened {
    /// Number of the handle.
    pub handle: u64,
    /// Where its bytes come from.
    pub kind: OpenKind,
    /// The pages the kernel has of the file are still right.
    pub keep_cache: bool,
    /// The kernel is to read and write this backing file itself.
    pub backing: Option<u32>,
    /// It is not to write to the backing file itself, though.
    pub direct: bool,
}

/// A lower file that was just opened, and counted.
struct OpenFile {
    file: File,
    keep_cache: bool,
}

/// What the kernel's open flags mean for the lower file: only who may read and write. O_APPEND
/// stays away because the kernel gives the position of each write, and Linux would ignore it on a
/// descriptor opened for appending; O_DIRECT because our buffers are not aligned; O_SYNC because a
/// write that syncs belongs on a worker.
pub(super) fn lower_flags(flags: OFlags) -> OFlags {
    if flags & OFlags::ACCMODE == OFlags::RDONLY && writes(flags) {
        return OFlags::RDWR;
    }
    flags & OFlags::ACCMODE
}

/// O_TRUNC cuts also what is opened for reading only.
pub(super) fn writes(flags: OFlags) -> bool {
    flags & OFlags::ACCMODE != OFlags::RDONLY || flags.contains(OFlags::TRUNC)
}

impl Vfs {
    /// Makes and opens a regular file.
    ///
    /// # Errors
    /// `EXIST` if the name is taken, also by a released recording.
    pub fn create(
        &self,
        caller: Caller,
        parent: NodeId,
        name: &[u8],
        mode: u32,
        flags: OFlags,
    ) -> Result<(Entry, Opened)> {
        if let Some(made) = self.made_before(caller) {
            return self.open_made(caller, made, flags);
        }
        let parent = self.inode(parent)?;
        let dir = self.dir(&parent)?;
        let _names = self.lower.names_change(parent.id, parent.id);
        self.must_not_be_released(&parent, name)?;
        let mode = self.masked(&dir, mode, caller);
        let access = if writes(flags) { lower_flags(flags) } else { OFlags::RDWR };
        let id = self.catalog.alloc();
        let mut intent = self.intend_new(caller, &dir, (id, parent.id, name), (Kind::File, mode));
        faults::point("create.after_intent");
        let file = self.refused(dir.create(name, access, mode), &mut intent)?;
        faults::point("create.after_make");
        let stat = match self.dress_new(&dir, &file, id, mode, caller) {
            Ok(stat) => stat,
            Err(errno) => {
                let _nothing_more_can_be_done = dir.unlink(name);
                return self.refused(Err(errno), &mut intent);
            }
        };
        faults::point("create.after_identity");
        self.record_new(intent, id, parent.id, name, &stat);
        faults::point("create.after_record");
        let place = Place::Named(parent, name.into());
        let inode = self.inodes.intern(id, Kind::File, place, 1);
        let writable = writes(flags);
        let mut opens = inode.opens.lock();
        opens.handles += 1;
        opens.writers += u32::from(writable);
        let record = self.kernel_opens(caller, &mut opens, &inode, &file, &stat, flags);
        drop(opens);
        if !writable {
            self.record_closed(id, &stat);
        }
        let opened = self.add_local(inode, file, record, false);
        faults::point("handover.after_handle");
        Ok((Entry { id, attr: stat.attr }, opened))
    }

    /// What a create made whose answer was lost with a predecessor.
    fn open_made(&self, caller: Caller, id: NodeId, flags: OFlags) -> Result<(Entry, Opened)> {
        let opened = self.open(caller, id, flags - OFlags::TRUNC, Patience::Worker)?;
        Ok((self.entered(id)?, opened))
    }

    /// The kernel gets a handle: how it will get at the bytes, and the record of it. Called under
    /// the lock of `opens`, which count the handle already.
    pub(super) fn kernel_opens(
        &self,
        caller: Caller,
        opens: &mut Opens,
        inode: &Inode,
        file: &File,
        stat: &LowerStat,
        flags: OFlags,
    ) -> Record {
        let lower_ino = stat.version.ino;
        let mode = match opens.mode {
            Some(mode) => mode,
            None if self.is_kept(inode.id) => OpenMode::Plain,
            None => match self.passthrough().and_then(|p| p.register(file, caller.uid)) {
                Some(number) => OpenMode::Passthrough { number, lower_ino },
                None => OpenMode::Plain,
            },
        };
        let (what, backing) = match mode {
            OpenMode::Plain => (Use::Plain, 0),
            OpenMode::Passthrough { number, .. } => (Use::Passthrough, number),
        };
        opens.mode = Some(mode);
        opens.passed = mode != OpenMode::Plain;
        opens.kernel += 1;
        Record {
            writable: writes(flags),
            backing,
            flags: lower_flags(flags).bits(),
            ..Record::new(what, inode.id, caller.unique)
        }
    }

    pub(super) fn add_local(
        &self,
        inode: Arc<Inode>,
        file: File,
        record: Record,
        keep_cache: bool,
    ) -> Opened {
        let backing = (record.what == Use::Passthrough).then_some(record.backing);
        let direct = self.is_direct(&record);
        let handle = self.handles.add(inode, Some(file), record);
        Opened { handle, kind: OpenKind::Local, keep_cache, backing, direct }
    }

    /// Owner, mode and identity of a file that was just made. A setgid directory gives its group.
    fn dress_new(
        &self,
        dir: &Dir,
        file: &File,
        id: NodeId,
        mode: u32,
        caller: Caller,
    ) -> rustix::io::Result<LowerStat> {
        let gid = self.new_gid(dir, caller)?;
        if caller.uid != 0 || gid.is_some() {
            rustix::fs::fchown(file, Some(Uid::from_raw(caller.uid)), gid.map(Gid::from_raw))?;
            if mode & 0o6000 != 0 {
                rustix::fs::fchmod(file, Mode::from_raw_mode(mode & 0o7777))?;
            }
        }
        identify_file(file, id)?;
        stat_file(file)
    }

    /// The group to give to what was just made; none if the directory has given its own.
    pub(super) fn new_gid(&self, dir: &Dir, caller: Caller) -> rustix::io::Result<Option<u32>> {
        let setgid = dir.stat_self()?.attr.mode & 0o2000 != 0;
        Ok((!setgid && caller.gid != 0).then_some(caller.gid))
    }

    /// The mode of what is made: a default ACL takes the place of the umask.
    pub(super) fn masked(&self, dir: &Dir, mode: u32, caller: Caller) -> u32 {
        let default_acl = dir
            .as_file()
            .and_then(|f| rustix::fs::fgetxattr_query(&f, "system.posix_acl_default"))
            .is_ok();
        if default_acl { mode } else { mode & !caller.umask }
    }

    /// The name must be free of released recordings too.
    pub(super) fn must_not_be_released(&self, parent: &Inode, name: &[u8]) -> Result<()> {
        if self.is_virtual_name(parent.id, name) {
            return Err(Errno::EXIST.into());
        }
        match self.catalog.lookup(parent.id, name) {
            Ok(Some(row)) if super::lookup::is_released(&row) => Err(Errno::EXIST.into()),
            // Unusable: a call must be able to make its file.
            Ok(_) | Err(_) => Ok(()),
        }
    }

    /// Opens a file.
    ///
    /// # Errors
    /// `MustWait` if it is released and to be written; as `open`.
    pub fn open(
        &self,
        caller: Caller,
        id: NodeId,
        flags: OFlags,
        patience: Patience,
    ) -> Result<Opened> {
        if Vfs::is_virtual(id) {
            return self.open_virtual(id, flags);
        }
        if let Some(handle) = self.opened_before(caller) {
            return self.opened_again(handle);
        }
        if writes(flags) {
            self.must_be_writable(caller, id, "open")?;
        }
        let inode = self.inode(id)?;
        if !writes(flags)
            && let Some(opened) = self.open_seen(caller, &inode)
        {
            return Ok(opened);
        }
        let local = loop {
            match self.open_local(caller, &inode, flags) {
                // What it was before it is cut is being kept.
                Err(VfsError::MustWait(_)) if patience == Patience::Worker => {
                    self.fill_kept(id, patience)?;
                }
                opened => break opened?,
            }
        };
        if let Some(opened) = local {
            return Ok(opened);
        }
        if !writes(flags) {
            return self.open_remote(caller, &inode);
        }
        if flags.contains(OFlags::TRUNC) && self.lower.partial(id).is_none() {
            if patience == Patience::None {
                // It needs no target, but syncs.
                return Err(VfsError::MustWait(Waits::Disk));
            }
            self.begin_anew(&inode)?;
        } else if let Some(opened) = self.open_partial(caller, &inode, flags, patience)? {
            return Ok(opened);
        }
        self.open_local(caller, &inode, flags)?.ok_or(Errno::STALE.into())
    }

    /// What an open opened whose answer was lost with a predecessor.
    fn opened_again(&self, number: u64) -> Result<Opened> {
        let handle = self.handles.get(number)?;
        let local = handle.record.what != Use::Remote;
        Ok(Opened {
            handle: number,
            kind: if local { OpenKind::Local } else { OpenKind::Remote },
            keep_cache: false,
            backing: (handle.record.what == Use::Passthrough).then_some(handle.record.backing),
            direct: self.is_direct(&handle.record),
        })
    }

    /// Cuts a file by its name: as if it were opened for writing, cut and closed.
    pub(super) fn cut(
        &self,
        caller: Caller,
        id: NodeId,
        size: u64,
        patience: Patience,
    ) -> Result<()> {
        let inode = self.inode(id)?;
        if patience == Patience::None && self.catalog.holds().may_lack_archive(id) {
            return Err(VfsError::MustWait(Waits::Disk));
        }
        let opened = match self.open_lower(caller, &inode, OFlags::WRONLY, &mut |_, _, _| ())? {
            Some(opened) => opened,
            None => {
                if self.cut_partial(caller, &inode, size, patience)? {
                    return Ok(());
                }
                let opened = self.open_lower(caller, &inode, OFlags::WRONLY, &mut |_, _, _| ())?;
                opened.ok_or(Errno::STALE)?
            }
        };
        let kept = self.fill_kept(id, Patience::Worker);
        let result = kept.and_then(|()| self.resize(caller, id, &opened.file, size));
        self.close(&inode, true, Some(&opened.file));
        result
    }

    /// Whether the node has no local copy.
    pub(super) fn is_released(&self, id: NodeId) -> bool {
        let Ok(inode) = self.inode(id) else { return false };
        let place = inode.place();
        match self.whereabouts(&inode, &place) {
            Ok(Whereabouts::Named(_, dir, name)) => dir.stat(&name).err() == Some(Errno::NOENT),
            _ => false,
        }
    }

    /// Opens a local file for the kernel; `None` if there is none.
    fn open_local(
        &self,
        caller: Caller,
        inode: &Arc<Inode>,
        flags: OFlags,
    ) -> Result<Option<Opened>> {
        let mut record = None;
        let opened = self.open_lower(caller, inode, flags, &mut |opens, file, stat| {
            record = Some(self.kernel_opens(caller, opens, inode, file, stat, flags));
        })?;
        Ok(opened.zip(record).map(|(opened, record)| {
            self.add_local(inode.clone(), opened.file, record, opened.keep_cache)
        }))
    }

    /// Opens and counts the lower file; `None` if there is none. `counted` is called while nobody
    /// else can open or close the node.
    fn open_lower(
        &self,
        caller: Caller,
        inode: &Arc<Inode>,
        flags: OFlags,
        counted: &mut dyn FnMut(&mut Opens, &File, &LowerStat),
    ) -> Result<Option<OpenFile>> {
        let (writable, truncate) = (writes(flags), flags.contains(OFlags::TRUNC));
        // Held until the handle is counted: an unlink must not overlook it.
        let place = inode.place();
        let Some(mut file) = self.lower_file(inode, &place, lower_flags(flags))? else {
            return Ok(None);
        };
        let mut stat = stat_file(&file)?;
        // Before anything is cut or counted: the kernel looks the name up again and comes back.
        if stat.node.is_some_and(|found| found != inode.id) {
            return Err(Errno::STALE.into());
        }
        let mut opens = inode.opens.lock();
        if let Some(OpenMode::Passthrough { lower_ino, .. }) = opens.mode
            && lower_ino != stat.version.ino
        {
            tracing::error!(
                node = %inode.id,
                "a file was replaced behind the mount while it is open; it can be opened again \
                 when those who have it open have closed it"
            );
            return Err(Errno::BUSY.into());
        }
        if truncate
            && self.keep_before_cut(inode, &place, &opens, (&file, &stat))? == Cut::Elsewhere
        {
            file = self.lower_file(inode, &place, lower_flags(flags))?.ok_or(Errno::STALE)?;
            stat = stat_file(&file)?;
        } else if writable {
            self.keep_held(inode.id, &opens, &file, &stat);
        }
        if truncate {
            let _as_the_caller = WithoutReserve::for_caller(caller.uid);
            faults::fail("lower.truncate")?;
            rustix::fs::ftruncate(&file, 0)?;
        }
        if writable && opens.writers == 0 {
            self.catalog.record(Op::Opened { id: inode.id });
        }
        let known = opens.writers > 0 || same_content(opens.cached.as_ref(), &stat.version);
        let same = known && !opens.passed;
        opens.handles += 1;
        opens.writers += u32::from(writable);
        counted(&mut opens, &file, &stat);
        opens.cached = (!truncate).then_some(stat.version);
        Ok(Some(OpenFile { file, keep_cache: same && !truncate }))
    }

    pub(super) fn lower_file(
        &self,
        inode: &Inode,
        place: &Place,
        flags: OFlags,
    ) -> Result<Option<File>> {
        match self.whereabouts(inode, place)? {
            Whereabouts::Root(_) => Err(Errno::ISDIR.into()),
            Whereabouts::Held(_) => Ok(Some(self.lower.open_held(inode.id, flags)?)),
            Whereabouts::Named(parent, dir, name) => match dir.open(&name, flags) {
                Ok(file) => Ok(Some(file)),
                Err(Errno::NOENT) => {
                    let mark = self.mark(parent.id);
                    let found = self.find(&parent, &dir, &name)?;
                    self.saw(inode, mark, &found);
                    match found {
                        Found::Released(row, _) if row.id == inode.id => Ok(None),
                        // Recalled between the two looks.
                        Found::Local(id, _) if id == inode.id => Ok(Some(dir.open(&name, flags)?)),
                        _ => Err(Errno::STALE.into()),
                    }
                }
                Err(errno) => Err(errno.into()),
            },
        }
    }

    /// Opens for reading what was seen to be released a moment ago, and still is.
    fn open_seen(&self, caller: Caller, inode: &Arc<Inode>) -> Option<Opened> {
        let place = inode.place();
        let mut opens = inode.opens.lock();
        // Asked while nobody can open a local copy: none has come.
        let seen = self.still_seen(inode, &place)?;
        let elsewhere = matches!(opens.mode, Some(OpenMode::Passthrough { .. }));
        if elsewhere || self.lower.partial(inode.id).is_some() {
            return None;
        }
        let keep_cache = opens.kernel_reads_released(seen.version);
        drop(opens);
        Some(self.add_remote(caller, inode, keep_cache))
    }

    fn open_remote(&self, caller: Caller, inode: &Arc<Inode>) -> Result<Opened> {
        let row = self.catalog.node(inode.id)?.ok_or(Errno::STALE)?;
        let mut opens = inode.opens.lock();
        if matches!(opens.mode, Some(OpenMode::Passthrough { .. })) {
            // It is open and its lower file is gone: taken away behind the mount.
            return Err(Errno::BUSY.into());
        }
        let version = stamp(&live_attr(self.lower.partial(inode.id).as_deref(), row.attr));
        let keep_cache = opens.kernel_reads_released(version);
        drop(opens);
        Ok(self.add_remote(caller, inode, keep_cache))
    }

    fn add_remote(&self, caller: Caller, inode: &Arc<Inode>, keep_cache: bool) -> Opened {
        let record = Record::new(Use::Remote, inode.id, caller.unique);
        let handle = self.handles.add(inode.clone(), None, record);
        Opened { handle, kind: OpenKind::Remote, keep_cache, backing: None, direct: false }
    }

    /// A released recording is opened with O_TRUNC: an empty local file takes its place, and
    /// nothing is fetched. What was archived stays in the archive.
    fn begin_anew(&self, inode: &Arc<Inode>) -> Result<()> {
        let path = self.path_of(inode);
        let stage = self.lower.stage(inode.id)?;
        let (parent, name) = match &*inode.place() {
            Place::Named(parent, name) => (parent.clone(), name.clone()),
            _ => return Err(Errno::STALE.into()),
        };
        let wanted = || {
            let row = self.catalog.lookup(parent.id, &name).ok().flatten()?;
            let partial = self.lower.partial(inode.id).is_some();
            let here = row.id == inode.id && inode.is_at(parent.id, &name) && !partial;
            here.then_some(Looks { attr: row.attr, xattrs: row.xattrs })
        };
        match self.lower.install(stage, (parent.id, &path), &wanted) {
            Ok(_) => {
                faults::point("anew.after_install");
                self.catalog.record(Op::Opened { id: inode.id });
                Ok(())
            }
            // A recall was faster: the local file is there.
            Err(crate::lower::LowerError::Changed { .. }) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Closes a handle. The last writer's close makes the recording closed.
    pub fn release(&self, number: u64) {
        let Some(handle) = self.handles.remove(number) else { return };
        let mut opens = handle.inode.opens.lock();
        if handle.is_resting() {
            self.count_again(number, &handle, &mut opens);
        }
        if handle.record.what == Use::Passthrough {
            // Said before it is done: a successor gives the backing file back again rather than
            // not at all, and does not take it for open after somebody else gave it back.
            self.handles.closing(number, &handle);
            faults::point("handover.after_closing");
        }
        opens.kernel = opens.kernel.saturating_sub(1);
        if opens.kernel == 0
            && let Some(OpenMode::Passthrough { number: backing, .. }) = opens.mode.take()
            && let Some(passthrough) = self.passthrough()
        {
            passthrough.unregister(backing);
        }
        drop(opens);
        self.close(&handle.inode, handle.writable, handle.file().as_deref());
        self.handles.closed(number);
    }

    /// One handle less.
    fn close(&self, inode: &Arc<Inode>, writable: bool, file: Option<&File>) {
        let last_handle = {
            let mut opens = inode.opens.lock();
            opens.handles = opens.handles.saturating_sub(1);
            if writable {
                opens.writers = opens.writers.saturating_sub(1);
                // Looked at and said under the lock: after every other writer's last write, and
                // before the next first writer is recorded.
                if self.close_partial(inode.id, &mut opens) {
                } else if let Some(stat) = file.and_then(|f| stat_file(f).ok()) {
                    opens.cached = Some(stat.version);
                    if opens.writers == 0 {
                        faults::point("close.before_record");
                        self.record_closed(inode.id, &stat);
                        faults::point("close.after_record");
                        self.kept_is_closed(inode.id);
                    }
                }
            }
            opens.handles == 0
        };
        if last_handle {
            match &*inode.place() {
                Place::Held => self.let_go(inode.id),
                Place::Gone(_) => self.let_go_partial(inode.id),
                _ => {}
            }
            self.inodes.forget(inode.id, 0);
        }
    }

    /// Removes the bytes of a file that has no name any more; on a worker, since it may take long.
    pub(super) fn let_go(&self, id: NodeId) {
        let lower = self.lower.clone();
        let job = move || {
            if let Err(error) = lower.unhold(id) {
                tracing::warn!(%error, "a file without a name could not be removed");
            }
        };
        if self.workers.run(Waits::Disk, job.clone()).is_err() {
            job();
        }
    }

    pub(super) fn record_closed(&self, id: NodeId, stat: &LowerStat) {
        self.catalog.record(Op::Closed {
            id,
            attr: stat.attr.clone(),
            version: stat.version,
            at: self.clock.now(),
        });
    }
}

impl Opens {
    /// Counts a handle for a released recording. Whether the kernel's pages of it are right.
    fn kernel_reads_released(&mut self, version: LowerVersion) -> bool {
        self.mode = Some(OpenMode::Plain);
        let known = self.kernel > 0 || same_content(self.cached.as_ref(), &version);
        let keep_cache = known && !self.passed;
        self.kernel += 1;
        self.handles += 1;
        (self.cached, self.passed) = (Some(version), false);
        keep_cache
    }
}

/// The stamp of what has no lower file of its own.
pub(super) fn stamp(attr: &Attr) -> LowerVersion {
    LowerVersion { ino: 0, size: attr.size, mtime: attr.mtime, ctime: attr.ctime }
}

/// Whether the kernel's pages of `cached` are right for `now`. A recalled or released copy is
/// another lower file with the same content.
pub(super) fn same_content(cached: Option<&LowerVersion>, now: &LowerVersion) -> bool {
    cached.is_some_and(|c| {
        c.size == now.size && c.mtime == now.mtime && (c.ino != now.ino || c.ctime == now.ctime)
    })
}
