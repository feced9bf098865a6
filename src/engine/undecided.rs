//! Operations that an earlier daemon began and did not see the end of. Whether they were done is
//! told by the identities in the lower directory, never by names alone: "not there" may be a name
//! that somebody else has since removed.

use super::error::Result;
use super::shared::Shared;
use crate::catalog::Op;
use crate::faults;
use crate::recording::{Attr, NodeId, State};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

/// Settles all of them, oldest first: the parents of the next may be those that the last moved.
///
/// What can not be told is settled as not done, and the tree compared: left undecided, it would be
/// judged at a later start by what others did meanwhile.
pub(super) fn settle(shared: &Shared) {
    for (seq, _unique, op) in shared.catalog.undecided() {
        let done = was_done(shared, &op).unwrap_or_else(|error| {
            tracing::error!(%error, ?op, "can not tell whether an operation was done; the lower directory will");
            shared.catalog.doubt();
            false
        });
        tracing::info!(done, ?op, "settled an operation that an earlier daemon began");
        shared.catalog.settle_undecided(seq, done);
        faults::point("undecided.after_settled");
    }
}

/// Only what the catalog still has as it was before the operation can have been done without its
/// knowledge.
fn was_done(shared: &Shared, op: &Op) -> Result<bool> {
    let has = |parent, name: &[u8], id| -> Result<bool> {
        Ok(shared.catalog.lookup(parent, name)?.is_some_and(|row| row.id == id))
    };
    Ok(match op {
        Op::Create { id, parent, name, attr, .. } => match below(shared, *parent, name)? {
            Below::Node(found) => found == *id,
            Below::Unknown => finish(shared, *id, *parent, name, attr)?,
            Below::Nothing => false,
        },
        Op::Link { id, parent, name } => {
            !has(*parent, name, *id)? && below(shared, *parent, name)? == Below::Node(*id)
        }
        Op::Rename { id, parent, name, new_parent, new_name, .. } => {
            has(*parent, name, *id)? && below(shared, *new_parent, new_name)? == Below::Node(*id)
        }
        // One of the two may be released, and have nothing below at either name.
        Op::Exchange { a, b, .. } => {
            has(a.1, &a.2, a.0)?
                && has(b.1, &b.2, b.0)?
                && (below(shared, a.1, &a.2)? == Below::Node(b.0)
                    || below(shared, b.1, &b.2)? == Below::Node(a.0))
        }
        Op::Unlink { parent, name, id, .. } => {
            has(*parent, name, *id)?
                && match below(shared, *parent, name)? {
                    Below::Node(found) => found != *id,
                    Below::Unknown => true,
                    // There was nothing to remove below: the catalog alone was to be changed, and
                    // was not.
                    Below::Nothing => !is_released(shared, *id)?,
                }
        }
        // What only the catalog knows was not done; the rest is compared when reconciling.
        Op::Opened { .. }
        | Op::Closed { .. }
        | Op::Restore { .. }
        | Op::SetAttr { .. }
        | Op::Suspect { .. }
        | Op::SetXattrs { .. } => false,
    })
}

/// What has no identity yet may have been made a moment before the daemon died: then it is given
/// what it lacks. Whoever asked for it still waits for the answer.
fn finish(shared: &Shared, id: NodeId, parent: NodeId, name: &[u8], attr: &Attr) -> Result<bool> {
    let Some(dir) = shared.path_of(parent)? else { return Ok(false) };
    Ok(shared.lower.finish_new(&dir.join(OsStr::from_bytes(name)), id, attr)?)
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Below {
    Nothing,
    /// A file without an identity.
    Unknown,
    Node(NodeId),
}

fn below(shared: &Shared, parent: NodeId, name: &[u8]) -> Result<Below> {
    let Some(dir) = shared.path_of(parent)? else { return Ok(Below::Nothing) };
    Ok(match shared.lower.stat(&dir.join(OsStr::from_bytes(name))) {
        Ok(stat) => stat.node.map_or(Below::Unknown, Below::Node),
        Err(e) if e.is_not_found() => Below::Nothing,
        Err(e) => return Err(e.into()),
    })
}

fn is_released(shared: &Shared, id: NodeId) -> Result<bool> {
    Ok(shared.catalog.node(id)?.is_some_and(|row| row.state == State::Released))
}
