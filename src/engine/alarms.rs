//! What is known of bad copies that nothing has replaced yet, and of copies that no key opens: kept in
//! the catalog, so that no death loses an alarm.

use super::error::Result;
use super::scrub::Round;
use super::shared::Shared;
use crate::audit::{Clear, Entry, Event, Subject};
use crate::catalog::ObjectRow;
use crate::clock::Timestamp;
use crate::{faults, limits};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

const BAD: &str = "scrub.bad";

/// A copy that is gone or damaged, and was not replaced; or one that no key opens.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BadCopy {
    /// The recording, relative to the mount.
    pub path: PathBuf,
    /// The target.
    pub target: String,
    /// The key.
    pub key: String,
    /// What is wrong.
    pub reason: String,
    /// When it was found.
    pub at: Timestamp,
    /// No key of ours opens it (SSE-C): whether it is bad can not be told.
    #[serde(default)]
    pub unopened: bool,
}

/// When this daemon last looked at one again, and how often.
#[derive(Clone, Copy, Debug)]
struct Looked {
    at: Timestamp,
    times: u32,
}

impl BadCopy {
    /// How long nobody looks at it: what it is replaced by may be away for a moment, or for long. A key
    /// that is put back is heard of otherwise.
    fn rests(&self, times: u32) -> Duration {
        if self.unopened {
            return limits::SCRUB_ALARMS_EVERY;
        }
        let doubled = limits::SCRUB_ALARMS_SOON.saturating_mul(2u32.saturating_pow(times));
        doubled.min(limits::SCRUB_ALARMS_EVERY)
    }
}

/// What is known of bad copies, and how far the scrub of each target has come.
#[derive(Debug, Default)]
pub(super) struct Alarms {
    bad: BTreeMap<(String, String), BadCopy>,
    looked: BTreeMap<(String, String), Looked>,
    /// Those that an earlier daemon raised are among them.
    loaded: bool,
    pub rounds: BTreeMap<String, Round>,
}

impl Alarms {
    /// Those that are gone or damaged, and those that no key opens.
    pub fn split(&self) -> (Vec<BadCopy>, Vec<BadCopy>) {
        self.bad.values().cloned().partition(|one| !one.unopened)
    }

    /// Whether there is an alarm of any kind.
    pub fn knows(&self, target: &str, key: &str) -> bool {
        self.bad.contains_key(&(target.to_owned(), key.to_owned()))
    }

    /// Whether it is known to be gone or damaged.
    pub fn has(&self, target: &str, key: &str) -> bool {
        let known = self.bad.get(&(target.to_owned(), key.to_owned()));
        known.is_some_and(|one| !one.unopened)
    }

    /// Keys of the bad copies of a target that are to be looked at again now, some time after they
    /// were found: whoever finds one sees to it first.
    pub fn due(&self, target: &str, now: Timestamp) -> Vec<String> {
        let is_due = |name: &(String, String), one: &BadCopy| {
            let found = Looked { at: one.at, times: 0 };
            let last = self.looked.get(name).copied().unwrap_or(found);
            // Later than now: the clock was moved back.
            last.at > now || last.at.plus(one.rests(last.times)) <= now
        };
        let due = self.bad.iter().filter(|(name, one)| name.0 == target && is_due(name, one));
        due.map(|(name, _)| name.1.clone()).collect()
    }

    /// It was looked at again, if it is still one of them.
    pub fn looked(&mut self, target: &str, key: &str, now: Timestamp) {
        let name = (target.to_owned(), key.to_owned());
        if self.bad.contains_key(&name) {
            let times = self.looked.get(&name).map_or(0, |last| last.times);
            self.looked.insert(name, Looked { at: now, times: times.saturating_add(1) });
        }
    }
}

/// What an earlier daemon knew, unless it was read before.
pub(super) fn load(shared: &Shared) -> Result<()> {
    if shared.alarms.lock().loaded {
        return Ok(());
    }
    let text = shared.catalog.setting(BAD)?;
    let bad: Vec<BadCopy> =
        text.and_then(|text| serde_json::from_str(&text).ok()).unwrap_or_default();
    let mut alarms = shared.alarms.lock();
    alarms.loaded = true;
    for one in bad {
        let name = (one.target.clone(), one.key.clone());
        // Whoever found it may have died before he saw to it.
        alarms.looked.entry(name.clone()).or_insert(Looked { at: Timestamp(0), times: 0 });
        alarms.bad.entry(name).or_insert(one);
    }
    Ok(())
}

/// What there is an alarm of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Alarm {
    /// It is gone or damaged.
    Bad,
    /// No key opens it: nothing is known of it, and nothing of that is on record.
    Unopened,
}

/// Raises an alarm, unless it is raised. False if there are too many of the kind already.
pub(super) fn raise(
    shared: &Shared,
    object: &ObjectRow,
    path: PathBuf,
    (alarm, reason): (Alarm, &str),
) -> Result<bool> {
    load(shared)?;
    let name = (object.target.clone(), object.key.clone());
    let unopened = alarm == Alarm::Unopened;
    {
        let mut alarms = shared.alarms.lock();
        // One that was bad before its key was lost is still that.
        if alarms.bad.get(&name).is_some_and(|one| unopened || !one.unopened) {
            return Ok(true);
        }
        let of_kind = alarms.bad.values().filter(|one| one.unopened == unopened);
        if of_kind.count() >= limits::BAD_COPIES_MAX {
            return Ok(false);
        }
        let (at, reason) = (shared.now(), reason.to_owned());
        let (target, key) = name.clone();
        let path = path.clone();
        alarms.bad.insert(name, BadCopy { path, target, key, reason, at, unopened });
    }
    if !unopened {
        let event = failed(object);
        shared.audit.record(Entry::new(event).on(subject(object, path)).why(reason));
    }
    store(shared)?;
    faults::point("scrub.after_alarm");
    Ok(true)
}

/// Says why an alarm lasts.
pub(super) fn explain(shared: &Shared, object: &ObjectRow, reason: &str) -> Result<()> {
    let name = (object.target.clone(), object.key.clone());
    match shared.alarms.lock().bad.get_mut(&name) {
        Some(one) if one.reason != reason => reason.clone_into(&mut one.reason),
        _ => return Ok(()),
    }
    store(shared)
}

/// An alarm is over.
pub(super) fn clear(shared: &Shared, target: &str, key: &str) -> Result<()> {
    load(shared)?;
    let name = (target.to_owned(), key.to_owned());
    let over = {
        let mut alarms = shared.alarms.lock();
        alarms.looked.remove(&name);
        alarms.bad.remove(&name)
    };
    if let Some(over) = over {
        if !over.unopened {
            let (target, key) = (over.target, Clear::key(&over.key));
            let event = Event::VerificationSettled { target, key };
            shared.audit.record(Entry::new(event).why(over.path.to_string_lossy()));
        }
        store(shared)?;
        faults::point("scrub.after_clear");
    }
    Ok(())
}

/// An archived copy of a recording, for the audit log.
pub(super) fn subject(object: &ObjectRow, path: PathBuf) -> Subject {
    let (id, generation) = (object.node, object.generation);
    Subject { id, path, generation, sha256: Some(object.sha256) }
}

/// What is on record of a bad copy.
pub(super) fn failed(object: &ObjectRow) -> Event {
    let (target, key) = (object.target.clone(), Clear::key(&object.key));
    Event::VerificationFailed { target, key }
}

fn store(shared: &Shared) -> Result<()> {
    // One at a time, so that an older list does not come after a newer one.
    let _storing = shared.storing_alarms.lock();
    let all: Vec<BadCopy> = shared.alarms.lock().bad.values().cloned().collect();
    let text = serde_json::to_string(&all).unwrap_or_default();
    Ok(shared.catalog.set_setting(BAD, &text)?)
}
