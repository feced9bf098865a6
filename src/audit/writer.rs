//! The thread that writes the log.

use super::chain::Chain;
use super::error::{AuditError, Result, at};
use super::event::{Entry, Event, Who};
use super::line::{self, Head};
use super::names::Names;
use super::{Options, directory};
use crate::clock::{SharedClock, Timestamp};
use crate::recording::Sha256;
use crate::{faults, limits};
use crossbeam_channel::{Receiver, RecvTimeoutError, Sender};
use parking_lot::Mutex;
use rustix::fs::{FlockOperation, flock};
use std::collections::VecDeque;
use std::fs::{DirBuilder, File, OpenOptions};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

/// What an erasure has found, or erased.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Erasure {
    /// Pseudonyms with the texts that they stand for, or stood for.
    pub texts: Vec<(String, String)>,
}

/// An event to be written.
pub(super) struct Pending {
    pub at: Timestamp,
    pub entry: Entry,
    /// Somebody waits until it is synced.
    pub waits: Option<Waits>,
}

/// Who waits for an event.
pub(super) struct Waits {
    pub answer: Sender<Result<Head>>,
    /// He waits no more, and does not do what he asked for.
    pub gone: Arc<AtomicBool>,
}

pub(super) enum Job {
    Line(Box<Pending>),
    /// Answered when everything before was tried.
    Flush(Sender<()>),
    Erase {
        subject: String,
        who: Who,
        dry: bool,
        answer: Sender<Result<Erasure>>,
    },
    /// Lines up to this one leave.
    Leave {
        last: u64,
        answer: Sender<Result<()>>,
    },
    /// The next line begins a new file.
    Renew,
    /// Answered when nothing is written any more.
    Stop(Sender<()>),
}

/// What the others see of the thread.
#[derive(Debug, Default)]
pub(super) struct State {
    pub head: Mutex<Option<Head>>,
    pub trouble: Mutex<Option<(Timestamp, AuditError)>>,
    pub damage: Mutex<Option<String>>,
    lost: Mutex<Option<Lost>>,
}

#[derive(Clone, Copy, Debug)]
struct Lost {
    count: u64,
    since: Timestamp,
    until: Timestamp,
}

impl State {
    /// An event could not be taken.
    pub fn lose(&self, now: Timestamp) {
        let mut lost = self.lost.lock();
        match &mut *lost {
            Some(lost) => {
                lost.count += 1;
                lost.until = now;
            }
            None => *lost = Some(Lost { count: 1, since: now, until: now }),
        }
    }

    pub fn lost(&self) -> u64 {
        self.lost.lock().map_or(0, |lost| lost.count)
    }
}

/// The log and its table, once they could be opened.
struct Log {
    chain: Chain,
    names: Names,
    /// Only one process writes it.
    _lock: File,
}

pub(super) struct Writer {
    pub dir: PathBuf,
    pub node: String,
    pub clock: SharedClock,
    pub jobs: Receiver<Job>,
    pub state: Arc<State>,
    log: Option<Log>,
    /// What is to be told before anything else.
    first: Vec<Event>,
    pending: VecDeque<Pending>,
    said: Option<Timestamp>,
    /// When to try again what failed.
    not_before: Option<Instant>,
    stopping: Option<Sender<()>>,
}

impl Writer {
    pub fn new(options: &Options, jobs: Receiver<Job>, state: Arc<State>) -> Writer {
        Writer {
            dir: directory(&options.state_dir),
            node: options.node.clone(),
            clock: options.clock.clone(),
            jobs,
            state,
            log: None,
            first: Vec::new(),
            pending: VecDeque::new(),
            said: None,
            not_before: None,
            stopping: None,
        }
    }

    pub fn run(mut self) {
        self.step();
        while self.stopping.is_none() {
            let job = if self.is_behind() {
                let rest = |at: Instant| at.saturating_duration_since(Instant::now());
                self.jobs.recv_timeout(self.not_before.map_or(limits::AUDIT_RETRY, rest))
            } else {
                self.jobs.recv().map_err(|_| RecvTimeoutError::Disconnected)
            };
            match job {
                Ok(job) => self.take(job),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => break,
            }
            // Together with what came meanwhile.
            while self.stopping.is_none() && self.pending.len() < limits::AUDIT_QUEUE_MAX {
                let Ok(job) = self.jobs.try_recv() else { break };
                self.take(job);
            }
            let waits = self.pending.iter().any(|pending| pending.waits.is_some());
            if waits || self.not_before.is_none_or(|at| at <= Instant::now()) {
                self.step();
            }
        }
        self.step();
        let left = self.pending.len() as u64 + self.state.lost();
        if left > 0 {
            tracing::error!(events = left, "the audit log lacks the last events before the stop");
        }
        // The next one may write it from here on.
        self.log = None;
        if let Some(stopped) = self.stopping {
            let _he_left = stopped.send(());
        }
    }

    /// There is something to be written that could not be.
    fn is_behind(&self) -> bool {
        self.log.is_none()
            || !self.first.is_empty()
            || !self.pending.is_empty()
            || self.state.lost() > 0
    }

    fn take(&mut self, job: Job) {
        match job {
            Job::Line(pending)
                if pending.waits.is_some() || self.pending.len() < limits::AUDIT_QUEUE_MAX =>
            {
                self.pending.push_back(*pending);
            }
            Job::Line(pending) => self.state.lose(pending.at),
            Job::Flush(done) => {
                self.step();
                let _he_left = done.send(());
            }
            Job::Erase { subject, who, dry, answer } => {
                self.step();
                let erased = self.erase(&subject, who, dry);
                let _he_left = answer.send(erased);
            }
            Job::Leave { last, answer } => {
                self.step();
                let left = self.log.as_mut().map_or(Err(AuditError::Closed), |log| log.leave(last));
                let _he_left = answer.send(left);
            }
            Job::Renew => {
                if let Some(log) = &mut self.log {
                    log.chain.renew();
                }
            }
            Job::Stop(stopped) => self.stopping = Some(stopped),
        }
    }

    /// Writes what waits, if it can be.
    fn step(&mut self) {
        let done = self.open().and_then(|()| self.write());
        match done {
            Ok(()) => {
                self.not_before = None;
                if self.state.trouble.lock().take().is_some() {
                    tracing::info!("the audit log is written again");
                    self.said = None;
                }
            }
            Err(error) => self.failed(error),
        }
    }

    fn failed(&mut self, error: AuditError) {
        self.not_before = Some(Instant::now() + limits::AUDIT_RETRY);
        let now = self.clock.now();
        if self.said.is_none_or(|said| said.age_at(now) >= limits::AUDIT_SAY_EVERY) {
            self.said = Some(now);
            tracing::error!(
                %error,
                waiting = self.pending.len(),
                "the audit log can not be written; calls go on, deletions wait"
            );
        }
        // Who waits must not do it then, and it did not happen.
        self.pending.retain_mut(|pending| match pending.waits.take() {
            None => true,
            Some(waits) => {
                let _he_left = waits.answer.send(Err(error.clone()));
                false
            }
        });
        let mut trouble = self.state.trouble.lock();
        let since = trouble.as_ref().map_or(now, |(since, _)| *since);
        *trouble = Some((since, error));
    }

    fn open(&mut self) -> Result<()> {
        if self.log.is_some() {
            return Ok(());
        }
        let dir = &self.dir;
        DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(at(dir))?;
        let place = dir.join("lock");
        let lock =
            OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(&place);
        let lock = lock.map_err(at(&place))?;
        flock(&lock, FlockOperation::NonBlockingLockExclusive)
            .map_err(|_| at(&place)("another spoolfs writes it"))?;
        let names = Names::open(dir)?;
        let (chain, first) = Chain::open(dir, &self.node)?;
        names.date(chain.head().seq)?;
        if let Some(Event::Damaged { what }) =
            first.iter().find(|event| matches!(event, Event::Damaged { .. }))
        {
            tracing::error!(what, "the audit log is damaged; see \"spoolfs audit verify\"");
            *self.state.damage.lock() = Some(what.clone());
        }
        *self.state.head.lock() = Some(chain.head().clone()).filter(|head| head.seq > 0);
        super::chain::warn_of_strange(dir)?;
        self.log = Some(Log { chain, names, _lock: lock });
        self.first = first;
        Ok(())
    }

    fn write(&mut self) -> Result<()> {
        loop {
            self.pending.retain(|pending| {
                pending.waits.as_ref().is_none_or(|waits| !waits.gone.load(Ordering::SeqCst))
            });
            let now = self.clock.now();
            let first: Vec<Entry> = self.first.iter().cloned().map(Entry::new).collect();
            let count = self.pending.len().min(limits::AUDIT_BATCH);
            let mut entries: Vec<(Timestamp, &Entry)> = first.iter().map(|e| (now, e)).collect();
            entries.extend(self.pending.iter().take(count).map(|p| (p.at, &p.entry)));
            // What was lost came after what waits.
            let lost = *self.state.lost.lock();
            let lost = lost.filter(|_| count == self.pending.len());
            let gap = lost.map(|Lost { count, since, until }| {
                Entry::new(Event::Gap { lost: count, since, until })
            });
            entries.extend(gap.iter().map(|e| (now, e)));
            if entries.is_empty() {
                return Ok(());
            }
            let Some(log) = &mut self.log else { return Err(AuditError::Closed) };
            let head = log.write(&entries)?;
            *self.state.head.lock() = Some(head.clone());
            self.first.clear();
            for pending in self.pending.drain(..count) {
                if let Some(waits) = pending.waits {
                    let _he_left = waits.answer.send(Ok(head.clone()));
                }
            }
            if let Some(told) = lost {
                let mut lost = self.state.lost.lock();
                *lost = lost.filter(|more| more.count > told.count).map(|more| Lost {
                    count: more.count - told.count,
                    since: told.until,
                    until: more.until,
                });
            }
        }
    }

    fn erase(&mut self, subject: &str, who: Who, dry: bool) -> Result<Erasure> {
        let trouble = || self.state.trouble.lock().as_ref().map(|(_, error)| error.clone());
        let Some(log) = &mut self.log else {
            return Err(trouble().unwrap_or(AuditError::Closed));
        };
        let texts = log.names.about(subject)?;
        if dry {
            return Ok(Erasure { texts });
        }
        let all: Vec<String> = texts.iter().map(|(pseudonym, _)| pseudonym.clone()).collect();
        let named = all.iter().take(limits::AUDIT_ERASED_NAMED).cloned().collect();
        let event = Event::Erased { count: all.len() as u64, pseudonyms: named };
        let entry = Entry::new(event).by(who);
        // On record before it is done: what is erased can not be told afterwards.
        let head = log.write(&[(self.clock.now(), &entry)])?;
        *self.state.head.lock() = Some(head);
        log.names.erase(&all)?;
        Ok(Erasure { texts })
    }
}

impl Log {
    /// Lines up to `last` leave, and those that did and were cut off in it.
    fn leave(&mut self, last: u64) -> Result<()> {
        self.names.give_up();
        // Lines that stay after all must not lack the names that are in them.
        self.chain.leave(last)?;
        self.finish_leaving()
    }

    /// Removes what is left of lines that left: the names first, or nobody would know of them.
    fn finish_leaving(&self) -> Result<()> {
        let Some(last) = self.chain.left_to()? else { return Ok(()) };
        self.names.forget(last)?;
        faults::point("lines.after_forget");
        self.chain.remove_left()
    }

    /// Writes and syncs entries; returns where the log ends then.
    fn write(&mut self, entries: &[(Timestamp, &Entry)]) -> Result<Head> {
        self.names.give_up();
        self.names.begin()?;
        let head = self.chain.head();
        let (chain, mut seq, mut prev) = (head.chain.clone(), head.seq, head.sha256);
        let mut bytes = Vec::new();
        for (at, entry) in entries {
            seq += 1;
            let names = &self.names;
            let mut pseudonym = |kind: &str, text: &[u8]| names.pseudonym(kind, text, seq);
            let line = line::compose(entry, (seq, prev), *at, &mut pseudonym)?;
            prev = Sha256::of(line.as_bytes());
            bytes.extend_from_slice(line.as_bytes());
            bytes.push(b'\n');
        }
        // A name may be known that no line has; not the other way round.
        self.names.commit()?;
        let head = Head { chain, seq, sha256: prev };
        self.chain.append(&bytes, head.clone())?;
        Ok(head)
    }
}
