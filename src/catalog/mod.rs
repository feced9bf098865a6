//! The catalog: an SQLite database of everything known about recordings, an operation log in
//! front of it, and an overlay so that logged operations are seen before they are committed.
//!
//! **Invariant:** the call path (`intend`, `settle`, `record`, `alloc`) makes one `write(2)` to the
//! log and never waits for SQLite, an fsync or a checkpoint. One thread writes the database.

mod apply;
mod changed;
mod database;
mod due;
mod encode;
mod engine;
mod error;
mod expired;
mod holding;
mod holds;
mod identity;
mod journal;
mod lifting;
mod list;
mod locks;
mod log;
mod names;
mod objects;
mod op;
mod overlay;
mod pins;
mod readers;
mod reads;
pub mod rebuild;
mod rewrite;
mod row;
mod rules;
mod salvage;
mod schema;
mod scrub;
mod settings;
mod shared;
mod snapshot;
mod sql_row;
mod status;
mod summary;
mod tend;
mod thread;
mod told;
mod trash;
mod tx;
mod unsynced;

#[cfg(test)]
mod tests;

pub use changed::Changed;
pub use due::Behind;
pub use error::{CatalogError, Result};
pub use expired::Marked;
pub use holding::{HeldRow, Hold, Lifted, NewHold, Restored, Scope};
pub use holds::{HOLD_LIFT_GRACE, HOLD_LIFT_GRACE_MAX, HOLD_SETTLE, Holds};
pub use identity::Identity;
pub use lifting::LiftRequest;
pub use locks::{LockCount, LockRow, LockState};

pub use names::{Glimpse, NamedRow, NamesPage};
pub use op::{Fate, Intent, Op, beside};
pub use rewrite::Leaving;
pub use row::{
    Candidate, Counts, Digest, HashOutcome, JournalRow, ListRow, NodeRow, ObjectRow, ObjectState,
    Trouble,
};
pub use rules::RULES;
pub use scrub::Remedy;
pub use snapshot::{Broken, Snapshot, Unreadable};
pub use summary::Summary;
pub use told::{Archive, Attributes, Told, ToldHold, ToldObject, What};
pub use trash::{TrashCursor, TrashRow};
pub use unsynced::Unsynced;

use crate::clock::SharedClock;
use crate::recording::NodeId;
use database::Database;
use error::{Fault, fault};
use log::{Answer, Log, Origin, Replay};
use parking_lot::Mutex;
use schema::OpenFault;
use shared::Shared;
use std::collections::HashMap;
use std::fs::File;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::JoinHandle;
use thread::Worker;

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

/// The catalog of one mount. Shared by the file system and the engine; they meet nowhere else.
#[derive(Debug)]
pub struct Catalog {
    shared: Arc<Shared>,
    thread: Mutex<Option<JoinHandle<()>>>,
    _lock: File,
}

impl Catalog {
    /// Opens or makes the catalog, applies what the operation log holds, starts the thread. A
    /// database that is damaged beyond repair is set aside (`catalog.db.corrupt-<seconds>`) and a new one is
    /// made; one that can not be opened now leaves the catalog unusable, and it is tried again.
    ///
    /// # Errors
    /// `Newer`, `Locked`, `Io`.
    pub fn open(options: Options) -> Result<Arc<Catalog>> {
        #[cfg(feature = "faults")]
        crate::sys::intercept_sqlite();
        for dir in [&options.state_dir, &options.runtime_dir] {
            make_private(dir).map_err(CatalogError::io(dir))?;
        }
        let lock = identity::lock(&options.state_dir)?;
        let stored = Identity::load(&options.state_dir.join(identity::FILE));
        let identity =
            stored.unwrap_or_else(|| Identity { epoch: 0, ..Identity::fresh(&options.node) });
        let dir = options.runtime_dir.clone();
        let (log, replay) = Log::open(&dir).map_err(CatalogError::io(&dir))?;
        let shared = Arc::new(Shared::new(options, log, identity));
        let database = first_database(&shared)?;
        let committed = database.as_ref().map_or(0, |d| d.committed);
        resume(&shared, replay, committed);
        holding::load(&shared, database.as_ref().map(Database::conn));
        let worker = Worker::new(shared.clone(), database);
        let thread = std::thread::Builder::new()
            .name("catalog".to_owned())
            .spawn(move || {
                crate::sys::stand_back(0);
                worker.run();
            })
            .map_err(CatalogError::io(&shared.path))?;
        Ok(Arc::new(Catalog { shared, thread: Mutex::new(Some(thread)), _lock: lock }))
    }

    /// Drains the log, checkpoints and stops the thread.
    pub fn close(&self) {
        self.shared.closing.store(true, Ordering::SeqCst);
        self.join();
    }

    fn join(&self) {
        self.shared.ring();
        let thread = self.thread.lock().take();
        if thread.is_some_and(|t| t.join().is_err()) {
            tracing::error!("the catalog thread panicked; the log has what it did not write");
        }
    }

    /// Where it lives, and what belongs to it.
    pub fn state_dir(&self) -> &Path {
        &self.shared.options.state_dir
    }

    /// What this catalog is.
    pub fn identity(&self) -> Identity {
        self.shared.identity.read().clone()
    }

    /// Why it can not be used, if so. Loud in `status`.
    pub fn trouble(&self) -> Option<String> {
        let shared = &self.shared;
        if let Some(reason) = shared.trouble.lock().clone() {
            return Some(shared.unusable(reason).to_string());
        }
        let bytes = shared.overlay.read().bytes();
        if bytes > shared.log_bytes_max.load(Ordering::Relaxed) / 2 {
            return Some(format!("{bytes} bytes of operations wait for the catalog"));
        }
        let failing = shared.log_failing.load(Ordering::SeqCst);
        let dir = shared.options.runtime_dir.display();
        failing.then(|| format!("the operation log in {dir} can not be written; free space there"))
    }

    /// Waits for a database that could not be opened at first, for a while. Only for a start.
    pub fn usable_within(&self, patience: std::time::Duration) {
        let until = std::time::Instant::now() + patience;
        while self.shared.trouble.lock().is_some() && std::time::Instant::now() < until {
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
    }

    /// Whether something may be missing in the catalog that only a look at the whole lower
    /// directory brings back: a new or restored database, a full or damaged log.
    pub fn reconcile_due(&self) -> bool {
        self.shared.reconcile.load(Ordering::SeqCst)
    }

    /// A look at the whole lower directory begins; what goes wrong from now on asks for another.
    pub fn reconcile_begins(&self) {
        self.shared.reconcile.store(false, Ordering::SeqCst);
    }

    /// Something was done below that could not be logged: a reconcile is due.
    pub fn doubt(&self) {
        self.shared.reconcile.store(true, Ordering::SeqCst);
    }

    // ---- the call path: never waits -------------------------------------------------------

    /// A fresh identity: above every one in the catalog, in the log, and in any earlier catalog.
    pub fn alloc(&self) -> NodeId {
        NodeId(self.shared.next_id.fetch_add(1, Ordering::SeqCst))
    }

    /// Logs an operation before it is done on the lower directory. `unique` is the kernel's
    /// request number, without bit 63.
    ///
    /// # Errors
    /// `LogFull`: only then, and only to be heeded for archived or released recordings.
    pub fn intend(&self, unique: u64, op: Op) -> Result<Intent<'_>> {
        let seq = self.shared.intend(unique, &op)?;
        Ok(Intent { catalog: self, seq, op: Some(op) })
    }

    /// Logs an operation that is done. Best effort: if the log is full, a reconcile is due.
    pub fn record(&self, op: Op) {
        self.answer(0, op);
    }

    /// The same for a request of the kernel (its number without bit 63) whose answer must be
    /// known should it be sent again.
    pub fn answer(&self, unique: u64, op: Op) {
        self.shared.effect(Origin::Request(unique), op, false);
    }

    /// The number of the last record: what is logged from now on has a higher one.
    pub fn mark(&self) -> u64 {
        self.shared.log.lock().last_seq()
    }

    /// What the requests of the run before came to, by the kernel's number, as far as the log
    /// still has them and only from behind `mark` on: request numbers begin anew with each
    /// connection. Can be asked once.
    pub fn answers(&self, mark: u64) -> HashMap<u64, Op> {
        let answers = std::mem::take(&mut *self.shared.answers.lock());
        answers.into_iter().filter(|a| a.seq > mark).map(|a| (a.unique, a.op)).collect()
    }

    /// Intents of an earlier run, or of a request that panicked, whose outcome only a look at the
    /// lower directory tells: sequence number, the kernel's request number, the operation.
    pub fn undecided(&self) -> Vec<(u64, u64, Op)> {
        self.shared.log.lock().undecided()
    }

    /// Settles one of [`Catalog::undecided`]: whether the lower directory shows it done.
    pub fn settle_undecided(&self, seq: u64, applied: bool) {
        let open = self.shared.log.lock().undecided_op(seq);
        match open {
            Some((unique, op)) if applied => {
                let answer = Answer { seq, unique, op: op.clone() };
                self.shared.answers.lock().push(answer);
                self.shared.effect(Origin::Intent(seq), op, false);
            }
            Some(_) => self.shared.refused(seq),
            None => {}
        }
    }

    /// Waits until everything logged before this call is committed (tests, `status`, the CLI).
    ///
    /// # Errors
    /// `Unusable`.
    pub fn drain(&self) -> Result<()> {
        self.shared.drain()
    }

    /// Calls `wake` after each commit that gives the engine something to do. It is called on the
    /// catalog thread: it must not wait, nor call the catalog.
    pub fn on_change(&self, wake: Arc<dyn Fn() + Send + Sync>) {
        *self.shared.wake.write() = Some(wake);
    }
}

impl Drop for Catalog {
    /// Without `close` everything stays in the log for the next start.
    fn drop(&mut self) {
        self.shared.abandoned.store(true, Ordering::SeqCst);
        self.join();
    }
}

impl Intent<'_> {
    /// The lower directory was changed: the operation takes effect, seen by reads at once.
    pub fn done(mut self) {
        if let Some(op) = self.op.take() {
            self.catalog.shared.effect(Origin::Intent(self.seq), op, false);
        }
    }

    /// The same, with what came of it where the intent could not know.
    pub fn done_as(mut self, op: Op) {
        if self.op.take().is_some() {
            self.catalog.shared.effect(Origin::Intent(self.seq), op, true);
        }
    }

    /// The lower directory refused: nothing happened.
    pub fn failed(mut self) {
        if self.op.take().is_some() {
            self.catalog.shared.refused(self.seq);
        }
    }
}

impl Drop for Intent<'_> {
    fn drop(&mut self) {
        if self.op.is_some() {
            self.catalog.shared.log.lock().orphan(self.seq);
        }
    }
}

fn make_private(dir: &Path) -> std::io::Result<()> {
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(dir)
}

/// The database at the start; `None` if it can not be opened now.
fn first_database(shared: &Arc<Shared>) -> Result<Option<Database>> {
    for attempt in 0..3 {
        let error = match open_database(shared) {
            Ok(database) => return Ok(Some(database)),
            Err(OpenFault::Newer(found)) => {
                let (path, known) = (shared.path.clone(), schema::VERSION);
                return Err(CatalogError::Newer { path, found, known });
            }
            Err(OpenFault::Sqlite(error)) => error,
        };
        if fault(&error) != Fault::Garbage || database::is_sound(&shared.path) == Some(true) {
            tracing::error!("the catalog {} can not be used: {error}", shared.path.display());
            *shared.trouble.lock() = Some(error.to_string());
            return Ok(None);
        }
        if attempt == 0
            && let Some(rescued) = salvage::rescue(&shared.path, &shared.options.clock)
        {
            tracing::error!("{} was damaged ({error}): {rescued:?}", shared.path.display());
            shared.reconcile.store(true, Ordering::SeqCst);
            continue;
        }
        let aside = database::set_aside(&shared.path, &shared.options.clock)
            .map_err(CatalogError::io(&shared.path))?;
        tracing::error!(
            "{} is no database ({error}); it was set aside as {}",
            shared.path.display(),
            aside.display()
        );
    }
    Ok(None)
}

/// Opens the database and settles whose it is.
fn open_database(shared: &Arc<Shared>) -> std::result::Result<Database, OpenFault> {
    let conn = schema::open(&shared.path)?;
    let mut database = Database::new(shared, conn)?;
    let known = shared.identity.read().clone();
    let found = settings::identity(database.conn())?;
    let identity = match &found {
        Some(found) if known.epoch == 0 || *found == known => found.clone(),
        // New, or a restored copy: either way not what this machine had last.
        _ => Identity { epoch: known.epoch.saturating_add(1), ..known.clone() },
    };
    if identity.epoch > 1 && found.as_ref() != Some(&identity) {
        shared.reconcile.store(true, Ordering::SeqCst);
    }
    // The file beside it may lag behind by a crash; what is lost has an epoch that is nowhere else.
    let lost = known.epoch > 0 && found.as_ref().is_none_or(|f| f.epoch < identity.epoch);
    if lost && found.as_ref() != Some(&known) {
        tracing::error!(
            "the catalog {} is {}: recordings that were released before may not be shown until it \
             is rebuilt with `spoolfs rebuild`; calls are not affected",
            shared.path.display(),
            if found.is_some() { "an older copy" } else { "new, the one before is lost" }
        );
    }
    if found.as_ref() != Some(&identity) {
        database.transaction(true, &|tx| {
            if lost {
                settings::remember_loss(tx.conn, tx.now)?;
            }
            settings::store_identity(tx.conn, &identity)?;
            journal::restart_segments(tx.conn)
        })?;
    }
    if identity != known {
        shared.adopt(identity);
    }
    Ok(database)
}

/// Takes up what the log of the run before holds.
fn resume(shared: &Shared, replay: Replay, committed: u64) {
    shared.raise_id(replay.max_id);
    *shared.answers.lock() = replay.answers;
    if replay.damaged {
        shared.reconcile.store(true, Ordering::SeqCst);
    }
    let mut log = shared.log.lock();
    log.raise_seq(committed.max(shared::by_time(&shared.options.clock)));
    shared.first_seq.store(log.last_seq().saturating_add(1), Ordering::SeqCst);
    let (old, fresh): (Vec<_>, Vec<_>) =
        replay.effects.into_iter().partition(|e| e.seq <= committed);
    log.committed_intents(old.iter().filter_map(|e| e.intent));
    let mut overlay = shared.overlay.write();
    overlay.drop_through(committed);
    fresh.into_iter().for_each(|effect| overlay.push(Arc::new(effect)));
}
