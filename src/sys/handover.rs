//! Placing descriptors for a program that is about to be executed, and telling copies apart.

use super::FIRST_FROM_EXEC;
use std::io;
use std::os::fd::{AsFd, AsRawFd, RawFd};

/// Moves inherited descriptors to the numbers from 3 on, in this order, where the program executed
/// next looks for them (sd_listen_fds(3)). All others of `numbers` are closed at the exec.
///
/// For a process that does nothing else: whatever has those numbers already is replaced.
///
/// # Errors
/// One of them is not open; the process should end then.
pub fn place_descriptors(numbers: &[RawFd]) -> io::Result<()> {
    let count = RawFd::try_from(numbers.len()).map_err(io::Error::other)?;
    let beyond = FIRST_FROM_EXEC.saturating_add(count);
    let mut copies = Vec::with_capacity(numbers.len());
    for number in numbers {
        // SAFETY: both take ints and no pointer; a number that is not open gives EBADF. The copy
        // has a new number, the original stays open until the exec.
        copies.push(checked(unsafe { libc::fcntl(*number, libc::F_DUPFD_CLOEXEC, beyond) })?);
        // SAFETY: as above.
        checked(unsafe { libc::fcntl(*number, libc::F_SETFD, libc::FD_CLOEXEC) })?;
    }
    for (copy, place) in copies.into_iter().zip(FIRST_FROM_EXEC..) {
        // SAFETY: takes ints only. What had the number is documented to be replaced; the standard
        // streams are below it.
        checked(unsafe { libc::dup2(copy, place) })?;
    }
    Ok(())
}

/// Whether two descriptors are copies of one another, so that closing one changes nothing
/// (`kcmp(2)`). Where the kernel does not tell, they count as different.
pub fn same_open_file(one: impl AsFd, other: impl AsFd) -> bool {
    const KCMP_FILE: libc::c_int = 0;
    let own = rustix::process::getpid().as_raw_pid();
    let number = |fd: RawFd| libc::c_ulong::try_from(fd);
    let (Ok(one), Ok(other)) = (number(one.as_fd().as_raw_fd()), number(other.as_fd().as_raw_fd()))
    else {
        return false;
    };
    // SAFETY: kcmp with KCMP_FILE compares two numbers of this process and takes no pointer.
    let order = unsafe { libc::syscall(libc::SYS_kcmp, own, own, KCMP_FILE, one, other) };
    order == 0
}

fn checked(result: libc::c_int) -> io::Result<libc::c_int> {
    if result == -1 { Err(io::Error::last_os_error()) } else { Ok(result) }
}
