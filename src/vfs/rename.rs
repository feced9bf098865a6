//! Moving names: within the disk, within the archive, and across.

use super::ghost::Ghost;
use super::inode::{Inode, Place};
use super::lookup::Found;
use super::{Caller, Result, Vfs, VfsError};
use crate::catalog::{Fate, Op};
use crate::faults;
use crate::limits::LARGE_UNLINK_BYTES;
use crate::lower::{Dir, LowerStat};
use crate::recording::{Kind, NodeId};
use parking_lot::RwLockWriteGuard;
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
    /// As `renameat2`; `PERM` if what is replaced is on legal hold; `INVAL` for flags other than
    /// NOREPLACE and EXCHANGE.
    pub fn rename(
        &self,
        caller: Caller,
        from: (NodeId, &[u8]),
        to: (NodeId, &[u8]),
        flags: RenameFlags,
    ) -> Result<()> {
        if self.done_before(caller) {
            return Ok(());
        }
        let known = RenameFlags::NOREPLACE | RenameFlags::EXCHANGE;
        if !known.contains(flags) || flags == known {
            return Err(Errno::INVAL.into());
        }
        self.must_not_be_virtual(from.0, from.1)?;
        self.must_not_be_virtual(to.0, to.1)?;
        let _names = self.lower.names_change(from.0, to.0);
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
        to.id().map_or(Ok(()), |replaced| self.must_not_be_held(caller, replaced, "rename"))?;
        // Nothing may be released in a directory that is replaced.
        let _inside = to.id().map(|id| self.lower.names_change(id, id));
        self.may_replace(from, to)?;
        let last = to.found.as_ref().is_none_or(|f| match f {
            Found::Local(_, s) => s.attr.nlink <= 1 || s.attr.kind == Kind::Dir,
            Found::Released(row, _) => row.attr.nlink <= 1,
        });
        let fate = match &to.found {
            Some(found) => self.fate_of(last, &to.parent, to.name, found)?,
            None => Fate::Kept,
        };
        let intent = self.intend(
            caller,
            moved,
            Op::Rename {
                fate,
                id,
                parent: from.parent.id,
                name: from.name.to_vec(),
                new_parent: to.parent.id,
                new_name: to.name.to_vec(),
                replaced: to.id().map(|id| (id, last)),
                at: self.clock.now(),
            },
        )?;
        let (moving, replaced) = (self.known(id), to.id().and_then(|r| self.known(r)));
        let (mut place, mut replaced_place) = moving_both(moving.as_deref(), replaced.as_deref());
        let replaced_found = to.found.as_ref().filter(|_| last);
        let ghost = replaced_found.map(|f| Ghost::of(&to.dir, to.name, f));
        faults::point("rename.after_intent");
        let done = self.move_below(from, to, last.then_some(fate));
        faults::point("rename.after_move");
        self.settle(intent, done.is_ok());
        faults::point("rename.after_done");
        let held = done?;
        if let Some(gone) = to.id() {
            self.inodes.drop_dir(gone);
            let node = replaced.as_deref().zip(replaced_place.as_deref_mut());
            self.name_is_gone(node, (to.parent.id, to.name), held.then_some(gone), ghost);
            if last {
                self.let_go_partial(gone);
            }
            to.found.iter().for_each(|found| self.follow_to_trash(fate, found));
        }
        if let Some(place) = &mut place {
            **place = Place::Named(to.parent.clone(), to.name.into());
        }
        drop((place, replaced_place));
        self.stamp_moved(moving.as_ref(), from, to);
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

    /// Moves what is on disk. Tells whether what was replaced is held in the private directory.
    fn move_below(&self, from: &End<'_>, to: &End<'_>, last: Option<Fate>) -> Result<bool> {
        let replaced = to.local().zip(to.id());
        match (from.local(), replaced) {
            (Some(_), Some((stat, id))) => {
                let trash = last == Some(Fate::Moved);
                let large = stat.attr.size >= LARGE_UNLINK_BYTES && !trash;
                let held = last.is_some() && !to.is_dir() && (large || self.is_open(id));
                if held {
                    self.lower.hold(&to.dir, to.name, id)?;
                }
                let kept = match trash {
                    // The replacement itself stays one step.
                    true => self.lower.link_to_trash(&to.dir, to.name, id).map_err(VfsError::from),
                    false => Ok(()),
                };
                faults::point("rename.after_trash_link");
                let moved = kept.and_then(|()| {
                    let flags = RenameFlags::empty();
                    Ok(from.dir.rename(from.name, &to.dir, to.name, flags)?)
                });
                if moved.is_err() && trash {
                    self.lower.unlink_from_trash(&to.dir, to.name, id);
                }
                if moved.is_err() && held {
                    let _not_held_after_all = self.lower.unhold(id);
                }
                moved?;
                Ok(held)
            }
            (Some(_), None) => {
                from.dir.rename(from.name, &to.dir, to.name, RenameFlags::NOREPLACE)?;
                Ok(false)
            }
            (None, Some((stat, id))) => {
                self.remove_local(id, (&to.dir, to.name), last, stat.attr.size)
            }
            (None, None) => Ok(false),
        }
    }

    /// A move changes the ctime, which belongs to the stamp.
    fn stamp_moved(&self, inode: Option<&Arc<Inode>>, from: &End<'_>, to: &End<'_>) {
        if let (Some(inode), Some(before)) = (inode, from.local()) {
            self.follow_ctime(inode, &to.dir, to.name, before);
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
                at: self.clock.now(),
            },
        )?;
        let (one, other) = (self.known(first.id()), self.known(second.id()));
        let (mut place, mut other_place) = moving_both(one.as_deref(), other.as_deref());
        let done = match (a.local(), b.local()) {
            (Some(_), Some(_)) => a.dir.rename(a.name, &b.dir, b.name, RenameFlags::EXCHANGE),
            (Some(_), None) => a.dir.rename(a.name, &b.dir, b.name, RenameFlags::NOREPLACE),
            (None, Some(_)) => b.dir.rename(b.name, &a.dir, a.name, RenameFlags::NOREPLACE),
            (None, None) => Ok(()),
        };
        faults::point("exchange.after_move");
        self.settle(intent, done.is_ok());
        done?;
        if let Some(place) = &mut place {
            **place = Place::Named(b.parent.clone(), b.name.into());
        }
        if let Some(place) = &mut other_place {
            **place = Place::Named(a.parent.clone(), a.name.into());
        }
        drop((place, other_place));
        self.stamp_moved(one.as_ref(), a, b);
        self.stamp_moved(other.as_ref(), b, a);
        Ok(())
    }
}

type Moving<'a> = Option<RwLockWriteGuard<'a, Place>>;

/// Takes the places of two different nodes, always in the same order.
fn moving_both<'a>(a: Option<&'a Inode>, b: Option<&'a Inode>) -> (Moving<'a>, Moving<'a>) {
    if a.map(|i| i.id) <= b.map(|i| i.id) {
        let first = a.map(Inode::moving);
        (first, b.map(Inode::moving))
    } else {
        let first = b.map(Inode::moving);
        (a.map(Inode::moving), first)
    }
}
