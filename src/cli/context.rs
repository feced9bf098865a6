//! What every command needs: the configuration, the daemon, paths below the mount, an exit.

use super::{bypass, output};
use crate::config::{self, Config, ConfigError, Environment, Essentials, Overrides};
use crate::control::{Client, ClientError, Failure, PathFailure, Progress, Request, WirePath};
use crate::daemon::alarm::Alarm;
use crate::daemon::elsewhere;
use serde::de::DeserializeOwned;
use std::path::{Path, PathBuf};

/// Options of every command.
#[derive(Clone, Debug, clap::Args)]
pub(super) struct Common {
    /// Configuration file
    #[arg(long, value_name = "FILE", default_value = config::DEFAULT_FILE)]
    pub config: PathBuf,
    /// Print one JSON document instead of text
    #[arg(long)]
    pub json: bool,
}

/// The options of every command, before and after the word that says what is to be done.
#[derive(Clone, Debug)]
pub(super) struct Everywhere(pub Common);

impl clap::FromArgMatches for Everywhere {
    fn from_arg_matches(matches: &clap::ArgMatches) -> Result<Everywhere, clap::Error> {
        Common::from_arg_matches(matches).map(Everywhere)
    }

    fn update_from_arg_matches(&mut self, matches: &clap::ArgMatches) -> Result<(), clap::Error> {
        self.0.update_from_arg_matches(matches)
    }
}

impl clap::Args for Everywhere {
    fn augment_args(command: clap::Command) -> clap::Command {
        Common::augment_args(command)
            .mut_arg("config", |option| option.global(true))
            .mut_arg("json", |option| option.global(true))
    }

    fn augment_args_for_update(command: clap::Command) -> clap::Command {
        Everywhere::augment_args(command)
    }
}

/// An end that is not success.
#[derive(Debug)]
pub(super) enum Exit {
    /// Tried and failed: 1.
    Failed(Failure),
    /// Asked for wrongly, nothing tried: 2.
    Usage(String),
    /// Failed, and everything about it was already printed: 1.
    Shown,
    /// As a program ended that was run.
    Status(u8),
}

impl Exit {
    /// A failure in one sentence.
    pub fn failed(message: impl Into<String>) -> Exit {
        Exit::Failed(Failure::new(message))
    }

    /// Prints what is to be said and returns the exit status.
    pub fn show(self, json: bool) -> u8 {
        let (failure, status) = match self {
            Exit::Shown => return 1,
            Exit::Status(status) => return status,
            Exit::Failed(failure) => (failure, 1),
            Exit::Usage(message) => (Failure::new(message), 2),
        };
        output::failure(&failure, json);
        status
    }
}

impl From<ConfigError> for Exit {
    fn from(error: ConfigError) -> Exit {
        Exit::Usage(error.to_string())
    }
}

/// The configuration, with the mount point that the daemon was last told to use.
pub(super) fn read_config(file: &Path) -> Result<Config, ConfigError> {
    let runtime_dir = Essentials::load(file).ok().and_then(|essentials| essentials.runtime_dir());
    let mountpoint = runtime_dir.and_then(|dir| elsewhere::noted(&dir));
    Config::load(file, &Environment::of_process(), &Overrides { mountpoint })
}

/// The configuration of a command that speaks to the daemon.
pub(super) struct Context {
    pub config: Config,
    pub json: bool,
}

impl Context {
    /// Reads the configuration.
    pub fn load(common: &Common) -> Result<Context, Exit> {
        Ok(Context { config: read_config(&common.config)?, json: common.json })
    }

    /// Asks the daemon and waits for its report; progress is shown on a terminal.
    pub fn ask<T: DeserializeOwned>(&self, request: &Request, verb: &str) -> Result<T, Exit> {
        let mut line = output::ProgressLine::new(verb, self.json);
        let answer = Client::connect(&self.config.socket())
            .and_then(|mut client| client.call(request, |p: &Progress| line.show(p)));
        line.clear();
        answer.map_err(|e| match e {
            ClientError::Failed(failure) => Exit::Failed(failure),
            ClientError::NotRunning(_) => Exit::failed(format!(
                "{e}: start it with \"spoolfs mount --config {}\"{}",
                self.config.file.display(),
                self.emergency()
            )),
            other => Exit::failed(other.to_string()),
        })
    }

    /// As [`Context::ask`]; where no daemon runs, looks for itself.
    pub fn ask_or<T: DeserializeOwned>(
        &self,
        request: &Request,
        look: impl FnOnce(&Config) -> Result<T, Failure>,
    ) -> Result<T, Exit> {
        match Client::connect(&self.config.socket()) {
            Err(ClientError::NotRunning(_)) => look(&self.config).map_err(Exit::Failed),
            _ => self.ask(request, ""),
        }
    }

    /// Since when recordings go to the plain directory, if the mount was taken out of the way.
    fn emergency(&self) -> String {
        Alarm::read(&self.config.runtime_dir).map_or_else(String::new, |alarm| {
            let since = output::when(alarm.since);
            let what = bypass::warning(&self.config.mountpoint, &alarm.reason);
            format!(".\nSince {since}: {what}")
        })
    }

    /// A path as given, relative to the mount.
    pub fn relative(&self, path: &Path) -> Result<WirePath, Exit> {
        let absolute = std::path::absolute(path)
            .map_err(|e| Exit::Usage(format!("{path:?} is not a path: {e}")))?;
        let mount = config::resolve(&self.config.mountpoint);
        // A recording that is itself a link is meant as the link, not as what it points to.
        let named = match (absolute.parent(), absolute.file_name()) {
            (Some(parent), Some(name)) => config::resolve(parent).join(name),
            _ => config::resolve(&absolute),
        };
        let whole = config::resolve(&absolute);
        let below = named.strip_prefix(&mount).or_else(|_| whole.strip_prefix(&mount));
        below.map(|p| WirePath(p.to_owned())).map_err(|_| {
            Exit::Usage(format!(
                "{} is not under the mountpoint {} of {}; give a path below it, or another --config",
                absolute.display(),
                self.config.mountpoint.display(),
                self.config.file.display()
            ))
        })
    }

    /// All paths as given, relative to the mount.
    pub fn all_relative(&self, paths: &[PathBuf]) -> Result<Vec<WirePath>, Exit> {
        paths.iter().map(|p| self.relative(p)).collect()
    }

    /// How a path below the mount is shown.
    pub fn shown(&self, path: &WirePath) -> String {
        self.config.mountpoint.join(&path.0).display().to_string()
    }
}

/// Prints the paths that something was the matter with.
pub(super) fn list(title: &str, failures: &[PathFailure], more: u64) -> String {
    let mut text = String::new();
    if !failures.is_empty() {
        text.push_str(&format!("{title}:\n"));
    }
    for failure in failures {
        text.push_str(&format!("  {}: {}\n", failure.path, failure.reason));
    }
    if more > 0 {
        text.push_str(&format!("  and {more} more\n"));
    }
    text
}
