//! A chunk from the first target that has it right.

use super::breaker::Breaker;
use super::source::{Copy, Stored};
use super::{ContentError, Counters};
use crate::clock::SharedClock;
use crate::limits;
use crate::recording::{ErrorClass, Sha256, chunk_range};
use crate::store::{Store, StoreError, StoreErrorKind};
use bytes::Bytes;
use parking_lot::RwLock;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::sync::Semaphore;
use tokio::time::Instant;

/// A store with its breaker.
#[derive(Debug)]
struct Target {
    store: Arc<dyn Store>,
    breaker: Breaker,
    /// Bounds the requests in flight, and so the memory they take; for each target, so that one
    /// that hangs does not keep the others busy.
    room: Semaphore,
}

/// Why one copy did not give the chunk.
struct Failure {
    detail: String,
    class: ErrorClass,
}

/// The targets.
#[derive(Debug)]
pub(super) struct Fetcher {
    targets: RwLock<Vec<Arc<Target>>>,
    clock: SharedClock,
    counters: Arc<Counters>,
}

impl Fetcher {
    pub(super) fn new(
        stores: Vec<Arc<dyn Store>>,
        clock: SharedClock,
        counters: Arc<Counters>,
    ) -> Fetcher {
        let fetcher = Fetcher { targets: RwLock::default(), clock, counters };
        fetcher.set_stores(stores);
        fetcher
    }

    pub(super) fn set_stores(&self, stores: Vec<Arc<dyn Store>>) {
        let target = |store| {
            let room = Semaphore::new(limits::FETCHES_IN_FLIGHT);
            Arc::new(Target { store, breaker: Breaker::default(), room })
        };
        *self.targets.write() = stores.into_iter().map(target).collect();
    }

    /// The chunk, checked. Takes at most `timeout`, shared by the copies that are asked.
    pub(super) async fn fetch(
        &self,
        stored: &Stored,
        path: &Path,
        index: u64,
        sum: Sha256,
        timeout: Duration,
    ) -> Result<Bytes, ContentError> {
        let deadline = Instant::now() + timeout;
        let range = chunk_range(index, stored.size);
        let mut failures = Vec::new();
        let mut copies = self.in_order(&stored.copies, &mut failures).into_iter();
        while let Some((copy, target)) = copies.next() {
            let left = deadline.saturating_duration_since(Instant::now());
            let share = left / u32::try_from(copies.len() + 1).unwrap_or(u32::MAX);
            match self.ask(&target, copy, &range, sum, share).await {
                Ok(bytes) => {
                    self.counters.fetched.fetch_add(1, Ordering::Relaxed);
                    return Ok(bytes);
                }
                Err(failure) => failures.push(failure),
            }
        }
        self.counters.failed.fetch_add(1, Ordering::Relaxed);
        Err(summary(path, &failures))
    }

    /// The copies in the order of the configuration; those in no configured target fail.
    fn in_order<'a>(
        &self,
        copies: &'a [Copy],
        failures: &mut Vec<Failure>,
    ) -> Vec<(&'a Copy, Arc<Target>)> {
        let targets = self.targets.read();
        let mut order: Vec<(&Copy, Arc<Target>)> = Vec::new();
        for target in targets.iter() {
            let here = copies.iter().filter(|copy| copy.target == target.store.name());
            order.extend(here.map(|copy| (copy, target.clone())));
        }
        let configured = |copy: &&Copy| targets.iter().any(|t| t.store.name() == copy.target);
        for copy in copies.iter().filter(|copy| !configured(copy)) {
            failures.push(Failure {
                detail: format!("target {:?} is not in the configuration", copy.target),
                class: ErrorClass::Permanent,
            });
        }
        order
    }

    async fn ask(
        &self,
        target: &Target,
        copy: &Copy,
        range: &Range<u64>,
        sum: Sha256,
        time: Duration,
    ) -> Result<Bytes, Failure> {
        let name = target.store.name();
        let transient = |detail| Err(Failure { detail, class: ErrorClass::Transient });
        let begin = Instant::now();
        let Ok(Ok(_room)) = tokio::time::timeout(time, target.room.acquire()).await else {
            return transient(format!("target {name:?} is busy with other reads"));
        };
        let Some(admission) = target.breaker.admit(self.clock.now()) else {
            return transient(format!("target {name:?} did not answer a moment ago"));
        };
        let left = time.saturating_sub(begin.elapsed());
        let Ok(answer) = tokio::time::timeout(left, get(target, copy, range)).await else {
            admission.unreachable(self.clock.now());
            let waited = left.as_secs_f32();
            return transient(format!("target {name:?} did not answer in {waited:.1} s"));
        };
        match answer {
            Err(e) if e.kind == StoreErrorKind::Unreachable => {
                admission.unreachable(self.clock.now());
                Err(Failure { detail: e.to_string(), class: ErrorClass::Transient })
            }
            Err(e) => {
                admission.answered();
                if e.kind == StoreErrorKind::NotFound {
                    self.counters.gone.fetch_add(1, Ordering::Relaxed);
                    tracing::error!(url = target.store.url(&copy.key), "a verified object is gone");
                }
                Err(Failure { detail: e.to_string(), class: e.class() })
            }
            Ok(bytes) => {
                admission.answered();
                self.check(target, copy, range, sum, bytes)
            }
        }
    }

    fn check(
        &self,
        target: &Target,
        copy: &Copy,
        range: &Range<u64>,
        sum: Sha256,
        bytes: Bytes,
    ) -> Result<Bytes, Failure> {
        if bytes.len() as u64 == range.end - range.start && Sha256::of(&bytes) == sum {
            return Ok(bytes);
        }
        self.counters.corrupt.fetch_add(1, Ordering::Relaxed);
        let url = target.store.url(&copy.key);
        tracing::error!(
            url, ?range, expected = %sum, found = %Sha256::of(&bytes), length = bytes.len(),
            "the target does not hold what was archived"
        );
        let detail = format!("{url} does not hold what was archived (bytes {range:?})");
        Err(Failure { detail, class: ErrorClass::Corrupt })
    }
}

/// Asks, and once more if it failed quickly: a connection kept open may just have been closed.
async fn get(target: &Target, copy: &Copy, range: &Range<u64>) -> Result<Bytes, StoreError> {
    let begin = Instant::now();
    match target.store.get(&copy.key, range.clone()).await {
        Err(e)
            if e.kind == StoreErrorKind::Unreachable && begin.elapsed() < limits::QUICK_FAILURE =>
        {
            target.store.get(&copy.key, range.clone()).await
        }
        answer => answer,
    }
}

/// Transient if another try may help, else corrupt if wrong bytes were seen.
fn summary(path: &Path, failures: &[Failure]) -> ContentError {
    let any = |class| failures.iter().any(|f| f.class == class);
    let class = [ErrorClass::Transient, ErrorClass::Corrupt]
        .into_iter()
        .find(|class| any(*class))
        .unwrap_or(ErrorClass::Permanent);
    let details: Vec<&str> = failures.iter().map(|f| f.detail.as_str()).collect();
    ContentError { path: path.display().to_string(), detail: details.join("; "), class }
}
