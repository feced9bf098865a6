//! Encryption of the local disk by the kernel (docs/SECURITY.md, "On the local disk"): what is on the
//! disk itself, what happens without the key, and moving a used directory in.

mod support;

use rustix::fs::XattrFlags;
use rustix::io::Errno;
use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};
use support::ext4::Ext4;
use support::mount::{Mount, Setup, Target};
use support::no_mount;
use support::run::{Ran, run};

const DEADLINE: Duration = support::look::PATIENCE;

/// A disk of its own with recordings and state on it, and elsewhere a target and a key.
struct Rig {
    mount: Mount,
    disk: Ext4,
    over: PathBuf,
    target: PathBuf,
    key: PathBuf,
    _place: tempfile::TempDir,
}

impl Rig {
    fn new(require: bool) -> Option<Rig> {
        let place = tempfile::tempdir().unwrap();
        let at = |name: &str| place.path().join(name);
        let (over, target, key) = (at("disk"), at("archive"), at("key"));
        fs::create_dir(&over).unwrap();
        fs::create_dir(&target).unwrap();
        let disk = Ext4::new(&at("image"), &over, 64, &["-O", "encrypt"])?;
        let end = format!(
            "[[target]]\nname = \"archive\"\nurl = \"file://{}\"\n[encryption]\n\
             local_key_file = {key:?}\nrequire_local_encryption = {require}\n",
            target.display()
        );
        let (target_of_setup, on) = (Target::None, Some(over.clone()));
        let mount = Setup { target: target_of_setup, end, disk: on, ..Setup::default() }.prepare();
        Some(Rig { mount, disk, over, target, key, _place: place })
    }

    fn setup(&self) -> Ran {
        self.mount.cli(["setup-encryption", "--make-key", "--yes"])
    }

    /// The same, which dies at a point of `src/faults.rs`.
    #[cfg(feature = "faults")]
    fn dies_at(&self, point: &str) {
        use std::os::unix::process::ExitStatusExt;
        let mut command = Command::new(env!("CARGO_BIN_EXE_spoolfs"));
        command.args(["setup-encryption", "--make-key", "--yes", "--config"]);
        let died = run(command.arg(&self.mount.config).env("SPOOLFS_CRASH_AT", point), DEADLINE);
        assert_eq!(died.status.signal(), Some(6), "{point}: {}{}", died.out, died.err);
    }

    /// The start fails with status 1, and this is said.
    #[track_caller]
    fn does_not_start(&mut self, why: &[&str]) {
        let before = self.mount.said_all().len();
        let ended = self.mount.start_or_end().expect_err("it started");
        self.mount.forget_dead();
        assert_eq!(ended.code(), Some(1));
        let said = self.mount.said_all().split_off(before);
        for part in why {
            assert!(said.contains(part), "{part:?} is not in:\n{said}");
        }
    }

    /// Nothing is left beside the directories, and they are encrypted.
    #[track_caller]
    fn is_done(&self) {
        let names: Vec<_> =
            fs::read_dir(&self.over).unwrap().flatten().map(|e| e.file_name()).collect();
        assert!(!names.iter().any(|n| n.to_string_lossy().starts_with('.')), "{names:?}");
        let report = self.mount.cli(["setup-encryption", "--json"]).ok();
        let report: serde_json::Value = serde_json::from_str(&report.out).unwrap();
        assert_eq!(report["encrypted"], true, "{report}");
    }
}

fn random(seed: u64, len: usize) -> Vec<u8> {
    let mut rng = fastrand::Rng::with_seed(seed);
    std::iter::repeat_with(|| rng.u8(..)).take(len).collect()
}

#[track_caller]
fn eventually(what: &str, mut is: impl FnMut() -> bool) {
    let until = Instant::now() + DEADLINE;
    while !is() {
        assert!(Instant::now() < until, "{what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn xattr(path: &Path, name: &str) -> Option<String> {
    let mut value = [0; 4096];
    let len = rustix::fs::getxattr(path, name, &mut value[..]).ok()?;
    Some(String::from_utf8_lossy(&value[..len]).into_owned())
}

#[test]
fn the_disk_holds_no_audio_and_without_the_key_nothing_starts() {
    if no_mount("the_disk_holds_no_audio_and_without_the_key_nothing_starts") {
        return;
    }
    let Some(mut rig) = Rig::new(true) else { return };
    rig.does_not_start(&[
        "require_local_encryption is set, and the recordings directory",
        "is not encrypted",
        "spoolfs setup-encryption",
    ]);
    let said = rig.setup().ok();
    assert!(said.err.contains("keep a copy of it elsewhere"), "{}", said.err);
    assert_eq!(fs::metadata(&rig.key).unwrap().mode() & 0o7777, 0o400);
    rig.mount.start();
    let mounted = rig.setup();
    assert!(!mounted.status.success() && mounted.err.contains("stop spoolfs first"), "{mounted:?}");

    // One that is closed, one that goes on, and one beside the mount for comparison.
    let (known, name) = (random(1, 64), "2079460123-closed-of-this-very-name.wav");
    let audio: Vec<u8> = known.iter().copied().cycle().take(100_000).collect();
    fs::write(rig.mount.path(name), &audio).unwrap();
    let mut going_on = File::create(rig.mount.path("going-on.wav")).unwrap();
    going_on.write_all(&audio).unwrap();
    let control = rig.over.join("control");
    assert!(!rig.disk.holds(&known), "audio is on the disk");
    assert!(!rig.disk.holds(&name.as_bytes()[..24]), "a name is on the disk");
    fs::write(&control, &audio).unwrap();
    assert!(rig.disk.holds(&known), "the disk was not looked at");
    if rig.mount.status()["mode"] != "passthrough" {
        eprintln!("the kernel passes nothing through here");
    }
    drop(going_on);
    assert!(rig.mount.cli(["check"]).out.contains("fscrypt, its key is there"));
    rig.mount.stop();
    assert_eq!(fs::read(rig.mount.path(name)).unwrap(), audio);

    // After a restart of the machine, with the key, without it, and with wrong ones.
    rig.disk.remount();
    rig.mount.start();
    assert_eq!(fs::read(rig.mount.path(name)).unwrap(), audio);
    rig.mount.stop();
    rig.disk.remount();
    let away = rig.key.with_extension("away");
    fs::rename(&rig.key, &away).unwrap();
    rig.does_not_start(&["the recordings directory", "is encrypted", "can not be read"]);
    let create = File::create(rig.mount.path("new.wav")).map(drop).unwrap_err();
    assert_eq!(create.raw_os_error(), Some(Errno::NOKEY.raw_os_error()));
    assert!(rig.mount.cli(["bypass"]).err.contains("CALLS CAN NOT BE RECORDED"));
    for command in ["rebuild", "fsck"] {
        let ran = rig.mount.cli([command]);
        assert!(!ran.status.success() && ran.err.contains("is encrypted"), "{ran:?}");
    }
    for (bytes, mode, why) in [
        (random(2, 64), 0o400, "is encrypted with another key than that in"),
        (random(2, 63), 0o400, "holds 63 bytes, a key is 64"),
        (random(2, 64), 0o444, "chmod 400"),
    ] {
        fs::write(&rig.key, bytes).unwrap();
        fs::set_permissions(&rig.key, fs::Permissions::from_mode(mode)).unwrap();
        rig.does_not_start(&[why]);
        fs::remove_file(&rig.key).unwrap();
    }
    let unconfigured = fs::read_to_string(&rig.mount.config).unwrap();
    let without: String = unconfigured
        .lines()
        .filter(|l| !l.starts_with("local_key"))
        .map(|l| format!("{l}\n"))
        .collect();
    fs::write(&rig.mount.config, without).unwrap();
    rig.does_not_start(&["Set local_key_file in [encryption]", "nothing can be recorded"]);

    // As a credential of the service, whose directory systemd names.
    let credentials = rig.key.with_file_name("credentials");
    fs::create_dir(&credentials).unwrap();
    fs::copy(&away, credentials.join("local-key")).unwrap();
    rig.mount.env = vec![("CREDENTIALS_DIRECTORY", credentials.to_str().unwrap().to_owned())];
    rig.mount.start();
    assert_eq!(fs::read(rig.mount.path(name)).unwrap(), audio);
    // A crash leaves the key where it is; calls go on in the plain directory.
    rig.mount.kill9();
    fs::write(rig.mount.path("meanwhile.wav"), &audio).unwrap();
    rig.disk.remount();

    // The emergency exit has the key without a sound configuration.
    fs::rename(&away, &rig.key).unwrap();
    fs::write(&rig.mount.config, format!("nonsense\n{unconfigured}")).unwrap();
    let said = rig.mount.cli(["bypass"]).ok();
    assert!(said.err.contains("was given the key"), "{}", said.err);
    fs::write(rig.mount.path("plain.wav"), &audio).unwrap();
    assert_eq!(fs::read(rig.mount.path("meanwhile.wav")).unwrap(), audio);
}

#[test]
fn a_file_system_that_can_not_encrypt_is_told_of_with_the_cure() {
    if no_mount("a_file_system_that_can_not_encrypt_is_told_of_with_the_cure") {
        return;
    }
    let mount = Setup::default().prepare();
    let config = fs::read_to_string(&mount.config).unwrap();
    let key = mount.root.join("key");
    fs::write(&mount.config, format!("{config}[encryption]\nlocal_key_file = {key:?}\n")).unwrap();
    let Some(disk) =
        Ext4::new(&mount.root.join("image"), &mount.mountpoint, 64, &["-O", "^encrypt"])
    else {
        return;
    };
    // The root of a file system can not be encrypted at all.
    let said = mount.cli(["setup-encryption", "--make-key"]);
    assert!(
        !said.status.success() && said.out.contains("is the root of a file system"),
        "{said:?}"
    );
    let below = mount.mountpoint.join("monitor");
    fs::create_dir(&below).unwrap();
    let deeper = config.replacen(mount.mountpoint.to_str().unwrap(), below.to_str().unwrap(), 1);
    fs::write(&mount.config, deeper).unwrap();
    let said = mount.cli(["setup-encryption", "--plan"]);
    assert!(!said.status.success() && said.out.contains("tune2fs -O encrypt"), "{said:?}");
    assert!(!key.exists(), "nothing is made before it is known to be of use");
    drop(disk);
}

/// Everything that can be seen of a tree: kind, owner, mode, time, attributes, content, and which
/// names are one file.
fn seen(root: &Path) -> BTreeMap<PathBuf, String> {
    let mut paths = BTreeSet::from([root.to_owned()]);
    let mut stack = vec![root.to_owned()];
    while let Some(dir) = stack.pop() {
        for path in fs::read_dir(&dir).unwrap().flatten().map(|e| e.path()) {
            if fs::symlink_metadata(&path).unwrap().is_dir() {
                stack.push(path.clone());
            }
            paths.insert(path);
        }
    }
    let (mut tree, mut files) = (BTreeMap::new(), BTreeMap::new());
    for path in paths {
        let meta = fs::symlink_metadata(&path).unwrap();
        let mut text = format!(
            "{:o} {}:{} {}.{}",
            meta.mode(),
            meta.uid(),
            meta.gid(),
            meta.mtime(),
            meta.mtime_nsec()
        );
        if meta.is_symlink() {
            text += &format!(" -> {}", fs::read_link(&path).unwrap().display());
        } else if meta.is_file() {
            let first = files.entry(meta.ino()).or_insert_with(|| path.clone());
            let content = spoolfs::recording::Sha256::of(&fs::read(&path).unwrap());
            text += &format!(" {content} = {}", first.strip_prefix(root).unwrap().display());
            for name in ["user.note", "user.other"] {
                text += &format!(" {:?}", xattr(&path, name));
            }
        }
        tree.insert(path.strip_prefix(root).unwrap().to_owned(), text);
    }
    tree
}

/// A tree with one of everything, in the lower directory.
fn furnish(root: &Path) {
    let at = |name: &str| root.join(name);
    fs::create_dir_all(at("2026/11/22")).unwrap();
    fs::create_dir(at("empty")).unwrap();
    for (n, name) in ["a.wav", "2026/b.wav", "2026/11/22/c.wav"].iter().enumerate() {
        fs::write(at(name), random(n as u64, 70_000 + n)).unwrap();
    }
    fs::write(at("nothing.wav"), b"").unwrap();
    fs::hard_link(at("a.wav"), at("2026/same.wav")).unwrap();
    std::os::unix::fs::symlink("2026/b.wav", at("link.wav")).unwrap();
    std::os::unix::fs::chown(at("2026/b.wav"), Some(77), Some(78)).unwrap();
    fs::set_permissions(at("2026/b.wav"), fs::Permissions::from_mode(0o4640)).unwrap();
    fs::set_permissions(at("2026/11"), fs::Permissions::from_mode(0o2775)).unwrap();
    rustix::fs::setxattr(at("a.wav"), "user.note", b"mine", XattrFlags::empty()).unwrap();
    let sparse = File::create(at("2026/sparse.wav")).unwrap();
    sparse.set_len(8 << 20).unwrap();
    rustix::fs::mknodat(
        rustix::fs::CWD,
        at("fifo"),
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::from_raw_mode(0o620),
        0,
    )
    .unwrap();
    let old = rustix::fs::Timespec { tv_sec: 1_700_000_000, tv_nsec: 123_456_789 };
    let times = rustix::fs::Timestamps { last_access: old, last_modification: old };
    for name in ["2026/11/22/c.wav", "2026/11", "link.wav"] {
        let flags = rustix::fs::AtFlags::SYMLINK_NOFOLLOW;
        rustix::fs::utimensat(rustix::fs::CWD, at(name), &times, flags).unwrap();
    }
}

#[test]
#[cfg(feature = "faults")]
fn moving_in_is_cut_off_anywhere_and_goes_on() {
    if no_mount("moving_in_is_cut_off_anywhere_and_goes_on") {
        return;
    }
    let points = spoolfs::faults::POINTS.iter().filter(|point| point.starts_with("setup."));
    // Also at the fourth file, which is a recording; the first are those of the state directory.
    for point in points.copied().chain(["setup.after_file:4", "setup.after_exchange:2"]) {
        let Some(rig) = Rig::new(true) else { return };
        fs::write(rig.mount.state.join("something"), "of the catalog").unwrap();
        furnish(&rig.mount.mountpoint);
        let before = seen(&rig.mount.mountpoint);
        rig.dies_at(point);
        assert_eq!(seen(&rig.mount.mountpoint), before, "{point}");
        rig.disk.remount();
        rig.setup().ok();
        rig.is_done();
        assert_eq!(seen(&rig.mount.mountpoint), before, "{point}");
        assert_eq!(fs::read(rig.mount.state.join("something")).unwrap(), b"of the catalog");
        let sparse = fs::metadata(rig.mount.path("2026/sparse.wav")).unwrap();
        assert!(sparse.blocks() < 64, "{} blocks of a sparse file", sparse.blocks());
        for seed in 0..3 {
            assert!(!rig.disk.holds(&random(seed, 70_000)[4096..4160]), "{point}: {seed}");
        }
    }
}

#[test]
#[cfg(feature = "faults")]
fn what_comes_in_the_last_moment_is_brought_after() {
    if no_mount("what_comes_in_the_last_moment_is_brought_after") {
        return;
    }
    let Some(rig) = Rig::new(false) else { return };
    furnish(&rig.mount.mountpoint);
    // The state directory is exchanged first.
    rig.dies_at("setup.after_exchange:2");
    let old = rig.over.join(".monitor.spoolfs-encryption");
    let append = |path: &Path, bytes: &[u8]| {
        OpenOptions::new().append(true).open(path).unwrap().write_all(bytes).unwrap();
    };
    append(&old.join("2026/b.wav"), b"the end of the call");
    fs::create_dir_all(old.join("late/er")).unwrap();
    fs::write(old.join("late/er/new.wav"), b"a call").unwrap();
    // Life goes on in the new one.
    fs::remove_file(rig.mount.path("2026/11/22/c.wav")).unwrap();
    append(&rig.mount.path("a.wav"), b"more");
    append(&rig.mount.path("nothing.wav"), b"here");
    append(&old.join("nothing.wav"), b"there");

    let ran = rig.setup();
    assert_eq!(ran.status.code(), Some(1), "{ran:?}");
    assert!(ran.err.contains("nothing.wav: it was changed here and there"), "{}", ran.err);
    let b = fs::read(rig.mount.path("2026/b.wav")).unwrap();
    assert_eq!(b, [&random(1, 70_001)[..], b"the end of the call"].concat());
    assert_eq!(fs::read(rig.mount.path("late/er/new.wav")).unwrap(), b"a call");
    assert!(!rig.mount.path("2026/11/22/c.wav").exists(), "what was removed came back");
    let a = [&random(0, 70_000)[..], b"more"].concat();
    assert_eq!(fs::read(rig.mount.path("a.wav")).unwrap(), a);
    assert_eq!(fs::read(old.join("nothing.wav")).unwrap(), b"there");
    fs::remove_file(old.join("nothing.wav")).unwrap();
    rig.setup().ok();
    rig.is_done();
    assert_eq!(fs::read(rig.mount.path("nothing.wav")).unwrap(), b"here");
}

#[test]
fn what_is_being_written_is_waited_for() {
    if no_mount("what_is_being_written_is_waited_for") {
        return;
    }
    let Some(rig) = Rig::new(false) else { return };
    furnish(&rig.mount.mountpoint);
    let mut call = File::create(rig.mount.path("call.wav")).unwrap();
    call.write_all(b"beginning").unwrap();
    std::thread::scope(|scope| {
        let setup = scope.spawn(|| rig.setup());
        let copy = rig.over.join(".monitor.spoolfs-encryption/call.wav");
        eventually("it was copied", || copy.exists());
        call.write_all(b", end").unwrap();
        eventually("that too", || fs::read(&copy).is_ok_and(|bytes| bytes == b"beginning, end"));
        assert!(!setup.is_finished(), "it did not wait");
        drop(call);
        setup.join().unwrap().ok();
    });
    rig.is_done();
    assert_eq!(fs::read(rig.mount.path("call.wav")).unwrap(), b"beginning, end");
}

/// Names and stamps of the recordings' objects.
fn objects(target: &Path) -> BTreeMap<PathBuf, (u64, i64, i64)> {
    let (mut found, mut stack) = (BTreeMap::new(), vec![target.to_owned()]);
    while let Some(dir) = stack.pop() {
        for path in fs::read_dir(dir).unwrap().flatten().map(|e| e.path()) {
            let meta = fs::symlink_metadata(&path).unwrap();
            let name = path.to_string_lossy().into_owned();
            let of_recordings = name.ends_with(".wav") && !name.contains("/.spoolfs/");
            match meta.is_dir() {
                true => stack.push(path),
                false if of_recordings => {
                    found.insert(path, (meta.ino(), meta.mtime(), meta.mtime_nsec()));
                }
                false => {}
            }
        }
    }
    found
}

#[test]
fn a_used_mount_is_the_same_after_it_was_moved_in() {
    if no_mount("a_used_mount_is_the_same_after_it_was_moved_in") {
        return;
    }
    let Some(mut rig) = Rig::new(false) else { return };
    rig.mount.start();
    let known = random(9, 64);
    let names =
        ["archived.wav", "released.wav", "waiting.wav", "held.wav", "d/two.wav", "deleted.wav"];
    fs::create_dir(rig.mount.path("d")).unwrap();
    for (n, name) in names.iter().enumerate() {
        let audio: Vec<u8> = known.iter().copied().chain(random(n as u64, 50_000)).collect();
        fs::write(rig.mount.path(name), audio).unwrap();
    }
    fs::hard_link(rig.mount.path("d/two.wav"), rig.mount.path("d/three.wav")).unwrap();
    let command = |rig: &Rig, words: &[&str], name: &str| {
        let path = rig.mount.path(name);
        rig.mount.cli(words.iter().map(|w| w.as_ref()).chain([path.as_os_str()])).ok();
    };
    for name in ["archived.wav", "released.wav", "d/two.wav", "held.wav", "deleted.wav"] {
        command(&rig, &["archive"], name);
    }
    command(&rig, &["release"], "released.wav");
    command(&rig, &["hold", "add", "--case", "A", "--reason", "court"], "held.wav");
    fs::remove_file(rig.mount.path("deleted.wav")).unwrap();
    let kept =
        ["archived.wav", "released.wav", "waiting.wav", "held.wav", "d/two.wav", "d/three.wav"];
    let told = |rig: &Rig| -> Vec<_> {
        let of = |name: &&str| {
            let path = rig.mount.path(name);
            let what = ["state", "sha256", "generation", "key", "source"];
            let what = what.map(|key| xattr(&path, &format!("user.spoolfs.{key}")));
            let meta = fs::metadata(&path).unwrap();
            let same = (meta.ino(), meta.nlink(), meta.len(), meta.mtime(), meta.mtime_nsec());
            ((*name).to_owned(), what, same)
        };
        kept.iter().map(of).collect()
    };
    let status = |rig: &Rig| {
        let status = rig.mount.status();
        ["states", "holds", "trash", "failing", "suspect", "bad_copies"]
            .map(|key| status[key].clone())
    };
    eventually("everything is hashed", || told(&rig).iter().all(|(_, what, _)| what[1].is_some()));
    let before = (told(&rig), status(&rig), objects(&rig.target));
    assert_eq!(before.2.len(), 5, "{:?}", before.2);
    rig.mount.stop();
    assert!(rig.disk.holds(&known));

    rig.setup().ok();
    rig.is_done();
    assert!(!rig.disk.holds(&known), "what was there before is still on the disk");
    rig.mount.start();
    eventually("it is as it was before", || told(&rig) == before.0 && status(&rig) == before.1);
    // What would be sent again would be sent now.
    for name in ["archived.wav", "d/two.wav", "held.wav"] {
        command(&rig, &["archive"], name);
    }
    assert_eq!(objects(&rig.target), before.2, "something was uploaded again");
    let removed = fs::remove_file(rig.mount.path("held.wav")).unwrap_err();
    assert_eq!(removed.raw_os_error(), Some(Errno::PERM.raw_os_error()));
    command(&rig, &["archive"], "waiting.wav");
    command(&rig, &["recall"], "released.wav");
    let bytes = fs::read(rig.mount.path("released.wav")).unwrap();
    assert_eq!(bytes, [&known[..], &random(1, 50_000)].concat());
    rig.mount.stop();
    rig.mount.fsck();
}
