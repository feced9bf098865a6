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
    // Opened for reading: a writer that was closed a moment ago may still count.
    File::open(path).unwrap().set_times(times).unwrap();
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

#[track_caller]
fn until(what: &str, holds: impl Fn() -> bool) {
    let end = std::time::Instant::now() + Duration::from_secs(60);
    while !holds() {
        assert!(std::time::Instant::now() < end, "{what}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn what_is_old_and_not_archived_is_kept_and_archived_from_the_trash() {
    if support::no_mount("what_is_old_and_not_archived_is_kept_and_archived_from_the_trash") {
        return;
    }
    let mut mount = Setup::default().mount();
    let root = mount.mountpoint.display().to_string();
    for (n, name) in ["old.wav", "over.wav", "young.wav", "open.wav"].iter().enumerate() {
        fs::write(mount.path(name), bytes(n)).unwrap();
    }
    for name in ["old.wav", "over.wav", "open.wav"] {
        age(&mount.path(name), 2);
    }
    let before = find(&mount);
    let before = before.lines().find(|l| l.starts_with("./old.wav")).unwrap().to_owned();
    // Still open for writing, or a moment old: as on any file system.
    let writer = File::options().append(true).open(mount.path("open.wav")).unwrap();
    for name in ["old.wav", "young.wav", "open.wav"] {
        fs::remove_file(mount.path(name)).unwrap();
    }
    drop(writer);
    fs::write(mount.path("new.wav"), bytes(9)).unwrap();
    fs::rename(mount.path("new.wav"), mount.path("over.wav")).unwrap();
    assert_eq!(fs::read(mount.path("over.wav")).unwrap(), bytes(9));
    let listed = command(&mount, &["trash", "list"]);
    let mut paths: Vec<&str> = listed["recordings"]
        .as_array()
        .unwrap()
        .iter()
        .map(|one| one["path"].as_str().unwrap())
        .collect();
    paths.sort_unstable();
    assert_eq!(paths, ["old.wav", "over.wav"], "{listed:#}");

    // Unmounted, it stays where it is.
    mount.stop();
    assert_eq!(fs::read_dir(mount.path(".spl/trash")).unwrap().count(), 2);
    mount.fsck();
    mount.start();
    assert!(objects(&mount).is_empty());
    command(&mount, &["archive", &root]);
    assert_eq!(objects(&mount).len(), 3);
    until("the local copies are gone", || {
        let listed = command(&mount, &["trash", "list"]);
        listed["recordings"].as_array().unwrap().iter().all(|one| one["local"] == false)
    });
    command(&mount, &["trash", "restore", &format!("{root}/old.wav")]);
    let ran = mount.cli(["trash", "restore", &format!("{root}/over.wav")]);
    assert!(!ran.status.success() && ran.err.contains("taken"), "{ran:?}");
    let to = format!("{root}/was");
    command(&mount, &["trash", "restore", &format!("{root}/over.wav"), "--to", &to]);
    let after = find(&mount);
    assert_eq!(after.lines().find(|l| l.starts_with("./old.wav")), Some(&*before));
    assert_eq!(fs::read(mount.path("old.wav")).unwrap(), bytes(0));
    assert_eq!(fs::read(mount.path("was/over.wav")).unwrap(), bytes(1));
    assert_eq!(fs::read(mount.path("over.wav")).unwrap(), bytes(9));
    mount.stop();
    mount.fsck();
}

/// As before there was a trash.
#[test]
fn in_mode_keep_nothing_is_in_the_trash() {
    if support::no_mount("in_mode_keep_nothing_is_in_the_trash") {
        return;
    }
    let end = "[delete]\ndelete_mode = \"keep\"\n".into();
    let mut mount = Setup { end, ..Setup::default() }.mount();
    let root = mount.mountpoint.display().to_string();
    for name in ["a.wav", "b.wav"] {
        fs::write(mount.path(name), bytes(1)).unwrap();
        age(&mount.path(name), 40);
    }
    command(&mount, &["archive", &format!("{root}/a.wav")]);
    for name in ["a.wav", "b.wav"] {
        fs::remove_file(mount.path(name)).unwrap();
    }
    assert_eq!(command(&mount, &["trash", "list"])["files"], 0);
    assert_eq!(objects(&mount).len(), 1);
    mount.stop();
    assert_eq!(fs::read_dir(mount.path(".spl/trash")).unwrap().count(), 0);
    mount.fsck();
}

#[test]
fn in_mode_refuse_what_is_old_or_archived_stays() {
    if support::no_mount("in_mode_refuse_what_is_old_or_archived_stays") {
        return;
    }
    let end = "[delete]\ndelete_mode = \"refuse\"\n".into();
    let mut mount = Setup { end, ..Setup::default() }.mount();
    for name in ["archived.wav", "released.wav", "old.wav", "young.wav", "temporary.wav"] {
        fs::write(mount.path(name), bytes(1)).unwrap();
    }
    age(&mount.path("old.wav"), 1);
    for name in ["archived.wav", "released.wav"] {
        command(&mount, &["archive", &mount.path(name).display().to_string()]);
    }
    command(&mount, &["release", &mount.path("released.wav").display().to_string()]);
    for name in ["archived.wav", "released.wav", "old.wav"] {
        let refused = fs::remove_file(mount.path(name)).unwrap_err();
        assert_eq!(refused.raw_os_error(), Some(libc::EPERM), "{name}");
        let refused = fs::rename(mount.path("young.wav"), mount.path(name)).unwrap_err();
        assert_eq!(refused.raw_os_error(), Some(libc::EPERM), "{name}");
        assert_eq!(fs::read(mount.path(name)).unwrap(), bytes(1));
    }
    fs::rename(mount.path("old.wav"), mount.path("older.wav")).unwrap();
    fs::rename(mount.path("young.wav"), mount.path("temporary.wav")).unwrap();
    fs::remove_file(mount.path("temporary.wav")).unwrap();
    fs::write(mount.path("empty.wav"), b"").unwrap();
    age(&mount.path("empty.wav"), 1);
    fs::remove_file(mount.path("empty.wav")).unwrap();
    mount.stop();
    mount.fsck();
}

#[test]
fn each_rule_has_its_delete_mode_and_what_is_not_known_the_safest() {
    if support::no_mount("each_rule_has_its_delete_mode_and_what_is_not_known_the_safest") {
        return;
    }
    let rule = |name: &str, matches: &str, mode: &str| {
        format!("[[policy]]\nname = \"{name}\"\n{matches}\ndelete_mode = \"{mode}\"\n")
    };
    let end = [
        "[calls]\nsource = \"filename\"\n".to_owned(),
        rule("evidence", "path = [\"evidence/**\"]", "refuse"),
        rule("copies", "path = [\"copies/**\"]", "keep"),
        rule("scratch", "path = [\"scratch/**\"]", "delete"),
        // Of no recording below "sales" it is known which of these two it is.
        rule("sales", "path = [\"sales/**\"]\ncampaign = [\"SALES\"]", "refuse"),
        rule("rest", "path = [\"sales/**\"]", "delete"),
    ];
    let mut mount = Setup { end: end.concat(), ..Setup::default() }.mount();
    let dirs = ["evidence", "copies", "scratch", "sales", "other"];
    for dir in dirs {
        fs::create_dir(mount.path(dir)).unwrap();
        fs::write(mount.path(format!("{dir}/a.wav")), bytes(1)).unwrap();
    }
    command(&mount, &["archive", &mount.mountpoint.display().to_string()]);
    let mut refused = Vec::new();
    for dir in dirs {
        if let Err(error) = fs::remove_file(mount.path(format!("{dir}/a.wav"))) {
            assert_eq!(error.raw_os_error(), Some(libc::EPERM), "{dir}");
            refused.push(dir);
        }
    }
    assert_eq!(refused, ["evidence", "sales"]);
    let said = command(&mount, &["explain", &mount.path("sales/a.wav").display().to_string()]);
    let reasons = said["reasons"].to_string();
    assert!(reasons.contains("the safest of \\\"sales\\\" or \\\"rest\\\""), "{reasons}");
    let listed = command(&mount, &["trash", "list"]);
    let mut there: Vec<&str> = listed["recordings"]
        .as_array()
        .unwrap()
        .iter()
        .map(|one| one["path"].as_str().unwrap())
        .collect();
    there.sort_unstable();
    // What is to be deleted everywhere is there until it is.
    assert_eq!(there, ["other/a.wav", "scratch/a.wav"], "{listed:#}");
    assert_eq!(objects(&mount).len(), dirs.len(), "nothing was deleted in the target yet");

    // A reload is in force for the next deletion.
    let text = fs::read_to_string(&mount.config).unwrap();
    fs::write(&mount.config, text.replace("\"refuse\"", "\"keep\"")).unwrap();
    mount.cli(["reload"]).ok();
    fs::remove_file(mount.path("evidence/a.wav")).unwrap();
    mount.stop();
    mount.fsck();
}
