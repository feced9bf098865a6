//! Where call records are read from.
//!
//! **Invariant:** a source is only read. What it gives and where it stands are committed together,
//! so that nothing is missed or counted twice, whenever the daemon dies.

mod cel;
mod client;
mod csv;
mod line;
mod presets;
mod server;
mod sqlite;

pub(super) use cel::Event;
pub use csv::Columns;
pub use presets::Wanted;
pub use server::{Engine, Server};

use super::error::Result;
use super::fields::Field;
use super::ingest::CelEvent;
use super::record::CallRecord;
use super::time::Zone;
use std::path::PathBuf;
use std::time::Duration;

/// Where call records come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// Only from the names of recordings.
    Names,
    /// A file that Asterisk appends to.
    Csv {
        /// Which.
        path: PathBuf,
        /// What its columns mean.
        columns: Columns,
        /// A file of channel events, in the order of Asterisk's sample.
        cel: Option<PathBuf>,
    },
    /// An SQLite database that Asterisk writes to.
    Sqlite {
        /// Which.
        path: PathBuf,
        /// The table, or a whole query with a column `position` that only grows.
        from: From,
        /// The table of channel events, in the same database or beside it.
        cel: Option<(PathBuf, String)>,
    },
    /// A database server.
    Server {
        /// Which.
        server: Server,
        /// Call records.
        records: Wanted,
        /// Channel events.
        events: Option<Wanted>,
    },
}

/// What is read of a database.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum From {
    /// All of a table.
    Table(String),
    /// What a query gives.
    Query(String),
}

/// A row that is none, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BadRow {
    /// File and line, or table and row.
    pub place: String,
    /// What is wrong with it.
    pub reason: String,
}

/// What was read at once.
#[derive(Clone, Debug, Default)]
pub(super) struct Batch {
    /// Call records.
    pub records: Vec<CallRecord>,
    /// Channel events.
    pub events: Vec<CelEvent>,
    /// Rows that are none.
    pub bad: Vec<BadRow>,
    /// Where the next reading begins.
    pub position: String,
    /// There is more to be had at once.
    pub more: bool,
}

/// Something that is read piece by piece.
pub(super) trait Feed: Send {
    /// Its name in the cache: where it stands is kept under it.
    fn key(&self) -> &'static str;
    /// What it is for people: no password in it.
    fn place(&self) -> String;
    /// What came after a position.
    ///
    /// # Errors
    /// It can not be read now.
    fn read(&mut self, position: Option<&str>) -> Result<Batch>;
}

/// The feeds of a source. One that can be interrupted is, after so long without an answer.
pub(super) fn open(source: &Source, zone: &Zone, timeout: Duration) -> Vec<Box<dyn Feed>> {
    let mut feeds: Vec<Box<dyn Feed>> = Vec::new();
    match source {
        Source::Names => {}
        Source::Csv { path, columns, cel } => {
            // Events first: they tell which ids belong together while calls still go on.
            if let Some(cel) = cel {
                feeds.push(Box::new(csv::CsvFeed::events(cel, zone)));
            }
            feeds.push(Box::new(csv::CsvFeed::records(path, columns, zone)));
        }
        Source::Sqlite { path, from, cel } => {
            if let Some((path, table)) = cel {
                feeds.push(Box::new(sqlite::SqliteFeed::events(path, table, zone)));
            }
            feeds.push(Box::new(sqlite::SqliteFeed::records(path, from, zone)));
        }
        Source::Server { server, records, events } => {
            for wanted in events.iter().chain([records]) {
                feeds.push(Box::new(client::ClientFeed::new(server, wanted, zone, timeout)));
            }
        }
    }
    feeds
}

/// The meaning of each named column of a table. Those nobody knows are passed over.
fn fields_of<'n>(names: impl Iterator<Item = &'n str>) -> Vec<Field> {
    names.map(|name| Field::of(name).unwrap_or(Field::Ignore)).collect()
}
