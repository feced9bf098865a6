//! Listeners of released recordings whose target has stopped in the middle of what it did: the calls
//! must not feel it. Compared with the same in the same mount where nobody listens, and where as many
//! listen as often to what needs no target: that is what so many processes cost by themselves.

use crate::Scale;
use crate::report::{Results, Taken};
use crate::support::mount::Mount;
use crate::systems::{Build, Ground, System, cpu_of, daemon_of};
use crate::writers::{Recording, create, write_once};
use std::fs::File;
use std::io::{Error, Result};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

const LABEL: &str = "320 B every 20 ms, 500 recordings; 50 listeners of a target that hangs";
const LISTENERS: usize = 50;
/// Bytes of each recording that they listen to.
const RELEASED_BYTES: usize = 400_000;
/// `read_timeout`, and the most that a listener may wait for his error.
const TIMEOUT: Duration = Duration::from_secs(3);
const TOO_LONG: Duration = Duration::from_secs(5);
/// Until a listener who had an error tries again.
const PAUSE: Duration = Duration::from_millis(200);

/// What they listen to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Listened {
    Nothing,
    /// Files of a plain directory: no daemon has a part in it.
    Elsewhere,
    /// Recordings of the same mount that are on the local disk.
    Local,
    /// Released recordings, of a target that hangs.
    Stalled,
}

impl Listened {
    const ALL: [Listened; 4] =
        [Listened::Nothing, Listened::Elsewhere, Listened::Local, Listened::Stalled];

    fn word(self) -> &'static str {
        match self {
            Listened::Nothing => "unheard",
            Listened::Elsewhere => "heard elsewhere",
            Listened::Local => "heard from disk",
            Listened::Stalled => "stalled",
        }
    }
}

pub fn run(ground: &Ground<'_>, wanted: &[System], scale: &Scale, results: &mut Results) {
    let mut turns: Vec<(Listened, Build)> = Listened::ALL.map(|to| (to, Build::This)).to_vec();
    if Build::Before.program().is_some() {
        turns.extend([Listened::Nothing, Listened::Stalled].map(|to| (to, Build::Before)));
    }
    for system in wanted.iter().copied().filter(|system| system.is_spoolfs()) {
        for round in 0..scale.rounds {
            for turn in 0..turns.len() {
                let (to, build) = turns[(round + turn) % turns.len()];
                let word = format!("{}{build}", to.word());
                match once(ground, (system, build), to, scale) {
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
    ground: &Ground<'_>,
    (system, build): (System, Build),
    to: Listened,
    scale: &Scale,
) -> std::result::Result<(Taken, Option<Duration>), String> {
    let mut mount = build.of(ground.listened_to(system, TIMEOUT));
    mount.start();
    let pid = daemon_of(&mount);
    let [dir, released, local] = ["calls", "released", "local"].map(|name| mount.path(name));
    std::fs::create_dir(&dir).map_err(|e| e.to_string())?;
    make_released(&mount, &released).map_err(|e| e.to_string())?;
    let plain = tempfile::tempdir().map_err(|e| e.to_string())?;
    let elsewhere = plain.path().join("plain");
    for dir in [&local, &elsewhere] {
        make_recordings(dir).map_err(|e| e.to_string())?;
    }
    rustix::fs::sync();
    let stalled = if to == Listened::Stalled { Some(ground.stall()?) } else { None };
    let heard_in = match to {
        Listened::Nothing => None,
        Listened::Elsewhere => Some(elsewhere),
        Listened::Local => Some(local),
        Listened::Stalled => Some(released),
    };
    let before = cpu_of(pid);
    let every = Some(Duration::from_millis(20));
    let recording = Recording { files: 500, bytes: 320, every, lasting: scale.lasting };
    let (over, tries) = (AtomicBool::new(false), AtomicU64::new(0));
    let recorded = std::thread::scope(|scope| {
        let listener = |(dir, n): (&PathBuf, usize)| {
            let (path, over, tries) = (recording_of(dir, n), &over, &tries);
            scope.spawn(move || listen(&path, to, over, tries))
        };
        let all = heard_in.iter().flat_map(|dir| (0..LISTENERS).map(move |n| (dir, n)));
        let listeners: Vec<_> = all.map(listener).collect();
        let recorded = recording.run(&dir);
        over.store(true, Ordering::Relaxed);
        let heard = listeners.into_iter().map(|listener| listener.join().expect("no panic"));
        heard.collect::<Result<()>>().and(recorded)
    });
    let recorded = recorded.map_err(|e| e.to_string())?;
    let cpu = cpu_of(pid).zip(before).map(|(now, before)| now.saturating_sub(before));
    if heard_in.is_some() {
        let each_second = tries.into_inner() as f64 / scale.lasting.as_secs_f64();
        println!("{system}, {}{build}: {each_second:.0} opens a second by listeners", to.word());
    }
    drop(stalled);
    drop(mount);
    rustix::fs::sync();
    Ok((Taken { label: LABEL, times: recorded.times, kept_pace: recorded.kept_pace }, cpu))
}

fn recording_of(dir: &Path, n: usize) -> PathBuf {
    dir.join(format!("{n}.wav"))
}

fn make_recordings(dir: &Path) -> Result<()> {
    std::fs::create_dir(dir)?;
    for n in 0..LISTENERS {
        let mut content = vec![0; RELEASED_BYTES];
        fastrand::Rng::with_seed(n as u64).fill(&mut content);
        write_once(&create(&recording_of(dir, n))?, &content)?;
    }
    Ok(())
}

fn make_released(mount: &Mount, dir: &Path) -> Result<()> {
    make_recordings(dir)?;
    for step in ["archive", "release"] {
        let ran = mount.cli([step.as_ref(), dir.as_os_str()]);
        if !ran.status.success() {
            return Err(Error::other(format!("{ran:?}")));
        }
    }
    Ok(())
}

/// Tries again and again, and is told each time in time that it can not be had, or has it.
fn listen(path: &Path, to: Listened, over: &AtomicBool, tries: &AtomicU64) -> Result<()> {
    while !over.load(Ordering::Relaxed) {
        let begun = Instant::now();
        let heard = File::open(path)?.read_exact_at(&mut [0; 8192], 0);
        let took = begun.elapsed();
        tries.fetch_add(1, Ordering::Relaxed);
        let heard = heard.map_err(|e| e.raw_os_error());
        let wanted = match to {
            Listened::Stalled => Err(Some(rustix::io::Errno::IO.raw_os_error())),
            _ => Ok(()),
        };
        if heard != wanted || took > TOO_LONG {
            return Err(Error::other(format!("a listener had {heard:?} after {took:?}")));
        }
        std::thread::sleep(PAUSE);
    }
    Ok(())
}
