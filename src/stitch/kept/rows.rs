//! The tables of `joins.sqlite`, and their rows.

use super::super::StitchError;
use super::super::plan::Leg;
use super::{KeptJoin, KeptLeg, KeptObject, KeptState, NewJoin, RANGE};
use crate::catalog::ObjectState;
use crate::clock::Timestamp;
use crate::recording::{ChunkHashes, Encoding, ErrorClass, NodeId, Sha256, Stored};
use rusqlite::config::DbConfig;
pub(super) use rusqlite::params;
use rusqlite::{Connection, OptionalExtension, Row};
use std::path::Path;

pub(super) const FILE: &str = "joins.sqlite";

const SCHEMA: &str = "
CREATE TABLE IF NOT EXISTS stored(
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    call BLOB NOT NULL,
    digest INTEGER NOT NULL,
    size INTEGER NOT NULL,
    sha256 BLOB NOT NULL,
    chunks BLOB NOT NULL,
    plan TEXT NOT NULL,
    attr TEXT NOT NULL,
    state INTEGER NOT NULL,
    shown INTEGER NOT NULL DEFAULT 0
) STRICT;
CREATE INDEX IF NOT EXISTS stored_state ON stored(state, id);
CREATE INDEX IF NOT EXISTS stored_call ON stored(call);
CREATE INDEX IF NOT EXISTS stored_digest ON stored(digest);
CREATE INDEX IF NOT EXISTS stored_shown ON stored(id) WHERE shown = 1;
CREATE TABLE IF NOT EXISTS leg(
    node INTEGER NOT NULL,
    stored INTEGER NOT NULL,
    size INTEGER NOT NULL,
    mtime INTEGER NOT NULL,
    erased INTEGER NOT NULL DEFAULT 0,
    PRIMARY KEY(node, stored)
) STRICT, WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS leg_stored ON leg(stored);
CREATE TABLE IF NOT EXISTS object(
    target TEXT NOT NULL,
    key TEXT NOT NULL,
    stored INTEGER NOT NULL,
    state INTEGER NOT NULL,
    PRIMARY KEY(target, key)
) STRICT, WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS object_stored ON object(stored);
CREATE TABLE IF NOT EXISTS listed(target TEXT PRIMARY KEY) STRICT;
CREATE TABLE IF NOT EXISTS unread(
    target TEXT NOT NULL,
    key TEXT NOT NULL,
    PRIMARY KEY(target, key)
) STRICT, WITHOUT ROWID;
";

// When an object was last proved, and what it is if it is not the join as it is.
const SECOND: &str = "
ALTER TABLE object ADD COLUMN proved INTEGER NOT NULL DEFAULT 0;
ALTER TABLE object ADD COLUMN encoding TEXT;
ALTER TABLE object ADD COLUMN stored_size INTEGER;
ALTER TABLE object ADD COLUMN stored_sha256 BLOB;
CREATE INDEX object_proved ON object(target, proved) WHERE state = 2;
";

const COLUMNS: &str =
    "s.id, s.call, s.digest, s.size, s.sha256, s.chunks, s.plan, s.attr, s.state, s.shown";

/// All that is asked of stored joins. Every one goes by an index.
pub(super) mod ask {
    pub(in super::super) const AFTER: &str = "s.id > ?1 ORDER BY s.id LIMIT ?2";
    pub(in super::super) const IN_STATE: &str = "s.state = ?1 AND s.id > ?2 ORDER BY s.id LIMIT ?3";
    pub(in super::super) const OF_CALL: &str = "s.call = ?1 AND s.state < 3";
    pub(in super::super) const OF_NODE: &str =
        "s.id IN (SELECT l.stored FROM leg l WHERE l.node = ?1) AND +s.state < 3";
    pub(in super::super) const BY_ID: &str = "s.id = ?1";
    pub(in super::super) const SHOWN_OF_CALL: &str = "s.call = ?1 AND +s.shown = 1";
    pub(in super::super) const SHOWN_OF_NODE: &str =
        "s.id IN (SELECT l.stored FROM leg l WHERE l.node = ?1) AND +s.shown = 1";
    /// Those of the same call, or of some of the same recordings, as join ?1.
    pub(in super::super) const BESIDE: &str = "s.id IN (
        SELECT o.id FROM stored o WHERE o.call = (SELECT call FROM stored WHERE id = ?1)
        UNION SELECT b.stored FROM leg a JOIN leg b ON b.node = a.node WHERE a.stored = ?1)
        AND s.id <> ?1 AND +s.state < 3";
    pub(in super::super) const DUE: &str = "SELECT o.stored FROM object o
        WHERE o.target = ?1 AND o.state = 2 AND o.proved < ?2 ORDER BY o.proved LIMIT ?3";
    pub(in super::super) const SOURCE: &str = "SELECT s.id FROM stored s
        WHERE s.digest = ?1 AND s.size = ?2 AND +s.state >= 2 ORDER BY s.state LIMIT 1";
    pub(in super::super) const SAME: &str =
        "SELECT s.id FROM stored s WHERE s.call = ?1 AND s.sha256 = ?2 AND +s.state < 3";
    pub(in super::super) const SHOWN: &str = "SELECT 1 FROM stored WHERE shown = 1 LIMIT 1";
    pub(in super::super) const COUNT: &str = "SELECT state, count(*) FROM stored GROUP BY state";
}

pub(super) type Sql<T> = rusqlite::Result<T>;

/// Opens it for writing, with its tables.
pub(super) fn open(path: &Path) -> Sql<Connection> {
    let connection = Connection::open(path)?;
    connection.pragma_update(None, "journal_mode", "wal")?;
    connection.pragma_update(None, "synchronous", "full")?;
    // Plans do not depend on what is bound: no statement is prepared anew for another limit.
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true)?;
    connection.set_prepared_statement_cache_capacity(32);
    let version: i64 = connection.query_row("PRAGMA user_version", [], |r| r.get(0))?;
    let transaction = connection.unchecked_transaction()?;
    transaction.execute_batch(SCHEMA)?;
    if version < 1 {
        transaction.execute_batch(SECOND)?;
        transaction.pragma_update(None, "user_version", 1)?;
    }
    transaction.commit()?;
    Ok(connection)
}

/// What targets are asked for a stored join under.
pub(super) fn source(id: i64) -> NodeId {
    NodeId(RANGE | id.cast_unsigned())
}

/// What is written down of a join: what tells it from others, what it is made of, what it shows.
pub(super) fn digest_and_text(new: &NewJoin) -> (i64, String, String) {
    // These types have nothing that JSON can not say.
    let plan = serde_json::to_string(&new.plan).unwrap_or_default();
    let attr = serde_json::to_string(&new.attr).unwrap_or_default();
    (new.plan.digest().cast_signed(), plan, attr)
}

pub(super) fn known(leg: &Leg) -> KeptLeg {
    KeptLeg { node: leg.node, content: Some((leg.size, leg.mtime)), erased: false }
}

pub(super) fn same(connection: &Connection, call: &[u8], sha256: Sha256) -> Sql<Option<i64>> {
    connection
        .prepare_cached(ask::SAME)?
        .query_row(params![call, sha256.0], |r| r.get(0))
        .optional()
}

pub(super) fn insert(connection: &Connection, new: &NewJoin, legs: &[KeptLeg]) -> Sql<i64> {
    let (digest, plan, attr) = digest_and_text(new);
    let (size, chunks) = (new.plan.len().cast_signed(), new.chunks.to_bytes());
    connection
        .prepare_cached(
            "INSERT INTO stored(call, digest, size, sha256, chunks, plan, attr, state)
             VALUES(?1, ?2, ?3, ?4, ?5, ?6, ?7, 1)",
        )?
        .execute(params![new.call, digest, size, new.sha256.0, chunks, plan, attr])?;
    let id = connection.last_insert_rowid();
    set_legs(connection, id, legs)?;
    Ok(id)
}

pub(super) fn set_legs(connection: &Connection, id: i64, legs: &[KeptLeg]) -> Sql<()> {
    connection.prepare_cached("DELETE FROM leg WHERE stored = ?1")?.execute([id])?;
    for leg in legs {
        let (size, mtime) = leg.content.map_or((-1, 0), |(size, at)| (size.cast_signed(), at.0));
        connection
            .prepare_cached("INSERT OR IGNORE INTO leg VALUES(?1, ?2, ?3, ?4, ?5)")?
            .execute(params![sql(leg.node), id, size, mtime, leg.erased])?;
    }
    Ok(())
}

/// What is known of a join by now.
pub(super) fn tell(connection: &Connection, id: i64, new: &NewJoin) -> Sql<()> {
    let (digest, plan, attr) = digest_and_text(new);
    let (size, chunks) = (new.plan.len().cast_signed(), new.chunks.to_bytes());
    connection
        .prepare_cached(
            "UPDATE stored SET digest = ?2, plan = ?3, attr = ?4, size = ?5, chunks = ?6
             WHERE id = ?1",
        )?
        .execute(params![id, digest, plan, attr, size, chunks])
        .map(drop)
}

/// Whether no more is known of a join than that a target has a damaged object.
pub(super) fn only_damaged(connection: &Connection, id: i64) -> Sql<bool> {
    let text = "SELECT 1 FROM stored WHERE id = ?1 AND length(chunks) = 0";
    connection.prepare_cached(text)?.exists([id])
}

/// How far a join has come; what is to be deleted stands in for nothing.
pub(super) fn set_state(connection: &Connection, id: i64, state: KeptState) -> Sql<()> {
    let text = "UPDATE stored SET state = ?2, shown = shown AND ?2 < 3 WHERE id = ?1";
    connection.prepare_cached(text)?.execute(params![id, how_far(state)]).map(drop)
}

/// Takes a key of a target, unless it was ever taken; whether it did.
pub(super) fn take_key(connection: &Connection, id: i64, object: &KeptObject) -> Sql<bool> {
    let KeptObject { target, key, stored, .. } = object;
    let (words, size, sha256) = match stored.is_plain() {
        true => (None, None, None),
        false => (
            Some(stored.encoding.to_string()),
            Some(stored.size.cast_signed()),
            Some(stored.sha256.0),
        ),
    };
    let row = params![target, key, id, state(object.state), words, size, sha256];
    let text = "INSERT OR IGNORE INTO object(target, key, stored, state, encoding, stored_size,
            stored_sha256) VALUES(?1, ?2, ?3, ?4, ?5, ?6, ?7)";
    Ok(connection.prepare_cached(text)?.execute(row)? == 1)
}

/// What was noted of an object that was not read is told anew, by who read it.
pub(super) fn forget_unread(connection: &Connection, object: &KeptObject) -> Sql<()> {
    let of = params![object.target, object.key];
    let text = "DELETE FROM unread WHERE target = ?1 AND key = ?2";
    if connection.prepare_cached(text)?.execute(of)? == 1 {
        let text = "DELETE FROM object WHERE target = ?1 AND key = ?2";
        connection.prepare_cached(text)?.execute(of)?;
    }
    Ok(())
}

pub(super) fn state(of: ObjectState) -> i64 {
    match of {
        ObjectState::Assigned => 1,
        ObjectState::Verified => 2,
        ObjectState::Abandoned => 3,
    }
}

pub(super) fn how_far(state: KeptState) -> i64 {
    match state {
        KeptState::Making => 1,
        KeptState::Current => 2,
        KeptState::Old => 3,
    }
}

pub(super) fn sql(node: NodeId) -> i64 {
    node.0.cast_signed()
}

pub(super) fn shown(connection: &Connection) -> Sql<bool> {
    connection.prepare_cached(ask::SHOWN)?.exists([])
}

pub(super) fn failed(path: &Path, error: &rusqlite::Error) -> StitchError {
    let detail = format!("which joins are stored can not be told now: {error}");
    StitchError { leg: path.display().to_string(), detail, class: ErrorClass::Transient }
}

/// Stored joins that one of [`ask`] means.
pub(super) fn many(
    connection: &Connection,
    which: &str,
    of: impl rusqlite::Params,
) -> Sql<Vec<KeptJoin>> {
    let text = format!("SELECT {COLUMNS} FROM stored s WHERE {which}");
    let mut statement = connection.prepare_cached(&text)?;
    let rows: Vec<Option<KeptJoin>> = statement.query_map(of, join)?.collect::<Sql<_>>()?;
    let mut joins = Vec::with_capacity(rows.len());
    for mut join in rows.into_iter().flatten() {
        join.legs = legs(connection, join.id)?;
        join.objects = objects(connection, join.id)?;
        joins.push(join);
    }
    Ok(joins)
}

/// One that can not be understood is passed over: it stays where it is.
fn join(row: &Row<'_>) -> Sql<Option<KeptJoin>> {
    let (plan, attr): (String, String) = (row.get(6)?, row.get(7)?);
    let (plan, attr) = (serde_json::from_str(&plan), serde_json::from_str(&attr));
    let chunks = ChunkHashes::from_bytes(&row.get::<_, Vec<u8>>(5)?);
    let (Ok(plan), Ok(attr), Some(chunks)) = (plan, attr, chunks) else { return Ok(None) };
    let state = match row.get::<_, i64>(8)? {
        1 => KeptState::Making,
        2 => KeptState::Current,
        _ => KeptState::Old,
    };
    Ok(Some(KeptJoin {
        id: row.get(0)?,
        call: row.get(1)?,
        size: row.get::<_, i64>(3)?.cast_unsigned(),
        sha256: Sha256(row.get(4)?),
        chunks,
        plan,
        attr,
        state,
        shown: row.get(9)?,
        legs: Vec::new(),
        objects: Vec::new(),
    }))
}

fn legs(connection: &Connection, id: i64) -> Sql<Vec<KeptLeg>> {
    let text = "SELECT node, size, mtime, erased FROM leg WHERE stored = ?1";
    let leg = |row: &Row<'_>| {
        let (size, mtime): (i64, i64) = (row.get(1)?, row.get(2)?);
        Ok(KeptLeg {
            node: NodeId(row.get::<_, i64>(0)?.cast_unsigned()),
            content: (size >= 0).then_some((size.cast_unsigned(), Timestamp(mtime))),
            erased: row.get(3)?,
        })
    };
    connection.prepare_cached(text)?.query_map([id], leg)?.collect()
}

pub(super) fn objects(connection: &Connection, id: i64) -> Sql<Vec<KeptObject>> {
    let text = "SELECT o.target, o.key, o.state, o.encoding, o.stored_size, o.stored_sha256,
            s.size, s.sha256 FROM object o JOIN stored s ON s.id = o.stored WHERE o.stored = ?1";
    connection.prepare_cached(text)?.query_map([id], object)?.collect()
}

fn object(row: &Row<'_>) -> Sql<KeptObject> {
    let state = match row.get::<_, i64>(2)? {
        1 => ObjectState::Assigned,
        2 => ObjectState::Verified,
        _ => ObjectState::Abandoned,
    };
    let bytes = |at| row.get::<_, i64>(at).map(i64::cast_unsigned);
    let stored = match row.get::<_, Option<String>>(3)? {
        None => Stored::plain(bytes(6)?, Sha256(row.get(7)?)),
        Some(words) => {
            let size = bytes(4)?;
            let unknown = |why: String| {
                let kind = rusqlite::types::Type::Text;
                rusqlite::Error::FromSqlConversionFailure(3, kind, why.into())
            };
            let encoding = Encoding::parse(&words, size).map_err(unknown)?;
            Stored { encoding, size, sha256: Sha256(row.get(5)?) }
        }
    };
    Ok(KeptObject { target: row.get(0)?, key: row.get(1)?, state, stored })
}
