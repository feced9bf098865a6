//! Many recordings are encoded as FLAC and archived: the calls must not feel it. Compared with the
//! same mount where nothing is due, and where they are archived as they are.

use crate::Scale;
use crate::report::{Results, Taken};
use crate::support::mount::Mount;
use crate::support::{fixture, fixtures};
use crate::systems::{Far, Ground, System, cpu_of, daemon_of, wait_until_quiet};
use crate::writers::Recording;
use spoolfs::codec::{Coding, wav_header};
use std::path::Path;
use std::time::Duration;

const LABEL: &str = "320 B every 20 ms, 500 recordings; many archived as FLAC";
/// Bytes of each recording that waits: a call of ten seconds.
const WAITING_BYTES: usize = 160_000;

/// What becomes of those that wait: `archive_after`, `compress`, what the row is called.
const WAYS: [(&str, &str, &str); 3] =
    [("365d", "none", "not due"), ("0s", "none", "as they are"), ("0s", "flac", "as FLAC")];

pub fn run(ground: &Ground<'_>, wanted: &[System], scale: &Scale, results: &mut Results) {
    for system in wanted.iter().copied().filter(|system| system.is_spoolfs()) {
        for round in 0..scale.rounds {
            for turn in 0..WAYS.len() {
                let way @ (_, _, word) = WAYS[(round + turn) % WAYS.len()];
                match once(ground.spoolfs(system, &Far::Directory, "365d"), way, scale) {
                    Ok((taken, cpu)) => {
                        let (label, name) =
                            (format!("{LABEL} ({system})"), format!("{system}, {word}"));
                        results.add_row(&label, &name, round, taken, cpu);
                    }
                    Err(reason) => println!("FAILED {system}, {word}, round {round}: {reason}"),
                }
            }
        }
    }
}

fn once(
    mut mount: Mount,
    (archive_after, compress, word): (&str, &str, &str),
    scale: &Scale,
) -> Result<(Taken, Option<Duration>), String> {
    mount.start();
    make_waiting(&mount.path("waiting"), scale.waiting).map_err(|e| e.to_string())?;
    let backlog = |mount: &Mount| mount.status()["backlog"]["files"].as_u64().unwrap_or_default();
    let waiting = scale.waiting as u64;
    wait_until_quiet(daemon_of(&mount), || backlog(&mount) >= waiting)?;
    mount.stop();
    rustix::fs::sync();
    mount.env.push(("SPOOLFS_WRITE_BACK__ARCHIVE_AFTER", archive_after.to_owned()));
    mount.env.push(("SPOOLFS_WRITE_BACK__COMPRESS", compress.to_owned()));
    mount.start();

    let dir = mount.path("calls");
    std::fs::create_dir(&dir).map_err(|e| e.to_string())?;
    let pid = daemon_of(&mount);
    let before = cpu_of(pid);
    let every = Some(Duration::from_millis(20));
    let recording = Recording { files: 500, bytes: 320, every, lasting: scale.lasting };
    let recorded = recording.run(&dir).map_err(|e| e.to_string())?;
    let cpu = cpu_of(pid).zip(before).map(|(now, before)| now.saturating_sub(before));
    let archived = waiting.saturating_sub(backlog(&mount));
    println!("{word}: {archived} of {waiting} were archived meanwhile");
    drop(mount);
    rustix::fs::sync();
    Ok((Taken { label: LABEL, times: recorded.times, kept_pace: recorded.kept_pace }, cpu))
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
