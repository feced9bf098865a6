//! Released recordings that are opened for writing: at once, whatever the targets do. What is
//! written goes to the file that will have the name, what is read is that and the archive
//! together, and the engine fetches what is missing (docs/decisions/0007-partial-recordings.md).

use super::inode::{Inode, Mode as OpenMode, Opens};
use super::io::kernel;
use super::lookup::{Found, Whereabouts};
use super::open::{Opened, lower_flags, same_content, stamp, writes};
use super::{Caller, Patience, Result, SetAttr, Vfs, VfsError, Waits};
use crate::catalog::{NodeRow, Op};
use crate::lower::{Partial, stat_file};
use crate::recording::{Attr, NodeId, State};
use bytes::Bytes;
use rustix::fs::OFlags;
use rustix::io::Errno;
use std::fs::File;
use std::path::Path;
use std::sync::Arc;

impl Vfs {
    /// Opens a released recording for writing. `None`: it has a local copy now.
    pub(super) fn open_partial(
        &self,
        caller: Caller,
        inode: &Arc<Inode>,
        flags: OFlags,
        patience: Patience,
    ) -> Result<Option<Opened>> {
        let opened = self.with_partial(caller, inode, patience, |partial, row, opens| {
            if !matches!(opens.mode, None | Some(OpenMode::Plain)) {
                // It is open and its lower file is gone: taken away behind the mount.
                return Err(Errno::BUSY.into());
            }
            let file = partial.open(lower_flags(flags))?;
            if flags.contains(OFlags::TRUNC) {
                self.resize(caller, inode.id, &file, 0)?;
            }
            let stat = stat_file(&file)?;
            let now = stamp(&live_attr(Some(partial), row.attr.clone()));
            // An open that lets the kernel keep nothing waits for whoever reads from the archive.
            let keep_cache = opens.kernel > 0 || same_content(opens.cached.as_ref(), &now);
            opens.cached = Some(now);
            opens.mode = Some(OpenMode::Plain);
            opens.handles += 1;
            opens.writers += u32::from(writes(flags));
            partial.writer_came();
            let record = self.kernel_opens(caller, opens, inode, &file, &stat, flags);
            Ok(self.add_local(inode.clone(), file, record, keep_cache))
        })?;
        if opened.is_some() {
            self.archive.complete();
        }
        Ok(opened)
    }

    /// Cuts a released recording by its name. Tells whether it did: else it has a local copy now.
    pub(super) fn cut_partial(
        &self,
        caller: Caller,
        inode: &Arc<Inode>,
        size: u64,
        patience: Patience,
    ) -> Result<bool> {
        let cut = self.with_partial(caller, inode, patience, |partial, _, opens| {
            opens.cached = None;
            self.resize(caller, inode.id, &partial.open(OFlags::WRONLY)?, size)
        })?;
        self.archive.complete();
        Ok(cut.is_some())
    }

    /// Does something with the partial recording that a released one is, or becomes, while it is
    /// neither placed nor dropped, nor opened or closed by another.
    fn with_partial<T>(
        &self,
        caller: Caller,
        inode: &Arc<Inode>,
        patience: Patience,
        run: impl FnOnce(&Partial, &NodeRow, &mut Opens) -> Result<T>,
    ) -> Result<Option<T>> {
        let parent = match self.whereabouts(inode, &inode.place())? {
            Whereabouts::Named(parent, ..) => parent.id,
            _ => return Ok(None),
        };
        let names = self.lower.names_change(parent, parent);
        let place = inode.place();
        let row = match self.whereabouts(inode, &place)? {
            Whereabouts::Named(now, dir, name) if now.id == parent => {
                match self.find(&now, &dir, &name)? {
                    Found::Released(row, _) if row.id == inode.id => row,
                    Found::Local(id, _) if id == inode.id => return Ok(None),
                    _ => return Err(Errno::STALE.into()),
                }
            }
            _ => return Ok(None),
        };
        if row.state != State::Released {
            // Taken away behind the mount; the catalog is to hear of it first.
            drop((names, place));
            if patience == Patience::None {
                return Err(VfsError::MustWait(Waits::Archive));
            }
            self.archive.recall(inode.id).map_err(VfsError::Remote)?;
            return Ok(None);
        }
        let mut opens = inode.opens.lock();
        let partial = self.lower.begin_partial(row.id, row.generation, &row.attr)?;
        if partial.generation() != row.generation {
            tracing::error!(
                node = %row.id,
                "what was written to an earlier generation of a recording is still in .spl/partial"
            );
            return Err(Errno::BUSY.into());
        }
        let done = run(&partial, &row, &mut opens)?;
        if caller.uid != 0 && row.attr.mode & 0o6000 != 0 {
            // The file itself has no such bits to be taken away by a write.
            let now = self.clock.now();
            let attr = SetAttr::default().on(&row.attr, now);
            let (id, version, before) = (row.id, None, None);
            self.catalog.record(Op::SetAttr { id, attr, version, before });
        }
        Ok(Some(done))
    }

    /// A handle that may write was closed, and is not counted any more. Tells whether the
    /// recording is a partial one, of which the engine tells the catalog when it is whole.
    pub(super) fn close_partial(&self, id: NodeId, opens: &mut Opens) -> bool {
        let Some(partial) = self.lower.partial(id) else { return false };
        match partial.writer_left() {
            None => return false,
            Some(true) if opens.writers == 0 => self.lower.drop_partial(&partial),
            Some(_) => {
                opens.cached = None;
                self.archive.complete();
            }
        }
        true
    }

    /// Reads what is there and what is archived as one.
    pub(super) fn read_partial(
        &self,
        inode: &Inode,
        partial: &Partial,
        offset: u64,
        len: usize,
    ) -> Result<Bytes> {
        let brought = match partial.missing(offset..offset.saturating_add(len as u64)) {
            None => None,
            Some(range) => {
                let path = self.path_of(inode);
                let len = usize::try_from(range.end - range.start).unwrap_or(len);
                let bytes = self.archive.read(inode.id, None, Path::new(&path), range.start, len);
                Some((range.start, bytes.map_err(VfsError::Remote)?))
            }
        };
        let brought = brought.as_ref().map(|(start, bytes)| (*start, &bytes[..]));
        Ok(partial.read(offset, len, brought).map_err(kernel)?.into())
    }

    /// The file of a partial recording that a predecessor had open.
    pub(super) fn resume_partial(&self, id: NodeId, flags: OFlags, writable: bool) -> Option<File> {
        drop(self.lower.load_left_partials());
        let partial = self.lower.partial(id)?;
        let file = partial.open(flags).ok()?;
        if writable {
            partial.writer_came();
        }
        Some(file)
    }

    /// A partial recording was deleted: without a user it is not needed.
    pub(super) fn let_go_partial(&self, id: NodeId) {
        if let Some(partial) = self.lower.partial(id)
            && !self.is_open(id)
        {
            self.lower.drop_partial(&partial);
        }
    }

    /// Looks after what a predecessor left, once it is known who has it open.
    pub(super) fn settle_partials(&self) {
        for partial in self.lower.partials() {
            let id = partial.id();
            if matches!(self.catalog.node(id), Ok(Some(row)) if row.state == State::Deleted) {
                self.let_go_partial(id);
            }
        }
    }
}

/// What `stat` shows of a node that has no local copy: the catalog knows what was archived.
pub(super) fn live_attr(partial: Option<&Partial>, attr: Attr) -> Attr {
    let Some(Ok(live)) = partial.map(Partial::live) else { return attr };
    Attr {
        size: live.size,
        blocks: live.blocks.max(u64::from(live.size > 0)),
        mtime: live.mtime,
        ctime: attr.ctime.max(live.ctime),
        ..attr
    }
}
