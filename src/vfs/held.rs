//! What legal holds refuse (docs/HOLDS.md), asked of memory alone.

use super::{Caller, Result, Vfs};
use crate::audit::User;
use crate::clock::Timestamp;
use crate::limits;
use crate::recording::NodeId;
use crossbeam_channel::{Receiver, Sender, bounded};
use rustix::io::Errno;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Something that a legal hold forbids was tried.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// Of which recording.
    pub id: NodeId,
    /// "unlink", "rename" over it, "open" for writing, "truncate".
    pub operation: &'static str,
    /// By whom.
    pub user: User,
    /// When.
    pub at: Timestamp,
}

/// Where refusals are told. Nobody waits: what there is no room for is counted.
#[derive(Clone, Debug)]
pub struct Refusals {
    to: Sender<Refusal>,
    untold: Arc<AtomicU64>,
}

impl Refusals {
    /// With the end at which they are heard, until it is said that nobody tells any more.
    pub fn new() -> (Refusals, Receiver<Refusal>) {
        let (to, heard) = bounded(limits::HOLD_REFUSALS_MAX);
        (Refusals { to, untold: Arc::default() }, heard)
    }

    /// How many there was no room for.
    pub fn untold(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.untold)
    }

    fn tell(&self, refusal: Refusal) {
        if self.to.try_send(refusal).is_err() {
            self.untold.fetch_add(1, Ordering::Relaxed);
        }
    }
}

impl Vfs {
    /// Who is told of what legal holds refuse, from now on; `None`: nobody.
    pub fn tell_refusals(&self, to: Option<Refusals>) {
        *self.refusals.write() = to;
    }

    /// A recording on legal hold whose call is long over is not changed any more.
    pub(super) fn must_be_writable(
        &self,
        caller: Caller,
        id: NodeId,
        operation: &'static str,
    ) -> Result<()> {
        let forbidden = self.catalog.holds().forbids_writing(id, self.clock.now());
        if forbidden { self.refuse(caller, id, operation) } else { Ok(()) }
    }

    /// A recording on legal hold keeps its name, or gets another one; it never loses it.
    pub(super) fn must_not_be_held(
        &self,
        caller: Caller,
        id: NodeId,
        operation: &'static str,
    ) -> Result<()> {
        if self.catalog.is_held(id) { self.refuse(caller, id, operation) } else { Ok(()) }
    }

    fn refuse(&self, caller: Caller, id: NodeId, operation: &'static str) -> Result<()> {
        if let Some(refusals) = &*self.refusals.read() {
            // While it waits for the answer it is there to be asked.
            let user = User::of_request(caller.uid, caller.gid, caller.pid);
            refusals.tell(Refusal { id, operation, user, at: self.clock.now() });
        }
        Err(Errno::PERM.into())
    }
}
