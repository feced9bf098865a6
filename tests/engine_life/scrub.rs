//! Objects changed or deleted in the bucket: what `verify` and the scrub make of them.

use crate::world::{World, audio};
use spoolfs::catalog::{ObjectRow, ObjectState, Op};
use spoolfs::engine::{Command, Outcome};
use spoolfs::recording::{NodeId, State};
use spoolfs::store::memory::MemoryStore;
use std::fs;
use std::sync::Arc;
use std::time::Duration;

fn verified(world: &World, id: NodeId, target: &str) -> Vec<ObjectRow> {
    let all = world.catalog().objects(id, None).unwrap();
    let live = |o: &ObjectRow| o.target == target && o.state == ObjectState::Verified;
    all.into_iter().filter(live).collect()
}

fn key(world: &World, id: NodeId, target: &str) -> String {
    verified(world, id, target).pop().unwrap().key
}

/// Deleted, overwritten with other bytes of the same length, cut.
fn damages(bytes: &[u8]) -> [Option<Vec<u8>>; 3] {
    let mut other = bytes.to_vec();
    other[bytes.len() / 2] ^= 1;
    [None, Some(other), Some(bytes[..bytes.len() - 1].to_vec())]
}

#[test]
fn a_bad_object_is_never_read_as_the_recording_and_the_next_target_s_copy_is() {
    for damage in damages(&audio(200_000, 3)) {
        let mut world = World::with(&["one", "two"]);
        world.start();
        let bytes = audio(200_000, 3);
        let id = world.released("a.wav", &bytes);
        let (first, second) = (key(&world, id, "one"), key(&world, id, "two"));
        world.stores[0].tamper(&first, damage.as_deref());
        assert_eq!(world.run_one(Command::Recall, "a.wav"), Outcome::Done);
        assert_eq!(fs::read(world.below("a.wav")).unwrap(), bytes);
        // Both are bad: an error, never other bytes.
        let id = world.released("b.wav", &audio(200_000, 4));
        for (store, target) in world.stores.iter().zip(["one", "two"]) {
            let cut = &audio(200_000, 4)[..1000];
            store.tamper(&key(&world, id, target), damage.as_deref().map(|_| cut));
        }
        assert!(matches!(world.run_one(Command::Recall, "b.wav"), Outcome::Failed(_)));
        assert!(!world.below("b.wav").exists());
        assert_eq!(world.state(id), State::Released, "never silently forgotten");
        assert!(world.stores[1].bytes(&second).is_some());
    }
}

#[test]
fn verify_replaces_a_bad_object_from_another_target_under_a_new_key() {
    for damage in damages(&audio(100_000, 9)) {
        let mut world = World::with(&["one", "two"]);
        world.start();
        let bytes = audio(100_000, 9);
        let id = world.released("a.wav", &bytes);
        let fine = world.released("fine.wav", b"fine");
        let old = key(&world, id, "one");
        world.stores[0].tamper(&old, damage.as_deref());
        let outcome = world.run_one(Command::Verify, "a.wav");
        assert!(
            matches!(&outcome, Outcome::Failed(why) if why.contains("replaced from target \"two\"")),
            "{outcome:?}"
        );
        let new = key(&world, id, "one");
        assert_ne!(new, old);
        assert_eq!(world.stores[0].bytes(&new).unwrap(), bytes);
        assert_eq!(world.stores[0].bytes(&old).map(|b| b.to_vec()), damage, "never overwritten");
        assert_eq!(world.run_one(Command::Verify, "a.wav"), Outcome::Done);
        assert_eq!(world.run_one(Command::Verify, "fine.wav"), Outcome::Done);
        assert!(world.engine().status().bad.is_empty());
        // A rebuild knows the new one, and that the old key is taken.
        world.until_told();
        world.die();
        world.lose_database();
        let report = world.rebuild(None, &[]).unwrap();
        assert!(report.lost.is_empty() && report.missing.is_empty(), "{report:?}");
        world.open();
        assert_eq!(key(&world, id, "one"), new);
        assert_eq!(world.state(fine), State::Released);
    }
}

#[test]
fn verify_has_a_bad_object_archived_again_from_the_local_copy() {
    for damage in damages(&audio(100_000, 9)) {
        let mut world = World::new();
        world.start_again_with_keep(Duration::from_secs(1_000_000));
        let bytes = audio(100_000, 9);
        let id = world.archived("a.wav", &bytes);
        let old = key(&world, id, "one");
        world.store().tamper(&old, damage.as_deref());
        let outcome = world.run_one(Command::Verify, "a.wav");
        assert!(
            matches!(&outcome, Outcome::Failed(why) if why.contains("from the local copy")),
            "{outcome:?}"
        );
        world.pass(400);
        world.until("archived again", || {
            world.state(id) == State::Archived && !verified(&world, id, "one").is_empty()
        });
        let new = key(&world, id, "one");
        assert_ne!(new, old);
        assert_eq!(world.object(&new), bytes);
        assert_eq!(world.row(id).generation.0, 1);
        assert_eq!(world.run_one(Command::Verify, "a.wav"), Outcome::Done);
        assert_eq!(world.run_one(Command::Release, "a.wav"), Outcome::Done);
        assert_eq!(world.run_one(Command::Recall, "a.wav"), Outcome::Done);
    }
}

#[test]
fn the_only_copy_that_is_bad_is_an_alarm_until_it_is_good_again() {
    let mut world = World::new();
    let bytes = audio(100_000, 9);
    let id = world.released("a.wav", &bytes);
    let only = key(&world, id, "one");
    world.store().tamper(&only, Some(b"rubbish"));
    let outcome = world.run_one(Command::Verify, "a.wav");
    assert!(
        matches!(&outcome, Outcome::Failed(why) if why.contains("there is no other copy")),
        "{outcome:?}"
    );
    let bad = world.engine().status().bad;
    assert_eq!((bad.len(), bad[0].key.as_str(), bad[0].path.to_str()), (1, &*only, Some("a.wav")));
    // Not forgotten with the daemon, nor is the recording.
    world.restart();
    assert_eq!(world.engine().status().bad, bad);
    assert_eq!((world.state(id), key(&world, id, "one")), (State::Released, only.clone()));
    // Somebody brings it back, from a version that the bucket kept.
    world.store().tamper(&only, Some(&bytes));
    world.until_reconciled();
    world.until("it is good again", || world.run_one(Command::Verify, "a.wav") == Outcome::Done);
    assert!(world.engine().status().bad.is_empty());
}

#[test]
fn a_target_that_does_not_answer_makes_no_object_bad() {
    let world = World::new();
    let id = world.released("a.wav", b"one");
    let only = key(&world, id, "one");
    world.store().set_down(true);
    let outcome = world.run_one(Command::Verify, "a.wav");
    assert!(matches!(outcome, Outcome::Failed(_)), "{outcome:?}");
    assert!(world.engine().status().bad.is_empty());
    assert_eq!(key(&world, id, "one"), only);
}

#[test]
fn the_scrub_looks_at_every_object_once_in_its_time_and_goes_on_after_a_restart() {
    const DAY: u64 = 86_400;
    let mut world = World::with(&["one", "two"]);
    world.scrub_every = Some(Duration::from_secs(100 * DAY));
    world.start();
    let ids: Vec<NodeId> =
        (0..10).map(|i| world.released(&format!("{i}.wav"), &audio(1000, i))).collect();
    world.restart();
    let round = |world: &World| world.engine().status().scrub;
    world.until("a round begins", || round(&world).is_some());
    // The round that was begun with nothing to look at is over first.
    world.pass(101 * DAY);
    world.until("all is counted", || round(&world).is_some_and(|r| r.of == 20 && !r.through));
    world.pass(50 * DAY);
    world.until("half is looked at", || round(&world).is_some_and(|r| r.checked >= 10));
    let half = round(&world).unwrap();
    assert!(half.checked <= 11, "{half:?}");
    let spoilt = key(&world, ids[9], "two");
    world.stores[1].tamper(&spoilt, None);
    world.restart();
    assert_eq!(round(&world), Some(half), "it goes on where it was");
    world.until("targets answer", || {
        world.engine().status().targets.iter().all(|t| t.standing.word() == "up")
    });
    world.pass(51 * DAY);
    world.until("a round is through", || round(&world).is_some_and(|r| r.through));
    let through = round(&world).unwrap();
    assert_eq!(through.replaced, 1, "{through:?}");
    assert_ne!(key(&world, ids[9], "two"), spoilt);
    let store: &Arc<MemoryStore> = &world.stores[1];
    assert_eq!(store.bytes(&key(&world, ids[9], "two")).unwrap(), audio(1000, 9));
}

#[test]
fn regression_what_is_archived_during_a_round_is_not_all_read_at_its_end() {
    let mut world = World::with(&["one"]);
    world.scrub_every = Some(Duration::from_secs(100_000));
    world.start();
    world.archived("first.wav", &audio(1000, 1));
    world.pass(101_000);
    let round = || world.engine().status().scrub.unwrap();
    world.until("a round of one object", || round().of == 1 && !round().through);
    for n in 0..5 {
        world.archived(&format!("later-{n}.wav"), &audio(1000, n));
    }
    world.pass(50_000);
    world.until("through", || round().through);
    assert_eq!(round().checked, 1, "what came later is the next round's");
    world.pass(101_000);
    world.until("the next round has all of them", || round().of == 6);
}

/// What was found bad is not what a release rests on, however the recording came to be archived.
#[track_caller]
fn release_waits_for_another_object(world: &World, id: NodeId, old: &str, bytes: &[u8]) {
    let outcome = world.run_one(Command::Release, "a.wav");
    assert!(matches!(&outcome, Outcome::Failed(_)), "{outcome:?}");
    assert_eq!(fs::read(world.below("a.wav")).unwrap(), bytes);
    world.pass(400);
    world.until_state(id, State::Archived);
    let new = key(world, id, "one");
    assert_ne!(new, old);
    assert_eq!(world.object(&new), bytes);
    assert_eq!(world.run_one(Command::Release, "a.wav"), Outcome::Done);
    assert_eq!(world.run_one(Command::Recall, "a.wav"), Outcome::Done);
}

#[test]
fn regression_a_bad_object_of_an_open_recording_is_not_what_its_release_rests_on() {
    let mut world = World::new();
    world.start_again_with_keep(Duration::from_secs(1_000_000));
    let bytes = audio(100_000, 9);
    let id = world.archived("a.wav", &bytes);
    let old = key(&world, id, "one");
    world.catalog().record(Op::Opened { id });
    world.store().tamper(&old, Some(b"rubbish"));
    let outcome = world.run_one(Command::Verify, "a.wav");
    assert!(matches!(&outcome, Outcome::Failed(_)), "{outcome:?}");
    world.close("a.wav", id);
    release_waits_for_another_object(&world, id, &old, &bytes);
}

#[test]
fn regression_a_bad_object_of_a_rebuilt_recording_is_not_what_its_release_rests_on() {
    let mut world = World::new();
    world.start_again_with_keep(Duration::from_secs(1_000_000));
    let bytes = audio(100_000, 9);
    let id = world.archived("a.wav", &bytes);
    let old = key(&world, id, "one");
    world.until_told();
    world.die();
    world.lose_database();
    world.rebuild(None, &[]).unwrap();
    // Keeps it from being hashed.
    let writer = world.writer("a.wav");
    world.open();
    world.start();
    world.until_reconciled();
    assert_eq!(world.state(id), State::Closed);
    world.store().tamper(&old, Some(b"rubbish"));
    let outcome = world.run_one(Command::Verify, "a.wav");
    assert!(matches!(&outcome, Outcome::Failed(_)), "{outcome:?}");
    drop(writer);
    world.until("hashed", || {
        world.pass(3);
        world.row(id).hashed.is_some()
    });
    release_waits_for_another_object(&world, id, &old, &bytes);
}
