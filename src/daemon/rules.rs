//! What the rules ask of calls, answered from the call records.

use super::record::who;
use super::{Daemon, setup};
use crate::audit::{Entry, Event};
use crate::calls::Calls;
use crate::clock::Timestamp;
use crate::config::{Config, Environment, Target};
use crate::control::{Failure, FileSum, Peer, PlanReport, RetentionReport, RulePlan, TargetCost};
use crate::engine::{Bytes, CallSource, Sum};
use crate::limits;
use crate::policy::CallFacts;
use crate::recording::NodeId;
use crate::store::Locks;
use crate::units::Money;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

/// The call records of this daemon.
#[derive(Debug)]
struct Recorded(Arc<Calls>);

impl CallSource for Recorded {
    fn call_of(&self, id: NodeId, path: &Path) -> Result<Option<CallFacts>, String> {
        self.0.known_of(id, path).map_err(|error| error.to_string())
    }

    fn last_of_account(&self, id: NodeId, path: &Path) -> Result<Option<Timestamp>, String> {
        self.0.last_of_account(id, path).map_err(|error| error.to_string())
    }
}

/// Deletes now what the rules let go, or only what of it is in the trash. Who asks for more than they do by themselves is on record
/// before.
///
/// # Errors
/// The catalog can not be used, or the audit log.
pub(super) fn run(
    daemon: &Daemon,
    (now, confirm): (bool, bool),
    trash: bool,
    peer: &Peer,
) -> Result<RetentionReport, Failure> {
    let failed = |error: &dyn std::fmt::Display| Failure::new(error.to_string());
    let asked = [
        (now, "changed rules are not waited for"),
        (confirm, "all that is due now may be deleted, however much it is"),
    ];
    for (_, what) in asked.iter().filter(|(asked, _)| *asked) {
        let event = Event::DeletionConfirmed { what: (*what).to_owned() };
        let entry = Entry::new(event).by(who(peer));
        daemon.audit.record_synced(entry).map_err(|error| failed(&error))?;
    }
    let done = match trash {
        true => daemon.engine.empty_trash(now, confirm),
        false => daemon.engine.expire(now, confirm),
    };
    let done = done.map_err(|error| failed(&error))?;
    Ok(RetentionReport {
        files: done.files,
        bytes: done.bytes,
        kept: done.kept,
        left: done.left,
        why: done.why,
        halted: daemon.engine.expiry_halted(),
    })
}

/// What the rules of a configuration would do until some time.
///
/// # Errors
/// The configuration is wrong; the catalog can not be used.
pub(super) fn plan(
    daemon: &Daemon,
    config: &Path,
    at: Option<Timestamp>,
) -> Result<PlanReport, Failure> {
    let failed = |error: &dyn std::fmt::Display| Failure::new(error.to_string());
    let overrides = daemon.config.read().overrides.clone();
    let config = Config::load(config, &Environment::of_process(), &overrides)
        .map_err(|error| failed(&error))?;
    let rules = setup::rules(&config).map_err(|error| failed(&error))?;
    let at = at.unwrap_or_else(|| daemon.clock.now());
    let priced = |t: &Target| Some((t.name.clone(), t.price?));
    let prices: Vec<(String, Money)> = config.targets.iter().filter_map(priced).collect();
    let forecast =
        daemon.engine.forecast(&rules, at, !prices.is_empty()).map_err(|error| failed(&error))?;
    let mut total = RulePlan::default();
    let mut by_rule = Vec::new();
    for (rule, doing) in forecast.rules {
        let one = RulePlan {
            rule,
            archive: sum(doing.archive),
            release: sum(doing.release),
            expire: sum(doing.expire),
            held: sum(doing.held),
        };
        for (all, part) in [
            (&mut total.archive, one.archive),
            (&mut total.release, one.release),
            (&mut total.expire, one.expire),
            (&mut total.held, one.held),
        ] {
            all.files += part.files;
            all.bytes += part.bytes;
        }
        by_rule.push(one);
    }
    Ok(PlanReport {
        at,
        rules: by_rule,
        total,
        files: forecast.files,
        max_delete_per_day: forecast.per_day,
        others: forecast.others,
        halted: daemon.engine.expiry_halted(),
        costs: prices.into_iter().map(|price| cost(price, &forecast.objects)).collect(),
        notes: if rules.has_worm() { without_worm(daemon) } else { Vec::new() },
    })
}

fn cost((target, price): (String, Money), objects: &BTreeMap<String, Bytes>) -> TargetCost {
    let Bytes { stay, go } = objects.get(&target).copied().unwrap_or_default();
    let (monthly, saved) = (price.of_gigabytes(stay), price.of_gigabytes(go));
    TargetCost { target, bytes: stay, monthly, expired: go, saved }
}

/// Targets that can not lock what a rule has locked.
fn without_worm(daemon: &Daemon) -> Vec<String> {
    let found = daemon.engine.locks(limits::LOCKS_ANSWER_WAIT).into_iter();
    let words = |(target, can): (String, Option<Locks>)| match can? {
        Locks::Yes => None,
        Locks::No(why) => {
            Some(format!("Target {target:?} can not do what `worm` asks for: {why}."))
        }
    };
    found.filter_map(words).collect()
}

fn sum(of: Sum) -> FileSum {
    FileSum { files: of.files, bytes: of.bytes }
}

/// Who knows what calls recordings are of, if call records are kept.
pub(super) fn source(calls: Option<&Arc<Calls>>) -> Option<Arc<dyn CallSource>> {
    Some(Arc::new(Recorded(calls?.clone())))
}
