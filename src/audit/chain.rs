//! The files of the log, and where it ends.
//!
//! **Invariant:** a line that was synced is never changed or moved here. Only what follows the last of
//! them, and was cut by a crash, is set aside; the log tells of it. Lines are removed only with whole
//! files from the beginning on, when a later line tells of it: a file gets another name first, by which
//! what is known of its lines is removed also if a crash comes between.

use super::error::{AuditError, Result, at};
use super::event::Event;
use super::line::{Head, Link, NOTHING};
use crate::faults;
use crate::recording::Sha256;
use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

const SUFFIX: &str = ".jsonl";
const ASIDE: &str = "aside";
const TORN: &str = "torn";
const TOLD: &str = "told";
const LEFT: &str = "left";
const HEAD: &str = "head.json";
const DIGITS: usize = 12;

/// The files of a log with the number of the first line of each, the oldest first.
pub(super) fn segments(dir: &Path) -> io::Result<Vec<(u64, PathBuf)>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir)? {
        let entry = entry?;
        let name = entry.file_name();
        let Some(stem) = name.to_str().and_then(|n| n.strip_suffix(SUFFIX)) else { continue };
        if stem.len() == DIGITS && stem.bytes().all(|b| b.is_ascii_digit()) {
            found.extend(stem.parse().ok().map(|first| (first, entry.path())));
        }
    }
    found.sort();
    Ok(found)
}

/// Reads the files of the log below `dir`, all of them or none: again, if the first ones left meanwhile.
pub(super) fn steadily<T>(
    dir: &Path,
    mut read: impl FnMut(Vec<(u64, PathBuf)>) -> Result<T>,
) -> Result<T> {
    let listed = || {
        segments(dir).map_err(|e| match e.kind() {
            io::ErrorKind::NotFound => AuditError::Missing(dir.to_owned()),
            _ => at(dir)(e),
        })
    };
    let begins = |all: &[(u64, PathBuf)]| all.first().map(|(first, _)| *first);
    loop {
        let all = listed()?;
        let first = begins(&all);
        let found = read(all);
        // Only so often as there are files.
        if begins(&listed()?) <= first {
            return found;
        }
    }
}

pub(super) fn segment(dir: &Path, first: u64) -> PathBuf {
    dir.join(format!("{first:0DIGITS$}{SUFFIX}"))
}

/// A file whose lines left.
struct Left {
    first: u64,
    last: u64,
    path: PathBuf,
}

fn left_path(dir: &Path, first: u64, last: u64) -> PathBuf {
    dir.join(format!("{first:0DIGITS$}-{last:0DIGITS$}.{LEFT}"))
}

/// Those that are still to be removed, the oldest first, and what is named as if it were one: its lines
/// are in the log, as after a backup that was taken while they left, or its name is none of ours.
fn left(dir: &Path) -> io::Result<(Vec<Left>, Vec<PathBuf>)> {
    let (mut found, mut strange) = (Vec::new(), Vec::new());
    let begins = segments(dir)?.first().map(|(first, _)| *first);
    for entry in std::fs::read_dir(dir)? {
        let path = entry?.path();
        if path.extension().is_none_or(|e| e != LEFT) {
            continue;
        }
        let stem = path.file_stem().and_then(|stem| stem.to_str()).unwrap_or_default();
        let numbers = stem.split_once('-').and_then(|(first, last)| {
            let (first, last) = (first.parse().ok()?, last.parse().ok()?);
            let is_before = first <= last && begins.is_some_and(|begins| last < begins);
            (is_before && left_path(dir, first, last) == path).then_some((first, last))
        });
        match numbers {
            Some((first, last)) => found.push(Left { first, last, path }),
            None => strange.push(path),
        }
    }
    found.sort_by_key(|left| left.last);
    Ok((found, strange))
}

/// Says which files seem to be of lines that left, and are left alone.
pub(super) fn warn_of_strange(dir: &Path) -> Result<()> {
    for path in left(dir).map_err(at(dir))?.1 {
        tracing::warn!(
            path = %path.display(),
            "it is named as if its lines had left the audit log, and they are in it, or it is none of \
             its files: it is left alone; remove it"
        );
    }
    Ok(())
}

/// Whether files of lines that left are still to be removed.
pub(super) fn has_left(dir: &Path) -> io::Result<bool> {
    Ok(!left(dir)?.0.is_empty())
}

/// Where the log was last known to end.
pub(super) fn head(dir: &Path) -> Option<Head> {
    serde_json::from_slice(&std::fs::read(dir.join(HEAD)).ok()?).ok()
}

/// The name of the log and of its machine, from its first line, or one by which lines left.
pub(super) fn name_of(line: &[u8]) -> Option<(String, String)> {
    let line: serde_json::Value = serde_json::from_slice(line).ok()?;
    let begun = matches!(line.get("event")?.as_str()?, "chain_begun" | "lines_left");
    let told = |what: &str| Some(line.get("details")?.get(what)?.as_str()?.to_owned());
    begun.then_some((told("chain")?, told("node")?))
}

/// The same, of a log whose first lines are no more: the last of its lines that tells it.
pub(super) fn name_within(segments: &[(u64, PathBuf)]) -> Option<(String, String)> {
    segments.iter().rev().find_map(|(_, path)| {
        let bytes = std::fs::read(path).ok()?;
        bytes.rsplit(|b| *b == b'\n').find_map(name_of)
    })
}

fn file_name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

fn sync_dir(dir: &Path) -> io::Result<()> {
    faults::fail("audit.sync_dir")?;
    File::open(dir)?.sync_all()
}

/// Stands before every change of a file of the log.
fn may_change() -> io::Result<()> {
    Ok(faults::fail("audit.write")?)
}

/// A log that is written to.
pub(super) struct Chain {
    dir: PathBuf,
    file: File,
    path: PathBuf,
    /// Bytes of it that are synced.
    len: u64,
    head: Head,
    /// More than `len` may be in the file.
    dirty: bool,
    /// The next line begins a new file.
    renew: bool,
    /// What was set aside and is not told of yet.
    untold: Vec<PathBuf>,
}

/// What was found when the log was opened, to be told before anything else.
pub(super) type Opened = (Chain, Vec<Event>);

impl Chain {
    /// Opens the log below `dir`, and sets aside what a crash has cut.
    pub fn open(dir: &Path, node: &str) -> Result<Opened> {
        let failed = at(dir);
        let aside = dir.join(ASIDE);
        DirBuilder::new().recursive(true).mode(0o700).create(&aside).map_err(&failed)?;
        let known = head(dir);
        let segments = segments(dir).map_err(&failed)?;
        let Some((first, path)) = segments.last().cloned() else {
            return Chain::begin(dir, node, known);
        };
        let mut events = Vec::new();
        let mut bytes = std::fs::read(&path).map_err(at(&path))?;
        let whole = good_end(&bytes);
        let untold = set_aside(dir, &path, &bytes, whole, &mut events)?;
        bytes.truncate(whole);
        let mut last = last_line(&bytes);
        let named = segments.first().and_then(|(_, first)| chain_of(first));
        if last.is_none()
            && let Some((_, before)) = segments.iter().rev().nth(1)
        {
            last = last_line(&std::fs::read(before).map_err(at(before))?);
        }
        let within = || name_within(&segments).map(|(chain, _)| chain);
        let chain = named.or(known.as_ref().map(|k| k.chain.clone())).or_else(within);
        let (mut seq, mut sha256) = last.unwrap_or((0, NOTHING));
        if let Some(known) = known {
            if known.seq > seq {
                events.push(Event::Damaged {
                    what: format!("lines {} to {} at the end are missing", seq + 1, known.seq),
                });
                (seq, sha256) = (known.seq, known.sha256);
            } else if known.seq == seq && known.sha256 != sha256 {
                let what = format!("line {seq}, the last one, is not what was written");
                events.push(Event::Damaged { what });
                sha256 = known.sha256;
            }
        }
        let (chain, began) = match chain {
            Some(chain) => (chain, None),
            None => new_name().map(|chain| (chain.clone(), Some(chain)))?,
        };
        let node = node.to_owned();
        events.splice(0..0, began.map(|chain| Event::ChainBegun { chain, node }));
        let len = bytes.len() as u64;
        let file = open_segment(&path)?;
        let chain = Chain {
            dir: dir.to_owned(),
            file,
            path,
            len,
            head: Head { chain, seq, sha256 },
            dirty: false,
            // An empty one whose name would be a lie is left as it is.
            renew: len == 0 && first != seq + 1,
            untold,
        };
        Ok((chain, events))
    }

    fn begin(dir: &Path, node: &str, known: Option<Head>) -> Result<Opened> {
        let (head, event) = match known {
            None => {
                let chain = new_name()?;
                let event = Event::ChainBegun { chain: chain.clone(), node: node.to_owned() };
                (Head { chain, seq: 0, sha256: NOTHING }, event)
            }
            Some(head) => {
                let what = format!("lines 1 to {}, all that there were, are missing", head.seq);
                (head, Event::Damaged { what })
            }
        };
        let first = head.seq + 1;
        let path = segment(dir, first);
        let file = make_segment(dir, &path)?;
        let (dir, untold) = (dir.to_owned(), Vec::new());
        let chain = Chain { dir, file, path, len: 0, head, dirty: false, renew: false, untold };
        Ok((chain, vec![event]))
    }

    /// Where it ends; all of that is synced.
    pub fn head(&self) -> &Head {
        &self.head
    }

    /// Writes lines, with their ends, and syncs them; `head` is where the log ends then. If it
    /// fails, none of them is in the log.
    pub fn append(&mut self, lines: &[u8], head: Head) -> Result<()> {
        self.undo()?;
        if self.renew {
            self.rotate()?;
        }
        let path = self.path.clone();
        let failed = at(&path);
        self.dirty = true;
        let written = may_change().and_then(|()| self.file.write_all(lines));
        if let Err(error) = written {
            let error = failed(error);
            let _tried_again_before_the_next = self.undo();
            return Err(error);
        }
        let synced = || -> io::Result<()> {
            faults::fail("audit.sync")?;
            self.file.sync_data()
        };
        if let Err(error) = synced() {
            let error = failed(error);
            // The kernel counts what it could not write as written: this file is not trusted again.
            self.renew = self.len > 0;
            let _tried_again_before_the_next = self.undo();
            return Err(error);
        }
        self.dirty = false;
        self.len += lines.len() as u64;
        self.head = head;
        if let Err(error) = self.keep_head() {
            tracing::warn!(%error, "where the audit log ends could not be noted");
        }
        self.told();
        if self.len >= crate::limits::AUDIT_SEGMENT_BYTES {
            // If it can not be now, then before the next lines.
            self.renew = true;
        }
        Ok(())
    }

    /// The next line begins a new file.
    pub fn renew(&mut self) {
        self.renew = self.renew || self.len > 0;
    }

    /// Takes the files with all lines up to `last` out of the log, the oldest first. The one that is
    /// written to stays. They are removed by `remove_left`.
    pub fn leave(&mut self, last: u64) -> Result<()> {
        let dir = &self.dir;
        let all = segments(dir).map_err(at(dir))?;
        let next = all.iter().skip(1).map(|(first, _)| *first);
        for ((first, path), next) in all.iter().zip(next) {
            if next > last + 1 || *path == self.path {
                break;
            }
            let gone = left_path(dir, *first, next - 1);
            let left = || -> io::Result<()> {
                may_change()?;
                std::fs::rename(path, gone)?;
                sync_dir(dir)
            };
            left().map_err(at(path))?;
            faults::point("lines.after_left");
        }
        Ok(())
    }

    /// The last of the lines that left and whose files are still to be removed. No power cut brings them
    /// back into the log.
    pub fn left_to(&self) -> Result<Option<u64>> {
        let dir = &self.dir;
        let last = left(dir).map_err(at(dir))?.0.last().map(|left| left.last);
        if last.is_some() {
            sync_dir(dir).map_err(at(dir))?;
        }
        Ok(last)
    }

    /// Removes the files of lines that left, and what had been set aside of them.
    pub fn remove_left(&self) -> Result<()> {
        let dir = &self.dir;
        let aside = dir.join(ASIDE);
        for Left { first, path, .. } in left(dir).map_err(at(dir))?.0 {
            let remove = || -> io::Result<()> {
                for entry in std::fs::read_dir(&aside)? {
                    let entry = entry?;
                    if entry
                        .file_name()
                        .to_string_lossy()
                        .starts_with(&format!("{first:0DIGITS$}-"))
                    {
                        may_change()?;
                        std::fs::remove_file(entry.path())?;
                        faults::point("lines.after_aside");
                    }
                }
                may_change()?;
                std::fs::remove_file(&path)?;
                sync_dir(dir)
            };
            remove().map_err(at(&path))?;
            faults::point("lines.after_removal");
        }
        Ok(())
    }

    /// Takes back what is not synced.
    fn undo(&mut self) -> Result<()> {
        if self.dirty {
            let cut = may_change().and_then(|()| self.file.set_len(self.len));
            cut.map_err(at(&self.path))?;
            self.dirty = false;
        }
        Ok(())
    }

    fn rotate(&mut self) -> Result<()> {
        let first = self.head.seq + 1;
        let path = segment(&self.dir, first);
        self.file = make_segment(&self.dir, &path)?;
        (self.path, self.len) = (path, 0);
        self.renew = false;
        Ok(())
    }

    /// Notes where the log ends, so that a line missing there is noticed.
    fn keep_head(&self) -> io::Result<()> {
        let (path, new) = (self.dir.join(HEAD), self.dir.join("head.new"));
        may_change()?;
        let mut file =
            OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&new)?;
        file.write_all(&serde_json::to_vec(&self.head)?)?;
        may_change()?;
        std::fs::rename(&new, &path)
    }

    /// What was set aside is on record by now.
    fn told(&mut self) {
        for path in std::mem::take(&mut self.untold) {
            let told =
                may_change().and_then(|()| std::fs::rename(&path, path.with_extension(TOLD)));
            if let Err(error) = told {
                tracing::warn!(%error, "what was set aside is told of once more at the next start");
            }
        }
    }
}

fn new_name() -> Result<String> {
    let bytes: [u8; 8] = super::names::random().map_err(at(Path::new("/dev/urandom")))?;
    Ok(hex::encode(bytes))
}

fn open_segment(path: &Path) -> Result<File> {
    OpenOptions::new().append(true).mode(0o600).open(path).map_err(at(path))
}

fn make_segment(dir: &Path, path: &Path) -> Result<File> {
    let make = || -> io::Result<File> {
        may_change()?;
        // An empty one may be left from a start that was cut off.
        let file = OpenOptions::new().append(true).create(true).mode(0o600).open(path)?;
        if file.metadata()?.len() > 0 {
            return Err(io::Error::other("it is there already, and not empty"));
        }
        may_change()?;
        file.sync_all()?;
        sync_dir(dir)?;
        Ok(file)
    };
    make().map_err(at(path))
}

/// Where the lines of a file end that a crash can not have cut.
fn good_end(bytes: &[u8]) -> usize {
    let end = bytes.iter().rposition(|b| *b == b'\n').map_or(0, |at| at + 1);
    // A power cut may leave zeros where pages were not written.
    let Some(zero) = bytes.get(..end).and_then(|b| b.iter().position(|b| *b == 0)) else {
        return end;
    };
    let before = bytes.get(..zero).unwrap_or_default();
    before.iter().rposition(|b| *b == b'\n').map_or(0, |at| at + 1)
}

/// Copies what follows `whole` to a file of its own, syncs that, and cuts it off. Returns what is
/// not told of yet.
fn set_aside(
    dir: &Path,
    path: &Path,
    bytes: &[u8],
    whole: usize,
    events: &mut Vec<Event>,
) -> Result<Vec<PathBuf>> {
    let torn = bytes.get(whole..).unwrap_or_default();
    let aside = dir.join(ASIDE);
    if !torn.is_empty() {
        put_aside(&aside, path, whole, torn).map_err(at(&aside))?;
        let cut = || -> io::Result<()> {
            may_change()?;
            let file = OpenOptions::new().write(true).open(path)?;
            file.set_len(whole as u64)?;
            file.sync_all()
        };
        cut().map_err(at(path))?;
    }
    let mut untold = Vec::new();
    for entry in std::fs::read_dir(&aside).map_err(at(&aside))?.flatten() {
        let place = entry.path();
        if place.extension().is_none_or(|e| e != TORN) {
            continue;
        }
        let found = std::fs::read(&place).map_err(at(&place))?;
        untold.push(place.clone());
        let name = file_name(&place.with_extension(TOLD));
        let good = bytes.get(..whole).unwrap_or_default();
        if good.windows(name.len()).any(|part| part == name.as_bytes()) {
            continue;
        }
        let mut parts = name.split('-');
        let file = format!("{}{SUFFIX}", parts.next().unwrap_or_default());
        let offset = parts.next().and_then(|at| at.parse().ok()).unwrap_or_default();
        tracing::warn!(file, offset, "a crash had cut the end of the audit log; it was set aside");
        events.push(Event::TornTail {
            file,
            offset,
            bytes: found.len() as u64,
            sha256: Sha256::of(&found),
            aside: format!("{ASIDE}/{name}"),
        });
    }
    Ok(untold)
}

fn put_aside(aside: &Path, path: &Path, whole: usize, torn: &[u8]) -> io::Result<()> {
    let stem = path.file_stem().unwrap_or_default().to_string_lossy();
    for n in 1.. {
        let place = aside.join(format!("{stem}-{whole}-{n}.{TORN}"));
        if place.with_extension(TOLD).exists() {
            continue;
        }
        match std::fs::read(&place) {
            // From a start that was cut off here.
            Ok(same) if same == torn => break,
            Ok(_) => continue,
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            Err(_) => {}
        }
        let new = place.with_extension("new");
        may_change()?;
        let mut file =
            OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&new)?;
        file.write_all(torn)?;
        file.sync_all()?;
        may_change()?;
        std::fs::rename(&new, &place)?;
        break;
    }
    sync_dir(aside)
}

/// Number and digest of the last line.
fn last_line(bytes: &[u8]) -> Option<(u64, Sha256)> {
    let text = bytes.strip_suffix(b"\n")?;
    let start = text.iter().rposition(|b| *b == b'\n').map_or(0, |at| at + 1);
    let line = text.get(start..)?;
    let seq = match Link::of(line) {
        Some(link) => link.seq,
        // Its number is that of the one before and one more.
        None => last_line(text.get(..start)?).map_or(0, |(seq, _)| seq) + 1,
    };
    Some((seq, Sha256::of(line)))
}

fn chain_of(path: &Path) -> Option<String> {
    use std::io::BufRead;
    let mut line = Vec::new();
    io::BufReader::new(File::open(path).ok()?).read_until(b'\n', &mut line).ok()?;
    name_of(line.strip_suffix(b"\n")?).map(|(chain, _)| chain)
}
