//! Released recordings that are opened for writing, whatever becomes of targets and daemons.

mod support;

use rustix::fs::{CWD, FileType, Mode, OFlags};
use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use support::hitch::Hitches;
use support::mount::{Mount, Setup};

const LEN: usize = 700_001;
const LONG: Duration = support::look::PATIENCE;

fn noise(len: usize, seed: u64) -> Vec<u8> {
    let mut rng = fastrand::Rng::with_seed(seed);
    std::iter::repeat_with(|| rng.u8(..)).take(len).collect()
}

fn xattr(path: &Path, name: &str) -> String {
    let mut value = [0; 4096];
    let len = rustix::fs::getxattr(path, name, &mut value[..]).unwrap_or(0);
    String::from_utf8_lossy(&value[..len]).into_owned()
}

fn source(path: &Path) -> String {
    xattr(path, "user.spoolfs.source")
}

#[track_caller]
fn wait(mount: &Mount, what: &str, mut done: impl FnMut() -> bool) {
    let until = Instant::now() + LONG;
    while !done() {
        assert!(Instant::now() < until, "{what}\n{}", mount.said());
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[track_caller]
fn command(mount: &Mount, what: &str, path: &Path) {
    mount.cli([what.as_ref(), path.as_os_str()]).ok();
}

#[track_caller]
fn release(mount: &Mount, path: &Path) {
    command(mount, "archive", path);
    command(mount, "release", path);
    assert_eq!(source(path), "archive");
}

/// Whole, local, and in the end archived with just these bytes.
#[track_caller]
fn settles(mount: &Mount, path: &Path, bytes: &[u8]) {
    wait(mount, "it does not become whole", || source(path) == "local");
    assert!(fs::read(path).unwrap() == bytes);
    release(mount, path);
    assert!(fs::read(path).unwrap() == bytes);
}

/// Objects of a length that hang whoever reads them until this is dropped.
struct Hung(Vec<(PathBuf, PathBuf)>);

impl Hung {
    fn all(mount: &Mount, len: usize) -> Hung {
        let mut found = Vec::new();
        objects(&mount.target, len as u64, &mut found);
        assert!(!found.is_empty());
        let hang = |(n, object): (usize, PathBuf)| {
            let aside = mount.root.join(format!("object-{n}"));
            fs::rename(&object, &aside).unwrap();
            rustix::fs::mknodat(CWD, &object, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
            (object, aside)
        };
        Hung(found.into_iter().enumerate().map(hang).collect())
    }
}

impl Drop for Hung {
    fn drop(&mut self) {
        for (object, aside) in &self.0 {
            // Whoever waits gets nothing, and comes again.
            let flags = OFlags::WRONLY | OFlags::NONBLOCK;
            let waiting = rustix::fs::open(object, flags, Mode::empty());
            fs::rename(aside, object).unwrap();
            drop(waiting);
        }
    }
}

fn objects(below: &Path, len: u64, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(below).unwrap().map(Result::unwrap) {
        let kind = entry.file_type().unwrap();
        if kind.is_dir() {
            objects(&entry.path(), len, found);
        } else if kind.is_file() && entry.metadata().unwrap().len() == len {
            found.push(entry.path());
        }
    }
}

fn setup() -> Setup {
    Setup { end: "[read]\nread_timeout = \"2s\"\n".into(), ..Setup::default() }
}

fn append(path: &Path) -> File {
    OpenOptions::new().append(true).open(path).unwrap()
}

/// FreePBX goes on in a recording after each transfer; the target takes requests and says nothing,
/// and the daemon dies in between.
#[test]
fn an_append_to_a_released_recording_waits_for_no_target() {
    if support::no_mount("an_append_to_a_released_recording_waits_for_no_target") {
        return;
    }
    let mut mount = setup().mount();
    let paths: Vec<_> = (0..20).map(|n| mount.path(format!("{n}.wav"))).collect();
    let mut model: Vec<_> = (0..20).map(|n| noise(LEN, n)).collect();
    for (path, bytes) in paths.iter().zip(&model) {
        fs::write(path, bytes).unwrap();
        release(&mount, path);
    }
    let before = fs::metadata(&paths[0]).unwrap();
    let hung = Hung::all(&mount, LEN);
    let hitches = Hitches::beside(&mount.root);
    let mut took: BTreeMap<&str, Vec<Duration>> = BTreeMap::new();
    let mut timed = |name, what: &mut dyn FnMut()| {
        let began = Instant::now();
        what();
        took.entry(name).or_default().push(began.elapsed());
    };
    for round in 0..3 {
        for (path, bytes) in paths.iter().zip(&mut model) {
            let mut file = None;
            timed("open", &mut || {
                file = Some(OpenOptions::new().read(true).append(true).open(path))
            });
            let mut file = file.unwrap().unwrap();
            for n in 0..5 {
                let more = noise(32_000, round * 100 + n);
                timed("write", &mut || file.write_all(&more).unwrap());
                bytes.extend(&more);
            }
            // As Asterisk writes the header anew.
            let header = OpenOptions::new().write(true).open(path).unwrap();
            timed("rewrite", &mut || header.write_all_at(&[round as u8; 44], 0).unwrap());
            bytes[..44].fill(round as u8);
            timed("stat", &mut || {
                assert_eq!(fs::metadata(path).unwrap().len(), bytes.len() as u64)
            });
            // What was written is read back though the rest can not be had.
            let mut end = vec![0; 100_000];
            file.read_exact_at(&mut end, bytes.len() as u64 - 100_000).unwrap();
            assert!(end == bytes[bytes.len() - 100_000..]);
        }
        if round == 1 {
            assert!(fs::read(&paths[0]).is_err(), "holes for bytes");
            wait(&mount, "nobody is told", || {
                mount.status()["warnings"].to_string().contains("Written to while released")
            });
            mount.kill9();
            mount.start();
        }
    }
    let hitches = hitches.allowance();
    for (name, mut took) in took {
        took.sort();
        let at = |part: usize| took[(took.len() - 1) * part / 100];
        println!("{name}: median {:?}, p99 {:?}, worst {:?}", at(50), at(99), at(100));
        let bound = Duration::from_millis(1500) + hitches;
        assert!(at(100) < bound, "{name}: {:?}, {hitches:?}", at(100));
    }
    let look = fs::metadata(&paths[0]).unwrap();
    use std::os::unix::fs::MetadataExt;
    assert_eq!((look.ino(), look.mode(), look.uid()), (before.ino(), before.mode(), before.uid()));
    assert!(look.mtime() >= before.mtime() && look.blocks() > 0);
    assert_eq!(source(&paths[0]), "archive");
    drop(hung);
    for (path, bytes) in paths.iter().zip(&model) {
        settles(&mount, path, bytes);
    }
    mount.stop();
    mount.fsck();
}

/// What a daemon leaves behind that is stopped while a target is down.
#[test]
fn what_is_not_whole_is_no_plain_file_and_is_found_again() {
    if support::no_mount("what_is_not_whole_is_no_plain_file_and_is_found_again") {
        return;
    }
    let mut mount = setup().mount();
    let (path, other) = (mount.path("call.wav"), mount.path("other.wav"));
    let (mut bytes, archived) = (noise(LEN, 1), noise(LEN, 2));
    for (path, bytes) in [(&path, &bytes), (&other, &archived)] {
        fs::write(path, bytes).unwrap();
        release(&mount, path);
    }
    let hung = Hung::all(&mount, LEN);
    append(&path).write_all(b"more").unwrap();
    bytes.extend(b"more");
    append(&other).write_all(b"lost?").unwrap();
    mount.stop();
    assert!(!path.exists() && !other.exists());
    // A PBX goes on without us.
    fs::write(&other, b"anew").unwrap();
    drop(hung);
    mount.start();
    settles(&mount, &path, &bytes);
    wait(&mount, "it is not kept", || mount.said_all().contains("has taken the name"));
    wait(&mount, "it is not adopted", || fs::read(&other).is_ok_and(|b| b == b"anew"));
    mount.stop();
    let found: Vec<_> = fs::read_dir(path.with_file_name(".spl/found")).unwrap().collect();
    let kept = found.iter().map(|e| e.as_ref().unwrap().path()).find(|p| p.extension().is_none());
    let kept = fs::read(kept.expect("what was written is kept")).unwrap();
    assert_eq!(&kept[LEN..], b"lost?");
    mount.fsck();
}

#[track_caller]
fn hears(file: &mut File, all: &[u8], at: usize, count: usize) {
    let mut piece = vec![0; count];
    file.seek(SeekFrom::Start(at as u64)).unwrap();
    file.read_exact(&mut piece).unwrap();
    assert!(piece == all[at..at + count], "stale bytes from {at} on");
}

/// A recording is read, appended to, archived and released, over and over.
#[test]
fn a_listener_hears_a_recording_that_is_appended_to_and_released() {
    if support::no_mount("a_listener_hears_a_recording_that_is_appended_to_and_released") {
        return;
    }
    let mut mount = Setup::default().mount();
    let path = mount.path("call.wav");
    let all = noise(LEN + 30 * 50_000, 3);
    fs::write(&path, &all[..LEN]).unwrap();
    release(&mount, &path);
    let (done, pause) = (AtomicBool::new(false), AtomicBool::new(false));
    let (resting, written) = (AtomicUsize::new(0), AtomicUsize::new(LEN));
    /// Else a panic of one would leave the others waiting.
    struct Ends<'a>(&'a AtomicBool, &'a AtomicBool);
    impl Drop for Ends<'_> {
        fn drop(&mut self) {
            self.0.store(true, Ordering::Relaxed);
            self.1.store(false, Ordering::Relaxed);
        }
    }
    let mut len = LEN;
    std::thread::scope(|scope| {
        let listen = |n: u64| {
            let mut rng = fastrand::Rng::with_seed(n);
            let (mut heard, mut held) = (0_u64, None);
            while !done.load(Ordering::Relaxed) {
                if pause.load(Ordering::Relaxed) {
                    held = None;
                    resting.fetch_add(1, Ordering::Relaxed);
                    while pause.load(Ordering::Relaxed) {
                        std::thread::yield_now();
                    }
                    resting.fetch_sub(1, Ordering::Relaxed);
                }
                let file: &mut File = held.get_or_insert_with(|| File::open(&path).unwrap());
                // While a write goes on, stat(2) may see what read(2) does not see yet: so it is with
                // every FUSE file system.
                let size = written.load(Ordering::Relaxed);
                assert!(file.metadata().unwrap().len() >= size as u64);
                let at = rng.usize(..size);
                let count = rng.usize(1..40_000).min(size - at);
                hears(file, &all, at, count);
                heard += 1;
                if rng.u8(..200) == 0 {
                    held = None;
                }
            }
            heard
        };
        let _ends = Ends(&done, &pause);
        let listeners: Vec<_> = (0..3).map(|n| scope.spawn(move || listen(n))).collect();
        for _ in 0..30 {
            // Opened while it is released, and not read until it is released again.
            let mut patient = File::open(&path).unwrap();
            hears(&mut patient, &all, len - 1000, 1000);
            let mut file = append(&path);
            for piece in all[len..len + 50_000].chunks(10_000) {
                file.write_all(piece).unwrap();
                written.fetch_add(piece.len(), Ordering::Relaxed);
            }
            len += 50_000;
            drop(file);
            wait(&mount, "it does not become whole", || source(&path) == "local");
            command(&mount, "archive", &path);
            // A local copy that is being read is not released.
            pause.store(true, Ordering::Relaxed);
            wait(&mount, "listeners go on", || resting.load(Ordering::Relaxed) == 3);
            release(&mount, &path);
            pause.store(false, Ordering::Relaxed);
            hears(&mut patient, &all, LEN - 100_000, len - LEN + 100_000);
        }
        done.store(true, Ordering::Relaxed);
        let heard: Vec<_> = listeners.into_iter().map(|l| l.join().unwrap()).collect();
        println!("pieces heard: {heard:?}");
        assert!(heard.iter().all(|n| *n > 10), "{heard:?}");
    });
    assert!(fs::read(&path).unwrap() == all[..len]);
    mount.stop();
    mount.fsck();
}

/// Who has it open goes on through the deaths of daemons, also while what it lacks is fetched.
#[test]
fn what_is_written_to_a_released_recording_survives_kills() {
    if support::no_mount("what_is_written_to_a_released_recording_survives_kills") {
        return;
    }
    for mode in ["resend = \"auto\"\n", "resend = \"never\"\npassthrough = \"never\"\n"] {
        let keeper: &[&str] = &["--restart-delay", "1ms", "--failures", "1000"];
        let mount = Setup { keeper: Some(keeper), top: mode.to_owned(), ..setup() }.mount();
        let (path, gone) = (mount.path("call.wav"), mount.path("gone.wav"));
        let (mut bytes, deleted) = (noise(LEN, 5), noise(LEN, 6));
        for (path, bytes) in [(&path, &bytes), (&gone, &deleted)] {
            fs::write(path, bytes).unwrap();
            release(&mount, path);
        }
        let hung = Hung::all(&mount, LEN);
        let mut call = OpenOptions::new().read(true).append(true).open(&path).unwrap();
        let header = OpenOptions::new().write(true).open(&path).unwrap();
        // Deleted while it is written to: seen by who has it open, and by nobody else.
        let last = OpenOptions::new().read(true).write(true).open(&gone).unwrap();
        last.write_all_at(b"deleted", LEN as u64 + 9_000).unwrap();
        fs::remove_file(&gone).unwrap();
        let mut hung = Some(hung);
        for n in 0..12_u8 {
            if n % 2 == 0 {
                let before = mount.server().unwrap();
                rustix::process::kill_process(before, rustix::process::Signal::KILL).unwrap();
                wait(&mount, "nobody takes over", || mount.server().is_some_and(|p| p != before));
            }
            if n == 6 {
                hung = None;
            }
            let more = noise(5_000, u64::from(n));
            call.write_all(&more).unwrap();
            bytes.extend(&more);
            let at = usize::from(n) * 50_000;
            header.write_all_at(&[n; 100], at as u64).unwrap();
            bytes[at..at + 100].fill(n);
            // The kernel reads pages: one with archived bytes in it has to be fetched.
            if n > 0 {
                let mut end = vec![0; 5_000];
                call.read_exact_at(&mut end, bytes.len() as u64 - 5_000).unwrap();
                assert_eq!(end, more);
            }
            let mut tail = [0; 7];
            last.read_exact_at(&mut tail, LEN as u64 + 9_000).unwrap();
            assert_eq!((&tail, last.metadata().unwrap().len()), (b"deleted", LEN as u64 + 9_007));
        }
        assert!(hung.is_none() && !gone.exists());
        let mut all = vec![0; LEN];
        wait(&mount, "the archive does not come back", || last.read_exact_at(&mut all, 0).is_ok());
        assert!(all == deleted);
        drop((call, header, last));
        settles(&mount, &path, &bytes);
    }
}

/// What programs do with a file, on one that is released, with an archive that answers late or not
/// at all.
#[test]
fn a_partial_recording_is_a_file_like_any_other() {
    use rustix::fs::FallocateFlags;
    use std::os::unix::fs::{MetadataExt, PermissionsExt};
    if support::no_mount("a_partial_recording_is_a_file_like_any_other") {
        return;
    }
    let mut mount = setup().mount();
    fs::create_dir(mount.path("d")).unwrap();
    let path = mount.path("call.wav");
    let mut bytes = noise(LEN, 7);
    fs::write(&path, &bytes).unwrap();
    release(&mount, &path);
    let hung = Hung::all(&mount, LEN);
    let file = OpenOptions::new().read(true).write(true).open(&path).unwrap();
    let write = |bytes: &mut Vec<u8>, at: usize, piece: &[u8]| {
        file.write_all_at(piece, at as u64).unwrap();
        bytes.resize(bytes.len().max(at + piece.len()), 0);
        bytes[at..at + piece.len()].copy_from_slice(piece);
    };
    write(&mut bytes, 1000, &noise(3_333, 8));
    write(&mut bytes, LEN + 5_000, b"behind a hole");
    for (mode, at, len) in [
        (FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE, 30_000, 10_000),
        (FallocateFlags::ZERO_RANGE, 100_001, 7_777),
    ] {
        rustix::fs::fallocate(&file, mode, at as u64, len as u64).unwrap();
        bytes[at..at + len].fill(0);
    }
    file.set_len(600_000).unwrap();
    bytes.truncate(600_000);
    file.set_len(650_000).unwrap();
    bytes.resize(650_000, 0);
    // Names and attributes, as of any released recording.
    let moved = mount.path("d/moved.wav");
    fs::rename(&path, &moved).unwrap();
    fs::set_permissions(&moved, fs::Permissions::from_mode(0o604)).unwrap();
    rustix::fs::setxattr(&moved, "user.who", b"me", rustix::fs::XattrFlags::empty()).unwrap();
    let seek = |from| rustix::fs::seek(&file, from).unwrap();
    assert_eq!(seek(rustix::fs::SeekFrom::Data(5)), 5);
    assert_eq!(seek(rustix::fs::SeekFrom::Hole(5)), 650_000);
    let mut end = vec![1; 40_000];
    file.read_exact_at(&mut end, 610_000).unwrap();
    assert!(end.iter().all(|b| *b == 0));
    file.sync_all().unwrap();
    let look = |path: &Path| {
        let m = fs::metadata(path).unwrap();
        (m.ino(), m.len(), m.mode(), m.mtime(), m.mtime_nsec())
    };
    let before = look(&moved);
    mount.kill9();
    mount.start();
    assert_eq!(look(&moved), before);
    assert!(fs::read_dir(mount.path("d")).unwrap().count() == 1 && !path.exists());
    // Cut by its name, without a handle.
    File::options().write(true).open(&moved).unwrap().set_len(640_000).unwrap();
    bytes.truncate(640_000);
    assert_eq!(fs::metadata(&moved).unwrap().len(), 640_000);
    drop((file, hung));
    wait(&mount, "it can not be linked", || fs::hard_link(&moved, mount.path("link.wav")).is_ok());
    assert_eq!(source(&moved), "local");
    assert!(fs::read(&moved).unwrap() == bytes);
    assert_eq!(look(&moved).2 & 0o777, 0o604);
    assert_eq!(xattr(&moved, "user.who"), "me");
    fs::remove_file(mount.path("link.wav")).unwrap();
    release(&mount, &moved);
    assert!(fs::read(&moved).unwrap() == bytes);
    // Opened and closed without a change, it is as it was.
    drop(append(&moved));
    assert_eq!(source(&moved), "archive");
    // Overwritten while it is partial, and deleted.
    append(&moved).write_all(b"more").unwrap();
    fs::write(&moved, b"new").unwrap();
    settles(&mount, &moved, b"new");
    append(&moved).write_all(b"gone").unwrap();
    fs::remove_file(&moved).unwrap();
    mount.stop();
    assert_eq!(fs::read_dir(mount.path(".spl/partial")).unwrap().count(), 0);
    mount.fsck();
}
