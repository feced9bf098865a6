//! Open files and directories, by the number the kernel uses for them.

use super::inode::Inode;
use super::listing::Listing;
use super::table::{Position, Record, Table, Use};
use crate::recording::NodeId;
use parking_lot::Mutex;
use rustix::io::Errno;
use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::sync::Arc;

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
}

impl Handle {
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
        let handle = Handle { inode, file, writable: record.writable, record };
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
        self.files.lock().get(&number).cloned().ok_or(Errno::BADF)
    }

    pub fn remove(&self, number: u64) -> Option<Arc<Handle>> {
        self.files.lock().remove(&number)
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

    pub fn remove_listing(&self, number: u64) {
        self.listings.lock().remove(&number);
        self.table.free(number);
    }
}
