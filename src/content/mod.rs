//! Where the bytes of a released recording come from: the disk cache, else a target; always
//! checked against the chunk hashes before the first byte is handed out.
//!
//! **Invariant:** no byte leaves here that was not part of a chunk with the right SHA-256, and no
//! call waits longer than its deadline, whatever targets and disks do.

mod breaker;
mod cache;
mod fetch;
mod flight;
mod source;

pub use source::Objects;

use crate::clock::SharedClock;
use crate::limits;
use crate::recording::{ErrorClass, NodeId, Sha256, chunk_at, chunk_range};
use crate::store::Store;
use bytes::{Bytes, BytesMut};
use cache::DiskCache;
use fetch::Fetcher;
use flight::{Flight, Flights};
use source::{Sources, Stored};
use std::collections::VecDeque;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tokio::runtime::Handle;

/// Why bytes could not be had.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{path}: {detail}")]
pub struct ContentError {
    /// The recording, relative to the mount.
    pub path: String,
    /// What happened at each target, and the next step.
    pub detail: String,
    /// How it may end.
    pub class: ErrorClass,
}

/// How content is read.
#[derive(Clone, Debug)]
pub struct Options {
    /// Directory of the disk cache, made if need be; none: no disk cache.
    pub cache_dir: Option<PathBuf>,
    /// Most bytes in it; 0: no disk cache.
    pub cache_bytes_max: u64,
    /// The cache takes nothing more while fewer bytes than this are free on its disk.
    pub cache_free_min: u64,
    /// Longest time for one read, over all targets.
    pub read_timeout: Duration,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            cache_dir: None,
            cache_bytes_max: 0,
            cache_free_min: limits::RESERVE_BYTES,
            read_timeout: limits::READ_TIMEOUT,
        }
    }
}

/// What was done so far, for metrics.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Chunks found in memory.
    pub memory_hits: u64,
    /// Chunks found in the disk cache.
    pub disk_hits: u64,
    /// Chunks that came from a target.
    pub fetched: u64,
    /// Chunks that could not be had.
    pub failed: u64,
    /// Answers of targets that were not what was archived.
    pub corrupt: u64,
    /// Verified objects that were not there.
    pub gone: u64,
    /// Bytes in the disk cache.
    pub cache_bytes: u64,
}

#[derive(Debug, Default)]
struct Counters {
    memory_hits: AtomicU64,
    disk_hits: AtomicU64,
    fetched: AtomicU64,
    failed: AtomicU64,
    corrupt: AtomicU64,
    gone: AtomicU64,
}

/// Reads released recordings. Cloning is cheap.
#[derive(Clone, Debug)]
pub struct Content {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    read_timeout: Duration,
    sources: Sources,
    fetcher: Fetcher,
    flights: Flights,
    /// Chunks read last: the kernel asks for one in several pieces.
    memory: moka::sync::Cache<Sha256, Bytes>,
    disk: Option<Arc<DiskCache>>,
    runtime: Handle,
    counters: Arc<Counters>,
}

/// When a wait ends.
#[derive(Clone, Copy)]
enum Deadline {
    /// All of it together.
    Total(Instant),
    /// Each chunk has its own time.
    EachChunk,
}

impl Content {
    /// `stores` are asked in their order. The disk cache that an earlier daemon left is taken over
    /// in the background; one that can not be used is done without, with a warning.
    pub fn new(
        options: Options,
        objects: Arc<dyn Objects>,
        stores: Vec<Arc<dyn Store>>,
        runtime: Handle,
        clock: SharedClock,
    ) -> Content {
        let disk = DiskCache::open(&options, clock.clone()).map(Arc::new);
        if let Some(disk) = disk.clone() {
            runtime.spawn_blocking(move || disk.scan());
        }
        let counters = Arc::new(Counters::default());
        Content {
            inner: Arc::new(Inner {
                // So that "forever" can be added to the present.
                read_timeout: options.read_timeout.min(limits::READ_TIMEOUT_MAX),
                sources: Sources::new(objects),
                fetcher: Fetcher::new(stores, clock, counters.clone()),
                flights: Flights::default(),
                memory: moka::sync::Cache::new(limits::MEMORY_CHUNKS),
                disk,
                runtime,
                counters,
            }),
        }
    }

    /// Replaces the targets, after a change of the configuration.
    pub fn set_stores(&self, stores: Vec<Arc<dyn Store>>) {
        self.inner.fetcher.set_stores(stores);
    }

    /// Reads `len` bytes of the current generation from `offset` on; fewer only where it ends.
    /// Blocks, at most `read_timeout`. `path` is for messages.
    ///
    /// # Errors
    /// Transient if no target answered in time; corrupt if none has the right bytes; permanent if
    /// there is no verified object.
    pub fn read(
        &self,
        id: NodeId,
        path: &Path,
        offset: u64,
        len: usize,
    ) -> Result<Bytes, ContentError> {
        let deadline = Instant::now() + self.inner.read_timeout;
        let stored = self.inner.sources.stored(id, path)?;
        let end = offset.saturating_add(len as u64).min(stored.size);
        if offset >= end {
            return Ok(Bytes::new());
        }
        if chunk_at(offset) == chunk_at(end - 1) {
            let index = chunk_at(offset);
            let chunk = self.join(&stored, path, index, true);
            let bytes = self.wait(&chunk, path, Deadline::Total(deadline))?;
            return Ok(part(&bytes, chunk_range(index, stored.size).start, &(offset..end)));
        }
        let mut whole = BytesMut::with_capacity(usize::try_from(end - offset).unwrap_or(0));
        let mut collect = |_, bytes: &[u8]| {
            whole.extend_from_slice(bytes);
            Ok(())
        };
        let deadline = Deadline::Total(deadline);
        self.stream(&stored, path, offset..end, deadline, true, &mut collect)?;
        Ok(whole.freeze())
    }

    /// Reads the whole current generation in order and hands it to `sink` with each offset. Each
    /// chunk may take `read_timeout`; nothing is put into the disk cache.
    ///
    /// # Errors
    /// As `read`; what `sink` returns is transient.
    pub fn fetch_all(
        &self,
        id: NodeId,
        path: &Path,
        sink: &mut dyn FnMut(u64, &[u8]) -> io::Result<()>,
    ) -> Result<(), ContentError> {
        let stored = self.inner.sources.stored(id, path)?;
        self.stream(&stored, path, 0..stored.size, Deadline::EachChunk, false, sink)
    }

    /// Makes room on a file system (`st_dev`) that is too full, if the disk cache is on it: removes
    /// up to `chunks` chunks.
    pub fn give_way(&self, device: u64, chunks: usize) {
        if let Some(disk) = &self.inner.disk {
            disk.give_way(device, chunks);
        }
    }

    /// What was done so far.
    pub fn stats(&self) -> Stats {
        let counters = &self.inner.counters;
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Stats {
            memory_hits: get(&counters.memory_hits),
            disk_hits: get(&counters.disk_hits),
            fetched: get(&counters.fetched),
            failed: get(&counters.failed),
            corrupt: get(&counters.corrupt),
            gone: get(&counters.gone),
            cache_bytes: self.inner.disk.as_ref().map_or(0, |disk| disk.bytes()),
        }
    }

    /// Asks for a few chunks ahead and hands them on in order.
    fn stream(
        &self,
        stored: &Arc<Stored>,
        path: &Path,
        range: Range<u64>,
        deadline: Deadline,
        keep: bool,
        sink: &mut dyn FnMut(u64, &[u8]) -> io::Result<()>,
    ) -> Result<(), ContentError> {
        let Some(last) = range.end.checked_sub(1) else { return Ok(()) };
        let mut ahead = chunk_at(range.start)..=chunk_at(last);
        let mut flying: VecDeque<(u64, Arc<Flight>)> = VecDeque::new();
        loop {
            while flying.len() < limits::CHUNKS_AHEAD
                && let Some(index) = ahead.next()
            {
                flying.push_back((index, self.join(stored, path, index, keep)));
            }
            let Some((index, flight)) = flying.pop_front() else { return Ok(()) };
            let bytes = self.wait(&flight, path, deadline)?;
            let start = chunk_range(index, stored.size).start;
            let wanted = part(&bytes, start, &range);
            sink(start.max(range.start), &wanted).map_err(|e| ContentError {
                path: path.display().to_string(),
                detail: format!("the recording could not be written locally: {e}"),
                class: ErrorClass::Transient,
            })?;
        }
    }

    fn wait(
        &self,
        flight: &Flight,
        path: &Path,
        deadline: Deadline,
    ) -> Result<Bytes, ContentError> {
        let until = match deadline {
            Deadline::Total(until) => until,
            Deadline::EachChunk => Instant::now() + self.inner.read_timeout,
        };
        flight.wait(until).unwrap_or_else(|| {
            Err(ContentError {
                path: path.display().to_string(),
                detail: format!(
                    "no target answered within {} s; see `spoolfs check`, or raise `read_timeout`",
                    self.inner.read_timeout.as_secs_f32()
                ),
                class: ErrorClass::Transient,
            })
        })
    }

    /// The flight that brings this chunk: one at most, however many ask for it.
    fn join(&self, stored: &Arc<Stored>, path: &Path, index: u64, keep: bool) -> Arc<Flight> {
        let remembered = || {
            let bytes = stored.chunks.get(index).and_then(|sum| self.inner.memory.get(sum))?;
            self.inner.counters.memory_hits.fetch_add(1, Ordering::Relaxed);
            Some(bytes)
        };
        if let Some(bytes) = remembered() {
            return Arc::new(Flight::landed(Ok(bytes)));
        }
        let key = (stored.id, stored.generation, index);
        self.inner.flights.join(key, path, |pilot| {
            // The flight before this one may have landed since we looked.
            if let Some(bytes) = remembered() {
                return pilot.land(Ok(bytes));
            }
            let (inner, stored) = (self.inner.clone(), stored.clone());
            let path = path.to_owned();
            self.inner.runtime.spawn(async move {
                inner.bring(&stored, &path, index, keep, pilot).await;
            });
        })
    }
}

impl Inner {
    /// Brings a chunk, tells all who wait, and then puts it where the next reader finds it.
    async fn bring(
        self: Arc<Self>,
        stored: &Stored,
        path: &Path,
        index: u64,
        keep: bool,
        pilot: flight::Pilot,
    ) {
        let Some(sum) = stored.chunks.get(index).copied() else {
            let detail = "the catalog has no hash of this part; run `spoolfs check`".to_owned();
            let path = path.display().to_string();
            return pilot.land(Err(ContentError { path, detail, class: ErrorClass::Permanent }));
        };
        if let Some(bytes) = self.cached(sum).await {
            self.counters.disk_hits.fetch_add(1, Ordering::Relaxed);
            self.memory.insert(sum, bytes.clone());
            return pilot.land(Ok(bytes));
        }
        let brought = self.fetcher.fetch(stored, path, index, sum, self.read_timeout).await;
        match &brought {
            Ok(bytes) => self.memory.insert(sum, bytes.clone()),
            // Another copy may have been verified since.
            Err(_) => self.sources.forget(stored),
        }
        let bytes = brought.as_ref().ok().filter(|_| keep).cloned();
        pilot.land(brought);
        if let (Some(disk), Some(bytes)) = (self.disk.clone(), bytes) {
            let write = tokio::task::spawn_blocking(move || disk.insert(sum, &bytes));
            // A cache that is not written costs nothing but the next fetch.
            let _stopping = write.await;
        }
    }

    async fn cached(&self, sum: Sha256) -> Option<Bytes> {
        let disk = self.disk.clone()?;
        tokio::task::spawn_blocking(move || disk.get(sum)).await.ok().flatten()
    }
}

/// The part of `range` that a chunk beginning at `start` has.
fn part(chunk: &Bytes, start: u64, range: &Range<u64>) -> Bytes {
    let at = |offset: u64| {
        usize::try_from(offset.saturating_sub(start)).unwrap_or(usize::MAX).min(chunk.len())
    };
    chunk.slice(at(range.start)..at(range.end).max(at(range.start)))
}

#[cfg(test)]
mod tests;
