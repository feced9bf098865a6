//! Listing directories: what is below, then what is released. Streams; nothing is collected, so
//! that a directory of a million names answers as fast as a small one.

use super::inode::{Inode, Mark};
use super::lookup::Found;
use super::noted::{Given, Names, Note, Noted};
use super::table::Position;
use super::{Caller, Entry, Result, Vfs, VfsError};
use crate::catalog::ListRow;
use crate::lower::DirStream;
use crate::recording::{Kind, NodeId};
use rustix::io::Errno;
use std::collections::{HashSet, VecDeque};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Rows asked of the catalog at a time: more than one reply takes, the rest is for the next.
const PAGE: usize = 96;
/// How long that is good: what changes meanwhile is told late by no more.
const AHEAD_AGE: Duration = Duration::from_millis(20);
/// Longest time spent on one reply.
const REPLY_TIME: Duration = Duration::from_micros(400);
/// Longest time spent on finding the place where a predecessor was.
const SKIP_TIME: Duration = Duration::from_secs(5);
/// Positions of `.` and `..`, and of the directory of joins where it is listed.
const DOTS: u64 = 2;

/// One entry of a listing.
#[derive(Clone, Debug)]
pub struct ListEntry {
    /// The name.
    pub name: Vec<u8>,
    /// Identity: the inode number.
    pub id: NodeId,
    /// What it is.
    pub kind: Kind,
    /// Position behind it, to go on from.
    pub next: u64,
}

/// An open directory. A position is the number of entries before it, which a program may go back
/// to; for each, the cursor below or in the catalog is kept.
#[derive(Debug)]
pub(super) struct Listing {
    dir: Arc<Inode>,
    /// Positions before the first name that is below or released.
    dots: u64,
    stream: DirStream,
    /// Tells what was released or recalled since the listing began.
    mark: u64,
    /// What was given before `given`, by a daemon that died since: how many entries, and the last.
    base: Option<(usize, Given)>,
    given: Vec<Given>,
    /// How many of `given` are before the position; the others were given before a program went
    /// back, and are given again the same way if nothing changed.
    at: usize,
    /// When the reply at hand must be on its way: the kernel keeps the directory locked for it,
    /// and a call may be about to make its recording there.
    until: Instant,
    names: Names,
    /// What is given, for a successor.
    note: Option<Note>,
    /// Rows of the catalog that had no room in the reply before.
    ahead: Option<Ahead>,
}

/// Rows that follow a cursor.
#[derive(Debug)]
struct Ahead {
    after: u64,
    rows: VecDeque<ListRow>,
    at: Instant,
    /// How many files had been put into their place when it was asked.
    placed: u64,
    mark: Option<Mark>,
}

/// Takes an entry with its attributes if they were asked for; says no when it has no room.
pub type Take<'a> = &'a mut dyn FnMut(&ListEntry, Option<&Entry>) -> bool;

impl Vfs {
    /// Opens a directory for listing.
    ///
    /// # Errors
    /// As `opendir`.
    pub fn open_dir(&self, caller: Caller, id: NodeId) -> Result<u64> {
        if let Some(handle) = self.opened_before(caller) {
            return Ok(handle);
        }
        if Vfs::is_virtual(id) {
            return Ok(super::virtual_dir::HANDLE);
        }
        let listing = self.listing(id)?;
        Ok(self.handles.add_listing(id, caller.unique, listing))
    }

    pub(super) fn listing(&self, id: NodeId) -> Result<Listing> {
        let dir = self.inode(id)?;
        let stream = self.dir(&dir)?.stream()?;
        Ok(Listing {
            dir,
            dots: DOTS + u64::from(self.listed_virtual(id).is_some()),
            stream,
            mark: self.catalog.tier_mark(),
            base: None,
            given: Vec::new(),
            at: 0,
            until: Instant::now(),
            names: Names::new(),
            note: None,
            ahead: None,
        })
    }

    /// Closes a directory.
    pub fn release_dir(&self, handle: u64) {
        if handle != super::virtual_dir::HANDLE {
            self.handles.remove_listing(handle);
        }
    }

    /// Gives entries from a position on until `take` says no or the directory ends. With `attrs`
    /// each comes with what `stat` shows, and counts as looked up once taken.
    ///
    /// # Errors
    /// `BADF`; as `readdir`.
    pub fn list(&self, handle: u64, position: u64, attrs: bool, take: Take<'_>) -> Result<()> {
        let listing = self.handles.listing(handle)?;
        let mut listing = listing.lock();
        if position == 0 {
            listing.rewind(self.catalog.tier_mark());
        }
        let dots = listing.dots;
        self.go_to(&mut listing, position.saturating_sub(dots))?;
        self.handles.note_position(handle, listing.dir.id, listing.position());
        listing.until = Instant::now() + REPLY_TIME;
        for (at, name) in [(0, &b"."[..]), (1, b"..")] {
            if position <= at && !self.list_dot(&listing, name, at + 1, take)? {
                return Ok(());
            }
        }
        if let Some((name, id)) = self.listed_virtual(listing.dir.id).filter(|_| position < dots) {
            let entry = ListEntry { name: name.to_vec(), id, kind: Kind::Dir, next: dots };
            if !take(&entry, None) {
                return Ok(());
            }
        }
        let listed = self.go_on(&mut listing, attrs, take);
        self.handles.note_given(handle, &mut listing);
        listed
    }

    /// Gives what follows.
    fn go_on(&self, listing: &mut Listing, attrs: bool, take: Take<'_>) -> Result<()> {
        let below = listing.before().is_none_or(|g| g.below);
        if below && !self.list_below(listing, attrs, take)? {
            return Ok(());
        }
        self.list_released(listing, attrs, take)
    }

    /// Stands behind the first `count` entries. What a daemon gave that has died since is looked
    /// through again where its last reply does not lead there.
    fn go_to(&self, listing: &mut Listing, count: u64) -> Result<()> {
        let count = usize::try_from(count).map_err(|_| Errno::INVAL)?;
        if listing.base.is_some_and(|(base, _)| count < base) {
            listing.forget();
        }
        if listing.knows(count) {
            listing.at = count;
            return Ok(());
        }
        listing.at = listing.end();
        let mut left = count - listing.at;
        listing.until = Instant::now() + SKIP_TIME;
        let mut pass = |_: &ListEntry, _: Option<&Entry>| {
            let more = left > 0;
            left = left.saturating_sub(1);
            more
        };
        self.go_on(listing, false, &mut pass)?;
        // Fewer than before: it was emptied meanwhile, and this is its end.
        Ok(())
    }

    fn list_dot(&self, listing: &Listing, name: &[u8], next: u64, take: Take<'_>) -> Result<bool> {
        let parent = match &*listing.dir.place() {
            super::inode::Place::Named(parent, _) if name == b".." => parent.id,
            _ => listing.dir.id,
        };
        let entry = ListEntry { name: name.to_vec(), id: parent, kind: Kind::Dir, next };
        Ok(take(&entry, None))
    }

    /// Entries below, from where the listing stands. Answers whether all were given.
    fn list_below(&self, listing: &mut Listing, attrs: bool, take: Take<'_>) -> Result<bool> {
        let dir = self.dir(&listing.dir)?;
        let mut from = listing.before().map_or(0, |g| g.cursor);
        let began_at = listing.at;
        loop {
            let mut page: Vec<(Vec<u8>, u64)> = Vec::new();
            listing.stream.read(from, &mut |entry| {
                page.push((entry.name.to_vec(), entry.next));
                page.len() < 64
            })?;
            if page.is_empty() {
                return Ok(true);
            }
            for (name, cursor) in page {
                from = cursor;
                let found = match self.find(&listing.dir, &dir, &name) {
                    Ok(found) => found,
                    // What vanished meanwhile was released or removed; the catalog knows.
                    Err(VfsError::Kernel(Errno::NOENT | Errno::STALE)) => continue,
                    // Not left out in silence. What was given before it is the reply; the next
                    // one begins with it.
                    Err(VfsError::Kernel(_)) if listing.at > began_at => return Ok(false),
                    Err(error @ VfsError::Kernel(_)) => return Err(error),
                    Err(_) => continue,
                };
                if matches!(found, Found::Released(..)) {
                    continue;
                }
                if !self.give(listing, name, cursor, (found, None), attrs, take) {
                    return Ok(false);
                }
            }
        }
    }

    fn list_released(&self, listing: &mut Listing, attrs: bool, take: Take<'_>) -> Result<()> {
        let mut seen: Option<HashSet<u64>> = None;
        let mut after = listing.before().filter(|g| !g.below).map_or(0, |g| g.cursor);
        loop {
            // What is below was listed; the catalog's trouble is told elsewhere.
            let Ok(mut page) = self.rows_after(listing, after) else { return Ok(()) };
            let Some(last) = page.rows.back().map(|r| r.cursor) else { return Ok(()) };
            while let Some(mut row) = page.rows.pop_front() {
                if row.moved {
                    let seen = seen.get_or_insert_with(|| listing.seen_below());
                    if seen.contains(&listing.names.hash(&row.name)) {
                        continue;
                    }
                }
                let partial = self.lower.partial(row.row.id);
                if attrs && partial.is_none() && self.lower.placed() != page.placed {
                    // It may have become whole since the row was read.
                    let dir = self.dir(&listing.dir)?;
                    match self.find(&listing.dir, &dir, &row.name) {
                        Ok(found) if found.id() == row.row.id => row.row.attr = found.attr(),
                        _ => {}
                    }
                }
                let (again, at) = (row.clone(), listing.at);
                let found = Found::Released(Box::new(row.row), partial);
                let in_time =
                    self.give(listing, row.name, row.cursor, (found, page.mark), attrs, take);
                if listing.at == at {
                    page.rows.push_front(again);
                    listing.ahead = Some(page);
                    return Ok(());
                }
                // What was read is given as far as there is room: asking is what takes time.
                page.after = again.cursor;
                if !in_time && page.rows.is_empty() {
                    return Ok(());
                }
            }
            after = last;
        }
    }

    /// The rows of the catalog behind a cursor.
    fn rows_after(&self, listing: &mut Listing, after: u64) -> Result<Ahead> {
        let known = listing.ahead.take();
        if let Some(ahead) = known.filter(|a| a.after == after && a.at.elapsed() < AHEAD_AGE) {
            return Ok(ahead);
        }
        let (at, placed) = (Instant::now(), self.lower.placed());
        let mark = self.mark(listing.dir.id);
        let rows = self.catalog.list_released(listing.dir.id, after, listing.mark, PAGE)?;
        Ok(Ahead { after, rows: rows.into(), at, placed, mark })
    }

    fn give(
        &self,
        listing: &mut Listing,
        name: Vec<u8>,
        cursor: u64,
        (found, mark): (Found, Option<Mark>),
        attrs: bool,
        take: Take<'_>,
    ) -> bool {
        let next = listing.at as u64 + listing.dots + 1;
        let entry = ListEntry { id: found.id(), kind: found.kind(), name, next };
        let full = attrs.then(|| Entry { id: entry.id, attr: found.attr() });
        if !take(&entry, full.as_ref()) {
            return false;
        }
        let below = matches!(found, Found::Local(..));
        listing.gave(Given { cursor, name: listing.names.hash(&entry.name), below });
        if attrs {
            self.enter(&listing.dir, &entry.name, found, mark);
        }
        Instant::now() < listing.until
    }
}

impl Listing {
    /// Goes on with all that a predecessor knew.
    pub fn resume_with(&mut self, noted: Noted) {
        self.mark = noted.mark;
        self.names = noted.names;
        self.at = noted.given.len();
        self.given = noted.given;
    }

    /// Notes what was given, for a successor.
    pub fn write_note(&mut self, path: &Path) -> std::io::Result<()> {
        // Of one that a predecessor left without a note, the first entries are not known.
        if self.base.is_some() || self.given.is_empty() {
            return Ok(());
        }
        let note = match &mut self.note {
            Some(note) => note,
            none => none.insert(Note::open(path)?),
        };
        note.write(self.mark, self.names, &self.given)
    }

    pub fn has_note(&self) -> bool {
        self.note.is_some()
    }

    /// Goes on where a predecessor's last reply began.
    pub fn resume_at(&mut self, position: Position) {
        let given = Given { cursor: position.cursor, name: 0, below: position.below };
        self.base = usize::try_from(position.count).ok().filter(|c| *c > 0).map(|c| (c, given));
        self.at = self.first();
    }

    fn position(&self) -> Position {
        let before = self.before();
        Position {
            count: self.at as u64,
            cursor: before.map_or(0, |g| g.cursor),
            below: before.is_none_or(|g| g.below),
        }
    }

    fn rewind(&mut self, mark: u64) {
        self.mark = mark;
        self.ahead = None;
        self.at = self.first();
        if self.base.is_some() {
            self.forget();
        }
    }

    /// Begins anew, for lack of knowledge of what was given.
    fn forget(&mut self) {
        self.base = None;
        self.cut(0);
        self.at = 0;
    }

    /// The first position known.
    fn first(&self) -> usize {
        self.base.map_or(0, |(count, _)| count)
    }

    /// The last position known.
    fn end(&self) -> usize {
        self.first() + self.given.len()
    }

    fn knows(&self, at: usize) -> bool {
        (self.first()..=self.end()).contains(&at)
    }

    /// The entry before the position.
    fn before(&self) -> Option<&Given> {
        match self.at.checked_sub(self.first())?.checked_sub(1) {
            Some(index) => self.given.get(index),
            None => self.base.as_ref().map(|(_, given)| given),
        }
    }

    /// Hashes of the names given from below.
    fn seen_below(&self) -> HashSet<u64> {
        let count = self.at - self.first();
        self.given.iter().take(count).filter(|g| g.below).map(|g| g.name).collect()
    }

    fn cut(&mut self, count: usize) {
        self.given.truncate(count);
        self.note.iter_mut().for_each(|note| note.cut(count));
    }

    /// An entry was given at the position.
    fn gave(&mut self, given: Given) {
        let index = self.at - self.first();
        if self.given.get(index) != Some(&given) {
            self.cut(index);
            self.given.push(given);
        }
        self.at += 1;
    }
}
