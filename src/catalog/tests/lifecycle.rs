//! A recording's life, step by step.

use super::*;
use crate::catalog::{ObjectState, Trouble};
use crate::recording::stem;

const LATER: Timestamp = Timestamp(i64::MAX);

#[test]
fn a_recording_goes_from_created_to_released_and_back() {
    let place = Place::new();
    let catalog = place.open();
    let id = catalog.alloc();
    let intent = catalog.intend(5, create(id, "a.wav", 0, 1)).expect("room in the log");
    assert_eq!(look(&catalog, "a.wav"), None, "nothing happened yet");
    intent.done();
    assert_eq!(look(&catalog, "a.wav").map(|r| r.state), Some(State::Recording));
    catalog.record(closed(id, 44, 2));
    assert_eq!(state(&catalog, id), State::Closed);
    let due = catalog.due_hash(at(2), at(2), 10).expect("usable");
    assert_eq!(due.len(), 1);
    assert_eq!((due[0].path.to_str(), due[0].parent), (Some("a.wav"), NodeId::ROOT));
    assert!(catalog.due_hash(at(1), at(2), 10).expect("usable").is_empty(), "not settled");

    archive(&catalog, id, "x", 44, 2);
    assert_eq!(state(&catalog, id), State::Archived);
    assert!(catalog.due_hash(LATER, LATER, 10).expect("usable").is_empty());
    assert!(catalog.due_archive(LATER, LATER, None, 10).expect("usable").is_empty());
    assert_eq!(catalog.due_release(at(402), None, 10).expect("usable").len(), 1);
    assert!(catalog.due_release(at(401), None, 10).expect("usable").is_empty());

    let mark = catalog.tier_mark();
    let row = node(&catalog, id);
    let xattrs = vec![(b"user.note".to_vec(), vec![0, 255, b'%'])];
    assert!(catalog.released(&permit(&row), row.attr.clone(), xattrs.clone()).expect("usable"));
    let released = node(&catalog, id);
    assert_eq!((released.state, &released.xattrs), (State::Released, &xattrs));
    let listed = catalog.list_released(NodeId::ROOT, 0, mark, 10).expect("usable");
    assert_eq!(listed.len(), 1);
    assert_eq!((listed[0].name.as_slice(), listed[0].moved), (b"a.wav".as_slice(), true));
    assert!(catalog.has_released(NodeId::ROOT).expect("usable"));

    assert!(catalog.local_again(id, version(44, 900), at(900)).expect("usable"));
    assert!(!catalog.local_again(id, version(44, 901), at(901)).expect("usable"), "once");
    let row = node(&catalog, id);
    assert_eq!((row.state, row.recalled_at), (State::Archived, Some(at(900))));
    assert!(!catalog.has_released(NodeId::ROOT).expect("usable"));
    let listed = catalog.list_released(NodeId::ROOT, 0, mark, 10).expect("usable");
    assert!(listed.len() == 1 && listed[0].moved, "it moved after the mark");
    assert!(catalog.due_release(at(899), None, 10).expect("usable").is_empty(), "recalled later");
    catalog.close();
    check_rules(&place.database());
}

#[test]
fn an_unchanged_close_goes_back_to_archived_and_a_changed_one_is_a_new_generation() {
    let place = Place::new();
    let catalog = place.open();
    let id = record(&catalog, "a.wav", 44, 2);
    archive(&catalog, id, "x", 44, 2);
    catalog.record(Op::Opened { id });
    assert_eq!(state(&catalog, id), State::Recording);
    assert!(catalog.due_release(LATER, None, 10).expect("usable").is_empty());
    catalog.record(closed(id, 44, 2));
    assert_eq!(state(&catalog, id), State::Archived, "the same stamp");

    catalog.record(Op::Opened { id });
    catalog.record(closed(id, 44, 9));
    let row = node(&catalog, id);
    assert_eq!((row.state, row.hashed, row.generation), (State::Closed, None, Generation(1)));
    let same = catalog.hashed(id, digest("x", 44, 9)).expect("usable");
    assert_eq!(same, HashOutcome::Same(Generation(1)));
    assert_eq!(state(&catalog, id), State::Archived, "only touched");

    catalog.record(Op::Opened { id });
    catalog.record(closed(id, 50, 12));
    archive(&catalog, id, "y", 50, 12);
    let objects = catalog.objects(id, None).expect("usable");
    assert_eq!(objects.len(), 2, "the first generation keeps its object");
    assert!(objects.iter().all(|o| o.state == ObjectState::Verified));
    catalog.close();
    check_rules(&place.database());
}

#[test]
fn a_hash_of_an_older_close_or_of_an_open_file_is_stale() {
    let place = Place::new();
    let catalog = place.open();
    let id = record(&catalog, "a.wav", 44, 2);
    catalog.record(Op::Opened { id });
    assert_eq!(catalog.hashed(id, digest("x", 44, 2)).expect("usable"), HashOutcome::Stale);
    catalog.record(closed(id, 44, 9));
    assert_eq!(catalog.hashed(id, digest("x", 44, 2)).expect("usable"), HashOutcome::Stale);
    let outcome = catalog.hashed(id, digest("x", 44, 9)).expect("usable");
    assert_eq!(outcome, HashOutcome::New(Generation(1)));
    let required = ["a".to_owned()];
    let object = catalog.assign_key(id, Generation(1), "a", &["k".to_owned()]).expect("a key");
    let now = |v| catalog.archived(id, Generation(1), v, &required, at(20)).expect("usable");
    assert!(!now(version(44, 9)), "not verified");
    catalog.verified(object.id, at(19)).expect("usable");
    assert!(!now(version(44, 8)), "another version");
    assert!(!catalog.archived(id, Generation(1), version(44, 9), &[], at(20)).expect("usable"));
    assert!(now(version(44, 9)));
}

#[test]
fn mtime_set_back_after_a_change_is_not_taken_for_the_hashed_content() {
    let place = Place::new();
    let catalog = place.open();
    let id = record(&catalog, "a.wav", 44, 2);
    archive(&catalog, id, "x", 44, 2);
    catalog.record(Op::Opened { id });
    catalog.record(closed(id, 44, 9));
    let back = LowerVersion { ctime: at(10), ..version(44, 2) };
    let op = |before| Op::SetAttr { id, attr: attr(44, 2), version: Some(back), before };
    catalog.record(op(Some(version(44, 9))));
    assert_eq!((state(&catalog, id), node(&catalog, id).hashed), (State::Closed, None));
    assert_eq!(catalog.due_hash(LATER, LATER, 10).expect("usable").len(), 1);
}

#[test]
fn attributes_move_the_stamp_along_and_never_make_a_generation() {
    let place = Place::new();
    let catalog = place.open();
    let id = record(&catalog, "a.wav", 44, 2);
    archive(&catalog, id, "x", 44, 2);
    let moved = LowerVersion { ctime: at(50), ..version(44, 2) };
    let private = Attr { mode: 0o600, ctime: at(50), ..attr(44, 2) };
    let (version, before) = (Some(moved), Some(version(44, 2)));
    catalog.record(Op::SetAttr { id, attr: private.clone(), version, before });
    let row = node(&catalog, id);
    assert_eq!((row.state, row.hashed, row.attr), (State::Archived, Some(moved), private));
    assert_eq!(row.generation, Generation(1));
}

fn removal((id, parent, name): (NodeId, NodeId, &str), last: bool, at: Timestamp) -> Op {
    let (name, fate) = (name.as_bytes().to_vec(), crate::catalog::Fate::Kept);
    Op::Unlink { parent, name, id, last, fate, at }
}

#[test]
fn deleting_leaves_a_tombstone_only_where_objects_are() {
    let place = Place::new();
    let catalog = place.open();
    let dir = make_dir(&catalog, NodeId::ROOT, "2026");
    let (plain, kept) = (record(&catalog, "a.wav", 44, 2), record(&catalog, "b.wav", 44, 2));
    archive(&catalog, kept, "x", 44, 2);
    let name = |n: &str| n.as_bytes().to_vec();
    catalog.record(Op::Rename {
        fate: crate::catalog::Fate::Kept,
        id: kept,
        parent: NodeId::ROOT,
        name: name("b.wav"),
        new_parent: dir,
        new_name: name("b\u{ff}.wav"),
        replaced: None,
        at: at(5),
    });
    let gone = |id, parent, n: &str| removal((id, parent, n), true, at(6));
    catalog.record(gone(plain, NodeId::ROOT, "a.wav"));
    catalog.record(gone(kept, dir, "b\u{ff}.wav"));
    for _ in 0..2 {
        assert_eq!(catalog.node(plain).expect("usable"), None);
        assert_eq!(state(&catalog, kept), State::Deleted);
        assert_eq!(catalog.lookup(dir, "b\u{ff}.wav".as_bytes()).expect("usable"), None);
        catalog.drain().expect("usable");
    }
    assert_eq!(catalog.objects(kept, None).expect("usable").len(), 1);
    let lines = catalog.journal_pending("a", 10).expect("usable");
    let kinds: Vec<String> = lines
        .iter()
        .map(|l| {
            let value: serde_json::Value = serde_json::from_str(&l.line).expect("JSON");
            assert_eq!(value["seq"].as_u64(), Some(l.seq));
            format!(
                "{} {}",
                value["kind"].as_str().unwrap_or(""),
                value["path"].as_str().unwrap_or("")
            )
        })
        .collect();
    let odd = "2026/b%C3%BF.wav";
    let wanted = ["archived b.wav".to_owned(), format!("renamed {odd}"), format!("deleted {odd}")];
    assert_eq!(kinds, wanted);
    assert!(lines[0].line.starts_with(r#"{"seq":1,"at":"#), "{}", lines[0].line);
    catalog.close();
    check_rules(&place.database());
}

#[test]
fn one_recording_with_two_names_goes_with_the_last() {
    let place = Place::new();
    let catalog = place.open();
    let id = record(&catalog, "a.wav", 44, 2);
    archive(&catalog, id, "x", 44, 2);
    let name = |n: &str| n.as_bytes().to_vec();
    catalog.record(Op::Link { id, parent: NodeId::ROOT, name: name("b.wav") });
    assert_eq!(node(&catalog, id).attr.nlink, 2);
    release(&catalog, id);
    let listed = catalog.list_released(NodeId::ROOT, 0, 0, 10).expect("usable");
    assert_eq!(listed.len(), 2);
    let remove = |n: &str, last| {
        catalog.record(removal((id, NodeId::ROOT, n), last, at(800)));
    };
    remove("a.wav", false);
    assert_eq!(look(&catalog, "a.wav"), None);
    assert_eq!(catalog.name_of(id).expect("usable"), Some((NodeId::ROOT, name("b.wav"))));
    let row = node(&catalog, id);
    assert_eq!((row.state, row.attr.nlink, row.attr.ctime), (State::Released, 1, at(800)));
    catalog.drain().expect("usable");
    assert_eq!(node(&catalog, id), row);
    remove("b.wav", true);
    assert_eq!(state(&catalog, id), State::Deleted);
    catalog.close();
    check_rules(&place.database());
}

#[test]
fn promise_9_no_key_is_given_twice() {
    let place = Place::new();
    let catalog = place.open();
    let keys = ["k".to_owned(), "k~1".to_owned()];
    let a = record(&catalog, "a.wav", 44, 2);
    let b = record(&catalog, "b.wav", 44, 2);
    for id in [a, b] {
        catalog.hashed(id, digest("x", 44, 2)).expect("usable");
    }
    let first = catalog.assign_key(a, Generation(1), "t", &keys).expect("free");
    assert_eq!((first.key.as_str(), first.state), ("k", ObjectState::Assigned));
    let again = catalog.assign_key(a, Generation(1), "t", &keys).expect("the same");
    assert_eq!(first, again);
    assert_eq!(catalog.assign_key(b, Generation(1), "t", &keys).expect("free").key, "k~1");
    assert_eq!(catalog.assign_key(b, Generation(1), "u", &keys).expect("free").key, "k");
    catalog.abandon_key(first.id).expect("usable");
    assert!(catalog.assign_key(a, Generation(1), "t", &keys).is_err(), "both are used up");
    let third = catalog.assign_key(a, Generation(1), "t", &["k~2".to_owned()]).expect("free");
    catalog.record(removal((a, NodeId::ROOT, "a.wav"), true, at(9)));
    let taken = [third.key, "k".to_owned()];
    let c = record(&catalog, "a.wav", 44, 2);
    catalog.hashed(c, digest("x", 44, 2)).expect("usable");
    assert!(catalog.assign_key(c, Generation(1), "t", &taken).is_err(), "of a tombstone");
    assert!(catalog.assign_key(c, Generation(7), "t", &["n".to_owned()]).is_err());
}

#[test]
fn a_journal_row_is_kept_until_every_target_has_it() {
    let place = Place::new();
    let catalog = place.open();
    for name in ["a.wav", "b.wav", "c.wav"] {
        let id = record(&catalog, name, 44, 2);
        archive(&catalog, id, name, 44, 2);
    }
    let all = ["a".to_owned(), "b".to_owned()];
    let pending = |t: &str| catalog.journal_pending(t, 10).expect("usable").len();
    assert_eq!(catalog.counts().expect("usable").journal_backlog, 3);
    catalog.journal_shipped("a", 2, 7, &all).expect("usable");
    assert_eq!((pending("a"), pending("b")), (1, 3));
    assert_eq!(catalog.journal_segment("a").expect("usable"), 7);
    assert_eq!(catalog.journal_segment("b").expect("usable"), 0);
    catalog.journal_shipped("b", 1, 1, &all).expect("usable");
    assert_eq!(catalog.counts().expect("usable").journal_backlog, 2);
    catalog.journal_shipped("b", 3, 2, &all).expect("usable");
    catalog.journal_shipped("a", 3, 8, &all).expect("usable");
    assert_eq!(catalog.counts().expect("usable").journal_backlog, 0);
    let id = record(&catalog, "d.wav", 44, 2);
    archive(&catalog, id, "d", 44, 2);
    assert_eq!(catalog.journal_pending("a", 10).expect("usable")[0].seq, 4, "numbers go on");
}

#[test]
fn the_journal_is_bounded_and_given_out_by_the_megabyte() {
    let place = Place::new();
    let catalog = place.open();
    let id = record(&catalog, "a.wav", 44, 2);
    archive(&catalog, id, "x", 44, 2);
    catalog.close();
    drop(catalog);
    // A target was away for long.
    let conn = rusqlite::Connection::open(place.database()).expect("opens");
    let rows = crate::limits::JOURNAL_ROWS_MAX;
    let fill = format!(
        "WITH RECURSIVE n(seq) AS (SELECT 2 UNION ALL SELECT seq + 1 FROM n WHERE seq < {rows})
         INSERT INTO journal SELECT seq, 0, '{{}}' FROM n;
         UPDATE position SET journal = {rows};
         UPDATE journal SET line = replace(hex(zeroblob({})), '00', 'x') WHERE seq < 40",
        1 << 20
    );
    conn.execute_batch(&fill).expect("fills");
    drop(conn);
    let catalog = place.open();
    let pending = catalog.journal_pending("a", 500).expect("usable");
    assert_eq!((pending.len(), pending[0].seq), (16, 1));
    for i in 0..600 {
        let op = |name: &str, new: &str| Op::Rename {
            fate: crate::catalog::Fate::Kept,
            id,
            parent: NodeId::ROOT,
            name: name.into(),
            new_parent: NodeId::ROOT,
            new_name: new.into(),
            replaced: None,
            at: at(3 + i),
        };
        let (from, to) = if i % 2 == 0 { ("a.wav", "b.wav") } else { ("b.wav", "a.wav") };
        catalog.record(op(from, to));
    }
    let pending = catalog.journal_pending("a", 2).expect("usable");
    assert!(pending[0].seq > 300, "{}", pending[0].seq);
    assert!(catalog.counts().expect("usable").journal_backlog < rows + 256);
    catalog.close();
    check_rules(&place.database());
}

#[test]
fn segments_count_from_one_in_each_epoch() {
    let place = Place::new();
    let catalog = place.open();
    let all = ["a".to_owned()];
    catalog.journal_shipped("a", 0, 7, &all).expect("usable");
    catalog.begin_epoch(false).expect("usable");
    assert_eq!(catalog.identity().epoch, 2);
    assert_eq!(catalog.journal_segment("a").expect("usable"), 0);
    catalog.journal_shipped("a", 0, 3, &all).expect("usable");
    catalog.close();
    drop(catalog);
    let catalog = place.open();
    assert_eq!((catalog.identity().epoch, catalog.reconcile_due()), (2, false));
    assert_eq!(catalog.journal_segment("a").expect("usable"), 3);
}

#[test]
fn work_comes_in_the_order_the_planner_wants() {
    let place = Place::new();
    let catalog = place.open();
    let mut ids = Vec::new();
    for (i, name) in ["a.wav", "b.wav", "c.wav"].iter().enumerate() {
        ids.push(record(&catalog, name, 44, 10 + i as i64));
    }
    let mut old = Vec::new();
    for (name, changed) in [("x.wav", -9000), ("y.wav", -5000)] {
        let id = catalog.alloc();
        let Op::Create { parent, name, attr, version, .. } = create(id, name, 7, changed) else {
            unreachable!()
        };
        catalog.record(Op::Create { id, parent, name, attr, version, adopted: true });
        old.push(id);
    }
    record(&catalog, "empty.wav", 0, 10);
    let ids_of = |c: Vec<crate::catalog::Candidate>| c.iter().map(|c| c.row.id).collect::<Vec<_>>();
    let due = ids_of(catalog.due_hash(LATER, LATER, 10).expect("usable"));
    assert_eq!(due, [ids[2], ids[1], ids[0], old[1], old[0]]);
    assert_eq!(ids_of(catalog.due_hash(LATER, LATER, 4).expect("usable")), due[..4]);
    for (i, id) in ids.iter().enumerate() {
        catalog.hashed(*id, digest(&format!("{i}"), 44, 10 + i as i64)).expect("usable");
    }
    catalog.hashed(old[0], digest("x", 7, -9000)).expect("usable");
    let all = ids_of(catalog.due_archive(LATER, LATER, None, 10).expect("usable"));
    assert_eq!(all, [ids[0], ids[1], ids[2], old[0]]);
    for (i, id) in all.iter().enumerate() {
        let rest = ids_of(catalog.due_archive(LATER, LATER, Some(*id), 10).expect("usable"));
        assert_eq!(rest, all[i + 1..]);
    }
    let trouble = Trouble { attempts: 3, not_before: at(90), error: "no".to_owned(), at: at(30) };
    catalog.failed(ids[1], &trouble).expect("usable");
    assert_eq!(ids_of(catalog.due_archive(LATER, at(89), None, 10).expect("usable")).len(), 3);
    assert_eq!(ids_of(catalog.due_archive(LATER, at(90), None, 10).expect("usable")).len(), 4);
    assert_eq!(catalog.trouble_of(ids[1]).expect("usable"), Some(trouble.clone()));
    assert_eq!(catalog.last_trouble().expect("usable"), Some((PathBuf::from("b.wav"), trouble)));
    let counts = catalog.counts().expect("usable");
    assert_eq!((counts.empty, counts.unhashed, counts.failing), (1, 1, 1));
    assert!(counts.states.contains(&(State::Closed, 5, 3 * 44 + 2 * 7)));
    assert_eq!(counts.oldest_waiting, Some((PathBuf::from("a.wav"), at(10))));
    archive_hashed(&catalog, ids[1], 11);
    assert_eq!(catalog.trouble_of(ids[1]).expect("usable"), None, "success clears it");
    catalog.close();
    check_rules(&place.database());
}

fn archive_hashed(catalog: &Catalog, id: NodeId, changed: i64) {
    let object = catalog.assign_key(id, Generation(1), "a", &["q".to_owned()]).expect("a key");
    catalog.verified(object.id, at(50)).expect("usable");
    let required = ["a".to_owned()];
    let done = catalog.archived(id, Generation(1), version(44, changed), &required, at(50));
    assert!(done.expect("usable"));
}

#[test]
fn a_group_is_found_by_its_stem_and_left_recordings_are_listed() {
    let place = Place::new();
    let catalog = place.open();
    let wav = record(&catalog, "call-all.wav", 44, 2);
    let text = record(&catalog, "call.txt", 3, 3);
    let open = catalog.alloc();
    catalog.record(create(open, "other.wav", 0, 1));
    make_dir(&catalog, NodeId::ROOT, "call");
    let group = catalog.group(NodeId::ROOT, &stem(b"call.mp3")).expect("usable");
    assert_eq!(group.iter().map(|c| c.row.id).collect::<Vec<_>>(), [wav, text]);
    let left = catalog.left_recording(NodeId(0), 10).expect("usable");
    assert_eq!(left.iter().map(|c| c.row.id).collect::<Vec<_>>(), [open]);
    assert!(catalog.left_recording(open, 10).expect("usable").is_empty());
    let names = |after: &[u8]| {
        let children = catalog.children(NodeId::ROOT, after, 2).expect("usable");
        children
            .into_iter()
            .map(|(name, _)| String::from_utf8(name).expect("UTF-8"))
            .collect::<Vec<_>>()
    };
    assert_eq!(names(b""), ["call", "call-all.wav"]);
    assert_eq!(names(b"call-all.wav"), ["call.txt", "other.wav"]);
}

#[test]
fn reconciling_adopts_what_changed_and_keeps_what_only_the_archive_has() {
    let place = Place::new();
    let catalog = place.open();
    let archived = record(&catalog, "a.wav", 44, 2);
    archive(&catalog, archived, "x", 44, 2);
    let plain = record(&catalog, "b.wav", 44, 2);
    catalog.changed_below(archived, attr(44, 2), version(44, 2)).expect("usable");
    assert_eq!(state(&catalog, archived), State::Archived);
    catalog.missing_below(plain).expect("usable");
    assert_eq!(look(&catalog, "b.wav"), None);
    catalog.missing_below(archived).expect("usable");
    assert_eq!(state(&catalog, archived), State::Released, "an archive is not lost with the disk");
    catalog.missing_below(archived).expect("usable");
    assert_eq!(state(&catalog, archived), State::Released);
    catalog.changed_below(archived, attr(44, 2), version(44, 2)).expect("usable");
    assert_eq!(state(&catalog, archived), State::Archived, "a spare copy turned up");
    catalog.changed_below(archived, attr(45, 30), version(45, 30)).expect("usable");
    let row = node(&catalog, archived);
    assert_eq!((row.state, row.hashed, row.closed_at), (State::Closed, None, Some(at(30))));
    catalog.missing_below(archived).expect("usable");
    assert_eq!(state(&catalog, archived), State::Released, "its first generation is all there is");
    catalog.close();
    check_rules(&place.database());
}

#[test]
fn an_archived_file_that_waits_for_its_hash_and_goes_missing_is_released_as_it_was_archived() {
    let place = Place::new();
    let catalog = place.open();
    let [closed_again, open] = ["a.wav", "b.wav"].map(|name| {
        let id = record(&catalog, name, 44, 2);
        archive(&catalog, id, name, 44, 2);
        catalog.record(Op::Opened { id });
        id
    });
    catalog.record(closed(closed_again, 50, 9));
    assert_eq!(state(&catalog, closed_again), State::Closed);
    for id in [closed_again, open] {
        catalog.missing_below(id).expect("usable");
        let row = node(&catalog, id);
        assert_eq!((row.state, row.generation), (State::Released, Generation(1)));
        assert_eq!((row.attr.size, row.attr.mtime), (44, at(2)));
    }
    assert_eq!(look(&catalog, "a.wav").map(|row| row.id), Some(closed_again));
    // What turns up again is hashed, whatever its stamp.
    catalog.changed_below(closed_again, attr(44, 2), version(44, 2)).expect("usable");
    assert_eq!(state(&catalog, closed_again), State::Closed);
    assert_eq!(node(&catalog, closed_again).hashed, None);
    catalog.close();
    check_rules(&place.database());
}

#[test]
fn names_made_or_moved_before_the_commit_are_listed_once_with_their_final_cursor() {
    let place = Place::new();
    let catalog = place.open();
    let dir = make_dir(&catalog, NodeId::ROOT, "d");
    let ids: Vec<NodeId> = (0..6).map(|i| record(&catalog, &format!("{i}.wav"), 44, i)).collect();
    for (i, id) in ids.iter().enumerate() {
        archive(&catalog, *id, &i.to_string(), 44, i as i64);
        release(&catalog, *id);
    }
    catalog.drain().expect("usable");
    let lock = rusqlite::Connection::open(place.database()).expect("opens");
    lock.execute_batch("BEGIN IMMEDIATE").expect("locks");
    let rename = |id, parent, name: &str, new_parent, new_name: &str| {
        let (name, new_name) = (name.as_bytes().to_vec(), new_name.as_bytes().to_vec());
        catalog.record(Op::Rename {
            fate: crate::catalog::Fate::Kept,
            id,
            parent,
            name,
            new_parent,
            new_name,
            replaced: None,
            at: at(9),
        });
    };
    rename(ids[1], NodeId::ROOT, "1.wav", dir, "1.wav");
    rename(ids[2], NodeId::ROOT, "2.wav", NodeId::ROOT, "two.wav");
    rename(ids[2], NodeId::ROOT, "two.wav", NodeId::ROOT, "deux.wav");
    catalog.record(Op::Link { id: ids[3], parent: NodeId::ROOT, name: b"l.wav".to_vec() });
    catalog.record(Op::Opened { id: ids[4] });
    let list = || {
        let mut rows = Vec::new();
        let mut cursor = 0;
        loop {
            let page =
                catalog.list_released(NodeId::ROOT, cursor, u64::MAX >> 1, 2).expect("usable");
            let Some(last) = page.last() else { return rows };
            cursor = last.cursor;
            let released = page.into_iter().filter(|r| r.row.state == State::Released);
            rows.extend(released.map(|r| (r.cursor, String::from_utf8(r.name).expect("UTF-8"))));
        }
    };
    let before = list();
    let names: Vec<&str> = before.iter().map(|(_, n)| n.as_str()).collect();
    assert_eq!(names, ["0.wav", "deux.wav", "3.wav", "5.wav", "l.wav"]);
    assert!(catalog.has_released(dir).expect("usable"));
    lock.execute_batch("ROLLBACK").expect("unlocks");
    catalog.drain().expect("usable");
    assert_eq!(list(), before);
    assert!(catalog.has_released(dir).expect("usable"));
    catalog.close();
    check_rules(&place.database());
}
