//! Legal holds as the call path asks for them: in memory, without SQLite.
//!
//! **Invariant:** what is held is here before the mount is served, and stays here until it is known
//! that no hold is on it any more. It is read from the database, and from a list beside it
//! (`state_dir/holds`) for the case that the database can not be had.

use super::encode::{percent, unpercent};
use super::op::Op;
use crate::clock::Timestamp;
use crate::recording::{Kind, NodeId, State};
use parking_lot::{Mutex, RwLock};
use rusqlite::Connection;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicI64, AtomicUsize, Ordering};
use std::time::Duration;

/// In the state directory: what is held.
const FILE: &str = "holds";
/// Its first line.
const TITLE: &str = "spoolfs holds 1";
/// How long after its last close a held recording may be opened for writing, unless configured.
pub const HOLD_SETTLE: Duration = Duration::from_secs(24 * 3600);
/// How long after its last hold was lifted a recording is still not expired, unless configured.
pub const HOLD_LIFT_GRACE: Duration = Duration::from_secs(7 * 24 * 3600);
/// The longest such time that can be configured: what was lifted before is not remembered here.
pub const HOLD_LIFT_GRACE_MAX: Duration = Duration::from_secs(366 * 24 * 3600);

/// Recordings on hold, and those that were a short time ago.
#[derive(Debug)]
pub struct Holds {
    path: PathBuf,
    /// How many nodes are known here: mostly none, and every open asks.
    count: AtomicUsize,
    known: RwLock<Known>,
    /// Nanoseconds.
    settle: AtomicI64,
    grace: AtomicI64,
    /// Held by whoever changes holds, from the number of a new one to the list on the disk.
    pub(super) changing: Mutex<()>,
}

#[derive(Debug, Default)]
struct Known {
    /// The database was read.
    whole: bool,
    nodes: HashMap<NodeId, Mark>,
    cases: BTreeMap<u64, String>,
    /// Held, and perhaps not archived yet.
    unarchived: BTreeSet<NodeId>,
    /// Held and not archived, because it is to be archived nowhere.
    nowhere: BTreeSet<NodeId>,
}

impl Default for Holds {
    /// Of no catalog: nothing is held.
    fn default() -> Holds {
        Holds::new(Path::new(""))
    }
}

/// A recording that is held, or was.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Mark {
    holds: BTreeSet<u64>,
    /// When the last one was lifted, if there were some before.
    lifted_at: Option<Timestamp>,
    /// The last close; `None` while somebody writes to it, or if that is not known.
    closed_at: Option<Timestamp>,
    /// How often it was opened or closed since it is known here.
    turns: u32,
}

/// A recording to be held, and its last close.
pub(super) type Closed = (NodeId, Option<Timestamp>);

impl Holds {
    pub(super) fn new(state_dir: &Path) -> Holds {
        Holds {
            path: state_dir.join(FILE),
            count: AtomicUsize::new(0),
            known: RwLock::default(),
            settle: AtomicI64::new(nanos(HOLD_SETTLE)),
            grace: AtomicI64::new(nanos(HOLD_LIFT_GRACE)),
            changing: Mutex::default(),
        }
    }

    /// Sets how long after its last close a held recording may be opened for writing, and how long
    /// after the last hold was lifted it is not expired.
    pub fn set_times(&self, settle: Duration, grace: Duration) {
        self.settle.store(nanos(settle), Ordering::Relaxed);
        self.grace.store(nanos(grace), Ordering::Relaxed);
    }

    /// How long after its last hold was lifted a recording is not expired.
    pub fn lift_grace(&self) -> Duration {
        Duration::from_nanos(self.grace.load(Ordering::Relaxed).max(0).cast_unsigned())
    }

    fn is_empty(&self) -> bool {
        self.count.load(Ordering::Acquire) == 0
    }

    fn look<T>(&self, id: NodeId, at: impl FnOnce(&Mark) -> T) -> Option<T> {
        if self.is_empty() {
            return None;
        }
        self.known.read().nodes.get(&id).map(at)
    }

    /// Whether a hold is on a recording: it is not to be deleted.
    pub fn has(&self, id: NodeId) -> bool {
        self.look(id, |mark| !mark.holds.is_empty()).unwrap_or(false)
    }

    /// Whether this hold is on a recording.
    pub fn is_on(&self, hold: u64, id: NodeId) -> bool {
        self.look(id, |mark| mark.holds.contains(&hold)).unwrap_or(false)
    }

    /// Until when a held recording may be opened for writing; `None`: it is not held, or somebody
    /// writes to it.
    pub fn settles_at(&self, id: NodeId) -> Option<Timestamp> {
        let closed = self.look(id, |mark| mark.closed_at.filter(|_| !mark.holds.is_empty()));
        let settle = self.settle.load(Ordering::Relaxed);
        closed.flatten().map(|at| Timestamp(at.0.saturating_add(settle)))
    }

    /// Whether a recording is held, and its call so long over that it may not be changed any more.
    pub fn forbids_writing(&self, id: NodeId, now: Timestamp) -> bool {
        !self.is_empty() && self.settles_at(id).is_some_and(|at| at <= now)
    }

    /// Whether no hold is on a recording, nor was within `hold_lift_grace`: only then may it be
    /// expired, or purged from the trash. While it is not known what is held, nothing may.
    pub fn let_expire(&self, id: NodeId, now: Timestamp) -> bool {
        let grace = self.grace.load(Ordering::Relaxed);
        let known = self.known.read();
        let free = |mark: &Mark| {
            let over = |at: Timestamp| at.0.saturating_add(grace) <= now.0;
            mark.holds.is_empty() && mark.lifted_at.is_none_or(over)
        };
        known.whole && known.nodes.get(&id).is_none_or(free)
    }

    /// Until when a recording that is held no more is not expired.
    pub fn grace_until(&self, id: NodeId) -> Option<Timestamp> {
        let grace = self.grace.load(Ordering::Relaxed);
        let lifted = self.look(id, |mark| mark.lifted_at.filter(|_| mark.holds.is_empty()));
        lifted.flatten().map(|at| Timestamp(at.0.saturating_add(grace)))
    }

    /// The cases whose holds are on a recording, each once, in order.
    pub fn cases(&self, id: NodeId) -> Vec<String> {
        if self.is_empty() {
            return Vec::new();
        }
        let known = self.known.read();
        let holds = known.nodes.get(&id).map(|mark| &mark.holds);
        let cases = holds.into_iter().flatten().map(|hold| {
            let case = known.cases.get(hold).cloned();
            case.unwrap_or_else(|| format!("hold {hold}"))
        });
        cases.collect::<BTreeSet<String>>().into_iter().collect()
    }

    /// Recordings that are held, in order.
    pub fn all_held(&self) -> Vec<NodeId> {
        let known = self.known.read();
        let held = known.nodes.iter().filter(|(_, mark)| !mark.holds.is_empty());
        let mut ids: Vec<NodeId> = held.map(|(id, _)| *id).collect();
        ids.sort_unstable();
        ids
    }

    /// How many recordings are held.
    pub fn held(&self) -> usize {
        self.known.read().nodes.values().filter(|mark| !mark.holds.is_empty()).count()
    }

    /// How many are held and may lack an archive as they are now: in progress, waiting for a target, or
    /// archived so lately that this was not looked at yet.
    pub fn lack_archive(&self) -> usize {
        let known = self.known.read();
        known.unarchived.len() + known.nowhere.difference(&known.unarchived).count()
    }

    /// Recordings that are held, closed, and may not be archived yet: those behind `after`, each with
    /// the turn that it is at.
    pub fn unarchived(&self, after: NodeId, limit: usize) -> Vec<(NodeId, u32)> {
        if self.is_empty() {
            return Vec::new();
        }
        let known = self.known.read();
        let closed = |id: &NodeId| {
            let mark = known.nodes.get(id).filter(|mark| mark.closed_at.is_some());
            mark.map(|mark| (*id, mark.turns))
        };
        let behind = (std::ops::Bound::Excluded(after), std::ops::Bound::Unbounded);
        known.unarchived.range(behind).filter_map(closed).take(limit).collect()
    }

    /// Whether a recording is held, and what it is now may not be archived. Waits for nothing.
    pub fn may_lack_archive(&self, id: NodeId) -> bool {
        if self.is_empty() {
            return false;
        }
        let known = self.known.read();
        known.unarchived.contains(&id) || known.nowhere.contains(&id)
    }

    /// A held recording is archived, or, `nowhere`, not going to be, as it was at this turn.
    pub fn is_archived(&self, (id, turn): (NodeId, u32), nowhere: bool) {
        let known = &mut *self.known.write();
        if known.nodes.get(&id).is_some_and(|mark| mark.turns != turn) {
            // Opened or closed meanwhile: it is another content.
            return;
        }
        known.unarchived.remove(&id);
        match nowhere {
            true => known.nowhere.insert(id),
            false => known.nowhere.remove(&id),
        };
    }

    // ---- changes ----------------------------------------------------------------------------

    /// What an operation that was logged means for a held recording.
    pub(super) fn heard(&self, op: &Op) {
        if self.is_empty() {
            return;
        }
        let (id, closed_at) = match op {
            Op::Opened { id } => (*id, None),
            Op::Closed { id, at, .. } => (*id, Some(*at)),
            Op::Create { id, attr, adopted: true, .. } if attr.kind == Kind::File => {
                (*id, Some(attr.mtime.min(attr.ctime)))
            }
            _ => return,
        };
        if !self.known.read().nodes.contains_key(&id) {
            return;
        }
        let known = &mut *self.known.write();
        if let Some(mark) = known.nodes.get_mut(&id) {
            mark.closed_at = closed_at;
            mark.turns = mark.turns.wrapping_add(1);
            if !mark.holds.is_empty() {
                known.unarchived.insert(id);
            }
        }
    }

    /// The highest number of a hold that is known here.
    pub(super) fn last(&self) -> u64 {
        let known = self.known.read();
        let numbers = known.cases.keys().chain(known.nodes.values().flat_map(|m| &m.holds));
        numbers.max().copied().unwrap_or(0)
    }

    /// The numbers of the holds of a case that are known here.
    pub(super) fn of_case(&self, case: &str) -> Vec<u64> {
        let known = self.known.read();
        let active: BTreeSet<u64> =
            known.nodes.values().flat_map(|m| m.holds.iter().copied()).collect();
        let named = known.cases.iter().filter(|(id, name)| *name == case && active.contains(id));
        named.map(|(id, _)| *id).collect()
    }

    /// Puts a hold on recordings, in memory. Returns those that it was not on before.
    pub(super) fn put(&self, hold: u64, case: &str, nodes: &[Closed]) -> Vec<NodeId> {
        let known = &mut *self.known.write();
        known.cases.insert(hold, case.to_owned());
        let mut fresh = Vec::new();
        for (id, closed_at) in nodes {
            let mark = known
                .nodes
                .entry(*id)
                .or_insert_with(|| Mark { closed_at: *closed_at, ..Mark::default() });
            if mark.holds.is_empty() {
                mark.closed_at = *closed_at;
            }
            if mark.holds.insert(hold) {
                fresh.push(*id);
            }
            known.unarchived.insert(*id);
        }
        self.count.store(known.nodes.len(), Ordering::Release);
        fresh
    }

    /// Takes a hold from recordings, in memory. `lifted`: it counts as lifted then.
    pub(super) fn take(&self, hold: u64, nodes: Option<&[NodeId]>, lifted: Option<Timestamp>) {
        let known = &mut *self.known.write();
        let all: Vec<NodeId> = match nodes {
            Some(nodes) => nodes.to_vec(),
            None => known.nodes.keys().copied().collect(),
        };
        for id in all {
            let Some(mark) = known.nodes.get_mut(&id) else { continue };
            if mark.holds.remove(&hold) && mark.holds.is_empty() {
                known.unarchived.remove(&id);
                known.nowhere.remove(&id);
                mark.lifted_at = lifted.or(mark.lifted_at);
                if mark.lifted_at.is_none() {
                    known.nodes.remove(&id);
                }
            }
        }
        self.count.store(known.nodes.len(), Ordering::Release);
    }

    /// Whether everything that the database knows is known here.
    pub(super) fn is_whole(&self) -> bool {
        self.known.read().whole
    }

    /// Adds what the database knows. What only the list knows stays held: the database may be new.
    pub(super) fn read(&self, conn: &Connection, now: Timestamp) -> rusqlite::Result<()> {
        let found = stored(conn, now)?;
        let known = &mut *self.known.write();
        for row in &found.marks {
            let mark = known.nodes.entry(row.node).or_default();
            mark.closed_at = row.closed_at;
            match row.lifted_at {
                None => drop(mark.holds.insert(row.hold)),
                Some(at) => {
                    mark.holds.remove(&row.hold);
                    mark.lifted_at = mark.lifted_at.max(Some(at));
                }
            }
            if row.unarchived && row.lifted_at.is_none() {
                known.unarchived.insert(row.node);
            }
        }
        let held: BTreeSet<(NodeId, u64)> = found.marks.iter().map(|r| (r.node, r.hold)).collect();
        for (id, mark) in &mut known.nodes {
            // The list was written a moment before, or after, the database.
            mark.holds
                .retain(|hold| held.contains(&(*id, *hold)) || !found.cases.contains_key(hold));
        }
        known.nodes.retain(|_, mark| !mark.holds.is_empty() || mark.lifted_at.is_some());
        known.cases.extend(found.cases);
        known.whole = true;
        self.count.store(known.nodes.len(), Ordering::Release);
        Ok(())
    }

    /// Recordings whose last close is to be looked up again.
    pub(super) fn ids(&self) -> Vec<NodeId> {
        self.known.read().nodes.keys().copied().collect()
    }

    /// What the log says of a recording and the database does not yet.
    pub(super) fn set_closed(&self, id: NodeId, closed_at: Option<Timestamp>) {
        let known = &mut *self.known.write();
        if let Some(mark) = known.nodes.get_mut(&id) {
            mark.closed_at = closed_at;
            if !mark.holds.is_empty() {
                known.unarchived.insert(id);
            }
        }
    }

    /// It was closed while the hold was put on it, and nobody told.
    pub(super) fn was_closed(&self, id: NodeId, closed_at: Timestamp) {
        if let Some(mark) = self.known.write().nodes.get_mut(&id) {
            mark.closed_at.get_or_insert(closed_at);
        }
    }

    // ---- the list beside the database -------------------------------------------------------

    /// Reads the list. One that can not be read is said to be so: the database has the same.
    pub(super) fn load(&self) {
        let text = match std::fs::read_to_string(&self.path) {
            Ok(text) => text,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return,
            Err(error) => {
                tracing::error!(
                    "{}: {error}: held recordings are known from the catalog alone",
                    self.path.display()
                );
                return;
            }
        };
        let known = &mut *self.known.write();
        for line in text.lines().skip(1) {
            let Some((id, mark, hold)) = parse(line) else {
                tracing::error!(line, "{} has a line that is none", self.path.display());
                continue;
            };
            let here = known.nodes.entry(id).or_default();
            here.holds.extend(mark.holds);
            here.lifted_at = here.lifted_at.max(mark.lifted_at);
            known.cases.extend(hold);
        }
        self.count.store(known.nodes.len(), Ordering::Release);
    }

    /// Writes the list anew, in one step.
    pub(super) fn store(&self) -> std::io::Result<()> {
        let mut text = format!("{TITLE}\n");
        {
            let known = self.known.read();
            for (id, mark) in &known.nodes {
                for hold in &mark.holds {
                    let case = known.cases.get(hold).map(String::as_bytes).unwrap_or_default();
                    text.push_str(&format!("held {id} {hold} {}\n", percent(case)));
                }
                if let Some(at) = mark.lifted_at {
                    text.push_str(&format!("lifted {id} {} -\n", at.0));
                }
            }
        }
        let fresh = self.path.with_extension("new");
        let mut options = OpenOptions::new();
        let mut file = options.write(true).create(true).truncate(true).mode(0o600).open(&fresh)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        std::fs::rename(&fresh, &self.path)?;
        self.path.parent().map_or(Ok(()), |dir| File::open(dir)?.sync_all())
    }
}

/// The number of a hold and its case, if a line has one.
type Case = Option<(u64, String)>;

/// A line of the list: `held NODE HOLD CASE`, or `lifted NODE TIME -`.
fn parse(line: &str) -> Option<(NodeId, Mark, Case)> {
    let mut words = line.split(' ');
    let (kind, id) = (words.next()?, NodeId(words.next()?.parse().ok()?));
    let (number, text) = (words.next()?, words.next()?);
    let mut mark = Mark::default();
    match kind {
        "held" => {
            let hold = number.parse().ok()?;
            mark.holds.insert(hold);
            let case = String::from_utf8_lossy(&unpercent(text)?).into_owned();
            Some((id, mark, Some((hold, case))))
        }
        "lifted" => {
            mark.lifted_at = Some(Timestamp(number.parse().ok()?));
            Some((id, mark, None))
        }
        _ => None,
    }
}

struct Stored {
    marks: Vec<Row>,
    cases: BTreeMap<u64, String>,
}

struct Row {
    node: NodeId,
    hold: u64,
    lifted_at: Option<Timestamp>,
    closed_at: Option<Timestamp>,
    unarchived: bool,
}

fn stored(conn: &Connection, now: Timestamp) -> rusqlite::Result<Stored> {
    let mut statement = conn.prepare("SELECT id, name FROM hold")?;
    let cases =
        statement.query_map([], |r| Ok((r.get::<_, i64>(0)?.cast_unsigned(), r.get(1)?)))?;
    let cases = cases.collect::<rusqlite::Result<_>>()?;
    let mut statement = conn.prepare(
        "SELECT d.node, d.hold, h.lifted_at, n.state, n.closed_at
         FROM hold h JOIN held d ON d.hold = h.id LEFT JOIN node n ON n.id = d.node
         WHERE h.lifted_at IS NULL OR h.lifted_at > ?1",
    )?;
    let rows = statement.query_map([now.minus(HOLD_LIFT_GRACE_MAX).0], |r| {
        let time = |at| Ok::<_, rusqlite::Error>(r.get::<_, Option<i64>>(at)?.map(Timestamp));
        let state = r.get::<_, Option<i64>>(3)?.and_then(State::from_code);
        Ok(Row {
            node: NodeId(r.get::<_, i64>(0)?.cast_unsigned()),
            hold: r.get::<_, i64>(1)?.cast_unsigned(),
            lifted_at: time(2)?,
            closed_at: time(4)?.filter(|_| state != Some(State::Recording)),
            unarchived: !matches!(state, Some(State::Archived | State::Released | State::Deleted)),
        })
    })?;
    Ok(Stored { marks: rows.collect::<rusqlite::Result<_>>()?, cases })
}

fn nanos(span: Duration) -> i64 {
    i64::try_from(span.as_nanos()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: i64 = 86_400;

    fn at(secs: i64) -> Timestamp {
        Timestamp::from_parts(secs, 0)
    }

    fn holds(dir: &Path) -> Holds {
        let holds = Holds::new(dir);
        holds.known.write().whole = true;
        holds
    }

    #[test]
    fn holds_are_counted_and_the_last_one_lifted_counts() {
        let dir = tempfile::tempdir().unwrap();
        let (holds, id) = (holds(dir.path()), NodeId(7));
        assert!(!holds.has(id) && holds.let_expire(id, at(0)));
        assert_eq!(holds.put(1, "Smith", &[(id, Some(at(0)))]), [id]);
        assert_eq!(holds.put(2, "Jones", &[(id, Some(at(0)))]), [id]);
        assert_eq!(holds.put(2, "Jones", &[(id, Some(at(0)))]), []);
        assert_eq!(holds.cases(id), ["Jones", "Smith"]);
        holds.take(1, None, Some(at(10)));
        assert!(holds.has(id) && !holds.let_expire(id, at(100 * DAY)));
        holds.take(2, None, Some(at(20)));
        assert!(!holds.has(id));
        assert!(!holds.let_expire(id, at(20 + 7 * DAY - 1)));
        assert!(holds.let_expire(id, at(20 + 7 * DAY)));
        assert_eq!(holds.grace_until(id), Some(at(20 + 7 * DAY)));
    }

    #[test]
    fn what_is_not_known_is_not_expired() {
        let dir = tempfile::tempdir().unwrap();
        let holds = Holds::new(dir.path());
        assert!(!holds.let_expire(NodeId(7), at(1000 * DAY)));
    }

    #[test]
    fn a_held_recording_can_be_written_to_until_its_last_close_is_long_over() {
        let dir = tempfile::tempdir().unwrap();
        let (holds, id) = (holds(dir.path()), NodeId(7));
        holds.put(1, "Smith", &[(id, None)]);
        assert!(!holds.forbids_writing(id, at(1000 * DAY)), "somebody writes to it");
        let attr = crate::catalog::tests::attr(1, 0);
        let version = crate::catalog::tests::version(1, 0);
        holds.heard(&Op::Closed { id, attr, version, at: at(DAY) });
        assert!(!holds.forbids_writing(id, at(2 * DAY - 1)));
        assert!(holds.forbids_writing(id, at(2 * DAY)));
        holds.heard(&Op::Opened { id });
        assert!(!holds.forbids_writing(id, at(2 * DAY)));
    }

    #[test]
    fn the_list_beside_the_database_brings_holds_back() {
        let dir = tempfile::tempdir().unwrap();
        let before = holds(dir.path());
        before.put(1, "Smith v. Jones", &[(NodeId(7), Some(at(0))), (NodeId(8), None)]);
        before.put(2, "B", &[(NodeId(9), None)]);
        before.take(2, None, Some(at(5)));
        before.store().unwrap();
        let after = Holds::new(dir.path());
        after.load();
        assert_eq!(after.cases(NodeId(7)), ["Smith v. Jones"]);
        assert!(after.has(NodeId(8)) && !after.has(NodeId(9)));
        assert_eq!(after.grace_until(NodeId(9)), before.grace_until(NodeId(9)));
        assert_eq!(after.last(), 1);
    }
}
