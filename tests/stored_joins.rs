//! docs/STITCHED.md, "Storing joins", on a mount with a directory for a target.
#![cfg(feature = "faults")]

mod support;

use serde_json::Value;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use support::mount::{Mount, Setup};
use support::no_mount;

const DAY: &str = "2026/11/21";
/// The fixtures' first call, in the order of its legs.
const LEGS: [&str; 3] = [
    "external-3001-02079460001-20261121-022709-1795228029.1.wav",
    "q-rigq-02079460001-20261121-022709-1795228029.11.wav",
    "exten-4001-02079460001-20261121-022712-1795228032.23.wav",
];
const CALL: &str = "1795228029.1";
/// The first leg expires ten days before the others.
const RULES: &str = r#"
[[policy]]
name = "soon"
path = ["2026/11/21/external-*"]
expire_after = "10d"

[[policy]]
name = "late"
path = ["2026/**"]
expire_after = "20d"

[retention]
max_delete_per_day = "100%"

[holds]
hold_settle = "0s"
hold_lift_grace = "0s"

[stitched]
archive = true
"#;

#[track_caller]
fn eventually(mount: &Mount, what: &str, mut is: impl FnMut() -> bool) {
    let until = Instant::now() + Duration::from_secs(90);
    while !is() {
        assert!(Instant::now() < until, "{what}: {:?}\n{}", names(mount), mount.said());
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// Calls as the daemon's test source reads them.
fn write_calls(mount: &Mount, legs: &[&str]) {
    let legs: Vec<String> = legs.iter().map(|leg| format!("{DAY}/{leg}")).collect();
    let path = mount.root.join("calls");
    // In one step: it is read at any moment.
    fs::write(path.with_extension("new"), format!("{CALL}\t{}\n", legs.join("\t"))).unwrap();
    fs::rename(path.with_extension("new"), path).unwrap();
}

/// What is recorded is archived at once.
fn at_once(end: String) -> Setup {
    Setup { end, archive_after: "0s".into(), ..Setup::default() }
}

/// A mount with the first call's legs, recorded through it, of which these are known to be of it.
fn with_call(setup: Setup, legs: &[&str]) -> Mount {
    let mut mount = setup.prepare();
    mount.env.push(("SPOOLFS_TEST_CALLS", mount.root.join("calls").display().to_string()));
    write_calls(&mount, legs);
    mount.start();
    fs::create_dir_all(mount.path(DAY)).unwrap();
    for leg in LEGS {
        let from = support::fixture("monitor").join(DAY).join(leg);
        fs::copy(from, mount.path(DAY).join(leg)).unwrap();
    }
    mount
}

fn leg(mount: &Mount, index: usize) -> PathBuf {
    mount.path(DAY).join(LEGS[index])
}

fn join(mount: &Mount) -> PathBuf {
    mount.path("stitched").join(format!("{CALL}.wav"))
}

fn expected(legs: &[&str]) -> Vec<u8> {
    let root = support::fixture("monitor").join(DAY);
    let data: Vec<u8> =
        legs.iter().flat_map(|leg| fs::read(root.join(leg)).unwrap()[44..].to_vec()).collect();
    let mut out =
        spoolfs::codec::wav_header(spoolfs::codec::Coding::Pcm16, 8000, 1, data.len() as u64);
    out.extend(data);
    out
}

/// Joins in the target: names and bytes.
fn stored(mount: &Mount) -> Vec<(String, Vec<u8>)> {
    let entries = fs::read_dir(mount.target.join("stitched")).into_iter().flatten().flatten();
    // What goes in this very moment is not there.
    let read = |entry: fs::DirEntry| {
        Some((entry.file_name().into_string().unwrap(), fs::read(entry.path()).ok()?))
    };
    let mut stored: Vec<_> = entries.filter_map(read).collect();
    stored.sort();
    stored
}

fn names(mount: &Mount) -> Vec<String> {
    stored(mount).into_iter().map(|(name, _)| name).collect()
}

/// Waits until one join is stored and no other, and it is that of these legs; its name.
#[track_caller]
fn stored_is(mount: &Mount, legs: &[&str]) -> String {
    let wanted = expected(legs);
    let mut name = String::new();
    eventually(mount, "the join is stored, and no other", || {
        let stored = stored(mount);
        stored.first().inspect(|(first, _)| name.clone_from(first));
        stored.len() == 1 && stored[0].1 == wanted && is_known(mount, &stored[0].0)
    });
    name
}

/// Whether the daemon counts on an object.
fn is_known(mount: &Mount, name: &str) -> bool {
    let flags = rusqlite::OpenFlags::SQLITE_OPEN_READ_ONLY;
    let known = || -> rusqlite::Result<bool> {
        let path = mount.state.join("joins.sqlite");
        let kept = rusqlite::Connection::open_with_flags(path, flags)?;
        let text = "SELECT 1 FROM object o JOIN stored s ON s.id = o.stored
                    WHERE o.key = ?1 AND o.state = 2 AND s.state = 2";
        kept.prepare(text)?.exists([format!("stitched/{name}")])
    };
    known().unwrap_or(false)
}

fn xattr(path: &Path, name: &str) -> String {
    let mut value = vec![0; 65_536];
    let Ok(len) = rustix::fs::getxattr(path, name, &mut value[..]) else { return String::new() };
    value.truncate(len);
    String::from_utf8(value).unwrap()
}

/// So many days later, all that is due is deleted.
#[track_caller]
fn days_later(mount: &mut Mount, days: u64) {
    mount.stop();
    mount.env.retain(|(name, _)| *name != "SPOOLFS_AHEAD");
    mount.env.push(("SPOOLFS_AHEAD", (days * 86_400).to_string()));
    mount.start();
    eventually(mount, "what is due expires", || {
        mount.cli(["retention", "run", "--now", "--confirm"]).status.success()
    });
}

fn shows(mount: &Mount, wanted: &[u8]) -> bool {
    fs::read(join(mount)).is_ok_and(|bytes| bytes == wanted)
}

#[test]
fn a_stored_join_follows_its_call_and_goes_with_its_last_leg() {
    if no_mount("a_stored_join_follows_its_call_and_goes_with_its_last_leg") {
        return;
    }
    let setup = at_once(RULES.into());
    let mut mount = with_call(setup, &LEGS[..2]);
    let first = stored_is(&mount, &LEGS[..2]);
    assert_eq!(first, format!("{CALL}.wav"));
    // A late leg; then one that is written to.
    write_calls(&mount, &LEGS);
    let second = stored_is(&mount, &LEGS);
    assert_ne!(second, first, "no key is written twice");
    fs::copy(support::fixture("monitor").join(DAY).join(LEGS[1]), leg(&mount, 2)).unwrap();
    stored_is(&mount, &[LEGS[0], LEGS[1], LEGS[1]]);
    fs::copy(support::fixture("monitor").join(DAY).join(LEGS[2]), leg(&mount, 2)).unwrap();
    let last = stored_is(&mount, &LEGS);

    let whole = expected(&LEGS);
    eventually(&mount, "it is shown", || shows(&mount, &whole));
    let ino = fs::metadata(join(&mount)).unwrap().ino();
    days_later(&mut mount, 11);
    eventually(&mount, "the first leg is gone", || !leg(&mount, 0).exists());
    eventually(&mount, "the whole call is heard", || shows(&mount, &whole));
    assert_eq!(fs::metadata(join(&mount)).unwrap().ino(), ino, "it is the same file");
    let legs = xattr(&join(&mount), "user.spoolfs.legs");
    let tiers = |line: &str| serde_json::from_str::<Value>(line).unwrap()["tier"].clone();
    assert_eq!(legs.lines().map(tiers).collect::<Vec<_>>(), ["gone", "local", "local"], "{legs}");
    assert_eq!(xattr(&join(&mount), "user.spoolfs.source"), "stitched-mixed");
    assert_eq!(stored_is(&mount, &LEGS), last);

    days_later(&mut mount, 21);
    eventually(&mount, "the join goes with the last leg", || stored(&mount).is_empty());
    eventually(&mount, "it is not shown", || fs::metadata(join(&mount)).is_err());
    mount.cli(["audit", "verify"]).ok();
    let shown = mount.cli(["audit", "show"]);
    assert!(
        shown.out.contains("join_deleted") && shown.out.contains(&last),
        "{}{}",
        shown.out,
        shown.err
    );
    mount.stop();
    mount.fsck();
}

#[test]
fn what_a_user_deletes_is_in_no_stored_join() {
    if no_mount("what_a_user_deletes_is_in_no_stored_join") {
        return;
    }
    for mode in ["trash", "delete"] {
        let end = format!("{RULES}\n[delete]\ndelete_mode = \"{mode}\"\n");
        let mut mount = with_call(at_once(end), &LEGS);
        stored_is(&mount, &LEGS);
        fs::remove_file(leg(&mount, 1)).unwrap();
        stored_is(&mount, &[LEGS[0], LEGS[2]]);
        eventually(&mount, "it is shown", || shows(&mount, &expected(&[LEGS[0], LEGS[2]])));
        if mode == "delete" {
            continue;
        }
        // Now one expires; what stands in for it has not what the user deletes then.
        days_later(&mut mount, 11);
        eventually(&mount, "the rest stands in", || shows(&mount, &expected(&[LEGS[0], LEGS[2]])));
        fs::remove_file(leg(&mount, 2)).unwrap();
        eventually(&mount, "it is not shown", || fs::metadata(join(&mount)).is_err());
        days_later(&mut mount, 60);
        eventually(&mount, "nothing is left", || stored(&mount).is_empty());
    }
}

#[test]
fn a_stored_join_of_a_held_leg_is_not_deleted() {
    if no_mount("a_stored_join_of_a_held_leg_is_not_deleted") {
        return;
    }
    let setup = at_once(RULES.into());
    let mut mount = setup.prepare();
    mount.env.push(("SPOOLFS_LOG", "debug".to_owned()));
    mount.env.push(("SPOOLFS_TEST_CALLS", mount.root.join("calls").display().to_string()));
    write_calls(&mount, &LEGS[..2]);
    mount.start();
    fs::create_dir_all(mount.path(DAY)).unwrap();
    for name in LEGS {
        fs::copy(support::fixture("monitor").join(DAY).join(name), mount.path(DAY).join(name))
            .unwrap();
    }
    let first = stored_is(&mount, &LEGS[..2]);
    let held = leg(&mount, 0);
    let words = ["hold", "add", "--case", "A", "--reason", "letter"];
    mount.cli(words.iter().map(|w| w.as_ref()).chain([held.as_os_str()])).ok();
    write_calls(&mount, &LEGS);
    eventually(&mount, "another is stored", || stored(&mount).len() == 2);
    eventually(&mount, "it is tried", || {
        mount.said_all().contains("a recording of it is, or was a short time ago, on legal hold")
    });
    assert!(names(&mount).contains(&first), "{:?}", names(&mount));
    mount.cli(["hold", "lift", "--case", "A", "--reason", "settled"]).ok();
    let second = stored_is(&mount, &LEGS);
    assert_ne!(second, first);
}

#[test]
fn stored_joins_are_found_again() {
    if no_mount("stored_joins_are_found_again") {
        return;
    }
    let mut mount = with_call(at_once(RULES.into()), &LEGS);
    let name = stored_is(&mount, &LEGS);
    let lose = |mount: &mut Mount| {
        mount.stop();
        for suffix in ["", "-wal", "-shm"] {
            let _not_there = fs::remove_file(mount.state.join(format!("joins.sqlite{suffix}")));
        }
        mount.start();
    };
    lose(&mut mount);
    assert_eq!(stored_is(&mount, &LEGS), name, "it is found again and not stored anew");
    days_later(&mut mount, 11);
    let whole = expected(&LEGS);
    eventually(&mount, "the whole call is heard", || shows(&mount, &whole));
    lose(&mut mount);
    eventually(&mount, "it is heard again", || shows(&mount, &whole));
    assert_eq!(stored_is(&mount, &LEGS), name);
    days_later(&mut mount, 21);
    eventually(&mount, "the join goes with the last leg", || stored(&mount).is_empty());
}
