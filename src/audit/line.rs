//! One line of the log.

use super::error::{AuditError, Result};
use super::event::Entry;
use crate::clock::Timestamp;
use crate::recording::Sha256;
use serde::{Deserialize, Serialize};

/// What stands for the line before the first one.
pub(super) const NOTHING: Sha256 = Sha256([0; 32]);

/// Where a log ends: enough to tell whether it was changed up to there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Head {
    /// Which log, from its first line.
    pub chain: String,
    /// Number of the last line.
    pub seq: u64,
    /// SHA-256 of the last line, without its end.
    pub sha256: Sha256,
}

/// What every line has.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub(super) struct Link {
    pub seq: u64,
    pub prev: Sha256,
    pub at: String,
}

impl Link {
    /// Of a line without its end; nothing if it is none.
    pub fn of(line: &[u8]) -> Option<Link> {
        serde_json::from_slice(line).ok()
    }
}

/// An entry with its place in the log, without a line end. `to_pseudonym` is asked for each clear
/// text in it.
pub(super) fn compose(
    entry: &Entry,
    (seq, prev): (u64, Sha256),
    at: Timestamp,
    to_pseudonym: &mut dyn FnMut(&str, &[u8]) -> Result<String>,
) -> Result<String> {
    let unwritable = |e: serde_json::Error| AuditError::Unusable {
        path: "an event".into(),
        reason: e.to_string(),
    };
    let mut value = serde_json::to_value(entry).map_err(unwritable)?;
    hide(&mut value, to_pseudonym)?;
    let rest = serde_json::to_string(&value).map_err(unwritable)?;
    let rest = rest.get(1..).unwrap_or("}");
    Ok(format!("{{\"seq\":{seq},\"prev\":\"{prev}\",\"at\":\"{}\",{rest}", time(at)))
}

/// Puts pseudonyms in the place of every clear text.
fn hide(
    value: &mut serde_json::Value,
    to_pseudonym: &mut dyn FnMut(&str, &[u8]) -> Result<String>,
) -> Result<()> {
    use serde_json::Value;
    if let Some((kind, text)) = marked(value) {
        *value = Value::String(to_pseudonym(&kind, &text)?);
        return Ok(());
    }
    match value {
        Value::Array(all) => all.iter_mut().try_for_each(|one| hide(one, to_pseudonym)),
        Value::Object(all) => all.values_mut().try_for_each(|one| hide(one, to_pseudonym)),
        _ => Ok(()),
    }
}

fn marked(value: &serde_json::Value) -> Option<(String, Vec<u8>)> {
    let pair = value.get(super::event::MARK)?;
    let (kind, text): (String, String) = serde_json::from_value(pair.clone()).ok()?;
    Some((kind, hex::decode(text).ok()?))
}

/// RFC 3339 in UTC.
pub(super) fn time(at: Timestamp) -> String {
    jiff::Timestamp::from_nanosecond(i128::from(at.0)).unwrap_or_default().to_string()
}

/// Reads what [`time`] writes.
pub(super) fn parse_time(text: &str) -> Option<Timestamp> {
    let at: jiff::Timestamp = text.parse().ok()?;
    i64::try_from(at.as_nanosecond()).ok().map(Timestamp)
}
