//! Many recordings are encoded as FLAC and archived: the calls must not feel it. Compared with the
//! same mount where nothing is due, where they are archived as they are, and where nothing is due and
//! another program copies or encodes as many in the same time (`foreign`).

use crate::Scale;
use crate::foreign;
use crate::report::{Results, Taken};
use crate::support::mount::Mount;
use crate::support::{fixture, fixtures};
use crate::systems::{Build, Far, Ground, System, cpu_of, daemon_of, wait_until_quiet};
use crate::writers::Recording;
use spoolfs::codec::{Coding, wav_header};
use std::fs::File;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

const LABEL: &str = "320 B every 20 ms, 500 recordings; many archived as FLAC";
/// Bytes of each recording that waits: a call of ten seconds.
const WAITING_BYTES: usize = 160_000;

/// What is done with those that wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    NotDue,
    AsTheyAre,
    AsFlac,
}

impl Way {
    /// `archive_after`, `compress`, what the row is called.
    fn of(self) -> (&'static str, &'static str, &'static str) {
        match self {
            Way::NotDue => ("365d", "none", "not due"),
            Way::AsTheyAre => ("0s", "none", "as they are"),
            Way::AsFlac => ("0s", "flac", "as FLAC"),
        }
    }

    /// What another program does instead, and what that row is called.
    fn foreign(self) -> Option<(foreign::Work, &'static str)> {
        match self {
            Way::NotDue => None,
            Way::AsTheyAre => Some((foreign::Work::Copies, "copied by another")),
            Way::AsFlac => Some((foreign::Work::Encodes, "encoded by another")),
        }
    }
}

pub fn run(ground: &Ground<'_>, wanted: &[System], scale: &Scale, results: &mut Results) {
    let mut ways =
        [Way::NotDue, Way::AsTheyAre, Way::AsFlac].map(|way| (way, Build::This)).to_vec();
    if Build::Before.program().is_some() {
        ways.extend([Way::AsTheyAre, Way::AsFlac].map(|way| (way, Build::Before)));
    }
    for system in wanted.iter().copied().filter(|system| system.is_spoolfs()) {
        for round in 0..scale.rounds {
            for turn in 0..ways.len() {
                let (way, build) = ways[(round + turn) % ways.len()];
                let mut add = |word: String, made: Result<Made, String>| match made {
                    Ok(made) => {
                        let (label, name) =
                            (format!("{LABEL} ({system})"), format!("{system}, {word}"));
                        results.add_row(&label, &name, round, made.taken, made.cpu);
                        Some(made.archived)
                    }
                    Err(reason) => {
                        println!("FAILED {system}, {word}, round {round}: {reason}");
                        None
                    }
                };
                let mount = || build.of(ground.spoolfs(system, &Far::Directory, "365d"));
                let word = format!("{}{build}", way.of().2);
                let Some(archived) = add(word, once(mount(), way, None, scale)) else {
                    continue;
                };
                if let Some((work, word)) = way.foreign().filter(|_| build == Build::This) {
                    let as_many = Some((work, archived));
                    add(word.to_owned(), once(mount(), Way::NotDue, as_many, scale));
                }
            }
        }
    }
}

/// What a run gave.
struct Made {
    taken: Taken,
    cpu: Option<Duration>,
    archived: u64,
}

fn once(
    mut mount: Mount,
    way: Way,
    other: Option<(foreign::Work, u64)>,
    scale: &Scale,
) -> Result<Made, String> {
    let (archive_after, compress, word) = way.of();
    mount.start();
    let waiting_in = mount.path("waiting");
    make_waiting(&waiting_in, scale.waiting).map_err(|e| e.to_string())?;
    let backlog = |mount: &Mount| mount.status()["backlog"]["files"].as_u64().unwrap_or_default();
    let waiting = scale.waiting as u64;
    wait_until_quiet(daemon_of(&mount), || backlog(&mount) >= waiting)?;
    mount.stop();
    rustix::fs::sync();
    // The other program reads below the mount, as the daemon does.
    let waiting_below = File::open(&waiting_in).map_err(|e| e.to_string())?;
    let below = PathBuf::from(format!("/proc/self/fd/{}", waiting_below.as_raw_fd()));
    mount.env.push(("SPOOLFS_WRITE_BACK__ARCHIVE_AFTER", archive_after.to_owned()));
    mount.env.push(("SPOOLFS_WRITE_BACK__COMPRESS", compress.to_owned()));
    mount.start();

    let dir = mount.path("calls");
    std::fs::create_dir(&dir).map_err(|e| e.to_string())?;
    let pid = daemon_of(&mount);
    let before = cpu_of(pid);
    let every = Some(Duration::from_millis(20));
    let recording = Recording { files: 500, bytes: 320, every, lasting: scale.lasting };
    let begun = other.map(|(work, count)| foreign::begin(work, &below, count, scale.lasting));
    let recorded = recording.run(&dir).map_err(|e| e.to_string())?;
    let cpu = cpu_of(pid).zip(before).map(|(now, before)| now.saturating_sub(before));
    // The calls wait, too.
    let archived = (waiting + recording.files as u64).saturating_sub(backlog(&mount));
    match begun.transpose()? {
        Some(other) => println!("another program: {} of {waiting}", other.done()?),
        None => println!("{word}: {archived} of {waiting} were archived meanwhile"),
    }
    drop(mount);
    rustix::fs::sync();
    let taken = Taken { label: LABEL, times: recorded.times, kept_pace: recorded.kept_pace };
    Ok(Made { taken, cpu, archived })
}

/// Speech of the fixtures, each recording beginning at another place of it.
fn make_waiting(dir: &Path, count: usize) -> std::io::Result<()> {
    let mut speech = Vec::new();
    for path in fixtures("monitor") {
        speech.extend_from_slice(
            std::fs::read(fixture("monitor").join(path))?.get(44..).unwrap_or_default(),
        );
    }
    speech.truncate(speech.len() / 2 * 2);
    std::fs::create_dir(dir)?;
    for n in 0..count {
        let mut wav = wav_header(Coding::Pcm16, 8000, 1, WAITING_BYTES as u64);
        let from = n * 3202 % speech.len();
        wav.extend(speech[from..].iter().chain(speech.iter().cycle()).take(WAITING_BYTES));
        std::fs::write(dir.join(format!("call-{n:05}.wav")), wav)?;
    }
    Ok(())
}
