//! Storing archived recordings anew, as their rules want it now: `recompress`.
//!
//! **Invariant:** the old object counts until the new one was proved in every target that has the
//! recording; and what is on hold, or locked in a target, is left as it is.

use super::command::{self, Outcome, Progress, Summary};
use super::encode::{self, Encoded, How, Original};
use super::error::{EngineError, Result};
use super::hash::open_quiet;
use super::mend::is_bad;
use super::recall::check_room;
use super::shared::Shared;
use super::target::Target;
use super::{locks, worm};
use crate::audit::{Clear, Entry, Event, Subject};
use crate::catalog::{Candidate, LockState, ObjectRow, ObjectState};
use crate::lower::Quiet;
use crate::recording::{Encoding, Hasher, NodeId, State};
use crate::store::{self, Body, Locks, ObjectMeta, StoreErrorKind, key, meta::Label};
use crate::{faults, limits};
use parking_lot::Mutex;
use std::fs::File;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How long a target is waited for that was not reached since the start.
const REACHED_WITHIN: Duration = Duration::from_secs(5);
/// How often it is looked whether it was.
const LOOK: Duration = Duration::from_millis(50);

/// What was gained, or would be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Gain {
    /// Bytes in the targets before.
    pub before: u64,
    /// Bytes there afterwards, without the old objects; of a plan an estimate.
    pub after: u64,
    /// Recordings that were left as they are because they are on legal hold.
    pub held: u64,
    /// Those that were because a target has one locked.
    pub locked: u64,
}

/// Stores as FLAC what is to be by its rule, and is not.
pub(super) fn recompress(
    shared: &Shared,
    plan: bool,
    paths: &[PathBuf],
    progress: &(dyn Fn(&Progress) + Sync),
) -> Result<(Summary, Gain)> {
    shared.catalog.know_holds()?;
    let until = Instant::now() + REACHED_WITHIN;
    while !plan && shared.targets.iter().any(|t| t.is_in_doubt()) && Instant::now() < until {
        if shared.stop.wait(LOOK) {
            return Err(EngineError::Stopping);
        }
    }
    let gain = Mutex::new(Gain::default());
    let each = |id: NodeId| one(shared, id, plan, &gain);
    let summary = command::each(shared, paths, &each, progress)?;
    Ok((summary, gain.into_inner()))
}

fn already(why: &str) -> Result<Outcome> {
    Ok(Outcome::Already(why.to_owned()))
}

fn one(shared: &Shared, id: NodeId, plan: bool, gain: &Mutex<Gain>) -> Result<Outcome> {
    let path = command::current(shared, id)?.path;
    let _claim = command::claim(shared, &[id], &path)?;
    let it = command::current(shared, id)?;
    let settled = matches!(it.row.state, State::Archived | State::Released);
    if !settled || it.trashed || shared.lower.partial(id).is_some() {
        return already("it is not archived yet: it will be as its rule says then");
    }
    let how = How { compress: shared.compress_of(&it), seal_to: shared.seal_to_of(&it) };
    if how.compress.is_none() {
        return already("its rule stores it as it is");
    }
    if !may_be_pcm(&it.path) {
        return already("it is no PCM by its name");
    }
    let mut old = shared.catalog.objects(id, Some(it.row.generation))?;
    old.retain(|o| o.state == ObjectState::Verified && !is_flac(&o.stored.encoding));
    if old.is_empty() {
        return already("it is stored as FLAC");
    }
    if how.seal_to.is_none() && old.iter().any(|o| o.stored.encoding.is_sealed()) {
        return already("it is sealed, and its rule does not seal now: it stays as it is");
    }
    if shared.catalog.is_held(id) {
        gain.lock().held += 1;
        return already("it is on legal hold");
    }
    let places = places(shared, &it, &old)?;
    for (object, target) in &places {
        if !plan && !target.is_up() {
            return Err(target.trouble().into());
        }
        if is_locked(shared, &it, object, (target, plan))? {
            gain.lock().locked += 1;
            return already("it is locked in a target");
        }
    }
    let before = old.iter().map(|o| o.stored.size).fold(0, u64::saturating_add);
    let add = |after: u64| {
        let mut gain = gain.lock();
        gain.before = gain.before.saturating_add(before);
        gain.after = gain.after.saturating_add(after);
    };
    if plan {
        add(before / limits::FLAC_USUAL_GAIN);
        return Ok(Outcome::Done);
    }
    let Some(made) = make(shared, &it, &how)? else {
        return already("it is no PCM, or FLAC would gain too little");
    };
    let new = give(shared, &it, &places, &made)?;
    let (all, now) = (new.iter().map(|o| o.id).collect::<Vec<_>>(), shared.now());
    if !shared.catalog.take_places((id, it.row.generation), &all, now)? {
        return Err(EngineError::refused(&it.path, "it changed meanwhile; try again later"));
    }
    faults::point("rewrite.after_move");
    shared.content.moved(id, it.row.generation);
    for (old, new) in old.iter().zip(&new) {
        let (target, from) = (new.target.clone(), Clear::key(&old.key));
        let event = Event::ObjectStoredAnew { target, key: Clear::key(&new.key), from };
        shared.audit.record(Entry::new(event).on(subject(new, &it.path)));
    }
    add(made.stored.size.saturating_mul(new.len() as u64));
    Ok(Outcome::Done)
}

pub(super) fn subject(object: &ObjectRow, path: &Path) -> Subject {
    let (id, generation, sha256) = (object.node, object.generation, Some(object.sha256));
    Subject { id, path: path.to_owned(), generation, sha256 }
}

/// What is stored as FLAC if it is PCM: what Asterisk writes with these suffixes.
fn may_be_pcm(path: &Path) -> bool {
    let suffix = path.extension().map(OsStrExt::as_bytes).unwrap_or_default();
    matches!(suffix, b"wav" | b"wav16") || suffix.starts_with(b"sln")
}

fn is_flac(encoding: &Encoding) -> bool {
    match encoding {
        Encoding::Sealed(sealed) => is_flac(sealed.inner()),
        encoding => matches!(encoding, Encoding::Flac(_)),
    }
}

/// The objects with their targets.
fn places<'a>(
    shared: &'a Shared,
    it: &Candidate,
    old: &[ObjectRow],
) -> Result<Vec<(ObjectRow, &'a Arc<Target>)>> {
    let place = |object: &ObjectRow| {
        let target =
            shared.targets.iter().find(|t| t.name() == object.target).ok_or_else(|| {
                let why = format!("target {:?}, which has it, is not configured", object.target);
                EngineError::refused(&it.path, why)
            })?;
        Ok((object.clone(), target))
    };
    old.iter().map(place).collect()
}

/// Whether a target has, or is to have, an object under a lock: it could not be deleted. Of a plan: as
/// far as that is known.
fn is_locked(
    shared: &Shared,
    it: &Candidate,
    object: &ObjectRow,
    (target, plan): (&Target, bool),
) -> Result<bool> {
    let known = shared.catalog.locks(object.node, target.name())?;
    let locked = |state| !matches!(state, LockState::Wanted);
    if known.iter().any(|row| row.object == object.id && locked(row.state)) {
        return Ok(true);
    }
    if worm::wanted(shared, it).is_none() {
        return Ok(false);
    }
    // A plan asks nobody.
    let can = if plan { target.locks.can() } else { Some(locks::ability(shared, target)?) };
    Ok(can == Some(Locks::Yes))
}

/// The new object as a file without a name, decoded again and compared; `None`: it would be none of
/// FLAC.
fn make(shared: &Shared, it: &Candidate, how: &How) -> Result<Option<Arc<Encoded>>> {
    let Some(sha256) = it.row.sha256 else { return Ok(None) };
    let local = local(shared, it)?;
    let fetched;
    let (file, size) = match &local {
        Some(quiet) => (&*quiet.file, quiet.stat.version.size),
        None => {
            fetched = fetch(shared, it)?;
            (&fetched, it.row.attr.size)
        }
    };
    let original = Original { file, size, path: &it.path, sha256 };
    let made = encode::encode(shared, &original, how)?;
    Ok(made.filter(|made| is_flac(&made.stored.encoding)).map(Arc::new))
}

/// The local copy, if it is what was archived.
fn local(shared: &Shared, it: &Candidate) -> Result<Option<Quiet>> {
    if it.row.state != State::Archived {
        return Ok(None);
    }
    let quiet = open_quiet(shared, it)?;
    Ok(quiet.filter(|quiet| Some(quiet.stat.version) == it.row.hashed))
}

/// The recording as a target has it, in a file without a name.
fn fetch(shared: &Shared, it: &Candidate) -> Result<File> {
    check_room(shared, &it.path, it.row.attr.size)?;
    let (file, mut hasher) = (shared.lower.scratch()?, Hasher::default());
    shared.content.fetch_all(it.row.id, &it.path, &mut |offset, bytes| {
        hasher.update(bytes);
        if !shared.keep_pace(bytes.len() as u64) || shared.stop.is_set() {
            return Err(std::io::ErrorKind::Interrupted.into());
        }
        file.write_all_at(bytes, offset)
    })?;
    shared.check_stop()?;
    match Some(hasher.finish().0) == it.row.sha256 {
        true => Ok(file),
        false => {
            let detail = "what came back is not what was archived".to_owned();
            Err(EngineError::Corrupt { path: it.path.clone(), detail })
        }
    }
}

/// Puts the new object into each target, under a key that was never used, and proves it.
fn give(
    shared: &Shared,
    it: &Candidate,
    places: &[(ObjectRow, &Arc<Target>)],
    made: &Arc<Encoded>,
) -> Result<Vec<ObjectRow>> {
    places.iter().map(|(old, target)| give_one(shared, it, target, old, made)).collect()
}

fn give_one(
    shared: &Shared,
    it: &Candidate,
    target: &Arc<Target>,
    old: &ObjectRow,
    made: &Arc<Encoded>,
) -> Result<ObjectRow> {
    let (id, generation, stored) = (it.row.id, it.row.generation, &made.stored);
    let node = shared.catalog.identity().node;
    let random: Vec<u32> =
        std::iter::repeat_with(|| fastrand::u32(..)).take(limits::KEY_CANDIDATES).collect();
    let named = key::object_path(&it.path, &stored.encoding);
    let keys = key::candidates(target.store.prefix(), &node, &named, generation, &random);
    let (sha256, size, mtime) = (old.sha256, old.size, it.row.attr.mtime);
    let label = Label { node, id, generation, sha256, size, mtime, stored: stored.clone() };
    let class = shared.class_of(it).or_else(|| target.store.storage_class().cloned());
    let meta = ObjectMeta { storage_class: class, ..label.to_meta(&it.path) };
    for _ in &keys {
        let now = shared.now();
        let new =
            shared.catalog.reserve_key((id, generation), target.name(), &keys, stored, now)?;
        shared.leaving.note();
        faults::point("rewrite.after_key");
        if !shared.keep_pace(stored.size) {
            return Err(EngineError::Stopping);
        }
        let body = Body::File { file: Arc::clone(&made.file), len: stored.size };
        match shared.ask(target, target.store.put(&new.key, body, stored.sha256, &meta)) {
            Ok(()) => {}
            // Of somebody who is not in the catalog: it is left alone.
            Err(EngineError::Store(e)) if e.kind == StoreErrorKind::Exists => {
                shared.catalog.stays(new.id)?;
                continue;
            }
            Err(error) => return Err(error),
        }
        faults::point("rewrite.after_put");
        let proof = store::verify(&*target.store, &new.key, stored.size, stored.sha256);
        match shared.ask(target, proof) {
            Ok(_) => {
                faults::point("rewrite.after_proof");
                return Ok(new);
            }
            // It leaves, and another key is tried.
            Err(error) if is_bad(&error) => {}
            Err(error) => return Err(error),
        }
    }
    let why = format!("target {:?} spoils every copy that it is given", target.name());
    Err(EngineError::refused(&it.path, why))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_of_pcm_are_fetched_for_a_look() {
        for (name, may) in [
            ("a/b.wav", true),
            ("b.wav16", true),
            ("b.sln16", true),
            ("b.WAV", false),
            ("b.mp3", false),
            ("wav", false),
        ] {
            assert_eq!(may_be_pcm(Path::new(name)), may, "{name}");
        }
    }
}
