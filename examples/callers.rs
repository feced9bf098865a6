//! Many calls at the same time, each recorded into a file, checked and counted: what a trial of
//! kills, restarts and power-offs is measured by.
//!
//! `callers record DIRECTORY LEDGER CALLS` records that many calls at a time until a file
//! `LEDGER.stop` appears, and keeps its counts in `LEDGER.counts`; a file `LEDGER.reset` makes it
//! forget the worst times so far. `callers verify DIRECTORY LEDGER` compares every file that the
//! ledger knows, byte for byte.
//!
//! Any error of any call counts, EINTR too. The ledger is written before the deed, so that also
//! what a power-off interrupts is known.

use rustix::fs::{AtFlags, CWD, Mode, OFlags};
use rustix::io::Errno;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

const USAGE: &str =
    "usage: callers record DIRECTORY LEDGER CALLS | callers verify DIRECTORY LEDGER";
/// 20 ms of 8 kHz PCM, and how often Asterisk writes it without a buffer.
const PACKET: (usize, Duration) = (320, Duration::from_millis(20));
/// A full buffer of Asterisk's, and how long it takes to fill.
const BUFFER: (usize, Duration) = (32 << 10, Duration::from_millis(2048));

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let result = match words.as_slice() {
        ["record", directory, ledger, calls] => match calls.parse() {
            Ok(calls) => record(Path::new(directory), ledger, calls),
            Err(_) => Err(USAGE.into()),
        },
        ["verify", directory, ledger] => verify(Path::new(directory), ledger),
        _ => Err(USAGE.into()),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("callers: {error}");
            ExitCode::FAILURE
        }
    }
}

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

#[derive(Default)]
struct Counts {
    calls: u64,
    operations: u64,
    errors: u64,
    first_errors: Vec<String>,
    worst: BTreeMap<&'static str, Duration>,
}

struct Trial {
    directory: PathBuf,
    ledger: Mutex<File>,
    counts: Mutex<Counts>,
    over: AtomicBool,
}

fn record(directory: &Path, ledger: &str, calls: usize) -> Result<()> {
    let file = File::options().create(true).append(true).open(ledger)?;
    let trial = Trial {
        directory: directory.to_owned(),
        ledger: Mutex::new(file),
        counts: Mutex::default(),
        over: AtomicBool::new(false),
    };
    let life = format!("{:08x}", fastrand::u32(..));
    std::thread::scope(|scope| {
        for line in 0..calls {
            let (trial, life) = (&trial, &life);
            scope.spawn(move || {
                for number in 0.. {
                    if trial.over.load(Ordering::Relaxed) {
                        return;
                    }
                    trial.call(line, &format!("{life}-{line:03}-{number:05}"));
                }
            });
        }
        loop {
            std::thread::sleep(Duration::from_millis(200));
            if std::fs::remove_file(format!("{ledger}.reset")).is_ok() {
                trial.counts().worst.clear();
            }
            let over = Path::new(&format!("{ledger}.stop")).exists();
            trial.over.store(over, Ordering::Relaxed);
            trial.write_counts(ledger)?;
            if over {
                break;
            }
        }
        Ok(())
    })
    .and_then(|()| trial.write_counts(ledger))
}

impl Trial {
    fn counts(&self) -> std::sync::MutexGuard<'_, Counts> {
        self.counts.lock().unwrap_or_else(|e| e.into_inner())
    }

    fn write_counts(&self, ledger: &str) -> Result<()> {
        let counts = self.counts();
        let worst: BTreeMap<_, _> =
            counts.worst.iter().map(|(k, v)| (*k, v.as_micros() as f64 / 1000.0)).collect();
        let json = serde_json::json!({
            "calls": counts.calls, "operations": counts.operations, "errors": counts.errors,
            "first_errors": counts.first_errors, "worst_ms": worst,
        });
        std::fs::write(format!("{ledger}.counts.new"), json.to_string())?;
        Ok(std::fs::rename(format!("{ledger}.counts.new"), format!("{ledger}.counts"))?)
    }

    fn note(&self, line: &str) {
        let mut ledger = self.ledger.lock().unwrap_or_else(|e| e.into_inner());
        if let Err(error) = ledger.write_all(format!("{line}\n").as_bytes()) {
            eprintln!("callers: the ledger: {error}");
        }
    }

    fn timed<T>(
        &self,
        what: &'static str,
        path: &Path,
        deed: impl FnOnce() -> std::result::Result<T, Errno>,
    ) -> Option<T> {
        let began = Instant::now();
        let result = deed();
        let took = began.elapsed();
        let mut counts = self.counts();
        counts.operations += 1;
        let worst = counts.worst.entry(what).or_default();
        *worst = took.max(*worst);
        match result {
            Ok(value) => Some(value),
            Err(errno) => {
                counts.errors += 1;
                if counts.first_errors.len() < 20 {
                    counts.first_errors.push(format!("{what} {}: {errno}", path.display()));
                }
                None
            }
        }
    }

    /// One call: a lock, a recording, its name changed at the end, and a look at what is there.
    fn call(&self, line: usize, name: &str) {
        let day = self.directory.join(format!("line{:02}", line % 10));
        let _it_is_there_mostly = rustix::fs::mkdir(&day, Mode::from_raw_mode(0o755));
        let lock = day.join(format!("{name}.lock"));
        let exclusive = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL;
        let made = self.timed("lock", &lock, || {
            rustix::fs::openat(CWD, &lock, exclusive, Mode::from_raw_mode(0o644)).map(drop)
        });
        let recording = day.join(format!("{name}-in.wav"));
        let bytes =
            self.record(&recording, name, if line.is_multiple_of(5) { BUFFER } else { PACKET });
        let end = day.join(format!("{name}.wav"));
        if self.timed("rename", &recording, || rustix::fs::rename(&recording, &end)).is_some()
            && let Some(bytes) = bytes
        {
            self.note(&format!("done {} {name} {bytes}", shown(&end, &self.directory)));
            self.timed("stat", &end, || {
                let found = rustix::fs::statat(CWD, &end, AtFlags::empty())?.st_size;
                if found == bytes as i64 { Ok(()) } else { Err(Errno::BADMSG) }
            });
            self.timed("read", &end, || check(&end, name, bytes));
        }
        if made.is_some() {
            self.timed("unlink", &lock, || rustix::fs::unlink(&lock));
        }
        self.counts().calls += 1;
    }

    fn record(&self, path: &Path, name: &str, rhythm: (usize, Duration)) -> Option<usize> {
        self.note(&format!("open {} {name}", shown(path, &self.directory)));
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC;
        let made = self.timed("create", path, || {
            rustix::fs::openat(CWD, path, flags, Mode::from_raw_mode(0o644))
        });
        let Some(file) = made else {
            // A PBX does not try at once either.
            std::thread::sleep(PACKET.1);
            return None;
        };
        let until = Instant::now() + Duration::from_millis(fastrand::u64(1000..6000));
        let (size, pace) = rhythm;
        let mut at = 0;
        let mut whole = true;
        while Instant::now() < until && !self.over.load(Ordering::Relaxed) {
            let bytes: Vec<u8> = (at..at + size).map(|i| byte(name, i)).collect();
            whole &= self.timed("write", path, || write(&file, &bytes)).is_some();
            at += size;
            std::thread::sleep(pace.min(until.saturating_duration_since(Instant::now())));
        }
        // Its error is told to nobody here; what it would have meant is found by reading.
        self.timed("close", path, || {
            drop(file);
            Ok(())
        });
        whole.then_some(at)
    }
}

fn write(file: &OwnedFd, bytes: &[u8]) -> std::result::Result<(), Errno> {
    let written = rustix::io::write(file, bytes)?;
    if written == bytes.len() { Ok(()) } else { Err(Errno::IO) }
}

fn check(path: &Path, name: &str, bytes: usize) -> std::result::Result<(), Errno> {
    let found = std::fs::read(path).map_err(|e| Errno::from_io_error(&e).unwrap_or(Errno::IO))?;
    let same = found.len() == bytes && found.iter().enumerate().all(|(i, b)| *b == byte(name, i));
    if same { Ok(()) } else { Err(Errno::BADMSG) }
}

/// What stands at this place of the recording of this name.
fn byte(name: &str, at: usize) -> u8 {
    let seed = name.bytes().fold(7_u32, |sum, b| sum.wrapping_mul(31).wrapping_add(b.into()));
    let mixed = seed.wrapping_add(at as u32).wrapping_mul(2_654_435_761);
    (mixed >> 16) as u8
}

fn shown(path: &Path, below: &Path) -> String {
    path.strip_prefix(below).unwrap_or(path).display().to_string()
}

/// Files that are done must be whole; one that was being recorded must be a beginning of what it
/// would have become.
fn verify(directory: &Path, ledger: &str) -> Result<()> {
    let text = std::fs::read_to_string(ledger)?;
    let mut open = BTreeMap::new();
    let (mut whole, mut wrong) = (0, Vec::new());
    for line in text.lines() {
        match line.split(' ').collect::<Vec<_>>().as_slice() {
            ["open", path, name] => {
                open.insert((*name).to_owned(), (*path).to_owned());
            }
            ["done", path, name, bytes] => {
                open.remove(*name);
                match check(&directory.join(path), name, bytes.parse()?) {
                    Ok(()) => whole += 1,
                    Err(errno) => wrong.push(format!("{path}: {errno}")),
                }
            }
            _ => wrong.push(format!("the ledger says {line:?}")),
        }
    }
    let cut = open.len();
    for (name, path) in open {
        // Its name may have been changed without the ledger knowing any more.
        let renamed = path.replace("-in.wav", ".wav");
        let found = std::fs::read(directory.join(&path))
            .or_else(|_| std::fs::read(directory.join(renamed)))
            .unwrap_or_default();
        if !found.iter().enumerate().all(|(i, b)| *b == byte(&name, i)) {
            wrong.push(format!("{path}: is no beginning of what it would have become"));
        }
    }
    println!("{whole} recordings whole, {cut} cut off, {} wrong", wrong.len());
    if wrong.is_empty() {
        return Ok(());
    }
    wrong.truncate(20);
    Err(wrong.join("\n").into())
}
