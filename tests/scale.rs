//! A large archive: `SPOOLFS_TEST_RECORDINGS` released recordings, 100,000 to a directory.
#![allow(clippy::unwrap_used)]

mod support;

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::process::Command;
use std::time::{Duration, Instant};
use support::hitch::Hitches;
use support::many;
use support::mount::{Mount, Setup};

const EACH: u64 = 100_000;

#[test]
fn a_large_archive_starts_at_once_and_is_listed_from_the_catalog() {
    if support::no_mount("a_large_archive_starts_at_once") {
        return;
    }
    let count = std::env::var("SPOOLFS_TEST_RECORDINGS").ok().and_then(|n| n.parse().ok());
    let count: u64 = count.unwrap_or(150_000);
    let mut mount = Setup::default().mount();
    let dirs: Vec<_> = (0..count.div_ceil(EACH))
        .map(|n| {
            let dir = mount.path(format!("{n:03}"));
            fs::create_dir(&dir).unwrap();
            fs::metadata(dir).unwrap().ino()
        })
        .collect();
    let call = mount.path("call-template.wav");
    fs::write(&call, vec![1; 400_000]).unwrap();
    for step in ["archive", "release"] {
        let ran = mount.cli([step.as_ref(), call.as_os_str()]);
        assert!(ran.status.success(), "{ran:?}\n{}", mount.said());
    }
    mount.stop();
    let filled = Instant::now();
    many::fill(&mount.state.join("catalog.db"), &dirs, EACH, count);
    let bytes = fs::metadata(mount.state.join("catalog.db")).unwrap().len();
    println!("{count} recordings: {} MiB, made in {:?}", bytes >> 20, filled.elapsed());
    let hitches = Hitches::of_syncing_beside(&mount.root);
    let begin = Instant::now();
    mount.start();
    let started = begin.elapsed();
    let hitches = hitches.allowance();
    println!("start: {started:?}, {} MiB resident", resident(&mount));
    assert!(started < Duration::from_secs(2) + hitches, "a start took {started:?}, {hitches:?}");

    let begin = Instant::now();
    let listed = Command::new("ls").arg("-l").arg(mount.path("000")).output().unwrap();
    let lines = listed.stdout.iter().filter(|b| **b == b'\n').count() as u64;
    assert_eq!(lines, EACH.min(count) + 1);
    println!("ls -l of {}: {:?}", lines - 1, begin.elapsed());
    let first = (0..10.min(dirs.len())).map(|n| mount.path(format!("{n:03}")));
    let begin = Instant::now();
    let found = Command::new("find").args(first).args(["-type", "f"]).output().unwrap();
    let lines = found.stdout.iter().filter(|b| **b == b'\n').count() as u64;
    assert_eq!(lines, (EACH * 10).min(count));
    println!("find of {lines}: {:?}", begin.elapsed());
    let hitches = Hitches::of_syncing_beside(&mount.root);
    let begin = Instant::now();
    let status = mount.status();
    let took = begin.elapsed();
    println!("status: {took:?}");
    assert!(took < Duration::from_secs(2) + hitches.allowance(), "{took:?}");
    assert!(status.to_string().contains(&(count + 1).to_string()), "{status}");
    let resident = resident(&mount);
    println!("{resident} MiB resident in the end");
    assert!(resident < 150, "{resident} MiB");
}

/// MiB of memory that the daemon has.
fn resident(mount: &Mount) -> u64 {
    let status = format!("/proc/{}/status", mount.pid().as_raw_nonzero());
    let status = fs::read_to_string(status).unwrap();
    let line = status.lines().find_map(|l| l.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() / 1024
}
