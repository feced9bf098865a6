//! Answers `hold`, and looks for recordings that a hold also means.

use super::commands::{self, unusable};
use super::record::who;
use super::{Daemon, calls, catch, lifting, locks};
use crate::audit::{Clear, Entry, Event};
use crate::catalog::{Hold, LiftRequest, LockState, NewHold, ObjectState, Scope};
use crate::control::{
    Failure, FindQuery, GenerationReport, HeldReport, HoldAddReport, HoldListReport, HoldReport,
    HoldRequest, HoldShowReport, HoldShown, HoldsReport, LiftedReport, PathFailure, Peer, Progress,
    WirePath,
};
use crate::engine::Outcome;
use crate::limits;
use crate::recording::NodeId;
use parking_lot::Mutex;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::mpsc;

type Result<T> = std::result::Result<T, Failure>;
type LiftRequests = BTreeMap<u64, LiftRequest>;

/// Does what is asked.
pub(super) fn handle(
    daemon: &Daemon,
    request: HoldRequest,
    peer: &Peer,
    progress: &mut dyn FnMut(Progress),
) -> Result<Value> {
    match request {
        HoldRequest::Add { case, reason, paths, query } => {
            let scope = Scope::of_paths(paths.iter().map(|p| p.0.as_path()));
            let scope = match query {
                None => scope,
                Some(query) => {
                    // What they say at this moment is to be known, too.
                    calls::fresh(daemon)?;
                    asked(query, scope)
                }
            };
            let new = NewHold { case, reason, by: name(peer), scope };
            commands::json(&add(daemon, &new, &paths, peer, progress)?)
        }
        HoldRequest::List => {
            let holds = daemon.catalog.all_holds().map_err(unusable)?;
            let asked = daemon.catalog.lift_requests().map_err(unusable)?;
            let holds = holds.iter().map(|hold| report(daemon, hold, &asked));
            let holds = holds.collect::<Result<_>>()?;
            commands::json(&HoldListReport { holds })
        }
        HoldRequest::Show { case, id } => commands::json(&show(daemon, case.as_deref(), id)?),
        HoldRequest::Lift { case, id, reason } => {
            commands::json(&lifting::lift(daemon, (case.as_deref(), id), &reason, peer)?)
        }
    }
}

fn asked(query: FindQuery, scope: Scope) -> Scope {
    let FindQuery { number, campaign, agent, from, to, linkedid, .. } = query;
    Scope { number, campaign, agent, linkedid, from, to, ..scope }
}

fn query(scope: &Scope) -> Option<FindQuery> {
    let Scope { number, campaign, agent, linkedid, from, to, .. } = scope.clone();
    let query = FindQuery { number, campaign, agent, from, to, linkedid, ..FindQuery::default() };
    scope.is_query().then_some(query)
}

/// Who asked, for whoever asks in some years.
pub(super) fn name(peer: &Peer) -> String {
    match peer.login_uid.filter(|login| *login != peer.uid) {
        Some(login) => format!("uid {} (logged in as uid {login})", peer.uid),
        None => format!("uid {}", peer.uid),
    }
}

/// How many holds are on, and recordings that they are on.
pub(super) fn status(daemon: &Daemon) -> HoldsReport {
    let all = daemon.catalog.all_holds().unwrap_or_default();
    let on = all.iter().filter(|hold| hold.lifted.is_none()).count();
    let known = daemon.catalog.holds();
    HoldsReport {
        holds: on as u64,
        recordings: known.held() as u64,
        unarchived: known.lack_archive() as u64,
    }
}

fn add(
    daemon: &Daemon,
    new: &NewHold,
    paths: &[WirePath],
    peer: &Peer,
    progress: &mut dyn FnMut(Progress),
) -> Result<HoldAddReport> {
    let paths: Vec<PathBuf> = paths.iter().map(|p| p.0.clone()).collect();
    let waiting = Mutex::new(Vec::new());
    let (tell, told) = mpsc::sync_channel::<Progress>(64);
    let placed = std::thread::scope(|scope| {
        let work = scope.spawn(|| {
            let tell = tell;
            let is_on = |id, recordings| on_record(daemon, (id, recordings), new, peer);
            daemon.engine.hold(new, &paths, &is_on, &|through| {
                if let Outcome::Failed(reason) = &through.outcome {
                    let path = through.path.clone().into();
                    waiting.lock().push(PathFailure { path, reason: reason.clone() });
                }
                let _newer_ones_follow = tell.try_send(Progress {
                    done: through.done as u64,
                    total: through.total as u64,
                    current: Some(through.path.clone().into()),
                    ..Progress::default()
                });
            })
        });
        for through in told {
            progress(through);
        }
        work.join()
    });
    let placed = match placed {
        Ok(placed) => placed.map_err(|error| Failure::new(error.to_string()))?,
        Err(_) => return Err(Failure::new("the engine failed at this; see the daemon's log")),
    };
    let mut notes = notes(daemon);
    if new.scope.is_query() {
        catch::look(daemon).map_err(|error| Failure::new(error.to_string()))?;
        notes.push(
            "Recordings found by call records are archived in the background; those made later are \
             caught within some seconds."
                .to_owned(),
        );
    }
    let all = daemon.catalog.all_holds().map_err(unusable)?;
    let stored = all.iter().find(|hold| hold.id == placed.id).map(|hold| hold.recordings);
    let mut waiting = waiting.into_inner();
    let more = waiting.len().saturating_sub(limits::REPORT_PATHS_MAX);
    waiting.truncate(limits::REPORT_PATHS_MAX);
    Ok(HoldAddReport {
        id: placed.id,
        case: new.case.clone(),
        recordings: stored.filter(|_| new.scope.is_query()).unwrap_or(placed.recordings as u64),
        open: placed.open as u64,
        archived: (placed.archived.done + placed.archived.already) as u64,
        waiting,
        more_waiting: more as u64,
        missing: placed.missing.into_iter().map(WirePath).collect(),
        notes,
    })
}

/// At once: until all is archived the daemon may be stopped.
fn on_record(daemon: &Daemon, (id, recordings): (u64, usize), new: &NewHold, peer: &Peer) {
    let query = query(&new.scope).and_then(|query| serde_json::to_string(&query).ok());
    let (case, query) = (Clear::text(&new.case), query.map(Clear::text));
    let event = Event::HoldAdded { hold: id, case, query };
    let paths = new.scope.paths();
    let named: Vec<Clear> =
        paths.iter().take(limits::REPORT_PATHS_MAX).map(|path| Clear::path(path)).collect();
    let after = json!({"paths": named, "of": paths.len(), "recordings": recordings});
    let entry = Entry::new(event).by(who(peer)).why(&new.reason);
    daemon.audit.record(entry.change((), after));
    let NewHold { case, by, .. } = new;
    tracing::info!(hold = id, case, by, recordings, "recordings are on legal hold");
}

/// What a hold can not do here.
fn notes(daemon: &Daemon) -> Vec<String> {
    let mut notes = Vec::new();
    let config = daemon.config.read();
    if !config.has_needed_target() {
        notes.push(
            "No target must hold recordings, so that the local copy is the only one.".to_owned(),
        );
    }
    drop(config);
    notes.extend(locks::notes(daemon));
    notes
}

fn report(daemon: &Daemon, hold: &Hold, asked: &LiftRequests) -> Result<HoldReport> {
    Ok(HoldReport {
        id: hold.id,
        case: hold.case.clone(),
        reason: hold.reason.clone(),
        by: hold.by.clone(),
        at: hold.at,
        paths: hold.scope.paths().into_iter().map(WirePath).collect(),
        query: query(&hold.scope),
        recordings: hold.recordings,
        lifted: hold.lifted.as_ref().map(|lifted| LiftedReport {
            at: lifted.at,
            by: lifted.by.clone(),
            reason: lifted.reason.clone(),
        }),
        lift_asked: asked.get(&hold.id).and_then(|one| lifting::report(daemon, one)),
        targets: locks::of_hold(daemon, hold)?,
    })
}

fn show(daemon: &Daemon, case: Option<&str>, id: Option<u64>) -> Result<HoldShowReport> {
    let meant = |hold: &Hold| match (case, id) {
        (None, None) => hold.lifted.is_none(),
        _ => case.is_none_or(|case| hold.case == case) && id.is_none_or(|id| hold.id == id),
    };
    let all = daemon.catalog.all_holds().map_err(unusable)?;
    let holds: Vec<Hold> = all.into_iter().filter(meant).collect();
    if holds.is_empty() && (case.is_some() || id.is_some()) {
        return Err(Failure::new(unknown(case, id)));
    }
    let asked = daemon.catalog.lift_requests().map_err(unusable)?;
    let mut room = limits::REPORT_PATHS_MAX;
    let mut shown = Vec::new();
    for hold in &holds {
        let recordings = recordings(daemon, hold.id, room)?;
        room = room.saturating_sub(recordings.len());
        let more = hold.recordings.saturating_sub(recordings.len() as u64);
        shown.push(HoldShown { hold: report(daemon, hold, &asked)?, recordings, more });
    }
    Ok(HoldShowReport { holds: shown })
}

fn recordings(daemon: &Daemon, hold: u64, limit: usize) -> Result<Vec<HeldReport>> {
    let rows = daemon.catalog.held_by(hold, NodeId(0), limit).map_err(unusable)?;
    let one = |row: crate::catalog::HeldRow| {
        Ok(HeldReport {
            path: row.path.unwrap_or_default().into(),
            state: row.state,
            since: row.since,
            provisional: row.provisional,
            generations: generations(daemon, row.node)?,
        })
    };
    rows.into_iter().map(one).collect()
}

fn generations(daemon: &Daemon, node: NodeId) -> Result<Vec<GenerationReport>> {
    let mut found = BTreeMap::new();
    for object in daemon.catalog.objects(node, None).map_err(unusable)? {
        if object.state != ObjectState::Verified {
            continue;
        }
        let one = found.entry(object.generation).or_insert_with(|| GenerationReport {
            generation: object.generation,
            size: object.size,
            sha256: object.sha256,
            urls: Vec::new(),
            locked_in: Vec::new(),
        });
        one.urls.push(daemon.url(&object.target, &object.key));
        let known = daemon.catalog.locks(node, &object.target).map_err(unusable)?;
        let seen = [LockState::On, LockState::Foreign];
        if known.iter().any(|row| row.object == object.id && seen.contains(&row.state)) {
            one.locked_in.push(object.target);
        }
    }
    Ok(found.into_values().collect())
}

pub(super) fn unknown(case: Option<&str>, id: Option<u64>) -> String {
    let what = match (case, id) {
        (Some(case), _) => format!("of case {case:?}"),
        (None, Some(id)) => format!("number {id}"),
        (None, None) => String::new(),
    };
    format!("there is no such hold {what}; \"spoolfs hold list\" shows all")
}
