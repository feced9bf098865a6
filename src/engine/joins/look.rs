//! What becomes of a stored join, and of a call without one.

use super::fate::{self, Fate};
use super::make::{Made, is_of, legs_of, make};
use super::{Keeper, failed, objects};
use crate::engine::error::{EngineError, Result};
use crate::recording::NodeId;
use crate::stitch::{KeptJoin, KeptState, Stitched};
use crate::{faults, limits};
use std::sync::Arc;

impl Keeper {
    /// Looks at a stored join. What keeps one does not keep the others.
    pub(super) fn look_after(&mut self, id: i64) -> Result<()> {
        self.shared.check_stop()?;
        // Another that was looked at a moment ago may have taken its place.
        let Some(join) = self.kept.join(id).map_err(failed)? else { return Ok(()) };
        match self.decide(&join) {
            Err(error @ (EngineError::Stopping | EngineError::Catalog(_))) => Err(error),
            Err(error) => {
                tracing::debug!(%error, "a stored join stays as it is for now");
                Ok(())
            }
            Ok(()) => Ok(()),
        }
    }

    /// Looks at a call: at what is stored of it, or whether it is to be. `heard`: something happened to
    /// it.
    pub(super) fn look_at(&mut self, maker: &Stitched, call: &Vec<u8>, heard: bool) -> Result<()> {
        self.shared.check_stop()?;
        let legs = legs_of(maker, call)?;
        let nodes: Vec<NodeId> = legs.iter().copied().collect();
        let mut has_one = false;
        for join in self.kept.about(Some(call), &nodes).map_err(failed)? {
            self.look_after(join.id)?;
            has_one |= is_of(maker, &join, call, &legs)?;
        }
        if has_one {
            return Ok(());
        }
        if nodes.len() < 2 {
            self.later.done(call);
            return Ok(());
        }
        self.make(maker, call, heard).map(drop)
    }

    fn decide(&mut self, join: &KeptJoin) -> Result<()> {
        if join.state == KeptState::Old {
            return self.delete(join);
        }
        let (shared, kept) = (Arc::clone(&self.shared), Arc::clone(&self.kept));
        let standings = fate::standings(&shared, &kept, join)?;
        match fate::decide(&standings, self.options.keep_expired) {
            Fate::Unknown => Ok(()),
            Fate::Whole => self.keep_whole(join),
            // Damaged as it is, nothing else is left of what has expired.
            Fate::Shown | Fate::Hidden if join.only_damaged() => Ok(()),
            Fate::Shown | Fate::Hidden if join.state == KeptState::Making => self.retire(join),
            fate @ (Fate::Shown | Fate::Hidden) => {
                self.show(join, fate == Fate::Shown)?;
                self.mend(join)
            }
            Fate::Erased => self.retire(join),
        }
    }

    fn retire(&mut self, join: &KeptJoin) -> Result<()> {
        self.kept.retire(join.id).map_err(failed)?;
        faults::point("joins.after_retire");
        // There may be something to store of the others.
        self.later.soon(&join.call, self.shared.now());
        Ok(())
    }

    fn show(&self, join: &KeptJoin, shown: bool) -> Result<()> {
        if join.shown != shown {
            self.kept.show(join.id, shown).map_err(failed)?;
            faults::point("joins.after_show");
        }
        Ok(())
    }

    /// Deletes what is wanted no more, unless that was tried in vain a moment ago: each time is on
    /// record.
    fn delete(&mut self, join: &KeptJoin) -> Result<()> {
        let now = self.shared.now();
        if self.stays.is_put_off(&join.id, now) {
            return Ok(());
        }
        let deleted = objects::delete(&self.shared, &self.kept, join);
        match &deleted {
            Ok(()) => self.stays.done(&join.id),
            Err(EngineError::Stopping) => {}
            Err(error) => {
                // What is locked there stays so for long.
                let long = error.is_refused_object().then_some(limits::JOIN_REFUSED_RETRY);
                self.stays.failed(&join.id, now, long);
            }
        }
        deleted
    }

    /// No recording of it has expired: it is what would be shown, or is made anew.
    fn keep_whole(&mut self, join: &KeptJoin) -> Result<()> {
        self.show(join, false)?;
        let Some(maker) = self.maker() else { return Ok(()) };
        let now = maker.whole(&join.call, false).map_err(failed)?;
        let same = now.as_ref().is_some_and(|now| now.plan.digest() == join.plan.digest());
        match (join.state, same) {
            (KeptState::Making, false) => self.retire(join),
            (KeptState::Making, true) | (_, false) => match self.make(&maker, &join.call, false)? {
                Made::Needless => self.retire(join),
                Made::Stored | Made::NotYet => Ok(()),
            },
            (_, true) if self.lacks(join) => self.make(&maker, &join.call, false).map(drop),
            (_, true) => {
                self.later.done(&join.call);
                Ok(())
            }
        }
    }

    /// Stores the join of a call, unless that was tried in vain a moment ago.
    fn make(&mut self, maker: &Stitched, call: &Vec<u8>, heard: bool) -> Result<Made> {
        let now = self.shared.now();
        if self.later.is_put_off(call, now) {
            return Ok(Made::NotYet);
        }
        match make(&self.shared, &self.kept, maker, (call, self.options.keep_expired)) {
            Err(error @ (EngineError::Stopping | EngineError::Catalog(_))) => Err(error),
            Err(error) => {
                tracing::debug!(%error, "the join of a call is stored later");
                self.later.failed(call, now, None);
                Ok(Made::NotYet)
            }
            Ok(Made::NotYet) => {
                self.later.not_ready(call, now, heard);
                Ok(Made::NotYet)
            }
            Ok(made) => {
                self.later.done(call);
                Ok(made)
            }
        }
    }
}
