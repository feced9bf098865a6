//! Nodes whose last name is gone while no file is open: a working directory, an open FIFO, a
//! released recording somebody still reads. Who refers to one goes on seeing and changing its
//! attributes, and nothing of that outlives him.

use super::lookup::{Found, released_attr};
use super::xattrs::{Change, Xattrs};
use super::{Result, SetAttr, acl};
use crate::catalog::NodeRow;
use crate::clock::Timestamp;
use crate::lower::{Dir, Pinned};
use crate::recording::{Attr, Kind};
use rustix::io::Errno;

/// What is left of such a node.
#[derive(Debug)]
pub(super) struct Ghost {
    attr: Attr,
    xattrs: Xattrs,
    /// What is neither a recording nor released is still there below.
    pinned: Option<Pinned>,
}

impl Ghost {
    /// The last look at what is about to lose its last name.
    pub fn of(dir: &Dir, name: &[u8], found: &Found) -> Ghost {
        let stat = match found {
            Found::Released(row, _) => return Ghost::of_row(row),
            Found::Local(_, stat) => stat,
        };
        // The bytes of a recording shall go at once: nobody has it open.
        let pinned = (stat.attr.kind != Kind::File).then(|| dir.pinned(name).ok()).flatten();
        Ghost { attr: Attr { nlink: 0, ..stat.attr.clone() }, xattrs: Xattrs::new(), pinned }
    }

    /// What the catalog still knows of a released recording that was deleted.
    pub fn of_row(row: &NodeRow) -> Ghost {
        let attr = Attr { nlink: 0, ..released_attr(row) };
        Ghost { attr, xattrs: row.xattrs.clone(), pinned: None }
    }

    pub fn attr(&self) -> Attr {
        let pinned = self.pinned.as_ref().and_then(|p| p.stat().ok());
        pinned.map_or_else(|| self.attr.clone(), |stat| stat.attr)
    }

    pub fn set_attr(&mut self, set: SetAttr, now: Timestamp) -> Result<()> {
        let Some(pinned) = &self.pinned else {
            self.attr = set.on(&self.attr, now);
            acl::list_follows_mode(&mut self.xattrs, self.attr.mode);
            return Ok(());
        };
        if set.uid.is_some() || set.gid.is_some() {
            pinned.chown(set.uid, set.gid)?;
        }
        if let Some(mode) = set.mode {
            pinned.chmod(mode)?;
        }
        if !set.no_times() {
            pinned.utimens(set.times())?;
        }
        Ok(())
    }

    pub fn getxattr(&self, key: &[u8]) -> Result<Vec<u8>> {
        if let Some(pinned) = &self.pinned {
            return Ok(pinned.getxattr(key)?);
        }
        let found = self.xattrs.iter().find(|(k, _)| k == key);
        found.map(|(_, value)| value.clone()).ok_or(Errno::NODATA.into())
    }

    pub fn change(&mut self, change: Change<'_>) -> Result<()> {
        if let Some(pinned) = &self.pinned {
            return Ok(change.to_pinned(pinned)?);
        }
        change.to_list(&mut self.xattrs)?;
        if let Some(mode) = acl::mode_follows_list(&mut self.xattrs, self.attr.mode) {
            self.attr.mode = mode;
        }
        Ok(())
    }

    pub fn listxattr(&self) -> Result<Vec<Vec<u8>>> {
        match &self.pinned {
            Some(pinned) => Ok(pinned.listxattr()?),
            None => Ok(self.xattrs.iter().map(|(key, _)| key.clone()).collect()),
        }
    }
}
