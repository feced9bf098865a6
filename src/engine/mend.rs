//! Reading an archived object whole, and seeing to it if it is not what was archived: replaced while
//! there is another copy, else an alarm.
//!
//! **Invariant:** an object is bad only if its target answered so, twice. What no key opens is not. A bad one is never
//! written over: its replacement has another key. Before it counts as verified no more an alarm is
//! kept in the catalog, which lasts until the target has the recording again.

use super::alarms::{Alarm, clear, explain, failed, raise, subject};
use super::claims::Claim;
use super::error::{EngineError, Result};
use super::expiry;
use super::keyed;
use super::recall::check_room;
use super::shared::Shared;
use super::target::Target;
use super::worm;
use crate::audit::{Clear, Entry, Event};
use crate::catalog::{Candidate, NodeRow, ObjectRow, ObjectState, Remedy};
use crate::recording::{Generation, NodeId, Sha256, State};
use crate::store::{self, Body, ObjectMeta, StoreError, StoreErrorKind, meta::Label};
use crate::{faults, limits};
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// What became of an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Check {
    Good,
    /// It was bad; what, and how it was replaced.
    Replaced(String),
    /// It is bad, and was not replaced; why.
    Lost(String),
    /// No key opens it, so that nothing is known of it; what to do.
    Unopened(String),
    /// It is bad, and something else is being done with its recording; it is to be looked at again.
    Busy(String),
}

/// Reads an object that counts as verified, or is to be proved, and sees to it if it is bad. `patience`:
/// how long it is waited for others who have the claim on its recording.
///
/// # Errors
/// Nothing is known of it: the target did not answer, or something else was done with it meanwhile.
pub(super) fn check(shared: &Shared, object: &ObjectRow, patience: Duration) -> Result<Check> {
    look(shared, object, || {
        shared.claims.claim(&[object.node], Instant::now() + patience).map(Some)
    })
}

/// The same, for who has the claim on its recording.
pub(super) fn check_claimed(shared: &Shared, object: &ObjectRow) -> Result<Check> {
    look(shared, object, || Some(None))
}

fn look(
    shared: &Shared,
    object: &ObjectRow,
    claim: impl FnOnce() -> Option<Option<Claim>>,
) -> Result<Check> {
    let target = find(shared, &object.target, object)?;
    let mut found = read(shared, &target, object, &mut |_, _| Ok(()));
    if matches!(&found, Err(e) if is_bad(e)) {
        // A wrong answer may have come from the way; a wrong object stays wrong.
        found = read(shared, &target, object, &mut |_, _| Ok(()));
    }
    if matches!(&found, Err(EngineError::Store(e)) if e.kind == StoreErrorKind::Frozen) {
        found = told(shared, &target, object);
    }
    match found {
        Ok(()) => {
            if object.state == ObjectState::Assigned {
                shared.catalog.verified(object.id, shared.now())?;
                clear_all(shared, object)?;
            }
            clear(shared, &object.target, &object.key)?;
            Ok(Check::Good)
        }
        Err(error) if is_bad(&error) => {
            let Some(_claim) = claim() else { return Ok(Check::Busy(error.to_string())) };
            is_still(shared, object)?;
            see_to(shared, &target, object, &error)
        }
        Err(EngineError::Store(e)) if e.kind == StoreErrorKind::Locked => {
            unopened(shared, object, &e.to_string())
        }
        Err(error) => Err(error),
    }
}

/// What is being deleted, because it expired or was replaced, is not bad and must not come back.
fn is_still(shared: &Shared, object: &ObjectRow) -> Result<()> {
    let now = shared.catalog.object(object.id)?;
    let same = now.is_some_and(|now| now.state == object.state && now.key == object.key);
    if same && !expiry::is_marked(shared, object.node)? {
        return Ok(());
    }
    let why = "it is being deleted, or was seen to meanwhile";
    Err(EngineError::refused(Path::new(&object.key), why))
}

fn see_to(
    shared: &Shared,
    target: &Arc<Target>,
    object: &ObjectRow,
    error: &EngineError,
) -> Result<Check> {
    match object.state {
        ObjectState::Assigned => not_proved(shared, target, object, &error.to_string()),
        _ => bad(shared, target, object, &error.to_string()),
    }
}

/// Nothing is given up or replaced for an object that no key opens: with the key it is good again.
fn unopened(shared: &Shared, object: &ObjectRow, reason: &str) -> Result<Check> {
    keyed::remember(shared, &object.target)?;
    // Of an earlier generation, or of a recording that was deleted, nobody is to be woken.
    if wanted(shared, object)?.is_some() {
        let path = shared.catalog.last_path(object.node)?.unwrap_or_default();
        // Said once, and not for a thousand objects in each hour without the key.
        if !shared.alarms.lock().knows(&object.target, &object.key) {
            tracing::error!(path = %path.display(), reason, "an archived object can not be opened");
        }
        raise(shared, object, path, (Alarm::Unopened, reason))?;
    }
    Ok(Check::Unopened(reason.to_owned()))
}

/// Looks again at an object that there is an alarm of: it may be wanted no more, be good again, or
/// there may be a copy by now to replace it from. False if something else is being done with its recording.
pub(super) fn look_again(shared: &Shared, target: &Arc<Target>, key: &str) -> Result<bool> {
    let Some(object) = shared.catalog.object_of_key(target.name(), key)? else {
        return clear(shared, target.name(), key).map(|()| true);
    };
    let Some(_claim) = shared.claims.try_claim(&[object.node]) else { return Ok(false) };
    look_again_claimed(shared, target, object).map(|()| true)
}

fn look_again_claimed(shared: &Shared, target: &Arc<Target>, object: ObjectRow) -> Result<()> {
    let key = &*object.key;
    let Some(row) = wanted(shared, &object)? else {
        return clear(shared, target.name(), key);
    };
    if object.state == ObjectState::Verified {
        return check_claimed(shared, &object).map(drop);
    }
    if row.state != State::Released || has_one(shared, &object)? {
        // What is local is brought to the target anyway.
        return clear(shared, target.name(), key);
    }
    if object.state == ObjectState::Assigned {
        return check_claimed(shared, &object).map(drop);
    }
    if revive(shared, target, &object)? {
        return clear(shared, target.name(), key);
    }
    let path = shared.catalog.last_path(object.node)?.unwrap_or_default();
    match replace(shared, target, &object, &path)? {
        Ok(_) => clear(shared, target.name(), key),
        Err(why) => {
            tracing::debug!(why, key, "a bad copy is not replaced yet");
            Ok(())
        }
    }
}

/// Raises alarms of what was given up and not replaced, and of which there is none.
pub(super) fn find_given_up(shared: &Shared, target: &Target) -> Result<()> {
    let mut after = 0;
    loop {
        let page = shared.catalog.given_up_objects(target.name(), after, limits::PLAN_PAGE_ROWS)?;
        let Some(last) = page.last() else { return Ok(()) };
        after = last.id;
        for object in &page {
            shared.check_stop()?;
            if !is_known(shared, object)? {
                let path = shared.catalog.last_path(object.node)?.unwrap_or_default();
                let reason = "it was damaged or gone, and was not replaced yet";
                raise(shared, object, path, (Alarm::Bad, reason))?;
            }
        }
    }
}

/// Whether there is an alarm of this object, or of another of the same in this target.
fn is_known(shared: &Shared, object: &ObjectRow) -> Result<bool> {
    let all = shared.catalog.objects(object.node, Some(object.generation))?;
    let alarms = shared.alarms.lock();
    Ok(all.iter().any(|o| o.target == object.target && alarms.has(&o.target, &o.key)))
}

/// The target has the recording: alarms of what it had are over.
fn clear_all(shared: &Shared, object: &ObjectRow) -> Result<()> {
    let all = shared.catalog.objects(object.node, Some(object.generation))?;
    let same = all.iter().filter(|o| o.target == object.target);
    same.map(|o| &o.key).try_for_each(|key| clear(shared, &object.target, key))
}

/// The node of an object, if it is of its current generation.
fn wanted(shared: &Shared, object: &ObjectRow) -> Result<Option<NodeRow>> {
    let row = shared.catalog.node(object.node)?;
    let current =
        |row: &NodeRow| row.state != State::Deleted && row.generation == object.generation;
    Ok(row.filter(current))
}

/// Whether the target has another copy of the same.
fn has_one(shared: &Shared, object: &ObjectRow) -> Result<bool> {
    let all = shared.catalog.objects(object.node, Some(object.generation))?;
    let same = |o: &ObjectRow| o.target == object.target && o.state == ObjectState::Verified;
    Ok(all.iter().any(same))
}

pub(super) fn is_bad(error: &EngineError) -> bool {
    matches!(error, EngineError::Store(e)
        if matches!(e.kind, StoreErrorKind::NotFound | StoreErrorKind::Corrupt))
}

fn find(shared: &Shared, name: &str, object: &ObjectRow) -> Result<Arc<Target>> {
    let target = shared.targets.iter().find(|t| t.name() == name).ok_or_else(|| {
        let path = PathBuf::from(&object.key);
        EngineError::refused(&path, format!("target {name:?} is not in the configuration"))
    })?;
    if target.is_up() { Ok(Arc::clone(target)) } else { Err(target.trouble().into()) }
}

pub(super) type Sink<'a> = &'a mut dyn FnMut(u64, &[u8]) -> std::io::Result<()>;

/// Reads all of an object and compares its hash.
pub(super) fn read(
    shared: &Shared,
    target: &Target,
    object: &ObjectRow,
    sink: Sink<'_>,
) -> Result<()> {
    use sha2::Digest;
    let wrong = |detail: String| {
        let what = format!("the object is not what was archived: {detail}");
        StoreError::new(StoreErrorKind::Corrupt, target.name(), "get", &object.key, what)
    };
    let head = shared.until_stop(target.store.head(&object.key))?;
    let stored = &object.stored;
    if head.size != stored.size {
        return Err(wrong(format!("{} bytes, {} were archived", head.size, stored.size)).into());
    }
    let (mut hasher, mut offset) = (sha2::Sha256::new(), 0);
    while offset < stored.size {
        let end = stored.size.min(offset + limits::READ_BACK_BYTES);
        let bytes = shared.until_stop(target.store.get(&object.key, offset..end))?;
        if bytes.len() as u64 != end - offset {
            return Err(wrong(format!("it ends after {}", offset + bytes.len() as u64)).into());
        }
        sink(offset, &bytes).map_err(|e| StoreError::unreadable(target.name(), &object.key, &e))?;
        hasher.update(&bytes);
        offset = end;
        let _stops_at_the_next_request = shared.keep_pace(bytes.len() as u64);
    }
    let found = Sha256(hasher.finalize().into());
    if found == stored.sha256 {
        return Ok(());
    }
    Err(wrong(format!("SHA-256 {found}, {} was archived", stored.sha256)).into())
}

/// What can be known of an object that must be restored before it is read: its length, and the
/// checksum that its target computed when it was written.
fn told(shared: &Shared, target: &Target, object: &ObjectRow) -> Result<()> {
    let stored = &object.stored;
    let proof = store::verify(&*target.store, &object.key, stored.size, stored.sha256);
    shared.until_stop(proof).map(drop)
}

/// A released recording is not where it should be: a rebuild has not seen it, or its replacement
/// was cut off.
fn not_proved(
    shared: &Shared,
    target: &Arc<Target>,
    object: &ObjectRow,
    reason: &str,
) -> Result<Check> {
    let path = shared.catalog.last_path(object.node)?.unwrap_or_default();
    if wanted(shared, object)?.is_none_or(|row| row.state != State::Released) {
        return Ok(Check::Lost(reason.to_owned()));
    }
    if !is_known(shared, object)? {
        raise(shared, object, path.clone(), (Alarm::Bad, reason))?;
    }
    // The key may have been written before.
    shared.catalog.abandon_key(object.id)?;
    match replace(shared, target, object, &path)? {
        Ok(from) => {
            clear_all(shared, object)?;
            Ok(Check::Replaced(format!("{reason}; it was replaced from target {from:?}")))
        }
        Err(why) => {
            let why = format!("{reason}; {why}");
            explain(shared, object, &why)?;
            Ok(Check::Lost(why))
        }
    }
}

/// Gives a target what it lacks from another that has it, which is returned; else why not.
fn replace(
    shared: &Shared,
    target: &Arc<Target>,
    object: &ObjectRow,
    path: &Path,
) -> Result<std::result::Result<String, String>> {
    let of = (object.node, object.generation);
    let (spare, why_not) = good_copy(shared, of, &object.target, path)?;
    let Some((file, other)) = spare else {
        return Ok(Err(format!("there is no other copy that can be read{why_not}")));
    };
    replace_by(shared, target, &other, path, Arc::new(file))?;
    tracing::info!(path = %path.display(), from = other.target, "a bad copy was replaced");
    Ok(Ok(other.target))
}

fn bad(shared: &Shared, target: &Arc<Target>, object: &ObjectRow, reason: &str) -> Result<Check> {
    let path = shared.catalog.last_path(object.node)?.unwrap_or_default();
    tracing::error!(path = %path.display(), reason, "an archived object is damaged or gone");
    let row = wanted(shared, object)?;
    if row.is_none() {
        let entry = Entry::new(failed(object)).on(subject(object, path.clone()));
        shared.audit.record(entry.why(reason));
    }
    // Of an earlier generation, or of a recording that was deleted, nobody is to be woken.
    if row.is_some() && !raise(shared, object, path.clone(), (Alarm::Bad, reason))? {
        let why = "there are too many bad copies already to do anything about it";
        return Ok(Check::Lost(format!("{reason}; {why}")));
    }
    let local = row.is_some_and(|row| row.state != State::Released);
    // The good copy is in hand before the bad one is given up.
    let (spare, why_not) = match local {
        true => (None, String::new()),
        false => good_copy(shared, (object.node, object.generation), &object.target, &path)?,
    };
    let remedy = shared.catalog.object_bad(object, spare.is_some())?;
    faults::point("scrub.after_given_up");
    let how = match (remedy, spare) {
        (Remedy::Settled, _) => "somebody else has seen to it".to_owned(),
        (Remedy::Local, _) => {
            shared.fill_at(shared.now());
            shared.wake();
            "it is archived again from the local copy".to_owned()
        }
        (Remedy::Elsewhere, Some((file, other))) => {
            match replace_by(shared, target, &other, &path, Arc::new(file)) {
                Ok(()) => format!("it was replaced from target {:?}", other.target),
                Err(EngineError::Stopping) => return Err(EngineError::Stopping),
                Err(error) => {
                    tracing::error!(%error, "a bad copy could not be replaced; it is tried again");
                    let why = format!(
                        "{reason}; another target has it, but it could not be replaced: {error}"
                    );
                    explain(shared, object, &why)?;
                    return Ok(Check::Lost(why));
                }
            }
        }
        // The others are bad too, or can not be read now; this one is asked for again.
        (Remedy::Elsewhere | Remedy::None, _) => {
            let why = format!("{reason}; there is no other copy that can be read{why_not}");
            explain(shared, object, &why)?;
            return Ok(Check::Lost(why));
        }
    };
    clear(shared, &object.target, &object.key)?;
    Ok(Check::Replaced(format!("{reason}; {how}")))
}

type Spare = Option<(File, ObjectRow)>;

/// What another target than that has of a recording, in a file without a name, and its object; else why not.
/// One that was given up is read too, if it is the last hope: it may have been brought back.
fn good_copy(
    shared: &Shared,
    (node, generation): (NodeId, Generation),
    than: &str,
    path: &Path,
) -> Result<(Spare, String)> {
    let all = shared.catalog.objects(node, Some(generation))?;
    let others = all.iter().filter(|o| o.target != than);
    let verified = others.clone().filter(|o| o.state == ObjectState::Verified);
    let given_up = others.filter(|o| o.state == ObjectState::Abandoned);
    let mut why_not = String::new();
    for other in verified.chain(given_up) {
        let Ok(target) = find(shared, &other.target, other) else { continue };
        if other.state == ObjectState::Abandoned && !revive(shared, &target, other)? {
            continue;
        }
        if let Err(error) = check_room(shared, path, other.stored.size) {
            why_not = format!(" now: {error}");
            break;
        }
        let file = shared.lower.scratch()?;
        let copied = read(shared, &target, other, &mut |at, bytes| file.write_all_at(bytes, at));
        match copied {
            Ok(()) => return Ok((Some((file, other.clone())), why_not)),
            Err(EngineError::Stopping) => return Err(EngineError::Stopping),
            Err(error) => tracing::warn!(%error, "another copy can not be had either"),
        }
    }
    Ok((None, why_not))
}

/// Whether an object that was given up is what was archived after all; it counts as verified then.
fn revive(shared: &Shared, target: &Target, object: &ObjectRow) -> Result<bool> {
    match read(shared, target, object, &mut |_, _| Ok(())) {
        Ok(()) => {}
        Err(EngineError::Stopping) => return Err(EngineError::Stopping),
        Err(_still_bad_or_away) => return Ok(false),
    }
    let revived = shared.catalog.good_again(object.id, shared.now())?;
    if revived {
        tracing::info!(key = object.key, "an object that was damaged or gone is good again");
    }
    Ok(revived)
}

/// The same, in the place of a bad copy: that is on record.
fn replace_by(
    shared: &Shared,
    target: &Arc<Target>,
    object: &ObjectRow,
    path: &Path,
    file: Arc<File>,
) -> Result<()> {
    if let Some(key) = write_again(shared, target, object, path, file)? {
        let (from, to) = (object.target.clone(), target.name().to_owned());
        let event = Event::ObjectReplaced { target: to, key: Clear::key(&key), from };
        shared.audit.record(Entry::new(event).on(subject(object, path.to_owned())));
    }
    Ok(())
}

/// Gives a target that lacks a released recording a copy of what another has.
pub(super) fn give(shared: &Shared, it: &Candidate, target: &Arc<Target>) -> Result<()> {
    let (spare, why_not) =
        good_copy(shared, (it.row.id, it.row.generation), target.name(), &it.path)?;
    let Some((file, other)) = spare else {
        let why = format!("there is no copy that can be read{why_not}");
        return Err(EngineError::refused(&it.path, why));
    };
    write_again(shared, target, &other, &it.path, Arc::new(file)).map(drop)
}

/// Writes the bytes of an object to another target, under a key that was never used, which is
/// returned; none if it has them already.
fn write_again(
    shared: &Shared,
    target: &Arc<Target>,
    object: &ObjectRow,
    path: &Path,
    file: Arc<File>,
) -> Result<Option<String>> {
    let (id, generation) = (object.node, object.generation);
    let node = shared.catalog.identity().node;
    let mtime = shared.catalog.node(id)?.map_or_else(|| shared.now(), |row| row.attr.mtime);
    let label = Label {
        node,
        id,
        generation,
        sha256: object.sha256,
        size: object.size,
        mtime,
        stored: object.stored.clone(),
    };
    let it = shared.candidate(id)?;
    let own = it.and_then(|it| shared.class_of(&it));
    let class = own.or_else(|| target.store.storage_class().cloned());
    let names = shared.names_for(target, path, &label)?;
    let meta = ObjectMeta { storage_class: class, ..names.meta.clone() };
    let (stored, keys) = (&object.stored, &names.keys);
    for _ in keys {
        let new = shared.catalog.assign_key_for(id, generation, target.name(), keys, stored)?;
        if new.state == ObjectState::Verified {
            return Ok(None);
        }
        // A key that was taken for the same to be given otherwise.
        if new.stored != *stored || !names.fit(&new.key) {
            shared.catalog.abandon_key(new.id)?;
            continue;
        }
        faults::point("scrub.after_key");
        let body = Body::File { file: Arc::clone(&file), len: stored.size };
        let put = target.store.put(&new.key, body, stored.sha256, &meta);
        let written = match shared.until_stop(put) {
            Ok(()) => true,
            Err(EngineError::Store(e)) if e.kind == StoreErrorKind::Exists => false,
            Err(error) => return Err(error),
        };
        faults::point("scrub.after_put");
        let proof = store::verify(&*target.store, &new.key, stored.size, stored.sha256);
        match shared.until_stop(proof) {
            Ok(_) => {
                let wanted = shared.candidate(id)?.and_then(|it| worm::wanted(shared, &it));
                worm::lock(shared, target, &new.key, wanted)?;
                shared.catalog.verified(new.id, shared.now())?;
                faults::point("scrub.after_proof");
                return Ok(Some(new.key));
            }
            Err(error) if is_bad(&error) => shared.catalog.abandon_key(new.id)?,
            // What was there before and no key opens is left alone.
            Err(EngineError::Store(e)) if !written && e.kind == StoreErrorKind::Locked => {
                tracing::warn!(path = %path.display(), error = %e, "an object is left alone");
                shared.catalog.abandon_key(new.id)?;
            }
            Err(error) => return Err(error),
        }
    }
    let why = format!("target {:?} spoils every copy that it is given", target.name());
    Err(EngineError::refused(path, why))
}
