//! What a reading of the take-over found, one case at a time.

use super::support;
use super::support::mount::{Mount, Setup, is_mounted};
use super::takeover::{kept, replace, successor};
use rustix::fs::OFlags;
use rustix::mount::{MountFlags, UnmountFlags};
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags};
use rustix::process::{Pid, Signal, kill_process, test_kill_process};
use spoolfs::sys::{Lease, ignore_sigio, lease_take};
use std::fs::{self, File, OpenOptions};
use std::io::{IoSliceMut, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

#[track_caller]
pub fn wait_for<T>(mount: &Mount, what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let until = Instant::now() + support::look::PATIENCE;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < until, "{what}\n{}", mount.said());
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Ends with the test, whatever comes of it.
struct Daemon(Child);

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Takes a message, and what came with it.
fn hear(manager: &UnixDatagram, kept: &mut Vec<OwnedFd>) -> String {
    let mut text = [0; 512];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(4))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut buffer = [IoSliceMut::new(&mut text)];
    let got = rustix::net::recvmsg(manager, &mut buffer, &mut control, RecvFlags::CMSG_CLOEXEC)
        .expect("a message");
    let text = String::from_utf8_lossy(&text[..got.bytes]).into_owned();
    let came = control.drain().filter_map(|message| match message {
        RecvAncillaryMessage::ScmRights(all) => Some(all),
        _ => None,
    });
    let came: Vec<OwnedFd> = came.flatten().collect();
    if text.contains("FDSTORE=1") {
        kept.extend(came);
    }
    text
}

/// A service manager that is busy with something else for longer than the daemon waits for it.
#[test]
fn regression_a_slow_service_manager_does_not_turn_an_upgrade_into_a_stop() {
    if support::no_mount("regression_a_slow_service_manager_does_not_turn_an_upgrade_into_a_stop") {
        return;
    }
    let mount = Setup::default().prepare();
    let socket = mount.root.join("manager");
    let manager = UnixDatagram::bind(&socket).unwrap();
    manager.set_read_timeout(Some(support::look::PATIENCE)).unwrap();
    let log = File::create(&mount.log).unwrap();
    let child = Command::new(&mount.program)
        .args(["mount".as_ref(), "--config".as_ref(), mount.config.as_os_str()])
        .env("NOTIFY_SOCKET", &socket)
        .stdin(Stdio::null())
        .stdout(log.try_clone().unwrap())
        .stderr(log)
        .spawn()
        .unwrap();
    let mut daemon = Daemon(child);
    wait_for(&mount, "it has waited in vain", || {
        mount.said().contains("did not read its notifications in time").then_some(())
    });
    let mut kept = Vec::new();
    while !hear(&manager, &mut kept).contains("READY=1") {}
    assert_eq!(kept.len(), 2);
    kill_process(Pid::from_child(&daemon.0), Signal::USR1).unwrap();
    let status = wait_for(&mount, "it did not end", || daemon.0.try_wait().unwrap());
    assert!(status.success(), "{}", mount.said());
    assert!(is_mounted(&mount.mountpoint), "{}", mount.said());
    assert!(mount.said().contains("leaving the mount to a successor"), "{}", mount.said());
}

/// Somebody aborts the connection: the mount is in the tree and every call gets an error.
#[test]
fn regression_an_aborted_connection_leaves_no_dead_mount() {
    if support::no_mount("regression_an_aborted_connection_leaves_no_dead_mount") {
        return;
    }
    let mut mount = Setup::default().mount();
    let device = fs::metadata(&mount.mountpoint).unwrap().dev();
    let connections = mount.root.join("connections");
    fs::create_dir(&connections).unwrap();
    rustix::mount::mount("fusectl", &connections, "fusectl", MountFlags::empty(), None).unwrap();
    let abort = connections.join(rustix::fs::minor(device).to_string()).join("abort");
    let aborted = fs::write(abort, "1");
    rustix::mount::unmount(&connections, UnmountFlags::DETACH).unwrap();
    aborted.unwrap();
    let until = Instant::now() + support::look::PATIENCE;
    while mount.exited().is_none() {
        assert!(Instant::now() < until, "it did not end\n{}", mount.said());
        std::thread::sleep(Duration::from_millis(5));
    }
    assert!(!is_mounted(&mount.mountpoint), "{}", mount.said());
    fs::write(mount.path("call.wav"), b"call").unwrap();
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

/// A target that hangs: who opens the object waits until this is dropped (`fcntl(2)`, F_SETLEASE).
struct Hung(File);

impl Hung {
    fn at(object: &Path) -> Hung {
        ignore_sigio();
        let file = File::open(object).unwrap();
        lease_take(&file, Lease::Alone).unwrap();
        Hung(file)
    }

    /// Somebody waits.
    #[allow(unsafe_code, reason = "leases have no safe interface")]
    fn is_asked(&self) -> bool {
        // SAFETY: F_GETLEASE takes no argument; the descriptor is open as long as `self`.
        unsafe { libc::fcntl(self.0.as_raw_fd(), libc::F_GETLEASE) != libc::F_WRLCK }
    }
}

/// Somebody wants bytes of a released recording, whose target hangs, while the daemon is replaced.
fn waits_for_the_archive(
    mode: &str,
    signal: Signal,
    wants: fn(&Path) -> std::io::Result<Vec<u8>>,
    and_more: &[u8],
) {
    const LEN: u64 = 123_457;
    let mount = kept(mode);
    let path = mount.path("call.wav");
    let bytes: Vec<u8> = (0..LEN).map(|i| (i % 251) as u8).collect();
    fs::write(&path, &bytes).unwrap();
    for step in ["archive", "release"] {
        mount.cli([step.as_ref(), path.as_os_str()]).ok();
    }
    let mut found = Vec::new();
    objects(&mount.target, LEN, &mut found);
    let [object] = found.as_slice() else { panic!("{found:?}") };
    let hung = Hung::at(object);
    let call = std::thread::spawn({
        let path = path.clone();
        move || wants(&path)
    });
    wait_for(&mount, "nobody asks the target", || hung.is_asked().then_some(()));
    replace(&mount, signal);
    drop(hung);
    let got = call.join().unwrap();
    let whole = [&bytes[..], and_more].concat();
    assert!(
        got.as_ref().is_ok_and(|got| *got == whole),
        "{mode}: {:?}\n{}",
        got.err(),
        mount.said()
    );
    assert_eq!(mount.status()["link"]["taken_over"], 1);
}

fn append(path: &Path) -> std::io::Result<Vec<u8>> {
    OpenOptions::new().append(true).open(path)?.write_all(b"more")?;
    fs::read(path)
}

/// A call is added to it.
#[test]
fn regression_who_waits_for_the_archive_at_an_upgrade_gets_no_error() {
    if support::no_mount("regression_who_waits_for_the_archive_at_an_upgrade_gets_no_error") {
        return;
    }
    for mode in ["auto", "never", "relay"] {
        for signal in [Signal::USR1, Signal::KILL] {
            waits_for_the_archive(mode, signal, append, b"more");
        }
    }
}

/// Somebody listens to it.
#[test]
fn regression_who_reads_from_the_archive_at_an_upgrade_gets_no_error() {
    if support::no_mount("regression_who_reads_from_the_archive_at_an_upgrade_gets_no_error") {
        return;
    }
    for mode in ["auto", "never", "relay"] {
        for signal in [Signal::USR1, Signal::KILL] {
            waits_for_the_archive(mode, signal, |path| fs::read(path), b"");
        }
    }
}

/// Numbers of requests that were answered long ago: the kernel's first.
const ANSWERED: [u64; 2] = [2, 4];

/// A request as the kernel writes it (linux/fuse.h).
pub fn request(opcode: u32, node: u64, body: &[u8]) -> Vec<u8> {
    let mut request = vec![0; 40];
    request[4..8].copy_from_slice(&opcode.to_le_bytes());
    request[16..24].copy_from_slice(&node.to_le_bytes());
    request.extend_from_slice(body);
    let len = u32::try_from(request.len()).unwrap();
    request[..4].copy_from_slice(&len.to_le_bytes());
    request
}

pub fn state(path: &Path) -> String {
    let mut value = [0; 64];
    let len = rustix::fs::getxattr(path, "user.spoolfs.state", &mut value[..]).unwrap_or(0);
    String::from_utf8_lossy(&value[..len]).into_owned()
}

/// The daemon dies right after it has answered an open, before it could say so beside the request,
/// and the program closes the file in that very moment.
#[test]
fn regression_an_open_that_was_answered_and_is_repeated_leaves_nothing_open() {
    if support::no_mount("regression_an_open_that_was_answered_and_is_repeated_leaves_nothing_open")
    {
        return;
    }
    let options: &[&str] = &["--restart-delay", "1s", "--failures", "1000"];
    let top = "passthrough = \"never\"\nresend = \"never\"\n".to_owned();
    let mount = Setup { keeper: Some(options), top, ..Setup::default() }.mount();
    let path = mount.path("call.wav");
    fs::write(&path, b"call").unwrap();
    let node = fs::metadata(&path).unwrap().ino();
    let before = mount.server().expect("it runs");
    kill_process(before, Signal::KILL).unwrap();
    wait_for(&mount, "it does not die", || test_kill_process(before).is_err().then_some(()));
    let flags = |flags: OFlags| flags.bits().to_le_bytes();
    let open = [flags(OFlags::WRONLY), [0; 4]].concat();
    let create =
        [flags(OFlags::WRONLY | OFlags::CREATE), 0o100_644_u32.to_le_bytes(), [0; 4], [0; 4]];
    let create = [&create.concat()[..], b"new.wav\0"].concat();
    // The first two places for long requests, each with a number of its own.
    let requests = OpenOptions::new().write(true).open(mount.runtime.join("requests")).unwrap();
    let left = [request(14, node, &open), request(35, 1, &create)];
    for (at, (mut request, unique)) in (0..).zip(left.into_iter().zip(ANSWERED)) {
        request[8..16].copy_from_slice(&unique.to_le_bytes());
        requests.write_all_at(&request, at * ((128 << 10) + 4096)).unwrap();
    }
    successor(&mount, before);
    for path in [path, mount.path("new.wav")] {
        wait_for(&mount, &format!("{} is open", path.display()), || {
            (state(&path) == "closed").then_some(())
        });
    }
}
