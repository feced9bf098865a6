//! What can be done to a file without its name.

use super::dir::{proc_fd, statx, timestamps};
use super::{Dir, LowerStat, Times, visible_xattr};
use rustix::fs::{AtFlags, CWD, Gid, Mode, Uid, XattrFlags};
use rustix::io::Result;
use std::os::fd::OwnedFd;

/// A file, directory or FIFO, whatever becomes of its name. It is not open: nothing waits for it,
/// and it stands in nobody's way.
#[derive(Debug)]
pub struct Pinned {
    fd: OwnedFd,
}

impl Dir {
    /// Pins what has this name now; a symbolic link is not followed.
    pub fn pinned(&self, name: &[u8]) -> Result<Pinned> {
        Ok(Pinned { fd: self.pin(name)? })
    }
}

impl Pinned {
    /// Looks at it; the identity is not read.
    pub fn stat(&self) -> Result<LowerStat> {
        let (attr, version) = statx(&self.fd, b"", AtFlags::EMPTY_PATH)?;
        Ok(LowerStat { attr, version, node: None })
    }

    /// Sets permission bits.
    pub fn chmod(&self, mode: u32) -> Result<()> {
        rustix::fs::chmod(proc_fd(&self.fd), Mode::from_raw_mode(mode & 0o7777))
    }

    /// Sets owner and group.
    pub fn chown(&self, uid: Option<u32>, gid: Option<u32>) -> Result<()> {
        let (uid, gid) = (uid.map(Uid::from_raw), gid.map(Gid::from_raw));
        rustix::fs::chownat(&self.fd, "", uid, gid, AtFlags::EMPTY_PATH)
    }

    /// Sets times.
    pub fn utimens(&self, times: Times) -> Result<()> {
        let path = proc_fd(&self.fd);
        rustix::fs::utimensat(CWD, path, &timestamps(times), AtFlags::empty())
    }

    /// The value of an extended attribute.
    pub fn getxattr(&self, key: &[u8]) -> Result<Vec<u8>> {
        let path = proc_fd(&self.fd);
        let mut value = vec![0u8; 65_536];
        let len = rustix::fs::getxattr(path, key, &mut value[..])?;
        value.truncate(len);
        Ok(value)
    }

    /// Names of the extended attributes that users may see.
    pub fn listxattr(&self) -> Result<Vec<Vec<u8>>> {
        let mut list = vec![0u8; 65_536];
        let len = rustix::fs::listxattr(proc_fd(&self.fd), &mut list[..])?;
        list.truncate(len);
        let names = list.split(|b| *b == 0).filter(|n| !n.is_empty() && visible_xattr(n));
        Ok(names.map(<[u8]>::to_vec).collect())
    }

    /// Sets an extended attribute.
    pub fn setxattr(&self, key: &[u8], value: &[u8], flags: u32) -> Result<()> {
        let flags = XattrFlags::from_bits_retain(flags);
        rustix::fs::setxattr(proc_fd(&self.fd), key, value, flags)
    }

    /// Removes an extended attribute.
    pub fn removexattr(&self, key: &[u8]) -> Result<()> {
        rustix::fs::removexattr(proc_fd(&self.fd), key)
    }
}
