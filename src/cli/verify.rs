//! `spoolfs verify`.

use super::context::{Common, list};
use super::{Context, Exit, output};
use crate::control::{MoveReport, Request, WirePath};
use crate::units::humane_size;

pub(super) const EXAMPLES: &str = "Examples:
  spoolfs verify /var/spool/asterisk/monitor/2026/11/21
  spoolfs verify --all --config /etc/spoolfs/spoolfs.toml

Every archived copy is read and compared with its hash. A bad one is replaced under a new key while
there is another copy. Exit status 1 if any was bad, or could not be read.";

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    pub common: Common,
    /// Recordings, or directories with all that is below them
    #[arg(value_name = "PATH", required_unless_present = "all", conflicts_with = "all")]
    paths: Vec<std::path::PathBuf>,
    /// Everything
    #[arg(long)]
    all: bool,
}

pub(super) fn run(arguments: &Arguments) -> Result<(), Exit> {
    let context = Context::load(&arguments.common)?;
    let paths = match arguments.all {
        true => vec![WirePath(std::path::PathBuf::new())],
        false => context.all_relative(&arguments.paths)?,
    };
    let report: MoveReport = context.ask(&Request::Verify { paths }, "verified")?;
    if context.json {
        output::json(&report);
    } else {
        let (files, bytes) = (output::files(report.done), humane_size(report.bytes));
        output::text(&format!(
            "{files}, {bytes}, are as they were archived; {} have no archived copy yet; {} bad or not read\n",
            report.skips(),
            report.failures()
        ));
        output::note(&list("Bad, or not read", &report.failed, report.more_failed));
    }
    if report.failed.is_empty() { Ok(()) } else { Err(Exit::Shown) }
}
