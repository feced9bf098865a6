//! Bringing released recordings to targets that their rule wants them in and that lack them: their
//! bytes come from another target. What is still local is brought by `fill`.
//!
//! All are looked at after the rules changed, and once a day, since what is known of calls changes,
//! too. Where no rule names targets there is nothing to do.

use super::backoff;
use super::contain::contained;
use super::error::{EngineError, Result};
use super::mend;
use super::shared::Shared;
use super::space::Pressure;
use crate::catalog::Candidate;
use crate::limits;
use crate::recording::{NodeId, State};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How often it is looked whether it is time.
const LOOK: Duration = Duration::from_millis(200);
/// How often all are looked at while the rules stay what they are.
const EVERY: Duration = Duration::from_secs(86_400);
/// Longest rest after a page.
const REST_MAX: Duration = Duration::from_secs(1);

/// Until the engine stops.
pub(super) fn run(shared: &Shared) {
    let mut rules = None;
    let mut next = shared.now();
    let mut failures = 0;
    while !shared.stop.wait(LOOK) {
        let configured = Arc::clone(&shared.configured.read());
        let same = rules.as_ref().is_some_and(|known| Arc::ptr_eq(known, &configured));
        let waits = same && next > shared.now();
        if waits || !configured.name_targets() || is_not_the_time(shared) {
            continue;
        }
        rules = Some(configured);
        next = match contained("bringing recordings to more targets", || sweep(shared)) {
            Ok(true) => {
                failures = 0;
                shared.now().plus(EVERY)
            }
            Err(EngineError::Stopping) => return,
            failed => {
                failures += 1;
                tracing::debug!(?failed, "some targets lack recordings; it is tried again");
                shared.now().plus(backoff::after(failures))
            }
        };
    }
}

fn is_not_the_time(shared: &Shared) -> bool {
    shared.uploads_are_off() || shared.space.pressure() != Pressure::None
}

/// Looks at all released recordings. Whether none is left that a target lacks.
fn sweep(shared: &Shared) -> Result<bool> {
    let (mut after, mut all) = (NodeId(0), true);
    loop {
        let began = Instant::now();
        let page = shared.catalog.files(after, limits::PLAN_PAGE_ROWS)?;
        let Some(last) = page.last() else { return Ok(all) };
        after = *last;
        for id in page {
            shared.check_stop()?;
            if is_not_the_time(shared) {
                return Ok(false);
            }
            match one(shared, id) {
                Ok(done) => all &= done,
                Err(error @ (EngineError::Stopping | EngineError::Catalog(_))) => {
                    return Err(error);
                }
                Err(error) => {
                    tracing::warn!(%error, "a target lacks a recording that its rule wants there");
                    all = false;
                }
            }
        }
        // Others want the catalog, too.
        if shared.stop.wait(began.elapsed().min(REST_MAX)) {
            return Err(EngineError::Stopping);
        }
    }
}

fn one(shared: &Shared, id: NodeId) -> Result<bool> {
    if shared.catalog.node(id)?.is_none_or(|row| row.state != State::Released) {
        return Ok(true);
    }
    let Some(it) = shared.candidate(id)?.filter(|it| !it.trashed) else { return Ok(true) };
    if shared.lacking(&it, &shared.targets_of(&it)?.must)?.is_empty() {
        return Ok(true);
    }
    let Some(_claim) = shared.claims.try_claim(&[id]) else { return Ok(false) };
    match shared.candidate(id)? {
        Some(it) if it.row.state == State::Released => bring(shared, &it).map(|()| true),
        _ => Ok(false),
    }
}

/// Brings a released recording to all targets that must hold it. The caller has a claim on it.
///
/// # Errors
/// A target is down or refuses it; no target can give it; `Catalog`, `Stopping`.
pub(super) fn bring(shared: &Shared, it: &Candidate) -> Result<()> {
    let wanted = shared.targets_of(it)?;
    for target in shared.lacking(it, &wanted.must)? {
        if !target.is_up() {
            return Err(target.trouble().into());
        }
        mend::give(shared, it, target)?;
        if shared.catalog.is_held(it.row.id) {
            target.locks.look(&[it.row.id]);
        }
    }
    Ok(())
}
