//! Moving names: within the disk, within the archive, and across.

use super::inode::{Inode, Place};
use super::lookup::Found;
use super::names::settle;
use super::{Caller, Result, Vfs, VfsError};
use crate::catalog::Op;
use crate::lower::{Dir, LowerStat};
use crate::recording::{Kind, NodeId};
use rustix::fs::RenameFlags;
use rustix::io::Errno;
use std::sync::Arc;

/// One end of a rename.
struct End<'n> {
    parent: Arc<Inode>,
    dir: Dir,
    name: &'n [u8],
    found: Option<Found>,
}

impl End<'_> {
    fn id(&self) -> Option<NodeId> {
        self.found.as_ref().map(Found::id)
    }

    fn local(&self) -> Option<&LowerStat> {
        match &self.found {
            Some(Found::Local(_, stat)) => Some(stat),
            _ => None,
        }
    }

    fn is_dir(&self) -> bool {
        self.found.as_ref().is_some_and(|f| f.kind() == Kind::Dir)
    }
}

impl Vfs {
    /// Moves a name, atomically, over another if there is one. Never moves data; never EXDEV.
    ///
    /// # Errors
    /// As `renameat2`; `INVAL` for flags other than NOREPLACE and EXCHANGE.
    pub fn rename(
        &self,
        caller: Caller,
        from: (NodeId, &[u8]),
        to: (NodeId, &[u8]),
        flags: RenameFlags,
    ) -> Result<()> {
        let known = RenameFlags::NOREPLACE | RenameFlags::EXCHANGE;
        if !known.contains(flags) || flags == known {
            return Err(Errno::INVAL.into());
        }
        let _names = self.lower.names_move();
        let from = self.end(from)?;
        let to = self.end(to)?;
        if from.found.is_none() {
            return Err(Errno::NOENT.into());
        }
        if flags.contains(RenameFlags::EXCHANGE) {
            return self.exchange(caller, &from, &to);
        }
        if flags.contains(RenameFlags::NOREPLACE) && to.found.is_some() {
            return Err(Errno::EXIST.into());
        }
        self.replace(caller, &from, &to)
    }

    fn end<'n>(&self, (parent, name): (NodeId, &'n [u8])) -> Result<End<'n>> {
        let (parent, dir) = self.at(parent)?;
        let found = match self.find(&parent, &dir, name) {
            Ok(found) => Some(found),
            Err(VfsError::Kernel(Errno::NOENT)) => None,
            Err(other) => return Err(other),
        };
        Ok(End { parent, dir, name, found })
    }

    fn replace(&self, caller: Caller, from: &End<'_>, to: &End<'_>) -> Result<()> {
        let Some(moved) = &from.found else { return Err(Errno::NOENT.into()) };
        let id = moved.id();
        if to.id() == Some(id) {
            // Two names of one file: nothing happens, by POSIX.
            return Ok(());
        }
        self.may_replace(from, to)?;
        let last = to.found.as_ref().is_none_or(|f| match f {
            Found::Local(_, s) => s.attr.nlink <= 1 || s.attr.kind == Kind::Dir,
            Found::Released(row) => row.attr.nlink <= 1,
        });
        let intent = self.intend(
            caller,
            moved,
            Op::Rename {
                id,
                parent: from.parent.id,
                name: from.name.to_vec(),
                new_parent: to.parent.id,
                new_name: to.name.to_vec(),
                replaced: to.id().map(|id| (id, last)),
                at: self.clock.now(),
            },
        )?;
        let done = self.move_below(from, to, last);
        settle(intent, done.is_ok());
        done?;
        if let Some(replaced) = to.id() {
            self.inodes.drop_dir(replaced);
            self.name_is_gone(replaced, to.parent.id, to.name, last);
        }
        self.name_moved(id, from, to);
        Ok(())
    }

    /// What the lower directory can not know: released recordings are files, and make a
    /// directory that is empty below not empty.
    fn may_replace(&self, from: &End<'_>, to: &End<'_>) -> Result<()> {
        if to.found.is_none() {
            return Ok(());
        }
        match (from.is_dir(), to.is_dir()) {
            (true, false) => Err(Errno::NOTDIR.into()),
            (false, true) => Err(Errno::ISDIR.into()),
            (false, false) => Ok(()),
            (true, true) => match to.id() {
                Some(id) if self.catalog.has_released(id)? => Err(Errno::NOTEMPTY.into()),
                _ => Ok(()),
            },
        }
    }

    /// Moves what is on disk.
    fn move_below(&self, from: &End<'_>, to: &End<'_>, last: bool) -> Result<()> {
        let replaced = to.local().zip(to.id());
        match (from.local(), replaced) {
            (Some(_), Some((_, id))) => {
                let held = last && !to.is_dir() && self.is_open(id);
                if held {
                    self.lower.hold(&to.dir, to.name, id)?;
                }
                let moved = from.dir.rename(from.name, &to.dir, to.name, RenameFlags::empty());
                if moved.is_err() && held {
                    let _not_held_after_all = self.lower.unhold(id);
                }
                Ok(moved?)
            }
            (Some(_), None) => {
                Ok(from.dir.rename(from.name, &to.dir, to.name, RenameFlags::NOREPLACE)?)
            }
            (None, Some((stat, id))) => {
                self.remove_local(id, &to.dir, to.name, last, stat.attr.size)
            }
            (None, None) => Ok(()),
        }
    }

    fn name_moved(&self, id: NodeId, from: &End<'_>, to: &End<'_>) {
        let Some(inode) = self.inodes.get(id) else { return };
        inode.set_place(Place::Named(to.parent.clone(), to.name.into()));
        if let Some(before) = from.local() {
            self.follow_ctime(&inode, &to.dir, to.name, before);
        }
    }

    fn exchange(&self, caller: Caller, a: &End<'_>, b: &End<'_>) -> Result<()> {
        let (Some(first), Some(second)) = (&a.found, &b.found) else {
            return Err(Errno::NOENT.into());
        };
        if first.id() == second.id() {
            return Ok(());
        }
        let intent = self.intend(
            caller,
            first,
            Op::Exchange {
                a: (first.id(), a.parent.id, a.name.to_vec()),
                b: (second.id(), b.parent.id, b.name.to_vec()),
            },
        )?;
        let done = match (a.local(), b.local()) {
            (Some(_), Some(_)) => a.dir.rename(a.name, &b.dir, b.name, RenameFlags::EXCHANGE),
            (Some(_), None) => a.dir.rename(a.name, &b.dir, b.name, RenameFlags::NOREPLACE),
            (None, Some(_)) => b.dir.rename(b.name, &a.dir, a.name, RenameFlags::NOREPLACE),
            (None, None) => Ok(()),
        };
        settle(intent, done.is_ok());
        done?;
        self.name_moved(first.id(), a, b);
        self.name_moved(second.id(), b, a);
        Ok(())
    }
}
