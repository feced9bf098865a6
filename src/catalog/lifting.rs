//! Holds that one user wants lifted, and that wait for another to lift them, too (`four_eyes`): a
//! setting for each, named by the hold.

use super::Catalog;
use super::error::Result;
use super::settings;
use crate::clock::Timestamp;
use rusqlite::Connection;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

const PREFIX: &str = "lift.";

/// By a range of the settings' primary key.
const ASKED: &str = "
    SELECT CAST(substr(key, 6) AS INTEGER), value FROM setting
    WHERE key > 'lift.' AND key < 'lift/'";

/// Who wants a hold lifted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LiftRequest {
    /// The user, by number.
    pub user: u32,
    /// The same in words.
    pub by: String,
    /// When, in nanoseconds since 1970.
    pub at: Timestamp,
    /// Why.
    pub reason: String,
}

fn key(hold: u64) -> String {
    format!("{PREFIX}{hold}")
}

impl Catalog {
    /// Holds that somebody wants lifted, by number.
    ///
    /// # Errors
    /// `Unusable`.
    pub fn lift_requests(&self) -> Result<BTreeMap<u64, LiftRequest>> {
        self.read_drained(|conn| {
            let mut statement = conn.prepare_cached(ASKED)?;
            let rows = statement.query_map([], |r| {
                Ok((r.get::<_, i64>(0)?.cast_unsigned(), r.get::<_, String>(1)?))
            })?;
            let rows = rows.collect::<rusqlite::Result<Vec<(u64, String)>>>()?;
            // One that can not be read was never made.
            let known =
                |(hold, text): (u64, String)| Some((hold, serde_json::from_str(&text).ok()?));
            Ok(rows.into_iter().filter_map(known).collect())
        })
    }

    /// Somebody wants a hold lifted: on the disk when it returns.
    ///
    /// # Errors
    /// `Unusable`.
    pub fn request_lift(&self, hold: u64, request: &LiftRequest) -> Result<()> {
        let text = serde_json::to_string(request).unwrap_or_default();
        self.shared.write(true, move |tx| settings::set(tx.conn, &key(hold), &text))
    }
}

/// The hold is lifted.
pub(super) fn done(conn: &Connection, hold: u64) -> rusqlite::Result<()> {
    conn.prepare_cached("DELETE FROM setting WHERE key = ?1")?.execute([key(hold)]).map(drop)
}
