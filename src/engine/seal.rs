//! Sealing what a target is given with age.
//!
//! **Invariant:** what was to be sealed is sealed or not stored at all; and before it is stored it was
//! opened again and was the recording.

use super::encode::{Encoded, decoded, read_at};
use super::error::{EngineError, Result};
use super::hash;
use super::shared::Shared;
use crate::codec::seal::{self, Identities, Recipients, Sealer};
use crate::lower::LowerError;
use crate::recording::{Encoding, Sha256, Stored, sealed_bytes};
use crate::{faults, limits};
use std::fs::File;
use std::io::BufWriter;
use std::path::Path;
use std::sync::Arc;

/// What is to be sealed.
pub(super) struct Opened<'a> {
    /// What would be stored otherwise.
    pub file: &'a File,
    /// What that is.
    pub stored: Stored,
    /// Length of the recording that it is read to be.
    pub size: u64,
    /// Its SHA-256.
    pub sha256: Sha256,
}

/// Seals a recording, or what would be stored of it otherwise.
pub(super) fn seal(
    shared: &Shared,
    path: &Path,
    open: &Opened<'_>,
    recipients: &Recipients,
) -> Result<Encoded> {
    let failed = |source| EngineError::from(LowerError::Io { path: path.into(), source });
    let Opened { file: from, stored: inner, size, sha256 } = open;
    // One at a time: calls have the processors.
    let _turn = shared.encoding.lock();
    shared.check_stop()?;
    let file = scratch(shared, path, inner.size)?;
    let mut sealer = Sealer::begin(recipients, BufWriter::new(&file)).map_err(failed)?;
    let read = hash::read_into(shared, from, path, inner.size, &mut |_, bytes| sealer.push(bytes))?;
    let (writer, own) = sealer.finish().map_err(failed)?;
    writer.into_inner().map_err(|e| failed(e.into_error()))?;
    let wrong = |detail: String| EngineError::Corrupt { path: path.to_owned(), detail };
    if read.len() != inner.size || read.finish().0 != inner.sha256 {
        return Err(wrong("what was to be sealed is not what was hashed".to_owned()));
    }
    let stored_size = file.metadata().map_err(failed)?.len();
    let start = read_at(&file, 0, limits::SEAL_HEAD_BYTES_MAX as usize).map_err(failed)?;
    let sealed = seal::sealed(&start, inner.encoding.clone(), stored_size)
        .map_err(|e| wrong(format!("it could not be sealed: {e}")))?;
    if sealed.inner_bytes() != Some(inner.size) {
        return Err(wrong("it could not be sealed: it has another length".to_owned()));
    }
    let encoding = Encoding::from(sealed);
    match opened(shared, &file, &encoding, *size, &own)? {
        Ok(found) if found == *sha256 => {}
        Ok(found) => {
            let detail =
                format!("sealed, it would come back with SHA-256 {found}, it has {sha256}");
            return Err(wrong(detail));
        }
        Err(error) => return Err(wrong(format!("sealed, it would not come back: {error}"))),
    }
    let digest = hash::read(shared, &file, path, stored_size)?.finish().0;
    faults::point("seal.after_sealed");
    let stored = Stored { encoding, size: stored_size, sha256: digest };
    Ok(Encoded { file: Arc::new(file), stored })
}

type Found = std::result::Result<Sha256, crate::codec::Unreadable>;

/// The SHA-256 of the recording in a file that was sealed, by the key that reads it later if there is
/// one here, else by the key that it was just sealed with.
fn opened(
    shared: &Shared,
    file: &File,
    encoding: &Encoding,
    size: u64,
    own: &Identities,
) -> Result<Found> {
    match decoded(shared, file, encoding, size, &shared.identities)? {
        Err(error) if error.is_locked() => decoded(shared, file, encoding, size, own),
        found => Ok(found),
    }
}

/// A file without a name for it. It may go into the reserve: nothing can be released on a full disk
/// that was not archived before.
fn scratch(shared: &Shared, path: &Path, size: u64) -> Result<File> {
    let need = sealed_bytes(size).saturating_add(limits::SEAL_HEAD_BYTES_MAX);
    let free = shared.lower.usage()?.bytes_free;
    if free < need {
        return Err(EngineError::NoSpace { path: path.to_owned(), need, free });
    }
    Ok(shared.lower.scratch()?)
}
