//! What is left after the daemon dies: nothing logged is lost, nothing counts twice.

use super::*;
use crate::catalog::{CatalogError, schema};
use std::io::Write;

fn remove_log(place: &Place) {
    std::fs::remove_dir_all(place.options().runtime_dir).expect("removed");
}

#[test]
fn what_was_logged_is_there_after_a_death_even_with_a_torn_last_record() {
    let place = Place::new();
    let mut ids = Vec::new();
    for round in 0..4 {
        let catalog = place.open();
        for (i, id) in ids.iter().enumerate() {
            assert_eq!(look(&catalog, &format!("{i}.wav")).map(|r| r.id), Some(*id));
            assert_eq!(node(&catalog, *id).attr.nlink, 2, "counted once");
        }
        let name = format!("{round}.wav");
        let id = record(&catalog, &name, 44, round);
        let link = format!("{round}.link").into_bytes();
        catalog.record(Op::Link { id, parent: NodeId::ROOT, name: link });
        if round % 2 == 0 {
            catalog.drain().expect("usable");
        }
        ids.push(id);
        drop(catalog);
        let last = place.log_files().pop().expect("a segment");
        let mut file = std::fs::OpenOptions::new().append(true).open(last).expect("opens");
        file.write_all(&[200, 0, 0, 0, 1, 2, 3]).expect("written");
    }
    let catalog = place.open();
    assert!(!catalog.reconcile_due(), "a torn last record is no damage");
    catalog.close();
    check_rules(&place.database());
}

#[test]
fn an_intent_without_outcome_is_undecided_until_settled() {
    let place = Place::new();
    let catalog = place.open();
    let ids: Vec<NodeId> = (0..3).map(|_| catalog.alloc()).collect();
    let op = |i: usize| create(ids[i], &format!("{i}.wav"), 0, 1);
    drop(catalog.intend(40, op(0)).expect("room"));
    drop(catalog.intend(41, op(1)).expect("room"));
    catalog.intend(42, op(2)).expect("room").failed();
    drop(catalog);
    let catalog = place.open();
    let undecided = catalog.undecided();
    let seen: Vec<(u64, &Op)> = undecided.iter().map(|(_, u, op)| (*u, op)).collect();
    assert_eq!(seen, [(40, &op(0)), (41, &op(1))]);
    assert!(catalog.alloc() > ids[2], "identities in the log are taken");
    assert_eq!((look(&catalog, "0.wav"), look(&catalog, "2.wav")), (None, None));
    catalog.settle_undecided(undecided[0].0, true);
    catalog.settle_undecided(undecided[0].0, true);
    catalog.settle_undecided(undecided[1].0, false);
    assert!(catalog.undecided().is_empty());
    assert_eq!(look(&catalog, "0.wav").map(|r| r.id), Some(ids[0]));
    drop(catalog);
    let catalog = place.open();
    assert!(catalog.undecided().is_empty(), "also after another death");
    assert_eq!(look(&catalog, "0.wav").map(|r| r.id), Some(ids[0]));
    assert_eq!(look(&catalog, "1.wav"), None);
}

#[test]
fn segments_go_when_committed_and_an_open_intent_moves_on() {
    let place = Place::new();
    let catalog = place.open();
    let (a, b) = (catalog.alloc(), catalog.alloc());
    let held = catalog.intend(1, create(a, "held.wav", 0, 1)).expect("room");
    let lost = catalog.intend(2, create(b, "lost.wav", 0, 1)).expect("room");
    let log_bytes =
        || -> u64 { place.log_files().iter().map(|p| p.metadata().map_or(0, |m| m.len())).sum() };
    let first = place.log_files()[0].clone();
    for i in 0..20_000 {
        catalog.record(create(NodeId(1 << 50 | i), &format!("{i}.wav"), 0, 1));
    }
    catalog.drain().expect("usable");
    catalog.record(Op::Opened { id: a });
    eventually("old segments are removed", || {
        !first.exists() && log_bytes() < crate::limits::OPERATION_LOG_SEGMENT_BYTES + (1 << 20)
    });
    drop(lost);
    held.done();
    drop(catalog);
    let catalog = place.open();
    assert_eq!(look(&catalog, "held.wav").map(|r| r.id), Some(a));
    let undecided = catalog.undecided();
    assert_eq!(undecided.iter().map(|u| u.1).collect::<Vec<_>>(), [2]);
    catalog.close();
    check_rules(&place.database());
}

#[test]
fn damage_in_the_middle_of_the_log_makes_a_reconcile_due() {
    let place = Place::new();
    let catalog = place.open();
    let lock = rusqlite::Connection::open(place.database()).expect("opens");
    lock.execute_batch("BEGIN IMMEDIATE").expect("locks");
    record(&catalog, "a.wav", 44, 2);
    drop(catalog);
    drop(lock);
    let file = place.log_files()[0].clone();
    let bytes = std::fs::read(&file).expect("read");
    let mut damaged = bytes.clone();
    damaged[20] ^= 0xff;
    std::fs::write(&file, &damaged).expect("written");
    std::fs::write(file.with_extension("9"), &bytes).expect("written");
    assert!(place.open().reconcile_due());
}

#[test]
fn names_and_values_of_any_bytes_survive_the_log() {
    let place = Place::new();
    let catalog = place.open();
    let name: Vec<u8> = (1..=255).filter(|b| *b != b'/').collect();
    let all: Vec<u8> = (0..=255).collect();
    let id = catalog.alloc();
    let ops = [
        Op::Create {
            id,
            parent: NodeId::ROOT,
            name: name.clone(),
            attr: attr(1, 1),
            version: version(1, 1),
            adopted: true,
        },
        Op::SetXattrs { id, xattrs: vec![(name.clone(), all.clone()), (b"e".to_vec(), vec![])] },
        Op::Exchange {
            a: (id, NodeId::ROOT, name.clone()),
            b: (id, NodeId(3), all.clone()),
            at: Timestamp(0),
        },
    ];
    for op in &ops {
        let text = serde_json::to_string(op).expect("JSON");
        assert_eq!(serde_json::from_str::<Op>(&text).expect("JSON"), *op);
    }
    ops.into_iter().take(2).for_each(|op| catalog.record(op));
    drop(catalog);
    let catalog = place.open();
    let row = catalog.lookup(NodeId::ROOT, &name).expect("usable").expect("there");
    assert_eq!(row.xattrs, [(name.clone(), all), (b"e".to_vec(), vec![])]);
    catalog.drain().expect("usable");
    assert_eq!(catalog.lookup(NodeId::ROOT, &name).expect("usable"), Some(row));
}

#[test]
fn after_a_reboot_without_the_log_new_operations_are_committed() {
    let place = Place::new();
    let catalog = place.open();
    let first = record(&catalog, "a.wav", 44, 2);
    catalog.close();
    drop(catalog);
    remove_log(&place);
    let early = Options { clock: ManualClock::at(Timestamp(0)), ..place.options() };
    let catalog = Catalog::open(early).expect("opens");
    let second = record(&catalog, "b.wav", 44, 2);
    assert!(second > first, "also with the clock at 1970");
    catalog.drain().expect("usable");
    assert!(look(&catalog, "a.wav").is_some() && look(&catalog, "b.wav").is_some());
    catalog.close();
    check_rules(&place.database());
}

#[test]
fn a_second_daemon_is_kept_out() {
    let place = Place::new();
    let catalog = place.open();
    let error = Catalog::open(place.options()).expect_err("locked");
    assert!(matches!(error, CatalogError::Locked { pid, .. } if pid == std::process::id()));
    drop(catalog);
    place.open();
}

#[test]
fn a_newer_database_is_refused_and_left_alone() {
    let place = Place::new();
    place.open().close();
    let conn = rusqlite::Connection::open(place.database()).expect("opens");
    conn.pragma_update(None, "user_version", schema::VERSION + 1).expect("set");
    drop(conn);
    let error = Catalog::open(place.options()).expect_err("newer");
    assert!(matches!(error, CatalogError::Newer { found, .. } if found == schema::VERSION + 1));
    assert!(place.database().exists());
}

#[test]
fn a_database_of_the_first_version_is_brought_up_to_date() {
    let place = Place::new();
    std::fs::create_dir_all(place.options().state_dir).expect("made");
    let conn = rusqlite::Connection::open(place.database()).expect("opens");
    conn.execute_batch(schema::MIGRATIONS[0]).expect("version 1");
    conn.pragma_update(None, "user_version", 1).expect("set");
    drop(conn);
    let catalog = place.open();
    let id = record(&catalog, "a.wav", 44, 2);
    archive(&catalog, id, "x", 44, 2);
    catalog.close();
    let conn = rusqlite::Connection::open(place.database()).expect("opens");
    let found: u32 = conn.query_row("PRAGMA user_version", [], |r| r.get(0)).expect("a version");
    assert_eq!(found, schema::VERSION);
    check_rules(&place.database());
}

#[test]
fn an_object_of_before_there_were_encodings_is_the_recording_itself() {
    let place = Place::new();
    std::fs::create_dir_all(place.options().state_dir).expect("made");
    let conn = schema::open_at(&place.database(), 2).expect("version 2");
    conn.execute_batch(
        "INSERT INTO generation VALUES(7, 1, 44, 2, zeroblob(32), zeroblob(32));
         INSERT INTO object VALUES(9, 7, 1, 't', 'k', 2, 44, zeroblob(32), 5);",
    )
    .expect("written");
    drop(conn);
    let catalog = place.open();
    let object = catalog.objects(NodeId(7), None).expect("usable").pop().expect("one");
    assert_eq!(object.stored, crate::recording::Stored::plain(44, Sha256([0; 32])));
}

#[test]
fn the_identity_outlives_the_database_and_a_restored_copy_is_noticed() {
    let place = Place::new();
    let catalog = place.open();
    let first = catalog.identity();
    assert_eq!((first.node.as_str(), first.epoch, first.instance.len()), ("pbx1", 1, 32));
    assert!(!catalog.reconcile_due());
    catalog.close();
    drop(catalog);
    let backup = std::fs::read(place.database()).expect("read");
    std::fs::remove_file(place.database()).expect("removed");
    let catalog = place.open();
    assert_eq!(catalog.identity(), crate::catalog::Identity { epoch: 2, ..first.clone() });
    assert!(catalog.reconcile_due());
    catalog.reconcile_begins();
    assert!(!catalog.reconcile_due());
    catalog.close();
    drop(catalog);
    std::fs::write(place.database(), backup).expect("restored");
    let catalog = place.open();
    assert_eq!(catalog.identity(), crate::catalog::Identity { epoch: 3, ..first.clone() });
    assert!(catalog.reconcile_due());
    catalog.close();
    drop(catalog);
    std::fs::remove_file(place.options().state_dir.join("identity.json")).expect("removed");
    let catalog = place.open();
    assert_eq!(catalog.identity().epoch, 3, "from the database");
    assert_eq!(catalog.identity().instance, first.instance);
}
