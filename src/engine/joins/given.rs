//! Giving a join to the targets, and proving that they have it.

use super::failed;
use crate::catalog::ObjectState;
use crate::engine::error::{EngineError, Result};
use crate::engine::shared::Shared;
use crate::engine::snapshot::ask;
use crate::engine::target::Target;
use crate::stitch::{Kept, KeptObject, NewJoin, Stitched};
use crate::store::joined::JoinLabel;
use crate::store::{self, Body, ObjectMeta, StoreErrorKind, key};
use std::fs::File;
use std::path::Path;
use std::sync::Arc;

/// Sees to it that every target has it that can be had; whether all have it that must.
pub(super) fn give(
    shared: &Shared,
    kept: &Kept,
    id: i64,
    new: &NewJoin,
    file: &Arc<File>,
) -> Result<bool> {
    let (name, node) = (Stitched::name_of(&new.call), shared.catalog.identity().node);
    let label = JoinLabel {
        node,
        call: new.call.clone(),
        legs: new.plan.legs.iter().map(|leg| leg.node).collect(),
        sha256: new.sha256,
        size: new.plan.len(),
        mtime: new.plan.mtime(),
        access: (new.attr.mode, new.attr.uid, new.attr.gid),
    };
    let Some(meta) = label.to_meta() else {
        let why = "it has more recordings than the object of its join could tell of";
        return Err(EngineError::refused(Path::new(&name), why));
    };
    let one = One { shared, kept, id, name: &name, new, file, meta: &meta };
    let mut all = true;
    for target in &shared.targets {
        match one.to(target) {
            Err(error @ EngineError::Stopping) => return Err(error),
            Err(error) => {
                tracing::debug!(%error, "a target did not get the join of a call");
                all &= !target.required;
            }
            Ok(()) => {}
        }
    }
    Ok(all)
}

struct One<'a> {
    shared: &'a Shared,
    kept: &'a Kept,
    id: i64,
    name: &'a str,
    new: &'a NewJoin,
    file: &'a Arc<File>,
    meta: &'a ObjectMeta,
}

impl One<'_> {
    fn to(&self, target: &Target) -> Result<()> {
        if !target.is_up() {
            return Err(target.trouble().into());
        }
        if !self.kept.is_listed(target.name()).map_err(failed)? {
            let why = "the target was not asked yet which joins it has";
            return Err(EngineError::refused(Path::new(self.name), why));
        }
        let prefix = target.store.prefix();
        let numbers = [None, Some(fastrand::u64(..)), Some(fastrand::u64(..))];
        let keys = numbers.map(|number| key::joined(prefix, self.name, number));
        for _ in &keys {
            let (object, left_over) =
                self.kept.assign(self.id, target.name(), &keys).map_err(failed)?;
            if object.state == ObjectState::Verified {
                return Ok(());
            }
            if self.put(target, &object, left_over)? {
                return self.kept.note(&object, ObjectState::Verified).map_err(failed);
            }
            self.kept.note(&object, ObjectState::Abandoned).map_err(failed)?;
        }
        let why = "every key that was tried has another object";
        Err(EngineError::refused(Path::new(self.name), why))
    }

    /// False if the key has another object. `left_over`: it may have been put there before.
    fn put(&self, target: &Target, object: &KeptObject, left_over: bool) -> Result<bool> {
        if left_over && let Some(right) = self.is_right(target, object)? {
            return Ok(right);
        }
        let (size, sha256) = (self.new.plan.len(), self.new.sha256);
        if !self.shared.keep_pace(size) {
            return Err(EngineError::Stopping);
        }
        let body = Body::File { file: Arc::clone(self.file), len: size };
        let class = target.store.storage_class().cloned();
        let meta = ObjectMeta { storage_class: class, ..self.meta.clone() };
        let put = target.store.put(&object.key, body, sha256, &meta);
        match ask(self.shared, target, put) {
            Err(EngineError::Store(e)) if e.kind == StoreErrorKind::Exists => {}
            other => other?,
        }
        // What is in the way may be no object: in a directory, a file where the key needs a folder.
        Ok(self.is_right(target, object)?.unwrap_or(false))
    }

    /// Whether an object is the join; none if there is none.
    fn is_right(&self, target: &Target, object: &KeptObject) -> Result<Option<bool>> {
        let (size, sha256) = (self.new.plan.len(), self.new.sha256);
        let proof = store::verify(&*target.store, &object.key, size, sha256);
        match ask(self.shared, target, proof) {
            Ok(_) => Ok(Some(true)),
            Err(EngineError::Store(e)) if e.kind == StoreErrorKind::NotFound => Ok(None),
            Err(EngineError::Store(e)) if e.kind == StoreErrorKind::Corrupt => Ok(Some(false)),
            Err(error) => Err(error),
        }
    }
}
