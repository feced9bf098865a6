//! What is to be done about the legal hold on one object, from what should be and what is known.

use crate::catalog::{LockRow, LockState};
use crate::clock::Timestamp;
use crate::limits;

/// What to do next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// It is as it should be, or not time yet.
    Nothing,
    /// See whether there is one already, then set it.
    Look,
    /// Set it: that was begun.
    Set,
    /// See whether it is still there.
    See,
    /// Take it off.
    Off,
    /// Forget what is known: none of ours is there.
    Forget,
}

/// What should be.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wish {
    /// A hold is on the recording, and the object is verified.
    pub on: bool,
    /// No hold is on the recording, and the time is over that it is still kept.
    pub free: bool,
}

pub(super) fn step(known: Option<&LockRow>, wish: Wish, now: Timestamp) -> Step {
    let Some(row) = known else { return if wish.on { Step::Look } else { Step::Nothing } };
    // Further off than it was set: the clock was moved back.
    let soon = now.plus(limits::BACKOFF_MAX);
    if row.state != LockState::Undeletable && row.not_before > now && row.not_before <= soon {
        return Step::Nothing;
    }
    match (wish.on, wish.free, row.state) {
        (true, _, LockState::Wanted | LockState::Undeletable) => Step::Look,
        (true, _, LockState::Asked) => Step::Set,
        (true, _, LockState::On | LockState::Foreign) => {
            let fresh = row.at <= now && now < row.at.plus(limits::LOCK_SEEN_EVERY);
            if fresh { Step::Nothing } else { Step::See }
        }
        (false, true, LockState::Asked | LockState::On) => Step::Off,
        (false, true, LockState::Wanted | LockState::Foreign) => Step::Forget,
        (false, ..) => Step::Nothing,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::recording::NodeId;

    const HELD: Wish = Wish { on: true, free: false };
    const KEPT: Wish = Wish { on: false, free: false };
    const FREE: Wish = Wish { on: false, free: true };

    fn at(secs: i64) -> Timestamp {
        Timestamp::from_parts(secs, 0)
    }

    fn row(state: LockState, not_before: i64) -> LockRow {
        LockRow {
            object: 1,
            node: NodeId(7),
            target: "one".into(),
            state,
            version: "v".into(),
            at: at(0),
            attempts: 1,
            not_before: at(not_before),
            error: None,
        }
    }

    #[test]
    fn what_is_held_is_locked_and_what_is_not_is_let_go() {
        use LockState::{Asked, Foreign, On, Undeletable, Wanted};
        let now = at(100);
        assert_eq!(step(None, HELD, now), Step::Look);
        assert_eq!(step(None, KEPT, now), Step::Nothing);
        assert_eq!(step(None, FREE, now), Step::Nothing);
        for (state, held, kept, free) in [
            (Wanted, Step::Look, Step::Nothing, Step::Forget),
            (Asked, Step::Set, Step::Nothing, Step::Off),
            (On, Step::Nothing, Step::Nothing, Step::Off),
            // Somebody else's stays.
            (Foreign, Step::Nothing, Step::Nothing, Step::Forget),
            (Undeletable, Step::Look, Step::Nothing, Step::Nothing),
        ] {
            let row = row(state, 0);
            assert_eq!(step(Some(&row), HELD, now), held, "{state:?}");
            assert_eq!(step(Some(&row), KEPT, now), kept, "{state:?}");
            assert_eq!(step(Some(&row), FREE, now), free, "{state:?}");
        }
    }

    #[test]
    fn what_failed_waits_and_what_was_seen_is_seen_again_after_a_day() {
        use LockState::{Asked, Foreign, On};
        assert_eq!(step(Some(&row(Asked, 101)), HELD, at(100)), Step::Nothing);
        assert_eq!(step(Some(&row(Asked, 101)), FREE, at(100)), Step::Nothing);
        assert_eq!(step(Some(&row(Asked, 101)), HELD, at(101)), Step::Set);
        assert_eq!(step(Some(&row(Asked, 5000)), HELD, at(100)), Step::Set, "the clock went back");
        for state in [On, Foreign] {
            assert_eq!(step(Some(&row(state, 0)), HELD, at(86_399)), Step::Nothing);
            assert_eq!(step(Some(&row(state, 0)), HELD, at(86_400)), Step::See);
            assert_eq!(step(Some(&row(state, -9)), HELD, at(-1)), Step::See, "the clock went back");
        }
    }
}
