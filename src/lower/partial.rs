//! Partial recordings: released ones that were opened for writing, until their archived bytes are
//! back (docs/decisions/0007-partial-recordings.md).
//!
//! The file that will have the recording's name lies in the private directory, as long as the
//! recording, and writers write to it at once. What they wrote below the archived length is known
//! to a log beside it; everything else below that length is fetched behind.
//!
//! **Invariant:** a byte that a caller wrote is never overwritten by a fetched one, and no byte
//! that is neither written nor fetched is ever read as if it were there. What a caller did is in
//! the log before he is answered.

mod left;
pub(super) mod log;
mod place;
pub(super) mod ranges;

use super::dir::{identify_file, stat_file};
use super::{Dir, Lower, LowerError, Result, SetTime, Times};
use crate::clock::Timestamp;
use crate::faults;
use crate::recording::{Attr, Generation, NodeId};
use log::Log;
use parking_lot::{Mutex, MutexGuard};
use ranges::Ranges;
use rustix::fs::{OFlags, RenameFlags};
use rustix::io::Errno;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// Behind the name of a partial recording: its log.
const LOG: &str = ".log";

/// A partial recording.
#[derive(Debug)]
pub struct Partial {
    id: NodeId,
    generation: Generation,
    room: Dir,
    name: String,
    file: File,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    /// Bytes from the beginning that are as archived, unless they are in `here`.
    base: u64,
    /// What callers wrote below `base`.
    own: Ranges,
    /// That, and what was fetched.
    here: Ranges,
    log: Option<Log>,
    /// Last change of content by a caller, for `stat`: fetched bytes are no change.
    mtime: Timestamp,
    /// Last change by a caller at all; below that of the catalog if there was none.
    ctime: Timestamp,
    /// Handles that may write.
    writers: u32,
    /// A caller changed something since it was last synced.
    unsynced: bool,
    /// A caller changed its content.
    touched: bool,
    /// Syncing it failed: what is on the disk is not known.
    suspect: bool,
    end: Option<End>,
}

/// What became of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// Whole, and under its name.
    Placed,
    /// Not needed any more.
    Dropped,
}

/// What `stat` shows of a partial recording otherwise than of a released one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Live {
    /// Length.
    pub size: u64,
    /// Blocks that it takes up.
    pub blocks: u64,
    /// Last change of content.
    pub mtime: Timestamp,
    /// Last change of content, if there was one since it was opened.
    pub ctime: Timestamp,
}

/// A change of a partial recording that is going on: nothing is fetched into it meanwhile.
#[derive(Debug)]
pub struct PartialChange<'a> {
    partial: &'a Partial,
    state: MutexGuard<'a, State>,
}

impl Lower {
    /// The partial recording of a node, if it is one.
    pub fn partial(&self, id: NodeId) -> Option<Arc<Partial>> {
        if self.partial_count.load(Ordering::Acquire) == 0 {
            return None;
        }
        self.partials.lock().get(&id).cloned()
    }

    /// All partial recordings.
    pub fn partials(&self) -> Vec<Arc<Partial>> {
        self.partials.lock().values().cloned().collect()
    }

    /// How many partial recordings got their names. Whoever sees none under the name and then no
    /// partial recording either must look again if this has changed.
    pub fn placed(&self) -> u64 {
        self.placed.load(Ordering::Acquire)
    }

    /// Makes a released recording a partial one, or answers the one that it is. The caller holds
    /// [`Lower::names_change`] of its directory, and has seen that it has no local copy.
    ///
    /// # Errors
    /// As `open`; no space.
    pub fn begin_partial(
        &self,
        id: NodeId,
        generation: Generation,
        attr: &Attr,
    ) -> Result<Arc<Partial>> {
        if let Some(partial) = self.partial(id) {
            return Ok(partial);
        }
        let _none_is_loaded_meanwhile = self.load_left_partials();
        if let Some(partial) = self.partial(id) {
            return Ok(partial);
        }
        let partial = self.make_partial(id, generation, attr).map_err(partial_error(id))?;
        faults::point("partial.after_make");
        Ok(self.add_partial(partial))
    }

    fn make_partial(
        &self,
        id: NodeId,
        generation: Generation,
        attr: &Attr,
    ) -> rustix::io::Result<Partial> {
        let (stage, room) = (&self.private.stage, &self.private.partial);
        let draft = format!("{id}-{:08x}", fastrand::u32(..)).into_bytes();
        let name = partial_name(id, generation, attr.size);
        // One that could not be loaded yet: its log tells what was written to it.
        match room.stat(name.as_bytes()) {
            Ok(_) => return Err(Errno::EXIST),
            Err(Errno::NOENT) => {}
            Err(errno) => return Err(errno),
        }
        // One that could not be removed tells of another life.
        match room.unlink(format!("{name}{LOG}").as_bytes()) {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(errno) => return Err(errno),
        }
        let file = stage.create(&draft, OFlags::RDWR, 0o600)?;
        let made = rustix::fs::ftruncate(&file, attr.size)
            .and_then(|()| identify_file(&file, id))
            .and_then(|()| set_mtime(&file, attr.mtime))
            .and_then(|()| stage.rename(&draft, room, name.as_bytes(), RenameFlags::NOREPLACE));
        if let Err(errno) = made {
            let _next_start_removes_it = stage.unlink(&draft);
            return Err(errno);
        }
        let state = State::new(attr.size, attr.mtime, attr.ctime);
        Ok(Partial::new((id, generation), room, name, file, state))
    }

    fn add_partial(&self, partial: Partial) -> Arc<Partial> {
        let mut partials = self.partials.lock();
        let partial = partials.entry(partial.id).or_insert_with(|| Arc::new(partial)).clone();
        self.partial_count.store(partials.len(), Ordering::Release);
        partial
    }

    fn forget_partial(&self, id: NodeId) {
        let mut partials = self.partials.lock();
        partials.remove(&id);
        self.partial_count.store(partials.len(), Ordering::Release);
    }

    /// Removes a partial recording that is not needed: nobody changed it, or it was deleted and
    /// nobody has it open.
    pub fn drop_partial(&self, partial: &Partial) {
        let mut state = partial.state.lock();
        if state.end.is_some() {
            return;
        }
        state.end = Some(End::Dropped);
        partial.unlink();
        drop(state);
        self.forget_partial(partial.id);
    }

    /// Takes a partial recording away whose name belongs to another file by now; it is kept in
    /// `found`. Where it is.
    ///
    /// # Errors
    /// As `rename`.
    pub fn set_aside_partial(&self, partial: &Partial) -> Result<PathBuf> {
        let mut state = partial.state.lock();
        let (name, found) = (partial.name.as_bytes(), &self.private.found);
        let log = format!("{}{LOG}", partial.name).into_bytes();
        partial
            .room
            .rename(name, found, name, RenameFlags::NOREPLACE)
            .map_err(partial_error(partial.id))?;
        let _without_one_nothing_was_overwritten =
            partial.room.rename(&log, found, &log, RenameFlags::NOREPLACE);
        state.end = Some(End::Dropped);
        drop(state);
        self.forget_partial(partial.id);
        Ok(Path::new(".spl/found").join(&partial.name))
    }
}

impl State {
    fn new(base: u64, mtime: Timestamp, ctime: Timestamp) -> State {
        State {
            base,
            own: Ranges::default(),
            here: Ranges::default(),
            log: None,
            mtime,
            ctime,
            writers: 0,
            unsynced: false,
            touched: false,
            suspect: false,
            end: None,
        }
    }

    fn is_whole(&self) -> bool {
        self.here.covers(&(0..self.base))
    }
}

impl Partial {
    fn new(
        (id, generation): (NodeId, Generation),
        room: &Dir,
        name: String,
        file: File,
        state: State,
    ) -> Partial {
        let (room, state) = (room.clone(), Mutex::new(state));
        Partial { id, generation, room, name, file, state }
    }

    /// The node.
    pub fn id(&self) -> NodeId {
        self.id
    }

    /// The generation whose bytes it lacks.
    pub fn generation(&self) -> Generation {
        self.generation
    }

    /// Opens it for a user.
    ///
    /// # Errors
    /// As `open`; `NOENT` if it has its name by now.
    pub fn open(&self, flags: OFlags) -> rustix::io::Result<File> {
        self.room.open(self.name.as_bytes(), flags)
    }

    /// A handle that may write was opened.
    pub fn writer_came(&self) {
        self.state.lock().writers += 1;
    }

    /// A handle that may write was closed. Whether it is still partial, and if so, whether nobody
    /// has changed it nor can.
    pub fn writer_left(&self) -> Option<bool> {
        let mut state = self.state.lock();
        state.writers = state.writers.saturating_sub(1);
        let idle = state.writers == 0 && !state.touched;
        (state.end != Some(End::Placed)).then_some(idle)
    }

    /// Whether somebody may write to it.
    pub fn has_writers(&self) -> bool {
        self.state.lock().writers > 0
    }

    /// What `stat` shows.
    ///
    /// # Errors
    /// As `fstat`.
    pub fn live(&self) -> rustix::io::Result<Live> {
        let attr = stat_file(&self.file)?.attr;
        let state = self.state.lock();
        // From now on its own times are right.
        let (mtime, ctime) = match state.end {
            Some(End::Placed) => (attr.mtime, attr.ctime),
            _ => (state.mtime, state.ctime),
        };
        Ok(Live { size: attr.size, blocks: attr.blocks, mtime, ctime })
    }

    /// Sets the time of the last change, as a user wants it.
    pub fn set_mtime(&self, mtime: Timestamp, now: Timestamp) {
        let mut state = self.state.lock();
        (state.mtime, state.ctime) = (mtime, now);
        let _shown_as_it_is = set_mtime(&self.file, mtime);
    }

    /// Begins a change. Whoever has it may wait for the lower file only.
    pub fn change(&self) -> PartialChange<'_> {
        PartialChange { partial: self, state: self.state.lock() }
    }

    /// The smallest range that has all that is missing of `range`.
    pub fn missing(&self, range: Range<u64>) -> Option<Range<u64>> {
        let state = self.state.lock();
        let gaps = state.here.gaps(range.start..range.end.min(state.base));
        Some(gaps.first()?.start..gaps.last()?.end)
    }

    /// Reads what is there; what was missing is taken from `brought`: where it begins, and bytes.
    /// Fewer bytes only at the end of the file.
    ///
    /// # Errors
    /// As `pread`; `UnexpectedEof` if something is missing that was not brought.
    pub fn read(
        &self,
        offset: u64,
        len: usize,
        brought: Option<(u64, &[u8])>,
    ) -> io::Result<Vec<u8>> {
        // Asked before the bytes are read: what comes in between may be read or not.
        let gaps = {
            let state = self.state.lock();
            state.here.gaps(offset..offset.saturating_add(len as u64).min(state.base))
        };
        faults::fail("partial.read")?;
        let mut buffer = vec![0u8; len];
        let mut done = 0;
        while let Some(rest) = buffer.get_mut(done..).filter(|r| !r.is_empty()) {
            match self.file.read_at(rest, offset + done as u64) {
                Ok(0) => break,
                Ok(n) => done += n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
        buffer.truncate(done);
        for gap in gaps {
            let (start, bytes) = brought.ok_or(io::ErrorKind::UnexpectedEof)?;
            let part = |from: u64| -> Option<Range<usize>> {
                let begin = usize::try_from(gap.start.checked_sub(from)?).ok()?;
                Some(begin..begin + usize::try_from(gap.end - gap.start).ok()?)
            };
            let from = part(start).and_then(|r| bytes.get(r));
            let from = from.ok_or(io::ErrorKind::UnexpectedEof)?;
            let Some(to) = part(offset).and_then(|r| buffer.get_mut(r.start..)) else { break };
            // It may have been cut since.
            to.iter_mut().zip(from).for_each(|(to, from)| *to = *from);
        }
        Ok(buffer)
    }

    /// What is to be fetched yet.
    pub fn gaps(&self) -> Vec<Range<u64>> {
        let state = self.state.lock();
        state.here.gaps(0..state.base)
    }

    /// Keeps fetched bytes, where nobody wrote meanwhile.
    ///
    /// # Errors
    /// As `pwrite`.
    pub fn put(&self, offset: u64, bytes: &[u8]) -> Result<()> {
        /// A writer waits for no more than this.
        const PIECE: usize = 64 << 10;
        for (number, piece) in bytes.chunks(PIECE).enumerate() {
            let at = offset + (number * PIECE) as u64;
            self.put_piece(at, piece).map_err(|source| LowerError::Io {
                path: Path::new(".spl/partial").join(&self.name),
                source,
            })?;
        }
        Ok(())
    }

    fn put_piece(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let mut state = self.state.lock();
        let end = offset.saturating_add(bytes.len() as u64).min(state.base);
        for gap in state.here.gaps(offset..end) {
            let at = |position: u64| usize::try_from(position - offset).unwrap_or(usize::MAX);
            let part = bytes.get(at(gap.start)..at(gap.end)).unwrap_or_default();
            faults::fail("partial.write")?;
            self.file.write_all_at(part, gap.start)?;
            state.here.insert(gap);
        }
        // No change that a user made.
        Ok(set_mtime(&self.file, state.mtime)?)
    }

    /// Has what was fetched written out, so that little is left to do for a sync. Waits for the
    /// disk, and keeps nobody from writing.
    pub fn write_out(&self) {
        let written = super::begin_write_out(&self.file, None)
            .and_then(|()| super::finish_write_out(&self.file));
        if written.is_err() {
            // Who hears it has heard it once.
            self.doubt();
        }
    }

    /// Gets it onto the disk as it is, with what is known of it. `force`: also if no caller
    /// changed it.
    ///
    /// # Errors
    /// As `fsync`.
    pub fn sync(&self, force: bool) -> io::Result<()> {
        let (upto, log) = {
            let mut state = self.state.lock();
            if !std::mem::take(&mut state.unsynced) && !force {
                return Ok(());
            }
            let log = state.log.as_ref();
            (log.and_then(Log::unsynced), log.map(Log::file).transpose()?)
        };
        let synced = self.sync_parts(upto, log);
        if synced.is_err() {
            self.doubt();
        }
        synced
    }

    /// Syncing it failed: the kernel says so once, and it is to be remembered.
    pub fn doubt(&self) {
        let mut state = self.state.lock();
        (state.suspect, state.unsynced) = (true, true);
    }

    /// Whether the disk may not hold what is read.
    pub fn is_suspect(&self) -> bool {
        self.state.lock().suspect
    }

    fn sync_parts(&self, upto: Option<u64>, log: Option<File>) -> io::Result<()> {
        faults::fail("partial.sync")?;
        self.file.sync_all()?;
        if let Some(upto) = upto
            && let Some(log) = &mut self.state.lock().log
        {
            log.synced(upto)?;
        }
        if let Some(log) = log {
            log.sync_all()?;
        }
        Ok(rustix::fs::fsync(self.room.as_file()?)?)
    }

    fn unlink(&self) {
        // The log last: without it, what was written would be fetched over.
        for name in [self.name.clone(), format!("{}{LOG}", self.name)] {
            let _next_start_tries_again = self.room.unlink(name.as_bytes());
        }
    }

    /// Tells the log of something, begun if need be.
    fn tell(
        &self,
        state: &mut State,
        tell: impl FnOnce(&mut Log) -> io::Result<()>,
    ) -> io::Result<()> {
        if let Some(log) = &mut state.log {
            return tell(log);
        }
        let name = format!("{}{LOG}", self.name);
        let file = self.room.create(name.as_bytes(), OFlags::RDWR, 0o600)?;
        match Log::begin(file).and_then(|mut log| tell(&mut log).map(|()| log)) {
            Ok(log) => state.log = Some(log),
            Err(error) => {
                let _the_error_counts = self.room.unlink(name.as_bytes());
                return Err(error);
            }
        }
        Ok(())
    }
}

impl PartialChange<'_> {
    /// Bytes were written, or made zero, from `offset` on.
    ///
    /// # Errors
    /// If it can not be remembered: the caller must be told that he did not write.
    pub fn wrote(&mut self, offset: u64, len: u64) -> io::Result<()> {
        let state = &mut *self.state;
        state.changed(&self.partial.file);
        let range = offset..offset.saturating_add(len).min(state.base);
        if state.end.is_some() || range.is_empty() || state.own.covers(&range) {
            return Ok(());
        }
        faults::point("partial.after_write");
        self.partial.tell(state, |log| log.written(range.start, range.end))?;
        state.here.insert(range.clone());
        state.own.insert(range);
        Ok(())
    }

    /// The length was set.
    ///
    /// # Errors
    /// As [`PartialChange::wrote`].
    pub fn resized(&mut self, len: u64) -> io::Result<()> {
        let state = &mut *self.state;
        state.changed(&self.partial.file);
        if state.end.is_some() || len >= state.base {
            return Ok(());
        }
        // What is cut off is gone, also if it can not be remembered.
        state.base = len;
        state.own.clip(len);
        state.here.clip(len);
        faults::point("partial.after_cut");
        self.partial.tell(state, |log| log.cut(len))
    }
}

impl State {
    /// The times are those of the change, and stay so when bytes are fetched.
    fn changed(&mut self, file: &File) {
        (self.touched, self.unsynced) = (true, true);
        if let Ok(stat) = stat_file(file) {
            (self.mtime, self.ctime) = (stat.attr.mtime, stat.attr.ctime);
        }
    }
}

fn set_mtime(file: &File, mtime: Timestamp) -> rustix::io::Result<()> {
    super::set_times(file, Times { atime: None, mtime: Some(SetTime::At(mtime)) })
}

/// Node, generation and its length: all that must be known of it from the first moment on.
fn partial_name(id: NodeId, generation: Generation, archived: u64) -> String {
    format!("{id}-{}-{archived}", generation.0)
}

/// Node, generation and archived length of a partial recording with this name.
pub(super) fn parse_name(name: &str) -> Option<(NodeId, Generation, u64)> {
    let mut parts = name.split('-');
    let id = NodeId(parts.next()?.parse().ok()?);
    let generation = Generation(parts.next()?.parse().ok()?);
    let archived = parts.next()?.parse().ok()?;
    parts.next().is_none().then_some((id, generation, archived))
}

fn partial_error(id: NodeId) -> impl FnOnce(Errno) -> LowerError {
    let path: PathBuf = Path::new(".spl/partial").join(id.to_string());
    move |errno| LowerError::Io { path, source: errno.into() }
}

#[cfg(test)]
mod tests;
