//! The hash of a closed recording, taken while nobody writes to it.

use super::error::{EngineError, Result};
use super::shared::Shared;
use super::trash;
use crate::catalog::{Candidate, Digest, HashOutcome};
use crate::lower::{LowerError, Quiet};
use crate::recording::Hasher;
use crate::{faults, limits};
use rustix::fs::Advice;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::{Duration, Instant};

/// A stamp younger than this proves nothing: a change within the same tick of the kernel's clock
/// would leave it as it is. Kernels tick every 1 to 10 ms.
const STAMP_AGE_MIN: Duration = Duration::from_millis(50);
const PIECE_BYTES: usize = 256 << 10;

/// What became of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Hashed {
    /// The catalog has it.
    Done(HashOutcome),
    /// Too young to tell; look again after this time.
    Later(Duration),
    /// It is not there any more.
    Gone,
}

/// Opens a recording that has no writer, and makes sure that it is the one that is meant.
pub(super) fn open_quiet(shared: &Shared, it: &Candidate) -> Result<Option<Quiet>> {
    let quiet = match shared.lower.quiet(&trash::below(it)) {
        Ok(quiet) => quiet,
        Err(e) if e.is_not_found() => {
            if shared.missing(it)? {
                return Ok(None);
            }
            return Err(e.into());
        }
        Err(e) => return Err(e.into()),
    };
    if quiet.stat.node != Some(it.row.id) {
        return Err(LowerError::Changed { path: it.path.clone() }.into());
    }
    Ok(Some(quiet))
}

/// Hashes one candidate.
pub(super) fn hash(shared: &Shared, it: &Candidate) -> Result<Hashed> {
    let Some(quiet) = open_quiet(shared, it)? else { return Ok(Hashed::Gone) };
    let version = quiet.stat.version;
    let age = version.ctime.max(version.mtime).age_at(shared.now());
    // A time in the future counts as young only while it can be a matter of clock ticks.
    let ahead = shared.now().age_at(version.ctime.max(version.mtime));
    if age < STAMP_AGE_MIN && ahead < STAMP_AGE_MIN {
        return Ok(Hashed::Later(STAMP_AGE_MIN - age));
    }
    let hasher = read(shared, &quiet.file, &it.path, version.size)?;
    if it.row.adopted {
        // What was here before the first mount is not going to be played soon.
        let _advice = rustix::fs::fadvise(&*quiet.file, 0, None, Advice::DontNeed);
    }
    let whole = hasher.len() == version.size;
    if !whole || !shared.lower.still_quiet(&quiet)? {
        return Err(LowerError::Changed { path: it.path.clone() }.into());
    }
    let (sha256, chunks) = hasher.finish();
    let digest = Digest { sha256, chunks, version, attr: quiet.stat.attr };
    faults::point("hash.after_read");
    let outcome = shared.catalog.hashed(it.row.id, digest)?;
    faults::point("hash.after_commit");
    Ok(Hashed::Done(outcome))
}

/// Reads a file to its end, or a little further than `size`.
pub(super) fn read(shared: &Shared, file: &File, path: &Path, size: u64) -> Result<Hasher> {
    read_into(shared, file, path, size, &mut |_, _| Ok(()))
}

/// The same, and hands on what it reads with its offset.
pub(super) fn read_into(
    shared: &Shared,
    file: &File,
    path: &Path,
    size: u64,
    sink: &mut dyn FnMut(u64, &[u8]) -> std::io::Result<()>,
) -> Result<Hasher> {
    let failed = |source| LowerError::Io { path: path.into(), source };
    let _advice = rustix::fs::fadvise(file, 0, None, Advice::Sequential);
    let mut pace = Pace::new(limits::HASH_BYTES_PER_SECOND);
    let mut hasher = Hasher::default();
    let mut piece = vec![0; PIECE_BYTES];
    loop {
        let read = match file.read_at(&mut piece, hasher.len()) {
            Ok(read) => read,
            Err(e) if e.kind() == std::io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(failed(error).into()),
        };
        let Some(bytes) = piece.get(..read).filter(|b| !b.is_empty()) else { return Ok(hasher) };
        sink(hasher.len(), bytes).map_err(failed)?;
        hasher.update(bytes);
        // A writer that came meanwhile may append without end.
        if hasher.len() > size {
            return Ok(hasher);
        }
        let pause = pace.after(read as u64);
        if shared.stop.is_set() || (!pause.is_zero() && shared.stop.wait(pause)) {
            return Err(EngineError::Stopping);
        }
    }
}

/// Keeps work on a disk or a network below a rate.
#[derive(Debug)]
pub(super) struct Pace {
    per_second: u64,
    done: u64,
    since: Instant,
}

impl Pace {
    pub fn new(per_second: u64) -> Pace {
        Pace { per_second: per_second.max(1), done: 0, since: Instant::now() }
    }

    /// How long to pause after `units` more. Pauses too short to be worth a sleep are saved up;
    /// of time in which nothing was done at most a second is.
    pub fn after(&mut self, units: u64) -> Duration {
        let time_for = |done: u64| Duration::from_secs_f64(done as f64 / self.per_second as f64);
        let idle = self.since.elapsed().saturating_sub(time_for(self.done));
        self.since += idle.saturating_sub(Duration::from_secs(1));
        self.done = self.done.saturating_add(units);
        let pause = time_for(self.done).saturating_sub(self.since.elapsed());
        if pause < Duration::from_millis(5) { Duration::ZERO } else { pause }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pace_asks_for_pauses_only_when_it_is_ahead() {
        let mut pace = Pace::new(1000);
        assert_eq!(pace.after(1), Duration::ZERO);
        let pause = pace.after(999);
        assert!(pause > Duration::from_millis(900) && pause <= Duration::from_secs(1), "{pause:?}");
        let mut fast = Pace::new(u64::MAX);
        assert_eq!(fast.after(1 << 30), Duration::ZERO);
    }
}
