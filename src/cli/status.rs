//! `spoolfs status`.

use super::context::Common;
use super::output::{ago, files, table, when};
use super::{Context, Exit, output, path_report};
use crate::clock::Timestamp;
use crate::control::{
    Backlog, DiskPressure, HoldsReport, LinkReport, PathReport, Request, StatusReport,
    TargetReport, UploadsReport, metrics,
};
use crate::units::{humane_duration, humane_size};
use std::path::PathBuf;
use std::time::Duration;

pub(super) const EXAMPLES: &str = "Examples:
  spoolfs status
  spoolfs status /var/spool/asterisk/monitor/2026/11/21/call.wav
  spoolfs status --json | jq .backlog.files
  spoolfs status --prometheus > /var/lib/node_exporter/spoolfs.prom";

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    pub common: Common,
    /// Print metrics in the text format of Prometheus
    #[arg(long, conflicts_with_all = ["path", "json"])]
    prometheus: bool,
    /// One recording instead of the whole
    #[arg(value_name = "PATH")]
    path: Option<PathBuf>,
}

pub(super) fn run(arguments: &Arguments) -> Result<(), Exit> {
    let context = Context::load(&arguments.common)?;
    let Some(path) = &arguments.path else {
        let report: StatusReport = context.ask(&Request::Status { path: None }, "")?;
        if arguments.prometheus {
            let text = metrics::text(&report).map_err(|e| Exit::failed(e.to_string()))?;
            output::text(&text);
        } else if context.json {
            output::json(&report);
        } else {
            output::text(&words(&report));
        }
        return Ok(());
    };
    let path = Some(context.relative(path)?);
    let report: PathReport = context.ask(&Request::Status { path }, "")?;
    if context.json {
        output::json(&report);
    } else {
        output::text(&path_report::all(&context.shown(&report.path), &report));
    }
    Ok(())
}

fn link(link: &LinkReport) -> String {
    let mut text = String::new();
    if let Some(reason) = &link.plain_because {
        text.push_str(&format!("Plain mode: {reason}.\n"));
    }
    if !link.survives.is_empty() {
        text.push_str(&format!("Restart: {}.\n", link.survives));
    }
    if link.faults > 0 {
        text.push_str(&format!(
            "Faults of spoolfs: {}; the log says what failed. Please report them.\n",
            link.faults
        ));
    }
    text
}

fn words(report: &StatusReport) -> String {
    let uptime = humane_duration(Duration::from_secs(report.uptime_seconds));
    let mut text = format!(
        "spoolfs {} on {} as node {}, {} mode, up {uptime}, pid {}\n\n",
        report.version, report.mountpoint, report.node, report.mode, report.pid
    );
    let mut rows = vec![vec![String::new(), "files".to_owned(), "bytes".to_owned()]];
    rows.extend(
        report
            .states
            .iter()
            .map(|s| vec![s.state.to_string(), s.files.to_string(), humane_size(s.bytes)]),
    );
    text.push_str(&table(&rows));
    text.push('\n');
    text.push_str(&link(&report.link));
    text.push_str(&troubles(report));
    // That there is none is said at the end.
    if !report.targets.is_empty() {
        text.push_str("Targets:\n");
    }
    for target in &report.targets {
        text.push_str(&target_line(target));
    }
    text.push_str(&format!(
        "Cache: {} of {}\nDisk: {} free of {}, {}% used\n\n{}\n",
        humane_size(report.cache.used),
        humane_size(report.cache.max),
        humane_size(report.disk.free),
        humane_size(report.disk.size),
        report.disk.used_percent,
        report.next_recording
    ));
    text
}

/// What waits, and what is wrong.
fn troubles(report: &StatusReport) -> String {
    let backlog = &report.backlog;
    let mut text =
        format!("Waiting to be archived: {}, {}", files(backlog.files), humane_size(backlog.bytes));
    if let Some(oldest) = &backlog.oldest {
        text.push_str(&format!("; the oldest, {}, was closed {}", oldest.path, ago(oldest.since)));
    }
    text.push('\n');
    text.push_str(&drain(backlog));
    if report.trash.files > 0 {
        let (count, bytes) = (files(report.trash.files), humane_size(report.trash.bytes));
        text.push_str(&format!("In the trash: {count}, {bytes}\n"));
    }
    text.push_str(&uploads(&report.uploads));
    if report.failing > 0 {
        text.push_str(&format!("Failing: {}, tried again later\n", files(report.failing)));
    }
    if report.suspect > 0 {
        text.push_str(&format!(
            "SUSPECT: {}, which may not be on the disk because syncing failed; check the disk, the \
             log names them\n",
            files(report.suspect)
        ));
    }
    if report.holds.holds > 0 {
        let HoldsReport { holds, recordings, unarchived } = report.holds;
        let lack = match unarchived {
            0 => String::new(),
            some => format!("; not archived yet: {}", files(some)),
        };
        text.push_str(&format!("On legal hold: {}, by {holds}{lack}\n", files(recordings)));
    }
    text.push_str(&joins(report));
    text.push_str(match report.disk.pressure {
        DiskPressure::None => "",
        DiskPressure::High => {
            "The disk is above its high mark: local copies are released early, oldest first\n"
        }
        DiskPressure::Stuck => {
            "DISK: it is above its high mark and nothing is left that may be released; free space \
             before calls are lost\n"
        }
    });
    if let Some(error) = &report.last_error {
        text.push_str(&format!(
            "Last error, {}: {}: {}\n",
            when(error.at),
            error.path,
            error.error
        ));
        if let Some(next) = error.next_try {
            text.push_str(&format!("  next try {}\n", ago(next)));
        }
    }
    if let Some(trouble) = &report.catalog_trouble {
        text.push_str(&format!("CATALOG: {trouble}\n"));
    }
    text.push_str(&calls(report));
    for warning in &report.warnings {
        text.push_str(&format!("Warning: {warning}\n"));
    }
    text
}

/// Joins of calls that are stored in the targets.
fn joins(report: &StatusReport) -> String {
    let Some(joins) = report.joins else { return String::new() };
    let mut text = format!("Joined calls: {} stored", joins.stored);
    for (count, what) in [
        (joins.waiting, "not ready to be stored"),
        (joins.leaving, "to be deleted"),
        (joins.failing, "FAILING, tried again later"),
        (joins.bad, "found damaged or gone since the start"),
        (
            joins.unopened,
            "THAT NO KEY OPENS, OR THAT ARE REFUSED (the log says why; put the key back, and restart)",
        ),
    ] {
        if count > 0 {
            text.push_str(&format!(", {count} {what}"));
        }
    }
    text.push_str(if joins.swept { "\n" } else { "; not all calls were looked at yet\n" });
    text
}

/// What is wrong with call records; recordings do not depend on them.
fn calls(report: &StatusReport) -> String {
    let Some(calls) = &report.calls else { return String::new() };
    let mut text = String::new();
    for source in &calls.sources {
        match &source.trouble {
            Some(trouble) => text.push_str(&format!(
                "Call records: {trouble}; recordings and known calls are not affected\n"
            )),
            None => {
                let behind = if source.caught_up { "" } else { ", still being read" };
                text.push_str(&format!("Call records: {}{behind}\n", source.place));
            }
        }
        if let Some(bad) = &source.last_bad {
            text.push_str(&format!("  {} bad rows, the last {bad}\n", source.bad_rows));
        }
    }
    if let Some(trouble) = &calls.trouble {
        text.push_str(&format!("Call records: {trouble}\n"));
    }
    if calls.awaited > 0 {
        text.push_str(&format!(
            "Not archived for lack of a call record: {} recordings (require_cdr)\n",
            calls.awaited
        ));
    }
    text
}

/// How fast the backlog drains, and when that ends.
fn drain(backlog: &Backlog) -> String {
    let Some(drain) = backlog.drain.filter(|d| d.files > 0 || backlog.ends_at.is_some()) else {
        return String::new();
    };
    let end = backlog
        .ends_at
        .map_or_else(String::new, |at| format!("; the backlog ends {} at this rate", ago(at)));
    format!(
        "Archived in the last {}: {} files and {} a second{end}\n",
        humane_duration(Duration::from_secs(drain.seconds)),
        drain.files_per_second,
        humane_size(drain.bytes_per_second as u64),
    )
}

fn uploads(uploads: &UploadsReport) -> String {
    let until = |at: Option<Timestamp>| {
        at.map_or_else(String::new, |at| format!(" until {}", output::local(at)))
    };
    match (uploads.off, uploads.bytes_per_second) {
        (true, _) => format!("Uploads: off{} (write_back.bandwidth)\n", until(uploads.opens_at)),
        (false, Some(limit)) => {
            format!("Uploads: at most {} a second{}\n", humane_size(limit), until(uploads.until))
        }
        (false, None) if uploads.until.is_some() => {
            format!("Uploads: no limit{}\n", until(uploads.until))
        }
        (false, None) => String::new(),
    }
}

fn target_line(target: &TargetReport) -> String {
    let optional = if target.required { "" } else { " (not required)" };
    let mut line = format!("  {}{optional}  {}  {}", target.name, target.url, target.state.word());
    if let Some(detail) = &target.detail {
        line.push_str(&format!(": {detail}"));
    }
    if let Some(at) = target.last_ok {
        line.push_str(&format!(", last answered {}", ago(at)));
    }
    if let Some(at) = target.last_snapshot {
        let bytes = target.snapshot_bytes.map(|bytes| format!(" ({})", humane_size(bytes)));
        line.push_str(&format!("; snapshot of the catalog {}", ago(at)));
        line.push_str(&bytes.unwrap_or_default());
    }
    line.push('\n');
    line
}
