//! `[calls]`: where call records are read from.

use super::check::within;
use super::error::ConfigError;
use super::raw::RawCalls;
use super::source::Source;
use crate::calls::{self, Columns, Engine, Field, From, Pattern, Server, Wanted, Zone};
use crate::units::Secret;
use std::path::{Path, PathBuf};
use std::time::Duration;
use url::Url;

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
    /// Recordings wait for a record of their call, at most so long; `None`: they do not.
    pub require_cdr: Option<Duration>,
    /// The password is in the file or the environment, not in a file of its own.
    pub password_given: bool,
}

/// A usual place of call records.
struct Preset {
    name: &'static str,
    source: &'static str,
    /// The file, or the database.
    path: &'static str,
}

const PRESETS: &[Preset] = &[
    Preset { name: "asterisk-csv", source: "csv", path: "/var/log/asterisk/cdr-csv/Master.csv" },
    Preset { name: "asterisk-sqlite", source: "sqlite", path: "/var/log/asterisk/master.db" },
    Preset { name: "freepbx", source: "mysql", path: "mysql://localhost/asteriskcdrdb" },
    Preset { name: "vicidial", source: "mysql", path: "mysql://localhost/asterisk" },
];

/// The kinds of sources.
const SOURCES: &[&str] = &["none", "filename", "csv", "sqlite", "mysql", "postgres"];

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
    let require_cdr = span(
        "calls.require_cdr_for",
        raw.require_cdr_for,
        86_400,
        60 * second..=365 * 86_400 * second,
    )?;
    let require_cdr = raw.require_cdr.unwrap_or(false).then_some(require_cdr);
    if require_cdr.is_some() && matches!(kind, "none" | "filename") {
        let message =
            format_args!("waits for call records, and with source {kind:?} there are none");
        let cure = "set calls.source or calls.preset, or remove it";
        return Err(source.fault("calls.require_cdr", message, cure));
    }
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
        "mysql" | "postgres" => server(&raw, kind, preset, source)?,
        _ => {
            let path = file()?;
            let cel = raw.cel.as_ref().map(|table| (path.clone(), table.clone()));
            calls::Source::Sqlite { path, from: from(&raw), cel }
        }
    };
    let names = if names.is_empty() { Pattern::usual() } else { names };
    Ok(Some(Calls {
        source,
        zone,
        names,
        every,
        timeout,
        quiet,
        cache_max_size,
        same_account,
        require_cdr,
        password_given: raw.password.is_some(),
    }))
}

/// A database server: what is asked of it, and how it is reached.
fn server(
    raw: &RawCalls,
    kind: &str,
    preset: Option<&Preset>,
    source: &Source,
) -> Result<calls::Source, ConfigError> {
    let engine = if kind == "mysql" { Engine::Mysql } else { Engine::Postgres };
    let usual = preset.filter(|p| p.source == kind);
    let Some(text) = raw.url.as_deref().or(usual.map(|p| p.path)) else {
        let cure = format!("set it, such as url = \"{kind}://user@db.example.com/asteriskcdrdb\"");
        return Err(source.fault("calls.url", "is missing", cure));
    };
    let url = Url::parse(text).ok().filter(|url| url.scheme() == kind && url.path().len() > 1);
    let Some(url) = url else {
        let message = format_args!("is no {kind}:// URL with a database");
        let cure = format!("write for example {kind}://user@db.example.com/asteriskcdrdb");
        return Err(source.fault("calls.url", message, cure));
    };
    if url.password().is_some() {
        let cure = "use calls.password_file, or calls.password";
        return Err(source.fault("calls.url", "must not contain a password", cure));
    }
    let mut socket = None;
    for (key, value) in url.query_pairs() {
        if key != "socket" {
            let message = format_args!("has {key:?} behind the question mark");
            return Err(source.fault("calls.url", message, "only socket=/path can be there"));
        }
        socket = Some(PathBuf::from(value.as_ref()));
    }
    let vicidial = preset.is_some_and(|p| p.name == "vicidial");
    let records = match (&raw.query, &raw.table) {
        (Some(query), _) => Wanted::Query(own(query, source)?),
        (None, None) if vicidial && engine == Engine::Mysql => Wanted::Vicidial,
        (None, table) => Wanted::Records(table.clone().unwrap_or_else(|| "cdr".to_owned())),
    };
    let freepbx = preset.is_some_and(|p| p.name == "freepbx");
    let cel = raw.cel.as_deref().or(freepbx.then_some("cel"));
    let events = cel.filter(|c| !c.is_empty()).map(|table| Wanted::Events(table.to_owned()));
    let host = url.host_str().filter(|host| !host.is_empty() && *host != "localhost");
    let user = Some(url.username()).filter(|user| !user.is_empty());
    let server = Server {
        engine,
        host: host.map(|host| host.trim_matches(['[', ']']).to_owned()),
        port: url.port(),
        socket,
        user: user.map(str::to_owned),
        password: password(raw, source)?,
        database: url.path().trim_start_matches('/').to_owned(),
        tls_ca: raw.tls_ca.clone(),
    };
    Ok(calls::Source::Server { server, records, events })
}

/// A query of one's own, if it can be followed.
fn own(query: &str, source: &Source) -> Result<String, ConfigError> {
    let query = query.trim().trim_end_matches(';');
    let beginning: String = query.chars().take(40).collect();
    if query.contains(';') {
        let message = format_args!("{beginning:?} is more than one statement");
        return Err(source.fault("calls.query", message, "write one SELECT"));
    }
    if query.contains("{after}") != query.contains("{limit}") {
        let message = format_args!("{beginning:?} says only one of {{after}} and {{limit}}");
        let cure = "write WHERE ... > {after} ORDER BY position LIMIT {limit}, or neither";
        return Err(source.fault("calls.query", message, cure));
    }
    Ok(query.to_owned())
}

fn password(raw: &RawCalls, source: &Source) -> Result<Option<Secret>, ConfigError> {
    match (&raw.password, &raw.password_file) {
        (Some(_), Some(_)) => {
            let cure = "remove one of them";
            Err(source.fault("calls.password_file", "is set beside calls.password", cure))
        }
        (Some(password), None) => Ok(Some(password.clone())),
        (None, Some(file)) => match std::fs::read_to_string(file) {
            Ok(text) => Ok(Some(Secret::new(text.trim_end_matches(['\r', '\n'])))),
            Err(error) => {
                let reason = super::error::reason(&error);
                let message = format_args!("{} cannot be read: {reason}", file.display());
                Err(source.fault("calls.password_file", message, "write the password into it"))
            }
        },
        (None, None) => Ok(None),
    }
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
    let server = matches!(kind, "mysql" | "postgres");
    let (file, table) = (matches!(kind, "csv" | "sqlite"), kind == "sqlite" || server);
    let keys = [
        ("path", raw.path.is_some() && !file),
        ("columns", !raw.columns.is_empty() && kind != "csv"),
        ("table", raw.table.is_some() && (!table || raw.query.is_some())),
        ("query", raw.query.is_some() && !table),
        ("cel", raw.cel.is_some() && !file && !server),
        ("url", raw.url.is_some() && !server),
        ("password", raw.password.is_some() && !server),
        ("password_file", raw.password_file.is_some() && !server),
        ("tls_ca", raw.tls_ca.is_some() && !server),
    ];
    for (key, _) in keys.into_iter().filter(|(_, idle)| *idle) {
        let instead =
            if key == "table" && table { "calls.query is used" } else { "it is not used" };
        warnings.push(format!("calls.{key} means nothing with calls.source \"{kind}\": {instead}"));
    }
}
