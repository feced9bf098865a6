//! The oldest lines of the audit log leave after `audit_keep`, here and in the targets.
//!
//! **Invariant:** nothing leaves a log that is not valid, nor while a legal hold is on or was lifted a
//! short while ago, nor before every target was told of the line that stands for what leaves.

use super::anchor::{self, Tell};
use super::error::{EngineError, Result};
use super::shared::Shared;
use crate::audit::{self, Entry, Event, Fault, Leaving, Verdict};
use crate::clock::Timestamp;
use crate::policy::Ledger;
use crate::units::duration_text;
use crate::{faults, limits};
use std::path::Path;
use std::time::Duration;

/// What is remembered of `audit_keep`: since when it is what it is, and whether the clock leapt.
const LEDGER: &str = "audit.keep";

/// Why no lines leave.
#[derive(Debug)]
struct Stay {
    why: String,
    /// It does not end by itself, or not for a long time.
    warns: bool,
}

impl Stay {
    fn for_now(why: String) -> Stay {
        Stay { why, warns: false }
    }
}

/// How far that is.
#[derive(Debug, Default)]
pub(super) struct Shortening {
    looked: Option<Timestamp>,
    /// It is looked again as soon as every target is up.
    waits: bool,
    /// The last of the lines that left, or are about to.
    told: u64,
    /// Why nothing leaves; said once.
    said: String,
}

/// Lets leave what may, if it is time to look.
///
/// # Errors
/// It is tried again, from where it is.
pub(super) fn step(shared: &Shared, dir: &Path, state: &mut Shortening) -> Result<()> {
    let now = shared.now();
    let all_up = || shared.targets.iter().all(|target| target.is_up());
    let is_due = |at: Timestamp| {
        now < at || at.plus(limits::AUDIT_LEAVE_EVERY) <= now || (state.waits && all_up())
    };
    if !state.looked.is_none_or(is_due) {
        return Ok(());
    }
    // The log is just being opened.
    if shared.audit.health().head.is_none() {
        return Ok(());
    }
    state.waits = false;
    // If it fails, its retries say when it is looked again.
    state.looked = None;
    let mut ledger = ledger(shared)?;
    let Some(keep) = shared.rules().audit_keep else {
        complete(shared, dir)?;
        // What is configured later is waited for anew.
        if ledger != Ledger::default() {
            save(shared, &Ledger::default())?;
        }
        *shared.lines_stay.lock() = None;
        state.looked = Some(now);
        return Ok(());
    };
    ledger.look(now);
    ledger.rules(&duration_text(keep), now);
    let left = complete(shared, dir).and_then(|()| match ledger.halted(now) {
        Some(_) => Ok(Some(Stay::for_now(
            "audit_keep is new, or the clock went forward by more than a day: it is waited for 72 \
             hours"
                .to_owned(),
        ))),
        None => leave(shared, dir, keep, state),
    });
    // Also of a look that failed: the time was seen.
    save(shared, &ledger)?;
    let stay = left?;
    let why = stay.as_ref().map(|stay| stay.why.clone()).unwrap_or_default();
    let warns = stay.is_some_and(|stay| stay.warns);
    if !why.is_empty() && why != state.said {
        match warns {
            true => tracing::warn!(why, "no lines leave the audit log"),
            false => tracing::info!(why, "no lines leave the audit log now"),
        }
    }
    *shared.lines_stay.lock() = warns.then(|| why.clone());
    state.said = why;
    state.looked = Some(now);
    Ok(())
}

fn ledger(shared: &Shared) -> Result<Ledger> {
    let kept = shared.catalog.setting(LEDGER)?;
    Ok(kept.and_then(|text| serde_json::from_str(&text).ok()).unwrap_or_default())
}

fn save(shared: &Shared, ledger: &Ledger) -> Result<()> {
    let text = serde_json::to_string(ledger).unwrap_or_default();
    Ok(shared.catalog.set_setting(LEDGER, &text)?)
}

/// Completes a leaving that was cut off, unless a hold was put since: with what is not removed yet the
/// names that are in it can still be told.
fn complete(shared: &Shared, dir: &Path) -> Result<()> {
    if !broken(audit::is_cut_off(dir), dir)? {
        return Ok(());
    }
    shared.catalog.know_holds()?;
    let _no_hold_comes = shared.catalog.no_holds_change();
    match held_now(shared)? {
        Some(_) => Ok(()),
        None => broken(shared.audit.leave(0), dir),
    }
}

/// Lets all leave that is old enough; why nothing does, if something is in the way.
fn leave(
    shared: &Shared,
    dir: &Path,
    keep: Duration,
    state: &mut Shortening,
) -> Result<Option<Stay>> {
    if let Some(why) = held(shared)? {
        return Ok(Some(Stay::for_now(why)));
    }
    if broken(audit::file_begun(dir), dir)?
        .is_some_and(|begun| begun.plus(limits::AUDIT_FILE_AGE) <= shared.now())
    {
        shared.audit.renew();
    }
    let oldest = || broken(audit::leaving(dir, shared.now().minus(keep)), dir);
    let mut next = oldest()?;
    if next.is_some() {
        // Before all of it is read.
        if let Some(stay) = untold(shared, state) {
            return Ok(Some(stay));
        }
        if let Err(why) = valid(shared, dir)? {
            return Ok(Some(Stay { why, warns: true }));
        }
    }
    while let Some(leaving) = next {
        shared.check_stop()?;
        if let Some(stay) = untold(shared, state) {
            return Ok(Some(stay));
        }
        one(shared, dir, keep, &leaving, state)?;
        next = oldest()?;
    }
    let first = broken(audit::first_line(dir), dir)?.unwrap_or(1);
    let (up, down): (Vec<_>, Vec<_>) =
        anchor::with_lines_before(shared, first)?.into_iter().partition(|target| target.is_up());
    state.waits = !down.is_empty();
    if up.is_empty() {
        return ahead(shared, dir);
    }
    let verdict = match valid(shared, dir)? {
        Ok(verdict) => verdict,
        Err(why) => return Ok(Some(Stay { why, warns: true })),
    };
    // What is missing here for another reason can be filled from there.
    let Some(left) = verdict.left else { return ahead(shared, dir) };
    let mut failed = Ok(());
    for target in up {
        let next = left.last + 1;
        match anchor::take_lines_away(shared, &target, next, &|| held(shared)) {
            Ok(None) => {}
            Ok(Some(why)) => return Ok(Some(Stay::for_now(why))),
            Err(EngineError::Stopping) => return Err(EngineError::Stopping),
            Err(error) => failed = Err(error),
        }
    }
    failed?;
    ahead(shared, dir)
}

/// Whether lines stay because the clock was ahead when they were written.
fn ahead(shared: &Shared, dir: &Path) -> Result<Option<Stay>> {
    let now = shared.now().plus(limits::AUDIT_AHEAD);
    let Some((seq, at)) = broken(audit::ahead(dir, now), dir)? else { return Ok(None) };
    let why = format!(
        "line {seq} is dated {}, which has not come: the clock was ahead when it was written, and its \
         file and all after it stay until audit_keep after that. Have the time kept by NTP; what to do \
         if they must go sooner is in docs/AUDIT.md, \"When lines leave\"",
        audit::time(at)
    );
    Ok(Some(Stay { why, warns: true }))
}

/// Whether nothing leaves because not every target can be told, or there is none.
fn untold(shared: &Shared, state: &mut Shortening) -> Option<Stay> {
    if shared.targets.is_empty() {
        let why = "there is no target that could be told of it; configure one, and restart";
        return Some(Stay { why: why.to_owned(), warns: true });
    }
    let target = shared.targets.iter().find(|target| !target.is_up())?;
    state.waits = true;
    Some(Stay::for_now(format!("target {:?} can not be told of it now", target.name())))
}

/// One file of lines leaves.
fn one(
    shared: &Shared,
    dir: &Path,
    keep: Duration,
    leaving: &Leaving,
    state: &mut Shortening,
) -> Result<()> {
    let refused = |why: &str| EngineError::refused(dir, why);
    let head = || shared.audit.health().head.ok_or_else(|| refused("it has no line yet"));
    let Leaving { first, last, sha256, newest } = leaving.clone();
    if state.told != last {
        let event = Event::LinesLeft {
            chain: head()?.chain,
            node: shared.catalog.identity().node,
            first,
            last,
            sha256,
            newest,
            audit_keep: duration_text(keep),
        };
        broken(shared.audit.record_synced(Entry::new(event).because("audit_keep")), dir)?;
        state.told = last;
        faults::point("lines.after_record");
    }
    let head = head()?;
    for target in &shared.targets {
        anchor::tell(shared, target, dir, &head, Tell::Now)?;
    }
    faults::point("lines.after_told");
    // Nothing is asked of a target while no hold can come.
    shared.catalog.know_holds()?;
    let _no_hold_comes = shared.catalog.no_holds_change();
    if let Some(why) = held_now(shared)? {
        return Err(refused(&why));
    }
    broken(shared.audit.leave(last), dir)?;
    tracing::info!(first, last, "lines left the audit log, as audit_keep says");
    Ok(())
}

fn broken<T>(result: audit::Result<T>, dir: &Path) -> Result<T> {
    result.map_err(|error| EngineError::refused(dir, error.to_string()))
}

fn held(shared: &Shared) -> Result<Option<String>> {
    shared.catalog.know_holds()?;
    held_now(shared)
}

/// Which hold keeps all lines. What a case needs of the log nobody can tell beforehand.
fn held_now(shared: &Shared) -> Result<Option<String>> {
    let (holds, now) = (shared.catalog.holds(), shared.now());
    let all = shared.catalog.all_holds()?;
    let keeps = all.iter().find(|hold| {
        hold.lifted.as_ref().is_none_or(|lifted| now < lifted.at.plus(holds.lift_grace()))
    });
    Ok(match keeps {
        Some(hold) => Some(format!("hold {} is on, or was lifted a short while ago", hold.id)),
        None if holds.held() > 0 => Some("recordings are on hold".to_owned()),
        None => None,
    })
}

/// What a check of the log finds, or what is wrong with it: it is evidence then as it is.
fn valid(shared: &Shared, dir: &Path) -> Result<std::result::Result<Verdict, String>> {
    let mut looks = 0;
    loop {
        let verdict = broken(audit::verify(dir, &[]), dir)?;
        let Some(finding) = verdict.findings.first() else { return Ok(Ok(verdict)) };
        // Its end may be just being written.
        let moves = matches!(finding.fault, Fault::Torn | Fault::EndMissing);
        if !moves || looks > limits::AUDIT_LOOKS {
            let detail = &finding.detail;
            let why = format!("the log is not valid: {detail}; see \"spoolfs audit verify\"");
            return Ok(Err(why));
        }
        looks += 1;
        shared.stop.wait(limits::AUDIT_LOOK_EVERY);
        shared.check_stop()?;
    }
}
