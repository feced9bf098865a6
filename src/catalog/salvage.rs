//! Keeping a database that is damaged or has lost its name: it alone knows the released
//! recordings, so that an empty one is the last resort.

use super::database::{is_sound, remove_companions, set_aside};
use super::schema;
use crate::clock::SharedClock;
use rusqlite::{Connection, OpenFlags};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// What became of a damaged database.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Rescue {
    /// Only its indexes were damaged; they were made anew.
    Reindexed,
    /// Its rows were copied into a new file; the old one was set aside as this.
    Copied(PathBuf),
}

/// Tries to get a damaged database going again: by its indexes made anew, else by a copy of its
/// rows, which needs none of them. No other connection may be writing. `None`: it can not be done.
pub(super) fn rescue(path: &Path, clock: &SharedClock) -> Option<Rescue> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let conn = Connection::open_with_flags(path, flags).ok()?;
    conn.busy_timeout(Duration::from_millis(200)).ok()?;
    match conn.execute_batch("REINDEX") {
        Ok(()) if is_sound(path) == Some(true) => return Some(Rescue::Reindexed),
        Ok(()) => {}
        Err(error) => tracing::warn!("{}: REINDEX: {error}", path.display()),
    }
    let copied = copy(&conn, path);
    drop(conn);
    let done = copied.and_then(|copy| {
        let aside = set_aside(path, clock)?;
        std::fs::rename(copy, path)?;
        sync_dir(path)?;
        Ok(aside)
    });
    match done {
        Ok(aside) => Some(Rescue::Copied(aside)),
        Err(error) => {
            tracing::warn!("{}: its rows can not be copied: {error}", path.display());
            None
        }
    }
}

/// Gives a database that is open but was removed its name again.
pub(super) fn restore(conn: &Connection, path: &Path) -> std::io::Result<()> {
    let copy = fresh(path, |copy| {
        let name = copy.to_str().unwrap_or_default();
        conn.execute("VACUUM INTO ?1", [name]).map(|_| ()).map_err(std::io::Error::other)
    })?;
    // They belong to the file that is gone, and would be taken for the new one's.
    remove_companions(path);
    std::fs::rename(copy, path)?;
    sync_dir(path)
}

/// What is copied; `tally` is counted anew by the triggers.
const TABLES: &[&str] =
    &["position", "node", "entry", "generation", "object", "journal", "journal_mark", "setting"];

/// What versions since the first have besides, copied if both have it.
const NEWER: &[&str] = &["trash", "trash_dir", "hold", "held", "object_lock"];

/// Copies every row that can be read into a new file beside `path`. `VACUUM INTO` will not do: it
/// copies indexes page by page.
fn copy(conn: &Connection, path: &Path) -> std::io::Result<PathBuf> {
    fresh(path, |copy| {
        let version: u32 = conn
            .query_row("PRAGMA user_version", [], |r| r.get(0))
            .map_err(std::io::Error::other)?;
        if !(1..=schema::VERSION).contains(&version) {
            return Err(std::io::Error::other("it has another schema version"));
        }
        // An older one stays as old, and is brought up to date when it is opened.
        let made = schema::open_at(copy, version);
        drop(made.map_err(|fault| std::io::Error::other(format!("{fault:?}")))?);
        copy_rows(conn, copy).map_err(std::io::Error::other)
    })
}

fn copy_rows(conn: &Connection, copy: &Path) -> rusqlite::Result<()> {
    conn.execute("ATTACH ?1 AS copy", [copy.to_str().unwrap_or_default()])?;
    conn.execute_batch("BEGIN; DELETE FROM copy.position; DELETE FROM copy.node;")?;
    let has = |schema: &str, table: &str| -> rusqlite::Result<bool> {
        let text = format!("SELECT 1 FROM {schema}.sqlite_master WHERE name = ?1");
        conn.prepare(&text)?.exists([table])
    };
    let mut tables = TABLES.to_vec();
    for table in NEWER {
        if has("main", table)? && has("copy", table)? {
            tables.push(table);
        }
    }
    for table in tables {
        // The condition keeps SQLite from copying pages instead of rows.
        conn.execute_batch(&format!(
            "INSERT OR IGNORE INTO copy.{table} SELECT * FROM main.{table} NOT INDEXED WHERE 1"
        ))?;
    }
    conn.execute_batch("COMMIT")?;
    conn.query_row("PRAGMA copy.wal_checkpoint(TRUNCATE)", [], |_| Ok(()))?;
    conn.execute_batch("DETACH copy")
}

/// Has a new database made beside `path`, which must be ours, sound and synced.
fn fresh(path: &Path, make: impl FnOnce(&Path) -> std::io::Result<()>) -> std::io::Result<PathBuf> {
    let mut name = path.to_owned().into_os_string();
    name.push(".copy");
    let copy = PathBuf::from(name);
    match std::fs::remove_file(&copy) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
        _ => remove_companions(&copy),
    }
    let made = make(&copy).and_then(|()| {
        // The file alone is what gets the name.
        remove_companions(&copy);
        match is_sound(&copy) {
            Some(true) => ours(&copy).map_err(std::io::Error::other),
            _ => Err(std::io::Error::other("the copy is not sound either")),
        }
    });
    match made.and_then(|()| File::open(&copy)?.sync_all()) {
        Ok(()) => {
            remove_companions(&copy);
            Ok(copy)
        }
        Err(error) => {
            remove_companions(&copy);
            let _not_needed = std::fs::remove_file(&copy);
            Err(error)
        }
    }
}

/// A file that lost everything passes for an empty database.
fn ours(path: &Path) -> rusqlite::Result<()> {
    schema::open_reader(path)?.query_row(
        "SELECT committed FROM position JOIN node ON node.id = 1",
        [],
        |_| Ok(()),
    )
}

fn sync_dir(path: &Path) -> std::io::Result<()> {
    path.parent().map_or(Ok(()), |dir| File::open(dir)?.sync_all())
}
