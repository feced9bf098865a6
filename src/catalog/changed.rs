//! Which archived nodes were changed lately, for who looks after what was made of them.
//!
//! **Invariant:** a node is told only after the change was committed, so whoever is told sees it; and
//! whoever could not be told everything is told that.

use super::Catalog;
use crate::limits;
use crate::recording::NodeId;
use std::collections::BTreeSet;

/// What was changed since it was asked last.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changed {
    /// Nodes that have, or had, objects: changed, archived, released, deleted.
    pub nodes: BTreeSet<NodeId>,
    /// There were more than are remembered.
    pub more: bool,
}

/// The nodes of which somebody wants to be told; none: nobody does.
#[derive(Debug, Default)]
pub(super) struct Watched(Option<Changed>);

impl Watched {
    /// These were changed, and that is committed.
    pub fn committed(&mut self, nodes: Vec<NodeId>) {
        let Some(changed) = &mut self.0 else { return };
        changed.nodes.extend(nodes);
        while changed.nodes.len() > limits::CHANGED_NODES_MAX {
            changed.nodes.pop_last();
            changed.more = true;
        }
    }
}

impl Catalog {
    /// What was changed since this was called last; the first time nothing, and from then on it is
    /// remembered. For one listener.
    pub fn take_changed(&self) -> Changed {
        self.shared.watched.lock().0.replace(Changed::default()).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_listens_is_told_what_was_changed_or_that_it_was_too_much() {
        let mut watched = Watched::default();
        watched.committed(vec![NodeId(1)]);
        assert!(watched.0.is_none(), "nobody listens");
        watched.0 = Some(Changed::default());
        watched.committed(vec![NodeId(2), NodeId(3), NodeId(2)]);
        let told = watched.0.replace(Changed::default()).unwrap();
        assert_eq!(told, Changed { nodes: [NodeId(2), NodeId(3)].into(), more: false });
        let many = limits::CHANGED_NODES_MAX as u64 + 10;
        watched.committed((1..=many).map(NodeId).collect());
        let told = watched.0.unwrap();
        assert!(told.more && told.nodes.len() == limits::CHANGED_NODES_MAX);
    }
}
