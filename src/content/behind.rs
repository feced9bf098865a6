//! Writing to the disk cache behind the answers: by one thread that lets all others go first, so
//! that whoever reads on does not share the processor with it.

use super::cache::DiskCache;
use crate::limits;
use crate::recording::Sha256;
use bytes::Bytes;
use crossbeam_channel::{Sender, bounded};
use std::sync::Arc;

/// How far it steps back.
const NICENESS: i32 = 10;

/// The thread; it ends when this is dropped and what waits is written.
#[derive(Debug)]
pub(super) struct Behind {
    chunks: Sender<(Sha256, Bytes)>,
}

impl Behind {
    /// None if there is no room for a thread: then nothing is kept.
    pub(super) fn start(disk: Arc<DiskCache>) -> Option<Behind> {
        let (chunks, waiting) = bounded::<(Sha256, Bytes)>(limits::CACHE_BEHIND);
        let write = move || {
            let this = Some(rustix::thread::gettid());
            if let Err(errno) = rustix::process::setpriority_process(this, NICENESS) {
                tracing::debug!(%errno, "the disk cache is written as urgently as all else");
            }
            for (sum, bytes) in waiting {
                disk.insert(sum, &bytes);
            }
        };
        let thread = std::thread::Builder::new().name("spoolfs-cache".to_owned()).spawn(write);
        if let Err(error) = &thread {
            tracing::warn!(%error, "the disk cache is not written");
        }
        thread.ok().map(|_| Behind { chunks })
    }

    /// Takes a chunk, unless too many wait: it costs nothing but the next fetch.
    pub(super) fn put(&self, sum: Sha256, bytes: Bytes) {
        let _left_out = self.chunks.try_send((sum, bytes));
    }
}
