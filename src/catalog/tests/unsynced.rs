//! What the catalog remembers to be synced, and what becomes of recordings that could not be.

use super::*;
use crate::catalog::{Unsynced, salvage, schema};
use crate::limits;

fn ids(all: &[NodeId]) -> std::collections::HashSet<NodeId> {
    all.iter().copied().collect()
}

/// Files and directories that one operation asks to be synced.
fn asked_by(catalog: &Catalog, op: Op) -> (Vec<u64>, Vec<u64>) {
    catalog.drain().expect("usable");
    catalog.take_unsynced();
    catalog.record(op);
    let Unsynced { since, files, dirs, whole } = catalog.take_unsynced();
    assert!(since.is_some() && !whole);
    let sorted = |ids: std::collections::HashSet<NodeId>| {
        let mut all: Vec<u64> = ids.into_iter().map(|id| id.0).collect();
        all.sort_unstable();
        all
    };
    (sorted(files), sorted(dirs))
}

#[test]
fn each_operation_says_what_a_power_cut_could_take_back() {
    let place = Place::new();
    let catalog = place.open();
    let (old, new) = (NodeId(7), NodeId(8));
    let (name, new_name) = (b"a".to_vec(), b"b".to_vec());
    let id = record(&catalog, "x.wav", 1, 1);
    let dir = Attr { kind: Kind::Dir, ..attr(0, 0) };
    let stamp = version(1, 2);
    let made = Op::Create {
        id: NodeId(9),
        parent: old,
        name: name.clone(),
        attr: dir.clone(),
        version: stamp,
        adopted: false,
    };
    let moved = Op::Rename {
        fate: crate::catalog::Fate::Kept,
        id,
        parent: old,
        name: name.clone(),
        new_parent: new,
        new_name: new_name.clone(),
        replaced: None,
        at: at(1),
    };
    let changed = |attr, version| Op::SetAttr { id, attr, version, before: None };
    let id_only = vec![id.0];
    for (op, files, dirs) in [
        (closed(id, 1, 2), id_only.clone(), vec![]),
        (made, vec![], vec![7, 9]),
        (create(NodeId(9), "y", 0, 1), vec![9], vec![1]),
        (Op::Link { id, parent: old, name: new_name.clone() }, vec![], vec![7]),
        (
            Op::Unlink {
                fate: crate::catalog::Fate::Kept,
                parent: new,
                name: new_name.clone(),
                id,
                last: false,
                at: at(1),
            },
            vec![],
            vec![8],
        ),
        // It may have been looked for while it was at neither place.
        (moved, id_only.clone(), vec![7, 8]),
        (
            Op::Exchange { a: (id, old, name), b: (NodeId(9), new, new_name), at: Timestamp(0) },
            vec![9, id.0],
            vec![7, 8],
        ),
        (changed(attr(1, 2), Some(stamp)), id_only.clone(), vec![]),
        // A file with a writer, and a directory: the stamp says nothing.
        (changed(attr(1, 2), None), id_only.clone(), vec![]),
        (changed(dir, None), vec![], id_only),
        (Op::SetXattrs { id, xattrs: vec![] }, vec![], vec![]),
    ] {
        assert_eq!(asked_by(&catalog, op.clone()), (files, dirs), "{op:?}");
    }
}

#[test]
fn what_was_adopted_long_after_it_was_written_is_on_the_disk() {
    let place = Place::new();
    let catalog = place.open();
    let found = |id, changed| {
        let Op::Create { id, parent, name, attr, version, .. } = create(id, "old", 5, changed)
        else {
            unreachable!()
        };
        Op::Create { id, parent, name, attr, version, adopted: true }
    };
    assert_eq!(asked_by(&catalog, found(NodeId(50), -3600)), (vec![], vec![]));
    assert_eq!(asked_by(&catalog, found(NodeId(51), -5)), (vec![51], vec![1]));
}

#[test]
fn what_is_committed_waits_for_a_sync_and_only_for_one() {
    let place = Place::new();
    let catalog = place.open();
    record(&catalog, "a.wav", 1, 1);
    catalog.drain().expect("usable");
    catalog.take_unsynced();
    catalog.synced(at(0)).expect("usable");
    assert_eq!(catalog.unsynced_since(), None, "nothing happened since");
    place.clock.advance(Duration::from_secs(9));
    catalog.set_setting("some", "thing").expect("usable");
    assert_eq!(catalog.unsynced_since(), Some(at(9)), "a commit of the engine");
    let taken = catalog.take_unsynced();
    place.clock.advance(Duration::from_secs(9));
    catalog.set_setting("some", "other").expect("usable");
    catalog.still_unsynced(taken);
    assert_eq!(catalog.unsynced_since(), Some(at(9)), "the older counts");
}

#[test]
fn more_than_can_be_remembered_is_everything() {
    let mut notes = crate::catalog::unsynced::Notes::default();
    for id in 0..limits::UNSYNCED_MAX as u64 + 5 {
        notes.op(&closed(NodeId(id), 1, 1), at(1));
    }
    let taken = notes.take();
    assert!(taken.whole && taken.files.len() <= limits::UNSYNCED_MAX);
}

#[test]
fn what_no_log_takes_is_synced_all_the_same() {
    let place = Place::new();
    let catalog = place.open();
    catalog.drain().expect("usable");
    catalog.take_unsynced();
    catalog.shared.log_bytes_max.store(0, std::sync::atomic::Ordering::Relaxed);
    catalog.record(closed(NodeId(77), 1, 1));
    assert_eq!(catalog.take_unsynced().files, ids(&[NodeId(77)]));
    assert_eq!(catalog.take_closed(), [NodeId(77)]);
}

#[test]
fn a_suspect_recording_is_not_released_until_the_disk_was_proved_to_hold_it() {
    let place = Place::new();
    let catalog = place.open();
    let id = record(&catalog, "a.wav", 44, 2);
    archive(&catalog, id, "x", 44, 2);
    place.clock.advance(Duration::from_secs(600));
    catalog.suspect(id);
    assert_eq!(node(&catalog, id).suspect, Some(at(600)));
    catalog.close();
    drop(catalog);
    let catalog = place.open();
    let row = node(&catalog, id);
    assert_eq!(row.suspect, Some(at(600)), "a restart changes nothing");
    assert_eq!(catalog.counts().expect("usable").suspect, 1);
    assert_eq!(catalog.due_suspect(at(601), None, 9).expect("usable").len(), 1);
    // A permit from before it became suspect.
    let permit = permit(&row);
    assert!(!catalog.released(&permit, row.attr.clone(), vec![]).expect("usable"));
    let stamp = version(44, 2);
    assert!(!catalog.proved(id, version(45, 2), at(600)).expect("usable"), "another version");
    catalog.suspect(id);
    place.clock.advance(Duration::from_secs(1));
    catalog.suspect(id);
    assert!(!catalog.proved(id, stamp, at(600)).expect("usable"), "it failed again since");
    assert!(catalog.proved(id, stamp, at(601)).expect("usable"));
    assert!(catalog.released(&permit, row.attr, vec![]).expect("usable"));
    catalog.suspect(id);
    assert_eq!(node(&catalog, id).suspect, None, "there is nothing local");
    catalog.close();
    check_rules(&place.database());
}

#[test]
fn a_suspect_recording_that_goes_away_is_no_longer_one() {
    let place = Place::new();
    let catalog = place.open();
    let archived = record(&catalog, "a.wav", 44, 2);
    archive(&catalog, archived, "x", 44, 2);
    let lost = record(&catalog, "b.wav", 44, 2);
    let deleted = record(&catalog, "c.wav", 44, 2);
    archive(&catalog, deleted, "y", 44, 2);
    for id in [archived, lost, deleted] {
        catalog.suspect(id);
    }
    catalog.missing_below(archived).expect("usable");
    catalog.missing_below(lost).expect("usable");
    let name = b"c.wav".to_vec();
    catalog.record(Op::Unlink {
        fate: crate::catalog::Fate::Kept,
        parent: NodeId::ROOT,
        name,
        id: deleted,
        last: true,
        at: at(9),
    });
    assert_eq!(state(&catalog, archived), State::Released);
    assert_eq!(catalog.counts().expect("usable").suspect, 0);
    catalog.close();
    check_rules(&place.database());
}

#[test]
fn if_it_is_not_known_what_failed_everything_since_the_last_sync_is_suspect() {
    let place = Place::new();
    let catalog = place.open();
    let before = record(&catalog, "a.wav", 1, 10);
    place.clock.advance(Duration::from_secs(1002));
    catalog.synced(at(1000)).expect("usable");
    let since = record(&catalog, "b.wav", 1, 1001);
    let open = catalog.alloc();
    catalog.record(create(open, "c.wav", 0, 5));
    assert_eq!(catalog.suspect_all_unsynced().expect("usable"), 2);
    let suspect = |id| node(&catalog, id).suspect.is_some();
    assert_eq!((suspect(before), suspect(since), suspect(open)), (false, true, true));
    // What is suspect already is proved as if nothing had happened.
    place.clock.advance(Duration::from_secs(9));
    assert_eq!(catalog.suspect_all_unsynced().expect("usable"), 0);
    assert_eq!(node(&catalog, since).suspect, Some(at(1002)));
}

/// Takes a closed catalog back to what version 1 of the schema was.
fn to_version_1(database: &Path) {
    let conn = rusqlite::Connection::open(database).expect("opens");
    conn.execute_batch(
        "DROP INDEX node_suspect; ALTER TABLE node DROP COLUMN suspect;
         ALTER TABLE object DROP COLUMN encoding; ALTER TABLE object DROP COLUMN stored_size;
         ALTER TABLE object DROP COLUMN stored_sha256; DROP TABLE hold; DROP TABLE held;
         DROP TABLE object_lock;
         PRAGMA user_version = 1;",
    )
    .expect("version 1");
}

/// It was set aside, and every released recording with it: `salvage` kept its hands off what an
/// older spoolfs had written.
#[test]
fn regression_a_damaged_catalog_of_an_older_version_is_rescued_at_the_upgrade() {
    let place = Place::new();
    let catalog = place.open();
    let id = record(&catalog, "a.wav", 44, 2);
    archive(&catalog, id, "x", 44, 2);
    release(&catalog, id);
    catalog.close();
    drop(catalog);
    to_version_1(&place.database());
    super::failures::damage_index(&place, "entry_stem", &[0x5a; 4096]);
    let clock: crate::clock::SharedClock = place.clock.clone();
    assert!(salvage::rescue(&place.database(), &clock).is_some());
    let catalog = place.open();
    assert_eq!(state(&catalog, id), State::Released);
    assert_eq!(node(&catalog, id).suspect, None);
    catalog.close();
    let conn = rusqlite::Connection::open(place.database()).expect("opens");
    let found: u32 = conn.query_row("PRAGMA user_version", [], |r| r.get(0)).expect("a version");
    assert_eq!(found, schema::VERSION);
    check_rules(&place.database());
}
