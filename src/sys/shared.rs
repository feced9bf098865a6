//! Memory that outlives the process: a file on a tmpfs, mapped.

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr::{self, NonNull};
use std::sync::atomic::{AtomicU32, Ordering};

/// A mapped file. Only system calls and single words touch it, never a reference, so that the
/// kernel may write to it and several threads may use different parts at the same time. Which part
/// is whose, the callers settle among themselves; the worst that a mistake can do is wrong bytes.
#[derive(Debug)]
pub struct SharedRegion {
    base: NonNull<u8>,
    len: usize,
}

// SAFETY: the mapping is valid in every thread until it is dropped, and nothing in here hands out
// a reference to it.
unsafe impl Send for SharedRegion {}
// SAFETY: as above.
unsafe impl Sync for SharedRegion {}

impl SharedRegion {
    /// Maps the first `len` bytes of a file, and brings all of it into memory. Nobody may shorten
    /// the file.
    ///
    /// # Errors
    /// As `fallocate`, `mmap`.
    pub fn map(file: &File, len: usize) -> io::Result<SharedRegion> {
        // A page without room behind it would end the process when it is touched.
        rustix::fs::fallocate(file, rustix::fs::FallocateFlags::empty(), 0, len as u64)?;
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        let flags = libc::MAP_SHARED | libc::MAP_POPULATE;
        // SAFETY: no address is asked for, so that no other mapping is replaced; the length and
        // descriptor are checked by the kernel.
        let base =
            unsafe { libc::mmap(ptr::null_mut(), len, protection, flags, file.as_raw_fd(), 0) };
        if base == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        // Best effort: a page that was swapped out is brought back when it is needed.
        // SAFETY: the range was just mapped; locking it changes nothing but its residence.
        let _not_locked = unsafe { libc::mlock(base, len) };
        // Best effort, Linux 5.14: where the file is on a disk, its pages are mapped for reading only
        // until they are written to. A read from the kernel that has to change that is broken off by
        // a SIGKILL, and the request that it had taken is lost.
        // SAFETY: the range was just mapped; its bytes do not change.
        let _not_prepared = unsafe { libc::madvise(base, len, libc::MADV_POPULATE_WRITE) };
        let base = NonNull::new(base.cast()).ok_or_else(io::Error::last_os_error)?;
        Ok(SharedRegion { base, len })
    }

    fn at(&self, at: usize, len: usize) -> io::Result<*mut u8> {
        match at.checked_add(len) {
            // SAFETY: the whole range lies inside the mapping.
            Some(end) if end <= self.len => Ok(unsafe { self.base.as_ptr().add(at) }),
            _ => Err(io::ErrorKind::InvalidInput.into()),
        }
    }

    /// Reads from a descriptor straight into the region.
    ///
    /// # Errors
    /// As `read`; `InvalidInput` beyond the end.
    pub fn read_from(&self, fd: BorrowedFd<'_>, at: usize, len: usize) -> io::Result<usize> {
        let to = self.at(at, len)?;
        // SAFETY: `to` is valid for `len` bytes and stays mapped for the call.
        let got = unsafe { libc::read(fd.as_raw_fd(), to.cast(), len) };
        usize::try_from(got).map_err(|_| io::Error::last_os_error())
    }

    /// The bytes of a part.
    ///
    /// # Errors
    /// `InvalidInput` beyond the end.
    pub fn get(&self, at: usize, len: usize) -> io::Result<Vec<u8>> {
        let from = self.at(at, len)?;
        let mut bytes = vec![0; len];
        // SAFETY: both are valid for `len` bytes and do not overlap: the vector is new.
        unsafe { ptr::copy_nonoverlapping(from, bytes.as_mut_ptr(), len) };
        Ok(bytes)
    }

    /// Writes a part.
    ///
    /// # Errors
    /// `InvalidInput` beyond the end.
    pub fn set(&self, at: usize, bytes: &[u8]) -> io::Result<()> {
        let to = self.at(at, bytes.len())?;
        // SAFETY: both are valid for the length, and a slice of ours can not be in the mapping.
        unsafe { ptr::copy_nonoverlapping(bytes.as_ptr(), to, bytes.len()) };
        Ok(())
    }

    /// Writes one aligned word, after everything written before.
    ///
    /// # Errors
    /// `InvalidInput` beyond the end or not aligned.
    pub fn set_word(&self, at: usize, word: u32) -> io::Result<()> {
        let to: *mut u32 = self.at(at, 4)?.cast();
        if !to.is_aligned() {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        // SAFETY: valid for four bytes, aligned, and mapped as long as the atomic is used.
        unsafe { AtomicU32::from_ptr(to) }.store(word, Ordering::Release);
        Ok(())
    }
}

impl Drop for SharedRegion {
    fn drop(&mut self) {
        // SAFETY: exactly what `map` mapped, and nobody has a reference into it.
        unsafe { libc::munmap(self.base.as_ptr().cast(), self.len) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::os::fd::AsFd;

    #[test]
    fn what_is_written_is_in_the_file_and_nothing_beyond_the_end_is_touched() {
        let file = tempfile::tempfile().unwrap();
        let region = SharedRegion::map(&file, 8192).unwrap();
        let (reader, mut writer) = io::pipe().unwrap();
        writer.write_all(b"hello").unwrap();
        assert_eq!(region.read_from(reader.as_fd(), 100, 50).unwrap(), 5);
        region.set(105, b" world").unwrap();
        region.set_word(200, 7).unwrap();
        let again = SharedRegion::map(&file, 8192).unwrap();
        assert_eq!(again.get(100, 11).unwrap(), b"hello world");
        assert_eq!(again.get(200, 4).unwrap(), 7u32.to_le_bytes());
        for wrong in [
            region.get(8190, 3).map(drop),
            region.set(8192, b"x"),
            region.set_word(usize::MAX, 1),
            region.set_word(101, 1),
            region.read_from(reader.as_fd(), 8000, 193).map(drop),
        ] {
            assert_eq!(wrong.unwrap_err().kind(), io::ErrorKind::InvalidInput);
        }
    }
}
