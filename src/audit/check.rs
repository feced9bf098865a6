//! Checks a log: by itself, and against what targets know of it.

use super::chain::{head, name_of, name_within, steadily};
use super::error::{AuditError, Result, at};
use super::line::{Head, Link, NOTHING, parse_time};
use crate::limits;
use crate::recording::Sha256;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::iter::Peekable;
use std::path::{Path, PathBuf};

/// The digest that a line had when a target was told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Anchor {
    /// Which log.
    pub chain: String,
    /// Which line.
    pub seq: u64,
    /// Its SHA-256.
    pub sha256: Sha256,
}

/// What is wrong at a place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Fault {
    /// The line is not what it was, or no line at all.
    Altered,
    /// Lines before this place are missing.
    Missing,
    /// Two lines have changed places.
    Swapped,
    /// The line does not belong here.
    OutOfPlace,
    /// The last line is cut; the next start of spoolfs sets it aside and says so.
    Torn,
    /// Lines at the end are missing.
    EndMissing,
    /// The line is not the one that a target was told of.
    Rewritten,
    /// A target knows lines that are not here any more.
    TargetKnowsMore,
    /// A target knows another log of this machine, which is not here.
    OtherLog,
    /// A target was told nothing of this log.
    NotAnchored,
    /// A target's copies of the lines can not be compared: they are sealed, and there is no key.
    Sealed,
}

/// One thing that is wrong, and where.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// What.
    pub fault: Fault,
    /// The file.
    pub file: String,
    /// The line in it, from 1.
    pub line: u64,
    /// Number of the line in the log; of the first one, if they are missing.
    pub seq: u64,
    /// In words.
    pub detail: String,
}

/// Lines that are no more at the beginning, by `audit_keep`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Left {
    /// Number of the last of them.
    pub last: u64,
    /// Its SHA-256.
    pub sha256: Sha256,
    /// When they left.
    pub at: String,
    /// What `audit_keep` was then.
    pub audit_keep: String,
    /// Number of the line that tells it.
    pub seq: u64,
}

/// What a line tells by which others left.
#[derive(Deserialize)]
struct Told {
    chain: String,
    node: String,
    last: u64,
    sha256: Sha256,
    newest: String,
    audit_keep: String,
}

/// What came of a check.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Verdict {
    /// Nothing is wrong.
    pub valid: bool,
    /// The name of the log.
    pub chain: Option<String>,
    /// The machine that it is of.
    pub node: Option<String>,
    /// Number of the first line.
    pub first: u64,
    /// Lines that were read.
    pub lines: u64,
    /// Files that were read.
    pub files: u64,
    /// Number of the last line.
    pub last: u64,
    /// SHA-256 of the last line.
    pub sha256: Option<Sha256>,
    /// Lines that were compared with what a target was told.
    pub compared: u64,
    /// The last line of those that is as it was.
    pub anchored: Option<u64>,
    /// What is wrong.
    pub findings: Vec<Finding>,
    /// Findings that are not named.
    pub more: u64,
    /// Lines that left, if the log does not begin with line 1.
    pub left: Option<Left>,
    /// Ends that crashes had cut, and that were set aside, on record.
    pub torn: u64,
    /// Events that are lost, on record.
    pub lost: u64,
}

impl Verdict {
    /// Something else is wrong.
    pub fn add(&mut self, finding: Finding) {
        self.valid = false;
        let same =
            |f: &Finding| (&f.file, f.line, f.seq) == (&finding.file, finding.line, finding.seq);
        if self.findings.iter().any(same) {
            return;
        }
        if self.findings.len() < limits::AUDIT_FINDINGS_MAX {
            self.findings.push(finding);
        } else {
            self.more += 1;
        }
    }
}

/// A line as it is in a file.
struct Found {
    file: String,
    line: u64,
    sha256: Sha256,
    link: Option<Link>,
    whole: bool,
    text: Vec<u8>,
}

/// All lines of all files, in order.
struct Lines {
    files: std::vec::IntoIter<PathBuf>,
    open: Option<(String, u64, BufReader<File>)>,
    count: u64,
}

impl Lines {
    fn next_line(&mut self) -> Result<Option<Found>> {
        loop {
            let Some((file, number, reader)) = &mut self.open else {
                let Some(path) = self.files.next() else { return Ok(None) };
                let file = File::open(&path).map_err(at(&path))?;
                let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
                self.open = Some((name, 0, BufReader::with_capacity(1 << 20, file)));
                self.count += 1;
                continue;
            };
            let mut text = Vec::new();
            let most = limits::AUDIT_LINE_BYTES_MAX as u64;
            let read = std::io::Read::take(&mut *reader, most).read_until(b'\n', &mut text);
            if read.map_err(at(Path::new(file)))? == 0 {
                self.open = None;
                continue;
            }
            *number += 1;
            let whole = text.last() == Some(&b'\n');
            if whole {
                text.pop();
            }
            let (file, line) = (file.clone(), *number);
            let (sha256, link) = (Sha256::of(&text), Link::of(&text));
            return Ok(Some(Found { file, line, sha256, link, whole, text }));
        }
    }
}

impl Iterator for Lines {
    type Item = Result<Found>;

    fn next(&mut self) -> Option<Result<Found>> {
        self.next_line().transpose()
    }
}

/// Where the check has come.
struct Walk<'a> {
    verdict: Verdict,
    /// Number that the next line should have.
    expected: u64,
    /// What the next line should hold; nothing if the last line was no longer what it was.
    prev: Option<Sha256>,
    last: Option<(String, u64, u64)>,
    head: Option<Head>,
    /// A target was told of another line.
    rewritten: bool,
    /// What the first line holds, if that is not line 1: file, number, and digest of the one before.
    begins: Option<(String, u64, Sha256)>,
    /// By what lines of the log others left.
    left: Vec<Left>,
    anchors: &'a BTreeMap<u64, Vec<Sha256>>,
}

/// Checks the log below `dir`, and compares it with what targets were told of it.
///
/// # Errors
/// It can not be read, or there is none.
pub fn verify(dir: &Path, anchors: &[Anchor]) -> Result<Verdict> {
    steadily(dir, |all| look(dir, all, anchors))
}

/// What is to be said of these files of the log.
pub(super) fn look(dir: &Path, all: Vec<(u64, PathBuf)>, anchors: &[Anchor]) -> Result<Verdict> {
    let head = head(dir);
    if all.is_empty() && head.is_none() {
        return Err(AuditError::Missing(dir.to_owned()));
    }
    let named = all.first().and_then(|(_, path)| first_line(path)).and_then(|l| name_of(&l));
    let (chain, node) = named.map_or((None, None), |(chain, node)| (Some(chain), Some(node)));
    let first = all.first().map_or(1, |(first, _)| *first);
    // Only the name of the file tells how the log begins that does not begin with line 1.
    let within = |known: Option<String>| match known {
        None if first > 1 => name_within(&all).map(|(chain, _)| chain),
        known => known,
    };
    let chain = within(chain.or(head.as_ref().map(|h| h.chain.clone())));
    let mut ours: BTreeMap<u64, Vec<Sha256>> = BTreeMap::new();
    for anchor in anchors.iter().filter(|a| Some(&a.chain) == chain.as_ref()) {
        ours.entry(anchor.seq).or_default().push(anchor.sha256);
    }
    let files: Vec<PathBuf> = all.into_iter().map(|(_, path)| path).collect();
    let mut lines = Lines { files: files.into_iter(), open: None, count: 0 }.peekable();
    let verdict = Verdict { valid: true, chain, node, first, ..Verdict::default() };
    let mut walk = Walk {
        verdict,
        expected: first,
        // What stood before the first line is compared with what is told of it, at the end.
        prev: (first == 1).then_some(NOTHING),
        last: None,
        head,
        rewritten: false,
        begins: None,
        left: Vec::new(),
        anchors: &ours,
    };
    let mut files = 0;
    let mut file = String::new();
    while let Some(found) = lines.next() {
        let found = found?;
        if found.file != file {
            file.clone_from(&found.file);
            files += 1;
        }
        walk.line(found, &mut lines)?;
    }
    walk.verdict.files = files;
    walk.end();
    Ok(walk.verdict)
}

/// Whether what a line tells of others that left fits together: nothing leaves that is younger than
/// `audit_keep`, or than the least that this can be.
fn may_leave(told: &Told, at: &str) -> bool {
    let Ok(keep) = crate::units::parse_duration(&told.audit_keep) else { return false };
    let times = parse_time(at).zip(parse_time(&told.newest));
    keep >= limits::AUDIT_KEEP_LEAST
        && times.is_some_and(|(left, newest)| newest.plus(keep) <= left)
}

fn first_line(path: &Path) -> Option<Vec<u8>> {
    let mut line = Vec::new();
    BufReader::new(File::open(path).ok()?).read_until(b'\n', &mut line).ok()?;
    line.strip_suffix(b"\n").map(<[u8]>::to_vec)
}

impl Walk<'_> {
    fn add(&mut self, fault: Fault, at: (&str, u64, u64), detail: impl Into<String>) {
        let (file, line, seq) = (at.0.to_owned(), at.1, at.2);
        self.verdict.add(Finding { fault, file, line, seq, detail: detail.into() });
    }

    fn line(&mut self, found: Found, rest: &mut Peekable<Lines>) -> Result<()> {
        self.verdict.lines += 1;
        let (file, line) = (found.file.as_str(), found.line);
        let expected = self.expected;
        if !found.whole && rest.peek().is_none() {
            let bytes = found.text.len();
            self.add(Fault::Torn, (file, line, expected), format!("it ends after {bytes} bytes"));
            return Ok(());
        }
        let Some(link) = found.link.clone() else {
            self.add(Fault::Altered, (file, line, expected), "it is no line of a log");
            self.accept(&found, false);
            return Ok(());
        };
        if self.verdict.lines == 1 && expected > 1 {
            self.begins = Some((file.to_owned(), expected, link.prev));
        }
        let next = match rest.peek() {
            Some(Ok(next)) => Some((next.link.clone(), next.sha256)),
            Some(Err(error)) => return Err(error.clone()),
            None => None,
        };
        let next_link = next.as_ref().and_then(|(link, _)| link.as_ref());
        let fits = self.prev.is_none_or(|prev| prev == link.prev);
        let sure = self.prev.is_some();
        match link.seq {
            seq if seq == expected && fits => self.accept(&found, true),
            seq if seq == expected => self.broken(&found, next_link.map(|l| l.prev)),
            seq if sure && fits => {
                let detail = format!("its number is {seq}, and should be {expected}");
                self.add(Fault::Altered, (file, line, expected), detail);
                self.accept(&found, false);
            }
            seq if seq == expected + 1 && next_link.is_some_and(|l| l.seq == expected) => {
                let detail = format!("line {seq} stands before line {expected}");
                self.add(Fault::Swapped, (file, line, seq), detail);
                if let Some(other) = rest.next().transpose()? {
                    self.verdict.lines += 1;
                    self.accept(&other, false);
                }
                self.accept(&found, false);
            }
            seq if seq > expected => {
                let detail = format!("lines {expected} to {} are missing here", seq - 1);
                self.add(Fault::Missing, (file, line, expected), detail);
                self.expected = seq;
                self.accept(&found, true);
            }
            seq => {
                let detail = format!("line {seq} stands where line {expected} should");
                self.add(Fault::OutOfPlace, (file, line, seq), detail);
            }
        }
        self.note(&found.text, &link);
        Ok(())
    }

    /// A line with the right number that does not fit the one before: which of them was changed?
    /// The one that nobody vouches for.
    fn broken(&mut self, found: &Found, vouched: Option<Sha256>) {
        let at_head = self.head.as_ref().filter(|head| head.seq == self.expected);
        let vouched = vouched.or(at_head.map(|head| head.sha256));
        match self.last.clone() {
            Some((file, line, seq)) if vouched == Some(found.sha256) => {
                let detail = "the line after it holds another digest of it";
                self.add(Fault::Altered, (&file, line, seq), detail);
                self.accept(found, true);
            }
            _ => {
                let detail = "it does not hold the digest of the line before";
                let at = (found.file.as_str(), found.line, self.expected);
                self.add(Fault::Altered, at, detail);
                self.accept(found, false);
            }
        }
    }

    /// Goes on after a line; it is `sure` if it is what it was, as far as is known.
    fn accept(&mut self, found: &Found, sure: bool) {
        let seq = self.expected;
        if let Some(told) = self.anchors.get(&seq) {
            self.verdict.compared += 1;
            let other = told.iter().find(|told| **told != found.sha256);
            match other {
                None if !self.rewritten => self.verdict.anchored = Some(seq),
                Some(told) if !self.rewritten => {
                    self.rewritten = true;
                    let since = self.verdict.anchored.map_or(self.verdict.first, |last| last + 1);
                    let detail = format!(
                        "the target was told {told} of it: lines {since} to {seq} were changed, \
                         or some of them"
                    );
                    self.add(Fault::Rewritten, (&found.file, found.line, seq), detail);
                }
                _ => {}
            }
        }
        self.prev = sure.then_some(found.sha256);
        self.last = Some((found.file.clone(), found.line, seq));
        self.verdict.sha256 = Some(found.sha256);
        self.expected += 1;
    }

    /// What is told in the log of the log itself.
    fn note(&mut self, text: &[u8], link: &Link) {
        let is = |event: &[u8]| text.windows(event.len()).any(|part| part == event);
        let told = || serde_json::from_slice::<serde_json::Value>(text).ok();
        if is(b"\"event\":\"torn_tail\"") {
            self.verdict.torn += 1;
        } else if is(b"\"event\":\"gap\"")
            && let Some(lost) = told().and_then(|line| line.get("details")?.get("lost")?.as_u64())
        {
            self.verdict.lost += lost;
        } else if is(b"\"event\":\"lines_left\"")
            && let Some(told) = told()
                .and_then(|line| serde_json::from_value::<Told>(line.get("details")?.clone()).ok())
            && Some(&told.chain) == self.verdict.chain.as_ref()
            && may_leave(&told, &link.at)
        {
            self.verdict.node.get_or_insert(told.node);
            let Told { last, sha256, audit_keep, .. } = told;
            self.left.push(Left { last, sha256, at: link.at.clone(), audit_keep, seq: link.seq });
        }
    }

    /// How the log begins: with line 1, with what follows the lines that left, or somebody removed
    /// the beginning.
    fn beginning(&mut self) {
        let Some((file, first, prev)) = self.begins.take() else { return };
        let (place, before) = ((file.as_str(), 1, first), first - 1);
        let told = self.left.iter().filter(|left| left.last == before);
        let Some(left) = told.clone().find(|left| left.sha256 == prev).or(told.clone().next())
        else {
            let known = self.left.iter().map(|left| left.last).filter(|last| *last < before).max();
            let since = known.map_or(1, |last| last + 1);
            let detail =
                format!("lines {since} to {before} are missing here, and no line tells why");
            self.add(Fault::Missing, (&file, 1, since), detail);
            return;
        };
        let left = left.clone();
        if left.sha256 != prev {
            let detail = format!("it does not hold the digest that line {} tells of", left.seq);
            self.add(Fault::Altered, place, detail);
        }
        let other = |told: &&Sha256| **told != left.sha256;
        if let Some(told) = self.anchors.get(&before).and_then(|all| all.iter().find(other)) {
            let detail = format!("the target was told {told} of line {before}, which left");
            self.add(Fault::Rewritten, place, detail);
        } else if !self.anchors.is_empty()
            && !self.rewritten
            && self.verdict.anchored.is_none_or(|anchored| anchored < left.seq)
        {
            let seq = left.seq;
            let detail = format!(
                "lines 1 to {before} are missing here: line {seq} says that they left, and the target \
                 was told nothing of that"
            );
            self.add(Fault::Missing, (&file, 1, before), detail);
        }
        self.verdict.left = Some(left);
    }

    fn end(&mut self) {
        self.beginning();
        let last = self.expected - 1;
        self.verdict.last = last;
        let (file, line) =
            self.last.clone().map_or_else(Default::default, |(file, line, _)| (file, line));
        match self.head.clone() {
            Some(head) if head.seq > last => {
                let detail = format!("lines {} to {} at the end are missing", last + 1, head.seq);
                self.add(Fault::EndMissing, (&file, line + 1, last + 1), detail);
            }
            Some(head) if head.seq == last && self.verdict.sha256 != Some(head.sha256) => {
                let detail = "it is not what was written";
                self.add(Fault::Altered, (&file, line, last), detail);
            }
            _ => {}
        }
        if let Some((&known, _)) = self.anchors.last_key_value()
            && known > last
        {
            let detail = format!("the target was told of lines up to {known}");
            self.add(Fault::TargetKnowsMore, (&file, line + 1, last + 1), detail);
        }
    }
}
