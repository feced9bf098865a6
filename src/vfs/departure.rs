//! What becomes of a file that loses its last name: decided on the call path, from what is at hand.

use super::inode::Inode;
use super::lookup::{Found, is_released};
use super::{Result, Vfs};
use crate::catalog::{Fate, Op};
use crate::policy::{Bytes, DeleteMode, Departure, Leaving, Rules, departure};
use crate::recording::Kind;
use rustix::io::Errno;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;

/// What deletions do on this mount.
#[derive(Clone, Debug)]
pub struct Deletion {
    /// The rules of the mount.
    pub rules: Rules,
    /// Names of the targets that must hold a recording before it counts as archived, unless its
    /// rule has others.
    pub required: Vec<String>,
}

impl Default for Deletion {
    /// Nothing is in a trash.
    fn default() -> Deletion {
        let rules = Rules { delete_mode: DeleteMode::Keep, ..Rules::default() };
        Deletion { rules, required: Vec::new() }
    }
}

impl Vfs {
    /// What deletions do from now on.
    pub fn set_deletion(&self, deletion: Deletion) {
        *self.deletion.write() = Arc::new(deletion);
    }

    /// What becomes of a file that is about to lose a name, its last one or not.
    ///
    /// # Errors
    /// `PERM` if it is refused.
    pub(super) fn fate_of(
        &self,
        last: bool,
        parent: &Inode,
        name: &[u8],
        found: &Found,
    ) -> Result<Fate> {
        if !last || found.kind() == Kind::Dir {
            return Ok(Fate::Kept);
        }
        let deletion = Arc::clone(&self.deletion.read());
        let rules = &deletion.rules;
        if rules.only_keep() {
            return Ok(Fate::Kept);
        }
        // What its call was is not asked here: who knows may take his time.
        let path = self.path_of(parent).join(OsStr::from_bytes(name));
        let treatment = rules.by_path(&path).treatment;
        let archived_some_day = || {
            let nowhere = treatment.targets.must(&deletion.required).is_empty();
            !nowhere && treatment.archive_after.is_some() && rules.for_path(&path).archive
        };
        let it = match found {
            Found::Local(id, stat) => Leaving {
                kind: stat.attr.kind,
                size: stat.attr.size,
                bytes: Bytes::Local {
                    writer: self.has_writer(*id),
                    settled: stat.attr.mtime.min(stat.version.ctime),
                },
                archived_some_day: archived_some_day(),
            },
            Found::Released(row, _) => Leaving {
                kind: row.attr.kind,
                size: row.attr.size,
                bytes: Bytes::Released,
                archived_some_day: true,
            },
        };
        match departure(treatment.delete_mode, &it, self.clock.now()) {
            Departure::Kept => Ok(Fate::Kept),
            Departure::Trash => Ok(Fate::Trash),
            Departure::Moved => Ok(Fate::Moved),
            Departure::Erased => Ok(Fate::Erased),
            Departure::Refused => Err(Errno::PERM.into()),
            Departure::RefusedIfArchived => {
                // A question to the readers of the catalog, in this mode alone.
                let row = self.catalog.node(found.id()).ok().flatten();
                match row.is_some_and(|row| is_released(&row)) {
                    true => Err(Errno::PERM.into()),
                    false => Ok(Fate::Kept),
                }
            }
        }
    }

    /// The move to the trash changed the ctime, which belongs to the stamp.
    pub(super) fn follow_to_trash(&self, fate: Fate, found: &Found) {
        let Found::Local(id, before) = found else { return };
        if fate != Fate::Moved {
            return;
        }
        let Ok(now) = self.lower.stat(&crate::lower::trash_path(*id)) else { return };
        if now.version.ino == before.version.ino && now.attr.size == before.attr.size {
            let attr = crate::recording::Attr { nlink: 1, ..now.attr };
            let (version, before) = (Some(now.version), Some(before.version));
            self.catalog.record(Op::SetAttr { id: *id, attr, version, before });
        }
    }

    fn has_writer(&self, id: crate::recording::NodeId) -> bool {
        self.inodes.get(id).is_some_and(|inode| inode.opens.lock().writers > 0)
    }
}
