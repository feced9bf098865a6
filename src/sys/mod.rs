//! The only module with `unsafe`: what neither the standard library nor rustix offers.

#![allow(unsafe_code)]

mod handover;

pub use handover::{place_descriptors, same_open_file};

use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicBool, Ordering};

/// Tries to take a read lease on a file opened for reading only. The kernel grants it only if
/// nobody has the file open for writing and no writable shared mapping exists
/// (`fcntl(2)`, F_SETLEASE).
///
/// # Errors
/// `WouldBlock` if there is a writer; others as `fcntl`.
pub fn lease_take(file: impl AsFd) -> io::Result<()> {
    lease(file, libc::F_RDLCK)
}

/// Gives a lease back.
///
/// # Errors
/// As `fcntl`.
pub fn lease_drop(file: impl AsFd) -> io::Result<()> {
    lease(file, libc::F_UNLCK)
}

fn lease(file: impl AsFd, kind: libc::c_int) -> io::Result<()> {
    // SAFETY: F_SETLEASE takes an int and no pointer; the descriptor is borrowed for the call.
    let result = unsafe { libc::fcntl(file.as_fd().as_raw_fd(), libc::F_SETLEASE, kind) };
    if result == -1 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Ignores SIGIO, which the kernel sends to the holder of a lease that somebody waits for and
/// which would end the process otherwise.
pub fn ignore_sigio() {
    // SAFETY: SIG_IGN installs no handler, so nothing runs in signal context.
    unsafe { libc::signal(libc::SIGIO, libc::SIG_IGN) };
}

/// Sets the umask of the process to 0: modes come from the callers of the file system.
pub fn clear_umask() {
    // SAFETY: umask only swaps a number in the process and can not fail.
    unsafe { libc::umask(0) };
}

/// The first descriptor that a service manager hands over (sd_listen_fds(3)).
const FIRST_FROM_EXEC: RawFd = 3;

static TAKEN: AtomicBool = AtomicBool::new(false);

/// Takes the descriptors that were open from number 3 on when this program was executed, and sets
/// them to be closed at the next exec. Only the first call gets them, later ones get none.
///
/// The caller must know from its environment (`$LISTEN_PID`, `$LISTEN_FDS`) that they were placed
/// there for it: then nothing in this process has opened those numbers itself.
///
/// # Errors
/// One of them is not open. None is taken then.
pub fn descriptors_from_exec(count: usize) -> io::Result<Vec<OwnedFd>> {
    if count == 0 || TAKEN.swap(true, Ordering::SeqCst) {
        return Ok(Vec::new());
    }
    let last = FIRST_FROM_EXEC.saturating_add(RawFd::try_from(count).map_err(io::Error::other)?);
    for number in FIRST_FROM_EXEC..last {
        // SAFETY: F_SETFD takes an int and no pointer; a number that is not open gives EBADF.
        if unsafe { libc::fcntl(number, libc::F_SETFD, libc::FD_CLOEXEC) } == -1 {
            return Err(io::Error::last_os_error());
        }
    }
    // SAFETY: every number was just seen to be open, was open before this program began, so that
    // no other owner exists, and is taken once only, which `TAKEN` ensures.
    Ok((FIRST_FROM_EXEC..last).map(|number| unsafe { OwnedFd::from_raw_fd(number) }).collect())
}
