//! Reads that come to nothing, known before anything is begun: many who try again and again cost the
//! calls next to nothing.

use super::source::Stored;
use super::{Content, ContentError};
use std::ops::Range;
use std::path::Path;
use std::sync::atomic::Ordering;

impl Content {
    /// Why a range can not be had at this moment, if no target is asked and it is neither here nor on
    /// its way.
    pub(super) fn refusal(
        &self,
        stored: &Stored,
        path: &Path,
        range: &Range<u64>,
    ) -> Option<ContentError> {
        let inner = &self.inner;
        let error = inner.fetcher.refusal(stored, path)?;
        let (mut chunks, _) = self.asked(stored, range)?;
        let (id, generation) = (stored.id, stored.generation);
        let boarding = inner.flights.boarding();
        let may_come = |index| {
            let on_disk = |sum| inner.disk.as_ref().is_some_and(|disk| disk.may_have(sum));
            // In this order: what has landed is in memory before its flight is over.
            boarding.under_way((id, generation, index)).is_some()
                || stored.sum(index).is_some_and(|s| inner.memory.contains_key(&s) || on_disk(s))
        };
        if inner.streams.next((id, generation)).is_some() || chunks.any(may_come) {
            return None;
        }
        // Another copy may have been verified since.
        inner.sources.forget(id, generation);
        inner.counters.failed.fetch_add(1, Ordering::Relaxed);
        Some(error)
    }
}
