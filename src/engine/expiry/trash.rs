//! Emptying the trash: what users deleted goes for good when its own rule lets it go, and it was in
//! the trash for `trash_keep`; a group at a time.

use super::proof::{Term, term_in_trash};
use super::{Expired, Expiring, in_force, or_kept, take};
use crate::catalog::{Candidate, TrashRow};
use crate::clock::Timestamp;
use crate::engine::error::{EngineError, Result};
use crate::engine::joins;
use crate::engine::shared::Shared;
use crate::limits;
use crate::policy::Rules;
use crate::recording::{NodeId, stem};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

/// The rule by which a user deletes.
const DELETED: &str = "delete_mode";

/// Looks at all that was in the trash for long enough.
pub(super) fn look(
    shared: &Shared,
    state: &mut Expiring,
    rules: &Arc<Rules>,
    now: Timestamp,
) -> Result<Expired> {
    let mut total = Expired::default();
    let Some(keep) = rules.trash_keep else { return Ok(total) };
    let mut after = None;
    loop {
        shared.check_stop()?;
        let page = shared.catalog.trash_until(now.minus(keep), after, limits::PLAN_PAGE_ROWS)?;
        let Some(last) = page.last() else { return Ok(total) };
        after = Some(last.cursor());
        for row in page {
            in_force(shared, rules)?;
            total.add(or_kept(consider(shared, state, rules, &row, keep, now))?);
        }
    }
}

/// What users deleted everywhere: no rule is asked, but it counts and is on record as what expires.
pub(super) fn erase(
    shared: &Shared,
    state: &mut Expiring,
    rules: &Arc<Rules>,
    now: Timestamp,
) -> Result<Expired> {
    let mut total = Expired::default();
    let mut after = NodeId(0);
    loop {
        shared.check_stop()?;
        let page = shared.catalog.trash_to_erase(after, limits::PLAN_PAGE_ROWS)?;
        let Some(last) = page.last() else { break };
        after = last.row.id;
        for row in page {
            in_force(shared, rules)?;
            let (id, path, at) = (row.row.id, row.path.clone(), row.at);
            let term = Term { rule: DELETED.to_owned(), after: Duration::ZERO, at };
            let outcome = match shared.claims.try_claim(&[id]) {
                Some(_claim) => joins::erased(shared, &[id]).and_then(|()| {
                    take(shared, state, rules, vec![candidate(row)], (&term, Some(at)), now)
                }),
                None => Err(EngineError::refused(&path, "something else is being done with it")),
            };
            total.add(or_kept(outcome)?);
        }
    }
    state.erase_at = (total.kept > 0).then(|| now.plus(limits::BACKOFF_MAX));
    Ok(total)
}

fn candidate(row: TrashRow) -> Candidate {
    let stem = stem(row.path.file_name().unwrap_or_default().as_bytes());
    let TrashRow { row, path, .. } = row;
    Candidate { row, path, parent: NodeId(0), stem, not_before: None, trashed: true }
}

/// All that was beside it with the same stem, and is in the trash; the time at which the last of it
/// was there for long enough. `None`: it is not there any more, or some of it is here.
fn group_of(
    shared: &Shared,
    one: &TrashRow,
    keep: Duration,
) -> Result<Option<(Vec<Candidate>, Timestamp)>> {
    let name = one.path.file_name().unwrap_or_default();
    let wanted = stem(name.as_bytes());
    let dir = one.path.parent().unwrap_or(Path::new(""));
    // A name may have been deleted any number of times: those beyond the bound go by themselves.
    let mut rows = shared.catalog.trash_group(dir, &wanted, limits::TRASH_GROUP_MAX)?;
    if rows.iter().all(|row| row.row.id != one.row.id) {
        let Some(still) = shared.catalog.trashed(one.row.id)? else { return Ok(None) };
        rows.push(still);
    }
    if rows.iter().any(|row| row.local) {
        return Ok(None);
    }
    let until = rows.iter().map(|row| row.at.plus(keep)).max().unwrap_or(Timestamp(i64::MAX));
    Ok(Some((rows.into_iter().map(candidate).collect(), until)))
}

fn consider(
    shared: &Shared,
    state: &mut Expiring,
    rules: &Arc<Rules>,
    row: &TrashRow,
    keep: Duration,
    now: Timestamp,
) -> Result<Expired> {
    let due = || -> Result<_> {
        let Some((group, until)) = group_of(shared, row, keep)? else { return Ok(None) };
        let Some(mut term) = term_in_trash(shared, shared.facts(rules), &group)? else {
            return Ok(None);
        };
        term.at = term.at.max(until);
        Ok((term.at <= now).then_some((group, term, until)))
    };
    let Some((group, ..)) = due()? else { return Ok(Expired::default()) };
    let ids: Vec<NodeId> = group.iter().map(|it| it.row.id).collect();
    let Some(_claim) = shared.claims.try_claim(&ids) else {
        let why = "something else is being done with it";
        return Err(EngineError::refused(&row.path, why));
    };
    match due()? {
        Some((group, term, until)) if group.iter().all(|it| ids.contains(&it.row.id)) => {
            joins::erased(shared, &ids)?;
            take(shared, state, rules, group, (&term, Some(until)), now)
        }
        _ => Ok(Expired::default()),
    }
}
