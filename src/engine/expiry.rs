//! Expiry: what a rule lets go is deleted in all targets and here, a group at a time.
//!
//! **Invariant:** nothing is deleted without an [`crate::recording::ExpiryPermit`], granted on what
//! the catalog, the local file and each object itself say, nor before that is on record. A mark that
//! outlives the daemon is set before a name goes, and objects go only of what has a mark and no name
//! any more; so a crash at any point leaves either the recording, or a tombstone whose objects are
//! deleted later.

mod away;
mod proof;
mod trash;

use super::contain::contained;
use super::error::{EngineError, Result};
use super::shared::Shared;
use crate::audit::{Entry, Event, Subject};
use crate::catalog::Candidate;
use crate::clock::Timestamp;
use crate::policy::{Halt, Ledger, Rules};
use crate::recording::{NodeId, State, is_audio};
use crate::{faults, limits, units};
pub(super) use away::{deletable, delete_object, is_marked};
use proof::Ready;
pub(super) use proof::{Term, is_held, target_of, term};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How often the thread looks. Also what a test waits at most.
const POLL: Duration = Duration::from_millis(500);
/// All recordings are looked at once in this time...
const WALK_EVERY: Duration = Duration::from_secs(86_400);
/// ...and those remembered whose time comes before the next look.
const AHEAD: Duration = Duration::from_secs(90_000);
/// How often it is kept that the clock was looked at.
const KEEP_EVERY: Duration = Duration::from_secs(3600);
/// Where the ledger is kept.
const LEDGER: &str = "expiry";

/// How far it is.
#[derive(Debug, Default)]
pub(super) struct Expiring {
    ledger: Option<Ledger>,
    /// When the ledger was kept last.
    kept: Option<Timestamp>,
    walked: Option<Timestamp>,
    soon: BTreeSet<(Timestamp, NodeId)>,
    purge_at: Option<Timestamp>,
    /// When to try again what users deleted everywhere.
    erase_at: Option<Timestamp>,
    /// The stop at the cap was told.
    told: bool,
}

/// What became of a look at all that is due.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Expired {
    /// Files deleted.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Files that are due and stay.
    pub kept: u64,
    /// Deleted files of which some target still has an object.
    pub left: u64,
    /// Why one of them stays, or is left.
    pub why: Option<String>,
}

/// Deletes what expires until the engine stops.
pub(super) fn run(shared: &Shared) {
    let mut told = String::new();
    loop {
        match contained("deleting what expired", || step(shared)) {
            Ok(()) => told.clear(),
            Err(EngineError::Stopping) => {}
            Err(error) => {
                // It is tried again at once, and said once.
                let why = error.to_string();
                if why != told {
                    tracing::warn!(%error, "nothing that expired is deleted for now");
                }
                told = why;
            }
        }
        if shared.stop.wait(POLL) {
            return;
        }
    }
}

fn step(shared: &Shared) -> Result<()> {
    let mut state = shared.expiring.lock();
    let now = shared.now();
    if state.purge_at.is_none_or(|at| at <= now) {
        state.purge_at = Some(now.plus(limits::EXPIRED_GRACE / 2));
        away::purge(shared, limits::EXPIRED_GRACE)?;
    }
    let rules = Arc::clone(&shared.configured.read());
    state.prepare(shared, &rules)?;
    if state.erase_at.is_none_or(|at| at <= now || at > now.plus(limits::BACKOFF_MAX)) {
        trash::erase(shared, &mut state, &rules, now)?;
    }
    if rules.shortest_expiry().is_none() {
        return Ok(());
    }
    if let Some(Halt::Changed { .. } | Halt::Leapt { .. }) = state.ledger().halted(now) {
        return Ok(());
    }
    if state.walked.is_none_or(|at| at.plus(WALK_EVERY) <= now) {
        walk(shared, &mut state, &rules, now)?;
        return Ok(());
    }
    while let Some((at, id)) = state.soon.first().copied().filter(|(at, _)| *at <= now) {
        shared.check_stop()?;
        consider(shared, &mut state, &rules, id, now)?;
        state.soon.remove(&(at, id));
    }
    Ok(())
}

/// Looks at all at once, as an operator asks, who vouches for the date with that: without waiting
/// for changed rules if he waives that, and over the cap for what is due now if he confirms that.
/// Or only at what is in the trash.
pub(super) fn run_now(
    shared: &Shared,
    waive: bool,
    confirm: bool,
    only_trash: bool,
) -> Result<Expired> {
    shared.until_asked()?;
    let Some(mut state) = shared.expiring.try_lock_for(limits::EXPIRE_TURN_WAIT) else {
        let why = "recordings are being deleted at this moment; try again later";
        return Err(EngineError::refused(Path::new("retention"), why));
    };
    let now = shared.now();
    let rules = Arc::clone(&shared.configured.read());
    state.prepare(shared, &rules)?;
    let ledger = state.ledger();
    ledger.trust_clock(now);
    if waive {
        ledger.waive();
    }
    if confirm {
        ledger.confirm(now);
    }
    state.save(shared, now)?;
    state.told &= !confirm;
    let mut expired = trash::erase(shared, &mut state, &rules, now)?;
    if rules.shortest_expiry().is_some() {
        expired.add(match only_trash {
            true => trash::look(shared, &mut state, &rules, now)?,
            false => walk(shared, &mut state, &rules, now)?,
        });
    }
    if !matches!(state.ledger().halted(now), Some(Halt::Changed { .. })) {
        let (left, why) = away::purge(shared, Duration::ZERO)?;
        expired.left = left;
        expired.why = expired.why.or(why);
    }
    Ok(expired)
}

/// What keeps everything from being deleted now.
pub(super) fn halted(shared: &Shared) -> Option<Halt> {
    // While a look is under way it is not told: it may take long.
    shared.expiring.try_lock()?.ledger.as_ref()?.halted(shared.now())
}

impl Expiring {
    fn ledger(&mut self) -> &mut Ledger {
        self.ledger.get_or_insert_with(Ledger::default)
    }

    /// Reads the ledger, once, and tells it the rules and the time.
    fn prepare(&mut self, shared: &Shared, rules: &Rules) -> Result<()> {
        if self.ledger.is_none() {
            let kept = shared.catalog.setting(LEDGER)?;
            // One that can not be read is a new one: for its rules 72 hours are waited.
            self.ledger =
                Some(kept.and_then(|t| serde_json::from_str(&t).ok()).unwrap_or_default());
        }
        let (digest, now) = (rules.expiry_digest(), shared.now());
        let ledger = self.ledger();
        let leapt = ledger.look(now);
        let changed = ledger.rules(&digest, now);
        if changed || leapt {
            self.soon.clear();
            self.walked = None;
        }
        if leapt {
            tracing::error!(
                "the clock went forward by more than a day at once, or spoolfs did not run for so \
                 long; nothing expires by itself for 72 hours"
            );
        }
        if changed || leapt || self.kept.is_none_or(|at| now < at || at.plus(KEEP_EVERY) <= now) {
            self.save(shared, now)?;
        }
        Ok(())
    }

    fn save(&mut self, shared: &Shared, now: Timestamp) -> Result<()> {
        let ledger = self.ledger();
        let text = serde_json::to_string(ledger)
            .map_err(|e| EngineError::Corrupt { path: PathBuf::new(), detail: e.to_string() })?;
        shared.catalog.set_setting(LEDGER, &text)?;
        self.kept = Some(now);
        Ok(())
    }

    fn remember(&mut self, at: Timestamp, id: NodeId) {
        self.soon.insert((at, id));
        // The last is found by the next walk, which then is due sooner.
        if self.soon.len() > limits::EXPIRE_SOON_MAX
            && let Some((last, _)) = self.soon.pop_last()
        {
            let begin = Timestamp(last.0.saturating_sub_unsigned(WALK_EVERY.as_nanos() as u64));
            self.walked = self.walked.map(|at| at.min(begin));
        }
    }
}

/// Looks at all; one that was cut off is begun again.
fn walk(
    shared: &Shared,
    state: &mut Expiring,
    rules: &Arc<Rules>,
    now: Timestamp,
) -> Result<Expired> {
    let result = look_at_all(shared, state, rules, now);
    if result.is_err() {
        state.walked = None;
    }
    result
}

fn look_at_all(
    shared: &Shared,
    state: &mut Expiring,
    rules: &Arc<Rules>,
    now: Timestamp,
) -> Result<Expired> {
    let Some(shortest) = rules.shortest_expiry() else { return Ok(Expired::default()) };
    state.walked = Some(now);
    state.soon.clear();
    let mut total = Expired::default();
    let mut after = NodeId(0);
    loop {
        shared.check_stop()?;
        let page = shared.catalog.files(after, limits::PLAN_PAGE_ROWS)?;
        let Some(last) = page.last() else { break };
        after = *last;
        for id in page {
            let Some(row) = shared.catalog.node(id)? else { continue };
            let closed = row.closed_at.unwrap_or(row.attr.mtime);
            if closed.max(row.attr.mtime).plus(shortest) <= now.plus(AHEAD) {
                total.add(consider(shared, state, rules, id, now)?);
            }
        }
    }
    total.add(trash::look(shared, state, rules, now)?);
    Ok(total)
}

impl Expired {
    fn add(&mut self, one: Expired) {
        self.files += one.files;
        self.bytes += one.bytes;
        self.kept += one.kept;
        self.why = one.why.or(self.why.take());
    }
}

/// Looks at one recording and deletes its group, if it is due.
fn consider(
    shared: &Shared,
    state: &mut Expiring,
    rules: &Arc<Rules>,
    id: NodeId,
    now: Timestamp,
) -> Result<Expired> {
    in_force(shared, rules)?;
    let Some(it) = shared.candidate(id)?.filter(|it| !it.trashed) else {
        return Ok(Expired::default());
    };
    let group = shared.catalog.group(it.parent, &it.stem)?;
    let Some(term) = term(shared, shared.facts(rules), &group) else {
        return Ok(Expired::default());
    };
    if term.at > now {
        if term.at <= now.plus(AHEAD) {
            state.remember(term.at, id);
        }
        return Ok(Expired::default());
    }
    let expired = or_kept(expire(shared, state, rules, &it, now))?;
    if expired.kept > 0 && expired.files == 0 {
        state.remember(now.plus(limits::BACKOFF_MAX), id);
    }
    Ok(expired)
}

/// Rules that are not in force any more delete nothing.
fn in_force(shared: &Shared, rules: &Arc<Rules>) -> Result<()> {
    if !Arc::ptr_eq(&shared.configured.read(), rules) {
        let why = "the configuration was read again meanwhile";
        return Err(EngineError::refused(Path::new("retention"), why));
    }
    Ok(())
}

/// What keeps a recording for now does not keep the others.
fn or_kept(outcome: Result<Expired>) -> Result<Expired> {
    match outcome {
        Err(error) if !matches!(error, EngineError::Stopping | EngineError::Catalog(_)) => {
            tracing::debug!(%error, "a recording expired and stays for now");
            Ok(Expired { kept: 1, why: Some(error.to_string()), ..Expired::default() })
        }
        outcome => outcome,
    }
}

fn expire(
    shared: &Shared,
    state: &mut Expiring,
    rules: &Arc<Rules>,
    it: &Candidate,
    now: Timestamp,
) -> Result<Expired> {
    let refused = |why: &str| EngineError::refused(&it.path, why);
    let ids: Vec<NodeId> =
        shared.catalog.group(it.parent, &it.stem)?.iter().map(|c| c.row.id).collect();
    let Some(_claim) = shared.claims.try_claim(&ids) else {
        return Err(refused("something else is being done with it"));
    };
    let group = shared.catalog.group(it.parent, &it.stem)?;
    if group.iter().any(|c| !ids.contains(&c.row.id)) {
        return Err(refused("its group changed a moment ago"));
    }
    let Some(term) = term(shared, shared.facts(rules), &group).filter(|term| term.at <= now) else {
        return Err(refused("it changed a moment ago"));
    };
    take(shared, state, rules, group, (&term, None), now)
}

/// Deletes a group that is claimed, as far as the ledger lets it; `until` when it was in the trash
/// for long enough, if it is there.
fn take(
    shared: &Shared,
    state: &mut Expiring,
    rules: &Rules,
    group: Vec<Candidate>,
    (term, until): (&Term, Option<Timestamp>),
    now: Timestamp,
) -> Result<Expired> {
    let files = group.len() as u64;
    let there_are = there_are(shared)?;
    if let Err(halt) = state.ledger().may(files, term.at, there_are, rules.max_delete_per_day, now)
    {
        stopped(shared, state, halt, files, now)?;
        let path = group.first().map_or(Path::new("it"), |it| &it.path);
        return Err(EngineError::refused(path, halted_words(halt, now)));
    }
    // Nobody notices how fast it goes, but the targets.
    shared.stop.wait(limits::EXPIRE_PAUSE);
    shared.check_stop()?;
    let mut ready = Vec::new();
    for one in group {
        ready.push(proof::prepare(shared, one, term, until, now)?);
    }
    // What only belongs to a recording goes first: by itself it would have another rule, or none.
    ready.sort_by_key(|one| is_audio(&one.it.path));
    // Counted before it is done: a crash must not make room for more.
    state.ledger().deleted(files, term.at, there_are, now);
    state.save(shared, now)?;
    let outcome = go(shared, ready, term, now);
    let gone = outcome.as_ref().map_or(0, |expired| expired.files);
    if gone < files {
        state.ledger().stayed(files - gone, term.at);
        state.save(shared, now)?;
    }
    let expired = outcome?;
    let soon = now.plus(limits::EXPIRED_GRACE);
    state.purge_at = Some(state.purge_at.map_or(soon, |at| at.min(soon)));
    Ok(expired)
}

fn go(shared: &Shared, ready: Vec<Ready>, term: &Term, now: Timestamp) -> Result<Expired> {
    for one in &ready {
        on_record(shared, one, term)?;
    }
    faults::point("expiry.after_record");
    delete_all(shared, ready, now)
}

/// Deletes what is permitted, while no hold can be put on anything.
fn delete_all(shared: &Shared, ready: Vec<Ready>, now: Timestamp) -> Result<Expired> {
    shared.catalog.know_holds()?;
    let _no_hold_comes = shared.catalog.no_holds_change();
    let ids: Vec<NodeId> = ready.iter().map(|one| one.it.row.id).collect();
    let syncing = shared.syncing.claim(&ids, Instant::now() + limits::SYNC_CLAIM_WAIT);
    let mut failed = ready.iter().find_map(|one| in_the_way(shared, one, now));
    if syncing.is_none() {
        failed = failed.or(Some(EngineError::refused(Path::new("it"), "it is being synced")));
    }
    let mut expired = Expired::default();
    for one in ready {
        let (bytes, subject) = (one.it.row.attr.size, subject(&one.it));
        if failed.is_none() {
            match away::delete(shared, one, now) {
                Ok(()) => expired.add(Expired { files: 1, bytes, ..Expired::default() }),
                Err(error) => failed = Some(error),
            }
        }
        if let Some(error) = &failed {
            // It is on record as deleted, and that is not so.
            let entry = Entry::new(Event::ExpiryFailed).on(subject).why(error.to_string());
            shared.audit.record(entry);
        }
    }
    match failed {
        Some(error) if expired.files == 0 => Err(error),
        Some(error) => {
            tracing::warn!(%error, "a part of a group expired, and the rest stays for now");
            Ok(Expired { kept: 1, why: Some(error.to_string()), ..expired })
        }
        None => Ok(expired),
    }
}

/// What has come meanwhile and keeps a file, and with it its group.
fn in_the_way(shared: &Shared, one: &Ready, now: Timestamp) -> Option<EngineError> {
    if !shared.catalog.holds().let_expire(one.it.row.id, now) {
        return Some(EngineError::refused(&one.it.path, HELD));
    }
    one.quiet.as_ref()?.is_alone(&one.it.path).err().map(EngineError::from)
}

/// In words, what keeps a recording.
const HELD: &str = "it is, or was a short time ago, on legal hold";

/// Files that the cap is a share of.
pub(super) fn there_are(shared: &Shared) -> Result<u64> {
    let counts = shared.catalog.counts()?;
    let kept = |s: &State| matches!(s, State::Closed | State::Archived | State::Released);
    let files: u64 =
        counts.states.iter().filter(|(s, ..)| kept(s)).map(|(_, files, _)| files).sum();
    Ok(files + counts.empty)
}

fn subject(it: &Candidate) -> Subject {
    let (generation, sha256) = (it.row.generation, it.row.sha256);
    Subject { id: it.row.id, path: it.path.clone(), generation, sha256 }
}

/// On the disk when it returns: nothing is deleted that is not on record.
fn on_record(shared: &Shared, one: &Ready, term: &Term) -> Result<()> {
    let event = Event::Expired { rule: term.rule.clone(), targets: one.targets.clone() };
    let why = format!(
        "kept for {} by rule {}, until {}",
        units::duration_text(term.after),
        term.rule,
        crate::audit::time(term.at)
    );
    let entry = Entry::new(event).on(subject(&one.it)).because(why);
    shared.audit.record_synced(entry).map_err(|error| {
        EngineError::refused(&one.it.path, format!("it can not be put on record: {error}"))
    })
}

fn stopped(
    shared: &Shared,
    state: &mut Expiring,
    halt: Halt,
    files: u64,
    now: Timestamp,
) -> Result<()> {
    let Halt::Capped { deleted, cap } = halt else { return Ok(()) };
    if std::mem::replace(&mut state.told, true) {
        return Ok(());
    }
    state.save(shared, now)?;
    tracing::error!(
        deleted,
        cap,
        "expiry is stopped: as many recordings were deleted as may be in a day; look at \
         [[policy]], and if it is right: spoolfs retention run --confirm"
    );
    let event = Event::DeletionStopped { wanted: deleted + files, allowed: cap };
    shared.audit.record(Entry::new(event));
    Ok(())
}

/// Why nothing is deleted, for operators.
pub(super) fn halted_words(halt: Halt, now: Timestamp) -> String {
    match halt {
        Halt::Changed { until } => format!(
            "the rules changed, and nothing expires for another {} (`spoolfs retention run --now` \
             does not wait)",
            super::explain::words(now.age_at(until))
        ),
        Halt::Leapt { until } => format!(
            "the clock went forward by more than a day at once, or spoolfs did not run for so \
             long; nothing expires for another {} (if the date is right: spoolfs retention run)",
            super::explain::words(now.age_at(until))
        ),
        Halt::Capped { deleted, cap } => format!(
            "expiry is stopped: {deleted} files were deleted within a day, of {cap} that may be \
             (`max_delete_per_day`). If the rules are right: spoolfs retention run --confirm"
        ),
    }
}
