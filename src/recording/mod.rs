//! The vocabulary: what a recording is, its states, its identity, and the permit to release it.
//!
//! **Invariant:** nothing here does I/O.

mod encoding;
mod expiry;
pub mod flac;
mod group;
mod hash;
mod permit;
mod sealed;
mod version;
pub mod wav;

pub use encoding::{Encoding, Patch, Stored};
pub use expiry::{ExpiryEvidence, ExpiryPermit, NotExpired, ObjectAge};
pub use flac::FlacMap;
pub use group::{AUDIO, Stem, is_audio, stem};
pub use hash::{
    CHUNK_BYTES, ChunkHashes, FIRST_CHUNK_BYTES, HEAD_BYTES, Hasher, Sha256, chunk_at, chunk_count,
    chunk_range, hmac,
};
pub use permit::{Evidence, Refusal, ReleasePermit};
pub use sealed::{BLOCK_BYTES as SEALED_TOGETHER_BYTES, Sealed, sealed_bytes};
pub use version::LowerVersion;

use crate::clock::Timestamp;
use serde::{Deserialize, Serialize};

/// The identity of a file or directory: its inode number, and its row in the catalog.
/// Never used twice, so a kernel that remembers an old one can not reach a new file by it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct NodeId(pub u64);

impl NodeId {
    /// The root of the mount.
    pub const ROOT: NodeId = NodeId(1);
}

impl std::fmt::Display for NodeId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// Counts the distinct closed contents a recording has had; 0 before the first was hashed.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct Generation(pub u32);

/// What a node is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// A regular file, that is, a recording or a sidecar.
    File,
    /// A directory.
    Dir,
    /// A symbolic link.
    Symlink,
    /// A FIFO, socket or device: kept locally, never archived.
    Other,
}

/// Where a recording stands. Directories, links and others stay `Recording` and mean nothing by it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// Open for writing.
    Recording,
    /// Closed by its last writer; settling, hashed, or waiting to be archived.
    Closed,
    /// Verified in every required target; the local copy is present.
    Archived,
    /// Verified in every required target; the local copy is gone.
    Released,
    /// Deleted by the user; kept as a tombstone because objects of it exist.
    Deleted,
}

impl State {
    /// All states, in the order of a recording's life.
    pub const ALL: [State; 5] =
        [State::Recording, State::Closed, State::Archived, State::Released, State::Deleted];

    /// The word used in the CLI, in metrics and in `user.spoolfs.state`.
    pub fn word(self) -> &'static str {
        match self {
            State::Recording => "recording",
            State::Closed => "closed",
            State::Archived => "archived",
            State::Released => "released",
            State::Deleted => "deleted",
        }
    }

    /// The number kept in the catalog (docs/CATALOG.md).
    pub fn code(self) -> i64 {
        match self {
            State::Recording => 1,
            State::Closed => 2,
            State::Archived => 3,
            State::Released => 4,
            State::Deleted => 5,
        }
    }

    /// The state with this number.
    pub fn from_code(code: i64) -> Option<State> {
        State::ALL.into_iter().find(|s| s.code() == code)
    }
}

impl std::fmt::Display for State {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.word())
    }
}

/// What `stat` shows of a node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attr {
    /// What it is.
    pub kind: Kind,
    /// Permission bits, with setuid, setgid and sticky: `st_mode & 0o7777`.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Length in bytes.
    pub size: u64,
    /// Last change of content.
    pub mtime: Timestamp,
    /// Last access.
    pub atime: Timestamp,
    /// Last change of content or attributes.
    pub ctime: Timestamp,
    /// Names of the node.
    pub nlink: u32,
    /// Device number of a device node.
    pub rdev: u32,
    /// Disk use in blocks of 512 bytes.
    pub blocks: u64,
    /// The file type bits of `st_mode` (`S_IFMT`), which tell a FIFO from a socket or device.
    #[serde(default)]
    pub special: u32,
}

/// How an error may end. Every error type of the project answers `class()`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ErrorClass {
    /// May succeed when tried again: unreachable, throttled, timed out, disk full.
    Transient,
    /// Will fail the same way until somebody changes something.
    Permanent,
    /// Bytes are not what they should be.
    Corrupt,
    /// Forbidden by a rule of ours: a hold, a missing permit, a writer.
    Refused,
    /// It is sealed, and there is no key here that opens it.
    Sealed,
}

/// Who reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reader {
    /// His process, or the thread of it that reads; 0 if it is the kernel.
    pub pid: u32,
    /// His user.
    pub uid: u32,
}
