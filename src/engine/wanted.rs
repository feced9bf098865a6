//! Which targets a recording belongs in, by its rule of this moment, and which of them lack it.

use super::error::{EngineError, Result};
use super::shared::Shared;
use super::target::Target;
use crate::catalog::{Candidate, ObjectRow, ObjectState};
use crate::codec::seal::Recipients;
use crate::policy::{Compress, SealTo, StorageClass};
use std::path::Path;
use std::sync::Arc;

/// The targets of a recording.
pub(super) struct Wanted<'a> {
    /// They must hold it.
    pub must: Vec<&'a Arc<Target>>,
    /// They get it when they can.
    pub should: Vec<&'a Arc<Target>>,
    /// The names of those that must.
    pub names: Vec<String>,
}

fn is_in(names: &[String], target: &Target) -> bool {
    names.iter().any(|name| name == target.name())
}

/// The keys themselves.
///
/// # Errors
/// `Refused`: they are none. The configuration was looked at, so that can not be.
pub(super) fn recipients(to: &SealTo) -> Result<Recipients> {
    let bad = |why: String| EngineError::refused(Path::new("encrypt_to"), why);
    let keys = Recipients::parse(&to.keys()).map_err(|error| bad(error.to_string()))?;
    keys.ok_or_else(|| bad("names no key".to_owned()))
}

impl Shared {
    /// The targets that some recordings must be in.
    pub fn needed_targets(&self) -> Vec<&Arc<Target>> {
        let rules = self.rules();
        let needed = |t: &&Arc<Target>| t.required || rules.name_target(t.name());
        self.targets.iter().filter(needed).collect()
    }

    /// The targets of a recording.
    ///
    /// # Errors
    /// `Refused` if one that must hold it is not in use yet.
    pub fn targets_of(&self, it: &Candidate) -> Result<Wanted<'_>> {
        let rules = self.rules();
        let targets = self.facts(&rules).targets(it);
        let names = targets.must(&self.required);
        let must: Vec<_> = self.targets.iter().filter(|t| is_in(&names, t)).collect();
        if let Some(name) = names.iter().find(|name| must.iter().all(|t| t.name() != **name)) {
            let why =
                format!("its rule names target {name:?}, which is in use after a restart only");
            return Err(EngineError::refused(&it.path, why));
        }
        let should = self.targets.iter().filter(|t| targets.want(t.name()) && !is_in(&names, t));
        Ok(Wanted { must, should: should.collect(), names })
    }

    /// Whether its rule wants it in a target that lacks it.
    pub fn lacks_one(&self, it: &Candidate) -> bool {
        // What can not be told is said by the attempt.
        let lacks = self.targets_of(it).and_then(|wanted| self.lacking(it, &wanted.must));
        lacks.map_or(true, |lacking| !lacking.is_empty())
    }

    /// Whether it is known for sure which targets its rule names.
    pub fn is_rule_known(&self, it: &Candidate) -> bool {
        let rules = self.rules();
        !rules.name_targets() || self.facts(&rules).chosen(it).is_sure()
    }

    /// Whether no target must hold it.
    pub fn must_be_nowhere(&self, it: &Candidate) -> bool {
        let rules = self.rules();
        self.facts(&rules).must(it).is_empty()
    }

    /// How the rule of this moment wants a recording stored smaller.
    pub fn compress_of(&self, it: &Candidate) -> Option<Compress> {
        let rules = self.rules();
        if !rules.name_compression() {
            return rules.compress;
        }
        self.facts(&rules).chosen(it).treatment.compress
    }

    /// Whom the rule of this moment wants a recording sealed to; none: it is not to be sealed.
    pub fn seal_to_of(&self, it: &Candidate) -> Option<SealTo> {
        let rules = self.rules();
        if !rules.name_sealing() {
            return rules.seal_to.clone();
        }
        self.facts(&rules).chosen(it).treatment.seal_to
    }

    /// Whom what a target is told is sealed to; none: it is not sealed.
    ///
    /// # Errors
    /// As [`recipients`].
    pub fn told_to(&self) -> Result<Option<Recipients>> {
        self.rules().told_to().as_ref().map(recipients).transpose()
    }

    /// The storage class that its rule of this moment has for the objects of a recording; none:
    /// that of each target.
    pub fn class_of(&self, it: &Candidate) -> Option<StorageClass> {
        let rules = self.rules();
        if !rules.name_classes() {
            return None;
        }
        self.facts(&rules).chosen(it).treatment.storage_class
    }

    /// Of these targets those that do not hold the present generation of a recording, verified.
    ///
    /// # Errors
    /// `Catalog`.
    pub fn lacking<'a>(
        &self,
        it: &Candidate,
        targets: &[&'a Arc<Target>],
    ) -> Result<Vec<&'a Arc<Target>>> {
        let objects = self.catalog.objects(it.row.id, Some(it.row.generation))?;
        let is_of = |o: &ObjectRow, target: &Target| {
            o.target == target.name()
                && o.state == ObjectState::Verified
                && Some(o.sha256) == it.row.sha256
        };
        let has = |target: &Target| objects.iter().any(|o| is_of(o, target));
        Ok(targets.iter().filter(|t| !has(t)).copied().collect())
    }
}
