//! A target that does not answer is left alone for a while, so that reads fail at once and not
//! each after its full time.

use crate::clock::Timestamp;
use crate::limits;
use parking_lot::Mutex;

#[derive(Clone, Copy, Debug, PartialEq)]
enum State {
    Up,
    Down {
        until: Timestamp,
    },
    /// One request is on its way to find out.
    Probing,
}

impl State {
    fn lets_in(self, now: Timestamp) -> bool {
        match self {
            State::Up => true,
            // Further off than it was set: the clock was moved back.
            State::Down { until } => until <= now || until > now.plus(limits::BREAKER_REST),
            State::Probing => false,
        }
    }
}

/// The breaker of one target.
#[derive(Debug)]
pub(super) struct Breaker {
    state: Mutex<State>,
}

impl Default for Breaker {
    fn default() -> Breaker {
        Breaker { state: Mutex::new(State::Up) }
    }
}

/// Leave to send a request; to be told how it went.
#[derive(Debug)]
pub(super) struct Admission<'a> {
    breaker: &'a Breaker,
    probe: bool,
    admitted: Timestamp,
}

impl Breaker {
    /// Leave, unless the target is known to be down.
    pub(super) fn admit(&self, now: Timestamp) -> Option<Admission<'_>> {
        let mut state = self.state.lock();
        if !state.lets_in(now) {
            return None;
        }
        let probe = *state != State::Up;
        if probe {
            *state = State::Probing;
        }
        Some(Admission { breaker: self, probe, admitted: now })
    }

    /// Whether there would be no leave.
    pub(super) fn refuses(&self, now: Timestamp) -> bool {
        !self.state.lock().lets_in(now)
    }

    /// The target answered somebody else.
    pub(super) fn answers(&self) {
        *self.state.lock() = State::Up;
    }
}

impl Admission<'_> {
    /// The target answered, whatever it said.
    pub(super) fn answered(mut self) {
        self.answers();
    }

    /// It answers, and there is more to come.
    pub(super) fn answers(&mut self) {
        self.probe = false;
        *self.breaker.state.lock() = State::Up;
    }

    /// It did not.
    pub(super) fn unreachable(mut self, now: Timestamp) {
        self.probe = false;
        *self.breaker.state.lock() = State::Down { until: now.plus(limits::BREAKER_REST) };
    }
}

impl Drop for Admission<'_> {
    /// A probe that was given up says nothing: the next request is the probe.
    fn drop(&mut self) {
        if self.probe {
            *self.breaker.state.lock() = State::Down { until: self.admitted };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    const NOW: Timestamp = Timestamp(1_000);

    #[test]
    fn a_target_that_is_down_is_left_alone_and_one_probe_lets_it_back() {
        let breaker = Breaker::default();
        breaker.admit(NOW).unwrap().unreachable(NOW);
        assert!(breaker.admit(NOW).is_none());
        let later = NOW.plus(limits::BREAKER_REST);
        let probe = breaker.admit(later).unwrap();
        assert!(breaker.admit(later).is_none(), "a second probe");
        probe.unreachable(later);
        assert!(breaker.admit(later.plus(limits::BREAKER_REST / 2)).is_none());
        let again = later.plus(limits::BREAKER_REST);
        breaker.admit(again).unwrap().answered();
        assert!(breaker.admit(again).is_some() && breaker.admit(again).is_some());
    }

    #[test]
    fn a_probe_that_is_given_up_does_not_close_the_door() {
        let breaker = Breaker::default();
        breaker.admit(NOW).unwrap().unreachable(NOW);
        let later = NOW.plus(limits::BREAKER_REST);
        drop(breaker.admit(later).unwrap());
        assert!(breaker.admit(later).is_some());
    }

    #[test]
    fn a_clock_that_is_set_back_does_not_keep_a_target_down() {
        let breaker = Breaker::default();
        let ahead = NOW.plus(Duration::from_secs(86_400));
        breaker.admit(ahead).unwrap().unreachable(ahead);
        assert!(breaker.admit(NOW).is_some());
    }
}
