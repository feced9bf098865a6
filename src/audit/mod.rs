//! The audit log: who did what to which recording, when and why (docs/AUDIT.md).
//!
//! **Invariants:** a line holds the SHA-256 of the line before, so that what was changed, removed or
//! put in afterwards is found. Lines hold pseudonyms of people, numbers and paths, never these
//! themselves. Nobody on the way of a call waits for the log: what can not be taken is counted, and
//! the count is told in the log.

mod chain;
mod check;
mod error;
mod event;
mod line;
mod names;
mod parts;
mod shorten;
mod show;
mod writer;

#[cfg(test)]
mod tests;

pub use check::{Anchor, Fault, Finding, Left, Verdict, verify};
pub use error::{AuditError, Result};
pub use event::{Clear, Entry, Event, Subject, User, Who};
pub use line::Head;
pub use parts::{Part, anchors_in, next_part};
pub use shorten::{Leaving, ahead, file_begun, first_line, is_cut_off, leaving};
pub use show::{Filter, Shown, show};
pub use writer::Erasure;

use crate::clock::{SharedClock, Timestamp};
use crate::limits;
use crossbeam_channel::{RecvTimeoutError, Sender};
use parking_lot::Mutex;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use writer::{Job, Pending, State, Waits, Writer};

/// A time as the log writes it.
pub fn time(at: Timestamp) -> String {
    line::time(at)
}

/// Where the log of a state directory is.
pub fn directory(state_dir: &Path) -> PathBuf {
    state_dir.join("audit")
}

/// Where the log is kept.
#[derive(Clone, Debug)]
pub struct Options {
    /// Holds the log, in `audit/`.
    pub state_dir: PathBuf,
    /// The machine, as its targets know it.
    pub node: String,
    /// Source of time.
    pub clock: SharedClock,
}

/// How the log stands, for `status`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Health {
    /// Since when it can not be written, and why.
    pub trouble: Option<(Timestamp, String)>,
    /// Events that are lost, and not told of in the log yet.
    pub lost: u64,
    /// What was wrong with it at the start.
    pub damage: Option<String>,
    /// Where it ends; all of that is on the disk.
    pub head: Option<Head>,
}

/// The log of one mount.
#[derive(Debug)]
pub struct Audit {
    /// None: nothing is written, for tests and tools.
    inner: Option<Inner>,
}

#[derive(Debug)]
struct Inner {
    dir: PathBuf,
    clock: SharedClock,
    jobs: Sender<Job>,
    state: Arc<State>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Audit {
    /// Starts the thread that writes. It opens the log, so that nobody waits for that; a log that
    /// can not be opened is tried again and again.
    ///
    /// # Errors
    /// No thread can be started.
    pub fn start(options: Options) -> std::io::Result<Arc<Audit>> {
        let (jobs, taken) = crossbeam_channel::bounded(limits::AUDIT_QUEUE_MAX);
        let (state, dir) = (Arc::new(State::default()), directory(&options.state_dir));
        let writer = Writer::new(&options, taken, Arc::clone(&state));
        let write = move || {
            crate::sys::stand_back(0);
            writer.run();
        };
        let thread = std::thread::Builder::new().name("audit".to_owned()).spawn(write)?;
        let (clock, thread) = (options.clock, Mutex::new(Some(thread)));
        Ok(Arc::new(Audit { inner: Some(Inner { dir, clock, jobs, state, thread }) }))
    }

    /// One that writes nothing, and with which everything succeeds.
    pub fn off() -> Arc<Audit> {
        Arc::new(Audit { inner: None })
    }

    /// Where the log is; nothing if it is not written.
    pub fn dir(&self) -> Option<&Path> {
        self.inner.as_ref().map(|inner| inner.dir.as_path())
    }

    /// Puts an event on record. Never waits: it is written a moment later, and one that there is no
    /// room for is counted.
    pub fn record(&self, entry: impl Into<Entry>) {
        let Some(inner) = &self.inner else { return };
        let at = inner.clock.now();
        let pending = Pending { at, entry: entry.into(), waits: None };
        if inner.jobs.try_send(Job::Line(Box::new(pending))).is_err() {
            inner.state.lose(at);
        }
    }

    /// Puts an event on record and returns when it is on the disk: for what must not happen
    /// otherwise, before it is done. Not on the way of a call: it waits for an fsync.
    ///
    /// # Errors
    /// It is not on record, and must not be done.
    pub fn record_synced(&self, entry: impl Into<Entry>) -> Result<()> {
        let Some(inner) = &self.inner else { return Ok(()) };
        let (answer, answered) = crossbeam_channel::bounded(1);
        let gone = Arc::new(AtomicBool::new(false));
        let waits = Some(Waits { answer, gone: Arc::clone(&gone) });
        let pending = Pending { at: inner.clock.now(), entry: entry.into(), waits };
        let job = Job::Line(Box::new(pending));
        inner.jobs.send_timeout(job, limits::AUDIT_SYNC_WAIT).map_err(|_| AuditError::Late)?;
        match answered.recv_timeout(limits::AUDIT_SYNC_WAIT) {
            Ok(result) => result.map(drop),
            Err(RecvTimeoutError::Timeout) => {
                gone.store(true, Ordering::SeqCst);
                Err(AuditError::Late)
            }
            Err(RecvTimeoutError::Disconnected) => Err(AuditError::Closed),
        }
    }

    /// Waits until what was recorded before was written, or could not be.
    pub fn flush(&self) {
        let Some(inner) = &self.inner else { return };
        let (done, waits) = crossbeam_channel::bounded(1);
        if inner.jobs.send_timeout(Job::Flush(done), limits::AUDIT_STOP_WAIT).is_ok() {
            let _as_far_as_it_came = waits.recv_timeout(limits::AUDIT_STOP_WAIT);
        }
    }

    /// Erases the clear text of everything that tells of a person: a name, a number or a path. The
    /// log itself stays as it is. With `dry` nothing is erased, but told what would be.
    ///
    /// # Errors
    /// Nothing was erased, or the files may still hold some of it.
    pub fn erase(&self, subject: &str, who: Who, dry: bool) -> Result<Erasure> {
        let Some(inner) = &self.inner else { return Ok(Erasure::default()) };
        let (answer, answered) = crossbeam_channel::bounded(1);
        let job = Job::Erase { subject: subject.to_owned(), who, dry, answer };
        inner.jobs.send_timeout(job, limits::AUDIT_SYNC_WAIT).map_err(|_| AuditError::Late)?;
        answered.recv().map_err(|_| AuditError::Closed)?
    }

    /// Removes the files with all lines up to number `last`, and what stands for pseudonyms that only
    /// they had; also what is left of lines before that left and were cut off in it. A line that tells
    /// of it must be in the log, and told to the targets, before.
    ///
    /// # Errors
    /// Some of it may still be there; it can be asked for again.
    pub fn leave(&self, last: u64) -> Result<()> {
        let Some(inner) = &self.inner else { return Ok(()) };
        let (answer, answered) = crossbeam_channel::bounded(1);
        let job = Job::Leave { last, answer };
        inner.jobs.send_timeout(job, limits::AUDIT_SYNC_WAIT).map_err(|_| AuditError::Late)?;
        answered.recv().map_err(|_| AuditError::Closed)?
    }

    /// The next line begins a new file.
    pub fn renew(&self) {
        let Some(inner) = &self.inner else { return };
        let _asked_again_later = inner.jobs.try_send(Job::Renew);
    }

    /// How it stands.
    pub fn health(&self) -> Health {
        let Some(inner) = &self.inner else { return Health::default() };
        let state = &inner.state;
        Health {
            trouble: state.trouble.lock().as_ref().map(|(at, error)| (*at, error.to_string())),
            lost: state.lost(),
            damage: state.damage.lock().clone(),
            head: state.head.lock().clone(),
        }
    }

    /// Writes what is there and ends; waits for that only a moment. Calling it twice is harmless.
    pub fn stop(&self) {
        let Some(inner) = &self.inner else { return };
        let Some(thread) = inner.thread.lock().take() else { return };
        let (stopped, waits) = crossbeam_channel::bounded(1);
        let told = inner.jobs.send_timeout(Job::Stop(stopped), limits::AUDIT_STOP_WAIT).is_ok();
        match waits.recv_timeout(limits::AUDIT_STOP_WAIT) {
            Ok(()) => {}
            Err(RecvTimeoutError::Disconnected) if told && thread.join().is_err() => {
                tracing::error!("the thread of the audit log ended in a panic");
            }
            // Its disk hangs: nobody waits for that.
            Err(_) => {
                tracing::error!("the audit log does not end; what it was told last may be missing");
            }
        }
    }
}

impl Drop for Audit {
    fn drop(&mut self) {
        self.stop();
    }
}
