//! Deleting objects that others took the place of (`rewrite`), and what was left when that was cut off.
//!
//! **Invariant:** an object is deleted only if its target has another of the same content, proved in
//! this moment, which its journal tells of; if no hold is on the recording; if the object itself
//! says that it is of this recording; and on record before.

use super::backoff;
use super::contain::contained;
use super::error::{EngineError, Result};
use super::expiry;
use super::rewrite::subject;
use super::shared::Shared;
use crate::audit::{Clear, Entry, Event};
use crate::catalog::{Leaving, ObjectState};
use crate::clock::Timestamp;
use crate::recording::ObjectAge;
use crate::store;
use crate::{faults, limits};
use std::collections::HashMap;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// How often it is looked whether something leaves. Also what a test waits at most.
const LOOK: Duration = Duration::from_millis(500);
/// How often what could not go is looked at again.
const AGAIN: Duration = Duration::from_secs(30);

/// Whether there may be objects that leave.
#[derive(Debug)]
pub(super) struct Noted(AtomicBool);

impl Default for Noted {
    fn default() -> Noted {
        // An earlier daemon may have left some.
        Noted(AtomicBool::new(true))
    }
}

impl Noted {
    /// There are.
    pub fn note(&self) {
        self.0.store(true, Ordering::Release);
    }
}

/// Until the engine stops.
pub(super) fn run(shared: &Shared) {
    let (mut again, mut failures): (Option<Timestamp>, u32) = (None, 0);
    let mut refused = Refused::default();
    while !shared.stop.wait(LOOK) {
        let due = again.is_some_and(|at| at <= shared.now());
        if !shared.leaving.0.swap(false, Ordering::AcqRel) && !due {
            continue;
        }
        again = match contained("deleting what was stored anew", || sweep(shared, &mut refused)) {
            Ok(0) => None,
            Ok(_) => {
                refused.tell();
                failures = 0;
                Some(shared.now().plus(AGAIN))
            }
            Err(EngineError::Stopping) => return,
            Err(error) => {
                failures += 1;
                tracing::debug!(%error, "what was stored anew is deleted later");
                Some(shared.now().plus(backoff::after(failures)))
            }
        };
    }
}

/// What was refused.
#[derive(Debug, Default)]
struct Refused {
    /// Until when it is left alone, by row number of the object.
    until: HashMap<i64, Timestamp>,
    /// How many there are that were not told yet, and why one of them was.
    new: Option<(u64, EngineError)>,
}

impl Refused {
    fn note(&mut self, object: i64, until: Timestamp, why: EngineError) {
        self.until.insert(object, until);
        let (count, first) = self.new.take().unwrap_or((0, why));
        self.new = Some((count + 1, first));
    }

    fn tell(&mut self) {
        if let Some((count, error)) = self.new.take() {
            tracing::warn!(count, %error, "objects that others took the place of can not be deleted");
        }
    }
}

/// Looks at all that leave. How many are left.
fn sweep(shared: &Shared, refused: &mut Refused) -> Result<u64> {
    let (mut after, mut left) = (0, 0);
    refused.until.retain(|_, until| *until > shared.now());
    loop {
        let page = shared.catalog.leaving(after, limits::PLAN_PAGE_ROWS)?;
        let Some(last) = page.last() else { return Ok(left) };
        after = last.object;
        for leaving in page {
            shared.check_stop()?;
            if refused.until.contains_key(&leaving.object) {
                left += 1;
                continue;
            }
            if refused.until.len() >= limits::LEAVING_REFUSED_MAX {
                // Whatever refuses so many refuses the others, too.
                return Ok(left + 1);
            }
            match one(shared, &leaving) {
                Ok(true) => {}
                Ok(false) => left += 1,
                Err(error @ (EngineError::Stopping | EngineError::Catalog(_))) => {
                    return Err(error);
                }
                Err(error) if error.is_of_the_moment() => {
                    left += 1;
                    tracing::debug!(%error, "an object that another took the place of stays for now");
                }
                Err(error) => {
                    left += 1;
                    let until = shared.now().plus(limits::LEAVING_REFUSED_RETRY);
                    refused.note(leaving.object, until, error);
                }
            }
        }
    }
}

/// Whether it leaves no more: it is gone, or is to stay.
fn one(shared: &Shared, leaving: &Leaving) -> Result<bool> {
    if leaving.since.plus(limits::REPLACED_STAYS) > shared.now() {
        return Ok(false);
    }
    let Some(object) = shared.catalog.object(leaving.object)? else {
        shared.catalog.stays(leaving.object)?;
        return Ok(true);
    };
    // Who stores it anew right now has the claim.
    let Some(_claim) = shared.claims.try_claim(&[object.node]) else { return Ok(false) };
    if shared.catalog.object(object.id)?.is_none_or(|o| o.state != ObjectState::Abandoned) {
        shared.catalog.stays(object.id)?;
        return Ok(true);
    }
    if expiry::is_held(shared, object.node, shared.now())?
        || shared.catalog.told_up_to(&object.target)? < leaving.told
    {
        return Ok(false);
    }
    let all = shared.catalog.objects(object.node, Some(object.generation))?;
    let other = |o: &&crate::catalog::ObjectRow| {
        o.target == object.target && o.state == ObjectState::Verified && o.sha256 == object.sha256
    };
    let Some(other) = all.iter().find(other) else {
        return Err(EngineError::refused(
            Path::new(&object.key),
            "its target has no other object of this content",
        ));
    };
    let target = expiry::target_of(shared, &object)?;
    // What can not be deleted is not on record as deleted.
    match expiry::deletable(shared, &object, false)? {
        ObjectAge::Changed(_) => {}
        ObjectAge::Gone => {
            shared.catalog.object_expired(object.id)?;
            return Ok(true);
        }
        ObjectAge::Unproved(why) => {
            tracing::warn!(why, "an object is left alone");
            shared.catalog.stays(object.id)?;
            return Ok(true);
        }
    }
    let stored = &other.stored;
    shared.ask(target, store::verify(&*target.store, &other.key, stored.size, stored.sha256))?;
    let path = shared.catalog.last_path(object.node)?.unwrap_or_default();
    let event =
        Event::ObjectRemoved { target: object.target.clone(), key: Clear::key(&object.key) };
    shared.audit.record_synced(Entry::new(event).on(subject(&object, &path))).map_err(|error| {
        EngineError::refused(&path, format!("its deletion can not be put on record: {error}"))
    })?;
    expiry::delete_object(shared, &object, false)?;
    shared.catalog.object_expired(object.id)?;
    faults::point("rewrite.after_delete");
    Ok(true)
}
