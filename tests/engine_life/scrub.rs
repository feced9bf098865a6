//! Objects changed or deleted in the bucket: what `verify` and the scrub make of them.

use crate::world::{World, audio};
use spoolfs::catalog::{ObjectRow, ObjectState, Op};
use spoolfs::engine::{Command, Outcome, Round, Standing};
use spoolfs::recording::{NodeId, State};
use spoolfs::store::memory::{Fault, MemoryStore, Operation};
use std::fs;
use std::path::Path;
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

const DAY: u64 = 86_400;

fn round(world: &World, target: &str) -> Option<Round> {
    world.engine().status().scrub.get(target).copied()
}

/// Lets time pass, a little at a time, until the scrub has come so far.
#[track_caller]
fn scrub(world: &World, what: &str, holds: impl Fn() -> bool) {
    world.until(what, || {
        world.pass(DAY / 24);
        holds()
    });
}

/// A world whose scrub takes a hundred days, with so many recordings released.
fn scrubbed(targets: &[&str], recordings: u8) -> (World, Vec<NodeId>) {
    let mut world = World::with(targets);
    world.scrub_every = Some(Duration::from_secs(100 * DAY));
    world.start();
    let name = |i| format!("{i}.wav");
    let ids = (0..recordings).map(|i| world.released(&name(i), &audio(1000, i))).collect();
    let begun = || targets.iter().all(|t| round(&world, t).is_some());
    world.until("a round begins", begun);
    // The round that was begun with nothing to look at is over first.
    world.pass(101 * DAY);
    let of = u64::from(recordings);
    let counted = || targets.iter().all(|t| round(&world, t).is_some_and(|r| r.of == of));
    world.until("all is counted", counted);
    (world, ids)
}

#[test]
fn the_scrub_looks_at_every_object_once_in_its_time_and_goes_on_after_a_restart() {
    let (mut world, ids) = scrubbed(&["one", "two"], 10);
    let both = |world: &World| ["one", "two"].map(|t| round(world, t).unwrap());
    world.pass(50 * DAY);
    let begun = both(&world)[0].begun;
    scrub(&world, "half is looked at", || both(&world).iter().all(|r| r.checked >= 5));
    let share = world.now().secs() - begun.secs();
    for half in both(&world) {
        assert!(half.checked as f64 <= share as f64 / (10 * DAY) as f64 + 1.0, "{half:?}");
    }
    let half = both(&world);
    let spoilt = key(&world, ids[9], "two");
    world.stores[1].tamper(&spoilt, None);
    world.restart();
    for (now, before) in both(&world).iter().zip(half) {
        assert!(now.begun == before.begun && now.checked >= before.checked, "{now:?} {before:?}");
    }
    scrub(&world, "a round is through", || both(&world).iter().all(|r| r.through));
    let through = both(&world);
    assert_eq!(through.map(|r| (r.checked, r.replaced)), [(10, 0), (10, 1)], "{through:?}");
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
    let round = || round(&world, "one").unwrap_or_default();
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

#[test]
fn regression_a_target_that_is_down_does_not_hold_up_the_scrub_of_the_others() {
    let (world, ids) = scrubbed(&["one", "two"], 4);
    world.stores[0].set_down(true);
    let spoilt = key(&world, ids[3], "two");
    scrub(&world, "the other is through", || round(&world, "two").is_some_and(|r| r.through));
    let waits = round(&world, "one").unwrap();
    assert!(!waits.through && waits.checked < 4, "{waits:?}");
    assert_eq!(key(&world, ids[3], "two"), spoilt);
    // Back, it is looked at from where it was.
    world.stores[0].set_down(false);
    scrub(&world, "it is made up for", || {
        round(&world, "one").is_some_and(|r| r.begun > waits.begun || r.through)
    });
}

#[test]
fn regression_what_a_scrub_missed_is_not_read_all_at_once() {
    let (mut world, _) = scrubbed(&["one"], 12);
    // Nothing is due as long as no time passes. The first may be read as soon as it starts again.
    let before = round(&world, "one").unwrap().checked;
    world.die();
    world.pass(90 * DAY);
    world.open();
    world.start();
    let checked = || round(&world, "one").unwrap().checked;
    world.until("it goes on", || checked() > before);
    world.idle();
    world.idle();
    assert!(checked() <= before + 1, "{} at once", checked() - before);
    scrub(&world, "it catches up", || round(&world, "one").is_some_and(|r| r.through));
}

#[test]
fn regression_a_copy_that_can_not_be_replaced_is_an_alarm_until_it_is() {
    let mut world = World::with(&["one", "two"]);
    world.start();
    let bytes = audio(100_000, 9);
    let id = world.released("a.wav", &bytes);
    let old = key(&world, id, "one");
    world.stores[0].tamper(&old, None);
    world.stores[0].fail_next(Operation::Put, 100_000, Fault::Unreachable);
    let outcome = world.run_one(Command::Verify, "a.wav");
    assert!(
        matches!(&outcome, Outcome::Failed(why) if why.contains("could not be replaced")),
        "{outcome:?}"
    );
    let bad = world.engine().status().bad;
    assert_eq!((bad.len(), bad[0].key.as_str()), (1, &*old), "{bad:?}");
    assert!(verified(&world, id, "one").is_empty());
    world.stores[0].set_down(true);
    world.restart();
    assert_eq!(world.engine().status().bad, bad, "not forgotten with the daemon");
    world.stores[0].fail_no_more();
    world.stores[0].set_down(false);
    world.until("it is replaced", || {
        world.pass(60);
        !verified(&world, id, "one").is_empty() && world.engine().status().bad.is_empty()
    });
    let new = key(&world, id, "one");
    assert_eq!(world.object(&new), bytes);
    // Or by the next `verify`.
    world.stores[0].tamper(&new, None);
    world.stores[0].fail_next(Operation::Put, 100_000, Fault::Unreachable);
    let outcome = world.run_one(Command::Verify, "a.wav");
    let why = "could not be replaced";
    assert!(matches!(&outcome, Outcome::Failed(w) if w.contains(why)), "{outcome:?}");
    world.stores[0].fail_no_more();
    world.until("it is replaced", || {
        let _replaced_now_or_by_itself = world.run_one(Command::Verify, "a.wav");
        world.engine().status().bad.is_empty() && !verified(&world, id, "one").is_empty()
    });
    assert_eq!(world.run_one(Command::Verify, "a.wav"), Outcome::Done);
}

#[test]
fn a_copy_that_no_key_opens_is_told_and_nothing_is_done_to_it_until_the_key_is_back() {
    let (mut world, ids) = scrubbed(&["one", "two"], 2);
    let before = |world: &World| world.catalog().objects(ids[0], None).unwrap();
    let (objects, locked) = (before(&world), key(&world, ids[0], "one"));
    world.stores[0].set_key_lost(&locked, true);
    let told = |world: &World| {
        let status = world.engine().status();
        assert_eq!(status.bad, [], "it is not damaged");
        status.unopened.iter().map(|one| one.key.clone()).collect::<Vec<_>>()
    };
    scrub(&world, "a round is through", || round(&world, "one").is_some_and(|r| r.through));
    assert_eq!(told(&world), [&*locked]);
    assert_eq!(round(&world, "one").map(|r| (r.checked, r.replaced)), Some((2, 0)));
    let outcome = world.run_one(Command::Verify, "0.wav");
    assert!(matches!(&outcome, Outcome::Failed(why) if why.contains("no key")), "{outcome:?}");
    world.restart();
    assert_eq!(told(&world), [&*locked], "not forgotten with the daemon");
    assert_eq!((before(&world), world.keys().len()), (objects, 2), "nothing was put or given up");
    world.stores[0].set_key_lost(&locked, false);
    world.until("the key is back", || {
        world.pass(60);
        told(&world).is_empty()
    });
}

#[test]
fn what_is_damaged_is_told_as_that_whether_its_key_is_lost_before_or_after() {
    let world = World::new();
    for lost_first in [true, false] {
        let name = format!("{lost_first}.wav");
        let id = world.released(&name, &audio(1000, 1));
        let key = key(&world, id, "one");
        for lost in [lost_first, !lost_first] {
            match lost {
                true => world.store().set_key_lost(&key, true),
                false => {
                    world.store().set_key_lost(&key, false);
                    world.store().tamper(&key, Some(b"rubbish"));
                }
            }
            assert!(matches!(world.run_one(Command::Verify, &name), Outcome::Failed(_)));
        }
        let status = world.engine().status();
        let bad: Vec<_> = status.bad.iter().map(|one| &one.key).collect();
        assert!(bad.contains(&&key) && status.unopened.is_empty(), "{status:?}");
    }
}

#[test]
fn regression_what_was_given_up_without_an_alarm_is_found_at_the_next_start() {
    let mut world = World::with(&["one", "two"]);
    world.start();
    let bytes = audio(100_000, 9);
    let id = world.released("a.wav", &bytes);
    let object = verified(&world, id, "one").pop().unwrap();
    world.stores[0].tamper(&object.key, Some(b"rubbish"));
    world.catalog().object_bad(&object, true).unwrap();
    world.restart();
    world.until("it is replaced", || {
        world.pass(60);
        !verified(&world, id, "one").is_empty() && world.engine().status().bad.is_empty()
    });
    assert_eq!(world.object(&key(&world, id, "one")), bytes);
}

/// First one target's copy is bad and the other's is good, then the other way round.
#[test]
fn two_targets_that_spoil_a_recording_in_turn_both_have_it_in_the_end() {
    for refuses in [false, true] {
        let mut world = World::with(&["one", "two"]);
        world.start();
        let bytes = audio(100_000, 9);
        let id = world.released("a.wav", &bytes);
        let (first, second) = (key(&world, id, "one"), key(&world, id, "two"));
        world.stores[0].tamper(&first, Some(b"rubbish"));
        if refuses {
            world.stores[0].fail_next(Operation::Put, 1, Fault::Denied);
        }
        assert!(matches!(world.run_one(Command::Verify, "a.wav"), Outcome::Failed(_)));
        assert_eq!(verified(&world, id, "one").is_empty(), refuses);
        world.stores[1].tamper(&second, None);
        if refuses {
            // What it had was brought back; nobody counts on it any more.
            world.stores[0].tamper(&first, Some(&bytes));
        }
        let outcome = world.run_one(Command::Verify, "a.wav");
        assert!(
            matches!(&outcome, Outcome::Failed(why) if why.contains("replaced from target \"one\"")),
            "{outcome:?}"
        );
        world.until("both have it", || {
            world.pass(60);
            let has = |target| !verified(&world, id, target).is_empty();
            has("one") && has("two") && world.engine().status().bad.is_empty()
        });
        assert_eq!(key(&world, id, "one") == first, refuses);
        assert_ne!(key(&world, id, "two"), second);
        assert_eq!(world.run_one(Command::Verify, "a.wav"), Outcome::Done);
        for store in [0, 1] {
            world.stores[store].tamper(&key(&world, id, ["two", "one"][store]), None);
        }
        assert_eq!(world.run_one(Command::Recall, "a.wav"), Outcome::Done);
        assert_eq!(fs::read(world.below("a.wav")).unwrap(), bytes);
    }
}

#[test]
fn regression_a_copy_is_not_fetched_into_a_disk_without_room_for_it() {
    let mut world = World::with(&["one", "two"]);
    world.start();
    let bytes = audio(100_000, 9);
    let id = world.released("a.wav", &bytes);
    let old = key(&world, id, "one");
    world.stores[0].tamper(&old, None);
    world.reserve = u64::MAX;
    world.restart();
    world.until("targets answer", || {
        world.engine().status().targets.iter().all(|t| t.standing == Standing::Up)
    });
    let outcome = world.run_one(Command::Verify, "a.wav");
    assert!(matches!(&outcome, Outcome::Failed(why) if why.contains("make room")), "{outcome:?}");
    assert_eq!((key(&world, id, "one"), world.engine().status().bad.len()), (old, 1));
    world.reserve = 0;
    world.restart();
    world.until("it is replaced", || {
        world.pass(60);
        world.engine().status().bad.is_empty()
    });
    assert_eq!(world.object(&key(&world, id, "one")), bytes);
}

#[test]
fn regression_an_alarm_of_what_was_written_anew_or_deleted_is_over() {
    let world = World::new();
    for (path, deleted) in [("a.wav", false), ("b.wav", true)] {
        let id = world.released(path, &audio(1000, 1));
        world.store().tamper(&key(&world, id, "one"), None);
        assert!(matches!(world.run_one(Command::Verify, path), Outcome::Failed(_)));
        assert_eq!(world.engine().status().bad.len(), 1);
        if deleted {
            let (parent, name) = (NodeId::ROOT, path.as_bytes().to_vec());
            let at = world.now();
            world.catalog().record(Op::Unlink {
                fate: spoolfs::catalog::Fate::Kept,
                parent,
                name,
                id,
                last: true,
                at,
            });
        } else {
            // As the mount does it with O_TRUNC.
            world.catalog().record(Op::Opened { id });
            fs::write(world.below(path), audio(2000, 2)).unwrap();
            world.lower().identify(Path::new(path), id).unwrap();
            world.close(path, id);
            world.pass(400);
            world.until_state(id, State::Archived);
        }
        world.until("nobody wants it", || {
            world.pass(60);
            world.engine().status().bad.is_empty()
        });
        if !deleted {
            // If it was looked at before the new content was hashed, it was given up then.
            let objects = world.catalog().objects(id, None).unwrap();
            let counts = objects.iter().filter(|o| o.state == ObjectState::Verified).count() > 1;
            let outcome = world.run_one(Command::Verify, path);
            assert_eq!(matches!(&outcome, Outcome::Failed(_)), counts, "it is told: {outcome:?}");
            assert!(world.engine().status().bad.is_empty(), "and wakes nobody");
        }
    }
}

#[test]
fn all_recordings_are_verified_a_page_at_a_time() {
    let world = World::new();
    world.mkdir("dir");
    for n in 0..600 {
        world.record(&format!("dir/{n}"), &audio(10, n as u8));
    }
    let bad = world.archived("bad.wav", b"bad");
    world.store().tamper(&key(&world, bad, "one"), None);
    world.record("empty.wav", b"");
    let (summary, told) = world.run(Command::Verify, "");
    assert_eq!((told.len(), summary.failed), (602, 1), "{summary:?}");
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

#[test]
fn the_scrub_passes_nothing_over_while_the_keys_that_encrypt_are_awaited() {
    let mut world = World::new();
    let id = world.released("a.wav", b"audio");
    let key = key(&world, id, "one");
    world.store().tamper(&key, Some(b"other"));
    world.store().fail_next(Operation::Get, 1, Fault::Awaited);
    world.scrub_every = Some(Duration::from_secs(1_000_000));
    world.restart();
    world.until("it is looked at after all", || {
        world.pass(10_000);
        !world.engine().status().bad.is_empty() || round(&world, "one").is_some_and(|it| it.through)
    });
    assert_eq!(world.engine().status().bad.len(), 1, "it was passed over");
    assert!(world.engine().status().unopened.is_empty());
}

/// An error of the moment at the first of them put all off for an hour.
#[test]
fn regression_bad_copies_do_not_wait_an_hour_for_an_error_of_the_moment() {
    let mut world = World::with(&["one", "two"]);
    world.start();
    let ids = [("a.wav", 1), ("b.wav", 2)].map(|(name, n)| world.released(name, &audio(1000, n)));
    for id in ids {
        let old = key(&world, id, "one");
        world.stores[0].tamper(&old, None);
    }
    world.stores[0].fail_next(Operation::Put, 100_000, Fault::Unreachable);
    for name in ["a.wav", "b.wav"] {
        assert!(matches!(world.run_one(Command::Verify, name), Outcome::Failed(_)));
    }
    assert_eq!(world.engine().status().bad.len(), 2);
    world.stores[0].fail_no_more();
    world.stores[0].fail_next(Operation::Put, 1, Fault::Unreachable);
    world.pass(3600);
    world.until("both are replaced", || world.engine().status().bad.is_empty());
    assert!(ids.iter().all(|id| verified(&world, *id, "one").len() == 1));
}

/// It was passed over, and nobody looked at it before the next round.
#[test]
fn regression_a_bad_object_of_a_busy_recording_is_seen_to_in_the_same_round() {
    let mut world = World::with(&["one", "two"]);
    world.scrub_every = Some(Duration::from_secs(100 * DAY));
    // Whoever recalls it waits as long as the test.
    world.read_timeout = Duration::from_secs(3600);
    world.start();
    let id = world.released("a.wav", &audio(1000, 1));
    let looked = || world.stores[1].calls(Operation::Head);
    world.stores[1].set_paused(true);
    let before = looked();
    world.stores[1].tamper(&key(&world, id, "two"), None);
    scrub(&world, "the scrub asks for it", || looked() > before);
    let begun = round(&world, "two").unwrap().begun;
    world.stores[0].set_paused(true);
    let asked = world.stores[0].calls(Operation::Get);
    std::thread::scope(|scope| {
        let _brought = scope.spawn(|| world.run_one(Command::Recall, "a.wav"));
        world.until("it is being recalled", || world.stores[0].calls(Operation::Get) > asked);
        world.stores[1].set_paused(false);
        // Twice each time.
        scrub(&world, "it was found bad and is asked for again", || looked() > before + 2);
        let now = round(&world, "two").unwrap();
        world.stores[0].set_paused(false);
        assert_eq!((now.checked, now.begun), (0, begun), "it is not passed over");
    });
    scrub(&world, "it is seen to", || round(&world, "two").unwrap().replaced == 1);
    assert_eq!(round(&world, "two").unwrap().begun, begun);
}

/// Its answer was that no target was reached yet.
#[test]
fn regression_verify_right_after_a_start_waits_until_the_targets_were_asked() {
    let mut world = World::new();
    world.released("a.wav", &audio(1000, 1));
    world.die();
    world.open();
    world.store().set_paused(true);
    world.start();
    let began = std::time::Instant::now();
    let outcome = std::thread::scope(|scope| {
        let verified = scope.spawn(|| world.run_one(Command::Verify, "a.wav"));
        std::thread::sleep(Duration::from_millis(200));
        world.store().set_paused(false);
        verified.join().unwrap()
    });
    // On a machine that stands still the time to wait may be over.
    let waited = began.elapsed() >= spoolfs::limits::FIRST_ANSWER_WAIT;
    assert!(outcome == Outcome::Done || waited, "{outcome:?}");
}

/// The only good copy was in a target that was away when the bad one was found: that waited an hour.
#[test]
fn regression_a_bad_copy_is_replaced_soon_after_the_target_with_a_good_one_is_back() {
    let mut world = World::with(&["one", "two"]);
    world.start();
    let id = world.released("a.wav", &audio(1000, 1));
    world.stores[0].tamper(&key(&world, id, "one"), None);
    world.stores[1].fail_next_of("a.wav", Operation::Head, 1000, Fault::Unreachable);
    assert!(matches!(world.run_one(Command::Verify, "a.wav"), Outcome::Failed(_)));
    assert_eq!(world.engine().status().bad.len(), 1);
    world.stores[1].fail_no_more();
    let began = world.now();
    world.until("it is replaced", || {
        world.pass(1);
        world.engine().status().bad.is_empty()
    });
    assert!(world.now() < began.plus(Duration::from_secs(600)), "not an hour");
    assert_eq!(verified(&world, id, "one").len(), 1);
}

/// Behind it nothing was looked at any more.
#[test]
fn regression_an_object_that_is_never_given_keeps_no_other_from_being_looked_at() {
    for known in [true, false] {
        let (world, ids) = scrubbed(&["one", "two"], 2);
        let never_given = |target: usize| {
            let store = &world.stores[target];
            store.fail_next_of("0.wav", Operation::Head, 100_000, Fault::Unreachable);
        };
        if known {
            world.stores[0].tamper(&key(&world, ids[0], "one"), None);
            never_given(1);
            assert!(matches!(world.run_one(Command::Verify, "0.wav"), Outcome::Failed(_)));
        }
        never_given(0);
        world.stores[0].tamper(&key(&world, ids[1], "one"), None);
        scrub(&world, "the other is replaced", || round(&world, "one").unwrap().replaced == 1);
        assert_eq!(verified(&world, ids[1], "one").len(), 1, "{known}");
    }
}
