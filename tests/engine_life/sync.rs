//! What was closed is on the disk soon, and what could not be synced is kept.

use crate::world::{World, audio};
use spoolfs::engine::{Command, Outcome};
use spoolfs::recording::{NodeId, Sha256, State};
use std::time::{Duration, Instant};

/// Nothing but syncing happens by itself.
fn calm(targets: &[&str]) -> World {
    let mut world = World::with(targets);
    world.rules.settle = Duration::from_secs(3600);
    world.start();
    // What a predecessor left comes first.
    world.until("the first sync", || world.engine().status().syncs == 1);
    world.until("the tree was compared", || world.engine().status().reconciled);
    world
}

fn synced(world: &World) -> (u64, u64) {
    let status = world.engine().status();
    (status.synced, status.syncs)
}

#[test]
fn what_was_closed_is_synced_when_half_of_sync_after_is_over() {
    let world = calm(&["one"]);
    world.mkdir("d");
    for name in ["d/a.wav", "d/b.wav", "c.wav"] {
        world.record(name, &audio(100_000, 1));
    }
    world.pass(2);
    world.idle();
    assert_eq!(synced(&world), (0, 1), "not yet");
    world.pass(1);
    world.until("synced", || synced(&world).1 == 2);
    assert_eq!(synced(&world), (3, 2), "all at once");
    // A rename alone, and a recording that is there in the catalog only.
    std::fs::rename(world.below("c.wav"), world.below("d/c.wav")).unwrap();
    let (root, dir) = (NodeId::ROOT, world.find("d").unwrap().id);
    let id = world.find("c.wav").unwrap().id;
    world.catalog().record(spoolfs::catalog::Op::Rename {
        fate: spoolfs::catalog::Fate::Kept,
        id,
        parent: root,
        name: b"c.wav".to_vec(),
        new_parent: dir,
        new_name: b"c.wav".to_vec(),
        replaced: None,
        at: world.now(),
    });
    world.pass(3);
    world.until("synced", || synced(&world).1 == 3);
    assert_eq!(synced(&world), (4, 3), "the moved one once more");
}

#[test]
fn a_thousand_closed_in_one_second_are_synced_at_once() {
    let world = calm(&["one"]);
    world.mkdir("d");
    for n in 0..1000 {
        world.record(&format!("d/{n}.wav"), &audio(16_000, n as u8));
    }
    world.pass(3);
    let begun = Instant::now();
    world.until("synced", || synced(&world).0 == 1000);
    println!("1,000 recordings were synced in {:?}", begun.elapsed());
    assert!(synced(&world).1 <= 3, "{:?}", synced(&world));
}

#[test]
fn many_directories_and_a_lost_place_are_synced_as_a_whole() {
    let world = calm(&["one"]);
    for n in 0..40 {
        world.mkdir(&format!("d{n}"));
        world.record(&format!("d{n}/a.wav"), b"audio");
    }
    // Moved behind the catalog: where it is is not known.
    std::fs::rename(world.below("d7"), world.below("elsewhere")).unwrap();
    world.pass(3);
    world.until("synced", || synced(&world).1 == 2);
    assert_eq!(synced(&world).0, 39, "one can not be found");
    assert_eq!(world.catalog().counts().unwrap().suspect, 0);
}

/// Its name was not synced, and a power cut lost what was written to it since.
#[test]
fn regression_a_recalled_copy_and_its_name_are_synced() {
    let world = World::new();
    let id = world.released("a.wav", &audio(9000, 2));
    world.pass(3);
    let before = synced(&world).1;
    world.mkdir("other");
    world.pass(3);
    world.until("all before is synced", || synced(&world).1 > before);
    let (files, _) = synced(&world);
    assert_eq!(world.run_one(Command::Recall, "a.wav"), Outcome::Done);
    assert_eq!(world.state(id), State::Archived);
    world.pass(3);
    world.until("synced", || synced(&world).0 == files + 1);
}

/// It was looked for when it had its new name below, and the catalog the old one, and was forgotten.
#[test]
fn regression_a_file_that_is_being_renamed_is_synced_later() {
    let world = calm(&["one"]);
    world.mkdir("d");
    let id = world.record("d/a.wav", &audio(9000, 1));
    let dir = world.find("d").unwrap().id;
    world.pass(3);
    world.until("synced", || synced(&world) == (1, 2));
    let attr = world.row(id).attr;
    let changed =
        |id, attr| spoolfs::catalog::Op::SetAttr { id, attr, version: None, before: None };
    world.catalog().record(changed(id, attr));
    // As in the middle of a rename, of the directory or the file.
    std::fs::rename(world.below("d"), world.below("e")).unwrap();
    world.pass(3);
    world.until("it was looked for", || synced(&world).1 == 3);
    assert_eq!(synced(&world).0, 1);
    world.catalog().record(spoolfs::catalog::Op::Rename {
        fate: spoolfs::catalog::Fate::Kept,
        id: dir,
        parent: NodeId::ROOT,
        name: b"d".to_vec(),
        new_parent: NodeId::ROOT,
        new_name: b"e".to_vec(),
        replaced: None,
        at: world.now(),
    });
    world.pass(3);
    world.until("synced", || synced(&world).0 == 2);
}

/// It was suspect, with the advice to check the disk.
#[test]
fn regression_another_thing_under_a_recordings_name_is_no_failed_sync() {
    let world = calm(&["one"]);
    let id = world.record("a.wav", &audio(9000, 1));
    std::fs::remove_file(world.below("a.wav")).unwrap();
    std::os::unix::fs::symlink("elsewhere", world.below("a.wav")).unwrap();
    world.pass(3);
    world.until("synced", || synced(&world).1 == 2);
    assert_eq!(world.row(id).suspect, None);
    world.until("nothing is left to sync", || world.catalog().unsynced_since().is_none());
    assert_eq!(world.row(id).suspect, None);
}

/// More of them than one look takes waited for a target that was down.
#[test]
fn regression_suspects_behind_many_that_wait_for_a_target_are_proved() {
    let mut world = World::with(&["one"]);
    world.start();
    let archived = world.archived("z.wav", &audio(9000, 9));
    world.store().set_down(true);
    for n in 0..300 {
        let id = world.record(&format!("{n}.wav"), &audio(500, n as u8));
        world.catalog().suspect(id);
    }
    world.pass(3);
    world.catalog().suspect(archived);
    world.until("it is suspect", || world.row(archived).suspect.is_some());
    until_not_suspect(&world, archived);
    assert_eq!(world.catalog().counts().unwrap().suspect, 300);
}

/// More of them are due to be archived than there is room for, and their target hangs.
#[test]
fn regression_suspects_behind_a_full_queue_are_proved() {
    let mut world = World::with(&["one"]);
    world.start();
    let archived = world.archived("z.wav", &audio(9000, 9));
    let suspects: Vec<NodeId> =
        (0..60).map(|n| world.record(&format!("{n}.wav"), &audio(500, n))).collect();
    for id in &suspects {
        world.until_hashed(*id);
    }
    world.store().set_paused(true);
    suspects.iter().for_each(|id| world.catalog().suspect(*id));
    world.until("uploads hang", || world.engine().status().archiving == 4);
    world.pass(1);
    world.catalog().suspect(archived);
    world.until("it is suspect", || world.row(archived).suspect.is_some());
    until_not_suspect(&world, archived);
    assert_eq!(world.catalog().counts().unwrap().suspect, 60);
    world.store().set_paused(false);
    for id in suspects {
        until_not_suspect(&world, id);
    }
}

#[test]
fn forever_leaves_it_to_the_kernel_and_remembers_nothing() {
    let mut world = World::with(&["one"]);
    world.rules.sync_after = None;
    world.rules.settle = Duration::from_secs(3600);
    world.start();
    world.record("a.wav", b"audio");
    world.pass(60);
    world.until("forgotten", || world.catalog().unsynced_since().is_none());
    world.idle();
    assert_eq!(synced(&world), (0, 0));
    // Put in force again, it begins with everything.
    world.rules.sync_after = Some(Duration::from_secs(5));
    world.engine().reload(world.rules.clone());
    world.until("synced", || world.engine().status().syncs == 1);
}

fn until_not_suspect(world: &World, id: NodeId) {
    world.until("proved", || world.row(id).suspect.is_none());
}

#[test]
fn a_suspect_recording_is_archived_at_once_and_proved_from_the_disk() {
    let world = World::new();
    let bytes = audio(300_001, 7);
    let (suspect, other) = (world.record("a.wav", &bytes), world.record("b.wav", &bytes));
    world.catalog().suspect(suspect);
    // Settled, and far from the end of `archive_after`.
    world.pass(3);
    world.until_state(suspect, State::Archived);
    until_not_suspect(&world, suspect);
    world.until_hashed(other);
    assert_eq!(world.state(other), State::Closed);
    assert_eq!(world.object(&world.keys()[0]), bytes);
    world.pass(3700);
    world.until_state(suspect, State::Released);
}

#[test]
fn a_suspect_recording_is_proved_also_without_a_target() {
    let world = {
        let mut world = World::with(&[]);
        world.start();
        world
    };
    let id = world.record("a.wav", &audio(5000, 3));
    world.catalog().suspect(id);
    world.pass(3);
    until_not_suspect(&world, id);
    assert_eq!(world.state(id), State::Closed);
}

/// Writes into the database, while it is in use, what was hashed and archived.
fn set_hash(world: &World, id: NodeId, sha256: Sha256) {
    let conn = rusqlite::Connection::open(world.database()).unwrap();
    conn.busy_timeout(Duration::from_secs(5)).unwrap();
    for text in [
        "UPDATE node SET sha256 = ?2 WHERE id = ?1",
        "UPDATE generation SET sha256 = ?2 WHERE node = ?1",
        "UPDATE object SET sha256 = ?2 WHERE node = ?1",
    ] {
        conn.execute(text, rusqlite::params![id.0.cast_signed(), sha256.0.to_vec()]).unwrap();
    }
}

#[test]
fn a_recording_that_the_disk_does_not_hold_stays_suspect_and_local() {
    let mut world = World::new();
    let bytes = audio(10_000, 7);
    let id = world.archived("a.wav", &bytes);
    // As if memory had been right when it was hashed, and the disk were not.
    set_hash(&world, id, Sha256::of(b"what was in memory"));
    world.catalog().suspect(id);
    world.until("compared", || world.catalog().trouble_of(id).unwrap().is_some());
    let check = |world: &World| {
        let said = world.explain("a.wav");
        assert!(said.contains("SUSPECT") && said.contains("the archive has it"), "{said}");
        assert_eq!(world.catalog().counts().unwrap().suspect, 1);
        world.pass(36_000);
        world.idle();
        assert_eq!(world.state(id), State::Archived);
        let outcome = world.run_one(Command::Release, "a.wav");
        assert!(!matches!(outcome, Outcome::Done), "{outcome:?}");
        assert_eq!(std::fs::read(world.below("a.wav")).unwrap(), bytes);
    };
    check(&world);
    world.restart();
    check(&world);
    // Calls go on recording into it, and the new content is proved.
    world.overwrite("a.wav", id, b"another call");
    world.pass(600);
    world.until_state(id, State::Archived);
    world.pass(600);
    until_not_suspect(&world, id);
    world.pass(3700);
    world.until_state(id, State::Released);
}
