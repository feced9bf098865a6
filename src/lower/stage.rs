//! Bringing a file back: written where nobody sees it, then made visible in one step.

use super::dir::{all_xattrs, identify_file, stat_file, timestamps};
use super::{Lower, LowerError, LowerStat, Result, SetTime, Times};
use crate::faults;
use crate::recording::{Attr, NodeId};
use rustix::fs::{Gid, Mode, OFlags, RenameFlags, Uid, XattrFlags};
use rustix::io::Errno;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// A file being brought back, in the private directory, not yet visible. Dropped before it is
/// installed, it is removed.
#[derive(Debug)]
pub struct Stage {
    room: super::Dir,
    name: Vec<u8>,
    id: NodeId,
    file: File,
    installed: bool,
}

/// What a file that is brought back shall look like.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Looks {
    /// Mode, owner and times.
    pub attr: Attr,
    /// Names and values.
    pub xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}

impl Lower {
    /// Begins to bring a file back.
    ///
    /// # Errors
    /// As `open`; no space.
    pub fn stage(&self, id: NodeId) -> Result<Stage> {
        let room = self.private.stage.clone();
        let name = format!("{id}-{:08x}", fastrand::u32(..)).into_bytes();
        let file = room
            .create(&name, OFlags::RDWR, 0o600)
            .map_err(LowerError::io(Path::new(".spl/stage")))?;
        Ok(Stage { room, name, id, file, installed: false })
    }

    /// Gives the staged file its attributes and identity, syncs it, and makes it visible at
    /// `path` if that still leads into directory `parent`. What it shall look like, and whether it
    /// is wanted at all, is asked twice: the second time while no name and no attribute can change
    /// there. Never replaces a file.
    ///
    /// # Errors
    /// `Changed` if it is no longer wanted or the name is taken.
    pub fn install(
        &self,
        mut stage: Stage,
        (parent, path): (NodeId, &Path),
        wanted: &dyn Fn() -> Option<Looks>,
    ) -> Result<LowerStat> {
        let changed = || LowerError::Changed { path: path.to_owned() };
        let looks = wanted().ok_or_else(changed)?;
        stage.dress(&looks).map_err(LowerError::io(path))?;
        faults::fail("lower.stage_sync").map_err(LowerError::io(path))?;
        stage.file.sync_all().map_err(|source| LowerError::Io { path: path.into(), source })?;
        faults::point("recall.after_sync");
        let (dir, name) = self.parent_of(path)?;
        let _names = self.names_still_at(&dir)?;
        let home = dir.stat_self().map_err(LowerError::io(path))?.node;
        let looks_now = wanted().filter(|_| home == Some(parent)).ok_or_else(changed)?;
        if looks_now != looks {
            // A user changed attributes meanwhile. Not synced again: the file system keeps the
            // order of this and the rename that follows.
            stage.dress(&looks_now).map_err(LowerError::io(path))?;
        }
        let _times = KeepTimes::of(&dir);
        match stage.room.rename(&stage.name, &dir, name, RenameFlags::NOREPLACE) {
            Ok(()) => stage.installed = true,
            Err(Errno::EXIST) => return Err(changed()),
            Err(errno) => return Err(LowerError::io(path)(errno)),
        }
        stat_file(&stage.file).map_err(LowerError::io(path))
    }
}

/// Gives a directory its times back when dropped: that a copy was released or recalled is no
/// change that users may see.
pub(super) struct KeepTimes<'d> {
    dir: &'d super::Dir,
    times: Times,
}

impl KeepTimes<'_> {
    pub fn of(dir: &super::Dir) -> KeepTimes<'_> {
        let attr = dir.stat_self().map(|s| s.attr);
        let times = attr.map(|a| Times {
            atime: Some(SetTime::At(a.atime)),
            mtime: Some(SetTime::At(a.mtime)),
        });
        KeepTimes { dir, times: times.unwrap_or_default() }
    }
}

impl Drop for KeepTimes<'_> {
    fn drop(&mut self) {
        if let Err(errno) = self.dir.set_self(None, (None, None), self.times) {
            tracing::debug!(%errno, "the times of a directory could not be kept");
        }
    }
}

impl Stage {
    /// Writes at a position.
    ///
    /// # Errors
    /// As `pwrite`.
    pub fn write_at(&self, offset: u64, bytes: &[u8]) -> Result<()> {
        self.file
            .write_all_at(bytes, offset)
            .map_err(|source| LowerError::Io { path: PathBuf::from(".spl/stage"), source })
    }

    fn dress(&self, looks: &Looks) -> rustix::io::Result<()> {
        dress_file(&self.file, self.id, looks)
    }
}

/// Gives a file its attributes and identity.
pub(super) fn dress_file(file: &File, id: NodeId, looks: &Looks) -> rustix::io::Result<()> {
    identify_file(file, id)?;
    look_like(file, looks)
}

/// Gives a file its attributes.
pub(super) fn look_like(file: &File, Looks { attr, xattrs }: &Looks) -> rustix::io::Result<()> {
    let (uid, gid) = (Uid::from_raw(attr.uid), Gid::from_raw(attr.gid));
    rustix::fs::fchown(file, Some(uid), Some(gid))?;
    for (name, _) in all_xattrs(file)? {
        // A user took it away since the file was dressed before.
        if !xattrs.iter().any(|(key, _)| *key == name) {
            rustix::fs::fremovexattr(file, &*name)?;
        }
    }
    for (name, value) in xattrs {
        rustix::fs::fsetxattr(file, &**name, value, XattrFlags::empty())?;
    }
    // After the ACLs, which move the group bits, and after chown, which clears setuid.
    rustix::fs::fchmod(file, Mode::from_raw_mode(attr.mode & 0o7777))?;
    let times =
        Times { atime: Some(SetTime::At(attr.atime)), mtime: Some(SetTime::At(attr.mtime)) };
    rustix::fs::futimens(file, &timestamps(times))
}

impl Drop for Stage {
    fn drop(&mut self) {
        if !self.installed {
            let _next_start_removes_it = self.room.unlink(&self.name);
        }
    }
}
