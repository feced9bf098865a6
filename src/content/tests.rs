mod flac;
mod requests;
mod sealed;
mod streams;

use super::*;
use crate::catalog::{self, ObjectRow, ObjectState};
use crate::clock::{ManualClock, Timestamp};
use crate::recording::{
    CHUNK_BYTES, Encoding, FIRST_CHUNK_BYTES, Generation, Hasher, Patch, Sha256, Stored,
    chunk_range,
};
use crate::store::memory::{Fault, MemoryStore, Operation};
use crate::store::{Body, ObjectMeta};
use parking_lot::Mutex;
use tokio::runtime::Runtime;

const ID: NodeId = NodeId(7);

#[derive(Debug, Default)]
struct Rows(Mutex<Vec<ObjectRow>>);

impl Objects for Rows {
    fn current(&self, id: NodeId) -> catalog::Result<Option<Generation>> {
        Ok(self.0.lock().iter().filter(|r| r.node == id).map(|r| r.generation).max())
    }

    fn objects_of(&self, id: NodeId, generation: Generation) -> catalog::Result<Vec<ObjectRow>> {
        let rows = self.0.lock();
        let of = |r: &&ObjectRow| r.node == id && r.generation == generation;
        Ok(rows.iter().filter(of).cloned().collect())
    }
}

/// Two targets, a recording in both, and a reader.
struct World {
    runtime: Runtime,
    rows: Arc<Rows>,
    stores: [Arc<MemoryStore>; 2],
    clock: Arc<ManualClock>,
    audio: Vec<u8>,
    dir: tempfile::TempDir,
}

impl World {
    fn with(len: u64) -> World {
        let world = World {
            runtime: tokio::runtime::Builder::new_multi_thread()
                .worker_threads(1)
                .enable_all()
                .build()
                .unwrap(),
            rows: Arc::default(),
            stores: ["one", "two"].map(|name| Arc::new(MemoryStore::new(name, ""))),
            clock: ManualClock::at(Timestamp(0)),
            audio: noise(1, len),
            dir: tempfile::tempdir().unwrap(),
        };
        for target in 0..2 {
            world.archive(target, 1, &world.audio);
        }
        world
    }

    fn archive(&self, target: usize, generation: u32, audio: &[u8]) {
        let mut hasher = Hasher::default();
        hasher.update(audio);
        let (sha256, chunks) = hasher.finish();
        let key = format!("n/a~{generation}.wav");
        let (store, meta) = (&self.stores[target], ObjectMeta::default());
        let body = Body::Bytes(audio.to_vec().into());
        self.runtime.block_on(store.put(&key, body, sha256, &meta)).unwrap();
        self.rows.0.lock().push(ObjectRow {
            id: 1,
            node: ID,
            generation: Generation(generation),
            target: store.name().to_owned(),
            key,
            state: ObjectState::Verified,
            size: audio.len() as u64,
            sha256,
            stored: Stored::plain(audio.len() as u64, sha256),
            chunks,
            verified_at: None,
        });
    }

    fn content(&self, options: Options) -> Content {
        self.content_of(options, self.stores.iter().map(|s| s.clone() as Arc<dyn Store>).collect())
    }

    fn content_of(&self, options: Options, stores: Vec<Arc<dyn Store>>) -> Content {
        let runtime = self.runtime.handle().clone();
        Content::new(options, self.rows.clone(), stores, runtime, self.clock.clone())
    }

    fn plain(&self) -> Content {
        self.content(Options { read_timeout: Duration::from_secs(5), ..Options::default() })
    }

    /// As `plain`, from these targets.
    fn read_from(&self, stores: Vec<Arc<dyn Store>>) -> Content {
        let read_timeout = Duration::from_secs(5);
        self.content_of(Options { read_timeout, ..Options::default() }, stores)
    }

    fn cached(&self) -> Content {
        self.content(Options {
            cache_dir: Some(self.dir.path().to_owned()),
            cache_bytes_max: 64 << 20,
            cache_free_min: 0,
            read_timeout: Duration::from_secs(5),
            ..Options::default()
        })
    }

    fn gets(&self) -> u64 {
        self.stores.iter().map(|s| s.calls(Operation::Get)).sum()
    }
}

fn noise(seed: u64, len: u64) -> Vec<u8> {
    let mut bytes = vec![0; usize::try_from(len).unwrap()];
    fastrand::Rng::with_seed(seed).fill(&mut bytes);
    bytes
}

fn path() -> &'static Path {
    Path::new("2024/a.wav")
}

fn read(content: &Content, offset: u64, len: usize) -> Result<Bytes, ContentError> {
    content.read(ID, path(), offset, len)
}

#[test]
fn any_range_of_any_size_is_what_was_archived() {
    for len in [1, FIRST_CHUNK_BYTES, FIRST_CHUNK_BYTES + 1, 1_500_077] {
        let world = World::with(len);
        let content = world.plain();
        let mut rng = fastrand::Rng::with_seed(len);
        for _ in 0..60 {
            let (offset, want) = (rng.u64(0..len + 10), rng.usize(0..900_000));
            let got = read(&content, offset, want).unwrap();
            let size = world.audio.len();
            let start = usize::try_from(offset).unwrap().min(size);
            assert_eq!(got, world.audio[start..(start + want).min(size)], "{offset} {want}");
        }
        assert!(read(&content, u64::MAX, usize::MAX).unwrap().is_empty());
    }
}

#[test]
fn only_the_chunks_that_are_needed_are_fetched_and_each_once() {
    let world = World::with(10 * CHUNK_BYTES);
    let content = world.plain();
    // From the back, so that nobody goes on.
    for step in [0, 7, 6, 5, 4, 3, 2, 1] {
        read(&content, step * 8192, 8192).unwrap();
    }
    // The head alone, and then the first chunk.
    assert_eq!(world.gets(), 2);
    read(&content, FIRST_CHUNK_BYTES + CHUNK_BYTES - 1, 2).unwrap();
    // The two of them together.
    assert_eq!((world.gets(), content.stats().fetched), (3, 4));
}

#[test]
fn many_readers_of_a_chunk_cause_one_request() {
    let world = World::with(1000);
    let content = world.plain();
    world.stores[0].set_paused(true);
    let readers: Vec<_> = (0..8)
        .map(|_| {
            let content = content.clone();
            std::thread::spawn(move || read(&content, 0, 1000).unwrap())
        })
        .collect();
    while world.gets() == 0 {
        std::thread::yield_now();
    }
    world.stores[0].set_paused(false);
    for reader in readers {
        assert_eq!(reader.join().unwrap(), world.audio);
    }
    assert_eq!(world.gets(), 1);
}

#[test]
fn the_second_target_is_asked_whatever_is_wrong_with_the_first() {
    for fault in [Some(Fault::Unreachable), Some(Fault::Denied), Some(Fault::ReplyLost), None] {
        let world = World::with(1000);
        match fault {
            Some(fault) => world.stores[0].fail_next(Operation::Get, 2, fault),
            None => world.runtime.block_on(world.stores[0].delete("n/a~1.wav")).unwrap(),
        }
        assert_eq!(read(&world.plain(), 0, 1000).unwrap(), world.audio, "{fault:?}");
    }
}

#[test]
fn one_lost_connection_is_no_failure() {
    let world = World::with(1000);
    world.stores[0].fail_next(Operation::Get, 1, Fault::Unreachable);
    assert_eq!(read(&world.plain(), 0, 1000).unwrap(), world.audio);
    assert_eq!(world.stores[1].calls(Operation::Get), 0);
}

#[test]
fn a_wrong_byte_is_never_handed_out_and_never_cached() {
    let world = World::with(200_000);
    world.stores[0].corrupt("n/a~1.wav", 150_000);
    let content = world.cached();
    assert_eq!(read(&content, 0, 200_000).unwrap(), world.audio);
    assert_eq!(content.stats().corrupt, 1);

    let world = World::with(200_000);
    for store in &world.stores {
        store.corrupt("n/a~1.wav", 150_000);
    }
    let content = world.cached();
    for _ in 0..2 {
        let error = read(&content, 140_000, 10).unwrap_err();
        assert_eq!(error.class, ErrorClass::Corrupt);
        assert!(error.to_string().contains("2024/a.wav"), "{error}");
    }
    assert_eq!(content.stats().corrupt, 4);
    // What is right in the same object is still read.
    assert_eq!(read(&content, 0, 60_000).unwrap(), world.audio[..60_000]);
}

#[test]
fn a_truncated_object_is_corrupt() {
    let world = World::with(200_000);
    for row in &mut *world.rows.0.lock() {
        row.key = "n/short".into();
    }
    let short = Bytes::copy_from_slice(&world.audio[..100_000]);
    let sum = Sha256::of(&short);
    for store in &world.stores {
        let meta = ObjectMeta::default();
        let put = store.put("n/short", Body::Bytes(short.clone()), sum, &meta);
        world.runtime.block_on(put).unwrap();
    }
    assert_eq!(read(&world.plain(), 199_000, 10).unwrap_err().class, ErrorClass::Corrupt);
}

#[test]
fn corrupt_here_and_unreachable_there_may_still_succeed_later() {
    let world = World::with(1000);
    world.stores[0].corrupt("n/a~1.wav", 0);
    world.stores[1].set_down(true);
    assert_eq!(read(&world.plain(), 0, 10).unwrap_err().class, ErrorClass::Transient);
}

#[test]
fn a_target_that_hangs_costs_a_share_of_the_time_and_not_the_read() {
    let world = World::with(1000);
    let content =
        world.content(Options { read_timeout: Duration::from_millis(400), ..Options::default() });
    world.stores[0].set_paused(true);
    assert_eq!(read(&content, 0, 1000).unwrap(), world.audio);

    let world = World::with(1000);
    let content =
        world.content(Options { read_timeout: Duration::from_millis(200), ..Options::default() });
    for store in &world.stores {
        store.set_paused(true);
    }
    let begin = Instant::now();
    assert_eq!(read(&content, 0, 10).unwrap_err().class, ErrorClass::Transient);
    assert!(begin.elapsed() < Duration::from_secs(2));
    // Known to be down: at once, and nobody is asked.
    let asked = world.gets();
    let begin = Instant::now();
    assert_eq!(read(&content, 0, 10).unwrap_err().class, ErrorClass::Transient);
    assert!(begin.elapsed() < Duration::from_millis(150));
    assert_eq!(world.gets(), asked);
}

/// Web pages try again and again.
#[test]
fn what_no_target_can_give_at_this_moment_is_refused_without_work() {
    let world = World::with(1_000_000);
    let content = world.plain();
    assert_eq!(read(&content, 0, 10).unwrap(), world.audio[..10]);
    world.stores.iter().for_each(|store| store.set_down(true));
    let refused = |from| read(&content, from, 10).unwrap_err();
    let detail = refused(500_000).detail;
    assert!(!detail.contains("a moment ago"), "{detail}");
    let asked = content.stats();
    let detail = refused(500_000).detail;
    for store in &world.stores {
        let name = format!("{:?} did not answer a moment ago", store.name());
        assert!(detail.contains(&name), "{detail}");
    }
    let now = content.stats();
    assert_eq!((now.requests, now.failed), (asked.requests, asked.failed + 1));
    // What is in memory needs no target.
    assert_eq!(read(&content, 0, 10).unwrap(), world.audio[..10]);
    // One that is asked again answers for all.
    world.stores[1].set_down(false);
    world.clock.advance(limits::BREAKER_REST);
    assert_eq!(read(&content, 500_000, 10).unwrap(), world.audio[500_000..500_010]);
}

#[test]
fn a_target_that_is_back_is_used_again() {
    let world = World::with(1000);
    let content = world.plain();
    for store in &world.stores {
        store.set_down(true);
    }
    read(&content, 0, 10).unwrap_err();
    for store in &world.stores {
        store.set_down(false);
    }
    assert_eq!(read(&content, 0, 10).unwrap_err().class, ErrorClass::Transient);
    world.clock.advance(limits::BREAKER_REST);
    assert_eq!(read(&content, 0, 1000).unwrap(), world.audio);
}

/// The engine asks more often than readers do, above all at a start.
#[test]
fn regression_a_target_that_answered_the_engine_is_read_from_at_once() {
    let world = World::with(1000);
    let content = world.plain();
    world.stores.iter().for_each(|store| store.set_down(true));
    read(&content, 0, 10).unwrap_err();
    world.stores.iter().for_each(|store| store.set_down(false));
    content.target_answers(world.stores[0].name());
    assert_eq!(read(&content, 0, 1000).unwrap(), world.audio);
}

#[test]
fn the_disk_cache_serves_after_a_restart_without_a_target() {
    let world = World::with(1_000_000);
    let content = world.cached();
    assert_eq!(read(&content, 0, 1_000_000).unwrap(), world.audio);
    // Chunks are written behind the answer.
    let sizes = [65_536, 262_144, 262_144, 262_144, 151_552];
    let all: u64 = sizes.iter().map(|n: &u64| n.next_multiple_of(4096)).sum();
    while content.stats().cache_bytes < all {
        std::thread::yield_now();
    }
    drop(content);
    for store in &world.stores {
        store.set_down(true);
    }
    let content = world.cached();
    assert_eq!(read(&content, 0, 1_000_000).unwrap(), world.audio);
    assert_eq!(content.stats().disk_hits, 5);
}

#[test]
fn a_new_generation_is_read_as_soon_as_it_is_current() {
    let world = World::with(1000);
    let content = world.plain();
    assert_eq!(read(&content, 0, 1000).unwrap(), world.audio);
    let newer = noise(2, 700);
    world.archive(1, 2, &newer);
    assert_eq!(read(&content, 0, 1000).unwrap(), newer);
}

#[test]
fn without_a_verified_object_nothing_is_read() {
    let world = World::with(1000);
    let nobody = world.plain().read(NodeId(99), path(), 0, 10).unwrap_err();
    assert_eq!(nobody.class, ErrorClass::Permanent);
    for row in &mut *world.rows.0.lock() {
        row.state = ObjectState::Assigned;
    }
    let error = read(&world.plain(), 0, 10).unwrap_err();
    assert_eq!((error.class, world.gets()), (ErrorClass::Permanent, 0));
}

#[test]
fn all_of_it_comes_in_order_and_a_full_disk_stops_it() {
    let world = World::with(3_000_001);
    let content = world.cached();
    let mut got = Vec::new();
    content
        .fetch_all(ID, path(), &mut |offset, bytes| {
            assert_eq!(offset, got.len() as u64);
            got.extend_from_slice(bytes);
            Ok(())
        })
        .unwrap();
    assert_eq!(got, world.audio);
    let full = &mut |_, _: &[u8]| Err(io::ErrorKind::StorageFull.into());
    let error = content.fetch_all(ID, path(), full).unwrap_err();
    assert_eq!(error.class, ErrorClass::Transient);
    assert_eq!(content.stats().cache_bytes, 0);
}

#[test]
fn a_runtime_that_ends_leaves_nobody_waiting() {
    let world = World::with(1000);
    let content = world.plain();
    for store in &world.stores {
        store.set_paused(true);
    }
    let reader = std::thread::spawn(move || read(&content, 0, 10));
    while world.gets() == 0 {
        std::thread::yield_now();
    }
    let begin = Instant::now();
    world.runtime.shutdown_background();
    assert_eq!(reader.join().unwrap().unwrap_err().class, ErrorClass::Transient);
    assert!(begin.elapsed() < Duration::from_secs(4));
}

#[test]
fn reading_works_from_inside_a_runtime_too() {
    let world = World::with(1000);
    let content = world.plain();
    let other = tokio::runtime::Builder::new_current_thread().build().unwrap();
    assert_eq!(other.block_on(async { read(&content, 0, 1000).unwrap() }), world.audio);
}

#[test]
fn bytes_that_are_stored_otherwise_are_put_back_before_they_are_checked() {
    let world = World::with(400_000);
    let stored: Vec<u8> = {
        let mut bytes = world.audio.clone();
        [4, 5, 65_535, 65_536].into_iter().for_each(|at: usize| bytes[at] ^= 0xff);
        bytes
    };
    world.rows.0.lock().truncate(1);
    let key = world.rows.0.lock()[0].key.clone();
    world.stores[0].tamper(&key, Some(&stored));
    let content = world.plain();
    assert_eq!(read(&content, 0, 10).unwrap_err().class, ErrorClass::Corrupt);
    let original = |at: usize, len: usize| (at as u64, world.audio[at..at + len].to_vec());
    // The second place lies in two chunks.
    let patch = Patch::new(vec![original(4, 2), original(65_535, 2)]).unwrap();
    let sha256 = Sha256::of(&stored);
    let encoding = Encoding::Patched(patch);
    world.rows.0.lock()[0].stored = Stored { encoding, size: 400_000, sha256 };
    for content in [world.plain(), world.cached(), world.cached()] {
        for (offset, len) in [(0, 10), (5, 1), (65_530, 10), (65_536, 300_000), (0, 400_000)] {
            let start = usize::try_from(offset).unwrap();
            assert_eq!(read(&content, offset, len).unwrap(), world.audio[start..start + len]);
        }
    }
    // A wrong byte stays one.
    world.stores[0].corrupt(&key, 100);
    assert_eq!(read(&world.plain(), 0, 10).unwrap_err().class, ErrorClass::Corrupt);
}
