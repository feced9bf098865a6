//! `spoolfs bypass` on real mounts: of a daemon that runs, of one that hangs, of none at all.
#![allow(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

mod support;

use rustix::fs::{Mode, OFlags};
use rustix::mount::{MountFlags, UnmountFlags};
use rustix::process::{Signal, kill_process};
use std::ffi::CString;
use std::io::Write;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};
use support::mount::{Mount, Setup, is_mounted};
use support::no_mount;
use support::run::{Ran, run};

/// Far less than a hung mount would take: for ever.
const SOON: Duration = support::look::PATIENCE;

fn bypass(arguments: &[&str]) -> Ran {
    run(Command::new(env!("CARGO_BIN_EXE_spoolfs")).arg("bypass").args(arguments), SOON)
}

/// A mount of our type whose daemon never answers anything, not even the kernel's greeting.
struct Hung {
    point: PathBuf,
    _devices: Vec<OwnedFd>,
}

impl Hung {
    fn on(point: &Path, times: usize) -> Hung {
        let devices = (0..times).map(|_| Hung::once(point)).collect();
        Hung { point: point.to_owned(), _devices: devices }
    }

    fn once(point: &Path) -> OwnedFd {
        let device = rustix::fs::open("/dev/fuse", OFlags::RDWR, Mode::empty()).unwrap();
        let options = format!("fd={},rootmode=40000,user_id=0,group_id=0", device.as_raw_fd());
        let options = CString::new(options).unwrap();
        rustix::mount::mount("spoolfs", point, "fuse.spoolfs", MountFlags::empty(), &*options)
            .unwrap();
        device
    }
}

impl Drop for Hung {
    fn drop(&mut self) {
        while is_mounted(&self.point)
            && rustix::mount::unmount(&self.point, UnmountFlags::DETACH).is_ok()
        {}
    }
}

fn scratch() -> (tempfile::TempDir, PathBuf, String) {
    let dir = tempfile::tempdir().unwrap();
    let point = dir.path().canonicalize().unwrap().join("monitor");
    std::fs::create_dir(&point).unwrap();
    std::fs::write(point.join("plain"), "x").unwrap();
    let text = point.to_str().unwrap().to_owned();
    (dir, point, text)
}

#[test]
fn bypass_uncovers_the_plain_directory_and_tells_it_until_the_next_mount() {
    if no_mount("bypass_uncovers_the_plain_directory_and_tells_it_until_the_next_mount") {
        return;
    }
    let mut mount = Setup::default().mount();
    let mut open = std::fs::File::create(mount.path("open.wav")).unwrap();
    open.write_all(b"before").unwrap();
    let ran = mount.cli(["bypass"]).ok();
    assert!(ran.err.contains("RECORDINGS ARE NOT ARCHIVED"), "{}", ran.err);
    assert!(!is_mounted(&mount.mountpoint));
    // A recording in progress goes on in its open file, and the next one lands beside it.
    open.write_all(b" after").unwrap();
    std::fs::write(mount.path("next.wav"), "next").unwrap();
    drop(open);
    assert_eq!(std::fs::read(mount.path("open.wav")).unwrap(), b"before after");

    ends(&mut mount);
    let ran = mount.cli(["status"]);
    assert!(!ran.status.success());
    assert!(ran.err.contains("RECORDINGS ARE NOT ARCHIVED"), "{}", ran.err);

    mount.forget_dead();
    mount.start();
    assert_eq!(std::fs::read(mount.path("next.wav")).unwrap(), b"next");
    mount.stop();
    let ran = mount.cli(["status"]);
    assert!(!ran.err.contains("NOT ARCHIVED"), "the alarm is over: {}", ran.err);
}

#[track_caller]
fn ends(mount: &mut Mount) {
    let until = Instant::now() + support::look::PATIENCE;
    while mount.exited().is_none() {
        assert!(Instant::now() < until, "nothing is left to serve\n{}", mount.said());
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// It was never cleared if a mount was taken away while the next one was on its way.
#[test]
fn regression_a_note_of_the_mount_before_is_over_however_late_it_comes() {
    if no_mount("regression_a_note_of_the_mount_before_is_over_however_late_it_comes") {
        return;
    }
    let mut mount = Setup::default().mount();
    mount.cli(["bypass"]).ok();
    ends(&mut mount);
    let note = mount.runtime.join("bypassed.json");
    let left = std::fs::read(&note).unwrap();
    mount.forget_dead();
    mount.start();
    let until = Instant::now() + support::look::PATIENCE;
    while note.exists() {
        assert!(Instant::now() < until, "it is ready\n{}", mount.said());
        std::thread::sleep(Duration::from_millis(20));
    }
    std::fs::write(&note, left).unwrap();
    mount.stop();
    let ran = mount.cli(["status"]);
    assert!(!ran.err.contains("NOT ARCHIVED"), "the alarm is over: {}", ran.err);
}

/// Killed where nobody keeps its descriptors, and started again at once: for a second the kernel
/// remembers the attributes of the dead mount's root.
#[test]
fn regression_a_dead_mount_that_was_just_looked_at_is_taken_away() {
    if no_mount("regression_a_dead_mount_that_was_just_looked_at_is_taken_away") {
        return;
    }
    let mut mount = Setup::default().mount();
    std::fs::write(mount.path("call.wav"), "call").unwrap();
    rustix::fs::stat(&mount.mountpoint).unwrap();
    kill_process(mount.pid(), Signal::KILL).unwrap();
    ends(&mut mount);
    mount.forget_dead();
    mount.start();
    assert_eq!(std::fs::read(mount.path("call.wav")).unwrap(), b"call");
}

#[test]
fn commands_speak_of_the_mount_point_that_mount_was_given() {
    if no_mount("commands_speak_of_the_mount_point_that_mount_was_given") {
        return;
    }
    let mut mount = Setup::default().prepare();
    let configured = std::mem::replace(&mut mount.mountpoint, mount.root.join("elsewhere"));
    std::fs::create_dir(&mount.mountpoint).unwrap();
    mount.arguments = vec!["--mountpoint".into(), mount.mountpoint.clone().into()];
    mount.start();
    let call = mount.path("call.wav");
    std::fs::write(&call, "call").unwrap();
    support::look::closed(&call);
    mount.cli(["archive".as_ref(), call.as_os_str()]).ok();
    mount.cli(["release".as_ref(), call.as_os_str()]).ok();
    assert_eq!(support::look::state(&call), "released");
    let ran = mount.cli(["check"]).ok();
    assert!(ran.out.contains(&format!("{} is mounted", mount.mountpoint.display())), "{}", ran.out);
    mount.cli(["recall".as_ref(), call.as_os_str()]).ok();
    mount.stop();
    mount.fsck();
    mount.start();
    mount.cli(["bypass"]).ok();
    assert!(!is_mounted(&mount.mountpoint));

    ends(&mut mount);
    mount.forget_dead();
    mount.arguments.clear();
    let given = std::mem::replace(&mut mount.mountpoint, configured);
    mount.start();
    let ran = mount.cli(["archive".as_ref(), given.as_os_str()]);
    assert_eq!(ran.status.code(), Some(2), "the configured one counts again: {}", ran.out);
    mount.cli(["archive".as_ref(), mount.mountpoint.as_os_str()]).ok();
}

#[test]
fn bypass_does_not_wait_for_a_daemon_that_hangs() {
    if no_mount("bypass_does_not_wait_for_a_daemon_that_hangs") {
        return;
    }
    let mount = Setup::default().mount();
    kill_process(mount.pid(), Signal::STOP).unwrap();
    // This hangs in the mount, as the PBX would.
    let path = mount.path("hangs");
    let looker = std::thread::spawn(move || std::fs::metadata(path).map(|_| ()));
    let ran = mount.cli(["bypass"]);
    kill_process(mount.pid(), Signal::CONT).unwrap();
    ran.ok();
    assert!(!is_mounted(&mount.mountpoint));
    std::fs::write(mount.path("call.wav"), "recorded").unwrap();
    let _either_way = looker.join().unwrap();
}

#[test]
fn bypass_needs_no_sound_configuration() {
    if no_mount("bypass_needs_no_sound_configuration") {
        return;
    }
    let (dir, point, text) = scratch();
    let _hung = Hung::on(&point, 1);
    let config = dir.path().join("broken.toml");
    let run = || bypass(&["--config", config.to_str().unwrap()]);
    assert_eq!(run().status.code(), Some(2), "there is no file");
    std::fs::write(&config, "node = pbx 1\n[target\n").unwrap();
    let ran = run();
    assert_eq!(ran.status.code(), Some(2));
    assert!(ran.err.contains("--mountpoint"), "{}", ran.err);
    assert!(is_mounted(&point));
    std::fs::write(&config, format!("mountpoint = \"{text}\"\nnode = pbx 1\n[target\n")).unwrap();
    run().ok();
    assert!(!is_mounted(&point));
}

#[test]
fn bypass_takes_a_whole_stack_away() {
    if no_mount("bypass_takes_a_whole_stack_away") {
        return;
    }
    let (_dir, point, text) = scratch();
    let _hung = Hung::on(&point, 3);
    let ran = bypass(&["--mountpoint", &text, "--json"]).ok();
    let report: serde_json::Value = serde_json::from_str(&ran.out).unwrap();
    assert_eq!(report["detached"], 3, "{report}");
    assert_eq!(std::fs::read(point.join("plain")).unwrap(), b"x");
    let ran = bypass(&["--mountpoint", &text]).ok();
    assert!(ran.out.contains("Nothing of spoolfs"), "{}", ran.out);
}

#[test]
fn bypass_leaves_mounts_of_others_alone() {
    if no_mount("bypass_leaves_mounts_of_others_alone") {
        return;
    }
    let (_dir, point, text) = scratch();
    let tmpfs = || {
        rustix::mount::mount("none", &point, "tmpfs", MountFlags::empty(), None).unwrap();
    };
    tmpfs();
    let hung = Hung::on(&point, 1);
    tmpfs();
    let ran = bypass(&["--mountpoint", &text]);
    assert_eq!(ran.status.code(), Some(1), "{}{}", ran.out, ran.err);
    assert!(ran.err.contains("tmpfs"), "{}", ran.err);
    rustix::mount::unmount(&point, UnmountFlags::empty()).unwrap();
    bypass(&["--mountpoint", &text]).ok();
    assert!(is_mounted(&point), "the tmpfs below ours is not ours");
    bypass(&["--mountpoint", &text]).ok();
    assert!(is_mounted(&point));
    drop(hung);
}

/// A stand-in for `systemctl` that gives one answer and notes what it was asked.
fn systemctl(dir: &Path, answer: &str) {
    let program = dir.join("systemctl");
    let text = format!("#!/bin/sh\necho \"$*\" >>{0}/asked\n{answer}\n", dir.display());
    std::fs::write(&program, text).unwrap();
    std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
}

#[test]
fn bypass_after_an_end_waits_for_nobody_who_comes_back() {
    if no_mount("bypass_after_an_end_waits_for_nobody_who_comes_back") {
        return;
    }
    let (dir, point, text) = scratch();
    let _hung = Hung::on(&point, 1);
    let config = dir.path().join("spoolfs.toml");
    let run_dir = dir.path().join("run").display().to_string();
    std::fs::write(&config, format!("mountpoint = \"{text}\"\nruntime_dir = \"{run_dir}\"\n"))
        .unwrap();
    let unit = "spoolfs@x.service";
    let end = |answer: &str, result: &str, status: &str| {
        systemctl(dir.path(), answer);
        let path = format!("{}:{}", dir.path().display(), std::env::var("PATH").unwrap());
        let mut command = Command::new(env!("CARGO_BIN_EXE_spoolfs"));
        command.args(["bypass", "--unless-restarting", unit, "--config"]).arg(&config);
        command.env("PATH", path).env("SERVICE_RESULT", result).env("EXIT_STATUS", status);
        run(&mut command, SOON).ok();
        is_mounted(&point)
    };
    let asked = || std::fs::read_to_string(dir.path().join("asked")).unwrap();
    assert!(end("true", "signal", "KILL"), "a kill is taken over");
    assert!(end(&format!("echo 7 {unit} restart running"), "success", "0"));
    assert!(end("exit 1", "success", "0"), "unknown: most ends are restarts");
    assert!(end("exec sleep 60", "success", "0"), "the same if nobody answers");
    assert!(end("true", "exit-code", "1"), "a crash is taken over");
    assert!(end("true", "exit-code", "1"), "the next, too");
    assert!(!asked().contains("stop"), "{}", asked());
    assert!(!end("true", "exit-code", "1"), "the third is one too many");
    assert!(asked().ends_with("stop --no-block spoolfs@x.service\n"), "{}", asked());

    let _again = Hung::on(&point, 1);
    assert!(end("true", "exit-code", "1"), "counted anew");
    assert!(!end(&format!("echo 7 {unit} stop running"), "success", "0"), "a stop is for good");
    let _again = Hung::on(&point, 1);
    assert!(!end("true", "timeout", "KILL"), "a start that hung");
    assert!(asked().ends_with("stop --no-block spoolfs@x.service\n"), "{}", asked());
}
