//! The few system calls that no safe wrapper offers.
#![allow(unsafe_code, reason = "mappings and truncate(2) by path have no safe interface")]

use std::ffi::CString;
use std::os::fd::BorrowedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::io::Errno;
use rustix::mm::{MapFlags, MsyncFlags, ProtFlags};

const PAGE: u64 = 4096;

/// truncate(2).
pub fn truncate(path: &Path, size: u64) -> Result<(), Errno> {
    let path = CString::new(path.as_os_str().as_bytes()).map_err(|_| Errno::INVAL)?;
    let size = libc::off_t::try_from(size).map_err(|_| Errno::INVAL)?;
    // SAFETY: `path` is a C string that outlives the call.
    match unsafe { libc::truncate(path.as_ptr(), size) } {
        0 => Ok(()),
        _ => Err(last_error()),
    }
}

fn last_error() -> Errno {
    let code = std::io::Error::last_os_error().raw_os_error().unwrap_or(0);
    Errno::from_raw_os_error(code)
}

/// Maps the range shared, lets `with` use it, writes it back and unmaps it.
///
/// The whole range must lie within the file, and nobody may shorten it meanwhile.
pub fn mapped<T>(
    fd: BorrowedFd<'_>,
    at: u64,
    len: usize,
    writable: bool,
    with: impl FnOnce(&mut [u8]) -> T,
) -> Result<T, Errno> {
    let lead = usize::try_from(at % PAGE).unwrap_or(0);
    let mut protection = ProtFlags::READ;
    if writable {
        protection |= ProtFlags::WRITE;
    }
    // SAFETY: a new mapping at an address the kernel chooses overlaps nothing.
    let start = unsafe {
        rustix::mm::mmap(
            std::ptr::null_mut(),
            lead + len,
            protection,
            MapFlags::SHARED,
            fd,
            at - at % PAGE,
        )?
    };
    let result = if writable {
        // SAFETY: the mapping is `lead + len` readable and writable bytes, and only ours.
        let bytes = unsafe { std::slice::from_raw_parts_mut(start.cast::<u8>(), lead + len) };
        with(&mut bytes[lead..])
    } else {
        // SAFETY: the mapping is `lead + len` readable bytes; they are copied before any use.
        let bytes = unsafe { std::slice::from_raw_parts(start.cast::<u8>(), lead + len) };
        with(&mut bytes[lead..].to_vec())
    };
    // SAFETY: exactly the mapping made above, which no reference outlives.
    let synced = unsafe { rustix::mm::msync(start, lead + len, MsyncFlags::SYNC) };
    // SAFETY: as above.
    unsafe { rustix::mm::munmap(start, lead + len)? };
    synced.map(|()| result)
}
