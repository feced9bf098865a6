//! Random operations: what is read before the commit, after it, after a death of the daemon, and
//! what a simple model says, is all the same.

use super::*;
use std::collections::BTreeMap;
use std::os::unix::ffi::OsStrExt;

type Names = BTreeMap<(NodeId, Vec<u8>), NodeId>;

/// Answers of the catalog to everything that can be asked by the file system.
#[derive(Debug, PartialEq)]
struct Answers {
    rows: Vec<Option<NodeRow>>,
    looks: Vec<Option<NodeId>>,
    names: Vec<Option<(NodeId, Vec<u8>)>>,
    released: Vec<(NodeId, u64, Vec<u8>, NodeRow)>,
}

struct World {
    place: Place,
    catalog: Arc<Catalog>,
    random: fastrand::Rng,
    names: Names,
    dirs: Vec<NodeId>,
    ids: Vec<NodeId>,
    now: i64,
}

impl World {
    fn new(seed: u64) -> World {
        let place = Place::new();
        let catalog = place.open();
        let mut dirs = vec![NodeId::ROOT];
        for name in ["d1", "d2"] {
            dirs.push(make_dir(&catalog, NodeId::ROOT, name));
        }
        let random = fastrand::Rng::with_seed(seed);
        World { place, catalog, random, names: Names::new(), dirs, ids: Vec::new(), now: 10 }
    }

    fn place_of(&mut self) -> Option<((NodeId, Vec<u8>), NodeId)> {
        let all: Vec<_> = self.names.iter().map(|(k, v)| (k.clone(), *v)).collect();
        self.random.choice(all)
    }

    fn new_name(&mut self) -> (NodeId, Vec<u8>) {
        let dir = self.dirs[self.random.usize(..self.dirs.len())];
        (dir, format!("f{}.wav", self.random.u8(..24)).into_bytes())
    }

    fn last(&self, id: NodeId) -> bool {
        self.names.values().filter(|v| **v == id).count() == 1
    }

    fn log(&mut self, op: Op) {
        if self.random.bool() {
            self.catalog.record(op);
        } else {
            let unique = self.random.u64(..);
            if self.random.u8(..4) == 0 {
                self.catalog.intend(unique, op.clone()).expect("room").failed();
            }
            self.catalog.intend(unique, op).expect("room").done();
        }
    }

    /// One operation as the file system would log it.
    fn operate(&mut self) {
        self.now += 1;
        let now = self.now;
        match self.random.u8(..12) {
            0..=2 => self.create(),
            3 => self.link(),
            4 => self.unlink(),
            5..=6 => self.rename(),
            7 => self.exchange(),
            other => {
                let Some((_, id)) = self.place_of() else { return };
                let row = self.catalog.node(id).expect("usable").expect("known");
                let op = match (other, row.hashed) {
                    (8, _) => Op::Opened { id },
                    (9, Some(stamp)) => {
                        Op::Closed { id, attr: row.attr.clone(), version: stamp, at: at(now) }
                    }
                    (10, stamp) => {
                        let attr = Attr { mode: self.random.u32(..0o7777), ..row.attr };
                        let version = stamp.map(|s| LowerVersion { ctime: at(now), ..s });
                        Op::SetAttr { id, attr, version, before: stamp }
                    }
                    (11, _) => Op::SetXattrs { id, xattrs: vec![(vec![now as u8], vec![0, 255])] },
                    _ => closed(id, self.random.u64(..3) * 10, now),
                };
                self.log(op);
            }
        }
    }

    fn create(&mut self) {
        let (parent, name) = self.new_name();
        if self.names.contains_key(&(parent, name.clone())) {
            return;
        }
        let (id, now) = (self.catalog.alloc(), self.now);
        let (attr, version, adopted) = (attr(5, now), version(5, now), self.random.bool());
        self.log(Op::Create { id, parent, name: name.clone(), attr, version, adopted });
        self.names.insert((parent, name), id);
        self.ids.push(id);
    }

    fn link(&mut self) {
        let (Some((_, id)), (parent, name)) = (self.place_of(), self.new_name()) else { return };
        if !self.names.contains_key(&(parent, name.clone())) {
            self.log(Op::Link { id, parent, name: name.clone() });
            self.names.insert((parent, name), id);
        }
    }

    fn unlink(&mut self) {
        let Some(((parent, name), id)) = self.place_of() else { return };
        let last = self.last(id);
        self.log(Op::Unlink {
            fate: crate::catalog::Fate::Kept,
            parent,
            name: name.clone(),
            id,
            last,
            at: at(self.now),
        });
        self.names.remove(&(parent, name));
    }

    fn rename(&mut self) {
        let (Some((from, id)), to) = (self.place_of(), self.new_name()) else { return };
        let there = self.names.get(&to).copied();
        if there == Some(id) {
            return;
        }
        let replaced = there.map(|node| (node, self.last(node)));
        self.log(Op::Rename {
            fate: crate::catalog::Fate::Kept,
            id,
            parent: from.0,
            name: from.1.clone(),
            new_parent: to.0,
            new_name: to.1.clone(),
            replaced,
            at: at(self.now),
        });
        self.names.remove(&from);
        self.names.insert(to, id);
    }

    fn exchange(&mut self) {
        let (Some((a, x)), Some((b, y))) = (self.place_of(), self.place_of()) else { return };
        if x == y {
            return;
        }
        self.log(Op::Exchange {
            a: (x, a.0, a.1.clone()),
            b: (y, b.0, b.1.clone()),
            at: Timestamp(0),
        });
        self.names.insert(a, y);
        self.names.insert(b, x);
    }

    /// One step of the engine on some recording.
    fn engine(&mut self) {
        let Some((_, id)) = self.place_of() else { return };
        self.now += 1;
        let now = self.now;
        let row = node(&self.catalog, id);
        let catalog = &self.catalog;
        match row.state {
            State::Closed if row.attr.size > 0 => {
                let content = format!("{}", self.random.u8(..3));
                let outcome = catalog.hashed(id, digest(&content, 44, now)).expect("usable");
                let HashOutcome::New(generation) = outcome else { return };
                let keys = [format!("{id}~{}", generation.0)];
                let object = catalog.assign_key(id, generation, "a", &keys).expect("a key");
                if self.random.u8(..5) == 0 {
                    return catalog.abandon_key(object.id).expect("usable");
                }
                catalog.verified(object.id, at(now)).expect("usable");
                let stamp = version(44, now);
                let all = ["a".to_owned()];
                assert!(catalog.archived(id, generation, stamp, &all, at(now)).expect("usable"));
            }
            State::Archived if self.random.bool() => release(catalog, id),
            State::Archived => catalog.missing_below(id).expect("usable"),
            State::Released if self.random.bool() => {
                assert!(catalog.local_again(id, version(44, now), at(now)).expect("usable"));
            }
            State::Released => {
                catalog.changed_below(id, attr(44, now), version(44, now)).expect("usable");
            }
            _ => {}
        }
    }

    fn answers(&self) -> Answers {
        let catalog = &self.catalog;
        let mut looks = Vec::new();
        let mut released = Vec::new();
        for dir in &self.dirs {
            for i in 0..24 {
                let found = catalog.lookup(*dir, format!("f{i}.wav").as_bytes()).expect("usable");
                looks.push(found.map(|r| r.id));
            }
            let mut cursor = 0;
            loop {
                let page = catalog.list_released(*dir, cursor, u64::MAX >> 1, 3).expect("usable");
                let Some(last) = page.last() else { break };
                cursor = last.cursor;
                let rows = page.into_iter().filter(|r| r.row.state == State::Released);
                released.extend(rows.map(|r| (*dir, r.cursor, r.name, r.row)));
            }
        }
        let placed = catalog.nodes_at(&self.ids).expect("usable");
        for (id, placed) in self.ids.iter().zip(placed) {
            let name = catalog.name_of(*id).expect("usable");
            let named = name.as_ref().map(|_| catalog.node(*id).expect("usable").expect("known"));
            assert_eq!(placed.as_ref().map(|(row, _)| row), named.as_ref(), "{id:?}");
            let last = placed.as_ref().and_then(|(_, path)| path.file_name());
            assert_eq!(last.map(|n| n.as_bytes()), name.as_ref().map(|(_, n)| &n[..]), "{id:?}");
        }
        Answers {
            rows: self.ids.iter().map(|id| catalog.node(*id).expect("usable")).collect(),
            looks,
            names: self.ids.iter().map(|id| catalog.name_of(*id).expect("usable")).collect(),
            released,
        }
    }

    /// The names are those of the model, and every released recording is listed.
    fn check_model(&self, answers: &Answers) {
        let mut looks = answers.looks.iter();
        let mut released = Vec::new();
        for dir in &self.dirs {
            for i in 0..24 {
                let key = (*dir, format!("f{i}.wav").into_bytes());
                let wanted = self.names.get(&key).copied();
                assert_eq!(looks.next().copied().flatten(), wanted, "{key:?}");
                if wanted.is_some_and(|id| state(&self.catalog, id) == State::Released) {
                    released.push(key);
                }
            }
        }
        let mut listed: Vec<_> =
            answers.released.iter().map(|(d, _, n, _)| (*d, n.clone())).collect();
        listed.sort();
        released.sort();
        assert_eq!(listed, released);
    }

    fn reopen(self) -> World {
        let World { place, catalog, random, names, dirs, ids, now } = self;
        drop(catalog);
        let catalog = place.open();
        World { place, catalog, random, names, dirs, ids, now }
    }
}

fn play(seed: u64) {
    let mut world = World::new(seed);
    for _ in 0..12 {
        world.catalog.drain().expect("usable");
        let lock = rusqlite::Connection::open(world.place.database()).expect("opens");
        lock.busy_timeout(Duration::from_secs(5)).expect("set");
        lock.execute_batch("BEGIN IMMEDIATE").expect("locks");
        for _ in 0..40 {
            world.operate();
        }
        let before = world.answers();
        world.check_model(&before);
        drop(lock);
        if world.random.bool() {
            world = world.reopen();
            assert_eq!(world.answers(), before, "seed {seed}: after a death");
        }
        world.catalog.drain().expect("usable");
        assert_eq!(world.answers(), before, "seed {seed}: after the commit");
        check_rules(&world.place.database());
        for _ in 0..25 {
            world.engine();
        }
        for _ in 0..10 {
            world.operate();
            world.engine();
        }
        world.check_model(&world.answers());
    }
    world.catalog.close();
    check_rules(&world.place.database());
}

#[test]
fn reads_agree_before_and_after_the_commit() {
    for seed in 1..=8 {
        play(seed);
    }
}
