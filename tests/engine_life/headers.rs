//! `repair_headers`: the archived copy of a call that was cut has sizes, and the recording stays
//! what it was.

use crate::support::{fixture, fixtures};
use crate::world::{World, audio};
use spoolfs::catalog::{ObjectRow, ObjectState};
use spoolfs::engine::{Command, Outcome, Standing};
use spoolfs::recording::{Encoding, Hasher, NodeId, Sha256, State};
use spoolfs::store::Store;
use spoolfs::store::memory::{Fault, Operation};
use spoolfs::store::meta::Label;
use std::fs;
use std::io::Write;

fn cut_call() -> Vec<u8> {
    fs::read(fixture("crashed").join(&fixtures("crashed")[0])).unwrap()
}

/// What Asterisk would have written, had it not died.
fn completed(cut: &[u8]) -> Vec<u8> {
    let mut whole = cut.to_vec();
    let len = u32::try_from(cut.len()).unwrap();
    whole[4..8].copy_from_slice(&(len - 8).to_le_bytes());
    whole[40..44].copy_from_slice(&(len - 44).to_le_bytes());
    whole
}

fn repairing(targets: &[&str]) -> World {
    let mut world = World::with(targets);
    world.repair_headers = true;
    world.start();
    world
}

fn verified(world: &World, id: NodeId, target: &str) -> ObjectRow {
    let all = world.catalog().objects(id, None).unwrap();
    let live = |o: &ObjectRow| o.target == target && o.state == ObjectState::Verified;
    all.into_iter().find(live).unwrap()
}

/// The bytes that a player of this WAV would play: those that its header says are there.
fn played(wav: &[u8]) -> usize {
    let le = |at: usize| u32::from_le_bytes(wav[at..at + 4].try_into().unwrap()) as usize;
    assert_eq!((&wav[..4], &wav[8..16]), (&b"RIFF"[..], &b"WAVEfmt "[..]));
    let (mut at, mut played) = (12, 0);
    while at + 8 <= (8 + le(4)).min(wav.len()) {
        if &wav[at..at + 4] == b"data" {
            played = le(at + 4).min(wav.len() - at - 8);
        }
        at += 8 + le(at + 4).next_multiple_of(2);
    }
    played
}

/// All bytes of a released recording, as they are read.
fn content(world: &World, id: NodeId, path: &str) -> Vec<u8> {
    assert_eq!(world.state(id), State::Released);
    assert_eq!(world.run_one(Command::Recall, path), Outcome::Done);
    fs::read(world.below(path)).unwrap()
}

#[test]
fn the_archived_copy_of_a_cut_call_plays_and_the_recording_is_what_it_was() {
    let (mut world, cut) = (repairing(&["one"]), cut_call());
    let id = world.released("cut.wav", &cut);
    let object = verified(&world, id, "one");
    let stored = world.object(&object.key);
    assert_eq!(stored, completed(&cut));
    assert_eq!((played(&stored), played(&cut)), (cut.len() - 44, 0));
    // Both hashes and the original bytes are kept: in the catalog, and beside the object.
    assert_eq!((object.sha256, object.size), (Sha256::of(&cut), cut.len() as u64));
    assert_eq!((object.stored.sha256, object.stored.size), (Sha256::of(&stored), object.size));
    assert_eq!(object.stored.encoding.to_string(), "patched:4=00000000,40=00000000");
    assert_eq!(world.row(id).sha256, Some(Sha256::of(&cut)));
    let head = world.runtime.block_on(world.store().head(&object.key)).unwrap();
    let label = Label::from_user(&head.user).unwrap();
    assert_eq!((label.sha256, label.stored), (Sha256::of(&cut), object.stored.clone()));
    let format = head.user.iter().find(|(name, _)| name == "spoolfs-format").unwrap();
    assert_eq!(format.1, "2", "an older spoolfs would take it for damaged");
    // It counts as whole, and comes back as it was.
    assert_eq!(world.run_one(Command::Verify, "cut.wav"), Outcome::Done);
    assert_eq!(content(&world, id, "cut.wav"), cut);
    world.pass(3700);
    world.until_state(id, State::Released);
    world.until_told();
    let report = world.fsck(true);
    assert!(report.clean, "{:?}", report.findings);
}

#[test]
fn a_recording_that_has_any_size_or_is_none_is_archived_as_it_is() {
    let cut = cut_call();
    let mut half = cut.clone();
    half[4] = 1;
    let mut other = cut.clone();
    other[41] = 1;
    let world = repairing(&["one"]);
    let all = [("half.wav", half), ("other.wav", other), ("not.wav", audio(5000, 1))];
    for (path, bytes) in &all {
        let id = world.archived(path, bytes);
        let object = verified(&world, id, "one");
        assert_eq!(object.stored.encoding, Encoding::Plain, "{path}");
        assert_eq!(world.object(&object.key), *bytes, "{path}");
    }
    // Without the setting, nothing is.
    let world = World::new();
    let id = world.archived("cut.wav", &cut);
    assert_eq!(world.object(&verified(&world, id, "one").key), cut);
}

#[test]
fn a_call_in_progress_is_not_taken_for_a_cut_one() {
    let (world, cut) = (repairing(&["one"]), cut_call());
    let id = world.record("call.wav", &cut);
    // Asterisk has it open still; the daemon knows nothing of that, as after a restart.
    let mut writer = world.writer("call.wav");
    world.pass(400);
    world.idle();
    assert!(world.keys().is_empty());
    let whole = [completed(&cut), audio(1000, 3)].concat();
    fs::write(world.below("call.wav"), &whole).unwrap();
    writer.flush().unwrap();
    drop(writer);
    world.close("call.wav", id);
    world.pass(400);
    world.until_state(id, State::Archived);
    let object = verified(&world, id, "one");
    assert_eq!((object.stored.encoding, world.object(&object.key)), (Encoding::Plain, whole));
}

#[test]
fn a_rebuild_knows_what_was_done_to_a_cut_call() {
    for journal in [true, false] {
        let (mut world, cut) = (repairing(&["one"]), cut_call());
        let released = world.released("cut.wav", &cut);
        world.start_again_with_keep(std::time::Duration::from_secs(1_000_000));
        let local = world.archived("local.wav", &[cut.clone(), audio(9000, 1)].concat());
        let before = [released, local].map(|id| verified(&world, id, "one"));
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
        assert_eq!(content(&world, released, "cut.wav"), cut);
        world.pass(400);
        world.until_state(local, State::Archived);
        assert_eq!(world.keys().len(), 2, "nothing was uploaded again");
        let report = world.fsck(true);
        assert!(report.clean, "{:?}", report.findings);
    }
}

#[test]
fn another_setting_after_a_try_with_an_unknown_end_writes_over_nothing() {
    let cut = cut_call();
    for (first, fault) in [(true, Fault::Unreachable), (false, Fault::Unreachable)]
        .into_iter()
        .chain([(true, Fault::ReplyLost), (false, Fault::ReplyLost)])
    {
        let mut world = World::with(&["one"]);
        world.repair_headers = first;
        world.start();
        world.until_standing(Standing::Up);
        world.store().fail_next(Operation::Put, 1, fault);
        let id = world.record("cut.wav", &cut);
        world.pass(400);
        let all = |world: &World| world.catalog().objects(id, None).unwrap();
        world.until("the target failed", || {
            !all(&world).is_empty() && world.engine().status().targets[0].standing != Standing::Up
        });
        let tried = all(&world).pop().unwrap();
        world.die();
        world.repair_headers = !first;
        world.open();
        world.start();
        world.pass(400);
        world.until_state(id, State::Archived);
        let object = verified(&world, id, "one");
        let arrived = fault == Fault::ReplyLost;
        assert_eq!(object.key == tried.key, arrived, "what arrived is taken, else another key");
        let patched = first == arrived;
        let expected = if patched { completed(&cut) } else { cut.clone() };
        assert_eq!(world.object(&object.key), expected);
        assert_eq!(object.stored.sha256, Sha256::of(&expected));
        assert_eq!(object.stored.is_plain(), !patched);
    }
}

#[test]
fn a_bad_object_is_replaced_by_what_the_other_target_has_with_its_encoding() {
    let (mut world, cut) = (World::with(&["one", "two"]), cut_call());
    // One target got it before the setting was made, the other afterwards.
    world.required = vec!["one".into()];
    world.stores[1].set_down(true);
    world.start_again_with_keep(std::time::Duration::from_secs(1_000_000));
    let id = world.archived("cut.wav", &cut);
    world.stores[1].set_down(false);
    world.repair_headers = true;
    world.restart();
    let second = || {
        let all = world.catalog().objects(id, None).unwrap();
        all.into_iter().find(|o| o.target == "two" && o.state == ObjectState::Verified)
    };
    world.until("the other has it", || {
        world.pass(60);
        second().is_some()
    });
    assert_eq!(world.stores[1].bytes(&second().unwrap().key).unwrap(), completed(&cut));
    let old = verified(&world, id, "one");
    assert_eq!(world.object(&old.key), cut);
    assert_eq!(world.run_one(Command::Release, "cut.wav"), Outcome::Done);
    world.store().tamper(&old.key, None);
    let outcome = world.run_one(Command::Verify, "cut.wav");
    assert!(matches!(&outcome, Outcome::Failed(why) if why.contains("replaced")), "{outcome:?}");
    let new = verified(&world, id, "one");
    assert_eq!(world.object(&new.key), completed(&cut));
    assert_eq!(new.stored, second().unwrap().stored);
    assert_eq!(world.run_one(Command::Verify, "cut.wav"), Outcome::Done);
    let mut hasher = Hasher::default();
    hasher.update(&content(&world, id, "cut.wav"));
    assert_eq!(Some(hasher.finish().0), world.row(id).sha256);
}
