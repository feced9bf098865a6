use super::*;
use crate::recording::Generation;

fn archive(generation: u32, bytes: &[u8], key: &str) -> What {
    What::Archived(Box::new(Archive {
        generation: Generation(generation),
        sha256: Sha256::of(bytes),
        chunks: ChunkHashes::default(),
        attributes: Attributes {
            mode: 0o600,
            uid: 1,
            gid: 2,
            size: bytes.len() as u64,
            mtime: Timestamp(5),
            atime: Timestamp(6),
        },
        xattrs: Vec::new(),
        objects: vec![ToldObject {
            target: "one".into(),
            key: key.into(),
            stored: Stored::plain(0, Sha256::of(b"")),
        }],
    }))
}

fn renamed(from: &str, dir: bool) -> What {
    What::Renamed { from: from.into(), dir }
}

/// Rows of epoch and id, path and what happened, in their order.
fn history(rows: &[(u64, u64, &str, What)]) -> History {
    let told: Vec<(u64, Told)> = rows
        .iter()
        .enumerate()
        .map(|(i, (epoch, id, path, what))| {
            let seq = i as u64 + 1;
            let at = Timestamp(seq as i64);
            (
                *epoch,
                Told { seq, at, id: NodeId(*id), path: path.as_bytes().into(), what: what.clone() },
            )
        })
        .collect();
    let dir = tempfile::tempdir().unwrap();
    let mut history = History::begin(dir.path()).unwrap();
    told.iter().for_each(|(epoch, told)| history.apply(*epoch, told).unwrap());
    history
}

fn one(history: &mut History, id: u64) -> Recording {
    history.kept.get(NodeId(id)).unwrap().unwrap().clone()
}

fn names(history: &mut History, id: u64) -> Vec<String> {
    let one = one(history, id);
    one.names.iter().map(|n| String::from_utf8(n.clone()).unwrap()).collect()
}

fn contents(history: &mut History, id: u64) -> Vec<(u32, Sha256, usize)> {
    let live =
        |c: &Content| c.objects.values().filter(|o| o.state == ObjectState::Verified).count();
    let one = one(history, id);
    one.contents.iter().map(|(n, c)| (*n, c.sha256, live(c))).collect()
}

#[test]
fn names_follow_renames_of_files_and_directories() {
    let mut history = history(&[
        (1, 10, "d/a", archive(1, b"a", "a")),
        (1, 11, "d/e/b", archive(1, b"b", "b")),
        (1, 12, "dx", archive(1, b"c", "c")),
        (1, 90, "f", renamed("d", true)),
        (1, 10, "f/e/a2", renamed("f/a", false)),
        (1, 91, "d", renamed("f/e", true)),
        (1, 11, "g", What::Linked),
        (1, 11, "d/b", What::Unlinked),
    ]);
    assert_eq!(names(&mut history, 10), ["d/a2"]);
    assert_eq!(names(&mut history, 11), ["g"]);
    assert_eq!(names(&mut history, 12), ["dx"]);
}

#[test]
fn an_exchange_and_a_rename_over_another_leave_each_its_name() {
    let mut history = history(&[
        (1, 10, "a", archive(1, b"a", "a")),
        (1, 11, "b", archive(1, b"b", "b")),
        (1, 12, "c", archive(1, b"c", "c")),
        (1, 10, "b", renamed("a", false)),
        (1, 11, "a", renamed("b", false)),
        (1, 11, "c", renamed("a", false)),
        (1, 12, "c", What::Deleted { trash: false }),
    ]);
    assert_eq!(names(&mut history, 10), ["b"]);
    assert_eq!(names(&mut history, 11), ["c"]);
    assert_eq!(names(&mut history, 12), Vec::<String>::new());
    assert!(one(&mut history, 12).deleted.is_some());
}

#[test]
fn a_deletion_is_final_unless_a_later_epoch_goes_on() {
    let late = archive(1, b"a", "a");
    let rows = [
        (1, 10, "a", archive(1, b"a", "a")),
        (1, 10, "a", What::Deleted { trash: false }),
        // A further target got it a moment later.
        (1, 10, "a", late),
    ];
    assert!(one(&mut history(&rows), 10).deleted.is_some());
    let mut rows = rows.to_vec();
    rows.push((2, 10, "b", renamed("a", false)));
    let mut back = history(&rows);
    assert!(one(&mut back, 10).deleted.is_none());
    assert_eq!(names(&mut back, 10), ["b"]);
}

#[test]
fn generations_that_were_counted_anew_do_not_hide_each_other() {
    let mut history = history(&[
        (1, 10, "a", archive(1, b"one", "a")),
        (1, 10, "a", archive(2, b"two", "a~2")),
        // The catalog was lost; what is local is the second content, and then a third.
        (2, 10, "a", archive(1, b"two", "a~2")),
        (2, 10, "a", archive(2, b"three", "a~2x")),
    ]);
    let [one, two, three] = [&b"one"[..], b"two", b"three"].map(Sha256::of);
    assert_eq!(contents(&mut history, 10), [(1, one, 1), (2, two, 1), (3, three, 1)]);
}

#[test]
fn the_last_list_of_objects_counts_and_other_keys_stay_taken() {
    let mut history =
        history(&[(1, 10, "a", archive(1, b"one", "a")), (1, 10, "a", archive(1, b"one", "a~1"))]);
    assert_eq!(contents(&mut history, 10), [(1, Sha256::of(b"one"), 1)]);
    let knows = |key: &str| history.kept.knows("one", key).unwrap();
    assert!(knows("a") && knows("a~1"));
    let content = &one(&mut history, 10).contents[&1];
    assert_eq!(content.objects[&("one".into(), "a".into())].state, ObjectState::Abandoned);
}

#[test]
fn what_is_put_away_is_as_it_was_left() {
    let count = 3 * crate::limits::REBUILD_NEAR as u64;
    let paths: Vec<String> = (0..count).map(|i| format!("d/{i}")).collect();
    let moved: Vec<String> = (0..count).map(|i| format!("e/{i}")).collect();
    let mut rows = Vec::new();
    for (i, path) in (0..count).zip(&paths) {
        rows.push((1, 10 + i, path.as_str(), archive(1, path.as_bytes(), path)));
    }
    rows.push((1, 9, "e", renamed("d", true)));
    // Every second takes the name of the one before it, and what is left of a third is its object.
    for i in (1..count as usize).step_by(2) {
        rows.push((1, 10 + i as u64, &moved[i - 1], renamed(&moved[i], false)));
    }
    for i in (0..count).step_by(3) {
        let path = &paths[i as usize];
        rows.push((2, 10 + i, path, archive(2, b"other", path)));
    }
    let mut history = history(&rows);
    assert_eq!(history.kept.count().unwrap(), (count, Some(NodeId(9 + count))));
    for i in 0..count {
        let again = i % 3 == 0;
        let expected = match (again, i % 2 == 1) {
            (true, _) => vec![paths[i as usize].clone()],
            (false, true) => vec![moved[i as usize - 1].clone()],
            (false, false) => Vec::new(),
        };
        assert_eq!(names(&mut history, 10 + i), expected, "{i}");
        let first = Sha256::of(paths[i as usize].as_bytes());
        let expected = match again {
            true => vec![(1, first, 0), (2, Sha256::of(b"other"), 1)],
            false => vec![(1, first, 1)],
        };
        assert_eq!(contents(&mut history, 10 + i), expected, "{i}");
    }
    let mut ids = Vec::new();
    loop {
        let page = history.kept.ids_after(NodeId(ids.len() as u64 + 9)).unwrap();
        if page.is_empty() {
            break;
        }
        ids.extend(page);
    }
    assert_eq!(ids, (10..10 + count).map(NodeId).collect::<Vec<_>>());
}
