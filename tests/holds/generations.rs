//! What a held recording was stays, whatever is recorded over it, archived or not.

use super::{audio, error, hold, truncate};
use crate::support;
use crate::support::faulty_proxy::{Proxy, Spoil};
use crate::support::hitch::Hitches;
use crate::support::look::{closed, eventually, wait_for_state};
use crate::support::mixmonitor::Play;
use crate::support::mount::{Mount, Setup, Target};
use crate::support::seaweedfs::SeaweedFs;
use rustix::fs::{FallocateFlags, OFlags};
use rustix::io::Errno;
use std::fs::{self, File, OpenOptions};
use std::io::{Seek, SeekFrom, Write};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Long enough that it is not copied before the first write comes.
const LONG: usize = 6 << 20;

/// A wav file of so many bytes.
fn wav(len: usize, seed: u64) -> Vec<u8> {
    let mut rng = fastrand::Rng::with_seed(seed);
    let mut bytes =
        b"RIFF\0\0\0\0WAVEfmt \x10\0\0\0\x01\0\x01\0\x40\x1f\0\0\x80\x3e\0\0\x02\0\x10\0data"
            .to_vec();
    bytes.resize(44, 0);
    bytes.resize_with(len, || rng.u8(..));
    let patch = |bytes: &mut Vec<u8>, at: usize, size: usize| {
        bytes[at..at + 4].copy_from_slice(&u32::try_from(size).unwrap().to_le_bytes());
    };
    patch(&mut bytes, 4, len - 8);
    patch(&mut bytes, 40, len - 44);
    bytes
}

/// The numbers of what is in the trash and had this path.
fn earlier(mount: &Mount, path: &str) -> Vec<u64> {
    let ran = mount.cli(["trash", "list", "--json"]);
    if !ran.status.success() {
        // Between two daemons.
        return Vec::new();
    }
    let list: serde_json::Value = serde_json::from_str(&ran.out).unwrap();
    let all = list["recordings"].as_array().unwrap_or_else(|| panic!("{list:#}"));
    all.iter().filter(|one| one["path"] == path).map(|one| one["id"].as_u64().unwrap()).collect()
}

/// The earlier contents of a recording, restored below directories of their own.
#[track_caller]
fn restored(mount: &Mount, path: &str, count: usize) -> Vec<PathBuf> {
    eventually(mount, "what it was is in the trash", || earlier(mount, path).len() >= count);
    let ids = earlier(mount, path);
    assert_eq!(ids.len(), count, "{}", mount.said());
    let restore = |id: &u64| {
        let to = mount.path(format!("back-{id}"));
        let id = id.to_string();
        mount.cli(["trash", "restore", &id, "--to", to.to_str().unwrap()]).ok();
        to.join(path)
    };
    ids.iter().map(restore).collect()
}

/// Something that is done to a closed recording, and by whom to the same bytes elsewhere.
type Change = fn(&Path) -> std::io::Result<()>;

const CHANGES: &[(&str, Change)] = &[
    ("appended to", |p| OpenOptions::new().append(true).open(p)?.write_all(&audio(2))),
    ("begun anew", |p| fs::write(p, audio(2))),
    ("cut and grown again", |p| {
        let file = OpenOptions::new().write(true).open(p)?;
        file.set_len(1000)?;
        file.set_len(2 << 20)
    }),
    ("cut by its name", |p| Ok(truncate(p, 77)?)),
    ("overwritten from the end on", |p| {
        let file = OpenOptions::new().write(true).open(p)?;
        let len = file.metadata()?.len();
        (1..=64).try_for_each(|n| file.write_all_at(&audio(n)[..5000], len - n * 30_000))
    }),
    ("zeroed in the middle", |p| {
        let file = OpenOptions::new().write(true).open(p)?;
        let mode = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        Ok(rustix::fs::fallocate(&file, mode, LONG as u64 - 100_000, 70_000)?)
    }),
    ("copied into", |p| {
        let source = p.with_extension("source");
        fs::write(&source, audio(5))?;
        let (from, to) = (File::open(&source)?, OpenOptions::new().write(true).open(p)?);
        let mut into = LONG as u64 - 200_000;
        rustix::fs::copy_file_range(&from, None, &to, Some(&mut into), 100_000)?;
        fs::remove_file(&source)
    }),
    ("opened for both, and read before", |p| {
        let mut file = OpenOptions::new().read(true).write(true).open(p)?;
        let _header = std::io::read_to_string(std::io::Read::take(&mut file, 4));
        file.seek(SeekFrom::Start(LONG as u64 - 10))?;
        file.write_all(&audio(3))
    }),
];

fn changed(passthrough: &str) {
    let mut setup = Setup { target: Target::None, ..Setup::default() };
    setup.top = format!("passthrough = \"{passthrough}\"\n");
    let mut mount = setup.mount();
    let beside = tempfile::tempdir().unwrap();
    let first = wav(LONG, 1);
    for (n, (what, change)) in CHANGES.iter().enumerate() {
        for heard in [false, true] {
            let name = format!("{n}-{heard}.wav");
            let (path, plain) = (mount.path(&name), beside.path().join(&name));
            for path in [&path, &plain] {
                fs::write(path, &first).unwrap();
            }
            // Opened before anything is held: it has the file itself, where the kernel can.
            let listener = heard.then(|| File::open(&path).unwrap());
            hold(&mount, "A", &path);
            let before = path.metadata().unwrap();
            change(&plain).unwrap();
            change(&path).unwrap_or_else(|e| panic!("{passthrough}, {what}, {heard}: {e}"));
            drop(listener);
            let label = format!("{passthrough}: {what}, listened to: {heard}");
            assert!(fs::read(&path).unwrap() == fs::read(&plain).unwrap(), "{label}");
            let kept = restored(&mount, &name, 1).remove(0);
            assert!(fs::read(&kept).unwrap() == first, "{label}\n{}", mount.said());
            let after = kept.metadata().unwrap();
            assert_eq!((after.mtime_nsec(), after.mode()), (before.mtime_nsec(), before.mode()));
            assert_eq!(error(fs::remove_file(&kept)), Some(Errno::PERM), "{label}");
            assert_eq!(error(fs::remove_file(&path)), Some(Errno::PERM), "{label}");
            // To have room for the others.
            mount.cli(["hold", "lift", "--case", "A", "--reason", "next"]).ok();
            for path in [&kept, &path] {
                fs::remove_file(path).unwrap();
            }
        }
    }
    mount.stop();
    mount.fsck();
}

#[test]
fn what_a_held_recording_was_stays_whatever_is_done_to_it() {
    if !support::no_mount("what_a_held_recording_was_stays_whatever_is_done_to_it") {
        changed("auto");
        changed("never");
    }
}

/// What is written comes before the copy, also where a listener has the file itself.
#[test]
fn what_is_changed_before_it_is_copied_is_copied_then() {
    if support::no_mount("what_is_changed_before_it_is_copied_is_copied_then") {
        return;
    }
    for heard in [false, true] {
        let mut mount = Setup { target: Target::None, ..Setup::default() }.prepare();
        mount.env = vec![late()];
        mount.start();
        let (path, first) = (mount.path("call.wav"), wav(1 << 20, 1));
        fs::write(&path, &first).unwrap();
        let listener = heard.then(|| File::open(&path).unwrap());
        hold(&mount, "A", &path);
        let (mut call, mut whole) =
            (OpenOptions::new().append(true).open(&path).unwrap(), first.clone());
        call.write_all(&audio(2)).unwrap();
        whole.extend(audio(2));
        drop(call);
        closed(&path);
        let call = OpenOptions::new().read(true).write(true).open(&path).unwrap();
        for at in [4, 40, 400_000, 1_000_000] {
            call.write_all_at(&audio(at)[..70_000], at).unwrap();
            whole[at as usize..at as usize + 70_000].copy_from_slice(&audio(at)[..70_000]);
            let mut read = vec![0; 70_000];
            call.read_exact_at(&mut read, at).unwrap();
            assert!(read == audio(at)[..70_000]);
        }
        drop(call);
        if let Some(listener) = listener {
            let mut read = vec![0; whole.len()];
            listener.read_exact_at(&mut read, 0).unwrap();
            assert!(read == whole);
        }
        assert!(fs::read(&path).unwrap() == whole);
        // Both generations of before: the appending one was closed, too.
        let mut kept: Vec<_> =
            restored(&mount, "call.wav", 2).iter().map(|kept| fs::read(kept).unwrap()).collect();
        kept.sort_by_key(Vec::len);
        assert!(kept[0] == first && kept[1] == [&first[..], &audio(2)].concat(), "{heard}");
    }
}

/// What is kept is not copied for some seconds.
fn late() -> (&'static str, String) {
    ("SPOOLFS_FAIL", "kept.fill:1:EIO:once".to_owned())
}

/// Opened again and closed without a change, it is not copied again and again.
#[test]
fn what_is_opened_and_not_changed_is_kept_once() {
    if support::no_mount("what_is_opened_and_not_changed_is_kept_once") {
        return;
    }
    let mount = Setup { target: Target::None, ..Setup::default() }.mount();
    let path = mount.path("call.wav");
    fs::write(&path, audio(1)).unwrap();
    hold(&mount, "A", &path);
    for _ in 0..3 {
        drop(OpenOptions::new().append(true).open(&path).unwrap());
        closed(&path);
    }
    OpenOptions::new().append(true).open(&path).unwrap().write_all(b"more").unwrap();
    let kept = restored(&mount, "call.wav", 1);
    assert_eq!(fs::read(&kept[0]).unwrap(), audio(1));
}

/// A call recorded with option `a` across two transfers, whose number is put on hold meanwhile.
#[test]
fn a_call_with_two_transfers_is_held_while_it_goes_on_and_every_generation_stays() {
    let test = "a_call_with_two_transfers_is_held_while_it_goes_on_and_every_generation_stays";
    if support::no_mount(test) {
        return;
    }
    let Some(server) = SeaweedFs::start() else { return };
    for (passthrough, away) in [("auto", false), ("auto", true), ("never", true)] {
        let proxy = Proxy::before(&server.endpoint());
        let target = super::s3(proxy.endpoint(), &server.new_bucket());
        let scratch = tempfile::tempdir().unwrap();
        let records = super::Records::new(scratch.path());
        let top = format!("passthrough = \"{passthrough}\"\n");
        let mut mount = Setup { target, top, end: records.source(), ..Setup::default() }.mount();
        let path = mount.path("2026/11/20/call.wav");
        let legs: Vec<Vec<u8>> = (1..=3).map(|n| wav(300_000 * n + 11, n as u64)).collect();
        let mut generations: Vec<Vec<u8>> = Vec::new();
        if away {
            proxy.set(Spoil::Busy, 1, 1_000_000);
        }
        let hitches = Hitches::beside(&mount.root);
        let mut longest = Duration::ZERO;
        for (n, leg) in legs.iter().enumerate() {
            let before = generations.last().cloned().unwrap_or_default();
            let mut play = Play::new(leg).paced(Duration::from_millis(20));
            if n > 0 {
                play = play.appending();
            }
            generations.push(play.leaves(&path, &before));
            let begun = Instant::now();
            play.onto(&path).unwrap_or_else(|e| panic!("leg {n}: {e}\n{}", mount.said()));
            let paced =
                Duration::from_millis(20) * u32::try_from(leg.len() / (32 << 10) + 1).unwrap();
            longest = longest.max(begun.elapsed().saturating_sub(paced));
            closed(&path);
            if n == 0 {
                // Recorded, but the call goes on: that is when the letter comes.
                records.tell("2026/11/20/call.wav", "02079460001");
                let find = ["find", "--number", "2079460001"];
                eventually(&mount, "it is found", || mount.cli(find).out.contains("call.wav"));
                let words = ["hold", "add", "--case", "Q", "--reason", super::REASON];
                let _archived_or_not = mount.cli(words.iter().chain(&["--number", "02079460001"]));
                assert_eq!(super::cases(&path).as_deref(), Some("Q"));
            }
        }
        let hitches = hitches.allowance();
        assert!(longest < Duration::from_secs(5) + hitches, "{longest:?}, {hitches:?}");
        assert!(fs::read(&path).unwrap() == generations[2], "{passthrough}, {away}");
        proxy.set(Spoil::Busy, 0, 0);
        wait_for_state(&path, "archived");
        // In the archive: of the recording itself what was archived in time, the others by themselves.
        let archived = || {
            let ran = mount.cli(["hold", "show", "--case", "Q", "--json"]).ok();
            let shown: serde_json::Value = serde_json::from_str(&ran.out).unwrap();
            let held = shown["holds"][0]["recordings"].as_array().unwrap().clone();
            let generations = held.iter().flat_map(|one| one["generations"].as_array().unwrap());
            let digests = generations.map(|one| one["sha256"].as_str().unwrap().to_owned());
            digests.collect::<std::collections::BTreeSet<String>>()
        };
        let wanted: Vec<String> = generations
            .iter()
            .map(|bytes| spoolfs::recording::Sha256::of(bytes).to_string())
            .collect();
        eventually(&mount, "every generation is archived", || {
            let archived = archived();
            wanted.iter().all(|one| archived.contains(one))
        });
        if away {
            // Readable as files, too.
            let back = restored(&mount, "2026/11/20/call.wav", 2);
            let mut back: Vec<Vec<u8>> = back.iter().map(|path| fs::read(path).unwrap()).collect();
            back.sort_by_key(Vec::len);
            assert!(back[..] == generations[..2], "{passthrough}");
        }
        assert_eq!(error(fs::remove_file(&path)), Some(Errno::PERM));
        mount.stop();
        mount.fsck();
    }
}

/// The daemon dies at each step of keeping what a recording was; the call goes on.
#[test]
fn what_a_held_recording_was_stays_wherever_the_daemon_dies() {
    if support::no_mount("what_a_held_recording_was_stays_wherever_the_daemon_dies") {
        return;
    }
    let points: Vec<String> = spoolfs::faults::POINTS
        .iter()
        .filter(|point| point.starts_with("kept."))
        .map(|point| (*point).to_owned())
        .collect();
    assert!(points.len() >= 6, "{points:?}");
    support::each_of(2, &points, |point| {
        let options: &[&str] = &["--restart-delay", "10ms", "--failures", "1000"];
        let setup = Setup { target: Target::None, keeper: Some(options), ..Setup::default() };
        let mut mount = setup.prepare();
        let mark = mount.root.join("mark");
        mount.env = vec![
            ("SPOOLFS_CRASH_AT", point.clone()),
            ("SPOOLFS_CRASH_MARK", mark.display().to_string()),
        ];
        if point == "kept.after_copy" {
            // It is not copied before it is written to.
            mount.env.push(late());
        }
        mount.start();
        let before = mount.server();
        let (path, first) = (mount.path("call.wav"), wav(LONG, 1));
        fs::write(&path, &first).unwrap();
        hold(&mount, "A", &path);
        let mut whole = first.clone();
        if point.ends_with("exchange") {
            fs::write(&path, audio(2)).unwrap();
            whole = audio(2);
        } else {
            let call = OpenOptions::new().write(true).open(&path).unwrap();
            for n in 1..=20_usize {
                let at = LONG - n * 100_000;
                call.write_all_at(&audio(n as u64), at as u64).unwrap();
                whole[at..at + 100_000].copy_from_slice(&audio(n as u64));
            }
        }
        eventually(&mount, "it dies, and another goes on", || {
            mark.exists() && mount.server().is_some_and(|now| Some(now) != before)
        });
        let kept = restored(&mount, "call.wav", 1).remove(0);
        assert!(fs::read(&kept).unwrap() == first, "{point}\n{}", mount.said());
        assert!(fs::read(&path).unwrap() == whole, "{point}\n{}", mount.said());
        assert_eq!(error(fs::remove_file(&kept)), Some(Errno::PERM), "{point}");
        mount.stop();
        mount.fsck();
    });
}

/// No room for what it was: that is said, and the call is recorded.
#[test]
fn what_can_not_be_kept_costs_no_call_its_recording() {
    if support::no_mount("what_can_not_be_kept_costs_no_call_its_recording") {
        return;
    }
    let mut mount = Setup { target: Target::None, ..Setup::default() }.prepare();
    mount.env = vec![("SPOOLFS_FAIL", "kept.write:1:ENOSPC:forever".to_owned())];
    mount.start();
    let path = mount.path("call.wav");
    fs::write(&path, audio(1)).unwrap();
    hold(&mount, "A", &path);
    let call = rustix::fs::open(&path, OFlags::WRONLY, rustix::fs::Mode::empty()).unwrap();
    File::from(call).write_all_at(&audio(2), 0).unwrap();
    assert_eq!(fs::read(&path).unwrap(), audio(2));
    eventually(&mount, "that is said", || mount.said_all().contains("could not be kept"));
    closed(&path);
    fs::write(&path, audio(3)).unwrap();
    assert_eq!(fs::read(&path).unwrap(), audio(3));
    closed(&path);
    // While somebody listens the file can not be set aside whole. It was tried again and again.
    let listener = File::open(&path).unwrap();
    fs::write(&path, audio(4)).unwrap();
    drop(listener);
    assert_eq!(fs::read(&path).unwrap(), audio(4));
}
