//! Recordings written as MixMonitor writes them, on a plain directory and on a mount.
#![allow(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

mod support;

use std::path::Path;
use std::time::{Duration, Instant};

use support::mixmonitor::{BUFFER_BYTES, Layout, Play};
use support::mount::Setup;
use support::{fixture, fixtures};

/// Plays every fixture below `root` in each way a call can go, and checks every byte.
fn play_everything(root: &Path) {
    for folder in ["monitor", "formats"] {
        for below in fixtures(folder) {
            let source = std::fs::read(fixture(folder).join(&below)).unwrap();
            let path = root.join(folder).join(&below);
            let play = Play::new(&source);
            play.onto(&path).unwrap();
            assert_eq!(std::fs::read(&path).unwrap(), source, "{below:?} is not what was played");

            let doubled = play.appending().leaves(&path, &source);
            play.appending().onto(&path).unwrap();
            assert_eq!(std::fs::read(&path).unwrap(), doubled, "{below:?} appended");

            play.onto(&path).unwrap();
            assert_eq!(std::fs::read(&path).unwrap(), source, "{below:?} played anew over itself");

            let cut = play.killed().leaves(&path, &[]);
            play.killed().onto(&path).unwrap();
            assert_eq!(std::fs::read(&path).unwrap(), cut, "{below:?} cut off");
        }
    }
}

/// The crashed fixture is what Asterisk itself left, so the replay of a crash must leave the same.
fn play_the_crash(root: &Path) {
    let below = &fixtures("crashed")[0];
    let source = std::fs::read(fixture("crashed").join(below)).unwrap();
    let path = root.join(below);
    let mut longer = source.clone();
    longer.extend([7; BUFFER_BYTES - 1]);
    Play::new(&longer).killed().onto(&path).unwrap();
    assert_eq!(std::fs::read(&path).unwrap(), source);
}

#[test]
fn a_replay_leaves_the_bytes_asterisk_left() {
    let root = tempfile::tempdir().unwrap();
    play_everything(root.path());
    play_the_crash(root.path());
}

#[test]
fn an_appended_header_counts_all_audio() {
    let root = tempfile::tempdir().unwrap();
    let source = std::fs::read(fixture("monitor").join(&fixtures("monitor")[0])).unwrap();
    let path = root.path().join("call.wav");
    Play::new(&source).onto(&path).unwrap();
    Play::new(&source).appending().onto(&path).unwrap();
    let bytes = std::fs::read(&path).unwrap();
    let size = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap()) as usize;
    assert_eq!(size(4), bytes.len() - 8);
    assert_eq!(size(40), bytes.len() - 44);
    assert_eq!(bytes.len(), 2 * source.len() - 44);
}

#[test]
fn formats_are_told_apart_by_the_case_of_their_names() {
    assert_eq!(Layout::of(Path::new("a.wav")).header_bytes, 44);
    assert_eq!(Layout::of(Path::new("a.WAV")).header_bytes, 60);
    assert_eq!(Layout::of(Path::new("a.gsm")).header_bytes, 0);
}

#[test]
fn recordings_on_a_mount_are_what_was_played() {
    if support::no_mount("recordings_on_a_mount_are_what_was_played") {
        return;
    }
    let mut mount = Setup::default().mount();
    play_everything(&mount.path("all"));
    play_the_crash(&mount.path("crash"));

    // While a call goes on, its length grows with every buffer: scripts wait for it to stand still.
    let below = &fixtures("monitor")[0];
    let source = std::fs::read(fixture("monitor").join(below)).unwrap();
    let path = mount.path("live").join(below);
    std::thread::scope(|scope| {
        let call = scope.spawn(|| Play::new(&source).paced(Duration::from_millis(200)).onto(&path));
        let mut sizes = vec![];
        let until = Instant::now() + support::look::PATIENCE;
        while !call.is_finished() && Instant::now() < until {
            let size = std::fs::metadata(&path).map_or(0, |metadata| metadata.len());
            if sizes.last() != Some(&size) {
                sizes.push(size);
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        call.join().unwrap().unwrap();
        assert!(sizes.len() >= 3, "the size did not grow while recording: {sizes:?}");
        assert!(sizes.is_sorted(), "the size shrank while recording: {sizes:?}");
    });
    assert_eq!(std::fs::read(&path).unwrap(), source);

    mount.stop();
    assert_eq!(std::fs::read(&path).unwrap(), source, "in the lower directory");
}

/// Everything that a player takes from the header: where the audio begins and how much there is.
fn audio_of(wav: &[u8]) -> &[u8] {
    let le = |at: usize| u32::from_le_bytes(wav[at..at + 4].try_into().unwrap()) as usize;
    assert_eq!((&wav[..4], le(4), &wav[36..40]), (&b"RIFF"[..], wav.len() - 8, &b"data"[..]));
    &wav[44..44 + le(40)]
}

#[test]
fn a_cut_call_plays_from_the_archive_and_is_what_asterisk_left_through_the_mount() {
    const NAME: &str =
        "a_cut_call_plays_from_the_archive_and_is_what_asterisk_left_through_the_mount";
    if support::no_mount(NAME) {
        return;
    }
    let settle = "10ms\"\nrepair_headers = true\njournal_interval = \"60s".to_owned();
    let mut mount = support::mount::Setup { settle, ..Default::default() }.mount();
    play_the_crash(&mount.mountpoint);
    let below = &fixtures("crashed")[0];
    let (path, cut) = (mount.path(below), std::fs::read(fixture("crashed").join(below)).unwrap());
    let sum = |path: &Path| {
        let out = std::process::Command::new("sha256sum").arg(path).output().unwrap();
        String::from_utf8(out.stdout).unwrap()[..64].to_owned()
    };
    let before = sum(&path);
    let command = |what: &str| mount.cli([what.as_ref(), path.as_os_str()]).ok();
    command("archive");
    assert_eq!(sum(&path), before, "archived");
    command("release");
    assert_eq!(sum(&path), before, "released");
    assert_eq!(std::fs::metadata(&path).unwrap().len(), cut.len() as u64);
    let mut archived = Vec::new();
    let mut dirs = vec![mount.target.clone()];
    while let Some(dir) = dirs.pop() {
        for entry in std::fs::read_dir(dir).unwrap().map(|e| e.unwrap().path()) {
            match entry.is_dir() {
                true => dirs.push(entry),
                false if entry.file_name() == below.file_name() => {
                    archived.push(entry);
                }
                false => {}
            }
        }
    }
    // The object, and what is told beside it.
    archived.retain(|path| !path.components().any(|c| c.as_os_str() == ".spoolfs"));
    assert_eq!(archived.len(), 1, "{archived:?}");
    let object = std::fs::read(&archived[0]).unwrap();
    assert_eq!(audio_of(&object), &cut[44..], "all of it is played");
    assert_ne!(sum(&archived[0]), before);
    if let Ok(out) = std::process::Command::new("soxi").arg("-s").arg(&archived[0]).output() {
        let samples = String::from_utf8(out.stdout).unwrap();
        assert_eq!(samples.trim(), ((cut.len() - 44) / 2).to_string());
    }
    // As docs/FORMAT.md says it.
    let copy = mount.root.join("cut.wav");
    std::fs::copy(&archived[0], &copy).unwrap();
    let words = "for at in 4 40; do printf '\\0\\0\\0\\0' | dd of=cut.wav bs=1 seek=$at conv=notrunc status=none; done";
    let format = std::fs::read_to_string("docs/FORMAT.md").unwrap();
    assert!(format.contains(words));
    let mut shell = std::process::Command::new("sh");
    assert!(shell.args(["-c", words]).current_dir(&mount.root).status().unwrap().success());
    assert_eq!(sum(&copy), before);
    command("verify");
    command("recall");
    assert_eq!(sum(&path), before, "recalled");
    command("release");
    mount.restart();
    assert_eq!(sum(&path), before, "after a restart");
    mount.stop();
    mount.fsck();
}
