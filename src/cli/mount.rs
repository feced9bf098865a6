//! `spoolfs mount`.

use super::Exit;
use super::context::Common;
use crate::config::{Config, Environment, Overrides};
use std::path::PathBuf;

pub(super) const EXAMPLES: &str = "Examples:
  spoolfs mount
  spoolfs mount --config /etc/spoolfs/voicemail.toml
  spoolfs mount --mountpoint /var/spool/asterisk/monitorDONE

It stays in the foreground and stops cleanly on SIGTERM; systemd/spoolfs@.service starts it at boot.";

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    pub common: Common,
    /// Recordings directory to mount over, instead of the configured one
    #[arg(long, value_name = "DIR")]
    mountpoint: Option<PathBuf>,
}

pub(super) fn run(arguments: &Arguments) -> Result<(), Exit> {
    let overrides = Overrides { mountpoint: arguments.mountpoint.clone() };
    let config = Config::load(&arguments.common.config, &Environment::of_process(), &overrides)?;
    crate::telemetry::start();
    for warning in &config.warnings {
        tracing::warn!("{warning}");
    }
    crate::daemon::run(config).map_err(|e| Exit::failed(e.to_string()))
}
