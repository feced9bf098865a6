//! A target as the engine sees it: whether it may be written to, and when to ask again.

use super::backoff;
use super::error::{EngineError, Result};
use super::locks::Queue;
use crate::clock::Timestamp;
use crate::limits;
use crate::recording::NodeId;
use crate::store::{Store, StoreError, StoreErrorKind};
use crossbeam_channel::{Receiver, Sender};
use parking_lot::Mutex;
use std::sync::Arc;
use std::time::Instant;

/// Where a target stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// It was not reached yet since the start. Nothing is written to it.
    Attaching,
    /// It is used.
    Up,
    /// It was not reached, or refused; it is asked again later.
    Down,
    /// It holds another archive, or is in use by another machine: nothing is written to it.
    Refused,
}

impl Standing {
    /// The word for `status`.
    pub fn word(self) -> &'static str {
        match self {
            Standing::Attaching => "attaching",
            Standing::Up => "up",
            Standing::Down => "down",
            Standing::Refused => "refused",
        }
    }
}

/// A target for `status`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TargetStatus {
    /// Its name.
    pub name: String,
    /// Its address.
    pub url: String,
    /// A recording does not count as archived without it.
    pub required: bool,
    /// Where it stands.
    pub standing: Standing,
    /// Since when.
    pub since: Timestamp,
    /// The last thing that went wrong with it, and when; kept after it went well again.
    pub last_error: Option<(Timestamp, String)>,
    /// When it is asked again, if it is not up.
    pub retry_at: Option<Timestamp>,
    /// When the newest snapshot of the catalog was taken that it was proved to hold, and its length,
    /// as far as known.
    pub snapshot: Option<(Timestamp, Option<u64>)>,
}

#[derive(Debug)]
struct Health {
    standing: Standing,
    since: Timestamp,
    /// Failures since the last thing that worked.
    attempts: u32,
    retry_at: Timestamp,
    last_error: Option<(Timestamp, String)>,
    /// Recordings that it refused since the last one that it took, up to a few.
    denied: Vec<NodeId>,
    /// Its marker was read since the start, and was right.
    seen: bool,
    /// When the last attempt to attach it that came to an end began.
    asked: Option<Instant>,
    snapshot: Option<(Timestamp, Option<u64>)>,
}

#[derive(Debug)]
pub(super) struct Target {
    pub store: Arc<dyn Store>,
    pub required: bool,
    /// Legal holds in it.
    pub locks: Queue,
    health: Mutex<Health>,
    nudge: Sender<()>,
    pub nudged: Receiver<()>,
}

impl Target {
    pub fn new(store: Arc<dyn Store>, required: bool, now: Timestamp) -> Target {
        let (nudge, nudged) = crossbeam_channel::bounded(1);
        let health = Health {
            standing: Standing::Attaching,
            since: now,
            attempts: 0,
            retry_at: now,
            last_error: None,
            denied: Vec::new(),
            seen: false,
            asked: None,
            snapshot: None,
        };
        let locks = Queue::default();
        Target { store, required, locks, health: Mutex::new(health), nudge, nudged }
    }

    pub fn name(&self) -> &str {
        self.store.name()
    }

    pub fn is_up(&self) -> bool {
        self.health.lock().standing == Standing::Up
    }

    /// Wakes the keeper.
    pub fn nudge(&self) {
        let _already_nudged = self.nudge.try_send(());
    }

    /// Lets the keeper ask at once, however often it was in vain.
    pub fn ask_again(&self, now: Timestamp) {
        {
            let mut health = self.health.lock();
            health.retry_at = health.retry_at.min(now);
        }
        self.nudge();
    }

    /// Its newest snapshot of the catalog: when it was taken, and its length.
    pub fn has_snapshot(&self, newest: Option<(Timestamp, Option<u64>)>) {
        self.health.lock().snapshot = newest;
    }

    /// An attempt to attach it that began then came to an end, whichever.
    pub fn was_asked(&self, began: Instant) {
        self.health.lock().asked = Some(began);
    }

    /// Whether what is known of it was asked for after that time.
    pub fn is_known_since(&self, time: Instant) -> bool {
        self.health.lock().asked.is_some_and(|asked| asked >= time)
    }

    /// Whether it gave any answer, or none in time, since the start.
    pub fn has_answered(&self) -> bool {
        self.health.lock().asked.is_some()
    }

    /// When to ask again; `None` while it is up.
    pub fn retry_at(&self) -> Option<Timestamp> {
        let health = self.health.lock();
        (health.standing != Standing::Up).then_some(health.retry_at)
    }

    /// It may be written to.
    pub fn attached(&self, now: Timestamp) {
        let mut health = self.health.lock();
        if health.standing != Standing::Up {
            tracing::info!(target = self.name(), "the target is ready");
            health.standing = Standing::Up;
            health.since = now;
            health.seen = true;
        }
    }

    /// A recording was written and proved: the failures before are forgotten.
    pub fn worked(&self) {
        let mut health = self.health.lock();
        health.attempts = 0;
        health.denied.clear();
    }

    /// It was given a recording. Tells whether it counts as down for what came of it.
    pub fn was_given<T>(&self, id: NodeId, outcome: &Result<T>, now: Timestamp) -> bool {
        match outcome {
            Ok(_) => self.worked(),
            // Where the bytes come from can fail, too.
            Err(EngineError::Store(e)) if e.target != self.name() => {}
            Err(error) if error.is_target_down() => {
                self.failed(error.to_string(), now);
                return true;
            }
            Err(error) if error.is_refused_object() => {
                return self.denied(id, &error.to_string(), now);
            }
            Err(_) => {}
        }
        false
    }

    /// It refused a recording or spoiled it. Several in a row are its own fault.
    /// Tells whether it counts as down now.
    fn denied(&self, id: NodeId, error: &str, now: Timestamp) -> bool {
        let several = {
            let mut health = self.health.lock();
            if !health.denied.contains(&id) && health.denied.len() < limits::DENIED_MAX {
                health.denied.push(id);
            }
            health.denied.len() >= limits::DENIED_MAX
        };
        if several {
            self.failed(error.to_owned(), now);
        }
        several
    }

    /// It was not reached, or refused a request.
    pub fn failed(&self, error: String, now: Timestamp) {
        self.stand(Standing::Down, error, now);
    }

    /// It must not be written to.
    pub fn refused(&self, error: String, now: Timestamp) {
        self.stand(Standing::Refused, error, now);
    }

    fn stand(&self, standing: Standing, error: String, now: Timestamp) {
        let mut health = self.health.lock();
        // Several uploads fail together when a target goes down: that is one failure.
        if health.standing == standing && now < health.retry_at {
            return;
        }
        health.attempts += 1;
        health.retry_at = now.plus(backoff::after(health.attempts));
        if health.standing != standing {
            health.since = now;
            match standing {
                Standing::Refused => tracing::error!(%error, "nothing is archived to this target"),
                _ => tracing::warn!(%error, "a target can not be used; recordings stay local"),
            }
        }
        health.standing = standing;
        health.last_error = Some((now, error));
    }

    /// Whether it may not be what it was when objects in it were verified: another archive's, or
    /// not seen yet since the start. One that merely does not answer now is not in doubt.
    pub fn is_in_doubt(&self) -> bool {
        let health = self.health.lock();
        health.standing == Standing::Refused || !health.seen
    }

    /// Why it is not up, as an error to pass on.
    pub fn trouble(&self) -> StoreError {
        let health = self.health.lock();
        let detail = match &health.last_error {
            Some((_, error)) => error.clone(),
            None => "it was not reached yet".to_owned(),
        };
        StoreError {
            kind: StoreErrorKind::Unreachable,
            target: self.name().to_owned(),
            operation: "attach",
            key: self.store.prefix().to_owned(),
            detail,
            hint: String::new(),
        }
    }

    pub fn status(&self) -> TargetStatus {
        let health = self.health.lock();
        TargetStatus {
            name: self.name().to_owned(),
            url: self.store.url(self.store.prefix()),
            required: self.required,
            standing: health.standing,
            since: health.since,
            last_error: health.last_error.clone(),
            retry_at: (health.standing != Standing::Up).then_some(health.retry_at),
            snapshot: health.snapshot,
        }
    }
}
