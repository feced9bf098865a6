//! What a disk cache has, and what goes first: a segmented LRU. A chunk is *cold* when it comes and
//! *hot* when it was read again from the disk; hot ones have four fifths of the room, and cold ones
//! go first. So one who reads through the whole archive throws out the cold only.

use crate::limits;
use crate::recording::Sha256;
use std::collections::{BTreeMap, HashMap};

/// A file takes at least this much of a disk.
pub(super) const BLOCK: u64 = 4096;

#[derive(Clone, Copy, Debug)]
struct Entry {
    size: u64,
    used: i64,
    hot: bool,
}

/// One segment, by last use. What an earlier daemon left is before 0.
#[derive(Debug, Default)]
struct Segment {
    order: BTreeMap<i64, Sha256>,
    bytes: u64,
}

/// The chunks in a cache.
#[derive(Debug, Default)]
pub(super) struct Segments {
    entries: HashMap<Sha256, Entry>,
    hot: Segment,
    cold: Segment,
    next: i64,
}

/// What a hit has made of a chunk.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Moved {
    /// It was cold and is hot.
    pub(super) promoted: bool,
    /// These were hot and are cold.
    pub(super) demoted: Vec<Sha256>,
}

impl Segments {
    /// Bytes in it.
    pub(super) fn bytes(&self) -> u64 {
        self.hot.bytes + self.cold.bytes
    }

    pub(super) fn contains(&self, sum: &Sha256) -> bool {
        self.entries.contains_key(sum)
    }

    /// A new chunk, or one that was found and not known.
    pub(super) fn add(&mut self, sum: Sha256, size: u64) {
        let hot = self.take(sum).is_some_and(|entry| entry.hot);
        self.put_newest(sum, size, hot);
    }

    /// One that an earlier daemon left, used `before` others of the same look.
    pub(super) fn add_old(&mut self, sum: Sha256, size: u64, before: usize, hot: bool) {
        if !self.contains(&sum) {
            let used = -1 - i64::try_from(before).unwrap_or(i64::MAX - 1);
            self.put(sum, Entry { size: cost(size), used, hot });
        }
    }

    /// A chunk was read; the room of the hot ones is that of a cache of `max` bytes.
    pub(super) fn hit(&mut self, sum: Sha256, size: u64, max: u64) -> Moved {
        let Some(entry) = self.take(sum) else {
            // Not looked at since the start.
            self.put_newest(sum, size, false);
            return Moved::default();
        };
        self.put_newest(sum, size, true);
        let mut moved = Moved { promoted: !entry.hot, demoted: Vec::new() };
        while self.hot.bytes > max / 5 * 4 && self.hot.order.len() > 1 {
            let Some((_, oldest)) = self.hot.order.first_key_value() else { break };
            let oldest = *oldest;
            if let Some(entry) = self.take(oldest) {
                self.put_newest(oldest, entry.size, false);
                moved.demoted.push(oldest);
            }
        }
        moved
    }

    /// Takes out what goes first until the rest is within bounds.
    pub(super) fn shrink(&mut self, max: u64) -> Vec<Sha256> {
        let mut surplus = Vec::new();
        while self.bytes() > max || self.entries.len() > limits::CACHE_ENTRIES_MAX {
            let Some(sum) = self.first() else { break };
            self.remove(sum);
            surplus.push(sum);
        }
        surplus
    }

    /// Takes out so many of those that go first.
    pub(super) fn give_up(&mut self, count: usize) -> Vec<Sha256> {
        let mut given = Vec::new();
        while given.len() < count
            && let Some(sum) = self.first()
        {
            self.remove(sum);
            given.push(sum);
        }
        given
    }

    /// The file is gone.
    pub(super) fn remove(&mut self, sum: Sha256) {
        let _was_there = self.take(sum);
    }

    fn first(&self) -> Option<Sha256> {
        let first = self.cold.order.first_key_value();
        first.or_else(|| self.hot.order.first_key_value()).map(|(_, sum)| *sum)
    }

    fn put_newest(&mut self, sum: Sha256, size: u64, hot: bool) {
        let used = self.next;
        self.next += 1;
        self.put(sum, Entry { size: cost(size), used, hot });
    }

    fn segment(&mut self, hot: bool) -> &mut Segment {
        if hot { &mut self.hot } else { &mut self.cold }
    }

    fn put(&mut self, sum: Sha256, entry: Entry) {
        self.entries.insert(sum, entry);
        let segment = self.segment(entry.hot);
        segment.order.insert(entry.used, sum);
        segment.bytes += entry.size;
    }

    fn take(&mut self, sum: Sha256) -> Option<Entry> {
        let entry = self.entries.remove(&sum)?;
        let segment = self.segment(entry.hot);
        segment.order.remove(&entry.used);
        segment.bytes = segment.bytes.saturating_sub(entry.size);
        Some(entry)
    }
}

/// What a file of this length takes.
fn cost(size: u64) -> u64 {
    size.max(1).next_multiple_of(BLOCK)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sum(n: u32) -> Sha256 {
        Sha256::of(&n.to_le_bytes())
    }

    #[test]
    fn what_is_listened_to_outlives_a_tar_of_the_archive() {
        let mut cache = Segments::default();
        let max = 1000 * BLOCK;
        // Two hundred that were read twice, then a hundred thousand read once.
        for n in 0..200 {
            cache.add(sum(n), 1);
            cache.hit(sum(n), 1, max);
        }
        for n in 1000..101_000 {
            cache.add(sum(n), 1);
            cache.shrink(max);
        }
        assert!((0..200).all(|n| cache.contains(&sum(n))));
        assert_eq!(cache.bytes(), max);
    }

    #[test]
    fn hot_ones_do_not_take_all_the_room_and_the_oldest_cool_down() {
        let mut cache = Segments::default();
        let max = 10 * BLOCK;
        let mut demoted = Vec::new();
        for n in 0..10 {
            cache.add(sum(n), 1);
            let moved = cache.hit(sum(n), 1, max);
            assert!(moved.promoted);
            demoted.extend(moved.demoted);
        }
        assert_eq!(demoted, [sum(0), sum(1)]);
        // What is cold goes first, though hot ones are older.
        assert_eq!(cache.give_up(3), [sum(0), sum(1), sum(2)]);
        assert_eq!(cache.bytes(), 7 * BLOCK);
    }
}
