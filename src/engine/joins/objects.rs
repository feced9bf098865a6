//! The objects of stored joins: taking them away, and finding them again.

use super::failed;
use crate::audit::{Clear, Entry, Event};
use crate::catalog::ObjectState;
use crate::codec;
use crate::engine::encode;
use crate::engine::error::{EngineError, Result};
use crate::engine::recall::check_room;
use crate::engine::shared::Shared;
use crate::engine::snapshot::ask;
use crate::engine::target::Target;
use crate::lower::LowerError;
use crate::recording::{Attr, Encoding, Hasher, Kind, Stored};
use crate::stitch::{self, Kept, KeptJoin, KeptObject, Leg, NewJoin, Plan};
use crate::store::joined::JoinLabel;
use crate::store::{StoreErrorKind, key};
use crate::{faults, limits};
use bytes::Bytes;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::Instant;

/// Deletes the objects of a join that is wanted no more, unless one of its recordings is on legal hold.
pub(super) fn delete(shared: &Shared, kept: &Kept, join: &KeptJoin) -> Result<()> {
    for object in &join.objects {
        let given_up = object.state == ObjectState::Abandoned;
        let there = shared.targets.iter().any(|target| target.name() == object.target);
        // What was damaged is there still; if not, that costs a question.
        if given_up && !there {
            continue;
        }
        delete_one(shared, join, object)?;
        if !given_up {
            kept.note(object, ObjectState::Abandoned, shared.now()).map_err(failed)?;
            faults::point("joins.after_emptied");
        }
    }
    kept.forget(join.id).map_err(failed)?;
    faults::point("joins.after_forget");
    Ok(())
}

fn delete_one(shared: &Shared, join: &KeptJoin, object: &KeptObject) -> Result<()> {
    let refused = |why: &str| EngineError::refused(Path::new(&object.key), why);
    let target = shared.targets.iter().find(|target| target.name() == object.target);
    let target = target.ok_or_else(|| refused("the target that has it is not configured"))?;
    if !target.is_up() {
        return Err(target.trouble().into());
    }
    if !is_there(shared, join, target, object)? {
        return Ok(());
    }
    let free = || {
        let (holds, now) = (shared.catalog.holds(), shared.now());
        match join.legs.iter().all(|leg| holds.let_expire(leg.node, now)) {
            true => Ok(()),
            false => Err(refused("a recording of it is, or was a short time ago, on legal hold")),
        }
    };
    shared.catalog.know_holds()?;
    free()?;
    let event = Event::JoinDeleted { target: object.target.clone(), key: Clear::key(&object.key) };
    let entry = Entry::new(event).because("another took its place, or its recordings are deleted");
    let on_record = |error| refused(&format!("it can not be put on record: {error}"));
    shared.audit.record_synced(entry).map_err(on_record)?;
    faults::point("joins.after_record");
    {
        let _no_hold_comes = shared.catalog.no_holds_change();
        free()?;
        ask(shared, target, target.store.delete(&object.key))?;
    }
    faults::point("joins.after_delete");
    if is_there(shared, join, target, object)? {
        return Err(refused("it is still there after it was deleted"));
    }
    tracing::info!(target = target.name(), key = object.key, "a stored join was deleted");
    Ok(())
}

/// Whether the target has it, by what the object itself says. What is another's is left alone.
fn is_there(
    shared: &Shared,
    join: &KeptJoin,
    target: &Target,
    object: &KeptObject,
) -> Result<bool> {
    let head = match ask(shared, target, target.store.head(&object.key)) {
        Ok(head) => head,
        Err(EngineError::Store(e)) if e.kind == StoreErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(error),
    };
    let node = shared.catalog.identity().node;
    let ours = JoinLabel::from_user(&head.user).is_ok_and(|label| {
        label.node == node && label.call == join.call && label.sha256 == join.sha256
    });
    if !ours {
        tracing::warn!(
            key = object.key,
            "an object is left alone: it does not say that it is a stored join"
        );
    }
    Ok(ours)
}

/// Takes note of the joins of this machine that a target has. What they were made of in detail is not
/// known any more: while all their recordings are there they are made anew, and found to be the same.
pub(super) fn find_again(shared: &Shared, kept: &Kept, target: &Target) -> Result<()> {
    let prefix = format!("{}{}", target.store.prefix(), key::JOINED);
    let mut after = String::new();
    loop {
        let page = ask(shared, target, target.store.list(&prefix, &after))?;
        let Some(last) = page.last() else { return Ok(()) };
        after.clone_from(&last.key);
        let since = Instant::now();
        for listed in page {
            shared.check_stop()?;
            if !kept.knows(target.name(), &listed.key).map_err(failed)? {
                found(shared, kept, target, &listed.key)?;
                faults::point("joins.after_found");
            }
        }
        // Others have the target for as long.
        shared.stop.wait(since.elapsed());
    }
}

fn found(shared: &Shared, kept: &Kept, target: &Target, key: &str) -> Result<()> {
    let head = match ask(shared, target, target.store.head(key)) {
        Err(EngineError::Store(e)) if e.kind == StoreErrorKind::NotFound => return Ok(()),
        head => head?,
    };
    let label = match JoinLabel::from_user(&head.user) {
        Ok(label) if label.node == shared.catalog.identity().node => label,
        // Another machine's, or none of ours.
        Ok(_) | Err(_) => return Ok(()),
    };
    let Some((new, stored)) = read(shared, target, key, &label)? else {
        tracing::warn!(
            key,
            "a stored join is not what it says, or can not be opened: it is left alone"
        );
        return Ok(());
    };
    let (name, key) = (target.name().to_owned(), key.to_owned());
    let object = KeptObject { target: name, key, state: ObjectState::Verified, stored };
    kept.found(&new, &label.legs, &object).map_err(failed)?;
    tracing::info!(target = target.name(), key = object.key, "a stored join was found again");
    Ok(())
}

/// All of an object, read and compared with what it says.
fn read(
    shared: &Shared,
    target: &Target,
    key: &str,
    label: &JoinLabel,
) -> Result<Option<(NewJoin, Stored)>> {
    let Some((file, stored)) = fetched(shared, target, key, label)? else { return Ok(None) };
    let (mut hasher, mut head) = (Hasher::default(), Vec::new());
    let mut sink = |bytes: &[u8]| {
        if hasher.is_empty() {
            head = bytes.to_vec();
        }
        hasher.update(bytes);
    };
    let of = (label.size, &shared.identities);
    if let Err(error) = encode::decode(shared, &file, &stored.encoding, of, &mut sink)? {
        tracing::warn!(%error, key, "a stored join can not be read");
        return Ok(None);
    }
    let (sha256, chunks) = hasher.finish();
    let name = stitch::Stitched::name_of(&label.call);
    let mut within = |at: u64, len: usize| {
        let from = usize::try_from(at).unwrap_or(usize::MAX).min(head.len());
        let part = head.get(from..from.saturating_add(len).min(head.len())).unwrap_or(&[]);
        Ok::<_, std::convert::Infallible>(Bytes::copy_from_slice(part))
    };
    let Ok(Ok(audio)) = codec::probe(name.as_bytes(), label.size, &mut within) else {
        return Ok(None);
    };
    let Some(first) = label.legs.first() else { return Ok(None) };
    let leg = Leg {
        node: *first,
        path: name,
        size: label.size,
        mtime: label.mtime,
        start: None,
        side: None,
        audio: Ok(audio),
    };
    let plan = Plan::new(vec![leg], &stitch::Options::default());
    if sha256 != label.sha256 || plan.len() != label.size {
        return Ok(None);
    }
    let (mode, uid, gid) = label.access;
    let attr = Attr {
        kind: Kind::File,
        mode: mode & 0o444,
        uid,
        gid,
        nlink: 1,
        rdev: 0,
        size: label.size,
        blocks: 1,
        mtime: label.mtime,
        atime: label.mtime,
        ctime: label.mtime,
        special: 0,
    };
    Ok(Some((NewJoin { call: label.call.clone(), plan, attr, sha256, chunks }, stored)))
}

/// An object in a file without a name, and what it is in detail; none if it is not what it says.
fn fetched(
    shared: &Shared,
    target: &Target,
    key: &str,
    label: &JoinLabel,
) -> Result<Option<(File, Stored)>> {
    let size = label.stored.size;
    check_room(shared, Path::new(key), size)?;
    let file = shared.lower.scratch()?;
    let mut hasher = Hasher::default();
    while hasher.len() < size {
        let range = hasher.len()..size.min(hasher.len() + limits::READ_BACK_BYTES);
        let bytes = ask(shared, target, target.store.get(key, range))?;
        if bytes.is_empty() {
            return Ok(None);
        }
        let io = |source| LowerError::Io { path: key.into(), source };
        file.write_all_at(&bytes, hasher.len()).map_err(io)?;
        hasher.update(&bytes);
        if !shared.keep_pace(bytes.len() as u64) {
            return Err(EngineError::Stopping);
        }
    }
    if hasher.finish().0 != label.stored.sha256 {
        return Ok(None);
    }
    let encoding = match &label.stored.encoding {
        Encoding::Plain => Encoding::Plain,
        Encoding::Sealed(sealed) => {
            let io = |source| LowerError::Io { path: key.into(), source };
            let start = encode::read_at(&file, 0, limits::SEAL_HEAD_BYTES_MAX as usize);
            let inner = sealed.inner().clone();
            match codec::seal::sealed(&start.map_err(io)?, inner, size) {
                Ok(sealed) => sealed.into(),
                Err(_none_of_age) => return Ok(None),
            }
        }
        Encoding::Patched(_) | Encoding::Flac(_) => return Ok(None),
    };
    Ok(Some((file, Stored { encoding, ..label.stored.clone() })))
}
