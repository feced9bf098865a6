//! `spoolfs url`.

use super::context::Common;
use super::{Context, Exit, output};
use crate::control::{Request, UrlReport};
use crate::units::Span;
use std::path::PathBuf;

pub(super) const EXAMPLES: &str = "Examples:
  spoolfs url /var/spool/asterisk/monitor/2026/11/21/call.wav
  spoolfs url --for 7d --target archive call.wav

Whoever has the address can read this version of the recording until it expires. An address of a
file:// target is a path on this machine, and does not expire.";

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    pub common: Common,
    /// The recording
    #[arg(value_name = "PATH")]
    path: PathBuf,
    /// How long it is valid, up to 7d
    #[arg(long = "for", value_name = "DURATION", default_value = "1h")]
    valid: Span,
    /// Which target; otherwise the first that has it
    #[arg(long, value_name = "NAME")]
    target: Option<String>,
}

pub(super) fn run(arguments: &Arguments) -> Result<(), Exit> {
    let context = Context::load(&arguments.common)?;
    let path = context.relative(&arguments.path)?;
    let seconds = arguments.valid.0.as_secs();
    let request = Request::Url { path, seconds, target: arguments.target.clone() };
    let report: UrlReport = context.ask(&request, "asked")?;
    if context.json {
        output::json(&report);
        return Ok(());
    }
    output::text(&format!("{}\n", report.url));
    if let Some(at) = report.expires_at {
        output::note(&format!("valid until {}\n", output::when(at)));
    }
    Ok(())
}
