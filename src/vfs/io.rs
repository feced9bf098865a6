//! Reading, writing and syncing open files.

use super::handle::{Handle, OpenKind};
use super::inode::Place;
use super::{Caller, Result, Vfs, VfsError};
use crate::faults;
use crate::recording::NodeId;
use crate::sys::WithoutReserve;
use bytes::Bytes;
use rustix::fs::{FallocateFlags, OFlags, SeekFrom};
use rustix::io::Errno;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

impl Vfs {
    /// Where the bytes of an open file come from now. A recording recalled meanwhile is read
    /// from disk.
    ///
    /// # Errors
    /// `BADF`.
    pub fn source(&self, handle: u64) -> Result<OpenKind> {
        let handle = self.handles.get(handle)?;
        if handle.file().is_some() {
            return Ok(OpenKind::Local);
        }
        let place = handle.inode.place();
        if matches!(*place, Place::Gone(_)) {
            // Deleted while it is read: the object is still there.
            return Ok(OpenKind::Remote);
        }
        match self.lower_file(&handle.inode, &place, OFlags::RDONLY)? {
            Some(file) => {
                handle.set_file(Arc::new(file));
                Ok(OpenKind::Local)
            }
            None => Ok(OpenKind::Remote),
        }
    }

    /// Reads. Waits for the archive if `source` says `Remote`.
    ///
    /// # Errors
    /// As `pread`.
    pub fn read(&self, handle: u64, offset: u64, len: usize) -> Result<Bytes> {
        let handle = self.handles.get(handle)?;
        match handle.file() {
            Some(file) => read_local(&file, offset, len),
            None => {
                let path = self.path_of(&handle.inode);
                let read = self.archive.read(handle.inode.id, Path::new(&path), offset, len);
                read.map_err(VfsError::Remote)
            }
        }
    }

    /// Writes at a position, all of it or as much as there is room for.
    ///
    /// # Errors
    /// As `pwrite`.
    pub fn write(&self, caller: Caller, handle: u64, offset: u64, bytes: &[u8]) -> Result<usize> {
        let handle = self.handles.get(handle)?;
        let file = handle.file().filter(|_| handle.writable).ok_or(Errno::BADF)?;
        let _as_the_caller = WithoutReserve::for_caller(caller.uid);
        let mut done = 0;
        faults::fail("lower.write")?;
        while let Some(rest) = bytes.get(done..).filter(|r| !r.is_empty()) {
            match rustix::io::pwrite(&*file, rest, offset + done as u64) {
                Ok(0) => break,
                Ok(n) => done += n,
                Err(Errno::INTR) => {}
                Err(errno) if done == 0 => return Err(errno.into()),
                Err(_) => break,
            }
        }
        Ok(done)
    }

    /// Writes and syncs, as an open with O_SYNC wants: call it on a worker.
    ///
    /// # Errors
    /// As `pwrite`, `fsync`.
    pub fn write_synced(
        &self,
        caller: Caller,
        handle: u64,
        offset: u64,
        bytes: &[u8],
    ) -> Result<usize> {
        let written = self.write(caller, handle, offset, bytes)?;
        self.fsync(handle, false)?;
        Ok(written)
    }

    /// Syncs an open file: call it on a worker.
    ///
    /// # Errors
    /// As `fsync`.
    pub fn fsync(&self, handle: u64, data_only: bool) -> Result<()> {
        let handle = self.handles.get(handle)?;
        let Some(file) = handle.file() else { return Ok(()) };
        let synced = faults::fail("vfs.fsync").and_then(|()| match data_only {
            true => rustix::fs::fdatasync(&*file),
            false => rustix::fs::fsync(&*file),
        });
        // The kernel tells it once only: the engine would hear nothing of it any more.
        Ok(synced.inspect_err(|_| self.catalog.suspect(handle.record.node))?)
    }

    /// Syncs a directory: call it on a worker.
    ///
    /// # Errors
    /// As `fsync`.
    pub fn fsync_dir(&self, id: NodeId) -> Result<()> {
        let inode = self.inode(id)?;
        if matches!(*inode.place(), Place::Gone(_)) {
            return Ok(());
        }
        let dir = self.dir(&inode)?;
        Ok(rustix::fs::fsync(&dir.as_file()?)?)
    }

    /// Reserves, frees or moves space of an open file.
    ///
    /// # Errors
    /// As `fallocate`.
    pub fn fallocate(
        &self,
        caller: Caller,
        handle: u64,
        mode: FallocateFlags,
        offset: u64,
        len: u64,
    ) -> Result<()> {
        let file = self.writable_file(handle)?;
        let _as_the_caller = WithoutReserve::for_caller(caller.uid);
        Ok(rustix::fs::fallocate(&*file, mode, offset, len)?)
    }

    fn writable_file(&self, handle: u64) -> Result<Arc<File>> {
        let handle: Arc<Handle> = self.handles.get(handle)?;
        Ok(handle.file().filter(|_| handle.writable).ok_or(Errno::BADF)?)
    }

    /// Finds data or a hole. A released recording is one extent of data: programs that skip
    /// holes must read it.
    ///
    /// # Errors
    /// `NXIO` beyond the end.
    pub fn seek(&self, handle: u64, id: NodeId, from: SeekFrom) -> Result<u64> {
        if let Some(file) = self.handles.get(handle)?.file() {
            return Ok(rustix::fs::seek(&*file, from)?);
        }
        let size = self.getattr(id, None)?.size;
        match from {
            SeekFrom::Data(at) if at < size => Ok(at),
            SeekFrom::Hole(at) if at < size => Ok(size),
            SeekFrom::Data(_) | SeekFrom::Hole(_) => Err(Errno::NXIO.into()),
            _ => Err(Errno::INVAL.into()),
        }
    }

    /// Copies between two open local files without passing the bytes through the caller.
    ///
    /// # Errors
    /// `OPNOTSUPP` if one is released: the caller then reads and writes.
    pub fn copy(
        &self,
        caller: Caller,
        from: (u64, u64),
        to: (u64, u64),
        len: usize,
    ) -> Result<usize> {
        let source = self.handles.get(from.0)?.file().ok_or(Errno::OPNOTSUPP)?;
        let target = self.writable_file(to.0)?;
        let _as_the_caller = WithoutReserve::for_caller(caller.uid);
        let (mut at, mut into) = (from.1, to.1);
        let copied =
            rustix::fs::copy_file_range(&*source, Some(&mut at), &*target, Some(&mut into), len)?;
        Ok(copied)
    }
}

fn read_local(file: &File, offset: u64, len: usize) -> Result<Bytes> {
    faults::fail("lower.read")?;
    let mut buffer = vec![0u8; len];
    let mut done = 0;
    while let Some(rest) = buffer.get_mut(done..).filter(|r| !r.is_empty()) {
        match file.read_at(rest, offset + done as u64) {
            Ok(0) => break,
            Ok(n) => done += n,
            Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
            Err(e) => {
                let errno = e.raw_os_error().map_or(Errno::IO, Errno::from_raw_os_error);
                return Err(errno.into());
            }
        }
    }
    buffer.truncate(done);
    Ok(buffer.into())
}
