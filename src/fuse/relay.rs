//! Between the kernel and the session, for kernels that do not send a request again (before 6.9):
//! each request is read straight into a file in the runtime directory and stays there until it is
//! answered. What a daemon had read and not answered when it died, its successor finds there.
//!
//! The file has places of two sizes, since the kernel wants room for the longest request with
//! each read: a short request is moved to a small place at once. A place whose first word, the
//! length of the request, is 0 is free; that word is written last and cleared first.
//!
//! An answer is noted beside its request before the kernel gets it. A daemon may die between the
//! two system calls that give it and clear the place, and what the caller did next may be done by
//! then: a file that it cut and wrote must not be cut again. So a request with its answer beside it
//! is not repeated; the kernel is given that answer once more, and refuses it if it had it.

use super::connection::{MAX_WRITE_RELAYED, RESENT};
use crate::faults;
use crate::limits::{FUSE_THREADS, WORKER_QUEUE_MAX, WORKER_THREADS};
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
use std::time::{Duration, Instant};

/// In the runtime directory.
const FILE: &str = "requests";
/// Places for requests of any length, and how long those are.
const LARGE: usize = 96;
const LARGE_BYTES: usize = MAX_WRITE_RELAYED as usize + 4096;
/// Places for short ones: more than the workers take, who keep requests the longest.
const SMALL: usize = 2 * (WORKER_QUEUE_MAX + WORKER_THREADS) + 128;
const SMALL_BYTES: usize = 4608;
/// Where the answers begin, one for each place in the order of the places, and how long they may
/// be: longer ones belong to requests that change nothing, and are not noted.
const ANSWERS: usize = LARGE * LARGE_BYTES + SMALL * SMALL_BYTES;
const ANSWER_BYTES: usize = 192;
const FILE_BYTES: usize = ANSWERS + (LARGE + SMALL) * ANSWER_BYTES;
/// Longest wait for what a predecessor left, before new requests are read.
const LEFT_PATIENCE: Duration = Duration::from_secs(2);
/// Threads that carry answers back.
const ANSWER_THREADS: usize = 2;

/// Requests whose answer holds a handle, and where it stands (linux/fuse.h): OPEN and OPENDIR right
/// behind the header, CREATE behind a `struct fuse_entry_out` as well.
const OPENING: [(u32, usize); 3] = [(14, 16), (27, 16), (35, 16 + 128)];

/// Requests that have no answer (linux/fuse.h): FORGET, INTERRUPT, BATCH_FORGET. INTERRUPT has one
/// only to refuse it.
const UNANSWERED: [u32; 3] = [2, 36, 42];

/// What is to be done with a handle that the kernel did not take.
pub(super) type Refused = Box<dyn Fn(u64) + Send + Sync>;

/// A place, by where it begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct At(usize);

impl At {
    fn is_small(self) -> bool {
        self.0 >= LARGE * LARGE_BYTES
    }

    /// Where its answer is noted.
    fn answer(self) -> usize {
        let number = if self.is_small() {
            LARGE + (self.0 - LARGE * LARGE_BYTES) / SMALL_BYTES
        } else {
            self.0 / LARGE_BYTES
        };
        ANSWERS + number * ANSWER_BYTES
    }
}

/// A request of a predecessor, and what it was about to answer or had answered.
struct Left {
    request: Vec<u8>,
    answer: Option<Vec<u8>>,
}

#[derive(Debug)]
struct Free {
    large: Vec<At>,
    small: Vec<At>,
}

/// The relay of one connection.
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
    left: Mutex<Vec<Left>>,
    /// Those among them that open something.
    opening: Mutex<HashMap<u64, usize>>,
    refused: Refused,
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

/// Number of a request that opens something, and where its answer has the handle.
fn opening(request: &[u8]) -> Option<(u64, usize)> {
    let Header { opcode, unique, .. } = header(request)?;
    let (_, at) = OPENING.iter().find(|(opening, _)| *opening == opcode)?;
    Some((unique & !RESENT, *at))
}

/// The handle in an answer, if it is not an error, which is as long as its header.
fn handle(answer: &[u8], at: usize) -> Option<u64> {
    answer.get(at..)?.first_chunk::<8>().map(|bytes| u64::from_le_bytes(*bytes))
}

impl std::fmt::Debug for Relay {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Relay").finish_non_exhaustive()
    }
}

impl Relay {
    /// Opens the file of requests. `resume` tells that there is a predecessor, whose unanswered
    /// requests are given to the session first. One of those may have been answered all the same;
    /// what it opens once more is `refused`, for nobody would ever close it.
    ///
    /// # Errors
    /// No room in the runtime directory.
    pub fn new(
        device: Arc<OwnedFd>,
        session: OwnedFd,
        runtime: &Path,
        resume: bool,
        refused: Refused,
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
            opening: Mutex::default(),
            refused,
            _file: file,
        };
        let left = relay.take_left()?;
        *relay.opening.lock() = left.iter().filter_map(|l| opening(&l.request)).collect();
        *relay.left.lock() = left;
        Ok(Arc::new(relay))
    }

    /// What is in the places from before: each request once, marked as sent again. It stays where
    /// it is until it is answered.
    fn take_left(&self) -> io::Result<Vec<Left>> {
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
                        left.push(Left { request, answer: self.noted(at, unique)? });
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

    /// The answer beside a request, if it is that request's.
    fn noted(&self, at: At, unique: u64) -> io::Result<Option<Vec<u8>>> {
        let mut answer = self.region.get(at.answer(), ANSWER_BYTES)?;
        let Some(Header { len, unique: of, .. }) = header(&answer) else { return Ok(None) };
        answer.truncate(len);
        Ok((of == unique && (16..=ANSWER_BYTES).contains(&len)).then_some(answer))
    }

    fn note(&self, at: At, answer: &[u8]) -> io::Result<()> {
        let Some((len, rest)) = answer.split_first_chunk::<4>() else { return Ok(()) };
        if answer.len() > ANSWER_BYTES {
            return Ok(());
        }
        let at = at.answer();
        self.region.set_word(at, 0)?;
        self.region.set(at + 4, rest)?;
        self.region.set_word(at, u32::from_le_bytes(*len))
    }

    /// Carries requests and answers until the connection ends.
    ///
    /// # Errors
    /// If the system has no room for a thread.
    pub fn run(self: Arc<Relay>) -> io::Result<()> {
        for n in 0..ANSWER_THREADS {
            let relay = self.clone();
            spawn(&format!("relay-out-{n}"), move || relay.answers())?;
        }
        let left = std::mem::take(&mut *self.left.lock());
        spawn("relay-left", move || {
            self.answer_left(&left)?;
            for n in 0..FUSE_THREADS {
                let relay = self.clone();
                spawn(&format!("relay-in-{n}"), move || relay.requests())?;
            }
            Ok(())
        })
    }

    /// What a predecessor left, before anything new: one of these may have been answered just
    /// before it died, and its user have gone on to change the same bytes. Those that wait for a
    /// target are not waited for.
    fn answer_left(&self, left: &[Left]) -> io::Result<()> {
        for Left { request, answer } in left {
            let noted = answer.as_ref().and_then(|answer| Some((header(answer)?.unique, answer)));
            match noted {
                Some((unique, answer)) => {
                    self.answer(unique, answer)?;
                }
                None => self.give(request)?,
            }
        }
        let mut open: HashSet<u64> =
            left.iter().filter_map(|l| header(&l.request)).map(|h| h.unique & !RESENT).collect();
        let until = Instant::now() + LEFT_PATIENCE;
        loop {
            let mut free = self.free.lock();
            let waiting = self.waiting.lock();
            open.retain(|unique| waiting.contains_key(unique));
            drop(waiting);
            if open.is_empty() || self.freed.wait_until(&mut free, until).timed_out() {
                return Ok(());
            }
        }
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
            let at = self.large();
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
            let at = self.compact(at, &request)?;
            if answered {
                self.waiting.lock().insert(unique, at);
            }
            self.give(&request)?;
            if !answered {
                self.let_go(at)?;
            }
        }
    }

    /// Moves a short request to a small place, if there is one.
    fn compact(&self, at: At, request: &[u8]) -> io::Result<At> {
        let free = if request.len() <= SMALL_BYTES { self.free.lock().small.pop() } else { None };
        let Some(to) = free else { return Ok(at) };
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
            let at = self.waiting.lock().get(&unique).copied();
            at.map_or(Ok(()), |at| self.note(at, answer))?;
            if !self.answer(unique, answer)? {
                return Ok(());
            }
        }
    }

    /// Gives the kernel an answer that is noted, and clears the place of its request. Tells whether
    /// the connection goes on.
    fn answer(&self, unique: u64, answer: &[u8]) -> io::Result<bool> {
        let handle = self.opening.lock().remove(&unique).and_then(|at| handle(answer, at));
        faults::point("relay.before_answer");
        match rustix::io::write(&self.device, answer) {
            Ok(_) => {}
            // It was answered by the predecessor, or nobody waits for it any more.
            Err(Errno::NOENT) => handle.into_iter().for_each(&self.refused),
            Err(Errno::NODEV) => return Ok(false),
            Err(errno) => tracing::warn!(%errno, "an answer could not be given to the kernel"),
        }
        faults::point("relay.after_answer");
        // Not while it is locked: who waits for answers holds the other lock first.
        let at = self.waiting.lock().remove(&unique);
        at.map_or(Ok(()), |at| self.let_go(at))?;
        Ok(true)
    }

    /// A place for any request, when there is one.
    fn large(&self) -> At {
        let mut free = self.free.lock();
        loop {
            if let Some(at) = free.large.pop() {
                return at;
            }
            self.freed.wait(&mut free);
        }
    }

    fn let_go(&self, at: At) -> io::Result<()> {
        self.region.set_word(at.0, 0)?;
        let mut free = self.free.lock();
        if at.is_small() {
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

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};

    /// Both ends of a pair that keeps messages apart: a stand-in for the kernel or the session.
    fn pair() -> (OwnedFd, OwnedFd) {
        socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).unwrap()
    }

    fn request(unique: u64, opcode: u32, body: usize) -> Vec<u8> {
        let mut bytes = vec![0; 40 + body];
        let len = u32::try_from(bytes.len()).unwrap();
        bytes[..4].copy_from_slice(&len.to_le_bytes());
        bytes[4..8].copy_from_slice(&opcode.to_le_bytes());
        bytes[8..16].copy_from_slice(&unique.to_le_bytes());
        bytes
    }

    fn answer(unique: u64) -> Vec<u8> {
        let mut bytes = vec![0; 16];
        bytes[0] = 16;
        bytes[8..].copy_from_slice(&unique.to_le_bytes());
        bytes
    }

    fn read(fd: &OwnedFd) -> Vec<u8> {
        let mut bytes = vec![0; LARGE_BYTES];
        let got = rustix::io::read(fd, &mut bytes).unwrap();
        bytes.truncate(got);
        bytes
    }

    fn nothing() -> Refused {
        Box::new(|handle| panic!("{handle} was taken"))
    }

    fn unique_of(bytes: &[u8]) -> u64 {
        header(bytes).unwrap().unique
    }

    #[test]
    fn what_is_not_answered_is_left_to_the_next_and_comes_before_anything_new() {
        let dir = tempfile::tempdir().unwrap();
        {
            let (kernel, device) = pair();
            let (ours, session) = pair();
            let relay = Relay::new(Arc::new(device), ours, dir.path(), false, nothing()).unwrap();
            relay.clone().run().unwrap();
            // Answered, not answered, long and not answered, and one that has no answer.
            for request in [request(2, 1, 0), request(4, 9, 8), request(6, 16, 100_000)] {
                rustix::io::write(&kernel, &request).unwrap();
                assert_eq!(read(&session), request);
            }
            rustix::io::write(&kernel, &request(8, 2, 8)).unwrap();
            assert_eq!(unique_of(&read(&session)), 8);
            rustix::io::write(&session, &answer(2)).unwrap();
            assert_eq!(read(&kernel), answer(2));
            // The place of an answered request is cleared right after.
            while relay.waiting.lock().len() > 2 {
                std::thread::yield_now();
            }
            drop((kernel, session));
        }
        let (kernel, device) = pair();
        let (ours, session) = pair();
        rustix::io::write(&kernel, &request(10, 1, 0)).unwrap();
        let relay = Relay::new(Arc::new(device), ours, dir.path(), true, nothing()).unwrap();
        relay.clone().run().unwrap();
        for unique in [4, 6] {
            assert_eq!(unique_of(&read(&session)), unique | RESENT);
        }
        for unique in [4, 6] {
            rustix::io::write(&session, &answer(unique | RESENT)).unwrap();
            assert_eq!(read(&kernel), answer(unique));
        }
        assert_eq!(unique_of(&read(&session)), 10);
    }

    /// A relay, the kernel's end and the session's.
    fn relay(dir: &Path, resume: bool) -> (Arc<Relay>, OwnedFd, OwnedFd) {
        let (kernel, device) = pair();
        let (ours, session) = pair();
        let relay = Relay::new(Arc::new(device), ours, dir, resume, nothing()).unwrap();
        let patience = Some(Duration::from_secs(20));
        let receive = rustix::net::sockopt::Timeout::Recv;
        for end in [&kernel, &session] {
            rustix::net::sockopt::set_socket_timeout(end, receive, patience).unwrap();
        }
        (relay, kernel, session)
    }

    #[test]
    fn regression_what_was_answered_is_not_done_again_by_the_next() {
        const OPEN: u32 = 14;
        const WRITE: u32 = 16;
        let dir = tempfile::tempdir().unwrap();
        let mut opened = [&answer(2)[..], &7u64.to_le_bytes(), &[0; 8]].concat();
        opened[0] = 32;
        {
            let (relay, kernel, _session) = relay(dir.path(), false);
            // As left by a thread that was killed right after it had given the answer: that to an
            // open which cut the file, of which more was written since. One was not answered.
            for (at, unique, opcode) in [(At(0), 2, OPEN), (At(LARGE_BYTES), 4, WRITE)] {
                relay.region.set(at.0, &request(unique, opcode, 8)).unwrap();
            }
            relay.note(At(0), &opened).unwrap();
            rustix::io::write(&*relay.device, &opened).unwrap();
            assert_eq!(read(&kernel), opened);
            // What another request had there before it is not its answer.
            relay.note(At(LARGE_BYTES), &answer(3)).unwrap();
        }
        let (relay, kernel, session) = relay(dir.path(), true);
        relay.clone().run().unwrap();
        assert_eq!(unique_of(&read(&session)), 4 | RESENT, "only this one is done");
        assert_eq!(read(&kernel), opened, "once more, for the kernel to refuse it");
        rustix::io::write(&session, &answer(4 | RESENT)).unwrap();
        assert_eq!(read(&kernel), answer(4));
        rustix::io::write(&kernel, &request(6, 1, 0)).unwrap();
        assert_eq!(unique_of(&read(&session)), 6);
    }

    #[test]
    fn places_for_answers_do_not_overlap() {
        let large = (0..LARGE).map(|n| At(n * LARGE_BYTES));
        let small = (0..SMALL).map(|n| At(LARGE * LARGE_BYTES + n * SMALL_BYTES));
        let answers: Vec<usize> = large.chain(small).map(At::answer).collect();
        assert_eq!(answers[0], ANSWERS);
        assert!(answers.windows(2).all(|w| w[1] - w[0] == ANSWER_BYTES));
        assert_eq!(answers.last().unwrap() + ANSWER_BYTES, FILE_BYTES);
    }

    /// More long requests than there are places, as of many programs that write with O_SYNC to a
    /// slow disk: those above wait, and none is lost, not even when the daemon dies.
    #[test]
    fn long_requests_beyond_all_places_wait_for_one() {
        const LONG: usize = SMALL_BYTES;
        const MORE: usize = 8;
        let number = |n: usize| 2 * (n as u64 + 1);
        let dir = tempfile::tempdir().unwrap();
        let mut given: HashSet<u64> = HashSet::new();
        {
            let (relay, kernel, session) = relay(dir.path(), false);
            relay.clone().run().unwrap();
            for n in 0..LARGE {
                rustix::io::write(&kernel, &request(number(n), 16, LONG)).unwrap();
                given.insert(unique_of(&read(&session)));
            }
            assert!(relay.free.lock().large.is_empty());
            for n in LARGE..LARGE + MORE {
                rustix::io::write(&kernel, &request(number(n), 16, LONG)).unwrap();
                rustix::io::write(&session, &answer(number(n - LARGE))).unwrap();
                assert_eq!(read(&kernel), answer(number(n - LARGE)));
                given.insert(unique_of(&read(&session)));
            }
            assert_eq!(given.len(), LARGE + MORE);
            // The last place was cleared before the last request was read.
            drop((kernel, session));
        }
        // The next one has not a single place free at first.
        let (relay, kernel, session) = relay(dir.path(), true);
        relay.clone().run().unwrap();
        rustix::io::write(&kernel, &request(number(1000), 1, 0)).unwrap();
        let mut left: HashSet<u64> = HashSet::new();
        for _ in 0..LARGE {
            let unique = unique_of(&read(&session));
            assert_ne!(unique & RESENT, 0);
            left.insert(unique & !RESENT);
            rustix::io::write(&session, &answer(unique)).unwrap();
            assert_eq!(read(&kernel), answer(unique & !RESENT));
        }
        assert_eq!(left, (MORE..LARGE + MORE).map(number).collect());
        assert_eq!(unique_of(&read(&session)), number(1000));
    }

    #[test]
    fn regression_a_short_request_does_not_wait_for_a_short_place() {
        let dir = tempfile::tempdir().unwrap();
        let (kernel, device) = pair();
        let (ours, session) = pair();
        let relay = Relay::new(Arc::new(device), ours, dir.path(), false, nothing()).unwrap();
        // As many requests wait for the archive.
        relay.free.lock().small.clear();
        relay.clone().run().unwrap();
        rustix::io::write(&kernel, &request(2, 1, 0)).unwrap();
        let patience = Some(Duration::from_secs(20));
        let receive = rustix::net::sockopt::Timeout::Recv;
        rustix::net::sockopt::set_socket_timeout(&session, receive, patience).unwrap();
        assert_eq!(unique_of(&read(&session)), 2);
        rustix::io::write(&session, &answer(2)).unwrap();
        assert_eq!(read(&kernel), answer(2));
    }
}
