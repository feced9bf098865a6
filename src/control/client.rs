//! The commands' end of the socket.

use super::protocol::{Failure, Progress, Request, Response};
use super::server::short_name;
use crate::limits::{CONTROL_IDLE, CONTROL_RESPONSE_BYTES_MAX};
use crate::recording::ErrorClass;
use serde::de::DeserializeOwned;
use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

/// Why a command got no answer, or not the one it wanted.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// There is no daemon.
    #[error("no spoolfs is running for this configuration (socket {0})")]
    NotRunning(PathBuf),
    /// The socket is another user's.
    #[error("the socket {0} may not be used by this user; run the command as root")]
    Denied(PathBuf),
    /// The daemon went away, or said something that can not be understood.
    #[error("the daemon at {socket} broke off: {detail}; see its log")]
    BrokenOff {
        /// The socket.
        socket: PathBuf,
        /// What was seen.
        detail: String,
    },
    /// The daemon answered that nothing came of it.
    #[error("{0}")]
    Failed(Failure),
}

impl ClientError {
    /// How it may end.
    pub fn class(&self) -> ErrorClass {
        match self {
            ClientError::NotRunning(_) | ClientError::BrokenOff { .. } => ErrorClass::Transient,
            ClientError::Denied(_) => ErrorClass::Permanent,
            ClientError::Failed(_) => ErrorClass::Refused,
        }
    }
}

/// A connection to the daemon.
#[derive(Debug)]
pub struct Client {
    socket: PathBuf,
    stream: BufReader<UnixStream>,
}

impl Client {
    /// Connects.
    ///
    /// # Errors
    /// Nobody answers, or this user may not.
    pub fn connect(socket: &Path) -> Result<Client, ClientError> {
        let connected = short_name(socket).and_then(|(_dir, name)| UnixStream::connect(name));
        let stream = connected.map_err(|e| match e.kind() {
            ErrorKind::NotFound | ErrorKind::ConnectionRefused | ErrorKind::NotADirectory => {
                ClientError::NotRunning(socket.to_owned())
            }
            ErrorKind::PermissionDenied => ClientError::Denied(socket.to_owned()),
            _ => ClientError::BrokenOff { socket: socket.to_owned(), detail: e.to_string() },
        })?;
        // Only sending is bounded: a recall may take as long as it takes.
        let _unset_is_fine = stream.set_write_timeout(Some(CONTROL_IDLE));
        Ok(Client { socket: socket.to_owned(), stream: BufReader::new(stream) })
    }

    fn broken_off(&self, detail: impl ToString) -> ClientError {
        ClientError::BrokenOff { socket: self.socket.clone(), detail: detail.to_string() }
    }

    /// Sends a request; its responses are then read with [`Client::receive`].
    ///
    /// # Errors
    /// The daemon went away.
    pub fn send(&mut self, request: &Request) -> Result<(), ClientError> {
        let mut line = serde_json::to_vec(request).map_err(|e| self.broken_off(e))?;
        line.push(b'\n');
        match self.stream.get_mut().write_all(&line) {
            // A refusal may wait to be read although nobody reads us any more.
            Err(e) if !matches!(e.kind(), ErrorKind::BrokenPipe | ErrorKind::ConnectionReset) => {
                Err(self.broken_off(e))
            }
            _ => Ok(()),
        }
    }

    /// The next response to the request.
    ///
    /// # Errors
    /// The daemon went away.
    pub fn receive(&mut self) -> Result<Response, ClientError> {
        let mut line = Vec::new();
        let read = (&mut self.stream).take(CONTROL_RESPONSE_BYTES_MAX).read_until(b'\n', &mut line);
        read.map_err(|e| self.broken_off(e))?;
        if line.last() != Some(&b'\n') {
            return Err(self.broken_off("it stopped before its answer was complete"));
        }
        serde_json::from_slice(&line).map_err(|e| self.broken_off(e))
    }

    /// Sends a request and waits for its end.
    ///
    /// # Errors
    /// The daemon went away, or nothing came of the request.
    pub fn call<T: DeserializeOwned>(
        &mut self,
        request: &Request,
        mut progress: impl FnMut(&Progress),
    ) -> Result<T, ClientError> {
        self.send(request)?;
        loop {
            match self.receive()? {
                Response::Progress(p) => progress(&p),
                Response::Done(value) => {
                    return serde_json::from_value(value).map_err(|e| self.broken_off(e));
                }
                Response::Failed(failure) => return Err(ClientError::Failed(failure)),
            }
        }
    }
}
