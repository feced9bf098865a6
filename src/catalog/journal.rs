//! Journal rows: what the targets must be told so that the catalog can be rebuilt from them. Each
//! is written in the transaction of the change it tells of (docs/CATALOG.md, "Journal rows").

use super::Catalog;
use super::apply::Node;
use super::encode::{percent, xattrs};
use super::error::Result;
use super::identity::Identity;
use super::op::Op;
use super::row::JournalRow;
use super::settings;
use super::sql_row::{self, path_of, sql, unsigned};
use super::trash;
use super::tx::{Change, Tx};
use crate::clock::Timestamp;
use crate::limits;
use crate::recording::{Attr, Generation, Kind, NodeId, State, Stored};
use rusqlite::{Connection, OptionalExtension, params};
use serde::Serialize;
use serde_json::{Value, json};

/// How many rows come between two looks at how many there are.
const TRIM_EVERY: u64 = 256;

/// One line; `seq`, `at` and `kind` come first.
#[derive(Serialize)]
struct Line<'a> {
    seq: u64,
    at: String,
    kind: &'a str,
    #[serde(flatten)]
    body: &'a Value,
}

/// A time as seconds since 1970 with nine decimals: `date -d @...` reads it, and no reader of
/// JSON rounds it.
pub(super) fn time(at: Timestamp) -> String {
    format!("{}.{:09}", at.secs(), at.subsec_nanos())
}

pub(super) fn attributes(attr: &Attr) -> Value {
    json!({
        "mode": format!("{:04o}", attr.mode),
        "uid": attr.uid,
        "gid": attr.gid,
        "mtime": time(attr.mtime),
        "atime": time(attr.atime),
        "size": attr.size,
    })
}

pub(super) fn merge(mut into: Value, from: Value) -> Value {
    if let (Value::Object(into), Value::Object(from)) = (&mut into, from) {
        into.extend(from);
    }
    into
}

/// What an object is that is not the recording itself.
fn encoded(stored: &Stored) -> Value {
    json!({
        "encoding": stored.encoding.to_string(),
        "stored_size": stored.size,
        "stored_sha256": stored.sha256,
    })
}

impl Tx<'_> {
    /// Writes one row.
    pub(super) fn journal_row(
        &self,
        at: Timestamp,
        kind: &str,
        body: &Value,
    ) -> rusqlite::Result<()> {
        let seq = self.journal.get().saturating_add(1);
        let line = serde_json::to_string(&Line { seq, at: time(at), kind, body })
            .map_err(|e| rusqlite::Error::ToSqlConversionFailure(Box::new(e)))?;
        self.conn
            .prepare_cached("INSERT INTO journal(seq, at, line) VALUES(?1, ?2, ?3)")?
            .execute(params![sql(seq), at.0, line])?;
        self.journal.set(seq);
        self.wake.set(true);
        self.bound_journal(seq)
    }

    /// A target that is away for long, or never comes back, must not fill the disk.
    fn bound_journal(&self, seq: u64) -> rusqlite::Result<()> {
        if !seq.is_multiple_of(TRIM_EVERY) {
            return Ok(());
        }
        let oldest = seq.saturating_sub(limits::JOURNAL_ROWS_MAX);
        let given_up = self
            .conn
            .prepare_cached("DELETE FROM journal WHERE seq <= ?1")?
            .execute([sql(oldest)])?;
        if given_up > 0 {
            tracing::error!(
                given_up,
                "the journal is longer than {} rows; the oldest are given up, and a target that \
                 has not got them can not be rebuilt from alone: bring it back, or take it out \
                 of the configuration",
                limits::JOURNAL_ROWS_MAX
            );
        }
        Ok(())
    }

    /// Tells of an operation on nodes that the targets have heard of.
    pub(super) fn tell(&self, op: &Op, changes: &[Change], at: Timestamp) -> rusqlite::Result<()> {
        for change in changes {
            let Some(old) = &change.old else { continue };
            let was_there = old.node.row.state != State::Deleted;
            let trash = trash::since(self.conn, change.id)?.is_some();
            let gone = trash || change.new.as_ref().is_none_or(|n| n.row.state == State::Deleted);
            if gone && was_there && (old.told || old.node.objects) {
                let path = change.path.as_deref().unwrap_or_default();
                self.tell_deleted(change.id, path, old.node.row.generation, trash, at)?;
            } else if gone && was_there {
                // Nobody has heard of it.
            } else if let Some(new) = &change.new {
                let dir = new.row.attr.kind == Kind::Dir;
                if old.told || (dir && self.has_objects()?) {
                    self.tell_one(op, change, new, at)?;
                }
            }
        }
        Ok(())
    }

    /// Tells that the last name of a recording is gone, and whether it is in the trash.
    pub(super) fn tell_deleted(
        &self,
        id: NodeId,
        path: &[u8],
        generation: Generation,
        trash: bool,
        at: Timestamp,
    ) -> rusqlite::Result<()> {
        let body = json!({"id": id.0, "path": percent(path), "generation": generation.0});
        let body = if trash { merge(body, json!({"trash": true})) } else { body };
        self.journal_row(at, "deleted", &body)
    }

    fn tell_one(
        &self,
        op: &Op,
        change: &Change,
        new: &Node,
        at: Timestamp,
    ) -> rusqlite::Result<()> {
        let id = change.id.0;
        let before = || percent(change.path.as_deref().unwrap_or_default());
        let at_name = |parent, name: &Vec<u8>| {
            sql_row::Paths::default().file(self.conn, parent, name).map(|p| percent(&p))
        };
        let moved = |to: String| {
            let dir = new.row.attr.kind == Kind::Dir;
            json!({"id": id, "path": to, "from": before(), "dir": dir})
        };
        match op {
            Op::Rename { id: node, new_parent, new_name, .. } if *node == change.id => {
                self.journal_row(at, "renamed", &moved(at_name(*new_parent, new_name)?))
            }
            Op::Exchange { a, b, .. } => {
                let to = if a.0 == change.id { b } else { a };
                self.journal_row(at, "renamed", &moved(at_name(to.1, &to.2)?))
            }
            Op::Rename { .. } | Op::Unlink { .. } => {
                self.journal_row(at, "unlinked", &json!({"id": id, "path": before()}))
            }
            Op::Link { parent, name, .. } | Op::Create { parent, name, .. } => {
                let path = at_name(*parent, name)?;
                self.journal_row(at, "linked", &json!({"id": id, "path": path}))
            }
            Op::Restore { parent, name, .. } => {
                let body = json!({"id": id, "path": at_name(*parent, name)?});
                self.journal_row(at, "restored", &merge(body, attributes(&new.row.attr)))
            }
            Op::SetAttr { .. } if change.old.as_ref().is_some_and(|o| o.node != *new) => {
                let body = merge(json!({"id": id, "path": before()}), attributes(&new.row.attr));
                self.journal_row(at, "attributes", &body)
            }
            Op::SetXattrs { .. } => {
                let pairs = xattrs::to_text(&new.row.xattrs);
                self.journal_row(
                    at,
                    "xattrs",
                    &json!({"id": id, "path": before(), "xattrs": pairs}),
                )
            }
            Op::SetAttr { .. } | Op::Opened { .. } | Op::Closed { .. } | Op::Suspect { .. } => {
                Ok(())
            }
        }
    }

    /// Tells what a recording shows where that was seen and not done through the mount: once it is
    /// released, nothing else knows it.
    pub(super) fn tell_looks(
        &self,
        old: &sql_row::Stored,
        new: &Node,
        at: Timestamp,
    ) -> rusqlite::Result<()> {
        let (before, attr) = (&old.node.row, &new.row.attr);
        let looks = |a: &Attr| (a.mode, a.uid, a.gid, a.mtime);
        if !old.told {
            return Ok(());
        }
        if looks(&before.attr) != looks(attr) {
            self.tell_attributes(new, at)?;
        }
        if before.xattrs != new.row.xattrs {
            let pairs = xattrs::to_text(&new.row.xattrs);
            let path = path_of(self.conn, new.row.id)?.unwrap_or_default();
            let body = json!({"id": new.row.id.0, "path": percent(&path), "xattrs": pairs});
            self.journal_row(at, "xattrs", &body)?;
        }
        Ok(())
    }

    /// Tells the attributes of a recording.
    pub(super) fn tell_attributes(&self, node: &Node, at: Timestamp) -> rusqlite::Result<()> {
        let path = path_of(self.conn, node.row.id)?.unwrap_or_default();
        let body = json!({"id": node.row.id.0, "path": percent(&path)});
        self.journal_row(at, "attributes", &merge(body, attributes(&node.row.attr)))
    }

    fn has_objects(&self) -> rusqlite::Result<bool> {
        self.conn.prepare_cached("SELECT EXISTS(SELECT 1 FROM object)")?.query_row([], |r| r.get(0))
    }

    /// Tells that a generation is archived, with everything a rebuild needs.
    pub(super) fn tell_archived(
        &self,
        node: &Node,
        kind: &str,
        at: Timestamp,
    ) -> rusqlite::Result<()> {
        let row = &node.row;
        let path = path_of(self.conn, row.id)?.unwrap_or_default();
        let body = json!({
            "id": row.id.0,
            "path": percent(&path),
            "generation": row.generation.0,
            "sha256": row.sha256,
            "xattrs": xattrs::to_text(&row.xattrs),
            "objects": verified_keys(self.conn, row.id, row.generation)?,
            "chunks": chunks(self.conn, row.id, row.generation)?,
        });
        self.conn
            .prepare_cached("UPDATE node SET told = 1 WHERE id = ?1")?
            .execute([sql(row.id.0)])?;
        self.journal_row(at, kind, &merge(body, attributes(&row.attr)))
    }
}

/// The verified objects of a generation, as rows tell of them.
pub(super) fn verified_keys(
    conn: &Connection,
    id: NodeId,
    generation: Generation,
) -> rusqlite::Result<Vec<Value>> {
    let mut statement = conn.prepare_cached(
        "SELECT target, key, encoding, stored_size, stored_sha256 FROM object
         WHERE node = ?1 AND generation = ?2 AND state = 2 ORDER BY target",
    )?;
    let rows = statement.query_map(params![sql(id.0), generation.0], |r| {
        let mut one = json!({"target": r.get::<_, String>(0)?, "key": r.get::<_, String>(1)?});
        if let Some(stored) = sql_row::stored_bytes(r, 2)? {
            one = merge(one, encoded(&stored));
        }
        Ok(one)
    })?;
    rows.collect()
}

fn chunks(conn: &Connection, id: NodeId, generation: Generation) -> rusqlite::Result<Vec<String>> {
    let bytes: Option<Vec<u8>> = conn
        .prepare_cached("SELECT chunks FROM generation WHERE node = ?1 AND generation = ?2")?
        .query_row(params![sql(id.0), generation.0], |r| r.get(0))
        .optional()?;
    Ok(hex_of(&bytes.unwrap_or_default()))
}

/// Chunk hashes as rows tell of them.
pub(super) fn hex_of(chunks: &[u8]) -> Vec<String> {
    chunks.chunks(32).map(hex::encode).collect()
}

/// Segments count from 1 in each epoch.
pub(super) fn restart_segments(conn: &Connection) -> rusqlite::Result<()> {
    conn.prepare_cached("UPDATE journal_mark SET segment = 0")?.execute([])?;
    Ok(())
}

impl Catalog {
    /// Journal rows that `target` has not got, oldest first: at most `limit`, and no more after
    /// their lines have come to `JOURNAL_SEGMENT_BYTES`.
    ///
    /// # Errors
    /// `Unusable`.
    pub fn journal_pending(&self, target: &str, limit: usize) -> Result<Vec<JournalRow>> {
        self.read_drained(|conn| {
            let mut statement = conn.prepare_cached(
                "SELECT seq, at, line FROM journal WHERE seq >
                    ifnull((SELECT seq FROM journal_mark WHERE target = ?1), 0)
                 ORDER BY seq LIMIT ?2",
            )?;
            let mut rows = statement.query(params![target, limit as u64 as i64])?;
            let (mut found, mut bytes) = (Vec::new(), 0);
            while bytes < limits::JOURNAL_SEGMENT_BYTES
                && let Some(r) = rows.next()?
            {
                let line: String = r.get(2)?;
                bytes += line.len();
                found.push(JournalRow { seq: unsigned(r.get(0)?), at: sql_row::time(r, 1)?, line });
            }
            Ok(found)
        })
    }

    /// `target` holds every journal row up to and including `seq`, in segment `segment`. Rows
    /// that every target in `all` has are removed.
    ///
    /// # Errors
    /// `Unusable`.
    pub fn journal_shipped(
        &self,
        target: &str,
        seq: u64,
        segment: u64,
        all: &[String],
    ) -> Result<()> {
        let (target, all) = (target.to_owned(), all.to_vec());
        self.shared.write(false, move |tx| {
            tx.conn
                .prepare_cached(
                    "INSERT INTO journal_mark(target, seq, segment) VALUES(?1, ?2, ?3)
                     ON CONFLICT(target) DO UPDATE SET seq = max(seq, ?2),
                        segment = max(segment, ?3)",
                )?
                .execute(params![target, sql(seq), sql(segment)])?;
            let mut everywhere: Option<i64> = None;
            for each in &all {
                let mark: Option<i64> = tx
                    .conn
                    .prepare_cached("SELECT seq FROM journal_mark WHERE target = ?1")?
                    .query_row([each], |r| r.get(0))
                    .optional()?;
                let mark = mark.unwrap_or(0);
                everywhere = Some(everywhere.map_or(mark, |least| least.min(mark)));
            }
            tx.conn
                .prepare_cached("DELETE FROM journal WHERE seq <= ?1")?
                .execute([everywhere.unwrap_or(0)])?;
            Ok(())
        })
    }

    /// Begins a new epoch, in which segments count from 1 again, in every target: the numbers of
    /// the present one turned out to be used. `lost`: by a later catalog, which knew more.
    ///
    /// # Errors
    /// `Unusable`.
    pub fn begin_epoch(&self, lost: bool) -> Result<()> {
        let before = self.identity();
        let next = Identity { epoch: before.epoch.saturating_add(1), ..before };
        let stored = next.clone();
        self.shared.write(true, move |tx| {
            if lost {
                settings::remember_loss(tx.conn, tx.now)?;
            }
            settings::store_identity(tx.conn, &stored)?;
            restart_segments(tx.conn)
        })?;
        self.shared.adopt(next);
        Ok(())
    }

    /// Number of the last segment shipped to `target`; 0 before the first.
    ///
    /// # Errors
    /// `Unusable`.
    pub fn journal_segment(&self, target: &str) -> Result<u64> {
        self.read_drained(|conn| {
            let segment: Option<i64> = conn
                .prepare_cached("SELECT segment FROM journal_mark WHERE target = ?1")?
                .query_row([target], |r| r.get(0))
                .optional()?;
            Ok(segment.map(unsigned).unwrap_or(0))
        })
    }
}
