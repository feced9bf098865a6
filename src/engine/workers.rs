//! The threads that do the steps, each behind a bounded queue.

use super::claims::Claim;
use super::contain::contained;
use super::error::{EngineError, Result};
use super::hash::{self, Hashed};
use super::plan::{self, Action};
use super::shared::Shared;
use super::{Engine, archive, prove, release};
use crate::catalog::{Candidate, HashOutcome};
use crate::limits;
use crate::recording::NodeId;
use crossbeam_channel::{Receiver, Sender, bounded};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// How often local copies that were taken away are removed for good.
const PURGE_EVERY: Duration = Duration::from_secs(1);

/// A step to be done with a recording, or with the group of one.
#[derive(Debug)]
pub(super) struct Job {
    pub it: Candidate,
    pub claim: Claim,
}

/// A step that is through.
#[derive(Clone, Copy, Debug)]
pub(super) struct Finished {
    pub id: NodeId,
    /// The catalog remembers nothing of it, but it is to be looked at again.
    pub later: Option<Later>,
}

/// When to look at a recording again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Later {
    /// After this time.
    After(Duration),
    /// After a time that grows with each try: the work was for nothing.
    Patiently,
}

/// Where the planner puts steps, and hears of their end.
#[derive(Debug)]
pub(super) struct Queues {
    pub hash: Sender<Job>,
    pub archive: Sender<Job>,
    pub release: Sender<Job>,
    pub finished: Receiver<Finished>,
}

pub(super) fn start(engine: &Engine) -> std::io::Result<Queues> {
    let (hash, to_hash) = bounded(limits::HASH_QUEUE_MAX);
    let (archive, to_archive) = bounded(limits::ARCHIVE_QUEUE_MAX);
    let (release, to_release) = bounded(limits::RELEASE_QUEUE_MAX);
    let all = limits::HASH_QUEUE_MAX + limits::ARCHIVE_QUEUE_MAX + limits::RELEASE_QUEUE_MAX;
    let (done, finished) = bounded(all + engine.shared.upload_threads + 2);
    let shared = Arc::clone(&engine.shared);
    let report = done.clone();
    engine.spawn("hash", move || {
        be_nice();
        work(&shared, &to_hash, &report, &shared.activity.hashing, &hash_one);
    })?;
    for _ in 0..engine.shared.upload_threads {
        let (shared, queue, report) =
            (Arc::clone(&engine.shared), to_archive.clone(), done.clone());
        engine.spawn("archive", move || {
            work(&shared, &queue, &report, &shared.activity.archiving, &archive_one);
        })?;
    }
    let shared = Arc::clone(&engine.shared);
    engine.spawn("release", move || release_and_purge(&shared, &to_release, &done))?;
    Ok(Queues { hash, archive, release, finished })
}

/// Hashing and encoding give way to everything else that wants the processor.
pub(super) fn be_nice() {
    crate::sys::stand_back(10);
}

type Step = dyn Fn(&Shared, &Candidate) -> Result<Option<Later>>;

fn work(
    shared: &Shared,
    queue: &Receiver<Job>,
    report: &Sender<Finished>,
    active: &AtomicUsize,
    step: &Step,
) {
    while !shared.stop.is_set() {
        crossbeam_channel::select! {
            recv(queue) -> job => match job {
                Ok(job) => one(shared, job, report, active, step),
                Err(_planner_is_gone) => return,
            },
            recv(shared.stop.closed()) -> _closed => return,
        }
    }
}

fn one(shared: &Shared, job: Job, report: &Sender<Finished>, active: &AtomicUsize, step: &Step) {
    let Job { it, claim } = job;
    active.fetch_add(1, Ordering::Relaxed);
    let later = match contained("working on a recording", || step(shared, &it)) {
        Ok(later) => later,
        Err(error) => {
            shared.note_failure(it.row.id, &error);
            match error {
                EngineError::Catalog(_) => Some(Later::Patiently),
                error => error.is_of_the_moment().then_some(Later::After(limits::BACKOFF_MIN)),
            }
        }
    };
    active.fetch_sub(1, Ordering::Relaxed);
    drop(claim);
    // There is room for every job that can be under way; the planner may be gone.
    let _unheard = report.try_send(Finished { id: it.row.id, later });
}

fn hash_one(shared: &Shared, it: &Candidate) -> Result<Option<Later>> {
    if it.row.suspect.is_some() && !plan::needs_hash(it) {
        prove::prove(shared, it)?;
        return Ok(None);
    }
    match hash::hash(shared, it)? {
        Hashed::Later(wait) => Ok(Some(Later::After(wait))),
        // Opened or changed: the catalog will say when it is closed again.
        Hashed::Done(HashOutcome::Stale) => Ok(Some(Later::Patiently)),
        Hashed::Done(_) | Hashed::Gone => {
            // One that a rebuild knows as archived is so again now, perhaps not in every target.
            if it.row.archived_at.is_some() {
                shared.fill_at(shared.now());
            }
            Ok(None)
        }
    }
}

fn archive_one(shared: &Shared, it: &Candidate) -> Result<Option<Later>> {
    // The time for it ended while it waited here.
    if it.row.suspect.is_none() && shared.uploads_are_off() {
        return Ok(Some(Later::After(limits::BACKOFF_MIN)));
    }
    archive::archive(shared, it)?;
    Ok(None)
}

fn release_and_purge(shared: &Shared, queue: &Receiver<Job>, report: &Sender<Finished>) {
    let mut purged = Instant::now();
    while !shared.stop.is_set() {
        crossbeam_channel::select! {
            recv(queue) -> job => match job {
                Ok(job) => one(shared, job, report, &shared.activity.releasing, &release_one),
                Err(_planner_is_gone) => break,
            },
            recv(shared.stop.closed()) -> _closed => break,
            default(PURGE_EVERY.saturating_sub(purged.elapsed())) => {}
        }
        // Also while there is no end of groups to release: the disk is to become free.
        if purged.elapsed() >= PURGE_EVERY {
            purge(shared);
            purged = Instant::now();
        }
    }
}

/// A clean stop leaves nothing to the next start. What was taken away a moment ago has the same
/// time as ever, in which a program that had looked it up may turn up.
pub(super) fn purge_all(shared: &Shared) {
    purge(shared);
    if shared.lower.has_retired() {
        std::thread::sleep(PURGE_EVERY);
        purge(shared);
    }
}

fn purge(shared: &Shared) {
    let _reported = contained("removing released copies", || {
        release::purge(shared);
        Ok(())
    });
}

/// Releases the group of a candidate, if the planner still says so now that the candidate is
/// claimed and so are the others.
fn release_one(shared: &Shared, it: &Candidate) -> Result<Option<Later>> {
    let group = shared.catalog.group(it.parent, &it.stem)?;
    let ids: Vec<NodeId> = group.iter().map(|c| c.row.id).filter(|id| *id != it.row.id).collect();
    let Some(_others) = shared.claims.try_claim(&ids) else {
        return Ok(Some(Later::After(limits::BACKOFF_MIN)));
    };
    let group = shared.catalog.group(it.parent, &it.stem)?;
    let rules = shared.rules();
    let Some(now) = group.iter().find(|c| c.row.id == it.row.id) else { return Ok(None) };
    if plan::next(now, &group, shared.facts(&rules)) != Action::Release
        || group.iter().any(|c| c.row.id != it.row.id && !ids.contains(&c.row.id))
    {
        return Ok(Some(Later::After(limits::BACKOFF_MIN)));
    }
    release::release_group(shared, &group, release::Wish::Rules)?;
    Ok(None)
}
