use crate::world::{World, rules};
use spoolfs::engine::Pressure;
use spoolfs::policy::{Marks, Rules};
use spoolfs::recording::State;
use std::time::Duration;

/// Every disk is fuller than this.
const FULL: Marks = Marks { high: 0, low: 0 };
const NEVER: Marks = Marks { high: 100, low: 100 };

fn full() -> Rules {
    Rules { marks: FULL, ..rules() }
}

#[test]
fn above_the_high_mark_nothing_waits_for_its_time() {
    let mut world = World::with(&["one"]);
    world.rules = full();
    world.start();
    let id = world.record("a.wav", b"audio");
    world.pass(3);
    world.until_state(id, State::Released);
    assert!(world.explain("a.wav").contains("high mark"), "{}", world.explain("a.wav"));
}

#[test]
fn the_rest_of_a_group_is_waited_for_also_above_the_high_mark() {
    let mut world = World::with(&["one"]);
    world.rules = full();
    world.start();
    let (txt, writer) = world.begin("call.txt", b"note");
    let wav = world.record("call.wav", b"audio");
    world.pass(3);
    world.until_state(wav, State::Archived);
    world.idle();
    assert_eq!(world.state(wav), State::Archived, "its sidecar is being written");
    drop(writer);
    world.close("call.txt", txt);
    world.pass(3);
    world.until_state(wav, State::Released);
    world.until_state(txt, State::Released);
}

#[test]
fn forever_and_never_hold_above_the_high_mark_and_the_disk_is_said_to_be_stuck() {
    let mut world = World::with(&["one"]);
    world.rules = Rules { keep_local: None, adopt_keep_local: None, ..full() };
    world.start();
    let id = world.record("a.wav", b"audio");
    world.pass(3);
    world.until_state(id, State::Archived);
    world.until("stuck", || {
        world.pass(10);
        world.engine().nudge();
        world.engine().status().pressure == Pressure::Stuck
    });
    assert_eq!(world.state(id), State::Archived);
    world.engine().reload(full());
    world.until_state(id, State::Released);
}

#[test]
fn with_no_target_up_the_disk_is_stuck_and_recovers_by_itself() {
    let mut world = World::with(&["one"]);
    world.rules = full();
    world.store().set_down(true);
    world.start();
    let id = world.record("a.wav", b"audio");
    world.until("stuck", || {
        world.pass(10);
        world.engine().nudge();
        world.engine().status().pressure == Pressure::Stuck
    });
    assert_eq!(world.state(id), State::Closed);
    world.store().set_down(false);
    world.until("released", || {
        world.pass(30);
        world.engine().nudge();
        world.state(id) == State::Released
    });
}

#[test]
fn when_there_is_room_again_the_usual_times_hold() {
    let mut world = World::with(&["one"]);
    world.rules = full();
    world.start();
    world.until("noticed", || world.engine().status().pressure == Pressure::High);
    world.engine().reload(Rules { marks: NEVER, ..rules() });
    world.until("noticed", || world.engine().status().pressure == Pressure::None);
    let id = world.record("a.wav", b"audio");
    world.pass(Duration::from_secs(60).as_secs());
    world.idle();
    assert_eq!(world.state(id), State::Closed);
}
