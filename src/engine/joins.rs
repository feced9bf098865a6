//! Stored joins (docs/STITCHED.md, "Storing joins"): the joins of calls that are over are put into the
//! targets, made anew after a change, and deleted with the last of their recordings.
//!
//! **Invariant:** a stored join is deleted only if another took its place, or if the catalog says that
//! its recordings are deleted, all of them or one by its user; never while one of them is on legal
//! hold; and only if the object itself says that it is this join.

mod fate;
mod given;
mod objects;

use super::Engine;
use super::backoff;
use super::contain::contained;
use super::error::{EngineError, Result};
use super::recall::check_room;
use super::shared::Shared;
use super::space::Pressure;
use crate::clock::Timestamp;
use crate::limits;
use crate::recording::{NodeId, State};
use crate::stitch::{Kept, KeptJoin, KeptState, NewJoin, StitchError, Stitched, Whole};
use fate::Fate;
use std::collections::HashMap;
use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Between two rounds. Also what a test waits for.
const ROUND: Duration = Duration::from_secs(2);
/// It rests so many times as long as it looks.
const REST: u32 = 49;
/// Longest rest at once.
const REST_MAX: Duration = Duration::from_secs(5);

impl Engine {
    /// Looks after the joins that are stored; with a `maker` stores those of calls that are over.
    ///
    /// # Errors
    /// `Thread` if it can not be started.
    pub fn keep_joins(&self, maker: Option<Arc<Stitched>>) -> Result<()> {
        let Some(kept) = self.shared.joins.clone() else { return Ok(()) };
        let shared = Arc::clone(&self.shared);
        let keeper = Keeper { shared, kept, maker, put_off: HashMap::new(), stays: HashMap::new() };
        self.spawn("joins", move || keeper.run()).map_err(EngineError::Thread)
    }
}

/// What users delete for good is not to be shown, nor kept, in a stored join. To be called before it
/// is deleted; if it stays, the join is made anew with it.
pub(super) fn erased(shared: &Shared, nodes: &[NodeId]) -> Result<()> {
    let Some(kept) = &shared.joins else { return Ok(()) };
    kept.erased(nodes, true).map_err(failed)
}

fn failed(error: StitchError) -> EngineError {
    EngineError::refused(Path::new(&error.leg), error.detail)
}

/// What became of a call that was looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Made {
    /// Its join is where it must be.
    Stored,
    /// There is nothing to join.
    Needless,
    /// It goes on, or a recording can not be had now.
    NotYet,
}

struct Keeper {
    shared: Arc<Shared>,
    kept: Arc<Kept>,
    /// None: no more are stored.
    maker: Option<Arc<Stitched>>,
    /// Calls that could not be stored: how often, and until when they are left alone.
    put_off: HashMap<Vec<u8>, (u32, Timestamp)>,
    /// The same for stored joins that could not be deleted.
    stays: HashMap<i64, (u32, Timestamp)>,
}

impl Keeper {
    fn run(mut self) {
        let shared = Arc::clone(&self.shared);
        let mut failures = 0;
        loop {
            let wait = match contained("storing joined calls", || self.round()) {
                Ok(()) => {
                    failures = 0;
                    ROUND
                }
                Err(EngineError::Stopping) => return,
                Err(error) => {
                    failures += 1;
                    tracing::debug!(%error, "joined calls are looked after later");
                    backoff::after(failures).max(ROUND)
                }
            };
            if shared.stop.wait(wait) {
                return;
            }
        }
    }

    fn round(&mut self) -> Result<()> {
        if self.shared.required.is_empty() {
            return Ok(());
        }
        let asked = self.find_again()?;
        self.look_after_stored()?;
        // What a target has of a call may be more than can be made of what is left of it.
        if asked { self.store_new() } else { Ok(()) }
    }

    /// Lets others have their turn. An error if the engine stops.
    fn rest(&self, since: Instant) -> Result<()> {
        let rest = (since.elapsed() * REST).min(REST_MAX);
        if self.shared.stop.wait(rest) { Err(EngineError::Stopping) } else { Ok(()) }
    }

    fn look_after_stored(&mut self) -> Result<()> {
        let mut after = 0;
        loop {
            let since = Instant::now();
            let page = self.kept.after(after, limits::STITCH_PAGE).map_err(failed)?;
            let Some(last) = page.last() else { return Ok(()) };
            after = last.id;
            for join in page {
                self.shared.check_stop()?;
                match self.look_after(&join) {
                    Err(error @ (EngineError::Stopping | EngineError::Catalog(_))) => {
                        return Err(error);
                    }
                    // What keeps one does not keep the others.
                    Err(error) => tracing::debug!(%error, "a stored join stays as it is for now"),
                    Ok(()) => {}
                }
            }
            self.rest(since)?;
        }
    }

    fn look_after(&mut self, join: &KeptJoin) -> Result<()> {
        let (kept, id) = (Arc::clone(&self.kept), join.id);
        if join.state == KeptState::Old {
            return self.delete(join);
        }
        let standings = fate::standings(&self.shared, &kept, join)?;
        match fate::decide(&standings) {
            Fate::Unknown => Ok(()),
            Fate::Whole => self.keep_whole(join),
            Fate::Shown | Fate::Hidden if join.state == KeptState::Making => {
                kept.retire(id).map_err(failed)
            }
            fate @ (Fate::Shown | Fate::Hidden) => {
                let shown = fate == Fate::Shown;
                if join.shown != shown { kept.show(id, shown).map_err(failed) } else { Ok(()) }
            }
            Fate::Erased => kept.retire(id).map_err(failed),
        }
    }

    /// Deletes what is wanted no more, unless that was tried in vain a moment ago: each time is on
    /// record.
    fn delete(&mut self, join: &KeptJoin) -> Result<()> {
        let now = self.shared.now();
        let (failures, until) = self.stays.get(&join.id).copied().unwrap_or((0, now));
        if until > now {
            return Ok(());
        }
        let deleted = objects::delete(&self.shared, &self.kept, join);
        match &deleted {
            Ok(()) => drop(self.stays.remove(&join.id)),
            Err(error) => {
                // What is locked there stays so for long.
                let wait = match error.is_refused_object() {
                    true => limits::JOIN_REFUSED_RETRY,
                    false => backoff::after(failures + 1),
                };
                if self.stays.len() >= limits::JOIN_PUT_OFF_MAX {
                    self.stays.clear();
                }
                self.stays.insert(join.id, (failures + 1, now.plus(wait)));
            }
        }
        deleted
    }

    /// No recording of it has expired: it is what would be shown, or is made anew.
    fn keep_whole(&mut self, join: &KeptJoin) -> Result<()> {
        let (kept, id) = (Arc::clone(&self.kept), join.id);
        if join.shown {
            kept.show(id, false).map_err(failed)?;
        }
        let Some(maker) = self.maker.clone() else { return Ok(()) };
        let now = maker.whole(&join.call, false).map_err(failed)?;
        let same = now.as_ref().is_some_and(|now| now.plan.digest() == join.plan.digest());
        match (join.state, same) {
            (KeptState::Making, false) => kept.retire(id).map_err(failed),
            (KeptState::Making, true) | (_, false) => match self.make(&maker, &join.call)? {
                Made::Needless => kept.retire(id).map_err(failed),
                Made::Stored | Made::NotYet => Ok(()),
            },
            (_, true) => Ok(()),
        }
    }

    fn store_new(&mut self) -> Result<()> {
        let Some(maker) = self.maker.clone() else { return Ok(()) };
        let mut cursor = 0;
        loop {
            let since = Instant::now();
            let calls = maker.calls_after(cursor).map_err(failed)?;
            let Some(last) = calls.last() else { return Ok(()) };
            cursor = last.cursor;
            for call in calls {
                self.shared.check_stop()?;
                let nodes: Vec<NodeId> = call.legs.iter().map(|leg| leg.node).collect();
                if !self.kept.is_of(&nodes).map_err(failed)? {
                    self.make(&maker, &call.linkedid)?;
                }
            }
            self.rest(since)?;
        }
    }

    /// Stores the join of a call, unless it was tried in vain a moment ago.
    fn make(&mut self, maker: &Stitched, call: &[u8]) -> Result<Made> {
        let now = self.shared.now();
        let (failures, until) = self.put_off.get(call).copied().unwrap_or((0, now));
        if until > now {
            return Ok(Made::NotYet);
        }
        match make(&self.shared, &self.kept, maker, call) {
            Err(error @ (EngineError::Stopping | EngineError::Catalog(_))) => Err(error),
            Err(error) => {
                tracing::debug!(%error, "the join of a call is stored later");
                if self.put_off.len() >= limits::JOIN_PUT_OFF_MAX {
                    self.put_off.clear();
                }
                let until = now.plus(backoff::after(failures + 1));
                self.put_off.insert(call.to_vec(), (failures + 1, until));
                Ok(Made::NotYet)
            }
            Ok(Made::Stored) => {
                self.put_off.remove(call);
                Ok(Made::Stored)
            }
            made => made,
        }
    }

    /// Asks targets once what they have, if it was lost here. Whether all were asked that must have
    /// it.
    fn find_again(&mut self) -> Result<bool> {
        let mut all = true;
        for target in &self.shared.targets {
            if self.kept.is_listed(target.name()).map_err(failed)? {
                continue;
            }
            if target.is_up() {
                objects::find_again(&self.shared, &self.kept, target)?;
                self.kept.was_listed(target.name()).map_err(failed)?;
            } else {
                all &= !target.required;
            }
        }
        Ok(all)
    }
}

fn make(shared: &Shared, kept: &Kept, maker: &Stitched, call: &[u8]) -> Result<Made> {
    if shared.uploads_are_off() || shared.space.pressure() != Pressure::None {
        return Ok(Made::NotYet);
    }
    // A join goes to all targets. The configuration allows only one of the two, but rules are in
    // force sooner than the rest of it.
    if shared.rules().name_targets() {
        return Ok(Made::NotYet);
    }
    if !maker.is_complete(call).map_err(failed)? {
        return Ok(Made::NotYet);
    }
    let Some(whole) = maker.whole(call, true).map_err(failed)? else { return Ok(Made::NotYet) };
    if whole.goes_on() || !are_archived(shared, &whole)? {
        return Ok(Made::NotYet);
    }
    if !whole.is_worth_storing() {
        return Ok(Made::Needless);
    }
    let (new, file) = copy(shared, maker, call, whole)?;
    let id = kept.begin(&new).map_err(failed)?;
    if !given::give(shared, kept, id, &new, &file)? {
        return Ok(Made::NotYet);
    }
    // Asked after the recordings were: what one of these has, and this one has not, expired meanwhile.
    for join in kept.replaced_by(id).map_err(failed)? {
        let fate = fate::decide(&fate::standings(shared, kept, &join)?);
        if matches!(fate, Fate::Shown | Fate::Hidden) {
            kept.retire(id).map_err(failed)?;
            return Ok(Made::NotYet);
        }
    }
    kept.stored(id).map_err(failed)?;
    Ok(Made::Stored)
}

/// Whether all of its recordings are archived: of what never was, nothing tells that it is deleted.
fn are_archived(shared: &Shared, whole: &Whole) -> Result<bool> {
    for leg in &whole.plan.legs {
        let row = shared.catalog.node(leg.node)?;
        if !row.is_some_and(|row| matches!(row.state, State::Archived | State::Released)) {
            return Ok(false);
        }
    }
    Ok(true)
}

/// The join, in a file without a name.
fn copy(
    shared: &Shared,
    maker: &Stitched,
    call: &[u8],
    whole: Whole,
) -> Result<(NewJoin, Arc<File>)> {
    check_room(shared, Path::new(".spl/stage"), whole.plan.len())?;
    let file = shared.lower.scratch()?;
    let mut out = &file;
    let mut write = |bytes: &[u8]| {
        let since = Instant::now();
        out.write_all(bytes)?;
        // Half of the disk at most is taken from those who record.
        match shared.stop.wait(since.elapsed().min(REST_MAX)) {
            true => Err(std::io::ErrorKind::Interrupted.into()),
            false => Ok(()),
        }
    };
    let new = maker.copy(call, whole, &mut write);
    shared.check_stop()?;
    Ok((new.map_err(failed)?, Arc::new(file)))
}
