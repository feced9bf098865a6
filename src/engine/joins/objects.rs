//! The objects of stored joins: taking them away, and finding them again.

use super::failed;
use crate::audit::{Clear, Entry, Event};
use crate::catalog::ObjectState;
use crate::codec::{self, Audio};
use crate::engine::encode;
use crate::engine::error::{EngineError, Result};
use crate::engine::recall::check_room;
use crate::engine::shared::Shared;
use crate::engine::snapshot::ask;
use crate::engine::target::Target;
use crate::lower::LowerError;
use crate::recording::{Attr, ChunkHashes, Encoding, Hasher, Kind, NodeId, Stored};
use crate::stitch::{self, Kept, KeptJoin, KeptObject, Leg, NewJoin, Plan};
use crate::store::joined::JoinLabel;
use crate::store::meta::LabelError;
use crate::store::{self, StoreErrorKind, key};
use crate::{faults, limits};
use bytes::Bytes;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::Instant;

/// Deletes the objects of a join that is wanted no more, unless one of its recordings is on legal hold. One
/// that can not be deleted keeps the others no longer: what was in its way may be no join at all.
///
/// # Errors
/// The first of them: not all is gone, and the join is not forgotten.
pub(super) fn delete(shared: &Shared, kept: &Kept, join: &KeptJoin) -> Result<()> {
    let mut gone = Ok(());
    for object in &join.objects {
        let given_up = object.state == ObjectState::Abandoned;
        let there = shared.targets.iter().any(|target| target.name() == object.target);
        // What was damaged is there still; if not, that costs a question.
        if given_up && !there {
            continue;
        }
        match delete_one(shared, join, object) {
            Err(error @ (EngineError::Stopping | EngineError::Catalog(_))) => return Err(error),
            Err(error) => gone = gone.and(Err(error)),
            Ok(()) if given_up => {}
            Ok(()) => {
                kept.note(object, ObjectState::Abandoned, shared.now()).map_err(failed)?;
                faults::point("joins.after_emptied");
            }
        }
    }
    gone?;
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
    let ours = match shared.join_label_of(&head) {
        Ok(label) => label.node == node && label.call == join.call && label.sha256 == join.sha256,
        // The key may come back: until then it is not forgotten.
        Err(error @ LabelError::Hidden(_)) => return Err(hidden(&object.key, &error)),
        Err(_) => false,
    };
    if !ours {
        tracing::warn!(
            key = object.key,
            "an object is left alone: it does not say that it is a stored join"
        );
    }
    Ok(ours)
}

fn hidden(key: &str, error: &LabelError) -> EngineError {
    EngineError::refused(Path::new(key), error.to_string())
}

/// Takes note of the joins of this machine that a target has. What they were made of in detail is not
/// known any more: while all their recordings are there they are made anew, and found to be the same.
/// `damaged` counts objects that are. Answers how many there are of which nobody has the key: they are
/// passed over.
///
/// # Errors
/// The target is down, or of some objects it can not be told yet; all others are taken note of.
pub(super) fn find_again(
    shared: &Shared,
    kept: &Kept,
    target: &Target,
    damaged: &mut u64,
) -> Result<u64> {
    let prefix = format!("{}{}", target.store.prefix(), key::JOINED);
    let (mut after, mut untold, mut unopened) = (String::new(), Ok(()), 0);
    loop {
        let page = ask(shared, target, target.store.list(&prefix, &after))?;
        let Some(last) = page.last() else { return untold.map(|()| unopened) };
        after.clone_from(&last.key);
        let since = Instant::now();
        for listed in page {
            shared.check_stop()?;
            if kept.knows(target.name(), &listed.key).map_err(failed)? {
                continue;
            }
            match found(shared, kept, target, &listed.key) {
                Ok(Found::Damaged) => *damaged += 1,
                Ok(Found::Unopened(why)) => {
                    unopened += 1;
                    // There may be as many as there are calls.
                    match unopened {
                        1 => tracing::warn!(
                            why,
                            "stored joins that can not be opened now are passed over"
                        ),
                        _ => tracing::debug!(why, "another stored join that can not be opened now"),
                    }
                }
                Ok(Found::Seen) => {}
                Err(error) if error.is_of_the_moment() => return Err(error),
                Err(error) => untold = Err(error),
            }
            faults::point("joins.after_found");
        }
        // Others have the target for as long.
        shared.stop.wait(since.elapsed());
    }
}

/// What an object below the name of joins was found to be.
enum Found {
    /// A join, of which note was taken, or none of ours.
    Seen,
    /// It is damaged.
    Damaged,
    /// It may be one: without the key, not even what it says of itself can be read; or it says so, and
    /// is not given now. Why.
    Unopened(String),
}

/// Takes note of an object, if it says that it is a join of this machine.
fn found(shared: &Shared, kept: &Kept, target: &Target, key: &str) -> Result<Found> {
    let head = match ask(shared, target, target.store.head(key)) {
        Err(EngineError::Store(e)) if e.kind == StoreErrorKind::NotFound => return Ok(Found::Seen),
        Err(EngineError::Store(e)) if e.kind == StoreErrorKind::Locked => {
            return Ok(Found::Unopened(e.to_string()));
        }
        head => head?,
    };
    let node = shared.catalog.identity().node;
    let label = match shared.join_label_of(&head) {
        Ok(label) if label.node == node => label,
        Err(error @ LabelError::Hidden(_)) if store::hidden::is_of(&head.user, &node) => {
            return Ok(Found::Unopened(hidden(key, &error).to_string()));
        }
        // Another machine's, or none of ours.
        Ok(_) | Err(_) => return Ok(Found::Seen),
    };
    if shared.identities.are_awaited() && label.stored.encoding.is_sealed() {
        return Err(EngineError::refused(Path::new(key), &*shared.identities.told()));
    }
    let mut read = read(shared, target, key, &label)?;
    if matches!(read, Read::Damaged) {
        // A wrong answer may have come from the way; a wrong object stays wrong.
        read = self::read(shared, target, key, &label)?;
    }
    let object = |state, stored| {
        let (target, key) = (target.name().to_owned(), key.to_owned());
        KeptObject { target, key, state, stored }
    };
    match read {
        Read::Join(new, stored) => {
            let object = object(ObjectState::Verified, stored);
            kept.found(&new, &label.legs, &object).map_err(failed)?;
            tracing::info!(target = target.name(), key, "a stored join was found again");
            Ok(Found::Seen)
        }
        Read::Damaged => {
            let reason = "it was found again, and is not what it says";
            tracing::error!(key, reason, "a stored join is damaged");
            let (at, said) = (target.name().to_owned(), Clear::key(key));
            let entry = Entry::new(Event::VerificationFailed { target: at, key: said });
            shared.audit.record(entry.why(reason));
            let object = object(ObjectState::Abandoned, label.stored.clone());
            kept.found_damaged(&join_of(&label, None), &label.legs, &object).map_err(failed)?;
            Ok(Found::Damaged)
        }
        Read::Closed => {
            tracing::warn!(
                key,
                "a stored join can not be opened: it only goes with its recordings"
            );
            let object = object(ObjectState::Abandoned, label.stored.clone());
            kept.found_damaged(&join_of(&label, None), &label.legs, &object).map_err(failed)?;
            Ok(Found::Seen)
        }
        Read::Refused(why) => {
            let object = object(ObjectState::Abandoned, label.stored.clone());
            kept.found_unread(&join_of(&label, None), &label.legs, &object).map_err(failed)?;
            Ok(Found::Unopened(why))
        }
    }
}

/// What an object is that says that it is a join.
enum Read {
    /// That join.
    Join(Box<NewJoin>, Stored),
    /// Other bytes than those that were put there.
    Damaged,
    /// It can not be told: there is no key that opens it, or it must be restored first.
    Closed,
    /// Its target does not give it now; why. That may be over in a moment.
    Refused(String),
}

/// A join by what its object says. Without its audio nothing can be read by its plan.
fn join_of(label: &JoinLabel, heard: Option<(Audio, ChunkHashes)>) -> NewJoin {
    let (audio, chunks) = match heard {
        Some((audio, chunks)) => (Ok(audio), chunks),
        None => (Err("its object is damaged".to_owned()), ChunkHashes(Vec::new())),
    };
    let leg = Leg {
        node: label.legs.first().copied().unwrap_or(NodeId::ROOT),
        path: stitch::Stitched::name_of(&label.call),
        size: label.size,
        mtime: label.mtime,
        start: None,
        side: None,
        audio,
    };
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
    let plan = Plan::new(vec![leg], &stitch::Options::default());
    NewJoin { call: label.call.clone(), plan, attr, sha256: label.sha256, chunks }
}

/// All of an object, read and compared with what it says.
fn read(shared: &Shared, target: &Target, key: &str, label: &JoinLabel) -> Result<Read> {
    use StoreErrorKind::{Denied, Frozen, Locked};
    let (file, stored) = match fetched(shared, target, key, label) {
        Ok(Fetched::Right(file, stored)) => (file, stored),
        Ok(Fetched::Wrong) => return Ok(Read::Damaged),
        Ok(Fetched::Strange) => return Ok(Read::Closed),
        Err(EngineError::Store(error)) if error.kind == Denied => {
            return Ok(Read::Refused(error.to_string()));
        }
        Err(EngineError::Store(error)) if matches!(error.kind, Frozen | Locked) => {
            tracing::warn!(%error, "a stored join can not be read");
            return Ok(Read::Closed);
        }
        Err(error) => return Err(error),
    };
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
        return Ok(Read::Closed);
    }
    let (sha256, chunks) = hasher.finish();
    let name = stitch::Stitched::name_of(&label.call);
    let mut within = |at: u64, len: usize| {
        let from = usize::try_from(at).unwrap_or(usize::MAX).min(head.len());
        let part = head.get(from..from.saturating_add(len).min(head.len())).unwrap_or(&[]);
        Ok::<_, std::convert::Infallible>(Bytes::copy_from_slice(part))
    };
    let Ok(Ok(audio)) = codec::probe(name.as_bytes(), label.size, &mut within) else {
        return Ok(Read::Closed);
    };
    let new = join_of(label, Some((audio, chunks)));
    if label.legs.is_empty() || sha256 != label.sha256 || new.plan.len() != label.size {
        return Ok(Read::Closed);
    }
    Ok(Read::Join(Box::new(new), stored))
}

/// The bytes of an object.
enum Fetched {
    /// Those that were put there, and what they are.
    Right(File, Stored),
    /// Others.
    Wrong,
    /// Those that were put there, but nothing that is put there.
    Strange,
}

/// An object in a file without a name.
fn fetched(shared: &Shared, target: &Target, key: &str, label: &JoinLabel) -> Result<Fetched> {
    let size = label.stored.size;
    check_room(shared, Path::new(key), size)?;
    let file = shared.lower.scratch()?;
    let mut hasher = Hasher::default();
    while hasher.len() < size {
        let range = hasher.len()..size.min(hasher.len() + limits::READ_BACK_BYTES);
        let bytes = ask(shared, target, target.store.get(key, range))?;
        if bytes.is_empty() {
            return Ok(Fetched::Wrong);
        }
        let io = |source| LowerError::Io { path: key.into(), source };
        file.write_all_at(&bytes, hasher.len()).map_err(io)?;
        hasher.update(&bytes);
        if !shared.keep_pace(bytes.len() as u64) {
            return Err(EngineError::Stopping);
        }
    }
    if hasher.finish().0 != label.stored.sha256 {
        return Ok(Fetched::Wrong);
    }
    let encoding = match &label.stored.encoding {
        Encoding::Plain => Encoding::Plain,
        Encoding::Sealed(sealed) => {
            let io = |source| LowerError::Io { path: key.into(), source };
            let start = encode::read_at(&file, 0, limits::SEAL_HEAD_BYTES_MAX as usize);
            let inner = sealed.inner().clone();
            match codec::seal::sealed(&start.map_err(io)?, inner, size) {
                Ok(sealed) => sealed.into(),
                Err(_none_of_age) => return Ok(Fetched::Strange),
            }
        }
        Encoding::Patched(_) | Encoding::Flac(_) => return Ok(Fetched::Strange),
    };
    Ok(Fetched::Right(file, Stored { encoding, ..label.stored.clone() }))
}
