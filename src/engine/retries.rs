//! When something that failed is tried again: less and less often, and it is said once a day.

use crate::clock::Timestamp;
use crate::limits;
use std::time::Duration;

/// Failures in a row of one thing.
#[derive(Debug)]
pub(super) struct Retries {
    failures: u32,
    /// When the next try is.
    again: Timestamp,
    /// Longest wait for it.
    most: Duration,
    /// When it was said that it fails.
    said: Option<Timestamp>,
}

impl Retries {
    /// Waits double from [`limits::AUDIT_ANCHOR_RETRY`] up to `most`.
    pub fn up_to(most: Duration) -> Retries {
        Retries { failures: 0, again: Timestamp::default(), most, said: None }
    }

    /// Whether it is to be tried now. A clock that was ahead keeps nothing waiting longer than `most`.
    pub fn is_due(&self, now: Timestamp) -> bool {
        self.failures == 0 || self.again <= now || now.plus(self.most) < self.again
    }

    /// It did not fail.
    pub fn worked(&mut self) {
        (self.failures, self.said) = (0, None);
    }

    /// It failed; tells whether to say so.
    pub fn failed(&mut self, now: Timestamp) -> bool {
        let doubled = 2_u32.saturating_pow(self.failures.min(20));
        let wait = limits::AUDIT_ANCHOR_RETRY.saturating_mul(doubled).min(self.most);
        (self.failures, self.again) = (self.failures.saturating_add(1), now.plus(wait));
        let is_said =
            self.said.is_some_and(|at| at <= now && now < at.plus(limits::AUDIT_SAY_AGAIN));
        if !is_said {
            self.said = Some(now);
        }
        !is_said
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_fails_for_days_is_tried_by_the_hour_and_told_once_a_day() {
        let mut retries = Retries::up_to(Duration::from_secs(3600));
        let begin = Timestamp::from_parts(1_795_234_020, 0);
        let (mut tries, mut said) = (Vec::new(), 0);
        for second in (0..2 * 86_400).step_by(10) {
            let now = begin.plus(Duration::from_secs(second));
            if retries.is_due(now) {
                tries.push(second);
                said += u32::from(retries.failed(now));
            }
        }
        assert_eq!(tries[..9], [0, 30, 90, 210, 450, 930, 1890, 3810, 7410]);
        assert!(tries.len() < 60 && said == 2, "{said} {tries:?}");
        // A clock that goes back does not keep it waiting.
        assert!(retries.is_due(begin));
        retries.worked();
        assert!(retries.is_due(begin) && retries.failed(begin));
        assert!(!retries.failed(begin) && !retries.is_due(begin));
    }
}
