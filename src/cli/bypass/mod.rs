//! `spoolfs bypass`: the second way through the program, for when everything else is broken. It
//! needs neither a daemon nor a catalog nor a sound configuration.

mod detach;
mod service;

pub(crate) use detach::detach;

use super::context::Common;
use super::{Exit, output};
use crate::clock::{Clock, SystemClock};
use crate::config::Essentials;
use crate::daemon::alarm::Alarm;
use crate::daemon::{elsewhere, settled};
use crate::fscrypt::Place;
use service::{Decision, End, Failures};
use std::path::{Path, PathBuf};

pub(super) const EXAMPLES: &str = "Examples:
  spoolfs bypass --config /etc/spoolfs/monitor.toml
  spoolfs bypass --mountpoint /var/spool/asterisk/monitor

Calls are recorded into the plain directory from then on, and nothing is archived until spoolfs
runs again; it adopts what it finds. Recordings in progress go on in their open files. With a
running service, stop it first: `systemctl stop` does all this in good order.";

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    pub common: Common,
    /// Recordings directory, instead of the configured one
    #[arg(long, value_name = "DIR")]
    mountpoint: Option<PathBuf>,
    /// For ExecStopPost= of this unit: do nothing if it goes on by itself
    #[arg(long, value_name = "UNIT")]
    unless_restarting: Option<String>,
}

/// What was done, for people and programs.
#[derive(Debug, serde::Serialize)]
struct Report {
    mountpoint: PathBuf,
    detached: usize,
    reason: String,
}

pub(super) fn run(arguments: &Arguments) -> Result<(), Exit> {
    let essentials = essentials(arguments)?;
    let mountpoint = mountpoint(arguments, &essentials)?;
    let why = match &arguments.unless_restarting {
        Some(unit) => after_an_end(unit, &essentials),
        None => Decision::Detach("asked for on the command line"),
    };
    let (Decision::Detach(reason) | Decision::GiveUp(reason)) = why else { return Ok(()) };
    let detached = detach(&mountpoint).map_err(|e| Exit::failed(e.to_string()))?;
    let report = Report { mountpoint, detached, reason: reason.to_owned() };
    if detached > 0 {
        let alarm = Alarm::new(SystemClock.now(), &report.reason);
        raise(&essentials, alarm);
        loudly(&in_words(&report));
    }
    unlock(&report.mountpoint, &essentials);
    if arguments.common.json {
        output::json(&report);
    } else if detached == 0 {
        output::text(&in_words(&report));
    }
    if let (Decision::GiveUp(_), Some(unit)) = (why, &arguments.unless_restarting) {
        service::give_up(unit)
            .map_err(|e| Exit::failed(format!("{unit} can not be kept from starting: {e}")))?;
    }
    Ok(())
}

/// Calls can be recorded into an encrypted directory only when the kernel has its key. Our mount is
/// gone, so that nobody has to be waited for.
fn unlock(mountpoint: &Path, essentials: &Essentials) {
    let unlocked = Place::at("the recordings directory", mountpoint)
        .and_then(|place| place.unlock(essentials.local_key_file.as_deref()));
    match unlocked {
        Ok(true) => output::note("spoolfs: the kernel was given the key of the local disk\n"),
        Ok(false) => {}
        Err(refused) => loudly(&format!("CALLS CAN NOT BE RECORDED: {refused}")),
    }
}

/// What the end of the daemon means for calls.
fn after_an_end(unit: &str, essentials: &Essentials) -> Decision {
    let job = match service::job(unit) {
        Ok(job) => job,
        // To leave a mount without a daemon is bad until the next start; to take a live one away
        // is bad at once, and most ends are restarts.
        Err(e) => {
            loudly(&format!("whether {unit} is being stopped is not known ({e})"));
            return Decision::Leave;
        }
    };
    let runtime_dir = essentials.runtime_dir();
    let before = runtime_dir.as_deref().map(Failures::read).unwrap_or_default();
    let mut failures = before.clone();
    let now = SystemClock.now();
    let settled = runtime_dir.as_deref().is_some_and(|dir| settled::take(dir, now));
    let end = End::of_process(settled);
    let decision = service::decide(job, &end, &mut failures, now);
    if decision == Decision::Leave && end.by_itself(job) {
        let End { result, status, .. } = &end;
        loudly(&format!("{unit} ended by itself ({result}, {status}); the next one goes on"));
    }
    if let Some(runtime_dir) = runtime_dir.filter(|_| failures != before)
        && let Err(e) = failures.write(&runtime_dir)
    {
        loudly(&format!("failures can not be counted in {}: {e}", runtime_dir.display()));
    }
    decision
}

fn essentials(arguments: &Arguments) -> Result<Essentials, Exit> {
    let file = &arguments.common.config;
    match Essentials::load(file) {
        Ok(essentials) => Ok(essentials),
        Err(_) if arguments.mountpoint.is_some() => Ok(Essentials::default()),
        Err(e) => Err(Exit::Usage(format!(
            "{} can not be read: {e}; name the recordings directory with --mountpoint",
            file.display()
        ))),
    }
}

fn mountpoint(arguments: &Arguments, essentials: &Essentials) -> Result<PathBuf, Exit> {
    let noted = || essentials.runtime_dir().and_then(|dir| elsewhere::noted(&dir));
    let given =
        arguments.mountpoint.clone().or_else(noted).or_else(|| essentials.mountpoint.clone());
    let given = given.ok_or_else(|| {
        Exit::Usage(format!(
            "{} names no mountpoint; name the recordings directory with --mountpoint",
            arguments.common.config.display()
        ))
    })?;
    std::path::absolute(&given).map_err(|e| Exit::Usage(format!("{given:?} is not a path: {e}")))
}

/// Leaves the note that `status` shows. That it can not be left stops nothing.
pub(crate) fn raise(essentials: &Essentials, alarm: Alarm) {
    let Some(runtime_dir) = essentials.runtime_dir() else { return };
    if let Err(error) = alarm.raise(&runtime_dir) {
        loudly(&format!("no note could be left in {}: {error}", runtime_dir.display()));
    }
}

/// The alarm in words.
pub(crate) fn warning(mountpoint: &Path, reason: &str) -> String {
    format!(
        "RECORDINGS ARE NOT ARCHIVED: {} was taken out of the way ({reason}). Calls are recorded \
         into the plain directory until spoolfs is started there again; then they are adopted.",
        mountpoint.display()
    )
}

fn in_words(report: &Report) -> String {
    match report.detached {
        0 => format!("Nothing of spoolfs is mounted on {}.\n", report.mountpoint.display()),
        _ => warning(&report.mountpoint, &report.reason),
    }
}

/// To standard error; in the journal as an error (sd-daemon(3), the level in angle brackets).
fn loudly(message: &str) {
    let level = if std::env::var_os("JOURNAL_STREAM").is_some() { "<3>" } else { "" };
    output::note(&format!("{level}spoolfs: {message}\n"));
}
