//! What must hold before anything is mounted. Each failure is one sentence with the cure, and
//! nothing has been changed by then.

use crate::fuse::{mount_points_below, unmount};
use rustix::fs::{AtFlags, CWD, StatxFlags};
use rustix::io::Errno;
use std::path::{Path, PathBuf};

/// Why nothing was mounted.
#[derive(Debug, thiserror::Error)]
pub enum GroundError {
    /// Not root.
    #[error("spoolfs must run as root to mount a file system; start it with systemd or sudo")]
    NotRoot,
    /// The mount point can not be used.
    #[error("the mount point {0} {1}")]
    MountPoint(PathBuf, String),
    /// Something is mounted there.
    #[error("{0} is already mounted ({1}); is another spoolfs running? `umount {0}` first")]
    Mounted(PathBuf, String),
    /// Something is mounted below it.
    #[error(
        "{0} is a mount below the mount point; unmount it, or mount spoolfs over a directory without mounts in it"
    )]
    Nested(PathBuf),
    /// A directory that must be outside is inside.
    #[error("{what} {path} is inside the mount point {mountpoint}; choose a directory outside")]
    Inside {
        /// What it is for.
        what: &'static str,
        /// Which.
        path: PathBuf,
        /// The mount point.
        mountpoint: PathBuf,
    },
}

/// Looks at the mount point and at what is around it. A mount that a dead daemon left behind is
/// taken away.
///
/// # Errors
/// The first thing that is not as it must be.
pub(super) fn inspect(
    mountpoint: &Path,
    outside: &[(&'static str, PathBuf)],
) -> Result<(), GroundError> {
    if !rustix::process::geteuid().is_root() {
        return Err(GroundError::NotRoot);
    }
    let bad = |why: String| GroundError::MountPoint(mountpoint.to_owned(), why);
    // Not what the kernel remembers of a mount: of a dead one it does for a second.
    match rustix::fs::statx(CWD, mountpoint, AtFlags::STATX_FORCE_SYNC, StatxFlags::TYPE) {
        Err(Errno::NOTCONN) => {
            tracing::warn!(path = %mountpoint.display(), "a dead daemon left its mount behind; it is taken away");
            unmount(mountpoint)
                .map_err(|e| bad(format!("has a dead mount that can not be taken away: {e}")))?;
        }
        Err(Errno::NOENT) => {
            return Err(bad("does not exist; create it, or correct `mountpoint`".into()));
        }
        Err(errno) => return Err(bad(format!("can not be looked at: {errno}"))),
        Ok(_) => {}
    }
    let real = mountpoint.canonicalize().map_err(|e| bad(format!("can not be resolved: {e}")))?;
    if !real.is_dir() {
        return Err(bad("is not a directory; correct `mountpoint`".into()));
    }
    for (what, path) in outside {
        if resolve(path).starts_with(&real) {
            let (path, mountpoint) = (path.clone(), mountpoint.to_owned());
            return Err(GroundError::Inside { what, path, mountpoint });
        }
    }
    let mounts =
        mount_points_below("self", &real).map_err(|e| bad(format!("can not be checked: {e}")))?;
    // What it lies on is not below it, unless the directory is the root of a file system.
    match mounts.into_iter().find(|(path, kind)| *path != real || kind.starts_with("fuse.spoolfs"))
    {
        Some((path, kind)) if path == real => Err(GroundError::Mounted(path, kind)),
        Some((path, _)) => Err(GroundError::Nested(path)),
        None => Ok(()),
    }
}

/// The path with its existing part resolved, so that neither a link nor `..` hides where it is.
fn resolve(path: &Path) -> PathBuf {
    let mut rest = Vec::new();
    let mut at = path;
    loop {
        if let Ok(real) = at.canonicalize() {
            return rest.iter().rev().fold(real, |p, name| p.join(name));
        }
        match (at.parent(), at.file_name()) {
            (Some(parent), Some(name)) => {
                rest.push(name.to_owned());
                at = parent;
            }
            _ => return path.to_owned(),
        }
    }
}
