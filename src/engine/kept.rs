//! What held recordings were before they were opened for writing again, and no archive has yet:
//! copied to its end, put on hold itself, and taken to the trash, from where it is archived.
//!
//! **Invariant:** it is in the catalog, and on hold, before it leaves the place where the next start
//! looks for it.

use super::contain::contained;
use super::error::{EngineError, Result};
use super::recall::check_room;
use super::shared::Shared;
use crate::faults;
use crate::lower::{Kept, trash_path};
use crate::recording::NodeId;
use std::path::PathBuf;
use std::time::Duration;

/// How often it is looked whether what is kept is needed.
const LOOK: Duration = Duration::from_millis(500);
/// After something went wrong.
const LATER: Duration = Duration::from_secs(5);

/// Until the engine stops.
pub(super) fn run(shared: &Shared) {
    let mut told = String::new();
    loop {
        let mut again = LOOK;
        for kept in shared.lower.kept() {
            match contained("keeping what a held recording was", || look(shared, &kept)) {
                Ok(()) => {}
                Err(EngineError::Stopping) => return,
                Err(error) => {
                    // It is tried again soon, and said once.
                    let why = error.to_string();
                    if why != told {
                        tracing::warn!(id = %kept.of(), %error, "what a held recording was is kept later");
                    }
                    (told, again) = (why, LATER);
                }
            }
        }
        crossbeam_channel::select! {
            recv(shared.lower.kept_asked()) -> _asked => {}
            recv(shared.stop.closed()) -> _closed => return,
            default(again) => {}
        }
    }
}

fn look(shared: &Shared, kept: &Kept) -> Result<()> {
    if kept.is_lost() {
        shared.lower.drop_kept(kept, false);
        return Ok(());
    }
    if kept.lacks_live() && !kept.is_whole() {
        follow(shared, kept)?;
    }
    if !kept.is_whole() {
        // Whoever changes it copies what he changes; the rest can wait for room.
        check_room(shared, &kept.path(), kept.bytes())?;
    }
    if !kept.fill(&|| shared.stop.is_set())? {
        return shared.check_stop();
    }
    if !kept.is_of_the_past() {
        // Opened, and not changed yet.
        shared.lower.drop_kept(kept, false);
        return Ok(());
    }
    keep(shared, kept)
}

/// Finds the file again that a predecessor was copying.
fn follow(shared: &Shared, kept: &Kept) -> Result<()> {
    let gone = || EngineError::refused(&kept.path(), "its recording is not there");
    let path = shared.path_of(kept.of())?.ok_or_else(gone)?;
    let file = shared.lower.open_to_sync(&path, kept.of())?.ok_or_else(gone)?;
    kept.follow(&file)
        .map_err(|errno| crate::lower::LowerError::Io { path, source: errno.into() })?;
    Ok(())
}

fn keep(shared: &Shared, kept: &Kept) -> Result<()> {
    let of = kept.of();
    if !shared.catalog.is_held(of) {
        shared.lower.drop_kept(kept, true);
        return Ok(());
    }
    let holds = shared.catalog.holds_on(of)?;
    if holds.is_empty() {
        return Err(EngineError::refused(&kept.path(), "the catalog does not know its hold"));
    }
    let _trash = shared.trash.lock();
    let number = number(shared, kept)?;
    let path = shared.path_of(of)?.unwrap_or_else(|| PathBuf::from(of.to_string()));
    let stat = kept.finish(number)?;
    faults::point("kept.after_finish");
    shared.catalog.trash_found(number, stat.attr, stat.version, &path)?;
    for hold in &holds {
        shared.catalog.hold_also(hold, &[number], false)?;
    }
    faults::point("kept.after_hold");
    let stat = shared.lower.kept_to_trash(kept, number)?;
    faults::point("kept.after_move");
    // The move changed its ctime.
    shared.catalog.trash_found(number, stat.attr, stat.version, &path)?;
    tracing::info!(
        path = %path.display(), %number,
        "a held recording was written to before it was archived; what it was is in the trash"
    );
    shared.wake();
    Ok(())
}

/// The number that a predecessor gave it, if the catalog heard of that.
fn number(shared: &Shared, kept: &Kept) -> Result<NodeId> {
    if let Some(number) = kept.number()
        && shared.catalog.trashed(number)?.is_some_and(|row| row.local)
        && shared.lower.stat(&trash_path(number)).is_err_and(|e| e.is_not_found())
    {
        return Ok(number);
    }
    Ok(shared.catalog.alloc())
}
