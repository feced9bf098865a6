//! `[encryption]`: what is on the local disk.

use super::check::{absolute, outside_the_mount};
use super::error::ConfigError;
use super::raw::RawEncryption;
use super::source::Source;
use std::path::{Path, PathBuf};

/// `[encryption]`: what is on the local disk.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Encryption {
    /// Whether spoolfs refuses to start over directories that are not encrypted.
    pub required: bool,
    /// The key that opens them; none: a systemd credential has it, or none is needed.
    pub key_file: Option<PathBuf>,
}

/// `own` are the directories that the key opens: it must not lie in one of them.
pub(super) fn resolve(
    raw: RawEncryption,
    source: &Source,
    mountpoint: &Path,
    own: [&Path; 2],
) -> Result<Encryption, ConfigError> {
    let key = "encryption.local_key_file";
    if let Some(file) = &raw.local_key_file {
        absolute(source, key, file)?;
        outside_the_mount(source, key, file, mountpoint)?;
        if own.into_iter().any(|dir| super::paths::beneath(file, dir)) {
            let message = format_args!("{file:?} lies in a directory that it is to open");
            return Err(source.fault(key, message, "keep it elsewhere, such as in /etc/spoolfs"));
        }
    }
    let required = raw.require_local_encryption.unwrap_or(false);
    Ok(Encryption { required, key_file: raw.local_key_file })
}
