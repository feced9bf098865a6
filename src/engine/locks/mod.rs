//! Legal holds in the targets: what is held here is locked there, where the target can (S3 Object
//! Lock), by a thread for each target. What is to be done is found by comparing what is held with
//! what the catalog remembers of each object, so that nothing is forgotten when a daemon dies.
//!
//! **Invariant:** a legal hold is taken off only if it was set from here, no hold is on the recording,
//! and the time is over in which it is still kept; it counts as set when the target was seen to have
//! it.

mod ask;
mod plan;

pub(super) use ask::{before_delete, delete_refused};

use super::backoff;
use super::contain::contained;
use super::error::{EngineError, Result};
use super::shared::Shared;
use super::target::Target;
use crate::catalog::{LockRow, LockState, ObjectRow, ObjectState};
use crate::clock::Timestamp;
use crate::limits;
use crate::recording::NodeId;
use crate::store::Locks;
use parking_lot::Mutex;
use plan::{Step, Wish, step};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

/// How often the thread looks whether something is due. Also what a test waits at most.
const POLL: Duration = Duration::from_millis(500);
/// How often `hold add` looks whether a target has answered.
const LOOK: Duration = Duration::from_millis(20);

/// What is known of a target, and what to look at.
#[derive(Debug, Default)]
pub(super) struct Queue {
    state: Mutex<Queued>,
    /// When the target said last whether it can lock objects.
    told_at: Mutex<Option<Timestamp>>,
    /// Something was archived without the lock that its rule asks for.
    pub missed: AtomicBool,
}

#[derive(Debug, Default)]
struct Queued {
    can: Option<Locks>,
    nodes: BTreeSet<NodeId>,
    /// Everything is to be compared.
    all: bool,
    /// Somebody waits to know whether it can lock objects.
    ask: bool,
}

impl Queue {
    /// The legal holds on these recordings, or their objects, changed.
    pub fn look(&self, nodes: &[NodeId]) {
        let mut state = self.state.lock();
        if state.nodes.len().saturating_add(nodes.len()) > limits::LOCKS_QUEUE_MAX {
            state.nodes.clear();
            state.all = true;
        }
        if !state.all {
            state.nodes.extend(nodes);
        }
    }

    /// All are to be compared.
    pub fn look_at_all(&self) {
        self.state.lock().all = true;
    }

    /// Whether the target can lock objects; `None`: that is not known yet.
    pub fn can(&self) -> Option<Locks> {
        self.state.lock().can.clone()
    }

    /// The target said whether it can lock objects.
    fn told(&self, can: Locks, now: Timestamp) {
        self.state.lock().can = Some(can);
        *self.told_at.lock() = Some(now);
    }

    /// Whether what it said is old: buckets and permissions change.
    fn is_old(&self, now: Timestamp) -> bool {
        let told_at = *self.told_at.lock();
        told_at.is_none_or(|at| at > now || at.plus(limits::LOCKS_WALK_EVERY) <= now)
    }

    fn is_empty(&self) -> bool {
        let state = self.state.lock();
        state.nodes.is_empty() && !state.all && !state.ask
    }

    /// What was asked for since.
    fn take(&self) -> Queued {
        let mut state = self.state.lock();
        let can = state.can.clone();
        std::mem::replace(&mut *state, Queued { can, ..Queued::default() })
    }
}

/// Whether each target can lock objects, as far as it is known when the time is over.
pub(super) fn abilities(shared: &Shared, at_most: Duration) -> Vec<(String, Option<Locks>)> {
    let until = Instant::now() + at_most;
    let unknown = shared.targets.iter().filter(|t| t.locks.can().is_none() && !at_most.is_zero());
    unknown.for_each(|t| t.locks.state.lock().ask = true);
    // One that is down is not waited for, one that did not answer at all since the start is.
    let waits = |t: &Arc<Target>| t.locks.can().is_none() && (t.is_up() || !t.has_answered());
    while shared.targets.iter().any(waits) && Instant::now() < until && !shared.stop.wait(LOOK) {}
    shared.targets.iter().map(|t| (t.name().to_owned(), t.locks.can())).collect()
}

/// Whether a target can lock objects; it is asked, unless that is known. That it can not is asked
/// again after a while.
pub(super) fn ability(shared: &Shared, target: &Target) -> Result<Locks> {
    let now = shared.now();
    match target.locks.can() {
        Some(Locks::Yes) => return Ok(Locks::Yes),
        Some(no) if !target.locks.is_old(now) => return Ok(no),
        Some(Locks::No(_)) | None => {}
    }
    let can = shared.ask(target, target.store.locks())?;
    target.locks.told(can.clone(), now);
    Ok(can)
}

/// What is done about one object.
#[derive(Clone, Debug)]
struct Job {
    object: ObjectRow,
    known: Option<LockRow>,
    step: Step,
}

/// Keeps one target.
#[derive(Debug)]
pub(super) struct Locker {
    shared: Arc<Shared>,
    target: Arc<Target>,
    /// When to compare everything; `None`: now.
    walk_at: Option<Timestamp>,
    asked_at: Option<Timestamp>,
    /// Rounds in a row in which something was refused and nothing done.
    failures: u32,
    /// Objects that the target refused in this round, and what was done.
    refused: usize,
    done: usize,
}

impl Locker {
    pub fn new(shared: &Arc<Shared>, target: &Arc<Target>) -> Locker {
        let (shared, target) = (Arc::clone(shared), Arc::clone(target));
        let (failures, refused, done) = (0, 0, 0);
        Locker { shared, target, walk_at: None, asked_at: None, failures, refused, done }
    }

    /// Until the engine stops.
    pub fn run(mut self) {
        let shared = Arc::clone(&self.shared);
        loop {
            match contained("setting legal holds in a target", || self.step()) {
                Ok(()) => {}
                Err(EngineError::Stopping) => return,
                Err(error) => {
                    tracing::debug!(%error, "legal holds are set in a target later");
                    self.failures += 1;
                    self.walk_at = Some(shared.now().plus(backoff::after(self.failures)));
                }
            }
            if shared.stop.wait(POLL) {
                return;
            }
        }
    }

    fn step(&mut self) -> Result<()> {
        let now = self.shared.now();
        let walk =
            self.walk_at.is_none_or(|at| at <= now || at > now.plus(limits::LOCKS_WALK_EVERY));
        if !self.target.is_up() || (!walk && self.target.locks.is_empty()) {
            return Ok(());
        }
        self.shared.catalog.know_holds()?;
        let Queued { mut nodes, all, ask, .. } = self.target.locks.take();
        if walk || all {
            nodes = self.everything()?;
            self.walk_at = Some(now.plus(limits::LOCKS_WALK_EVERY));
        }
        if nodes.is_empty() && !ask {
            return Ok(());
        }
        if !self.can_lock(now, walk || all)? || nodes.is_empty() {
            return Ok(());
        }
        (self.refused, self.done) = (0, 0);
        let nodes: Vec<NodeId> = nodes.into_iter().collect();
        for page in nodes.chunks(limits::LOCKS_STEP) {
            self.shared.check_stop()?;
            let jobs = self.jobs(page, now)?;
            self.carry_out(jobs)?;
            if self.refused >= limits::DENIED_MAX && self.done == 0 {
                break;
            }
        }
        self.failures = if self.done > 0 { 0 } else { self.failures };
        if self.refused > 0 {
            self.failures += 1;
            self.walk_at = Some(now.plus(backoff::after(self.failures)));
        }
        Ok(())
    }

    /// What is held, and what something is remembered of.
    fn everything(&self) -> Result<BTreeSet<NodeId>> {
        let mut nodes: BTreeSet<NodeId> =
            self.shared.catalog.holds().all_held().into_iter().collect();
        let mut after = 0;
        loop {
            self.shared.check_stop()?;
            let (name, most) = (self.target.name(), limits::PLAN_PAGE_ROWS);
            let page = self.shared.catalog.locks_behind(name, after, most)?;
            let Some(last) = page.last() else { return Ok(nodes) };
            after = last.object;
            nodes.extend(page.iter().map(|row| row.node));
        }
    }

    /// Whether the target can; asked again after a time.
    fn can_lock(&mut self, now: Timestamp, again: bool) -> Result<bool> {
        if self.asked_at.is_none() || again {
            let can = self.shared.ask(&self.target, self.target.store.locks())?;
            if let Locks::No(why) = &can
                && self.asked_at.is_none()
            {
                let target = self.target.name();
                tracing::info!(target, why, "legal holds can not be set in a target");
            }
            self.target.locks.told(can, now);
            self.asked_at = Some(now);
        }
        Ok(self.target.locks.can() == Some(Locks::Yes))
    }

    /// What is to be done about the objects of these recordings.
    fn jobs(&self, nodes: &[NodeId], now: Timestamp) -> Result<Vec<Job>> {
        let (catalog, name) = (&self.shared.catalog, self.target.name());
        let mut jobs = Vec::new();
        for node in nodes {
            let mut known = catalog.locks(*node, name)?;
            let since = now.minus(limits::LOCK_PROVISIONAL_AFTER);
            let held = catalog.is_held_for_sure(*node, since)?;
            let free = catalog.holds().let_expire(*node, now);
            let mut objects = catalog.objects(*node, None)?;
            objects.retain(|object| object.target == name);
            for object in objects {
                let at = known.iter().position(|row| row.object == object.id);
                let known = at.map(|at| known.swap_remove(at));
                let on = held && object.state == ObjectState::Verified;
                match step(known.as_ref(), Wish { on, free: free && !held }, now) {
                    Step::Nothing => {}
                    step => jobs.push(Job { object, known, step }),
                }
            }
        }
        Ok(jobs)
    }
}

impl Job {
    /// What is known from now on.
    fn now(&self, state: LockState, version: &str, at: Timestamp) -> LockRow {
        LockRow {
            object: self.object.id,
            node: self.object.node,
            target: self.object.target.clone(),
            state,
            version: version.to_owned(),
            at,
            attempts: 0,
            not_before: at,
            error: None,
        }
    }

    /// The same as before, and a failure.
    fn failed(&self, error: &EngineError, at: Timestamp) -> LockRow {
        let known = self.known.clone();
        let row = known.unwrap_or_else(|| self.now(LockState::Wanted, "", at));
        let attempts = row.attempts.saturating_add(1);
        let not_before = at.plus(backoff::after(attempts));
        LockRow { attempts, not_before, error: Some(error.to_string()), ..row }
    }
}
