//! Call records: what they are told of recordings, and the commands that ask for them.

use super::Daemon;
use crate::calls::{self, Call, Calls, Facts, Filter, Page, Recording, Recordings};
use crate::catalog::{Catalog, Glimpse, NodeRow};
use crate::clock::{SharedClock, Timestamp};
use crate::config::Config;
use crate::control::{
    CallReport, CallsReport, CallsSource, Failure, FindQuery, FindReport, FoundReport, GapsReport,
    LegReport, MissingReport, UncoveredReport,
};
use crate::limits;
use crate::recording::{NodeId, State};
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// The catalog of a running daemon.
struct Live(Arc<Catalog>);

impl Recordings for Live {
    fn after(&self, cursor: u64, limit: usize) -> Result<Page, String> {
        let page = self.0.names_after(cursor, limit).map_err(|e| e.to_string())?;
        let of = |row: crate::catalog::NamedRow| Recording {
            node: row.row.id,
            at: last_written(&row.row),
            path: row.path.into_os_string().into_vec(),
        };
        let recordings = page.rows.into_iter().map(of).collect();
        Ok(Page { recordings, cursor: page.cursor, more: page.more })
    }

    fn standing(&self, node: NodeId) -> Result<Option<(State, PathBuf)>, String> {
        self.0.standing(node).map_err(|e| e.to_string())
    }
}

/// When a recording was written to last; a file that was copied here is older than its close.
pub(super) fn last_written(row: &NodeRow) -> Timestamp {
    row.closed_at.unwrap_or(row.attr.mtime).min(row.attr.mtime)
}

/// The catalog that a daemon left.
struct Left(Glimpse);

impl Recordings for Left {
    fn after(&self, cursor: u64, _limit: usize) -> Result<Page, String> {
        Ok(Page { cursor, ..Page::default() })
    }

    fn standing(&self, node: NodeId) -> Result<Option<(State, PathBuf)>, String> {
        self.0.standing(node).map_err(|e| e.to_string())
    }
}

fn options(config: &Config, clock: &SharedClock) -> Option<calls::Options> {
    let calls = config.calls.clone()?;
    Some(calls::Options {
        state_dir: config.state_dir.clone(),
        clock: clock.clone(),
        zone: calls.zone.unwrap_or_else(|| calls::Zone::of(clock.zone())),
        source: calls.source,
        names: calls.names,
        every: calls.every,
        timeout: calls.timeout,
        quiet: calls.quiet,
        bytes_max: calls.cache_max_size,
        same_account: calls.same_account,
    })
}

/// Starts keeping call records, if they are configured. Without them everything else works.
pub(super) fn start(
    config: &Config,
    catalog: &Arc<Catalog>,
    clock: &SharedClock,
) -> Option<Arc<Calls>> {
    let started = Calls::start(options(config, clock)?, Arc::new(Live(catalog.clone())));
    started.inspect_err(|error| tracing::error!(%error, "call records are not kept")).ok()
}

/// The call records that a daemon which does not run has left.
///
/// # Errors
/// There are none.
pub fn left(config: &Config, clock: &SharedClock) -> Result<Calls, Failure> {
    let options = options(config, clock).ok_or_else(|| not_configured(config))?;
    let glimpse = Glimpse::open(&config.state_dir).map_err(|e| Failure::new(e.to_string()))?;
    Calls::look(&options, Some(Arc::new(Left(glimpse)))).map_err(|e| Failure::new(e.to_string()))
}

pub(super) fn not_configured(config: &Config) -> Failure {
    Failure::new(format!(
        "no call records are configured: set calls.preset or calls.source in {} and restart spoolfs",
        config.file.display()
    ))
}

/// The call records of this daemon, as fresh as can be had within a moment.
pub(super) fn fresh(daemon: &Daemon) -> Result<Arc<Calls>, Failure> {
    let calls = daemon.calls.clone().ok_or_else(|| not_configured(&daemon.config.read()))?;
    let _as_it_is_then = daemon.catalog.drain();
    calls.refresh(limits::CALL_REFRESH_WAIT);
    Ok(calls)
}

/// Answers `find`.
///
/// # Errors
/// The call records can not be read now.
pub fn find(calls: &Calls, query: &FindQuery) -> Result<FindReport, Failure> {
    let filter = Filter {
        number: query.number.clone(),
        campaign: query.campaign.clone(),
        agent: query.agent.clone(),
        from: query.from,
        to: query.to,
        linkedid: query.linkedid.clone(),
    };
    let limit = query.limit.min(limits::CALL_ANSWER_MAX as u64) as usize;
    let of_state = |state: Option<State>| query.state.is_none_or(|wanted| state == Some(wanted));
    let mut report = FindReport::default();
    let result = if query.calls {
        calls.find_calls(&filter, &mut |call| {
            let fits = call.legs.iter().any(|l| query.is_at(&l.path) && of_state(l.state))
                || query.paths.is_empty() && query.state.is_none();
            if fits && report.calls.len() == limit {
                report.more = true;
            } else if fits {
                report.calls.push(call_report(&call));
            }
            !report.more
        })
    } else {
        calls.find(&filter, &mut |found| {
            let (state, path) = match calls.standing(found.node) {
                Ok(Some((State::Deleted, _)) | None) => return true,
                Ok(Some((state, path))) => (Some(state), path),
                Err(_) => (None, found.path),
            };
            let fits = of_state(state) && query.is_at(&path);
            if fits && report.recordings.len() == limit {
                report.more = true;
            } else if fits {
                report.recordings.push(found_report(path, state, found.facts));
            }
            !report.more
        })
    };
    result.map_err(|e| Failure::new(e.to_string()))?;
    Ok(report)
}

pub(super) fn found_report(
    path: PathBuf,
    state: Option<State>,
    facts: Option<Facts>,
) -> FoundReport {
    let (linkedid, matched) =
        facts.as_ref().map_or_else(Default::default, |f| (f.linkedid.clone(), f.matched));
    let record = facts.map(|f| f.record).unwrap_or_default();
    FoundReport {
        path: path.into(),
        state,
        linkedid,
        matched,
        start: record.start,
        seconds: record.start.age_at(record.end).as_secs(),
        src: record.src,
        dst: record.dst,
        disposition: record.disposition,
        accountcode: record.accountcode,
        campaign: record.campaign,
        ingroup: record.ingroup,
        list: record.list,
        agent: record.agent,
        lead: record.lead,
        phone: record.phone,
        did: record.did,
    }
}

fn call_report(call: &Call) -> CallReport {
    let mut legs: Vec<LegReport> = call
        .legs
        .iter()
        .map(|leg| LegReport {
            path: leg.path.clone().into(),
            state: leg.state,
            start: leg.start,
            seconds: leg.start.age_at(leg.end).as_secs(),
        })
        .collect();
    legs.sort_by_key(|leg| std::cmp::Reverse(leg.seconds));
    let first = call.records.iter().find(|r| !r.src.is_empty()).or(call.records.first());
    let first = first.or_else(|| call.legs.first().and_then(|leg| leg.records.first()));
    let first = first.cloned().unwrap_or_default();
    let answered = |of: &dyn Fn(&calls::CallRecord) -> String| {
        call.records.iter().map(of).find(|text| !text.is_empty()).unwrap_or_default()
    };
    CallReport {
        linkedid: call.linkedid.clone(),
        start: call.start,
        seconds: call.start.age_at(call.end).as_secs(),
        complete: call.complete,
        src: first.src,
        dst: first.dst,
        campaign: answered(&|r| r.campaign.clone()),
        agent: answered(&|r| r.agent.clone()),
        legs,
    }
}

/// Answers `gaps`.
///
/// # Errors
/// The call records can not be read now.
pub fn gaps(calls: &Calls, from: Timestamp, to: Timestamp) -> Result<GapsReport, Failure> {
    let gaps = calls.gaps(from, to, limits::CALL_ANSWER_MAX);
    let gaps = gaps.map_err(|e| Failure::new(e.to_string()))?;
    let missing = |(linkedid, record): (String, calls::CallRecord)| MissingReport {
        linkedid,
        start: record.start,
        seconds: record.billsec.max(0).unsigned_abs(),
        src: record.src,
        dst: record.dst,
        recordingfile: record.recordingfile,
    };
    Ok(GapsReport {
        calls: gaps.calls.into_iter().map(missing).collect(),
        recordings: gaps
            .recordings
            .into_iter()
            .map(|(_, path, start)| UncoveredReport { path: path.into(), start })
            .collect(),
        more: gaps.more,
    })
}

/// Call records, for `status`.
pub(super) fn report(daemon: &Daemon) -> Option<CallsReport> {
    let calls = daemon.calls.as_ref()?;
    let (status, now) = (calls.status(), daemon.clock.now());
    let timeout =
        daemon.config.read().calls.as_ref().map_or(Duration::from_secs(30), |c| c.timeout);
    let source = |feed: &calls::FeedStatus| CallsSource {
        place: feed.place.clone(),
        trouble: feed.trouble(now, timeout),
        last_ok: feed.last_ok,
        rows: feed.rows,
        bad_rows: feed.bad,
        last_bad: feed.bad_rows.last().map(|bad| format!("{}: {}", bad.place, bad.reason)),
        caught_up: feed.caught_up,
    };
    Some(CallsReport {
        sources: status.feeds.iter().map(source).collect(),
        trouble: status.trouble,
        bytes: status.bytes,
        evicted: status.evicted,
        refused_ties: status.refused_ties,
        awaited: daemon.engine.status().without_record,
    })
}
