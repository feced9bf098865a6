//! Answers about calls and their recordings.
//!
//! **Invariant:** the same cache and the same moment give the same answer, in the same order;
//! every answer is bounded.

use super::names;
use super::record::{Call, CallRecord, Facts, Leg, Origin};
use super::rows::{self, BRIEF, RECORD};
use super::{Asked, Heard, Joined, JoinedLeg, Listed, Recordings};
use crate::clock::Timestamp;
use crate::limits;
use crate::recording::{NodeId, State};
use rusqlite::{Connection, OptionalExtension, params};
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

type Sql<T> = rusqlite::Result<T>;

/// A recording as the cache has it.
#[derive(Clone, Debug)]
pub(super) struct Known {
    pub node: NodeId,
    pub path: Vec<u8>,
    pub stem: Vec<u8>,
    pub uniqueid: String,
}

pub(super) const KNOWN: &str = "n.node, n.path, n.stem, n.uniqueid";

pub(super) fn known(row: &rusqlite::Row<'_>) -> Sql<Known> {
    Ok(Known {
        node: NodeId(row.get::<_, i64>(0)?.cast_unsigned()),
        path: row.get(1)?,
        stem: row.get(2)?,
        uniqueid: row.get(3)?,
    })
}

pub(super) fn path_buf(bytes: &[u8]) -> PathBuf {
    PathBuf::from(OsString::from_vec(bytes.to_vec()))
}

/// Several rows of one statement.
pub(super) fn all<T>(
    conn: &Connection,
    text: &str,
    parameters: impl rusqlite::Params,
    read: impl FnMut(&rusqlite::Row<'_>) -> Sql<T>,
) -> Sql<Vec<T>> {
    conn.prepare_cached(text)?.query_map(parameters, read)?.collect()
}

/// The call that an id belongs to.
pub(super) fn call_of_id(conn: &Connection, id: &str) -> Sql<Option<i64>> {
    conn.prepare_cached("SELECT call FROM ident WHERE name = ?1")?
        .query_row([id], |r| r.get(0))
        .optional()
}

/// The recording at a path.
pub(super) fn at_path(conn: &Connection, path: &Path) -> Sql<Option<Known>> {
    let bytes = path.as_os_str().as_bytes();
    let text = format!("SELECT {KNOWN} FROM recording n WHERE n.stem = ?1 AND n.path = ?2");
    conn.prepare_cached(&text)?.query_row(params![names::stem_of(bytes), bytes], known).optional()
}

/// The call of a recording; of several the one that began first.
pub(super) fn call_of_node(conn: &Connection, node: NodeId) -> Sql<Option<i64>> {
    conn.prepare_cached(
        "SELECT l.call FROM leg l JOIN call c ON c.id = l.call WHERE l.node = ?1
         ORDER BY c.start, c.id LIMIT 1",
    )?
    .query_row([node.0.cast_signed()], |r| r.get(0))
    .optional()
}

/// The names of the calls that a recording is of.
pub(super) fn calls_of_node(conn: &Connection, node: NodeId) -> Sql<Vec<String>> {
    let limit = limits::CALL_LEGS_MAX as i64;
    all(conn, CALLS_OF_NODE, params![node.0.cast_signed(), limit], |r| r.get(0))
}

pub(super) const CALLS_OF_NODE: &str = "SELECT c.name FROM leg l JOIN call c ON c.id = l.call
    WHERE l.node = ?1 AND c.name <> '' LIMIT ?2";

pub(super) const HEARD_AFTER: &str = "SELECT h.position, c.name FROM heard h
    JOIN call c ON c.id = h.call WHERE h.position > ?1 ORDER BY h.position LIMIT ?2";

/// Calls of which something was heard behind a position.
pub(super) fn heard_after(conn: &Connection, position: u64, limit: usize) -> Sql<Heard> {
    let last: Option<i64> =
        conn.prepare_cached("SELECT max(position) FROM heard")?.query_row([], |r| r.get(0))?;
    let last = last.unwrap_or(0).cast_unsigned();
    if position >= last {
        return Ok(Heard { calls: Vec::new(), position: last });
    }
    let limit = i64::try_from(limit).unwrap_or(i64::MAX);
    let row = |r: &rusqlite::Row<'_>| Ok((r.get::<_, i64>(0)?.cast_unsigned(), r.get(1)?));
    let rows = all(conn, HEARD_AFTER, params![position.cast_signed(), limit], row)?;
    let position = rows.last().map_or(last, |(position, _)| *position);
    Ok(Heard { calls: rows.into_iter().map(|(_, name)| name).collect(), position })
}

/// How much is asked of a call.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Ask {
    /// Everything, and of each recording how it stands.
    All,
    /// Which recordings it has, and when they began.
    Legs,
}

/// The records of a call, the earliest first.
fn records_of(conn: &Connection, call: i64, ask: Ask) -> Sql<Vec<CallRecord>> {
    let of = "FROM record r WHERE r.call = ?1
         ORDER BY r.start, r.sequence, r.origin, r.id LIMIT ?2";
    let these = params![call, limits::CALL_RECORDS_MAX as i64];
    match ask {
        Ask::All => all(conn, &format!("SELECT {RECORD} {of}"), these, rows::record),
        Ask::Legs => all(conn, &format!("SELECT {BRIEF} {of}"), these, rows::brief),
    }
}

/// A call, whole. `account` is the id that was asked for: legs of another accountcode than its
/// record's are left out, if that is wanted.
pub(super) fn call(
    conn: &Connection,
    asked: &Asked<'_>,
    call: i64,
    account: Option<&str>,
) -> Sql<Option<Call>> {
    let head: Option<(String, i64, i64, i64)> = conn
        .prepare_cached("SELECT name, start, ended, touched FROM call WHERE id = ?1")?
        .query_row([call], |r| Ok((r.get(0)?, r.get(1)?, r.get(2)?, r.get(3)?)))
        .optional()?;
    let Some((linkedid, start, end, touched)) = head else { return Ok(None) };
    let records = records_of(conn, call, Ask::All)?;
    let found = legs_of(conn, asked, call, &records, Ask::All)?.1;
    let (legs, apart) = of_account(asked, account.unwrap_or(&linkedid), &records, found);
    let open = legs.iter().any(|leg| leg.state == Some(State::Recording));
    let complete = !open && settled(conn, asked, call, Timestamp(touched.max(end)))?;
    Ok(Some(Call {
        id: call.cast_unsigned(),
        linkedid,
        start: Timestamp(start),
        end: Timestamp(end),
        legs,
        records: records.into_iter().filter(|r| r.origin == Origin::Cdr).collect(),
        complete,
        apart,
    }))
}

/// The legs of a call alone, for who finds out how each stands himself: a recording that is gone may
/// be among them, unless there is another file of it. `id`: as [`call`]'s account.
pub(super) fn joined(
    conn: &Connection,
    asked: &Asked<'_>,
    call: i64,
    id: &str,
) -> Sql<Vec<JoinedLeg>> {
    let name: Option<String> = conn
        .prepare_cached("SELECT name FROM call WHERE id = ?1")?
        .query_row([call], |r| r.get(0))
        .optional()?;
    Ok(joined_legs(conn, asked, (call, &name.unwrap_or_default()), id)?.1)
}

/// Calls with at least so many recordings, after a cursor, each as [`joined`] has it. None only if
/// there are no more.
pub(super) fn list_joined(
    conn: &Connection,
    asked: &Asked<'_>,
    mut after: u64,
    at_least: usize,
    limit: usize,
) -> Sql<Vec<Joined>> {
    // As `list` has them, but that files of one recording are told apart below.
    let text = "SELECT c.id, c.name FROM call c WHERE c.id > ?1 AND c.name <> ''
            AND (SELECT count(*) FROM leg l WHERE l.call = c.id) >= ?2
         ORDER BY c.id LIMIT ?3";
    let limit = limit.min(limits::CALL_ANSWER_MAX);
    loop {
        let these = params![after.cast_signed(), at_least as i64, limit as i64];
        let heads: Vec<(i64, String)> = all(conn, text, these, |r| Ok((r.get(0)?, r.get(1)?)))?;
        let Some((last, _)) = heads.last() else { return Ok(Vec::new()) };
        after = last.cast_unsigned();
        let mut page = Vec::with_capacity(heads.len());
        for (call, linkedid) in heads {
            let (recordings, legs) = joined_legs(conn, asked, (call, &linkedid), &linkedid)?;
            if recordings >= at_least {
                page.push(Joined { id: call.cast_unsigned(), linkedid, legs });
            }
        }
        if !page.is_empty() {
            return Ok(page);
        }
    }
}

/// How many recordings a call has, and its legs.
fn joined_legs(
    conn: &Connection,
    asked: &Asked<'_>,
    (call, name): (i64, &str),
    id: &str,
) -> Sql<(usize, Vec<JoinedLeg>)> {
    let records = records_of(conn, call, Ask::Legs)?;
    let (recordings, found) = legs_of(conn, asked, call, &records, Ask::Legs)?;
    let legs = of_account(asked, id, &records, found).0.into_iter().map(|leg| JoinedLeg {
        node: leg.node,
        start: leg.start,
        called: called(&leg.records, name),
    });
    Ok((recordings, legs.collect()))
}

/// Whether a leg was recorded where the call went, not where it came from: on another channel than
/// the one that the call is named after.
fn called(records: &[CallRecord], name: &str) -> Option<bool> {
    let mut channels = records.iter().filter(|r| r.origin == Origin::Cdr && !r.uniqueid.is_empty());
    let first = channels.next()?;
    Some(first.uniqueid != name && channels.all(|r| r.uniqueid != name))
}

/// Those of the legs that are of the call's accountcode, and how many are not.
fn of_account(
    asked: &Asked<'_>,
    id: &str,
    records: &[CallRecord],
    mut legs: Vec<Leg>,
) -> (Vec<Leg>, usize) {
    let before = legs.len();
    if asked.same_account {
        let wanted = account_of(records, id);
        legs.retain(|leg| leg.records.is_empty() || belongs(leg, wanted));
    }
    let apart = before - legs.len();
    (legs, apart)
}

/// The accountcode of a call: that of the record of its id, or else of its earliest that has one.
fn account_of<'r>(records: &'r [CallRecord], id: &str) -> &'r str {
    let own = records.iter().filter(|r| r.uniqueid == id);
    let linked = records.iter().filter(|r| r.linkedid == id);
    let mut all = own.chain(linked).chain(records.iter());
    all.find(|r| !r.accountcode.is_empty()).map_or("", |r| &r.accountcode)
}

fn belongs(leg: &Leg, account: &str) -> bool {
    leg.records
        .iter()
        .any(|r| r.accountcode.is_empty() || account.is_empty() || r.accountcode == account)
}

/// How many recordings a call has, and its legs in their order, those left out that are gone.
fn legs_of(
    conn: &Connection,
    asked: &Asked<'_>,
    call: i64,
    records: &[CallRecord],
    ask: Ask,
) -> Sql<(usize, Vec<Leg>)> {
    let text = format!(
        "SELECT {KNOWN} FROM leg l JOIN recording n ON n.node = l.node
         WHERE l.call = ?1 ORDER BY l.node LIMIT ?2"
    );
    let found = all(conn, &text, params![call, limits::CALL_LEGS_MAX as i64], known)?;
    // What was made of a recording (`a.mp3`, `a-in.wav`) is the same recording.
    let mut groups: BTreeMap<Vec<u8>, Vec<Known>> = BTreeMap::new();
    for known in found {
        groups.entry(known.stem.clone()).or_default().push(known);
    }
    let recordings = groups.len();
    let mut legs = Vec::with_capacity(recordings);
    for files in groups.into_values() {
        // Which of several is taken depends on which are there.
        let standing = asked.recordings.filter(|_| ask == Ask::All || files.len() > 1);
        let mut group = Vec::with_capacity(files.len());
        for known in files {
            let said = records_naming(&known, records);
            let Some(leg) = leg(conn, standing, &known, (said, ask))? else { continue };
            group.push((known, leg));
        }
        legs.extend(best(group));
    }
    legs.sort_by(|a, b| (a.start, a.sequence, &a.path).cmp(&(b.start, b.sequence, &b.path)));
    Ok((recordings, legs))
}

/// The records of a call that tell of a recording.
fn records_naming(known: &Known, records: &[CallRecord]) -> Vec<CallRecord> {
    let stem = |r: &CallRecord| names::stem_of(r.recordingfile.as_bytes());
    let named = |r: &&CallRecord| !r.recordingfile.is_empty() && stem(r) == known.stem;
    let by_id = |r: &&CallRecord| r.origin == Origin::Cdr && r.uniqueid == known.uniqueid;
    let mut said: Vec<CallRecord> = records.iter().filter(named).cloned().collect();
    if !said.iter().any(|r| r.origin == Origin::Cdr) && !known.uniqueid.is_empty() {
        said.extend(records.iter().filter(by_id).cloned());
    }
    said
}

/// A recording as a leg; `None`: it is gone.
fn leg(
    conn: &Connection,
    recordings: Option<&dyn Recordings>,
    known: &Known,
    (mut records, ask): (Vec<CallRecord>, Ask),
) -> Sql<Option<Leg>> {
    let mut path = path_buf(&known.path);
    let mut state = None;
    if let Some(standing) = recordings.map(|r| r.standing(known.node)) {
        match standing {
            Ok(Some((State::Deleted, _)) | None) => return Ok(None),
            Ok(Some((now, place))) => (state, path) = (Some(now), place),
            // The catalog can not say now: as it was when last looked.
            Err(_) => {}
        }
    }
    if records.is_empty() {
        records.extend(name_record(conn, known.node, ask)?);
    }
    let recorder = records.iter().filter(|r| r.origin == Origin::Cel).map(|r| r.start).min();
    let first = records.iter().map(|r| (r.start, r.sequence)).min();
    let (start, sequence) = first.unwrap_or_default();
    let end = records.iter().map(|r| r.end).max().unwrap_or_default();
    let start = recorder.unwrap_or(start);
    records.retain(|r| r.origin != Origin::Cel);
    Ok(Some(Leg { node: known.node, path, state, start, sequence, end, records }))
}

/// What the name of a recording says.
fn name_record(conn: &Connection, node: NodeId, ask: Ask) -> Sql<Option<CallRecord>> {
    let key = super::ingest::name_key(node);
    let of = "FROM record r WHERE r.key = ?1";
    let found = match ask {
        Ask::All => all(conn, &format!("SELECT {RECORD} {of}"), [key], rows::record),
        Ask::Legs => all(conn, &format!("SELECT {BRIEF} {of}"), [key], rows::brief),
    };
    Ok(found?.pop())
}

/// Of the files of one recording the one to be played.
fn best(group: Vec<(Known, Leg)>) -> Option<Leg> {
    let rank = |(known, leg): &(Known, Leg)| {
        let name = known.path.rsplit(|b| *b == b'/').next().unwrap_or_default();
        let exact = leg.records.iter().any(|r| r.recordingfile.as_bytes().ends_with(name));
        (!exact, names::preference(name), known.path.clone())
    };
    group.into_iter().min_by_key(rank).map(|(_, leg)| leg)
}

/// Whether nothing more is to come of a call: its last channel is gone, or nothing was heard of it
/// for a while.
pub(super) fn settled(
    conn: &Connection,
    asked: &Asked<'_>,
    call: i64,
    heard: Timestamp,
) -> Sql<bool> {
    let (live, gone): (bool, bool) = conn
        .prepare_cached(
            "SELECT EXISTS(SELECT 1 FROM ident WHERE call = ?1 AND live = 1),
                    EXISTS(SELECT 1 FROM ident WHERE call = ?1 AND live = 2)",
        )?
        .query_row([call], |r| Ok((r.get(0)?, r.get(1)?)))?;
    let quiet = heard.age_at(asked.now);
    Ok(match (live, gone) {
        (false, true) => true,
        // An Asterisk that dies tells no end.
        (true, _) => quiet >= limits::CALL_LEG_LONGEST,
        (false, false) => quiet >= asked.quiet,
    })
}

/// Calls with at least so many recordings, after a cursor.
pub(super) fn list(
    conn: &Connection,
    after: u64,
    at_least: usize,
    limit: usize,
) -> Sql<Vec<Listed>> {
    all(
        conn,
        "SELECT c.id, c.name, c.start, c.ended,
            (SELECT count(DISTINCT n.stem) FROM leg l JOIN recording n ON n.node = l.node
             WHERE l.call = c.id) AS recordings
         FROM call c WHERE c.id > ?1 AND c.name <> ''
            AND (SELECT count(*) FROM leg l WHERE l.call = c.id) >= ?2 AND recordings >= ?2
         ORDER BY c.id LIMIT ?3",
        params![after.cast_signed(), at_least as i64, limit.min(limits::CALL_ANSWER_MAX) as i64],
        |r| {
            Ok(Listed {
                id: r.get::<_, i64>(0)?.cast_unsigned(),
                linkedid: r.get(1)?,
                start: Timestamp(r.get(2)?),
                end: Timestamp(r.get(3)?),
                recordings: usize::try_from(r.get::<_, i64>(4)?).unwrap_or(0),
            })
        },
    )
}

/// What is known of a recording.
pub(super) fn facts(conn: &Connection, known: &Known) -> Sql<Option<Facts>> {
    let call = call_of_node(conn, known.node)?;
    let linkedid = match call {
        Some(call) => conn
            .prepare_cached("SELECT name FROM call WHERE id = ?1")?
            .query_row([call], |r| r.get(0))?,
        None => String::new(),
    };
    let mut said = records_by_stem(conn, known)?;
    if said.is_empty()
        && let Some(call) = call
        && !known.uniqueid.is_empty()
    {
        let records = records_of(conn, call, Ask::All)?;
        let of = |id: &dyn Fn(&CallRecord) -> bool| -> Vec<CallRecord> {
            records.iter().filter(|r| r.origin == Origin::Cdr && id(r)).cloned().collect()
        };
        said = of(&|r| r.uniqueid == known.uniqueid);
        if said.is_empty() {
            said = of(&|_| true);
        }
    }
    let best = said.into_iter().max_by_key(|r| (r.answered, r.billsec, std::cmp::Reverse(r.start)));
    let matched = best.is_some();
    let record = match best {
        Some(record) => Some(record),
        None => name_record(conn, known.node, Ask::All)?,
    };
    Ok(record.map(|record| Facts { record, linkedid, matched }))
}

fn records_by_stem(conn: &Connection, known: &Known) -> Sql<Vec<CallRecord>> {
    let text = format!(
        "SELECT {RECORD} FROM record r
         WHERE r.stem = ?1 AND r.stem IS NOT NULL AND r.origin = 1
            AND r.call IN (SELECT call FROM leg WHERE node = ?2)
         ORDER BY r.start, r.id LIMIT ?3"
    );
    let limit = limits::CALL_LEGS_MAX as i64;
    let found = params![known.stem, known.node.0.cast_signed(), limit];
    all(conn, &text, found, rows::record)
}
