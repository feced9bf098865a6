//! The main loop: looks what is due, asks the planner, and hands steps to the threads.

use super::archive::worth_trying;
use super::contain::contained;
use super::drain;
use super::error::Result;
use super::fill::Fill;
use super::plan::{self, Action, Why};
use super::put_off::PutOff;
use super::shared::Shared;
use super::space::{self, Pressure};
use super::workers::{Finished, Job, Queues};
use crate::catalog::Candidate;
use crate::clock::Timestamp;
use crate::limits;
use crate::policy::Rules;
use crate::recording::{NodeId, State};
use crossbeam_channel::{Receiver, Sender, TrySendError};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

/// How often the catalog is asked when nobody says that something changed.
const TICK: Duration = Duration::from_secs(1);
/// How often it is asked at most.
const PAUSE: Duration = Duration::from_millis(50);
/// The same while more is due than can be handed over at once.
const PAUSE_IN_BACKLOG: Duration = Duration::from_millis(10);

/// What the loop hears of.
#[derive(Debug)]
enum Event {
    /// Something changed in the catalog, the rules or a target.
    Wake,
    /// A step is through.
    Finished(Finished),
    /// Nothing happened for a while.
    Tick,
    /// The engine stops.
    Stop,
}

/// Longest time spent on rows of one kind in one look.
const BUDGET: Duration = Duration::from_millis(50);
/// Rest after a walk over many rows that found nothing to do, such as a large old archive whose
/// time has not come.
const REST: Duration = Duration::from_secs(20);

/// A walk over the due rows, some pages at each look.
#[derive(Debug, Default)]
struct Walk {
    /// Where it goes on.
    after: Option<NodeId>,
    /// Pages since it began.
    pages: usize,
    /// Steps handed over since it began.
    handed: usize,
    /// When the last one that found nothing ended.
    rested_from: Option<Instant>,
}

impl Walk {
    fn rests(&self) -> bool {
        self.rested_from.is_some_and(|t| t.elapsed() < REST)
    }

    /// A page was looked at; tells whether there is another.
    fn page_done(&mut self, page: &[NodeId], rows: usize) -> bool {
        self.pages += 1;
        self.after = page.last().copied().filter(|_| page.len() == rows);
        if self.after.is_some() {
            return true;
        }
        let idle = self.handed == 0 && self.pages > 1;
        *self = Walk { rested_from: idle.then(Instant::now), ..Walk::default() };
        false
    }

    /// The queue is full: the next look begins with what is oldest.
    fn stuck(&mut self) {
        *self = Walk::default();
    }
}

#[derive(Debug)]
pub(super) struct Planner {
    shared: Arc<Shared>,
    woken: Receiver<()>,
    queues: Queues,
    put_off: PutOff,
    to_prove: Walk,
    to_archive: Walk,
    /// Of these, how many wait for a record of their call.
    without_record: u64,
    /// Places given to what is to be archived since the newest had their share.
    places: usize,
    /// More was due at the last look than could be handed over.
    in_backlog: bool,
    to_release: Walk,
    /// What is on legal hold was looked at up to here.
    held: NodeId,
    fill: Fill,
    planned: Option<Instant>,
    /// The catalog could not be used the last time; said once.
    trouble: bool,
}

impl Planner {
    pub fn new(shared: Arc<Shared>, woken: Receiver<()>, queues: Queues) -> Planner {
        Planner {
            shared,
            woken,
            queues,
            put_off: PutOff::default(),
            to_prove: Walk::default(),
            to_archive: Walk::default(),
            without_record: 0,
            places: 0,
            in_backlog: false,
            to_release: Walk::default(),
            held: NodeId(0),
            fill: Fill::default(),
            planned: None,
            trouble: false,
        }
    }

    pub fn run(mut self) {
        loop {
            match self.next_event() {
                Event::Stop => return,
                Event::Wake | Event::Tick => self.plan_soon(),
                Event::Finished(finished) => {
                    self.finished(finished);
                    while let Ok(more) = self.queues.finished.try_recv() {
                        self.finished(more);
                    }
                    self.plan_soon();
                }
            }
        }
    }

    fn next_event(&self) -> Event {
        crossbeam_channel::select! {
            recv(self.shared.stop.closed()) -> _closed => Event::Stop,
            recv(self.queues.finished) -> finished => match finished {
                Ok(finished) => Event::Finished(finished),
                Err(_workers_are_gone) => Event::Stop,
            },
            recv(self.woken) -> _woken => Event::Wake,
            default(TICK) => Event::Tick,
        }
    }

    fn finished(&mut self, finished: Finished) {
        self.put_off.finished(finished.id, finished.later, self.shared.now());
    }

    /// Plans, unless it was done a moment ago: then the moment is waited for, so that a thousand
    /// closes in a second are one look at the catalog.
    fn plan_soon(&mut self) {
        if let Some(last) = self.planned {
            let pause = if self.in_backlog { PAUSE_IN_BACKLOG } else { PAUSE };
            let pause = pause.saturating_sub(last.elapsed());
            if !pause.is_zero() && self.shared.stop.wait(pause) {
                return;
            }
        }
        let result = contained("planning", || self.plan());
        self.planned = Some(Instant::now());
        match result {
            Ok(()) => self.trouble = false,
            Err(error) if !self.trouble => {
                tracing::error!(%error, "nothing can be archived or released now");
                self.trouble = true;
            }
            Err(_said_before) => {}
        }
    }

    fn plan(&mut self) -> Result<()> {
        let now = self.shared.now();
        self.put_off.tidy(now);
        if space::look(&self.shared) != space::Change::Same {
            // Other rows are due now.
            self.to_archive = Walk::default();
            self.to_release = Walk::default();
        }
        drain::look(&self.shared, now)?;
        self.plan_suspects(now)?;
        self.plan_held()?;
        self.plan_hashes(now)?;
        self.plan_archives(now)?;
        self.plan_fill(now)?;
        self.plan_releases(now)
    }

    /// What may be in memory only goes before everything else: hashed, archived as long as that
    /// memory is right, then compared with the disk.
    fn plan_suspects(&mut self, now: Timestamp) -> Result<()> {
        let began = Instant::now();
        let first = self.plan_some_suspects(now, None)?;
        if first.len() < limits::PLAN_PAGE_ROWS || self.to_prove.rests() {
            return Ok(());
        }
        // Those may all wait for a target.
        self.to_prove.after = self.to_prove.after.or(first.last().copied());
        while began.elapsed() < BUDGET && !self.queues.hash.is_full() {
            let page = self.plan_some_suspects(now, self.to_prove.after)?;
            if !self.to_prove.page_done(&page, limits::PLAN_PAGE_ROWS) {
                return Ok(());
            }
        }
        Ok(())
    }

    /// One page of them. One whose queue is full does not hold up those that want the other; its
    /// turn comes again.
    fn plan_some_suspects(&mut self, now: Timestamp, after: Option<NodeId>) -> Result<Vec<NodeId>> {
        let rules = self.shared.rules();
        let page = self.shared.catalog.due_suspect(now, after, limits::PLAN_PAGE_ROWS)?;
        let ids = page.iter().map(|it| it.row.id).collect();
        for it in page {
            let queue = match plan::next(&it, &[], self.shared.facts(&rules)) {
                Action::Archive if !worth_trying(&self.shared, &it)? => continue,
                Action::Archive => &self.queues.archive,
                Action::Hash => &self.queues.hash,
                // The hashing thread proves what has a hash.
                _ if plan::needs_hash(&it) || !plan::is_settled(&it, self.shared.facts(&rules)) => {
                    continue;
                }
                _ => &self.queues.hash,
            };
            let _full_or_not = self.hand_over(queue, it);
            self.to_prove.handed += 1;
        }
        Ok(ids)
    }

    /// What is on legal hold does not wait for its time.
    fn plan_held(&mut self) -> Result<()> {
        let rules = self.shared.rules();
        let facts = self.shared.facts(&rules);
        let page = facts.holds.unarchived(self.held, limits::HELD_ROWS);
        self.held = page.get(limits::HELD_ROWS - 1).map_or(NodeId(0), |(id, _)| *id);
        let targets_are_up = self.shared.needed_targets().iter().any(|t| t.is_up());
        for (id, turn) in page.into_iter().filter(|(id, _)| !self.is_busy(*id)) {
            let Some(it) = self.shared.candidate(id)? else {
                facts.holds.is_archived((id, turn), false);
                continue;
            };
            match (it.row.state, plan::next(&it, &[], facts)) {
                (State::Recording, _) => {}
                (State::Closed, Action::Hash) => {
                    let _full_or_not = self.hand_over(&self.queues.hash, it);
                }
                (State::Closed, Action::Archive) => {
                    if targets_are_up && worth_trying(&self.shared, &it)? {
                        let _full_or_not = self.hand_over(&self.queues.archive, it);
                    }
                }
                (State::Closed, Action::Wait { .. }) => {}
                // Archived, empty, or there is no target.
                (state, _) => facts.holds.is_archived((id, turn), state == State::Closed),
            }
        }
        Ok(())
    }

    fn plan_hashes(&mut self, now: Timestamp) -> Result<()> {
        if self.queues.hash.is_full() {
            return Ok(());
        }
        // Nothing is read only to find that it can not be remembered.
        if self.shared.catalog.trouble().is_some() {
            self.shared.catalog.check_writable()?;
        }
        let rules = self.shared.rules();
        let settled = back(now, rules.settle);
        // Those under way are among the first rows: look behind them, too.
        let rows = limits::PLAN_PAGE_ROWS.saturating_add(self.put_off.len());
        for it in self.shared.catalog.due_hash(settled, now, rows)? {
            if plan::next(&it, &[], self.shared.facts(&rules)) == Action::Hash
                && self.hand_over(&self.queues.hash, it) == Handed::Full
            {
                return Ok(());
            }
        }
        Ok(())
    }

    fn plan_archives(&mut self, now: Timestamp) -> Result<()> {
        self.in_backlog = false;
        let rules = self.shared.rules();
        let Some(window) = rules.shortest_archive() else { return Ok(()) };
        let no_target_is_up = self.shared.needed_targets().iter().all(|t| !t.is_up());
        if no_target_is_up || self.shared.uploads_are_off() {
            return Ok(());
        }
        let before = back(now, window.max(rules.settle));
        self.plan_newest(now, before)?;
        if self.to_archive.rests() && !self.is_full() {
            return Ok(());
        }
        let began = Instant::now();
        while !self.queues.archive.is_full() && began.elapsed() < BUDGET {
            let after = self.to_archive.after;
            // The first rows are looked at each time that there is a free place.
            let rows = if after.is_none() { limits::OLDEST_ROWS } else { limits::PLAN_PAGE_ROWS };
            let page = self.shared.catalog.due_archive(before, now, after, rows)?;
            let ids: Vec<NodeId> = page.iter().map(|it| it.row.id).collect();
            if after.is_none() {
                self.without_record = 0;
            }
            for it in page {
                if !self.is_to_be_archived(&it, &rules)? {
                    self.without_record += u64::from(self.waits_for_record(&it, &rules));
                    continue;
                }
                if self.hand_over(&self.queues.archive, it) == Handed::Full {
                    self.in_backlog = true;
                    self.to_archive.stuck();
                    return Ok(());
                }
                self.to_archive.handed += 1;
            }
            if !self.to_archive.page_done(&ids, rows) {
                let count = &self.shared.activity.without_record;
                count.store(self.without_record, Ordering::Relaxed);
                return Ok(());
            }
        }
        Ok(())
    }

    fn waits_for_record(&self, it: &Candidate, rules: &Rules) -> bool {
        let waits = |action| matches!(action, Action::Wait { why: Why::NoRecord, .. });
        rules.require_cdr.is_some() && waits(plan::next(it, &[], self.shared.facts(rules)))
    }

    /// Gives a share of the free places to the newest that are due: what was closed a moment ago
    /// does not wait behind a backlog of days.
    fn plan_newest(&mut self, now: Timestamp, before: Timestamp) -> Result<()> {
        let free = limits::ARCHIVE_QUEUE_MAX.saturating_sub(self.queues.archive.len());
        self.places += free;
        let mut share = self.places / limits::NEWEST_ONE_IN;
        self.places %= limits::NEWEST_ONE_IN;
        if share == 0 {
            return Ok(());
        }
        let rules = self.shared.rules();
        let rows = self.shared.catalog.due_archive_newest(before, now, limits::NEWEST_ROWS)?;
        for it in rows {
            if self.is_to_be_archived(&it, &rules)? {
                if share == 0 || self.hand_over(&self.queues.archive, it) == Handed::Full {
                    return Ok(());
                }
                share -= 1;
            }
        }
        Ok(())
    }

    fn is_to_be_archived(&self, it: &Candidate, rules: &Rules) -> Result<bool> {
        Ok(plan::next(it, &[], self.shared.facts(rules)) == Action::Archive
            && !self.is_busy(it.row.id)
            && worth_trying(&self.shared, it)?)
    }

    /// What is archived, but not in every target. After what is not archived at all.
    fn plan_fill(&mut self, now: Timestamp) -> Result<()> {
        if self.shared.uploads_are_off() {
            return Ok(());
        }
        let rules = self.shared.rules();
        let began = Instant::now();
        while !self.queues.archive.is_full() && began.elapsed() < BUDGET {
            let Some(mut page) = self.fill.page(&self.shared, now)? else { return Ok(()) };
            for it in std::mem::take(&mut page.lacking) {
                if it.not_before.is_some_and(|t| t > now) || !rules.for_path(&it.path).archive {
                    continue;
                }
                match self.hand_over(&self.queues.archive, it) {
                    Handed::Over => {}
                    Handed::Busy => self.fill.pass_over(),
                    Handed::Full => return Ok(()),
                }
            }
            if !self.fill.page_done(&self.shared, &page, now) {
                return Ok(());
            }
        }
        Ok(())
    }

    fn plan_releases(&mut self, now: Timestamp) -> Result<()> {
        let rules = self.shared.rules();
        let Some(keep) = rules.shortest_keep() else {
            space::walked(&self.shared, false);
            return Ok(());
        };
        if self.to_release.rests() && !self.is_full() {
            return Ok(());
        }
        let before = back(now, keep);
        let began = Instant::now();
        while !self.queues.release.is_full() && began.elapsed() < BUDGET {
            let after = self.to_release.after;
            let page = self.shared.catalog.due_release(before, after, limits::PLAN_PAGE_ROWS)?;
            let ids: Vec<NodeId> = page.iter().map(|it| it.row.id).collect();
            for it in page {
                if !self.may_release(&it, &rules)? {
                    continue;
                }
                if self.hand_over(&self.queues.release, it) == Handed::Full {
                    self.to_release.stuck();
                    return Ok(());
                }
                self.to_release.handed += 1;
            }
            let found = self.to_release.handed > 0 || self.shared.is_releasing();
            if !self.to_release.page_done(&ids, limits::PLAN_PAGE_ROWS) {
                space::walked(&self.shared, found);
                return Ok(());
            }
        }
        Ok(())
    }

    fn may_release(&self, it: &Candidate, rules: &Rules) -> Result<bool> {
        let facts = self.shared.facts(rules);
        // Alone first: the group costs a query.
        if it.trashed || self.is_busy(it.row.id) || plan::next(it, &[], facts) != Action::Release {
            return Ok(false);
        }
        let group = self.shared.catalog.group(it.parent, &it.stem)?;
        Ok(plan::next(it, &group, facts) == Action::Release)
    }

    fn is_full(&self) -> bool {
        self.shared.space.pressure() != Pressure::None
    }

    fn is_busy(&self, id: NodeId) -> bool {
        self.is_put_off(id) || self.shared.claims.is_held(id)
    }

    fn is_put_off(&self, id: NodeId) -> bool {
        self.put_off.holds(id, self.shared.now())
    }

    /// Gives a step to its thread, unless somebody works on the recording.
    fn hand_over(&self, queue: &Sender<Job>, it: Candidate) -> Handed {
        let id = it.row.id;
        if self.is_put_off(id) {
            return Handed::Busy;
        }
        let Some(claim) = self.shared.claims.try_claim(&[id]) else { return Handed::Busy };
        match queue.try_send(Job { it, claim }) {
            Err(TrySendError::Full(_)) => Handed::Full,
            Ok(()) | Err(TrySendError::Disconnected(_)) => Handed::Over,
        }
    }
}

/// What became of a step that was to be given to its thread.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Handed {
    Over,
    /// Somebody works on the recording, or it was tried a moment ago.
    Busy,
    /// The queue is full.
    Full,
}

fn back(now: Timestamp, by: Duration) -> Timestamp {
    let nanos = i64::try_from(by.as_nanos()).unwrap_or(i64::MAX);
    Timestamp(now.0.saturating_sub(nanos))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page(rows: usize) -> Vec<NodeId> {
        (0..rows as u64).map(NodeId).collect()
    }

    #[test]
    fn a_walk_goes_on_behind_a_full_page_and_begins_anew_behind_a_short_one() {
        let mut walk = Walk::default();
        assert!(walk.page_done(&page(limits::PLAN_PAGE_ROWS), limits::PLAN_PAGE_ROWS));
        assert_eq!(walk.after, Some(NodeId(limits::PLAN_PAGE_ROWS as u64 - 1)));
        walk.handed = 1;
        assert!(!walk.page_done(&page(3), limits::PLAN_PAGE_ROWS));
        assert_eq!((walk.after, walk.rests()), (None, false), "there was something to do");
    }

    #[test]
    fn only_a_long_walk_that_found_nothing_is_rested_from() {
        let mut walk = Walk::default();
        assert!(!walk.page_done(&page(10), limits::PLAN_PAGE_ROWS));
        assert!(!walk.rests());
        assert!(walk.page_done(&page(limits::OLDEST_ROWS), limits::OLDEST_ROWS));
        assert!(!walk.page_done(&[], limits::PLAN_PAGE_ROWS));
        assert!(walk.rests());
        walk.stuck();
        assert!(!walk.rests());
    }
}
