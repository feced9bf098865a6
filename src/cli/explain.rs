//! `spoolfs explain`.

use super::context::Common;
use super::{Context, Exit, output, path_report};
use crate::control::{PathReport, Request};
use std::path::PathBuf;

pub(super) const EXAMPLES: &str = "Examples:
  spoolfs explain /var/spool/asterisk/monitor/2026/11/21/call.wav
  spoolfs explain --json call.wav";

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    pub common: Common,
    /// The recording
    #[arg(value_name = "PATH")]
    path: PathBuf,
}

pub(super) fn run(arguments: &Arguments) -> Result<(), Exit> {
    let context = Context::load(&arguments.common)?;
    let path = context.relative(&arguments.path)?;
    let report: PathReport = context.ask(&Request::Explain { path }, "explained")?;
    if context.json {
        output::json(&report);
    } else {
        output::text(&path_report::reasons(&context.shown(&report.path), &report));
    }
    Ok(())
}
