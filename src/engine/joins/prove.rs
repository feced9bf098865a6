//! Reading stored joins again, as the scrub reads recordings, and bringing back what a target lost.
//!
//! **Invariant:** a bad object is never written over, and it is read twice before it counts as bad.

use super::{Keeper, failed, given};
use crate::audit::{Clear, Entry, Event};
use crate::catalog::ObjectState;
use crate::engine::error::{EngineError, Result};
use crate::engine::mend;
use crate::engine::recall::check_room;
use crate::engine::target::Target;
use crate::stitch::{KeptJoin, KeptObject};
use crate::{faults, limits};
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

impl Keeper {
    /// Reads what was not read for long: of each target one at a time, so that a round is not long.
    pub(super) fn prove_some(&mut self) -> Result<()> {
        let Some(every) = self.options.scrub_every else { return Ok(()) };
        if self.shared.uploads_are_off() {
            return Ok(());
        }
        let since = self.shared.now().minus(every);
        for target in self.shared.targets.clone() {
            if !target.is_up() {
                continue;
            }
            for join in self.kept.unproved(target.name(), since, 1).map_err(failed)? {
                self.shared.check_stop()?;
                self.prove(&target, &join, every)?;
            }
        }
        Ok(())
    }

    fn prove(&mut self, target: &Target, join: &KeptJoin, every: Duration) -> Result<()> {
        let here = |o: &&KeptObject| o.target == target.name() && o.state == ObjectState::Verified;
        for object in join.objects.iter().filter(here) {
            let row = join.row(object);
            let mut found = mend::read(&self.shared, target, &row, &mut |_, _| Ok(()));
            if matches!(&found, Err(e) if mend::is_bad(e)) {
                // A wrong answer may have come from the way; a wrong object stays wrong.
                found = mend::read(&self.shared, target, &row, &mut |_, _| Ok(()));
            }
            let now = self.shared.now();
            match found {
                Ok(()) => {
                    self.kept.note(object, ObjectState::Verified, now).map_err(failed)?;
                    continue;
                }
                Err(error) if mend::is_bad(&error) => self.is_bad(object, &error.to_string())?,
                Err(EngineError::Stopping) => return Err(EngineError::Stopping),
                // Nothing is known of it. It is not to keep the others from being read.
                Err(error) => {
                    tracing::debug!(%error, key = object.key, "a stored join was not proved");
                    let soon = now.minus(every).plus(limits::SCRUB_ALARMS_EVERY);
                    self.kept.note(object, ObjectState::Verified, soon).map_err(failed)?;
                    return Ok(());
                }
            }
            self.look_after(join.id)?;
        }
        Ok(())
    }

    fn is_bad(&mut self, object: &KeptObject, reason: &str) -> Result<()> {
        self.bad += 1;
        tracing::error!(key = object.key, reason, "a stored join is damaged or gone");
        let (target, key) = (object.target.clone(), Clear::key(&object.key));
        let entry = Entry::new(Event::VerificationFailed { target, key });
        self.shared.audit.record(entry.why(reason));
        self.kept.note(object, ObjectState::Abandoned, self.shared.now()).map_err(failed)?;
        faults::point("joins.after_bad");
        Ok(())
    }

    /// Whether a target that can be asked has no copy of a join that is stored.
    pub(super) fn lacks(&self, join: &KeptJoin) -> bool {
        let has = |target: &Target| {
            let here = |o: &KeptObject| o.target == target.name();
            join.objects.iter().any(|o| here(o) && o.state == ObjectState::Verified)
        };
        self.shared.targets.iter().any(|target| target.is_up() && !has(target))
    }

    /// Brings a join that can not be made again to the targets that lack it, from one that has it.
    pub(super) fn mend(&mut self, join: &KeptJoin) -> Result<()> {
        let now = self.shared.now();
        if !self.lacks(join) || self.stays.is_put_off(&join.id, now) {
            return Ok(());
        }
        let mended = self.copied(join);
        match &mended {
            Ok(()) => self.stays.done(&join.id),
            Err(EngineError::Stopping) => {}
            Err(error) => {
                tracing::error!(%error, "a stored join that nothing can be made of again is lacking");
                self.stays.failed(&join.id, now, None);
            }
        }
        mended
    }

    fn copied(&self, join: &KeptJoin) -> Result<()> {
        let name = format!("the stored join of call {}", String::from_utf8_lossy(&join.call));
        let name = Path::new(&name);
        let good = join.objects.iter().filter(|o| o.state == ObjectState::Verified);
        for object in good {
            let Some(file) = self.fetched(join, object, name)? else { continue };
            let gift = given::Gift {
                call: &join.call,
                legs: join.legs.iter().map(|leg| leg.node).collect(),
                attr: &join.attr,
                file: Arc::new(file),
                stored: object.stored.clone(),
            };
            let all = given::give(&self.shared, &self.kept, join.id, &gift, join.sha256)?;
            faults::point("joins.after_mend");
            if all {
                return Ok(());
            }
            return Err(EngineError::refused(name, "a target did not take it"));
        }
        Err(EngineError::refused(name, "no target has a copy of it that can be read now"))
    }

    /// What a target has of it, in a file without a name; none if it is not what it should be.
    fn fetched(&self, join: &KeptJoin, object: &KeptObject, name: &Path) -> Result<Option<File>> {
        let shared = &self.shared;
        let target = shared.targets.iter().find(|t| t.name() == object.target && t.is_up());
        let Some(target) = target else { return Ok(None) };
        check_room(shared, name, object.stored.size)?;
        let file = shared.lower.scratch()?;
        let mut write = |at: u64, bytes: &[u8]| file.write_all_at(bytes, at);
        match mend::read(shared, target, &join.row(object), &mut write) {
            Ok(()) => Ok(Some(file)),
            Err(EngineError::Stopping) => Err(EngineError::Stopping),
            Err(error) => {
                tracing::warn!(%error, "another copy of a stored join can not be had either");
                Ok(None)
            }
        }
    }
}
