//! `[delete]`: what `rm` does.

use super::error::ConfigError;
use super::raw::RawDelete;
use super::source::Source;
use crate::policy::DeleteMode;
use crate::units::Age;
use std::time::Duration;

/// `[delete]`: what becomes of recordings that are deleted, or replaced by a rename.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Delete {
    /// What a deletion does.
    pub mode: DeleteMode,
    /// How long what expires stays in the trash.
    pub trash_keep: Age,
}

const KEEP: Duration = Duration::from_secs(30 * 86_400);

pub(super) fn resolve(raw: &RawDelete, source: &Source) -> Result<Delete, ConfigError> {
    let mode = match raw.delete_mode.as_deref() {
        None => DeleteMode::default(),
        Some(text) => {
            let modes = [DeleteMode::Trash, DeleteMode::Keep];
            let known = modes.into_iter().find(|mode| mode.word() == text);
            known.ok_or_else(|| {
                let message = format_args!("{text:?} is no way to delete");
                let cure = "write \"trash\" or \"keep\"";
                source.fault("delete.delete_mode", message, cure)
            })?
        }
    };
    Ok(Delete { mode, trash_keep: raw.trash_keep.unwrap_or(Age::For(KEEP)) })
}
