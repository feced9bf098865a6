//! The operation log: numbered segments in the runtime directory, appended with one `write(2)`
//! for each record and never synced (docs/CATALOG.md, "Operation log").
//!
//! **Invariant:** an operation takes effect when its `done` or `record` is in the log, in the
//! order of those records. A segment is removed only when nothing in it is needed any more, and
//! only from the oldest on.

use super::op::Op;
use crate::faults;
use crc32fast::hash as crc32;
use std::collections::{BTreeMap, VecDeque};
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Version of the record format.
const FORMAT: u8 = 1;
/// Length and checksum in front of each record's body.
const FRAME: usize = 8;
/// Version, phase, sequence number, reference in front of the operation.
const HEAD: usize = 18;

/// Segments that stay though all that is in them is in the catalog, the active one included.
const SEGMENTS_KEPT: usize = 2;

/// How long the segments of predecessors stay in any case: their requests that were done and not
/// answered are sent again within moments, but perhaps only to the successor of this daemon.
const KEPT_AFTER_START: Duration = Duration::from_secs(2);

/// No record is longer: names and extended attributes are bounded by the kernel.
const RECORD_MAX: u64 = 1 << 20;

/// What a record says of its operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// It is about to be done; the reference is the kernel's request number.
    Intent = 1,
    /// It was done; the reference is the intent's sequence number. An operation with it says what
    /// came of it in place of the intent's.
    Done = 2,
    /// It was refused; the reference is the intent's sequence number.
    Failed = 3,
    /// It was done, without an intent; the reference is the kernel's request number, or 0.
    Record = 4,
}

/// One operation that took effect.
#[derive(Debug)]
pub(super) struct Effect {
    /// Sequence number of the record that made it so.
    pub seq: u64,
    /// The intent it came from.
    pub intent: Option<u64>,
    /// The operation.
    pub op: Op,
    /// What it takes in the log.
    pub bytes: u64,
}

/// Where an effect comes from.
#[derive(Clone, Copy, Debug)]
pub(super) enum Origin {
    /// A request of the kernel that needed no intent; 0 for none.
    Request(u64),
    /// An intent, by its sequence number.
    Intent(u64),
}

impl Origin {
    pub(super) fn intent(self) -> Option<u64> {
        match self {
            Origin::Intent(seq) => Some(seq),
            Origin::Request(_) => None,
        }
    }
}

impl Replay {
    fn answer(&mut self, seq: u64, unique: u64, op: &Op) {
        if unique != 0 {
            self.answers.push(Answer { seq, unique, op: op.clone() });
        }
    }
}

/// A logged intent without an outcome.
#[derive(Clone, Debug)]
struct Open {
    segment: u64,
    unique: u64,
    op: Op,
    /// Its outcome is in the log, but not yet in the catalog.
    settled: bool,
    /// Nobody is left to settle it but the next start.
    orphan: bool,
}

#[derive(Debug)]
struct Segment {
    number: u64,
    last_effect: u64,
}

/// What the log of a predecessor held.
#[derive(Debug, Default)]
pub(super) struct Replay {
    /// Everything that took effect, in order.
    pub effects: Vec<Effect>,
    /// Largest node identity named.
    pub max_id: u64,
    /// What requests of the kernel came to, oldest first.
    pub answers: Vec<Answer>,
    /// Records were lost, not merely the torn last one.
    pub damaged: bool,
}

/// What a request of the kernel came to: should it be sent again, it is answered from here.
#[derive(Clone, Debug)]
pub(super) struct Answer {
    /// Sequence number of the record that says so.
    pub seq: u64,
    /// The request's number.
    pub unique: u64,
    /// What was done.
    pub op: Op,
}

/// The log, open for appending.
#[derive(Debug)]
pub(super) struct Log {
    dir: PathBuf,
    file: Option<File>,
    len: u64,
    segments: VecDeque<Segment>,
    next_seq: u64,
    open: BTreeMap<u64, Open>,
    /// When this was opened, and the last segment of a predecessor.
    opened: (Instant, u64),
}

impl Log {
    /// Reads what is there and begins a new segment.
    pub(super) fn open(dir: &Path) -> std::io::Result<(Log, Replay)> {
        let mut log = Log {
            dir: dir.to_owned(),
            file: None,
            len: 0,
            segments: VecDeque::new(),
            next_seq: 1,
            open: BTreeMap::new(),
            opened: (Instant::now(), 0),
        };
        let mut replay = Replay::default();
        let numbers = numbers(dir)?;
        for number in &numbers {
            let bytes = std::fs::read(segment_path(dir, *number))?;
            log.segments.push_back(Segment { number: *number, last_effect: 0 });
            let read = log.read_segment(&bytes, *number, &mut replay);
            let rest = usize::try_from(read).ok().and_then(|at| bytes.get(at..));
            replay.damaged |= rest.is_some_and(|rest| !is_torn(rest));
        }
        for open in log.open.values_mut() {
            open.orphan = !open.settled;
        }
        log.drop_empty()?;
        log.opened.1 = log.active();
        log.rotate()?;
        Ok((log, replay))
    }

    /// A daemon that died before it logged anything left an empty segment: not worth the place of
    /// one that is kept.
    fn drop_empty(&mut self) -> std::io::Result<()> {
        while let Some(last) = self.segments.back() {
            let path = segment_path(&self.dir, last.number);
            if std::fs::metadata(&path)?.len() > 0 {
                break;
            }
            std::fs::remove_file(path)?;
            self.segments.pop_back();
        }
        Ok(())
    }

    fn read_segment(&mut self, bytes: &[u8], number: u64, replay: &mut Replay) -> u64 {
        let mut at = 0;
        while let Some((record, next)) = bytes.get(at..).and_then(parse) {
            self.take(record, number, replay, next as u64);
            at += next;
        }
        at as u64
    }

    fn take(&mut self, record: Parsed, segment: u64, replay: &mut Replay, bytes: u64) {
        let Parsed { phase, seq, of, op } = record;
        self.next_seq = self.next_seq.max(seq.saturating_add(1));
        if let Some(op) = &op {
            let ids = super::apply::touched(op).map(|id| id.0);
            replay.max_id = ids.fold(replay.max_id, u64::max);
        }
        let effect = match (phase, op) {
            (Phase::Intent, Some(op)) => {
                // An intent that was carried to a later segment counts there.
                let fresh = Open { segment, unique: of, op, settled: false, orphan: false };
                let settled = self.open.get(&seq).is_some_and(|o| o.settled);
                self.open.insert(seq, Open { settled, ..fresh });
                None
            }
            (Phase::Done, came) => self.open.get_mut(&of).filter(|o| !o.settled).map(|open| {
                open.settled = true;
                let op = came.unwrap_or_else(|| open.op.clone());
                replay.answer(seq, open.unique, &op);
                Effect { seq, intent: Some(of), op, bytes }
            }),
            (Phase::Failed, _) => {
                self.open.remove(&of);
                None
            }
            (Phase::Record, Some(op)) => {
                replay.answer(seq, of, &op);
                Some(Effect { seq, intent: None, op, bytes })
            }
            (Phase::Intent | Phase::Record, None) => None,
        };
        if let Some(effect) = effect {
            if let Some(last) = self.segments.back_mut() {
                last.last_effect = seq;
            }
            replay.effects.push(effect);
        }
    }

    /// The number the next record gets at least.
    pub(super) fn raise_seq(&mut self, above: u64) {
        self.next_seq = self.next_seq.max(above.saturating_add(1));
    }

    /// The last number given.
    pub(super) fn last_seq(&self) -> u64 {
        self.next_seq.saturating_sub(1)
    }

    /// Logs an intent: its sequence number, and whether it is in the file.
    pub(super) fn intend(
        &mut self,
        unique: u64,
        op: &Op,
        json: &[u8],
    ) -> (u64, std::io::Result<()>) {
        let (seq, written) = self.append(Phase::Intent, unique, json);
        if written.is_ok() {
            let segment = self.active();
            let open = Open { segment, unique, op: op.clone(), settled: false, orphan: false };
            self.open.insert(seq, open);
        }
        (seq, written)
    }

    /// Logs that an operation took effect.
    pub(super) fn effect(&mut self, of: Origin, json: &[u8]) -> (u64, std::io::Result<()>) {
        let (phase, reference) = match of {
            Origin::Request(unique) => (Phase::Record, unique),
            Origin::Intent(seq) => (Phase::Done, seq),
        };
        let (seq, written) = self.append(phase, reference, json);
        if let Some(last) = self.segments.back_mut() {
            last.last_effect = seq;
        }
        if let Some(open) = of.intent().and_then(|seq| self.open.get_mut(&seq)) {
            open.settled = true;
        }
        (seq, written)
    }

    /// Logs that an intent was refused.
    pub(super) fn failed(&mut self, intent: u64) -> std::io::Result<()> {
        self.open.remove(&intent);
        self.append(Phase::Failed, intent, &[]).1
    }

    /// Nobody will settle this intent any more.
    pub(super) fn orphan(&mut self, intent: u64) {
        if let Some(open) = self.open.get_mut(&intent) {
            open.orphan = !open.settled;
        }
    }

    /// Intents that only a look at the lower directory can settle.
    pub(super) fn undecided(&self) -> Vec<(u64, u64, Op)> {
        let orphans = self.open.iter().filter(|(_, o)| o.orphan && !o.settled);
        orphans.map(|(seq, o)| (*seq, o.unique, o.op.clone())).collect()
    }

    /// The request number and operation of an intent that is undecided.
    pub(super) fn undecided_op(&self, intent: u64) -> Option<(u64, Op)> {
        let open = self.open.get(&intent).filter(|o| o.orphan && !o.settled);
        open.map(|o| (o.unique, o.op.clone()))
    }

    /// The effects of these intents are in the catalog.
    pub(super) fn committed_intents(&mut self, intents: impl Iterator<Item = u64>) {
        for intent in intents {
            self.open.remove(&intent);
        }
    }

    /// Bytes in the active segment.
    pub(super) fn active_len(&self) -> u64 {
        self.len
    }

    /// Begins a new segment.
    pub(super) fn rotate(&mut self) -> std::io::Result<()> {
        let number = self.active() + 1;
        let path = segment_path(&self.dir, number);
        let file = OpenOptions::new().append(true).create_new(true).mode(0o600).open(path)?;
        self.file = Some(file);
        self.len = 0;
        self.segments.push_back(Segment { number, last_effect: 0 });
        faults::point("log.after_rotation");
        Ok(())
    }

    /// Takes out the segments that are not needed once everything up to `committed` is in the
    /// catalog; the caller removes the files. Intents still open in them are written anew. The
    /// last stays, and those of predecessors for a while: a request that was done but not answered may be sent to the next daemon.
    pub(super) fn retire(&mut self, committed: u64) -> Vec<PathBuf> {
        let mut paths = Vec::new();
        while self.segments.len() > SEGMENTS_KEPT {
            let Some(front) = self.segments.front() else { break };
            let number = front.number;
            let (opened, last_before) = self.opened;
            if number <= last_before && opened.elapsed() < KEPT_AFTER_START {
                break;
            }
            if front.last_effect > committed || self.waiting_in(number) || !self.carry(number) {
                break;
            }
            self.segments.pop_front();
            paths.push(segment_path(&self.dir, number));
        }
        paths
    }

    /// Whether the segment has an intent whose effect is not yet in the catalog.
    fn waiting_in(&self, number: u64) -> bool {
        self.open.values().any(|o| o.segment == number && o.settled)
    }

    fn carry(&mut self, number: u64) -> bool {
        let here = |o: &Open| o.segment == number;
        let open: Vec<(u64, Open)> =
            self.open.iter().filter(|(_, o)| here(o)).map(|(s, o)| (*s, o.clone())).collect();
        for (seq, intent) in open {
            let Ok(json) = serde_json::to_vec(&intent.op) else { return false };
            if self.write(&frame(Phase::Intent, seq, intent.unique, &json)).is_err() {
                return false;
            }
            let segment = self.active();
            self.open.entry(seq).and_modify(|o| o.segment = segment);
        }
        true
    }

    fn active(&self) -> u64 {
        self.segments.back().map_or(0, |s| s.number)
    }

    fn append(&mut self, phase: Phase, of: u64, json: &[u8]) -> (u64, std::io::Result<()>) {
        let seq = self.next_seq;
        self.next_seq = seq.saturating_add(1);
        let record = frame(phase, seq, of, json);
        (seq, self.write(&record))
    }

    fn write(&mut self, record: &[u8]) -> std::io::Result<()> {
        let Some(file) = &mut self.file else { return Err(std::io::ErrorKind::NotFound.into()) };
        let written = match file.write(record) {
            Ok(n) if n == record.len() => {
                self.len += n as u64;
                return Ok(());
            }
            Ok(_) => Err(std::io::ErrorKind::StorageFull.into()),
            Err(error) => Err(error),
        };
        // Half a record would hide those after it from the next start.
        if file.set_len(self.len).is_err() {
            self.file = None;
            let _retried_with_the_next_record = self.rotate();
        }
        written
    }
}

struct Parsed {
    phase: Phase,
    seq: u64,
    of: u64,
    op: Option<Op>,
}

fn frame(phase: Phase, seq: u64, of: u64, json: &[u8]) -> Vec<u8> {
    let mut record = Vec::with_capacity(FRAME + HEAD + json.len());
    record.extend_from_slice(&[0; FRAME]);
    record.extend_from_slice(&[FORMAT, phase as u8]);
    record.extend_from_slice(&seq.to_le_bytes());
    record.extend_from_slice(&of.to_le_bytes());
    record.extend_from_slice(json);
    let (head, body) = record.split_at_mut(FRAME);
    // A record holds two names and some xattrs: far below 4 GiB.
    let len = u32::try_from(body.len()).unwrap_or(u32::MAX).to_le_bytes();
    let sum = crc32(body).to_le_bytes();
    for (to, from) in head.iter_mut().zip(len.into_iter().chain(sum)) {
        *to = from;
    }
    record
}

/// The record at the start of `bytes` and its length; `None` if it is torn or damaged.
fn parse(bytes: &[u8]) -> Option<(Parsed, usize)> {
    let (len, rest) = bytes.split_first_chunk::<4>()?;
    let (sum, rest) = rest.split_first_chunk::<4>()?;
    let len = usize::try_from(u32::from_le_bytes(*len)).ok()?;
    let body = rest.get(..len)?;
    if crc32(body) != u32::from_le_bytes(*sum) {
        return None;
    }
    let ([format, phase], body) = body.split_first_chunk::<2>()?;
    let (seq, body) = body.split_first_chunk::<8>()?;
    let (of, json) = body.split_first_chunk::<8>()?;
    let phase = [Phase::Intent, Phase::Done, Phase::Failed, Phase::Record]
        .into_iter()
        .find(|p| *p as u8 == *phase)?;
    if *format != FORMAT {
        return None;
    }
    let op = (!json.is_empty()).then(|| serde_json::from_slice(json)).transpose().ok()?;
    let (seq, of) = (u64::from_le_bytes(*seq), u64::from_le_bytes(*of));
    Some((Parsed { phase, seq, of, op }, FRAME + len))
}

/// Whether this is the beginning of a record, cut off by the death of its writer.
fn is_torn(rest: &[u8]) -> bool {
    match rest.split_first_chunk::<4>() {
        None => true,
        Some((len, _)) => {
            let len = u64::from(u32::from_le_bytes(*len));
            len <= RECORD_MAX && len.saturating_add(FRAME as u64) > rest.len() as u64
        }
    }
}

fn segment_path(dir: &Path, number: u64) -> PathBuf {
    dir.join(format!("log.{number}"))
}

fn numbers(dir: &Path) -> std::io::Result<Vec<u64>> {
    let mut numbers = Vec::new();
    for entry in std::fs::read_dir(dir)? {
        let name = entry?.file_name();
        let number: Option<u64> =
            name.to_str().and_then(|n| n.strip_prefix("log.")).and_then(|n| n.parse().ok());
        numbers.extend(number);
    }
    numbers.sort_unstable();
    Ok(numbers)
}
