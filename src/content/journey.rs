//! Bringing chunks: from the disk cache, else from a target, adjacent ones together.

use super::Inner;
use super::cache::DiskCache;
use super::fetch::{Tried, Wanted};
use super::flight::Pilot;
use super::source::{HEAD, Stored};
use super::stream::More;
use crate::limits;
use crate::recording::Sha256;
use bytes::Bytes;
use std::collections::VecDeque;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};
use tokio::sync::OwnedSemaphorePermit;
use tokio::task::JoinSet;

/// A chunk to be brought.
#[derive(Debug)]
pub(super) struct Leg {
    pub(super) index: u64,
    pub(super) sum: Sha256,
    pub(super) pilot: Pilot,
    /// When it was asked for.
    pub(super) begun: Instant,
    /// Held until those that were asked for together have landed.
    pub(super) room: Option<Arc<OwnedSemaphorePermit>>,
}

/// Chunks of one recording that are brought at the same time.
pub(super) struct Journey {
    pub(super) inner: Arc<Inner>,
    pub(super) stored: Arc<Stored>,
    pub(super) path: PathBuf,
    /// They are put into the disk cache.
    pub(super) keep: bool,
}

/// Adjacent chunks that are asked for together.
struct Run<'j> {
    journey: &'j Journey,
    legs: VecDeque<Leg>,
    /// What follows them in the same request.
    more: Option<More>,
    /// When the last one came, if the next was asked for already.
    last: Option<Instant>,
}

impl Wanted for Run<'_> {
    fn span(&self) -> Range<u64> {
        let chunks = || self.legs.iter().map(|leg| leg.index).filter(|index| *index != HEAD);
        let (first, end) =
            (chunks().next().unwrap_or(0), chunks().next_back().map_or(0, |last| last + 1));
        first..self.more.as_ref().map_or(end, |more| more.end)
    }

    async fn next(&mut self) -> Option<(u64, Sha256)> {
        if self.legs.is_empty()
            && let Some(more) = &mut self.more
        {
            self.legs.extend(more.next().await?);
        }
        self.legs.front().map(|leg| (leg.index, leg.sum))
    }

    fn landed(&mut self, bytes: Bytes) {
        let Some(leg) = self.legs.pop_front() else { return };
        let (pace, len, now) = (&self.journey.inner.pace, bytes.len() as u64, Instant::now());
        pace.arrived(now.saturating_duration_since(leg.begun), len);
        if let Some(last) = self.last {
            pace.followed(now.saturating_duration_since(last), len);
        }
        // The first chunk begins with the head: it is not all new.
        self.last = (!self.legs.is_empty() && leg.index != HEAD).then_some(now);
        self.journey.land(leg, bytes);
    }
}

impl Journey {
    /// Brings chunks, tells all who wait, and then puts them where the next reader finds them.
    pub(super) async fn begin(self: Arc<Self>, legs: Vec<Leg>) {
        let legs = self.clone().from_disk(legs).await;
        for run in self.runs(legs) {
            tokio::spawn(self.clone().fly(run, None));
        }
    }

    /// Lands what the disk cache has.
    async fn from_disk(self: Arc<Self>, legs: Vec<Leg>) -> Vec<Leg> {
        let worth = |disk: &Arc<DiskCache>| {
            !self.stored.is_sealed() && legs.iter().any(|leg| disk.may_have(leg.sum))
        };
        let Some(disk) = self.inner.disk.clone().filter(worth) else { return legs };
        let look = tokio::task::spawn_blocking(move || {
            let mut left = Vec::new();
            for leg in legs {
                match disk.get(leg.sum) {
                    Some(bytes) => {
                        self.inner.counters.disk_hits.fetch_add(1, Ordering::Relaxed);
                        self.inner.memory.insert(leg.sum, bytes.clone());
                        leg.pilot.land(Ok(bytes));
                    }
                    None => left.push(leg),
                }
            }
            left
        });
        // Stopping: who waits was told when the legs were dropped.
        look.await.unwrap_or_default()
    }

    /// Those that are adjacent together, within the size of a request; the head goes before the
    /// first chunk, which begins with it.
    fn runs(&self, legs: Vec<Leg>) -> Vec<Vec<Leg>> {
        let most = self.inner.pace.request();
        let mut runs: Vec<Vec<Leg>> = Vec::new();
        for leg in legs {
            let end = self.stored.range(leg.index).end;
            let fits = |run: &Vec<Leg>| {
                let ends = run.first().zip(run.last());
                ends.is_some_and(|(first, last)| {
                    let start = self.stored.range(first.index).start;
                    let next = if last.index == HEAD { 0 } else { last.index + 1 };
                    next == leg.index && end - start <= most.max(limits::SMALL_FILE_BYTES)
                })
            };
            match runs.last_mut() {
                Some(run) if fits(run) => run.push(leg),
                _ => runs.push(vec![leg]),
            }
        }
        runs
    }

    /// Fetches adjacent chunks that the disk cache does not have: together, with what is added to
    /// them, and what did not come that way one by one.
    pub(super) async fn fly(self: Arc<Self>, legs: Vec<Leg>, more: Option<More>) {
        let timeout = self.inner.read_timeout;
        let mut run = Run { journey: &self, legs: legs.into(), more, last: None };
        let mut tried = None;
        if run.legs.len() > 1 {
            tried = self.inner.fetcher.fetch_run(&self.stored, &mut run, timeout).await;
        }
        let rest = run.more.map(More::rest).unwrap_or_default();
        let mut single = JoinSet::new();
        for leg in run.legs.into_iter().chain(rest) {
            let left = timeout.saturating_sub(leg.begun.elapsed());
            single.spawn(self.clone().fly_single(leg, left, tried.take()));
        }
        while single.join_next().await.is_some() {}
    }

    async fn fly_single(self: Arc<Self>, leg: Leg, timeout: Duration, tried: Option<Tried>) {
        let begin = Instant::now();
        let (chunk, fetcher) = ((leg.index, leg.sum), &self.inner.fetcher);
        match fetcher.fetch(&self.stored, &self.path, chunk, timeout, tried).await {
            Ok(bytes) => {
                self.inner.pace.arrived(begin.elapsed(), bytes.len() as u64);
                self.land(leg, bytes);
            }
            Err(error) => {
                // Another copy may have been verified since.
                self.inner.sources.forget(self.stored.id, self.stored.generation);
                leg.pilot.land(Err(error));
            }
        }
    }

    /// Hands a chunk over, and puts it where the next reader finds it.
    fn land(&self, leg: Leg, bytes: Bytes) {
        self.inner.memory.insert(leg.sum, bytes.clone());
        // The head of a short one is in the first chunk, which comes with it.
        let again = leg.index == HEAD && self.stored.size <= limits::SMALL_FILE_BYTES;
        let keep = self.keep && !again && !self.stored.is_sealed();
        leg.pilot.land(Ok(bytes.clone()));
        if let Some(behind) = self.inner.behind.as_ref().filter(|_| keep) {
            behind.put(leg.sum, bytes);
        }
    }
}
