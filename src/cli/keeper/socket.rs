//! The notify socket: where it is, and which datagrams count.

use crate::limits;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SocketAddrUnix,
    SocketFlags, SocketType, UCred,
};
use std::fs::DirBuilder;
use std::io::{self, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};

/// A socket in a directory of its own; both go when it is dropped.
#[derive(Debug)]
pub(super) struct NotifySocket {
    socket: OwnedFd,
    directory: PathBuf,
}

/// One datagram.
#[derive(Debug)]
pub(super) struct Datagram {
    /// Its text.
    pub text: String,
    /// What came with it.
    pub descriptors: Vec<OwnedFd>,
    /// Who sent it, as the kernel knows.
    sender: Option<UCred>,
}

impl NotifySocket {
    /// Binds a socket in a new directory in `parent` that nobody else can enter.
    ///
    /// # Errors
    /// As `mkdir(2)` and `bind(2)`.
    pub fn bind(parent: &Path) -> io::Result<NotifySocket> {
        let name = format!("spoolfs-keeper.{}.{:08x}", std::process::id(), fastrand::u32(..));
        let directory = parent.join(name);
        DirBuilder::new().mode(0o700).create(&directory)?;
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::DGRAM, flags, None)?;
        // From here on the directory is taken away again when something fails.
        let bound = NotifySocket { socket, directory };
        rustix::net::sockopt::set_socket_passcred(&bound.socket, true)?;
        rustix::net::bind(&bound.socket, &SocketAddrUnix::new(bound.path())?)?;
        Ok(bound)
    }

    /// For `$NOTIFY_SOCKET`.
    pub fn path(&self) -> PathBuf {
        self.directory.join("notify")
    }

    /// A copy of the socket to wait on.
    ///
    /// # Errors
    /// Out of descriptors.
    pub fn to_wait_on(&self) -> io::Result<UnixDatagram> {
        self.socket.try_clone().map(UnixDatagram::from)
    }

    /// The next datagram, if there is one.
    ///
    /// # Errors
    /// As `recvmsg(2)`; `WouldBlock` if there is none.
    pub fn receive(&self) -> io::Result<Datagram> {
        let mut text = [0; limits::NOTIFICATION_BYTES_MAX];
        // The kernel takes at most 253 descriptors with one datagram.
        let mut space =
            [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(253), ScmCredentials(1))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let flags = RecvFlags::CMSG_CLOEXEC | RecvFlags::DONTWAIT;
        let mut buffer = [IoSliceMut::new(&mut text)];
        let got = rustix::io::retry_on_intr(|| {
            rustix::net::recvmsg(&self.socket, &mut buffer, &mut control, flags)
        })?;
        let mut descriptors = Vec::new();
        let mut sender = None;
        for message in control.drain() {
            match message {
                RecvAncillaryMessage::ScmRights(all) => descriptors.extend(all),
                RecvAncillaryMessage::ScmCredentials(credentials) => sender = Some(credentials),
                _ => {}
            }
        }
        let bytes = text.get(..got.bytes).unwrap_or_default();
        Ok(Datagram { text: String::from_utf8_lossy(bytes).into_owned(), descriptors, sender })
    }
}

impl Drop for NotifySocket {
    fn drop(&mut self) {
        let _never_bound = std::fs::remove_file(self.path());
        if let Err(error) = std::fs::remove_dir(&self.directory) {
            tracing::warn!(%error, directory = %self.directory.display(), "is left behind");
        }
    }
}

impl Datagram {
    /// Whether it comes from root, or from `child` or a descendant of it.
    pub fn is_from(&self, child: Option<i32>) -> bool {
        let Some(sender) = self.sender else { return false };
        sender.uid.is_root() || child.is_some_and(|child| descends(sender.pid.as_raw_pid(), child))
    }
}

fn descends(pid: i32, from: i32) -> bool {
    let mut at = pid;
    for _ in 0..limits::ANCESTORS_MAX {
        if at == from {
            return true;
        }
        match parent(at) {
            Some(parent) if parent > 0 => at = parent,
            _ => return false,
        }
    }
    false
}

/// proc_pid_stat(5): the parent follows the state, which follows the name in brackets.
fn parent(pid: i32) -> Option<i32> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, after_name) = stat.rsplit_once(')')?;
    after_name.split_whitespace().nth(1)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::daemon::notify::send_to;
    use rustix::process::{Gid, Pid, Uid};
    use std::os::fd::AsFd;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn datagrams_arrive_with_what_they_bring_and_nothing_stays_behind() {
        let dir = tempfile::tempdir().expect("a directory");
        let socket = NotifySocket::bind(dir.path()).expect("bound");
        let mode = std::fs::metadata(&socket.directory).expect("there").permissions().mode();
        assert_eq!(mode & 0o777, 0o700);
        assert_eq!(socket.receive().expect_err("none").kind(), io::ErrorKind::WouldBlock);
        let file = tempfile::tempfile().expect("a file");
        send_to(socket.path().as_os_str(), "FDSTORE=1", Some(file.as_fd())).expect("sent");
        let datagram = socket.receive().expect("one");
        assert_eq!((datagram.text.as_str(), datagram.descriptors.len()), ("FDSTORE=1", 1));
        let own = i32::try_from(std::process::id()).expect("small");
        assert!(datagram.is_from(Some(own)));
        drop(socket);
        assert_eq!(std::fs::read_dir(dir.path()).expect("there").count(), 0);
    }

    #[test]
    fn only_root_and_descendants_of_the_child_are_heard() {
        let own = i32::try_from(std::process::id()).expect("small");
        let parent = parent(own).expect("everyone has one");
        let from = |uid, pid| Datagram {
            text: String::new(),
            descriptors: Vec::new(),
            sender: Some(UCred {
                pid: Pid::from_raw(pid).expect("a process"),
                uid: Uid::from_raw(uid),
                gid: Gid::from_raw(uid),
            }),
        };
        assert!(from(0, own).is_from(None));
        assert!(!from(1000, own).is_from(None));
        assert!(from(1000, own).is_from(Some(own)));
        assert!(from(1000, own).is_from(Some(parent)));
        assert!(!from(1000, parent).is_from(Some(own)));
        assert!(!from(1000, i32::MAX).is_from(Some(own)));
        let unknown = Datagram { text: String::new(), descriptors: Vec::new(), sender: None };
        assert!(!unknown.is_from(Some(own)));
    }
}
