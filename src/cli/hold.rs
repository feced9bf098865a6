//! `spoolfs hold`.

use super::context::{Common, Everywhere, list};
use super::output::{files, when};
use super::{Context, Exit, output};
use crate::clock::Timestamp;
use crate::control::{
    FindQuery, HeldReport, HoldAddReport, HoldLiftReport, HoldListReport, HoldReport, HoldRequest,
    HoldShowReport, LiftAskedReport, LockReport, Request, utc,
};
use crate::units::humane_size;
use clap::Subcommand;
use std::path::PathBuf;

pub(super) const EXAMPLES: &str = "Examples:
  spoolfs hold add --case \"Smith v. Jones\" --reason \"letter of 2026-11-20\" 2026/10/21/call.wav
  spoolfs hold add --case \"Smith v. Jones\" --reason \"letter of 2026-11-20\" --number 02079460001
  spoolfs hold list
  spoolfs hold show --case \"Smith v. Jones\"
  spoolfs hold lift --case \"Smith v. Jones\" --reason \"settled\"

What is on hold can not be deleted, replaced, expired or, some time after its call, changed: not by
users, not by root through the mount, and by no command. Releasing local copies goes on. See
docs/HOLDS.md for what a hold can not do.";

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

#[derive(Debug, Subcommand)]
enum What {
    /// Put a hold on recordings, and archive them at once
    #[command(after_help = EXAMPLES)]
    Add(Add),
    /// Show all holds
    #[command(after_help = EXAMPLES)]
    List,
    /// Show what holds are on, with every content that is kept
    #[command(after_help = EXAMPLES)]
    Show(Show),
    /// Lift a hold, or all of a case
    #[command(after_help = EXAMPLES)]
    Lift(Lift),
}

#[derive(Debug, clap::Args)]
struct Add {
    /// The case that needs them
    #[arg(long, value_name = "NAME", value_parser = said)]
    case: String,
    /// Why, for whoever asks in some years
    #[arg(long, value_name = "TEXT", value_parser = said)]
    reason: String,
    /// Recordings, each with its sidecars; or directories with all that is below them now
    #[arg(value_name = "PATH", required_unless_present = "query")]
    paths: Vec<PathBuf>,
    #[command(flatten)]
    query: Query,
}

/// Recordings by what the PBX knows of them, also those made later. All that is given must fit.
#[derive(Debug, clap::Args)]
#[group(id = "query", multiple = true)]
struct Query {
    /// Also calls with this number of either side, or one that ends so
    #[arg(long)]
    number: Option<String>,
    /// Also calls of this campaign or in-group
    #[arg(long)]
    campaign: Option<String>,
    /// Also calls of this agent or user
    #[arg(long)]
    agent: Option<String>,
    /// Also the call with this linkedid, or any uniqueid
    #[arg(long, value_name = "ID")]
    linkedid: Option<String>,
    /// Also calls that began then or later: "2026-11-21" or "2026-11-21 08:00"
    #[arg(long, value_name = "TIME")]
    from: Option<String>,
    /// Also calls that began before, or on that day
    #[arg(long, value_name = "TIME")]
    to: Option<String>,
}

impl Query {
    fn find(&self) -> Result<Option<FindQuery>, Exit> {
        let (from, to) = super::find::times(self.from.as_deref(), self.to.as_deref())?;
        let query = FindQuery {
            number: self.number.clone(),
            campaign: self.campaign.clone(),
            agent: self.agent.clone(),
            linkedid: self.linkedid.clone(),
            from,
            to,
            ..FindQuery::default()
        };
        Ok(Some(query).filter(|query| *query != FindQuery::default()))
    }
}

#[derive(Debug, clap::Args)]
struct Show {
    /// The holds of a case
    #[arg(long, value_name = "NAME")]
    case: Option<String>,
    /// The hold with this number
    #[arg(long, value_name = "NUMBER")]
    id: Option<u64>,
}

#[derive(Debug, clap::Args)]
struct Lift {
    /// All holds of a case
    #[arg(long, value_name = "NAME", required_unless_present = "id")]
    case: Option<String>,
    /// Only the hold with this number
    #[arg(long, value_name = "NUMBER")]
    id: Option<u64>,
    /// Why
    #[arg(long, value_name = "TEXT", value_parser = said)]
    reason: String,
}

fn said(text: &str) -> Result<String, String> {
    let text = text.trim();
    if text.is_empty() {
        return Err("it is empty; say it in a few words".to_owned());
    }
    if text.len() > 1000 || text.contains(char::is_control) {
        return Err("write at most 1,000 bytes, on one line".to_owned());
    }
    Ok(text.to_owned())
}

pub(super) fn run(arguments: &Arguments) -> Result<(), Exit> {
    let context = Context::load(arguments.common())?;
    match &arguments.what {
        What::Add(arguments) => add(&context, arguments),
        What::List => {
            let report: HoldListReport = context.ask(&Request::Hold(HoldRequest::List), "")?;
            print(&context, &report, |report| match report.holds.is_empty() {
                true => "There are no holds.\n".to_owned(),
                false => report.holds.iter().map(|one| words(&context, one)).collect(),
            });
            Ok(())
        }
        What::Show(Show { case, id }) => {
            let request = HoldRequest::Show { case: case.clone(), id: *id };
            let report: HoldShowReport = context.ask(&Request::Hold(request), "")?;
            print(&context, &report, |report| shown(&context, report));
            Ok(())
        }
        What::Lift(Lift { case, id, reason }) => {
            let (case, id, reason) = (case.clone(), *id, reason.clone());
            let request = HoldRequest::Lift { case, id, reason };
            let report: HoldLiftReport = context.ask(&Request::Hold(request), "")?;
            print(&context, &report, lifted);
            Ok(())
        }
    }
}

fn print<T: serde::Serialize>(context: &Context, report: &T, words: impl Fn(&T) -> String) {
    if context.json {
        output::json(report);
    } else {
        output::text(&words(report));
    }
}

fn add(context: &Context, arguments: &Add) -> Result<(), Exit> {
    let paths = context.all_relative(&arguments.paths)?;
    let (case, reason) = (arguments.case.clone(), arguments.reason.clone());
    let query = arguments.query.find()?;
    let request = HoldRequest::Add { case, reason, paths, query };
    let report: HoldAddReport = context.ask(&Request::Hold(request), "archived")?;
    print(context, &report, added);
    for path in &report.missing {
        output::note(&format!("spoolfs: {}: there is no such file\n", context.shown(path)));
    }
    if report.missing.is_empty() { Ok(()) } else { Err(Exit::Shown) }
}

fn added(report: &HoldAddReport) -> String {
    let mut text = format!(
        "hold {} of case {:?} is on {}: {} archived",
        report.id,
        report.case,
        files(report.recordings),
        report.archived
    );
    if report.open > 0 {
        text.push_str(&format!(", {} being recorded", report.open));
    }
    let waiting = report.waiting.len() as u64 + report.more_waiting;
    if waiting > 0 {
        text.push_str(&format!(", {waiting} not archived yet"));
    }
    text.push('\n');
    text.push_str(&list("Not archived yet, and tried again", &report.waiting, report.more_waiting));
    report.notes.iter().for_each(|note| text.push_str(&format!("{note}\n")));
    text
}

fn words(context: &Context, hold: &HoldReport) -> String {
    let mut text = format!(
        "hold {}  case {:?}  {}  {}\n  since {} by {}: {}\n",
        hold.id,
        hold.case,
        if hold.lifted.is_some() { "lifted" } else { "on" },
        files(hold.recordings),
        when(hold.at),
        hold.by,
        hold.reason
    );
    for path in hold.paths.iter().take(5) {
        text.push_str(&format!("  on {}\n", context.shown(path)));
    }
    if hold.paths.len() > 5 {
        text.push_str(&format!("  and {} more\n", hold.paths.len() - 5));
    }
    if let Some(query) = &hold.query {
        text.push_str(&format!("  on calls {}\n", asked(query)));
    }
    if let Some(lifted) = &hold.lifted {
        let (at, by, reason) = (when(lifted.at), &lifted.by, &lifted.reason);
        text.push_str(&format!("  lifted {at} by {by}: {reason}\n"));
    }
    if let Some(LiftAskedReport { at, by, reason, until }) = &hold.lift_asked {
        let (at, until) = (when(*at), when(*until));
        text.push_str(&format!(
            "  to be lifted, asked for {at} by {by}: {reason}\n  another user must lift it, too, before \
             {until}\n"
        ));
    }
    hold.targets.iter().for_each(|one| text.push_str(&protection(one)));
    text
}

fn protection(one: &LockReport) -> String {
    let LockReport { target, objects, locked, .. } = one;
    let mut text = match (one.locks, &one.why) {
        (None, _) => format!("  in target {target:?} it is not known yet whether it is locked"),
        (Some(false), why) => {
            let why = why.as_deref().unwrap_or("it can not");
            format!("  in target {target:?} not locked: {why}")
        }
        (Some(true), _) => format!("  in target {target:?} {locked} of {objects} objects locked"),
    };
    if let Some(error) = &one.error {
        text.push_str(&format!("; the last failure: {error}"));
    }
    text.push('\n');
    text
}

fn asked(query: &FindQuery) -> String {
    let time = |at: &Timestamp| format!("{} UTC", utc::people(*at));
    let parts = [
        query.number.as_ref().map(|text| format!("with number {text}")),
        query.campaign.as_ref().map(|text| format!("of campaign {text}")),
        query.agent.as_ref().map(|text| format!("of agent {text}")),
        query.linkedid.as_ref().map(|text| format!("with id {text}")),
        query.from.as_ref().map(|at| format!("from {}", time(at))),
        query.to.as_ref().map(|at| format!("before {}", time(at))),
    ];
    parts.into_iter().flatten().collect::<Vec<_>>().join(", ")
}

fn shown(context: &Context, report: &HoldShowReport) -> String {
    let mut text = String::new();
    for one in &report.holds {
        text.push_str(&words(context, &one.hold));
        one.recordings.iter().for_each(|held| text.push_str(&recording(context, held)));
        if one.more > 0 {
            text.push_str(&format!("  and {} more\n", one.more));
        }
    }
    if text.is_empty() { "Nothing is on hold.\n".to_owned() } else { text }
}

fn recording(context: &Context, held: &HeldReport) -> String {
    let state = held.state.map_or("not there", crate::recording::State::word);
    let sure = if held.provisional { ", until its call record tells" } else { "" };
    let mut text = format!("  {}  {state}{sure}\n", context.shown(&held.path));
    for one in &held.generations {
        let (size, urls) = (humane_size(one.size), one.urls.join(" "));
        let locked = match one.locked_in.is_empty() {
            true => String::new(),
            false => format!("  locked in {}", one.locked_in.join(" ")),
        };
        text.push_str(&format!(
            "    {}  {size}  {}  {urls}{locked}\n",
            one.generation.0, one.sha256
        ));
    }
    text
}

fn lifted(report: &HoldLiftReport) -> String {
    let numbers = |ids: &[u64]| ids.iter().map(u64::to_string).collect::<Vec<_>>().join(", ");
    let mut text = String::new();
    if !report.waiting.is_empty() {
        text.push_str(&format!(
            "not lifted yet: {}; another user must lift it, too, within 7 days (`four_eyes`)\n",
            numbers(&report.waiting)
        ));
    }
    if !report.lifted.is_empty() {
        text.push_str(&format!(
            "lifted {} of {}; what no other hold is on is not expired before {}\n",
            numbers(&report.lifted),
            files(report.recordings),
            when(report.kept_until)
        ));
    }
    text
}
