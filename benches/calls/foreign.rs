//! What another program costs the calls that does as much as the archive does, as carefully: copies
//! recordings to another directory, each synced and read back, or encodes them as FLAC before.

use bytes::Bytes;
use rustix::fs::{Advice, fadvise};
use spoolfs::codec::flac::{Encoder, candidate, decode};
use spoolfs::recording::{Hasher, chunk_at, chunk_range};
use std::fs::File;
use std::io::{Error, Result};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// As many as the daemon has by default (`uploads`).
const COPYING_THREADS: usize = 4;
/// As the daemon's encoding does.
const NICENESS: i32 = 10;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Work {
    Copies,
    Encodes,
}

/// It goes on meanwhile.
pub struct Begun {
    threads: Vec<JoinHandle<Result<()>>>,
    done: Arc<AtomicUsize>,
    _to: tempfile::TempDir,
}

/// Begins to work on the first `count` files of `from`, evenly over a time.
pub fn begin(
    work: Work,
    from: &Path,
    count: u64,
    lasting: Duration,
) -> std::result::Result<Begun, String> {
    let to = tempfile::Builder::new().prefix("bench-").tempdir().map_err(|e| e.to_string())?;
    let mut files = Vec::new();
    for entry in std::fs::read_dir(from).map_err(|e| e.to_string())? {
        files.push(entry.map_err(|e| e.to_string())?.path());
    }
    files.sort();
    files.truncate(usize::try_from(count).unwrap_or(usize::MAX));
    let (files, next, done) =
        (Arc::new(files), Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let begun = Instant::now();
    let one = || {
        let (files, next, done) = (files.clone(), next.clone(), done.clone());
        let to = to.path().to_owned();
        std::thread::spawn(move || {
            if work == Work::Encodes {
                let thread = Some(rustix::thread::gettid());
                rustix::process::setpriority_process(thread, NICENESS)?;
            }
            loop {
                let n = next.fetch_add(1, Ordering::Relaxed);
                let Some(file) = files.get(n) else { return Ok(()) };
                let due = begun + lasting.mul_f64(n as f64 / files.len() as f64);
                std::thread::sleep(due.saturating_duration_since(Instant::now()));
                if begun.elapsed() >= lasting {
                    return Ok(());
                }
                work.on(file, &to, n)?;
                done.fetch_add(1, Ordering::Relaxed);
            }
        })
    };
    let threads = (0..COPYING_THREADS).map(|_| one()).collect();
    Ok(Begun { threads, done, _to: to })
}

impl Begun {
    /// Waits for its end; how many files it did.
    pub fn done(self) -> std::result::Result<usize, String> {
        for thread in self.threads {
            thread.join().expect("no panic").map_err(|e| format!("another program: {e}"))?;
        }
        Ok(self.done.load(Ordering::Relaxed))
    }
}

impl Work {
    fn on(self, from: &Path, to: &Path, n: usize) -> Result<()> {
        let bytes = std::fs::read(from)?;
        match self {
            Work::Copies => place(&bytes, &to.join(format!("{n}.wav"))),
            Work::Encodes => place(&encoded(&bytes)?, &to.join(format!("{n}.flac"))),
        }
    }
}

/// Synced, under its name, and read back from the disk.
fn place(bytes: &[u8], path: &Path) -> Result<()> {
    let mut sum = Hasher::default();
    sum.update(bytes);
    let temp: PathBuf = path.with_extension("part");
    std::fs::write(&temp, bytes)?;
    let file = File::open(&temp)?;
    file.sync_all()?;
    fadvise(&file, 0, None, Advice::DontNeed)?;
    std::fs::rename(&temp, path)?;
    File::open(path.parent().expect("a directory"))?.sync_all()?;
    let mut again = Hasher::default();
    again.update(&std::fs::read(path)?);
    if again.finish().0 == sum.finish().0 { Ok(()) } else { Err(Error::other("read otherwise")) }
}

/// As FLAC, decoded again and compared.
fn encoded(bytes: &[u8]) -> Result<Vec<u8>> {
    let wrong = || Error::other("no FLAC");
    let mut read = |at: u64, len: usize| {
        let at = (at as usize).min(bytes.len());
        Ok::<_, Error>(Bytes::copy_from_slice(&bytes[at..(at + len).min(bytes.len())]))
    };
    let found = candidate(b"call.wav", bytes.len() as u64, &mut read)?.ok_or_else(wrong)?;
    let file = tempfile::tempfile()?;
    let mut encoder = Encoder::new(found, &file)?;
    bytes.chunks(256 << 10).try_for_each(|part| encoder.push(part))?;
    let map = encoder.finish()?.ok_or_else(wrong)?;
    let mut stored = vec![0; file.metadata()?.len() as usize];
    file.read_exact_at(&mut stored, 0)?;
    let mut at = 0;
    while at < bytes.len() as u64 {
        let range = chunk_range(chunk_at(at), bytes.len() as u64);
        let piece = map.piece(&range).stored;
        let frames = &stored[piece.start as usize..piece.end as usize];
        let decoded = decode(&map, &range, frames).map_err(|e| Error::other(e.to_string()))?;
        if decoded != bytes[range.start as usize..range.end as usize] {
            return Err(wrong());
        }
        at = range.end;
    }
    Ok(stored)
}
