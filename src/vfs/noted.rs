//! What an open directory has given so far, for whoever takes the connection over: a recording that
//! is released or recalled while it is listed changes its place in the listing, and only who knows
//! what was given can list it once and not twice or never.
//!
//! A file for each handle in the runtime directory, written with one `pwrite(2)` before a reply is
//! given, and never synced. All numbers are little endian, 64 bits wide.
//!
//! | words | what |
//! |---|---|
//! | 0 | version |
//! | 1 | the catalog's mark when the listing began |
//! | 2, 3 | seed of the hashes of names; hash of no name: another program may hash otherwise |
//! | then 3 for each entry | cursor, hash of the name, 1 if it was below |

use std::fs::{File, OpenOptions};
use std::hash::{DefaultHasher, Hasher};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// Names of the files, before the handle's number.
const PREFIX: &str = "listing.";
const VERSION: u64 = 1;
const HEAD: usize = 4 * WORD;
const ENTRY: usize = 3 * WORD;
const WORD: usize = 8;

/// Where the note of a handle is.
pub(super) fn path(dir: &Path, handle: u64) -> PathBuf {
    dir.join(format!("{PREFIX}{handle}"))
}

/// A listing is closed.
pub(super) fn remove(path: &Path) {
    let _swept_at_the_next_start = std::fs::remove_file(path);
}

/// Removes the notes of listings that are not open.
pub(super) fn sweep(dir: &Path, is_open: impl Fn(u64) -> bool) {
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let handle = name.to_str().and_then(|name| name.strip_prefix(PREFIX)?.parse().ok());
        if handle.is_some_and(|handle| !is_open(handle)) {
            remove(&entry.path());
        }
    }
}

/// Hashes names so that nobody can choose two that look alike.
#[derive(Clone, Copy, Debug)]
pub(super) struct Names(u64);

impl Names {
    pub fn new() -> Names {
        Names(fastrand::u64(..))
    }

    pub fn hash(self, name: &[u8]) -> u64 {
        let mut hasher = DefaultHasher::new();
        hasher.write_u64(self.0);
        hasher.write(name);
        hasher.finish()
    }
}

/// One entry that was given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Given {
    /// Where to go on behind it, below or in the catalog.
    pub cursor: u64,
    /// Hash of the name.
    pub name: u64,
    /// It was given from below.
    pub below: bool,
}

/// What a predecessor noted of a listing.
#[derive(Debug)]
pub(super) struct Noted {
    pub mark: u64,
    pub names: Names,
    pub given: Vec<Given>,
}

/// The file of one listing.
#[derive(Debug)]
pub(super) struct Note {
    file: File,
    mark: Option<u64>,
    /// The first so many entries of the listing are in it.
    entries: usize,
}

impl Note {
    pub fn open(path: &Path) -> io::Result<Note> {
        let mut options = OpenOptions::new();
        let file = options.write(true).create(true).truncate(false).mode(0o600).open(path)?;
        Ok(Note { file, mark: None, entries: 0 })
    }

    /// Only the first `count` entries are still those of the listing.
    pub fn cut(&mut self, count: usize) {
        self.entries = self.entries.min(count);
    }

    /// Brings it up to date.
    pub fn write(&mut self, mark: u64, names: Names, given: &[Given]) -> io::Result<()> {
        if let Some(new) = given.get(self.entries..).filter(|new| !new.is_empty()) {
            let words = new.iter().flat_map(|g| [g.cursor, g.name, u64::from(g.below)]);
            self.file.write_all_at(&bytes(words), (HEAD + self.entries * ENTRY) as u64)?;
            self.entries = given.len();
        }
        // Last: without it nothing is believed.
        if self.mark != Some(mark) {
            self.file.write_all_at(&bytes([VERSION, mark, names.0, names.hash(b"")]), 0)?;
            self.mark = Some(mark);
        }
        Ok(())
    }
}

impl Noted {
    /// What is in the file; `None` if it is not there or not to be understood.
    pub fn load(path: &Path) -> Option<Noted> {
        let read = std::fs::read(path).ok()?;
        let (head, entries) = read.split_at_checked(HEAD)?;
        let [version, mark, seed, check] = *words(head).as_slice() else { return None };
        let names = Names(seed);
        if version != VERSION || names.hash(b"") != check {
            return None;
        }
        let given = entries.as_chunks::<ENTRY>().0.iter().filter_map(|entry| match *words(entry) {
            [cursor, name, below] => Some(Given { cursor, name, below: below == 1 }),
            _ => None,
        });
        Some(Noted { mark, names, given: given.collect() })
    }
}

fn bytes(words: impl IntoIterator<Item = u64>) -> Vec<u8> {
    words.into_iter().flat_map(u64::to_le_bytes).collect()
}

fn words(bytes: &[u8]) -> Vec<u64> {
    bytes.as_chunks::<WORD>().0.iter().map(|word| u64::from_le_bytes(*word)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_given_is_read_back() {
        let dir = tempfile::tempdir().unwrap();
        let path = path(dir.path(), 7);
        assert!(Noted::load(&path).is_none());
        let names = Names::new();
        let given = |n: u64| Given { cursor: u64::MAX - n, name: names.hash(b"x"), below: n < 2 };
        let all: Vec<_> = (0..4).map(given).collect();
        let mut note = Note::open(&path).unwrap();
        note.write(9, names, &all[..2]).unwrap();
        note.write(9, names, &all).unwrap();
        let noted = Noted::load(&path).unwrap();
        assert_eq!((noted.mark, &noted.given), (9, &all));
        assert_eq!(noted.names.hash(b"x"), names.hash(b"x"));
        // It went back, and on in another way.
        note.cut(1);
        let other = [all[0], all[3]];
        note.write(10, names, &other).unwrap();
        let noted = Noted::load(&path).unwrap();
        assert_eq!((noted.mark, &noted.given[..2]), (10, &other[..]));
        // Hashed by another program.
        let mut bytes = std::fs::read(&path).unwrap();
        bytes[24] ^= 1;
        std::fs::write(&path, bytes).unwrap();
        assert!(Noted::load(&path).is_none());

        sweep(dir.path(), |handle| handle == 7);
        assert!(path.exists());
        sweep(dir.path(), |_| false);
        assert!(!path.exists());
    }
}
