//! What `archive`, `release` and `recall` have in common.

use super::context::{Common, list};
use super::{Context, Exit, output};
use crate::control::{MoveReport, Request, WirePath};
use crate::units::humane_size;

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    pub common: Common,
    /// Recordings, or directories with all that is below them
    #[arg(required = true, value_name = "PATH")]
    paths: Vec<std::path::PathBuf>,
}

/// Asks for the move and shows its report; `verb` is its past tense.
pub(super) fn run(
    arguments: &Arguments,
    verb: &str,
    request: impl FnOnce(Vec<WirePath>) -> Request,
) -> Result<(), Exit> {
    let context = Context::load(&arguments.common)?;
    let paths = context.all_relative(&arguments.paths)?;
    ask(&context, verb, &request(paths))
}

/// The same, of a request that is made already.
pub(super) fn ask(context: &Context, verb: &str, request: &Request) -> Result<(), Exit> {
    let report: MoveReport = context.ask(request, verb)?;
    if context.json {
        output::json(&report);
    } else {
        output::text(&summary(&report, verb));
        output::note(&list("Failed", &report.failed, report.more_failed));
    }
    if report.failed.is_empty() { Ok(()) } else { Err(Exit::Shown) }
}

fn summary(report: &MoveReport, verb: &str) -> String {
    let (files, bytes) = (output::files(report.done), humane_size(report.bytes));
    let mut text = format!("{verb} {files}, {bytes}");
    if !report.skipped.is_empty() {
        text.push_str(&format!("; {} skipped", report.skips()));
    }
    if !report.failed.is_empty() {
        text.push_str(&format!("; {} failed", report.failures()));
    }
    text.push('\n');
    text + &list("Skipped", &report.skipped, report.more_skipped)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::PathFailure;

    #[test]
    fn the_summary_counts_and_gives_reasons() {
        let skipped = PathFailure { path: WirePath("a.wav".into()), reason: "it is held".into() };
        let report =
            MoveReport { done: 1, bytes: 2048, skipped: vec![skipped], ..MoveReport::default() };
        assert_eq!(
            summary(&report, "archived"),
            "archived 1 file, 2.0 KiB; 1 skipped\nSkipped:\n  a.wav: it is held\n"
        );
    }

    /// The client gave up on an answer of more than 64 MiB, after hours of work.
    #[test]
    fn regression_a_report_of_very_many_files_names_some_and_counts_the_rest() {
        let mut report = MoveReport::default();
        for n in 0..crate::limits::REPORT_PATHS_MAX + 5 {
            let path = std::path::PathBuf::from(format!("{n}.wav"));
            report.skip(PathFailure { path: path.into(), reason: "it is held".into() });
        }
        assert_eq!((report.skips(), report.more_skipped), (10_005, 5));
        let text = summary(&report, "archived");
        assert!(text.contains("10005 skipped") && text.ends_with("  and 5 more\n"));
    }
}
