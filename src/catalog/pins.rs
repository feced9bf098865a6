//! What an operator wants to keep local: a setting for each, named by the node.

use super::Catalog;
use super::error::Result;
use super::sql_row::sql;
use crate::recording::NodeId;
use rusqlite::params;

const PREFIX: &str = "pin.";

/// Pins, by a range of the settings' primary key; of nodes that are still there.
pub(super) const PINNED: &str = "
    SELECT n.id FROM setting s JOIN node n ON n.id = CAST(substr(s.key, 5) AS INTEGER)
    WHERE s.key > 'pin.' AND s.key < 'pin/' AND n.state <> 5 LIMIT ?1";

impl Catalog {
    /// Pins a node, or ends that.
    ///
    /// # Errors
    /// `Unusable`.
    pub fn pin(&self, id: NodeId, pinned: bool) -> Result<()> {
        let key = format!("{PREFIX}{}", sql(id.0));
        self.shared.write(false, move |tx| {
            let text = match pinned {
                true => "INSERT OR IGNORE INTO setting(key, value) VALUES(?1, '1')",
                false => "DELETE FROM setting WHERE key = ?1",
            };
            tx.conn.prepare_cached(text)?.execute([&key])?;
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
