//! Completing partial recordings: released ones that were opened for writing. What they lack is
//! fetched behind, and once whole they get their names and are settled like any other.

use super::backoff;
use super::contain::contained;
use super::error::{EngineError, Result};
use super::recall::{check_room, released};
use super::shared::Shared;
use crate::catalog::{NodeRow, Op};
use crate::clock::Timestamp;
use crate::lower::{Looks, Partial};
use crate::recording::{ErrorClass, NodeId, State, chunk_at, chunk_range};
use crate::{faults, limits};
use crossbeam_channel::{Receiver, Sender};
use parking_lot::Mutex;
use std::collections::HashMap;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// What was tried in vain.
#[derive(Clone, Debug)]
struct Tried {
    attempts: u32,
    not_before: Timestamp,
    error: String,
}

/// When to try which.
#[derive(Debug)]
pub(super) struct Completions {
    tried: Mutex<HashMap<NodeId, Tried>>,
    wake: Sender<()>,
    woken: Receiver<()>,
}

impl Default for Completions {
    fn default() -> Completions {
        let (wake, woken) = crossbeam_channel::bounded(limits::COMPLETE_THREADS);
        Completions { tried: Mutex::default(), wake, woken }
    }
}

impl Completions {
    /// Somebody opened or closed one. A target that is down is not asked more often for that.
    pub fn look(&self) {
        let _already_asked = self.wake.try_send(());
    }

    /// Targets that were down may be there again.
    pub fn ask_again(&self) {
        self.tried.lock().values_mut().for_each(|tried| tried.not_before = Timestamp(i64::MIN));
        self.look();
    }

    /// Why it is not whole yet, if it was tried.
    pub fn error(&self, id: NodeId) -> Option<String> {
        self.tried.lock().get(&id).map(|tried| tried.error.clone())
    }

    /// How many failed, and why the one did that was tried most often.
    pub fn failing(&self) -> Option<(usize, String)> {
        let tried = self.tried.lock();
        let worst = tried.values().max_by_key(|tried| tried.attempts)?;
        Some((tried.len(), worst.error.clone()))
    }

    /// Forgets those that were deleted, or closed without a change.
    fn only(&self, partials: &[Arc<Partial>]) {
        self.tried.lock().retain(|id, _| partials.iter().any(|partial| partial.id() == *id));
    }

    fn is_due(&self, id: NodeId, now: Timestamp) -> bool {
        self.tried.lock().get(&id).is_none_or(|tried| tried.not_before <= now)
    }

    fn done(&self, id: NodeId) {
        self.tried.lock().remove(&id);
    }

    fn failed(&self, id: NodeId, now: Timestamp, error: &EngineError) -> u32 {
        let mut tried = self.tried.lock();
        let attempts = tried.get(&id).map_or(0, |t| t.attempts).saturating_add(1);
        let wait = backoff::after(attempts).min(limits::COMPLETE_BACKOFF_MAX);
        let not_before = now.plus(wait);
        tried.insert(id, Tried { attempts, not_before, error: error.to_string() });
        attempts
    }
}

/// Runs until the engine stops.
pub(super) fn run(shared: &Shared) {
    while !shared.stop.is_set() {
        drop(shared.lower.load_left_partials());
        let partials = shared.lower.partials();
        shared.completions.only(&partials);
        for partial in partials {
            let id = partial.id();
            // What its writer left is worth as much as what others did, though it may not be
            // whole for long.
            if !partial.has_writers()
                && let Err(error) = partial.sync(false)
            {
                tracing::warn!(%id, %error, "a partial recording may not be on the disk");
            }
            if shared.completions.is_due(id, shared.now())
                && let Some(_claim) = shared.claims.try_claim(&[id])
            {
                attempt(shared, &partial);
            }
        }
        crossbeam_channel::select! {
            recv(shared.completions.woken) -> _asked => {}
            recv(shared.stop.closed()) -> _closed => return,
            default(limits::COMPLETE_LOOK) => {}
        }
    }
}

fn attempt(shared: &Shared, partial: &Arc<Partial>) {
    let id = partial.id();
    let far = Instant::now() + Duration::from_secs(86_400);
    match contained("completing a recording", || complete(shared, partial, far)) {
        Ok(()) => shared.completions.done(id),
        Err(EngineError::Stopping) => {}
        Err(error) => {
            let attempts = shared.completions.failed(id, shared.now(), &error);
            match error.class() {
                ErrorClass::Corrupt | ErrorClass::Permanent => tracing::error!(
                    %error, attempts,
                    "a recording was written to while it was released, and its archived bytes can \
                     not be had; what was written is kept, and they are tried again"
                ),
                ErrorClass::Sealed if attempts == 1 => tracing::warn!(
                    %error,
                    "a recording was written to while it was released, and what is archived of it is \
                     sealed; what was written is kept, and they are joined as soon as there is a key"
                ),
                ErrorClass::Transient if attempts == 1 => tracing::warn!(
                    %error,
                    "a recording was written to while it was released; its archived bytes are \
                     fetched as soon as possible"
                ),
                _ => tracing::debug!(%error, attempts, "a recording is not whole yet"),
            }
        }
    }
}

/// Fetches what a partial recording lacks and gives it its name. The caller holds the claim.
pub(super) fn complete(shared: &Shared, partial: &Partial, deadline: Instant) -> Result<()> {
    let id = partial.id();
    if shared.lower.partial(id).is_none() {
        // Who had the claim before is through with it.
        return Ok(());
    }
    let Some((row, parent, path)) = wanted(shared, partial)? else { return Ok(()) };
    let missing: u64 = partial.gaps().iter().map(|gap| gap.end - gap.start).sum();
    if missing > 0 {
        check_room(shared, &path, missing)?;
        fetch(shared, partial, &path, deadline)?;
        faults::point("partial.after_bytes");
    }
    place(shared, partial, &row, (parent, &path))
}

/// The recording that it is a part of; `None` if it was deleted, or there is nothing to do now.
fn wanted(shared: &Shared, partial: &Partial) -> Result<Option<(NodeRow, NodeId, PathBuf)>> {
    let id = partial.id();
    let of_this = |row: &NodeRow| row.generation == partial.generation();
    let name = shared.catalog.name_of(id)?;
    let path = shared.path_of(id)?;
    let (Some((parent, _)), Some(path)) = (name, path) else {
        return match shared.catalog.node(id)? {
            // Its users see it as long as they have it open.
            Some(row) if row.state == State::Deleted => Ok(None),
            _ => Err(EngineError::refused(
                Path::new(".spl/partial"),
                format!("the catalog does not know node {id}; run `spoolfs rebuild`"),
            )),
        };
    };
    if let Some(row) = released(shared, id)?.filter(of_this) {
        return Ok(Some((row, parent, path)));
    }
    if shared.lower.stat(&path).is_ok() && !partial.has_writers() {
        let kept = shared.lower.set_aside_partial(partial)?;
        tracing::error!(
            path = %path.display(), kept = %kept.display(),
            "another file has taken the name of a recording that was written to while it was \
             released; what was written is kept beside the lower directory's tree: compare the two"
        );
        return Ok(None);
    }
    Err(EngineError::refused(&path, "the archive has another generation than was written to"))
}

/// The end of what is archived first: that is where a call goes on, and a page of it that is being
/// read from the archive can not be written to.
fn fetch(shared: &Shared, partial: &Partial, path: &Path, deadline: Instant) -> Result<()> {
    let Some(last) = partial.gaps().last().map(|gap| gap.end) else { return Ok(()) };
    let tail = chunk_range(chunk_at(last - 1), last);
    let gaps = partial.gaps();
    let in_tail = gaps.iter().map(|gap| gap.start.max(tail.start)..gap.end);
    let wanted: Vec<Range<u64>> = in_tail.filter(|gap| !gap.is_empty()).collect();
    let mut unwritten = 0;
    let mut bring = |range: Range<u64>| {
        let mut stopped = false;
        let fetched = shared.content.fetch_range(partial.id(), path, range, &mut |at, bytes| {
            if shared.stop.is_set() || Instant::now() > deadline {
                stopped = true;
                return Err(std::io::ErrorKind::TimedOut.into());
            }
            unwritten += bytes.len() as u64;
            let put = partial.put(at, bytes).map_err(std::io::Error::other);
            if unwritten >= limits::COMPLETE_WRITE_OUT_BYTES {
                unwritten = 0;
                partial.write_out();
            }
            put
        });
        if stopped {
            shared.check_stop()?;
        }
        fetched.map_err(EngineError::from)
    };
    wanted.into_iter().try_for_each(&mut bring)?;
    partial.gaps().into_iter().try_for_each(&mut bring)
}

fn place(
    shared: &Shared,
    partial: &Partial,
    row: &NodeRow,
    (parent, path): (NodeId, &Path),
) -> Result<()> {
    let id = partial.id();
    let _tier = shared.tier.lock();
    // chmod and setxattr may have come while the bytes were fetched, and may come until no name
    // can change.
    let wanted = || {
        let still = shared.catalog.node(id).ok().flatten()?;
        let (home, name) = shared.catalog.name_of(id).ok().flatten()?;
        let here = home == parent && path.file_name().is_some_and(|n| n.as_encoded_bytes() == name);
        let same = still.state == State::Released && still.generation == row.generation;
        (here && same).then_some(Looks { attr: still.attr, xattrs: still.xattrs })
    };
    let written = std::cell::Cell::new(false);
    // Said before any of them is closed: that is said after it.
    let placed = |writers: u32| {
        if writers > 0 {
            written.set(true);
            shared.catalog.record(Op::Opened { id });
        }
    };
    let stat = shared.lower.place_partial(partial, (parent, path), &wanted, &placed)?;
    shared.catalog.placed_below(id, parent);
    if let Err(error) = shared.lower.persist_name(path) {
        tracing::warn!(%error, "the name of a recording that was completed is not on the disk yet");
    }
    if !written.get() {
        shared.catalog.changed_below(id, stat.attr, stat.version)?;
    }
    if partial.is_suspect() {
        shared.catalog.suspect(id);
    }
    faults::point("partial.after_commit");
    shared.wake();
    Ok(())
}
