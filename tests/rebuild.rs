//! `spoolfs rebuild` and `verify` on a real tree: recordings made, changed, renamed and deleted through the
//! mount, the catalog deleted, and `find` showing the same tree before and after.
//!
//! SPOOLFS_TEST_REBUILD is how many recordings there are; 10,000 in scripts/soak.
#![allow(clippy::unwrap_used, reason = "a failed step of the test is its failure")]

mod support;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use spoolfs::store::journal::{Author, Segment};
use support::mount::{Mount, Setup};
use support::no_mount;
use support::run::{Ran, run};

const PATIENCE: Duration = Duration::from_secs(400);

fn recordings() -> usize {
    std::env::var("SPOOLFS_TEST_REBUILD").map_or(600, |n| n.parse().unwrap())
}

fn setup() -> Setup {
    // The keys of [write_back] end with this one.
    Setup { settle: "10ms\"\njournal_interval = \"2s".into(), ..Setup::default() }
}

fn cli(mount: &Mount, arguments: &[&str]) -> Ran {
    let mut command = Command::new(env!("CARGO_BIN_EXE_spoolfs"));
    command.args(arguments).arg("--config").arg(&mount.config);
    run(&mut command, PATIENCE)
}

/// What `find` shows, inode numbers aside.
fn find(dir: &Path) -> String {
    let format = "%P %y %s %T@ %m %U %G %n\\n";
    let output = Command::new("find").arg(dir).args(["-printf", format]).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    let text = String::from_utf8(output.stdout).unwrap();
    let mut lines: Vec<&str> = text.lines().collect();
    lines.sort_unstable();
    lines.join("\n")
}

fn bytes(i: usize, generation: usize) -> Vec<u8> {
    format!("recording {i} generation {generation} ").repeat(1 + i % 40).into_bytes()
}

fn name(i: usize) -> String {
    format!("2026/11/{:02}/in-{i:05}-20261121.wav", i / 100)
}

/// Where a recording is after all the renames.
fn place(i: usize) -> String {
    match (i / 100, i % 100) {
        (3, rest) if rest % 7 == 5 => format!("kept/moved {i} ü.wav"),
        (3, _) => name(i).replace("2026/11/03/", "kept/third/"),
        (_, rest) if rest % 7 == 5 => format!("kept/moved {i} ü.wav"),
        _ => name(i),
    }
}

fn deleted(i: usize) -> bool {
    i % 13 == 12
}

fn overwritten(i: usize) -> bool {
    i % 10 == 4
}

fn make(mount: &Mount, count: usize) {
    for i in 0..count {
        let path = mount.path(name(i));
        if i % 100 == 0 {
            fs::create_dir_all(path.parent().unwrap()).unwrap();
        }
        fs::write(&path, bytes(i, 1)).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600 | (i as u32 % 64))).unwrap();
        if i % 3 == 0 {
            std::os::unix::fs::chown(&path, Some(1000 + i as u32 % 5), Some(2000)).unwrap();
        }
        if i % 4 == 0 {
            let file = fs::File::open(&path).unwrap();
            let at = std::time::UNIX_EPOCH + Duration::new(1_500_000_000 + i as u64, 123_456_789);
            file.set_modified(at).unwrap();
        }
    }
}

fn change(mount: &Mount, count: usize) {
    for i in (0..count).filter(|i| overwritten(*i)) {
        fs::write(mount.path(name(i)), bytes(i, 2)).unwrap();
    }
    cli(mount, &["archive", mount.mountpoint.to_str().unwrap()]).ok();
    // Half of the days are released; the rest stays local.
    let days = count.div_ceil(100);
    for day in (0..days).filter(|day| day % 2 == 1) {
        let dir = mount.path(format!("2026/11/{day:02}"));
        cli(mount, &["release", dir.to_str().unwrap()]).ok();
    }
    fs::create_dir(mount.path("kept")).unwrap();
    fs::set_permissions(mount.path("kept"), fs::Permissions::from_mode(0o2770)).unwrap();
    if count > 300 {
        fs::rename(mount.path("2026/11/03"), mount.path("kept/third")).unwrap();
    }
    for i in 0..count {
        let now = match i / 100 {
            3 => mount.path(name(i).replace("2026/11/03/", "kept/third/")),
            _ => mount.path(name(i)),
        };
        if deleted(i) {
            fs::remove_file(now).unwrap();
        } else if i % 100 % 7 == 5 {
            fs::rename(now, mount.path(place(i))).unwrap();
        } else if i % 9 == 8 {
            fs::set_permissions(now, fs::Permissions::from_mode(0o440)).unwrap();
        }
    }
}

/// Waits until the journal in the target tells of this.
#[track_caller]
fn until_told(mount: &Mount, what: &str) {
    let until = Instant::now() + PATIENCE;
    let told = || -> bool {
        let below = |dir: &Path| {
            let entries = fs::read_dir(dir).map(|all| all.flatten().map(|e| e.path()).collect());
            entries.unwrap_or_else(|_| Vec::new())
        };
        let segments = below(&mount.target.join(".spoolfs/journal")).into_iter();
        segments
            .flat_map(|dir| below(&dir))
            .any(|f| fs::read(f).is_ok_and(|b| b.windows(what.len()).any(|w| w == what.as_bytes())))
    };
    while !told() {
        assert!(Instant::now() < until, "not in the journal: {what}\n{}", mount.said());
        std::thread::sleep(Duration::from_millis(100));
    }
}

fn lose_catalog(mount: &Mount) {
    for entry in fs::read_dir(&mount.state).unwrap().flatten() {
        if entry.file_name().to_str().unwrap().starts_with("catalog.db") {
            fs::remove_file(entry.path()).unwrap();
        }
    }
}

#[test]
fn find_shows_the_same_tree_after_the_catalog_was_deleted_and_rebuilt() {
    if no_mount("find_shows_the_same_tree_after_the_catalog_was_deleted_and_rebuilt") {
        return;
    }
    let count = recordings();
    let mut mount = setup().mount();
    make(&mount, count);
    cli(&mount, &["archive", mount.mountpoint.to_str().unwrap()]).ok();
    change(&mount, count);
    fs::write(mount.path("kept/last.wav"), b"last").unwrap();
    cli(&mount, &["archive", mount.path("kept/last.wav").to_str().unwrap()]).ok();
    fs::rename(mount.path("kept/last.wav"), mount.path("kept/the-last.wav")).unwrap();
    until_told(&mount, "kept/the-last.wav");
    let before = find(&mount.mountpoint);
    let states = mount.status()["states"].clone();
    mount.stop();
    lose_catalog(&mount);

    let ran = cli(&mount, &["rebuild", "--json"]).ok();
    let report: serde_json::Value = serde_json::from_str(&ran.out).unwrap();
    let requests = report["requests"].as_u64().unwrap();
    let (seconds, per) = (&report["seconds"], requests as f64 / count as f64);
    println!("{count} recordings: {seconds} s, {requests} requests, {per:.4} for each");
    println!("{}", ran.err);
    assert_eq!(report["complete"], true, "{}", ran.out);
    assert!(report["set_aside"].is_null() && report["found_by_objects"] == serde_json::json!([]));
    // Markers, listings and the segments of some seconds, however few the recordings are.
    assert!(requests < 20 + count as u64 / 50, "{}", ran.out);

    mount.start();
    assert_eq!(find(&mount.mountpoint), before);
    for i in (0..count).filter(|i| !deleted(*i) && (i % 17 == 0 || overwritten(*i) && i % 3 == 0)) {
        let generation = if overwritten(i) { 2 } else { 1 };
        let found = fs::read(mount.path(place(i))).unwrap();
        assert_eq!(found, bytes(i, generation), "{}\n{}", place(i), mount.said());
    }
    // What is local is hashed again, and then everything stands where it stood.
    let until = Instant::now() + PATIENCE;
    while mount.status()["states"] != states {
        let now = mount.status()["states"].clone();
        assert!(Instant::now() < until, "{now}\n{states}\n{}", mount.said());
        std::thread::sleep(Duration::from_millis(200));
    }
    mount.stop();
    begins_with_a_snapshot(&mut mount, &before, count);
}

/// The same once more, with a snapshot and without.
fn begins_with_a_snapshot(mount: &mut Mount, before: &str, count: usize) {
    let config = fs::read_to_string(&mount.config).unwrap();
    let every = "journal_interval = \"2s\"\nsnapshot_every = \"1s\"";
    fs::write(&mount.config, config.replace("journal_interval = \"2s\"", every)).unwrap();
    mount.start();
    let until = Instant::now() + PATIENCE;
    while !mount.said().contains("the target has a snapshot of the catalog") {
        assert!(Instant::now() < until, "{}", mount.said());
        std::thread::sleep(Duration::from_millis(50));
    }
    println!("{}", mount.said().lines().filter(|l| l.contains("a snapshot")).collect::<String>());
    mount.stop();
    fs::write(&mount.config, config).unwrap();
    let mut rows = Vec::new();
    for arguments in [&["rebuild", "--json"][..], &["rebuild", "--json", "--whole-journal"]] {
        lose_catalog(mount);
        let ran = cli(mount, arguments).ok();
        let report: serde_json::Value = serde_json::from_str(&ran.out).unwrap();
        assert_eq!(report["complete"], true, "{}", ran.out);
        let begun = report["snapshot"].is_string();
        println!(
            "{count} recordings, snapshot: {begun}: {} s, {} requests, {} rows of {} segments",
            report["seconds"], report["requests"], report["rows"], report["segments"]
        );
        assert_eq!(begun, arguments.len() == 2, "{}", ran.out);
        rows.push(report["rows"].as_u64().unwrap());
        mount.start();
        assert_eq!(find(&mount.mountpoint), before);
        mount.stop();
    }
    assert!(rows[0] < rows[1] / 10, "{rows:?}");
}

/// Tells in the target's journal of recordings that were released, and makes their objects, which are
/// as long as they should be and nothing else.
fn pretend(mount: &Mount, count: usize) {
    let below = |dir: &Path| fs::read_dir(dir).unwrap().next().unwrap().unwrap().path();
    let dir = below(&mount.target.join(".spoolfs/journal"));
    let mut segments: Vec<_> = fs::read_dir(&dir).unwrap().map(|e| e.unwrap().path()).collect();
    segments.sort();
    let read = |path: &Path| Segment::decode(&fs::read(path).unwrap()).unwrap();
    let told = segments.iter().flat_map(|path| read(path).lines);
    let row = |line: String| serde_json::from_str::<serde_json::Value>(&line).unwrap();
    let row = told.map(row).find(|row| row["kind"] == "archived").unwrap();
    let last = read(segments.last().unwrap()).header;
    let author = Author {
        archive: last.archive,
        node: last.node.clone(),
        instance: last.instance,
        epoch: last.epoch,
    };
    let (id, size) = (row["id"].as_u64().unwrap(), row["size"].as_u64().unwrap());
    let object = row["objects"][0]["key"].as_str().unwrap().replace("first.wav", "");
    let mut lines = Vec::new();
    let (mut segment, mut from) = (last.segment, last.last);
    for i in 1..=count {
        let path = format!("2026/{:04}/in-{i:07}-20261121-120000-1700000000.wav", i / 500);
        let key = format!("{object}{path}");
        let place = mount.target.join(&key);
        if i % 500 == 0 || i == 1 {
            fs::create_dir_all(place.parent().unwrap()).unwrap();
        }
        fs::File::create(place).unwrap().set_len(size).unwrap();
        let mut row = row.clone();
        (row["seq"], row["id"]) = ((last.last + i as u64).into(), (id + i as u64).into());
        (row["path"], row["objects"][0]["key"]) = (path.into(), key.into());
        lines.push(row.to_string());
        if lines.len() == 1000 || i == count {
            segment += 1;
            let to = last.last + i as u64;
            let made = Segment::new(&author, segment, from + 1, to, std::mem::take(&mut lines));
            from = to;
            let key = spoolfs::store::journal::key_of("", &author.node, author.epoch, segment);
            fs::write(mount.target.join(key), made.unwrap().encode()).unwrap();
        }
    }
}

/// All of them released: their rows, their objects and what comes of both are many times as much as
/// this takes. SPOOLFS_TEST_REBUILD of them.
#[test]
fn a_rebuild_takes_no_memory_for_each_recording() {
    if no_mount("a_rebuild_takes_no_memory_for_each_recording") {
        return;
    }
    let count = if recordings() > 600 { recordings() } else { 50_000 };
    let mut mount = setup().mount();
    fs::write(mount.path("first.wav"), b"first").unwrap();
    for step in ["archive", "release"] {
        cli(&mount, &[step, mount.path("first.wav").to_str().unwrap()]).ok();
    }
    until_told(&mount, "first.wav");
    mount.stop();
    lose_catalog(&mount);
    pretend(&mount, count);
    let ran = cli(&mount, &["rebuild", "--json"]).ok();
    let report: serde_json::Value = serde_json::from_str(&ran.out).unwrap();
    let peak = report["peak_memory"].as_u64().unwrap();
    println!(
        "{count} recordings: {} s, {} requests, {} MiB at most",
        report["seconds"],
        report["requests"],
        peak >> 20
    );
    println!("{}", ran.err);
    let [complete, released] = [&report["complete"], &report["released"]];
    assert_eq!((complete, released), (&true.into(), &(count + 1).into()), "{}", ran.out);
    let requests = report["requests"].as_u64().unwrap();
    assert!(requests < 20 + count as u64 / 50, "{}", ran.out);
    assert!(peak < 160 << 20, "{peak}");
    mount.start();
    let path = mount.path(format!("2026/0007/in-{:07}-20261121-120000-1700000000.wav", 3777));
    assert_eq!(fs::metadata(path).unwrap().len(), 5);
    mount.stop();
}

#[test]
fn an_object_changed_in_the_bucket_is_an_error_and_an_alarm_and_verify_exits_1() {
    if no_mount("an_object_changed_in_the_bucket_is_an_error_and_an_alarm_and_verify_exits_1") {
        return;
    }
    let mut mount = setup().mount();
    let names = ["deleted.wav", "overwritten.wav", "cut.wav", "fine.wav"];
    for name in names {
        fs::write(mount.path(name), vec![7; 100_000]).unwrap();
    }
    cli(&mount, &["archive", mount.mountpoint.to_str().unwrap()]).ok();
    cli(&mount, &["release", mount.mountpoint.to_str().unwrap()]).ok();
    cli(&mount, &["verify", "--all"]).ok();
    let target = mount.target.clone();
    let object = |name: &str| {
        let nodes = fs::read_dir(&target).unwrap().flatten().map(|e| e.path());
        nodes.map(|dir| dir.join(name)).find(|p| p.is_file()).unwrap()
    };
    fs::remove_file(object("deleted.wav")).unwrap();
    fs::write(object("overwritten.wav"), vec![8; 100_000]).unwrap();
    fs::write(object("cut.wav"), vec![7; 99_999]).unwrap();
    for name in &names[..3] {
        let error = fs::read(mount.path(name)).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(5), "{name}");
    }
    assert_eq!(fs::read(mount.path("fine.wav")).unwrap(), vec![7; 100_000]);
    let status = cli(&mount, &["status"]).ok().out;
    assert!(status.contains("Reads have met archived copies"), "{status}");
    let ran = cli(&mount, &["verify", "--all"]);
    assert_eq!(ran.status.code(), Some(1), "{}{}", ran.out, ran.err);
    for name in &names[..3] {
        assert!(ran.err.contains(name), "{}", ran.err);
    }
    assert!(!ran.err.contains("fine.wav"), "{}", ran.err);
    mount.restart();
    let status = cli(&mount, &["status"]).ok().out;
    assert!(status.contains("ARCHIVED COPIES ARE DAMAGED OR GONE"), "{status}");
    let check = cli(&mount, &["check"]);
    assert_eq!(check.status.code(), Some(1));
    assert!(check.out.contains("3 are damaged or gone"), "{}", check.out);
    // They are brought back.
    for name in &names[1..3] {
        fs::write(object(name), vec![7; 100_000]).unwrap();
    }
    let deleted = object("fine.wav").with_file_name("deleted.wav");
    fs::write(deleted, vec![7; 100_000]).unwrap();
    cli(&mount, &["verify", mount.mountpoint.to_str().unwrap()]).ok();
    assert_eq!(mount.status()["bad_copies"], 0);
    for name in names {
        assert_eq!(fs::read(mount.path(name)).unwrap(), vec![7; 100_000], "{name}");
    }
    mount.stop();
}

#[test]
fn a_mount_without_its_catalog_says_that_rebuild_is_the_cure_and_calls_go_on() {
    if no_mount("a_mount_without_its_catalog_says_that_rebuild_is_the_cure_and_calls_go_on") {
        return;
    }
    let mut mount = setup().mount();
    fs::write(mount.path("a.wav"), b"released").unwrap();
    cli(&mount, &["archive", mount.path("a.wav").to_str().unwrap()]).ok();
    cli(&mount, &["release", mount.path("a.wav").to_str().unwrap()]).ok();
    until_told(&mount, "a.wav");
    let ran = cli(&mount, &["rebuild"]);
    assert!(ran.err.contains("is mounted; stop spoolfs first"), "{}{}", ran.out, ran.err);
    assert_eq!(ran.status.code(), Some(1));
    mount.stop();
    lose_catalog(&mount);
    mount.start();
    fs::write(mount.path("call.wav"), b"goes on").unwrap();
    assert!(!mount.path("a.wav").exists());
    let status = cli(&mount, &["status"]).ok().out;
    assert!(status.contains("spoolfs rebuild --config"), "{status}");
    assert!(fs::read_to_string(&mount.log).unwrap().contains("`spoolfs rebuild`"));
    mount.stop();
    let ran = cli(&mount, &["rebuild"]).ok();
    assert!(ran.out.contains("1 released"), "{}", ran.out);
    assert!(ran.out.contains("the old catalog is "), "{}", ran.out);
    mount.start();
    assert_eq!(fs::read(mount.path("a.wav")).unwrap(), b"released");
    assert_eq!(fs::read(mount.path("call.wav")).unwrap(), b"goes on");
    let status = cli(&mount, &["status"]).ok().out;
    assert!(!status.contains("rebuild"), "{status}");
    mount.stop();
}

#[test]
fn regression_a_rebuild_that_misses_something_exits_1() {
    if no_mount("regression_a_rebuild_that_misses_something_exits_1") {
        return;
    }
    let mut mount = setup().mount();
    for name in ["a.wav", "b.wav"] {
        let path = mount.path(name);
        fs::write(&path, name).unwrap();
        for step in ["archive", "release"] {
            cli(&mount, &[step, path.to_str().unwrap()]).ok();
        }
        until_told(&mount, name);
    }
    mount.stop();
    lose_catalog(&mount);
    let mut command = Command::new("find");
    command.arg(&mount.target).args(["-name", "b.wav", "-type", "f", "-print", "-delete"]);
    assert!(run(&mut command, PATIENCE).ok().out.contains("b.wav"));
    let ran = cli(&mount, &["rebuild", "--json"]);
    assert_eq!(ran.status.code(), Some(1), "{}{}", ran.out, ran.err);
    let report: serde_json::Value = serde_json::from_str(&ran.out).unwrap();
    assert_eq!((&report["complete"], &report["released"]), (&false.into(), &2.into()), "{report}");
    assert_eq!(report["lost"], serde_json::json!(["b.wav"]));
    mount.start();
    assert_eq!(fs::read(mount.path("a.wav")).unwrap(), b"a.wav");
    mount.stop();
}
