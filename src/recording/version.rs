//! What tells one content of a local file from another without reading it.

use crate::clock::Timestamp;
use serde::{Deserialize, Serialize};

/// The stamp of a local file: if two are equal and nobody had the file open for writing at
/// either time, its bytes are the same. ctime can not be set back by a program.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct LowerVersion {
    /// Inode number in the lower file system.
    pub ino: u64,
    /// Length in bytes.
    pub size: u64,
    /// Last change of content.
    pub mtime: Timestamp,
    /// Last change of content or attributes.
    pub ctime: Timestamp,
}

impl LowerVersion {
    /// Whether the content may differ from what it was at `earlier`. chmod, chown and link move
    /// only ctime: the hash settles those.
    pub fn differs_from(&self, earlier: &LowerVersion) -> bool {
        self != earlier
    }
}
