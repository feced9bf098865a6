//! Log output: to stderr, for journald to keep.

use tracing::level_filters::LevelFilter;
use tracing_subscriber::filter::filter_fn;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

/// Writes requests as it signs them, with the keys in their headers, in debugging messages.
const TELLS_SECRETS: &str = "aws_sigv4";

/// Starts logging at the level of `SPOOLFS_LOG` (default `info`). Calling it twice is harmless.
pub fn start() {
    use tracing_subscriber::EnvFilter;
    let filter = EnvFilter::try_from_env("SPOOLFS_LOG")
        .unwrap_or_else(|_| EnvFilter::new("info,fuser=warn,reqsign_core=error"));
    let no_secrets = filter_fn(|told| {
        *told.level() <= LevelFilter::INFO || !told.target().starts_with(TELLS_SECRETS)
    });
    let _already_started = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_target(false)
        .with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr()))
        .finish()
        .with(no_secrets)
        .try_init();
}
