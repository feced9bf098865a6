//! The private directory `.spl` in the root of the lower directory, hidden when mounted.

use super::dir::{Dir, PRIVATE};
use rustix::io::{Errno, Result};

/// Its rooms. Each file in them is named after its node id.
#[derive(Debug)]
pub(super) struct Private {
    /// Files unlinked while open, until their last handle is closed.
    pub open: Dir,
    /// Files being brought back, not yet visible.
    pub stage: Dir,
    /// Released recordings that are written to, not yet whole.
    pub partial: Dir,
    /// What held recordings were before they were opened for writing again, until it is in the trash.
    pub kept: Dir,
    /// Local copies taken away by a permit, until the next purge.
    pub gone: Dir,
    /// Files in the trash.
    pub trash: Dir,
    /// Files that turned up where none should be; never touched again by spoolfs.
    pub found: Dir,
}

impl Private {
    pub fn open(root: &Dir) -> Result<Private> {
        let this = root.make_private()?;
        let room = |name: &[u8]| {
            match this.mkdir(name, 0o700) {
                Ok(()) | Err(Errno::EXIST) => {}
                Err(errno) => return Err(errno),
            }
            this.subdir(name)
        };
        Ok(Private {
            open: room(b"open")?,
            stage: room(b"stage")?,
            partial: room(b"partial")?,
            kept: room(b"kept")?,
            gone: room(b"gone")?,
            trash: room(b"trash")?,
            found: room(b"found")?,
        })
    }
}

impl Dir {
    /// Makes the private directory, or takes the one that is there if it is a directory of root
    /// that nobody else can write to.
    fn make_private(&self) -> Result<Dir> {
        let fd = self.as_file()?;
        match rustix::fs::mkdirat(&fd, PRIVATE, rustix::fs::Mode::RWXU) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(errno) => return Err(errno),
        }
        let dir = self.open_dir(PRIVATE)?;
        dir.set_self(Some(0o700), (Some(0), Some(0)), super::Times::default())?;
        Ok(dir)
    }
}
