//! `worm`: what a rule has locked in the targets that can.

use crate::expiry::{DAY, path, rule};
use crate::policy::{Told, of_campaign};
use crate::world::{World, audio};
use spoolfs::engine::{Command, Standing};
use spoolfs::policy::{ExpireFrom, Matches, Policy, Words, Worm, WormMode};
use spoolfs::recording::{NodeId, State};
use spoolfs::store::Retention;
use spoolfs::store::memory::{Fault, Operation};
use std::sync::Arc;
use std::time::Duration;

fn locking(name: &str, matches: Matches, days: u64, mode: WormMode) -> Policy {
    let worm = Some(Worm { after: Duration::from_secs(days * DAY), mode });
    let mut policy = rule(name, matches, None, ExpireFrom::Close);
    policy.treatment.worm = worm;
    policy
}

fn campaign(name: &str) -> Matches {
    Matches { campaign: Words::new(&[name]).unwrap(), ..Matches::default() }
}

/// Two targets, of which the first can lock.
fn world(policies: Vec<Policy>) -> (World, Arc<Told>) {
    let mut world = World::with(&["one", "two"]);
    let told = Arc::new(Told::default());
    world.calls = Some(told.clone());
    world.store().set_locks(true);
    world.rules.policies = policies;
    world.start();
    (world, told)
}

/// The locks on each of its contents in the first target.
fn locks(world: &World, id: NodeId) -> Vec<Option<Retention>> {
    let objects = world.catalog().objects(id, None).unwrap();
    let first = objects.into_iter().filter(|o| o.target == "one");
    first.map(|o| world.store().retained(&o.key)).collect()
}

/// So many days after its last close, in whole seconds and not before.
#[track_caller]
fn assert_locked(world: &World, id: NodeId, days: u64, mode: WormMode) {
    let closed = world.row(id).closed_at.unwrap();
    let due = closed.plus(Duration::from_secs(days * DAY));
    let found = locks(world, id).pop().flatten().expect("a lock");
    assert!(found.until >= due && found.until.0 - due.0 <= 1_000_000_000, "{found:?} {due:?}");
    assert_eq!(found.mode, mode);
}

#[test]
fn each_content_is_locked_for_the_time_of_its_rule_or_the_longest_that_it_could_be() {
    let (world, told) = world(vec![
        locking("long", campaign("LONG"), 2000, WormMode::Governance),
        locking("strict", campaign("STRICT"), 90, WormMode::Compliance),
    ]);
    told.tell("strict.wav", of_campaign("STRICT"));
    told.tell("other.wav", of_campaign("OTHER"));
    let strict = world.archived("strict.wav", &audio(900, 1));
    assert_locked(&world, strict, 90, WormMode::Compliance);
    let other = world.archived("other.wav", &audio(900, 2));
    assert_eq!(locks(&world, other), [None]);
    let unknown = world.archived("unknown.wav", &audio(900, 3));
    assert_locked(&world, unknown, 2000, WormMode::Compliance);
    world.overwrite("strict.wav", strict, &audio(1800, 4));
    world.pass(400);
    world.until_state(strict, State::Archived);
    let both = locks(&world, strict);
    assert_eq!(both.len(), 2);
    assert!(both[0].unwrap().until < both[1].unwrap().until, "{both:?}");
    // One target can not, and that keeps nothing.
    assert!(world.stores[1].keys().iter().all(|key| world.stores[1].retained(key).is_none()));
    assert_eq!(world.stores[1].calls(Operation::Retain), 0);
}

#[test]
fn regression_a_target_that_could_not_lock_is_asked_again_and_nothing_stays_without() {
    let (world, _) = world(vec![locking("all", path("*.wav"), 90, WormMode::Governance)]);
    let locked = world.archived("locked.wav", &audio(900, 1));
    assert_locked(&world, locked, 90, WormMode::Governance);
    world.until("all is looked at", || {
        let told = world.catalog().setting("worm.one").unwrap();
        told.is_some_and(|told| told.contains("\"done\":true"))
    });
    let mut world = world;
    world.die();
    // A permission is taken away for a day.
    world.store().set_locks(false);
    world.open();
    world.start();
    let missed = world.archived("missed.wav", &audio(900, 2));
    assert_eq!(locks(&world, missed), [None]);
    world.store().set_locks(true);
    world.until("what it missed is locked", || {
        world.pass(3700);
        locks(&world, missed) != [None]
    });
    assert_locked(&world, missed, 90, WormMode::Governance);
    let next = world.archived("next.wav", &audio(900, 3));
    assert_locked(&world, next, 90, WormMode::Governance);
}

#[test]
fn regression_a_time_in_the_future_makes_no_lock_longer() {
    let (world, _) = world(vec![locking("all", path("*.wav"), 90, WormMode::Compliance)]);
    let (id, file) = world.begin("a.wav", &audio(900, 1));
    let far = std::time::UNIX_EPOCH + Duration::from_secs(200 * 365 * DAY);
    file.set_modified(far).unwrap();
    drop(file);
    world.close("a.wav", id);
    world.pass(400);
    world.until_state(id, State::Archived);
    assert!(world.row(id).attr.mtime > world.now(), "it has that time");
    let found = locks(&world, id).pop().flatten().expect("a lock");
    let latest = world.now().plus(Duration::from_secs(90 * DAY + 1));
    assert!(found.until <= latest, "{found:?}");
}

#[test]
fn nothing_counts_as_archived_before_its_lock_was_seen() {
    let (world, _) = world(vec![locking("all", path("*.wav"), 90, WormMode::Governance)]);
    world.store().fail_next(Operation::Retain, 2, Fault::Denied);
    world.store().fail_next(Operation::Retain, 1, Fault::ReplyLost);
    let id = world.record("a.wav", &audio(900, 1));
    world.pass(400);
    let asked = || world.store().calls(Operation::Retain);
    world.until("it was refused", || asked() >= 1);
    world.idle();
    assert_eq!(world.state(id), State::Closed);
    world.until("it is archived", || {
        world.pass(60);
        world.state(id) != State::Closed
    });
    assert_eq!(asked(), 4);
    assert_locked(&world, id, 90, WormMode::Governance);
    assert_eq!(locks(&world, id).len(), 1, "under one key");
}

#[test]
fn what_is_older_than_its_lock_would_last_is_archived_without_one() {
    let (mut world, _) = world(vec![locking("all", path("*.wav"), 1, WormMode::Compliance)]);
    world.store().set_down(true);
    let id = world.record("a.wav", &audio(900, 1));
    world.pass(2 * DAY);
    world.store().set_down(false);
    world.restart();
    world.until("it is archived", || {
        world.pass(60);
        world.state(id) != State::Closed
    });
    assert_eq!(locks(&world, id), [None]);
}

#[test]
fn what_was_archived_before_the_rule_is_locked_later() {
    let (mut world, told) = world(vec![]);
    let names = ["a.wav", "b.wav", "c.wav", "other.txt"];
    let ids = names.map(|name| world.archived(name, &audio(900, 1)));
    assert!(ids.iter().all(|id| locks(&world, *id) == [None]));
    world.rules.policies = vec![locking("all", path("*.wav"), 90, WormMode::Governance)];
    // Refused the first time.
    world.store().fail_next(Operation::Retain, 1, Fault::Denied);
    world.restart();
    let locked = |world: &World| ids.map(|id| locks(world, id)[0].is_some());
    world.until("those behind it are locked", || locked(&world) == [false, true, true, false]);
    // What was refused is tried again.
    world.until("it is locked", || {
        world.pass(3600);
        locked(&world) == [true, true, true, false]
    });
    for id in &ids[..3] {
        assert_locked(&world, *id, 90, WormMode::Governance);
    }
    let done = || {
        let told = world.catalog().setting("worm.one").unwrap().unwrap_or_default();
        told.contains("\"done\":true")
    };
    world.until("nothing is left", done);
    let asked = world.store().calls(Operation::Retain);
    world.restart();
    world.pass(2 * DAY);
    world.idle();
    assert_eq!(world.store().calls(Operation::Retain), asked, "once for these rules");
    // Who can not be asked whose call it was is not locked for too long.
    world.rules.policies = vec![locking("long", campaign("LONG"), 2000, WormMode::Compliance)];
    *told.broken.lock() = Some("gone".to_owned());
    world.restart();
    world.pass(60);
    world.idle();
    assert_eq!(world.store().calls(Operation::Retain), asked);
}

/// It ended the whole page, which was begun anew after a wait that grew.
#[test]
fn regression_a_busy_recording_keeps_no_other_from_being_locked_later() {
    let (mut world, _) = world(vec![]);
    // Whoever recalls it waits as long as the test.
    world.read_timeout = Duration::from_secs(3600);
    world.restart();
    let names = ["a.wav", "b.wav", "c.wav"];
    let ids = names.map(|name| world.released(name, &audio(900, 1)));
    world.rules.policies = vec![locking("all", path("*.wav"), 90, WormMode::Governance)];
    // No lock before the first is busy.
    let (one, two) = (Arc::clone(&world.stores[0]), Arc::clone(&world.stores[1]));
    one.set_down(true);
    world.restart();
    world.until("the other target is up", || {
        world.engine().status().targets[1].standing == Standing::Up
    });
    two.set_paused(true);
    let asked = two.calls(Operation::Get);
    std::thread::scope(|scope| {
        let _brought = scope.spawn(|| world.run_one(Command::Recall, "a.wav"));
        world.until("it is being recalled", || two.calls(Operation::Get) > asked);
        one.set_down(false);
        let locked = || ids.map(|id| locks(&world, id)[0].is_some());
        world.until("those behind it are locked", || {
            world.pass(1);
            locked()[1..] == [true, true]
        });
        two.set_paused(false);
    });
    world.until("it is locked", || {
        world.pass(1);
        locks(&world, ids[0])[0].is_some()
    });
}
