//! The only module with `unsafe`: what neither the standard library nor rustix offers.

#![allow(unsafe_code)]

pub mod flac;
pub mod fscrypt;
pub mod fuse;
pub mod gsm;
mod handover;
pub mod opus;
mod shared;
#[cfg(feature = "faults")]
mod sqlite;

pub use handover::{place_descriptors, same_open_file};
pub use shared::SharedRegion;
#[cfg(feature = "faults")]
pub use sqlite::intercept_sqlite;

use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicBool, Ordering};

/// Who must not have a file open for a lease on it to be granted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lease {
    /// No writer: no descriptor, no writable shared mapping.
    NoWriter,
    /// Nobody else at all.
    Alone,
}

/// Tries to take a lease on a file opened for reading only (`fcntl(2)`, F_SETLEASE).
///
/// # Errors
/// `WouldBlock` if somebody has it open; others as `fcntl`.
pub fn lease_take(file: impl AsFd, kind: Lease) -> io::Result<()> {
    let kind = match kind {
        Lease::NoWriter => libc::F_RDLCK,
        Lease::Alone => libc::F_WRLCK,
    };
    lease(file, kind)
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

/// What [`write_out`] does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WriteOut {
    /// Hands dirty pages to the disk.
    Begin,
    /// The same, and waits until they are written.
    Finish,
}

/// Writes dirty pages of a file up to `end` (0: all) to the disk (`sync_file_range(2)`). Neither
/// metadata nor the disk's own cache: it makes nothing durable.
///
/// # Errors
/// As `sync_file_range`. An error is told once only.
pub fn write_out(file: impl AsFd, end: u64, how: WriteOut) -> io::Result<()> {
    let flags = match how {
        WriteOut::Begin => libc::SYNC_FILE_RANGE_WRITE,
        WriteOut::Finish => {
            libc::SYNC_FILE_RANGE_WAIT_BEFORE
                | libc::SYNC_FILE_RANGE_WRITE
                | libc::SYNC_FILE_RANGE_WAIT_AFTER
        }
    };
    let end = i64::try_from(end).map_err(io::Error::other)?;
    // SAFETY: it takes numbers and no pointer; the descriptor is borrowed for the call.
    let result = unsafe { libc::sync_file_range(file.as_fd().as_raw_fd(), 0, end, flags) };
    if result == -1 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Ignores SIGIO, which the kernel sends to the holder of a lease that somebody waits for and
/// which would end the process otherwise.
pub fn ignore_sigio() {
    // SAFETY: SIG_IGN installs no handler, so nothing runs in signal context.
    unsafe { libc::signal(libc::SIGIO, libc::SIG_IGN) };
}

/// Lets this thread, and those that it starts, stand back behind who records: waking up it takes the
/// processor from nobody (SCHED_BATCH, `sched(7)`), and of one that others want, too, it has the share
/// of `niceness` (`nice(2)`; 0: of what it was). It never starves. A policy that the administrator has
/// chosen stays.
pub fn stand_back(niceness: i32) {
    // SAFETY: it takes a number; 0 is this thread.
    let policy = unsafe { libc::sched_getscheduler(0) };
    if policy == libc::SCHED_OTHER {
        let param = libc::sched_param { sched_priority: 0 };
        // SAFETY: as above, and a pointer to what lives for the call.
        if unsafe { libc::sched_setscheduler(0, libc::SCHED_BATCH, &raw const param) } == -1 {
            let error = io::Error::last_os_error();
            tracing::debug!(%error, "a thread in the background is as urgent as all else");
        }
    }
    if niceness == 0 {
        return;
    }
    let thread = rustix::thread::gettid();
    if let Err(error) = rustix::process::setpriority_process(Some(thread), niceness) {
        tracing::debug!(%error, "a thread in the background runs at normal priority");
    }
}

/// Nothing of the memory of this process, which has keys in it, gets into a core dump, whatever
/// `ulimit -c` and `kernel.core_pattern` say (PR_SET_DUMPABLE(2const)). Who may trace every process
/// can still take one (`gcore`).
///
/// # Errors
/// None that Linux knows; what the system call says.
pub fn forbid_core_dumps() -> io::Result<()> {
    use rustix::process::{DumpableBehavior, set_dumpable_behavior};
    Ok(set_dumpable_behavior(DumpableBehavior::NotDumpable)?)
}

/// Sets the umask of the process to 0: modes come from the callers of the file system.
pub fn clear_umask() {
    // SAFETY: umask only swaps a number in the process and can not fail.
    unsafe { libc::umask(0) };
}

/// Until dropped, this thread has no claim to the blocks that a file system reserves for root:
/// what it writes for somebody else must not take them. It can not open files of others meanwhile.
#[derive(Debug)]
pub struct WithoutReserve {
    uid: libc::uid_t,
}

/// The overflow user, who owns nothing.
const NOBODY: libc::uid_t = 65534;

impl WithoutReserve {
    /// Begins, unless `caller` is root, whose the reserve is.
    pub fn for_caller(caller: u32) -> Option<WithoutReserve> {
        if caller == 0 {
            return None;
        }
        // SAFETY: setfsuid changes a number of this thread and takes no pointer.
        let before = unsafe { libc::setfsuid(NOBODY) };
        Some(WithoutReserve { uid: before.cast_unsigned() })
    }
}

impl Drop for WithoutReserve {
    fn drop(&mut self) {
        // SAFETY: as in `for_caller`.
        unsafe { libc::setfsuid(self.uid) };
    }
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

/// Gives up, for all threads started later, what lets a process use the blocks reserved for root
/// whoever it writes for (CAP_SYS_RESOURCE); user 0 may still use them.
pub fn give_up_reserve() {
    use rustix::thread::{CapabilitySet, capabilities, set_capabilities};
    let given_up = capabilities(None).and_then(|mut sets| {
        sets.effective.remove(CapabilitySet::SYS_RESOURCE);
        sets.permitted.remove(CapabilitySet::SYS_RESOURCE);
        sets.inheritable.remove(CapabilitySet::SYS_RESOURCE);
        set_capabilities(None, sets)
    });
    if let Err(errno) = given_up {
        tracing::warn!(%errno, "a capability could not be given up: calls may use root's reserve");
    }
}
