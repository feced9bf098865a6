//! When a group expires, and what proves that a file of it may go.

use super::HELD;
use crate::catalog::{Candidate, ObjectRow};
use crate::clock::Timestamp;
use crate::engine::error::{EngineError, Result};
use crate::engine::hash::open_quiet;
use crate::engine::plan::{self, Facts};
use crate::engine::shared::Shared;
use crate::engine::target::Target;
use crate::lower::Quiet;
use crate::recording::{ExpiryEvidence, ExpiryPermit, NodeId, ObjectAge, State, is_audio};
use crate::store::meta::{Label, LabelError};
use crate::store::{self, StoreErrorKind};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

/// When a group expires.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::engine) struct Term {
    pub rule: String,
    pub after: Duration,
    pub at: Timestamp,
}

/// When a group expires; `None`: never, or not as far as is known. Its recordings decide, and where
/// there are none all its files.
pub(in crate::engine) fn term(
    shared: &Shared,
    facts: Facts<'_>,
    group: &[Candidate],
) -> Option<Term> {
    let sounds = |it: &&Candidate| is_audio(&it.path);
    let any = group.iter().any(|it| sounds(&it));
    if group.iter().any(|it| matches!(it.row.state, State::Recording | State::Deleted)) {
        return None;
    }
    latest(shared, facts, group.iter().filter(|it| !any || sounds(it)))
}

/// The latest of the times at which recordings expire; `None`: one never does.
fn latest<'a>(
    shared: &Shared,
    facts: Facts<'_>,
    group: impl Iterator<Item = &'a Candidate>,
) -> Option<Term> {
    let mut latest: Option<Term> = None;
    for it in group {
        let call = facts.call(it);
        let chosen = facts.rules.choose(&it.path, &call);
        let after = chosen.treatment.expire?.after;
        let last = || shared.calls.last_of_account(it);
        let at = chosen.expires(plan::closed_at(it), it.row.attr.mtime, call.ended, last)?;
        if latest.as_ref().is_none_or(|term| term.at < at) {
            latest = Some(Term { rule: chosen.name(), after, at });
        }
    }
    latest
}

/// When a group in the trash expires, whose files were in one directory with one stem. What only
/// belongs to a recording stays as long as one is in the tree.
pub(super) fn term_in_trash(
    shared: &Shared,
    facts: Facts<'_>,
    group: &[Candidate],
) -> Result<Option<Term>> {
    let sounds = |it: &&Candidate| is_audio(&it.path);
    let any = group.iter().any(|it| sounds(&it));
    if let Some(first) = group.first().filter(|_| !any)
        && let Some(dir) = shared.directory_at(first.path.parent().unwrap_or(Path::new("")))?
        && shared.catalog.group(dir, &first.stem)?.iter().any(|it| sounds(&it))
    {
        return Ok(None);
    }
    Ok(latest(shared, facts, group.iter().filter(|it| !any || sounds(it))))
}

/// One file of a group that may go.
pub(super) struct Ready {
    pub it: Candidate,
    pub quiet: Option<Quiet>,
    pub permit: ExpiryPermit,
    /// Targets that have, or may have, objects of it.
    pub targets: Vec<String>,
}

pub(super) fn prepare(
    shared: &Shared,
    it: Candidate,
    term: &Term,
    in_trash_until: Option<Timestamp>,
    now: Timestamp,
) -> Result<Ready> {
    let id = it.row.id;
    let refused = |why: String| EngineError::refused(&it.path, why);
    if is_held(shared, id, now)? {
        return Err(refused(HELD.to_owned()));
    }
    if shared.lower.partial_for_sure(id)?.is_some() {
        return Err(refused("it is being written to".to_owned()));
    }
    let quiet = match it.row.state {
        State::Deleted => None,
        State::Released => {
            if !shared.lower.stat(&it.path).is_err_and(|e| e.is_not_found()) {
                return Err(refused("there is a local file where none should be".to_owned()));
            }
            None
        }
        _ => match open_quiet(shared, &it)? {
            Some(quiet) => Some(quiet),
            None => return Err(refused("its local copy is gone".to_owned())),
        },
    };
    let (mut objects, mut targets) = (Vec::new(), Vec::new());
    for object in shared.catalog.objects(id, None)? {
        objects.push(age(shared, &object)?);
        targets.push(object.target);
    }
    targets.sort();
    targets.dedup();
    let evidence = ExpiryEvidence {
        node: id,
        state: it.row.state,
        in_trash_until,
        links: quiet.as_ref().map_or(it.row.attr.nlink, |q| q.stat.attr.nlink),
        rule: &term.rule,
        after: term.after,
        due: term.at,
        now,
        held: is_held(shared, id, now)?,
        present: quiet.as_ref().map(|q| q.stat.version),
        objects: &objects,
    };
    let permit = ExpiryPermit::grant(&evidence).map_err(|no| refused(no.to_string()))?;
    Ok(Ready { it, quiet, permit, targets })
}

/// Whether a hold keeps a recording, or one kept it until a short time ago. While it is not known
/// what is held, all is.
pub(in crate::engine) fn is_held(shared: &Shared, id: NodeId, now: Timestamp) -> Result<bool> {
    shared.catalog.know_holds()?;
    Ok(!shared.catalog.holds().let_expire(id, now))
}

/// What a target says of an object.
pub(super) fn age(shared: &Shared, object: &ObjectRow) -> Result<ObjectAge> {
    let target = target_of(shared, object)?;
    if !target.is_up() {
        // Not there may mean that it is another archive, or an empty mount point.
        return Err(target.trouble().into());
    }
    let head = match shared.ask(target, target.store.head(&object.key)) {
        Ok(head) => head,
        Err(EngineError::Store(e)) if e.kind == StoreErrorKind::NotFound => {
            return Ok(ObjectAge::Gone);
        }
        Err(error) => return Err(error),
    };
    let unproved = |why: String| Ok(ObjectAge::Unproved(format!("{:?}: {why}", object.key)));
    match shared.label_of(&head) {
        Ok(label) if is_ours(shared, &label, object.node) => Ok(ObjectAge::Changed(label.mtime)),
        Ok(_) => unproved("the object says that it is of another recording".to_owned()),
        // The key may come back: until then it is not forgotten, either.
        Err(error @ LabelError::Hidden(_)) => {
            Err(EngineError::refused(Path::new(&object.key), error.to_string()))
        }
        Err(error) => unproved(error.to_string()),
    }
}

fn is_ours(shared: &Shared, label: &Label, id: NodeId) -> bool {
    label.id == id && label.node == store::key::node_component(&shared.catalog.identity().node)
}

pub(in crate::engine) fn target_of<'a>(
    shared: &'a Shared,
    object: &ObjectRow,
) -> Result<&'a Arc<Target>> {
    shared.targets.iter().find(|t| t.name() == object.target).ok_or_else(|| {
        let why = format!("target {:?}, which has it, is not configured", object.target);
        EngineError::refused(Path::new(&object.key), why)
    })
}
