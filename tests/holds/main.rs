//! docs/HOLDS.md on a real mount: what is held can not be changed, deleted or replaced.
#![cfg(feature = "faults")]

#[path = "../support/mod.rs"]
mod support;

mod attacks;
mod generations;

use aws_sdk_s3::types::Tag;
use rustix::io::Errno;
use std::fs::{self, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use support::look::{closed, eventually, state, wait_for_state, xattr};
use support::mount::{Mount, Setup, Target};
use support::seaweedfs::SeaweedFs;

const REASON: &str = "letter of 2026-11-20";

fn cases(path: &Path) -> Option<String> {
    xattr(path, "user.spoolfs.hold")
}

/// Puts what is recorded on hold.
#[track_caller]
fn hold(mount: &Mount, case: &str, path: &Path) {
    closed(path);
    hold_in_progress(mount, case, path);
}

#[track_caller]
fn hold_in_progress(mount: &Mount, case: &str, path: &Path) {
    let words = ["hold", "add", "--case", case, "--reason", REASON];
    mount.cli(words.iter().map(|w| w.as_ref()).chain([path.as_os_str()])).ok();
}

#[track_caller]
fn lift(mount: &Mount, case: &str) {
    mount.cli(["hold", "lift", "--case", case, "--reason", "settled"]).ok();
}

/// Another opening for writing keeps nothing: what is held is in the archive.
#[track_caller]
fn known_archived(mount: &Mount) {
    let lack = || mount.status()["holds"]["unarchived"].as_u64();
    eventually(mount, "what is held is archived", || lack() == Some(0));
}

/// Held recordings can not be changed from the first moment on.
fn strict(target: Target) -> Setup {
    Setup { target, end: "[holds]\nhold_settle = \"0s\"\n".into(), ..Setup::default() }
}

fn audio(seed: u64) -> Vec<u8> {
    let mut rng = fastrand::Rng::with_seed(seed);
    std::iter::repeat_with(|| rng.u8(..)).take(100_000).collect()
}

fn error(result: std::io::Result<impl Sized>) -> Option<Errno> {
    result.err().map(|e| Errno::from_io_error(&e).unwrap_or(Errno::IO))
}

/// By `truncate(2)`, without opening it.
fn truncate(path: &Path, size: u64) -> rustix::io::Result<()> {
    let status = std::process::Command::new("python3")
        .args(["-c", "import os, sys; os.truncate(sys.argv[1], int(sys.argv[2]))"])
        .arg(path)
        .arg(size.to_string())
        .stderr(std::process::Stdio::piped())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&status.stderr).into_owned();
    match (status.status.success(), said.contains("Operation not permitted")) {
        (true, _) => Ok(()),
        (false, true) => Err(Errno::PERM),
        (false, false) => panic!("{said}"),
    }
}

#[test]
fn holds_are_listed_counted_and_lifted_one_by_one() {
    if support::no_mount("holds_are_listed_counted_and_lifted_one_by_one") {
        return;
    }
    let mount = Setup::default().mount();
    let path = mount.path("call.wav");
    fs::write(&path, audio(1)).unwrap();
    fs::write(mount.path("call.txt"), "note").unwrap();
    hold(&mount, "Smith v. Jones", &path);
    hold(&mount, "B", &path);
    assert_eq!(cases(&path).as_deref(), Some("B\nSmith v. Jones"));
    assert_eq!(cases(&mount.path("call.txt")).as_deref(), Some("B\nSmith v. Jones"));
    let list = mount.cli(["hold", "list", "--json"]).ok();
    let list: serde_json::Value = serde_json::from_str(&list.out).unwrap();
    assert_eq!(list["holds"][1]["case"], "Smith v. Jones");
    assert_eq!(list["holds"][1]["reason"], REASON);
    assert_eq!(list["holds"][1]["recordings"], 2);
    assert_eq!(mount.status()["holds"]["recordings"], 2);
    let explained = mount.cli(["explain".as_ref(), path.as_os_str()]).ok().out;
    assert!(explained.contains("ON LEGAL HOLD") && explained.contains("B"), "{explained}");
    let shown = mount.cli(["hold", "show", "--case", "B", "--json"]).ok();
    let shown: serde_json::Value = serde_json::from_str(&shown.out).unwrap();
    let held = &shown["holds"][0]["recordings"][0];
    assert_eq!(held["path"], "call.wav");
    let url = held["generations"][0]["urls"][0].as_str().unwrap();
    assert_eq!(fs::read(url.strip_prefix("file://").unwrap()).unwrap(), audio(1));
    lift(&mount, "B");
    assert_eq!(cases(&path).as_deref(), Some("Smith v. Jones"));
    assert_eq!(error(fs::remove_file(&path)), Some(Errno::PERM));
    for nothing in [["--case", "B"], ["--id", "99"]] {
        let ran = mount.cli(["hold", "lift", "--reason", "x"].iter().chain(&nothing));
        assert_eq!(ran.status.code(), Some(1), "{}", ran.err);
    }
    lift(&mount, "Smith v. Jones");
    assert_eq!(cases(&path), None);
    fs::remove_file(&path).unwrap();
    let listed = mount.cli(["hold", "list"]).ok().out;
    assert!(listed.contains("lifted") && listed.contains("settled"), "{listed}");
    for wrong in [
        &["hold", "add", "--case", "A", "x.wav"][..],
        &["hold", "add", "--case", " ", "--reason", "x", "x.wav"],
        &["hold", "lift", "--reason", "x"],
        &["hold"],
    ] {
        assert_eq!(mount.cli(wrong).status.code(), Some(2), "{wrong:?}");
    }
}

/// The daemon dies again and again while somebody tries to delete what is held.
#[test]
fn a_hand_over_leaves_no_moment_in_which_a_held_recording_can_be_deleted() {
    if support::no_mount("a_hand_over_leaves_no_moment_in_which_a_held_recording_can_be_deleted") {
        return;
    }
    let options: &[&str] = &["--restart-delay", "10ms", "--failures", "1000"];
    let mount = Setup { keeper: Some(options), ..strict(Target::Directory) }.mount();
    let (here, gone) = (mount.path("here.wav"), mount.path("gone.wav"));
    for path in [&here, &gone] {
        fs::write(path, audio(1)).unwrap();
        mount.cli(["archive".as_ref(), path.as_os_str()]).ok();
    }
    mount.cli(["release".as_ref(), gone.as_os_str()]).ok();
    hold(&mount, "A", &here);
    hold(&mount, "A", &gone);
    let stop = std::sync::atomic::AtomicBool::new(false);
    let tries = std::sync::atomic::AtomicU64::new(0);
    std::thread::scope(|scope| {
        use std::sync::atomic::Ordering::SeqCst;
        for path in [&here, &gone] {
            let (stop, tries) = (&stop, &tries);
            scope.spawn(move || {
                while !stop.load(SeqCst) {
                    assert_eq!(error(fs::remove_file(path)), Some(Errno::PERM));
                    assert_eq!(
                        error(OpenOptions::new().append(true).open(path)),
                        Some(Errno::PERM)
                    );
                    tries.fetch_add(1, SeqCst);
                }
            });
        }
        let ended = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            for _ in 0..5 {
                let before = mount.server().unwrap();
                rustix::process::kill_process(before, rustix::process::Signal::KILL).unwrap();
                let until = Instant::now() + support::look::PATIENCE;
                while mount.server().is_none_or(|pid| pid == before) {
                    assert!(Instant::now() < until, "no successor");
                    std::thread::sleep(Duration::from_millis(5));
                }
                let so_far = tries.load(SeqCst);
                while tries.load(SeqCst) < so_far + 20 {
                    assert!(Instant::now() < until, "nobody is answered");
                    std::thread::sleep(Duration::from_millis(5));
                }
            }
        }));
        stop.store(true, SeqCst);
        ended.unwrap();
    });
    for path in [&here, &gone] {
        assert_eq!(fs::read(path).unwrap(), audio(1));
    }
}

/// Who put a hold, who lifted it, and what was tried meanwhile; however often, it fills no disk.
#[test]
fn what_a_hold_refused_is_on_record_and_a_loop_of_it_floods_nothing() {
    if support::no_mount("what_a_hold_refused_is_on_record_and_a_loop_of_it_floods_nothing") {
        return;
    }
    let mut mount = strict(Target::None).mount();
    let (path, spare) = (mount.path("call.wav"), mount.path("spare.wav"));
    for path in [&path, &spare] {
        fs::write(path, audio(1)).unwrap();
    }
    hold(&mount, "Smith v. Jones", &path);
    let mut tried = std::collections::BTreeMap::from([("rename", 1), ("truncate", 1)]);
    assert_eq!(error(fs::rename(&spare, &path)), Some(Errno::PERM));
    assert_eq!(truncate(&path, 0), Err(Errno::PERM));
    for operation in ["unlink", "open"] {
        for _ in 0..500 {
            let result = match operation {
                "unlink" => fs::remove_file(&path),
                _ => OpenOptions::new().append(true).open(&path).map(drop),
            };
            assert_eq!(error(result), Some(Errno::PERM));
        }
        tried.insert(operation, 500);
    }
    lift(&mount, "Smith v. Jones");
    let recording = path.metadata().unwrap().ino();
    mount.stop();
    let shown = mount.cli(["audit", "show", "--json"]).ok().out;
    let shown: serde_json::Value = serde_json::from_str(&shown).unwrap();
    let events: Vec<&serde_json::Value> = shown["lines"].as_array().unwrap().iter().collect();
    let of = |event: &str| -> Vec<&serde_json::Value> {
        events.iter().copied().filter(|line| line["event"] == event).collect()
    };
    let (added, lifted, refused) = (of("hold_added"), of("hold_lifted"), of("hold_refused"));
    assert_eq!((added.len(), lifted.len()), (1, 1), "{shown:#}");
    let text = added[0].to_string();
    assert!(text.contains("Smith v. Jones") && text.contains("call.wav"), "{text}");
    assert!(text.contains(REASON) && lifted[0].to_string().contains("settled"), "{text}");
    // Four that are named, and two sums, for each minute that it took.
    assert!(refused.len() >= 6 && refused.len() < 100, "{}", refused.len());
    for (operation, times) in tried {
        let of_it = refused.iter().filter(|line| line["details"]["operation"] == operation);
        let told: u64 = of_it.clone().map(|line| line["details"]["times"].as_u64().unwrap()).sum();
        assert_eq!(told, times, "{operation}");
        let named = of_it.clone().find(|line| line["recording"]["id"] == recording).unwrap();
        let text = named.to_string();
        assert!(text.contains("call.wav") && named["who"]["user"]["uid"] == 0, "{text}");
        if operation == "truncate" {
            assert_eq!(named["who"]["user"]["program"], "python3");
        }
    }
    mount.cli(["audit", "verify"]).ok();
}

/// A call goes on: its recording is held, closed and opened again.
#[test]
fn a_hold_refuses_no_writer_before_hold_settle_is_over() {
    if support::no_mount("a_hold_refuses_no_writer_before_hold_settle_is_over") {
        return;
    }
    let mount = Setup::default().mount();
    let path = mount.path("call.wav");
    let mut call = OpenOptions::new().append(true).create_new(true).open(&path).unwrap();
    call.write_all(&audio(1)).unwrap();
    hold_in_progress(&mount, "A", &path);
    call.write_all(&audio(2)).unwrap();
    call.set_len(150_000).unwrap();
    drop(call);
    wait_for_state(&path, "archived");
    let mut call = OpenOptions::new().append(true).open(&path).unwrap();
    call.write_all(&audio(3)).unwrap();
    drop(call);
    assert_eq!(error(fs::remove_file(&path)), Some(Errno::PERM));
    let whole = [&audio(1)[..], &audio(2)[..50_000], &audio(3)].concat();
    assert_eq!(fs::read(&path).unwrap(), whole);
}

/// What docs/HOLDS.md says can be done by hand against who is root below.
#[test]
fn an_immutable_local_copy_stays_and_costs_nothing_else() {
    let test = "an_immutable_local_copy_stays_and_costs_nothing_else";
    if support::no_mount(test) {
        return;
    }
    let mut mount = strict(Target::Directory).mount();
    let (path, other) = (mount.path("call.wav"), mount.path("other.wav"));
    for one in [&path, &other] {
        fs::write(one, audio(1)).unwrap();
        hold(&mount, "A", one);
        wait_for_state(one, "archived");
    }
    let flag = |mount: &mut Mount, flag: &str| {
        mount.stop();
        let mut command = std::process::Command::new("chattr");
        command.arg(flag).arg(mount.path("call.wav"));
        let done = support::run::run(&mut command, Duration::from_secs(10));
        mount.start();
        done.status.success()
    };
    if !flag(&mut mount, "+i") {
        let skipped = format!("SKIPPED: {test}: files can not be made immutable here\n");
        let _closed = std::io::stderr().write_all(skipped.as_bytes());
        return;
    }
    assert_eq!(fs::read(&path).unwrap(), audio(1));
    let away = mount.path("away.wav");
    assert_eq!(error(fs::rename(&path, &away)), Some(Errno::PERM));
    assert_eq!(error(fs::hard_link(&path, &away)), Some(Errno::PERM));
    let mode = fs::Permissions::from_mode(0o600);
    assert_eq!(error(fs::set_permissions(&path, mode)), Some(Errno::PERM));
    assert_eq!(error(fs::remove_file(&path)), Some(Errno::PERM));
    let released = mount.cli(["release", path.to_str().unwrap(), other.to_str().unwrap()]);
    assert!(!released.status.success(), "{}", released.out);
    wait_for_state(&other, "released");
    assert!(["archived", "closed"].contains(&state(&path).as_str()), "{}", state(&path));
    assert_eq!(fs::read(&path).unwrap(), audio(1));
    // The name that was refused is free.
    fs::write(&away, b"x").unwrap();
    fs::remove_file(&away).unwrap();
    assert!(flag(&mut mount, "-i"));
    fs::rename(&path, &away).unwrap();
    // The flag changed the stamp of the file: it is read again before that may be.
    let release = || mount.cli(["release", away.to_str().unwrap()]).status.success();
    eventually(&mount, "it can be released again", release);
    wait_for_state(&away, "released");
    assert_eq!(fs::read(&away).unwrap(), audio(1));
    mount.stop();
    mount.fsck();
}

/// As a user who logged in as `login` and became root.
fn lift_as(mount: &Mount, login: u32, what: &[&str]) -> support::run::Ran {
    let script = "echo \"$0\" > /proc/self/loginuid && exec \"$@\"";
    let mut command = std::process::Command::new("sh");
    command.args(["-c", script, &login.to_string(), env!("CARGO_BIN_EXE_spoolfs"), "hold", "lift"]);
    command.args(["--reason", "settled"]).args(what).arg("--config").arg(&mount.config);
    support::run::run(&mut command, support::look::PATIENCE)
}

/// Whether this machine lets processes say as whom they logged in.
fn logins_can_be_set(test: &str) -> bool {
    let script = "echo 1000 > /proc/self/loginuid && grep -qx 1000 /proc/self/loginuid";
    let tried = std::process::Command::new("sh").args(["-c", script]).output().unwrap();
    if !tried.status.success() {
        let skipped = format!("SKIPPED: {test}: /proc/self/loginuid can not be set here\n");
        let _closed = std::io::stderr().write_all(skipped.as_bytes());
    }
    tried.status.success()
}

#[test]
fn with_four_eyes_two_users_lift_a_hold() {
    let test = "with_four_eyes_two_users_lift_a_hold";
    if support::no_mount(test) || !logins_can_be_set(test) {
        return;
    }
    let setup = strict(Target::None);
    let mut mount = Setup { end: setup.end.clone() + "four_eyes = true\n", ..setup }.mount();
    let path = mount.path("call.wav");
    fs::write(&path, audio(1)).unwrap();
    hold(&mount, "A", &path);
    let nobody = lift_as(&mount, u32::MAX, &["--case", "A"]);
    assert!(!nobody.status.success() && nobody.err.contains("four_eyes"), "{}", nobody.err);
    let first = lift_as(&mount, 1000, &["--case", "A"]).ok();
    assert!(first.out.contains("not lifted yet: 1"), "{}", first.out);
    let again = lift_as(&mount, 1000, &["--id", "1"]);
    assert!(!again.status.success() && again.err.contains("another user"), "{}", again.err);
    // Another daemon remembers it; and what is held since then was not asked for.
    mount.stop();
    mount.start();
    hold(&mount, "A", &path);
    let listed = mount.cli(["hold", "list"]).ok().out;
    assert_eq!(listed.matches("another user must lift it").count(), 1, "{listed}");
    assert!(listed.contains("logged in as uid 1000"), "{listed}");
    assert_eq!(error(fs::remove_file(&path)), Some(Errno::PERM));
    let second = lift_as(&mount, 1001, &["--case", "A"]).ok();
    assert!(second.out.contains("lifted 1 of"), "{}", second.out);
    assert!(second.out.contains("not lifted yet: 2"), "{}", second.out);
    assert_eq!(error(fs::remove_file(&path)), Some(Errno::PERM), "the second hold is on it");
    lift_as(&mount, 1000, &["--id", "2"]).ok();
    fs::remove_file(&path).unwrap();
    let listed = mount.cli(["hold", "list"]).ok().out;
    assert!(
        listed.contains("logged in as uid 1001), as uid 0 (logged in as uid 1000)"),
        "{listed}"
    );
    let shown = mount.cli(["audit", "show", "--json"]).ok().out;
    assert_eq!(shown.matches("\"hold_lift_requested\"").count(), 2, "{shown}");
    assert_eq!(shown.matches("\"hold_lifted\"").count(), 2, "{shown}");
}

/// A bucket of a server, at this address or behind another.
fn s3(endpoint: String, bucket: &str) -> Target {
    Target::S3 {
        url: format!("s3://{bucket}/pbx"),
        endpoint,
        id: SeaweedFs::ACCESS_KEY.to_owned(),
        secret: SeaweedFs::SECRET_KEY.to_owned(),
    }
}

/// Versions of all recordings in a bucket: key and version.
async fn versions(client: &aws_sdk_s3::Client, bucket: &str) -> Vec<(String, String)> {
    let all = client.list_object_versions().bucket(bucket).prefix("pbx/").send().await.unwrap();
    let found = all.versions().iter().map(|one| {
        (one.key().unwrap().to_owned(), one.version_id().unwrap_or_default().to_owned())
    });
    found.filter(|(key, _)| !key.contains(".spoolfs/")).collect()
}

/// Whether a stock client that has the bucket's keys can delete a version.
async fn deletes(client: &aws_sdk_s3::Client, bucket: &str, version: &(String, String)) -> bool {
    let (key, id) = version;
    let request = client.delete_object().bucket(bucket).key(key).version_id(id);
    let answer = request.send().await;
    let left = versions(client, bucket).await.contains(version);
    assert_ne!(answer.is_ok(), left, "{answer:?}");
    answer.is_ok()
}

fn protection(mount: &Mount) -> serde_json::Value {
    let list = mount.cli(["hold", "list", "--json"]).ok();
    let list: serde_json::Value = serde_json::from_str(&list.out).unwrap();
    list["holds"][0]["targets"][0].clone()
}

/// Object Lock of a real server: who has the keys of the bucket can not delete there what is held.
#[test]
fn what_is_held_can_not_be_deleted_in_a_bucket_with_object_lock() {
    if support::no_mount("what_is_held_can_not_be_deleted_in_a_bucket_with_object_lock") {
        return;
    }
    let Some(server) = SeaweedFs::start() else { return };
    let bucket = server.new_locked_bucket();
    let target = s3(server.endpoint(), &bucket);
    let end = "[holds]\nhold_settle = \"1h\"\nhold_lift_grace = \"0s\"\n".into();
    let mut mount = Setup { target, end, ..Setup::default() }.mount();
    let checked = mount.cli(["check"]);
    assert!(checked.out.contains("locks what is on legal hold"), "{}", checked.out);
    let path = mount.path("call.wav");
    fs::write(&path, audio(1)).unwrap();
    hold(&mount, "A", &path);
    wait_for_state(&path, "archived");
    known_archived(&mount);
    // A second content: both are locked.
    let mut call = OpenOptions::new().append(true).open(&path).unwrap();
    call.write_all(&audio(2)).unwrap();
    drop(call);
    let counts = |mount: &Mount| {
        let one = protection(mount);
        (one["objects"].as_u64(), one["locked"].as_u64())
    };
    eventually(&mount, "both are locked", || counts(&mount) == (Some(2), Some(2)));
    let listed = mount.cli(["hold", "list"]).ok().out;
    assert!(listed.contains("2 of 2 objects locked"), "{listed}");
    let shown = mount.cli(["hold", "show", "--case", "A"]).ok().out;
    assert_eq!(shown.matches("locked in archive").count(), 2, "{shown}");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let client = server.client();
    let held = runtime.block_on(versions(&client, &bucket));
    assert_eq!(held.len(), 2, "{held:?}");
    for version in &held {
        assert!(!runtime.block_on(deletes(&client, &bucket, version)), "{version:?}");
    }
    let tagged = || {
        held.iter().all(|(key, version)| {
            let asked = client.get_object_tagging().bucket(&bucket).key(key).version_id(version);
            let tags = runtime.block_on(asked.send()).unwrap();
            let is_sign = |tag: &Tag| tag.key() == "spoolfs-legal-hold" && tag.value() == "on";
            tags.tag_set().iter().any(is_sign)
        })
    };
    assert!(tagged());
    // Another daemon knows what was locked, and lets it go.
    mount.stop();
    mount.start();
    lift(&mount, "A");
    eventually(&mount, "it is let go of", || protection(&mount).is_null());
    assert!(!tagged());
    for version in &held {
        assert!(runtime.block_on(deletes(&client, &bucket, version)), "{version:?}");
    }
    let record = mount.cli(["audit", "show", "--json"]).ok().out;
    assert_eq!(record.matches("\"hold_mirrored\"").count(), 4, "{record}");
}

/// `worm` of a rule on a real server: nobody deletes what is archived before its time.
#[test]
fn what_a_rule_locks_can_not_be_deleted_in_a_bucket_with_object_lock() {
    if support::no_mount("what_a_rule_locks_can_not_be_deleted_in_a_bucket_with_object_lock") {
        return;
    }
    let Some(server) = SeaweedFs::start() else { return };
    let on = |bucket: String| {
        let target = s3(server.endpoint(), &bucket);
        let end = "[[policy]]\nname = \"locked\"\npath = [\"locked/**\"]\nworm = \"90d\"\n\
                   worm_mode = \"compliance\"\n";
        let archive_after = "1s".into();
        let mount = Setup { target, archive_after, end: end.into(), ..Setup::default() }.mount();
        fs::create_dir(mount.path("locked")).unwrap();
        for path in ["locked/call.wav", "free.wav"] {
            fs::write(mount.path(path), audio(1)).unwrap();
            wait_for_state(&mount.path(path), "archived");
        }
        mount
    };
    let bucket = server.new_locked_bucket();
    let mount = on(bucket.clone());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let client = server.client();
    let all = runtime.block_on(versions(&client, &bucket));
    let (locked, free): (Vec<_>, Vec<_>) =
        all.into_iter().partition(|(key, _)| key.contains("locked/"));
    assert_eq!((locked.len(), free.len()), (1, 1));
    let (key, version) = &locked[0];
    let asked = client.get_object_retention().bucket(&bucket).key(key).version_id(version).send();
    let found = runtime.block_on(asked).unwrap();
    let found = found.retention().unwrap();
    assert_eq!(found.mode().unwrap().as_str(), "COMPLIANCE");
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    let left = found.retain_until_date().unwrap().secs() - i64::try_from(now.as_secs()).unwrap();
    assert!((89 * 86_400..=90 * 86_400 + 1).contains(&left), "{left}");
    assert!(!runtime.block_on(deletes(&client, &bucket, &locked[0])));
    assert!(runtime.block_on(deletes(&client, &bucket, &free[0])));
    let planned = mount.cli(["retention", "plan"]).ok().out;
    assert!(!planned.contains("worm"), "{planned}");
    // Where it can not be done, that is said, and nothing waits for it.
    let mount = on(server.new_bucket());
    let planned = mount.cli(["retention", "plan"]).ok().out;
    assert!(planned.contains("can not do what `worm` asks for: its bucket has no"), "{planned}");
    let checked = mount.cli(["check"]).out;
    assert!(checked.contains("`worm` of [[policy]] does nothing there"), "{checked}");
}

/// A directory, and a bucket without Object Lock, can not; everybody who asks is told.
#[test]
fn where_the_store_can_not_lock_that_is_said() {
    if support::no_mount("where_the_store_can_not_lock_that_is_said") {
        return;
    }
    let said = |target: Target, why: &str| {
        let mount = Setup { target, ..Setup::default() }.mount();
        let path = mount.path("call.wav");
        fs::write(&path, audio(1)).unwrap();
        let words = ["hold", "add", "--case", "A", "--reason", REASON];
        let added = mount.cli(words.iter().map(|w| w.as_ref()).chain([path.as_os_str()])).ok();
        assert!(added.out.contains("can not lock what is held") && added.out.contains(why));
        let listed = mount.cli(["hold", "list"]).ok().out;
        assert!(listed.contains("not locked") && listed.contains(why), "{listed}");
        assert_eq!(protection(&mount)["locks"], false);
        let checked = mount.cli(["check"]).out;
        assert!(checked.contains("can not lock objects") && checked.contains(why), "{checked}");
    };
    said(Target::Directory, "no bucket with Object Lock");
    let Some(server) = SeaweedFs::start() else { return };
    let target = s3(server.endpoint(), &server.new_bucket());
    said(target, "its bucket has no Object Lock");
}

/// Call records in a file.
struct Records(PathBuf);

impl Records {
    fn new(dir: &Path) -> Records {
        let file = dir.join("records.csv");
        fs::write(&file, "").unwrap();
        Records(file)
    }

    /// The end of a configuration that reads them.
    fn source(&self) -> String {
        format!(
            "[calls]\nquiet = \"1s\"\nevery = \"1s\"\ntime_zone = \"UTC\"\nsource = \"csv\"\n\
             path = {:?}\ncolumns = [\"start\", \"end\", \"src\", \"dst\", \"uniqueid\", \
             \"linkedid\", \"recordingfile\", \"duration\", \"billsec\", \"disposition\"]\n",
            self.0
        )
    }

    fn tell(&self, name: &str, src: &str) {
        use spoolfs::clock::{Clock, SystemClock};
        let now = spoolfs::control::utc::people(SystemClock.now());
        let mut file = OpenOptions::new().append(true).open(&self.0).unwrap();
        let id = format!("{name}.1");
        writeln!(file, "{now},{now},{src},100,{id},{id},{name},5,5,ANSWERED").unwrap();
    }
}

fn shown(mount: &Mount, case: &str) -> serde_json::Value {
    let ran = mount.cli(["hold", "show", "--case", case, "--json"]).ok();
    let shown: serde_json::Value = serde_json::from_str(&ran.out).unwrap();
    shown["holds"][0]["recordings"].clone()
}

/// Whether a hold is on a recording provisionally; `None`: not at all.
fn provisional(mount: &Mount, path: &str) -> Option<bool> {
    let recordings = shown(mount, "Q");
    let found = recordings.as_array().unwrap().iter().find(|one| one["path"] == path)?;
    found["provisional"].as_bool()
}

/// Also recordings that are made later; what is not known yet is held until it is known.
#[test]
fn a_hold_on_a_number_catches_recordings_made_later() {
    if support::no_mount("a_hold_on_a_number_catches_recordings_made_later") {
        return;
    }
    let scratch = tempfile::tempdir().unwrap();
    let records = Records::new(scratch.path());
    let mount = Setup { end: records.source(), ..Setup::default() }.mount();
    let tell = |name: &str, src: &str| records.tell(name, src);
    let record = |name: &str| fs::write(mount.path(name), audio(1)).unwrap();
    record("before.wav");
    tell("before.wav", "02079460001");
    record("other.wav");
    tell("other.wav", "02079460099");
    let find = ["find", "--number", "2079460001"];
    eventually(&mount, "it is found", || mount.cli(find).out.contains("before.wav"));
    let find = ["find", "--number", "2079460099"];
    eventually(&mount, "it is found", || mount.cli(find).out.contains("other.wav"));
    let add = ["hold", "add", "--case", "Q", "--reason", REASON, "--number", "02079460001"];
    mount.cli(add).ok();
    assert_eq!(provisional(&mount, "before.wav"), Some(false));
    assert_eq!(provisional(&mount, "other.wav"), None);
    assert_eq!(error(fs::remove_file(mount.path("before.wav"))), Some(Errno::PERM));

    record("meant.wav");
    record("not.wav");
    for name in ["meant.wav", "not.wav"] {
        eventually(&mount, name, || provisional(&mount, name) == Some(true));
        assert_eq!(error(fs::remove_file(mount.path(name))), Some(Errno::PERM));
    }
    tell("meant.wav", "02079460001");
    tell("not.wav", "02079460077");
    eventually(&mount, "it is meant", || provisional(&mount, "meant.wav") == Some(false));
    eventually(&mount, "it is not meant", || provisional(&mount, "not.wav").is_none());
    fs::remove_file(mount.path("not.wav")).unwrap();
    wait_for_state(&mount.path("meant.wav"), "archived");
    let listed = mount.cli(["hold", "list"]).ok().out;
    assert!(listed.contains("with number 02079460001"), "{listed}");
    lift(&mount, "Q");
    fs::remove_file(mount.path("meant.wav")).unwrap();
}
