//! One lower directory, by descriptor: everything that can be done to a name in it.

use super::{LowerStat, identity};
use crate::clock::Timestamp;
use crate::faults;
use crate::recording::{Attr, Kind, LowerVersion, NodeId};
use rustix::fs::{
    AtFlags, FileType, Gid, Mode, OFlags, RawDir, RenameFlags, ResolveFlags, StatVfs, StatxFlags,
    Timespec, Timestamps, Uid, XattrFlags,
};
use rustix::io::{Errno, Result};
use std::fs::File;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;

/// Name of the private directory in the root: four bytes, because VICIdial's scripts move what is
/// longer.
pub(super) const PRIVATE: &[u8] = b".spl";

/// A directory of the lower tree. It stays the same directory when it or a parent is renamed.
#[derive(Clone, Debug)]
pub struct Dir {
    fd: Arc<OwnedFd>,
    is_root: bool,
}

/// Times to set: `None` leaves one as it is.
#[derive(Clone, Copy, Debug, Default)]
pub struct Times {
    /// Last access.
    pub atime: Option<SetTime>,
    /// Last change.
    pub mtime: Option<SetTime>,
}

/// One time to set.
#[derive(Clone, Copy, Debug)]
pub enum SetTime {
    /// The present, by the kernel's clock.
    Now,
    /// This instant.
    At(Timestamp),
}

const CLOEXEC: OFlags = OFlags::CLOEXEC;

impl Dir {
    pub(super) fn open_root(path: &Path) -> Result<Dir> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | CLOEXEC;
        let fd = rustix::fs::open(path, flags, Mode::empty())?;
        Ok(Dir { fd: Arc::new(fd), is_root: true })
    }

    pub(super) fn from_fd(fd: OwnedFd) -> Dir {
        Dir { fd: Arc::new(fd), is_root: true }
    }

    /// Refuses what is no plain name, and the private directory.
    fn name<'n>(&self, name: &'n [u8]) -> Result<&'n [u8]> {
        if name.is_empty() || name == b"." || name == b".." || name.contains(&b'/') {
            return Err(Errno::INVAL);
        }
        if self.is_root && name == PRIVATE {
            return Err(Errno::NOENT);
        }
        Ok(name)
    }

    /// The same for a name that is about to be made: the private directory's can not be had.
    fn new_name<'n>(&self, name: &'n [u8]) -> Result<&'n [u8]> {
        self.name(name).map_err(|e| if e == Errno::NOENT { Errno::PERM } else { e })
    }

    fn open2(&self, path: &[u8], flags: OFlags, mode: Mode) -> Result<OwnedFd> {
        faults::fail("lower.open")?;
        let resolve = ResolveFlags::BENEATH
            | ResolveFlags::NO_SYMLINKS
            | ResolveFlags::NO_MAGICLINKS
            | ResolveFlags::NO_XDEV;
        rustix::fs::openat2(&*self.fd, path, flags | CLOEXEC, mode, resolve)
    }

    /// The directory at a relative path; "" is this one.
    pub(super) fn descend(&self, path: &Path) -> Result<Dir> {
        let bytes = path.as_os_str().as_bytes();
        if bytes.is_empty() {
            return Ok(self.clone());
        }
        let private = path.components().next().map(|c| c.as_os_str().as_bytes()) == Some(PRIVATE);
        if self.is_root && private {
            return Err(Errno::NOENT);
        }
        self.open_dir(bytes)
    }

    /// A directory in this one.
    pub fn subdir(&self, name: &[u8]) -> Result<Dir> {
        self.open_dir(self.name(name)?)
    }

    pub(super) fn open_dir(&self, path: &[u8]) -> Result<Dir> {
        let fd = self.open2(path, OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty())?;
        Ok(Dir { fd: Arc::new(fd), is_root: false })
    }

    /// Looks at a name, or with "" at the directory itself; a symbolic link is not followed.
    pub fn stat(&self, name: &[u8]) -> Result<LowerStat> {
        if name.is_empty() {
            return self.stat_self();
        }
        let name = self.name(name)?;
        let (attr, version) = statx(&*self.fd, name, AtFlags::SYMLINK_NOFOLLOW)?;
        let get =
            |value: &mut [u8]| rustix::fs::lgetxattr(self.proc_path(name), identity::XATTR, value);
        let node = match node_of(version.ino, get) {
            // Removed since, or /proc is: of a name that is there nobody may hear that it is gone.
            Err(Errno::NOENT) => {
                statx(&*self.fd, name, AtFlags::SYMLINK_NOFOLLOW)?;
                return Err(Errno::STALE);
            }
            node => node?,
        };
        Ok(LowerStat { attr, version, node })
    }

    /// Looks at this directory itself.
    pub fn stat_self(&self) -> Result<LowerStat> {
        stat_file(&*self.fd)
    }

    /// `/proc/self/fd/<dir>/<name>`, for the calls that have no `*at` variant. The last step must
    /// not follow a link: only the `l*xattr` calls may use it.
    fn proc_path(&self, name: &[u8]) -> Vec<u8> {
        let mut path = format!("/proc/self/fd/{}/", self.fd.as_raw_fd()).into_bytes();
        path.extend_from_slice(name);
        path
    }

    /// The path of a name for the extended attribute calls; "" is the directory itself.
    fn xattr_path(&self, name: &[u8]) -> Result<Vec<u8>> {
        Ok(self.proc_path(if name.is_empty() { b"." } else { self.name(name)? }))
    }

    pub(super) fn identify_self(&self, id: NodeId) -> Result<()> {
        let (_, version) = statx(&*self.fd, b"", AtFlags::EMPTY_PATH)?;
        let value = identity::encode(id, version.ino);
        rustix::fs::fsetxattr(&*self.fd, identity::XATTR, &value, XattrFlags::empty())
    }

    /// Gives a name its identity.
    pub fn identify(&self, name: &[u8], id: NodeId) -> Result<()> {
        let name = self.name(name)?;
        let (_, version) = statx(&*self.fd, name, AtFlags::SYMLINK_NOFOLLOW)?;
        let value = identity::encode(id, version.ino);
        rustix::fs::lsetxattr(self.proc_path(name), identity::XATTR, &value, XattrFlags::empty())
    }

    /// Opens a file of this directory; a symbolic link is refused (ELOOP).
    pub fn open(&self, name: &[u8], flags: OFlags) -> Result<File> {
        let fd = self.open2(self.name(name)?, flags | OFlags::NOFOLLOW, Mode::empty())?;
        Ok(File::from(fd))
    }

    /// Makes and opens a regular file; fails if the name is taken.
    pub fn create(&self, name: &[u8], flags: OFlags, mode: u32) -> Result<File> {
        let flags = flags | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW;
        let fd = self.open2(self.new_name(name)?, flags, bits(mode))?;
        Ok(File::from(fd))
    }

    /// Makes a directory.
    pub fn mkdir(&self, name: &[u8], mode: u32) -> Result<()> {
        faults::fail("lower.mkdir")?;
        rustix::fs::mkdirat(&*self.fd, self.new_name(name)?, bits(mode))
    }

    /// Makes a file of any kind but directories and links.
    pub fn mknod(&self, name: &[u8], kind: u32, mode: u32, rdev: u32) -> Result<()> {
        let kind = FileType::from_raw_mode(kind);
        let device = u64::from(rdev);
        rustix::fs::mknodat(&*self.fd, self.new_name(name)?, kind, bits(mode), device)
    }

    /// Makes a symbolic link.
    pub fn symlink(&self, target: &[u8], name: &[u8]) -> Result<()> {
        rustix::fs::symlinkat(target, &*self.fd, self.new_name(name)?)
    }

    /// Reads a symbolic link.
    pub fn readlink(&self, name: &[u8]) -> Result<Vec<u8>> {
        let target = rustix::fs::readlinkat(&*self.fd, self.name(name)?, Vec::new())?;
        Ok(target.into_bytes())
    }

    /// A further name for a file; a symbolic link is itself linked.
    pub fn link(&self, name: &[u8], to: &Dir, new_name: &[u8]) -> Result<()> {
        faults::fail("lower.link")?;
        let (name, new_name) = (self.name(name)?, to.new_name(new_name)?);
        rustix::fs::linkat(&*self.fd, name, &*to.fd, new_name, AtFlags::empty())
    }

    /// Removes a name that is not a directory.
    pub fn unlink(&self, name: &[u8]) -> Result<()> {
        faults::fail("lower.unlink")?;
        rustix::fs::unlinkat(&*self.fd, self.name(name)?, AtFlags::empty())
    }

    /// Removes an empty directory.
    pub fn rmdir(&self, name: &[u8]) -> Result<()> {
        rustix::fs::unlinkat(&*self.fd, self.name(name)?, AtFlags::REMOVEDIR)
    }

    /// Moves a name.
    pub fn rename(&self, name: &[u8], to: &Dir, new_name: &[u8], flags: RenameFlags) -> Result<()> {
        faults::fail("lower.rename")?;
        let (name, new_name) = (self.name(name)?, to.new_name(new_name)?);
        rustix::fs::renameat_with(&*self.fd, name, &*to.fd, new_name, flags)
    }

    /// Sets permission bits.
    pub fn chmod(&self, name: &[u8], mode: u32) -> Result<()> {
        faults::fail("lower.chmod")?;
        let pinned = self.pin(name)?;
        rustix::fs::chmod(proc_fd(&pinned), bits(mode))
    }

    /// Sets owner and group.
    pub fn chown(&self, name: &[u8], uid: Option<u32>, gid: Option<u32>) -> Result<()> {
        let (uid, gid) = (uid.map(Uid::from_raw), gid.map(Gid::from_raw));
        rustix::fs::chownat(&*self.fd, self.name(name)?, uid, gid, AtFlags::SYMLINK_NOFOLLOW)
    }

    /// Sets times.
    pub fn utimens(&self, name: &[u8], times: Times) -> Result<()> {
        let name = self.name(name)?;
        rustix::fs::utimensat(&*self.fd, name, &timestamps(times), AtFlags::SYMLINK_NOFOLLOW)
    }

    /// Cuts or extends a file.
    pub fn truncate(&self, name: &[u8], size: u64) -> Result<()> {
        let file = self.open(name, OFlags::WRONLY | OFlags::NONBLOCK)?;
        rustix::fs::ftruncate(&file, size)
    }

    /// A descriptor that only names the file, whatever becomes of its name.
    pub(super) fn pin(&self, name: &[u8]) -> Result<OwnedFd> {
        self.open2(self.name(name)?, OFlags::PATH | OFlags::NOFOLLOW, Mode::empty())
    }

    /// The value of an extended attribute that users may see.
    pub fn getxattr(&self, name: &[u8], key: &[u8]) -> Result<Vec<u8>> {
        let path = self.xattr_path(name)?;
        let len = rustix::fs::lgetxattr_query(&*path, key)?;
        // Room for a value that grows meanwhile; a larger one is ERANGE, and the caller asks again.
        let mut value = vec![0u8; len + 64];
        let len = rustix::fs::lgetxattr(&*path, key, &mut value[..])?;
        value.truncate(len);
        Ok(value)
    }

    /// Names of all extended attributes that users may see.
    pub fn listxattr(&self, name: &[u8]) -> Result<Vec<Vec<u8>>> {
        let path = self.xattr_path(name)?;
        let mut list = vec![0u8; 65_536];
        let len = rustix::fs::llistxattr(&*path, &mut list[..])?;
        list.truncate(len);
        Ok(split_names(&list))
    }

    /// Sets an extended attribute.
    pub fn setxattr(&self, name: &[u8], key: &[u8], value: &[u8], flags: u32) -> Result<()> {
        let flags = XattrFlags::from_bits_retain(flags);
        rustix::fs::lsetxattr(self.xattr_path(name)?, key, value, flags)
    }

    /// Removes an extended attribute.
    pub fn removexattr(&self, name: &[u8], key: &[u8]) -> Result<()> {
        rustix::fs::lremovexattr(self.xattr_path(name)?, key)
    }

    /// Sets attributes of this directory itself.
    pub fn set_self(
        &self,
        mode: Option<u32>,
        owner: (Option<u32>, Option<u32>),
        times: Times,
    ) -> Result<()> {
        if owner.0.is_some() || owner.1.is_some() {
            let (uid, gid) = (owner.0.map(Uid::from_raw), owner.1.map(Gid::from_raw));
            rustix::fs::fchown(&*self.fd, uid, gid)?;
        }
        if let Some(mode) = mode {
            rustix::fs::fchmod(&*self.fd, bits(mode))?;
        }
        if times.atime.is_some() || times.mtime.is_some() {
            rustix::fs::futimens(&*self.fd, &timestamps(times))?;
        }
        Ok(())
    }

    /// This directory as a descriptor, for extended attributes of itself and fsync.
    pub fn as_file(&self) -> Result<File> {
        Ok(File::from(rustix::io::fcntl_dupfd_cloexec(&*self.fd, 0)?))
    }

    /// Space and limits of the file system.
    pub fn statvfs(&self) -> Result<StatVfs> {
        rustix::fs::fstatvfs(&*self.fd)
    }

    /// Opens the directory for listing.
    pub fn stream(&self) -> Result<DirStream> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | CLOEXEC;
        let fd = rustix::fs::openat(&*self.fd, c".", flags, Mode::empty())?;
        Ok(DirStream { fd, hide_private: self.is_root })
    }
}

/// A directory open for listing, with a position of its own.
#[derive(Debug)]
pub struct DirStream {
    fd: OwnedFd,
    hide_private: bool,
}

/// One entry of a listing.
#[derive(Debug)]
pub struct StreamEntry<'a> {
    /// The name; never `.`, `..` or the private directory.
    pub name: &'a [u8],
    /// What it is, if the file system tells.
    pub kind: Option<Kind>,
    /// The position behind it.
    pub next: u64,
}

impl DirStream {
    /// Reads some entries from `position` (0: the beginning) on, and hands them to `take` until
    /// it says no. No call to `take` means that the end was reached.
    pub fn read(
        &mut self,
        position: u64,
        take: &mut dyn FnMut(StreamEntry<'_>) -> bool,
    ) -> Result<()> {
        faults::fail("lower.list")?;
        let mut buffer = [MaybeUninit::<u8>::uninit(); 4096];
        let mut position = position;
        loop {
            rustix::fs::seek(&self.fd, rustix::fs::SeekFrom::Start(position))?;
            let mut entries = RawDir::new(&self.fd, &mut buffer);
            let (mut any, mut taken) = (false, false);
            while let Some(entry) = entries.next() {
                let entry = entry?;
                any = true;
                position = entry.next_entry_cookie();
                let name = entry.file_name().to_bytes();
                let hidden =
                    name == b"." || name == b".." || (self.hide_private && name == PRIVATE);
                if !hidden {
                    taken = true;
                    let kind = kind_of(entry.file_type());
                    if !take(StreamEntry { name, kind, next: position }) {
                        return Ok(());
                    }
                }
                if entries.is_buffer_empty() {
                    break;
                }
            }
            // A page that held hidden names only is not the end.
            if taken || !any {
                return Ok(());
            }
        }
    }
}

fn kind_of(file_type: FileType) -> Option<Kind> {
    match file_type {
        FileType::RegularFile => Some(Kind::File),
        FileType::Directory => Some(Kind::Dir),
        FileType::Symlink => Some(Kind::Symlink),
        FileType::Unknown => None,
        _ => Some(Kind::Other),
    }
}

fn bits(mode: u32) -> Mode {
    Mode::from_raw_mode(mode & 0o7777)
}

pub(super) fn proc_fd(fd: impl AsFd) -> String {
    format!("/proc/self/fd/{}", fd.as_fd().as_raw_fd())
}

pub(super) fn timestamps(times: Times) -> Timestamps {
    let spec = |time: Option<SetTime>| match time {
        None => Timespec { tv_sec: 0, tv_nsec: rustix::fs::UTIME_OMIT },
        Some(SetTime::Now) => Timespec { tv_sec: 0, tv_nsec: rustix::fs::UTIME_NOW },
        Some(SetTime::At(t)) => Timespec { tv_sec: t.secs(), tv_nsec: t.subsec_nanos().into() },
    };
    Timestamps { last_access: spec(times.atime), last_modification: spec(times.mtime) }
}

/// `stat` and stamp of a name, or with `EMPTY_PATH` of the descriptor itself.
pub(super) fn statx(fd: impl AsFd, name: &[u8], flags: AtFlags) -> Result<(Attr, LowerVersion)> {
    faults::fail("lower.stat")?;
    let s = rustix::fs::statx(fd, name, flags, StatxFlags::BASIC_STATS)?;
    let time = |t: rustix::fs::StatxTimestamp| Timestamp::from_parts(t.tv_sec, t.tv_nsec.into());
    let raw_mode = u32::from(s.stx_mode);
    let attr = Attr {
        kind: kind_of(FileType::from_raw_mode(raw_mode)).unwrap_or(Kind::Other),
        mode: raw_mode & 0o7777,
        uid: s.stx_uid,
        gid: s.stx_gid,
        size: s.stx_size,
        mtime: time(s.stx_mtime),
        atime: time(s.stx_atime),
        ctime: time(s.stx_ctime),
        nlink: s.stx_nlink,
        rdev: u32::try_from(rustix::fs::makedev(s.stx_rdev_major, s.stx_rdev_minor)).unwrap_or(0),
        blocks: s.stx_blocks,
        special: raw_mode & 0o170_000,
    };
    let version =
        LowerVersion { ino: s.stx_ino, size: attr.size, mtime: attr.mtime, ctime: attr.ctime };
    Ok((attr, version))
}

/// Looks at an open file.
pub fn stat_file(file: impl AsFd) -> Result<LowerStat> {
    let file = file.as_fd();
    let (attr, version) = statx(file, b"", AtFlags::EMPTY_PATH)?;
    let get = |value: &mut [u8]| rustix::fs::fgetxattr(file, identity::XATTR, value);
    let node = node_of(version.ino, get)?;
    Ok(LowerStat { attr, version, node })
}

/// The identity that `get` reads. Only what will not be otherwise the next time means that there is
/// none: who has none is given a new one, and what was archived under the old one is not his.
fn node_of(ino: u64, get: impl FnOnce(&mut [u8]) -> Result<usize>) -> Result<Option<NodeId>> {
    faults::fail("lower.identity")?;
    let mut value = [0u8; identity::LEN];
    match get(&mut value) {
        Ok(len) => Ok(value.get(..len).and_then(|value| identity::decode(value, ino))),
        // Not there; no such attributes here; longer than any of ours.
        Err(Errno::NODATA | Errno::NOTSUP | Errno::RANGE) => Ok(None),
        Err(errno) => Err(errno),
    }
}

/// Gives an open file its identity.
pub fn identify_file(file: impl AsFd, id: NodeId) -> Result<()> {
    faults::fail("lower.identify")?;
    let file = file.as_fd();
    let (_, version) = statx(file, b"", AtFlags::EMPTY_PATH)?;
    let value = identity::encode(id, version.ino);
    rustix::fs::fsetxattr(file, identity::XATTR, &value, XattrFlags::empty())
}

/// Whether users may see, and set, an extended attribute of this name through the mount.
pub fn visible_xattr(name: &[u8]) -> bool {
    name != identity::XATTR.as_bytes() && !name.starts_with(b"user.spoolfs.")
}

fn split_names(list: &[u8]) -> Vec<Vec<u8>> {
    list.split(|b| *b == 0)
        .filter(|n| !n.is_empty() && visible_xattr(n))
        .map(<[u8]>::to_vec)
        .collect()
}

pub(super) fn all_xattrs(file: &File) -> Result<Vec<(Vec<u8>, Vec<u8>)>> {
    let mut list = vec![0u8; 65_536];
    let len = rustix::fs::flistxattr(file, &mut list[..])?;
    list.truncate(len);
    let mut all = Vec::new();
    for name in split_names(&list) {
        let mut value = vec![0u8; 65_536];
        let len = rustix::fs::fgetxattr(file, &*name, &mut value[..])?;
        value.truncate(len);
        all.push((name, value));
    }
    Ok(all)
}

/// Sets the times of an open file.
pub fn set_times(file: impl AsFd, times: Times) -> Result<()> {
    rustix::fs::futimens(file, &timestamps(times))
}
