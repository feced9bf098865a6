//! Recordings, their names and their objects while a catalog is made: a few in memory, the others in
//! a file without a name, so that memory does not grow with the archive.
//!
//! **Invariant:** what is looked at is as it was last left, wherever it was meanwhile.

use super::error::{RebuildError, Result};
use super::history::Recording;
use super::packed;
use crate::catalog::rebuild::scratch;
use crate::limits;
use crate::recording::NodeId;
use rusqlite::{Connection, OptionalExtension, params};
use std::collections::{HashMap, HashSet};
use std::path::Path;

/// Identities read in one go.
const BATCH: i64 = limits::REBUILD_BATCH as i64;

const TABLES: &str = "
CREATE TABLE recording(id INTEGER PRIMARY KEY, packed BLOB NOT NULL);
CREATE TABLE name(path BLOB PRIMARY KEY, id INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE object(target TEXT NOT NULL, key TEXT NOT NULL, id INTEGER NOT NULL,
    number INTEGER NOT NULL, listed INTEGER, PRIMARY KEY(target, key)) WITHOUT ROWID;
CREATE TABLE untold(target TEXT NOT NULL, key TEXT NOT NULL, PRIMARY KEY(target, key))
    WITHOUT ROWID;
";

/// All that is known of recordings.
#[derive(Debug)]
pub(super) struct Kept {
    conn: Connection,
    near: HashMap<NodeId, Recording>,
    /// Those that are not in the file as they are here.
    changed: HashSet<NodeId>,
}

/// As SQLite has it.
fn sql(id: NodeId) -> i64 {
    id.0.cast_signed()
}

fn node(row: &rusqlite::Row<'_>, column: usize) -> rusqlite::Result<NodeId> {
    row.get::<_, i64>(column).map(|id| NodeId(id.cast_unsigned()))
}

impl Kept {
    pub fn begin(state_dir: &Path) -> Result<Kept> {
        let conn = scratch(state_dir, TABLES, limits::REBUILD_CACHE_BYTES)?;
        Ok(Kept { conn, near: HashMap::new(), changed: HashSet::new() })
    }

    /// Brings a recording near; whether there is one.
    fn fetch(&mut self, id: NodeId) -> Result<bool> {
        if self.near.contains_key(&id) {
            return Ok(true);
        }
        let packed: Option<Vec<u8>> = self
            .conn
            .prepare_cached("SELECT packed FROM recording WHERE id = ?1")?
            .query_row([sql(id)], |row| row.get(0))
            .optional()?;
        let Some(packed) = packed else { return Ok(false) };
        let one = packed::unpack(&packed).ok_or(RebuildError::Unpacked(id))?;
        self.make_room()?;
        self.near.insert(id, one);
        Ok(true)
    }

    fn make_room(&mut self) -> Result<()> {
        if self.near.len() >= limits::REBUILD_NEAR {
            self.put_away()?;
            self.near.clear();
        }
        Ok(())
    }

    /// Writes down what was changed.
    fn put_away(&mut self) -> Result<()> {
        let mut put = self
            .conn
            .prepare_cached("INSERT OR REPLACE INTO recording(id, packed) VALUES(?1, ?2)")?;
        for id in self.changed.drain() {
            if let Some(one) = self.near.get(&id) {
                put.execute(params![sql(id), packed::pack(one)])?;
            }
        }
        Ok(())
    }

    pub fn contains(&mut self, id: NodeId) -> Result<bool> {
        self.fetch(id)
    }

    pub fn get(&mut self, id: NodeId) -> Result<Option<&Recording>> {
        self.fetch(id)?;
        Ok(self.near.get(&id))
    }

    /// To change it.
    pub fn get_mut(&mut self, id: NodeId) -> Result<Option<&mut Recording>> {
        if self.fetch(id)? {
            self.changed.insert(id);
        }
        Ok(self.near.get_mut(&id))
    }

    /// To change it, or an empty one that is begun.
    pub fn entry(&mut self, id: NodeId) -> Result<&mut Recording> {
        if !self.fetch(id)? {
            self.make_room()?;
        }
        self.changed.insert(id);
        Ok(self.near.entry(id).or_default())
    }

    /// The next identities after one, in their order.
    pub fn ids_after(&mut self, after: NodeId) -> Result<Vec<NodeId>> {
        self.put_away()?;
        let mut query = self
            .conn
            .prepare_cached("SELECT id FROM recording WHERE id > ?1 ORDER BY id LIMIT ?2")?;
        let ids = query.query_map([sql(after), BATCH], |r| node(r, 0))?;
        Ok(ids.collect::<rusqlite::Result<_>>()?)
    }

    /// How many recordings there are, and the highest identity.
    pub fn count(&mut self) -> Result<(u64, Option<NodeId>)> {
        self.put_away()?;
        let text = "SELECT count(*), max(id) FROM recording";
        Ok(self.conn.query_row(text, [], |row| {
            let highest: Option<i64> = row.get(1)?;
            Ok((row.get::<_, i64>(0)?.cast_unsigned(), highest.map(|n| NodeId(n.cast_unsigned()))))
        })?)
    }

    /// Who has a name.
    pub fn owner(&self, path: &[u8]) -> Result<Option<NodeId>> {
        let mut query = self.conn.prepare_cached("SELECT id FROM name WHERE path = ?1")?;
        Ok(query.query_row([path], |row| node(row, 0)).optional()?)
    }

    /// Gives a name to somebody; who else had it.
    pub fn give(&mut self, path: &[u8], id: NodeId) -> Result<Option<NodeId>> {
        let mut new =
            self.conn.prepare_cached("INSERT OR IGNORE INTO name(path, id) VALUES(?1, ?2)")?;
        if new.execute(params![path, sql(id)])? > 0 {
            return Ok(None);
        }
        let before = self.owner(path)?.filter(|before| *before != id);
        if before.is_some() {
            self.conn
                .prepare_cached("UPDATE name SET id = ?2 WHERE path = ?1")?
                .execute(params![path, sql(id)])?;
        }
        Ok(before)
    }

    /// Takes a name away from somebody, if he has it.
    pub fn take(&mut self, path: &[u8], from: NodeId) -> Result<()> {
        self.conn
            .prepare_cached("DELETE FROM name WHERE path = ?1 AND id = ?2")?
            .execute(params![path, sql(from)])?;
        Ok(())
    }

    /// All names below a directory.
    pub fn below(&self, dir: &[u8]) -> Result<Vec<(Vec<u8>, NodeId)>> {
        // '0' follows '/'.
        let (first, end) = ([dir, b"/"].concat(), [dir, b"0"].concat());
        let mut query = self.conn.prepare_cached(
            "SELECT path, id FROM name WHERE path >= ?1 AND path < ?2 ORDER BY path",
        )?;
        let names = query.query_map([first, end], |row| Ok((row.get(0)?, node(row, 1)?)))?;
        Ok(names.collect::<rusqlite::Result<_>>()?)
    }

    /// Gives an object to a content; to which other one it belonged.
    pub fn own(
        &mut self,
        (target, key): (&str, &str),
        (id, number): (NodeId, u32),
    ) -> Result<Option<(NodeId, u32)>> {
        let mut new = self.conn.prepare_cached(
            "INSERT OR IGNORE INTO object(target, key, id, number) VALUES(?1, ?2, ?3, ?4)",
        )?;
        if new.execute(params![target, key, sql(id), number])? > 0 {
            return Ok(None);
        }
        let mut query = self
            .conn
            .prepare_cached("SELECT id, number FROM object WHERE target = ?1 AND key = ?2")?;
        let before: (NodeId, u32) =
            query.query_row([target, key], |row| Ok((node(row, 0)?, row.get(1)?)))?;
        if before == (id, number) {
            return Ok(None);
        }
        self.conn
            .prepare_cached(
                "UPDATE object SET id = ?3, number = ?4 WHERE target = ?1 AND key = ?2",
            )?
            .execute(params![target, key, sql(id), number])?;
        Ok(Some(before))
    }

    /// An object was listed, with this length. One that nobody told of is kept aside.
    pub fn list(&mut self, target: &str, key: &str, size: u64) -> Result<()> {
        let mut known = self
            .conn
            .prepare_cached("UPDATE object SET listed = ?3 WHERE target = ?1 AND key = ?2")?;
        if known.execute(params![target, key, size.cast_signed()])? == 0 {
            self.conn
                .prepare_cached("INSERT OR IGNORE INTO untold(target, key) VALUES(?1, ?2)")?
                .execute([target, key])?;
        }
        Ok(())
    }

    /// The length of an object that was listed.
    pub fn listed(&self, target: &str, key: &str) -> Result<Option<u64>> {
        let mut query =
            self.conn.prepare_cached("SELECT listed FROM object WHERE target = ?1 AND key = ?2")?;
        let size = query.query_row([target, key], |row| row.get::<_, Option<i64>>(0));
        Ok(size.optional()?.flatten().map(i64::cast_unsigned))
    }

    /// Target and key of each object that was listed and nobody told of.
    pub fn untold(&self) -> Result<Vec<(String, String)>> {
        let mut query = self.conn.prepare_cached("SELECT target, key FROM untold")?;
        let all = query.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?;
        Ok(all.collect::<rusqlite::Result<_>>()?)
    }

    #[cfg(test)]
    pub fn knows(&self, target: &str, key: &str) -> Result<bool> {
        let text = "SELECT EXISTS(SELECT 1 FROM object WHERE target = ?1 AND key = ?2)";
        Ok(self.conn.query_row(text, [target, key], |row| row.get(0))?)
    }

    /// How many objects are known in each target.
    pub fn objects(&self) -> Result<Vec<(String, usize)>> {
        let mut query =
            self.conn.prepare_cached("SELECT target, count(*) FROM object GROUP BY target")?;
        let count = |row: &rusqlite::Row<'_>| {
            let count: i64 = row.get(1)?;
            Ok((row.get(0)?, usize::try_from(count).unwrap_or(usize::MAX)))
        };
        Ok(query.query_map([], count)?.collect::<rusqlite::Result<_>>()?)
    }
}
