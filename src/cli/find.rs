//! `spoolfs find`.

use super::context::Common;
use super::{Context, Exit, output};
use crate::calls::Zone;
use crate::clock::{Clock, SharedClock, SystemClock, Timestamp};
use crate::control::{CallReport, FindQuery, FindReport, FoundReport, Request, utc};
use crate::daemon::{calls as asked, find_left};
use crate::limits;
use crate::recording::State;
use std::path::PathBuf;
use std::sync::Arc;

pub(super) const EXAMPLES: &str = "Examples:
  spoolfs find --number 02079460001
  spoolfs find --agent 2001 --from 2026-11-21 --state released
  spoolfs find --linkedid 1795228029.1 --calls
  spoolfs find --campaign SALES --from \"2026-11-21 08:00\" --to \"2026-11-21 12:00\" --json
  spoolfs find --state closed /var/spool/asterisk/monitor/2026/11

Times are those of this machine. All that is given must fit. A number of five digits or more is
compared by its end. --number, --campaign, --agent, --linkedid and --calls need call records:
[calls] in the configuration. Without them a recording began when its name says, or else when it was
last written to.";

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    pub common: Common,
    /// A number of either side, or how it ends
    #[arg(long)]
    number: Option<String>,
    /// A campaign or in-group
    #[arg(long)]
    campaign: Option<String>,
    /// An agent or user
    #[arg(long)]
    agent: Option<String>,
    /// Began then or later: "2026-11-21" or "2026-11-21 08:00"
    #[arg(long, value_name = "TIME")]
    from: Option<String>,
    /// Began before, or on that day
    #[arg(long, value_name = "TIME")]
    to: Option<String>,
    /// The linkedid, or any uniqueid, of a call
    #[arg(long, value_name = "ID")]
    linkedid: Option<String>,
    /// Only recordings in this state
    #[arg(long, value_parser = ["recording", "closed", "archived", "released"])]
    state: Option<String>,
    /// Only recordings in or below this directory, or this one; several: in any of them
    #[arg(value_name = "PATH")]
    paths: Vec<PathBuf>,
    /// A row for each call, its longest leg first
    #[arg(long)]
    calls: bool,
    /// At most so many
    #[arg(long, value_name = "N", default_value_t = limits::CALL_ANSWER_MAX as u64,
        value_parser = clap::value_parser!(u64).range(1..=limits::CALL_ANSWER_MAX as u64))]
    limit: u64,
}

pub(super) fn run(arguments: &Arguments) -> Result<(), Exit> {
    let context = Context::load(&arguments.common)?;
    let (from, to) = times(arguments.from.as_deref(), arguments.to.as_deref())?;
    let word = |state: &String| State::ALL.into_iter().find(|s| s.word() == state);
    let query = FindQuery {
        number: arguments.number.clone(),
        campaign: arguments.campaign.clone(),
        agent: arguments.agent.clone(),
        from,
        to,
        linkedid: arguments.linkedid.clone(),
        state: arguments.state.as_ref().and_then(word),
        paths: context.all_relative(&arguments.paths)?,
        calls: arguments.calls,
        limit: arguments.limit,
    };
    let request = Request::Find { query: query.clone() };
    let report: FindReport = context.ask_or(&request, |config| {
        let clock: SharedClock = Arc::new(SystemClock);
        match config.calls {
            Some(_) => asked::find(&asked::left(config, &clock)?, &query),
            None => find_left(config, &clock, &query),
        }
    })?;
    if context.json {
        output::json(&report);
    } else {
        output::text(&words(&context, &report));
    }
    Ok(())
}

/// What `--from` and `--to` mean, by the clock of this machine.
pub(super) fn times(
    from: Option<&str>,
    to: Option<&str>,
) -> Result<(Option<Timestamp>, Option<Timestamp>), Exit> {
    let zone = Zone::of(SystemClock.zone());
    let wrong = |key: &str, text: &str| {
        Exit::Usage(format!(
            "--{key} {text:?} is no time; write \"2026-11-21\" or \"2026-11-21 08:00\""
        ))
    };
    let first = from.map(|text| zone.typed(text).ok_or_else(|| wrong("from", text)));
    let last = to.map(|text| zone.typed_end(text).ok_or_else(|| wrong("to", text)));
    let (first, last) = (first.transpose()?, last.transpose()?);
    if first.zip(last).is_some_and(|(first, last)| first >= last) {
        return Err(Exit::Usage("--from is not before --to; exchange them".to_owned()));
    }
    Ok((first, last))
}

fn words(context: &Context, report: &FindReport) -> String {
    let mut text = String::new();
    report.recordings.iter().for_each(|found| text.push_str(&recording(context, found)));
    report.calls.iter().for_each(|found| text.push_str(&call(context, found)));
    if report.more {
        text.push_str("There are more: narrow it with --from and --to.\n");
    } else if text.is_empty() {
        text.push_str("Nothing fits.\n");
    }
    text
}

fn state(state: Option<State>) -> &'static str {
    state.map_or("unknown", State::word)
}

/// "a, b" of what is there.
fn joined(parts: &[(&str, &str)]) -> String {
    let there = parts.iter().filter(|(_, value)| !value.is_empty());
    there.map(|(name, value)| format!("  {name}{value}")).collect()
}

fn recording(context: &Context, found: &FoundReport) -> String {
    let sides = match (found.src.is_empty(), found.dst.is_empty()) {
        (true, true) => String::new(),
        _ => format!("  {} > {}", found.src, found.dst),
    };
    let more = joined(&[
        ("campaign ", &found.campaign),
        ("in-group ", &found.ingroup),
        ("agent ", &found.agent),
        ("phone ", &found.phone),
        ("call ", &found.linkedid),
        ("", if found.matched { "" } else { "(no call record)" }),
    ]);
    let (at, path) = (utc::people(found.start), context.shown(&found.path));
    format!("{path}\n  {}  {at} UTC  {} s{sides}{more}\n", state(found.state), found.seconds)
}

fn call(context: &Context, call: &CallReport) -> String {
    let more = joined(&[
        ("campaign ", &call.campaign),
        ("agent ", &call.agent),
        ("", if call.complete { "" } else { "(goes on)" }),
    ]);
    let mut text = format!(
        "{}  {} UTC  {} s  {} > {}{more}\n",
        call.linkedid,
        utc::people(call.start),
        call.seconds,
        call.src,
        call.dst
    );
    for leg in &call.legs {
        let path = context.shown(&leg.path);
        text.push_str(&format!("  {}  {} s  {path}\n", state(leg.state), leg.seconds));
    }
    text
}
