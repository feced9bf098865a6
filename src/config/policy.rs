//! `[[policy]]`: rules for some of the recordings, in order.

use super::error::ConfigError;
use super::raw::RawPolicy;
use super::source::Source;
use super::{Calls, Delete, Target, WriteBack};
use crate::limits;
use crate::policy::{Direction, Matches, Numbers, Patterns, Policy, RuleError, Treatment, Words};
use crate::policy::{ExpireFrom, Expiry, Targets, Worm, WormMode};
use crate::units::{Age, Span, duration_text};
use std::time::Duration;

/// A shorter expiry is a mistake.
const EXPIRE_LEAST: Duration = Duration::from_secs(86_400);

type Result<T> = std::result::Result<T, ConfigError>;

/// Where a rule stands in the file.
struct Place<'a> {
    index: usize,
    source: &'a Source,
}

impl Place<'_> {
    fn fault(&self, key: &str, message: impl std::fmt::Display, cure: &str) -> ConfigError {
        self.source.fault(&format!("policy.{}.{key}", self.index), message, cure)
    }

    fn rule<T>(&self, key: &str, made: std::result::Result<T, RuleError>) -> Result<T> {
        made.map_err(|error| {
            let text = error.to_string();
            let (message, cure) = text.split_once("; ").unwrap_or((&text, "correct it"));
            self.fault(key, message, cure)
        })
    }
}

/// What the mount says of all recordings.
pub(super) struct OfMount<'a> {
    pub write_back: &'a WriteBack,
    pub delete: &'a Delete,
    pub targets: &'a [Target],
    pub calls: Option<&'a Calls>,
}

pub(super) fn resolve(
    raw: Vec<RawPolicy>,
    source: &Source,
    mount: &OfMount<'_>,
    warnings: &mut Vec<String>,
) -> Result<Vec<Policy>> {
    let mut policies: Vec<Policy> = Vec::new();
    for (index, raw) in raw.into_iter().enumerate() {
        let at = Place { index, source };
        if index >= limits::POLICIES_MAX {
            let message = format_args!("is one of more than {}", limits::POLICIES_MAX);
            return Err(at.fault("name", message, "use fewer: lists and patterns serve many"));
        }
        let policy = one(raw, &at, mount)?;
        if policies.iter().any(|p| p.name == policy.name) {
            let message = format_args!("{:?} is the name of another rule", policy.name);
            return Err(at.fault("name", message, "give each rule its own"));
        }
        let from = policy.treatment.expire.map(|expire| expire.from);
        let counts_from_call = from.is_some_and(|from| from != ExpireFrom::Close);
        if mount.calls.is_none() && (policy.matches.asks_for_calls() || counts_from_call) {
            let cure = "set calls.preset or calls.source, or compare nothing but path";
            let message =
                format_args!("{:?} asks for calls, and no call records are read", policy.name);
            return Err(at.fault("name", message, cure));
        }
        if let Some(all) = policies.iter().find(|p| p.matches == Matches::default()) {
            warnings.push(format!(
                "policy {:?} is never reached: {:?} stands before it and is for all recordings",
                policy.name, all.name
            ));
        }
        // What may be of several rules is sealed to the keys of all these.
        let rules = policies.iter().chain([&policy]).map(|p| &p.treatment.seal_to);
        let keys = rules.chain([&mount.write_back.encrypt_to]).flatten();
        let keys = keys.cloned().reduce(|all, keys| all.and(&keys));
        if keys.is_some_and(|keys| keys.keys().len() > limits::SEAL_RECIPIENTS_MAX) {
            let most = limits::SEAL_RECIPIENTS_MAX;
            let message = format_args!("makes more than {most} different keys of all rules");
            return Err(at.fault("encrypt_to", message, "use fewer keys"));
        }
        policies.push(policy);
    }
    Ok(policies)
}

fn one(raw: RawPolicy, at: &Place<'_>, mount: &OfMount<'_>) -> Result<Policy> {
    let write_back = mount.write_back;
    let name = raw.name.clone().ok_or_else(|| {
        at.fault("name", "is missing", "give the rule a name, such as name = \"sales\"")
    })?;
    super::check::word(at.source, &format!("policy.{}.name", at.index), &name)?;
    let matches = Matches {
        path: at.rule("path", Patterns::new(&raw.path))?,
        campaign: at.rule("campaign", Words::new(&raw.campaign))?,
        ingroup: at.rule("ingroup", Words::new(&raw.ingroup))?,
        list: at.rule("list", Words::new(&raw.list))?,
        agent: at.rule("agent", Words::new(&raw.agent))?,
        accountcode: at.rule("accountcode", Words::new(&raw.accountcode))?,
        did: at.rule("did", Numbers::new(&raw.did))?,
        number: at.rule("number", Numbers::new(&raw.number))?,
        direction: directions(&raw.direction, at)?,
        disposition: at.rule("disposition", Words::new(&raw.disposition))?,
        extension: at.rule("extension", Words::new(&raw.extension))?,
        duration_min: raw.duration_min.map(|Span(time)| time),
        duration_max: raw.duration_max.map(|Span(time)| time),
    };
    if let (Some(least), Some(most)) = (matches.duration_min, matches.duration_max)
        && least > most
    {
        return Err(at.fault("duration_max", "is less than duration_min", "exchange the two"));
    }
    let own_keep = raw.keep_local.map(|age| age.duration());
    let keep = |usual: Option<Duration>| own_keep.unwrap_or(usual);
    let expire = expiry(raw.expire_after, raw.expire_from.as_deref(), at)?;
    let key = format!("policy.{}.delete_mode", at.index);
    let delete = super::delete::mode(raw.delete_mode.as_deref(), &key, at.source)?;
    let key = format!("policy.{}.storage_class", at.index);
    let class = super::target::class(raw.storage_class.as_deref(), &key, at.source)?;
    let treatment = Treatment {
        archive_after: raw.archive_after.unwrap_or(write_back.archive_after).duration(),
        keep_local: keep(write_back.keep_local.duration()),
        adopt_keep_local: keep(write_back.adopt_keep_local.duration()),
        expire,
        worm: worm(raw.worm, raw.worm_mode.as_deref(), expire, at)?,
        targets: named(raw.targets, mount.targets, at)?,
        delete_mode: delete.unwrap_or(mount.delete.mode),
        storage_class: class,
        compress: match raw.compress {
            None => write_back.compress,
            Some(word) => {
                let key = format!("policy.{}.compress", at.index);
                super::check::compress(Some(&word), write_back.compress_min_gain, &key, at.source)?
            }
        },
        seal_to: match raw.encrypt_to {
            None => write_back.encrypt_to.clone(),
            Some(words) => {
                let key = format!("policy.{}.encrypt_to", at.index);
                super::check::seal_to(&words, &key, at.source)?
            }
        },
    };
    Ok(Policy { name, matches, treatment })
}

/// The targets that a rule names; none: those of the mount.
fn named(names: Vec<String>, targets: &[Target], at: &Place<'_>) -> Result<Targets> {
    if let Some(unknown) = names.iter().find(|name| targets.iter().all(|t| t.name != **name)) {
        let all: Vec<String> = targets.iter().map(|t| format!("{:?}", t.name)).collect();
        let cure = match all.is_empty() {
            true => "add a [[target]] of that name".to_owned(),
            false => format!("write some of {}", all.join(", ")),
        };
        let message = format_args!("{unknown:?} is the name of no [[target]]");
        return Err(at.fault("targets", message, &cure));
    }
    Ok(if names.is_empty() { Targets::default() } else { Targets::only(names) })
}

fn expiry(after: Option<Age>, from: Option<&str>, at: &Place<'_>) -> Result<Option<Expiry>> {
    let from = match from {
        None => ExpireFrom::Close,
        Some(_) if after.is_none() => {
            return Err(at.fault("expire_from", "stands without expire_after", "set both"));
        }
        Some(word) => {
            ExpireFrom::ALL.into_iter().find(|from| from.word() == word).ok_or_else(|| {
                let cure = "write \"close\", \"call_end\" or \"last_call_of_account\"";
                at.fault("expire_from", format_args!("{word:?} is nothing to count from"), cure)
            })?
        }
    };
    let Some(after) = after.and_then(Age::duration) else { return Ok(None) };
    if after < EXPIRE_LEAST {
        let message = format_args!("\"{}\" is less than a day", duration_text(after));
        return Err(at.fault("expire_after", message, "recordings are deleted then: look again"));
    }
    Ok(Some(Expiry { after, from }))
}

fn worm(
    after: Option<Span>,
    mode: Option<&str>,
    expire: Option<Expiry>,
    at: &Place<'_>,
) -> Result<Option<Worm>> {
    let mode = match mode {
        None => WormMode::Governance,
        Some(_) if after.is_none() => {
            return Err(at.fault("worm_mode", "stands without worm", "set both"));
        }
        Some(word) => WormMode::ALL.into_iter().find(|m| m.word() == word).ok_or_else(|| {
            let cure = "write \"governance\" or \"compliance\"";
            at.fault("worm_mode", format_args!("{word:?} is no mode"), cure)
        })?,
    };
    let Some(Span(after)) = after else { return Ok(None) };
    if after < EXPIRE_LEAST {
        let message = format_args!("\"{}\" is less than a day", duration_text(after));
        return Err(at.fault("worm", message, "write at least \"1d\""));
    }
    if let Some(expire) = expire.filter(|expire| expire.after < after) {
        let (worm, expire) = (duration_text(after), duration_text(expire.after));
        let message = format_args!("\"{worm}\" is longer than expire_after \"{expire}\"");
        let cure = "what is locked can not be deleted: make expire_after at least as long";
        return Err(at.fault("worm", message, cure));
    }
    Ok(Some(Worm { after, mode }))
}

fn directions(words: &[String], at: &Place<'_>) -> Result<Vec<Direction>> {
    let direction = |word: &String| {
        word.parse().map_err(|()| {
            let cure = "write \"inbound\", \"outbound\" or \"internal\"";
            at.fault("direction", format_args!("{word:?} is no direction"), cure)
        })
    };
    words.iter().map(direction).collect()
}
