//! The name keys of a machine, which its targets have sealed: what opens hidden metadata.

use super::error::{RebuildError, Result};
use super::read::Source;
use crate::codec::Unreadable;
use crate::codec::seal::open_all;
use crate::limits;
use crate::store::StoreErrorKind;
use crate::store::hidden::{self, NameKey};
use std::path::Path;

/// All of them, behind that of the state directory, which goes on naming. Where there is none that is a
/// new one: one that a target has may have been put there by who wants to read what it seals. Every
/// source gets to know them.
/// What no key opens is not told of: then journal and snapshots are not opened either.
///
/// # Errors
/// A target can not be read, or the file can not.
pub(super) async fn learn(
    sources: &[Source],
    node: &str,
    state_dir: &Path,
) -> Result<Option<NameKey>> {
    let refused = RebuildError::NameKey;
    let mut all = NameKey::load(&state_dir.join(hidden::FILE)).map_err(refused)?;
    for source in sources {
        for listed in source.list(&hidden::directory(source.store.prefix(), node)).await? {
            let range = 0..limits::SECRET_BYTES_MAX;
            let bytes = source.ask(|| source.store.get(&listed.key, range.clone())).await;
            let bytes = match bytes {
                Ok(bytes) => bytes,
                Err(error) if error.kind == StoreErrorKind::Unreachable => {
                    return Err(source.failed(error));
                }
                Err(error) if error.kind == StoreErrorKind::Locked => {
                    let why = source.locked(&listed.key, &error)?;
                    tracing::warn!(why, "a name key can not be read");
                    continue;
                }
                // Another copy may be there, here or elsewhere.
                Err(error) => {
                    tracing::warn!(%error, "a name key can not be read");
                    continue;
                }
            };
            let found = open_all(&bytes, &source.identities).and_then(|text| {
                NameKey::parse(&zeroize::Zeroizing::new(text)).map_err(Unreadable::Bad)
            });
            match found {
                Ok(found) => {
                    let own = all.clone().map_or_else(NameKey::fresh, Ok);
                    let more = own.and_then(|own| own.and(&found)).map_err(refused)?;
                    // Whoever may write there may have put any number of them.
                    if more.text().len() as u64 > limits::SECRET_BYTES_MAX {
                        tracing::warn!(key = listed.key, "there are too many name keys");
                        continue;
                    }
                    all = Some(more);
                }
                Err(why) => tracing::warn!(key = listed.key, %why, "a name key can not be opened"),
            }
        }
    }
    if let Some(all) = &all {
        sources.iter().for_each(|source| source.names.become_as(all.identities()));
    }
    Ok(all)
}

/// Puts them where the daemon looks for them.
///
/// # Errors
/// It can not be written.
pub(super) fn keep(names: Option<&NameKey>, state_dir: &Path) -> Result<()> {
    let path = state_dir.join(hidden::FILE);
    let written = names.map_or(Ok(()), |names| names.store(&path));
    written.map_err(|e| RebuildError::NameKey(format!("{}: {e}", path.display())))
}
