//! mount(2) and umount(2), without libfuse.

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::{MountFlags, UnmountFlags};
use std::ffi::{CString, OsString};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

/// The file system type in /proc/mounts.
const KIND: &str = "fuse.spoolfs";

/// A mount made by this process.
#[derive(Clone, Debug)]
pub struct Mounted {
    path: PathBuf,
}

impl Mounted {
    /// Opens /dev/fuse and mounts it. The kernel's INIT is waiting on the descriptor afterwards.
    pub(super) fn new(path: &Path) -> io::Result<(OwnedFd, Mounted)> {
        let flags = OFlags::RDWR | OFlags::CLOEXEC;
        let device = rustix::fs::open("/dev/fuse", flags, Mode::empty()).map_err(|e| {
            io::Error::new(
                io::Error::from(e).kind(),
                format!(
                    "/dev/fuse: {e}; load the kernel module with `modprobe fuse` and run as root"
                ),
            )
        })?;
        // Permissions are checked by the kernel against what `stat` shows, and everybody may
        // come in: Asterisk, the web server and the administrator are different users.
        let options = format!(
            "fd={},rootmode=40000,user_id=0,group_id=0,allow_other,default_permissions",
            device.as_raw_fd()
        );
        let options = CString::new(options).map_err(io::Error::other)?;
        let flags = MountFlags::NOSUID | MountFlags::NODEV;
        rustix::mount::mount("spoolfs", path, KIND, flags, &*options)?;
        Ok((device, Mounted { path: path.to_owned() }))
    }

    /// A mount made by a predecessor.
    pub(super) fn at(path: &Path) -> Mounted {
        Mounted { path: path.to_owned() }
    }

    /// Where.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Unmounts. With files still open the mount is taken out of the tree at once, so that the
    /// plain directory shows, and goes on serving those files. Tells whether it is all over.
    ///
    /// # Errors
    /// As `umount`.
    pub fn unmount(&self) -> io::Result<bool> {
        unmount(&self.path)
    }
}

/// Unmounts what is mounted at `path`; see [`Mounted::unmount`].
///
/// # Errors
/// As `umount`.
pub fn unmount(path: &Path) -> io::Result<bool> {
    match rustix::mount::unmount(path, UnmountFlags::NOFOLLOW) {
        Ok(()) => Ok(true),
        Err(Errno::BUSY) => {
            rustix::mount::unmount(path, UnmountFlags::NOFOLLOW | UnmountFlags::DETACH)?;
            Ok(false)
        }
        Err(errno) => Err(errno.into()),
    }
}

/// Takes every mount of ours at `path` out of the tree, without ever asking what is mounted there:
/// perhaps nobody answers.
///
/// # Errors
/// As `umount`.
pub fn detach(path: &Path) -> io::Result<()> {
    while own_mounts_at(path)? > 0 {
        rustix::mount::unmount(path, UnmountFlags::NOFOLLOW | UnmountFlags::DETACH)?;
    }
    Ok(())
}

/// How many mounts of ours there are at exactly `path`.
///
/// # Errors
/// If /proc/self/mountinfo can not be read.
pub fn own_mounts_at(path: &Path) -> io::Result<usize> {
    let mounts = mount_points_below("self", path)?;
    Ok(mounts.iter().filter(|(point, kind)| point == path && kind == KIND).count())
}

/// The mount points at or below `path` as a process sees them ("self" is this one), with their
/// file system types, outermost first.
///
/// # Errors
/// If its mountinfo can not be read.
pub fn mount_points_below(process: &str, path: &Path) -> io::Result<Vec<(PathBuf, String)>> {
    let table = std::fs::read(Path::new("/proc").join(process).join("mountinfo"))?;
    Ok(table
        .split(|b| *b == b'\n')
        .filter_map(parse_mount_line)
        .filter(|(point, _)| point.starts_with(path))
        .collect())
}

/// proc_pid_mountinfo(5): the fifth field is the mount point with octal escapes, the type follows
/// a lone `-`.
fn parse_mount_line(line: &[u8]) -> Option<(PathBuf, String)> {
    let mut fields = line.split(|b| *b == b' ');
    let point = fields.nth(4)?;
    let kind = fields.skip_while(|f| *f != b"-").nth(1)?;
    let kind = String::from_utf8_lossy(kind).into_owned();
    Some((PathBuf::from(OsString::from_vec(unescape(point))), kind))
}

fn unescape(text: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((first, tail)) = rest.split_first() {
        let escaped = tail
            .get(..3)
            .filter(|_| *first == b'\\')
            .and_then(|digits| u8::from_str_radix(std::str::from_utf8(digits).ok()?, 8).ok());
        match escaped {
            Some(byte) => {
                out.push(byte);
                rest = tail.get(3..).unwrap_or_default();
            }
            None => {
                out.push(*first);
                rest = tail;
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mount_points_with_spaces_are_understood() {
        let line = br"36 35 98:0 /mnt1 /srv/a\040b rw,noatime master:1 - ext4 /dev/root rw";
        let expected = (PathBuf::from("/srv/a b"), "ext4".to_owned());
        assert_eq!(parse_mount_line(line), Some(expected));
        assert_eq!(parse_mount_line(b"nonsense"), None);
    }
}
