//! Giving a join to the targets, and proving that they have it.

use super::failed;
use crate::catalog::ObjectState;
use crate::clock::Timestamp;
use crate::engine::error::{EngineError, Result};
use crate::engine::names::NewNames;
use crate::engine::shared::Shared;
use crate::engine::snapshot::ask;
use crate::engine::target::Target;
use crate::faults;
use crate::recording::{Attr, Encoding, NodeId, Sha256, Stored};
use crate::stitch::{Kept, KeptObject, Stitched};
use crate::store::joined::JoinLabel;
use crate::store::{self, Body, ObjectMeta, StoreErrorKind};
use std::fs::File;
use std::path::Path;
use std::sync::Arc;

/// What targets are given.
pub(super) struct Gift<'a> {
    /// The call.
    pub call: &'a [u8],
    /// The recordings that the join was made of.
    pub legs: Vec<NodeId>,
    /// What `stat` shows of it.
    pub attr: &'a Attr,
    /// What is put into the targets.
    pub file: Arc<File>,
    /// What that is.
    pub stored: Stored,
}

/// Whether an object can tell of so many recordings of a call, whatever else it tells.
pub(super) fn can_be_told(shared: &Shared, call: &[u8], legs: &[NodeId]) -> bool {
    let label = |encoding| JoinLabel {
        node: shared.catalog.identity().node,
        call: call.to_vec(),
        legs: legs.to_vec(),
        sha256: Sha256::of(b""),
        size: u64::MAX,
        mtime: Timestamp(i64::MIN),
        access: (u32::MAX, u32::MAX, u32::MAX),
        stored: Stored { encoding, ..Stored::plain(u64::MAX, Sha256::of(b"")) },
    };
    let sealed = Encoding::parse("age", u64::MAX / 2).unwrap_or(Encoding::Plain);
    shared.can_be_told(&label(sealed))
}

/// Sees to it that every target has it that can be had; whether all have it that must.
pub(super) fn give(
    shared: &Shared,
    kept: &Kept,
    id: i64,
    gift: &Gift<'_>,
    sha256: Sha256,
) -> Result<bool> {
    let name = Stitched::name_of(gift.call);
    let label = JoinLabel {
        node: shared.catalog.identity().node,
        call: gift.call.to_vec(),
        legs: gift.legs.clone(),
        sha256,
        size: gift.attr.size,
        mtime: gift.attr.mtime,
        access: (gift.attr.mode, gift.attr.uid, gift.attr.gid),
        stored: gift.stored.clone(),
    };
    let one = One { shared, kept, id, name: &name, gift, label: &label };
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
    gift: &'a Gift<'a>,
    label: &'a JoinLabel,
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
        let names = self.shared.names_for_join(target, self.name, self.label)?;
        for _ in &names.keys {
            let stored = &self.gift.stored;
            let assigned = self.kept.assign(self.id, target.name(), &names.keys, stored);
            let (object, left_over) = assigned.map_err(failed)?;
            faults::point("joins.after_key");
            if object.state == ObjectState::Verified {
                return Ok(());
            }
            let has = self.put(target, &object, &names, left_over)?;
            let state = if has { ObjectState::Verified } else { ObjectState::Abandoned };
            faults::point("joins.after_proof");
            self.kept.note(&object, state, self.shared.now()).map_err(failed)?;
            faults::point("joins.after_note");
            if has {
                return Ok(());
            }
        }
        let why = "every key that was tried has another object";
        Err(EngineError::refused(Path::new(self.name), why))
    }

    /// False if the key has another object. `left_over`: it may have been put there before.
    fn put(
        &self,
        target: &Target,
        object: &KeptObject,
        names: &NewNames,
        left_over: bool,
    ) -> Result<bool> {
        if left_over && let Some(right) = self.is_left(target, object)? {
            return Ok(right);
        }
        let Stored { size, sha256, .. } = self.gift.stored;
        // What was sealed another time has other bytes, which may be under way to this key.
        if object.stored != self.gift.stored || !names.fit(&object.key) {
            return Ok(false);
        }
        if !self.shared.keep_pace(size) {
            return Err(EngineError::Stopping);
        }
        let body = Body::File { file: Arc::clone(&self.gift.file), len: size };
        let class = target.store.storage_class().cloned();
        let meta = ObjectMeta { storage_class: class, ..names.meta.clone() };
        let put = target.store.put(&object.key, body, sha256, &meta);
        let written = match ask(self.shared, target, put) {
            Err(EngineError::Store(e)) if e.kind == StoreErrorKind::Exists => false,
            other => other.map(|()| true)?,
        };
        faults::point("joins.after_put");
        let right = match written {
            true => self.is_right(target, object),
            false => self.is_left(target, object),
        };
        // What is in the way may be no object: in a directory, a file where the key needs a folder.
        Ok(right?.unwrap_or(false))
    }

    /// The same of what was there before: what no key opens is not the join, as far as can be told.
    fn is_left(&self, target: &Target, object: &KeptObject) -> Result<Option<bool>> {
        match self.is_right(target, object) {
            Err(EngineError::Store(e)) if e.kind == StoreErrorKind::Locked => Ok(Some(false)),
            other => other,
        }
    }

    /// Whether an object is the join; none if there is none.
    fn is_right(&self, target: &Target, object: &KeptObject) -> Result<Option<bool>> {
        let Stored { size, sha256, .. } = object.stored;
        let proof = store::verify(&*target.store, &object.key, size, sha256);
        match ask(self.shared, target, proof) {
            Ok(_) => Ok(Some(true)),
            Err(EngineError::Store(e)) if e.kind == StoreErrorKind::NotFound => Ok(None),
            Err(EngineError::Store(e)) if e.kind == StoreErrorKind::Corrupt => Ok(Some(false)),
            Err(error) => Err(error),
        }
    }
}
