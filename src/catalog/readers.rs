//! Connections for reading, each with its prepared statements.
//!
//! **Invariant:** a reader waits for nobody longer than SQLite's busy timeout of 2 ms.

use super::error::{Fault, fault};
use super::schema;
use crate::limits;
use parking_lot::Mutex;
use rusqlite::Connection;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};

/// A pool of read-only connections.
#[derive(Debug)]
pub(super) struct Readers {
    path: PathBuf,
    idle: Mutex<Vec<(u64, Connection)>>,
    /// Goes up when the file is replaced: older connections are of another file.
    serial: AtomicU64,
    /// How often SQLite was read.
    reads: AtomicU64,
}

impl Readers {
    pub(super) fn new(path: PathBuf) -> Readers {
        Readers {
            path,
            idle: Mutex::default(),
            serial: AtomicU64::new(0),
            reads: AtomicU64::new(0),
        }
    }

    /// How often SQLite was read.
    pub(super) fn reads(&self) -> u64 {
        self.reads.load(Ordering::Relaxed)
    }

    /// Forgets every connection.
    pub(super) fn renew(&self) {
        self.serial.fetch_add(1, Ordering::SeqCst);
        self.idle.lock().clear();
    }

    /// Reads with one connection.
    pub(super) fn with<T>(
        &self,
        read: impl FnOnce(&Connection) -> rusqlite::Result<T>,
    ) -> rusqlite::Result<T> {
        self.reads.fetch_add(1, Ordering::Relaxed);
        let serial = self.serial.load(Ordering::SeqCst);
        let idle = self.idle.lock().pop();
        let conn = match idle {
            Some((of, conn)) if of == serial => conn,
            _ => schema::open_reader(&self.path)?,
        };
        let result = read(&conn);
        let sound = match &result {
            Ok(_) => true,
            Err(error) => fault(error) == Fault::Busy || fault(error) == Fault::Statement,
        };
        let mut idle = self.idle.lock();
        if sound && conn.is_autocommit() && idle.len() < limits::CATALOG_READERS_MAX {
            idle.push((serial, conn));
        }
        result
    }

    /// Reads several things of one snapshot, with the number of the last effect in it.
    pub(super) fn snapshot<T>(
        &self,
        read: impl FnOnce(&Connection, u64) -> rusqlite::Result<T>,
    ) -> rusqlite::Result<T> {
        self.with(|conn| {
            let tx = conn.unchecked_transaction()?;
            let committed: i64 =
                tx.prepare_cached("SELECT committed FROM position")?.query_row([], |r| r.get(0))?;
            read(&tx, u64::try_from(committed).unwrap_or(0))
        })
    }
}
