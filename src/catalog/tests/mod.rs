//! Tests of the catalog as a whole, each on directories of its own.

mod crash;
mod failures;
mod holds;
mod lifecycle;
mod model;
mod objects;
mod paths;
mod plans;
mod speed;
mod trash;
mod unsynced;

use super::{Catalog, Digest, HashOutcome, NodeRow, Op, Options, RULES};
use crate::clock::{ManualClock, Timestamp};
use crate::recording::{
    Attr, ChunkHashes, Evidence, Generation, Kind, LowerVersion, NodeId, ReleasePermit, Sha256,
    State,
};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tempfile::TempDir;

pub const START: i64 = 1_795_227_886;

/// Directories of one catalog, which outlive it.
pub struct Place {
    dir: TempDir,
    pub clock: Arc<ManualClock>,
}

impl Place {
    pub fn new() -> Place {
        let clock = ManualClock::at(Timestamp::from_parts(START, 0));
        Place { dir: TempDir::new().expect("a temporary directory"), clock }
    }

    pub fn options(&self) -> Options {
        Options {
            state_dir: self.dir.path().join("state"),
            runtime_dir: self.dir.path().join("run"),
            clock: self.clock.clone(),
            node: "pbx1".to_owned(),
        }
    }

    pub fn open(&self) -> Arc<Catalog> {
        Catalog::open(self.options()).expect("the catalog opens")
    }

    pub fn database(&self) -> PathBuf {
        self.options().state_dir.join("catalog.db")
    }

    pub fn log_files(&self) -> Vec<PathBuf> {
        let mut files: Vec<PathBuf> = std::fs::read_dir(self.options().runtime_dir)
            .expect("the runtime directory")
            .map(|e| e.expect("an entry").path())
            .collect();
        files.sort_by_key(|p| p.extension().and_then(|e| e.to_str()?.parse::<u64>().ok()));
        files
    }
}

pub fn at(secs: i64) -> Timestamp {
    Timestamp::from_parts(START + secs, 0)
}

pub fn attr(size: u64, changed: i64) -> Attr {
    Attr {
        kind: Kind::File,
        mode: 0o644,
        uid: 100,
        gid: 101,
        size,
        mtime: at(changed),
        atime: at(changed),
        ctime: at(changed),
        nlink: 1,
        rdev: 0,
        blocks: size.div_ceil(512),
        special: 0,
    }
}

pub fn version(size: u64, changed: i64) -> LowerVersion {
    LowerVersion { ino: 77, size, mtime: at(changed), ctime: at(changed) }
}

pub fn create(id: NodeId, name: &str, size: u64, changed: i64) -> Op {
    Op::Create {
        id,
        parent: NodeId::ROOT,
        name: name.as_bytes().to_vec(),
        attr: attr(size, changed),
        version: version(size, changed),
        adopted: false,
    }
}

pub fn closed(id: NodeId, size: u64, changed: i64) -> Op {
    let (attr, version) = (attr(size, changed), version(size, changed));
    Op::Closed { id, attr, version, at: at(changed) }
}

pub fn digest(content: &str, size: u64, changed: i64) -> Digest {
    let sha256 = Sha256::of(content.as_bytes());
    Digest {
        sha256,
        chunks: ChunkHashes(vec![sha256]),
        version: version(size, changed),
        attr: attr(size, changed),
    }
}

pub fn make_dir(catalog: &Catalog, parent: NodeId, name: &str) -> NodeId {
    let id = catalog.alloc();
    let attr = Attr { kind: Kind::Dir, mode: 0o755, ..attr(0, 0) };
    let name = name.as_bytes().to_vec();
    catalog.record(Op::Create { id, parent, name, attr, version: version(0, 0), adopted: false });
    id
}

/// A recording, closed at `changed`.
pub fn record(catalog: &Catalog, name: &str, size: u64, changed: i64) -> NodeId {
    let id = catalog.alloc();
    catalog.record(create(id, name, 0, changed));
    catalog.record(closed(id, size, changed));
    id
}

/// Takes a closed recording to archived, in target `a`.
pub fn archive(catalog: &Catalog, id: NodeId, content: &str, size: u64, changed: i64) {
    let outcome = catalog.hashed(id, digest(content, size, changed)).expect("usable");
    let HashOutcome::New(generation) = outcome else { panic!("{outcome:?}") };
    let key = format!("k/{id}/{}", generation.0);
    let object = catalog.assign_key(id, generation, "a", &[key]).expect("a key");
    catalog.verified(object.id, at(changed + 400)).expect("usable");
    let done = catalog.archived(
        id,
        generation,
        version(size, changed),
        &["a".to_owned()],
        at(changed + 400),
    );
    assert!(done.expect("usable"));
}

pub fn permit(row: &NodeRow) -> ReleasePermit {
    let targets = ["a".to_owned()];
    ReleasePermit::grant(&Evidence {
        node: row.id,
        state: row.state,
        generation: row.generation,
        sha256: row.sha256,
        hashed: row.hashed,
        present: row.hashed.expect("hashed"),
        required: &targets,
        verified: &targets,
        suspect: false,
        forbidden: None,
    })
    .expect("a permit")
}

pub fn release(catalog: &Catalog, id: NodeId) {
    let row = node(catalog, id);
    assert!(catalog.released(&permit(&row), row.attr, Vec::new()).expect("usable"));
}

pub fn node(catalog: &Catalog, id: NodeId) -> NodeRow {
    catalog.node(id).expect("usable").expect("known")
}

pub fn look(catalog: &Catalog, name: &str) -> Option<NodeRow> {
    catalog.lookup(NodeId::ROOT, name.as_bytes()).expect("usable")
}

/// Every rule of docs/CATALOG.md holds.
pub fn check_rules(database: &Path) {
    let conn = super::schema::open_reader(database).expect("readable");
    for (number, name, sql) in RULES {
        let broken = conn.prepare(sql).expect(name).exists([]).expect(name);
        assert!(!broken, "rule {number} is broken: {name}");
    }
}

/// Waits for something that the catalog thread does in its own time.
pub fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let end = Instant::now() + Duration::from_secs(20);
    while !holds() {
        assert!(Instant::now() < end, "{what}: not within 20 s");
        std::thread::sleep(Duration::from_millis(5));
    }
}

pub fn state(catalog: &Catalog, id: NodeId) -> State {
    node(catalog, id).state
}
