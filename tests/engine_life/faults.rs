//! A target that fails or lies at the Nth call, for every N until a run comes to its end without
//! hitting it. Whatever happens: nothing is lost, nothing comes back wrong, nothing is released
//! without a proved object, and all is archived and released in the end.

use crate::support::faulty_proxy::{Proxy, Spoil};
use crate::support::faulty_store::{FaultyStore, Lacks, Lie, When};
use crate::support::seaweedfs::SeaweedFs;
use crate::world::{World, audio, rules};
use spoolfs::catalog::{ObjectState, RULES};
use spoolfs::engine::{Command, Outcome};
use spoolfs::policy::Rules;
use spoolfs::recording::{NodeId, Sha256, State};
use spoolfs::store::memory::MemoryStore;
use spoolfs::store::{Store, TargetOptions, open};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How long released recordings stay local here; far more than all waits for a target together.
const KEEP: u64 = 10_000_000;
/// How far the clock goes between two looks: past most waits between two tries.
const STEP: u64 = 40;
const PATIENCE: Duration = Duration::from_secs(120);

/// One life of a few recordings in front of such a target.
struct Life {
    world: World,
    /// The same target without its faults.
    honest: Arc<dyn Store>,
    /// Name, number, and what it must hold.
    recordings: Vec<(&'static str, NodeId, Vec<u8>)>,
}

impl Life {
    fn new(honest: Arc<dyn Store>, faulty: Arc<dyn Store>) -> Life {
        let mut world = World::with(&[]);
        world.others = vec![faulty];
        world.required = vec!["one".into()];
        world.rules = Rules { keep_local: Some(Duration::from_secs(KEEP)), ..rules() };
        world.start();
        Life { world, honest, recordings: Vec::new() }
    }

    /// What the target has of a recording: the object that the catalog says is proved.
    fn stored(&self, id: NodeId) -> Option<Vec<u8>> {
        let generation = self.world.row(id).generation;
        let objects = self.world.catalog().objects(id, Some(generation)).unwrap();
        let mut proved = objects.into_iter().filter(|o| o.state == ObjectState::Verified);
        let object = proved.next()?;
        assert_eq!(proved.next(), None, "one object for one target");
        let read = self.honest.get(&object.key, 0..object.size + 1);
        self.world.runtime.block_on(read).ok().map(|bytes| bytes.to_vec())
    }

    /// Every recording is in its place, or in the target. Does not open any: a release leaves alone
    /// what somebody reads.
    fn nothing_is_lost(&self) {
        for (name, id, bytes) in &self.recordings {
            let local = std::fs::metadata(self.world.below(name));
            if !local.is_ok_and(|local| local.len() == bytes.len() as u64) {
                let stored = self.stored(*id);
                assert!(stored.as_ref() == Some(bytes), "{name} is neither here nor there");
            }
        }
    }

    /// Lets time pass until something holds.
    fn until(&self, what: &str, holds: impl Fn() -> bool) {
        let begin = Instant::now();
        while !holds() {
            self.nothing_is_lost();
            if begin.elapsed() > PATIENCE {
                let explained: Vec<_> =
                    self.recordings.iter().map(|(name, ..)| self.world.explain(name)).collect();
                let targets = self.world.engine().status().targets;
                panic!("{what}: not within {PATIENCE:?}; {targets:?} {explained:#?}");
            }
            self.world.pass(STEP);
            self.world.engine().nudge();
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    fn all_are(&self, state: State) -> bool {
        self.recordings.iter().all(|(_, id, _)| self.world.state(*id) == state)
    }

    fn live(&mut self) {
        let first =
            [("a.wav", audio(5000, 1)), ("b.wav", audio(300_000, 2)), ("b.txt", audio(90, 3))];
        for (name, bytes) in first {
            let id = self.world.record(name, &bytes);
            self.recordings.push((name, id, bytes));
        }
        self.until("archived", || self.all_are(State::Archived));
        let (name, id, bytes) = &mut self.recordings[0];
        *bytes = audio(7000, 4);
        self.world.overwrite(name, *id, bytes);
        self.until("archived again", || self.all_are(State::Archived));
        self.world.pass(KEEP);
        self.until("released", || self.all_are(State::Released));
        let gone = |name: &str| !self.world.below(name).exists();
        self.until("the local copies are gone", || self.recordings.iter().all(|r| gone(r.0)));
        for name in ["a.wav", "b.wav"] {
            self.until("recalled", || self.world.run_one(Command::Recall, name) == Outcome::Done);
        }
        let pending = || self.world.catalog().journal_pending("one", 1).unwrap();
        self.until("the journal is shipped", || pending().is_empty());
    }

    fn check(mut self) {
        self.nothing_is_lost();
        for (name, id, bytes) in &self.recordings {
            assert_eq!(self.world.row(*id).sha256, Some(Sha256::of(bytes)), "{name}");
            assert!(self.stored(*id).as_ref() == Some(bytes), "{name} in the target");
            let local = std::fs::read(self.world.below(name)).ok();
            assert_eq!(local.as_ref(), (*name != "b.txt").then_some(bytes), "{name}");
        }
        let database = self.world.database();
        self.world.die();
        let conn = rusqlite::Connection::open(database).unwrap();
        for (number, name, sql) in RULES {
            let broken = conn.prepare(sql).unwrap().exists([]).unwrap();
            assert!(!broken, "rule {number} is broken: {name}");
        }
    }
}

/// One run; how many calls were false, of how many.
fn run(lacks: Lacks, lie: Lie, when: When, seed: u64) -> (u64, u64) {
    let begin = Instant::now();
    let told = std::panic::catch_unwind(|| {
        let memory: Arc<dyn Store> = Arc::new(MemoryStore::new("one", "p/"));
        let store = Arc::new(FaultyStore::new(memory.clone(), lacks, seed));
        store.set(lie, when);
        let mut life = Life::new(memory, store.clone());
        life.live();
        life.check();
        assert_eq!(store.wrong(), [""; 0]);
        store.told()
    });
    let told = told.unwrap_or_else(|_| panic!("{lie:?} {when:?} {lacks:?} seed {seed}"));
    if std::env::var_os("SPOOLFS_TEST_VERBOSE").is_some() {
        println!("{lie:?} {when:?} {lacks:?}: {told:?} {:?}", begin.elapsed());
    }
    told
}

/// How far apart the calls are that fail: 1 in the soak, more where others wait.
fn stride() -> usize {
    std::env::var("SPOOLFS_TEST_STRIDE").ok().and_then(|n| n.parse().ok()).unwrap_or(3)
}

/// Every Nth call until a run is through without it; the number of runs.
fn every_call(name: &str, lies: &[Lie], lacks: Lacks, when: impl Fn(u64) -> When) {
    let (mut runs, mut hit) = (0, 0);
    for (which, lie) in lies.iter().enumerate() {
        for n in (1 + (which % stride()) as u64..).step_by(stride()) {
            let (told, calls) = run(lacks, *lie, when(n), n);
            runs += 1;
            hit += u64::from(told > 0);
            assert!(n < 1000, "{lie:?}: still false at call {n} of {calls}");
            if told == 0 {
                break;
            }
        }
    }
    println!("{name}: {runs} runs, {hit} of them hit");
}

#[test]
fn a_target_that_fails_once_at_any_call_costs_nothing() {
    let name = "a_target_that_fails_once_at_any_call_costs_nothing";
    every_call(name, &Lie::ALL, Lacks::default(), When::Once);
}

#[test]
fn a_target_that_fails_from_any_call_on_and_comes_back_costs_nothing() {
    let name = "a_target_that_fails_from_any_call_on_and_comes_back_costs_nothing";
    let lies = [Lie::Unreachable, Lie::ReplyLost, Lie::Denied, Lie::WrongHead, Lie::NotKept];
    every_call(name, &lies, Lacks::default(), |n| When::Outage(n, 12));
}

#[test]
fn a_target_without_checksums_that_lies_once_at_any_call_costs_nothing() {
    let name = "a_target_without_checksums_that_lies_once_at_any_call_costs_nothing";
    let lies = [Lie::ReplyLost, Lie::ShortBody, Lie::WrongBytes, Lie::EmptyBody, Lie::HalfKept];
    let lacks = Lacks { checksum: true, metadata: true, conditions: false };
    every_call(name, &lies, lacks, When::Once);
}

/// Attaching to such a target takes seconds, so that only some calls are tried.
#[test]
fn a_target_that_ignores_conditions_is_never_made_to_overwrite() {
    let lacks = Lacks { checksum: true, metadata: true, conditions: true };
    for n in (12..24).step_by(stride()) {
        run(lacks, Lie::ReplyLost, When::Once(n), n);
    }
}

#[test]
fn a_target_of_which_one_call_in_ten_fails_costs_nothing() {
    for (seed, lie) in (1..).zip(Lie::ALL) {
        let (told, calls) = run(Lacks::default(), lie, When::OneIn(10), seed);
        println!("{lie:?}: {told} of {calls} calls");
    }
}

/// The same before a real server: connections that are reset, answers that are cut off, lost, late
/// or wrong.
#[test]
fn a_line_that_fails_at_any_request_costs_nothing() {
    let Some(server) = SeaweedFs::shared() else { return };
    let bucket = server.new_bucket();
    let proxy = Proxy::before(&server.endpoint());
    let (mut runs, mut hit) = (0, 0);
    for (which, spoil) in Spoil::ALL.into_iter().enumerate() {
        for first in (1 + which as u64..).step_by(stride() * 4 - 3) {
            let target = server.target("one", &format!("s3://{bucket}/{spoil:?}-{first}"));
            let honest = open(&target).unwrap();
            let endpoint = Some(proxy.endpoint());
            let faulty = open(&TargetOptions { endpoint, ..target }).unwrap();
            proxy.set(spoil, first, 2);
            let mut life = Life::new(honest, faulty);
            life.live();
            life.check();
            let (spoiled, requests) = proxy.spoiled();
            runs += 1;
            hit += u64::from(spoiled > 0);
            assert!(first < 1000, "{spoil:?}: still spoiled at {first} of {requests}");
            if spoiled == 0 {
                break;
            }
        }
    }
    println!("a line that fails: {runs} runs, {hit} of them hit");
}
