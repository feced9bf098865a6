//! Durations, sizes and secrets as people write them.
//!
//! **Invariant:** what is displayed can be parsed again to the same value; the *humane* forms
//! are for eyes only.

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

const SECOND: u128 = 1_000_000_000;
/// Units of time and their length in nanoseconds, longest first.
const TIME_UNITS: [(&str, u128); 8] = [
    ("w", 7 * 86_400 * SECOND),
    ("d", 86_400 * SECOND),
    ("h", 3_600 * SECOND),
    ("m", 60 * SECOND),
    ("s", SECOND),
    ("ms", 1_000_000),
    ("us", 1_000),
    ("ns", 1),
];
/// Units of size and their length in bytes; binary ones first, longest first.
const SIZE_UNITS: [(&str, u64); 9] = [
    ("TiB", 1 << 40),
    ("GiB", 1 << 30),
    ("MiB", 1 << 20),
    ("KiB", 1 << 10),
    ("TB", 1_000_000_000_000),
    ("GB", 1_000_000_000),
    ("MB", 1_000_000),
    ("KB", 1_000),
    ("B", 1),
];

/// Text that is no duration or no size; the message says what would be one.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UnitError {
    /// Not a duration.
    #[error("{0:?} is not a duration; write for example \"90s\", \"5m\", \"24h\" or \"7d\"")]
    Duration(String),
    /// Neither a duration nor "forever".
    #[error(
        "{0:?} is not a duration; write for example \"90s\", \"5m\", \"24h\", \"7d\" or \"forever\""
    )]
    Age(String),
    /// Not a size.
    #[error("{0:?} is not a size; write for example \"500MB\" or \"10GiB\"")]
    Size(String),
    /// Not a share.
    #[error("{0:?} is not a share; write \"0%\" to \"100%\"")]
    Percent(String),
    /// Not a price.
    #[error("{0:?} is not a price; write a number such as \"0.023\", without a currency")]
    Price(String),
}

impl UnitError {
    /// How it may end.
    pub fn class(&self) -> crate::recording::ErrorClass {
        crate::recording::ErrorClass::Permanent
    }
}

/// Splits `5m` into its digits and its unit.
fn number_and_unit(text: &str) -> Option<(u64, &str)> {
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (digits, unit) = text.split_at(end);
    Some((digits.parse().ok()?, unit.trim()))
}

/// A duration written as `500ms`, `90s`, `5m`, `24h`, `7d`, `2w`, or several of them in falling
/// order, `1h30m`. `0` needs no unit.
///
/// # Errors
/// What it should look like.
pub fn parse_duration(text: &str) -> Result<Duration, UnitError> {
    duration_nanos(text.trim()).ok_or_else(|| UnitError::Duration(text.to_owned()))
}

fn duration_nanos(text: &str) -> Option<Duration> {
    if text == "0" {
        return Some(Duration::ZERO);
    }
    let mut rest = text;
    let mut total: u64 = 0;
    let mut longest = u128::MAX;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit())?;
        let tail = rest.get(digits..)?;
        let letters = tail.find(|c: char| c.is_ascii_digit()).unwrap_or(tail.len());
        let (part, after) = rest.split_at(digits + letters);
        let (number, unit) = number_and_unit(part)?;
        let (_, nanos) = TIME_UNITS.into_iter().find(|(name, _)| *name == unit)?;
        if nanos >= longest {
            return None;
        }
        longest = nanos;
        // In nanoseconds a u64 reaches 584 years; more is a mistake, or "forever".
        let part = u64::try_from(u128::from(number).checked_mul(nanos)?).ok()?;
        total = total.checked_add(part)?;
        rest = after;
    }
    (!text.is_empty()).then(|| Duration::from_nanos(total))
}

/// The shortest text that [`parse_duration`] reads as this duration.
pub fn duration_text(duration: Duration) -> String {
    let mut left = duration.as_nanos();
    // Weeks are read but not written: "14d" says the same to more people.
    let units = TIME_UNITS.into_iter().filter(|(name, _)| *name != "w");
    if let Some((name, nanos)) = units.clone().find(|(_, n)| left > 0 && left.is_multiple_of(*n)) {
        return format!("{}{name}", left / nanos);
    }
    let mut text = String::new();
    for (name, nanos) in units {
        if left >= nanos {
            text.push_str(&format!("{}{name}", left / nanos));
            left %= nanos;
        }
    }
    if text.is_empty() { "0s".to_owned() } else { text }
}

/// A duration in words, by its two largest parts: "3 days", "24 hours", "1 minute 30 seconds".
pub fn humane_duration(duration: Duration) -> String {
    let nanos = duration.as_nanos();
    if nanos < SECOND {
        return if nanos == 0 {
            "0 seconds".to_owned()
        } else {
            format!("{} milliseconds", duration.as_millis().max(1))
        };
    }
    // "24 hours" and "36 hours" are how people say it; days begin at two.
    let units = [
        ("day", 86_400 * SECOND, 2 * 86_400 * SECOND),
        ("hour", 3_600 * SECOND, 3_600 * SECOND),
        ("minute", 60 * SECOND, 60 * SECOND),
        ("second", SECOND, SECOND),
    ];
    let mut left = nanos;
    let mut words = Vec::new();
    for (name, length, from) in units {
        let from = if words.is_empty() { from } else { length };
        if left >= from {
            let count = left / length;
            left %= length;
            words.push(format!("{count} {name}{}", if count == 1 { "" } else { "s" }));
        } else if !words.is_empty() {
            break;
        }
        if words.len() == 2 {
            break;
        }
    }
    words.join(" ")
}

/// A size written as `4096`, `500MB` or `10GiB`.
///
/// # Errors
/// What it should look like.
pub fn parse_size(text: &str) -> Result<u64, UnitError> {
    let parse = || {
        let (number, unit) = number_and_unit(text.trim())?;
        if unit.is_empty() {
            return Some(number);
        }
        let (_, bytes) = SIZE_UNITS.into_iter().find(|(n, _)| n.eq_ignore_ascii_case(unit))?;
        number.checked_mul(bytes)
    };
    parse().ok_or_else(|| UnitError::Size(text.to_owned()))
}

/// The shortest text that [`parse_size`] reads as this size.
pub fn size_text(bytes: u64) -> String {
    SIZE_UNITS
        .into_iter()
        .find(|(_, n)| bytes > 0 && bytes.is_multiple_of(*n))
        .map_or_else(|| "0B".to_owned(), |(name, n)| format!("{}{name}", bytes / n))
}

/// A size for people, with about three digits: "1.4 GiB", "980 B".
pub fn humane_size(bytes: u64) -> String {
    for (name, n) in SIZE_UNITS.into_iter().take(4) {
        if bytes >= n {
            let tenths = u128::from(bytes) * 10 / u128::from(n);
            return if tenths >= 1000 {
                format!("{} {name}", tenths / 10)
            } else {
                format!("{}.{} {name}", tenths / 10, tenths % 10)
            };
        }
    }
    format!("{bytes} B")
}

/// How long something is kept or waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Age {
    /// So long.
    For(Duration),
    /// For ever.
    Forever,
}

impl Age {
    /// The duration, unless it is for ever.
    pub fn duration(self) -> Option<Duration> {
        match self {
            Age::For(duration) => Some(duration),
            Age::Forever => None,
        }
    }

    /// The instant at which something that began at `start` has reached this age.
    pub fn after(self, start: crate::clock::Timestamp) -> Option<crate::clock::Timestamp> {
        self.duration().map(|d| start.plus(d))
    }

    /// In words: "3 days", "forever".
    pub fn humane(self) -> String {
        self.duration().map_or_else(|| "forever".to_owned(), humane_duration)
    }
}

impl FromStr for Age {
    type Err = UnitError;

    fn from_str(text: &str) -> Result<Age, UnitError> {
        if text.trim() == "forever" {
            return Ok(Age::Forever);
        }
        duration_nanos(text.trim()).map(Age::For).ok_or_else(|| UnitError::Age(text.to_owned()))
    }
}

impl fmt::Display for Age {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Age::For(duration) => f.write_str(&duration_text(*duration)),
            Age::Forever => f.write_str("forever"),
        }
    }
}

impl Serialize for Age {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Age {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Age, D::Error> {
        from_text(deserializer, "a duration in quotes, such as \"5m\"")
    }
}

/// A duration as text in configuration and JSON.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Span(pub Duration);

impl FromStr for Span {
    type Err = UnitError;

    fn from_str(text: &str) -> Result<Span, UnitError> {
        parse_duration(text).map(Span)
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&duration_text(self.0))
    }
}

impl Serialize for Span {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Span {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Span, D::Error> {
        from_text(deserializer, "a duration in quotes, such as \"5m\"")
    }
}

/// A number of bytes as text in configuration and JSON.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Size(pub u64);

impl FromStr for Size {
    type Err = UnitError;

    fn from_str(text: &str) -> Result<Size, UnitError> {
        parse_size(text).map(Size)
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&size_text(self.0))
    }
}

impl Serialize for Size {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Size {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Size, D::Error> {
        from_text(deserializer, "a size in quotes, such as \"10GiB\"")
    }
}

/// Money, in millionths of a currency that nobody names, as text: "0.023".
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Money(pub u64);

const MILLION: u64 = 1_000_000;

impl Money {
    /// What so many bytes cost if this is the price of 10^9.
    pub fn of_gigabytes(self, bytes: u64) -> Money {
        let cost = u128::from(self.0) * u128::from(bytes) / 1_000_000_000;
        Money(u64::try_from(cost).unwrap_or(u64::MAX))
    }

    /// For eyes only: with two decimals, rounded.
    pub fn humane(self) -> String {
        let cents = self.0.saturating_add(5000) / 10_000;
        format!("{}.{:02}", cents / 100, cents % 100)
    }
}

impl FromStr for Money {
    type Err = UnitError;

    fn from_str(text: &str) -> Result<Money, UnitError> {
        let (whole, part) = text.trim().split_once('.').unwrap_or((text.trim(), "0"));
        let digits = |t: &str| !t.is_empty() && t.bytes().all(|b| b.is_ascii_digit());
        let given = (digits(whole) && digits(part) && part.len() <= 6).then(|| {
            let part: u64 = format!("{part:0<6}").parse().ok()?;
            whole.parse::<u64>().ok()?.checked_mul(MILLION)?.checked_add(part)
        });
        given.flatten().map(Money).ok_or_else(|| UnitError::Price(text.to_owned()))
    }
}

impl fmt::Display for Money {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = format!("{}.{:06}", self.0 / MILLION, self.0 % MILLION);
        f.write_str(text.trim_end_matches('0').trim_end_matches('.'))
    }
}

impl Serialize for Money {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Money {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Money, D::Error> {
        from_text(deserializer, "a price in quotes, such as \"0.023\"")
    }
}

/// A share of something, in whole hundredths, as text: "90%".
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Percent(pub u8);

impl FromStr for Percent {
    type Err = UnitError;

    fn from_str(text: &str) -> Result<Percent, UnitError> {
        let number = text.trim().strip_suffix('%').and_then(|n| n.trim().parse().ok());
        number.filter(|n| *n <= 100).map(Percent).ok_or_else(|| UnitError::Percent(text.to_owned()))
    }
}

impl fmt::Display for Percent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}%", self.0)
    }
}

impl<'de> Deserialize<'de> for Percent {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Percent, D::Error> {
        from_text(deserializer, "a share in quotes, such as \"90%\"")
    }
}

/// Reads text into anything that parses, and says what was expected of anything but text.
struct Text<T> {
    what: &'static str,
    of: std::marker::PhantomData<T>,
}

fn from_text<'de, D: Deserializer<'de>, T: FromStr<Err = UnitError>>(
    deserializer: D,
    what: &'static str,
) -> Result<T, D::Error> {
    deserializer.deserialize_str(Text { what, of: std::marker::PhantomData })
}

impl<T: FromStr<Err = UnitError>> serde::de::Visitor<'_> for Text<T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.what)
    }

    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<T, E> {
        text.parse().map_err(E::custom)
    }
}

/// A word that is never shown: not by `{:?}`, not by `{}`, and it can not be serialised.
#[derive(Clone, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
pub struct Secret(String);

impl Secret {
    /// Wraps a secret.
    pub fn new(text: impl Into<String>) -> Secret {
        Secret(text.into())
    }

    /// The word itself, for the one place that needs it.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(secret)")
    }
}

impl fmt::Display for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(secret)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_as_people_write_them() {
        for (text, millis) in [
            ("500ms", 500),
            ("90s", 90_000),
            ("5m", 300_000),
            ("24h", 86_400_000),
            ("7d", 604_800_000),
            ("2w", 1_209_600_000),
            ("1h30m", 5_400_000),
            (" 5m ", 300_000),
            ("0", 0),
            ("0s", 0),
        ] {
            assert_eq!(parse_duration(text), Ok(Duration::from_millis(millis)), "{text}");
        }
        for text in ["", "5", "m", "5x", "1.5h", "-5m", "30m1h", "5m5m", "5 m x", "9999999w", "٥m"]
        {
            assert_eq!(parse_duration(text), Err(UnitError::Duration(text.into())), "{text}");
        }
        assert_eq!(
            parse_duration("5").expect_err("no unit").to_string(),
            r#""5" is not a duration; write for example "90s", "5m", "24h" or "7d""#
        );
    }

    #[test]
    fn what_is_displayed_is_read_back_the_same() {
        for nanos in [0, 1, 999, 1_500_000, 90 * 1_000_000_000, 86_400_000_000_123, u64::MAX] {
            let span = Span(Duration::from_nanos(nanos));
            assert_eq!(span.to_string().parse(), Ok(span), "{span}");
        }
        for age in [Age::Forever, Age::For(Duration::from_secs(86_400 * 14))] {
            assert_eq!(age.to_string().parse(), Ok(age));
        }
        for bytes in [0, 1, 1023, 1024, 10 << 30, 500_000_000, 1_000_001, u64::MAX] {
            assert_eq!(parse_size(&size_text(bytes)), Ok(bytes));
        }
        assert_eq!(Span(Duration::from_secs(86_400 * 14)).to_string(), "14d");
        assert_eq!(Span(Duration::from_secs(90)).to_string(), "90s");
        assert_eq!(Size(500_000_000).to_string(), "500MB");
    }

    #[test]
    fn humane_words() {
        for (secs, words) in [
            (0, "0 seconds"),
            (1, "1 second"),
            (90, "1 minute 30 seconds"),
            (300, "5 minutes"),
            (3_600, "1 hour"),
            (3_601, "1 hour"),
            (86_400, "24 hours"),
            (129_600, "36 hours"),
            (3 * 86_400, "3 days"),
            (3 * 86_400 + 3_600, "3 days 1 hour"),
        ] {
            assert_eq!(humane_duration(Duration::from_secs(secs)), words);
        }
        assert_eq!(humane_duration(Duration::from_millis(500)), "500 milliseconds");
        assert_eq!(Age::Forever.humane(), "forever");
        for (bytes, words) in [
            (0, "0 B"),
            (980, "980 B"),
            (1536, "1.5 KiB"),
            (200 << 20, "200 MiB"),
            (1_503_238_554, "1.4 GiB"),
            (u64::MAX, "16777215 TiB"),
        ] {
            assert_eq!(humane_size(bytes), words);
        }
    }

    #[test]
    fn sizes_are_read_as_people_write_them() {
        for (text, bytes) in [
            ("10GiB", 10 << 30),
            ("500MB", 500_000_000),
            ("4096", 4096),
            ("1 kib", 1024),
            ("7B", 7),
        ] {
            assert_eq!(parse_size(text), Ok(bytes), "{text}");
        }
        for text in ["", "GiB", "10G", "1.5GiB", "-1", "99999999999TiB"] {
            assert_eq!(parse_size(text), Err(UnitError::Size(text.into())), "{text}");
        }
    }

    #[test]
    fn serde_uses_the_text_and_says_what_it_expected() {
        assert_eq!(serde_json::to_string(&Age::Forever).expect("json"), "\"forever\"");
        assert_eq!(serde_json::from_str::<Size>("\"1KiB\"").expect("json"), Size(1024));
        let error = serde_json::from_str::<Age>("5").expect_err("a number has no unit");
        assert!(error.to_string().contains("a duration in quotes, such as \"5m\""), "{error}");
    }

    #[test]
    fn prices_are_exact_and_nameless() {
        for (text, millionths, again) in [
            ("0.023", 23_000, "0.023"),
            ("5", 5_000_000, "5"),
            (" 1.50 ", 1_500_000, "1.5"),
            ("0", 0, "0"),
            ("0.000001", 1, "0.000001"),
        ] {
            let money: Money = text.parse().unwrap();
            assert_eq!((money.0, money.to_string().as_str()), (millionths, again), "{text}");
            assert_eq!(again.parse(), Ok(money));
        }
        for wrong in ["", ".", "1.", ".5", "-1", "1,5", "0.0000001", "$1", "99999999999999999999"] {
            assert!(wrong.parse::<Money>().is_err(), "{wrong:?}");
        }
        let of = |bytes| Money(23_000).of_gigabytes(bytes);
        assert_eq!((of(1_000_000_000), of(1 << 40)), (Money(23_000), Money(25_288_767)));
        let shown = [(0, "0.00"), (4999, "0.00"), (5000, "0.01"), (1_995_000, "2.00")];
        for (millionths, text) in shown {
            assert_eq!(Money(millionths).humane(), text);
        }
    }

    #[test]
    fn a_secret_is_never_shown() {
        let secret = Secret::new("hunter2");
        assert_eq!(format!("{secret} {secret:?}"), "(secret) (secret)");
        assert_eq!(secret.expose(), "hunter2");
    }
}
