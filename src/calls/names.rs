//! What the name of a recording says: who, when, which channel.

use super::record::{CallRecord, Origin};
use super::time::{self, Zone};
use crate::clock::Timestamp;
pub use crate::recording::is_audio;
use crate::recording::{AUDIO, stem};

/// The patterns tried without configuration, in order: FreePBX's, then VICIdial's, then what many
/// dial plans write.
pub const USUAL: &[&str] = &[
    "{any}-{dst}-{src}-{date}-{time}-{uniqueid}",
    "{any}-{date}-{time}-{uniqueid}",
    "{date}-{time}_{phone}",
    "{timestamp}-{src}-{dst}",
    "{uniqueid}",
];

/// Steps of a match that are tried before a name is given up.
const STEPS_MAX: u32 = 10_000;

/// A text that is no pattern.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{pattern:?} is not a pattern for names: {reason}")]
pub struct PatternError {
    pattern: String,
    reason: String,
}

/// A part of a pattern.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    Any,
    Src,
    Dst,
    Date,
    Time,
    Timestamp,
    Uniqueid,
    Agent,
    Campaign,
    List,
    Lead,
    Phone,
    Ingroup,
    Did,
    Accountcode,
}

const PARTS: &[(&str, Part)] = &[
    ("any", Part::Any),
    ("src", Part::Src),
    ("dst", Part::Dst),
    ("date", Part::Date),
    ("time", Part::Time),
    ("timestamp", Part::Timestamp),
    ("uniqueid", Part::Uniqueid),
    ("agent", Part::Agent),
    ("campaign", Part::Campaign),
    ("list", Part::List),
    ("lead", Part::Lead),
    ("phone", Part::Phone),
    ("ingroup", Part::Ingroup),
    ("did", Part::Did),
    ("accountcode", Part::Accountcode),
];

#[derive(Clone, Debug, PartialEq, Eq)]
enum Token {
    Literal(String),
    Part(Part),
}

/// A pattern for names without their extension: `{date}-{time}_{phone}`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pattern(Vec<Token>);

impl std::str::FromStr for Pattern {
    type Err = PatternError;

    fn from_str(text: &str) -> Result<Pattern, PatternError> {
        let wrong = |reason: String| PatternError { pattern: text.to_owned(), reason };
        let mut tokens = Vec::new();
        let mut rest = text;
        while let Some((literal, after)) = rest.split_once('{') {
            let Some((name, tail)) = after.split_once('}') else {
                return Err(wrong("a \"{\" is not closed".to_owned()));
            };
            let Some((_, part)) = PARTS.iter().find(|(known, _)| *known == name) else {
                let known: Vec<_> = PARTS.iter().map(|(known, _)| *known).collect();
                return Err(wrong(format!("{{{name}}} is none of {}", known.join(", "))));
            };
            if !literal.is_empty() {
                tokens.push(Token::Literal(literal.to_owned()));
            } else if matches!(tokens.last(), Some(Token::Part(_))) {
                return Err(wrong(format!(
                    "nothing stands before {{{name}}} to tell where it begins"
                )));
            }
            tokens.push(Token::Part(*part));
            rest = tail;
        }
        if !rest.is_empty() {
            tokens.push(Token::Literal(rest.to_owned()));
        }
        if !tokens.iter().any(|t| matches!(t, Token::Part(_))) {
            return Err(wrong("it has no {part}".to_owned()));
        }
        Ok(Pattern(tokens))
    }
}

impl Pattern {
    /// The usual ones.
    pub fn usual() -> Vec<Pattern> {
        USUAL.iter().filter_map(|text| text.parse().ok()).collect()
    }

    fn read<'t>(&self, text: &'t str) -> Option<Vec<(Part, &'t str)>> {
        let mut found = Vec::new();
        let mut steps = STEPS_MAX;
        walk(&self.0, text, &mut found, &mut steps).then_some(found)
    }
}

/// Matches the shortest text for each part, and longer ones if the rest then does not fit.
fn walk<'t>(
    tokens: &[Token],
    text: &'t str,
    found: &mut Vec<(Part, &'t str)>,
    steps: &mut u32,
) -> bool {
    let Some(left) = steps.checked_sub(1) else { return false };
    *steps = left;
    match tokens.split_first() {
        None => text.is_empty(),
        Some((Token::Literal(literal), rest)) => {
            text.strip_prefix(literal.as_str()).is_some_and(|t| walk(rest, t, found, steps))
        }
        Some((Token::Part(part), rest)) => {
            let ends = text.char_indices().map(|(at, c)| at + c.len_utf8());
            for end in ends {
                let (value, tail) = text.split_at(end);
                // Only where the next literal begins can it end.
                let here = match rest.first() {
                    Some(Token::Literal(literal)) => tail.starts_with(literal.as_str()),
                    _ => tail.is_empty(),
                };
                if !here || !part.takes(value) {
                    continue;
                }
                found.push((*part, value));
                if walk(rest, tail, found, steps) {
                    return true;
                }
                found.pop();
            }
            false
        }
    }
}

impl Part {
    fn takes(self, value: &str) -> bool {
        let digits = |text: &str| text.bytes().all(|b| b.is_ascii_digit());
        match self {
            Part::Date => value.len() == 8 && digits(value),
            Part::Time => value.len() == 6 && digits(value),
            Part::Timestamp => {
                let whole = value.replace(['-', '_'], "");
                matches!(whole.len(), 10 | 14) && digits(&whole)
            }
            Part::Uniqueid => time::epoch_of(value).is_some(),
            _ => true,
        }
    }
}

/// Of several files of one recording the lowest is the one to be played.
pub(super) fn preference(name: &[u8]) -> (u8, usize) {
    let text = String::from_utf8_lossy(name);
    let (base, extension) = text.rsplit_once('.').unwrap_or((&text, ""));
    let role = match base {
        b if b.ends_with("-all") => 0,
        b if b.ends_with("-in") || b.ends_with("-out") => 2,
        _ => 1,
    };
    let format = AUDIO.iter().position(|known| known.eq_ignore_ascii_case(extension));
    (role, format.unwrap_or(AUDIO.len()))
}

/// The part of a path by which recordings and records are compared.
pub(super) fn stem_of(path: &[u8]) -> Vec<u8> {
    let name = path.rsplit(|b| *b == b'/').next().unwrap_or_default();
    stem(name).0
}

/// What a name says; `at`: when the recording was closed, for names that say no time.
pub fn record(patterns: &[Pattern], zone: &Zone, path: &[u8], at: Timestamp) -> CallRecord {
    let stem = stem_of(path);
    let name = String::from_utf8_lossy(&stem);
    let mut record = CallRecord { origin: Origin::Name, ..CallRecord::default() };
    let (mut date, mut clock) = ("", "");
    let mut start = None;
    for (part, value) in patterns.iter().find_map(|p| p.read(&name)).unwrap_or_default() {
        match part {
            Part::Any => {}
            Part::Date => date = value,
            Part::Time => clock = value,
            Part::Timestamp => start = timestamp(zone, value),
            Part::Src => value.clone_into(&mut record.src),
            Part::Dst => value.clone_into(&mut record.dst),
            Part::Uniqueid => value.clone_into(&mut record.uniqueid),
            Part::Agent => value.clone_into(&mut record.agent),
            Part::Campaign => value.clone_into(&mut record.campaign),
            Part::List => value.clone_into(&mut record.list),
            Part::Lead => value.clone_into(&mut record.lead),
            Part::Phone => value.clone_into(&mut record.phone),
            Part::Ingroup => value.clone_into(&mut record.ingroup),
            Part::Did => value.clone_into(&mut record.did),
            Part::Accountcode => value.clone_into(&mut record.accountcode),
        }
    }
    let hint = time::epoch_of(&record.uniqueid);
    let named = || timestamp_with(zone, &format!("{date}{clock}"), hint);
    record.start = start.or_else(named).or(hint).unwrap_or(at);
    record.end = at.max(record.start);
    record.answered = true;
    record.cut();
    record
}

fn timestamp(zone: &Zone, text: &str) -> Option<Timestamp> {
    timestamp_with(zone, &text.replace(['-', '_'], ""), None)
}

/// Ten digits are seconds since 1970, fourteen a date and a time.
fn timestamp_with(zone: &Zone, digits: &str, hint: Option<Timestamp>) -> Option<Timestamp> {
    if digits.len() == 10 {
        return zone.parse(digits, None);
    }
    let part = |from, to| digits.get(from..to);
    let text = format!(
        "{}-{}-{} {}:{}:{}",
        part(0, 4)?,
        part(4, 6)?,
        part(6, 8)?,
        part(8, 10)?,
        part(10, 12)?,
        part(12, 14)?
    );
    zone.parse(&text, hint)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    fn read(path: &str) -> CallRecord {
        record(&Pattern::usual(), &Zone::utc(), path.as_bytes(), Timestamp::from_parts(5, 0))
    }

    #[test]
    fn names_of_freepbx_are_read() {
        let name = "2026/11/21/external-3001-02079460001-20261121-022709-1795228029.1.wav";
        let record = read(name);
        assert_eq!(record.uniqueid, "1795228029.1");
        assert_eq!((record.dst.as_str(), record.src.as_str()), ("3001", "02079460001"));
        assert_eq!(record.start.secs(), 1_795_228_029);
        let record = read("out-0-30-1-5551234-20261121-022709-pbx1-1795228029.1.WAV");
        assert_eq!(record.uniqueid, "pbx1-1795228029.1", "with a system name and dashes before");
    }

    #[test]
    fn names_of_others_are_read() {
        let record = read("20241112-154014_3125551212-all.wav");
        assert_eq!((record.phone.as_str(), record.uniqueid.as_str()), ("3125551212", ""));
        assert_eq!(record.start.secs(), 1_731_426_014);
        let record = read("1795228029-5551234-201.wav");
        assert_eq!((record.src.as_str(), record.dst.as_str()), ("5551234", "201"));
        assert_eq!(record.start.secs(), 1_795_228_029);
        assert_eq!(read("1795228029.13.gsm").uniqueid, "1795228029.13");
        let plain = read("hello.wav");
        assert_eq!((plain.start.secs(), plain.uniqueid.as_str()), (5, ""));
    }

    #[test]
    fn a_pattern_that_is_none_is_refused() {
        for (text, part) in [
            ("{src", "not closed"),
            ("{colour}", "is none of"),
            ("{src}{dst}", "nothing stands before {dst}"),
            ("plain", "no {part}"),
        ] {
            let error = text.parse::<Pattern>().expect_err(text).to_string();
            assert!(error.contains(part), "{error}");
        }
    }

    #[test]
    fn a_name_that_fits_in_many_ways_is_given_up_in_time() {
        let pattern: Pattern = "{any}-{any}-{any}-{any}-{any}-{any}-{date}".parse().expect("one");
        assert_eq!(pattern.read(&"-a".repeat(100)), None);
    }

    #[test]
    fn sidecars_are_no_recordings() {
        assert!(is_audio(Path::new("a/b.WAV")) && is_audio(Path::new("a.wav16")));
        assert!(!is_audio(Path::new("a.wav.txt")) && !is_audio(Path::new("a")));
    }
}
