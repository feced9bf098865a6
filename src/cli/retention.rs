//! `spoolfs retention`.

use super::context::{Common, Everywhere};
use super::find::times;
use super::{Context, Exit, output};
use crate::control::{FileSum, PlanReport, Request, RetentionReport, RulePlan};
use crate::units::humane_size;

pub(super) const EXAMPLES: &str = "Examples:
  spoolfs retention plan --at 2027-01-01
  spoolfs retention plan --config new.toml --json
  spoolfs retention run

plan shows what would be done, run deletes what has expired. docs/POLICY.md has the rules.";

const PLAN: &str = "Examples:
  spoolfs retention plan
  spoolfs retention plan --at 2027-01-01
  spoolfs retention plan --config new.toml --at 2027-01-01 --json

What the rules of the configuration file, in force or not, would do until then, by rule: how many files
would be archived, lose their local copies, and be deleted everywhere. Nothing is changed by it. Each
file counts for every step that it comes to; what is recorded until then does not count.";

const RUN: &str = "Examples:
  spoolfs retention run
  spoolfs retention run --now
  spoolfs retention run --confirm

Deletes what the rules of [[policy]] let expire, in all targets and here, without waiting for the next
look. Exit status 1 if something that is due stays.";

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    everywhere: Everywhere,
    #[command(subcommand)]
    what: What,
}

impl Arguments {
    pub fn common(&self) -> &Common {
        &self.everywhere.0
    }
}

#[derive(Debug, clap::Subcommand)]
enum What {
    /// Show what the rules would archive, release and delete
    #[command(after_help = PLAN)]
    Plan(Plan),
    /// Delete now what has expired
    #[command(after_help = RUN)]
    Run(Run),
}

#[derive(Debug, clap::Args)]
struct Plan {
    /// Until then: "2026-11-21" (its end) or "2026-11-21 08:00"; now, unless given
    #[arg(long, value_name = "DATE")]
    at: Option<String>,
}

#[derive(Debug, clap::Args)]
pub(super) struct Run {
    /// Do not wait for 72 hours after the rules changed
    #[arg(long)]
    now: bool,
    /// All that is due now may go, also more than may be deleted in a day
    #[arg(long)]
    confirm: bool,
}

pub(super) fn run(arguments: &Arguments) -> Result<(), Exit> {
    match &arguments.what {
        What::Plan(asked) => plan(arguments.common(), asked),
        What::Run(asked) => delete(arguments.common(), asked),
    }
}

fn plan(common: &Common, asked: &Plan) -> Result<(), Exit> {
    let (_, at) = times(None, asked.at.as_deref()).map_err(|_| {
        let text = asked.at.as_deref().unwrap_or_default();
        Exit::Usage(format!(
            "--at {text:?} is no time; write \"2026-11-21\" or \"2026-11-21 08:00\""
        ))
    })?;
    let context = Context::load(common)?;
    let file = std::path::absolute(&common.config).unwrap_or_else(|_| common.config.clone());
    let request = Request::RetentionPlan { config: file.into(), at };
    let report: PlanReport = context.ask(&request, "looked at")?;
    if context.json {
        output::json(&report);
    } else {
        output::text(&planned(&report));
    }
    Ok(())
}

fn planned(report: &PlanReport) -> String {
    let head = ["rule", "archived", "released", "expired", "held"];
    let mut rows = vec![head.map(str::to_owned).to_vec()];
    let sum = |sum: FileSum| match sum.files {
        0 => "-".to_owned(),
        files => format!("{files}, {}", humane_size(sum.bytes)),
    };
    let row = |name: &str, plan: &RulePlan| {
        let sums = [plan.archive, plan.release, plan.expire, plan.held].map(sum);
        [vec![name.to_owned()], sums.to_vec()].concat()
    };
    rows.extend(report.rules.iter().map(|plan| row(&plan.rule, plan)));
    rows.push(row("all", &report.total));
    let mut text = format!("Until {}:\n", output::when(report.at));
    text.push_str(&output::table(&rows));
    let (files, most) = (report.files, report.max_delete_per_day);
    text.push_str(&format!("Of {files} files {most} may expire in a day.\n"));
    if report.total.expire.files > most {
        text.push_str("More would stop there until `spoolfs retention run --confirm`.\n");
    }
    if report.others {
        text.push_str(
            "These are not the rules in force: nothing expires for 72 hours after they are.\n",
        );
    }
    if let Some(halted) = &report.halted {
        text.push_str(&format!("Nothing expires now: {halted}\n"));
    }
    for one in &report.costs {
        let (stay, go) = (humane_size(one.bytes), humane_size(one.expired));
        let (monthly, saved) = (one.monthly.humane(), one.saved.humane());
        text.push_str(&format!(
            "Target {:?}: {stay} stay, for {monthly} a month; {go} go, which saves {saved}.\n",
            one.target
        ));
    }
    report.notes.iter().for_each(|note| text.push_str(&format!("{note}\n")));
    text
}

fn delete(common: &Common, asked: &Run) -> Result<(), Exit> {
    let context = Context::load(common)?;
    run_now(&context, asked, false)
}

/// Deletes what is due, or only what of it is in the trash.
pub(super) fn run_now(context: &Context, asked: &Run, trash: bool) -> Result<(), Exit> {
    let request = Request::Retention { now: asked.now, confirm: asked.confirm, trash };
    let report: RetentionReport = context.ask(&request, "deleted")?;
    if context.json {
        output::json(&report);
    } else {
        output::text(&words(&report, trash));
    }
    let all = report.kept == 0 && report.left == 0 && report.halted.is_none();
    if all { Ok(()) } else { Err(Exit::Shown) }
}

fn words(report: &RetentionReport, trash: bool) -> String {
    let (files, bytes) = (report.files, humane_size(report.bytes));
    let mut text = match trash {
        true => format!("The trash was emptied of {files} files, {bytes}\n"),
        false => format!("{files} files expired, {bytes}\n"),
    };
    let why = report.why.as_deref().unwrap_or("see the daemon's log");
    if report.kept > 0 {
        text.push_str(&format!("{} that are due stay for now: {why}\n", report.kept));
    }
    if report.left > 0 {
        let left = report.left;
        text.push_str(&format!("Of {left} the objects are not deleted yet: {why}\n"));
    }
    if let Some(halted) = &report.halted {
        text.push_str(&format!("Halted: {halted}\n"));
    }
    text
}
