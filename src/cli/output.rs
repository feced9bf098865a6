//! Text for people and JSON for programs.

use crate::clock::{Clock, SystemClock, Timestamp};
use crate::control::{Failure, Progress, utc};
use crate::units::{humane_duration, humane_size};
use serde::Serialize;
use std::borrow::Cow;
use std::io::{IsTerminal, Write};
use std::time::Duration;

/// Writes to standard output. Who closed it early (`| head`) has seen enough.
pub(super) fn text(text: &str) {
    let _closed_early = std::io::stdout().lock().write_all(harmless(text).as_bytes());
}

/// Writes the one JSON document of a command.
pub(super) fn json(document: &impl Serialize) {
    match serde_json::to_string_pretty(document) {
        Ok(document) => text(&format!("{document}\n")),
        Err(e) => note(&format!("spoolfs: {e}\n")),
    }
}

/// Writes to standard error.
pub(super) fn note(text: &str) {
    raw_note(&harmless(text));
}

fn raw_note(text: &str) {
    let _nobody_reads = std::io::stderr().lock().write_all(text.as_bytes());
}

/// Names of files may hold anything, also what tells a terminal to do something.
fn harmless(text: &str) -> Cow<'_, str> {
    let bad = |c: char| c.is_control() && c != '\n' && c != '\t';
    if !text.contains(bad) {
        return text.into();
    }
    let plain = |c: char| if bad(c) { c.escape_default().to_string() } else { c.to_string() };
    text.chars().map(plain).collect::<String>().into()
}

/// Says why a command failed.
pub(super) fn failure(failure: &Failure, as_json: bool) {
    if as_json {
        json(&serde_json::json!({ "error": failure }));
    }
    let mut message = format!("spoolfs: {}\n", failure.message);
    for one in &failure.failures {
        message.push_str(&format!("  {}: {}\n", one.path, one.reason));
    }
    note(&message);
}

/// "5 minutes ago", "in 3 seconds".
pub(super) fn ago(at: Timestamp) -> String {
    relative(at, SystemClock.now())
}

fn relative(at: Timestamp, now: Timestamp) -> String {
    let whole = |d: Duration| humane_duration(Duration::from_secs(d.as_secs()));
    if at > now {
        return format!("in {}", whole(now.age_at(at)));
    }
    let age = at.age_at(now);
    if age < Duration::from_secs(1) { "just now".to_owned() } else { format!("{} ago", whole(age)) }
}

/// "2026-11-21 04:07:00 UTC (5 minutes ago)".
pub(super) fn when(at: Timestamp) -> String {
    format!("{} UTC ({})", utc::people(at), ago(at))
}

/// "18:00 (in 3 hours)", by the wall clock of this machine.
pub(super) fn local(at: Timestamp) -> String {
    let (zone, instant) = (SystemClock.zone(), jiff::Timestamp::from_nanosecond(at.0.into()));
    let time = instant
        .map_or_else(|_| utc::people(at), |i| zone.to_datetime(i).strftime("%H:%M").to_string());
    format!("{time} ({})", ago(at))
}

/// Columns as wide as their widest cell; the first is flush left, the others flush right.
pub(super) fn table(rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |c: usize| {
        rows.iter().filter_map(|r| r.get(c)).map(|s| s.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let mut text = String::new();
    for row in rows {
        let mut line = String::from(" ");
        for (i, (cell, width)) in row.iter().zip(&widths).enumerate() {
            line.push(' ');
            if i == 0 {
                line.push_str(&format!("{cell:<width$}"));
            } else {
                line.push_str(&format!(" {cell:>width$}"));
            }
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

/// "1 file", "3 files".
pub(super) fn files(count: u64) -> String {
    if count == 1 { "1 file".to_owned() } else { format!("{count} files") }
}

/// One line on a terminal that is written over and over.
pub(super) struct ProgressLine {
    verb: String,
    on: bool,
    last: Option<Timestamp>,
    began: Timestamp,
}

impl ProgressLine {
    /// A line that is shown only to people.
    pub fn new(verb: &str, json: bool) -> ProgressLine {
        let on = !json && std::io::stderr().is_terminal();
        ProgressLine { verb: verb.to_owned(), on, last: None, began: SystemClock.now() }
    }

    /// Shows how far it has come, at most ten times a second.
    pub fn show(&mut self, progress: &Progress) {
        let now = SystemClock.now();
        let fresh = self.last.is_some_and(|t| t.age_at(now) < Duration::from_millis(100));
        if !self.on || fresh {
            return;
        }
        self.last = Some(now);
        let took = self.began.age_at(now);
        raw_note(&format!("\r\x1b[K{}", progress_text(&self.verb, progress, took)));
    }

    /// Takes the line away.
    pub fn clear(&mut self) {
        if self.last.take().is_some() {
            raw_note("\r\x1b[K");
        }
    }
}

fn progress_text(verb: &str, progress: &Progress, took: Duration) -> String {
    let current = progress.current.as_ref().map_or_else(String::new, |path| {
        // A name must not break the line.
        let name: String =
            path.to_string().chars().map(|c| if c.is_control() { '?' } else { c }).collect();
        format!(", {name}")
    });
    let (done, total) = (progress.done, progress.total);
    let short: String = current.chars().take(60).collect();
    let bytes = humane_size(progress.bytes);
    if progress.bytes_total == 0 {
        return format!("{verb} {done} of {}, {bytes}{short}", files(total));
    }
    let all = humane_size(progress.bytes_total);
    let (bar, left) = (bar(progress), left(progress, took));
    format!("[{bar}] {verb} {done} of {}, {bytes} of {all}{left}{short}", files(total))
}

fn bar(progress: &Progress) -> String {
    const WIDTH: u64 = 20;
    let share = progress.bytes.min(progress.bytes_total).saturating_mul(WIDTH);
    let full = usize::try_from(share / progress.bytes_total.max(1)).unwrap_or(0);
    let mut bar = "#".repeat(full);
    bar.push_str(&".".repeat(20usize.saturating_sub(full)));
    bar
}

/// How long the rest takes at the rate so far; nothing before there is one.
fn left(progress: &Progress, took: Duration) -> String {
    let rest = progress.bytes_total.saturating_sub(progress.bytes);
    if progress.bytes == 0 || took < Duration::from_secs(1) {
        return String::new();
    }
    let seconds = took.as_secs_f64() * rest as f64 / progress.bytes as f64;
    let left = Duration::from_secs(Duration::try_from_secs_f64(seconds).map_or(0, |d| d.as_secs()));
    format!(", {} left", humane_duration(left))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_lines_up() {
        let row = |cells: &[&str]| cells.iter().map(|c| (*c).to_owned()).collect::<Vec<_>>();
        let rows = [row(&["", "files", "bytes"]), row(&["closed", "12", "1.4 MiB"])];
        assert_eq!(table(&rows), "          files    bytes\n  closed     12  1.4 MiB\n");
    }

    #[test]
    fn regression_a_name_tells_the_terminal_nothing() {
        assert_eq!(harmless("a\u{1b}[2J\tb\r\n"), "a\\u{1b}[2J\tb\\r\n");
        assert!(matches!(harmless("Müller\n"), Cow::Borrowed(_)));
        assert_eq!(crate::control::WirePath("a\nb.wav".into()).to_string(), "a\\nb.wav");
    }

    #[test]
    fn ages_in_words() {
        let now = Timestamp::from_parts(1_000_000, 0);
        for (secs, want) in
            [(1_000_000, "just now"), (999_700, "5 minutes ago"), (1_000_003, "in 3 seconds")]
        {
            assert_eq!(relative(Timestamp::from_parts(secs, 0), now), want);
        }
    }

    #[test]
    fn progress_is_one_line() {
        let progress = Progress {
            done: 12,
            total: 200,
            bytes: 3 << 20,
            bytes_total: 0,
            current: Some(crate::control::WirePath("a\nb\r.wav".into())),
        };
        let took = Duration::from_secs(10);
        assert_eq!(
            progress_text("archived", &progress, took),
            "archived 12 of 200 files, 3.0 MiB, a\\nb?.wav"
        );
        let progress = Progress { bytes_total: 12 << 20, current: None, ..progress };
        assert_eq!(
            progress_text("recalled", &progress, took),
            "[#####...............] recalled 12 of 200 files, 3.0 MiB of 12.0 MiB, 30 seconds left"
        );
    }
}
