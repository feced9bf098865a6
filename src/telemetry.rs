//! Log output: to stderr, for journald to keep.

/// Starts logging at the level of `SPOOLFS_LOG` (default `info`). Calling it twice is harmless.
pub fn start() {
    use tracing_subscriber::EnvFilter;
    let filter = EnvFilter::try_from_env("SPOOLFS_LOG")
        .unwrap_or_else(|_| EnvFilter::new("info,fuser=warn,reqsign_core=error"));
    let _already_started = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_target(false)
        .with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr()))
        .try_init();
}
