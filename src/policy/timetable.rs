//! How fast recordings may be uploaded at which time of the day, and on which days of the week.
//!
//! **Invariant:** pure, and at some time of the week something may be uploaded.

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

/// Days of the week, as they are named.
const DAYS: [&str; 7] = ["mon", "tue", "wed", "thu", "fri", "sat", "sun"];

/// Days that follow one another, from 0, Monday, on; the last may be before the first in the week.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Days {
    first: u8,
    last: u8,
}

/// From a time of these days on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Slot {
    days: Days,
    /// Minutes after midnight.
    from: u16,
    rate: Rate,
}

/// The rates of a week, in local time. What begins last goes on, over midnight and over days
/// without a beginning.
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
    /// Not a day of the week.
    #[error("{0:?} is no day of the week (mon, tue, wed, thu, fri, sat, sun)")]
    Day(String),
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

impl Days {
    const ALL: Days = Days { first: 0, last: 6 };

    fn has(self, day: u8) -> bool {
        match self.first <= self.last {
            true => (self.first..=self.last).contains(&day),
            false => day >= self.first || day <= self.last,
        }
    }

    /// `mon`, or `mon-fri`.
    fn parse(text: &str) -> Result<Days, TimetableError> {
        let day = |text: &str| {
            let found = DAYS.iter().position(|day| day.eq_ignore_ascii_case(text));
            let found = found.and_then(|day| u8::try_from(day).ok());
            found.ok_or_else(|| TimetableError::Day(text.to_owned()))
        };
        let (first, last) = text.split_once('-').unwrap_or((text, text));
        let days = Days { first: day(first)?, last: day(last)? };
        Ok(if (0..7).all(|day| days.has(day)) { Days::ALL } else { days })
    }
}

impl fmt::Display for Days {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = |day: u8| DAYS.get(usize::from(day)).copied().unwrap_or_default();
        f.write_str(name(self.first))?;
        if self.first == self.last { Ok(()) } else { write!(f, "-{}", name(self.last)) }
    }
}

impl Default for Timetable {
    fn default() -> Timetable {
        Timetable::always(Rate::Unlimited)
    }
}

impl Timetable {
    fn always(rate: Rate) -> Timetable {
        Timetable { slots: vec![Slot { days: Days::ALL, from: 0, rate }] }
    }

    /// What is in force.
    pub fn rate(&self, now: Timestamp, zone: &TimeZone) -> Rate {
        let Some(local) = local(now, zone) else { return self.rate_at(0, 0) };
        self.rate_at(weekday(local.date()), minute(&local))
    }

    /// Bytes a second for what is uploaded now; `None`: as fast as it goes. What is uploaded
    /// although nothing should be goes at the lowest rate there is.
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

    /// The same without "off": the lowest rate there is instead.
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

    /// Before the first time of the day what began last on the days before is in force.
    fn rate_at(&self, day: u8, minute: u16) -> Rate {
        // Today up to now, then back to this day a week ago.
        let back = |ago: u8| {
            let before = (day + 7 - ago) % 7;
            let begun = move |slot: &&Slot| ago > 0 || slot.from <= minute;
            self.slots.iter().rev().filter(begun).find(move |slot| slot.days.has(before))
        };
        (0..=7).find_map(back).map_or(Rate::Unlimited, |slot| slot.rate)
    }

    /// The beginnings of today and the week that follows that are still to come.
    fn coming(
        &self,
        now: Timestamp,
        zone: &TimeZone,
    ) -> impl Iterator<Item = (Timestamp, Rate)> + use<'_> {
        let today = local(now, zone).map(|local| local.date());
        let next = |day: &jiff::civil::Date| day.tomorrow().ok();
        let zone = zone.clone();
        std::iter::successors(today, next)
            .take(8)
            .flat_map(move |day| {
                let zone = zone.clone();
                let on = move |slot: &&Slot| slot.days.has(weekday(day));
                self.slots.iter().filter(on).filter_map(move |slot| {
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

/// From 0, Monday, on.
fn weekday(day: jiff::civil::Date) -> u8 {
    u8::try_from(day.weekday().to_monday_zero_offset()).unwrap_or(0)
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

/// `08:00`, `mon-08:00` or `mon-fri-08:00`.
fn beginning(text: &str) -> Result<Option<(Days, u16)>, TimetableError> {
    let (days, at) = match text.rsplit_once('-') {
        Some((days, at)) => (Some(days), at),
        None => (None, text),
    };
    let Some(at) = time(at) else { return Ok(None) };
    Ok(Some((days.map_or(Ok(Days::ALL), Days::parse)?, at)))
}

impl FromStr for Timetable {
    type Err = TimetableError;

    fn from_str(text: &str) -> Result<Timetable, TimetableError> {
        let mut table = Timetable { slots: Vec::new() };
        if text.contains(',') {
            for part in text.split_whitespace() {
                let bad = || TimetableError::Slot(part.to_owned());
                let (at, text) = part.split_once(',').ok_or_else(bad)?;
                let (days, from) = beginning(at)?.ok_or_else(bad)?;
                table.slots.push(Slot { days, from, rate: rate(text)? });
            }
            table.slots.sort_by_key(|slot| slot.from);
        } else {
            table = Timetable::always(rate(text.trim())?);
        }
        let on = |day: u8| table.slots.iter().filter(move |slot| slot.days.has(day));
        let mut same = (0..7).flat_map(|day| on(day).zip(on(day).skip(1)));
        if same.any(|(a, b)| a.from == b.from) {
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
        if let [Slot { days: Days::ALL, from: 0, rate }] = self.slots.as_slice() {
            return rate.fmt(f);
        }
        for (i, Slot { days, from, rate }) in self.slots.iter().enumerate() {
            f.write_str(if i == 0 { "" } else { " " })?;
            if *days != Days::ALL {
                write!(f, "{days}-")?;
            }
            write!(f, "{:02}:{:02},{rate}", from / 60, from % 60)?;
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
    fn days_of_the_week_have_rates_of_their_own() {
        let text = "mon-fri-08:00,512KiB sat-09:00,off Mon-Fri-18:00,unlimited sun-20:00,2MiB";
        let table = table(text);
        assert_eq!(table.to_string(), text.replace("Mon-Fri", "mon-fri"));
        // From a Friday on; 2026-11-23 is a Monday.
        for (now, rate, next) in [
            ("20T07:59", Rate::Unlimited, Some(("20T08:00", Rate::Limit(512 << 10)))),
            ("20T08:00", Rate::Limit(512 << 10), Some(("20T18:00", Rate::Unlimited))),
            ("20T18:00", Rate::Unlimited, Some(("21T09:00", Rate::Off))),
            ("21T08:59", Rate::Unlimited, Some(("21T09:00", Rate::Off))),
            ("21T09:00", Rate::Off, Some(("22T20:00", Rate::Limit(2 << 20)))),
            ("22T19:59", Rate::Off, Some(("22T20:00", Rate::Limit(2 << 20)))),
            ("22T23:59", Rate::Limit(2 << 20), Some(("23T08:00", Rate::Limit(512 << 10)))),
            ("23T07:59", Rate::Limit(2 << 20), Some(("23T08:00", Rate::Limit(512 << 10)))),
            ("24T00:00", Rate::Unlimited, Some(("24T08:00", Rate::Limit(512 << 10)))),
        ] {
            let time = |text: &str| at(&format!("2026-11-{text}:00Z"));
            assert_eq!(table.rate(time(now), &TimeZone::UTC), rate, "{now}");
            let next = next.map(|(at, rate)| (time(at), rate));
            assert_eq!(table.next(time(now), &TimeZone::UTC), next, "{now}");
        }
        let night = at("2026-11-21T10:00:00Z");
        assert_eq!(table.opens(night, &TimeZone::UTC), Some(at("2026-11-22T20:00:00Z")));
        // Over the end of the week; one beginning in a week; and all days, however they are named.
        let over: Timetable = self::table("fri-mon-06:00,1MiB tue-thu-06:00,off");
        assert_eq!(over.rate(at("2026-11-23T06:00:00Z"), &TimeZone::UTC), Rate::Limit(1 << 20));
        assert_eq!(over.rate(at("2026-11-24T06:00:00Z"), &TimeZone::UTC), Rate::Off);
        assert_eq!(
            over.opens(at("2026-11-24T06:00:00Z"), &TimeZone::UTC),
            Some(at("2026-11-27T06:00:00Z"))
        );
        let one = self::table("wed-12:00,1MiB");
        assert_eq!(one.rate(at("2026-11-25T11:59:00Z"), &TimeZone::UTC), Rate::Limit(1 << 20));
        assert_eq!(one.next(at("2026-11-25T12:00:00Z"), &TimeZone::UTC), None);
        assert_eq!(self::table("tue-mon-08:00,1MiB").to_string(), "08:00,1MiB");
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
        for (text, rate) in [
            ("2MiB", Rate::Limit(2 << 20)),
            ("1KiB", Rate::Limit(1024)),
            ("unlimited", Rate::Unlimited),
        ] {
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
            "mo-08:00,1MiB",
            "mon-tues-08:00,1MiB",
            "mon-tue-wed-08:00,1MiB",
            "mon,1MiB",
            "-08:00,1MiB",
            "mon-08:00,1MiB 08:00,2MiB",
            "mon-wed-08:00,1MiB wed-08:00,2MiB",
            "mon-08:00,off tue-08:00,off",
        ] {
            assert!(text.parse::<Timetable>().is_err(), "{text:?}");
        }
    }
}
