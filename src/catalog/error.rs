//! What can go wrong with the catalog.

use crate::recording::ErrorClass;
use std::path::{Path, PathBuf};

/// What can go wrong with the catalog.
#[derive(Debug, thiserror::Error)]
pub enum CatalogError {
    /// SQLite can not be used now; local files are served without it.
    #[error(
        "the catalog {path} can not be used: {reason}; local recordings are not affected, \
             free disk space or restore the file and run `spoolfs reload`"
    )]
    Unusable {
        /// The database file.
        path: PathBuf,
        /// What SQLite or the kernel said.
        reason: String,
    },
    /// The database was written by a newer spoolfs.
    #[error(
        "the catalog {path} has schema version {found}, this spoolfs knows up to {known}; \
             install the newer spoolfs again"
    )]
    Newer {
        /// The database file.
        path: PathBuf,
        /// Version in the file.
        found: u32,
        /// Newest version this program knows.
        known: u32,
    },
    /// Another daemon uses the state directory.
    #[error(
        "another spoolfs (pid {pid}) uses the state directory {path}; give each mount its own `state_dir`"
    )]
    Locked {
        /// The state directory.
        path: PathBuf,
        /// Who holds the lock, 0 if unknown.
        pid: u32,
    },
    /// The log is full because the catalog could not be written for long.
    #[error(
        "the operation log is full ({bytes} bytes not yet in the catalog); archived recordings \
             can not be renamed or deleted until the catalog can be written again"
    )]
    LogFull {
        /// Bytes waiting.
        bytes: u64,
    },
    /// Setting up a directory or file failed.
    #[error("{path}: {source}")]
    Io {
        /// Which one.
        path: PathBuf,
        /// What the kernel said.
        source: std::io::Error,
    },
}

impl CatalogError {
    /// How it may end.
    pub fn class(&self) -> ErrorClass {
        match self {
            CatalogError::Unusable { .. }
            | CatalogError::LogFull { .. }
            | CatalogError::Io { .. } => ErrorClass::Transient,
            CatalogError::Newer { .. } => ErrorClass::Permanent,
            CatalogError::Locked { .. } => ErrorClass::Refused,
        }
    }

    /// For `map_err`: an `Io` about `path`.
    pub(super) fn io(path: &Path) -> impl FnOnce(std::io::Error) -> CatalogError {
        move |source| CatalogError::Io { path: path.to_owned(), source }
    }
}

/// Result of a catalog call.
pub type Result<T> = std::result::Result<T, CatalogError>;

/// What an error of SQLite means for the catalog.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    /// Another connection holds a lock.
    Busy,
    /// No space for the database.
    Full,
    /// What is in the file is no database of ours.
    Garbage,
    /// The file can not be opened, read or written.
    Io,
    /// One statement failed; the database is as good as before.
    Statement,
}

/// Sorts an error of SQLite.
pub(super) fn fault(error: &rusqlite::Error) -> Fault {
    use rusqlite::ErrorCode as Code;
    match error.sqlite_error_code() {
        Some(Code::DatabaseBusy | Code::DatabaseLocked | Code::FileLockingProtocolFailed) => {
            Fault::Busy
        }
        Some(Code::DiskFull) => Fault::Full,
        Some(Code::DatabaseCorrupt | Code::NotADatabase) => Fault::Garbage,
        Some(
            Code::SystemIoFailure
            | Code::CannotOpen
            | Code::ReadOnly
            | Code::PermissionDenied
            | Code::OutOfMemory
            | Code::NoLargeFileSupport,
        ) => Fault::Io,
        _ => Fault::Statement,
    }
}
