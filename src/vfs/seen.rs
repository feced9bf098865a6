//! What was seen of released recordings a moment ago: `ls -l` asks twice for the attributes of each
//! name that it lists, and a player opens a thousand times for a few bytes. Neither needs the catalog
//! again, nor a look at the lower directory.
//!
//! **Invariant:** what is remembered is given up before a change of it is answered: a copy that
//! comes back does so under the lock of its directory, whose turns are counted, attributes of
//! released recordings are changed here, and a node that moves forgets. What is done behind the
//! mount shows as late as in the kernel's own memory.

use super::Vfs;
use super::inode::{Inode, Mark, Place, Seen};
use super::lookup::Found;
use super::open::stamp;
use crate::catalog::Op;
use crate::recording::NodeId;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

/// As long as the kernel keeps attributes.
const GOOD_FOR: Duration = Duration::from_secs(1);

impl Vfs {
    /// Where things stand: to be asked before a look at a name in a directory. None while a local
    /// copy may be coming or going there.
    pub(super) fn mark(&self, dir: NodeId) -> Option<Mark> {
        let names = self.lower.turns_in(dir)?;
        Some(Mark { dir, names, xattrs: self.xattr_changes.load(Ordering::Acquire) })
    }

    /// Remembers how a node looked.
    pub(super) fn saw(&self, inode: &Inode, mark: Option<Mark>, found: &Found) {
        let seen = match (found, mark) {
            (Found::Released(row, None), Some(mark)) if row.id == inode.id => Some(Seen {
                mark,
                at: Instant::now(),
                generation: row.generation,
                version: stamp(&row.attr),
                bare: row.xattrs.is_empty(),
            }),
            _ => None,
        };
        *inode.seen.lock() = seen;
    }

    /// What was seen of a released recording, if it is so still. The caller holds its place.
    pub(super) fn still_seen(&self, inode: &Inode, place: &Place) -> Option<Seen> {
        let Place::Named(parent, _) = place else { return None };
        let seen = (*inode.seen.lock())?;
        let same = self.mark(parent.id) == Some(seen.mark) && seen.at.elapsed() < GOOD_FOR;
        same.then_some(seen)
    }

    /// Sets the attributes of a released recording.
    pub(super) fn record_xattrs(&self, id: NodeId, xattrs: super::xattrs::Xattrs) {
        self.catalog.record(Op::SetXattrs { id, xattrs });
        self.xattr_changes.fetch_add(1, Ordering::AcqRel);
    }
}
