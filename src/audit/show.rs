//! The log for people: with the clear text, where it was not erased.

use super::chain::steadily;
use super::error::{Result, at};
use super::line::parse_time;
use super::names::Names;
use crate::clock::Timestamp;
use serde_json::Value;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};

/// What is shown of what was erased.
const ERASED: &str = "(erased)";

/// Which lines.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    /// Happened then or later.
    pub since: Option<Timestamp>,
    /// Happened before.
    pub until: Option<Timestamp>,
    /// Only of this recording: its path or its number.
    pub recording: Option<String>,
    /// At most so many, the newest.
    pub limit: usize,
}

/// The lines asked for, the oldest first.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Shown {
    /// Each as it is in the log, with clear texts in the place of pseudonyms.
    pub lines: Vec<Value>,
    /// There are older ones.
    pub more: bool,
}

/// Reads the log below `dir`.
///
/// # Errors
/// It can not be read, or there is none.
pub fn show(dir: &Path, filter: &Filter) -> Result<Shown> {
    steadily(dir, |all| of_files(dir, all, filter))
}

fn of_files(dir: &Path, all: Vec<(u64, PathBuf)>, filter: &Filter) -> Result<Shown> {
    // Without the table the log is shown as it is.
    let names = Names::look(dir).ok();
    let mut shown = std::collections::VecDeque::new();
    let mut more = false;
    for (_, path) in all {
        let file = std::fs::File::open(&path).map_err(at(&path))?;
        for line in BufReader::new(file).split(b'\n') {
            let line = line.map_err(at(&path))?;
            let Ok(mut value) = serde_json::from_slice::<Value>(&line) else { continue };
            if !filter.is_within(&value) {
                continue;
            }
            if let Some(names) = &names {
                reveal(&mut value, names)?;
            }
            if !filter.is_of(&value) {
                continue;
            }
            shown.push_back(value);
            if shown.len() > filter.limit {
                shown.pop_front();
                more = true;
            }
        }
    }
    Ok(Shown { lines: shown.into(), more })
}

impl Filter {
    fn is_within(&self, line: &Value) -> bool {
        if self.since.is_none() && self.until.is_none() {
            return true;
        }
        let Some(at) = line.get("at").and_then(Value::as_str).and_then(parse_time) else {
            return false;
        };
        self.since.is_none_or(|since| at >= since) && self.until.is_none_or(|until| at < until)
    }

    fn is_of(&self, line: &Value) -> bool {
        let Some(wanted) = &self.recording else { return true };
        let Some(recording) = line.get("recording") else { return false };
        let of = |key: &str| recording.get(key);
        of("path").and_then(Value::as_str) == Some(wanted)
            || of("id").and_then(Value::as_u64).is_some_and(|id| id.to_string() == *wanted)
    }
}

fn is_pseudonym(text: &str) -> bool {
    let kinds = ["path", "key", "name", "number", "text"];
    text.split_once(':').is_some_and(|(kind, digits)| {
        let hex = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
        kinds.contains(&kind) && digits.len() == 32 && digits.bytes().all(hex)
    })
}

fn reveal(value: &mut Value, names: &Names) -> Result<()> {
    match value {
        Value::String(text) if is_pseudonym(text) => {
            match names.text(text)? {
                Some(Some(clear)) => *text = String::from_utf8_lossy(&clear).into_owned(),
                Some(None) => *text = ERASED.to_owned(),
                None => {}
            }
            Ok(())
        }
        // What was erased is told by its pseudonym.
        Value::Object(all) => all
            .iter_mut()
            .filter(|(key, _)| *key != "pseudonyms")
            .try_for_each(|(_, one)| reveal(one, names)),
        Value::Array(all) => all.iter_mut().try_for_each(|one| reveal(one, names)),
        _ => Ok(()),
    }
}
