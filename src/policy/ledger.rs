//! How much may be deleted: not right after the rules changed, and not more in a day than a right
//! rule would.
//!
//! **Invariant:** what stops a wrong rule outlives the daemon, and only an operator lifts it.

use crate::clock::Timestamp;
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// How long nothing is deleted after the rules changed.
pub const CHANGED_FOR: Duration = Duration::from_secs(72 * 3600);
/// A clock that goes forward by more at once is not believed: nobody may have looked at it before.
const LEAP: Duration = Duration::from_secs(25 * 3600);
/// What a day is.
const DAY: Duration = Duration::from_secs(86_400);

/// What was deleted since when.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Day {
    from: Timestamp,
    /// Recordings that there were at its beginning.
    recordings: u64,
    deleted: u64,
}

/// Why nothing is deleted now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Halt {
    /// The rules changed a short while ago.
    Changed {
        /// When they hold.
        until: Timestamp,
    },
    /// The clock went forward by more than a day at once, or nobody looked at it for so long.
    Leapt {
        /// When it is believed.
        until: Timestamp,
    },
    /// As much was deleted as may be in a day.
    Capped {
        /// Deleted in that day.
        deleted: u64,
        /// As many may be.
        cap: u64,
    },
}

/// What is remembered of deletions.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ledger {
    /// Digest of the rules.
    rules: String,
    /// Since when it is these rules.
    since: Timestamp,
    /// An operator does not want to wait for them.
    waived: bool,
    day: Option<Day>,
    /// The cap was reached, and nobody said that it was right.
    stopped: Option<(u64, u64)>,
    /// An operator said so of all that was due then.
    confirmed: Option<Timestamp>,
    /// When the clock was looked at last.
    #[serde(default)]
    seen: Option<Timestamp>,
    /// When it had gone forward by too much.
    #[serde(default)]
    leapt: Option<Timestamp>,
}

impl Ledger {
    /// It is this time now. Tells whether the clock went forward by too much. What was remembered of
    /// a time that has not come, because the clock was wrong then, is as of now.
    pub fn look(&mut self, now: Timestamp) -> bool {
        let leaps = self.seen.is_some_and(|seen| seen.plus(LEAP) < now);
        if leaps {
            self.leapt = Some(now);
        }
        self.seen = Some(now);
        self.leapt = self.leapt.filter(|at| *at <= now);
        self.since = self.since.min(now);
        self.confirmed = self.confirmed.map(|at| at.min(now));
        if let Some(day) = &mut self.day {
            day.from = day.from.min(now);
        }
        leaps
    }

    /// An operator acts on the time as it is.
    pub fn trust_clock(&mut self, now: Timestamp) {
        self.seen = Some(now);
        self.leapt = None;
    }

    /// These are the rules now; tells whether they were others before.
    pub fn rules(&mut self, digest: &str, now: Timestamp) -> bool {
        if self.rules == digest {
            return false;
        }
        *self = Ledger {
            rules: digest.to_owned(),
            since: now,
            day: self.day,
            seen: self.seen,
            leapt: self.leapt,
            ..Ledger::default()
        };
        true
    }

    /// Whether so many files, a whole group, that were due at `due` may be deleted, of so many that
    /// there are, with so many hundredths allowed in a day. One group a day may go in any case,
    /// unless none may.
    ///
    /// # Errors
    /// Why not. The cap stays reached until somebody confirms.
    pub fn may(
        &mut self,
        files: u64,
        due: Timestamp,
        there_are: u64,
        percent: u8,
        now: Timestamp,
    ) -> Result<(), Halt> {
        if let Some(wait) = self.waits(now) {
            return Err(wait);
        }
        if self.confirmed.is_some_and(|at| due <= at) {
            return Ok(());
        }
        if let Some((deleted, cap)) = self.stopped {
            return Err(Halt::Capped { deleted, cap });
        }
        let day = self.day_at(now, there_are);
        let cap = cap(day.recordings, percent);
        let first = day.deleted == 0 && percent > 0;
        if day.deleted.saturating_add(files) > cap && !first {
            self.stopped = Some((day.deleted, cap));
            return Err(Halt::Capped { deleted: day.deleted, cap });
        }
        Ok(())
    }

    /// So many files are deleted, which were due at `due`.
    pub fn deleted(&mut self, files: u64, due: Timestamp, there_are: u64, now: Timestamp) {
        if self.confirmed.is_some_and(|at| due <= at) {
            return;
        }
        let mut day = self.day_at(now, there_are);
        day.deleted = day.deleted.saturating_add(files);
        self.day = Some(day);
    }

    /// So many files that were due at `due`, and counted as deleted, were not.
    pub fn stayed(&mut self, files: u64, due: Timestamp) {
        let counted = self.confirmed.is_none_or(|at| at < due);
        if let Some(day) = self.day.as_mut().filter(|_| counted) {
            day.deleted = day.deleted.saturating_sub(files);
        }
    }

    fn day_at(&self, now: Timestamp, recordings: u64) -> Day {
        let new = Day { from: now, recordings, deleted: 0 };
        // A clock that was set back is no reason to begin a new one.
        self.day.filter(|day| now < day.from.plus(DAY)).unwrap_or(new)
    }

    /// An operator does not want to wait for changed rules.
    pub fn waive(&mut self) {
        self.waived = true;
    }

    /// An operator says that all that is due by now may go.
    pub fn confirm(&mut self, now: Timestamp) {
        self.confirmed = Some(now);
        self.stopped = None;
    }

    /// What keeps everything from being deleted now.
    pub fn halted(&self, now: Timestamp) -> Option<Halt> {
        let stopped = self.stopped.map(|(deleted, cap)| Halt::Capped { deleted, cap });
        self.waits(now).or(stopped)
    }

    fn waits(&self, now: Timestamp) -> Option<Halt> {
        let holds = self.since.plus(CHANGED_FOR);
        if now < holds && !self.waived {
            return Some(Halt::Changed { until: holds });
        }
        let until = self.leapt?.plus(CHANGED_FOR);
        (now < until).then_some(Halt::Leapt { until })
    }
}

/// How many files may be deleted in a day: a part of one counts as one.
pub fn cap(recordings: u64, percent: u8) -> u64 {
    let share = (u128::from(recordings) * u128::from(percent)).div_ceil(100);
    u64::try_from(share).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(hours: i64) -> Timestamp {
        Timestamp::from_parts(1_000_000_000 + hours * 3600, 0)
    }

    /// The rules hold since hour 0, and it is hour 72.
    fn ledger() -> Ledger {
        let mut ledger = Ledger::default();
        assert!(ledger.rules("a", at(0)));
        ledger
    }

    fn ask(ledger: &mut Ledger, files: u64, hour: i64) -> Result<(), Halt> {
        ledger.may(files, at(hour), 10_000, 5, at(hour))
    }

    fn delete(ledger: &mut Ledger, files: u64, hour: i64) {
        ask(ledger, files, hour).expect("it may be");
        ledger.deleted(files, at(hour), 10_000, at(hour));
    }

    #[test]
    fn changed_rules_delete_nothing_for_72_hours() {
        let mut one = ledger();
        let until = at(72);
        assert_eq!(ask(&mut one, 1, 0), Err(Halt::Changed { until }));
        let just_before = Timestamp(until.0 - 1);
        assert_eq!(one.may(1, just_before, 10_000, 5, just_before), Err(Halt::Changed { until }));
        assert_eq!(one.halted(just_before), Some(Halt::Changed { until }));
        assert_eq!((ask(&mut one, 1, 72), one.halted(until)), (Ok(()), None));
        // The same rules, read again.
        assert!(!one.rules("a", at(80)));
        assert_eq!(ask(&mut one, 1, 80), Ok(()));
        assert!(one.rules("b", at(80)));
        assert_eq!(ask(&mut one, 1, 151), Err(Halt::Changed { until: at(152) }));
        one.waive();
        assert_eq!(ask(&mut one, 1, 81), Ok(()));
        // What was deleted in a day, and a clock that leapt, have nothing to do with the rules.
        let mut other = ledger();
        delete(&mut other, 500, 100);
        assert!(!other.look(at(100)) && other.rules("b", at(100)));
        other.waive();
        assert_eq!(ask(&mut other, 1, 101), Err(Halt::Capped { deleted: 500, cap: 500 }));
        assert!(other.look(at(126)) && other.rules("c", at(126)));
        other.waive();
        assert_eq!(other.halted(at(127)), Some(Halt::Leapt { until: at(198) }));
        // What was waived was those rules.
        assert!(one.rules("c", at(82)));
        assert!(ask(&mut one, 1, 83).is_err());
    }

    #[test]
    fn the_cap_is_a_share_of_what_there_is_and_one_group_a_day_may_go() {
        for (recordings, percent, want) in [
            (0, 5, 0),
            (1, 5, 1),
            (20, 5, 1),
            (21, 5, 2),
            (1000, 0, 0),
            (1_000_000, 5, 50_000),
            (1_000_000, 100, 1_000_000),
            (u64::MAX, 100, u64::MAX),
        ] {
            assert_eq!(cap(recordings, percent), want, "{recordings} {percent}");
        }
        // A recording with two sidecars, of twenty files.
        let of_twenty = |ledger: &mut Ledger, files, percent| {
            ledger.may(files, at(100), 20, percent, at(100)).is_ok()
        };
        let mut one = ledger();
        assert!(of_twenty(&mut one, 3, 5) && !of_twenty(&mut one.clone(), 1, 0));
        one.deleted(3, at(100), 20, at(100));
        assert!(!of_twenty(&mut one, 1, 5));
    }

    #[test]
    fn a_clock_that_goes_forward_by_more_than_a_day_at_once_is_not_believed_for_72_hours() {
        let mut one = ledger();
        for hour in [0, 25, 50, 75, 100] {
            assert!(!one.look(at(hour)), "{hour}");
        }
        let late = Timestamp(at(125).0 + 1);
        assert!(one.look(late));
        let until = late.plus(CHANGED_FOR);
        assert_eq!(one.may(1, at(100), 100, 5, late), Err(Halt::Leapt { until }));
        for hour in [150, 175, 197] {
            assert!(!one.look(at(hour)), "{hour}");
        }
        assert_eq!(one.halted(Timestamp(until.0 - 1)), Some(Halt::Leapt { until }));
        assert_eq!(one.halted(until), None);
        // An operator vouches for the date, or the clock is put right.
        let mut other = one.clone();
        assert!(one.look(at(10_000)) && other.look(at(10_000)));
        one.trust_clock(at(10_000));
        assert_eq!(one.halted(at(10_000)), None);
        assert!(!other.look(at(200)));
        assert_eq!(other.halted(at(200)), None);
    }

    #[test]
    fn what_was_remembered_of_a_wrong_future_does_not_last_until_then() {
        let mut one = ledger();
        delete(&mut one, 500, 10_000);
        one.confirm(at(10_000));
        one.look(at(100));
        assert_eq!(one.confirmed, Some(at(100)));
        let full = Err(Halt::Capped { deleted: 500, cap: 500 });
        assert_eq!(one.may(1, at(101), 10_000, 5, at(101)), full);
        assert!(one.rules("b", at(10_000)));
        one.look(at(200));
        assert_eq!(one.halted(at(200)), Some(Halt::Changed { until: at(272) }));
    }

    #[test]
    fn a_day_ends_after_24_hours_and_its_cap_with_it() {
        let mut one = ledger();
        delete(&mut one, 500, 100);
        let full = Err(Halt::Capped { deleted: 500, cap: 500 });
        // Another day begins, unless somebody asked too early.
        let mut early = one.clone();
        let just_before = Timestamp(at(124).0 - 1);
        assert_eq!(early.may(1, just_before, 10_000, 5, just_before), full);
        delete(&mut one, 500, 124);
        assert_eq!(ask(&mut one, 1, 125), full);
    }

    #[test]
    fn who_reaches_the_cap_is_stopped_until_somebody_confirms() {
        let mut one = ledger();
        delete(&mut one, 499, 100);
        assert_eq!(ask(&mut one.clone(), 1, 100), Ok(()), "it fills the cap exactly");
        let full = Err(Halt::Capped { deleted: 499, cap: 500 });
        assert_eq!(ask(&mut one, 2, 100), full);
        // Also what would have fitted, and the day after.
        assert_eq!(ask(&mut one, 1, 101), full);
        assert_eq!(ask(&mut one, 1, 200), full);
        assert_eq!(one.halted(at(200)), Some(Halt::Capped { deleted: 499, cap: 500 }));
        one.confirm(at(200));
        assert_eq!(one.halted(at(200)), None);
        // What was due then goes, however much it is, and does not count.
        for _ in 0..10 {
            delete(&mut one, 400, 200);
        }
        // What is due later counts as ever.
        let later = Timestamp(at(200).0 + 1);
        assert_eq!(one.may(500, later, 10_000, 5, later), Ok(()));
        one.deleted(1, later, 10_000, later);
        assert!(one.may(500, later, 10_000, 5, later).is_err());
        assert!(one.may(1, at(200), 10_000, 5, later).is_ok(), "this was confirmed");
    }

    #[test]
    fn what_was_not_deleted_after_all_does_not_count() {
        let mut one = ledger();
        for _ in 0..10 {
            delete(&mut one, 300, 100);
            one.stayed(300, at(100));
        }
        delete(&mut one, 300, 100);
        assert!(ask(&mut one.clone(), 201, 100).is_err());
        // What was confirmed was not counted.
        one.confirm(at(100));
        one.stayed(300, at(100));
        assert!(one.may(201, at(101), 10_000, 5, at(101)).is_err());
        // What was due later was counted, and what was due before was not.
        let mut other = ledger();
        other.confirm(at(100));
        delete(&mut other, 300, 101);
        delete(&mut other, 100, 101);
        let mut before = other.clone();
        before.stayed(300, at(99));
        assert!(ask(&mut before, 400, 102).is_err());
        other.stayed(300, at(101));
        assert_eq!(ask(&mut other, 400, 102), Ok(()));
    }

    #[test]
    fn it_is_the_same_after_a_restart() {
        let mut one = ledger();
        delete(&mut one, 400, 100);
        one.confirm(at(100));
        assert!(ask(&mut one, 600, 101).is_err());
        let text = serde_json::to_string(&one).unwrap();
        assert_eq!(serde_json::from_str::<Ledger>(&text).unwrap(), one);
    }
}
