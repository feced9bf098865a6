//! The trash: what goes into it, what brings it back, and that a rebuild knows of it.

use crate::rebuild::delete_as;
use crate::world::{World, audio};
use spoolfs::catalog::{Fate, NodeRow, Op};
use spoolfs::engine::{Command, Outcome, Trashed};
use spoolfs::lower::trash_path;
use spoolfs::recording::{NodeId, State};
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Mutex;

/// What became of each.
fn restore(world: &World, what: Trashed, to: Option<&str>) -> Vec<(String, Outcome)> {
    let told = Mutex::new(Vec::new());
    let tell = |p: &spoolfs::engine::Progress| {
        told.lock().unwrap().push((p.path.display().to_string(), p.outcome.clone()));
    };
    world.engine().restore(&[what], to.map(Path::new), &tell).unwrap();
    told.into_inner().unwrap()
}

#[track_caller]
fn back(world: &World, path: &str) {
    let told = restore(world, Trashed::Path(path.into()), None);
    assert_eq!(told, [(path.to_owned(), Outcome::Done)]);
}

/// Everything in the trash: number and path.
fn trash(world: &World) -> Vec<(NodeId, PathBuf)> {
    let rows = world.catalog().trash(None, None, 100).unwrap();
    let files = rows.len() as u64;
    assert_eq!(world.catalog().counts().unwrap().trash.0, files);
    rows.into_iter().map(|row| (row.row.id, row.path)).collect()
}

/// Deletes what is old and local, as the mount does it; not `told`: the word of it is lost.
fn throw(world: &World, path: &str, told: bool) -> NodeId {
    let row = world.find(path).unwrap();
    let (dir, name) = path.rsplit_once('/').unwrap_or(("", path));
    let parent = world.lower().dir(Path::new(dir)).unwrap();
    let before = world.lower().stat(Path::new(path)).unwrap().version;
    world.lower().to_trash(&parent, name.as_bytes(), row.id).unwrap();
    if told {
        let parent = if dir.is_empty() { NodeId::ROOT } else { world.find(dir).unwrap().id };
        let (name, last, fate, at) = (name.into(), true, Fate::Moved, world.now());
        world.catalog().record(Op::Unlink { parent, name, id: row.id, last, fate, at });
        let stat = world.lower().stat(&trash_path(row.id)).unwrap();
        let (attr, version, before) = (stat.attr, Some(stat.version), Some(before));
        world.catalog().record(Op::SetAttr { id: row.id, attr, version, before });
    }
    row.id
}

#[track_caller]
fn until_buried(world: &World, id: NodeId) {
    world.until("what is archived is gone from the disk", || {
        let row = world.catalog().trashed(id).unwrap().unwrap();
        !row.local && !world.dir.path().join(trash_path(id)).exists()
    });
}

/// An outage and a cron: what was deleted before it was archived is archived all the same.
#[test]
fn what_was_never_archived_is_archived_from_the_trash_and_comes_back() {
    for rebuilt in [false, true] {
        let mut world = World::new();
        let bytes = audio(300_000, 1);
        let id = world.record("call.wav", &bytes);
        let before = world.row(id).attr;
        throw(&world, "call.wav", true);
        let row = world.catalog().trashed(id).unwrap().unwrap();
        assert_eq!((row.local, row.archived, world.find("call.wav")), (true, false, None));
        assert!(world.fsck(false).clean);
        world.open();
        world.start();
        world.pass(400);
        world.until_state(id, State::Deleted);
        until_buried(&world, id);
        assert_eq!(world.keys(), ["p/pbx/call.wav"]);
        if rebuilt {
            world.until_told();
            world.die();
            world.lose_database();
            let report = world.rebuild(Some("pbx"), &[]).unwrap();
            assert_eq!((report.released, report.deleted), (0, 1), "{report:#?}");
            world.open();
            world.start();
        }
        assert_eq!(trash(&world), [(id, "call.wav".into())]);
        back(&world, "call.wav");
        let after = world.row(id).attr;
        assert_eq!((after.size, after.mtime, after.mode), (before.size, before.mtime, before.mode));
        assert_eq!(world.run_one(Command::Recall, "call.wav"), Outcome::Done);
        assert_eq!(fs::read(world.below("call.wav")).unwrap(), bytes);
        let report = world.fsck(false);
        assert!(report.clean, "{:#?}", report.findings);
    }
}

#[test]
fn a_local_copy_in_the_trash_goes_when_it_is_archived_and_nobody_reads_it() {
    let mut world = World::new();
    let id = world.archived("call.wav", &audio(5000, 1));
    let reader = fs::File::open(world.below("call.wav")).unwrap();
    throw(&world, "call.wav", true);
    world.idle();
    assert!(world.dir.path().join(trash_path(id)).exists(), "it is being read");
    drop(reader);
    world.until("it is not tried again for a while", || {
        world.pass(60);
        !world.catalog().trashed(id).unwrap().unwrap().local
    });
    until_buried(&world, id);
    let report = world.fsck(false);
    assert!(report.clean, "{:#?}", report.findings);
}

#[test]
fn what_is_still_local_comes_back_as_the_very_file() {
    let mut world = World::with(&["one"]);
    world.rules.archive_after = None;
    world.start();
    let bytes = audio(5000, 1);
    world.mkdir("d");
    let id = world.record("d/call.wav", &bytes);
    world.until_hashed(id);
    let (before, ino) =
        (shown(&world.row(id)), fs::metadata(world.below("d/call.wav")).unwrap().ino());
    throw(&world, "d/call.wav", true);
    assert!(!world.below("d/call.wav").exists());
    back(&world, "d/call.wav");
    assert_eq!((world.state(id), shown(&world.row(id))), (State::Closed, before));
    assert_eq!(fs::metadata(world.below("d/call.wav")).unwrap().ino(), ino);
    assert!(world.row(id).hashed.is_some(), "it need not be hashed again");
    assert_eq!(fs::read(world.below("d/call.wav")).unwrap(), bytes);
    assert_eq!(trash(&world), []);
    let report = world.fsck(false);
    assert!(report.clean, "{:#?}", report.findings);
}

/// A power cut takes the log with it, and perhaps the database.
#[test]
fn what_is_in_the_trash_is_found_there_whatever_the_catalog_knows() {
    let mut world = World::with(&["one"]);
    world.rules.archive_after = None;
    world.start();
    let lost = world.record("lost.wav", &audio(1000, 1));
    let named = world.record("named.wav", &audio(2000, 2));
    world.catalog().drain().unwrap();
    world.until_reconciled();
    throw(&world, "lost.wav", false);
    let link = world.dir.path().join(trash_path(named));
    fs::hard_link(world.below("named.wav"), &link).unwrap();
    world.restart();
    world.until_reconciled();
    assert_eq!(trash(&world), [(lost, "lost.wav".into())]);
    assert!(!link.exists() && world.below("named.wav").exists(), "it has a name");
    assert_eq!(fs::read(world.dir.path().join(trash_path(lost))).unwrap(), audio(1000, 1));
    world.die();
    world.lose_catalog();
    // Identities of a new catalog are above all earlier ones by their time.
    world.pass(1);
    world.open();
    world.start();
    world.until_reconciled();
    assert_eq!(trash(&world), [(lost, lost.to_string().into())], "its path is not known any more");
    let told = restore(&world, Trashed::Id(lost), Some("found"));
    assert_eq!(told, [(format!("found/{lost}"), Outcome::Done)]);
    assert_eq!(fs::read(world.below(&format!("found/{lost}"))).unwrap(), audio(1000, 1));
    let report = world.fsck(false);
    assert!(report.clean, "{:#?}", report.findings);
}

/// What a user sees of it, and which recording it is.
fn shown(row: &NodeRow) -> String {
    let a = &row.attr;
    format!(
        "{} {} {} {:o} {} {} {:?} {:?} {:?} {:?} {:?}",
        row.id,
        a.nlink,
        a.size,
        a.mode,
        a.uid,
        a.gid,
        a.mtime,
        a.atime,
        row.generation,
        row.sha256,
        row.xattrs
    )
}

#[test]
fn what_was_released_and_deleted_comes_back_as_it_was() {
    let mut world = World::new();
    let bytes = audio(300_000, 1);
    let id = world.released("call.wav", &bytes);
    let before = shown(&world.row(id));
    delete_as(&world, "call.wav", Fate::Trash);
    assert_eq!(trash(&world), [(id, "call.wav".into())]);
    assert_eq!((world.find("call.wav"), world.state(id)), (None, State::Deleted));
    // Nothing of it goes by itself, however long it lies there.
    for _ in 0..4 {
        world.pass(10 * 86_400);
        world.idle();
    }
    world.restart();
    assert_eq!(world.keys(), ["p/pbx/call.wav"]);
    back(&world, "call.wav");
    assert_eq!(trash(&world), []);
    assert_eq!((world.state(id), shown(&world.row(id))), (State::Released, before));
    assert_eq!(world.find("call.wav").unwrap().id, id);
    assert_eq!(world.run_one(Command::Recall, "call.wav"), Outcome::Done);
    assert_eq!(fs::read(world.below("call.wav")).unwrap(), bytes);
    let report = world.fsck(false);
    assert!(report.clean, "{:#?}", report.findings);
}

#[test]
fn what_was_archived_comes_back_released_and_what_was_not_is_not_in_the_trash() {
    let mut world = World::new();
    let bytes = audio(5000, 1);
    let id = world.archived("call.wav", &bytes);
    // Written to since, and not archived again: what is archived is what there is.
    let more = world.archived("more.wav", &bytes);
    world.overwrite("more.wav", more, &audio(9000, 2));
    let never = world.record("never.wav", b"x");
    for path in ["call.wav", "more.wav", "never.wav"] {
        delete_as(&world, path, Fate::Trash);
    }
    let mut found = trash(&world);
    found.sort_unstable();
    assert_eq!(found, [(id, "call.wav".into()), (more, "more.wav".into())]);
    assert_eq!(world.catalog().node(never).unwrap(), None);
    assert_eq!(world.catalog().counts().unwrap().trash, (2, 14_000));
    let told = restore(&world, Trashed::All, None);
    assert!(told.len() == 2 && told.iter().all(|(_, o)| *o == Outcome::Done), "{told:?}");
    for (path, id) in [("call.wav", id), ("more.wav", more)] {
        assert_eq!((world.state(id), world.row(id).attr.size), (State::Released, 5000));
        assert_eq!(world.run_one(Command::Recall, path), Outcome::Done);
        assert_eq!(fs::read(world.below(path)).unwrap(), bytes);
    }
    let report = world.fsck(false);
    assert!(report.clean, "{:#?}", report.findings);
}

#[test]
fn a_taken_name_is_told_and_another_directory_takes_it() {
    let world = World::new();
    let old = world.released("call.wav", &audio(100, 1));
    delete_as(&world, "call.wav", Fate::Trash);
    let new = world.released("call.wav", &audio(200, 2));
    delete_as(&world, "call.wav", Fate::Trash);
    let newest = world.record("call.wav", &audio(300, 3));
    for what in [Trashed::Id(old), Trashed::Id(new)] {
        let told = restore(&world, what, None);
        let [(path, Outcome::Failed(why))] = &told[..] else { panic!("{told:?}") };
        assert!(path == "call.wav" && why.contains("taken") && why.contains("--to"), "{why}");
    }
    let told = restore(&world, Trashed::Id(old), Some("again/of old"));
    assert_eq!(told, [("again/of old/call.wav".to_owned(), Outcome::Done)]);
    assert_eq!(world.find("again/of old/call.wav").unwrap().id, old);
    assert_eq!(world.find("call.wav").unwrap().id, newest);
    assert_eq!(trash(&world), [(new, "call.wav".into())]);
    let told = restore(&world, Trashed::Id(NodeId(7)), None);
    assert!(matches!(&told[0].1, Outcome::Failed(why) if why.contains("not in the trash")));
    let told = restore(&world, Trashed::Path("nowhere".into()), None);
    assert!(matches!(&told[0].1, Outcome::Failed(why) if why.contains("not in the trash")));
}

#[test]
fn directories_that_are_gone_are_made_again_as_they_were() {
    let world = World::new();
    for dir in ["2026", "2026/11"] {
        world.mkdir(dir);
    }
    let below = world.below("2026/11");
    std::os::unix::fs::chown(&below, Some(33), Some(44)).unwrap();
    fs::set_permissions(&below, fs::Permissions::from_mode(0o2770)).unwrap();
    // As the mount tells it.
    let stat = world.lower().stat(Path::new("2026/11")).unwrap();
    let dir = world.find("2026/11").unwrap().id;
    let (attr, version) = (stat.attr, Some(stat.version));
    let op = Op::SetAttr { id: dir, attr, version, before: version };
    world.catalog().record(op);
    let ids: Vec<NodeId> = ["a", "b"]
        .into_iter()
        .map(|name| world.released(&format!("2026/11/{name}.wav"), name.as_bytes()))
        .collect();
    for path in ["2026/11/a.wav", "2026/11/b.wav"] {
        delete_as(&world, path, Fate::Trash);
    }
    for path in ["2026/11", "2026"] {
        fs::remove_dir(world.below(path)).unwrap();
        let row = world.find(path).unwrap();
        let (dir, name) = path.rsplit_once('/').unwrap_or(("", path));
        let parent = world.find("2026").filter(|_| !dir.is_empty());
        world.catalog().record(Op::Unlink {
            parent: parent.map_or(NodeId::ROOT, |row| row.id),
            name: name.into(),
            id: row.id,
            last: true,
            fate: Fate::Kept,
            at: world.now(),
        });
    }
    let told = restore(&world, Trashed::Path("2026".into()), None);
    assert!(told.len() == 2 && told.iter().all(|(_, o)| *o == Outcome::Done), "{told:?}");
    let made = fs::metadata(&below).unwrap();
    assert_eq!((made.mode() & 0o7777, made.uid(), made.gid()), (0o2770, 33, 44));
    assert_eq!(world.find("2026/11/a.wav").unwrap().id, ids[0]);
    assert_eq!(world.find("2026/11/b.wav").unwrap().id, ids[1]);
}

#[test]
fn a_rebuild_knows_what_is_in_the_trash_and_what_came_back() {
    for snapshots in [false, true] {
        let mut world = World::with(&["one"]);
        if snapshots {
            let every = std::time::Duration::from_secs(1);
            world.snapshots = Some(spoolfs::engine::Snapshots { every, keep: 2 });
        }
        world.start();
        let kept = world.released("kept.wav", &audio(100, 1));
        let back_again = world.released("back.wav", &audio(200, 2));
        let thrown = world.released("thrown.wav", &audio(300, 3));
        delete_as(&world, "kept.wav", Fate::Kept);
        for path in ["back.wav", "thrown.wav"] {
            delete_as(&world, path, Fate::Trash);
        }
        let told = restore(&world, Trashed::Id(back_again), Some("other"));
        assert_eq!(told[0].1, Outcome::Done);
        let before = (shown(&world.row(back_again)), trash(&world));
        let moment = world.catalog().trash(None, None, 9).unwrap()[0].at;
        world.until_told();
        if snapshots {
            world.until("a snapshot of the end", || {
                world.pass(2);
                let last = world.catalog().told_so_far().unwrap().unwrap();
                let keys = world.store().keys();
                let told = keys.iter().filter_map(|k| spoolfs::store::snapshot::parse_key(k));
                told.map(|(_, seq)| seq).max() == Some(last)
            });
        }
        world.die();
        world.lose_database();
        let report = world.rebuild(Some("pbx"), &[]).unwrap();
        assert_eq!((report.released, report.deleted), (1, 2), "{report:#?}");
        assert!(report.is_complete(), "{report:#?}");
        world.open();
        world.start();
        assert_eq!((shown(&world.row(back_again)), trash(&world)), before);
        assert_eq!(world.catalog().trash(None, None, 9).unwrap()[0].at, moment);
        assert_eq!(world.find("other/back.wav").unwrap().id, back_again);
        assert_eq!(world.state(kept), State::Deleted);
        back(&world, "thrown.wav");
        assert_eq!(world.state(thrown), State::Released);
        assert_eq!(world.run_one(Command::Recall, "thrown.wav"), Outcome::Done);
        assert_eq!(fs::read(world.below("thrown.wav")).unwrap(), audio(300, 3));
    }
}
