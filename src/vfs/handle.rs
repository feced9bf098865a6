//! Open files and directories, by the number the kernel uses for them.

use super::inode::Inode;
use super::listing::Listing;
use parking_lot::Mutex;
use rustix::io::Errno;
use std::collections::HashMap;
use std::fs::File;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

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
#[derive(Debug, Default)]
pub(super) struct Handles {
    next: AtomicU64,
    files: Mutex<HashMap<u64, Arc<Handle>>>,
    listings: Mutex<HashMap<u64, Arc<Mutex<Listing>>>>,
}

impl Handles {
    fn number(&self) -> u64 {
        self.next.fetch_add(1, Ordering::Relaxed) + 1
    }

    pub fn add(&self, inode: Arc<Inode>, file: Option<File>, writable: bool) -> u64 {
        let number = self.number();
        let handle = Handle { inode, file: Mutex::new(file.map(Arc::new)), writable };
        self.files.lock().insert(number, Arc::new(handle));
        number
    }

    pub fn get(&self, number: u64) -> Result<Arc<Handle>, Errno> {
        self.files.lock().get(&number).cloned().ok_or(Errno::BADF)
    }

    pub fn remove(&self, number: u64) -> Option<Arc<Handle>> {
        self.files.lock().remove(&number)
    }

    pub fn add_listing(&self, listing: Listing) -> u64 {
        let number = self.number();
        self.listings.lock().insert(number, Arc::new(Mutex::new(listing)));
        number
    }

    pub fn listing(&self, number: u64) -> Result<Arc<Mutex<Listing>>, Errno> {
        self.listings.lock().get(&number).cloned().ok_or(Errno::BADF)
    }

    pub fn remove_listing(&self, number: u64) {
        self.listings.lock().remove(&number);
    }
}
