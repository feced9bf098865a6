//! Storing archived recordings anew, as their rules want it now: `recompress` and `reseal`.
//!
//! **Invariant:** the old object counts until the new one was proved in every target that has the
//! recording; and what is on hold, or locked in a target, is left as it is.

use super::command::{self, Outcome, Progress, Summary};
use super::encode::{self, Encoded, How, Original};
use super::error::{EngineError, Result};
use super::hash::open_quiet;
use super::mend::is_bad;
use super::names::NewNames;
use super::recall::check_room;
use super::shared::Shared;
use super::target::Target;
use super::{locks, worm};
use crate::audit::{Clear, Entry, Event, Subject};
use crate::catalog::{Candidate, LockState, ObjectRow, ObjectState};
use crate::codec::seal::{BadRecipient, Recipients};
use crate::lower::Quiet;
use crate::policy::{Compress, Rules};
use crate::recording::{Encoding, Hasher, NodeId, Sha256, State};
use crate::store::{self, Body, Locks, ObjectMeta, StoreErrorKind, meta::Label};
use crate::units::Percent;
use crate::{faults, limits};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
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

/// What is to be otherwise.
#[derive(Clone, Copy, Debug)]
enum Wish {
    /// FLAC, where the rule says so.
    Flac,
    /// Sealed to the keys of its rule. What has a row behind this one was sealed to them already.
    Sealed(i64),
}

/// Stores as FLAC what is to be by its rule, and is not.
pub(super) fn recompress(
    shared: &Shared,
    plan: bool,
    paths: &[PathBuf],
    progress: &(dyn Fn(&Progress) + Sync),
) -> Result<(Summary, Gain)> {
    all(shared, Wish::Flac, plan, paths, progress)
}

/// Seals what is sealed, or is to be by its rule, to the keys that its rule has now: `added` are some
/// of them, `removed` none.
pub(super) fn reseal(
    shared: &Shared,
    keys: &Keys,
    plan: bool,
    paths: &[PathBuf],
    progress: &(dyn Fn(&Progress) + Sync),
) -> Result<(Summary, Gain)> {
    let rules = Arc::clone(&shared.configured.read());
    keys.check(&rules)?;
    let run = Run::of(shared, &rules)?;
    if !plan {
        shared.catalog.set_setting(RUN, &serde_json::to_string(&run).unwrap_or_default())?;
    }
    all(shared, Wish::Sealed(run.after), plan, paths, progress)
}

/// The keys that somebody wants recordings sealed to, and not.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Keys {
    /// Some rule must have them.
    pub added: Vec<String>,
    /// No rule may.
    pub removed: Vec<String>,
}

impl Keys {
    /// These.
    ///
    /// # Errors
    /// One of them is no public key. It is not repeated where it may be a secret one.
    pub fn new(
        added: Vec<String>,
        removed: Vec<String>,
    ) -> std::result::Result<Keys, BadRecipient> {
        Recipients::parse(&added)?;
        Recipients::parse(&removed)?;
        Ok(Keys { added, removed })
    }

    /// What is archived from now on must be sealed as what is sealed anew.
    fn check(&self, rules: &Rules) -> Result<()> {
        let used = rules.all_keys();
        let refused = |why: String| Err(EngineError::refused(Path::new("encrypt_to"), why));
        let is_used = |key: &&String| used.iter().any(|other| other == key.trim());
        if let Some(key) = self.added.iter().find(|key| !is_used(key)) {
            return refused(format!(
                "no rule seals to {key:?}: put it into encrypt_to and reload, so that what is archived \
                 from now on is sealed to it, too"
            ));
        }
        if let Some(key) = self.removed.iter().find(is_used) {
            return refused(format!(
                "what is archived is still sealed to {key:?}: take it out of encrypt_to and reload first"
            ));
        }
        if used.is_empty() {
            return refused("no rule seals to any key".to_owned());
        }
        Ok(())
    }
}

const RUN: &str = "reseal";

/// One time that all is sealed anew: it goes on where it was as long as the rules seal to the same.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Run {
    /// Which keys the rules seal to.
    keys: Sha256,
    /// The last object that there was when it was begun.
    after: i64,
}

impl Run {
    /// The one that is under way, else a new one.
    fn of(shared: &Shared, rules: &Rules) -> Result<Run> {
        let keys = Sha256::of(rules.seal_digest().as_bytes());
        let known = shared.catalog.setting(RUN)?.and_then(|text| serde_json::from_str(&text).ok());
        match known.filter(|run: &Run| run.keys == keys) {
            Some(run) => Ok(run),
            None => Ok(Run { keys, after: shared.catalog.last_object()? }),
        }
    }
}

fn all(
    shared: &Shared,
    wish: Wish,
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
    let each = |id: NodeId| one(shared, id, (wish, plan), &gain);
    let summary = command::each(shared, paths, &each, progress)?;
    Ok((summary, gain.into_inner()))
}

fn already(why: &str) -> Result<Outcome> {
    Ok(Outcome::Already(why.to_owned()))
}

fn one(
    shared: &Shared,
    id: NodeId,
    (wish, plan): (Wish, bool),
    gain: &Mutex<Gain>,
) -> Result<Outcome> {
    let path = command::current(shared, id)?.path;
    let _claim = command::claim(shared, &[id], &path)?;
    let it = command::current(shared, id)?;
    let settled = matches!(it.row.state, State::Archived | State::Released);
    if !settled || it.trashed || shared.lower.partial_for_sure(id)?.is_some() {
        return already("it is not archived yet: it will be as its rule says then");
    }
    let (how, old) = match to_do(shared, &it, wish)? {
        Ok(to_do) => to_do,
        Err(why) => return already(why),
    };
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
        add(match wish {
            Wish::Flac => before / limits::FLAC_USUAL_GAIN,
            Wish::Sealed(_) => before,
        });
        return Ok(Outcome::Done);
    }
    let made = make(shared, &it, &how)?;
    let Some(made) = made.filter(|made| is_wanted(&made.stored.encoding, wish)) else {
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

/// How it is to be stored, and the objects that are not; else why there is nothing to do.
fn to_do(
    shared: &Shared,
    it: &Candidate,
    wish: Wish,
) -> Result<std::result::Result<(How, Vec<ObjectRow>), &'static str>> {
    let mut how = How { compress: shared.compress_of(it), seal_to: shared.seal_to_of(it) };
    let mut old = shared.catalog.objects(it.row.id, Some(it.row.generation))?;
    let all = old.clone();
    old.retain(|o| o.state == ObjectState::Verified);
    let is_sealed = old.iter().any(|o| o.stored.encoding.is_sealed());
    let unsealed = "it is sealed, and its rule does not seal now: it stays as it is";
    match wish {
        Wish::Flac if how.compress.is_none() => return Ok(Err("its rule stores it as it is")),
        Wish::Flac if !may_be_pcm(&it.path) => return Ok(Err("it is no PCM by its name")),
        Wish::Flac => old.retain(|o| !is_flac(&o.stored.encoding)),
        Wish::Sealed(_) if how.seal_to.is_none() => {
            return Ok(Err(if is_sealed { unsealed } else { "its rule does not seal it" }));
        }
        Wish::Sealed(after) => {
            // What became no smaller for the sake of another rule stays as small as it is.
            if old.iter().any(|o| is_flac(&o.stored.encoding)) {
                how.compress = Some(Compress::Flac { min_gain: Percent(0) });
            }
            // A copy of an older one is as old as that.
            let older = |o: &ObjectRow| {
                all.iter().any(|a| a.id <= after && a.stored.sha256 == o.stored.sha256)
            };
            old.retain(|o| !o.stored.encoding.is_sealed() || o.id <= after || older(o));
        }
    }
    Ok(match old.is_empty() {
        true => Err("it is stored as its rule says"),
        false if how.seal_to.is_none() && is_sealed => Err(unsealed),
        false => Ok((how, old)),
    })
}

fn is_wanted(encoding: &Encoding, wish: Wish) -> bool {
    match wish {
        Wish::Flac => is_flac(encoding),
        Wish::Sealed(_) => encoding.is_sealed(),
    }
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

/// The new object as a file without a name, decoded again and compared; `None`: it would be the
/// recording as it is.
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
    Ok(encode::encode(shared, &original, how)?.map(Arc::new))
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
    let (sha256, size, mtime) = (old.sha256, old.size, it.row.attr.mtime);
    let label = Label { node, id, generation, sha256, size, mtime, stored: stored.clone() };
    let class = shared.class_of(it).or_else(|| target.store.storage_class().cloned());
    let NewNames { keys, meta, .. } = shared.names_for(target, &it.path, &label)?;
    let meta = ObjectMeta { storage_class: class, ..meta };
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
                // A rule may say so since it was looked at.
                worm::lock(shared, target, &new.key, worm::wanted(shared, it))?;
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
