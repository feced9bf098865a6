//! What the catalog and its log hold, looked at without touching them: for `spoolfs fsck`.
//!
//! **Invariant:** database and log are copied, and only the copy is opened: what an ordinary start
//! would change (log applied, new epoch, a damaged file set aside) is changed there.

use super::identity::{self, Identity};
use super::op::Op;
use super::row::{Candidate, JournalRow, ObjectRow};
use super::sql_row::{self, NODE, NODE_COLUMNS, OBJECT, OBJECT_COLUMNS, Paths, sql, unsigned};
use super::{Catalog, CatalogError, Options, RULES, Result, schema, settings};
use crate::limits;
use crate::recording::{Generation, LowerVersion, NodeId, State};
use rusqlite::{Connection, OptionalExtension};
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};

/// A broken rule of [`RULES`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Broken {
    /// Its number.
    pub number: u32,
    /// What it says.
    pub name: &'static str,
    /// The first rows that break it, as the rule's query names them.
    pub rows: Vec<String>,
}

/// What was found instead of a catalog that can be read.
#[derive(Debug)]
pub enum Unreadable {
    /// There is none.
    Missing,
    /// SQLite finds it damaged: what it says.
    Damaged(Vec<String>),
}

/// The catalog at one moment, with everything logged in it. As long as it is there no daemon can
/// start.
#[derive(Debug)]
pub struct Snapshot {
    path: PathBuf,
    conn: Connection,
    identity: Identity,
    undecided: Vec<Op>,
    in_doubt: bool,
    _scratch: Scratch,
    _lock: File,
}

/// A directory that is removed when dropped.
#[derive(Debug)]
struct Scratch(PathBuf);

impl Drop for Scratch {
    fn drop(&mut self) {
        let _a_later_look_removes_it = fs::remove_dir_all(&self.0);
    }
}

const DATABASE: &str = "catalog.db";

impl Snapshot {
    /// Copies what is there, into the state directory, and opens the copy.
    ///
    /// # Errors
    /// `Locked` if a daemon runs; `Newer`, `Io`, `Unusable`.
    pub fn take(options: &Options) -> Result<std::result::Result<Snapshot, Unreadable>> {
        let state = &options.state_dir;
        if !state.join(DATABASE).exists() {
            return Ok(Err(Unreadable::Missing));
        }
        let lock = identity::lock(state)?;
        let scratch = Scratch(state.join("fsck"));
        let _left_by_one_that_died = fs::remove_dir_all(&scratch.0);
        let copy = Options {
            state_dir: scratch.0.join("state"),
            runtime_dir: scratch.0.join("run"),
            ..options.clone()
        };
        copy_all(options, &copy).map_err(CatalogError::io(&scratch.0))?;
        let path = copy.state_dir.join(DATABASE);
        let said = integrity(&path);
        if !said.is_empty() {
            return Ok(Err(Unreadable::Damaged(said)));
        }
        let known = Identity::load(&copy.state_dir.join(identity::FILE));
        let catalog = Catalog::open(copy)?;
        catalog.drain()?;
        let identity = catalog.identity();
        let undecided = catalog.undecided().into_iter().map(|(_, _, op)| op).collect();
        let in_doubt = catalog.reconcile_due() || known.is_some_and(|known| known != identity);
        catalog.close();
        drop(catalog);
        let conn = schema::open_reader(&path).map_err(|e| unusable(&path, &e))?;
        Ok(Ok(Snapshot {
            path,
            conn,
            identity,
            undecided,
            in_doubt,
            _scratch: scratch,
            _lock: lock,
        }))
    }

    /// What this catalog is.
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// Operations that were begun and whose outcome only the lower directory tells.
    pub fn undecided(&self) -> &[Op] {
        &self.undecided
    }

    /// The log is damaged, or the database is not the one that was here last.
    pub fn in_doubt(&self) -> bool {
        self.in_doubt
    }

    fn unusable(&self) -> impl Fn(rusqlite::Error) -> CatalogError + '_ {
        |error| unusable(&self.path, &error)
    }

    /// The rules that do not hold.
    ///
    /// # Errors
    /// `Unusable`.
    pub fn broken(&self) -> Result<Vec<Broken>> {
        let mut broken = Vec::new();
        for (number, name, query) in RULES {
            let text = format!("SELECT * FROM ({query}) LIMIT {}", limits::FSCK_ROWS_NAMED);
            let rows = self.first_column(&text).map_err(self.unusable())?;
            if !rows.is_empty() {
                broken.push(Broken { number: *number, name, rows });
            }
        }
        Ok(broken)
    }

    fn first_column(&self, text: &str) -> rusqlite::Result<Vec<String>> {
        let mut statement = self.conn.prepare(text)?;
        let rows = statement.query_map([], |row| {
            use rusqlite::types::ValueRef;
            Ok(match row.get_ref(0)? {
                ValueRef::Integer(number) => number.to_string(),
                ValueRef::Text(text) => String::from_utf8_lossy(text).into_owned(),
                other => format!("{:?}", other.data_type()),
            })
        })?;
        rows.collect()
    }

    /// The names in a directory, sorted, each with its node.
    ///
    /// # Errors
    /// `Unusable`.
    pub fn children(&self, parent: NodeId) -> Result<Vec<(Vec<u8>, Candidate)>> {
        self.children_of(parent).map_err(self.unusable())
    }

    fn children_of(&self, parent: NodeId) -> rusqlite::Result<Vec<(Vec<u8>, Candidate)>> {
        let text = format!(
            "SELECT {NODE}, e.name FROM entry e JOIN node n ON n.id = e.node
             WHERE e.parent = ?1 ORDER BY e.name"
        );
        let mut statement = self.conn.prepare_cached(&text)?;
        let mut rows = statement.query([sql(parent.0)])?;
        let (mut found, mut paths) = (Vec::new(), Paths::default());
        while let Some(row) = rows.next()? {
            let (stored, not_before) = sql_row::node_and_time(row)?;
            let name: Vec<u8> = row.get(NODE_COLUMNS)?;
            let place = (parent, name.clone());
            let it = sql_row::candidate(&self.conn, &mut paths, stored, not_before, place)?;
            found.push((name, it));
        }
        Ok(found)
    }

    /// State and path of a node, also of a tombstone.
    ///
    /// # Errors
    /// `Unusable`.
    pub fn node(&self, id: NodeId) -> Result<Option<(State, Option<PathBuf>)>> {
        let read = || {
            let Some(stored) = sql_row::load(&self.conn, id)? else { return Ok(None) };
            let path = sql_row::path_of(&self.conn, id)?.map(sql_row::path_buf);
            Ok(Some((stored.node.row.state, path)))
        };
        read().map_err(self.unusable())
    }

    /// What the catalog has in the trash with bytes in the private directory, and their stamps.
    ///
    /// # Errors
    /// `Unusable`.
    pub fn trash_local(&self) -> Result<BTreeMap<NodeId, Option<LowerVersion>>> {
        let read = || {
            let text = format!(
                "SELECT {NODE} FROM trash t JOIN node n ON n.id = t.node WHERE t.local > 0"
            );
            let mut statement = self.conn.prepare(&text)?;
            let rows = statement.query_map([], |r| {
                let row = sql_row::node(r)?.node.row;
                Ok((row.id, row.hashed))
            })?;
            rows.collect::<rusqlite::Result<_>>()
        };
        read().map_err(self.unusable())
    }

    /// State and current generation of a node.
    ///
    /// # Errors
    /// `Unusable`.
    pub fn standing(&self, id: NodeId) -> Result<Option<(State, Generation)>> {
        let stored = sql_row::load(&self.conn, id).map_err(self.unusable())?;
        Ok(stored.map(|stored| (stored.node.row.state, stored.node.row.generation)))
    }

    /// Every object of a target, in the order of the keys, and whether it is what its node is
    /// archived or released as.
    ///
    /// # Errors
    /// `Unusable`.
    pub fn objects(
        &self,
        target: &str,
        each: &mut dyn FnMut(ObjectRow, Option<State>),
    ) -> Result<()> {
        let mut read = || {
            let text = format!(
                "SELECT {OBJECT}, n.state FROM object o
                 LEFT JOIN generation g ON g.node = o.node AND g.generation = o.generation
                 LEFT JOIN node n ON n.id = o.node AND n.generation = o.generation
                 WHERE o.target = ?1 ORDER BY o.key"
            );
            let mut statement = self.conn.prepare_cached(&text)?;
            let mut rows = statement.query([target])?;
            while let Some(row) = rows.next()? {
                let state: Option<i64> = row.get(OBJECT_COLUMNS)?;
                each(sql_row::object(row)?, state.and_then(State::from_code));
            }
            Ok(())
        };
        read().map_err(self.unusable())
    }

    /// What is archived or released and verified in a target: node, generation, path.
    ///
    /// # Errors
    /// `Unusable`.
    pub fn archived(&self, target: &str) -> Result<Vec<(NodeId, Generation)>> {
        let read = || {
            let mut statement = self.conn.prepare_cached(
                "SELECT n.id, n.generation FROM node n WHERE n.state IN (3, 4) AND EXISTS(
                    SELECT 1 FROM object o WHERE o.node = n.id AND o.generation = n.generation
                    AND o.target = ?1 AND o.state = 2) ORDER BY n.id",
            )?;
            let rows = statement.query_map([target], |r| {
                Ok((NodeId(unsigned(r.get(0)?)), Generation(r.get(1)?)))
            })?;
            rows.collect::<rusqlite::Result<Vec<_>>>()
        };
        read().map_err(self.unusable())
    }

    /// Journal rows kept because some target has not got them.
    ///
    /// # Errors
    /// `Unusable`.
    pub fn journal(&self) -> Result<Vec<JournalRow>> {
        let read = || {
            let mut statement =
                self.conn.prepare_cached("SELECT seq, at, line FROM journal ORDER BY seq")?;
            let rows = statement.query_map([], |r| {
                Ok(JournalRow {
                    seq: unsigned(r.get(0)?),
                    at: sql_row::time(r, 1)?,
                    line: r.get(2)?,
                })
            })?;
            rows.collect::<rusqlite::Result<Vec<_>>>()
        };
        read().map_err(self.unusable())
    }

    /// How far a target is with the journal: the last row it has, and its segment; zeros before
    /// the first.
    ///
    /// # Errors
    /// `Unusable`.
    pub fn journal_mark(&self, target: &str) -> Result<(u64, u64)> {
        let read = || {
            let mark = self
                .conn
                .prepare_cached("SELECT seq, segment FROM journal_mark WHERE target = ?1")?
                .query_row([target], |r| Ok((unsigned(r.get(0)?), unsigned(r.get(1)?))))
                .optional()?;
            Ok(mark.unwrap_or_default())
        };
        read().map_err(self.unusable())
    }

    /// A small setting.
    ///
    /// # Errors
    /// `Unusable`.
    pub fn setting(&self, key: &str) -> Result<Option<String>> {
        settings::get(&self.conn, key).map_err(self.unusable())
    }
}

fn unusable(path: &Path, error: &rusqlite::Error) -> CatalogError {
    CatalogError::Unusable { path: path.to_owned(), reason: error.to_string() }
}

fn copy_all(from: &Options, to: &Options) -> std::io::Result<()> {
    for dir in [&to.state_dir, &to.runtime_dir] {
        super::make_private(dir)?;
    }
    for name in [DATABASE, "catalog.db-wal", identity::FILE] {
        copy(&from.state_dir.join(name), &to.state_dir.join(name))?;
    }
    let Ok(entries) = fs::read_dir(&from.runtime_dir) else { return Ok(()) };
    for entry in entries {
        let name = entry?.file_name();
        if name.to_str().is_some_and(|name| name.starts_with("log.")) {
            copy(&from.runtime_dir.join(&name), &to.runtime_dir.join(&name))?;
        }
    }
    Ok(())
}

fn copy(from: &Path, to: &Path) -> std::io::Result<()> {
    match fs::copy(from, to) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(()),
        copied => copied.map(|_| ()),
    }
}

/// What SQLite has to say against the file; nothing if it is sound.
fn integrity(path: &Path) -> Vec<String> {
    let look = || -> rusqlite::Result<Vec<String>> {
        let conn = Connection::open(path)?;
        let mut statement = conn.prepare("PRAGMA integrity_check(10)")?;
        let rows = statement.query_map([], |row| row.get::<_, String>(0))?;
        rows.filter(|row| row.as_deref() != Ok("ok")).collect()
    };
    look().unwrap_or_else(|error| vec![error.to_string()])
}

impl Catalog {
    /// Counts `tally` anew and lets the names mirror their nodes: what rules 11 and 18 say follows
    /// from the rest.
    ///
    /// # Errors
    /// `Unusable`.
    pub fn mend(&self) -> Result<()> {
        self.shared.write(true, |tx| tx.conn.execute_batch(MEND))
    }
}

const MEND: &str = "
UPDATE entry SET
    released = (SELECT CASE WHEN n.state = 4 THEN 1 WHEN n.tier > 0 THEN 2 ELSE 0 END
        FROM node n WHERE n.id = entry.node),
    tier = (SELECT n.tier FROM node n WHERE n.id = entry.node)
WHERE EXISTS(SELECT 1 FROM node n WHERE n.id = entry.node AND (n.tier <> entry.tier
    OR entry.released <> CASE WHEN n.state = 4 THEN 1 WHEN n.tier > 0 THEN 2 ELSE 0 END));
UPDATE tally SET
    files = (SELECT count(*) FROM node WHERE CASE tally.bucket
        WHEN 10 THEN kind = 1 AND state = 2 AND size = 0
        WHEN 11 THEN kind = 1 AND state = 2 AND size > 0 AND h_ino IS NULL
        WHEN 12 THEN attempts > 0
        ELSE kind = 1 AND state = tally.bucket AND NOT (state = 2 AND size = 0) END),
    bytes = (SELECT ifnull(sum(size), 0) FROM node WHERE CASE tally.bucket
        WHEN 10 THEN kind = 1 AND state = 2 AND size = 0
        WHEN 11 THEN kind = 1 AND state = 2 AND size > 0 AND h_ino IS NULL
        WHEN 12 THEN attempts > 0
        ELSE kind = 1 AND state = tally.bucket AND NOT (state = 2 AND size = 0) END);
UPDATE trash_tally SET files = (SELECT count(*) FROM trash),
    bytes = (SELECT ifnull(sum(size), 0) FROM trash);
";
