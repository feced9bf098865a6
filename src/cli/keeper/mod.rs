//! `spoolfs keeper`: what systemd does for the daemon, for places that have no systemd. It keeps
//! the kernel's connection while daemons come and go, and takes the mount away when none comes.

mod kept;
mod message;
mod policy;
mod run;
mod socket;
pub(super) mod stage;

use super::Exit;
use crate::config::{self, Essentials};
use crate::limits;
use crate::units::Span;
use policy::Patience;
use run::Keeper;
use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::time::Duration;

pub(super) const EXAMPLES: &str = "Examples:
  spoolfs keeper -- spoolfs mount --config /etc/spoolfs/monitor.toml
  spoolfs keeper --start-timeout 10s -- /opt/spoolfs/bin/spoolfs mount

For containers and wherever systemd does not run; with systemd, systemd/spoolfs@.service does all
this. The keeper holds what the daemon needs to go on where its predecessor ended, and starts a new
one whenever it ends. Signals: TERM and INT stop for good, USR1 replaces the daemon without
unmounting (after an upgrade), HUP makes it read its configuration again.

If the daemon fails to start three times in a minute, or hangs at it, the mount is taken away, so
that calls are recorded into the plain directory, and a clean start is tried every 30 seconds.";

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// Wait between the end of a daemon and the start of the next
    #[arg(long, value_name = "TIME", default_value = "100ms")]
    restart_delay: Span,
    /// Longest wait for a daemon to be ready
    #[arg(long, value_name = "TIME", default_value = "4s")]
    start_timeout: Span,
    /// Longest wait for the end of a daemon that was told to stop
    #[arg(long, value_name = "TIME", default_value = "90s")]
    stop_timeout: Span,
    /// Wait between the tries to start while the mount is taken away
    #[arg(long, value_name = "TIME", default_value = "30s")]
    retry: Span,
    /// Longest time without a sign of life of a daemon that gives such signs
    #[arg(long, value_name = "TIME", default_value = "30s")]
    watchdog: Span,
    /// Starts that fail within a minute before the mount is taken away
    #[arg(long, value_name = "COUNT", default_value_t = limits::KEEPER_FAILURES_MAX)]
    failures: usize,
    /// Recordings directory to take the mount away from, if the command does not tell
    #[arg(long, value_name = "DIR")]
    mountpoint: Option<PathBuf>,
    /// Where the notify socket's own directory is made
    #[arg(long, value_name = "DIR", default_value = "/run")]
    socket_dir: PathBuf,
    /// What to run: spoolfs mount and its options
    #[arg(last = true, required = true, value_name = "COMMAND")]
    command: Vec<OsString>,
}

/// Returns the exit status of the last daemon.
pub(super) fn run(arguments: &Arguments) -> Result<(), Exit> {
    crate::telemetry::start();
    let patience = Patience {
        delay: span(arguments.restart_delay),
        start: span(arguments.start_timeout),
        stop: span(arguments.stop_timeout),
        retry: span(arguments.retry),
        watchdog: span(arguments.watchdog),
        failures: arguments.failures,
    };
    let place = Place::of(arguments);
    let keeper = Keeper::new(arguments.command.clone(), place, patience, &arguments.socket_dir)
        .map_err(|e| {
            let dir = arguments.socket_dir.display();
            Exit::failed(format!("no notify socket can be made in {dir}: {e}; see --socket-dir"))
        })?;
    match keeper.run() {
        Ok(0) => Ok(()),
        Ok(status) => Err(Exit::Status(status)),
        Err(e) => Err(Exit::failed(format!("the keeper can not go on: {e}"))),
    }
}

fn span(span: Span) -> Duration {
    span.0
}

/// Where the daemon mounts: known from the command, looked up when it is needed.
#[derive(Debug)]
struct Place {
    mountpoint: Option<PathBuf>,
    config: PathBuf,
}

impl Place {
    fn of(arguments: &Arguments) -> Place {
        let command = &arguments.command;
        let given = option(command, "--mountpoint").map(PathBuf::from);
        let config = option(command, "--config").map(PathBuf::from);
        Place {
            mountpoint: arguments.mountpoint.clone().or(given),
            config: config.unwrap_or_else(|| Path::new(config::DEFAULT_FILE).to_owned()),
        }
    }

    /// The mount point, and what else is known in an emergency.
    fn find(&self) -> (Option<PathBuf>, Essentials) {
        let essentials = Essentials::load(&self.config).unwrap_or_default();
        let mountpoint = self.mountpoint.clone().or_else(|| essentials.mountpoint.clone());
        (mountpoint.and_then(|path| std::path::absolute(path).ok()), essentials)
    }
}

/// The value of an option in a command line, in either way of writing it.
fn option<'a>(command: &'a [OsString], name: &str) -> Option<&'a OsStr> {
    use std::os::unix::ffi::OsStrExt;
    let mut words = command.iter();
    while let Some(word) = words.next() {
        if word == name {
            return words.next().map(OsString::as_os_str);
        }
        let rest = word.as_bytes().strip_prefix(name.as_bytes());
        if let Some(value) = rest.and_then(|rest| rest.strip_prefix(b"=")) {
            return Some(OsStr::from_bytes(value));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_of_the_command_are_found() {
        let words = |text: &str| text.split(' ').map(OsString::from).collect::<Vec<_>>();
        let command = words("spoolfs mount --config /a.toml --mountpoint=/srv/rec");
        assert_eq!(option(&command, "--config"), Some(OsStr::new("/a.toml")));
        assert_eq!(option(&command, "--mountpoint"), Some(OsStr::new("/srv/rec")));
        assert_eq!(option(&command, "--mount"), None);
        assert_eq!(option(&words("spoolfs mount --config"), "--config"), None);
    }
}
