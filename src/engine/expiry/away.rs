//! Taking away what expired: the name and the local bytes first, the objects later.

use super::HELD;
use super::proof::{Ready, age, is_held, target_of};
use crate::catalog::{Fate, Marked, ObjectRow, Op};
use crate::clock::Timestamp;
use crate::engine::error::{EngineError, Result};
use crate::engine::locks;
use crate::engine::shared::Shared;
use crate::recording::{NodeId, ObjectAge, State};
use crate::store::StoreErrorKind;
use crate::{faults, limits};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::Duration;

/// Takes the name and the local bytes away; the objects follow. The caller has seen to it that no
/// hold is on it, nor comes, and that it is not being synced.
pub(super) fn delete(shared: &Shared, ready: Ready, now: Timestamp) -> Result<()> {
    let Ready { it, quiet, permit, .. } = ready;
    let (id, parent) = (it.row.id, it.parent);
    let rule = permit.rule().to_owned();
    let changed = || EngineError::refused(&it.path, "it changed a moment ago");
    if it.trashed {
        // Nobody brings it back meanwhile.
        let _trash = shared.trash.lock();
        shared.catalog.drain()?;
        if !shared.catalog.empty_trash(&permit)? {
            return Err(changed());
        }
        faults::point("expiry.after_emptied");
        tracing::info!(path = %it.path.display(), rule, "the trash is emptied of a recording");
        return Ok(());
    }
    shared.catalog.mark_expired(id, now)?;
    faults::point("expiry.after_mark");
    let name = it.path.file_name().map(|n| n.as_bytes().to_vec()).unwrap_or_default();
    let fate = Fate::Kept;
    let gone = Op::Unlink { parent, name: name.clone(), id, last: true, fate, at: now };
    if let Some(quiet) = quiet {
        quiet.alone(&it.path)?;
        let _tier = shared.tier.lock();
        shared.lower.retire_expired(&it.path, permit, || shared.catalog.record(gone))?;
    } else {
        let _names = shared.lower.names_still_in(parent);
        let still = shared.catalog.lookup(parent, &name)?.filter(|row| row.id == id);
        // Who opens it for writing makes it a partial one while no name can change.
        if still.is_none_or(|row| row.state != State::Released)
            || !shared.lower.stat(&it.path).is_err_and(|e| e.is_not_found())
            || shared.lower.partial_for_sure(id)?.is_some()
        {
            return Err(changed());
        }
        shared.catalog.record(gone);
    }
    faults::point("expiry.after_name");
    tracing::info!(path = %it.path.display(), rule, "a recording expired and is deleted");
    Ok(())
}

/// Deletes the objects of what expired so long ago and has no name any more. How many files still
/// have some, and why one of them does.
pub(super) fn purge(shared: &Shared, grace: Duration) -> Result<(u64, Option<String>)> {
    let now = shared.now();
    let (mut left, mut why) = (0, None);
    let mut after = NodeId(0);
    loop {
        let page = shared.catalog.marked_expired(after, limits::PLAN_PAGE_ROWS)?;
        let Some(last) = page.last() else { return Ok((left, why)) };
        after = last.node;
        for Marked { node, since, gone } in page {
            shared.check_stop()?;
            if gone && since.plus(grace) > now {
                left += 1;
                continue;
            }
            if gone && let Err(error) = purge_one(shared, node, since, grace.is_zero()) {
                if matches!(error, EngineError::Stopping | EngineError::Catalog(_)) {
                    return Err(error);
                }
                tracing::warn!(%node, %error, "an object of what expired is deleted later");
                left += 1;
                why = Some(error.to_string());
                continue;
            }
            // Done; or it has its name, or was deleted by a user.
            shared.catalog.unmark_expired(node)?;
        }
    }
}

/// Whether it expires just now: its name is gone, and its objects go soon.
pub(in crate::engine) fn is_marked(shared: &Shared, id: NodeId) -> Result<bool> {
    let marked = shared.catalog.marked_expired(NodeId(id.0.saturating_sub(1)), 1)?;
    Ok(marked.first().is_some_and(|mark| mark.node == id && mark.gone))
}

/// `asked`: by an operator.
fn purge_one(shared: &Shared, id: NodeId, since: Timestamp, asked: bool) -> Result<()> {
    // Who replaces a bad copy of it would bring it back.
    let Some(_claim) = shared.claims.try_claim(&[id]) else {
        let why = "another step with it is still going on";
        return Err(EngineError::refused(Path::new("a recording that has expired"), why));
    };
    if is_held(shared, id, shared.now())? {
        return Err(EngineError::refused(Path::new("a recording that has expired"), HELD));
    }
    // With this all that was told of it before is on the disk: a power cut must not bring a name
    // back whose objects are gone.
    shared.catalog.mark_expired(id, since)?;
    let mut failed = None;
    for object in shared.catalog.objects(id, None)? {
        match delete_object(shared, &object, asked) {
            Ok(()) => {
                shared.content.forget(id, object.generation, &object.chunks);
                shared.catalog.object_expired(object.id)?;
                faults::point("expiry.after_object");
            }
            Err(error @ (EngineError::Stopping | EngineError::Catalog(_))) => return Err(error),
            // What other targets have goes all the same.
            Err(error) => failed = Some(error),
        }
    }
    failed.map_or(Ok(()), Err)
}

/// What an object says of itself, which can be deleted as far as is known before it is tried.
///
/// # Errors
/// Why not now; nothing was deleted.
pub(in crate::engine) fn deletable(
    shared: &Shared,
    object: &ObjectRow,
    asked: bool,
) -> Result<ObjectAge> {
    let target = target_of(shared, object)?;
    let age_now = age(shared, object)?;
    // Also of what is hidden, or gone: the version that is locked is another matter.
    locks::before_delete(shared, target, object, asked)?;
    Ok(age_now)
}

/// Deletes an object in its target, if it says that it is of this recording, and sees that it is gone.
pub(in crate::engine) fn delete_object(
    shared: &Shared,
    object: &ObjectRow,
    asked: bool,
) -> Result<()> {
    let target = target_of(shared, object)?;
    match deletable(shared, object, asked)? {
        ObjectAge::Gone => {}
        ObjectAge::Unproved(why) => tracing::warn!(why, "an object is left alone"),
        ObjectAge::Changed(_) => {
            if let Err(error) = shared.ask(target, target.store.delete(&object.key)) {
                let denied = StoreErrorKind::Denied;
                if matches!(&error, EngineError::Store(e) if e.kind == denied) {
                    return Err(locks::delete_refused(shared, object, &error)?);
                }
                return Err(error);
            }
            faults::point("expiry.after_delete");
            if age(shared, object)? != ObjectAge::Gone {
                let why = "it is still there after it was deleted";
                return Err(EngineError::refused(Path::new(&object.key), why));
            }
        }
    }
    Ok(())
}
