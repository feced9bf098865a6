//! Reading archived objects again, to see that they are still what was archived (`mend` sees to
//! those that are not): all of each target once in a time, by a thread of its own.
//!
//! **Invariant:** a target that does not answer holds up nobody but itself, and what was missed is
//! made up for at a bounded pace.

use super::error::Result;
use super::keyed;
use super::mend::{self, Check};
use super::shared::Shared;
use super::target::Target;
use super::{alarms, backoff};
use crate::catalog::ObjectRow;
use crate::clock::Timestamp;
use crate::{faults, limits};
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use std::time::Duration;

/// How often the thread looks whether an object is due. Also what a test waits at most.
const POLL: Duration = Duration::from_millis(200);

/// When a bad object is looked at again while something else is being done with its recording.
const BUSY: Duration = Duration::from_secs(30);

/// How far the present round of a target has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Round {
    /// Row number of the last object that was looked at.
    after: i64,
    /// Of the last that belongs to this round: what is archived during it is the next one's, so that
    /// the pace holds.
    last: i64,
    /// When it was begun.
    pub begun: Timestamp,
    /// Objects that had their turn, also those that no key opens.
    pub checked: u64,
    /// Objects there were when it began.
    pub of: u64,
    /// Bad ones that were replaced.
    pub replaced: u64,
    /// It is through; the next one begins when its time is over.
    pub through: bool,
}

/// What an earlier daemon knew.
pub(super) fn load(shared: &Shared) -> Result<()> {
    alarms::load(shared)?;
    for target in &shared.targets {
        let text = shared.catalog.setting(&setting(target.name()))?;
        if let Some(round) = text.and_then(|text| serde_json::from_str(&text).ok()) {
            let mut alarms = shared.alarms.lock();
            alarms.rounds.entry(target.name().to_owned()).or_insert(round);
        }
    }
    Ok(())
}

fn setting(target: &str) -> String {
    format!("scrub.round.{target}")
}

/// Something that is done again after some time at the earliest.
#[derive(Debug, Default)]
struct Gate {
    next: Option<Timestamp>,
}

impl Gate {
    /// How long it is still shut; `gap` is what lies between two times at most.
    fn left(&self, now: Timestamp, gap: Duration) -> Duration {
        // Further off than it was set: the clock was moved back.
        let left = self.next.map_or(Duration::ZERO, |next| now.age_at(next));
        if left > gap { Duration::ZERO } else { left }
    }

    fn shut(&mut self, now: Timestamp, gap: Duration) {
        self.next = Some(now.plus(gap));
    }
}

/// The scrub of one target.
#[derive(Debug)]
pub(super) struct Scrub {
    pub shared: Arc<Shared>,
    pub target: Arc<Target>,
    /// Every object is read once in this time; none: only alarms are looked after.
    pub every: Option<Duration>,
    known: bool,
    pace: Gate,
    busy: Gate,
    /// Behind which object how often in a row it was asked in vain.
    in_vain: (i64, u32),
}

impl Scrub {
    pub fn new(shared: &Arc<Shared>, target: &Arc<Target>, every: Option<Duration>) -> Scrub {
        let (shared, target) = (Arc::clone(shared), Arc::clone(target));
        let (pace, busy) = Default::default();
        Scrub { shared, target, every, known: false, pace, busy, in_vain: (0, 0) }
    }

    /// Until the engine stops.
    pub fn run(mut self) {
        let shared = Arc::clone(&self.shared);
        let mut failures = 0;
        loop {
            let wait = match super::contain::contained("scrubbing", || self.step()) {
                Ok(wait) => {
                    failures = 0;
                    wait
                }
                Err(error) => {
                    failures += 1;
                    tracing::debug!(%error, "the scrub goes on later");
                    backoff::after(failures)
                }
            };
            if shared.stop.wait(wait) {
                return;
            }
        }
    }

    /// Looks at what is due by now; when to look again.
    fn step(&mut self) -> Result<Duration> {
        if !self.known {
            load(&self.shared)?;
            if self.target.store.needs_key() {
                keyed::remember(&self.shared, self.target.name())?;
            }
            mend::find_given_up(&self.shared, &self.target)?;
            self.known = true;
        }
        loop {
            self.shared.check_stop()?;
            // It catches up when the target is back, and when the line may be used again.
            // What is bad is replaced from another target, which may be about to answer after a start:
            // else that would be tried an hour later.
            let all_asked = self.shared.targets.iter().all(|target| target.has_answered());
            if !self.target.is_up() || self.shared.uploads_are_off() || !all_asked {
                return Ok(POLL);
            }
            // A bad object that is not given keeps no other from being looked at.
            let alarms = self.look_after_alarms();
            let wait = self.next_object()?;
            alarms?;
            if let Some(wait) = wait {
                return Ok(wait);
            }
        }
    }

    fn look_after_alarms(&mut self) -> Result<()> {
        let now = self.shared.now();
        let keys = self.shared.alarms.lock().due(self.target.name(), now);
        for key in keys {
            self.shared.check_stop()?;
            let looked = mend::look_again(&self.shared, &self.target, &key);
            if matches!(looked, Ok(false)) {
                continue;
            }
            // Also if it was not given for a moment: others must not wait for one that never is.
            self.shared.alarms.lock().looked(self.target.name(), &key, now);
            match looked {
                // Those behind are looked at as soon as that is over.
                Err(error) if error.is_of_the_moment() => return Err(error),
                Err(error) => tracing::warn!(%error, key, "a bad copy could not be seen to"),
                Ok(_) => {}
            }
        }
        Ok(())
    }

    /// Looks at the next object, if it is due; else how long to wait.
    fn next_object(&mut self) -> Result<Option<Duration>> {
        let Some(every) = self.every else { return Ok(Some(POLL)) };
        let (shared, name) = (&self.shared, self.target.name());
        let now = shared.now();
        let known = shared.alarms.lock().rounds.get(name).copied();
        let over = |r: &Round| r.begun.plus(every) <= now && r.through;
        let mut round = match known.filter(|r| !over(r)) {
            Some(round) => round,
            None => {
                mend::find_given_up(shared, &self.target)?;
                let (of, last) = shared.catalog.count_objects_to_read(name)?;
                self.save(Round { begun: now, of, last, ..Round::default() })?
            }
        };
        if round.through || !self.busy.left(now, BUSY).is_zero() {
            return Ok(Some(POLL));
        }
        let share = round.begun.age_at(now).as_secs_f64() / every.as_secs_f64().max(1.0);
        if round.after < round.last {
            if round.checked as f64 >= share * round.of as f64 && share < 1.0 {
                return Ok(Some(POLL));
            }
            let gap = gap(every, round.of);
            let left = self.pace.left(now, gap);
            if !left.is_zero() {
                return Ok(Some(left.min(POLL)));
            }
            self.pace.shut(now, gap);
        }
        let passed = self.passed_over(round.after);
        let next =
            self.shared.catalog.objects_to_read(self.target.name(), round.after, passed + 1)?;
        let next: Vec<ObjectRow> = next.into_iter().filter(|o| o.id <= round.last).collect();
        let Some((object, left)) = next.split_last() else {
            round.through = true;
            self.save(round)?;
            return Ok(None);
        };
        match mend::check(&self.shared, object, Duration::ZERO) {
            Ok(Check::Replaced(_)) => round.replaced += 1,
            // The last of a round: there is none behind it to tell.
            Err(error)
                if error.is_target_down()
                    && left.is_empty()
                    && passed == limits::SCRUB_PASSED_OVER_MAX as usize =>
            {
                tracing::warn!(%error, key = object.key, "an object is not given, and was not looked at");
            }
            // Of a target that is away nothing is known: this object is the next again.
            Err(error) if error.is_of_the_moment() || error.is_awaited() => {
                self.in_vain.1 = self.in_vain.1.saturating_add(u32::from(error.is_target_down()));
                return Err(error);
            }
            // Passed over, nobody would see to it before the next round.
            Ok(Check::Busy(_)) => {
                self.busy.shut(now, BUSY);
                return Ok(Some(POLL));
            }
            Err(error) => tracing::warn!(%error, key = object.key, "an object was not looked at"),
            Ok(_) => {}
        }
        for left in left {
            tracing::warn!(key = left.key, "an object is not given, and was not looked at");
        }
        round.after = object.id;
        round.checked += next.len() as u64;
        self.save(round)?;
        faults::point("scrub.after_round");
        Ok(None)
    }

    /// How many objects behind this one are left out because none of them was given, so often that it
    /// may be they and not their target.
    fn passed_over(&mut self, after: i64) -> usize {
        if self.in_vain.0 != after {
            self.in_vain = (after, 0);
        }
        (self.in_vain.1 / limits::SCRUB_TRIES).min(limits::SCRUB_PASSED_OVER_MAX) as usize
    }

    fn save(&self, round: Round) -> Result<Round> {
        let name = self.target.name();
        self.shared.alarms.lock().rounds.insert(name.to_owned(), round);
        let text = serde_json::to_string(&round).unwrap_or_default();
        self.shared.catalog.set_setting(&setting(name), &text)?;
        Ok(round)
    }
}

/// The time between two objects while what was missed is made up for.
fn gap(every: Duration, of: u64) -> Duration {
    let objects = u32::try_from(of).unwrap_or(u32::MAX).max(1);
    every / objects / limits::SCRUB_CATCHES_UP
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_missed_is_made_up_for_at_a_bounded_pace() {
        let day = Duration::from_secs(86_400);
        assert_eq!(gap(100 * day, 100), day / limits::SCRUB_CATCHES_UP);
        assert_eq!(gap(day, 0), day / limits::SCRUB_CATCHES_UP);
        let mut gate = Gate::default();
        let now = Timestamp::from_parts(1_000_000, 0);
        assert_eq!(gate.left(now, day), Duration::ZERO);
        gate.shut(now, day);
        assert_eq!(gate.left(now, day), day);
        assert_eq!(gate.left(now.plus(day / 2), day), day / 2);
        assert_eq!(gate.left(now.plus(day), day), Duration::ZERO);
        let back = Timestamp::from_parts(500_000, 0);
        assert_eq!(gate.left(back, day), Duration::ZERO, "the clock was set back");
    }
}
