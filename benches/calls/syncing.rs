//! Recordings are closed and synced to the disk all the time: the calls must not feel it. Compared
//! with the same where the kernel alone decides when it writes.

use crate::Scale;
use crate::report::{Results, Taken};
use crate::support::mount::Mount;
use crate::systems::{Far, Ground, System, cpu_of, daemon_of};
use crate::writers::{FIRST_WRITE, Recording, create, write_once};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

const LABEL: &str = "320 B every 20 ms, 500 recordings; 20 more closed each second";
/// Recordings closed, and begun, in a second.
const CLOSES: u32 = 20;
/// What each of them has by then: a call of half a minute.
const CLOSED_BYTES: usize = 480_000;

pub fn run(ground: &Ground<'_>, wanted: &[System], scale: &Scale, results: &mut Results) {
    for system in wanted.iter().copied().filter(|system| system.is_spoolfs()) {
        for round in 0..scale.rounds {
            let pair = [("forever", "unsynced"), ("5s", "synced")];
            let pair = if round % 2 == 0 { pair } else { [pair[1], pair[0]] };
            for (sync_after, word) in pair {
                match once(ground.syncing(system, &Far::Answers, sync_after), scale) {
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

fn once(mut mount: Mount, scale: &Scale) -> Result<(Taken, Option<Duration>), String> {
    mount.start();
    let pid = daemon_of(&mount);
    let (dir, closing) = (mount.path("calls"), mount.path("closing"));
    for dir in [&dir, &closing] {
        std::fs::create_dir(dir).map_err(|e| e.to_string())?;
    }
    rustix::fs::sync();
    let before = cpu_of(pid);
    let every = Some(Duration::from_millis(20));
    let recording = Recording { files: 500, bytes: 320, every, lasting: scale.lasting };
    let over = AtomicBool::new(false);
    let recorded = std::thread::scope(|scope| {
        let closer = scope.spawn(|| close_and_begin(&closing, &over));
        let recorded = recording.run(&dir);
        over.store(true, Ordering::Relaxed);
        closer.join().expect("it does not panic").and(recorded)
    });
    let recorded = recorded.map_err(|e| e.to_string())?;
    let cpu = cpu_of(pid).zip(before).map(|(now, before)| now.saturating_sub(before));
    drop(mount);
    rustix::fs::sync();
    Ok((Taken { label: LABEL, times: recorded.times, kept_pace: recorded.kept_pace }, cpu))
}

/// A call comes to its end, and another begins, at even times.
fn close_and_begin(dir: &Path, over: &AtomicBool) -> std::io::Result<()> {
    let content = vec![0x2a; CLOSED_BYTES];
    let begun = Instant::now();
    for n in 0..u32::MAX {
        let due = begun + Duration::from_secs(1) * n / CLOSES;
        std::thread::sleep(due.saturating_duration_since(Instant::now()));
        if over.load(Ordering::Relaxed) {
            break;
        }
        let file = create(&dir.join(format!("call-{n:05}.wav")))?;
        write_once(&file, &FIRST_WRITE)?;
        write_once(&file, &content)?;
    }
    Ok(())
}
