//! `[calls]`: where call records are read from.

use super::check::within;
use super::error::ConfigError;
use super::raw::RawCalls;
use super::source::Source;
use crate::calls::{self, Columns, Field, From, Pattern, Zone};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Call records, if there is a source of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Calls {
    /// Where they are read from.
    pub source: calls::Source,
    /// The zone of their times; `None`: this machine's.
    pub zone: Option<Zone>,
    /// What names of recordings say.
    pub names: Vec<Pattern>,
    /// How often the source is asked.
    pub every: Duration,
    /// After so long without an answer `status` says so.
    pub timeout: Duration,
    /// A call is complete when nothing was heard of it for so long.
    pub quiet: Duration,
    /// Bytes of the cache.
    pub cache_max_size: u64,
    /// A call has only recordings of one accountcode.
    pub same_account: bool,
}

/// A usual place of call records.
struct Preset {
    name: &'static str,
    source: &'static str,
    path: &'static str,
}

const PRESETS: &[Preset] = &[
    Preset { name: "asterisk-csv", source: "csv", path: "/var/log/asterisk/cdr-csv/Master.csv" },
    Preset { name: "asterisk-sqlite", source: "sqlite", path: "/var/log/asterisk/master.db" },
];

/// The kinds of sources.
const SOURCES: &[&str] = &["none", "filename", "csv", "sqlite"];

pub(super) fn resolve(
    raw: RawCalls,
    source: &Source,
    warnings: &mut Vec<String>,
) -> Result<Option<Calls>, ConfigError> {
    let preset = preset(raw.preset.as_deref(), source)?;
    let kind = raw.source.as_deref().or(preset.map(|p| p.source)).unwrap_or("none");
    if !SOURCES.contains(&kind) {
        let message = format_args!("{kind:?} is no kind of source");
        let cure = format!("write one of {}", SOURCES.join(", "));
        return Err(source.fault("calls.source", message, cure));
    }
    let names = raw.names.iter().map(|text| text.parse()).collect::<Result<Vec<Pattern>, _>>();
    let names = names.map_err(|error| {
        let cure = "write for example \"{timestamp}-{src}-{dst}\"";
        source.fault("calls.names", error, cure)
    })?;
    let zone = zone(raw.time_zone.as_deref(), source)?;
    let second = Duration::from_secs(1);
    let span = |key: &str, value: Option<crate::units::Span>, usual: u64, range| {
        within(
            source,
            key,
            value.map_or(second * u32::try_from(usual).unwrap_or(1), |s| s.0),
            range,
        )
    };
    let every = span("calls.every", raw.every, 10, second..=3600 * second)?;
    let timeout = span("calls.timeout", raw.timeout, 30, second..=3600 * second)?;
    let quiet = span("calls.quiet", raw.quiet, 120, second..=86_400 * second)?;
    let cache_max_size = raw.cache_max_size.map_or(2 << 30, |s| s.0);
    let same_account = raw.same_account.unwrap_or(true);
    if kind != "none" {
        means_nothing(&raw, kind, warnings);
    }
    let path = match &raw.path {
        Some(path) => Some(path.clone()),
        None => preset.filter(|p| p.source == kind).map(|p| PathBuf::from(p.path)),
    };
    let file = || file(path.as_deref(), source);
    let source = match kind {
        "none" => return Ok(None),
        "filename" => calls::Source::Names,
        "csv" => calls::Source::Csv {
            path: file()?,
            columns: columns(&raw.columns, source)?,
            cel: raw.cel.as_ref().map(PathBuf::from),
        },
        _ => {
            let path = file()?;
            let cel = raw.cel.as_ref().map(|table| (path.clone(), table.clone()));
            calls::Source::Sqlite { path, from: from(&raw), cel }
        }
    };
    let names = if names.is_empty() { Pattern::usual() } else { names };
    let kept = Calls { source, zone, names, every, timeout, quiet, cache_max_size, same_account };
    Ok(Some(kept))
}

fn preset(name: Option<&str>, source: &Source) -> Result<Option<&'static Preset>, ConfigError> {
    let Some(name) = name else { return Ok(None) };
    let found = PRESETS.iter().find(|p| p.name == name);
    found.map(Some).ok_or_else(|| {
        let known: Vec<_> = PRESETS.iter().map(|p| p.name).collect();
        let message = format_args!("{name:?} is no preset");
        source.fault("calls.preset", message, format!("write one of {}", known.join(", ")))
    })
}

fn zone(name: Option<&str>, source: &Source) -> Result<Option<Zone>, ConfigError> {
    match name {
        None | Some("local") => Ok(None),
        Some(name) => Zone::named(name).map(Some).ok_or_else(|| {
            let message = format_args!("{name:?} is no time zone that this machine knows");
            source.fault(
                "calls.time_zone",
                message,
                "write \"local\", \"UTC\" or \"Europe/Berlin\"",
            )
        }),
    }
}

fn file(path: Option<&Path>, source: &Source) -> Result<PathBuf, ConfigError> {
    let Some(path) = path else {
        let cure = "set it to the file, such as path = \"/var/log/asterisk/cdr-csv/Master.csv\"";
        return Err(source.fault("calls.path", "is missing", cure));
    };
    if !path.is_absolute() {
        let message = format_args!("{path:?} is not an absolute path");
        return Err(source.fault("calls.path", message, "begin it with \"/\""));
    }
    Ok(path.to_owned())
}

fn columns(names: &[String], source: &Source) -> Result<Columns, ConfigError> {
    if names.is_empty() {
        return Ok(Columns::Asterisk);
    }
    let field = |name: &String| {
        Field::of(name).ok_or_else(|| {
            let message = format_args!("{name:?} is no column of a call record");
            let cure = "write \"-\" for a column that is not needed";
            source.fault("calls.columns", message, cure)
        })
    };
    names.iter().map(field).collect::<Result<_, _>>().map(Columns::Custom)
}

fn from(raw: &RawCalls) -> From {
    match &raw.query {
        Some(query) => From::Query(query.clone()),
        None => From::Table(raw.table.clone().unwrap_or_else(|| "cdr".to_owned())),
    }
}

/// Warns about keys that this kind of source does not look at.
fn means_nothing(raw: &RawCalls, kind: &str, warnings: &mut Vec<String>) {
    let (file, table) = (matches!(kind, "csv" | "sqlite"), kind == "sqlite");
    let keys = [
        ("path", raw.path.is_some() && !file),
        ("columns", !raw.columns.is_empty() && kind != "csv"),
        ("table", raw.table.is_some() && (!table || raw.query.is_some())),
        ("query", raw.query.is_some() && !table),
        ("cel", raw.cel.is_some() && !file),
    ];
    for (key, _) in keys.into_iter().filter(|(_, idle)| *idle) {
        let instead =
            if key == "table" && table { "calls.query is used" } else { "it is not used" };
        warnings.push(format!("calls.{key} means nothing with calls.source \"{kind}\": {instead}"));
    }
}
