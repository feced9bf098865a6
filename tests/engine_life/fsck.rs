//! `fsck`: each rule broken alone, and found alone.

use crate::restart::permit;
use crate::snapshots::{taking, until_taken};
use crate::world::{World, audio};
use spoolfs::catalog::Op;
use spoolfs::codec::seal::Identities;
use spoolfs::fsck::Severity::{self, Damage, Note, Pending, Wrong};
use spoolfs::recording::{NodeId, Sha256, State};
use spoolfs::store::journal::{self, Author, Segment};
use spoolfs::store::{Body, ObjectMeta, Store};
use std::fs;
use std::path::Path;

/// Two archived recordings, one of them released, and nothing to complain of.
fn sound() -> (World, NodeId, NodeId) {
    let mut world = World::new();
    let released = world.released("released.wav", &audio(3000, 2));
    let archived = world.archived("archived.wav", &audio(3000, 1));
    world.until("the spare copy is gone", || {
        fs::read_dir(world.below(".spl/gone")).unwrap().next().is_none()
    });
    ships(&world);
    finds(&mut world, &[]);
    (world, archived, released)
}

/// Checks with every byte read, and expects findings of exactly these rules.
#[track_caller]
fn finds(world: &mut World, expected: &[(Severity, u32)]) {
    let report = world.fsck(false);
    let mut found: Vec<_> = report.findings.iter().map(|f| (f.severity, f.rule)).collect();
    found.dedup();
    assert_eq!(found, expected, "{report:#?}");
    assert_eq!(report.clean, expected.iter().all(|(severity, _)| *severity == Note));
    let again = world.fsck(false);
    assert_eq!(report, again, "findings do not change by looking");
}

/// Repairs, and expects these rules to have been repaired, and nothing to be left.
#[track_caller]
fn repairs(world: &mut World, expected: &[u32]) {
    let report = world.fsck(true);
    let repaired: Vec<_> = report.repaired.iter().map(|f| f.rule).collect();
    assert_eq!(repaired, expected, "{report:#?}");
    assert_eq!(report.findings, [], "{report:#?}");
    finds(world, &[]);
}

fn sql(world: &World, text: &str) {
    rusqlite::Connection::open(world.database()).unwrap().execute_batch(text).unwrap();
}

fn put(world: &World, key: &str, bytes: Vec<u8>) {
    let sha256 = Sha256::of(&bytes);
    let meta = ObjectMeta::default();
    let put = world.store().put(key, Body::Bytes(bytes.into()), sha256, &meta);
    world.runtime.block_on(put).unwrap();
}

fn delete(world: &World, key: &str) {
    world.runtime.block_on(world.store().delete(key)).unwrap();
}

/// The journal's segments, with everything shipped.
fn ships(world: &World) -> Vec<String> {
    world.pass(61);
    world.until("the journal is shipped", || {
        world.catalog().journal_pending("one", 1).unwrap().is_empty()
    });
    world.store().keys().into_iter().filter(|key| key.contains("/journal/")).collect()
}

#[test]
fn rule_1_a_catalog_that_is_damaged_or_not_there() {
    let (mut world, ..) = sound();
    let database = world.database();
    sql(&world, "PRAGMA journal_mode = DELETE");
    let mut bytes = fs::read(&database).unwrap();
    for byte in &mut bytes[8192..16384] {
        *byte = 0x55;
    }
    fs::write(&database, bytes).unwrap();
    finds(&mut world, &[(Damage, 1)]);
    fs::remove_file(&database).unwrap();
    finds(&mut world, &[(Damage, 1)]);
}

#[test]
fn rule_2_the_catalogs_own_rules() {
    let (mut world, ..) = sound();
    sql(&world, "UPDATE tally SET files = files + 3, bytes = bytes - 1 WHERE bucket IN (2, 3, 12)");
    finds(&mut world, &[(Wrong, 2)]);
    repairs(&mut world, &[2]);
    sql(&world, "UPDATE entry SET released = 2, tier = tier + 1");
    finds(&mut world, &[(Wrong, 2)]);
    repairs(&mut world, &[2]);
    sql(&world, "UPDATE object SET verified_at = NULL");
    finds(&mut world, &[(Wrong, 2)]);
    let report = world.fsck(true);
    assert_eq!((report.findings.len(), report.repaired.len()), (1, 0), "that needs judgement");
}

#[test]
fn rule_3_a_damaged_log() {
    let (mut world, ..) = sound();
    let run = world.database().parent().unwrap().with_file_name("run");
    let damaged = fs::read_dir(&run).unwrap().map(|e| e.unwrap().path()).max().unwrap();
    // A record whose checksum is wrong, and something after it.
    fs::write(damaged, [40, 0, 0, 0, 1, 2, 3, 4].repeat(20)).unwrap();
    finds(&mut world, &[(Pending, 3)]);
}

#[test]
fn rule_4_an_operation_without_an_outcome() {
    let (mut world, archived, _) = sound();
    world.open();
    let (parent, name, at) =
        (NodeId::ROOT, b"archived.wav".to_vec(), world.row(archived).attr.mtime);
    let op = Op::Unlink {
        fate: spoolfs::catalog::Fate::Kept,
        parent,
        name,
        id: archived,
        last: true,
        at,
    };
    std::mem::forget(world.catalog().intend(7, op).unwrap());
    finds(&mut world, &[(Pending, 4)]);
}

#[test]
fn rule_10_a_local_copy_that_is_gone() {
    let (mut world, archived, _) = sound();
    fs::remove_file(world.below("archived.wav")).unwrap();
    finds(&mut world, &[(Pending, 10)]);
    world.store().set_down(true);
    let report = world.fsck(true);
    assert_eq!(report.repaired, [], "nothing proves that the target has it: {report:#?}");
    world.store().set_down(false);
    repairs(&mut world, &[10]);
    world.open();
    assert_eq!(world.state(archived), State::Released);
    world.record("new.wav", b"never archived");
    world.die();
    fs::remove_file(world.below("new.wav")).unwrap();
    finds(&mut world, &[(Damage, 10)]);
    let report = world.fsck(true);
    assert_eq!((report.findings.len(), report.repaired.len()), (1, 0), "that can not be repaired");
}

/// Each recording below was missing, and one that was never archived damage.
#[test]
fn regression_what_is_below_a_moved_directory_is_not_missing() {
    let mut world = World::new();
    world.mkdir("d");
    world.mkdir("d/deep");
    world.archived("d/archived.wav", &audio(3000, 1));
    world.record("d/deep/new.wav", b"never archived");
    ships(&world);
    world.die();
    fs::rename(world.below("d"), world.below("moved")).unwrap();
    finds(&mut world, &[(Pending, 11)]);
    fs::create_dir(world.below("new")).unwrap();
    fs::rename(world.below("moved"), world.below("new/d")).unwrap();
    finds(&mut world, &[(Pending, 11)]);
}

#[test]
fn rule_11_names_that_the_catalog_has_not() {
    let (mut world, ..) = sound();
    fs::write(world.below("new.wav"), b"new").unwrap();
    finds(&mut world, &[(Pending, 11)]);
    fs::remove_file(world.below("new.wav")).unwrap();
    fs::rename(world.below("archived.wav"), world.below("moved.wav")).unwrap();
    // Its ctime has moved with it; the name says enough.
    finds(&mut world, &[(Pending, 11)]);
}

#[test]
fn rule_12_another_file_under_the_name() {
    let (mut world, ..) = sound();
    fs::remove_file(world.below("archived.wav")).unwrap();
    fs::write(world.below("archived.wav"), b"another").unwrap();
    finds(&mut world, &[(Pending, 12)]);
}

#[test]
fn rule_13_a_released_recording_with_a_local_copy() {
    let (mut world, _, released) = sound();
    world.open();
    fs::write(world.below("released.wav"), audio(3000, 2)).unwrap();
    world.lower().identify(Path::new("released.wav"), released).unwrap();
    world.die();
    finds(&mut world, &[(Pending, 13)]);
}

#[test]
fn rule_14_a_file_that_changed_since_it_was_hashed() {
    let (mut world, ..) = sound();
    fs::write(world.below("archived.wav"), b"more").unwrap();
    finds(&mut world, &[(Pending, 14)]);
}

#[test]
fn rule_15_bytes_that_are_not_those_that_were_hashed() {
    let (mut world, archived, _) = sound();
    // A bit that changes on the disk leaves no trace that a test could make; so the hash is changed.
    let change = |table: &str, id: &str| {
        sql(&world, &format!("UPDATE {table} SET sha256 = zeroblob(32) WHERE {id} = {archived}"));
    };
    change("node", "id");
    change("generation", "node");
    finds(&mut world, &[(Damage, 15)]);
}

#[test]
fn rule_20_spare_copies_go_and_others_stay() {
    let (mut world, archived, _) = sound();
    world.open();
    let permit = permit(&world, "archived.wav");
    let quiet = world.lower().quiet(Path::new("archived.wav")).unwrap();
    assert!(world.catalog().released(&permit, quiet.stat.attr, Vec::new()).unwrap());
    drop(quiet.file);
    world.lower().retire(Path::new("archived.wav"), permit).unwrap();
    world.die();
    finds(&mut world, &[(Pending, 20)]);
    let gone = || fs::read_dir(world.below(".spl/gone")).unwrap().count();
    assert_eq!(gone(), 1);
    let key = "p/pbx/archived.wav";
    world.store().corrupt(key, 7);
    let report = world.fsck(true);
    assert_eq!(report.repaired, [], "the target has other bytes: {report:#?}");
    assert_eq!(fs::read_dir(world.below(".spl/gone")).unwrap().count(), 1);
    world.store().corrupt(key, 7);
    repairs(&mut world, &[20]);
    assert_eq!(fs::read_dir(world.below(".spl/gone")).unwrap().count(), 0);
    world.open();
    assert_eq!(world.state(archived), State::Released);
    world.die();
    fs::write(world.below(".spl/gone/5-5-5-5"), b"who knows").unwrap();
    finds(&mut world, &[(Wrong, 20)]);
    world.fsck(true);
    assert!(world.below(".spl/gone/5-5-5-5").exists());
}

#[test]
fn rules_21_to_23_what_is_in_the_private_directory() {
    let (mut world, ..) = sound();
    fs::write(world.below(".spl/stage/9-1"), b"half").unwrap();
    finds(&mut world, &[(Pending, 21)]);
    repairs(&mut world, &[21]);
    fs::write(world.below(".spl/open/9"), b"deleted").unwrap();
    finds(&mut world, &[(Pending, 22)]);
    fs::rename(world.below(".spl/open/9"), world.below(".spl/found/9")).unwrap();
    finds(&mut world, &[(Note, 23)]);
}

#[test]
fn rule_24_what_was_written_to_while_it_was_released() {
    let (mut world, archived, released) = sound();
    let name = |id: NodeId, generation| format!(".spl/partial/{id}-{generation}-3000");
    let make = |world: &World, id, generation| {
        let path = world.below(&name(id, generation));
        fs::File::create(&path).unwrap().set_len(4000).unwrap();
        fs::write(format!("{}.log", path.display()), b"").unwrap();
        path
    };
    let generation = |world: &World, id| world.row(id).generation.0;
    world.open();
    let (one, other) = (generation(&world, released), generation(&world, archived));
    world.die();
    let paths = [
        (make(&world, released, one), Pending),
        (make(&world, released, one + 1), Wrong),
        (make(&world, archived, other), Wrong),
        (make(&world, NodeId(1 << 40), 1), Wrong),
    ];
    for (path, _) in &paths {
        fs::rename(path, path.with_extension("aside")).unwrap();
    }
    for (path, severity) in &paths {
        fs::rename(path.with_extension("aside"), path).unwrap();
        finds(&mut world, &[(*severity, 24)]);
        fs::remove_file(path).unwrap();
    }
}

#[test]
fn rules_30_and_31_a_target_that_is_away_or_another() {
    let (mut world, ..) = sound();
    world.store().set_down(true);
    finds(&mut world, &[(Wrong, 30)]);
    world.store().set_down(false);
    delete(&world, "p/.spoolfs/archive.json");
    finds(&mut world, &[(Wrong, 31)]);
}

#[test]
fn rules_32_to_34_objects_that_are_not_what_was_verified() {
    for (name, severity) in [("released", Damage), ("archived", Damage)] {
        let (mut world, ..) = sound();
        let key = format!("p/pbx/{name}.wav");
        world.store().corrupt(&key, 100);
        finds(&mut world, &[(severity, 34)]);
        delete(&world, &key);
        finds(&mut world, &[(severity, 32)]);
        put(&world, &key, b"short".to_vec());
        finds(&mut world, &[(severity, 33)]);
    }
}

#[test]
fn rule_35_objects_that_nobody_knows() {
    let (mut world, ..) = sound();
    put(&world, "p/pbx/stranger.wav", b"who knows".to_vec());
    put(&world, "p/other/machine.wav", b"not ours".to_vec());
    finds(&mut world, &[(Note, 35)]);
}

#[test]
fn rules_40_to_43_segments_of_the_journal() {
    let (mut world, ..) = sound();
    world.open();
    world.start();
    world.until_reconciled();
    world.archived("third.wav", b"third");
    let keys = ships(&world);
    world.die();
    finds(&mut world, &[]);
    let (first, last) = (&keys[0], &keys[keys.len() - 1]);
    assert_ne!(first, last);

    sql(&world, "UPDATE journal_mark SET segment = segment - 1");
    finds(&mut world, &[(Pending, 43)]);
    sql(&world, "UPDATE journal_mark SET segment = segment + 1");

    let (one, other) = (world.object(first), world.object(last));
    delete(&world, last);
    finds(&mut world, &[(Damage, 42), (Wrong, 44)]);
    put(&world, last, other);
    delete(&world, first);
    finds(&mut world, &[(Damage, 41), (Wrong, 44)]);
    put(&world, first, one[..one.len() - 1].to_vec());
    finds(&mut world, &[(Damage, 40), (Wrong, 44)]);
}

#[test]
fn rule_44_what_is_archived_is_told() {
    let (mut world, ..) = sound();
    let keys = world.store().keys();
    for key in keys.iter().filter(|key| key.contains("/journal/")) {
        let segment = String::from_utf8(world.object(key)).unwrap();
        delete(&world, key);
        put(&world, key, segment.replace("\"archived\"", "\"attributes\"").into_bytes());
    }
    finds(&mut world, &[(Wrong, 44)]);
}

#[test]
fn rule_45_a_segment_of_another_machine() {
    let (mut world, ..) = sound();
    world.open();
    world.start();
    let keys = ships(&world);
    let mine = Segment::decode(&world.object(&keys[0])).unwrap();
    world.die();
    let author = Author {
        archive: mine.header.archive.clone(),
        node: mine.header.node.clone(),
        instance: "another".into(),
        epoch: mine.header.epoch,
    };
    let (first, last) = (mine.header.first, mine.header.last);
    let segment = Segment::new(&author, mine.header.segment, first, last, mine.lines).unwrap();
    delete(&world, &keys[0]);
    world
        .runtime
        .block_on(journal::ship(world.store(), &segment.shipment("p/", None).unwrap(), true))
        .unwrap();
    finds(&mut world, &[(Wrong, 44), (Wrong, 45)]);
}

#[test]
fn rule_46_snapshots_of_the_catalog() {
    let (mut world, ..) = sound();
    taking(&mut world, 3);
    until_taken(&world);
    world.snapshots = None;
    finds(&mut world, &[]);
    let keys = world.store().keys().into_iter().filter(|key| key.contains("/snapshots/"));
    let key = keys.max().unwrap();
    let whole = world.object(&key);
    let mut other = whole.clone();
    other[whole.len() / 2] ^= 1;
    for wrong in [Some(&other[..]), Some(&whole[1..]), None] {
        world.store().tamper(&key, wrong);
        finds(&mut world, &[(Wrong, 46)]);
    }
    put(&world, &key, whole);
    finds(&mut world, &[]);
    // One that is being deleted is not missed, whether it is there or not.
    let setting =
        "UPDATE setting SET value = replace(value, '\"proved\":true', '\"proved\":false')";
    sql(&world, &format!("{setting} WHERE key = 'snapshot.one'"));
    delete(&world, &key);
    finds(&mut world, &[]);
}

#[test]
fn rule_48_the_name_key() {
    let mut world = World::with(&["one"]);
    let (public, secret) = crate::sealed::pair();
    (world.seal_to, world.identities) = (Some(public), secret);
    world.rules.hide_names = true;
    world.start();
    world.archived("a.wav", &audio(3000, 2));
    ships(&world);
    finds(&mut world, &[]);
    let told = |world: &World| -> Vec<String> {
        world.store().keys().into_iter().filter(|key| key.contains("/names/")).collect()
    };
    for instead in [None, Some(&b"noise"[..])] {
        told(&world).iter().for_each(|key| world.store().tamper(key, instead));
        let before = told(&world).len();
        finds(&mut world, &[(Wrong, 48)]);
        let repaired = world.fsck(true).repaired;
        assert_eq!(repaired.iter().map(|f| f.rule).collect::<Vec<_>>(), [48]);
        finds(&mut world, &[(Pending, 48)]);
        world.open();
        world.start();
        world.until("it is told again", || told(&world).len() > before);
        ships(&world);
        finds(&mut world, &[]);
    }
    // Who can not open what is sealed sees only whether there is one.
    world.identities = Identities::none("none");
    finds(&mut world, &[(Note, 47)]);
    told(&world).iter().for_each(|key| world.store().tamper(key, None));
    finds(&mut world, &[(Wrong, 48), (Note, 47)]);
    // What is lost here, too, is not made up.
    world.open();
    let file = world.catalog().state_dir().join(spoolfs::store::hidden::FILE);
    fs::remove_file(file).unwrap();
    let report = world.fsck(true);
    assert!(report.repaired.is_empty() && !report.clean, "{report:#?}");
}

#[test]
fn no_daemon_may_run() {
    let (mut world, ..) = sound();
    world.open();
    let refused = world.try_fsck(false).unwrap_err().to_string();
    assert!(refused.contains("another spoolfs"), "{refused}");
}
