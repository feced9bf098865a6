//! How fast the backlog drains: counted over the last minutes.

use super::error::Result;
use super::shared::Shared;
use crate::clock::Timestamp;
use crate::limits;
use crate::recording::State;
use parking_lot::Mutex;
use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// The share of what is archived by which the backlog must shrink for its end to be told.
const SHRINKS: f64 = 0.02;
/// An end further away is a guess.
const FURTHEST: Duration = Duration::from_secs(365 * 86_400);

/// Files and their bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Amount {
    /// How many files.
    pub files: u64,
    /// How many bytes.
    pub bytes: u64,
}

/// What was archived within a time that ends now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Drain {
    /// The time.
    pub within: Duration,
    /// Archived in it.
    pub archived: Amount,
    /// What waited when it began.
    pub waited: Amount,
}

impl Drain {
    /// How long it goes on, if things go on like this; `None` if the backlog does not shrink.
    pub fn left(&self, waiting: Amount) -> Option<Duration> {
        let left = |archived: u64, waited: u64, waiting: u64| {
            let shrunk = waited.saturating_sub(waiting) as f64;
            let shrinks = shrunk > archived as f64 * SHRINKS;
            shrinks.then(|| waiting as f64 / shrunk * self.within.as_secs_f64())
        };
        let files = left(self.archived.files, self.waited.files, waiting.files)?;
        // Many small ones go first, then few long ones: the longer of the two is believed.
        let bytes = left(self.archived.bytes, self.waited.bytes, waiting.bytes).unwrap_or(files);
        let left = Duration::try_from_secs_f64(files.max(bytes)).ok()?;
        (left <= FURTHEST).then_some(left)
    }
}

#[derive(Clone, Copy, Debug)]
struct Sample {
    at: Timestamp,
    archived: Amount,
    waiting: Amount,
}

/// Counts and samples of them.
#[derive(Debug, Default)]
pub(super) struct Drained {
    files: AtomicU64,
    bytes: AtomicU64,
    samples: Mutex<VecDeque<Sample>>,
}

impl Drained {
    /// A recording was archived.
    pub fn one(&self, bytes: u64) {
        self.files.fetch_add(1, Ordering::Relaxed);
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    /// What was archived since the start.
    pub fn archived(&self) -> Amount {
        Amount {
            files: self.files.load(Ordering::Relaxed),
            bytes: self.bytes.load(Ordering::Relaxed),
        }
    }

    fn is_due(&self, now: Timestamp) -> bool {
        let samples = self.samples.lock();
        // A clock that was set back makes what was before worthless.
        samples.back().is_none_or(|s| s.at > now || s.at.age_at(now) >= limits::DRAIN_SAMPLE_EVERY)
    }

    fn sample(&self, now: Timestamp, waiting: Amount) {
        let mut samples = self.samples.lock();
        if samples.back().is_some_and(|s| s.at > now) {
            samples.clear();
        }
        while samples.len() >= limits::DRAIN_SAMPLES {
            samples.pop_front();
        }
        samples.push_back(Sample { at: now, archived: self.archived(), waiting });
    }

    /// What went in the last minutes, from where something began to go; `None` if it is too early
    /// to tell.
    pub fn drain(&self, now: Timestamp) -> Option<Drain> {
        let samples = self.samples.lock();
        let longest = limits::DRAIN_SAMPLE_EVERY * limits::DRAIN_SAMPLES as u32;
        let mut recent = samples.iter().filter(|s| s.at <= now && s.at.age_at(now) <= longest);
        let archived = self.archived();
        let mut from = recent.next()?;
        // While the target was away nothing went: that says nothing of the rate now that it is back.
        for next in recent {
            if next.archived.files > from.archived.files || archived.files == from.archived.files {
                break;
            }
            from = next;
        }
        let within = from.at.age_at(now);
        (within >= limits::DRAIN_TOO_EARLY).then_some(Drain {
            within,
            archived: Amount {
                files: archived.files.saturating_sub(from.archived.files),
                bytes: archived.bytes.saturating_sub(from.archived.bytes),
            },
            waited: from.waiting,
        })
    }
}

/// Takes a sample, if it is time for one.
pub(super) fn look(shared: &Shared, now: Timestamp) -> Result<()> {
    if shared.drained.is_due(now) {
        let counts = shared.catalog.counts()?;
        let waiting = counts.states.iter().find(|(state, ..)| *state == State::Closed);
        let waiting = waiting.map(|(_, files, bytes)| Amount { files: *files, bytes: *bytes });
        shared.drained.sample(now, waiting.unwrap_or_default());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(secs: u64) -> Timestamp {
        Timestamp::default().plus(Duration::from_secs(secs))
    }

    fn amount(files: u64) -> Amount {
        Amount { files, bytes: files * 1000 }
    }

    #[test]
    fn the_rate_is_that_of_the_last_minutes() {
        let drained = Drained::default();
        let mut waiting = 100_000;
        for secs in 0..3600 {
            if drained.is_due(at(secs)) {
                drained.sample(at(secs), amount(waiting));
            }
            // Ten a second go, and then twenty; five come.
            let archived = if secs < 1800 { 10 } else { 20 };
            (0..archived).for_each(|_| drained.one(1000));
            waiting = waiting + 5 - archived;
        }
        assert!(drained.samples.lock().len() <= limits::DRAIN_SAMPLES);
        let drain = drained.drain(at(3600)).expect("an hour is enough");
        assert!(drain.within <= Duration::from_secs(330), "{drain:?}");
        let rate = drain.archived.files as f64 / drain.within.as_secs_f64();
        assert!((19.9..20.1).contains(&rate), "{rate}");
        // 15 less a second.
        let left = drain.left(amount(waiting)).expect("it shrinks").as_secs();
        assert!(left.abs_diff(waiting / 15) <= 1, "{left}");
    }

    #[test]
    fn a_backlog_that_does_not_shrink_has_no_end() {
        let drain =
            Drain { within: Duration::from_secs(300), archived: amount(3000), waited: amount(500) };
        assert_eq!(drain.left(amount(500)), None);
        assert_eq!(drain.left(amount(9000)), None);
        assert_eq!(drain.left(amount(0)), Some(Duration::ZERO));
        let nothing = Drain { archived: amount(0), ..drain };
        assert_eq!(nothing.left(amount(500)), None);
    }

    #[test]
    fn an_outage_does_not_slow_the_rate_that_is_told() {
        let drained = Drained::default();
        for at_secs in (0..=240).step_by(30) {
            drained.sample(at(at_secs), amount(1000 + at_secs));
        }
        let nothing = drained.drain(at(240)).expect("four minutes");
        assert_eq!((nothing.archived, nothing.within.as_secs()), (amount(0), 240));
        // It is back, 245 s after the first look.
        (0..500).for_each(|_| drained.one(1000));
        let drain = drained.drain(at(250)).expect("ten seconds");
        assert_eq!((drain.archived, drain.within.as_secs()), (amount(500), 10));
        assert_eq!(drain.left(amount(740)).map(|left| left.as_secs()), Some(14));
    }

    #[test]
    fn too_early_and_a_clock_set_back_tell_nothing() {
        let drained = Drained::default();
        assert_eq!(drained.drain(at(0)), None);
        drained.sample(at(1000), amount(10));
        assert_eq!(drained.drain(at(1001)), None);
        assert_eq!(drained.drain(at(10)), None);
        assert!(drained.is_due(at(10)));
        drained.sample(at(10), amount(10));
        assert_eq!(drained.samples.lock().len(), 1);
    }
}
