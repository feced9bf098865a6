//! At most one step at a time works on a recording.

use crate::recording::NodeId;
use parking_lot::{Condvar, Mutex};
use std::collections::HashSet;
use std::sync::Arc;
use std::time::Instant;

#[derive(Debug, Default)]
struct Inner {
    held: Mutex<HashSet<NodeId>>,
    freed: Condvar,
}

/// Who works on what. As many entries as there are steps in progress.
#[derive(Clone, Debug, Default)]
pub(super) struct Claims(Arc<Inner>);

/// The right to work on some recordings; given back when dropped.
#[derive(Debug)]
pub(super) struct Claim {
    claims: Claims,
    ids: Vec<NodeId>,
}

impl Claims {
    /// All of them, or none.
    pub fn try_claim(&self, ids: &[NodeId]) -> Option<Claim> {
        let mut held = self.0.held.lock();
        self.take(&mut held, ids)
    }

    /// All of them, waiting until `deadline` for others to finish.
    pub fn claim(&self, ids: &[NodeId], deadline: Instant) -> Option<Claim> {
        let mut held = self.0.held.lock();
        loop {
            if let Some(claim) = self.take(&mut held, ids) {
                return Some(claim);
            }
            if self.0.freed.wait_until(&mut held, deadline).timed_out() {
                return self.take(&mut held, ids);
            }
        }
    }

    pub fn is_held(&self, id: NodeId) -> bool {
        self.0.held.lock().contains(&id)
    }

    fn take(&self, held: &mut HashSet<NodeId>, ids: &[NodeId]) -> Option<Claim> {
        if ids.iter().any(|id| held.contains(id)) {
            return None;
        }
        held.extend(ids);
        let mut ids = ids.to_vec();
        ids.dedup();
        Some(Claim { claims: self.clone(), ids })
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        let mut held = self.claims.0.held.lock();
        for id in &self.ids {
            held.remove(id);
        }
        self.claims.0.freed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn a_claim_is_exclusive_and_all_or_nothing() {
        let claims = Claims::default();
        let one = claims.try_claim(&[NodeId(1), NodeId(2)]).unwrap();
        assert!(claims.try_claim(&[NodeId(3), NodeId(2)]).is_none());
        assert!(!claims.is_held(NodeId(3)));
        let soon = Instant::now() + Duration::from_millis(5);
        assert!(claims.claim(&[NodeId(2)], soon).is_none());
        let waiting = claims.clone();
        let thread = std::thread::spawn(move || {
            waiting.claim(&[NodeId(2)], Instant::now() + Duration::from_secs(60)).is_some()
        });
        drop(one);
        assert!(thread.join().unwrap());
    }
}
