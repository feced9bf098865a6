//! The lower directory: the real directory under the mount, reached only through a descriptor
//! opened before the mount, and never outside it.
//!
//! **Invariant:** no path leaves the lower directory (every resolution is `openat2` beneath it,
//! following no link), and no recording's bytes are removed by the engine without a permit.

use crate::recording::{Attr, ErrorClass, LowerVersion, NodeId, ReleasePermit};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;

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
}

impl LowerError {
    /// How it may end.
    pub fn class(&self) -> ErrorClass {
        match self {
            LowerError::Busy { .. } | LowerError::Changed { .. } => ErrorClass::Refused,
            LowerError::Io { .. } => ErrorClass::Transient,
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

/// A file that had no writer at the moment it was looked at, open for reading.
#[derive(Debug)]
pub struct Quiet {
    /// The file.
    pub file: Arc<File>,
    /// What it was at that moment.
    pub stat: LowerStat,
}

/// The lower directory of one mount.
#[derive(Debug)]
pub struct Lower {}

/// A file being brought back, in the private directory, not yet visible.
#[derive(Debug)]
pub struct Stage {}

#[allow(unused_variables, clippy::unimplemented)]
impl Lower {
    /// Opens the lower directory, before anything is mounted over it, and makes its private
    /// directory `.spl`.
    ///
    /// # Errors
    /// Not a directory, no permission, or a file system without `trusted` extended attributes.
    pub fn open(dir: &Path) -> Result<Arc<Lower>> {
        unimplemented!()
    }

    /// Looks at a path relative to the mount; a symbolic link is not followed.
    ///
    /// # Errors
    /// As `stat`.
    pub fn stat(&self, path: &Path) -> Result<LowerStat> {
        unimplemented!()
    }

    /// Opens a regular file for reading if the kernel grants a read lease, that is, if no writer
    /// exists anywhere: no descriptor, no shared mapping, not even one from before the mount.
    /// The lease is given back at once, so that nobody waits for it.
    ///
    /// # Errors
    /// `Busy` if there is a writer.
    pub fn quiet(&self, path: &Path) -> Result<Quiet> {
        unimplemented!()
    }

    /// Whether the file still has no writer and its version is the one of `quiet`.
    ///
    /// # Errors
    /// As `stat`.
    pub fn still_quiet(&self, quiet: &Quiet) -> Result<bool> {
        unimplemented!()
    }

    /// The extended attributes of a file, those that users see (not `user.spoolfs.*`).
    ///
    /// # Errors
    /// As `listxattr`.
    pub fn xattrs(&self, file: &File) -> Result<Vec<(Vec<u8>, Vec<u8>)>> {
        unimplemented!()
    }

    /// Takes the local bytes away: moves the file to the private directory if it is still the
    /// version of the permit and has no writer, and puts it back if one turned up. The bytes are
    /// removed by a later `purge`.
    ///
    /// # Errors
    /// `Busy`, `Changed`: the file is where it was.
    pub fn retire(&self, path: &Path, permit: ReleasePermit) -> Result<()> {
        unimplemented!()
    }

    /// Removes what `retire` took away at least a second ago. A file that got a writer after all
    /// is put back, and its path returned.
    pub fn purge(&self) -> Vec<PathBuf> {
        unimplemented!()
    }

    /// Begins to bring a file back.
    ///
    /// # Errors
    /// As `open`; no space.
    pub fn stage(&self, id: NodeId) -> Result<Stage> {
        unimplemented!()
    }

    /// Gives the staged file its attributes and identity, syncs it, and makes it visible at
    /// `path` if `wanted` still says so (asked while no rename or unlink can happen). Never
    /// replaces a file.
    ///
    /// # Errors
    /// `Changed` if it is no longer wanted or the name is taken.
    pub fn install(
        &self,
        stage: Stage,
        path: &Path,
        attr: &Attr,
        xattrs: &[(Vec<u8>, Vec<u8>)],
        wanted: &dyn Fn() -> bool,
    ) -> Result<LowerStat> {
        unimplemented!()
    }

    /// Names in a directory, for reconciling; the private directory left out.
    ///
    /// # Errors
    /// As `readdir`.
    pub fn names(&self, dir: &Path) -> Result<Vec<Vec<u8>>> {
        unimplemented!()
    }

    /// Gives a file or directory found below its identity.
    ///
    /// # Errors
    /// As `setxattr`.
    pub fn identify(&self, path: &Path, id: NodeId) -> Result<LowerStat> {
        unimplemented!()
    }

    /// Makes a directory that released recordings need, with this identity; parents first.
    ///
    /// # Errors
    /// As `mkdir`.
    pub fn restore_dir(&self, path: &Path, id: NodeId, attr: &Attr) -> Result<()> {
        unimplemented!()
    }

    /// Bytes free for ordinary users, and all bytes, of the lower file system.
    ///
    /// # Errors
    /// As `statvfs`.
    pub fn space(&self) -> Result<(u64, u64)> {
        unimplemented!()
    }
}

#[allow(unused_variables, clippy::unimplemented)]
impl Stage {
    /// Writes at a position.
    ///
    /// # Errors
    /// As `pwrite`.
    pub fn write_at(&self, offset: u64, bytes: &[u8]) -> Result<()> {
        unimplemented!()
    }
}
