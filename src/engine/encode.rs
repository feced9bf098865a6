//! What a target is given of a recording: its bytes, or others that are more use there and of which
//! they can be made again.
//!
//! **Invariant:** what is given instead was made from exactly the bytes that were hashed, and gives
//! exactly these back. Whatever is in the way of that, the recording is archived as it is.

use super::error::{EngineError, Result};
use super::hash;
use super::shared::Shared;
use crate::faults;
use crate::lower::Quiet;
use crate::recording::{Encoding, Patch, Sha256, Stored, wav};
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

/// Bytes to be stored instead of the recording's own.
#[derive(Debug)]
pub(super) struct Encoded {
    /// They are in here; the file has no name.
    pub file: Arc<File>,
    pub stored: Stored,
}

/// Makes them, if there is something to gain; the caller has seen that nobody writes to the file.
/// `None`: the recording is stored as it is.
pub(super) fn encode(
    shared: &Shared,
    quiet: &Quiet,
    path: &Path,
    sha256: Sha256,
) -> Result<Option<Encoded>> {
    let size = quiet.stat.version.size;
    if !shared.repair_headers {
        return Ok(None);
    }
    let mut header = [0; wav::HEADER_BYTES];
    let read = quiet.file.read_at(&mut header, 0).unwrap_or(0);
    let header = header.get(..read).unwrap_or_default();
    let sizes = wav::lacking_sizes(header, size);
    if sizes.is_empty() {
        return Ok(None);
    }
    let original = |at: u64, len: usize| {
        let at = usize::try_from(at).ok()?;
        header.get(at..at + len).map(<[u8]>::to_vec)
    };
    let places: Option<Vec<(u64, Vec<u8>)>> =
        sizes.iter().map(|(at, size)| Some((*at, original(*at, size.len())?))).collect();
    let Some(patch) = places.and_then(Patch::new) else { return Ok(None) };
    match patched(shared, quiet, path, sha256, &sizes) {
        Ok(Some((file, digest))) => {
            tracing::info!(path = %path.display(), "the archived copy of a cut call is given its sizes");
            let stored = Stored { encoding: Encoding::Patched(patch), size, sha256: digest };
            Ok(Some(Encoded { file: Arc::new(file), stored }))
        }
        Ok(None) => Ok(None),
        Err(EngineError::Stopping) => Err(EngineError::Stopping),
        Err(error) => {
            tracing::warn!(%error, "a cut call is archived as it is, without its sizes");
            Ok(None)
        }
    }
}

/// A copy with other bytes in some places, and its digest; `None` if what was read is not what was
/// hashed: the target will find that, too, and then it is seen to.
fn patched(
    shared: &Shared,
    quiet: &Quiet,
    path: &Path,
    sha256: Sha256,
    changes: &[(u64, [u8; 4])],
) -> Result<Option<(File, Sha256)>> {
    let size = quiet.stat.version.size;
    let (free, need) = (shared.lower.usage()?.bytes_free, size.saturating_add(shared.reserve));
    if free < need {
        return Err(EngineError::NoSpace { path: path.to_owned(), need, free });
    }
    let copy = shared.lower.scratch()?;
    let mut digest = crate::recording::Hasher::default();
    let mut piece = Vec::new();
    let read = hash::read_into(shared, &quiet.file, path, size, &mut |start, bytes| {
        piece.clear();
        piece.extend_from_slice(bytes);
        for (at, change) in changes {
            for (offset, byte) in (*at..).zip(change) {
                let place = offset.checked_sub(start).and_then(|at| usize::try_from(at).ok());
                if let Some(place) = place.and_then(|at| piece.get_mut(at)) {
                    *place = *byte;
                }
            }
        }
        digest.update(&piece);
        copy.write_all_at(&piece, start)
    })?;
    faults::point("encode.after_copy");
    let same = read.len() == size && read.finish().0 == sha256;
    Ok(same.then(|| (copy, digest.finish().0)))
}
