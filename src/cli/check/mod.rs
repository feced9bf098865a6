//! `spoolfs check`: everything a mount needs, found out by doing it.
//!
//! **Invariant:** whatever it makes, it takes away; it needs no daemon and disturbs none.

mod disk;
mod encryption;
mod local;
mod sealing;
mod targets;

use super::context::{Common, read_config};
use super::{Exit, output};
use crate::config::Config;
use crate::control::{
    Client, DiskPressure, Request, StatusReport, TargetName, VersionReport, next_recording,
};
use serde::Serialize;

pub(super) const EXAMPLES: &str = "Examples:
  spoolfs check
  spoolfs check --config /etc/spoolfs/voicemail.toml --json

Run it as root, as the daemon runs. It writes and deletes small objects in each target.";

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    pub common: Common,
}

/// How a finding turned out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// As it should be.
    Ok,
    /// It works, but not as well as it could, or not for long.
    Warning,
    /// A mount would fail, or lose its purpose.
    Failed,
}

/// One thing looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// What was looked at.
    pub what: String,
    /// How it turned out.
    pub outcome: Outcome,
    /// What was seen.
    pub detail: String,
    /// What to do; empty if nothing.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub cure: String,
}

impl Finding {
    fn ok(what: impl Into<String>, detail: impl Into<String>) -> Finding {
        let (what, detail) = (what.into(), detail.into());
        Finding { what, outcome: Outcome::Ok, detail, cure: String::new() }
    }

    fn warning(
        what: impl Into<String>,
        detail: impl Into<String>,
        cure: impl Into<String>,
    ) -> Finding {
        let (what, detail, cure) = (what.into(), detail.into(), cure.into());
        Finding { what, outcome: Outcome::Warning, detail, cure }
    }

    fn failed(
        what: impl Into<String>,
        detail: impl Into<String>,
        cure: impl Into<String>,
    ) -> Finding {
        Finding { outcome: Outcome::Failed, ..Finding::warning(what, detail, cure) }
    }
}

/// What `--json` prints.
#[derive(Serialize)]
struct Report {
    ok: bool,
    findings: Vec<Finding>,
    #[serde(skip_serializing_if = "Option::is_none")]
    next_recording: Option<String>,
}

pub(super) fn run(arguments: &Arguments) -> Result<(), Exit> {
    let file = &arguments.common.config;
    let report = match read_config(file) {
        Err(e) => {
            let detail = format!("{}: {}", e.place, e.message);
            report(vec![Finding::failed("configuration", detail, e.cure)], None)
        }
        Ok(config) => report(examine(&config), Some(words(&config))),
    };
    if arguments.common.json {
        output::json(&report);
    } else {
        output::text(&text(&report));
    }
    if report.ok { Ok(()) } else { Err(Exit::Shown) }
}

fn report(findings: Vec<Finding>, next_recording: Option<String>) -> Report {
    let ok = findings.iter().all(|f| f.outcome != Outcome::Failed);
    Report { ok, findings, next_recording }
}

fn examine(config: &Config) -> Vec<Finding> {
    let mut findings = vec![configuration(config)];
    findings.extend(config.warnings.iter().map(|warning| {
        Finding::warning("configuration", warning.clone(), "change it unless it is meant")
    }));
    let (running, finding) = daemon(config);
    findings.push(finding);
    if running {
        findings.extend(told(config));
    }
    findings.extend(sealing::examine(config));
    findings.extend(encryption::examine(config, running));
    findings.extend(local::examine(config, running));
    findings.extend(targets::examine(config));
    findings
}

fn configuration(config: &Config) -> Finding {
    let targets = match config.targets.len() {
        0 => "no target: recordings stay on the local disk".to_owned(),
        1 => "1 target".to_owned(),
        n => format!("{n} targets"),
    };
    Finding::ok("configuration", format!("{}, {targets}", config.file.display()))
}

/// Whether a daemon runs, and the line about it.
fn daemon(config: &Config) -> (bool, Finding) {
    let socket = config.socket();
    let answer = Client::connect(&socket)
        .and_then(|mut client| client.call::<VersionReport>(&Request::Version, |_| {}));
    match answer {
        Ok(found) if found.version == env!("CARGO_PKG_VERSION") => (
            true,
            Finding::ok("daemon", format!("spoolfs {} runs, pid {}", found.version, found.pid)),
        ),
        Ok(found) => {
            let detail = format!(
                "spoolfs {} runs, pid {}, but this is {}",
                found.version,
                found.pid,
                env!("CARGO_PKG_VERSION")
            );
            (true, Finding::warning("daemon", detail, "restart it to run the installed version"))
        }
        Err(crate::control::ClientError::NotRunning(_)) => {
            (false, Finding::ok("daemon", "none runs for this configuration"))
        }
        Err(e) => (false, Finding::warning("daemon", e.to_string(), "run check as root")),
    }
}

/// What the daemon knows.
fn told(config: &Config) -> Vec<Finding> {
    let status = Client::connect(&config.socket()).ok().and_then(|mut client| {
        client.call::<StatusReport>(&Request::Status { path: None }, |_| {}).ok()
    });
    status.as_ref().map(trouble).unwrap_or_default()
}

fn trouble(status: &StatusReport) -> Vec<Finding> {
    let mut findings = Vec::new();
    if status.suspect > 0 {
        findings.push(Finding::failed(
            "disk",
            format!("{} recordings could not be synced to it", status.suspect),
            "look at the kernel's log and replace the disk; `spoolfs status` counts them, the log \
             names them, and those that are archived can be read from there",
        ));
    }
    if status.bad_copies > 0 {
        let bad = status.bad_copies;
        findings.push(Finding::failed(
            "archived copies",
            format!("{bad} are damaged or gone, and were not replaced"),
            "`spoolfs status` and the log name them; where there is no other copy, bring them back \
             from versions or a backup of the bucket, and run `spoolfs verify` on them",
        ));
    }
    if status.unopened_copies > 0 {
        let unopened = status.unopened_copies;
        findings.push(Finding::failed(
            "archived copies",
            format!("no key opens {unopened} of them (SSE-C)"),
            "put the key back where the target's others are (`sse_c_key_file`), restart, and run \
             `spoolfs verify` on them; `spoolfs status` and the log name them",
        ));
    }
    let used = format!("{}% of it is used, more than [space] allows", status.disk.used_percent);
    match status.disk.pressure {
        DiskPressure::None => {}
        DiskPressure::High => findings.push(Finding::warning(
            "disk",
            used,
            "local copies are released early; lower keep_local or enlarge it",
        )),
        DiskPressure::Stuck => findings.push(Finding::failed(
            "disk",
            format!("{used}, and nothing is left that may be released"),
            "free space now, or calls are lost; `spoolfs status` says why nothing is archived",
        )),
    }
    findings
}

fn words(config: &Config) -> String {
    let targets: Vec<_> =
        config.targets.iter().map(|t| TargetName { name: &t.name, required: t.required }).collect();
    next_recording(&targets, config.write_back.archive_after, config.write_back.keep_local)
}

fn text(report: &Report) -> String {
    let mut text = String::new();
    for finding in &report.findings {
        let mark = match finding.outcome {
            Outcome::Ok => "ok     ",
            Outcome::Warning => "WARNING",
            Outcome::Failed => "FAILED ",
        };
        text.push_str(&format!("{mark}  {}: {}\n", finding.what, finding.detail));
        if !finding.cure.is_empty() {
            text.push_str(&format!("         -> {}\n", finding.cure));
        }
    }
    let count = |o: Outcome| report.findings.iter().filter(|f| f.outcome == o).count();
    let (failed, warnings) = (count(Outcome::Failed), count(Outcome::Warning));
    let plural = if warnings == 1 { "" } else { "s" };
    text.push_str(&format!("\n{failed} failed, {warnings} warning{plural}\n"));
    if let Some(next) = &report.next_recording {
        text.push_str(&format!("{next}\n"));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_finding_fails_the_whole_and_shows_its_cure() {
        let findings = vec![
            Finding::ok("a", "fine"),
            Finding::warning("b", "hm", "do x"),
            Finding::failed("c", "bad", "do y"),
        ];
        let bad = report(findings.clone(), None);
        assert!(!bad.ok);
        assert_eq!(
            text(&bad),
            "ok       a: fine\nWARNING  b: hm\n         -> do x\nFAILED   c: bad\n         \
             -> do y\n\n1 failed, 1 warning\n"
        );
        assert!(report(findings.into_iter().take(2).collect(), None).ok);
    }
}
