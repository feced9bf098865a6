//! Snapshots of the catalog in the targets, and rebuilds that begin with one.

use crate::rebuild::{all_objects, delete, lived_in, rename, seen, set_looks};
use crate::world::{World, audio};
use ruzstd::encoding::{CompressionLevel, compress_to_vec};
use spoolfs::catalog::ObjectState;
use spoolfs::engine::{Command, Outcome, Snapshots, Standing};
use spoolfs::rebuild::Report;
use spoolfs::recording::{NodeId, State};
use spoolfs::store::memory::{Fault, MemoryStore, Operation};
use spoolfs::store::{ObjectMeta, Store, snapshot};
use std::fs;
use std::time::Duration;

fn snapshots(store: &MemoryStore) -> Vec<String> {
    let mut keys: Vec<_> =
        store.keys().into_iter().filter(|k| k.starts_with("p/.spoolfs/snapshots/pbx/")).collect();
    keys.sort();
    keys
}

pub fn taking(world: &mut World, keep: usize) {
    world.snapshots = Some(Snapshots { every: Duration::from_secs(1), keep });
    world.restart();
}

/// Waits for a snapshot of everything told so far in each target.
pub fn until_taken(world: &World) {
    world.until_told();
    let last = || world.catalog().told_so_far().unwrap().expect("it may be told");
    let epoch = world.catalog().identity().epoch;
    let newest = |store: &MemoryStore| snapshots(store).last().and_then(|k| snapshot::parse_key(k));
    world.until("a snapshot of all", || {
        world.pass(1);
        world.stores.iter().all(|s| newest(s) == Some((epoch, last())))
    });
    // It counts when it was proved.
    let setting = |s: &MemoryStore| world.catalog().setting(&format!("snapshot.{}", s.name()));
    world.until("it is proved", || {
        world.stores.iter().all(|s| {
            let text = setting(s).unwrap().unwrap();
            serde_json::from_str::<serde_json::Value>(&text).unwrap()["given"]
                .as_array()
                .unwrap()
                .last()
                .is_some_and(|g| g["proved"] == true)
        })
    });
}

/// Rebuilds with snapshots and without, and compares what comes of it.
fn rebuilt_both_ways(world: &mut World, ids: &[NodeId]) -> [Report; 2] {
    let mut reports = Vec::new();
    let mut trees = Vec::new();
    for whole_journal in [false, true] {
        if world.database().exists() {
            world.die();
        }
        world.lose_database();
        world.whole_journal = whole_journal;
        reports.push(world.rebuild(None, &[]).unwrap());
        world.open();
        trees.push((seen(&world.tree()), all_objects(world, ids)));
        world.die();
    }
    assert_eq!(trees[0].0, trees[1].0, "snapshot left, journal right");
    assert_eq!(trees[0].1, trees[1].1, "snapshot left, journal right");
    reports.try_into().unwrap()
}

/// A directory, a rename in it, a deletion, a new recording.
fn go_on(world: &World, ids: &mut Vec<NodeId>) {
    world.mkdir("later");
    rename(world, "z/moved/1.wav", "later/one.wav");
    rename(world, "later", "z/later");
    ids.push(delete(world, "z/moved/2.wav"));
    ids.push(world.archived("f/after.wav", &audio(300_000, 9)));
    assert_eq!(world.run_one(Command::Release, "f/after.wav"), Outcome::Done);
    set_looks(world, "z/moved/5.wav", 0o600, 1_400_000_000);
    world.until_told();
}

#[test]
fn a_snapshot_and_the_journal_after_it_come_to_what_the_whole_journal_does() {
    let (mut world, mut ids) = lived_in(&["one"]);
    world.rules.keep_local = Some(Duration::from_secs(1_000_000));
    taking(&mut world, 3);
    until_taken(&world);
    let told = world.catalog().told_so_far().unwrap().unwrap();
    world.snapshots = None;
    go_on(&world, &mut ids);
    world.start_again_with_keep(Duration::from_secs(3600));
    world.pass(3700);
    // Everything but what was released by name: that none is on its way is part of the comparison.
    for path in ["z/moved/zero.wav", "z/moved/3.wav", "z/moved/5.wav", "f/over.wav", "f/new.wav"] {
        let id = world.find(path).unwrap().id;
        world.until_state(id, State::Released);
    }
    world.until_told();
    let before = (seen(&world.tree()), world.catalog().told_so_far().unwrap().unwrap());
    assert!(before.1 > told);
    let [with, without] = rebuilt_both_ways(&mut world, &ids);
    assert_eq!(with.snapshot.as_deref().map(|url| url.contains("/snapshots/pbx/")), Some(true));
    assert!(with.bad_snapshots.is_empty() && without.snapshot.is_none());
    assert!(with.rows < without.rows && with.segments < without.segments, "{with:?} {without:?}");
    for report in [&with, &without] {
        assert!(report.is_complete() && report.found.is_empty(), "{report:?}");
    }
    let facts = |r: &Report| (r.released, r.local, r.deleted, r.unarchived);
    assert_eq!(facts(&with), facts(&without));
    // And it is what was there; a local one is hashed again first.
    world.open();
    let released = |tree: &[String]| {
        tree.iter().filter(|line| line.contains("released")).cloned().collect::<Vec<_>>()
    };
    assert_eq!(released(&seen(&world.tree())), released(&before.0));
    world.start();
    let at = world.find("z/later/one.wav").unwrap().id;
    assert_eq!(world.run_one(Command::Recall, "z/later/one.wav"), Outcome::Done);
    assert_eq!(fs::read(world.below("z/later/one.wav")).unwrap(), audio(5000, 77));
    assert_eq!(world.row(at).generation.0, 2);
}

#[test]
fn a_snapshot_that_is_not_whole_is_set_aside() {
    let (mut world, mut ids) = lived_in(&["one"]);
    world.rules.keep_local = Some(Duration::from_secs(1_000_000));
    taking(&mut world, 5);
    until_taken(&world);
    go_on(&world, &mut ids);
    until_taken(&world);
    let keys = snapshots(world.store());
    assert!(keys.len() >= 2, "{keys:?}");
    let (older, newest) = (&keys[keys.len() - 2], &keys[keys.len() - 1]);
    let whole = world.object(newest);
    let text = |words: &str| compress_to_vec(words.as_bytes(), CompressionLevel::Fastest);
    let mut flipped = whole.clone();
    flipped[whole.len() / 2] ^= 1;
    let damages: [(&[u8], &str); 5] = [
        (&whole[..whole.len() - 1], ""),
        (&flipped, ""),
        (b"", "ends after 0"),
        (&text("{\"spoolfs\":\"snapshot\",\"format\":9,\"new\":{}}\n"), "version 9"),
        (&text("{\"spoolfs\":\"archive\",\"format\":1}\n"), "archive"),
    ];
    for (bytes, word) in damages {
        world.store().tamper(newest, Some(bytes));
        let [with, _] = rebuilt_both_ways(&mut world, &ids);
        let url = |key: &str| world.store().url(key);
        assert_eq!(with.bad_snapshots.len(), 1, "{with:?}");
        assert_eq!(with.bad_snapshots[0].0, url(newest));
        assert!(with.bad_snapshots[0].1.contains(word), "{with:?}");
        assert_eq!(with.snapshot, Some(url(older)));
        assert!(with.is_complete(), "nothing is lost: {with:?}");
    }
    // None of them can be used.
    for key in &keys {
        world.store().tamper(key, Some(&flipped[1..]));
    }
    let [with, without] = rebuilt_both_ways(&mut world, &ids);
    assert_eq!((with.snapshot, with.bad_snapshots.len()), (None, keys.len()));
    assert_eq!(with.rows, without.rows);
}

#[test]
fn a_snapshot_of_another_machine_or_node_is_not_used() {
    let (mut world, ids) = lived_in(&["one"]);
    taking(&mut world, 5);
    until_taken(&world);
    let mut lines = Vec::new();
    let key = snapshots(world.store()).pop().unwrap();
    let bytes = world.object(&key);
    let header = snapshot::read(&bytes[..], &mut |line| {
        lines.push(line.to_owned());
        Ok(())
    })
    .unwrap();
    assert!(lines.iter().all(|line| !line.contains("identity") && !line.contains("secret")));
    let mut other = header;
    other.instance = "another".into();
    let mut writer = snapshot::Writer::begin(Vec::new(), &other).unwrap();
    lines.iter().for_each(|line| writer.line(line).unwrap());
    world.store().tamper(&key, Some(&writer.finish().unwrap().0));
    let [with, _] = rebuilt_both_ways(&mut world, &ids);
    assert_eq!(with.snapshot, None);
    assert!(with.bad_snapshots[0].1.contains("another"), "{with:?}");
}

#[test]
fn a_catalog_of_a_later_epoch_goes_on_from_the_snapshot_of_an_earlier_one() {
    for restored in [false, true] {
        let (mut world, mut ids) = lived_in(&["one"]);
        world.rules.keep_local = Some(Duration::from_secs(1_000_000));
        world.restart();
        world.catalog().close();
        world.die();
        let copy = fs::read(world.database()).unwrap();
        world.open();
        world.start();
        go_on(&world, &mut ids);
        taking(&mut world, 5);
        until_taken(&world);
        world.die();
        // It is lost and begun anew, or an older copy is put back: either way it knows less.
        world.lose_database();
        if restored {
            fs::write(world.database(), copy).unwrap();
        }
        world.open();
        world.start();
        world.until_reconciled();
        let taken = snapshots(world.store());
        ids.push(world.archived("f/in-the-new-epoch.wav", b"new"));
        world.until_told();
        world.pass(5);
        world.idle();
        assert_eq!(world.catalog().told_so_far().unwrap(), None);
        assert_eq!(snapshots(world.store()), taken, "none is taken of what knows less");
        let [with, _] = rebuilt_both_ways(&mut world, &ids);
        assert!(with.snapshot.is_some(), "{with:?}");
        // From then on they are taken again, of the new epoch at once.
        world.open();
        world.snapshots = Some(Snapshots { every: Duration::from_secs(1 << 40), keep: 1 });
        world.start();
        let newest = || snapshots(world.store()).last().and_then(|k| snapshot::parse_key(k));
        let epoch = world.catalog().identity().epoch;
        world.until("one of the new epoch", || newest().is_some_and(|(e, _)| e == epoch));
        // What was listed by the rebuild is known, and goes by the names that it had.
        world.until("the older ones go", || snapshots(world.store()).len() == 1);
    }
}

#[test]
fn rows_that_are_shipped_again_in_a_later_epoch_are_not_taken_twice() {
    let (mut world, ids) = lived_in(&["one", "two"]);
    world.rules.keep_local = Some(Duration::from_secs(1_000_000));
    world.required = vec!["one".into()];
    world.restart();
    // The second target is away, and what it lacks is told to it in the next epoch.
    world.stores[1].set_down(true);
    rename(&world, "z/moved/1.wav", "z/moved/away.wav");
    world.archived("z/moved/1.wav", b"another with its name");
    world.pass(61);
    world.until("the first has it", || {
        world.catalog().journal_pending("one", 1).unwrap().is_empty()
    });
    world.snapshots = Some(Snapshots { every: Duration::from_secs(1), keep: 3 });
    world.restart();
    world.until("a snapshot", || {
        world.pass(1);
        !snapshots(&world.stores[0]).is_empty()
    });
    world.snapshots = None;
    world.die();
    world.open();
    // Before anything is shipped: a segment on its way is still one of the epoch before.
    world.catalog().begin_epoch(false).unwrap();
    world.stores[1].set_down(false);
    // Of what the first has by then it would depend how much of the second is looked at.
    world.stores[0].set_down(true);
    world.start();
    world.until("the second has it", || {
        world.pass(61);
        world.catalog().journal_pending("two", 1).unwrap().is_empty()
    });
    world.die();
    world.stores[0].set_down(false);
    let [with, without] = rebuilt_both_ways(&mut world, &ids);
    assert_eq!(with.snapshot, None);
    assert!(with.bad_snapshots[0].1.contains("repeats"), "{with:?}");
    assert!(without.is_complete());
}

#[test]
fn the_newest_stay_and_only_own_names_go() {
    let (mut world, _) = lived_in(&["one"]);
    let foreign = "p/.spoolfs/snapshots/pbx/000001-0000000001-00000000.jsonl.zst";
    let (body, meta) = (b"somebody's".to_vec(), ObjectMeta::default());
    let sha256 = spoolfs::recording::Sha256::of(&body);
    let put = world.store().put(foreign, spoolfs::store::Body::Bytes(body.into()), sha256, &meta);
    world.runtime.block_on(put).unwrap();
    taking(&mut world, 2);
    let mut all = Vec::new();
    for i in 0..4 {
        world.archived(&format!("f/{i}-more.wav"), b"x");
        until_taken(&world);
        all.extend(snapshots(world.store()));
    }
    world.until("old ones go", || snapshots(world.store()).len() == 3);
    all.sort();
    all.dedup();
    let left = snapshots(world.store());
    assert_eq!(left[0], foreign, "whose name nobody wrote down");
    assert_eq!(left[1..], all[all.len() - 2..]);
    // Nothing was told since: no other is taken.
    world.pass(100);
    world.idle();
    assert_eq!(snapshots(world.store()), left);
    assert_eq!(world.store().bytes(foreign).unwrap(), &b"somebody's"[..]);
}

#[test]
fn a_target_that_fails_gets_its_snapshot_later_under_another_key() {
    for fault in [Fault::Unreachable, Fault::ReplyLost] {
        let (mut world, ids) = lived_in(&["one"]);
        world.rules.keep_local = Some(Duration::from_secs(1_000_000));
        world.snapshots = Some(Snapshots { every: Duration::from_secs(10_000), keep: 1 });
        world.restart();
        world.until_standing(Standing::Up);
        // Nothing but the snapshot is put from now on.
        assert_eq!(world.run_one(Command::Archive, "f/new.wav"), Outcome::Done);
        world.until_told();
        world.store().fail_next_of(".spoolfs/snapshots/", Operation::Put, 1, fault);
        let setting = || world.catalog().setting("snapshot.one").unwrap().unwrap_or_default();
        world.until("it is noted since when there is none", || setting().contains("since"));
        world.pass(10_001);
        world.until("one was tried", || setting().contains("jsonl.zst"));
        world.until("it failed", || world.engine().status().targets[0].standing != Standing::Up);
        let tried = snapshots(world.store());
        world.pass(700);
        until_taken(&world);
        world.until("one stays", || snapshots(world.store()).len() == 1);
        let one = snapshots(world.store());
        assert!(
            !tried.contains(&one[0]),
            "no key is used twice: {fault:?} {tried:?} {one:?} {}",
            setting()
        );
        let [with, _] = rebuilt_both_ways(&mut world, &ids);
        assert_eq!(with.snapshot, Some(world.store().url(&one[0])));
        let verified = ids.iter().flat_map(|id| {
            world.open();
            let all = world.catalog().objects(*id, None).unwrap();
            world.die();
            all
        });
        assert!(verified.into_iter().any(|o| o.state == ObjectState::Verified));
    }
}
