//! Passthrough: lower files that the kernel reads and writes itself (kernel 6.9).

use crate::sys::{self, WithoutReserve};
use crate::vfs::Passthrough;
use fuser::BackingId;
use rustix::fs::{Mode, OFlags};
use std::collections::HashSet;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Numbers that a predecessor may have got and not noted: as many as it had threads, and some.
const LOST_MAX: u32 = 64;

/// The backing files of one connection.
#[derive(Debug)]
pub(super) struct Backings {
    device: Arc<OwnedFd>,
    failing: AtomicBool,
}

impl Backings {
    pub fn new(device: Arc<OwnedFd>) -> Backings {
        Backings { device, failing: AtomicBool::new(false) }
    }

    /// Tries whether the kernel takes a file as backing.
    pub fn probe(&self, file: &File) -> io::Result<()> {
        let number = BackingId::create_raw(&*self.device, file)?;
        sys::fuse::close_backing(self.device.as_fd(), number)
    }

    /// The kernel opens the file anew for each user with the rights of who registered it, so that
    /// a caller who is not root has no claim to root's reserve. The descriptor registered is for
    /// reading only: one for writing would count as a writer as long as anybody reads.
    fn number(&self, file: &File, caller: u32) -> io::Result<u32> {
        let path = format!("/proc/self/fd/{}", file.as_raw_fd());
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK;
        let file = rustix::fs::open(path, flags, Mode::empty())?;
        let _as_the_caller = WithoutReserve::for_caller(caller);
        BackingId::create_raw(&*self.device, file)
    }
}

impl Passthrough for Backings {
    fn register(&self, file: &File, caller: u32) -> Option<u32> {
        let number = self.number(file, caller);
        if self.failing.swap(number.is_err(), Ordering::Relaxed) != number.is_err() {
            match &number {
                Ok(_) => tracing::info!("files are passed through again"),
                Err(error) => tracing::warn!(
                    %error, "the kernel does not take a file for passthrough: it is served plainly"
                ),
            }
        }
        number.ok()
    }

    fn unregister(&self, number: u32) {
        match sys::fuse::close_backing(self.device.as_fd(), number) {
            Ok(()) => {}
            // Given back already by a predecessor that did not live to note it.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => tracing::warn!(number, %error, "a backing file could not be closed"),
        }
    }

    /// The kernel gives numbers out in order, so those lost are just before the next.
    fn unregister_lost(&self, open: &HashSet<u32>) {
        let Ok(any) = rustix::fs::memfd_create("probe", rustix::fs::MemfdFlags::CLOEXEC) else {
            return;
        };
        let Ok(next) = BackingId::create_raw(&*self.device, &any) else { return };
        for number in (next.saturating_sub(LOST_MAX)..next).filter(|n| *n > 0 && !open.contains(n))
        {
            let _most_are_closed = sys::fuse::close_backing(self.device.as_fd(), number);
        }
        self.unregister(next);
    }
}
