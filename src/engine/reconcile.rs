//! Making the catalog agree with the lower directory after a time without a mount: adoption of
//! what is new, moves and changes behind our back, and what is gone.
//!
//! The order matters. First what exists is walked, so that everything that was moved is found at
//! its new place; only then is what the catalog expects and the walk did not find taken for gone.
//! A name that is known but carries no identity, or another's, is put off for the same reason,
//! until a round over what was put off finds nothing moved any more.
//!
//! A power cut can leave the catalog ahead of the directory. Of two at one name, where the catalog
//! has one that is nowhere below (a released recording, a new directory), that one has it if it came
//! there after the other last changed: what the other lost, another name or its last one, is done
//! below once more. It can leave the directory ahead of the catalog as well: then what is below has
//! its name, and what the catalog has there is in the trash, or, a directory, beside it.
//!
//! The file system makes, finds and moves names under `Lower::names_change` and tells the catalog
//! before it lets go. So what is judged here is looked at once
//! more while no name can be made: then the catalog knows it, or nobody is making it.

mod contest;

use super::backoff;
use super::contain::contained;
use super::error::{EngineError, Result};
use super::gone;
use super::shared::Shared;
use super::trash;
use crate::catalog::{NodeRow, Op};
use crate::clock::Timestamp;
use crate::lower::{LowerError, LowerStat};
use crate::recording::{Kind, NodeId, State};
use crate::{faults, limits};
use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

/// Between two looks for files left open.
const LOOK_AGAIN: Duration = Duration::from_secs(5);
/// The same while something is to be tried again. Also what a test waits for that.
const LOOK_SOON: Duration = Duration::from_millis(500);
/// Adopted files after which the operation log is given time to drain.
const DRAIN_EVERY: u64 = 512;

/// Names that are named in the log of those that are left out.
const LEFT_OUT_NAMED: usize = 20;

/// What could not be looked at, or not taken over: an error of the disk, no room for an identity. It is
/// tried again, for what is not in the catalog is never archived.
#[derive(Debug, Default)]
struct LeftOut {
    /// Directories and names in them; an empty one is the directory itself.
    names: BTreeSet<(NodeId, Vec<u8>)>,
    /// More than are remembered: all is compared again.
    more: bool,
    /// How often in a row it was tried in vain, and when it is again.
    tries: u32,
    again: Timestamp,
}

impl LeftOut {
    fn add(&mut self, dir: NodeId, name: &[u8]) {
        match self.names.len() < limits::RECONCILE_LEFT_OUT_MAX {
            true => drop(self.names.insert((dir, name.to_owned()))),
            false => self.more = true,
        }
    }

    fn is_due(&self, now: Timestamp) -> bool {
        let waits = now < self.again && self.again <= now.plus(limits::RECONCILE_REST_MAX);
        !self.names.is_empty() && !waits
    }

    /// What is left out after another try.
    fn follows(&mut self, shared: &Shared, next: LeftOut) {
        let tries = if next.names.is_empty() { 0 } else { self.tries.saturating_add(1) };
        shared.activity.left_out.store(next.names.len() as u64, Ordering::Relaxed);
        // All is not compared as often as a few names are.
        let doubled = 2u32.saturating_pow(tries.saturating_sub(1));
        let wait = match next.more {
            true => limits::BACKOFF_MAX.saturating_mul(doubled).min(limits::RECONCILE_REST_MAX),
            false => backoff::after(tries),
        };
        *self = LeftOut { tries, again: shared.now().plus(wait), ..next };
    }
}

/// Runs until the tree was reconciled and then looks after files left in state `recording`, until
/// the engine stops.
pub(super) fn run(shared: &Shared, again: &crossbeam_channel::Receiver<()>) {
    let mut due = true;
    let mut left_out = LeftOut::default();
    loop {
        let try_again = left_out.is_due(shared.now());
        due |= try_again && left_out.more;
        if std::mem::take(&mut due) || shared.catalog.reconcile_due() {
            shared.activity.reconciled.store(false, Ordering::Relaxed);
            shared.catalog.reconcile_begins();
            // Of names that were left out before: that is said once.
            let again = left_out.tries > 0;
            let walk = || Walk { again, ..Walk::new(shared) }.whole_tree();
            match contained("comparing the tree", walk) {
                Ok(left) => {
                    left_out.follows(shared, left);
                    shared.activity.reconciled.store(true, Ordering::Relaxed);
                }
                Err(error) => {
                    tracing::warn!(%error, "the lower directory could not be compared with the catalog yet");
                    due = true;
                }
            }
            shared.wake();
        } else if try_again {
            let names = &left_out.names;
            match contained("taking over what was left out", || Walk::new(shared).again(names)) {
                Ok(left) => left_out.follows(shared, left),
                Err(error) => tracing::debug!(%error, "what was left out is tried again"),
            }
            shared.wake();
        }
        if let Err(error) = contained("closing files", || close_left_open(shared)) {
            tracing::debug!(%error, "files left open are looked at again later");
        }
        crossbeam_channel::select! {
            recv(again) -> _asked => due = true,
            recv(shared.stop.closed()) -> _closed => return,
            default(if left_out.names.is_empty() { LOOK_AGAIN } else { LOOK_SOON }) => {}
        }
        if shared.stop.is_set() {
            return;
        }
    }
}

/// Files in state `recording` that nobody has open: their writer went with an earlier daemon.
/// Those that somebody has open since before the mount are asked again later.
fn close_left_open(shared: &Shared) -> Result<()> {
    let mut after = NodeId(0);
    loop {
        let page = shared.catalog.left_recording(after, limits::PLAN_PAGE_ROWS)?;
        let Some(last) = page.last() else { return Ok(()) };
        after = last.row.id;
        for it in &page {
            shared.check_stop()?;
            if it.row.attr.kind != Kind::File {
                continue;
            }
            let Ok(quiet) = shared.lower.quiet(&trash::below(it)) else { continue };
            if quiet.stat.node == Some(it.row.id) {
                shared.catalog.record(Op::Closed {
                    id: it.row.id,
                    attr: quiet.stat.attr,
                    version: quiet.stat.version,
                    at: shared.now(),
                });
            }
        }
    }
}

/// What a name is that the catalog does not know.
enum Judged {
    Nothing,
    Is(NodeId),
    /// The catalog is to be told of what it is now.
    IsNow(NodeId, LowerStat),
    /// It is in the trash now.
    Trash(NodeId, LowerStat),
}

/// A comparison of the tree with the catalog.
struct Walk<'a> {
    shared: &'a Shared,
    /// Directories with names that the catalog gives to another node, which may have moved.
    contested: BTreeSet<PathBuf>,
    /// What was found under such names.
    unsettled: BTreeSet<NodeId>,
    /// All was looked at once: a released recording is not found below any more.
    walked: bool,
    /// Nothing moves any more: a contested name goes to what has it below.
    force: bool,
    /// Put into the trash for the sake of others, and the catalog is still to be told.
    trashed: Vec<(NodeId, LowerStat, PathBuf)>,
    recorded: u64,
    drained: u64,
    left_out: LeftOut,
    /// Of names that were left out before: that is said once.
    again: bool,
}

impl<'a> Walk<'a> {
    fn new(shared: &'a Shared) -> Walk<'a> {
        let (contested, left_out) = (BTreeSet::new(), LeftOut::default());
        Walk {
            shared,
            contested,
            unsettled: BTreeSet::new(),
            walked: false,
            force: false,
            trashed: Vec::new(),
            recorded: 0,
            drained: 0,
            left_out,
            again: false,
        }
    }

    /// What was left out before; what still is.
    fn again(mut self, names: &BTreeSet<(NodeId, Vec<u8>)>) -> Result<LeftOut> {
        self.again = true;
        self.shared.catalog.drain()?;
        for (parent, name) in names {
            // A directory that is gone has taken them along.
            let Some(dir) = self.shared.path_of(*parent)? else { continue };
            if name.is_empty() {
                self.walk(vec![(dir, *parent)])?;
            } else if let Some(found) = self.entry(&dir, *parent, name)? {
                self.walk(vec![(dir.join(OsStr::from_bytes(name)), found)])?;
            }
        }
        if !self.contested.is_empty() {
            // Whose such a name is shows when all is compared.
            self.left_out.add(NodeId::ROOT, b"");
            self.left_out.more = true;
        }
        self.shared.catalog.drain()?;
        Ok(self.left_out)
    }

    /// All of it; what was left out.
    fn whole_tree(mut self) -> Result<LeftOut> {
        self.shared.catalog.drain()?;
        self.walk(vec![(PathBuf::new(), NodeId::ROOT)])?;
        self.walked = true;
        while !self.contested.is_empty() {
            let mut dirs = Vec::new();
            for path in std::mem::take(&mut self.contested) {
                // A directory that is itself unknown is reached through its parent.
                if let Some(id) = self.id_of_dir(&path)? {
                    dirs.push((path, id));
                }
            }
            let before = self.recorded;
            self.walk(dirs)?;
            self.force = !self.contested.is_empty() && self.recorded == before;
        }
        self.shared.catalog.drain()?;
        // Before what is missing is taken for gone: some of it may be there.
        trash::look_through(self.shared)?;
        self.shared.catalog.drain()?;
        faults::point("reconcile.before_gone");
        gone::whole_tree(self.shared)?;
        if !self.again && self.left_out.names.len() > LEFT_OUT_NAMED {
            tracing::warn!("there is more that can not be taken over; status counts it");
        }
        Ok(self.left_out)
    }

    fn leave_out(&mut self, dir: NodeId, name: &[u8], error: &LowerError) {
        self.left_out.add(dir, name);
        match self.again || self.left_out.names.len() > LEFT_OUT_NAMED {
            true => tracing::debug!(%error, "what is below is left out again"),
            false => {
                tracing::warn!(%error, "what is below can not be taken over; it is tried again")
            }
        }
    }

    fn id_of_dir(&self, path: &Path) -> Result<Option<NodeId>> {
        if path.as_os_str().is_empty() {
            return Ok(Some(NodeId::ROOT));
        }
        Ok(self.shared.resolve(path)?.map(|(_, row)| row.id))
    }

    /// Walks directories, those whose names sort last first: with names like 2026/11/21 that is
    /// newest first.
    fn walk(&mut self, mut stack: Vec<(PathBuf, NodeId)>) -> Result<()> {
        while let Some((dir, id)) = stack.pop() {
            let mut names = match self.shared.lower.names(&dir) {
                Ok(names) => names,
                Err(e) if e.is_not_found() => continue,
                Err(error) => {
                    self.leave_out(id, b"", &error);
                    continue;
                }
            };
            names.sort_unstable();
            let mut below = Vec::new();
            for names in names.rchunks(limits::RECONCILE_BATCH) {
                let began = Instant::now();
                for name in names.iter().rev() {
                    self.shared.check_stop()?;
                    if let Some(found) = self.entry(&dir, id, name)? {
                        below.push((dir.join(OsStr::from_bytes(name)), found));
                    }
                }
                self.let_drain();
                // At most half of the time, so that calls have the disk.
                self.shared.stop.wait(began.elapsed().min(Duration::from_millis(200)));
            }
            stack.extend(below.into_iter().rev());
        }
        Ok(())
    }

    /// Settles one name; the identity of a directory to walk is returned.
    fn entry(&mut self, dir: &Path, parent: NodeId, name: &[u8]) -> Result<Option<NodeId>> {
        let path = dir.join(OsStr::from_bytes(name));
        let stat = match self.shared.lower.stat(&path) {
            Ok(stat) => stat,
            Err(e) if e.is_not_found() => return Ok(None),
            Err(error) => {
                self.leave_out(parent, name, &error);
                return Ok(None);
            }
        };
        self.shared.activity.looked_at.fetch_add(1, Ordering::Relaxed);
        let known = match stat.node {
            Some(id) => self.shared.catalog.node(id)?.filter(|row| row.state != State::Deleted),
            None => None,
        };
        let judged = match known {
            Some(row) => self.known(parent, name, &path, &stat, &row),
            None => self.unknown(dir, parent, name, &path),
        };
        let id = match judged {
            Ok(id) => id,
            // Immutable, or no room for its identity: it must not keep the others waiting.
            Err(EngineError::Lower(error)) => {
                self.leave_out(parent, name, &error);
                None
            }
            Err(other) => return Err(other),
        };
        Ok(id.filter(|_| stat.attr.kind == Kind::Dir))
    }

    /// A file with the identity of a node.
    fn known(
        &mut self,
        parent: NodeId,
        name: &[u8],
        path: &Path,
        stat: &LowerStat,
        row: &NodeRow,
    ) -> Result<Option<NodeId>> {
        let here = self.shared.catalog.lookup(parent, name)?.is_some_and(|r| r.id == row.id);
        if !here {
            let moved = self.moved(parent, name, path, row.id);
            // Not under the lock: the catalog may take its time.
            for (id, stat, path) in std::mem::take(&mut self.trashed) {
                self.shared.catalog.trash_found(id, stat.attr, stat.version, &path)?;
            }
            moved?;
        }
        if stat.attr.kind == Kind::File {
            self.compare(path, row.id)?;
        }
        Ok(Some(row.id))
    }

    /// The node has another name below than in the catalog.
    fn moved(&mut self, parent: NodeId, name: &[u8], path: &Path, id: NodeId) -> Result<()> {
        let shared = self.shared;
        let _names = shared.lower.names_still();
        let stat = match shared.lower.stat(path) {
            Err(e) if e.is_not_found() => return Ok(()),
            stat => stat?,
        };
        let there = shared.catalog.lookup(parent, name)?;
        if stat.node != Some(id) || there.as_ref().is_some_and(|r| r.id == id) {
            return Ok(());
        }
        let place = shared.catalog.name_of(id)?;
        let old = match shared.path_of(id)? {
            Some(old) => shared.lower.stat(&old).ok().and_then(|s| s.node),
            None => None,
        };
        if let Some(other) = &there
            && self.walked
            && ![Some(id), Some(other.id)].contains(&old)
            && !self.unsettled.contains(&other.id)
            && contest::came_later(other, &stat)
            && self.as_told(path, id, place.clone(), contest::SHIFTED_MAX)?
        {
            self.unsettled.remove(&id);
            self.recorded += 1;
            return Ok(());
        }
        let circle = stat.attr.kind == Kind::Dir && self.is_inside(parent, id)?;
        let op = match (place, there) {
            (Some((old_parent, old_name)), Some(other)) if old == Some(other.id) => {
                let at = shared.now();
                let (a, b) = ((id, old_parent, old_name), (other.id, parent, name.to_vec()));
                Op::Exchange { a, b, at }
            }
            (_, there) if !self.force && (there.is_some() || circle) => {
                self.contested.insert(path.parent().unwrap_or(Path::new("")).to_owned());
                self.unsettled.insert(id);
                return Ok(());
            }
            _ if circle => {
                tracing::error!(path = %path.display(), "directories were moved in a circle; the catalog keeps their old names");
                return Ok(());
            }
            (place, there) => {
                let at = shared.now();
                if let Some(other) = there {
                    self.make_way(parent, name, path, &other, at);
                }
                let new_name = name.to_vec();
                match place.filter(|_| old != Some(id)) {
                    Some((old_parent, name)) => Op::Rename {
                        fate: crate::catalog::Fate::Kept,
                        id,
                        parent: old_parent,
                        name,
                        new_parent: parent,
                        new_name,
                        replaced: None,
                        at,
                    },
                    None => Op::Link { id, parent, name: new_name },
                }
            }
        };
        self.record(op);
        self.unsettled.remove(&id);
        faults::point("reconcile.after_moved");
        Ok(())
    }

    /// Tells the catalog if a file it knows is not as it knows it.
    fn compare(&mut self, path: &Path, id: NodeId) -> Result<()> {
        let shared = self.shared;
        if shared.claims.is_held(id) {
            return Ok(());
        }
        let _tier = shared.tier.lock();
        let (Some(row), Ok(stat)) = (shared.catalog.node(id)?, shared.lower.stat(path)) else {
            return Ok(());
        };
        let attr = (row.attr.size, row.attr.mtime) == (stat.attr.size, stat.attr.mtime);
        let same = match row.state {
            State::Recording | State::Deleted => true,
            // A crash between the catalog and the bytes left a spare copy.
            State::Released => false,
            State::Closed | State::Archived => {
                attr && row.hashed.is_none_or(|hashed| hashed == stat.version)
            }
        };
        if !same && stat.node == Some(id) {
            shared.catalog.changed_below(id, stat.attr, stat.version)?;
        }
        Ok(())
    }

    /// A name without the identity of a node that the catalog has.
    fn unknown(
        &mut self,
        dir: &Path,
        parent: NodeId,
        name: &[u8],
        path: &Path,
    ) -> Result<Option<NodeId>> {
        let judged = self.judge(dir, parent, name, path)?;
        // Not under the lock: the catalog may take its time.
        match judged {
            Judged::Nothing => Ok(None),
            Judged::Is(id) => Ok(Some(id)),
            Judged::IsNow(id, stat) => {
                if stat.attr.kind == Kind::File {
                    self.shared.catalog.changed_below(id, stat.attr, stat.version)?;
                }
                Ok(Some(id))
            }
            Judged::Trash(id, stat) => {
                self.shared.catalog.trash_found(id, stat.attr, stat.version, path)?;
                Ok(None)
            }
        }
    }

    /// Gives what is below its identity while no name can be made.
    fn judge(&mut self, dir: &Path, parent: NodeId, name: &[u8], path: &Path) -> Result<Judged> {
        let shared = self.shared;
        let _names = shared.lower.names_still_in(parent);
        let stat = match shared.lower.stat(path) {
            Err(e) if e.is_not_found() => return Ok(Judged::Nothing),
            stat => stat?,
        };
        // An identity that the catalog has forgotten is kept: the kernel may know it.
        let mut id = None;
        if let Some(found) = stat.node {
            match shared.catalog.node(found)? {
                None => id = Some(found),
                Some(row) if row.state == State::Deleted => {}
                // Somebody looked it up meanwhile, and it was adopted for him.
                Some(_) => return Ok(Judged::Is(found)),
            }
        }
        match shared.catalog.lookup(parent, name)? {
            None => Ok(Judged::Is(self.adopt(parent, name, path, id)?)),
            Some(_) if !self.force => {
                self.contested.insert(dir.to_owned());
                Ok(Judged::Nothing)
            }
            Some(row)
                if contest::came_later(&row, &stat)
                    && stat.attr.kind == Kind::File
                    && let Some(id) = stat.node =>
            {
                let stat = self.to_trash(path, id)?;
                self.recorded += 1;
                Ok(Judged::Trash(id, stat))
            }
            // Made through a mount, which the catalog has forgotten: what it has there had left the
            // name, or was removed. Not if that is on hold: it keeps its name, and what it was.
            Some(row)
                if stat.attr.kind == Kind::File
                    && (id.is_some() || self.is_in_trash(row.id))
                    && !shared.catalog.holds().has(row.id) =>
            {
                self.make_way(parent, name, path, &row, shared.now());
                Ok(Judged::Is(self.adopt(parent, name, path, id)?))
            }
            // Another file where the catalog has one that is nowhere else: restored from a
            // backup, copied to a new disk, or recorded anew without a mount. It is that
            // recording, and its hash tells whether its content is, too.
            Some(row) if row.attr.kind == stat.attr.kind => {
                self.recorded += 1;
                Ok(Judged::IsNow(row.id, shared.lower.identify(path, row.id)?))
            }
            Some(row) => {
                self.make_way(parent, name, path, &row, shared.now());
                Ok(Judged::Is(self.adopt(parent, name, path, id)?))
            }
        }
    }

    /// The caller keeps names from moving.
    fn adopt(
        &mut self,
        parent: NodeId,
        name: &[u8],
        path: &Path,
        id: Option<NodeId>,
    ) -> Result<NodeId> {
        let id = id.unwrap_or_else(|| self.shared.catalog.alloc());
        let stat = self.shared.lower.identify(path, id)?;
        faults::point("adopt.after_identity");
        self.record(Op::Create {
            id,
            parent,
            name: name.to_vec(),
            attr: stat.attr,
            version: stat.version,
            adopted: true,
        });
        faults::point("adopt.after_record");
        self.shared.activity.adopted.fetch_add(1, Ordering::Relaxed);
        Ok(id)
    }

    /// Made known while names are still, so it must not wait: see `let_drain`.
    fn record(&mut self, op: Op) {
        self.shared.catalog.record(op);
        self.recorded += 1;
    }

    /// Gives the operation log time, so that adopting a large tree does not fill it.
    fn let_drain(&mut self) {
        if self.recorded.saturating_sub(self.drained) >= DRAIN_EVERY {
            self.drained = self.recorded;
            // Its errors are those of the next read.
            let _best_effort = self.shared.catalog.drain();
        }
    }
}
