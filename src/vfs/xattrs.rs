//! Extended attributes: the user's own, and `user.spoolfs.*`, which tell about a recording.

use super::inode::{Inode, Place};
use super::lookup::{Found, Whereabouts};
use super::{Caller, Result, Vfs, VfsError, acl};
use crate::catalog::{NodeRow, ObjectState, Op};
use crate::lower::{Dir, Pinned, visible_xattr};
use crate::recording::{Attr, Kind, NodeId, State};
use rustix::io::Errno;

const VIRTUAL: &[u8] = b"user.spoolfs.";
/// A label for SELinux. Where that runs, the kernel answers for it by itself, as for every FUSE file
/// system; where it does not, it means nothing, and who is told so does not ask for each file.
pub(super) const LABEL: &[u8] = b"security.selinux";
/// `setxattr(2)`: fail if it exists.
const CREATE: u32 = 1;
/// `setxattr(2)`: fail if it does not.
const REPLACE: u32 = 2;

/// Bytes of names and values a released recording may have: what any lower file system takes, so
/// that recalling it can not fail for them.
const RELEASED_BYTES_MAX: usize = 3072;

/// Names and values.
pub(super) type Xattrs = Vec<(Vec<u8>, Vec<u8>)>;

/// A change of one attribute: a value with the flags of `setxattr`, or its end.
#[derive(Clone, Copy)]
pub(super) struct Change<'a> {
    key: &'a [u8],
    value: Option<(&'a [u8], u32)>,
}

impl Change<'_> {
    fn to_name(self, dir: &Dir, name: &[u8]) -> rustix::io::Result<()> {
        match self.value {
            Some((value, flags)) => dir.setxattr(name, self.key, value, flags),
            None => dir.removexattr(name, self.key),
        }
    }

    pub fn to_pinned(self, pinned: &Pinned) -> rustix::io::Result<()> {
        match self.value {
            Some((value, flags)) => pinned.setxattr(self.key, value, flags),
            None => pinned.removexattr(self.key),
        }
    }

    /// What a file system would do.
    pub fn to_list(self, xattrs: &mut Xattrs) -> rustix::io::Result<()> {
        let at = xattrs.iter().position(|(key, _)| key == self.key);
        match (self.value, at) {
            (Some((_, flags)), Some(_)) if flags & CREATE != 0 => return Err(Errno::EXIST),
            (Some((_, flags)), None) if flags & REPLACE != 0 => return Err(Errno::NODATA),
            // No access list is as good as one that was removed.
            (None, None) if self.key != acl::ACCESS => return Err(Errno::NODATA),
            (_, Some(at)) => drop(xattrs.remove(at)),
            (_, None) => {}
        }
        if let Some((value, _)) = self.value {
            xattrs.push((self.key.to_vec(), value.to_vec()));
        }
        let all: usize = xattrs.iter().map(|(k, v)| k.len() + v.len()).sum();
        if all > RELEASED_BYTES_MAX { Err(Errno::NOSPC) } else { Ok(()) }
    }
}

/// What the attributes of a node belong to.
enum Owner {
    /// A name below; "" is the directory itself.
    Below(Dir, Vec<u8>),
    Released(Box<NodeRow>),
}

impl Vfs {
    /// The value of an attribute. `user.spoolfs.*` is answered from the catalog.
    ///
    /// # Errors
    /// `NODATA` if there is none.
    pub fn getxattr(&self, id: NodeId, key: &[u8]) -> Result<Vec<u8>> {
        if Vfs::is_virtual(id) {
            return self.xattr_virtual(id, key);
        }
        if let Some(what) = key.strip_prefix(VIRTUAL) {
            return self.virtual_xattr(id, what);
        }
        if key == LABEL {
            return Err(Errno::OPNOTSUPP.into());
        }
        if !visible_xattr(key) {
            return Err(Errno::NODATA.into());
        }
        let inode = self.inode(id)?;
        let place = inode.place();
        if let Place::Gone(ghost) = &*place {
            return ghost.getxattr(key);
        }
        if self.still_seen(&inode, &place).is_some_and(|seen| seen.bare) {
            return Err(Errno::NODATA.into());
        }
        match self.owner(&inode, &place)? {
            Owner::Below(dir, name) => Ok(dir.getxattr(&name, key)?),
            Owner::Released(row) => {
                let found = row.xattrs.into_iter().find(|(k, _)| k == key);
                found.map(|(_, value)| value).ok_or(Errno::NODATA.into())
            }
        }
    }

    /// Names of the attributes. Those of spoolfs are not among them, so that `cp -a` and
    /// `rsync -X` do not try to copy them.
    ///
    /// # Errors
    /// As `listxattr`.
    pub fn listxattr(&self, id: NodeId) -> Result<Vec<Vec<u8>>> {
        if Vfs::is_virtual(id) {
            return Ok(Vec::new());
        }
        let inode = self.inode(id)?;
        let place = inode.place();
        let mut names = if let Place::Gone(ghost) = &*place {
            ghost.listxattr()?
        } else if self.still_seen(&inode, &place).is_some_and(|seen| seen.bare) {
            Vec::new()
        } else {
            match self.owner(&inode, &place)? {
                Owner::Below(dir, name) => dir.listxattr(&name)?,
                Owner::Released(row) => row.xattrs.into_iter().map(|(key, _)| key).collect(),
            }
        };
        names.retain(|name| name != LABEL);
        Ok(names)
    }

    /// Sets an attribute.
    ///
    /// # Errors
    /// `OPNOTSUPP` for `user.spoolfs.*`.
    pub fn setxattr(
        &self,
        caller: Caller,
        id: NodeId,
        key: &[u8],
        value: &[u8],
        flags: u32,
    ) -> Result<()> {
        // The kernel lets nobody else change them until it has its answer, so that what is there,
        // or not, is what this very request did under a predecessor.
        let flags = if caller.resent { flags & !(CREATE | REPLACE) } else { flags };
        self.change(id, Change { key, value: Some((value, flags)) })
    }

    /// Removes an attribute.
    ///
    /// # Errors
    /// `NODATA` if there is none.
    pub fn removexattr(&self, caller: Caller, id: NodeId, key: &[u8]) -> Result<()> {
        match self.change(id, Change { key, value: None }) {
            Err(VfsError::Kernel(Errno::NODATA)) if caller.resent => Ok(()),
            result => result,
        }
    }

    fn change(&self, id: NodeId, change: Change<'_>) -> Result<()> {
        let key = change.key;
        if !visible_xattr(key) || key == LABEL {
            return Err(Errno::OPNOTSUPP.into());
        }
        let inode = self.inode(id)?;
        if let Some(mut ghost) = inode.ghost() {
            return ghost.change(change);
        }
        let place = inode.place();
        let _names = match &*place {
            Place::Named(parent, _) => Some(self.lower.names_change(parent.id, parent.id)),
            _ => None,
        };
        match self.owner(&inode, &place)? {
            Owner::Below(dir, name) => {
                let before = dir.stat(&name)?;
                change.to_name(&dir, &name)?;
                self.follow_ctime(&inode, &dir, &name, &before);
                Ok(())
            }
            Owner::Released(_) if key.starts_with(b"system.") && key != acl::ACCESS => {
                Err(Errno::OPNOTSUPP.into())
            }
            Owner::Released(mut row) => {
                change.to_list(&mut row.xattrs)?;
                let mode = acl::mode_follows_list(&mut row.xattrs, row.attr.mode);
                self.record_xattrs(id, row.xattrs);
                if let Some(mode) = mode {
                    let attr = Attr { mode, ctime: self.clock.now(), ..row.attr };
                    self.catalog.record(Op::SetAttr { id, attr, version: None, before: None });
                }
                Ok(())
            }
        }
    }

    fn owner(&self, inode: &Inode, place: &Place) -> Result<Owner> {
        match self.whereabouts(inode, place)? {
            Whereabouts::Root(dir) => Ok(Owner::Below(dir, Vec::new())),
            Whereabouts::Held(_) => {
                let (dir, name) = self.lower.held_place(inode.id);
                Ok(Owner::Below(dir, name))
            }
            Whereabouts::Named(parent, dir, name) => {
                let mark = self.mark(parent.id);
                let found = self.find(&parent, &dir, &name)?;
                self.saw(inode, mark, &found);
                match found {
                    Found::Local(..) => Ok(Owner::Below(dir, name.to_vec())),
                    Found::Released(row, _) => Ok(Owner::Released(row)),
                }
            }
        }
    }

    fn virtual_xattr(&self, id: NodeId, what: &[u8]) -> Result<Vec<u8>> {
        let row = self.catalog.node(id)?.ok_or(Errno::NODATA)?;
        if row.attr.kind != Kind::File {
            return Err(Errno::NODATA.into());
        }
        let text = match what {
            b"state" => self.present_state(&row).word().to_owned(),
            b"generation" => row.generation.0.to_string(),
            b"sha256" => row
                .sha256
                .filter(|_| row.state != State::Recording)
                .ok_or(Errno::NODATA)?
                .to_string(),
            b"source" => if self.is_released(id) { "archive" } else { "local" }.to_owned(),
            b"key" => self.keys(&row, &|_, key| key.to_owned())?,
            b"url" => self.keys(&row, &|target, key| self.archive.url(target, key))?,
            b"hold" => match self.catalog.holds().cases(id) {
                cases if cases.is_empty() => return Err(Errno::NODATA.into()),
                cases => cases.join("\n"),
            },
            _ => return Err(Errno::NODATA.into()),
        };
        Ok(text.into_bytes())
    }

    /// The catalog follows a moment behind; whether somebody writes now is known here.
    fn present_state(&self, row: &NodeRow) -> State {
        let writers = self.inodes.get(row.id).is_some_and(|i| i.opens.lock().writers > 0);
        if writers { State::Recording } else { row.state }
    }

    /// One line for each target that holds the present generation, verified.
    fn keys(&self, row: &NodeRow, show: &dyn Fn(&str, &str) -> String) -> Result<String> {
        let objects = self.catalog.objects_at_once(row.id, row.generation)?;
        let lines: Vec<String> = objects
            .iter()
            .filter(|o| o.state == ObjectState::Verified)
            .map(|o| show(&o.target, &o.key))
            .collect();
        if lines.is_empty() { Err(Errno::NODATA.into()) } else { Ok(lines.join("\n")) }
    }
}
