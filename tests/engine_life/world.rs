//! A lower directory, a catalog, targets in memory, an engine, and a clock that is moved by hand.
//! `World` plays the part of the mount: it makes files below and tells the catalog.

use spoolfs::audit::Audit;
use spoolfs::catalog::{self, Catalog, CatalogError, NodeRow, Op};
use spoolfs::clock::{Clock, ManualClock, SystemClock};
use spoolfs::codec::seal::Identities;
use spoolfs::content::{self, Content};
use spoolfs::engine::{
    CallSource, Command, Engine, Options, Outcome, Parts, Progress, Snapshots, Standing, Summary,
};
use spoolfs::fsck;
use spoolfs::lower::Lower;
use spoolfs::policy::{Compress, Marks, Rules, SealTo};
use spoolfs::rebuild;
use spoolfs::recording::{Kind, NodeId, State};
use spoolfs::stitch::{Kept, StitchError};
use spoolfs::store::Store;
use spoolfs::store::memory::MemoryStore;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tempfile::TempDir;
use tokio::runtime::Runtime;

/// Longest that a test waits for what must happen.
const PATIENCE: Duration = Duration::from_secs(120);

pub struct World {
    pub clock: Arc<ManualClock>,
    pub stores: Vec<Arc<MemoryStore>>,
    /// Targets of another kind, after those in memory.
    pub others: Vec<Arc<dyn Store>>,
    pub rules: Rules,
    pub required: Vec<String>,
    pub archive_name: String,
    pub node: String,
    pub journal_interval: Duration,
    pub scrub_every: Option<Duration>,
    pub reserve: u64,
    pub read_timeout: Duration,
    pub repair_headers: bool,
    pub compress: Option<Compress>,
    pub seal_to: Option<SealTo>,
    pub identities: Identities,
    pub snapshots: Option<Snapshots>,
    /// Call records.
    pub calls: Option<Arc<dyn CallSource>>,
    pub audit: Arc<Audit>,
    /// Which joins are stored.
    pub joins: Result<Option<Arc<Kept>>, StitchError>,
    /// A rebuild passes over what no key opens.
    pub leave_sealed: bool,
    /// A rebuild passes snapshots over.
    pub whole_journal: bool,
    pub runtime: Runtime,
    pub dir: TempDir,
    state: TempDir,
    running: Option<Running>,
}

pub struct Running {
    pub catalog: Arc<Catalog>,
    pub lower: Arc<Lower>,
    pub engine: Option<Engine>,
}

pub fn rules() -> Rules {
    Rules {
        archive_after: Some(Duration::from_secs(300)),
        keep_local: Some(Duration::from_secs(3600)),
        adopt_keep_local: Some(Duration::from_secs(7200)),
        // However full the disk is that the tests run on.
        marks: Marks { high: 100, low: 100 },
        ..Rules::default()
    }
}

impl World {
    /// One target, named `one`, that is required; the engine runs.
    pub fn new() -> World {
        let mut world = World::with(&["one"]);
        world.start();
        world
    }

    /// Nothing runs yet but the catalog.
    pub fn with(targets: &[&str]) -> World {
        // Ahead of the kernel's clock, so that every stamp below is old enough to be trusted.
        let clock = ManualClock::at(SystemClock.now().plus(Duration::from_secs(3600)));
        let mut world = World {
            clock,
            stores: targets.iter().map(|n| Arc::new(MemoryStore::new(n, "p/"))).collect(),
            others: Vec::new(),
            rules: rules(),
            required: targets.iter().map(|n| (*n).to_owned()).collect(),
            archive_name: "default".into(),
            node: "pbx".into(),
            journal_interval: Duration::from_secs(60),
            scrub_every: None,
            reserve: 0,
            read_timeout: content::Options::default().read_timeout,
            repair_headers: false,
            compress: None,
            seal_to: None,
            identities: Identities::default(),
            snapshots: None,
            calls: None,
            audit: Audit::off(),
            joins: Ok(None),
            leave_sealed: false,
            whole_journal: false,
            runtime: tokio::runtime::Builder::new_multi_thread()
                .worker_threads(2)
                .enable_all()
                .build()
                .unwrap(),
            dir: tempfile::tempdir().unwrap(),
            state: tempfile::tempdir().unwrap(),
            running: None,
        };
        world.open();
        world
    }

    /// Opens the catalog and the lower directory.
    pub fn open(&mut self) {
        let options = self.catalog_options();
        // A world that "died" a moment ago may still have a thread that holds the lock.
        let until = Instant::now() + PATIENCE;
        let catalog = loop {
            match Catalog::open(options.clone()) {
                Err(CatalogError::Locked { .. }) if Instant::now() < until => {
                    std::thread::yield_now();
                }
                opened => break opened.unwrap(),
            }
        };
        let lower = Lower::open(self.dir.path()).unwrap();
        self.running = Some(Running { catalog, lower, engine: None });
    }

    pub fn start(&mut self) {
        let running = self.running.as_ref().unwrap();
        let memory = self.stores.iter().map(|s| s.clone() as Arc<dyn Store>);
        let stores: Vec<Arc<dyn Store>> = memory.chain(self.others.iter().cloned()).collect();
        let content = Content::new(
            content::Options {
                identities: self.identities.clone(),
                read_timeout: self.read_timeout,
                ..Default::default()
            },
            running.catalog.clone(),
            stores.clone(),
            self.runtime.handle().clone(),
            self.clock.clone(),
        );
        let options = Options {
            rules: Rules {
                compress: self.compress,
                seal_to: self.seal_to.clone(),
                ..self.rules.clone()
            },
            required: self.required.clone(),
            archive_name: self.archive_name.clone(),
            journal_interval: self.journal_interval,
            uploads: 4,
            scrub_every: self.scrub_every,
            reserve: self.reserve,
            repair_headers: self.repair_headers,
            identities: self.identities.clone(),
            snapshots: self.snapshots,
        };
        let parts = Parts {
            catalog: running.catalog.clone(),
            lower: running.lower.clone(),
            content,
            stores,
            runtime: self.runtime.handle().clone(),
            clock: self.clock.clone(),
            audit: self.audit.clone(),
            calls: self.calls.clone(),
            joins: self.joins.clone(),
        };
        let engine = Engine::start(options, parts).unwrap();
        self.running.as_mut().unwrap().engine = Some(engine);
    }

    /// The engine goes, and the catalog without a checkpoint, as if the daemon had died.
    pub fn die(&mut self) {
        self.running = None;
    }

    /// The catalog's directory is gone, its log too.
    pub fn lose_catalog(&mut self) {
        assert!(self.running.is_none());
        std::fs::remove_dir_all(self.state.path().join("state")).unwrap();
        std::fs::remove_dir_all(self.state.path().join("run")).unwrap();
    }

    /// Checks what is there after the daemon died, with every byte read.
    #[track_caller]
    pub fn fsck(&mut self, repair: bool) -> fsck::Report {
        self.die();
        self.try_fsck(repair).unwrap()
    }

    /// The same, whatever runs.
    pub fn try_fsck(&self, repair: bool) -> fsck::Result<fsck::Report> {
        let stores = self.stores.iter().map(|s| s.clone() as Arc<dyn Store>);
        let required = |s: &Arc<dyn Store>| self.required.iter().any(|name| name == s.name());
        let options = fsck::Options {
            catalog: self.catalog_options(),
            lower: self.dir.path().to_owned(),
            targets: stores.map(|s| (s.clone(), required(&s))).collect(),
            by_rule: self.rules.name_targets(),
            identities: self.identities.clone(),
            deep: true,
            repair,
        };
        self.runtime.block_on(fsck::run(&options))
    }

    fn catalog_options(&self) -> catalog::Options {
        catalog::Options {
            state_dir: self.state.path().join("state"),
            runtime_dir: self.state.path().join("run"),
            clock: self.clock.clone(),
            node: self.node.clone(),
        }
    }

    /// The database is gone, and nothing else.
    pub fn lose_database(&mut self) {
        assert!(self.running.is_none());
        for name in ["catalog.db", "catalog.db-wal", "catalog.db-shm"] {
            let _may_be_missing = std::fs::remove_file(self.state.path().join("state").join(name));
        }
    }

    /// Makes the catalog anew, as `spoolfs rebuild` does.
    pub fn rebuild(&self, node: Option<&str>, from: &[&str]) -> rebuild::Result<rebuild::Report> {
        assert!(self.running.is_none());
        let options = rebuild::Options {
            state_dir: self.state.path().join("state"),
            runtime_dir: self.state.path().join("run"),
            archive_name: self.archive_name.clone(),
            node: node.map(str::to_owned),
            from: from.iter().map(|n| (*n).to_owned()).collect(),
            whole_journal: self.whole_journal,
            identities: self.identities.clone(),
            leave_sealed: self.leave_sealed,
        };
        let parts = rebuild::Parts {
            lower: self.dir.path().to_owned(),
            stores: self.stores.iter().map(|s| s.clone() as Arc<dyn Store>).collect(),
            runtime: self.runtime.handle().clone(),
            clock: self.clock.clone(),
        };
        rebuild::run(&options, &parts, &|words| eprintln!("{words}"))
    }

    /// Every journal row is in every target.
    pub fn until_told(&self) {
        self.catalog().drain().unwrap();
        let told = || {
            let names = self.stores.iter().map(|s| s.name().to_owned());
            names.into_iter().all(|n| self.catalog().journal_pending(&n, 1).unwrap().is_empty())
        };
        self.pass(61);
        self.until("the journal is shipped", told);
    }

    /// Path and row of everything in the catalog that has a name.
    pub fn tree(&self) -> BTreeMap<String, NodeRow> {
        let mut found = BTreeMap::new();
        let mut stack = vec![(String::new(), NodeId::ROOT)];
        while let Some((dir, id)) = stack.pop() {
            let local = self.catalog().children(id, b"", 100_000).unwrap();
            let released = self.catalog().list_released(id, 0, u64::MAX, 100_000).unwrap();
            let released = released.into_iter().map(|l| (l.name, l.row));
            for (name, row) in local.into_iter().chain(released) {
                let path = format!("{dir}{}", String::from_utf8(name).unwrap());
                if row.attr.kind == Kind::Dir {
                    stack.push((format!("{path}/"), row.id));
                }
                found.insert(path, row);
            }
        }
        found
    }

    /// The database of the catalog.
    pub fn database(&self) -> PathBuf {
        self.state.path().join("state/catalog.db")
    }

    pub fn restart(&mut self) {
        self.die();
        self.open();
        self.start();
    }

    /// Starts again with another `keep_local`.
    pub fn start_again_with_keep(&mut self, keep: Duration) {
        self.rules.keep_local = Some(keep);
        self.restart();
    }

    pub fn catalog(&self) -> &Catalog {
        &self.running.as_ref().unwrap().catalog
    }

    pub fn lower(&self) -> &Lower {
        &self.running.as_ref().unwrap().lower
    }

    pub fn engine(&self) -> &Engine {
        self.running.as_ref().unwrap().engine.as_ref().unwrap()
    }

    pub fn store(&self) -> &MemoryStore {
        &self.stores[0]
    }

    pub fn below(&self, path: &str) -> PathBuf {
        self.dir.path().join(path)
    }

    pub fn now(&self) -> spoolfs::clock::Timestamp {
        self.clock.now()
    }

    pub fn pass(&self, secs: u64) {
        self.clock.advance(Duration::from_secs(secs));
    }

    /// Waits until something holds, and keeps the engine from sleeping over it.
    #[track_caller]
    pub fn until(&self, what: &str, holds: impl Fn() -> bool) {
        let begin = Instant::now();
        while !holds() {
            assert!(
                begin.elapsed() < PATIENCE,
                "{what}: not within {PATIENCE:?}; {:?}",
                self.catalog().last_trouble()
            );
            // What was put off for a moment by a clock that stands still waits for ever.
            if begin.elapsed() > Duration::from_secs(2) {
                self.clock.advance(Duration::from_millis(5));
            }
            self.engine().nudge();
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Lets the engine look several times at what it must leave alone.
    pub fn idle(&self) {
        for _ in 0..8 {
            self.engine().nudge();
            std::thread::sleep(Duration::from_millis(60));
        }
    }

    pub fn row(&self, id: NodeId) -> NodeRow {
        self.catalog().node(id).unwrap().unwrap()
    }

    pub fn state(&self, id: NodeId) -> State {
        self.row(id).state
    }

    #[track_caller]
    pub fn until_state(&self, id: NodeId, state: State) {
        self.until(&format!("{id} is {state}"), || self.state(id) == state);
    }

    /// Lets it settle and waits for its hash.
    #[track_caller]
    pub fn until_hashed(&self, id: NodeId) {
        self.pass(3);
        // Files have the real clock's times, and what seems young by them waits.
        let changed = self.row(id).attr.ctime;
        let near = |now: spoolfs::clock::Timestamp| {
            changed.age_at(now).max(now.age_at(changed)) < Duration::from_secs(3)
        };
        while near(self.now()) {
            self.pass(3);
        }
        self.until("hashed", || self.row(id).hashed.is_some());
    }

    pub fn until_reconciled(&self) {
        self.until("reconciled", || self.engine().status().reconciled);
    }

    pub fn until_standing(&self, standing: Standing) {
        self.until(standing.word(), || self.engine().status().targets[0].standing == standing);
    }

    fn place(&self, path: &str) -> (NodeId, Vec<u8>) {
        let path = Path::new(path);
        let mut parent = NodeId::ROOT;
        for dir in path.parent().unwrap().components() {
            let name = dir.as_os_str().as_bytes();
            parent = self.catalog().lookup(parent, name).unwrap().unwrap().id;
        }
        (parent, path.file_name().unwrap().as_bytes().to_vec())
    }

    pub fn find(&self, path: &str) -> Option<NodeRow> {
        let (parent, name) = self.place(path);
        self.catalog().lookup(parent, &name).unwrap()
    }

    /// As the mount does it.
    fn create(&self, path: &str, make: impl FnOnce(&Path)) -> NodeId {
        let (parent, name) = self.place(path);
        let _names = self.lower().names_change(parent, parent);
        make(&self.below(path));
        let id = self.catalog().alloc();
        let stat = self.lower().identify(Path::new(path), id).unwrap();
        let (attr, version) = (stat.attr, stat.version);
        self.catalog().record(Op::Create { id, parent, name, attr, version, adopted: false });
        id
    }

    pub fn mkdir(&self, path: &str) -> NodeId {
        self.create(path, |below| std::fs::create_dir(below).unwrap())
    }

    /// A recording made and closed through the mount.
    pub fn record(&self, path: &str, bytes: &[u8]) -> NodeId {
        let id = self.create(path, |below| std::fs::write(below, bytes).unwrap());
        self.close(path, id);
        id
    }

    /// A recording made through the mount, still open.
    pub fn begin(&self, path: &str, bytes: &[u8]) -> (NodeId, File) {
        let mut writer = None;
        let id = self.create(path, |below| {
            let mut file = File::create(below).unwrap();
            file.write_all(bytes).unwrap();
            writer = Some(file);
        });
        (id, writer.unwrap())
    }

    /// A descriptor that the daemon knows nothing of.
    pub fn writer(&self, path: &str) -> File {
        std::fs::OpenOptions::new().append(true).open(self.below(path)).unwrap()
    }

    /// The last writer of a file is gone.
    pub fn close(&self, path: &str, id: NodeId) {
        let stat = self.lower().stat(Path::new(path)).unwrap();
        let (attr, version, at) = (stat.attr, stat.version, self.clock.now());
        self.catalog().record(Op::Closed { id, attr, version, at });
    }

    /// Opened, overwritten and closed through the mount.
    pub fn overwrite(&self, path: &str, id: NodeId, bytes: &[u8]) {
        self.catalog().record(Op::Opened { id });
        std::fs::write(self.below(path), bytes).unwrap();
        self.close(path, id);
    }

    /// A recording that is archived.
    pub fn archived(&self, path: &str, bytes: &[u8]) -> NodeId {
        let id = self.record(path, bytes);
        self.pass(400);
        self.until_state(id, State::Archived);
        id
    }

    /// A recording that is released.
    pub fn released(&self, path: &str, bytes: &[u8]) -> NodeId {
        let id = self.archived(path, bytes);
        self.pass(3700);
        self.until_state(id, State::Released);
        self.until("the local copy is gone", || !self.below(path).exists());
        id
    }

    pub fn run(&self, command: Command, path: &str) -> (Summary, Vec<(PathBuf, Outcome)>) {
        let told = Mutex::new(Vec::new());
        let tell = |p: &Progress| told.lock().unwrap().push((p.path.clone(), p.outcome.clone()));
        let summary = self.engine().run(command, &[path.into()], &tell).unwrap();
        let mut told = told.into_inner().unwrap();
        told.sort_by(|a, b| a.0.cmp(&b.0));
        (summary, told)
    }

    /// What became of the only file of a command.
    #[track_caller]
    pub fn run_one(&self, command: Command, path: &str) -> Outcome {
        let (_, told) = self.run(command, path);
        assert_eq!(told.len(), 1, "{told:?}");
        told[0].1.clone()
    }

    /// Keys of recordings in the first target.
    pub fn keys(&self) -> Vec<String> {
        let own = |k: &String| !k.starts_with("p/.spoolfs/");
        self.store().keys().into_iter().filter(own).collect()
    }

    /// The object under a key.
    pub fn object(&self, key: &str) -> Vec<u8> {
        self.store().bytes(key).unwrap().to_vec()
    }

    pub fn explain(&self, path: &str) -> String {
        self.engine().explain(Path::new(path)).unwrap().join(" ")
    }
}

/// Something like audio: `n` different bytes.
pub fn audio(n: usize, seed: u8) -> Vec<u8> {
    (0..n).map(|i| (i as u8).wrapping_mul(31).wrapping_add(seed) ^ (i >> 8) as u8).collect()
}
