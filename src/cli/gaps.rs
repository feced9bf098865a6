//! `spoolfs gaps`.

use super::context::Common;
use super::{Context, Exit, find, output};
use crate::clock::{Clock, SharedClock, SystemClock, Timestamp};
use crate::control::{GapsReport, Request, utc};
use crate::daemon::calls as asked;
use std::sync::Arc;

pub(super) const EXAMPLES: &str = "Examples:
  spoolfs gaps --from 2026-11-21
  spoolfs gaps --from \"2026-11-21 08:00\" --to \"2026-11-21 12:00\"
  spoolfs gaps --from 2026-11-01 --to 2026-11-30 --json | jq '.calls | length'

Answered calls without a recording, and recordings without a call record. Times are those of this
machine. Exit status 1 if there is a gap. Needs call records: [calls] in the configuration.";

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    pub common: Common,
    /// Began then or later: "2026-11-21" or "2026-11-21 08:00"
    #[arg(long, value_name = "TIME")]
    from: String,
    /// Began before, or on that day; without it: until now
    #[arg(long, value_name = "TIME")]
    to: Option<String>,
}

pub(super) fn run(arguments: &Arguments) -> Result<(), Exit> {
    let context = Context::load(&arguments.common)?;
    let (from, to) = find::times(Some(&arguments.from), arguments.to.as_deref())?;
    let from = from.unwrap_or(Timestamp(0));
    let to = to.unwrap_or_else(|| SystemClock.now());
    let report: GapsReport = context.ask_or(&Request::Gaps { from, to }, |config| {
        let clock: SharedClock = Arc::new(SystemClock);
        asked::gaps(&asked::left(config, &clock)?, from, to)
    })?;
    if context.json {
        output::json(&report);
    } else {
        output::text(&words(&context, &report));
    }
    let none = report.calls.is_empty() && report.recordings.is_empty();
    if none { Ok(()) } else { Err(Exit::Shown) }
}

fn words(context: &Context, report: &GapsReport) -> String {
    let mut text = String::new();
    if !report.calls.is_empty() {
        text.push_str(&format!("Answered calls without a recording: {}\n", report.calls.len()));
    }
    for call in &report.calls {
        let names = match call.recordingfile.as_str() {
            "" => String::new(),
            file => format!("  its record names {file}"),
        };
        text.push_str(&format!(
            "  {}  {} UTC  {} s  {} > {}{names}\n",
            call.linkedid,
            utc::people(call.start),
            call.seconds,
            call.src,
            call.dst
        ));
    }
    if !report.recordings.is_empty() {
        text.push_str(&format!("Recordings without a call record: {}\n", report.recordings.len()));
    }
    for recording in &report.recordings {
        let (at, path) = (utc::people(recording.start), context.shown(&recording.path));
        text.push_str(&format!("  {at} UTC  {path}\n"));
    }
    if report.more {
        text.push_str("There are more: narrow it with --from and --to.\n");
    } else if text.is_empty() {
        text.push_str("No gap.\n");
    }
    text
}
