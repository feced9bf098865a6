//! The connection to the kernel: what was agreed on when it began, kept in the runtime directory
//! so that another daemon can go on with it.

use super::Options;
use fuser::{InitFlags, KernelConfig};
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

/// FUSE_INIT of linux/fuse.h.
const OPCODE_INIT: u32 = 26;
/// Length of a request's header and of INIT's arguments.
const INIT_LEN: usize = 40 + 64;

/// What was agreed on with the kernel. Nothing of it changes until the next mount.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Connection {
    format: u32,
    /// Which catalog it belongs to: a rebuilt one knows other identities.
    pub catalog: String,
    /// The catalog's mark when it began.
    pub mark: u64,
    /// The kernel's protocol version.
    abi: (u32, u32),
    /// What the kernel offered.
    offered: u64,
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
        std::fs::rename(new, path)
    }

    /// A session wants to hear INIT first, which the kernel sends only once: a socket to read from
    /// what it said then, and its other end, which must be open until that was answered.
    pub(super) fn init_again(&self) -> io::Result<(OwnedFd, OwnedFd)> {
        use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
        let (ours, sessions) =
            socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
        let request = self.init_request();
        if rustix::io::write(&ours, &request)? != request.len() {
            return Err(io::ErrorKind::WriteZero.into());
        }
        Ok((sessions, ours))
    }

    /// `struct fuse_in_header` and `struct fuse_init_in` of linux/fuse.h.
    fn init_request(&self) -> Vec<u8> {
        let (low, high) = (self.offered as u32, (self.offered >> 32) as u32);
        let words = [
            // Length, operation; unique, node: 8 bytes each; uid, gid, pid, extensions.
            [INIT_LEN as u32, OPCODE_INIT, 1, 0, 0, 0, 0, 0, 0, 0],
            // Version, longest read ahead, flags, more flags; unused.
            [self.abi.0, self.abi.1, 128 << 10, low, high, 0, 0, 0, 0, 0],
        ];
        let mut bytes: Vec<u8> = words.iter().flatten().flat_map(|w| w.to_le_bytes()).collect();
        bytes.resize(INIT_LEN, 0);
        bytes
    }
}

/// What comes of a handshake, for the session's owner.
#[derive(Debug, Default)]
pub(super) struct Handshake {
    pub abi: (u32, u32),
    pub offered: u64,
    pub passthrough: bool,
}

/// Asks the kernel for what we use.
pub(super) fn negotiate(config: &mut KernelConfig, want: Option<u32>) -> Handshake {
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
    let passthrough = want.is_some_and(|depth| {
        config.add_capabilities(InitFlags::FUSE_PASSTHROUGH).is_ok()
            && config.set_max_stack_depth(depth).is_ok()
    });
    let abi = config.kernel_abi();
    Handshake { abi: (abi.0, abi.1), offered: config.capabilities().bits(), passthrough }
}

impl Handshake {
    /// As it is kept.
    pub fn connection(&self, options: &Options) -> Connection {
        let resend = InitFlags::from_bits_retain(self.offered).contains(InitFlags::FUSE_HAS_RESEND);
        Connection {
            format: FORMAT,
            catalog: options.catalog.clone(),
            mark: options.mark,
            abi: self.abi,
            offered: self.offered,
            passthrough: false,
            plain_because: None,
            resend,
            taken_over: 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options() -> Options {
        Options { passthrough: true, catalog: "x-1".to_owned(), mark: 77 }
    }

    #[test]
    fn what_was_agreed_on_is_read_back() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(Connection::load(dir.path()), None);
        let handshake = Handshake { abi: (7, 41), offered: 1 << 39 | 3, passthrough: true };
        let mut connection = handshake.connection(&options());
        assert!(connection.resend);
        connection.store(dir.path()).unwrap();
        assert_eq!(Connection::load(dir.path()), Some(connection.clone()));
        connection.format = FORMAT + 1;
        connection.store(dir.path()).unwrap();
        assert_eq!(Connection::load(dir.path()), None);
    }

    #[test]
    fn the_request_is_laid_out_as_the_kernel_does() {
        let handshake =
            Handshake { abi: (7, 41), offered: 0x0000_0080_4000_0001, passthrough: false };
        let request = handshake.connection(&options()).init_request();
        assert_eq!(request.len(), 104);
        assert_eq!(&request[..8], &[104, 0, 0, 0, 26, 0, 0, 0]);
        assert_eq!(&request[40..48], &[7, 0, 0, 0, 41, 0, 0, 0]);
        assert_eq!(&request[52..60], &[1, 0, 0, 0x40, 0x80, 0, 0, 0]);
    }
}
