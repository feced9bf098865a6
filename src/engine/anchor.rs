//! Tells the targets where the audit log ends, and gives them its lines, so that nobody can write
//! it anew without being found out.
//!
//! **Invariant:** what a target was told is never written over: each key names what is under it. Where the
//! log ended is never deleted; lines are when they left the log here.

use super::contain::contained;
use super::error::{EngineError, Result};
use super::retries::Retries;
use super::shared::Shared;
use super::shorten::{self, Shortening};
use super::target::Target;
use crate::audit::{self, Head, Part};
use crate::clock::Timestamp;
use crate::codec::seal;
use crate::recording::Sha256;
use crate::store::audit::{HeadKey, PartKey, head_key, lines_of, parse_part, part_key};
use crate::store::{self, Body, ObjectMeta, StoreErrorKind, key};
use crate::{faults, limits};
use serde::{Deserialize, Serialize};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

/// How often the thread looks whether something is due. Also what a test waits at most.
const POLL: Duration = Duration::from_millis(500);

/// What a target was told.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Told {
    chain: String,
    /// Where the log ended, and when that was.
    head: u64,
    head_at: Timestamp,
    /// The last line that it has, and since when.
    lines: u64,
    lines_at: Timestamp,
    /// The lines up to this one left it, or it never had them.
    #[serde(default)]
    left: u64,
    /// When it was last asked to delete some, and did not.
    #[serde(default)]
    refused_at: Option<Timestamp>,
}

/// Whether it is waited for the time to tell where the log ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Tell {
    /// Every ten minutes.
    InTime,
    /// At once.
    Now,
}

/// Tries it, if it is time to; tells whether the engine stops.
fn attempt(
    shared: &Shared,
    retries: &mut Retries,
    doing: &'static str,
    step: impl FnOnce() -> Result<()>,
) -> bool {
    let now = shared.now();
    if !retries.is_due(now) {
        return false;
    }
    match contained(doing, step) {
        Ok(()) => retries.worked(),
        Err(EngineError::Stopping) => return true,
        Err(error) if retries.failed(now) => {
            tracing::warn!(doing, %error, "it failed, and is tried again; that is said once a day");
        }
        Err(error) => tracing::debug!(doing, %error, "it failed again"),
    }
    false
}

/// Tells the targets, and lets lines leave, until the engine stops.
pub(super) fn run(shared: &Shared) {
    let Some(dir) = shared.audit.dir().map(Path::to_owned) else { return };
    let mut telling = Retries::up_to(limits::AUDIT_ANCHOR_EVERY);
    // All of the log is read each time.
    let mut leaving = Retries::up_to(limits::AUDIT_LEAVE_EVERY);
    let mut shortening = Shortening::default();
    loop {
        let tell = || step(shared, &dir);
        let leave = || shorten::step(shared, &dir, &mut shortening);
        if attempt(shared, &mut telling, "telling the targets of the audit log", tell)
            || attempt(shared, &mut leaving, "letting old lines leave the audit log", leave)
            || shared.stop.wait(POLL)
        {
            return;
        }
    }
}

fn step(shared: &Shared, dir: &Path) -> Result<()> {
    let Some(head) = shared.audit.health().head else { return Ok(()) };
    let mut failed = Ok(());
    for target in shared.targets.iter().filter(|t| t.is_up()) {
        match tell(shared, target, dir, &head, Tell::InTime) {
            Err(EngineError::Stopping) => return Err(EngineError::Stopping),
            Err(error) => failed = Err(error),
            Ok(()) => {}
        }
    }
    failed
}

fn setting(target: &Target) -> String {
    format!("audit.told.{}", target.name())
}

fn told(shared: &Shared, target: &Target, head: &Head) -> Result<Told> {
    let text = shared.catalog.setting(&setting(target))?;
    let told: Option<Told> = text.and_then(|text| serde_json::from_str(&text).ok());
    let now = shared.now();
    let mut told = told.filter(|told| told.chain == head.chain).unwrap_or_else(|| Told {
        chain: head.chain.clone(),
        head_at: Timestamp(i64::MIN),
        lines_at: now,
        ..Told::default()
    });
    // By a clock that was ahead: else nothing would be told until it is as late as that.
    told.head_at = told.head_at.min(now);
    told.lines_at = told.lines_at.min(now);
    Ok(told)
}

/// Tells a target where the log ends, and gives it the lines that it lacks, as far as it is time.
pub(super) fn tell(
    shared: &Shared,
    target: &Target,
    dir: &Path,
    head: &Head,
    when: Tell,
) -> Result<()> {
    let now = shared.now();
    let mut told = told(shared, target, head)?;
    let before = told.clone();
    let node = shared.catalog.identity().node;
    let prefix = target.store.prefix();
    let is_due = when == Tell::Now || told.head_at.plus(limits::AUDIT_ANCHOR_EVERY) <= now;
    if told.head != head.seq && is_due {
        let Head { chain, seq, sha256 } = head.clone();
        let key = head_key(prefix, &node, &HeadKey { chain, seq, sha256 });
        put(shared, target, &key, head_text(&node, head, now), "application/json")?;
        (told.head, told.head_at) = (head.seq, now);
    }
    let daily = told.lines_at.plus(limits::AUDIT_SHIP_EVERY) <= now;
    while let Some(part) = next(dir, told.lines, head, daily)? {
        let name = PartKey { chain: head.chain.clone(), first: part.first, last: part.last };
        let key = part_key(prefix, &node, &name, Sha256::of(&part.bytes));
        put(shared, target, &key, part.bytes, "application/jsonl")?;
        (told.lines, told.lines_at) = (part.last, now);
        keep(shared, target, &told)?;
    }
    if told != before { keep(shared, target, &told) } else { Ok(()) }
}

/// The targets that may have lines before number `first` and are to be asked for them now: not those that
/// refused a short while ago.
pub(super) fn with_lines_before(shared: &Shared, first: u64) -> Result<Vec<Arc<Target>>> {
    let Some(head) = shared.audit.health().head else { return Ok(Vec::new()) };
    let now = shared.now();
    let waits = |at: Timestamp| at <= now && now < at.plus(limits::REFUSED_DELETE_RETRY);
    let mut found = Vec::new();
    for target in &shared.targets {
        let told = told(shared, target, &head)?;
        if told.left + 1 < first && !told.refused_at.is_some_and(waits) {
            found.push(Arc::clone(target));
        }
    }
    Ok(found)
}

/// Deletes the lines before number `first` in a target; they left the log here. One that does not let us
/// is asked again a day later; one that can not be reached is an error, to be tried again sooner. Before each it is asked whether something keeps them, and that is the
/// answer then.
pub(super) fn take_lines_away(
    shared: &Shared,
    target: &Target,
    first: u64,
    keeps: &dyn Fn() -> Result<Option<String>>,
) -> Result<Option<String>> {
    let Some(head) = shared.audit.health().head else { return Ok(None) };
    let mut told = told(shared, target, &head)?;
    match take_away(shared, target, &head.chain, first, keeps) {
        Err(error) if error.is_of_the_moment() => return Err(error),
        Err(error) => {
            let target = target.name();
            tracing::warn!(target, %error, "lines of the audit log that left stay in a target");
            told.refused_at = Some(shared.now());
        }
        Ok(Some(why)) => return Ok(Some(why)),
        Ok(None) => (told.left, told.refused_at) = (first - 1, None),
    }
    keep(shared, target, &told)?;
    Ok(None)
}

/// Goes on after one that can not be deleted; the first such is the error. An outage, or a catalog that can
/// not be asked, is one at once.
fn take_away(
    shared: &Shared,
    target: &Target,
    chain: &str,
    first: u64,
    keeps: &dyn Fn() -> Result<Option<String>>,
) -> Result<Option<String>> {
    let node = shared.catalog.identity().node;
    let prefix = lines_of(target.store.prefix(), &node, chain);
    let (mut after, mut failed) = (String::new(), Ok(None));
    loop {
        let page = shared.ask(target, target.store.list(&prefix, &after))?;
        let Some(end) = page.last() else { return failed };
        after.clone_from(&end.key);
        for listed in page {
            let Some(part) = parse_part(&listed.key) else { continue };
            if part.chain != chain || part.last >= first {
                continue;
            }
            if let Some(why) = keeps()? {
                return Ok(Some(why));
            }
            match shared.ask(target, target.store.delete(&listed.key)) {
                Ok(()) => faults::point("lines.after_object"),
                Err(error) if error.is_of_the_moment() => return Err(error),
                Err(error) if failed.is_ok() => failed = Err(error),
                Err(_) => {}
            }
        }
    }
}

fn keep(shared: &Shared, target: &Target, told: &Told) -> Result<()> {
    let text = serde_json::to_string(told).unwrap_or_default();
    Ok(shared.catalog.set_setting(&setting(target), &text)?)
}

fn next(dir: &Path, after: u64, head: &Head, unfinished: bool) -> Result<Option<Part>> {
    audit::next_part(dir, after, head, unfinished)
        .map_err(|error| EngineError::refused(dir, error.to_string()))
}

fn head_text(node: &str, head: &Head, now: Timestamp) -> Vec<u8> {
    let Head { chain, seq, sha256 } = head;
    let at = audit::time(now);
    let text = serde_json::json!({
        "spoolfs": "audit", "format": 1, "node": node, "chain": chain, "seq": seq,
        "sha256": sha256, "at": at,
    });
    format!("{text}\n").into_bytes()
}

/// Puts what is not there yet, sealed if what is archived is. What is there was put by us, and then
/// we died.
fn put(shared: &Shared, target: &Target, key: &str, bytes: Vec<u8>, kind: &str) -> Result<()> {
    let (key, bytes, kind) = match shared.told_to()? {
        Some(to) => {
            let sealed = seal::seal_all(&to, &bytes);
            let sealed = sealed.map_err(|e| EngineError::refused(Path::new(key), e.to_string()))?;
            (&*key::sealed(key), sealed, "application/octet-stream")
        }
        None => (key, bytes, kind),
    };
    let (size, sha256) = (bytes.len() as u64, Sha256::of(&bytes));
    let meta = ObjectMeta { content_type: kind.to_owned(), ..ObjectMeta::default() };
    let body = Body::Bytes(bytes.into());
    match shared.ask(target, target.store.put(key, body, sha256, &meta)) {
        Err(EngineError::Store(e)) if e.kind == StoreErrorKind::Exists => Ok(()),
        Err(error) => Err(error),
        Ok(()) => shared.ask(target, store::verify(&*target.store, key, size, sha256)).map(drop),
    }
}
