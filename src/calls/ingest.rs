//! Puts what sources and the catalog tell into the cache, and ties calls together.
//!
//! Records are of one call if they share a uniqueid or a linkedid, directly or over others: the
//! linkedid of a live channel changes when calls are merged, and records already written keep the
//! old one. `ident` maps each id to its call; two calls that turn out to be one are merged. The
//! result does not depend on the order in which things are told.

use super::names::{self, Pattern};
use super::record::{CallRecord, Origin, digest};
use super::time::Zone;
use crate::clock::Timestamp;
use crate::limits;
use crate::recording::NodeId;
use rusqlite::{Connection, OptionalExtension, params, params_from_iter, types::Value};
use std::cell::Cell;

type Sql<T> = rusqlite::Result<T>;

/// Attaches the recordings with an id in their names. The second condition lets SQLite see that its
/// index, which leaves out names without an id, will do; else it looks through all recordings for each
/// new id.
pub(super) const LEGS_OF_ID: &str = "INSERT OR IGNORE INTO leg
    SELECT ?2, node FROM recording WHERE uniqueid = ?1 AND uniqueid <> '' LIMIT ?3";

/// What the catalog knows of a recording.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recording {
    /// Its row there.
    pub node: NodeId,
    /// Bytes of its path relative to the mount.
    pub path: Vec<u8>,
    /// When it was closed, or last written to.
    pub at: Timestamp,
}

/// A channel event.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CelEvent {
    /// Its kind, as Asterisk calls it.
    pub kind: String,
    /// When.
    pub at: Timestamp,
    /// The channel.
    pub uniqueid: String,
    /// The call, as it is at this moment.
    pub linkedid: String,
    /// The file that a recorder was started on.
    pub file: String,
    /// Channels named by a transfer.
    pub others: Vec<String>,
}

/// Writes within one transaction.
pub(super) struct Writer<'c> {
    pub conn: &'c Connection,
    pub now: Timestamp,
    pub zone: &'c Zone,
    pub patterns: &'c [Pattern],
    /// Calls that were not merged because they would be larger than any real one.
    pub refused: Cell<u64>,
}

struct Known {
    id: i64,
    call: i64,
    content: i64,
}

impl Writer<'_> {
    /// Takes a record; whether it was new or has changed.
    pub(super) fn record(&self, record: &CallRecord) -> Sql<bool> {
        self.store(record, record.key(), None)
    }

    fn store(&self, record: &CallRecord, key: i64, node: Option<NodeId>) -> Sql<bool> {
        let content = record.content();
        let known = self.known(key)?;
        if known.as_ref().is_some_and(|k| k.content == content) {
            return Ok(false);
        }
        let prior = known.as_ref().map(|k| k.call).filter(|call| *call != 0);
        if let Some(known) = &known {
            self.remove_record(known.id)?;
        }
        let call = self.call_for(record, prior)?;
        let stem = Some(names::stem_of(record.recordingfile.as_bytes()))
            .filter(|stem| !stem.is_empty() && record.origin != Origin::Name);
        let id = self.insert(record, (key, content, call), node, stem.as_deref())?;
        for digits in record.numbers() {
            self.conn
                .prepare_cached("INSERT OR IGNORE INTO number VALUES(?1, ?2)")?
                .execute(params![digits, id])?;
        }
        if call != 0 {
            self.count(call, record)?;
            match (node, stem) {
                (Some(node), _) => self.attach(call, node)?,
                (None, Some(stem)) => self.attach_named(call, &stem, &record.recordingfile)?,
                (None, None) => {}
            }
        }
        Ok(true)
    }

    fn known(&self, key: i64) -> Sql<Option<Known>> {
        self.conn
            .prepare_cached("SELECT id, call, content FROM record WHERE key = ?1")?
            .query_row([key], |r| Ok(Known { id: r.get(0)?, call: r.get(1)?, content: r.get(2)? }))
            .optional()
    }

    fn insert(
        &self,
        record: &CallRecord,
        (key, content, call): (i64, i64, i64),
        node: Option<NodeId>,
        stem: Option<&[u8]>,
    ) -> Sql<i64> {
        let mut statement = self.conn.prepare_cached(
            "INSERT INTO record(key, content, origin, node, call, stem, sequence, start, answer,
                ended, billsec, answered, uniqueid, linkedid, disposition, src, dst, clid, dcontext,
                channel, dstchannel, accountcode, recordingfile, did, campaign, list, agent, lead,
                phone, ingroup)
             VALUES(?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?,
                ?, ?, ?, ?)",
        )?;
        let numbers = [
            Value::from(key),
            Value::from(content),
            Value::from(record.origin.code()),
            Value::from(node.map(|n| n.0.cast_signed())),
            Value::from(call),
            Value::from(stem.map(<[u8]>::to_vec)),
            Value::from(record.sequence),
            Value::from(record.start.0),
            Value::from(record.answer.map(|a| a.0)),
            Value::from(record.end.0),
            Value::from(record.billsec),
            Value::from(record.answered),
        ];
        let texts = record.texts().into_iter().map(|text| Value::from(text.clone()));
        statement.execute(params_from_iter(numbers.into_iter().chain(texts)))?;
        Ok(self.conn.last_insert_rowid())
    }

    /// The call of a record, made or merged if need be; 0 for a name that ties it to nothing.
    fn call_for(&self, record: &CallRecord, prior: Option<i64>) -> Sql<i64> {
        let ids: Vec<&str> = record.ids().collect();
        if prior.is_none() && ids.is_empty() && record.origin == Origin::Name {
            return Ok(0);
        }
        let adjoining = self.adjoining(record)?;
        self.tie(&ids, prior.into_iter().chain(adjoining), record.start)
    }

    /// The one call of all these ids and calls.
    fn tie(&self, ids: &[&str], calls: impl Iterator<Item = i64>, start: Timestamp) -> Sql<i64> {
        let mut target: Option<i64> = None;
        let mut join = |call: i64| -> Sql<()> {
            target = Some(match target {
                Some(other) => self.merge(other, call)?,
                None => call,
            });
            Ok(())
        };
        let mut fresh = Vec::new();
        for id in ids {
            match self.call_of_id(id)? {
                Some(call) => join(call)?,
                None => fresh.push(*id),
            }
        }
        for call in calls {
            join(call)?;
        }
        let call = match target {
            Some(call) => call,
            None => self.new_call(start)?,
        };
        for id in fresh {
            self.conn
                .prepare_cached("INSERT OR IGNORE INTO ident(name, call) VALUES(?1, ?2)")?
                .execute(params![id, call])?;
            self.conn.prepare_cached(LEGS_OF_ID)?.execute(params![
                id,
                call,
                limits::CALL_LEGS_MAX as i64
            ])?;
        }
        Ok(call)
    }

    fn call_of_id(&self, id: &str) -> Sql<Option<i64>> {
        self.conn
            .prepare_cached("SELECT call FROM ident WHERE name = ?1")?
            .query_row([id], |r| r.get(0))
            .optional()
    }

    fn new_call(&self, start: Timestamp) -> Sql<i64> {
        self.conn
            .prepare_cached(
                "INSERT INTO call(name, rank, start, ended, touched, records)
                 VALUES('', ?1, ?2, ?2, ?3, 0)",
            )?
            .execute(params![i64::MAX, start.0, self.now.0])?;
        Ok(self.conn.last_insert_rowid())
    }

    /// Calls of the same lead that adjoin: a dialler has no linkedid.
    fn adjoining(&self, record: &CallRecord) -> Sql<Vec<i64>> {
        if record.lead.is_empty() || record.origin != Origin::Cdr {
            return Ok(Vec::new());
        }
        let near = i64::try_from(limits::CALL_LEAD_ADJOINS.as_nanos()).unwrap_or(i64::MAX);
        let longest = i64::try_from(limits::CALL_LEG_LONGEST.as_nanos()).unwrap_or(i64::MAX);
        let mut statement = self.conn.prepare_cached(
            "SELECT DISTINCT call FROM record WHERE lead = ?1 AND lead <> ''
             AND start BETWEEN ?2 AND ?3 AND ended >= ?4 AND call <> 0 LIMIT 8",
        )?;
        let rows = statement.query_map(
            params![
                record.lead,
                record.start.0.saturating_sub(longest),
                record.end.0.saturating_add(near),
                record.start.0.saturating_sub(near)
            ],
            |r| r.get(0),
        )?;
        rows.collect()
    }

    /// Makes one call of two; which one is left. One larger than any real call is not made: a
    /// linkedid that a script set the same for everything must not tie all calls together.
    fn merge(&self, a: i64, b: i64) -> Sql<i64> {
        if a == b {
            return Ok(a);
        }
        let size = |call: i64| -> Sql<i64> {
            self.conn
                .prepare_cached("SELECT records FROM call WHERE id = ?1")?
                .query_row([call], |r| r.get(0))
                .optional()
                .map(|n| n.unwrap_or(0))
        };
        let (of_a, of_b) = (size(a)?, size(b)?);
        if of_a.saturating_add(of_b) > limits::CALL_RECORDS_MAX as i64 {
            self.refused.set(self.refused.get() + 1);
            return Ok(a);
        }
        let (stays, goes) = if of_a >= of_b { (a, b) } else { (b, a) };
        for text in [
            "UPDATE ident SET call = ?1 WHERE call = ?2",
            "UPDATE record SET call = ?1 WHERE call = ?2",
            "INSERT OR IGNORE INTO leg SELECT ?1, node FROM leg WHERE call = ?2",
            "UPDATE call SET
                name = CASE WHEN o.rank < call.rank THEN o.name ELSE call.name END,
                rank = min(call.rank, o.rank), start = min(call.start, o.start),
                ended = max(call.ended, o.ended), touched = max(call.touched, o.touched),
                records = call.records + o.records
             FROM (SELECT * FROM call WHERE id = ?2) AS o WHERE call.id = ?1",
        ] {
            self.conn.prepare_cached(text)?.execute([stays, goes])?;
        }
        for text in ["DELETE FROM leg WHERE call = ?1", "DELETE FROM call WHERE id = ?1"] {
            self.conn.prepare_cached(text)?.execute([goes])?;
        }
        Ok(stays)
    }

    /// Counts a record into its call, which is named after the linkedid of its earliest one.
    fn count(&self, call: i64, record: &CallRecord) -> Sql<()> {
        // What only a name says counts when there is nothing better.
        let behind = match (record.origin, record.linkedid.is_empty()) {
            (Origin::Cdr | Origin::Cel, false) => 0,
            (Origin::Cdr, true) => 2_000_000_000_000_000_000,
            _ => 4_000_000_000_000_000_000,
        };
        // A copied file was last written to when it was copied: no call is as long as that.
        let end = if record.origin == Origin::Name { record.start } else { record.end };
        let order = record.sequence.unwrap_or(0).clamp(0, 999_999_999);
        let rank = record.start.0.saturating_add(order).saturating_add(behind);
        let name = if record.linkedid.is_empty() { &record.uniqueid } else { &record.linkedid };
        self.conn
            .prepare_cached(
                "UPDATE call SET name = CASE WHEN ?3 < rank THEN ?2 ELSE name END,
                    rank = min(rank, ?3), start = min(start, ?4), ended = max(ended, ?5),
                    touched = ?6, records = records + 1 WHERE id = ?1",
            )?
            .execute(params![call, name, rank, record.start.0, end.0, self.now.0])
            .map(|_| ())
    }

    fn attach(&self, call: i64, node: NodeId) -> Sql<()> {
        self.conn
            .prepare_cached("INSERT OR IGNORE INTO leg VALUES(?1, ?2)")?
            .execute(params![call, node.0.cast_signed()])
            .map(|_| ())
    }

    /// Attaches the recordings of a name.
    fn attach_named(&self, call: i64, stem: &[u8], file: &str) -> Sql<()> {
        let mut statement = self
            .conn
            .prepare_cached("SELECT node, path FROM recording WHERE stem = ?1 LIMIT ?2")?;
        let mut rows = statement.query(params![stem, limits::CALL_LEGS_MAX as i64])?;
        while let Some(row) = rows.next()? {
            let path: Vec<u8> = row.get(1)?;
            if same_directory(file.as_bytes(), &path) {
                self.attach(call, NodeId(row.get::<_, i64>(0)?.cast_unsigned()))?;
            }
        }
        Ok(())
    }

    /// Takes a name from the catalog; whether anything changed.
    pub(super) fn recording(&self, recording: &Recording) -> Sql<bool> {
        let node = recording.node.0.cast_signed();
        let known: Option<(Vec<u8>, Vec<u8>)> = self
            .conn
            .prepare_cached("SELECT path, stem FROM recording WHERE node = ?1")?
            .query_row([node], |r| Ok((r.get(0)?, r.get(1)?)))
            .optional()?;
        let stem = names::stem_of(&recording.path);
        match known {
            Some((path, _)) if path == recording.path => return Ok(false),
            // It was moved: what it is stays the same.
            Some((_, old)) if old == stem => {
                self.conn
                    .prepare_cached("UPDATE recording SET path = ?2 WHERE node = ?1")?
                    .execute(params![node, recording.path])?;
                return Ok(true);
            }
            Some(_) => self.forget(recording.node)?,
            None => {}
        }
        let said = names::record(self.patterns, self.zone, &recording.path, recording.at);
        self.conn
            .prepare_cached("INSERT INTO recording VALUES(?1, ?2, ?3, ?4, ?5)")?
            .execute(params![node, recording.path, stem, said.uniqueid, said.start.0])?;
        self.store(&said, name_key(recording.node), Some(recording.node))?;
        for (call, file) in self.calls_naming(&stem)? {
            if same_directory(file.as_bytes(), &recording.path) {
                self.attach(call, recording.node)?;
            }
        }
        Ok(true)
    }

    fn calls_naming(&self, stem: &[u8]) -> Sql<Vec<(i64, String)>> {
        let mut statement = self.conn.prepare_cached(
            "SELECT DISTINCT call, recordingfile FROM record
             WHERE stem = ?1 AND stem IS NOT NULL AND call <> 0 LIMIT ?2",
        )?;
        let rows = statement.query_map(params![stem, limits::CALL_LEGS_MAX as i64], |r| {
            Ok((r.get(0)?, r.get(1)?))
        })?;
        rows.collect()
    }

    /// A recording is gone.
    pub(super) fn forget(&self, node: NodeId) -> Sql<()> {
        if let Some(known) = self.known(name_key(node))? {
            self.remove_record(known.id)?;
            self.drop_if_empty(known.call)?;
        }
        for text in ["DELETE FROM leg WHERE node = ?1", "DELETE FROM recording WHERE node = ?1"] {
            self.conn.prepare_cached(text)?.execute([node.0.cast_signed()])?;
        }
        Ok(())
    }

    /// Takes a record out of its call.
    pub(super) fn remove_record(&self, id: i64) -> Sql<()> {
        let text = format!("SELECT {}, r.call FROM record r WHERE r.id = ?1", super::rows::RECORD);
        let found = self
            .conn
            .prepare_cached(&text)?
            .query_row([id], |r| Ok((super::rows::record(r)?, r.get(super::rows::RECORD_COLUMNS)?)))
            .optional()?;
        let Some((record, call)): Option<(CallRecord, i64)> = found else { return Ok(()) };
        for digits in record.numbers() {
            self.conn
                .prepare_cached("DELETE FROM number WHERE digits = ?1 AND record = ?2")?
                .execute(params![digits, id])?;
        }
        self.conn.prepare_cached("DELETE FROM record WHERE id = ?1")?.execute([id])?;
        self.conn
            .prepare_cached("UPDATE call SET records = records - 1 WHERE id = ?1")?
            .execute([call])
            .map(|_| ())
    }

    /// Takes a call away that has no record left.
    pub(super) fn drop_if_empty(&self, call: i64) -> Sql<()> {
        let gone = self
            .conn
            .prepare_cached("DELETE FROM call WHERE id = ?1 AND records <= 0")?
            .execute([call])?;
        if gone > 0 {
            for text in ["DELETE FROM ident WHERE call = ?1", "DELETE FROM leg WHERE call = ?1"] {
                self.conn.prepare_cached(text)?.execute([call])?;
            }
        }
        Ok(())
    }

    /// Takes a channel event.
    pub(super) fn event(&self, event: &CelEvent) -> Sql<()> {
        let mut ids: Vec<&str> = vec![event.uniqueid.as_str(), event.linkedid.as_str()];
        ids.extend(event.others.iter().map(String::as_str));
        ids.retain(|id| !id.is_empty());
        ids.sort_unstable();
        ids.dedup();
        if ids.is_empty() {
            return Ok(());
        }
        let call = self.tie(&ids, std::iter::empty(), event.at)?;
        let live = if event.kind == "LINKEDID_END" { 2 } else { 1 };
        self.conn
            .prepare_cached("UPDATE ident SET live = ?2 WHERE name = ?1 AND live <> ?2")?
            .execute(params![event.linkedid, live])?;
        self.conn
            .prepare_cached(
                "UPDATE call SET start = min(start, ?2), ended = max(ended, ?2),
                 touched = max(touched, ?3) WHERE id = ?1",
            )?
            .execute(params![call, event.at.0, self.now.0])?;
        if event.file.is_empty() {
            return Ok(());
        }
        let record = CallRecord {
            origin: Origin::Cel,
            uniqueid: event.uniqueid.clone(),
            linkedid: event.linkedid.clone(),
            start: event.at,
            end: event.at,
            answered: true,
            recordingfile: event.file.clone(),
            ..CallRecord::default()
        };
        self.record(&record).map(|_| ())
    }
}

pub(super) fn name_key(node: NodeId) -> i64 {
    digest(&["node", &node.0.to_string()])
}

/// Whether a record's file can be this recording, their names being the same: where the record says
/// directories, the shorter of the two paths must be the end of the other.
pub(super) fn same_directory(file: &[u8], path: &[u8]) -> bool {
    let dirs = |path: &[u8]| -> Vec<Vec<u8>> {
        let mut parts: Vec<Vec<u8>> =
            path.split(|b| *b == b'/').filter(|p| !p.is_empty()).map(<[u8]>::to_vec).collect();
        parts.pop();
        parts.reverse();
        parts
    };
    let (file, path) = (dirs(file), dirs(path));
    file.iter().zip(&path).all(|(a, b)| a == b)
}
