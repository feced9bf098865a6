//! What is in the trash and its rules let go.

use crate::expiry::{DAY, HOUR, hold, objects, pass_by, path, rule, world};
use crate::rebuild::delete_as;
use crate::world::{World, audio};
use spoolfs::catalog::Fate;
use spoolfs::engine::{Command, Expired, Outcome, Trashed};
use spoolfs::policy::ExpireFrom;
use spoolfs::recording::{NodeId, State};
use spoolfs::stitch::Kept;
use std::sync::Arc;
use std::time::Duration;

/// What begins with an `a` expires after so many days but for one, and stays in the trash for so
/// many.
fn kept(days: u32, in_trash: Option<u32>) -> World {
    let (mut world, _) = world(vec![
        rule("long", path("a2.wav"), None, ExpireFrom::Close),
        rule("short", path("a*"), Some(days), ExpireFrom::Close),
    ]);
    world.rules.trash_keep = in_trash.map(|days| Duration::from_secs(DAY) * days);
    world.restart();
    world
}

fn throw(world: &World, path: &str) -> NodeId {
    delete_as(world, path, Fate::Trash)
}

fn in_trash(world: &World) -> Vec<String> {
    let rows = world.catalog().trash(None, None, 100).unwrap();
    let mut paths: Vec<String> = rows.iter().map(|row| row.path.display().to_string()).collect();
    paths.sort();
    paths
}

/// As an operator asks who does not want to wait, until nothing that is due stays for the moment;
/// what is left. The engine may be quicker.
#[track_caller]
fn emptied(world: &World) -> Vec<String> {
    world.until("all that is due is deleted", || {
        let Expired { kept, left, .. } = world.engine().empty_trash(true, true).unwrap();
        kept == 0 && left == 0
    });
    in_trash(world)
}

#[test]
fn what_is_in_the_trash_goes_when_its_rule_and_its_time_there_are_over() {
    for (rule, keep, due) in [(100, 30, 100), (10, 30, 30)] {
        let world = kept(rule, Some(keep));
        let id = world.released("a.wav", &audio(900, 1));
        world.released("b.wav", &audio(900, 2));
        let closed = world.row(id).closed_at.unwrap();
        throw(&world, "a.wav");
        throw(&world, "b.wav");
        let deleted = world.catalog().trashed(id).unwrap().unwrap().at;
        let from = if rule > keep { closed } else { deleted };
        let left = from.plus(Duration::from_secs(due * DAY)).0 - world.now().0;
        world.pass(u64::try_from(left).unwrap() / 1_000_000_000 - 1);
        assert_eq!(emptied(&world), ["a.wav", "b.wav"], "a second too early");
        world.pass(2);
        assert_eq!((emptied(&world), objects(&world)), (vec!["b.wav".to_owned()], 2));
        assert_eq!(world.state(id), State::Deleted);
        world.pass(9999 * DAY);
        assert_eq!(emptied(&world), ["b.wav"], "no rule lets it go");
        let told = world.engine().restore(&[Trashed::Id(id)], None, &|_| ()).unwrap();
        assert_eq!((told.done, told.failed), (0, 1));
    }
}

#[test]
fn the_trash_is_emptied_by_itself_within_a_day() {
    let world = kept(1, Some(2));
    world.released("a.wav", &audio(900, 1));
    throw(&world, "a.wav");
    // Nothing goes for 72 hours after the rules changed.
    pass_by(&world, 3 * DAY - 6 * HOUR);
    world.idle();
    assert_eq!(in_trash(&world), ["a.wav"]);
    pass_by(&world, DAY + 12 * HOUR);
    world.until("the trash is empty", || in_trash(&world).is_empty());
    world.pass(HOUR);
    world.until("the objects are gone", || objects(&world) == 0);
}

#[test]
fn nothing_leaves_a_trash_that_is_kept_for_ever() {
    let world = kept(10, None);
    world.released("a.wav", &audio(900, 1));
    throw(&world, "a.wav");
    world.pass(9999 * DAY);
    assert_eq!((emptied(&world), objects(&world)), (vec!["a.wav".to_owned()], 2));
}

#[test]
fn what_is_held_stays_in_the_trash() {
    let world = kept(10, Some(30));
    let id = world.released("a.wav", &audio(900, 1));
    throw(&world, "a.wav");
    hold(&world, &[id]);
    world.pass(99 * DAY);
    world.until("it is refused for the hold", || {
        let done = world.engine().empty_trash(true, true).unwrap();
        assert_eq!(done.files, 0, "{done:?}");
        done.why.is_some_and(|why| why.contains("legal hold"))
    });
    assert_eq!((in_trash(&world), objects(&world)), (vec!["a.wav".to_owned()], 2));
}

#[test]
fn a_group_leaves_the_trash_as_a_whole_and_not_before_its_recording() {
    let world = kept(10, Some(30));
    for path in ["a.wav", "a.txt", "a2.wav", "a2.txt"] {
        world.released(path, &audio(900, path.len() as u8));
    }
    throw(&world, "a.txt");
    throw(&world, "a2.txt");
    world.pass(5 * DAY);
    throw(&world, "a.wav");
    world.pass(26 * DAY);
    let all = ["a.txt", "a.wav", "a2.txt"];
    assert_eq!(emptied(&world), all, "a.wav was there for 26 days, a2.wav is in the tree");
    world.pass(5 * DAY);
    assert_eq!(emptied(&world), ["a2.txt"]);
}

#[test]
fn what_came_back_out_of_the_trash_is_not_emptied_with_it() {
    let world = kept(100, Some(30));
    let bytes = audio(900, 1);
    world.released("a.wav", &bytes);
    throw(&world, "a.wav");
    world.pass(99 * DAY);
    let told = world.engine().restore(&[Trashed::All], None, &|_| ()).unwrap();
    assert_eq!(told.done, 1);
    assert!(emptied(&world).is_empty());
    assert_eq!(world.run_one(Command::Recall, "a.wav"), Outcome::Done);
    assert_eq!(std::fs::read(world.below("a.wav")).unwrap(), bytes);
}

#[test]
fn the_trash_counts_under_the_cap_of_a_day() {
    let world = kept(10, Some(30));
    for n in 0..4 {
        world.released(&format!("ab{n}.wav"), &audio(900, n));
    }
    for n in 0..4 {
        throw(&world, &format!("ab{n}.wav"));
    }
    world.pass(40 * DAY);
    for _ in 0..3 {
        world.engine().empty_trash(true, false).unwrap();
    }
    // One group a day may go in any case.
    assert!(in_trash(&world).len() >= 3, "{:?}", in_trash(&world));
    world.until("it is halted", || {
        world.engine().expiry_halted().is_some_and(|why| why.contains("--confirm"))
    });
    assert!(emptied(&world).is_empty());
}

#[test]
fn a_rebuild_does_not_bring_back_what_the_trash_was_emptied_of() {
    let mut world = kept(10, Some(30));
    world.released("a.wav", &audio(900, 1));
    world.released("b.wav", &audio(900, 2));
    throw(&world, "a.wav");
    throw(&world, "b.wav");
    world.pass(40 * DAY);
    assert_eq!(emptied(&world), ["b.wav"]);
    world.until_told();
    world.die();
    world.lose_database();
    world.rebuild(Some("pbx"), &[]).unwrap();
    world.open();
    world.start();
    assert_eq!(in_trash(&world), ["b.wav"]);
}

/// `delete_mode = "delete"`.
#[test]
fn what_a_user_deletes_everywhere_goes_unless_it_is_held_or_comes_back() {
    let world = kept(9999, None);
    let held = world.released("held.wav", &audio(900, 1));
    let goes = world.released("goes.wav", &audio(900, 2));
    world.released("back.wav", &audio(900, 3));
    for path in ["held.wav", "goes.wav", "back.wav"] {
        delete_as(&world, path, Fate::Erased);
    }
    // The rules are new: for 72 hours nothing is deleted.
    world.idle();
    assert_eq!(in_trash(&world).len(), 3);
    assert!(world.engine().expiry_halted().is_some());
    hold(&world, &[held]);
    let told = world.engine().restore(&[Trashed::Path("back.wav".into())], None, &|_| ()).unwrap();
    assert_eq!(told.done, 1);
    world.until("the one that may goes", || {
        world.engine().empty_trash(true, true).unwrap();
        in_trash(&world) == ["held.wav"]
    });
    world.until("its objects go", || {
        world.engine().empty_trash(true, true).unwrap();
        objects(&world) == 4
    });
    assert_eq!(world.state(goes), State::Deleted);
    assert_eq!(world.run_one(Command::Recall, "back.wav"), Outcome::Done);
}

/// Else a stored join could stand in for it later, as if it had expired.
#[test]
fn regression_nothing_users_deleted_goes_while_it_can_not_be_told_which_joins_are_stored() {
    let mut world = kept(10, Some(30));
    // A file that is no database.
    let state = tempfile::tempdir().unwrap();
    std::fs::write(state.path().join("joins.sqlite"), [0x55; 8192]).unwrap();
    world.joins = Kept::open(state.path()).map(|kept| Some(Arc::new(kept)));
    assert!(world.joins.is_err());
    world.restart();
    let ids = ["a.wav", "b.wav"].map(|path| world.released(path, &audio(900, 1)));
    throw(&world, "a.wav");
    delete_as(&world, "b.wav", Fate::Erased);
    world.pass(99 * DAY);
    world.until("both are refused for that", || {
        let done = world.engine().empty_trash(true, true).unwrap();
        assert_eq!(done.files, 0, "{done:?}");
        done.kept == 2 && done.why.is_some_and(|why| why.contains("joins.sqlite"))
    });
    assert_eq!((in_trash(&world), objects(&world)), (vec!["a.wav".into(), "b.wav".into()], 4));

    // Moved away.
    std::fs::remove_file(state.path().join("joins.sqlite")).unwrap();
    world.joins = Kept::open(state.path()).map(|kept| Some(Arc::new(kept)));
    world.restart();
    assert_eq!(emptied(&world), Vec::<String>::new());
    assert_eq!(ids.map(|id| world.state(id)), [State::Deleted; 2]);
}
