//! Making a catalog anew from the lower directory and what the targets hold (docs/OPERATIONS.md,
//! "When the catalog is lost").
//!
//! **Invariant:** no target is written to, and no byte below is changed; the old catalog is only
//! set aside, when the new one is whole; and what can not be reached is never taken for empty.

mod base;
mod error;
mod history;
mod journals;
mod kept;
mod merge;
mod names;
mod objects;
mod packed;
mod read;
mod tree;

pub use error::{RebuildError, Result};
pub use journals::{Damage, Gap};

use crate::catalog::Identity;
use crate::catalog::rebuild::{Before, PARTIAL, Rebuild};
use crate::clock::{SharedClock, Timestamp};
use crate::codec::seal::Identities;
use crate::lower::Lower;
use crate::recording::NodeId;
use crate::store::{Store, marker};
use base::{Base, Snapshots};
use history::History;
use journals::Journals;
use read::Source;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use tokio::runtime::Handle;
use tree::Tree;

/// What is to be rebuilt.
#[derive(Clone, Debug)]
pub struct Options {
    /// The state directory; no daemon uses it.
    pub state_dir: PathBuf,
    /// The runtime directory, with what is left of the operation log.
    pub runtime_dir: PathBuf,
    /// Name of the archive, as configured.
    pub archive_name: String,
    /// The node whose tree it is; none: the one that the state directory tells of.
    pub node: Option<String>,
    /// Names of the targets to read; none: all.
    pub from: Vec<String>,
    /// Read the journals from their beginning, whatever snapshots there are.
    pub whole_journal: bool,
    /// What opens sealed journals and snapshots, and sealed objects that no journal tells of.
    pub identities: Identities,
    /// What nothing opens is left out, and told of as damage; otherwise nothing is rebuilt.
    pub leave_sealed: bool,
}

/// What it is rebuilt from.
#[derive(Clone, Debug)]
pub struct Parts {
    /// The lower directory; nothing is mounted over it. Opened, and its private directory tidied up,
    /// when it is sure that no daemon runs.
    pub lower: PathBuf,
    /// All targets, in the order of the configuration.
    pub stores: Vec<Arc<dyn Store>>,
    /// Where requests run.
    pub runtime: Handle,
    /// Source of time.
    pub clock: SharedClock,
}

/// What came of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Whose tree it is.
    pub node: String,
    /// The epoch that was begun.
    pub epoch: u64,
    /// Targets that were read.
    pub targets: Vec<String>,
    /// Where the old catalog is now.
    pub set_aside: Option<PathBuf>,
    /// The snapshot that it began with.
    pub snapshot: Option<String>,
    /// Snapshots that could not be used: address and reason.
    pub bad_snapshots: Vec<(String, String)>,
    /// Journal segments that were read.
    pub segments: usize,
    /// Rows in them.
    pub rows: usize,
    /// Objects that were listed.
    pub objects: usize,
    /// Requests that were sent to targets.
    pub requests: u64,
    /// Recordings that are archived and local. They are hashed again before they count as such.
    pub local: u64,
    /// Recordings that are released.
    pub released: u64,
    /// Recordings that were deleted, and whose objects are known.
    pub deleted: u64,
    /// Legal holds that are on.
    pub holds: u64,
    /// Local files that no target holds, as far as is known: adopted when it is mounted.
    pub unarchived: u64,
    /// Directories that were made below.
    pub directories: Vec<PathBuf>,
    /// Recordings of which only their objects tell: owner, mode and name are guessed.
    pub found: Vec<PathBuf>,
    /// Recordings that got another name, because something else has theirs: the name wanted, and
    /// the one they have.
    pub renamed: Vec<(PathBuf, PathBuf)>,
    /// Released recordings of which no target that was read has a whole object.
    pub lost: Vec<PathBuf>,
    /// Objects of targets that were not read: they count when they were proved.
    pub unproved: usize,
    /// Objects that are gone or have another length: target and key.
    pub missing: Vec<(String, String)>,
    /// Objects that nobody knows: address and reason.
    pub unknown: Vec<(String, String)>,
    /// Rows of the journal that no target has.
    pub gaps: Vec<Gap>,
    /// Places in segments that could not be used.
    pub damage: Vec<Damage>,
    /// What could not be looked at below.
    pub left_out: Vec<(PathBuf, String)>,
}

impl Report {
    /// Whether everything could be told.
    pub fn is_complete(&self) -> bool {
        self.lost.is_empty()
            && self.gaps.is_empty()
            && self.damage.is_empty()
            && self.unknown.is_empty()
            && self.missing.is_empty()
            && self.left_out.is_empty()
    }
}

/// Rebuilds the catalog. `progress` is told in sentences how far it has come. Blocks; not to be
/// called from a task.
///
/// # Errors
/// A target that is to be read can not be, a daemon runs, or nothing tells whose tree it is; the
/// old catalog is then as it was.
pub fn run(options: &Options, parts: &Parts, progress: &(dyn Fn(&str) + Sync)) -> Result<Report> {
    let requests = Arc::new(AtomicU64::new(0));
    let sources = sources(options, parts, &requests)?;
    let mut catalog =
        Rebuild::begin(&options.state_dir, &options.runtime_dir, parts.clock.clone())?;
    let lower = Lower::open(&parts.lower)?;
    let mut report = Report {
        targets: sources.iter().map(|s| s.name().to_owned()).collect(),
        ..Report::default()
    };
    let before = catalog.before().clone();
    let whose = parts.runtime.block_on(whose(options, &before, &sources))?;
    let node = whose.identity.node.clone();
    progress(&format!("the tree of node {node:?} is made anew"));
    let names = parts.runtime.block_on(names::learn(&sources, &node, &options.state_dir))?;
    let mut known = parts.runtime.block_on(base::list(&sources, &node, parts.clock.now()))?;
    known.unread = options.whole_journal;
    let meanwhile = options.state_dir.as_path();
    let told = told(&sources, (&lower, meanwhile), &whose.identity, &mut known, progress);
    let Told { heard, mut history, snapshot } = parts.runtime.block_on(told)?;
    report.snapshot = snapshot;
    let mut tree = Tree::read(&lower, catalog.first_id(), meanwhile)?;
    progress(&format!("{} files are local", tree.looked_at));
    let local = |id: NodeId| tree.has(id);
    let compared = objects::compare(&sources, &node, &mut history, &local, progress);
    let findings = parts.runtime.block_on(compared)?;
    report.segments = heard.segments;
    report.rows = heard.rows;
    report.gaps = heard.gaps;
    catalog.follow(heard.last_seq)?;
    let merged = merge::Merge {
        lower: &lower,
        tree: &mut tree,
        history: &mut history,
        findings: &findings,
        report: &mut report,
        now: parts.clock.now(),
        lags_since: heard.lags_since,
        to: &mut catalog,
    };
    let merged = merged.run()?;
    let objects = history.kept.objects()?;
    let unread = objects.into_iter().filter(|(target, _)| !findings.read.contains(target));
    report.unproved = unread.map(|(_, count)| count).sum();
    progress(&format!("{} recordings and directories are written", merged.nodes));
    catalog.tell(&merged.tell)?;
    for (id, told) in &history.holds {
        let (hold, held) = told.hold(*id);
        report.holds += u64::from(hold.lifted.is_none());
        catalog.add_hold(&hold, &held)?;
    }
    catalog.add_pins(&history.pins.iter().copied().collect::<Vec<_>>())?;
    let epoch = whose.identity.epoch.max(heard.epoch).max(known.epoch).saturating_add(1);
    let identity = Identity { epoch, ..whose.identity };
    let unread = sources.len() < parts.stores.len();
    let settings = settings(whose.settings, known.settings, &before, unread);
    names::keep(names.as_ref(), &options.state_dir)?;
    report.set_aside = catalog.finish(&identity, &settings)?;
    report.bad_snapshots = known.set_aside;
    report.node = node;
    report.epoch = epoch;
    report.objects = findings.listed;
    report.requests = requests.load(Ordering::Relaxed);
    report.damage = heard.damage;
    report.missing = findings.gone.into_iter().chain(findings.changed).collect();
    report.missing.sort_unstable();
    report.unknown = findings.unknown;
    report.left_out = std::mem::take(&mut tree.left_out);
    report.directories = std::mem::take(&mut tree.made);
    Ok(report)
}

/// What the targets tell.
struct Told {
    heard: Heard,
    history: History,
    /// The snapshot that it begins with.
    snapshot: Option<String>,
}

/// What is to be said of the journals when their rows were taken.
struct Heard {
    rows: usize,
    segments: usize,
    damage: Vec<Damage>,
    gaps: Vec<Gap>,
    last_seq: u64,
    epoch: u64,
    lags_since: Option<Timestamp>,
}

impl Heard {
    /// Takes the rows; they are not needed any more then.
    fn take(journals: Journals, history: &mut History) -> Result<Heard> {
        journals.in_order(|epoch, told| history.apply(epoch, told))?;
        Ok(Heard {
            rows: journals.rows()?,
            gaps: journals.gaps()?,
            last_seq: journals.last_seq()?,
            segments: journals.segments,
            epoch: journals.epoch,
            lags_since: journals.lags_since,
            damage: journals.damage,
        })
    }
}

/// What is told: by the newest snapshot that is whole and the journals after it, else by the
/// journals alone.
async fn told(
    sources: &[Source],
    (lower, meanwhile): (&Lower, &Path),
    identity: &Identity,
    known: &mut Snapshots,
    progress: &(dyn Fn(&str) + Sync),
) -> Result<Told> {
    let node = &identity.node;
    let base = known.newest(lower, identity, meanwhile).await?;
    for (url, reason) in &known.set_aside {
        progress(&format!("{url} is set aside: {reason}"));
    }
    if let Some(Base { url, header, mut history }) = base {
        progress(&format!("{url} tells of {} recordings", history.kept.count()?.0));
        match journals::journals(sources, node, Some(&header), meanwhile, progress).await? {
            Ok(journals) => {
                let heard = Heard::take(journals, &mut history)?;
                return Ok(Told { heard, history, snapshot: Some(url) });
            }
            Err(journals::Repeated) => {
                let reason = "a later epoch repeats journal rows that it holds";
                progress(&format!("{url} is set aside: {reason}"));
                known.set_aside.push((url, reason.into()));
            }
        }
    }
    let journals = journals::journals(sources, node, None, meanwhile, progress).await?;
    // Without a snapshot nothing can repeat what is in it.
    let journals = journals.map_err(|_| RebuildError::Panic("rows are repeated".into()))?;
    let mut history = History::begin(meanwhile)?;
    let heard = Heard::take(journals, &mut history)?;
    Ok(Told { heard, history, snapshot: None })
}

/// The settings of the new catalog.
fn settings(
    mut all: Vec<(String, String)>,
    snapshots: Vec<(String, String)>,
    before: &Before,
    unread: bool,
) -> Vec<(String, String)> {
    let is_known = |key: &str| snapshots.iter().any(|(known, _)| known == key);
    let others = before.settings.iter().filter(|(key, _)| key.starts_with("snapshot."));
    all.extend(others.filter(|(key, _)| !is_known(key)).cloned());
    all.extend(snapshots);
    if unread {
        all.push((PARTIAL.to_owned(), "1".to_owned()));
    }
    all
}

fn sources(options: &Options, parts: &Parts, requests: &Arc<AtomicU64>) -> Result<Vec<Source>> {
    let known = |name: &String| parts.stores.iter().any(|s| s.name() == name);
    if let Some(unknown) = options.from.iter().find(|name| !known(name)) {
        return Err(RebuildError::UnknownTarget(unknown.clone()));
    }
    let wanted = |s: &&Arc<dyn Store>| {
        options.from.is_empty() || options.from.iter().any(|name| name == s.name())
    };
    let source = |store: &Arc<dyn Store>| Source {
        store: Arc::clone(store),
        identities: options.identities.clone(),
        names: Identities::none("no target has its name key"),
        leave_sealed: options.leave_sealed,
        requests: Arc::clone(requests),
    };
    let sources: Vec<Source> = parts.stores.iter().filter(wanted).map(source).collect();
    if sources.is_empty() { Err(RebuildError::NoTarget) } else { Ok(sources) }
}

/// Whose catalog it is going to be.
struct Whose {
    identity: Identity,
    settings: Vec<(String, String)>,
}

/// Makes sure that every target holds the archive that is meant, and finds out who we are in it.
async fn whose(options: &Options, before: &Before, sources: &[Source]) -> Result<Whose> {
    let setting = |name: &str| format!("target.{name}.archive");
    let mut settings: Vec<(String, String)> =
        before.settings.iter().filter(|(key, _)| key.starts_with("target.")).cloned().collect();
    for source in sources {
        let key = setting(source.name());
        let expected = settings.iter().find(|(k, _)| *k == key).map(|(_, v)| v.clone());
        source.requests.fetch_add(1, Ordering::Relaxed);
        let store = &*source.store;
        let look = marker::look(store, expected.as_deref(), &options.archive_name);
        let archive = look.await.map_err(|e| unreachable(source, e))?;
        let archive = archive.ok_or_else(|| RebuildError::NoArchive {
            target: source.name().to_owned(),
            url: store.url(&format!("{}{}", store.prefix(), marker::ARCHIVE_KEY)),
        })?;
        settings.retain(|(k, _)| *k != key);
        settings.push((key, archive));
    }
    let identity = identity(options, before, sources).await?;
    Ok(Whose { identity, settings })
}

async fn identity(options: &Options, before: &Before, sources: &[Source]) -> Result<Identity> {
    if let (Some(found), Some(wanted)) = (&before.identity, &options.node)
        && found.node != *wanted
    {
        let (found, wanted) = (found.node.clone(), wanted.clone());
        return Err(RebuildError::OtherNode { found, wanted });
    }
    let known = before.identity.as_ref().map(|i| i.node.clone());
    let Some(node) = options.node.clone().or(known) else {
        return Err(RebuildError::WhichNode(who_is_there(sources).await?));
    };
    let mut instance = None;
    for source in sources {
        source.requests.fetch_add(1, Ordering::Relaxed);
        let found = marker::instance_of(&*source.store, &node).await;
        let Some(found) = found.map_err(|e| unreachable(source, e))? else { continue };
        let ours = before.identity.as_ref().is_some_and(|i| i.instance == found);
        let other = instance.as_ref().is_some_and(|i| *i != found);
        if other || (!ours && options.node.is_none()) {
            let target = source.name().to_owned();
            return Err(RebuildError::NodeTaken { target, node });
        }
        instance = Some(found);
    }
    let epoch = before.identity.as_ref().map_or(0, |i| i.epoch);
    match instance.or_else(|| before.identity.as_ref().map(|i| i.instance.clone())) {
        Some(instance) => Ok(Identity { node, instance, epoch }),
        None => {
            let known = who_is_there(sources).await?;
            Err(RebuildError::UnknownNode { node, known })
        }
    }
}

async fn who_is_there(sources: &[Source]) -> Result<String> {
    let mut names = Vec::new();
    for source in sources {
        let found = marker::nodes(&*source.store).await.map_err(|e| unreachable(source, e))?;
        names.extend(found.into_iter().map(|name| format!("{name:?}")));
    }
    names.sort_unstable();
    names.dedup();
    Ok(if names.is_empty() { "none".to_owned() } else { names.join(", ") })
}

fn unreachable(source: &Source, error: marker::AttachError) -> RebuildError {
    match error {
        marker::AttachError::Store(error) => {
            let target = source.name().to_owned();
            RebuildError::Target { target, error: error.to_string() }
        }
        other => other.into(),
    }
}

/// Names below, as paths.
fn path(bytes: &[u8]) -> PathBuf {
    use std::os::unix::ffi::OsStrExt;
    Path::new(std::ffi::OsStr::from_bytes(bytes)).to_owned()
}
