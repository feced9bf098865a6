//! `spoolfs rebuild`: the catalog is gone or not to be trusted, and comes back from the lower
//! directory and the targets.

use crate::world::{World, audio};
use spoolfs::catalog::{Fate, NodeRow, ObjectState, Op};
use spoolfs::clock::{Clock, Timestamp};
use spoolfs::engine::{Command, Outcome, Standing};
use spoolfs::rebuild::{Gap, RebuildError};
use spoolfs::recording::{Kind, NodeId, State};
use spoolfs::store::memory::{Fault, MemoryStore, Operation};
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::Arc;

/// Renames as the mount does it; a released recording has nothing below.
pub fn rename(world: &World, from: &str, to: &str) {
    let place = |path: &str| {
        let path = Path::new(path);
        let dir = path.parent().unwrap().to_str().unwrap();
        let parent = if dir.is_empty() { NodeId::ROOT } else { world.find(dir).unwrap().id };
        (parent, path.file_name().unwrap().to_str().unwrap().as_bytes().to_vec())
    };
    let ((parent, name), (new_parent, new_name)) = (place(from), place(to));
    let id = world.find(from).unwrap().id;
    let replaced = world.find(to).map(|row| (row.id, true));
    if world.below(from).exists() {
        fs::rename(world.below(from), world.below(to)).unwrap();
    }
    let at = world.clock.now();
    let fate = Fate::Kept;
    let op = Op::Rename { id, parent, name, new_parent, new_name, replaced, fate, at };
    world.catalog().record(op);
}

pub fn delete(world: &World, path: &str) -> NodeId {
    delete_as(world, path, Fate::Kept)
}

/// The same, as the mount's `delete_mode` has it.
pub fn delete_as(world: &World, path: &str, fate: Fate) -> NodeId {
    let row = world.find(path).unwrap();
    let _released = fs::remove_file(world.below(path));
    let (dir, name) = path.rsplit_once('/').unwrap_or(("", path));
    let parent = if dir.is_empty() { NodeId::ROOT } else { world.find(dir).unwrap().id };
    let (name, at) = (name.as_bytes().to_vec(), world.clock.now());
    world.catalog().record(Op::Unlink { parent, name, id: row.id, last: true, fate, at });
    row.id
}

/// What users see of each file, its content, and its identity; of directories their identity.
pub fn seen(tree: &BTreeMap<String, NodeRow>) -> Vec<String> {
    let line = |(path, row): (&String, &NodeRow)| {
        let a = &row.attr;
        if a.kind == Kind::Dir {
            return format!("{path} {}", row.id);
        }
        let mut xattrs = row.xattrs.clone();
        // Of a local recording they are below, and in the catalog only what was last released.
        if row.state != State::Released {
            xattrs.clear();
        }
        format!(
            "{path} {} {} {:o} {} {} {} {:?} {:?} {:?} {xattrs:?}",
            row.id, row.state, a.mode, a.uid, a.gid, a.size, a.mtime, row.generation, row.sha256
        )
    };
    tree.iter().map(line).collect()
}

pub fn all_objects(world: &World, ids: &[NodeId]) -> Vec<String> {
    let all = ids.iter().flat_map(|id| world.catalog().objects(*id, None).unwrap());
    let mut lines: Vec<String> = all
        .map(|o| {
            format!(
                "{} {} {} {} {:?} {:?} {:?} {:?}",
                o.node, o.generation.0, o.target, o.key, o.state, o.sha256, o.chunks, o.stored
            )
        })
        .collect();
    lines.sort();
    lines
}

/// Does something to a local file as the mount does it: the catalog hears of it.
fn touch(world: &World, path: &str, change: impl FnOnce(&Path)) {
    let id = world.find(path).unwrap().id;
    let before = world.lower().stat(Path::new(path)).unwrap().version;
    change(&world.below(path));
    let stat = world.lower().stat(Path::new(path)).unwrap();
    let (attr, version) = (stat.attr, Some(stat.version));
    world.catalog().record(Op::SetAttr { id, attr, version, before: Some(before) });
}

pub fn set_looks(world: &World, path: &str, mode: u32, secs: i64) {
    use std::os::unix::fs::PermissionsExt;
    touch(world, path, |below| {
        fs::set_permissions(below, fs::Permissions::from_mode(mode)).unwrap();
        std::os::unix::fs::chown(below, Some(100 + mode), Some(200)).unwrap();
        let mtime = std::time::SystemTime::from(Timestamp::from_parts(secs, 123_456_789));
        fs::File::open(below).unwrap().set_modified(mtime).unwrap();
    });
}

/// A world with a bit of everything, all of it told; the identities of what has objects.
pub fn lived_in(targets: &[&str]) -> (World, Vec<NodeId>) {
    let mut world = World::with(targets);
    world.start();
    for dir in ["d", "d/e", "f", "z"] {
        world.mkdir(dir);
    }
    let mut ids = Vec::new();
    for i in 0..6_u8 {
        let path = format!("d/e/{i}.wav");
        ids.push(world.record(&path, &audio(1000 + 70_000 * usize::from(i), i)));
        world.catalog().drain().unwrap();
        set_looks(&world, &path, 0o600 + u32::from(i), 1_600_000_000 + i64::from(i));
    }
    world.pass(400);
    ids.iter().for_each(|id| world.until_state(*id, State::Archived));
    // The second generation of one, under another key.
    world.overwrite("d/e/1.wav", ids[1], &audio(5000, 77));
    world.pass(400);
    world.until("the second generation", || world.row(ids[1]).generation.0 == 2);
    world.until_state(ids[1], State::Archived);
    touch(&world, "d/e/2.wav", |below| {
        let flags = rustix::fs::XattrFlags::empty();
        rustix::fs::setxattr(below, "user.tag", b"x\0y", flags).unwrap();
    });
    set_looks(&world, "d/e/3.wav", 0o444, 1_500_000_000);
    world.pass(3700);
    ids.iter().for_each(|id| world.until_state(*id, State::Released));
    // What is deleted, and another that gets its name.
    ids.push(world.released("gone.wav", b"deleted while released"));
    delete(&world, "gone.wav");
    ids.push(world.archived("f/over.wav", b"to be replaced"));
    for path in ["d/e/4.wav", "d/e/5.wav"] {
        assert_eq!(world.run_one(Command::Recall, path), Outcome::Done);
    }
    rename(&world, "d/e/0.wav", "d/e/zero.wav");
    rename(&world, "d/e/4.wav", "f/over.wav");
    rename(&world, "d/e", "z/moved");
    let new = world.record("f/new.wav", b"not archived");
    world.until_hashed(new);
    world.until_told();
    (world, ids)
}

#[test]
fn a_catalog_is_rebuilt_with_all_that_was_told() {
    let (mut world, ids) = lived_in(&["one"]);
    let (before, objects) = (world.tree(), all_objects(&world, &ids));
    let epoch = world.catalog().identity().epoch;
    assert!(before["z/moved/1.wav"].state == State::Released, "{before:?}");
    let requests = |world: &World| {
        [Operation::Head, Operation::Get, Operation::List].map(|op| world.store().calls(op))
    };
    world.die();
    world.lose_database();
    // Nothing tells when one was recalled: it is kept as long as since its archive.
    world.rules.keep_local = Some(std::time::Duration::from_secs(100_000));
    // What was not archived is as old as its file says, and would be due at once.
    let usual = world.rules.archive_after.replace(std::time::Duration::from_secs(100_000));
    let (asked, keys) = (requests(&world), world.store().keys());
    let report = world.rebuild(None, &[]).unwrap();
    assert!(report.is_complete() && report.found.is_empty(), "{report:?}");
    assert_eq!((report.released, report.local, report.deleted, report.unarchived), (4, 2, 2, 1));
    let now = requests(&world);
    assert_eq!(now.iter().sum::<u64>() - asked.iter().sum::<u64>(), report.requests);
    assert_eq!(now[0], asked[0], "no object is asked for");
    assert_eq!(world.store().keys(), keys, "a target is only read");
    world.open();
    assert!(world.catalog().identity().epoch > epoch);
    assert_eq!(world.catalog().lost_since().unwrap(), None);
    world.start();
    world.until_reconciled();
    world.pass(5);
    for id in [ids[4], ids[5]] {
        world.until_state(id, State::Archived);
    }
    let new = world.find("f/new.wav").unwrap().id;
    world.until_hashed(new);
    assert_eq!(seen(&world.tree()), seen(&before));
    assert_eq!(all_objects(&world, &ids), objects);
    assert_eq!(world.run_one(Command::Recall, "z/moved/1.wav"), Outcome::Done);
    assert_eq!(fs::read(world.below("z/moved/1.wav")).unwrap(), audio(5000, 77));
    let tag = rustix::fs::getxattr(world.below("z/moved/1.wav"), "user.tag", &mut [0_u8; 8][..]);
    assert!(tag.is_err());
    assert_eq!(world.run_one(Command::Recall, "z/moved/2.wav"), Outcome::Done);
    let mut tag = [0; 8];
    let len = rustix::fs::getxattr(world.below("z/moved/2.wav"), "user.tag", &mut tag[..]).unwrap();
    assert_eq!(&tag[..len], b"x\0y");
    // Nothing was uploaded again, and life goes on in an epoch of its own.
    let recordings = |keys: Vec<String>| {
        keys.into_iter().filter(|k| !k.contains(".spoolfs")).collect::<Vec<_>>()
    };
    assert_eq!(recordings(world.store().keys()), recordings(keys));
    world.rules.archive_after = usual;
    world.restart();
    assert_eq!(world.archived("f/later.wav", b"later"), world.find("f/later.wav").unwrap().id);
    world.until_told();
    // And once more, from journals of two epochs.
    let before = world.tree();
    world.die();
    world.lose_database();
    let again = world.rebuild(None, &[]).unwrap();
    assert!(again.is_complete() && again.renamed.is_empty(), "{again:?}");
    world.open();
    let after = world.tree();
    assert_eq!(after.keys().collect::<Vec<_>>(), before.keys().collect::<Vec<_>>());
    for (path, row) in &after {
        assert_eq!((row.id, row.attr.size), (before[path].id, before[path].attr.size), "{path}");
    }
}

#[test]
fn the_old_catalog_is_set_aside_and_a_rebuild_that_fails_changes_nothing() {
    let (mut world, _) = lived_in(&["one"]);
    world.die();
    let database = world.database();
    let bytes = fs::read(&database).unwrap();
    let identity = fs::read(database.with_file_name("identity.json")).unwrap();
    world.store().set_down(true);
    let error = world.rebuild(None, &[]).unwrap_err();
    assert!(matches!(error, RebuildError::Target { .. }), "{error}");
    assert!(error.to_string().contains("can not be reached"), "{error}");
    assert_eq!(fs::read(&database).unwrap(), bytes);
    assert_eq!(fs::read(database.with_file_name("identity.json")).unwrap(), identity);
    world.store().set_down(false);
    let aside = world.rebuild(None, &[]).unwrap().set_aside.unwrap();
    assert_eq!(fs::read(aside).unwrap(), bytes);
    world.open();
    // A daemon has it: nothing is done.
    let state = database.parent().unwrap().to_owned();
    let options = spoolfs::rebuild::Options {
        whole_journal: false,
        identities: Default::default(),
        leave_sealed: false,
        runtime_dir: state.with_file_name("run"),
        state_dir: state,
        archive_name: "default".into(),
        node: None,
        from: vec![],
    };
    let parts = spoolfs::rebuild::Parts {
        lower: world.dir.path().to_owned(),
        stores: vec![world.stores[0].clone()],
        runtime: world.runtime.handle().clone(),
        clock: world.clock.clone(),
    };
    let error = spoolfs::rebuild::run(&options, &parts, &|_| {}).unwrap_err();
    assert!(error.to_string().contains("another spoolfs"), "{error}");
}

/// What a daemon was fetching or held open was cleared away under it.
#[test]
fn regression_a_refused_rebuild_leaves_the_private_directory_alone() {
    let (world, _) = lived_in(&["one"]);
    let staged = world.below(".spl/stage/17");
    fs::write(&staged, b"being fetched").unwrap();
    let state = world.database().parent().unwrap().to_owned();
    let options = spoolfs::rebuild::Options {
        whole_journal: false,
        identities: Default::default(),
        leave_sealed: false,
        runtime_dir: state.with_file_name("run"),
        state_dir: state,
        archive_name: "default".into(),
        node: None,
        from: vec![],
    };
    let parts = spoolfs::rebuild::Parts {
        lower: world.dir.path().to_owned(),
        stores: vec![world.stores[0].clone()],
        runtime: world.runtime.handle().clone(),
        clock: world.clock.clone(),
    };
    let error = spoolfs::rebuild::run(&options, &parts, &|_| {}).unwrap_err();
    assert!(error.to_string().contains("another spoolfs"), "{error}");
    assert!(staged.exists());
}

#[test]
fn a_target_that_can_not_be_reached_is_never_taken_for_an_empty_one() {
    let (mut world, _) = lived_in(&["one", "two"]);
    let before = world.tree();
    world.die();
    world.lose_database();
    world.stores[1].set_down(true);
    let error = world.rebuild(None, &[]).unwrap_err();
    assert!(matches!(&error, RebuildError::Target { target, .. } if target == "two"), "{error}");
    assert!(!world.database().exists());
    // An empty directory in the place of the archive is none either.
    let empty: Arc<MemoryStore> = Arc::new(MemoryStore::new("two", "p/"));
    let dead = std::mem::replace(&mut world.stores[1], empty);
    assert!(matches!(world.rebuild(None, &[]), Err(RebuildError::NoArchive { .. })));
    world.stores[1] = dead;
    // Without it, by name: what it holds is believed to the journals.
    let report = world.rebuild(None, &["one"]).unwrap();
    assert!(report.is_complete(), "{report:?}");
    world.open();
    let after = world.tree();
    let released = |tree: &BTreeMap<String, NodeRow>| {
        seen(tree).into_iter().filter(|l| l.contains(" released ")).collect::<Vec<_>>()
    };
    assert_eq!(released(&after), released(&before));
    let id = after["z/moved/1.wav"].id;
    let verified = world.catalog().objects(id, None).unwrap();
    let targets: Vec<_> =
        verified.iter().filter(|o| o.generation.0 == 2).map(|o| o.target.as_str()).collect();
    assert_eq!(targets, ["one", "two"]);
}

fn segments(store: &MemoryStore) -> Vec<String> {
    store.keys().into_iter().filter(|k| k.contains("/journal/pbx/")).collect()
}

#[test]
fn a_gap_in_one_journal_is_filled_from_another_target() {
    let (mut world, ids) = lived_in(&["one", "two"]);
    let (before, objects) = (world.tree(), all_objects(&world, &ids));
    world.die();
    world.lose_database();
    let middle = &segments(&world.stores[0])[1];
    world.stores[0].tamper(middle, None);
    let report = world.rebuild(None, &[]).unwrap();
    assert!(report.is_complete(), "{report:?}");
    world.open();
    let named = |tree: &BTreeMap<String, NodeRow>| {
        let archived = tree.iter().filter(|(_, row)| row.generation.0 > 0);
        archived.map(|(p, row)| (p.clone(), row.id, row.sha256)).collect::<Vec<_>>()
    };
    assert_eq!(
        named(&world.tree()),
        named(&before).into_iter().filter(|(p, ..)| p != "f/new.wav").collect::<Vec<_>>()
    );
    assert_eq!(all_objects(&world, &ids), objects);
}

/// Rows that one target has are never put into the other once the catalog that shipped them is gone:
/// the rebuild tells again of what they are about.
#[test]
fn regression_a_target_whose_journal_lagged_is_told_by_the_rebuild_what_another_had_heard() {
    a_lagging_target_is_told(false);
    a_lagging_target_is_told(true);
}

/// From its beginning, or since it had heard of some.
fn a_lagging_target_is_told(from_the_beginning: bool) {
    let mut world = World::with(&["one", "two"]);
    world.start();
    world.archived("a.wav", &audio(900, 1));
    world.until_told();
    let released = world.released("b.wav", &audio(900, 2));
    world.until_told();
    world.record("c.wav", &audio(900, 3));
    world.pass(301);
    let local = world.find("c.wav").unwrap().id;
    world.until_state(local, State::Archived);
    world.stores[1].fail_next_of("journal/", Operation::Put, 100_000, Fault::Unreachable);
    let pending =
        |world: &World, name: &str| world.catalog().journal_pending(name, 10).unwrap().len();
    world.catalog().drain().unwrap();
    world.pass(61);
    world.until("the first target is told", || pending(&world, "one") == 0);
    assert!(pending(&world, "two") > 0);
    world.die();
    world.stores[1].fail_no_more();
    if from_the_beginning {
        // As if none of them had come.
        segments(&world.stores[1]).iter().for_each(|key| world.stores[1].tamper(key, None));
    }
    world.lose_database();
    world.rebuild(None, &[]).unwrap();
    world.open();
    world.start();
    world.until_state(local, State::Archived);
    assert_eq!(world.state(released), State::Released);
    world.until_told();
    let report = world.fsck(false);
    assert!(report.findings.iter().all(|finding| finding.rule != 44), "{report:?}");
}

#[test]
fn what_no_journal_tells_is_made_up_for_by_the_objects() {
    let mut world = World::with(&["one"]);
    world.start();
    world.mkdir("d");
    let first = world.released("d/a.wav", &audio(400_000, 1));
    world.until_told();
    let told = segments(world.store());
    let [b, c] = ["d/b b.wav", "d/c.wav"].map(|p| world.archived(p, &audio(90_000, p.len() as u8)));
    world.until_told();
    let lost: Vec<String> =
        segments(world.store()).into_iter().filter(|k| !told.contains(k)).collect();
    assert!(!lost.is_empty());
    let last = world.archived("d/last.wav", b"told after the gap");
    world.until_told();
    world.pass(4000);
    world.until_state(b, State::Released);
    world.until_told();
    let rows: Vec<u64> = lost
        .iter()
        .map(|k| {
            String::from_utf8(world.store().bytes(k).unwrap().to_vec()).unwrap().lines().count()
                as u64
                - 1
        })
        .collect();
    assert_eq!(rows.iter().sum::<u64>(), 2);
    // c is local again.
    world.until_state(c, State::Released);
    assert_eq!(world.run_one(Command::Recall, "d/c.wav"), Outcome::Done);
    world.die();
    world.lose_database();
    for key in &lost {
        world.store().tamper(key, None);
    }
    let heads = world.store().calls(Operation::Head);
    let report = world.rebuild(None, &[]).unwrap();
    assert_eq!(report.gaps, [Gap { epoch: 1, first: 2, last: 3 }]);
    assert_eq!(report.found, [Path::new("d/b b.wav")]);
    assert_eq!(world.store().calls(Operation::Head) - heads, 2);
    world.open();
    world.start();
    world.until_reconciled();
    let tree = world.tree();
    assert_eq!(tree["d/a.wav"].id, first);
    assert_eq!((tree["d/b b.wav"].id, tree["d/b b.wav"].state), (b, State::Released));
    assert_eq!((tree["d/c.wav"].id, tree["d/last.wav"].id), (c, last));
    for path in ["d/a.wav", "d/b b.wav"] {
        assert_eq!(world.run_one(Command::Recall, path), Outcome::Done, "{path}");
    }
    assert_eq!(fs::read(world.below("d/b b.wav")).unwrap(), audio(90_000, 9));
    // The one that is local is not uploaded again, and can be released and read.
    let keys = world.keys().len();
    world.pass(400);
    world.until_state(c, State::Archived);
    assert_eq!(world.keys().len(), keys);
    world.pass(4000);
    world.until_state(c, State::Released);
    assert_eq!(world.run_one(Command::Recall, "d/c.wav"), Outcome::Done);
    assert_eq!(fs::read(world.below("d/c.wav")).unwrap(), audio(90_000, 7));
    // It was told anew, so that the gap costs nothing the next time.
    world.until_told();
    world.die();
    world.lose_database();
    let report = world.rebuild(None, &[]).unwrap();
    assert_eq!((report.found.len(), report.gaps.len()), (0, 1), "{report:?}");
}

#[test]
fn a_corrupt_segment_is_reported_by_key_and_line_and_the_rest_is_used() {
    let mut world = World::with(&["one"]);
    world.start();
    let ids = ["a.wav", "b.wav", "c.wav"].map(|n| world.record(n, n.as_bytes()));
    world.pass(400);
    ids.iter().for_each(|id| world.until_state(*id, State::Archived));
    world.pass(4000);
    ids.iter().for_each(|id| world.until_state(*id, State::Released));
    world.until_told();
    world.die();
    world.lose_database();
    let key = segments(world.store()).remove(0);
    let text = String::from_utf8(world.store().bytes(&key).unwrap().to_vec()).unwrap();
    let mut lines: Vec<&str> = text.lines().collect();
    let (number, damaged) = (2, lines[1].replace("\"kind\"", "kind"));
    lines[1] = &damaged;
    world.store().tamper(&key, Some(format!("{}\n", lines.join("\n")).as_bytes()));
    let report = world.rebuild(None, &[]).unwrap();
    let named: Vec<_> = report.damage.iter().map(|d| (d.key.as_str(), d.line)).collect();
    assert_eq!(named, [(key.as_str(), number)]);
    assert_eq!((report.released, report.found.len()), (3, 1), "{report:?}");
    world.open();
    world.start();
    for (path, id) in ["a.wav", "b.wav", "c.wav"].into_iter().zip(ids) {
        assert_eq!(world.find(path).unwrap().id, id);
        assert_eq!(world.run_one(Command::Recall, path), Outcome::Done);
        assert_eq!(fs::read(world.below(path)).unwrap(), path.as_bytes());
    }
}

#[test]
fn only_the_own_journal_makes_the_tree_of_a_shared_prefix() {
    let (mut world, _) = lived_in(&["one"]);
    let before = world.tree();
    let store = world.stores[0].clone();
    let mut other = World::with(&[]);
    other.stores = vec![store.clone()];
    other.required = vec!["one".into()];
    other.node = "other".into();
    other.die();
    other.lose_catalog();
    other.open();
    other.start();
    let id = other.released("o.wav", b"of another machine");
    other.until_told();
    world.die();
    world.lose_database();
    let report = world.rebuild(None, &[]).unwrap();
    assert!(report.is_complete(), "{report:?}");
    world.open();
    assert_eq!(world.find("o.wav"), None);
    assert_eq!(world.tree().len(), before.len() - 1);
    // The other machine burned down, and a new one takes its place.
    other.die();
    let mut new = World::with(&[]);
    new.stores = vec![store];
    new.required = vec!["one".into()];
    new.node = "other".into();
    new.die();
    new.lose_catalog();
    let error = new.rebuild(None, &[]).unwrap_err();
    assert!(error.to_string().contains("\"other\", \"pbx\""), "{error}");
    assert!(matches!(new.rebuild(Some("nobody"), &[]), Err(RebuildError::UnknownNode { .. })));
    let report = new.rebuild(Some("other"), &[]).unwrap();
    assert_eq!((report.released, report.node.as_str()), (1, "other"));
    new.open();
    assert_eq!(new.catalog().identity().node, "other");
    new.start();
    new.until_standing(Standing::Up);
    assert_eq!(new.find("o.wav").unwrap().id, id);
    assert_eq!(new.run_one(Command::Recall, "o.wav"), Outcome::Done);
    assert_eq!(fs::read(new.below("o.wav")).unwrap(), b"of another machine");
    new.die();
    // A directory that is one machine's is not made another's by a slip.
    assert!(matches!(new.rebuild(Some("pbx"), &[]), Err(RebuildError::OtherNode { .. })));
}

#[test]
fn a_burnt_machine_gets_its_whole_tree_back() {
    let (mut world, _) = lived_in(&["one"]);
    let before = world.tree();
    world.die();
    world.lose_catalog();
    for name in ["f", "z", "d"] {
        fs::remove_dir_all(world.below(name)).unwrap();
    }
    let report = world.rebuild(Some("pbx"), &[]).unwrap();
    assert!(report.is_complete(), "{report:?}");
    world.open();
    world.start();
    world.until_reconciled();
    let tree = world.tree();
    // Empty directories, and what was never archived, are nowhere else.
    let wanted: Vec<&String> =
        before.keys().filter(|p| !["d", "f/new.wav"].contains(&p.as_str())).collect();
    assert_eq!(tree.keys().collect::<Vec<_>>(), wanted);
    for (path, row) in tree.iter().filter(|(_, row)| row.attr.kind == Kind::File) {
        let was = &before[path];
        assert_eq!((row.id, row.state, row.sha256), (was.id, State::Released, was.sha256));
        assert_eq!((row.attr.mode, row.attr.uid), (was.attr.mode, was.attr.uid), "{path}");
        assert_eq!(world.run_one(Command::Recall, path), Outcome::Done);
    }
}

#[test]
fn after_an_older_catalog_was_put_back_no_key_is_reused_and_a_rebuild_brings_what_it_lacked() {
    let mut world = World::with(&["one"]);
    world.start();
    let old = world.released("old.wav", b"old");
    world.until_told();
    world.die();
    let copy = fs::read(world.database()).unwrap();
    let identity = fs::read(world.database().with_file_name("identity.json")).unwrap();
    world.open();
    world.start();
    let new = world.released("new.wav", b"new");
    let deleted = world.released("deleted.wav", b"deleted");
    delete(&world, "deleted.wav");
    world.until_told();
    let epoch = world.catalog().identity().epoch;
    world.die();
    // With the machine's reboot the operation log is gone.
    world.lose_catalog();
    fs::create_dir(world.database().parent().unwrap()).unwrap();
    fs::write(world.database(), copy).unwrap();
    fs::write(world.database().with_file_name("identity.json"), identity).unwrap();
    world.open();
    world.start();
    assert_eq!(world.find("new.wav"), None, "the older catalog does not know it");
    let later = world.archived("new.wav", b"recorded under its name");
    world.until_told();
    assert!(world.catalog().identity().epoch > epoch);
    assert!(world.catalog().lost_since().unwrap().is_some(), "the loss is remembered");
    world.die();
    let report = world.rebuild(None, &[]).unwrap();
    assert!(report.lost.is_empty() && report.gaps.is_empty(), "{report:?}");
    world.open();
    world.start();
    world.until_reconciled();
    assert_eq!(world.find("old.wav").unwrap().id, old);
    assert_eq!(world.find("new.wav").unwrap().id, later);
    assert_eq!(world.find("deleted.wav"), None);
    assert_eq!(world.catalog().node(deleted).unwrap().unwrap().state, State::Deleted);
    // Its name is taken, so it is shown beside it.
    let (_, aside) = &report.renamed[0];
    let aside = aside.to_str().unwrap();
    assert_eq!(world.find(aside).unwrap().id, new);
    assert_eq!(world.run_one(Command::Recall, aside), Outcome::Done);
    assert_eq!(fs::read(world.below(aside)).unwrap(), b"new");
    let objects = world.catalog().objects(later, None).unwrap();
    assert!(objects.iter().all(|o| o.key != "p/pbx/new.wav" || o.state == ObjectState::Abandoned));
}

#[test]
fn a_catalog_that_was_begun_anew_after_a_loss_is_healed_by_a_rebuild() {
    let (mut world, ids) = lived_in(&["one"]);
    let before = world.tree();
    world.die();
    world.lose_database();
    // It was mounted without: calls go on, what is local is adopted, and the loss is remembered.
    world.open();
    world.start();
    world.until_reconciled();
    assert!(world.catalog().lost_since().unwrap().is_some());
    assert!(!world.tree().contains_key("z/moved/1.wav"));
    let over = world.find("f/over.wav").unwrap().id;
    assert_eq!(over, ids[4]);
    world.pass(400);
    world.until_state(over, State::Archived);
    world.overwrite("f/over.wav", over, b"and another content");
    world.pass(400);
    world.until("archived again", || world.row(over).generation.0 == 2);
    world.until_state(over, State::Archived);
    world.until_told();
    let sha256 = world.row(over).sha256;
    world.die();
    let report = world.rebuild(None, &[]).unwrap();
    assert!(report.is_complete(), "{report:?}");
    world.open();
    assert_eq!(world.catalog().lost_since().unwrap(), None);
    world.start();
    world.until_reconciled();
    world.pass(5);
    world.until_state(over, State::Archived);
    let tree = world.tree();
    assert_eq!(tree.keys().collect::<Vec<_>>(), before.keys().collect::<Vec<_>>());
    assert_eq!((tree["f/over.wav"].sha256, tree["f/over.wav"].id), (sha256, over));
    assert_eq!(world.run_one(Command::Recall, "z/moved/1.wav"), Outcome::Done);
    assert_eq!(fs::read(world.below("z/moved/1.wav")).unwrap(), audio(5000, 77));
}

#[test]
fn objects_that_are_gone_or_cut_are_reported_and_local_ones_archived_again() {
    let (mut world, ids) = lived_in(&["one"]);
    let key = |id: NodeId| world.catalog().objects(id, None).unwrap().pop().unwrap().key;
    let (released, local) = (key(ids[0]), key(ids[5]));
    world.die();
    world.lose_database();
    world.store().tamper(&released, None);
    world.store().tamper(&local, Some(b"cut"));
    let report = world.rebuild(None, &[]).unwrap();
    assert_eq!(report.lost, [Path::new("z/moved/zero.wav")]);
    assert_eq!(report.missing.len(), 2, "{report:?}");
    world.open();
    world.start();
    assert_eq!(world.find("z/moved/zero.wav").unwrap().state, State::Released);
    world.pass(5);
    world.until("archived again", || {
        world.pass(400);
        world.state(ids[5]) == State::Archived
    });
    let objects = world.catalog().objects(ids[5], None).unwrap();
    let verified: Vec<_> = objects.iter().filter(|o| o.state == ObjectState::Verified).collect();
    assert_eq!(verified.len(), 1);
    assert_ne!(verified[0].key, local, "under a new key");
    assert_eq!(world.object(&verified[0].key), fs::read(world.below("z/moved/5.wav")).unwrap());
}

/// Objects of target `one` that count, and those of which nobody knows.
fn in_one(world: &World, id: NodeId, state: ObjectState) -> Vec<String> {
    let all = world.catalog().objects(id, None).unwrap().into_iter();
    let these = all.filter(|o| o.target == "one" && o.state == state);
    these.map(|o| o.key).collect()
}

#[test]
fn regression_what_a_rebuild_did_not_read_is_proved_before_anything_rests_on_it() {
    let mut world = World::with(&["one", "two"]);
    world.start();
    let bytes = |n| audio(50_000, n);
    let both = world.released("both.wav", &bytes(1));
    let lost = world.released("lost.wav", &bytes(2));
    let fine = world.released("fine.wav", &bytes(3));
    let gone = world.released("gone.wav", &bytes(6));
    let only = world.released("only.wav", &bytes(4));
    let local = world.archived("local.wav", &bytes(5));
    let key = |id, target: &str| {
        let all = world.catalog().objects(id, None).unwrap();
        all.into_iter().find(|o| o.target == target).unwrap().key
    };
    let keys = [both, lost, fine, only, local].map(|id| key(id, "one"));
    world.stores[1].tamper(&key(only, "two"), None);
    world.stores[1].tamper(&key(gone, "two"), None);
    world.until_told();
    world.die();
    world.lose_database();
    // While nobody looked.
    world.stores[0].tamper(&keys[1], None);
    world.stores[0].tamper(&keys[4], Some(b"rubbish"));
    let report = world.rebuild(None, &["two"]).unwrap();
    assert_eq!(report.lost, [Path::new("gone.wav"), Path::new("only.wav")], "{report:?}");
    assert!(!report.is_complete());
    assert_eq!((report.unproved, report.missing.len()), (6, 2), "{report:?}");
    world.open();
    for (id, key) in [both, lost, fine, local].iter().zip([0, 1, 2, 4]) {
        assert_eq!(in_one(&world, *id, ObjectState::Assigned), [keys[key].clone()]);
    }
    // It is hashed late, when the targets were looked through for what they lack.
    let writer = world.writer("local.wav");
    world.start();
    world.until_reconciled();
    // The target that was not read is the last hope of this one.
    assert_eq!(world.run_one(Command::Recall, "only.wav"), Outcome::Done);
    assert_eq!(fs::read(world.below("only.wav")).unwrap(), bytes(4));
    // And the target that was read is given back what it lost.
    world.until("replaced", || {
        world.pass(100);
        let all = world.catalog().objects(gone, None).unwrap();
        all.iter().any(|o| o.target == "two" && o.state == ObjectState::Verified)
    });
    // `verify` proves what is released, and replaces what is not there.
    assert_eq!(world.run_one(Command::Verify, "both.wav"), Outcome::Done);
    assert_eq!(in_one(&world, both, ObjectState::Verified), [keys[0].clone()]);
    let outcome = world.run_one(Command::Verify, "lost.wav");
    // Unless that was done already, since the target must hold it.
    let replaced = matches!(&outcome, Outcome::Failed(why) if why.contains("replaced"));
    assert!(replaced || outcome == Outcome::Done, "{outcome:?}");
    let new = in_one(&world, lost, ObjectState::Verified).pop().unwrap();
    assert_eq!(new != keys[1], replaced);
    assert_eq!(world.object(&new), bytes(2));
    world.until("all that was lost is replaced", || {
        world.pass(100);
        world.engine().status().bad.is_empty()
    });
    // What is local is proved before it is released.
    drop(writer);
    world.until("brought to the target that was not read", || {
        world.pass(100);
        !in_one(&world, local, ObjectState::Verified).is_empty()
    });
    let new = in_one(&world, local, ObjectState::Verified).pop().unwrap();
    assert_ne!(new, keys[4]);
    assert_eq!(world.object(&new), bytes(5));
    world.until("released", || {
        world.pass(1000);
        world.state(local) == State::Released
    });
    // The scrub does so with the rest.
    world.scrub_every = Some(std::time::Duration::from_secs(1000));
    world.restart();
    world.until("the scrub has proved it", || {
        world.pass(100);
        !in_one(&world, fine, ObjectState::Verified).is_empty()
    });
}
