//! `spoolfs recompress`.

use super::context::{Common, list};
use super::{Context, Exit, output};
use crate::control::{RecompressReport, Request, WirePath};
use crate::units::humane_size;
use std::path::PathBuf;

pub(super) const EXAMPLES: &str = "Examples:
  spoolfs recompress --plan
  spoolfs recompress /var/spool/asterisk/monitor/2024
  spoolfs recompress --config /etc/spoolfs/spoolfs.toml --json

Stores recordings that are archived as they are as FLAC, where compress of [write_back] or of their rule
says so now. Each is decoded again and compared, put into every target that has it under a new key, and
verified there; then the old object goes, an hour later at the earliest. Broken off, it goes on where it was when
it is given again. What is on legal hold or locked in a target stays as it is. --plan only counts.";

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    pub common: Common,
    /// Recordings, or directories with all that is below them; everything, unless given
    #[arg(value_name = "PATH")]
    paths: Vec<PathBuf>,
    /// Only tell how many there are, and about how much would be gained
    #[arg(long)]
    plan: bool,
}

pub(super) fn run(arguments: &Arguments) -> Result<(), Exit> {
    let context = Context::load(&arguments.common)?;
    let mut paths = context.all_relative(&arguments.paths)?;
    if paths.is_empty() {
        paths.push(WirePath(PathBuf::new()));
    }
    ask(&context, &Request::Recompress { paths, plan: arguments.plan })
}

/// Asks, and shows the report.
pub(super) fn ask(context: &Context, request: &Request) -> Result<(), Exit> {
    let report: RecompressReport = context.ask(request, "looked at")?;
    if context.json {
        output::json(&report);
    } else {
        output::text(&summary(&report));
        let failed = list("Failed", &report.moved.failed, report.moved.more_failed);
        output::note(&failed);
    }
    if report.moved.failed.is_empty() { Ok(()) } else { Err(Exit::Shown) }
}

fn summary(report: &RecompressReport) -> String {
    let RecompressReport { plan, moved, bytes_before, bytes_after, held, locked } = report;
    let (files, before) = (output::files(moved.done), humane_size(*bytes_before));
    let after = humane_size(*bytes_after);
    let mut text = match plan {
        true => {
            format!("would store {files} anew: {before} in the targets would become about {after}")
        }
        false => format!("stored {files} anew: {before} in the targets become {after}"),
    };
    text.push_str(&format!("; {} left as they are", moved.skips()));
    let why = [(held, "on legal hold"), (locked, "locked in a target")];
    for (count, what) in why.into_iter().filter(|(count, _)| **count > 0) {
        text.push_str(&format!(", {count} of them {what}"));
    }
    if moved.failures() > 0 {
        text.push_str(&format!("; {} failed", moved.failures()));
    }
    text.push('\n');
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::MoveReport;

    #[test]
    fn the_summary_counts_what_is_gained_and_what_is_left() {
        let moved = MoveReport { done: 2, more_skipped: 5, ..MoveReport::default() };
        let report = RecompressReport {
            plan: false,
            moved,
            bytes_before: 4096,
            bytes_after: 1024,
            held: 1,
            locked: 0,
        };
        assert_eq!(
            summary(&report),
            "stored 2 files anew: 4.0 KiB in the targets become 1.0 KiB; 5 left as they are, 1 of them \
             on legal hold\n"
        );
        let plan = summary(&RecompressReport { plan: true, ..report });
        assert!(plan.starts_with("would store 2 files anew") && plan.contains("about 1.0 KiB"));
    }
}
