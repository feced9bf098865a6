//! Keeps uploads to the timetable.

use super::hash::Pace;
use super::shared::Shared;
use crate::policy::Rate;
use parking_lot::Mutex;
use std::time::Duration;

/// How often one that waits looks whether another rate is in force.
const LOOK: Duration = Duration::from_secs(1);

/// The pace of all uploads together.
#[derive(Debug, Default)]
pub(super) struct Bandwidth(Mutex<Option<(u64, Pace)>>);

impl Bandwidth {
    /// How long to wait before so many bytes may be sent.
    fn pause(&self, limit: Option<u64>, bytes: u64) -> Duration {
        let mut pace = self.0.lock();
        let Some(limit) = limit else {
            *pace = None;
            return Duration::ZERO;
        };
        if pace.as_ref().is_none_or(|(of, _)| *of != limit) {
            *pace = Some((limit, Pace::new(limit)));
        }
        pace.as_mut().map_or(Duration::ZERO, |(_, pace)| pace.after(bytes))
    }
}

impl Shared {
    /// Whether nothing is to be uploaded now but what was asked for or is in danger.
    pub fn uploads_are_off(&self) -> bool {
        self.rules().bandwidth.rate(self.now(), &self.clock.zone()) == Rate::Off
    }

    fn limit(&self) -> Option<u64> {
        self.rules().bandwidth.limit(self.now(), &self.clock.zone())
    }

    /// Waits until so many bytes may be sent. False if the engine stops.
    pub fn keep_pace(&self, bytes: u64) -> bool {
        let mut left = bytes;
        loop {
            let limit = self.limit();
            let mut pause = self.bandwidth.pause(limit, left);
            while !pause.is_zero() && self.limit() == limit {
                let look = pause.min(LOOK);
                if self.stop.wait(look) {
                    return false;
                }
                pause = pause.saturating_sub(look);
            }
            if pause.is_zero() {
                return true;
            }
            // Another rate: what was waited for counts.
            let waited_for = limit.unwrap_or(u64::MAX) as f64 * pause.as_secs_f64();
            left = left.min(waited_for as u64);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_rate_begins_with_a_clean_slate() {
        let bandwidth = Bandwidth::default();
        assert_eq!(bandwidth.pause(None, 1 << 40), Duration::ZERO);
        let slow = bandwidth.pause(Some(1 << 20), 60 << 20);
        assert!(slow > Duration::from_secs(58), "{slow:?}");
        let second = bandwidth.pause(Some(1 << 20), 60 << 20);
        assert!(second > Duration::from_secs(118), "both go through one line: {second:?}");
        let fast = bandwidth.pause(Some(1 << 30), 1 << 20);
        assert!(fast < Duration::from_secs(1), "{fast:?}");
    }
}
