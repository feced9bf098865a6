//! Opening, reading, writing and closing files.

use super::handle::{Handle, OpenKind};
use super::inode::{Inode, Place};
use super::lookup::{Found, Whereabouts};
use super::{Caller, Entry, Patience, Result, Vfs, VfsError, Waits};
use crate::catalog::Op;
use crate::lower::{Dir, Looks, LowerStat, identify_file, stat_file};
use crate::recording::{Kind, LowerVersion, NodeId};
use bytes::Bytes;
use rustix::fs::{FallocateFlags, Gid, Mode, OFlags, SeekFrom, Uid};
use rustix::io::Errno;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
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
}

/// What the kernel's open flags mean for the lower file: only who may read and write. O_APPEND
/// stays away because the kernel gives the position of each write, and Linux would ignore it on a
/// descriptor opened for appending; O_DIRECT because our buffers are not aligned; O_SYNC because a
/// write that syncs belongs on a worker.
fn lower_flags(flags: OFlags) -> OFlags {
    if flags & OFlags::ACCMODE == OFlags::RDONLY && writes(flags) {
        return OFlags::RDWR;
    }
    flags & OFlags::ACCMODE
}

/// O_TRUNC cuts also what is opened for reading only.
fn writes(flags: OFlags) -> bool {
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
        let parent = self.inode(parent)?;
        let dir = self.dir(&parent)?;
        let _names = self.lower.names_change(parent.id, parent.id);
        self.must_not_be_released(&parent, name)?;
        let mode = self.masked(&dir, mode, caller);
        let access = if writes(flags) { lower_flags(flags) } else { OFlags::RDWR };
        let file = dir.create(name, access, mode)?;
        let id = self.catalog.alloc();
        let stat = match self.dress_new(&dir, &file, id, mode, caller) {
            Ok(stat) => stat,
            Err(errno) => {
                let _nothing_more_can_be_done = dir.unlink(name);
                return Err(errno.into());
            }
        };
        self.record_new(id, parent.id, name, &stat, false);
        let place = Place::Named(parent, name.into());
        let inode = self.inodes.intern(id, Kind::File, place, 1);
        let writable = writes(flags);
        {
            let mut opens = inode.opens.lock();
            opens.handles += 1;
            opens.writers += u32::from(writable);
        }
        if !writable {
            self.record_closed(id, &stat);
        }
        let handle = self.handles.add(inode, Some(file), writable);
        let opened = Opened { handle, kind: OpenKind::Local, keep_cache: false };
        Ok((Entry { id, attr: stat.attr }, opened))
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
    pub fn open(&self, id: NodeId, flags: OFlags, patience: Patience) -> Result<Opened> {
        let inode = self.inode(id)?;
        let truncate = flags.contains(OFlags::TRUNC);
        if let Some(opened) = self.open_local(&inode, flags, truncate)? {
            return Ok(opened);
        }
        if !writes(flags) {
            return self.open_remote(&inode);
        }
        if patience == Patience::None {
            // Cutting it to nothing needs no target, but syncs.
            let waits = if truncate { Waits::Disk } else { Waits::Archive };
            return Err(VfsError::MustWait(waits));
        }
        if truncate {
            self.begin_anew(&inode)?;
        } else {
            self.archive.recall(id).map_err(VfsError::Remote)?;
        }
        self.open_local(&inode, flags, truncate)?.ok_or(Errno::STALE.into())
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

    /// Opens the lower file; `None` if there is none.
    fn open_local(
        &self,
        inode: &Arc<Inode>,
        flags: OFlags,
        truncate: bool,
    ) -> Result<Option<Opened>> {
        let writable = writes(flags);
        // Held until the handle is counted: an unlink must not overlook it.
        let place = inode.place();
        let Some(file) = self.lower_file(inode, &place, lower_flags(flags))? else {
            return Ok(None);
        };
        let stat = stat_file(&file)?;
        // Before anything is cut or counted: the kernel looks the name up again and comes back.
        if stat.node.is_some_and(|found| found != inode.id) {
            return Err(Errno::STALE.into());
        }
        let mut opens = inode.opens.lock();
        if writable && opens.writers == 0 {
            self.catalog.record(Op::Opened { id: inode.id });
        }
        let keep_cache = opens.writers > 0 || same_content(opens.cached.as_ref(), &stat.version);
        opens.handles += 1;
        opens.writers += u32::from(writable);
        if truncate {
            if let Err(errno) = rustix::fs::ftruncate(&file, 0) {
                drop(opens);
                drop(place);
                self.close(inode, writable, Some(&file));
                return Err(errno.into());
            }
            opens.cached = None;
        } else {
            opens.cached = Some(stat.version);
        }
        drop(opens);
        let handle = self.handles.add(inode.clone(), Some(file), writable);
        let keep_cache = keep_cache && !truncate;
        Ok(Some(Opened { handle, kind: OpenKind::Local, keep_cache }))
    }

    fn lower_file(&self, inode: &Inode, place: &Place, flags: OFlags) -> Result<Option<File>> {
        match self.whereabouts(inode, place)? {
            Whereabouts::Root(_) => Err(Errno::ISDIR.into()),
            Whereabouts::Held(_) => Ok(Some(self.lower.open_held(inode.id, flags)?)),
            Whereabouts::Named(parent, dir, name) => match dir.open(&name, flags) {
                Ok(file) => Ok(Some(file)),
                Err(Errno::NOENT) => match self.find(&parent, &dir, &name)? {
                    Found::Released(row) if row.id == inode.id => Ok(None),
                    // Recalled between the two looks.
                    Found::Local(id, _) if id == inode.id => Ok(Some(dir.open(&name, flags)?)),
                    _ => Err(Errno::STALE.into()),
                },
                Err(errno) => Err(errno.into()),
            },
        }
    }

    fn open_remote(&self, inode: &Arc<Inode>) -> Result<Opened> {
        let row = self.catalog.node(inode.id)?.ok_or(Errno::STALE)?;
        let mut opens = inode.opens.lock();
        opens.handles += 1;
        let version = LowerVersion {
            ino: 0,
            size: row.attr.size,
            mtime: row.attr.mtime,
            ctime: row.attr.ctime,
        };
        let keep_cache = same_content(opens.cached.as_ref(), &version);
        opens.cached = Some(version);
        drop(opens);
        let handle = self.handles.add(inode.clone(), None, false);
        Ok(Opened { handle, kind: OpenKind::Remote, keep_cache })
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
            let here = row.id == inode.id && inode.is_at(parent.id, &name);
            here.then_some(Looks { attr: row.attr, xattrs: row.xattrs })
        };
        match self.lower.install(stage, (parent.id, &path), &wanted) {
            Ok(_) => {
                self.catalog.record(Op::Opened { id: inode.id });
                Ok(())
            }
            // A recall was faster: the local file is there.
            Err(crate::lower::LowerError::Changed { .. }) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Where the bytes of an open file come from now. A recording recalled meanwhile is read
    /// from disk.
    ///
    /// # Errors
    /// `BADF`.
    pub fn source(&self, handle: u64) -> Result<OpenKind> {
        let handle = self.handles.get(handle)?;
        if handle.file().is_some() {
            return Ok(OpenKind::Local);
        }
        let place = handle.inode.place();
        if matches!(*place, Place::Gone(_)) {
            // Deleted while it is read: the object is still there.
            return Ok(OpenKind::Remote);
        }
        match self.lower_file(&handle.inode, &place, OFlags::RDONLY)? {
            Some(file) => {
                handle.set_file(Arc::new(file));
                Ok(OpenKind::Local)
            }
            None => Ok(OpenKind::Remote),
        }
    }

    /// Reads. Waits for the archive if `source` says `Remote`.
    ///
    /// # Errors
    /// As `pread`.
    pub fn read(&self, handle: u64, offset: u64, len: usize) -> Result<Bytes> {
        let handle = self.handles.get(handle)?;
        match handle.file() {
            Some(file) => read_local(&file, offset, len),
            None => {
                let path = self.path_of(&handle.inode);
                let read = self.archive.read(handle.inode.id, Path::new(&path), offset, len);
                read.map_err(VfsError::Remote)
            }
        }
    }

    /// Writes at a position, all of it or as much as there is room for.
    ///
    /// # Errors
    /// As `pwrite`.
    pub fn write(&self, handle: u64, offset: u64, bytes: &[u8]) -> Result<usize> {
        let handle = self.handles.get(handle)?;
        let file = handle.file().filter(|_| handle.writable).ok_or(Errno::BADF)?;
        let mut done = 0;
        while let Some(rest) = bytes.get(done..).filter(|r| !r.is_empty()) {
            match rustix::io::pwrite(&*file, rest, offset + done as u64) {
                Ok(0) => break,
                Ok(n) => done += n,
                Err(Errno::INTR) => {}
                Err(errno) if done == 0 => return Err(errno.into()),
                Err(_) => break,
            }
        }
        Ok(done)
    }

    /// Writes and syncs, as an open with O_SYNC wants: call it on a worker.
    ///
    /// # Errors
    /// As `pwrite`, `fsync`.
    pub fn write_synced(&self, handle: u64, offset: u64, bytes: &[u8]) -> Result<usize> {
        let written = self.write(handle, offset, bytes)?;
        self.fsync(handle, false)?;
        Ok(written)
    }

    /// Closes a handle. The last writer's close makes the recording closed.
    pub fn release(&self, handle: u64) {
        let Some(handle) = self.handles.remove(handle) else { return };
        self.close(&handle.inode, handle.writable, handle.file().as_deref());
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
                if let Some(stat) = file.and_then(|f| stat_file(f).ok()) {
                    opens.cached = Some(stat.version);
                    if opens.writers == 0 {
                        self.record_closed(inode.id, &stat);
                    }
                }
            }
            opens.handles == 0
        };
        if last_handle {
            if matches!(*inode.place(), Place::Held) {
                self.let_go(inode.id);
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

    /// Syncs an open file: call it on a worker.
    ///
    /// # Errors
    /// As `fsync`.
    pub fn fsync(&self, handle: u64, data_only: bool) -> Result<()> {
        match self.handles.get(handle)?.file() {
            None => Ok(()),
            Some(file) if data_only => Ok(rustix::fs::fdatasync(&*file)?),
            Some(file) => Ok(rustix::fs::fsync(&*file)?),
        }
    }

    /// Syncs a directory: call it on a worker.
    ///
    /// # Errors
    /// As `fsync`.
    pub fn fsync_dir(&self, id: NodeId) -> Result<()> {
        let inode = self.inode(id)?;
        if matches!(*inode.place(), Place::Gone(_)) {
            return Ok(());
        }
        let dir = self.dir(&inode)?;
        Ok(rustix::fs::fsync(&dir.as_file()?)?)
    }

    /// Reserves, frees or moves space of an open file.
    ///
    /// # Errors
    /// As `fallocate`.
    pub fn fallocate(
        &self,
        handle: u64,
        mode: FallocateFlags,
        offset: u64,
        len: u64,
    ) -> Result<()> {
        let file = self.writable_file(handle)?;
        Ok(rustix::fs::fallocate(&*file, mode, offset, len)?)
    }

    fn writable_file(&self, handle: u64) -> Result<Arc<File>> {
        let handle: Arc<Handle> = self.handles.get(handle)?;
        Ok(handle.file().filter(|_| handle.writable).ok_or(Errno::BADF)?)
    }

    /// Finds data or a hole. A released recording is one extent of data: programs that skip
    /// holes must read it.
    ///
    /// # Errors
    /// `NXIO` beyond the end.
    pub fn seek(&self, handle: u64, id: NodeId, from: SeekFrom) -> Result<u64> {
        if let Some(file) = self.handles.get(handle)?.file() {
            return Ok(rustix::fs::seek(&*file, from)?);
        }
        let size = self.getattr(id, None)?.size;
        match from {
            SeekFrom::Data(at) if at < size => Ok(at),
            SeekFrom::Hole(at) if at < size => Ok(size),
            SeekFrom::Data(_) | SeekFrom::Hole(_) => Err(Errno::NXIO.into()),
            _ => Err(Errno::INVAL.into()),
        }
    }

    /// Copies between two open local files without passing the bytes through the caller.
    ///
    /// # Errors
    /// `OPNOTSUPP` if one is released: the caller then reads and writes.
    pub fn copy(&self, from: (u64, u64), to: (u64, u64), len: usize) -> Result<usize> {
        let source = self.handles.get(from.0)?.file().ok_or(Errno::OPNOTSUPP)?;
        let target = self.writable_file(to.0)?;
        let (mut at, mut into) = (from.1, to.1);
        let copied =
            rustix::fs::copy_file_range(&*source, Some(&mut at), &*target, Some(&mut into), len)?;
        Ok(copied)
    }
}

fn read_local(file: &File, offset: u64, len: usize) -> Result<Bytes> {
    let mut buffer = vec![0u8; len];
    let mut done = 0;
    while let Some(rest) = buffer.get_mut(done..).filter(|r| !r.is_empty()) {
        match file.read_at(rest, offset + done as u64) {
            Ok(0) => break,
            Ok(n) => done += n,
            Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
            Err(e) => {
                let errno = e.raw_os_error().map_or(Errno::IO, Errno::from_raw_os_error);
                return Err(errno.into());
            }
        }
    }
    buffer.truncate(done);
    Ok(buffer.into())
}

/// Whether the kernel's pages of `cached` are right for `now`. A recalled or released copy is
/// another lower file with the same content.
fn same_content(cached: Option<&LowerVersion>, now: &LowerVersion) -> bool {
    cached.is_some_and(|c| {
        c.size == now.size && c.mtime == now.mtime && (c.ino != now.ino || c.ctime == now.ctime)
    })
}
