//! `--move`: removes sources whose recordings the archive was proved to hold.

use super::Report;
use super::copy::{Copied, Stamp};
use crate::cli::output::ProgressLine;
use crate::cli::{Context, Exit};
use crate::control::{MoveReport, PathReport, Progress, Request};
use crate::limits;
use crate::recording::State;

/// Archives what was imported, and removes each source whose bytes every target holds that must,
/// verified.
pub(super) fn remove(
    context: &Context,
    there: &[Copied],
    report: &mut Report,
    line: &mut ProgressLine,
) -> Result<(), Exit> {
    // An empty recording is never archived: it has no bytes to be lost, and stays.
    let (mut left, empty): (Vec<&Copied>, Vec<&Copied>) =
        there.iter().partition(|copied| copied.stamp.size() > 0);
    report.kept_empty = empty.len() as u64;
    for tries in (0..limits::IMPORT_ARCHIVE_TRIES).rev() {
        let mut next = Vec::new();
        for batch in left.chunks(limits::IMPORT_BATCH) {
            let paths = batch.iter().map(|c| c.below.clone().into()).collect();
            let _each_is_asked_for: MoveReport =
                context.ask(&Request::Archive { paths }, "archived")?;
            for copied in batch {
                line.show(&Progress {
                    done: report.moved,
                    total: there.len() as u64,
                    current: Some(copied.below.clone().into()),
                    ..Progress::default()
                });
                match one(context, copied) {
                    Ok(()) => report.moved += 1,
                    // It may have been closed too short a time ago.
                    Err(_) if tries > 0 => next.push(*copied),
                    Err(reason) => report.fail(&copied.source, reason),
                }
            }
        }
        if next.is_empty() {
            break;
        }
        left = next;
        std::thread::sleep(limits::IMPORT_LOOK);
    }
    line.clear();
    Ok(())
}

fn one(context: &Context, copied: &Copied) -> Result<(), String> {
    let path = copied.below.clone().into();
    let told: PathReport =
        context.ask(&Request::Status { path: Some(path) }, "").map_err(|exit| match exit {
            Exit::Failed(failure) => failure.message,
            _ => "the daemon does not answer".into(),
        })?;
    if !matches!(told.state, State::Archived | State::Released) {
        return Err(format!("it is imported, but not archived yet ({}); kept", told.state));
    }
    if told.sha256 != Some(copied.sha256) {
        return Err("what is archived under its name has other content; kept".into());
    }
    let has = |target: &String| told.objects.iter().any(|o| o.target == *target);
    if told.must.is_empty() {
        return Err("no target must hold it; kept".into());
    }
    if let Some(lacks) = told.must.iter().find(|target| !has(target)) {
        return Err(format!("target {lacks:?} does not have it yet; kept"));
    }
    let now = std::fs::symlink_metadata(&copied.source).map_err(|e| e.to_string())?;
    if Stamp::of(&now) != copied.stamp {
        return Err("it changed after it was copied; kept".into());
    }
    std::fs::remove_file(&copied.source).map_err(|e| format!("it can not be removed: {e}"))
}
