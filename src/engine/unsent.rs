//! What was made to be sent to a target that failed: the next try sends the same, under the same key.
//! What is sealed anew is other bytes, which need another key, and the old one stays in the catalog.
//!
//! **Invariant:** it costs the disk no more than `UNSENT_BYTES_MAX`, and nothing where that is too full.

use super::encode::{Encoded, How};
use super::space::Pressure;
use crate::limits::{UNSENT_BYTES_MAX, UNSENT_MAX};
use crate::recording::{Generation, LowerVersion, NodeId};
use parking_lot::Mutex;
use std::collections::VecDeque;
use std::sync::Arc;

/// What something was made of, and how: other rules make it anew.
pub(super) type Version = (NodeId, Generation, LowerVersion, How);

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Unsent {
    /// The oldest first.
    kept: Mutex<VecDeque<(Version, Arc<Encoded>)>>,
}

impl Unsent {
    /// Remembers what was made of a version.
    pub fn keep(&self, version: Version, encoded: &Arc<Encoded>, pressure: Pressure) {
        let mut kept = self.kept.lock();
        kept.retain(|(other, _)| other.0 != version.0);
        if pressure != Pressure::None {
            kept.clear();
            return;
        }
        kept.push_back((version, Arc::clone(encoded)));
        let bytes = |kept: &VecDeque<(Version, Arc<Encoded>)>| {
            kept.iter().map(|(_, encoded)| encoded.stored.size).fold(0, u64::saturating_add)
        };
        while kept.len() > UNSENT_MAX || bytes(&kept) > UNSENT_BYTES_MAX {
            kept.pop_front();
        }
    }

    /// Lets everything go: the disk is too full.
    pub fn give_way(&self) {
        self.kept.lock().clear();
    }

    /// What was made of a version, if it is remembered.
    pub fn take(&self, version: Version, pressure: Pressure) -> Option<Arc<Encoded>> {
        let mut kept = self.kept.lock();
        let place = kept.iter().position(|(other, _)| *other == version);
        let found = place.and_then(|place| kept.remove(place)).map(|(_, encoded)| encoded);
        if pressure != Pressure::None {
            kept.clear();
        }
        found
    }
}
