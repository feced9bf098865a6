//! Files in the trash: deleted by a user, kept under their numbers in the private directory until
//! they are archived, or restored.

use super::{Dir, Lower, LowerError, LowerStat, Result, retire};
use crate::faults;
use crate::recording::NodeId;
use rustix::fs::RenameFlags;
use rustix::io::Errno;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

const ROOM: &str = ".spl/trash";

/// Where a file in the trash is: a path for everything that takes one.
pub fn trash_path(id: NodeId) -> PathBuf {
    Path::new(ROOM).join(id.to_string())
}

/// The name in the trash that a path is.
pub(super) fn name_in(path: &Path) -> Option<&[u8]> {
    (path.parent()? == Path::new(ROOM)).then_some(path.file_name()?.as_bytes())
}

fn name_of(id: NodeId) -> Vec<u8> {
    id.to_string().into_bytes()
}

fn failed(id: NodeId) -> impl FnOnce(Errno) -> LowerError {
    move |errno| LowerError::Io { path: trash_path(id), source: errno.into() }
}

impl Lower {
    /// Takes the last name of a file away, and keeps the file. What is there under its number
    /// already is another name of it, left by a crash, or nobody's.
    ///
    /// # Errors
    /// As `rename`: the file is where it was.
    pub fn to_trash(&self, dir: &Dir, name: &[u8], id: NodeId) -> Result<()> {
        let kept = name_of(id);
        match dir.rename(name, &self.private.trash, &kept, RenameFlags::NOREPLACE) {
            Err(Errno::EXIST) => {}
            done => return done.map_err(failed(id)),
        }
        if self.is_in_trash(dir, name, id) {
            return dir.unlink(name).map_err(failed(id));
        }
        self.set_trash_aside(id);
        dir.rename(name, &self.private.trash, &kept, RenameFlags::NOREPLACE).map_err(failed(id))
    }

    /// The same by path; the file in the trash. The caller keeps names from being changed.
    ///
    /// # Errors
    /// As `rename`: the file is where it was.
    pub fn path_to_trash(&self, path: &Path, id: NodeId) -> Result<LowerStat> {
        let (dir, name) = self.parent_of(path)?;
        self.to_trash(&dir, name, id)?;
        self.stat(&trash_path(id))
    }

    /// A second name for a file that is about to be replaced by a rename.
    ///
    /// # Errors
    /// As `link`.
    pub fn link_to_trash(&self, dir: &Dir, name: &[u8], id: NodeId) -> Result<()> {
        let link = || dir.link(name, &self.private.trash, &name_of(id));
        match link() {
            Err(Errno::EXIST) if self.is_in_trash(dir, name, id) => Ok(()),
            Err(Errno::EXIST) => {
                self.set_trash_aside(id);
                link().map_err(failed(id))
            }
            done => done.map_err(failed(id)),
        }
    }

    /// Takes that name away again, as long as the file has the other one.
    pub fn unlink_from_trash(&self, dir: &Dir, name: &[u8], id: NodeId) {
        if self.is_in_trash(dir, name, id)
            && let Err(errno) = self.private.trash.unlink(&name_of(id))
        {
            tracing::warn!(%id, %errno, "a second name in the trash stays until the next start");
        }
    }

    /// Whether a name is that of the very file that is in the trash.
    fn is_in_trash(&self, dir: &Dir, name: &[u8], id: NodeId) -> bool {
        let ino = |stat: rustix::io::Result<LowerStat>| stat.ok().map(|s| s.version.ino);
        let kept = ino(self.private.trash.stat(&name_of(id)));
        kept.is_some() && ino(dir.stat(name)) == kept
    }

    fn set_trash_aside(&self, id: NodeId) {
        let (name, aside) = (name_of(id), format!("{id}-{:08x}", fastrand::u32(..)));
        let moved = self.private.trash.rename(
            &name,
            &self.private.found,
            aside.as_bytes(),
            RenameFlags::NOREPLACE,
        );
        tracing::error!(?moved, aside, "an unexpected file in the trash was kept in .spl/found");
    }

    /// Gives a file in the trash a name. Never replaces a file. The caller keeps names from being
    /// made there.
    ///
    /// # Errors
    /// As `rename`.
    pub fn out_of_trash(&self, id: NodeId, path: &Path) -> Result<LowerStat> {
        let (dir, name) = self.parent_of(path)?;
        self.private
            .trash
            .rename(&name_of(id), &dir, name, RenameFlags::NOREPLACE)
            .map_err(LowerError::io(path))?;
        faults::point("restore.after_move");
        dir.stat(name).map_err(LowerError::io(path))
    }

    /// A second name in the trash of a file that has its own: see [`Lower::unlink_from_trash`].
    ///
    /// # Errors
    /// As `open`.
    pub fn drop_trash_link(&self, id: NodeId, path: &Path) -> Result<()> {
        let (dir, name) = self.parent_of(path)?;
        self.unlink_from_trash(&dir, name, id);
        Ok(())
    }

    /// The numbers of the files in the trash.
    pub fn trash_numbers(&self) -> Vec<NodeId> {
        let names = retire::names(&self.private.trash).unwrap_or_default();
        let number = |name: &Vec<u8>| std::str::from_utf8(name).ok()?.parse().ok().map(NodeId);
        names.iter().filter_map(number).collect()
    }
}
