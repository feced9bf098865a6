//! A disk that fills up under calls in progress: on a small tmpfs, with a target elsewhere.

mod support;

use rustix::mount::{MountFlags, UnmountFlags};
use std::cell::Cell;
use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use support::mount::{Mount, Setup, Target};

const DISK_MIB: u64 = 64;
/// Calls at a time, in all of the first part.
const CALLS: u64 = 100;
/// Of all calls together.
const BYTES_PER_SECOND: u64 = 12 << 20;
/// How full, in percent, the calls in progress make the disk at most when all have ended.
const FULL: u64 = 85;
const PATIENCE: Duration = support::look::PATIENCE;

/// A file system of its own, taken away at the end.
struct Disk(tempfile::TempDir);

impl Disk {
    fn new() -> Disk {
        let dir = tempfile::tempdir().unwrap();
        let size = format!("size={DISK_MIB}m");
        let options = std::ffi::CString::new(size).unwrap();
        rustix::mount::mount("tmpfs", dir.path(), "tmpfs", MountFlags::empty(), options.as_c_str())
            .unwrap();
        Disk(dir)
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _left_to_the_system = rustix::mount::unmount(self.0.path(), UnmountFlags::DETACH);
    }
}

/// What a call of this number says.
fn content(number: u64) -> Vec<u8> {
    let mut rng = fastrand::Rng::with_seed(number);
    let mut bytes = vec![0; rng.usize(16 << 10..400 << 10)];
    rng.fill(&mut bytes);
    bytes
}

/// Calls that write 8 KiB at a time, together no faster than BYTES_PER_SECOND.
struct Exchange {
    dir: PathBuf,
    begun: Instant,
    written: AtomicU64,
    next: AtomicU64,
    /// What the calls in progress have still to write.
    coming: Mutex<u64>,
    failed: Mutex<Vec<String>>,
}

impl Exchange {
    fn new(dir: &Path) -> Exchange {
        let (written, next) = (AtomicU64::new(0), AtomicU64::new(0));
        let (coming, failed) = (Mutex::default(), Mutex::default());
        Exchange { dir: dir.into(), begun: Instant::now(), written, next, coming, failed }
    }

    fn path(&self, number: u64) -> PathBuf {
        self.dir.join(format!("call-{number:05}.wav"))
    }

    /// Calls come slower than recordings can be archived, however slow that is here: one begins
    /// when there is room for all that have begun.
    fn wait_for_room(&self, bytes: u64) {
        let begun = Instant::now();
        loop {
            let mut coming = self.coming.lock().unwrap();
            let stat = rustix::fs::statvfs(&self.dir).unwrap();
            let free = stat.f_bavail * stat.f_frsize;
            let kept = stat.f_blocks * stat.f_frsize * (100 - FULL) / 100;
            if *coming + bytes + kept <= free {
                *coming += bytes;
                return;
            }
            drop(coming);
            assert!(begun.elapsed() < PATIENCE, "no room within {PATIENCE:?}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn record(&self, number: u64, written: impl Fn(u64)) -> std::io::Result<()> {
        let mut file = File::create_new(self.path(number))?;
        for piece in content(number).chunks(8 << 10) {
            file.write_all(piece)?;
            written(piece.len() as u64);
        }
        Ok(())
    }

    /// One call that waits for room, and is paced.
    fn call(&self, number: u64) {
        let size = content(number).len() as u64;
        self.wait_for_room(size);
        let left = Cell::new(size);
        let paced = |bytes| {
            left.set(left.get() - bytes);
            *self.coming.lock().unwrap() -= bytes;
            let written = self.written.fetch_add(bytes, Ordering::Relaxed);
            let due = Duration::from_secs_f64(written as f64 / BYTES_PER_SECOND as f64);
            std::thread::sleep(due.saturating_sub(self.begun.elapsed()));
        };
        if let Err(error) = self.record(number, paced) {
            self.failed.lock().unwrap().push(format!("{number}: {error}"));
        }
        *self.coming.lock().unwrap() -= left.get();
    }

    /// Records until `bytes` were written.
    fn record_all(&self, bytes: u64) {
        std::thread::scope(|scope| {
            for _ in 0..CALLS {
                scope.spawn(|| {
                    while self.written.load(Ordering::Relaxed) < bytes {
                        self.call(self.next.fetch_add(1, Ordering::Relaxed));
                    }
                });
            }
        });
    }
}

fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !holds() {
        assert!(begun.elapsed() < PATIENCE, "{what}: not within {PATIENCE:?}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

fn pressure(mount: &Mount) -> String {
    mount.status()["disk"]["pressure"].as_str().unwrap().to_owned()
}

#[test]
fn a_disk_that_fills_up_fails_no_call_while_anything_can_be_released() {
    if support::no_mount("a_disk_that_fills_up_fails_no_call_while_anything_can_be_released") {
        return;
    }
    let disk = Disk::new();
    let away = tempfile::tempdir().unwrap();
    let target = away.path().join("target");
    fs::create_dir(&target).unwrap();
    let mount = Setup {
        target: Target::None,
        keep_local: "365d".into(),
        space: ("60%".into(), "50%".into(), "1MiB".into()),
        end: format!("\n[[target]]\nname = \"archive\"\nurl = \"file://{}\"\n", target.display()),
        disk: Some(disk.0.path().to_owned()),
        ..Setup::default()
    }
    .mount();

    // Three times as much as there is room for.
    let calls = Exchange::new(&mount.mountpoint);
    calls.record_all(3 * (DISK_MIB << 20));
    let failed = calls.failed.lock().unwrap().clone();
    assert!(failed.is_empty(), "{} writes failed: {:?}", failed.len(), failed.first());
    let recorded = calls.next.load(Ordering::Relaxed);
    for number in 0..recorded {
        assert!(fs::read(calls.path(number)).unwrap() == content(number), "call {number}");
    }
    println!("{recorded} calls, 0 failed, all read back");

    // Now nothing can be archived: it is said aloud long before the disk is full.
    let aside = away.path().join("aside");
    fs::rename(&target, &aside).unwrap();
    let more = Exchange { next: AtomicU64::new(recorded), ..Exchange::new(&mount.mountpoint) };
    let mut number = recorded;
    until("the disk is above its high mark", || {
        more.record(number, |_| ()).unwrap();
        number += 1;
        pressure(&mount) != "none"
    });
    until("said to be stuck", || pressure(&mount) == "stuck");
    assert!(mount.status()["disk"]["free"].as_u64().unwrap() > 10 << 20);
    let check = mount.cli(["check"]);
    assert_eq!(check.status.code(), Some(1), "{}", check.out);
    assert!(check.out.contains("nothing is left that may be released"), "{}", check.out);

    // Full: the calls hear it from the disk, and what was recorded stays.
    let last = loop {
        match more.record(number, |_| ()) {
            Ok(()) => number += 1,
            Err(error) => break error,
        }
    };
    assert_eq!(last.kind(), ErrorKind::StorageFull, "{last}");
    for whole in recorded..number {
        assert!(fs::read(calls.path(whole)).unwrap() == content(whole), "call {whole}");
    }
    fs::rename(calls.path(number), mount.path("cut.wav")).unwrap();

    // It recovers without help.
    fs::rename(&aside, &target).unwrap();
    until("room again", || pressure(&mount) == "none");
    let mut file = OpenOptions::new().append(true).open(mount.path("cut.wav")).unwrap();
    file.write_all(b"it goes on").unwrap();
    for whole in recorded..number {
        assert!(fs::read(calls.path(whole)).unwrap() == content(whole), "call {whole}");
    }
    drop(file);
    mount.cli([OsStr::new("archive"), mount.path("cut.wav").as_os_str()]).ok();
}
