//! What is asked of the databases of Asterisk, FreePBX and VICIdial.

use super::super::fields::Field;
use super::server::Engine;
use std::collections::BTreeMap;

/// What is wanted of a server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// Call records of a table as Asterisk writes it.
    Records(String),
    /// Channel events of one.
    Events(String),
    /// VICIdial's recordings with their calls.
    Vicidial,
    /// What a query gives: it has a column `position`, and `{after}` and `{limit}` in it, or
    /// neither.
    Query(String),
}

impl Wanted {
    pub(super) fn events(&self) -> bool {
        matches!(self, Wanted::Events(_))
    }
}

/// A query that is followed: `{after}` stands for the last position, `{limit}` for how many rows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Plan {
    /// The query. Its column `position` is a whole number, and what it is sorted by.
    pub query: String,
    /// How far back each look goes.
    pub near: i64,
    /// The same, now and then.
    pub far: i64,
    /// A position is that of one row, which may change.
    pub numbered: bool,
}

/// The names of VICIdial's tables: those in use, each with its archive.
const VICIDIAL: [&str; 6] = [
    "recording_log",
    "recording_log_archive",
    "vicidial_log",
    "vicidial_log_archive",
    "vicidial_closer_log",
    "vicidial_closer_log_archive",
];
const EVENT: [&str; 8] =
    ["eventtype", "eventtime", "uniqueid", "linkedid", "appname", "appdata", "extra", "eventextra"];

const HOUR: i64 = 3600;

/// Asks what columns there are of the tables that are wanted: rows of a table and a column.
pub(super) fn columns(engine: Engine, wanted: &Wanted) -> Option<String> {
    let tables: Vec<&str> = match wanted {
        Wanted::Records(table) | Wanted::Events(table) => vec![table],
        Wanted::Vicidial => VICIDIAL.to_vec(),
        Wanted::Query(_) => return None,
    };
    let tables: Vec<_> = tables.iter().map(|t| format!("'{}'", t.replace('\'', "''"))).collect();
    let schema = match engine {
        Engine::Mysql => "= DATABASE()",
        Engine::Postgres => "= ANY(current_schemas(false))",
    };
    Some(format!(
        "SELECT table_name, column_name FROM information_schema.columns
         WHERE table_schema {schema} AND table_name IN ({})",
        tables.join(", ")
    ))
}

/// What is asked of the tables that are there.
///
/// # Errors
/// A table is missing, or has not the columns.
pub(super) fn plan(
    engine: Engine,
    wanted: &Wanted,
    tables: &BTreeMap<String, Vec<String>>,
) -> Result<Plan, String> {
    let of = |table: &str| {
        tables.get(table).ok_or_else(|| format!("there is no table {table:?} that it may read"))
    };
    match wanted {
        Wanted::Records(table) => records(engine, table, of(table)?),
        Wanted::Events(table) => events(engine, table, of(table)?),
        Wanted::Vicidial => {
            for table in ["recording_log", "vicidial_log", "vicidial_closer_log"] {
                of(table)?;
            }
            Ok(vicidial(&|table| tables.contains_key(table)))
        }
        Wanted::Query(query) => Ok(own(query)),
    }
}

/// Rows of a table as Asterisk writes them. They come when a call ends and are sorted by when it
/// began.
fn records(engine: Engine, table: &str, columns: &[String]) -> Result<Plan, String> {
    let known = |c: &&String| Field::of(c).is_some_and(|f| f != Field::Ignore);
    let wanted: Vec<_> = columns.iter().filter(known).map(String::as_str).collect();
    let time = ["calldate", "start"].into_iter().find(|t| columns.iter().any(|c| c == t));
    let Some(time) = time else {
        return Err(format!("the table {table:?} has no column calldate or start"));
    };
    Ok(by_time(engine, table, time, &wanted))
}

/// Channel events.
fn events(engine: Engine, table: &str, columns: &[String]) -> Result<Plan, String> {
    let wanted: Vec<_> = EVENT.into_iter().filter(|e| columns.iter().any(|c| c == e)).collect();
    if !wanted.contains(&"eventtime") || !wanted.contains(&"eventtype") {
        return Err(format!("the table {table:?} has no columns eventtime and eventtype"));
    }
    if !columns.iter().any(|c| c == "id") {
        return Ok(by_time(engine, table, "eventtime", &wanted));
    }
    let (quote, table) = quoting(engine, table);
    let columns: Vec<_> = wanted.iter().map(|c| format!("{quote}{c}{quote}")).collect();
    let query = format!(
        "SELECT id AS position, {} FROM {table} WHERE id > {{after}} ORDER BY id LIMIT {{limit}}",
        columns.join(", ")
    );
    // Numbers are given before the rows can be seen.
    Ok(Plan { query, near: 200, far: 20_000, numbered: true })
}

fn quoting(engine: Engine, table: &str) -> (char, String) {
    let quote = match engine {
        Engine::Mysql => '`',
        Engine::Postgres => '"',
    };
    let doubled = table.replace(quote, &format!("{quote}{quote}"));
    (quote, format!("{quote}{doubled}{quote}"))
}

/// Rows by a time, which is counted in seconds as if it were UTC: so it has no hour twice. What a
/// wrong clock wrote, more than a day ahead, waits for its day, or nothing after it would be seen.
fn by_time(engine: Engine, table: &str, time: &str, columns: &[&str]) -> Plan {
    let (quote, table) = quoting(engine, table);
    let columns: Vec<_> = columns.iter().map(|c| format!("t.{quote}{c}{quote}")).collect();
    let time = format!("t.{quote}{time}{quote}");
    let (position, from, to) = match engine {
        Engine::Mysql => (
            format!("TIMESTAMPDIFF(SECOND, '1970-01-01', {time})"),
            "TIMESTAMP '1970-01-01 00:00:00' + INTERVAL {after} SECOND",
            "NOW() + INTERVAL 1 DAY",
        ),
        Engine::Postgres => (
            format!("floor(extract(epoch FROM {time}))::bigint"),
            "TIMESTAMP '1970-01-01 00:00:00' + {after} * INTERVAL '1 second'",
            "now() + INTERVAL '1 day'",
        ),
    };
    let query = format!(
        "SELECT {position} AS position, {} FROM {table} t
         WHERE {time} >= {from} AND {time} < {to} ORDER BY {time} LIMIT {{limit}}",
        columns.join(", ")
    );
    Plan { query, near: HOUR, far: 36 * HOUR, numbered: false }
}

/// A query of one's own.
fn own(query: &str) -> Plan {
    let query = if query.contains("{after}") {
        query.to_owned()
    } else {
        format!(
            "SELECT q.* FROM ({query}) q WHERE q.position > {{after}}
             ORDER BY q.position LIMIT {{limit}}"
        )
    };
    Plan { query, near: 0, far: 0, numbered: false }
}

/// VICIdial's recordings with their calls, from the tables in use and from the archive. A
/// `vicidial_id` with a dot is the uniqueid of an outbound call, one without the number of an inbound
/// one. A row is made when a recording begins and completed when it ends.
fn vicidial(is_there: &dyn Fn(&str) -> bool) -> Plan {
    let part = |table: &str| {
        format!(
            "(SELECT recording_id, start_time, end_time, length_in_sec, filename, user, lead_id,
                vicidial_id, channel
              FROM {table} WHERE recording_id > {{after}} ORDER BY recording_id LIMIT {{limit}})"
        )
    };
    let logs: Vec<_> = ["recording_log", "recording_log_archive"]
        .into_iter()
        .filter(|table| is_there(table))
        .map(part)
        .collect();
    let sources = [
        ("vicidial_log", "v", true),
        ("vicidial_log_archive", "va", true),
        ("vicidial_closer_log", "c", false),
        ("vicidial_closer_log_archive", "ca", false),
    ];
    let sources: Vec<_> = sources.into_iter().filter(|(table, ..)| is_there(table)).collect();
    let joins: Vec<_> = sources
        .iter()
        .map(|(table, name, outbound)| {
            let on = if *outbound {
                format!("{name}.uniqueid = r.vicidial_id AND {name}.lead_id = r.lead_id")
            } else {
                format!(
                    "r.vicidial_id NOT LIKE '%.%'
                     AND {name}.closecallid = CAST(r.vicidial_id AS UNSIGNED)"
                )
            };
            format!("LEFT JOIN {table} {name} ON {on}")
        })
        .collect();
    // Of the logs named, the first that has it.
    let first = |column: &str, outbound: bool, inbound: bool| {
        let from = sources.iter().filter(|(_, _, out)| if *out { outbound } else { inbound });
        let from: Vec<_> = from.map(|(_, name, _)| format!("{name}.{column}, ")).collect();
        format!("COALESCE({}'')", from.concat())
    };
    let query = format!(
        "SELECT r.recording_id AS position, r.start_time, r.end_time, r.length_in_sec,
            IF(r.length_in_sec > 0, 'ANSWERED', '') AS disposition, r.filename, r.user, r.lead_id,
            r.channel, {} AS campaign_id, {} AS ingroup, {} AS uniqueid, {} AS list_id,
            {} AS phone_number
         FROM (SELECT * FROM ({}) b ORDER BY recording_id LIMIT {{limit}}) r
         {} ORDER BY r.recording_id",
        first("campaign_id", true, false),
        first("campaign_id", false, true),
        first("uniqueid", true, true),
        first("list_id", true, true),
        first("phone_number", true, true),
        logs.join(" UNION ALL "),
        joins.join(" "),
    );
    Plan { query, near: 1000, far: 20_000, numbered: true }
}
