//! What ends a daemon.

use std::io;
use std::sync::mpsc;
use std::time::Duration;
use tokio::runtime::Runtime;
use tokio::signal::unix::{Signal, SignalKind, signal};

/// How it ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ending {
    /// SIGTERM, SIGINT: unmount.
    Stop,
    /// SIGUSR1: leave the mount to a successor.
    HandOver,
    /// Somebody else unmounted.
    Unmounted,
}

/// The signals, caught from the moment this is made.
pub(super) struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
    successor: Signal,
}

impl Signals {
    /// Begins to catch them.
    pub fn new(runtime: &Runtime) -> io::Result<Signals> {
        let _in_runtime = runtime.enter();
        Ok(Signals {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hangup: signal(SignalKind::hangup())?,
            successor: signal(SignalKind::user_defined1())?,
        })
    }

    /// Waits for one that ends the daemon, or for the end of the mount.
    pub fn wait(
        mut self,
        runtime: &Runtime,
        end: &mpsc::Receiver<io::Result<()>>,
        reload: impl Fn(),
    ) -> Ending {
        loop {
            let ending = runtime.block_on(async {
                tokio::select! {
                    _ = self.terminate.recv() => Some(Ending::Stop),
                    _ = self.interrupt.recv() => Some(Ending::Stop),
                    _ = self.successor.recv() => Some(Ending::HandOver),
                    _ = self.hangup.recv() => { reload(); None }
                    // The session's thread can not wake a task; once a second is often enough.
                    () = tokio::time::sleep(Duration::from_secs(1)) => match end.try_recv() {
                        Err(mpsc::TryRecvError::Empty) => None,
                        _ => Some(Ending::Unmounted),
                    },
                }
            });
            if let Some(ending) = ending {
                return ending;
            }
        }
    }
}
