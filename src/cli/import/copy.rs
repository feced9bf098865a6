//! Copies one file, directory or link.

use super::walk::Item;
use crate::recording::Sha256;
use rustix::fs::{
    Advice, AtFlags, CWD, RenameFlags, Timespec, Timestamps, XattrFlags, fadvise, fsetxattr,
    getxattr, listxattr, renameat_with, utimensat,
};
use rustix::io::Errno;
use sha2::Digest;
use std::fs::{File, Metadata, OpenOptions, Permissions};
use std::io::{self, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt, fchown, lchown, symlink};
use std::path::{Path, PathBuf};

const PIECE: usize = 1 << 20;

/// A file that is below the mount with the bytes of its source.
#[derive(Clone, Debug)]
pub(super) struct Copied {
    pub source: PathBuf,
    pub below: PathBuf,
    pub sha256: Sha256,
    pub stamp: Stamp,
    /// It was not there before.
    pub new: bool,
}

/// Which file, in which state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Stamp(u64, u64, u64, i64, i64, i64, i64);

impl Stamp {
    pub fn of(meta: &Metadata) -> Stamp {
        let (mtime, ctime) = ((meta.mtime(), meta.mtime_nsec()), (meta.ctime(), meta.ctime_nsec()));
        Stamp(meta.dev(), meta.ino(), meta.size(), mtime.0, mtime.1, ctime.0, ctime.1)
    }

    pub fn size(&self) -> u64 {
        self.2
    }
}

pub(super) struct Copier<'a> {
    pub mount: &'a Path,
    pub dry_run: bool,
}

type Outcome<T> = Result<T, String>;

fn said(what: &str) -> impl Fn(io::Error) -> String + '_ {
    move |error| format!("{what}: {error}")
}

impl Copier<'_> {
    fn place(&self, item: &Item) -> PathBuf {
        self.mount.join(&item.below)
    }

    /// Whether something has its name already.
    pub fn is_there(&self, item: &Item) -> bool {
        std::fs::symlink_metadata(self.place(item)).is_ok()
    }

    /// Makes a directory; false: it was there.
    pub fn directory(&self, item: &Item) -> Outcome<bool> {
        let place = self.place(item);
        match std::fs::symlink_metadata(&place) {
            Ok(meta) if meta.is_dir() => return Ok(false),
            Ok(_) => return Err("a file has its name below the mount".into()),
            Err(_) if self.dry_run => return Ok(false),
            Err(_) => {}
        }
        std::fs::create_dir_all(&place).map_err(said("the directory can not be made"))?;
        Ok(true)
    }

    /// Owner, mode and times of a directory that was made.
    pub fn finish(&self, item: &Item) -> Outcome<()> {
        let from = std::fs::metadata(&item.source).map_err(said("the source"))?;
        let dir = File::open(self.place(item)).map_err(said("the directory"))?;
        attributes(&from, &dir).map_err(said("owner, mode and times"))?;
        times(&self.place(item), &from).map_err(said("times"))
    }

    /// Makes a link like the source.
    pub fn link(&self, item: &Item) -> Outcome<()> {
        let (place, to) = (self.place(item), std::fs::read_link(&item.source));
        let to = to.map_err(said("the source"))?;
        match std::fs::read_link(&place) {
            Ok(there) if there == to => return Ok(()),
            Ok(_) => return Err("another link has its name below the mount".into()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(_) => return Err("a file has its name below the mount".into()),
        }
        if self.dry_run {
            return Ok(());
        }
        let from = std::fs::symlink_metadata(&item.source).map_err(said("the source"))?;
        make_room_for(&place)?;
        symlink(&to, &place).map_err(said("the link can not be made"))?;
        lchown(&place, Some(from.uid()), Some(from.gid())).map_err(said("its owner"))?;
        times(&place, &from).map_err(said("its times"))
    }

    /// Brings a file there, whole and verified, unless the same is there.
    pub fn file(&self, item: &Item) -> Outcome<Copied> {
        let mut source = open_plain(&item.source).map_err(said("the source"))?;
        let from = source.metadata().map_err(said("the source"))?;
        let stamp = Stamp::of(&from);
        let place = self.place(item);
        let copied = |sha256, new| Copied {
            source: item.source.clone(),
            below: item.below.clone(),
            sha256,
            stamp: stamp.clone(),
            new,
        };
        match std::fs::symlink_metadata(&place) {
            Ok(there) => {
                let other = || "another file has its name below the mount".to_owned();
                if !there.is_file() || there.size() != from.size() {
                    return Err(other());
                }
                let sha256 = hash(&mut source).map_err(said("the source"))?;
                let same = content(&place).map_err(said("what has its name below the mount"))?;
                return if same == sha256 { Ok(copied(sha256, false)) } else { Err(other()) };
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(said("below the mount")(error)),
        }
        if self.dry_run {
            return Ok(copied(Sha256([0; 32]), true));
        }
        make_room_for(&place)?;
        let temporary = temporary(&place);
        let sha256 = fill(&mut source, &from, &temporary)?;
        let after = source.metadata().map_err(said("the source"))?;
        if Stamp::of(&after) != stamp {
            return Err("it changed while it was copied; import it again".into());
        }
        match renameat_with(CWD, &temporary, CWD, &place, RenameFlags::NOREPLACE) {
            Ok(()) => Ok(copied(sha256, true)),
            Err(Errno::EXIST) => Err("somebody made a file of its name meanwhile".into()),
            Err(errno) => Err(said("it can not get its name")(errno.into())),
        }
    }
}

/// Never follows a link, and never waits for a FIFO that took the file's place.
fn open_plain(path: &Path) -> io::Result<File> {
    let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK | libc::O_NOATIME;
    let file = OpenOptions::new().read(true).custom_flags(flags).open(path).or_else(|_| {
        let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK;
        OpenOptions::new().read(true).custom_flags(flags).open(path)
    })?;
    if file.metadata()?.is_file() { Ok(file) } else { Err(io::Error::other("it is no file now")) }
}

/// The directories that a file named by itself, or `--to`, wants.
fn make_room_for(place: &Path) -> Outcome<()> {
    let dir = place.parent().unwrap_or(Path::new("/"));
    std::fs::create_dir_all(dir).map_err(said("its directory can not be made"))
}

/// The same for every try, so that none is left behind.
fn temporary(place: &Path) -> PathBuf {
    let digest = Sha256::of(place.as_os_str().as_bytes()).to_string();
    let name = format!(".import-{}", digest.get(..16).unwrap_or_default());
    place.with_file_name(name)
}

/// Writes a copy under another name, syncs it, and reads it back.
fn fill(source: &mut File, from: &Metadata, temporary: &Path) -> Outcome<Sha256> {
    let write = said("the copy");
    let mut copy = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .custom_flags(libc::O_NOFOLLOW)
        .open(temporary)
        .map_err(&write)?;
    let mut hasher = sha2::Sha256::new();
    let mut piece = vec![0; PIECE];
    loop {
        let read = source.read(&mut piece).map_err(said("the source"))?;
        let Some(bytes) = piece.get(..read).filter(|bytes| !bytes.is_empty()) else { break };
        hasher.update(bytes);
        copy.write_all(bytes).map_err(&write)?;
    }
    let sha256 = Sha256(hasher.finalize().into());
    copy.sync_all().map_err(&write)?;
    // From the disk, not from memory.
    let _only_slower = fadvise(&copy, 0, None, Advice::DontNeed);
    let back = File::open(temporary).and_then(|mut file| hash(&mut file)).map_err(&write)?;
    if back != sha256 {
        return Err(format!("the copy has SHA-256 {back}, the source {sha256}; look at the disk"));
    }
    attributes(from, &copy).map_err(said("owner, mode and attributes"))?;
    xattrs(source, &copy).map_err(said("extended attributes"))?;
    drop(copy);
    times(temporary, from).map_err(said("times"))?;
    Ok(sha256)
}

fn hash(file: &mut File) -> io::Result<Sha256> {
    let mut hasher = sha2::Sha256::new();
    let mut piece = vec![0; PIECE];
    loop {
        let read = file.read(&mut piece)?;
        let Some(bytes) = piece.get(..read).filter(|bytes| !bytes.is_empty()) else { break };
        hasher.update(bytes);
    }
    Ok(Sha256(hasher.finalize().into()))
}

/// SHA-256 of a file below the mount; of a released one that of what was archived, so that nothing
/// is fetched.
fn content(place: &Path) -> io::Result<Sha256> {
    let told = |name: &str| -> Option<String> {
        let mut value = [0; 128];
        let len = getxattr(place, name, &mut value[..]).ok()?;
        Some(String::from_utf8_lossy(value.get(..len)?).into_owned())
    };
    if told("user.spoolfs.source").as_deref() == Some("archive")
        && let Some(sha256) = told("user.spoolfs.sha256").and_then(|text| Sha256::from_hex(&text))
    {
        return Ok(sha256);
    }
    hash(&mut File::open(place)?)
}

fn attributes(from: &Metadata, to: &File) -> io::Result<()> {
    fchown(to, Some(from.uid()), Some(from.gid()))?;
    // After the owner, which takes setuid and setgid away.
    to.set_permissions(Permissions::from_mode(from.mode() & 0o7777))
}

fn times(place: &Path, from: &Metadata) -> io::Result<()> {
    let times = Timestamps {
        last_access: Timespec { tv_sec: from.atime(), tv_nsec: from.atime_nsec() },
        last_modification: Timespec { tv_sec: from.mtime(), tv_nsec: from.mtime_nsec() },
    };
    Ok(utimensat(CWD, place, &times, AtFlags::SYMLINK_NOFOLLOW)?)
}

/// Those of users, and access lists; a file system without them has none.
fn xattrs(source: &File, copy: &File) -> io::Result<()> {
    use std::os::fd::AsRawFd;
    let path = PathBuf::from(format!("/proc/self/fd/{}", source.as_raw_fd()));
    let mut names = vec![0; 64 << 10];
    let len = match listxattr(&path, &mut names[..]) {
        Ok(len) => len,
        Err(Errno::OPNOTSUPP) => return Ok(()),
        Err(errno) => return Err(errno.into()),
    };
    let mut value = vec![0; 64 << 10];
    for name in names.get(..len).unwrap_or_default().split(|b| *b == 0) {
        let wanted = name.starts_with(b"user.") || name.starts_with(b"system.posix_acl_");
        if !wanted || name.starts_with(b"user.spoolfs.") {
            continue;
        }
        let len = getxattr(&path, name, &mut value[..])?;
        let bytes = value.get(..len).unwrap_or_default();
        fsetxattr(copy, name, bytes, XattrFlags::empty())?;
    }
    Ok(())
}
