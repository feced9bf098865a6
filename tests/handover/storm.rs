//! Many deaths while everything is going on.

use super::clients::Storm;
use super::support;
use super::takeover::{kept, successor};
use rustix::process::{Signal, kill_process};
use std::fs;
use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

fn number(variable: &str, default: u64) -> u64 {
    std::env::var(variable).ok().and_then(|n| n.parse().ok()).unwrap_or(default)
}

fn nobody_notices(passthrough: &str) {
    let kills = number("SPOOLFS_TEST_KILLS", 12);
    let seed = number("SPOOLFS_TEST_SEED", 1);
    let mut random = fastrand::Rng::with_seed(seed);
    let mut mount = kept(passthrough);
    let released = released(&mount);
    let storm = Storm::default();
    let writers = number("SPOOLFS_TEST_WRITERS", 6);
    let writers: Vec<PathBuf> = (0..writers).map(|i| mount.path(format!("writer{i}"))).collect();
    let places: Vec<PathBuf> =
        ["names0", "names1", "locks", "nameless"].iter().map(|n| mount.path(n)).collect();
    for dir in writers.iter().chain(&places) {
        fs::create_dir(dir).unwrap();
    }
    let raw = mount.root.join("raw");
    fs::create_dir(&raw).unwrap();
    let mut outages = Vec::new();
    std::thread::scope(|scope| {
        let storm = &storm;
        for dir in &writers {
            scope.spawn(move || storm.run(|n| storm.recorder(false, dir, n)));
        }
        // What the disk and the scheduler do to a writer, without us.
        scope.spawn(|| storm.run(|n| storm.recorder(true, &raw, n)));
        for dir in &places[..2] {
            scope.spawn(move || storm.run(|n| storm.names(dir, n)));
        }
        for _ in 0..3 {
            let dir = &places[2];
            scope.spawn(move || storm.run(|n| storm.locks(dir, n)));
        }
        scope.spawn(|| storm.run(|n| storm.nameless(&places[3], n)));
        scope.spawn(|| storm.run(|n| storm.reader(&released, n)));
        let _stop = StopAtEnd(storm);
        for _ in 0..kills {
            std::thread::sleep(Duration::from_micros(random.u64(0..300_000)));
            let before = mount.server().expect("it runs");
            let begin = Instant::now();
            if kill_process(before, Signal::KILL).is_ok() {
                successor(&mount, before);
                outages.push(begin.elapsed());
            }
            if !storm.wrong.lock().unwrap().is_empty() {
                break;
            }
        }
    });
    settled(&mut mount);
    let worst = |which: usize| storm.worst_write[which].load(Ordering::Relaxed) as f64 / 1000.0;
    let wrong = storm.wrong.lock().unwrap().clone();
    println!(
        "{passthrough}, seed {seed}: {} kills, {} rounds, worst write {:.1} ms \
         (beside the mount {:.1} ms, right after an open {:.1} ms), worst restart {:?}",
        outages.len(),
        storm.done.load(Ordering::Relaxed),
        worst(0),
        worst(1),
        worst(2),
        outages.iter().max().unwrap(),
    );
    assert_eq!(wrong, Vec::<String>::new(), "seed {seed}\n{}", mount.said());
}

/// The checker finds nothing after it.
pub fn settled(mount: &mut support::mount::Mount) {
    let until = Instant::now() + support::look::PATIENCE;
    while mount.status()["warnings"].to_string().contains("compared with the catalog") {
        assert!(Instant::now() < until, "{}", mount.said());
        std::thread::sleep(Duration::from_millis(20));
    }
    mount.stop();
    mount.fsck();
}

/// Also after a panic: the clients would go on for ever.
pub struct StopAtEnd<'a>(pub &'a Storm);

impl Drop for StopAtEnd<'_> {
    fn drop(&mut self) {
        self.0.stop.store(true, Ordering::SeqCst);
    }
}

/// Recordings whose bytes are in the archive only.
fn released(mount: &support::mount::Mount) -> Vec<(PathBuf, Vec<u8>)> {
    let dir = mount.path("released");
    fs::create_dir(&dir).unwrap();
    let files: Vec<_> =
        (0..4u8).map(|i| (dir.join(format!("{i}.wav")), vec![i + 1; 100_000])).collect();
    for (path, bytes) in &files {
        fs::write(path, bytes).unwrap();
    }
    for step in ["archive", "release"] {
        let ran = mount.cli([step.as_ref(), dir.as_os_str()]);
        assert!(ran.status.success(), "{ran:?}\n{}", mount.said());
    }
    files
}

#[test]
fn nobody_notices_kills_in_passthrough() {
    if !support::no_mount("nobody_notices_kills_in_passthrough") {
        nobody_notices("auto");
    }
}

#[test]
fn nobody_notices_kills_in_plain_mode() {
    if !support::no_mount("nobody_notices_kills_in_plain_mode") {
        nobody_notices("never");
    }
}

#[test]
fn nobody_notices_kills_without_resend() {
    if !support::no_mount("nobody_notices_kills_without_resend") {
        nobody_notices("relay");
    }
}
