//! docs/STITCHED.md, "Storing joins", on a mount with a directory for a target.
#![cfg(feature = "faults")]

mod support;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use rustix::process::{Signal, kill_process};
use serde_json::Value;
use spoolfs::recording::Sha256;
use spoolfs::store::s3::{CustomerKeys, Sse};
use spoolfs::store::{self, Body, ObjectMeta, TargetOptions};
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use support::mount::{Mount, Setup, Target};
use support::no_mount;
use support::seaweedfs::SeaweedFs;

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
/// What has expired is kept while another recording of the call is.
const KEEP: &str = "keep_expired = true\n";

#[track_caller]
fn eventually(mount: &Mount, what: &str, mut is: impl FnMut() -> bool) {
    let until = Instant::now() + support::look::PATIENCE;
    while !is() {
        assert!(Instant::now() < until, "{what}: {:?}\n{}", names(mount), mount.said());
        std::thread::sleep(Duration::from_millis(50));
    }
}

fn write_calls(mount: &Mount, legs: &[&str]) {
    write_several(mount, &[(CALL, legs)]);
}

/// Calls as the daemon's test source reads them.
fn write_several(mount: &Mount, calls: &[(&str, &[&str])]) {
    let line = |(call, legs): &(&str, &[&str])| {
        let legs: Vec<String> = legs.iter().map(|leg| format!("{DAY}/{leg}")).collect();
        format!("{call}\t{}\n", legs.join("\t"))
    };
    let path = mount.root.join("calls");
    // In one step: it is read at any moment.
    fs::write(path.with_extension("new"), calls.iter().map(line).collect::<String>()).unwrap();
    fs::rename(path.with_extension("new"), path).unwrap();
}

/// The file that tells which joins are stored is lost.
fn lose(mount: &mut Mount) {
    mount.stop();
    forget_stored(mount);
    mount.start();
}

fn forget_stored(mount: &Mount) {
    for suffix in ["", "-wal", "-shm"] {
        let _not_there = fs::remove_file(mount.state.join(format!("joins.sqlite{suffix}")));
    }
}

/// What is recorded is archived at once.
fn at_once(end: String) -> Setup {
    Setup { end, archive_after: "0s".into(), ..Setup::default() }
}

/// A mount with the first call's legs, recorded through it, of which these are known to be of it.
fn with_call(setup: Setup, legs: &[&str]) -> Mount {
    recorded(setup.prepare(), legs)
}

fn recorded(mut mount: Mount, legs: &[&str]) -> Mount {
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
    let setup = at_once(format!("{RULES}{KEEP}"));
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
        let end = format!("{RULES}{KEEP}\n[delete]\ndelete_mode = \"{mode}\"\n");
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
    let mut mount = at_once(RULES.into()).prepare();
    mount.env.push(("SPOOLFS_LOG", "debug".to_owned()));
    let mount = recorded(mount, &LEGS[..2]);
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
    let mut mount = with_call(at_once(format!("{RULES}{KEEP}")), &LEGS);
    let name = stored_is(&mount, &LEGS);
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

#[test]
fn a_join_that_no_key_opens_keeps_no_other_from_being_found_or_stored() {
    if no_mount("a_join_that_no_key_opens_keeps_no_other_from_being_found_or_stored") {
        return;
    }
    let Some(server) = SeaweedFs::start() else { return };
    let bucket = server.new_bucket();
    let url = format!("s3://{bucket}/pbx");
    let target = Target::S3 {
        url: url.clone(),
        endpoint: server.endpoint(),
        id: SeaweedFs::ACCESS_KEY.to_owned(),
        secret: SeaweedFs::SECRET_KEY.to_owned(),
    };
    let end = format!("{RULES}{KEEP}");
    let mut mount = Setup { target, ..at_once(end) }.prepare();
    let [ours, lost] = [1, 2].map(|byte| BASE64.encode([byte; 32]));
    let keys = mount.root.join("keys");
    let have = |text: &str| {
        fs::write(&keys, text).unwrap();
        fs::set_permissions(&keys, fs::Permissions::from_mode(0o400)).unwrap();
    };
    have(&ours);
    mount.env.push(("SPOOLFS_TARGET__0__SSE", "c".to_owned()));
    mount.env.push(("SPOOLFS_TARGET__0__SSE_C_KEY_FILE", keys.display().to_string()));
    let mut mount = recorded(mount, &LEGS);
    let joins = |mount: &Mount, stored: u64, unopened: u64| {
        eventually(mount, "all is looked at", || {
            let joins = &mount.status()["joins"];
            joins["swept"] == true && joins["stored"] == stored && joins["unopened"] == unopened
        });
    };
    joins(&mount, 1, 0);

    // Before the others in the listing.
    let store = TargetOptions {
        sse: Some(Sse::C),
        customer_keys: Some(CustomerKeys::parse(lost.as_bytes(), "keys").unwrap()),
        ..server.target("s3", &url)
    };
    let store = store::open(&store).unwrap();
    let taken = "pbx/stitched/1795228029.2.wav";
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    for key in ["pbx/stitched/0.wav", taken] {
        let (body, sha256) = (Body::Bytes("join".into()), Sha256::of(b"join"));
        runtime.block_on(store.put(key, body, sha256, &ObjectMeta::default())).unwrap();
    }
    let beside = || -> Vec<String> {
        let listed = runtime.block_on(store.list("pbx/stitched/1795228029.2", "")).unwrap();
        listed.into_iter().map(|object| object.key).filter(|key| key != taken).collect()
    };
    lose(&mut mount);
    joins(&mount, 1, 2);
    assert!(mount.cli(["status"]).ok().out.contains("THAT NO KEY OPENS"));
    let other = "1795228029.2";
    write_several(&mount, &[(CALL, &LEGS), (other, &LEGS[1..])]);
    joins(&mount, 2, 2);
    // Nor does it keep one that was stored beside it from being deleted.
    let before = beside();
    assert_eq!(before.len(), 1, "{before:?}");
    write_several(&mount, &[(CALL, &LEGS), (other, &LEGS[..2])]);
    eventually(&mount, "another took its place", || {
        let now = beside();
        now.len() == 1 && now != before
    });
    assert_eq!(mount.status()["joins"]["leaving"], 1, "what can not be asked for is forgotten");

    // With the key it is seen what it is: none of ours.
    mount.stop();
    have(&format!("{ours}\n{lost}"));
    mount.start();
    joins(&mount, 2, 0);
}

#[test]
fn regression_what_is_damaged_is_not_left_behind_when_joins_sqlite_is_lost() {
    if no_mount("regression_what_is_damaged_is_not_left_behind_when_joins_sqlite_is_lost") {
        return;
    }
    let mut mount = with_call(at_once(format!("{RULES}{KEEP}")), &LEGS);
    let first = stored_is(&mount, &LEGS);
    let damage = |mount: &mut Mount, name: &str| {
        fs::write(mount.target.join("stitched").join(name), b"noise").unwrap();
        lose(mount);
        eventually(mount, "it is told", || mount.status()["joins"]["bad"] == 1);
    };
    damage(&mut mount, &first);
    let second = stored_is(&mount, &LEGS);
    assert_ne!(second, first, "no key is written twice");
    assert!(mount.cli(["audit", "show"]).out.contains("verification_failed"));
    // Of what can be made no more it is all that is left; then it goes as the join would.
    days_later(&mut mount, 11);
    damage(&mut mount, &second);
    eventually(&mount, "the rest is heard", || shows(&mount, &expected(&LEGS[1..])));
    eventually(&mount, "all is looked at", || mount.status()["joins"]["swept"] == true);
    assert_eq!(names(&mount), [second]);
    days_later(&mut mount, 21);
    eventually(&mount, "it goes with the last leg", || stored(&mount).is_empty());
}

#[test]
fn calls_that_share_a_recording_are_each_stored() {
    if no_mount("calls_that_share_a_recording_are_each_stored") {
        return;
    }
    let mut mount = with_call(at_once(RULES.into()), &LEGS[..2]);
    stored_is(&mount, &LEGS[..2]);
    let other = "1795228032.23";
    write_several(&mount, &[(CALL, &LEGS[..2]), (other, &LEGS[1..])]);
    let both = [CALL, other].map(|call| format!("{call}.wav"));
    let each = |mount: &Mount| {
        let stored = stored(mount);
        let bytes: Vec<_> = stored.iter().map(|(_, bytes)| bytes.clone()).collect();
        names(mount) == both
            && bytes == [expected(&LEGS[..2]), expected(&LEGS[1..])]
            && names(mount).iter().all(|name| is_known(mount, name))
    };
    eventually(&mount, "each is stored", || each(&mount));
    lose(&mut mount);
    eventually(&mount, "each is found again", || each(&mount));
    // Now they are one call.
    write_several(&mount, &[(CALL, &LEGS), (other, &LEGS)]);
    stored_is(&mount, &LEGS);
}

#[test]
fn what_has_expired_is_in_no_stored_join_unless_that_is_wanted() {
    if no_mount("what_has_expired_is_in_no_stored_join_unless_that_is_wanted") {
        return;
    }
    let mut mount = with_call(at_once(RULES.into()), &LEGS);
    let first = stored_is(&mount, &LEGS);
    days_later(&mut mount, 11);
    // Its name goes, then what it said: before its own objects do, ten minutes later.
    let second = stored_is(&mount, &LEGS[1..]);
    assert_ne!(second, first, "no key is written twice");
    eventually(&mount, "the rest is shown", || shows(&mount, &expected(&LEGS[1..])));
    let audit = mount.cli(["audit", "show"]).out;
    assert!(audit.contains("join_deleted") && audit.contains(&first), "{audit}");
    mount.stop();
    mount.fsck();
}

#[test]
fn what_a_hold_keeps_is_kept_when_another_recording_of_the_call_expires() {
    if no_mount("what_a_hold_keeps_is_kept_when_another_recording_of_the_call_expires") {
        return;
    }
    let mut mount = with_call(at_once(RULES.into()), &LEGS);
    let first = stored_is(&mount, &LEGS);
    let held = leg(&mount, 1);
    let words = ["hold", "add", "--case", "A", "--reason", "letter"];
    mount.cli(words.iter().map(|w| w.as_ref()).chain([held.as_os_str()])).ok();
    days_later(&mut mount, 11);
    eventually(&mount, "the rest is stored beside it", || {
        let stored = stored(&mount);
        let has = |legs: &[&str]| stored.iter().any(|(_, bytes)| *bytes == expected(legs));
        stored.len() == 2 && has(&LEGS) && has(&LEGS[1..])
    });
    eventually(&mount, "what has expired is not heard", || shows(&mount, &expected(&LEGS[1..])));
    assert!(names(&mount).contains(&first));
    assert_eq!(mount.status()["joins"]["leaving"], 1);
    mount.cli(["hold", "lift", "--case", "A", "--reason", "settled"]).ok();
    mount.restart();
    let second = stored_is(&mount, &LEGS[1..]);
    assert_ne!(second, first);
}

/// A mount with a second target, and the call stored in both; where the second one is.
fn in_two_targets(end: String) -> (Mount, PathBuf) {
    let write_back = "scrub_every = \"1s\"\n".to_owned();
    let mount = Setup { end, write_back, archive_after: "0s".into(), ..Setup::default() }.prepare();
    let second = mount.root.join("second");
    fs::create_dir(&second).unwrap();
    let target =
        format!("\n[[target]]\nname = \"second\"\nurl = \"file://{}\"\n", second.display());
    let config = fs::read_to_string(&mount.config).unwrap() + &target;
    fs::write(&mount.config, config).unwrap();
    let mount = recorded(mount, &LEGS);
    stored_is(&mount, &LEGS);
    let copy = second.join(format!("stitched/{CALL}.wav"));
    eventually(&mount, "both have it", || fs::read(&copy).is_ok_and(|b| b == expected(&LEGS)));
    (mount, second)
}

/// Whether a target has these legs joined, in an object that is not spoiled.
fn has_whole(target: &Path, legs: &[&str]) -> bool {
    let entries = fs::read_dir(target.join("stitched")).into_iter().flatten().flatten();
    let wanted = expected(legs);
    entries.into_iter().any(|entry| fs::read(entry.path()).is_ok_and(|bytes| bytes == wanted))
}

#[test]
fn a_stored_join_that_is_damaged_or_gone_is_brought_back() {
    if no_mount("a_stored_join_that_is_damaged_or_gone_is_brought_back") {
        return;
    }
    let (mut mount, second) = in_two_targets(format!("{RULES}{KEEP}"));
    let name = format!("{CALL}.wav");
    // From the recordings.
    fs::write(mount.target.join("stitched").join(&name), b"noise").unwrap();
    eventually(&mount, "it is made again", || has_whole(&mount.target, &LEGS));
    assert_eq!(fs::read(mount.target.join("stitched").join(&name)).unwrap(), b"noise");
    eventually(&mount, "it is told", || mount.status()["joins"]["bad"].as_u64() >= Some(1));
    assert!(mount.cli(["audit", "show"]).out.contains("verification_failed"));
    // From the other target: what it stands in for can be made no more.
    days_later(&mut mount, 11);
    eventually(&mount, "the whole call is heard", || shows(&mount, &expected(&LEGS)));
    fs::remove_file(second.join("stitched").join(&name)).unwrap();
    eventually(&mount, "it is brought back", || has_whole(&second, &LEGS));
    // Nor is what was damaged left behind.
    days_later(&mut mount, 21);
    eventually(&mount, "all goes with the last leg", || {
        let left = fs::read_dir(second.join("stitched")).map_or(0, Iterator::count);
        stored(&mount).is_empty() && left == 0
    });
    mount.stop();
    mount.fsck();
}

#[test]
fn status_tells_what_is_stored_and_what_is_not() {
    if no_mount("status_tells_what_is_stored_and_what_is_not") {
        return;
    }
    let mount = with_call(at_once(RULES.into()), &LEGS);
    stored_is(&mount, &LEGS);
    eventually(&mount, "it is counted", || {
        let joins = mount.status()["joins"].clone();
        joins["stored"] == 1 && joins["waiting"] == 0 && joins["swept"] == true
    });
    let text = mount.cli(["status"]).out;
    assert!(text.contains("Joined calls: 1 stored\n"), "{text}");
    // Nothing can be put there.
    let calls = mount.root.join("calls");
    let aside = mount.root.join("aside");
    fs::rename(&mount.target, &aside).unwrap();
    fs::write(&mount.target, "in the way").unwrap();
    let two = format!("{DAY}/{}\t{DAY}/{}", LEGS[0], LEGS[1]);
    fs::write(calls.with_extension("new"), format!("{CALL}\t{two}\n")).unwrap();
    fs::rename(calls.with_extension("new"), &calls).unwrap();
    eventually(&mount, "it waits", || {
        let joins = mount.status()["joins"].clone();
        joins["waiting"].as_u64().max(joins["failing"].as_u64()) >= Some(1)
    });
    fs::remove_file(&mount.target).unwrap();
    fs::rename(&aside, &mount.target).unwrap();
    stored_is(&mount, &LEGS[..2]);
}

#[test]
fn what_is_sealed_is_sealed_joined_too() {
    if no_mount("what_is_sealed_is_sealed_joined_too") {
        return;
    }
    for hide in [false, true] {
        sealed_joined(hide);
    }
}

fn sealed_joined(hide: bool) {
    let identity = age::x25519::Identity::generate();
    let key = identity.to_public().to_string();
    let mut setup = at_once(format!("{RULES}{KEEP}"));
    setup.write_back = format!("encrypt_to = [\"{key}\"]\nhide_names = {hide}\n");
    let mut mount = setup.prepare();
    let secret = mount.root.join("identity");
    use age::secrecy::ExposeSecret;
    fs::write(&secret, identity.to_string().expose_secret()).unwrap();
    fs::set_permissions(&secret, fs::Permissions::from_mode(0o600)).unwrap();
    mount.env.push(("SPOOLFS_READ__IDENTITY_FILE", secret.display().to_string()));
    mount = recorded(mount, &LEGS);
    let whole = expected(&LEGS);
    let sealed = |mount: &Mount| {
        let stored = stored(mount);
        let [(name, bytes)] = stored.as_slice() else { return None };
        is_known(mount, name).then(|| (name.clone(), bytes.clone()))
    };
    eventually(&mount, "it is stored", || sealed(&mount).is_some());
    let (name, bytes) = sealed(&mount).unwrap();
    assert_eq!(name == format!("{CALL}.wav.age"), !hide, "{name}");
    let meta = mount.target.join(".spoolfs/meta/stitched").join(&name);
    let told = format!("{name} {}", fs::read_to_string(meta).unwrap());
    assert_eq!(told.contains(CALL), !hide, "{told}");
    assert_eq!(age::decrypt(&identity, &bytes).unwrap(), whole);
    // It is found again, and read, also if the key comes later than the targets.
    let (flag, command) = (mount.root.join("flag"), mount.root.join("key-later"));
    let text = format!(
        "#!/bin/sh\nwhile [ ! -e {} ]; do sleep 0.05; done\ncat {}\n",
        flag.display(),
        secret.display()
    );
    fs::write(&command, text).unwrap();
    fs::set_permissions(&command, fs::Permissions::from_mode(0o700)).unwrap();
    mount.env.retain(|(variable, _)| *variable != "SPOOLFS_READ__IDENTITY_FILE");
    mount.env.push(("SPOOLFS_READ__IDENTITY_COMMAND", command.display().to_string()));
    lose(&mut mount);
    eventually(&mount, "the key is waited for", || {
        mount.said_all().contains("which joins a target has is asked again later")
    });
    fs::write(&flag, "").unwrap();
    eventually(&mount, "it is found again", || is_known(&mount, &name));
    days_later(&mut mount, 11);
    eventually(&mount, "the whole call is heard", || shows(&mount, &whole));
    assert_eq!(sealed(&mount).map(|(name, _)| name), Some(name));
    days_later(&mut mount, 21);
    eventually(&mount, "it goes with the last leg", || stored(&mount).is_empty());
}

/// Such targets get recordings by rules alone: no joins are made any more, and those that are there go.
#[test]
fn regression_stored_joins_go_with_their_legs_also_if_no_target_is_required() {
    if no_mount("regression_stored_joins_go_with_their_legs_also_if_no_target_is_required") {
        return;
    }
    let mut mount = with_call(at_once(RULES.to_owned()), &LEGS);
    stored_is(&mount, &LEGS);
    mount.stop();
    let config = fs::read_to_string(&mount.config).unwrap();
    let optional = config.replace("name = \"archive\"", "name = \"archive\"\nrequired = false");
    assert_ne!(config, optional);
    fs::write(&mount.config, optional).unwrap();
    mount.start();
    days_later(&mut mount, 21);
    eventually(&mount, "it goes with the last leg", || stored(&mount).is_empty());
}

/// What is done while the daemon may die: each step waits for its end, also in the next life.
struct Lives {
    mount: Mount,
    point: &'static str,
    died: bool,
}

impl Lives {
    #[track_caller]
    fn until(&mut self, what: &str, is: impl Fn(&Mount) -> bool) {
        let until = Instant::now() + support::look::PATIENCE;
        while !is(&self.mount) {
            assert!(
                Instant::now() < until,
                "{}, {what}: {:?}\n{}",
                self.point,
                names(&self.mount),
                self.mount.said()
            );
            if self.mount.exited().is_some() {
                self.goes_on();
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    fn goes_on(&mut self) {
        let said = self.mount.said();
        assert!(!self.died, "{}: it died twice\n{said}", self.point);
        assert!(said.contains(&format!("dies at crash point {}", self.point)), "{said}");
        self.died = true;
        self.mount.bury();
        self.mount.env.retain(|(name, _)| *name != "SPOOLFS_CRASH_AT");
        self.mount.start();
    }

    /// Ends, in good order or by dying at that moment.
    fn ends(&mut self) {
        if self.mount.exited().is_none() {
            kill_process(self.mount.pid(), Signal::TERM).unwrap();
        }
        let until = Instant::now() + support::look::PATIENCE;
        let status = loop {
            if let Some(status) = self.mount.exited() {
                break status;
            }
            assert!(Instant::now() < until, "{}: it does not end", self.point);
            std::thread::sleep(Duration::from_millis(10));
        };
        if !status.success() {
            self.goes_on();
            return self.ends();
        }
        self.mount.forget_dead();
    }

    /// Another life, so many days later.
    fn restart(&mut self, ahead: u64) {
        self.ends();
        self.mount.env.retain(|(name, _)| *name != "SPOOLFS_AHEAD");
        self.mount.env.push(("SPOOLFS_AHEAD", (ahead * 86_400).to_string()));
        self.start();
    }

    fn start(&mut self) {
        if self.mount.start_or_end().is_err() {
            self.goes_on();
        }
    }
}

/// Stores, makes anew, brings back, finds again, stands in and deletes.
fn is_stored_all_the_same(point: &'static str) {
    let (mut mount, second) = in_two_targets(format!("{RULES}{KEEP}"));
    mount.env.push(("SPOOLFS_CRASH_AT", point.to_owned()));
    let mut lives = Lives { mount, point, died: false };
    lives.restart(0);
    write_calls(&lives.mount, &LEGS[..2]);
    let only = |mount: &Mount, legs: &[&str]| {
        let stored = stored(mount);
        stored.len() == 1 && stored[0].1 == expected(legs) && is_known(mount, &stored[0].0)
    };
    lives.until("it is made anew", |mount| only(mount, &LEGS[..2]));
    write_calls(&lives.mount, &LEGS);
    lives.until("and with a late leg", |mount| only(mount, &LEGS));
    let object = lives.mount.target.join("stitched").join(&names(&lives.mount)[0]);
    fs::write(&object, b"noise").unwrap();
    lives.until("it is brought back", |mount| has_whole(&mount.target, &LEGS));
    lives.ends();
    forget_stored(&lives.mount);
    lives.start();
    lives.until("it is found again", |mount| {
        let known = |name: &String| is_known(mount, name);
        names(mount).iter().any(known)
    });
    lives.restart(11);
    let expire =
        |mount: &Mount| mount.cli(["retention", "run", "--now", "--confirm"]).status.success();
    lives.until("a leg expires", expire);
    lives.until("the whole call is heard", |mount| shows(mount, &expected(&LEGS)));
    fs::remove_dir_all(second.join("stitched")).unwrap();
    lives.until("a copy is brought back", |_| has_whole(&second, &LEGS));
    lives.restart(21);
    lives.until("the others expire", expire);
    lives.until("it goes with the last leg", |mount| stored(mount).is_empty());
    lives.restart(21);
    assert!(lives.died, "{point} was not passed\n{}", lives.mount.said_all());
    lives.mount.cli(["audit", "verify"]).ok();
    lives.ends();
    lives.mount.fsck();
}

#[test]
fn a_join_is_stored_and_deleted_wherever_the_daemon_dies() {
    if no_mount("a_join_is_stored_and_deleted_wherever_the_daemon_dies") {
        return;
    }
    let here = |point: &&&str| point.starts_with("joins.");
    let only = std::env::var("SPOOLFS_TEST_POINTS").unwrap_or_default();
    let wanted = |point: &&&str| only.is_empty() || only.split(',').any(|one| one == **point);
    let points = spoolfs::faults::POINTS.iter().filter(here).filter(wanted);
    let points: Vec<_> = points.collect();
    support::each_of(4, &points, |point| is_stored_all_the_same(point));
}

/// Who has the key to one leg must not hear the other of the join.
#[test]
fn a_join_of_legs_that_are_sealed_for_different_keys_is_not_stored() {
    if no_mount("a_join_of_legs_that_are_sealed_for_different_keys_is_not_stored") {
        return;
    }
    let key = age::x25519::Identity::generate().to_public().to_string();
    let sealed = format!("encrypt_to = [\"{key}\"]\n");
    let rule = "[[policy]]\nname = \"one\"\npath = [\"2026/11/21/external-*\"]\n";
    let mut mount =
        with_call(at_once(format!("{rule}{sealed}[stitched]\narchive = true\n")), &LEGS);
    eventually(&mount, "all are archived", || {
        let states = mount.status()["states"].clone();
        let archived = |s: &Value| s["state"] == "archived" && s["files"] == LEGS.len();
        states.as_array().is_some_and(|states| states.iter().any(archived))
    });
    mount.stop();
    mount.start();
    eventually(&mount, "all was looked at", || {
        let joins = &mount.status()["joins"];
        joins["swept"] == true && joins["waiting"] == 0
    });
    assert_eq!(names(&mount), [""; 0]);
    // It was nothing else.
    mount.stop();
    let config = fs::read_to_string(&mount.config).unwrap();
    fs::write(&mount.config, config.replace(&sealed, "")).unwrap();
    mount.start();
    stored_is(&mount, &LEGS);
}
