//! When the daemon is started, killed and given up on. Pure: events and the time go in, what is to
//! be done comes out.

use crate::limits;
use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// How patient it is.
#[derive(Clone, Copy, Debug)]
pub(super) struct Patience {
    /// Wait between the end of a daemon and the start of the next.
    pub delay: Duration,
    /// Longest wait for `READY=1`.
    pub start: Duration,
    /// Longest wait for the end of a daemon that was told to stop.
    pub stop: Duration,
    /// Wait between the tries while the mount is bypassed.
    pub retry: Duration,
    /// Longest time between two `WATCHDOG=1`.
    pub watchdog: Duration,
    /// Starts that fail within a minute before the mount is taken away.
    pub failures: usize,
}

/// How a daemon ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// By SIGKILL: somebody's will, or the kernel's, and no fault of the program.
    Killed,
    /// In any other way.
    Other,
}

/// What is to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Action {
    /// Start a daemon.
    Start,
    /// Tell it to stop for good.
    Terminate,
    /// Tell it to end without unmounting.
    HandOver,
    /// Kill it.
    Kill,
    /// Take the mount away and close what is kept, because of this.
    Bypass(&'static str),
    /// The same, then kill it.
    BypassAndKill(&'static str),
    /// End.
    Finish,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Waiting {
        until: Instant,
    },
    Starting {
        until: Instant,
    },
    /// Without a word of its watchdog it has none.
    Running {
        since: Instant,
        fed: Option<Instant>,
    },
    HandingOver {
        until: Instant,
    },
    Stopping {
        until: Instant,
    },
    Killed {
        stopping: bool,
    },
}

/// The life of one daemon after the other.
#[derive(Debug)]
pub(super) struct Policy {
    patience: Patience,
    phase: Phase,
    failures: VecDeque<Instant>,
    bypassed: bool,
}

impl Policy {
    /// The first daemon is to be started at once.
    pub fn new(patience: Patience, now: Instant) -> Policy {
        let phase = Phase::Waiting { until: now };
        Policy { patience, phase, failures: VecDeque::new(), bypassed: false }
    }

    /// When [`Policy::at`] has something to do.
    pub fn deadline(&self) -> Option<Instant> {
        match self.phase {
            Phase::Waiting { until }
            | Phase::Starting { until }
            | Phase::HandingOver { until }
            | Phase::Stopping { until } => Some(until),
            Phase::Running { fed, .. } => fed.map(|at| at + self.patience.watchdog),
            Phase::Killed { .. } => None,
        }
    }

    /// Whether it was told to stop.
    pub fn stopping(&self) -> bool {
        matches!(self.phase, Phase::Stopping { .. } | Phase::Killed { stopping: true })
    }

    /// Whether the mount was taken away and no daemon has been ready since.
    pub fn bypassed(&self) -> bool {
        self.bypassed
    }

    /// What the time asks for.
    pub fn at(&mut self, now: Instant) -> Option<Action> {
        if self.deadline().is_none_or(|until| now < until) {
            return None;
        }
        let stopping = self.stopping();
        match self.phase {
            Phase::Waiting { .. } => {
                self.phase = Phase::Starting { until: now + self.patience.start };
                return Some(Action::Start);
            }
            Phase::Starting { .. } => {
                self.phase = Phase::Killed { stopping };
                self.bypassed = true;
                return Some(Action::BypassAndKill("it was started and did not get ready in time"));
            }
            Phase::HandingOver { .. } | Phase::Stopping { .. } | Phase::Running { .. } => {
                self.phase = Phase::Killed { stopping };
            }
            Phase::Killed { .. } => return None,
        }
        Some(Action::Kill)
    }

    /// The daemon said that it still answers.
    pub fn fed(&mut self, now: Instant) {
        if let Phase::Running { fed, .. } = &mut self.phase {
            *fed = Some(now);
        }
    }

    /// The daemon said that it is ready.
    pub fn ready(&mut self, now: Instant) {
        if matches!(self.phase, Phase::Starting { .. }) {
            self.phase = Phase::Running { since: now, fed: None };
            self.bypassed = false;
        }
    }

    /// The daemon asks for more time to start or to stop, from now on.
    pub fn extend(&mut self, now: Instant, by: Duration) {
        let later = now + by.min(limits::KEEPER_EXTENSION_MAX);
        match &mut self.phase {
            Phase::Starting { until } | Phase::Stopping { until } => *until = later.max(*until),
            _ => {}
        }
    }

    /// It could not even be started, or it ended.
    pub fn ended(&mut self, now: Instant, end: End) -> Option<Action> {
        let phase = self.phase;
        if self.stopping() {
            return Some(Action::Finish);
        }
        let failed = match phase {
            Phase::Starting { .. } => true,
            // A take-over that does not hold is none.
            Phase::Running { since, .. } => {
                end == End::Other && now < since + limits::KEEPER_SETTLED_AFTER
            }
            _ => false,
        };
        self.wait(now, if self.bypassed { self.patience.retry } else { self.patience.delay });
        if matches!(phase, Phase::HandingOver { .. }) {
            self.wait(now, Duration::ZERO);
        }
        if !failed {
            return None;
        }
        self.failures.push_back(now);
        self.failures.retain(|at| now < *at + limits::KEEPER_FAILURES_WITHIN);
        if self.bypassed || self.failures.len() >= self.patience.failures {
            self.failures.clear();
            self.bypassed = true;
            self.wait(now, self.patience.retry);
            return Some(Action::Bypass("spoolfs ended again and again when it was started"));
        }
        None
    }

    /// Told to stop.
    pub fn stop(&mut self, now: Instant) -> Action {
        match self.phase {
            Phase::Waiting { .. } => return Action::Finish,
            Phase::Killed { .. } => {
                self.phase = Phase::Killed { stopping: true };
                return Action::Kill;
            }
            // Told again: the first patience counts.
            Phase::Stopping { .. } => {}
            _ => self.phase = Phase::Stopping { until: now + self.patience.stop },
        }
        Action::Terminate
    }

    /// Told to replace the daemon.
    pub fn restart(&mut self, now: Instant) -> Option<Action> {
        match self.phase {
            Phase::Waiting { .. } => {
                self.wait(now, Duration::ZERO);
                None
            }
            Phase::Starting { .. } | Phase::Running { .. } => {
                self.phase = Phase::HandingOver { until: now + limits::KEEPER_HAND_OVER_WAIT };
                Some(Action::HandOver)
            }
            _ => None,
        }
    }

    fn wait(&mut self, now: Instant, delay: Duration) {
        self.phase = Phase::Waiting { until: now + delay };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATIENCE: Patience = Patience {
        delay: Duration::from_millis(100),
        start: Duration::from_secs(4),
        stop: Duration::from_secs(90),
        retry: Duration::from_secs(30),
        watchdog: Duration::from_secs(30),
        failures: 3,
    };

    /// A policy and the time.
    struct Life {
        policy: Policy,
        now: Instant,
    }

    impl Life {
        fn new() -> Life {
            let now = Instant::now();
            let mut life = Life { policy: Policy::new(PATIENCE, now), now };
            assert_eq!(life.pass(0), Some(Action::Start));
            life
        }

        fn running() -> Life {
            let mut life = Life::new();
            life.policy.ready(life.now);
            life
        }

        fn pass(&mut self, millis: u64) -> Option<Action> {
            self.now += Duration::from_millis(millis);
            self.policy.at(self.now)
        }

        fn ends(&mut self, end: End) -> Option<Action> {
            self.policy.ended(self.now, end)
        }

        fn restarts(&mut self, end: End) {
            assert_eq!(self.ends(end), None);
            assert_eq!(self.pass(99), None);
            assert_eq!(self.pass(1), Some(Action::Start));
        }
    }

    const AGAIN: Option<Action> =
        Some(Action::Bypass("spoolfs ended again and again when it was started"));
    const HUNG: Option<Action> =
        Some(Action::BypassAndKill("it was started and did not get ready in time"));

    #[test]
    fn a_daemon_that_ends_is_started_again() {
        let mut life = Life::running();
        for _ in 0..20 {
            life.restarts(End::Killed);
            life.policy.ready(life.now);
        }
        assert_eq!(life.policy.deadline(), None);
    }

    #[test]
    fn three_failed_starts_bypass_and_a_clean_start_is_tried_every_half_minute() {
        let mut life = Life::running();
        life.restarts(End::Killed);
        life.restarts(End::Other);
        life.restarts(End::Killed);
        assert_eq!(life.ends(End::Other), AGAIN);
        assert_eq!(life.pass(29_999), None);
        assert_eq!(life.pass(1), Some(Action::Start));
        assert_eq!(life.ends(End::Other), AGAIN, "one is enough while it is bypassed");
        assert_eq!(life.pass(30_000), Some(Action::Start));
        life.policy.ready(life.now);
        life.pass(60_000);
        life.restarts(End::Killed);
    }

    #[test]
    fn failures_long_ago_do_not_count() {
        let mut life = Life::new();
        for _ in 0..10 {
            life.restarts(End::Other);
            life.policy.extend(life.now, Duration::from_secs(40));
            assert_eq!(life.pass(30_000), None);
        }
    }

    #[test]
    fn a_take_over_that_does_not_hold_is_a_failure() {
        let mut life = Life::running();
        for _ in 0..2 {
            life.pass(4_000);
            life.restarts(End::Other);
            life.policy.ready(life.now);
        }
        assert_eq!(life.ends(End::Other), AGAIN);

        let mut life = Life::running();
        for _ in 0..10 {
            life.pass(6_000);
            life.restarts(End::Other);
            life.policy.ready(life.now);
        }
    }

    #[test]
    fn a_start_that_hangs_is_bypassed_and_killed() {
        let mut life = Life::running();
        life.restarts(End::Killed);
        assert_eq!(life.pass(3_999), None);
        assert_eq!(life.pass(1), HUNG);
        assert_eq!(life.ends(End::Killed), None);
        assert_eq!(life.pass(29_999), None);
        assert_eq!(life.pass(1), Some(Action::Start));
        assert_eq!(life.pass(4_000), HUNG);
    }

    #[test]
    fn a_start_may_ask_for_more_time() {
        let mut life = Life::new();
        life.policy.extend(life.now, Duration::from_secs(60));
        assert_eq!(life.pass(59_999), None);
        life.policy.extend(life.now, Duration::from_millis(1));
        assert_eq!(life.pass(1), HUNG, "asking for less takes nothing away");
        let mut life = Life::new();
        life.policy.extend(life.now, Duration::MAX);
        assert!(life.policy.deadline().is_some());
    }

    #[test]
    fn a_stop_is_for_good() {
        let mut life = Life::running();
        assert_eq!(life.policy.stop(life.now), Action::Terminate);
        assert!(life.policy.stopping());
        assert_eq!(life.policy.restart(life.now), None);
        assert_eq!(life.ends(End::Other), Some(Action::Finish));

        let mut life = Life::running();
        life.policy.stop(life.now);
        assert_eq!(life.pass(50_000), None);
        assert_eq!(life.policy.stop(life.now), Action::Terminate);
        assert_eq!(life.pass(40_000), Some(Action::Kill));
        assert_eq!(life.ends(End::Killed), Some(Action::Finish));

        let mut life = Life::running();
        life.ends(End::Killed);
        assert_eq!(life.policy.stop(life.now), Action::Finish);
    }

    #[test]
    fn a_restart_is_no_failure_and_has_no_delay() {
        let mut life = Life::running();
        for _ in 0..10 {
            assert_eq!(life.policy.restart(life.now), Some(Action::HandOver));
            assert_eq!(life.policy.restart(life.now), None, "it is under way");
            assert_eq!(life.ends(End::Other), None);
            assert_eq!(life.pass(0), Some(Action::Start));
            life.policy.ready(life.now);
        }
        life.policy.restart(life.now);
        assert_eq!(life.pass(10_000), Some(Action::Kill), "it is taken over all the same");
        assert_eq!(life.ends(End::Killed), None);
        assert_eq!(life.pass(100), Some(Action::Start));
    }

    #[test]
    fn a_daemon_that_answers_no_more_is_killed_and_taken_over() {
        let mut life = Life::running();
        assert_eq!(life.pass(3_600_000), None, "one that never spoke of it has no watchdog");
        for _ in 0..3 {
            life.policy.fed(life.now);
            assert_eq!(life.pass(29_999), None);
        }
        assert_eq!(life.pass(1), Some(Action::Kill));
        life.restarts(End::Killed);
        life.policy.fed(life.now);
        assert_eq!(life.pass(4_000), HUNG, "only a daemon that is ready is fed");
    }

    #[test]
    fn a_restart_while_bypassed_does_not_wait() {
        let mut life = Life::new();
        life.pass(4_000);
        life.ends(End::Killed);
        life.policy.restart(life.now);
        assert_eq!(life.pass(0), Some(Action::Start));
    }
}
