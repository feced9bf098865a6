//! Between the kernel and the session, for kernels that do not send a request again (before 6.9):
//! each request is read straight into a file in the runtime directory and stays there until it is
//! answered. What a daemon had read and not answered when it died, its successor finds there.
//!
//! The file has places of two sizes, since the kernel wants room for the longest request with
//! each read: a short request is moved to a small place at once. A place whose first word, the
//! length of the request, is 0 is free; that word is written last and cleared first.

use super::connection::{MAX_WRITE_RELAYED, RESENT};
use crate::limits::FUSE_THREADS;
use crate::sys::SharedRegion;
use parking_lot::{Condvar, Mutex};
use rustix::io::Errno;
use std::collections::{HashMap, HashSet};
use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::Arc;

/// In the runtime directory.
const FILE: &str = "requests";
/// Places for requests of any length, and how long those are.
const LARGE: usize = 32;
const LARGE_BYTES: usize = MAX_WRITE_RELAYED as usize + 4096;
/// Places for short ones: more than the workers take, who keep requests the longest.
const SMALL: usize = 1024;
const SMALL_BYTES: usize = 4608;
const FILE_BYTES: usize = LARGE * LARGE_BYTES + SMALL * SMALL_BYTES;
/// Threads that carry answers back.
const ANSWER_THREADS: usize = 2;

/// Requests that have no answer (linux/fuse.h): FORGET, INTERRUPT, BATCH_FORGET. INTERRUPT has one
/// only to refuse it.
const UNANSWERED: [u32; 3] = [2, 36, 42];

/// A place, by where it begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct At(usize);

#[derive(Debug)]
struct Free {
    large: Vec<At>,
    small: Vec<At>,
}

/// The relay of one connection.
#[derive(Debug)]
pub(super) struct Relay {
    device: Arc<OwnedFd>,
    /// Our end; the session has the other.
    session: OwnedFd,
    region: SharedRegion,
    free: Mutex<Free>,
    freed: Condvar,
    /// Where the request of an answer is.
    waiting: Mutex<HashMap<u64, At>>,
    /// What a predecessor left unanswered.
    left: Mutex<Vec<Vec<u8>>>,
    _file: File,
}

/// `struct fuse_in_header`, as far as it matters here.
struct Header {
    len: usize,
    opcode: u32,
    unique: u64,
}

fn header(bytes: &[u8]) -> Option<Header> {
    let (len, rest) = bytes.split_first_chunk::<4>()?;
    let (opcode, rest) = rest.split_first_chunk::<4>()?;
    let unique = rest.first_chunk::<8>()?;
    Some(Header {
        len: u32::from_le_bytes(*len) as usize,
        opcode: u32::from_le_bytes(*opcode),
        unique: u64::from_le_bytes(*unique),
    })
}

impl Relay {
    /// Opens the file of requests. `resume` tells that there is a predecessor, whose unanswered
    /// requests are given to the session first.
    ///
    /// # Errors
    /// No room in the runtime directory.
    pub fn new(
        device: Arc<OwnedFd>,
        session: OwnedFd,
        runtime: &Path,
        resume: bool,
    ) -> io::Result<Arc<Relay>> {
        let mut options = OpenOptions::new();
        let file = options
            .read(true)
            .write(true)
            .create(true)
            .truncate(!resume)
            .mode(0o600)
            .open(runtime.join(FILE))?;
        let region = SharedRegion::map(&file, FILE_BYTES)?;
        let free = Free {
            large: (0..LARGE).map(|n| At(n * LARGE_BYTES)).collect(),
            small: (0..SMALL).map(|n| At(LARGE * LARGE_BYTES + n * SMALL_BYTES)).collect(),
        };
        let relay = Relay {
            device,
            session,
            region,
            free: Mutex::new(free),
            freed: Condvar::new(),
            waiting: Mutex::default(),
            left: Mutex::default(),
            _file: file,
        };
        *relay.left.lock() = relay.take_left()?;
        Ok(Arc::new(relay))
    }

    /// What is in the places from before: each request once, marked as sent again. It stays where
    /// it is until it is answered.
    fn take_left(&self) -> io::Result<Vec<Vec<u8>>> {
        let mut left = Vec::new();
        let mut seen = HashSet::new();
        let mut free = self.free.lock();
        let Free { large, small } = &mut *free;
        for (places, room) in [(small, SMALL_BYTES), (large, LARGE_BYTES)] {
            let mut kept = Vec::new();
            for at in places.drain(..) {
                match self.left_at(at, room)? {
                    Some((unique, request)) if seen.insert(unique) => {
                        self.waiting.lock().insert(unique, at);
                        left.push(request);
                    }
                    _ => {
                        self.region.set_word(at.0, 0)?;
                        kept.push(at);
                    }
                }
            }
            *places = kept;
        }
        Ok(left)
    }

    fn left_at(&self, at: At, room: usize) -> io::Result<Option<(u64, Vec<u8>)>> {
        let Some(found) = header(&self.region.get(at.0, 16)?) else { return Ok(None) };
        if !(40..=room).contains(&found.len) || UNANSWERED.contains(&found.opcode) {
            return Ok(None);
        }
        let mut request = self.region.get(at.0, found.len)?;
        let resent = (found.unique | RESENT).to_le_bytes();
        if let Some(unique) = request.get_mut(8..16) {
            unique.copy_from_slice(&resent);
        }
        Ok(Some((found.unique, request)))
    }

    /// Carries requests and answers until the connection ends.
    ///
    /// # Errors
    /// If the system has no room for a thread.
    pub fn run(self: Arc<Relay>) -> io::Result<()> {
        let (first, left) = (self.clone(), std::mem::take(&mut *self.left.lock()));
        spawn("relay-left", move || left.iter().try_for_each(|request| first.give(request)))?;
        for n in 0..FUSE_THREADS {
            let relay = self.clone();
            spawn(&format!("relay-in-{n}"), move || relay.requests())?;
        }
        for n in 0..ANSWER_THREADS {
            let relay = self.clone();
            spawn(&format!("relay-out-{n}"), move || relay.answers())?;
        }
        Ok(())
    }

    /// The kernel's requests, until it has no more.
    fn requests(&self) -> io::Result<()> {
        let ended = self.requests_until_the_end();
        // The session ends when it reads the end of this.
        let _already = rustix::net::shutdown(&self.session, rustix::net::Shutdown::Both);
        ended
    }

    fn requests_until_the_end(&self) -> io::Result<()> {
        loop {
            let at = self.take(|free| &mut free.large);
            let got = match self.region.read_from(self.device.as_fd(), at.0, LARGE_BYTES) {
                Ok(got) => got,
                Err(error) => {
                    self.region.set_word(at.0, 0)?;
                    self.free.lock().large.push(at);
                    match error.raw_os_error().map(Errno::from_raw_os_error) {
                        // A request that was interrupted before it was read, and the like.
                        Some(Errno::NOENT | Errno::INTR | Errno::AGAIN) => continue,
                        Some(Errno::NODEV) => return Ok(()),
                        _ => return Err(error),
                    }
                }
            };
            let request = self.region.get(at.0, got)?;
            let Some(Header { opcode, unique, .. }) = header(&request) else { continue };
            let answered = !UNANSWERED.contains(&opcode);
            let at = if got <= SMALL_BYTES { self.compact(at, &request)? } else { at };
            if answered {
                self.waiting.lock().insert(unique, at);
            }
            self.give(&request)?;
            if !answered {
                self.let_go(at)?;
            }
        }
    }

    /// Moves a short request to a small place.
    fn compact(&self, at: At, request: &[u8]) -> io::Result<At> {
        let to = self.take(|free| &mut free.small);
        let (len, body) = request.split_at_checked(4).unwrap_or_default();
        self.region.set(to.0 + 4, body)?;
        let len = len.first_chunk::<4>().map_or(0, |l| u32::from_le_bytes(*l));
        self.region.set_word(to.0, len)?;
        self.let_go(at)?;
        Ok(to)
    }

    fn give(&self, request: &[u8]) -> io::Result<()> {
        rustix::io::retry_on_intr(|| rustix::io::write(&self.session, request))?;
        Ok(())
    }

    /// The session's answers, until it has no more.
    fn answers(&self) -> io::Result<()> {
        let mut buffer = vec![0; LARGE_BYTES];
        loop {
            let got = rustix::io::retry_on_intr(|| rustix::io::read(&self.session, &mut buffer))?;
            let Some(answer) = buffer.get_mut(..got).filter(|a| a.len() >= 16) else {
                return Ok(());
            };
            // `struct fuse_out_header`: length, error, number of the request.
            let unique = header(answer).map_or(0, |h| h.unique) & !RESENT;
            if let Some(number) = answer.get_mut(8..16) {
                number.copy_from_slice(&unique.to_le_bytes());
            }
            match rustix::io::write(&self.device, answer) {
                // Nobody waits for it any more, or it was answered by the predecessor.
                Ok(_) | Err(Errno::NOENT) => {}
                Err(Errno::NODEV) => return Ok(()),
                Err(errno) => tracing::warn!(%errno, "an answer could not be given to the kernel"),
            }
            if let Some(at) = self.waiting.lock().remove(&unique) {
                self.let_go(at)?;
            }
        }
    }

    fn take(&self, of: impl Fn(&mut Free) -> &mut Vec<At>) -> At {
        let mut free = self.free.lock();
        loop {
            if let Some(at) = of(&mut free).pop() {
                return at;
            }
            self.freed.wait(&mut free);
        }
    }

    fn let_go(&self, at: At) -> io::Result<()> {
        self.region.set_word(at.0, 0)?;
        let mut free = self.free.lock();
        let small = at.0 >= LARGE * LARGE_BYTES;
        if small {
            free.small.push(at)
        } else {
            free.large.push(at)
        }
        drop(free);
        self.freed.notify_all();
        Ok(())
    }
}

fn spawn(name: &str, work: impl FnOnce() -> io::Result<()> + Send + 'static) -> io::Result<()> {
    std::thread::Builder::new().name(name.to_owned()).spawn(move || {
        if let Err(error) = work() {
            tracing::debug!(%error, "the relay to the kernel ended");
        }
    })?;
    Ok(())
}
