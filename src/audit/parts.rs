//! The log as it is given to targets: part by part.

use super::chain::segments;
use super::check::Anchor;
use super::error::{Result, at};
use super::line::{Head, Link};
use crate::recording::Sha256;
use std::path::Path;

/// Lines that follow each other, all of one file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    /// Number of the first.
    pub first: u64,
    /// Number of the last.
    pub last: u64,
    /// The lines, with their ends.
    pub bytes: Vec<u8>,
}

/// The lines after number `after`, up to the end of their file, but not beyond `head`; those of a file that
/// may get more only if `unfinished`. Otherwise that file is not read.
///
/// # Errors
/// They can not be read.
pub fn next_part(dir: &Path, after: u64, head: &Head, unfinished: bool) -> Result<Option<Part>> {
    if after >= head.seq {
        return Ok(None);
    }
    let all = segments(dir).map_err(at(dir))?;
    for (n, (_, path)) in all.iter().enumerate() {
        let next = all.get(n + 1).map(|(first, _)| *first);
        if next.is_some_and(|first| first <= after + 1) || (next.is_none() && !unfinished) {
            continue;
        }
        let text = std::fs::read(path).map_err(at(path))?;
        let mut part = Part { first: 0, last: 0, bytes: Vec::new() };
        for line in text.split_inclusive(|b| *b == b'\n') {
            let Some(link) = line.strip_suffix(b"\n").and_then(Link::of) else { continue };
            if link.seq <= after || link.seq > head.seq {
                continue;
            }
            if part.first == 0 {
                part.first = link.seq;
            }
            part.last = link.seq;
            part.bytes.extend_from_slice(line);
        }
        if part.first > 0 {
            return Ok(Some(part));
        }
    }
    Ok(None)
}

/// What the lines of a part that a target has say of the log.
pub fn anchors_in(chain: &str, part: &[u8]) -> Vec<Anchor> {
    let of = |line: &[u8]| {
        let seq = Link::of(line)?.seq;
        Some(Anchor { chain: chain.to_owned(), seq, sha256: Sha256::of(line) })
    };
    part.split(|b| *b == b'\n').filter_map(of).collect()
}
