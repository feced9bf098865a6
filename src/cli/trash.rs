//! `spoolfs trash`.

use super::context::{Common, Everywhere};
use super::{Context, Exit, moves, output, retention};
use crate::control::{Request, TrashItem, TrashReport, TrashRequest, TrashedReport, WirePath, utc};
use crate::limits;
use crate::recording::NodeId;
use crate::units::humane_size;
use clap::Subcommand;
use std::path::PathBuf;

pub(super) const EXAMPLES: &str = "Examples:
  spoolfs trash list
  spoolfs trash list /var/spool/asterisk/monitor/2026/10 --json
  spoolfs trash restore /var/spool/asterisk/monitor/2026/10/21/call.wav
  spoolfs trash restore --all
  spoolfs trash empty

What `rm` does to recordings is delete_mode in the table [delete] of the configuration.";

const LIST_EXAMPLES: &str = "Examples:
  spoolfs trash list
  spoolfs trash list 2026/10 --limit 50
  spoolfs trash list --json | jq '.recordings[].path'";

const RESTORE_EXAMPLES: &str = "Examples:
  spoolfs trash restore call.wav
  spoolfs trash restore 2026/10
  spoolfs trash restore 12345678901 --to restored
  spoolfs trash restore --all

A path of a directory means all that was deleted below it. What is restored is where it was, with its
times, owner and mode, or below the directory that --to names. An argument of digits alone is an ID
as `spoolfs trash list` shows it; write ./123 for a file of such a name.";

const EMPTY_EXAMPLES: &str = "Examples:
  spoolfs trash empty
  spoolfs trash empty --now --json

Deletes for good, in all targets, what was in the trash for `trash_keep` and what its rule of
[[policy]] lets go. Nothing else can be emptied: what no rule lets expire stays. It goes by itself, too,
at most a day later. Exit status 1 if something that is due stays.";

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    everywhere: Everywhere,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Show what is in the trash, deleted last first.
    #[command(after_help = LIST_EXAMPLES)]
    List(List),
    /// Bring recordings back out of the trash.
    #[command(after_help = RESTORE_EXAMPLES)]
    Restore(Restore),
    /// Delete for good what has expired in the trash.
    #[command(after_help = EMPTY_EXAMPLES)]
    Empty(retention::Run),
}

#[derive(Debug, clap::Args)]
struct List {
    /// Only what was deleted at or below these paths
    #[arg(value_name = "PATH")]
    paths: Vec<PathBuf>,
    /// At most so many
    #[arg(long, value_name = "N", default_value_t = 1000,
        value_parser = clap::value_parser!(u64).range(1..=limits::REPORT_PATHS_MAX as u64))]
    limit: u64,
}

#[derive(Debug, clap::Args)]
struct Restore {
    /// Recordings, directories, or IDs
    #[arg(value_name = "PATH|ID", required_unless_present = "all", conflicts_with = "all")]
    what: Vec<PathBuf>,
    /// Everything that is in the trash
    #[arg(long)]
    all: bool,
    /// Put it below this directory instead of where it was
    #[arg(long, value_name = "DIR")]
    to: Option<PathBuf>,
}

impl Arguments {
    pub fn common(&self) -> &Common {
        &self.everywhere.0
    }
}

pub(super) fn run(arguments: &Arguments) -> Result<(), Exit> {
    let context = Context::load(arguments.common())?;
    match &arguments.command {
        Command::List(a) => list(&context, a),
        Command::Restore(a) => restore(&context, a),
        Command::Empty(a) => retention::run_now(&context, a, true),
    }
}

fn list(context: &Context, arguments: &List) -> Result<(), Exit> {
    let paths = context.all_relative(&arguments.paths)?;
    let request = Request::Trash(TrashRequest::List { paths, limit: arguments.limit });
    let report: TrashReport = context.ask(&request, "")?;
    if context.json {
        output::json(&report);
    } else {
        output::text(&words(context, &report));
    }
    Ok(())
}

fn words(context: &Context, report: &TrashReport) -> String {
    let mut text = String::new();
    report.recordings.iter().for_each(|one| text.push_str(&line(context, one)));
    if report.more {
        text.push_str("There are more: give a PATH, or --limit.\n");
    }
    let (files, bytes) = (output::files(report.files), humane_size(report.bytes));
    text + &format!("In the trash: {files}, {bytes}\n")
}

fn line(context: &Context, one: &TrashedReport) -> String {
    let place = match (one.archived, one.local) {
        (true, _) => "",
        (false, _) => "  not archived yet",
    };
    format!(
        "{}  deleted {} UTC  {}{place}  {}\n",
        one.id,
        utc::people(one.deleted_at),
        humane_size(one.size),
        context.shown(&one.path)
    )
}

fn items(context: &Context, what: &[PathBuf], all: bool) -> Result<Vec<TrashItem>, Exit> {
    if all {
        return Ok(vec![TrashItem::Path(WirePath::default())]);
    }
    let item = |path: &PathBuf| match path.to_str().and_then(|text| text.parse().ok()) {
        Some(id) => Ok(TrashItem::Id(NodeId(id))),
        None => match context.relative(path)? {
            whole if whole.0.as_os_str().is_empty() => {
                Err(Exit::Usage("that is all of it; say so with --all".to_owned()))
            }
            path => Ok(TrashItem::Path(path)),
        },
    };
    what.iter().map(item).collect()
}

fn restore(context: &Context, arguments: &Restore) -> Result<(), Exit> {
    let items = items(context, &arguments.what, arguments.all)?;
    let to = arguments.to.as_ref().map(|to| context.relative(to)).transpose()?;
    moves::ask(context, "restored", &Request::Trash(TrashRequest::Restore { items, to }))
}
