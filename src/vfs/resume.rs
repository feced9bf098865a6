//! Going on with a connection that a predecessor began: what the kernel has open is opened again,
//! and a request that was done but not answered is answered, not done again.

use super::ghost::Ghost;
use super::inode::{Inode, Mode, Place};
use super::table::{Record, Table, Use};
use super::{Caller, Entry, Parts, Result, TABLE_FILE, Vfs};
use crate::catalog::Op;
use crate::faults;
use crate::lower::stat_file;
use crate::recording::{Kind, NodeId};
use rustix::fs::OFlags;
use std::collections::HashSet;
use std::fs::File;
use std::sync::Arc;

impl Vfs {
    /// The file system over a lower directory, as a predecessor left it. `mark` is the catalog's
    /// when the connection began. To be called with the catalog's undecided operations settled;
    /// no request may be answered before [`Vfs::resume`].
    ///
    /// # Errors
    /// If the table of open files can not be read.
    pub fn resumed(parts: Parts, mark: u64) -> std::io::Result<(Vfs, Resumption)> {
        let (table, records) = match &parts.runtime {
            Some(dir) => Table::open(&dir.join(TABLE_FILE), true)?,
            None => (Table::in_memory(), Vec::new()),
        };
        let now = parts.clock.now();
        let vfs = Vfs { resumed_at: Some(now), ..Vfs::with_table(parts, table) };
        *vfs.answers.lock() = vfs.catalog.answers(mark);
        Ok((vfs, Resumption { records }))
    }

    /// Opens again what the kernel has open, and gives back what it needs no more. Passthrough,
    /// if any, has been set.
    pub fn resume(&self, resumption: Resumption) {
        let mut held = HashSet::new();
        let mut numbers = HashSet::new();
        for (number, record) in &resumption.records {
            match record.what {
                Use::Free => {}
                Use::Closing => self.handles.closed(*number),
                Use::Dir => match self.listing(record.node) {
                    Ok(mut listing) => {
                        match self.handles.noted(*number) {
                            Some(noted) => {
                                listing.resume_with(noted);
                                self.handles.note_given(*number, &mut listing);
                            }
                            None => listing.resume_at(record.position),
                        }
                        self.handles.resume_listing(*number, record, listing);
                    }
                    Err(error) => tracing::warn!(
                        node = %record.node, %error,
                        "a directory that somebody lists could not be opened again"
                    ),
                },
                Use::Plain | Use::Passthrough | Use::Remote => {
                    if record.what == Use::Passthrough {
                        numbers.insert(record.backing);
                    }
                    let inode = self.resume_file(*number, *record);
                    if matches!(*inode.place(), Place::Held) {
                        held.insert(record.node);
                    }
                }
            }
        }
        self.give_back(&resumption, &numbers);
        self.lower.clear_held(&held);
        self.settle_partials();
    }

    /// Backing files that nobody has open any more.
    fn give_back(&self, resumption: &Resumption, open: &HashSet<u32>) {
        let Some(passthrough) = self.passthrough() else { return };
        let closing = resumption.records.iter().filter(|(_, r)| r.what == Use::Closing);
        for number in closing.map(|(_, r)| r.backing).filter(|n| *n != 0 && !open.contains(n)) {
            passthrough.unregister(number);
        }
        passthrough.unregister_lost(open);
    }

    fn resume_file(&self, number: u64, record: Record) -> Arc<Inode> {
        let inode = self.resume_inode(record.node);
        let flags = match record.resting {
            true => OFlags::RDONLY,
            false => OFlags::from_bits_retain(record.flags),
        };
        let opened = self.reopen(&inode, &record, flags);
        if opened.is_none() && record.what != Use::Remote {
            tracing::error!(
                node = %record.node,
                "an open file could not be opened again; its user gets an error, what was \
                 written is on disk"
            );
        }
        let lower_ino =
            opened.as_ref().and_then(|f| stat_file(f).ok()).map_or(0, |s| s.version.ino);
        if let Some(file) = opened.as_ref().filter(|_| record.writable) {
            self.resume_kept(record.node, file);
        }
        {
            let mut opens = inode.opens.lock();
            opens.handles += 1;
            opens.kernel += 1;
            opens.writers += u32::from(record.writable && !record.resting);
            opens.mode = Some(match record.what {
                Use::Passthrough => Mode::Passthrough { number: record.backing, lower_ino },
                _ => Mode::Plain,
            });
        }
        self.handles.resume(number, inode.clone(), opened, record);
        inode
    }

    fn reopen(&self, inode: &Inode, record: &Record, flags: OFlags) -> Option<File> {
        if record.what == Use::Remote {
            return None;
        }
        let by_name = || {
            let place = inode.place();
            match &*place {
                Place::Gone(_) => None,
                place => self.same_file(inode, place, flags),
            }
        };
        // A partial recording, perhaps deleted; it may get its name between the two looks.
        self.resume_partial(record.node, flags, record.writable).or_else(by_name)
    }

    /// The lower file, if it is this node's: a name may be another's by now.
    fn same_file(&self, inode: &Inode, place: &Place, flags: OFlags) -> Option<File> {
        let file = self.lower_file(inode, place, flags).ok().flatten()?;
        let node = stat_file(&file).ok()?.node;
        (node == Some(inode.id)).then_some(file)
    }

    /// A node that the kernel has open: under its name, or without one.
    fn resume_inode(&self, id: NodeId) -> Arc<Inode> {
        match self.lower.held(id).map(|stat| stat.attr.nlink) {
            Ok(1) => return self.inodes.intern(id, Kind::File, Place::Held, 0),
            // It was about to lose its last name, and did not.
            Ok(_) => {
                let _cleared_at_the_next_start = self.lower.unhold(id);
            }
            Err(_) => {}
        }
        self.inode(id).unwrap_or_else(|_| {
            let place = match self.catalog.node(id) {
                Ok(Some(row)) => Place::Gone(Box::new(Ghost::of_row(&row))),
                _ => Place::Lost,
            };
            self.inodes.intern(id, Kind::File, place, 0)
        })
    }

    // ---- requests that are sent again ------------------------------------------------------

    /// What a request came to that a predecessor did and did not answer.
    fn answered(&self, caller: Caller) -> Option<Op> {
        if !caller.resent {
            return None;
        }
        let answer = self.answers.lock().get(&caller.unique).cloned();
        if answer.is_some() {
            faults::point("handover.before_answer");
        }
        answer
    }

    /// The node that the request made.
    pub(super) fn made_before(&self, caller: Caller) -> Option<NodeId> {
        match self.answered(caller)? {
            Op::Create { id, .. } | Op::Link { id, .. } => Some(id),
            _ => None,
        }
    }

    /// Whether the request removed or moved what it was to.
    pub(super) fn done_before(&self, caller: Caller) -> bool {
        let op = self.answered(caller);
        matches!(op, Some(Op::Unlink { .. } | Op::Rename { .. } | Op::Exchange { .. }))
    }

    /// The handle that the request opened.
    pub(super) fn opened_before(&self, caller: Caller) -> Option<u64> {
        if caller.resent { self.handles.opened_before(caller.unique) } else { None }
    }

    /// The kernel did not take the answer to an open that was repeated: it has the predecessor's.
    /// What was opened for it once more has nobody who closes it. A handle of the predecessor's
    /// is the very one that the kernel has.
    pub fn refused_open(&self, handle: u64) {
        if self.handles.is_from_before(handle) {
            return;
        }
        match self.handles.listing(handle) {
            Ok(_) => self.release_dir(handle),
            Err(_) => self.release(handle),
        }
    }

    /// A node as the answer to what made it; the kernel has one reference more.
    pub(super) fn entered(&self, id: NodeId) -> Result<Entry> {
        let inode = self.inode(id)?;
        let attr = self.attr_of(&inode)?;
        self.inodes.intern(id, inode.kind, Place::Lost, 1);
        Ok(Entry { id, attr })
    }
}

/// What is to be opened again.
#[derive(Debug)]
pub struct Resumption {
    records: Vec<(u64, Record)>,
}

impl Resumption {
    /// How many files and directories.
    pub fn len(&self) -> usize {
        self.records.iter().filter(|(_, r)| r.what != Use::Closing).count()
    }

    /// Whether nothing was open.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}
