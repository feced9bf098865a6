//! What may not survive a power cut yet: names and files below that were changed, and commits that
//! SQLite has not synced. The engine takes it, syncs it, and says so.
//!
//! **Invariant:** noted before the operation is logged, so also what no log or database took; and
//! when there is too much of it to remember, the whole file system below counts.

use super::error::Result;
use super::op::Op;
use super::tx::Tx;
use super::{Catalog, settings};
use crate::clock::Timestamp;
use crate::limits;
use crate::recording::{Attr, Kind, NodeId};
use rusqlite::params;
use std::collections::HashSet;
use std::time::Duration;

/// The time up to which everything was synced, in `setting`.
const SYNCED: &str = "sync.until";
/// A clock that was set back a little must not hide what was closed.
const CLOCK_SLACK: Duration = Duration::from_secs(60);
/// What was changed longer ago than this is on the disk: the kernel writes after 30 s by itself.
const KERNEL_WRITES_AFTER: Duration = Duration::from_secs(60);

/// Makes suspect what is open, closed and archived since ?2: each from an index, as this runs on the
/// thread that writes. What is archived was archived after it was closed.
pub(super) const SUSPECT_ALL: [&str; 4] = [
    "UPDATE node INDEXED BY node_left_recording SET suspect = ?1
     WHERE kind = 1 AND state = 1 AND ?2 IS NOT NULL AND suspect IS NULL",
    "UPDATE node INDEXED BY node_due_hash SET suspect = ?1
     WHERE kind = 1 AND state = 2 AND h_ino IS NULL AND size > 0
       AND adopted IN (0, 1) AND closed_at >= ?2 AND suspect IS NULL",
    "UPDATE node INDEXED BY node_due_archive SET suspect = ?1
     WHERE kind = 1 AND state = 2 AND h_ino IS NOT NULL AND size > 0
       AND adopted IN (0, 1) AND closed_at >= ?2 AND suspect IS NULL",
    "UPDATE node INDEXED BY node_due_release SET suspect = ?1
     WHERE state = 3 AND local_since >= ?2 AND ifnull(closed_at, 0) >= ?2 AND suspect IS NULL",
];

/// What is to be synced.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Unsynced {
    /// When the oldest of it happened; `None`: there is nothing.
    pub since: Option<Timestamp>,
    /// Closed files, and files whose attributes were changed.
    pub files: HashSet<NodeId>,
    /// Directories in which names were made, moved or removed, or that were changed themselves.
    pub dirs: HashSet<NodeId>,
    /// More than is remembered here.
    pub whole: bool,
}

impl Unsynced {
    fn happened(&mut self, at: Timestamp) {
        self.since = Some(self.since.map_or(at, |since| since.min(at)));
    }

    fn full(&self) -> bool {
        self.files.len() + self.dirs.len() >= limits::UNSYNCED_MAX
    }

    fn file(&mut self, id: NodeId) {
        if self.full() && !self.files.contains(&id) {
            self.whole = true;
        } else {
            self.files.insert(id);
        }
    }

    fn dir(&mut self, id: NodeId) {
        if self.full() && !self.dirs.contains(&id) {
            self.whole = true;
        } else {
            self.dirs.insert(id);
        }
    }

    fn itself(&mut self, id: NodeId, attr: &Attr) {
        match attr.kind {
            Kind::File => self.file(id),
            Kind::Dir => self.dir(id),
            Kind::Symlink | Kind::Other => {}
        }
    }

    fn op(&mut self, op: &Op, now: Timestamp) {
        match op {
            Op::Create { parent, attr, version, adopted, id, .. } => {
                let young = version.ctime.max(version.mtime).age_at(now) < KERNEL_WRITES_AFTER;
                if !adopted || young {
                    self.dir(*parent);
                    self.itself(*id, attr);
                }
            }
            Op::Link { parent, .. } | Op::Unlink { parent, .. } | Op::Restore { parent, .. } => {
                self.dir(*parent);
            }
            Op::Closed { id, .. } => self.file(*id),
            // A file that was closed may be looked for while it is at neither place.
            Op::Rename { id, parent, new_parent, .. } => {
                self.dir(*parent);
                self.dir(*new_parent);
                self.file(*id);
            }
            Op::Exchange { a, b, .. } => {
                for (id, parent, _) in [a, b] {
                    self.dir(*parent);
                    self.file(*id);
                }
            }
            // Of a released one there is nothing to sync, which shows when it is looked for.
            Op::SetAttr { id, attr, .. } => self.itself(*id, attr),
            Op::SetXattrs { .. } | Op::Opened { .. } | Op::Suspect { .. } => {}
        }
        self.happened(now);
    }

    fn add(&mut self, other: Unsynced) {
        other.files.into_iter().for_each(|id| self.file(id));
        other.dirs.into_iter().for_each(|id| self.dir(id));
        self.whole |= other.whole;
        if let Some(since) = other.since {
            self.happened(since);
        }
    }
}

/// What is noted for the engine.
#[derive(Debug, Default)]
pub(super) struct Notes {
    unsynced: Unsynced,
    /// Files closed since somebody asked.
    closed: Vec<NodeId>,
    /// What was taken is being synced.
    under_way: bool,
    /// See [`Catalog::durable_until`].
    durable: Option<Timestamp>,
}

impl Notes {
    pub(super) fn op(&mut self, op: &Op, now: Timestamp) {
        self.unsynced.op(op, now);
        if let Op::Closed { id, .. } = op
            && self.closed.len() < limits::UNSYNCED_MAX
        {
            self.closed.push(*id);
        }
    }

    pub(super) fn take(&mut self) -> Unsynced {
        std::mem::take(&mut self.unsynced)
    }

    /// Something was committed that SQLite did not sync.
    pub(super) fn committed(&mut self, now: Timestamp) {
        self.unsynced.happened(now);
    }
}

impl Catalog {
    /// When the oldest change happened that may not survive a power cut yet.
    pub fn unsynced_since(&self) -> Option<Timestamp> {
        self.shared.unsynced.lock().unsynced.since
    }

    /// Takes what is to be synced; what happens from now on is another time's.
    pub fn take_unsynced(&self) -> Unsynced {
        let mut notes = self.shared.unsynced.lock();
        notes.under_way = true;
        notes.take()
    }

    /// The sync of what was taken is over, with what is left given back: everything that happened
    /// up to a time is on the disk, or no more than before.
    pub fn sync_is_over(&self, durable: Option<Timestamp>) {
        let mut notes = self.shared.unsynced.lock();
        notes.under_way = false;
        notes.durable = notes.durable.max(durable);
    }

    /// Everything that happened up to this time survives a power cut; `None` if that is not known.
    pub fn durable_until(&self) -> Option<Timestamp> {
        let notes = self.shared.unsynced.lock();
        match notes.unsynced.since {
            _ if notes.under_way => notes.durable,
            // Of a time before the first sync nothing is known.
            _ if notes.durable.is_none() => None,
            Some(since) => notes.durable.max(Some(Timestamp(since.0.saturating_sub(1)))),
            None => Some(self.shared.options.clock.now()),
        }
    }

    /// Gives back what could not be synced.
    pub fn still_unsynced(&self, unsynced: Unsynced) {
        self.shared.unsynced.lock().unsynced.add(unsynced);
    }

    /// The engine gave a file a name in `dir` without an operation of a user.
    pub fn placed_below(&self, id: NodeId, dir: NodeId) {
        let at = Some(self.shared.options.clock.now());
        let (files, dirs) = (HashSet::from([id]), HashSet::from([dir]));
        self.still_unsynced(Unsynced { since: at, files, dirs, whole: false });
    }

    /// Files closed since the last call: their data can be written out already.
    pub fn take_closed(&self) -> Vec<NodeId> {
        std::mem::take(&mut self.shared.unsynced.lock().closed)
    }

    /// Syncing the local copy of a recording failed. Never waits.
    pub fn suspect(&self, id: NodeId) {
        self.record(Op::Suspect { id, at: self.shared.options.clock.now() });
    }

    /// Makes everything committed so far survive a power cut, and remembers that all that was
    /// closed before `until` does.
    ///
    /// # Errors
    /// `Unusable`.
    pub fn synced(&self, until: Timestamp) -> Result<()> {
        self.shared.write(true, move |tx| settings::set(tx.conn, SYNCED, &until.0.to_string()))
    }

    /// Syncing failed, and it is not known of what: every recording with a local copy that was
    /// closed since everything was synced the last time, or is open, is suspect. How many became
    /// so now: a proof that is under way of one that was before holds all the same, as it reads
    /// the disk. Empty files have nothing to lose.
    ///
    /// # Errors
    /// `Unusable`.
    pub fn suspect_all_unsynced(&self) -> Result<usize> {
        self.shared.write(false, |tx| suspect_all(tx, tx.now))
    }

    /// Has it logged that [`Catalog::suspect_all_unsynced`] is due, for the kernel tells it once only:
    /// the next daemon does it, should this one die before the catalog can take it. Never waits, and
    /// may be in vain: the log may be full.
    pub fn suspect_all_soon(&self) {
        self.record(Op::Suspect { id: NodeId::ROOT, at: self.shared.options.clock.now() });
    }
}

/// Makes everything suspect that was not synced for sure.
pub(super) fn suspect_all(tx: &Tx<'_>, at: Timestamp) -> rusqlite::Result<usize> {
    let until: Option<i64> = settings::get(tx.conn, SYNCED)?.and_then(|t| t.parse().ok());
    let slack = i64::try_from(CLOCK_SLACK.as_nanos()).unwrap_or(i64::MAX);
    // The clock may have been set back since.
    let since = until.map_or(i64::MIN, |t| t.min(tx.now.0)).saturating_sub(slack);
    tx.wake.set(true);
    let mut suspects = 0;
    for sql in SUSPECT_ALL {
        suspects += tx.conn.prepare_cached(sql)?.execute(params![at.0, since])?;
    }
    Ok(suspects)
}
