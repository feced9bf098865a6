//! `ls -l` of a day with very many recordings. What is listed is made once, before anything is
//! mounted over it, and listed in every round.

use crate::Scale;
use crate::cases::in_turns;
use crate::report::{Results, Taken};
use crate::support::mount::Mount;
use crate::support::seaweedfs::SeaweedFs;
use crate::systems::{Far, Foreign, Ground, System, cpu_of, daemon_of, wait_until_quiet};
use crate::writers::{no_times, note};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// Longest wait for one listing.
const LONGEST: Duration = Duration::from_secs(120);
/// Requests under way while objects are made.
const PUTS: usize = 32;
const DAY: &str = "day";

enum Listed {
    Raw(tempfile::TempDir),
    Spoolfs(Box<Mount>),
    Foreign(Foreign),
}

impl Listed {
    fn dir(&self) -> PathBuf {
        match self {
            Listed::Raw(scratch) => scratch.path().join(DAY),
            Listed::Spoolfs(mount) => mount.path(DAY),
            Listed::Foreign(foreign) => foreign.mountpoint.join(DAY),
        }
    }

    fn cpu(&self) -> Option<Duration> {
        match self {
            Listed::Raw(_) => None,
            Listed::Spoolfs(mount) => cpu_of(daemon_of(mount)),
            Listed::Foreign(foreign) => cpu_of(foreign.pid()),
        }
    }
}

fn name(number: usize) -> String {
    format!("20261121-{number:06}-in-5551234.wav")
}

/// Empty files: their names are what is listed, and nobody archives them meanwhile.
fn make_files(dir: &Path, count: usize) -> std::io::Result<()> {
    std::fs::create_dir(dir)?;
    (0..count).try_for_each(|n| File::create(dir.join(name(n))).map(drop))
}

fn make_objects(server: &SeaweedFs, bucket: &str, count: usize) -> Result<(), String> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let client = server.client();
    runtime.map_err(|e| e.to_string())?.block_on(async {
        let mut running = tokio::task::JoinSet::new();
        for n in 0..count {
            if running.len() >= PUTS {
                running
                    .join_next()
                    .await
                    .expect("some are running")
                    .map_err(|e| e.to_string())??;
            }
            let put = client.put_object().bucket(bucket).key(format!("{DAY}/{}", name(n)));
            running.spawn(async move { put.send().await.map(drop).map_err(|e| format!("{e:?}")) });
        }
        for done in running.join_all().await {
            done?;
        }
        Ok(())
    })
}

fn prepare(ground: &Ground<'_>, system: System, scale: &Scale) -> Result<Listed, String> {
    let text = |e: std::io::Error| e.to_string();
    match system {
        System::Raw => {
            let scratch = tempfile::Builder::new().prefix("bench-").tempdir().map_err(text)?;
            make_files(&scratch.path().join(DAY), scale.names).map_err(text)?;
            Ok(Listed::Raw(scratch))
        }
        System::Passthrough | System::Plain => {
            let mut mount = ground.spoolfs(system, &Far::Answers, "");
            make_files(&mount.path(DAY), scale.names).map_err(text)?;
            mount.start();
            // Each name is given its identity; a listing meanwhile would be measured with that.
            wait_until_quiet(daemon_of(&mount), || true)?;
            Ok(Listed::Spoolfs(Box::new(mount)))
        }
        System::Rclone | System::S3fs => {
            let (server, bucket, is_new) =
                ground.bucket_of_names().ok_or("there is no S3 server")?;
            if is_new {
                make_objects(server, &bucket, scale.names)?;
            }
            Ok(Listed::Foreign(ground.foreign(system, server, &bucket)?))
        }
    }
}

pub fn run(ground: &Ground<'_>, wanted: &[System], scale: &Scale, results: &mut Results) {
    let label = format!("ls -l of {} names", scale.names);
    let mut listed = Vec::new();
    for system in wanted {
        match prepare(ground, *system, scale) {
            Ok(ready) => listed.push((*system, ready)),
            Err(reason) => println!("FAILED {system}, {label}: {reason}"),
        }
    }
    let systems: Vec<System> = listed.iter().map(|(system, _)| *system).collect();
    for round in 0..scale.rounds {
        for system in in_turns(&systems, round) {
            let Some((_, ready)) = listed.iter().find(|(s, _)| *s == system) else { continue };
            let before = ready.cpu();
            let mut times = no_times();
            let begun = Instant::now();
            match list(&ready.dir()) {
                Ok(lines) if lines > scale.names => {
                    note(&mut times, begun);
                    let cpu =
                        ready.cpu().zip(before).map(|(now, before)| now.saturating_sub(before));
                    let taken = Taken::of("", times);
                    results.add_row(&label, &system.to_string(), round, taken, cpu);
                }
                Ok(lines) => println!("FAILED {system}, {label}, round {round}: {lines} lines"),
                Err(reason) => {
                    println!("FAILED {system}, {label}, round {round}: {reason}");
                    if reason.contains("longer") {
                        listed.retain(|(s, _)| *s != system);
                    }
                }
            }
        }
    }
}

/// Lists a directory; the number of lines.
fn list(dir: &Path) -> Result<usize, String> {
    let output = tempfile::tempfile().map_err(|e| e.to_string())?;
    let shared = output.try_clone().map_err(|e| e.to_string())?;
    let child = Command::new("ls").arg("-l").arg(dir).stdout(shared).stderr(Stdio::null()).spawn();
    let mut child = child.map_err(|e| format!("ls: {e}"))?;
    let until = Instant::now() + LONGEST;
    loop {
        match child.try_wait().map_err(|e| e.to_string())? {
            Some(status) if status.success() => break,
            Some(status) => return Err(format!("ls: {status}")),
            None if Instant::now() > until => {
                let _already_gone = child.kill();
                let _reaped = child.wait();
                return Err(format!("it takes longer than {} s", LONGEST.as_secs()));
            }
            None => std::thread::sleep(Duration::from_millis(1)),
        }
    }
    use std::io::{Read, Seek};
    let (mut output, mut text) = (output, String::new());
    output.rewind().and_then(|()| output.read_to_string(&mut text)).map_err(|e| e.to_string())?;
    Ok(text.lines().count())
}
