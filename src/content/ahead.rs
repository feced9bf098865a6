//! Who reads on and who seeks: what is fetched before it is asked for.
//!
//! A recording is watched, not a handle: FreePBX's player opens, reads 8 KiB and closes, 1,200
//! times in a row, and is a sequential reader all the same.

use crate::limits;
use crate::recording::{
    CHUNK_BYTES, FIRST_CHUNK_BYTES, Generation, HEAD_BYTES, NodeId, chunk_at, chunk_range,
};
use parking_lot::Mutex;
use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// One who reads a recording, as far as can be told from the positions.
#[derive(Clone, Copy, Debug)]
struct Track {
    /// End of what was read furthest.
    next: u64,
    /// Bytes read in a row.
    run: u64,
    /// First chunk that was neither read nor asked for.
    asked: u64,
    /// When he began.
    begun: Instant,
}

impl Track {
    /// Who has come so far so quickly wants all of it as quickly.
    fn is_fast(&self, now: Instant) -> bool {
        let since = now.saturating_duration_since(self.begun).as_secs_f64();
        self.run >= limits::STREAM_RUN_BYTES && self.run as f64 >= limits::STREAM_RATE * since
    }

    /// Who goes on from the beginning with this read, quicker than one who listens.
    fn goes_on(&self, range: &Range<u64>, now: Instant) -> bool {
        let since = now.saturating_duration_since(self.begun).as_secs_f64();
        self.run == range.end && range.start > 0 && self.run as f64 >= limits::READ_ON_RATE * since
    }

    /// Who begins with so much at once means to have all of it.
    fn begins_with_much(&self, range: &Range<u64>) -> bool {
        range.start == 0 && self.run == range.end && self.run >= limits::LARGE_READ_BYTES
    }
}

/// What is to be fetched before it is asked for.
#[derive(Debug)]
pub(super) struct Ahead<R> {
    pub(super) chunks: Range<u64>,
    /// What was given for them.
    pub(super) room: R,
    /// The reader wants all that follows, and quickly.
    pub(super) all: bool,
}

/// Those who read lately, by recording.
#[derive(Debug)]
pub(super) struct Readers {
    known: moka::sync::Cache<(NodeId, Generation), Arc<Mutex<VecDeque<Track>>>>,
    /// Ends that may be fetched with their heads until somebody looks at one again.
    ends: AtomicU8,
}

impl Default for Readers {
    fn default() -> Readers {
        let known = moka::sync::Cache::builder()
            .max_capacity(limits::READERS_WATCHED)
            .time_to_idle(limits::SOURCES_TTL)
            .build();
        Readers { known, ends: AtomicU8::new(0) }
    }
}

impl Readers {
    /// Notes a read of `range` in a recording of `size` bytes. What is to be fetched ahead of it,
    /// if anything: within `most.bytes`, and with what `room` gave for so many chunks.
    pub(super) fn read<R>(
        &self,
        key: (NodeId, Generation),
        range: Range<u64>,
        size: u64,
        most: Most,
        room: impl FnOnce(u64) -> Option<R>,
    ) -> Option<Ahead<R>> {
        let now = Instant::now();
        let tracks = self.known.get_with(key, Arc::default);
        let mut tracks = tracks.lock();
        self.learn(&tracks, &range, size);
        let mut track = take(&mut tracks, &range, now);
        let alone = tracks.is_empty();
        let goes_on = alone && track.goes_on(&range, now);
        let all = track.is_fast(now)
            || most.soon >= limits::STREAM_SOON_BYTES && alone && track.begins_with_much(&range);
        let ahead = wanted(&track, range.end, goes_on, size, most).and_then(|chunks| {
            let room = room(chunks.end - chunks.start)?;
            track.asked = chunks.end;
            Some(Ahead { chunks, room, all })
        });
        tracks.push_back(track);
        ahead
    }

    /// Where one goes who has read the head of a recording and nothing else.
    fn learn(&self, tracks: &VecDeque<Track>, range: &Range<u64>, size: u64) {
        let Some(head) = tracks.front().filter(|_| tracks.len() == 1) else { return };
        let is_head = head.run == head.next && head.next <= HEAD_BYTES;
        if !is_head || range.end <= head.next {
            return;
        }
        if range.start >= chunk_range(chunk_at(size.saturating_sub(1)), size).start {
            let more = |ends: u8| Some((ends + 2).min(limits::ENDS_AHEAD_MAX));
            let _never_fails = self.ends.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more);
        } else {
            self.ends.store(0, Ordering::Relaxed);
        }
    }

    /// Whether who now reads the head of a recording is likely to look at its end next, as those before
    /// him did: `soxi` of a directory.
    pub(super) fn wants_end(&self) -> bool {
        let one_less = |ends: u8| ends.checked_sub(1);
        self.ends.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_less).is_ok()
    }
}

/// How much may be fetched ahead.
#[derive(Clone, Copy, Debug)]
pub(super) struct Most {
    /// Bytes on their way.
    pub(super) bytes: u64,
    /// Bytes that arrive in no time to speak of.
    pub(super) soon: u64,
    /// The chunk that can be added to a request under way.
    pub(super) stream: Option<u64>,
}

/// The track that this read goes on with, or a new one.
fn take(tracks: &mut VecDeque<Track>, range: &Range<u64>, now: Instant) -> Track {
    let near = |t: &Track| range.start.abs_diff(t.next) <= limits::READ_ORDER_SLACK;
    let goes_on = |t: &Track| t.next == range.start;
    let found = tracks.iter().rposition(goes_on).or_else(|| tracks.iter().rposition(near));
    let after = chunk_at(range.end.saturating_sub(1)) + 1;
    let Some(mut track) = found.and_then(|at| tracks.remove(at)) else {
        if tracks.len() >= limits::TRACKS_MAX {
            tracks.pop_front();
        }
        let run = range.end - range.start;
        return Track { next: range.end, run, asked: after, begun: now };
    };
    // The kernel's own read-ahead may come in another order; what was passed over was not read.
    track.run += range.end.saturating_sub(track.next.max(range.start));
    track.next = track.next.max(range.end);
    track.asked = track.asked.max(after);
    track
}

/// The chunks that shall be on their way after a read up to `end`.
fn wanted(track: &Track, end: u64, goes_on: bool, size: u64, most: Most) -> Option<Range<u64>> {
    let Most { bytes: most, soon, stream } = most;
    let step = match stream == Some(track.asked) {
        true => limits::STREAM_STEP_BYTES,
        false => limits::AHEAD_STEP_BYTES,
    };
    let window = if track.run >= limits::LARGE_READ_BYTES && track.run == end {
        // Who begins with so much at once, or has come so far, means to have all of it.
        track.run.saturating_mul(8).max(limits::AHEAD_BYTES_FIRST).max(most / 2).min(most)
    } else if goes_on {
        track.run.saturating_mul(4).max(soon.min(most / 2)).min(most)
    } else if track.run > FIRST_CHUNK_BYTES {
        track.run.saturating_mul(4).min(most)
    } else {
        return None;
    };
    let asked = chunk_range(track.asked, size).start;
    let step = (window / 2).min(step);
    if asked >= size || asked > end.saturating_add(window - step) {
        return None;
    }
    let last = chunk_at(end.saturating_add(window).min(size).checked_sub(1)?);
    (track.asked <= last).then_some(track.asked..last + 1)
}

/// How much may be on its way for one reader: as much as arrives within a second, so that on a slow
/// line nobody waits behind what was fetched ahead.
#[derive(Debug)]
pub(super) struct Pace {
    most: AtomicU64,
    /// Bytes a second that came lately in one answer; 0: not known.
    rate: AtomicU64,
    slowed: Mutex<Option<Instant>>,
}

impl Default for Pace {
    fn default() -> Pace {
        let most = AtomicU64::new(limits::AHEAD_BYTES_FIRST);
        Pace { most, rate: AtomicU64::new(0), slowed: Mutex::new(None) }
    }
}

impl Pace {
    /// Bytes on their way, at most.
    pub(super) fn most(&self) -> u64 {
        self.most.load(Ordering::Relaxed)
    }

    /// Bytes asked for in one request, at most: several requests at a time are faster than one.
    pub(super) fn request(&self) -> u64 {
        (self.most() / 2).clamp(CHUNK_BYTES, limits::FETCH_BYTES_MAX)
    }

    /// Bytes that arrive in the time that one who goes on does not notice.
    pub(super) fn soon(&self) -> u64 {
        (self.rate.load(Ordering::Relaxed) as f64 * limits::AHEAD_SOON.as_secs_f64()) as u64
    }

    /// Something came so long after what is before it in the same answer.
    pub(super) fn followed(&self, after: Duration, bytes: u64) {
        let now = (bytes as f64 / after.as_secs_f64().max(1e-6)) as u64;
        let lately = |rate| Some(if rate == 0 { now } else { rate / 4 * 3 + now / 4 });
        let _never_fails = self.rate.fetch_update(Ordering::Relaxed, Ordering::Relaxed, lately);
    }

    /// Something arrived so long after it was asked for.
    pub(super) fn arrived(&self, took: Duration, bytes: u64) {
        if took > limits::AHEAD_ARRIVES {
            return self.slower(took);
        }
        if took < limits::AHEAD_ARRIVES / 2 {
            let more = |most: u64| Some((most + bytes).min(limits::AHEAD_BYTES_MAX));
            let _never_fails = self.most.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more);
        }
    }

    /// What was asked for at the same time counts once.
    fn slower(&self, took: Duration) {
        let mut slowed = self.slowed.lock();
        if slowed.is_none_or(|at| at.elapsed() > took) {
            *slowed = Some(Instant::now());
            let less = |most: u64| Some((most / 2).max(CHUNK_BYTES));
            let _never_fails = self.most.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIZE: u64 = 60 << 20;
    const MOST: u64 = 8 << 20;

    fn most(bytes: u64) -> Most {
        Most { bytes, soon: 0, stream: None }
    }

    fn read(readers: &Readers, range: Range<u64>) -> Option<Range<u64>> {
        let key = (NodeId(1), Generation(1));
        readers.read(key, range, SIZE, most(MOST), |_| Some(())).map(|ahead| ahead.chunks)
    }

    #[test]
    fn who_seeks_gets_what_he_asks_for() {
        let readers = Readers::default();
        for at in [0, SIZE - 4096, 4096, 8192, 20 << 20, 3 << 20] {
            assert_eq!(read(&readers, at..at + 4096), None, "{at}");
        }
    }

    #[test]
    fn the_window_of_who_reads_on_grows_and_each_chunk_is_asked_for_once() {
        let readers = Readers::default();
        let (mut next, mut largest) = (1, 0);
        for at in (0..SIZE).step_by(8192) {
            let Some(ahead) = read(&readers, at..at + 8192) else { continue };
            assert!(at + 8192 > HEAD_BYTES, "before it was known: {at}");
            assert!(ahead.start == next.max(chunk_at(at + 8191) + 1), "{ahead:?} after {next}");
            next = ahead.end;
            let far = chunk_range(ahead.end - 1, SIZE).end - at;
            assert!(far <= MOST + CHUNK_BYTES + 8192, "{far} ahead");
            largest = largest.max(ahead.end - ahead.start);
        }
        assert_eq!(next, chunk_at(SIZE - 1) + 1);
        assert!(largest >= 16, "{largest} chunks at most");
    }

    /// On a line of 30 ms, 12 MiB on their way are 400 MiB a second.
    #[test]
    fn of_who_reads_all_of_it_much_is_on_its_way_at_any_time() {
        let readers = Readers::default();
        let (key, most) = ((NodeId(1), Generation(1)), limits::AHEAD_BYTES_MAX);
        let (mut asked, mut times) = (0, 0);
        for at in (0..SIZE).step_by(131_072) {
            let end = at + 131_072;
            let ahead = readers.read(key, at..end, SIZE, super::tests::most(most), |_| Some(()));
            if let Some(ahead) = ahead {
                asked = chunk_range(ahead.chunks.end - 1, SIZE).end;
                times += 1;
            }
            assert!(asked >= most / 2, "{asked} after the first read");
            let least = if end < limits::AHEAD_BYTES_FIRST { most / 4 } else { most / 4 * 3 };
            assert!(
                asked >= (end + least - limits::LARGE_READ_BYTES).min(SIZE),
                "{asked} at {end}"
            );
            assert!(asked <= end + most + CHUNK_BYTES, "{asked} at {end}");
        }
        assert!(times <= 20, "asked {times} times");
    }

    /// FreePBX's player, of whom the kernel asks for ever more, on a line where 3 MiB arrive soon.
    #[test]
    fn who_goes_on_quickly_from_the_beginning_has_what_arrives_soon_on_its_way_at_once() {
        let soon = Most { bytes: MOST, soon: 3 << 20, stream: None };
        let ask = |readers: &Readers, range: Range<u64>, most| {
            let key = (NodeId(1), Generation(1));
            Some(readers.read(key, range, SIZE, most, |_| Some(()))?.chunks)
        };
        let readers = Readers::default();
        assert_eq!(ask(&readers, 0..16_384, soon), None, "he may want no more");
        assert_eq!(ask(&readers, 16_384..49_152, soon), Some(1..13));
        let slow = Readers::default();
        assert_eq!(ask(&slow, 0..16_384, most(MOST)), None);
        assert_eq!(ask(&slow, 16_384..49_152, most(MOST)), Some(1..2), "four times what he read");
        // One who has looked at the end seeks; so does one who does not begin at the beginning.
        let seeks = Readers::default();
        for range in [0..16_384, SIZE - 4096..SIZE, 16_384..49_152] {
            assert_eq!(ask(&seeks, range.clone(), soon), None, "{range:?}");
        }
        let middle = Readers::default();
        for range in [1 << 20..(1 << 20) + 16_384, (1 << 20) + 16_384..(1 << 20) + 49_152] {
            assert_eq!(ask(&middle, range.clone(), soon), None, "{range:?}");
        }
    }

    #[test]
    fn who_listens_is_not_quick() {
        let begun = Instant::now();
        let track = Track { next: 49_152, run: 49_152, asked: 1, begun };
        let goes_on = |ms| track.goes_on(&(16_384..49_152), begun + Duration::from_millis(ms));
        // Two seconds of a call in less than a fifth of one.
        assert!(goes_on(150) && !goes_on(200));
        assert!(!track.goes_on(&(0..49_152), begun), "his first read");
    }

    #[test]
    fn how_much_arrives_soon_follows_the_line() {
        let pace = Pace::default();
        assert_eq!(pace.soon(), 0, "not known");
        // 10 Mbit/s...
        pace.followed(Duration::from_millis(200), 250_000);
        assert_eq!(pace.soon(), 125_000);
        // ...and a line of 1 Gbit/s, by and by.
        (0..30).for_each(|_| pace.followed(Duration::from_millis(2), 250_000));
        assert!((12_000_000..12_500_001).contains(&pace.soon()), "{}", pace.soon());
        pace.followed(Duration::ZERO, 250_000);
    }

    #[test]
    fn two_who_read_the_same_recording_are_told_apart() {
        let readers = Readers::default();
        let mut asked = 0;
        for step in 0..40 {
            for begin in [0, 30 << 20] {
                let at = begin + step * 65_536;
                asked += u64::from(read(&readers, at..at + 65_536).is_some());
            }
        }
        assert!(asked >= 6, "{asked}");
    }

    #[test]
    fn without_room_it_is_asked_for_later() {
        let readers = Readers::default();
        let key = (NodeId(1), Generation(1));
        let none = readers.read(key, 0..131_072, SIZE, most(MOST), |_| None::<()>);
        assert!(none.is_none());
        assert_eq!(read(&readers, 131_072..262_144), Some(2..18));
    }

    #[test]
    fn only_who_has_come_far_and_quickly_wants_all_of_it() {
        let (begun, run) = (Instant::now(), limits::STREAM_RUN_BYTES);
        let track = Track { next: run, run, asked: 4, begun };
        let after = |ms| begun + Duration::from_millis(ms);
        assert!(track.is_fast(begun) && track.is_fast(after(200)) && !track.is_fast(after(300)));
        assert!(!Track { run: run - 1, ..track }.is_fast(after(1)));
        assert!(Track { run: 8 * run, ..track }.is_fast(after(1900)));
    }

    #[test]
    fn who_begins_with_much_gets_all_of_it_at_once_where_much_arrives_soon() {
        let quick = Most { soon: limits::STREAM_SOON_BYTES, ..most(MOST) };
        let slow = Most { soon: limits::STREAM_SOON_BYTES - 1, ..most(MOST) };
        let large = limits::LARGE_READ_BYTES;
        let next = |readers: &Readers, range, most| {
            let key = (NodeId(1), Generation(1));
            readers.read(key, range, SIZE, most, |_| Some(())).map(|ahead| ahead.all)
        };
        let first = |range, most| next(&Readers::default(), range, most);
        assert_eq!(first(0..large, quick), Some(true));
        assert_eq!(first(0..large, slow), Some(false));
        assert_eq!(first(0..large - 1, quick), Some(false), "he may want no more");
        let middle = SIZE / 2..SIZE / 2 + large;
        assert_eq!(first(middle, quick), Some(false), "he does not begin");
        let seeks = Readers::default();
        assert_eq!(next(&seeks, SIZE - 4096..SIZE, quick), None);
        assert_eq!(next(&seeks, 0..large, quick), Some(false), "he has read elsewhere before");
    }

    #[test]
    fn a_slow_line_gets_small_steps() {
        let pace = Pace::default();
        for _ in 0..100 {
            pace.arrived(Duration::from_millis(40), CHUNK_BYTES);
        }
        let most = limits::AHEAD_BYTES_MAX;
        assert_eq!((pace.most(), pace.request()), (most, limits::FETCH_BYTES_MAX));
        pace.arrived(Duration::from_secs(2), CHUNK_BYTES);
        pace.arrived(Duration::from_secs(2), CHUNK_BYTES);
        assert_eq!(pace.most(), most / 2);
    }
}
