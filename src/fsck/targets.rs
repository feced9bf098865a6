//! The objects of a target against the catalog.

use super::{Findings, Result, Severity};
use crate::catalog::{ObjectRow, ObjectState, Snapshot};
use crate::limits;
use crate::recording::{Hasher, Sha256, State};
use crate::store::{Store, StoreError, StoreErrorKind, key, marker};
use std::collections::BTreeMap;

/// Whether the target can be reached and holds the archive that the catalog knows.
pub(super) async fn is_ours(
    snapshot: &Snapshot,
    store: &dyn Store,
    findings: &mut Findings,
) -> Result<bool> {
    let place = store.url(store.prefix());
    let Some(expected) = snapshot.setting(&format!("target.{}.archive", store.name()))? else {
        // It was never reached: the catalog expects nothing of it.
        return Ok(false);
    };
    let key = format!("{}{}", store.prefix(), marker::ARCHIVE_KEY);
    let found = match store.get(&key, 0..64 << 10).await {
        Ok(bytes) => serde_json::from_slice::<serde_json::Value>(&bytes)
            .ok()
            .and_then(|json| Some(json.get("archive")?.as_str()?.to_owned()))
            .map_or_else(
                || "a marker that can not be read".to_owned(),
                |id| format!("archive {id}"),
            ),
        Err(error) if error.kind == StoreErrorKind::NotFound => "no marker".to_owned(),
        Err(error) => {
            unreached(&place, &error, findings);
            return Ok(false);
        }
    };
    let ours = found == format!("archive {expected}");
    if !ours {
        findings.add(
            (Severity::Wrong, 31),
            place,
            format!("archive {expected}"),
            found,
            "see that the right disk or bucket is there; nothing of it was checked",
        );
    }
    Ok(ours)
}

pub(super) fn unreached(place: &str, error: &StoreError, findings: &mut Findings) {
    let cure = "see that it can be reached, and check again; nothing of it was checked";
    findings.add((Severity::Wrong, 30), place, "an answer", error.to_string(), cure);
}

/// Checks that every verified object is there, and names what nobody knows.
pub(super) async fn check(
    snapshot: &Snapshot,
    store: &dyn Store,
    deep: bool,
    findings: &mut Findings,
) -> Result<()> {
    let own = format!("{}{}/", store.prefix(), key::node_component(&snapshot.identity().node));
    let mut listed = match list(store, &own).await {
        Ok(listed) => listed,
        Err(error) => {
            unreached(&store.url(&own), &error, findings);
            return Ok(());
        }
    };
    let mut objects = Vec::new();
    snapshot.objects(store.name(), &mut |object, state| objects.push((object, state)))?;
    for (object, state) in &objects {
        let listed = listed.remove(&object.key);
        if object.state == ObjectState::Verified {
            findings.looked.objects += 1;
            one(snapshot, store, (object, *state), listed, deep, findings).await?;
        }
    }
    for (key, size) in listed {
        findings.add(
            (Severity::Note, 35),
            store.url(&key),
            "an object that the catalog knows",
            format!("{size} bytes that it does not"),
            "left by an upload whose answer was lost with a power cut, or by a catalog that is \
             lost; harmless, and no key of it is used again",
        );
    }
    Ok(())
}

/// Every object below a prefix, with its size.
pub(super) async fn list(
    store: &dyn Store,
    prefix: &str,
) -> std::result::Result<BTreeMap<String, u64>, StoreError> {
    let mut all = BTreeMap::new();
    let mut after = String::new();
    loop {
        let page = store.list(prefix, &after).await?;
        let Some(last) = page.last() else { return Ok(all) };
        after.clone_from(&last.key);
        let before = all.len();
        all.extend(page.into_iter().map(|listed| (listed.key, listed.size)));
        if all.len() == before {
            // A server that begins anew would never come to an end.
            return Ok(all);
        }
    }
}

async fn one(
    snapshot: &Snapshot,
    store: &dyn Store,
    (object, state): (&ObjectRow, Option<State>),
    listed: Option<u64>,
    deep: bool,
    findings: &mut Findings,
) -> Result<()> {
    // A listing may be behind; the object itself is asked before it is missed.
    let size = match listed {
        Some(size) => Ok(size),
        None => store.head(&object.key).await.map(|head| head.size),
    };
    let found = match size {
        Ok(size) if size != object.stored.size => Some((33, format!("{size} bytes"))),
        Ok(size) if deep => {
            match read(store, &object.key, (size, object.stored.sha256), findings).await {
                Ok(wrong) => wrong.map(|found| (34, found)),
                Err(error) => Some((30, error.to_string())),
            }
        }
        Ok(_) => None,
        Err(error) if error.kind == StoreErrorKind::NotFound => Some((32, "nothing".to_owned())),
        Err(error) => Some((30, error.to_string())),
    };
    let Some((rule, found)) = found else { return Ok(()) };
    let (severity, cure) = match state {
        _ if rule == 30 => (Severity::Wrong, "check again when the target answers"),
        Some(State::Released) => (
            Severity::Damage,
            "there is no local copy: bring the object back from a version or a copy of the \
             bucket, or recall the recording from another target",
        ),
        Some(State::Archived) => (
            Severity::Damage,
            "start spoolfs and run spoolfs verify on it: the local copy is whole, and is archived anew",
        ),
        _ => (Severity::Wrong, "an earlier generation, or of a deleted recording, is not whole"),
    };
    let path = snapshot.node(object.node)?.and_then(|(_, path)| path).unwrap_or_default();
    let expected = format!(
        "{} bytes with SHA-256 {}: generation {} of {}",
        object.stored.size,
        object.stored.sha256,
        object.generation.0,
        path.display()
    );
    findings.add((severity, rule), store.url(&object.key), expected, found, cure);
    Ok(())
}

/// Reads all of an object of this length and SHA-256; what is wrong with the bytes.
pub(super) async fn read(
    store: &dyn Store,
    key: &str,
    (size, sha256): (u64, Sha256),
    findings: &mut Findings,
) -> std::result::Result<Option<String>, StoreError> {
    let mut hasher = Hasher::default();
    while hasher.len() < size {
        let at = hasher.len();
        let end = size.min(at + limits::READ_BACK_BYTES);
        let bytes = store.get(key, at..end).await?;
        if bytes.is_empty() {
            return Ok(Some(format!("it ends after {at} bytes")));
        }
        hasher.update(&bytes);
    }
    findings.looked.bytes_hashed += hasher.len();
    let found = hasher.finish().0;
    Ok((found != sha256).then(|| format!("SHA-256 {found}")))
}
