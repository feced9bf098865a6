//! The rules of one mount: what is archived, after which time, and how long the local copy stays.
//!
//! **Invariant:** pure. The same path and rules always give the same verdict.

mod call;
mod class;
mod compress;
mod deletion;
mod ledger;
mod rule;
mod seal;
mod targets;
mod timetable;

pub use call::{CallFacts, Direction, Numbers, Words};
pub use class::{StorageClass, most_available};
pub use compress::Compress;
pub use deletion::{Bytes, DeleteMode, Departure, Leaving, YOUNG, departure};
pub use ledger::{CHANGED_FOR, Halt, Ledger, cap};
pub use rule::{Chosen, ExpireFrom, Expiry, Matches, Policy, Treatment, Worm, WormMode};
pub use seal::SealTo;
pub use targets::Targets;
pub use timetable::{Rate, Timetable, TimetableError};

use crate::limits;
use globset::{GlobBuilder, GlobSet, GlobSetBuilder};
use std::path::Path;
use std::time::Duration;

/// A list of patterns that can not be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RuleError {
    /// One of them is no pattern.
    #[error("{pattern:?} is no pattern: {reason}; write it like \"*.wav\" or \"2026/**\"")]
    Pattern {
        /// The pattern as written.
        pattern: String,
        /// What is wrong with it.
        reason: String,
    },
    /// One of them is no telephone number.
    #[error("{number:?} has no digit; write a number like \"2079460001\"")]
    Number {
        /// As written.
        number: String,
    },
}

/// Patterns for paths relative to the mount. One without `/` is compared with the name of the
/// file, wherever it is; one with `/` with the whole path. `*` does not cross a `/`, `**` does.
/// Case counts: on a PBX `a.wav` and `a.WAV` are different files.
#[derive(Clone, Debug, Default)]
pub struct Patterns {
    texts: Vec<String>,
    set: GlobSet,
}

impl Patterns {
    /// Understands patterns.
    ///
    /// # Errors
    /// `Pattern`, with the first that is none.
    pub fn new<T: AsRef<str>>(patterns: &[T]) -> Result<Patterns, RuleError> {
        let mut set = GlobSetBuilder::new();
        let mut texts = Vec::with_capacity(patterns.len());
        for pattern in patterns {
            let text = pattern.as_ref();
            let wrong = |reason: String| RuleError::Pattern { pattern: text.to_owned(), reason };
            if text.is_empty() {
                return Err(wrong("it is empty".into()));
            }
            let whole = match text.strip_prefix('/') {
                Some(rest) => rest.to_owned(),
                None if text.contains('/') => text.to_owned(),
                None => format!("**/{text}"),
            };
            let glob = GlobBuilder::new(&whole)
                .literal_separator(true)
                .backslash_escape(true)
                .build()
                .map_err(|e| wrong(e.kind().to_string()))?;
            set.add(glob);
            texts.push(text.to_owned());
        }
        let all = texts.join(", ");
        let set = set
            .build()
            .map_err(|e| RuleError::Pattern { pattern: all, reason: e.kind().to_string() })?;
        Ok(Patterns { texts, set })
    }

    /// Whether there is no pattern.
    pub fn is_empty(&self) -> bool {
        self.texts.is_empty()
    }

    /// As written.
    pub fn texts(&self) -> &[String] {
        &self.texts
    }

    /// The first pattern, as written, that fits the path.
    pub fn matching(&self, path: &Path) -> Option<&str> {
        let first = self.set.matches(path).into_iter().next()?;
        self.texts.get(first).map(String::as_str)
    }
}

impl PartialEq for Patterns {
    fn eq(&self, other: &Patterns) -> bool {
        self.texts == other.texts
    }
}

impl Eq for Patterns {}

/// What the rules say of a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// It is archived when its time has come.
    pub archive: bool,
    /// Why, in a sentence without a full stop.
    pub why: String,
}

/// How full the disk may become, in hundredths of what ordinary users have of it; bytes and inodes
/// each count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Marks {
    /// Above it local copies are released before their time and archiving hurries...
    pub high: u8,
    /// ...until no more than this is used.
    pub low: u8,
}

impl Default for Marks {
    fn default() -> Marks {
        Marks { high: 90, low: 85 }
    }
}

/// The rules. Where a time is optional, `None` means "never" or "forever".
#[derive(Clone, Debug)]
pub struct Rules {
    /// The retention window: age after the last close at which a recording is archived.
    pub archive_after: Option<Duration>,
    /// How long the local copy stays after it was archived.
    pub keep_local: Option<Duration>,
    /// The same for what was in the directory before the first mount.
    pub adopt_keep_local: Option<Duration>,
    /// Only these paths are archived; empty: all.
    pub include: Patterns,
    /// These paths are not archived, whatever `include` says.
    pub exclude: Patterns,
    /// Quiet time after the last close before a recording is hashed.
    pub settle: Duration,
    /// How soon after its close a recording is on the disk; `None`: when the kernel sees fit.
    pub sync_after: Option<Duration>,
    /// How full the disk may become.
    pub marks: Marks,
    /// How fast recordings are uploaded at which time of the day.
    pub bandwidth: Timetable,
    /// How many hundredths of all files may expire in a day.
    pub max_delete_per_day: u8,
    /// How recordings are stored smaller; none: as they are.
    pub compress: Option<Compress>,
    /// Whom recordings are sealed to; none: they are not sealed.
    pub seal_to: Option<SealTo>,
    /// What is sealed has a name that tells nothing.
    pub hide_names: bool,
    /// What a deletion does.
    pub delete_mode: DeleteMode,
    /// What users deleted stays in the trash at least so long; `None`: for ever.
    pub trash_keep: Option<Duration>,
    /// Lines of the audit log leave after this time; `None`: they stay for ever.
    pub audit_keep: Option<Duration>,
    /// A recording waits for a record of its call, at most so long after its last close; `None`:
    /// it does not.
    pub require_cdr: Option<Duration>,
    /// Rules for some of the recordings; the first that fits wins, and what is above holds for the
    /// rest.
    pub policies: Vec<Policy>,
}

impl Default for Rules {
    fn default() -> Rules {
        Rules {
            archive_after: Some(Duration::from_secs(5 * 60)),
            keep_local: Some(Duration::from_secs(24 * 3600)),
            adopt_keep_local: Some(Duration::from_secs(7 * 24 * 3600)),
            include: Patterns::default(),
            exclude: Patterns::default(),
            settle: limits::SETTLE,
            sync_after: Some(limits::SYNC_AFTER),
            marks: Marks::default(),
            bandwidth: Timetable::default(),
            max_delete_per_day: limits::DELETED_IN_A_DAY_PERCENT,
            compress: None,
            seal_to: None,
            hide_names: false,
            delete_mode: DeleteMode::default(),
            trash_keep: Some(limits::TRASH_KEEP),
            audit_keep: None,
            require_cdr: None,
            policies: Vec::new(),
        }
    }
}

impl Rules {
    /// The same while the disk is too full: what may go one day goes as soon as it is archived,
    /// and is archived as soon as it is settled, at any time of the day. "Never" and "forever" stay what they are.
    pub fn hurried(&self) -> Rules {
        let at_once = |time: Option<Duration>| time.map(|_| Duration::ZERO);
        Rules {
            archive_after: at_once(self.archive_after),
            keep_local: at_once(self.keep_local),
            adopt_keep_local: at_once(self.adopt_keep_local),
            bandwidth: self.bandwidth.never_off(),
            require_cdr: None,
            policies: self.policies.iter().map(hurried).collect(),
            ..self.clone()
        }
    }

    /// Whether a path is archived at all. `exclude` beats `include`.
    pub fn for_path(&self, path: &Path) -> Verdict {
        if let Some(pattern) = self.exclude.matching(path) {
            return Verdict { archive: false, why: format!("`exclude` has {pattern:?}") };
        }
        if self.include.is_empty() {
            return Verdict { archive: true, why: "every recording is archived".into() };
        }
        match self.include.matching(path) {
            Some(pattern) => Verdict { archive: true, why: format!("`include` has {pattern:?}") },
            None => Verdict { archive: false, why: "no pattern of `include` fits it".into() },
        }
    }
}

fn hurried(policy: &Policy) -> Policy {
    let at_once = |time: Option<Duration>| time.map(|_| Duration::ZERO);
    let mut policy = policy.clone();
    let times = &mut policy.treatment;
    times.archive_after = at_once(times.archive_after);
    times.keep_local = at_once(times.keep_local);
    times.adopt_keep_local = at_once(times.adopt_keep_local);
    policy
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules(include: &[&str], exclude: &[&str]) -> Rules {
        Rules {
            include: Patterns::new(include).unwrap(),
            exclude: Patterns::new(exclude).unwrap(),
            ..Rules::default()
        }
    }

    #[test]
    fn in_a_hurry_nothing_waits_but_never_and_forever_hold() {
        let bandwidth: Timetable = "08:00,off 18:00,2MiB".parse().expect("a timetable");
        let usual = Rules { adopt_keep_local: None, bandwidth, ..Rules::default() };
        let hurried = usual.hurried();
        assert_eq!(hurried.archive_after, Some(Duration::ZERO));
        assert_eq!(hurried.treatment().keep_for(false), Some(Duration::ZERO));
        assert_eq!(hurried.treatment().keep_for(true), None);
        let waiting = Rules { require_cdr: Some(Duration::from_secs(1)), ..Rules::default() };
        assert_eq!(waiting.hurried().require_cdr, None);
        assert_eq!(waiting.hurried().adopt_keep_local, Some(Duration::ZERO));
        assert_eq!(hurried.settle, usual.settle);
        assert_eq!(hurried.bandwidth.to_string(), "08:00,2MiB 18:00,2MiB");
        let never = Rules { archive_after: None, ..usual };
        assert_eq!(never.hurried().archive_after, None);
    }

    #[test]
    fn without_patterns_everything_is_archived() {
        assert!(rules(&[], &[]).for_path(Path::new("2026/11/21/a.wav")).archive);
    }

    #[test]
    fn a_pattern_without_a_slash_is_for_names_and_one_with_a_slash_for_paths() {
        let table = [
            ("*.wav", "2026/a.wav", true),
            ("*.wav", "a.wav", true),
            ("*.wav", "a.WAV", false),
            ("2026/*.wav", "2026/a.wav", true),
            ("2026/*.wav", "2026/11/a.wav", false),
            ("2026/**", "2026/11/a.wav", true),
            ("/a.wav", "a.wav", true),
            ("/a.wav", "x/a.wav", false),
            ("a[0-9].wav", "x/a7.wav", true),
        ];
        for (pattern, path, fits) in table {
            let rules = rules(&[pattern], &[]);
            assert_eq!(rules.for_path(Path::new(path)).archive, fits, "{pattern} {path}");
        }
    }

    #[test]
    fn the_same_patterns_are_the_same() {
        assert_eq!(Patterns::new(&["*.wav"]), Patterns::new(&["*.wav"]));
        assert_ne!(Patterns::new(&["*.wav"]), Patterns::new(&["*.mp3"]));
    }

    #[test]
    fn exclude_beats_include_and_says_so() {
        let verdict = rules(&["*.wav"], &["tmp/**"]).for_path(Path::new("tmp/a.wav"));
        assert!(!verdict.archive);
        assert!(verdict.why.contains("tmp/**"), "{}", verdict.why);
    }

    #[test]
    fn names_that_are_not_utf8_are_matched_by_bytes() {
        use std::os::unix::ffi::OsStrExt;
        let path = Path::new(std::ffi::OsStr::from_bytes(b"d\xff/a\xfe.wav"));
        assert!(rules(&["*.wav"], &[]).for_path(path).archive);
    }

    #[test]
    fn a_wrong_pattern_is_named() {
        for bad in ["[", "", "{a"] {
            let error = Patterns::new(&["*.wav", bad]).unwrap_err();
            assert!(error.to_string().contains(&format!("{bad:?}")), "{error}");
        }
    }
}
