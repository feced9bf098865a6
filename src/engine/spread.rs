//! Bringing released recordings to targets that must hold them and do not: their bytes come from
//! another target. What is still local is brought by `fill`.
//!
//! All are looked at when the rules or the required targets are others than they were when nothing
//! lacked, over restarts, too; and where rules name targets once a day, since what is known of calls
//! changes.

use super::backoff;
use super::contain::contained;
use super::error::{EngineError, Result};
use super::mend;
use super::shared::Shared;
use super::space::Pressure;
use super::target::Target;
use super::worm;
use crate::catalog::{Candidate, ObjectRow, ObjectState};
use crate::limits;
use crate::recording::{NodeId, State};
use crate::store::{self, StoreErrorKind};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How often it is looked whether it is time.
const LOOK: Duration = Duration::from_millis(200);
/// How often all are looked at while the rules stay what they are.
const EVERY: Duration = Duration::from_secs(86_400);
/// Longest rest after a page.
const REST_MAX: Duration = Duration::from_secs(1);
/// All are looked at again no sooner than after so many times what it took.
const REST_TIMES: u32 = 20;
/// Setting of the catalog: for which rules and required targets nothing lacked.
const SETTLED: &str = "targets.settled";

/// Until the engine stops.
pub(super) fn run(shared: &Shared) {
    let mut rules = None;
    let mut next = shared.now();
    let mut failures = 0;
    while !shared.stop.wait(LOOK) {
        let configured = Arc::clone(&shared.configured.read());
        let same = rules.as_ref().is_some_and(|known| Arc::ptr_eq(known, &configured));
        if (same && next > shared.now()) || is_not_the_time(shared) {
            continue;
        }
        let digest = configured.targets_digest(&shared.required);
        let names = configured.name_targets();
        rules = Some(configured);
        let began = Instant::now();
        let swept = contained("bringing recordings to more targets", || {
            if !names && shared.catalog.setting(SETTLED)?.as_deref() == Some(&*digest) {
                return Ok(true);
            }
            let all = sweep(shared)?;
            if all {
                shared.catalog.set_setting(SETTLED, &digest)?;
            }
            Ok(all)
        });
        next = match swept {
            Ok(true) => {
                failures = 0;
                shared.now().plus(EVERY)
            }
            Err(EngineError::Stopping) => return,
            failed => {
                failures += 1;
                tracing::debug!(?failed, "some targets lack recordings; it is tried again");
                let rest = began.elapsed().saturating_mul(REST_TIMES);
                shared.now().plus(backoff::after(failures).max(rest.min(EVERY)))
            }
        };
    }
}

fn is_not_the_time(shared: &Shared) -> bool {
    shared.uploads_are_off() || shared.space.pressure() != Pressure::None
}

/// Looks at all released recordings. Whether none is left that a target lacks.
fn sweep(shared: &Shared) -> Result<bool> {
    let (mut after, mut lacking, mut why) = (NodeId(0), 0_u64, None);
    loop {
        let began = Instant::now();
        let page = shared.catalog.files(after, limits::PLAN_PAGE_ROWS)?;
        let Some(last) = page.last() else { break };
        after = *last;
        for id in page {
            shared.check_stop()?;
            if is_not_the_time(shared) {
                return Ok(false);
            }
            match one(shared, id) {
                Ok(true) => {}
                Ok(false) => lacking += 1,
                Err(error @ (EngineError::Stopping | EngineError::Catalog(_))) => {
                    return Err(error);
                }
                Err(error) => {
                    lacking += 1;
                    why.get_or_insert(error);
                }
            }
        }
        // Others want the catalog, too.
        if shared.stop.wait(began.elapsed().min(REST_MAX)) {
            return Err(EngineError::Stopping);
        }
    }
    if let Some(error) = why {
        tracing::warn!(%error, lacking, "released recordings lack a target that must hold them");
    }
    Ok(lacking == 0)
}

/// Whether no target lacks it now.
fn one(shared: &Shared, id: NodeId) -> Result<bool> {
    if shared.catalog.node(id)?.is_none_or(|row| row.state != State::Released) {
        return Ok(true);
    }
    let Some(it) = shared.candidate(id)?.filter(|it| !it.trashed) else { return Ok(true) };
    let must = shared.targets_of(&it)?.must;
    let lacking = shared.lacking(&it, &must)?;
    // A copy is not taken back when it turns out whose rule it is.
    let may_stay = lacking.len() < must.len() && !shared.is_rule_known(&it);
    if lacking.is_empty() || may_stay {
        return Ok(true);
    }
    let is_early = it.not_before.is_some_and(|time| time > shared.now());
    if is_early || lacking.iter().all(|target| !target.is_up()) {
        return Ok(false);
    }
    let Some(_claim) = shared.claims.try_claim(&[id]) else { return Ok(false) };
    let Some(it) = shared.candidate(id)?.filter(|it| it.row.state == State::Released) else {
        return Ok(false);
    };
    match bring(shared, &it) {
        Ok(()) if it.not_before.is_some() => shared.catalog.succeeded(id)?,
        Ok(()) => {}
        Err(error @ (EngineError::Stopping | EngineError::Catalog(_))) => return Err(error),
        Err(error) => {
            shared.note_failure(id, &error);
            return Err(error);
        }
    }
    Ok(true)
}

/// Whether a target has it under a key of which that is not known, as after a rebuild from others: then
/// nothing is fetched.
fn has_it(shared: &Shared, it: &Candidate, target: &Target) -> Result<bool> {
    let objects = shared.catalog.objects(it.row.id, Some(it.row.generation))?;
    let assigned = |o: &ObjectRow| o.target == target.name() && o.state == ObjectState::Assigned;
    let Some(object) = objects.into_iter().find(assigned) else { return Ok(false) };
    let stored = &object.stored;
    let proof = store::verify(&*target.store, &object.key, stored.size, stored.sha256);
    match shared.ask(target, proof) {
        Ok(_) => {
            worm::lock(shared, target, &object.key, worm::wanted(shared, it))?;
            shared.catalog.verified(object.id, shared.now())?;
            Ok(true)
        }
        Err(EngineError::Store(e)) if e.kind == StoreErrorKind::NotFound => Ok(false),
        // Without its key of SSE-C it can not be told what it is. It is left alone as soon as there is a
        // copy to put beside it.
        Err(EngineError::Store(e)) if e.kind == StoreErrorKind::Locked => Ok(false),
        Err(EngineError::Store(e)) if e.kind == StoreErrorKind::Corrupt => {
            shared.catalog.abandon_key(object.id)?;
            Ok(false)
        }
        Err(error) => Err(error),
    }
}

/// Brings a released recording to all targets that must hold it. The caller has a claim on it.
///
/// # Errors
/// A target is down or refuses it; no target can give it; `Catalog`, `Stopping`.
pub(super) fn bring(shared: &Shared, it: &Candidate) -> Result<()> {
    let wanted = shared.targets_of(it)?;
    let mut failed = Ok(());
    for target in shared.lacking(it, &wanted.must)? {
        if !target.is_up() {
            failed = Err(target.trouble().into());
            continue;
        }
        let given = match has_it(shared, it, target) {
            Ok(true) => Ok(()),
            Ok(false) => mend::give(shared, it, target),
            Err(error) => Err(error),
        };
        target.was_given(it.row.id, &given, shared.now());
        match given {
            Ok(()) if shared.catalog.is_held(it.row.id) => target.locks.look(&[it.row.id]),
            Ok(()) => {}
            Err(error @ (EngineError::Stopping | EngineError::Catalog(_))) => return Err(error),
            Err(error) => failed = Err(error),
        }
    }
    failed
}
