//! `spoolfs audit`.

use super::context::{Common, Context, Everywhere};
use super::find::times;
use super::{Exit, output};
use crate::audit::{self, Anchor, AuditError, Fault, Filter, Finding, Left, Verdict};
use crate::codec::seal::Identities;
use crate::control::{EraseReport, Request};
use crate::limits;
use crate::store::audit::{HeadKey, PartKey, parse_head, parse_part, prefix_of};
use crate::store::{self, Store, StoreError, StoreErrorKind};
use serde_json::Value;
use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

pub(super) const EXAMPLES: &str = "Examples:
  spoolfs audit verify
  spoolfs audit verify --against offsite --json
  spoolfs audit show --since 2026-11-20 --recording 2026/11/20/out-5551212.wav
  spoolfs audit erase --subject 02079460001 --dry-run

docs/AUDIT.md explains the log, and how to check it without spoolfs.";

const VERIFY: &str = "Examples:
  spoolfs audit verify
  spoolfs audit verify --against offsite

Exit status: 0 valid, 1 something is wrong with it, 2 it could not be looked at. Who may write the
log's files could write all of it anew: only --against shows that.";

const ERASE: &str = "Examples:
  spoolfs audit erase --subject 02079460001 --dry-run
  spoolfs audit erase --subject \"J. Smith\"

Everything in the log that tells of the subject is shown as \"(erased)\" from then on, and nobody can
find out any more what it was. The log itself is not changed, and stays valid. Recordings, their
names, and call records are not touched.";

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    everywhere: Everywhere,
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, clap::Subcommand)]
enum Action {
    /// Check that nothing in the log was changed, removed or put in afterwards.
    #[command(after_help = VERIFY)]
    Verify(VerifyArguments),
    /// Show what is on record.
    Show(ShowArguments),
    /// Erase what the log's pseudonyms of a person or number stand for.
    #[command(after_help = ERASE)]
    Erase(EraseArguments),
}

#[derive(Debug, clap::Args)]
struct VerifyArguments {
    /// Compare it with what this target was told
    #[arg(long, value_name = "TARGET")]
    against: Option<String>,
}

#[derive(Debug, clap::Args)]
struct ShowArguments {
    /// Happened then or later: "2026-11-21" or "2026-11-21 08:00"
    #[arg(long, value_name = "TIME")]
    since: Option<String>,
    /// Happened before, or on that day
    #[arg(long, value_name = "TIME")]
    until: Option<String>,
    /// Only of this recording: a path, or its number
    #[arg(long, value_name = "PATH")]
    recording: Option<String>,
    /// At most so many, the newest
    #[arg(long, value_name = "N", default_value_t = 10_000)]
    limit: usize,
}

#[derive(Debug, clap::Args)]
struct EraseArguments {
    /// The name, number or path, as a whole word of what is erased
    #[arg(long, value_name = "TEXT")]
    subject: String,
    /// Only show what would be erased
    #[arg(long)]
    dry_run: bool,
}

impl Arguments {
    pub fn common(&self) -> &Common {
        &self.everywhere.0
    }
}

pub(super) fn run(arguments: &Arguments) -> Result<(), Exit> {
    let context = Context::load(arguments.common())?;
    match &arguments.action {
        Action::Verify(a) => verify(&context, a),
        Action::Show(a) => show(&context, a),
        Action::Erase(a) => erase(&context, a),
    }
}

fn unusable(error: AuditError) -> Exit {
    Exit::Usage(error.to_string())
}

fn verify(context: &Context, arguments: &VerifyArguments) -> Result<(), Exit> {
    let dir = audit::directory(&context.config.state_dir);
    let mut verdict = settled(&dir, &[])?;
    if let Some(name) = &arguments.against {
        verdict = compared(context, &dir, name, &verdict)?;
    }
    if context.json {
        output::json(&verdict);
    } else {
        output::text(&words(&verdict, arguments.against.as_deref()));
    }
    if verdict.valid { Ok(()) } else { Err(Exit::Shown) }
}

/// The verdict; a line that is just being written is no torn one.
fn settled(dir: &Path, anchors: &[Anchor]) -> Result<Verdict, Exit> {
    let look = || audit::verify(dir, anchors).map_err(unusable);
    let mut verdict = look()?;
    for _ in 0..limits::AUDIT_LOOKS {
        let moving = |f: &Finding| matches!(f.fault, Fault::Torn | Fault::EndMissing);
        if !verdict.findings.iter().any(moving) {
            break;
        }
        std::thread::sleep(limits::AUDIT_LOOK_EVERY);
        verdict = look()?;
    }
    Ok(verdict)
}

/// What a target knows.
#[derive(Default)]
struct Known {
    heads: Vec<HeadKey>,
    parts: Vec<(PartKey, String, u64)>,
}

impl Known {
    fn anchors(&self) -> Vec<Anchor> {
        let of = |h: &HeadKey| Anchor { chain: h.chain.clone(), seq: h.seq, sha256: h.sha256 };
        self.heads.iter().map(of).collect()
    }
}

/// The verdict with what the target knows; asked for again if lines left since the log was seen to begin
/// with line `first`: the target may have been told of that after it was asked.
fn agreed<K>(
    mut first: u64,
    list: impl Fn() -> Result<K, Exit>,
    look: impl Fn(&K) -> Result<Verdict, Exit>,
) -> Result<(K, Verdict), Exit> {
    loop {
        let known = list()?;
        let verdict = look(&known)?;
        if verdict.valid || verdict.first <= first {
            return Ok((known, verdict));
        }
        first = verdict.first;
    }
}

fn compared(context: &Context, dir: &Path, name: &str, alone: &Verdict) -> Result<Verdict, Exit> {
    let target = context.config.targets.iter().find(|t| t.name == name).ok_or_else(|| {
        Exit::Usage(format!("there is no target {name:?} in {}", context.config.file.display()))
    })?;
    let unreadable = |e: StoreError| Exit::Usage(e.to_string());
    let store = store::open(&crate::daemon::target_options(target)).map_err(unreadable)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|e| Exit::Usage(e.to_string()))?;
    let node = alone.node.clone().or(context.config.node.clone()).unwrap_or_default();
    let list = || runtime.block_on(list(&store, &node)).map_err(unreadable);
    let chain = alone.chain.clone().unwrap_or_default();
    let (known, mut verdict) = agreed(alone.first, list, |known| settled(dir, &known.anchors()))?;
    let mut anchors = known.anchors();
    let mut sealed = None;
    if !verdict.valid {
        // Line by line, where it may be wrong.
        let from = verdict.anchored.unwrap_or(0);
        let identities = crate::daemon::identities(&context.config);
        let identities = identities.unwrap_or_else(|why| Identities::none(&why));
        for (part, key, size) in &known.parts {
            if part.chain == chain && part.last > from {
                let bytes = match runtime.block_on(store.get(key, 0..*size)) {
                    // It left since it was listed.
                    Err(error) if error.kind == StoreErrorKind::NotFound => continue,
                    got => got.map_err(unreadable)?,
                };
                match crate::store::journal::opened(bytes, &identities) {
                    Ok(bytes) => anchors.extend(audit::anchors_in(&chain, &bytes)),
                    Err(why) => {
                        let cure = "give the key, as `identity_file` in [read]";
                        let detail = format!("its lines are not compared: {why}; {cure}");
                        sealed =
                            Some(elsewhere(Fault::Sealed, &store.url(key), part.first, detail));
                        break;
                    }
                }
            }
        }
        verdict = settled(dir, &anchors)?;
    }
    sealed.into_iter().for_each(|finding| verdict.add(finding));
    if !anchors.iter().any(|a| a.chain == chain) {
        let detail = format!("target {name:?} was told nothing of this log");
        verdict.add(elsewhere(
            Fault::NotAnchored,
            &store.url(&prefix_of(store.prefix(), &node)),
            0,
            detail,
        ));
    }
    let others: BTreeSet<&str> = known.heads.iter().map(|h| h.chain.as_str()).collect();
    for other in others.into_iter().filter(|other| *other != chain) {
        let heads = known.heads.iter().filter(|h| h.chain == other);
        let last = heads.map(|h| h.seq).max().unwrap_or(0);
        let detail = format!("target {name:?} knows a log {other} of {last} lines or more");
        let place = store.url(&format!("{}{other}/", prefix_of(store.prefix(), &node)));
        verdict.add(elsewhere(Fault::OtherLog, &place, last, detail));
    }
    Ok(verdict)
}

fn elsewhere(fault: Fault, place: &str, seq: u64, detail: String) -> Finding {
    Finding { fault, file: place.to_owned(), line: 0, seq, detail }
}

async fn list(store: &Arc<dyn Store>, node: &str) -> Result<Known, StoreError> {
    let (prefix, mut after, mut known) =
        (prefix_of(store.prefix(), node), String::new(), Known::default());
    loop {
        let page = store.list(&prefix, &after).await?;
        let Some(last) = page.last() else { return Ok(known) };
        after.clone_from(&last.key);
        for listed in page {
            known.heads.extend(parse_head(&listed.key));
            let part = parse_part(&listed.key);
            known.parts.extend(part.map(|part| (part, listed.key, listed.size)));
        }
    }
}

fn words(verdict: &Verdict, against: Option<&str>) -> String {
    let mut text = String::new();
    for finding in &verdict.findings {
        let Finding { file, line, seq, detail, .. } = finding;
        let place = if *line > 0 { format!("{file}:{line}") } else { file.clone() };
        let what = serde_json::to_value(finding.fault).unwrap_or_default();
        let what = what.as_str().unwrap_or_default().replace('_', " ");
        text.push_str(&format!("{place}: line {seq} of the log: {what}: {detail}\n"));
    }
    if verdict.more > 0 {
        text.push_str(&format!("... and {} more.\n", verdict.more));
    }
    if let Some(Left { last, at, audit_keep, seq, .. }) = &verdict.left {
        text.push_str(&format!(
            "Lines 1 to {last} left on {at}, older than audit_keep {audit_keep:?}, as line {seq} tells.\n"
        ));
    }
    let Verdict { lines, files, last, .. } = verdict;
    let state = if verdict.valid { "valid" } else { "NOT VALID" };
    text.push_str(&format!("{lines} lines in {files} files, the last is {last}: {state}\n"));
    match (against, verdict.anchored) {
        (Some(target), Some(anchored)) => text.push_str(&format!(
            "Compared with {} of them in target {target:?}; up to {anchored} nothing was written anew.\n",
            verdict.compared
        )),
        (Some(_), None) => {}
        (None, _) => text.push_str("Not compared with a target; --against does.\n"),
    }
    if verdict.torn > 0 {
        text.push_str(&format!("{} ends were cut by crashes, and set aside.\n", verdict.torn));
    }
    if verdict.lost > 0 {
        text.push_str(&format!("{} events are lost, as the log tells.\n", verdict.lost));
    }
    text
}

fn show(context: &Context, arguments: &ShowArguments) -> Result<(), Exit> {
    let (since, until) = times(arguments.since.as_deref(), arguments.until.as_deref())?;
    let recording = arguments.recording.as_ref().map(|text| {
        // A path below the mount, or as the log has it.
        let below = context.relative(Path::new(text)).ok();
        below.map_or_else(|| text.clone(), |path| path.0.to_string_lossy().into_owned())
    });
    let filter = Filter { since, until, recording, limit: arguments.limit.max(1) };
    let dir = audit::directory(&context.config.state_dir);
    let shown = audit::show(&dir, &filter).map_err(unusable)?;
    if context.json {
        output::json(&serde_json::json!({ "lines": shown.lines, "more": shown.more }));
        return Ok(());
    }
    let mut text: String = shown.lines.iter().map(line).collect();
    if shown.more {
        text.push_str("There are older ones: choose --until, or a larger --limit.\n");
    } else if text.is_empty() {
        text.push_str("Nothing fits.\n");
    }
    output::text(&text);
    Ok(())
}

/// `2026-11-21T04:07:00Z  12  url_issued  uid 0 (spoolfs)  2026/a.wav  why`
fn line(line: &Value) -> String {
    let of = |key: &str| line.get(key);
    let plain = |value: &Value| match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    let told = |key: &str| of(key).map(&plain).unwrap_or_default();
    let who = match of("who").and_then(|w| w.get("user")) {
        None => "spoolfs".to_owned(),
        Some(user) => {
            let part = |key: &str| user.get(key).map(&plain);
            let uid = part("login_uid").or(part("uid")).unwrap_or_default();
            let program = part("program").map_or_else(String::new, |p| format!(" ({p})"));
            format!("uid {uid}{program}")
        }
    };
    let mut text = format!("{}  {}  {}  {who}", told("at"), told("seq"), told("event"));
    if let Some(path) = of("recording").and_then(|r| r.get("path")) {
        text.push_str(&format!("  {}", plain(path)));
    }
    for key in ["details", "why", "before", "after"] {
        if let Some(value) = of(key).filter(|v| !v.is_null()) {
            text.push_str(&format!("  {key}: {}", plain(value)));
        }
    }
    text.retain(|c| !c.is_control());
    text + "\n"
}

fn erase(context: &Context, arguments: &EraseArguments) -> Result<(), Exit> {
    let subject = arguments.subject.trim().to_owned();
    if subject.is_empty() {
        return Err(Exit::Usage("--subject is empty: say whom".to_owned()));
    }
    let request = Request::AuditErase { subject, dry_run: arguments.dry_run };
    let report: EraseReport = context.ask(&request, "erased")?;
    if context.json {
        output::json(&report);
        return Ok(());
    }
    let mut text: String = report.texts.iter().map(|text| format!("  {text}\n")).collect();
    let texts = if report.count == 1 { "text" } else { "texts" };
    text.push_str(&match report.dry_run {
        true => format!("{} {texts} would be erased from the audit log.\n", report.count),
        false => format!("{} {texts} erased from the audit log, which tells so.\n", report.count),
    });
    output::text(&text);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;

    #[test]
    fn a_target_is_asked_again_what_it_was_told_when_lines_left_meanwhile() {
        let asked = Cell::new(0);
        let list = || Ok(asked.replace(asked.get() + 1) + 1);
        // The target was told after it was asked first.
        let look = |known: &u32| Ok(Verdict { valid: *known > 1, first: 13, ..Verdict::default() });
        let Ok((known, verdict)) = agreed(1, list, look) else { panic!("it was looked at") };
        assert!(known == 2 && verdict.valid);
        // Nobody told it.
        asked.set(0);
        let look = |_: &u32| Ok(Verdict { valid: false, first: 13, ..Verdict::default() });
        let Ok((known, verdict)) = agreed(1, list, look) else { panic!("it was looked at") };
        assert!(known == 2 && !verdict.valid);
        let Ok((known, _)) = agreed(13, list, look) else { panic!("it was looked at") };
        assert_eq!(known, 3, "nothing left since: asked once");
    }
}
