//! What a held recording is when it is opened for writing stays, also if no archive has it yet: it
//! is kept beside (`Lower::keep`), and what is about to be changed is copied there before.

use super::inode::{Inode, Opens, Place};
use super::lookup::Whereabouts;
use super::table::{Record, Use};
use super::{Patience, Result, Vfs, VfsError, Waits};
use crate::lower::{LowerError, LowerStat};
use crate::recording::NodeId;
use std::fs::File;
use std::ops::Range;

/// What is to be done before a held recording is cut to nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Cut {
    /// Cut it: nothing is to be kept, or all of it is.
    Now,
    /// Another file has its name: open that one.
    Elsewhere,
}

impl Vfs {
    /// Whether the content of a recording that is about to be changed has to be kept.
    fn must_keep(&self, id: NodeId, opens: &Opens, stat: &LowerStat) -> bool {
        opens.writers == 0 && stat.attr.size > 0 && self.catalog.holds().may_lack_archive(id)
    }

    /// A recording is opened for writing, and `opens` do not count that yet. An open is not refused
    /// because something can not be kept.
    pub(super) fn keep_held(&self, id: NodeId, opens: &Opens, file: &File, stat: &LowerStat) {
        if self.must_keep(id, opens, stat)
            && let Err(error) = self.lower.keep(id, file, stat)
        {
            not_kept(id, &error);
        }
    }

    /// The same before it is cut to nothing. Copies nothing.
    ///
    /// # Errors
    /// `MustWait` until it is copied, because somebody has it open: see [`Vfs::fill_kept`].
    pub(super) fn keep_before_cut(
        &self,
        inode: &Inode,
        place: &Place,
        opens: &Opens,
        (file, stat): (&File, &LowerStat),
    ) -> Result<Cut> {
        let id = inode.id;
        let is_copied =
            || self.lower.kept_of(id).iter().any(|kept| !kept.is_whole() && !kept.is_lost());
        if self.must_keep(id, opens, stat) {
            // A successor would take what is copied of an earlier one from the file of that name.
            if opens.handles == 0
                && stat.attr.nlink == 1
                && !is_copied()
                && let Whereabouts::Named(parent, dir, name) = self.whereabouts(inode, place)?
            {
                let _names = self.lower.names_change(parent.id, parent.id);
                match self.lower.keep_whole(id, (&dir, &name), stat) {
                    Ok(()) => return Ok(Cut::Elsewhere),
                    Err(error) => tracing::debug!(%id, %error, "it is copied instead"),
                }
            }
            self.keep_held(id, opens, file, stat);
        }
        if is_copied() {
            return Err(VfsError::MustWait(Waits::Disk));
        }
        self.will_change(id, 0..u64::MAX);
        Ok(Cut::Now)
    }

    /// Copies what is kept of a recording to its end: long, and for a worker.
    ///
    /// # Errors
    /// `MustWait` if there is something to be copied, and no patience.
    pub(super) fn fill_kept(&self, id: NodeId, patience: Patience) -> Result<()> {
        for kept in self.lower.kept_of(id) {
            if kept.is_whole() || kept.is_lost() {
                continue;
            }
            if patience == Patience::None {
                return Err(VfsError::MustWait(Waits::Disk));
            }
            if let Err(error) = kept.fill(&|| false) {
                kept.give_up(&error);
            }
        }
        Ok(())
    }

    /// These bytes of a recording are about to be changed.
    pub(super) fn will_change(&self, id: NodeId, range: Range<u64>) {
        for kept in self.lower.kept_of(id) {
            kept.before(range.clone());
        }
    }

    /// The last writer's handle was closed.
    pub(super) fn kept_is_closed(&self, id: NodeId) {
        self.lower.kept_of(id).iter().for_each(|kept| kept.closed());
    }

    /// A writer's handle of a predecessor was opened again.
    pub(super) fn resume_kept(&self, id: NodeId, file: &File) {
        for kept in self.lower.kept_of(id) {
            if let Err(errno) = kept.follow(file) {
                tracing::error!(%id, %errno, "a held recording can not be read");
            }
        }
    }

    /// Whether writes of a handle must come to us although the recording is passed through.
    pub(super) fn is_direct(&self, record: &Record) -> bool {
        let passed = record.what == Use::Passthrough && record.writable;
        passed && self.is_kept(record.node)
    }

    /// Whether something of a recording is kept: its writes must come to us.
    pub(super) fn is_kept(&self, id: NodeId) -> bool {
        !self.lower.kept_of(id).is_empty()
    }
}

fn not_kept(id: NodeId, error: &LowerError) {
    tracing::error!(
        node = %id, %error,
        "what a held recording was can not be kept: it is written to before it was archived, so that a \
         call is recorded"
    );
}
