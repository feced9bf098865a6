//! Which lines are old enough to leave (`audit_keep`), and the files that they leave with.
//!
//! **Invariant:** lines leave only file by file, the oldest first, never the file that is written to,
//! and never before a later line tells their last number and its digest.

use super::chain::segments;
use super::error::{Result, at};
use super::line::{Link, parse_time};
use crate::clock::Timestamp;
use crate::recording::Sha256;
use std::io::{BufRead, BufReader};
use std::path::Path;

/// The oldest file of a log, if all of its lines may leave.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Leaving {
    /// Number of its first line.
    pub first: u64,
    /// Number of its last line.
    pub last: u64,
    /// SHA-256 of that.
    pub sha256: Sha256,
    /// When what its youngest line tells happened.
    pub newest: Timestamp,
}

/// The oldest file of the log below `dir`, if everything in it happened before `before` and another
/// file follows it.
///
/// # Errors
/// It can not be read.
pub fn leaving(dir: &Path, before: Timestamp) -> Result<Option<Leaving>> {
    let Some((next, bytes)) = oldest(dir)? else { return Ok(None) };
    let mut found: Option<Leaving> = None;
    for line in lines(&bytes) {
        // What is no line is for `verify` to tell of, and stays.
        let Some((seq, happened)) = told(line).filter(|(_, happened)| *happened < before) else {
            return Ok(None);
        };
        let (first, newest) =
            found.as_ref().map_or((seq, happened), |f| (f.first, f.newest.max(happened)));
        found = Some(Leaving { first, last: seq, sha256: Sha256::of(line), newest });
    }
    Ok(found.filter(|found| found.last + 1 == next))
}

/// The line of the oldest file that keeps it longest, number and time, if that is later than `now` and
/// another file follows.
///
/// # Errors
/// It can not be read.
pub fn ahead(dir: &Path, now: Timestamp) -> Result<Option<(u64, Timestamp)>> {
    let Some((_, bytes)) = oldest(dir)? else { return Ok(None) };
    let latest = lines(&bytes).filter_map(told).max_by_key(|(_, happened)| *happened);
    Ok(latest.filter(|(_, happened)| now < *happened))
}

/// What the oldest file holds that another follows, and the number of the first line of that.
fn oldest(dir: &Path) -> Result<Option<(u64, Vec<u8>)>> {
    let all = segments(dir).map_err(at(dir))?;
    for pair in all.windows(2) {
        let [(_, path), (next, _)] = pair else { continue };
        let bytes = std::fs::read(path).map_err(at(path))?;
        // A start that was cut off left an empty one; it goes with the one after it.
        if !bytes.is_empty() {
            return Ok(Some((*next, bytes)));
        }
    }
    Ok(None)
}

fn lines(bytes: &[u8]) -> impl Iterator<Item = &[u8]> {
    bytes.split_inclusive(|b| *b == b'\n').map(|line| line.strip_suffix(b"\n").unwrap_or(line))
}

/// Number and time of a line.
fn told(line: &[u8]) -> Option<(u64, Timestamp)> {
    let link = Link::of(line)?;
    Some((link.seq, parse_time(&link.at)?))
}

/// Number of the first line that is there, as the name of its file tells.
///
/// # Errors
/// The directory can not be read.
pub fn first_line(dir: &Path) -> Result<Option<u64>> {
    Ok(segments(dir).map_err(at(dir))?.first().map(|(first, _)| *first))
}

/// Whether something of lines that left is still to be removed: their leaving was cut off.
///
/// # Errors
/// The directory can not be read.
pub fn is_cut_off(dir: &Path) -> Result<bool> {
    super::chain::has_left(dir).map_err(at(dir))
}

/// When the first line of the file that is written to happened.
///
/// # Errors
/// It can not be read.
pub fn file_begun(dir: &Path) -> Result<Option<Timestamp>> {
    let Some((_, path)) = segments(dir).map_err(at(dir))?.pop() else { return Ok(None) };
    let mut line = Vec::new();
    let file = std::fs::File::open(&path).map_err(at(&path))?;
    BufReader::new(file).read_until(b'\n', &mut line).map_err(at(&path))?;
    Ok(Link::of(&line).and_then(|link| parse_time(&link.at)))
}
