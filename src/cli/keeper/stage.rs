//! The last step before the daemon: a process that puts the kept descriptors where they belong,
//! tells its own number in `$LISTEN_PID`, which only it can know, and becomes the daemon.

use super::super::Exit;
use crate::sys;
use std::ffi::{OsStr, OsString};
use std::os::unix::process::CommandExt;
use std::process::Command;

/// The name of the command.
pub(in crate::cli) const NAME: &str = "keeper-stage";

#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Arguments {
    /// Numbers of the descriptors
    #[arg(long, value_delimiter = ',')]
    from: Vec<i32>,
    /// What to become
    #[arg(last = true, required = true)]
    command: Vec<OsString>,
}

/// How the keeper starts it. The names and everything else are in the environment.
pub(super) fn command(numbers: &[String], then: &[OsString]) -> Command {
    // Also when a package manager has replaced the file: this very program.
    let mut command = Command::new("/proc/self/exe");
    command.arg0("spoolfs").arg(NAME);
    if !numbers.is_empty() {
        command.arg("--from").arg(numbers.join(","));
    }
    command.arg("--").args(then);
    command
}

/// Becomes the daemon; returns only if it can not.
pub(in crate::cli) fn run(arguments: &Arguments) -> Result<(), Exit> {
    sys::place_descriptors(&arguments.from)
        .map_err(|e| Exit::failed(format!("the kept descriptors can not be handed over: {e}")))?;
    let mut words = arguments.command.iter();
    let program = words.next().map_or(OsStr::new("spoolfs"), OsString::as_os_str);
    let mut command = Command::new(program);
    command.args(words);
    if !arguments.from.is_empty() {
        command.env("LISTEN_PID", std::process::id().to_string());
    }
    let error = command.exec();
    Err(Exit::failed(format!("{} can not be started: {error}", program.display())))
}
