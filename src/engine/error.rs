//! What can go wrong in the engine.

use crate::catalog::CatalogError;
use crate::content::ContentError;
use crate::lower::LowerError;
use crate::recording::ErrorClass;
use crate::store::{StoreError, StoreErrorKind};
use std::path::{Path, PathBuf};

/// Why a step did not succeed.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// The catalog can not be used.
    #[error(transparent)]
    Catalog(#[from] CatalogError),
    /// The lower directory refused.
    #[error(transparent)]
    Lower(#[from] LowerError),
    /// A target refused or was not reached.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The archived bytes could not be had.
    #[error(transparent)]
    Content(#[from] ContentError),
    /// It must not be done, or not now.
    #[error("{path}: {why}")]
    Refused {
        /// The recording, relative to the mount.
        path: PathBuf,
        /// Why, and what to do.
        why: String,
    },
    /// The bytes are not those that were archived.
    #[error("{path}: {detail}")]
    Corrupt {
        /// The recording, relative to the mount.
        path: PathBuf,
        /// What was found instead.
        detail: String,
    },
    /// There is no room for it.
    #[error("{path}: {need} bytes are needed below and {free} are free; make room and try again")]
    NoSpace {
        /// The recording, relative to the mount.
        path: PathBuf,
        /// Its size with a reserve for calls in progress.
        need: u64,
        /// Bytes free in the lower file system.
        free: u64,
    },
    /// A thread could not be started.
    #[error("a thread of the engine could not be started: {0}")]
    Thread(std::io::Error),
    /// A step ended in a panic.
    #[error("a fault in spoolfs while {doing}: {why}; please report it, it is tried again")]
    Panicked {
        /// What was being done.
        doing: &'static str,
        /// What the panic said.
        why: String,
    },
    /// The daemon is stopping.
    #[error("the daemon is stopping")]
    Stopping,
}

impl EngineError {
    pub(super) fn refused(path: &Path, why: impl Into<String>) -> EngineError {
        EngineError::Refused { path: path.to_owned(), why: why.into() }
    }

    /// How it may end.
    pub fn class(&self) -> ErrorClass {
        match self {
            EngineError::Catalog(e) => e.class(),
            EngineError::Lower(e) => e.class(),
            EngineError::Store(e) => e.class(),
            EngineError::Content(e) => e.class,
            EngineError::Refused { .. } => ErrorClass::Refused,
            EngineError::Corrupt { .. } => ErrorClass::Corrupt,
            EngineError::Panicked { .. } => ErrorClass::Permanent,
            EngineError::NoSpace { .. } | EngineError::Stopping | EngineError::Thread(_) => {
                ErrorClass::Transient
            }
        }
    }

    /// Whether it is the target's fault as a whole: the recording is not to be blamed.
    pub(super) fn is_target_down(&self) -> bool {
        matches!(self, EngineError::Store(e) if e.kind == StoreErrorKind::Unreachable)
    }

    /// Whether it can only be told when a program has printed its keys.
    pub(super) fn is_awaited(&self) -> bool {
        matches!(self, EngineError::Store(e) if e.kind == StoreErrorKind::Awaited)
    }

    /// Whether the target refused this object, or spoiled it: that may be a matter of this one or
    /// of the target as a whole.
    pub(super) fn is_refused_object(&self) -> bool {
        use StoreErrorKind::{Corrupt, Denied, Locked};
        matches!(self, EngineError::Store(e) if matches!(e.kind, Corrupt | Denied | Locked))
    }

    /// Whether it says nothing about the recording: not remembered as its trouble.
    pub(super) fn is_of_the_moment(&self) -> bool {
        matches!(self, EngineError::Stopping | EngineError::Catalog(_)) || self.is_target_down()
    }
}

/// Result of a step.
pub type Result<T> = std::result::Result<T, EngineError>;
