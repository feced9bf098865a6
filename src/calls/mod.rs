//! Call records: which recordings are of one call, and what the PBX knows of it.
//!
//! **Invariant:** nothing here is on the way of a call or of a recording. A source that is down,
//! hangs, or tells nonsense costs knowledge, not recordings: what is known stays, `status` says
//! so. The cache is no more than that: deleted or damaged, it is read anew.

mod error;
mod feed;
mod fields;
mod find;
mod ingest;
mod keeper;
mod names;
mod reads;
mod record;
mod rows;
mod rules;
mod schema;
mod source;
mod time;

#[cfg(test)]
mod tests;

pub use error::{CallsError, Result};
pub use fields::{Field, Text};
pub use find::{Filter, Found, Gaps};
pub use ingest::{CelEvent, Recording};
pub use names::{Pattern, PatternError, USUAL as USUAL_NAMES, is_audio, record as said_by_name};
pub use record::{Call, CallRecord, Facts, Leg, Origin};
pub use source::{BadRow, Columns, Engine, From, Server, Source, Wanted};
pub use time::Zone;

use crate::clock::{SharedClock, Timestamp};
use crate::limits;
use crate::recording::{NodeId, State};
use crossbeam_channel::{Receiver, Sender, TryRecvError};
use keeper::{Keeper, Word};
use parking_lot::Mutex;
use rusqlite::Connection;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

/// Where call records come from and how they are kept.
#[derive(Clone, Debug)]
pub struct Options {
    /// Holds the cache, `calls.sqlite`.
    pub state_dir: PathBuf,
    /// Source of time.
    pub clock: SharedClock,
    /// Where they are read from.
    pub source: Source,
    /// The zone of times in the source and in names.
    pub zone: Zone,
    /// What names of recordings say.
    pub names: Vec<Pattern>,
    /// How often the source is asked.
    pub every: Duration,
    /// After so long without an answer `status` says so.
    pub timeout: Duration,
    /// A call is complete when nothing was heard of it for so long, if no event tells.
    pub quiet: Duration,
    /// Bytes of the cache; the oldest records go first.
    pub bytes_max: u64,
    /// A call has only recordings of one accountcode.
    pub same_account: bool,
}

/// What the catalog tells of recordings, to be asked by threads that may wait.
pub trait Recordings: Send + Sync {
    /// Files whose names are newer than a cursor (0: all), and the cursor to go on with.
    ///
    /// # Errors
    /// Why the catalog can not say now.
    fn after(&self, cursor: u64, limit: usize) -> std::result::Result<Page, String>;

    /// Where a recording stands and how it is called now; `None`: it is gone.
    ///
    /// # Errors
    /// Why the catalog can not say now.
    fn standing(&self, node: NodeId) -> std::result::Result<Option<(State, PathBuf)>, String>;
}

/// Some names of the catalog.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Page {
    /// The files.
    pub recordings: Vec<Recording>,
    /// To be passed to the next question.
    pub cursor: u64,
    /// There are more.
    pub more: bool,
}

/// A call in a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    /// The cursor of this row.
    pub id: u64,
    /// The name of the call.
    pub linkedid: String,
    /// When it began.
    pub start: Timestamp,
    /// When its last record ended.
    pub end: Timestamp,
    /// How many recordings it has.
    pub recordings: usize,
}

/// Calls of which something was heard.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Heard {
    /// Their names, in the order of that.
    pub calls: Vec<String>,
    /// To be passed to the next question.
    pub position: u64,
}

/// A call with what joining its recordings needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Joined {
    /// The cursor of this row.
    pub id: u64,
    /// The name of the call.
    pub linkedid: String,
    /// In the order of their time.
    pub legs: Vec<JoinedLeg>,
}

/// A recording of a call that may be gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct JoinedLeg {
    /// Its row in the catalog.
    pub node: NodeId,
    /// When it began.
    pub start: Timestamp,
    /// Whether it was recorded on a channel that the call went to, not on the one it came from;
    /// none if no call record tells.
    pub called: Option<bool>,
}

/// How a source was last found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FeedStatus {
    /// File, or database without its password.
    pub place: String,
    /// When it last answered.
    pub last_ok: Option<Timestamp>,
    /// What it said instead of an answer.
    pub error: Option<String>,
    /// Since when it owes an answer.
    pub asked: Option<Timestamp>,
    /// Rows taken since the start.
    pub rows: u64,
    /// Rows that are none, since the start.
    pub bad: u64,
    /// The last of them.
    pub bad_rows: Vec<BadRow>,
    /// All that it had was read.
    pub caught_up: bool,
}

/// How things stand.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Status {
    /// The sources.
    pub feeds: Vec<FeedStatus>,
    /// What is wrong with the cache, or with the catalog's answers.
    pub trouble: Option<String>,
    /// Bytes of the cache.
    pub bytes: u64,
    /// Ties between calls that were left out because the call would be larger than any real one.
    pub refused_ties: u64,
    /// Records removed to make room.
    pub evicted: u64,
}

impl FeedStatus {
    /// The sentence for an operator, if something is the matter.
    pub fn trouble(&self, now: Timestamp, timeout: Duration) -> Option<String> {
        let silent = self.asked.map(|since| since.age_at(now)).filter(|age| *age >= timeout);
        if let Some(age) = silent {
            let age = crate::units::humane_duration(Duration::from_secs(age.as_secs()));
            return Some(format!("{} has not answered for {age}", self.place));
        }
        self.error.clone()
    }
}

/// Call records, kept up to date by threads of their own.
pub struct Calls {
    path: PathBuf,
    clock: SharedClock,
    quiet: Duration,
    same_account: bool,
    /// There is no source but the names of recordings.
    only_names: bool,
    recordings: Option<Arc<dyn Recordings>>,
    /// Each with the file that it is of.
    readers: Mutex<Vec<(u64, Connection)>>,
    reads: AtomicU64,
    status: Arc<Mutex<Status>>,
    words: Option<Sender<Word>>,
    /// Of no sender any more when the cache was opened, or can not be.
    opened: Option<Receiver<()>>,
    keeper: Mutex<Option<JoinHandle<()>>>,
}

impl std::fmt::Debug for Calls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Calls").field("path", &self.path).finish_non_exhaustive()
    }
}

/// What an answer depends on besides the cache.
pub(crate) struct Asked<'a> {
    now: Timestamp,
    quiet: Duration,
    same_account: bool,
    recordings: Option<&'a dyn Recordings>,
}

impl Calls {
    /// Starts keeping call records. Waits for nothing.
    ///
    /// # Errors
    /// There is no room for a thread.
    pub fn start(options: Options, recordings: Arc<dyn Recordings>) -> std::io::Result<Arc<Calls>> {
        let status = Arc::new(Mutex::new(Status::default()));
        let (starting, opened) = crossbeam_channel::bounded(0);
        let (keeper, words) =
            Keeper::new(options.clone(), recordings.clone(), status.clone(), starting)?;
        let keep = move || {
            crate::sys::stand_back(0);
            keeper.run();
        };
        let thread = std::thread::Builder::new().name("spoolfs-calls".to_owned()).spawn(keep)?;
        Ok(Arc::new(Calls {
            path: options.state_dir.join(schema::FILE),
            clock: options.clock,
            quiet: options.quiet,
            same_account: options.same_account,
            only_names: matches!(options.source, Source::Names),
            recordings: Some(recordings),
            readers: Mutex::default(),
            reads: AtomicU64::new(0),
            status,
            words: Some(words),
            opened: Some(opened),
            keeper: Mutex::new(Some(thread)),
        }))
    }

    /// Opens what an earlier daemon kept, to be read only.
    ///
    /// # Errors
    /// There is nothing, or it can not be read.
    pub fn look(options: &Options, recordings: Option<Arc<dyn Recordings>>) -> Result<Calls> {
        let path = options.state_dir.join(schema::FILE);
        if !path.exists() {
            return Err(CallsError::Missing(path));
        }
        let calls = Calls {
            path,
            clock: options.clock.clone(),
            quiet: options.quiet,
            same_account: options.same_account,
            only_names: matches!(options.source, Source::Names),
            recordings,
            readers: Mutex::default(),
            reads: AtomicU64::new(0),
            status: Arc::default(),
            words: None,
            opened: None,
            keeper: Mutex::new(None),
        };
        calls.with(|_| Ok(()))?;
        Ok(calls)
    }

    /// Stops; a source that hangs is left alone.
    pub fn stop(&self) {
        if let Some(words) = &self.words {
            let _gone_already = words.send(Word::Stop);
        }
        if let Some(thread) = self.keeper.lock().take() {
            let _it_ended = thread.join();
        }
    }

    /// Where a recording stands and how it is called now; `None`: it is gone.
    ///
    /// # Errors
    /// Why the catalog can not say now.
    pub fn standing(&self, node: NodeId) -> std::result::Result<Option<(State, PathBuf)>, String> {
        match &self.recordings {
            Some(recordings) => recordings.standing(node),
            None => Err("no catalog was given".to_owned()),
        }
    }

    /// Asks the sources and the catalog at once and waits until all they have is in the cache, or
    /// for so long. Whether it is.
    pub fn refresh(&self, patience: Duration) -> bool {
        let Some(words) = &self.words else { return false };
        let (done, wait) = crossbeam_channel::bounded(1);
        words.send(Word::Refresh(done)).is_ok() && wait.recv_timeout(patience).is_ok()
    }

    /// How things stand.
    pub fn status(&self) -> Status {
        self.status.lock().clone()
    }

    fn asked(&self) -> Asked<'_> {
        Asked {
            now: self.clock.now(),
            quiet: self.quiet,
            same_account: self.same_account,
            recordings: self.recordings.as_deref(),
        }
    }

    /// Whether reading the cache waits for nothing: it was opened, or can not be.
    pub fn is_open(&self) -> bool {
        self.opened.as_ref().is_none_or(|o| o.try_recv() == Err(TryRecvError::Disconnected))
    }

    fn with<T>(&self, read: impl FnOnce(&Connection) -> rusqlite::Result<T>) -> Result<T> {
        self.reads.fetch_add(1, Ordering::Relaxed);
        // Right after a start; nobody says anything but that it is over.
        let _opened = self.opened.as_ref().map(|o| o.recv_timeout(limits::CALL_OPEN_WAIT));
        let unusable = |error: rusqlite::Error| CallsError::Unusable {
            path: self.path.clone(),
            reason: error.to_string(),
        };
        // One that was kept may be of a file that was made anew since.
        let file = std::fs::metadata(&self.path).map_or(0, |m| m.ino());
        let idle = self.readers.lock().pop().filter(|(of, _)| *of == file);
        let conn = match idle {
            Some((_, conn)) => conn,
            None => schema::open_reader(&self.path).map_err(unusable)?,
        };
        let tx = conn.unchecked_transaction().map_err(unusable)?;
        let result = read(&tx).map_err(unusable);
        drop(tx);
        let mut readers = self.readers.lock();
        if result.is_ok() && readers.len() < limits::CALL_READERS_MAX {
            readers.push((file, conn));
        }
        result
    }

    /// The call with this linkedid or uniqueid; `None`: nobody has heard of it.
    ///
    /// # Errors
    /// `Unusable`.
    pub fn legs(&self, id: &str) -> Result<Option<Call>> {
        self.with(|conn| match reads::call_of_id(conn, id)? {
            Some(call) => reads::call(conn, &self.asked(), call, Some(id)),
            None => Ok(None),
        })
    }

    /// The call of a recording, by its path relative to the mount.
    ///
    /// # Errors
    /// `Unusable`.
    pub fn call_of(&self, path: &Path) -> Result<Option<Call>> {
        self.with(|conn| {
            let Some(known) = reads::at_path(conn, path)? else { return Ok(None) };
            let Some(call) = reads::call_of_node(conn, known.node)? else { return Ok(None) };
            let id = Some(known.uniqueid.as_str()).filter(|id| !id.is_empty());
            reads::call(conn, &self.asked(), call, id)
        })
    }

    /// Calls with at least so many recordings, in the order in which they were first heard of,
    /// after a cursor (0: from the beginning).
    ///
    /// # Errors
    /// `Unusable`.
    pub fn list(&self, after: u64, at_least: usize, limit: usize) -> Result<Vec<Listed>> {
        self.with(|conn| reads::list(conn, after, at_least, limit))
    }

    /// The legs of the call with this linkedid or uniqueid, without asking the catalog how they
    /// stand: one may be gone. None if nobody has heard of it.
    ///
    /// # Errors
    /// `Unusable`.
    pub fn joined(&self, id: &str) -> Result<Vec<JoinedLeg>> {
        self.with(|conn| match reads::call_of_id(conn, id)? {
            Some(call) => reads::joined(conn, &self.asked(), call, id),
            None => Ok(Vec::new()),
        })
    }

    /// Calls as [`Calls::list`] has them, each with its legs as [`Calls::joined`] gives them, all of
    /// one moment. None only if there are no more.
    ///
    /// # Errors
    /// `Unusable`.
    pub fn list_joined(&self, after: u64, at_least: usize, limit: usize) -> Result<Vec<Joined>> {
        self.with(|conn| reads::list_joined(conn, &self.asked(), after, at_least, limit))
    }

    /// Calls with recordings of which something was heard behind a position, and the position to go
    /// on with. Behind one that was never reached, as in a cache that was made anew since, there is
    /// nothing, and it becomes the last.
    ///
    /// # Errors
    /// `Unusable`.
    pub fn heard_after(&self, position: u64, limit: usize) -> Result<Heard> {
        self.with(|conn| reads::heard_after(conn, position, limit))
    }

    /// The names of the calls that a recording is of.
    ///
    /// # Errors
    /// `Unusable`.
    pub fn calls_of(&self, node: NodeId) -> Result<Vec<String>> {
        self.with(|conn| reads::calls_of_node(conn, node))
    }

    /// How often the cache was asked.
    pub fn reads(&self) -> u64 {
        self.reads.load(Ordering::Relaxed)
    }

    /// What is known of a recording, by its path relative to the mount.
    ///
    /// # Errors
    /// `Unusable`.
    pub fn facts_of(&self, path: &Path) -> Result<Option<Facts>> {
        self.with(|conn| match reads::at_path(conn, path)? {
            Some(known) => reads::facts(conn, &known),
            None => Ok(None),
        })
    }

    /// Recordings that fit, the newest first, until `each` says that it has had enough.
    ///
    /// # Errors
    /// `Unusable`.
    pub fn find(&self, filter: &Filter, each: &mut dyn FnMut(Found) -> bool) -> Result<()> {
        self.with(|conn| find::find(conn, filter, each))
    }

    /// Calls with a record that fits, the newest first, until `each` says that it has had enough.
    ///
    /// # Errors
    /// `Unusable`.
    pub fn find_calls(&self, filter: &Filter, each: &mut dyn FnMut(Call) -> bool) -> Result<()> {
        self.with(|conn| find::find_calls(conn, &self.asked(), filter, each))
    }

    /// Answered calls without a recording, and recordings without a call record, of a time.
    ///
    /// # Errors
    /// `Unusable`.
    pub fn gaps(&self, from: Timestamp, to: Timestamp, limit: usize) -> Result<Gaps> {
        self.with(|conn| find::gaps(conn, &self.asked(), from, to, limit))
    }
}

impl Drop for Calls {
    fn drop(&mut self) {
        self.stop();
    }
}
