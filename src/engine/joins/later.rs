//! What is looked at again after a while.

use crate::clock::Timestamp;
use crate::engine::backoff;
use crate::limits;
use std::collections::HashMap;
use std::hash::Hash;
use std::time::Duration;

/// Names of things, each with the time when it is looked at again. What something was heard of goes
/// first. Bounded: the others have to make room for it, and are seen by the sweep.
#[derive(Debug)]
pub(super) struct Later<K>(HashMap<K, Entry>);

#[derive(Clone, Copy, Debug)]
struct Entry {
    times: u32,
    set: Timestamp,
    until: Timestamp,
    failed: bool,
    /// Something happened to it since the start.
    heard: bool,
}

impl<K> Default for Later<K> {
    fn default() -> Later<K> {
        Later(HashMap::new())
    }
}

impl<K: Hash + Eq + Clone> Later<K> {
    /// It is not ready: it is looked at after half a minute, then after twice as long, up to an hour.
    /// `heard`: something happened to it, and it may be ready soon.
    pub fn not_ready(&mut self, key: &K, now: Timestamp, heard: bool) {
        let times = if heard { 0 } else { self.times(key, false) };
        let wait = limits::JOIN_LOOK_AGAIN.saturating_mul(2u32.saturating_pow(times.min(10)));
        let wait = wait.min(limits::JOIN_LOOK_AGAIN_MAX);
        self.put(key, Entry { heard, ..Entry::new(times + 1, now, wait) });
    }

    /// It is looked at in the next round.
    pub fn soon(&mut self, key: &K, now: Timestamp) {
        self.put(key, Entry { heard: true, ..Entry::new(0, now, Duration::ZERO) });
    }

    /// It failed; `wait`: not to be tried for so long.
    pub fn failed(&mut self, key: &K, now: Timestamp, wait: Option<Duration>) {
        let times = self.times(key, true) + 1;
        let wait = wait.unwrap_or_else(|| backoff::after(times));
        self.put(key, Entry { failed: true, ..Entry::new(times, now, wait) });
    }

    fn times(&self, key: &K, failed: bool) -> u32 {
        self.0.get(key).filter(|entry| entry.failed == failed).map_or(0, |entry| entry.times)
    }

    fn put(&mut self, key: &K, mut entry: Entry) {
        match self.0.get(key) {
            Some(before) => entry.heard |= before.heard,
            None if self.0.len() >= limits::JOIN_LATER_MAX => {
                let gives_way = |(_, other): &(&K, &Entry)| !other.heard && !other.failed;
                let other = self.0.iter().find(gives_way).filter(|_| entry.heard);
                let Some(other) = other.map(|(other, _)| other.clone()) else { return };
                self.0.remove(&other);
            }
            None => {}
        }
        self.0.insert(key.clone(), entry);
    }

    /// It failed a moment ago: nothing but time makes that better.
    pub fn is_put_off(&self, key: &K, now: Timestamp) -> bool {
        self.0.get(key).is_some_and(|entry| entry.failed && !entry.is_over(now))
    }

    /// Nothing is to be done about it any more.
    pub fn done(&mut self, key: &K) {
        self.0.remove(key);
    }

    /// Some of those whose time has come: those first to which something happened, and that were looked
    /// at least often, so that a new call does not wait for all that are older.
    pub fn due(&self, now: Timestamp, limit: usize) -> Vec<K> {
        let mut due: Vec<_> = self.0.iter().filter(|(_, entry)| entry.is_over(now)).collect();
        if due.len() > limit {
            let rank = |(_, entry): &(&K, &Entry)| (!entry.heard, entry.times, entry.until);
            due.select_nth_unstable_by_key(limit, rank);
        }
        due.into_iter().take(limit).map(|(key, _)| key.clone()).collect()
    }

    /// How many are not ready.
    pub fn waiting(&self) -> usize {
        self.0.len() - self.failing()
    }

    /// How many failed.
    pub fn failing(&self) -> usize {
        self.0.values().filter(|entry| entry.failed).count()
    }
}

impl Entry {
    fn new(times: u32, now: Timestamp, wait: Duration) -> Entry {
        Entry { times, set: now, until: now.plus(wait), failed: false, heard: false }
    }

    /// Also if the clock was moved back.
    fn is_over(&self, now: Timestamp) -> bool {
        self.until <= now || self.set > now
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_waits_is_looked_at_again_and_what_failed_is_left_alone() {
        let start = Timestamp::from_parts(1_000_000, 0);
        let mut later = Later::default();
        later.not_ready(&1, start, false);
        later.failed(&2, start, Some(Duration::from_secs(86_400)));
        assert_eq!((later.waiting(), later.failing()), (1, 1));
        assert!(!later.is_put_off(&1, start) && later.is_put_off(&2, start));
        assert_eq!(later.due(start, 10), [0; 0]);
        let minute = start.plus(Duration::from_secs(60));
        assert_eq!(later.due(minute, 10), [1]);
        later.not_ready(&1, minute, false);
        assert_eq!(later.due(minute.plus(limits::JOIN_LOOK_AGAIN), 10), [0; 0], "twice as long");
        let before = Timestamp::from_parts(5, 0);
        assert!(!later.is_put_off(&2, before), "the clock was moved back");
        let day = start.plus(Duration::from_secs(86_400));
        assert_eq!(later.due(day, 1).len(), 1);
        later.done(&1);
        later.done(&2);
        assert_eq!(later.due(day, 10), [0; 0]);
        later.soon(&3, day);
        assert_eq!(later.due(day, 10), [3]);
        later.done(&3);
        assert_eq!(later.due(day, 10), [0; 0]);
    }

    #[test]
    fn regression_what_happens_to_a_call_does_not_put_its_join_off() {
        let start = Timestamp::from_parts(1_000_000, 0);
        let mut later = Later::default();
        (0..9).for_each(|_| later.not_ready(&1, start, true));
        assert_eq!(later.due(start.plus(limits::JOIN_LOOK_AGAIN), 10), [1]);
    }

    #[test]
    fn regression_a_new_call_does_not_wait_for_all_that_are_older() {
        let start = Timestamp::from_parts(1_000_000, 0);
        let mut later = Later::default();
        (1..limits::JOIN_LATER_MAX).for_each(|old| later.not_ready(&old, start, false));
        later.failed(&0, start, None);
        let (new, old) = (limits::JOIN_LATER_MAX, limits::JOIN_LATER_MAX + 1);
        let hour = start.plus(Duration::from_secs(3600));
        later.not_ready(&old, hour, false);
        later.not_ready(&new, hour, true);
        let counts = (later.waiting(), later.failing());
        assert_eq!(counts, (limits::JOIN_LATER_MAX - 1, 1), "what failed makes no room");
        let day = start.plus(Duration::from_secs(86_400));
        assert_eq!(later.due(day, 1), [new]);
        assert!(!later.due(day, usize::MAX).contains(&old), "the sweep sees it");
    }
}
