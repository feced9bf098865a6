//! Handles of a predecessor that nobody uses.
//!
//! An open that was done and not answered, and whose caller is killed just before the kernel gives
//! us the request again, leaves a handle that nobody will ever close: the kernel drops the request
//! without a word. It looks like one that a program has open and does nothing with. So a writer
//! that was taken over, was not used since, and whose file has not changed for a long time rests:
//! it does not keep its recording from being archived any more. Its file stays open for reading,
//! so that the local copy is not released; whoever writes to it after all is a writer again.
//!
//! In passthrough the kernel writes without telling us, but it has the lower file open then, which
//! keeps it from being archived as well.

use super::handle::Handle;
use super::inode::{Opens, Place};
use super::{Result, Vfs};
use crate::catalog::Op;
use crate::clock::Timestamp;
use crate::limits::IDLE_HANDLE_RESTS_AFTER;
use crate::lower::stat_file;
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use std::fs::File;
use std::os::fd::AsRawFd;
use std::sync::Arc;

impl Vfs {
    /// Lets writers rest that were taken over and are not used. To be called now and then.
    pub fn rest_idle(&self) {
        let now = self.clock.now();
        if self.resumed_at.is_none_or(|at| at.age_at(now) < IDLE_HANDLE_RESTS_AFTER) {
            return;
        }
        for (number, handle) in self.handles.unused() {
            self.rest(number, &handle, now);
        }
    }

    fn rest(&self, number: u64, handle: &Handle, now: Timestamp) {
        let inode = &handle.inode;
        let named = matches!(*inode.place(), Place::Named(..) | Place::Lost);
        if !named || handle.is_resting() || self.lower.partial(inode.id).is_some() {
            return;
        }
        let mut opens = inode.opens.lock();
        let Some(file) = handle.file() else { return };
        let Ok(stat) = stat_file(&*file) else { return };
        if stat.version.ctime.age_at(now) < IDLE_HANDLE_RESTS_AFTER {
            return;
        }
        let Ok(reader) = opened_anew(&file, OFlags::RDONLY) else { return };
        if !self.handles.rest(number, handle) {
            return;
        }
        handle.set_file(Arc::new(reader));
        opens.writers = opens.writers.saturating_sub(1);
        if opens.writers == 0 {
            self.record_closed(inode.id, &stat);
        }
        tracing::warn!(
            node = %inode.id,
            "a recording that was open when the daemon was replaced has not been used since: it \
             counts as closed until somebody writes to it"
        );
    }

    /// An open file whose bytes are to be changed: a writer again if it rested.
    pub(super) fn writer(&self, number: u64) -> Result<Arc<Handle>> {
        let handle = self.handles.get(number)?;
        if handle.is_resting() {
            let mut opens = handle.inode.opens.lock();
            if handle.is_resting() {
                let file = handle.file().ok_or(Errno::BADF)?;
                let flags = OFlags::from_bits_retain(handle.record.flags);
                self.keep_held(handle.inode.id, &opens, &file, &stat_file(&*file)?);
                handle.set_file(Arc::new(opened_anew(&file, flags)?));
                self.count_again(number, &handle, &mut opens);
            }
        }
        Ok(handle)
    }

    /// It rested, and counts as a writer again.
    pub(super) fn count_again(&self, number: u64, handle: &Handle, opens: &mut Opens) {
        if opens.writers == 0 {
            self.catalog.record(Op::Opened { id: handle.inode.id });
        }
        opens.writers += 1;
        self.handles.wake(number, handle);
    }
}

/// The same file, whatever its name is by now, opened in another way.
fn opened_anew(file: &File, flags: OFlags) -> rustix::io::Result<File> {
    let path = format!("/proc/self/fd/{}", file.as_raw_fd());
    let flags = flags | OFlags::CLOEXEC | OFlags::NONBLOCK;
    Ok(File::from(rustix::fs::open(path, flags, Mode::empty())?))
}
