//! The cases, each on a system that is brought up for it.

use crate::Scale;
use crate::report::{Results, Taken};
use crate::systems::{Ground, System};
use crate::writers::{FIRST_WRITE, Recording, create, no_times, note, write_once};
use clap::ValueEnum;
use std::fs::File;
use std::io::{Read, Result, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Of a file that is read in parts.
const PLAYED_BYTES: usize = 256 << 10;
const PLAYED_FILES: usize = 64;
const READ_BYTES: usize = 8 << 10;
/// Longer than the kernel takes attributes of any of these file systems for known.
const FORGET_ATTRIBUTES: Duration = Duration::from_millis(1300);

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Case {
    /// 500 recordings, 320 B every 20 ms each.
    #[value(name = "paced-320b-500")]
    Small500,
    /// 1,000 recordings, 320 B every 20 ms each.
    #[value(name = "paced-320b-1000")]
    Small1000,
    /// 500 recordings, 32 KiB every 2 s each.
    #[value(name = "paced-32k-500")]
    Large500,
    /// 1,000 recordings, 32 KiB every 2 s each.
    #[value(name = "paced-32k-1000")]
    Large1000,
    /// 500 recordings, 320 B as fast as it goes.
    #[value(name = "flat-320b")]
    FlatSmall,
    /// 500 recordings, 32 KiB as fast as it goes.
    #[value(name = "flat-32k")]
    FlatLarge,
    /// Create with a first write, close, stat.
    Create,
    /// Open, seek, read 8 KiB, close.
    #[value(name = "read-8k")]
    Read,
    /// `ls -l`.
    List,
    /// The target says nothing and many recordings wait for it.
    Blackhole,
    /// The target hangs and many listen to what it has.
    Stalled,
    /// Recordings are closed, and synced to the disk, all the time.
    Sync,
    /// Many recordings are encoded as FLAC and archived.
    Encode,
}

impl Case {
    pub const ALL: [Case; 13] = [
        Case::Small500,
        Case::Small1000,
        Case::Large500,
        Case::Large1000,
        Case::FlatSmall,
        Case::FlatLarge,
        Case::Create,
        Case::Read,
        Case::List,
        Case::Blackhole,
        Case::Stalled,
        Case::Sync,
        Case::Encode,
    ];

    fn measure(self, dir: &Path, scale: &Scale) -> Result<Vec<Taken>> {
        let small = Some(Duration::from_millis(20));
        let large = Some(Duration::from_secs(2));
        match self {
            Case::Small500 => {
                record("320 B every 20 ms, 500 recordings", dir, 500, 320, small, scale)
            }
            Case::Small1000 => {
                record("320 B every 20 ms, 1,000 recordings", dir, 1000, 320, small, scale)
            }
            Case::Large500 => {
                record("32 KiB every 2 s, 500 recordings", dir, 500, 32 << 10, large, scale)
            }
            Case::Large1000 => {
                record("32 KiB every 2 s, 1,000 recordings", dir, 1000, 32 << 10, large, scale)
            }
            Case::FlatSmall => record("320 B flat out, 500 recordings", dir, 500, 320, None, scale),
            Case::FlatLarge => {
                record("32 KiB flat out, 500 recordings", dir, 500, 32 << 10, None, scale)
            }
            Case::Create => create_close_stat(dir, scale),
            Case::Read => read_parts(dir, scale),
            Case::List | Case::Blackhole | Case::Stalled | Case::Sync | Case::Encode => {
                Ok(Vec::new())
            }
        }
    }
}

/// Every system once in each round, each time another one first.
pub fn in_turns(wanted: &[System], round: usize) -> impl Iterator<Item = System> {
    let first = round % wanted.len().max(1);
    wanted.iter().copied().cycle().skip(first).take(wanted.len())
}

pub fn run(
    case: Case,
    ground: &Ground<'_>,
    wanted: &[System],
    scale: &Scale,
    results: &mut Results,
) {
    for round in 0..scale.rounds {
        for system in in_turns(wanted, round) {
            if let Err(reason) = once(case, ground, system, round, scale, results) {
                println!("FAILED {system}, {case:?}, round {round}: {reason}");
            }
        }
    }
}

fn once(
    case: Case,
    ground: &Ground<'_>,
    system: System,
    round: usize,
    scale: &Scale,
    results: &mut Results,
) -> std::result::Result<(), String> {
    let running = ground.start(system)?;
    let before = running.cpu();
    let taken = case.measure(&running.dir, scale).map_err(|e| e.to_string())?;
    let used = running.cpu().zip(before).map(|(now, before)| now.saturating_sub(before));
    for taken in taken {
        results.add(system, round, taken, used);
    }
    // What this one wrote shall not be on its way to the disk while the next is measured.
    ground.put_away(running);
    rustix::fs::sync();
    Ok(())
}

fn record(
    label: &'static str,
    dir: &Path,
    files: usize,
    bytes: usize,
    every: Option<Duration>,
    scale: &Scale,
) -> Result<Vec<Taken>> {
    // At least a few writes of each file.
    let lasting = scale.lasting.max(every.unwrap_or_default() * 2);
    let recorded = Recording { files, bytes, every, lasting }.run(dir)?;
    Ok(vec![Taken { label, times: recorded.times, kept_pace: recorded.kept_pace }])
}

/// Goes on until `calls` were made or the time is over, whatever comes first.
fn bounded<T>(scale: &Scale, call: impl FnMut(usize) -> Result<T>) -> Result<Vec<T>> {
    let end = Instant::now() + scale.lasting * 2;
    (0..scale.calls).take_while(|_| Instant::now() < end).map(call).collect()
}

fn create_close_stat(dir: &Path, scale: &Scale) -> Result<Vec<Taken>> {
    let path = |n: usize| -> PathBuf { dir.join(format!("call-{n:05}.wav")) };
    let (mut creates, mut closes) = (no_times(), no_times());
    let made = bounded(scale, |n| {
        let path = path(n);
        let begun = Instant::now();
        let file = create(&path)?;
        write_once(&file, &FIRST_WRITE)?;
        note(&mut creates, begun);
        // At once: s3fs uploads here, and all the closes together would take it minutes.
        let begun = Instant::now();
        drop(file);
        note(&mut closes, begun);
        Ok(())
    })?
    .len();
    std::thread::sleep(FORGET_ATTRIBUTES);
    let stat_all = || {
        let mut times = no_times();
        for n in 0..made {
            let path = path(n);
            let begun = Instant::now();
            std::fs::symlink_metadata(&path)?;
            note(&mut times, begun);
        }
        Ok::<_, std::io::Error>(times)
    };
    let (first, again) = (stat_all()?, stat_all()?);
    Ok(vec![
        Taken::of("create and first write", creates),
        Taken::of("close", closes),
        Taken::of("stat, a second later", first),
        Taken::of("stat, at once again", again),
    ])
}

fn read_parts(dir: &Path, scale: &Scale) -> Result<Vec<Taken>> {
    let path = |n: usize| -> PathBuf { dir.join(format!("call-{n:02}.wav")) };
    let content = vec![0x33; PLAYED_BYTES];
    for n in 0..PLAYED_FILES {
        std::fs::write(path(n), &content)?;
    }
    let mut rng = fastrand::Rng::with_seed(1);
    let mut times = no_times();
    let mut bytes = vec![0; READ_BYTES];
    bounded(scale, |_| {
        let path = path(rng.usize(..PLAYED_FILES));
        let at = rng.u64(..(PLAYED_BYTES - READ_BYTES) as u64);
        let begun = Instant::now();
        let mut file = File::open(&path)?;
        file.seek(SeekFrom::Start(at))?;
        file.read_exact(&mut bytes)?;
        drop(file);
        note(&mut times, begun);
        Ok(())
    })?;
    Ok(vec![Taken::of("open, seek, read 8 KiB, close", times)])
}
