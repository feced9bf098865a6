//! One death at a time.

use super::support;
use super::support::mount::{Mount, Setup, is_mounted};
use rustix::process::{Pid, Signal, kill_process};
use std::fs::{self, File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::time::{Duration, Instant};

/// A mount under a keeper. "relay" is plain mode on a kernel that sends no request again.
pub fn kept(mode: &str) -> Mount {
    // A kill may come at a start, and as often as it likes.
    let options: &[&str] = &["--restart-delay", "1ms", "--failures", "1000"];
    let top = match mode {
        "relay" => "passthrough = \"never\"\nresend = \"never\"\n".to_owned(),
        mode => format!("passthrough = \"{mode}\"\n"),
    };
    // As in an installation: a page of a disk that is written back is mapped anew, and a SIGKILL in
    // that moment costs the request that is being read into it.
    let memory = Path::new("/dev/shm").is_dir().then(|| "/dev/shm".into());
    Setup { keeper: Some(options), top, memory, ..Setup::default() }.mount()
}

/// Another process than `before` serves the mount.
#[track_caller]
pub fn successor(mount: &Mount, before: Pid) -> Pid {
    let until = Instant::now() + support::look::PATIENCE;
    loop {
        if let Some(pid) = mount.server().filter(|pid| *pid != before) {
            return pid;
        }
        assert!(Instant::now() < until, "nobody took over\n{}", mount.said());
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Kills the daemon with `signal` and waits for the next.
#[track_caller]
pub fn replace(mount: &Mount, signal: Signal) {
    let before = mount.server().expect("it runs");
    kill_process(before, signal).expect("it can be signalled");
    successor(mount, before);
}

fn open_files_go_on(passthrough: &str, signal: Signal) {
    let mount = kept(passthrough);
    let path = mount.path("2026/call.wav");
    fs::create_dir(mount.path("2026")).unwrap();
    let mut call = OpenOptions::new().append(true).create(true).open(&path).unwrap();
    call.write_all(b"before ").unwrap();
    let ino = fs::metadata(&path).unwrap().ino();

    let held_path = mount.path("held.wav");
    let mut held =
        OpenOptions::new().read(true).write(true).create_new(true).open(&held_path).unwrap();
    held.write_all(b"0123456789").unwrap();
    fs::remove_file(&held_path).unwrap();

    let mut reader = File::open(&path).unwrap();
    let mut listing = fs::read_dir(&mount.mountpoint).unwrap();
    let first = listing.next().unwrap().unwrap().file_name();

    replace(&mount, signal);

    call.write_all(b"after").unwrap();
    call.sync_all().unwrap();
    assert_eq!(call.metadata().unwrap().len(), 12);
    assert_eq!(fs::metadata(&path).unwrap().ino(), ino);
    let mut heard = String::new();
    reader.read_to_string(&mut heard).unwrap();
    assert_eq!(heard, "before after");

    // As Record() does it: no name, and still written, cut and read.
    held.write_all(b"abc").unwrap();
    held.set_len(12).unwrap();
    held.seek(SeekFrom::Start(0)).unwrap();
    let mut bytes = String::new();
    held.read_to_string(&mut bytes).unwrap();
    assert_eq!(bytes, "0123456789ab");
    assert_eq!(held.metadata().unwrap().nlink(), 0);

    let mut names: Vec<_> = listing.map(|e| e.unwrap().file_name()).collect();
    names.push(first);
    assert_eq!(names, ["2026"]);
    drop((call, held, reader));

    // What was closed under the successor is closed: it can be archived and released.
    let status = mount.status();
    assert_eq!(status["mode"], if passthrough == "auto" { "passthrough" } else { "plain" });
    let ran = mount.cli(["archive".as_ref(), path.as_os_str()]);
    assert!(ran.status.success(), "{ran:?}\n{}", mount.said());
    let ran = mount.cli(["release".as_ref(), path.as_os_str()]);
    assert!(ran.status.success(), "{ran:?}\n{}", mount.said());
    assert_eq!(fs::read(&path).unwrap(), b"before after");
    assert_eq!(fs::metadata(&path).unwrap().ino(), ino);
    // Nothing is left of the file without a name.
    let left =
        File::open(mount.mountpoint.join("2026")).and_then(|_| fs::read_dir(&mount.mountpoint));
    assert_eq!(left.unwrap().count(), 1);
}

#[test]
fn open_files_survive_a_kill_in_passthrough() {
    if !support::no_mount("open_files_survive_a_kill_in_passthrough") {
        open_files_go_on("auto", Signal::KILL);
    }
}

#[test]
fn open_files_survive_a_kill_in_plain_mode() {
    if !support::no_mount("open_files_survive_a_kill_in_plain_mode") {
        open_files_go_on("never", Signal::KILL);
    }
}

#[test]
fn open_files_survive_a_kill_without_resend() {
    if !support::no_mount("open_files_survive_a_kill_without_resend") {
        open_files_go_on("relay", Signal::KILL);
    }
}

#[test]
fn open_files_survive_an_abort_in_plain_mode() {
    if !support::no_mount("open_files_survive_an_abort_in_plain_mode") {
        open_files_go_on("never", Signal::ABORT);
    }
}

#[test]
fn open_files_survive_a_restart() {
    if !support::no_mount("open_files_survive_a_restart") {
        open_files_go_on("auto", Signal::USR1);
    }
}

/// A stop with a file open: new files go to the plain directory, the open one is served until it
/// is closed.
#[test]
fn a_stop_serves_what_is_open_and_no_more() {
    if support::no_mount("a_stop_serves_what_is_open_and_no_more") {
        return;
    }
    for passthrough in ["auto", "never", "relay"] {
        let mut mount = kept(passthrough);
        let path = mount.path("call.wav");
        let call = File::create(&path).unwrap();
        call.write_all_at(b"before", 0).unwrap();
        kill_process(mount.pid(), Signal::TERM).unwrap();
        let until = Instant::now() + support::look::PATIENCE;
        while is_mounted(&mount.mountpoint) {
            assert!(Instant::now() < until, "still mounted\n{}", mount.said());
            std::thread::sleep(Duration::from_millis(5));
        }
        fs::write(mount.path("plain.wav"), b"x").unwrap();
        call.write_all_at(b"after", 6).unwrap();
        call.sync_all().unwrap();
        drop(call);
        mount.stop();
        assert_eq!(fs::read(&path).unwrap(), b"beforeafter");
        assert!(mount.said().contains("files are open"), "{}", mount.said());
    }
}

/// An older program refuses a newer catalog, and leaves the mount to whoever comes next: in time
/// that is the right program again, else the keeper takes the mount away.
#[test]
fn an_older_daemon_leaves_the_mount_of_a_newer_one_alone() {
    if support::no_mount("an_older_daemon_leaves_the_mount_of_a_newer_one_alone") {
        return;
    }
    let options: &[&str] = &["--restart-delay", "200ms", "--failures", "1000"];
    let mount = Setup { keeper: Some(options), ..Setup::default() }.mount();
    let mut call = File::create(mount.path("call.wav")).unwrap();
    call.write_all(b"before ").unwrap();
    let version = |change: i64| {
        let db = rusqlite::Connection::open(mount.state.join("catalog.db")).unwrap();
        db.busy_timeout(Duration::from_secs(5)).unwrap();
        let now: i64 = db.pragma_query_value(None, "user_version", |row| row.get(0)).unwrap();
        db.pragma_update(None, "user_version", now + change).unwrap();
    };
    let before = mount.server().expect("it runs");
    version(1);
    kill_process(before, Signal::KILL).unwrap();
    let until = Instant::now() + support::look::PATIENCE;
    while mount.said().matches("newer").count() < 2 {
        assert!(Instant::now() < until, "{}", mount.said());
        std::thread::sleep(Duration::from_millis(10));
    }
    assert!(is_mounted(&mount.mountpoint), "{}", mount.said());
    version(-1);
    call.write_all(b"after").unwrap();
    drop(call);
    assert_eq!(fs::read(mount.path("call.wav")).unwrap(), b"before after", "{}", mount.said());
    assert_eq!(mount.status()["link"]["taken_over"], 1);
}
