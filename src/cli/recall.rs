//! `spoolfs recall`.

use super::context::Common;
use super::{Context, Exit, moves};
use crate::clock::{Clock, SystemClock, Timestamp};
use crate::control::{Request, WirePath};
use crate::units::Span;
use std::path::PathBuf;
use std::str::FromStr;

pub(super) const EXAMPLES: &str = "Examples:
  spoolfs recall /var/spool/asterisk/monitor/2026/10/21
  spoolfs recall --since 2026-10-01 --until 2026-10-08
  spoolfs recall --since 7d queue-500
  spoolfs recall --json call.wav

A recalled recording stays local for keep_local again; `spoolfs pin` keeps it longer. --since and
--until take a day, a day and time (\"2026-10-01 14:30\", this machine's time), or an age (7d).";

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    pub common: Common,
    /// Recordings, or directories with all that is below them
    #[arg(value_name = "PATH", required_unless_present_any = ["since", "until"])]
    paths: Vec<PathBuf>,
    /// Only what was last written then or later; without PATH of all recordings
    #[arg(long, value_name = "TIME")]
    since: Option<Since>,
    /// Only what was last written then or earlier, a day with its end
    #[arg(long, value_name = "TIME")]
    until: Option<Until>,
}

pub(super) fn run(arguments: &Arguments) -> Result<(), Exit> {
    let context = Context::load(&arguments.common)?;
    let mut paths = context.all_relative(&arguments.paths)?;
    if paths.is_empty() {
        paths.push(WirePath(PathBuf::new()));
    }
    let (since, until) = (arguments.since.map(|t| t.0), arguments.until.map(|t| t.0));
    moves::ask(&context, "recalled", &Request::Recall { paths, since, until })
}

#[derive(Clone, Copy, Debug)]
struct Since(Timestamp);

impl FromStr for Since {
    type Err = String;

    fn from_str(text: &str) -> Result<Since, String> {
        time(text, false).map(Since)
    }
}

#[derive(Clone, Copy, Debug)]
struct Until(Timestamp);

impl FromStr for Until {
    type Err = String;

    fn from_str(text: &str) -> Result<Until, String> {
        time(text, true).map(Until)
    }
}

/// A time as people write it; of a day its beginning, or its `end`.
fn time(text: &str, end: bool) -> Result<Timestamp, String> {
    use jiff::civil::{Date, DateTime, time};
    if let Ok(age) = Span::from_str(text) {
        return Ok(SystemClock.now().minus(age.0));
    }
    let of_day = if end { time(23, 59, 59, 999_999_999) } else { time(0, 0, 0, 0) };
    let day = |d: Date| d.to_datetime(of_day);
    let civil = DateTime::strptime("%Y-%m-%d %H:%M:%S", text)
        .or_else(|_| DateTime::strptime("%Y-%m-%d %H:%M", text))
        .or_else(|_| Date::strptime("%Y-%m-%d", text).map(day));
    let civil = civil.map_err(|_| {
        "write a day (2026-10-01), a day and time (\"2026-10-01 14:30\") or an age (7d)".to_owned()
    })?;
    let instant = SystemClock.zone().to_timestamp(civil).map_err(|e| e.to_string())?;
    i64::try_from(instant.as_nanosecond()).map(Timestamp).map_err(|e| e.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn times_are_days_days_with_a_time_and_ages() {
        let day = time("2026-10-01", false).unwrap();
        let minute = time("2026-10-01 14:30", false).unwrap();
        assert_eq!(day.age_at(minute), Duration::from_secs(14 * 3600 + 30 * 60));
        let end = time("2026-10-01", true).unwrap();
        assert_eq!(day.age_at(end), Duration::from_nanos(86_400_000_000_000 - 1));
        let age = time("7d", false).unwrap().age_at(SystemClock.now());
        assert!(age.abs_diff(Duration::from_secs(7 * 86_400)) < Duration::from_secs(60));
        for bad in ["", "yesterday", "2026-13-01", "7"] {
            assert!(time(bad, false).is_err(), "{bad}");
        }
    }
}
