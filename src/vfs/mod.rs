//! File-system semantics, without FUSE: what each operation means for a tree that is partly on
//! disk and partly in the archive.
//!
//! **Invariant:** nothing on the call path waits for a target, SQLite's writer, an fsync or a
//! hash. What may wait runs on `Workers`: fsync, remote reads, opening a released file for
//! writing, large unlinks.
//!
//! A name is looked up below first; only what is not there can be a released recording, and the
//! catalog knows those. docs/SEMANTICS.md is the contract.

mod acl;
mod attrs;
mod departure;
mod ghost;
mod handle;
mod held;
mod idle;
mod inode;
mod io;
mod kept;
mod listing;
mod lookup;
mod names;
mod noted;
mod open;
mod partial;
mod rename;
mod resume;
mod seen;
mod table;
#[cfg(test)]
mod tests;
mod virtual_dir;
mod workers;
mod xattrs;

pub use attrs::SetAttr;
pub use departure::Deletion;
pub use handle::OpenKind;
pub use held::{Refusal, Refusals};
pub use listing::ListEntry;
pub use open::Opened;
pub use resume::Resumption;
pub use workers::{Waits, Workers};

use crate::catalog::{Catalog, CatalogError, Op};
use crate::clock::{SharedClock, Timestamp};
use crate::lower::{Lower, LowerError};
use crate::recording::{Attr, ErrorClass, Generation, NodeId, Reader};
use crate::stitch::Stitched;
use bytes::Bytes;
use handle::Handles;
use inode::Inodes;
use parking_lot::{Mutex, RwLock};
use rustix::io::Errno;
use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use table::Table;

/// In the runtime directory: what the kernel has open.
const TABLE_FILE: &str = "handles";

/// Why an operation failed. Turned into a number only in `fuse::errno`.
#[derive(Debug, thiserror::Error)]
pub enum VfsError {
    /// What the kernel said of the lower directory, or what it would have said.
    #[error("{0}")]
    Kernel(Errno),
    /// The catalog is needed and can not be used.
    #[error(transparent)]
    Catalog(#[from] CatalogError),
    /// The bytes are in the archive and could not be had.
    #[error("{0}")]
    Remote(RemoteError),
    /// It may have to wait and was asked not to: ask again on a worker.
    #[error("it has to wait")]
    MustWait(Waits),
    /// More requests wait than there may.
    #[error("too many requests wait for a worker")]
    Overloaded,
}

impl From<Errno> for VfsError {
    fn from(errno: Errno) -> VfsError {
        VfsError::Kernel(errno)
    }
}

impl From<LowerError> for VfsError {
    fn from(error: LowerError) -> VfsError {
        let errno = match &error {
            LowerError::Io { source, .. } => source.raw_os_error().map(Errno::from_raw_os_error),
            LowerError::Busy { .. } | LowerError::InUse { .. } | LowerError::Changed { .. } => {
                Some(Errno::BUSY)
            }
            LowerError::Unsuitable { .. } => None,
        };
        VfsError::Kernel(errno.unwrap_or(Errno::IO))
    }
}

/// Result of an operation.
pub type Result<T> = std::result::Result<T, VfsError>;

/// Why bytes or a local copy could not be had from the archive.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{detail}")]
pub struct RemoteError {
    /// What happened, and the next step.
    pub detail: String,
    /// How it may end.
    pub class: ErrorClass,
}

/// The archive, as far as the file system needs it. Calls may wait for the network and are made
/// on workers only, but for `complete`; each ends within its own deadline.
pub trait Archive: Send + Sync {
    /// Verified bytes of a released recording: of this generation, or of the one that is current
    /// in the catalog. `path` is for messages.
    ///
    /// # Errors
    /// If no target could give them in time.
    fn read(
        &self,
        id: NodeId,
        generation: Option<Generation>,
        path: &Path,
        offset: u64,
        len: usize,
    ) -> std::result::Result<Bytes, RemoteError>;

    /// The same, if it can be had without waiting for anything.
    fn ready(
        &self,
        _id: NodeId,
        _generation: Generation,
        _path: &Path,
        _offset: u64,
        _len: usize,
    ) -> Option<Bytes> {
        None
    }

    /// Somebody is about to read a released recording; who reads through all of them waits.
    fn admit(&self, _reader: Reader, _id: NodeId) {}

    /// Brings the local copy of a released recording back.
    ///
    /// # Errors
    /// If no target could give it in time, or there is no room.
    fn recall(&self, id: NodeId) -> std::result::Result<(), RemoteError>;

    /// A released recording was opened for writing, or closed again: what it lacks is to be
    /// fetched (`Lower::partials`). Returns at once.
    fn complete(&self);

    /// The address of an object for people.
    fn url(&self, target: &str, key: &str) -> String;
}

/// The kernel's way to read and write local files without us.
pub trait Passthrough: Send + Sync {
    /// Tells the kernel of a lower file that `caller` opens: the number to answer the open with,
    /// or none if this file must be served plainly.
    fn register(&self, file: &File, caller: u32) -> Option<u32>;

    /// Nobody has it open any more.
    fn unregister(&self, number: u32);

    /// A predecessor may have died between telling the kernel of a file and noting its number:
    /// gives back what was registered last and is not among those that are `open`.
    fn unregister_lost(&self, open: &HashSet<u32>);
}

/// Whether an operation may wait for the disk or a target: on a worker yes, else it says
/// [`VfsError::MustWait`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Patience {
    /// It must be answered now.
    None,
    /// It runs on a worker.
    Worker,
}

/// Who asks.
#[derive(Clone, Copy, Debug)]
pub struct Caller {
    /// Number of the kernel's request, without bit 63.
    pub unique: u64,
    /// A daemon that died since may have read the request before, and done it.
    pub resent: bool,
    /// User.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Thread; 0 if it is the kernel, or in another namespace.
    pub pid: u32,
    /// Mask for the mode of what is made.
    pub umask: u32,
}

/// A node as a lookup answers it.
#[derive(Clone, Debug)]
pub struct Entry {
    /// Identity.
    pub id: NodeId,
    /// What `stat` shows.
    pub attr: Attr,
}

/// What a file system is made of.
pub struct Parts {
    /// The lower directory.
    pub lower: Arc<Lower>,
    /// The catalog.
    pub catalog: Arc<Catalog>,
    /// The archive.
    pub archive: Arc<dyn Archive>,
    /// Source of time.
    pub clock: SharedClock,
    /// Threads for requests that may wait.
    pub workers: Workers,
    /// Where the table of what the kernel has open is kept; without it nobody can take over.
    pub runtime: Option<PathBuf>,
}

/// The file system of one mount.
pub struct Vfs {
    lower: Arc<Lower>,
    catalog: Arc<Catalog>,
    archive: Arc<dyn Archive>,
    clock: SharedClock,
    workers: Workers,
    inodes: Inodes,
    handles: Handles,
    /// One at a time gives a file found below its identity, so that it gets only one.
    adopting: Mutex<()>,
    /// Bytes of local copies that could be released if room were needed.
    releasable: AtomicU64,
    passthrough: OnceLock<Arc<dyn Passthrough>>,
    stitched: OnceLock<Arc<Stitched>>,
    /// The directory that joins are shown in.
    stitched_in: OnceLock<NodeId>,
    deletion: RwLock<Arc<Deletion>>,
    /// Who is told of what legal holds refuse.
    refusals: RwLock<Option<Refusals>>,
    /// How often attributes of released recordings were changed.
    xattr_changes: AtomicU64,
    /// What requests came to that a predecessor did not answer.
    answers: Mutex<HashMap<u64, Op>>,
    /// When it was taken over: the kernel may know nodes from before.
    resumed_at: Option<Timestamp>,
}

impl Vfs {
    /// The file system over a lower directory.
    ///
    /// # Errors
    /// If the table of open files can not be made.
    pub fn new(parts: Parts) -> std::io::Result<Vfs> {
        let table = match &parts.runtime {
            Some(dir) => Table::open(&dir.join(TABLE_FILE), false)?.0,
            None => Table::in_memory(),
        };
        let vfs = Vfs::with_table(parts, table);
        vfs.settle_partials();
        Ok(vfs)
    }

    fn with_table(parts: Parts, table: Table) -> Vfs {
        let Parts { lower, catalog, archive, clock, workers, runtime: _ } = parts;
        Vfs {
            inodes: Inodes::new(&lower),
            handles: Handles::new(table),
            adopting: Mutex::new(()),
            releasable: AtomicU64::new(0),
            passthrough: OnceLock::new(),
            stitched: OnceLock::new(),
            stitched_in: OnceLock::new(),
            deletion: RwLock::default(),
            refusals: RwLock::default(),
            xattr_changes: AtomicU64::new(0),
            answers: Mutex::default(),
            resumed_at: None,
            lower,
            catalog,
            archive,
            clock,
            workers,
        }
    }

    /// From now on the kernel reads and writes local files itself where it can. To be called
    /// once, before the first file is opened.
    pub fn set_passthrough(&self, passthrough: Arc<dyn Passthrough>) {
        let _only_the_first_counts = self.passthrough.set(passthrough);
    }

    pub(in crate::vfs) fn passthrough(&self) -> Option<&dyn Passthrough> {
        self.passthrough.get().map(AsRef::as_ref)
    }

    /// A file without a name below, to try passthrough with.
    ///
    /// # Errors
    /// As `open`.
    pub fn scratch(&self) -> std::result::Result<File, LowerError> {
        self.lower.scratch()
    }

    /// Whether the lower file system is itself stacked on another.
    pub fn lower_is_stacked(&self) -> bool {
        self.lower.is_stacked()
    }

    /// Where requests go that may wait.
    pub fn workers(&self) -> &Workers {
        &self.workers
    }

    /// Tells how many bytes of local copies could be released: `statfs` counts them as free.
    pub fn set_releasable(&self, bytes: u64) {
        self.releasable.store(bytes, Ordering::Relaxed);
    }

    /// Numbers of recordings that are open for writing now.
    pub fn writers(&self) -> usize {
        self.inodes.writers()
    }

    /// Space and limits. Local copies that can be released count as free, because scripts delete
    /// recordings when `df` says that the disk is full.
    ///
    /// # Errors
    /// As `statvfs`.
    pub fn statfs(&self) -> Result<rustix::fs::StatVfs> {
        let mut stat = self.lower.root().statvfs()?;
        let blocks = self.releasable.load(Ordering::Relaxed) / stat.f_frsize.max(1);
        let used = stat.f_blocks.saturating_sub(stat.f_bfree);
        let extra = blocks.min(used);
        stat.f_bfree += extra;
        stat.f_bavail += extra;
        Ok(stat)
    }
}

impl std::fmt::Debug for Vfs {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Vfs").finish_non_exhaustive()
    }
}
