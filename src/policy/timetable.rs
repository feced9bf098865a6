//! How fast recordings may be uploaded at which time of the day.
//!
//! **Invariant:** pure, and at some time of the day something may be uploaded.

use crate::clock::Timestamp;
use crate::units::{parse_size, size_text};
use jiff::tz::TimeZone;
use std::fmt;
use std::str::FromStr;

/// The lowest limit: below it one recording takes hours.
const LIMIT_MIN: u64 = 1024;

/// How fast recordings may be uploaded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rate {
    /// As fast as it goes.
    Unlimited,
    /// So many bytes a second, all uploads together.
    Limit(u64),
    /// Not at all.
    Off,
}

/// From a time of the day on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Slot {
    /// Minutes after midnight.
    from: u16,
    rate: Rate,
}

/// The rates of a day, in local time. What begins last goes on over midnight.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Timetable {
    /// By time; never empty.
    slots: Vec<Slot>,
}

/// Text that is no timetable.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TimetableError {
    /// Not a rate, and not a list of times and rates.
    #[error("{0:?} is neither a size nor \"unlimited\" nor \"off\"")]
    Rate(String),
    /// Not a time of the day with a rate.
    #[error("{0:?} is not a time of the day with a rate")]
    Slot(String),
    /// So slow that it is a mistake.
    #[error("{0:?} is below 1 KiB a second")]
    Slow(String),
    /// Two rates at one time.
    #[error("{0:?} names a time twice")]
    Twice(String),
    /// Nothing would be uploaded at any time.
    #[error("{0:?} lets nothing be uploaded at any time")]
    NeverOn(String),
}

impl Default for Timetable {
    fn default() -> Timetable {
        Timetable::always(Rate::Unlimited)
    }
}

impl Timetable {
    fn always(rate: Rate) -> Timetable {
        Timetable { slots: vec![Slot { from: 0, rate }] }
    }

    /// What is in force.
    pub fn rate(&self, now: Timestamp, zone: &TimeZone) -> Rate {
        let Some(local) = local(now, zone) else { return self.rate_at(0) };
        self.rate_at(minute(&local))
    }

    /// Bytes a second for what is uploaded now; `None`: as fast as it goes. What is uploaded
    /// although nothing should be goes at the lowest rate of the day.
    pub fn limit(&self, now: Timestamp, zone: &TimeZone) -> Option<u64> {
        match self.rate(now, zone) {
            Rate::Unlimited => None,
            Rate::Limit(limit) => Some(limit),
            Rate::Off => self.least(),
        }
    }

    /// When another rate begins, and which; `None`: never.
    pub fn next(&self, now: Timestamp, zone: &TimeZone) -> Option<(Timestamp, Rate)> {
        let rate = self.rate(now, zone);
        self.coming(now, zone).find(|(_, coming)| *coming != rate)
    }

    /// When something may be uploaded again, if nothing may now.
    pub fn opens(&self, now: Timestamp, zone: &TimeZone) -> Option<Timestamp> {
        if self.rate(now, zone) != Rate::Off {
            return None;
        }
        self.coming(now, zone).find(|(_, rate)| *rate != Rate::Off).map(|(at, _)| at)
    }

    /// The same without "off": the lowest rate of the day instead.
    pub fn never_off(&self) -> Timetable {
        let least = self.least().map_or(Rate::Unlimited, Rate::Limit);
        let on = |slot: &Slot| match slot.rate {
            Rate::Off => Slot { rate: least, ..*slot },
            _ => *slot,
        };
        Timetable { slots: self.slots.iter().map(on).collect() }
    }

    fn least(&self) -> Option<u64> {
        let limit = |slot: &Slot| match slot.rate {
            Rate::Limit(limit) => Some(limit),
            _ => None,
        };
        self.slots.iter().filter_map(limit).min()
    }

    /// Before the first time of the day yesterday's last is in force.
    fn rate_at(&self, minute: u16) -> Rate {
        let begun = self.slots.iter().rev().find(|slot| slot.from <= minute);
        begun.or(self.slots.last()).map_or(Rate::Unlimited, |slot| slot.rate)
    }

    /// The beginnings of today and tomorrow that are still to come.
    fn coming(
        &self,
        now: Timestamp,
        zone: &TimeZone,
    ) -> impl Iterator<Item = (Timestamp, Rate)> + use<'_> {
        let today = local(now, zone).map(|local| local.date());
        let days = [today, today.and_then(|day| day.tomorrow().ok())];
        let zone = zone.clone();
        days.into_iter()
            .flatten()
            .flat_map(move |day| {
                let zone = zone.clone();
                self.slots.iter().filter_map(move |slot| {
                    let (hour, minute) = (slot.from / 60, slot.from % 60);
                    let time = day.at(i8::try_from(hour).ok()?, i8::try_from(minute).ok()?, 0, 0);
                    let at = zone.to_timestamp(time).ok()?;
                    Some((Timestamp(i64::try_from(at.as_nanosecond()).ok()?), slot.rate))
                })
            })
            .filter(move |(at, _)| *at > now)
    }
}

fn local(now: Timestamp, zone: &TimeZone) -> Option<jiff::civil::DateTime> {
    let now = jiff::Timestamp::from_nanosecond(i128::from(now.0)).ok()?;
    Some(zone.to_datetime(now))
}

fn minute(local: &jiff::civil::DateTime) -> u16 {
    u16::try_from(i32::from(local.hour()) * 60 + i32::from(local.minute())).unwrap_or(0)
}

fn rate(text: &str) -> Result<Rate, TimetableError> {
    match text {
        "unlimited" => Ok(Rate::Unlimited),
        "off" => Ok(Rate::Off),
        _ => match parse_size(text) {
            Ok(limit) if limit < LIMIT_MIN => Err(TimetableError::Slow(text.to_owned())),
            Ok(limit) => Ok(Rate::Limit(limit)),
            Err(_) => Err(TimetableError::Rate(text.to_owned())),
        },
    }
}

fn time(text: &str) -> Option<u16> {
    let (hours, minutes) = text.split_once(':')?;
    let digits = |t: &str| (t.len() == 2 && t.bytes().all(|b| b.is_ascii_digit())).then_some(());
    digits(hours).and(digits(minutes))?;
    let (hours, minutes): (u16, u16) = (hours.parse().ok()?, minutes.parse().ok()?);
    (hours < 24 && minutes < 60).then_some(hours * 60 + minutes)
}

impl FromStr for Timetable {
    type Err = TimetableError;

    fn from_str(text: &str) -> Result<Timetable, TimetableError> {
        let mut table = Timetable { slots: Vec::new() };
        if text.contains(',') {
            for part in text.split_whitespace() {
                let slot = part.split_once(',').and_then(|(at, rate)| Some((time(at)?, rate)));
                let (from, text) = slot.ok_or_else(|| TimetableError::Slot(part.to_owned()))?;
                table.slots.push(Slot { from, rate: rate(text)? });
            }
            table.slots.sort_by_key(|slot| slot.from);
        } else {
            table = Timetable::always(rate(text.trim())?);
        }
        if table.slots.windows(2).any(|pair| matches!(pair, [a, b] if a.from == b.from)) {
            return Err(TimetableError::Twice(text.to_owned()));
        }
        if table.slots.iter().all(|slot| slot.rate == Rate::Off) {
            return Err(TimetableError::NeverOn(text.to_owned()));
        }
        Ok(table)
    }
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Rate::Unlimited => f.write_str("unlimited"),
            Rate::Limit(limit) => f.write_str(&size_text(*limit)),
            Rate::Off => f.write_str("off"),
        }
    }
}

impl fmt::Display for Timetable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let [Slot { from: 0, rate }] = self.slots.as_slice() {
            return rate.fmt(f);
        }
        for (i, Slot { from, rate }) in self.slots.iter().enumerate() {
            let space = if i == 0 { "" } else { " " };
            write!(f, "{space}{:02}:{:02},{rate}", from / 60, from % 60)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: &str = "08:00,512KiB 12:30,off 18:00,4MiB 23:00,unlimited";

    /// 2026-11-21 is a Saturday in winter.
    fn at(text: &str) -> Timestamp {
        let at: jiff::Timestamp = text.parse().expect(text);
        Timestamp(i64::try_from(at.as_nanosecond()).expect("before 2262"))
    }

    fn table(text: &str) -> Timetable {
        text.parse().expect(text)
    }

    #[test]
    fn each_time_of_the_day_has_the_rate_that_began_last() {
        let table = table(DAY);
        assert_eq!(table.to_string(), DAY);
        for (time, rate, opens) in [
            ("00:00:00", Rate::Unlimited, None),
            ("07:59:59", Rate::Unlimited, None),
            ("08:00:00", Rate::Limit(512 << 10), None),
            ("12:29:59", Rate::Limit(512 << 10), None),
            ("12:30:00", Rate::Off, Some("2026-11-21T18:00:00Z")),
            ("18:00:00", Rate::Limit(4 << 20), None),
            ("23:59:59", Rate::Unlimited, None),
        ] {
            let now = at(&format!("2026-11-21T{time}Z"));
            assert_eq!(table.rate(now, &TimeZone::UTC), rate, "{time}");
            assert_eq!(table.opens(now, &TimeZone::UTC), opens.map(at), "{time}");
        }
        // What must be uploaded all the same does not take the whole line.
        assert_eq!(table.limit(at("2026-11-21T13:00:00Z"), &TimeZone::UTC), Some(512 << 10));
        assert_eq!(table.never_off().to_string(), DAY.replace("off", "512KiB"));
    }

    #[test]
    fn an_off_time_may_go_on_over_midnight() {
        let table = table("06:00,1MiB 22:00,off");
        let late = at("2026-11-21T23:00:00Z");
        assert_eq!(table.opens(late, &TimeZone::UTC), Some(at("2026-11-22T06:00:00Z")));
        assert_eq!(table.rate(at("2026-11-22T05:59:00Z"), &TimeZone::UTC), Rate::Off);
        let noon = at("2026-11-21T12:00:00Z");
        assert_eq!(table.next(noon, &TimeZone::UTC), Some((at("2026-11-21T22:00:00Z"), Rate::Off)));
    }

    #[test]
    fn times_are_those_of_the_wall_clock_in_summer_and_winter() {
        let berlin = TimeZone::posix("CET-1CEST,M3.5.0,M10.5.0/3").expect("a zone");
        let table = table("08:00,off 18:00,unlimited");
        for (now, rate, opens) in [
            ("2026-07-01T05:59:00Z", Rate::Unlimited, None),
            ("2026-07-01T06:00:00Z", Rate::Off, Some("2026-07-01T16:00:00Z")),
            ("2026-12-01T06:59:00Z", Rate::Unlimited, None),
            ("2026-12-01T07:00:00Z", Rate::Off, Some("2026-12-01T17:00:00Z")),
        ] {
            assert_eq!(table.rate(at(now), &berlin), rate, "{now}");
            assert_eq!(table.opens(at(now), &berlin), opens.map(at), "{now}");
        }
        // Nothing of the nights in which the clocks are changed is without a rate.
        let night = Timetable::from_str("02:30,off 04:00,1MiB").expect("a table");
        let opens = night.opens(at("2026-03-29T01:10:00Z"), &berlin);
        assert_eq!(opens, Some(at("2026-03-29T02:00:00Z")));
        assert_eq!(night.rate(at("2026-10-25T01:45:00Z"), &berlin), Rate::Off);
    }

    #[test]
    fn one_rate_is_for_the_whole_day() {
        let noon = at("2026-11-21T12:00:00Z");
        for (text, rate) in [("2MiB", Rate::Limit(2 << 20)), ("unlimited", Rate::Unlimited)] {
            assert_eq!(table(text).rate(noon, &TimeZone::UTC), rate);
            assert_eq!(table(text).next(noon, &TimeZone::UTC), None);
            assert_eq!(table(text).to_string(), text);
        }
    }

    #[test]
    fn what_is_no_timetable_is_refused() {
        for text in [
            "",
            "fast",
            "-1",
            "2 MiB a second",
            "08:00",
            "08:00,",
            "8:00,1MiB",
            "24:00,1MiB",
            "08:60,1MiB",
            "08:00,1MiB,18:00,2MiB",
            "08:00,1MiB 08:00,2MiB",
            "off",
            "08:00,off",
            "08:00,off 18:00,off",
            "100",
            "08:00,1KiB 18:00,1000B",
            "08:00,1MiB 2MiB",
        ] {
            assert!(text.parse::<Timetable>().is_err(), "{text:?}");
        }
    }
}
