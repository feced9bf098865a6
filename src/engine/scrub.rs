//! Reading archived objects again, to see that they are still what was archived; replacing the bad
//! ones while there is another copy, and raising an alarm where there is none.
//!
//! **Invariant:** an object is bad only if its target answered so, twice. A bad one is never
//! written over: its replacement has another key.

use super::error::{EngineError, Result};
use super::shared::Shared;
use super::target::Target;
use crate::catalog::{ObjectRow, ObjectState, Remedy};
use crate::clock::Timestamp;
use crate::limits;
use crate::recording::Sha256;
use crate::store::{self, Body, StoreError, StoreErrorKind, key, meta::Label};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs::File;
use std::future::Future;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// How often the thread looks whether an object is due. Also what a test waits at most.
const POLL: Duration = Duration::from_millis(500);
const ROUND: &str = "scrub.round";
const BAD: &str = "scrub.bad";

/// A copy that is gone or damaged, and of which there is no other.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BadCopy {
    /// The recording, relative to the mount.
    pub path: PathBuf,
    /// The target.
    pub target: String,
    /// The key.
    pub key: String,
    /// What is wrong.
    pub reason: String,
    /// When it was found.
    pub at: Timestamp,
}

/// How far the present round has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Round {
    /// Row number of the last object that was looked at.
    after: i64,
    /// Of the last that belongs to this round: what is archived during it is the next one's, so that
    /// the pace holds.
    last: i64,
    /// When it was begun.
    pub begun: Timestamp,
    /// Objects looked at.
    pub checked: u64,
    /// Objects there were when it began.
    pub of: u64,
    /// Bad ones that were replaced.
    pub replaced: u64,
    /// It is through; the next one begins when its time is over.
    pub through: bool,
}

/// What is known of bad copies.
#[derive(Debug, Default)]
pub(super) struct Alarms {
    bad: BTreeMap<(String, String), BadCopy>,
    pub round: Option<Round>,
}

/// What became of an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Check {
    Good,
    /// It was bad; what, and how it was replaced.
    Replaced(String),
    /// It is bad, and there is no other copy.
    Lost(String),
}

impl Alarms {
    pub fn bad(&self) -> Vec<BadCopy> {
        self.bad.values().cloned().collect()
    }
}

/// What an earlier daemon knew.
pub(super) fn load(shared: &Shared) {
    let read = |key| shared.catalog.setting(key).ok().flatten();
    let mut alarms = shared.alarms.lock();
    let bad: Vec<BadCopy> =
        read(BAD).and_then(|text| serde_json::from_str(&text).ok()).unwrap_or_default();
    for one in bad {
        alarms.bad.entry((one.target.clone(), one.key.clone())).or_insert(one);
    }
    if alarms.round.is_none() {
        alarms.round = read(ROUND).and_then(|text| serde_json::from_str(&text).ok());
    }
}

/// Looks at every object once in `every`, until the engine stops.
pub(super) fn run(shared: &Shared, every: Duration) {
    load(shared);
    loop {
        if let Err(error) = super::contain::contained("scrubbing", || step(shared, every)) {
            tracing::debug!(%error, "the scrub goes on later");
        }
        if shared.stop.wait(POLL) {
            return;
        }
    }
}

/// Looks at what is due by now.
fn step(shared: &Shared, every: Duration) -> Result<()> {
    loop {
        shared.check_stop()?;
        let now = shared.now();
        let known = shared.alarms.lock().round;
        let over = |r: &Round| r.begun.plus(every) <= now && r.through;
        let mut round = match known.filter(|r| !over(r)) {
            Some(round) => round,
            None => {
                let (of, last) = shared.catalog.count_verified()?;
                save(shared, Round { begun: now, of, last, ..Round::default() })?
            }
        };
        // It catches up when the line may be used again.
        if round.through || shared.uploads_are_off() {
            return Ok(());
        }
        if round.after >= round.last {
            round.through = true;
            save(shared, round)?;
            return Ok(());
        }
        let share = round.begun.age_at(now).as_secs_f64() / every.as_secs_f64().max(1.0);
        if round.checked as f64 >= share * round.of as f64 && share < 1.0 {
            return Ok(());
        }
        let next = shared.catalog.verified_objects(round.after, 1)?.pop();
        let Some(object) = next.filter(|object| object.id <= round.last) else {
            round.through = true;
            save(shared, round)?;
            return Ok(());
        };
        match check(shared, &object) {
            Ok(Check::Replaced(_)) => round.replaced += 1,
            // A target that is away is looked at when it is back, or in the next round.
            Err(error) if error.is_of_the_moment() => return Err(error),
            Err(error) => tracing::warn!(%error, key = object.key, "an object was not looked at"),
            Ok(_) => {}
        }
        round.after = object.id;
        round.checked += 1;
        save(shared, round)?;
    }
}

fn save(shared: &Shared, round: Round) -> Result<Round> {
    shared.alarms.lock().round = Some(round);
    let text = serde_json::to_string(&round).unwrap_or_default();
    shared.catalog.set_setting(ROUND, &text)?;
    Ok(round)
}

/// Reads an object, and sees to it if it is bad.
///
/// # Errors
/// Nothing is known of it: the target did not answer.
pub(super) fn check(shared: &Shared, object: &ObjectRow) -> Result<Check> {
    let target = find(shared, &object.target, object)?;
    let mut found = read(shared, &target, object, &mut |_, _| Ok(()));
    if matches!(&found, Err(e) if is_bad(e)) {
        // A wrong answer may have come from the way; a wrong object stays wrong.
        found = read(shared, &target, object, &mut |_, _| Ok(()));
    }
    match found {
        Ok(()) => {
            forget(shared, object)?;
            Ok(Check::Good)
        }
        Err(error) if is_bad(&error) => bad(shared, &target, object, &error.to_string()),
        Err(error) => Err(error),
    }
}

fn is_bad(error: &EngineError) -> bool {
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

type Sink<'a> = &'a mut dyn FnMut(u64, &[u8]) -> std::io::Result<()>;

/// Reads all of an object and compares its hash.
fn read(shared: &Shared, target: &Target, object: &ObjectRow, sink: Sink<'_>) -> Result<()> {
    use sha2::Digest;
    let wrong = |detail: String| {
        let what = format!("the object is not what was archived: {detail}");
        StoreError::new(StoreErrorKind::Corrupt, target.name(), "get", &object.key, what)
    };
    let head = until_stop(shared, target.store.head(&object.key))?;
    if head.size != object.size {
        return Err(wrong(format!("{} bytes, {} were archived", head.size, object.size)).into());
    }
    let (mut hasher, mut offset) = (sha2::Sha256::new(), 0);
    while offset < object.size {
        let end = object.size.min(offset + limits::READ_BACK_BYTES);
        let bytes = until_stop(shared, target.store.get(&object.key, offset..end))?;
        if bytes.len() as u64 != end - offset {
            return Err(wrong(format!("it ends after {}", offset + bytes.len() as u64)).into());
        }
        sink(offset, &bytes).map_err(|e| StoreError::unreadable(target.name(), &object.key, &e))?;
        hasher.update(&bytes);
        offset = end;
        let _stops_at_the_next_request = shared.keep_pace(bytes.len() as u64);
    }
    let found = Sha256(hasher.finalize().into());
    if found == object.sha256 {
        return Ok(());
    }
    Err(wrong(format!("SHA-256 {found}, {} was archived", object.sha256)).into())
}

fn until_stop<T>(shared: &Shared, request: impl Future<Output = store::Result<T>>) -> Result<T> {
    shared.runtime.block_on(async {
        tokio::select! {
            answer = request => Ok(answer?),
            () = shared.stop.reached() => Err(EngineError::Stopping),
        }
    })
}

fn bad(shared: &Shared, target: &Arc<Target>, object: &ObjectRow, reason: &str) -> Result<Check> {
    let path = shared.catalog.last_path(object.node)?.unwrap_or_default();
    tracing::error!(path = %path.display(), reason, "an archived object is damaged or gone");
    // The good copy is in hand before the bad one is given up.
    let spare = good_copy(shared, object)?;
    let remedy = shared.catalog.object_bad(object, spare.is_some())?;
    let how = match (remedy, spare) {
        (Remedy::Settled, _) => "somebody else has seen to it".to_owned(),
        (Remedy::Local, _) => {
            shared.fill_at(shared.now());
            shared.wake();
            "it is archived again from the local copy".to_owned()
        }
        (Remedy::Elsewhere, Some((file, from))) => {
            write_again(shared, target, object, &path, Arc::new(file))?;
            format!("it was replaced from target {from:?}")
        }
        // The others are bad too, or can not be read now; this one is asked for again.
        (Remedy::Elsewhere | Remedy::None, _) => {
            alarm(shared, object, path, reason)?;
            return Ok(Check::Lost(format!("{reason}; there is no other copy that can be read")));
        }
    };
    forget(shared, object)?;
    Ok(Check::Replaced(format!("{reason}; {how}")))
}

/// The same bytes from another target, in a file without a name; and which target.
fn good_copy(shared: &Shared, object: &ObjectRow) -> Result<Option<(File, String)>> {
    for other in shared.catalog.objects(object.node, Some(object.generation))? {
        if other.id == object.id || other.state != ObjectState::Verified {
            continue;
        }
        let Ok(target) = find(shared, &other.target, &other) else { continue };
        let file = shared.lower.scratch()?;
        let copied = read(shared, &target, &other, &mut |at, bytes| file.write_all_at(bytes, at));
        match copied {
            Ok(()) => return Ok(Some((file, other.target))),
            Err(EngineError::Stopping) => return Err(EngineError::Stopping),
            Err(error) => tracing::warn!(%error, "another copy can not be had either"),
        }
    }
    Ok(None)
}

/// Writes the bytes to a target under a key that was never used.
fn write_again(
    shared: &Shared,
    target: &Arc<Target>,
    object: &ObjectRow,
    path: &std::path::Path,
    file: Arc<File>,
) -> Result<()> {
    let (id, generation) = (object.node, object.generation);
    let node = shared.catalog.identity().node;
    let mtime = shared.catalog.node(id)?.map_or_else(|| shared.now(), |row| row.attr.mtime);
    let label = Label {
        node: node.clone(),
        id,
        generation,
        sha256: object.sha256,
        size: object.size,
        mtime,
    };
    let random: Vec<u32> =
        std::iter::repeat_with(|| fastrand::u32(..)).take(limits::KEY_CANDIDATES).collect();
    let keys = key::candidates(target.store.prefix(), &node, path, generation, &random);
    let meta = label.to_meta(path);
    for _ in &keys {
        let new = shared.catalog.assign_key(id, generation, target.name(), &keys)?;
        if new.state == ObjectState::Verified {
            return Ok(());
        }
        let body = Body::File { file: Arc::clone(&file), len: object.size };
        let put = target.store.put(&new.key, body, object.sha256, &meta);
        match until_stop(shared, put) {
            Ok(()) => {}
            Err(EngineError::Store(e)) if e.kind == StoreErrorKind::Exists => {}
            Err(error) => return Err(error),
        }
        let proof = store::verify(&*target.store, &new.key, object.size, object.sha256);
        match until_stop(shared, proof) {
            Ok(_) => return Ok(shared.catalog.verified(new.id, shared.now())?),
            Err(error) if is_bad(&error) => shared.catalog.abandon_key(new.id)?,
            Err(error) => return Err(error),
        }
    }
    let why = format!("target {:?} spoils every copy that it is given", target.name());
    Err(EngineError::refused(path, why))
}

fn alarm(shared: &Shared, object: &ObjectRow, path: PathBuf, reason: &str) -> Result<()> {
    let (target, key) = (object.target.clone(), object.key.clone());
    let mut alarms = shared.alarms.lock();
    if alarms.bad.len() >= limits::BAD_COPIES_MAX {
        return Ok(());
    }
    let at = shared.now();
    let one = BadCopy { path, target: target.clone(), key: key.clone(), reason: reason.into(), at };
    alarms.bad.insert((target, key), one);
    drop(alarms);
    store_alarms(shared)
}

fn forget(shared: &Shared, object: &ObjectRow) -> Result<()> {
    let name = (object.target.clone(), object.key.clone());
    if shared.alarms.lock().bad.remove(&name).is_some() {
        store_alarms(shared)?;
    }
    Ok(())
}

fn store_alarms(shared: &Shared) -> Result<()> {
    let text = serde_json::to_string(&shared.alarms.lock().bad()).unwrap_or_default();
    Ok(shared.catalog.set_setting(BAD, &text)?)
}
