//! Legal holds by what call records say: they also catch recordings made later. One whose call record
//! is not known yet is held provisionally, until it is.

use super::Daemon;
use crate::calls::{Calls, Filter};
use crate::catalog::{Hold, Scope};
use crate::clock::Timestamp;
use crate::limits;
use crate::recording::NodeId;
use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::error::Error;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::Duration;

/// How often is looked for recordings that a hold also means.
const EVERY: Duration = Duration::from_secs(5);
/// How often all call records are asked; meanwhile only those of the last days.
const ALL_EVERY: Duration = Duration::from_secs(3600);
/// Calls that began longer ago are not new.
const LATELY: Duration = Duration::from_secs(2 * 86_400);
/// A recording may be closed so long after its call began.
const LONGEST_CALL: Duration = Duration::from_secs(86_400);

type Result<T> = std::result::Result<T, Box<dyn Error + Send + Sync>>;

/// How far the holds by call records have come.
pub(super) type Following = HashMap<u64, Follow>;

/// How far one hold has come.
#[derive(Debug, Default)]
pub(super) struct Follow {
    /// Names of the catalog were looked at up to here.
    cursor: u64,
    /// Held provisionally: since when.
    pending: BTreeMap<NodeId, Timestamp>,
    /// When all call records were asked.
    asked_all: Option<Timestamp>,
}

/// Starts looking; ends when what it returns is dropped.
///
/// # Errors
/// If there is no room for a thread.
pub(super) fn watch(daemon: Arc<Daemon>) -> std::io::Result<Sender<()>> {
    let (end, ended) = channel();
    let look = move || run(&daemon, &ended);
    std::thread::Builder::new().name("spoolfs-holds".to_owned()).spawn(look)?;
    Ok(end)
}

fn run(daemon: &Daemon, ended: &Receiver<()>) {
    loop {
        // Where the catalog could not be used at the start, the list alone tells what is held.
        if let Err(error) = daemon.catalog.know_holds() {
            tracing::warn!(%error, "what is on legal hold is read again");
        }
        if let Err(error) = look(daemon) {
            tracing::warn!(%error, "recordings that a legal hold also means are looked for again");
        }
        if ended.recv_timeout(EVERY) != Err(RecvTimeoutError::Timeout) {
            return;
        }
    }
}

/// Puts the holds by call records on what they mean by now.
pub(super) fn look(daemon: &Daemon) -> Result<()> {
    let Some(calls) = &daemon.calls else { return Ok(()) };
    let mut holds = daemon.catalog.all_holds()?;
    holds.retain(|hold| hold.lifted.is_none() && hold.scope.is_query());
    let mut following = daemon.catching.lock();
    following.retain(|id, _| holds.iter().any(|hold| hold.id == *id));
    for hold in &holds {
        let follow = match following.entry(hold.id) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(new) => new.insert(resume(daemon, hold)?),
        };
        catch(daemon, calls, hold, follow)?;
    }
    Ok(())
}

fn resume(daemon: &Daemon, hold: &Hold) -> Result<Follow> {
    let mut follow = Follow::default();
    let mut after = NodeId(0);
    loop {
        let page = daemon.catalog.held_by(hold.id, after, limits::PLAN_PAGE_ROWS)?;
        let Some(last) = page.last() else { return Ok(follow) };
        after = last.node;
        let pending = page.iter().filter(|row| row.provisional);
        follow.pending.extend(pending.map(|row| (row.node, row.since)));
    }
}

fn catch(daemon: &Daemon, calls: &Calls, hold: &Hold, follow: &mut Follow) -> Result<()> {
    let now = daemon.clock.now();
    let is_on = |id: &NodeId| daemon.catalog.holds().is_on(hold.id, *id);
    let ask_all = follow.asked_all.is_none_or(|at| at.plus(ALL_EVERY) <= now);
    let mut filter = filter(&hold.scope);
    if !ask_all {
        let oldest = follow.pending.values().min().copied().unwrap_or(now);
        filter.from = filter.from.max(Some(oldest.min(now).minus(LATELY)));
    }
    let mut meant = BTreeSet::new();
    calls.find(&filter, &mut |one| {
        meant.insert(one.node);
        true
    })?;
    let fresh: Vec<NodeId> = meant.iter().filter(|id| !is_on(id)).copied().collect();
    hold_also(daemon, hold, &fresh, false)?;
    let sure: Vec<NodeId> =
        follow.pending.keys().filter(|id| meant.contains(id)).copied().collect();
    daemon.catalog.confirm_held(hold.id, &sure)?;
    follow.pending.retain(|id, _| !meant.contains(id));
    if ask_all {
        follow.asked_all = Some(now);
    }
    let_go(daemon, calls, hold, follow)?;
    follow_names(daemon, calls, hold, follow, &meant)
}

/// Those whose call record came, and says that they are not meant, are held no more.
fn let_go(daemon: &Daemon, calls: &Calls, hold: &Hold, follow: &mut Follow) -> Result<()> {
    let mut others = Vec::new();
    for id in follow.pending.keys() {
        match daemon.catalog.standing(*id)? {
            Some((_, path)) => {
                if calls.facts_of(&path)?.is_some_and(|facts| facts.matched) {
                    others.push(*id);
                }
            }
            None => continue,
        }
    }
    if others.is_empty() {
        return Ok(());
    }
    // Asked again: the record may have come after the question what is meant.
    let mut meant = BTreeSet::new();
    calls.find(&filter(&hold.scope), &mut |one| {
        meant.insert(one.node);
        true
    })?;
    others.retain(|id| !meant.contains(id));
    daemon.catalog.let_go_provisional(hold.id, &others)?;
    follow.pending.retain(|id, _| !others.contains(id));
    Ok(())
}

/// What was recorded since, and has no call record yet, is held until it has one.
fn follow_names(
    daemon: &Daemon,
    calls: &Calls,
    hold: &Hold,
    follow: &mut Follow,
    meant: &BTreeSet<NodeId>,
) -> Result<()> {
    let since = hold.at.minus(LONGEST_CALL);
    let until = hold.scope.to.map(|to| to.plus(LONGEST_CALL));
    loop {
        let page = daemon.catalog.names_after(follow.cursor, limits::PLAN_PAGE_ROWS)?;
        let mut unknown = Vec::new();
        for named in &page.rows {
            let at = named.row.closed_at.unwrap_or(named.row.attr.mtime);
            let id = named.row.id;
            let in_time = at >= since && until.is_none_or(|until| at <= until);
            if in_time
                && !meant.contains(&id)
                && !follow.pending.contains_key(&id)
                && !calls.facts_of(&named.path)?.is_some_and(|facts| facts.matched)
            {
                unknown.push((id, at));
            }
        }
        let ids: Vec<NodeId> = unknown.iter().map(|(id, _)| *id).collect();
        hold_also(daemon, hold, &ids, true)?;
        follow.pending.extend(unknown);
        follow.cursor = page.cursor;
        if !page.more {
            return Ok(());
        }
    }
}

fn hold_also(daemon: &Daemon, hold: &Hold, ids: &[NodeId], provisional: bool) -> Result<()> {
    if ids.is_empty() {
        return Ok(());
    }
    let count = daemon.engine.hold_also(hold, ids, provisional)?;
    tracing::info!(hold = hold.id, case = hold.case, count, provisional, "caught by a legal hold");
    Ok(())
}

fn filter(scope: &Scope) -> Filter {
    Filter {
        number: scope.number.clone(),
        campaign: scope.campaign.clone(),
        agent: scope.agent.clone(),
        from: scope.from,
        to: scope.to,
        linkedid: scope.linkedid.clone(),
    }
}
