//! The kernel's edge: mounting, and translating FUSE requests to `vfs` and back.
//!
//! **Invariant:** no semantics here. A request that may wait is handed to a worker; every other
//! is answered in the thread that read it.

mod adapter;
mod convert;
mod errno;
mod mount;

pub use mount::{Mounted, mount_points_below, unmount};

use crate::limits::FUSE_THREADS;
use crate::vfs::Vfs;
use adapter::Adapter;
use fuser::{Config, Session, SessionACL};
use std::path::Path;
use std::sync::Arc;

/// A mounted file system that answers once it runs.
pub struct Server {
    session: Session<Adapter>,
    mounted: Mounted,
}

impl Server {
    /// Mounts `vfs` over `mountpoint`.
    ///
    /// # Errors
    /// As `mount(2)`; /dev/fuse is missing or may not be opened.
    pub fn mount(vfs: Arc<Vfs>, mountpoint: &Path) -> std::io::Result<Server> {
        let (device, mounted) = Mounted::new(mountpoint)?;
        let mut config = Config::default();
        config.acl = SessionACL::All;
        config.n_threads = Some(FUSE_THREADS);
        let session = Session::from_fd(Adapter::new(vfs), device, SessionACL::All, config)?;
        Ok(Server { session, mounted })
    }

    /// The mount, to end it by.
    pub fn mounted(&self) -> Mounted {
        self.mounted.clone()
    }

    /// Answers the kernel until the file system is unmounted and its last file closed.
    ///
    /// # Errors
    /// As reading from /dev/fuse.
    pub fn run(self) -> std::io::Result<()> {
        self.session.run()
    }
}
