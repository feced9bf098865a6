//! Putting legal holds on recordings and lifting them: in memory first, then in the database, with
//! the journal told in the same transaction.

use super::Catalog;
use super::encode::{percent, unpercent};
use super::error::Result;
use super::holds::{Closed, Holds};
use super::lifting;
use super::reads::lay;
use super::shared::Shared;
use super::sql_row::{self, path_of, sql, unsigned};
use super::tx::Tx;
use crate::clock::Timestamp;
use crate::recording::{NodeId, State};
use rusqlite::{Connection, OptionalExtension, Row, params};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::path::PathBuf;

/// What a hold was put on: recordings by their paths, or those that a query finds, now and later.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Scope {
    /// Paths as they were given, relative to the mount and percent-encoded.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub paths: Vec<String>,
    /// A number of either side, or its end.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub number: Option<String>,
    /// Campaign or in-group.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub campaign: Option<String>,
    /// Agent or user.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub agent: Option<String>,
    /// Linkedid or uniqueid.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub linkedid: Option<String>,
    /// Calls that began then or later, in nanoseconds since 1970.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub from: Option<Timestamp>,
    /// Calls that began before.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub to: Option<Timestamp>,
}

impl Scope {
    /// Of these paths.
    pub fn of_paths<'a>(paths: impl IntoIterator<Item = &'a std::path::Path>) -> Scope {
        use std::os::unix::ffi::OsStrExt;
        let paths = paths.into_iter().map(|p| percent(p.as_os_str().as_bytes())).collect();
        Scope { paths, ..Scope::default() }
    }

    /// The paths as they were given, relative to the mount.
    pub fn paths(&self) -> Vec<PathBuf> {
        self.paths.iter().filter_map(|p| unpercent(p)).map(sql_row::path_buf).collect()
    }

    /// Whether it also catches recordings made later.
    pub fn is_query(&self) -> bool {
        *self != Scope { paths: self.paths.clone(), ..Scope::default() }
    }
}

/// A hold to be put on recordings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewHold {
    /// The case it belongs to.
    pub case: String,
    /// Why.
    pub reason: String,
    /// Who asked for it.
    pub by: String,
    /// What it is put on.
    pub scope: Scope,
}

/// The end of a hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lifted {
    /// When.
    pub at: Timestamp,
    /// By whom.
    pub by: String,
    /// Why.
    pub reason: String,
}

/// A hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hold {
    /// Its number, never given twice.
    pub id: u64,
    /// The case it belongs to.
    pub case: String,
    /// Why.
    pub reason: String,
    /// Who asked for it.
    pub by: String,
    /// When.
    pub at: Timestamp,
    /// What it was put on.
    pub scope: Scope,
    /// Its end, if it was lifted.
    pub lifted: Option<Lifted>,
    /// Recordings that it is, or was, on.
    pub recordings: u64,
}

/// A recording that a hold is, or was, on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeldRow {
    /// Which.
    pub node: NodeId,
    /// Where it is, or was last.
    pub path: Option<PathBuf>,
    /// Where it stands; `None`: it is not there.
    pub state: Option<State>,
    /// Since when it is held.
    pub since: Timestamp,
    /// It is not known yet whether the hold means it.
    pub provisional: bool,
}

const HOLD: &str = "h.id, h.name, h.reason, h.by_whom, h.at, h.scope, h.lifted_at, h.lifted_by, \
     h.lifted_why, (SELECT count(*) FROM held d WHERE d.hold = h.id)";

fn hold(row: &Row<'_>) -> rusqlite::Result<Hold> {
    let scope: String = row.get(5)?;
    let lifted = sql_row::time_opt(row, 6)?
        .map(|at| Ok::<_, rusqlite::Error>(Lifted { at, by: row.get(7)?, reason: row.get(8)? }));
    Ok(Hold {
        id: unsigned(row.get(0)?),
        case: row.get(1)?,
        reason: row.get(2)?,
        by: row.get(3)?,
        at: sql_row::time(row, 4)?,
        // Fields of a newer program are passed over, and leave the rest as it is.
        scope: serde_json::from_str(&scope).unwrap_or_default(),
        lifted: lifted.transpose()?,
        recordings: unsigned(row.get(9)?),
    })
}

impl Catalog {
    /// What is held, in memory.
    pub fn holds(&self) -> &Holds {
        &self.shared.holds
    }

    /// Whether a hold is on a recording: it is not to be deleted, nor replaced. Waits for nothing.
    pub fn is_held(&self, id: NodeId) -> bool {
        self.shared.holds.has(id)
    }

    /// Reads what is held, if that could not be done at the start.
    ///
    /// # Errors
    /// `Unusable`.
    pub fn know_holds(&self) -> Result<()> {
        let holds = &self.shared.holds;
        if holds.is_whole() {
            return Ok(());
        }
        let _changing = holds.changing.lock();
        let now = self.shared.options.clock.now();
        self.read_drained(|conn| holds.read(conn, now))?;
        self.keep_list();
        Ok(())
    }

    /// While the answer is kept, no hold is put on anything, nor lifted. Not to be kept for long.
    pub fn no_holds_change(&self) -> parking_lot::MutexGuard<'_, ()> {
        self.shared.holds.changing.lock()
    }

    /// Puts a new hold on recordings, on the disk when it returns. They can not be deleted from the
    /// moment on that this is called. Its number.
    ///
    /// # Errors
    /// `Unusable`; nothing is held then that was not before.
    pub fn put_hold(&self, new: &NewHold, nodes: &[NodeId]) -> Result<u64> {
        self.know_holds()?;
        let holds = &self.shared.holds;
        let _changing = holds.changing.lock();
        let stored = self.read_drained(|conn| {
            conn.prepare_cached("SELECT max(id) FROM hold")?
                .query_row([], |r| r.get::<_, Option<i64>>(0))
        })?;
        let id = holds.last().max(stored.map_or(0, unsigned)).saturating_add(1);
        let (new, case) = (new.clone(), new.case.clone());
        let write = move |tx: &Tx<'_>, fresh: &[NodeId]| {
            store(tx, id, &new)?;
            fresh.iter().try_for_each(|node| hold_one(tx, id, *node, false))
        };
        self.hold_in_memory(id, &case, nodes, write)?;
        Ok(id)
    }

    /// Puts a hold on further recordings. `provisional`: it is not known yet whether it means them.
    /// How many it was not on before.
    ///
    /// # Errors
    /// `Unusable`.
    pub fn hold_also(&self, hold: &Hold, nodes: &[NodeId], provisional: bool) -> Result<usize> {
        self.know_holds()?;
        let _changing = self.shared.holds.changing.lock();
        let id = hold.id;
        let active = "SELECT 1 FROM hold WHERE id = ?1 AND lifted_at IS NULL";
        let is_on = self.read_drained(|conn| conn.prepare_cached(active)?.exists([sql(id)]))?;
        if !is_on {
            return Ok(0);
        }
        let write = move |tx: &Tx<'_>, fresh: &[NodeId]| {
            fresh.iter().try_for_each(|node| hold_one(tx, id, *node, provisional))
        };
        self.hold_in_memory(id, &hold.case, nodes, write)
    }

    fn hold_in_memory(
        &self,
        id: u64,
        case: &str,
        nodes: &[NodeId],
        write: impl Fn(&Tx<'_>, &[NodeId]) -> rusqlite::Result<()> + Send + 'static,
    ) -> Result<usize> {
        let holds = &self.shared.holds;
        let closed = nodes.iter().map(|node| Ok((*node, self.closed_at(*node)?)));
        let fresh = holds.put(id, case, &closed.collect::<Result<Vec<Closed>>>()?);
        let count = fresh.len();
        let rows = fresh.clone();
        let written = self.shared.write(true, move |tx| write(tx, &rows));
        if let Err(error) = written {
            holds.take(id, Some(&fresh), None);
            return Err(error);
        }
        for node in &fresh {
            // Closed between the two looks.
            if let Ok(Some(at)) = self.closed_at(*node) {
                holds.was_closed(*node, at);
            }
        }
        self.keep_list();
        Ok(count)
    }

    /// The last close of a recording; `None` while somebody writes to it.
    fn closed_at(&self, id: NodeId) -> Result<Option<Timestamp>> {
        let row = self.node(id)?.filter(|row| row.state != State::Recording);
        Ok(row.and_then(|row| row.closed_at))
    }

    /// The hold means these recordings after all, as call records tell.
    ///
    /// # Errors
    /// `Unusable`.
    pub fn confirm_held(&self, hold: u64, nodes: &[NodeId]) -> Result<()> {
        let nodes = nodes.to_vec();
        self.shared.write(true, move |tx| {
            for node in &nodes {
                let changed = tx
                    .conn
                    .prepare_cached(
                        "UPDATE held SET provisional = 0
                         WHERE hold = ?1 AND node = ?2 AND provisional = 1",
                    )?
                    .execute([sql(hold), sql(node.0)])?;
                if changed > 0 {
                    tell_held(tx, "held", hold, *node, false)?;
                }
            }
            Ok(())
        })
    }

    /// The hold does not mean these recordings, on which it was provisionally.
    ///
    /// # Errors
    /// `Unusable`.
    pub fn let_go_provisional(&self, hold: u64, nodes: &[NodeId]) -> Result<()> {
        let _changing = self.shared.holds.changing.lock();
        let all = nodes.to_vec();
        let gone = self.shared.write(true, move |tx| {
            let mut gone = Vec::new();
            for node in &all {
                let removed = tx
                    .conn
                    .prepare_cached(
                        "DELETE FROM held WHERE hold = ?1 AND node = ?2 AND provisional = 1",
                    )?
                    .execute([sql(hold), sql(node.0)])?;
                if removed > 0 {
                    tell_held(tx, "unheld", hold, *node, false)?;
                    gone.push(*node);
                }
            }
            Ok(gone)
        })?;
        self.shared.holds.take(hold, Some(&gone), None);
        self.keep_list();
        Ok(())
    }

    /// Lifts a hold. Recordings that others hold stay held. Tells whether it was on.
    ///
    /// # Errors
    /// `Unusable`; it is not lifted then.
    pub fn lift_hold(&self, id: u64, by: &str, reason: &str) -> Result<bool> {
        self.know_holds()?;
        let holds = &self.shared.holds;
        let _changing = holds.changing.lock();
        let (by, reason) = (by.to_owned(), reason.to_owned());
        let lifted = self.shared.write(true, move |tx| {
            let known = tx
                .conn
                .prepare_cached("SELECT lifted_at IS NULL FROM hold WHERE id = ?1")?
                .query_row([sql(id)], |r| r.get::<_, bool>(0))
                .optional()?;
            if known == Some(false) {
                return Ok(None);
            }
            tx.conn
                .prepare_cached(
                    "UPDATE hold SET lifted_at = ?2, lifted_by = ?3, lifted_why = ?4 WHERE id = ?1",
                )?
                .execute(params![sql(id), tx.now.0, by, reason])?;
            lifting::done(tx.conn, id)?;
            let body = json!({"hold": id, "by": by, "reason": reason});
            tx.journal_row(tx.now, "lifted", &body)?;
            Ok(Some(tx.now))
        })?;
        if lifted.is_some() {
            holds.take(id, None, lifted);
            self.keep_list();
        }
        Ok(lifted.is_some())
    }

    /// Every hold, the newest first. Those that only the list beside the database knows are not
    /// among them.
    ///
    /// # Errors
    /// `Unusable`.
    pub fn all_holds(&self) -> Result<Vec<Hold>> {
        self.read_drained(|conn| {
            let text = format!("SELECT {HOLD} FROM hold h ORDER BY h.id DESC");
            let mut statement = conn.prepare_cached(&text)?;
            statement.query_map([], hold)?.collect()
        })
    }

    /// Numbers of the holds of a case that are on.
    ///
    /// # Errors
    /// `Unusable`.
    pub fn holds_of_case(&self, case: &str) -> Result<Vec<u64>> {
        let mut found = self.read_drained(|conn| {
            let mut statement = conn.prepare_cached(
                "SELECT id FROM hold WHERE name = ?1 AND lifted_at IS NULL ORDER BY id",
            )?;
            let ids = statement.query_map([case], |r| r.get(0).map(unsigned))?;
            ids.collect::<rusqlite::Result<Vec<u64>>>()
        })?;
        // Of a database that is lost.
        found.extend(self.shared.holds.of_case(case));
        found.sort_unstable();
        found.dedup();
        Ok(found)
    }

    /// The holds that are on a recording.
    ///
    /// # Errors
    /// `Unusable`.
    pub fn holds_on(&self, node: NodeId) -> Result<Vec<Hold>> {
        self.read_drained(|conn| {
            let text = format!(
                "SELECT {HOLD} FROM held d JOIN hold h ON h.id = d.hold
                 WHERE d.node = ?1 AND h.lifted_at IS NULL ORDER BY h.id"
            );
            let mut statement = conn.prepare_cached(&text)?;
            statement.query_map([sql(node.0)], hold)?.collect()
        })
    }

    /// Recordings that a hold is, or was, on: at most `limit` behind `after`.
    ///
    /// # Errors
    /// `Unusable`.
    pub fn held_by(&self, hold: u64, after: NodeId, limit: usize) -> Result<Vec<HeldRow>> {
        self.read_drained(|conn| {
            let mut statement = conn.prepare_cached(
                "SELECT d.node, d.since, d.provisional, n.state, n.path
                 FROM held d INDEXED BY held_hold LEFT JOIN node n ON n.id = d.node
                 WHERE d.hold = ?1 AND d.node > ?2 ORDER BY d.node LIMIT ?3",
            )?;
            let limit = i64::try_from(limit).unwrap_or(i64::MAX);
            let rows = statement.query_map(params![sql(hold), sql(after.0), limit], |r| {
                let node = NodeId(unsigned(r.get(0)?));
                let buried: Option<Vec<u8>> = r.get(4)?;
                let state: Option<i64> = r.get(3)?;
                let path = match buried {
                    Some(path) => Some(path),
                    None => path_of(conn, node)?,
                };
                Ok(HeldRow {
                    node,
                    path: path.map(sql_row::path_buf),
                    state: state.and_then(State::from_code),
                    since: sql_row::time(r, 1)?,
                    provisional: r.get(2)?,
                })
            })?;
            rows.collect()
        })
    }

    /// The database has it; the list is for the day that it can not be had.
    fn keep_list(&self) {
        if let Err(error) = self.shared.holds.store() {
            tracing::error!(%error, "the list of held recordings in the state directory can not be written");
        }
    }
}

/// Reads what is held, before anything is served: from the list, and from the database if it can
/// be used; closes that are only logged yet count too.
pub(super) fn load(shared: &Shared, conn: Option<&Connection>) {
    let holds = &shared.holds;
    holds.load();
    let Some(conn) = conn else { return };
    let read = || -> rusqlite::Result<()> {
        holds.read(conn, shared.options.clock.now())?;
        let overlay = shared.overlay.read();
        for id in holds.ids() {
            let effects = overlay.effects(id);
            if effects.is_empty() {
                continue;
            }
            let stored = sql_row::load(conn, id)?.map(|stored| stored.node);
            let row = lay(&effects, 0, id, stored).map(|node| node.row);
            let closed = row.filter(|row| row.state != State::Recording);
            holds.set_closed(id, closed.and_then(|row| row.closed_at));
        }
        Ok(())
    };
    if let Err(error) = read() {
        tracing::error!(%error, "what is on legal hold is known from its list alone for now");
    }
}

fn store(tx: &Tx<'_>, id: u64, new: &NewHold) -> rusqlite::Result<()> {
    let scope = serde_json::to_value(&new.scope)
        .map_err(|e| rusqlite::Error::ToSqlConversionFailure(Box::new(e)))?;
    tx.conn
        .prepare_cached(
            "INSERT INTO hold(id, name, reason, by_whom, at, scope) VALUES(?1, ?2, ?3, ?4, ?5, ?6)",
        )?
        .execute(params![sql(id), new.case, new.reason, new.by, tx.now.0, scope.to_string()])?;
    let body = told(id, new, &scope);
    tx.journal_row(tx.now, "hold", &body)
}

fn told(id: u64, new: &NewHold, scope: &Value) -> Value {
    let (case, reason, by) = (&new.case, &new.reason, &new.by);
    json!({"hold": id, "case": case, "reason": reason, "by": by, "scope": scope})
}

fn hold_one(tx: &Tx<'_>, hold: u64, node: NodeId, provisional: bool) -> rusqlite::Result<()> {
    let added = tx
        .conn
        .prepare_cached(
            "INSERT OR IGNORE INTO held(node, hold, since, provisional) VALUES(?1, ?2, ?3, ?4)",
        )?
        .execute(params![sql(node.0), sql(hold), tx.now.0, provisional])?;
    if added > 0 { tell_held(tx, "held", hold, node, provisional) } else { Ok(()) }
}

fn tell_held(
    tx: &Tx<'_>,
    kind: &str,
    hold: u64,
    node: NodeId,
    provisional: bool,
) -> rusqlite::Result<()> {
    let path = path_of(tx.conn, node)?.unwrap_or_default();
    tx.journal_row(tx.now, kind, &told_held(hold, node, &path, provisional))
}

fn told_held(hold: u64, node: NodeId, path: &[u8], provisional: bool) -> Value {
    let mut body = json!({"id": node.0, "path": percent(path), "hold": hold});
    if provisional && let Some(body) = body.as_object_mut() {
        body.insert("provisional".to_owned(), true.into());
    }
    body
}

/// Whether there is, or was, a hold.
pub(super) fn any(conn: &Connection) -> rusqlite::Result<bool> {
    conn.query_row("SELECT EXISTS(SELECT 1 FROM hold)", [], |r| r.get(0))
}

/// Tells every hold as journal rows would, for a snapshot.
pub(super) fn tell_all<E: From<rusqlite::Error>>(
    conn: &Connection,
    line: &mut dyn FnMut(Timestamp, &str, &Value) -> std::result::Result<(), E>,
) -> std::result::Result<(), E> {
    let text = format!("SELECT {HOLD} FROM hold h ORDER BY h.id");
    let mut statement = conn.prepare(&text)?;
    let holds = statement.query_map([], hold)?.collect::<rusqlite::Result<Vec<Hold>>>()?;
    let mut held = conn.prepare(
        "SELECT d.node, d.since, d.provisional, n.path FROM held d INDEXED BY held_hold
         LEFT JOIN node n ON n.id = d.node WHERE d.hold = ?1 ORDER BY d.node",
    )?;
    for Hold { id, case, reason, by, at, scope, lifted, .. } in holds {
        let scope_told = serde_json::to_value(&scope).unwrap_or_default();
        line(at, "hold", &told(id, &NewHold { case, reason, by, scope }, &scope_told))?;
        let mut rows = held.query([sql(id)])?;
        while let Some(r) = rows.next()? {
            let node = NodeId(unsigned(r.get(0)?));
            let path = match r.get::<_, Option<Vec<u8>>>(3)? {
                Some(path) => Some(path),
                None => path_of(conn, node)?,
            };
            let path = path.unwrap_or_default();
            line(sql_row::time(r, 1)?, "held", &told_held(id, node, &path, r.get(2)?))?;
        }
        if let Some(Lifted { at, by, reason }) = lifted {
            line(at, "lifted", &json!({"hold": id, "by": by, "reason": reason}))?;
        }
    }
    Ok(())
}

/// Writes a hold that a rebuild brought back.
pub(super) fn restore(tx: &Tx<'_>, hold: &Hold, nodes: &[Restored]) -> rusqlite::Result<()> {
    let lifted = hold.lifted.as_ref();
    tx.conn
        .prepare_cached(
            "INSERT INTO hold(id, name, reason, by_whom, at, scope, lifted_at, lifted_by,
                lifted_why) VALUES(?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)",
        )?
        .execute(params![
            sql(hold.id),
            hold.case,
            hold.reason,
            hold.by,
            hold.at.0,
            serde_json::to_string(&hold.scope).unwrap_or_default(),
            lifted.map(|l| l.at.0),
            lifted.map(|l| &l.by),
            lifted.map(|l| &l.reason),
        ])?;
    for one in nodes {
        tx.conn
            .prepare_cached(
                "INSERT INTO held(node, hold, since, provisional) VALUES(?1, ?2, ?3, ?4)",
            )?
            .execute(params![sql(one.node.0), sql(hold.id), one.since.0, one.provisional])?;
    }
    Ok(())
}

/// A recording that a rebuilt hold is on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Restored {
    /// Which.
    pub node: NodeId,
    /// Since when.
    pub since: Timestamp,
    /// It is not known yet whether the hold means it.
    pub provisional: bool,
}
