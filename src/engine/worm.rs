//! `worm`: what a rule has locked in the targets that can (S3 Object Lock), for a time.
//!
//! **Invariant:** where a target can, an object counts as verified only after the target was seen to
//! have the lock.

use super::error::{EngineError, Result};
use super::locks;
use super::plan;
use super::shared::Shared;
use super::target::Target;
use super::worm_later;
use crate::catalog::Candidate;
use crate::clock::Timestamp;
use crate::store::{Locks, Retention, StoreError, StoreErrorKind};
use std::sync::Arc;

/// The lock that the rule of a recording asks for; `None`: none, or its time is over.
pub(super) fn wanted(shared: &Shared, it: &Candidate) -> Option<Retention> {
    let rules = Arc::clone(&shared.configured.read());
    if !rules.has_worm() {
        return None;
    }
    let worm = shared.facts(&rules).chosen(it).treatment.worm?;
    // Anybody can give it a time in the future, and some locks are not taken back.
    let changed = it.row.attr.mtime.min(shared.now());
    let until = plan::closed_at(it).max(changed).plus(worm.after);
    // Targets know whole seconds.
    let until = Timestamp::from_parts(until.secs().saturating_add(1), 0);
    (until > shared.now()).then_some(Retention { until, mode: worm.mode })
}

/// Locks what was verified under a key, where the target can.
pub(super) fn lock(
    shared: &Shared,
    target: &Target,
    key: &str,
    wanted: Option<Retention>,
) -> Result<()> {
    let Some(wanted) = wanted else { return Ok(()) };
    if let Locks::No(why) = locks::ability(shared, target)? {
        return worm_later::missed(shared, target, &why);
    }
    let found = shared.ask(target, target.store.retain(key, wanted))?;
    if found.covers(&wanted) {
        return Ok(());
    }
    let (kind, what) =
        (StoreErrorKind::Unsupported, "it is locked for a shorter time than asked for");
    Err(EngineError::Store(StoreError::new(kind, target.name(), "put retention", key, what)))
}
