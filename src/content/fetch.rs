//! A chunk from the first target that has it right.

use super::breaker::{Admission, Breaker};
use super::source::{Copy, Stored};
use super::{ContentError, Counters};
use crate::clock::SharedClock;
use crate::codec::{self, Unreadable, seal::Identities};
use crate::limits;
use crate::recording::{ErrorClass, Sha256};
use crate::store::{self, Store, StoreError, StoreErrorKind};
use bytes::{Bytes, BytesMut};
use parking_lot::RwLock;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::sync::{Semaphore, mpsc};
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
#[derive(Debug)]
struct Failure {
    detail: String,
    class: ErrorClass,
}

/// The copy that was asked for several chunks and did not give the next one right.
#[derive(Debug)]
pub(super) struct Tried {
    /// Which of the recording's copies.
    copy: usize,
    failure: Failure,
}

/// A copy that may be asked now.
struct Asking<'c, 't> {
    copy: &'c Copy,
    target: &'t Target,
    admission: Admission<'t>,
}

/// Adjacent chunks that one request brings, in their order.
pub(super) trait Wanted: Send {
    /// Their numbers, with those that may be wanted later.
    fn span(&self) -> Range<u64>;

    /// The next one; none if no more are wanted.
    fn next(&mut self) -> impl Future<Output = Option<(u64, Sha256)>> + Send;

    /// It is there, and right.
    fn landed(&mut self, bytes: Bytes);
}

/// The targets.
#[derive(Debug)]
pub(super) struct Fetcher {
    targets: RwLock<Vec<Arc<Target>>>,
    /// What opens sealed objects.
    identities: Identities,
    clock: SharedClock,
    counters: Arc<Counters>,
}

impl Fetcher {
    pub(super) fn new(
        stores: Vec<Arc<dyn Store>>,
        identities: Identities,
        clock: SharedClock,
        counters: Arc<Counters>,
    ) -> Fetcher {
        let fetcher = Fetcher { targets: RwLock::default(), identities, clock, counters };
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

    /// A target answered somebody else: it is asked again at once.
    pub(super) fn target_answers(&self, name: &str) {
        for target in self.targets.read().iter().filter(|t| t.store.name() == name) {
            target.breaker.answers();
        }
    }

    /// Adjacent chunks, asked for together; each lands as soon as it is there and right. Ends at the
    /// first that is not: what is left is to be fetched one by one. `timeout` is for each.
    pub(super) async fn fetch_run(
        &self,
        stored: &Stored,
        wanted: &mut impl Wanted,
        timeout: Duration,
    ) -> Option<Tried> {
        let copies = self.in_order(&stored.copies, &mut Vec::new());
        let share = timeout / u32::try_from(copies.len()).unwrap_or(u32::MAX).max(1);
        let (copy, target, admission) = copies.iter().find_map(|(copy, target)| {
            Some((*copy, &**target, target.breaker.admit(self.clock.now())?))
        })?;
        let asking = Asking { copy, target, admission };
        let Ok(Ok(_room)) = tokio::time::timeout(share, target.room.acquire()).await else {
            return None;
        };
        self.counters.requests.fetch_add(1, Ordering::Relaxed);
        self.take_run(stored, asking, wanted, share).await
    }

    async fn take_run(
        &self,
        stored: &Stored,
        asking: Asking<'_, '_>,
        wanted: &mut impl Wanted,
        share: Duration,
    ) -> Option<Tried> {
        let Asking { copy, target, mut admission } = asking;
        let span = wanted.span();
        let whole = stored.range(span.start).start..stored.range(span.end.checked_sub(1)?).end;
        // One that is not to be read is told of where its chunks are fetched one by one.
        if copy.encoding.is_sealed() && self.identities.is_empty() {
            return None;
        }
        let there = codec::stored_range(&copy.encoding, &whole).ok().filter(|r| !r.is_empty())?;
        let begin = Instant::now();
        let (sender, receiver) = mpsc::channel(limits::PARTS_MAX);
        let mut parts = Parts { receiver, rest: Bytes::new(), at: there.start, last: Bytes::new() };
        let mut get = target.store.get_into(&copy.key, there, sender);
        let mut answer = None;
        while let Some((index, sum)) = wanted.next().await {
            let range = stored.range(index);
            let piece = codec::stored_range(&copy.encoding, &range).ok()?;
            let need = piece.end - piece.start;
            let next = parts.next(piece, &mut get, &mut answer);
            let Ok(bytes) = tokio::time::timeout(share, next).await else {
                admission.unreachable(self.clock.now());
                return None;
            };
            if let Some(Err(e)) = &answer
                && (bytes.len() as u64) < need
            {
                match e.kind {
                    // A connection kept open may just have been closed.
                    StoreErrorKind::Unreachable if begin.elapsed() < limits::QUICK_FAILURE => {}
                    StoreErrorKind::Unreachable => admission.unreachable(self.clock.now()),
                    _ => admission.answered(),
                }
                return None;
            }
            match self.check(target, copy, &range, sum, bytes) {
                Ok(bytes) => {
                    admission.answers();
                    self.counters.fetched.fetch_add(1, Ordering::Relaxed);
                    wanted.landed(bytes);
                }
                Err(failure) => {
                    admission.answered();
                    let copy = stored.copies.iter().position(|c| std::ptr::eq(c, copy))?;
                    return Some(Tried { copy, failure });
                }
            }
        }
        admission.answered();
        None
    }

    /// The chunk, checked. Takes at most `timeout`, shared by the copies that are asked: not the one
    /// that was just tried.
    pub(super) async fn fetch(
        &self,
        stored: &Stored,
        path: &Path,
        (index, sum): (u64, Sha256),
        timeout: Duration,
        tried: Option<Tried>,
    ) -> Result<Bytes, ContentError> {
        let deadline = Instant::now() + timeout;
        let range = stored.range(index);
        let mut failures = Vec::new();
        let mut order = self.in_order(&stored.copies, &mut failures);
        if let Some(tried) = tried {
            let bad = stored.copies.get(tried.copy);
            order.retain(|(copy, _)| !bad.is_some_and(|bad| std::ptr::eq(*copy, bad)));
            failures.push(tried.failure);
        }
        let mut copies = order.into_iter();
        while let Some((copy, target)) = copies.next() {
            let left = deadline.saturating_duration_since(Instant::now());
            let share = left / u32::try_from(copies.len() + 1).unwrap_or(u32::MAX);
            self.counters.requests.fetch_add(1, Ordering::Relaxed);
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

    /// Why no copy of it is asked at this moment, if every target that has one is left alone.
    pub(super) fn refusal(&self, stored: &Stored, path: &Path) -> Option<ContentError> {
        let mut failures = Vec::new();
        let (copies, now) = (self.in_order(&stored.copies, &mut failures), self.clock.now());
        // What is sealed has a reason of its own, which does not pass.
        let is_refused = |(copy, target): &(&Copy, Arc<Target>)| {
            target.breaker.refuses(now)
                && !(copy.encoding.is_sealed() && self.identities.is_empty())
        };
        if copies.is_empty() || !copies.iter().all(is_refused) {
            return None;
        }
        failures.extend(copies.iter().map(|(copy, target)| left_alone(target, copy)));
        Some(summary(path, &failures))
    }

    /// The objects of a recording, for people.
    pub(super) fn objects(&self, stored: &Stored) -> String {
        let copies = self.in_order(&stored.copies, &mut Vec::new());
        let urls: Vec<_> = copies.iter().map(|(copy, t)| t.store.url(&copy.key)).collect();
        urls.join(", ")
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
        let url = || target.store.url(&copy.key);
        let piece = match codec::stored_range(&copy.encoding, range) {
            Ok(piece) => piece,
            Err(error) => {
                let detail = format!("{}: {error}", url());
                return Err(Failure { detail, class: ErrorClass::Permanent });
            }
        };
        if copy.encoding.is_sealed() && self.identities.is_empty() {
            return Err(locked(&url(), &self.identities.locked()));
        }
        if piece.is_empty() {
            return self.check(target, copy, range, sum, Bytes::new());
        }
        let transient = |detail| Err(Failure { detail, class: ErrorClass::Transient });
        let begin = Instant::now();
        let Ok(Ok(_room)) = tokio::time::timeout(time, target.room.acquire()).await else {
            return transient(format!("target {name:?} is busy with other reads ({})", url()));
        };
        let Some(admission) = target.breaker.admit(self.clock.now()) else {
            return Err(left_alone(target, copy));
        };
        let left = time.saturating_sub(begin.elapsed());
        let Ok(answer) = tokio::time::timeout(left, get(target, copy, &piece)).await else {
            admission.unreachable(self.clock.now());
            let waited = left.as_secs_f32();
            return transient(format!(
                "target {name:?} did not answer in {waited:.1} s ({})",
                url()
            ));
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
        let length = bytes.len();
        let found = match codec::restored(&copy.encoding, range, bytes, &self.identities) {
            Ok(bytes) => {
                let found = Sha256::of(&bytes);
                if bytes.len() as u64 == range.end - range.start && found == sum {
                    return Ok(bytes);
                }
                found.to_string()
            }
            Err(error) if error.is_locked() => {
                return Err(locked(&target.store.url(&copy.key), &error));
            }
            Err(error) => error.to_string(),
        };
        self.counters.corrupt.fetch_add(1, Ordering::Relaxed);
        let url = target.store.url(&copy.key);
        tracing::error!(
            url, ?range, expected = %sum, found, length,
            "the target does not hold what was archived"
        );
        let detail = format!("{url} does not hold what was archived (bytes {range:?})");
        Err(Failure { detail, class: ErrorClass::Corrupt })
    }
}

/// An answer that comes in parts.
struct Parts {
    receiver: mpsc::Receiver<Bytes>,
    rest: Bytes,
    /// Where `rest` begins in the object.
    at: u64,
    /// What was handed out last, up to there.
    last: Bytes,
}

impl Parts {
    /// The next piece of the object, shorter only where the answer ends: then it is in `answer`. It
    /// may begin within the one before (a frame of FLAC that two chunks have a part in). In memory
    /// of its own, so that one chunk that is kept does not keep the others.
    async fn next(
        &mut self,
        piece: Range<u64>,
        get: &mut (impl Future<Output = store::Result<()>> + Unpin),
        answer: &mut Option<store::Result<()>>,
    ) -> Bytes {
        let len = usize::try_from(piece.end - piece.start).unwrap_or(usize::MAX);
        let again = usize::try_from(self.at.saturating_sub(piece.start)).unwrap_or(usize::MAX);
        let mut bytes = BytesMut::with_capacity(len);
        if len > 0 {
            let from = self.last.len().saturating_sub(again);
            bytes.extend_from_slice(self.last.get(from..).unwrap_or_default());
        }
        let bytes = self.fill(bytes, len, get, answer).await;
        if len > 0 {
            self.last = bytes.clone();
        }
        bytes
    }

    async fn fill(
        &mut self,
        mut bytes: BytesMut,
        len: usize,
        get: &mut (impl Future<Output = store::Result<()>> + Unpin),
        answer: &mut Option<store::Result<()>>,
    ) -> Bytes {
        loop {
            let now = self.rest.split_to(self.rest.len().min(len.saturating_sub(bytes.len())));
            self.at += now.len() as u64;
            bytes.extend_from_slice(&now);
            if bytes.len() >= len {
                return bytes.freeze();
            }
            tokio::select! {
                biased;
                part = self.receiver.recv() => match part {
                    Some(part) => self.rest = part,
                    None => {
                        // The sender is dropped a moment before the answer is given.
                        if answer.is_none() {
                            *answer = Some(get.await);
                        }
                        return bytes.freeze();
                    }
                },
                ended = &mut *get, if answer.is_none() => *answer = Some(ended),
            }
        }
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

fn locked(url: &str, why: &Unreadable) -> Failure {
    Failure { detail: format!("{url}: {why}"), class: ErrorClass::Sealed }
}

fn left_alone(target: &Target, copy: &Copy) -> Failure {
    let (name, url) = (target.store.name(), target.store.url(&copy.key));
    let detail = format!("target {name:?} did not answer a moment ago ({url})");
    Failure { detail, class: ErrorClass::Transient }
}

/// Transient if another try may help, else corrupt if wrong bytes were seen, else sealed if a key is all
/// that lacks.
fn summary(path: &Path, failures: &[Failure]) -> ContentError {
    let any = |class| failures.iter().any(|f| f.class == class);
    let class = [ErrorClass::Transient, ErrorClass::Corrupt, ErrorClass::Sealed]
        .into_iter()
        .find(|class| any(*class))
        .unwrap_or(ErrorClass::Permanent);
    let details: Vec<&str> = failures.iter().map(|f| f.detail.as_str()).collect();
    ContentError { path: path.display().to_string(), detail: details.join("; "), class }
}
