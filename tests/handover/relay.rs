//! Where the kernel sends nothing again, and we keep its requests.

use super::edges::{request, state, wait_for};
use super::support;
use super::support::mount::{Mount, Setup};
use super::takeover::{kept, replace};
use rustix::fs::OFlags;
use rustix::process::{Pid, Signal, kill_process};
use spoolfs::limits::{WORKER_QUEUE_MAX, WORKER_THREADS};
use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::sync::Barrier;
use std::sync::atomic::{AtomicUsize, Ordering};

/// How the file of requests is laid out: long places, short ones, answers.
const LONG: usize = (128 << 10) + 4096;
const ANSWERS: usize = 96 * LONG + (2 * (WORKER_QUEUE_MAX + WORKER_THREADS) + 128) * 4608;

/// The number of the kernel's request that did it, from the operation log.
fn number(mount: &Mount, op: &str, name: &str) -> u64 {
    let logs = fs::read_dir(&mount.runtime).unwrap().map(|e| e.unwrap().path());
    for log in logs.filter(|p| p.file_name().unwrap().to_string_lossy().starts_with("log.")) {
        let bytes = fs::read(log).unwrap();
        let mut rest = &bytes[..];
        while let Some((len, tail)) = rest.split_first_chunk::<4>() {
            // Behind the checksum: version, phase (1: it is about to be done), number, reference.
            let Some(body) = tail.get(4..4 + u32::from_le_bytes(*len) as usize) else { break };
            let op = serde_json::from_slice::<serde_json::Value>(&body[18..])
                .is_ok_and(|found| body[1] == 1 && found[op]["name"] == name);
            if op {
                return u64::from_le_bytes(*body[10..].first_chunk().unwrap());
            }
            rest = &tail[4 + body.len()..];
        }
    }
    panic!("{op} of {name} is not in the log\n{}", mount.said());
}

/// It ended; whoever started it may not know yet.
fn is_dead(pid: Pid) -> bool {
    let stat = fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero()));
    stat.is_ok_and(|stat| stat.rsplit(')').next().unwrap().trim_start().starts_with('Z'))
}

/// All of them were done and answered, and others went on from there, before the daemon died; and
/// so do the next ones. Nothing is done again.
#[test]
fn regression_what_was_answered_is_not_done_again_whatever_others_did_since() {
    if support::no_mount("regression_what_was_answered_is_not_done_again_whatever_others_did_since")
    {
        return;
    }
    let options: &[&str] = &["--restart-delay", "1ms", "--failures", "1000"];
    let top = "passthrough = \"never\"\nresend = \"never\"\n".to_owned();
    let mut mount = Setup { keeper: Some(options), top, ..Setup::default() }.prepare();
    let mark = mount.root.join("died");
    if cfg!(feature = "faults") {
        let deaths = "handover.after_resume,relay.before_answer,relay.after_answer";
        mount.env = vec![
            ("SPOOLFS_CRASH_AT", deaths.to_owned()),
            ("SPOOLFS_CRASH_MARK", mark.display().to_string()),
        ];
    }
    mount.start();
    let at = |name: &str| mount.path(name);
    let make = |name: &str, text: &[u8]| {
        let file = OpenOptions::new().write(true).create_new(true).open(at(name));
        file.and_then(|mut file| file.write_all(text)).unwrap();
    };
    make("victim", b"mine");
    fs::remove_file(at("victim")).unwrap();
    make("victim", b"theirs");
    fs::create_dir(at("d")).unwrap();
    fs::rename(at("d"), at("e")).unwrap();
    fs::create_dir(at("d")).unwrap();
    make("d/inside", b"theirs");
    make("lock", b"mine");
    fs::remove_file(at("lock")).unwrap();
    make("lock", b"theirs");
    make("cut", b"before");
    File::create(at("cut")).unwrap().write_all(b"spoken").unwrap();
    make("short", b"spoken");
    let node = |name: &str| fs::metadata(at(name)).unwrap().ino();
    let (cut, short) = (node("cut"), node("short"));

    // Nobody follows before the requests are as they would be.
    kill_process(mount.pid(), Signal::STOP).unwrap();
    let before = mount.server().expect("it runs");
    kill_process(before, Signal::KILL).unwrap();
    wait_for(&mount, "it does not die", || is_dead(before).then_some(()));
    let word = |word: u32| word.to_le_bytes();
    let flags = |flags: OFlags| word(flags.bits());
    let create = [flags(OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL), word(0o100_644)];
    let create = [&create.concat()[..], &[0; 8], b"lock\0"].concat();
    // FATTR_SIZE alone, to nothing.
    let size = [&word(8)[..], &[0; 84]].concat();
    let open = [flags(OFlags::WRONLY | OFlags::TRUNC), word(0)].concat();
    let done = [
        (number(&mount, "Unlink", "victim"), request(10, 1, b"victim\0")),
        (
            number(&mount, "Create", "d"),
            request(9, 1, &[&word(0o755)[..], &[0; 4], b"d\0"].concat()),
        ),
        (
            number(&mount, "Rename", "d"),
            request(12, 1, &[&1u64.to_le_bytes()[..], b"d\0e\0"].concat()),
        ),
        (number(&mount, "Create", "lock"), request(35, 1, &create)),
        // Not in the log, but with their answers: the kernel's first numbers.
        (2, request(14, cut, &open)),
        (4, request(4, short, &size)),
    ];
    let requests =
        OpenOptions::new().read(true).write(true).open(mount.runtime.join("requests")).unwrap();
    for (place, (unique, mut request)) in done.into_iter().enumerate() {
        request[8..16].copy_from_slice(&unique.to_le_bytes());
        requests.write_all_at(&request, (place * LONG) as u64).unwrap();
        if unique <= 4 {
            let len = if unique == 2 { 32 } else { 120 };
            let answer = [&word(len)[..], &word(0), &unique.to_le_bytes(), &[0; 104]].concat();
            let answer = &answer[..len as usize];
            requests.write_all_at(answer, (ANSWERS + place * 192) as u64).unwrap();
        }
    }
    kill_process(mount.pid(), Signal::CONT).unwrap();

    let has = |name: &str, text: &[u8]| {
        let found = fs::read(at(name)).unwrap();
        assert_eq!(found, text, "{name}\n{}", mount.said());
    };
    has("victim", b"theirs");
    // Every place was looked at.
    let words = || {
        (0..6).all(|place| {
            let mut word = [0; 4];
            requests.read_exact_at(&mut word, place * LONG as u64).unwrap();
            word == [0; 4]
        })
    };
    wait_for(&mount, "a request is left", || words().then_some(()));
    let last = mark.with_extension("3");
    if cfg!(feature = "faults") {
        wait_for(&mount, "it did not die as often", || last.exists().then_some(()));
    }
    has("victim", b"theirs");
    has("d/inside", b"theirs");
    has("lock", b"theirs");
    has("cut", b"spoken");
    has("short", b"spoken");
    assert_eq!(fs::read_dir(at("e")).unwrap().count(), 0);
    for name in ["victim", "lock", "cut", "short"] {
        wait_for(&mount, &format!("{name} is open"), || {
            (state(&at(name)) == "closed").then_some(())
        });
    }
}

/// Programs that write long pieces with O_SYNC at the same time, more than there are places for.
const SYNCED: usize = 120;
const PIECES: usize = 3;
const PIECE: usize = 8192;

#[test]
fn more_synced_writes_than_places_go_on_over_a_death() {
    if support::no_mount("more_synced_writes_than_places_go_on_over_a_death") {
        return;
    }
    let mount = kept("relay");
    let (begin, written) = (Barrier::new(SYNCED), AtomicUsize::new(0));
    let piece = |file: usize, n: usize| [u8::try_from(file + n).unwrap(); PIECE];
    let path = |file: usize| mount.path(format!("{file}.wav"));
    std::thread::scope(|scope| {
        for number in 0..SYNCED {
            let (begin, written, path) = (&begin, &written, path(number));
            scope.spawn(move || {
                let mut options = OpenOptions::new();
                options.write(true).create_new(true).custom_flags(libc::O_SYNC);
                let file = options.open(path);
                begin.wait();
                let mut file = file.unwrap();
                for n in 0..PIECES {
                    file.write_all(&piece(number, n)).unwrap();
                    written.fetch_add(1, Ordering::SeqCst);
                }
            });
        }
        wait_for(&mount, "nobody writes", || (written.load(Ordering::SeqCst) > 0).then_some(()));
        replace(&mount, Signal::KILL);
    });
    for number in 0..SYNCED {
        let expected: Vec<u8> = (0..PIECES).flat_map(|n| piece(number, n)).collect();
        assert!(fs::read(path(number)).unwrap() == expected, "{number}\n{}", mount.said());
    }
}
