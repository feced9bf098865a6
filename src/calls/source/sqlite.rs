//! An SQLite database that Asterisk writes to: cdr_sqlite3_custom, cel_sqlite3_custom.

use super::super::error::{CallsError, Result};
use super::super::fields::{Field, Row};
use super::super::time::Zone;
use super::{BadRow, Batch, Event, Feed, From, fields_of};
use crate::limits;
use rusqlite::types::ValueRef;
use rusqlite::{Connection, OpenFlags, OptionalExtension};
use std::path::{Path, PathBuf};

enum What {
    Records,
    Events,
}

/// A table or query that is followed by a number that only grows.
pub(super) struct SqliteFeed {
    path: PathBuf,
    from: From,
    what: What,
    zone: Zone,
    conn: Option<Connection>,
}

impl SqliteFeed {
    pub(super) fn records(path: &Path, from: &From, zone: &Zone) -> SqliteFeed {
        let (path, zone) = (path.to_owned(), zone.clone());
        SqliteFeed { path, from: from.clone(), what: What::Records, zone, conn: None }
    }

    pub(super) fn events(path: &Path, table: &str, zone: &Zone) -> SqliteFeed {
        let (path, zone) = (path.to_owned(), zone.clone());
        let from = From::Table(table.to_owned());
        SqliteFeed { path, from, what: What::Events, zone, conn: None }
    }

    fn connect(&self) -> rusqlite::Result<Connection> {
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let conn = Connection::open_with_flags(&self.path, flags)?;
        // Asterisk must never wait for us: a read takes milliseconds, and gives way.
        conn.busy_timeout(limits::CALL_SQLITE_BUSY)?;
        conn.execute_batch("PRAGMA query_only = ON; PRAGMA temp_store = MEMORY;")?;
        Ok(conn)
    }

    /// Rows with their position as the first column.
    fn rows_of(&self) -> String {
        match &self.from {
            From::Table(table) => {
                format!("SELECT rowid AS position, * FROM \"{}\"", table.replace('"', "\"\""))
            }
            From::Query(query) => {
                format!("SELECT q.position AS position, q.* FROM ({query}) AS q")
            }
        }
    }

    fn next(&self, conn: &Connection, position: i64) -> rusqlite::Result<Batch> {
        let rows = self.rows_of();
        // A table that was emptied begins to count anew.
        let newest = format!("SELECT max(position) FROM ({rows})");
        let newest: Option<i64> = conn.query_row(&newest, [], |r| r.get(0)).optional()?.flatten();
        let after = if newest.unwrap_or(0) < position { 0 } else { position };
        let text = format!("SELECT * FROM ({rows}) WHERE position > ?1 ORDER BY position LIMIT ?2");
        let mut statement = conn.prepare(&text)?;
        let names: Vec<String> = statement.column_names().map(str::to_owned).collect();
        let fields = fields_of(names.iter().map(String::as_str));
        let mut rows = statement.query([after, limits::CALL_BATCH_ROWS as i64])?;
        let (mut batch, mut last, mut count) = (Batch::default(), after, 0);
        while let Some(row) = rows.next()? {
            last = row.get(0)?;
            count += 1;
            if let Err(reason) = self.row(row, &names, &fields, &mut batch)? {
                let place = format!("{}, row {last}", self.path.display());
                batch.bad.push(BadRow { place, reason });
            }
        }
        batch.more = count == limits::CALL_BATCH_ROWS;
        batch.position = last.to_string();
        Ok(batch)
    }

    fn row(
        &self,
        row: &rusqlite::Row<'_>,
        names: &[String],
        fields: &[Field],
        batch: &mut Batch,
    ) -> rusqlite::Result<std::result::Result<(), String>> {
        let mut record = Row::new(&self.zone);
        let mut event = Event::default();
        for (at, (name, field)) in names.iter().zip(fields).enumerate().skip(1) {
            let value = text(row.get_ref(at)?);
            match self.what {
                What::Records => record.set(*field, &value),
                What::Events => event.set(name, &value),
            }
        }
        Ok(match self.what {
            What::Records => record.finish().map(|record| batch.records.push(record)),
            What::Events => event.finish(&self.zone).map(|event| batch.events.push(event)),
        })
    }
}

fn text(value: ValueRef<'_>) -> String {
    match value {
        ValueRef::Null => String::new(),
        ValueRef::Integer(number) => number.to_string(),
        ValueRef::Real(number) => number.to_string(),
        ValueRef::Text(text) | ValueRef::Blob(text) => String::from_utf8_lossy(text).into_owned(),
    }
}

impl Feed for SqliteFeed {
    fn key(&self) -> &'static str {
        if matches!(self.what, What::Events) { "cel" } else { "cdr" }
    }

    fn place(&self) -> String {
        self.path.display().to_string()
    }

    fn read(&mut self, position: Option<&str>) -> Result<Batch> {
        let position = position.and_then(|text| text.parse().ok()).unwrap_or(0);
        let read = || -> rusqlite::Result<(Connection, Batch)> {
            // The file may have been replaced: it is opened anew each time it has nothing more.
            let conn = match self.conn.take() {
                Some(conn) => conn,
                None => self.connect()?,
            };
            let batch = self.next(&conn, position)?;
            Ok((conn, batch))
        };
        let mut read = read;
        let (conn, batch) = read().map_err(|error| CallsError::Source {
            place: self.path.display().to_string(),
            reason: error.to_string(),
        })?;
        self.conn = batch.more.then_some(conn);
        Ok(batch)
    }
}
