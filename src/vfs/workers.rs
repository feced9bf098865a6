//! Threads for requests that may wait, so that those which may not are never behind them.

use super::{Result, VfsError};
use crossbeam_channel::{Sender, TrySendError, bounded};
use std::panic::{AssertUnwindSafe, catch_unwind};

type Job = Box<dyn FnOnce() + Send>;

/// What a request may have to wait for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Waits {
    /// The local disk.
    Disk,
    /// A target.
    Archive,
}

/// A bounded pool. Dropped, it finishes what it has.
#[derive(Clone, Debug)]
pub struct Workers {
    local: Sender<Job>,
    remote: Sender<Job>,
}

impl Workers {
    /// Starts `local` threads for local work that may wait and `remote` ones for the archive, with
    /// room for `queue` waiting jobs each. Slow targets use up only the latter.
    ///
    /// # Errors
    /// If the system has no room for a thread.
    pub fn start(local: usize, remote: usize, queue: usize) -> std::io::Result<Workers> {
        Ok(Workers {
            local: pool("spoolfs-local", local, queue, || {})?,
            // Who listens waits for a network, who records for a processor.
            remote: pool("spoolfs-remote", remote, queue, || crate::sys::stand_back(0))?,
        })
    }

    /// Runs a job that may wait.
    ///
    /// # Errors
    /// `Overloaded`; the job was dropped.
    pub fn run(&self, waits: Waits, job: impl FnOnce() + Send + 'static) -> Result<()> {
        let queue = match waits {
            Waits::Disk => &self.local,
            Waits::Archive => &self.remote,
        };
        queue.try_send(Box::new(job)).map_err(|e| match e {
            TrySendError::Full(_) | TrySendError::Disconnected(_) => VfsError::Overloaded,
        })
    }
}

fn pool(name: &str, threads: usize, queue: usize, begin: fn()) -> std::io::Result<Sender<Job>> {
    let (sender, receiver) = bounded::<Job>(queue);
    for _ in 0..threads {
        let receiver = receiver.clone();
        std::thread::Builder::new().name(name.to_owned()).spawn(move || {
            begin();
            for job in receiver {
                // What it was to answer is dropped with it, which tells the caller EIO.
                if catch_unwind(AssertUnwindSafe(job)).is_err() {
                    tracing::error!(
                        "a fault of spoolfs: a request failed, everything else goes on"
                    );
                }
            }
        })?;
    }
    Ok(sender)
}
