//! What the kernel has open, kept in the runtime directory: whoever takes the connection over
//! finds there which handles it must serve, and which backing files the kernel holds.
//!
//! A record of 64 bytes for each handle, written with one `pwrite(2)` before the kernel is
//! answered and never synced: like the operation log it must outlive the daemon, not the machine.
//! All numbers are little endian.
//!
//! | bytes | what |
//! |---|---|
//! | 0 | 0 free, 1 file, 2 file in passthrough, 3 released file, 4 directory, 5 being closed |
//! | 1 | 1 if it may write |
//! | 2 | 1 if it may write, but rests (`Vfs::rest_idle`) |
//! | 4..8 | how often this record was used before; upper half of the handle's number |
//! | 8..12 | number of the backing file |
//! | 12..16 | open flags for the lower file |
//! | 16..24 | node |
//! | 24..32 | number of the request that opened it |
//! | 32..40, 40..48, 48 | directory: entries before the last reply, cursor there, 1 if below |
//! | 60..64 | CRC-32 of what is before |

use super::noted;
use crate::recording::NodeId;
use parking_lot::Mutex;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

const RECORD: usize = 64;
/// More than a slot is used in one life.
const LIFE: u32 = 1 << 20;

/// What a handle is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Use {
    Free,
    Plain,
    Passthrough,
    Remote,
    Dir,
    /// Its RELEASE came; only the backing file may still have to be given back.
    Closing,
}

/// One handle of the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Record {
    pub what: Use,
    pub writable: bool,
    pub resting: bool,
    pub backing: u32,
    pub flags: u32,
    pub node: NodeId,
    pub unique: u64,
    /// Of a directory: where its last reply began.
    pub position: Position,
}

/// Where a listing stands: how many entries were given, and how to go on behind them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Position {
    pub count: u64,
    pub cursor: u64,
    pub below: bool,
}

impl Record {
    pub fn new(what: Use, node: NodeId, unique: u64) -> Record {
        Record {
            what,
            writable: false,
            resting: false,
            backing: 0,
            flags: 0,
            node,
            unique,
            position: Position::default(),
        }
    }
}

/// The table.
#[derive(Debug)]
pub(super) struct Table {
    file: Option<File>,
    path: PathBuf,
    slots: Mutex<Slots>,
}

#[derive(Debug, Default)]
struct Slots {
    /// How often each was used.
    used: Vec<u32>,
    free: Vec<u32>,
    /// What counting begins at: above every number of a life before, also one that could not be
    /// written down.
    floor: u32,
}

impl Table {
    /// A table without a file: nothing outlives the daemon.
    pub fn in_memory() -> Table {
        Table { file: None, path: PathBuf::new(), slots: Mutex::default() }
    }

    /// Opens the table, with what a predecessor left in it if `resume`.
    pub fn open(path: &Path, resume: bool) -> io::Result<(Table, Vec<(u64, Record)>)> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(!resume)
            .mode(0o600)
            .open(path)?;
        let mut slots = Slots::default();
        let mut open = Vec::new();
        let bytes = std::fs::read(path)?;
        for (index, bytes) in bytes.as_chunks::<RECORD>().0.iter().enumerate() {
            let Ok(index) = u32::try_from(index) else { break };
            let (used, record) = decode(bytes);
            slots.used.push(used);
            match record {
                Some(record) => open.push((number(index, used), record)),
                None => slots.free.push(index),
            }
        }
        slots.floor = slots.used.iter().max().map_or(0, |most| most.wrapping_add(LIFE));
        let Slots { used, free, floor } = &mut slots;
        for index in free.iter() {
            if let Some(used) = used.get_mut(*index as usize) {
                *used = *floor;
            }
        }
        if let Some(dir) = path.parent() {
            noted::sweep(dir, |handle| open.iter().any(|(number, _)| *number == handle));
        }
        let table = Table { file: Some(file), path: path.to_owned(), slots: Mutex::new(slots) };
        Ok((table, open))
    }

    /// Where the note of a listing is; `None` if nothing outlives the daemon.
    pub fn note_of(&self, handle: u64) -> Option<PathBuf> {
        let dir = self.file.as_ref().and(self.path.parent())?;
        Some(noted::path(dir, handle))
    }

    /// A number for a new handle, with its record written.
    pub fn add(&self, record: &Record) -> u64 {
        let (index, used) = {
            let mut slots = self.slots.lock();
            let index = slots.free.pop().unwrap_or_else(|| {
                let floor = slots.floor;
                slots.used.push(floor);
                // Descriptors run out long before.
                u32::try_from(slots.used.len() - 1).unwrap_or(u32::MAX)
            });
            let used = slots.used.get_mut(index as usize).map_or(0, |used| {
                *used = used.wrapping_add(1);
                *used
            });
            (index, used)
        };
        self.write(index, used, record);
        number(index, used)
    }

    /// Writes a handle's record anew.
    pub fn set(&self, handle: u64, record: &Record) {
        let (index, used) = parts(handle);
        if self.slots.lock().used.get(index as usize) == Some(&used) {
            self.write(index, used, record);
        }
    }

    /// The handle is gone.
    pub fn free(&self, handle: u64) {
        let (index, used) = parts(handle);
        let mine = self.slots.lock().used.get(index as usize) == Some(&used);
        if mine {
            self.write(index, used, &Record::new(Use::Free, NodeId(0), 0));
            self.slots.lock().free.push(index);
        }
    }

    fn write(&self, index: u32, used: u32, record: &Record) {
        let Some(file) = &self.file else { return };
        if let Err(error) =
            file.write_all_at(&encode(used, record), u64::from(index) * RECORD as u64)
        {
            tracing::error!(
                "the table of open files can not be written: {error}; free space in the runtime \
                 directory. Should the daemon die now, this file's user gets an error"
            );
        }
    }
}

fn number(index: u32, used: u32) -> u64 {
    u64::from(used) << 32 | u64::from(index)
}

fn parts(handle: u64) -> (u32, u32) {
    // Both halves fit by construction.
    (handle as u32, (handle >> 32) as u32)
}

fn encode(used: u32, record: &Record) -> [u8; RECORD] {
    let mut out = [0; RECORD];
    let what = match record.what {
        Use::Free => 0,
        Use::Plain => 1,
        Use::Passthrough => 2,
        Use::Remote => 3,
        Use::Dir => 4,
        Use::Closing => 5,
    };
    let fields: [(usize, &[u8]); 10] = [
        (0, &[what, u8::from(record.writable), u8::from(record.resting)]),
        (4, &used.to_le_bytes()),
        (8, &record.backing.to_le_bytes()),
        (12, &record.flags.to_le_bytes()),
        (16, &record.node.0.to_le_bytes()),
        (24, &record.unique.to_le_bytes()),
        (32, &record.position.count.to_le_bytes()),
        (40, &record.position.cursor.to_le_bytes()),
        (48, &[u8::from(record.position.below)]),
        (60, &[]),
    ];
    for (at, bytes) in fields {
        for (to, from) in out.iter_mut().skip(at).zip(bytes) {
            *to = *from;
        }
    }
    let (body, sum) = out.split_at_mut(60);
    sum.copy_from_slice(&crc32fast::hash(body).to_le_bytes());
    out
}

/// The use count, and the record if the slot is in use.
fn decode(bytes: &[u8; RECORD]) -> (u32, Option<Record>) {
    let u32_at = |at: usize| {
        bytes.get(at..).and_then(|b| b.first_chunk::<4>()).map_or(0, |b| u32::from_le_bytes(*b))
    };
    let u64_at = |at: usize| {
        bytes.get(at..).and_then(|b| b.first_chunk::<8>()).map_or(0, |b| u64::from_le_bytes(*b))
    };
    let flag = |at: usize| bytes.get(at) == Some(&1);
    let used = u32_at(4);
    let what = match bytes.first() {
        Some(1) => Use::Plain,
        Some(2) => Use::Passthrough,
        Some(3) => Use::Remote,
        Some(4) => Use::Dir,
        Some(5) => Use::Closing,
        _ => return (used, None),
    };
    if crc32fast::hash(bytes.split_at(60).0) != u32_at(60) {
        return (used, None);
    }
    let record = Record {
        what,
        writable: flag(1),
        resting: flag(2),
        backing: u32_at(8),
        flags: u32_at(12),
        node: NodeId(u64_at(16)),
        unique: u64_at(24),
        position: Position { count: u64_at(32), cursor: u64_at(40), below: flag(48) },
    };
    (used, Some(record))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_open_is_found_by_the_next_and_no_number_is_used_twice() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("handles");
        let record = |node| Record {
            writable: true,
            resting: true,
            backing: 7,
            flags: 2,
            position: Position { count: 3, cursor: u64::MAX, below: true },
            ..Record::new(Use::Passthrough, NodeId(node), 99)
        };
        let (first, closed, kept) = {
            let (table, before) = Table::open(&path, false).unwrap();
            assert!(before.is_empty());
            let first = table.add(&record(5));
            let closed = table.add(&record(6));
            table.free(closed);
            let kept = table.add(&Record::new(Use::Dir, NodeId(8), 1));
            table.set(first, &record(9));
            // Closed already: must not touch whoever has the slot now.
            table.set(closed, &record(1));
            table.free(closed);
            (first, closed, kept)
        };
        assert_ne!(closed, kept);
        let (table, open) = Table::open(&path, true).unwrap();
        assert_eq!(open, [(first, record(9)), (kept, Record::new(Use::Dir, NodeId(8), 1))]);
        let next = table.add(&record(2));
        assert!(![first, closed, kept].contains(&next));
        let (_, open) = Table::open(&path, false).unwrap();
        assert!(open.is_empty());
    }

    #[test]
    fn a_number_that_could_not_be_written_down_is_not_used_again() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("handles");
        let record = Record::new(Use::Plain, NodeId(5), 1);
        let lost = {
            let (mut table, _) = Table::open(&path, false).unwrap();
            table.add(&record);
            table.file = None;
            table.add(&record)
        };
        let (table, open) = Table::open(&path, true).unwrap();
        assert_eq!(open.len(), 1);
        assert_ne!(table.add(&record), lost);
    }

    #[test]
    fn a_damaged_record_is_not_believed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("handles");
        let (table, _) = Table::open(&path, false).unwrap();
        table.add(&Record::new(Use::Plain, NodeId(5), 1));
        let mut bytes = std::fs::read(&path).unwrap();
        bytes[17] ^= 1;
        std::fs::write(&path, bytes).unwrap();
        assert!(Table::open(&path, true).unwrap().1.is_empty());
    }
}
