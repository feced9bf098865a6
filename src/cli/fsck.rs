//! `spoolfs fsck`.

use super::context::{Common, Context};
use super::{Exit, output};
use crate::catalog;
use crate::clock::SystemClock;
use crate::codec::seal::Identities;
use crate::fsck::{self, Finding, Report};
use crate::store;
use crate::units::humane_size;
use std::sync::Arc;

pub(super) const EXAMPLES: &str = "Examples:
  systemctl stop spoolfs && spoolfs fsck
  spoolfs fsck --config /etc/spoolfs/spoolfs.toml --deep --json
  spoolfs fsck --repair

Run it as root, with spoolfs stopped. Exit status: 0 clean or repaired, 1 something is left, 2 it
could not be looked at. docs/FSCK.md explains each rule.";

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    pub common: Common,
    /// Repair what can be repaired without judgement
    #[arg(long)]
    repair: bool,
    /// Read and hash every local recording and every object
    #[arg(long)]
    deep: bool,
}

pub(super) fn run(arguments: &Arguments) -> Result<(), Exit> {
    let context = Context::load(&arguments.common)?;
    let report = check(&context, arguments)?;
    if context.json {
        output::json(&report);
    } else {
        output::text(&words(&report, arguments));
    }
    if report.clean { Ok(()) } else { Err(Exit::Shown) }
}

fn check(context: &Context, arguments: &Arguments) -> Result<Report, Exit> {
    let config = &context.config;
    let mounted = crate::fuse::own_mounts_at(&config.mountpoint);
    if mounted.map_err(|e| Exit::Usage(e.to_string()))? > 0 {
        return Err(Exit::Usage(format!(
            "{} is mounted, and the directory below can not be looked at: stop spoolfs first \
             (systemctl stop spoolfs), or take a dead mount away with \"spoolfs bypass\"",
            config.mountpoint.display()
        )));
    }
    crate::daemon::encryption::open(config, None).map_err(|e| Exit::Usage(e.to_string()))?;
    let mut targets = Vec::new();
    for target in &config.targets {
        let opened = store::open(&crate::daemon::target_options(target));
        targets.push((opened.map_err(|e| Exit::Usage(e.to_string()))?, target.required));
    }
    let options = fsck::Options {
        catalog: catalog::Options {
            state_dir: config.state_dir.clone(),
            runtime_dir: config.runtime_dir.clone(),
            clock: Arc::new(SystemClock),
            node: config.node.clone().unwrap_or_default(),
        },
        lower: config.mountpoint.clone(),
        targets,
        by_rule: config.policies.iter().any(|p| !p.treatment.targets.are_usual()),
        identities: crate::daemon::identities(config).unwrap_or_else(|why| Identities::none(&why)),
        deep: arguments.deep,
        repair: arguments.repair,
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|e| Exit::Usage(e.to_string()))?;
    runtime.block_on(fsck::run(&options)).map_err(|e| Exit::Usage(e.to_string()))
}

fn words(report: &Report, arguments: &Arguments) -> String {
    let mut text = String::new();
    for finding in &report.repaired {
        text.push_str(&format!("repaired, rule {}: {}\n", finding.rule, finding.place));
    }
    report.findings.iter().for_each(|finding| text.push_str(&line(finding)));
    let looked = &report.looked;
    text.push_str(&format!(
        "{} names, {} objects, {} journal segments, {} hashed: {}\n",
        looked.names,
        looked.objects,
        looked.segments,
        humane_size(looked.bytes_hashed),
        if report.clean { "clean" } else { "not clean" }
    ));
    if !arguments.repair && report.findings.iter().any(Finding::is_repairable) {
        text.push_str("Run it again with --repair to repair what can be.\n");
    }
    text
}

fn line(finding: &Finding) -> String {
    format!(
        "{}, rule {}: {}\n  expected {}\n  found {}\n  {}\n",
        finding.severity.word(),
        finding.rule,
        finding.place,
        finding.expected,
        finding.found,
        finding.cure
    )
}
