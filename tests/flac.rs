//! Recordings that are stored as FLAC: on a mount, and without spoolfs by what docs/FORMAT.md says.

mod support;

use spoolfs::codec::{Coding, wav_header};
use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};
use support::mount::{Mount, Setup};
use support::run::run;

/// PCM as a call has it, of a length in bytes.
fn pcm(coding: Coding, len: u64, seed: u64) -> Vec<u8> {
    let mut random = fastrand::Rng::with_seed(seed);
    let width = coding.block_bytes();
    let sample = |n: u64| {
        let value = ((n as f64 / 9.0).sin() * 3000.0) as i32 + random.i32(-90..90);
        match width {
            1 => vec![(value / 256 + 128) as u8],
            2 => (value as i16).to_le_bytes().to_vec(),
            _ => (value * 256 + 3).to_le_bytes()[..3].to_vec(),
        }
    };
    (0..len / width).flat_map(sample).collect()
}

fn wav(coding: Coding, channels: u16, len: u64, seed: u64) -> Vec<u8> {
    [wav_header(coding, 8000, channels, len), pcm(coding, len, seed)].concat()
}

/// A header with chunks that few know, sizes that lie, and something behind the samples.
fn odd() -> Vec<u8> {
    let plain = wav(Coding::Pcm16, 2, 200_000, 5);
    let list = [&b"LIST\x06\0\0\0INFO!!"[..], &plain[36..]].concat();
    let mut odd = [&plain[..36], &list, &b"bext and the like"[..]].concat();
    odd[4..8].fill(0);
    odd
}

/// The recordings that are tried, by name.
fn recordings() -> Vec<(&'static str, Vec<u8>)> {
    vec![
        ("mono.wav", wav(Coding::Pcm16, 1, 1_000_000, 1)),
        ("stereo.wav", wav(Coding::Pcm16, 2, 700_000, 2)),
        ("narrow.wav", wav(Coding::Pcm8, 1, 300_001, 3)),
        ("wide.wav", wav(Coding::Pcm24, 1, 600_000, 4)),
        ("odd.wav", odd()),
        ("raw.sln16", pcm(Coding::Pcm16, 400_000, 6)),
    ]
}

fn mounted(compress: &str) -> Mount {
    let mut mount = Setup::default().prepare();
    mount.env.push(("SPOOLFS_WRITE_BACK__COMPRESS", compress.to_owned()));
    mount.env.push(("SPOOLFS_WRITE_BACK__SCRUB_EVERY", "forever".to_owned()));
    mount.start();
    mount
}

#[track_caller]
fn command(mount: &Mount, what: &str, path: &Path) -> support::run::Ran {
    mount.cli([what.as_ref(), path.as_os_str()]).ok()
}

#[track_caller]
fn release(mount: &Mount, path: &Path) {
    command(mount, "archive", path);
    command(mount, "release", path);
    assert_eq!(xattr(path, "user.spoolfs.source"), "archive");
}

fn xattr(path: &Path, name: &str) -> String {
    let mut value = [0; 4096];
    let len = rustix::fs::getxattr(path, name, &mut value[..]).unwrap_or(0);
    String::from_utf8_lossy(&value[..len]).into_owned()
}

/// The object that `spoolfs url` leads to.
fn object(mount: &Mount, path: &Path) -> PathBuf {
    let url = command(mount, "url", path).out;
    PathBuf::from(url.trim().strip_prefix("file://").unwrap())
}

#[test]
fn recordings_stored_as_flac_are_what_they_were() {
    if support::no_mount("recordings_stored_as_flac_are_what_they_were") {
        return;
    }
    let mut mount = mounted("flac");
    let recordings = recordings();
    for (name, bytes) in &recordings {
        fs::write(mount.path(name), bytes).unwrap();
        release(&mount, &mount.path(name));
        let object = object(&mount, &mount.path(name));
        let (stored, suffix) = (fs::read(&object).unwrap(), format!("{name}.flac"));
        assert!(object.to_string_lossy().ends_with(&suffix), "{}", object.display());
        assert!(stored.starts_with(b"fLaC") && stored.len() < bytes.len(), "{name}");
    }
    mount.restart();
    let mut random = fastrand::Rng::with_seed(8);
    for (name, bytes) in &recordings {
        let file = File::open(mount.path(name)).unwrap();
        assert_eq!(file.metadata().unwrap().len(), bytes.len() as u64);
        for _ in 0..20 {
            let start = random.usize(..bytes.len());
            let mut part = vec![0; random.usize(1..50_000).min(bytes.len() - start)];
            file.read_exact_at(&mut part, start as u64).unwrap();
            assert!(part == bytes[start..start + part.len()], "{name} from {start}");
        }
        assert!(fs::read(mount.path(name)).unwrap() == *bytes, "{name}");
        command(&mount, "verify", &mount.path(name));
        command(&mount, "recall", &mount.path(name));
        assert_eq!(xattr(&mount.path(name), "user.spoolfs.source"), "local");
        assert!(fs::read(mount.path(name)).unwrap() == *bytes, "{name}");
    }
    mount.stop();
    mount.fsck();
}

/// FreePBX goes on in a recording after each transfer.
#[test]
fn a_recording_stored_as_flac_is_gone_on_with() {
    if support::no_mount("a_recording_stored_as_flac_is_gone_on_with") {
        return;
    }
    let mut mount = mounted("flac");
    let (path, mut bytes) = (mount.path("call.wav"), wav(Coding::Pcm16, 1, 900_000, 1));
    fs::write(&path, &bytes).unwrap();
    release(&mount, &path);
    let before = object(&mount, &path);
    let more = pcm(Coding::Pcm16, 300_000, 2);
    OpenOptions::new().append(true).open(&path).unwrap().write_all(&more).unwrap();
    bytes.extend(&more);
    // As Asterisk writes the header anew.
    let header = wav_header(Coding::Pcm16, 8000, 1, 1_200_000);
    OpenOptions::new().write(true).open(&path).unwrap().write_all_at(&header, 0).unwrap();
    bytes[..44].copy_from_slice(&header);
    let until = Instant::now() + support::look::PATIENCE;
    while xattr(&path, "user.spoolfs.source") != "local" {
        assert!(Instant::now() < until, "{}", mount.said());
        std::thread::sleep(Duration::from_millis(20));
    }
    assert!(fs::read(&path).unwrap() == bytes);
    release(&mount, &path);
    assert!(fs::read(&path).unwrap() == bytes);
    let after = object(&mount, &path);
    assert_ne!(before, after);
    assert!(fs::read(&after).unwrap().starts_with(b"fLaC"));
    mount.stop();
    mount.fsck();
}

/// What docs/FORMAT.md tells to do, word for word.
fn recipe() -> String {
    let format = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/FORMAT.md");
    let text = fs::read_to_string(format).unwrap();
    let (_, rest) = text.split_once("```sh\n# restore:").expect("there is a recipe");
    format!("set -eu\n#{}", rest.split_once("```").unwrap().0)
}

#[test]
fn stock_tools_restore_what_is_stored_as_flac() {
    if support::no_mount("stock_tools_restore_what_is_stored_as_flac") {
        return;
    }
    let installed = |tool: &str| Command::new(tool).arg("--version").output().is_ok();
    if !installed("flac") || !installed("python3") {
        let required = std::env::var_os("SPOOLFS_TEST_REQUIRE").is_some();
        assert!(!required, "flac or python3 is missing; scripts/test installs them");
        eprintln!("SKIPPED: flac or python3 is missing");
        return;
    }
    let mount = mounted("flac");
    for (name, bytes) in recordings() {
        let path = mount.path(name);
        fs::write(&path, &bytes).unwrap();
        release(&mount, &path);
        let work = mount.root.join(format!("restored-{name}"));
        fs::create_dir(&work).unwrap();
        fs::copy(object(&mount, &path), work.join("a.wav.flac")).unwrap();
        let minute = Duration::from_secs(60);
        let mut test = Command::new("flac");
        run(test.args(["--test", "--silent", "a.wav.flac"]).current_dir(&work), minute).ok();
        let mut shell = Command::new("sh");
        let told = run(shell.args(["-c", &recipe()]).current_dir(&work), minute).ok().out;
        let sha256 = spoolfs::recording::Sha256::of(&bytes).to_string();
        assert_eq!(told.split_whitespace().next(), Some(&*sha256), "{name}");
        assert!(fs::read(work.join("a.wav")).unwrap() == bytes, "{name}");
    }
}

#[test]
fn without_the_setting_an_object_is_the_recording() {
    if support::no_mount("without_the_setting_an_object_is_the_recording") {
        return;
    }
    let mut mount = Setup::default().mount();
    let (path, bytes) = (mount.path("a.wav"), wav(Coding::Pcm16, 1, 300_000, 1));
    fs::write(&path, &bytes).unwrap();
    release(&mount, &path);
    assert!(fs::read(object(&mount, &path)).unwrap() == bytes);
    mount.stop();
    // With it, what is archived stays as it is.
    mount.env.push(("SPOOLFS_WRITE_BACK__COMPRESS", "flac".to_owned()));
    mount.start();
    assert!(fs::read(object(&mount, &path)).unwrap() == bytes);
    assert!(fs::read(&path).unwrap() == bytes);
}
