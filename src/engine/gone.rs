//! What the catalog has and the lower directory has not: deleted, or lost, without a mount.
//! Archived recordings are released then, not deleted; directories that released recordings need
//! are made again; the rest is forgotten.

use super::error::Result;
use super::shared::Shared;
use crate::catalog::{NodeRow, Op};
use crate::recording::{Kind, NodeId, State};
use crate::{faults, limits};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// A directory of the catalog.
#[derive(Clone)]
struct Place {
    id: NodeId,
    parent: NodeId,
    name: Vec<u8>,
    path: PathBuf,
    row: Option<NodeRow>,
}

/// Looks for every local file and directory of the catalog. The lower directory was walked before.
pub(super) fn whole_tree(shared: &Shared) -> Result<()> {
    let root = Place {
        id: NodeId::ROOT,
        parent: NodeId::ROOT,
        name: Vec::new(),
        path: PathBuf::new(),
        row: None,
    };
    let mut stack = vec![root];
    while let Some(place) = stack.pop() {
        for child in children(shared, &place)? {
            shared.check_stop()?;
            let Some(row) = &child.row else { continue };
            if !is_missing(shared, &child)? {
                if row.attr.kind == Kind::Dir {
                    stack.push(child);
                }
            } else if row.attr.kind == Kind::Dir {
                missing_dir(shared, child)?;
            } else {
                missing_file(shared, &child)?;
            }
        }
    }
    Ok(())
}

fn children(shared: &Shared, place: &Place) -> Result<Vec<Place>> {
    let mut all = Vec::new();
    let mut after = Vec::new();
    loop {
        let page = shared.catalog.children(place.id, &after, limits::PLAN_PAGE_ROWS)?;
        let Some((last, _)) = page.last() else { return Ok(all) };
        after.clone_from(last);
        all.extend(page.into_iter().filter(|(_, row)| row.state != State::Released).map(
            |(name, row)| Place {
                id: row.id,
                parent: place.id,
                path: place.path.join(OsStr::from_bytes(&name)),
                name,
                row: Some(row),
            },
        ));
    }
}

/// Asked while no name can move, and while nothing moves between local and released.
fn is_missing(shared: &Shared, place: &Place) -> Result<bool> {
    if !shared.lower.stat(&place.path).is_err_and(|e| e.is_not_found()) {
        return Ok(false);
    }
    let _tier = shared.tier.lock();
    let released = shared.catalog.node(place.id)?.is_none_or(|r| r.state == State::Released);
    Ok(!released && shared.is_gone_from(place.id, place.parent, &place.name)?)
}

fn missing_file(shared: &Shared, place: &Place) -> Result<()> {
    let links = shared.catalog.node(place.id)?.map_or(0, |row| row.attr.nlink);
    if links > 1 {
        shared.catalog.record(Op::Unlink {
            fate: crate::catalog::Fate::Kept,
            parent: place.parent,
            name: place.name.clone(),
            id: place.id,
            last: false,
            at: shared.now(),
        });
        return Ok(());
    }
    tracing::info!(path = %place.path.display(), "the local copy is gone");
    shared.catalog.missing_below(place.id)?;
    faults::point("reconcile.after_missing");
    Ok(())
}

/// A directory that is gone, with all below it.
fn missing_dir(shared: &Shared, top: Place) -> Result<()> {
    let mut dirs = vec![top];
    let mut next = 0;
    while let Some(dir) = dirs.get(next).cloned() {
        next += 1;
        for child in children(shared, &dir)? {
            shared.check_stop()?;
            match &child.row {
                Some(row) if row.attr.kind == Kind::Dir => dirs.push(child),
                _ => missing_file(shared, &child)?,
            }
        }
    }
    // Parents stand before what is in them.
    let mut needed: Vec<&Path> = Vec::new();
    for dir in dirs.iter().rev() {
        if shared.catalog.has_released(dir.id)? || needed.iter().any(|p| p.starts_with(&dir.path)) {
            needed.push(&dir.path);
        }
    }
    for dir in dirs.iter().filter(|d| needed.contains(&d.path.as_path())) {
        if let Some(row) = &dir.row {
            shared.lower.restore_dir(&dir.path, dir.id, &row.attr)?;
            faults::point("reconcile.after_restored_dir");
        }
    }
    for dir in dirs.iter().rev().filter(|d| !needed.contains(&d.path.as_path())) {
        shared.catalog.missing_below(dir.id)?;
    }
    Ok(())
}
