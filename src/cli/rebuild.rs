//! `spoolfs rebuild`.

use super::context::{Common, read_config};
use super::{Exit, mounts, output};
use crate::clock::SystemClock;
use crate::config::{self, Config};
use crate::control::WirePath;
use crate::limits;
use crate::rebuild::{Options, Parts, Report};
use crate::store;
use crate::units::humane_duration;
use serde::Serialize;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

pub(super) const EXAMPLES: &str = "Examples:
  spoolfs rebuild
  spoolfs rebuild --config /etc/spoolfs/voicemail.toml --from second
  spoolfs rebuild --node pbx-1

For when the catalog is lost or not to be trusted. Stop the daemon first. Targets are only read; the
old catalog is set aside beside the new one. Exit status: 0 all is there, as far as can be told; 1 it
failed and nothing was changed, or it was rebuilt and the report names what is lost, missing, damaged
or unknown (`complete` is false).";

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    pub common: Common,
    /// Rebuild the tree of this node, instead of the one that the state directory tells of
    #[arg(long, value_name = "NAME")]
    node: Option<String>,
    /// Read only this target, or these; otherwise all must answer. Objects in the others count when
    /// the scrub or `spoolfs verify` has proved them
    #[arg(long, value_name = "TARGET")]
    from: Vec<String>,
    /// Read the journals from their beginning, and no snapshot
    #[arg(long)]
    whole_journal: bool,
    /// Leave out journal and snapshots that no secret key opens, instead of rebuilding nothing
    #[arg(long)]
    leave_sealed: bool,
}

/// What `--json` prints. Lists are cut at a thousand.
#[derive(Serialize)]
struct Document {
    node: String,
    epoch: u64,
    /// Nothing is missing, as far as can be told.
    complete: bool,
    seconds: f64,
    /// Bytes that it had in memory at most, as far as the kernel tells.
    peak_memory: Option<u64>,
    requests: u64,
    targets: Vec<String>,
    /// The snapshot that it began with.
    snapshot: Option<String>,
    /// Snapshots that could not be used: address and reason.
    bad_snapshots: Vec<(String, String)>,
    segments: usize,
    rows: usize,
    objects: usize,
    unproved_objects: usize,
    local: u64,
    released: u64,
    deleted: u64,
    unarchived: u64,
    /// Legal holds that are on.
    holds: u64,
    set_aside: Option<WirePath>,
    directories_made: Vec<WirePath>,
    found_by_objects: Vec<WirePath>,
    renamed: Vec<(WirePath, WirePath)>,
    lost: Vec<WirePath>,
    missing_objects: Vec<(String, String)>,
    unknown_objects: Vec<(String, String)>,
    gaps: Vec<GapDocument>,
    damage: Vec<DamageDocument>,
    left_out: Vec<(WirePath, String)>,
}

#[derive(Serialize)]
struct GapDocument {
    epoch: u64,
    first: u64,
    last: u64,
}

#[derive(Serialize)]
struct DamageDocument {
    target: String,
    key: String,
    line: usize,
    reason: String,
}

pub(super) fn run(arguments: &Arguments) -> Result<(), Exit> {
    let file = &arguments.common.config;
    let config = read_config(file)?;
    crate::telemetry::start();
    let begin = Instant::now();
    let report = rebuild(arguments, &config)?;
    let took = begin.elapsed();
    if arguments.common.json {
        output::json(&document(&report, took));
    } else {
        output::text(&words(&report, took));
    }
    if report.is_complete() { Ok(()) } else { Err(Exit::Shown) }
}

fn rebuild(arguments: &Arguments, config: &Config) -> Result<Report, Exit> {
    let failed = |e: &dyn std::fmt::Display| Exit::failed(e.to_string());
    // Not by looking at the directory: a mount that a dead daemon left would not answer.
    let mountpoint = config::resolve(&config.mountpoint);
    let mounted = mounts::all().map_err(|e| failed(&e))?;
    if mounts::is_spoolfs(&mounted, &mountpoint) {
        let point = mountpoint.display();
        return Err(Exit::failed(format!("{point} is mounted; stop spoolfs first")));
    }
    crate::daemon::check_ground(config).map_err(|e| failed(&e))?;
    let stores = config.targets.iter().map(|t| store::open(&crate::daemon::target_options(t)));
    let stores = stores.collect::<store::Result<Vec<_>>>().map_err(|e| failed(&e))?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .map_err(|e| failed(&e))?;
    let options = Options {
        state_dir: config.state_dir.clone(),
        runtime_dir: config.runtime_dir.clone(),
        archive_name: config.archive.clone(),
        node: arguments.node.clone(),
        from: arguments.from.clone(),
        whole_journal: arguments.whole_journal,
        identities: crate::daemon::identities(config).map_err(Exit::failed)?,
        leave_sealed: arguments.leave_sealed,
    };
    let parts = Parts {
        lower: config.mountpoint.clone(),
        stores,
        runtime: runtime.handle().clone(),
        clock: Arc::new(SystemClock),
    };
    let progress = |words: &str| output::note(&format!("{words}\n"));
    crate::rebuild::run(&options, &parts, &progress).map_err(|e| failed(&e))
}

fn peak_memory() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib * 1024)
}

fn wire(paths: &[PathBuf]) -> Vec<WirePath> {
    paths.iter().take(limits::REBUILD_NAMED_MAX).cloned().map(WirePath).collect()
}

fn first<T: Clone>(all: &[T]) -> Vec<T> {
    all.iter().take(limits::REBUILD_NAMED_MAX).cloned().collect()
}

fn document(report: &Report, took: Duration) -> Document {
    let pair = |(a, b): &(PathBuf, PathBuf)| (WirePath(a.clone()), WirePath(b.clone()));
    Document {
        node: report.node.clone(),
        epoch: report.epoch,
        complete: report.is_complete(),
        seconds: took.as_secs_f64(),
        peak_memory: peak_memory(),
        requests: report.requests,
        targets: report.targets.clone(),
        snapshot: report.snapshot.clone(),
        bad_snapshots: first(&report.bad_snapshots),
        segments: report.segments,
        rows: report.rows,
        objects: report.objects,
        unproved_objects: report.unproved,
        local: report.local,
        released: report.released,
        deleted: report.deleted,
        unarchived: report.unarchived,
        holds: report.holds,
        set_aside: report.set_aside.clone().map(WirePath),
        directories_made: wire(&report.directories),
        found_by_objects: wire(&report.found),
        renamed: report.renamed.iter().take(limits::REBUILD_NAMED_MAX).map(pair).collect(),
        lost: wire(&report.lost),
        missing_objects: first(&report.missing),
        unknown_objects: first(&report.unknown),
        gaps: first(&report.gaps)
            .into_iter()
            .map(|g| GapDocument { epoch: g.epoch, first: g.first, last: g.last })
            .collect(),
        damage: first(&report.damage)
            .into_iter()
            .map(|d| DamageDocument {
                target: d.target,
                key: d.key,
                line: d.line,
                reason: d.reason,
            })
            .collect(),
        left_out: first(&report.left_out).into_iter().map(|(p, r)| (WirePath(p), r)).collect(),
    }
}

/// Most of each kind that are named to people.
const NAMED: usize = 10;

fn words(report: &Report, took: Duration) -> String {
    let took = humane_duration(Duration::from_secs(took.as_secs().max(1)));
    let mut text = format!(
        "rebuilt the catalog of node {:?} as epoch {} in {took}: {} released, {} archived and local, \
         {} local only, {} deleted\nread {} objects and {} rows of {} journal segments of {} with {} \
         requests\n",
        report.node,
        report.epoch,
        report.released,
        report.local,
        report.unarchived,
        report.deleted,
        report.objects,
        report.rows,
        report.segments,
        report.targets.join(", "),
        report.requests
    );
    if report.holds > 0 {
        text.push_str(&format!("{} legal holds are on again\n", report.holds));
    }
    if let Some(old) = &report.set_aside {
        text.push_str(&format!("the old catalog is {}\n", old.display()));
    }
    if report.unproved > 0 {
        text.push_str(&format!(
            "{} objects are in targets that were not read: they count when the scrub or `spoolfs verify \
             --all` has proved them\n",
            report.unproved
        ));
    }
    if let Some(url) = &report.snapshot {
        text.push_str(&format!("began with the snapshot {url}\n"));
    }
    let bad = report.bad_snapshots.iter().map(|(url, reason)| format!("{url}: {reason}"));
    section(&mut text, "Snapshots set aside; what they tell is in the journal", bad);
    let shown = |p: &PathBuf| p.display().to_string();
    let lost = report.lost.iter().map(shown);
    section(&mut text, "LOST: no target that was read has a whole copy of", lost);
    let gone = report.missing.iter().map(|(target, key)| format!("{target}: {key}"));
    section(&mut text, "MISSING: objects that are gone or have another length", gone);
    let gaps = report.gaps.iter().map(|g| format!("epoch {}, {} to {}", g.epoch, g.first, g.last));
    section(&mut text, "GAPS: journal rows that no target has", gaps);
    let damage = report.damage.iter().map(|d| match d.line {
        0 => format!("{}: {}: {}", d.target, d.key, d.reason),
        line => format!("{}: {}: line {line}: {}", d.target, d.key, d.reason),
    });
    section(&mut text, "DAMAGED journal segments, of which the rest was used", damage);
    let unknown = report.unknown.iter().map(|(url, reason)| format!("{url}: {reason}"));
    section(&mut text, "UNKNOWN objects, left alone", unknown);
    let out = report.left_out.iter().map(|(path, reason)| format!("{}: {reason}", path.display()));
    section(&mut text, "LEFT OUT: what could not be looked at below", out);
    let found = report.found.iter().map(shown);
    section(&mut text, "Told by their objects alone; owner, mode and name are guessed", found);
    let renamed = report.renamed.iter();
    let renamed = renamed.map(|(from, to)| format!("{} is now {}", from.display(), to.display()));
    section(&mut text, "Named otherwise, because another has the name", renamed);
    section(&mut text, "Directories made anew", report.directories.iter().map(shown));
    text
}

fn section(text: &mut String, title: &str, rows: impl ExactSizeIterator<Item = String>) {
    let count = rows.len();
    if count == 0 {
        return;
    }
    text.push_str(&format!("{title} ({count}):\n"));
    rows.take(NAMED).for_each(|row| text.push_str(&format!("  {row}\n")));
    if count > NAMED {
        text.push_str(&format!("  and {} more (`--json` names them)\n", count - NAMED));
    }
}
