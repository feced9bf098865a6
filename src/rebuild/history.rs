//! What the rows of a node's journals come to, when they are taken one after another.
//!
//! **Invariant:** of nothing but the rows. What two rows say differently of one recording is settled by the
//! later one, and a name is lost only to another recording or to a row that says so.

use super::error::Result;
use super::kept::Kept;
use crate::catalog::{
    Archive, Attributes, Hold, Lifted, NewHold, ObjectState, Restored, Scope, Told, ToldObject,
    What,
};
use crate::clock::Timestamp;
use crate::recording::{ChunkHashes, NodeId, Sha256, Stored};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// One content that a recording has had.
#[derive(Clone, Debug)]
pub(super) struct Content {
    pub sha256: Sha256,
    /// None if only the object itself told of it.
    pub chunks: ChunkHashes,
    pub size: u64,
    pub mtime: Timestamp,
    /// When it was first told to be archived; `None` if no journal says so.
    pub archived_at: Option<Timestamp>,
    /// By target and key.
    pub objects: BTreeMap<(String, String), Object>,
}

/// An object of a content.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Object {
    pub state: ObjectState,
    pub stored: Stored,
}

/// A recording as the journals know it.
#[derive(Clone, Debug, Default)]
pub(super) struct Recording {
    pub names: BTreeSet<Vec<u8>>,
    /// The last name that was heard of.
    pub last_path: Vec<u8>,
    /// Epoch and time of its deletion.
    pub deleted: Option<(u64, Timestamp)>,
    /// It is in the trash since.
    pub trash: bool,
    /// By number; the last one is the current one.
    pub contents: BTreeMap<u32, Content>,
    pub attributes: Option<Attributes>,
    pub xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    /// When it was last heard of.
    pub heard: Timestamp,
}

/// Everything that the journals tell.
#[derive(Debug)]
pub(super) struct History {
    /// The recordings, their names, and which content has which object.
    pub kept: Kept,
    /// Attributes of what is no known recording, by path: directories, for the most part.
    pub others: BTreeMap<Vec<u8>, Attributes>,
    /// Legal holds, by number: with when and whether provisionally each recording is held.
    pub holds: BTreeMap<u64, ToldHolds>,
    /// What an operator wants to keep local, also what is not archived yet.
    pub pins: BTreeSet<NodeId>,
    /// The epoch of what was told without one.
    base: u64,
}

/// A legal hold as the journals know it.
#[derive(Debug, Default)]
pub(super) struct ToldHolds {
    /// What it is; `None` if the row that tells is lost.
    pub made: Option<(Timestamp, NewHold)>,
    /// What it is on: since when, and whether provisionally.
    pub held: BTreeMap<NodeId, (Timestamp, bool)>,
    pub lifted: Option<Lifted>,
}

impl ToldHolds {
    /// As a catalog has it. One whose beginning is lost holds all the same.
    pub fn hold(&self, id: u64) -> (Hold, Vec<Restored>) {
        let unknown = || {
            let case = format!("unknown-{id}");
            let reason = "the journal rows that tell of this hold are lost".to_owned();
            let new = NewHold { case, reason, by: String::new(), scope: Scope::default() };
            (self.held.values().map(|(at, _)| *at).min().unwrap_or_default(), new)
        };
        let (at, new) = self.made.clone().unwrap_or_else(unknown);
        let NewHold { case, reason, by, scope } = new;
        let (lifted, recordings) = (self.lifted.clone(), self.held.len() as u64);
        let held = self.held.iter().map(|(node, (since, provisional))| Restored {
            node: *node,
            since: *since,
            provisional: *provisional,
        });
        (Hold { id, case, reason, by, at, scope, lifted, recordings }, held.collect())
    }
}

impl Recording {
    /// The content that counts.
    pub fn current(&self) -> Option<(u32, &Content)> {
        self.contents.last_key_value().map(|(number, content)| (*number, content))
    }
}

impl History {
    /// Of nothing yet. What does not fit into memory is in a file in the state directory.
    pub fn begin(state_dir: &Path) -> Result<History> {
        let (others, holds, pins) = Default::default();
        Ok(History { kept: Kept::begin(state_dir)?, others, holds, pins, base: 0 })
    }

    /// What was told so far, as of epoch 0, was so in this one.
    pub fn told_in(&mut self, epoch: u64) {
        self.base = epoch;
    }

    /// Takes a row. They come in the order of epochs, and of `seq` within an epoch.
    pub fn apply(&mut self, epoch: u64, row: &Told) -> Result<()> {
        match &row.what {
            What::Other => return Ok(()),
            What::Hold(_) | What::Held { .. } | What::Unheld { .. } | What::Lifted { .. } => {
                self.hold(row);
                return Ok(());
            }
            What::Pinned => {
                self.pins.insert(row.id);
                return Ok(());
            }
            What::Unpinned => {
                self.pins.remove(&row.id);
                return Ok(());
            }
            What::Renamed { from, dir: true } => return self.move_directory(from, &row.path),
            What::Attributes(attributes) if !self.kept.contains(row.id)? => {
                self.others.insert(row.path.clone(), attributes.clone());
                return Ok(());
            }
            _ => {}
        }
        let one = self.kept.entry(row.id)?;
        one.heard = one.heard.max(row.at);
        one.last_path.clone_from(&row.path);
        if let What::Deleted { trash } = row.what {
            one.deleted = Some((epoch, row.at));
            one.trash = trash;
            let names = std::mem::take(&mut one.names);
            return names.iter().try_for_each(|name| self.kept.take(name, row.id));
        }
        // An older catalog was put back, which knows nothing of the deletion, and went on with it.
        let later = |at: u64| epoch > at.max(self.base);
        if one.deleted.is_some_and(|(at, _)| later(at)) && row.what != What::Erased {
            one.deleted = None;
        }
        if let What::Restored(attributes) = &row.what {
            one.deleted = None;
            one.attributes = Some(attributes.clone());
            return self.claim(row.id, &row.path);
        }
        let gone = one.deleted.is_some();
        match &row.what {
            What::Archived(archive) => {
                one.attributes = Some(archive.attributes.clone());
                one.xattrs.clone_from(&archive.xattrs);
                let moved = one.names.len() == 1 && !one.names.contains(&row.path);
                self.archived(row, archive)?;
                if !gone {
                    if moved {
                        self.drop_names(row.id)?;
                    }
                    self.claim(row.id, &row.path)?;
                }
            }
            What::Renamed { from, .. } if !gone => {
                self.drop_name(row.id, from)?;
                self.claim(row.id, &row.path)?;
            }
            What::Linked if !gone => self.claim(row.id, &row.path)?,
            What::Erased => one.erased(),
            What::Unlinked => self.drop_name(row.id, &row.path)?,
            What::Attributes(attributes) => one.attributes = Some(attributes.clone()),
            What::Xattrs(xattrs) => one.xattrs.clone_from(xattrs),
            _ => {}
        }
        Ok(())
    }

    fn hold(&mut self, row: &Told) {
        match &row.what {
            What::Hold(told) => {
                let made = Some((row.at, told.new.clone()));
                self.holds.entry(told.hold).or_default().made = made;
            }
            What::Held { hold, provisional } => {
                let held = &mut self.holds.entry(*hold).or_default().held;
                held.entry(row.id).or_insert((row.at, *provisional)).1 &= *provisional;
            }
            What::Unheld { hold } => {
                self.holds.entry(*hold).or_default().held.remove(&row.id);
            }
            What::Lifted { hold, by, reason } => {
                let (by, reason) = (by.clone(), reason.clone());
                let lifted = Some(Lifted { at: row.at, by, reason });
                self.holds.entry(*hold).or_default().lifted = lifted;
            }
            _ => {}
        }
    }

    /// A generation that is told again may have other objects: the last list counts.
    fn archived(&mut self, row: &Told, archive: &Archive) -> Result<()> {
        let attributes = &archive.attributes;
        let Some(one) = self.kept.get_mut(row.id)? else { return Ok(()) };
        let number = one.number_for(archive.generation.0, archive.sha256);
        let content = one.contents.entry(number).or_insert_with(|| Content {
            sha256: archive.sha256,
            chunks: archive.chunks.clone(),
            size: attributes.size,
            mtime: attributes.mtime,
            archived_at: None,
            objects: BTreeMap::new(),
        });
        content.archived_at.get_or_insert(row.at);
        for object in content.objects.values_mut() {
            object.state = ObjectState::Abandoned;
        }
        let name = |told: &ToldObject| (told.target.clone(), told.key.clone());
        for told in &archive.objects {
            let plain = || Stored::plain(content.size, content.sha256);
            let stored = if told.stored.is_plain() { plain() } else { told.stored.clone() };
            let object = Object { state: ObjectState::Verified, stored };
            content.objects.insert(name(told), object);
        }
        archive.objects.iter().try_for_each(|told| self.own(&name(told), row.id, number))
    }

    /// An object belongs to one content: the last that claims it.
    fn own(&mut self, object: &(String, String), id: NodeId, number: u32) -> Result<()> {
        let name = (object.0.as_str(), object.1.as_str());
        let Some((before, its)) = self.kept.own(name, (id, number))? else { return Ok(()) };
        if let Some(content) = self.kept.get_mut(before)?.and_then(|r| r.contents.get_mut(&its)) {
            content.objects.remove(object);
        }
        Ok(())
    }

    /// Gives a content an object that no row tells of.
    pub fn add_object(
        &mut self,
        id: NodeId,
        number: u32,
        name: (String, String),
        object: Object,
    ) -> Result<()> {
        self.own(&name, id, number)?;
        if let Some(content) = self.kept.get_mut(id)?.and_then(|r| r.contents.get_mut(&number)) {
            content.objects.insert(name, object);
        }
        Ok(())
    }

    /// Gives a recording a name; whoever had it lost it.
    pub fn claim(&mut self, id: NodeId, path: &[u8]) -> Result<()> {
        if let Some(before) = self.kept.give(path, id)?
            && let Some(before) = self.kept.get_mut(before)?
        {
            before.names.remove(path);
        }
        if let Some(one) = self.kept.get_mut(id)? {
            one.names.insert(path.to_vec());
            one.last_path = path.to_vec();
        }
        Ok(())
    }

    /// Whether a recording has this name.
    pub fn is_taken(&self, path: &[u8]) -> Result<bool> {
        Ok(self.kept.owner(path)?.is_some())
    }

    fn drop_name(&mut self, id: NodeId, path: &[u8]) -> Result<()> {
        self.kept.take(path, id)?;
        if let Some(one) = self.kept.get_mut(id)? {
            one.names.remove(path);
        }
        Ok(())
    }

    pub fn drop_names(&mut self, id: NodeId) -> Result<()> {
        let names = self.kept.get(id)?.map(|one| one.names.clone()).unwrap_or_default();
        names.iter().try_for_each(|name| self.drop_name(id, name))
    }

    fn move_directory(&mut self, from: &[u8], to: &[u8]) -> Result<()> {
        let inside = [from, b"/"].concat();
        let moved = self.kept.below(from)?;
        let there = |path: &[u8]| {
            let rest = path.strip_prefix(from).unwrap_or_default();
            [to, rest].concat()
        };
        // All are taken away before one is put down: `to` may lie below `from`'s old place.
        moved.iter().try_for_each(|(path, id)| self.drop_name(*id, path))?;
        moved.iter().try_for_each(|(path, id)| self.claim(*id, &there(path)))?;
        let others: Vec<Vec<u8>> = self
            .others
            .range(from.to_vec()..)
            .take_while(|(path, _)| path.starts_with(from))
            .map(|(path, _)| path.clone())
            .filter(|path| path == from || path.starts_with(&inside))
            .collect();
        for path in others {
            if let Some(attributes) = self.others.remove(&path) {
                self.others.insert(there(&path), attributes);
            }
        }
        Ok(())
    }
}

impl Recording {
    /// Nothing of it is left; the keys stay taken.
    fn erased(&mut self) {
        self.trash = false;
        let objects = self.contents.values_mut().flat_map(|c| c.objects.values_mut());
        objects.for_each(|object| object.state = ObjectState::Abandoned);
    }

    /// The number under which a content is kept. Catalogs that were made anew count from 1 again,
    /// so a number may come twice with another content; the one that comes later is the newer one.
    pub fn number_for(&self, told: u32, sha256: Sha256) -> u32 {
        match self.current() {
            None => told.max(1),
            Some((number, content)) if content.sha256 == sha256 => number,
            Some((number, _)) if told > number => told,
            Some((number, _)) => number.saturating_add(1),
        }
    }
}

#[cfg(test)]
mod tests;
