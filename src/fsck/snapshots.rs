//! The snapshots of the catalog that a target was proved to hold.

use super::targets::{list, read, unreached};
use super::{Findings, Result, Severity};
use crate::catalog::Snapshot;
use crate::store::snapshot::{self, Given, Known};
use crate::store::{Store, StoreErrorKind};

/// Checks that each is still there, as it was given.
pub(super) async fn check(
    catalog: &Snapshot,
    store: &dyn Store,
    deep: bool,
    findings: &mut Findings,
) -> Result<()> {
    let known = Known::parse(catalog.setting(&Known::setting(store.name()))?);
    let proved: Vec<&Given> = known.given.iter().filter(|given| given.proved).collect();
    if proved.is_empty() {
        return Ok(());
    }
    let directory = snapshot::directory(store.prefix(), &catalog.identity().node);
    let listed = match list(store, &directory).await {
        Ok(listed) => listed,
        Err(error) => {
            unreached(&store.url(&directory), &error, findings);
            return Ok(());
        }
    };
    for given in proved {
        let listed = listed.get(&given.key).copied();
        if let Some(found) = wrong(store, given, listed, deep, findings).await {
            let expected = match given.bytes {
                Some((size, sha256)) => format!("{size} bytes with SHA-256 {sha256}"),
                None => "a snapshot of the catalog".to_owned(),
            };
            findings.add(
                (Severity::Wrong, 46),
                store.url(&given.key),
                expected,
                found,
                "nothing is lost: a rebuild begins with another snapshot, or reads all of the journal; \
                 see who deletes or changes objects there",
            );
        }
    }
    Ok(())
}

/// What is not as it was given. Of a target that does not answer nothing is known.
async fn wrong(
    store: &dyn Store,
    given: &Given,
    listed: Option<u64>,
    deep: bool,
    findings: &mut Findings,
) -> Option<String> {
    // A listing may be behind; the object itself is asked before it is missed.
    let size = match listed {
        Some(size) => Ok(size),
        None => store.head(&given.key).await.map(|head| head.size),
    };
    let read = match (size, given.bytes) {
        (Ok(size), Some((expected, _))) if size != expected => {
            return Some(format!("{size} bytes"));
        }
        (Ok(_), Some(bytes)) if deep => read(store, &given.key, bytes, findings).await,
        (Ok(_), _) => Ok(None),
        (Err(error), _) => Err(error),
    };
    match read {
        Ok(found) => found,
        Err(error) if error.kind == StoreErrorKind::NotFound => Some("nothing".to_owned()),
        Err(error) => {
            unreached(&store.url(&given.key), &error, findings);
            None
        }
    }
}
