//! The only module with `unsafe`: what neither the standard library nor rustix offers.

#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsFd, AsRawFd};

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
