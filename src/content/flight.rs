//! One fetch of a chunk for all who want it at the moment.

use super::ContentError;
use crate::recording::{ErrorClass, Generation, NodeId};
use bytes::Bytes;
use parking_lot::{Condvar, Mutex, MutexGuard};
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

    /// The outcome, if there is one by now.
    pub(super) fn outcome(&self) -> Option<Outcome> {
        self.outcome.lock().clone()
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
    /// Nobody else begins a flight until this is dropped: of those who want the same chunks at the
    /// same time one brings them all, in one request.
    pub(super) fn boarding(&self) -> Boarding<'_> {
        Boarding { table: self.table.lock(), all: &self.table }
    }
}

/// The turn to look for flights and to begin those that are lacking. A pilot that is dropped takes
/// a turn, too: none may be while this one lasts.
pub(super) struct Boarding<'a> {
    table: MutexGuard<'a, HashMap<Key, Arc<Flight>>>,
    all: &'a Table,
}

impl Boarding<'_> {
    /// The flight under way for `key`. If there is none, what it brought is in memory.
    pub(super) fn under_way(&self, key: Key) -> Option<Arc<Flight>> {
        self.table.get(&key).cloned()
    }

    /// Begins one.
    pub(super) fn start(&mut self, key: Key, path: &Path) -> (Arc<Flight>, Pilot) {
        let flight = Arc::new(Flight::default());
        self.table.insert(key, flight.clone());
        let (table, path) = (self.all.clone(), path.display().to_string());
        (flight.clone(), Pilot { table, key, path, flight })
    }
}

/// Who brings the chunk. If dropped on the way (the runtime ends), nobody waits in vain.
#[derive(Debug)]
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
