//! One thread for each target: attaches it before anything is written to it, asks again when it
//! was down, and ships the journal.

use super::contain::contained;
use super::error::Result;
use super::shared::Shared;
use super::target::Target;
use crate::catalog::JournalRow;
use crate::clock::Timestamp;
use crate::recording::{ErrorClass, Sha256};
use crate::store::journal::{self, Author, Fetched, Header, Segment, Shipment};
use crate::store::marker::{self, AttachError, Claim};
use crate::store::{StoreError, StoreErrorKind};
use crate::{faults, limits};
use serde::{Deserialize, Serialize};
use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How often the thread looks whether something is due. Also what a test waits at most.
const POLL: Duration = Duration::from_millis(500);

/// What a keeper does.
#[derive(Debug)]
pub(super) struct Keeper {
    pub shared: Arc<Shared>,
    pub target: Arc<Target>,
    pub archive_name: String,
    pub journal_interval: Duration,
}

/// What was done for the target since the start.
#[derive(Debug, Default)]
struct Progress {
    orphans_ended: bool,
    shipped_at: Option<Timestamp>,
    /// The last segment was put and its answer heard, so that the next number is surely free.
    sure: bool,
}

/// A sealed segment that was going to be put: by its digest it is known again by who can not open it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Attempt {
    epoch: u64,
    segment: u64,
    /// Its last row.
    last: u64,
    sha256: Sha256,
}

impl Keeper {
    /// Runs until the engine stops.
    pub fn run(&self) {
        let mut state = Progress::default();
        loop {
            let step = contained("looking after a target", || {
                self.step(&mut state);
                Ok(())
            });
            if let Err(error) = step {
                self.target.failed(error.to_string(), self.shared.now());
            }
            crossbeam_channel::select! {
                recv(self.target.nudged) -> _nudge => {}
                recv(self.shared.stop.closed()) -> _closed => return,
                default(POLL) => {}
            }
        }
    }

    fn step(&self, state: &mut Progress) {
        let now = self.shared.now();
        if self.target.retry_at().is_some_and(|due| due <= now) {
            let began = Instant::now();
            self.attach(now);
            self.target.was_asked(began);
        }
        if !self.target.is_up() {
            return;
        }
        if !state.orphans_ended {
            state.orphans_ended = self.end_orphans();
        }
        if state.shipped_at.is_none_or(|at| at.plus(self.journal_interval) <= now) {
            state.shipped_at = Some(now);
            self.ship_journal(&mut state.sure);
        }
    }

    /// Asks whether the target is ours. Also after it was down: another directory may be mounted
    /// there now.
    fn attach(&self, now: Timestamp) {
        let identity = self.shared.catalog.identity();
        let setting = format!("target.{}.archive", self.target.name());
        let expected = match self.shared.catalog.setting(&setting) {
            Ok(expected) => expected,
            Err(error) => return self.target.failed(error.to_string(), now),
        };
        let claim = Claim {
            expected: expected.as_deref(),
            archive_name: &self.archive_name,
            node: &identity.node,
            instance: &identity.instance,
            now,
        };
        let answer = self.until_stop(marker::attach(&*self.target.store, &claim));
        match answer {
            None => {}
            Some(Ok(archive)) => {
                faults::point("attach.after_marker");
                if expected.is_none()
                    && let Err(error) = self.shared.catalog.set_setting(&setting, &archive)
                {
                    return self.target.failed(error.to_string(), now);
                }
                faults::point("attach.after_setting");
                self.target.attached(now);
                self.shared.content.target_answers(self.target.name());
                self.shared.fill_at(now);
                self.shared.completions.ask_again();
                self.shared.wake();
                if let Err(error) = self.shared.name_key_again(&self.target) {
                    tracing::warn!(%error, "the target is given the name key later");
                }
            }
            Some(Err(error)) => self.not_attached(&error),
        }
    }

    fn not_attached(&self, error: &AttachError) {
        let now = self.shared.now();
        let lasting = matches!(error.class(), ErrorClass::Refused | ErrorClass::Permanent);
        match error {
            AttachError::Store(_) => self.target.failed(error.to_string(), now),
            _ if lasting => self.target.refused(error.to_string(), now),
            _ => self.target.failed(error.to_string(), now),
        }
    }

    /// Uploads in parts that an earlier daemon left. Tried again until it worked once.
    fn end_orphans(&self) -> bool {
        let node = self.shared.catalog.identity().node;
        match self.until_stop(self.target.store.abort_orphans(&node)) {
            Some(Ok(0)) => true,
            Some(Ok(ended)) => {
                tracing::info!(target = self.target.name(), ended, "ended uploads left behind");
                true
            }
            Some(Err(error)) => {
                self.note(&error);
                // Some services do not let a key list uploads: no reason to ask for ever.
                error.class() != ErrorClass::Transient
            }
            None => false,
        }
    }

    fn ship_journal(&self, sure: &mut bool) {
        let mut locked = false;
        loop {
            match self.ship_segment(sure, &mut locked) {
                Ok(true) => {}
                Ok(false) => return,
                Err(error) => {
                    tracing::debug!(%error, "the journal is shipped later");
                    return;
                }
            }
        }
    }

    /// Ships one segment; false if there is nothing more to ship. `locked`: a new epoch was begun for a
    /// segment that no key opens. If its first one is such a segment too, it is the target that says so of any.
    fn ship_segment(&self, sure: &mut bool, locked: &mut bool) -> Result<bool> {
        let catalog = &self.shared.catalog;
        let name = self.target.name();
        if catalog.journal_pending(name, 1)?.is_empty() {
            return Ok(false);
        }
        // A power cut must not take back rows that a target has: the same numbers would be given
        // to others.
        catalog.sync()?;
        let rows = catalog.journal_pending(name, limits::JOURNAL_SEGMENT_ROWS_MAX)?;
        let (Some(first), Some(last)) = (rows.first(), rows.last()) else { return Ok(false) };
        let number = catalog.journal_segment(name)? + 1;
        let identity = catalog.identity();
        let setting = catalog.setting(&format!("target.{name}.archive"))?;
        let author = Author {
            archive: setting.unwrap_or_default(),
            node: identity.node,
            instance: identity.instance,
            epoch: identity.epoch,
        };
        let lines = rows.iter().map(|r| r.line.clone()).collect();
        let segment = match Segment::new(&author, number, first.seq, last.seq, lines) {
            Ok(segment) => segment,
            Err(error) => {
                tracing::error!(%error, "a journal row can not be shipped");
                return Ok(false);
            }
        };
        let shipment = self.shipment(&segment)?;
        faults::point("journal.before_put");
        // A target that ignores conditions would let a segment be written over whose answer was lost.
        let free = std::mem::replace(sure, false);
        let shipped = match self.until_stop(journal::ship(&*self.target.store, &shipment, free)) {
            None => return Ok(false),
            Some(Ok(_)) => last.seq,
            Some(Err(error)) if error.kind == StoreErrorKind::Exists => {
                match self.shipped_before(&segment, &rows, error, locked)? {
                    Some(shipped) => shipped,
                    None => return Ok(true),
                }
            }
            Some(Err(error)) => {
                self.note(&error);
                return Err(error.into());
            }
        };
        let all: Vec<String> = self.shared.targets.iter().map(|t| t.name().to_owned()).collect();
        // The keeper of another target may have begun a new epoch meanwhile.
        let number = if catalog.identity().epoch == author.epoch { number } else { 0 };
        faults::point("journal.after_put");
        catalog.journal_shipped(name, shipped, number, &all)?;
        *sure = true;
        faults::point("journal.after_commit");
        let full = rows.len() == limits::JOURNAL_SEGMENT_ROWS_MAX
            || segment.lines.iter().map(String::len).sum::<usize>()
                >= limits::JOURNAL_SEGMENT_BYTES;
        Ok(full || shipped < last.seq)
    }

    /// A segment as it is put. What is sealed is other bytes each time: so each is written down first.
    fn shipment(&self, segment: &Segment) -> Result<Shipment> {
        let to = self.shared.told_to()?;
        let shipment = segment.shipment(self.target.store.prefix(), to.as_ref()).map_err(|e| {
            super::EngineError::refused("a journal segment".as_ref(), e.to_string())
        })?;
        if to.is_some() {
            let header = &segment.header;
            let mut attempts = self.attempts(header)?;
            let (epoch, last, sha256) = (header.epoch, header.last, shipment.sha256);
            attempts.push(Attempt { epoch, segment: header.segment, last, sha256 });
            let forgotten = attempts.len().saturating_sub(limits::JOURNAL_ATTEMPTS_REMEMBERED);
            attempts.drain(..forgotten);
            let text = serde_json::to_string(&attempts).unwrap_or_default();
            self.shared.catalog.set_setting(&self.attempts_setting(), &text)?;
            self.shared.catalog.sync()?;
            faults::point("seal.after_attempt");
        }
        Ok(shipment)
    }

    fn attempts_setting(&self) -> String {
        format!("journal.sealed.{}", self.target.name())
    }

    /// What may have been put under the number of this segment.
    fn attempts(&self, header: &Header) -> Result<Vec<Attempt>> {
        let text = self.shared.catalog.setting(&self.attempts_setting())?;
        let all: Option<Vec<Attempt>> = text.and_then(|text| serde_json::from_str(&text).ok());
        let number = (header.epoch, header.segment);
        let mut all = all.unwrap_or_default();
        all.retain(|attempt| (attempt.epoch, attempt.segment) == number);
        Ok(all)
    }

    /// The segment's number is taken. If it is ours, of before an answer was lost or a crash, its
    /// lines are the first of those that are due now, and the rest goes into the next one. If it is
    /// ours and is not, the catalog went back in time unnoticed: nothing, and a new epoch begins.
    fn shipped_before(
        &self,
        meant: &Segment,
        rows: &[JournalRow],
        taken: StoreError,
        locked: &mut bool,
    ) -> Result<Option<u64>> {
        let header = &meant.header;
        let (store, identities) = (&*self.target.store, &self.shared.identities);
        let key = taken.key.clone();
        let found = match self.until_stop(journal::fetch(store, &key, identities)) {
            Some(Ok(Fetched::Segment(found))) => found,
            Some(Ok(Fetched::Locked(_, sha256))) => {
                let attempts = self.attempts(header)?;
                return match attempts.into_iter().find(|attempt| attempt.sha256 == sha256) {
                    Some(ours) => Ok(Some(ours.last)),
                    None => self.new_epoch(&key, true),
                };
            }
            // Nobody can read it, or nobody who has not its key of SSE-C: the number is lost, not the target.
            Some(Err(error))
                if error.kind == StoreErrorKind::Corrupt
                    || (error.kind == StoreErrorKind::Locked
                        && !std::mem::replace(locked, true)) =>
            {
                tracing::warn!(%error, "a journal segment is left alone");
                return self.new_epoch(&key, false);
            }
            Some(Err(error)) => {
                self.note(&error);
                return Err(error.into());
            }
            None => return Err(super::EngineError::Stopping),
        };
        if found.header.instance != header.instance {
            self.target.refused(taken.to_string(), self.shared.now());
            return Err(taken.into());
        }
        let due = found.header.first == header.first
            && rows.iter().any(|r| r.seq == found.header.last)
            && meant.lines.starts_with(&found.lines);
        if due { Ok(Some(found.header.last)) } else { self.new_epoch(&key, true) }
    }

    fn new_epoch(&self, key: &str, lost: bool) -> Result<Option<u64>> {
        tracing::error!(
            target = self.target.name(),
            key,
            "a journal segment of this number is there and has other lines; a new epoch begins, and if an \
             older copy of the catalog was put back, `spoolfs rebuild` brings what it does not know"
        );
        self.shared.catalog.begin_epoch(lost)?;
        Ok(None)
    }

    fn note(&self, error: &StoreError) {
        use StoreErrorKind::{Denied, Locked, Unreachable};
        if matches!(error.kind, Denied | Locked | Unreachable) {
            self.target.failed(error.to_string(), self.shared.now());
        } else {
            tracing::warn!(%error, "a target answered with an error");
        }
    }

    /// The answer, unless the engine stops first and then none comes for a while: a segment that is
    /// there and not noted looks like trouble to whoever checks a stopped daemon's work.
    fn until_stop<T>(&self, answer: impl Future<Output = T>) -> Option<T> {
        let grace = async {
            self.shared.stop.reached().await;
            tokio::time::sleep(limits::STOP_GRACE).await;
        };
        self.shared.runtime.block_on(async {
            tokio::select! {
                answer = answer => Some(answer),
                () = grace => None,
            }
        })
    }
}
