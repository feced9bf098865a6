//! `spoolfs recompress` on a mount: wherever the daemon dies, each recording is whole, and in the end
//! each target has one object of it.
#![cfg(feature = "faults")]

mod support;

use age::secrecy::ExposeSecret;
use rustix::process::Signal;
use spoolfs::codec::{Coding, wav_header};
use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::time::{Duration, Instant};
use support::mount::{Mount, Setup, Target};
use support::no_mount;
use support::seaweedfs::SeaweedFs;

/// Longer than an old object stays.
const LATER: u64 = 7200;
const POINTS: &[&str] = &[
    "rewrite.after_key",
    "rewrite.after_put",
    "rewrite.after_proof",
    "rewrite.after_proof:2",
    "rewrite.after_move",
    "rewrite.after_delete",
];

/// Some seconds of a tone, or of a sidecar.
fn bytes(name: &str) -> Vec<u8> {
    if !name.ends_with(".wav") {
        return name.bytes().cycle().take(5000).collect();
    }
    let mut wav = wav_header(Coding::Pcm16, 8000, 1, 120_000);
    let mut random = fastrand::Rng::with_seed(name.len() as u64);
    let tone = |n: u64| ((n as f64 / 9.0).sin() * 3000.0) as i16 + random.i16(-90..90);
    wav.extend((0..60_000).map(tone).flat_map(i16::to_le_bytes));
    wav
}

const NAMES: [&str; 3] = ["released.wav", "local.wav", "note.txt"];

#[track_caller]
fn eventually(mount: &Mount, what: &str, mut is: impl FnMut() -> bool) {
    let until = Instant::now() + support::look::PATIENCE;
    while !is() {
        assert!(Instant::now() < until, "{what}\n{}", mount.said());
        std::thread::sleep(Duration::from_millis(50));
    }
}

fn setup() -> Setup {
    let write_back = "scrub_every = \"forever\"\njournal_interval = \"1s\"\n".into();
    Setup { write_back, ..Setup::default() }
}

/// All archived, one of them released, as they are.
fn archived(mount: &Mount) {
    for name in NAMES {
        fs::write(mount.path(name), bytes(name)).unwrap();
    }
    mount.cli(["archive".as_ref(), mount.mountpoint.as_os_str()]).ok();
    mount.cli(["release".as_ref(), mount.path(NAMES[0]).as_os_str()]).ok();
}

/// The same in two targets; then the rule is another one.
fn with_a_past() -> Mount {
    let mut mount = setup().prepare();
    let second = mount.root.join("second");
    fs::create_dir(&second).unwrap();
    let target =
        format!("\n[[target]]\nname = \"second\"\nurl = \"file://{}\"\n", second.display());
    let config = fs::read_to_string(&mount.config).unwrap() + &target;
    fs::write(&mount.config, config).unwrap();
    mount.start();
    archived(&mount);
    mount.stop();
    mount.env = flac();
    mount
}

fn flac() -> Vec<(&'static str, String)> {
    vec![("SPOOLFS_WRITE_BACK__COMPRESS", "flac".to_owned())]
}

/// The objects of recordings below a target, by name.
fn objects(target: &Path) -> BTreeMap<String, Vec<u8>> {
    let read = |entry: fs::DirEntry| {
        Some((entry.file_name().into_string().unwrap(), fs::read(entry.path()).ok()?))
    };
    let nodes = fs::read_dir(target).unwrap().flatten().filter(|e| e.file_name() != ".spoolfs");
    nodes.flat_map(|node| fs::read_dir(node.path()).unwrap().flatten()).filter_map(read).collect()
}

/// Each target has one object of each recording, as FLAC where it is PCM.
fn are_as_wanted(mount: &Mount) -> bool {
    [mount.target.clone(), mount.root.join("second")].iter().all(|target| {
        let objects = objects(target);
        let flac = |(name, bytes): (&String, &Vec<u8>)| {
            name.ends_with(".wav.flac") || name.contains(".wav") && bytes.starts_with(b"fLaC")
        };
        objects.len() == NAMES.len() && objects.iter().filter(|o| flac(*o)).count() == 2
    })
}

#[track_caller]
fn all_are_whole(mount: &Mount, point: &str) {
    for name in NAMES {
        let found = fs::read(mount.path(name)).unwrap_or_default();
        assert!(found == bytes(name), "{point}: {name}\n{}", mount.said());
    }
}

fn told(mount: &Mount) -> bool {
    let flags = rusqlite::OpenFlags::SQLITE_OPEN_READ_ONLY;
    let untold = rusqlite::Connection::open_with_flags(mount.state.join("catalog.db"), flags)
        .and_then(|db| db.query_row("SELECT count(*) FROM journal", [], |row| row.get(0)));
    untold == Ok(0_i64)
}

fn recompress(mount: &Mount) -> support::run::Ran {
    mount.cli(["recompress", "--json"])
}

#[track_caller]
fn dies(mount: &mut Mount, point: &str) {
    let until = Instant::now() + support::look::PATIENCE;
    let status = loop {
        if let Some(status) = mount.exited() {
            break status;
        }
        assert!(Instant::now() < until, "{point}: it lives on\n{}", mount.said());
        std::thread::sleep(Duration::from_millis(10));
    };
    assert_eq!(status.signal(), Some(Signal::ABORT.as_raw()), "{point}: {status}");
    mount.bury();
    mount.env = flac();
}

/// Dead at the point; the catalog may be lost then.
fn dies_and_goes_on((point, lost): (&str, bool)) {
    let mut mount = with_a_past();
    let crash = ("SPOOLFS_CRASH_AT", point.to_owned());
    if point == "rewrite.after_delete" {
        mount.start();
        recompress(&mount).ok();
        eventually(&mount, "it is told", || told(&mount));
        mount.stop();
        mount.env.push(("SPOOLFS_AHEAD", LATER.to_string()));
        mount.env.push(crash);
        let _may_end_before_it_is_ready = mount.start_or_end();
    } else {
        mount.env.push(crash);
        mount.start();
        recompress(&mount);
    }
    dies(&mut mount, point);
    if lost {
        for suffix in ["", "-wal", "-shm"] {
            let _not_there = fs::remove_file(mount.state.join(format!("catalog.db{suffix}")));
        }
        mount.cli(["rebuild"]).ok();
    }
    mount.start();
    all_are_whole(&mount, point);
    recompress(&mount).ok();
    all_are_whole(&mount, point);
    eventually(&mount, "it is told", || told(&mount));
    mount.stop();
    mount.fsck();
    mount.env.push(("SPOOLFS_AHEAD", LATER.to_string()));
    mount.start();
    if !lost {
        eventually(&mount, "the old objects go", || are_as_wanted(&mount));
    }
    mount.cli(["release".as_ref(), mount.mountpoint.as_os_str()]).ok();
    all_are_whole(&mount, point);
    eventually(&mount, "it is told", || told(&mount));
    mount.stop();
    mount.fsck();
}

#[test]
fn a_recompress_that_is_cut_off_anywhere_leaves_recordings_whole_and_goes_on() {
    if no_mount("a_recompress_that_is_cut_off_anywhere_leaves_recordings_whole_and_goes_on") {
        return;
    }
    let all: Vec<(&str, bool)> =
        POINTS.iter().flat_map(|point| [(*point, false), (*point, true)]).collect();
    support::each_of(3, &all, |it| dies_and_goes_on(*it));
    let here = spoolfs::faults::POINTS.iter().filter(|point| point.starts_with("rewrite."));
    assert!(here.clone().count() > 4 && here.clone().all(|point| POINTS.contains(point)));
}

#[test]
fn recompress_plans_tells_and_is_on_record() {
    if no_mount("recompress_plans_tells_and_is_on_record") {
        return;
    }
    let mut mount = with_a_past();
    mount.start();
    let before = objects(&mount.target);
    let ran = mount.cli(["recompress", "--plan", "--json"]).ok();
    let plan: serde_json::Value = serde_json::from_str(&ran.out).unwrap();
    let (files, size) =
        (&plan["done"], bytes("local.wav").len() as u64 + bytes("released.wav").len() as u64);
    assert_eq!((files, &plan["plan"]), (&2.into(), &true.into()), "{plan:#}");
    assert_eq!(plan["bytes_before"], 2 * size, "two targets: {plan:#}");
    assert_eq!(objects(&mount.target), before, "nothing was done");
    let local = mount.path("local.wav");
    let ran = mount.cli(["recompress".as_ref(), local.as_os_str()]).ok();
    assert!(ran.out.starts_with("stored 1 file anew: "), "{}", ran.out);
    let ran = mount.cli(["recompress"]).ok();
    assert!(ran.out.contains("stored 1 file anew") && ran.out.contains("2 left"), "{}", ran.out);
    let ran = mount.cli(["recompress"]).ok();
    assert!(ran.out.contains("stored 0 files anew"), "{}", ran.out);
    let gone = mount.cli(["recompress".as_ref(), mount.path("no.wav").as_os_str()]);
    assert_eq!(gone.status.code(), Some(1), "{gone:?}");
    let outside = mount.cli(["recompress", "/etc/passwd"]);
    assert_eq!(outside.status.code(), Some(2), "{outside:?}");
    eventually(&mount, "it is on record", || {
        let shown = mount.cli(["audit", "show"]);
        let all = ["recompressed", "object_stored_anew"];
        all.iter().all(|event| shown.out.contains(event))
    });
    mount.stop();
}

/// On a real server of S3, of which the old objects go, too.
#[test]
fn recompress_stores_anew_in_a_bucket() {
    if no_mount("recompress_stores_anew_in_a_bucket") {
        return;
    }
    let Some(server) = SeaweedFs::shared() else { return };
    let url = format!("s3://{}/pbx", server.new_bucket());
    let target = Target::S3 {
        url,
        endpoint: server.endpoint(),
        id: SeaweedFs::ACCESS_KEY.to_owned(),
        secret: SeaweedFs::SECRET_KEY.to_owned(),
    };
    let mut mount = Setup { target, ..setup() }.mount();
    archived(&mount);
    mount.stop();
    mount.env = flac();
    mount.start();
    let ran = recompress(&mount).ok();
    let report: serde_json::Value = serde_json::from_str(&ran.out).unwrap();
    let number = |key: &str| report[key].as_u64().unwrap();
    assert_eq!(number("done"), 2, "{report:#}");
    assert!(number("bytes_after") * 10 < number("bytes_before") * 8, "{report:#}");
    eventually(&mount, "it is told", || told(&mount));
    mount.stop();
    mount.env.push(("SPOOLFS_AHEAD", LATER.to_string()));
    mount.start();
    eventually(&mount, "the old objects are deleted, on record", || {
        let shown = mount.cli(["audit", "show"]);
        shown.out.matches("object_removed").count() == 2
    });
    let verified = mount.cli(["verify", "--all"]).ok();
    assert!(verified.out.contains("3 files"), "{}", verified.out);
    mount.cli(["release".as_ref(), mount.mountpoint.as_os_str()]).ok();
    all_are_whole(&mount, "in a bucket");
    mount.stop();
    mount.fsck();
}

/// A key that is given up, on a mount: by the configuration first, then by the command.
#[test]
fn reseal_rotates_a_key() {
    if no_mount("reseal_rotates_a_key") {
        return;
    }
    let key = age::x25519::Identity::generate;
    let (old, new) = (key(), key());
    let (old_public, new_public) = (old.to_public().to_string(), new.to_public().to_string());
    let mut mount = setup().prepare();
    let secrets = [&old, &new].map(|key| key.to_string().expose_secret().to_owned());
    let file = mount.root.join("identity");
    fs::write(&file, secrets.join("\n")).unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o400)).unwrap();
    let config = fs::read_to_string(&mount.config).unwrap();
    let sealed = |to: &str| {
        let to = format!("[write_back]\nencrypt_to = [\"{to}\"]\n");
        let read = format!("\n[read]\nidentity_file = \"{}\"\n", file.display());
        config.replacen("[write_back]\n", &to, 1) + &read
    };
    fs::write(&mount.config, sealed(&old_public)).unwrap();
    mount.start();
    archived(&mount);
    let before = objects(&mount.target);
    assert!(before.values().all(|bytes| age::decrypt(&old, bytes).is_ok()));
    let keys = ["--add", &*new_public, "--remove", &*old_public];
    let reseal =
        |mount: &Mount, more: &[&str]| mount.cli(["reseal"].iter().chain(keys.iter()).chain(more));
    let ran = reseal(&mount, &[]);
    assert!(ran.status.code() == Some(1) && ran.err.contains("put it into encrypt_to"), "{ran:?}");
    let ran = mount.cli(["reseal", "--add", &*secrets[0]]);
    assert_eq!(ran.status.code(), Some(2), "{ran:?}");
    assert!(!format!("{}{}", ran.out, ran.err).contains(&secrets[0]));
    fs::write(&mount.config, sealed(&new_public)).unwrap();
    mount.cli(["reload"]).ok();
    let ran = reseal(&mount, &["--plan"]).ok();
    assert!(ran.out.starts_with("would store 3 files anew"), "{}", ran.out);
    assert_eq!(objects(&mount.target), before);
    let ran = reseal(&mount, &[]).ok();
    assert!(ran.out.starts_with("stored 3 files anew"), "{}", ran.out);
    let ran = reseal(&mount, &[]).ok();
    assert!(ran.out.starts_with("stored 0 files anew"), "{}", ran.out);
    eventually(&mount, "it is told", || told(&mount));
    mount.stop();
    mount.env = vec![("SPOOLFS_AHEAD", LATER.to_string())];
    mount.start();
    eventually(&mount, "the old objects go", || objects(&mount.target).len() == NAMES.len());
    let after = objects(&mount.target);
    assert!(after.values().all(|bytes| age::decrypt(&new, bytes).is_ok()), "{:?}", after.keys());
    assert!(after.values().all(|bytes| age::decrypt(&old, bytes).is_err()));
    all_are_whole(&mount, "sealed to another key");
    eventually(&mount, "it is on record", || {
        let shown = mount.cli(["audit", "show"]);
        shown.out.contains("resealed") && !shown.out.contains("AGE-SECRET-KEY")
    });
    mount.stop();
    mount.fsck();
}
