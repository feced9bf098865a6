//! From what the journals, the targets and the lower directory say to the nodes of a catalog.
//!
//! The lower directory is the truth for local recordings: where they are, and what they show. The
//! journals are for all others.

use super::error::Result;
use super::history::{self, History, Recording};
use super::objects::Findings;
use super::tree::{LocalFile, Tree};
use super::{Report, path};
use crate::catalog::rebuild::{Content, NewNode, NewObject, Rebuild};
use crate::catalog::{NodeRow, ObjectState};
use crate::clock::Timestamp;
use crate::limits;
use crate::lower::Lower;
use crate::recording::{Attr, Generation, Kind, LowerVersion, NodeId, State};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// Mode of a recording that nothing tells of.
const MODE: u32 = 0o640;
/// The bit of a mode's file type that says "regular file".
const REGULAR: u32 = 0o100_000;

pub(super) struct Merge<'a> {
    pub lower: &'a Lower,
    pub tree: &'a mut Tree,
    pub history: &'a mut History,
    pub findings: &'a Findings,
    pub report: &'a mut Report,
    pub now: Timestamp,
    /// Since when a target's journal lacks what another one has.
    pub lags_since: Option<Timestamp>,
    pub to: &'a mut Rebuild,
}

/// What was written.
#[derive(Debug, Default)]
pub(super) struct Merged {
    /// How many nodes.
    pub nodes: u64,
    /// Those whose name or being no journal tells of.
    pub tell: Vec<NodeId>,
    /// Still to be written.
    waiting: Vec<NewNode>,
}

impl Merged {
    fn add(&mut self, to: &mut Rebuild, node: NewNode) -> Result<()> {
        self.nodes += 1;
        self.waiting.push(node);
        if self.waiting.len() < limits::REBUILD_BATCH { Ok(()) } else { self.write(to) }
    }

    fn write(&mut self, to: &mut Rebuild) -> Result<()> {
        to.add(&self.waiting)?;
        self.waiting.clear();
        Ok(())
    }
}

impl Merge<'_> {
    pub fn run(mut self) -> Result<Merged> {
        let mut merged = Merged::default();
        if let (_, Some(highest)) = self.history.kept.count()? {
            self.tree.above(highest);
        }
        // Those who are local have their names first.
        let mut after = NodeId(0);
        loop {
            let files = self.tree.files_after(after)?;
            let Some(last) = files.last() else { break };
            after = last.id;
            for file in &files {
                self.local(file, &mut merged)?;
            }
        }
        self.report.unarchived = self.tree.looked_at.saturating_sub(merged.nodes);
        let mut after = NodeId(0);
        loop {
            let ids = self.history.kept.ids_after(after)?;
            let Some(last) = ids.last() else { break };
            after = *last;
            for id in ids {
                self.remote(id, &mut merged)?;
            }
        }
        for (path, (id, attr)) in &self.tree.dirs {
            if let Some(dir) = self.directory(path, *id, attr) {
                merged.add(self.to, dir)?;
            }
        }
        merged.write(self.to)?;
        Ok(merged)
    }

    fn directory(&self, path: &Path, id: NodeId, attr: &Attr) -> Option<NewNode> {
        let parent = self.tree.dir(path.parent()?)?;
        let row = NodeRow {
            id,
            state: State::Recording,
            attr: attr.clone(),
            generation: Generation(0),
            sha256: None,
            hashed: None,
            closed_at: None,
            archived_at: None,
            recalled_at: None,
            adopted: true,
            suspect: None,
            xattrs: Vec::new(),
        };
        let names = vec![(parent, path.file_name()?.as_bytes().to_vec())];
        Some(NewNode { row, names, contents: Vec::new(), told: false, buried: None, trash: false })
    }

    /// Whether a target's journal may lack what another one tells of it: that one would have it from
    /// nowhere else, since the new catalog counts on behind what any of them has.
    fn lags(&self, one: &Recording) -> bool {
        let Some(since) = self.lags_since else { return false };
        let told = one.contents.values().filter_map(|content| content.archived_at).max();
        one.heard >= since || told.is_some_and(|at| at >= since)
    }

    /// A recording that is below. It is hashed again before it counts as archived: nothing but
    /// the lost catalog knew the stamp of what was archived.
    fn local(&mut self, file: &LocalFile, merged: &mut Merged) -> Result<()> {
        let id = file.id;
        let Some(one) = self.history.kept.get(id)? else { return Ok(()) };
        if one.deleted.is_some() || one.contents.is_empty() {
            return Ok(());
        }
        let one = one.clone();
        let contents = self.contents(&one, true)?;
        let archived_at = one.current().and_then(|(number, content)| {
            let held = contents
                .iter()
                .find(|c| c.generation.0 == number)
                .is_some_and(|c| c.objects.iter().any(|o| o.state == ObjectState::Verified));
            content.archived_at.filter(|_| held)
        });
        let is_name = |p: &PathBuf| one.names.contains(p.as_os_str().as_bytes());
        let moved = !file.names.iter().all(is_name);
        let names = self.entries(&file.names);
        let row = local_row(&one, file, archived_at);
        if archived_at.is_some() {
            self.report.local += 1;
            if moved || self.lags(&one) {
                merged.tell.push(id);
            }
        }
        let told = one.contents.values().any(|c| c.archived_at.is_some());
        // Nobody else is to be put there.
        if moved || one.names.len() != file.names.len() {
            self.history.drop_names(id)?;
            for path in &file.names {
                self.history.claim(id, path.as_os_str().as_bytes())?;
            }
        }
        let new = NewNode { row, names, contents, told, buried: None, trash: false };
        merged.add(self.to, new)
    }

    fn entries(&self, names: &[PathBuf]) -> Vec<(NodeId, Vec<u8>)> {
        let entry = |path: &PathBuf| {
            let parent = self.tree.dir(path.parent()?)?;
            Some((parent, path.file_name()?.as_bytes().to_vec()))
        };
        names.iter().filter_map(entry).collect()
    }

    /// The contents with their objects as they were found.
    fn contents(&self, one: &Recording, local: bool) -> Result<Vec<Content>> {
        let last = one.current().map(|(number, _)| number);
        let content = |(number, content): (&u32, &history::Content)| {
            let there = |object: &(String, String)| self.findings.is_there(object);
            let verified = |s: &ObjectState| *s == ObjectState::Verified;
            let any_there = content.objects.iter().any(|(n, o)| verified(&o.state) && there(n));
            let read = |object: &(String, String)| self.findings.is_read(object);
            // The last hope of a released recording stays, so that it is shown: what is in a target
            // that was not read, else what is read in vain.
            let keep_lost = !local && Some(*number) == last && !any_there;
            let hope = content.objects.iter().any(|(n, o)| verified(&o.state) && !read(n));
            let objects = content.objects.iter().map(|(name, object)| -> Result<NewObject> {
                // Also of one that is gone: so it is known that there was something to lose.
                let at = verified(&object.state).then_some(content.archived_at.unwrap_or(self.now));
                let state = match (verified(&object.state), there(name), read(name)) {
                    (false, ..) | (_, true, _) => object.state,
                    (_, _, read) if keep_lost && read != hope => object.state,
                    (.., true) => ObjectState::Abandoned,
                    // Nobody has seen it: proved before anything rests on it.
                    (.., false) => ObjectState::Assigned,
                };
                Ok(NewObject {
                    target: name.0.clone(),
                    key: name.1.clone(),
                    state,
                    stored: object.stored.clone(),
                    verified_at: at,
                    leaves: self.leaves(content, name, object)?,
                })
            });
            Ok(Content {
                generation: Generation(*number),
                size: content.size,
                mtime: content.mtime,
                sha256: content.sha256,
                chunks: content.chunks.clone(),
                objects: objects.collect::<Result<_>>()?,
            })
        };
        one.contents.iter().map(content).collect()
    }

    /// Whether an object that counts no more is still there, beside one in its target that has the same
    /// stored otherwise: the catalog that is lost was about to delete it. What is stored alike took the
    /// place of a bad one, which is left alone.
    fn leaves(
        &self,
        content: &history::Content,
        name: &(String, String),
        object: &history::Object,
    ) -> Result<bool> {
        let instead = content.objects.iter().any(|(other, its)| {
            other.0 == name.0
                && its.state == ObjectState::Verified
                && its.stored != object.stored
                && self.findings.is_there(other)
        });
        let listed = || self.history.kept.listed(&name.0, &name.1);
        Ok(object.state == ObjectState::Abandoned
            && instead
            && listed()? == Some(object.stored.size))
    }

    /// A recording that is not below: released, or a tombstone.
    fn remote(&mut self, id: NodeId, merged: &mut Merged) -> Result<()> {
        let Some(one) = self.history.kept.get(id)? else { return Ok(()) };
        if one.deleted.is_none() && self.tree.has(id)? {
            return Ok(());
        }
        let one = one.clone();
        let mut contents = self.contents(&one, false)?;
        if let Some((_, at)) = one.deleted {
            let Some((number, current)) = one.current() else { return Ok(()) };
            if contents.iter().any(|c| !c.objects.is_empty()) {
                self.report.deleted += 1;
                let row = self.remote_row(id, &one, (number, current), State::Deleted);
                let buried = Some((one.last_path.clone(), at));
                let verified = |o: &NewObject| o.state == ObjectState::Verified;
                let last = contents.iter().find(|c| c.generation.0 == number);
                let trash = one.trash && last.is_some_and(|c| c.objects.iter().any(verified));
                let names = Vec::new();
                let new = NewNode { row, names, contents, told: true, buried, trash };
                return merged.add(self.to, new);
            }
            return Ok(());
        }
        let Some(number) = keep_held(&mut contents) else {
            if !one.contents.is_empty() {
                self.report.lost.push(path(&one.last_path));
            }
            return Ok(());
        };
        let Some(current) = one.contents.get(&number) else { return Ok(()) };
        let (paths, aside) = self.places(id, &one)?;
        let shown = paths.first().cloned().unwrap_or_default();
        if let Some(wanted) = aside {
            self.report.renamed.push((wanted, shown.clone()));
        }
        let mut row = self.remote_row(id, &one, (number, current), State::Released);
        row.attr.nlink = u32::try_from(paths.len()).unwrap_or(1).max(1);
        let told = |p: &PathBuf| one.names.contains(p.as_os_str().as_bytes());
        if current.archived_at.is_none() || !paths.iter().all(told) || self.lags(&one) {
            merged.tell.push(id);
        }
        if current.archived_at.is_none() {
            self.report.found.push(shown.clone());
        }
        let whole = |(name, object): (&(String, String), &history::Object)| {
            object.state == ObjectState::Verified && self.findings.is_there(name)
        };
        if !current.objects.iter().any(whole) {
            self.report.lost.push(shown);
        }
        self.report.released += 1;
        let names = self.entries(&paths);
        let new = NewNode { row, names, contents, told: true, buried: None, trash: false };
        merged.add(self.to, new)
    }

    fn remote_row(
        &self,
        id: NodeId,
        one: &Recording,
        (number, current): (u32, &history::Content),
        state: State,
    ) -> NodeRow {
        let told = one.attributes.as_ref();
        let (size, mtime) = (current.size, told.map_or(current.mtime, |a| a.mtime));
        let owner = || self.owner_at(&one.last_path);
        let (mode, uid, gid) = told.map_or_else(owner, |a| (a.mode, a.uid, a.gid));
        let archived_at = current.archived_at.unwrap_or(self.now);
        NodeRow {
            id,
            state,
            attr: Attr {
                kind: Kind::File,
                mode,
                uid,
                gid,
                size,
                mtime,
                atime: told.map_or(mtime, |a| a.atime),
                ctime: one.heard.max(mtime),
                nlink: 1,
                rdev: 0,
                blocks: 0,
                special: REGULAR,
            },
            generation: Generation(number),
            sha256: Some(current.sha256),
            // A stamp that no file has: whatever turns up below is hashed.
            hashed: Some(LowerVersion { ino: 0, size, mtime, ctime: mtime }),
            closed_at: Some(mtime),
            archived_at: Some(archived_at),
            recalled_at: None,
            adopted: false,
            suspect: None,
            xattrs: one.xattrs.clone(),
        }
    }

    /// Mode and owner for what only its object tells of: those of the directory.
    fn owner_at(&self, path_bytes: &[u8]) -> (u32, u32, u32) {
        let wanted = path(path_bytes);
        let dir = wanted.ancestors().skip(1).find_map(|p| self.tree.dirs.get(p));
        let attr = dir.map(|(_, attr)| attr.clone());
        let root = || self.lower.stat(Path::new("")).ok().map(|s| s.attr);
        attr.or_else(root).map_or((MODE, 0, 0), |a| (MODE, a.uid, a.gid))
    }

    /// Where a released recording is to be shown: its names, as far as nothing else has them now;
    /// else a name of its own beside the last one, which is returned too.
    fn places(&mut self, id: NodeId, one: &Recording) -> Result<(Vec<PathBuf>, Option<PathBuf>)> {
        let mut paths = Vec::new();
        for name in &one.names {
            let wanted = path(name);
            if self.is_free(&wanted, id)? {
                paths.push(wanted);
            }
        }
        if !paths.is_empty() {
            return Ok((paths, None));
        }
        let wanted = path(&one.last_path);
        let number = one.current().map_or(0, |(number, _)| number);
        let dir = wanted.parent().unwrap_or(Path::new("")).to_owned();
        // A place that can be made: the directory, or one of those that it is in.
        for above in dir.ancestors() {
            for attempt in 0..8 {
                let beside = above.join(aside(&wanted, number, id, attempt));
                if !self.history.is_taken(beside.as_os_str().as_bytes())?
                    && self.is_free(&beside, id)?
                {
                    self.history.claim(id, beside.as_os_str().as_bytes())?;
                    return Ok((vec![beside], Some(wanted)));
                }
            }
        }
        let last = Path::new("").join(aside(&wanted, number, id, 9));
        Ok((vec![last], Some(wanted)))
    }

    /// Whether a released recording can be shown here. A file without an identity of its own is no
    /// hindrance: it was copied or restored to here, and is taken for the recording at the mount.
    fn is_free(&mut self, wanted: &Path, id: NodeId) -> Result<bool> {
        let dir = wanted.parent().unwrap_or(Path::new(""));
        if wanted.file_name().is_none() || !self.tree.need(self.lower, dir, &self.history.others)? {
            return Ok(false);
        }
        Ok(match self.lower.stat(wanted) {
            Err(e) if e.is_not_found() => true,
            Err(e) => return Err(e.into()),
            Ok(stat) => stat.attr.kind == Kind::File && stat.node.is_none_or(|node| node == id),
        })
    }
}

fn local_row(one: &Recording, file: &LocalFile, archived_at: Option<Timestamp>) -> NodeRow {
    let current = one.current();
    let attr = file.attr.clone();
    NodeRow {
        id: file.id,
        state: State::Closed,
        generation: Generation(current.map_or(0, |(number, _)| number)),
        sha256: current.map(|(_, content)| content.sha256),
        hashed: None,
        closed_at: Some(attr.mtime.min(attr.ctime)),
        archived_at,
        recalled_at: None,
        adopted: false,
        suspect: None,
        xattrs: Vec::new(),
        attr,
    }
}

/// A name like the one wanted, told apart as keys are: `a~2-1f.wav`.
fn aside(wanted: &Path, generation: u32, id: NodeId, attempt: u32) -> PathBuf {
    let stem = wanted.file_stem().unwrap_or(OsStr::new("recording")).as_bytes();
    let stem = stem.get(..stem.len().min(200)).unwrap_or(stem);
    let mut name = stem.to_vec();
    name.extend_from_slice(format!("~{generation}-{:x}", id.0).as_bytes());
    if attempt > 0 {
        name.extend_from_slice(format!("-{attempt}").as_bytes());
    }
    if let Some(suffix) = wanted.extension().map(OsStr::as_bytes).filter(|s| s.len() < 32) {
        name.push(b'.');
        name.extend_from_slice(suffix);
    }
    path(&name)
}

/// Puts away contents of which nothing was ever proved, above the last one of which something was;
/// their keys stay taken. The number of that one.
fn keep_held(contents: &mut Vec<Content>) -> Option<u32> {
    let verified = |c: &Content| c.objects.iter().any(|o| o.state == ObjectState::Verified);
    let last = contents.iter().rposition(verified)?;
    let above = contents.split_off(last + 1);
    let kept = contents.last_mut()?;
    for object in above.into_iter().flat_map(|c| c.objects) {
        let state = ObjectState::Abandoned;
        kept.objects.push(NewObject { state, verified_at: None, ..object });
    }
    Some(kept.generation.0)
}
