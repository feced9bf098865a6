//! This machine: user, kernel, directories, disks.

use super::Finding;
use super::disk::{self, Private, Refused};
use crate::cli::mounts::{self, Mount};
use crate::config::{Config, resolve};
use crate::units::humane_size;
use rustix::io::Errno;
use std::os::fd::OwnedFd;
use std::path::Path;

/// Less free space than this is worth a word: an hour of 100 calls is about 6 GiB.
const FREE_MIN: u64 = 1 << 30;

pub(super) fn examine(config: &Config, running: bool) -> Vec<Finding> {
    let mut findings = vec![user(), fuse_device()];
    let mounts = mounts::all().unwrap_or_default();
    findings.extend(lower(config, running, &mounts));
    for (what, dir) in [
        ("state_dir", &config.state_dir),
        ("cache.dir", &config.cache.dir),
        ("runtime_dir", &config.runtime_dir),
    ] {
        findings.extend(own_directory(what, dir));
    }
    findings
}

fn user() -> Finding {
    let uid = rustix::process::geteuid();
    if uid.is_root() {
        return Finding::ok("user", "root; fusermount is not needed");
    }
    Finding::failed("user", format!("running as user {}", uid.as_raw()), "run spoolfs as root")
}

fn fuse_device() -> Finding {
    let what = "/dev/fuse";
    match std::fs::OpenOptions::new().read(true).write(true).open(what) {
        Ok(_) => Finding::ok(what, "can be opened"),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
            let cure = "load the kernel module: modprobe fuse (in a container, pass /dev/fuse in)";
            Finding::failed(what, "is not there", cure)
        }
        Err(e) => {
            let cure = "run as root; in a container, allow the device";
            Finding::failed(what, format!("can not be opened: {e}"), cure)
        }
    }
}

fn lower(config: &Config, running: bool, mounts: &[Mount]) -> Vec<Finding> {
    let what = "mountpoint";
    let path = resolve(&config.mountpoint);
    let name = path.display();
    let mut findings = Vec::new();
    for nested in mounts::below(mounts, &path) {
        let detail = format!("{} is mounted inside it ({})", nested.point.display(), nested.kind);
        let cure = "unmount it, or mount spoolfs on a directory without mounts below";
        findings.push(Finding::failed(what, detail, cure));
    }
    if mounts::is_spoolfs(mounts, &path) {
        findings.push(if running {
            Finding::ok(what, format!("{name} is mounted; what lies under it was checked at start"))
        } else {
            let cure = format!("start spoolfs again, or unmount it: umount -l {name}");
            Finding::failed(what, format!("{name} is mounted but no spoolfs answers"), cure)
        });
        return findings;
    }
    match disk::open(&path) {
        Ok(dir) => findings.extend(lower_directory(&path, &dir, mounts)),
        Err(Refused { errno: Errno::NOENT, .. }) => {
            let cure = format!("create it (mkdir -p {name}) or correct mountpoint");
            findings.push(Finding::failed(what, format!("{name} does not exist"), cure));
        }
        Err(refused) => {
            let cure = "run check as root, or correct mountpoint";
            findings.push(Finding::failed(what, format!("{name}: {refused}"), cure));
        }
    }
    findings
}

fn lower_directory(path: &Path, dir: &OwnedFd, mounts: &[Mount]) -> Vec<Finding> {
    let name = path.display();
    let kind = mounts::holding(mounts, path).map_or("unknown", |m| m.kind.as_str());
    let mut findings = vec![file_system(path, kind), free_space("mountpoint", path, dir)];
    findings.push(match disk::try_openat2(dir) {
        Ok(()) => Finding::ok("confined opens", "the kernel has openat2"),
        Err(e) => Finding::failed("confined opens", e.to_string(), "use Linux 5.6 or newer"),
    });
    let private = match Private::of(path) {
        Ok(private) => private,
        Err(e) => {
            let detail = format!("{name}/.spl: {e}");
            let cure = "run as root on a directory that can be written";
            findings.push(Finding::failed("private directory", detail, cure));
            return findings;
        }
    };
    findings.push(match disk::try_files(&private.dir) {
        Ok(()) => Finding::ok("private directory", "create, write, rename and remove work"),
        Err(e) => {
            let cure = "check permissions and that the disk is neither full nor read-only";
            Finding::failed("private directory", format!("{name}/.spl: {e}"), cure)
        }
    });
    findings.push(match disk::try_trusted(&private.dir) {
        Ok(()) => Finding::ok("trusted attributes", "can be set"),
        Err(e) => {
            let cure = "run as root on ext4, XFS or Btrfs";
            Finding::failed("trusted attributes", format!("{name}: {e}"), cure)
        }
    });
    findings
}

fn file_system(path: &Path, kind: &str) -> Finding {
    let detail = format!("{} is on {kind}", path.display());
    let network = ["nfs", "nfs4", "cifs", "smb3", "9p", "ceph", "glusterfs"];
    if network.contains(&kind) || kind.starts_with("fuse") {
        let cure = "record to a local disk: a call waits for every write";
        return Finding::warning("file system", detail, cure);
    }
    if matches!(kind, "tmpfs" | "ramfs" | "overlay") {
        let cure = "use a disk that keeps its content over a restart";
        return Finding::warning("file system", detail, cure);
    }
    Finding::ok("file system", detail)
}

fn free_space(what: &str, path: &Path, dir: &OwnedFd) -> Finding {
    let what = format!("{what} space");
    match disk::space(dir) {
        Ok((free, size)) => {
            let detail =
                format!("{}: {} free of {}", path.display(), humane_size(free), humane_size(size));
            if free < FREE_MIN {
                return Finding::warning(what, detail, "make room, or lower keep_local");
            }
            Finding::ok(what, detail)
        }
        Err(e) => Finding::failed(what, e.to_string(), "check the disk"),
    }
}

/// A directory of ours, which the daemon would make if it is not there.
fn own_directory(what: &str, path: &Path) -> Vec<Finding> {
    let existing = path.ancestors().find(|p| p.exists()).unwrap_or(Path::new("/"));
    let name = existing.display();
    let tried = disk::open(existing).and_then(|dir| disk::try_files(&dir).map(|()| dir));
    let dir = match tried {
        Ok(dir) => dir,
        Err(e) => {
            let cure = format!("run as root, check the disk, or choose another {what}");
            return vec![Finding::failed(what, format!("{name}: {e}"), cure)];
        }
    };
    let detail = if existing == path {
        format!("{name}: create, write, rename and remove work")
    } else {
        format!("{} will be created; {name} can be written", path.display())
    };
    let mut findings = vec![Finding::ok(what, detail)];
    if what == "state_dir" {
        findings.push(free_space(what, existing, &dir));
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::check::Outcome;

    #[test]
    fn kinds_of_file_system_are_judged() {
        let outcome = |kind| file_system(Path::new("/x"), kind).outcome;
        for (kind, want) in [
            ("ext4", Outcome::Ok),
            ("xfs", Outcome::Ok),
            ("nfs4", Outcome::Warning),
            ("fuse.sshfs", Outcome::Warning),
            ("tmpfs", Outcome::Warning),
        ] {
            assert_eq!(outcome(kind), want, "{kind}");
        }
    }

    #[test]
    fn a_directory_of_ours_that_is_not_there_is_tried_where_it_would_be_made() {
        let root = tempfile::tempdir().expect("tempdir");
        let findings = own_directory("cache.dir", &root.path().join("a/b"));
        assert!(findings.iter().all(|f| f.outcome == Outcome::Ok), "{findings:?}");
        assert!(findings.iter().any(|f| f.detail.contains("will be created")));
        assert_eq!(std::fs::read_dir(root.path()).expect("read").count(), 0);
    }
}
