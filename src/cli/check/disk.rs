//! What a directory can do, found out by doing it.

use rustix::fs::{AtFlags, CWD, Mode, OFlags, RenameFlags, ResolveFlags, XattrFlags};
use rustix::io::Errno;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

/// A step that the kernel refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Refused {
    pub step: &'static str,
    pub errno: Errno,
}

impl std::fmt::Display for Refused {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let text = std::io::Error::from(self.errno).to_string();
        let reason = text.split(" (os error").next().unwrap_or_default().to_lowercase();
        write!(f, "{}: {reason}", self.step)
    }
}

fn step<T>(step: &'static str, result: rustix::io::Result<T>) -> Result<T, Refused> {
    result.map_err(|errno| Refused { step, errno })
}

/// Opens a directory.
pub(super) fn open(dir: &Path) -> Result<OwnedFd, Refused> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    step("open", rustix::fs::openat(CWD, dir, flags, Mode::empty()))
}

/// Names for a probe file that nobody else has.
fn names() -> (String, String) {
    let nonce = format!("{:016x}", fastrand::u64(..));
    (format!(".spoolfs-check-{nonce}"), format!(".spoolfs-check-{nonce}.moved"))
}

/// Creates, writes, renames and removes a file.
pub(super) fn try_files(dir: &OwnedFd) -> Result<(), Refused> {
    with_probe(dir, |probe, first, second| {
        step("write", rustix::io::write(probe, b"spoolfs"))?;
        step("fsync", rustix::fs::fsync(probe))?;
        step("rename", rustix::fs::renameat_with(dir, first, dir, second, RenameFlags::NOREPLACE))
    })
}

/// Sets and reads an attribute in the namespace that only root can reach.
pub(super) fn try_trusted(dir: &OwnedFd) -> Result<(), Refused> {
    with_probe(dir, |probe, _, _| {
        let name = "trusted.spoolfs.check";
        step("setxattr", rustix::fs::fsetxattr(probe, name, b"1", XattrFlags::empty()))?;
        let mut value = [0_u8; 8];
        step("getxattr", rustix::fs::fgetxattr(probe, name, &mut value[..])).map(|_| ())
    })
}

/// Opens the directory itself by a path that may not leave it.
pub(super) fn try_openat2(dir: &OwnedFd) -> Result<(), Refused> {
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    let confined = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
    step("openat2", rustix::fs::openat2(dir, ".", flags, Mode::empty(), confined)).map(|_| ())
}

/// Runs `work` with a fresh file and takes it away afterwards, whatever its name is then.
fn with_probe(
    dir: &OwnedFd,
    work: impl FnOnce(&OwnedFd, &str, &str) -> Result<(), Refused>,
) -> Result<(), Refused> {
    let (first, second) = names();
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
    let mode = Mode::RUSR | Mode::WUSR;
    let probe = step("create", rustix::fs::openat(dir, &first, flags, mode))?;
    let worked = work(&probe, &first, &second);
    let removed =
        [&first, &second].map(|name| match rustix::fs::unlinkat(dir, name, AtFlags::empty()) {
            Err(Errno::NOENT) => Ok(()),
            other => step("unlink", other),
        });
    worked?;
    removed.into_iter().collect()
}

/// The private directory of a lower directory, made for the time of the check if it is not there.
pub(super) struct Private {
    pub dir: OwnedFd,
    made: Option<PathBuf>,
}

impl Private {
    pub fn of(lower: &Path) -> Result<Private, Refused> {
        let path = lower.join(".spl");
        let mode = Mode::RWXU;
        let made = match rustix::fs::mkdir(&path, mode) {
            Ok(()) => Some(path.clone()),
            Err(Errno::EXIST) => None,
            Err(errno) => return Err(Refused { step: "mkdir", errno }),
        };
        open(&path).map(|dir| Private { dir, made })
    }
}

impl Drop for Private {
    fn drop(&mut self) {
        if let Some(path) = &self.made {
            // A daemon that started meanwhile has put something in it: then it stays.
            let _in_use = rustix::fs::rmdir(path);
        }
    }
}

/// Free and whole bytes of the disk a directory is on.
pub(super) fn space(dir: impl AsFd) -> Result<(u64, u64), Refused> {
    let stat = step("statvfs", rustix::fs::fstatvfs(dir))?;
    let bytes = |blocks: u64| blocks.saturating_mul(stat.f_frsize);
    Ok((bytes(stat.f_bavail), bytes(stat.f_blocks)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn probing_leaves_nothing_behind() {
        let root = tempfile::tempdir().expect("tempdir");
        let dir = open(root.path()).expect("open");
        try_files(&dir).expect("files");
        try_openat2(&dir).expect("openat2");
        // Where the namespace is refused, that is an answer too; the file must still be gone.
        let _ = try_trusted(&dir);
        drop(Private::of(root.path()).expect("private"));
        let left = std::fs::read_dir(root.path()).expect("read").count();
        assert_eq!(left, 0);
        let refused = with_probe(&dir, |_, _, _| Err(Refused { step: "x", errno: Errno::IO }));
        assert_eq!(refused.expect_err("fails").to_string(), "x: input/output error");
        assert_eq!(std::fs::read_dir(root.path()).expect("read").count(), 0);
    }

    #[test]
    fn a_private_directory_that_was_there_stays() {
        let root = tempfile::tempdir().expect("tempdir");
        std::fs::create_dir(root.path().join(".spl")).expect("mkdir");
        drop(Private::of(root.path()).expect("private"));
        assert!(root.path().join(".spl").is_dir());
    }
}
