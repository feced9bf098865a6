//! What can go wrong with call records. None of it concerns a recording.

use crate::recording::ErrorClass;
use std::path::PathBuf;

/// What can go wrong with call records.
#[derive(Debug, thiserror::Error)]
pub enum CallsError {
    /// The cache can not be used now.
    #[error("the call records in {path} can not be used: {reason}; recordings are not affected")]
    Unusable {
        /// The database.
        path: PathBuf,
        /// What SQLite or the kernel said.
        reason: String,
    },
    /// There is no cache yet.
    #[error(
        "there are no call records in {0} yet: set calls.source in the configuration and start spoolfs"
    )]
    Missing(PathBuf),
    /// A source could not be read.
    #[error("{place}: {reason}")]
    Source {
        /// Which.
        place: String,
        /// What it said.
        reason: String,
    },
}

impl CallsError {
    /// How it may end.
    pub fn class(&self) -> ErrorClass {
        match self {
            CallsError::Unusable { .. } | CallsError::Source { .. } => ErrorClass::Transient,
            CallsError::Missing(_) => ErrorClass::Permanent,
        }
    }
}

/// Result of a question about calls.
pub type Result<T> = std::result::Result<T, CallsError>;

/// Whether SQLite says that the file is no database of ours.
pub(super) fn is_damage(error: &rusqlite::Error) -> bool {
    use rusqlite::ErrorCode as Code;
    matches!(error.sqlite_error_code(), Some(Code::DatabaseCorrupt | Code::NotADatabase))
}
