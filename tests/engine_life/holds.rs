//! Legal holds: archived at once whatever the rules say, released as ever, brought back by a rebuild.

use crate::rebuild::delete_as;
use crate::world::{World, audio};
use spoolfs::catalog::{Fate, NewHold, Scope};
use spoolfs::engine::{Command, Outcome, Placed, Snapshots};
use spoolfs::policy::Patterns;
use spoolfs::recording::{NodeId, State};
use spoolfs::store::Store;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

fn new(case: &str, paths: &[&str]) -> NewHold {
    let scope = Scope::of_paths(paths.iter().map(Path::new));
    NewHold { case: case.into(), reason: "a letter".into(), by: "eve".into(), scope }
}

fn try_hold(world: &World, case: &str, paths: &[&str]) -> spoolfs::engine::Result<Placed> {
    let new = new(case, paths);
    let paths: Vec<PathBuf> = paths.iter().map(PathBuf::from).collect();
    world.engine().hold(&new, &paths, &|_, _| (), &|_| ())
}

fn hold(world: &World, case: &str, paths: &[&str]) -> Placed {
    try_hold(world, case, paths).unwrap()
}

fn is_held(world: &World, id: NodeId) -> bool {
    world.catalog().is_held(id)
}

#[test]
fn what_is_held_is_archived_at_once_with_its_group_whatever_the_rules_say() {
    let mut world = World::with(&["one"]);
    world.rules.archive_after = None;
    world.rules.exclude = Patterns::new(&["*.txt"]).unwrap();
    world.start();
    let (wav, txt) = (world.record("call.wav", b"audio"), world.record("call.txt", b"note"));
    let other = world.record("other.wav", b"other");
    for id in [wav, txt, other] {
        world.until_hashed(id);
    }
    let placed = hold(&world, "A", &["call.wav"]);
    let archived = placed.archived.done + placed.archived.already;
    assert_eq!((placed.recordings, archived), (2, 2), "{placed:?}");
    assert_eq!((world.state(wav), world.state(txt)), (State::Archived, State::Archived));
    assert!(is_held(&world, wav) && is_held(&world, txt) && !is_held(&world, other));
    assert_eq!(world.state(other), State::Closed);
    let explained = world.explain("call.wav");
    assert!(explained.contains("ON LEGAL HOLD") && explained.contains("\"A\""), "{explained}");
}

/// What it was before it was recorded over.
#[test]
fn what_the_trash_has_of_the_same_path_is_held_too() {
    let world = World::new();
    let (old, other) = (world.archived("call.wav", b"old"), world.archived("other.wav", b"other"));
    for path in ["call.wav", "other.wav"] {
        delete_as(&world, path, Fate::Trash);
    }
    let new = world.archived("call.wav", b"new");
    let placed = hold(&world, "A", &["call.wav"]);
    assert_eq!((placed.recordings, placed.missing), (1, vec![]));
    assert!(is_held(&world, new) && is_held(&world, old) && !is_held(&world, other));
}

#[test]
fn a_recording_in_progress_is_held_and_archived_when_it_is_closed() {
    let mut world = World::with(&["one"]);
    world.rules.archive_after = None;
    world.start();
    let (id, writer) = world.begin("call.wav", &audio(1000, 1));
    let placed = hold(&world, "A", &["call.wav"]);
    assert_eq!((placed.recordings, placed.open), (1, 1));
    drop(writer);
    world.close("call.wav", id);
    world.pass(3);
    world.until_state(id, State::Archived);
    // And again, after a restart too.
    world.overwrite("call.wav", id, &audio(2000, 2));
    world.restart();
    world.pass(3);
    world.until_state(id, State::Archived);
    let generations = world.catalog().objects(id, None).unwrap();
    assert_eq!(generations.len(), 2);
}

#[test]
fn a_held_recording_is_released_and_recalled_as_ever() {
    let world = World::new();
    let id = world.archived("call.wav", &audio(1000, 1));
    hold(&world, "A", &["call.wav"]);
    assert_eq!(world.run_one(Command::Release, "call.wav"), Outcome::Done);
    assert_eq!(world.state(id), State::Released);
    assert_eq!(world.run_one(Command::Recall, "call.wav"), Outcome::Done);
    assert_eq!(std::fs::read(world.below("call.wav")).unwrap(), audio(1000, 1));
}

#[test]
fn a_hold_on_nothing_is_refused_and_one_on_something_names_what_is_missing() {
    let world = World::new();
    assert!(try_hold(&world, "A", &["none.wav"]).is_err());
    assert!(world.catalog().all_holds().unwrap().is_empty());
    world.archived("call.wav", b"audio");
    let placed = hold(&world, "A", &["none.wav", "call.wav"]);
    assert_eq!((placed.recordings, placed.missing), (1, vec![PathBuf::from("none.wav")]));
}

fn rebuilt(world: &mut World) {
    world.die();
    world.lose_catalog();
    let report = world.rebuild(Some("pbx"), &[]).unwrap();
    assert_eq!(report.holds, 1, "{report:?}");
    world.open();
}

/// From the journal, and from a snapshot and the journal after it.
#[test]
fn a_rebuild_brings_holds_back() {
    let mut world = World::with(&["one"]);
    world.snapshots = Some(Snapshots { every: Duration::from_secs(1), keep: 2 });
    world.start();
    let here = world.archived("here.wav", &audio(1000, 1));
    let gone = world.released("gone.wav", &audio(1000, 2));
    let free = world.archived("free.wav", &audio(1000, 3));
    // Not archived by anybody when the catalog is lost.
    let (open, writer) = world.begin("open.wav", &audio(1000, 4));
    let lifted = hold(&world, "B", &["here.wav", "free.wav"]);
    hold(&world, "A", &["here.wav", "gone.wav", "open.wav"]);
    world.catalog().lift_hold(lifted.id, "eve", "settled").unwrap();
    let before = world.catalog().all_holds().unwrap();
    world.until_told();
    let is_whole = |world: &World| {
        for id in [here, gone, open] {
            assert_eq!(world.catalog().holds().cases(id), ["A"]);
        }
        assert!(!is_held(world, free));
        assert!(!world.catalog().holds().let_expire(free, world.now()), "the grace is not over");
        assert_eq!(world.catalog().all_holds().unwrap(), before);
    };
    for round in 0..2 {
        world.whole_journal = round == 0;
        world.until("a snapshot", || {
            world.pass(1);
            world.store().keys().iter().any(|k| k.contains("/snapshots/"))
        });
        rebuilt(&mut world);
        is_whole(&world);
        world.start();
        world.until_told();
        let reason = world.explain("gone.wav");
        assert!(reason.contains("ON LEGAL HOLD"), "{reason}");
    }
    drop(writer);
}

/// One that does not know holds would bring back a catalog in which nothing is held.
#[test]
fn what_tells_of_holds_is_refused_by_programs_that_do_not_know_them() {
    let mut world = World::with(&["one"]);
    world.snapshots = Some(Snapshots { every: Duration::from_secs(1), keep: 100 });
    world.start();
    world.archived("call.wav", b"audio");
    world.until_told();
    hold(&world, "A", &["call.wav"]);
    world.until_told();
    let formats = |kind: &str| -> Vec<u64> {
        let keys = world.store().keys().into_iter().filter(|k| k.contains(kind));
        let header = |key: String| {
            let bytes = world.object(&key);
            let text = match kind {
                "/journal/" => bytes,
                _ => {
                    let mut text = Vec::new();
                    let mut reader = ruzstd::decoding::StreamingDecoder::new(&bytes[..]).unwrap();
                    std::io::Read::read_to_end(&mut reader, &mut text).unwrap();
                    text
                }
            };
            let line = text.split(|b| *b == b'\n').next().unwrap();
            let header: serde_json::Value = serde_json::from_slice(line).unwrap();
            header["format"].as_u64().unwrap()
        };
        keys.map(header).collect()
    };
    let journal = formats("/journal/");
    assert_eq!((journal.first(), journal.last()), (Some(&1), Some(&4)), "{journal:?}");
    world.until("a snapshot that tells of it", || {
        world.pass(1);
        formats("/snapshots/").contains(&4)
    });
    assert!(world.store().name() == "one");
}

/// It was put on record when all was archived, and not at all if the daemon was stopped meanwhile.
#[test]
fn regression_a_hold_is_told_before_what_it_is_on_is_archived() {
    let world = World::new();
    let id = world.record("call.wav", b"audio");
    world.until_hashed(id);
    world.store().set_paused(true);
    let told = AtomicU64::new(0);
    let is_on = |hold, recordings| {
        assert!(is_held(&world, id) && recordings == 1);
        told.store(hold, Ordering::SeqCst);
    };
    let new = new("A", &["call.wav"]);
    let hold = || world.engine().hold(&new, &["call.wav".into()], &is_on, &|_| ());
    let (placed, in_time) = std::thread::scope(|scope| {
        let placed = scope.spawn(hold);
        let begun = Instant::now();
        while told.load(Ordering::SeqCst) == 0 && begun.elapsed() < Duration::from_secs(120) {
            std::thread::sleep(Duration::from_millis(5));
        }
        let in_time = told.load(Ordering::SeqCst) > 0 && world.state(id) == State::Closed;
        // Whoever archives it waits for this.
        world.store().set_paused(false);
        (placed.join().unwrap().unwrap(), in_time)
    });
    assert!(in_time && placed.id == told.into_inner());
}
