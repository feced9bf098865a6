//! `compress = "flac"`: what is stored is a FLAC file, and the recording stays what it was.

use crate::support::{fixture, fixtures};
use crate::world::{World, audio};
use spoolfs::catalog::{ObjectRow, ObjectState};
use spoolfs::codec::{Coding, wav_header};
use spoolfs::engine::{Command, Outcome, Standing};
use spoolfs::policy::Compress;
use spoolfs::recording::{Encoding, NodeId, Sha256, State};
use spoolfs::store::Store;
use spoolfs::store::memory::{Fault, Operation};
use spoolfs::store::meta::Label;
use spoolfs::units::Percent;
use std::fs;
use std::time::Duration;

const FLAC: Option<Compress> = Some(Compress::Flac { min_gain: Percent(10) });

/// A call of some 90 seconds, so that it has several chunks; `seed`: which.
fn call(seed: u64) -> Vec<u8> {
    let bytes = 1_400_000;
    let mut wav = wav_header(Coding::Pcm16, 8000, 1, bytes);
    let mut random = fastrand::Rng::with_seed(seed);
    let tone = |n: u64| ((n as f64 / 9.0).sin() * 3000.0) as i16 + random.i16(-90..90);
    wav.extend((0..bytes / 2).map(tone).flat_map(i16::to_le_bytes));
    wav
}

fn compressing(targets: &[&str]) -> World {
    let mut world = World::with(targets);
    world.compress = FLAC;
    world.start();
    world
}

fn verified(world: &World, id: NodeId, target: &str) -> ObjectRow {
    let all = world.catalog().objects(id, None).unwrap();
    let live = |o: &ObjectRow| o.target == target && o.state == ObjectState::Verified;
    all.into_iter().find(live).unwrap()
}

fn has_another(world: &World, than: &ObjectRow) -> bool {
    let all = world.catalog().objects(than.node, None).unwrap();
    let another = |o: &ObjectRow| o.target == than.target && o.key != than.key;
    all.iter().any(|o| another(o) && o.state == ObjectState::Verified)
}

fn is_flac(object: &ObjectRow) -> bool {
    matches!(object.stored.encoding, Encoding::Flac(Some(_)))
}

/// All bytes of a released recording, as they are read.
fn content(world: &World, id: NodeId, path: &str) -> Vec<u8> {
    assert_eq!(world.state(id), State::Released);
    assert_eq!(world.run_one(Command::Recall, path), Outcome::Done);
    fs::read(world.below(path)).unwrap()
}

#[test]
fn a_recording_is_stored_as_flac_and_stays_what_it_was() {
    let (mut world, bytes) = (compressing(&["one"]), call(1));
    world.mkdir("2026");
    let id = world.released("2026/a.wav", &bytes);
    let object = verified(&world, id, "one");
    let stored = world.object(&object.key);
    assert!(object.key.ends_with("/2026/a.wav.flac"), "{}", object.key);
    assert!(is_flac(&object) && stored.starts_with(b"fLaC"));
    assert!(stored.len() * 10 < bytes.len() * 8, "{} of {}", stored.len(), bytes.len());
    // Both hashes are kept: in the catalog, and beside the object.
    assert_eq!((object.sha256, object.size), (Sha256::of(&bytes), bytes.len() as u64));
    let what = (object.stored.sha256, object.stored.size);
    assert_eq!(what, (Sha256::of(&stored), stored.len() as u64));
    assert_eq!(world.row(id).sha256, Some(Sha256::of(&bytes)));
    let head = world.runtime.block_on(world.store().head(&object.key)).unwrap();
    let label = Label::from_user(&head.user).unwrap();
    assert_eq!((label.sha256, label.size), (object.sha256, object.size));
    assert_eq!((label.stored.sha256, label.stored.size), what);
    assert_eq!(label.stored.encoding, Encoding::Flac(None));
    let format = head.user.iter().find(|(name, _)| name == "spoolfs-format").unwrap();
    assert_eq!(format.1, "3", "an older spoolfs would take it for damaged");
    // It counts as whole, and comes back as it was.
    assert_eq!(world.run_one(Command::Verify, "2026/a.wav"), Outcome::Done);
    assert_eq!(content(&world, id, "2026/a.wav"), bytes);
    world.pass(3700);
    world.until_state(id, State::Released);
    world.until_told();
    let report = world.fsck(true);
    assert!(report.clean, "{:?}", report.findings);
}

#[test]
fn what_is_no_pcm_or_gains_too_little_is_stored_as_it_is() {
    let world = compressing(&["one"]);
    let header = wav_header(Coding::Pcm16, 8000, 1, 300_000);
    let noise = [header.clone(), audio(300_000, 1)].concat();
    let gsm = fs::read(fixture("formats").join(&fixtures("formats")[0])).unwrap();
    let all = [
        ("noise.wav", noise),
        ("gsm.WAV", gsm),
        ("none.wav", header),
        ("short.wav", [wav_header(Coding::Pcm16, 8000, 1, 20), vec![0; 20]].concat()),
        ("text.txt", b"a sidecar".repeat(900)),
    ];
    for (path, bytes) in &all {
        let id = world.archived(path, bytes);
        let object = verified(&world, id, "one");
        assert_eq!(object.stored.encoding, Encoding::Plain, "{path}");
        assert!(object.key.ends_with(path), "{path}");
        assert_eq!(world.object(&object.key), *bytes, "{path}");
    }
}

#[test]
fn a_cut_call_is_stored_as_flac_or_with_its_sizes() {
    let mut world = World::with(&["one"]);
    (world.compress, world.repair_headers) = (FLAC, true);
    world.start();
    let cut = fs::read(fixture("crashed").join(&fixtures("crashed")[0])).unwrap();
    let mut gsm = fs::read(fixture("formats").join(&fixtures("formats")[0])).unwrap();
    [4, 48, 56].into_iter().for_each(|at| gsm[at..at + 4].fill(0));
    for (path, bytes, flac) in [("cut.wav", &cut, true), ("gsm.WAV", &gsm, false)] {
        let id = world.released(path, bytes);
        let object = verified(&world, id, "one");
        assert_eq!(is_flac(&object), flac, "{path}");
        assert_eq!(matches!(object.stored.encoding, Encoding::Patched(_)), !flac, "{path}");
        assert_eq!(content(&world, id, path), *bytes, "{path}");
    }
}

#[test]
fn a_key_that_another_recording_has_is_told_apart() {
    let (world, bytes) = (compressing(&["one"]), call(2));
    // A file of that name was there before.
    let other = world.archived("a.wav.flac", &audio(5000, 1));
    let id = world.archived("a.wav", &bytes);
    let (other, object) = (verified(&world, other, "one"), verified(&world, id, "one"));
    assert!(other.key.ends_with("/a.wav.flac"), "{}", other.key);
    assert!(object.key.contains("/a.wav~1-") && object.key.ends_with(".flac"), "{}", object.key);
    assert_eq!(world.object(&other.key), audio(5000, 1));
}

#[test]
fn a_rebuild_knows_where_the_parts_of_flac_objects_are() {
    for journal in [true, false] {
        let (mut world, bytes) = (compressing(&["one"]), call(3));
        world.archived("b.wav.flac", &audio(5000, 1));
        let released = world.released("a.wav", &bytes);
        let apart = world.released("b.wav", &call(4));
        world.start_again_with_keep(Duration::from_secs(1_000_000));
        let local = world.archived("local.wav", &call(5));
        let before = [released, apart, local].map(|id| verified(&world, id, "one"));
        assert!(before.iter().all(is_flac));
        world.until_told();
        world.die();
        world.lose_database();
        if !journal {
            let segments = world.store().keys().into_iter().filter(|k| k.contains("/journal/"));
            segments.for_each(|key| world.store().tamper(&key, None));
        }
        let report = world.rebuild(None, &[]).unwrap();
        let whole = [&report.lost.len(), &report.missing.len(), &report.unknown.len()];
        assert_eq!(whole, [&0, &0, &0], "{report:?}");
        world.open();
        world.start();
        for object in &before {
            let after = verified(&world, object.node, "one");
            let facts = |o: &ObjectRow| (o.key.clone(), o.size, o.sha256, o.stored.clone());
            assert_eq!(facts(&after), facts(object), "journal: {journal}");
        }
        assert_eq!(content(&world, released, "a.wav"), bytes);
        assert_eq!(content(&world, apart, "b.wav"), call(4));
        world.pass(400);
        world.until_state(local, State::Archived);
        assert_eq!(world.keys().len(), 4, "nothing was uploaded again");
        let report = world.fsck(true);
        assert!(report.clean, "{:?}", report.findings);
    }
}

#[test]
fn a_snapshot_tells_where_the_parts_of_flac_objects_are() {
    let mut world = World::with(&["one"]);
    world.compress = FLAC;
    let every = Duration::from_secs(3600);
    world.snapshots = Some(spoolfs::engine::Snapshots { every, keep: 2 });
    world.start();
    let (id, bytes) = (world.released("a.wav", &call(6)), call(6));
    let object = verified(&world, id, "one");
    world.until_told();
    let snapshots = || world.store().keys().iter().filter(|k| k.contains("/snapshots/")).count();
    world.until("there is a snapshot", || {
        world.pass(600);
        snapshots() > 0
    });
    world.until_told();
    world.die();
    world.lose_database();
    let report = world.rebuild(None, &[]).unwrap();
    assert!(report.snapshot.is_some(), "{report:?}");
    world.open();
    world.start();
    assert_eq!(verified(&world, id, "one").stored, object.stored);
    assert_eq!(content(&world, id, "a.wav"), bytes);
}

#[test]
fn another_setting_leaves_what_is_archived_readable() {
    let mut world = compressing(&["one"]);
    let flac = world.released("flac.wav", &call(7));
    world.compress = None;
    world.restart();
    let plain = world.released("plain.wav", &call(8));
    assert!(is_flac(&verified(&world, flac, "one")) && !is_flac(&verified(&world, plain, "one")));
    assert_eq!(content(&world, flac, "flac.wav"), call(7));
    world.compress = FLAC;
    world.restart();
    assert_eq!(content(&world, plain, "plain.wav"), call(8));
    for path in ["flac.wav", "plain.wav"] {
        assert_eq!(world.run_one(Command::Verify, path), Outcome::Done);
    }
}

#[test]
fn another_setting_after_a_try_with_an_unknown_end_writes_nothing_over() {
    let bytes = call(9);
    for (first, fault) in [
        (FLAC, Fault::Unreachable),
        (None, Fault::Unreachable),
        (FLAC, Fault::ReplyLost),
        (None, Fault::ReplyLost),
    ] {
        let mut world = World::with(&["one"]);
        world.compress = first;
        world.start();
        world.until_standing(Standing::Up);
        world.store().fail_next(Operation::Put, 1, fault);
        let id = world.record("a.wav", &bytes);
        world.pass(400);
        let all = |world: &World| world.catalog().objects(id, None).unwrap();
        world.until("the target failed", || {
            !all(&world).is_empty() && world.engine().status().targets[0].standing != Standing::Up
        });
        let tried = all(&world).pop().unwrap();
        world.die();
        world.compress = if first.is_some() { None } else { FLAC };
        world.open();
        world.start();
        world.pass(400);
        world.until_state(id, State::Archived);
        let object = verified(&world, id, "one");
        let arrived = fault == Fault::ReplyLost;
        assert_eq!(object.key == tried.key, arrived, "what arrived is taken, else another key");
        assert_eq!(is_flac(&object), first.is_some() == arrived);
        let stored = world.object(&object.key);
        assert_eq!(object.stored.sha256, Sha256::of(&stored));
        assert_eq!(stored == bytes, !is_flac(&object));
    }
}

#[test]
fn the_same_recording_gives_the_same_object_again() {
    let mut world = compressing(&["one"]);
    world.until_standing(Standing::Up);
    world.store().fail_next(Operation::Put, 1, Fault::ReplyLost);
    let id = world.record("a.wav", &call(10));
    world.pass(400);
    world
        .until("the target failed", || world.engine().status().targets[0].standing != Standing::Up);
    world.restart();
    world.pass(400);
    world.until_state(id, State::Archived);
    assert_eq!(world.keys().len(), 1, "what arrived is what would be sent");
}

#[test]
fn a_bad_flac_object_is_replaced_from_another_target() {
    let (mut world, bytes) = (World::with(&["one", "two"]), call(11));
    // One target got it before the setting was made, the other afterwards.
    world.required = vec!["one".into()];
    world.stores[1].set_down(true);
    world.start_again_with_keep(Duration::from_secs(1_000_000));
    let id = world.archived("a.wav", &bytes);
    world.stores[1].set_down(false);
    world.compress = FLAC;
    world.restart();
    let second = || {
        let all = world.catalog().objects(id, None).unwrap();
        all.into_iter().find(|o| o.target == "two" && o.state == ObjectState::Verified)
    };
    world.until("the other has it", || {
        world.pass(60);
        second().is_some()
    });
    let (plain, flac) = (verified(&world, id, "one"), second().unwrap());
    assert!(!is_flac(&plain) && is_flac(&flac));
    assert_eq!(world.run_one(Command::Release, "a.wav"), Outcome::Done);
    // The plain one from the FLAC one, as FLAC.
    world.store().tamper(&plain.key, None);
    let outcome = world.run_one(Command::Verify, "a.wav");
    assert!(matches!(&outcome, Outcome::Failed(why) if why.contains("replaced")), "{outcome:?}");
    let new = verified(&world, id, "one");
    assert!(new.key.ends_with("/a.wav.flac"), "{}", new.key);
    assert_eq!(new.stored, flac.stored);
    // A FLAC object with a bit flipped, from the other.
    let mut rotten = world.object(&new.key);
    let middle = rotten.len() / 2;
    rotten[middle] ^= 1;
    world.store().tamper(&new.key, Some(&rotten));
    let outcome = world.run_one(Command::Verify, "a.wav");
    assert!(matches!(&outcome, Outcome::Failed(why) if why.contains("replaced")), "{outcome:?}");
    let newer = verified(&world, id, "one");
    assert_ne!(newer.key, new.key);
    assert_eq!(world.object(&newer.key), world.stores[1].bytes(&flac.key).unwrap());
    assert_eq!(world.run_one(Command::Verify, "a.wav"), Outcome::Done);
    assert_eq!(content(&world, id, "a.wav"), bytes);
}

#[test]
fn the_scrub_finds_a_flac_object_that_rots() {
    let mut world = World::with(&["one", "two"]);
    world.compress = FLAC;
    world.scrub_every = Some(Duration::from_secs(86_400));
    world.start();
    let id = world.released("a.wav", &call(12));
    let object = verified(&world, id, "one");
    let mut rotten = world.object(&object.key);
    // Nothing that a reader of the recording would notice: the MD5 of its samples.
    rotten[30] ^= 1;
    world.store().tamper(&object.key, Some(&rotten));
    world.until("it was replaced", || {
        world.pass(3600);
        has_another(&world, &object)
    });
    assert!(is_flac(&verified(&world, id, "one")));
    assert_eq!(content(&world, id, "a.wav"), call(12));
}
