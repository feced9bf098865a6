//! What the daemon itself puts on record.

use super::Daemon;
use super::commands::{caught_up, unusable};
use super::lookup::find;
use crate::audit::{Audit, Clear, Entry, Event, User, Who};
use crate::control::{EraseReport, Failure, Peer, WirePath, utc};
use crate::limits;
use crate::recording::Sha256;

/// The configuration that was last on record as being in force.
const SETTING: &str = "audit.configuration";

/// Who sent a request, for the record.
pub(super) fn who(peer: &Peer) -> Who {
    Who::User(User {
        uid: peer.uid,
        gid: Some(peer.gid),
        login_uid: peer.login_uid,
        pid: Some(peer.pid),
        program: peer.program.clone(),
    })
}

/// The daemon serves; with which configuration, if that is another one than before.
pub(super) fn started(daemon: &Daemon) {
    daemon.audit.record(Event::Started { version: env!("CARGO_PKG_VERSION").to_owned() });
    changed(daemon, Vec::new(), Who::Engine);
}

/// The configuration was read again: by whom, if not by a signal.
pub(super) fn reloaded(daemon: &Daemon, needs_restart: &[String], peer: Option<&Peer>) {
    changed(daemon, needs_restart.to_vec(), peer.map_or(Who::Engine, who));
}

fn changed(daemon: &Daemon, needs_restart: Vec<String>, who: Who) {
    let file = daemon.config.read().file.clone();
    let new = std::fs::read(&file).ok().map(|bytes| Sha256::of(&bytes));
    let old = daemon.catalog.setting(SETTING).ok().flatten();
    let old = old.and_then(|text| Sha256::from_hex(&text));
    if old == new {
        return;
    }
    daemon.audit.record(Entry::new(Event::PolicyChanged { old, new, needs_restart }).by(who));
    let text = new.map_or_else(String::new, |new| new.to_string());
    if let Err(error) = daemon.catalog.set_setting(SETTING, &text) {
        tracing::debug!(%error, "the configuration is put on record once more later");
    }
}

/// Something was asked for of files and directories.
pub(super) fn asked(daemon: &Daemon, event: Event, paths: &[WirePath], peer: &Peer) {
    let named: Vec<Clear> =
        paths.iter().take(limits::REPORT_PATHS_MAX).map(|path| Clear::path(&path.0)).collect();
    let paths = serde_json::json!({ "paths": named, "of": paths.len() });
    daemon.audit.record(Entry::new(event).by(who(peer)).change((), paths));
}

/// Counts recordings that were brought in as adopted.
///
/// # Errors
/// The catalog can not be used now.
pub(super) fn imported(
    daemon: &Daemon,
    paths: &[WirePath],
    bytes: u64,
    peer: &Peer,
) -> Result<u64, Failure> {
    caught_up(&daemon.catalog)?;
    let mut ids = Vec::new();
    for path in paths {
        ids.extend(find(&daemon.catalog, &path.0)?.map(|row| row.id));
    }
    daemon.catalog.count_as_adopted(&ids).map_err(unusable)?;
    let event = Event::Imported { files: paths.len() as u64, bytes };
    daemon.audit.record(Entry::new(event).by(who(peer)));
    Ok(ids.len() as u64)
}

/// Erases what the pseudonyms of a person or number stand for.
///
/// # Errors
/// Not all of it was erased.
pub(super) fn erase(
    daemon: &Daemon,
    subject: &str,
    peer: &Peer,
    dry_run: bool,
) -> Result<EraseReport, Failure> {
    let erased = daemon.audit.erase(subject, who(peer), dry_run);
    let texts = erased.map_err(|error| Failure::new(error.to_string()))?.texts;
    let count = texts.len() as u64;
    let named = texts.into_iter().map(|(_, text)| text).filter(|_| dry_run);
    let texts = named.take(limits::REPORT_PATHS_MAX).collect();
    Ok(EraseReport { count, texts, dry_run })
}

/// What is wrong with the audit log, for `status`.
pub(super) fn trouble(audit: &Audit) -> Vec<String> {
    let health = audit.health();
    let unwritten = health.trouble.map(|(since, reason)| {
        format!(
            "THE AUDIT LOG CAN NOT BE WRITTEN since {} UTC: {reason}. Recordings are not affected, \
             but nothing expires and the trash is not emptied until it can.",
            utc::people(since)
        )
    });
    let lost = (health.lost > 0).then(|| {
        format!("{} events could not be put into the audit log; it will tell so.", health.lost)
    });
    let damage = health
        .damage
        .map(|what| format!("The audit log was damaged: {what}. See \"spoolfs audit verify\"."));
    [unwritten, lost, damage].into_iter().flatten().collect()
}
