//! Where the bytes of a released recording come from: the disk cache, else a target; always
//! checked against the chunk hashes before the first byte is handed out.
//!
//! **Invariant:** no byte leaves here that was not part of a chunk with the right SHA-256, and no
//! call waits longer than its deadline, whatever targets and disks do.

mod ahead;
mod behind;
mod breaker;
mod cache;
mod fetch;
mod flight;
mod journey;
mod refusal;
mod scanners;
mod segments;
mod source;
mod stream;

pub use source::Objects;

use crate::clock::SharedClock;
use crate::codec::seal::Identities;
use crate::limits;
use crate::recording::{
    CHUNK_BYTES, ChunkHashes, ErrorClass, Generation, HEAD_BYTES, NodeId, Reader, Sha256, chunk_at,
    chunk_count,
};
use crate::store::Store;
use ahead::{Most, Pace, Readers};
use behind::Behind;
use bytes::{Bytes, BytesMut};
use cache::DiskCache;
use fetch::Fetcher;
use flight::{Flight, Flights};
use journey::{Journey, Leg};
use moka::policy::EvictionPolicy;
use scanners::Scanners;
use source::{HEAD, Sources, Stored};
use std::collections::VecDeque;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};
use stream::Streams;
use tokio::runtime::Handle;
use tokio::sync::Semaphore;

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
    /// The cache takes nothing more while fewer bytes than this are free on its disk, and gives
    /// back what it has.
    pub cache_free_min: u64,
    /// Longest time for one read, over all targets.
    pub read_timeout: Duration,
    /// Recordings that one process may begin to read in a minute; 0: any number.
    pub recordings_per_minute: u32,
    /// What opens sealed recordings.
    pub identities: Identities,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            cache_dir: None,
            cache_bytes_max: 0,
            cache_free_min: limits::RESERVE_BYTES,
            read_timeout: limits::READ_TIMEOUT,
            recordings_per_minute: limits::RECORDINGS_PER_MINUTE,
            identities: Identities::default(),
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
    /// Requests for them.
    pub requests: u64,
    /// Chunks that were asked for before anybody wanted them.
    pub ahead: u64,
    /// Reads that waited because their process reads through the archive.
    pub held_back: u64,
    /// Chunks that could not be had.
    pub failed: u64,
    /// Answers of targets that were not what was archived.
    pub corrupt: u64,
    /// Verified objects that were not there.
    pub gone: u64,
    /// Bytes in the disk cache.
    pub cache_bytes: u64,
    /// Chunks in it that were torn or changed.
    pub cache_dropped: u64,
}

#[derive(Debug, Default)]
struct Counters {
    memory_hits: AtomicU64,
    disk_hits: AtomicU64,
    fetched: AtomicU64,
    requests: AtomicU64,
    ahead: AtomicU64,
    held_back: AtomicU64,
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
    readers: Readers,
    streams: Streams,
    scanners: Scanners,
    pace: Pace,
    /// Room for chunks that nobody waits for.
    ahead: Arc<Semaphore>,
    /// Chunks read last: the kernel asks for one in several pieces.
    memory: moka::sync::Cache<Sha256, Bytes>,
    disk: Option<Arc<DiskCache>>,
    behind: Option<Behind>,
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
            let watched = Arc::downgrade(&disk);
            runtime.spawn_blocking(move || disk.scan());
            runtime.spawn(watch_space(watched));
        }
        let counters = Arc::new(Counters::default());
        Content {
            inner: Arc::new(Inner {
                // So that "forever" can be added to the present.
                read_timeout: options.read_timeout.min(limits::READ_TIMEOUT_MAX),
                sources: Sources::new(objects),
                fetcher: Fetcher::new(stores, options.identities, clock, counters.clone()),
                flights: Flights::default(),
                readers: Readers::default(),
                streams: Streams::default(),
                scanners: Scanners::new(options.recordings_per_minute),
                pace: Pace::default(),
                ahead: Arc::new(Semaphore::new(limits::AHEAD_CHUNKS_MAX)),
                memory: memory(),
                behind: disk.clone().and_then(Behind::start),
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
        self.read_generation(id, None, path, offset, len)
    }

    /// The same of a generation that the caller knows to be the current one, if he does.
    ///
    /// # Errors
    /// As `read`.
    pub fn read_generation(
        &self,
        id: NodeId,
        generation: Option<Generation>,
        path: &Path,
        offset: u64,
        len: usize,
    ) -> Result<Bytes, ContentError> {
        let deadline = Instant::now() + self.inner.read_timeout;
        let stored = self.inner.sources.of(id, generation, path)?;
        let end = offset.saturating_add(len as u64).min(stored.size);
        if offset >= end {
            return Ok(Bytes::new());
        }
        if let Some(error) = self.refusal(&stored, path, &(offset..end)) {
            return Err(error);
        }
        let flights = self.set_out(&stored, path, offset..end);
        let deadline = Deadline::Total(deadline);
        let wait = |flight: &Flight| self.wait(flight, (&stored, path), deadline);
        let chunks: Result<Vec<_>, _> =
            flights.iter().map(|(index, flight)| Ok((*index, wait(flight)?))).collect();
        Ok(joined(&stored, &chunks?, &(offset..end)))
    }

    /// The same for a thread that must not wait: none, unless all of it is in memory.
    pub fn ready(
        &self,
        id: NodeId,
        generation: Generation,
        path: &Path,
        offset: u64,
        len: usize,
    ) -> Option<Bytes> {
        let stored = self.inner.sources.known(id, generation)?;
        let range = offset..offset.saturating_add(len as u64).min(stored.size);
        let (mut chunks, _) = self.asked(&stored, &range)?;
        let here = |index| stored.sum(index).is_some_and(|s| self.inner.memory.contains_key(&s));
        if !chunks.all(here) {
            return None;
        }
        // What is thrown out at this moment is waited for elsewhere.
        let flights = self.set_out(&stored, path, range.clone());
        let landed = |flight: &Flight| flight.outcome()?.ok();
        let chunks: Option<Vec<_>> =
            flights.iter().map(|(index, flight)| Some((*index, landed(flight)?))).collect();
        Some(joined(&stored, &chunks?, &range))
    }

    /// The chunks that hold a range, and whether that is the head alone.
    fn asked(&self, stored: &Stored, range: &Range<u64>) -> Option<(Range<u64>, bool)> {
        let last = range.end.checked_sub(1).filter(|last| *last >= range.start)?;
        if range.end <= HEAD_BYTES && self.wants_head(stored) {
            return Some((HEAD..HEAD + 1, true));
        }
        Some((chunk_at(range.start)..chunk_at(last) + 1, false))
    }

    /// The flights for a range, with those that one who reads on will want next.
    fn set_out(
        &self,
        stored: &Arc<Stored>,
        path: &Path,
        range: Range<u64>,
    ) -> Vec<(u64, Arc<Flight>)> {
        let inner = &self.inner;
        let Some((asked, head)) = self.asked(stored, &range) else { return Vec::new() };
        let keep = !inner.scanners.is_scanned(stored.id);
        let mut legs = Vec::new();
        if stored.size <= limits::SMALL_FILE_BYTES {
            // The kernel may ask for its parts in any order, and at the same time.
            let whole = head.then_some(HEAD).into_iter().chain(0..chunk_count(stored.size));
            let flights = self.board(stored, path, whole, &asked, &mut legs);
            self.launch(stored, path, legs, keep, false);
            return flights;
        }
        let flights = self.board(stored, path, asked.clone(), &asked, &mut legs);
        if head && !legs.is_empty() {
            self.board_end(stored, path, &mut legs);
        }
        let key = (stored.id, stored.generation);
        let stream = inner.streams.next(key);
        let most = Most { bytes: inner.pace.most(), soon: inner.pace.soon(), stream };
        let ahead = inner.readers.read(key, range, stored.size, most, |chunks| {
            let chunks = u32::try_from(chunks).ok().filter(|_| !head)?;
            inner.ahead.clone().try_acquire_many_owned(chunks).ok()
        });
        let all = ahead.as_ref().is_some_and(|ahead| ahead.all);
        if let Some(ahead) = ahead {
            let asked_for = legs.len();
            let _nobody_waits = self.board(stored, path, ahead.chunks, &(0..0), &mut legs);
            let room = Arc::new(ahead.room);
            for leg in legs.iter_mut().skip(asked_for) {
                leg.room = Some(room.clone());
            }
        }
        self.launch(stored, path, legs, keep, all);
        flights
    }

    /// Drops what is kept of a generation, in memory and on the disk: it was deleted for good.
    pub fn forget(&self, id: NodeId, generation: Generation, chunks: &ChunkHashes) {
        self.inner.sources.forget(id, generation);
        for sum in &chunks.0 {
            self.inner.memory.invalidate(sum);
            if let Some(disk) = &self.inner.disk {
                disk.forget(*sum);
            }
        }
    }

    /// The objects of a generation are others from now on, with the same content.
    pub fn moved(&self, id: NodeId, generation: Generation) {
        self.inner.sources.forget(id, generation);
    }

    /// Whether the beginning of a recording can be read without asking a target.
    pub fn holds(&self, id: NodeId, path: &Path) -> bool {
        let Ok(stored) = self.inner.sources.stored(id, path) else { return false };
        self.has(&stored, 0) || self.has(&stored, HEAD)
    }

    /// Whether a chunk needs not be fetched.
    fn has(&self, stored: &Stored, index: u64) -> bool {
        stored.sum(index).is_some_and(|sum| {
            let disk = self.inner.disk.as_ref().filter(|_| !stored.is_sealed());
            self.inner.memory.contains_key(&sum) || disk.is_some_and(|disk| disk.contains(sum))
        })
    }

    /// Whether the first bytes are asked for alone: most who ask for no more want no more.
    fn wants_head(&self, stored: &Stored) -> bool {
        stored.sum(HEAD).is_some() && !self.has(stored, 0)
    }

    /// Somebody is about to read a recording. Waits, if his process reads through the archive; a
    /// fraction of `read_timeout` at most.
    pub fn admit(&self, reader: Reader, id: NodeId) {
        let patience = limits::SCANNER_WAIT.min(self.inner.read_timeout / 2);
        let waited = self.inner.scanners.admit(reader, id, patience);
        if !waited.is_zero() {
            self.inner.counters.held_back.fetch_add(1, Ordering::Relaxed);
        }
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
        self.stream(&stored, path, 0..stored.size, sink)
    }

    /// The same for a part of it.
    ///
    /// # Errors
    /// As `fetch_all`.
    pub fn fetch_range(
        &self,
        id: NodeId,
        path: &Path,
        range: Range<u64>,
        sink: &mut dyn FnMut(u64, &[u8]) -> io::Result<()>,
    ) -> Result<(), ContentError> {
        let stored = self.inner.sources.stored(id, path)?;
        let range = range.start..range.end.min(stored.size);
        self.stream(&stored, path, range, sink)
    }

    /// A target answered somebody else: it is asked again at once.
    pub fn target_answers(&self, name: &str) {
        self.inner.fetcher.target_answers(name);
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
            requests: get(&counters.requests),
            ahead: get(&counters.ahead),
            held_back: get(&counters.held_back),
            failed: get(&counters.failed),
            corrupt: get(&counters.corrupt),
            gone: get(&counters.gone),
            cache_bytes: self.inner.disk.as_ref().map_or(0, |disk| disk.bytes()),
            cache_dropped: self.inner.disk.as_ref().map_or(0, |disk| disk.dropped()),
        }
    }

    /// Asks for some chunks ahead and hands them on in order.
    fn stream(
        &self,
        stored: &Arc<Stored>,
        path: &Path,
        range: Range<u64>,
        sink: &mut dyn FnMut(u64, &[u8]) -> io::Result<()>,
    ) -> Result<(), ContentError> {
        let Some(last) = range.end.checked_sub(1) else { return Ok(()) };
        let (mut next, count) = (chunk_at(range.start), chunk_at(last) + 1);
        let mut flying: VecDeque<(u64, Arc<Flight>)> = VecDeque::new();
        loop {
            let most = (self.inner.pace.most() / CHUNK_BYTES).clamp(2, limits::CHUNKS_AHEAD as u64);
            let room = most.saturating_sub(flying.len() as u64);
            if room > most / 2 && next < count {
                let chunks = next..count.min(next + room);
                next = chunks.end;
                let mut legs = Vec::new();
                flying.extend(self.board(stored, path, chunks.clone(), &chunks, &mut legs));
                self.launch(stored, path, legs, false, false);
            }
            let Some((index, flight)) = flying.pop_front() else { return Ok(()) };
            let bytes = self.wait(&flight, (stored, path), Deadline::EachChunk)?;
            let start = stored.range(index).start;
            sink(start.max(range.start), &part(&bytes, start, &range)).map_err(|e| {
                ContentError {
                    path: path.display().to_string(),
                    detail: format!("the recording could not be written locally: {e}"),
                    class: ErrorClass::Transient,
                }
            })?;
        }
    }

    fn wait(
        &self,
        flight: &Flight,
        (stored, path): (&Stored, &Path),
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
                    "no target answered within {} s ({}); see `spoolfs check`, or raise \
                     `read_timeout`",
                    self.inner.read_timeout.as_secs_f32(),
                    self.inner.fetcher.objects(stored)
                ),
                class: ErrorClass::Transient,
            })
        })
    }

    /// The flights that bring these chunks: one each, however many ask for it. Those that are new
    /// are added to `legs`, to be launched. Returned are those of the chunks that somebody waits for.
    fn board(
        &self,
        stored: &Stored,
        path: &Path,
        chunks: impl Iterator<Item = u64>,
        asked: &Range<u64>,
        legs: &mut Vec<Leg>,
    ) -> Vec<(u64, Arc<Flight>)> {
        let inner = &self.inner;
        let mut flights = Vec::new();
        let mut boarding = inner.flights.boarding();
        for index in chunks {
            let Some(sum) = stored.sum(index) else { continue };
            let (key, waits) = ((stored.id, stored.generation, index), asked.contains(&index));
            let flight = if let Some(flight) = boarding.under_way(key) {
                flight
            } else if let Some(bytes) = inner.memory.get(&sum) {
                inner.counters.memory_hits.fetch_add(u64::from(waits), Ordering::Relaxed);
                Arc::new(Flight::landed(Ok(bytes)))
            } else {
                let (flight, pilot) = boarding.start(key, path);
                inner.counters.ahead.fetch_add(u64::from(!waits), Ordering::Relaxed);
                legs.push(Leg { index, sum, pilot, begun: Instant::now(), room: None });
                flight
            };
            if waits {
                flights.push((index, flight));
            }
        }
        flights
    }

    /// The last chunk, too, if it is likely to be asked for next and there is room.
    fn board_end(&self, stored: &Stored, path: &Path, legs: &mut Vec<Leg>) {
        let inner = &self.inner;
        let Some(last) = chunk_count(stored.size).checked_sub(1) else { return };
        if let Ok(room) = inner.ahead.clone().try_acquire_owned()
            && inner.readers.wants_end()
        {
            let asked_for = legs.len();
            let _nobody_waits = self.board(stored, path, last..last + 1, &(0..0), legs);
            let room = Arc::new(room);
            legs.iter_mut().skip(asked_for).for_each(|leg| leg.room = Some(room.clone()));
        }
    }

    /// `all`: the reader wants all that follows, and quickly.
    fn launch(&self, stored: &Arc<Stored>, path: &Path, legs: Vec<Leg>, keep: bool, all: bool) {
        if legs.is_empty() {
            return;
        }
        let inner = &self.inner;
        let key = (stored.id, stored.generation);
        let here = |leg: &Leg| inner.disk.as_ref().is_some_and(|disk| disk.may_have(leg.sum));
        let is_here = legs.iter().any(here);
        let Some(legs) = (if is_here { Some(legs) } else { inner.streams.go_on(key, legs) }) else {
            return;
        };
        let more = (all && !is_here)
            .then(|| inner.streams.open(key, &legs, chunk_count(stored.size)))
            .flatten();
        let (stored, path) = (stored.clone(), path.to_owned());
        let journey = Arc::new(Journey { inner: inner.clone(), stored, path, keep });
        match more {
            Some(more) => inner.runtime.spawn(journey.fly(legs, Some(more))),
            None => inner.runtime.spawn(journey.begin(legs)),
        };
    }
}

/// Looks at the disk of the cache as long as there is one.
async fn watch_space(disk: Weak<DiskCache>) {
    loop {
        tokio::time::sleep(limits::CACHE_LOOK).await;
        let Some(disk) = disk.upgrade() else { return };
        let _stopping = tokio::task::spawn_blocking(move || disk.relieve()).await;
    }
}

/// What was read last. The first that goes is the one used longest ago: what is fetched ahead must
/// not be turned away for being new.
fn memory() -> moka::sync::Cache<Sha256, Bytes> {
    moka::sync::Cache::builder()
        .max_capacity(limits::MEMORY_BYTES)
        .weigher(|_, bytes: &Bytes| u32::try_from(bytes.len()).unwrap_or(u32::MAX))
        .eviction_policy(EvictionPolicy::lru())
        .build()
}

/// A range of a recording from the chunks that hold it.
fn joined(stored: &Stored, chunks: &[(u64, Bytes)], range: &Range<u64>) -> Bytes {
    if let [(index, bytes)] = chunks {
        return part(bytes, stored.range(*index).start, range);
    }
    let len = usize::try_from(range.end - range.start).unwrap_or(0);
    let mut whole = BytesMut::with_capacity(len);
    for (index, bytes) in chunks {
        whole.extend_from_slice(&part(bytes, stored.range(*index).start, range));
    }
    whole.freeze()
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
