//! Making the join of a call and storing it.

use super::fate::{self, Fate};
use super::{REST_MAX, failed, given};
use crate::engine::error::Result;
use crate::engine::recall::check_room;
use crate::engine::seal;
use crate::engine::shared::Shared;
use crate::engine::space::Pressure;
use crate::engine::wanted::recipients;
use crate::faults;
use crate::policy::SealTo;
use crate::recording::{NodeId, State, Stored};
use crate::stitch::{Kept, KeptJoin, NewJoin, Stitched, Whole};
use std::collections::BTreeSet;
use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

/// What became of a call that was looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Made {
    /// Its join is where it must be.
    Stored,
    /// There is nothing to join.
    Needless,
    /// It goes on, or a recording can not be had now.
    NotYet,
}

/// Stores the join of a call, if it is over.
pub(super) fn make(
    shared: &Shared,
    kept: &Kept,
    maker: &Stitched,
    (call, keep_expired): (&[u8], bool),
) -> Result<Made> {
    if shared.uploads_are_off() || shared.space.pressure() != Pressure::None {
        return Ok(Made::NotYet);
    }
    // A join goes to all targets. The configuration allows only one of the two, but rules are in
    // force sooner than the rest of it.
    if shared.rules().name_targets() {
        return Ok(Made::NotYet);
    }
    if !maker.is_complete(call).map_err(failed)? {
        return Ok(Made::NotYet);
    }
    let Some(whole) = maker.whole(call, true).map_err(failed)? else { return Ok(Made::NotYet) };
    if whole.goes_on() || !are_archived(shared, &whole)? {
        return Ok(Made::NotYet);
    }
    let legs: Vec<NodeId> = whole.plan.legs.iter().map(|leg| leg.node).collect();
    if !whole.is_worth_storing() || !given::can_be_told(shared, call, &legs) {
        return Ok(Made::Needless);
    }
    // Who may hear one leg need not be meant to hear the other.
    let Some(to) = sealed_to(shared, &whole)? else { return Ok(Made::Needless) };
    let (new, file) = copy(shared, maker, call, whole)?;
    let (file, stored) = sealed(shared, &new, file, to.as_ref())?;
    let id = kept.begin(&new).map_err(failed)?;
    faults::point("joins.after_begin");
    let legs = new.plan.legs.iter().map(|leg| leg.node).collect();
    let gift = given::Gift { call: &new.call, legs, attr: &new.attr, file, stored };
    if !given::give(shared, kept, id, &gift, new.sha256)? {
        return Ok(Made::NotYet);
    }
    let of_call = legs_of(maker, call)?;
    let mut instead_of = Vec::new();
    // Asked after the recordings were: what one of these has, and this one has not, expired meanwhile.
    for join in kept.beside(id).map_err(failed)? {
        if !is_of(maker, &join, call, &of_call)? {
            continue;
        }
        let fate = fate::decide(&fate::standings(shared, kept, &join)?, keep_expired);
        if matches!(fate, Fate::Shown | Fate::Hidden) {
            kept.retire(id).map_err(failed)?;
            return Ok(Made::NotYet);
        }
        instead_of.push(join.id);
    }
    kept.stored(id, &instead_of).map_err(failed)?;
    faults::point("joins.after_stored");
    Ok(Made::Stored)
}

/// The recordings of a call.
pub(super) fn legs_of(maker: &Stitched, call: &[u8]) -> Result<BTreeSet<NodeId>> {
    Ok(maker.legs_of(call).map_err(failed)?.into_iter().map(|leg| leg.node).collect())
}

/// Whether a stored join is of this call, also if it has another id: that of a call which became one
/// with it, and is known as that by now or not known any more. A call that only shares a recording with
/// it has a join of its own.
pub(super) fn is_of(
    maker: &Stitched,
    join: &KeptJoin,
    call: &[u8],
    legs: &BTreeSet<NodeId>,
) -> Result<bool> {
    if join.call == call {
        return Ok(true);
    }
    let others = legs_of(maker, &join.call)?;
    Ok(others.is_empty() || others == *legs)
}

/// Whether all of its recordings are archived: of what never was, nothing tells that it is deleted.
fn are_archived(shared: &Shared, whole: &Whole) -> Result<bool> {
    for leg in &whole.plan.legs {
        let row = shared.catalog.node(leg.node)?;
        if !row.is_some_and(|row| matches!(row.state, State::Archived | State::Released)) {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Whom the rules want all of its recordings sealed to, if anybody; `None`: not all to the same.
fn sealed_to(shared: &Shared, whole: &Whole) -> Result<Option<Option<SealTo>>> {
    let mut all: Option<Option<SealTo>> = None;
    for leg in &whole.plan.legs {
        let Some(it) = shared.candidate(leg.node)? else { continue };
        let to = shared.seal_to_of(&it);
        if all.as_ref().is_some_and(|all| *all != to) {
            return Ok(None);
        }
        all = Some(to);
    }
    Ok(Some(all.flatten()))
}

/// What targets are given: the join, sealed if its recordings are.
fn sealed(
    shared: &Shared,
    new: &NewJoin,
    file: Arc<File>,
    to: Option<&SealTo>,
) -> Result<(Arc<File>, Stored)> {
    let plain = Stored::plain(new.plan.len(), new.sha256);
    let Some(to) = to else { return Ok((file, plain)) };
    let recipients = &recipients(to)?;
    let name = Stitched::name_of(&new.call);
    let from = seal::Opened { file: &file, size: plain.size, sha256: new.sha256, stored: plain };
    let sealed = seal::seal(shared, Path::new(&name), &from, recipients)?;
    Ok((sealed.file, sealed.stored))
}

/// The join, in a file without a name.
fn copy(
    shared: &Shared,
    maker: &Stitched,
    call: &[u8],
    whole: Whole,
) -> Result<(NewJoin, Arc<File>)> {
    check_room(shared, Path::new(".spl/stage"), whole.plan.len())?;
    let file = shared.lower.scratch()?;
    let mut out = &file;
    let mut write = |bytes: &[u8]| {
        let since = Instant::now();
        out.write_all(bytes)?;
        // Half of the disk at most is taken from those who record.
        match shared.stop.wait(since.elapsed().min(REST_MAX)) {
            true => Err(std::io::ErrorKind::Interrupted.into()),
            false => Ok(()),
        }
    };
    let new = maker.copy(call, whole, &mut write);
    shared.check_stop()?;
    Ok((new.map_err(failed)?, Arc::new(file)))
}
