//! The thread that keeps the cache: it alone writes it.

use super::error::is_damage;
use super::feed::{self, Answer, Question};
use super::ingest::Writer;
use super::names::is_audio;
use super::reads::path_buf;
use super::source::{self, Batch};
use super::{FeedStatus, Options, Page, Recordings, Status, schema};
use crate::clock::Timestamp;
use crate::limits;
use crate::recording::{NodeId, Sha256};
use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};
use parking_lot::Mutex;
use rusqlite::{Connection, TransactionBehavior};
use std::cell::Cell;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// What the thread is told.
pub(super) enum Word {
    Answer(Answer),
    Refresh(Sender<()>),
    Stop,
}

/// A source as the thread sees it.
struct Line {
    key: &'static str,
    ask: Sender<Question>,
    /// A question is on its way.
    waiting: bool,
    due: Instant,
    failures: u32,
    /// It had nothing more, since the last refresh was asked for.
    through: bool,
    /// A refresh was asked for while a question was on its way: its answer may be too old.
    again: bool,
}

/// Names being looked at once more, all of them.
struct Sweep {
    cursor: u64,
    seen: Vec<u64>,
    begun: Instant,
}

/// The thread's own.
pub(super) struct Keeper {
    options: Options,
    path: PathBuf,
    recordings: Arc<dyn Recordings>,
    status: Arc<Mutex<Status>>,
    words: Receiver<Word>,
    lines: Vec<Line>,
    conn: Option<Connection>,
    epoch: u64,
    cursor: u64,
    names_due: Instant,
    names_through: bool,
    sweep: Option<Sweep>,
    sweep_due: Instant,
    open_due: Instant,
    opened_badly: u32,
    refreshes: Vec<Sender<()>>,
    /// Dropped after the first try to open the cache: readers wait for that.
    starting: Option<Sender<()>>,
}

impl Keeper {
    pub(super) fn new(
        options: Options,
        recordings: Arc<dyn Recordings>,
        status: Arc<Mutex<Status>>,
        starting: Sender<()>,
    ) -> std::io::Result<(Keeper, Sender<Word>)> {
        let (say, words) = bounded(64);
        let now = Instant::now();
        let mut lines = Vec::new();
        let feeds = source::open(&options.source, &options.zone, options.timeout);
        for (number, source) in feeds.into_iter().enumerate() {
            status.lock().feeds.push(FeedStatus { place: source.place(), ..FeedStatus::default() });
            let key = source.key();
            let ask = feed::start(number, source, say.clone())?;
            lines.push(Line {
                key,
                ask,
                waiting: false,
                due: now,
                failures: 0,
                through: false,
                again: false,
            });
        }
        let path = options.state_dir.join(schema::FILE);
        let keeper = Keeper {
            options,
            path,
            recordings,
            status,
            words,
            lines,
            conn: None,
            epoch: 0,
            cursor: 0,
            names_due: now,
            names_through: false,
            sweep: None,
            sweep_due: now,
            open_due: now,
            opened_badly: 0,
            refreshes: Vec::new(),
            starting: Some(starting),
        };
        Ok((keeper, say))
    }

    pub(super) fn run(mut self) {
        loop {
            let next = self.work();
            match self.words.recv_timeout(next.saturating_duration_since(Instant::now())) {
                Ok(Word::Stop) | Err(RecvTimeoutError::Disconnected) => return,
                Ok(Word::Refresh(done)) => self.refresh(done),
                Ok(Word::Answer(answer)) => self.answer(answer),
                Err(RecvTimeoutError::Timeout) => {}
            }
        }
    }

    /// Does what is due; when there is something to do again.
    fn work(&mut self) -> Instant {
        let now = Instant::now();
        if self.conn.is_none() && self.open_due <= now {
            self.open();
            self.starting = None;
        }
        if self.conn.is_none() {
            return self.open_due;
        }
        self.ask(now);
        if self.names_due <= now {
            self.names();
        }
        self.satisfy();
        let lines = self.lines.iter().filter(|l| !l.waiting).map(|l| l.due);
        lines.chain([self.names_due]).min().unwrap_or(now)
    }

    fn open(&mut self) {
        match schema::open(&self.path, &self.fingerprint()) {
            Ok(conn) => {
                self.conn = Some(conn);
                self.opened_badly = 0;
                self.epoch += 1;
                let now = Instant::now();
                (self.cursor, self.sweep, self.sweep_due, self.names_due) = (0, None, now, now);
                for line in &mut self.lines {
                    (line.waiting, line.again, line.due) = (false, false, now);
                }
                self.status.lock().trouble = None;
            }
            Err(error) => self.close(&error),
        }
    }

    /// What the cache is filled by: with another configuration it is filled anew.
    fn fingerprint(&self) -> String {
        let o = &self.options;
        let text = format!("{:?} {:?} {:?} {}", o.source, o.zone, o.names, o.state_dir.display());
        Sha256::of(text.as_bytes()).to_string()
    }

    /// The cache can not be used now: it is opened anew, in a while.
    fn close(&mut self, error: &rusqlite::Error) {
        self.conn = None;
        if is_damage(error) {
            tracing::warn!(%error, "the call records are damaged and are read anew");
            schema::remove(&self.path);
        } else {
            tracing::warn!(%error, "the call records can not be kept now");
        }
        self.opened_badly += 1;
        self.open_due = Instant::now() + pause(self.opened_badly, Duration::from_millis(200));
        self.status.lock().trouble = Some(format!("{}: {error}", self.path.display()));
    }

    fn ask(&mut self, now: Instant) {
        let Some(conn) = &self.conn else { return };
        for (number, line) in self.lines.iter_mut().enumerate() {
            if line.waiting || line.due > now {
                continue;
            }
            let position = match schema::get(conn, line.key) {
                Ok(position) => position,
                Err(error) => return self.close(&error),
            };
            let question = Question { epoch: self.epoch, position };
            // Full: it still works at a question from before the cache was made anew.
            if line.ask.try_send(question).is_ok() {
                line.waiting = true;
                let asked = self.options.clock.now();
                if let Some(feed) = self.status.lock().feeds.get_mut(number) {
                    feed.asked = feed.asked.or(Some(asked));
                }
            } else {
                line.due = now + self.options.every;
            }
        }
    }

    fn answer(&mut self, Answer { feed, epoch, batch }: Answer) {
        if epoch != self.epoch || self.conn.is_none() {
            return;
        }
        let (now, every) = (self.options.clock.now(), self.options.every);
        let Some(line) = self.lines.get_mut(feed) else { return };
        line.waiting = false;
        let batch = match batch {
            Ok(batch) => batch,
            Err(error) => {
                line.failures = line.failures.saturating_add(1);
                line.through = true;
                line.due = Instant::now() + pause(line.failures, every);
                if let Some(status) = self.status.lock().feeds.get_mut(feed) {
                    (status.asked, status.error) = (None, Some(error.to_string()));
                }
                return;
            }
        };
        line.failures = 0;
        let more = batch.more || std::mem::take(&mut line.again);
        line.through = !more;
        line.due = Instant::now() + if more { Duration::ZERO } else { every };
        let key = line.key;
        if !self.roomy() {
            if let Some(line) = self.lines.get_mut(feed) {
                (line.due, line.through) = (Instant::now() + every, true);
            }
            return;
        }
        let taken = match self.commit(key, &batch) {
            Ok(taken) => taken,
            Err(error) => return self.close(&error),
        };
        self.told(feed, batch, taken, now);
        self.tend();
    }

    /// Writes down in `status` what a batch was.
    fn told(&self, feed: usize, batch: Batch, taken: u64, now: Timestamp) {
        let mut status = self.status.lock();
        let Some(status) = status.feeds.get_mut(feed) else { return };
        status.last_ok = Some(now);
        (status.asked, status.error) = (None, None);
        status.rows += taken;
        status.bad += batch.bad.len() as u64;
        status.caught_up = !batch.more;
        for bad in batch.bad {
            tracing::warn!(place = bad.place, reason = bad.reason, "a call record is left out");
            if status.bad_rows.len() >= limits::CALL_BAD_NAMED {
                status.bad_rows.remove(0);
            }
            status.bad_rows.push(bad);
        }
    }

    /// Runs `work` in one transaction.
    fn transaction<T>(
        &mut self,
        work: impl FnOnce(&Writer<'_>) -> rusqlite::Result<T>,
    ) -> rusqlite::Result<Option<T>> {
        let now = self.options.clock.now();
        let Some(conn) = &mut self.conn else { return Ok(None) };
        let tx = conn.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let writer = Writer {
            conn: &tx,
            now,
            zone: &self.options.zone,
            patterns: &self.options.names,
            refused: Cell::new(0),
        };
        let result = work(&writer)?;
        let refused = writer.refused.get();
        tx.commit()?;
        if refused > 0 {
            self.status.lock().refused_ties += refused;
        }
        Ok(Some(result))
    }

    /// Takes a batch; how many rows of it were new or had changed.
    fn commit(&mut self, key: &str, batch: &Batch) -> rusqlite::Result<u64> {
        let taken = self.transaction(|writer| {
            let mut taken = batch.events.len() as u64;
            for event in &batch.events {
                writer.event(event)?;
            }
            for record in &batch.records {
                taken += u64::from(writer.record(record)?);
            }
            schema::put(writer.conn, key, &batch.position)?;
            Ok(taken)
        })?;
        Ok(taken.unwrap_or(0))
    }

    /// Takes new names of the catalog, and now and then looks at all of them again.
    fn names(&mut self) {
        let now = Instant::now();
        if self.sweep.is_none() && self.sweep_due <= now {
            self.sweep = Some(Sweep { cursor: 0, seen: Vec::new(), begun: now });
        }
        let cursor = self.sweep.as_ref().map_or(self.cursor, |s| s.cursor);
        let page = match self.recordings.after(cursor, limits::CALL_NAMES_PAGE) {
            Ok(page) => page,
            Err(reason) => {
                self.status.lock().trouble = Some(reason);
                self.names_due = now + self.options.every;
                self.names_through = true;
                return;
            }
        };
        if let Err(error) = self.take(&page) {
            return self.close(&error);
        }
        self.status.lock().trouble = None;
        self.names_through = !page.more;
        let every = self.options.every.min(limits::CALL_NAMES_EVERY);
        self.names_due = now + if page.more { Duration::ZERO } else { every };
        self.cursor = self.cursor.max(page.cursor);
        let Some(sweep) = &mut self.sweep else { return };
        sweep.cursor = page.cursor;
        sweep.seen.extend(page.recordings.iter().map(|r| r.node.0));
        if !page.more
            && let Some(sweep) = self.sweep.take()
        {
            // A large catalog is looked at less often.
            let took = sweep.begun.elapsed();
            self.sweep_due = now + limits::CALL_SWEEP_EVERY.max(took.saturating_mul(50));
            if let Err(error) = self.forget_all_but(sweep.seen) {
                self.close(&error);
            }
        }
    }

    fn take(&mut self, page: &Page) -> rusqlite::Result<()> {
        if page.recordings.is_empty() || !self.roomy() {
            return Ok(());
        }
        self.transaction(|writer| {
            let audio = page.recordings.iter().filter(|r| is_audio(&path_buf(&r.path)));
            for recording in audio {
                writer.recording(recording)?;
            }
            Ok(())
        })
        .map(|_| ())
    }

    /// Recordings that were in no page of a sweep are gone.
    fn forget_all_but(&mut self, mut seen: Vec<u64>) -> rusqlite::Result<()> {
        seen.sort_unstable();
        let mut after = 0i64;
        loop {
            let page = self.transaction(|writer| {
                let nodes: Vec<i64> = super::reads::all(
                    writer.conn,
                    "SELECT node FROM recording WHERE node > ?1 ORDER BY node LIMIT ?2",
                    [after, limits::CALL_NAMES_PAGE as i64],
                    |r| r.get(0),
                )?;
                for node in &nodes {
                    if seen.binary_search(&node.cast_unsigned()).is_err() {
                        writer.forget(NodeId(node.cast_unsigned()))?;
                    }
                }
                Ok(nodes.last().copied())
            })?;
            match page.flatten() {
                Some(last) => after = last,
                None => return Ok(()),
            }
        }
    }

    /// Whether the disk has room for more. Recordings come first.
    fn roomy(&self) -> bool {
        let free = rustix::fs::statvfs(&self.options.state_dir)
            .map_or(u64::MAX, |s| s.f_bavail.saturating_mul(s.f_frsize));
        let roomy = free >= limits::CALL_FREE_MIN;
        if !roomy {
            let dir = self.options.state_dir.display();
            let reason = format!("the disk of {dir} is full; call records wait for room");
            self.status.lock().trouble = Some(reason);
        }
        roomy
    }

    /// Keeps the cache within its bound: the oldest records go.
    fn tend(&mut self) {
        let Some(conn) = &self.conn else { return };
        let bytes = schema::bytes(conn).unwrap_or(0);
        self.status.lock().bytes = bytes;
        if bytes <= self.options.bytes_max {
            return;
        }
        let evicted = self.transaction(|writer| {
            let oldest: Vec<(i64, i64)> = super::reads::all(
                writer.conn,
                "SELECT id, call FROM record WHERE origin <> 2 ORDER BY start, id LIMIT
                    (SELECT max(2000, count(*) / 20) FROM record WHERE origin <> 2)",
                [],
                |r| Ok((r.get(0)?, r.get(1)?)),
            )?;
            for (id, call) in &oldest {
                writer.remove_record(*id)?;
                writer.drop_if_empty(*call)?;
            }
            Ok(oldest.len() as u64)
        });
        match evicted {
            Ok(count) => self.status.lock().evicted += count.unwrap_or(0),
            Err(error) => self.close(&error),
        }
    }

    fn refresh(&mut self, done: Sender<()>) {
        let now = Instant::now();
        for line in &mut self.lines {
            (line.due, line.through, line.again) = (now, false, line.waiting);
        }
        (self.names_due, self.names_through) = (now, false);
        self.refreshes.push(done);
    }

    /// Tells those who asked for a refresh that all there is was taken.
    fn satisfy(&mut self) {
        if self.refreshes.is_empty() || !self.names_through || self.lines.iter().any(|l| !l.through)
        {
            return;
        }
        for done in self.refreshes.drain(..) {
            let _nobody_waits_any_more = done.try_send(());
        }
    }
}

/// A pause that doubles with each failure.
fn pause(failures: u32, first: Duration) -> Duration {
    first.saturating_mul(1 << failures.saturating_sub(1).min(10)).min(limits::CALL_RETRY_MAX)
}
