//! Making a catalog anew (`spoolfs rebuild`): written aside, checked by its rules, and put into
//! its place in one step.
//!
//! **Invariant:** the database that was there is never changed, only renamed, and not before the
//! new one is whole and on the disk.

use super::apply::Node;
use super::error::{CatalogError, Result};
use super::identity::{self, Identity};
use super::log::Log;
use super::row::{NodeRow, ObjectState};
use super::rules::RULES;
use super::schema::{self, OpenFault};
pub use super::settings::PARTIAL;
use super::sql_row::{self, object_code, sql};
use super::tx::Tx;
use super::{Fate, Hold, Restored, database, holding, pins, rewrite, settings, shared, trash};
use crate::clock::{SharedClock, Timestamp};
use crate::recording::{ChunkHashes, Generation, NodeId, Sha256, State, Stored};
use rusqlite::{Connection, OpenFlags, TransactionBehavior, params};
use std::fs::File;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

/// Nodes written in one transaction.
const BATCH: usize = 1000;

/// One content of a recording.
#[derive(Clone, Debug)]
pub struct Content {
    /// Which.
    pub generation: Generation,
    /// Length in bytes.
    pub size: u64,
    /// Last change.
    pub mtime: Timestamp,
    /// SHA-256 of the whole.
    pub sha256: Sha256,
    /// SHA-256 of each chunk.
    pub chunks: ChunkHashes,
    /// Its objects.
    pub objects: Vec<NewObject>,
}

/// An object of a content.
#[derive(Clone, Debug)]
pub struct NewObject {
    /// The target.
    pub target: String,
    /// Full key.
    pub key: String,
    /// Where it stands.
    pub state: ObjectState,
    /// What is there.
    pub stored: Stored,
    /// When it was verified.
    pub verified_at: Option<Timestamp>,
    /// It is there, another took its place, and nothing deleted it yet.
    pub leaves: bool,
}

/// A node to be written.
#[derive(Clone, Debug)]
pub struct NewNode {
    /// The node itself.
    pub row: NodeRow,
    /// Directory and name of each of its names.
    pub names: Vec<(NodeId, Vec<u8>)>,
    /// Its contents.
    pub contents: Vec<Content>,
    /// The journals know of it.
    pub told: bool,
    /// Of a tombstone: its last path, and when it was deleted.
    pub buried: Option<(Vec<u8>, Timestamp)>,
    /// The tombstone is in the trash.
    pub trash: bool,
}

/// A catalog being made.
#[derive(Debug)]
pub struct Rebuild {
    conn: Connection,
    state_dir: PathBuf,
    path: PathBuf,
    aside: PathBuf,
    clock: SharedClock,
    before: Before,
    /// No identity of the operation log is above this one.
    highest_id: u64,
    _lock: File,
}

/// What is left of the catalog before.
#[derive(Clone, Debug, Default)]
pub struct Before {
    /// Whose it was, with the highest epoch heard of; `None` if nothing tells.
    pub identity: Option<Identity>,
    /// Its settings, as far as they can be read.
    pub settings: Vec<(String, String)>,
}

impl Rebuild {
    /// Takes the lock of the state directory and begins a database beside the one there. What the
    /// operation log holds is passed over from then on: it belongs to the catalog before, most of
    /// it is long past, and what is local is seen below.
    ///
    /// # Errors
    /// `Locked` if a daemon runs; `Io`, `Unusable`.
    pub fn begin(state_dir: &Path, runtime_dir: &Path, clock: SharedClock) -> Result<Rebuild> {
        let mut builder = std::fs::DirBuilder::new();
        builder.recursive(true).mode(0o700);
        for dir in [state_dir, runtime_dir] {
            builder.create(dir).map_err(CatalogError::io(dir))?;
        }
        let lock = identity::lock(state_dir)?;
        let path = state_dir.join("catalog.db");
        let aside = state_dir.join("catalog.db.rebuilding");
        remove(&aside).map_err(CatalogError::io(&aside))?;
        let before = before(state_dir, &path);
        let conn = schema::open(&aside).map_err(|fault| unusable(&aside, &reason(fault)))?;
        // It counts when it is whole and was synced, not before; so its log need not grow with it.
        // What its rules sort may be as long as it is.
        let pragmas = "PRAGMA synchronous = OFF; PRAGMA wal_autocheckpoint = 4000;
                       PRAGMA temp_store = FILE";
        conn.execute_batch(pragmas).map_err(|e| unusable(&aside, &e.to_string()))?;
        let (log, replay) = Log::open(runtime_dir).map_err(CatalogError::io(runtime_dir))?;
        let (state_dir, highest_id) = (state_dir.to_owned(), replay.max_id);
        let mut rebuild =
            Rebuild { conn, state_dir, path, aside, clock, before, highest_id, _lock: lock };
        rebuild.in_batches(&[log.last_seq()], |tx, seq| {
            tx.committed.set(*seq);
            Ok(())
        })?;
        Ok(rebuild)
    }

    /// What is left of the catalog before.
    pub fn before(&self) -> &Before {
        &self.before
    }

    /// The least identity that no catalog before has given out, as far as time tells.
    pub fn first_id(&self) -> u64 {
        shared::by_time(&self.clock).max(self.highest_id.saturating_add(1)).max(2)
    }

    /// Writes nodes.
    ///
    /// # Errors
    /// `Unusable`.
    pub fn add(&mut self, nodes: &[NewNode]) -> Result<()> {
        self.in_batches(nodes, add)
    }

    /// Writes a legal hold and what it is on.
    ///
    /// # Errors
    /// `Unusable`.
    pub fn add_hold(&mut self, hold: &Hold, nodes: &[Restored]) -> Result<()> {
        self.in_batches(&[(hold, nodes)], |tx, (hold, nodes)| holding::restore(tx, hold, nodes))
    }

    /// Pins nodes, those that were written.
    ///
    /// # Errors
    /// `Unusable`.
    pub fn add_pins(&mut self, nodes: &[NodeId]) -> Result<()> {
        self.in_batches(nodes, |tx, id| pins::restore(tx, *id))
    }

    /// The last journal row that any target has: what is told from now on follows it.
    ///
    /// # Errors
    /// `Unusable`.
    pub fn follow(&mut self, journal: u64) -> Result<()> {
        self.in_batches(&[journal], |tx, seq| {
            tx.journal.set(*seq);
            Ok(())
        })
    }

    /// Tells the targets' journals of nodes that they do not know, or not as they are. To be called
    /// when all nodes are written.
    ///
    /// # Errors
    /// `Unusable`.
    pub fn tell(&mut self, nodes: &[NodeId]) -> Result<()> {
        self.in_batches(nodes, |tx, id| {
            let Some(stored) = tx.node(*id)? else { return Ok(()) };
            tx.tell_archived(&stored.node, "archived", tx.now)
        })
    }

    fn in_batches<T>(
        &mut self,
        all: &[T],
        each: impl Fn(&Tx<'_>, &T) -> rusqlite::Result<()>,
    ) -> Result<()> {
        let run = |conn: &mut Connection, batch: &[T], now| {
            let sqlite = conn.transaction_with_behavior(TransactionBehavior::Immediate)?;
            let tx = Tx::begin(&sqlite, now)?;
            batch.iter().try_for_each(|one| each(&tx, one))?;
            tx.finish()?;
            sqlite.commit()
        };
        for batch in all.chunks(BATCH) {
            let now = self.clock.now();
            run(&mut self.conn, batch, now).map_err(|e| unusable(&self.aside, &e.to_string()))?;
        }
        Ok(())
    }

    /// Checks what was written, sets the old database aside and puts the new one in its place.
    /// Returns where the old one is.
    ///
    /// # Errors
    /// `Unusable` if a rule is broken, which leaves everything as it was; `Io`.
    pub fn finish(
        self,
        identity: &Identity,
        settings: &[(String, String)],
    ) -> Result<Option<PathBuf>> {
        let sqlite = |e: rusqlite::Error| unusable(&self.aside, &e.to_string());
        settings::store_identity(&self.conn, identity).map_err(sqlite)?;
        for (key, value) in settings {
            settings::set(&self.conn, key, value).map_err(sqlite)?;
        }
        for (number, words, query) in RULES {
            let broken = self.conn.prepare(query).and_then(|mut q| q.exists([])).map_err(sqlite)?;
            if broken {
                let what = format!("the rebuilt catalog breaks rule {number}: {words}");
                return Err(unusable(&self.aside, &what));
            }
        }
        let empty_log = "PRAGMA wal_checkpoint(TRUNCATE)";
        self.conn.query_row(empty_log, [], |_| Ok(())).map_err(sqlite)?;
        self.conn.close().map_err(|(_, e)| unusable(&self.aside, &e.to_string()))?;
        database::remove_companions(&self.aside);
        let synced = File::open(&self.aside).and_then(|f| f.sync_all());
        synced.map_err(CatalogError::io(&self.aside))?;
        // First: a crash before the swap leaves the old catalog, which then begins a newer epoch.
        let name = self.state_dir.join(identity::FILE);
        identity.store(&name).map_err(CatalogError::io(&name))?;
        let old = set_aside(&self.path, &self.clock).map_err(CatalogError::io(&self.path))?;
        std::fs::rename(&self.aside, &self.path).map_err(CatalogError::io(&self.path))?;
        let synced = File::open(&self.state_dir).and_then(|d| d.sync_all());
        synced.map_err(CatalogError::io(&self.state_dir))?;
        Ok(old)
    }
}

/// A database for what does not fit into memory meanwhile, with these tables. Nobody else sees it:
/// it has no name, and its room is free again when it is closed, or whoever has it is dead. Nothing
/// in it can be taken back. `cache`: how much of it is in memory, in bytes.
///
/// # Errors
/// `Io`, `Unusable`.
pub fn scratch(state_dir: &Path, tables: &str, cache: usize) -> Result<Connection> {
    let path = state_dir.join("catalog.db.scratch");
    let failed = |e: rusqlite::Error| unusable(&path, &e.to_string());
    remove(&path).map_err(CatalogError::io(&path))?;
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE
        | OpenFlags::SQLITE_OPEN_CREATE
        | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let conn = Connection::open_with_flags(&path, flags).map_err(failed)?;
    schema::prepare_once(&conn).map_err(failed)?;
    let kib = cache / 1024;
    // One transaction that is never ended: what it holds goes to the file when the cache is full.
    let begin = format!(
        "PRAGMA page_size = 8192; PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF;
         PRAGMA locking_mode = EXCLUSIVE; PRAGMA temp_store = MEMORY; PRAGMA cache_size = -{kib};
         BEGIN EXCLUSIVE; {tables}"
    );
    let begun = conn.execute_batch(&begin).map_err(failed);
    remove(&path).map_err(CatalogError::io(&path))?;
    conn.set_prepared_statement_cache_capacity(32);
    begun.map(|()| conn)
}

fn unusable(path: &Path, reason: &str) -> CatalogError {
    CatalogError::Unusable { path: path.to_owned(), reason: reason.to_owned() }
}

fn reason(fault: OpenFault) -> String {
    match fault {
        OpenFault::Newer(version) => format!("schema version {version}"),
        OpenFault::Sqlite(error) => error.to_string(),
    }
}

/// A begun rebuild that came to nothing.
fn remove(path: &Path) -> std::io::Result<()> {
    database::remove_companions(path);
    match std::fs::remove_file(path) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(e),
        _ => Ok(()),
    }
}

/// The old database may be damaged, old or missing: what it says is only used where it can not
/// do harm.
fn before(state_dir: &Path, path: &Path) -> Before {
    let stored = Identity::load(&state_dir.join(identity::FILE));
    let old = path.exists().then(|| schema::open_reader(path).ok()).flatten();
    let found = old.as_ref().and_then(|conn| settings::identity(conn).ok().flatten());
    let epoch = found.as_ref().map_or(0, |i| i.epoch);
    let identity = stored.or(found).map(|i| Identity { epoch: i.epoch.max(epoch), ..i });
    let settings = old.and_then(|conn| settings::all(&conn).ok()).unwrap_or_default();
    Before { identity, settings }
}

/// Renames the database to `...before-rebuild-<seconds>`; `None` if there is none.
fn set_aside(path: &Path, clock: &SharedClock) -> std::io::Result<Option<PathBuf>> {
    let mut secs = clock.now().secs();
    let aside = |secs: i64, suffix: &str| {
        PathBuf::from(format!("{}.before-rebuild-{secs}{suffix}", path.display()))
    };
    while aside(secs, "").exists() {
        secs = secs.saturating_add(1);
    }
    let mut there = false;
    for suffix in ["-wal", "-shm", ""] {
        let mut from = path.to_owned().into_os_string();
        from.push(suffix);
        match std::fs::rename(&from, aside(secs, suffix)) {
            Ok(()) => there = true,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    Ok(there.then(|| aside(secs, "")))
}

fn add(tx: &Tx<'_>, new: &NewNode) -> rusqlite::Result<()> {
    let id = new.row.id;
    for content in &new.contents {
        add_content(tx, id, content)?;
    }
    let objects = new.contents.iter().any(|c| !c.objects.is_empty());
    let seen =
        (new.row.state != State::Released && new.buried.is_none()).then_some(new.row.attr.ctime);
    let node = Node { row: new.row.clone(), objects, seen };
    // `None` as what was there before, so that it counts as moved if it is released.
    tx.save(None, &node)?;
    tx.conn
        .prepare_cached("UPDATE node SET told = ?2, path = ?3, deleted_at = ?4 WHERE id = ?1")?
        .execute(params![
            sql(id.0),
            new.told,
            new.buried.as_ref().map(|(path, _)| path),
            new.buried.as_ref().map(|(_, at)| at.0)
        ])?;
    if let Some((path, at)) = new.buried.as_ref().filter(|_| new.trash) {
        trash::put(tx.conn, &node, path, Fate::Trash, *at)?;
    }
    for (parent, name) in &new.names {
        tx.conn
            .prepare_cached(
                "INSERT INTO entry(parent, name, stem, node, released, tier)
                 SELECT ?1, ?2, ?3, id, CASE WHEN state = 4 THEN 1 ELSE 0 END, tier
                 FROM node WHERE id = ?4",
            )?
            .execute(params![sql(parent.0), name, sql_row::stem_of(name).0, sql(id.0)])?;
    }
    Ok(())
}

fn add_content(tx: &Tx<'_>, id: NodeId, content: &Content) -> rusqlite::Result<()> {
    tx.conn
        .prepare_cached(
            "INSERT INTO generation(node, generation, size, mtime, sha256, chunks)
             VALUES(?1, ?2, ?3, ?4, ?5, ?6)",
        )?
        .execute(params![
            sql(id.0),
            content.generation.0,
            sql(content.size),
            content.mtime.0,
            content.sha256.0.to_vec(),
            content.chunks.to_bytes(),
        ])?;
    for object in &content.objects {
        let (encoding, size, sha256) = sql_row::stored_columns(&object.stored);
        tx.conn
            .prepare_cached(
                "INSERT INTO object(node, generation, target, key, state, size, sha256, verified_at,
                    encoding, stored_size, stored_sha256)
                 VALUES(?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11)",
            )?
            .execute(params![
                sql(id.0),
                content.generation.0,
                object.target,
                object.key,
                object_code(object.state),
                sql(content.size),
                content.sha256.0.to_vec(),
                object.verified_at.map(|t| t.0),
                encoding,
                size,
                sha256,
            ])?;
        if object.leaves {
            rewrite::mark(tx, tx.conn.last_insert_rowid(), tx.now)?;
        }
    }
    Ok(())
}
