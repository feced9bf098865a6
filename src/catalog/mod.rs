//! The catalog: an SQLite database of everything known about recordings, an operation log in
//! front of it, and an overlay so that logged operations are seen before they are committed.
//!
//! **Invariant:** the call path (`intend`, `settle`, `record`, `alloc`) makes one `write(2)` to the
//! log and never waits for SQLite, an fsync or a checkpoint. One thread writes the database.

mod op;
mod row;

pub use op::{Intent, Op};
pub use row::{
    Candidate, Counts, Digest, HashOutcome, JournalRow, ListRow, NodeRow, ObjectRow, ObjectState,
    Trouble,
};

use crate::clock::{SharedClock, Timestamp};
use crate::recording::{Attr, ErrorClass, Generation, LowerVersion, NodeId, ReleasePermit, Stem};
use std::path::PathBuf;
use std::sync::Arc;

/// Where the catalog lives.
#[derive(Clone, Debug)]
pub struct Options {
    /// Holds `catalog.db`, its write-ahead log and the ballast. Local disk, outside the mount.
    pub state_dir: PathBuf,
    /// Holds the operation log; a tmpfs that survives the daemon (`/run/spoolfs/...`).
    pub runtime_dir: PathBuf,
    /// Source of time.
    pub clock: SharedClock,
    /// Name of this machine in object keys; used when a new catalog is made.
    pub node: String,
}

/// What this catalog is, fixed when it was made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// Name of this machine in object keys and journal segments.
    pub node: String,
    /// 16 random bytes in hexadecimal: tells two machines with the same name apart.
    pub instance: String,
    /// Counts the catalogs this machine has had; a restored older one is recognised by it.
    pub epoch: u64,
}

/// What can go wrong with the catalog.
#[derive(Debug, thiserror::Error)]
pub enum CatalogError {
    /// SQLite can not be used now; local files are served without it.
    #[error(
        "the catalog {path} can not be used: {reason}; local recordings are not affected, \
             free disk space or restore the file and run `spoolfs reload`"
    )]
    Unusable {
        /// The database file.
        path: PathBuf,
        /// What SQLite or the kernel said.
        reason: String,
    },
    /// The database was written by a newer spoolfs.
    #[error(
        "the catalog {path} has schema version {found}, this spoolfs knows up to {known}; \
             install the newer spoolfs again"
    )]
    Newer {
        /// The database file.
        path: PathBuf,
        /// Version in the file.
        found: u32,
        /// Newest version this program knows.
        known: u32,
    },
    /// Another daemon uses the state directory.
    #[error(
        "another spoolfs (pid {pid}) uses the state directory {path}; give each mount its own `state_dir`"
    )]
    Locked {
        /// The state directory.
        path: PathBuf,
        /// Who holds the lock, 0 if unknown.
        pid: u32,
    },
    /// The log is full because the catalog could not be written for long.
    #[error(
        "the operation log is full ({bytes} bytes not yet in the catalog); archived recordings \
             can not be renamed or deleted until the catalog can be written again"
    )]
    LogFull {
        /// Bytes waiting.
        bytes: u64,
    },
    /// Setting up a directory or file failed.
    #[error("{path}: {source}")]
    Io {
        /// Which one.
        path: PathBuf,
        /// What the kernel said.
        source: std::io::Error,
    },
}

impl CatalogError {
    /// How it may end.
    pub fn class(&self) -> ErrorClass {
        match self {
            CatalogError::Unusable { .. }
            | CatalogError::LogFull { .. }
            | CatalogError::Io { .. } => ErrorClass::Transient,
            CatalogError::Newer { .. } => ErrorClass::Permanent,
            CatalogError::Locked { .. } => ErrorClass::Refused,
        }
    }
}

/// Result of a catalog call.
pub type Result<T> = std::result::Result<T, CatalogError>;

/// The catalog of one mount. Shared by the file system and the engine; they meet nowhere else.
#[derive(Debug)]
pub struct Catalog {}

#[allow(unused_variables, clippy::unimplemented)]
impl Catalog {
    /// Opens or makes the catalog, applies what the operation log holds, starts the thread. A
    /// database that is no database is set aside (`catalog.db.corrupt-<seconds>`) and a new one is
    /// made; one that can not be opened now leaves the catalog unusable, and it is tried again.
    ///
    /// # Errors
    /// `Newer`, `Locked`, `Io`.
    pub fn open(options: Options) -> Result<Arc<Catalog>> {
        unimplemented!()
    }

    /// Drains the log, checkpoints and stops the thread.
    pub fn close(&self) {
        unimplemented!()
    }

    /// What this catalog is.
    pub fn identity(&self) -> Identity {
        unimplemented!()
    }

    /// Why it can not be used, if so. Loud in `status`.
    pub fn trouble(&self) -> Option<String> {
        unimplemented!()
    }

    // ---- the call path: never waits -------------------------------------------------------

    /// A fresh identity: above every one in the catalog, in the log, and in any earlier catalog.
    pub fn alloc(&self) -> NodeId {
        unimplemented!()
    }

    /// Logs an operation before it is done on the lower directory. `unique` is the kernel's
    /// request number, without bit 63.
    ///
    /// # Errors
    /// `LogFull`: only then, and only to be heeded for archived or released recordings.
    pub fn intend(&self, unique: u64, op: Op) -> Result<Intent<'_>> {
        unimplemented!()
    }

    /// Logs an operation that is done. Best effort: if the log is full, a reconcile is due.
    pub fn record(&self, op: Op) {
        unimplemented!()
    }

    /// Waits until everything logged before this call is committed (tests, `status`, the CLI).
    ///
    /// # Errors
    /// `Unusable`.
    pub fn drain(&self) -> Result<()> {
        unimplemented!()
    }

    // ---- reads: overlay over SQLite; never wait for a writer ------------------------------

    /// The node named `name` in `parent`. Tombstones are not found.
    ///
    /// # Errors
    /// `Unusable`.
    pub fn lookup(&self, parent: NodeId, name: &[u8]) -> Result<Option<NodeRow>> {
        unimplemented!()
    }

    /// The node with this identity, also a tombstone.
    ///
    /// # Errors
    /// `Unusable`.
    pub fn node(&self, id: NodeId) -> Result<Option<NodeRow>> {
        unimplemented!()
    }

    /// A name of the node: directory and name there. With several, the first made.
    ///
    /// # Errors
    /// `Unusable`.
    pub fn name_of(&self, id: NodeId) -> Result<Option<(NodeId, Vec<u8>)>> {
        unimplemented!()
    }

    /// A mark to pass to `list_released`.
    pub fn tier_mark(&self) -> u64 {
        unimplemented!()
    }

    /// Released nodes in `parent`, and those that moved between local and released after `mark`,
    /// from `cursor` (0: the beginning) on, at most `limit`, in a stable order.
    ///
    /// # Errors
    /// `Unusable`.
    pub fn list_released(
        &self,
        parent: NodeId,
        cursor: u64,
        mark: u64,
        limit: usize,
    ) -> Result<Vec<ListRow>> {
        unimplemented!()
    }

    /// Whether the directory has released nodes in it (rmdir must say ENOTEMPTY).
    ///
    /// # Errors
    /// `Unusable`.
    pub fn has_released(&self, parent: NodeId) -> Result<bool> {
        unimplemented!()
    }

    // ---- the engine: short transactions on the catalog thread -----------------------------

    /// Closed files without a hash of their present version, closed at or before `settled`,
    /// newest recordings first, adopted ones last (newest mtime first). Empty files are left out.
    ///
    /// # Errors
    /// `Unusable`.
    pub fn due_hash(
        &self,
        settled: Timestamp,
        now: Timestamp,
        limit: usize,
    ) -> Result<Vec<Candidate>> {
        unimplemented!()
    }

    /// Stores a hash, if the node is still closed.
    ///
    /// # Errors
    /// `Unusable`.
    pub fn hashed(&self, id: NodeId, digest: Digest) -> Result<HashOutcome> {
        unimplemented!()
    }

    /// Hashed files not yet archived whose last close was at or before `closed_before`; by last
    /// close, oldest first (adopted ones after the others). `after` continues behind a row.
    ///
    /// # Errors
    /// `Unusable`.
    pub fn due_archive(
        &self,
        closed_before: Timestamp,
        now: Timestamp,
        after: Option<NodeId>,
        limit: usize,
    ) -> Result<Vec<Candidate>> {
        unimplemented!()
    }

    /// The objects of a node: of one generation, or of all.
    ///
    /// # Errors
    /// `Unusable`.
    pub fn objects(&self, id: NodeId, generation: Option<Generation>) -> Result<Vec<ObjectRow>> {
        unimplemented!()
    }

    /// Takes a key for an object: the first of `keys` that no object of this target ever had. If
    /// the generation has an `Assigned` or `Verified` object in the target, that is returned.
    ///
    /// # Errors
    /// `Unusable`.
    pub fn assign_key(
        &self,
        id: NodeId,
        generation: Generation,
        target: &str,
        keys: &[String],
    ) -> Result<ObjectRow> {
        unimplemented!()
    }

    /// The key turned out to be taken in the target: never use it again.
    ///
    /// # Errors
    /// `Unusable`.
    pub fn abandon_key(&self, object: i64) -> Result<()> {
        unimplemented!()
    }

    /// The object is in the target, verified.
    ///
    /// # Errors
    /// `Unusable`.
    pub fn verified(&self, object: i64, at: Timestamp) -> Result<()> {
        unimplemented!()
    }

    /// Compare-and-set: closed to archived, if generation and hashed version are still these and
    /// every target in `required` has a verified object of it. Tells whether it was done.
    ///
    /// # Errors
    /// `Unusable`.
    pub fn archived(
        &self,
        id: NodeId,
        generation: Generation,
        version: LowerVersion,
        required: &[String],
        at: Timestamp,
    ) -> Result<bool> {
        unimplemented!()
    }

    /// Archived files whose archive (and last recall) was at or before `archived_before`, oldest
    /// first. `after` continues behind a row.
    ///
    /// # Errors
    /// `Unusable`.
    pub fn due_release(
        &self,
        archived_before: Timestamp,
        after: Option<NodeId>,
        limit: usize,
    ) -> Result<Vec<Candidate>> {
        unimplemented!()
    }

    /// All files of a group.
    ///
    /// # Errors
    /// `Unusable`.
    pub fn group(&self, parent: NodeId, stem: &Stem) -> Result<Vec<Candidate>> {
        unimplemented!()
    }

    /// Compare-and-set: archived to released, by permit; committed and synced before it returns.
    /// `attr` and `xattrs` are what the local file showed last.
    ///
    /// # Errors
    /// `Unusable`.
    pub fn released(
        &self,
        permit: &ReleasePermit,
        attr: Attr,
        xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    ) -> Result<bool> {
        unimplemented!()
    }

    /// The local copy is there (again): released to archived, with the new stamp. Also undoes
    /// `released` when the local bytes could not be removed.
    ///
    /// # Errors
    /// `Unusable`.
    pub fn local_again(&self, id: NodeId, version: LowerVersion, at: Timestamp) -> Result<bool> {
        unimplemented!()
    }

    /// The node exists below with this stamp (reconcile): adopts a change made behind the mount.
    /// Archived and the stamp is the hashed one: nothing. Else: closed, to be hashed.
    ///
    /// # Errors
    /// `Unusable`.
    pub fn changed_below(&self, id: NodeId, attr: Attr, version: LowerVersion) -> Result<()> {
        unimplemented!()
    }

    /// The node is gone below: archived becomes released, anything else is forgotten.
    ///
    /// # Errors
    /// `Unusable`.
    pub fn missing_below(&self, id: NodeId) -> Result<()> {
        unimplemented!()
    }

    /// Directories and local files under a directory, for reconciling: name and row.
    ///
    /// # Errors
    /// `Unusable`.
    pub fn children(
        &self,
        parent: NodeId,
        after: &[u8],
        limit: usize,
    ) -> Result<Vec<(Vec<u8>, NodeRow)>> {
        unimplemented!()
    }

    /// Nodes left in state `recording`: after a start without open files they are closed.
    ///
    /// # Errors
    /// `Unusable`.
    pub fn left_recording(&self, after: NodeId, limit: usize) -> Result<Vec<Candidate>> {
        unimplemented!()
    }

    /// Remembers a failure to hash, archive or release, and when to try again.
    ///
    /// # Errors
    /// `Unusable`.
    pub fn failed(&self, id: NodeId, trouble: &Trouble) -> Result<()> {
        unimplemented!()
    }

    /// The remembered failure of a node, if any; success of a later step clears it.
    ///
    /// # Errors
    /// `Unusable`.
    pub fn trouble_of(&self, id: NodeId) -> Result<Option<Trouble>> {
        unimplemented!()
    }

    /// The latest remembered failure of any node.
    ///
    /// # Errors
    /// `Unusable`.
    pub fn last_trouble(&self) -> Result<Option<(PathBuf, Trouble)>> {
        unimplemented!()
    }

    /// Counts for `status`.
    ///
    /// # Errors
    /// `Unusable`.
    pub fn counts(&self) -> Result<Counts> {
        unimplemented!()
    }

    /// Journal rows that `target` has not got, oldest first.
    ///
    /// # Errors
    /// `Unusable`.
    pub fn journal_pending(&self, target: &str, limit: usize) -> Result<Vec<JournalRow>> {
        unimplemented!()
    }

    /// `target` holds every journal row up to and including `seq`, in segment `segment`. Rows
    /// that every target in `all` has are removed.
    ///
    /// # Errors
    /// `Unusable`.
    pub fn journal_shipped(
        &self,
        target: &str,
        seq: u64,
        segment: u64,
        all: &[String],
    ) -> Result<()> {
        unimplemented!()
    }

    /// Number of the last segment shipped to `target`; 0 before the first.
    ///
    /// # Errors
    /// `Unusable`.
    pub fn journal_segment(&self, target: &str) -> Result<u64> {
        unimplemented!()
    }

    /// A small setting kept in the catalog, such as a target's archive identity.
    ///
    /// # Errors
    /// `Unusable`.
    pub fn setting(&self, key: &str) -> Result<Option<String>> {
        unimplemented!()
    }

    /// Stores a small setting.
    ///
    /// # Errors
    /// `Unusable`.
    pub fn set_setting(&self, key: &str, value: &str) -> Result<()> {
        unimplemented!()
    }

    /// Calls `wake` after each commit that gives the engine something to do.
    pub fn on_change(&self, wake: Arc<dyn Fn() + Send + Sync>) {
        unimplemented!()
    }
}

#[allow(clippy::unimplemented)]
impl Intent<'_> {
    /// The lower directory was changed: the operation takes effect, seen by reads at once.
    pub fn done(self) {
        let _ = (self.catalog, self.seq, self.op);
        unimplemented!()
    }

    /// The lower directory refused: nothing happened.
    pub fn failed(self) {
        unimplemented!()
    }
}
