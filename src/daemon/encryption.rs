//! Whether what is on the local disk is encrypted, and the key that opens it.

use crate::config::Config;
use crate::fscrypt::{LocalKey, Move, Place, Refused, Standing, Tables};
use std::os::fd::BorrowedFd;

/// The directories that hold recordings, or tell of them. `lower` is the lower directory, if
/// something is mounted over it.
///
/// # Errors
/// One of them can not be opened.
pub fn places(config: &Config, lower: Option<BorrowedFd<'_>>) -> Result<Vec<Place>, Refused> {
    let (what, path) = ("the recordings directory", &config.mountpoint);
    let lower = match lower {
        Some(dir) => Place::open(what, path, dir)?,
        None => Place::at(what, path)?,
    };
    let mut places = vec![lower];
    places.extend(own_places(config)?);
    Ok(places)
}

/// Those of them that no mount covers.
///
/// # Errors
/// As [`places`].
pub fn own_places(config: &Config) -> Result<[Place; 2], Refused> {
    let state = Place::at("the state directory", &config.state_dir)?;
    let cache = Place::at("the cache directory", &config.cache.dir)?;
    Ok([state, cache])
}

/// Gives the kernel the key of what is encrypted, and refuses what is not, if the configuration
/// asks for that. To be called before anything in these directories is looked at.
///
/// # Errors
/// What is missing, and what to do.
pub fn open(config: &Config, lower: Option<BorrowedFd<'_>>) -> Result<(), Refused> {
    let key_file = config.encryption.key_file.as_deref();
    // One after the other: what is in a locked directory is found only when it is open.
    let unlock = || {
        for place in places(config, lower)? {
            if place.unlock(key_file)? {
                tracing::info!(path = %place.path.display(), "the kernel was given its key");
            }
        }
        Ok(())
    };
    unlock()?;
    unlock()?;
    if let Some(warning) = warning(config, lower) {
        tracing::error!("{warning}");
    }
    if lower.is_none() {
        unfinished(config);
    }
    if config.encryption.required {
        let tables = Tables::default();
        for place in places(config, lower)? {
            place.require_encryption(&tables)?;
        }
    }
    Ok(())
}

/// Says what an interrupted `setup-encryption` left.
fn unfinished(config: &Config) {
    for dir in [&config.mountpoint, &config.state_dir, &config.cache.dir] {
        if let Some(at) = Move::of(dir).ok().filter(|at| at.beside().exists()) {
            tracing::warn!(
                path = %at.beside().display(),
                "setup-encryption was broken off and has left this: stop spoolfs and run it again"
            );
        }
    }
}

/// What an administrator must know although all is well now: whether what is encrypted will be open
/// after the next start of the machine.
fn warning(config: &Config, lower: Option<BorrowedFd<'_>>) -> Option<String> {
    let unlocked = |place: &Place| matches!(place.standing(), Ok(Standing::Unlocked(_)));
    if !places(config, lower).ok()?.iter().any(unlocked) {
        return None;
    }
    let why = match LocalKey::configured(config.encryption.key_file.as_deref()) {
        Ok(Some(_)) => return None,
        Ok(None) => "neither local_key_file nor a credential `local-key` is there".to_owned(),
        Err(why) => why,
    };
    Some(format!(
        "the key of the local disk is in the kernel, but after the next start of this machine it can          not be had, and nothing can be recorded: {why}"
    ))
}
