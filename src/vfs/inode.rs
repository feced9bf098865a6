//! The nodes the kernel knows.

use super::ghost::Ghost;
use crate::lower::{Dir, Lower};
use crate::recording::{Generation, Kind, LowerVersion, NodeId};
use moka::sync::Cache;
use parking_lot::{MappedRwLockWriteGuard, Mutex, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

/// Directories kept open below.
const OPEN_DIRS: u64 = 1024;

/// Where a node is to be found below.
#[derive(Debug)]
pub(super) enum Place {
    /// The root itself.
    Root,
    /// A name in a directory.
    Named(Arc<Inode>, Arc<[u8]>),
    /// Unlinked while open: in the private directory.
    Held,
    /// This name is gone; the catalog may know another.
    Lost,
    /// Its last name is gone, and no file is open: for who still refers to it (a working
    /// directory, an open FIFO).
    Gone(Box<Ghost>),
}

impl Place {
    /// Whether it is this name.
    pub fn is(&self, parent: NodeId, name: &[u8]) -> bool {
        matches!(self, Place::Named(p, n) if p.id == parent && **n == *name)
    }
}

/// How the kernel gets at the bytes of an open file. All opens of a node at a time must have the
/// same, so it is chosen by the first and kept until the last is closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mode {
    /// It asks for each read and write.
    Plain,
    /// It reads and writes the lower file itself.
    Passthrough {
        /// Number of the backing file in the kernel.
        number: u32,
        /// Which lower file that is.
        lower_ino: u64,
    },
}

/// Who has the node open.
#[derive(Debug, Default)]
pub(super) struct Opens {
    /// Handles that may write.
    pub writers: u32,
    /// All handles.
    pub handles: u32,
    /// The kernel's handles among them.
    pub kernel: u32,
    /// While the kernel has handles.
    pub mode: Option<Mode>,
    /// The version whose pages the kernel may keep.
    pub cached: Option<LowerVersion>,
    /// The kernel read and wrote past its pages since.
    pub passed: bool,
}

/// What a look at a released recording has shown: true until the engine moves names in its
/// directory, or somebody changes attributes (`Vfs::still_seen`).
#[derive(Clone, Copy, Debug)]
pub(super) struct Seen {
    /// Of the directory, before the look.
    pub mark: Mark,
    pub at: Instant,
    pub generation: Generation,
    /// As `open::stamp` has it.
    pub version: LowerVersion,
    /// It has no extended attributes.
    pub bare: bool,
}

/// Where the engine and those who change attributes stand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Mark {
    pub dir: NodeId,
    pub names: u64,
    pub xattrs: u64,
}

/// A node the kernel knows.
#[derive(Debug)]
pub(super) struct Inode {
    pub id: NodeId,
    pub kind: Kind,
    /// Held for reading while the node is looked for below, for writing while it moves there, so
    /// that nobody looks in the old place. Order: a node before the directories above it.
    place: RwLock<Place>,
    pub opens: Mutex<Opens>,
    /// It was released, and how it looked.
    pub seen: Mutex<Option<Seen>>,
    /// References that the kernel was given in this life.
    lookups: AtomicU64,
    /// The kernel knows it from a life before: it has references that were not counted here, and
    /// gives them all back at once.
    is_from_before: bool,
}

impl Inode {
    /// Where it is, and stays as long as the guard lives.
    pub fn place(&self) -> RwLockReadGuard<'_, Place> {
        self.place.read_recursive()
    }

    /// It is about to move.
    pub fn moving(&self) -> RwLockWriteGuard<'_, Place> {
        let place = self.place.write();
        *self.seen.lock() = None;
        place
    }

    /// What is left of it, if its last name is gone: to be changed.
    pub fn ghost(&self) -> Option<MappedRwLockWriteGuard<'_, Ghost>> {
        if !matches!(*self.place(), Place::Gone(_)) {
            return None;
        }
        let ghost = RwLockWriteGuard::try_map(self.moving(), |place| match place {
            Place::Gone(ghost) => Some(&mut **ghost),
            _ => None,
        });
        ghost.ok()
    }

    /// Whether `name` in `parent` is where the node is looked for.
    pub fn is_at(&self, parent: NodeId, name: &[u8]) -> bool {
        self.place().is(parent, name)
    }
}

/// All nodes the kernel knows, and the directories among them that are open below.
#[derive(Debug)]
pub(super) struct Inodes {
    table: Mutex<HashMap<NodeId, Arc<Inode>>>,
    dirs: Cache<NodeId, Dir>,
}

impl Inodes {
    pub fn new(lower: &Lower) -> Inodes {
        let root = Arc::new(Inode {
            id: NodeId::ROOT,
            kind: Kind::Dir,
            place: RwLock::new(Place::Root),
            opens: Mutex::default(),
            seen: Mutex::default(),
            lookups: AtomicU64::new(1),
            is_from_before: false,
        });
        let dirs = Cache::new(OPEN_DIRS);
        dirs.insert(NodeId::ROOT, lower.root().clone());
        Inodes { table: Mutex::new(HashMap::from([(NodeId::ROOT, root)])), dirs }
    }

    pub fn get(&self, id: NodeId) -> Option<Arc<Inode>> {
        self.table.lock().get(&id).cloned()
    }

    /// The node with this identity; `place` is where it is if it was not known yet. `references`
    /// of the kernel are counted before anybody can take it for forgotten; none means that the
    /// kernel has some from before. Never waits for a place or for who has it open: who moves a
    /// node, or cuts one, asks this table.
    pub fn intern(&self, id: NodeId, kind: Kind, place: Place, references: u64) -> Arc<Inode> {
        let mut table = self.table.lock();
        let inode = table.entry(id).or_insert_with(|| {
            Arc::new(Inode {
                id,
                kind,
                place: RwLock::new(place),
                opens: Mutex::default(),
                seen: Mutex::default(),
                lookups: AtomicU64::new(0),
                is_from_before: references == 0,
            })
        });
        inode.lookups.fetch_add(references, Ordering::Relaxed);
        inode.clone()
    }

    /// The kernel gave back `count` references.
    pub fn forget(&self, id: NodeId, count: u64) {
        if id == NodeId::ROOT {
            return;
        }
        let mut table = self.table.lock();
        let Some(inode) = table.get(&id) else { return };
        // Under the lock of the table, so that no other count comes in between.
        let known = inode.lookups.load(Ordering::Relaxed);
        let left = known.saturating_sub(count);
        inode.lookups.store(left, Ordering::Relaxed);
        let forgotten = if inode.is_from_before { count > known } else { left == 0 };
        // Who holds that lock opens or closes it, and comes here when it is closed.
        let open = inode.opens.try_lock().is_none_or(|opens| opens.handles > 0);
        if forgotten && !open {
            table.remove(&id);
            self.dirs.invalidate(&id);
        }
    }

    pub fn cached_dir(&self, id: NodeId) -> Option<Dir> {
        self.dirs.get(&id)
    }

    pub fn cache_dir(&self, id: NodeId, dir: &Dir) {
        self.dirs.insert(id, dir.clone());
    }

    pub fn drop_dir(&self, id: NodeId) {
        self.dirs.invalidate(&id);
    }

    pub fn writers(&self) -> usize {
        let nodes: Vec<_> = self.table.lock().values().cloned().collect();
        nodes.iter().filter(|i| i.opens.lock().writers > 0).count()
    }
}
