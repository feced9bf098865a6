//! Making one directory tree like another, by descriptors alone: who may write to a tree can not lead
//! the way out of it with links.

use super::setup::SetupError;
use crate::lower::{IDENTITY, identity_of_copy};
use crate::recording::Sha256;
use crate::sys::{self, Lease};
use rustix::fs::{
    Advice, AtFlags, FileType, Gid, Mode, OFlags, RawDir, RenameFlags, Stat, Timespec, Timestamps,
    Uid, XattrFlags,
};
use rustix::io::Errno;
use sha2::Digest;
use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

const PIECE: usize = 1 << 20;
/// Names of extended attributes, and the value of one: the most that the kernel gives.
const XATTR_BYTES: usize = 64 << 10;
/// A copy that has not its name yet.
pub(super) const UNFINISHED: &[u8] = b".spoolfs-copy";

/// Result of a step, its error without the path.
pub(super) type Step<T> = Result<T, Errno>;

/// A directory, and where it is for messages.
pub(super) struct Dir {
    pub fd: OwnedFd,
    pub path: PathBuf,
}

/// What a file was when it was looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stamp {
    pub size: i64,
    pub mtime: (i64, u64),
    pub ctime: (i64, u64),
}

impl Stamp {
    pub fn of(stat: &Stat) -> Stamp {
        Stamp {
            size: stat.st_size,
            mtime: (stat.st_mtime, stat.st_mtime_nsec),
            ctime: (stat.st_ctime, stat.st_ctime_nsec),
        }
    }

    /// Length and last change of content, which a copy has too.
    pub fn is_copied_by(&self, copy: &Stamp) -> bool {
        (self.size, self.mtime) == (copy.size, copy.mtime)
    }
}

impl Dir {
    pub fn open(path: &Path) -> Result<Dir, SetupError> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = rustix::fs::open(path, flags, Mode::empty());
        Ok(Dir { fd: fd.map_err(SetupError::at(path))?, path: path.to_owned() })
    }

    /// Where a name in it is, for messages.
    pub fn at(&self, name: &[u8]) -> PathBuf {
        self.path.join(OsStr::from_bytes(name))
    }

    /// An error of a step with `name`.
    pub fn failed(&self, name: &[u8]) -> impl FnOnce(Errno) -> SetupError + use<> {
        SetupError::at(&self.at(name))
    }

    pub fn sub(&self, name: &[u8]) -> Result<Dir, SetupError> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = rustix::fs::openat(&self.fd, name, flags, Mode::empty());
        Ok(Dir { fd: fd.map_err(self.failed(name))?, path: self.at(name) })
    }

    /// Its names, sorted.
    pub fn names(&self) -> Result<Vec<Vec<u8>>, SetupError> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let list = || -> Step<Vec<Vec<u8>>> {
            // A position of its own.
            let fd = rustix::fs::openat(&self.fd, ".", flags, Mode::empty())?;
            let mut room = [MaybeUninit::uninit(); 32 << 10];
            let mut entries = RawDir::new(&fd, &mut room);
            let mut names = Vec::new();
            while let Some(entry) = entries.next() {
                let name = entry?.file_name().to_bytes().to_vec();
                if name != b"." && name != b".." {
                    names.push(name);
                }
            }
            names.sort_unstable();
            Ok(names)
        };
        list().map_err(SetupError::at(&self.path))
    }

    /// What has a name, if something has.
    pub fn stat(&self, name: &[u8]) -> Result<Option<Stat>, SetupError> {
        match rustix::fs::statat(&self.fd, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => Ok(Some(stat)),
            Err(Errno::NOENT) => Ok(None),
            Err(errno) => Err(self.failed(name)(errno)),
        }
    }

    /// Opens a file to read it, without changing when it was last read.
    pub fn file(&self, name: &[u8]) -> Result<File, SetupError> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let open = |more| rustix::fs::openat(&self.fd, name, flags | more, Mode::empty());
        let fd = open(OFlags::NOATIME).or_else(|_| open(OFlags::empty()));
        fd.map(File::from).map_err(self.failed(name))
    }

    /// Removes a name with all that is below it.
    pub fn remove(&self, name: &[u8]) -> Result<(), SetupError> {
        let Some(stat) = self.stat(name)? else { return Ok(()) };
        let mut flags = AtFlags::empty();
        if kind(&stat) == FileType::Directory {
            let sub = self.sub(name)?;
            sub.names()?.iter().try_for_each(|below| sub.remove(below))?;
            flags = AtFlags::REMOVEDIR;
        }
        rustix::fs::unlinkat(&self.fd, name, flags).map_err(self.failed(name))
    }

    /// Takes the identity away that spoolfs gave a file: it is taken for a new one.
    pub fn forget_identity(&self, name: &[u8]) -> Result<(), SetupError> {
        match rustix::fs::lremovexattr(self.by_fd(name), IDENTITY) {
            Ok(()) | Err(Errno::NODATA) => Ok(()),
            Err(errno) => Err(self.failed(name)(errno)),
        }
    }

    /// The path of a name by way of the descriptor: no directory on it can be another one now.
    fn by_fd(&self, name: &[u8]) -> PathBuf {
        Path::new(&format!("/proc/self/fd/{}", self.fd.as_raw_fd())).join(OsStr::from_bytes(name))
    }
}

pub(super) fn kind(stat: &Stat) -> FileType {
    FileType::from_raw_mode(stat.st_mode)
}

/// Whether somebody has the file open for writing.
pub(super) fn has_writer(file: &File) -> bool {
    let taken = sys::lease_take(file, Lease::NoWriter);
    if taken.is_ok() {
        let _gone_with_the_descriptor = sys::lease_drop(file);
    }
    matches!(taken, Err(error) if error.kind() == io::ErrorKind::WouldBlock)
}

/// The SHA-256 of what the disk has, not the memory.
pub(super) fn hash(file: &File) -> io::Result<Sha256> {
    let _only_slower = rustix::fs::fadvise(file, 0, None, Advice::DontNeed);
    let mut hasher = sha2::Sha256::new();
    read(file, &mut |_, bytes| {
        hasher.update(bytes);
        Ok(())
    })?;
    Ok(Sha256(hasher.finalize().into()))
}

fn read(file: &File, take: &mut dyn FnMut(u64, &[u8]) -> io::Result<()>) -> io::Result<()> {
    let mut piece = vec![0; PIECE];
    let mut at = 0;
    loop {
        let read = match file.read_at(&mut piece, at) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            read => read?,
        };
        let Some(bytes) = piece.get(..read).filter(|bytes| !bytes.is_empty()) else {
            return Ok(());
        };
        take(at, bytes)?;
        at += read as u64;
    }
}

/// Copies a file with everything it has under another name: it gets `name` in the end, in place of
/// what has it if `flags` allow. Returns its hash. Not on the disk yet.
pub(super) fn copy_file(
    from: &Dir,
    name: &[u8],
    to: &Dir,
    flags: RenameFlags,
) -> Result<Sha256, SetupError> {
    to.remove(UNFINISHED)?;
    let (source, stat) = (from.file(name)?, from.stat(name)?);
    let stat = stat.ok_or_else(|| from.failed(name)(Errno::NOENT))?;
    let make = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
    let copy = rustix::fs::openat(&to.fd, UNFINISHED, make, Mode::RUSR | Mode::WUSR);
    let copy = File::from(copy.map_err(to.failed(name))?);
    let sparse = stat.st_blocks * 512 < stat.st_size;
    let mut hasher = sha2::Sha256::new();
    let mut len = 0;
    let copied = read(&source, &mut |at, bytes| {
        hasher.update(bytes);
        len = at + bytes.len() as u64;
        if sparse && bytes.iter().all(|byte| *byte == 0) {
            return Ok(());
        }
        copy.write_all_at(bytes, at)
    });
    copied.and_then(|()| copy.set_len(len)).map_err(|error| SetupError::io(&to.at(name), error))?;
    alike(from, name, &stat, to, UNFINISHED)?;
    rustix::fs::renameat_with(&to.fd, UNFINISHED, &to.fd, name, flags).map_err(to.failed(name))?;
    Ok(Sha256(hasher.finalize().into()))
}

/// Makes a link, FIFO, socket or device like the one of that name.
pub(super) fn copy_other(from: &Dir, name: &[u8], stat: &Stat, to: &Dir) -> Result<(), SetupError> {
    let make = || match kind(stat) {
        FileType::Symlink => {
            let target = rustix::fs::readlinkat(&from.fd, name, Vec::new())?;
            rustix::fs::symlinkat(target.as_c_str(), &to.fd, name)
        }
        kind => {
            let mode = Mode::from_raw_mode(stat.st_mode & 0o7777);
            rustix::fs::mknodat(&to.fd, name, kind, mode, stat.st_rdev)
        }
    };
    make().map_err(to.failed(name))?;
    alike(from, name, stat, to, name)
}

/// Owner, mode, extended attributes and times of what was made; the identity that spoolfs gave is
/// rewritten for the new inode number.
pub(super) fn alike(
    from: &Dir,
    name: &[u8],
    stat: &Stat,
    to: &Dir,
    made: &[u8],
) -> Result<(), SetupError> {
    let set = || -> Step<()> {
        let nofollow = AtFlags::SYMLINK_NOFOLLOW;
        let owner = (Uid::from_raw(stat.st_uid), Gid::from_raw(stat.st_gid));
        rustix::fs::chownat(&to.fd, made, Some(owner.0), Some(owner.1), nofollow)?;
        if kind(stat) != FileType::Symlink {
            // After the owner, which takes setuid and setgid away.
            let mode = Mode::from_raw_mode(stat.st_mode & 0o7777);
            rustix::fs::chmodat(&to.fd, made, mode, AtFlags::empty())?;
        }
        let ino = rustix::fs::statat(&to.fd, made, nofollow)?.st_ino;
        xattrs(&from.by_fd(name), stat.st_ino, &to.by_fd(made), ino)?;
        rustix::fs::utimensat(&to.fd, made, &times(stat), nofollow)
    };
    set().map_err(to.failed(made))
}

fn times(stat: &Stat) -> Timestamps {
    let spec = |sec: i64, nsec: u64| Timespec { tv_sec: sec, tv_nsec: nsec.cast_signed() };
    Timestamps {
        last_access: spec(stat.st_atime, stat.st_atime_nsec),
        last_modification: spec(stat.st_mtime, stat.st_mtime_nsec),
    }
}

fn xattrs(from: &Path, from_ino: u64, to: &Path, to_ino: u64) -> Step<()> {
    let mut names = vec![0; XATTR_BYTES];
    let len = match rustix::fs::llistxattr(from, &mut names[..]) {
        Err(Errno::OPNOTSUPP) => return Ok(()),
        len => len?,
    };
    let mut value = vec![0; XATTR_BYTES];
    let names = names.get(..len).unwrap_or_default().split(|byte| *byte == 0);
    for name in names.filter(|name| !name.is_empty() && *name != super::setup::MARK.as_bytes()) {
        let len = rustix::fs::lgetxattr(from, name, &mut value[..])?;
        let value = value.get(..len).unwrap_or_default();
        match identity_of_copy(name, value, from_ino, to_ino) {
            None => rustix::fs::lsetxattr(to, name, value, XattrFlags::empty())?,
            Some(Some(own)) => rustix::fs::lsetxattr(to, name, &own, XattrFlags::empty())?,
            // That of another file, which means nothing here.
            Some(None) => {}
        }
    }
    Ok(())
}

/// Makes a directory that only root can look into, unless it is there.
pub(super) fn make_dir(to: &Dir, name: &[u8]) -> Result<Dir, SetupError> {
    match rustix::fs::mkdirat(&to.fd, name, Mode::RWXU) {
        Ok(()) | Err(Errno::EXIST) => to.sub(name),
        Err(errno) => Err(to.failed(name)(errno)),
    }
}
