//! What rules would do until some time, for `spoolfs retention plan`. Nothing is changed by it.

use super::error::Result;
use super::expiry;
use super::plan::{self, Facts};
use super::shared::Shared;
use crate::catalog::{Candidate, ObjectState};
use crate::clock::Timestamp;
use crate::limits;
use crate::policy::Rules;
use crate::recording::{NodeId, State};
use std::collections::BTreeMap;

/// Some files.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sum {
    /// How many.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
}

/// What is done by one rule. A file counts for each step that it comes to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Doing {
    /// Archived.
    pub archive: Sum,
    /// Local copies removed.
    pub release: Sum,
    /// Deleted everywhere.
    pub expire: Sum,
    /// Would be deleted everywhere, but are, or were a short time before, on legal hold.
    pub held: Sum,
}

/// What is done until some time, if nothing is in the way and nothing new is recorded.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Forecast {
    /// By the name of the rule.
    pub rules: BTreeMap<String, Doing>,
    /// Files that there are now.
    pub files: u64,
    /// Of which so many may expire in a day.
    pub per_day: u64,
    /// The rules expire other recordings than those in force, or at other times.
    pub others: bool,
    /// By target, the bytes of the objects that stay, and of those that expire; only if asked for.
    pub objects: BTreeMap<String, Bytes>,
}

/// Bytes of objects in a target.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Bytes {
    /// Of what is kept.
    pub stay: u64,
    /// Of what expires.
    pub go: u64,
}

impl Sum {
    fn add(&mut self, it: &Candidate) {
        self.files += 1;
        self.bytes += it.row.attr.size;
    }
}

/// `weigh`: count the bytes in each target, too.
pub(super) fn forecast(
    shared: &Shared,
    rules: &Rules,
    at: Timestamp,
    weigh: bool,
) -> Result<Forecast> {
    shared.catalog.drain()?;
    shared.catalog.know_holds()?;
    let files = expiry::there_are(shared)?;
    let mut forecast = Forecast {
        files,
        per_day: crate::policy::cap(files, rules.max_delete_per_day),
        others: rules.expiry_digest() != shared.configured.read().expiry_digest(),
        ..Forecast::default()
    };
    let facts = Facts { now: at, ..shared.facts(rules) };
    let mut after = NodeId(0);
    loop {
        shared.check_stop()?;
        let page = shared.catalog.files(after, limits::PLAN_PAGE_ROWS)?;
        let Some(last) = page.last() else { return Ok(forecast) };
        after = *last;
        for id in page {
            let Some(it) = shared.candidate(id)? else { continue };
            let group = shared.catalog.group(it.parent, &it.stem)?;
            // Each group once.
            if group.iter().all(|one| one.row.id >= id) {
                let goes = forecast.add(shared, facts, &group);
                if weigh {
                    forecast.weigh(shared, &group, goes)?;
                }
            }
        }
    }
}

impl Forecast {
    fn weigh(&mut self, shared: &Shared, group: &[Candidate], goes: bool) -> Result<()> {
        for it in group {
            for object in shared.catalog.objects(it.row.id, None)? {
                if object.state == ObjectState::Verified {
                    let bytes = self.objects.entry(object.target).or_default();
                    let sum = if goes { &mut bytes.go } else { &mut bytes.stay };
                    *sum += object.stored.size;
                }
            }
        }
        Ok(())
    }

    /// Tells whether it expires.
    fn add(&mut self, shared: &Shared, facts: Facts<'_>, group: &[Candidate]) -> bool {
        let release = release_at(facts, group).filter(|at| *at <= facts.now);
        for it in group {
            let rule = facts.chosen(it).name();
            if archive_at(facts, it).is_some_and(|at| at <= facts.now) {
                self.rules.entry(rule.clone()).or_default().archive.add(it);
            }
            if release.is_some() && plan::counts_in_group(it, facts.rules) {
                self.rules.entry(rule).or_default().release.add(it);
            }
        }
        let Some(term) = expiry::term(shared, facts, group).filter(|term| term.at <= facts.now)
        else {
            return false;
        };
        let free = |it: &Candidate| facts.holds.let_expire(it.row.id, facts.now);
        let doing = self.rules.entry(term.rule).or_default();
        let goes = group.iter().all(free);
        let sum = if goes { &mut doing.expire } else { &mut doing.held };
        group.iter().for_each(|it| sum.add(it));
        goes
    }
}

/// When a closed file is archived; `None`: never, or it is.
fn archive_at(facts: Facts<'_>, it: &Candidate) -> Option<Timestamp> {
    let waits = it.row.state == State::Closed && it.row.attr.size > 0;
    if !waits || facts.must(it).is_empty() || !facts.rules.for_path(&it.path).archive {
        return None;
    }
    Some(plan::closed_at(it).plus(facts.chosen(it).treatment.archive_after?))
}

/// When the local copies of a group are released; `None`: never, or there are none.
fn release_at(facts: Facts<'_>, group: &[Candidate]) -> Option<Timestamp> {
    let mut latest = None;
    for it in group.iter().filter(|it| plan::counts_in_group(it, facts.rules)) {
        if facts.must(it).is_empty() || facts.pins.has(it.row.id) || it.row.attr.nlink > 1 {
            return None;
        }
        let at = match it.row.state {
            State::Archived => plan::release_time(it, facts)?,
            State::Closed => {
                let keep = facts.chosen(it).treatment.keep_for(it.row.adopted)?;
                archive_at(facts, it)?.plus(keep)
            }
            _ => return None,
        };
        latest = latest.max(Some(at));
    }
    latest
}
