//! Times as sources write them: local time without a zone, most of the time.

use crate::clock::Timestamp;
use jiff::civil::DateTime;
use jiff::tz::{AmbiguousOffset, TimeZone};

/// Where the clocks of a source stand.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Zone(TimeZone);

impl Zone {
    /// Of this name ("Europe/Berlin", "UTC"); `None`: the machine does not know it.
    pub fn named(name: &str) -> Option<Zone> {
        if name.eq_ignore_ascii_case("utc") {
            return Some(Zone::utc());
        }
        TimeZone::get(name).ok().map(Zone)
    }

    /// That of a clock.
    pub fn of(zone: TimeZone) -> Zone {
        Zone(zone)
    }

    /// UTC.
    pub fn utc() -> Zone {
        Zone(TimeZone::UTC)
    }

    /// Reads "2026-11-21 02:27:09", with a fraction or a zone of its own if there is one, or
    /// seconds since 1970. In the hour that a clock shows twice `hint`, a time known otherwise to
    /// be a little before, tells which one is meant.
    pub fn parse(&self, text: &str, hint: Option<Timestamp>) -> Option<Timestamp> {
        let text = text.trim();
        if text.is_empty() || text.starts_with("0000-00-00") {
            return None;
        }
        if let Some(at) = seconds(text) {
            return Some(at);
        }
        if let Ok(at) = text.parse::<jiff::Timestamp>() {
            return stamp(at);
        }
        let civil: DateTime = text.parse().ok()?;
        let ambiguous = self.0.to_ambiguous_timestamp(civil);
        if let (AmbiguousOffset::Fold { before, after }, Some(hint)) = (ambiguous.offset(), hint) {
            let earlier = stamp(before.to_timestamp(civil).ok()?)?;
            let later = stamp(after.to_timestamp(civil).ok()?)?;
            // An id is given when the channel is made, so the record begins at it or later.
            return Some(if earlier.0 + 2_000_000_000 >= hint.0 { earlier } else { later });
        }
        stamp(ambiguous.compatible().ok()?)
    }

    /// The first instant of what a person typed: a day, or a day and a time.
    pub fn typed(&self, text: &str) -> Option<Timestamp> {
        let text = text.trim();
        let day = text.parse::<jiff::civil::Date>().ok().filter(|_| text.len() <= 10);
        match day {
            Some(day) => stamp(day.to_zoned(self.0.clone()).ok()?.timestamp()),
            None => self.parse(text, None),
        }
    }

    /// The end of the day, if nothing but a day was typed; else the same as [`Zone::typed`].
    pub fn typed_end(&self, text: &str) -> Option<Timestamp> {
        let text = text.trim();
        match text.parse::<jiff::civil::Date>().ok().filter(|_| text.len() <= 10) {
            Some(day) => stamp(day.tomorrow().ok()?.to_zoned(self.0.clone()).ok()?.timestamp()),
            None => self.parse(text, None),
        }
    }
}

fn stamp(at: jiff::Timestamp) -> Option<Timestamp> {
    i64::try_from(at.as_nanosecond()).ok().map(Timestamp)
}

/// "1795228029" or "1795228029.250000".
fn seconds(text: &str) -> Option<Timestamp> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, "0"));
    let digits = |t: &str| !t.is_empty() && t.bytes().all(|b| b.is_ascii_digit());
    if !(9..=10).contains(&whole.len()) || !digits(whole) || !digits(fraction) {
        return None;
    }
    let nanos = format!("{fraction:0<9}").get(..9)?.parse().ok()?;
    Some(Timestamp::from_parts(whole.parse().ok()?, nanos))
}

/// When the channel of an id was made: "1795228029.13", "pbx1-1795228029.13".
pub(super) fn epoch_of(uniqueid: &str) -> Option<Timestamp> {
    let own = uniqueid.rsplit('-').next()?;
    let (epoch, count) = own.split_once('.')?;
    let counted = !count.is_empty() && count.bytes().all(|b| b.is_ascii_digit());
    counted.then(|| seconds(epoch))?
}

#[cfg(test)]
mod tests {
    use super::*;

    fn berlin() -> Zone {
        Zone::named("Europe/Berlin").expect("the machine knows zones")
    }

    #[test]
    fn local_times_are_read_in_their_zone() {
        let secs = |zone: &Zone, text| zone.parse(text, None).map(Timestamp::secs);
        assert_eq!(secs(&Zone::utc(), "2026-11-21 02:27:09"), Some(1_795_228_029));
        assert_eq!(secs(&berlin(), "2026-11-21 03:27:09"), Some(1_795_228_029));
        assert_eq!(secs(&berlin(), "2026-11-21T02:27:09Z"), Some(1_795_228_029));
        assert_eq!(secs(&berlin(), "2026-11-21 03:27:09.500"), Some(1_795_228_029));
        assert_eq!(secs(&berlin(), "1795228029.25"), Some(1_795_228_029));
        assert_eq!(secs(&berlin(), "2026-11-21 03:27:09+01:00"), Some(1_795_228_029));
        for none in ["", "0000-00-00 00:00:00", "x", "2026-13-01 00:00:00"] {
            assert_eq!(secs(&berlin(), none), None, "{none}");
        }
    }

    #[test]
    fn the_id_tells_which_of_two_equal_hours_is_meant() {
        // 25 October 2026, 02:30 comes twice: at 00:30 and at 01:30 UTC.
        let text = "2026-10-25 02:30:00";
        let first = Zone::utc().parse("2026-10-25 00:30:00", None).expect("a time");
        let second = Zone::utc().parse("2026-10-25 01:30:00", None).expect("a time");
        for at in [first, second] {
            let hint = epoch_of(&format!("pbx-{}.7", at.secs()));
            assert_eq!(berlin().parse(text, hint), Some(at));
        }
        assert_eq!(berlin().parse(text, None), Some(first));
        assert!(berlin().parse("2026-03-29 02:30:00", None).is_some(), "an hour that is not");
    }

    #[test]
    fn a_day_is_typed_as_a_day() {
        let utc = Zone::utc();
        let hours = |a: Option<Timestamp>, b: Option<Timestamp>| {
            (b.expect("end").secs() - a.expect("start").secs()) / 3600
        };
        assert_eq!(hours(utc.typed("2026-11-21"), utc.typed_end("2026-11-21")), 24);
        assert_eq!(hours(berlin().typed("2026-10-25"), berlin().typed_end("2026-10-25")), 25);
        assert!(utc.typed("2026-11-21 10:00").is_some());
        assert_eq!(utc.typed("soon"), None);
    }
}
