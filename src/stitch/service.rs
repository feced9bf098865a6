//! The directory of joins: names, attributes, open files, and what tells about their legs.
//!
//! A join's inode number is a hash of its plan. So a number means the same bytes for ever, a
//! join that changed is another file at the next lookup, and what was opened before goes on
//! unchanged, in the kernel's pages too.

use super::given::{Calls, Recordings, Source, Tier};
use super::kept::Kept;
use super::listing::Ahead;
use super::memory::Memory;
use super::notes::{Note, Notes};
use super::plan::{Leg, Options, Plan};
use super::read::{Join, LegReader};
use super::{Result, StitchError, name};
use crate::limits;
use crate::recording::{Attr, ErrorClass, NodeId};
use bytes::Bytes;
use parking_lot::Mutex;
use std::collections::HashMap;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

/// Inode numbers of this directory and of joins have these three upper bits; no row of the
/// catalog comes so far, and a file that can not be given an identity has the second one set.
const RANGE: u64 = 0b001 << 61;

/// How the directory looks.
#[derive(Clone, Debug)]
pub struct Setting {
    /// Where it is, relative to the mount.
    pub directory: PathBuf,
    /// Whether the listing of what is above it has it.
    pub listed: bool,
    /// How joins are made.
    pub join: Options,
}

/// A join that the kernel may know.
#[derive(Debug)]
struct Node {
    /// As the last lookup found it: rights may change, the rest does not.
    attr: Mutex<Attr>,
    join: Join,
    /// While it is open.
    sources: Mutex<Option<Arc<Sources>>>,
    uses: Mutex<Uses>,
}

#[derive(Debug, Default)]
struct Uses {
    /// References that the kernel was given.
    lookups: u64,
    /// How often it is open.
    opens: u64,
    /// The kernel had more of both when this daemon took the mount over.
    from_before: bool,
}

/// The legs of an open join.
pub(super) struct Sources(Vec<std::result::Result<Box<dyn Source>, StitchError>>);

impl std::fmt::Debug for Sources {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Sources({})", self.0.len())
    }
}

impl LegReader for Sources {
    fn read(&self, leg: usize, offset: u64, len: usize) -> Result<Bytes> {
        match self.0.get(leg) {
            Some(Ok(source)) => source.read(offset, len),
            Some(Err(error)) => Err(error.clone()),
            // Plans name legs that they have.
            None => Ok(Bytes::new()),
        }
    }
}

/// Why a name of the directory was not found.
#[derive(Debug, thiserror::Error)]
pub enum Missing {
    /// There is no such call, or it has no recording.
    #[error("there is no such call")]
    NoCall,
    /// A header must be read from a target first: ask again where that may be waited for.
    #[error("it has to wait for a target")]
    MustWait,
    /// Something failed.
    #[error(transparent)]
    Failed(#[from] StitchError),
}

/// The directory.
pub struct Stitched {
    pub(super) setting: Setting,
    pub(super) calls: Arc<dyn Calls>,
    pub(super) recordings: Arc<dyn Recordings>,
    pub(super) memory: Memory,
    pub(super) ahead: Ahead,
    pub(super) kept: OnceLock<Arc<Kept>>,
    notes: Notes,
    nodes: Mutex<HashMap<NodeId, Arc<Node>>>,
}

impl std::fmt::Debug for Stitched {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Stitched").field("setting", &self.setting).finish_non_exhaustive()
    }
}

impl Stitched {
    /// The inode number of the directory.
    pub const DIR: NodeId = NodeId(RANGE);

    /// The directory. `runtime` is where open joins are noted; with `resume` those of a
    /// predecessor go on.
    pub fn new(
        setting: Setting,
        calls: Arc<dyn Calls>,
        recordings: Arc<dyn Recordings>,
        state_dir: &Path,
        runtime: Option<&Path>,
        resume: bool,
    ) -> Stitched {
        let (notes, before) = Notes::open(runtime, resume);
        let nodes = before.into_iter().map(|note| {
            let node = Node {
                attr: Mutex::new(note.attr),
                join: Join::new(note.plan),
                sources: Mutex::default(),
                uses: Mutex::new(Uses { from_before: true, ..Uses::default() }),
            };
            (note.id, Arc::new(node))
        });
        let nodes = Mutex::new(nodes.collect());
        let memory = Memory::open(state_dir);
        let ahead = Ahead::default();
        Stitched { setting, calls, recordings, memory, ahead, kept: OnceLock::new(), notes, nodes }
    }

    /// Whether an inode number is of this directory or what is in it.
    pub fn owns(id: NodeId) -> bool {
        id.0 >> 61 == RANGE >> 61
    }

    /// Where it is, relative to the mount.
    pub fn directory(&self) -> &Path {
        &self.setting.directory
    }

    /// Its name.
    pub fn name(&self) -> &[u8] {
        self.setting.directory.file_name().unwrap_or_default().as_bytes()
    }

    /// Whether the listing of what is above it has it.
    pub fn listed(&self) -> bool {
        self.setting.listed
    }

    /// Whether asking which calls there are waits for nothing but the local disk.
    pub fn calls_are_open(&self) -> bool {
        self.calls.is_open()
    }

    /// What `stat` shows of the directory: the root's owner, and who may look into the root.
    ///
    /// # Errors
    /// As `stat`.
    pub fn dir_attr(&self) -> Result<Attr> {
        let root = self.recordings.root()?;
        Ok(Attr { mode: root.mode & 0o555, nlink: 2, size: 0, blocks: 0, ..root })
    }

    /// The join of this name, with one reference of the kernel counted.
    ///
    /// # Errors
    /// `MustWait` unless `may_wait`; as reading a header.
    pub fn lookup(
        &self,
        name: &[u8],
        may_wait: bool,
    ) -> std::result::Result<(NodeId, Attr), Missing> {
        let (plan, attr) = self.plan(&self.id_of(name)?, may_wait)?;
        let id = in_range(plan.digest());
        self.looked_up(id, plan, &attr);
        Ok((id, attr))
    }

    /// The kernel is told of a join: one reference is counted.
    pub(super) fn looked_up(&self, id: NodeId, plan: Plan, attr: &Attr) {
        let mut nodes = self.nodes.lock();
        let node = nodes.entry(id).or_insert_with(|| {
            Arc::new(Node {
                attr: Mutex::new(attr.clone()),
                join: Join::new(plan),
                sources: Mutex::default(),
                uses: Mutex::default(),
            })
        });
        *node.attr.lock() = attr.clone();
        node.uses.lock().lookups += 1;
    }

    /// The kernel gave back references.
    pub fn forget(&self, id: NodeId, count: u64) {
        let mut nodes = self.nodes.lock();
        let Some(node) = nodes.get(&id) else { return };
        let gone = {
            let mut uses = node.uses.lock();
            let gone = if uses.from_before {
                count > uses.lookups
            } else {
                uses.lookups <= count && uses.opens == 0
            };
            uses.lookups = uses.lookups.saturating_sub(count);
            gone
        };
        if gone {
            nodes.remove(&id);
        }
    }

    fn node(&self, id: NodeId) -> Option<Arc<Node>> {
        self.nodes.lock().get(&id).cloned()
    }

    /// What `stat` shows of a join; none if this daemon never heard of it.
    pub fn attr(&self, id: NodeId) -> Option<Attr> {
        Some(self.node(id)?.attr.lock().clone())
    }

    /// Opens a join: its legs are held as they are. None if this daemon never heard of it; an
    /// error if it is too large for its format.
    ///
    /// # Errors
    /// The sentence for the log.
    pub fn open(&self, id: NodeId) -> Option<Result<()>> {
        let node = self.node(id)?;
        if node.join.plan().too_large {
            return Some(Err(StitchError {
                leg: String::new(),
                detail: "the join is larger than a WAV file may be; set stitched.riff64".to_owned(),
                class: ErrorClass::Refused,
            }));
        }
        let known = {
            let mut uses = node.uses.lock();
            uses.opens += 1;
            uses.opens > 1 || uses.from_before
        };
        self.sources(&node);
        if known {
            return Some(Ok(()));
        }
        let note = |id: NodeId, node: &Node| Note {
            id,
            attr: node.attr.lock().clone(),
            plan: node.join.plan().clone(),
        };
        let mut open = || {
            let nodes = self.nodes.lock();
            let open = nodes.iter().filter(|(_, n)| {
                let uses = n.uses.lock();
                uses.opens > 0 || uses.from_before
            });
            open.map(|(id, node)| note(*id, node)).collect()
        };
        self.notes.add(&note(id, &node), &mut open);
        Some(Ok(()))
    }

    /// Closes it once.
    pub fn close(&self, id: NodeId) {
        let Some(node) = self.node(id) else { return };
        let closed = {
            let mut nodes = self.nodes.lock();
            let mut uses = node.uses.lock();
            uses.opens = uses.opens.saturating_sub(1);
            let closed = uses.opens == 0 && !uses.from_before;
            if closed && uses.lookups == 0 {
                nodes.remove(&id);
            }
            closed
        };
        if closed {
            // Who opens it at this moment opens its legs once more.
            *node.sources.lock() = None;
        }
    }

    /// The legs of a join that is open.
    fn sources(&self, node: &Node) -> Arc<Sources> {
        let mut sources = node.sources.lock();
        let opened = sources.get_or_insert_with(|| Arc::new(self.open_legs(node.join.plan())));
        opened.clone()
    }

    /// The legs of a plan, as far as they are what they were.
    pub(super) fn open_legs(&self, plan: &Plan) -> Sources {
        let open = |leg: &Leg| match &leg.audio {
            Ok(_) => self.recordings.open(leg),
            Err(why) => Err(error(leg, why.clone(), ErrorClass::Permanent)),
        };
        Sources(plan.legs.iter().map(open).collect())
    }

    /// Whether reading a join may wait for a target.
    pub fn is_remote(&self, id: NodeId) -> bool {
        // What stands in for a leg that is gone is in a target.
        let remote = |s: &Sources| {
            s.0.iter().any(|s| s.as_ref().map_or(self.kept.get().is_some(), |s| s.is_remote()))
        };
        self.node(id).is_some_and(|node| remote(&self.sources(&node)))
    }

    /// Bytes of a join; none if this daemon never heard of it.
    ///
    /// # Errors
    /// If a leg's bytes can not be had, or it changed since.
    pub fn read(&self, id: NodeId, offset: u64, len: usize) -> Option<Result<Bytes>> {
        let node = self.node(id)?;
        let read = node.join.read(&*self.sources(&node), offset, len);
        Some(read.or_else(|error| self.read_kept(node.join.plan(), offset, len, error)))
    }

    /// The value of `user.spoolfs.legs` or `user.spoolfs.source`.
    pub fn xattr(&self, id: NodeId, what: &[u8]) -> Option<String> {
        let node = self.node(id)?;
        let plan = node.join.plan();
        let nodes: Vec<NodeId> = plan.legs.iter().map(|leg| leg.node).collect();
        let standings = self.recordings.standings(&nodes).into_iter();
        let tiers: Vec<Option<Tier>> =
            standings.map(|standing| standing.ok().flatten().map(|s| s.tier)).collect();
        match what {
            b"legs" => Some(told(plan, &tiers)),
            b"source" => {
                let kept = self.kept_tier(plan);
                let tier = |leg: usize| tiers.get(leg).copied().flatten().or(kept);
                let heard: Vec<Tier> = plan.placed.iter().filter_map(|p| tier(p.leg)).collect();
                let first = heard.first()?;
                let same = heard.iter().all(|t| t == first);
                Some(format!("stitched-{}", if same { first.word() } else { "mixed" }))
            }
            _ => None,
        }
    }

    /// All of a join, in order, for a file of somebody's.
    ///
    /// # Errors
    /// `Missing`; what `sink` fails with is transient.
    pub fn export(
        &self,
        linkedid: &[u8],
        sink: &mut dyn FnMut(&[u8]) -> std::io::Result<()>,
    ) -> std::result::Result<u64, Missing> {
        let (id, _) = self.lookup(name::file_name(linkedid).as_bytes(), true)?;
        let copied = match self.open(id) {
            Some(Ok(())) => self.export_node(id, sink),
            Some(Err(error)) => Err(error.into()),
            None => Err(Missing::NoCall),
        };
        self.close(id);
        self.forget(id, 1);
        copied
    }

    fn export_node(
        &self,
        id: NodeId,
        sink: &mut dyn FnMut(&[u8]) -> std::io::Result<()>,
    ) -> std::result::Result<u64, Missing> {
        let mut at = 0;
        loop {
            let bytes = self.read(id, at, limits::STITCH_PIECE_BYTES).ok_or(Missing::NoCall)??;
            if bytes.is_empty() {
                return Ok(at);
            }
            at += bytes.len() as u64;
            sink(&bytes).map_err(|e| StitchError {
                leg: String::new(),
                detail: format!("the join could not be written: {e}"),
                class: ErrorClass::Transient,
            })?;
        }
    }

    /// The call that a name means.
    fn id_of(&self, name: &[u8]) -> std::result::Result<Vec<u8>, Missing> {
        if let Some(id) = name::linkedid(name) {
            return Ok(id);
        }
        if !name.starts_with(b"%-") {
            return Err(Missing::NoCall);
        }
        let mut cursor = 0;
        loop {
            let calls = self.calls.after(cursor, limits::STITCH_LOOK_AHEAD)?;
            let Some((last, _)) = calls.last() else { return Err(Missing::NoCall) };
            cursor = *last;
            if let Some((_, id)) = calls.iter().find(|(_, id)| name::is_hashed(name, id)) {
                return Ok(id.clone());
            }
        }
    }
}

pub(super) fn in_range(hash: u64) -> NodeId {
    let id = RANGE | hash & (RANGE - 1);
    // The directory's own.
    NodeId(if id == RANGE { RANGE | 1 } else { id })
}

fn error(leg: &Leg, detail: String, class: ErrorClass) -> StitchError {
    StitchError { leg: leg.path.clone(), detail, class }
}

/// `user.spoolfs.legs`: a line of JSON for each leg.
fn told(plan: &Plan, tiers: &[Option<Tier>]) -> String {
    let rate = f64::from(plan.form.rate());
    let lines = plan.legs.iter().enumerate().map(|(index, leg)| {
        let tier = tiers.get(index).copied().flatten().map_or("gone", Tier::word);
        let placed = plan.placed.iter().find(|p| p.leg == index);
        let mut line = serde_json::json!({ "path": leg.path, "tier": tier });
        if let Some(line) = line.as_object_mut() {
            match (placed, &leg.audio) {
                (Some(placed), Ok(_)) => {
                    line.insert("offset".into(), (placed.at as f64 / rate).into());
                    line.insert("duration".into(), (placed.samples as f64 / rate).into());
                }
                (_, Err(why)) => drop(line.insert("left_out".into(), why.as_str().into())),
                (None, Ok(_)) => {}
            }
        }
        line.to_string()
    });
    lines.collect::<Vec<_>>().join("\n")
}
