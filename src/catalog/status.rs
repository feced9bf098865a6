//! Remembered failures, and counts for `status`.

use super::Catalog;
use super::error::Result;
use super::row::{Counts, Trouble};
use super::schema::bucket;
use super::sql_row::{path_buf, path_of, sql, unsigned};
use super::trash;
use super::tx::Tx;
use crate::clock::Timestamp;
use crate::recording::{NodeId, State};
use rusqlite::{Connection, OptionalExtension, Row, params};
use std::path::PathBuf;

impl Tx<'_> {
    /// A step went well: its earlier failures are forgotten.
    pub(super) fn clear_trouble(&self, id: NodeId) -> rusqlite::Result<()> {
        self.conn
            .prepare_cached(
                "UPDATE node SET attempts = 0, not_before = NULL, error = NULL, error_at = NULL
                 WHERE id = ?1 AND attempts > 0",
            )?
            .execute([sql(id.0)])?;
        Ok(())
    }
}

fn trouble(row: &Row<'_>) -> rusqlite::Result<Trouble> {
    Ok(Trouble {
        attempts: row.get(0)?,
        not_before: Timestamp(row.get(1)?),
        error: row.get(2)?,
        at: Timestamp(row.get(3)?),
    })
}

impl Catalog {
    /// How often SQLite was read since the start.
    pub fn reads(&self) -> u64 {
        self.shared.readers.reads()
    }

    /// Remembers a failure to hash, archive or release, and when to try again.
    ///
    /// # Errors
    /// `Unusable`.
    pub fn failed(&self, id: NodeId, trouble: &Trouble) -> Result<()> {
        let trouble = trouble.clone();
        self.shared.write(false, move |tx| {
            tx.conn
                .prepare_cached(
                    "UPDATE node SET attempts = ?2, not_before = ?3, error = ?4, error_at = ?5
                     WHERE id = ?1 AND state <> 5",
                )?
                .execute(params![
                    sql(id.0),
                    trouble.attempts.max(1),
                    trouble.not_before.0,
                    trouble.error,
                    trouble.at.0
                ])?;
            Ok(())
        })
    }

    /// Forgets a remembered failure: the step went well, though it changed nothing of the node.
    ///
    /// # Errors
    /// `Unusable`.
    pub fn succeeded(&self, id: NodeId) -> Result<()> {
        self.shared.write(false, move |tx| tx.clear_trouble(id))
    }

    /// The remembered failure of a node, if any; success of a later step clears it.
    ///
    /// # Errors
    /// `Unusable`.
    pub fn trouble_of(&self, id: NodeId) -> Result<Option<Trouble>> {
        self.read_drained(|conn| {
            conn.prepare_cached(
                "SELECT attempts, not_before, error, error_at FROM node
                 WHERE id = ?1 AND error_at IS NOT NULL",
            )?
            .query_row([sql(id.0)], trouble)
            .optional()
        })
    }

    /// The latest remembered failure of any node.
    ///
    /// # Errors
    /// `Unusable`.
    pub fn last_trouble(&self) -> Result<Option<(PathBuf, Trouble)>> {
        self.read_drained(|conn| {
            let latest = conn
                .prepare_cached(
                    "SELECT attempts, not_before, error, error_at, id FROM node
                     WHERE error_at IS NOT NULL ORDER BY error_at DESC LIMIT 1",
                )?
                .query_row([], |r| Ok((trouble(r)?, NodeId(unsigned(r.get(4)?)))))
                .optional()?;
            let Some((trouble, id)) = latest else { return Ok(None) };
            let path = path_of(conn, id)?.unwrap_or_default();
            Ok(Some((path_buf(path), trouble)))
        })
    }

    /// Counts for `status`.
    ///
    /// # Errors
    /// `Unusable`.
    pub fn counts(&self) -> Result<Counts> {
        self.read_drained(|conn| {
            let tally = |bucket: i64| -> rusqlite::Result<(u64, u64)> {
                conn.prepare_cached("SELECT files, bytes FROM tally WHERE bucket = ?1")?
                    .query_row([bucket], |r| Ok((unsigned(r.get(0)?), unsigned(r.get(1)?))))
            };
            let mut states = Vec::with_capacity(State::ALL.len());
            for state in State::ALL {
                let (files, bytes) = tally(state.code())?;
                states.push((state, files, bytes));
            }
            let backlog: i64 = conn
                .prepare_cached(
                    "SELECT ifnull((SELECT max(seq) FROM journal) + 1
                        - (SELECT min(seq) FROM journal), 0)",
                )?
                .query_row([], |r| r.get(0))?;
            Ok(Counts {
                states,
                empty: tally(bucket::EMPTY)?.0,
                unhashed: tally(bucket::UNHASHED)?.0,
                oldest_waiting: oldest_waiting(conn)?,
                failing: tally(bucket::FAILING)?.0,
                suspect: suspects(conn)?,
                journal_backlog: unsigned(backlog),
                trash: trash::counts(conn)?,
            })
        })
    }
}

fn suspects(conn: &Connection) -> rusqlite::Result<u64> {
    conn.prepare_cached("SELECT count(*) FROM node WHERE suspect IS NOT NULL")?
        .query_row([], |r| Ok(unsigned(r.get(0)?)))
}

/// Adopted files wait by design, so they count only if nothing else waits.
fn oldest_waiting(conn: &Connection) -> rusqlite::Result<Option<(PathBuf, Timestamp)>> {
    let mut oldest: Option<(i64, NodeId)> = None;
    for adopted in [0, 1] {
        for (index, hashed) in [("node_due_hash", "IS NULL"), ("node_due_archive", "IS NOT NULL")] {
            let text = format!(
                "SELECT closed_at, id FROM node INDEXED BY {index}
                 WHERE kind = 1 AND state = 2 AND h_ino {hashed} AND size > 0 AND adopted = ?1
                 ORDER BY closed_at LIMIT 1"
            );
            let found: Option<(Option<i64>, i64)> = conn
                .prepare_cached(&text)?
                .query_row([adopted], |r| Ok((r.get(0)?, r.get(1)?)))
                .optional()?;
            if let Some((Some(closed), id)) = found
                && oldest.is_none_or(|(least, _)| closed < least)
            {
                oldest = Some((closed, NodeId(unsigned(id))));
            }
        }
        if oldest.is_some() {
            break;
        }
    }
    let Some((closed, id)) = oldest else { return Ok(None) };
    Ok(Some((path_buf(path_of(conn, id)?.unwrap_or_default()), Timestamp(closed))))
}
