//! One signal that ends every wait of the engine, in threads and in tasks.

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender};
use parking_lot::Mutex;
use std::time::Duration;
use tokio::sync::watch;

/// Set once, for good.
#[derive(Debug)]
pub(super) struct Stop {
    /// Dropped to wake everybody who waits on `closed`; nothing is ever sent.
    open: Mutex<Option<Sender<()>>>,
    closed: Receiver<()>,
    tasks: watch::Sender<bool>,
}

impl Stop {
    pub fn new() -> Stop {
        let (open, closed) = crossbeam_channel::bounded(0);
        Stop { open: Mutex::new(Some(open)), closed, tasks: watch::Sender::new(false) }
    }

    pub fn set(&self) {
        self.open.lock().take();
        self.tasks.send_replace(true);
    }

    pub fn is_set(&self) -> bool {
        *self.tasks.borrow()
    }

    /// Waits; tells whether the engine is stopping.
    pub fn wait(&self, at_most: Duration) -> bool {
        self.closed.recv_timeout(at_most) != Err(RecvTimeoutError::Timeout)
    }

    /// Becomes ready when the engine stops; never carries a message.
    pub fn closed(&self) -> &Receiver<()> {
        &self.closed
    }

    /// Ends when the engine stops.
    pub async fn reached(&self) {
        let mut tasks = self.tasks.subscribe();
        // The sender lives as long as `self`.
        let _set = tasks.wait_for(|set| *set).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    #[test]
    fn threads_and_tasks_wake_up() {
        let stop = Arc::new(Stop::new());
        assert!(!stop.wait(Duration::from_millis(1)));
        let other = Arc::clone(&stop);
        let thread = std::thread::spawn(move || other.wait(Duration::from_secs(60)));
        stop.set();
        assert!(thread.join().unwrap());
        assert!(stop.is_set());
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(stop.reached());
    }
}
