//! Makes SQLite's own system calls fail as `faults` says: `sqlite.open`, `sqlite.read`,
//! `sqlite.write`, `sqlite.truncate`. SQLite lets them be replaced, but for fsync.

use crate::faults;
use libc::{c_char, c_int, c_void, off_t, size_t, ssize_t};
use rusqlite::ffi;
use std::sync::Once;

/// Whether the call shall fail; `errno` is set then.
fn fails(chosen: Result<(), rustix::io::Errno>) -> bool {
    let Err(errno) = chosen else { return false };
    // SAFETY: the C library's errno of this thread is always there to be written.
    unsafe { *libc::__errno_location() = errno.raw_os_error() };
    true
}

extern "C" fn open(path: *const c_char, flags: c_int, mode: c_int) -> c_int {
    if fails(faults::fail("sqlite.open")) {
        return -1;
    }
    // SAFETY: what SQLite would have called, with SQLite's own arguments; so are the others.
    unsafe { libc::open(path, flags | libc::O_CLOEXEC, mode) }
}

extern "C" fn pread(file: c_int, into: *mut c_void, len: size_t, at: off_t) -> ssize_t {
    if fails(faults::fail("sqlite.read")) {
        return -1;
    }
    // SAFETY: as in `open`.
    unsafe { libc::pread(file, into, len, at) }
}

extern "C" fn pwrite(file: c_int, from: *const c_void, len: size_t, at: off_t) -> ssize_t {
    if fails(faults::fail("sqlite.write")) {
        return -1;
    }
    // SAFETY: as in `open`.
    unsafe { libc::pwrite(file, from, len, at) }
}

extern "C" fn ftruncate(file: c_int, len: off_t) -> c_int {
    if fails(faults::fail("sqlite.truncate")) {
        return -1;
    }
    // SAFETY: as in `open`.
    unsafe { libc::ftruncate(file, len) }
}

/// Puts these in the place of SQLite's, once in the life of the process.
pub fn intercept_sqlite() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        // SAFETY: the default VFS lives as long as the process; it is asked before any database is
        // open. Each function has the signature that os_unix.c casts that system call to.
        unsafe {
            let vfs = ffi::sqlite3_vfs_find(std::ptr::null());
            let Some(set) = vfs.as_ref().and_then(|v| v.xSetSystemCall) else { return };
            let calls: [(&std::ffi::CStr, *const ()); 6] = [
                (c"open", open as *const ()),
                (c"pread", pread as *const ()),
                (c"pread64", pread as *const ()),
                (c"pwrite", pwrite as *const ()),
                (c"pwrite64", pwrite as *const ()),
                (c"ftruncate", ftruncate as *const ()),
            ];
            for (name, call) in calls {
                let call: unsafe extern "C" fn() = std::mem::transmute(call);
                // One that this build of SQLite does not use is unknown to it.
                let _known = set(vfs, name.as_ptr(), Some(call));
            }
        }
    });
}
