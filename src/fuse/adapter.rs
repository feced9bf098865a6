//! fuser's requests as calls of `vfs`, and its answers as replies.

use super::connection::{Handshake, Wanted, negotiate};
use super::contain::Watch;
use super::convert::{
    TTL, attributes, caller, created, data, dot_attr, empty, entry, file_attr, flags, listed_type,
    node, opened, seek_from, set_time, sought, statfs, written, xattr,
};
use super::errno::errno;
use super::on_worker::on_worker;
use crate::recording::Reader;
use crate::vfs::{OpenKind, Patience, SetAttr, Vfs, VfsError, Waits};
use fuser::{
    AccessFlags, BsdFileFlags, CopyFileRangeFlags, Errno, FileHandle, Filesystem, FopenFlags,
    Generation, INodeNo, IoctlFlags, KernelConfig, LockOwner, OpenFlags, RenameFlags, ReplyAttr,
    ReplyCreate, ReplyData, ReplyDirectory, ReplyDirectoryPlus, ReplyEmpty, ReplyEntry, ReplyIoctl,
    ReplyLseek, ReplyOpen, ReplyStatfs, ReplyWrite, ReplyXattr, Request, TimeOrNow, WriteFlags,
};
use parking_lot::Mutex;
use rustix::fs::{FallocateFlags, OFlags};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

pub(super) struct Adapter {
    pub(super) vfs: Arc<Vfs>,
    want: Wanted,
    handshake: Arc<Mutex<Handshake>>,
    watch: Arc<Watch>,
}

impl Adapter {
    /// The adapter, and where it says what was agreed on with the kernel.
    pub fn new(vfs: Arc<Vfs>, want: Wanted, watch: Arc<Watch>) -> (Adapter, Arc<Mutex<Handshake>>) {
        let handshake = Arc::new(Mutex::new(Handshake::default()));
        (Adapter { vfs, want, handshake: handshake.clone(), watch }, handshake)
    }
}

impl Filesystem for Adapter {
    fn init(&mut self, _req: &Request, config: &mut KernelConfig) -> std::io::Result<()> {
        *self.handshake.lock() = negotiate(config, self.want);
        Ok(())
    }

    fn lookup(&self, _req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        self.watch.contain("lookup", parent.0, || {
            self.look_up(node(parent), name.as_bytes(), reply);
        });
    }

    fn forget(&self, _req: &Request, ino: INodeNo, nlookup: u64) {
        self.watch.contain("forget", ino.0, || {
            self.vfs.forget(node(ino), nlookup);
        });
    }

    fn getattr(&self, _req: &Request, ino: INodeNo, fh: Option<FileHandle>, reply: ReplyAttr) {
        self.watch.contain("getattr", ino.0, || {
            let id = node(ino);
            attributes(id, self.vfs.getattr(id, fh.map(|f| f.0)), reply);
        });
    }

    fn setattr(
        &self,
        req: &Request,
        ino: INodeNo,
        mode: Option<u32>,
        uid: Option<u32>,
        gid: Option<u32>,
        size: Option<u64>,
        atime: Option<TimeOrNow>,
        mtime: Option<TimeOrNow>,
        _ctime: Option<SystemTime>,
        fh: Option<FileHandle>,
        _crtime: Option<SystemTime>,
        _chgtime: Option<SystemTime>,
        _bkuptime: Option<SystemTime>,
        _flags: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        self.watch.contain("setattr", ino.0, || {
            let id = node(ino);
            let (atime, mtime) = (atime.map(set_time), mtime.map(set_time));
            let set = SetAttr { mode, uid, gid, size, atime, mtime };
            let fh = fh.map(|f| f.0);
            let caller = caller(req, 0);
            match self.vfs.setattr(caller, id, set, fh, Patience::None) {
                Err(VfsError::MustWait(waits)) => on_worker!(self, waits, reply, |vfs| {
                    attributes(id, vfs.setattr(caller, id, set, fh, Patience::Worker), reply);
                }),
                result => attributes(id, result, reply),
            }
        });
    }

    fn readlink(&self, _req: &Request, ino: INodeNo, reply: ReplyData) {
        self.watch.contain("readlink", ino.0, || {
            data(self.vfs.readlink(node(ino)).map(Into::into), reply);
        });
    }

    fn mknod(
        &self,
        req: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        rdev: u32,
        reply: ReplyEntry,
    ) {
        self.watch.contain("mknod", parent.0, || {
            let made =
                self.vfs.mknod(caller(req, umask), node(parent), name.as_bytes(), mode, rdev);
            entry(made, reply);
        });
    }

    fn mkdir(
        &self,
        req: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        reply: ReplyEntry,
    ) {
        self.watch.contain("mkdir", parent.0, || {
            entry(self.vfs.mkdir(caller(req, umask), node(parent), name.as_bytes(), mode), reply);
        });
    }

    fn unlink(&self, req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        self.watch.contain("unlink", parent.0, || {
            empty(self.vfs.unlink(caller(req, 0), node(parent), name.as_bytes()), reply);
        });
    }

    fn rmdir(&self, req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        self.watch.contain("rmdir", parent.0, || {
            empty(self.vfs.rmdir(caller(req, 0), node(parent), name.as_bytes()), reply);
        });
    }

    fn symlink(
        &self,
        req: &Request,
        parent: INodeNo,
        link_name: &OsStr,
        target: &Path,
        reply: ReplyEntry,
    ) {
        self.watch.contain("symlink", parent.0, || {
            let (name, target) = (link_name.as_bytes(), target.as_os_str().as_bytes());
            entry(self.vfs.symlink(caller(req, 0), node(parent), name, target), reply);
        });
    }

    fn rename(
        &self,
        req: &Request,
        parent: INodeNo,
        name: &OsStr,
        newparent: INodeNo,
        newname: &OsStr,
        flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        self.watch.contain("rename", parent.0, || {
            let flags = rustix::fs::RenameFlags::from_bits_retain(flags.bits());
            let from = (node(parent), name.as_bytes());
            let to = (node(newparent), newname.as_bytes());
            empty(self.vfs.rename(caller(req, 0), from, to, flags), reply);
        });
    }

    fn link(
        &self,
        req: &Request,
        ino: INodeNo,
        newparent: INodeNo,
        newname: &OsStr,
        reply: ReplyEntry,
    ) {
        self.watch.contain("link", ino.0, || {
            let (id, parent, name) = (node(ino), node(newparent), newname.as_bytes());
            let caller = caller(req, 0);
            match self.vfs.link(caller, id, parent, name, Patience::None) {
                Err(VfsError::MustWait(waits)) => {
                    let name = name.to_vec();
                    on_worker!(self, waits, reply, |vfs| {
                        entry(vfs.link(caller, id, parent, &name, Patience::Worker), reply);
                    });
                }
                result => entry(result, reply),
            }
        });
    }

    fn open(&self, req: &Request, ino: INodeNo, of: OpenFlags, reply: ReplyOpen) {
        self.watch.contain("open", ino.0, || {
            let (caller, id, flags) = (caller(req, 0), node(ino), flags(of.0));
            match self.vfs.open(caller, id, flags, Patience::None) {
                Err(VfsError::MustWait(waits)) => on_worker!(self, waits, reply, |vfs| {
                    opened(vfs.open(caller, id, flags, Patience::Worker), reply);
                }),
                result => opened(result, reply),
            }
        });
    }

    fn read(
        &self,
        req: &Request,
        ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        size: u32,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        self.watch.contain("read", ino.0, || {
            let (id, len) = (node(ino), size as usize);
            let reader = Reader { pid: req.pid(), uid: req.uid() };
            if Vfs::is_virtual(id) {
                return self.read_join(reader, (id, offset, len), reply);
            }
            match self.vfs.source(fh.0, offset, len) {
                Ok(OpenKind::Local) => data(self.vfs.read(fh.0, offset, len), reply),
                Ok(OpenKind::Remote) => match self.vfs.read_ready(fh.0, offset, len) {
                    // Two threads fewer to be woken: most reads of who reads on are such.
                    Some(bytes) => reply.data(&bytes),
                    None => on_worker!(self, Waits::Archive, reply, |vfs| {
                        vfs.admit(reader, fh.0);
                        data(vfs.read(fh.0, offset, len), reply);
                    }),
                },
                Err(error) => reply.error(errno(&error)),
            }
        });
    }

    fn write(
        &self,
        req: &Request,
        ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        data: &[u8],
        _write_flags: WriteFlags,
        of: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        self.watch.contain("write", ino.0, || {
            let caller = caller(req, 0);
            if flags(of.0).intersects(OFlags::SYNC | OFlags::DSYNC) {
                let data = data.to_vec();
                on_worker!(self, Waits::Disk, reply, |vfs| {
                    written(vfs.write_synced(caller, fh.0, offset, &data), reply);
                });
            } else {
                written(self.vfs.write(caller, fh.0, offset, data), reply);
            }
        });
    }

    /// Each fork of Asterisk would send one for every recording in progress. ENOSYS ends that for
    /// good; only RELEASE means closed.
    fn flush(
        &self,
        _req: &Request,
        ino: INodeNo,
        _fh: FileHandle,
        _lock_owner: LockOwner,
        reply: ReplyEmpty,
    ) {
        self.watch.contain("flush", ino.0, || {
            reply.error(Errno::ENOSYS);
        });
    }

    fn release(
        &self,
        _req: &Request,
        ino: INodeNo,
        fh: FileHandle,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        _flush: bool,
        reply: ReplyEmpty,
    ) {
        self.watch.contain("release", ino.0, || {
            self.vfs.release_of(node(ino), fh.0);
            reply.ok();
        });
    }

    fn fsync(
        &self,
        _req: &Request,
        ino: INodeNo,
        fh: FileHandle,
        datasync: bool,
        reply: ReplyEmpty,
    ) {
        self.watch.contain("fsync", ino.0, || {
            on_worker!(self, Waits::Disk, reply, |vfs| empty(vfs.fsync(fh.0, datasync), reply));
        });
    }

    fn opendir(&self, req: &Request, ino: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        self.watch.contain("opendir", ino.0, || {
            match self.vfs.open_dir(caller(req, 0), node(ino)) {
                Ok(handle) => reply.opened(FileHandle(handle), FopenFlags::empty()),
                Err(error) => reply.error(errno(&error)),
            }
        });
    }

    fn readdir(
        &self,
        _req: &Request,
        ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        mut reply: ReplyDirectory,
    ) {
        self.watch.contain("readdir", ino.0, || {
            if Vfs::is_virtual(node(ino)) {
                return self.list_joins(offset, reply);
            }
            let listed = self.vfs.list(fh.0, offset, false, &mut |e, _| {
                let name = OsStr::from_bytes(&e.name);
                !reply.add(INodeNo(e.id.0), e.next, listed_type(e.kind), name)
            });
            match listed {
                Ok(()) => reply.ok(),
                Err(error) => reply.error(errno(&error)),
            }
        });
    }

    fn readdirplus(
        &self,
        _req: &Request,
        ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        mut reply: ReplyDirectoryPlus,
    ) {
        self.watch.contain("readdirplus", ino.0, || {
            if Vfs::is_virtual(node(ino)) {
                return self.list_joins_plus(offset, reply);
            }
            let listed = self.vfs.list(fh.0, offset, true, &mut |e, full| {
                let name = OsStr::from_bytes(&e.name);
                match full {
                    Some(full) => {
                        let attr = file_attr(full.id, &full.attr);
                        !reply.add(attr.ino, e.next, name, &TTL, &attr, Generation(0))
                    }
                    // `.` and `..`: the kernel counts no reference for them.
                    None => {
                        let attr = file_attr(e.id, &dot_attr());
                        !reply.add(attr.ino, e.next, name, &Duration::ZERO, &attr, Generation(0))
                    }
                }
            });
            match listed {
                Ok(()) => reply.ok(),
                Err(error) => reply.error(errno(&error)),
            }
        });
    }

    fn releasedir(
        &self,
        _req: &Request,
        ino: INodeNo,
        fh: FileHandle,
        _flags: OpenFlags,
        reply: ReplyEmpty,
    ) {
        self.watch.contain("releasedir", ino.0, || {
            self.vfs.release_dir(fh.0);
            reply.ok();
        });
    }

    fn fsyncdir(
        &self,
        _req: &Request,
        ino: INodeNo,
        _fh: FileHandle,
        _datasync: bool,
        reply: ReplyEmpty,
    ) {
        self.watch.contain("fsyncdir", ino.0, || {
            let id = node(ino);
            on_worker!(self, Waits::Disk, reply, |vfs| empty(vfs.fsync_dir(id), reply));
        });
    }

    fn statfs(&self, _req: &Request, ino: INodeNo, reply: ReplyStatfs) {
        self.watch.contain("statfs", ino.0, || statfs(self.vfs.statfs(), reply));
    }

    fn setxattr(
        &self,
        req: &Request,
        ino: INodeNo,
        name: &OsStr,
        value: &[u8],
        flags: i32,
        _position: u32,
        reply: ReplyEmpty,
    ) {
        self.watch.contain("setxattr", ino.0, || {
            let flags = flags.cast_unsigned();
            empty(
                self.vfs.setxattr(caller(req, 0), node(ino), name.as_bytes(), value, flags),
                reply,
            );
        });
    }

    fn getxattr(&self, _req: &Request, ino: INodeNo, name: &OsStr, size: u32, reply: ReplyXattr) {
        self.watch.contain("getxattr", ino.0, || {
            xattr(self.vfs.getxattr(node(ino), name.as_bytes()), size, reply);
        });
    }

    fn listxattr(&self, _req: &Request, ino: INodeNo, size: u32, reply: ReplyXattr) {
        self.watch.contain("listxattr", ino.0, || {
            let names = self
                .vfs
                .listxattr(node(ino))
                .map(|names| names.iter().flat_map(|n| n.iter().copied().chain([0])).collect());
            xattr(names, size, reply);
        });
    }

    fn removexattr(&self, req: &Request, ino: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        self.watch.contain("removexattr", ino.0, || {
            empty(self.vfs.removexattr(caller(req, 0), node(ino), name.as_bytes()), reply);
        });
    }

    /// The kernel checks permissions itself.
    fn access(&self, _req: &Request, ino: INodeNo, _mask: AccessFlags, reply: ReplyEmpty) {
        self.watch.contain("access", ino.0, || {
            reply.error(Errno::ENOSYS);
        });
    }

    fn create(
        &self,
        req: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        of: i32,
        reply: ReplyCreate,
    ) {
        self.watch.contain("create", parent.0, || {
            let caller = caller(req, umask);
            let made = self.vfs.create(caller, node(parent), name.as_bytes(), mode, flags(of));
            created(made, reply);
        });
    }

    fn fallocate(
        &self,
        req: &Request,
        ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        length: u64,
        mode: i32,
        reply: ReplyEmpty,
    ) {
        self.watch.contain("fallocate", ino.0, || {
            let mode = FallocateFlags::from_bits_retain(mode.cast_unsigned());
            empty(self.vfs.fallocate(caller(req, 0), fh.0, mode, offset, length), reply);
        });
    }

    /// There are none. Whoever asks whether a file is a terminal comes here: no word in the log.
    fn ioctl(
        &self,
        _req: &Request,
        ino: INodeNo,
        _fh: FileHandle,
        _flags: IoctlFlags,
        _cmd: u32,
        _in_data: &[u8],
        _out_size: u32,
        reply: ReplyIoctl,
    ) {
        self.watch.contain("ioctl", ino.0, || reply.error(Errno::ENOTTY));
    }

    fn lseek(
        &self,
        _req: &Request,
        ino: INodeNo,
        fh: FileHandle,
        offset: i64,
        whence: i32,
        reply: ReplyLseek,
    ) {
        self.watch.contain("lseek", ino.0, || {
            let from = seek_from(whence, offset);
            sought(from.and_then(|from| self.vfs.seek(fh.0, node(ino), from)), reply);
        });
    }

    fn copy_file_range(
        &self,
        req: &Request,
        ino_in: INodeNo,
        fh_in: FileHandle,
        offset_in: u64,
        _ino_out: INodeNo,
        fh_out: FileHandle,
        offset_out: u64,
        len: u64,
        _flags: CopyFileRangeFlags,
        reply: ReplyWrite,
    ) {
        self.watch.contain("copy_file_range", ino_in.0, || {
            // Short copies are allowed; a long one would keep this thread from other callers.
            let len = usize::try_from(len.min(8 << 20)).unwrap_or(8 << 20);
            let (from, to) = ((fh_in.0, offset_in), (fh_out.0, offset_out));
            written(self.vfs.copy(caller(req, 0), from, to, len), reply);
        });
    }
}
