//! Open files and directories, by the number the kernel uses for them.

use super::inode::Inode;
use super::listing::Listing;
use super::noted::{self, Noted};
use super::table::{Position, Record, Table, Use};
use crate::recording::NodeId;
use parking_lot::Mutex;
use rustix::io::Errno;
use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Where an open file's bytes come from at the moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OpenKind {
    /// The lower directory.
    Local,
    /// The archive.
    Remote,
}

/// An open file.
#[derive(Debug)]
pub(super) struct Handle {
    pub inode: Arc<Inode>,
    /// The lower file; none while the recording is released.
    file: Mutex<Option<Arc<File>>>,
    pub writable: bool,
    pub record: Record,
    /// The kernel has used it in this life, so it knows of it.
    used: AtomicBool,
    /// It does not count as a writer, and its file is open for reading only (`Vfs::rest_idle`).
    /// Changed under the lock of the inode's `opens`.
    resting: AtomicBool,
}

impl Handle {
    pub fn is_used(&self) -> bool {
        self.used.load(Ordering::SeqCst)
    }

    pub fn is_resting(&self) -> bool {
        self.resting.load(Ordering::SeqCst)
    }

    pub fn file(&self) -> Option<Arc<File>> {
        self.file.lock().clone()
    }

    /// The recording is local again: use its file from now on.
    pub fn set_file(&self, file: Arc<File>) {
        *self.file.lock() = Some(file);
    }
}

/// All open files and directories.
#[derive(Debug)]
pub(super) struct Handles {
    table: Table,
    files: Mutex<HashMap<u64, Arc<Handle>>>,
    listings: Mutex<HashMap<u64, Arc<Mutex<Listing>>>>,
    /// Handles of a predecessor by the request that opened them: should it be sent again, that
    /// is what it opened.
    before: Mutex<HashMap<u64, u64>>,
    /// Handles of a predecessor.
    resumed: Mutex<HashSet<u64>>,
}

impl Handles {
    pub fn new(table: Table) -> Handles {
        Handles {
            table,
            files: Mutex::default(),
            listings: Mutex::default(),
            before: Mutex::default(),
            resumed: Mutex::default(),
        }
    }

    pub fn add(&self, inode: Arc<Inode>, file: Option<File>, record: Record) -> u64 {
        let number = self.table.add(&record);
        self.insert(number, inode, file, record);
        number
    }

    fn insert(&self, number: u64, inode: Arc<Inode>, file: Option<File>, record: Record) {
        let file = Mutex::new(file.map(Arc::new));
        let (used, resting) = (AtomicBool::new(false), AtomicBool::new(record.resting));
        let handle = Handle { inode, file, writable: record.writable, record, used, resting };
        self.files.lock().insert(number, Arc::new(handle));
    }

    /// Takes over a handle of a predecessor.
    pub fn resume(&self, number: u64, inode: Arc<Inode>, file: Option<File>, record: Record) {
        self.is_resumed(number, &record);
        self.insert(number, inode, file, record);
    }

    fn is_resumed(&self, number: u64, record: &Record) {
        self.before.lock().insert(record.unique, number);
        self.resumed.lock().insert(number);
    }

    /// Whether a predecessor gave it out.
    pub fn is_from_before(&self, number: u64) -> bool {
        self.resumed.lock().contains(&number)
    }

    /// What a request opened that a predecessor did not answer.
    pub fn opened_before(&self, unique: u64) -> Option<u64> {
        self.before.lock().remove(&unique)
    }

    pub fn get(&self, number: u64) -> Result<Arc<Handle>, Errno> {
        let handle = self.files.lock().get(&number).cloned().ok_or(Errno::BADF)?;
        handle.used.store(true, Ordering::SeqCst);
        Ok(handle)
    }

    /// Handles of a predecessor that may write and have not been used in this life.
    pub fn unused(&self) -> Vec<(u64, Arc<Handle>)> {
        let resumed: Vec<u64> = self.resumed.lock().iter().copied().collect();
        let files = self.files.lock();
        let mine = resumed.into_iter().filter_map(|number| Some((number, files.get(&number)?)));
        let unused = mine.filter(|(_, h)| h.writable && !h.is_used());
        unused.map(|(number, handle)| (number, handle.clone())).collect()
    }

    /// A writer rests, unless somebody uses it at this moment. Called under the lock of `opens`;
    /// who uses it from now on sees it and waits for that lock.
    pub fn rest(&self, number: u64, handle: &Handle) -> bool {
        handle.resting.store(true, Ordering::SeqCst);
        if handle.is_used() {
            handle.resting.store(false, Ordering::SeqCst);
            return false;
        }
        self.table.set(number, &Record { resting: true, ..handle.record });
        true
    }

    /// It rests no more. Called under the same lock.
    pub fn wake(&self, number: u64, handle: &Handle) {
        self.table.set(number, &Record { resting: false, ..handle.record });
        handle.resting.store(false, Ordering::SeqCst);
    }

    pub fn remove(&self, number: u64) -> Option<Arc<Handle>> {
        let handle = self.files.lock().remove(&number)?;
        handle.used.store(true, Ordering::SeqCst);
        Some(handle)
    }

    /// Its backing file is about to be given back to the kernel.
    pub fn closing(&self, number: u64, handle: &Handle) {
        self.table.set(number, &Record { what: Use::Closing, ..handle.record });
    }

    /// Nothing of it is left in the kernel.
    pub fn closed(&self, number: u64) {
        self.table.free(number);
    }

    pub fn add_listing(&self, node: NodeId, unique: u64, listing: Listing) -> u64 {
        let number = self.table.add(&Record::new(Use::Dir, node, unique));
        self.listings.lock().insert(number, Arc::new(Mutex::new(listing)));
        number
    }

    pub fn resume_listing(&self, number: u64, record: &Record, listing: Listing) {
        self.is_resumed(number, record);
        self.listings.lock().insert(number, Arc::new(Mutex::new(listing)));
    }

    /// Notes where the reply that is about to be given begins.
    pub fn note_position(&self, number: u64, node: NodeId, position: Position) {
        self.table.set(number, &Record { position, ..Record::new(Use::Dir, node, 0) });
    }

    pub fn listing(&self, number: u64) -> Result<Arc<Mutex<Listing>>, Errno> {
        self.listings.lock().get(&number).cloned().ok_or(Errno::BADF)
    }

    /// Notes what a listing has given, before the reply is.
    pub fn note_given(&self, number: u64, listing: &mut Listing) {
        let Some(path) = self.table.note_of(number) else { return };
        if let Err(error) = listing.write_note(&path) {
            // Only a death of the daemon right now would be noticed.
            tracing::debug!(%error, "what a directory has given could not be noted");
        }
    }

    /// What a predecessor noted of a listing.
    pub fn noted(&self, number: u64) -> Option<Noted> {
        Noted::load(&self.table.note_of(number)?)
    }

    pub fn remove_listing(&self, number: u64) {
        let listing = self.listings.lock().remove(&number);
        if listing.is_some_and(|listing| listing.lock().has_note())
            && let Some(path) = self.table.note_of(number)
        {
            noted::remove(&path);
        }
        self.table.free(number);
    }
}
