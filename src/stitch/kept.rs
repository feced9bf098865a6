//! Which joins are stored, of which recordings, and under which keys.
//!
//! `joins.sqlite` in the state directory. A key is on the disk before anything is put under it, so
//! what is stored and not in here was lost with this file; then targets are asked what they have.
//!
//! **Invariant:** a key that was ever written down is never given out again.

use super::Result;
use super::plan::Plan;
use crate::catalog::{ObjectRow, ObjectState};
use crate::clock::Timestamp;
use crate::recording::{Attr, ChunkHashes, Generation, NodeId, Sha256, Stored};
use parking_lot::Mutex;
use rows::{FILE, Sql, ask, failed, known, many, params, sql};
use rusqlite::{Connection, OpenFlags, OptionalExtension};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

mod again;
mod rows;
#[cfg(test)]
mod tests;

/// What targets are asked for under: no inode number and no row of the catalog has these bits.
const RANGE: u64 = 0b111 << 61;

/// How far a stored join has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeptState {
    /// Some required target lacks it.
    Making,
    /// Every required target has it, proved.
    Current,
    /// Another took its place, or nothing is left of its call: its objects are to be deleted.
    Old,
}

/// A recording that a stored join was made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeptLeg {
    /// Identity.
    pub node: NodeId,
    /// Its length then; none if it is not known any more.
    pub content: Option<(u64, Timestamp)>,
    /// Its user deleted it.
    pub erased: bool,
}

/// Its object in a target.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeptObject {
    /// The name of the target.
    pub target: String,
    /// The full key.
    pub key: String,
    /// Whether it is there, as far as known.
    pub state: ObjectState,
    /// What it is: the join, or what that can be read from.
    pub stored: Stored,
}

/// A stored join.
#[derive(Clone, Debug)]
pub struct KeptJoin {
    /// Its number.
    pub id: i64,
    /// The call.
    pub call: Vec<u8>,
    /// Its length.
    pub size: u64,
    /// Its SHA-256.
    pub sha256: Sha256,
    /// Those of its chunks.
    pub chunks: ChunkHashes,
    /// What it was made of.
    pub plan: Plan,
    /// What `stat` showed of it.
    pub attr: Attr,
    /// How far it has come.
    pub state: KeptState,
    /// It stands in for recordings that have expired.
    pub shown: bool,
    /// The recordings.
    pub legs: Vec<KeptLeg>,
    /// Where it is.
    pub objects: Vec<KeptObject>,
}

impl KeptJoin {
    /// Whether nothing is known of it but that a target has a damaged object.
    pub fn only_damaged(&self) -> bool {
        self.chunks.0.is_empty()
    }

    /// One of its objects as the catalog has those of recordings.
    pub fn row(&self, object: &KeptObject) -> ObjectRow {
        ObjectRow {
            id: 0,
            node: rows::source(self.id),
            generation: Kept::GENERATION,
            target: object.target.clone(),
            key: object.key.clone(),
            state: object.state,
            size: self.size,
            sha256: self.sha256,
            stored: object.stored.clone(),
            chunks: self.chunks.clone(),
            verified_at: None,
        }
    }
}

/// How many joins are stored.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct KeptCounts {
    /// Some required target lacks them.
    pub making: u64,
    /// They are where they must be.
    pub current: u64,
    /// They are to be deleted.
    pub old: u64,
}

/// A join to be stored.
#[derive(Clone, Debug)]
pub struct NewJoin {
    /// The call.
    pub call: Vec<u8>,
    /// What it is made of.
    pub plan: Plan,
    /// What `stat` shows of it.
    pub attr: Attr,
    /// Its SHA-256.
    pub sha256: Sha256,
    /// Those of its chunks.
    pub chunks: ChunkHashes,
}

/// The stored joins.
#[derive(Debug)]
pub struct Kept {
    path: PathBuf,
    connection: Mutex<Connection>,
    /// For who looks at a join: waits for no sync of what is written down meanwhile.
    reader: Mutex<Connection>,
    /// Some stand in for recordings that have expired: most installations have none.
    shown: AtomicBool,
    /// Targets that were asked which joins they have, and did not tell of all.
    asked: Mutex<BTreeSet<String>>,
}

impl Kept {
    /// Whether any were ever stored from here.
    pub fn exists(state_dir: &Path) -> bool {
        state_dir.join(FILE).exists()
    }

    /// Opens the file, or makes it.
    ///
    /// # Errors
    /// It can not be used.
    pub fn open(state_dir: &Path) -> Result<Kept> {
        let path = state_dir.join(FILE);
        let open = || {
            let connection = rows::open(&path)?;
            let shown = rows::shown(&connection)?;
            let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
            Ok((connection, Connection::open_with_flags(&path, flags)?, shown))
        };
        let (connection, reader, shown) = open().map_err(|e| failed(&path, &e))?;
        let (connection, reader) = (Mutex::new(connection), Mutex::new(reader));
        let (shown, asked) = (AtomicBool::new(shown), Mutex::default());
        Ok(Kept { path, connection, reader, shown, asked })
    }

    fn read<T>(&self, run: impl FnOnce(&Connection) -> Sql<T>) -> Result<T> {
        run(&self.reader.lock()).map_err(|e| failed(&self.path, &e))
    }

    fn with<T>(&self, run: impl FnOnce(&Connection) -> Sql<T>) -> Result<T> {
        run(&self.connection.lock()).map_err(|e| failed(&self.path, &e))
    }

    /// The same, all of it or nothing.
    fn change<T>(&self, run: impl FnOnce(&Connection) -> Sql<T>) -> Result<T> {
        self.with(|connection| {
            let transaction = connection.unchecked_transaction()?;
            let done = run(&transaction)?;
            transaction.commit()?;
            self.shown.store(rows::shown(connection)?, Ordering::Release);
            Ok(done)
        })
    }

    /// Writes a join down that is going to be stored. Its number; that of the one there is, if it is
    /// the same.
    ///
    /// # Errors
    /// It can not be used.
    pub fn begin(&self, new: &NewJoin) -> Result<i64> {
        let NewJoin { call, plan, sha256, .. } = new;
        let legs: Vec<KeptLeg> = plan.legs.iter().map(known).collect();
        self.change(|connection| {
            let Some(id) = rows::same(connection, call, *sha256)? else {
                return rows::insert(connection, new, &legs);
            };
            // What was found again in a target is known in detail from now on.
            rows::tell(connection, id, new)?;
            rows::set_legs(connection, id, &legs)?;
            Ok(id)
        })
    }

    /// Takes a key in a target for a join: the first that was never taken. If it has one there
    /// already, that, and true.
    ///
    /// # Errors
    /// It can not be used, or all are taken.
    pub fn assign(
        &self,
        id: i64,
        target: &str,
        keys: &[String],
        stored: &Stored,
    ) -> Result<(KeptObject, bool)> {
        self.change(|connection| {
            let has = rows::objects(connection, id)?;
            let usable = |o: &KeptObject| o.target == target && o.state != ObjectState::Abandoned;
            if let Some(object) = has.into_iter().find(usable) {
                return Ok((object, true));
            }
            for key in keys {
                let (target, key, stored) = (target.to_owned(), key.clone(), stored.clone());
                let object = KeptObject { target, key, state: ObjectState::Assigned, stored };
                if rows::take_key(connection, id, &object)? {
                    return Ok((object, false));
                }
            }
            Err(rusqlite::Error::QueryReturnedNoRows)
        })
    }

    /// What is known of an object now: that it is right, or (`Abandoned`) that it is not there, or
    /// another's.
    ///
    /// # Errors
    /// It can not be used.
    pub fn note(&self, object: &KeptObject, state: ObjectState, now: Timestamp) -> Result<()> {
        let text = "UPDATE object SET state = ?3, proved = ?4 WHERE target = ?1 AND key = ?2";
        let row = params![object.target, object.key, rows::state(state), now.0];
        self.change(|connection| connection.prepare_cached(text)?.execute(row)).map(drop)
    }

    /// Those of the same call as a join, or of some of the same recordings.
    ///
    /// # Errors
    /// It can not be used.
    pub fn beside(&self, id: i64) -> Result<Vec<KeptJoin>> {
        self.with(|connection| many(connection, ask::BESIDE, [id]))
    }

    /// A join is where it must be, and these give way to it.
    ///
    /// # Errors
    /// It can not be used.
    pub fn stored(&self, id: i64, instead_of: &[i64]) -> Result<()> {
        self.change(|connection| {
            for old in instead_of {
                rows::set_state(connection, *old, KeptState::Old)?;
            }
            rows::set_state(connection, id, KeptState::Current)
        })
    }

    /// The objects of a join are to be deleted.
    ///
    /// # Errors
    /// It can not be used.
    pub fn retire(&self, id: i64) -> Result<()> {
        self.change(|connection| rows::set_state(connection, id, KeptState::Old))
    }

    /// Nothing of a join is left in any target. Its keys stay taken.
    ///
    /// # Errors
    /// It can not be used.
    pub fn forget(&self, id: i64) -> Result<()> {
        self.change(|connection| {
            connection.prepare_cached("DELETE FROM leg WHERE stored = ?1")?.execute([id])?;
            connection.prepare_cached("DELETE FROM stored WHERE id = ?1")?.execute([id])?;
            Ok(())
        })
    }

    /// Whether a join stands in for recordings that have expired.
    ///
    /// # Errors
    /// It can not be used.
    pub fn show(&self, id: i64, shown: bool) -> Result<()> {
        let text = "UPDATE stored SET shown = ?2 WHERE id = ?1";
        self.change(|connection| connection.prepare_cached(text)?.execute(params![id, shown]))
            .map(drop)
    }

    /// Whether the user of a recording deleted it: no join may keep what it said then.
    ///
    /// # Errors
    /// It can not be used.
    pub fn erased(&self, nodes: &[NodeId], erased: bool) -> Result<()> {
        self.change(|connection| {
            for node in nodes {
                let text = "UPDATE leg SET erased = ?2 WHERE node = ?1 AND erased <> ?2";
                connection.prepare_cached(text)?.execute(params![sql(*node), erased])?;
            }
            Ok(())
        })
    }

    /// A stored join as it is now; none if it is forgotten.
    ///
    /// # Errors
    /// It can not be used.
    pub fn join(&self, id: i64) -> Result<Option<KeptJoin>> {
        self.with(|connection| Ok(many(connection, ask::BY_ID, [id])?.pop()))
    }

    /// Stored joins in the order of their numbers, behind one.
    ///
    /// # Errors
    /// It can not be used.
    pub fn after(&self, id: i64, limit: usize) -> Result<Vec<KeptJoin>> {
        self.with(|connection| many(connection, ask::AFTER, params![id, limit as i64]))
    }

    /// The same of those that have come so far.
    ///
    /// # Errors
    /// It can not be used.
    pub fn in_state(&self, state: KeptState, id: i64, limit: usize) -> Result<Vec<KeptJoin>> {
        let these = params![rows::how_far(state), id, limit as i64];
        self.with(|connection| many(connection, ask::IN_STATE, these))
    }

    /// Those that are stored, or about to be, of a call or of any of these recordings.
    ///
    /// # Errors
    /// It can not be used.
    pub fn about(&self, call: Option<&[u8]>, nodes: &[NodeId]) -> Result<Vec<KeptJoin>> {
        self.with(|connection| {
            let mut joins = match call {
                Some(call) => many(connection, ask::OF_CALL, [call])?,
                None => Vec::new(),
            };
            for node in nodes {
                joins.extend(many(connection, ask::OF_NODE, [sql(*node)])?);
            }
            joins.sort_by_key(|join| join.id);
            joins.dedup_by_key(|join| join.id);
            Ok(joins)
        })
    }

    /// How many are stored.
    ///
    /// # Errors
    /// It can not be used.
    pub fn counts(&self) -> Result<KeptCounts> {
        self.read(|connection| {
            let mut counts = KeptCounts::default();
            let mut statement = connection.prepare_cached(ask::COUNT)?;
            let rows =
                statement.query_map([], |r| Ok((r.get::<_, i64>(0)?, r.get::<_, i64>(1)?)))?;
            for row in rows {
                let (state, count) = row?;
                *match state {
                    1 => &mut counts.making,
                    2 => &mut counts.current,
                    _ => &mut counts.old,
                } = count.cast_unsigned();
            }
            Ok(counts)
        })
    }

    /// Joins of which a target's object was not proved since then, those first that were not for
    /// longest.
    ///
    /// # Errors
    /// It can not be used.
    pub fn unproved(&self, target: &str, since: Timestamp, limit: usize) -> Result<Vec<KeptJoin>> {
        self.with(|connection| {
            let these = params![target, since.0, limit as i64];
            let mut statement = connection.prepare_cached(ask::DUE)?;
            let ids: Vec<i64> =
                statement.query_map(these, |r| r.get(0))?.collect::<rusqlite::Result<_>>()?;
            let joins = ids.iter().map(|id| many(connection, ask::BY_ID, [id]));
            Ok(joins.collect::<rusqlite::Result<Vec<_>>>()?.into_iter().flatten().collect())
        })
    }

    /// The join that stands in for recordings of a call that have expired: that of its id, or one
    /// that has all of its recordings that are left, under whatever id it was stored.
    ///
    /// # Errors
    /// It can not be used.
    pub fn standing_in(&self, call: &[u8], left: &[NodeId]) -> Result<Option<KeptJoin>> {
        if !self.shown.load(Ordering::Acquire) {
            return Ok(None);
        }
        self.read(|connection| {
            if let Some(join) = many(connection, ask::SHOWN_OF_CALL, [call])?.pop() {
                return Ok(Some(join));
            }
            let Some(first) = left.first() else { return Ok(None) };
            let has = |join: &KeptJoin, node: &NodeId| join.legs.iter().any(|l| l.node == *node);
            let some = many(connection, ask::SHOWN_OF_NODE, [sql(*first)])?;
            Ok(some.into_iter().find(|join| left.iter().all(|node| has(join, node))))
        })
    }

    /// What a stored join is asked for under, by what tells it from every other; none if it is not
    /// stored.
    pub fn source_of(&self, digest: u64, size: u64) -> Option<NodeId> {
        let id: Option<i64> = self
            .read(|connection| {
                let row = params![digest.cast_signed(), size.cast_signed()];
                connection.prepare_cached(ask::SOURCE)?.query_row(row, |r| r.get(0)).optional()
            })
            .unwrap_or_default();
        id.map(rows::source)
    }

    /// What a stored join has in the place of a generation: it never changes.
    pub const GENERATION: Generation = Generation(1);

    /// Whether something is asked for that is a stored join.
    pub fn owns(id: NodeId) -> bool {
        id.0 >> 61 == RANGE >> 61
    }

    /// Where the bytes of a stored join are.
    ///
    /// # Errors
    /// It can not be used.
    pub fn objects_of(&self, id: NodeId) -> Result<Vec<ObjectRow>> {
        let number = (id.0 & !RANGE).cast_signed();
        let found = self.read(|connection| many(connection, ask::BY_ID, [number]))?;
        let rows = found.first().map(|join| join.objects.iter().map(|object| join.row(object)));
        Ok(rows.map(Iterator::collect).unwrap_or_default())
    }
}
