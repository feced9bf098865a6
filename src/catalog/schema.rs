//! The tables of the catalog and how they came to be (docs/CATALOG.md, "Schema").
//!
//! **Invariant:** a migration that was released is never changed, only followed by another.

use crate::limits;
use rusqlite::{Connection, OpenFlags, config::DbConfig};
use std::path::Path;
use std::time::Duration;

/// Steps from each schema version to the next; `PRAGMA user_version` counts those taken.
pub(super) const MIGRATIONS: &[&str] = &[V1, V2, V3, V4, V5, V6, V7];

/// The newest schema version this program knows.
pub(super) const VERSION: u32 = MIGRATIONS.len() as u32;

/// What is counted in `tally` besides the states' own codes.
pub(super) mod bucket {
    /// Closed files of 0 bytes.
    pub const EMPTY: i64 = 10;
    /// Closed files with bytes but without a hash of them.
    pub const UNHASHED: i64 = 11;
    /// Nodes with a remembered failure.
    pub const FAILING: i64 = 12;
}

// State codes: 1 recording, 2 closed, 3 archived, 4 released, 5 deleted. Kind codes: 1 file,
// 2 directory, 3 symbolic link, 4 other. entry.released: 1 now, 2 earlier, 0 never. Times are
// nanoseconds since 1970.
const V1: &str = "
CREATE TABLE position(
    id INTEGER PRIMARY KEY CHECK(id = 1),
    committed INTEGER NOT NULL,
    tier INTEGER NOT NULL,
    journal INTEGER NOT NULL
) STRICT;
INSERT INTO position VALUES(1, 0, 0, 0);

CREATE TABLE node(
    id INTEGER PRIMARY KEY,
    kind INTEGER NOT NULL,
    state INTEGER NOT NULL,
    generation INTEGER NOT NULL,
    mode INTEGER NOT NULL,
    uid INTEGER NOT NULL,
    gid INTEGER NOT NULL,
    size INTEGER NOT NULL,
    mtime INTEGER NOT NULL,
    atime INTEGER NOT NULL,
    ctime INTEGER NOT NULL,
    nlink INTEGER NOT NULL,
    rdev INTEGER NOT NULL,
    blocks INTEGER NOT NULL,
    sha256 BLOB,
    h_ino INTEGER,
    h_size INTEGER,
    h_mtime INTEGER,
    h_ctime INTEGER,
    seen INTEGER,
    closed_at INTEGER,
    archived_at INTEGER,
    recalled_at INTEGER,
    local_since INTEGER,
    adopted INTEGER NOT NULL,
    objects INTEGER NOT NULL,
    xattrs TEXT,
    told INTEGER NOT NULL DEFAULT 0,
    tier INTEGER NOT NULL DEFAULT 0,
    path BLOB,
    deleted_at INTEGER,
    attempts INTEGER NOT NULL DEFAULT 0,
    not_before INTEGER,
    error TEXT,
    error_at INTEGER
) STRICT;
CREATE INDEX node_due_hash ON node(adopted, closed_at, not_before)
    WHERE kind = 1 AND state = 2 AND h_ino IS NULL AND size > 0;
CREATE INDEX node_due_hash_adopted ON node(mtime, closed_at, not_before)
    WHERE kind = 1 AND state = 2 AND h_ino IS NULL AND size > 0 AND adopted = 1;
CREATE INDEX node_due_archive ON node(adopted, closed_at, id, not_before)
    WHERE kind = 1 AND state = 2 AND h_ino IS NOT NULL AND size > 0;
CREATE INDEX node_due_release ON node(local_since, id) WHERE state = 3;
CREATE INDEX node_left_recording ON node(kind, id) WHERE kind = 1 AND state = 1;
CREATE INDEX node_error ON node(error_at) WHERE error_at IS NOT NULL;

CREATE TABLE entry(
    id INTEGER PRIMARY KEY,
    parent INTEGER NOT NULL,
    name BLOB NOT NULL,
    stem BLOB NOT NULL,
    node INTEGER NOT NULL,
    released INTEGER NOT NULL,
    tier INTEGER NOT NULL,
    UNIQUE(parent, name)
) STRICT;
CREATE INDEX entry_node ON entry(node);
CREATE INDEX entry_stem ON entry(parent, stem);
CREATE INDEX entry_released ON entry(parent, id) WHERE released = 1;
CREATE INDEX entry_moved ON entry(parent, tier) WHERE released = 2;

CREATE TABLE generation(
    node INTEGER NOT NULL,
    generation INTEGER NOT NULL,
    size INTEGER NOT NULL,
    mtime INTEGER NOT NULL,
    sha256 BLOB NOT NULL,
    chunks BLOB NOT NULL,
    PRIMARY KEY(node, generation)
) STRICT, WITHOUT ROWID;

CREATE TABLE object(
    id INTEGER PRIMARY KEY,
    node INTEGER NOT NULL,
    generation INTEGER NOT NULL,
    target TEXT NOT NULL,
    key TEXT NOT NULL,
    state INTEGER NOT NULL,
    size INTEGER NOT NULL,
    sha256 BLOB NOT NULL,
    verified_at INTEGER,
    UNIQUE(target, key)
) STRICT;
CREATE INDEX object_node ON object(node, generation, target);

CREATE TABLE journal(seq INTEGER PRIMARY KEY, at INTEGER NOT NULL, line TEXT NOT NULL) STRICT;
CREATE TABLE journal_mark(
    target TEXT PRIMARY KEY, seq INTEGER NOT NULL, segment INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE TABLE setting(key TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT, WITHOUT ROWID;

CREATE TABLE tally(
    bucket INTEGER PRIMARY KEY, files INTEGER NOT NULL, bytes INTEGER NOT NULL
) STRICT;
INSERT INTO tally(bucket, files, bytes)
    VALUES(1,0,0),(2,0,0),(3,0,0),(4,0,0),(5,0,0),(10,0,0),(11,0,0),(12,0,0);
CREATE TRIGGER tally_insert AFTER INSERT ON node BEGIN
    UPDATE tally SET files = files + 1, bytes = bytes + NEW.size WHERE bucket IN (
        CASE WHEN NEW.kind <> 1 THEN -1 WHEN NEW.state = 2 AND NEW.size = 0 THEN 10
             ELSE NEW.state END,
        CASE WHEN NEW.kind = 1 AND NEW.state = 2 AND NEW.size > 0 AND NEW.h_ino IS NULL
             THEN 11 ELSE -1 END,
        CASE WHEN NEW.attempts > 0 THEN 12 ELSE -1 END);
END;
CREATE TRIGGER tally_delete AFTER DELETE ON node BEGIN
    UPDATE tally SET files = files - 1, bytes = bytes - OLD.size WHERE bucket IN (
        CASE WHEN OLD.kind <> 1 THEN -1 WHEN OLD.state = 2 AND OLD.size = 0 THEN 10
             ELSE OLD.state END,
        CASE WHEN OLD.kind = 1 AND OLD.state = 2 AND OLD.size > 0 AND OLD.h_ino IS NULL
             THEN 11 ELSE -1 END,
        CASE WHEN OLD.attempts > 0 THEN 12 ELSE -1 END);
END;
CREATE TRIGGER tally_update AFTER UPDATE OF kind, state, size, h_ino, attempts ON node
WHEN OLD.kind IS NOT NEW.kind OR OLD.state IS NOT NEW.state OR OLD.size IS NOT NEW.size
  OR OLD.h_ino IS NOT NEW.h_ino OR OLD.attempts IS NOT NEW.attempts
BEGIN
    UPDATE tally SET files = files - 1, bytes = bytes - OLD.size WHERE bucket IN (
        CASE WHEN OLD.kind <> 1 THEN -1 WHEN OLD.state = 2 AND OLD.size = 0 THEN 10
             ELSE OLD.state END,
        CASE WHEN OLD.kind = 1 AND OLD.state = 2 AND OLD.size > 0 AND OLD.h_ino IS NULL
             THEN 11 ELSE -1 END,
        CASE WHEN OLD.attempts > 0 THEN 12 ELSE -1 END);
    UPDATE tally SET files = files + 1, bytes = bytes + NEW.size WHERE bucket IN (
        CASE WHEN NEW.kind <> 1 THEN -1 WHEN NEW.state = 2 AND NEW.size = 0 THEN 10
             ELSE NEW.state END,
        CASE WHEN NEW.kind = 1 AND NEW.state = 2 AND NEW.size > 0 AND NEW.h_ino IS NULL
             THEN 11 ELSE -1 END,
        CASE WHEN NEW.attempts > 0 THEN 12 ELSE -1 END);
END;

INSERT INTO node(id, kind, state, generation, mode, uid, gid, size, mtime, atime, ctime, nlink,
    rdev, blocks, adopted, objects) VALUES(1, 2, 1, 0, 493, 0, 0, 0, 0, 0, 0, 2, 0, 0, 1, 0);
";

// When syncing the local copy failed; NULL: it did not, or the disk was proved to hold it since.
const V2: &str = "
ALTER TABLE node ADD COLUMN suspect INTEGER;
CREATE INDEX node_suspect ON node(suspect, id) WHERE suspect IS NOT NULL;
";

// An object whose bytes are not the recording's: how they come to be (docs/FORMAT.md, "Encodings"),
// and their length and SHA-256. NULL: they are; `size` and `sha256` are the recording's either way.
const V3: &str = "
ALTER TABLE object ADD COLUMN encoding TEXT;
ALTER TABLE object ADD COLUMN stored_size INTEGER;
ALTER TABLE object ADD COLUMN stored_sha256 BLOB;
";

// Recordings that lost their last name and are kept. `local`: 0 only objects are left, 1 the bytes
// are in the private directory, 2 they are, and it is archived. `trash_dir`: directories that are
// gone, and in which some of them were.
const V4: &str = "
CREATE TABLE IF NOT EXISTS trash(
    node INTEGER PRIMARY KEY,
    at INTEGER NOT NULL,
    path BLOB NOT NULL,
    size INTEGER NOT NULL,
    local INTEGER NOT NULL
) STRICT;
CREATE INDEX IF NOT EXISTS trash_at ON trash(at, node);
CREATE INDEX IF NOT EXISTS trash_path ON trash(path);
CREATE INDEX IF NOT EXISTS trash_spare ON trash(node) WHERE local = 2;
CREATE TABLE IF NOT EXISTS trash_dir(
    path BLOB PRIMARY KEY, mode INTEGER NOT NULL, uid INTEGER NOT NULL, gid INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS trash_tally(
    id INTEGER PRIMARY KEY CHECK(id = 1), files INTEGER NOT NULL, bytes INTEGER NOT NULL
) STRICT;
INSERT OR IGNORE INTO trash_tally VALUES(1, 0, 0);
CREATE TRIGGER IF NOT EXISTS trash_insert AFTER INSERT ON trash BEGIN
    UPDATE trash_tally SET files = files + 1, bytes = bytes + NEW.size;
END;
CREATE TRIGGER IF NOT EXISTS trash_delete AFTER DELETE ON trash BEGIN
    UPDATE trash_tally SET files = files - 1, bytes = bytes - OLD.size;
END;
CREATE TRIGGER IF NOT EXISTS trash_update AFTER UPDATE OF size ON trash BEGIN
    UPDATE trash_tally SET bytes = bytes - OLD.size + NEW.size;
END;
CREATE TRIGGER IF NOT EXISTS trash_state AFTER UPDATE OF state ON node
WHEN NEW.state IN (1, 2, 3) AND OLD.state <> NEW.state BEGIN
    UPDATE trash SET local = CASE NEW.state WHEN 3 THEN 2 ELSE 1 END
    WHERE node = NEW.id AND local > 0;
END;
";

// Legal holds, and the recordings that they are on (docs/HOLDS.md).
const V5: &str = "
CREATE TABLE hold(
    id INTEGER PRIMARY KEY,
    name TEXT NOT NULL,
    reason TEXT NOT NULL,
    by_whom TEXT NOT NULL,
    at INTEGER NOT NULL,
    scope TEXT NOT NULL,
    lifted_at INTEGER,
    lifted_by TEXT,
    lifted_why TEXT
) STRICT;
CREATE INDEX hold_name ON hold(name);
CREATE TABLE held(
    node INTEGER NOT NULL,
    hold INTEGER NOT NULL,
    since INTEGER NOT NULL,
    provisional INTEGER NOT NULL,
    PRIMARY KEY(node, hold)
) STRICT, WITHOUT ROWID;
CREATE INDEX held_hold ON held(hold, node);
";

// What is in the trash and waits to be archived; what a user wants deleted everywhere.
const V6: &str = "
ALTER TABLE trash ADD COLUMN erase INTEGER NOT NULL DEFAULT 0;
CREATE INDEX trash_waits ON trash(node) WHERE local = 1;
CREATE INDEX trash_erase ON trash(node) WHERE erase = 1;
";

// Legal holds as targets have them. States: 0 wanted, 1 asked for, 2 seen, 3 somebody else's, 4 the
// target refuses to delete the object of what was deleted.
const V7: &str = "
CREATE TABLE object_lock(
    object INTEGER PRIMARY KEY,
    node INTEGER NOT NULL,
    target TEXT NOT NULL,
    state INTEGER NOT NULL,
    version TEXT NOT NULL,
    at INTEGER NOT NULL,
    attempts INTEGER NOT NULL,
    not_before INTEGER NOT NULL,
    error TEXT
) STRICT;
CREATE INDEX object_lock_node ON object_lock(node, target);
CREATE INDEX object_lock_target ON object_lock(target, object);
CREATE INDEX object_lock_undeletable ON object_lock(state, error) WHERE state = 4;
";

/// Why a database could not be opened.
#[derive(Debug)]
pub(super) enum OpenFault {
    /// Written by a newer program: its schema version.
    Newer(u32),
    /// SQLite's own word.
    Sqlite(rusqlite::Error),
}

impl From<rusqlite::Error> for OpenFault {
    fn from(error: rusqlite::Error) -> OpenFault {
        OpenFault::Sqlite(error)
    }
}

/// Opens the database for writing, made or brought up to date if need be.
pub(super) fn open(path: &Path) -> Result<Connection, OpenFault> {
    open_at(path, VERSION)
}

/// The same, brought up to a version that is not the newest.
pub(super) fn open_at(path: &Path, version: u32) -> Result<Connection, OpenFault> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE
        | OpenFlags::SQLITE_OPEN_CREATE
        | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let mut conn = Connection::open_with_flags(path, flags)?;
    // Short: the thread that writes has other things to do than to wait, and tries again.
    conn.busy_timeout(Duration::from_millis(20))?;
    conn.set_prepared_statement_cache_capacity(128);
    prepare_once(&conn)?;
    let found: i64 = conn.query_row("PRAGMA user_version", [], |r| r.get(0))?;
    if found < 0 || found > i64::from(VERSION) {
        return Err(OpenFault::Newer(u32::try_from(found).unwrap_or(u32::MAX)));
    }
    // With a lower limit the room that the log was given goes at its first restart.
    let room = limits::CATALOG_WAL_ROOM_BYTES;
    conn.execute_batch(&format!(
        "PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL; PRAGMA wal_autocheckpoint = 0;
         PRAGMA journal_size_limit = {room}; PRAGMA temp_store = MEMORY; PRAGMA cache_size = -16000;
         PRAGMA trusted_schema = OFF;",
    ))?;
    migrate(&mut conn, found, version)?;
    // A file that is not ours may pass for an empty database of the right version.
    conn.query_row("SELECT committed FROM position", [], |_| Ok(()))?;
    Ok(conn)
}

fn migrate(conn: &mut Connection, found: i64, to: u32) -> Result<(), rusqlite::Error> {
    let taken = usize::try_from(found).unwrap_or(0);
    for (step, sql) in MIGRATIONS.iter().enumerate().take(to as usize).skip(taken) {
        let tx = conn.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)?;
        tx.execute_batch(sql)?;
        tx.pragma_update(None, "user_version", step as u64 as i64 + 1)?;
        tx.commit()?;
    }
    Ok(())
}

/// Opens the database for reading. Waits for nobody longer than a few milliseconds.
pub(super) fn open_reader(path: &Path) -> rusqlite::Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let conn = Connection::open_with_flags(path, flags)?;
    conn.busy_timeout(Duration::from_millis(2))?;
    conn.set_prepared_statement_cache_capacity(64);
    prepare_once(&conn)?;
    leave_files_on_close(&conn)?;
    conn.execute_batch("PRAGMA query_only = ON; PRAGMA temp_store = MEMORY;")?;
    Ok(conn)
}

/// Plans do not depend on the values that are bound: else SQLite takes most statements for out of
/// date with every new value, and prepares them again, which takes longer than to run them.
pub(super) fn prepare_once(conn: &Connection) -> rusqlite::Result<()> {
    conn.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true).map(|_| ())
}

/// Closing this connection shall not checkpoint, nor remove the write-ahead log by its name: the
/// name may by then belong to another database.
pub(super) fn leave_files_on_close(conn: &Connection) -> rusqlite::Result<()> {
    conn.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true).map(|_| ())
}
