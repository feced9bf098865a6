//! What protects held recordings in the targets, in the words of reports.

use super::Daemon;
use super::commands::unusable;
use crate::catalog::Hold;
use crate::control::{Failure, LockReport};
use crate::limits;
use crate::store::Locks;
use std::time::Duration;

/// What a hold that is put on now does in the targets, and what it can not do. Waits a moment for those
/// that were not asked yet.
pub(super) fn notes(daemon: &Daemon) -> Vec<String> {
    let found = daemon.engine.locks(limits::LOCKS_ANSWER_WAIT);
    let words = |(target, can): (String, Option<Locks>)| match can {
        Some(Locks::Yes) => format!(
            "Target {target:?} locks what is held (Object Lock): that is done in the background, and \
             \"spoolfs hold list\" tells how far it is."
        ),
        Some(Locks::No(why)) => format!(
            "Target {target:?} can not lock what is held: {why}. Whoever may delete there can delete it."
        ),
        None => format!(
            "Whether target {target:?} can lock what is held is not known: it has not answered yet."
        ),
    };
    found.into_iter().map(words).collect()
}

/// What protects the recordings of a hold.
pub(super) fn of_hold(daemon: &Daemon, hold: &Hold) -> Result<Vec<LockReport>, Failure> {
    if let Some(lifted) = &hold.lifted {
        let kept = daemon.config.read().holds.lift_grace + limits::LOCK_SEEN_EVERY;
        if lifted.at.plus(kept) < daemon.clock.now() {
            return Ok(Vec::new());
        }
    }
    let mut counts = daemon.catalog.lock_counts(hold.id).map_err(unusable)?;
    let found = daemon.engine.locks(Duration::ZERO).into_iter();
    let reports = found.map(|(target, can)| {
        let count = counts.remove(&target).unwrap_or_default();
        let (locks, why) = match can {
            None => (None, None),
            Some(Locks::Yes) => (Some(true), None),
            Some(Locks::No(why)) => (Some(false), Some(why)),
        };
        let (objects, locked, error) = (count.objects, count.locked, count.error);
        LockReport { target, locks, why, objects, locked, error }
    });
    Ok(reports.filter(|report| hold.lifted.is_none() || report.locked > 0).collect())
}

/// Objects of deleted recordings that a target refuses to delete, for `status`.
pub(super) fn undeletable(daemon: &Daemon) -> Option<String> {
    let (count, why) = daemon.catalog.undeletable().ok().flatten()?;
    Some(format!(
        "{count} objects of recordings that expired, or were deleted, can not be deleted in their \
         target; it is tried again once a day, and by \"spoolfs retention run\". One of them: {why}"
    ))
}
