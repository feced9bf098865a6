//! What the catalog answers with.

use crate::clock::Timestamp;
use crate::recording::{
    Attr, ChunkHashes, Generation, LowerVersion, NodeId, Sha256, State, Stem, Stored,
};
use std::path::PathBuf;

/// A node as the catalog knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeRow {
    /// Identity.
    pub id: NodeId,
    /// Where it stands.
    pub state: State,
    /// What `stat` shows; the truth for a released node, a memory for a local one.
    pub attr: Attr,
    /// Its current generation; 0 before the first hash.
    pub generation: Generation,
    /// SHA-256 of that generation.
    pub sha256: Option<Sha256>,
    /// Stamp of the lower file when it was hashed.
    pub hashed: Option<LowerVersion>,
    /// Last close.
    pub closed_at: Option<Timestamp>,
    /// When the current generation was verified in every required target.
    pub archived_at: Option<Timestamp>,
    /// When its local copy last came back.
    pub recalled_at: Option<Timestamp>,
    /// Found below at first mount, not recorded through the mount.
    pub adopted: bool,
    /// Extended attributes, kept for released nodes.
    pub xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    /// When syncing its local copy failed, unless the disk was proved to hold it since.
    pub suspect: Option<Timestamp>,
}

/// A node with its place, as the planner wants it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// The node.
    pub row: NodeRow,
    /// Its first name, relative to the mount.
    pub path: PathBuf,
    /// Directory of that name.
    pub parent: NodeId,
    /// Its group within that directory.
    pub stem: Stem,
    /// Not to be tried before this, after failures.
    pub not_before: Option<Timestamp>,
    /// It has no name any more: its bytes are in the trash, and `path` is what it was.
    pub trashed: bool,
}

/// A name that `readdir` must add to what is in the lower directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListRow {
    /// Pass it back to go on after this row.
    pub cursor: u64,
    /// The name.
    pub name: Vec<u8>,
    /// The node.
    pub row: NodeRow,
    /// It moved between local and released after the given tier mark, so that the caller may
    /// have listed it already.
    pub moved: bool,
}

/// The result of hashing one version of a local file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Digest {
    /// Of the whole.
    pub sha256: Sha256,
    /// Of each chunk.
    pub chunks: ChunkHashes,
    /// Stamp of the file, the same before and after reading it, without a writer.
    pub version: LowerVersion,
    /// What `stat` showed.
    pub attr: Attr,
}

/// What a new hash means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HashOutcome {
    /// A new generation, to be archived.
    New(Generation),
    /// The content is what it was at this generation; nothing to upload. The state is again what
    /// that generation had reached.
    Same(Generation),
    /// The recording was opened, changed or deleted meanwhile: hash again later.
    Stale,
}

/// Where an object stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ObjectState {
    /// Its key is taken; it may or may not have been written.
    Assigned,
    /// Written and verified.
    Verified,
    /// Its key turned out to be in use by something else; it is never used again.
    Abandoned,
}

/// One object of one generation in one target.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ObjectRow {
    /// Row number.
    pub id: i64,
    /// The recording.
    pub node: NodeId,
    /// Which generation of it.
    pub generation: Generation,
    /// Name of the target.
    pub target: String,
    /// Full key, prefix included.
    pub key: String,
    /// Where it stands.
    pub state: ObjectState,
    /// Length of the recording.
    pub size: u64,
    /// SHA-256 of the recording.
    pub sha256: Sha256,
    /// What the target has of it.
    pub stored: Stored,
    /// SHA-256 of each chunk of the recording.
    pub chunks: ChunkHashes,
    /// When it was verified.
    pub verified_at: Option<Timestamp>,
}

/// Counts and bytes, for `status`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Per state: files and bytes. Empty files are in `empty`.
    pub states: Vec<(State, u64, u64)>,
    /// Closed files of 0 bytes: never archived.
    pub empty: u64,
    /// Closed, not yet hashed.
    pub unhashed: u64,
    /// The last close of the recording that has waited longest for its archive.
    pub oldest_waiting: Option<(PathBuf, Timestamp)>,
    /// Recordings not tried again before a later time, and the latest error.
    pub failing: u64,
    /// Recordings whose local copy may not be on the disk: syncing it failed.
    pub suspect: u64,
    /// Journal rows not yet shipped.
    pub journal_backlog: u64,
    /// Recordings in the trash, and their bytes.
    pub trash: (u64, u64),
}

/// A recording that can not be archived, for `status` and `explain`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trouble {
    /// Tries so far.
    pub attempts: u32,
    /// Next try.
    pub not_before: Timestamp,
    /// What happened, in a sentence.
    pub error: String,
    /// When it happened.
    pub at: Timestamp,
}

/// A change to be told to the targets' journals (docs/FORMAT.md).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JournalRow {
    /// Order of the change on this machine.
    pub seq: u64,
    /// When it happened.
    pub at: Timestamp,
    /// The change as one line of JSON.
    pub line: String,
}
