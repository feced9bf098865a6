//! Joins that are stored (`kept.rs`): what there is to store, and what they stand in for.
//!
//! A stored join is the bytes that were read of it when all its recordings were there. It is told
//! by the same plan, so it is the same file: who has it open when a recording expires hears it out.

use super::given::{CallLeg, Heard, ListedCall, Tier};
use super::kept::{Kept, NewJoin};
use super::legs::{GROWING, Planned, joined_attr};
use super::plan::Plan;
use super::read::Join;
use super::service::{Missing, Stitched};
use super::{Result, StitchError, name};
use crate::limits;
use crate::recording::{Attr, ErrorClass, Hasher, NodeId};
use bytes::Bytes;
use std::sync::Arc;

/// Takes bytes of a join, in order.
pub type Sink<'a> = &'a mut dyn FnMut(&[u8]) -> std::io::Result<()>;

/// A call as it is now.
#[derive(Clone, Debug)]
pub struct Whole {
    /// Its recordings, and how they are put together.
    pub plan: Plan,
    /// What `stat` shows of it.
    pub attr: Attr,
}

impl Whole {
    /// Whether a recording of it is not finished.
    pub fn goes_on(&self) -> bool {
        self.plan.legs.iter().any(|leg| matches!(&leg.audio, Err(why) if why == GROWING))
    }

    /// Whether there is anything to join.
    pub fn is_worth_storing(&self) -> bool {
        self.plan.placed.len() > 1 && !self.plan.too_large
    }
}

impl Stitched {
    /// Joins may stand in for recordings that have expired. Only the first call counts.
    pub fn keep(&self, kept: Arc<Kept>) {
        let _only_the_first_counts = self.kept.set(kept);
    }

    /// Calls of two recordings or more behind a cursor.
    ///
    /// # Errors
    /// If call records can not be read now.
    pub fn calls_after(&self, cursor: u64) -> Result<Vec<ListedCall>> {
        self.calls.with_legs(cursor, limits::STITCH_PAGE)
    }

    /// The recordings of a call in the order of their time; one that is gone may be among them.
    ///
    /// # Errors
    /// If call records can not be read now.
    pub fn legs_of(&self, call: &[u8]) -> Result<Vec<CallLeg>> {
        self.calls.legs(call)
    }

    /// Calls of which something was heard behind a position.
    ///
    /// # Errors
    /// If call records can not be read now.
    pub fn heard_after(&self, position: u64) -> Result<Heard> {
        self.calls.heard_after(position, limits::STITCH_PAGE)
    }

    /// The calls that a recording is of.
    ///
    /// # Errors
    /// If call records can not be read now.
    pub fn calls_of(&self, node: NodeId) -> Result<Vec<Vec<u8>>> {
        self.calls.calls_of(node)
    }

    /// A call as its recordings are now; none if nothing is left of it, or a target would have to be
    /// asked and `wait` is not set.
    ///
    /// # Errors
    /// If it can not be told now.
    pub fn whole(&self, call: &[u8], wait: bool) -> Result<Option<Whole>> {
        let legs = self.calls.legs(call)?;
        match self.plans(&[legs], wait).pop() {
            Some(Ok((plan, attr))) => Ok(Some(Whole { plan, attr })),
            Some(Err(Missing::Failed(error))) => Err(error),
            Some(Err(Missing::NoCall | Missing::MustWait)) | None => Ok(None),
        }
    }

    /// Whether a call is over, as far as its records tell.
    ///
    /// # Errors
    /// If call records can not be read now.
    pub fn is_complete(&self, call: &[u8]) -> Result<bool> {
        self.calls.is_complete(call)
    }

    /// Reads all of a join and tells what it is.
    ///
    /// # Errors
    /// If a recording can not be read, or is not what it was; what `sink` fails with is transient.
    pub fn copy(&self, call: &[u8], whole: Whole, sink: Sink<'_>) -> Result<NewJoin> {
        let Whole { plan, attr } = whole;
        let (sources, join) = (self.open_legs(&plan), Join::new(plan));
        let mut hasher = Hasher::default();
        loop {
            let bytes = join.read(&sources, hasher.len(), limits::STITCH_PIECE_BYTES)?;
            if bytes.is_empty() {
                break;
            }
            hasher.update(&bytes);
            sink(&bytes).map_err(|e| StitchError {
                leg: String::new(),
                detail: format!("the join could not be written: {e}"),
                class: ErrorClass::Transient,
            })?;
        }
        let (sha256, chunks) = hasher.finish();
        let plan = join.plan().clone();
        Ok(NewJoin { call: call.to_vec(), plan, attr, sha256, chunks })
    }

    /// The name of a call's join, by which it is stored.
    pub fn name_of(call: &[u8]) -> String {
        name::file_name(call)
    }

    /// What is shown of a call: what it is now, or what was stored of it before some of its
    /// recordings expired.
    pub(super) fn or_kept(&self, call: &[u8], legs: &[CallLeg], now: Planned) -> Planned {
        let Some(kept) = self.kept.get() else { return now };
        let left: Vec<NodeId> = match &now {
            Ok((plan, _)) => plan.legs.iter().map(|leg| leg.node).collect(),
            Err(_) => legs.iter().map(|leg| leg.node).collect(),
        };
        let Some(join) = kept.standing_in(call, &left)? else { return now };
        let left = now.ok().map(|(_, attr)| attr);
        // Who may read it: who might before, and may read what is left of it.
        let rights = joined_attr(std::iter::once(&join.attr).chain(&left));
        let mut attr = join.attr.clone();
        if let Some(rights) = rights {
            (attr.mode, attr.uid, attr.gid) = (rights.mode, rights.uid, rights.gid);
        }
        Ok((join.plan, attr))
    }

    fn kept_source(&self, plan: &Plan) -> Option<NodeId> {
        self.kept.get()?.source_of(plan.digest(), plan.len())
    }

    /// Where the bytes of a join are that is stored.
    pub(super) fn kept_tier(&self, plan: &Plan) -> Option<Tier> {
        Some(self.recordings.tier_of_stored(self.kept_source(plan)?))
    }

    /// Bytes of a join of which a recording is not what it was, if they are stored. One that can not
    /// be reached is waited for.
    pub(super) fn read_kept(
        &self,
        plan: &Plan,
        offset: u64,
        len: usize,
        error: StitchError,
    ) -> Result<Bytes> {
        if error.class == ErrorClass::Transient {
            return Err(error);
        }
        let Some(id) = self.kept_source(plan) else { return Err(error) };
        self.recordings.read_stored(id, offset, len)
    }
}
