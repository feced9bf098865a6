//! The trash: what is in the private directory goes when it is archived, by permit; and what was
//! deleted is brought back.
//!
//! **Invariant:** a name is made while no other can be in its directory, and never over another;
//! the lower directory is changed first, then the catalog. Bytes go after the catalog says so.

use super::command::{Outcome, Progress, Summary};
use super::contain::contained;
use super::error::{EngineError, Result};
use super::release::{self, Ready, Wish};
use super::shared::Shared;
use crate::catalog::{Candidate, Op, TrashRow};
use crate::lower::{LowerError, trash_path};
use crate::recording::{Attr, Kind, NodeId, State};
use crate::{faults, limits};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// How often it is looked whether something in the trash may go.
const LOOK: Duration = Duration::from_secs(1);

/// Where the bytes of a recording are, relative to the mount.
pub(super) fn below(it: &Candidate) -> PathBuf {
    if it.trashed { trash_path(it.row.id) } else { it.path.clone() }
}

/// Whether a path is one of the trash.
pub(super) fn is_within(path: &Path) -> bool {
    path.parent() == trash_path(NodeId(0)).parent()
}

/// Until the engine stops.
pub(super) fn run(shared: &Shared) {
    while !shared.stop.wait(LOOK) {
        if let Err(error) = contained("looking after the trash", || bury_spare(shared)) {
            tracing::debug!(%error, "the trash is looked after later");
        }
    }
}

/// Takes the bytes away of what is archived.
fn bury_spare(shared: &Shared) -> Result<()> {
    let mut after = NodeId(0);
    loop {
        let page = shared.catalog.trash_spare(after, limits::PLAN_PAGE_ROWS)?;
        let Some(last) = page.last() else { return Ok(()) };
        after = *last;
        for id in page {
            shared.check_stop()?;
            let Some(_claim) = shared.claims.try_claim(&[id]) else { continue };
            match bury(shared, id) {
                Ok(()) => {}
                Err(error @ (EngineError::Stopping | EngineError::Catalog(_))) => {
                    return Err(error);
                }
                Err(error) => shared.note_failure(id, &error),
            }
        }
    }
}

fn bury(shared: &Shared, id: NodeId) -> Result<()> {
    let Some(it) = shared.candidate(id)?.filter(|it| it.trashed) else { return Ok(()) };
    if it.row.state != State::Archived || it.not_before.is_some_and(|at| at > shared.now()) {
        return Ok(());
    }
    let Ready { id, quiet, permit, .. } = release::prepare(shared, &it, Wish::Operator)?;
    let (path, below) = (it.path, trash_path(id));
    let xattrs = shared.lower.xattrs(&quiet.file)?;
    let soon = Instant::now() + limits::SYNC_CLAIM_WAIT;
    let Some(_not_synced_now) = shared.syncing.claim(&[id], soon) else {
        return Err(EngineError::refused(&path, "it is being synced to the disk; try again"));
    };
    let stat = quiet.alone(&below)?;
    let _trash = shared.trash.lock();
    let _tier = shared.tier.lock();
    faults::point("trash.after_permit");
    if !shared.catalog.buried(&permit, stat.attr, xattrs)? {
        return Err(LowerError::Changed { path }.into());
    }
    faults::point("trash.after_commit");
    if let Err(error) = shared.lower.retire(&below, permit) {
        look_at(shared, id)?;
        return Err(error.into());
    }
    faults::point("trash.after_retire");
    Ok(())
}

/// A file that should be in the trash was not found there.
pub(super) fn is_lost(shared: &Shared, it: &Candidate, seen_before: bool) -> Result<bool> {
    let _trash = shared.trash.lock();
    let still = shared.catalog.trashed(it.row.id)?.is_some_and(|one| one.local);
    let gone = shared.lower.stat(&trash_path(it.row.id)).is_err_and(|e| e.is_not_found());
    if !seen_before || !still || !gone {
        return Ok(false);
    }
    tracing::warn!(path = %it.path.display(), "a file in the trash was deleted behind the mount");
    shared.catalog.trash_lost(it.row.id)?;
    Ok(true)
}

/// Makes the catalog agree with the files in the trash, as a crash or a lost log leaves them.
pub(super) fn look_through(shared: &Shared) -> Result<()> {
    for id in shared.lower.trash_numbers() {
        shared.check_stop()?;
        // It may be hashed just now. Who has it for longer knows it.
        let soon = Instant::now() + limits::SYNC_CLAIM_WAIT;
        if let Some(_claim) = shared.claims.claim(&[id], soon) {
            look_at(shared, id)?;
        }
    }
    Ok(())
}

fn look_at(shared: &Shared, id: NodeId) -> Result<()> {
    let path = trash_path(id);
    let found = || shared.lower.stat(&path).ok().filter(|stat| stat.node == Some(id));
    // Only those who are about to change it have it otherwise.
    let Some((parent, name)) = shared.catalog.name_of(id)? else {
        shared.catalog.drain()?;
        if let Some(stat) = found()
            && shared.catalog.name_of(id)?.is_none()
        {
            let unknown = PathBuf::from(id.to_string());
            shared.catalog.trash_found(id, stat.attr, stat.version, &unknown)?;
            faults::point("trash.after_found");
        }
        return Ok(());
    };
    {
        // Nobody is in the midst of a removal or a rename there.
        let _names = shared.lower.names_still_in(parent);
        let Some(stat) = found() else { return Ok(()) };
        if shared.catalog.name_of(id)?.as_ref() != Some(&(parent, name.clone())) {
            return Ok(());
        }
        let Some(named) = shared.path_of(id)? else { return Ok(()) };
        match shared.lower.stat(&named) {
            Ok(there) if there.version.ino == stat.version.ino => {
                return Ok(shared.lower.drop_trash_link(id, &named)?);
            }
            Ok(_) => {}
            Err(e) if e.is_not_found() => {}
            Err(e) => return Err(e.into()),
        }
        // It was moved here, and the word of it is lost.
        let (last, fate, at) = (true, crate::catalog::Fate::Moved, shared.now());
        shared.catalog.record(Op::Unlink { parent, name, id, last, fate, at });
    }
    shared.catalog.drain()?;
    if let Some(stat) = found() {
        shared.catalog.trash_found(id, stat.attr, stat.version, Path::new(""))?;
    }
    Ok(())
}

/// What of the trash is meant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Trashed {
    /// All of it.
    All,
    /// One recording.
    Id(NodeId),
    /// What was deleted at this path, or below it; relative to the mount.
    Path(PathBuf),
}

/// Gives recordings in the trash their names again, below `to` if that is given.
pub(super) fn restore(
    shared: &Shared,
    what: &[Trashed],
    to: Option<&Path>,
    progress: &(dyn Fn(&Progress) + Sync),
) -> Result<Summary> {
    let mut run = Run { shared, to, progress, summary: Summary::default(), total: 0 };
    for one in what {
        match one {
            Trashed::All => run.pages(None)?,
            Trashed::Path(path) => run.pages(Some(path))?,
            Trashed::Id(id) => run.one(*id)?,
        }
    }
    // What is told as restored survives a power cut.
    shared.catalog.drain()?;
    shared.catalog.sync()?;
    Ok(run.summary)
}

struct Run<'a> {
    shared: &'a Shared,
    to: Option<&'a Path>,
    progress: &'a (dyn Fn(&Progress) + Sync),
    summary: Summary,
    total: usize,
}

impl Run<'_> {
    fn pages(&mut self, below: Option<&Path>) -> Result<()> {
        let mut after: Option<TrashRow> = None;
        let mut none = true;
        loop {
            self.shared.check_stop()?;
            // Nothing is emptied or moved while a page is restored.
            let _trash = self.shared.trash.lock();
            let (catalog, limit) = (&self.shared.catalog, limits::PLAN_PAGE_ROWS);
            let page = match below.filter(|path| !path.as_os_str().is_empty()) {
                Some(below) => catalog.trash_below(below, after.as_ref(), limit)?,
                None => catalog.trash(None, after.as_ref().map(TrashRow::cursor), limit)?,
            };
            let Some(last) = page.last() else { break };
            after = Some(last.clone());
            none = false;
            self.total += page.len();
            for row in &page {
                self.row(row);
            }
        }
        if let Some(path) = below.filter(|_| none) {
            self.not_there(path.to_owned());
        }
        Ok(())
    }

    fn one(&mut self, id: NodeId) -> Result<()> {
        let _trash = self.shared.trash.lock();
        match self.shared.catalog.trashed(id)? {
            Some(row) => {
                self.total += 1;
                self.row(&row);
            }
            None => self.not_there(PathBuf::from(id.to_string())),
        }
        Ok(())
    }

    fn not_there(&mut self, path: PathBuf) {
        self.total += 1;
        let why = "it is not in the trash; see `spoolfs trash list`";
        self.tell(path, Outcome::Failed(why.into()));
    }

    fn row(&mut self, row: &TrashRow) {
        let path = self.to.map_or_else(|| row.path.clone(), |to| to.join(&row.path));
        let outcome = match put_back(self.shared, row, &path) {
            Ok(()) => Outcome::Done,
            Err(error) => Outcome::Failed(match error {
                EngineError::Refused { why, .. } => why,
                other => other.to_string(),
            }),
        };
        self.tell(path, outcome);
    }

    fn tell(&mut self, path: PathBuf, outcome: Outcome) {
        match outcome {
            Outcome::Done => self.summary.done += 1,
            Outcome::Already(_) => self.summary.already += 1,
            Outcome::Failed(_) => self.summary.failed += 1,
        }
        let Summary { done, already, failed } = self.summary;
        let done = done + already + failed;
        (self.progress)(&Progress { path, outcome, done, total: self.total, bytes_total: 0 });
    }
}

/// The caller keeps the trash as it is.
fn put_back(shared: &Shared, row: &TrashRow, path: &Path) -> Result<()> {
    let Some(name) = path.file_name().map(|name| name.as_bytes().to_vec()) else {
        return Err(EngineError::refused(path, "its name is not known; give it one with --to"));
    };
    let dir = path.parent().unwrap_or(Path::new(""));
    let parent = directory(shared, dir)?;
    let _names = shared.lower.names_still_in(parent);
    if shared.lower.stat(dir)?.node != Some(parent) {
        return Err(EngineError::refused(path, "its directory was moved meanwhile; try again"));
    }
    let below = match shared.lower.stat(path) {
        Ok(_) => true,
        Err(e) if e.is_not_found() => false,
        Err(e) => return Err(e.into()),
    };
    if below || shared.catalog.lookup(parent, &name)?.is_some() {
        let id = row.row.id;
        let why =
            format!("its name is taken; `spoolfs trash restore {id} --to DIR` puts it elsewhere");
        return Err(EngineError::refused(path, why));
    }
    let (id, at) = (row.row.id, shared.now());
    if !row.local {
        let attr = row.row.attr.clone();
        shared.catalog.record(Op::Restore { id, parent, name, attr, at });
        faults::point("restore.after_record");
        return Ok(());
    }
    let before = shared.lower.stat(&trash_path(id))?.version;
    let stat = shared.lower.out_of_trash(id, path)?;
    shared.catalog.record(Op::Restore { id, parent, name, attr: stat.attr.clone(), at });
    let (attr, version, before) = (stat.attr, Some(stat.version), Some(before));
    shared.catalog.record(Op::SetAttr { id, attr, version, before });
    Ok(())
}

/// The directory at a path, made if it is gone.
fn directory(shared: &Shared, path: &Path) -> Result<NodeId> {
    let mut parent = NodeId::ROOT;
    let mut at = PathBuf::new();
    for component in path.components() {
        at.push(component);
        parent = step(shared, parent, &at)?;
    }
    Ok(parent)
}

fn step(shared: &Shared, parent: NodeId, path: &Path) -> Result<NodeId> {
    let name = path.file_name().unwrap_or_default().as_bytes();
    let _names = shared.lower.names_still_in(parent);
    match shared.lower.stat(path) {
        Ok(stat) if stat.attr.kind != Kind::Dir => {
            let why = format!("{} is not a directory any more; use --to DIR", path.display());
            return Err(EngineError::refused(path, why));
        }
        Ok(stat) => {
            let known = match stat.node {
                Some(id) => shared.catalog.node(id)?.is_some().then_some(id),
                None => None,
            };
            if let Some(id) = known {
                return Ok(id);
            }
        }
        Err(e) if e.is_not_found() => {
            if shared.catalog.lookup(parent, name)?.is_some() {
                let why = format!("{} is a recording now; use --to DIR", path.display());
                return Err(EngineError::refused(path, why));
            }
            let above = shared.lower.stat(path.parent().unwrap_or(Path::new("")))?.attr;
            shared.lower.restore_dir(path, shared.catalog.alloc(), &looks(shared, path, above)?)?;
        }
        Err(e) => return Err(e.into()),
    }
    let found = shared.lower.stat(path)?.node.unwrap_or_else(|| shared.catalog.alloc());
    let stat = shared.lower.identify(path, found)?;
    shared.catalog.record(Op::Create {
        id: found,
        parent,
        name: name.to_vec(),
        attr: stat.attr,
        version: stat.version,
        adopted: true,
    });
    Ok(found)
}

/// What a directory that is made again shows: what is known of it, else as the one above.
fn looks(shared: &Shared, path: &Path, above: Attr) -> Result<Attr> {
    Ok(match shared.catalog.lost_dir(path)? {
        Some((mode, uid, gid)) => Attr { mode, uid, gid, ..above },
        None => above,
    })
}
