//! `worm` for what was archived before the rules asked for it: all is looked at once for each set of
//! rules and each target, at a bounded rate, and goes on where it was after a restart. What is
//! archived by these rules is locked before it counts (`worm`).

use super::contain::contained;
use super::error::{EngineError, Result};
use super::hash::Pace;
use super::shared::Shared;
use super::target::Target;
use super::{backoff, locks, worm};
use crate::catalog::ObjectState;
use crate::limits;
use crate::policy::Rules;
use crate::recording::{NodeId, State};
use crate::store::Locks;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// How often it is looked whether it is time.
const LOOK: Duration = Duration::from_millis(500);
/// How often all is looked at again of which a target refused something, or that can not lock.
const EVERY: Duration = Duration::from_secs(86_400);

/// How far it is in a target, as the catalog remembers it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Walked {
    /// By which rules.
    rules: String,
    /// The last node that was looked at.
    after: u64,
    /// Those before it with which something else was done then.
    #[serde(default)]
    busy: BTreeSet<u64>,
    /// Nothing is left.
    done: bool,
    /// The target refused something.
    refused: bool,
}

fn setting(target: &Target) -> String {
    format!("worm.{}", target.name())
}

/// Something is archived without its lock, since the target can not lock: should it be able to later,
/// all is looked at again.
pub(super) fn missed(shared: &Shared, target: &Target, why: &str) -> Result<()> {
    if target.locks.missed.swap(true, Ordering::Relaxed) {
        return Ok(());
    }
    let name = target.name();
    tracing::warn!(target = name, why, "what a rule says `worm` of is archived without a lock");
    Ok(shared.catalog.set_setting(&setting(target), "")?)
}

/// Until the engine stops.
pub(super) fn run(shared: &Shared) {
    let (mut rules, mut next, mut failures) = (None, shared.now(), 0);
    while !shared.stop.wait(LOOK) {
        let configured = Arc::clone(&shared.configured.read());
        let same = rules.as_ref().is_some_and(|known| Arc::ptr_eq(known, &configured));
        if !configured.has_worm() || (same && next > shared.now()) {
            continue;
        }
        rules = Some(Arc::clone(&configured));
        next = match contained("locking what was archived before", || sweep(shared, &configured)) {
            Ok(()) => {
                failures = 0;
                shared.now().plus(EVERY)
            }
            Err(EngineError::Stopping) => return,
            Err(error) => {
                failures += 1;
                tracing::debug!(%error, "what was archived before a rule is locked later");
                shared.now().plus(backoff::after(failures))
            }
        };
    }
}

fn sweep(shared: &Shared, rules: &Arc<Rules>) -> Result<()> {
    let mut failed = Ok(());
    for target in &shared.targets {
        match in_target(shared, rules, target) {
            Err(error @ (EngineError::Stopping | EngineError::Catalog(_))) => return Err(error),
            Err(error) => failed = Err(error),
            Ok(()) => {}
        }
    }
    failed
}

fn in_target(shared: &Shared, rules: &Arc<Rules>, target: &Arc<Target>) -> Result<()> {
    let setting = setting(target);
    let told = shared.catalog.setting(&setting)?;
    let told = told.and_then(|text| serde_json::from_str::<Walked>(&text).ok());
    let digest = rules.worm_digest();
    let mut walked = told
        .filter(|told| told.rules == digest)
        .unwrap_or_else(|| Walked { rules: digest, ..Walked::default() });
    if walked.done {
        return Ok(());
    }
    if !target.is_up() {
        return Err(target.trouble().into());
    }
    if locks::ability(shared, target)? != Locks::Yes {
        return Ok(());
    }
    target.locks.missed.store(false, Ordering::Relaxed);
    let keep = |walked: &Walked| -> Result<()> {
        let text = serde_json::to_string(walked).unwrap_or_default();
        Ok(shared.catalog.set_setting(&setting, &text)?)
    };
    let mut pace = Pace::new(limits::WORM_LATER_PER_SECOND);
    let mut locked = 0_u64;
    loop {
        let page = match walked.busy.len() < limits::PLAN_PAGE_ROWS {
            true => shared.catalog.files(NodeId(walked.after), limits::PLAN_PAGE_ROWS)?,
            false => Vec::new(),
        };
        let last = page.last().copied();
        // Those that were busy come when all others were looked at, or when they are very many.
        let page = match last {
            Some(_) => page,
            None => std::mem::take(&mut walked.busy).into_iter().map(NodeId).collect(),
        };
        if page.is_empty() {
            break;
        }
        for id in page {
            shared.check_stop()?;
            if !Arc::ptr_eq(rules, &shared.configured.read()) {
                return Ok(());
            }
            match one(shared, target, id) {
                Ok(Looked::Left) => continue,
                Ok(Looked::Busy) => {
                    walked.busy.insert(id.0);
                    continue;
                }
                Ok(Looked::Asked) => locked += 1,
                Err(error @ EngineError::Store(_)) if !error.is_target_down() => {
                    walked.refused = true;
                    tracing::warn!(%error, "what was archived before a rule said `worm` is not locked");
                }
                Err(error) => return Err(error),
            }
            if shared.stop.wait(pace.after(1)) {
                return Err(EngineError::Stopping);
            }
        }
        walked.after = last.map_or(walked.after, |last| last.0);
        keep(&walked)?;
        if last.is_none() && !walked.busy.is_empty() {
            let why = format!("something else is being done with {} of them", walked.busy.len());
            return Err(EngineError::refused(Path::new("worm"), why));
        }
    }
    let target = target.name();
    tracing::info!(target, locked, "what was archived before the rules said `worm` was looked at");
    // What was refused is tried again in a day.
    let done = !walked.refused;
    keep(&Walked { done, after: 0, refused: false, ..walked })
}

/// What became of a recording.
enum Looked {
    /// Its target was asked.
    Asked,
    /// There is nothing to lock.
    Left,
    /// Something else is being done with it: it is to be looked at again.
    Busy,
}

/// Locks what a target has of a recording as it is now.
fn one(shared: &Shared, target: &Target, id: NodeId) -> Result<Looked> {
    // Who stores it anew may be about to give it another object.
    let Some(_claim) = shared.claims.try_claim(&[id]) else { return Ok(Looked::Busy) };
    let Some(it) = shared.candidate(id)? else { return Ok(Looked::Left) };
    if it.trashed || !matches!(it.row.state, State::Archived | State::Released) {
        return Ok(Looked::Left);
    }
    let wanted = worm::wanted(shared, &it);
    if let Some(why) = shared.calls.trouble() {
        // It might get a longer lock than its own, which can not be taken back.
        return Err(EngineError::refused(&it.path, why));
    }
    let objects = shared.catalog.objects(id, Some(it.row.generation))?;
    let here = |o: &&crate::catalog::ObjectRow| {
        o.target == target.name() && o.state == ObjectState::Verified
    };
    match (wanted, objects.iter().find(here)) {
        (Some(wanted), Some(object)) => {
            worm::lock(shared, target, &object.key, Some(wanted)).map(|()| Looked::Asked)
        }
        _ => Ok(Looked::Left),
    }
}
