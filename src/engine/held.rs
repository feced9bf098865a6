//! Legal holds: what is put on hold is archived at once.

use super::collect::collect;
use super::command::{self, Command, Progress, Summary};
use super::error::{EngineError, Result};
use super::shared::Shared;
use crate::catalog::NewHold;
use crate::recording::{NodeId, State};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// What a new hold is on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Placed {
    /// Its number.
    pub id: u64,
    /// Recordings that it is on.
    pub recordings: usize,
    /// Paths that are not there, and files that were deleted in this very moment.
    pub missing: Vec<PathBuf>,
    /// Recordings in progress: they are archived when they are closed.
    pub open: usize,
    /// What became of archiving the others.
    pub archived: Summary,
}

pub(super) fn hold(
    shared: &Shared,
    new: &NewHold,
    paths: &[PathBuf],
    is_on: &(dyn Fn(u64, usize) + Sync),
    progress: &(dyn Fn(&Progress) + Sync),
) -> Result<Placed> {
    shared.catalog.drain()?;
    // Any command that is about all files.
    let found = collect(shared, Command::Archive, paths)?;
    if found.files.is_empty() && !new.scope.is_query() {
        let path = found.missing.first().map_or(Path::new(""), PathBuf::as_path);
        return Err(EngineError::refused(path, "there is no recording to be held; nothing is"));
    }
    let ids = with_groups(shared, &found.files)?;
    let all = [&ids[..], &before(shared, &ids)?].concat();
    let id = shared.catalog.put_hold(new, &all)?;
    is_on(id, ids.len());
    let mut placed = Placed { id, missing: found.missing, ..Placed::default() };
    placed.archive(shared, &ids, progress)?;
    Ok(placed)
}

/// Files and all that belong to them.
pub(super) fn with_groups(shared: &Shared, files: &[NodeId]) -> Result<Vec<NodeId>> {
    let mut all = BTreeSet::new();
    for id in files {
        if all.contains(id) {
            continue;
        }
        all.insert(*id);
        if let Some(it) = shared.candidate(*id)? {
            all.extend(shared.catalog.group(it.parent, &it.stem)?.iter().map(|one| one.row.id));
        }
    }
    Ok(all.into_iter().collect())
}

/// What is in the trash and had the path that one of these has: what it was before it was written to
/// again, or what another one was.
pub(super) fn before(shared: &Shared, files: &[NodeId]) -> Result<Vec<NodeId>> {
    let mut all = Vec::new();
    for id in files {
        let Some(it) = shared.candidate(*id)?.filter(|it| !it.trashed) else { continue };
        all.extend(shared.catalog.trash_at(&it.path)?);
    }
    Ok(all)
}

impl Placed {
    /// Makes sure that what is held is there, and archives it.
    fn archive(
        &mut self,
        shared: &Shared,
        ids: &[NodeId],
        progress: &(dyn Fn(&Progress) + Sync),
    ) -> Result<()> {
        // Who looked before it was held, and is about to delete it, is through after this.
        drop(shared.lower.names_still());
        shared.catalog.drain()?;
        let mut closed = Vec::new();
        for id in ids {
            let row = shared.catalog.node(*id)?;
            match row.map(|row| row.state) {
                None | Some(State::Deleted) => {
                    self.missing.push(shared.path_of(*id)?.unwrap_or_default());
                    continue;
                }
                Some(State::Recording) => self.open += 1,
                Some(_) => closed.push(*id),
            }
            self.recordings += 1;
        }
        // What was archived before; the others when they are.
        shared.targets.iter().for_each(|t| t.locks.look(ids));
        self.archived = command::archive_all(shared, &closed, progress)?;
        Ok(())
    }
}

/// What a hold means for one recording, in sentences.
pub(super) fn explain(shared: &Shared, id: NodeId) -> Result<Vec<String>> {
    let holds = shared.catalog.holds();
    let mut out = Vec::new();
    if holds.has(id) {
        for hold in shared.catalog.holds_on(id)? {
            out.push(format!(
                "ON LEGAL HOLD {} for case {:?} ({}): it can not be deleted, replaced or expired.",
                hold.id, hold.case, hold.reason
            ));
        }
        if out.is_empty() {
            out.push(format!(
                "ON LEGAL HOLD for case {:?}, by an earlier catalog: it can not be deleted, replaced \
                 or expired.",
                holds.cases(id).join(", ")
            ));
        }
        out.push(match holds.settles_at(id) {
            None => "A program writes to it now; what it was before is kept.".to_owned(),
            Some(at) if at > shared.now() => format!(
                "It can be written to for another {} (`hold_settle`); what it was before is kept.",
                super::explain::words(shared.now().age_at(at))
            ),
            Some(_) => "It can not be opened for writing any more.".to_owned(),
        });
    } else if let Some(until) = holds.grace_until(id).filter(|until| *until > shared.now()) {
        out.push(format!(
            "Its last legal hold was lifted; it is not expired for another {} (`hold_lift_grace`).",
            super::explain::words(shared.now().age_at(until))
        ));
    }
    Ok(out)
}
