//! The planner's reasons as sentences for operators.

use super::error::Result;
use super::expiry;
use super::held;
use super::plan::{self, Action, Facts, Why};
use super::shared::Shared;
use super::space::Pressure;
use super::target::Standing;
use crate::catalog::Candidate;
use crate::clock::Timestamp;
use crate::lower::LowerError;
use crate::policy::Compress;
use crate::recording::{Kind, NodeId, State};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

fn partial(shared: &Shared, id: NodeId) -> String {
    let so_far = match shared.completions.error(id) {
        Some(error) => format!(" It failed, and is tried again: {error}."),
        None => String::new(),
    };
    format!(
        "It was written to while it was released, and can be read and written as ever; what was \
         archived of it is fetched behind, and then it is archived anew.{so_far}"
    )
}

/// The rule of a file, and when its times come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outlook {
    /// The name of the rule, or of all that it could be; nothing where there are no rules.
    pub rule: Option<String>,
    /// When it is archived, if it waits for that.
    pub archive_due: Option<Timestamp>,
    /// When its local copy is released, if it waits for that.
    pub release_due: Option<Timestamp>,
    /// When it expires; nothing: never, or not as far as is known.
    pub expire_due: Option<Timestamp>,
    /// Names of the targets that must hold it.
    pub must: Vec<String>,
}

/// The rule of a file, and when its times come; `None`: there is no such file.
pub(super) fn outlook(shared: &Shared, path: &Path) -> Result<Option<Outlook>> {
    let Some((_, row)) = shared.resolve(path)? else { return Ok(None) };
    let Some(it) = shared.candidate(row.id)? else { return Ok(None) };
    // As configured: how full the disk is today is not its rule.
    let rules = Arc::clone(&shared.configured.read());
    let facts = shared.facts(&rules);
    let chosen = facts.chosen(&it);
    let after = chosen.treatment.archive_after;
    let waits = it.row.state == State::Closed && it.row.attr.size > 0;
    let group = shared.catalog.group(it.parent, &it.stem)?;
    Ok(Some(Outlook {
        expire_due: expiry::term(shared, facts, &group).map(|term| term.at),
        must: facts.must(&it),
        rule: (!rules.policies.is_empty()).then(|| chosen.name()),
        archive_due: after.filter(|_| waits).map(|after| plan::closed_at(&it).plus(after)),
        release_due: plan::release_time(&it, facts).filter(|_| it.row.state == State::Archived),
    }))
}

/// Which rule it has, and why.
fn rule(it: &Candidate, facts: Facts<'_>) -> Option<String> {
    if facts.rules.policies.is_empty() || it.row.attr.kind != Kind::File {
        return None;
    }
    let chosen = facts.chosen(it);
    Some(match chosen.rules.first() {
        None => "Rule: none of [[policy]] fits it, so it is what [write_back] says.".to_owned(),
        Some(rule) if chosen.is_sure() && chosen.because.is_empty() => {
            format!("Rule: {:?}, which is for all.", rule.name)
        }
        Some(rule) if chosen.is_sure() => {
            format!("Rule: {:?}, because of {}.", rule.name, chosen.because.join(", "))
        }
        Some(_) => format!(
            "Rule: {}. Not all that they ask of its call is known yet, so each time is the safest \
             of theirs: archived at the earliest, kept the longest, in the targets of all.",
            chosen.name()
        ),
    })
}

/// When it expires, if a rule lets it.
fn expires(
    shared: &Shared,
    it: &Candidate,
    facts: Facts<'_>,
    group: &[Candidate],
) -> Result<Option<String>> {
    if facts.rules.shortest_expiry().is_none() || it.row.attr.kind != Kind::File {
        return Ok(None);
    }
    let Some(term) = expiry::term(shared, facts, group) else {
        let never = facts.chosen(it).treatment.expire.is_none();
        let why = "It does not expire before more is known of its call.";
        return Ok((!never).then(|| why.to_owned()));
    };
    let when = match term.at > facts.now {
        true => format!("expires in {}", words(facts.now.age_at(term.at))),
        false => format!("expired {} ago and is to be deleted", words(term.at.age_at(facts.now))),
    };
    shared.catalog.know_holds()?;
    let free = |one: &Candidate| shared.catalog.holds().let_expire(one.row.id, facts.now);
    let held = if group.iter().all(free) { "" } else { " A legal hold keeps it." };
    let halt = expiry::halted(shared).map(|halt| expiry::halted_words(halt, facts.now));
    let halt = halt.map_or_else(String::new, |why| format!(" But {why}."));
    Ok(Some(format!("By rule {} it {when}, with its group.{held}{halt}", term.rule)))
}

/// Why a file is where it is, and what happens to it next.
pub(super) fn explain(shared: &Shared, path: &Path) -> Result<Vec<String>> {
    let Some((_, row)) = shared.resolve(path)? else {
        return Ok(vec![
            match shared.lower.stat(path) {
                Ok(_) => {
                    "It is in the lower directory and not in the catalog yet; it is adopted soon."
                }
                Err(_) => "There is no such file.",
            }
            .to_owned(),
        ]);
    };
    let Some(it) = shared.candidate(row.id)? else {
        return Ok(vec!["It was deleted a moment ago.".into()]);
    };
    let rules = shared.rules();
    let facts = shared.facts(&rules);
    let group = shared.catalog.group(it.parent, &it.stem)?;
    let action = plan::next(&it, &group, facts);
    let mut out = vec![stands(&it, facts.now)];
    out.extend(rule(&it, facts));
    let asks = rules.asks_for_calls(&it.path) || rules.require_cdr.is_some();
    if let Some(why) = shared.calls.trouble().filter(|_| asks) {
        out.push(format!("Call records can not be asked now: {why}."));
    }
    out.push(next(&action, facts.now));
    out.extend(expires(shared, &it, facts, &group)?);
    if matches!(it.row.state, State::Closed | State::Archived)
        && it.row.attr.kind == Kind::File
        && matches!(shared.lower.quiet(&it.path), Err(LowerError::Busy { .. }))
    {
        out.push("A program has it open for writing, so it is left alone.".into());
    }
    if shared.space.pressure() != Pressure::None {
        out.push("The disk is above its high mark, so local copies are released early.".into());
    }
    if it.row.state != State::Archived && shared.pins.has(it.row.id) {
        out.push("It is pinned: once archived it stays local too.".into());
    }
    out.extend(held::explain(shared, it.row.id)?);
    if let Some(since) = it.row.suspect {
        out.push(format!(
            "SUSPECT: syncing it to the disk failed {} ago, so that it may be in memory only. It is \
             archived as soon as can be, and not released until the disk was proved to hold it.",
            words(since.age_at(facts.now))
        ));
    }
    if shared.lower.partial(it.row.id).is_some() {
        out.push(partial(shared, it.row.id));
    }
    if let Some(trouble) = shared.catalog.trouble_of(it.row.id)? {
        let tries = if trouble.attempts == 1 { "once" } else { "several times" };
        out.push(format!(
            "It failed {tries}, last {} ago: {}.",
            words(trouble.at.age_at(facts.now)),
            trouble.error
        ));
    }
    if it.row.state == State::Closed
        && let Some(opens) = rules.bandwidth.opens(facts.now, &shared.clock.zone())
    {
        out.push(format!(
            "Nothing is uploaded at this time of the day (`bandwidth`); uploads go on in {}. \
             `spoolfs archive` does not wait for that.",
            words(facts.now.age_at(opens))
        ));
    }
    out.extend(targets(shared, &it, facts)?);
    out.extend(deletion(&it, facts));
    Ok(out)
}

/// What becomes of it when somebody deletes it, where not the same becomes of all.
fn deletion(it: &Candidate, facts: Facts<'_>) -> Option<String> {
    let rules = facts.rules;
    let own = rules.policies.iter().any(|p| p.treatment.delete_mode != rules.delete_mode);
    if !own || it.row.attr.kind != Kind::File || it.row.state == State::Deleted {
        return None;
    }
    let by_path = rules.by_path(&it.path);
    let mode = by_path.treatment.delete_mode.word();
    Some(match by_path.is_sure() {
        true => format!("`rm`: delete_mode is {mode:?}, by rule {}.", by_path.name()),
        false => format!(
            "`rm`: delete_mode is {mode:?}, the safest of {}, since a deletion does not wait for what \
             is known of its call.",
            by_path.name()
        ),
    })
}

/// Which targets its rule wants it in, and what is wrong with them.
fn targets(shared: &Shared, it: &Candidate, facts: Facts<'_>) -> Result<Vec<String>> {
    let mut out = Vec::new();
    if it.row.attr.kind != Kind::File || it.row.attr.size == 0 {
        return Ok(out);
    }
    if !facts.targets(it).are_usual() {
        let names: Vec<String> = facts.must(it).iter().map(|name| format!("{name:?}")).collect();
        out.push(format!("By its rule it must be in target {}.", names.join(" and in target ")));
    }
    let class = facts.rules.name_classes().then(|| facts.chosen(it).treatment.storage_class);
    if let Some(class) = class.flatten() {
        let cold = match class.is_cold() {
            true => ", from which the service must restore it before it can be read",
            false => "",
        };
        out.push(format!("By its rule it is archived in storage class {class}{cold}."));
    }
    if facts.rules.name_compression() && it.row.state == State::Closed {
        out.push(match facts.chosen(it).treatment.compress {
            Some(Compress::Flac { .. }) => {
                "By its rule it is archived as FLAC, if it is PCM.".into()
            }
            None => "By its rule it is archived as it is, not as FLAC.".into(),
        });
    }
    if facts.rules.name_sealing() && it.row.state == State::Closed {
        out.push(match facts.chosen(it).treatment.seal_to.map_or(0, |to| to.keys().len()) {
            0 => "By its rule it is archived unsealed.".into(),
            1 => "By its rule it is archived sealed, to one key.".into(),
            keys => format!("By its rule it is archived sealed, to {keys} keys."),
        });
    }
    let wanted = match shared.targets_of(it) {
        Ok(wanted) => wanted,
        Err(error) => {
            out.push(format!("It is archived later: {error}."));
            return Ok(out);
        }
    };
    if it.row.state == State::Closed {
        let status = wanted.must.iter().map(|t| t.status());
        out.extend(status.filter(|s| s.standing != Standing::Up).map(|s| {
            let why = s.last_error.map_or_else(|| "it was not reached yet".into(), |(_, e)| e);
            format!("Target {:?} is {}: {why}.", s.name, s.standing.word())
        }));
    }
    if matches!(it.row.state, State::Archived | State::Released) {
        out.extend(shared.lacking(it, &wanted.must)?.iter().map(|target| {
            format!(
                "Target {:?} must hold it and does not yet; it gets a copy by and by, or now by \
                 `spoolfs archive`.",
                target.name()
            )
        }));
    }
    Ok(out)
}

fn stands(it: &Candidate, now: Timestamp) -> String {
    if it.row.attr.kind != Kind::File {
        return "It is no regular file.".into();
    }
    let ago = |t: Option<Timestamp>| {
        t.map_or_else(String::new, |t| format!(" {} ago", words(t.age_at(now))))
    };
    match it.row.state {
        State::Recording => "It is being recorded, or was not closed yet.".into(),
        State::Closed => format!("It was closed{} and is not archived yet.", ago(it.row.closed_at)),
        State::Archived => {
            format!("It was archived{}; the local copy is here.", ago(it.row.archived_at))
        }
        State::Released => {
            format!("It was archived{} and its local copy is released.", ago(it.row.archived_at))
        }
        State::Deleted => "It was deleted.".into(),
    }
}

fn next(action: &Action, now: Timestamp) -> String {
    match action {
        Action::Hash => "Next: its SHA-256 is computed.".into(),
        Action::Archive => "Next: it is archived now.".into(),
        Action::Release => "Next: its local copy is released now, with those of its group.".into(),
        Action::Wait { until: Some(t), why } => {
            format!("Why still local: {}; in {}.", reason(why), words(now.age_at(*t)))
        }
        Action::Wait { until: None, why } | Action::Keep { why } if *why == Why::Released => {
            format!("Nothing is to be done: {}.", reason(why))
        }
        Action::Wait { until: None, why } | Action::Keep { why } => {
            format!("Why still local: {}.", reason(why))
        }
    }
}

/// A reason in words, without a full stop.
pub(super) fn reason(why: &Why) -> String {
    match why {
        Why::Open => "a program has it open for writing".into(),
        Why::Settling => "it was closed a moment ago and may be opened again".into(),
        Why::Window => "the retention window (`archive_after`) is not over".into(),
        Why::NoRecord => "there is no record of its call yet (`require_cdr`)".into(),
        Why::Failed => "the last try failed and is repeated".into(),
        Why::KeepLocal => {
            "the local copy stays for a while after it was archived (`keep_local`)".into()
        }
        Why::Group { path, why } => {
            format!("{} belongs to the same recording: {}", path.display(), reason(why))
        }
        Why::NotArchived => "it is not archived yet".into(),
        Why::NoTarget => "no target is configured, so the local copy is the only one".into(),
        Why::Excluded(rule) => format!("the rules keep it local ({rule})"),
        Why::Never => "`archive_after` is \"never\"; `spoolfs archive` archives it".into(),
        Why::Forever => "`keep_local` is \"forever\"".into(),
        Why::Empty => "it is empty, and empty files are not archived".into(),
        Why::NoFile => "only regular files are archived".into(),
        Why::Pinned => "it is pinned (`spoolfs unpin` ends that)".into(),
        Why::Linked => "it has several names, and such files are not released".into(),
        Why::Released => "it is released already".into(),
        Why::Deleted => "it was deleted".into(),
        Why::Suspect => {
            "syncing it to the disk failed, and the disk must be proved to hold it".into()
        }
    }
}

/// A duration in its two largest units.
pub(super) fn words(duration: Duration) -> String {
    let secs = duration.as_secs();
    let parts = [(86_400, "d"), (3_600, "h"), (60, "min"), (1, "s")];
    let mut rest = secs;
    let mut out: Vec<String> = Vec::new();
    for (unit, name) in parts {
        let count = rest / unit;
        rest %= unit;
        if count > 0 {
            out.push(format!("{count} {name}"));
        } else if !out.is_empty() {
            break;
        }
        if out.len() == 2 {
            break;
        }
    }
    if out.is_empty() { "less than a second".into() } else { out.join(" ") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_told_in_two_units() {
        for (secs, text) in [
            (0, "less than a second"),
            (59, "59 s"),
            (300, "5 min"),
            (3_661, "1 h 1 min"),
            (86_400, "1 d"),
            (86_460, "1 d"),
            (90_000, "1 d 1 h"),
        ] {
            assert_eq!(words(Duration::from_secs(secs)), text);
        }
    }
}
