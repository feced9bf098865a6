//! How long to wait before the next try.

use crate::limits::{BACKOFF_MAX, BACKOFF_MIN};
use std::time::Duration;

/// The wait after the `attempts`th failure in a row: doubling, bounded, and spread over its upper
/// half so that a thousand recordings that failed together are not tried again together.
pub(super) fn after(attempts: u32) -> Duration {
    let doubled = 2u32.saturating_pow(attempts.saturating_sub(1).min(20));
    let full = BACKOFF_MIN.saturating_mul(doubled).min(BACKOFF_MAX);
    full / 2 + full.mul_f64(fastrand::f64() / 2.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_the_bound_and_are_spread() {
        for (attempts, full) in [(1, 1), (2, 2), (3, 4), (8, 128), (9, 256), (10, 300), (999, 300)]
        {
            for _ in 0..50 {
                let wait = after(attempts);
                let full = Duration::from_secs(full);
                assert!(wait >= full / 2 && wait <= full, "{attempts}: {wait:?}");
            }
        }
        assert_ne!(after(10), after(10));
    }
}
