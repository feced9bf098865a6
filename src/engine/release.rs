//! Removing local copies, a group at a time, by permit: the catalog first, the bytes second.

use super::error::{EngineError, Result};
use super::hash::open_quiet;
use super::keyed;
use super::plan::counts_in_group;
use super::shared::Shared;
use super::trash;
use crate::catalog::{Candidate, ObjectState};
use crate::lower::{LowerError, Quiet};
use crate::recording::{Evidence, NodeId, ReleasePermit, State};
use crate::{faults, limits};
use std::path::{Path, PathBuf};
use std::time::Instant;

/// A file that may be released: permitted, and looked at without a writer.
pub(super) struct Ready {
    pub id: NodeId,
    pub path: PathBuf,
    pub quiet: Quiet,
    pub permit: ReleasePermit,
}

/// Who wants local copies gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wish {
    /// The rules: their time has come.
    Rules,
    /// An operator, who may overrule `keep_local`.
    Operator,
}

/// Releases every archived file of a group, or none if one of them is not ready. The caller holds
/// the claim on them and has asked the planner. Returns what was released.
pub(super) fn release_group(
    shared: &Shared,
    group: &[Candidate],
    wish: Wish,
) -> Result<Vec<PathBuf>> {
    let rules = shared.rules();
    shared.pins.load(&shared.catalog)?;
    let mut ready = Vec::new();
    for it in group.iter().filter(|c| counts_in_group(c, &rules)) {
        if it.row.state != State::Archived {
            let why = format!("it is {}, not archived", it.row.state);
            return Err(EngineError::refused(&it.path, why));
        }
        if shared.pins.has(it.row.id) {
            return Err(EngineError::refused(&it.path, "it is pinned; `spoolfs unpin` ends that"));
        }
        ready.push(prepare(shared, it, wish)?);
    }
    let mut released = Vec::new();
    for one in ready {
        shared.check_stop()?;
        let path = one.path.clone();
        release(shared, one)?;
        released.push(path);
    }
    Ok(released)
}

pub(super) fn prepare(shared: &Shared, it: &Candidate, wish: Wish) -> Result<Ready> {
    let id = it.row.id;
    let Some(quiet) = open_quiet(shared, it)? else {
        return Err(EngineError::refused(&it.path, "its local copy is gone already"));
    };
    let row = shared.catalog.node(id)?.unwrap_or_else(|| it.row.clone());
    let present = quiet.stat.version;
    if row.hashed != Some(present) {
        shared.catalog.changed_below(id, quiet.stat.attr.clone(), present)?;
        return Err(LowerError::Changed { path: it.path.clone() }.into());
    }
    if quiet.stat.attr.nlink > 1 {
        return Err(EngineError::refused(&it.path, "it has several names"));
    }
    // What was verified there may be gone with whatever is there now.
    let wanted = shared.targets_of(it)?;
    if let Some(target) = wanted.must.iter().find(|t| t.is_in_doubt()) {
        return Err(target.trouble().into());
    }
    let mut objects = shared.catalog.objects(id, Some(row.generation))?;
    objects.retain(|o| o.state == ObjectState::Verified && Some(o.sha256) == row.sha256);
    for target in &wanted.must {
        if !keyed::is_to_be_asked(shared, target)? {
            continue;
        }
        for object in objects.iter().filter(|object| object.target == target.name()) {
            shared.ask(target, target.store.head(&object.key))?;
        }
    }
    let verified: Vec<String> = objects.into_iter().map(|object| object.target).collect();
    let rules = shared.rules();
    let kept = shared.facts(&rules).chosen(it).treatment.keep_for(row.adopted);
    let forever = wish == Wish::Rules && kept.is_none();
    let evidence = Evidence {
        node: id,
        state: row.state,
        generation: row.generation,
        sha256: row.sha256,
        hashed: row.hashed,
        present,
        required: &wanted.names,
        verified: &verified,
        suspect: row.suspect.is_some(),
        forbidden: forever.then(|| "`keep_local` is \"forever\"".to_owned()),
    };
    let permit = ReleasePermit::grant(&evidence).map_err(|refusal| {
        if wanted.names.iter().any(|name| !verified.contains(name)) {
            // It became archived after the last look at what targets lack.
            shared.fill_at(shared.now());
        }
        EngineError::refused(&it.path, refusal.to_string())
    })?;
    Ok(Ready { id, path: it.path.clone(), quiet, permit })
}

fn release(shared: &Shared, ready: Ready) -> Result<()> {
    let Ready { id, path, quiet, permit } = ready;
    let version = permit.version();
    let xattrs = shared.lower.xattrs(&quiet.file)?;
    let soon = Instant::now() + limits::SYNC_CLAIM_WAIT;
    let Some(_not_synced_now) = shared.syncing.claim(&[id], soon) else {
        return Err(EngineError::refused(&path, "it is being synced to the disk; try again"));
    };
    let stat = quiet.alone(&path)?;
    let _tier = shared.tier.lock();
    faults::point("release.after_permit");
    if !shared.catalog.released(&permit, stat.attr, xattrs)? {
        return Err(LowerError::Changed { path }.into());
    }
    faults::point("release.after_commit");
    if let Err(error) = shared.lower.retire(&path, permit) {
        // The bytes are where they were, under this name or another: the catalog says so again.
        shared.catalog.local_again(id, version, shared.now())?;
        look_again(shared, &path)?;
        return Err(error.into());
    }
    faults::point("release.after_retire");
    if shared.catalog.node(id)?.is_some_and(|row| row.state == State::Archived) {
        // Taken for local again meanwhile, by somebody who still saw the bytes.
        shared.catalog.missing_below(id)?;
    }
    Ok(())
}

/// Tells the catalog what is below at a path that did not go away as planned.
fn look_again(shared: &Shared, path: &Path) -> Result<()> {
    if trash::is_within(path) {
        return trash::look_through(shared);
    }
    if let Ok(stat) = shared.lower.stat(path)
        && let Some(id) = stat.node
    {
        if let Ok(Some((parent, _))) = shared.catalog.name_of(id) {
            shared.catalog.placed_below(id, parent);
        }
        shared.catalog.changed_below(id, stat.attr, stat.version)?;
    }
    Ok(())
}

/// Removes for good what was taken away at least a second ago.
pub(super) fn purge(shared: &Shared) {
    for path in shared.lower.purge() {
        tracing::warn!(path = %path.display(), "a program wrote to a copy that was being released; it stays");
        if let Err(error) = look_again(shared, &path) {
            tracing::error!(%error, "a copy that came back is not in the catalog yet");
        }
    }
}
