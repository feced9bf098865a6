//! Small settings kept in the catalog, its own identity among them.

use super::Catalog;
use super::error::Result;
use super::identity::Identity;
use crate::clock::Timestamp;
use rusqlite::{Connection, OptionalExtension};

const NODE: &str = "catalog.node";
const INSTANCE: &str = "catalog.instance";
const EPOCH: &str = "catalog.epoch";
/// When this catalog was begun in the place of one that knew more, in seconds since 1970.
const LOST: &str = "catalog.lost";
/// It was rebuilt from some of the targets only.
pub const PARTIAL: &str = "catalog.partial";

pub(super) fn get(conn: &Connection, key: &str) -> rusqlite::Result<Option<String>> {
    conn.prepare_cached("SELECT value FROM setting WHERE key = ?1")?
        .query_row([key], |r| r.get(0))
        .optional()
}

pub(super) fn set(conn: &Connection, key: &str, value: &str) -> rusqlite::Result<()> {
    conn.prepare_cached(
        "INSERT INTO setting(key, value) VALUES(?1, ?2) ON CONFLICT(key) DO UPDATE SET value = ?2",
    )?
    .execute([key, value])?;
    Ok(())
}

/// Every setting.
pub(super) fn all(conn: &Connection) -> rusqlite::Result<Vec<(String, String)>> {
    let mut statement = conn.prepare("SELECT key, value FROM setting")?;
    statement.query_map([], |r| Ok((r.get(0)?, r.get(1)?)))?.collect()
}

/// Whose database this is; `None` for a new one.
pub(super) fn identity(conn: &Connection) -> rusqlite::Result<Option<Identity>> {
    let (node, instance) = (get(conn, NODE)?, get(conn, INSTANCE)?);
    let epoch = get(conn, EPOCH)?.and_then(|e| e.parse().ok());
    Ok(match (node, instance, epoch) {
        (Some(node), Some(instance), Some(epoch)) => Some(Identity { node, instance, epoch }),
        _ => None,
    })
}

/// Says whose database this is.
pub(super) fn store_identity(conn: &Connection, identity: &Identity) -> rusqlite::Result<()> {
    set(conn, NODE, &identity.node)?;
    set(conn, INSTANCE, &identity.instance)?;
    set(conn, EPOCH, &identity.epoch.to_string())
}

/// Remembers that an earlier catalog knew more than this one.
pub(super) fn remember_loss(conn: &Connection, at: Timestamp) -> rusqlite::Result<()> {
    set(conn, LOST, &at.secs().to_string())
}

/// Whether the journals may know more than this catalog.
pub(super) fn is_partial(conn: &Connection) -> rusqlite::Result<bool> {
    Ok(get(conn, LOST)?.is_some() || get(conn, PARTIAL)?.is_some())
}

impl Catalog {
    /// Since when recordings may be missing that were released before: an earlier catalog is lost,
    /// or an older copy was put back, and it was not rebuilt since.
    ///
    /// # Errors
    /// `Unusable`.
    pub fn lost_since(&self) -> Result<Option<Timestamp>> {
        let secs = self.setting(LOST)?.and_then(|text| text.parse().ok());
        Ok(secs.map(|secs| Timestamp::from_parts(secs, 0)))
    }

    /// A small setting kept in the catalog, such as a target's archive identity.
    ///
    /// # Errors
    /// `Unusable`.
    pub fn setting(&self, key: &str) -> Result<Option<String>> {
        self.read_drained(|conn| get(conn, key))
    }

    /// Stores a small setting.
    ///
    /// # Errors
    /// `Unusable`.
    pub fn set_setting(&self, key: &str, value: &str) -> Result<()> {
        let (key, value) = (key.to_owned(), value.to_owned());
        self.shared.write(false, move |tx| set(tx.conn, &key, &value))
    }
}
