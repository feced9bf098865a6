//! The trash: bringing back what was deleted.
//!
//! **Invariant:** a name is made while no other can be in its directory, and never over another;
//! the lower directory is changed first, then the catalog.

use super::command::{Outcome, Progress, Summary};
use super::error::{EngineError, Result};
use super::shared::Shared;
use crate::catalog::{Op, TrashCursor, TrashRow};
use crate::limits;
use crate::recording::{Attr, Kind, NodeId};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

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
        let mut after: Option<TrashCursor> = None;
        let mut none = true;
        loop {
            self.shared.check_stop()?;
            // Nothing is emptied or moved while a page is restored.
            let _trash = self.shared.trash.lock();
            let page = self.shared.catalog.trash(below, after, limits::PLAN_PAGE_ROWS)?;
            let Some(last) = page.last() else { break };
            after = Some(last.cursor());
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
    let (id, attr, at) = (row.row.id, row.row.attr.clone(), shared.now());
    shared.catalog.record(Op::Restore { id, parent, name, attr, at });
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
