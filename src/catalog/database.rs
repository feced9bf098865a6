//! The connection that writes, the checkpoints, and the ballast.

use super::log::Effect;
use super::schema;
use super::shared::Shared;
use super::tx::Tx;
use crate::clock::SharedClock;
use crate::{faults, limits};
use rusqlite::hooks::Wal;
use rusqlite::{Connection, TransactionBehavior};
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// SQLite's, in bytes.
const PAGE: u64 = 4096;

/// The database, open for writing.
pub(super) struct Database {
    conn: Connection,
    path: PathBuf,
    clock: SharedClock,
    shared: Arc<Shared>,
    /// The last committed transaction gave the engine something to do.
    pub wake: bool,
    /// The last effect committed.
    pub committed: u64,
    /// Inode of the file when it was opened.
    file: Option<u64>,
    /// Pages in the write-ahead log. Its length does not tell: it keeps the room it has.
    wal_pages: Arc<AtomicU64>,
}

impl Database {
    /// Takes over a connection just opened.
    pub(super) fn new(shared: &Arc<Shared>, mut conn: Connection) -> rusqlite::Result<Database> {
        let (clock, path) = (shared.options.clock.clone(), shared.path.clone());
        let file = inode(&path);
        let shared = shared.clone();
        // What an earlier one left.
        let left = std::fs::metadata(wal_of(&path)).map_or(0, |m| m.len() / PAGE);
        let wal_pages = Arc::new(AtomicU64::new(left));
        let told = wal_pages.clone();
        conn.wal_hook(Some(move |_: &mut Wal, pages: std::ffi::c_int| {
            told.store(u64::try_from(pages).unwrap_or(0), Ordering::Relaxed);
            Ok(())
        }))?;
        let mut database =
            Database { conn, path, clock, shared, wake: false, committed: 0, file, wal_pages };
        let (committed, tier) = {
            let tx = Tx::begin(&database.conn, database.clock.now())?;
            (tx.committed.get(), tx.tier.get())
        };
        database.committed = committed;
        database.shared.tier.fetch_max(tier, Ordering::SeqCst);
        let highest: Option<i64> =
            database.conn.query_row("SELECT max(id) FROM node", [], |r| r.get(0))?;
        database.shared.raise_id(highest.unwrap_or(1).cast_unsigned());
        Ok(database)
    }

    pub(super) fn conn(&self) -> &Connection {
        &self.conn
    }

    /// Runs `work` in one transaction; `durable`: on the disk when this returns.
    pub(super) fn transaction<T>(
        &mut self,
        durable: bool,
        work: &dyn Fn(&Tx<'_>) -> rusqlite::Result<T>,
    ) -> rusqlite::Result<T> {
        if durable {
            self.conn.pragma_update(None, "synchronous", "FULL")?;
        }
        let result = self.transact(work);
        if durable {
            self.conn.pragma_update(None, "synchronous", "NORMAL")?;
        } else if result.is_ok() {
            self.shared.unsynced.lock().committed(self.clock.now());
        }
        result
    }

    fn transact<T>(
        &mut self,
        work: &dyn Fn(&Tx<'_>) -> rusqlite::Result<T>,
    ) -> rusqlite::Result<T> {
        #[cfg(test)]
        self.pretend()?;
        let now = self.clock.now();
        let sqlite = self.conn.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let tx = Tx::begin(&sqlite, now)?;
        let result = work(&tx)?;
        tx.finish()?;
        let (wake, committed, tier) = (tx.wake.get(), tx.committed.get(), tx.tier.get());
        let changed = tx.changed.take();
        sqlite.commit()?;
        if !changed.is_empty() {
            self.shared.watched.lock().committed(changed);
        }
        self.wake |= wake;
        self.committed = committed;
        self.shared.tier.fetch_max(tier, Ordering::SeqCst);
        Ok(result)
    }

    /// Makes SQLite fail as the test wants.
    #[cfg(test)]
    fn pretend(&self) -> rusqlite::Result<()> {
        let pages = match self.shared.pages_max.load(Ordering::SeqCst) {
            0 => i64::from(u32::MAX - 1),
            pages => pages.cast_signed(),
        };
        let read_only = self.shared.read_only.load(Ordering::SeqCst);
        self.conn.pragma_update_and_check(None, "max_page_count", pages, |_| Ok(()))?;
        self.conn.pragma_update(None, "query_only", read_only)
    }

    /// Commits effects of the log.
    pub(super) fn effects(&mut self, batch: &[Arc<Effect>]) -> rusqlite::Result<()> {
        self.transaction(false, &|tx| {
            let before = tx.committed.get();
            batch.iter().filter(|e| e.seq > before).try_for_each(|e| tx.effect(e))
        })
    }

    /// Marks an effect as committed that can not be applied.
    pub(super) fn skip(&mut self, effect: &Effect) -> rusqlite::Result<()> {
        self.transaction(false, &|tx| {
            tx.committed.set(effect.seq.max(tx.committed.get()));
            Ok(())
        })
    }

    /// Brings the number of the last effect committed in step with the log: not below what an
    /// earlier database of this run had, and below what this run numbers.
    pub(super) fn start_at(&mut self, dropped: u64) -> rusqlite::Result<()> {
        let first = self.shared.first_seq.load(Ordering::SeqCst);
        let wanted = self.committed.min(first.saturating_sub(1)).max(dropped);
        if wanted == self.committed {
            return Ok(());
        }
        self.transaction(false, &|tx| {
            tx.committed.set(wanted);
            Ok(())
        })
    }

    /// Pages in the write-ahead log.
    pub(super) fn wal_pages(&self) -> u64 {
        self.wal_pages.load(Ordering::Relaxed)
    }

    /// Whether the disk has so little left that the room of the log is not to be given back.
    pub(super) fn is_tight(&self) -> bool {
        free(&self.path).is_ok_and(|free| free < limits::CATALOG_WAL_ROOM_BYTES * 2)
    }

    /// Moves the write-ahead log into the database as far as readers allow; `truncate`: also
    /// gives its space back.
    pub(super) fn checkpoint(&self, truncate: bool) -> rusqlite::Result<()> {
        let text = if truncate {
            "PRAGMA wal_checkpoint(TRUNCATE)"
        } else {
            "PRAGMA wal_checkpoint(PASSIVE)"
        };
        faults::point("catalog.before_checkpoint");
        self.conn.query_row(text, [], |_| Ok(()))?;
        faults::point("catalog.after_checkpoint");
        Ok(())
    }

    /// Moves all of the write-ahead log into the database, and tells whether nothing is left in it.
    pub(super) fn empty_log(&self) -> rusqlite::Result<bool> {
        self.conn.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |r| {
            let (busy, left): (i64, i64) = (r.get(0)?, r.get(1)?);
            Ok(busy == 0 && left <= 0)
        })
    }

    /// Whether the file that is open is the one that has the name.
    pub(super) fn is_current(&self) -> bool {
        match std::fs::metadata(&self.path) {
            Ok(found) => self.file.is_none_or(|file| file == found.ino()),
            // Not being able to look is no proof that it is gone.
            Err(e) => e.kind() != std::io::ErrorKind::NotFound,
        }
    }

    /// Whether nothing has the name of the file that is open.
    pub(super) fn is_removed(&self) -> bool {
        std::fs::metadata(&self.path).is_err_and(|e| e.kind() == std::io::ErrorKind::NotFound)
    }

    /// Gives up a database that is to be set aside: its files keep what they have.
    pub(super) fn abandon(self) {
        if let Err(error) = schema::leave_files_on_close(&self.conn) {
            tracing::warn!("{}: {error}", self.path.display());
        }
    }
}

fn inode(path: &Path) -> Option<u64> {
    std::fs::metadata(path).ok().map(|m| m.ino())
}

/// Removes the write-ahead log and the shared memory of a database that is gone.
pub(super) fn remove_companions(path: &Path) {
    for suffix in ["-wal", "-shm"] {
        let mut name = path.to_owned().into_os_string();
        name.push(suffix);
        let _may_be_missing = std::fs::remove_file(name);
    }
}

/// Whether what is in the file is sound, seen by a connection of its own; `None`: it can not be
/// told now.
pub(super) fn is_sound(path: &Path) -> Option<bool> {
    let check = || -> rusqlite::Result<bool> {
        let conn = schema::open_reader(path)?;
        let answer: String = conn.query_row("PRAGMA quick_check(1)", [], |r| r.get(0))?;
        Ok(answer == "ok")
    };
    match check() {
        Ok(sound) => Some(sound),
        Err(error) if super::error::fault(&error) == super::error::Fault::Garbage => Some(false),
        // Busy or unreadable now says nothing of the content.
        Err(_) => None,
    }
}

/// Renames the database and its companions to `...corrupt-<seconds>`; keeps only the newest few.
pub(super) fn set_aside(path: &Path, clock: &SharedClock) -> std::io::Result<PathBuf> {
    let mut secs = clock.now().secs();
    let aside = |secs: i64, suffix: &str| {
        PathBuf::from(format!("{}.corrupt-{secs}{suffix}", path.display()))
    };
    while aside(secs, "").exists() {
        secs = secs.saturating_add(1);
    }
    for suffix in ["-wal", "-shm", ""] {
        let mut from = path.to_owned().into_os_string();
        from.push(suffix);
        match std::fs::rename(&from, aside(secs, suffix)) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    if let Err(error) = prune(path) {
        tracing::warn!("{}: {error}", path.display());
    }
    Ok(aside(secs, ""))
}

fn prune(path: &Path) -> std::io::Result<()> {
    let (Some(dir), Some(name)) = (path.parent(), path.file_name().and_then(|n| n.to_str())) else {
        return Ok(());
    };
    let prefix = format!("{name}.corrupt-");
    let mut found: Vec<i64> = Vec::new();
    for entry in std::fs::read_dir(dir)? {
        let file = entry?.file_name();
        let secs: Option<i64> =
            file.to_str().and_then(|n| n.strip_prefix(&prefix)).and_then(|n| n.parse().ok());
        found.extend(secs);
    }
    found.sort_unstable();
    let surplus = found.len().saturating_sub(limits::CATALOG_CORRUPT_MAX);
    for secs in found.iter().take(surplus) {
        for suffix in ["", "-wal", "-shm"] {
            let _may_be_missing = std::fs::remove_file(dir.join(format!("{prefix}{secs}{suffix}")));
        }
    }
    Ok(())
}

/// Bytes kept back beside the database, to be given up when the disk is full.
pub(super) struct Ballast {
    path: PathBuf,
}

impl Ballast {
    pub(super) fn new(state_dir: &Path) -> Ballast {
        Ballast { path: state_dir.join("catalog.ballast") }
    }

    /// Whether it is there in full.
    pub(super) fn is_there(&self) -> bool {
        std::fs::metadata(&self.path).is_ok_and(|m| m.len() >= limits::CATALOG_BALLAST_BYTES)
    }

    /// Gives its space back to the disk; whether there was any.
    pub(super) fn give(&self) -> bool {
        let there = std::fs::metadata(&self.path).is_ok_and(|m| m.len() > 0);
        there && OpenOptions::new().write(true).truncate(true).open(&self.path).is_ok()
    }

    /// Sets the bytes aside, if the disk has several times as many.
    pub(super) fn restore(&self) -> std::io::Result<bool> {
        if self.is_there() {
            return Ok(true);
        }
        if free(&self.path)? < limits::CATALOG_BALLAST_BYTES.saturating_mul(4) {
            return Ok(false);
        }
        let file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&self.path)?;
        let len = limits::CATALOG_BALLAST_BYTES;
        match rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::empty(), 0, len) {
            Err(rustix::io::Errno::OPNOTSUPP) => fill(file, len)?,
            result => result?,
        }
        Ok(true)
    }
}

/// Sets room for the write-ahead log aside on the disk, in the file itself, so that commits go on
/// when calls have filled it. Whether it is there.
pub(super) fn hold_room(path: &Path) -> std::io::Result<bool> {
    let room = limits::CATALOG_WAL_ROOM_BYTES;
    // SQLite locks the database and its index, never this file: it may be opened and closed.
    let file = match OpenOptions::new().write(true).open(wal_of(path)) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(false),
        file => file?,
    };
    if file.metadata()?.blocks().saturating_mul(512) >= room {
        return Ok(true);
    }
    if free(path)? < room.saturating_mul(2) {
        return Ok(false);
    }
    match rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::KEEP_SIZE, 0, room) {
        // Where there is no such thing the ballast must do.
        Err(rustix::io::Errno::OPNOTSUPP) => Ok(true),
        result => Ok(result.map(|()| true)?),
    }
}

/// The write-ahead log of a database.
pub(super) fn wal_of(path: &Path) -> PathBuf {
    let mut path = path.to_owned().into_os_string();
    path.push("-wal");
    path.into()
}

/// Bytes free for ordinary users on the disk of a file.
fn free(file: &Path) -> std::io::Result<u64> {
    let space = rustix::fs::statvfs(file.parent().unwrap_or(Path::new(".")))?;
    Ok(space.f_bavail.saturating_mul(space.f_frsize))
}

/// For file systems that can not set space aside unwritten.
fn fill(mut file: File, len: u64) -> std::io::Result<()> {
    let zeros = vec![0u8; 1 << 16];
    let mut left = len;
    while left > 0 {
        let now = zeros.get(..usize::try_from(left).unwrap_or(zeros.len()).min(zeros.len()));
        let now = now.unwrap_or(&zeros);
        file.write_all(now)?;
        left = left.saturating_sub(now.len() as u64);
    }
    Ok(())
}
