//! The journal of a target against the catalog: what is archived is told there, without a gap.

use super::targets::list;
use super::{Findings, Result, Severity};
use crate::catalog::Snapshot;
use crate::codec::seal::Identities;
use crate::recording::{Generation, NodeId};
use crate::store::journal::{self, Fetched, Segment};
use crate::store::{Store, StoreErrorKind};
use serde::Deserialize;
use std::collections::HashSet;

/// What a line begins with; further fields are passed over.
#[derive(Deserialize)]
struct Line {
    seq: u64,
    kind: String,
    id: Option<u64>,
    generation: Option<u32>,
}

/// What the segments say.
#[derive(Default)]
struct Told {
    archived: HashSet<(NodeId, Generation)>,
    /// The last segment of the present epoch, and its last row.
    last: (u64, u64),
    /// Segments that are sealed, and why they can not be opened.
    locked: Option<(u64, String)>,
}

impl Told {
    fn line(&mut self, text: &str) -> Option<u64> {
        let line: Line = serde_json::from_str(text).ok()?;
        if line.kind == "archived"
            && let (Some(id), Some(generation)) = (line.id, line.generation)
        {
            self.archived.insert((NodeId(id), Generation(generation)));
        }
        Some(line.seq)
    }
}

/// Checks the segments of this machine in a target.
pub(super) async fn check(
    snapshot: &Snapshot,
    store: &dyn Store,
    identities: &Identities,
    findings: &mut Findings,
) -> Result<()> {
    let Some(mut told) = segments(snapshot, store, identities, findings).await? else {
        return Ok(());
    };
    let (seq, segment) = snapshot.journal_mark(store.name())?;
    let place = store.url(&journal::directory(store.prefix(), &snapshot.identity().node));
    if told.last.0 > segment || told.last.1 > seq {
        findings.add(
            (Severity::Pending, 43),
            &place,
            format!("segments up to {segment}, row {seq}"),
            format!("segment {}, row {}", told.last.0, told.last.1),
            "start spoolfs: it counts what a daemon that died had shipped",
        );
    } else if told.last.0 < segment {
        findings.add(
            (Severity::Damage, 42),
            &place,
            format!("segments up to {segment}"),
            format!("segments up to {}", told.last.0),
            "bring the segments back from a version or a copy of the bucket: without them a lost \
             catalog can not be rebuilt from this target alone",
        );
    }
    if let Some((count, why)) = told.locked {
        findings.add(
            (Severity::Note, 47),
            &place,
            "a secret key for its sealed segments",
            format!("{count} that can not be opened here: {why}"),
            "nothing is wrong; check where the key is, or with it in `identity_file`, whether they \
             tell of all that is archived",
        );
        return Ok(());
    }
    for row in snapshot.journal()?.iter().filter(|row| row.seq > seq) {
        told.line(&row.line);
    }
    for (id, generation) in snapshot.archived(store.name())? {
        if !told.archived.contains(&(id, generation)) {
            let path = snapshot.node(id)?.and_then(|(_, path)| path).unwrap_or_default();
            findings.add(
                (Severity::Wrong, 44),
                path.display().to_string(),
                format!("generation {} told in the journal of {}", generation.0, store.name()),
                "no line of it",
                "a lost catalog would be rebuilt without it from this target's journal; the \
                 object's own metadata still tells of it",
            );
        }
    }
    Ok(())
}

/// Reads all segments; `None` if the target did not answer.
async fn segments(
    snapshot: &Snapshot,
    store: &dyn Store,
    identities: &Identities,
    findings: &mut Findings,
) -> Result<Option<Told>> {
    let identity = snapshot.identity();
    let directory = journal::directory(store.prefix(), &identity.node);
    let listed = match list(store, &directory).await {
        Ok(listed) => listed,
        Err(error) => {
            let cure = "check again when the target answers; its journal was not checked";
            let place = store.url(&directory);
            findings.add((Severity::Wrong, 30), place, "an answer", error.to_string(), cure);
            return Ok(None);
        }
    };
    let mut numbers: Vec<(u64, u64, String)> = listed
        .into_keys()
        .filter_map(|key| journal::parse_key(&key).map(|(epoch, number)| (epoch, number, key)))
        .collect();
    numbers.sort();
    let mut told = Told::default();
    let mut before: Option<Before> = None;
    for (epoch, number, key) in numbers {
        let previous = before.filter(|before| before.epoch == epoch);
        let due = previous.map_or(1, |before| before.number.saturating_add(1));
        if number != due {
            findings.add(
                (Severity::Damage, 41),
                store.url(&key),
                format!("segment {due} of epoch {epoch} before it"),
                format!("segment {number}"),
                "bring the missing segments back from a version or a copy of the bucket",
            );
        }
        findings.looked.segments += 1;
        let last = match journal::fetch(store, &key, identities).await {
            Ok(Fetched::Locked(why, _)) => {
                let count = told.locked.map_or(0, |(count, _)| count);
                told.locked = Some((count + 1, why.to_string()));
                None
            }
            Ok(Fetched::Segment(segment)) if segment.header.instance != identity.instance => {
                findings.add(
                    (Severity::Wrong, 45),
                    store.url(&key),
                    format!("a segment of instance {}", identity.instance),
                    format!("one of instance {}", segment.header.instance),
                    "two machines use the same node name: give each its own `node`",
                );
                Some(segment.header.last)
            }
            Ok(Fetched::Segment(segment)) => {
                // What follows one that is missing or can not be read begins where it says.
                let last = previous.filter(|_| number == due).and_then(|before| before.last);
                Some(read(&segment, last, &store.url(&key), &mut told, findings))
            }
            Err(error) => {
                use StoreErrorKind::{Locked, Unreachable};
                let reached = !matches!(error.kind, Locked | Unreachable);
                let what = if reached { (Severity::Damage, 40) } else { (Severity::Wrong, 30) };
                findings.add(
                    what,
                    store.url(&key),
                    "a segment that can be read",
                    error.to_string(),
                    "bring the segment back from a version or a copy of the bucket",
                );
                None
            }
        };
        before = Some(Before { epoch, number, last });
        if epoch == identity.epoch {
            told.last = (number, last.unwrap_or(told.last.1));
        }
    }
    Ok(Some(told))
}

/// The segment before.
#[derive(Clone, Copy)]
struct Before {
    epoch: u64,
    number: u64,
    /// Its last row, if it could be read.
    last: Option<u64>,
}

/// Its last row; each follows the one before, also over the borders of segments.
fn read(
    segment: &Segment,
    mut last: Option<u64>,
    place: &str,
    told: &mut Told,
    findings: &mut Findings,
) -> u64 {
    for line in &segment.lines {
        let seq = told.line(line);
        let due = last.map_or(segment.header.first, |last| last.saturating_add(1));
        if seq != Some(due) {
            let seq = seq.map_or_else(|| "a line without one".to_owned(), |seq| seq.to_string());
            findings.add(
                (Severity::Damage, 42),
                place,
                format!("row {due}"),
                format!("row {seq}"),
                "rows were given up because the target was away for long, or are lost: a lost \
                 catalog can not be rebuilt from this target alone",
            );
        }
        last = seq.or(Some(due));
    }
    last.unwrap_or(segment.header.last)
}
