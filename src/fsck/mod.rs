//! One checker over lower directory, operation log, catalog, journal and targets, for operators
//! and tests (docs/FSCK.md).
//!
//! **Invariant:** looking changes nothing; repairs follow from the rest without judgement, and no
//! byte of a recording is removed but by the lower directory's own rules.

mod journal;
mod names;
mod repair;
mod snapshots;
mod targets;
mod tree;

use crate::catalog::{self, CatalogError, Op, Snapshot, Unreadable};
use crate::codec::seal::Identities;
use crate::limits;
use crate::lower::{Inspection, LowerError};
use crate::recording::NodeId;
use crate::store::Store;
use serde::Serialize;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// How bad a finding is, the worst first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// Bytes that were promised may be lost, or can not be told to be there.
    Damage,
    /// Two places disagree, and somebody has to decide.
    Wrong,
    /// The next start settles it by itself.
    Pending,
    /// Harmless, but somebody may want to know. Does not count.
    Note,
}

impl Severity {
    /// The word for it.
    pub fn word(self) -> &'static str {
        match self {
            Severity::Damage => "damage",
            Severity::Wrong => "wrong",
            Severity::Pending => "pending",
            Severity::Note => "note",
        }
    }
}

/// What `--repair` can do about a finding.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Cure {
    /// Count and mirror anew in the catalog.
    Mend,
    /// The recording is released, once the targets have proved that they have it.
    Released(NodeId),
    /// Leftovers in the private directory go.
    Leftovers,
    /// The target with this number is given the name key by the next start.
    NameKey(usize),
}

/// One rule of docs/FSCK.md that does not hold somewhere.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Finding {
    /// How bad it is.
    pub severity: Severity,
    /// The rule's number.
    pub rule: u32,
    /// Where: a path below the mount, a key, a row.
    pub place: String,
    /// What should be there.
    pub expected: String,
    /// What is there.
    pub found: String,
    /// What to do.
    pub cure: String,
    #[serde(skip)]
    repair: Option<Cure>,
}

impl Finding {
    /// Whether `--repair` can do something about it.
    pub fn is_repairable(&self) -> bool {
        self.repair.is_some()
    }
}

/// What was looked at.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Looked {
    /// Names in the catalog.
    pub names: u64,
    /// Objects of targets.
    pub objects: u64,
    /// Journal segments.
    pub segments: u64,
    /// Bytes read and hashed.
    pub bytes_hashed: u64,
}

/// The outcome.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Report {
    /// Nothing is left but notes.
    pub clean: bool,
    /// What does not hold, the worst first; always in the same order.
    pub findings: Vec<Finding>,
    /// What did not hold and was repaired.
    pub repaired: Vec<Finding>,
    /// What was looked at.
    pub looked: Looked,
}

/// What is to be checked.
#[derive(Debug)]
pub struct Options {
    /// The catalog.
    pub catalog: catalog::Options,
    /// The lower directory; nothing is mounted over it.
    pub lower: PathBuf,
    /// The targets, and whether each is required.
    pub targets: Vec<(Arc<dyn Store>, bool)>,
    /// Rules name targets of their own: a required one need not hold every recording.
    pub by_rule: bool,
    /// What opens sealed journals.
    pub identities: Identities,
    /// Read and hash everything.
    pub deep: bool,
    /// Repair what can be.
    pub repair: bool,
}

/// Why it could not be looked at all.
#[derive(Debug, thiserror::Error)]
pub enum FsckError {
    /// The catalog.
    #[error(transparent)]
    Catalog(#[from] CatalogError),
    /// The lower directory.
    #[error(transparent)]
    Lower(#[from] LowerError),
}

/// Result of a check.
pub type Result<T> = std::result::Result<T, FsckError>;

/// Checks everything, and repairs if that is wanted. No daemon may run.
///
/// # Errors
/// If a daemon runs, or catalog or lower directory can not be read.
pub async fn run(options: &Options) -> Result<Report> {
    let before = look(options).await?;
    if !options.repair || !before.findings.iter().any(Finding::is_repairable) {
        return Ok(before);
    }
    repair::all(options, &before.findings).await?;
    let mut after = look(options).await?;
    after.repaired = before
        .findings
        .into_iter()
        .filter(|f| !after.findings.iter().any(|g| same(f, g)))
        .collect();
    Ok(after)
}

fn same(a: &Finding, b: &Finding) -> bool {
    a.rule == b.rule && a.place == b.place && a.severity == b.severity
}

/// Everything found so far.
#[derive(Debug, Default)]
struct Findings {
    all: Vec<Finding>,
    looked: Looked,
}

impl Findings {
    fn add(
        &mut self,
        (severity, rule): (Severity, u32),
        place: impl Into<String>,
        expected: impl Into<String>,
        found: impl Into<String>,
        cure: impl Into<String>,
    ) {
        self.all.push(Finding {
            severity,
            rule,
            place: place.into(),
            expected: expected.into(),
            found: found.into(),
            cure: cure.into(),
            repair: None,
        });
    }

    /// What `--repair` can do about the last one.
    fn repairable(&mut self, by: Option<Cure>) {
        if let Some(last) = self.all.last_mut() {
            last.repair = by;
        }
    }

    fn report(mut self) -> Report {
        self.all.sort();
        self.all.dedup();
        let clean = self.all.iter().all(|f| f.severity == Severity::Note);
        Report { clean, findings: self.all, repaired: Vec::new(), looked: self.looked }
    }
}

async fn look(options: &Options) -> Result<Report> {
    let mut findings = Findings::default();
    let lower = Inspection::open(&options.lower)?;
    let snapshot = match Snapshot::take(&options.catalog)? {
        Ok(snapshot) => snapshot,
        Err(why) => {
            unreadable(&why, &options.catalog.state_dir, &mut findings);
            return Ok(findings.report());
        }
    };
    log(&snapshot, &mut findings);
    rules(&snapshot, &mut findings)?;
    tree::check(&snapshot, &lower, options.deep, &mut findings)?;
    for (number, (store, _)) in options.targets.iter().enumerate() {
        if targets::is_ours(&snapshot, &**store, &mut findings).await? {
            targets::check(&snapshot, &**store, options.deep, &mut findings).await?;
            journal::check(&snapshot, &**store, &options.identities, &mut findings).await?;
            snapshots::check(&snapshot, &**store, options.deep, &mut findings).await?;
            names::check(&snapshot, &**store, number, options, &mut findings).await?;
        }
    }
    Ok(findings.report())
}

fn unreadable(why: &Unreadable, state: &Path, findings: &mut Findings) {
    let place = state.join("catalog.db").display().to_string();
    let found = match why {
        Unreadable::Missing => "nothing".to_owned(),
        Unreadable::Damaged(said) => format!("SQLite says: {}", said.join("; ")),
    };
    let cure = "keep a copy of this file, and run spoolfs rebuild: it makes the catalog anew from the \
                lower directory and the targets; a start alone keeps what can be read, and does not \
                ask the targets for the rest";
    findings.add((Severity::Damage, 1), place, "a sound database", found, cure);
}

fn log(snapshot: &Snapshot, findings: &mut Findings) {
    let next = "start spoolfs: it looks at the lower directory and settles it";
    if snapshot.in_doubt() {
        findings.add(
            (Severity::Pending, 3),
            "operation log",
            "every record whole, and the catalog that was here last",
            "records are lost, or the catalog is another or an older one",
            "start spoolfs: it compares the whole tree",
        );
    }
    for op in snapshot.undecided() {
        let (what, place) = begun(op);
        findings.add(
            (Severity::Pending, 4),
            place,
            "an outcome in the operation log",
            format!("{what} was begun"),
            next,
        );
    }
}

fn begun(op: &Op) -> (&'static str, String) {
    let name = |name: &[u8], parent: &NodeId| {
        format!("{} in directory {parent}", String::from_utf8_lossy(name))
    };
    match op {
        Op::Create { parent, name: n, .. } => ("a creation", name(n, parent)),
        Op::Link { parent, name: n, .. } => ("a link", name(n, parent)),
        Op::Rename { parent, name: n, .. } => ("a rename", name(n, parent)),
        Op::Exchange { a, .. } => ("an exchange", name(&a.2, &a.1)),
        Op::Unlink { parent, name: n, .. } => ("a removal", name(n, parent)),
        Op::Restore { parent, name: n, .. } => ("a restore", name(n, parent)),
        Op::Opened { id }
        | Op::Closed { id, .. }
        | Op::SetAttr { id, .. }
        | Op::SetXattrs { id, .. }
        | Op::Suspect { id, .. } => ("a change", format!("node {id}")),
    }
}

/// The catalog's own rules.
fn rules(snapshot: &Snapshot, findings: &mut Findings) -> Result<()> {
    for broken in snapshot.broken()? {
        let more = if broken.rows.len() < limits::FSCK_ROWS_NAMED { "" } else { ", ..." };
        // What mirrors or counts the rest can be made anew from it.
        let mend = matches!(broken.number, 11 | 18 | 23);
        let cure = match mend {
            true => "repair it",
            false => "keep a copy of the catalog, and report it: no operation leaves it so",
        };
        findings.add(
            (Severity::Wrong, 2),
            format!("catalog rule {}", broken.number),
            broken.name,
            format!("rows {}{more}", broken.rows.join(", ")),
            cure,
        );
        findings.repairable(mend.then_some(Cure::Mend));
    }
    Ok(())
}
