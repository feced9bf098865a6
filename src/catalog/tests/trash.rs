//! What is asked of the trash, however much is in it.

use super::*;
use crate::catalog::TrashRow;
use crate::recording::stem;

fn thrown_away(catalog: &Catalog, path: &str) -> NodeId {
    let id = catalog.alloc();
    catalog.trash_found(id, attr(1, 1), version(1, 1), Path::new(path)).expect("usable");
    id
}

#[test]
fn a_group_in_the_trash_is_found_among_its_likes_and_never_too_large() {
    let place = Place::new();
    let catalog = place.open();
    let group = ["d/q", "d/q.wav", "d/q.wav.txt", "d/q-all.wav", "d/q-in.WAV"];
    let likes =
        ["d/p.wav", "d/q1.wav", "d/q-other.wav", "d/q-x/q.wav", "d/q/q.wav", "q.wav", "d/q .wav"];
    let mut wanted: Vec<NodeId> = group.iter().map(|path| thrown_away(&catalog, path)).collect();
    let _others: Vec<NodeId> = likes.iter().map(|path| thrown_away(&catalog, path)).collect();
    // The same name again and again.
    let again: Vec<NodeId> = (0..30).map(|_| thrown_away(&catalog, "d/q.wav")).collect();
    wanted.extend(&again);
    let found = |limit| -> Vec<NodeId> {
        let rows = catalog.trash_group(Path::new("d"), &stem(b"q.wav"), limit).expect("usable");
        rows.iter().map(|row| row.row.id).collect()
    };
    let mut all = found(1000);
    all.sort_unstable();
    assert_eq!(all, wanted);
    assert_eq!(found(10).len(), 10);
    let mut at = catalog.trash_at(Path::new("d/q.wav")).expect("usable");
    at.sort_unstable();
    assert_eq!((at.len(), &at[1..]), (31, &again[..]));
    let top = catalog.trash_group(Path::new(""), &stem(b"q.txt"), 10).expect("usable");
    assert_eq!(top.len(), 1);
}

#[test]
fn what_is_below_a_path_is_found_page_by_page_and_of_one_path_the_last_first() {
    let place = Place::new();
    let catalog = place.open();
    let _others = ["c", "d-x/a.wav", "d.wav", "d0", "d0/a.wav"].map(|p| thrown_away(&catalog, p));
    let there = ["d/e/c.wav", "d/a.wav", "d", "d/b.wav", "d/a.wav", "d/a.wav", "d"];
    let ids = there.map(|path| thrown_away(&catalog, path));
    let wanted = [6, 2, 5, 4, 1, 3, 0].map(|n: usize| ids[n]);
    for limit in [1, 2, 3, 100] {
        let mut found: Vec<TrashRow> = Vec::new();
        loop {
            let page = catalog.trash_below(Path::new("d"), found.last(), limit).expect("usable");
            assert!(page.len() <= limit);
            if page.is_empty() {
                break;
            }
            found.extend(page);
        }
        let found: Vec<NodeId> = found.iter().map(|row| row.row.id).collect();
        assert_eq!(found, wanted, "pages of {limit}");
    }
}
