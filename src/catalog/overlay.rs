//! Logged operations that are not yet in SQLite, arranged so that reads find them.
//!
//! **Invariant:** an effect is dropped only after it was committed, so what a reader takes from
//! here first and then lays over a later snapshot of SQLite has no gap.

use super::apply;
use super::log::Effect;
use super::op::{Name, Op};
use crate::recording::NodeId;
use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

/// Where the directory entry behind a name comes from; it decides the `readdir` cursor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Origin {
    /// Made by the effect with this number, which is its cursor.
    Made(u64),
    /// Moved from this name, which is in SQLite.
    Moved(NodeId, Name),
}

/// What a name stands for now.
#[derive(Clone, Debug)]
pub(super) struct Slot {
    /// The effect that said so.
    pub seq: u64,
    /// The node; `None`: there is nothing by this name.
    pub node: Option<NodeId>,
    /// Where its entry comes from.
    pub origin: Origin,
    /// The node was first heard of from an effect not yet committed, so it is not released.
    pub local: bool,
}

/// Effects in order, with what they say of names and nodes.
#[derive(Debug, Default)]
pub(super) struct Overlay {
    queue: VecDeque<Arc<Effect>>,
    bytes: u64,
    nodes: HashMap<NodeId, VecDeque<Arc<Effect>>>,
    names: HashMap<NodeId, HashMap<Name, Slot>>,
    dropped: u64,
}

impl Overlay {
    /// Adds the next effect.
    pub(super) fn push(&mut self, effect: Arc<Effect>) {
        for id in apply::touched(&effect.op) {
            self.nodes.entry(id).or_default().push_back(effect.clone());
        }
        self.push_names(&effect);
        self.bytes = self.bytes.saturating_add(effect.bytes);
        self.queue.push_back(effect);
    }

    fn push_names(&mut self, effect: &Effect) {
        let seq = effect.seq;
        match &effect.op {
            Op::Create { id, parent, name, .. }
            | Op::Link { id, parent, name }
            | Op::Restore { id, parent, name, .. } => {
                self.set(
                    *parent,
                    name,
                    Slot { seq, node: Some(*id), origin: Origin::Made(seq), local: false },
                );
            }
            Op::Unlink { parent, name, .. } => {
                self.set(
                    *parent,
                    name,
                    Slot { seq, node: None, origin: Origin::Made(seq), local: false },
                );
            }
            Op::Rename { id, parent, name, new_parent, new_name, .. } => {
                let origin = self.origin(*parent, name);
                self.set(
                    *parent,
                    name,
                    Slot { seq, node: None, origin: Origin::Made(seq), local: false },
                );
                self.set(
                    *new_parent,
                    new_name,
                    Slot { seq, node: Some(*id), origin, local: false },
                );
            }
            Op::Exchange { a, b, .. } => {
                let (from_a, from_b) = (self.origin(a.1, &a.2), self.origin(b.1, &b.2));
                self.set(b.1, &b.2, Slot { seq, node: Some(a.0), origin: from_a, local: false });
                self.set(a.1, &a.2, Slot { seq, node: Some(b.0), origin: from_b, local: false });
            }
            Op::Opened { .. }
            | Op::Closed { .. }
            | Op::SetAttr { .. }
            | Op::Suspect { .. }
            | Op::SetXattrs { .. } => {}
        }
    }

    fn set(&mut self, parent: NodeId, name: &Name, mut slot: Slot) {
        slot.local = slot.node.is_some_and(|id| self.is_new(id));
        self.names.entry(parent).or_default().insert(name.clone(), slot);
    }

    fn origin(&self, parent: NodeId, name: &Name) -> Origin {
        match self.slot(parent, name) {
            Some(Slot { node: Some(_), origin, .. }) => origin.clone(),
            _ => Origin::Moved(parent, name.clone()),
        }
    }

    /// The next effects to commit, without taking them out.
    pub(super) fn batch(&self, limit: usize) -> Vec<Arc<Effect>> {
        self.queue.iter().take(limit).cloned().collect()
    }

    /// Takes out what is committed.
    pub(super) fn drop_through(&mut self, committed: u64) {
        while let Some(effect) = self.queue.front().filter(|e| e.seq <= committed).cloned() {
            self.queue.pop_front();
            self.bytes = self.bytes.saturating_sub(effect.bytes);
            for id in apply::touched(&effect.op) {
                self.drop_node(id, committed);
            }
            self.drop_names(&effect.op, committed);
        }
        self.dropped = self.dropped.max(committed);
    }

    fn drop_node(&mut self, id: NodeId, committed: u64) {
        if let Some(effects) = self.nodes.get_mut(&id) {
            while effects.front().is_some_and(|e| e.seq <= committed) {
                effects.pop_front();
            }
            if effects.is_empty() {
                self.nodes.remove(&id);
            }
        }
    }

    fn drop_names(&mut self, op: &Op, committed: u64) {
        match op {
            Op::Create { parent, name, .. }
            | Op::Link { parent, name, .. }
            | Op::Restore { parent, name, .. }
            | Op::Unlink { parent, name, .. } => self.drop_name(*parent, name, committed),
            Op::Rename { parent, name, new_parent, new_name, .. } => {
                self.drop_name(*parent, name, committed);
                self.drop_name(*new_parent, new_name, committed);
            }
            Op::Exchange { a, b, .. } => {
                self.drop_name(a.1, &a.2, committed);
                self.drop_name(b.1, &b.2, committed);
            }
            Op::Opened { .. }
            | Op::Closed { .. }
            | Op::SetAttr { .. }
            | Op::Suspect { .. }
            | Op::SetXattrs { .. } => {}
        }
    }

    fn drop_name(&mut self, parent: NodeId, name: &Name, committed: u64) {
        let Some(names) = self.names.get_mut(&parent) else { return };
        if names.get(name).is_some_and(|slot| slot.seq <= committed) {
            names.remove(name);
        }
        if names.is_empty() {
            self.names.remove(&parent);
        }
    }

    /// What the name stands for, if an effect not yet committed says.
    pub(super) fn slot(&self, parent: NodeId, name: &[u8]) -> Option<&Slot> {
        self.names.get(&parent).and_then(|names| names.get(name))
    }

    /// Names of a directory that uncommitted effects speak of.
    pub(super) fn names(&self, parent: NodeId) -> impl Iterator<Item = (&Name, &Slot)> {
        self.names.get(&parent).into_iter().flatten()
    }

    /// Uncommitted effects on a node, in order.
    pub(super) fn effects(&self, id: NodeId) -> Vec<Arc<Effect>> {
        self.nodes.get(&id).map(|e| e.iter().cloned().collect()).unwrap_or_default()
    }

    /// Whether an effect on a node is newer than what was committed.
    pub(super) fn is_newer(&self, id: NodeId, committed: u64) -> bool {
        self.nodes.get(&id).is_some_and(|e| e.iter().any(|effect| effect.seq > committed))
    }

    /// Whether the node was first heard of from an effect not yet committed.
    fn is_new(&self, id: NodeId) -> bool {
        let first = self.nodes.get(&id).and_then(|e| e.front());
        first.is_some_and(|e| matches!(e.op, Op::Create { .. }))
    }

    /// Bytes of log that wait for the catalog.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Effects that wait for the catalog.
    pub(super) fn len(&self) -> usize {
        self.queue.len()
    }

    /// The last effect added.
    pub(super) fn newest(&self) -> u64 {
        self.queue.back().map_or(self.dropped, |e| e.seq)
    }

    /// The last effect taken out.
    pub(super) fn dropped(&self) -> u64 {
        self.dropped
    }
}
