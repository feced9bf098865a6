//! What the callers and the catalog thread share, and the call path itself.

use super::Options;
use super::changed::Watched;
use super::database::Database;
use super::error::{CatalogError, Result};
use super::holds::Holds;
use super::identity::Identity;
use super::log::{Answer, Effect, Log, Origin};
use super::op::Op;
use super::overlay::Overlay;
use super::readers::Readers;
use super::tx::Tx;
use super::unsynced::Notes;
use crate::clock::SharedClock;
use crate::limits;
use crossbeam_channel::{Receiver, Sender, bounded};
use parking_lot::{Mutex, RwLock};
use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Instant;

/// Work for the catalog thread. Called with the database, it tells whether SQLite failed; with a
/// reason, it answers its caller that there is none.
pub(super) type Run =
    Box<dyn FnMut(std::result::Result<&mut Database, &str>) -> rusqlite::Result<()> + Send>;

/// A short transaction asked for by the engine.
pub(super) struct Job {
    /// Runs after every effect up to this one is committed.
    pub after: u64,
    /// When it was asked for.
    pub since: Instant,
    /// What to do.
    pub run: Run,
}

/// Called after commits.
pub(super) type Wake = Arc<dyn Fn() + Send + Sync>;

/// State of one catalog.
pub(super) struct Shared {
    pub options: Options,
    pub path: PathBuf,
    /// Taken before `overlay` where both are.
    pub log: Mutex<Log>,
    pub overlay: RwLock<Overlay>,
    /// What requests of the run before came to; taken by whoever answers them.
    pub answers: Mutex<Vec<Answer>>,
    /// What may not survive a power cut yet. Held for a moment, alone.
    pub unsynced: Mutex<Notes>,
    pub jobs: Mutex<VecDeque<Job>>,
    pub readers: Readers,
    pub identity: RwLock<Identity>,
    /// What is on legal hold.
    pub holds: Holds,
    pub trouble: Mutex<Option<String>>,
    pub wake: RwLock<Option<Wake>>,
    /// Held for a moment, alone.
    pub watched: Mutex<Watched>,
    pub signal: (Sender<()>, Receiver<()>),
    /// The thread is about to wait, and is to be told of a new effect.
    pub asleep: AtomicBool,
    /// Drain, checkpoint, end.
    pub closing: AtomicBool,
    /// End at once; the log has what is not committed.
    pub abandoned: AtomicBool,
    /// The thread is gone.
    pub ended: AtomicBool,
    pub next_id: AtomicU64,
    /// The first sequence number of this run.
    pub first_seq: AtomicU64,
    /// The last change between local and released that is committed.
    pub tier: AtomicU64,
    pub reconcile: AtomicBool,
    /// A reader found the file to be no database.
    pub suspect: AtomicBool,
    /// The log file could not be written.
    pub log_failing: AtomicBool,
    /// Bytes of uncommitted log at which it is full.
    pub log_bytes_max: AtomicU64,
    /// Pages the database may have at most; 0 for no bound.
    #[cfg(test)]
    pub pages_max: AtomicU64,
    /// Writes are refused as by a read-only disk.
    #[cfg(test)]
    pub read_only: AtomicBool,
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared").field("path", &self.path).finish_non_exhaustive()
    }
}

impl Shared {
    pub(super) fn new(options: Options, log: Log, identity: Identity) -> Shared {
        let path = options.state_dir.join("catalog.db");
        Shared {
            readers: Readers::new(path.clone()),
            path,
            log: Mutex::new(log),
            overlay: RwLock::default(),
            answers: Mutex::default(),
            unsynced: Mutex::default(),
            jobs: Mutex::default(),
            identity: RwLock::new(identity),
            holds: Holds::new(&options.state_dir),
            trouble: Mutex::default(),
            wake: RwLock::default(),
            watched: Mutex::default(),
            signal: bounded(1),
            asleep: AtomicBool::new(false),
            closing: AtomicBool::new(false),
            abandoned: AtomicBool::new(false),
            ended: AtomicBool::new(false),
            next_id: AtomicU64::new(by_time(&options.clock).max(2)),
            first_seq: AtomicU64::new(0),
            tier: AtomicU64::new(0),
            reconcile: AtomicBool::new(false),
            suspect: AtomicBool::new(false),
            log_failing: AtomicBool::new(false),
            log_bytes_max: AtomicU64::new(limits::OPERATION_LOG_BYTES_MAX),
            #[cfg(test)]
            pages_max: AtomicU64::new(0),
            #[cfg(test)]
            read_only: AtomicBool::new(false),
            options,
        }
    }

    pub(super) fn unusable(&self, reason: impl Into<String>) -> CatalogError {
        CatalogError::Unusable { path: self.path.clone(), reason: reason.into() }
    }

    /// Logs an intent.
    pub(super) fn intend(&self, unique: u64, op: &Op) -> Result<u64> {
        let json = self.serialised(op)?;
        let mut log = self.log.lock();
        if let Some(bytes) = self.full(json.len()) {
            return Err(CatalogError::LogFull { bytes });
        }
        let (seq, written) = log.intend(unique, op, &json);
        let bytes = self.overlay.read().bytes();
        self.written(written).map(|()| seq).map_err(|()| CatalogError::LogFull { bytes })
    }

    /// Logs an operation that took effect, and makes it visible. Outcomes of intents are taken
    /// also over the bound: there are no more of them than requests in flight. `anew` says that
    /// the operation is not the one that stands in the intent.
    pub(super) fn effect(&self, of: Origin, op: Op, anew: bool) {
        self.unsynced.lock().op(&op, self.options.clock.now());
        let intent = of.intent();
        let json = match intent {
            Some(_) if !anew => Vec::new(),
            _ => self.serialised(&op).unwrap_or_default(),
        };
        let mut log = self.log.lock();
        if intent.is_none() && (json.is_empty() || self.full(json.len()).is_some()) {
            self.reconcile.store(true, Ordering::SeqCst);
            return;
        }
        let (seq, written) = log.effect(of, &json);
        if self.written(written).is_err() {
            // Still in memory; only a death of the daemon would lose it.
            self.reconcile.store(true, Ordering::SeqCst);
        }
        let bytes = weight(&op, json.len());
        let effect = Arc::new(Effect { seq, intent, op, bytes });
        self.overlay.write().push(effect.clone());
        self.holds.heard(&effect.op);
        drop(log);
        if self.asleep.swap(false, Ordering::SeqCst) {
            self.ring();
        }
    }

    /// Logs that an intent was refused.
    pub(super) fn refused(&self, intent: u64) {
        let written = self.log.lock().failed(intent);
        // At worst it is undecided at the next start.
        let _noted = self.written(written);
    }

    fn serialised(&self, op: &Op) -> Result<Vec<u8>> {
        serde_json::to_vec(op).map_err(|e| self.unusable(e.to_string()))
    }

    fn full(&self, more: usize) -> Option<u64> {
        let bytes = self.overlay.read().bytes();
        let max = self.log_bytes_max.load(Ordering::Relaxed);
        (bytes.saturating_add(more as u64) > max).then_some(bytes)
    }

    fn written(&self, result: std::io::Result<()>) -> std::result::Result<(), ()> {
        let failing = result.is_err();
        if self.log_failing.swap(failing, Ordering::SeqCst) != failing {
            match &result {
                Ok(()) => tracing::info!("the operation log can be written again"),
                Err(error) => tracing::error!(
                    "the operation log in {} can not be written: {error}; free space there",
                    self.options.runtime_dir.display()
                ),
            }
        }
        result.map_err(|_| ())
    }

    /// Tells the thread that there is something to do.
    pub(super) fn ring(&self) {
        // A full channel means that it has been told already.
        let _told = self.signal.0.try_send(());
    }

    /// Runs a transaction on the catalog thread, after everything logged before, and waits for
    /// its commit. `work` may run more than once; only the last run's commit counts.
    pub(super) fn write<T: Send + 'static>(
        &self,
        durable: bool,
        work: impl Fn(&Tx<'_>) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T> {
        self.on_thread(move |database| database.transaction(durable, &work))
    }

    /// Waits until everything logged before is committed.
    pub(super) fn drain(&self) -> Result<()> {
        if self.overlay.read().len() == 0 {
            return Ok(());
        }
        self.on_thread(|_| Ok(()))
    }

    fn on_thread<T: Send + 'static>(
        &self,
        work: impl Fn(&mut Database) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T> {
        let path = self.path.clone();
        let (reply, answer) = bounded(1);
        let run: Run = Box::new(move |database| {
            let result = match database {
                Ok(database) => Ok(work(database)?),
                Err(reason) => {
                    Err(CatalogError::Unusable { path: path.clone(), reason: reason.to_owned() })
                }
            };
            // The asker waits for exactly this; if it is gone, nobody wants to know.
            let _gone = reply.try_send(result);
            Ok(())
        });
        self.submit(run)?;
        answer.recv().unwrap_or_else(|_| Err(self.unusable("its thread has ended")))
    }

    fn submit(&self, run: Run) -> Result<()> {
        let after = self.log.lock().last_seq();
        let mut jobs = self.jobs.lock();
        if self.ended.load(Ordering::SeqCst) {
            return Err(self.unusable("it is closed"));
        }
        if jobs.len() >= limits::CATALOG_JOBS_MAX {
            return Err(self.unusable("too much is waiting for it"));
        }
        jobs.push_back(Job { after, since: Instant::now(), run });
        drop(jobs);
        self.ring();
        Ok(())
    }

    /// Makes sure that identities are above this one.
    pub(super) fn raise_id(&self, above: u64) {
        self.next_id.fetch_max(above.saturating_add(1), Ordering::SeqCst);
    }
}

/// Memory that an effect takes, at least what it takes in the log.
fn weight(op: &Op, json: usize) -> u64 {
    let names = match op {
        Op::Rename { name, new_name, .. } => name.len() + new_name.len(),
        Op::SetXattrs { xattrs, .. } => xattrs.iter().map(|(n, v)| n.len() + v.len()).sum(),
        _ => 0,
    };
    json.max(256 + names) as u64
}

/// Grows with time by 2^12 a millisecond, so that it is above whatever an earlier catalog gave
/// out, also one that was lost a moment ago.
pub(super) fn by_time(clock: &SharedClock) -> u64 {
    const BEGINNING: i64 = 1_700_000_000_000;
    let now = clock.now();
    let millis = now.secs() * 1000 + i64::from(now.subsec_nanos() / 1_000_000) - BEGINNING;
    u64::try_from(millis).unwrap_or(0) << 12
}
