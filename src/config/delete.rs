//! `[delete]`: what `rm` does.

use super::error::ConfigError;
use super::raw::RawDelete;
use super::source::Source;
use crate::limits;
use crate::policy::DeleteMode;
use crate::units::Age;

/// `[delete]`: what becomes of recordings that are deleted, or replaced by a rename.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Delete {
    /// What a deletion does.
    pub mode: DeleteMode,
    /// How long what expires stays in the trash.
    pub trash_keep: Age,
}

pub(super) fn resolve(raw: &RawDelete, source: &Source) -> Result<Delete, ConfigError> {
    let mode = mode(raw.delete_mode.as_deref(), "delete.delete_mode", source)?.unwrap_or_default();
    Ok(Delete { mode, trash_keep: raw.trash_keep.unwrap_or(Age::For(limits::TRASH_KEEP)) })
}

/// What a deletion does, as written under `key`; none: nothing is said there.
pub(super) fn mode(
    text: Option<&str>,
    key: &str,
    source: &Source,
) -> Result<Option<DeleteMode>, ConfigError> {
    let Some(text) = text else { return Ok(None) };
    let known = DeleteMode::ALL.into_iter().find(|mode| mode.word() == text);
    known.map(Some).ok_or_else(|| {
        let message = format_args!("{text:?} is no way to delete");
        let cure = "write \"trash\", \"keep\", \"delete\" or \"refuse\"";
        source.fault(key, message, cure)
    })
}
