//! Getting closed recordings and their names onto the disk, soon and in the background, and
//! recordings in progress now and then (docs/DURABILITY.md, "Power").
//!
//! **Invariant:** nobody waits for this thread, and after a failed fsync nothing counts as clean:
//! the recording is *suspect* until the disk was proved to hold it.
//!
//! The heavy part comes first: data is written out without a journal commit as soon as a
//! recording is closed. Then, when the oldest change is half of `sync_after` old, all of them are
//! synced at once, so that one journal commit of the file system serves them all.

use super::claims::Claim;
use super::contain::contained;
use super::error::Result;
use super::shared::Shared;
use crate::catalog::Unsynced;
use crate::clock::Timestamp;
use crate::lower::{self, LowerError};
use crate::recording::{NodeId, State};
use crate::{faults, limits};
use parking_lot::Mutex;
use std::collections::HashSet;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

/// How often the thread looks what there is.
const TICK: Duration = Duration::from_millis(200);
/// More files than this for each further thread.
const FILES_PER_THREAD: usize = 16;

/// A file that is being synced. As long as it is open its release waits.
struct Open {
    id: NodeId,
    path: PathBuf,
    file: File,
    _claim: Claim,
}

/// What came of looking for a file that is to be synced.
enum Found {
    Open(Open),
    /// There is nothing to sync any more.
    Gone,
    /// Somebody moves or releases it, or keeps it from being opened for a while.
    Later,
    /// It is not where it should be: a rename may be half done.
    Missed,
    /// It can not be opened.
    Failed(LowerError),
}

#[derive(Debug)]
pub(super) struct Syncer {
    shared: Arc<Shared>,
    /// What a daemon before this one left is not synced yet.
    inherited: bool,
    started: Instant,
    /// Something failed, it is not known of what, and the catalog has not taken that yet.
    doubt: bool,
    /// Files that were not where they should be the last time.
    missed: HashSet<NodeId>,
    rest_until: Option<Instant>,
    /// When recordings in progress are written out the next time.
    write_out_at: Option<Timestamp>,
    /// Those still to be written out, and how many at each look.
    in_progress: Vec<(NodeId, PathBuf)>,
    share: usize,
    /// The disk was too slow the last time; said once.
    slow: bool,
}

impl Syncer {
    pub fn new(shared: Arc<Shared>) -> Syncer {
        Syncer {
            shared,
            inherited: true,
            started: Instant::now(),
            doubt: false,
            missed: HashSet::new(),
            rest_until: None,
            write_out_at: None,
            in_progress: Vec::new(),
            share: 0,
            slow: false,
        }
    }

    pub fn run(mut self) {
        loop {
            if contained("syncing", || self.step()).is_err() {
                // What was taken is not known any more.
                self.inherited = true;
                self.rest_until = Some(Instant::now() + limits::SYNC_REST);
            }
            crossbeam_channel::select! {
                recv(self.shared.stop.closed()) -> _closed => return,
                default(TICK) => {}
            }
        }
    }

    fn step(&mut self) -> Result<()> {
        let Some(within) = self.shared.rules().sync_after else {
            // What is not remembered now is all of it, should that change.
            self.inherited = true;
            drop((self.shared.catalog.take_unsynced(), self.shared.catalog.take_closed()));
            return Ok(());
        };
        self.write_out_closed();
        let now = self.shared.now();
        if self.is_due(now, within) {
            self.sync(now, within);
        }
        if let Err(error) = self.write_out_in_progress(now) {
            tracing::debug!(%error, "recordings in progress are written out later");
        }
        Ok(())
    }

    fn is_due(&self, now: Timestamp, within: Duration) -> bool {
        if self.rest_until.is_some_and(|until| Instant::now() < until) {
            return false;
        }
        let since = self.shared.catalog.unsynced_since();
        // Also if the clock was set back behind it.
        // Not right at the start: whoever is killed in the sync of a whole file system ends only with
        // it, and calls would wait so long for the next daemon if there is a row of deaths.
        (self.inherited && self.started.elapsed() >= within / 2)
            || since.is_some_and(|at| at.age_at(now) >= within / 2 || now.age_at(at) > within)
    }

    /// Hands the data of what was just closed to the disk. What fails is told when it is synced.
    fn write_out_closed(&self) {
        for id in self.shared.catalog.take_closed() {
            if self.shared.stop.is_set() {
                return;
            }
            if let Ok(Found::Open(open)) = self.open(id) {
                self.begin_write_out(&open);
            }
        }
    }

    // ---- one sync of everything -----------------------------------------------------------

    fn sync(&mut self, began: Timestamp, within: Duration) {
        let taken = self.shared.catalog.take_unsynced();
        let since = taken.since.unwrap_or(began);
        let whole = taken.whole || std::mem::take(&mut self.inherited);
        // Before what comes now: the kernel has told it, and does so once.
        self.settle_doubt();
        faults::point("sync.before_files");
        let (mut left, stopped) = self.sync_below(&taken, whole);
        if stopped {
            // The next daemon begins with all of it.
            return;
        }
        faults::point("sync.after_files");
        if self.doubt {
            // The time up to which all is synced stays: it tells of what there is doubt.
            left.since = Some(since);
        } else if let Err(error) = self.shared.catalog.synced(began) {
            tracing::debug!(%error, "the catalog is synced later");
            left.since = Some(since);
        }
        faults::point("sync.after_commit");
        let all = left.since.is_none() && left.files.is_empty() && left.dirs.is_empty();
        if !all {
            left.since = Some(since);
            self.shared.catalog.still_unsynced(left);
            self.rest_until = Some(Instant::now() + limits::SYNC_REST);
        }
        self.shared.catalog.sync_is_over(all.then_some(began));
        self.shared.activity.syncs.fetch_add(1, Ordering::Relaxed);
        self.say_if_slow(since, within);
    }

    /// Syncs names and files; gives what is to be tried again, and whether the engine stops.
    fn sync_below(&mut self, taken: &Unsynced, mut whole: bool) -> (Unsynced, bool) {
        let mut left = Unsynced::default();
        let files: Vec<NodeId> = taken.files.iter().copied().collect();
        let mut dirs_done = false;
        for some in files.chunks(limits::SYNC_FILES_OPEN) {
            let mut open = self.open_some(some, &mut left, &mut whole);
            self.write_out(&mut open);
            if !dirs_done {
                // Before the files: the journal commit of the first directory serves them too.
                whole = whole || !self.sync_dirs(taken, &mut left);
                dirs_done = true;
            }
            if !self.sync_files(&open) {
                return (left, true);
            }
        }
        if !dirs_done && !whole {
            whole = !self.sync_dirs(taken, &mut left);
        }
        if whole {
            self.sync_whole();
        }
        (left, self.shared.stop.is_set())
    }

    fn open_some(&mut self, ids: &[NodeId], left: &mut Unsynced, whole: &mut bool) -> Vec<Open> {
        let mut all = Vec::with_capacity(ids.len());
        for id in ids {
            let found = self.open(*id);
            let missed_before = self.missed.remove(id);
            match found {
                Ok(Found::Open(open)) if self.begin_write_out(&open) => all.push(open),
                Ok(Found::Open(_failed)) => {}
                Ok(Found::Gone) => {}
                Ok(Found::Later) => {
                    left.files.insert(*id);
                }
                Ok(Found::Failed(error)) => self.failed(*id, &error.to_string()),
                Ok(Found::Missed) if !missed_before => {
                    self.missed.insert(*id);
                    left.files.insert(*id);
                }
                // Wherever it is.
                Ok(Found::Missed) => *whole = true,
                // The catalog does not tell where it is.
                Err(_unusable) => *whole = true,
            }
        }
        all
    }

    fn open(&self, id: NodeId) -> Result<Found> {
        let Some(claim) = self.shared.syncing.try_claim(&[id]) else { return Ok(Found::Later) };
        let Some(path) = self.shared.path_of(id)? else { return Ok(Found::Gone) };
        match self.shared.lower.open_to_sync(&path, id) {
            Ok(Some(file)) => Ok(Found::Open(Open { id, path, file, _claim: claim })),
            Ok(None) => self.not_there(id, &path),
            Err(LowerError::Io { source, .. }) if is_of_the_moment(&source) => Ok(Found::Later),
            Err(LowerError::Io { source, path }) if is_of_the_disk(&source) => {
                Ok(Found::Failed(LowerError::Io { source, path }))
            }
            // Something else has its name: no word on the disk.
            Err(_other) => self.not_there(id, &path),
        }
    }

    fn not_there(&self, id: NodeId, path: &Path) -> Result<Found> {
        let Some(row) = self.shared.catalog.node(id)? else { return Ok(Found::Gone) };
        if matches!(row.state, State::Released | State::Deleted) {
            return Ok(Found::Gone);
        }
        Ok(match self.shared.path_of(id)? {
            None => Found::Gone,
            Some(now) if now != path => Found::Later,
            Some(_same) => Found::Missed,
        })
    }

    fn begin_write_out(&self, open: &Open) -> bool {
        let begun = lower::begin_write_out(&open.file, None);
        if let Err(error) = &begun {
            self.failed(open.id, &format!("{}: {error}", open.path.display()));
        }
        begun.is_ok()
    }

    /// Waits for the data of all, and leaves out what failed.
    fn write_out(&self, open: &mut Vec<Open>) {
        open.retain(|one| match lower::finish_write_out(&one.file) {
            Ok(()) => true,
            Err(error) => {
                self.failed(one.id, &format!("{}: {error}", one.path.display()));
                false
            }
        });
    }

    /// Syncs files, several at a time if they are many. False if the engine stops.
    fn sync_files(&self, open: &[Open]) -> bool {
        let threads = (open.len() / FILES_PER_THREAD + 1).min(limits::SYNC_THREADS);
        let next = Mutex::new(open.iter());
        let work = || {
            loop {
                let one = next.lock().next();
                let Some(one) = one.filter(|_| !self.shared.stop.is_set()) else { return };
                match lower::sync_file(&one.file) {
                    Ok(()) => {
                        self.shared.activity.synced.fetch_add(1, Ordering::Relaxed);
                    }
                    Err(error) => self.failed(one.id, &format!("{}: {error}", one.path.display())),
                }
            }
        };
        std::thread::scope(|scope| {
            for _ in 1..threads {
                let helper = std::thread::Builder::new().name("sync".to_owned());
                // One thread less does it, too.
                let _fewer = helper.spawn_scoped(scope, work);
            }
            work();
        });
        !self.shared.stop.is_set()
    }

    /// Syncs directories. False if that does not make their names durable for sure.
    fn sync_dirs(&mut self, taken: &Unsynced, left: &mut Unsynced) -> bool {
        if taken.dirs.len() > limits::SYNC_DIRS_MAX {
            return false;
        }
        for id in &taken.dirs {
            let Ok(path) = self.shared.path_of(*id) else { return false };
            // It was removed: its parent is among those that were changed.
            let Some(path) = path else { continue };
            match self.shared.lower.sync_dir(&path, *id) {
                Ok(true) => {}
                // It was moved just now, or the catalog is behind.
                Ok(false) => return false,
                Err(LowerError::Io { source, .. }) if is_shortage(&source) => {
                    left.dirs.insert(*id);
                }
                Err(error) => {
                    self.all_failed(&error.to_string());
                    return false;
                }
            }
        }
        true
    }

    fn sync_whole(&mut self) {
        if let Err(error) = self.shared.lower.sync_all() {
            self.all_failed(&error.to_string());
        }
    }

    fn failed(&self, id: NodeId, error: &str) {
        tracing::error!(
            %id, error,
            "a recording could not be synced to the disk: it is suspect, and archived as soon as \
             can be; check the disk"
        );
        self.shared.catalog.suspect(id);
    }

    /// What failed is not known.
    fn all_failed(&mut self, error: &str) {
        tracing::error!(
            error,
            "the lower file system could not be synced: everything that was closed since the last \
             time is suspect, and archived as soon as can be; check the disk"
        );
        self.shared.catalog.suspect_all_soon();
        self.doubt = true;
        self.settle_doubt();
    }

    fn settle_doubt(&mut self) {
        if !self.doubt {
            return;
        }
        match self.shared.catalog.suspect_all_unsynced() {
            Ok(suspects) => {
                self.doubt = false;
                tracing::warn!(suspects, "recordings are suspect");
            }
            Err(error) => {
                tracing::error!(%error, "what is suspect can not be noted now: tried again");
            }
        }
    }

    fn say_if_slow(&mut self, since: Timestamp, within: Duration) {
        let age = since.age_at(self.shared.now());
        let slow = age > within;
        if slow && !self.slow {
            tracing::warn!(
                seconds = age.as_secs(),
                "the disk is too slow for `sync_after`: what was closed was durable only now"
            );
        }
        self.slow = slow;
    }

    // ---- recordings in progress -----------------------------------------------------------

    /// Hands data of recordings in progress to the disk: all of them once in a while, a few at
    /// each look.
    fn write_out_in_progress(&mut self, now: Timestamp) -> Result<()> {
        if self.write_out_at.is_none_or(|at| at <= now || now.plus(limits::WRITE_OUT_EVERY) < at) {
            let first = self.write_out_at.is_none();
            self.write_out_at = Some(now.plus(limits::WRITE_OUT_EVERY));
            if !first {
                self.look_for_recordings()?;
            }
        }
        for _ in 0..self.share {
            let Some((id, path)) = self.in_progress.pop() else { break };
            let Ok(Some(file)) = self.shared.lower.open_to_sync(&path, id) else { continue };
            let size = file.metadata().map_or(0, |m| m.len());
            if let Err(error) = lower::begin_write_out(&file, Some(size)) {
                self.failed(id, &format!("{}: {error}", path.display()));
            }
        }
        Ok(())
    }

    fn look_for_recordings(&mut self) -> Result<()> {
        self.in_progress.clear();
        let mut after = NodeId(0);
        loop {
            let page = self.shared.catalog.left_recording(after, limits::PLAN_PAGE_ROWS)?;
            let full = page.len() == limits::PLAN_PAGE_ROWS;
            let Some(last) = page.last() else { break };
            after = last.row.id;
            self.in_progress.extend(page.into_iter().map(|it| (it.row.id, it.path)));
            if !full || self.shared.stop.is_set() {
                break;
            }
        }
        let looks = limits::WRITE_OUT_EVERY.as_millis() / TICK.as_millis() / 2;
        self.share = self.in_progress.len().div_ceil(usize::try_from(looks).unwrap_or(1).max(1));
        Ok(())
    }
}

/// Somebody else has a lease on it, or it is a shortage: no word on the disk.
fn is_of_the_moment(error: &std::io::Error) -> bool {
    use rustix::io::Errno;
    Errno::from_io_error(error) == Some(Errno::AGAIN) || is_shortage(error)
}

/// The disk or the file system on it is not well.
fn is_of_the_disk(error: &std::io::Error) -> bool {
    use rustix::io::Errno;
    let errno = Errno::from_io_error(error);
    matches!(errno, Some(Errno::IO | Errno::UCLEAN | Errno::BADMSG | Errno::NODEV | Errno::NODATA))
}

/// Too many open files or too little memory: no word on the disk.
fn is_shortage(error: &std::io::Error) -> bool {
    use rustix::io::Errno;
    let errno = Errno::from_io_error(error);
    matches!(errno, Some(Errno::MFILE | Errno::NFILE | Errno::NOMEM | Errno::INTR))
}
