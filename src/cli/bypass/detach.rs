//! Takes our mount out of the tree without ever touching what is mounted: a file system whose
//! daemon hangs also hangs whoever looks into it.

use crate::cli::mounts::{self, Mount};
use crate::limits;
use rustix::mount::UnmountFlags;
use std::io;
use std::path::{Path, PathBuf};

/// The type under which we mount.
const KIND: &str = "fuse.spoolfs";

/// Why it could not be done.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DetachError {
    /// What is mounted is not known.
    #[error("/proc/self/mountinfo can not be read: {0}; mount /proc")]
    Table(io::Error),
    /// Somebody else's mount hides ours.
    #[error(
        "on {0} a {1} is mounted over spoolfs, which is left alone; `umount {0}` and try again"
    )]
    Covered(PathBuf, String),
    /// The kernel refused.
    #[error("{0} can not be unmounted: {1}; run this as root, or `umount -l {0}` by hand")]
    Refused(PathBuf, io::Error),
    /// It is mounted again as often as it is unmounted.
    #[error("{0} is mounted again and again by somebody; stop what starts spoolfs there")]
    Again(PathBuf),
}

/// Detaches every mount of ours at `mountpoint`, so that calls land in the plain directory. Files
/// that are open stay with their mount. Returns how many there were.
///
/// # Errors
/// What is in the way; a mount that is not ours is never touched.
pub(crate) fn detach(mountpoint: &Path) -> Result<usize, DetachError> {
    let mut done = 0;
    loop {
        let mounts = mounts::all().map_err(DetachError::Table)?;
        let Some(place) = place(&mounts, mountpoint) else { return Ok(done) };
        match mounts::top(&mounts, &place) {
            Some(top) if top.kind == KIND => {}
            Some(top) => return Err(DetachError::Covered(place, top.kind.clone())),
            None => return Ok(done),
        }
        if done == limits::STACKED_MOUNTS_MAX {
            return Err(DetachError::Again(place));
        }
        rustix::mount::unmount(&place, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW)
            .map_err(|errno| DetachError::Refused(place, errno.into()))?;
        done += 1;
    }
}

/// The path under which the table has our mount, if it has one.
fn place(mounts: &[Mount], mountpoint: &Path) -> Option<PathBuf> {
    let ours = |path: &Path| mounts.iter().any(|m| m.point == path && m.kind == KIND);
    let mut path = mountpoint.to_owned();
    for _ in 0..limits::LINKS_MAX {
        // A link on the way there is looked at only above the mount, where no daemon is asked.
        if let (Some(parent), Some(name)) = (path.parent(), path.file_name())
            && !ours(&path)
            && !below_ours(mounts, parent)
            && let Ok(parent) = parent.canonicalize()
        {
            path = parent.join(name);
        }
        if ours(&path) {
            return Some(path);
        }
        if mounts.iter().any(|m| m.point == path) || below_ours(mounts, &path) {
            return None;
        }
        let target = std::fs::read_link(&path).ok()?;
        path = path.parent()?.join(target);
    }
    None
}

fn below_ours(mounts: &[Mount], path: &Path) -> bool {
    mounts.iter().any(|m| m.kind == KIND && path.starts_with(&m.point))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    fn mount(id: u64, parent: u64, point: &Path, kind: &str) -> Mount {
        Mount { id, parent, point: point.to_owned(), kind: kind.to_owned() }
    }

    #[test]
    fn links_on_the_way_are_followed_and_the_mount_is_not_touched() {
        let dir = tempfile::tempdir().expect("a directory");
        let root = dir.path().canonicalize().expect("it is there");
        let real = root.join("data/monitor");
        std::fs::create_dir_all(&real).expect("made");
        symlink(root.join("data"), root.join("spool")).expect("a link");
        symlink("data/monitor", root.join("monitor")).expect("a link");
        symlink("loop", root.join("loop")).expect("a link");
        let mounts = [mount(1, 0, Path::new("/"), "ext4"), mount(2, 1, &real, KIND)];
        for given in ["data/monitor", "spool/monitor", "monitor", "monitor/", "spool/../monitor"] {
            assert_eq!(place(&mounts, &root.join(given)), Some(real.clone()), "{given}");
        }
        for given in ["data", "loop", "data/monitor/deep", "none/monitor"] {
            assert_eq!(place(&mounts, &root.join(given)), None, "{given}");
        }
        assert_eq!(place(&mounts[..1], &real), None);
    }

    #[test]
    fn nothing_mounted_is_fine_and_other_file_systems_are_left_alone() {
        let dir = tempfile::tempdir().expect("a directory");
        assert_eq!(detach(dir.path()).expect("fine"), 0);
        assert_eq!(detach(Path::new("/proc")).expect("fine"), 0);
        assert!(Path::new("/proc/self/mountinfo").exists());
    }
}
