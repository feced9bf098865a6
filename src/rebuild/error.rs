//! What keeps a catalog from being rebuilt.

use crate::catalog::CatalogError;
use crate::lower::LowerError;
use crate::recording::{ErrorClass, NodeId};
use crate::store::marker::AttachError;

/// What keeps a catalog from being rebuilt. Nothing was changed by then, but for directories made
/// or numbered below.
#[derive(Debug, thiserror::Error)]
pub enum RebuildError {
    /// There is nothing to read.
    #[error(
        "no target is configured: the catalog is made from the directory alone when it is mounted"
    )]
    NoTarget,
    /// A name that is none.
    #[error("there is no target {0:?} in the configuration")]
    UnknownTarget(String),
    /// No answer, or one that says no.
    #[error(
        "target {target:?} can not be reached or refuses ({error}); what it holds is not known, so \
         nothing was rebuilt: bring it back, or name the targets to read with `--from`"
    )]
    Target {
        /// Its name.
        target: String,
        /// What it answered.
        error: String,
    },
    /// Not the archive that is meant, or none.
    #[error(transparent)]
    Marker(#[from] AttachError),
    /// The target holds no archive at all.
    #[error(
        "target {target:?}: {url} is missing, so there is no archive here; mount the right directory \
         or correct `url`, or leave this target out with `--from`"
    )]
    NoArchive {
        /// Its name.
        target: String,
        /// Where the marker should be.
        url: String,
    },
    /// There is no key for what tells of the recordings.
    #[error(
        "{url}: {why}; journal and snapshots were sealed to the keys in `encrypt_to` of that time, and \
         without one of their secret keys nothing is rebuilt: name its file as `identity_file` in \
         [read], or in SPOOLFS_READ__IDENTITY_FILE (docs/SECURITY.md); if it is lost for good, \
         `--leave-sealed` rebuilds from what can be read"
    )]
    Locked {
        /// The segment or snapshot.
        url: String,
        /// Why it can not be opened.
        why: String,
    },
    /// Written by a newer spoolfs.
    #[error("{url}: {reason}")]
    Newer {
        /// The segment.
        url: String,
        /// What is newer.
        reason: String,
    },
    /// Nothing tells which machine this is.
    #[error(
        "nothing is left that tells which node this is: say so with `--node NAME`; the archive knows {0}"
    )]
    WhichNode(String),
    /// The state directory is another machine's.
    #[error(
        "the state directory belongs to node {found:?}, not to {wanted:?}; move it away (nothing of \
         it is changed), or set another `state_dir`, to make this machine {wanted:?}"
    )]
    OtherNode {
        /// Whose it is.
        found: String,
        /// Who is asked for.
        wanted: String,
    },
    /// The archive knows another machine by that name.
    #[error(
        "target {target:?}: another machine, or an earlier installation of this one, archives as \
         node {node:?}; if it is gone for good and this machine is to take its place, say so with \
         `--node {node}`"
    )]
    NodeTaken {
        /// The target.
        target: String,
        /// The name.
        node: String,
    },
    /// Nobody has archived under that name.
    #[error("no machine has archived as node {node:?}; the archive knows {known}")]
    UnknownNode {
        /// The name.
        node: String,
        /// Those who have.
        known: String,
    },
    /// What is kept in the state directory meanwhile.
    #[error(
        "what is read can not be kept in the state directory meanwhile: {0}; it takes room there, \
         about as much as the journals and twice the catalog"
    )]
    Scratch(#[from] rusqlite::Error),
    /// What was kept there is not what was put there.
    #[error(
        "what was kept of recording {0} in the state directory meanwhile is damaged; look after \
         the disk, and try again"
    )]
    Unpacked(NodeId),
    /// The catalog.
    #[error(transparent)]
    Catalog(#[from] CatalogError),
    /// The lower directory.
    #[error(transparent)]
    Lower(#[from] LowerError),
    /// The file of the name key can not be read, or not be written.
    #[error("{0}")]
    NameKey(String),
    /// A fault of spoolfs.
    #[error("a fault of spoolfs: {0}; please report it")]
    Panic(String),
}

impl RebuildError {
    /// How it may end.
    pub fn class(&self) -> ErrorClass {
        match self {
            RebuildError::Target { .. } => ErrorClass::Transient,
            RebuildError::Marker(error) => error.class(),
            RebuildError::Catalog(error) => error.class(),
            RebuildError::Lower(error) => error.class(),
            RebuildError::Locked { .. } => ErrorClass::Sealed,
            RebuildError::OtherNode { .. } | RebuildError::NodeTaken { .. } => ErrorClass::Refused,
            _ => ErrorClass::Permanent,
        }
    }
}

/// Result of a step of a rebuild.
pub type Result<T> = std::result::Result<T, RebuildError>;
