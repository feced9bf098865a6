//! Recordings that an operator keeps local, and recalls by time.

use crate::world::{World, audio};
use spoolfs::engine::{Command, Outcome, Snapshots};
use spoolfs::recording::State;
use std::time::Duration;

#[test]
fn a_pinned_recording_is_recalled_and_never_released() {
    let mut world = World::new();
    let id = world.released("call.wav", &audio(300_000, 1));
    assert_eq!(world.run_one(Command::Pin, "call.wav"), Outcome::Done);
    assert_eq!(std::fs::read(world.below("call.wav")).unwrap(), audio(300_000, 1));
    let again = world.run_one(Command::Pin, "call.wav");
    assert!(matches!(again, Outcome::Already(_)), "{again:?}");
    // Neither in its time nor on request, also after a restart.
    for _ in 0..2 {
        for _ in 0..3 {
            world.pass(40_000);
            world.idle();
        }
        let asked = world.run_one(Command::Release, "call.wav");
        assert!(matches!(&asked, Outcome::Failed(why) if why.contains("unpin")), "{asked:?}");
        assert_eq!(world.state(id), State::Archived);
        assert!(world.explain("call.wav").contains("pinned"), "{}", world.explain("call.wav"));
        world.restart();
    }
    assert_eq!(world.run_one(Command::Unpin, "call.wav"), Outcome::Done);
    assert!(matches!(world.run_one(Command::Unpin, "call.wav"), Outcome::Already(_)));
    world.until("released in its time", || {
        world.pass(4000);
        world.state(id) == State::Released
    });
}

#[test]
fn the_group_of_a_pinned_recording_stays_with_it() {
    let world = World::new();
    let wav = world.archived("call.wav", b"audio");
    let txt = world.archived("call.txt", b"note");
    assert_eq!(world.run_one(Command::Pin, "call.wav"), Outcome::Done);
    for _ in 0..3 {
        world.pass(40_000);
        world.idle();
    }
    assert_eq!((world.state(wav), world.state(txt)), (State::Archived, State::Archived));
}

/// From the journal, and from a snapshot and the journal after it.
#[test]
fn a_rebuild_brings_pins_back() {
    let mut world = World::with(&["one"]);
    world.snapshots = Some(Snapshots { every: Duration::from_secs(1), keep: 2 });
    world.start();
    let before = world.archived("before.wav", &audio(1000, 1));
    let free = world.archived("free.wav", &audio(1000, 2));
    for name in ["before.wav", "free.wav"] {
        assert_eq!(world.run_one(Command::Pin, name), Outcome::Done);
    }
    assert_eq!(world.run_one(Command::Unpin, "free.wav"), Outcome::Done);
    world.until_told();
    for round in 0..2 {
        world.whole_journal = round == 0;
        world.until("a snapshot", || {
            world.pass(1);
            world.store().keys().iter().any(|k| k.contains("/snapshots/"))
        });
        // Behind the snapshot.
        let after = world.archived(&format!("after-{round}.wav"), &audio(1000, 3 + round));
        assert_eq!(world.run_one(Command::Pin, &format!("after-{round}.wav")), Outcome::Done);
        world.until_told();
        world.die();
        world.lose_catalog();
        world.rebuild(Some("pbx"), &[]).unwrap();
        world.open();
        let pinned = world.catalog().pinned(10).unwrap();
        assert!(pinned.contains(&before) && pinned.contains(&after), "{pinned:?}");
        assert!(!pinned.contains(&free), "{pinned:?}");
        world.start();
        // What is local is looked at again first.
        world.pass(400);
        world.until_state(before, State::Archived);
        let asked = world.run_one(Command::Release, "before.wav");
        assert!(matches!(&asked, Outcome::Failed(why) if why.contains("unpin")), "{asked:?}");
    }
}

#[test]
fn a_recall_by_time_takes_what_was_written_then_and_tells_how_much_it_is() {
    let world = World::new();
    let early = world.released("early.wav", &audio(1000, 1));
    world.pass(86_400);
    let middle = world.now();
    let late = world.released("late.wav", &audio(2000, 2));
    let mtime = |id| world.row(id).attr.mtime;
    assert!(mtime(early) < mtime(late), "{middle:?}");
    let (since, until) = (None, Some(mtime(early)));
    let (summary, told) = world.run(Command::RecallBetween { since, until }, "");
    assert_eq!((summary.done, told.len()), (1, 1), "{told:?}");
    assert_eq!((world.state(early), world.state(late)), (State::Archived, State::Released));
    let since = Some(mtime(late));
    let totals = total_told(&world, Command::RecallBetween { since, until: None });
    assert_eq!(totals, 2000);
    assert_eq!(world.state(late), State::Archived);
}

fn total_told(world: &World, command: Command) -> u64 {
    let total = std::sync::atomic::AtomicU64::new(0);
    let tell = |p: &spoolfs::engine::Progress| {
        total.store(p.bytes_total, std::sync::atomic::Ordering::Relaxed);
    };
    world.engine().run(command, &[std::path::PathBuf::new()], &tell).unwrap();
    total.into_inner()
}
