//! Which joins are stored, of which recordings, and under which keys.
//!
//! `joins.sqlite` in the state directory. A key is on the disk before anything is put under it, so
//! what is stored and not in here was lost with this file; then targets are asked what they have.
//!
//! **Invariant:** a key that was ever written down is never given out again.

use super::plan::{Leg, Plan};
use super::{Result, StitchError};
use crate::catalog::{ObjectRow, ObjectState};
use crate::clock::Timestamp;
use crate::recording::{Attr, ChunkHashes, ErrorClass, Generation, NodeId, Sha256, Stored};
use parking_lot::Mutex;
use rusqlite::{Connection, OpenFlags, OptionalExtension, Row, params};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

const FILE: &str = "joins.sqlite";
/// What targets are asked for under: no inode number and no row of the catalog has these bits.
const RANGE: u64 = 0b111 << 61;

const SCHEMA: &str = "
CREATE TABLE IF NOT EXISTS stored(
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    call BLOB NOT NULL,
    digest INTEGER NOT NULL,
    size INTEGER NOT NULL,
    sha256 BLOB NOT NULL,
    chunks BLOB NOT NULL,
    plan TEXT NOT NULL,
    attr TEXT NOT NULL,
    state INTEGER NOT NULL,
    shown INTEGER NOT NULL DEFAULT 0
) STRICT;
CREATE INDEX IF NOT EXISTS stored_state ON stored(state, id);
CREATE INDEX IF NOT EXISTS stored_call ON stored(call);
CREATE INDEX IF NOT EXISTS stored_digest ON stored(digest);
CREATE TABLE IF NOT EXISTS leg(
    node INTEGER NOT NULL,
    stored INTEGER NOT NULL,
    size INTEGER NOT NULL,
    mtime INTEGER NOT NULL,
    erased INTEGER NOT NULL DEFAULT 0,
    PRIMARY KEY(node, stored)
) STRICT, WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS leg_stored ON leg(stored);
CREATE TABLE IF NOT EXISTS object(
    target TEXT NOT NULL,
    key TEXT NOT NULL,
    stored INTEGER NOT NULL,
    state INTEGER NOT NULL,
    PRIMARY KEY(target, key)
) STRICT, WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS object_stored ON object(stored);
CREATE TABLE IF NOT EXISTS listed(target TEXT PRIMARY KEY) STRICT;
";

const COLUMNS: &str = "id, call, digest, size, sha256, chunks, plan, attr, state, shown";

/// Those of the same call, or of some of the same recordings, as join ?1.
const REPLACED: &str = "id <> ?1 AND state < 3 AND
    (call = (SELECT call FROM stored WHERE id = ?1)
     OR id IN (SELECT b.stored FROM leg a JOIN leg b ON b.node = a.node WHERE a.stored = ?1))";

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
}

type Sql<T> = rusqlite::Result<T>;

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
            let connection = Connection::open(&path)?;
            connection.pragma_update(None, "journal_mode", "wal")?;
            connection.pragma_update(None, "synchronous", "full")?;
            connection.execute_batch(SCHEMA)?;
            let shown = shown(&connection)?;
            let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
            Ok((connection, Connection::open_with_flags(&path, flags)?, shown))
        };
        let (connection, reader, shown) = open().map_err(|e| failed(&path, &e))?;
        let (connection, reader) = (Mutex::new(connection), Mutex::new(reader));
        Ok(Kept { path, connection, reader, shown: AtomicBool::new(shown) })
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
            self.shown.store(shown(connection)?, Ordering::Release);
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
            let Some(id) = same(connection, call, *sha256)? else {
                return insert(connection, new, &legs);
            };
            // What was found again in a target is known in detail from now on.
            let told = digest_and_text(new);
            connection
                .prepare_cached(
                    "UPDATE stored SET digest = ?2, plan = ?3, attr = ?4 WHERE id = ?1",
                )?
                .execute(params![id, told.0, told.1, told.2])?;
            set_legs(connection, id, &legs)?;
            Ok(id)
        })
    }

    /// Takes note of a join that a target was found to have: of its recordings is known which they
    /// are and no more. Of several of a call the youngest counts.
    ///
    /// # Errors
    /// It can not be used.
    pub fn found(&self, new: &NewJoin, nodes: &[NodeId], target: &str, key: &str) -> Result<()> {
        let leg = |node: &NodeId| KeptLeg { node: *node, content: None, erased: false };
        let legs: Vec<KeptLeg> = nodes.iter().map(leg).collect();
        self.change(|connection| {
            let id = match same(connection, &new.call, new.sha256)? {
                Some(id) => id,
                None => insert(connection, new, &legs)?,
            };
            connection
                .prepare_cached("INSERT OR IGNORE INTO object VALUES(?1, ?2, ?3, 2)")?
                .execute(params![target, key, id])?;
            let text = format!("SELECT {COLUMNS} FROM stored WHERE call = ?1 AND state < 3");
            let all = many(connection, &text, [&new.call])?;
            let youngest = all.iter().max_by_key(|join| (join.attr.mtime, join.size, join.id));
            if let Some(youngest) = youngest {
                replace(connection, youngest.id)?;
            }
            Ok(())
        })
    }

    /// Takes a key in a target for a join: the first that was never taken. If it has one there
    /// already, that, and true.
    ///
    /// # Errors
    /// It can not be used, or all are taken.
    pub fn assign(&self, id: i64, target: &str, keys: &[String]) -> Result<(KeptObject, bool)> {
        self.change(|connection| {
            let has = objects(connection, id)?;
            let usable = |o: &KeptObject| o.target == target && o.state != ObjectState::Abandoned;
            if let Some(object) = has.into_iter().find(usable) {
                return Ok((object, true));
            }
            for key in keys {
                let taken = connection
                    .prepare_cached("INSERT OR IGNORE INTO object VALUES(?1, ?2, ?3, 1)")?
                    .execute(params![target, key, id])?;
                if taken == 1 {
                    let (target, key) = (target.to_owned(), key.clone());
                    let object = KeptObject { target, key, state: ObjectState::Assigned };
                    return Ok((object, false));
                }
            }
            Err(rusqlite::Error::QueryReturnedNoRows)
        })
    }

    /// What is known of an object: that it is right, or (`Abandoned`) that it is not there, or another's.
    ///
    /// # Errors
    /// It can not be used.
    pub fn note(&self, object: &KeptObject, state: ObjectState) -> Result<()> {
        let state = match state {
            ObjectState::Assigned => 1,
            ObjectState::Verified => 2,
            ObjectState::Abandoned => 3,
        };
        self.change(|connection| {
            connection
                .prepare_cached("UPDATE object SET state = ?3 WHERE target = ?1 AND key = ?2")?
                .execute(params![object.target, object.key, state])?;
            Ok(())
        })
    }

    /// What would give way to a join.
    ///
    /// # Errors
    /// It can not be used.
    pub fn replaced_by(&self, id: i64) -> Result<Vec<KeptJoin>> {
        let text = format!("SELECT {COLUMNS} FROM stored WHERE {REPLACED}");
        self.with(|connection| many(connection, &text, [id]))
    }

    /// A join is where it must be: those of the same recordings or the same call give way to it.
    ///
    /// # Errors
    /// It can not be used.
    pub fn stored(&self, id: i64) -> Result<()> {
        self.change(|connection| replace(connection, id))
    }

    /// The objects of a join are to be deleted.
    ///
    /// # Errors
    /// It can not be used.
    pub fn retire(&self, id: i64) -> Result<()> {
        let text = "UPDATE stored SET state = 3, shown = 0 WHERE id = ?1";
        self.change(|connection| connection.prepare_cached(text)?.execute([id])).map(drop)
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

    /// Stored joins in the order of their numbers, behind one.
    ///
    /// # Errors
    /// It can not be used.
    pub fn after(&self, id: i64, limit: usize) -> Result<Vec<KeptJoin>> {
        let text = format!("SELECT {COLUMNS} FROM stored WHERE id > ?1 ORDER BY id LIMIT ?2");
        self.with(|connection| many(connection, &text, params![id, limit as i64]))
    }

    /// Whether a join of any of these recordings is stored, or about to be.
    ///
    /// # Errors
    /// It can not be used.
    pub fn is_of(&self, nodes: &[NodeId]) -> Result<bool> {
        self.with(|connection| {
            for node in nodes {
                let text = "SELECT 1 FROM leg l JOIN stored s ON s.id = l.stored
                            WHERE l.node = ?1 AND s.state < 3 LIMIT 1";
                if connection.prepare_cached(text)?.exists([sql(*node)])? {
                    return Ok(true);
                }
            }
            Ok(false)
        })
    }

    /// The join that stands in for recordings of a call that have expired, by its id and by those of
    /// its recordings that are left.
    ///
    /// # Errors
    /// It can not be used.
    pub fn standing_in(
        &self,
        call: &[u8],
        nodes: impl Iterator<Item = NodeId>,
    ) -> Result<Option<KeptJoin>> {
        if !self.shown.load(Ordering::Acquire) {
            return Ok(None);
        }
        self.read(|connection| {
            let text = format!("SELECT {COLUMNS} FROM stored WHERE call = ?1 AND shown = 1");
            if let Some(join) = many(connection, &text, [call])?.pop() {
                return Ok(Some(join));
            }
            let text = format!(
                "SELECT {COLUMNS} FROM stored WHERE shown = 1
                 AND id IN (SELECT stored FROM leg WHERE node = ?1)"
            );
            for node in nodes {
                if let Some(join) = many(connection, &text, [sql(node)])?.pop() {
                    return Ok(Some(join));
                }
            }
            Ok(None)
        })
    }

    /// What a stored join is asked for under, by what tells it from every other; none if it is not
    /// stored.
    pub fn source_of(&self, digest: u64, size: u64) -> Option<NodeId> {
        let text = "SELECT id FROM stored WHERE digest = ?1 AND size = ?2 AND state >= 2
                    ORDER BY state LIMIT 1";
        let id: Option<i64> = self
            .read(|connection| {
                let row = params![digest.cast_signed(), size.cast_signed()];
                connection.prepare_cached(text)?.query_row(row, |r| r.get(0)).optional()
            })
            .unwrap_or_default();
        id.map(source)
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
        let text = format!("SELECT {COLUMNS} FROM stored WHERE id = ?1");
        let found =
            self.read(|connection| many(connection, &text, [(id.0 & !RANGE).cast_signed()]))?;
        let Some(KeptJoin { size, sha256, chunks, objects, .. }) = found.into_iter().next() else {
            return Ok(Vec::new());
        };
        let row = |(number, object): (i64, KeptObject)| ObjectRow {
            id: number,
            node: id,
            generation: Kept::GENERATION,
            target: object.target,
            key: object.key,
            state: object.state,
            size,
            sha256,
            stored: Stored::plain(size, sha256),
            chunks: chunks.clone(),
            verified_at: None,
        };
        Ok((0..).zip(objects).map(row).collect())
    }

    /// Whether a target was asked which joins it has.
    ///
    /// # Errors
    /// It can not be used.
    pub fn is_listed(&self, target: &str) -> Result<bool> {
        let text = "SELECT 1 FROM listed WHERE target = ?1";
        self.with(|connection| connection.prepare_cached(text)?.exists([target]))
    }

    /// It was.
    ///
    /// # Errors
    /// It can not be used.
    pub fn was_listed(&self, target: &str) -> Result<()> {
        let text = "INSERT OR IGNORE INTO listed VALUES(?1)";
        self.change(|connection| connection.prepare_cached(text)?.execute([target])).map(drop)
    }

    /// Whether a key of a target is known.
    ///
    /// # Errors
    /// It can not be used.
    pub fn knows(&self, target: &str, key: &str) -> Result<bool> {
        let text = "SELECT 1 FROM object WHERE target = ?1 AND key = ?2";
        self.with(|connection| connection.prepare_cached(text)?.exists([target, key]))
    }
}

/// What targets are asked for a stored join under.
fn source(id: i64) -> NodeId {
    NodeId(RANGE | id.cast_unsigned())
}

/// What is written down of a join: what tells it from others, what it is made of, what it shows.
fn digest_and_text(new: &NewJoin) -> (i64, String, String) {
    // These types have nothing that JSON can not say.
    let plan = serde_json::to_string(&new.plan).unwrap_or_default();
    let attr = serde_json::to_string(&new.attr).unwrap_or_default();
    (new.plan.digest().cast_signed(), plan, attr)
}

fn known(leg: &Leg) -> KeptLeg {
    KeptLeg { node: leg.node, content: Some((leg.size, leg.mtime)), erased: false }
}

fn same(connection: &Connection, call: &[u8], sha256: Sha256) -> Sql<Option<i64>> {
    let text = "SELECT id FROM stored WHERE call = ?1 AND sha256 = ?2 AND state < 3";
    connection.prepare_cached(text)?.query_row(params![call, sha256.0], |r| r.get(0)).optional()
}

fn insert(connection: &Connection, new: &NewJoin, legs: &[KeptLeg]) -> Sql<i64> {
    let (digest, plan, attr) = digest_and_text(new);
    let (size, chunks) = (new.plan.len().cast_signed(), new.chunks.to_bytes());
    connection
        .prepare_cached(
            "INSERT INTO stored(call, digest, size, sha256, chunks, plan, attr, state)
             VALUES(?1, ?2, ?3, ?4, ?5, ?6, ?7, 1)",
        )?
        .execute(params![new.call, digest, size, new.sha256.0, chunks, plan, attr])?;
    let id = connection.last_insert_rowid();
    set_legs(connection, id, legs)?;
    Ok(id)
}

fn set_legs(connection: &Connection, id: i64, legs: &[KeptLeg]) -> Sql<()> {
    connection.prepare_cached("DELETE FROM leg WHERE stored = ?1")?.execute([id])?;
    for leg in legs {
        let (size, mtime) = leg.content.map_or((-1, 0), |(size, at)| (size.cast_signed(), at.0));
        connection
            .prepare_cached("INSERT OR IGNORE INTO leg VALUES(?1, ?2, ?3, ?4, ?5)")?
            .execute(params![sql(leg.node), id, size, mtime, leg.erased])?;
    }
    Ok(())
}

/// Those of the same recordings or the same call give way to this one.
fn replace(connection: &Connection, id: i64) -> Sql<()> {
    let text = format!("UPDATE stored SET state = 3, shown = 0 WHERE {REPLACED}");
    connection.prepare_cached(&text)?.execute([id])?;
    connection.prepare_cached("UPDATE stored SET state = 2 WHERE id = ?1")?.execute([id])?;
    Ok(())
}

fn sql(node: NodeId) -> i64 {
    node.0.cast_signed()
}

fn shown(connection: &Connection) -> Sql<bool> {
    connection.prepare_cached("SELECT 1 FROM stored WHERE shown = 1 LIMIT 1")?.exists([])
}

fn failed(path: &Path, error: &rusqlite::Error) -> StitchError {
    let detail = format!("which joins are stored can not be told now: {error}");
    StitchError { leg: path.display().to_string(), detail, class: ErrorClass::Transient }
}

fn many(connection: &Connection, text: &str, of: impl rusqlite::Params) -> Sql<Vec<KeptJoin>> {
    let mut statement = connection.prepare_cached(text)?;
    let rows: Vec<Option<KeptJoin>> = statement.query_map(of, join)?.collect::<Sql<_>>()?;
    let mut joins = Vec::with_capacity(rows.len());
    for mut join in rows.into_iter().flatten() {
        join.legs = legs(connection, join.id)?;
        join.objects = objects(connection, join.id)?;
        joins.push(join);
    }
    Ok(joins)
}

/// One that can not be understood is passed over: it stays where it is.
fn join(row: &Row<'_>) -> Sql<Option<KeptJoin>> {
    let (plan, attr): (String, String) = (row.get(6)?, row.get(7)?);
    let (plan, attr) = (serde_json::from_str(&plan), serde_json::from_str(&attr));
    let chunks = ChunkHashes::from_bytes(&row.get::<_, Vec<u8>>(5)?);
    let (Ok(plan), Ok(attr), Some(chunks)) = (plan, attr, chunks) else { return Ok(None) };
    let state = match row.get::<_, i64>(8)? {
        1 => KeptState::Making,
        2 => KeptState::Current,
        _ => KeptState::Old,
    };
    Ok(Some(KeptJoin {
        id: row.get(0)?,
        call: row.get(1)?,
        size: row.get::<_, i64>(3)?.cast_unsigned(),
        sha256: Sha256(row.get(4)?),
        chunks,
        plan,
        attr,
        state,
        shown: row.get(9)?,
        legs: Vec::new(),
        objects: Vec::new(),
    }))
}

fn legs(connection: &Connection, id: i64) -> Sql<Vec<KeptLeg>> {
    let text = "SELECT node, size, mtime, erased FROM leg WHERE stored = ?1";
    let leg = |row: &Row<'_>| {
        let (size, mtime): (i64, i64) = (row.get(1)?, row.get(2)?);
        Ok(KeptLeg {
            node: NodeId(row.get::<_, i64>(0)?.cast_unsigned()),
            content: (size >= 0).then_some((size.cast_unsigned(), Timestamp(mtime))),
            erased: row.get(3)?,
        })
    };
    connection.prepare_cached(text)?.query_map([id], leg)?.collect()
}

fn objects(connection: &Connection, id: i64) -> Sql<Vec<KeptObject>> {
    let text = "SELECT target, key, state FROM object WHERE stored = ?1";
    let object = |row: &Row<'_>| {
        let state = match row.get::<_, i64>(2)? {
            1 => ObjectState::Assigned,
            2 => ObjectState::Verified,
            _ => ObjectState::Abandoned,
        };
        Ok(KeptObject { target: row.get(0)?, key: row.get(1)?, state })
    };
    connection.prepare_cached(text)?.query_map([id], object)?.collect()
}

#[cfg(test)]
mod tests {
    use super::super::plan::Options;
    use super::*;
    use crate::codec::{Audio, Coding};
    use crate::recording::Kind;

    fn join(call: &str, nodes: &[u64]) -> NewJoin {
        let leg = |node: &u64| Leg {
            node: NodeId(*node),
            path: format!("{node}.wav"),
            size: 100,
            mtime: Timestamp(5),
            start: None,
            side: None,
            audio: Ok(Audio {
                coding: Coding::Pcm16,
                rate: 8000,
                channels: 1,
                at: 44,
                samples: 28,
                frames: None,
            }),
        };
        let plan = Plan::new(nodes.iter().map(leg).collect(), &Options::default());
        let attr = Attr {
            kind: Kind::File,
            mode: 0o440,
            uid: 1,
            gid: 1,
            size: plan.len(),
            mtime: Timestamp(5),
            atime: Timestamp(5),
            ctime: Timestamp(5),
            nlink: 1,
            rdev: 0,
            blocks: 1,
            special: 0,
        };
        let sha256 = Sha256::of(format!("{nodes:?}").as_bytes());
        NewJoin { call: call.into(), plan, attr, sha256, chunks: ChunkHashes(vec![sha256]) }
    }

    fn states(kept: &Kept) -> Vec<(i64, KeptState)> {
        kept.after(0, 100).unwrap().iter().map(|join| (join.id, join.state)).collect()
    }

    #[test]
    fn a_key_is_given_out_once_and_a_call_has_one_join() {
        let dir = tempfile::tempdir().unwrap();
        let keys = ["a".to_owned(), "b".to_owned()];
        let kept = Kept::open(dir.path()).unwrap();
        let (first, of) = (join("1.1", &[1, 2]), [NodeId(1), NodeId(3)]);
        let id = kept.begin(&first).unwrap();
        let (object, before) = kept.assign(id, "one", &keys).unwrap();
        assert_eq!((object.key.as_str(), before), ("a", false));
        assert_eq!(kept.assign(id, "one", &keys).unwrap(), (object.clone(), true));
        assert_eq!(kept.source_of(first.plan.digest(), first.plan.len()), None, "it is not stored");
        kept.note(&object, ObjectState::Verified).unwrap();
        kept.stored(id).unwrap();
        assert_eq!(kept.begin(&first).unwrap(), id, "it is the same");

        // A late leg.
        let later = join("1.1", &[1, 2, 3]);
        let new = kept.begin(&later).unwrap();
        assert_eq!(kept.assign(new, "one", &keys).unwrap().0.key, "b");
        kept.assign(new, "two", &keys).unwrap();
        kept.stored(new).unwrap();
        assert_eq!(states(&kept), [(id, KeptState::Old), (new, KeptState::Current)]);
        kept.forget(id).unwrap();
        drop(kept);

        let kept = Kept::open(dir.path()).unwrap();
        assert_eq!(states(&kept), [(new, KeptState::Current)]);
        assert!(kept.is_of(&of).unwrap() && !kept.is_of(&[NodeId(4)]).unwrap());
        let other = kept.begin(&join("2.1", &[7, 8])).unwrap();
        assert!(kept.assign(other, "one", &keys).is_err(), "keys stay taken");

        assert!(kept.standing_in(b"1.1", of.into_iter()).unwrap().is_none());
        kept.show(new, true).unwrap();
        assert_eq!(kept.standing_in(b"1.1", [].into_iter()).unwrap().unwrap().id, new);
        assert_eq!(kept.standing_in(b"x", of.into_iter()).unwrap().unwrap().plan, later.plan);
        let source = kept.source_of(later.plan.digest(), later.plan.len()).unwrap();
        assert!(Kept::owns(source) && kept.objects_of(source).unwrap().len() == 2);
        kept.erased(&[NodeId(2)], true).unwrap();
        let legs = kept.after(0, 1).unwrap().remove(0).legs;
        assert_eq!(legs.iter().map(|leg| leg.erased).collect::<Vec<_>>(), [false, true, false]);
    }

    #[test]
    fn what_was_found_again_is_known_in_detail_when_it_is_made_again() {
        let dir = tempfile::tempdir().unwrap();
        let kept = Kept::open(dir.path()).unwrap();
        let (real, of) = (join("1.1", &[1, 2]), [NodeId(1), NodeId(2)]);
        let seen = NewJoin { plan: join("1.1", &[1]).plan, ..real.clone() };
        kept.found(&seen, &of, "one", "a").unwrap();
        kept.found(&seen, &of, "two", "a").unwrap();
        let found = kept.after(0, 10).unwrap();
        assert_eq!((found.len(), found[0].state), (1, KeptState::Current));
        assert!(found[0].legs.iter().all(|leg| leg.content.is_none()) && found[0].legs.len() == 2);
        assert_eq!(kept.begin(&real).unwrap(), found[0].id);
        let known = kept.after(0, 10).unwrap().remove(0);
        assert_eq!((known.plan, known.objects.len()), (real.plan, 2));
        assert!(known.legs.iter().all(|leg| leg.content == Some((100, Timestamp(5)))));
        assert!(kept.knows("two", "a").unwrap() && !kept.knows("two", "b").unwrap());
    }
}
