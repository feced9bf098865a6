//! Looking at a file at a moment when nobody can be writing to it.

use super::dir::stat_file;
use super::{Lower, LowerError, LowerStat, Result};
use crate::faults;
use crate::sys::Lease;
use rustix::fs::OFlags;
use std::fs::File;
use std::path::Path;
use std::sync::Arc;

/// A file that had no writer at the moment it was looked at, open for reading.
#[derive(Debug)]
pub struct Quiet {
    /// The file.
    pub file: Arc<File>,
    /// What it was at that moment.
    pub stat: LowerStat,
}

impl Lower {
    /// Opens a regular file for reading if the kernel grants a read lease, that is, if no writer
    /// exists anywhere: no descriptor, no shared mapping, not even one from before the mount.
    /// The lease is given back at once, so that nobody waits for it.
    ///
    /// # Errors
    /// `Busy` if there is a writer.
    pub fn quiet(&self, path: &Path) -> Result<Quiet> {
        let (dir, name) = self.parent_of(path)?;
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOATIME;
        let file = dir.open(name, flags).map_err(LowerError::io(path))?;
        let stat = under_lease(&file, Lease::NoWriter, path, || {
            stat_file(&file).map_err(LowerError::io(path))
        })?;
        Ok(Quiet { file: Arc::new(file), stat })
    }

    /// Whether the file still has no writer and its version is the one of `quiet`.
    ///
    /// # Errors
    /// As `stat`.
    pub fn still_quiet(&self, quiet: &Quiet) -> Result<bool> {
        let path = Path::new("");
        let now = under_lease(&quiet.file, Lease::NoWriter, path, || {
            stat_file(&*quiet.file).map_err(LowerError::io(path))
        });
        match now {
            Ok(now) => Ok(now.version == quiet.stat.version),
            Err(LowerError::Busy { .. }) => Ok(false),
            Err(other) => Err(other),
        }
    }
}

impl Lower {
    /// Makes content and name of a file survive a power cut; soon done if they do already.
    ///
    /// # Errors
    /// As `fsync`: it may be in memory only.
    pub fn persist(&self, quiet: &Quiet, path: &Path) -> Result<()> {
        // A test takes both away, to see that their lack is found.
        if faults::fail("lower.persist_left_out").is_err() {
            return Ok(());
        }
        let synced = faults::fail("lower.persist").and_then(|()| rustix::fs::fsync(&*quiet.file));
        synced.map_err(LowerError::io(path))?;
        self.persist_name(path)
    }

    /// Makes the name of a file survive a power cut.
    ///
    /// # Errors
    /// As `fsync`.
    pub fn persist_name(&self, path: &Path) -> Result<()> {
        let (dir, _) = self.parent_of(path)?;
        let synced = faults::fail("lower.persist_name").and_then(|()| dir.as_file());
        synced.and_then(rustix::fs::fsync).map_err(LowerError::io(path))
    }
}

impl Quiet {
    /// Closes the file and gives what it was, if nobody else has it open, not even for reading.
    ///
    /// # Errors
    /// `InUse` if somebody has.
    pub fn alone(self, path: &Path) -> Result<LowerStat> {
        self.is_alone(path)?;
        Ok(self.stat)
    }

    /// Asks whether nobody else has the file open, not even for reading.
    ///
    /// # Errors
    /// `InUse` if somebody has.
    pub fn is_alone(&self, path: &Path) -> Result<()> {
        under_lease(&self.file, Lease::Alone, path, || Ok(()))
    }
}

/// Runs `look` while the kernel guarantees that nobody has the file open as `lease` says. Who
/// opens it waits meanwhile, so `look` must take microseconds only.
pub(super) fn under_lease<T>(
    file: &File,
    lease: Lease,
    path: &Path,
    look: impl FnOnce() -> Result<T>,
) -> Result<T> {
    match crate::sys::lease_take(file, lease) {
        Ok(()) => {}
        Err(e) if e.kind() == std::io::ErrorKind::WouldBlock => {
            let path = path.to_owned();
            return Err(match lease {
                Lease::NoWriter => LowerError::Busy { path },
                Lease::Alone => LowerError::InUse { path },
            });
        }
        Err(source) => return Err(LowerError::Io { path: path.to_owned(), source }),
    }
    let result = look();
    let dropped = crate::sys::lease_drop(file);
    let value = result?;
    dropped.map_err(|source| LowerError::Io { path: path.to_owned(), source })?;
    Ok(value)
}
