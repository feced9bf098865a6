//! Getting what is in memory onto the disk.
//!
//! **Invariant:** whoever reads an error here has heard it once: the kernel tells it to nobody
//! again, so it is never passed over.

use super::{Lower, LowerError, Result};
use crate::faults;
use crate::recording::{Kind, NodeId};
use crate::sys::WriteOut;
use rustix::fs::{Advice, OFlags};
use rustix::io::Errno;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

/// What reading past the page cache wants its buffers and positions to be a multiple of.
const ALIGNED: usize = 4096;
/// Bytes read at once past the page cache.
const PIECE: usize = 256 << 10;

impl Lower {
    /// Opens a regular file to sync it; `None` if another file, or none, has the name.
    ///
    /// # Errors
    /// As `open`.
    pub fn open_to_sync(&self, path: &Path, id: NodeId) -> Result<Option<File>> {
        let open = || {
            let (dir, name) = self.parent_of(path)?;
            let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOATIME;
            dir.open(name, flags).map_err(LowerError::io(path))
        };
        let file = match open() {
            Err(error) if error.is_not_found() => return Ok(None),
            file => file?,
        };
        let stat = super::stat_file(&file).map_err(LowerError::io(path))?;
        // One without an identity has the name all the same: better synced in vain.
        let ours = stat.node.is_none_or(|node| node == id) && stat.attr.kind == Kind::File;
        Ok(ours.then_some(file))
    }

    /// Syncs a directory; false if another one, or none, has the name.
    ///
    /// # Errors
    /// As `fsync`.
    pub fn sync_dir(&self, path: &Path, id: NodeId) -> Result<bool> {
        let dir = match self.dir(path) {
            Err(error) if error.is_not_found() => return Ok(false),
            dir => dir?,
        };
        if dir.stat_self().map_err(LowerError::io(path))?.node != Some(id) {
            return Ok(false);
        }
        let synced =
            faults::fail("lower.sync_dir").and_then(|()| rustix::fs::fsync(dir.as_file()?));
        synced.map(|()| true).map_err(LowerError::io(path))
    }

    /// Syncs the whole file system of the lower directory.
    ///
    /// # Errors
    /// As `syncfs`: something that was written to it since the last time did not get to the disk.
    pub fn sync_all(&self) -> Result<()> {
        let synced =
            faults::fail("lower.sync_all").and_then(|()| rustix::fs::syncfs(self.root.as_file()?));
        synced.map_err(LowerError::io(Path::new("")))
    }
}

/// Begins to write a file out, up to `end` if it is given, and does not wait for the disk. Makes
/// nothing durable, but leaves little to do for [`sync_file`], and forces no journal commit.
///
/// # Errors
/// As `sync_file_range`.
pub fn begin_write_out(file: &File, end: Option<u64>) -> io::Result<()> {
    // Of the last page, which a writer is about to write to, nobody gets hold.
    match end.map(|end| end - end % ALIGNED as u64) {
        Some(0) => Ok(()),
        end => passing_over(crate::sys::write_out(file, end.unwrap_or(0), WriteOut::Begin)),
    }
}

/// Waits for what [`begin_write_out`] began.
///
/// # Errors
/// As `sync_file_range`: what was written is not on the disk.
pub fn finish_write_out(file: &File) -> io::Result<()> {
    faults::fail("lower.write_out")?;
    passing_over(crate::sys::write_out(file, 0, WriteOut::Finish))
}

/// A file system without it: `fsync` does all of it.
fn passing_over(result: io::Result<()>) -> io::Result<()> {
    result.or_else(|error| match Errno::from_io_error(&error) {
        Some(Errno::NOSYS | Errno::OPNOTSUPP | Errno::SPIPE | Errno::INVAL) => Ok(()),
        _ => Err(error),
    })
}

/// Makes content and attributes of a file survive a power cut. Every fsync of a recording is here.
///
/// # Errors
/// As `fsync`: nothing of it counts as written.
pub fn sync_file(file: &File) -> io::Result<()> {
    faults::fail("lower.sync_file")?;
    Ok(rustix::fs::fsync(file)?)
}

/// Reads a file from the disk, past the page cache, which stays as it is.
///
/// # Errors
/// As `read`.
pub fn read_from_disk(file: &File, take: &mut dyn FnMut(&[u8])) -> io::Result<()> {
    let flags = OFlags::RDONLY | OFlags::DIRECT | OFlags::CLOEXEC;
    let path = super::dir::proc_fd(file);
    let direct = match rustix::fs::open(path, flags, rustix::fs::Mode::empty()) {
        Ok(direct) => File::from(direct),
        // Not every file system can: what is in the cache is dropped then.
        Err(Errno::INVAL) => return read_uncached(file, take),
        Err(errno) => return Err(errno.into()),
    };
    let mut room = vec![0u8; PIECE + ALIGNED];
    let skip = room.as_ptr().align_offset(ALIGNED).min(ALIGNED);
    let Some(piece) = room.get_mut(skip..skip + PIECE) else { return Ok(()) };
    read_all(&direct, piece, take)
}

/// Drops what the page cache has of a file, and reads it.
///
/// # Errors
/// As `read`.
pub fn read_uncached(file: &File, take: &mut dyn FnMut(&[u8])) -> io::Result<()> {
    rustix::fs::fadvise(file, 0, None, Advice::DontNeed)?;
    read_all(file, &mut vec![0u8; PIECE], take)
}

fn read_all(file: &File, piece: &mut [u8], take: &mut dyn FnMut(&[u8])) -> io::Result<()> {
    let mut at = 0;
    loop {
        match file.read_at(piece, at) {
            Ok(0) => return Ok(()),
            Ok(n) => {
                take(piece.get(..n).unwrap_or_default());
                at += n as u64;
                // Only the end of the file is no multiple, and nothing can be read behind it.
                if n % ALIGNED != 0 {
                    return Ok(());
                }
            }
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
}
