//! Who changes names in a directory, and who wants them to stay: users keep the engine out, and the
//! engine, which takes local copies away and puts them back, keeps users out.

use super::{Dir, Lower, LowerError, Result};
use crate::recording::NodeId;
use parking_lot::{RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

/// Locks for directories.
const DIRECTORY_LOCKS: usize = 64;
/// Between two tries to take a lock.
const LOOK_AGAIN: std::time::Duration = std::time::Duration::from_micros(200);

/// For each directory (several share one): held for reading by whoever makes, moves or removes
/// names in it for a user, for writing by the engine while it takes a local copy away, puts one
/// back, or judges what it finds. The kernel keeps users from each other. Nobody holds one across a
/// read or write of data, an fsync, SQLite or the network.
#[derive(Debug)]
pub(super) struct Directories([Directory; DIRECTORY_LOCKS]);

#[derive(Debug, Default)]
struct Directory {
    lock: RwLock<()>,
    /// How often the engine began and ended: odd while it is at it.
    turns: AtomicU64,
}

impl Default for Directories {
    fn default() -> Directories {
        Directories(std::array::from_fn(|_| Directory::default()))
    }
}

impl Directories {
    fn of(&self, id: NodeId) -> Option<&Directory> {
        self.0.get(usize::try_from(id.0 % DIRECTORY_LOCKS as u64).unwrap_or(0))
    }
}

impl Directory {
    /// Takes the lock without standing in line for it: whoever stands in line keeps users out, and
    /// may be waiting for one of them whom the disk holds up.
    fn patiently(&self) -> Still<'_> {
        loop {
            if let Some(still) = self.at_once() {
                return still;
            }
            std::thread::sleep(LOOK_AGAIN);
        }
    }

    fn at_once(&self) -> Option<Still<'_>> {
        let held = self.lock.try_write()?;
        self.turns.fetch_add(1, Ordering::AcqRel);
        Some(Still { turns: &self.turns, _held: held })
    }
}

/// See [`Lower::names_change`].
#[derive(Debug)]
pub struct NamesChange<'a> {
    _first: Option<RwLockReadGuard<'a, ()>>,
    _second: Option<RwLockReadGuard<'a, ()>>,
}

/// See [`Lower::names_still`].
#[derive(Debug)]
pub struct NamesStill<'a> {
    _held: Vec<Still<'a>>,
}

#[derive(Debug)]
struct Still<'a> {
    turns: &'a AtomicU64,
    _held: RwLockWriteGuard<'a, ()>,
}

impl Drop for Still<'_> {
    fn drop(&mut self) {
        self.turns.fetch_add(1, Ordering::AcqRel);
    }
}

impl Lower {
    /// Held while a user's operation makes, moves or removes names in these directories, or finds
    /// a name that is new. Users do not wait for each other here; the kernel sees to that.
    pub fn names_change(&self, a: NodeId, b: NodeId) -> NamesChange<'_> {
        let (a, b) = (self.directories.of(a), self.directories.of(b));
        let same = a.zip(b).is_some_and(|(a, b)| std::ptr::eq(a, b));
        NamesChange {
            _first: a.map(|d| d.lock.read_recursive()),
            _second: b.filter(|_| !same).map(|d| d.lock.read_recursive()),
        }
    }

    /// Held while the engine judges or changes names in this directory: no user's operation is
    /// half done there.
    pub fn names_still_in(&self, dir: NodeId) -> NamesStill<'_> {
        NamesStill {
            _held: self.directories.of(dir).map(Directory::patiently).into_iter().collect(),
        }
    }

    /// The same for all directories.
    pub fn names_still(&self) -> NamesStill<'_> {
        loop {
            let mut held = Vec::with_capacity(DIRECTORY_LOCKS);
            held.extend(self.directories.0.iter().map_while(Directory::at_once));
            if held.len() == DIRECTORY_LOCKS {
                return NamesStill { _held: held };
            }
            // Not holding some while waiting for another: users wait for those.
            drop(held);
            std::thread::sleep(LOOK_AGAIN);
        }
    }

    pub(super) fn names_still_at(&self, dir: &Dir) -> Result<NamesStill<'_>> {
        let stat = dir.stat_self().map_err(LowerError::io(Path::new("")))?;
        Ok(self.names_still_in(stat.node.unwrap_or(NodeId::ROOT)))
    }

    /// How often the engine was at the names of a directory; `None` while it is. What was seen there
    /// after one answer is still so at a later one that is the same, as far as the engine goes: no
    /// local copy came or went.
    pub fn turns_in(&self, dir: NodeId) -> Option<u64> {
        let turns = self.directories.of(dir)?.turns.load(Ordering::Acquire);
        turns.is_multiple_of(2).then_some(turns)
    }
}
