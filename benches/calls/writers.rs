//! Programs that record: many files open, written in small pieces at their times.

use hdrhistogram::Histogram;
use std::fs::{File, OpenOptions};
use std::io::{Error, Result};
use std::path::Path;
use std::sync::Barrier;
use std::time::{Duration, Instant};

/// Times of calls, in nanoseconds.
pub type Times = Histogram<u64>;

/// Longest time that is told apart, in nanoseconds: ten minutes.
const LONGEST: u64 = 600_000_000_000;
/// Threads of paced writers: few, as in a PBX, and enough that one slow call does not make all
/// the others late.
const PACED_THREADS: usize = 4;
/// Threads that write as fast as they can.
const FLAT_OUT_THREADS: usize = 2;
/// Bytes written flat out in one run.
const FLAT_OUT_BYTES: u64 = 768 << 20;

pub fn no_times() -> Times {
    Times::new_with_max(LONGEST, 3).expect("constant bounds are right")
}

pub fn note(times: &mut Times, begun: Instant) {
    times.saturating_record(u64::try_from(begun.elapsed().as_nanos()).unwrap_or(LONGEST));
}

pub fn create(path: &Path) -> Result<File> {
    OpenOptions::new().write(true).create_new(true).open(path)
}

/// One `write(2)`; writing less than asked for is a failure here.
pub fn write_once(file: &File, bytes: &[u8]) -> Result<()> {
    let written = rustix::io::write(file, bytes)?;
    if written == bytes.len() { Ok(()) } else { Err(Error::other("a short write")) }
}

/// A header, as the first write of a recording is.
pub const FIRST_WRITE: [u8; 44] = [0x52; 44];

/// Who records writes the header at once; that one is measured with the create.
fn begin_one(path: &Path) -> Result<File> {
    let file = create(path)?;
    write_once(&file, &FIRST_WRITE)?;
    Ok(file)
}

/// Many recordings at once.
#[derive(Clone, Copy, Debug)]
pub struct Recording {
    /// Files open at the same time.
    pub files: usize,
    /// Bytes of one write.
    pub bytes: usize,
    /// Between two writes of one file; none: as fast as it goes.
    pub every: Option<Duration>,
    /// How long.
    pub lasting: Duration,
}

/// What came of it.
pub struct Recorded {
    /// Of `write(2)` alone.
    pub times: Times,
    /// Part of the writes that were due and were done.
    pub kept_pace: f64,
}

impl Recording {
    /// Opens all files in `dir` and writes their headers, then measures.
    pub fn run(&self, dir: &Path) -> Result<Recorded> {
        let threads = if self.every.is_some() { PACED_THREADS } else { FLAT_OUT_THREADS };
        let begin = Barrier::new(threads);
        let writers = |number: usize| {
            let mine = (number..self.files).step_by(threads);
            let files = mine.map(|n| Ok((n, begin_one(&dir.join(format!("call-{n:04}.wav")))?)));
            let files: Result<Vec<(usize, File)>> = files.collect();
            begin.wait();
            let files = files?;
            match self.every {
                Some(every) => self.paced(&files, every),
                None => self.flat_out(&files, FLAT_OUT_BYTES / threads as u64),
            }
        };
        let mut all = Recorded { times: no_times(), kept_pace: 1.0 };
        let mut due = 0;
        std::thread::scope(|scope| {
            let running: Vec<_> = (0..threads)
                .map(|n| {
                    scope.spawn({
                        let writers = &writers;
                        move || writers(n)
                    })
                })
                .collect();
            for thread in running {
                let (times, wanted) = thread.join().expect("writers do not panic")?;
                all.times.add(&times).expect("the bounds are the same");
                due += wanted;
            }
            Ok::<(), Error>(())
        })?;
        if due > 0 {
            all.kept_pace = all.times.len() as f64 / due as f64;
        }
        Ok(all)
    }

    /// Each file has its own moments, spread evenly. Who is late writes at once; what was due
    /// after the end is not written any more.
    fn paced(&self, files: &[(usize, File)], every: Duration) -> Result<(Times, u64)> {
        let piece = vec![0x55; self.bytes];
        let mut times = no_times();
        let mut due = 0;
        let begin = Instant::now();
        let end = begin + self.lasting;
        for tick in 0.. {
            for (number, file) in files {
                let phase = every.mul_f64(*number as f64 / self.files as f64);
                let moment = begin + every * tick + phase;
                if moment >= end {
                    return Ok((times, due));
                }
                due += 1;
                let now = Instant::now();
                if now >= end {
                    continue;
                }
                std::thread::sleep(moment.saturating_duration_since(now));
                let begun = Instant::now();
                write_once(file, &piece)?;
                note(&mut times, begun);
            }
        }
        Ok((times, due))
    }

    fn flat_out(&self, files: &[(usize, File)], bytes: u64) -> Result<(Times, u64)> {
        let piece = vec![0x55; self.bytes];
        let mut times = no_times();
        let mut left = bytes / self.bytes as u64;
        let end = Instant::now() + self.lasting;
        while left > 0 && Instant::now() < end {
            for (_, file) in files.iter().take(usize::try_from(left).unwrap_or(usize::MAX)) {
                let begun = Instant::now();
                write_once(file, &piece)?;
                note(&mut times, begun);
                left -= 1;
            }
        }
        Ok((times, 0))
    }
}
