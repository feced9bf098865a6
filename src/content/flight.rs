//! One fetch of a chunk for all who want it at the moment.

use super::ContentError;
use crate::recording::{ErrorClass, Generation, NodeId};
use bytes::Bytes;
use parking_lot::{Condvar, Mutex};
use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

/// A chunk of a recording.
pub(super) type Key = (NodeId, Generation, u64);

type Outcome = Result<Bytes, ContentError>;

/// What is waited for. Waiting needs no runtime.
#[derive(Debug, Default)]
pub(super) struct Flight {
    outcome: Mutex<Option<Outcome>>,
    landed: Condvar,
}

impl Flight {
    pub(super) fn landed(outcome: Outcome) -> Flight {
        Flight { outcome: Mutex::new(Some(outcome)), landed: Condvar::new() }
    }

    /// The outcome, or `None` at the deadline.
    pub(super) fn wait(&self, deadline: Instant) -> Option<Outcome> {
        let mut outcome = self.outcome.lock();
        while outcome.is_none() {
            if self.landed.wait_until(&mut outcome, deadline).timed_out() {
                break;
            }
        }
        outcome.clone()
    }

    fn land(&self, outcome: Outcome) {
        self.outcome.lock().get_or_insert(outcome);
        self.landed.notify_all();
    }
}

type Table = Arc<Mutex<HashMap<Key, Arc<Flight>>>>;

/// The flights under way.
#[derive(Debug, Default)]
pub(super) struct Flights {
    table: Table,
}

impl Flights {
    /// The flight for `key`; `start` is called if there is none yet.
    pub(super) fn join(&self, key: Key, path: &Path, start: impl FnOnce(Pilot)) -> Arc<Flight> {
        let mut table = self.table.lock();
        if let Some(flight) = table.get(&key) {
            return flight.clone();
        }
        let flight = Arc::new(Flight::default());
        table.insert(key, flight.clone());
        drop(table);
        let path = path.display().to_string();
        start(Pilot { table: self.table.clone(), key, path, flight: flight.clone() });
        flight
    }
}

/// Who brings the chunk. If dropped on the way (the runtime ends), nobody waits in vain.
pub(super) struct Pilot {
    table: Table,
    key: Key,
    path: String,
    flight: Arc<Flight>,
}

impl Pilot {
    /// Takes the flight out of the table before anybody hears of it: who asks after a failure
    /// must not be given that failure again.
    pub(super) fn land(self, outcome: Outcome) {
        self.table.lock().remove(&self.key);
        self.flight.land(outcome);
    }
}

impl Drop for Pilot {
    fn drop(&mut self) {
        let mut table = self.table.lock();
        // After landing, this may be the next flight of the same chunk.
        if table.get(&self.key).is_some_and(|flight| Arc::ptr_eq(flight, &self.flight)) {
            table.remove(&self.key);
        }
        drop(table);
        // Nothing to say if it has landed.
        self.flight.land(Err(ContentError {
            path: std::mem::take(&mut self.path),
            detail: "the daemon is stopping".to_owned(),
            class: ErrorClass::Transient,
        }));
    }
}
