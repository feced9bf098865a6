//! How many requests each way of reading costs.

use super::*;
use crate::recording::ChunkHashes;
use crate::store::{Capabilities, Head, Listed, Result, StoreError, StoreErrorKind};
use async_trait::async_trait;
use std::sync::atomic::AtomicBool;
use tokio::sync::mpsc::Sender;

/// FreePBX's player: open, seek, read 8 KiB, close, all through a file.
#[test]
fn a_player_that_opens_for_every_8_kib_costs_a_request_now_and_then() {
    let world = World::with(10_000_000);
    let content = world.plain();
    for offset in (0..10_000_000usize).step_by(8192) {
        let got = read(&content, offset as u64, 8192).unwrap();
        assert_eq!(got, world.audio[offset..(offset + 8192).min(10_000_000)]);
    }
    let stats = content.stats();
    assert_eq!(stats.fetched, 40, "each chunk once, and the head");
    assert!(world.gets() <= 20, "{} requests for 1,221 reads", world.gets());
    // Once more from the beginning: all of it is still in memory.
    for offset in (0..10_000_000u64).step_by(8192) {
        read(&content, offset, 8192).unwrap();
    }
    assert_eq!(content.stats().fetched, 40);
}

#[test]
fn head_tail_head_is_two_requests() {
    let len = 60_000_000u64;
    let world = World::with(len);
    let content = world.plain();
    for offset in [0, len - 4096, len - 128, 0, 4096, 44] {
        read(&content, offset, 4096).unwrap();
    }
    assert_eq!((world.gets(), content.stats().ahead), (2, 0));
    // Who goes on reads what is behind the head: in the first chunk.
    for offset in [16_384, 20_480, 0] {
        read(&content, offset, 4096).unwrap();
    }
    assert_eq!((world.gets(), content.stats().ahead), (3, 0));
}

/// `soxi` of a directory of long recordings: each is another, here another generation.
#[test]
fn who_looks_at_one_end_after_another_waits_once_for_each() {
    let len = 1_000_000u64;
    let world = World::with(len);
    let content = world.plain();
    let mut generation = 1;
    let mut next = || {
        generation += 1;
        world.archive(0, generation, &noise(generation.into(), len));
    };
    let head = || drop(read(&content, 0, 16_384).unwrap());
    let end = || drop(read(&content, len - 4096, 4096).unwrap());
    let ahead = || content.stats().ahead;
    head();
    end();
    assert_eq!((world.gets(), ahead()), (2, 0), "nobody could know of the first");
    for n in 1..=10 {
        next();
        head();
        assert_eq!(ahead(), n, "its end is on its way with the head");
        end();
        assert_eq!(world.gets(), 2 * (n + 1), "not asked for twice");
    }
    // A list of recordings: most who read the beginning want no more.
    let most = u64::from(limits::ENDS_AHEAD_MAX);
    for _ in 0..20 {
        next();
        head();
    }
    assert_eq!(ahead(), 10 + most);
    // It begins anew with one who looks at an end, and is over with one who listens.
    end();
    next();
    head();
    assert_eq!(ahead(), 11 + most);
    drop(read(&content, 16_384, 16_384).unwrap());
    let before = ahead();
    next();
    head();
    assert_eq!(ahead(), before);
}

#[test]
fn the_first_bytes_are_fetched_and_checked_alone() {
    let world = World::with(60_000_000);
    let whole = world.stores[0].bytes("n/a~1.wav").unwrap();
    // As much as the kernel asks for when a program reads 8 KiB.
    let first = |content: &Content| read(content, 0, 16_384);
    let mut bad = whole.to_vec();
    bad[HEAD_BYTES as usize] ^= 1;
    world.stores.iter().for_each(|s| s.tamper("n/a~1.wav", Some(&bad)));
    // What is wrong behind them is not looked at,
    let content = world.plain();
    assert_eq!(first(&content).unwrap(), whole[..16_384]);
    assert_eq!((world.gets(), content.stats().fetched), (1, 1));
    // until it is asked for.
    assert_eq!(read(&content, 16_384, 4096).unwrap_err().class, ErrorClass::Corrupt);
    bad[HEAD_BYTES as usize - 1] ^= 1;
    world.stores[0].tamper("n/a~1.wav", Some(&bad));
    world.stores[1].tamper("n/a~1.wav", Some(&whole));
    let content = world.plain();
    assert_eq!(first(&content).unwrap(), whole[..16_384], "from the other target");
    assert_eq!(content.stats().corrupt, 1);
    world.stores[1].tamper("n/a~1.wav", Some(&bad));
    assert_eq!(first(&world.plain()).unwrap_err().class, ErrorClass::Corrupt);
    // Hashed by an earlier version: the first chunk, as ever.
    world.stores.iter().for_each(|s| s.tamper("n/a~1.wav", Some(&whole)));
    for row in &mut *world.rows.0.lock() {
        row.chunks.0.pop().unwrap();
    }
    let (content, before) = (world.plain(), world.gets());
    assert_eq!(first(&content).unwrap(), whole[..16_384]);
    assert_eq!(read(&content, 16_384, 4096).unwrap(), whole[16_384..20_480]);
    assert_eq!(world.gets(), before + 1);
}

#[test]
fn a_short_recording_is_one_request() {
    let len = limits::SMALL_FILE_BYTES;
    let world = World::with(len);
    // A page at a time; head and tail, as `soxi`; as `cat`.
    let pages: Vec<_> = (0..len).step_by(4096).map(|at| (at, 4096)).collect();
    let (ends, halves) =
        (vec![(0, 16_384), (len - 4096, 4096)], vec![(0, 131_072), (131_072, 131_072)]);
    for (reads, fetched) in [(pages, 3), (ends, 3), (halves, 2)] {
        let (content, before) = (world.plain(), world.gets());
        for (at, size) in reads {
            let start = usize::try_from(at).unwrap();
            assert_eq!(read(&content, at, size).unwrap(), world.audio[start..start + size]);
        }
        assert_eq!((world.gets() - before, content.stats().fetched), (1, fetched));
    }
}

/// On a slow line its head is there long before the rest.
#[test]
fn the_head_of_a_short_recording_does_not_wait_for_the_rest() {
    let world = World::with(limits::SMALL_FILE_BYTES);
    let mut slow = BreaksOff::new(world.stores[0].clone(), 20_000, false);
    let go_on = Arc::new(tokio::sync::Notify::new());
    slow.go_on = Some(go_on.clone());
    let content = world.read_from(vec![Arc::new(slow)]);
    assert_eq!(read(&content, 0, 16_384).unwrap(), world.audio[..16_384]);
    assert_eq!(content.stats().fetched, 1, "the head alone");
    go_on.notify_one();
    assert_eq!(read(&content, 16_384, 50_000).unwrap(), world.audio[16_384..66_384]);
    assert_eq!(world.gets(), 1);
    // What breaks off behind it comes otherwise.
    let content =
        world.read_from(vec![Arc::new(BreaksOff::new(world.stores[0].clone(), 20_000, false))]);
    assert_eq!(read(&content, 0, 16_384).unwrap(), world.audio[..16_384]);
    assert_eq!(read(&content, 70_000, 50_000).unwrap(), world.audio[70_000..120_000]);
}

/// The kernel splits what a program reads, and several threads take up the parts.
#[test]
fn regression_a_short_recording_is_one_request_in_whatever_order_it_is_read() {
    let world = World::with(200 << 10);
    let whole = world.audio.len();
    for step in [20 << 10, 50 << 10, 128 << 10, 199 << 10] {
        let parts: Vec<usize> = (0..whole).step_by(step).collect();
        for round in 0..parts.len() * 4 {
            let (content, before) = (world.plain(), world.gets());
            let mut order = parts.clone();
            order.rotate_left(round % parts.len());
            if round % 2 == 1 {
                order.reverse();
            }
            let part = |at: usize| {
                let end = (at + step).min(whole);
                let got = read(&content, at as u64, end - at).unwrap();
                assert_eq!(got, world.audio[at..end], "{order:?}");
            };
            if round < parts.len() * 2 {
                order.iter().for_each(|at| part(*at));
            } else {
                let all = std::sync::Barrier::new(order.len());
                std::thread::scope(|scope| {
                    for at in &order {
                        scope.spawn(|| {
                            all.wait();
                            part(*at);
                        });
                    }
                });
            }
            assert_eq!(world.gets() - before, 1, "{order:?} of {step} bytes each");
            assert_eq!(content.stats().fetched, 2, "each chunk once");
        }
    }
}

#[test]
fn who_seeks_costs_a_chunk_each_time_and_nothing_ahead() {
    let world = World::with(60_000_000);
    let content = world.plain();
    let mut rng = fastrand::Rng::with_seed(5);
    for _ in 0..50 {
        read(&content, rng.u64(0..59_000_000), 4096).unwrap();
    }
    let stats = content.stats();
    assert_eq!(stats.ahead, 0);
    assert!(stats.fetched <= 55, "{}", stats.fetched);
}

/// `cat`: the kernel asks for 128 KiB each.
#[test]
fn a_long_recording_read_through_comes_in_large_requests_and_each_chunk_once() {
    let world = World::with(40_000_000);
    let content = world.plain();
    for offset in (0..40_000_000u64).step_by(131_072) {
        read(&content, offset, 131_072).unwrap();
    }
    let stats = content.stats();
    assert_eq!(stats.fetched, 154);
    assert!(world.gets() <= 60, "{} requests", world.gets());
}

#[test]
fn what_is_in_memory_is_had_without_waiting_and_keeps_the_window_moving() {
    let world = World::with(4_000_000);
    let content = world.plain();
    let ready = |at: u64, len| content.ready(ID, Generation(1), path(), at, len);
    assert_eq!((ready(0, 8192), world.gets()), (None, 0), "it asks nobody");
    read(&content, 0, 16_384).unwrap();
    assert_eq!(ready(4096, 8192).unwrap(), world.audio[4096..12_288], "the head");
    assert_eq!(ready(16_384, 4096), None);
    let mut waited = 0;
    for at in (0..4_000_000u64).step_by(131_072) {
        let start = usize::try_from(at).unwrap();
        let want = &world.audio[start..(start + 131_072).min(world.audio.len())];
        let got = ready(at, 131_072).unwrap_or_else(|| {
            waited += 1;
            read(&content, at, 131_072).unwrap()
        });
        assert_eq!(got, want, "at {at}");
    }
    assert!(waited >= 1);
    assert_eq!((ready(4_000_000, 1), ready(u64::MAX, usize::MAX)), (None, None));
    assert_eq!(content.stats().fetched, 18, "each chunk once, and the head");
}

#[test]
fn a_recall_comes_in_large_requests() {
    let world = World::with(40_000_000);
    let content = world.plain();
    content.fetch_all(ID, path(), &mut |_, _| Ok(())).unwrap();
    assert_eq!(content.stats().fetched, 154);
    assert!(world.gets() <= 60, "{} requests", world.gets());
}

/// A target whose long answers break off, or have one byte wrong in their last chunk.
#[derive(Debug)]
pub(super) struct BreaksOff {
    inner: Arc<MemoryStore>,
    after: usize,
    wrong: AtomicBool,
    /// Instead of breaking off it waits, and then goes on.
    go_on: Option<Arc<tokio::sync::Notify>>,
}

impl BreaksOff {
    pub fn new(inner: Arc<MemoryStore>, after: usize, wrong: bool) -> BreaksOff {
        BreaksOff { inner, after, wrong: AtomicBool::new(wrong), go_on: None }
    }
}

#[async_trait]
impl Store for BreaksOff {
    fn name(&self) -> &str {
        self.inner.name()
    }
    fn prefix(&self) -> &str {
        self.inner.prefix()
    }
    fn url(&self, key: &str) -> String {
        self.inner.url(key)
    }
    async fn probe(&self, nonce: &str) -> Result<Capabilities> {
        self.inner.probe(nonce).await
    }
    async fn put(&self, key: &str, body: Body, sum: Sha256, meta: &ObjectMeta) -> Result<()> {
        self.inner.put(key, body, sum, meta).await
    }
    async fn head(&self, key: &str) -> Result<Head> {
        self.inner.head(key).await
    }
    async fn get(&self, key: &str, range: Range<u64>) -> Result<Bytes> {
        self.inner.get(key, range).await
    }
    async fn get_into(&self, key: &str, range: Range<u64>, parts: Sender<Bytes>) -> Result<()> {
        let mut bytes = self.get(key, range).await?.to_vec();
        if let Some(go_on) = &self.go_on {
            let rest = bytes.split_off(self.after);
            let _unheard = parts.send(bytes.into()).await;
            go_on.notified().await;
            let _unheard = parts.send(rest.into()).await;
            return Ok(());
        }
        if self.wrong.load(Ordering::Relaxed) {
            *bytes.last_mut().unwrap() ^= 1;
        } else {
            bytes.truncate(self.after);
        }
        for part in bytes.chunks(10_000) {
            let _unheard = parts.send(Bytes::copy_from_slice(part)).await;
        }
        if self.wrong.load(Ordering::Relaxed) {
            return Ok(());
        }
        let kind = StoreErrorKind::Unreachable;
        Err(StoreError::new(kind, self.name(), "get", key, "the answer broke off"))
    }
    async fn list(&self, prefix: &str, after: &str) -> Result<Vec<Listed>> {
        self.inner.list(prefix, after).await
    }
    async fn delete(&self, key: &str) -> Result<()> {
        self.inner.delete(key).await
    }
    async fn abort_orphans(&self, node: &str) -> Result<usize> {
        self.inner.abort_orphans(node).await
    }
}

#[test]
fn an_answer_that_breaks_off_costs_a_request_for_each_chunk_that_is_missing() {
    for (after, wrong) in [(0, false), (100_000, false), (400_000, false), (0, true)] {
        let world = World::with(700_000);
        let inner = world.stores[0].clone();
        let breaks = BreaksOff::new(inner, after, wrong);
        let stores: Vec<Arc<dyn Store>> = vec![Arc::new(breaks), world.stores[1].clone()];
        let content = world.read_from(stores);
        assert_eq!(read(&content, 0, 700_000).unwrap(), world.audio, "{after} {wrong}");
        let second = world.stores[1].calls(Operation::Get);
        assert_eq!(second, u64::from(wrong), "the copy that was wrong is not asked again");
        assert_eq!(content.stats().corrupt, u64::from(wrong));
    }
}

/// A thousand flips in the bucket and in the cache.
#[test]
fn a_flipped_bit_is_never_served() {
    let world = World::with(3_000_000);
    let chunks = ChunkHashes(world.rows.0.lock()[0].chunks.0.clone());
    let mut rng = fastrand::Rng::with_seed(9);
    let whole = world.stores[0].bytes("n/a~1.wav").unwrap();
    let (mut refused, mut healed) = (0, 0);
    for round in 0..1000 {
        let at = rng.usize(0..3_000_000);
        let mut bad = whole.to_vec();
        bad[at] ^= 1 << rng.u8(0..8);
        let content = world.cached();
        let index = chunk_at(at as u64);
        let range = chunk_range(index, 3_000_000);
        // Short, so that nothing is fetched ahead; behind the head, if that is right.
        let behind = index == 0 && at as u64 >= HEAD_BYTES;
        let (start, len) = (if behind { HEAD_BYTES } else { range.start }, 4096);
        if round % 2 == 0 {
            let content = world.plain();
            world.stores.iter().for_each(|s| s.tamper("n/a~1.wav", Some(&bad)));
            let class = read(&content, start, len).map(|b| b.len()).map_err(|e| e.class);
            assert_eq!(class, Err(ErrorClass::Corrupt));
            refused += 1;
            world.stores.iter().for_each(|s| s.tamper("n/a~1.wav", Some(&whole)));
        } else {
            let put = |sum: &Sha256, bytes: &[u8]| {
                let file = world.dir.path().join(&sum.to_string()[..2]).join(sum.to_string());
                std::fs::create_dir_all(file.parent().unwrap()).unwrap();
                std::fs::write(&file, bytes).unwrap();
            };
            put(chunks.get(index).unwrap(), &bad[range.start as usize..range.end as usize]);
            if index == 0 {
                put(chunks.head(3_000_000).unwrap(), &bad[..HEAD_BYTES as usize]);
            }
            assert_eq!(read(&content, start, len).unwrap(), whole[start as usize..][..len]);
            // The write behind an earlier round may have been the last.
            healed += u64::from(content.stats().disk_hits == 0);
        }
    }
    assert!(refused == 500 && healed > 400, "{refused} {healed}");
}
