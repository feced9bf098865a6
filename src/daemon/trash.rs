//! The commands about the trash.

use super::Daemon;
use super::commands::{reported, unusable};
use crate::catalog::TrashRow;
use crate::control::{
    Failure, MoveReport, Progress, TrashItem, TrashReport, TrashedReport, WirePath,
};
use crate::engine::Trashed;
use crate::limits;
use std::path::Path;

/// What is in the trash at or below some paths.
///
/// # Errors
/// The catalog can not be used.
pub(super) fn list(
    daemon: &Daemon,
    paths: &[WirePath],
    limit: u64,
) -> Result<TrashReport, Failure> {
    let limit = usize::try_from(limit).unwrap_or(usize::MAX).min(limits::REPORT_PATHS_MAX);
    let all = [WirePath::default()];
    let mut recordings = Vec::new();
    for path in if paths.is_empty() { &all[..] } else { paths } {
        let left = limit.saturating_sub(recordings.len());
        recordings.extend(daemon.catalog.trash(Some(&path.0), None, left + 1).map_err(unusable)?);
    }
    let more = recordings.len() > limit;
    let (files, bytes) = daemon.catalog.counts().map_err(unusable)?.trash;
    let recordings = recordings.into_iter().take(limit).map(report).collect();
    Ok(TrashReport { files, bytes, recordings, more })
}

fn report(one: TrashRow) -> TrashedReport {
    TrashedReport {
        id: one.row.id,
        path: one.path.into(),
        deleted_at: one.at,
        size: one.row.attr.size,
        modified_at: one.row.attr.mtime,
        local: one.local,
        archived: one.archived,
        generation: one.row.generation,
        sha256: one.row.sha256,
    }
}

/// Brings recordings back.
///
/// # Errors
/// The catalog can not be used, or nothing can be put where it is wanted.
pub(super) fn restore(
    daemon: &Daemon,
    items: Vec<TrashItem>,
    to: Option<WirePath>,
    progress: &mut dyn FnMut(Progress),
) -> Result<MoveReport, Failure> {
    let to = to.map(|to| to.0);
    if let Some(to) = &to {
        in_the_tree(daemon, to)?;
    }
    let what: Vec<Trashed> = items.into_iter().map(meant).collect();
    reported(daemon, progress, &|told| daemon.engine.restore(&what, to.as_deref(), told))
}

fn meant(item: TrashItem) -> Trashed {
    match item {
        TrashItem::Id(id) => Trashed::Id(id),
        TrashItem::Path(path) if path.0.as_os_str().is_empty() => Trashed::All,
        TrashItem::Path(path) => Trashed::Path(path.0),
    }
}

/// Joined calls have a directory that is nowhere.
fn in_the_tree(daemon: &Daemon, to: &Path) -> Result<(), Failure> {
    let config = daemon.config.read();
    let joined = daemon.stitched.is_some() && to.starts_with(&config.stitched.directory);
    if joined || to.starts_with(".spl") {
        let what = format!("{}: nothing can be put there; give another --to", to.display());
        return Err(Failure::new(what));
    }
    Ok(())
}
