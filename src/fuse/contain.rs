//! A fault in answering one request is that request's alone; and a thread that answers no more is
//! found out.

use crate::limits::FUSE_THREADS;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// What the threads that answer the kernel are doing.
#[derive(Debug)]
pub struct Watch {
    began: Instant,
    /// For each thread, since when it is at its request: milliseconds after `began`, and one; 0
    /// if it is at none.
    since: [AtomicU64; FUSE_THREADS],
    faults: AtomicU64,
}

impl Default for Watch {
    fn default() -> Watch {
        Watch {
            began: Instant::now(),
            since: std::array::from_fn(|_| AtomicU64::new(0)),
            faults: AtomicU64::new(0),
        }
    }
}

thread_local! {
    static THREAD: usize = {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        NEXT.fetch_add(1, Ordering::Relaxed) % FUSE_THREADS
    };
}

impl Watch {
    /// Answers a request. If that panics, the reply was dropped, which tells the caller EIO, and
    /// the thread goes on with the next.
    pub(super) fn contain(&self, what: &'static str, node: u64, answer: impl FnOnce()) {
        let mine = THREAD.with(|n| self.since.get(*n));
        if let Some(mine) = mine {
            mine.store(self.now(), Ordering::Relaxed);
        }
        if catch_unwind(AssertUnwindSafe(answer)).is_err() {
            self.faults.fetch_add(1, Ordering::Relaxed);
            tracing::error!(
                what,
                node,
                "a fault of spoolfs: this request failed with an I/O error, everything else goes \
                 on. Please report it with the lines before this one"
            );
        }
        if let Some(mine) = mine {
            mine.store(0, Ordering::Relaxed);
        }
    }

    fn now(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX).saturating_add(1)
    }

    /// Whether a thread is at one request for longer than this.
    pub fn stuck(&self, longer_than: Duration) -> bool {
        let now = self.now();
        let limit = u64::try_from(longer_than.as_millis()).unwrap_or(u64::MAX);
        let at = self.since.iter().map(|since| since.load(Ordering::Relaxed));
        at.filter(|since| *since > 0).any(|since| now.saturating_sub(since) > limit)
    }

    /// Requests that failed by a fault of ours.
    pub fn faults(&self) -> u64 {
        self.faults.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fault_is_counted_and_the_thread_goes_on() {
        let watch = Watch::default();
        watch.contain("read", 1, || panic!("as a fault would"));
        let mut reached = false;
        watch.contain("read", 1, || {
            reached = true;
            std::thread::sleep(Duration::from_millis(2));
            assert!(watch.stuck(Duration::ZERO));
        });
        assert!(reached && !watch.stuck(Duration::ZERO));
        assert_eq!(watch.faults(), 1);
    }
}
