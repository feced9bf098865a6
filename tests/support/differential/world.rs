//! One of the two worlds: a directory, the files open below it, and an operation's answer there.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{
    AtFlags, CWD, FallocateFlags, FileType, FlockOperation, Gid, Mode, OFlags, SeekFrom, Stat,
    Timespec, Timestamps, Uid, XattrFlags,
};
use rustix::io::Errno;

use super::op::{Op, SLOTS};
use super::{listing, raw};

/// What an operation brought back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// Nothing but success.
    Done,
    /// A count or a position.
    Number(u64),
    /// File content.
    Bytes(Vec<u8>),
    /// Anything else, written out.
    Text(String),
    /// The attributes of a file.
    Stat(Attributes),
    /// The slot was empty: nothing was done.
    NoFile,
}

/// Why an operation brought nothing back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Trouble {
    /// The error the system call gave.
    Refused(Errno),
    /// An answer that is wrong by itself, whatever the other world says.
    Fault(String),
}

impl From<Errno> for Trouble {
    fn from(errno: Errno) -> Trouble {
        Trouble::Refused(errno)
    }
}

/// What `stat` tells that two worlds can have in common.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attributes {
    /// Type and permission bits.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Names of the file; of a directory only where the root is not meant.
    pub nlink: u64,
    /// Bytes; 0 for a directory, whose size is a private matter of its file system.
    pub size: u64,
    /// Modification time in seconds and nanoseconds; none for a FIFO.
    pub modified: (i64, i64),
}

impl Attributes {
    /// Those of `stat`; `root` leaves out what a private directory in the root would change.
    pub fn of(stat: &Stat, root: bool) -> Attributes {
        let kind = FileType::from_raw_mode(stat.st_mode);
        let directory = kind == FileType::Directory;
        Attributes {
            mode: stat.st_mode,
            uid: stat.st_uid,
            gid: stat.st_gid,
            nlink: if root { 0 } else { stat.st_nlink },
            size: if directory { 0 } else { u64::try_from(stat.st_size).unwrap_or(u64::MAX) },
            // What goes through a FIFO is the kernel's affair, and so is whether it stamps it.
            modified: match kind {
                FileType::Fifo => (0, 0),
                _ => (stat.st_mtime, i64::try_from(stat.st_mtime_nsec).unwrap_or(-1)),
            },
        }
    }

    /// Whether both can be the same file in two worlds. A time that an operation set must agree to
    /// the nanosecond; one the clock set (after `started`) within what a slow machine needs.
    pub fn agree(&self, other: &Attributes, started: i64) -> bool {
        const SLOW: i64 = 300;
        let same_time = if self.modified.0 >= started {
            (self.modified.0 - other.modified.0).abs() <= SLOW
        } else {
            self.modified == other.modified
        };
        same_time && Attributes { modified: self.modified, ..other.clone() } == *self
    }
}

struct Slot {
    fd: OwnedFd,
    ino: u64,
    directory: bool,
}

/// A directory and the files open below it.
pub struct World {
    root: PathBuf,
    slots: [Option<Slot>; SLOTS],
}

impl World {
    /// A world that begins as this directory is.
    pub fn new(root: &Path) -> World {
        World { root: root.to_path_buf(), slots: Default::default() }
    }

    /// The directory.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Which slots hold an open file.
    pub fn open(&self) -> [bool; SLOTS] {
        std::array::from_fn(|slot| self.slots[slot].is_some())
    }

    /// Inode numbers of the open files.
    pub fn open_inodes(&self) -> Vec<u64> {
        self.slots.iter().flatten().map(|slot| slot.ino).collect()
    }

    /// Closes every file.
    pub fn close_all(&mut self) {
        self.slots = Default::default();
    }

    fn at(&self, path: &Path) -> PathBuf {
        // Joined with nothing, a path would get a slash at its end.
        if path.as_os_str().is_empty() { self.root.clone() } else { self.root.join(path) }
    }

    fn is_root(&self, path: &Path) -> bool {
        path.components().all(|part| part == std::path::Component::CurDir) || path.ends_with("..")
    }

    /// Does the operation.
    pub fn apply(&mut self, op: &Op) -> Result<Answer, Trouble> {
        match op {
            Op::Open { slot, path, flags, mode } => {
                self.slots[*slot] = None;
                let fd = rustix::fs::openat(
                    CWD,
                    self.at(path),
                    *flags | OFlags::CLOEXEC,
                    Mode::from_raw_mode(*mode),
                )?;
                let stat = rustix::fs::fstat(&fd)?;
                let directory = FileType::from_raw_mode(stat.st_mode) == FileType::Directory;
                self.slots[*slot] = Some(Slot { fd, ino: stat.st_ino, directory });
                Ok(Answer::Stat(Attributes::of(&stat, directory)))
            }
            Op::Close { slot } => {
                self.slots[*slot] = None;
                Ok(Answer::Done)
            }
            Op::Read { .. }
            | Op::ReadOn { .. }
            | Op::Write { .. }
            | Op::WriteOn { .. }
            | Op::Seek { .. }
            | Op::TruncateOpen { .. }
            | Op::Allocate { .. }
            | Op::ModeOpen { .. }
            | Op::TimesOpen { .. }
            | Op::Holes { .. }
            | Op::StatOpen { .. }
            | Op::CopyRange { .. }
            | Op::MapWrite { .. }
            | Op::MapRead { .. }
            | Op::Lock { .. }
            | Op::Sync { .. } => self.apply_open(op),
            _ => self.apply_named(op),
        }
    }

    /// Operations on an open file.
    fn apply_open(&self, op: &Op) -> Result<Answer, Trouble> {
        let used = match op {
            Op::Read { slot, .. }
            | Op::ReadOn { slot, .. }
            | Op::Write { slot, .. }
            | Op::WriteOn { slot, .. }
            | Op::Seek { slot, .. }
            | Op::TruncateOpen { slot, .. }
            | Op::Allocate { slot, .. }
            | Op::ModeOpen { slot, .. }
            | Op::TimesOpen { slot, .. }
            | Op::Holes { slot, .. }
            | Op::StatOpen { slot }
            | Op::CopyRange { from: slot, .. }
            | Op::MapWrite { slot, .. }
            | Op::MapRead { slot, .. }
            | Op::Lock { slot, .. }
            | Op::Sync { slot, .. } => *slot,
            _ => unreachable!("not an operation on an open file"),
        };
        let Some(slot) = &self.slots[used] else { return Ok(Answer::NoFile) };
        let fd = slot.fd.as_fd();
        match op {
            Op::Read { at, len, .. } => {
                let mut bytes = vec![0; *len];
                let read = rustix::io::pread(fd, &mut bytes, *at)?;
                bytes.truncate(read);
                Ok(Answer::Bytes(bytes))
            }
            Op::ReadOn { len, .. } => {
                let mut bytes = vec![0; *len];
                let read = rustix::io::read(fd, &mut bytes)?;
                bytes.truncate(read);
                Ok(Answer::Bytes(bytes))
            }
            Op::Write { at, len, fill, .. } => {
                number(rustix::io::pwrite(fd, &bytes(*fill, *len), *at)?)
            }
            Op::WriteOn { len, fill, .. } => number(rustix::io::write(fd, &bytes(*fill, *len))?),
            // Positions in a directory are private to its file system.
            Op::Seek { .. } if slot.directory => Ok(Answer::NoFile),
            Op::Seek { from_end, by, .. } => {
                let to = if *from_end { SeekFrom::End(*by) } else { SeekFrom::Current(*by) };
                Ok(Answer::Number(rustix::fs::seek(fd, to)?))
            }
            Op::TruncateOpen { size, .. } => done(rustix::fs::ftruncate(fd, *size)),
            Op::Allocate { mode, at, len, .. } => allocate(fd, *mode, *at, *len),
            Op::ModeOpen { mode, .. } => done(rustix::fs::fchmod(fd, Mode::from_raw_mode(*mode))),
            Op::TimesOpen { modified, .. } => {
                done(rustix::fs::futimens(fd, &times(*modified, *modified)))
            }
            Op::Holes { at, .. } => holes(fd, *at),
            Op::StatOpen { .. } => {
                let stat = rustix::fs::fstat(fd)?;
                if stat.st_ino != slot.ino {
                    let text = format!("inode {} while open has become {}", slot.ino, stat.st_ino);
                    return Err(Trouble::Fault(text));
                }
                Ok(Answer::Stat(Attributes::of(&stat, slot.directory)))
            }
            Op::CopyRange { at, to, to_at, len, .. } => {
                let Some(target) = &self.slots[*to] else { return Ok(Answer::NoFile) };
                let (mut at, mut to_at) = (*at, *to_at);
                let copied = rustix::fs::copy_file_range(
                    fd,
                    Some(&mut at),
                    target.fd.as_fd(),
                    Some(&mut to_at),
                    *len,
                )?;
                number(copied)
            }
            Op::MapWrite { at, len, fill, .. } => map(fd, *at, *len, Some(*fill)),
            Op::MapRead { at, len, .. } => map(fd, *at, *len, None),
            Op::Lock { exclusive, release, .. } => done(rustix::fs::flock(
                fd,
                match (release, exclusive) {
                    (true, _) => FlockOperation::NonBlockingUnlock,
                    (false, true) => FlockOperation::NonBlockingLockExclusive,
                    (false, false) => FlockOperation::NonBlockingLockShared,
                },
            )),
            Op::Sync { data_only: true, .. } => done(rustix::fs::fdatasync(fd)),
            Op::Sync { .. } => done(rustix::fs::fsync(fd)),
            _ => unreachable!("not an operation on an open file"),
        }
    }

    /// Operations on a name.
    fn apply_named(&self, op: &Op) -> Result<Answer, Trouble> {
        match op {
            Op::Truncate { path, size } => done(raw::truncate(&self.at(path), *size)),
            Op::Rename { from, to, how } => {
                done(rustix::fs::renameat_with(CWD, self.at(from), CWD, self.at(to), *how))
            }
            Op::Link { from, to } => done(rustix::fs::link(self.at(from), self.at(to))),
            Op::Symlink { target, at } => done(rustix::fs::symlink(target, self.at(at))),
            Op::ReadLink { path } => {
                let target = rustix::fs::readlink(self.at(path), Vec::new())?;
                Ok(Answer::Bytes(target.into_bytes()))
            }
            Op::Unlink { path } => done(rustix::fs::unlink(self.at(path))),
            Op::RemoveDirectory { path } => done(rustix::fs::rmdir(self.at(path))),
            Op::MakeDirectory { path, mode } => {
                done(rustix::fs::mkdir(self.at(path), Mode::from_raw_mode(*mode)))
            }
            Op::Fifo { path } => {
                done(rustix::fs::mkfifoat(CWD, self.at(path), Mode::from_raw_mode(0o644)))
            }
            Op::Mode { path, mode } => {
                done(rustix::fs::chmod(self.at(path), Mode::from_raw_mode(*mode)))
            }
            Op::Owner { path, uid, gid } => done(rustix::fs::chownat(
                CWD,
                self.at(path),
                (*uid != u32::MAX).then(|| Uid::from_raw(*uid)),
                (*gid != u32::MAX).then(|| Gid::from_raw(*gid)),
                AtFlags::SYMLINK_NOFOLLOW,
            )),
            Op::Times { path, accessed, modified, follow } => {
                let flags = if *follow { AtFlags::empty() } else { AtFlags::SYMLINK_NOFOLLOW };
                let path = self.at(path);
                rustix::fs::utimensat(CWD, &path, &times(*accessed, *modified), flags)?;
                let stat = rustix::fs::statat(CWD, &path, flags)?;
                Ok(Answer::Text(format!(
                    "{} {} {} {}",
                    stat.st_atime, stat.st_atime_nsec, stat.st_mtime, stat.st_mtime_nsec
                )))
            }
            Op::SetXattr { path, name, len, fill, how } => {
                done(rustix::fs::lsetxattr(self.at(path), *name, &bytes(*fill, *len), *how))
            }
            Op::GetXattr { path, name } => {
                let mut value = vec![0; 70_000];
                let len = rustix::fs::lgetxattr(self.at(path), *name, &mut value[..])?;
                value.truncate(len);
                Ok(Answer::Bytes(value))
            }
            Op::ListXattr { path } => Ok(Answer::Text(format!("{:?}", xattrs(&self.at(path))?))),
            Op::RemoveXattr { path, name } => done(rustix::fs::lremovexattr(self.at(path), *name)),
            Op::SetAcl { path, group_may } => done(rustix::fs::setxattr(
                self.at(path),
                "system.posix_acl_access",
                &acl(*group_may),
                XattrFlags::empty(),
            )),
            Op::List { path } => listing::whole(&self.at(path)),
            Op::ListChanging { path, take, changes, mark } => {
                let changes: Vec<_> =
                    changes.iter().map(|(path, create)| (self.at(path), *create)).collect();
                listing::changing(&self.at(path), *take, &changes, *mark)
            }
            Op::Stat { path, follow } => {
                let flags = if *follow { AtFlags::empty() } else { AtFlags::SYMLINK_NOFOLLOW };
                let stat = rustix::fs::statat(CWD, self.at(path), flags)?;
                Ok(Answer::Stat(Attributes::of(&stat, self.is_root(path))))
            }
            Op::StatFs { path } => statfs(&self.at(path)),
            Op::Direct { path, at, fill } => direct(&self.at(path), *at, *fill),
            _ => unreachable!("not an operation on a name"),
        }
    }
}

/// Names of extended attributes and their values, sorted.
pub fn xattrs(path: &Path) -> Result<Vec<(String, Vec<u8>)>, Errno> {
    let mut list = vec![0_u8; 65_536];
    let len = rustix::fs::llistxattr(path, &mut list[..])?;
    let mut all = Vec::new();
    for name in list[..len].split(|&byte| byte == 0).filter(|name| !name.is_empty()) {
        let mut value = vec![0; 70_000];
        let len = rustix::fs::lgetxattr(path, name, &mut value[..])?;
        value.truncate(len);
        all.push((String::from_utf8_lossy(name).into_owned(), value));
    }
    all.sort();
    Ok(all)
}

fn done(result: Result<(), Errno>) -> Result<Answer, Trouble> {
    Ok(result.map(|()| Answer::Done)?)
}

fn number(count: usize) -> Result<Answer, Trouble> {
    Ok(Answer::Number(count as u64))
}

/// Content that tells from which write a byte came, and from which place in it.
fn bytes(fill: u8, len: usize) -> Vec<u8> {
    (0..len).map(|at| fill.wrapping_add((at / 7) as u8)).collect()
}

fn times(accessed: (i64, i64), modified: (i64, i64)) -> Timestamps {
    let spec = |(tv_sec, tv_nsec)| Timespec { tv_sec, tv_nsec };
    Timestamps { last_access: spec(accessed), last_modification: spec(modified) }
}

fn allocate(
    fd: BorrowedFd<'_>,
    mode: FallocateFlags,
    at: u64,
    len: u64,
) -> Result<Answer, Trouble> {
    done(rustix::fs::fallocate(fd, mode, at, len))
}

/// An access list with one named group, in the form the kernel takes.
fn acl(group_may: u16) -> Vec<u8> {
    const NOBODY: u32 = u32::MAX;
    let mut list = 2_u32.to_le_bytes().to_vec();
    for (tag, may, id) in [
        (0x01_u16, 6, NOBODY),
        (0x04, 4, NOBODY),
        (0x08, group_may, 33),
        (0x10, 6, NOBODY),
        (0x20, 0, NOBODY),
    ] {
        list.extend(tag.to_le_bytes());
        list.extend(may.to_le_bytes());
        list.extend(id.to_le_bytes());
    }
    list
}

/// What every file system must hold to; the numbers themselves differ.
fn statfs(path: &Path) -> Result<Answer, Trouble> {
    let stat = rustix::fs::statvfs(path)?;
    let sane = stat.f_bsize > 0
        && stat.f_frsize > 0
        && stat.f_blocks > 0
        && stat.f_bfree <= stat.f_blocks
        && stat.f_bavail <= stat.f_bfree
        && stat.f_ffree <= stat.f_files;
    if !sane {
        return Err(Trouble::Fault(format!(
            "statfs: {} of {} blocks free, {} for users, {} of {} files free",
            stat.f_bfree, stat.f_blocks, stat.f_bavail, stat.f_ffree, stat.f_files
        )));
    }
    Ok(Answer::Number(stat.f_namemax))
}

/// Where data and holes are is a private matter; that holes are zeros and nothing is left out
/// is not.
fn holes(fd: BorrowedFd<'_>, at: u64) -> Result<Answer, Trouble> {
    let stat = rustix::fs::fstat(fd)?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        return Ok(Answer::NoFile);
    }
    let size = u64::try_from(stat.st_size).unwrap_or(0);
    let mut content = vec![0; usize::try_from(size).unwrap_or(0)];
    let read = rustix::io::pread(fd, &mut content, 0)?;
    if read as u64 != size {
        return Err(Trouble::Fault(format!("{read} bytes read of a file of {size}")));
    }
    // The position is put back: reading on must go on where it was.
    let position = rustix::fs::seek(fd, SeekFrom::Current(0))?;
    let data = rustix::fs::seek(fd, SeekFrom::Data(at));
    let hole = rustix::fs::seek(fd, SeekFrom::Hole(at));
    rustix::fs::seek(fd, SeekFrom::Start(position))?;

    let zero = |from: u64, to: u64| {
        let (from, to) = (usize::try_from(from).unwrap_or(0), usize::try_from(to).unwrap_or(0));
        content[from..to].iter().all(|&byte| byte == 0)
    };
    let right = if at >= size {
        data == Err(Errno::NXIO) && hole == Err(Errno::NXIO)
    } else {
        let data_right = match data {
            Ok(found) => at <= found && found < size && zero(at, found),
            Err(errno) => errno == Errno::NXIO && zero(at, size),
        };
        let hole_right = match hole {
            Ok(found) => at <= found && (found == size || (found < size && zero(found, found + 1))),
            Err(_) => false,
        };
        data_right && hole_right
    };
    if right {
        Ok(Answer::Number(size))
    } else {
        Err(Trouble::Fault(format!("from {at} of {size}: data at {data:?}, hole at {hole:?}")))
    }
}

/// A shared mapping of what the file has in this range.
fn map(fd: BorrowedFd<'_>, at: u64, len: usize, fill: Option<u8>) -> Result<Answer, Trouble> {
    let size = u64::try_from(rustix::fs::fstat(fd)?.st_size).unwrap_or(0);
    let len = len.min(usize::try_from(size.saturating_sub(at)).unwrap_or(0));
    if len == 0 {
        return Ok(Answer::Number(size));
    }
    let content = raw::mapped(fd, at, len, fill.is_some(), |mapped| {
        if let Some(fill) = fill {
            mapped.copy_from_slice(&bytes(fill, len));
        }
        mapped.to_vec()
    })?;
    Ok(Answer::Bytes(content))
}

/// One block past the page cache.
fn direct(path: &Path, at: u64, fill: Option<u8>) -> Result<Answer, Trouble> {
    const BLOCK: usize = 4096;
    let flags = OFlags::RDWR | OFlags::DIRECT | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let fd = rustix::fs::openat(CWD, path, flags, Mode::empty())?;
    if FileType::from_raw_mode(rustix::fs::fstat(&fd)?.st_mode) != FileType::RegularFile {
        return Ok(Answer::NoFile);
    }
    let mut room = vec![0_u8; 2 * BLOCK];
    let start = room.as_ptr().align_offset(BLOCK);
    let block = &mut room[start..start + BLOCK];
    match fill {
        Some(fill) => {
            block.copy_from_slice(&bytes(fill, BLOCK));
            number(rustix::io::pwrite(&fd, block, at)?)
        }
        None => {
            let read = rustix::io::pread(&fd, &mut *block, at)?;
            Ok(Answer::Bytes(block[..read].to_vec()))
        }
    }
}
