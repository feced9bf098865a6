//! Storing archived recordings anew.

use super::Daemon;
use super::commands::reported;
use crate::audit::Event;
use crate::control::{Failure, Peer, Progress, RecompressReport, WirePath};
use crate::engine::{self, Gain, Keys};
use parking_lot::Mutex;
use std::path::PathBuf;

/// Has recordings stored as FLAC where their rules say so, or tells which would be.
pub(super) fn recompress(
    daemon: &Daemon,
    paths: Vec<WirePath>,
    plan: bool,
    peer: &Peer,
    progress: &mut dyn FnMut(Progress),
) -> Result<RecompressReport, Failure> {
    if !plan {
        super::record::asked(daemon, Event::Recompressed, &paths, peer);
    }
    let paths = relative(paths);
    anew(daemon, plan, progress, &|told| daemon.engine.recompress(plan, &paths, told))
}

/// Has recordings sealed to the keys that their rules have now, or tells which would be. `added` and
/// `removed`: some of the keys, in words.
pub(super) fn reseal(
    daemon: &Daemon,
    (paths, plan): (Vec<WirePath>, bool),
    (added, removed): (Vec<String>, Vec<String>),
    peer: &Peer,
    progress: &mut dyn FnMut(Progress),
) -> Result<RecompressReport, Failure> {
    // Before anything is said of them: one may be a secret one.
    let keys = Keys::new(added, removed).map_err(|error| Failure::new(error.to_string()))?;
    if !plan {
        let (added, removed) = (keys.added.clone(), keys.removed.clone());
        super::record::asked(daemon, Event::Resealed { added, removed }, &paths, peer);
    }
    let paths = relative(paths);
    anew(daemon, plan, progress, &|told| daemon.engine.reseal(&keys, plan, &paths, told))
}

fn relative(paths: Vec<WirePath>) -> Vec<PathBuf> {
    paths.into_iter().map(|path| path.0).collect()
}

/// Is told of each recording.
type Told<'a> = &'a (dyn Fn(&engine::Progress) + Sync);
/// What does it.
type Work<'a> = &'a (dyn Fn(Told<'_>) -> engine::Result<(engine::Summary, Gain)> + Sync);

fn anew(
    daemon: &Daemon,
    plan: bool,
    progress: &mut dyn FnMut(Progress),
    work: Work<'_>,
) -> Result<RecompressReport, Failure> {
    let gain = Mutex::new(Gain::default());
    let moved = reported(daemon, progress, &|told| {
        let (summary, gained) = work(told)?;
        *gain.lock() = gained;
        Ok(summary)
    })?;
    let Gain { before, after, held, locked } = gain.into_inner();
    Ok(RecompressReport { plan, moved, bytes_before: before, bytes_after: after, held, locked })
}
