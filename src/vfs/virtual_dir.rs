//! The directory of joined calls, as the file system shows it.
//!
//! Its inode numbers are in a range of their own, and all that is done for them is done here:
//! everything else asks for a node by its number, and [`Vfs::inode`] refuses these. Nothing here
//! is on the way of a call. What may take a moment, call records or the bytes of legs, is done on
//! workers.

use super::handle::OpenKind;
use super::listing::{ListEntry, Take};
use super::open::Opened;
use super::xattrs::LABEL;
use super::{Entry, RemoteError, Result, SetAttr, Vfs, VfsError, Waits};
use crate::faults;
use crate::recording::{Attr, Kind, NodeId, Reader};
use crate::stitch::{Missing, StitchError, Stitched};
use bytes::Bytes;
use rustix::fs::OFlags;
use rustix::io::Errno;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;

/// The number of every handle of a join: its inode number says all. No other handle has it.
pub(super) const HANDLE: u64 = 0;
/// Names asked for at a time.
const PAGE: usize = 256;
/// Positions of `.` and `..`.
const DOTS: u64 = 2;

impl From<StitchError> for VfsError {
    fn from(error: StitchError) -> VfsError {
        VfsError::Remote(RemoteError { detail: error.to_string(), class: error.class })
    }
}

impl Vfs {
    /// From now on calls are joined. To be called once, before the first request.
    ///
    /// # Errors
    /// There is no directory that they could be shown in: then they are not.
    pub fn set_stitched(&self, stitched: Arc<Stitched>) -> Result<()> {
        let above = stitched.directory().parent().unwrap_or(Path::new(""));
        let (mut place, mut passed) = (NodeId::ROOT, Vec::new());
        let found = above.iter().try_for_each(|name| -> Result<()> {
            let entry = self.lookup(place, name.as_bytes())?;
            place = entry.id;
            passed.push(place);
            if entry.attr.kind == Kind::Dir { Ok(()) } else { Err(Errno::NOTDIR.into()) }
        });
        // The kernel does not know them by this.
        passed.into_iter().rev().for_each(|id| self.forget(id, 1));
        found?;
        let _only_the_first_counts = self.stitched_in.set(place);
        let _only_the_first_counts = self.stitched.set(stitched);
        Ok(())
    }

    /// Whether a node is the directory of joins, or one of them.
    pub fn is_virtual(id: NodeId) -> bool {
        Stitched::owns(id)
    }

    fn stitched(&self) -> Result<&Stitched> {
        Ok(self.stitched.get().ok_or(Errno::STALE)?)
    }

    fn shows_joins(&self, dir: NodeId) -> bool {
        self.stitched_in.get() == Some(&dir)
    }

    /// Whether a name is that of the directory of joins. Nothing else may have it, and it stays.
    pub(super) fn is_virtual_name(&self, parent: NodeId, name: &[u8]) -> bool {
        self.shows_joins(parent) && self.stitched.get().is_some_and(|s| s.name() == name)
    }

    /// What is virtual can not be moved, replaced or removed. Never EXDEV: programs would copy.
    pub(super) fn must_not_be_virtual(&self, parent: NodeId, name: &[u8]) -> Result<()> {
        let virtual_one = Stitched::owns(parent) || self.is_virtual_name(parent, name);
        if virtual_one { Err(Errno::PERM.into()) } else { Ok(()) }
    }

    /// Its name and number, if the listing of a directory has it.
    pub(super) fn listed_virtual(&self, dir: NodeId) -> Option<(&[u8], NodeId)> {
        let stitched = self.stitched.get().filter(|s| self.shows_joins(dir) && s.listed())?;
        Some((stitched.name(), Stitched::DIR))
    }

    /// What a name is, if it has to do with joins.
    pub(super) fn lookup_virtual(&self, parent: NodeId, name: &[u8]) -> Option<Result<Entry>> {
        if Stitched::owns(parent) {
            return Some(Err(VfsError::MustWait(self.calls_wait())));
        }
        if !self.is_virtual_name(parent, name) {
            return None;
        }
        let dir = self.stitched().and_then(|s| Ok(s.dir_attr()?));
        Some(dir.map(|attr| Entry { id: Stitched::DIR, attr }))
    }

    /// The join of this name: call it on a worker of the kind that `waits` says.
    ///
    /// # Errors
    /// `NOENT` if there is no such call; `MustWait` for the archive if that was not granted.
    pub fn look_up_join(&self, name: &[u8], waits: Waits) -> Result<Entry> {
        match self.stitched()?.lookup(name, waits == Waits::Archive) {
            Ok((id, attr)) => Ok(Entry { id, attr }),
            Err(Missing::NoCall) => Err(Errno::NOENT.into()),
            Err(Missing::MustWait) => Err(VfsError::MustWait(Waits::Archive)),
            Err(Missing::Failed(error)) => Err(error.into()),
        }
    }

    pub(super) fn forget_virtual(&self, id: NodeId, count: u64) {
        if let Some(stitched) = self.stitched.get() {
            stitched.forget(id, count);
        }
    }

    pub(super) fn attr_virtual(&self, id: NodeId) -> Result<Attr> {
        let stitched = self.stitched()?;
        if id == Stitched::DIR {
            return Ok(stitched.dir_attr()?);
        }
        Ok(stitched.attr(id).ok_or(Errno::STALE)?)
    }

    /// Owner and mode are accepted and stay: scripts that set them for a whole tree come by here.
    pub(super) fn set_attr_virtual(&self, id: NodeId, set: SetAttr) -> Result<Attr> {
        if set.size.is_some() || set.atime.is_some() || set.mtime.is_some() {
            return Err(Errno::PERM.into());
        }
        self.attr_virtual(id)
    }

    pub(super) fn open_virtual(&self, id: NodeId, flags: OFlags) -> Result<Opened> {
        if flags & OFlags::ACCMODE != OFlags::RDONLY || flags.contains(OFlags::TRUNC) {
            return Err(Errno::PERM.into());
        }
        match self.stitched()?.open(id) {
            Some(Ok(())) => {}
            Some(Err(error)) => {
                tracing::warn!(%error, "a join can not be opened");
                return Err(Errno::FBIG.into());
            }
            None => return Err(Errno::STALE.into()),
        }
        // The same number is the same bytes: what the kernel has of it is right.
        Ok(Opened {
            handle: HANDLE,
            kind: OpenKind::Remote,
            keep_cache: true,
            backing: None,
            direct: false,
        })
    }

    /// What asking which calls there are may wait for: right after a start not on a worker for the
    /// local disk, where a write with O_SYNC may be next.
    pub fn calls_wait(&self) -> Waits {
        let open = self.stitched.get().is_none_or(|s| s.calls_are_open());
        if open { Waits::Disk } else { Waits::Archive }
    }

    /// What reading a join may wait for.
    pub fn join_waits(&self, id: NodeId) -> Waits {
        let remote = self.stitched.get().is_some_and(|s| s.is_remote(id));
        if remote { Waits::Archive } else { Waits::Disk }
    }

    /// Somebody is about to read a join whose legs are not all local: it counts as one recording
    /// for a process that reads through the archive. Waits, on a worker for the archive.
    pub fn admit_to_join(&self, reader: Reader, id: NodeId) {
        self.archive.admit(reader, id);
    }

    /// Reads a join: on a worker of the kind that `join_waits` says.
    ///
    /// # Errors
    /// If a leg's bytes can not be had, or it changed since it was opened.
    pub fn read_join(&self, id: NodeId, offset: u64, len: usize) -> Result<Bytes> {
        let read = self.stitched()?.read(id, offset, len).ok_or(Errno::STALE)?;
        Ok(read?)
    }

    /// Closes a handle of a node: of a join, or any other.
    pub fn release_of(&self, id: NodeId, handle: u64) {
        faults::close();
        match self.stitched.get() {
            Some(stitched) if Stitched::owns(id) => stitched.close(id),
            _ => self.release(handle),
        }
    }

    /// Gives names of joins from a position on until `take` says no: call it on a worker of the
    /// kind that `calls_wait` says. With `attrs` each comes with what `stat` shows, and counts as
    /// looked up once taken, unless a target had to be asked for that.
    ///
    /// # Errors
    /// If call records can not be read now.
    pub fn list_joins(&self, position: u64, attrs: bool, take: Take<'_>) -> Result<()> {
        let stitched = self.stitched()?;
        let above = self.stitched_in.get().copied().unwrap_or(NodeId::ROOT);
        let dots = [(&b"."[..], Stitched::DIR, 0), (b"..", above, 1)];
        for (name, id, at) in dots {
            let entry = ListEntry { name: name.to_vec(), id, kind: Kind::Dir, next: at + 1 };
            if position <= at && !take(&entry, None) {
                return Ok(());
            }
        }
        let mut give = |next: u64, name: &str, known: Option<(NodeId, &Attr)>| {
            let id = known.map_or_else(|| Stitched::listed_id(name), |(id, _)| id);
            let name = name.as_bytes().to_vec();
            let entry = ListEntry { name, id, kind: Kind::File, next: next + DOTS };
            let full = known.map(|(id, attr)| Entry { id, attr: attr.clone() });
            take(&entry, full.as_ref())
        };
        let mut cursor = position.saturating_sub(DOTS);
        if attrs {
            return Ok(stitched.list_full(cursor, &mut give)?);
        }
        loop {
            let names = stitched.list(cursor, PAGE)?;
            let Some((last, _)) = names.last() else { return Ok(()) };
            cursor = *last;
            for (next, name) in names {
                if !give(next, &name, None) {
                    return Ok(());
                }
            }
        }
    }

    pub(super) fn xattr_virtual(&self, id: NodeId, key: &[u8]) -> Result<Vec<u8>> {
        // `ls -l` asks for these once then, and not for each name.
        if key == LABEL || key.starts_with(b"system.posix_acl_") {
            return Err(Errno::OPNOTSUPP.into());
        }
        let what = key.strip_prefix(b"user.spoolfs.").ok_or(Errno::NODATA)?;
        let value = self.stitched()?.xattr(id, what);
        Ok(value.map(String::into_bytes).ok_or(Errno::NODATA)?)
    }
}
