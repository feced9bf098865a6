//! What an operation does to a node and to its names. The overlay and the catalog thread both use
//! these functions, so that a read before the commit and one after it agree.
//!
//! **Invariant:** pure; no I/O, no time.

use super::op::{Fate, Name, Op};
use super::row::NodeRow;
use crate::clock::Timestamp;
use crate::recording::{Attr, Generation, Kind, LowerVersion, NodeId, State};

/// A node with what only the catalog needs to know of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Node {
    /// What others see.
    pub row: NodeRow,
    /// A key was assigned to some generation: deleting leaves a tombstone.
    pub objects: bool,
    /// ctime of the newest stamp heard of: a hash of an older one is stale.
    pub seen: Option<Timestamp>,
}

/// The nodes that an operation changes or names.
pub(super) fn touched(op: &Op) -> impl Iterator<Item = NodeId> {
    let (first, second) = match op {
        Op::Create { id, .. }
        | Op::Link { id, .. }
        | Op::Opened { id }
        | Op::Closed { id, .. }
        | Op::Unlink { id, .. }
        | Op::Restore { id, .. }
        | Op::SetAttr { id, .. }
        | Op::Suspect { id, .. }
        | Op::SetXattrs { id, .. } => (*id, None),
        Op::Rename { id, replaced, .. } => (*id, replaced.map(|(node, _)| node)),
        Op::Exchange { a, b, .. } => (a.0, Some(b.0)),
    };
    std::iter::once(first).chain(second.filter(|node| *node != first))
}

/// The node after the operation; `None` if it is not, or no longer, known.
pub(super) fn apply(op: &Op, id: NodeId, node: Option<Node>) -> Option<Node> {
    if let Op::Create { attr, version, adopted, .. } = op {
        return Some(match node {
            None => created(id, attr, *version, *adopted),
            Some(known) => found(known, attr, *version),
        });
    }
    let node = node?;
    match op {
        Op::Create { .. } => Some(node),
        Op::Link { .. } => Some(with_links(node, 1)),
        Op::Opened { .. } => Some(opened(node)),
        Op::Closed { attr, version, at, .. } => Some(closed(node, attr, *version, *at)),
        Op::Unlink { last, fate, at, .. } => depart(node, *last, *fate, *at),
        Op::Rename { id: moved, .. } if *moved == id => Some(touch(node, rename_time(op))),
        Op::Rename { replaced: Some((_, last)), fate, at, .. } => depart(node, *last, *fate, *at),
        Op::Restore { attr, at, .. } => Some(restored(node, attr, *at)),
        Op::Exchange { at, .. } => Some(touch(node, *at)),
        Op::Rename { .. } => Some(node),
        Op::SetAttr { attr, version, before, .. } => Some(set_attr(node, attr, *version, *before)),
        Op::Suspect { at, .. } => Some(suspect(node, *at)),
        Op::SetXattrs { xattrs, .. } => {
            Some(Node { row: NodeRow { xattrs: xattrs.clone(), ..node.row }, ..node })
        }
    }
}

/// The names of node `id` after the operation, first made first. A moved name keeps its place.
pub(super) fn apply_names(op: &Op, id: NodeId, names: &mut Vec<(NodeId, Name)>) {
    match op {
        Op::Create { parent, name, .. }
        | Op::Link { parent, name, .. }
        | Op::Restore { parent, name, .. }
            if !names.iter().any(|(p, n)| p == parent && n == name) =>
        {
            names.push((*parent, name.clone()));
        }
        Op::Unlink { last: true, .. } => names.clear(),
        Op::Unlink { parent, name, .. } => names.retain(|(p, n)| p != parent || n != name),
        Op::Rename { id: moved, parent, name, new_parent, new_name, .. } if *moved == id => {
            replace(names, (*parent, name), (*new_parent, new_name));
        }
        Op::Rename { replaced: Some((_, true)), .. } => names.clear(),
        Op::Rename { new_parent, new_name, .. } => {
            names.retain(|(p, n)| p != new_parent || n != new_name);
        }
        Op::Exchange { a, b, .. } if a.0 == id => replace(names, (a.1, &a.2), (b.1, &b.2)),
        Op::Exchange { a, b, .. } => replace(names, (b.1, &b.2), (a.1, &a.2)),
        _ => {}
    }
}

/// Moves a name, without changing its place in the order.
fn replace(names: &mut Vec<(NodeId, Name)>, from: (NodeId, &Name), to: (NodeId, &Name)) {
    names.retain(|(p, n)| (*p, n) != to);
    match names.iter_mut().find(|(p, n)| (*p, n) == from) {
        Some(place) => *place = (to.0, to.1.clone()),
        None => names.push((to.0, to.1.clone())),
    }
}

/// The last close of a file that was not closed through the mount: neither stamp lies in the
/// future, because a program can set mtime but not ctime.
fn settled_at(attr: &Attr, version: LowerVersion) -> Timestamp {
    attr.mtime.min(version.ctime)
}

pub(super) fn created(id: NodeId, attr: &Attr, version: LowerVersion, adopted: bool) -> Node {
    let closed = adopted && attr.kind == Kind::File;
    Node {
        row: NodeRow {
            id,
            state: if closed { State::Closed } else { State::Recording },
            attr: attr.clone(),
            generation: Generation(0),
            sha256: None,
            hashed: None,
            closed_at: closed.then(|| settled_at(attr, version)),
            archived_at: None,
            recalled_at: None,
            adopted,
            xattrs: Vec::new(),
            suspect: None,
        },
        objects: false,
        seen: Some(version.ctime),
    }
}

/// The node is in the lower directory with this stamp. The content that was hashed: nothing
/// changed, and a released one is local again. Anything else is to be hashed.
pub(super) fn found(mut node: Node, attr: &Attr, version: LowerVersion) -> Node {
    let same = node.row.hashed == Some(version) && node.row.sha256.is_some();
    node.row.attr = attr.clone();
    node.seen = Some(version.ctime);
    if attr.kind != Kind::File || node.row.state == State::Recording {
        return node;
    }
    if same && node.row.archived_at.is_some() {
        node.row.state = State::Archived;
        return node;
    }
    if !same {
        let at = settled_at(attr, version);
        node.row.closed_at = Some(node.row.closed_at.map_or(at, |before| before.max(at)));
        node.row.hashed = None;
    }
    node.row.state = State::Closed;
    node
}

fn opened(mut node: Node) -> Node {
    let file = node.row.attr.kind == Kind::File;
    if file && node.row.state != State::Deleted {
        node.row.state = State::Recording;
    }
    node
}

fn closed(mut node: Node, attr: &Attr, version: LowerVersion, at: Timestamp) -> Node {
    if node.row.state == State::Deleted || node.row.attr.kind != Kind::File {
        return node;
    }
    let same = node.row.hashed == Some(version);
    node.row.attr = attr.clone();
    node.row.closed_at = Some(at);
    node.seen = Some(version.ctime);
    node.row.state =
        if same && node.row.archived_at.is_some() { State::Archived } else { State::Closed };
    if !same {
        // Never compared with a later stamp again: mtime can be set back by a program.
        node.row.hashed = None;
    }
    node
}

fn depart(mut node: Node, last: bool, fate: Fate, at: Timestamp) -> Option<Node> {
    if !last {
        return Some(touch(with_links(node, -1), at));
    }
    if fate == Fate::Moved && !matches!(node.row.state, State::Released | State::Deleted) {
        // Nobody has it open for writing, whatever was heard of it last.
        if node.row.state == State::Recording {
            node.row.state = State::Closed;
            node.row.closed_at = node.row.closed_at.or(Some(at));
        }
        return Some(node);
    }
    node.objects.then(|| Node {
        row: NodeRow { state: State::Deleted, suspect: None, ..node.row.clone() },
        ..node
    })
}

/// Out of the trash: released, if only its objects are left.
fn restored(mut node: Node, attr: &Attr, at: Timestamp) -> Node {
    if node.row.state != State::Deleted {
        return node;
    }
    let Attr { size, mtime, .. } = *attr;
    let fits = |stamp: &LowerVersion| (stamp.size, stamp.mtime) == (size, mtime);
    // A stamp that no file has: whatever turns up below is hashed.
    let none = LowerVersion { ino: 0, size, mtime, ctime: mtime };
    node.row.hashed = Some(node.row.hashed.filter(fits).unwrap_or(none));
    node.row.state = State::Released;
    node.row.attr = attr.clone();
    node.row.archived_at = node.row.archived_at.or(Some(at));
    touch(node, at)
}

/// Only of a file that has a local copy. A later failure counts: a proof begun before it is void.
fn suspect(mut node: Node, at: Timestamp) -> Node {
    let local = !matches!(node.row.state, State::Released | State::Deleted);
    if node.row.attr.kind == Kind::File && local {
        node.row.suspect = node.row.suspect.max(Some(at));
    }
    node
}

fn set_attr(
    mut node: Node,
    attr: &Attr,
    version: Option<LowerVersion>,
    before: Option<LowerVersion>,
) -> Node {
    if node.row.state == State::Deleted {
        return node;
    }
    node.row.attr = attr.clone();
    if let Some(version) = version {
        if before.is_some() && node.row.hashed == before {
            node.row.hashed = Some(version);
        }
        node.seen = Some(version.ctime);
    }
    node
}

fn with_links(mut node: Node, by: i32) -> Node {
    node.row.attr.nlink = node.row.attr.nlink.saturating_add_signed(by);
    node
}

/// The catalog's attributes are the truth of a released node only: there a moved or removed name
/// changes ctime, as it does below for the others.
fn touch(mut node: Node, at: Timestamp) -> Node {
    if node.row.state == State::Released {
        node.row.attr.ctime = node.row.attr.ctime.max(at);
    }
    node
}

fn rename_time(op: &Op) -> Timestamp {
    match op {
        Op::Rename { at, .. } => *at,
        _ => Timestamp(i64::MIN),
    }
}
