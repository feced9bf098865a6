//! The engine: hashes, archives, releases and recalls recordings, and makes the catalog agree
//! with the lower directory.
//!
//! **Invariant:** the engine never stands in the way of a call. It meets the file system only in
//! the catalog and the lower directory, and whatever it does can be cut off at any point and
//! begun again (docs/DURABILITY.md).
//!
//! One thread plans ([`plan`]); the steps are done by a hashing thread, upload threads and a
//! release thread, each behind a bounded queue; one thread for each target attaches it and ships
//! the journal; one reconciles; one syncs what was closed to the disk.

mod alarms;
mod anchor;
mod archive;
mod backoff;
mod bandwidth;
mod claims;
mod collect;
mod command;
mod complete;
mod contain;
mod drain;
mod encode;
mod error;
mod expiry;
mod explain;
mod fill;
mod forecast;
mod gone;
mod hash;
mod held;
mod joins;
mod keeper;
mod kept;
mod keyed;
mod known;
mod leaving;
mod locks;
mod mend;
mod names;
mod pins;
pub mod plan;
mod planner;
mod prove;
mod put_off;
mod recall;
mod reconcile;
mod release;
mod retries;
mod rewrite;
mod scrub;
mod seal;
mod shared;
mod shorten;
mod snapshot;
mod space;
mod spread;
mod stop;
mod sync;
mod target;
mod trash;
mod undecided;
mod unsent;
mod wanted;
mod workers;
mod worm;
mod worm_later;

pub use alarms::BadCopy;
pub use command::{Command, Outcome, Progress, Summary};
pub use drain::{Amount, Drain};
pub use error::{EngineError, Result};
pub use expiry::Expired;
pub use explain::Outlook;
pub use forecast::{Bytes, Doing, Forecast, Sum};
pub use held::Placed;
pub use joins::{JoinOptions, JoinStatus};
pub use known::CallSource;
pub use rewrite::{Gain, Keys};
pub use scrub::Round;
pub use snapshot::Snapshots;
pub use space::Pressure;
pub use target::{Standing, TargetStatus};
pub use trash::Trashed;

use crate::audit::Audit;
use crate::catalog::{Catalog, Hold, NewHold};
use crate::clock::{SharedClock, Timestamp};
use crate::codec::seal::Identities;
use crate::content::Content;
use crate::limits;
use crate::lower::Lower;
use crate::policy::{Rate, Rules};
use crate::recording::NodeId;
use crate::stitch::{Kept, StitchError};
use crate::store::{Locks, Store};
use crossbeam_channel::Sender;
use parking_lot::{Mutex, RwLock};
use shared::Shared;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use target::Target;
use tokio::runtime::Handle;
use tokio::sync::Semaphore;

/// How the engine works.
#[derive(Clone, Debug)]
pub struct Options {
    /// The rules of the mount.
    pub rules: Rules,
    /// Names of the targets that must hold a recording before it counts as archived. The other
    /// stores get a copy when they can.
    pub required: Vec<String>,
    /// Name of the archive, as configured; another archive's target is refused.
    pub archive_name: String,
    /// Longest time that a change is known to the catalog alone.
    pub journal_interval: Duration,
    /// Uploads in flight over all targets.
    pub uploads: usize,
    /// Every archived object is read once in this time; none: never.
    pub scrub_every: Option<Duration>,
    /// Snapshots of the catalog in the targets; none: never.
    pub snapshots: Option<Snapshots>,
    /// The archived copy of a cut call is given the sizes that its header lacks.
    pub repair_headers: bool,
    /// What opens sealed recordings.
    pub identities: Identities,
    /// Bytes of the lower file system that a recall leaves free, for calls in progress.
    pub reserve: u64,
}

/// What the engine works with.
#[derive(Clone, Debug)]
pub struct Parts {
    /// The catalog.
    pub catalog: Arc<Catalog>,
    /// The lower directory.
    pub lower: Arc<Lower>,
    /// Where archived bytes come from.
    pub content: Content,
    /// All targets.
    pub stores: Vec<Arc<dyn Store>>,
    /// Where requests to targets run; it must have its timer and I/O drivers on.
    pub runtime: Handle,
    /// Source of time.
    pub clock: SharedClock,
    /// Where it is put on record what must be.
    pub audit: Arc<Audit>,
    /// Who knows what calls recordings are of, if anybody does.
    pub calls: Option<Arc<dyn CallSource>>,
    /// Which joins are stored, if any are to be, or were; or why that can not be told.
    pub joins: std::result::Result<Option<Arc<Kept>>, StitchError>,
}

/// What the engine is doing, for `status`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    /// Each target.
    pub targets: Vec<TargetStatus>,
    /// Recordings being hashed now.
    pub hashing: usize,
    /// Recordings being archived now.
    pub archiving: usize,
    /// Recordings whose time has come and that wait for a record of their call, when all were last
    /// looked at.
    pub without_record: u64,
    /// Groups being released now.
    pub releasing: usize,
    /// The lower directory was compared with the catalog since the start.
    pub reconciled: bool,
    /// Names looked at for that.
    pub looked_at: u64,
    /// Names below that could not be looked at, or not taken over, and are tried again.
    pub left_out: u64,
    /// Files and directories adopted since the start.
    pub adopted: u64,
    /// Files synced to the disk since the start.
    pub synced: u64,
    /// In how many batches.
    pub syncs: u64,
    /// How far the scrub of each target has come.
    pub scrub: BTreeMap<String, Round>,
    /// Copies that are gone or damaged, and were not replaced.
    pub bad: Vec<BadCopy>,
    /// Copies that no key opens (SSE-C), so that nothing is known of them.
    pub unopened: Vec<BadCopy>,
    /// Everything that happened up to this time survives a power cut, as far as known.
    pub durable_until: Option<Timestamp>,
    /// Whether the lower file system is too full.
    pub pressure: Pressure,
    /// What was archived in the last minutes; `None`: it is too early to tell.
    pub drain: Option<Drain>,
    /// What was archived since the start.
    pub archived: Amount,
    /// How fast recordings may be uploaded now.
    pub rate: Rate,
    /// When another rate begins, and which.
    pub next_rate: Option<(Timestamp, Rate)>,
    /// When uploads go on, if there are none now.
    pub opens: Option<Timestamp>,
    /// How joins are stored; none if they are not.
    pub joins: Option<JoinStatus>,
}

#[derive(Debug, Default)]
struct Activity {
    hashing: AtomicUsize,
    archiving: AtomicUsize,
    without_record: AtomicU64,
    releasing: AtomicUsize,
    reconciled: AtomicBool,
    looked_at: AtomicU64,
    left_out: AtomicU64,
    adopted: AtomicU64,
    synced: AtomicU64,
    syncs: AtomicU64,
}

/// The running engine of one mount.
#[derive(Debug)]
pub struct Engine {
    shared: Arc<Shared>,
    reconcile: Sender<()>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

impl Engine {
    /// Settles what an earlier daemon left undecided, so it is to be called before the tree is
    /// served, and starts the threads. No target is contacted before this returns.
    ///
    /// # Errors
    /// `Thread` if one can not be started.
    pub fn start(options: Options, parts: Parts) -> Result<Engine> {
        let Parts { catalog, lower, content, stores, runtime, clock, audit, calls, joins } = parts;
        let now = clock.now();
        let targets = stores
            .into_iter()
            .map(|store| {
                let required = options.required.iter().any(|r| r == store.name());
                Arc::new(Target::new(store, required, now))
            })
            .collect();
        let (wake, woken) = crossbeam_channel::bounded(1);
        let rules = Arc::new(options.rules);
        let shared = Arc::new(Shared {
            names: names::Names::new(catalog.state_dir()),
            catalog,
            lower,
            content,
            calls: known::Calls::new(calls, clock.clone()),
            clock,
            audit,
            runtime,
            configured: RwLock::new(Arc::clone(&rules)),
            rules: RwLock::new(rules),
            space: space::Space::default(),
            repair_headers: options.repair_headers,
            identities: options.identities,
            encoding: Mutex::new(()),
            unsent: unsent::Unsent::default(),
            reserve: options.reserve,
            targets,
            required: options.required,
            claims: claims::Claims::default(),
            pins: pins::Pins::default(),
            expiring: Mutex::default(),
            syncing: claims::Claims::default(),
            tier: Mutex::new(()),
            stop: stop::Stop::new(),
            upload_threads: options.uploads.max(1),
            uploads: Semaphore::new(options.uploads.max(1)),
            bandwidth: bandwidth::Bandwidth::default(),
            drained: drain::Drained::default(),
            activity: Activity::default(),
            fill: Mutex::default(),
            alarms: Mutex::default(),
            storing_alarms: Mutex::default(),
            wake,
            completions: complete::Completions::default(),
            leaving: leaving::Noted::default(),
            trash: Mutex::new(()),
            joins,
            joined: Mutex::default(),
            lines_stay: Mutex::default(),
        });
        undecided::settle(&shared);
        if let Err(error) = scrub::load(&shared) {
            tracing::debug!(%error, "what is known of bad copies is read later");
        }
        let (reconcile, again) = crossbeam_channel::bounded(1);
        let engine = Engine { shared, reconcile, threads: Mutex::default() };
        let started =
            engine.start_threads(woken, again, &options.archive_name, options.journal_interval);
        let started = started.and_then(|()| engine.start_scrub(options.scrub_every));
        let started = started.and_then(|()| engine.start_snapshots(options.snapshots));
        if let Err(error) = started {
            engine.stop();
            return Err(EngineError::Thread(error));
        }
        let waker = Arc::downgrade(&engine.shared);
        engine.shared.catalog.on_change(Arc::new(move || {
            if let Some(shared) = waker.upgrade() {
                shared.wake();
            }
        }));
        Ok(engine)
    }

    fn start_threads(
        &self,
        woken: crossbeam_channel::Receiver<()>,
        again: crossbeam_channel::Receiver<()>,
        archive_name: &str,
        journal_interval: Duration,
    ) -> std::io::Result<()> {
        let shared = &self.shared;
        for target in &shared.targets {
            let keeper = keeper::Keeper {
                shared: Arc::clone(shared),
                target: Arc::clone(target),
                archive_name: archive_name.to_owned(),
                journal_interval,
            };
            self.spawn("target", move || keeper.run())?;
        }
        let queues = workers::start(self)?;
        let planner = planner::Planner::new(Arc::clone(shared), woken, queues);
        self.spawn("planner", move || planner.run())?;
        let syncer = sync::Syncer::new(Arc::clone(shared));
        self.spawn("sync", move || syncer.run())?;
        for _ in 0..limits::COMPLETE_THREADS {
            let shared = Arc::clone(shared);
            self.spawn("complete", move || complete::run(&shared))?;
        }
        let teller = Arc::clone(shared);
        self.spawn("anchor", move || anchor::run(&teller))?;
        for target in &shared.targets {
            let locker = locks::Locker::new(shared, target);
            self.spawn("locks", move || locker.run())?;
        }
        let expirer = Arc::clone(shared);
        self.spawn("expiry", move || expiry::run(&expirer))?;
        let keeper = Arc::clone(shared);
        self.spawn("trash", move || trash::run(&keeper))?;
        let keeper = Arc::clone(shared);
        self.spawn("kept", move || kept::run(&keeper))?;
        let locker = Arc::clone(shared);
        self.spawn("worm", move || worm_later::run(&locker))?;
        let spreader = Arc::clone(shared);
        self.spawn("spread", move || spread::run(&spreader))?;
        let remover = Arc::clone(shared);
        self.spawn("leaving", move || leaving::run(&remover))?;
        let walker = Arc::clone(shared);
        self.spawn("reconcile", move || reconcile::run(&walker, &again))
    }

    fn start_scrub(&self, every: Option<Duration>) -> std::io::Result<()> {
        for target in &self.shared.targets {
            let scrub = scrub::Scrub::new(&self.shared, target, every);
            self.spawn("scrub", move || scrub.run())?;
        }
        Ok(())
    }

    fn start_snapshots(&self, options: Option<Snapshots>) -> std::io::Result<()> {
        let Some(options) = options else { return Ok(()) };
        let shared = Arc::clone(&self.shared);
        self.spawn("snapshot", move || snapshot::run(&shared, options))
    }

    fn spawn(&self, name: &str, run: impl FnOnce() + Send + 'static) -> std::io::Result<()> {
        let run = move || {
            crate::sys::stand_back(0);
            run();
        };
        let thread = std::thread::Builder::new().name(name.to_owned()).spawn(run)?;
        self.threads.lock().push(thread);
        Ok(())
    }

    /// Ends the engine: no new step begins, and uploads in flight have a short time left. What is
    /// cut off is begun again by the next engine. Calling it twice is harmless.
    pub fn stop(&self) {
        self.shared.stop.set();
        let threads = std::mem::take(&mut *self.threads.lock());
        for thread in threads {
            if thread.join().is_err() {
                tracing::error!("a thread of the engine ended in a panic");
            }
        }
        // All who take copies away have ended.
        workers::purge_all(&self.shared);
    }

    /// Puts other rules in force, and asks targets that are down at once: the operator may have
    /// mended one.
    pub fn reload(&self, rules: Rules) {
        *self.shared.configured.write() = Arc::new(rules);
        self.shared.apply_rules();
        self.shared.calls.forget();
        let now = self.shared.now();
        // They may want more targets than before.
        self.shared.fill_at(now);
        self.shared.targets.iter().for_each(|t| t.ask_again(now));
        self.holds_changed();
        self.shared.completions.ask_again();
        self.shared.wake();
    }

    /// Asks for a comparison of the lower directory with the catalog, as after a start.
    pub fn reconcile(&self) {
        let _already_asked = self.reconcile.try_send(());
    }

    /// Looks at once whether something is due, also at targets that were down and whose time came.
    pub fn nudge(&self) {
        self.shared.targets.iter().for_each(|t| t.nudge());
        self.shared.completions.ask_again();
        self.shared.wake();
    }

    /// Runs a command on files, and on all files below directories; paths are relative to the
    /// mount. Returns when every recording is through. Not to be called from a task: it blocks.
    ///
    /// # Errors
    /// `Catalog`, `Stopping`. What happened to each recording is told to `progress`, in no order.
    pub fn run(
        &self,
        command: Command,
        paths: &[PathBuf],
        progress: &(dyn Fn(&Progress) + Sync),
    ) -> Result<Summary> {
        command::run(&self.shared, command, paths, progress)
    }

    /// Stores archived recordings anew, as FLAC where their rules say so, files and all files below
    /// directories; paths are relative to the mount. `plan`: only tells what would be done. Returns when every
    /// recording is through. Blocks.
    ///
    /// # Errors
    /// `Catalog`, `Stopping`. What happened to each recording is told to `progress`.
    pub fn recompress(
        &self,
        plan: bool,
        paths: &[PathBuf],
        progress: &(dyn Fn(&Progress) + Sync),
    ) -> Result<(Summary, Gain)> {
        rewrite::recompress(&self.shared, plan, paths, progress)
    }

    /// Seals anew what is sealed, or is to be, to the keys that its rule has now: `keys` says which of
    /// them are new, and which are not to be any more. The rest is as with [`Engine::recompress`].
    ///
    /// # Errors
    /// `Refused` if the rules do not seal to these keys. `Catalog`, `Stopping`.
    pub fn reseal(
        &self,
        keys: &Keys,
        plan: bool,
        paths: &[PathBuf],
        progress: &(dyn Fn(&Progress) + Sync),
    ) -> Result<(Summary, Gain)> {
        rewrite::reseal(&self.shared, keys, plan, paths, progress)
    }

    /// Gives what is in the trash its name again, below the directory `to` if it is given. Returns
    /// when every recording is through. Blocks.
    ///
    /// # Errors
    /// `Catalog`, `Stopping`. What happened to each recording is told to `progress`.
    pub fn restore(
        &self,
        what: &[Trashed],
        to: Option<&Path>,
        progress: &(dyn Fn(&Progress) + Sync),
    ) -> Result<Summary> {
        trash::restore(&self.shared, what, to, progress)
    }

    /// Brings the local copy of a released recording back; at once if it is there. Blocks.
    ///
    /// # Errors
    /// If no target could give it before the deadline, if there is no room, or if what came back
    /// is not what was archived.
    pub fn recall_blocking(&self, id: NodeId, deadline: Instant) -> Result<()> {
        recall::recall(&self.shared, id, deadline)
    }

    /// A released recording was opened for writing, or closed again: its missing bytes are
    /// fetched, and when it is whole it gets its name. Returns at once.
    pub fn complete(&self) {
        self.shared.completions.look();
    }

    /// How many recordings that were written to while they were released can not be completed yet,
    /// and why one of them can not.
    pub fn incomplete(&self) -> Option<(usize, String)> {
        self.shared.completions.failing()
    }

    /// Puts a new legal hold on the files at and below these paths, each with its group, and archives
    /// them at once. From the moment on that this is called they can not be deleted. `is_on` is told the
    /// number of the hold, and on how many it is, before anything is archived: that may take hours. Blocks.
    ///
    /// # Errors
    /// `Catalog`, `Stopping`; `Refused` if there is none of them: nothing new is held then.
    pub fn hold(
        &self,
        new: &NewHold,
        paths: &[PathBuf],
        is_on: &(dyn Fn(u64, usize) + Sync),
        progress: &(dyn Fn(&Progress) + Sync),
    ) -> Result<Placed> {
        held::hold(&self.shared, new, paths, is_on, progress)
    }

    /// Puts a hold on further recordings, each with its group. `provisional`: it is not known yet
    /// whether it means them. How many it was not on before.
    ///
    /// # Errors
    /// `Catalog`.
    pub fn hold_also(&self, hold: &Hold, ids: &[NodeId], provisional: bool) -> Result<usize> {
        let mut ids = held::with_groups(&self.shared, ids)?;
        ids.extend(held::before(&self.shared, &ids)?);
        let count = self.shared.catalog.hold_also(hold, &ids, provisional)?;
        if count > 0 {
            self.shared.targets.iter().for_each(|t| t.locks.look(&ids));
            self.shared.wake();
        }
        Ok(count)
    }

    /// Holds were lifted: legal holds in the targets are looked at.
    pub fn holds_changed(&self) {
        self.shared.targets.iter().for_each(|t| t.locks.look_at_all());
    }

    /// Whether each target can lock what is held, by name; `None`: it has not answered so far.
    /// While nothing is held nobody is asked. Waits at most so long for those that are up.
    pub fn locks(&self, at_most: Duration) -> Vec<(String, Option<Locks>)> {
        locks::abilities(&self.shared, at_most)
    }

    /// Why a file is where it is and what happens to it next, in sentences.
    ///
    /// # Errors
    /// `Catalog`.
    pub fn explain(&self, path: &Path) -> Result<Vec<String>> {
        explain::explain(&self.shared, path)
    }

    /// The rule of a file, and when its times come.
    ///
    /// # Errors
    /// `Catalog`.
    pub fn outlook(&self, path: &Path) -> Result<Option<Outlook>> {
        explain::outlook(&self.shared, path)
    }

    /// Deletes now what the rules let go: at once after they changed if `waive`, and over what may
    /// be deleted in a day if `confirm`. Not to be called from a task: it blocks.
    ///
    /// # Errors
    /// `Catalog`, `Stopping`.
    pub fn expire(&self, waive: bool, confirm: bool) -> Result<Expired> {
        expiry::run_now(&self.shared, waive, confirm, false)
    }

    /// The same of what is in the trash.
    ///
    /// # Errors
    /// `Catalog`, `Stopping`.
    pub fn empty_trash(&self, waive: bool, confirm: bool) -> Result<Expired> {
        expiry::run_now(&self.shared, waive, confirm, true)
    }

    /// What these rules would do until some time. Changes nothing; looks at every file, and blocks.
    ///
    /// # Errors
    /// `Catalog`, `Stopping`.
    pub fn forecast(&self, rules: &Rules, at: Timestamp, weigh: bool) -> Result<Forecast> {
        forecast::forecast(&self.shared, rules, at, weigh)
    }

    /// Why nothing expires now although rules let some go, in a sentence without a full stop.
    pub fn expiry_halted(&self) -> Option<String> {
        let now = self.shared.now();
        let rules = Arc::clone(&self.shared.configured.read());
        let erases = || self.shared.catalog.trash_to_erase(NodeId(0), 1);
        if rules.shortest_expiry().is_none() && erases().is_ok_and(|some| some.is_empty()) {
            return None;
        }
        expiry::halted(&self.shared).map(|halt| expiry::halted_words(halt, now))
    }

    /// Why no lines leave the audit log by `audit_keep`, if that does not end by itself soon, in words
    /// without a full stop.
    pub fn lines_stay(&self) -> Option<String> {
        self.shared.lines_stay.lock().clone()
    }

    /// What the engine is doing.
    pub fn status(&self) -> Status {
        let activity = &self.shared.activity;
        let (scrub, (bad, unopened)) = {
            let alarms = self.shared.alarms.lock();
            (alarms.rounds.clone(), alarms.split())
        };
        let (now, zone, rules) = (self.shared.now(), self.shared.clock.zone(), self.shared.rules());
        Status {
            targets: self.shared.targets.iter().map(|t| t.status()).collect(),
            hashing: activity.hashing.load(Ordering::Relaxed),
            archiving: activity.archiving.load(Ordering::Relaxed),
            without_record: activity.without_record.load(Ordering::Relaxed),
            releasing: activity.releasing.load(Ordering::Relaxed),
            reconciled: activity.reconciled.load(Ordering::Relaxed),
            looked_at: activity.looked_at.load(Ordering::Relaxed),
            left_out: activity.left_out.load(Ordering::Relaxed),
            adopted: activity.adopted.load(Ordering::Relaxed),
            synced: activity.synced.load(Ordering::Relaxed),
            syncs: activity.syncs.load(Ordering::Relaxed),
            scrub,
            bad,
            unopened,
            durable_until: self
                .shared
                .rules()
                .sync_after
                .and_then(|_| self.shared.catalog.durable_until()),
            pressure: self.shared.space.pressure(),
            drain: self.shared.drained.drain(now),
            archived: self.shared.drained.archived(),
            rate: rules.bandwidth.rate(now, &zone),
            next_rate: rules.bandwidth.next(now, &zone),
            opens: rules.bandwidth.opens(now, &zone),
            joins: self.join_status(),
        }
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        self.stop();
    }
}
