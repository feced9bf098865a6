//! The files that a command is about.

use super::command::Command;
use super::error::Result;
use super::shared::Shared;
use crate::catalog::NodeRow;
use crate::limits;
use crate::recording::{Kind, NodeId, State};
use std::collections::HashSet;
use std::path::PathBuf;

/// Regular files, each once.
#[derive(Debug, Default)]
pub(super) struct Collected {
    pub(super) files: Vec<NodeId>,
    /// Paths that are not there.
    pub(super) missing: Vec<PathBuf>,
    /// Bytes that a recall of them fetches.
    pub(super) bytes: u64,
    seen: HashSet<NodeId>,
    dirs: Vec<NodeId>,
}

/// The files at and below the paths that the command is about.
pub(super) fn collect(shared: &Shared, command: Command, paths: &[PathBuf]) -> Result<Collected> {
    let mut found = Collected::default();
    for path in paths {
        if path.components().next().is_none() {
            found.dirs.push(NodeId::ROOT);
            continue;
        }
        match shared.resolve(path)? {
            Some((_, row)) => found.add(command, &row),
            None => found.missing.push(path.clone()),
        }
    }
    let everything = found.dirs.contains(&NodeId::ROOT);
    if everything && command == Command::Archive {
        found.trash(shared)?;
    }
    while let Some(dir) = found.dirs.pop() {
        entries(shared, dir, &mut |row| found.add(command, row))?;
    }
    Ok(found)
}

impl Collected {
    /// What was deleted before it was archived.
    fn trash(&mut self, shared: &Shared) -> Result<()> {
        let mut after = NodeId(0);
        loop {
            shared.check_stop()?;
            let page = shared.catalog.trash_waiting(after, limits::PLAN_PAGE_ROWS)?;
            let Some(last) = page.last() else { return Ok(()) };
            after = *last;
            let new: Vec<NodeId> = page.into_iter().filter(|id| self.seen.insert(*id)).collect();
            self.files.extend(new);
        }
    }

    fn add(&mut self, command: Command, row: &NodeRow) {
        match row.attr.kind {
            Kind::Dir => self.dirs.push(row.id),
            Kind::File if is_meant(command, row) && self.seen.insert(row.id) => {
                self.files.push(row.id);
                if row.state == State::Released {
                    self.bytes = self.bytes.saturating_add(row.attr.size);
                }
            }
            _ => {}
        }
    }
}

fn is_meant(command: Command, row: &NodeRow) -> bool {
    match command {
        Command::RecallBetween { since, until } => {
            row.state == State::Released
                && since.is_none_or(|since| row.attr.mtime >= since)
                && until.is_none_or(|until| row.attr.mtime <= until)
        }
        _ => true,
    }
}

fn entries(shared: &Shared, dir: NodeId, each: &mut dyn FnMut(&NodeRow)) -> Result<()> {
    let mut after = Vec::new();
    loop {
        shared.check_stop()?;
        let page = shared.catalog.children(dir, &after, limits::PLAN_PAGE_ROWS)?;
        let Some((last, _)) = page.last() else { break };
        after.clone_from(last);
        page.iter().for_each(|(_, row)| each(row));
    }
    let (mut cursor, mark) = (0, shared.catalog.tier_mark());
    loop {
        shared.check_stop()?;
        let page = shared.catalog.list_released(dir, cursor, mark, limits::PLAN_PAGE_ROWS)?;
        let Some(last) = page.last() else { return Ok(()) };
        cursor = last.cursor;
        page.iter().for_each(|listed| each(&listed.row));
    }
}
