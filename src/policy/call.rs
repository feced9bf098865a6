//! What the rules ask of a call, and the ways in which they compare it.

use super::RuleError;
use crate::clock::Timestamp;
use globset::{GlobBuilder, GlobSet, GlobSetBuilder};
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

/// From so many digits on a number is compared by its end, as `spoolfs find` does.
const NUMBER_ENDS_FROM: usize = 5;

/// Which way a call went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// From outside.
    Inbound,
    /// To the outside.
    Outbound,
    /// Neither.
    Internal,
}

impl Direction {
    /// Every one.
    pub const ALL: [Direction; 3] = [Direction::Inbound, Direction::Outbound, Direction::Internal];

    /// As it is written.
    pub fn word(self) -> &'static str {
        match self {
            Direction::Inbound => "inbound",
            Direction::Outbound => "outbound",
            Direction::Internal => "internal",
        }
    }
}

impl FromStr for Direction {
    type Err = ();

    fn from_str(text: &str) -> Result<Direction, ()> {
        Direction::ALL.into_iter().find(|d| d.word() == text).ok_or(())
    }
}

impl fmt::Display for Direction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

/// What is known of the call of a recording. `None`: not yet, or not for sure; an empty text: there
/// is none.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs, reason = "each is what a call record calls so")]
pub struct CallFacts {
    pub campaign: Option<String>,
    pub ingroup: Option<String>,
    pub list: Option<String>,
    pub agent: Option<String>,
    pub accountcode: Option<String>,
    pub did: Option<String>,
    /// Those of both sides, and the one dialled from outside.
    pub numbers: Option<Vec<String>>,
    /// The telephones that took part.
    pub extensions: Option<Vec<String>>,
    pub direction: Option<Direction>,
    pub disposition: Option<String>,
    /// From its start to its end.
    pub duration: Option<Duration>,
    /// When the whole call was over.
    pub ended: Option<Timestamp>,
}

/// Whether something is so.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sure {
    Yes,
    Maybe,
    No,
}

impl Sure {
    pub fn of(known: Option<bool>) -> Sure {
        match known {
            Some(true) => Sure::Yes,
            Some(false) => Sure::No,
            None => Sure::Maybe,
        }
    }
}

/// Texts to be compared with; `*`, `?`, `[...]` and `{a,b}` are patterns. Case does not count, as
/// it does not in the tables of a PBX.
#[derive(Clone, Debug, Default)]
pub struct Words {
    texts: Vec<String>,
    set: GlobSet,
}

impl Words {
    /// Understands texts.
    ///
    /// # Errors
    /// `Pattern`, with the first that is none.
    pub fn new<T: AsRef<str>>(words: &[T]) -> Result<Words, RuleError> {
        let mut set = GlobSetBuilder::new();
        let mut texts = Vec::with_capacity(words.len());
        for word in words {
            let text = word.as_ref();
            let wrong = |reason: String| RuleError::Pattern { pattern: text.to_owned(), reason };
            if text.is_empty() {
                return Err(wrong("it is empty".into()));
            }
            let glob = GlobBuilder::new(text)
                .case_insensitive(true)
                .literal_separator(false)
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
        Ok(Words { texts, set })
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.texts.is_empty()
    }

    /// As written.
    pub fn texts(&self) -> &[String] {
        &self.texts
    }

    /// Whether one of them fits; an empty text fits none.
    pub fn fit(&self, text: &str) -> bool {
        !text.is_empty() && self.set.is_match(text)
    }
}

impl PartialEq for Words {
    fn eq(&self, other: &Words) -> bool {
        self.texts == other.texts
    }
}

impl Eq for Words {}

/// Telephone numbers to be compared with: by their end from five digits on, so that
/// "2079460001" is also "+44 20 7946 0001"; shorter ones as a whole.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Numbers {
    texts: Vec<String>,
    keys: Vec<String>,
}

impl Numbers {
    /// Understands numbers.
    ///
    /// # Errors
    /// `Number`, with the first that is none.
    pub fn new<T: AsRef<str>>(numbers: &[T]) -> Result<Numbers, RuleError> {
        let mut all = Numbers::default();
        for number in numbers {
            let text = number.as_ref();
            let key = digits(text);
            if key.is_empty() {
                return Err(RuleError::Number { number: text.to_owned() });
            }
            all.texts.push(text.to_owned());
            all.keys.push(key);
        }
        Ok(all)
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.texts.is_empty()
    }

    /// As written.
    pub fn texts(&self) -> &[String] {
        &self.texts
    }

    /// Whether one of them is this number.
    pub fn fit(&self, number: &str) -> bool {
        let number = digits(number);
        self.keys.iter().any(|key| {
            if key.len() >= NUMBER_ENDS_FROM { number.ends_with(key) } else { number == *key }
        })
    }
}

fn digits(text: &str) -> String {
    text.chars().filter(char::is_ascii_digit).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_compared_without_case_and_as_patterns() {
        let words = Words::new(&["SALES", "coll*", "[0-9]"]).unwrap();
        for (text, fits) in [
            ("sales", true),
            ("SALES2", false),
            ("COLL_UK", true),
            ("coll/a", true),
            ("7", true),
            ("77", false),
            ("", false),
        ] {
            assert_eq!(words.fit(text), fits, "{text}");
        }
        assert!(!Words::new(&["*"]).unwrap().fit(""), "what is not there fits nothing");
        assert!(!Words::default().fit("x"));
        assert_eq!(Words::new(&["a"]), Words::new(&["a"]));
        assert_ne!(Words::new(&["a"]), Words::new(&["b"]));
        for bad in ["", "["] {
            assert!(Words::new(&["a", bad]).unwrap_err().to_string().contains("pattern"));
        }
    }

    #[test]
    fn long_numbers_are_compared_by_their_end_and_short_ones_whole() {
        for (number, text, fits) in [
            ("2079460001", "+44 20 7946-0001", true),
            ("12345", "0012345", true),
            ("12345", "2345", false),
            ("1234", "1234", true),
            ("1234", "01234", false),
            ("12345", "123456", false),
            ("1234", "", false),
        ] {
            assert_eq!(Numbers::new(&[number]).unwrap().fit(text), fits, "{number} {text}");
        }
        let error = Numbers::new(&["s"]).unwrap_err();
        assert_eq!(error, RuleError::Number { number: "s".into() });
    }
}
