use super::super::plan::{Leg, Options};
use super::*;
use crate::codec::{Audio, Coding};
use crate::recording::Kind;

fn join(call: &str, nodes: &[u64]) -> NewJoin {
    let leg = |node: &u64| Leg {
        node: NodeId(*node),
        path: format!("{node}.wav"),
        size: 100,
        mtime: Timestamp(5),
        start: None,
        side: None,
        audio: Ok(Audio {
            coding: Coding::Pcm16,
            rate: 8000,
            channels: 1,
            at: 44,
            samples: 28,
            frames: None,
        }),
    };
    let plan = Plan::new(nodes.iter().map(leg).collect(), &Options::default());
    let attr = Attr {
        kind: Kind::File,
        mode: 0o440,
        uid: 1,
        gid: 1,
        size: plan.len(),
        mtime: Timestamp(5),
        atime: Timestamp(5),
        ctime: Timestamp(5),
        nlink: 1,
        rdev: 0,
        blocks: 1,
        special: 0,
    };
    let sha256 = Sha256::of(format!("{nodes:?}").as_bytes());
    NewJoin { call: call.into(), plan, attr, sha256, chunks: ChunkHashes(vec![sha256]) }
}

fn states(kept: &Kept) -> Vec<(i64, KeptState)> {
    kept.after(0, 100).unwrap().iter().map(|join| (join.id, join.state)).collect()
}

#[test]
fn a_key_is_given_out_once_and_a_call_has_one_join() {
    let dir = tempfile::tempdir().unwrap();
    let keys = ["a".to_owned(), "b".to_owned()];
    let kept = Kept::open(dir.path()).unwrap();
    let (first, of) = (join("1.1", &[1, 2]), [NodeId(1), NodeId(3)]);
    let id = kept.begin(&first).unwrap();
    let plain = Stored::plain(first.plan.len(), first.sha256);
    let (object, before) = kept.assign(id, "one", &keys, &plain).unwrap();
    assert_eq!((object.key.as_str(), before), ("a", false));
    assert_eq!(kept.assign(id, "one", &keys, &plain).unwrap(), (object.clone(), true));
    assert_eq!(kept.source_of(first.plan.digest(), first.plan.len()), None, "it is not stored");
    kept.note(&object, ObjectState::Verified, Timestamp(1)).unwrap();
    kept.stored(id, &[]).unwrap();
    assert_eq!(kept.begin(&first).unwrap(), id, "it is the same");

    // A late leg.
    let later = join("1.1", &[1, 2, 3]);
    let new = kept.begin(&later).unwrap();
    assert_eq!(kept.assign(new, "one", &keys, &plain).unwrap().0.key, "b");
    kept.assign(new, "two", &keys, &plain).unwrap();
    kept.stored(new, &[id]).unwrap();
    assert_eq!(states(&kept), [(id, KeptState::Old), (new, KeptState::Current)]);
    kept.forget(id).unwrap();
    drop(kept);

    let kept = Kept::open(dir.path()).unwrap();
    assert_eq!(states(&kept), [(new, KeptState::Current)]);
    let about = |nodes: &[NodeId]| kept.about(None, nodes).unwrap().len();
    assert_eq!((about(&of), about(&[NodeId(4)])), (1, 0));
    assert_eq!(kept.about(Some(b"1.1"), &of).unwrap().len(), 1);
    let other = kept.begin(&join("2.1", &[7, 8])).unwrap();
    assert!(kept.assign(other, "one", &keys, &plain).is_err(), "keys stay taken");

    assert!(kept.standing_in(b"1.1", &of).unwrap().is_none());
    kept.show(new, true).unwrap();
    assert_eq!(kept.standing_in(b"1.1", &[]).unwrap().unwrap().id, new);
    assert_eq!(kept.standing_in(b"x", &of).unwrap().unwrap().plan, later.plan);
    let source = kept.source_of(later.plan.digest(), later.plan.len()).unwrap();
    assert!(Kept::owns(source) && kept.objects_of(source).unwrap().len() == 2);
    kept.erased(&[NodeId(2)], true).unwrap();
    let legs = kept.after(0, 1).unwrap().remove(0).legs;
    assert_eq!(legs.iter().map(|leg| leg.erased).collect::<Vec<_>>(), [false, true, false]);
}

#[test]
fn what_was_found_again_is_known_in_detail_when_it_is_made_again() {
    let dir = tempfile::tempdir().unwrap();
    let kept = Kept::open(dir.path()).unwrap();
    let (real, of) = (join("1.1", &[1, 2]), [NodeId(1), NodeId(2)]);
    let seen = NewJoin { plan: join("1.1", &[1]).plan, ..real.clone() };
    kept.found(&seen, &of, &object("one", "a", &seen)).unwrap();
    kept.found(&seen, &of, &object("two", "a", &seen)).unwrap();
    let found = kept.after(0, 10).unwrap();
    assert_eq!((found.len(), found[0].state), (1, KeptState::Current));
    assert!(found[0].legs.iter().all(|leg| leg.content.is_none()) && found[0].legs.len() == 2);
    assert_eq!(kept.begin(&real).unwrap(), found[0].id);
    let known = kept.after(0, 10).unwrap().remove(0);
    assert_eq!((known.plan, known.objects.len()), (real.plan, 2));
    assert!(known.legs.iter().all(|leg| leg.content == Some((100, Timestamp(5)))));
    assert!(kept.knows("two", "a").unwrap() && !kept.knows("two", "b").unwrap());
}

fn object(target: &str, key: &str, of: &NewJoin) -> KeptObject {
    let stored = Stored::plain(of.plan.len(), of.sha256);
    KeptObject { target: target.into(), key: key.into(), state: ObjectState::Verified, stored }
}

#[test]
fn regression_of_joins_found_again_that_share_recordings_the_youngest_counts() {
    // Two calls became one: what was stored of the first is old. Whatever is found first.
    let of = |nodes: &[u64]| nodes.iter().copied().map(NodeId).collect::<Vec<_>>();
    let (part, mut whole) = (join("1.1", &[1, 2]), join("2.1", &[1, 2, 3]));
    whole.attr.mtime = Timestamp(6);
    for whole_first in [true, false] {
        let dir = tempfile::tempdir().unwrap();
        let kept = Kept::open(dir.path()).unwrap();
        let found = |join: &NewJoin, nodes: &[u64], key: &str| {
            kept.found(join, &of(nodes), &object("one", key, join)).unwrap();
        };
        if whole_first {
            found(&whole, &[1, 2, 3], "b");
        }
        found(&part, &[1, 2], "a");
        if !whole_first {
            found(&whole, &[1, 2, 3], "b");
        }
        let current = kept.in_state(KeptState::Current, 0, 10).unwrap();
        let calls: Vec<_> = current.iter().map(|join| join.call.as_slice()).collect();
        assert_eq!(calls, [b"2.1"], "{whole_first}");
    }
}

#[test]
fn of_joins_found_again_that_share_a_recording_each_has_its_call() {
    let dir = tempfile::tempdir().unwrap();
    let kept = Kept::open(dir.path()).unwrap();
    for (call, nodes, key) in [("1.1", [1, 2], "a"), ("2.1", [2, 3], "b")] {
        let new = join(call, &nodes);
        kept.found(&new, &nodes.map(NodeId), &object("one", key, &new)).unwrap();
    }
    assert_eq!(kept.in_state(KeptState::Current, 0, 10).unwrap().len(), 2);
    let mut later = join("2.1", &[3, 4]);
    later.attr.mtime = Timestamp(6);
    kept.found(&later, &[NodeId(3), NodeId(4)], &object("one", "c", &later)).unwrap();
    let calls: Vec<_> = kept.in_state(KeptState::Old, 0, 10).unwrap();
    assert_eq!(calls.iter().map(|join| join.objects[0].key.as_str()).collect::<Vec<_>>(), ["b"]);
}

#[test]
fn a_damaged_object_is_of_its_join_whichever_is_found_first() {
    let (real, of) = (join("1.1", &[1, 2]), [NodeId(1), NodeId(2)]);
    let damaged =
        NewJoin { plan: join("1.1", &[1]).plan, chunks: ChunkHashes(Vec::new()), ..real.clone() };
    for damaged_first in [true, false] {
        let dir = tempfile::tempdir().unwrap();
        let kept = Kept::open(dir.path()).unwrap();
        for step in [damaged_first, !damaged_first] {
            match step {
                true => kept.found_damaged(&damaged, &of, &object("one", "a", &real)).unwrap(),
                false => kept.found(&real, &of, &object("two", "b", &real)).unwrap(),
            }
            let all = kept.after(0, 10).unwrap();
            assert_eq!(all.len(), 1);
            let only_damaged = step && damaged_first;
            assert_eq!(all[0].only_damaged(), only_damaged);
            assert_eq!(all[0].state == KeptState::Making, only_damaged);
        }
        let found = kept.after(0, 10).unwrap().remove(0);
        assert_eq!((found.plan, found.size), (real.plan.clone(), real.plan.len()));
        let states: Vec<_> = found.objects.iter().map(|o| (o.key.as_str(), o.state)).collect();
        assert_eq!(states, [("a", ObjectState::Abandoned), ("b", ObjectState::Verified)]);
    }
}

#[test]
fn regression_a_join_stands_in_for_no_call_that_only_shares_a_recording() {
    let dir = tempfile::tempdir().unwrap();
    let kept = Kept::open(dir.path()).unwrap();
    let id = kept.begin(&join("1.1", &[1, 2])).unwrap();
    kept.stored(id, &[]).unwrap();
    kept.show(id, true).unwrap();
    let shows = |nodes: &[u64]| {
        let left: Vec<NodeId> = nodes.iter().copied().map(NodeId).collect();
        kept.standing_in(b"2.1", &left).unwrap().is_some()
    };
    assert!(shows(&[1]) && shows(&[1, 2]), "the call has another name now");
    assert!(!shows(&[1, 7]) && !shows(&[7]) && !shows(&[]));
}

#[test]
fn what_was_not_proved_for_longest_is_the_first() {
    let dir = tempfile::tempdir().unwrap();
    let kept = Kept::open(dir.path()).unwrap();
    for (call, nodes, at) in [("1.1", [1, 2], 30), ("2.1", [3, 4], 10), ("3.1", [5, 6], 20)] {
        let new = join(call, &nodes);
        let id = kept.begin(&new).unwrap();
        let plain = Stored::plain(new.plan.len(), new.sha256);
        let (object, _) = kept.assign(id, "one", &[call.to_owned()], &plain).unwrap();
        if call != "3.1" {
            kept.note(&object, ObjectState::Verified, Timestamp(at)).unwrap();
        }
    }
    let due = |since: i64| {
        let joins = kept.unproved("one", Timestamp(since), 10).unwrap();
        joins.iter().map(|join| join.objects[0].key.clone()).collect::<Vec<_>>()
    };
    assert_eq!(due(100), ["2.1", "1.1"]);
    assert_eq!(due(30), ["2.1"]);
    assert_eq!(kept.unproved("two", Timestamp(100), 10).unwrap().len(), 0);
}

#[test]
fn what_is_sealed_is_known_as_that_and_a_file_of_before_is_read() {
    let dir = tempfile::tempdir().unwrap();
    let new = join("1.1", &[1, 2]);
    let head = vec![7; 216];
    let size = 216 + crate::recording::sealed_bytes(new.plan.len());
    let encoding = crate::recording::Sealed::new(head, Default::default(), size).unwrap().into();
    let sealed = Stored { encoding, size, sha256: Sha256::of(b"sealed") };
    let id = {
        let kept = Kept::open(dir.path()).unwrap();
        let id = kept.begin(&new).unwrap();
        kept.assign(id, "one", &["a".to_owned()], &sealed).unwrap();
        id
    };
    let kept = Kept::open(dir.path()).unwrap();
    let join = kept.after(0, 1).unwrap().remove(0);
    assert_eq!((join.id, &join.objects[0].stored), (id, &sealed));
    assert_eq!(join.row(&join.objects[0]).stored, sealed);
    drop(kept);

    // As it was made before objects could be sealed.
    let file = Connection::open(dir.path().join(rows::FILE)).unwrap();
    for text in [
        "DROP INDEX object_proved",
        "ALTER TABLE object DROP COLUMN proved",
        "ALTER TABLE object DROP COLUMN encoding",
        "ALTER TABLE object DROP COLUMN stored_size",
        "ALTER TABLE object DROP COLUMN stored_sha256",
        "PRAGMA user_version = 0",
    ] {
        file.execute_batch(text).unwrap();
    }
    drop(file);
    let kept = Kept::open(dir.path()).unwrap();
    let object = kept.after(0, 1).unwrap().remove(0).objects.remove(0);
    assert_eq!(object.stored, Stored::plain(new.plan.len(), new.sha256));
}

#[test]
fn every_question_goes_by_an_index() {
    let dir = tempfile::tempdir().unwrap();
    let kept = Kept::open(dir.path()).unwrap();
    let connection = kept.connection.lock();
    let joins = [
        ask::AFTER,
        ask::IN_STATE,
        ask::OF_CALL,
        ask::OF_NODE,
        ask::BY_ID,
        ask::SHOWN_OF_CALL,
        ask::SHOWN_OF_NODE,
        ask::BESIDE,
    ];
    let joins = joins.map(|which| format!("SELECT s.id, s.chunks FROM stored s WHERE {which}"));
    let others = [ask::DUE, ask::SOURCE, ask::SAME, ask::SHOWN, ask::COUNT].map(str::to_owned);
    for text in joins.into_iter().chain(others) {
        let mut statement = connection.prepare(&format!("EXPLAIN QUERY PLAN {text}")).unwrap();
        let bound = vec![1; statement.parameter_count()];
        let lines: Vec<String> = statement
            .query_map(rusqlite::params_from_iter(bound), |r| r.get(3))
            .unwrap()
            .collect::<rusqlite::Result<_>>()
            .unwrap();
        for line in &lines {
            assert!(!line.starts_with("SCAN") || line.contains("INDEX"), "{text}: {lines:#?}");
            let sorts = text.contains("LIMIT ?") && line.contains("TEMP B-TREE FOR ORDER");
            assert!(!sorts, "{text}: {lines:#?}");
        }
    }
}
