//! What happened to the directory while nothing was mounted.

use crate::world::{World, audio, rules};
use spoolfs::catalog::{Fate, Op};
use spoolfs::clock::{Clock, SystemClock};
use spoolfs::engine::{Command, Outcome};
use spoolfs::policy::Rules;
use spoolfs::recording::{Kind, NodeId, Sha256, State};
use std::fs;

#[test]
fn what_was_there_is_adopted_archived_and_kept_longer() {
    let mut world = World::with(&["one"]);
    fs::create_dir_all(world.below("2026/11")).unwrap();
    fs::write(world.below("2026/11/a.wav"), b"one").unwrap();
    fs::write(world.below("2026/b.wav"), b"two").unwrap();
    fs::write(world.below("empty.wav"), b"").unwrap();
    std::os::unix::fs::symlink("2026", world.below("latest")).unwrap();
    world.start();
    world.until_reconciled();
    let a = world.find("2026/11/a.wav").unwrap();
    assert!(a.adopted && a.attr.size == 3);
    assert_eq!(world.find("latest").unwrap().attr.kind, Kind::Symlink);
    assert_eq!(world.find("empty.wav").unwrap().state, State::Closed);
    assert_eq!(world.engine().status().adopted, 6);
    world.pass(400);
    world.until_state(a.id, State::Archived);
    world.pass(4000);
    world.idle();
    assert_eq!(world.state(a.id), State::Archived, "`adopt_keep_local` is longer");
    world.pass(4000);
    world.until_state(a.id, State::Released);
}

#[test]
fn an_adopted_file_that_is_open_elsewhere_is_left_alone() {
    let mut world = World::with(&["one"]);
    fs::write(world.below("a.wav"), b"one").unwrap();
    let writer = world.writer("a.wav");
    world.start();
    world.until_reconciled();
    let id = world.find("a.wav").unwrap().id;
    world.pass(400);
    world.idle();
    assert_eq!((world.row(id).sha256, world.keys().len()), (None, 0));
    drop(writer);
    world.until("archived", || {
        world.pass(5);
        world.state(id) == State::Archived
    });
}

#[test]
fn a_second_start_adopts_nothing_and_numbers_stay() {
    let mut world = World::with(&["one"]);
    fs::create_dir(world.below("d")).unwrap();
    fs::write(world.below("d/a.wav"), b"one").unwrap();
    world.start();
    world.until_reconciled();
    let id = world.find("d/a.wav").unwrap().id;
    world.restart();
    world.until_reconciled();
    assert_eq!(world.engine().status().adopted, 0);
    assert_eq!(world.find("d/a.wav").unwrap().id, id);
}

#[test]
fn moves_made_without_a_mount_are_followed() {
    let mut world = World::new();
    world.mkdir("d");
    world.mkdir("e");
    let released = world.released("e/r.wav", b"two");
    let a = world.archived("d/a.wav", b"one");
    let dir = world.find("e").unwrap().id;
    world.die();
    // d/a.wav moves, and a new file takes its name; e moves with a released file in it.
    fs::rename(world.below("d/a.wav"), world.below("b.wav")).unwrap();
    fs::write(world.below("d/a.wav"), b"new").unwrap();
    fs::rename(world.below("e"), world.below("d/f")).unwrap();
    world.open();
    world.start();
    world.until_reconciled();
    assert_eq!(world.find("b.wav").unwrap().id, a);
    let new = world.find("d/a.wav").unwrap();
    assert!(new.id != a && new.adopted);
    assert_eq!(world.find("d/f").unwrap().id, dir);
    assert_eq!(world.find("d/f/r.wav").unwrap().id, released);
    assert_eq!(world.find("e"), None);
    assert_eq!(world.run_one(Command::Recall, "d/f/r.wav"), Outcome::Done);
    assert_eq!(fs::read(world.below("d/f/r.wav")).unwrap(), b"two");
}

#[test]
fn names_that_were_exchanged_or_shifted_keep_their_files() {
    let mut world = World::new();
    for dir in ["x", "y"] {
        world.mkdir(dir);
    }
    let (x, y) = (world.find("x").unwrap().id, world.find("y").unwrap().id);
    let in_x = world.released("x/r.wav", b"in x");
    let shifted: Vec<NodeId> =
        ["l.1", "l.2", "l.3"].map(|n| world.record(n, n.as_bytes())).to_vec();
    world.catalog().drain().unwrap();
    world.die();
    fs::rename(world.below("x"), world.below("t")).unwrap();
    fs::rename(world.below("y"), world.below("x")).unwrap();
    fs::rename(world.below("t"), world.below("y")).unwrap();
    for (from, to) in [("l.3", "l.4"), ("l.2", "l.3"), ("l.1", "l.2")] {
        fs::rename(world.below(from), world.below(to)).unwrap();
    }
    world.open();
    world.start();
    world.until_reconciled();
    assert_eq!((world.find("x").unwrap().id, world.find("y").unwrap().id), (y, x));
    assert_eq!(world.find("y/r.wav").unwrap().id, in_x);
    for (name, id) in ["l.2", "l.3", "l.4"].iter().zip(&shifted) {
        assert_eq!(world.find(name).unwrap().id, *id, "{name}");
    }
    assert_eq!(world.find("l.1"), None);
}

#[test]
fn what_was_deleted_without_a_mount_is_released_if_archived_and_forgotten_if_not() {
    let mut world = World::new();
    let archived = world.archived("a.wav", b"one");
    let closed = world.record("b.wav", b"two");
    world.catalog().drain().unwrap();
    world.die();
    fs::remove_file(world.below("a.wav")).unwrap();
    fs::remove_file(world.below("b.wav")).unwrap();
    world.open();
    world.start();
    world.until_reconciled();
    world.until_state(archived, State::Released);
    assert_eq!(world.run_one(Command::Recall, "a.wav"), Outcome::Done);
    assert_eq!(fs::read(world.below("a.wav")).unwrap(), b"one");
    assert_eq!(world.find("b.wav"), None);
    assert_eq!(world.catalog().node(closed).unwrap().map(|r| r.state), None);
}

#[test]
fn directories_that_released_recordings_need_are_made_again() {
    let mut world = World::new();
    for dir in ["d", "d/e", "d/empty"] {
        world.mkdir(dir);
    }
    let deep = world.released("d/e/r.wav", b"one");
    let archived = world.archived("d/a.wav", b"two");
    let dir = world.find("d").unwrap().id;
    world.die();
    fs::remove_dir_all(world.below("d")).unwrap();
    world.open();
    world.start();
    world.until_reconciled();
    assert_eq!(world.find("d").unwrap().id, dir);
    assert!(world.below("d/e").is_dir() && !world.below("d/empty").exists());
    assert_eq!(world.lower().stat("d".as_ref()).unwrap().node, Some(dir));
    assert_eq!(world.state(archived), State::Released);
    let (summary, told) = world.run(Command::Recall, "d");
    assert_eq!((summary.done, summary.failed), (2, 0), "{told:?}");
    assert_eq!(fs::read(world.below("d/e/r.wav")).unwrap(), b"one");
    assert_eq!(world.state(deep), State::Archived);
}

#[test]
fn a_change_made_without_a_mount_is_a_new_generation() {
    let mut world = World::new();
    let id = world.archived("a.wav", b"one");
    world.die();
    fs::write(world.below("a.wav"), b"changed").unwrap();
    world.open();
    world.start();
    world.until("archived again", || {
        world.pass(5);
        let row = world.row(id);
        row.state == State::Archived && row.sha256 == Some(Sha256::of(b"changed"))
    });
    assert_eq!((world.row(id).generation.0, world.keys().len()), (2, 2));
}

#[test]
fn a_tree_copied_to_a_new_disk_keeps_its_identities_and_is_not_uploaded_again() {
    let mut world = World::new();
    world.mkdir("d");
    let bytes = audio(100_000, 5);
    let id = world.archived("d/a.wav", &bytes);
    let dir = world.find("d").unwrap().id;
    world.die();
    // As `cp -a` or a restored backup: other inodes, the identity copied along or lost.
    fs::rename(world.below("d"), world.below("old")).unwrap();
    fs::create_dir(world.below("d")).unwrap();
    fs::copy(world.below("old/a.wav"), world.below("d/a.wav")).unwrap();
    fs::remove_dir_all(world.below("old")).unwrap();
    world.open();
    world.start();
    world.until_reconciled();
    assert_eq!(world.find("d").unwrap().id, dir);
    assert_eq!(world.find("d/a.wav").unwrap().id, id);
    world.until("archived", || {
        world.pass(5);
        world.state(id) == State::Archived
    });
    assert_eq!((world.row(id).generation.0, world.keys().len()), (1, 1));
}

#[test]
fn a_new_file_at_the_name_of_a_released_recording_is_its_next_generation() {
    let mut world = World::new();
    let id = world.released("a.wav", b"one");
    world.die();
    fs::write(world.below("a.wav"), b"recorded without a mount").unwrap();
    world.open();
    world.start();
    world.until("archived", || {
        world.pass(5);
        world.state(id) == State::Archived
    });
    let mut stored: Vec<Vec<u8>> = world.keys().iter().map(|k| world.object(k)).collect();
    stored.sort();
    assert_eq!(stored, [b"one".to_vec(), b"recorded without a mount".to_vec()]);
}

/// The catalog was on the disk, the removal below not: the file became the next generation of the
/// recording that had replaced it.
#[test]
fn regression_what_a_released_recording_replaced_does_not_come_back_over_it_after_a_power_cut() {
    for archived in [false, true] {
        for fate in [Fate::Kept, Fate::Moved, Fate::Trash] {
            let mut world = World::new();
            let released = world.released("r.wav", b"released");
            let replaced = match archived {
                true => world.archived("l.wav", b"local"),
                false => world.record("l.wav", b"local"),
            };
            world.catalog().drain().unwrap();
            world.catalog().record(Op::Rename {
                fate,
                id: released,
                parent: NodeId::ROOT,
                name: b"r.wav".to_vec(),
                new_parent: NodeId::ROOT,
                new_name: b"l.wav".to_vec(),
                replaced: Some((replaced, true)),
                at: SystemClock.now(),
            });
            world.die();
            world.open();
            world.start();
            world.until_reconciled();
            let row = world.find("l.wav").unwrap();
            let what = format!("archived: {archived}, {fate:?}");
            assert_eq!((row.id, row.generation.0), (released, 1), "{what}");
            assert_eq!(world.run_one(Command::Recall, "l.wav"), Outcome::Done, "{what}");
            assert_eq!(fs::read(world.below("l.wav")).unwrap(), b"released", "{what}");
            let trash = world.catalog().trash(None, None, 100).unwrap();
            assert_eq!(trash.len(), 1, "{what}");
            assert_eq!((trash[0].row.id, &*trash[0].path), (replaced, "l.wav".as_ref()), "{what}");
        }
    }
}

/// The recording that had left the name came back, and the released one that has it was deleted.
#[test]
fn regression_what_left_a_name_to_a_released_recording_leaves_it_again_after_a_power_cut() {
    let mut world = World::new();
    world.mkdir("d");
    let dir = world.find("d").unwrap().id;
    let released = world.released("r.wav", b"released");
    let (one, two) = (world.record("1.wav", b"one"), world.record("2.wav", b"two"));
    world.catalog().drain().unwrap();
    let moved = |id, name: &str, new_parent, new_name: &str| Op::Rename {
        fate: Fate::Kept,
        id,
        parent: NodeId::ROOT,
        name: name.into(),
        new_parent,
        new_name: new_name.into(),
        replaced: None,
        at: SystemClock.now(),
    };
    world.catalog().record(moved(two, "2.wav", dir, "3.wav"));
    world.catalog().record(moved(one, "1.wav", NodeId::ROOT, "2.wav"));
    world.catalog().record(moved(released, "r.wav", NodeId::ROOT, "1.wav"));
    world.die();
    world.open();
    world.start();
    world.until_reconciled();
    for (name, id) in [("1.wav", released), ("2.wav", one), ("d/3.wav", two)] {
        assert_eq!(world.find(name).map(|row| row.id), Some(id), "{name}");
    }
    assert_eq!(fs::read(world.below("2.wav")).unwrap(), b"one");
    assert_eq!(fs::read(world.below("d/3.wav")).unwrap(), b"two");
    assert!(!world.below("1.wav").exists());
}

/// A rename that only the catalog has heard of.
fn renamed(id: NodeId, from: (NodeId, &str), to: (NodeId, &str)) -> Op {
    let at = SystemClock.now();
    let (fate, replaced) = (Fate::Kept, None);
    let ((parent, name), (new_parent, new_name)) = (from, to);
    let (name, new_name) = (name.into(), new_name.into());
    Op::Rename { fate, id, parent, name, new_parent, new_name, replaced, at }
}

/// The comparison never came to an end.
#[test]
fn regression_what_replaced_another_and_left_its_name_to_a_released_one_is_settled() {
    for fate in [Fate::Kept, Fate::Moved] {
        let mut world = World::new();
        let released = world.released("r.wav", b"released");
        let (one, two) = (world.record("1.wav", b"one"), world.record("2.wav", b"two"));
        world.catalog().drain().unwrap();
        let over = renamed(one, (NodeId::ROOT, "1.wav"), (NodeId::ROOT, "2.wav"));
        let Op::Rename { id, parent, name, new_parent, new_name, at, .. } = over else { return };
        let replaced = Some((two, true));
        world.catalog().record(Op::Rename {
            fate,
            id,
            parent,
            name,
            new_parent,
            new_name,
            replaced,
            at,
        });
        let root = NodeId::ROOT;
        world.catalog().record(renamed(released, (root, "r.wav"), (root, "1.wav")));
        world.restart();
        world.until_reconciled();
        for (name, id) in [("1.wav", released), ("2.wav", one)] {
            assert_eq!(world.find(name).map(|row| row.id), Some(id), "{name}");
        }
        assert_eq!(fs::read(world.below("2.wav")).unwrap(), b"one");
        let trash = world.catalog().trash(None, None, 100).unwrap();
        let trash: Vec<_> = trash.iter().map(|one| (one.row.id, one.local)).collect();
        assert_eq!(trash, [(two, true)]);
    }
}

/// It became the next generation of the released one, whose content was to be had under no name.
#[test]
fn regression_what_was_recorded_at_the_name_that_a_released_one_left_is_another_after_a_power_cut()
{
    let mut world = World::new();
    let released = world.released("r.wav", b"released");
    let closed = world.record("l.wav", b"removed");
    world.catalog().drain().unwrap();
    world.die();
    world.open();
    // That the one moved on and the other was removed the catalog has forgotten.
    let mut new = Vec::new();
    for name in ["r.wav", "l.wav"] {
        let _may_be_missing = fs::remove_file(world.below(name));
        fs::write(world.below(name), b"new").unwrap();
        let id = world.catalog().alloc();
        world.lower().identify(name.as_ref(), id).unwrap();
        new.push(id);
    }
    world.start();
    world.until_reconciled();
    for (name, id) in ["r.wav", "l.wav"].iter().zip(&new) {
        assert_eq!(world.find(name).map(|row| row.id), Some(*id), "{name}");
    }
    assert_eq!(world.catalog().node(closed).unwrap(), None);
    let trash = world.catalog().trash(None, None, 100).unwrap();
    assert_eq!(trash.iter().map(|one| one.row.id).collect::<Vec<_>>(), [released]);
}

/// It was in the trash: nothing told that it had come to the name of the local one only then.
#[test]
fn regression_a_released_one_exchanged_before_a_power_cut_keeps_its_name() {
    let mut world = World::new();
    let released = world.released("r.wav", b"released");
    let local = world.record("l.wav", b"local");
    world.catalog().drain().unwrap();
    let (a, b) =
        ((local, NodeId::ROOT, b"l.wav".into()), (released, NodeId::ROOT, b"r.wav".into()));
    world.catalog().record(Op::Exchange { a, b, at: SystemClock.now() });
    world.restart();
    world.until_reconciled();
    for (name, id) in [("l.wav", released), ("r.wav", local)] {
        assert_eq!(world.find(name).map(|row| row.id), Some(id), "{name}");
    }
    assert_eq!(fs::read(world.below("r.wav")).unwrap(), b"local");
}

/// What had been removed there became its next generation.
#[test]
fn regression_what_is_out_of_the_trash_is_what_it_was_after_a_power_cut() {
    let mut world = World::new();
    let released = world.released("a.wav", b"first");
    let at = world.now();
    let unlink = |id, fate, at| {
        let (parent, name) = (NodeId::ROOT, b"a.wav".to_vec());
        Op::Unlink { parent, name, id, last: true, fate, at }
    };
    world.catalog().record(unlink(released, Fate::Trash, at));
    let second = world.archived("a.wav", b"second");
    let third = SystemClock.now();
    world.catalog().record(unlink(second, Fate::Kept, third));
    let attr = world.row(released).attr;
    let (parent, name) = (NodeId::ROOT, b"a.wav".to_vec());
    world.catalog().record(Op::Restore { id: released, parent, name, attr, at: third });
    world.restart();
    world.until_reconciled();
    let row = world.find("a.wav").unwrap();
    assert_eq!((row.id, row.generation.0), (released, 1));
    assert_eq!(world.run_one(Command::Recall, "a.wav"), Outcome::Done);
    assert_eq!(fs::read(world.below("a.wav")).unwrap(), b"first");
    let trash = world.catalog().trash(None, None, 100).unwrap();
    assert_eq!(trash.iter().map(|one| one.row.id).collect::<Vec<_>>(), [second]);
}

/// Its name was given to what had been removed there, and what it is itself stayed in the trash.
#[test]
fn regression_what_is_still_in_the_trash_after_a_power_cut_is_no_other_file() {
    let mut world = World::new();
    let first = world.record("a.wav", b"first");
    let root = NodeId::ROOT;
    let unlink = |id, fate, at| Op::Unlink {
        parent: root,
        name: b"a.wav".to_vec(),
        id,
        last: true,
        fate,
        at,
    };
    world.lower().path_to_trash("a.wav".as_ref(), first).unwrap();
    world.catalog().record(unlink(first, Fate::Moved, SystemClock.now()));
    let second = world.archived("a.wav", b"second");
    world.catalog().record(unlink(second, Fate::Trash, SystemClock.now()));
    let attr = world.row(first).attr;
    let (name, at) = (b"a.wav".to_vec(), SystemClock.now());
    world.catalog().record(Op::Restore { id: first, parent: root, name, attr, at });
    world.restart();
    world.until_reconciled();
    let back = world.find("a.wav").unwrap();
    assert_ne!(back.id, first);
    assert_eq!(world.lower().stat("a.wav".as_ref()).unwrap().node, Some(back.id));
    let trash = world.catalog().trash(None, None, 100).unwrap();
    assert!(trash.iter().any(|one| one.row.id == first && one.local), "{trash:?}");
}

/// Taken for a circle, what was in it was forgotten.
#[test]
fn regression_a_directory_in_the_place_of_another_keeps_what_is_in_it() {
    let mut world = World::new();
    for dir in ["d", "e", "e/f"] {
        world.mkdir(dir);
    }
    let e = world.find("e").unwrap().id;
    let released = world.released("e/r.wav", b"released");
    let left = world.released("d/r.wav", b"left");
    let local = world.record("e/f/l.wav", b"local");
    world.catalog().drain().unwrap();
    world.die();
    fs::remove_dir(world.below("d")).unwrap();
    fs::rename(world.below("e"), world.below("d")).unwrap();
    world.open();
    world.start();
    world.until_reconciled();
    assert_eq!((world.find("d").map(|row| row.id), world.find("e")), (Some(e), None));
    assert_eq!(world.find("d/r.wav").map(|row| row.id), Some(released));
    assert_eq!(world.find("d/f/l.wav").map(|row| row.id), Some(local));
    // What it took the place of had one more in it.
    let aside = world.catalog().name_of(world.catalog().name_of(left).unwrap().unwrap().0);
    let aside = String::from_utf8(aside.unwrap().unwrap().1).unwrap();
    assert!(world.below(&aside).is_dir());
    let path = format!("{aside}/r.wav");
    assert_eq!(world.run_one(Command::Recall, &path), Outcome::Done);
    assert_eq!(fs::read(world.below(&path)).unwrap(), b"left");
}

/// The catalog alone knew of a new directory at the old name, and of one at the name of a file.
#[test]
fn regression_directories_made_at_names_that_were_left_are_there_after_a_power_cut() {
    let mut world = World::new();
    world.mkdir("e");
    let e = world.find("e").unwrap().id;
    let (one, two) = (world.released("1.wav", b"one"), world.released("2.wav", b"two"));
    let local = world.record("e/l.wav", b"local");
    let file = world.record("g", b"file");
    world.catalog().drain().unwrap();
    let attr = world.row(e).attr;
    let root = NodeId::ROOT;
    let mkdir = |name: &str| {
        let id = world.catalog().alloc();
        let ctime = SystemClock.now();
        let attr = spoolfs::recording::Attr { ctime, ..attr.clone() };
        let version = world.lower().stat("e".as_ref()).unwrap().version;
        let name = name.into();
        world.catalog().record(Op::Create {
            id,
            parent: root,
            name,
            attr,
            version,
            adopted: false,
        });
        id
    };
    world.catalog().record(renamed(e, (root, "e"), (root, "f")));
    let new = mkdir("e");
    world.catalog().record(renamed(one, (root, "1.wav"), (new, "1.wav")));
    let other = mkdir("h");
    world.catalog().record(renamed(file, (root, "g"), (other, "g")));
    let new = mkdir("g");
    world.catalog().record(renamed(two, (root, "2.wav"), (new, "2.wav")));
    world.restart();
    world.until_reconciled();
    for (name, id) in
        [("f", e), ("f/l.wav", local), ("e/1.wav", one), ("h/g", file), ("g/2.wav", two)]
    {
        assert_eq!(world.find(name).map(|row| row.id), Some(id), "{name}");
    }
    assert_eq!(fs::read(world.below("f/l.wav")).unwrap(), b"local");
    assert_eq!(fs::read(world.below("h/g")).unwrap(), b"file");
    assert!(world.below("e").is_dir() && world.below("g").is_dir());
}

/// Released recordings in a directory that the catalog alone still had were nowhere.
#[test]
fn regression_a_file_in_the_place_of_a_directory_hides_no_released_recording() {
    let mut world = World::new();
    world.mkdir("d");
    let released = world.released("d/r.wav", b"released");
    world.die();
    fs::remove_dir(world.below("d")).unwrap();
    fs::write(world.below("d"), b"file").unwrap();
    world.open();
    world.start();
    world.until_reconciled();
    assert_eq!(world.find("d").unwrap().attr.kind, Kind::File);
    let aside = world.catalog().name_of(released).unwrap().unwrap().0;
    let aside = String::from_utf8(world.catalog().name_of(aside).unwrap().unwrap().1).unwrap();
    let path = format!("{aside}/r.wav");
    assert_eq!(world.run_one(Command::Recall, &path), Outcome::Done);
    assert_eq!(fs::read(world.below(&path)).unwrap(), b"released");
}

/// The comparison came to no end: what was replaced by what had left the name was in the way, or the
/// directory it went to was not there.
#[test]
fn regression_what_is_moved_again_after_a_power_cut_finds_its_place() {
    let mut world = World::new();
    let released = [world.released("r.wav", b"r"), world.released("s.wav", b"s")];
    let (moved, replaced) = (world.record("a.wav", b"moved"), world.record("b.wav", b"replaced"));
    let (one, two) = (world.record("1.wav", b"one"), world.record("2.wav", b"two"));
    world.catalog().drain().unwrap();
    let rename = |id, name: &str, new_parent, new_name: &str, replaced| {
        world.catalog().record(Op::Rename {
            fate: Fate::Kept,
            id,
            parent: NodeId::ROOT,
            name: name.into(),
            new_parent,
            new_name: new_name.into(),
            replaced,
            at: SystemClock.now(),
        });
    };
    rename(moved, "a.wav", NodeId::ROOT, "b.wav", Some((replaced, true)));
    rename(released[0], "r.wav", NodeId::ROOT, "a.wav", None);
    let dir = world.mkdir("d");
    fs::remove_dir(world.below("d")).unwrap();
    rename(two, "2.wav", dir, "3.wav", None);
    rename(one, "1.wav", NodeId::ROOT, "2.wav", None);
    rename(released[1], "s.wav", NodeId::ROOT, "1.wav", None);
    world.die();
    world.open();
    world.start();
    world.until_reconciled();
    for (name, id) in [
        ("a.wav", released[0]),
        ("b.wav", moved),
        ("1.wav", released[1]),
        ("2.wav", one),
        ("d/3.wav", two),
    ] {
        assert_eq!(world.find(name).map(|row| row.id), Some(id), "{name}");
    }
    assert_eq!(fs::read(world.below("b.wav")).unwrap(), b"moved");
    let trash = world.catalog().trash(None, None, 100).unwrap();
    assert_eq!(trash.iter().map(|one| one.row.id).collect::<Vec<_>>(), [replaced]);
}

/// What an administrator put at the name of a released recording, which he does not see there, has
/// the name; the other was gone.
#[test]
fn regression_a_released_recording_whose_name_is_given_away_without_a_mount_is_in_the_trash() {
    let mut world = World::new();
    let released = world.released("r.wav", b"released");
    let moved = world.archived("a.wav", b"moved");
    world.die();
    fs::rename(world.below("a.wav"), world.below("r.wav")).unwrap();
    world.open();
    world.start();
    world.until_reconciled();
    assert_eq!(world.find("r.wav").unwrap().id, moved);
    assert!(world.find("a.wav").is_none());
    let trash = world.catalog().trash(None, None, 100).unwrap();
    assert_eq!(trash.iter().map(|one| one.row.id).collect::<Vec<_>>(), [released]);
}

#[test]
fn recordings_cut_by_a_dead_daemon_are_closed_unless_still_open() {
    let mut world = World::new();
    let (cut, writer) = world.begin("cut.wav", b"cut");
    drop(writer);
    let (open, writer) = world.begin("open.wav", b"open");
    world.restart();
    world.until_state(cut, State::Closed);
    assert_eq!(world.state(open), State::Recording);
    drop(writer);
    world.until_state(open, State::Closed);
}

#[test]
fn undecided_operations_are_settled_by_identity() {
    let mut world = World::new();
    let [done, not_done, removed, replaced] =
        ["a.wav", "b.wav", "c.wav", "d.wav"].map(|n| world.record(n, n.as_bytes()));
    world.catalog().drain().unwrap();
    let root = NodeId::ROOT;
    let at = world.clock.now();
    let rename = |id, name: &str, new: &str| Op::Rename {
        fate: spoolfs::catalog::Fate::Kept,
        id,
        parent: root,
        name: name.into(),
        new_parent: root,
        new_name: new.into(),
        replaced: None,
        at,
    };
    let unlink = |id, name: &str| Op::Unlink {
        fate: spoolfs::catalog::Fate::Kept,
        parent: root,
        name: name.into(),
        id,
        last: true,
        at,
    };
    for op in [
        rename(done, "a.wav", "a2.wav"),
        rename(not_done, "b.wav", "b2.wav"),
        unlink(removed, "c.wav"),
        unlink(replaced, "d.wav"),
    ] {
        drop(world.catalog().intend(1, op).unwrap());
    }
    fs::rename(world.below("a.wav"), world.below("a2.wav")).unwrap();
    fs::remove_file(world.below("c.wav")).unwrap();
    // Removed, and somebody made a new one of that name.
    fs::remove_file(world.below("d.wav")).unwrap();
    fs::write(world.below("d.wav"), b"new").unwrap();
    world.restart();
    world.until_reconciled();
    assert!(world.catalog().undecided().is_empty());
    assert_eq!(world.find("a2.wav").unwrap().id, done);
    assert_eq!(world.find("a.wav"), None);
    assert_eq!(world.find("b.wav").unwrap().id, not_done);
    assert_eq!(world.find("c.wav"), None);
    let new = world.find("d.wav").unwrap();
    assert!(new.id != replaced && new.id != removed);
}

#[test]
fn an_undecided_operation_is_not_settled_by_what_others_did_since() {
    let mut world = World::new();
    let [unlinked, renamed, spare] =
        ["a.wav", "b.wav", "s.wav"].map(|n| world.record(n, n.as_bytes()));
    let (root, at) = (NodeId::ROOT, world.clock.now());
    let rename = |id, name: &str, new: &str| Op::Rename {
        fate: spoolfs::catalog::Fate::Kept,
        id,
        parent: root,
        name: name.into(),
        new_parent: root,
        new_name: new.into(),
        replaced: None,
        at,
    };
    let unlink = |id, name: &str| Op::Unlink {
        fate: spoolfs::catalog::Fate::Kept,
        parent: root,
        name: name.into(),
        id,
        last: true,
        at,
    };
    // The kernel can not be asked about this one; it must not keep the others undecided.
    let long = "x".repeat(300);
    for op in [
        rename(spare, "s.wav", &long),
        unlink(unlinked, "a.wav"),
        rename(renamed, "b.wav", "c.wav"),
    ] {
        drop(world.catalog().intend(1, op).unwrap());
    }
    world.die();
    // The next daemon comes as far as serving the tree, and its users go on.
    world.open();
    fs::rename(world.below("a.wav"), world.below("a2.wav")).unwrap();
    world.catalog().record(rename(unlinked, "a.wav", "a2.wav"));
    fs::rename(world.below("b.wav"), world.below("c.wav")).unwrap();
    world.catalog().record(rename(renamed, "b.wav", "c.wav"));
    world.catalog().drain().unwrap();
    world.start();
    assert!(world.catalog().undecided().is_empty());
    for (name, id) in [("a2.wav", unlinked), ("c.wav", renamed), ("s.wav", spare)] {
        assert_eq!(world.find(name).map(|row| row.id), Some(id), "{name}");
    }
    world.until_reconciled();
    assert_eq!(world.find("a2.wav").unwrap().id, unlinked);
}

#[test]
fn an_exchange_with_a_released_recording_is_settled_by_the_local_one() {
    for done in [true, false] {
        let mut world = World::new();
        let released = world.released("r.wav", b"released");
        let local = world.record("l.wav", b"local");
        world.catalog().drain().unwrap();
        let (root, r, l) = (NodeId::ROOT, b"r.wav".to_vec(), b"l.wav".to_vec());
        let op =
            Op::Exchange { a: (local, root, l), b: (released, root, r), at: SystemClock.now() };
        drop(world.catalog().intend(1, op).unwrap());
        if done {
            fs::rename(world.below("l.wav"), world.below("r.wav")).unwrap();
        }
        world.die();
        world.open();
        world.start();
        let expected = if done { (released, local) } else { (local, released) };
        let found = |name| world.find(name).map(|row| row.id);
        assert_eq!((found("l.wav"), found("r.wav")), (Some(expected.0), Some(expected.1)));
        world.until_reconciled();
        assert_eq!((found("l.wav"), found("r.wav")), (Some(expected.0), Some(expected.1)));
    }
}

#[test]
fn a_lost_catalog_is_filled_from_the_directory_with_the_same_numbers() {
    let mut world = World::new();
    world.rules = Rules { archive_after: None, ..rules() };
    world.mkdir("d");
    let id = world.record("d/a.wav", b"one");
    world.catalog().drain().unwrap();
    world.die();
    world.lose_catalog();
    world.open();
    world.start();
    world.until_reconciled();
    assert_eq!(world.find("d/a.wav").unwrap().id, id);
}

/// All three are below: none of them was gone.
#[test]
fn regression_three_recordings_that_were_shifted_in_a_circle_without_a_mount_stay_what_they_are() {
    let mut world = World::new();
    let ids = ["a.wav", "b.wav", "c.wav"].map(|name| world.archived(name, name.as_bytes()));
    world.catalog().drain().unwrap();
    world.die();
    for (from, to) in [("c.wav", "t"), ("b.wav", "c.wav"), ("a.wav", "b.wav"), ("t", "a.wav")] {
        fs::rename(world.below(from), world.below(to)).unwrap();
    }
    world.open();
    world.start();
    world.until_reconciled();
    for (name, id) in ["b.wav", "c.wav", "a.wav"].iter().zip(ids) {
        assert_eq!(world.find(name).map(|row| row.id), Some(id), "{name}");
    }
    assert_eq!(world.catalog().trash(None, None, 100).unwrap().len(), 0);
}

/// No comparison settled it, and what is in the directory could not be archived.
#[test]
fn regression_a_directory_that_was_put_into_one_of_its_name_before_a_power_cut_is_settled() {
    let mut world = World::new();
    let inner = world.mkdir("d");
    let inside = world.record("d/a.wav", b"inside");
    world.catalog().drain().unwrap();
    let outer = world.mkdir("t");
    world.catalog().drain().unwrap();
    fs::remove_dir(world.below("t")).unwrap();
    let rename = |id, name: &str, new_parent, new_name: &str| {
        world.catalog().record(Op::Rename {
            fate: Fate::Kept,
            id,
            parent: NodeId::ROOT,
            name: name.into(),
            new_parent,
            new_name: new_name.into(),
            replaced: None,
            at: SystemClock.now(),
        });
    };
    rename(inner, "d", outer, "d");
    rename(outer, "t", NodeId::ROOT, "d");
    world.die();
    world.open();
    world.start();
    world.until_reconciled();
    world.until("it is where the catalog has it, and archived", || {
        world.pass(5);
        world.state(inside) == State::Archived
    });
}

/// A look at the name before the comparison came to it took what the catalog had there for gone.
#[test]
fn regression_what_is_found_at_the_name_of_an_archived_recording_leaves_that_in_the_trash() {
    let mut world = World::new();
    let dir = world.mkdir("d");
    let (archived, inside) =
        (world.released("a.wav", b"archived"), world.released("d/b.wav", b"inside"));
    for (name, kind) in [("a.wav", "file"), ("d", "another directory")] {
        let id = world.catalog().alloc();
        let below = world.below(name);
        match kind {
            "file" => fs::write(&below, b"restored").unwrap(),
            _ => {
                fs::remove_dir(&below).unwrap();
                fs::create_dir(&below).unwrap();
            }
        }
        let stat = world.lower().identify(name.as_ref(), id).unwrap();
        world.catalog().record(Op::Create {
            id,
            parent: NodeId::ROOT,
            name: name.into(),
            attr: stat.attr,
            version: stat.version,
            adopted: true,
        });
        world.catalog().drain().unwrap();
        assert_eq!(world.find(name).map(|row| row.id), Some(id));
    }
    let trash = world.catalog().trash(None, None, 100).unwrap();
    assert_eq!(trash.iter().map(|one| one.row.id).collect::<Vec<_>>(), [archived]);
    let aside = format!("d.moved-{dir}");
    assert_eq!(world.find(&format!("{aside}/b.wav")).map(|row| row.id), Some(inside));
    world.die();
    world.open();
    world.start();
    world.until_reconciled();
    assert_eq!(world.run_one(Command::Recall, &format!("{aside}/b.wav")), Outcome::Done);
}
