//! Talking to the service manager: sd_notify(3) for what it is told, sd_listen_fds(3) for the
//! descriptors it kept for us. `spoolfs keeper` speaks the same protocol.

use crate::limits;
use crate::sys;
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::net::{
    AddressFamily, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketAddrUnix,
    SocketFlags, SocketType,
};
use std::ffi::OsStr;
use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::time::Duration;

/// Longest name of a kept descriptor (sd_pid_notify_with_fds(3), FDNAME=).
const NAME_BYTES_MAX: usize = 255;

/// Sends a state such as `READY=1`. Without a `$NOTIFY_SOCKET` nothing happens.
pub(crate) fn notify(state: &str) {
    if let Err(error) = send(state, None) {
        tracing::warn!(%error, "the service manager could not be notified");
    }
}

/// The descriptors that were kept for this process, with their names. Only the first call gets
/// them; `$LISTEN_PID` must be this process. They are closed at an exec.
pub(crate) fn inherited() -> Vec<(String, OwnedFd)> {
    let variable = |name: &str| std::env::var(name).ok();
    let names = promised(
        variable("LISTEN_PID").as_deref(),
        variable("LISTEN_FDS").as_deref(),
        variable("LISTEN_FDNAMES").as_deref(),
        std::process::id(),
    );
    let descriptors = match sys::descriptors_from_exec(names.len()) {
        Ok(descriptors) => descriptors,
        Err(error) => {
            tracing::error!(%error, "the descriptors that were kept for us can not be used");
            return Vec::new();
        }
    };
    names.into_iter().zip(descriptors).collect()
}

/// The names of the descriptors that the environment says are there, from the third on.
fn promised(
    pid: Option<&str>,
    count: Option<&str>,
    names: Option<&str>,
    own_pid: u32,
) -> Vec<String> {
    if pid.and_then(|pid| pid.parse().ok()) != Some(own_pid) {
        return Vec::new();
    }
    let count = count.and_then(|count| count.parse::<usize>().ok()).unwrap_or(0);
    let names = names.unwrap_or_default().split(':').map(str::to_owned);
    let unnamed = std::iter::repeat_with(|| "unknown".to_owned());
    names
        .filter(|name| !name.is_empty())
        .chain(unnamed)
        .take(count.min(limits::KEPT_DESCRIPTORS_MAX))
        .collect()
}

/// Gives a descriptor to the service manager to keep, also beyond the death of this process.
/// `false` if there is none.
///
/// # Errors
/// A name that is empty, too long or holds a colon; or the datagram could not be sent.
pub(crate) fn store(name: &str, descriptor: BorrowedFd<'_>) -> io::Result<bool> {
    check_name(name)?;
    send(&format!("FDSTORE=1\nFDNAME={name}"), Some(descriptor))
}

/// Lets the service manager close what it keeps under this name.
pub(crate) fn remove(name: &str) {
    notify(&format!("FDSTOREREMOVE=1\nFDNAME={name}"));
}

/// Waits until the service manager has read everything sent so far: what was stored before is
/// kept from here on.
///
/// # Errors
/// `TimedOut`, or the datagram could not be sent.
pub(crate) fn barrier(timeout: Duration) -> io::Result<()> {
    let (seen, theirs) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
    if !send("BARRIER=1", Some(theirs.as_fd()))? {
        return Ok(());
    }
    drop(theirs);
    // The other end is closed when the datagram was read and thrown away.
    let timeout = Timespec::try_from(timeout).map_err(io::Error::other)?;
    let mut wait = [PollFd::new(&seen, PollFlags::empty())];
    match rustix::io::retry_on_intr(|| rustix::event::poll(&mut wait, Some(&timeout)))? {
        0 => Err(io::Error::new(
            io::ErrorKind::TimedOut,
            "the service manager did not read its notifications in time",
        )),
        _ => Ok(()),
    }
}

/// How often `WATCHDOG=1` is expected, if at all: half of what the service manager would wait.
pub(crate) fn watchdog() -> Option<Duration> {
    let variable = |name: &str| std::env::var(name).ok();
    let (limit, pid) = (variable("WATCHDOG_USEC"), variable("WATCHDOG_PID"));
    watchdog_interval(limit.as_deref(), pid.as_deref(), std::process::id())
}

fn watchdog_interval(limit: Option<&str>, pid: Option<&str>, own_pid: u32) -> Option<Duration> {
    if pid.is_some_and(|pid| pid.parse() != Ok(own_pid)) {
        return None;
    }
    let limit = Duration::from_micros(limit?.parse().ok()?);
    (!limit.is_zero()).then_some(limit / 2)
}

fn check_name(name: &str) -> io::Result<()> {
    let usable = |c: char| c.is_ascii() && !c.is_ascii_control() && c != ':';
    if name.is_empty() || name.len() > NAME_BYTES_MAX || !name.chars().all(usable) {
        let message = format!("{name:?} can not be the name of a kept descriptor");
        return Err(io::Error::new(io::ErrorKind::InvalidInput, message));
    }
    Ok(())
}

fn send(state: &str, descriptor: Option<BorrowedFd<'_>>) -> io::Result<bool> {
    match std::env::var_os("NOTIFY_SOCKET") {
        Some(socket) => send_to(&socket, state, descriptor).map(|()| true),
        None => Ok(false),
    }
}

/// One datagram to a notify socket: a path, or an abstract name after `@`.
///
/// # Errors
/// As `sendmsg(2)`.
pub(crate) fn send_to(
    socket: &OsStr,
    state: &str,
    descriptor: Option<BorrowedFd<'_>>,
) -> io::Result<()> {
    let address = match socket.as_bytes().strip_prefix(b"@") {
        Some(name) => SocketAddrUnix::new_abstract_name(name)?,
        None => SocketAddrUnix::new(socket)?,
    };
    let flags = SocketFlags::CLOEXEC;
    let from = rustix::net::socket_with(AddressFamily::UNIX, SocketType::DGRAM, flags, None)?;
    // A manager that has stopped reading must not stop its service.
    rustix::net::sockopt::set_socket_timeout(
        &from,
        rustix::net::sockopt::Timeout::Send,
        Some(limits::NOTIFY_WAIT),
    )?;
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let descriptor = descriptor.as_slice();
    if !descriptor.is_empty() && !control.push(SendAncillaryMessage::ScmRights(descriptor)) {
        return Err(io::Error::other("no room for a descriptor in the datagram"));
    }
    let text = [IoSlice::new(state.as_bytes())];
    rustix::net::sendmsg_addr(&from, &address, &text, &mut control, SendFlags::NOSIGNAL)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;
    use std::io::{IoSliceMut, Read, Write};
    use std::os::unix::net::UnixDatagram;
    use std::process::Command;
    use std::time::Instant;

    /// A service manager of the test's own.
    struct Manager {
        dir: tempfile::TempDir,
        socket: UnixDatagram,
    }

    impl Manager {
        fn new() -> Manager {
            let dir = tempfile::tempdir().expect("a directory");
            let socket = UnixDatagram::bind(dir.path().join("notify")).expect("a socket");
            socket.set_read_timeout(Some(Duration::from_secs(10))).expect("a timeout");
            Manager { dir, socket }
        }

        /// Runs a test of this module by itself in a process that has this manager.
        fn service(&self, test: &str) -> Command {
            let mut command = Command::new(std::env::current_exe().expect("the test itself"));
            command.args(["--exact", &format!("daemon::notify::tests::{test}"), "--ignored"]);
            command.env("NOTIFY_SOCKET", self.dir.path().join("notify"));
            command
        }

        fn receive(&self) -> (String, Vec<OwnedFd>) {
            use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags};
            let mut text = [0; 512];
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(4))];
            let mut control = RecvAncillaryBuffer::new(&mut space);
            let mut buffer = [IoSliceMut::new(&mut text)];
            let got = rustix::net::recvmsg(
                &self.socket,
                &mut buffer,
                &mut control,
                RecvFlags::CMSG_CLOEXEC,
            )
            .expect("a datagram");
            let descriptors = control
                .drain()
                .filter_map(|m| match m {
                    RecvAncillaryMessage::ScmRights(all) => Some(all),
                    _ => None,
                })
                .flatten()
                .collect();
            (String::from_utf8_lossy(&text[..got.bytes]).into_owned(), descriptors)
        }
    }

    fn succeeds(command: &mut Command) {
        let output = command.output().expect("it runs");
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
        assert!(text.contains("1 passed"), "no test of this name: {text}");
    }

    #[test]
    #[ignore = "the service of a_descriptor_is_stored"]
    fn stores_a_descriptor() {
        let mut file = tempfile::tempfile().expect("a file");
        file.write_all(b"kept").expect("written");
        assert!(store("fuse", file.as_fd()).expect("stored"));
        remove("fuse");
    }

    #[test]
    fn a_descriptor_is_stored() {
        use std::os::unix::fs::FileExt;
        let manager = Manager::new();
        succeeds(&mut manager.service("stores_a_descriptor"));
        let (state, mut descriptors) = manager.receive();
        assert_eq!(state, "FDSTORE=1\nFDNAME=fuse");
        assert_eq!(descriptors.len(), 1);
        let mut text = [0; 4];
        File::from(descriptors.remove(0)).read_exact_at(&mut text, 0).expect("the service's file");
        assert_eq!(&text, b"kept");
        let (state, descriptors) = manager.receive();
        assert_eq!((state.as_str(), descriptors.len()), ("FDSTOREREMOVE=1\nFDNAME=fuse", 0));
    }

    #[test]
    fn without_a_manager_nothing_is_stored() {
        // The test runner itself has no $NOTIFY_SOCKET.
        let file = tempfile::tempfile().expect("a file");
        assert!(!store("fuse", file.as_fd()).expect("no failure"));
        barrier(Duration::from_millis(1)).expect("nobody to wait for");
    }

    #[test]
    fn unusable_names_are_refused() {
        let file = tempfile::tempfile().expect("a file");
        for name in ["", "a:b", "a\nb", "b\u{fc}", &"x".repeat(256)] {
            let error = store(name, file.as_fd()).expect_err(name);
            assert_eq!(error.kind(), io::ErrorKind::InvalidInput, "{name:?}");
        }
    }

    #[test]
    #[ignore = "the service of a_barrier_does_not_wait_for_ever"]
    fn gives_up_at_a_barrier() {
        let began = Instant::now();
        let error = barrier(Duration::from_millis(50)).expect_err("nobody reads");
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        assert!(began.elapsed() >= Duration::from_millis(50));
    }

    #[test]
    fn a_barrier_does_not_wait_for_ever() {
        let manager = Manager::new();
        succeeds(&mut manager.service("gives_up_at_a_barrier"));
    }

    #[test]
    #[ignore = "the service of a_barrier_waits_until_it_was_read"]
    fn waits_at_a_barrier() {
        notify("STATUS=before");
        barrier(Duration::from_secs(20)).expect("read");
        notify("STATUS=after");
    }

    #[test]
    fn a_barrier_waits_until_it_was_read() {
        let manager = Manager::new();
        let mut service = manager.service("waits_at_a_barrier");
        let service = std::thread::spawn(move || succeeds(&mut service));
        assert_eq!(manager.receive().0, "STATUS=before");
        let (state, pipe) = manager.receive();
        assert_eq!((state.as_str(), pipe.len()), ("BARRIER=1", 1));
        manager.socket.set_read_timeout(Some(Duration::from_millis(50))).expect("a timeout");
        assert!(manager.socket.recv(&mut [0; 8]).is_err(), "it did not wait");
        manager.socket.set_read_timeout(Some(Duration::from_secs(20))).expect("a timeout");
        drop(pipe);
        assert_eq!(manager.receive().0, "STATUS=after");
        service.join().expect("it went on");
    }

    #[test]
    fn what_is_promised_is_only_believed_when_it_is_ours() {
        let promised = |pid, count, names| promised(pid, count, names, 7);
        assert_eq!(promised(Some("7"), Some("2"), Some("fuse:lower")), ["fuse", "lower"]);
        assert_eq!(promised(Some("7"), Some("2"), Some("fuse")), ["fuse", "unknown"]);
        assert_eq!(promised(Some("7"), Some("1"), None), ["unknown"]);
        assert_eq!(promised(Some("7"), Some("9999999"), None).len(), limits::KEPT_DESCRIPTORS_MAX);
        for (pid, count) in [(Some("8"), Some("2")), (None, Some("2")), (Some("7"), None)] {
            assert!(promised(pid, count, Some("fuse:lower")).is_empty());
        }
        assert!(promised(Some("7"), Some("-1"), Some("fuse")).is_empty());
    }

    #[test]
    #[ignore = "the service of kept_descriptors_come_back_once"]
    fn takes_what_was_kept() {
        let kept = inherited();
        let names: Vec<_> = kept.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["fuse", "lower"]);
        for (name, descriptor) in kept {
            let flags = rustix::io::fcntl_getfd(&descriptor).expect("it is open");
            assert!(flags.contains(rustix::io::FdFlags::CLOEXEC), "{name} would leak");
            let mut text = String::new();
            File::from(descriptor).read_to_string(&mut text).expect("it is readable");
            assert_eq!(text, name);
        }
        assert!(inherited().is_empty(), "they were taken already");
    }

    /// A shell places the descriptors as a service manager would, and keeps its process id.
    fn handed_over(manager: &Manager, test: &str) -> Command {
        let service = manager.service(test);
        let mut shell = Command::new("sh");
        shell.arg("-c").arg(
            "printf fuse >fuse; printf lower >lower
             LISTEN_PID=$$ LISTEN_FDS=2 LISTEN_FDNAMES=fuse:lower exec \"$@\" 3<fuse 4<lower",
        );
        shell.arg("sh").arg(service.get_program()).args(service.get_args());
        shell.current_dir(manager.dir.path());
        shell
    }

    #[test]
    fn kept_descriptors_come_back_once() {
        let manager = Manager::new();
        succeeds(&mut handed_over(&manager, "takes_what_was_kept"));
    }

    #[test]
    fn the_watchdog_is_fed_twice_as_often_as_it_bites() {
        let interval = |limit, pid| watchdog_interval(limit, pid, 7);
        let second = Some(Duration::from_secs(1));
        assert_eq!(interval(Some("2000000"), Some("7")), second);
        assert_eq!(interval(Some("2000000"), None), second);
        assert_eq!(interval(Some("2000000"), Some("8")), None);
        assert_eq!(interval(Some("0"), Some("7")), None);
        assert_eq!(interval(None, Some("7")), None);
        assert_eq!(interval(Some("often"), None), None);
    }
}
