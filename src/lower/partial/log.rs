//! What was written to a partial recording below its archived length, beside it in the private
//! directory: these bytes must not be overwritten by fetched ones, also after the daemon was
//! killed or the power was cut.
//!
//! A record of 24 bytes for each change of what is known, written after the change and before the
//! caller is answered. All numbers are little endian.
//!
//! | bytes | what |
//! |---|---|
//! | 0 | 1 boot, 2 written, 3 cut, 4 synced |
//! | 4..8 | CRC-32 of the rest, these bytes left out |
//! | 8..16, 16..24 | boot: the kernel's boot id. written: first byte, and the byte behind the last. cut: the length. synced: how many records before it are known to be on the disk |
//!
//! As long as the machine runs, all of it is true. After another boot a record *written* may be on
//! the disk and its bytes not: only those are believed that a record *synced* vouches for. The
//! others are as lost as any bytes that nobody synced, and what was archived is there again. A cut
//! is older in the file system's own journal than the record of it, and is always believed.

use super::ranges::Ranges;
use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::FileExt;
use std::sync::OnceLock;

const RECORD: usize = 24;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Entry {
    Boot(u128),
    Written(u64, u64),
    Cut(u64),
    Synced(u64),
}

/// The log of one partial recording, open for appending.
#[derive(Debug)]
pub(in crate::lower) struct Log {
    file: File,
    /// Records in it.
    records: u64,
    /// Records *written* among them that nothing vouches for.
    unsynced: bool,
}

/// What a log tells.
#[derive(Debug, Default, PartialEq, Eq)]
pub(in crate::lower) struct Told {
    /// What was written below the archived length.
    pub own: Ranges,
    /// The archived length, or what was cut of it.
    pub base: u64,
}

impl Log {
    /// A log in an empty file.
    pub fn begin(file: File) -> io::Result<Log> {
        let mut log = Log { file, records: 0, unsynced: false };
        log.append(Entry::Boot(boot()))?;
        Ok(log)
    }

    /// Goes on with a log of a recording of which `base` bytes are archived.
    pub fn resume(file: File, base: u64) -> io::Result<(Log, Told)> {
        let mut bytes = vec![0; usize::try_from(file.metadata()?.len()).unwrap_or(0)];
        file.read_exact_at(&mut bytes, 0)?;
        let entries = parse(&bytes);
        let records = entries.len() as u64;
        // The beginning of a record that a power cut left, or a dying daemon.
        file.set_len(records * RECORD as u64)?;
        let told = tell(&entries, base, boot());
        let mut log = Log { file, records, unsynced: !told.own.is_empty() };
        let last = entries.iter().rev().find(|e| matches!(e, Entry::Boot(_)));
        if last != Some(&Entry::Boot(boot())) {
            log.append(Entry::Boot(boot()))?;
        }
        Ok((log, told))
    }

    pub fn written(&mut self, start: u64, end: u64) -> io::Result<()> {
        self.append(Entry::Written(start, end))?;
        self.unsynced = true;
        Ok(())
    }

    pub fn cut(&mut self, len: u64) -> io::Result<()> {
        self.append(Entry::Cut(len))
    }

    /// Records so far, if some are not vouched for; for `synced` once the bytes are on the disk.
    pub fn unsynced(&self) -> Option<u64> {
        self.unsynced.then_some(self.records)
    }

    /// What the first `upto` records tell of is on the disk.
    pub fn synced(&mut self, upto: u64) -> io::Result<()> {
        let all = upto == self.records;
        self.append(Entry::Synced(upto))?;
        self.unsynced &= !all;
        Ok(())
    }

    /// The first record of a log that was begun in another boot.
    #[cfg(test)]
    pub fn of_boot(id: u128) -> [u8; RECORD] {
        encode(Entry::Boot(id))
    }

    pub fn file(&self) -> io::Result<File> {
        self.file.try_clone()
    }

    fn append(&mut self, entry: Entry) -> io::Result<()> {
        let at = self.records * RECORD as u64;
        let written = self.file.write_all_at(&encode(entry), at);
        if written.is_err() {
            // Half a record would hide those behind it.
            let _the_error_counts = self.file.set_len(at);
        }
        written?;
        self.records += 1;
        Ok(())
    }
}

fn parse(bytes: &[u8]) -> Vec<Entry> {
    bytes.as_chunks::<RECORD>().0.iter().map_while(decode).collect()
}

/// What is true on a machine that runs since `boot`.
fn tell(entries: &[Entry], base: u64, boot: u128) -> Told {
    let mut told = Told { own: Ranges::default(), base };
    let mut pending: Vec<(u64, u64, u64)> = Vec::new();
    let mut running = None;
    for (number, entry) in entries.iter().enumerate() {
        match *entry {
            Entry::Boot(id) => {
                if running.is_some_and(|before| before != id) {
                    pending.clear();
                }
                running = Some(id);
            }
            Entry::Written(start, end) => pending.push((number as u64, start, end)),
            Entry::Cut(len) => {
                told.base = told.base.min(len);
                told.own.clip(len);
                pending.iter_mut().for_each(|(_, _, end)| *end = (*end).min(len));
            }
            Entry::Synced(upto) => pending.retain(|&(number, start, end)| {
                let vouched = number < upto;
                if vouched {
                    told.own.insert(start..end);
                }
                !vouched
            }),
        }
    }
    if running == Some(boot) {
        for (_, start, end) in pending {
            told.own.insert(start..end);
        }
    }
    told
}

fn encode(entry: Entry) -> [u8; RECORD] {
    let (kind, first, second) = match entry {
        Entry::Boot(id) => (1, id as u64, (id >> 64) as u64),
        Entry::Written(start, end) => (2, start, end),
        Entry::Cut(len) => (3, len, 0),
        Entry::Synced(upto) => (4, upto, 0),
    };
    let mut out = [0; RECORD];
    let mut to = &mut out[..];
    // The slices are as long as they must be.
    for part in [&[kind, 0, 0, 0, 0, 0, 0, 0][..], &first.to_le_bytes(), &second.to_le_bytes()] {
        let _fits = to.write(part);
    }
    let sum = checksum(&out);
    for (to, from) in out.iter_mut().skip(4).zip(sum.to_le_bytes()) {
        *to = from;
    }
    out
}

fn decode(bytes: &[u8; RECORD]) -> Option<Entry> {
    let u64_at = |at: usize| {
        bytes.get(at..).and_then(|b| b.first_chunk::<8>()).map_or(0, |b| u64::from_le_bytes(*b))
    };
    let sum = bytes.get(4..)?.first_chunk::<4>().map(|b| u32::from_le_bytes(*b))?;
    let (first, second) = (u64_at(8), u64_at(16));
    let entry = match bytes.first()? {
        1 => Entry::Boot(u128::from(second) << 64 | u128::from(first)),
        2 => Entry::Written(first, second),
        3 => Entry::Cut(first),
        4 => Entry::Synced(first),
        _ => return None,
    };
    (checksum(bytes) == sum).then_some(entry)
}

fn checksum(bytes: &[u8; RECORD]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    let (head, rest) = bytes.split_at(4);
    hasher.update(head);
    hasher.update(rest.get(4..).unwrap_or_default());
    hasher.finalize()
}

/// Which boot of the machine this is. One that can not be told is taken for another each time.
pub fn boot() -> u128 {
    static BOOT: OnceLock<u128> = OnceLock::new();
    *BOOT.get_or_init(|| {
        let text = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
        let digits: String = text.chars().filter(char::is_ascii_hexdigit).collect();
        u128::from_str_radix(&digits, 16).unwrap_or_else(|_| fastrand::u128(..))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ranges(list: &[(u64, u64)]) -> Ranges {
        let mut ranges = Ranges::default();
        list.iter().for_each(|(start, end)| assert!(ranges.insert(*start..*end)));
        ranges
    }

    fn told(entries: &[Entry], boot: u128) -> (Ranges, u64) {
        let Told { own, base } = tell(entries, 100, boot);
        (own, base)
    }

    #[test]
    fn after_another_boot_only_what_was_synced_is_believed() {
        use Entry::*;
        let log = [Boot(1), Written(0, 10), Written(20, 30), Synced(2), Written(40, 50)];
        assert_eq!(told(&log, 1), (ranges(&[(0, 10), (20, 30), (40, 50)]), 100));
        assert_eq!(told(&log, 2), (ranges(&[(0, 10)]), 100));
        let on = [&log[..], &[Boot(2), Written(60, 70)]].concat();
        assert_eq!(told(&on, 2), (ranges(&[(0, 10), (60, 70)]), 100));
        assert_eq!(told(&on, 3), (ranges(&[(0, 10)]), 100));
    }

    #[test]
    fn a_cut_holds_for_what_was_written_before_it() {
        use Entry::*;
        let log = [Boot(1), Written(0, 10), Synced(2), Written(20, 90), Cut(5), Cut(8)];
        assert_eq!(told(&log, 1), (ranges(&[(0, 5)]), 5));
        assert_eq!(told(&log, 9), (ranges(&[(0, 5)]), 5));
    }

    #[test]
    fn a_torn_record_ends_the_log_and_is_written_over() {
        let path = tempfile::NamedTempFile::new().unwrap();
        let open = || File::options().read(true).write(true).open(path.path()).unwrap();
        let mut log = Log::begin(open()).unwrap();
        log.written(3, 9).unwrap();
        log.written(30, 40).unwrap();
        drop(log);
        let mut bytes = std::fs::read(path.path()).unwrap();
        assert_eq!(bytes.len(), 3 * RECORD);
        bytes[2 * RECORD + 9] ^= 1;
        bytes.extend([7; 11]);
        std::fs::write(path.path(), &bytes).unwrap();
        let (mut log, told) = Log::resume(open(), 100).unwrap();
        assert_eq!(told, Told { own: ranges(&[(3, 9)]), base: 100 });
        let upto = log.unsynced().unwrap();
        log.written(50, 60).unwrap();
        log.synced(upto).unwrap();
        assert!(log.unsynced().is_some());
        log.synced(log.unsynced().unwrap()).unwrap();
        assert!(log.unsynced().is_none());
        drop(log);
        let (_, told) = Log::resume(open(), 55).unwrap();
        assert_eq!(told.own, ranges(&[(3, 9), (50, 60)]));
        assert_eq!(std::fs::read(path.path()).unwrap().len(), 5 * RECORD);
    }
}
