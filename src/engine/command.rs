//! `archive`, `release` and `recall` on request: blocking, some recordings at a time, with a word
//! on each.

use super::archive::{self, Archived};
use super::claims::Claim;
use super::collect::collect;
use super::contain::contained;
use super::error::{EngineError, Result};
use super::hash::{self, Hashed};
use super::mend::{self, Check};
use super::plan::{self, Why, counts_in_group};
use super::release::{self, Wish};
use super::shared::Shared;
use super::{explain, recall, spread};
use crate::catalog::{Candidate, HashOutcome, ObjectRow, ObjectState};
use crate::clock::Timestamp;
use crate::limits;
use crate::lower::LowerError;
use crate::recording::{NodeId, State};
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// How long a command waits for a writer, or for another step with the same recording.
const SHORT_WAIT: Duration = Duration::from_secs(5);
/// How often it looks meanwhile.
const LOOK_AGAIN: Duration = Duration::from_millis(100);
/// When a file that was closed before a command was given is known to be.
const CLOSE_HEARD: Duration = Duration::from_secs(1);

/// What a command does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command {
    /// Archive now, without waiting for `archive_after`.
    Archive,
    /// Release now, without waiting for `keep_local`.
    Release,
    /// Bring the local copy back.
    Recall,
    /// The same of what is released and was last written between these times.
    RecallBetween {
        /// Not before.
        since: Option<Timestamp>,
        /// Not after.
        until: Option<Timestamp>,
    },
    /// Bring the local copy back and never release it.
    Pin,
    /// End that.
    Unpin,
    /// Read all archived copies and compare their hashes.
    Verify,
}

/// What became of one recording.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Done now.
    Done,
    /// Nothing was to be done; why.
    Already(String),
    /// Not done; why, and what to do.
    Failed(String),
}

/// One recording that a command is through with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Progress {
    /// Relative to the mount.
    pub path: PathBuf,
    /// What became of it.
    pub outcome: Outcome,
    /// How many are through, this one included.
    pub done: usize,
    /// How many there are.
    pub total: usize,
    /// Bytes to be fetched for all of them, as far as known.
    pub bytes_total: u64,
}

/// What a command did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// Done by it.
    pub done: usize,
    /// Nothing was to be done.
    pub already: usize,
    /// Not done.
    pub failed: usize,
}

pub(super) fn run(
    shared: &Shared,
    command: Command,
    paths: &[PathBuf],
    progress: &(dyn Fn(&Progress) + Sync),
) -> Result<Summary> {
    shared.catalog.drain()?;
    if command == Command::Verify {
        // Of one that is asked first at this moment nothing could be told, nor replaced from it.
        shared.until_asked()?;
    }
    let everything = paths.iter().any(|path| path.components().next().is_none());
    if command == Command::Verify && everything {
        let pages = Pages::new(shared)?;
        let total = pages.total;
        return work(shared, command, pages, total, Vec::new(), progress);
    }
    let found = collect(shared, command, paths)?;
    let steps = match command {
        Command::Release => by_group(shared, found.files)?,
        _ => found.files.into_iter().map(|id| vec![id]).collect(),
    };
    let total = steps.iter().map(Vec::len).sum::<usize>() + found.missing.len();
    let progress = &|through: &Progress| {
        progress(&Progress { bytes_total: found.bytes, ..through.clone() });
    };
    work(shared, command, steps.into_iter().map(Ok), total, found.missing, progress)
}

/// Archives these recordings at once.
pub(super) fn archive_all(
    shared: &Shared,
    ids: &[NodeId],
    progress: &(dyn Fn(&Progress) + Sync),
) -> Result<Summary> {
    let steps = ids.iter().map(|id| Ok(vec![*id]));
    work(shared, Command::Archive, steps, ids.len(), Vec::new(), progress)
}

/// All files, a page at a time: there may be millions.
struct Pages<'a> {
    shared: &'a Shared,
    after: NodeId,
    page: std::vec::IntoIter<NodeId>,
    /// How many there are, about.
    total: usize,
}

impl Pages<'_> {
    fn new(shared: &Shared) -> Result<Pages<'_>> {
        let counts = shared.catalog.counts()?;
        let files = counts.states.iter().filter(|(state, ..)| *state != State::Deleted);
        let total = files.map(|(_, files, _)| files).sum::<u64>().saturating_add(counts.empty);
        let total = usize::try_from(total);
        let page = Vec::new().into_iter();
        Ok(Pages { shared, after: NodeId(0), page, total: total.unwrap_or(usize::MAX) })
    }

    fn turn(&mut self) -> Result<()> {
        let page = self.shared.catalog.files(self.after, limits::PLAN_PAGE_ROWS)?;
        self.after = page.last().copied().unwrap_or(self.after);
        self.page = page.into_iter();
        Ok(())
    }
}

impl Iterator for Pages<'_> {
    type Item = Result<Vec<NodeId>>;

    fn next(&mut self) -> Option<Result<Vec<NodeId>>> {
        if self.page.len() == 0
            && let Err(error) = self.turn()
        {
            return Some(Err(error));
        }
        self.page.next().map(|id| Ok(vec![id]))
    }
}

/// Does the same with each file at and below the paths.
pub(super) fn each(
    shared: &Shared,
    paths: &[PathBuf],
    work: &(dyn Fn(NodeId) -> Result<Outcome> + Sync),
    progress: &(dyn Fn(&Progress) + Sync),
) -> Result<Summary> {
    shared.catalog.drain()?;
    let one = |ids: &[NodeId], tell: Tell<'_>| {
        for id in ids {
            let path = shared.path_of(*id).ok().flatten().unwrap_or_default();
            let outcome = contained("working on a recording", || work(*id));
            tell(path, outcome.unwrap_or_else(|e| Outcome::Failed(e.to_string())));
        }
    };
    if paths.iter().any(|path| path.components().next().is_none()) {
        let pages = Pages::new(shared)?;
        let total = pages.total;
        return each_step(shared, &one, pages, total, Vec::new(), progress);
    }
    let found = collect(shared, Command::Verify, paths)?;
    let total = found.files.len() + found.missing.len();
    let steps = found.files.into_iter().map(|id| Ok(vec![id]));
    each_step(shared, &one, steps, total, found.missing, progress)
}

/// Tells what became of a recording.
type Tell<'a> = &'a dyn Fn(PathBuf, Outcome);

fn work(
    shared: &Shared,
    command: Command,
    steps: impl Iterator<Item = Result<Vec<NodeId>>> + Send,
    total: usize,
    missing: Vec<PathBuf>,
    progress: &(dyn Fn(&Progress) + Sync),
) -> Result<Summary> {
    let began = Instant::now();
    let one = |ids: &[NodeId], tell: Tell<'_>| one(shared, (command, began), ids, tell);
    each_step(shared, &one, steps, total, missing, progress)
}

/// Does it with several threads.
fn each_step(
    shared: &Shared,
    one: &(dyn Fn(&[NodeId], Tell<'_>) + Sync),
    steps: impl Iterator<Item = Result<Vec<NodeId>>> + Send,
    total: usize,
    missing: Vec<PathBuf>,
    progress: &(dyn Fn(&Progress) + Sync),
) -> Result<Summary> {
    let tally = Mutex::new(Summary::default());
    let tell = |path: PathBuf, outcome: Outcome| {
        let mut tally = tally.lock();
        match outcome {
            Outcome::Done => tally.done += 1,
            Outcome::Already(_) => tally.already += 1,
            Outcome::Failed(_) => tally.failed += 1,
        }
        let done = tally.done + tally.already + tally.failed;
        progress(&Progress { path, outcome, done, total: total.max(done), bytes_total: 0 });
    };
    for path in missing {
        tell(path, Outcome::Failed("there is no such file or directory".into()));
    }
    let queue = Mutex::new(steps);
    let failure = Mutex::new(None);
    std::thread::scope(|scope| {
        for _ in 0..limits::COMMAND_THREADS {
            scope.spawn(|| {
                while !shared.stop.is_set() {
                    let next = queue.lock().next();
                    match next {
                        Some(Ok(ids)) => one(&ids, &tell),
                        Some(Err(error)) => return *failure.lock() = Some(error),
                        None => return,
                    }
                }
            });
        }
    });
    shared.check_stop()?;
    let summary = *tally.lock();
    failure.into_inner().map_or(Ok(summary), Err)
}

fn one(
    shared: &Shared,
    (command, began): (Command, Instant),
    ids: &[NodeId],
    tell: &dyn Fn(PathBuf, Outcome),
) {
    let tell_one = |path: Option<PathBuf>, result: Result<Outcome>| {
        let outcome = result.unwrap_or_else(|e| Outcome::Failed(e.to_string()));
        tell(path.unwrap_or_default(), outcome);
    };
    if command == Command::Release {
        return release_group(shared, ids, began, tell);
    }
    for id in ids {
        let path = shared.path_of(*id).ok().flatten();
        let result = contained("working on a recording", || match command {
            Command::Archive => archive_now(shared, *id, began),
            Command::Verify => verify_now(shared, *id),
            Command::Pin => pin_now(shared, *id),
            Command::Unpin => unpin_now(shared, *id),
            _ => recall_now(shared, *id),
        });
        tell_one(path, result);
    }
}

/// Files of one group together, whichever of them were named.
fn by_group(shared: &Shared, files: Vec<NodeId>) -> Result<Vec<Vec<NodeId>>> {
    let mut groups = BTreeMap::new();
    for id in files {
        if let Some(it) = shared.candidate(id)? {
            groups.entry((it.parent, it.stem)).or_insert_with(Vec::new).push(id);
        }
    }
    Ok(groups.into_values().collect())
}

pub(super) fn claim(shared: &Shared, ids: &[NodeId], path: &Path) -> Result<Claim> {
    let deadline = Instant::now() + limits::COMMAND_CLAIM_WAIT;
    shared.claims.claim(ids, deadline).ok_or_else(|| {
        EngineError::refused(path, "another step with it is still going on; try again later")
    })
}

pub(super) fn current(shared: &Shared, id: NodeId) -> Result<Candidate> {
    shared
        .candidate(id)?
        .ok_or_else(|| EngineError::refused(Path::new(""), "it was deleted meanwhile"))
}

fn archive_now(shared: &Shared, id: NodeId, began: Instant) -> Result<Outcome> {
    let path = current(shared, id)?.path;
    let _claim = claim(shared, &[id], &path)?;
    let give_up = Instant::now() + SHORT_WAIT;
    loop {
        shared.check_stop()?;
        let it = current(shared, id)?;
        if let Some(done) = needs_no_archive(shared, &it) {
            return done;
        }
        let late = Instant::now() >= give_up;
        match archive_step(shared, &it) {
            Ok(true) => return Ok(Outcome::Done),
            Ok(false) if late => {
                return Err(EngineError::refused(&it.path, "it keeps changing; try again later"));
            }
            Err(EngineError::Lower(LowerError::Busy { .. } | LowerError::Changed { .. }))
                if !late => {}
            Err(error) if error.is_target_down() && worth_asking_again(shared, began) => {}
            Err(error) => {
                shared.note_failure(id, &error);
                return Err(error);
            }
            Ok(false) => {}
        }
        shared.stop.wait(LOOK_AGAIN);
    }
}

/// Whether a target that was down may be up by now: whoever gives a command may have mended it a
/// moment ago. Asked once for a whole command, since each recording of it would wait.
fn worth_asking_again(shared: &Shared, began: Instant) -> bool {
    if began.elapsed() >= SHORT_WAIT {
        return false;
    }
    let mut down = shared.needed_targets();
    down.retain(|t| !t.is_up());
    let unasked = down.iter().filter(|t| !t.is_known_since(began)).collect::<Vec<_>>();
    unasked.iter().for_each(|t| t.ask_again(shared.now()));
    down.is_empty() || !unasked.is_empty()
}

fn needs_no_archive(shared: &Shared, it: &Candidate) -> Option<Result<Outcome>> {
    let already = |why: &str| Some(Ok(Outcome::Already(why.to_owned())));
    let refuse = |why: String| Some(Err(EngineError::refused(&it.path, why)));
    match it.row.state {
        State::Archived | State::Released if shared.lacks_one(it) => None,
        State::Archived => already("it is archived"),
        State::Released => already("it is archived and released"),
        State::Deleted => refuse("it was deleted".into()),
        State::Closed if it.row.attr.size == 0 => already(&explain::reason(&Why::Empty)),
        _ if shared.must_be_nowhere(it) => refuse(explain::reason(&Why::NoTarget)),
        _ => {
            let verdict = shared.rules().for_path(&it.path);
            (!verdict.archive && !shared.catalog.is_held(it.row.id)).then(|| {
                Err(EngineError::refused(&it.path, explain::reason(&Why::Excluded(verdict.why))))
            })
        }
    }
}

/// One step on the way to the archive; true when it is there.
fn archive_step(shared: &Shared, it: &Candidate) -> Result<bool> {
    if it.row.state == State::Recording {
        // Its writer may have gone with an earlier daemon, but that is for the kernel to say.
        return Err(LowerError::Busy { path: it.path.clone() }.into());
    }
    if it.row.state == State::Released {
        return spread::bring(shared, it).map(|()| true);
    }
    if plan::needs_hash(it) {
        return match hash::hash(shared, it)? {
            Hashed::Done(HashOutcome::Same(_)) => {
                Ok(shared.catalog.node(it.row.id)?.is_some_and(|r| r.state == State::Archived))
            }
            Hashed::Done(_) | Hashed::Later(_) => Ok(false),
            Hashed::Gone => Err(EngineError::refused(&it.path, "it was deleted meanwhile")),
        };
    }
    match archive::archive(shared, it)? {
        Archived::Done => Ok(true),
        Archived::Changed => Ok(false),
        Archived::Gone => Err(EngineError::refused(&it.path, "it was deleted meanwhile")),
    }
}

fn release_group(
    shared: &Shared,
    named: &[NodeId],
    began: Instant,
    tell: &dyn Fn(PathBuf, Outcome),
) {
    let tell_named = |outcome: Outcome| {
        for id in named {
            tell(shared.path_of(*id).ok().flatten().unwrap_or_default(), outcome.clone());
        }
    };
    match contained("releasing", || release_settled(shared, named, began)) {
        Ok((released, already)) => {
            released.into_iter().for_each(|path| tell(path, Outcome::Done));
            already.into_iter().for_each(|(path, why)| tell(path, Outcome::Already(why)));
        }
        Err(error) => tell_named(Outcome::Failed(error.to_string())),
    }
}

/// Releases, and hashes again what seems to have changed: a rename or a name less moves the stamp
/// of a file whose content is what it was.
fn release_settled(shared: &Shared, named: &[NodeId], began: Instant) -> Result<Released> {
    let give_up = Instant::now() + SHORT_WAIT;
    loop {
        match try_release(shared, named) {
            Err(EngineError::Lower(LowerError::Changed { .. })) if Instant::now() < give_up => {}
            // Whoever gives the command may have closed it a moment ago: close(2) does not wait until
            // we hear of it. Once for a whole command.
            Err(EngineError::Lower(LowerError::InUse { .. } | LowerError::Busy { .. }))
                if began.elapsed() < CLOSE_HEARD =>
            {
                shared.stop.wait(LOOK_AGAIN);
                shared.check_stop()?;
            }
            // It was not reached since the start; perhaps it can be now.
            Err(error)
                if error.is_target_down()
                    && Instant::now() < give_up
                    && shared.needed_targets().iter().any(|t| t.is_in_doubt()) =>
            {
                let needed = shared.needed_targets();
                needed.iter().filter(|t| t.is_in_doubt()).for_each(|t| t.nudge());
                shared.stop.wait(LOOK_AGAIN);
                shared.check_stop()?;
            }
            result => return result,
        }
        while hash_group(shared, named)? && Instant::now() < give_up {
            shared.stop.wait(LOOK_AGAIN);
            shared.check_stop()?;
        }
    }
}

/// Hashes what needs it in a group; tells whether something is still too young for that.
fn hash_group(shared: &Shared, named: &[NodeId]) -> Result<bool> {
    let Some(first) = named.first() else { return Ok(false) };
    let it = current(shared, *first)?;
    let mut young = false;
    for one in shared.catalog.group(it.parent, &it.stem)? {
        if one.row.state == State::Closed && plan::needs_hash(&one) {
            let _claim = claim(shared, &[one.row.id], &one.path)?;
            young |= matches!(hash::hash(shared, &one)?, Hashed::Later(_));
        }
    }
    Ok(young)
}

type Released = (Vec<PathBuf>, Vec<(PathBuf, String)>);

fn try_release(shared: &Shared, named: &[NodeId]) -> Result<Released> {
    let Some(first) = named.first() else { return Ok(Released::default()) };
    let it = current(shared, *first)?;
    let ids: Vec<NodeId> =
        shared.catalog.group(it.parent, &it.stem)?.iter().map(|c| c.row.id).collect();
    let _claim = claim(shared, &ids, &it.path)?;
    // As it is now that nobody else works on it.
    let group: Vec<Candidate> = shared
        .catalog
        .group(it.parent, &it.stem)?
        .into_iter()
        .filter(|c| ids.contains(&c.row.id))
        .collect();
    let rules = shared.rules();
    let mut already = Vec::new();
    for one in group.iter().filter(|c| named.contains(&c.row.id)) {
        if one.row.state == State::Released {
            already.push((one.path.clone(), "it is released already".to_owned()));
        } else if !counts_in_group(one, &rules) {
            let why = match one.row.attr.size {
                0 => Why::Empty,
                _ => Why::Excluded(rules.for_path(&one.path).why),
            };
            already.push((one.path.clone(), format!("it stays: {}", explain::reason(&why))));
        }
    }
    for one in group.iter().filter(|c| counts_in_group(c, &rules)) {
        if one.row.state != State::Archived {
            let why = format!("not archived yet (it is {}); archive it first", one.row.state);
            return Err(EngineError::refused(&one.path, why));
        }
    }
    Ok((release::release_group(shared, &group, Wish::Operator)?, already))
}

fn verify_now(shared: &Shared, id: NodeId) -> Result<Outcome> {
    let mut bad = Vec::new();
    let objects = shared.catalog.objects(id, None)?;
    let released = shared.catalog.node(id)?.filter(|row| row.state == State::Released);
    let verified = objects.iter().filter(|o| match o.state {
        ObjectState::Verified => true,
        // A rebuild did not see it.
        ObjectState::Assigned => {
            released.as_ref().is_some_and(|row| row.generation == o.generation)
        }
        ObjectState::Abandoned => false,
    });
    let mut looked_at = 0;
    for object in verified {
        shared.check_stop()?;
        looked_at += 1;
        match verify_one(shared, object) {
            Ok(Check::Good) => {}
            Ok(Check::Busy(what)) => {
                bad.push(format!("{what}; something else is being done with it, verify it again"));
            }
            Ok(Check::Replaced(what) | Check::Lost(what) | Check::Unopened(what)) => bad.push(what),
            Err(EngineError::Stopping) => return Err(EngineError::Stopping),
            Err(error) => bad.push(error.to_string()),
        }
    }
    Ok(match (looked_at, bad.is_empty()) {
        (0, _) => Outcome::Already("no target has a verified copy yet".into()),
        (_, true) => Outcome::Done,
        _ => Outcome::Failed(bad.join("; ")),
    })
}

fn verify_one(shared: &Shared, object: &ObjectRow) -> Result<Check> {
    if !shared.alarms.lock().knows(&object.target, &object.key) {
        return mend::check(shared, object, limits::COMMAND_CLAIM_WAIT);
    }
    // The scrub may be looking at it again: what it saw before is not to be the last word.
    let _claim = claim(shared, &[object.node], Path::new(&object.key))?;
    mend::check_claimed(shared, object)
}

fn recall_now(shared: &Shared, id: NodeId) -> Result<Outcome> {
    let Some(row) = shared.catalog.node(id)? else {
        return Err(EngineError::refused(Path::new(""), "it was deleted meanwhile"));
    };
    if !matches!(row.state, State::Released | State::Archived)
        || (row.state == State::Archived && !shared.is_gone(id)?)
    {
        return Ok(Outcome::Already("the local copy is here".into()));
    }
    recall::recall(shared, id, Instant::now() + recall::patience(row.attr.size))?;
    Ok(Outcome::Done)
}

/// First pinned, so that it is not released again the moment it is here.
fn pin_now(shared: &Shared, id: NodeId) -> Result<Outcome> {
    let new = shared.pins.set(&shared.catalog, id, true)?;
    match recall_now(shared, id)? {
        Outcome::Already(_) if !new => Ok(Outcome::Already("it is pinned already".into())),
        _ => Ok(Outcome::Done),
    }
}

fn unpin_now(shared: &Shared, id: NodeId) -> Result<Outcome> {
    Ok(match shared.pins.set(&shared.catalog, id, false)? {
        true => Outcome::Done,
        false => Outcome::Already("it was not pinned".into()),
    })
}
