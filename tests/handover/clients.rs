//! Programs that must not notice anything: each counts what it did and says what went wrong.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// What all clients share.
#[derive(Debug, Default)]
pub struct Storm {
    pub stop: AtomicBool,
    pub done: AtomicU64,
    /// Longest write in microseconds: on the mount, beside it on the same disk, and on the mount
    /// right after an open, when the kernel asks for `security.capability` first.
    pub worst_write: [AtomicU64; 3],
    /// Holders of each lock file, by its number.
    holders: [AtomicU32; LOCKS],
    pub wrong: std::sync::Mutex<Vec<String>>,
}

const LOCKS: usize = 3;

type Check = Result<(), String>;

trait What<T> {
    fn what(self, what: &str) -> Result<T, String>;
}

impl<T> What<T> for io::Result<T> {
    fn what(self, what: &str) -> Result<T, String> {
        self.map_err(|e| format!("{what}: {e}"))
    }
}

fn same(what: &str, found: &[u8], expected: &[u8]) -> Check {
    if found == expected {
        return Ok(());
    }
    let at = found.iter().zip(expected).position(|(a, b)| a != b);
    Err(format!("{what}: {} bytes for {}, first difference {at:?}", found.len(), expected.len()))
}

impl Storm {
    /// Repeats `round` until the end of the storm or the first thing that is wrong.
    pub fn run(&self, mut round: impl FnMut(u64) -> Check) {
        for n in 0.. {
            if self.stop.load(Ordering::Relaxed) {
                return;
            }
            if let Err(wrong) = round(n) {
                self.wrong.lock().unwrap().push(format!("round {n}: {wrong}"));
                return;
            }
            self.done.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn timed_write(&self, which: usize, file: &mut File, bytes: &[u8]) -> io::Result<()> {
        let begin = Instant::now();
        file.write_all(bytes)?;
        let took = u64::try_from(begin.elapsed().as_micros()).unwrap();
        self.worst_write[which].fetch_max(took, Ordering::Relaxed);
        Ok(())
    }

    /// A recording in pieces of 320 bytes, appended to and renamed as MixMonitor does it, then
    /// read back.
    pub fn recorder(&self, raw: bool, dir: &Path, n: u64) -> Check {
        let (part, path) = (dir.join(format!("{n}.part")), dir.join(format!("{n}.wav")));
        let mut options = OpenOptions::new();
        let mut file = options.append(true).create_new(true).open(&part).what("create")?;
        let mut expected = Vec::new();
        for piece in 0..20u64 {
            let bytes = [(n * 31 + piece) as u8; 320];
            let which = if raw {
                1
            } else if piece == 0 {
                2
            } else {
                0
            };
            self.timed_write(which, &mut file, &bytes).what("write")?;
            expected.extend_from_slice(&bytes);
            std::thread::sleep(Duration::from_millis(1));
        }
        drop(file);
        fs::rename(&part, &path).what("rename")?;
        // FreePBX opens it again after a transfer.
        let mut file = OpenOptions::new().append(true).open(&path).what("open to append")?;
        self.timed_write(if raw { 1 } else { 2 }, &mut file, b"more").what("append")?;
        expected.extend_from_slice(b"more");
        drop(file);
        same("recording", &fs::read(&path).what("read")?, &expected)?;
        if n.is_multiple_of(3) {
            fs::remove_file(&path).what("remove a recording")?;
        }
        Ok(())
    }

    /// Makes, looks at, moves and removes names that nobody else touches.
    pub fn names(&self, dir: &Path, n: u64) -> Check {
        let (sub, moved) = (dir.join(format!("d{n}")), dir.join(format!("e{n}")));
        fs::create_dir(&sub).what("mkdir")?;
        fs::write(sub.join("a"), b"a").what("write a")?;
        std::os::unix::fs::symlink("a", sub.join("s")).what("symlink")?;
        fs::hard_link(sub.join("a"), sub.join("l")).what("link")?;
        fs::rename(&sub, &moved).what("rename a directory")?;
        same("through the link", &fs::read(moved.join("s")).what("read s")?, b"a")?;
        let mut names: Vec<_> = fs::read_dir(&moved)
            .what("list")?
            .map(|e| e.map(|e| e.file_name().into_string().unwrap()))
            .collect::<io::Result<_>>()
            .what("list on")?;
        names.sort();
        if names != ["a", "l", "s"] {
            return Err(format!("listed {names:?}"));
        }
        if !fs::exists(moved.join("a")).what("stat")? || fs::exists(&sub).what("stat")? {
            return Err("the directory is at its old name".to_owned());
        }
        for name in ["a", "l", "s"] {
            fs::remove_file(moved.join(name)).what(name)?;
        }
        fs::remove_dir(&moved).what("rmdir")
    }

    /// Lock files: only one may hold each at a time. An O_EXCL done twice gives two holders, and
    /// an unlink done twice removes the lock of whoever took it next.
    pub fn locks(&self, dir: &Path, n: u64) -> Check {
        let which = (n % LOCKS as u64) as usize;
        let path = dir.join(format!("lock{which}"));
        match OpenOptions::new().write(true).create_new(true).mode(0o644).open(&path) {
            Ok(file) => {
                let others = self.holders[which].fetch_add(1, Ordering::SeqCst);
                if others != 0 {
                    return Err("two hold one lock".to_owned());
                }
                file.write_all_at(&n.to_le_bytes(), 0).what("write the lock")?;
                let mut bytes = [0; 8];
                let again = File::open(&path).what("open a lock that is held")?;
                again.read_exact_at(&mut bytes, 0).what("read the lock")?;
                same("lock", &bytes, &n.to_le_bytes())?;
                self.holders[which].fetch_sub(1, Ordering::SeqCst);
                fs::remove_file(&path).what("remove a lock that is held")
            }
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => Ok(()),
            Err(e) => Err(format!("take the lock: {e}")),
        }
    }

    /// What Record() does: the file has no name while it is written, cut and read.
    pub fn nameless(&self, dir: &Path, n: u64) -> Check {
        let path = dir.join("nameless.wav");
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create_new(true)
            .open(&path)
            .what("create nameless")?;
        fs::remove_file(&path).what("unlink while open")?;
        let bytes = [n as u8; 3000];
        for _ in 0..4 {
            file.write_all(&bytes).what("write nameless")?;
        }
        file.set_len(7000).what("ftruncate")?;
        if file.metadata().what("fstat")?.len() != 7000 {
            return Err("fstat shows another length".to_owned());
        }
        file.seek(SeekFrom::Start(0)).what("seek")?;
        let mut found = Vec::new();
        file.read_to_end(&mut found).what("read nameless")?;
        same("nameless", &found, &[n as u8; 7000])
    }

    /// Reads what was released.
    pub fn reader(&self, files: &[(PathBuf, Vec<u8>)], n: u64) -> Check {
        let (path, expected) = &files[(n % files.len() as u64) as usize];
        same("released", &fs::read(path).what("read released")?, expected)
    }
}
