//! Answering a request that may wait on a thread that may.

/// Runs `$job` with `$reply` on a worker, or answers EIO if too many wait. A macro, because each
/// kind of reply is a type of its own without a common trait.
macro_rules! on_worker {
    ($self:ident, $waits:expr, $reply:ident, |$vfs:ident| $job:expr) => {{
        let $vfs = $self.vfs.clone();
        let slot = Arc::new(parking_lot::Mutex::new(Some($reply)));
        let theirs = slot.clone();
        let queued = $self.vfs.workers().run($waits, move || {
            if let Some($reply) = theirs.lock().take() {
                $job
            }
        });
        if let Err(error) = queued
            && let Some(reply) = slot.lock().take()
        {
            reply.error(errno(&error));
        }
    }};
}

pub(super) use on_worker;
