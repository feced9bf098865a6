//! Files that have no name any more but are still needed for a moment.

use super::{Dir, Lower, LowerError, LowerStat, Result};
use crate::recording::NodeId;
use rustix::fs::OFlags;
use rustix::io::Errno;
use std::fs::File;
use std::path::{Path, PathBuf};

impl Lower {
    /// Keeps a file that is about to be unlinked or replaced while it is open: a second name in
    /// the private directory, so that whoever takes the mount over can open it again.
    ///
    /// # Errors
    /// As `link`.
    pub fn hold(&self, dir: &Dir, name: &[u8], id: NodeId) -> Result<()> {
        match dir.link(name, &self.private.open, &held_name(id)) {
            Ok(()) | Err(Errno::EXIST) => Ok(()),
            Err(errno) => Err(held_error(id)(errno)),
        }
    }

    /// Looks at a held file.
    ///
    /// # Errors
    /// As `stat`.
    pub fn held(&self, id: NodeId) -> Result<LowerStat> {
        self.private.open.stat(&held_name(id)).map_err(held_error(id))
    }

    /// Directory and name of a held file.
    pub fn held_place(&self, id: NodeId) -> (Dir, Vec<u8>) {
        (self.private.open.clone(), held_name(id))
    }

    /// Opens a held file.
    ///
    /// # Errors
    /// As `open`.
    pub fn open_held(&self, id: NodeId, flags: OFlags) -> Result<File> {
        self.private.open.open(&held_name(id), flags).map_err(held_error(id))
    }

    /// The last handle of a held file is closed: its bytes go.
    ///
    /// # Errors
    /// As `unlink`.
    pub fn unhold(&self, id: NodeId) -> Result<()> {
        self.private.open.unlink(&held_name(id)).map_err(held_error(id))
    }

    /// Takes the name of a large file away at once; the bytes go with [`Lower::unhold`], which
    /// may take long and belongs on a worker.
    ///
    /// # Errors
    /// As `rename`.
    pub fn hold_last(&self, dir: &Dir, name: &[u8], id: NodeId) -> Result<()> {
        let flags = rustix::fs::RenameFlags::NOREPLACE;
        dir.rename(name, &self.private.open, &held_name(id), flags).map_err(held_error(id))
    }
}

fn held_name(id: NodeId) -> Vec<u8> {
    id.to_string().into_bytes()
}

fn held_error(id: NodeId) -> impl FnOnce(Errno) -> LowerError {
    let path: PathBuf = Path::new(".spl/open").join(id.to_string());
    move |errno| LowerError::Io { path, source: errno.into() }
}
