//! Where the bytes of a released recording come from: the disk cache, else a target; always
//! checked against the chunk hashes before the first byte is handed out.

use crate::recording::ErrorClass;

/// Why bytes could not be had.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{path}: {detail}")]
pub struct ContentError {
    /// The recording, relative to the mount.
    pub path: String,
    /// What happened at each target, and the next step.
    pub detail: String,
    /// How it may end.
    pub class: ErrorClass,
}
