//! Storing archived recordings anew.

use super::Daemon;
use super::commands::reported;
use crate::audit::Event;
use crate::control::{Failure, Peer, Progress, RecompressReport, WirePath};
use crate::engine::Gain;
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
    let paths: Vec<PathBuf> = paths.into_iter().map(|path| path.0).collect();
    let gain = Mutex::new(Gain::default());
    let moved = reported(daemon, progress, &|told| {
        let (summary, gained) = daemon.engine.recompress(plan, &paths, told)?;
        *gain.lock() = gained;
        Ok(summary)
    })?;
    let Gain { before, after, held, locked } = gain.into_inner();
    Ok(RecompressReport { plan, moved, bytes_before: before, bytes_after: after, held, locked })
}
