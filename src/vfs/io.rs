//! Reading, writing and syncing open files.

use super::handle::{Handle, OpenKind};
use super::inode::Place;
use super::{Caller, Result, Vfs, VfsError};
use crate::faults;
use crate::recording::{NodeId, Reader};
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
    pub fn source(&self, handle: u64, offset: u64, len: usize) -> Result<OpenKind> {
        let handle = self.handles.get(handle)?;
        if let Some(partial) = self.lower.partial(handle.inode.id) {
            let lacking = partial.missing(offset..offset.saturating_add(len as u64)).is_some();
            return Ok(if lacking { OpenKind::Remote } else { OpenKind::Local });
        }
        Ok(if self.local_file(&handle)?.is_some() { OpenKind::Local } else { OpenKind::Remote })
    }

    /// The lower file of a handle, opened if the recording came back meanwhile.
    fn local_file(&self, handle: &Handle) -> Result<Option<Arc<File>>> {
        if let Some(file) = handle.file() {
            return Ok(Some(file));
        }
        let place = handle.inode.place();
        if matches!(*place, Place::Gone(_)) {
            // Deleted while it is read: the object is still there.
            return Ok(None);
        }
        if self.still_seen(&handle.inode, &place).is_some() {
            return Ok(None);
        }
        let file = self.lower_file(&handle.inode, &place, OFlags::RDONLY)?.map(Arc::new);
        if let Some(file) = &file {
            handle.set_file(file.clone());
        }
        Ok(file)
    }

    /// Somebody is about to read what `source` says is `Remote`: on a worker.
    pub fn admit(&self, reader: Reader, handle: u64) {
        if let Ok(handle) = self.handles.get(handle) {
            self.archive.admit(reader, handle.inode.id);
        }
    }

    /// Reads. Waits for the archive if `source` says `Remote`.
    ///
    /// # Errors
    /// As `pread`.
    pub fn read(&self, handle: u64, offset: u64, len: usize) -> Result<Bytes> {
        let handle = self.handles.get(handle)?;
        if let Some(partial) = self.lower.partial(handle.inode.id) {
            return self.read_partial(&handle.inode, &partial, offset, len);
        }
        // Asked again: what was partial a moment ago may have its name by now, and other bytes
        // than the archive.
        match self.local_file(&handle)? {
            Some(file) => read_local(&file, offset, len),
            None => {
                let inode = &handle.inode;
                let seen = self.still_seen(inode, &inode.place());
                let (path, generation) = (self.path_of(inode), seen.map(|seen| seen.generation));
                let read = self.archive.read(inode.id, generation, Path::new(&path), offset, len);
                read.map_err(VfsError::Remote)
            }
        }
    }

    /// Reads what `source` says is `Remote`, if it was seen a moment ago and its bytes are in memory:
    /// waits for nothing.
    pub fn read_ready(&self, handle: u64, offset: u64, len: usize) -> Option<Bytes> {
        let handle = self.handles.get(handle).ok()?;
        let inode = &handle.inode;
        if handle.file().is_some() || self.lower.partial(inode.id).is_some() {
            return None;
        }
        let seen = self.still_seen(inode, &inode.place())?;
        let path = self.path_of(inode);
        self.archive.ready(inode.id, seen.generation, Path::new(&path), offset, len)
    }

    /// Writes at a position, all of it or as much as there is room for.
    ///
    /// # Errors
    /// As `pwrite`.
    pub fn write(&self, caller: Caller, handle: u64, offset: u64, bytes: &[u8]) -> Result<usize> {
        let handle = self.writer(handle)?;
        let file = handle.file().filter(|_| handle.writable).ok_or(Errno::BADF)?;
        self.will_change(handle.inode.id, offset..offset.saturating_add(bytes.len() as u64));
        let partial = self.lower.partial(handle.inode.id);
        let change = partial.as_ref().map(|p| p.change());
        let done = write_local(caller, &file, offset, bytes)?;
        if let Some(mut change) = change {
            change.wrote(offset, done as u64).map_err(kernel)?;
        }
        Ok(done)
    }

    /// Sets the length of an open file.
    pub(super) fn resize(&self, caller: Caller, id: NodeId, file: &File, size: u64) -> Result<()> {
        self.will_change(id, size..u64::MAX);
        let partial = self.lower.partial(id);
        let change = partial.as_ref().map(|p| p.change());
        let _as_the_caller = WithoutReserve::for_caller(caller.uid);
        rustix::fs::ftruncate(file, size)?;
        if let Some(mut change) = change {
            change.resized(size).map_err(kernel)?;
        }
        Ok(())
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
        if handle == super::virtual_dir::HANDLE {
            return Ok(());
        }
        let handle = self.handles.get(handle)?;
        let Some(file) = handle.file() else { return Ok(()) };
        let synced = faults::fail("vfs.fsync").and_then(|()| match data_only {
            true => rustix::fs::fdatasync(&*file),
            false => rustix::fs::fsync(&*file),
        });
        let partial = self.lower.partial(handle.inode.id);
        let synced = synced.and_then(|()| match &partial {
            Some(partial) => partial.sync(false).map_err(|e| errno(&e)),
            None => Ok(()),
        });
        // The kernel tells it once only: the engine would hear nothing of it any more.
        Ok(synced.inspect_err(|_| match &partial {
            Some(partial) => partial.doubt(),
            None => self.catalog.suspect(handle.record.node),
        })?)
    }

    /// Syncs a directory: call it on a worker.
    ///
    /// # Errors
    /// As `fsync`.
    pub fn fsync_dir(&self, id: NodeId) -> Result<()> {
        if Vfs::is_virtual(id) {
            return Ok(());
        }
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
        let id = self.handles.get(handle)?.inode.id;
        self.will_change(id, offset..offset.saturating_add(len));
        let partial = self.lower.partial(id);
        let change = partial.as_ref().map(|p| p.change());
        let _as_the_caller = WithoutReserve::for_caller(caller.uid);
        rustix::fs::fallocate(&*file, mode, offset, len)?;
        let zeros = FallocateFlags::PUNCH_HOLE | FallocateFlags::ZERO_RANGE;
        if let Some(mut change) = change {
            let zeroed = if mode.intersects(zeros) { len } else { 0 };
            change.wrote(offset, zeroed).map_err(kernel)?;
        }
        Ok(())
    }

    fn writable_file(&self, handle: u64) -> Result<Arc<File>> {
        let handle = self.writer(handle)?;
        Ok(handle.file().filter(|_| handle.writable).ok_or(Errno::BADF)?)
    }

    /// Finds data or a hole. A released recording is one extent of data: programs that skip
    /// holes must read it.
    ///
    /// # Errors
    /// `NXIO` beyond the end.
    pub fn seek(&self, handle: u64, id: NodeId, from: SeekFrom) -> Result<u64> {
        let partial = self.lower.partial(id).is_some();
        let plain = !partial && !Vfs::is_virtual(id);
        if plain && let Some(file) = self.handles.get(handle)?.file() {
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
        if from.0 == super::virtual_dir::HANDLE {
            return Err(Errno::OPNOTSUPP.into());
        }
        for handle in [from.0, to.0] {
            if self.lower.partial(self.handles.get(handle)?.inode.id).is_some() {
                return Err(Errno::OPNOTSUPP.into());
            }
        }
        let source = self.handles.get(from.0)?.file().ok_or(Errno::OPNOTSUPP)?;
        let target = self.writable_file(to.0)?;
        let range = to.1..to.1.saturating_add(len as u64);
        self.will_change(self.handles.get(to.0)?.inode.id, range);
        let _as_the_caller = WithoutReserve::for_caller(caller.uid);
        let (mut at, mut into) = (from.1, to.1);
        let copied =
            rustix::fs::copy_file_range(&*source, Some(&mut at), &*target, Some(&mut into), len)?;
        Ok(copied)
    }
}

fn errno(error: &std::io::Error) -> Errno {
    error.raw_os_error().map_or(Errno::IO, Errno::from_raw_os_error)
}

pub(super) fn kernel(error: std::io::Error) -> VfsError {
    VfsError::Kernel(errno(&error))
}

fn write_local(caller: Caller, file: &File, offset: u64, bytes: &[u8]) -> Result<usize> {
    let _as_the_caller = WithoutReserve::for_caller(caller.uid);
    let mut done = 0;
    faults::fail("lower.write")?;
    while let Some(rest) = bytes.get(done..).filter(|r| !r.is_empty()) {
        match rustix::io::pwrite(file, rest, offset + done as u64) {
            Ok(0) => break,
            Ok(n) => done += n,
            Err(Errno::INTR) => {}
            Err(errno) if done == 0 => return Err(errno.into()),
            Err(_) => break,
        }
    }
    Ok(done)
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
            Err(e) => return Err(kernel(e)),
        }
    }
    buffer.truncate(done);
    Ok(buffer.into())
}
