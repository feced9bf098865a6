//! Looking for recordings and calls, and for what is missing.

use super::Asked;
use super::ingest::same_directory;
use super::reads::{self, KNOWN, Known, all, known, path_buf};
use super::record::{Call, CallRecord, Facts, number_key};
use super::rows::{self, RECORD, RECORD_COLUMNS};
use crate::clock::Timestamp;
use crate::limits;
use crate::recording::{NodeId, State};
use rusqlite::types::Value;
use rusqlite::{Connection, params, params_from_iter};
use std::collections::HashSet;
use std::path::PathBuf;

type Sql<T> = rusqlite::Result<T>;

/// From so many digits on a number is compared by its end.
const NUMBER_ENDS_FROM: usize = 5;

/// What is looked for; all that is given must fit one record.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    /// A number, of either side: its last digits, or all if there are less than five.
    pub number: Option<String>,
    /// The campaign, or the in-group.
    pub campaign: Option<String>,
    /// The agent.
    pub agent: Option<String>,
    /// Began then or later.
    pub from: Option<Timestamp>,
    /// Began before.
    pub to: Option<Timestamp>,
    /// Of the call with this linkedid or uniqueid.
    pub linkedid: Option<String>,
}

/// A recording that was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// Its row in the catalog.
    pub node: NodeId,
    /// Relative to the mount, as it was when last looked.
    pub path: PathBuf,
    /// What is known of it.
    pub facts: Option<Facts>,
}

/// What is missing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Gaps {
    /// Answered calls without a recording: their longest record.
    pub calls: Vec<(String, CallRecord)>,
    /// Recordings without a call record, and when they began.
    pub recordings: Vec<(NodeId, PathBuf, Timestamp)>,
    /// There are more than are listed.
    pub more: bool,
}

struct Match {
    record: CallRecord,
    call: i64,
    node: Option<NodeId>,
    stem: Option<Vec<u8>>,
}

/// Runs `each` on every record that fits, the newest first, until it has had enough.
fn matches(
    conn: &Connection,
    filter: &Filter,
    each: &mut dyn FnMut(Match) -> Sql<bool>,
) -> Sql<()> {
    let mut conditions: Vec<&str> = Vec::new();
    let mut values: Vec<Value> = Vec::new();
    if let Some(number) = &filter.number {
        let Some(key) = number_key(number) else { return Ok(()) };
        if key.len() >= NUMBER_ENDS_FROM {
            conditions.push("r.id IN (SELECT record FROM number WHERE digits >= ? AND digits < ?)");
            // No digit or letter comes after it.
            values.push(Value::from(format!("{key}\u{10ffff}")));
            values.insert(values.len() - 1, Value::from(key));
        } else {
            conditions.push("r.id IN (SELECT record FROM number WHERE digits = ?)");
            values.push(Value::from(key));
        }
    }
    if let Some(campaign) = &filter.campaign {
        conditions.push("((r.campaign = ? AND r.campaign <> '') OR r.ingroup = ?)");
        values.extend([Value::from(campaign.clone()), Value::from(campaign.clone())]);
    }
    if let Some(agent) = &filter.agent {
        conditions.push("r.agent = ? AND r.agent <> ''");
        values.push(Value::from(agent.clone()));
    }
    if let Some(id) = &filter.linkedid {
        let Some(call) = reads::call_of_id(conn, id)? else { return Ok(()) };
        conditions.push("r.call = ?");
        values.push(Value::from(call));
    }
    if let Some(from) = filter.from {
        conditions.push("r.start >= ?");
        values.push(Value::from(from.0));
    }
    if let Some(to) = filter.to {
        conditions.push("r.start < ?");
        values.push(Value::from(to.0));
    }
    if conditions.is_empty() {
        conditions.push("1");
    }
    let text = format!(
        "SELECT {RECORD}, r.call, r.node, r.stem FROM record r WHERE {}
         ORDER BY r.start DESC, r.id DESC",
        conditions.join(" AND ")
    );
    let mut statement = conn.prepare(&text)?;
    let mut found = statement.query(params_from_iter(values))?;
    while let Some(row) = found.next()? {
        let node: Option<i64> = row.get(RECORD_COLUMNS + 1)?;
        let one = Match {
            record: rows::record(row)?,
            call: row.get(RECORD_COLUMNS)?,
            node: node.map(|n| NodeId(n.cast_unsigned())),
            stem: row.get(RECORD_COLUMNS + 2)?,
        };
        if !each(one)? {
            break;
        }
    }
    Ok(())
}

/// The recordings of a record: those that it names, those with its id in their names, or else all
/// of its call.
fn recordings(conn: &Connection, one: &Match) -> Sql<Vec<Known>> {
    let limit = limits::CALL_LEGS_MAX as i64;
    let of = |condition: &str, value: Value| {
        let text = format!("SELECT {KNOWN} FROM recording n WHERE {condition} LIMIT ?2");
        all(conn, &text, params![value, limit], known)
    };
    if let Some(node) = one.node {
        return of("n.node = ?1", Value::from(node.0.cast_signed()));
    }
    if let Some(stem) = &one.stem {
        let mut found = of("n.stem = ?1", Value::from(stem.clone()))?;
        found.retain(|n| same_directory(one.record.recordingfile.as_bytes(), &n.path));
        if !found.is_empty() {
            return Ok(found);
        }
    }
    if !one.record.uniqueid.is_empty() {
        let id = Value::from(one.record.uniqueid.clone());
        let found = of("n.uniqueid = ?1 AND n.uniqueid <> ''", id)?;
        if !found.is_empty() {
            return Ok(found);
        }
    }
    of("n.node IN (SELECT node FROM leg WHERE call = ?1)", Value::from(one.call))
}

/// Recordings that fit, the newest first, each once, until `each` has had enough.
pub(super) fn find(
    conn: &Connection,
    filter: &Filter,
    each: &mut dyn FnMut(Found) -> bool,
) -> Sql<()> {
    let mut seen = HashSet::new();
    matches(conn, filter, &mut |one| {
        for known in recordings(conn, &one)? {
            if !seen.insert(known.node) {
                continue;
            }
            let facts = reads::facts(conn, &known)?;
            if !each(Found { node: known.node, path: path_buf(&known.path), facts }) {
                return Ok(false);
            }
        }
        Ok(true)
    })
}

/// Calls with a record that fits, the newest first, each once, until `each` has had enough.
pub(super) fn find_calls(
    conn: &Connection,
    asked: &Asked<'_>,
    filter: &Filter,
    each: &mut dyn FnMut(Call) -> bool,
) -> Sql<()> {
    let mut seen = HashSet::from([0]);
    matches(conn, filter, &mut |one| {
        if !seen.insert(one.call) {
            return Ok(true);
        }
        let account = filter.linkedid.as_deref().or(Some(one.record.uniqueid.as_str()));
        let found = reads::call(conn, asked, one.call, account.filter(|id| !id.is_empty()))?;
        Ok(found.is_none_or(&mut *each))
    })
}

/// What is missing of the calls that began in a time.
pub(super) fn gaps(
    conn: &Connection,
    asked: &Asked<'_>,
    from: Timestamp,
    to: Timestamp,
    limit: usize,
) -> Sql<Gaps> {
    let limit = limit.min(limits::CALL_ANSWER_MAX);
    // What just ended may have its record or its recording tomorrow, or in a minute.
    let now = i64::try_from(asked.quiet.as_nanos()).unwrap_or(i64::MAX);
    let before = to.0.min(asked.now.0.saturating_sub(now));
    let ask = i64::try_from(limit).unwrap_or(i64::MAX).saturating_add(1);
    let text = format!(
        "SELECT {RECORD}, c.name, max(r.billsec) FROM record r JOIN call c ON c.id = r.call
         WHERE r.start >= ?1 AND r.start < ?2 AND r.origin = 1 AND r.answered AND r.billsec > 0
            AND c.ended < ?3 AND NOT EXISTS(SELECT 1 FROM leg l WHERE l.call = r.call)
         GROUP BY r.call ORDER BY min(r.start) LIMIT ?4"
    );
    let found = params![from.0, to.0, before.max(from.0), ask];
    let mut calls = all(conn, &text, found, |r| Ok((r.get(RECORD_COLUMNS)?, rows::record(r)?)))?;
    let mut recordings = unmatched(conn, asked, (from.0, before), limit + 1)?;
    let more = calls.len() > limit || recordings.len() > limit;
    calls.truncate(limit);
    recordings.truncate(limit);
    Ok(Gaps { calls, recordings, more })
}

fn unmatched(
    conn: &Connection,
    asked: &Asked<'_>,
    (from, to): (i64, i64),
    limit: usize,
) -> Sql<Vec<(NodeId, PathBuf, Timestamp)>> {
    let text = format!(
        "SELECT {KNOWN}, r.start FROM record r JOIN recording n ON n.node = r.node
         WHERE r.start >= ?1 AND r.start < ?2 AND r.origin = 2
            AND NOT EXISTS(SELECT 1 FROM leg l JOIN record o ON o.call = l.call
                WHERE l.node = n.node AND o.origin = 1)
         ORDER BY r.start, r.id"
    );
    let mut statement = conn.prepare_cached(&text)?;
    let mut found = statement.query(params![from, to])?;
    let mut missing = Vec::new();
    while let Some(row) = found.next()? {
        let known = known(row)?;
        let standing = asked.recordings.map(|r| r.standing(known.node));
        let path = match standing {
            Some(Ok(None | Some((State::Deleted | State::Recording, _)))) => continue,
            Some(Ok(Some((_, path)))) => path,
            None | Some(Err(_)) => path_buf(&known.path),
        };
        missing.push((known.node, path, Timestamp(row.get(4)?)));
        if missing.len() >= limit {
            break;
        }
    }
    Ok(missing)
}
