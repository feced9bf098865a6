//! What is to be done with a recording next, and why not yet. Pure: facts, rules and the time in,
//! an action out. The engine acts on it, and `explain` tells it.
//!
//! Groups: files of one directory with the same stem are released together or not at all. What
//! can never be archived does not hold the others back: empty files, links and devices, and what
//! the rules exclude (such files stay local). A released file of the group does not count any
//! more, so a sidecar that comes late is released when its own time has come.

use super::pins::Pins;
use crate::catalog::{Candidate, Holds};
use crate::clock::Timestamp;
use crate::policy::{CallFacts, Chosen, Rules, Targets};
use crate::recording::{Kind, State};
use std::path::PathBuf;
use std::sync::Arc;

/// Who knows of calls what the rules ask of them.
pub trait Known: std::fmt::Debug {
    /// What is known now of the call of a recording. Soon answered, from memory or a local database.
    fn call_of(&self, it: &Candidate) -> Arc<CallFacts>;
}

/// What is known besides the recording itself.
#[derive(Clone, Copy, Debug)]
pub struct Facts<'a> {
    /// The rules of the mount.
    pub rules: &'a Rules,
    /// Names of the targets that must hold a recording before it counts as archived, unless its
    /// rule has others.
    pub required: &'a [String],
    /// What an operator keeps local.
    pub pins: &'a Pins,
    /// What is known of calls.
    pub known: &'a dyn Known,
    /// What is on legal hold.
    pub holds: &'a Holds,
    /// The present.
    pub now: Timestamp,
}

impl<'a> Facts<'a> {
    /// What its rule may ask of its call.
    pub fn call(&self, it: &Candidate) -> Arc<CallFacts> {
        match self.rules.asks_for_calls(&it.path) {
            true => self.known.call_of(it),
            false => Arc::default(),
        }
    }

    /// The rule of a recording.
    pub fn chosen(&self, it: &Candidate) -> Chosen<'a> {
        self.rules.choose(&it.path, &self.call(it))
    }

    /// Which targets are to hold a recording.
    pub fn targets(&self, it: &Candidate) -> Targets {
        match self.rules.name_targets() {
            true => self.chosen(it).treatment.targets,
            false => Targets::default(),
        }
    }

    /// Names of the targets that must hold a recording: without all of them it is not archived,
    /// and its local copy not released.
    pub fn must(&self, it: &Candidate) -> Vec<String> {
        self.targets(it).must(self.required)
    }
}

/// The next step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Read it and compute its SHA-256.
    Hash,
    /// Write it to the targets.
    Archive,
    /// Remove the local copy, with those of its group.
    Release,
    /// Nothing before `until`, or before something else happens.
    Wait {
        /// When to look again, if that is known.
        until: Option<Timestamp>,
        /// What it waits for.
        why: Why,
    },
    /// Nothing, as things are.
    Keep {
        /// Why it stays as it is.
        why: Why,
    },
}

/// Why nothing is done now. `explain` makes sentences of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Why {
    /// It is open for writing.
    Open,
    /// It was closed a moment ago.
    Settling,
    /// The retention window is not over.
    Window,
    /// No record of its call has come yet (`require_cdr`).
    NoRecord,
    /// A step failed, and is tried again later.
    Failed,
    /// It was archived, and the local copy stays for a while.
    KeepLocal,
    /// A file of its group is not ready.
    Group {
        /// Which one.
        path: PathBuf,
        /// What that one waits for.
        why: Box<Why>,
    },
    /// A file of the group is not archived yet.
    NotArchived,
    /// No target is configured that must hold it.
    NoTarget,
    /// The rules keep it local.
    Excluded(String),
    /// `archive_after = "never"`.
    Never,
    /// `keep_local = "forever"`.
    Forever,
    /// It has no bytes.
    Empty,
    /// It is no regular file.
    NoFile,
    /// It has several names.
    Linked,
    /// An operator wants it local.
    Pinned,
    /// It is released already.
    Released,
    /// It was deleted.
    Deleted,
    /// Syncing it failed: the disk is to be proved to hold it first.
    Suspect,
}

/// The next step for one recording; `group` is every file of its group, itself included or not.
pub fn next(it: &Candidate, group: &[Candidate], facts: Facts<'_>) -> Action {
    if it.row.attr.kind != Kind::File {
        return Action::Keep { why: Why::NoFile };
    }
    match it.row.state {
        State::Recording => Action::Wait { until: None, why: Why::Open },
        State::Closed => towards_archive(it, facts),
        State::Archived => towards_release(it, group, facts),
        State::Released => Action::Keep { why: Why::Released },
        State::Deleted => Action::Keep { why: Why::Deleted },
    }
}

fn towards_archive(it: &Candidate, facts: Facts<'_>) -> Action {
    if it.row.attr.size == 0 {
        return Action::Keep { why: Why::Empty };
    }
    let closed = closed_at(it);
    let settled = closed.plus(facts.rules.settle);
    if settled > facts.now {
        return Action::Wait { until: Some(settled), why: Why::Settling };
    }
    if let Some(until) = it.not_before.filter(|t| *t > facts.now) {
        return Action::Wait { until: Some(until), why: Why::Failed };
    }
    // Also what is not archived is hashed: it is then known what was written, whatever the rules
    // say later.
    if needs_hash(it) {
        return Action::Hash;
    }
    if facts.must(it).is_empty() {
        return Action::Keep { why: Why::NoTarget };
    }
    if facts.holds.has(it.row.id) {
        return Action::Archive;
    }
    let verdict = facts.rules.for_path(&it.path);
    if !verdict.archive {
        return Action::Keep { why: Why::Excluded(verdict.why) };
    }
    let Some(window) = facts.chosen(it).treatment.archive_after else {
        return Action::Keep { why: Why::Never };
    };
    let until = closed.plus(window);
    // One that may be in memory only is archived at once.
    if until > facts.now && it.row.suspect.is_none() {
        return Action::Wait { until: Some(until), why: Why::Window };
    }
    match awaits_record(it, facts) {
        Some(until) => Action::Wait { until: Some(until), why: Why::NoRecord },
        None => Action::Archive,
    }
}

/// Until when a recording waits for a record of its call; `None`: it does not, or not any more.
fn awaits_record(it: &Candidate, facts: Facts<'_>) -> Option<Timestamp> {
    let until = closed_at(it).plus(facts.rules.require_cdr?);
    if until <= facts.now || it.row.suspect.is_some() {
        return None;
    }
    let known = facts.known.call_of(it);
    (*known == CallFacts::default()).then_some(until)
}

fn towards_release(it: &Candidate, group: &[Candidate], facts: Facts<'_>) -> Action {
    if let Some(until) = it.not_before.filter(|t| *t > facts.now) {
        return Action::Wait { until: Some(until), why: Why::Failed };
    }
    if let Some(no) = against_release(it, facts) {
        return no;
    }
    match release_time(it, facts) {
        None => Action::Keep { why: Why::Forever },
        Some(t) if t > facts.now => Action::Wait { until: Some(t), why: Why::KeepLocal },
        Some(_) => group_verdict(it, group, facts),
    }
}

/// What forbids releasing an archived file, however old it is.
fn against_release(it: &Candidate, facts: Facts<'_>) -> Option<Action> {
    let why = if facts.must(it).is_empty() {
        Why::NoTarget
    } else if it.row.suspect.is_some() {
        Why::Suspect
    } else if it.row.attr.nlink > 1 {
        Why::Linked
    } else if facts.pins.has(it.row.id) {
        Why::Pinned
    } else {
        let verdict = facts.rules.for_path(&it.path);
        if verdict.archive {
            return None;
        }
        Why::Excluded(verdict.why)
    };
    Some(Action::Keep { why })
}

/// When the time of an archived file comes; `None`: never.
pub fn release_time(it: &Candidate, facts: Facts<'_>) -> Option<Timestamp> {
    let keep = facts.chosen(it).treatment.keep_for(it.row.adopted)?;
    let since = it.row.archived_at.max(it.row.recalled_at).unwrap_or_else(|| closed_at(it));
    Some(since.plus(keep))
}

fn group_verdict(it: &Candidate, group: &[Candidate], facts: Facts<'_>) -> Action {
    let mut latest: Option<Action> = None;
    for other in group.iter().filter(|o| o.row.id != it.row.id) {
        let blocked = |why| Why::Group { path: other.path.clone(), why: Box::new(why) };
        match holds_back(other, facts) {
            None => {}
            Some(Action::Wait { until, why }) => {
                latest = Some(later(latest, Action::Wait { until, why: blocked(why) }));
            }
            Some(Action::Keep { why }) => return Action::Keep { why: blocked(why) },
            Some(other_step) => latest = Some(other_step),
        }
    }
    latest.unwrap_or(Action::Release)
}

/// What a file of the group needs before the others may be released; `None`: nothing.
pub fn holds_back(other: &Candidate, facts: Facts<'_>) -> Option<Action> {
    if !counts_in_group(other, facts.rules) {
        return None;
    }
    match other.row.state {
        State::Recording => Some(Action::Wait { until: None, why: Why::Open }),
        State::Closed => Some(Action::Wait { until: None, why: Why::NotArchived }),
        State::Archived if other.row.attr.nlink > 1 => Some(Action::Keep { why: Why::Linked }),
        State::Archived if facts.pins.has(other.row.id) => Some(Action::Keep { why: Why::Pinned }),
        State::Archived if other.row.suspect.is_some() => {
            Some(Action::Wait { until: None, why: Why::Suspect })
        }
        State::Archived => match release_time(other, facts) {
            None => Some(Action::Keep { why: Why::Forever }),
            Some(t) if t > facts.now => Some(Action::Wait { until: Some(t), why: Why::KeepLocal }),
            Some(_) => None,
        },
        State::Released | State::Deleted => None,
    }
}

/// Whether a file has a say in the release of its group.
pub fn counts_in_group(it: &Candidate, rules: &Rules) -> bool {
    it.row.attr.kind == Kind::File
        && (it.row.attr.size > 0 || it.row.state == State::Recording)
        && !matches!(it.row.state, State::Released | State::Deleted)
        && rules.for_path(&it.path).archive
}

/// Of two waits the longer; one without an end is the longest.
fn later(one: Option<Action>, other: Action) -> Action {
    let until = |a: &Action| match a {
        Action::Wait { until, .. } => until.unwrap_or(Timestamp(i64::MAX)),
        _ => Timestamp(i64::MIN),
    };
    match one {
        Some(one) if until(&one) >= until(&other) => one,
        _ => other,
    }
}

/// Whether the present content was not hashed yet, as far as the catalog knows.
pub fn needs_hash(it: &Candidate) -> bool {
    let attr = &it.row.attr;
    it.row.hashed.is_none_or(|h| h.size != attr.size || h.mtime != attr.mtime)
}

/// Whether its last close is long enough ago.
pub fn is_settled(it: &Candidate, facts: Facts<'_>) -> bool {
    closed_at(it).plus(facts.rules.settle) <= facts.now
}

/// The last close; for what was found below its last change.
pub fn closed_at(it: &Candidate) -> Timestamp {
    it.row.closed_at.unwrap_or(it.row.attr.mtime)
}

#[cfg(test)]
pub(in crate::engine) use tests::file_for_tests as candidate_for_tests;

#[cfg(test)]
mod tests;
