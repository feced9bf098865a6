//! Recordings that their rules let go.

use crate::policy::{Told, of_campaign};
use crate::world::{World, audio};
use spoolfs::catalog::{NewHold, Op, Scope};
use spoolfs::engine::{Expired, Standing};
use spoolfs::policy::{ExpireFrom, Expiry, Matches, Patterns, Policy, Treatment, Words};
use spoolfs::recording::{NodeId, State};
use spoolfs::store::memory::Operation;
use std::sync::Arc;
use std::time::Duration;

pub const HOUR: u64 = 3600;
pub const DAY: u64 = 86_400;

pub fn rule(name: &str, matches: Matches, days: Option<u32>, from: ExpireFrom) -> Policy {
    let expire = days.map(|days| Expiry { after: Duration::from_secs(DAY) * days, from });
    let keep = Some(Duration::from_secs(HOUR));
    let treatment = Treatment {
        archive_after: Some(Duration::from_secs(300)),
        keep_local: keep,
        adopt_keep_local: keep,
        expire,
        ..Treatment::default()
    };
    Policy { name: name.into(), matches, treatment }
}

pub fn path(pattern: &str) -> Matches {
    Matches { path: Patterns::new(&[pattern]).unwrap(), ..Matches::default() }
}

/// A world with these rules, and call records to be told.
pub fn world(policies: Vec<Policy>) -> (World, Arc<Told>) {
    let mut world = World::with(&["one", "two"]);
    let told = Arc::new(Told::default());
    world.calls = Some(told.clone());
    world.rules.policies = policies;
    world.start();
    // From then on the 72 hours count.
    world.until("the rules are known", || world.engine().expiry_halted().is_some());
    (world, told)
}

/// Keys of recordings in both targets.
pub fn objects(world: &World) -> usize {
    let own = |k: &String| !k.starts_with("p/.spoolfs/");
    world.stores.iter().map(|s| s.keys().iter().filter(|k| own(k)).count()).sum()
}

#[track_caller]
fn until_gone(world: &World, path: &str) {
    world.until(&format!("{path} expired"), || world.find(path).is_none());
}

/// Time passes as it does for a daemon that runs.
#[track_caller]
pub fn pass_by(world: &World, secs: u64) {
    let steps = secs.div_ceil(DAY);
    for _ in 0..steps {
        world.pass(secs / steps);
        let seen = || {
            let ledger = world.catalog().setting("expiry").unwrap().unwrap_or_default();
            let ledger: serde_json::Value = serde_json::from_str(&ledger).unwrap_or_default();
            ledger["seen"].as_i64() == Some(world.now().0)
        };
        world.until("the clock was looked at", seen);
    }
}

/// As an operator asks who does not want to wait.
fn expire(world: &World) -> Expired {
    world.engine().expire(true, false).unwrap()
}

/// The same until these are gone: something else may be done with one of them at the moment.
#[track_caller]
fn expire_all(world: &World, paths: &[&str]) {
    let there = || paths.iter().any(|path| world.find(path).is_some());
    world.until(&format!("{paths:?} expired"), || {
        world.engine().expire(true, true).unwrap();
        !there()
    });
}

/// Asks for what is due to be deleted until it is kept for this reason.
#[track_caller]
fn kept(world: &World, why: &str) {
    world.until(&format!("kept: {why}"), || {
        let done = world.engine().expire(true, true).unwrap();
        assert_eq!(done.files, 0, "{done:?}");
        done.kept > 0 && done.why.is_some_and(|said| said.contains(why))
    });
}

pub fn hold(world: &World, ids: &[NodeId]) -> u64 {
    let text = String::from;
    let (case, reason, by) = (text("Smith"), text("a letter"), text("eve"));
    let new = NewHold { case, reason, by, scope: Scope::default() };
    world.catalog().put_hold(&new, ids).unwrap()
}

/// One rule: what begins with an `a` expires after so many days.
fn short(days: u32) -> Vec<Policy> {
    vec![rule("short", path("a*"), Some(days), ExpireFrom::Close)]
}

fn is_up(world: &World, target: usize) -> bool {
    world.engine().status().targets[target].standing == Standing::Up
}

#[test]
fn what_expires_goes_everywhere_and_nothing_else() {
    let (world, _) = world(short(10));
    let a = world.released("a.wav", &audio(900, 1));
    let b = world.released("b.wav", &audio(900, 2));
    assert_eq!(objects(&world), 4);
    let closed = world.row(a).closed_at.unwrap();
    let left = closed.plus(Duration::from_secs(10 * DAY)).0 - world.now().0;
    let left = u64::try_from(left).unwrap() / 1_000_000_000 - 1;
    // To the second.
    world.pass(left % 10);
    pass_by(&world, left - left % 10);
    world.idle();
    assert!(world.find("a.wav").is_some(), "one second too early");
    assert!(world.explain("a.wav").contains("expires in"), "{}", world.explain("a.wav"));
    world.pass(2);
    until_gone(&world, "a.wav");
    assert_eq!(objects(&world), 4, "who listens to it hears it out");
    world.pass(HOUR);
    world.until("its objects are gone", || objects(&world) == 2);
    assert_eq!(world.catalog().node(a).unwrap().unwrap().state, State::Deleted);
    world.until_told();
    world.pass(365 * DAY);
    world.idle();
    assert_eq!((objects(&world), world.state(b)), (2, State::Released));
}

/// A scrub that came by while the objects went took one that was gone for damaged, and brought it
/// back from the other target, for good.
#[test]
fn regression_what_expires_is_not_brought_back_by_the_scrub() {
    let mut world = World::with(&["one", "two"]);
    world.calls = Some(Arc::new(Told::default()));
    world.rules.policies = short(10);
    world.scrub_every = Some(Duration::from_secs(50));
    world.start();
    world.until("the rules are known", || world.engine().expiry_halted().is_some());
    world.released("a.wav", &audio(900, 1));
    pass_by(&world, 10 * DAY);
    until_gone(&world, "a.wav");
    let keys = world.store().keys();
    let key = keys.iter().find(|k| !k.starts_with("p/.spoolfs/")).unwrap();
    world.store().tamper(key, None);
    for _ in 0..5 {
        world.pass(51);
        world.idle();
    }
    assert_eq!(objects(&world), 1, "that of the other target");
    world.pass(HOUR);
    world.until("its objects are gone", || objects(&world) == 0);
}

#[test]
fn a_group_expires_as_a_whole_also_what_is_local_or_was_never_archived() {
    let mut rules = vec![rule("calls", path("call*.wav"), Some(5), ExpireFrom::Close)];
    rules[0].treatment.keep_local = None;
    let (world, _) = world(rules);
    let wav = world.archived("call.wav", &audio(900, 1));
    let txt = world.archived("call.txt", b"a note");
    let empty = world.record("call.xml", b"");
    world.record("other.xml", b"");
    world.pass(5 * DAY);
    let all = ["call.wav", "call.txt", "call.xml"];
    expire_all(&world, &all);
    assert!(all.iter().all(|path| !world.below(path).exists()));
    world.until("the objects are gone", || {
        expire(&world);
        objects(&world) == 0
    });
    let gone = world.below(".spl/gone");
    world.until("the bytes are gone", || std::fs::read_dir(&gone).unwrap().next().is_none());
    assert!(world.below("other.xml").exists());
    let left = |id: NodeId| world.catalog().node(id).unwrap().map(|row| row.state);
    assert_eq!(
        (left(wav), left(txt), left(empty)),
        (Some(State::Deleted), Some(State::Deleted), None)
    );
}

#[test]
fn a_group_stays_as_long_as_any_of_its_recordings() {
    let mut rules = short(5);
    rules.insert(0, rule("played", path("*.mp3"), Some(400), ExpireFrom::Close));
    rules.insert(0, rule("original", path("*.gsm"), None, ExpireFrom::Close));
    let (world, _) = world(rules);
    for path in ["a.wav", "a.mp3", "a2.wav", "a2.gsm"] {
        world.record(path, b"");
    }
    let never = world.record("a3.wav", b"");
    world.pass(399 * DAY);
    expire_all(&world, &["a3.wav"]);
    for path in ["a.wav", "a.mp3", "a2.wav", "a2.gsm"] {
        assert!(world.find(path).is_some(), "{path}, {never}");
    }
    world.pass(2 * DAY);
    expire_all(&world, &["a.wav", "a.mp3"]);
    world.pass(9999 * DAY);
    expire(&world);
    assert!(world.find("a2.wav").is_some() && world.find("a2.gsm").is_some());
}

#[test]
fn changed_rules_wait_for_72_hours_and_so_after_a_restart() {
    let (mut world, _) = world(short(1));
    let id = world.archived("a.wav", &audio(900, 1));
    pass_by(&world, 2 * DAY);
    world.idle();
    assert!(world.find("a.wav").is_some());
    assert!(world.engine().expiry_halted().unwrap().contains("the rules changed"));
    world.restart();
    pass_by(&world, DAY - HOUR);
    world.idle();
    assert!(world.find("a.wav").is_some(), "{id}");
    pass_by(&world, 2 * HOUR);
    until_gone(&world, "a.wav");
    // Another rule, and who does not want to wait for it.
    world.archived("b.wav", &audio(900, 2));
    world.pass(30 * DAY);
    let mut rules = world.rules.clone();
    rules.policies.push(rule("more", path("b*"), Some(2), ExpireFrom::Close));
    world.engine().reload(rules);
    let done = world.engine().expire(false, false).unwrap();
    assert_eq!((done.files, world.find("b.wav").is_some()), (0, true));
    world.until("it expired", || {
        expire(&world);
        world.find("b.wav").is_none()
    });
}

#[test]
fn a_rule_that_would_delete_everything_stops_at_the_cap_until_somebody_confirms() {
    let (mut world, _) = world(vec![rule("all", Matches::default(), Some(4), ExpireFrom::Close)]);
    // Local files without a byte are quick, and count as well.
    for n in 0..130 {
        world.record(&format!("{n}.wav"), b"");
    }
    let left = |world: &World| world.tree().len();
    pass_by(&world, 5 * DAY);
    // It is when the next is refused that it stops.
    let says = |world: &World| {
        let halted = world.engine().expiry_halted().unwrap_or_default();
        halted.contains("retention run --confirm")
    };
    world.until("it is stopped", || says(&world));
    assert_eq!(left(&world), 123, "5 % of 130 are 7");
    // Neither the next day nor a restart goes on.
    world.restart();
    pass_by(&world, 3 * DAY);
    world.idle();
    assert!(left(&world) == 123 && says(&world), "{}", left(&world));
    let done = world.engine().expire(false, false).unwrap();
    assert_eq!((done.files, done.kept), (0, 123), "{done:?}");
    world.until("all expired", || {
        world.engine().expire(false, true).unwrap();
        left(&world) == 0
    });
    assert_eq!(world.engine().expiry_halted(), None);
}

#[test]
fn a_mistyped_rule_deletes_little_and_nothing_more_once_it_is_right_again() {
    let (world, _) = world(short(365));
    for n in 0..40 {
        world.record(&format!("a{n}.wav"), b"");
    }
    pass_by(&world, 4 * DAY);
    let right = world.rules.clone();
    let mut wrong = right.clone();
    wrong.policies = short(1);
    world.engine().reload(wrong);
    pass_by(&world, 2 * DAY);
    world.idle();
    assert_eq!(world.tree().len(), 40, "there are 72 hours to notice it");
    pass_by(&world, 2 * DAY);
    let stopped =
        |world: &World| world.engine().expiry_halted().is_some_and(|why| why.contains("--confirm"));
    world.until("it is stopped", || stopped(&world));
    assert_eq!(world.tree().len(), 38, "5 % of 40 are 2");
    world.engine().reload(right);
    pass_by(&world, 5 * DAY);
    world.idle();
    assert_eq!((world.tree().len(), world.engine().expiry_halted()), (38, None));
}

#[test]
fn a_clock_that_leaps_deletes_nothing_by_itself() {
    let (mut world, _) = world(short(365));
    world.archived("a.wav", &audio(900, 1));
    pass_by(&world, 4 * DAY);
    let leapt = |world: &World| {
        world.engine().expiry_halted().is_some_and(|why| why.contains("the clock went forward"))
    };
    world.pass(3650 * DAY);
    world.until("it is noticed", || leapt(&world));
    world.restart();
    world.until("it is still known", || leapt(&world));
    pass_by(&world, 2 * DAY);
    world.idle();
    assert!(world.find("a.wav").is_some());
    // An operator vouches for the date.
    world.until("it expired", || {
        world.engine().expire(false, false).unwrap();
        world.find("a.wav").is_none()
    });
}

#[test]
fn an_expired_recording_does_not_come_back_with_a_rebuild() {
    let (mut world, _) = world(short(10));
    world.released("a.wav", &audio(900, 1));
    world.released("b.wav", &audio(900, 2));
    world.until_told();
    world.pass(11 * DAY);
    expire_all(&world, &["a.wav"]);
    world.until("its objects are gone", || {
        expire(&world);
        objects(&world) == 2
    });
    world.until_told();
    let report = world.fsck(false);
    assert!(report.findings.is_empty(), "{report:?}");
    world.lose_catalog();
    world.rebuild(Some("pbx"), &["one", "two"]).unwrap();
    world.open();
    world.start();
    assert!(world.find("a.wav").is_none());
    assert_eq!(world.find("b.wav").map(|row| row.state), Some(State::Released));
}

#[test]
fn an_expiry_waits_for_what_is_not_known_of_a_call() {
    let campaign =
        |name: &str| Matches { campaign: Words::new(&[name]).unwrap(), ..Matches::default() };
    let (world, told) = world(vec![
        rule("long", campaign("LONG"), Some(400), ExpireFrom::CallEnd),
        rule("debt", campaign("DEBT"), Some(10), ExpireFrom::LastCallOfAccount),
        rule("rest", Matches::default(), Some(10), ExpireFrom::Close),
    ]);
    world.archived("call.wav", &audio(900, 1));
    world.archived("debt.wav", &audio(900, 2));
    told.tell("debt.wav", of_campaign("DEBT"));
    world.pass(500 * DAY);
    for _ in 0..3 {
        let done = world.engine().expire(true, true).unwrap();
        assert_eq!(done.files, 0, "it could be one whose call is not known to be over");
    }
    told.tell("call.wav", of_campaign("OTHER"));
    world.pass(HOUR);
    expire_all(&world, &["call.wav"]);
    // Somebody called about the same debt five days ago.
    let lately = world.now().minus(Duration::from_secs(5 * DAY));
    told.last.lock().insert("debt.wav".into(), lately);
    world.engine().expire(true, true).unwrap();
    assert!(world.find("debt.wav").is_some());
    world.pass(6 * DAY);
    expire_all(&world, &["debt.wav"]);
}

#[test]
fn nothing_expires_while_a_target_is_down_and_objects_go_when_it_is_back() {
    let (world, _) = world(short(10));
    world.archived("a.wav", &audio(900, 1));
    pass_by(&world, 9 * DAY);
    world.stores[1].set_down(true);
    world.pass(HOUR);
    pass_by(&world, 2 * DAY);
    kept(&world, "two");
    assert_eq!(objects(&world), 2);
    world.stores[1].set_down(false);
    world.pass(HOUR);
    world.until("it is back", || is_up(&world, 1));
    // By itself: the objects are left for a while.
    world.pass(HOUR);
    until_gone(&world, "a.wav");
    world.stores[1].set_down(true);
    world.pass(HOUR);
    world.until("one has none", || world.keys().is_empty());
    world.idle();
    assert_eq!(objects(&world), 1);
    world.stores[1].set_down(false);
    world.pass(HOUR);
    world.until("it is back", || is_up(&world, 1));
    world.pass(HOUR);
    world.until("none is left", || objects(&world) == 0);
}

#[test]
fn a_hold_that_comes_during_an_expiry_is_in_time() {
    let (world, _) = world(short(10));
    let id = world.archived("a.wav", &audio(900, 1));
    world.pass(11 * DAY);
    let asked = world.store().calls(Operation::Head);
    world.store().set_paused(true);
    std::thread::scope(|scope| {
        let run = scope.spawn(|| world.engine().expire(true, true).unwrap());
        world.until("the proof is under way", || {
            run.is_finished() || world.store().calls(Operation::Head) > asked
        });
        hold(&world, &[id]);
        world.store().set_paused(false);
        let done = run.join().unwrap();
        assert_eq!((done.files, done.kept), (0, 1), "{done:?}");
    });
    assert!(world.find("a.wav").is_some() && objects(&world) == 2);
    kept(&world, "legal hold");
    assert!(world.explain("a.wav").contains("A legal hold keeps it"), "{}", world.explain("a.wav"));
}

#[test]
fn what_is_held_keeps_its_group_and_its_objects_until_the_grace_is_over() {
    let (world, _) = world(short(10));
    let wav = world.archived("a.wav", &audio(900, 1));
    let txt = world.archived("a.txt", b"a note");
    let first = hold(&world, &[txt]);
    pass_by(&world, 11 * DAY);
    kept(&world, "legal hold");
    world.catalog().lift_hold(first, "eve", "settled").unwrap();
    kept(&world, "legal hold");
    pass_by(&world, 7 * DAY - HOUR);
    kept(&world, "legal hold");
    world.pass(2 * HOUR);
    until_gone(&world, "a.wav");
    until_gone(&world, "a.txt");
    // Their objects are still there, and a hold on the recording keeps its own.
    let second = hold(&world, &[wav]);
    world.pass(HOUR);
    world.until("those of the note are gone", || objects(&world) == 2);
    world.pass(30 * DAY);
    world.idle();
    assert_eq!(objects(&world), 2);
    world.catalog().lift_hold(second, "eve", "settled").unwrap();
    world.pass(6 * DAY);
    world.idle();
    assert_eq!(objects(&world), 2);
    world.pass(2 * DAY);
    world.until("none is left", || objects(&world) == 0);
}

#[test]
fn while_it_is_not_known_what_is_held_nothing_expires() {
    let (world, _) = world(short(10));
    let id = world.archived("a.wav", &audio(900, 1));
    assert!(world.catalog().holds().let_expire(id, world.now()));
    assert!(!spoolfs::catalog::Holds::default().let_expire(id, world.now()));
}

#[test]
fn a_recording_that_is_opened_written_to_or_linked_stays() {
    let mut rules = short(10);
    rules[0].treatment.keep_local = None;
    let (world, _) = world(rules);
    let id = world.archived("a.wav", &audio(900, 1));
    world.pass(11 * DAY);
    let reader = std::fs::File::open(world.below("a.wav")).unwrap();
    kept(&world, "a.wav");
    drop(reader);
    let writer = world.writer("a.wav");
    kept(&world, "a.wav");
    drop(writer);
    // A second name.
    std::fs::hard_link(world.below("a.wav"), world.below("z.wav")).unwrap();
    let (parent, name) = (NodeId::ROOT, b"z.wav".to_vec());
    world.catalog().record(Op::Link { id, parent, name: name.clone() });
    kept(&world, "several names");
    std::fs::remove_file(world.below("z.wav")).unwrap();
    let fate = spoolfs::catalog::Fate::Kept;
    let at = world.now();
    world.catalog().record(Op::Unlink { parent, name, id, last: false, fate, at });
    // Its call goes on: ten days from then.
    world.overwrite("a.wav", id, &audio(1800, 2));
    let done = expire(&world);
    assert_eq!((done.files, done.kept), (0, 0), "{done:?}");
    pass_by(&world, 9 * DAY);
    assert!(world.find("a.wav").is_some());
    world.pass(2 * DAY);
    expire_all(&world, &["a.wav"]);
    world.until("both generations are gone", || {
        expire(&world);
        objects(&world) == 0
    });
}

#[test]
fn what_a_user_deletes_after_an_expiry_was_cut_off_keeps_its_objects() {
    let (world, _) = world(short(10));
    let id = world.released("a.wav", &audio(900, 1));
    world.catalog().mark_expired(id, world.now()).unwrap();
    world.pass(1);
    let (parent, name, at) = (NodeId::ROOT, b"a.wav".to_vec(), world.now());
    let fate = spoolfs::catalog::Fate::Moved;
    world.catalog().record(Op::Unlink { parent, name, id, last: true, fate, at });
    world.pass(HOUR);
    let none = || world.catalog().marked_expired(NodeId(0), 10).unwrap().is_empty();
    world.until("the mark is gone", none);
    expire(&world);
    assert_eq!(objects(&world), 2, "they are in the trash");
}

#[test]
fn an_object_that_can_not_be_asked_for_keeps_its_recording() {
    let (mut world, _) = world(short(10));
    world.archived("a.wav", &audio(900, 1));
    world.until_told();
    world.die();
    let taken = world.stores.pop().unwrap();
    world.required.pop();
    world.open();
    world.start();
    world.pass(11 * DAY);
    kept(&world, "\"two\", which has it, is not configured");
    world.die();
    world.stores.push(taken);
    world.open();
    world.start();
    expire_all(&world, &["a.wav"]);
    world.until("none is left", || {
        expire(&world);
        objects(&world) == 0
    });
}

#[test]
fn rules_that_are_read_again_stop_what_is_under_way() {
    let (world, _) = world(vec![rule("all", Matches::default(), Some(4), ExpireFrom::Close)]);
    for n in 0..300 {
        world.record(&format!("{n}.wav"), b"");
    }
    world.pass(5 * DAY);
    let mut none = world.rules.clone();
    none.policies.clear();
    std::thread::scope(|scope| {
        let run = scope.spawn(|| world.engine().expire(true, true));
        world.until("it is under way", || run.is_finished() || world.tree().len() < 300);
        world.engine().reload(none);
        let left = world.tree().len();
        let answer = run.join().unwrap();
        assert!(left < 2 || answer.is_err(), "{left} were left, and {answer:?}");
        // One may have been past the question.
        assert!(world.tree().len() + 1 >= left, "{left} and {}", world.tree().len());
    });
}
