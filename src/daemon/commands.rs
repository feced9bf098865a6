//! Answers the commands that come over the control socket.

use super::link::Link;
use super::lookup::{find, recording};
use super::{Daemon, calls, setup, trash};
use crate::audit::Event;
use crate::catalog::{Catalog, CatalogError, Counts, ObjectState, Trouble};
use crate::clock::Timestamp;
use crate::config::{Config, Environment};
use crate::content;
use crate::control::{
    Backlog, CacheUse, Counters, DiskPressure, DiskUse, DrainReport, Failure, FileSum, Handler,
    JoinsReport, LastError, MoveReport, ObjectReport, PathFailure, PathReport, Peer, Progress,
    ReloadReport, Request, StateCount, StatusReport, TargetName, TargetReport, TargetState,
    TrashCount, TrashRequest, UploadsReport, VersionReport, Waiting, WirePath, next_recording,
};
use crate::engine::{
    self, Amount, BadCopy, Command, Drain, JoinStatus, Outcome, Pressure, Standing, Status,
    TargetStatus,
};
use crate::limits;
use crate::policy::Rate;
use crate::recording::State;
use crate::units::Age;
use parking_lot::Mutex;
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::time::Duration;

/// How the daemon answers.
pub struct Commands {
    daemon: std::sync::Arc<Daemon>,
}

impl Commands {
    /// For this daemon.
    pub fn new(daemon: std::sync::Arc<Daemon>) -> Commands {
        Commands { daemon }
    }
}

impl Handler for Commands {
    fn handle(
        &self,
        request: Request,
        peer: &Peer,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<Value, Failure> {
        let daemon = &*self.daemon;
        match request {
            Request::Version => json(&VersionReport::own()),
            Request::Status { path: None } => json(&status(daemon)),
            Request::Status { path: Some(path) } | Request::Explain { path } => {
                json(&about(daemon, &path.0)?)
            }
            Request::Archive { paths } => json(&moved(daemon, Command::Archive, paths, progress)?),
            Request::Release { paths } => json(&moved(daemon, Command::Release, paths, progress)?),
            Request::Recall { paths, since: None, until: None } => {
                json(&moved(daemon, Command::Recall, paths, progress)?)
            }
            Request::Recall { paths, since, until } => {
                let command = Command::RecallBetween { since, until };
                json(&moved(daemon, command, paths, progress)?)
            }
            Request::Pin { paths } => {
                super::record::asked(daemon, Event::Pinned, &paths, peer);
                json(&moved(daemon, Command::Pin, paths, progress)?)
            }
            Request::Unpin { paths } => {
                super::record::asked(daemon, Event::Unpinned, &paths, peer);
                json(&moved(daemon, Command::Unpin, paths, progress)?)
            }
            Request::Verify { paths } => json(&moved(daemon, Command::Verify, paths, progress)?),
            Request::Recompress { paths, plan } => {
                json(&super::rewrite::recompress(daemon, paths, plan, peer, progress)?)
            }
            Request::Reseal { paths, plan, add, remove } => {
                let keys = (add, remove);
                json(&super::rewrite::reseal(daemon, (paths, plan), keys, peer, progress)?)
            }
            Request::Url { path, seconds, target } => {
                json(&super::url::shared(daemon, (&path.0, seconds, target.as_deref()), peer)?)
            }
            Request::Find { query } if daemon.calls.is_none() => {
                json(&super::named::find(daemon, &query)?)
            }
            Request::Find { query } => json(&calls::find(&*calls::fresh(daemon)?, &query)?),
            Request::Gaps { from, to } => json(&calls::gaps(&*calls::fresh(daemon)?, from, to)?),
            Request::Trash(TrashRequest::List { paths, limit }) => {
                json(&trash::list(daemon, &paths, limit)?)
            }
            Request::Trash(TrashRequest::Restore { items, to }) => {
                json(&trash::restore(daemon, items, to, progress)?)
            }
            Request::Imported { paths, bytes } => {
                json(&super::record::imported(daemon, &paths, bytes, peer)?)
            }
            Request::AuditErase { subject, dry_run } => {
                json(&super::record::erase(daemon, &subject, peer, dry_run)?)
            }
            Request::Hold(request) => super::holds::handle(daemon, request, peer, progress),
            Request::RetentionPlan { config, at } => {
                json(&super::rules::plan(daemon, &config.0, at)?)
            }
            Request::Retention { now, confirm, trash } => {
                json(&super::rules::run(daemon, (now, confirm), trash, peer)?)
            }
            Request::Reload => json(&reload(daemon, Some(peer))?),
        }
    }
}

pub(super) fn json(report: &impl serde::Serialize) -> Result<Value, Failure> {
    serde_json::to_value(report).map_err(|e| Failure::new(format!("the answer is no JSON: {e}")))
}

pub(super) fn unusable(error: CatalogError) -> Failure {
    Failure::new(error.to_string())
}

/// The catalog as it is after everything that happened before the question.
pub(super) fn caught_up(catalog: &Catalog) -> Result<(), Failure> {
    catalog.drain().map_err(unusable)
}

pub(super) fn status(daemon: &Daemon) -> StatusReport {
    let now = daemon.clock.now();
    // What can not be known now is told as trouble, not as a failure of `status`.
    let drained = daemon.catalog.drain();
    let counts = daemon.catalog.counts();
    let trouble = daemon.catalog.trouble().or_else(|| {
        let error = drained.err().or(counts.as_ref().err().map(|_| unknown_counts()));
        error.map(|e| e.to_string())
    });
    let counts = counts.unwrap_or_default();
    let engine = daemon.engine.status();
    let usage = daemon.lower.usage().unwrap_or_default();
    let mut warnings = daemon.config.read().warnings.clone();
    if !engine.reconciled {
        warnings.push(format!(
            "The directory is still being compared with the catalog: {} names so far.",
            engine.looked_at
        ));
    }
    if engine.left_out > 0 {
        warnings.push(format!(
            "Files or directories that could not be taken over, and are not archived: {}. It is tried \
             again; the log names them.",
            engine.left_out
        ));
    }
    warnings.extend(daemon.link.get().into_iter().flat_map(|l| l.warnings.clone()));
    let config = daemon.config.read();
    warnings.extend(lost(daemon, &config));
    warnings.extend(bad_copies(&engine.bad));
    warnings.extend(unopened_copies(&engine.unopened));
    warnings.extend(refuted(daemon));
    warnings.extend(daemon.engine.expiry_halted().map(|why| format!("Retention: {why}.")));
    warnings.extend(incomplete(daemon));
    warnings.extend(super::record::trouble(&daemon.audit));
    let stay = |why| format!("No lines leave the audit log by audit_keep: {why}.");
    warnings.extend(daemon.engine.lines_stay().map(stay));
    warnings.extend(super::locks::undeletable(daemon));
    StatusReport {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        pid: std::process::id(),
        uptime_seconds: daemon.started.age_at(now).as_secs(),
        mode: mode(daemon),
        mountpoint: config.mountpoint.clone().into(),
        node: daemon.catalog.identity().node,
        states: counts
            .states
            .iter()
            .map(|(state, files, bytes)| StateCount { state: *state, files: *files, bytes: *bytes })
            .collect(),
        backlog: backlog(&counts, &engine, longest_window(&config), now),
        uploads: UploadsReport {
            off: engine.rate == Rate::Off,
            bytes_per_second: match engine.rate {
                Rate::Limit(limit) => Some(limit),
                Rate::Unlimited | Rate::Off => None,
            },
            until: engine.next_rate.map(|(at, _)| at),
            opens_at: engine.opens,
        },
        failing: counts.failing,
        suspect: counts.suspect,
        durable_until: engine.durable_until,
        last_error: daemon.catalog.last_trouble().ok().flatten().map(|(p, t)| last_error(p, t)),
        targets: engine.targets.into_iter().map(target_report).collect(),
        catalog_trouble: trouble,
        catalog_reads: daemon.catalog.reads(),
        next_recording: next(&config),
        cache: CacheUse { used: daemon.content.stats().cache_bytes, max: config.cache.max_size },
        disk: DiskUse {
            free: usage.bytes_free,
            size: usage.bytes,
            used_percent: usage.percent(),
            pressure: match engine.pressure {
                Pressure::None => DiskPressure::None,
                Pressure::High => DiskPressure::High,
                Pressure::Stuck => DiskPressure::Stuck,
            },
        },
        warnings,
        bad_copies: engine.bad.len() as u64,
        unopened_copies: engine.unopened.len() as u64,
        link: daemon.link.get().map(Link::report).unwrap_or_default(),
        calls: calls::report(daemon),
        trash: TrashCount { files: counts.trash.0, bytes: counts.trash.1 },
        holds: super::holds::status(daemon),
        joins: engine.joins.map(joins),
        counters: counters(engine.archived, engine.synced, &daemon.content.stats()),
    }
}

fn counters(archived: Amount, synced: u64, read: &content::Stats) -> Counters {
    Counters {
        archived: FileSum { files: archived.files, bytes: archived.bytes },
        synced,
        memory_hits: read.memory_hits,
        disk_hits: read.disk_hits,
        fetched: read.fetched,
        requests: read.requests,
        failed: read.failed,
        held_back: read.held_back,
        corrupt: read.corrupt,
        gone: read.gone,
        cache_dropped: read.cache_dropped,
    }
}

/// What an earlier catalog knew and this one does not.
fn lost(daemon: &Daemon, config: &Config) -> Option<String> {
    let since = daemon.catalog.lost_since().ok().flatten()?;
    (!config.targets.is_empty()).then(|| {
        format!(
            "The catalog was lost, or an older copy of it put back, before {} UTC: recordings that were released \
             may not be shown. Calls are not affected. Stop spoolfs and run \
             \"spoolfs rebuild --config {}\".",
            crate::control::utc::people(since),
            config.file.display()
        )
    })
}

fn joins(status: JoinStatus) -> JoinsReport {
    let JoinStatus { stored, waiting, failing, leaving, bad, unopened, swept } = status;
    JoinsReport { stored, waiting, failing, leaving, bad, unopened, swept }
}

/// Copies that nothing can replace.
fn bad_copies(bad: &[BadCopy]) -> Option<String> {
    let first = bad.first()?;
    Some(format!(
        "ARCHIVED COPIES ARE DAMAGED OR GONE, and were not replaced: {}, the first is {}: {}. Where there is \
         no other copy, bring them back (versions or a backup of the bucket) and run \"spoolfs verify\" \
         on them.",
        bad.len(),
        first.path.display(),
        first.reason
    ))
}

/// Copies that may be good, and that nobody can read.
fn unopened_copies(unopened: &[BadCopy]) -> Option<String> {
    let first = unopened.first()?;
    Some(format!(
        "NO KEY OPENS ARCHIVED COPIES (SSE-C), so that they can be neither read nor checked: {}, the first \
         is {}: {}. Put the key back where the others are, restart, and run \"spoolfs verify\" on them; \
         nothing of them is replaced or deleted.",
        unopened.len(),
        first.path.display(),
        first.reason
    ))
}

/// Recordings that were written to while they were released, and lack what can not be had.
fn incomplete(daemon: &Daemon) -> Option<String> {
    let (count, error) = daemon.engine.incomplete()?;
    Some(format!(
        "Written to while released, and not archived anew before what is missing can be fetched: \
         {count}. It is tried again; one failed with: {error}."
    ))
}

/// What reads have met that was not what was archived.
fn refuted(daemon: &Daemon) -> Option<String> {
    let stats = daemon.content.stats();
    let seen = stats.corrupt + stats.gone;
    (seen > 0).then(|| {
        format!(
            "Reads have met archived copies that are damaged or gone, {seen} times since the start; the log \
             names them, and \"spoolfs verify --all\" finds and replaces what it can."
        )
    })
}

/// The longest time that a recording waits before it is archived, by any rule.
fn longest_window(config: &Config) -> Age {
    let rules = config.policies.iter().map(|p| p.treatment.archive_after);
    let all: Option<Vec<Duration>> =
        rules.chain([config.write_back.archive_after.duration()]).collect();
    all.and_then(|all| all.into_iter().max()).map_or(Age::Forever, Age::For)
}

fn backlog(counts: &Counts, engine: &Status, window: Age, now: Timestamp) -> Backlog {
    let waiting = counts.states.iter().find(|(s, ..)| *s == State::Closed);
    let waiting = waiting
        .map_or(Amount::default(), |(_, files, bytes)| Amount { files: *files, bytes: *bytes });
    // What only waits for its time is no backlog, and has no end.
    let late = counts.oldest_waiting.as_ref().is_some_and(|(_, since)| {
        window.after(*since).is_some_and(|due| due.plus(limits::BACKLOG_LATE) < now)
    });
    let left = engine.drain.filter(|_| late).and_then(|drain| drain.left(waiting));
    Backlog {
        files: waiting.files,
        bytes: waiting.bytes,
        oldest: counts
            .oldest_waiting
            .clone()
            .map(|(path, since)| Waiting { path: path.into(), since }),
        drain: engine.drain.map(|Drain { within, archived, .. }| DrainReport {
            seconds: within.as_secs(),
            files: archived.files,
            bytes: archived.bytes,
            files_per_second: per_second(archived.files, within),
            bytes_per_second: per_second(archived.bytes, within),
        }),
        ends_at: left.map(|left| now.plus(left)),
    }
}

/// To a hundredth.
fn per_second(count: u64, within: Duration) -> f64 {
    (count as f64 / within.as_secs_f64() * 100.0).round() / 100.0
}

fn mode(daemon: &Daemon) -> String {
    let passed = daemon.link.get().is_some_and(|l| l.connection.passthrough);
    if passed { "passthrough" } else { "plain" }.to_owned()
}

fn unknown_counts() -> CatalogError {
    CatalogError::Unusable { path: PathBuf::new(), reason: "the counts can not be read".into() }
}

fn next(config: &Config) -> String {
    let targets: Vec<_> =
        config.targets.iter().map(|t| TargetName { name: &t.name, required: t.required }).collect();
    let usual =
        next_recording(&targets, config.write_back.archive_after, config.write_back.keep_local);
    match config.policies.len() {
        0 => usual,
        1 => format!("{usual} For some recordings a [[policy]] says otherwise."),
        n => format!("{usual} For some recordings {n} of [[policy]] say otherwise."),
    }
}

fn last_error(path: PathBuf, trouble: Trouble) -> LastError {
    LastError {
        path: path.into(),
        error: trouble.error,
        at: trouble.at,
        next_try: Some(trouble.not_before),
    }
}

fn target_report(status: TargetStatus) -> TargetReport {
    TargetReport {
        name: status.name,
        url: status.url,
        required: status.required,
        state: match status.standing {
            Standing::Attaching => TargetState::Unknown,
            Standing::Up => TargetState::Reachable,
            Standing::Down => TargetState::Unreachable,
            Standing::Refused => TargetState::Refused,
        },
        detail: status
            .last_error
            .filter(|_| status.standing != Standing::Up)
            .map(|(_, error)| error),
        last_ok: (status.standing == Standing::Up).then_some(status.since),
        last_snapshot: status.snapshot.map(|(at, _)| at),
        snapshot_bytes: status.snapshot.and_then(|(_, bytes)| bytes),
    }
}

fn about(daemon: &Daemon, path: &Path) -> Result<PathReport, Failure> {
    caught_up(&daemon.catalog)?;
    let row = recording(&daemon.catalog, path)?;
    let objects = daemon.catalog.objects(row.id, Some(row.generation)).map_err(unusable)?;
    let trouble = daemon.catalog.trouble_of(row.id).map_err(unusable)?;
    let reasons = daemon
        .engine
        .explain(path)
        .map_err(|e| Failure::new(format!("{}: {e}", path.display())))?;
    let outlook = daemon
        .engine
        .outlook(path)
        .map_err(|e| Failure::new(format!("{}: {e}", path.display())))?;
    let (archive_due, release_due) =
        outlook.as_ref().map_or((None, None), |o| (o.archive_due, o.release_due));
    Ok(PathReport {
        path: path.to_owned().into(),
        state: row.state,
        size: row.attr.size,
        local: daemon.lower.stat(path).is_ok_and(|s| s.node == Some(row.id)),
        generation: row.generation,
        sha256: row.sha256,
        objects: objects
            .into_iter()
            .filter(|o| o.state == ObjectState::Verified)
            .map(|o| ObjectReport {
                url: daemon.url(&o.target, &o.key),
                target: o.target,
                key: o.key,
                verified_at: o.verified_at,
            })
            .collect(),
        modified_at: row.attr.mtime,
        closed_at: row.closed_at,
        archived_at: row.archived_at,
        recalled_at: row.recalled_at,
        archive_due,
        release_due,
        expire_due: outlook.as_ref().and_then(|o| o.expire_due),
        must: outlook.as_ref().map(|o| o.must.clone()).unwrap_or_default(),
        rule: outlook.and_then(|o| o.rule),
        holds: daemon.catalog.holds().cases(row.id),
        reasons,
        last_error: trouble.map(|t| last_error(path.to_owned(), t)),
    })
}

/// Runs a move. Its threads report each recording; this one passes it on.
fn moved(
    daemon: &Daemon,
    command: Command,
    paths: Vec<WirePath>,
    progress: &mut dyn FnMut(Progress),
) -> Result<MoveReport, Failure> {
    let paths: Vec<PathBuf> = paths.into_iter().map(|p| p.0).collect();
    reported(daemon, progress, &|told| daemon.engine.run(command, &paths, told))
}

/// What does the work, and tells of each recording.
type Work<'a> =
    &'a (dyn Fn(&(dyn Fn(&engine::Progress) + Sync)) -> engine::Result<engine::Summary> + Sync);

/// Has the work done, and makes a report of what it tells.
pub(super) fn reported(
    daemon: &Daemon,
    progress: &mut dyn FnMut(Progress),
    work: Work<'_>,
) -> Result<MoveReport, Failure> {
    let report = Mutex::new(MoveReport::default());
    let (tell, told) = mpsc::sync_channel::<Progress>(64);
    let result = std::thread::scope(|scope| {
        let work = scope.spawn(|| {
            let tell = tell;
            work(&|through| {
                let size = find(&daemon.catalog, &through.path)
                    .ok()
                    .flatten()
                    .map_or(0, |row| row.attr.size);
                let bytes = note(&mut report.lock(), &through.path, &through.outcome, size);
                // A slow reader of progress must not slow the work.
                let _newer_ones_follow = tell.try_send(Progress {
                    done: through.done as u64,
                    total: through.total as u64,
                    bytes,
                    bytes_total: through.bytes_total,
                    current: Some(through.path.clone().into()),
                });
            })
        });
        for through in told {
            progress(through);
        }
        work.join()
    });
    match result {
        Ok(Ok(_summary)) => Ok(report.into_inner()),
        Ok(Err(error)) => Err(Failure::new(error.to_string())),
        Err(_) => Err(Failure::new("the engine failed at this; see the daemon's log")),
    }
}

fn note(report: &mut MoveReport, path: &Path, outcome: &Outcome, size: u64) -> u64 {
    let failure =
        |reason: &String| PathFailure { path: path.to_owned().into(), reason: reason.clone() };
    match outcome {
        Outcome::Done => {
            report.done += 1;
            report.bytes += size;
        }
        Outcome::Already(why) => report.skip(failure(why)),
        Outcome::Failed(why) => report.fail(failure(why)),
    }
    report.bytes
}

/// Reads the configuration again. It is checked as a whole before any of it is in force.
///
/// # Errors
/// What is wrong with it; the old one stays.
pub fn reload(daemon: &Daemon, peer: Option<&Peer>) -> Result<ReloadReport, Failure> {
    let old = daemon.config.read().clone();
    let new = old
        .reread(&Environment::of_process())
        .map_err(|e| Failure::new(format!("{e}; the old configuration stays in force")))?;
    let rules = setup::rules(&new)
        .map_err(|e| Failure::new(format!("{e}; the old configuration stays in force")))?;
    let report = ReloadReport {
        needs_restart: old.changes_needing_restart(&new),
        warnings: new.warnings.clone(),
        next_recording: next(&new),
    };
    daemon.engine.reload(rules);
    daemon.vfs.set_deletion(setup::deletion(&new).map_err(|e| Failure::new(e.to_string()))?);
    daemon.catalog.holds().set_times(new.holds.settle, new.holds.lift_grace);
    daemon.engine.nudge();
    // What needs a restart keeps its old value, so that `status` tells what is in force.
    let mut in_force = daemon.config.write();
    in_force.write_back = new.write_back;
    in_force.delete = new.delete;
    in_force.policies = new.policies;
    in_force.holds = new.holds;
    in_force.retention = new.retention;
    in_force.warnings = new.warnings;
    drop(in_force);
    super::record::reloaded(daemon, &report.needs_restart, peer);
    tracing::info!(next = %report.next_recording, "the configuration was read again");
    Ok(report)
}
