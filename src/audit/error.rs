//! What can go wrong with the audit log.

use crate::recording::ErrorClass;
use std::path::{Path, PathBuf};

/// What can go wrong with the audit log.
#[derive(Clone, Debug, thiserror::Error)]
pub enum AuditError {
    /// The log or its table of names can not be written or read now.
    #[error("the audit log: {path}: {reason}")]
    Unusable {
        /// The file.
        path: PathBuf,
        /// What the kernel or SQLite said.
        reason: String,
    },
    /// Nobody writes it any more.
    #[error("the audit log is closed: spoolfs is stopping")]
    Closed,
    /// It was not on the disk within [`crate::limits::AUDIT_SYNC_WAIT`].
    #[error("the audit log was not on the disk in time; see that its disk answers")]
    Late,
    /// There is none.
    #[error("there is no audit log in {0} yet: it begins with the first start of spoolfs")]
    Missing(PathBuf),
}

impl AuditError {
    /// How it may end.
    pub fn class(&self) -> ErrorClass {
        match self {
            AuditError::Unusable { .. } | AuditError::Closed | AuditError::Late => {
                ErrorClass::Transient
            }
            AuditError::Missing(_) => ErrorClass::Permanent,
        }
    }
}

/// Result of a question to the audit log.
pub type Result<T> = std::result::Result<T, AuditError>;

/// For `map_err`: what happened to a file.
pub(super) fn at<E: std::fmt::Display>(path: &Path) -> impl Fn(E) -> AuditError + '_ {
    move |reason| AuditError::Unusable { path: path.to_owned(), reason: reason.to_string() }
}
