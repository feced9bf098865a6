//! Expiry on a mount: what is deleted is deleted everywhere, and what is not is whole, wherever the
//! daemon dies.
#![cfg(feature = "faults")]

mod support;

use rustix::process::Signal;
use serde_json::Value;
use std::collections::BTreeMap;
use std::fs::{self, OpenOptions};
use std::io::{ErrorKind, Write};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::time::{Duration, Instant};
use support::mount::{Mount, Setup};
use support::no_mount;
use support::run::Ran;

const RULES: &str = r#"
[[policy]]
name = "short"
path = ["d/a*"]
expire_after = "10d"

[retention]
max_delete_per_day = "100%"
"#;

/// Eleven days, in seconds.
const LATER: u64 = 11 * 86_400;
/// What the rule lets expire, and what it does not.
const GOES: &[&str] = &["d/a.txt", "d/a.wav", "d/a2.txt", "d/a2.wav", "d/a3.wav"];
const STAYS: &[&str] = &["d/b.wav", "d/c.wav"];

fn bytes(path: &str) -> Vec<u8> {
    path.bytes().cycle().take(70_000 + path.len()).collect()
}

#[track_caller]
fn eventually(what: &str, mut is: impl FnMut() -> bool) {
    let until = Instant::now() + support::look::PATIENCE;
    while !is() {
        assert!(Instant::now() < until, "{what}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

fn is_gone(error: &std::io::Error) -> bool {
    matches!(error.kind(), ErrorKind::NotFound | ErrorKind::StaleNetworkFileHandle)
}

/// What is there; what goes in this very moment is not.
fn files_below(root: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut tree = BTreeMap::new();
    let mut dirs = vec![root.to_path_buf()];
    while let Some(dir) = dirs.pop() {
        let entries = match fs::read_dir(&dir) {
            Ok(entries) => entries,
            Err(e) if is_gone(&e) => continue,
            Err(e) => panic!("{dir:?}: {e}"),
        };
        for entry in entries {
            let path = entry.expect("a directory can be read").path();
            if path.is_dir() {
                dirs.push(path);
            } else {
                let name = path.strip_prefix(root).expect("it is below").display().to_string();
                match fs::read(&path) {
                    Ok(bytes) => drop(tree.insert(name, bytes)),
                    Err(e) if is_gone(&e) => {}
                    Err(e) => panic!("{path:?}: {e}"),
                }
            }
        }
    }
    tree
}

/// Keys of recordings in the target.
fn objects(mount: &Mount) -> Vec<String> {
    let all = files_below(&mount.target).into_keys();
    all.filter(|key| !key.contains(".spoolfs")).collect()
}

/// Archived, released, and one that is nowhere but here; then the daemon ends.
fn with_a_past() -> Mount {
    let mut mount = Setup { end: RULES.into(), ..Setup::default() }.mount();
    fs::create_dir(mount.path("d")).unwrap();
    for path in GOES.iter().chain(STAYS) {
        fs::write(mount.path(path), bytes(path)).unwrap();
    }
    for path in ["d/a.wav", "d/a.txt", "d/a2.wav", "d/a2.txt", "d/b.wav", "d/c.wav"] {
        mount.cli(["archive".as_ref(), mount.path(path).as_os_str()]).ok();
    }
    for path in ["d/a2.wav", "d/c.wav"] {
        mount.cli(["release".as_ref(), mount.path(path).as_os_str()]).ok();
    }
    assert_eq!(objects(&mount).len(), 6);
    mount.stop();
    mount.env = vec![("SPOOLFS_AHEAD", LATER.to_string())];
    mount
}

fn retention(mount: &Mount, options: &[&str]) -> (Ran, Value) {
    let ran = mount.cli(["retention", "run", "--json"].iter().chain(options));
    let report = serde_json::from_str(&ran.out).unwrap_or_default();
    (ran, report)
}

/// Until nothing that is due is left; how many files were deleted.
#[track_caller]
fn expire(mount: &Mount) -> u64 {
    let mut files = 0;
    let mut said = String::new();
    eventually("all expired", || {
        let (ran, report) = retention(mount, &["--now", "--confirm"]);
        files += report["files"].as_u64().unwrap_or(0);
        let done = ran.status.success();
        if !done {
            let now = format!("{}{}", ran.out, ran.err);
            if now != said {
                eprintln!("{now}");
                said = now;
            }
        }
        done
    });
    files
}

/// Nothing of what expired is anywhere, and all else is as it was.
#[track_caller]
fn check(mut mount: Mount, what: &str) {
    // The kernel believes a second longer in names that it knows.
    eventually("the names are gone", || GOES.iter().all(|path| !mount.path(path).exists()));
    let left = objects(&mount);
    assert_eq!(left.len(), 2, "{what}: {left:?}");
    let found = files_below(&mount.mountpoint);
    let wanted: BTreeMap<String, Vec<u8>> =
        STAYS.iter().map(|path| ((*path).to_owned(), bytes(path))).collect();
    assert!(found == wanted, "{what}: {:?}", found.keys());
    mount.cli(["audit", "verify"]).ok();
    mount.stop();
    mount.fsck();
    let below = files_below(&mount.mountpoint);
    assert_eq!(below.keys().collect::<Vec<_>>(), ["d/b.wav"], "{what}: nothing is in .spl, too");
}

fn events(mount: &Mount) -> Vec<String> {
    let log = files_below(&mount.state.join("audit"));
    let lines = log.iter().filter(|(name, _)| name.ends_with(".jsonl")).flat_map(|(_, bytes)| {
        let text = String::from_utf8_lossy(bytes).into_owned();
        text.lines().map(str::to_owned).collect::<Vec<_>>()
    });
    let event = |line: String| {
        let line: Value = serde_json::from_str(&line).expect("a document");
        line["event"].as_str().unwrap_or_default().to_owned()
    };
    lines.map(event).collect()
}

#[test]
fn nothing_is_deleted_that_can_not_be_put_on_record() {
    if no_mount("nothing_is_deleted_that_can_not_be_put_on_record") {
        return;
    }
    let mut mount = with_a_past();
    mount.env.push(("SPOOLFS_FAIL", "audit.sync:1:EIO:forever".to_owned()));
    mount.start();
    // More often than may be deleted in a day.
    let mut refused = 0;
    eventually("it is refused for that reason", || {
        let (ran, report) = retention(&mount, &[]);
        assert_eq!((ran.status.code(), &report["files"]), (Some(1), &Value::from(0)), "{ran:?}");
        let why = report["why"].as_str().unwrap_or_default();
        refused += usize::from(why.contains("it can not be put on record"));
        refused > 5
    });
    assert!(GOES.iter().all(|path| mount.path(path).exists()));
    let (ran, _) = retention(&mount, &["--confirm"]);
    assert_eq!(ran.status.code(), Some(1), "nobody is on record as having confirmed: {ran:?}");
    mount.stop();
}

#[test]
fn retention_run_deletes_in_all_places_what_is_due() {
    if no_mount("retention_run_deletes_in_all_places_what_is_due") {
        return;
    }
    let mut mount = with_a_past();
    // The clock is eleven days on at once: nothing expires before somebody asks.
    mount.start();
    let explained = mount.cli(["explain".as_ref(), mount.path("d/a.wav").as_os_str()]).ok();
    assert!(explained.out.contains("By rule \"short\""), "{}", explained.out);
    // One of them is being listened to.
    let listener = fs::File::open(mount.path("d/a.wav")).unwrap();
    eventually("the others went", || {
        let (ran, report) = retention(&mount, &["--now", "--confirm"]);
        assert_eq!(ran.status.code(), Some(1), "{ran:?}");
        report["kept"].as_u64() == Some(2) && !mount.path("d/a3.wav").exists()
    });
    assert!(mount.path("d/a.wav").exists() && mount.path("d/a.txt").exists());
    drop(listener);
    expire(&mount);
    let events = events(&mount);
    let count = |event: &str| events.iter().filter(|e| *e == event).count();
    let (expired, failed) = (count("expired"), count("expiry_failed"));
    assert!(expired >= failed + GOES.len(), "{events:?}");
    assert!(count("deletion_confirmed") >= 2, "{events:?}");
    check(mount, "at the end");
}

#[test]
fn a_released_recording_whose_call_goes_on_does_not_expire() {
    if no_mount("a_released_recording_whose_call_goes_on_does_not_expire") {
        return;
    }
    let mut mount = with_a_past();
    mount.start();
    let mut call = OpenOptions::new().append(true).open(mount.path("d/a2.wav")).unwrap();
    eventually("the others went", || {
        retention(&mount, &["--now", "--confirm"]);
        !mount.path("d/a.wav").exists() && !mount.path("d/a3.wav").exists()
    });
    call.write_all(b"and so on").unwrap();
    for _ in 0..3 {
        retention(&mount, &["--now", "--confirm"]);
    }
    drop(call);
    let whole = [&bytes("d/a2.wav")[..], b"and so on"].concat();
    assert!(fs::read(mount.path("d/a2.wav")).unwrap() == whole);
    assert!(fs::read(mount.path("d/a2.txt")).unwrap() == bytes("d/a2.txt"));
    mount.stop();
}

#[test]
fn a_plan_says_what_run_does_and_changes_nothing() {
    if no_mount("a_plan_says_what_run_does_and_changes_nothing") {
        return;
    }
    let mut mount = with_a_past();
    mount.start();
    let plan = |options: &[&str]| -> Value {
        let ran = mount.cli(["retention", "plan", "--json"].iter().chain(options)).ok();
        serde_json::from_str(&ran.out).expect("a document")
    };
    let size = |paths: &[&str]| paths.iter().map(|path| bytes(path).len()).sum::<usize>();
    let now = plan(&[]);
    assert_eq!(now["total"]["expire"]["files"], GOES.len(), "{now:#}");
    assert_eq!(now["total"]["expire"]["bytes"], size(GOES), "{now:#}");
    assert_eq!(now["rules"][0]["rule"], "\"short\"", "{now:#}");
    assert_eq!((&now["files"], &now["max_delete_per_day"]), (&7.into(), &7.into()), "{now:#}");
    assert_eq!((&now["total"]["archive"]["files"], &now["others"]), (&0.into(), &false.into()));
    // One is not archived: `archive_after` is a year. Local copies stay.
    let late = plan(&["--at", "2099-01-01"]);
    assert_eq!(late["total"]["archive"]["files"], 1, "{late:#}");
    assert_eq!(late["total"]["release"]["files"], 0, "{late:#}");
    let early = plan(&["--at", "2001-01-01"]);
    assert_eq!(early["total"]["expire"]["files"], 0, "{early:#}");
    // Another file, with other rules.
    let text = fs::read_to_string(&mount.config).unwrap();
    let other = mount.root.join("new.toml");
    let rules = "[[policy]]\nname = \"all\"\nexpire_after = \"2d\"\nkeep_local = \"1d\"\n";
    let text = text.replace("[[target]]\n", "[[target]]\nprice_per_gb_month = \"1000\"\n");
    fs::write(&other, text.replace(RULES, rules)).unwrap();
    let program = env!("CARGO_BIN_EXE_spoolfs");
    let of = |options: &[&str]| {
        let mut command = std::process::Command::new(program);
        command.args(["retention", "plan"]).args(options).arg("--config").arg(&other);
        let ran = command.output().unwrap();
        assert!(ran.status.success(), "{ran:?}");
        String::from_utf8(ran.stdout).unwrap()
    };
    let new: Value = serde_json::from_str(&of(&["--json"])).unwrap();
    assert_eq!((&new["total"]["expire"]["files"], &new["others"]), (&7.into(), &true.into()));
    let local = ["d/a.txt", "d/a.wav", "d/b.wav"];
    assert_eq!(new["total"]["release"]["files"], local.len(), "{new:#}");
    assert_eq!(new["total"]["release"]["bytes"], size(&local), "{new:#}");
    // A millionth for each byte of an object.
    let archived = size(&["d/a.txt", "d/a.wav", "d/a2.txt", "d/a2.wav", "d/b.wav", "d/c.wav"]);
    let price = format!("0.{archived:06}");
    let price = price.trim_end_matches('0');
    let cost = &new["costs"][0];
    assert_eq!((&cost["bytes"], &cost["expired"]), (&0.into(), &archived.into()), "{new:#}");
    assert_eq!((&cost["monthly"], &cost["saved"]), (&"0".into(), &price.into()), "{new:#}");
    let early: Value = serde_json::from_str(&of(&["--json", "--at", "2001-01-01"])).unwrap();
    let cost = &early["costs"][0];
    assert_eq!((&cost["bytes"], &cost["expired"]), (&archived.into(), &0.into()), "{early:#}");
    assert_eq!((&cost["monthly"], &cost["saved"]), (&price.into(), &"0".into()), "{early:#}");
    assert_eq!(now["costs"].as_array().map(Vec::len), Some(0), "{now:#}");
    let words = of(&[]);
    assert!(words.contains("0 B stay, for 0.00 a month"), "{words}");
    assert!(words.contains("not the rules in force"), "{words}");
    assert!(words.contains("\"all\"") && words.contains("--confirm"), "{words}");
    // Held ones are told apart, with their groups.
    let case = ["hold", "add", "--case", "A", "--reason", "a letter"].map(std::ffi::OsStr::new);
    mount.cli(case.into_iter().chain([mount.path("d/a.wav").as_os_str()])).ok();
    let now = plan(&[]);
    assert_eq!(
        (&now["total"]["expire"]["files"], &now["total"]["held"]["files"]),
        (&3.into(), &2.into())
    );
    assert!(GOES.iter().all(|path| mount.path(path).exists()));
    mount.stop();
}

/// Where the daemon dies: with the second passing, one of several is done.
const POINTS: &[&str] = &[
    "expiry.after_record",
    "expiry.after_mark",
    "expiry.after_mark:2",
    "release.after_gone",
    "release.after_gone:2",
    "expiry.after_name",
    "expiry.after_name:2",
    "expiry.after_name:4",
    "expiry.after_delete",
    "expiry.after_delete:2",
    "expiry.after_object",
];

#[track_caller]
fn dies_and_goes_on(point: &str) {
    let mut mount = with_a_past();
    mount.env.push(("SPOOLFS_CRASH_AT", point.to_owned()));
    mount.start();
    // Until then something else may be done with them.
    let until = Instant::now() + support::look::PATIENCE;
    let status = loop {
        retention(&mount, &["--now", "--confirm"]);
        if let Some(status) = mount.exited() {
            break status;
        }
        assert!(Instant::now() < until, "{point}: it lives on\n{}", mount.said());
        std::thread::sleep(Duration::from_millis(20));
    };
    assert_eq!(status.signal(), Some(Signal::ABORT.as_raw()), "{point}: {status}");
    mount.bury();
    mount.env.pop();
    mount.start();
    // All that is there is whole.
    for (path, found) in files_below(&mount.mountpoint) {
        assert!(found == bytes(&path), "{point}: {path} is damaged");
    }
    expire(&mount);
    check(mount, point);
}

#[test]
fn an_expiry_that_is_cut_off_anywhere_leaves_recordings_whole_or_gone() {
    if no_mount("an_expiry_that_is_cut_off_anywhere_leaves_recordings_whole_or_gone") {
        return;
    }
    support::each_of(3, POINTS, |point| dies_and_goes_on(point));
}

fn in_trash(mount: &Mount) -> Vec<String> {
    let ran = mount.cli(["trash", "list", "--json"]).ok();
    let report: Value = serde_json::from_str(&ran.out).expect("a document");
    let paths = report["recordings"].as_array().expect("a list").iter();
    paths.map(|one| one["path"].as_str().expect("a path").to_owned()).collect()
}

#[test]
fn the_trash_is_emptied_of_the_same_wherever_the_daemon_dies() {
    if no_mount("the_trash_is_emptied_of_the_same_wherever_the_daemon_dies") {
        return;
    }
    let all = ["d/a.wav", "d/a.txt", "d/b.wav"];
    for point in [
        "expiry.after_record",
        "expiry.after_emptied",
        "expiry.after_emptied:2",
        "expiry.after_delete",
        "expiry.after_object",
    ] {
        let end = format!("\n[delete]\ntrash_keep = \"10d\"\n{RULES}");
        let mut mount = Setup { end, ..Setup::default() }.mount();
        fs::create_dir(mount.path("d")).unwrap();
        for path in all {
            fs::write(mount.path(path), bytes(path)).unwrap();
        }
        for path in all {
            mount.cli(["archive".as_ref(), mount.path(path).as_os_str()]).ok();
            fs::remove_file(mount.path(path)).unwrap();
        }
        assert_eq!(in_trash(&mount).len(), 3);
        mount.stop();
        mount.env =
            vec![("SPOOLFS_AHEAD", LATER.to_string()), ("SPOOLFS_CRASH_AT", point.to_owned())];
        mount.start();
        eventually(point, || {
            mount.cli(["trash", "empty", "--now", "--confirm"]);
            mount.exited().is_some_and(|end| end.signal() == Some(Signal::ABORT.as_raw()))
        });
        mount.bury();
        mount.env.pop();
        mount.start();
        eventually("what is due is deleted", || {
            mount.cli(["trash", "empty", "--now", "--confirm"]).status.success()
        });
        assert_eq!(in_trash(&mount), ["d/b.wav"], "{point}");
        assert_eq!(objects(&mount).len(), 1, "{point}");
        mount.stop();
        mount.fsck();
    }
}
