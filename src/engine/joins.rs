//! Stored joins (docs/STITCHED.md, "Storing joins"): the joins of calls that are over are put into the
//! targets, made anew after a change, proved from time to time, and deleted when what they hold is not
//! to be kept.
//!
//! **Invariant:** a stored join is deleted only if another took its place, or if the catalog says that
//! its recordings are deleted, all of them or one that is not to be kept; never while one of them is on
//! legal hold; and only if the object itself says that it is this join.
//!
//! What is looked at is what was changed: recordings by the catalog's word, calls by that of their
//! records. Because a word can be lost, everything is looked at too, slowly, at the start and then
//! every [`limits::JOIN_SWEEP_EVERY`].

mod fate;
mod given;
mod later;
mod look;
mod make;
mod objects;
mod prove;

use super::Engine;
use super::backoff;
use super::contain::contained;
use super::error::{EngineError, Result};
use super::shared::Shared;
use crate::catalog::Changed;
use crate::clock::Timestamp;
use crate::limits;
use crate::recording::NodeId;
use crate::stitch::{Kept, KeptState, StitchError, Stitched};
use later::Later;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Between two rounds. Also what a test waits for.
const ROUND: Duration = Duration::from_secs(2);
/// It rests so many times as long as it looks.
const REST: u32 = 49;
/// Longest rest at once.
const REST_MAX: Duration = Duration::from_secs(5);

/// How joins are stored.
#[derive(Clone, Debug, Default)]
pub struct JoinOptions {
    /// Makes those of calls that are over; none: no more are stored.
    pub maker: Option<Arc<Stitched>>,
    /// What a recording said may be kept when it expires, while another of its call is kept.
    pub keep_expired: bool,
    /// Every object is read once in this time; none: never.
    pub scrub_every: Option<Duration>,
}

/// How joins are stored, for `status`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct JoinStatus {
    /// Joins that are stored.
    pub stored: u64,
    /// Complete calls, or nearly, whose join is not: they, or their recordings, are not ready yet.
    pub waiting: u64,
    /// Calls and stored joins of which the last try failed.
    pub failing: u64,
    /// Stored joins that are to be deleted.
    pub leaving: u64,
    /// Objects that were damaged or gone since the start.
    pub bad: u64,
    /// Objects that may be stored joins, and that no key opens, or that are refused.
    pub unopened: u64,
    /// All were looked at since the start.
    pub swept: bool,
}

impl Engine {
    /// Looks after the joins that are stored.
    ///
    /// # Errors
    /// `Thread` if it can not be started.
    pub fn keep_joins(&self, options: JoinOptions) -> Result<()> {
        let Ok(Some(kept)) = self.shared.joins.clone() else { return Ok(()) };
        let keeper = Keeper {
            shared: Arc::clone(&self.shared),
            kept,
            options,
            changed: Changed::default(),
            position: u64::MAX,
            heard_pages: 0,
            behind: [0; 2],
            sweep: Sweep::default(),
            later: Later::default(),
            stays: Later::default(),
            lists: Later::default(),
            unopened: BTreeMap::new(),
            bad: 0,
        };
        self.spawn("joins", move || keeper.run()).map_err(EngineError::Thread)
    }

    /// How joins are stored; none if they are not.
    pub(super) fn join_status(&self) -> Option<JoinStatus> {
        let counts = self.shared.joins.as_ref().ok()?.as_ref()?.counts().unwrap_or_default();
        let known = *self.shared.joined.lock();
        let JoinStatus { waiting, failing, .. } = known;
        let (stored, leaving) = (counts.current, counts.old);
        Some(JoinStatus { stored, leaving, waiting: waiting.max(counts.making), failing, ..known })
    }
}

/// What users delete for good is not to be shown, nor kept, in a stored join. To be called before it
/// is deleted; if it stays, the join is made anew with it.
///
/// # Errors
/// It can not be noted: later it could not be told from what has expired, which a join may stand in for.
pub(super) fn erased(shared: &Shared, nodes: &[NodeId]) -> Result<()> {
    let Some(kept) = shared.joins.as_ref().map_err(|error| failed(error.clone()))? else {
        return Ok(());
    };
    kept.erased(nodes, true).map_err(failed)
}

fn failed(error: StitchError) -> EngineError {
    EngineError::refused(Path::new(&error.leg), error.detail)
}

/// How far the look at everything is.
#[derive(Clone, Copy, Debug, Default)]
struct Sweep {
    /// What comes next, while it is under way.
    at: Option<At>,
    /// When it was begun last; none: never by this daemon.
    begun: Option<Timestamp>,
    /// Something was missed: once more, when this one is through.
    again: bool,
    /// It was through once.
    done: bool,
}

#[derive(Clone, Copy, Debug)]
enum At {
    /// Stored joins behind this one.
    Stored(i64),
    /// Calls behind this cursor.
    Calls(u64),
}

struct Keeper {
    shared: Arc<Shared>,
    kept: Arc<Kept>,
    options: JoinOptions,
    /// Recordings that are to be looked at.
    changed: Changed,
    /// How far call records were listened to.
    position: u64,
    /// So many pages of what was heard followed one another.
    heard_pages: usize,
    /// How far those that are being made, and those to be deleted, were looked at.
    behind: [i64; 2],
    sweep: Sweep,
    /// Calls that are not stored yet.
    later: Later<Vec<u8>>,
    /// Stored joins that could not be deleted, or made whole again.
    stays: Later<i64>,
    /// Targets of which it could not be told yet which joins they have.
    lists: Later<String>,
    /// How many objects of a target no key opened, when it was asked for its joins.
    unopened: BTreeMap<String, u64>,
    bad: u64,
}

impl Keeper {
    fn run(mut self) {
        let shared = Arc::clone(&self.shared);
        // From now on what changes is remembered; all before that the sweep sees.
        self.changed = shared.catalog.take_changed();
        let mut failures = 0;
        loop {
            let since = Instant::now();
            let rest = |more: bool| {
                let rest = (since.elapsed() * REST).min(REST_MAX);
                if more { rest } else { rest.max(ROUND) }
            };
            let wait = match contained("storing joined calls", || self.round()) {
                Ok(more) => {
                    failures = 0;
                    rest(more)
                }
                Err(EngineError::Stopping) => return,
                Err(error) => {
                    failures += 1;
                    self.sweep.again = true;
                    tracing::debug!(%error, "joined calls are looked after later");
                    backoff::after(failures).max(ROUND)
                }
            };
            if shared.stop.wait(wait) {
                return;
            }
        }
    }

    /// Looks at a page of each; whether there is more.
    fn round(&mut self) -> Result<bool> {
        // What a target has of a call may be more than can be made of what is left of it.
        let maker = match self.find_again()? {
            true => self.maker(),
            false => None,
        };
        let mut more = self.look_at_changed(maker.as_deref())?;
        for (index, state) in [KeptState::Making, KeptState::Old].into_iter().enumerate() {
            more |= self.look_at_unfinished(index, state)?;
        }
        if let Some(maker) = &maker {
            more |= self.look_at_heard(maker)?;
            for call in self.later.due(self.shared.now(), limits::STITCH_PAGE) {
                self.look_at(maker, &call, false)?;
            }
        }
        self.prove_some()?;
        more |= self.sweep(maker.as_deref())?;
        *self.shared.joined.lock() = JoinStatus {
            waiting: self.later.waiting() as u64,
            failing: (self.later.failing() + self.stays.failing()) as u64,
            bad: self.bad,
            unopened: self.unopened.values().sum(),
            swept: self.sweep.done,
            ..JoinStatus::default()
        };
        Ok(more)
    }

    /// What makes joins; none if none are to be made, or no target must have them.
    fn maker(&self) -> Option<Arc<Stitched>> {
        self.options.maker.clone().filter(|_| !self.shared.required.is_empty())
    }

    /// Recordings that were changed since.
    fn look_at_changed(&mut self, maker: Option<&Stitched>) -> Result<bool> {
        let changed = self.shared.catalog.take_changed();
        self.changed.nodes.extend(changed.nodes);
        self.sweep.again |= changed.more;
        while self.changed.nodes.len() > limits::CHANGED_NODES_MAX {
            self.changed.nodes.pop_first();
            self.sweep.again = true;
        }
        self.sweep.again |= maker.is_none() && self.maker().is_some();
        for _ in 0..limits::STITCH_PAGE {
            // The newest first: a new call does not wait for a whole tree that was adopted.
            let Some(node) = self.changed.nodes.pop_last() else { return Ok(false) };
            let joins = self.kept.about(None, &[node]).map_err(failed)?;
            for join in &joins {
                self.look_after(join.id)?;
            }
            let Some(maker) = maker else { continue };
            for call in maker.calls_of(node).map_err(failed)? {
                if !joins.iter().any(|join| join.call == call) {
                    self.look_at(maker, &call, true)?;
                }
            }
        }
        Ok(!self.changed.nodes.is_empty())
    }

    /// Joins that are being made, or to be deleted.
    fn look_at_unfinished(&mut self, index: usize, state: KeptState) -> Result<bool> {
        let Some(behind) = self.behind.get_mut(index) else { return Ok(false) };
        let page = self.kept.in_state(state, *behind, limits::STITCH_PAGE).map_err(failed)?;
        let more = page.len() == limits::STITCH_PAGE;
        *behind = page.last().filter(|_| more).map_or(0, |join| join.id);
        for join in page {
            self.look_after(join.id)?;
        }
        Ok(more)
    }

    /// Calls of which something was heard since.
    fn look_at_heard(&mut self, maker: &Stitched) -> Result<bool> {
        let heard = maker.heard_after(self.position).map_err(failed)?;
        let before = std::mem::replace(&mut self.position, heard.position);
        // Call records were read anew: what was heard in between is not known.
        self.sweep.again |= heard.position < before && before != u64::MAX;
        for call in &heard.calls {
            self.look_at(maker, call, true)?;
        }
        let more = heard.calls.len() >= limits::STITCH_PAGE;
        self.heard_pages = if more { self.heard_pages + 1 } else { 0 };
        if self.heard_pages >= limits::JOIN_HEARD_PAGES_MAX {
            // Records of years are read: a new call does not wait for them, the sweep looks at them.
            self.heard_pages = 0;
            self.position = maker.heard_after(u64::MAX).map_err(failed)?.position;
            self.sweep.again = true;
        }
        Ok(more)
    }

    /// A page of everything, if its time has come.
    fn sweep(&mut self, maker: Option<&Stitched>) -> Result<bool> {
        let now = self.shared.now();
        let due = |begun: Timestamp| {
            // Begun later than now: the clock was moved back.
            self.sweep.again || begun > now || begun.plus(limits::JOIN_SWEEP_EVERY) <= now
        };
        let next = match self.sweep.at {
            Some(at) => at,
            None if self.sweep.begun.is_none_or(due) => {
                self.sweep.again = false;
                self.sweep.begun = Some(now);
                At::Stored(0)
            }
            None => return Ok(false),
        };
        let next = match next {
            At::Stored(after) => {
                let page = self.kept.after(after, limits::STITCH_PAGE).map_err(failed)?;
                let next = page.last().map_or(At::Calls(0), |last| At::Stored(last.id));
                for join in page {
                    self.look_after(join.id)?;
                }
                Some(next)
            }
            At::Calls(cursor) => match (maker, self.maker()) {
                (Some(maker), _) => {
                    let calls = maker.calls_after(cursor).map_err(failed)?;
                    for call in &calls {
                        self.look_at(maker, &call.linkedid, false)?;
                    }
                    calls.last().map(|last| At::Calls(last.cursor))
                }
                // A target is waited for.
                (None, Some(_)) => {
                    self.sweep.at = Some(At::Calls(cursor));
                    return Ok(false);
                }
                (None, None) => None,
            },
        };
        self.sweep.at = next;
        self.sweep.done |= next.is_none();
        Ok(next.is_some())
    }

    /// Asks targets once what they have, if it was lost here. Whether all were asked that must have
    /// it. What can not be told of one keeps nothing else; what no key opens is asked for again from time
    /// to time, and by the next daemon.
    fn find_again(&mut self) -> Result<bool> {
        let (mut all, now) = (true, self.shared.now());
        let shared = Arc::clone(&self.shared);
        for target in &shared.targets {
            let name = target.name().to_owned();
            let is_listed = self.kept.is_listed(&name).map_err(failed)?;
            if is_listed && !self.unopened.contains_key(&name) {
                continue;
            }
            let is_time = target.is_up() && !self.lists.is_put_off(&name, now);
            match is_time.then(|| objects::find_again(&shared, &self.kept, target, &mut self.bad)) {
                Some(Ok(0)) => {
                    self.kept.was_listed(&name).map_err(failed)?;
                    self.unopened.remove(&name);
                    self.lists.done(&name);
                }
                Some(Ok(unopened)) => {
                    self.kept.was_asked(&name);
                    self.lists.failed(&name, now, Some(limits::JOIN_LOOK_AGAIN_MAX));
                    self.unopened.insert(name, unopened);
                }
                Some(Err(error @ (EngineError::Stopping | EngineError::Catalog(_)))) => {
                    return Err(error);
                }
                Some(Err(error)) => {
                    tracing::warn!(target = name, %error, "which joins a target has is asked again later");
                    self.lists.failed(&name, now, None);
                    all &= is_listed || !target.required;
                }
                None => all &= is_listed || !target.required,
            }
        }
        Ok(all)
    }
}
