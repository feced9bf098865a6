//! The disk cache: one file a chunk, named by the chunk's SHA-256. The name is the check, so the
//! cache can be shared, torn, or older than the catalog, and never gives a wrong byte. The file's
//! mtime is its last use, and a hot one (`segments`) can not be written to: so the order survives
//! a restart.
//!
//! **Invariant:** a failure here costs a fetch, never a read.

use super::Options;
use super::segments::Segments;
use crate::clock::{SharedClock, Timestamp};
use crate::limits;
use crate::recording::{CHUNK_BYTES, Sha256};
use bytes::Bytes;
use parking_lot::Mutex;
use std::fs::{self, DirBuilder, File, Permissions};
use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::SystemTime;

/// Names of files being written begin with it.
const TEMP: &str = "tmp-";
/// Mode of a file; a hot one has no bit to write.
const COLD: u32 = 0o600;
const HOT: u32 = 0o400;

/// Chunks on disk.
#[derive(Debug)]
pub(super) struct DiskCache {
    dir: PathBuf,
    max: u64,
    free_min: u64,
    /// Bytes free on the disk of a directory.
    free: fn(&Path) -> io::Result<u64>,
    clock: SharedClock,
    index: Mutex<Index>,
    dropped: AtomicU64,
    /// What an earlier daemon left is in the index.
    scanned: AtomicBool,
}

#[derive(Debug, Default)]
struct Index {
    chunks: Segments,
    /// Nothing is written until then.
    resting: Option<Timestamp>,
}

impl DiskCache {
    /// The cache, if the options ask for one and its directory can be used.
    pub(super) fn open(options: &Options, clock: SharedClock) -> Option<DiskCache> {
        let dir = options.cache_dir.clone().filter(|_| options.cache_bytes_max > 0)?;
        // What is in it are calls: for nobody else to read.
        if let Err(e) = DirBuilder::new().recursive(true).mode(0o700).create(&dir) {
            tracing::warn!(dir = %dir.display(), error = %e, "no disk cache");
            return None;
        }
        let (max, free_min) = (options.cache_bytes_max, options.cache_free_min);
        let (index, dropped, scanned) = Default::default();
        Some(DiskCache { dir, max, free_min, free, clock, index, dropped, scanned })
    }

    /// Takes over what an earlier daemon left. Until it is done, a chunk is found by its name.
    pub(super) fn scan(&self) {
        let mut found: Vec<(SystemTime, Sha256, u64, bool)> = Vec::new();
        let removed = each_file(&self.dir, &mut |path, sum, stat| match sum {
            Some(sum) => {
                let hot = stat.permissions().mode() & 0o200 == 0;
                let used = stat.modified().unwrap_or(SystemTime::UNIX_EPOCH);
                found.push((used, sum, stat.len(), hot));
            }
            None => {
                // Torn by a crash. One being written now is written again.
                let _gone = fs::remove_file(path);
            }
        });
        let complete = removed.is_ok();
        if let Err(e) = removed {
            tracing::warn!(dir = %self.dir.display(), error = %e, "disk cache not read in full");
        }
        found.sort_unstable_by_key(|(modified, ..)| std::cmp::Reverse(*modified));
        let mut index = self.index.lock();
        for (before, (_, sum, size, hot)) in found.into_iter().enumerate() {
            index.chunks.add_old(sum, size, before, hot);
        }
        let surplus = index.chunks.shrink(self.max);
        self.scanned.store(complete, Ordering::Release);
        drop(index);
        self.remove(&surplus);
    }

    /// Bytes in it.
    pub(super) fn bytes(&self) -> u64 {
        self.index.lock().chunks.bytes()
    }

    /// Chunks that were torn or changed.
    pub(super) fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }

    /// Removes up to `chunks` chunks, those that go first, and takes in nothing more for a while,
    /// if it is on this file system (`st_dev`).
    pub(super) fn give_way(&self, device: u64, chunks: usize) {
        if fs::metadata(&self.dir).is_ok_and(|dir| dir.dev() == device) {
            self.give_up(chunks);
        }
    }

    /// Others fill the disk too: gives room back until there is enough, or nothing left to give.
    pub(super) fn relieve(&self) {
        while self.has_space().is_err() && self.give_up(limits::CACHE_GIVES_WAY) > 0 {}
    }

    fn give_up(&self, chunks: usize) -> usize {
        let mut index = self.index.lock();
        index.resting = Some(self.clock.now().plus(limits::CACHE_REST));
        let given = index.chunks.give_up(chunks);
        drop(index);
        self.remove(&given);
        given.len()
    }

    /// Whether it is here, as far as is known.
    pub(super) fn contains(&self, sum: Sha256) -> bool {
        self.index.lock().chunks.contains(&sum)
    }

    /// Whether it is worth looking for.
    pub(super) fn may_have(&self, sum: Sha256) -> bool {
        !self.scanned.load(Ordering::Acquire) || self.contains(sum)
    }

    /// The chunk with this digest. What does not have it is removed.
    pub(super) fn get(&self, sum: Sha256) -> Option<Bytes> {
        let path = self.path(sum);
        let mut bytes = Vec::new();
        let file = match File::open(&path) {
            Ok(file) => file,
            Err(e) => {
                if e.kind() == ErrorKind::NotFound {
                    self.index.lock().chunks.remove(sum);
                }
                return None;
            }
        };
        // One that was made longer is not read to its end.
        (&file).take(CHUNK_BYTES + 1).read_to_end(&mut bytes).ok()?;
        if Sha256::of(&bytes) != sum {
            self.dropped.fetch_add(1, Ordering::Relaxed);
            tracing::warn!(file = %path.display(), "a damaged file in the disk cache is removed");
            self.index.lock().chunks.remove(sum);
            self.remove(&[sum]);
            return None;
        }
        let moved = self.index.lock().chunks.hit(sum, bytes.len() as u64, self.max);
        // Only so that the next daemon knows.
        let _order = file.set_modified(self.clock.now().into());
        if moved.promoted {
            let _order = file.set_permissions(Permissions::from_mode(HOT));
        }
        for cold in moved.demoted {
            let _order = fs::set_permissions(self.path(cold), Permissions::from_mode(COLD));
        }
        Some(bytes.into())
    }

    /// Removes a chunk, if it is here.
    pub(super) fn forget(&self, sum: Sha256) {
        self.index.lock().chunks.remove(sum);
        self.remove(&[sum]);
    }

    /// Puts a chunk in, if there is room.
    pub(super) fn insert(&self, sum: Sha256, bytes: &[u8]) {
        if !self.ready(sum) {
            return;
        }
        let result = self.has_space().and_then(|()| self.write(sum, bytes));
        if let Err(e) = result {
            tracing::warn!(dir = %self.dir.display(), error = %e, "the disk cache rests");
            self.index.lock().resting = Some(self.clock.now().plus(limits::CACHE_REST));
            return;
        }
        let mut index = self.index.lock();
        index.chunks.add(sum, bytes.len() as u64);
        let surplus = index.chunks.shrink(self.max);
        drop(index);
        self.remove(&surplus);
    }

    fn ready(&self, sum: Sha256) -> bool {
        let mut index = self.index.lock();
        let now = self.clock.now();
        index.resting = index.resting.filter(|until| *until > now);
        index.resting.is_none() && !index.chunks.contains(&sum)
    }

    /// The disk may be the one that calls are recorded to.
    fn has_space(&self) -> io::Result<()> {
        match (self.free)(&self.dir)? < self.free_min {
            true => Err(ErrorKind::StorageFull.into()),
            false => Ok(()),
        }
    }

    fn write(&self, sum: Sha256, bytes: &[u8]) -> io::Result<()> {
        let temp = self.dir.join(format!("{TEMP}{:016x}", fastrand::u64(..)));
        let path = self.path(sum);
        let written = write_new(&temp, bytes)
            .and_then(|()| path.parent().map_or(Ok(()), make_dir))
            .and_then(|()| fs::rename(&temp, &path));
        if written.is_err() {
            let _not_made = fs::remove_file(&temp);
        }
        written
    }

    fn remove(&self, sums: &[Sha256]) {
        for sum in sums {
            let _gone = fs::remove_file(self.path(*sum));
        }
    }

    fn path(&self, sum: Sha256) -> PathBuf {
        let hex = sum.to_string();
        let (dir, _) = hex.split_at(2);
        self.dir.join(dir).join(&hex)
    }
}

fn free(dir: &Path) -> io::Result<u64> {
    let stat = rustix::fs::statvfs(dir)?;
    Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
}

fn write_new(path: &Path, bytes: &[u8]) -> io::Result<()> {
    File::options().write(true).create_new(true).mode(COLD).open(path)?.write_all(bytes)
}

fn make_dir(dir: &Path) -> io::Result<()> {
    match DirBuilder::new().mode(0o700).create(dir) {
        Err(e) if e.kind() == ErrorKind::AlreadyExists => Ok(()),
        answer => answer,
    }
}

/// Calls `visit` for each chunk and, without a digest, for each file left half-written.
fn each_file(
    dir: &Path,
    visit: &mut dyn FnMut(&Path, Option<Sha256>, &fs::Metadata),
) -> io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let name = entry.file_name();
        let Some(name) = name.to_str() else { continue };
        let Ok(stat) = entry.metadata() else { continue };
        if stat.is_dir() && name.len() == 2 {
            each_file(&entry.path(), visit)?;
        } else if let Some(sum) = Sha256::from_hex(name) {
            visit(&entry.path(), Some(sum), &stat);
        } else if name.starts_with(TEMP) {
            visit(&entry.path(), None, &stat);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::segments::BLOCK;
    use super::*;
    use crate::clock::ManualClock;

    fn options(dir: &Path, chunks: u64) -> Options {
        Options {
            cache_dir: Some(dir.to_owned()),
            cache_bytes_max: chunks * BLOCK,
            cache_free_min: 0,
            ..Options::default()
        }
    }

    fn open(dir: &Path, chunks: u64) -> DiskCache {
        DiskCache::open(&options(dir, chunks), ManualClock::at(Timestamp(0))).unwrap()
    }

    fn chunk(n: u8) -> (Sha256, Vec<u8>) {
        let bytes = vec![n; 100];
        (Sha256::of(&bytes), bytes)
    }

    fn files(dir: &Path) -> usize {
        let mut n = 0;
        each_file(dir, &mut |_, _, _| n += 1).unwrap();
        n
    }

    #[test]
    fn the_least_recently_used_goes_first_and_the_limit_holds() {
        let dir = tempfile::tempdir().unwrap();
        let cache = open(dir.path(), 3);
        for n in 0..3 {
            cache.insert(chunk(n).0, &chunk(n).1);
        }
        assert!(cache.get(chunk(0).0).is_some());
        cache.insert(chunk(3).0, &chunk(3).1);
        assert!(cache.get(chunk(1).0).is_none());
        for n in [0, 2, 3] {
            assert_eq!(cache.get(chunk(n).0).unwrap(), chunk(n).1);
        }
        assert_eq!((cache.bytes(), files(dir.path())), (3 * BLOCK, 3));
    }

    #[test]
    fn it_survives_a_restart_also_before_it_was_scanned() {
        let dir = tempfile::tempdir().unwrap();
        let before = open(dir.path(), 10);
        for n in 0..6 {
            before.insert(chunk(n).0, &chunk(n).1);
            let modified = SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(n.into());
            File::open(before.path(chunk(n).0)).unwrap().set_modified(modified).unwrap();
        }
        fs::write(dir.path().join("tmp-torn"), "x").unwrap();
        let after = open(dir.path(), 3);
        assert!(after.may_have(chunk(0).0) && after.may_have(chunk(9).0));
        assert_eq!(after.get(chunk(0).0).unwrap(), chunk(0).1);
        after.scan();
        assert!(after.may_have(chunk(0).0) && !after.may_have(chunk(9).0));
        assert_eq!((after.bytes(), files(dir.path())), (3 * BLOCK, 3));
        let kept: Vec<u8> = (0..6).filter(|n| after.get(chunk(*n).0).is_some()).collect();
        assert_eq!(kept, [0, 4, 5]);
    }

    #[test]
    fn a_restart_keeps_what_was_read_again_and_in_which_order() {
        let dir = tempfile::tempdir().unwrap();
        let clock = ManualClock::at(Timestamp(0));
        let before = DiskCache::open(&options(dir.path(), 10), clock.clone()).unwrap();
        for n in 0..8 {
            before.insert(chunk(n).0, &chunk(n).1);
        }
        for n in [5, 1, 3] {
            clock.advance(std::time::Duration::from_secs(1));
            before.get(chunk(n).0).unwrap();
        }
        let after = open(dir.path(), 10);
        after.scan();
        assert_eq!(after.give_up(5), 5);
        let left = |n: &u8| after.path(chunk(*n).0).exists();
        assert_eq!((0..8).filter(left).collect::<Vec<_>>(), [1, 3, 5]);
        after.give_up(1);
        assert_eq!((0..8).filter(left).collect::<Vec<_>>(), [1, 3]);
    }

    #[test]
    fn it_gives_way_when_others_fill_its_disk() {
        static FREE: AtomicU64 = AtomicU64::new(1 << 30);
        let dir = tempfile::tempdir().unwrap();
        let mut cache = open(dir.path(), 10_000);
        cache.free = |_: &Path| Ok(FREE.load(Ordering::Relaxed));
        cache.free_min = 1 << 20;
        let chunks: Vec<_> = (0..300u32).map(|n| n.to_le_bytes()).collect();
        for bytes in &chunks {
            cache.insert(Sha256::of(bytes), bytes);
        }
        cache.relieve();
        assert_eq!(files(dir.path()), 300);
        FREE.store(0, Ordering::Relaxed);
        cache.relieve();
        assert_eq!((cache.bytes(), files(dir.path())), (0, 0));
    }

    #[test]
    fn a_torn_or_changed_file_is_dropped() {
        let dir = tempfile::tempdir().unwrap();
        let cache = open(dir.path(), 3);
        let (sum, bytes) = chunk(1);
        for bad in [&b""[..], &bytes[..50], &[2; 100]] {
            cache.insert(sum, &bytes);
            fs::write(cache.path(sum), bad).unwrap();
            assert!(cache.get(sum).is_none());
            assert!(!cache.path(sum).exists());
            assert_eq!(cache.bytes(), 0);
        }
    }

    #[test]
    fn a_full_disk_makes_it_rest_and_then_go_on() {
        let dir = tempfile::tempdir().unwrap();
        let clock = ManualClock::at(Timestamp(0));
        let full = Options { cache_free_min: u64::MAX, ..options(dir.path(), 3) };
        let mut cache = DiskCache::open(&full, clock.clone()).unwrap();
        cache.insert(chunk(1).0, &chunk(1).1);
        cache.free_min = 0;
        cache.insert(chunk(2).0, &chunk(2).1);
        assert_eq!(files(dir.path()), 0);
        clock.advance(limits::CACHE_REST);
        cache.insert(chunk(2).0, &chunk(2).1);
        assert_eq!(files(dir.path()), 1);
    }

    #[test]
    fn a_directory_that_can_not_be_used_means_no_cache() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("file");
        fs::write(&file, "").unwrap();
        let options = options(&file.join("below"), 3);
        assert!(DiskCache::open(&options, ManualClock::at(Timestamp(0))).is_none());
        // Gone while in use.
        let cache = open(&dir.path().join("cache"), 3);
        fs::remove_dir_all(dir.path().join("cache")).unwrap();
        cache.insert(chunk(1).0, &chunk(1).1);
        assert!(cache.get(chunk(1).0).is_none());
    }
}
