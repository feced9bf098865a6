//! What the journal rows so far come to, told in as few: for a snapshot in the targets
//! (docs/FORMAT.md, "Snapshots").
//!
//! **Invariant:** everything is read in one transaction, so it is the catalog at one moment; and a
//! catalog that is known to lack what an earlier one knew tells nothing.

use super::encode::{percent, xattrs};
use super::error::{CatalogError, Result};
use super::holding;
use super::identity::Identity;
use super::journal::{attributes, hex_of, merge, time, verified_keys};
use super::sql_row::{self, NODE, NODE_COLUMNS, Paths, names_of, sql, unsigned};
use super::{Catalog, pins, schema, settings, trash};
use crate::clock::Timestamp;
use crate::recording::{Attr, Generation, Kind, NodeId, State};
use rusqlite::{Connection, params};
use serde::Serialize;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::Path;

/// Most names of a recording that are told.
const NAMES_MAX: i64 = 100_000;

/// The moment that is told of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Summary {
    /// Whose catalog it is.
    pub identity: Identity,
    /// The last journal row.
    pub seq: u64,
    /// By target, the last segment of the epoch that it has.
    pub segments: BTreeMap<String, u64>,
    /// It tells of FLAC objects, which older programs do not know.
    pub flac: bool,
    /// It tells of sealed objects.
    pub sealed: bool,
    /// It tells of legal holds.
    pub holds: bool,
}

/// Where lines go. An error of it ends the reading.
type Sink<'a> = &'a mut dyn FnMut(&str) -> std::io::Result<()>;

/// One line; a journal row without its number.
#[derive(Serialize)]
struct Line<'a> {
    at: String,
    kind: &'a str,
    #[serde(flatten)]
    body: &'a Value,
}

/// What a reading can meet.
enum Stop {
    Sqlite(rusqlite::Error),
    Sink(std::io::Error),
}

impl From<rusqlite::Error> for Stop {
    fn from(error: rusqlite::Error) -> Stop {
        Stop::Sqlite(error)
    }
}

impl Catalog {
    /// The number of the last journal row, of a catalog that may be told; `None`: it lacks what an
    /// earlier one knew, or was rebuilt from some of the targets only.
    ///
    /// # Errors
    /// `Unusable`.
    pub fn told_so_far(&self) -> Result<Option<u64>> {
        self.read_drained(|conn| match settings::is_partial(conn)? {
            true => Ok(None),
            false => last_row(conn).map(Some),
        })
    }

    /// Length of the database in bytes, as far as can be told.
    pub fn database_bytes(&self) -> u64 {
        std::fs::metadata(&self.shared.path).map_or(0, |m| m.len())
    }

    /// Tells everything at one moment: first `begin` is told which, then `line` each line. `None`,
    /// and nothing was told: it may not be (see `told_so_far`).
    ///
    /// # Errors
    /// `Unusable`; `Io` with what `begin` or `line` said.
    pub fn summarise<W>(
        &self,
        begin: impl FnOnce(&Summary) -> std::io::Result<W>,
        line: impl Fn(&mut W, &str) -> std::io::Result<()>,
    ) -> Result<Option<(Summary, W)>> {
        self.shared.drain()?;
        let (path, mut begin) = (&self.shared.path, Some(begin));
        let mut read = || -> std::result::Result<Option<(Summary, W)>, Stop> {
            // Of its own: the others are for those who wait.
            let conn = schema::open_reader(path)?;
            let tx = conn.unchecked_transaction()?;
            if settings::is_partial(&tx)? {
                return Ok(None);
            }
            let Some(identity) = settings::identity(&tx)? else { return Ok(None) };
            let (seq, segments) = (last_row(&tx)?, segments(&tx)?);
            let (flac, sealed) = (has(&tx, "flac*")?, has(&tx, "age*")?);
            let holds = holding::any(&tx)?;
            let summary = Summary { identity, seq, segments, flac, sealed, holds };
            let Some(begin) = begin.take() else { return Ok(None) };
            let mut to = begin(&summary).map_err(Stop::Sink)?;
            tell(&tx, &mut |text| line(&mut to, text))?;
            Ok(Some((summary, to)))
        };
        read().map_err(|stop| match stop {
            Stop::Sqlite(error) => self.unreadable(&error),
            Stop::Sink(error) => CatalogError::io(Path::new("a snapshot of the catalog"))(error),
        })
    }
}

/// Whether there is an object of an encoding like this.
fn has(conn: &Connection, encoding: &str) -> rusqlite::Result<bool> {
    let text = "SELECT EXISTS(SELECT 1 FROM object WHERE encoding GLOB ?1)";
    conn.query_row(text, [encoding], |row| row.get(0))
}

fn last_row(conn: &Connection) -> rusqlite::Result<u64> {
    conn.query_row("SELECT journal FROM position", [], |r| r.get(0)).map(unsigned)
}

fn segments(conn: &Connection) -> rusqlite::Result<BTreeMap<String, u64>> {
    let mut statement = conn.prepare("SELECT target, segment FROM journal_mark")?;
    let rows = statement.query_map([], |r| Ok((r.get(0)?, unsigned(r.get(1)?))))?;
    rows.collect()
}

/// Directories are told of with their looks; recordings, if the journals know of them or have to.
fn tell(conn: &Connection, line: Sink<'_>) -> std::result::Result<(), Stop> {
    let text = format!(
        "SELECT {NODE}, n.path, n.deleted_at FROM node n
         WHERE n.id > 1 AND (n.kind = 2 OR (n.kind = 1 AND (n.told = 1 OR n.state = 5)))
         ORDER BY n.id"
    );
    let mut statement = conn.prepare(&text)?;
    let mut rows = statement.query([])?;
    let mut teller = Teller { conn, paths: Paths::default(), line };
    while let Some(row) = rows.next()? {
        let node = sql_row::node(row)?.node;
        let buried: Option<Vec<u8>> = row.get(NODE_COLUMNS)?;
        let deleted = sql_row::time_opt(row, NODE_COLUMNS + 1)?;
        match (node.row.attr.kind, node.row.state) {
            (Kind::Dir, _) => teller.directory(&node.row)?,
            // Without a name, but perhaps not a tombstone yet.
            (_, State::Closed | State::Archived | State::Recording) if buried.is_some() => {
                teller.deleted(&node.row, buried, deleted)?;
            }
            (_, State::Deleted) => teller.deleted(&node.row, buried, deleted)?,
            _ => teller.recording(&node.row)?,
        }
    }
    teller.holds()?;
    teller.pins()
}

struct Teller<'a, 'b> {
    conn: &'a Connection,
    paths: Paths,
    line: Sink<'b>,
}

impl Teller<'_, '_> {
    fn line(&mut self, at: Timestamp, kind: &str, body: &Value) -> std::result::Result<(), Stop> {
        let text = serde_json::to_string(&Line { at: time(at), kind, body });
        let text = text.map_err(|e| Stop::Sink(e.into()))?;
        (self.line)(&text).map_err(Stop::Sink)
    }

    /// Its names as paths, the first one first.
    fn names(&mut self, id: NodeId) -> rusqlite::Result<Vec<String>> {
        let names = names_of(self.conn, id, NAMES_MAX)?;
        let path = |(parent, name): &(NodeId, Vec<u8>)| {
            self.paths.file(self.conn, *parent, name).map(|path| percent(&path))
        };
        names.iter().map(path).collect()
    }

    fn directory(&mut self, row: &super::NodeRow) -> std::result::Result<(), Stop> {
        let Some(path) = self.names(row.id)?.into_iter().next() else { return Ok(()) };
        let body = json!({"id": row.id.0, "path": path});
        self.line(row.attr.ctime, "attributes", &merge(body, attributes(&row.attr)))
    }

    /// Every hold, what it is or was on, and its end.
    fn holds(&mut self) -> std::result::Result<(), Stop> {
        let conn = self.conn;
        holding::tell_all(conn, &mut |at, kind, body| self.line(at, kind, body))
    }

    /// Since when is not kept.
    fn pins(&mut self) -> std::result::Result<(), Stop> {
        let pins = pins::all(self.conn)?;
        pins.iter().try_for_each(|body| self.line(Timestamp::default(), "pinned", body))
    }

    /// The deletion comes first, so that no name is given to it.
    fn deleted(
        &mut self,
        row: &super::NodeRow,
        path: Option<Vec<u8>>,
        at: Option<Timestamp>,
    ) -> std::result::Result<(), Stop> {
        let path = percent(&path.unwrap_or_default());
        let mut body = json!({"id": row.id.0, "path": path, "generation": row.generation.0});
        if trash::since(self.conn, row.id)?.is_some() {
            body = merge(body, json!({"trash": true}));
        }
        self.line(at.unwrap_or(row.attr.ctime), "deleted", &body)?;
        self.contents(row, &path, row.state == State::Deleted || row.archived_at.is_some())
    }

    fn recording(&mut self, row: &super::NodeRow) -> std::result::Result<(), Stop> {
        let names = self.names(row.id)?;
        let Some((path, others)) = names.split_first() else { return Ok(()) };
        self.contents(row, path, row.archived_at.is_some())?;
        for other in others {
            self.line(row.attr.ctime, "linked", &json!({"id": row.id.0, "path": other}))?;
        }
        // Of a local one the lower directory tells.
        if matches!(row.state, State::Archived | State::Released) {
            let body = json!({"id": row.id.0, "path": path});
            self.line(row.attr.ctime, "attributes", &merge(body, attributes(&row.attr)))?;
        }
        Ok(())
    }

    /// Each content that has a verified object; the present one only if it counts as archived.
    fn contents(
        &mut self,
        row: &super::NodeRow,
        path: &str,
        present: bool,
    ) -> std::result::Result<(), Stop> {
        for content in contents_of(self.conn, row.id)? {
            let current = content.generation == row.generation;
            if current && !present {
                continue;
            }
            let objects = verified_keys(self.conn, row.id, content.generation)?;
            if objects.is_empty() && (!current || row.state == State::Deleted) {
                continue;
            }
            let attr = Attr { size: content.size, mtime: content.mtime, ..row.attr.clone() };
            let body = json!({
                "id": row.id.0,
                "path": path,
                "generation": content.generation.0,
                "sha256": content.sha256,
                "xattrs": xattrs::to_text(&row.xattrs),
                "objects": objects,
                "chunks": content.chunks,
            });
            let since = row.archived_at.filter(|_| current).or(content.verified_at);
            let at = since.unwrap_or(content.mtime);
            self.line(at, "archived", &merge(body, attributes(&attr)))?;
        }
        Ok(())
    }
}

/// A generation, and when it was first verified somewhere.
struct Content {
    generation: Generation,
    size: u64,
    mtime: Timestamp,
    sha256: String,
    chunks: Vec<String>,
    verified_at: Option<Timestamp>,
}

fn contents_of(conn: &Connection, id: NodeId) -> rusqlite::Result<Vec<Content>> {
    let mut statement = conn.prepare_cached(
        "SELECT generation, size, mtime, sha256, chunks,
            (SELECT min(o.verified_at) FROM object o WHERE o.node = g.node
                AND o.generation = g.generation AND o.state = 2)
         FROM generation g WHERE node = ?1 ORDER BY generation",
    )?;
    let rows = statement.query_map(params![sql(id.0)], |r| {
        Ok(Content {
            generation: Generation(r.get(0)?),
            size: unsigned(r.get(1)?),
            mtime: Timestamp(r.get(2)?),
            sha256: hex::encode(r.get::<_, Vec<u8>>(3)?),
            chunks: hex_of(&r.get::<_, Vec<u8>>(4)?),
            verified_at: sql_row::time_opt(r, 5)?,
        })
    })?;
    rows.collect()
}
