//! Addresses of archived recordings for others, such as a browser or an auditor.

use super::Daemon;
use super::commands::{caught_up, unusable};
use super::lookup::recording;
use super::record::who;
use crate::audit::{Clear, Entry, Event, Subject};
use crate::catalog::{ObjectRow, ObjectState};
use crate::control::{Failure, Peer, UrlReport};
use crate::limits;
use std::path::Path;
use std::time::Duration;

/// An address of the recording's present generation.
///
/// # Errors
/// There is no such recording, no archived copy of it, or no target that gives such addresses.
pub(super) fn shared(
    daemon: &Daemon,
    (path, seconds, target): (&Path, u64, Option<&str>),
    peer: &Peer,
) -> Result<UrlReport, Failure> {
    let failed = |what: String| Failure::new(format!("{}: {what}", path.display()));
    let valid = Duration::from_secs(seconds);
    if valid.is_zero() || valid > limits::SHARED_URL_MAX {
        return Err(failed("an address is valid for at least a second and at most 7 days".into()));
    }
    caught_up(&daemon.catalog)?;
    let row = recording(&daemon.catalog, path)?;
    let objects = daemon.catalog.objects(row.id, Some(row.generation)).map_err(unusable)?;
    let verified = |o: &&ObjectRow| o.state == ObjectState::Verified;
    let mut trouble = Vec::new();
    for store in daemon.stores.iter().filter(|s| target.is_none_or(|name| s.name() == name)) {
        let mine = |o: &&ObjectRow| o.target == store.name();
        let Some(object) = objects.iter().filter(verified).find(mine) else { continue };
        let now = daemon.clock.now();
        let (url, expires_at) = match daemon.runtime.block_on(store.shared_url(&object.key, valid))
        {
            Ok(Some(url)) => (url, Some(now.plus(valid))),
            Ok(None) => (store.url(&object.key), None),
            Err(error) => {
                trouble.push(error.to_string());
                continue;
            }
        };
        let subject = Subject {
            id: row.id,
            path: path.to_owned(),
            generation: row.generation,
            sha256: row.sha256,
        };
        let (target, key) = (store.name().to_owned(), Clear::key(&object.key));
        let event = Event::UrlIssued { target, key, expires_at };
        let entry = Entry::new(event).by(who(peer)).on(subject);
        daemon.audit.record_synced(entry).map_err(|error| failed(error.to_string()))?;
        // Without the address itself: who has it can read the recording.
        tracing::info!(path = %path.display(), target = store.name(), seconds, "an address was given out");
        return Ok(UrlReport {
            path: path.to_owned().into(),
            target: store.name().to_owned(),
            key: object.key.clone(),
            url,
            expires_at,
            generation: row.generation,
            sha256: object.stored.sha256,
        });
    }
    if !trouble.is_empty() {
        return Err(failed(trouble.join("; ")));
    }
    let known = target.is_none_or(|name| daemon.stores.iter().any(|s| s.name() == name));
    Err(failed(match target {
        Some(name) if !known => format!("there is no target {name:?} in the configuration"),
        Some(name) => format!("target {name:?} has no verified copy of it; see `spoolfs explain`"),
        None => "it is not archived yet; `spoolfs archive` does it now".into(),
    }))
}
