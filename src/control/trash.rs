//! What is asked about the trash, and answered.

use super::protocol::WirePath;
use super::utc;
use crate::clock::Timestamp;
use crate::recording::{Generation, NodeId, Sha256};
use serde::{Deserialize, Serialize};

/// What of the trash is meant.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TrashItem {
    /// One recording.
    Id(NodeId),
    /// What was deleted at this path, or below it; the empty one means all.
    Path(WirePath),
}

/// What is asked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TrashRequest {
    /// What is in it: a [`TrashReport`].
    List {
        /// At or below these paths; none: all.
        paths: Vec<WirePath>,
        /// At most so many.
        limit: u64,
    },
    /// Bring it back: a `MoveReport`.
    Restore {
        /// What.
        items: Vec<TrashItem>,
        /// Below this directory instead of where it was.
        to: Option<WirePath>,
    },
}

/// `trash list`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TrashReport {
    /// Recordings in the trash.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Those that were asked for, deleted last first.
    pub recordings: Vec<TrashedReport>,
    /// There are more than are listed.
    pub more: bool,
}

/// A recording in the trash.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TrashedReport {
    /// Its number.
    pub id: NodeId,
    /// Where it was.
    pub path: WirePath,
    /// When it was deleted.
    #[serde(with = "utc")]
    pub deleted_at: Timestamp,
    /// Length in bytes.
    pub size: u64,
    /// Last change of content.
    #[serde(with = "utc")]
    pub modified_at: Timestamp,
    /// Its bytes are on the local disk.
    pub local: bool,
    /// Every required target has it.
    pub archived: bool,
    /// Distinct closed contents so far.
    pub generation: Generation,
    /// Digest of the present one, once known.
    pub sha256: Option<Sha256>,
}
