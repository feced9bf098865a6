//! Writing a recording to its targets, and proving it.
//!
//! **Invariant:** no key is put to that an object of somebody else has, or that an unknown outcome
//! was left under; and a recording counts as archived only if exactly the hashed version was
//! proved in every required target and is still what is there.

use super::encode::{self, Encoded, How, Original};
use super::error::{EngineError, Result};
use super::hash::{self, open_quiet};
use super::names::NewNames;
use super::shared::Shared;
use super::target::Target;
use super::unsent::Version;
use super::{trash, worm};
use crate::catalog::{Candidate, Digest, ObjectRow, ObjectState};
use crate::lower::Quiet;
use crate::policy::StorageClass;
use crate::recording::{ErrorClass, Generation, LowerVersion, NodeId, Sha256, State, Stored};
use crate::store::{self, Body, ObjectMeta, Retention, StoreError, StoreErrorKind, meta::Label};
use crate::{faults, limits};
use std::cell::OnceCell;
use std::future::Future;
use std::path::PathBuf;
use std::sync::Arc;

/// What became of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Archived {
    /// Every required target holds it.
    Done,
    /// It changed, or was opened again: it is hashed again when it is quiet.
    Changed,
    /// It is not there any more.
    Gone,
}

/// One generation on its way.
struct Job {
    id: NodeId,
    path: PathBuf,
    /// Where its bytes are.
    below: PathBuf,
    generation: Generation,
    sha256: Sha256,
    hashed: LowerVersion,
    quiet: Quiet,
    /// It is archived already, and some target lacks it.
    archived: bool,
    /// The lock that its rule asks for.
    worm: Option<Retention>,
    /// How its rule wants it stored.
    how: How,
    /// The storage class that its rule has for its objects.
    class: Option<StorageClass>,
    /// What a target is given instead of its bytes; made when the first one lacks it.
    encoded: OnceCell<Option<Arc<Encoded>>>,
}

impl Job {
    fn encoded(&self, shared: &Shared) -> Result<Option<&Encoded>> {
        if self.encoded.get().is_none() {
            let encoded = match shared.unsent.take(self.version(), shared.space.pressure()) {
                Some(made_before) => Some(made_before),
                None => encode::encode(shared, &self.original(), &self.how)?.map(Arc::new),
            };
            let _not_set_before = self.encoded.set(encoded);
        }
        Ok(self.encoded.get().and_then(Option::as_deref))
    }

    fn original(&self) -> Original<'_> {
        let (file, size) = (&*self.quiet.file, self.quiet.stat.version.size);
        Original { file, size, path: &self.path, sha256: self.sha256 }
    }

    /// What it was made of, and how.
    fn version(&self) -> Version {
        (self.id, self.generation, self.hashed, self.how.clone())
    }

    /// What was made to be sent is sent the next time.
    fn keep(&self, shared: &Shared) {
        if let Some(Some(encoded)) = self.encoded.get() {
            shared.unsent.keep(self.version(), encoded, shared.space.pressure());
        }
    }

    fn stored(&self, shared: &Shared) -> Result<Stored> {
        let plain = || Stored::plain(self.quiet.stat.version.size, self.sha256);
        Ok(self.encoded(shared)?.map_or_else(plain, |encoded| encoded.stored.clone()))
    }
}

/// Archives one hashed candidate, or brings an archived one to the targets that lack it. A target
/// that fails does not keep it from the others.
pub(super) fn archive(shared: &Shared, it: &Candidate) -> Result<Archived> {
    let Some(job) = prepare(shared, it)? else { return Ok(Archived::Gone) };
    let Some(mut job) = unchanged(shared, job)? else { return Ok(Archived::Changed) };
    let wanted = shared.targets_of(it)?;
    let mut failed: Option<EngineError> = None;
    for target in &wanted.must {
        match to_target(shared, &job, target) {
            Ok(true) => {}
            Ok(false) => return Ok(Archived::Changed),
            Err(error @ EngineError::Store(_)) => {
                // What is the recording's own fault is remembered as that.
                failed = Some(failed.filter(|_| error.is_target_down()).unwrap_or(error));
            }
            Err(error) => return Err(error),
        }
    }
    if !job.archived {
        if let Some(error) = failed {
            return Err(error);
        }
        // What was never on the disk comes back empty after a power cut, and would be taken for a
        // newer version of what is archived.
        if let Err(error) = shared.lower.persist(&job.quiet, &job.below) {
            // The kernel says it once: the next try may succeed though nothing was written.
            shared.catalog.suspect(job.id);
            return Err(error.into());
        }
        let Some(still) = unchanged(shared, job)? else { return Ok(Archived::Changed) };
        job = still;
        let (id, generation, now) = (job.id, job.generation, shared.now());
        faults::point("archive.before_commit");
        if !shared.catalog.archived(id, generation, job.hashed, &wanted.names, now)? {
            return Ok(Archived::Changed);
        }
        shared.drained.one(job.hashed.size);
        faults::point("archive.after_commit");
    }
    let optional = to_optional(shared, &job, &wanted.should);
    match failed {
        Some(error) => Err(error),
        None if job.archived => {
            optional?;
            if it.not_before.is_some() {
                shared.catalog.succeeded(job.id)?;
            }
            Ok(Archived::Done)
        }
        // It is archived; what is left is tried again by and by.
        None => Ok(Archived::Done),
    }
}

/// Gives it to the targets that need not have it; the last failure that is the recording's own.
fn to_optional(shared: &Shared, job: &Job, targets: &[&Arc<Target>]) -> Result<()> {
    let mut failed = Ok(());
    for target in targets {
        let Err(error) = to_target(shared, job, target) else { continue };
        tracing::warn!(%error, "an optional target did not get a recording yet");
        // When one that is down comes up again, it is filled.
        if !error.is_target_down() {
            shared.fill_at(shared.now().plus(limits::BACKOFF_MAX));
            failed = Err(error);
        }
    }
    failed
}

fn prepare(shared: &Shared, it: &Candidate) -> Result<Option<Job>> {
    let Some(quiet) = open_quiet(shared, it)? else { return Ok(None) };
    let id = it.row.id;
    let Some(row) = shared.catalog.node(id)? else { return Ok(None) };
    let (Some(sha256), Some(hashed)) = (row.sha256, row.hashed) else {
        return Err(EngineError::refused(&it.path, "it has not been hashed yet"));
    };
    let (path, below, generation) = (it.path.clone(), trash::below(it), row.generation);
    let archived = row.state == State::Archived;
    let (encoded, class) = (OnceCell::new(), shared.class_of(it));
    let worm = worm::wanted(shared, it);
    let how = How { compress: shared.compress_of(it), seal_to: shared.seal_to_of(it) };
    Ok(Some(Job {
        id,
        path,
        below,
        generation,
        sha256,
        hashed,
        quiet,
        archived,
        worm,
        how,
        class,
        encoded,
    }))
}

/// The job, if the file is still what was hashed and nobody writes to it. Otherwise the catalog
/// is told what is there.
fn unchanged(shared: &Shared, job: Job) -> Result<Option<Job>> {
    if job.quiet.stat.version == job.hashed && shared.lower.still_quiet(&job.quiet)? {
        return Ok(Some(job));
    }
    if let Ok(stat) = crate::lower::stat_file(&*job.quiet.file)
        && stat.version != job.hashed
    {
        shared.catalog.changed_below(job.id, stat.attr, stat.version)?;
    }
    Ok(None)
}

/// Sees to it that a target holds the job's generation, proved. False if the file changed.
fn to_target(shared: &Shared, job: &Job, target: &Arc<Target>) -> Result<bool> {
    let assigned = shared
        .catalog
        .objects(job.id, Some(job.generation))?
        .into_iter()
        .find(|o| o.target == target.name() && o.state != ObjectState::Abandoned);
    if assigned.as_ref().is_some_and(|o| o.state == ObjectState::Verified) {
        return Ok(true);
    }
    if !target.is_up() {
        return Err(target.trouble().into());
    }
    let outcome = put_under_a_free_key(shared, job, target, assigned.is_some());
    // What the target spoiled is made anew, everything else sent again.
    if outcome.as_ref().is_err_and(|e| e.class() != ErrorClass::Corrupt) {
        job.keep(shared);
    }
    let is_down = target.was_given(job.id, &outcome, shared.now());
    match &outcome {
        Err(error) if is_down && !error.is_target_down() => Err(target.trouble().into()),
        _ => outcome,
    }
}

/// `left_over`: a key was assigned in an earlier try, whose outcome is not known.
fn put_under_a_free_key(
    shared: &Shared,
    job: &Job,
    target: &Arc<Target>,
    mut left_over: bool,
) -> Result<bool> {
    let stored = match job.stored(shared) {
        // What was to be sealed is not what was hashed.
        Err(error @ EngineError::Corrupt { .. }) => {
            return wrong_body(shared, job, error).map(|_changed| false);
        }
        stored => stored?,
    };
    let version = job.quiet.stat.version;
    let label = Label {
        node: shared.catalog.identity().node,
        id: job.id,
        generation: job.generation,
        sha256: job.sha256,
        size: version.size,
        mtime: version.mtime,
        stored,
    };
    let names = shared.names_for(target, &job.path, &label)?;
    for _ in &names.keys {
        let (id, generation) = (job.id, job.generation);
        let (keys, stored) = (&names.keys, &label.stored);
        let object = shared.catalog.assign_key_for(id, generation, target.name(), keys, stored)?;
        faults::point("archive.after_key");
        if object.state == ObjectState::Verified {
            return Ok(true);
        }
        match put_under(shared, job, target, &object, &names, left_over) {
            Ok(Put::Proved) => {
                worm::lock(shared, target, &object.key, job.worm)?;
                faults::point("archive.after_proof");
                shared.catalog.verified(object.id, shared.now())?;
                if shared.catalog.is_held(job.id) {
                    target.locks.look(&[job.id]);
                }
                faults::point("archive.after_verified");
                return Ok(true);
            }
            Ok(Put::Taken) => shared.catalog.abandon_key(object.id)?,
            Ok(Put::Changed) => return Ok(false),
            Err(error) => return Err(error),
        }
        left_over = false;
    }
    let why = format!("target {:?} has an object under every key that was tried", target.name());
    Err(EngineError::refused(&job.path, why))
}

enum Put {
    Proved,
    /// The key has another object.
    Taken,
    /// The bytes that were read were not those that were hashed.
    Changed,
}

fn put_under(
    shared: &Shared,
    job: &Job,
    target: &Target,
    object: &ObjectRow,
    names: &NewNames,
    left_over: bool,
) -> Result<Put> {
    if left_over {
        match verify(shared, target, object) {
            Ok(()) => return Ok(Put::Proved),
            Err(Answer::Not(e)) if e.kind == StoreErrorKind::NotFound => {}
            Err(Answer::Not(e)) if e.kind == StoreErrorKind::Corrupt => return Ok(Put::Taken),
            Err(Answer::Not(e)) if e.kind == StoreErrorKind::Locked => return Ok(locked(job, &e)),
            Err(other) => return Err(other.into()),
        }
    }
    // It was to be given otherwise, and what is still under way to it may arrive.
    if object.stored != job.stored(shared)? || !names.fit(&object.key) {
        return Ok(Put::Taken);
    }
    let written = match put(shared, job, target, object, &names.meta) {
        Ok(()) => true,
        Err(Answer::Not(e)) if e.kind == StoreErrorKind::Exists => false,
        Err(Answer::Not(e)) if e.kind == StoreErrorKind::Corrupt => {
            return wrong_body(shared, job, e.into());
        }
        Err(other) => return Err(other.into()),
    };
    faults::point("archive.after_put");
    match verify(shared, target, object) {
        Ok(()) => Ok(Put::Proved),
        Err(Answer::Not(e)) if e.kind == StoreErrorKind::Corrupt => {
            if !written {
                return Ok(Put::Taken);
            }
            // What was written stays, under a key that is never used again.
            shared.catalog.abandon_key(object.id)?;
            if moved(shared, job) { Ok(Put::Changed) } else { Err(e.into()) }
        }
        Err(Answer::Not(e)) if !written && e.kind == StoreErrorKind::Locked => Ok(locked(job, &e)),
        // What is in the way is no object: in a directory, a file where the key needs a folder.
        Err(Answer::Not(e)) if !written && e.kind == StoreErrorKind::NotFound => Ok(Put::Taken),
        Err(other) => Err(other.into()),
    }
}

/// Whether it is this recording can not be told without its key of SSE-C: it is left alone.
fn locked(job: &Job, error: &StoreError) -> Put {
    let path = job.path.display();
    tracing::warn!(%path, %error, "no key opens what is under a key: the recording gets another one");
    Put::Taken
}

/// The target found other bytes than were hashed. If they are not in the file, it is the target's
/// fault. If they are, although the stamp is what it was, they are a new generation: the archive
/// holds what there is, and the operator is told.
fn wrong_body(shared: &Shared, job: &Job, error: EngineError) -> Result<Put> {
    let size = job.quiet.stat.version.size;
    let hasher = hash::read(shared, &job.quiet.file, &job.path, size)?;
    if hasher.len() != size || moved(shared, job) {
        return Ok(Put::Changed);
    }
    let (sha256, chunks) = hasher.finish();
    if sha256 == job.sha256 {
        return Err(error);
    }
    let detail = format!(
        "it has SHA-256 {sha256} now and had {} when it was hashed, though no program wrote to it; \
         check the disk that it is on",
        job.sha256
    );
    if job.archived {
        return Err(EngineError::Corrupt { path: job.path.clone(), detail });
    }
    tracing::error!(path = %job.path.display(), "{detail}; what is there now is archived as a new generation");
    let attr = job.quiet.stat.attr.clone();
    shared.catalog.hashed(job.id, Digest { sha256, chunks, version: job.hashed, attr })?;
    Ok(Put::Changed)
}

fn moved(shared: &Shared, job: &Job) -> bool {
    !shared.lower.still_quiet(&job.quiet).unwrap_or(false)
}

fn put(
    shared: &Shared,
    job: &Job,
    target: &Target,
    object: &ObjectRow,
    meta: &ObjectMeta,
) -> std::result::Result<(), Answer> {
    if !shared.keep_pace(object.stored.size) {
        return Err(Answer::Stopping);
    }
    let encoded = job.encoded.get().and_then(Option::as_deref);
    let file = encoded.map_or(&job.quiet.file, |encoded| &encoded.file);
    let body = Body::File { file: Arc::clone(file), len: object.stored.size };
    let class = job.class.clone().or_else(|| target.store.storage_class().cloned());
    let meta = ObjectMeta { storage_class: class, ..meta.clone() };
    in_flight(shared, target.store.put(&object.key, body, object.stored.sha256, &meta))
}

fn verify(shared: &Shared, target: &Target, object: &ObjectRow) -> std::result::Result<(), Answer> {
    let stored = &object.stored;
    let proof = store::verify(&*target.store, &object.key, stored.size, stored.sha256);
    in_flight(shared, proof).map(|_| ())
}

/// No answer, or the target's.
enum Answer {
    Stopping,
    Not(StoreError),
}

impl From<Answer> for EngineError {
    fn from(answer: Answer) -> EngineError {
        match answer {
            Answer::Stopping => EngineError::Stopping,
            Answer::Not(error) => error.into(),
        }
    }
}

/// Runs a request, at most as many at a time as configured; when the engine stops it has a short
/// time left to come to its end.
fn in_flight<T>(
    shared: &Shared,
    request: impl Future<Output = store::Result<T>>,
) -> std::result::Result<T, Answer> {
    let grace = async {
        shared.stop.reached().await;
        tokio::time::sleep(limits::STOP_GRACE).await;
    };
    shared.runtime.block_on(async {
        // Never closed.
        let _permit = shared.uploads.acquire().await;
        if shared.stop.is_set() {
            return Err(Answer::Stopping);
        }
        tokio::select! {
            answer = request => answer.map_err(Answer::Not),
            () = grace => Err(Answer::Stopping),
        }
    })
}

/// Whether an attempt makes sense now: a required target that is up lacks the recording, or none
/// lacks it. With all targets up that is always so.
pub(super) fn worth_trying(shared: &Shared, it: &Candidate) -> Result<bool> {
    // Why not is said by the attempt.
    let Ok(wanted) = shared.targets_of(it) else { return Ok(true) };
    let (up, down): (Vec<_>, Vec<_>) = wanted.must.into_iter().partition(|t| t.is_up());
    if down.is_empty() {
        return Ok(true);
    }
    if up.is_empty() {
        return Ok(false);
    }
    let objects = shared.catalog.objects(it.row.id, Some(it.row.generation))?;
    let has = |target: &Target| {
        objects.iter().any(|o| o.target == target.name() && o.state == ObjectState::Verified)
    };
    Ok(up.iter().any(|t| !has(t)) || down.iter().all(|t| has(t)))
}
