//! How full the lower file system is, and what follows from it.
//!
//! **Invariant:** calls go on whatever the disk holds: above the high mark archiving hurries and
//! archived local copies go before their time, oldest first, by the same permit as ever.

use super::shared::Shared;
use crate::clock::Timestamp;
use crate::limits;
use crate::lower::Usage;
use crate::policy::Marks;
use parking_lot::Mutex;

/// Whether the lower file system is too full.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Pressure {
    /// There is room.
    #[default]
    None,
    /// It was above the high mark and is not below the low one: local copies are released early.
    High,
    /// The same, and nothing is left that can be released.
    Stuck,
}

#[derive(Debug, Default)]
struct State {
    pressure: Pressure,
    /// Since when nothing that can be released was found.
    nothing_since: Option<Timestamp>,
    /// When it was said last that nothing can be released.
    said: Option<Timestamp>,
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Space {
    state: Mutex<State>,
}

/// What a look at the disk brought.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Change {
    Same,
    /// The high mark was passed.
    Began,
    /// The low mark was reached.
    Ended,
}

impl Space {
    pub fn pressure(&self) -> Pressure {
        self.state.lock().pressure
    }

    fn update(&self, percent: u8, marks: Marks) -> Change {
        let mut state = self.state.lock();
        match state.pressure {
            Pressure::None if percent > marks.high => {
                *state = State { pressure: Pressure::High, ..State::default() };
                Change::Began
            }
            Pressure::High | Pressure::Stuck if percent <= marks.low => {
                *state = State::default();
                Change::Ended
            }
            _ => Change::Same,
        }
    }

    /// A walk over all that is archived found something to release, or nothing. Tells whether it
    /// is time to say aloud that there is nothing.
    pub fn walked(&self, found: bool, now: Timestamp) -> bool {
        let mut state = self.state.lock();
        if state.pressure == Pressure::None {
            return false;
        }
        if found {
            *state = State { pressure: Pressure::High, said: state.said, nothing_since: None };
            return false;
        }
        let since = *state.nothing_since.get_or_insert(now);
        if since.age_at(now) < limits::SPACE_STUCK_AFTER {
            return false;
        }
        state.pressure = Pressure::Stuck;
        let due = state.said.is_none_or(|at| at.age_at(now) >= limits::SPACE_SAY_EVERY);
        if due {
            state.said = Some(now);
        }
        due
    }
}

/// Looks how full the disk is and puts the rules in force that go with it.
pub(super) fn look(shared: &Shared) -> Change {
    let marks = shared.configured.read().marks;
    let usage = match shared.lower.usage() {
        Ok(usage) => usage,
        Err(error) => {
            tracing::debug!(%error, "how full the disk is can not be told");
            return Change::Same;
        }
    };
    let change = shared.space.update(usage.percent(), marks);
    if shared.space.pressure() != Pressure::None {
        shared.unsent.give_way();
    }
    if shared.space.pressure() != Pressure::None
        && let Ok(device) = shared.lower.device()
    {
        // A chunk of the cache costs a request at most, a local copy may be wanted.
        shared.content.give_way(device, limits::CACHE_GIVES_WAY);
    }
    match change {
        Change::Same => return change,
        Change::Began => tracing::warn!(
            used = %format!("{}%", usage.percent()),
            high_water = %format!("{}%", marks.high),
            "the disk is above its high mark: what is archived is released before its time"
        ),
        Change::Ended => {
            tracing::info!(used = %format!("{}%", usage.percent()), "there is room on the disk again");
        }
    }
    shared.apply_rules();
    change
}

/// A walk over what is archived came to its end.
pub(super) fn walked(shared: &Shared, found: bool) {
    if shared.space.walked(found, shared.now()) {
        let Usage { bytes_free, inodes_free, .. } = shared.lower.usage().unwrap_or_default();
        tracing::error!(
            bytes_free,
            inodes_free,
            "the disk is above its high mark and nothing is left that may be released: calls will \
             soon be lost; free space there, or see `spoolfs status` for why nothing is archived"
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    const MARKS: Marks = Marks { high: 90, low: 85 };

    fn at(seconds: i64) -> Timestamp {
        Timestamp(seconds * 1_000_000_000)
    }

    #[test]
    fn between_the_marks_it_stays_what_it_was() {
        let space = Space::default();
        let steps = [
            (90, Change::Same, Pressure::None),
            (91, Change::Began, Pressure::High),
            (95, Change::Same, Pressure::High),
            (86, Change::Same, Pressure::High),
            (85, Change::Ended, Pressure::None),
            (88, Change::Same, Pressure::None),
        ];
        for (percent, change, pressure) in steps {
            assert_eq!(
                (space.update(percent, MARKS), space.pressure()),
                (change, pressure),
                "{percent}"
            );
        }
    }

    #[test]
    fn that_nothing_is_left_is_said_after_a_while_and_again_and_not_without_need() {
        let space = Space::default();
        assert!(!space.walked(false, at(0)), "there is room");
        space.update(99, MARKS);
        assert!(!space.walked(false, at(10)), "a release may be under way");
        assert_eq!(space.pressure(), Pressure::High);
        let after = i64::try_from(limits::SPACE_STUCK_AFTER.as_secs()).unwrap();
        assert!(space.walked(false, at(10 + after)));
        assert_eq!(space.pressure(), Pressure::Stuck);
        assert!(!space.walked(false, at(11 + after)), "said a moment ago");
        let again = Duration::from_secs(10 + after.unsigned_abs()) + limits::SPACE_SAY_EVERY;
        assert!(space.walked(false, at(i64::try_from(again.as_secs()).unwrap())));
        assert!(!space.walked(true, at(5000)));
        assert_eq!(space.pressure(), Pressure::High, "something goes");
        space.update(80, MARKS);
        assert_eq!(space.pressure(), Pressure::None);
    }
}
