//! The operations of the call path, as they stand in the operation log.

use super::{Catalog, encode};
use crate::clock::Timestamp;
use crate::recording::{Attr, LowerVersion, NodeId};
use serde::{Deserialize, Serialize};

/// A name as bytes; percent-encoded in the log where it is not plain ASCII.
pub type Name = Vec<u8>;

/// Bytes of its name that a directory keeps that something else took the name of.
const BESIDE_MAX: usize = 200;

/// The name of a directory, or of a recording for a moment, whose own name something else has.
pub fn beside(name: &[u8], id: NodeId) -> Name {
    let short = name.get(..BESIDE_MAX).unwrap_or(name);
    [short, format!(".moved-{id}").as_bytes()].concat()
}

/// What becomes of a node that loses its last name.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Fate {
    /// It is forgotten, or, if it has objects, a tombstone.
    #[default]
    Kept,
    /// The same; the tombstone of what is archived is in the trash.
    Trash,
    /// Its file was moved into the private directory: it is in the trash, and goes on to be
    /// archived.
    Moved,
    /// The same as trash, and the objects are to be deleted.
    Erased,
}

/// One change of the tree. New variants may be added, and new fields with a default; a daemon
/// reads the log its predecessor left, also across an upgrade.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Op {
    /// A local node came to be, or one that was below before was first seen (`adopted`).
    Create {
        /// Its identity.
        id: NodeId,
        /// Directory it is in.
        parent: NodeId,
        /// Its name there.
        #[serde(with = "encode::name")]
        name: Name,
        /// What `stat` shows.
        attr: Attr,
        /// The stamp of the lower file.
        version: LowerVersion,
        /// Found below, not made through the mount: it counts as closed, not as recording.
        adopted: bool,
    },
    /// A further name for a node.
    Link {
        /// The node.
        id: NodeId,
        /// Directory of the new name.
        parent: NodeId,
        /// The new name.
        #[serde(with = "encode::name")]
        name: Name,
    },
    /// The first writer opened it.
    Opened {
        /// The node.
        id: NodeId,
    },
    /// The last writer is gone.
    Closed {
        /// The node.
        id: NodeId,
        /// What `stat` shows now.
        attr: Attr,
        /// The stamp of the lower file now. Equal to the hashed one: nothing changed.
        version: LowerVersion,
        /// When.
        at: Timestamp,
    },
    /// A name was removed.
    Unlink {
        /// Directory of the name.
        parent: NodeId,
        /// The name.
        #[serde(with = "encode::name")]
        name: Name,
        /// The node it named.
        id: NodeId,
        /// It was the node's last name.
        last: bool,
        /// What becomes of it then.
        #[serde(default)]
        fate: Fate,
        /// When.
        at: Timestamp,
    },
    /// A name was moved, perhaps over another.
    Rename {
        /// The node that moved.
        id: NodeId,
        /// Directory it was in.
        parent: NodeId,
        /// Its name there.
        #[serde(with = "encode::name")]
        name: Name,
        /// Directory it is in now.
        new_parent: NodeId,
        /// Its name there.
        #[serde(with = "encode::name")]
        new_name: Name,
        /// The node that had the new name before, and whether that was its last name.
        replaced: Option<(NodeId, bool)>,
        /// What becomes of that then.
        #[serde(default)]
        fate: Fate,
        /// When.
        at: Timestamp,
    },
    /// What was in the trash has a name again.
    Restore {
        /// The node.
        id: NodeId,
        /// Directory of the name.
        parent: NodeId,
        /// The name.
        #[serde(with = "encode::name")]
        name: Name,
        /// What `stat` shows.
        attr: Attr,
        /// When.
        at: Timestamp,
    },
    /// Two names were exchanged.
    Exchange {
        /// First node, directory and name before.
        #[serde(with = "encode::place")]
        a: (NodeId, NodeId, Name),
        /// Second node, directory and name before.
        #[serde(with = "encode::place")]
        b: (NodeId, NodeId, Name),
        /// When.
        #[serde(default)]
        at: Timestamp,
    },
    /// chmod, chown, utimens: never a new generation.
    SetAttr {
        /// The node.
        id: NodeId,
        /// What `stat` shows now.
        attr: Attr,
        /// The stamp of the lower file now, if it is there. It replaces the hashed one if
        /// `before` equals that: then nothing but the attributes moved since the hash.
        version: Option<LowerVersion>,
        /// The stamp right before.
        before: Option<LowerVersion>,
    },
    /// Syncing the local copy failed: what is on the disk is not known.
    Suspect {
        /// The node; the root: it is not known which, so that everything since the last time that
        /// all was synced is meant.
        id: NodeId,
        /// When.
        at: Timestamp,
    },
    /// The extended attributes of a released node, all of them.
    SetXattrs {
        /// The node.
        id: NodeId,
        /// Names and values.
        #[serde(with = "encode::xattrs")]
        xattrs: Vec<(Name, Vec<u8>)>,
    },
}

/// A logged intent whose outcome is not yet known. Dropped unsettled (a panic), it is settled at
/// the next start by looking at the lower directory.
#[must_use = "an intent must be settled"]
#[derive(Debug)]
pub struct Intent<'a> {
    pub(super) catalog: &'a Catalog,
    pub(super) seq: u64,
    /// Taken when the intent is settled.
    pub(super) op: Option<Op>,
}
