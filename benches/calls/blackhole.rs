//! A target that takes connections and never answers, with many recordings waiting for it: the
//! calls must not feel it. Compared with the same recordings in the same mount where the target
//! answers and nothing is due.

use crate::Scale;
use crate::report::{Results, Taken};
use crate::support::mount::Mount;
use crate::systems::{Far, Ground, System, cpu_of, daemon_of, wait_until_quiet};
use crate::writers::{Recording, create, write_once};
use std::io::Read;
use std::net::TcpListener;
use std::time::Duration;

const LABEL: &str = "320 B every 20 ms, 500 recordings; a target with many waiting";
/// Bytes of each recording that waits.
const WAITING_BYTES: usize = 4096;
/// Threads that make them.
const MAKERS: usize = 4;

/// Takes connections and whatever they send, and is silent. Its threads end with the process.
fn silent_server() -> std::io::Result<String> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let endpoint = format!("http://{}", listener.local_addr()?);
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { continue };
            std::thread::spawn(move || {
                let mut bytes = [0; 4096];
                while matches!(stream.read(&mut bytes), Ok(n) if n > 0) {}
            });
        }
    });
    Ok(endpoint)
}

pub fn run(ground: &Ground<'_>, wanted: &[System], scale: &Scale, results: &mut Results) {
    let silent = match silent_server() {
        Ok(endpoint) => endpoint,
        Err(error) => return println!("FAILED {LABEL}: {error}"),
    };
    for system in wanted.iter().copied().filter(|system| system.is_spoolfs()) {
        for round in 0..scale.rounds {
            let healthy = (Far::Answers, "365d", "answering");
            let ill = (Far::Silent(silent.clone()), "0s", "silent");
            // The table names them in the order in which they come first.
            let pair = if round % 2 == 0 { [healthy, ill] } else { [ill, healthy] };
            for (far, archive_after, word) in pair {
                match once(ground.spoolfs(system, &far, archive_after), scale) {
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
    make_waiting(&mount, scale.waiting).map_err(|e| e.to_string())?;
    // Until all are known and hashed, and the daemon does nothing but wait for its target.
    let known = || mount.status()["backlog"]["files"].as_u64() >= Some(scale.waiting as u64);
    wait_until_quiet(pid, known)?;
    rustix::fs::sync();

    let dir = mount.path("calls");
    std::fs::create_dir(&dir).map_err(|e| e.to_string())?;
    let before = cpu_of(pid);
    let every = Some(Duration::from_millis(20));
    let recording = Recording { files: 500, bytes: 320, every, lasting: scale.lasting };
    let recorded = recording.run(&dir).map_err(|e| e.to_string())?;
    let cpu = cpu_of(pid).zip(before).map(|(now, before)| now.saturating_sub(before));
    drop(mount);
    rustix::fs::sync();
    Ok((Taken { label: LABEL, times: recorded.times, kept_pace: recorded.kept_pace }, cpu))
}

fn make_waiting(mount: &Mount, count: usize) -> std::io::Result<()> {
    let dir = mount.path("waiting");
    std::fs::create_dir(&dir)?;
    let make = |first: usize| {
        (first..count).step_by(MAKERS).try_for_each(|n| {
            let mut rng = fastrand::Rng::with_seed(n as u64);
            let content: Vec<u8> =
                std::iter::repeat_with(|| rng.u8(..)).take(WAITING_BYTES).collect();
            write_once(&create(&dir.join(format!("call-{n:05}.wav")))?, &content)
        })
    };
    std::thread::scope(|scope| {
        let makers: Vec<_> = (0..MAKERS).map(|n| scope.spawn(move || make(n))).collect();
        makers.into_iter().try_for_each(|maker| maker.join().expect("makers do not panic"))
    })
}
