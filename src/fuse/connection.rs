//! The connection to the kernel: what was agreed on when it began, kept in the runtime directory
//! so that another daemon can go on with it.

use super::Options;
use super::adapter::Adapter;
use crate::faults;
use crate::limits::FUSE_THREADS;
use fuser::{Config, InitFlags, KernelConfig, Session, SessionACL};
use serde::{Deserialize, Serialize};
use std::fs::OpenOptions;
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

/// In the runtime directory.
const FILE: &str = "connection.json";
/// Version of the file.
const FORMAT: u32 = 1;

/// Bit 63 of a request's number says that it was sent again (FUSE_UNIQUE_RESEND).
pub(super) const RESENT: u64 = 1 << 63;

/// Longest write where requests are relayed: with its header it fits a socket's buffer.
pub(super) const MAX_WRITE_RELAYED: u32 = 128 << 10;
/// What a socket must hold: a relayed write, its header, and what the kernel adds.
const SOCKET_BYTES: usize = MAX_WRITE_RELAYED as usize + (32 << 10);
/// Room for INIT and its answer.
const INIT_ROOM: usize = 8192;

/// What was agreed on with the kernel. Nothing of it changes until the next mount.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Connection {
    format: u32,
    /// Which catalog it belongs to: a rebuilt one knows other identities.
    pub catalog: String,
    /// The catalog's mark when it began.
    pub mark: u64,
    /// The kernel's first request, in hexadecimal: the session of a successor wants to hear it.
    init: String,
    /// The kernel reads and writes local files itself.
    pub passthrough: bool,
    /// Why it does not.
    pub plain_because: Option<String>,
    /// The kernel sends requests again that a dead daemon had read.
    pub resend: bool,
    /// Times it was taken over.
    #[serde(default)]
    pub taken_over: u64,
}

impl Connection {
    /// Reads what a predecessor wrote. None if it is not there or not of a known format.
    pub fn load(runtime: &Path) -> Option<Connection> {
        let bytes = std::fs::read(runtime.join(FILE)).ok()?;
        let read: Connection = serde_json::from_slice(&bytes).ok()?;
        (read.format == FORMAT).then_some(read)
    }

    /// Writes it, whole or not at all.
    ///
    /// # Errors
    /// As `open`, `write`, `rename`.
    pub fn store(&self, runtime: &Path) -> io::Result<()> {
        let (path, new) = (runtime.join(FILE), runtime.join("connection.json.new"));
        let mut options = OpenOptions::new();
        let mut file = options.write(true).create(true).truncate(true).mode(0o600).open(&new)?;
        file.write_all(&serde_json::to_vec(self)?)?;
        faults::point("handover.before_connection");
        std::fs::rename(new, path)?;
        faults::point("handover.after_connection");
        Ok(())
    }

    /// The kernel's first request.
    ///
    /// # Errors
    /// If what was kept is damaged.
    pub(super) fn init(&self) -> io::Result<Vec<u8>> {
        hex::decode(&self.init).map_err(|e| io::Error::new(io::ErrorKind::InvalidData, e))
    }
}

/// Makes a session that has heard INIT; with it what it answers, and the other end of the socket
/// that it listens at.
pub(super) fn shake_hands(
    init: &[u8],
    adapter: Adapter,
) -> io::Result<(Session<Adapter>, Vec<u8>, OwnedFd)> {
    use rustix::net::sockopt::{set_socket_send_buffer_size, socket_send_buffer_size};
    use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
    let (ours, theirs) =
        socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
    for end in [&ours, &theirs] {
        // The kernel doubles what is asked for, up to net.core.wmem_max.
        let _checked_below = set_socket_send_buffer_size(end, SOCKET_BYTES);
        if socket_send_buffer_size(end)? < SOCKET_BYTES {
            let message = format!(
                "a socket holds too little for a write: set net.core.wmem_max to {SOCKET_BYTES} or more"
            );
            return Err(io::Error::other(message));
        }
    }
    rustix::io::write(&ours, init)?;
    let mut config = Config::default();
    config.acl = SessionACL::All;
    config.n_threads = Some(FUSE_THREADS);
    let session = Session::from_fd(adapter, theirs, SessionACL::All, config)?;
    let mut answer = vec![0; INIT_ROOM];
    let got = rustix::io::read(&ours, &mut answer)?;
    answer.truncate(got);
    Ok((session, answer, ours))
}

/// Reads the kernel's first request.
pub(super) fn hear_init(device: &OwnedFd) -> io::Result<Vec<u8>> {
    // The kernel gives nothing to who has no room for a small write.
    let mut request = vec![0; INIT_ROOM.max(64 << 10)];
    let got = rustix::io::retry_on_intr(|| rustix::io::read(device, &mut request))?;
    request.truncate(got);
    Ok(request)
}

/// What comes of a handshake, for the session's owner.
#[derive(Debug, Default)]
pub(super) struct Handshake {
    pub passthrough: bool,
    pub resend: bool,
}

/// What is wanted of the kernel.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Wanted {
    /// Passthrough, to lower files of at most this stacking depth.
    pub passthrough: Option<u32>,
    /// That it sends requests again.
    pub resend: bool,
}

/// Asks the kernel for what we use.
pub(super) fn negotiate(config: &mut KernelConfig, want: Wanted) -> Handshake {
    let wanted = [
        InitFlags::FUSE_ASYNC_READ,
        InitFlags::FUSE_ATOMIC_O_TRUNC,
        InitFlags::FUSE_AUTO_INVAL_DATA,
        InitFlags::FUSE_DO_READDIRPLUS,
        InitFlags::FUSE_READDIRPLUS_AUTO,
        InitFlags::FUSE_PARALLEL_DIROPS,
        InitFlags::FUSE_DONT_MASK,
        InitFlags::FUSE_POSIX_ACL,
        // Else the kernel asks for `security.capability` before every write, also of a file that
        // it passes through. What is to be taken away then, the lower file system does: who is
        // not root writes and cuts there without CAP_FSETID, too.
        InitFlags::FUSE_HANDLE_KILLPRIV_V2,
    ];
    for wanted in wanted {
        if config.add_capabilities(wanted).is_err() {
            tracing::debug!(?wanted, "this kernel does not offer a FUSE capability");
        }
    }
    let resend = want.resend && config.capabilities().contains(InitFlags::FUSE_HAS_RESEND);
    if !resend && let Err(most) = config.set_max_write(MAX_WRITE_RELAYED) {
        tracing::debug!(most, "the kernel's longest write");
    }
    let passthrough = want.passthrough.is_some_and(|depth| {
        config.add_capabilities(InitFlags::FUSE_PASSTHROUGH).is_ok()
            && config.set_max_stack_depth(depth).is_ok()
    });
    Handshake { passthrough, resend }
}

impl Handshake {
    /// As it is kept.
    pub fn connection(&self, options: &Options, init: &[u8]) -> Connection {
        Connection {
            format: FORMAT,
            catalog: options.catalog.clone(),
            mark: options.mark,
            init: hex::encode(init),
            passthrough: false,
            plain_because: None,
            resend: self.resend,
            taken_over: 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_agreed_on_is_read_back() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(Connection::load(dir.path()), None);
        let options = Options {
            passthrough: true,
            resend: true,
            catalog: "x-1".to_owned(),
            mark: 77,
            runtime: dir.path().to_owned(),
        };
        let handshake = Handshake { passthrough: true, resend: true };
        let mut connection = handshake.connection(&options, b"\x01\xff");
        connection.store(dir.path()).unwrap();
        assert_eq!(Connection::load(dir.path()), Some(connection.clone()));
        assert_eq!(connection.init().unwrap(), b"\x01\xff");
        connection.format = FORMAT + 1;
        connection.store(dir.path()).unwrap();
        assert_eq!(Connection::load(dir.path()), None);
    }
}
