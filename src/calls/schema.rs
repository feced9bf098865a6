//! The cache: an SQLite database that can be deleted at any time and is then read anew.
//!
//! **Invariant:** what is in it is also elsewhere. A file that is damaged, of another version or of
//! another configuration is removed, never repaired.

use super::error::is_damage;
use rusqlite::config::DbConfig;
use rusqlite::{Connection, OpenFlags, OptionalExtension, params};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Name of the database in the state directory.
pub(super) const FILE: &str = "calls.sqlite";

/// Goes up with every change of what follows.
const VERSION: i64 = 3;

// record.origin: 1 call record, 2 name of a recording, 3 channel event; call 0: tied to nothing.
// ident.live: 0 unknown, 1 channels of this linkedid are there, 2 the last one is gone. Times are
// nanoseconds since 1970. number.digits is written backwards. heard: calls with recordings in the
// order in which something was last heard of them. No OR REPLACE in its triggers: what the statement
// says that fires them goes before what they say.
const SCHEMA: &str = "
CREATE TABLE meta(key TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT, WITHOUT ROWID;

CREATE TABLE record(
    id INTEGER PRIMARY KEY,
    key INTEGER NOT NULL,
    content INTEGER NOT NULL,
    origin INTEGER NOT NULL,
    node INTEGER,
    call INTEGER NOT NULL,
    stem BLOB,
    sequence INTEGER,
    start INTEGER NOT NULL,
    answer INTEGER,
    ended INTEGER NOT NULL,
    billsec INTEGER NOT NULL,
    answered INTEGER NOT NULL,
    uniqueid TEXT NOT NULL,
    linkedid TEXT NOT NULL,
    disposition TEXT NOT NULL,
    src TEXT NOT NULL,
    dst TEXT NOT NULL,
    clid TEXT NOT NULL,
    dcontext TEXT NOT NULL,
    channel TEXT NOT NULL,
    dstchannel TEXT NOT NULL,
    accountcode TEXT NOT NULL,
    recordingfile TEXT NOT NULL,
    did TEXT NOT NULL,
    campaign TEXT NOT NULL,
    list TEXT NOT NULL,
    agent TEXT NOT NULL,
    lead TEXT NOT NULL,
    phone TEXT NOT NULL,
    ingroup TEXT NOT NULL
) STRICT;
CREATE UNIQUE INDEX record_key ON record(key);
CREATE INDEX record_call ON record(call);
CREATE INDEX record_start ON record(start);
CREATE INDEX record_stem ON record(stem) WHERE stem IS NOT NULL;
CREATE INDEX record_campaign ON record(campaign, start) WHERE campaign <> '';
CREATE INDEX record_agent ON record(agent, start) WHERE agent <> '';
CREATE INDEX record_lead ON record(lead, start) WHERE lead <> '';
CREATE INDEX record_account ON record(accountcode, ended) WHERE accountcode <> '';

CREATE TABLE number(
    digits TEXT NOT NULL, record INTEGER NOT NULL, PRIMARY KEY(digits, record)
) STRICT, WITHOUT ROWID;

CREATE TABLE ident(
    name TEXT PRIMARY KEY, call INTEGER NOT NULL, live INTEGER NOT NULL DEFAULT 0
) STRICT, WITHOUT ROWID;
CREATE INDEX ident_call ON ident(call);

CREATE TABLE call(
    id INTEGER PRIMARY KEY,
    name TEXT NOT NULL,
    rank INTEGER NOT NULL,
    start INTEGER NOT NULL,
    ended INTEGER NOT NULL,
    touched INTEGER NOT NULL,
    records INTEGER NOT NULL
) STRICT;
CREATE INDEX call_start ON call(start);

CREATE TABLE recording(
    node INTEGER PRIMARY KEY,
    path BLOB NOT NULL,
    stem BLOB NOT NULL,
    uniqueid TEXT NOT NULL,
    at INTEGER NOT NULL
) STRICT;
CREATE INDEX recording_stem ON recording(stem);
CREATE INDEX recording_uniqueid ON recording(uniqueid) WHERE uniqueid <> '';

CREATE TABLE leg(
    call INTEGER NOT NULL, node INTEGER NOT NULL, PRIMARY KEY(call, node)
) STRICT, WITHOUT ROWID;
CREATE INDEX leg_node ON leg(node);

CREATE TABLE heard(
    position INTEGER PRIMARY KEY AUTOINCREMENT, call INTEGER NOT NULL UNIQUE
) STRICT;
CREATE TRIGGER leg_heard AFTER INSERT ON leg BEGIN
    DELETE FROM heard WHERE call = NEW.call;
    INSERT INTO heard(call) VALUES(NEW.call);
END;
CREATE TRIGGER call_heard AFTER UPDATE OF touched ON call
WHEN EXISTS(SELECT 1 FROM leg WHERE call = NEW.id) BEGIN
    DELETE FROM heard WHERE call = NEW.id;
    INSERT INTO heard(call) VALUES(NEW.id);
END;
CREATE TRIGGER call_gone AFTER DELETE ON call BEGIN
    DELETE FROM heard WHERE call = OLD.id;
END;
";

/// Opens the cache for writing, made anew if it is not what it should be. `wanted` names the
/// configuration that it is filled by.
pub(super) fn open(path: &Path, wanted: &str) -> rusqlite::Result<Connection> {
    match open_as_it_is(path) {
        Ok(conn) if source_of(&conn)?.as_deref() == Some(wanted) => return Ok(conn),
        Ok(conn) => drop(conn),
        Err(error) if is_damage(&error) => {
            tracing::warn!(path = %path.display(), %error, "the call records are read anew");
        }
        Err(error) => return Err(error),
    }
    remove(path);
    let conn = open_as_it_is(path)?;
    conn.execute_batch(&format!(
        "BEGIN IMMEDIATE; {SCHEMA} PRAGMA user_version = {VERSION}; COMMIT;"
    ))?;
    put(&conn, "source", wanted)?;
    Ok(conn)
}

/// Takes the database and its companions away.
pub(super) fn remove(path: &Path) {
    for suffix in ["-wal", "-shm", ""] {
        let mut name = path.to_owned().into_os_string();
        name.push(suffix);
        let _not_there_is_fine = std::fs::remove_file(PathBuf::from(name));
    }
}

fn open_as_it_is(path: &Path) -> rusqlite::Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE
        | OpenFlags::SQLITE_OPEN_CREATE
        | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let conn = Connection::open_with_flags(path, flags)?;
    conn.busy_timeout(Duration::from_secs(2))?;
    conn.set_prepared_statement_cache_capacity(64);
    prepare_once(&conn)?;
    conn.execute_batch(
        "PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL;
         PRAGMA temp_store = MEMORY; PRAGMA cache_size = -32000; PRAGMA trusted_schema = OFF;
         PRAGMA wal_autocheckpoint = 16384; PRAGMA journal_size_limit = 16777216;",
    )?;
    Ok(conn)
}

/// The configuration that filled this cache, if it is of this version.
fn source_of(conn: &Connection) -> rusqlite::Result<Option<String>> {
    let version: i64 = conn.query_row("PRAGMA user_version", [], |r| r.get(0))?;
    if version == VERSION { get(conn, "source") } else { Ok(None) }
}

/// Opens the cache for reading; waits for nobody for long.
pub(super) fn open_reader(path: &Path) -> rusqlite::Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let conn = Connection::open_with_flags(path, flags)?;
    conn.busy_timeout(Duration::from_millis(200))?;
    conn.set_prepared_statement_cache_capacity(32);
    prepare_once(&conn)?;
    conn.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)?;
    conn.execute_batch("PRAGMA query_only = ON; PRAGMA temp_store = MEMORY;")?;
    if source_of(&conn)?.is_none() {
        return Err(rusqlite::Error::InvalidPath(path.to_owned()));
    }
    Ok(conn)
}

/// Plans do not depend on the values that are bound: else SQLite prepares every statement with a
/// bound LIMIT anew for each value, which takes longer than to run it. So a condition that a partial
/// index asks for is written out, and a beginning of a text is asked for as a range.
fn prepare_once(conn: &Connection) -> rusqlite::Result<()> {
    conn.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true).map(|_| ())
}

/// A small thing that is remembered.
pub(super) fn get(conn: &Connection, key: &str) -> rusqlite::Result<Option<String>> {
    conn.prepare_cached("SELECT value FROM meta WHERE key = ?1")?
        .query_row([key], |r| r.get(0))
        .optional()
}

/// Remembers it.
pub(super) fn put(conn: &Connection, key: &str, value: &str) -> rusqlite::Result<()> {
    conn.prepare_cached("INSERT OR REPLACE INTO meta VALUES(?1, ?2)")?
        .execute(params![key, value])
        .map(|_| ())
}

/// Bytes in use.
pub(super) fn bytes(conn: &Connection) -> rusqlite::Result<u64> {
    let pragma = |name: &str| -> rusqlite::Result<u64> {
        let value: i64 = conn.query_row(&format!("PRAGMA {name}"), [], |r| r.get(0))?;
        Ok(u64::try_from(value).unwrap_or(0))
    };
    let used = pragma("page_count")?.saturating_sub(pragma("freelist_count")?);
    Ok(used.saturating_mul(pragma("page_size")?))
}
