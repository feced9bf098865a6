//! What is held is locked in the targets that can, and let go of when that is over.

use crate::expiry::{DAY, HOUR, path, rule};
use crate::world::{World, audio};
use spoolfs::catalog::{Catalog, LockCount, NewHold, Scope};
use spoolfs::policy::ExpireFrom;
use spoolfs::recording::NodeId;
use spoolfs::store::Locks;
use spoolfs::store::memory::{Fault, Operation};
use std::path::{Path, PathBuf};
use std::time::Duration;

fn new(case: &str) -> NewHold {
    let scope = Scope::of_paths([Path::new("call.wav")]);
    NewHold { case: case.into(), reason: "a letter".into(), by: "eve".into(), scope }
}

fn hold(world: &World, case: &str, paths: &[&str]) -> u64 {
    let paths: Vec<PathBuf> = paths.iter().map(PathBuf::from).collect();
    world.engine().hold(&new(case), &paths, &|_, _| (), &|_| ()).unwrap().id
}

fn lift(world: &World, hold: u64) {
    assert!(world.catalog().lift_hold(hold, "eve", "settled").unwrap());
    world.engine().holds_changed();
}

/// Its keys in the first target.
fn keys(world: &World, id: NodeId) -> Vec<String> {
    let objects = world.catalog().objects(id, None).unwrap();
    objects.into_iter().filter(|o| o.target == "one").map(|o| o.key).collect()
}

fn is_locked(world: &World, id: NodeId) -> bool {
    let keys = keys(world, id);
    !keys.is_empty() && keys.iter().all(|key| world.store().is_locked(key))
}

fn count(catalog: &Catalog, hold: u64) -> LockCount {
    catalog.lock_counts(hold).unwrap().remove("one").unwrap_or_default()
}

/// Everything is looked at, and looked at again after failures.
fn look(world: &World) {
    world.engine().holds_changed();
    world.pass(301);
}

#[test]
fn what_is_held_is_locked_in_each_content_until_the_grace_is_over() {
    let mut world = World::with(&["one", "two"]);
    world.store().set_locks(true);
    world.start();
    let id = world.archived("call.wav", &audio(900, 1));
    let other = world.archived("other.wav", &audio(900, 2));
    assert_eq!(world.store().calls(Operation::GetHold), 0, "nothing is held, nobody is asked");
    let (first, second) = (hold(&world, "A", &["call.wav"]), hold(&world, "B", &["call.wav"]));
    world.until("it is locked", || is_locked(&world, id));
    world.until("it is known", || count(world.catalog(), first).locked == 1);
    let can = world.engine().locks(Duration::from_secs(20));
    assert_eq!(can[0], ("one".into(), Some(Locks::Yes)));
    assert!(matches!(&can[1].1, Some(Locks::No(why)) if why.contains("memory")), "{can:?}");
    assert!(!is_locked(&world, other));
    // A new content of it too, when it is archived.
    world.overwrite("call.wav", id, &audio(900, 3));
    world.pass(3);
    world
        .until("both contents are locked", || keys(&world, id).len() == 2 && is_locked(&world, id));
    // What is held is released as ever.
    world.run(spoolfs::engine::Command::Release, "call.wav");
    lift(&world, first);
    look(&world);
    world.idle();
    assert!(is_locked(&world, id), "another hold is on it");
    lift(&world, second);
    world.pass(7 * DAY - 400);
    world.idle();
    assert!(is_locked(&world, id), "it is not let go of yet");
    world.pass(2 * HOUR);
    world.until("it is let go of", || !keys(&world, id).iter().any(|k| world.store().is_locked(k)));
    world.until("it is known", || count(world.catalog(), second).locked == 0);
}

#[test]
fn a_target_that_was_away_or_refuses_is_asked_again_also_by_another_daemon() {
    let mut world = World::with(&["one"]);
    world.store().set_locks(true);
    world.start();
    let ids: Vec<NodeId> =
        (0..5).map(|n| world.archived(&format!("{n}.wav"), &audio(900, n))).collect();
    world.store().set_down(true);
    let id = hold(&world, "A", &["0.wav", "1.wav", "2.wav", "3.wav", "4.wav"]);
    world.idle();
    // The daemon that was asked dies before the target is back, and then one that had begun.
    world.restart();
    world.store().fail_next(Operation::SetHold, 2, Fault::ReplyLost);
    world.store().set_down(false);
    world.until("some are locked", || {
        world.pass(301);
        ids.iter().any(|id| is_locked(&world, *id))
    });
    world.restart();
    world.store().fail_next(Operation::SetHold, 3, Fault::Denied);
    world.until("all are locked, and it is known", || {
        world.pass(301);
        count(world.catalog(), id) == LockCount { objects: 5, locked: 5, error: None }
    });
    assert!(ids.iter().all(|id| is_locked(&world, *id)));
    // And off again, over a death.
    lift(&world, id);
    world.pass(8 * DAY);
    world.restart();
    world.store().fail_next(Operation::SetHold, 2, Fault::ReplyLost);
    world.until("all are let go of", || {
        world.pass(301);
        !ids.iter().any(|id| is_locked(&world, *id)) && count(world.catalog(), id).locked == 0
    });
}

#[test]
fn a_refusal_is_told_and_one_bad_object_keeps_no_other_from_being_locked() {
    let world = World::new();
    world.store().set_locks(true);
    let (bad, good) = (world.archived("a.wav", &audio(900, 1)), world.archived("b.wav", b"audio"));
    let key = keys(&world, bad).remove(0);
    world.store().tamper(&key, Some(b"others"));
    let id = hold(&world, "A", &["a.wav", "b.wav"]);
    world.until("the good one is locked", || is_locked(&world, good));
    world.until("why the other is not", || {
        let error = count(world.catalog(), id).error.unwrap_or_default();
        error.contains("another object is under this key")
    });
    assert!(!is_locked(&world, bad));
    world.store().tamper(&key, Some(&audio(900, 1)));
    world.until("the other is locked", || {
        look(&world);
        is_locked(&world, bad)
    });
}

#[test]
fn a_legal_hold_that_somebody_takes_off_is_set_again_and_theirs_is_left_to_them() {
    let world = World::new();
    world.store().set_locks(true);
    let (ours, theirs) = (world.archived("a.wav", b"audio"), world.archived("b.wav", b"other"));
    let (our_key, their_key) = (keys(&world, ours).remove(0), keys(&world, theirs).remove(0));
    world.store().lock_from_outside(&their_key, true);
    let id = hold(&world, "A", &["a.wav", "b.wav"]);
    world.until("both are known to be locked", || count(world.catalog(), id).locked == 2);
    world.store().lock_from_outside(&our_key, false);
    world.until("it is set again", || {
        world.pass(2 * HOUR);
        world.store().is_locked(&our_key)
    });
    world.until("that is known", || count(world.catalog(), id).locked == 2);
    lift(&world, id);
    world.until("ours is let go of, and theirs forgotten", || {
        world.pass(DAY);
        !world.store().is_locked(&our_key) && count(world.catalog(), id).locked == 0
    });
    assert!(world.store().is_locked(&their_key));
}

/// It would be locked and let go of again in most cases.
#[test]
fn what_is_held_provisionally_is_locked_when_that_lasts() {
    let world = World::new();
    world.store().set_locks(true);
    let (sure, unsure) = (world.archived("a.wav", b"audio"), world.archived("b.wav", b"other"));
    let id = hold(&world, "A", &["a.wav"]);
    let all = world.catalog().all_holds().unwrap();
    world.engine().hold_also(&all[0], &[unsure], true).unwrap();
    world.until("the one that is meant is locked", || is_locked(&world, sure));
    world.idle();
    assert!(!is_locked(&world, unsure));
    world.pass(2 * HOUR);
    world.until("the other is locked", || is_locked(&world, unsure));
    world.until("that is known", || count(world.catalog(), id).locked == 2);
    world.catalog().let_go_provisional(id, &[unsure]).unwrap();
    world.until("it is let go of", || {
        look(&world);
        !is_locked(&world, unsure)
    });
    assert!(is_locked(&world, sure));
}

#[test]
fn what_expires_is_let_go_of_first_and_a_refused_delete_is_remembered() {
    let mut world = World::with(&["one"]);
    world.rules.policies = vec![rule("short", path("a*"), Some(10), ExpireFrom::Close)];
    world.store().set_locks(true);
    world.start();
    let (ours, theirs) = (world.released("a.wav", b"audio"), world.released("a2.wav", b"other"));
    let (our_key, their_key) = (keys(&world, ours).remove(0), keys(&world, theirs).remove(0));
    let id = hold(&world, "A", &["a.wav"]);
    world.until("it is locked", || is_locked(&world, ours));
    world.until("that is known", || count(world.catalog(), id).locked == 1);
    world.store().lock_from_outside(&their_key, true);
    assert!(world.catalog().lift_hold(id, "eve", "settled").unwrap());
    world.pass(20 * DAY);
    let gone = |path: &str| world.find(path).is_none();
    world.until("both expired", || {
        world.engine().expire(true, true).unwrap();
        gone("a.wav") && gone("a2.wav")
    });
    world.until("ours is deleted", || {
        world.engine().expire(true, true).unwrap();
        world.store().bytes(&our_key).is_none()
    });
    let done = world.engine().expire(true, true).unwrap();
    assert!(done.left == 1 && done.why.unwrap().contains("Object Lock"));
    let (count, why) = world.catalog().undeletable().unwrap().unwrap();
    assert!(count == 1 && why.contains(&their_key), "{why}");
    // It is not asked for again and again.
    let tries = world.store().calls(Operation::Delete);
    for _ in 0..5 {
        world.pass(HOUR);
        world.idle();
    }
    assert_eq!(world.store().calls(Operation::Delete), tries);
    world.store().lock_from_outside(&their_key, false);
    world.until("it is deleted a day later", || {
        world.pass(HOUR);
        world.store().bytes(&their_key).is_none()
    });
    world.until("it is forgotten", || world.catalog().undeletable().unwrap().is_none());
}

#[test]
fn what_a_lost_catalog_locked_is_known_as_ours_after_a_rebuild() {
    let mut world = World::new();
    world.store().set_locks(true);
    let paths = ["ours.wav", "theirs.wav", "unsigned.wav"];
    let ids = paths.map(|path| world.archived(path, &audio(900, path.len() as u8)));
    let [ours, theirs, unsigned] = ids.map(|id| keys(&world, id).remove(0));
    world.store().lock_from_outside(&theirs, true);
    let id = hold(&world, "A", &paths[..2]);
    world.until("both are known to be locked", || count(world.catalog(), id).locked == 2);
    // One that may not be noted is locked, too.
    world.store().fail_next(Operation::Sign, 1, Fault::Denied);
    let other = hold(&world, "A", &paths[2..]);
    world.until("it is locked", || count(world.catalog(), other).locked == 1);
    world.until_told();
    world.die();
    world.lose_catalog();
    world.rebuild(Some("pbx"), &["one"]).unwrap();
    world.open();
    world.start();
    world.until("all are known to be locked", || {
        look(&world);
        count(world.catalog(), id).locked == 2 && count(world.catalog(), other).locked == 1
    });
    for hold in [id, other] {
        lift(&world, hold);
    }
    world.until("ours is let go of", || {
        world.pass(DAY);
        !world.store().is_locked(&ours)
    });
    world.until("the others are forgotten", || {
        look(&world);
        count(world.catalog(), id).locked + count(world.catalog(), other).locked == 0
    });
    assert!(world.store().is_locked(&theirs) && world.store().is_locked(&unsigned));
    // It is noted no more: who locks it now is somebody else.
    world.store().lock_from_outside(&ours, true);
    let third = hold(&world, "B", &paths[..1]);
    world.until("it is seen", || count(world.catalog(), third).locked == 1);
    lift(&world, third);
    world.until("it is forgotten", || {
        world.pass(DAY);
        count(world.catalog(), third).locked == 0
    });
    assert!(world.store().is_locked(&ours));
}
