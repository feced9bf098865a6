//! What a target is given of a recording: its bytes, or others that are more use there and of which
//! they can be made again.
//!
//! **Invariant:** what is given instead was made from exactly the bytes that were hashed, and gives
//! exactly these back. Whatever is in the way of that, the recording is archived as it is.

use super::error::{EngineError, Result};
use super::shared::Shared;
use super::wanted::recipients;
use super::workers::be_nice;
use super::{hash, seal};
use crate::codec::seal::Identities;
use crate::codec::{self, Unreadable};
use crate::lower::LowerError;
use crate::policy::{Compress, SealTo};
use crate::recording::{Encoding, Hasher, Patch, Sha256, Stored, chunk_at, chunk_range, wav};
use crate::{faults, units::Percent};
use bytes::Bytes;
use std::fs::File;
use std::ops::Range;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

/// How a recording is to be stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct How {
    /// How smaller; none: as it is.
    pub compress: Option<Compress>,
    /// Whom it is sealed to; none: it is not.
    pub seal_to: Option<SealTo>,
}

/// A recording that is to be stored.
#[derive(Clone, Copy, Debug)]
pub(super) struct Original<'a> {
    /// It is in here, whole.
    pub file: &'a File,
    /// Its length in bytes.
    pub size: u64,
    /// What it is called.
    pub path: &'a Path,
    /// What it has to be.
    pub sha256: Sha256,
}

/// Bytes to be stored instead of the recording's own.
#[derive(Debug)]
pub(super) struct Encoded {
    /// They are in here; the file has no name.
    pub file: Arc<File>,
    pub stored: Stored,
}

/// Makes them, if there is something to gain or to seal; the caller has seen that nobody writes to the
/// file. `None`: the recording is stored as it is.
///
/// # Errors
/// It was to be sealed and was not: then nothing is stored. `Corrupt` if it is not what was hashed.
pub(super) fn encode(shared: &Shared, from: &Original<'_>, how: &How) -> Result<Option<Encoded>> {
    if how.compress.is_some() || how.seal_to.is_some() {
        be_nice();
    }
    let smaller = smaller(shared, from, how.compress)?;
    match &how.seal_to {
        Some(to) => {
            let recipients = &recipients(to)?;
            let Original { file, size, path, sha256 } = *from;
            let (file, stored) = match &smaller {
                Some(Encoded { file, stored }) => (&**file, stored.clone()),
                None => (file, Stored::plain(size, sha256)),
            };
            let open = seal::Opened { file, size, sha256, stored };
            seal::seal(shared, path, &open, recipients).map(Some)
        }
        None => Ok(smaller),
    }
}

fn smaller(
    shared: &Shared,
    from: &Original<'_>,
    compress: Option<Compress>,
) -> Result<Option<Encoded>> {
    let made = match compress {
        Some(Compress::Flac { min_gain }) => flac(shared, from, min_gain),
        None => Ok(None),
    };
    match or_not(made, "a recording is archived as it is, not as FLAC")? {
        Some(encoded) => Ok(Some(encoded)),
        // FLAC says itself how long it is: a cut call plays.
        None if shared.repair_headers => repaired(shared, from),
        None => Ok(None),
    }
}

/// Whatever was in the way: but a stop is one.
fn or_not(made: Result<Option<Encoded>>, instead: &str) -> Result<Option<Encoded>> {
    match made {
        Err(EngineError::Stopping) => Err(EngineError::Stopping),
        Err(error) => {
            tracing::warn!(%error, "{instead}");
            Ok(None)
        }
        made => made,
    }
}

/// A file without a name that may become as long as the recording.
fn scratch(shared: &Shared, path: &Path, size: u64) -> Result<File> {
    let (free, need) = (shared.lower.usage()?.bytes_free, size.saturating_add(shared.reserve));
    if free < need {
        return Err(EngineError::NoSpace { path: path.to_owned(), need, free });
    }
    Ok(shared.lower.scratch()?)
}

/// The recording as FLAC, decoded again and compared; `None` if it is no PCM, or gains less than
/// this share.
fn flac(shared: &Shared, from: &Original<'_>, min_gain: Percent) -> Result<Option<Encoded>> {
    let Original { file: original, size, path, sha256 } = *from;
    let failed = |source| EngineError::from(LowerError::Io { path: path.into(), source });
    let name = path.as_os_str().as_bytes();
    let mut read = |at: u64, len: usize| read_at(original, at, len);
    let candidate = codec::flac::candidate(name, size, &mut read).map_err(failed)?;
    let Some(candidate) = candidate else { return Ok(None) };
    // One at a time: calls have the processors.
    let _turn = shared.encoding.lock();
    shared.check_stop()?;
    let file = scratch(shared, path, size)?;
    let mut encoder = codec::flac::Encoder::new(candidate, &file).map_err(failed)?;
    hash::read_into(shared, original, path, size, &mut |_, bytes| encoder.push(bytes))?;
    let Some(map) = encoder.finish().map_err(failed)? else { return Ok(None) };
    let stored_size = file.metadata().map_err(failed)?.len();
    if u128::from(stored_size) * 100 > u128::from(size) * u128::from(100 - min_gain.0.min(100)) {
        tracing::debug!(path = %path.display(), size, stored_size, "FLAC would gain too little");
        return Ok(None);
    }
    let different = |what: String| {
        let detail = format!("as FLAC it would not come back as it is: {what}");
        Err(EngineError::Corrupt { path: path.to_owned(), detail })
    };
    let encoding = Encoding::from(map.clone());
    match decoded(shared, &file, &encoding, size, &Identities::default())? {
        Ok(found) if found == sha256 => {}
        Ok(found) => return different(format!("SHA-256 {found}, it has {sha256}")),
        Err(error) => return different(error.to_string()),
    }
    let start = read_at(&file, 0, map.head() as usize).map_err(failed)?;
    if codec::flac::head(&start, stored_size) != Ok(codec::flac::Head::Map(map.clone())) {
        return different("its SEEKTABLE leads elsewhere".to_owned());
    }
    let digest = hash::read(shared, &file, path, stored_size)?.finish().0;
    faults::point("encode.after_flac");
    let stored = Stored { encoding, size: stored_size, sha256: digest };
    Ok(Some(Encoded { file: Arc::new(file), stored }))
}

/// The SHA-256 of the recording of `size` bytes that a file holds, read as a reader does: part by part.
pub(super) fn decoded(
    shared: &Shared,
    file: &File,
    encoding: &Encoding,
    size: u64,
    identities: &Identities,
) -> Result<std::result::Result<Sha256, Unreadable>> {
    let mut hasher = Hasher::default();
    let mut sink = |bytes: &[u8]| hasher.update(bytes);
    let read = decode(shared, file, encoding, (size, identities), &mut sink)?;
    Ok(read.map(|()| hasher.finish().0))
}

/// The recording of `size` bytes that a file holds, as far as it does, part by part.
pub(super) fn decode(
    shared: &Shared,
    file: &File,
    encoding: &Encoding,
    (size, identities): (u64, &Identities),
    sink: &mut dyn FnMut(&[u8]),
) -> Result<std::result::Result<(), Unreadable>> {
    let mut at = 0;
    while at < size {
        shared.check_stop()?;
        let range = chunk_range(chunk_at(at), size);
        let Range { start, end } = match codec::stored_range(encoding, &range) {
            Ok(place) => place,
            Err(error) => return Ok(Err(error)),
        };
        let failed = |source| LowerError::Io { path: "what is to be stored".into(), source };
        let stored = read_at(file, start, (end - start) as usize).map_err(failed)?;
        match codec::restored(encoding, &range, stored, identities) {
            Ok(bytes) if bytes.len() as u64 == range.end - range.start => sink(&bytes),
            Ok(_) => break,
            Err(error) => return Ok(Err(error)),
        }
        at = range.end;
    }
    Ok(Ok(()))
}

/// Up to so many bytes; fewer only where the file ends.
pub(super) fn read_at(file: &File, at: u64, len: usize) -> std::io::Result<Bytes> {
    let mut bytes = vec![0; len];
    let mut done = 0;
    while let Some(rest) = bytes.get_mut(done..).filter(|rest| !rest.is_empty()) {
        match file.read_at(rest, at + done as u64) {
            Ok(0) => break,
            Ok(read) => done += read,
            Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    bytes.truncate(done);
    Ok(bytes.into())
}

/// The recording with the sizes that its header lacks.
fn repaired(shared: &Shared, from: &Original<'_>) -> Result<Option<Encoded>> {
    let Original { file, size, path, .. } = *from;
    let mut header = [0; wav::HEADER_BYTES];
    let read = file.read_at(&mut header, 0).unwrap_or(0);
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
    let made = patched(shared, from, &sizes).map(|made| {
        let (file, digest) = made?;
        tracing::info!(path = %path.display(), "the archived copy of a cut call is given its sizes");
        let stored = Stored { encoding: Encoding::Patched(patch), size, sha256: digest };
        Some(Encoded { file: Arc::new(file), stored })
    });
    or_not(made, "a cut call is archived as it is, without its sizes")
}

/// A copy with other bytes in some places, and its digest; `None` if what was read is not what was
/// hashed: the target will find that, too, and then it is seen to.
fn patched(
    shared: &Shared,
    from: &Original<'_>,
    changes: &[(u64, [u8; 4])],
) -> Result<Option<(File, Sha256)>> {
    let Original { file, size, path, sha256 } = *from;
    let copy = scratch(shared, path, size)?;
    let mut digest = Hasher::default();
    let mut piece = Vec::new();
    let read = hash::read_into(shared, file, path, size, &mut |start, bytes| {
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
