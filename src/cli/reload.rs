//! `spoolfs reload`.

use super::context::Common;
use super::{Context, Exit, output};
use crate::control::{ReloadReport, Request};

pub(super) const EXAMPLES: &str = "Examples:
  spoolfs reload
  spoolfs reload --config /etc/spoolfs/voicemail.toml

A configuration with a fault is refused, and the one in force stays.";

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    pub common: Common,
}

pub(super) fn run(arguments: &Arguments) -> Result<(), Exit> {
    // A fault is found here already, with its place, before the daemon is asked.
    let context = Context::load(&arguments.common)?;
    let report: ReloadReport = context.ask(&Request::Reload, "reloaded")?;
    if context.json {
        output::json(&report);
    } else {
        output::text(&words(&report));
    }
    Ok(())
}

fn words(report: &ReloadReport) -> String {
    let mut text = String::from("The new configuration is in force.\n");
    for warning in &report.warnings {
        text.push_str(&format!("Warning: {warning}.\n"));
    }
    if !report.needs_restart.is_empty() {
        let keys = report.needs_restart.join(", ");
        text.push_str(&format!("Changed, but in force only after a restart: {keys}.\n"));
    }
    text + &report.next_recording + "\n"
}
