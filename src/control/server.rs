//! The daemon's end of the socket.

use super::peer::Peer;
use super::protocol::{Failure, Progress, Request, Response, VersionReport};
use crate::limits::{CONTROL_CONNECTIONS_MAX, CONTROL_IDLE, CONTROL_REQUEST_BYTES_MAX};
use crate::recording::ErrorClass;
use parking_lot::{Condvar, Mutex};
use rustix::fs::{CWD, Mode, OFlags};
use serde_json::Value;
use std::collections::HashMap;
use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::Shutdown;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// How long a stop waits for requests in work.
const STOP_GRACE: Duration = Duration::from_secs(5);

/// What answers requests: the daemon. It is called on the thread of the connection, several at
/// a time.
pub trait Handler: Send + Sync {
    /// Does what `peer` asks, and tells how far it has come as often as it likes.
    ///
    /// # Errors
    /// Nothing came of it; shown to the person who asked.
    fn handle(
        &self,
        request: Request,
        peer: &Peer,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<Value, Failure>;
}

/// Why there is no control socket.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// Another daemon answers.
    #[error(
        "another spoolfs already answers at {0}; stop it, or give this one a state_dir of its own"
    )]
    InUse(PathBuf),
    /// Something that is no socket has its name.
    #[error("{0} is in the way of the control socket and is not a socket; move it away")]
    NotASocket(PathBuf),
    /// The kernel said no.
    #[error("control socket {path}: {operation}: {source}")]
    Io {
        /// The socket.
        path: PathBuf,
        /// What was tried.
        operation: &'static str,
        /// What it said.
        source: std::io::Error,
    },
}

impl ServerError {
    /// How it may end.
    pub fn class(&self) -> ErrorClass {
        match self {
            ServerError::InUse(_) | ServerError::NotASocket(_) => ErrorClass::Permanent,
            ServerError::Io { .. } => ErrorClass::Transient,
        }
    }
}

/// The listening socket; it stops when dropped.
pub struct Server {
    shared: Arc<Shared>,
    listener: UnixListener,
    socket: PathBuf,
    accepting: Option<std::thread::JoinHandle<()>>,
}

struct Shared {
    handler: Arc<dyn Handler>,
    stopping: AtomicBool,
    open: Mutex<HashMap<u64, UnixStream>>,
    closed: Condvar,
}

impl std::fmt::Debug for Server {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Server").field("socket", &self.socket).finish_non_exhaustive()
    }
}

impl Server {
    /// Listens at `socket`, in a directory that exists. A socket that nobody answers at is
    /// replaced.
    ///
    /// # Errors
    /// Somebody answers there, or the kernel says no.
    pub fn start(socket: &Path, handler: Arc<dyn Handler>) -> Result<Server, ServerError> {
        let io = |operation| {
            move |source: std::io::Error| ServerError::Io {
                path: socket.to_owned(),
                operation,
                source,
            }
        };
        make_way(socket)?;
        let listener = listen(socket).map_err(io("listen"))?;
        let shared = Arc::new(Shared {
            handler,
            stopping: AtomicBool::new(false),
            open: Mutex::new(HashMap::new()),
            closed: Condvar::new(),
        });
        let (loop_shared, loop_listener) =
            (Arc::clone(&shared), listener.try_clone().map_err(io("clone"))?);
        let accepting = std::thread::Builder::new()
            .name("control".to_owned())
            .spawn(move || accept(&loop_shared, &loop_listener))
            .map_err(io("start a thread"))?;
        Ok(Server { shared, listener, socket: socket.to_owned(), accepting: Some(accepting) })
    }

    /// Takes no more requests, waits a little for those in work, and removes the socket.
    pub fn stop(&mut self) {
        let Some(accepting) = self.accepting.take() else { return };
        self.shared.stopping.store(true, Ordering::SeqCst);
        // A blocked accept ends when its socket is shut down.
        let _ends_anyway = rustix::net::shutdown(&self.listener, rustix::net::Shutdown::Both);
        if accepting.join().is_err() {
            tracing::error!("the control thread had panicked");
        }
        if is_dead(&self.socket) {
            let _gone_is_fine = rustix::fs::unlink(&self.socket);
        }
        let mut open = self.shared.open.lock();
        for stream in open.values() {
            // What is in work may still send its answer.
            let _closed_is_fine = stream.shutdown(Shutdown::Read);
        }
        self.shared.closed.wait_while_for(&mut open, |open| !open.is_empty(), STOP_GRACE);
        for stream in open.values() {
            let _closed_is_fine = stream.shutdown(Shutdown::Both);
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop();
    }
}

/// A name for the socket's directory that fits into a socket address, however deep it lies.
pub(super) fn short_name(socket: &Path) -> std::io::Result<(File, PathBuf)> {
    let dir = socket.parent().unwrap_or(Path::new("/"));
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let dir = File::from(rustix::fs::openat(CWD, dir, flags, Mode::empty())?);
    let name = format!("/proc/self/fd/{}", dir.as_raw_fd());
    let path = Path::new(&name).join(socket.file_name().unwrap_or("control.sock".as_ref()));
    Ok((dir, path))
}

/// Refuses if somebody answers at the socket. One left behind by a daemon that died stays until
/// the new one is renamed over it.
fn make_way(socket: &Path) -> Result<(), ServerError> {
    let Ok(found) = std::fs::symlink_metadata(socket) else { return Ok(()) };
    if !found.file_type().is_socket() {
        return Err(ServerError::NotASocket(socket.to_owned()));
    }
    let connected = short_name(socket).and_then(|(_dir, name)| UnixStream::connect(name));
    match connected.map_err(|e| e.kind()) {
        Err(std::io::ErrorKind::ConnectionRefused | std::io::ErrorKind::NotFound) => Ok(()),
        // Anything else is not proof that nobody is there.
        _ => Err(ServerError::InUse(socket.to_owned())),
    }
}

/// Binds under another name and renames, so that the socket never exists with wider permissions.
fn listen(socket: &Path) -> std::io::Result<UnixListener> {
    let fresh = socket.with_extension(format!("{}", std::process::id()));
    let _none_is_fine = rustix::fs::unlink(&fresh);
    let (_dir, name) = short_name(&fresh)?;
    let listener = UnixListener::bind(name)?;
    let placed = std::fs::set_permissions(&fresh, std::fs::Permissions::from_mode(0o600))
        .and_then(|()| std::fs::rename(&fresh, socket));
    if placed.is_err() {
        let _best_effort = rustix::fs::unlink(&fresh);
    }
    placed.map(|()| listener)
}

/// Whether nobody answers at the name: our listener was shut down, so whoever answers is a daemon
/// that took over.
fn is_dead(socket: &Path) -> bool {
    short_name(socket).and_then(|(_dir, name)| UnixStream::connect(name)).is_err()
}

fn accept(shared: &Arc<Shared>, listener: &UnixListener) {
    let mut number: u64 = 0;
    while !shared.stopping.load(Ordering::SeqCst) {
        match listener.accept() {
            Ok((stream, _)) => {
                number += 1;
                admit(shared, number, stream);
            }
            Err(_) if shared.stopping.load(Ordering::SeqCst) => break,
            Err(e) => {
                tracing::warn!("control socket: {e}");
                // Out of descriptors: the connections that hold them need a moment to end.
                std::thread::sleep(Duration::from_millis(100));
            }
        }
    }
}

/// Starts a thread for a connection, if it may have one.
fn admit(shared: &Arc<Shared>, number: u64, stream: UnixStream) {
    let _unset_is_fine = stream.set_read_timeout(Some(CONTROL_IDLE));
    let _unset_is_fine = stream.set_write_timeout(Some(CONTROL_IDLE));
    let peer = match permitted(&stream) {
        Ok(peer) => peer,
        Err(reason) => {
            tracing::warn!("control socket: {reason}");
            refuse(stream, reason);
            return;
        }
    };
    let Ok(kept) = stream.try_clone() else { return };
    {
        let mut open = shared.open.lock();
        if open.len() >= CONTROL_CONNECTIONS_MAX {
            drop(open);
            refuse(
                stream,
                format!(
                    "{CONTROL_CONNECTIONS_MAX} commands are already being answered; try again later"
                ),
            );
            return;
        }
        open.insert(number, kept);
    }
    let (inner, failed) = (Arc::clone(shared), Arc::clone(shared));
    let thread = std::thread::Builder::new().name("control-client".to_owned());
    let started = thread.spawn(move || {
        let _leave = Leave { shared: &inner, number };
        if let Err(e) = converse(&inner, &peer, stream) {
            tracing::debug!("control connection: {e}");
        }
    });
    if let Err(e) = started {
        tracing::warn!("control socket: no thread for a connection: {e}");
        failed.open.lock().remove(&number);
    }
}

/// Forgets a connection, also if its handler panicked.
struct Leave<'a> {
    shared: &'a Shared,
    number: u64,
}

impl Drop for Leave<'_> {
    fn drop(&mut self) {
        self.shared.open.lock().remove(&self.number);
        self.shared.closed.notify_all();
    }
}

fn permitted(stream: &UnixStream) -> Result<Peer, String> {
    let peer = Peer::of(stream).map_err(|e| format!("who connects is unknown: {e}"))?;
    let own = rustix::process::geteuid().as_raw();
    if peer.uid == 0 || peer.uid == own {
        return Ok(peer);
    }
    let uid = peer.uid;
    Err(format!("user {uid} may not control spoolfs; only root and user {own} may"))
}

/// Tells a connection that gets no thread why; never waits for it.
fn refuse(mut stream: UnixStream, reason: String) {
    let _unset_is_fine = stream.set_nonblocking(true);
    let _told_or_not = send(&mut stream, &Response::Failed(Failure::new(reason)));
}

fn send(stream: &mut UnixStream, response: &Response) -> std::io::Result<()> {
    let mut line = serde_json::to_vec(response)?;
    line.push(b'\n');
    stream.write_all(&line)
}

/// Answers requests until the other end has no more.
fn converse(shared: &Shared, peer: &Peer, mut stream: UnixStream) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream.try_clone()?);
    loop {
        let mut line = Vec::new();
        let read =
            (&mut reader).take(CONTROL_REQUEST_BYTES_MAX + 1).read_until(b'\n', &mut line)?;
        if read == 0 || shared.stopping.load(Ordering::SeqCst) {
            return Ok(());
        }
        if line.len() as u64 > CONTROL_REQUEST_BYTES_MAX {
            let reason = "the request is too long; name a directory instead of its files";
            return send(&mut stream, &Response::Failed(Failure::new(reason)));
        }
        let response = match serde_json::from_slice::<Request>(&line) {
            Ok(request) => answer(shared, request, peer, &mut stream),
            Err(e) => Response::Failed(Failure::new(format!(
                "spoolfs {} does not understand this request ({e}); \
                 use the command of the same version",
                env!("CARGO_PKG_VERSION")
            ))),
        };
        send(&mut stream, &response)?;
    }
}

fn answer(shared: &Shared, request: Request, peer: &Peer, stream: &mut UnixStream) -> Response {
    let done = match request {
        Request::Version => {
            serde_json::to_value(VersionReport::own()).map_err(|e| Failure::new(e.to_string()))
        }
        request => {
            // Who went away misses the progress; the work goes on.
            let mut gone = false;
            shared.handler.handle(request, peer, &mut |progress| {
                gone = gone || send(stream, &Response::Progress(progress)).is_err();
            })
        }
    };
    match done {
        Ok(value) => Response::Done(value),
        Err(failure) => Response::Failed(failure),
    }
}

#[cfg(test)]
mod tests;
