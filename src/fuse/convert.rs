//! Values of `vfs` as fuser wants them, and results as replies.

use super::connection::RESENT;
use super::errno::errno;
use crate::clock::Timestamp;
use crate::lower::SetTime;
use crate::recording::{Attr, Kind, NodeId};
use crate::sys;
use crate::vfs::{Caller, Entry, Opened};
use fuser::{
    Errno, FileAttr, FileHandle, FileType, FopenFlags, Generation, INodeNo, ReplyAttr, ReplyCreate,
    ReplyData, ReplyEmpty, ReplyEntry, ReplyLseek, ReplyOpen, ReplyStatfs, ReplyWrite, ReplyXattr,
    Request, TimeOrNow,
};
use rustix::fs::{OFlags, SeekFrom, StatVfs};
use std::time::{Duration, SystemTime};

/// How long the kernel may answer from what it was told: short, because files can also change
/// below, behind the mount, and their size must be right.
pub(super) const TTL: Duration = Duration::from_secs(1);

pub(super) fn node(ino: INodeNo) -> NodeId {
    NodeId(ino.0)
}

pub(super) fn caller(req: &Request, umask: u32) -> Caller {
    let unique = req.unique().0;
    let (uid, gid, resent) = (req.uid(), req.gid(), unique & RESENT != 0);
    Caller { unique: unique & !RESENT, resent, uid, gid, pid: req.pid(), umask }
}

pub(super) fn flags(flags: i32) -> OFlags {
    OFlags::from_bits_retain(flags.cast_unsigned())
}

pub(super) fn file_type(attr: &Attr) -> FileType {
    match attr.kind {
        Kind::File => FileType::RegularFile,
        Kind::Dir => FileType::Directory,
        Kind::Symlink => FileType::Symlink,
        Kind::Other => match rustix::fs::FileType::from_raw_mode(attr.special) {
            rustix::fs::FileType::Socket => FileType::Socket,
            rustix::fs::FileType::CharacterDevice => FileType::CharDevice,
            rustix::fs::FileType::BlockDevice => FileType::BlockDevice,
            _ => FileType::NamedPipe,
        },
    }
}

pub(super) fn listed_type(kind: Kind) -> FileType {
    match kind {
        Kind::File => FileType::RegularFile,
        Kind::Dir => FileType::Directory,
        Kind::Symlink => FileType::Symlink,
        Kind::Other => FileType::NamedPipe,
    }
}

pub(super) fn file_attr(id: NodeId, attr: &Attr) -> FileAttr {
    FileAttr {
        ino: INodeNo(id.0),
        size: attr.size,
        blocks: attr.blocks,
        atime: attr.atime.into(),
        mtime: attr.mtime.into(),
        ctime: attr.ctime.into(),
        crtime: SystemTime::UNIX_EPOCH,
        kind: file_type(attr),
        // Twelve bits by construction.
        perm: (attr.mode & 0o7777) as u16,
        nlink: attr.nlink,
        uid: attr.uid,
        gid: attr.gid,
        rdev: attr.rdev,
        blksize: 4096,
        flags: 0,
    }
}

pub(super) fn open_flags(opened: &Opened) -> FopenFlags {
    if opened.keep_cache { FopenFlags::FOPEN_KEEP_CACHE } else { FopenFlags::empty() }
}

pub(super) fn entry(result: crate::vfs::Result<Entry>, reply: ReplyEntry) {
    match result {
        Ok(e) => reply.entry(&TTL, &file_attr(e.id, &e.attr), Generation(0)),
        Err(error) => reply.error(errno(&error)),
    }
}

pub(super) fn created(result: crate::vfs::Result<(Entry, Opened)>, reply: ReplyCreate) {
    match result {
        Ok((e, o)) => {
            let (attr, handle) = (file_attr(e.id, &e.attr), FileHandle(o.handle));
            match o.backing {
                Some(number) => sys::fuse::created_passthrough(reply, TTL, &attr, handle, number),
                None => reply.created(&TTL, &attr, Generation(0), handle, open_flags(&o)),
            }
        }
        Err(error) => reply.error(errno(&error)),
    }
}

pub(super) fn empty(result: crate::vfs::Result<()>, reply: ReplyEmpty) {
    match result {
        Ok(()) => reply.ok(),
        Err(error) => reply.error(errno(&error)),
    }
}

pub(super) fn attributes(id: NodeId, result: crate::vfs::Result<Attr>, reply: ReplyAttr) {
    match result {
        Ok(attr) => reply.attr(&TTL, &file_attr(id, &attr)),
        Err(error) => reply.error(errno(&error)),
    }
}

pub(super) fn written(result: crate::vfs::Result<usize>, reply: ReplyWrite) {
    match result {
        Ok(n) => reply.written(u32::try_from(n).unwrap_or(u32::MAX)),
        Err(error) => reply.error(errno(&error)),
    }
}

pub(super) fn opened(result: crate::vfs::Result<Opened>, reply: ReplyOpen) {
    match result {
        Ok(Opened { handle, backing: Some(number), direct, .. }) => {
            // Goes before the backing file in reads and writes.
            let flags = if direct { FopenFlags::FOPEN_DIRECT_IO } else { FopenFlags::empty() };
            sys::fuse::opened_passthrough(reply, FileHandle(handle), number, flags);
        }
        Ok(o) => reply.opened(FileHandle(o.handle), open_flags(&o)),
        Err(error) => reply.error(errno(&error)),
    }
}

pub(super) fn sought(result: crate::vfs::Result<u64>, reply: ReplyLseek) {
    match result {
        Ok(at) => reply.offset(i64::try_from(at).unwrap_or(i64::MAX)),
        Err(error) => reply.error(errno(&error)),
    }
}

pub(super) fn statfs(result: crate::vfs::Result<StatVfs>, reply: ReplyStatfs) {
    match result {
        Ok(s) => reply.statfs(
            s.f_blocks,
            s.f_bfree,
            s.f_bavail,
            s.f_files,
            s.f_ffree,
            u32::try_from(s.f_bsize).unwrap_or(4096),
            u32::try_from(s.f_namemax).unwrap_or(255),
            u32::try_from(s.f_frsize).unwrap_or(4096),
        ),
        Err(error) => reply.error(errno(&error)),
    }
}

pub(super) fn data(result: crate::vfs::Result<bytes::Bytes>, reply: ReplyData) {
    match result {
        Ok(bytes) => reply.data(&bytes),
        Err(error) => {
            if let crate::vfs::VfsError::Remote(remote) = &error {
                tracing::warn!(%remote, "a released recording, or a join, could not be read");
            }
            reply.error(errno(&error));
        }
    }
}

/// Names or values of extended attributes: their length if nothing else is wanted.
pub(super) fn xattr(result: crate::vfs::Result<Vec<u8>>, size: u32, reply: ReplyXattr) {
    match result {
        Ok(value) => match u32::try_from(value.len()) {
            Ok(len) if size == 0 => reply.size(len),
            Ok(len) if len <= size => reply.data(&value),
            _ => reply.error(Errno::ERANGE),
        },
        Err(error) => reply.error(errno(&error)),
    }
}

pub(super) fn set_time(time: TimeOrNow) -> SetTime {
    match time {
        TimeOrNow::Now => SetTime::Now,
        TimeOrNow::SpecificTime(t) => SetTime::At(Timestamp::from(t)),
    }
}

/// The kernel takes nothing from the attributes of `.` and `..` but that they are directories.
pub(super) fn dot_attr() -> Attr {
    Attr {
        kind: Kind::Dir,
        mode: 0o755,
        uid: 0,
        gid: 0,
        size: 0,
        mtime: Timestamp(0),
        atime: Timestamp(0),
        ctime: Timestamp(0),
        nlink: 2,
        rdev: 0,
        blocks: 0,
        special: 0,
    }
}

/// Only data and holes are asked for here; the kernel knows the other positions.
pub(super) fn seek_from(whence: i32, offset: i64) -> crate::vfs::Result<SeekFrom> {
    let wrong = |errno| Err(crate::vfs::VfsError::Kernel(errno));
    match (whence, u64::try_from(offset)) {
        (libc::SEEK_DATA, Ok(at)) => Ok(SeekFrom::Data(at)),
        (libc::SEEK_HOLE, Ok(at)) => Ok(SeekFrom::Hole(at)),
        (libc::SEEK_DATA | libc::SEEK_HOLE, Err(_)) => wrong(rustix::io::Errno::NXIO),
        _ => wrong(rustix::io::Errno::INVAL),
    }
}
