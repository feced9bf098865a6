//! Days without a target, and times of the day at which nothing is uploaded.

use crate::world::{World, audio};
use spoolfs::catalog::Op;
use spoolfs::clock::Timestamp;
use spoolfs::engine::{Amount, Command, Outcome, Standing};
use spoolfs::policy::{Rate, Rules, Timetable};
use spoolfs::recording::{NodeId, State};
use spoolfs::store::memory::Operation;
use std::collections::HashMap;
use std::fs::File;
use std::time::{Duration, Instant, SystemTime};

const HOUR: u64 = 3600;
/// Longest time of the real clock that a backlog may take to drain.
const PATIENCE: Duration = Duration::from_secs(480);

fn backlog() -> usize {
    std::env::var("SPOOLFS_TEST_BACKLOG").map_or(5_000, |n| n.parse().unwrap())
}

fn waiting(world: &World) -> Amount {
    let counts = world.catalog().counts().unwrap();
    let closed = counts.states.iter().find(|(state, ..)| *state == State::Closed).unwrap();
    Amount { files: closed.1, bytes: closed.2 }
}

/// A recording that ended now, by the clock of the world.
fn call(world: &World, path: &str) -> NodeId {
    let (id, writer) = world.begin(path, path.as_bytes());
    writer.set_modified(SystemTime::from(world.now())).unwrap();
    drop(writer);
    world.close(path, id);
    id
}

/// `find -mtime +1 -delete` through the mount: what is two days old goes.
fn cron(world: &World, calls: &mut HashMap<String, NodeId>) -> Vec<NodeId> {
    let mut deleted = Vec::new();
    calls.retain(|path, id| {
        let below = world.below(path);
        let changed = File::open(&below).unwrap().metadata().unwrap().modified().unwrap();
        let keep = Timestamp::from(changed).age_at(world.now()) < Duration::from_secs(48 * HOUR);
        if !keep {
            std::fs::remove_file(below).unwrap();
            let (parent, name) = (NodeId::ROOT, path.clone().into_bytes());
            let at = world.now();
            world.catalog().record(Op::Unlink {
                fate: spoolfs::catalog::Fate::Kept,
                parent,
                name,
                id: *id,
                last: true,
                at,
            });
            deleted.push(*id);
        }
        keep
    });
    deleted
}

#[test]
fn after_an_outage_of_two_days_today_does_not_wait_for_the_backlog() {
    let mut world = World::with(&["one"]);
    // Local copies stay, so that the cron has something to delete.
    world.rules.keep_local = None;
    world.start();
    world.until_standing(Standing::Up);
    let mut calls = HashMap::new();
    for n in 0..20 {
        let path = format!("before-{n}.wav");
        calls.insert(path.clone(), call(&world, &path));
    }
    world.pass(400);
    world.until("archived before the outage", || waiting(&world).files == 0);

    world.store().set_down(true);
    let each = backlog() / 48;
    let mut deleted = Vec::new();
    for hour in 0..48 {
        world.pass(HOUR / 2);
        for n in 0..each {
            let path = format!("out-{hour}-{n}.wav");
            calls.insert(path.clone(), call(&world, &path));
        }
        world.pass(HOUR / 2);
        deleted.extend(cron(&world, &mut calls));
    }
    assert_eq!(deleted.len(), 20, "what was archived before is two days old");
    world.until_standing(Standing::Down);
    let begun = Instant::now();
    let hashed = || world.catalog().counts().unwrap().unhashed == 0;
    while !hashed() {
        assert!(begun.elapsed() < PATIENCE);
        world.engine().nudge();
        std::thread::sleep(Duration::from_millis(20));
    }
    assert_eq!(waiting(&world).files as usize, each * 48, "nothing unarchived was lost");

    // A call of today, whose time comes when the target does.
    let today: Vec<NodeId> = (0..20).map(|n| call(&world, &format!("today-{n}.wav"))).collect();
    world.pass(3);
    world.until("hashed", hashed);
    world.pass(298);
    let due = world.now();
    world.store().set_down(false);
    let begun = Instant::now();
    let is_archived = |id: &NodeId| world.state(*id) == State::Archived;
    while !today.iter().all(is_archived) {
        assert!(begun.elapsed() < PATIENCE);
        world.engine().nudge();
        std::thread::sleep(Duration::from_millis(100));
        world.pass(1);
    }
    let (took, left) = (due.age_at(world.now()), waiting(&world));
    assert!(took < Duration::from_secs(60), "{took:?}");
    assert!(left.files as usize > each * 48 / 2, "only {} of the backlog wait still", left.files);

    let begun = Instant::now();
    let mut told = None;
    while waiting(&world).files > 0 {
        assert!(begun.elapsed() < PATIENCE, "{:?}", world.catalog().last_trouble());
        std::thread::sleep(Duration::from_millis(100));
        world.pass(1);
        let drain = world.engine().status().drain;
        told =
            told.or(drain.filter(|d| d.archived.files > 0).and_then(|d| d.left(waiting(&world))));
    }
    println!("{} drained in {:?}", each * 48, begun.elapsed());
    assert!(told.is_some_and(|left| left < Duration::from_secs(86_400)), "{told:?}");
    assert!(calls.values().all(is_archived));
    // The cron took names and local copies, not the archive.
    let keys = world.keys();
    assert_eq!(keys.len(), 20 + each * 48 + 20);
    for n in 0..20 {
        assert_eq!(
            world.object(&format!("p/pbx/before-{n}.wav")),
            format!("before-{n}.wav").as_bytes()
        );
    }
}

/// "off" from an hour ago until in two hours, by the clock of the world, which is in UTC.
pub fn off_now(now: Timestamp) -> Timetable {
    let text = |at: i64| format!("{:02}:{:02}", at / 3600 % 24, at / 60 % 60);
    let (from, until) = (text(now.secs() - 3600), text(now.secs() + 7200));
    format!("{from},off {until},unlimited").parse().unwrap()
}

#[test]
fn when_uploads_are_off_only_what_is_asked_for_or_in_danger_goes() {
    let mut world = World::with(&["one"]);
    world.rules.bandwidth = off_now(world.now());
    world.start();
    let waits = world.record("waits.wav", &audio(1000, 1));
    let asked = world.record("asked.wav", &audio(1000, 2));
    let suspect = world.record("suspect.wav", &audio(1000, 3));
    world.until_hashed(suspect);
    world.until_hashed(asked);
    world.until_hashed(waits);
    world.pass(400);
    world.idle();
    assert_eq!(world.keys(), Vec::<String>::new());
    let status = world.engine().status();
    assert_eq!(status.rate, Rate::Off);
    let opens = status.opens.unwrap();
    assert_eq!(status.next_rate, Some((opens, Rate::Unlimited)));
    let why = world.explain("waits.wav");
    assert!(why.contains("Nothing is uploaded at this time of the day"), "{why}");

    assert_eq!(world.run_one(Command::Archive, "asked.wav"), Outcome::Done);
    world.catalog().suspect(suspect);
    world.until_state(suspect, State::Archived);
    world.idle();
    assert_eq!(world.state(waits), State::Closed);

    world.pass(world.now().age_at(opens).as_secs() + 1);
    world.until_state(waits, State::Archived);
    assert_eq!(world.engine().status().opens, None);
}

#[test]
fn another_timetable_is_in_force_at_once() {
    let mut world = World::with(&["one"]);
    world.rules.bandwidth = off_now(world.now());
    world.start();
    let id = world.record("a.wav", &audio(1000, 1));
    world.until_hashed(id);
    world.pass(400);
    world.idle();
    assert_eq!(world.state(id), State::Closed);
    // So slow that it would take half an hour, and then it need not.
    let slow = Rules { bandwidth: "1KiB".parse().unwrap(), ..world.rules.clone() };
    world.engine().reload(slow);
    world.until_state(id, State::Archived);
    let long = world.record("long.wav", &audio(2 << 20, 2));
    world.until_hashed(long);
    world.pass(400);
    world.idle();
    assert_eq!(world.state(long), State::Closed);
    world.engine().reload(Rules { bandwidth: Timetable::default(), ..world.rules.clone() });
    world.until_state(long, State::Archived);
}

fn until_asked_again(world: &World) {
    world.until("asked again", || {
        let status = world.engine().status();
        status.targets[0].retry_at.is_some_and(|at| at > world.now())
    });
}

/// A target that is asked ever less often, and is mended before its time has come.
fn mended_after_a_long_time() -> (World, NodeId) {
    let mut world = World::with(&["one"]);
    world.store().set_down(true);
    world.start();
    let id = world.record("a.wav", b"audio");
    world.until_hashed(id);
    world.pass(400);
    for _ in 0..10 {
        world.pass(301);
        until_asked_again(&world);
    }
    world.store().set_down(false);
    world.idle();
    assert_eq!(world.state(id), State::Closed, "its time has not come");
    (world, id)
}

#[test]
fn a_reload_asks_a_target_that_is_down_at_once() {
    let (world, id) = mended_after_a_long_time();
    world.engine().reload(world.rules.clone());
    world.until_state(id, State::Archived);
}

#[test]
fn regression_a_command_asks_a_target_that_was_down_at_once() {
    let (world, id) = mended_after_a_long_time();
    assert_eq!(world.run_one(Command::Archive, "a.wav"), Outcome::Done);
    assert_eq!(world.state(id), State::Archived);
}

#[test]
fn a_command_asks_a_target_that_is_down_once_for_all_its_recordings() {
    let mut world = World::with(&["one"]);
    world.store().set_down(true);
    world.start();
    world.mkdir("d");
    for i in 0..20 {
        let id = world.record(&format!("d/{i}.wav"), b"audio");
        world.until_hashed(id);
    }
    until_asked_again(&world);
    let before = world.store().calls(Operation::Get);
    assert_eq!(world.run(Command::Archive, "d").0.failed, 20);
    assert_eq!(world.store().calls(Operation::Get) - before, 1, "the marker was asked for");
}
