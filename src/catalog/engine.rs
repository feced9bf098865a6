//! The engine's questions and its compare-and-set transactions on recordings.

use super::Catalog;
use super::apply::{self, Node};
use super::error::Result;
use super::row::{Candidate, Digest, HashOutcome, NodeRow};
use super::sql_row::{self, NODE, Stored, candidates, node_and_time, path_of, sql};
use super::tx::Tx;
use crate::clock::Timestamp;
use crate::recording::{Attr, Generation, Kind, LowerVersion, NodeId, ReleasePermit, State, Stem};
use rusqlite::{Connection, OptionalExtension, Params, params};

type Found = Vec<(Stored, Option<Timestamp>)>;

fn limit_sql(limit: usize) -> i64 {
    i64::try_from(limit).unwrap_or(i64::MAX)
}

fn find(conn: &Connection, text: &str, params: impl Params) -> rusqlite::Result<Found> {
    let mut statement = conn.prepare_cached(text)?;
    let rows = statement.query_map(params, node_and_time)?;
    rows.collect()
}

/// The engine's queries, so that a test can look at their plans.
pub(super) mod queries {
    use super::NODE;

    pub fn hash_recorded() -> String {
        format!(
            "SELECT {NODE} FROM node n INDEXED BY node_due_hash
             WHERE n.kind = 1 AND n.state = 2 AND n.h_ino IS NULL AND n.size > 0
               AND n.adopted = 0 AND n.closed_at <= ?1 AND ifnull(n.not_before <= ?2, 1)
             ORDER BY n.closed_at DESC LIMIT ?3"
        )
    }

    pub fn hash_adopted() -> String {
        format!(
            "SELECT {NODE} FROM node n INDEXED BY node_due_hash_adopted
             WHERE n.kind = 1 AND n.state = 2 AND n.h_ino IS NULL AND n.size > 0
               AND n.adopted = 1 AND n.closed_at <= ?1 AND ifnull(n.not_before <= ?2, 1)
             ORDER BY n.mtime DESC LIMIT ?3"
        )
    }

    pub fn archive() -> String {
        format!(
            "SELECT {NODE} FROM node n INDEXED BY node_due_archive
             WHERE n.kind = 1 AND n.state = 2 AND n.h_ino IS NOT NULL AND n.size > 0
               AND n.adopted = ?1 AND n.closed_at <= ?2 AND (n.closed_at, n.id) > (?3, ?4)
               AND ifnull(n.not_before <= ?5, 1)
             ORDER BY n.closed_at, n.id LIMIT ?6"
        )
    }

    pub fn release() -> String {
        format!(
            "SELECT {NODE} FROM node n INDEXED BY node_due_release
             WHERE n.state = 3 AND n.local_since <= ?1 AND (n.local_since, n.id) > (?2, ?3)
             ORDER BY n.local_since, n.id LIMIT ?4"
        )
    }

    pub fn left_recording() -> String {
        format!(
            "SELECT {NODE} FROM node n INDEXED BY node_left_recording
             WHERE n.kind = 1 AND n.state = 1 AND n.id > ?1 ORDER BY n.id LIMIT ?2"
        )
    }

    pub fn group() -> String {
        format!(
            "SELECT {NODE}, e.name FROM entry e INDEXED BY entry_stem JOIN node n ON n.id = e.node
             WHERE e.parent = ?1 AND e.stem = ?2 AND n.kind = 1 ORDER BY e.id"
        )
    }

    pub fn children() -> String {
        format!(
            "SELECT {NODE}, e.name FROM entry e JOIN node n ON n.id = e.node
             WHERE e.parent = ?1 AND e.name > ?2 AND e.released = 0 ORDER BY e.name LIMIT ?3"
        )
    }
}

impl Catalog {
    /// Closed files without a hash of their present version, closed at or before `settled`,
    /// newest recordings first, adopted ones last (newest mtime first). Empty files are left out.
    ///
    /// # Errors
    /// `Unusable`.
    pub fn due_hash(
        &self,
        settled: Timestamp,
        now: Timestamp,
        limit: usize,
    ) -> Result<Vec<Candidate>> {
        self.read_drained(|conn| {
            let mut found = Found::new();
            for text in [queries::hash_recorded(), queries::hash_adopted()] {
                let left = limit_sql(limit.saturating_sub(found.len()));
                found.extend(find(conn, &text, [settled.0, now.0, left])?);
            }
            candidates(conn, found)
        })
    }

    /// Stores a hash, if the node is still closed.
    ///
    /// # Errors
    /// `Unusable`.
    pub fn hashed(&self, id: NodeId, digest: Digest) -> Result<HashOutcome> {
        self.shared.write(false, move |tx| hashed(tx, id, &digest))
    }

    /// Hashed files not yet archived whose last close was at or before `closed_before`; by last
    /// close, oldest first (adopted ones after the others). `after` continues behind a row.
    ///
    /// # Errors
    /// `Unusable`.
    pub fn due_archive(
        &self,
        closed_before: Timestamp,
        now: Timestamp,
        after: Option<NodeId>,
        limit: usize,
    ) -> Result<Vec<Candidate>> {
        self.read_drained(|conn| {
            let (from_adopted, closed, id) = match after {
                None => (false, i64::MIN, i64::MIN),
                Some(after) => match sql_row::load(conn, after)? {
                    // Gone meanwhile: the next round begins anew.
                    None => return Ok(Vec::new()),
                    Some(s) => {
                        let row = s.node.row;
                        (row.adopted, row.closed_at.map_or(i64::MIN, |t| t.0), sql(after.0))
                    }
                },
            };
            let mut found = Found::new();
            for adopted in [false, true] {
                if adopted < from_adopted {
                    continue;
                }
                let (closed, id) =
                    if adopted == from_adopted { (closed, id) } else { (i64::MIN, i64::MIN) };
                let left = limit_sql(limit.saturating_sub(found.len()));
                let params = params![adopted, closed_before.0, closed, id, now.0, left];
                found.extend(find(conn, &queries::archive(), params)?);
            }
            candidates(conn, found)
        })
    }

    /// Compare-and-set: closed to archived, if generation and hashed version are still these and
    /// every target in `required` has a verified object of it. Tells whether it was done. With no
    /// target required nothing is ever archived.
    ///
    /// # Errors
    /// `Unusable`.
    pub fn archived(
        &self,
        id: NodeId,
        generation: Generation,
        version: LowerVersion,
        required: &[String],
        at: Timestamp,
    ) -> Result<bool> {
        let required = required.to_vec();
        self.shared.write(false, move |tx| {
            let Some(old) = tx.node(id)? else { return Ok(false) };
            let row = &old.node.row;
            let current = row.state == State::Closed
                && row.generation == generation
                && row.sha256.is_some()
                && row.hashed == Some(version);
            if !current || required.is_empty() || !all_verified(tx.conn, id, generation, &required)?
            {
                return Ok(false);
            }
            let mut new = old.node.clone();
            new.row.state = State::Archived;
            new.row.archived_at = Some(at);
            tx.save(Some(&old), &new)?;
            tx.clear_trouble(id)?;
            tx.tell_archived(&new, "archived", at)?;
            Ok(true)
        })
    }

    /// Archived files whose archive (and last recall) was at or before `archived_before`, oldest
    /// first. `after` continues behind a row.
    ///
    /// # Errors
    /// `Unusable`.
    pub fn due_release(
        &self,
        archived_before: Timestamp,
        after: Option<NodeId>,
        limit: usize,
    ) -> Result<Vec<Candidate>> {
        self.read_drained(|conn| {
            let (since, id) = match after {
                None => (i64::MIN, i64::MIN),
                Some(after) => match local_since(conn, after)? {
                    None => return Ok(Vec::new()),
                    Some(since) => (since, sql(after.0)),
                },
            };
            let params = [archived_before.0, since, id, limit_sql(limit)];
            candidates(conn, find(conn, &queries::release(), params)?)
        })
    }

    /// All files of a group, each by its name in `parent`.
    ///
    /// # Errors
    /// `Unusable`.
    pub fn group(&self, parent: NodeId, stem: &Stem) -> Result<Vec<Candidate>> {
        self.read_drained(|conn| {
            let mut paths = sql_row::Paths::default();
            let mut statement = conn.prepare_cached(&queries::group())?;
            let rows = statement.query_map(params![sql(parent.0), stem.0], |r| {
                Ok((node_and_time(r)?, r.get::<_, Vec<u8>>(sql_row::NODE_COLUMNS)?))
            })?;
            let mut found = Vec::new();
            for row in rows {
                let ((stored, not_before), name) = row?;
                let place = (parent, name);
                found.push(sql_row::candidate(conn, &mut paths, stored, not_before, place)?);
            }
            Ok(found)
        })
    }

    /// Compare-and-set: archived to released, by permit; committed and synced before it returns.
    /// `attr` and `xattrs` are what the local file showed last. One that is released already (a
    /// spare copy turned up) stays as it is, and the answer is yes.
    ///
    /// # Errors
    /// `Unusable`.
    pub fn released(
        &self,
        permit: &ReleasePermit,
        attr: Attr,
        xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    ) -> Result<bool> {
        let (id, version) = (permit.node(), permit.version());
        self.shared.write(true, move |tx| {
            let Some(old) = tx.node(id)? else { return Ok(false) };
            let row = &old.node.row;
            if row.hashed != Some(version) || row.sha256.is_none() {
                return Ok(false);
            }
            if row.state != State::Archived {
                return Ok(row.state == State::Released);
            }
            let mut new = old.node.clone();
            new.row.state = State::Released;
            new.row.attr = attr.clone();
            new.row.xattrs = xattrs.clone();
            tx.save(Some(&old), &new)?;
            tx.clear_trouble(id)?;
            Ok(true)
        })
    }

    /// The local copy is there (again): released to archived, with the new stamp. Also undoes
    /// `released` when the local bytes could not be removed.
    ///
    /// # Errors
    /// `Unusable`.
    pub fn local_again(&self, id: NodeId, version: LowerVersion, at: Timestamp) -> Result<bool> {
        self.shared.write(false, move |tx| {
            let Some(old) = tx.node(id)? else { return Ok(false) };
            if old.node.row.state != State::Released {
                return Ok(false);
            }
            let mut new = old.node.clone();
            new.row.state = State::Archived;
            new.row.hashed = Some(version);
            new.row.recalled_at = Some(at);
            new.seen = Some(version.ctime);
            tx.save(Some(&old), &new)?;
            Ok(true)
        })
    }

    /// The node exists below with this stamp (reconcile): adopts a change made behind the mount.
    /// The stamp is the hashed one: it is what it was, and archived if it was released. Else:
    /// closed, to be hashed. One in state `recording` is left to its close.
    ///
    /// # Errors
    /// `Unusable`.
    pub fn changed_below(&self, id: NodeId, attr: Attr, version: LowerVersion) -> Result<()> {
        self.shared.write(false, move |tx| {
            let Some(old) = tx.node(id)? else { return Ok(()) };
            if old.node.row.state == State::Deleted {
                return Ok(());
            }
            let new = apply::found(old.node.clone(), &attr, version);
            tx.save(Some(&old), &new)
        })
    }

    /// The node is gone below: archived becomes released, released stays so, anything else is
    /// forgotten (with objects: a tombstone). A directory with names in it stays.
    ///
    /// # Errors
    /// `Unusable`.
    pub fn missing_below(&self, id: NodeId) -> Result<()> {
        self.shared.write(false, move |tx| {
            let Some(old) = tx.node(id)? else { return Ok(()) };
            match old.node.row.state {
                _ if id == NodeId::ROOT => Ok(()),
                State::Released | State::Deleted => Ok(()),
                State::Archived => {
                    let mut new = old.node.clone();
                    new.row.state = State::Released;
                    tx.save(Some(&old), &new)
                }
                _ if old.node.row.attr.kind == Kind::Dir && has_names(tx.conn, id)? => Ok(()),
                _ => tx.lose(id, path_of(tx.conn, id)?),
            }
        })
    }

    /// Directories and local files under a directory, for reconciling: name and row, by name.
    ///
    /// # Errors
    /// `Unusable`.
    pub fn children(
        &self,
        parent: NodeId,
        after: &[u8],
        limit: usize,
    ) -> Result<Vec<(Vec<u8>, NodeRow)>> {
        self.read_drained(|conn| {
            let mut statement = conn.prepare_cached(&queries::children())?;
            let params = params![sql(parent.0), after, limit_sql(limit)];
            let rows = statement.query_map(params, |r| {
                Ok((r.get(sql_row::NODE_COLUMNS)?, sql_row::node(r)?.node.row))
            })?;
            rows.collect()
        })
    }

    /// Nodes left in state `recording`: after a start without open files they are closed.
    ///
    /// # Errors
    /// `Unusable`.
    pub fn left_recording(&self, after: NodeId, limit: usize) -> Result<Vec<Candidate>> {
        self.read_drained(|conn| {
            let params = [sql(after.0), limit_sql(limit)];
            candidates(conn, find(conn, &queries::left_recording(), params)?)
        })
    }
}

fn hashed(tx: &Tx<'_>, id: NodeId, digest: &Digest) -> rusqlite::Result<HashOutcome> {
    let Some(old) = tx.node(id)? else { return Ok(HashOutcome::Stale) };
    let row = &old.node.row;
    // It was opened and closed again after the hash was taken: ctime only goes forward.
    let newer = old.node.seen.is_some_and(|seen| seen > digest.version.ctime);
    if row.state != State::Closed || row.attr.kind != Kind::File || newer {
        return Ok(HashOutcome::Stale);
    }
    let mut new = old.node.clone();
    new.row.hashed = Some(digest.version);
    new.row.attr = digest.attr.clone();
    new.seen = Some(digest.version.ctime);
    let outcome = if row.sha256 == Some(digest.sha256) && row.generation.0 > 0 {
        if row.archived_at.is_some() {
            new.row.state = State::Archived;
        }
        HashOutcome::Same(row.generation)
    } else {
        let generation = Generation(row.generation.0.saturating_add(1));
        new.row.generation = generation;
        new.row.sha256 = Some(digest.sha256);
        new.row.archived_at = None;
        new.row.recalled_at = None;
        store_generation(tx, &new, digest)?;
        HashOutcome::New(generation)
    };
    tx.save(Some(&old), &new)?;
    tx.clear_trouble(id)?;
    Ok(outcome)
}

fn store_generation(tx: &Tx<'_>, node: &Node, digest: &Digest) -> rusqlite::Result<()> {
    tx.conn
        .prepare_cached(
            "INSERT INTO generation(node, generation, size, mtime, sha256, chunks)
             VALUES(?1, ?2, ?3, ?4, ?5, ?6)",
        )?
        .execute(params![
            sql(node.row.id.0),
            node.row.generation.0,
            sql(digest.version.size),
            digest.version.mtime.0,
            digest.sha256.0.to_vec(),
            digest.chunks.to_bytes(),
        ])?;
    Ok(())
}

fn all_verified(
    conn: &Connection,
    id: NodeId,
    generation: Generation,
    required: &[String],
) -> rusqlite::Result<bool> {
    let mut statement = conn.prepare_cached(
        "SELECT 1 FROM object WHERE node = ?1 AND generation = ?2 AND target = ?3 AND state = 2",
    )?;
    for target in required {
        if !statement.exists(params![sql(id.0), generation.0, target])? {
            return Ok(false);
        }
    }
    Ok(true)
}

fn local_since(conn: &Connection, id: NodeId) -> rusqlite::Result<Option<i64>> {
    let mut statement = conn.prepare_cached("SELECT local_since FROM node WHERE id = ?1")?;
    Ok(statement.query_row([sql(id.0)], |r| r.get(0)).optional()?.flatten())
}

fn has_names(conn: &Connection, dir: NodeId) -> rusqlite::Result<bool> {
    conn.prepare_cached("SELECT 1 FROM entry WHERE parent = ?1 LIMIT 1")?.exists([sql(dir.0)])
}
