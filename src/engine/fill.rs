//! Bringing a target what was archived without it: one that is new, was made required, or was down
//! when an optional copy was due. Only recordings that are still local are brought; `spread` has those
//! that are not.
//!
//! A sweep goes over all archived recordings once, a few pages at each look, and is repeated as
//! long as it finds something: soon if somebody was at work on one of them, who may have been the one
//! that asked for the sweep.

use super::error::Result;
use super::shared::Shared;
use crate::catalog::{Behind, Candidate};
use crate::clock::Timestamp;
use crate::limits;
use std::time::Duration;

/// A sweep over the archived recordings.
#[derive(Debug, Default)]
pub(super) struct Fill {
    under_way: bool,
    after: Option<Behind>,
    /// Something is lacking, or was.
    found: bool,
    /// Some of it was passed over, because somebody was at work on it.
    passed_over: bool,
    /// How long the next sweep waits because of that; longer each time in a row.
    wait: Duration,
}

/// One page of it.
pub(super) struct Page {
    /// What some target that is up lacks.
    pub lacking: Vec<Candidate>,
    next: Option<Behind>,
}

impl Fill {
    /// The next page, if a sweep is due.
    pub fn page(&mut self, shared: &Shared, now: Timestamp) -> Result<Option<Page>> {
        if !self.under_way {
            let mut due = shared.fill.lock();
            if due.is_none_or(|at| at > now) {
                return Ok(None);
            }
            *due = None;
            *self = Fill { under_way: true, wait: self.wait, ..Fill::default() };
        }
        let up: Vec<String> =
            shared.targets.iter().filter(|t| t.is_up()).map(|t| t.name().to_owned()).collect();
        if up.is_empty() {
            // The next one that comes up asks for another.
            self.under_way = false;
            return Ok(None);
        }
        let rows = limits::PLAN_PAGE_ROWS;
        let (lacking, next) = shared.catalog.archived_elsewhere(&up, self.after, rows)?;
        let lacking = wanted(shared, lacking)?;
        self.found |= !lacking.is_empty();
        Ok(Some(Page { lacking, next }))
    }

    /// Somebody is at work on what a target lacks.
    pub fn pass_over(&mut self) {
        self.passed_over = true;
    }

    /// All of a page was handed over; tells whether there is another.
    pub fn page_done(&mut self, shared: &Shared, page: &Page, now: Timestamp) -> bool {
        self.after = page.next;
        if self.after.is_some() {
            return true;
        }
        self.under_way = false;
        self.wait = match self.passed_over {
            true => self.wait.saturating_mul(2).clamp(limits::BACKOFF_MIN, limits::BACKOFF_MAX),
            false => Duration::ZERO,
        };
        if self.passed_over {
            shared.fill_at(now.plus(self.wait));
        } else if self.found {
            shared.fill_at(now.plus(limits::BACKOFF_MAX));
        }
        false
    }
}

/// Of what some target that is up lacks, what its rule wants there.
fn wanted(shared: &Shared, lacking: Vec<Candidate>) -> Result<Vec<Candidate>> {
    if !shared.rules().name_targets() {
        return Ok(lacking);
    }
    let mut some = Vec::with_capacity(lacking.len());
    for it in lacking {
        // Why one is not in use is said when it is tried.
        let lacks = match shared.targets_of(&it) {
            Err(_not_in_use) => true,
            Ok(wanted) => {
                let mut targets = wanted.must;
                targets.extend(wanted.should);
                targets.retain(|t| t.is_up());
                !shared.lacking(&it, &targets)?.is_empty()
            }
        };
        if lacks {
            some.push(it);
        }
    }
    Ok(some)
}
