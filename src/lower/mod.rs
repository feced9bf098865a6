//! The lower directory: the real directory under the mount, reached only through a descriptor
//! opened before the mount, and never outside it.
//!
//! **Invariant:** no path leaves the lower directory (every step is `openat2` beneath it, on the
//! same mount, following no link), and no recording's bytes are removed by the engine without a
//! permit.

mod dir;
mod held;
mod identity;
mod inspect;
mod kept;
mod partial;
mod pinned;
mod private;
mod quiet;
mod retire;
mod stage;
mod still;
mod sync;
mod trash;

pub use dir::{
    Dir, DirStream, SetTime, StreamEntry, Times, identify_file, set_times, stat_file, visible_xattr,
};
pub use identity::{XATTR as IDENTITY, of_copy as identity_of_copy};
pub use inspect::{Inspection, Room, is_as_released, partial_of};
pub use kept::Kept;
pub use partial::{Live, Partial, PartialChange};
pub use pinned::Pinned;
pub use quiet::Quiet;
pub use stage::{Looks, Stage};
pub use still::{NamesChange, NamesStill};
pub use sync::{begin_write_out, finish_write_out, read_from_disk, read_uncached, sync_file};
pub use trash::trash_path;

use crate::faults;
use crate::recording::{Attr, ErrorClass, Kind, LowerVersion, NodeId};
use crossbeam_channel::{Receiver, Sender};
use parking_lot::Mutex;
use private::Private;
use retire::Retired;
use rustix::fs::{Mode, OFlags, RenameFlags};
use rustix::io::Errno;
use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize};
use std::time::Duration;
use still::Directories;

/// File systems stamp with the time of the last tick of the kernel's clock.
const CTIME_GRANULARITY: Duration = Duration::from_millis(20);

/// What can go wrong below.
#[derive(Debug, thiserror::Error)]
pub enum LowerError {
    /// The kernel said no.
    #[error("{path}: {source}")]
    Io {
        /// Path relative to the mount.
        path: PathBuf,
        /// What it said.
        source: std::io::Error,
    },
    /// Somebody has the file open that is to be taken away.
    #[error("{path}: a program has it open")]
    InUse {
        /// Path relative to the mount.
        path: PathBuf,
    },
    /// Somebody has the file open for writing, or mapped it writable.
    #[error("{path}: a program has it open for writing")]
    Busy {
        /// Path relative to the mount.
        path: PathBuf,
    },
    /// The file is no longer the version that was meant, or another file has its name now.
    #[error("{path}: it changed meanwhile")]
    Changed {
        /// Path relative to the mount.
        path: PathBuf,
    },
    /// The file system below lacks something that spoolfs needs.
    #[error("{path}: {lack}")]
    Unsuitable {
        /// The lower directory.
        path: PathBuf,
        /// What is missing, and the cure.
        lack: String,
    },
}

impl LowerError {
    fn io(path: &Path) -> impl FnOnce(Errno) -> LowerError + '_ {
        move |errno| LowerError::Io { path: path.to_owned(), source: errno.into() }
    }

    /// How it may end.
    pub fn class(&self) -> ErrorClass {
        match self {
            LowerError::Busy { .. } | LowerError::InUse { .. } | LowerError::Changed { .. } => {
                ErrorClass::Refused
            }
            LowerError::Io { .. } => ErrorClass::Transient,
            LowerError::Unsuitable { .. } => ErrorClass::Permanent,
        }
    }

    /// Whether the file is not there.
    pub fn is_not_found(&self) -> bool {
        matches!(self, LowerError::Io { source, .. } if source.kind() == std::io::ErrorKind::NotFound)
    }
}

/// Result of a call below.
pub type Result<T> = std::result::Result<T, LowerError>;

/// What is known of a lower file.
#[derive(Clone, Debug)]
pub struct LowerStat {
    /// What `stat` shows.
    pub attr: Attr,
    /// The stamp of its content.
    pub version: LowerVersion,
    /// The identity it carries, if it has one that is its own.
    pub node: Option<NodeId>,
}

/// How full a file system is. What is set aside for root counts neither as used nor as free.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// All bytes.
    pub bytes: u64,
    /// Bytes taken.
    pub bytes_used: u64,
    /// Bytes free for ordinary users.
    pub bytes_free: u64,
    /// Inodes taken; like those free 0 where the file system makes them as needed.
    pub inodes_used: u64,
    /// Inodes free for ordinary users.
    pub inodes_free: u64,
}

impl Usage {
    /// The fuller of bytes and inodes, in hundredths, rounded up, as `df` shows it.
    pub fn percent(&self) -> u8 {
        let share = |used: u64, free: u64| {
            let all = u128::from(used) + u128::from(free);
            (u128::from(used) * 100).div_ceil(all.max(1))
        };
        let fuller =
            share(self.bytes_used, self.bytes_free).max(share(self.inodes_used, self.inodes_free));
        u8::try_from(fuller).unwrap_or(100)
    }
}

/// The lower directory of one mount.
#[derive(Debug)]
pub struct Lower {
    root: Dir,
    private: Private,
    directories: Directories,
    retired: Mutex<Vec<Retired>>,
    partials: Mutex<HashMap<NodeId, Arc<Partial>>>,
    /// How many: mostly none, and every read and write in plain mode asks.
    partial_count: AtomicUsize,
    /// Those that could not be opened yet, by their names; `None` until they could be listed.
    unread_partials: Mutex<Option<Vec<String>>>,
    unread_count: AtomicUsize,
    /// How many got their names.
    placed: AtomicU64,
    kept: Mutex<Vec<Arc<Kept>>>,
    /// How many: mostly none, and every write in plain mode asks.
    kept_count: AtomicUsize,
    kept_wake: (Sender<()>, Receiver<()>),
}

impl Lower {
    /// Opens the lower directory, before anything is mounted over it, and makes its private
    /// directory `.spl`.
    ///
    /// # Errors
    /// Not a directory, no permission, or a file system without `trusted` extended attributes.
    pub fn open(dir: &Path) -> Result<Arc<Lower>> {
        let root = Dir::open_root(dir).map_err(LowerError::io(dir))?;
        let lower = Lower::over(root, dir)?;
        lower.clear_held(&HashSet::new());
        Ok(lower)
    }

    /// The lower directory that a predecessor opened and that is covered by its mount; `dir` is
    /// for messages. Files that are held stay until [`Lower::clear_held`].
    ///
    /// # Errors
    /// As [`Lower::open`].
    pub fn resume(root: OwnedFd, dir: &Path) -> Result<Arc<Lower>> {
        Lower::over(Dir::from_fd(root), dir)
    }

    fn over(root: Dir, dir: &Path) -> Result<Arc<Lower>> {
        crate::sys::ignore_sigio();
        root.identify_self(NodeId::ROOT).map_err(|errno| LowerError::Unsuitable {
            path: dir.to_owned(),
            lack: format!(
                "can not keep an extended attribute `trusted.spoolfs` ({errno}); spoolfs must run \
                 as root on a local file system such as ext4, xfs or btrfs"
            ),
        })?;
        let private = Private::open(&root).map_err(LowerError::io(dir))?;
        let lower = Lower {
            root,
            private,
            directories: Directories::default(),
            retired: Mutex::new(Vec::new()),
            partials: Mutex::default(),
            partial_count: AtomicUsize::new(0),
            unread_partials: Mutex::default(),
            unread_count: AtomicUsize::new(0),
            placed: AtomicU64::new(0),
            kept: Mutex::default(),
            kept_count: AtomicUsize::new(0),
            kept_wake: crossbeam_channel::bounded(1),
        };
        lower.clear_leftovers();
        lower.load_partials(&mut lower.unread_partials.lock());
        lower.load_kept();
        Ok(Arc::new(lower))
    }

    /// A file without a name, to try things with.
    ///
    /// # Errors
    /// As `open` with O_TMPFILE.
    pub fn scratch(&self) -> Result<File> {
        let dir = self.private.stage.as_file().map_err(LowerError::io(Path::new(".spl/stage")))?;
        let flags = OFlags::RDWR | OFlags::TMPFILE | OFlags::CLOEXEC;
        let file = rustix::fs::openat(&dir, ".", flags, Mode::RUSR | Mode::WUSR);
        file.map(File::from).map_err(LowerError::io(Path::new(".spl/stage")))
    }

    /// Whether the lower file system is itself stacked on another (overlayfs).
    pub fn is_stacked(&self) -> bool {
        /// OVERLAYFS_SUPER_MAGIC of linux/magic.h.
        const OVERLAYFS: rustix::fs::FsWord = 0x794c_7630;
        let stat = self.root.as_file().and_then(rustix::fs::fstatfs);
        stat.is_ok_and(|s| s.f_type == OVERLAYFS)
    }

    /// The root of the tree.
    pub fn root(&self) -> &Dir {
        &self.root
    }

    /// The directory at a path relative to the mount ("" is the root).
    ///
    /// # Errors
    /// As `open`.
    pub fn dir(&self, path: &Path) -> Result<Dir> {
        self.root.descend(path).map_err(LowerError::io(path))
    }

    /// The directory that holds `path`, and the name in it.
    fn parent_of<'p>(&self, path: &'p Path) -> Result<(Dir, &'p [u8])> {
        if let Some(name) = trash::name_in(path) {
            return Ok((self.private.trash.clone(), name));
        }
        use std::os::unix::ffi::OsStrExt;
        let name = path.file_name().ok_or_else(|| LowerError::io(path)(Errno::INVAL))?;
        let dir = self.dir(path.parent().unwrap_or(Path::new("")))?;
        Ok((dir, name.as_bytes()))
    }

    /// Looks at a path relative to the mount; a symbolic link is not followed.
    ///
    /// # Errors
    /// As `stat`.
    pub fn stat(&self, path: &Path) -> Result<LowerStat> {
        if path.as_os_str().is_empty() {
            return self.root.stat_self().map_err(LowerError::io(path));
        }
        let (dir, name) = self.parent_of(path)?;
        dir.stat(name).map_err(LowerError::io(path))
    }

    /// The extended attributes of a file, those that users see.
    ///
    /// # Errors
    /// As `listxattr`.
    pub fn xattrs(&self, file: &File) -> Result<Vec<(Vec<u8>, Vec<u8>)>> {
        dir::all_xattrs(file).map_err(LowerError::io(Path::new("")))
    }

    /// Names in a directory, for reconciling; the private directory left out.
    ///
    /// # Errors
    /// As `readdir`.
    pub fn names(&self, path: &Path) -> Result<Vec<Vec<u8>>> {
        let dir = self.dir(path)?;
        let mut stream = dir.stream().map_err(LowerError::io(path))?;
        let mut names = Vec::new();
        let mut position = 0;
        loop {
            let before = names.len();
            stream
                .read(position, &mut |entry| {
                    position = entry.next;
                    names.push(entry.name.to_vec());
                    true
                })
                .map_err(LowerError::io(path))?;
            if names.len() == before {
                return Ok(names);
            }
        }
    }

    /// Owner, mode and identity for what a dead daemon had just made at `path`; `attr` is what it
    /// was to show, its times those from before it was made. Tells whether it is that: nothing is
    /// done to what is older, of another kind, or has several names.
    ///
    /// # Errors
    /// As `chown`, `chmod`, `setxattr`.
    pub fn finish_new(&self, path: &Path, id: NodeId, attr: &Attr) -> Result<bool> {
        let explain = LowerError::io(path);
        let (dir, name) = self.parent_of(path)?;
        let finish = || {
            let stat = dir.stat(name)?;
            let made_since = stat.attr.ctime.plus(CTIME_GRANULARITY) >= attr.mtime;
            let single = stat.attr.nlink == 1 || attr.kind == Kind::Dir;
            let empty = stat.attr.size == 0 || attr.kind != Kind::File;
            if stat.node.is_some() || stat.attr.kind != attr.kind {
                return Ok(false);
            }
            if !(made_since && single && empty) {
                return Ok(false);
            }
            dir.chown(name, Some(attr.uid), Some(attr.gid))?;
            if attr.mode & 0o6000 != 0 && matches!(attr.kind, Kind::File | Kind::Other) {
                dir.chmod(name, attr.mode)?;
            }
            dir.identify(name, id)?;
            Ok(true)
        };
        finish().map_err(explain)
    }

    /// Gives a file or directory found below its identity.
    ///
    /// # Errors
    /// As `setxattr`.
    pub fn identify(&self, path: &Path, id: NodeId) -> Result<LowerStat> {
        let (dir, name) = self.parent_of(path)?;
        faults::fail("lower.adopt").map_err(LowerError::io(path))?;
        dir.identify(name, id).map_err(LowerError::io(path))?;
        dir.stat(name).map_err(LowerError::io(path))
    }

    /// Gives a file another name. Never replaces a file. The caller keeps names from being changed.
    ///
    /// # Errors
    /// As `rename`.
    pub fn rename(&self, from: &Path, to: &Path) -> Result<()> {
        let (dir, name) = self.parent_of(from)?;
        let (new_dir, new_name) = self.parent_of(to)?;
        dir.rename(name, &new_dir, new_name, RenameFlags::NOREPLACE).map_err(LowerError::io(to))
    }

    /// Makes a directory that released recordings need, with this identity. Its parent must be
    /// there; an existing directory of that identity is left as it is.
    ///
    /// # Errors
    /// As `mkdir`.
    pub fn restore_dir(&self, path: &Path, id: NodeId, attr: &Attr) -> Result<()> {
        let (dir, name) = self.parent_of(path)?;
        match dir.mkdir(name, attr.mode) {
            Ok(()) => {}
            Err(Errno::EXIST) => {
                let found = dir.stat(name).map_err(LowerError::io(path))?;
                let ours = found.node == Some(id);
                return if ours { Ok(()) } else { Err(LowerError::Changed { path: path.into() }) };
            }
            Err(errno) => return Err(LowerError::io(path)(errno)),
        }
        dir.chown(name, Some(attr.uid), Some(attr.gid)).map_err(LowerError::io(path))?;
        dir.chmod(name, attr.mode).map_err(LowerError::io(path))?;
        dir.identify(name, id).map_err(LowerError::io(path))
    }

    /// The device of the lower file system, `st_dev`.
    ///
    /// # Errors
    /// As `fstat`.
    pub fn device(&self) -> Result<u64> {
        let stat = self.root.as_file().and_then(rustix::fs::fstat);
        stat.map(|stat| stat.st_dev).map_err(LowerError::io(Path::new("")))
    }

    /// How full the lower file system is.
    ///
    /// # Errors
    /// As `statvfs`.
    pub fn usage(&self) -> Result<Usage> {
        let stat = self.root.statvfs().map_err(LowerError::io(Path::new("")))?;
        let bytes = |blocks: u64| blocks.saturating_mul(stat.f_frsize);
        Ok(Usage {
            bytes: bytes(stat.f_blocks),
            bytes_used: bytes(stat.f_blocks.saturating_sub(stat.f_bfree)),
            bytes_free: bytes(stat.f_bavail),
            inodes_used: stat.f_files.saturating_sub(stat.f_ffree),
            inodes_free: stat.f_favail,
        })
    }
}

#[cfg(test)]
mod tests;
