//! Between rows of SQLite and the types of the vocabulary.

use super::apply::Node;
use super::encode::xattrs;
use super::row::{Candidate, NodeRow, ObjectRow, ObjectState};
use crate::clock::Timestamp;
use crate::recording::{
    Attr, ChunkHashes, Encoding, Generation, Kind, LowerVersion, NodeId, Sha256, State, Stem,
    Stored as StoredBytes,
};
use rusqlite::types::Type;
use rusqlite::{Connection, OptionalExtension, Row};
use std::collections::HashMap;
use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;

/// Columns of `node n`, as [`node`] expects them from index 0 on.
pub(super) const NODE: &str = "n.id, n.kind, n.state, n.generation, n.mode, n.uid, n.gid, n.size, \
     n.mtime, n.atime, n.ctime, n.nlink, n.rdev, n.blocks, n.sha256, n.h_ino, n.h_size, \
     n.h_mtime, n.h_ctime, n.seen, n.closed_at, n.archived_at, n.recalled_at, n.adopted, \
     n.objects, n.xattrs, n.told, n.tier, n.not_before, n.suspect";
/// How many those are.
pub(super) const NODE_COLUMNS: usize = 30;
const TOLD: usize = 26;
const TIER: usize = 27;
const NOT_BEFORE: usize = 28;
const SUSPECT: usize = 29;

/// Deepest directory whose path is looked for: a loop in a damaged catalog must end.
pub(super) const DEPTH_MAX: usize = 4096;

/// A node as stored, with what only the catalog thread looks at.
#[derive(Clone, Debug)]
pub(super) struct Stored {
    pub node: Node,
    /// The journals know of it.
    pub told: bool,
    /// The last change between local and released.
    pub tier: u64,
}

/// Unsigned numbers are kept as SQLite's signed ones, bit by bit.
pub(super) fn sql(value: u64) -> i64 {
    value.cast_signed()
}

pub(super) fn unsigned(value: i64) -> u64 {
    value.cast_unsigned()
}

pub(super) fn kind_code(kind: Kind) -> i64 {
    match kind {
        Kind::File => 1,
        Kind::Dir => 2,
        Kind::Symlink => 3,
        Kind::Other => 4,
    }
}

fn kind(row: &Row<'_>, at: usize) -> rusqlite::Result<Kind> {
    let code = row.get(at)?;
    [Kind::File, Kind::Dir, Kind::Symlink, Kind::Other]
        .into_iter()
        .find(|k| kind_code(*k) == code)
        .ok_or(rusqlite::Error::IntegralValueOutOfRange(at, code))
}

fn state(row: &Row<'_>, at: usize) -> rusqlite::Result<State> {
    let code = row.get(at)?;
    State::from_code(code).ok_or(rusqlite::Error::IntegralValueOutOfRange(at, code))
}

pub(super) fn time(row: &Row<'_>, at: usize) -> rusqlite::Result<Timestamp> {
    row.get(at).map(Timestamp)
}

pub(super) fn time_opt(row: &Row<'_>, at: usize) -> rusqlite::Result<Option<Timestamp>> {
    Ok(row.get::<_, Option<i64>>(at)?.map(Timestamp))
}

fn number(row: &Row<'_>, at: usize) -> rusqlite::Result<u64> {
    row.get(at).map(unsigned)
}

fn bad(at: usize) -> rusqlite::Error {
    rusqlite::Error::InvalidColumnType(at, "unreadable".to_owned(), Type::Blob)
}

pub(super) fn sha256(row: &Row<'_>, at: usize) -> rusqlite::Result<Option<Sha256>> {
    let bytes: Option<Vec<u8>> = row.get(at)?;
    bytes.map(|b| Sha256::from_slice(&b).ok_or_else(|| bad(at))).transpose()
}

fn attr(row: &Row<'_>) -> rusqlite::Result<Attr> {
    Ok(Attr {
        kind: kind(row, 1)?,
        mode: row.get(4)?,
        uid: row.get(5)?,
        gid: row.get(6)?,
        size: number(row, 7)?,
        mtime: time(row, 8)?,
        atime: time(row, 9)?,
        ctime: time(row, 10)?,
        nlink: row.get(11)?,
        rdev: row.get(12)?,
        blocks: number(row, 13)?,
        special: 0,
    })
}

fn hashed(row: &Row<'_>) -> rusqlite::Result<Option<LowerVersion>> {
    let Some(ino) = row.get::<_, Option<i64>>(15)? else { return Ok(None) };
    Ok(Some(LowerVersion {
        ino: unsigned(ino),
        size: number(row, 16)?,
        mtime: time(row, 17)?,
        ctime: time(row, 18)?,
    }))
}

fn pairs(row: &Row<'_>, at: usize) -> rusqlite::Result<xattrs::Pairs> {
    let Some(text) = row.get::<_, Option<String>>(at)? else { return Ok(Vec::new()) };
    let parsed: Option<Vec<(String, String)>> = serde_json::from_str(&text).ok();
    parsed.and_then(|p| xattrs::from_text(&p)).ok_or_else(|| bad(at))
}

/// Extended attributes as stored; none are NULL.
pub(super) fn pairs_text(pairs: &[(Vec<u8>, Vec<u8>)]) -> Option<String> {
    if pairs.is_empty() {
        return None;
    }
    serde_json::to_string(&xattrs::to_text(pairs)).ok()
}

/// A node from the columns of [`NODE`].
pub(super) fn node(row: &Row<'_>) -> rusqlite::Result<Stored> {
    let node = Node {
        row: NodeRow {
            id: NodeId(number(row, 0)?),
            state: state(row, 2)?,
            attr: attr(row)?,
            generation: Generation(row.get(3)?),
            sha256: sha256(row, 14)?,
            hashed: hashed(row)?,
            closed_at: time_opt(row, 20)?,
            archived_at: time_opt(row, 21)?,
            recalled_at: time_opt(row, 22)?,
            adopted: row.get(23)?,
            xattrs: pairs(row, 25)?,
            suspect: time_opt(row, SUSPECT)?,
        },
        objects: row.get(24)?,
        seen: time_opt(row, 19)?,
    };
    Ok(Stored { node, told: row.get(TOLD)?, tier: number(row, TIER)? })
}

/// The node with this identity.
pub(super) fn load(conn: &Connection, id: NodeId) -> rusqlite::Result<Option<Stored>> {
    let text = format!("SELECT {NODE} FROM node n WHERE n.id = ?1");
    conn.prepare_cached(&text)?.query_row([sql(id.0)], node).optional()
}

/// Names of a node, first made first.
pub(super) fn names_of(
    conn: &Connection,
    id: NodeId,
    limit: i64,
) -> rusqlite::Result<Vec<(NodeId, Vec<u8>)>> {
    let mut statement =
        conn.prepare_cached("SELECT parent, name FROM entry WHERE node = ?1 ORDER BY id LIMIT ?2")?;
    let rows =
        statement.query_map([sql(id.0), limit], |r| Ok((NodeId(number(r, 0)?), r.get(1)?)))?;
    rows.collect()
}

/// Paths of directories, remembered while one call needs many.
#[derive(Default)]
pub(super) struct Paths(HashMap<NodeId, Vec<u8>>);

impl Paths {
    /// The path of a directory relative to the mount; the root is empty.
    pub(super) fn dir(&mut self, conn: &Connection, id: NodeId) -> rusqlite::Result<Vec<u8>> {
        if id == NodeId::ROOT {
            return Ok(Vec::new());
        }
        if let Some(path) = self.0.get(&id) {
            return Ok(path.clone());
        }
        let mut parts: Vec<Vec<u8>> = Vec::new();
        let mut at = id;
        while at != NodeId::ROOT && parts.len() < DEPTH_MAX {
            let Some((parent, name)) = names_of(conn, at, 1)?.pop() else { break };
            parts.push(name);
            at = parent;
        }
        parts.reverse();
        let path = parts.join(&b'/');
        self.0.insert(id, path.clone());
        Ok(path)
    }

    /// The path of a name in a directory.
    pub(super) fn file(
        &mut self,
        conn: &Connection,
        parent: NodeId,
        name: &[u8],
    ) -> rusqlite::Result<Vec<u8>> {
        let mut path = self.dir(conn, parent)?;
        if !path.is_empty() {
            path.push(b'/');
        }
        path.extend_from_slice(name);
        Ok(path)
    }
}

/// The path of a node's first name; for a tombstone, the one it had.
pub(super) fn path_of(conn: &Connection, id: NodeId) -> rusqlite::Result<Option<Vec<u8>>> {
    if let Some((parent, name)) = names_of(conn, id, 1)?.pop() {
        return Paths::default().file(conn, parent, &name).map(Some);
    }
    let mut statement = conn.prepare_cached("SELECT path FROM node WHERE id = ?1")?;
    Ok(statement.query_row([sql(id.0)], |r| r.get(0)).optional()?.flatten())
}

pub(super) fn path_buf(bytes: Vec<u8>) -> PathBuf {
    PathBuf::from(OsString::from_vec(bytes))
}

/// Gives nodes (from [`NODE`]) their place; those without a name are left out.
pub(super) fn candidates(
    conn: &Connection,
    nodes: Vec<(Stored, Option<Timestamp>)>,
) -> rusqlite::Result<Vec<Candidate>> {
    let mut paths = Paths::default();
    let mut found = Vec::with_capacity(nodes.len());
    for (stored, not_before) in nodes {
        let id = stored.node.row.id;
        let Some((parent, name)) = names_of(conn, id, 1)?.pop() else {
            if let Some(path) = super::trash::local_path(conn, id)? {
                found.push(trashed(stored.node.row, path, not_before));
            }
            continue;
        };
        found.push(candidate(conn, &mut paths, stored, not_before, (parent, name))?);
    }
    Ok(found)
}

/// A node at one of its names.
pub(super) fn candidate(
    conn: &Connection,
    paths: &mut Paths,
    stored: Stored,
    not_before: Option<Timestamp>,
    (parent, name): (NodeId, Vec<u8>),
) -> rusqlite::Result<Candidate> {
    Ok(Candidate {
        row: stored.node.row,
        path: path_buf(paths.file(conn, parent, &name)?),
        parent,
        stem: crate::recording::stem(&name),
        not_before,
        trashed: false,
    })
}

/// A node whose bytes are in the trash.
pub(super) fn trashed(
    row: super::row::NodeRow,
    path: Vec<u8>,
    not_before: Option<Timestamp>,
) -> Candidate {
    let path = path_buf(path);
    let name = path.file_name().unwrap_or_default().as_encoded_bytes().to_vec();
    let (parent, stem) = (NodeId(0), crate::recording::stem(&name));
    Candidate { row, path, parent, stem, not_before, trashed: true }
}

/// A node and when to try again, from the columns of [`NODE`].
pub(super) fn node_and_time(row: &Row<'_>) -> rusqlite::Result<(Stored, Option<Timestamp>)> {
    Ok((node(row)?, time_opt(row, NOT_BEFORE)?))
}

/// The stem as stored with a name.
pub(super) fn stem_of(name: &[u8]) -> Stem {
    crate::recording::stem(name)
}

/// Columns of `object o LEFT JOIN generation g`, as [`object`] expects them.
pub(super) const OBJECT: &str = "o.id, o.node, o.generation, o.target, o.key, o.state, o.size, \
     o.sha256, g.chunks, o.verified_at, o.encoding, o.stored_size, o.stored_sha256";
/// How many those are.
pub(super) const OBJECT_COLUMNS: usize = 13;

pub(super) fn object_code(state: ObjectState) -> i64 {
    match state {
        ObjectState::Assigned => 1,
        ObjectState::Verified => 2,
        ObjectState::Abandoned => 3,
    }
}

/// An object from the columns of [`OBJECT`].
pub(super) fn object(row: &Row<'_>) -> rusqlite::Result<ObjectRow> {
    let code = row.get(5)?;
    let state = [ObjectState::Assigned, ObjectState::Verified, ObjectState::Abandoned]
        .into_iter()
        .find(|s| object_code(*s) == code)
        .ok_or(rusqlite::Error::IntegralValueOutOfRange(5, code))?;
    let chunks: Option<Vec<u8>> = row.get(8)?;
    let (size, whole) = (number(row, 6)?, sha256(row, 7)?.ok_or_else(|| bad(7))?);
    Ok(ObjectRow {
        id: row.get(0)?,
        node: NodeId(number(row, 1)?),
        generation: Generation(row.get(2)?),
        target: row.get(3)?,
        key: row.get(4)?,
        state,
        size,
        sha256: whole,
        stored: stored_bytes(row, 10)?.unwrap_or_else(|| StoredBytes::plain(size, whole)),
        chunks: ChunkHashes::from_bytes(&chunks.unwrap_or_default()).ok_or_else(|| bad(8))?,
        verified_at: time_opt(row, 9)?,
    })
}

/// What a target has, from three columns; `None` if that is the recording itself.
pub(super) fn stored_bytes(row: &Row<'_>, at: usize) -> rusqlite::Result<Option<StoredBytes>> {
    let Some(text) = row.get::<_, Option<String>>(at)? else { return Ok(None) };
    let size = number(row, at + 1)?;
    let encoding = Encoding::parse(&text, size).map_err(|_| bad(at))?;
    let sha256 = sha256(row, at + 2)?.ok_or_else(|| bad(at + 2))?;
    Ok(Some(StoredBytes { encoding, size, sha256 }))
}

/// The three columns of what a target has: NULL if that is the recording itself.
pub(super) fn stored_columns(
    stored: &StoredBytes,
) -> (Option<String>, Option<i64>, Option<Vec<u8>>) {
    if stored.is_plain() {
        return (None, None, None);
    }
    let (size, sha256) = (sql(stored.size), stored.sha256.0.to_vec());
    (Some(stored.encoding.to_string()), Some(size), Some(sha256))
}
