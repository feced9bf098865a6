//! `spoolfs retention`.

use super::context::Common;
use super::{Context, Exit, output};
use crate::control::{Request, RetentionReport};
use crate::units::humane_size;

pub(super) const EXAMPLES: &str = "Examples:
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

/// The options of every command, before and after the word that says what is to be done.
#[derive(Clone, Debug)]
struct Everywhere(Common);

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

#[derive(Debug, clap::Subcommand)]
enum What {
    /// Delete now what has expired
    #[command(after_help = EXAMPLES)]
    Run(Run),
}

#[derive(Debug, clap::Args)]
struct Run {
    /// Do not wait for 72 hours after the rules changed
    #[arg(long)]
    now: bool,
    /// All that is due now may go, also more than may be deleted in a day
    #[arg(long)]
    confirm: bool,
}

pub(super) fn run(arguments: &Arguments) -> Result<(), Exit> {
    match &arguments.what {
        What::Run(asked) => delete(arguments.common(), asked),
    }
}

fn delete(common: &Common, asked: &Run) -> Result<(), Exit> {
    let context = Context::load(common)?;
    let request = Request::Retention { now: asked.now, confirm: asked.confirm };
    let report: RetentionReport = context.ask(&request, "deleted")?;
    if context.json {
        output::json(&report);
    } else {
        output::text(&words(&report));
    }
    let all = report.kept == 0 && report.left == 0 && report.halted.is_none();
    if all { Ok(()) } else { Err(Exit::Shown) }
}

fn words(report: &RetentionReport) -> String {
    let mut text = format!("{} files expired, {}\n", report.files, humane_size(report.bytes));
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
