//! Bringing a local copy back: fetched aside, compared with its hash as a whole, and only then
//! made visible.

use super::complete;
use super::error::{EngineError, Result};
use super::shared::Shared;
use crate::catalog::NodeRow;
use crate::clock::Timestamp;
use crate::lower::Looks;
use crate::recording::{ErrorClass, Hasher, NodeId, State};
use crate::{faults, limits};
use std::path::Path;
use std::time::{Duration, Instant};

/// Brings a recording back, unless it is local. At most one recall of a recording runs at a time;
/// who comes second waits for it.
pub(super) fn recall(shared: &Shared, id: NodeId, deadline: Instant) -> Result<()> {
    if released(shared, id)?.is_none() {
        return Ok(());
    }
    let Some(_claim) = shared.claims.claim(&[id], deadline) else {
        let path = shared.path_of(id)?.unwrap_or_default();
        return Err(EngineError::refused(&path, "another step with it takes too long; try again"));
    };
    match recall_claimed(shared, id, deadline) {
        // A user's rename came between; what it left is looked at anew.
        Err(error) if error.class() == ErrorClass::Refused => recall_claimed(shared, id, deadline),
        done => done,
    }
}

fn recall_claimed(shared: &Shared, id: NodeId, deadline: Instant) -> Result<()> {
    if let Some(partial) = shared.lower.partial_for_sure(id)? {
        return complete::complete(shared, &partial, deadline);
    }
    // Who had the claim before may have brought it back.
    match released(shared, id)? {
        Some(row) => fetch(shared, id, &row, deadline),
        None => Ok(()),
    }
}

/// The row of a released recording. One that is archived and was deleted behind the mount is
/// released, too.
pub(super) fn released(shared: &Shared, id: NodeId) -> Result<Option<NodeRow>> {
    let Some(row) = shared.catalog.node(id)? else { return Ok(None) };
    if row.state == State::Archived && is_gone(shared, id)? {
        shared.catalog.missing_below(id)?;
        return Ok(shared.catalog.node(id)?.filter(|row| row.state == State::Released));
    }
    Ok(Some(row).filter(|row| row.state == State::Released))
}

fn is_gone(shared: &Shared, id: NodeId) -> Result<bool> {
    let _tier = shared.tier.lock();
    shared.is_gone(id)
}

fn fetch(shared: &Shared, id: NodeId, row: &NodeRow, deadline: Instant) -> Result<()> {
    let Some((parent, name)) = shared.catalog.name_of(id)? else { return Ok(()) };
    let Some(path) = shared.path_of(id)? else { return Ok(()) };
    let size = row.attr.size;
    check_room(shared, &path, size)?;
    let stage = shared.lower.stage(id)?;
    faults::point("recall.after_stage");
    let mut hasher = Hasher::default();
    shared.content.fetch_all(id, &path, &mut |offset, bytes| {
        hasher.update(bytes);
        if shared.stop.is_set() || Instant::now() > deadline {
            return Err(std::io::ErrorKind::TimedOut.into());
        }
        stage.write_at(offset, bytes).map_err(std::io::Error::other)
    })?;
    faults::point("recall.after_bytes");
    let read = hasher.len();
    let (sha256, _) = hasher.finish();
    if read != size || row.sha256 != Some(sha256) {
        let detail = format!(
            "{read} bytes with SHA-256 {sha256} came back, {size} with {} were archived; \
             the archive copy is damaged, look at the target before anything else",
            row.sha256.map_or_else(|| "no hash".into(), |s| s.to_string())
        );
        return Err(EngineError::Corrupt { path, detail });
    }
    let _tier = shared.tier.lock();
    // chmod and setxattr may have come while the bytes were fetched, and may come until no name
    // can change.
    let wanted = || {
        let still = shared.catalog.node(id).ok().flatten()?;
        // Somebody opened it for writing meanwhile: that file will have the name.
        let partial = shared.lower.partial(id).is_some();
        let here = !partial
            && matches!(shared.catalog.name_of(id), Ok(Some((p, n))) if p == parent && n == name);
        let same = still.state == State::Released && still.generation == row.generation;
        (here && same).then_some(Looks { attr: still.attr, xattrs: still.xattrs })
    };
    let stat = shared.lower.install(stage, (parent, &path), &wanted)?;
    faults::point("recall.after_install");
    // Who opened it for writing writes to this one: without its name that would be lost.
    shared.catalog.placed_below(id, parent);
    // The catalog is not to be ahead of the disk: the name would be missing after a power cut until
    // the two were compared. The target has the bytes, so that this is no reason to fail.
    if let Err(error) = shared.lower.persist_name(&path) {
        tracing::warn!(%error, "a recalled file is not on the disk yet");
    }
    let at: Timestamp = shared.now();
    if !shared.catalog.local_again(id, stat.version, at)? {
        // Written to or deleted since: what is below now is told to the catalog as it is.
        shared.catalog.changed_below(id, stat.attr, stat.version)?;
    }
    faults::point("recall.after_commit");
    Ok(())
}

pub(super) fn check_room(shared: &Shared, path: &Path, size: u64) -> Result<()> {
    let free = shared.lower.usage()?.bytes_free;
    let need = size.saturating_add(shared.reserve);
    if free < need {
        return Err(EngineError::NoSpace { path: path.to_owned(), need, free });
    }
    Ok(())
}

/// The time a recall may take when nobody said how long he can wait.
pub(super) fn patience(size: u64) -> Duration {
    limits::RECALL_WAIT.saturating_add(Duration::from_secs(size / limits::RECALL_BYTES_PER_SECOND))
}
