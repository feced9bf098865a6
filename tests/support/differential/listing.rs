//! Directory streams: what they must show, also while the directory changes under them.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, FileType, Mode, OFlags, RawDir, SeekFrom};
use rustix::io::Errno;

use super::world::{Answer, Trouble};

/// Small, so that a listing of the crowded directory takes many calls.
const BUFFER_BYTES: usize = 1024;

/// One entry as the stream gave it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The name.
    pub name: OsString,
    /// `d_type`.
    pub kind: FileType,
    /// `d_ino`.
    pub ino: u64,
    /// `d_off`: where the stream goes on after this entry.
    pub next: u64,
}

/// Opens a directory for listing.
pub fn open(path: &Path) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::openat(CWD, path, flags, Mode::empty())
}

/// At most `limit` further entries of the stream. What its buffer held beyond them is lost, so the
/// stream must be sought before it is used again, unless the listing ended.
pub fn entries(fd: impl AsFd, limit: usize) -> Result<Vec<Entry>, Errno> {
    let mut buffer = [MaybeUninit::uninit(); BUFFER_BYTES];
    let mut stream = RawDir::new(fd, &mut buffer);
    let mut found = Vec::new();
    while found.len() < limit {
        let Some(entry) = stream.next() else { break };
        let entry = entry?;
        found.push(Entry {
            name: OsString::from_vec(entry.file_name().to_bytes().to_vec()),
            kind: entry.file_type(),
            ino: entry.ino(),
            next: entry.next_entry_cookie(),
        });
    }
    Ok(found)
}

/// All names but `.` and `..`, with their kinds.
pub fn names(path: &Path) -> Result<BTreeMap<OsString, FileType>, Errno> {
    let mut all = BTreeMap::new();
    for entry in entries(open(path)?, usize::MAX)? {
        if entry.name != "." && entry.name != ".." {
            all.insert(entry.name, entry.kind);
        }
    }
    Ok(all)
}

/// A whole listing: each name once, the two dots included.
pub fn whole(path: &Path) -> Result<Answer, Trouble> {
    let all = entries(open(path)?, usize::MAX)?;
    let names = names(path)?;
    for dot in [".", ".."] {
        exactly_once(&all, &OsString::from(dot))?;
    }
    if all.len() != names.len() + 2 {
        return Err(Trouble::Fault(format!("{} entries for {} names", all.len(), names.len())));
    }
    Ok(Answer::Text(format!("{names:?}")))
}

/// Reads part of a listing, changes the directory, reads on, and goes back.
pub fn changing(
    path: &Path,
    take: usize,
    changes: &[(PathBuf, bool)],
    mark: usize,
) -> Result<Answer, Trouble> {
    let stream = open(path)?;
    let before = names(path)?;
    let mut seen = entries(&stream, take)?;
    if let Some(last) = seen.last() {
        rustix::fs::seek(&stream, SeekFrom::Start(last.next))?;
    }

    let mut changed = Vec::new();
    for (path, create) in changes {
        changed.push(if *create { make(path) } else { rustix::fs::unlink(path) });
    }
    let after = names(path)?;

    seen.extend(entries(&stream, usize::MAX)?);
    let touched = |name: &OsString| changes.iter().any(|(path, _)| path.file_name() == Some(name));
    for name in before.keys().filter(|name| !touched(name)) {
        exactly_once(&seen, name)?;
    }
    for entry in &seen {
        let dot = entry.name == "." || entry.name == "..";
        if !dot && !before.contains_key(&entry.name) && !touched(&entry.name) {
            return Err(Trouble::Fault(format!("listed, but never there: {:?}", entry.name)));
        }
    }

    rustix::fs::seek(&stream, SeekFrom::Start(0))?;
    let again = entries(&stream, usize::MAX)?;
    for name in after.keys() {
        exactly_once(&again, name)?;
    }
    if again.len() != after.len() + 2 {
        let text = format!("after a rewind {} entries for {} names", again.len(), after.len());
        return Err(Trouble::Fault(text));
    }
    let mark = mark % again.len();
    rustix::fs::seek(&stream, SeekFrom::Start(again[mark].next))?;
    let rest = entries(&stream, usize::MAX)?;
    if rest != again[mark + 1..] {
        return Err(Trouble::Fault(format!(
            "sought to entry {mark} of {}, {} entries followed, not the {} of the first time",
            again.len(),
            rest.len(),
            again.len() - mark - 1
        )));
    }
    Ok(Answer::Text(format!("{changed:?} {after:?}")))
}

fn make(path: &Path) -> Result<(), Errno> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
    rustix::fs::openat(CWD, path, flags, Mode::from_raw_mode(0o644)).map(drop)
}

fn exactly_once(entries: &[Entry], name: &OsString) -> Result<(), Trouble> {
    match entries.iter().filter(|entry| entry.name == *name).count() {
        1 => Ok(()),
        times => Err(Trouble::Fault(format!("{name:?} was listed {times} times"))),
    }
}
