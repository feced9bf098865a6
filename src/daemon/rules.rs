//! What the rules ask of calls, answered from the call records.

use super::Daemon;
use super::record::who;
use crate::audit::{Entry, Event};
use crate::calls::Calls;
use crate::clock::Timestamp;
use crate::control::{Failure, Peer, RetentionReport};
use crate::engine::CallSource;
use crate::policy::CallFacts;
use crate::recording::NodeId;
use std::path::Path;
use std::sync::Arc;

/// The call records of this daemon.
#[derive(Debug)]
struct Recorded(Arc<Calls>);

impl CallSource for Recorded {
    fn call_of(&self, id: NodeId, path: &Path) -> Result<Option<CallFacts>, String> {
        self.0.known_of(id, path).map_err(|error| error.to_string())
    }

    fn last_of_account(&self, id: NodeId, path: &Path) -> Result<Option<Timestamp>, String> {
        self.0.last_of_account(id, path).map_err(|error| error.to_string())
    }
}

/// Deletes now what the rules let go. Who asks for more than they do by themselves is on record
/// before.
///
/// # Errors
/// The catalog can not be used, or the audit log.
pub(super) fn run(
    daemon: &Daemon,
    now: bool,
    confirm: bool,
    peer: &Peer,
) -> Result<RetentionReport, Failure> {
    let failed = |error: &dyn std::fmt::Display| Failure::new(error.to_string());
    let asked = [
        (now, "changed rules are not waited for"),
        (confirm, "all that is due now may be deleted, however much it is"),
    ];
    for (_, what) in asked.iter().filter(|(asked, _)| *asked) {
        let event = Event::DeletionConfirmed { what: (*what).to_owned() };
        let entry = Entry::new(event).by(who(peer));
        daemon.audit.record_synced(entry).map_err(|error| failed(&error))?;
    }
    let done = daemon.engine.expire(now, confirm).map_err(|error| failed(&error))?;
    Ok(RetentionReport {
        files: done.files,
        bytes: done.bytes,
        kept: done.kept,
        left: done.left,
        why: done.why,
        halted: daemon.engine.expiry_halted(),
    })
}

/// Who knows what calls recordings are of, if call records are kept.
pub(super) fn source(calls: Option<&Arc<Calls>>) -> Option<Arc<dyn CallSource>> {
    Some(Arc::new(Recorded(calls?.clone())))
}
