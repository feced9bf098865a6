//! What recordings on legal hold were before somebody opened them for writing again, if no archive
//! has it yet (docs/decisions/0018-held-generations.md).
//!
//! Such a content gets a file of its own in the private directory, which a thread of the engine fills
//! from the recording while that is written to. It then goes to the trash, under a number of its own,
//! and from there to the archive.
//!
//! **Invariant:** a byte of the old content is copied, and in a log beside the copy, before it is
//! changed. So a successor does not take it from the recording, where it is another by then; what is
//! not in the log has not changed.

use super::dir::{all_xattrs, identify_file, stat_file};
use super::partial::{log, log::Log, ranges::Ranges};
use super::stage::{KeepTimes, dress_file, look_like};
use super::{Dir, Looks, Lower, LowerError, LowerStat, Result, SetTime, Times};
use crate::clock::Timestamp;
use crate::faults;
use crate::recording::NodeId;
use parking_lot::Mutex;
use rustix::fs::{Mode, OFlags, RenameFlags};
use rustix::io::Errno;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// Behind the name of the file: its log.
const LOG: &str = ".log";
/// Copied at once; a writer waits for no more than this beside what he changes himself.
const PIECE: u64 = 256 << 10;

/// An earlier content of a recording, of which no archive is known to have it.
#[derive(Debug)]
pub struct Kept {
    named: Named,
    room: Dir,
    file: File,
    state: Mutex<State>,
}

/// What its name tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Named {
    /// The recording that it was the content of.
    of: NodeId,
    /// Bytes.
    len: u64,
    mtime: Timestamp,
    /// In which boot of the machine it was begun, shortened.
    boot: u32,
    /// At random.
    key: u32,
}

#[derive(Debug)]
struct State {
    /// The recording's file; none after a restart, until it was found.
    live: Option<File>,
    here: Ranges,
    log: Option<Log>,
    /// What is in the log.
    told: Ranges,
    /// Since it was opened, it was or may have been changed.
    changed: bool,
    /// Somebody may write to the recording.
    open: bool,
    /// What could not be copied was changed all the same, so that a call is recorded.
    lost: bool,
}

impl Lower {
    /// Whether anything is being kept: mostly not, and every write in plain mode asks.
    fn keeps_some(&self) -> bool {
        self.kept_count.load(Ordering::Acquire) > 0
    }

    /// The contents of a recording that are being kept.
    pub fn kept_of(&self, of: NodeId) -> Vec<Arc<Kept>> {
        if !self.keeps_some() {
            return Vec::new();
        }
        self.kept.lock().iter().filter(|kept| kept.named.of == of).cloned().collect()
    }

    /// All contents that are being kept.
    pub fn kept(&self) -> Vec<Arc<Kept>> {
        self.kept.lock().clone()
    }

    /// The content of a recording is about to be changed: keeps it. `file` is its lower file. Waits for
    /// nothing but the lower file system's metadata; the bytes are copied behind. Not to be called for
    /// one recording by several at a time. What could not be kept is returned as that, and not tried
    /// again, as long as the recording is open.
    ///
    /// # Errors
    /// As `open`; no space.
    pub fn keep(&self, of: NodeId, file: &File, stat: &LowerStat) -> Result<Arc<Kept>> {
        // Opened before, and closed without a change.
        if let Some(kept) = self.kept.lock().iter().find(|k| k.named.of == of && k.is_still(stat)) {
            kept.state.lock().open = true;
            return Ok(Arc::clone(kept));
        }
        let named = Named::new(of, stat);
        let kept = Arc::new(self.make_kept(named, file, stat).map_err(failed(named))?);
        self.add_kept(&mut self.kept.lock(), Arc::clone(&kept));
        Ok(kept)
    }

    fn make_kept(&self, named: Named, file: &File, stat: &LowerStat) -> rustix::io::Result<Kept> {
        let (room, name) = (&self.private.kept, named.to_string());
        let live = for_reading(file)?;
        let aside = room.create(name.as_bytes(), OFlags::RDWR, 0o600)?;
        // It gets its number when it is whole.
        let made = all_xattrs(&live).and_then(|xattrs| {
            rustix::fs::ftruncate(&aside, named.len)?;
            look_like(&aside, &Looks { attr: stat.attr.clone(), xattrs })
        });
        if let Err(errno) = made {
            let _next_start_tries_again = room.unlink(name.as_bytes());
            return Err(errno);
        }
        let state = Mutex::new(State::new(Some(live)));
        Ok(Kept { named, room: room.clone(), file: aside, state })
    }

    /// The content of a recording is about to be cut to nothing, and nobody has it open: its file
    /// is kept as it is, and an empty one takes its place under its name. Waits for nothing but the
    /// lower file system's metadata.
    ///
    /// # Errors
    /// As `open`, `rename`.
    pub fn keep_whole(
        &self,
        of: NodeId,
        (dir, name): (&Dir, &[u8]),
        stat: &LowerStat,
    ) -> Result<()> {
        let named = Named::new(of, stat);
        let (room, aside) = (&self.private.kept, named.to_string());
        let exchange = || {
            let old = dir.open(name, OFlags::RDONLY | OFlags::NOATIME)?;
            let fresh = room.create(aside.as_bytes(), OFlags::RDWR, 0o600)?;
            let looks = Looks { attr: stat.attr.clone(), xattrs: all_xattrs(&old)? };
            dress_file(&fresh, of, &looks)?;
            faults::point("kept.before_exchange");
            let _times = KeepTimes::of(dir);
            room.rename(aside.as_bytes(), dir, name, RenameFlags::EXCHANGE)?;
            faults::point("kept.after_exchange");
            Ok((old, fresh))
        };
        let (old, fresh) = exchange().map_err(|errno| {
            let _next_start_removes_it = room.unlink(aside.as_bytes());
            failed(named)(errno)
        })?;
        let mut state = State::new(Some(fresh));
        (state.here, state.told) = (Ranges::all(named.len), Ranges::all(named.len));
        state.changed = true;
        let kept = Kept { named, room: room.clone(), file: old, state: Mutex::new(state) };
        self.add_kept(&mut self.kept.lock(), Arc::new(kept));
        Ok(())
    }

    fn add_kept(&self, all: &mut Vec<Arc<Kept>>, kept: Arc<Kept>) {
        all.push(kept);
        self.kept_count.store(all.len(), Ordering::Release);
        let _already_asked = self.kept_wake.0.try_send(());
    }

    fn forget_kept(&self, all: &mut Vec<Arc<Kept>>, gone: &Kept) {
        all.retain(|kept| kept.named != gone.named);
        self.kept_count.store(all.len(), Ordering::Release);
    }

    /// Says when there is something new to be kept.
    pub fn kept_asked(&self) -> &crossbeam_channel::Receiver<()> {
        &self.kept_wake.1
    }

    /// Removes what was kept if it is not needed: the recording is closed and still what it was,
    /// or `lifted`: it is on hold no more. Tells whether it did.
    pub fn drop_kept(&self, kept: &Kept, lifted: bool) -> bool {
        let mut all = self.kept.lock();
        let unneeded = {
            let state = kept.state.lock();
            lifted || !state.open && (state.lost || !kept.has_changed(&state))
        };
        if unneeded {
            kept.unlink();
            self.forget_kept(&mut all, kept);
        }
        unneeded
    }

    /// Moves what is finished to the trash, under its own number.
    ///
    /// # Errors
    /// As `rename`.
    pub fn kept_to_trash(&self, kept: &Kept, number: NodeId) -> Result<LowerStat> {
        self.to_trash(&kept.room, kept.named.to_string().as_bytes(), number)?;
        let _next_start_tries_again = kept.room.unlink(format!("{}{LOG}", kept.named).as_bytes());
        self.forget_kept(&mut self.kept.lock(), kept);
        self.stat(&super::trash_path(number))
    }

    /// Finds what a predecessor was about to keep.
    pub(super) fn load_kept(&self) {
        let room = &self.private.kept;
        let mut all = self.kept.lock();
        let names = super::retire::names(room).unwrap_or_else(|error| {
            tracing::error!(%error, ".spl/kept of the lower directory can not be read");
            Vec::new()
        });
        for name in names.iter().filter_map(|name| std::str::from_utf8(name).ok()) {
            let Some(named) = Named::parse(name) else {
                let whose = name.strip_suffix(LOG).unwrap_or(name);
                if whose != name && !names.iter().any(|other| other == whose.as_bytes()) {
                    let _next_start_tries_again = room.unlink(name.as_bytes());
                }
                continue;
            };
            match load(room, named) {
                Ok(Some(kept)) => self.add_kept(&mut all, Arc::new(kept)),
                // It never took the place of the recording's file.
                Ok(None) => drop(room.unlink(name.as_bytes())),
                Err(error) => tracing::error!(
                    name, %error,
                    "an earlier content of a held recording can not be opened; it stays in .spl/kept \
                     of the lower directory"
                ),
            }
        }
    }
}

fn load(room: &Dir, named: Named) -> io::Result<Option<Kept>> {
    let name = named.to_string();
    let file = room.open(name.as_bytes(), OFlags::RDWR)?;
    let stat = stat_file(&file)?;
    let mut state = State::new(None);
    // What it was is not known any more: rather once too often in the trash.
    state.changed = true;
    match stat.node {
        Some(node) if node == named.of && stat.attr.size != named.len => return Ok(None),
        // The very file: nothing of it is in the recording.
        Some(_) => (state.here, state.told) = (Ranges::all(named.len), Ranges::all(named.len)),
        None => match room.open(format!("{name}{LOG}").as_bytes(), OFlags::RDWR) {
            Ok(log) => {
                let (log, told) = Log::resume(log, named.len)?;
                (state.here, state.told, state.log) = (told.own.clone(), told.own, Some(log));
            }
            Err(Errno::NOENT) => {}
            Err(errno) => return Err(errno.into()),
        },
    }
    Ok(Some(Kept { named, room: room.clone(), file, state: Mutex::new(state) }))
}

impl State {
    fn new(live: Option<File>) -> State {
        let (here, told) = (Ranges::default(), Ranges::default());
        State { live, here, log: None, told, changed: false, open: true, lost: false }
    }
}

impl Kept {
    /// The recording that it was the content of.
    pub fn of(&self) -> NodeId {
        self.named.of
    }

    /// How long it is.
    pub fn bytes(&self) -> u64 {
        self.named.len
    }

    /// Where it is, relative to the mount.
    pub fn path(&self) -> PathBuf {
        Path::new(".spl/kept").join(self.named.to_string())
    }

    /// Whether all of it is there.
    pub fn is_whole(&self) -> bool {
        self.state.lock().here.covers(&(0..self.named.len))
    }

    /// Whether it could not be kept.
    pub fn is_lost(&self) -> bool {
        self.state.lock().lost
    }

    /// Whether the recording has another content by now, or may have.
    pub fn is_of_the_past(&self) -> bool {
        self.has_changed(&self.state.lock())
    }

    fn has_changed(&self, state: &State) -> bool {
        let same = |stat: LowerStat| self.is_as_now(&stat);
        let live = state.live.as_ref().and_then(|live| stat_file(live).ok());
        state.changed || !live.is_some_and(same)
    }

    fn is_as_now(&self, stat: &LowerStat) -> bool {
        stat.attr.size == self.named.len && stat.attr.mtime == self.named.mtime
    }

    fn is_still(&self, stat: &LowerStat) -> bool {
        !self.state.lock().changed && self.is_as_now(stat)
    }

    fn unlink(&self) {
        for name in [self.named.to_string(), format!("{}{LOG}", self.named)] {
            let _next_start_tries_again = self.room.unlink(name.as_bytes());
        }
    }

    /// The recording's file, which a predecessor knew.
    ///
    /// # Errors
    /// As `open`.
    pub fn follow(&self, file: &File) -> rustix::io::Result<()> {
        let state = &mut *self.state.lock();
        if state.live.is_some() {
            return Ok(());
        }
        let live = for_reading(file)?;
        // What was changed before a power cut is not told by a log that was not synced.
        let is_whole = state.here.covers(&(0..self.named.len));
        if self.named.boot != this_boot() && !is_whole && !self.is_as_now(&stat_file(&live)?) {
            self.lose(state, &"the machine went down while it was copied");
        }
        state.live = Some(live);
        Ok(())
    }

    /// Whether the recording's file is not known.
    pub fn lacks_live(&self) -> bool {
        self.state.lock().live.is_none()
    }

    /// Nobody can write to the recording any more.
    pub fn closed(&self) {
        self.state.lock().open = false;
    }

    /// These bytes of the recording are about to be changed: copies them first. If that can not be
    /// done they are changed all the same: a call is recorded.
    pub fn before(&self, range: Range<u64>) {
        let state = &mut *self.state.lock();
        state.changed = true;
        let range = range.start..range.end.min(self.named.len);
        if range.is_empty() || state.lost || state.told.covers(&range) {
            return;
        }
        let kept = self.copy(state, range.clone()).and_then(|()| {
            faults::point("kept.after_copy");
            self.tell(state, range)
        });
        if let Err(error) = kept {
            self.lose(state, &error);
        }
    }

    /// It could not be copied, and is about to be changed.
    pub fn give_up(&self, error: &LowerError) {
        self.lose(&mut self.state.lock(), error);
    }

    fn lose(&self, state: &mut State, error: &dyn std::fmt::Display) {
        state.lost = true;
        // A successor would take it for what can still be kept.
        self.unlink();
        tracing::error!(
            node = %self.named.of, %error,
            "an earlier content of a held recording could not be kept: it was changed before it \
             was archived, so that a call is recorded"
        );
    }

    /// Copies what is missing, a piece at a time, until `stop` says so. Tells whether all of it is
    /// there.
    ///
    /// # Errors
    /// As `pread`, `pwrite`.
    pub fn fill(&self, stop: &dyn Fn() -> bool) -> Result<bool> {
        loop {
            let state = &mut *self.state.lock();
            let all = 0..self.named.len;
            let Some(gap) = state.here.gaps(all.clone()).first().cloned() else {
                let told = self.tell(state, all);
                return told.map(|()| true).map_err(|source| self.failed(source));
            };
            if stop() || state.lost {
                return Ok(false);
            }
            let piece = gap.start..gap.end.min(gap.start.saturating_add(PIECE));
            let copied = faults::fail("kept.fill").map_err(io::Error::from);
            let copied = copied.and_then(|()| self.copy(state, piece));
            copied.map_err(|source| self.failed(source))?;
        }
    }

    fn failed(&self, source: io::Error) -> LowerError {
        LowerError::Io { path: self.path(), source }
    }

    fn copy(&self, state: &mut State, range: Range<u64>) -> io::Result<()> {
        let live = state.live.as_ref().ok_or(io::ErrorKind::NotFound)?;
        for gap in state.here.gaps(range) {
            let mut at = gap.start;
            while at < gap.end {
                let len = usize::try_from(PIECE.min(gap.end - at)).unwrap_or(1);
                let mut piece = vec![0; len];
                live.read_exact_at(&mut piece, at)?;
                faults::fail("kept.write")?;
                self.file.write_all_at(&piece, at)?;
                at += len as u64;
            }
            state.here.insert(gap);
        }
        Ok(())
    }

    fn tell(&self, state: &mut State, range: Range<u64>) -> io::Result<()> {
        if state.told.covers(&range) {
            return Ok(());
        }
        if state.log.is_none() {
            let name = format!("{}{LOG}", self.named);
            state.log =
                Some(Log::begin(self.room.create(name.as_bytes(), OFlags::RDWR, 0o600)?)?);
        }
        state.log.as_mut().map_or(Ok(()), |log| log.written(range.start, range.end))?;
        state.told.insert(range);
        Ok(())
    }

    /// The number that it was given, if it was.
    pub fn number(&self) -> Option<NodeId> {
        stat_file(&self.file).ok()?.node.filter(|node| *node != self.named.of)
    }

    /// Gives what is whole a number of its own and the time of its last change, and gets it onto
    /// the disk.
    ///
    /// # Errors
    /// As `fsync`.
    pub fn finish(&self, number: NodeId) -> Result<LowerStat> {
        let finish = || {
            identify_file(&self.file, number)?;
            let mtime = Some(SetTime::At(self.named.mtime));
            super::set_times(&self.file, Times { atime: None, mtime })?;
            rustix::fs::fsync(&self.file)?;
            stat_file(&self.file)
        };
        finish().map_err(failed(self.named))
    }
}

impl std::fmt::Display for Named {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Named { of, len, mtime, boot, key } = self;
        write!(f, "{of}-{len}-{:016x}-{boot:08x}-{key:08x}", mtime.0.cast_unsigned())
    }
}

impl Named {
    fn new(of: NodeId, stat: &LowerStat) -> Named {
        let (len, mtime) = (stat.attr.size, stat.attr.mtime);
        Named { of, len, mtime, boot: this_boot(), key: fastrand::u32(..) }
    }

    fn parse(name: &str) -> Option<Named> {
        let parts: Vec<&str> = name.split('-').collect();
        let [of, len, mtime, boot, key] = parts[..] else { return None };
        Some(Named {
            of: NodeId(of.parse().ok()?),
            len: len.parse().ok()?,
            mtime: Timestamp(u64::from_str_radix(mtime, 16).ok()?.cast_signed()),
            boot: u32::from_str_radix(boot, 16).ok()?,
            key: u32::from_str_radix(key, 16).ok()?,
        })
    }
}

/// Which boot of the machine this is.
fn this_boot() -> u32 {
    let boot = log::boot();
    #[expect(clippy::cast_possible_truncation, reason = "it is random in every part")]
    let short = boot as u32;
    short
}

/// The same file, whatever its name is by now.
fn for_reading(file: &File) -> rustix::io::Result<File> {
    let path = format!("/proc/self/fd/{}", file.as_raw_fd());
    let flags = OFlags::RDONLY | OFlags::NOATIME | OFlags::CLOEXEC;
    Ok(File::from(rustix::fs::open(path, flags, Mode::empty())?))
}

fn failed(named: Named) -> impl FnOnce(Errno) -> LowerError {
    let path = Path::new(".spl/kept").join(named.to_string());
    move |errno| LowerError::Io { path, source: errno.into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OF: NodeId = NodeId(77);
    const LEN: usize = 3 << 20;

    fn noise(rng: &mut fastrand::Rng, len: usize) -> Vec<u8> {
        std::iter::repeat_with(|| rng.u8(..)).take(len).collect()
    }

    fn begin(lower: &Lower, bytes: &[u8]) -> (File, Arc<Kept>) {
        let file = lower.root().create(b"call.wav", OFlags::RDWR, 0o640).unwrap();
        identify_file(&file, OF).unwrap();
        file.write_all_at(bytes, 0).unwrap();
        let kept = lower.keep(OF, &file, &stat_file(&file).unwrap()).unwrap();
        (file, kept)
    }

    /// Writers change anything at any time, the copy goes on in between, and successors take over.
    #[test]
    fn what_is_kept_is_what_it_was_however_it_is_changed_meanwhile() {
        for seed in 0..30 {
            let rng = &mut fastrand::Rng::with_seed(seed);
            let dir = tempfile::tempdir().unwrap();
            let mut lower = Lower::open(dir.path()).unwrap();
            let first = noise(rng, LEN);
            let (file, mut kept) = begin(&lower, &first);
            let before = file.metadata().unwrap().modified().unwrap();
            for _ in 0..rng.usize(1..20) {
                match rng.u8(..10) {
                    0 => {
                        drop((kept, lower));
                        lower = Lower::open(dir.path()).unwrap();
                        kept = lower.kept_of(OF).remove(0);
                        assert!(kept.lacks_live());
                        kept.follow(&file).unwrap();
                    }
                    1 => {
                        let left = std::cell::Cell::new(rng.usize(..4));
                        kept.fill(&|| left.replace(left.get().saturating_sub(1)) == 0).unwrap();
                    }
                    2 if rng.u8(..4) == 0 => {
                        let len = rng.u64(..2 * LEN as u64);
                        kept.before(len..u64::MAX);
                        file.set_len(len).unwrap();
                    }
                    _ => {
                        let at = rng.u64(..LEN as u64 + 5000);
                        let len = rng.usize(1..90_000);
                        let bytes = noise(rng, len);
                        kept.before(at..at + bytes.len() as u64);
                        file.write_all_at(&bytes, at).unwrap();
                    }
                }
            }
            assert!(kept.fill(&|| false).unwrap() && kept.is_whole());
            let number = NodeId(1000 + seed);
            kept.finish(number).unwrap();
            let stat = lower.kept_to_trash(&kept, number).unwrap();
            assert_eq!((stat.node, stat.attr.mode), (Some(number), 0o640));
            let path = dir.path().join(super::super::trash_path(number));
            assert!(std::fs::read(&path).unwrap() == first, "seed {seed}");
            assert_eq!(path.metadata().unwrap().modified().unwrap(), before);
            assert!(lower.kept().is_empty());
            assert_eq!(std::fs::read_dir(dir.path().join(".spl/kept")).unwrap().count(), 0);
        }
    }

    #[test]
    fn what_was_not_changed_is_dropped_when_it_is_closed() {
        let dir = tempfile::tempdir().unwrap();
        let lower = Lower::open(dir.path()).unwrap();
        let (file, kept) = begin(&lower, b"audio");
        assert!(!lower.drop_kept(&kept, false), "it may be written to");
        // Opened once more, it is the same.
        let again = lower.keep(OF, &file, &stat_file(&file).unwrap()).unwrap();
        assert!(Arc::ptr_eq(&kept, &again));
        kept.closed();
        assert!(lower.drop_kept(&kept, false) && lower.kept().is_empty());
        let kept = lower.keep(OF, &file, &stat_file(&file).unwrap()).unwrap();
        kept.before(0..1);
        file.write_all_at(b"A", 0).unwrap();
        kept.closed();
        assert!(!lower.drop_kept(&kept, false) && kept.is_of_the_past());
    }

    /// Killed before the exchange, the empty file that was to take the name is in the way of nobody.
    #[test]
    fn an_exchange_of_names_is_done_or_not() {
        let dir = tempfile::tempdir().unwrap();
        let lower = Lower::open(dir.path()).unwrap();
        let file = lower.root().create(b"call.wav", OFlags::RDWR, 0o640).unwrap();
        identify_file(&file, OF).unwrap();
        file.write_all_at(b"audio", 0).unwrap();
        let stat = stat_file(&file).unwrap();
        let fresh = lower.private.kept.create(
            b"77-5-0000000000000001-00000002-00000001",
            OFlags::RDWR,
            0o600,
        );
        identify_file(fresh.unwrap(), OF).unwrap();
        let lower = Lower::open(dir.path()).unwrap();
        assert!(lower.kept().is_empty());
        lower.keep_whole(OF, (lower.root(), b"call.wav"), &stat).unwrap();
        let now = lower.stat(Path::new("call.wav")).unwrap();
        assert_eq!((now.node, now.attr.size, now.attr.mode), (Some(OF), 0, 0o640));
        for lower in [lower, Lower::open(dir.path()).unwrap()] {
            let kept = lower.kept_of(OF).remove(0);
            assert!(kept.is_whole() && kept.is_of_the_past() && kept.number().is_none());
            assert_eq!(std::fs::read(dir.path().join(kept.path())).unwrap(), b"audio");
        }
    }
}
