//! Housekeeping of the catalog thread: checkpoints, log segments, the ballast, and a look at the
//! file when something seems wrong with it.

use super::database;
use super::error::{Fault, fault};
use super::salvage;
use super::thread::{IDLE, Worker};
use crate::{faults, limits};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

/// Least time between two complete looks at a database a reader found fault with.
const CHECK_EVERY: Duration = Duration::from_secs(60);
/// Least time between two tries to write a removed database again.
const RESTORE_EVERY: Duration = Duration::from_secs(5);
/// Wait between tries to set room for the write-ahead log aside.
const ROOM_EVERY: Duration = Duration::from_secs(1);
/// Wait between looks whether the ballast is there.
const BALLAST_EVERY: Duration = Duration::from_secs(10);

impl Worker {
    /// Looks at the file if a reader found fault with it, or if it was not looked at for long.
    pub(super) fn look_if_suspect(&mut self) {
        let suspect = self.shared.suspect.swap(false, Ordering::SeqCst);
        let idle = !self.tidy && self.last_work.elapsed() >= IDLE;
        let Some(database) = self.database.as_ref().filter(|_| suspect || idle) else { return };
        if !database.is_current() {
            return self.follow();
        }
        let due = self.checked.is_none_or(|at| at.elapsed() >= CHECK_EVERY);
        if suspect && due {
            match database::is_sound(&self.shared.path) {
                Some(true) => self.checked = Some(Instant::now()),
                Some(false) => self.rescue_or_replace(),
                None => {}
            }
        }
    }

    /// The file was removed or replaced. What is in its place now is gone on with; if there is
    /// nothing, the one that is still open is written there.
    fn follow(&mut self) {
        let Some(database) = self.database.take() else { return };
        let path = &self.shared.path;
        if database.is_removed() {
            if self.restored.is_none_or(|at| at.elapsed() >= RESTORE_EVERY)
                && let Err(error) = salvage::restore(database.conn(), path)
            {
                // It has the only copy of what is released: as long as it is open nothing is lost.
                self.restored = Some(Instant::now());
                self.say(format!(
                    "it was removed while in use and can not be written again: {error}"
                ));
            }
            if database.is_removed() {
                self.database = Some(database);
                return;
            }
            tracing::error!("{} was removed while in use; it is there again", path.display());
            database.abandon();
        } else {
            tracing::error!(
                "{} was replaced while in use; going on with what is there now",
                path.display()
            );
            database.abandon();
            // They belong to the file that is gone, and would be taken for the new one's.
            database::remove_companions(path);
        }
        self.shared.readers.renew();
        self.shared.reconcile.store(true, Ordering::SeqCst);
        self.retry_at = Some(Instant::now());
    }

    /// The database is damaged: kept if that can be done, else set aside.
    pub(super) fn rescue_or_replace(&mut self) {
        if !self.rescue() {
            self.replace();
        }
    }

    /// Tries to keep the database; not again and again.
    pub(super) fn rescue(&mut self) -> bool {
        if self.rescued.is_some_and(|at| at.elapsed() < CHECK_EVERY) {
            return false;
        }
        self.rescued = Some(Instant::now());
        if let Some(database) = self.database.take() {
            database.abandon();
        }
        self.shared.readers.renew();
        let Some(rescued) = salvage::rescue(&self.shared.path, &self.shared.options.clock) else {
            return false;
        };
        tracing::error!("{} was damaged: {rescued:?}", self.shared.path.display());
        self.shared.readers.renew();
        self.shared.reconcile.store(true, Ordering::SeqCst);
        self.retry_at = Some(Instant::now());
        true
    }

    pub(super) fn checkpoint(&mut self) -> rusqlite::Result<()> {
        let idle = !self.tidy && self.last_work.elapsed() >= IDLE;
        let Some(database) = &self.database else { return Ok(()) };
        let pages = database.wal_pages();
        let bound = u64::from(limits::CATALOG_WAL_PAGES);
        if idle {
            self.tidy = true;
        }
        let result = match pages {
            // A program that reads for long keeps the log growing; wait for a gap in its reading.
            _ if pages >= bound.saturating_mul(8) => database.checkpoint(true),
            _ if pages >= bound => database.checkpoint(false),
            1.. if idle => database.checkpoint(!database.is_tight()),
            _ => Ok(()),
        };
        // A reader or another writer in the way: next time.
        result.or_else(|error| if fault(&error) == Fault::Busy { Ok(()) } else { Err(error) })
    }

    pub(super) fn tend_log(&mut self) {
        // Effects are added only under the lock of the log.
        let mut log = self.shared.log.lock();
        let committed = {
            let overlay = self.shared.overlay.read();
            if overlay.len() == 0 { u64::MAX } else { overlay.dropped() }
        };
        let len = log.active_len();
        let long = len >= limits::OPERATION_LOG_SEGMENT_BYTES;
        if (long || (self.tidy && len > 0 && committed == u64::MAX))
            && let Err(error) = log.rotate()
        {
            tracing::warn!("{}: {error}", self.shared.options.runtime_dir.display());
        }
        let retired = log.retire(committed);
        drop(log);
        for path in retired {
            faults::point("log.before_removal");
            if let Err(error) = std::fs::remove_file(&path) {
                tracing::warn!("{}: {error}", path.display());
            }
        }
    }

    pub(super) fn tend_ballast(&mut self) {
        if self.retry_at.is_some() || Instant::now() < self.ballast_at {
            return;
        }
        self.ballast_at = Instant::now() + BALLAST_EVERY;
        match self.database.as_ref().map(|_| database::hold_room(&self.shared.path)) {
            // Its file is not there before the first change.
            Some(Ok(false)) => self.ballast_at = Instant::now() + ROOM_EVERY,
            Some(Err(error)) => tracing::warn!("room for the log of the catalog: {error}"),
            Some(Ok(true)) | None => {}
        }
        if self.ballast.is_there() {
            return;
        }
        match self.ballast.restore() {
            Ok(true) => {
                self.on_reserve = false;
                self.recovered();
            }
            Ok(false) => {
                self.on_reserve = true;
                self.say("its disk is nearly full and there is no reserve".to_owned());
            }
            Err(error) => tracing::warn!("the reserve of the catalog: {error}"),
        }
    }
}
