//! Keys that are being written in parts now.

use super::StoreErrorKind;
use super::fault::Fault;
use parking_lot::Mutex;
use std::collections::HashSet;

/// The keys of one store.
#[derive(Debug, Default)]
pub(super) struct InFlight(Mutex<HashSet<String>>);

/// Takes its key out again, also when the upload is dropped half-way.
pub(super) struct Written<'a>(&'a InFlight, String);

impl Drop for Written<'_> {
    fn drop(&mut self) {
        self.0.0.lock().remove(&self.1);
    }
}

impl InFlight {
    /// Takes note of a key; `Exists` if somebody writes it already.
    pub(super) fn begin(&self, key: &str) -> Result<Written<'_>, Fault> {
        match self.0.lock().insert(key.to_owned()) {
            true => Ok(Written(self, key.to_owned())),
            false => Err(Fault::own(StoreErrorKind::Exists, "the key is being written now")),
        }
    }

    /// Whether somebody writes it.
    pub(super) fn contains(&self, key: &str) -> bool {
        self.0.lock().contains(key)
    }
}
