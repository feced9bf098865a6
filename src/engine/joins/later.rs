//! What is looked at again after a while.

use crate::clock::Timestamp;
use crate::engine::backoff;
use crate::limits;
use std::collections::HashMap;
use std::hash::Hash;
use std::time::Duration;

/// Names of things, each with the time when it is looked at again. Bounded: what has no room is
/// seen by the sweep.
#[derive(Debug)]
pub(super) struct Later<K>(HashMap<K, Entry>);

#[derive(Clone, Copy, Debug)]
struct Entry {
    times: u32,
    set: Timestamp,
    until: Timestamp,
    failed: bool,
}

impl<K> Default for Later<K> {
    fn default() -> Later<K> {
        Later(HashMap::new())
    }
}

impl<K: Hash + Eq + Clone> Later<K> {
    /// It is not ready: it is looked at after half a minute, then after twice as long, up to an hour.
    pub fn not_ready(&mut self, key: &K, now: Timestamp) {
        let times = self.times(key, false);
        let wait = limits::JOIN_LOOK_AGAIN.saturating_mul(2u32.saturating_pow(times.min(10)));
        self.put(key, times + 1, now, wait.min(limits::JOIN_LOOK_AGAIN_MAX), false);
    }

    /// It is looked at in the next round.
    pub fn soon(&mut self, key: &K, now: Timestamp) {
        self.put(key, 0, now, Duration::ZERO, false);
    }

    /// It failed; `wait`: not to be tried for so long.
    pub fn failed(&mut self, key: &K, now: Timestamp, wait: Option<Duration>) {
        let times = self.times(key, true) + 1;
        self.put(key, times, now, wait.unwrap_or_else(|| backoff::after(times)), true);
    }

    fn times(&self, key: &K, failed: bool) -> u32 {
        self.0.get(key).filter(|entry| entry.failed == failed).map_or(0, |entry| entry.times)
    }

    fn put(&mut self, key: &K, times: u32, now: Timestamp, wait: Duration, failed: bool) {
        if self.0.len() >= limits::JOIN_LATER_MAX && !self.0.contains_key(key) {
            return;
        }
        let entry = Entry { times, set: now, until: now.plus(wait), failed };
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

    /// Some of those whose time has come.
    pub fn due(&self, now: Timestamp, limit: usize) -> Vec<K> {
        let due = self.0.iter().filter(|(_, entry)| entry.is_over(now));
        due.map(|(key, _)| key.clone()).take(limit).collect()
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
        later.not_ready(&1, start);
        later.failed(&2, start, Some(Duration::from_secs(86_400)));
        assert_eq!((later.waiting(), later.failing()), (1, 1));
        assert!(!later.is_put_off(&1, start) && later.is_put_off(&2, start));
        assert_eq!(later.due(start, 10), [0; 0]);
        let minute = start.plus(Duration::from_secs(60));
        assert_eq!(later.due(minute, 10), [1]);
        later.not_ready(&1, minute);
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
}
