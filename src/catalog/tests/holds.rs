//! Legal holds: in memory, in the database, in the list beside it, in the journal.

use super::*;
use crate::catalog::{NewHold, Scope, Told, What};
use crate::clock::Clock;
use std::fs;

const DAY: i64 = 86_400;

fn new(case: &str) -> NewHold {
    let scope = Scope { paths: vec!["a.wav".into()], ..Scope::default() };
    NewHold { case: case.into(), reason: "letter of 20 \"Nov\"".into(), by: "eve".into(), scope }
}

fn put(catalog: &Catalog, case: &str, nodes: &[NodeId]) -> u64 {
    catalog.put_hold(&new(case), nodes).expect("usable")
}

fn told(catalog: &Catalog) -> Vec<Told> {
    let rows = catalog.journal_pending("x", 1000).expect("usable");
    rows.iter().map(|row| Told::parse(&row.line).expect("a row")).collect()
}

#[test]
fn holds_survive_a_restart_and_are_lifted_one_by_one() {
    let place = Place::new();
    let catalog = place.open();
    let id = record(&catalog, "a.wav", 44, 2);
    let (first, second) = (put(&catalog, "A", &[id]), put(&catalog, "B", &[id]));
    assert!(second > first);
    drop(catalog);
    let catalog = place.open();
    assert_eq!(catalog.holds().cases(id), ["A", "B"]);
    assert!(catalog.lift_hold(first, "eve", "settled").expect("usable"));
    assert!(!catalog.lift_hold(first, "eve", "again").expect("usable"));
    assert!(catalog.is_held(id));
    assert_eq!(catalog.holds_of_case("B").expect("usable"), [second]);
    assert!(catalog.lift_hold(second, "eve", "settled").expect("usable"));
    drop(catalog);
    let catalog = place.open();
    assert!(!catalog.is_held(id));
    let now = place.clock.now();
    let week = |days: u64| now.plus(std::time::Duration::from_secs(days * 86_400));
    assert!(!catalog.holds().let_expire(id, week(6)) && catalog.holds().let_expire(id, week(8)));
    let all = catalog.all_holds().expect("usable");
    assert_eq!(all.iter().map(|h| h.id).collect::<Vec<_>>(), [second, first]);
    assert!(all.iter().all(|h| h.lifted.as_ref().is_some_and(|l| l.reason == "settled")));
    check_rules(&place.database());
}

#[test]
fn the_last_close_counts_also_if_it_is_only_logged() {
    let place = Place::new();
    let catalog = place.open();
    let id = record(&catalog, "a.wav", 44, 2);
    put(&catalog, "A", &[id]);
    let long_after = at(2 + 2 * DAY);
    assert!(catalog.holds().forbids_writing(id, long_after));
    catalog.record(Op::Opened { id });
    assert!(!catalog.holds().forbids_writing(id, long_after), "a call goes on with it");
    drop(catalog);
    let catalog = place.open();
    assert!(!catalog.holds().forbids_writing(id, long_after), "after a kill too");
    catalog.record(closed(id, 88, 2 + DAY + 7));
    assert!(!catalog.holds().forbids_writing(id, at(2 + 2 * DAY)));
    drop(catalog);
    let catalog = place.open();
    assert!(!catalog.holds().forbids_writing(id, at(2 + 2 * DAY)));
    assert!(catalog.holds().forbids_writing(id, at(9 + 2 * DAY)));
}

#[test]
fn without_the_database_what_is_held_stays_held() {
    let place = Place::new();
    let catalog = place.open();
    let id = record(&catalog, "a.wav", 44, 2);
    let hold = put(&catalog, "A", &[id]);
    catalog.close();
    drop(catalog);
    // Not a database, so that a new one is made; and none that can be made, a directory in its place.
    for ruin in ["garbage", "directory"] {
        let database = place.database();
        for suffix in ["-wal", "-shm"] {
            let _may_be_missing = fs::remove_file(format!("{}{suffix}", database.display()));
        }
        let kept = fs::read(&database).expect("a database");
        fs::remove_file(&database).expect("removed");
        match ruin {
            "garbage" => fs::write(&database, [7; 9000]).expect("written"),
            _ => fs::create_dir(&database).expect("made"),
        }
        let catalog = place.open();
        assert!(catalog.is_held(id), "{ruin}");
        assert!(catalog.holds().cases(id).contains(&"A".to_owned()), "{ruin}");
        assert!(!catalog.holds().let_expire(id, at(1000 * DAY)), "{ruin}");
        if ruin == "garbage" {
            assert!(put(&catalog, "B", &[id]) > hold, "no number is given twice");
            catalog.close();
        }
        drop(catalog);
        match ruin {
            "garbage" => fs::write(&database, kept).expect("written"),
            _ => fs::remove_dir(&database).expect("removed"),
        }
    }
}

#[test]
fn a_hold_of_a_lost_database_can_be_lifted_by_its_case() {
    let place = Place::new();
    let catalog = place.open();
    let id = record(&catalog, "a.wav", 44, 2);
    let hold = put(&catalog, "A", &[id]);
    catalog.close();
    drop(catalog);
    fs::remove_file(place.database()).expect("removed");
    let catalog = place.open();
    assert_eq!(catalog.holds_of_case("A").expect("usable"), [hold]);
    assert!(catalog.lift_hold(hold, "eve", "settled").expect("usable"));
    assert!(!catalog.is_held(id) && catalog.holds_of_case("A").expect("usable").is_empty());
    let lifted = |t: &Told| matches!(t.what, What::Lifted { hold: h, .. } if h == hold);
    assert!(told(&catalog).iter().any(lifted));
}

#[test]
fn the_journal_tells_of_each_change() {
    let place = Place::new();
    let catalog = place.open();
    let (a, b) = (record(&catalog, "a b.wav", 44, 2), record(&catalog, "c.wav", 44, 2));
    let hold = put(&catalog, "A", &[a]);
    let row = catalog.all_holds().expect("usable").remove(0);
    assert_eq!(catalog.hold_also(&row, &[a, b], true).expect("usable"), 1);
    catalog.let_go_provisional(hold, &[a, b]).expect("usable");
    catalog.lift_hold(hold, "bob", "settled").expect("usable");
    // It is too late for another.
    assert_eq!(catalog.hold_also(&row, &[b], false).map(|_| ()).ok(), Some(()));
    let whats: Vec<_> = told(&catalog).into_iter().map(|t| (t.id, t.path, t.what)).collect();
    let held = |provisional| What::Held { hold, provisional };
    assert!(matches!(&whats[0].2, What::Hold(told) if told.hold == hold && told.new == new("A")));
    let lifted = What::Lifted { hold, by: "bob".into(), reason: "settled".into() };
    assert_eq!(
        whats[1..],
        [
            (a, b"a b.wav".to_vec(), held(false)),
            (b, b"c.wav".to_vec(), held(true)),
            (b, b"c.wav".to_vec(), What::Unheld { hold }),
            (NodeId(0), Vec::new(), lifted),
        ]
    );
    assert!(!catalog.is_held(a) && !catalog.is_held(b));
}
