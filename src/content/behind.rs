//! Writing to the disk cache behind the answers: by one thread that lets all others go first, and
//! waits for a pause as long as it has room for what comes, so that whoever reads on does not share
//! the processor with it.

use super::cache::DiskCache;
use crate::limits;
use crate::recording::Sha256;
use bytes::Bytes;
use crossbeam_channel::{Sender, bounded};
use parking_lot::Mutex;
use std::sync::Arc;
use std::time::Instant;

/// How far it steps back: as far as it can.
const NICENESS: i32 = 19;

/// The thread; it ends when this is dropped and what waits is written.
#[derive(Debug)]
pub(super) struct Behind {
    chunks: Sender<(Sha256, Bytes)>,
    /// When the last one came.
    last: Arc<Mutex<Instant>>,
}

impl Behind {
    /// None if there is no room for a thread: then nothing is kept.
    pub(super) fn start(disk: Arc<DiskCache>) -> Option<Behind> {
        let (chunks, waiting) = bounded::<(Sha256, Bytes)>(limits::CACHE_BEHIND);
        let last = Arc::new(Mutex::new(Instant::now()));
        let came = last.clone();
        let write = move || {
            crate::sys::stand_back(NICENESS);
            for (sum, bytes) in &waiting {
                while waiting.len() < limits::CACHE_BEHIND / 4 * 3 {
                    let left = limits::CACHE_PAUSE.saturating_sub(came.lock().elapsed());
                    if left.is_zero() {
                        break;
                    }
                    std::thread::sleep(left);
                }
                disk.insert(sum, &bytes);
            }
        };
        let thread = std::thread::Builder::new().name("spoolfs-cache".to_owned()).spawn(write);
        if let Err(error) = &thread {
            tracing::warn!(%error, "the disk cache is not written");
        }
        thread.ok().map(|_| Behind { chunks, last })
    }

    /// Takes a chunk, unless too many wait: it costs nothing but the next fetch.
    pub(super) fn put(&self, sum: Sha256, bytes: Bytes) {
        *self.last.lock() = Instant::now();
        let _left_out = self.chunks.try_send((sum, bytes));
    }
}
