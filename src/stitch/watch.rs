//! What recordings are, found out while they are local and before anybody asks: of each once it is
//! closed, whether a call is known that it belongs to or not, so that a late leg is known, too.

use super::Result;
use super::given::CallLeg;
use super::legs::Found;
use super::service::Stitched;
use crate::limits;
use crate::recording::NodeId;
use std::collections::VecDeque;

/// How far recordings were looked at.
#[derive(Debug, Default)]
pub struct Looked {
    /// The last name seen.
    cursor: u64,
    /// Those that were being recorded, or could not be read.
    later: VecDeque<NodeId>,
    /// What is remembered was looked through up to this recording.
    kept: u64,
}

impl Stitched {
    /// Finds out what recordings are that got their names since, and those that were still being
    /// recorded, as far as they are local. What is not, is found out when somebody asks. Whether
    /// there is more to do at once.
    ///
    /// # Errors
    /// If the catalog can not be read now; what was not looked at is next time.
    pub fn look_ahead(&self, looked: &mut Looked) -> Result<bool> {
        let page = self.recordings.named_after(looked.cursor, limits::STITCH_LOOK_AHEAD)?;
        let mut nodes = page.nodes;
        if !page.more {
            nodes.extend(looked.later.drain(..));
        }
        looked.later.extend(self.learn_nodes(&nodes));
        // The oldest are given up: they are found out when somebody asks.
        let over = looked.later.len().saturating_sub(limits::STITCH_LATER_MAX);
        looked.later.drain(..over);
        looked.cursor = page.cursor;
        if !page.more {
            self.forget_gone(looked);
        }
        Ok(page.more)
    }

    /// Finds out what these are; answers those to be asked again.
    fn learn_nodes(&self, nodes: &[NodeId]) -> Vec<NodeId> {
        let mut again = Vec::new();
        let mut found = Vec::new();
        for (node, standing) in nodes.iter().zip(self.recordings.standings(nodes)) {
            match standing {
                Ok(Some(standing)) if standing.growing => again.push(*node),
                Ok(Some(standing)) => {
                    let leg = CallLeg { node: *node, start: None, side: None };
                    found.push(Found::new(&leg, standing));
                }
                Ok(None) => {}
                Err(_) => again.push(*node),
            }
        }
        let mut legs: Vec<&mut Found> = found.iter_mut().collect();
        self.learn(&mut legs, false);
        again.extend(legs.iter().filter(|leg| leg.failed()).map(|leg| leg.node()));
        again
    }

    /// Forgets some of what is remembered of recordings that are gone; the others are looked at
    /// another time, all of them in turn.
    fn forget_gone(&self, looked: &mut Looked) {
        for _ in 0..limits::STITCH_FORGET_PAGES {
            let nodes = self.memory.after(NodeId(looked.kept), limits::STITCH_LOOK_AHEAD);
            let Some(last) = nodes.last() else {
                looked.kept = 0;
                return;
            };
            looked.kept = last.0;
            let standings = self.recordings.standings(&nodes);
            let gone = nodes.iter().zip(standings).filter(|(_, found)| matches!(found, Ok(None)));
            self.memory.forget(&gone.map(|(node, _)| *node).collect::<Vec<_>>());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::listing::tests::{Pbx, stitched};
    use super::*;
    use std::collections::HashSet;
    use std::sync::Arc;
    use std::sync::atomic::Ordering;

    #[test]
    fn a_late_leg_and_one_in_progress_are_known_before_anybody_asks() {
        let place = tempfile::tempdir().unwrap();
        let pbx = Arc::new(Pbx { calls: 3, ..Pbx::default() });
        let stitched = stitched(&pbx, place.path());
        let mut looked = Looked::default();
        // The second leg of call 3 comes late, the second of call 2 goes on.
        pbx.named.store(6, Ordering::Relaxed);
        pbx.growing.lock().insert(5);
        let opens = || pbx.opens.load(Ordering::Relaxed);
        assert!(!stitched.look_ahead(&mut looked).unwrap());
        assert_eq!(opens(), 4);
        assert!(!stitched.look_ahead(&mut looked).unwrap());
        assert_eq!(opens(), 4);
        pbx.named.store(0, Ordering::Relaxed);
        pbx.growing.lock().clear();
        assert!(!stitched.look_ahead(&mut looked).unwrap());
        assert_eq!(opens(), 6);
        pbx.released.lock().extend(2..8);
        for call in ["1.wav", "2.wav", "3.wav"] {
            stitched.lookup(call.as_bytes(), false).unwrap();
        }
        assert_eq!(opens(), 6, "a stat reads no leg");
    }

    #[test]
    fn what_is_remembered_of_recordings_that_are_gone_is_forgotten() {
        let place = tempfile::tempdir().unwrap();
        let pbx = Arc::new(Pbx { calls: 1000, ..Pbx::default() });
        let stitched = stitched(&pbx, place.path());
        let mut looked = Looked::default();
        while stitched.look_ahead(&mut looked).unwrap() {}
        let remembered = || stitched.memory.after(NodeId(0), 10_000);
        assert_eq!(remembered().len(), 2000);
        let gone: HashSet<u64> = (500..1500).collect();
        pbx.gone.lock().extend(&gone);
        // All in one go, or what was left of the one before and then all.
        for _ in 0..3 {
            stitched.look_ahead(&mut looked).unwrap();
        }
        assert_eq!(remembered().len(), 1000);
        assert!(remembered().iter().all(|node| !gone.contains(&node.0)));
    }
}
