//! `find` where no call records are kept: by path, state, and the time that a name tells.

use super::Daemon;
use super::calls::{found_report, last_written, not_configured};
use crate::calls::{CallRecord, Facts, Pattern, Zone, is_audio, said_by_name};
use crate::catalog::{Glimpse, NamesPage};
use crate::clock::{SharedClock, Timestamp};
use crate::config::Config;
use crate::control::{Failure, FindQuery, FindReport};
use crate::limits;
use crate::recording::State;
use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

/// Answers `find` from the catalog of this daemon.
pub(super) fn find(daemon: &Daemon, query: &FindQuery) -> Result<FindReport, Failure> {
    needs_no_records(query, &daemon.config.read())?;
    let _as_it_is_then = daemon.catalog.drain();
    let zone = Zone::of(daemon.clock.zone());
    let page = |cursor| daemon.catalog.names_after(cursor, limits::CALL_NAMES_PAGE);
    look(query, &zone, |cursor| page(cursor).map_err(|e| Failure::new(e.to_string())))
}

/// Answers `find` from the catalog that a daemon left.
///
/// # Errors
/// It asks for what only call records tell, or there is no catalog that can be read.
pub fn find_left(
    config: &Config,
    clock: &SharedClock,
    query: &FindQuery,
) -> Result<FindReport, Failure> {
    needs_no_records(query, config)?;
    let failed = |e: crate::catalog::CatalogError| Failure::new(e.to_string());
    let glimpse = Glimpse::open(&config.state_dir).map_err(failed)?;
    let page = |cursor| glimpse.names_after(cursor, limits::CALL_NAMES_PAGE).map_err(failed);
    look(query, &Zone::of(clock.zone()), page)
}

/// Half an answer would be taken for a whole one.
fn needs_no_records(query: &FindQuery, config: &Config) -> Result<(), Failure> {
    let asked = [
        ("--number", query.number.is_some()),
        ("--campaign", query.campaign.is_some()),
        ("--agent", query.agent.is_some()),
        ("--linkedid", query.linkedid.is_some()),
        ("--calls", query.calls),
    ];
    match asked.into_iter().find(|(_, asked)| *asked) {
        Some((option, _)) => Err(Failure::new(format!(
            "{}; without call records {option} finds nothing, only --from, --to, --state and paths do",
            not_configured(config).message
        ))),
        None => Ok(()),
    }
}

fn look(
    query: &FindQuery,
    zone: &Zone,
    page: impl Fn(u64) -> Result<NamesPage, Failure>,
) -> Result<FindReport, Failure> {
    let patterns = Pattern::usual();
    let limit = query.limit.min(limits::CALL_ANSWER_MAX as u64) as usize;
    // The newest first; of two of one moment the one whose name comes later.
    let mut found: BTreeMap<Reverse<(Timestamp, PathBuf)>, (State, CallRecord)> = BTreeMap::new();
    let (mut report, mut cursor) = (FindReport::default(), 0);
    loop {
        let NamesPage { rows, cursor: next, more } = page(cursor)?;
        for named in rows {
            let (state, path) = (named.row.state, named.path);
            let wanted = state != State::Deleted
                && query.state.is_none_or(|asked| asked == state)
                && query.is_at(&path)
                && is_audio(&path);
            if !wanted {
                continue;
            }
            let at = last_written(&named.row);
            let said = said_by_name(&patterns, zone, path.as_os_str().as_bytes(), at);
            let start = said.start;
            if query.from.is_some_and(|from| start < from) || query.to.is_some_and(|to| start >= to)
            {
                continue;
            }
            found.insert(Reverse((start, path)), (state, said));
            if found.len() > limit {
                found.pop_last();
                report.more = true;
            }
        }
        cursor = next;
        if !more {
            break;
        }
    }
    let each = found.into_iter().map(|(Reverse((_, path)), (state, record))| {
        let facts = Facts { record, linkedid: String::new(), matched: false };
        found_report(path, Some(state), Some(facts))
    });
    report.recordings = each.collect();
    Ok(report)
}
