//! `[[policy]]`: what one rule says, of which recordings, and which rule a recording gets.
//!
//! **Invariant:** the first rule that fits wins. Where it is not known yet which one that is, each
//! time is the safest that any of those that could be it has: archived at the earliest, kept the
//! longest, expired the latest. It goes to all targets that any of those wants, a deletion
//! does what loses the least, and if any of them seals it is sealed, to the keys of all these.

use super::call::{CallFacts, Direction, Numbers, Sure, Words};
use super::seal::union;
use super::{Compress, DeleteMode, Patterns, Rules, SealTo, StorageClass, Targets, most_available};
use crate::clock::Timestamp;
use crate::recording::Sha256;
use std::path::Path;
use std::time::Duration;

/// What a time of expiry counts from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExpireFrom {
    /// The last close of the recording.
    Close,
    /// The end of its call.
    CallEnd,
    /// The end of the last call of the account that the call was about.
    LastCallOfAccount,
}

impl ExpireFrom {
    /// Every one.
    pub const ALL: [ExpireFrom; 3] =
        [ExpireFrom::Close, ExpireFrom::CallEnd, ExpireFrom::LastCallOfAccount];

    /// As it is written.
    pub fn word(self) -> &'static str {
        match self {
            ExpireFrom::Close => "close",
            ExpireFrom::CallEnd => "call_end",
            ExpireFrom::LastCallOfAccount => "last_call_of_account",
        }
    }
}

/// When a recording is deleted everywhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Expiry {
    /// So long...
    pub after: Duration,
    /// ...after this.
    pub from: ExpireFrom,
}

/// Who may take a lock of the target off before its time is over; the stricter one is the greater.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum WormMode {
    /// Whoever has a permission of its own for that.
    Governance,
    /// Nobody, also not the owner of the bucket.
    Compliance,
}

impl WormMode {
    /// Every one.
    pub const ALL: [WormMode; 2] = [WormMode::Governance, WormMode::Compliance];

    /// As it is written.
    pub fn word(self) -> &'static str {
        match self {
            WormMode::Governance => "governance",
            WormMode::Compliance => "compliance",
        }
    }
}

/// How long targets refuse to delete what is archived.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Worm {
    /// So long after its content changed last.
    pub after: Duration,
    /// Who may delete it all the same.
    pub mode: WormMode,
}

/// What is done with a recording, and when. `None`: never, or forever.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Treatment {
    /// Age after the last close at which it is archived.
    pub archive_after: Option<Duration>,
    /// How long the local copy stays after it was archived.
    pub keep_local: Option<Duration>,
    /// The same for what was in the directory before the first mount.
    pub adopt_keep_local: Option<Duration>,
    /// When it is deleted everywhere.
    pub expire: Option<Expiry>,
    /// How long targets refuse to delete it; `None`: they do not.
    pub worm: Option<Worm>,
    /// Which targets are to hold it.
    pub targets: Targets,
    /// What a deletion does.
    pub delete_mode: DeleteMode,
    /// The storage class of its objects; none: that of each target.
    pub storage_class: Option<StorageClass>,
    /// How it is stored smaller; none: as it is.
    pub compress: Option<Compress>,
    /// Whom it is sealed to; none: it is not sealed.
    pub seal_to: Option<SealTo>,
}

impl Treatment {
    /// How long the local copy stays; `None`: forever.
    pub fn keep_for(&self, adopted: bool) -> Option<Duration> {
        if adopted { self.adopt_keep_local } else { self.keep_local }
    }
}

/// Which recordings a rule is for: all that is given must fit, of each list one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs, reason = "each is what is compared, of a call record but for the path")]
pub struct Matches {
    pub path: Patterns,
    pub campaign: Words,
    pub ingroup: Words,
    pub list: Words,
    pub agent: Words,
    pub accountcode: Words,
    pub did: Numbers,
    /// Of either side.
    pub number: Numbers,
    pub direction: Vec<Direction>,
    pub disposition: Words,
    pub extension: Words,
    /// At least so long.
    pub duration_min: Option<Duration>,
    /// At most so long.
    pub duration_max: Option<Duration>,
}

impl Matches {
    /// Whether anything of a call is compared.
    pub fn asks_for_calls(&self) -> bool {
        !(self.campaign.is_empty()
            && self.ingroup.is_empty()
            && self.list.is_empty()
            && self.agent.is_empty()
            && self.accountcode.is_empty()
            && self.did.is_empty()
            && self.number.is_empty()
            && self.direction.is_empty()
            && self.disposition.is_empty()
            && self.extension.is_empty()
            && self.duration_min.is_none()
            && self.duration_max.is_none())
    }

    /// All that is given, in a form that is the same for the same rule.
    fn text(&self) -> String {
        let texts = [
            ("path", self.path.texts()),
            ("campaign", self.campaign.texts()),
            ("ingroup", self.ingroup.texts()),
            ("list", self.list.texts()),
            ("agent", self.agent.texts()),
            ("accountcode", self.accountcode.texts()),
            ("did", self.did.texts()),
            ("number", self.number.texts()),
            ("disposition", self.disposition.texts()),
            ("extension", self.extension.texts()),
        ];
        let times = (self.duration_min, self.duration_max);
        format!("{texts:?} {:?} {times:?}", self.direction)
    }

    fn fit(&self, path: &Path, call: &CallFacts) -> Sure {
        if !self.path.is_empty() && self.path.matching(path).is_none() {
            return Sure::No;
        }
        self.compare(call).into_iter().fold(Sure::Yes, |all, one| match (all, one) {
            (Sure::No, _) | (_, Sure::No) => Sure::No,
            (Sure::Maybe, _) | (_, Sure::Maybe) => Sure::Maybe,
            (Sure::Yes, Sure::Yes) => Sure::Yes,
        })
    }

    fn compare(&self, call: &CallFacts) -> [Sure; 12] {
        let words = |words: &Words, text: &Option<String>| match words.is_empty() {
            true => Sure::Yes,
            false => Sure::of(text.as_ref().map(|text| words.fit(text))),
        };
        let any = |given: bool, texts: &Option<Vec<String>>, fit: &dyn Fn(&str) -> bool| match given
        {
            false => Sure::Yes,
            true => Sure::of(texts.as_ref().map(|texts| texts.iter().any(|text| fit(text)))),
        };
        let did = match self.did.is_empty() {
            true => Sure::Yes,
            false => Sure::of(call.did.as_ref().map(|did| self.did.fit(did))),
        };
        let direction = match self.direction.is_empty() {
            true => Sure::Yes,
            false => Sure::of(call.direction.map(|way| self.direction.contains(&way))),
        };
        let long =
            |bound: Option<Duration>, within: &dyn Fn(Duration, Duration) -> bool| match bound {
                None => Sure::Yes,
                Some(bound) => Sure::of(call.duration.map(|time| within(time, bound))),
            };
        [
            words(&self.campaign, &call.campaign),
            words(&self.ingroup, &call.ingroup),
            words(&self.list, &call.list),
            words(&self.agent, &call.agent),
            words(&self.accountcode, &call.accountcode),
            words(&self.disposition, &call.disposition),
            did,
            any(!self.number.is_empty(), &call.numbers, &|text| self.number.fit(text)),
            any(!self.extension.is_empty(), &call.extensions, &|text| self.extension.fit(text)),
            direction,
            long(self.duration_min, &|time, least| time >= least),
            long(self.duration_max, &|time, most| time <= most),
        ]
    }

    /// What a recording that fits has, in words: `campaign "SALES"`.
    fn words(&self, path: &Path, call: &CallFacts) -> Vec<String> {
        let mut said = Vec::new();
        if let Some(pattern) = self.path.matching(path) {
            said.push(format!("path {pattern:?}"));
        }
        let texts = [
            ("campaign", !self.campaign.is_empty(), &call.campaign),
            ("ingroup", !self.ingroup.is_empty(), &call.ingroup),
            ("list", !self.list.is_empty(), &call.list),
            ("agent", !self.agent.is_empty(), &call.agent),
            ("accountcode", !self.accountcode.is_empty(), &call.accountcode),
            ("did", !self.did.is_empty(), &call.did),
            ("disposition", !self.disposition.is_empty(), &call.disposition),
        ];
        let given = texts.into_iter().filter(|(_, given, _)| *given);
        said.extend(given.filter_map(|(key, _, text)| Some(format!("{key} {:?}", text.as_ref()?))));
        let first = |texts: &Option<Vec<String>>, fit: &dyn Fn(&str) -> bool| {
            texts.as_ref().and_then(|all| all.iter().find(|text| fit(text)).cloned())
        };
        let number = first(&call.numbers, &|text| self.number.fit(text));
        said.extend(number.map(|text| format!("number {text:?}")));
        let extension = first(&call.extensions, &|text| self.extension.fit(text));
        said.extend(extension.map(|text| format!("extension {text:?}")));
        if let Some(way) = call.direction.filter(|_| !self.direction.is_empty()) {
            said.push(format!("direction {:?}", way.word()));
        }
        if let Some(time) = call.duration
            && (self.duration_min.is_some() || self.duration_max.is_some())
        {
            said.push(format!("duration {} s", time.as_secs()));
        }
        said
    }
}

/// One rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    /// Its name.
    pub name: String,
    /// Which recordings it is for.
    pub matches: Matches,
    /// What is done with them.
    pub treatment: Treatment,
}

/// Where the treatment of a recording comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chosen<'r> {
    /// The rule, or those that it could be, in order.
    pub rules: Vec<&'r Policy>,
    /// It is none of them, or could be none: what the mount says of all.
    pub mount: bool,
    /// What is done, and when.
    pub treatment: Treatment,
    /// What fitted, if it is known which rule it is.
    pub because: Vec<String>,
    /// The expiry of each that it could be; empty if one of them never lets it expire.
    expiries: Vec<Expiry>,
}

impl Chosen<'_> {
    /// Whether it is known which rule it is.
    pub fn is_sure(&self) -> bool {
        self.rules.len() + usize::from(self.mount) == 1
    }

    /// The name of the rule, or those of all that it could be.
    pub fn name(&self) -> String {
        let mut names: Vec<String> = self.rules.iter().map(|r| format!("{:?}", r.name)).collect();
        if self.mount {
            names.push("the mount's".to_owned());
        }
        names.join(" or ")
    }

    /// When it expires: the latest of all that it could be, and never earlier than that time after
    /// its content `changed` last. `None`: never, or what it counts from is not known.
    pub fn expires(
        &self,
        closed: Timestamp,
        changed: Timestamp,
        ended: Option<Timestamp>,
        last_of_account: impl Fn() -> Option<Timestamp>,
    ) -> Option<Timestamp> {
        let mut latest = None;
        for expiry in &self.expiries {
            let from = match expiry.from {
                ExpireFrom::Close => closed,
                ExpireFrom::CallEnd => ended?,
                ExpireFrom::LastCallOfAccount => last_of_account()?,
            };
            latest = latest.max(Some(from.max(changed).plus(expiry.after)));
        }
        latest
    }
}

impl Rules {
    /// What the rules of the mount say of a recording that no `[[policy]]` fits.
    pub fn treatment(&self) -> Treatment {
        Treatment {
            archive_after: self.archive_after,
            keep_local: self.keep_local,
            adopt_keep_local: self.adopt_keep_local,
            delete_mode: self.delete_mode,
            compress: self.compress,
            seal_to: self.seal_to.clone(),
            ..Treatment::default()
        }
    }

    /// The rule of a recording.
    pub fn choose(&self, path: &Path, call: &CallFacts) -> Chosen<'_> {
        let mut rules = Vec::new();
        let mut mount = true;
        let mut because = Vec::new();
        for policy in &self.policies {
            match policy.matches.fit(path, call) {
                Sure::No => {}
                Sure::Maybe => rules.push(policy),
                Sure::Yes => {
                    if rules.is_empty() {
                        because = policy.matches.words(path, call);
                    }
                    rules.push(policy);
                    mount = false;
                    break;
                }
            }
        }
        let own = mount.then(|| self.treatment());
        let all: Vec<Treatment> = rules.iter().map(|r| r.treatment.clone()).chain(own).collect();
        let treatment = safest(&all).unwrap_or_else(|| self.treatment());
        let expiries: Option<Vec<Expiry>> = all.iter().map(|t| t.expire).collect();
        Chosen { rules, mount, treatment, because, expiries: expiries.unwrap_or_default() }
    }

    /// Whether it depends on the call which rule a recording gets.
    pub fn asks_for_calls(&self, path: &Path) -> bool {
        let on_path =
            |p: &Policy| p.matches.path.is_empty() || p.matches.path.matching(path).is_some();
        let first = self.policies.iter().find(|p| on_path(p));
        let ends = |p: &Policy| p.treatment.expire.is_some_and(|e| e.from == ExpireFrom::CallEnd);
        first.is_some_and(|p| p.matches.asks_for_calls() || ends(p))
    }

    /// The shortest time after which any recording is archived; `None`: never.
    pub fn shortest_archive(&self) -> Option<Duration> {
        let all = self.policies.iter().map(|p| p.treatment.archive_after);
        all.chain([self.archive_after]).flatten().min()
    }

    /// The shortest time that any local copy stays; `None`: all stay forever.
    pub fn shortest_keep(&self) -> Option<Duration> {
        let of = |t: &Treatment| [t.keep_local, t.adopt_keep_local];
        let all = self.policies.iter().flat_map(|p| of(&p.treatment));
        all.chain(of(&self.treatment())).flatten().min()
    }

    /// The rule of a recording as far as its path tells, without a question to anybody.
    pub fn by_path(&self, path: &Path) -> Chosen<'_> {
        self.choose(path, &CallFacts::default())
    }

    /// Whether any rule has a way of its own to store recordings.
    pub fn name_compression(&self) -> bool {
        self.policies.iter().any(|p| p.treatment.compress != self.compress)
    }

    /// Whether any rule seals otherwise than the mount does.
    pub fn name_sealing(&self) -> bool {
        self.policies.iter().any(|p| p.treatment.seal_to != self.seal_to)
    }

    /// Every key that any recording is sealed to.
    pub fn all_keys(&self) -> Vec<String> {
        let rules = self.policies.iter().map(|p| &p.treatment.seal_to);
        union(rules.chain([&self.seal_to])).map_or_else(Vec::new, |all| all.keys())
    }

    /// Changes whenever a recording may be sealed to other keys, or have another kind of name in the
    /// targets; not with names of rules.
    pub fn seal_digest(&self) -> String {
        let rule = |p: &Policy| format!("{} {:?}\n", p.matches.text(), p.treatment.seal_to);
        let rules: String = self.policies.iter().map(rule).collect();
        let hidden = if self.hide_names { "\nhidden" } else { "" };
        format!("{rules}{:?}{hidden}", self.seal_to)
    }

    /// Whom everything is sealed to that tells of all recordings: the keys of the mount, or where
    /// it has none those of all rules. `None`: nothing is sealed at all.
    pub fn told_to(&self) -> Option<SealTo> {
        let of_rules = || union(self.policies.iter().map(|p| &p.treatment.seal_to));
        self.seal_to.clone().or_else(of_rules)
    }

    /// Whether any rule has a storage class of its own.
    pub fn name_classes(&self) -> bool {
        self.policies.iter().any(|p| p.treatment.storage_class.is_some())
    }

    /// Whether deletions do nothing but take names away, whatever is deleted.
    pub fn only_keep(&self) -> bool {
        let own = self.policies.iter().map(|p| p.treatment.delete_mode);
        own.chain([self.delete_mode]).all(|mode| mode == DeleteMode::Keep)
    }

    /// Whether a rule names this target.
    pub fn name_target(&self, target: &str) -> bool {
        self.policies.iter().any(|p| p.treatment.targets.names(target))
    }

    /// Whether any rule has targets of its own.
    pub fn name_targets(&self) -> bool {
        self.policies.iter().any(|p| !p.treatment.targets.are_usual())
    }

    /// Changes whenever a recording may belong in other targets; `required`: those that the mount
    /// demands.
    pub fn targets_digest(&self, required: &[String]) -> String {
        let rule = |p: &Policy| format!("{} {:?}\n", p.matches.text(), p.treatment.targets);
        let rules: String = match self.name_targets() {
            true => self.policies.iter().map(rule).collect(),
            false => String::new(),
        };
        Sha256::of(format!("{rules}{required:?}").as_bytes()).to_string()
    }

    /// Changes whenever another recording may expire, or at another time; not with names.
    pub fn expiry_digest(&self) -> String {
        let rule = |p: &Policy| format!("{} {:?}\n", p.matches.text(), p.treatment.expire);
        let text: String = match self.shortest_expiry() {
            Some(_) => {
                let rules: String = self.policies.iter().map(rule).collect();
                format!("{rules}{:?}", self.trash_keep)
            }
            None => String::new(),
        };
        Sha256::of(text.as_bytes()).to_string()
    }

    /// Changes whenever another recording may be locked, or for another time; not with names.
    pub fn worm_digest(&self) -> String {
        let rule = |p: &Policy| format!("{} {:?}\n", p.matches.text(), p.treatment.worm);
        let rules: String = self.policies.iter().map(rule).collect();
        Sha256::of(rules.as_bytes()).to_string()
    }

    /// Whether any recording is to be locked in the targets.
    pub fn has_worm(&self) -> bool {
        self.policies.iter().any(|p| p.treatment.worm.is_some())
    }

    /// The shortest time after which any recording expires; `None`: never.
    pub fn shortest_expiry(&self) -> Option<Duration> {
        self.policies.iter().filter_map(|p| Some(p.treatment.expire?.after)).min()
    }
}

/// Of several treatments the earliest archive and the longest of everything else.
fn safest(all: &[Treatment]) -> Option<Treatment> {
    let longest = |of: &dyn Fn(&Treatment) -> Option<Duration>| -> Option<Duration> {
        let times: Option<Vec<Duration>> = all.iter().map(of).collect();
        times?.into_iter().max()
    };
    let expiries: Option<Vec<Expiry>> = all.iter().map(|t| t.expire).collect();
    let classes: Vec<_> = all.iter().map(|t| t.storage_class.clone()).collect();
    all.first().map(|first| Treatment {
        archive_after: all.iter().filter_map(|t| t.archive_after).min(),
        keep_local: longest(&|t| t.keep_local),
        adopt_keep_local: longest(&|t| t.adopt_keep_local),
        expire: expiries.and_then(|all| all.into_iter().max_by_key(|e| e.after)),
        worm: all
            .iter()
            .filter_map(|t| t.worm)
            .reduce(|a, b| Worm { after: a.after.max(b.after), mode: a.mode.max(b.mode) }),
        targets: all.iter().skip(1).fold(first.targets.clone(), |all, t| all.and(&t.targets)),
        delete_mode: all.iter().fold(first.delete_mode, |mode, t| mode.safer(t.delete_mode)),
        storage_class: most_available(&classes),
        // As it is, a recording can be used without any tool.
        compress: first.compress.filter(|_| all.iter().all(|t| t.compress == first.compress)),
        seal_to: union(all.iter().map(|t| &t.seal_to)),
    })
}

#[cfg(test)]
mod tests;
