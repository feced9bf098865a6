//! Paths of many nodes at once.

use super::*;

#[test]
fn nodes_are_at_their_paths_whether_or_not_that_is_committed() {
    let place = Place::new();
    let catalog = place.open();
    let (year, day) = {
        let year = make_dir(&catalog, NodeId::ROOT, "2026");
        (year, make_dir(&catalog, year, "21"))
    };
    let named = |id: NodeId, parent: NodeId, name: &str| {
        let Op::Create { attr, version, .. } = create(id, name, 10, 1) else { unreachable!() };
        let name = name.as_bytes().to_vec();
        catalog.record(Op::Create { id, parent, name, attr, version, adopted: false });
    };
    let (one, gone, top) = (catalog.alloc(), catalog.alloc(), catalog.alloc());
    named(one, day, "one.wav");
    named(gone, day, "gone.wav");
    named(top, NodeId::ROOT, "top.wav");
    let paths = |wanted: [Option<&str>; 3]| {
        let found = catalog.nodes_at(&[one, gone, top]).expect("usable");
        let found: Vec<_> = found.iter().map(|f| f.as_ref().and_then(|f| f.1.to_str())).collect();
        assert_eq!(found, wanted);
    };
    paths([Some("2026/21/one.wav"), Some("2026/21/gone.wav"), Some("top.wav")]);
    catalog.drain().expect("committed");
    let before = catalog.reads();
    paths([Some("2026/21/one.wav"), Some("2026/21/gone.wav"), Some("top.wav")]);
    assert_eq!(catalog.reads() - before, 1, "all of them are one question");
    // Nothing is committed meanwhile: the path goes through a directory with another name by now.
    let lock = rusqlite::Connection::open(place.database()).expect("opens");
    lock.execute_batch("BEGIN IMMEDIATE").expect("locks");
    catalog.record(Op::Rename {
        id: year,
        parent: NodeId::ROOT,
        name: b"2026".to_vec(),
        new_parent: NodeId::ROOT,
        new_name: b"year".to_vec(),
        replaced: None,
        fate: crate::catalog::Fate::Kept,
        at: at(2),
    });
    catalog.record(Op::Unlink {
        id: gone,
        parent: day,
        name: b"gone.wav".to_vec(),
        last: true,
        fate: crate::catalog::Fate::Kept,
        at: at(2),
    });
    paths([Some("year/21/one.wav"), None, Some("top.wav")]);
    lock.execute_batch("ROLLBACK").expect("unlocks");
    catalog.drain().expect("committed");
    paths([Some("year/21/one.wav"), None, Some("top.wav")]);
}
