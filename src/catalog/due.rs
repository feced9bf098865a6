//! The engine's questions: what is due, and what belongs together. They may wait until what is
//! logged is committed, and are answered from indexes.

use super::Catalog;
use super::engine::all_verified;
use super::error::Result;
use super::row::{Candidate, NodeRow};
use super::sql_row::{self, NODE, Stored, candidates, node_and_time, sql};
use crate::clock::Timestamp;
use crate::recording::{NodeId, Stem};
use rusqlite::{Connection, OptionalExtension, Params, params};

/// How far [`Catalog::archived_elsewhere`] came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Behind {
    since: i64,
    id: i64,
}

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

    pub fn archive_newest() -> String {
        format!(
            "SELECT {NODE} FROM node n INDEXED BY node_due_archive
             WHERE n.kind = 1 AND n.state = 2 AND n.h_ino IS NOT NULL AND n.size > 0
               AND n.adopted = 0 AND n.closed_at <= ?1 AND ifnull(n.not_before <= ?2, 1)
             ORDER BY n.closed_at DESC, n.id DESC LIMIT ?3"
        )
    }

    pub fn release() -> String {
        format!(
            "SELECT {NODE} FROM node n INDEXED BY node_due_release
             WHERE n.state = 3 AND n.local_since <= ?1 AND (n.local_since, n.id) > (?2, ?3)
             ORDER BY n.local_since, n.id LIMIT ?4"
        )
    }

    pub fn suspect() -> String {
        format!(
            "SELECT {NODE} FROM node n INDEXED BY node_suspect
             WHERE n.suspect IS NOT NULL AND n.state IN (2, 3) AND ifnull(n.not_before <= ?1, 1)
               AND (n.suspect, n.id) > (?2, ?3)
             ORDER BY n.suspect, n.id LIMIT ?4"
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
             WHERE e.parent = ?1 AND e.name > ?2 AND e.released <> 1 ORDER BY e.name LIMIT ?3"
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
            for adopted in [false, true].into_iter().skip(usize::from(from_adopted)) {
                let (closed, id) =
                    if adopted == from_adopted { (closed, id) } else { (i64::MIN, i64::MIN) };
                let left = limit_sql(limit.saturating_sub(found.len()));
                let params = params![adopted, closed_before.0, closed, id, now.0, left];
                found.extend(find(conn, &queries::archive(), params)?);
            }
            candidates(conn, found)
        })
    }

    /// Of the files that [`Catalog::due_archive`] gives, those closed last; no adopted ones.
    ///
    /// # Errors
    /// `Unusable`.
    pub fn due_archive_newest(
        &self,
        closed_before: Timestamp,
        now: Timestamp,
        limit: usize,
    ) -> Result<Vec<Candidate>> {
        self.read_drained(|conn| {
            let params = [closed_before.0, now.0, limit_sql(limit)];
            candidates(conn, find(conn, &queries::archive_newest(), params)?)
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

    /// The next `limit` archived files, oldest archive first, of which those are returned that
    /// some target in `targets` does not hold, verified; and where to go on, if there are more.
    ///
    /// # Errors
    /// `Unusable`.
    pub fn archived_elsewhere(
        &self,
        targets: &[String],
        after: Option<Behind>,
        limit: usize,
    ) -> Result<(Vec<Candidate>, Option<Behind>)> {
        self.read_drained(|conn| {
            let Behind { since, id } = after.unwrap_or(Behind { since: i64::MIN, id: i64::MIN });
            let page = find(conn, &queries::release(), [i64::MAX, since, id, limit_sql(limit)])?;
            let last = page.last().filter(|_| page.len() >= limit).map(|(s, _)| s.node.row.id);
            let next = match last {
                Some(last) => {
                    local_since(conn, last)?.map(|since| Behind { since, id: sql(last.0) })
                }
                None => None,
            };
            let mut lacking = Found::new();
            for (stored, not_before) in page {
                let row = &stored.node.row;
                if !all_verified(conn, row.id, row.generation, targets)? {
                    lacking.push((stored, not_before));
                }
            }
            Ok((candidates(conn, lacking)?, next))
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

    /// Closed or archived files whose local copy may not be on the disk, longest so first. `after`
    /// continues behind a row.
    ///
    /// # Errors
    /// `Unusable`.
    pub fn due_suspect(
        &self,
        now: Timestamp,
        after: Option<NodeId>,
        limit: usize,
    ) -> Result<Vec<Candidate>> {
        self.read_drained(|conn| {
            let (since, id) = match after {
                None => (i64::MIN, i64::MIN),
                Some(after) => match sql_row::load(conn, after)?.and_then(|s| s.node.row.suspect) {
                    // Proved meanwhile: the next round begins anew.
                    None => return Ok(Vec::new()),
                    Some(since) => (since.0, sql(after.0)),
                },
            };
            let params = [now.0, since, id, limit_sql(limit)];
            candidates(conn, find(conn, &queries::suspect(), params)?)
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

fn local_since(conn: &Connection, id: NodeId) -> rusqlite::Result<Option<i64>> {
    let mut statement = conn.prepare_cached("SELECT local_since FROM node WHERE id = ?1")?;
    Ok(statement.query_row([sql(id.0)], |r| r.get(0)).optional()?.flatten())
}
