//! Listeners of released recordings whose target has stopped in the middle of what it did: the calls
//! must not feel it. Compared with the same in the same mount where nobody listens.

use crate::Scale;
use crate::report::{Results, Taken};
use crate::support::mount::Mount;
use crate::systems::{Ground, System, cpu_of, daemon_of};
use crate::writers::{Recording, create, write_once};
use std::fs::File;
use std::io::{Error, Result};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
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

pub fn run(ground: &Ground<'_>, wanted: &[System], scale: &Scale, results: &mut Results) {
    for system in wanted.iter().copied().filter(|system| system.is_spoolfs()) {
        for round in 0..scale.rounds {
            let pair = [(false, "unheard"), (true, "stalled")];
            let pair = if round % 2 == 0 { pair } else { [pair[1], pair[0]] };
            for (stalls, word) in pair {
                match once(ground, system, stalls, scale) {
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
    system: System,
    stalls: bool,
    scale: &Scale,
) -> std::result::Result<(Taken, Option<Duration>), String> {
    let mut mount = ground.listened_to(system, TIMEOUT);
    mount.start();
    let pid = daemon_of(&mount);
    let [dir, released] = ["calls", "released"].map(|name| mount.path(name));
    std::fs::create_dir(&dir).map_err(|e| e.to_string())?;
    make_released(&mount, &released).map_err(|e| e.to_string())?;
    rustix::fs::sync();
    let stalled = if stalls { Some(ground.stall()?) } else { None };
    let before = cpu_of(pid);
    let every = Some(Duration::from_millis(20));
    let recording = Recording { files: 500, bytes: 320, every, lasting: scale.lasting };
    let over = AtomicBool::new(false);
    let recorded = std::thread::scope(|scope| {
        let listen = |n: usize| {
            let (path, over) = (released.join(format!("{n}.wav")), &over);
            scope.spawn(move || listen(&path, over))
        };
        let listeners: Vec<_> = (0..LISTENERS).filter(|_| stalled.is_some()).map(listen).collect();
        let recorded = recording.run(&dir);
        over.store(true, Ordering::Relaxed);
        let heard = listeners.into_iter().map(|listener| listener.join().expect("no panic"));
        heard.collect::<Result<()>>().and(recorded)
    });
    let recorded = recorded.map_err(|e| e.to_string())?;
    let cpu = cpu_of(pid).zip(before).map(|(now, before)| now.saturating_sub(before));
    drop(stalled);
    drop(mount);
    rustix::fs::sync();
    Ok((Taken { label: LABEL, times: recorded.times, kept_pace: recorded.kept_pace }, cpu))
}

fn make_released(mount: &Mount, dir: &Path) -> Result<()> {
    std::fs::create_dir(dir)?;
    for n in 0..LISTENERS {
        let mut content = vec![0; RELEASED_BYTES];
        fastrand::Rng::with_seed(n as u64).fill(&mut content);
        write_once(&create(&dir.join(format!("{n}.wav")))?, &content)?;
    }
    for step in ["archive", "release"] {
        let ran = mount.cli([step.as_ref(), dir.as_os_str()]);
        if !ran.status.success() {
            return Err(Error::other(format!("{ran:?}")));
        }
    }
    Ok(())
}

/// Tries again and again, and is told each time in time that it can not be had.
fn listen(path: &Path, over: &AtomicBool) -> Result<()> {
    while !over.load(Ordering::Relaxed) {
        let begun = Instant::now();
        let heard = File::open(path)?.read_exact_at(&mut [0; 8192], 0);
        let took = begun.elapsed();
        if heard.map_err(|e| e.raw_os_error()) != Err(Some(rustix::io::Errno::IO.raw_os_error()))
            || took > TOO_LONG
        {
            return Err(Error::other(format!("a listener had no error, or after {took:?}")));
        }
        std::thread::sleep(PAUSE);
    }
    Ok(())
}
