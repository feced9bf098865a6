//! Proving that the disk holds a recording whose sync failed.
//!
//! After a failed fsync the kernel may take for written what is not; what is read then comes from
//! its memory, and a later fsync succeeds without a word. Only reading past that memory tells.

use super::error::{EngineError, Result};
use super::hash::{Pace, open_quiet};
use super::shared::Shared;
use super::trash;
use crate::catalog::Candidate;
use crate::limits;
use crate::lower::{self, LowerError};
use crate::recording::{Hasher, Sha256};
use std::fs::File;

/// Syncs a suspect recording once more, reads it from the disk, and compares that with its hash.
/// Whoever calls has seen to it that it is archived already, if it is to be.
pub(super) fn prove(shared: &Shared, it: &Candidate) -> Result<()> {
    let Some(quiet) = open_quiet(shared, it)? else { return Ok(()) };
    let Some(row) = shared.catalog.node(it.row.id)? else { return Ok(()) };
    let (Some(since), Some(sha256), Some(hashed)) = (row.suspect, row.sha256, row.hashed) else {
        return Ok(());
    };
    if quiet.stat.version != hashed {
        shared.catalog.changed_below(it.row.id, quiet.stat.attr.clone(), quiet.stat.version)?;
        return Ok(());
    }
    let io = |source| LowerError::Io { path: it.path.clone(), source };
    let dir = it.path.parent().unwrap_or_else(|| std::path::Path::new(""));
    match it.trashed {
        true => shared.lower.persist_name(&trash::below(it))?,
        false => drop(shared.lower.sync_dir(dir, it.parent)?),
    }
    lower::sync_file(&quiet.file).map_err(io)?;
    compare(shared, it, &quiet.file, sha256, lower::read_from_disk)?;
    // A file system may take the cache in spite of being asked not to.
    compare(shared, it, &quiet.file, sha256, lower::read_uncached)?;
    if !shared.lower.still_quiet(&quiet)? {
        return Err(LowerError::Changed { path: it.path.clone() }.into());
    }
    if shared.catalog.proved(it.row.id, hashed, since)? {
        tracing::info!(path = %it.path.display(), "the disk holds this recording after all");
    }
    Ok(())
}

type Read = fn(&File, &mut dyn FnMut(&[u8])) -> std::io::Result<()>;

fn compare(shared: &Shared, it: &Candidate, file: &File, sha256: Sha256, read: Read) -> Result<()> {
    let mut hasher = Hasher::default();
    let mut pace = Pace::new(limits::HASH_BYTES_PER_SECOND);
    read(file, &mut |bytes| {
        hasher.update(bytes);
        let _stopping = shared.stop.wait(pace.after(bytes.len() as u64));
    })
    .map_err(|source| LowerError::Io { path: it.path.clone(), source })?;
    let (found, _) = hasher.finish();
    if found == sha256 {
        return Ok(());
    }
    let archived = it.row.archived_at.is_some();
    let cure = if archived {
        "the archive has it: stop spoolfs and move the damaged file out of the directory, and it \
         is read from the archive"
    } else {
        "it is not archived: copy it elsewhere at once, what is in memory may still be right"
    };
    let detail = format!(
        "syncing it failed, and the disk has SHA-256 {found} where {sha256} was written; {cure}"
    );
    Err(EngineError::Corrupt { path: it.path.clone(), detail })
}
