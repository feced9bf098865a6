//! The rows of a node's journals, out of the segments in the targets: put in their order in a file
//! meanwhile, and handed on one after another.

use super::error::{RebuildError, Result};
use super::read::{Source, each_to};
use crate::catalog::Told;
use crate::catalog::rebuild::scratch;
use crate::clock::Timestamp;
use crate::limits;
use crate::store::journal;
use crate::store::snapshot::Header;
use rusqlite::{Connection, params};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

const TABLES: &str = "
CREATE TABLE row(epoch INTEGER NOT NULL, seq INTEGER NOT NULL, at INTEGER NOT NULL,
    repeated INTEGER NOT NULL DEFAULT 0, text TEXT NOT NULL);
CREATE UNIQUE INDEX row_place ON row(epoch, seq);
";

/// A place in a segment that can not be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Damage {
    /// The target.
    pub target: String,
    /// Key of the segment.
    pub key: String,
    /// Line of the segment, from 1; 0: all of it.
    pub line: usize,
    /// What is wrong.
    pub reason: String,
}

/// Rows that no target has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gap {
    /// Epoch that they belong to.
    pub epoch: u64,
    /// `seq` of the first one.
    pub first: u64,
    /// `seq` of the last one.
    pub last: u64,
}

/// What the journals of all targets hold of one node.
#[derive(Debug)]
pub(super) struct Journals {
    conn: Connection,
    pub damage: Vec<Damage>,
    pub segments: usize,
    /// The highest epoch that any target has heard of.
    pub epoch: u64,
    /// Since when a target lacks rows that another one has; `None` if all know the same.
    pub lags_since: Option<Timestamp>,
    /// What they follow: epoch and last row of a snapshot.
    after: Option<(u64, u64)>,
}

/// Rows that a snapshot may hold already were told again in a later epoch: it can not be told which.
#[derive(Debug)]
pub(super) struct Repeated;

/// Reads the journals of a node, or what follows a snapshot in them: all of the first target that
/// has one, and of the others what the first lacks.
pub(super) async fn journals(
    sources: &[Source],
    node: &str,
    base: Option<&Header>,
    state_dir: &Path,
    progress: &(dyn Fn(&str) + Sync),
) -> Result<std::result::Result<Journals, Repeated>> {
    let conn = scratch(state_dir, TABLES, limits::REBUILD_CACHE_BYTES)?;
    let after = base.map(|b| (b.epoch, b.seq));
    let mut found =
        Journals { conn, damage: Vec::new(), segments: 0, epoch: 0, lags_since: None, after };
    let mut ends = Vec::new();
    for source in sources {
        let directory = journal::directory(source.store.prefix(), node);
        let mut segments: BTreeMap<(u64, u64), String> = BTreeMap::new();
        for listed in source.list(&directory).await? {
            match journal::parse_key(&listed.key) {
                Some(number) => drop(segments.insert(number, listed.key)),
                None => found.damaged(source, &listed.key, 0, "it is no segment"),
            }
        }
        found.epoch = found.epoch.max(segments.keys().last().map_or(0, |(epoch, _)| *epoch));
        if sources.len() > 1 {
            match segments.last_key_value() {
                Some(((epoch, _), key)) => {
                    let last = last_row(source, key).await?;
                    ends.extend(last.map(|row| (row.at, *epoch, row.seq)));
                }
                // It has objects, and was told of none yet.
                None if source.has_recordings(node).await? => ends.push((Timestamp(0), 0, 0)),
                None => {}
            }
        }
        if let Some(base) = base {
            let shipped = base.segments.get(source.name()).copied().unwrap_or(0);
            segments.retain(|number, _| *number > (base.epoch, shipped));
        }
        progress(&format!("target {:?}: {} journal segments", source.name(), segments.len()));
        let whole = found.rows()? == 0 || !found.damage.is_empty() || !found.gaps()?.is_empty();
        if whole {
            found.take(source, segments.into_iter().collect()).await?;
        } else {
            found.take_newer(source, segments).await?;
        }
    }
    if let Some(base) = base
        && found.leave_out(base)?
    {
        return Ok(Err(Repeated));
    }
    found.forget_repeated()?;
    ends.sort_unstable();
    // All of them ended at the same row otherwise.
    found.lags_since = ends.first().filter(|first| ends.last() != Some(first)).map(|first| first.0);
    Ok(Ok(found))
}

/// The last row of a segment; none if it can not be read.
async fn last_row(source: &Source, key: &str) -> Result<Option<Told>> {
    let Ok(bytes) = source.segment(key).await? else { return Ok(None) };
    let Ok(salvaged) = journal::salvage(&bytes) else { return Ok(None) };
    Ok(salvaged.lines.iter().rev().find_map(|(_, text)| Told::parse(text).ok()))
}

impl Journals {
    fn damaged(&mut self, source: &Source, key: &str, line: usize, reason: impl Into<String>) {
        let (target, key) = (source.name().to_owned(), key.to_owned());
        self.damage.push(Damage { target, key, line, reason: reason.into() });
    }

    /// How many rows there are.
    pub fn rows(&self) -> Result<usize> {
        let rows: i64 = self.conn.query_row("SELECT count(*) FROM row", [], |row| row.get(0))?;
        Ok(usize::try_from(rows).unwrap_or(usize::MAX))
    }

    /// Reads segments; tells whether they had rows that were not known.
    async fn take(&mut self, source: &Source, segments: Vec<((u64, u64), String)>) -> Result<bool> {
        let read = |((epoch, _), key): ((u64, u64), String)| {
            let source = source.clone();
            async move {
                let bytes = source.segment(&key).await?;
                Ok((epoch, key, bytes))
            }
        };
        let mut new = false;
        each_to(segments, read, |(epoch, key, bytes)| {
            self.segments += 1;
            let bytes = match bytes {
                Ok(bytes) => bytes,
                Err(reason) => {
                    self.damaged(source, &key, 0, reason);
                    return Ok(());
                }
            };
            let salvaged = journal::salvage(&bytes).map_err(|e| RebuildError::Newer {
                url: source.store.url(&key),
                reason: e.to_string(),
            })?;
            for (line, reason) in salvaged.damage {
                self.damaged(source, &key, line, reason);
            }
            for (line, text) in salvaged.lines {
                match Told::parse(&text) {
                    Ok(told) if told.seq == 0 => {
                        self.damaged(source, &key, line, "it has no number");
                    }
                    Ok(told) => new |= self.put(epoch, &told, &text)?,
                    Err(reason) => self.damaged(source, &key, line, reason),
                }
            }
            Ok(())
        })
        .await?;
        Ok(new)
    }

    /// Keeps a row; whether it is new.
    fn put(&mut self, epoch: u64, told: &Told, text: &str) -> Result<bool> {
        let mut put = self.conn.prepare_cached(
            "INSERT OR IGNORE INTO row(epoch, seq, at, text) VALUES(?1, ?2, ?3, ?4)",
        )?;
        let (epoch, seq) = (epoch.cast_signed(), told.seq.cast_signed());
        Ok(put.execute(params![epoch, seq, told.at.0, text])? > 0)
    }

    /// Reads each epoch from its end on, as long as there is something new.
    async fn take_newer(
        &mut self,
        source: &Source,
        segments: BTreeMap<(u64, u64), String>,
    ) -> Result<()> {
        let mut done = BTreeSet::new();
        for (number, key) in segments.into_iter().rev() {
            if done.contains(&number.0) {
                continue;
            }
            if !self.take(source, vec![(number, key)]).await? {
                done.insert(number.0);
            }
        }
        Ok(())
    }

    /// Leaves out what a snapshot holds. Tells whether a later epoch has rows that may be from before
    /// it: those that were shipped again, which only their first copies would tell from new ones.
    fn leave_out(&mut self, base: &Header) -> Result<bool> {
        let (epoch, seq) = (base.epoch.cast_signed(), base.seq.cast_signed());
        self.conn.execute("DELETE FROM row WHERE (epoch, seq) <= (?1, ?2)", [epoch, seq])?;
        let old = "SELECT EXISTS(SELECT 1 FROM row WHERE epoch > ?1 AND seq <= ?2 AND at <= ?3)";
        Ok(self.conn.query_row(old, [epoch, seq, base.at], |row| row.get(0))?)
    }

    /// Rows that were shipped again in a later epoch, unchanged. Their place in the order stays
    /// filled, so that it is no gap.
    fn forget_repeated(&mut self) -> Result<()> {
        let several = "SELECT (SELECT min(epoch) FROM row) IS NOT (SELECT max(epoch) FROM row)";
        if !self.conn.query_row(several, [], |row| row.get(0))? {
            return Ok(());
        }
        self.conn.execute_batch("CREATE INDEX row_seq ON row(seq, epoch)")?;
        let mut again = self.conn.prepare(
            "SELECT seq, epoch, text FROM row AS one WHERE EXISTS(
                SELECT 1 FROM row AS other WHERE other.seq = one.seq AND other.epoch != one.epoch)
             ORDER BY seq, epoch",
        )?;
        let mut forget =
            self.conn.prepare("UPDATE row SET repeated = 1 WHERE epoch = ?1 AND seq = ?2")?;
        let mut before: Option<Told> = None;
        let mut repeated = Vec::new();
        let mut rows = again.query([])?;
        while let Some(row) = rows.next()? {
            let (seq, epoch): (i64, i64) = (row.get(0)?, row.get(1)?);
            let told = parse(row.get_ref(2)?.as_str().map_err(rusqlite::Error::from)?)?;
            if before.as_ref() == Some(&told) {
                repeated.push((epoch, seq));
            } else {
                before = Some(told);
            }
        }
        for (epoch, seq) in repeated {
            forget.execute([epoch, seq])?;
        }
        Ok(())
    }

    /// Hands on the rows as they followed one another, each with its epoch.
    pub fn in_order(&self, mut to: impl FnMut(u64, &Told) -> Result<()>) -> Result<()> {
        let mut query = self
            .conn
            .prepare("SELECT epoch, text FROM row WHERE repeated = 0 ORDER BY epoch, seq")?;
        let mut rows = query.query([])?;
        while let Some(row) = rows.next()? {
            let epoch: i64 = row.get(0)?;
            let text = row.get_ref(1)?.as_str().map_err(rusqlite::Error::from)?;
            to(epoch.cast_unsigned(), &parse(text)?)?;
        }
        Ok(())
    }

    /// Rows that are nowhere. Each epoch goes on where an earlier one was, or begins anew.
    pub fn gaps(&self) -> Result<Vec<Gap>> {
        let mut gaps = Vec::new();
        let mut present = self.after.map(|(epoch, _)| epoch);
        let mut last = self.after.map_or(0, |(_, seq)| seq);
        let mut highest = last;
        let mut query = self.conn.prepare("SELECT epoch, seq FROM row ORDER BY epoch, seq")?;
        let mut rows = query.query([])?;
        while let Some(row) = rows.next()? {
            let (epoch, seq): (i64, i64) = (row.get(0)?, row.get(1)?);
            let (epoch, seq) = (epoch.cast_unsigned(), seq.cast_unsigned());
            if present != Some(epoch) {
                // A restored or new catalog counts from a number that was there before.
                last = if seq <= highest + 1 { seq.saturating_sub(1) } else { highest };
                present = Some(epoch);
            }
            if seq > last + 1 {
                gaps.push(Gap { epoch, first: last + 1, last: seq - 1 });
            }
            last = seq;
            highest = highest.max(seq);
        }
        Ok(gaps)
    }

    /// The highest number of a row.
    pub fn last_seq(&self) -> Result<u64> {
        let text = "SELECT coalesce(max(seq), 0) FROM row";
        let last: i64 = self.conn.query_row(text, [], |row| row.get(0))?;
        Ok(last.cast_unsigned().max(self.after.map_or(0, |(_, seq)| seq)))
    }
}

/// A row that was parsed before.
fn parse(text: &str) -> Result<Told> {
    Told::parse(text).map_err(|reason| RebuildError::Panic(format!("a row: {reason}")))
}
