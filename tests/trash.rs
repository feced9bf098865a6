//! What `rm` does to recordings, on a mount: the trash, and what brings it back.
#![cfg(feature = "faults")]

mod support;

use std::collections::BTreeMap;
use std::fs::{self, File, FileTimes};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, SystemTime};
use support::mount::{Mount, Setup};

const DAY: u64 = 86_400;

fn bytes(n: usize) -> Vec<u8> {
    let mut bytes: Vec<u8> = (0..1000u32).map(|i| (i % 251) as u8).collect();
    bytes[44..52].copy_from_slice(&(n as u64).to_le_bytes());
    bytes
}

/// Gives a file a time that lies that far back.
fn age(path: &Path, days: u64) {
    let then = SystemTime::now() - Duration::from_secs(days * DAY);
    let times = FileTimes::new().set_modified(then).set_accessed(then);
    File::options().write(true).open(path).unwrap().set_times(times).unwrap();
}

/// `find -printf` of every file: size, mtime, mode, owner, inode number.
fn find(mount: &Mount) -> String {
    let out = Command::new("find")
        .args([".", "-type", "f", "-printf", "%p %s %T@ %m %u %g %i\n"])
        .current_dir(&mount.mountpoint)
        .output()
        .unwrap();
    let text = String::from_utf8(out.stdout).unwrap();
    let mut lines: Vec<&str> = text.lines().collect();
    lines.sort_unstable();
    lines.join("\n")
}

/// The objects of recordings, by their path below the target.
fn objects(mount: &Mount) -> BTreeMap<String, Vec<u8>> {
    let mut all = BTreeMap::new();
    let mut dirs = vec![mount.target.clone()];
    while let Some(dir) = dirs.pop() {
        for entry in fs::read_dir(&dir).unwrap() {
            let path = entry.unwrap().path();
            let name = path.strip_prefix(&mount.target).unwrap().display().to_string();
            if name.split('/').any(|part| part.starts_with('.')) {
                continue;
            }
            if path.is_dir() {
                dirs.push(path);
            } else {
                all.insert(name, fs::read(&path).unwrap());
            }
        }
    }
    all
}

#[track_caller]
fn command(mount: &Mount, arguments: &[&str]) -> serde_json::Value {
    let ran = mount.cli(arguments.iter().chain(&["--json"])).ok();
    serde_json::from_str(&ran.out).expect("JSON")
}

fn count() -> usize {
    std::env::var("SPOOLFS_TEST_TRASH").ok().and_then(|n| n.parse().ok()).unwrap_or(1000)
}

/// What half of the crontabs do, and what one wishes for when it was the wrong directory.
#[test]
fn what_a_cron_deleted_is_all_there_forty_days_later() {
    if support::no_mount("what_a_cron_deleted_is_all_there_forty_days_later") {
        return;
    }
    let mut mount = Setup::default().mount();
    let root = mount.mountpoint.display().to_string();
    for n in 0..count() {
        let path = mount.path(format!("2026/{:02}/{n}.wav", n % 20));
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, bytes(n)).unwrap();
        age(&path, 31 + (n % 900) as u64);
    }
    fs::write(mount.path("2026/00/young.wav"), bytes(0)).unwrap();
    command(&mount, &["archive", &root]);
    // Half of them are released.
    let halves: Vec<String> = (0..10).map(|n| format!("{root}/2026/{n:02}")).collect();
    let release: Vec<&str> = ["release"].into_iter().chain(halves.iter().map(|s| &**s)).collect();
    command(&mount, &release);
    let (before, stored) = (find(&mount), objects(&mount));
    assert_eq!(stored.len(), count() + 1);

    let began = std::time::Instant::now();
    let deleted =
        Command::new("find").arg(&root).args(["-mtime", "+30", "-delete"]).output().unwrap();
    println!("{} deleted in {:?}", count(), began.elapsed());
    assert!(deleted.status.success() && deleted.stderr.is_empty(), "{deleted:?}");
    assert_eq!(find(&mount).lines().count(), 1, "the young one");
    let status = mount.status();
    assert_eq!(status["trash"]["files"], count(), "{status:#}");
    assert_eq!(status["trash"]["bytes"], count() * 1000);

    mount.stop();
    mount.fsck();
    mount.env = vec![("SPOOLFS_AHEAD", (40 * DAY).to_string())];
    mount.start();
    assert_eq!(objects(&mount), stored);
    let listed = command(&mount, &["trash", "list", &format!("{root}/2026/01"), "--limit", "7"]);
    assert_eq!(listed["recordings"].as_array().unwrap().len(), 7, "{listed:#}");
    assert_eq!((&listed["more"], &listed["files"]), (&true.into(), &count().into()));

    let restored = command(&mount, &["trash", "restore", "--all"]);
    assert_eq!((&restored["done"], &restored["failed"]), (&count().into(), &[(); 0][..].into()));
    assert_eq!(find(&mount), before, "sizes, times, modes, owners and inode numbers");
    for n in (0..count()).step_by(7) {
        let path = mount.path(format!("2026/{:02}/{n}.wav", n % 20));
        assert_eq!(fs::read(&path).unwrap(), bytes(n), "{}", path.display());
    }
    assert_eq!(mount.status()["trash"]["files"], 0);
    mount.stop();
    mount.fsck();
}
