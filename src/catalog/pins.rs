//! What an operator wants to keep local: a setting for each, named by the node. The journal tells of
//! it, so that a rebuild brings it back.

use super::Catalog;
use super::encode::percent;
use super::error::Result;
use super::sql_row::{path_of, sql, unsigned};
use super::tx::Tx;
use crate::recording::NodeId;
use rusqlite::{Connection, params};
use serde_json::{Value, json};

const PREFIX: &str = "pin.";

/// Pins, by a range of the settings' primary key; of nodes that are still there.
pub(super) const PINNED: &str = "
    SELECT n.id FROM setting s JOIN node n ON n.id = CAST(substr(s.key, 5) AS INTEGER)
    WHERE s.key > 'pin.' AND s.key < 'pin/' AND n.state <> 5 LIMIT ?1";

const PIN: &str = "INSERT OR IGNORE INTO setting(key, value) VALUES(?1, '1')";
const UNPIN: &str = "DELETE FROM setting WHERE key = ?1";

fn key(id: NodeId) -> String {
    format!("{PREFIX}{}", sql(id.0))
}

/// What the journal says of one.
fn told(conn: &Connection, id: NodeId) -> rusqlite::Result<Value> {
    let path = path_of(conn, id)?.unwrap_or_default();
    Ok(json!({"id": id.0, "path": percent(&path)}))
}

/// What is pinned as the journal would tell of it, also of what is in the trash.
pub(super) fn all(conn: &Connection) -> rusqlite::Result<Vec<Value>> {
    let mut statement = conn.prepare(
        "SELECT n.id FROM setting s JOIN node n ON n.id = CAST(substr(s.key, 5) AS INTEGER)
         WHERE s.key > 'pin.' AND s.key < 'pin/' ORDER BY n.id",
    )?;
    let ids = statement.query_map([], |r| r.get(0).map(unsigned))?;
    ids.map(|id| told(conn, NodeId(id?))).collect()
}

/// Pins what a rebuild brought back, if it is there.
pub(super) fn restore(tx: &Tx<'_>, id: NodeId) -> rusqlite::Result<()> {
    if tx.node(id)?.is_some() {
        tx.conn.prepare_cached(PIN)?.execute([key(id)])?;
    }
    Ok(())
}

impl Catalog {
    /// Pins a node, or ends that.
    ///
    /// # Errors
    /// `Unusable`.
    pub fn pin(&self, id: NodeId, pinned: bool) -> Result<()> {
        self.shared.write(false, move |tx| {
            let (text, kind) = if pinned { (PIN, "pinned") } else { (UNPIN, "unpinned") };
            if tx.conn.prepare_cached(text)?.execute([key(id)])? > 0 {
                tx.journal_row(tx.now, kind, &told(tx.conn, id)?)?;
            }
            Ok(())
        })
    }

    /// The nodes that are pinned, at most `limit`.
    ///
    /// # Errors
    /// `Unusable`.
    pub fn pinned(&self, limit: usize) -> Result<Vec<NodeId>> {
        self.read_drained(|conn| {
            let mut statement = conn.prepare_cached(PINNED)?;
            let limit = i64::try_from(limit).unwrap_or(i64::MAX);
            let ids = statement.query_map(params![limit], |r| r.get::<_, i64>(0))?;
            ids.map(|id| id.map(|id| NodeId(id.cast_unsigned()))).collect()
        })
    }
}
