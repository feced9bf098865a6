//! What joins are made from: calls, and their recordings.

use super::Result;
use super::plan::{Leg, Side};
use crate::clock::Timestamp;
use crate::recording::{Attr, NodeId};
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// A recording of a call, as call records have it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CallLeg {
    /// Identity.
    pub node: NodeId,
    /// When its audio begins.
    pub start: Option<Timestamp>,
    /// Whose voice it has.
    pub side: Option<Side>,
}

/// Calls, as far as joins need them. Answers come from local records and wait for no network.
pub trait Calls: Send + Sync {
    /// Whether asking waits for nothing but the local disk; not so at a start.
    fn is_open(&self) -> bool;

    /// The recordings of a call in the order of their time; none if there is no such call.
    ///
    /// # Errors
    /// If the records can not be read now.
    fn legs(&self, linkedid: &[u8]) -> Result<Vec<CallLeg>>;

    /// Calls of two recordings or more behind a cursor, each with its own; 0 is the beginning.
    ///
    /// # Errors
    /// If the records can not be read now.
    fn after(&self, cursor: u64, limit: usize) -> Result<Vec<(u64, Vec<u8>)>>;

    /// The same with their recordings, asked for at once.
    ///
    /// # Errors
    /// If the records can not be read now.
    fn with_legs(&self, cursor: u64, limit: usize) -> Result<Vec<ListedCall>>;

    /// Calls of which something was heard behind a position; behind one that was never reached there
    /// is nothing, and it becomes the last.
    ///
    /// # Errors
    /// If the records can not be read now.
    fn heard_after(&self, position: u64, limit: usize) -> Result<Heard>;

    /// The calls that a recording is of.
    ///
    /// # Errors
    /// If the records can not be read now.
    fn calls_of(&self, node: NodeId) -> Result<Vec<Vec<u8>>>;

    /// Whether a call is over, and nothing more is to be expected of it.
    ///
    /// # Errors
    /// If the records can not be read now.
    fn is_complete(&self, linkedid: &[u8]) -> Result<bool>;
}

/// Calls of which something was heard.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Heard {
    /// Their ids, in the order of that; those of one recording among them.
    pub calls: Vec<Vec<u8>>,
    /// To be passed to the next question.
    pub position: u64,
}

/// A call of a listing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListedCall {
    /// Its cursor.
    pub cursor: u64,
    /// Its id.
    pub linkedid: Vec<u8>,
    /// Its recordings in the order of their time.
    pub legs: Vec<CallLeg>,
}

/// Where a leg's bytes are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Tier {
    /// In the recordings directory.
    Local,
    /// In a target, and at least their beginning in the disk cache.
    Cache,
    /// In a target.
    Target,
}

impl Tier {
    pub(super) fn word(self) -> &'static str {
        match self {
            Tier::Local => "local",
            Tier::Cache => "cache",
            Tier::Target => "target",
        }
    }
}

/// A recording as it stands.
#[derive(Clone, Debug)]
pub struct Standing {
    /// Its path, relative to the mount.
    pub path: PathBuf,
    /// What `stat` shows.
    pub attr: Attr,
    /// Where its bytes are.
    pub tier: Tier,
    /// It is being recorded.
    pub growing: bool,
}

/// Some recordings, in the order of their names.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Named {
    /// The recordings.
    pub nodes: Vec<NodeId>,
    /// To be passed to the next question.
    pub cursor: u64,
    /// There are more.
    pub more: bool,
}

/// Recordings, as far as joins need them.
pub trait Recordings: Send + Sync {
    /// How recordings stand, each in its place, asked for at once; none if it is gone, an error if
    /// it can not be told now. Waits for no target.
    fn standings(&self, nodes: &[NodeId]) -> Vec<Result<Option<Standing>>>;

    /// Recordings whose names were made after a cursor; 0 is the beginning.
    ///
    /// # Errors
    /// If it can not be told now.
    fn named_after(&self, cursor: u64, limit: usize) -> Result<Named>;

    /// Its bytes. Waits for no target; reading may.
    ///
    /// # Errors
    /// If it is not what it was: another length, another time of change.
    fn open(&self, leg: &Leg) -> Result<Box<dyn Source>>;

    /// Where the bytes of a stored join are.
    fn tier_of_stored(&self, id: NodeId) -> Tier;

    /// Bytes of a stored join. Waits for a target.
    ///
    /// # Errors
    /// If they can not be had.
    fn read_stored(&self, id: NodeId, offset: u64, len: usize) -> Result<Bytes>;

    /// What `stat` shows of the root of the mount.
    ///
    /// # Errors
    /// As `stat`.
    fn root(&self) -> Result<Attr>;
}

/// An open recording.
pub trait Source: Send + Sync {
    /// Bytes; fewer only where it ends.
    ///
    /// # Errors
    /// If they can not be had, or it is not what it was when it was opened.
    fn read(&self, offset: u64, len: usize) -> Result<Bytes>;

    /// Whether reading may wait for a target.
    fn is_remote(&self) -> bool;
}
