//! The catalog thread: takes what is logged into SQLite, runs the engine's transactions,
//! checkpoints, and gets the database going again when it fails.

use super::database::{self, Ballast, Database};
use super::error::{Fault, fault};
use super::log::Effect;
use super::schema::{self, OpenFault};
use super::shared::{Job, Shared};
use crate::{faults, limits};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

/// How long effects may gather before they are committed together.
const GATHER: Duration = Duration::from_millis(10);
/// Quiet time after which the write-ahead log is emptied.
pub(super) const IDLE: Duration = Duration::from_secs(5);
/// Wait between tries while another program holds the lock.
const BUSY_RETRY: Duration = Duration::from_millis(50);
/// Shortest and longest wait between tries to get a failed database going.
const RETRY: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));

/// The thread's own state.
pub(super) struct Worker {
    pub(super) shared: Arc<Shared>,
    pub(super) database: Option<Database>,
    pub(super) ballast: Ballast,
    /// The ballast was given up and is not back yet.
    pub(super) on_reserve: bool,
    /// When the present failure began.
    pub(super) failing_since: Option<Instant>,
    pub(super) failures: u32,
    /// Garbage found since the last commit that went well.
    pub(super) garbage: u32,
    /// When it was last tried to keep a damaged database.
    pub(super) rescued: Option<Instant>,
    /// When it was last tried in vain to write a removed one again.
    pub(super) restored: Option<Instant>,
    /// An I/O error came since the write-ahead log was last empty. If it was a failed sync, the
    /// kernel takes pages of it for written that are not, and what is committed behind them would
    /// not survive a power cut, however well it is synced.
    pub(super) distrusted: bool,
    pub(super) retry_at: Option<Instant>,
    pub(super) checked: Option<Instant>,
    pub(super) attempted: Instant,
    pub(super) last_work: Instant,
    pub(super) tidy: bool,
    pub(super) ballast_at: Instant,
}

impl Worker {
    pub(super) fn new(shared: Arc<Shared>, database: Option<Database>) -> Worker {
        let ballast = Ballast::new(&shared.options.state_dir);
        let now = Instant::now();
        Worker {
            retry_at: database.is_none().then_some(now),
            shared,
            database,
            ballast,
            on_reserve: false,
            failing_since: None,
            failures: 0,
            garbage: 0,
            rescued: None,
            restored: None,
            distrusted: false,
            checked: None,
            attempted: now,
            last_work: now,
            tidy: false,
            ballast_at: now,
        }
    }

    /// Works until the catalog is closed.
    pub(super) fn run(mut self) {
        while !self.shared.abandoned.load(Ordering::SeqCst) {
            self.turn();
            let idle = self.retry_at.is_some() || self.nothing_waits();
            if self.shared.closing.load(Ordering::SeqCst) && idle {
                break;
            }
            if idle {
                self.wait();
            } else {
                self.gather();
            }
        }
        self.end();
    }

    fn nothing_waits(&self) -> bool {
        self.shared.jobs.lock().is_empty() && self.shared.overlay.read().len() == 0
    }

    fn wait(&mut self) {
        let now = Instant::now();
        let until = self.retry_at.unwrap_or_else(|| match self.tidy {
            true => self.ballast_at.max(now),
            false => self.last_work + IDLE,
        });
        let until = match self.on_reserve && self.retry_at.is_none() {
            true => until.min(self.ballast_at.max(now)),
            false => until,
        };
        // Without a database new effects change nothing; only jobs and time do.
        if self.retry_at.is_none() {
            self.shared.asleep.store(true, Ordering::SeqCst);
            if !self.nothing_waits() {
                self.shared.asleep.store(false, Ordering::SeqCst);
                return;
            }
        }
        let signal = &self.shared.signal.1;
        let told = signal.recv_timeout(until.saturating_duration_since(now)).is_ok();
        self.shared.asleep.store(false, Ordering::SeqCst);
        if told && self.retry_at.is_none() {
            self.gather();
        }
    }

    /// Lets some effects come together, unless somebody waits.
    fn gather(&self) {
        let shared = &self.shared;
        let waited_for = !shared.jobs.lock().is_empty() || shared.closing.load(Ordering::SeqCst);
        if !waited_for && shared.overlay.read().len() < limits::CATALOG_BATCH_MAX {
            // A job ends the wait; effects do not ring while the thread is not asleep.
            let _told = shared.signal.1.recv_timeout(GATHER);
        }
    }

    fn turn(&mut self) {
        self.look_if_suspect();
        // Somebody who waits for an answer shall have a fresh one.
        let asked = !self.shared.jobs.lock().is_empty() && self.attempted.elapsed() >= RETRY.0;
        if self.retry_at.is_some_and(|at| Instant::now() < at) && !asked {
            self.give_up_jobs();
            self.tend_log();
            return;
        }
        self.attempted = Instant::now();
        if let Err(error) = self.attempt() {
            self.failed(&error);
            self.give_up_jobs();
        } else if self.retry_at.is_some() {
            self.give_up_jobs();
        }
        self.tend_log();
        self.tend_ballast();
    }

    /// One step of each kind, if there is a database.
    fn attempt(&mut self) -> rusqlite::Result<()> {
        if self.database.is_none() && !self.open()? {
            return Ok(());
        }
        if self.distrusted && !self.trust_again()? {
            return Ok(());
        }
        let worked = self.commit_batch()? | self.run_jobs()?;
        let Some(database) = &mut self.database else { return Ok(()) };
        if self.retry_at.is_some() && !worked {
            // Nothing to write, so see whether a write would go.
            database.transaction(false, &|_| Ok(()))?;
        }
        let wake = std::mem::take(&mut database.wake);
        self.recovered();
        if worked {
            self.last_work = Instant::now();
            self.tidy = false;
        }
        if wake {
            let wake = self.shared.wake.read().clone();
            if let Some(wake) = wake {
                wake();
            }
        }
        self.checkpoint()
    }

    /// Writes what the write-ahead log holds once more, into the database, before anything relies
    /// on it. Memory still has it right.
    fn trust_again(&mut self) -> rusqlite::Result<bool> {
        let Some(database) = &self.database else { return Ok(false) };
        if database.empty_log()? {
            self.distrusted = false;
            return Ok(true);
        }
        // A reader is in the way for a moment.
        self.retry_at = Some(Instant::now() + BUSY_RETRY);
        Ok(false)
    }

    fn commit_batch(&mut self) -> rusqlite::Result<bool> {
        let batch = self.shared.overlay.read().batch(limits::CATALOG_BATCH_MAX);
        let (Some(database), Some(last)) = (&mut self.database, batch.last()) else {
            return Ok(false);
        };
        faults::point("catalog.before_commit");
        match database.effects(&batch) {
            Ok(()) => {}
            Err(error) if fault(&error) == Fault::Statement => {
                one_by_one(&self.shared, database, &batch)?;
            }
            Err(error) => return Err(error),
        }
        faults::point("catalog.after_commit");
        self.shared.overlay.write().drop_through(last.seq);
        let intents = batch.iter().filter_map(|e| e.intent);
        self.shared.log.lock().committed_intents(intents);
        Ok(true)
    }

    fn run_jobs(&mut self) -> rusqlite::Result<bool> {
        let mut worked = false;
        while let Some(mut job) = self.next_job() {
            let Some(database) = &mut self.database else {
                self.shared.jobs.lock().push_front(job);
                break;
            };
            match (job.run)(Ok(database)) {
                Ok(()) => worked = true,
                Err(error) if fault(&error) == Fault::Statement => {
                    let reason = error.to_string();
                    tracing::error!("the catalog refused a change: {reason}");
                    let _answered = (job.run)(Err(&reason));
                }
                Err(error) => {
                    self.shared.jobs.lock().push_front(job);
                    return Err(error);
                }
            }
        }
        Ok(worked)
    }

    /// The next job, once everything logged before it is committed.
    fn next_job(&self) -> Option<Job> {
        let first = self.shared.overlay.read().batch(1).first().map(|e| e.seq);
        let mut jobs = self.shared.jobs.lock();
        let ready = jobs.front().is_some_and(|job| first.is_none_or(|seq| seq > job.after));
        if ready { jobs.pop_front() } else { None }
    }

    // ---- failures -------------------------------------------------------------------------

    fn failed(&mut self, error: &rusqlite::Error) {
        let kind = fault(error);
        if kind == Fault::Full && self.ballast.give() {
            self.on_reserve = true;
            self.say(format!(
                "the disk of {} is full ({error}); its reserve was given up, free space there",
                self.shared.options.state_dir.display()
            ));
            self.retry_at = Some(Instant::now());
            self.ballast_at = Instant::now() + Duration::from_secs(1);
            return;
        }
        let since = *self.failing_since.get_or_insert_with(Instant::now);
        self.failures = self.failures.saturating_add(1);
        if kind == Fault::Busy {
            if since.elapsed() >= limits::CATALOG_JOB_WAIT {
                self.say(format!("another program holds a lock on it ({error})"));
            }
            self.retry_at = Some(Instant::now() + BUSY_RETRY);
            return;
        }
        self.say(error.to_string());
        let doublings = self.failures.saturating_sub(1).min(8);
        let pause = RETRY.0.saturating_mul(1 << doublings).min(RETRY.1);
        self.retry_at = Some(Instant::now() + pause);
        match kind {
            Fault::Garbage => self.garbage_found(),
            Fault::Io => {
                self.distrusted = true;
                self.database = None;
            }
            Fault::Full => self.database = None,
            Fault::Busy | Fault::Statement => {}
        }
    }

    pub(super) fn say(&self, reason: String) {
        let mut trouble = self.shared.trouble.lock();
        if trouble.as_ref() != Some(&reason) {
            tracing::error!("the catalog {}: {reason}", self.shared.path.display());
            *trouble = Some(reason);
        }
    }

    pub(super) fn recovered(&mut self) {
        self.retry_at = None;
        self.failures = 0;
        self.garbage = 0;
        self.failing_since = None;
        let mut trouble = self.shared.trouble.lock();
        // Living on the reserve is a trouble of its own, over when the reserve is back.
        if trouble.is_some() && !self.on_reserve {
            tracing::info!("the catalog {} can be written again", self.shared.path.display());
            *trouble = None;
        }
    }

    /// Answers the jobs that waited long enough, or have no reason to wait.
    fn give_up_jobs(&mut self) {
        let lock_only = self.shared.trouble.lock().is_none();
        let mut given_up = Vec::new();
        {
            let mut jobs = self.shared.jobs.lock();
            let patient = |job: &Job| lock_only && job.since.elapsed() < limits::CATALOG_JOB_WAIT;
            while jobs.front().is_some_and(|job| !patient(job)) {
                given_up.extend(jobs.pop_front());
            }
        }
        let reason = self.shared.trouble.lock().clone();
        let reason = reason.unwrap_or_else(|| "another program holds a lock on it".to_owned());
        for mut job in given_up {
            let _answered = (job.run)(Err(&reason));
        }
    }

    fn open(&mut self) -> rusqlite::Result<bool> {
        match super::open_database(&self.shared) {
            Ok(mut database) => {
                database.start_at(self.shared.overlay.read().dropped())?;
                self.shared.readers.renew();
                self.database = Some(database);
                Ok(true)
            }
            Err(OpenFault::Sqlite(error)) => Err(error),
            Err(OpenFault::Newer(found)) => {
                self.say(format!(
                    "its schema version {found} is newer than {}, which this spoolfs knows",
                    schema::VERSION
                ));
                self.retry_at = Some(Instant::now() + RETRY.1);
                Ok(false)
            }
        }
    }

    fn garbage_found(&mut self) {
        self.garbage = self.garbage.saturating_add(1);
        // A single wrong answer may come from a read that failed; the file decides.
        // One whose rows can all be read is kept, however often an index fails: it alone knows the
        // released recordings.
        let sound = database::is_sound(&self.shared.path);
        if sound == Some(false) || (self.garbage >= 3 && sound.is_none()) {
            self.rescue_or_replace();
        } else if self.garbage < 2 || !self.rescue() {
            self.database = None;
        }
    }

    /// Sets the file aside; the next step makes a new one.
    pub(super) fn replace(&mut self) {
        if let Some(database) = self.database.take() {
            database.abandon();
        }
        self.shared.readers.renew();
        match database::set_aside(&self.shared.path, &self.shared.options.clock) {
            Ok(aside) => {
                tracing::error!(
                    "{} is no sound database; it was set aside as {} and a new one is made from \
                     what is in it and below; `spoolfs rebuild` brings back what only the targets \
                     know",
                    self.shared.path.display(),
                    aside.display()
                );
                self.garbage = 0;
                self.retry_at = Some(Instant::now());
            }
            Err(error) => {
                self.say(format!("it is no sound database and can not be set aside: {error}"));
                self.retry_at = Some(Instant::now() + RETRY.1);
            }
        }
        self.shared.reconcile.store(true, Ordering::SeqCst);
    }

    fn end(&mut self) {
        let jobs = {
            let mut jobs = self.shared.jobs.lock();
            self.shared.ended.store(true, Ordering::SeqCst);
            std::mem::take(&mut *jobs)
        };
        for mut job in jobs {
            let _answered = (job.run)(Err("it is closed"));
        }
        let abandoned = self.shared.abandoned.load(Ordering::SeqCst);
        let Some(database) = self.database.take() else { return };
        if abandoned {
            return database.abandon();
        }
        self.shared.readers.renew();
        if let Err(error) = database.checkpoint(true) {
            tracing::warn!("{}: {error}", self.shared.path.display());
        }
        drop(database);
        self.tidy = true;
        self.tend_log();
    }
}

/// Commits each effect alone, leaving out those that SQLite refuses: one bad operation must not
/// keep all later ones out.
fn one_by_one(
    shared: &Shared,
    database: &mut Database,
    batch: &[Arc<Effect>],
) -> rusqlite::Result<()> {
    for effect in batch {
        match database.effects(std::slice::from_ref(effect)) {
            Err(error) if fault(&error) == Fault::Statement => {
                tracing::error!("the catalog left out {:?}: {error}", effect.op);
                shared.reconcile.store(true, Ordering::SeqCst);
                database.skip(effect)?;
            }
            result => result?,
        }
    }
    Ok(())
}
