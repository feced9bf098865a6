//! What fuser marks unsafe or keeps to itself: backing files by number, and a connection that
//! another process began.

use fuser::{FileAttr, FileHandle, FopenFlags, Generation, ReplyCreate, ReplyOpen, Session};
use std::ffi::{c_int, c_ulong};
use std::io;
use std::mem::ManuallyDrop;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::time::Duration;

/// `_IOW(229, 2, u32)`: FUSE_DEV_IOC_BACKING_CLOSE of linux/fuse.h.
const BACKING_CLOSE: c_ulong = 0x4004_e502;

/// Gives a backing file back to the kernel.
///
/// # Errors
/// `NotFound` if there is none of that number.
pub fn close_backing(device: BorrowedFd<'_>, number: u32) -> io::Result<()> {
    // SAFETY: the request reads one u32 through the pointer, which lives for the call.
    let result = unsafe { libc::ioctl(device.as_raw_fd(), BACKING_CLOSE as _, &raw const number) };
    if result == -1 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Answers an open: the kernel reads and writes the backing file of that number itself.
/// `flags`: beside that.
pub fn opened_passthrough(reply: ReplyOpen, handle: FileHandle, number: u32, flags: FopenFlags) {
    // SAFETY: the number is one that `BackingId::create_raw` gave for this connection and that is
    // closed by `close_backing` alone: `into_raw` keeps the wrapper from closing it.
    let backing = unsafe { reply.wrap_backing(number) };
    reply.opened_passthrough(handle, flags, &backing);
    let _not_closed = backing.into_raw();
}

/// Answers a create in the same way.
pub fn created_passthrough(
    reply: ReplyCreate,
    ttl: Duration,
    attr: &FileAttr,
    handle: FileHandle,
    number: u32,
) {
    // SAFETY: as in `opened_passthrough`.
    let backing = unsafe { reply.wrap_backing(number) };
    let (generation, flags) = (Generation(0), FopenFlags::empty());
    reply.created_passthrough(&ttl, attr, generation, handle, flags, &backing);
    let _not_closed = backing.into_raw();
}

/// Puts `device` in the place of the descriptor that a session reads from and writes to.
///
/// # Errors
/// As `dup3`.
pub fn replace_device<F: fuser::Filesystem>(
    session: &Session<F>,
    device: &OwnedFd,
) -> io::Result<()> {
    let number: c_int = session.as_fd().as_raw_fd();
    // SAFETY: the number is an open descriptor, owned by the session for as long as this borrow of
    // it lives; ManuallyDrop keeps this second owner from closing it. dup3 swaps what it refers
    // to atomically, and the session has no other knowledge of it than the number.
    let mut target = ManuallyDrop::new(unsafe { OwnedFd::from_raw_fd(number) });
    rustix::io::dup3(device, &mut target, rustix::io::DupFlags::CLOEXEC)?;
    Ok(())
}
