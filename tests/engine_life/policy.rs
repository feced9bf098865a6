//! `[[policy]]`: each recording in the times of its own rule.

use crate::outage::off_now;
use crate::sealed::pair;
use crate::world::{World, audio};
use parking_lot::Mutex;
use spoolfs::catalog::ObjectState;
use spoolfs::clock::Timestamp;
use spoolfs::codec::seal::{Identities, open_all};
use spoolfs::engine::{CallSource, Command, Outcome, Standing};
use spoolfs::policy::{
    CallFacts, Compress, Matches, Patterns, Policy, Rules, SealTo, StorageClass, Targets,
    Treatment, Words,
};
use spoolfs::recording::{NodeId, State};
use spoolfs::store::memory::{Fault, Operation};
use spoolfs::units::Percent;
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

const HOUR: Duration = Duration::from_secs(3600);

/// Call records as a test has them.
#[derive(Debug, Default)]
pub struct Told {
    calls: Mutex<HashMap<PathBuf, CallFacts>>,
    /// When the last call of the account was over.
    pub last: Mutex<HashMap<PathBuf, Timestamp>>,
    /// It says so instead of an answer.
    pub broken: Mutex<Option<String>>,
    /// It says nothing for so long.
    silent: Mutex<Duration>,
}

impl Told {
    pub fn tell(&self, path: &str, call: CallFacts) {
        self.calls.lock().insert(path.into(), call);
    }
}

impl CallSource for Told {
    fn call_of(&self, _id: NodeId, path: &Path) -> Result<Option<CallFacts>, String> {
        std::thread::sleep(*self.silent.lock());
        match self.broken.lock().clone() {
            Some(why) => Err(why),
            None => Ok(self.calls.lock().get(path).cloned()),
        }
    }

    fn last_of_account(&self, _id: NodeId, path: &Path) -> Result<Option<Timestamp>, String> {
        Ok(self.last.lock().get(path).copied())
    }
}

pub fn of_campaign(name: &str) -> CallFacts {
    CallFacts { campaign: Some(name.to_owned()), ..CallFacts::default() }
}

fn treatment(archive_after: Duration, keep_local: Duration) -> Treatment {
    Treatment {
        archive_after: Some(archive_after),
        keep_local: Some(keep_local),
        adopt_keep_local: Some(keep_local),
        ..Treatment::default()
    }
}

fn of_path(name: &str, pattern: &str, treatment: Treatment) -> Policy {
    let path = Patterns::new(&[pattern]).unwrap();
    Policy { name: name.into(), matches: Matches { path, ..Matches::default() }, treatment }
}

/// The usual times, in these targets.
fn in_targets(names: &[&str]) -> Treatment {
    let targets = Targets::only(names.iter().copied());
    Treatment { targets, ..treatment(HOUR / 12, HOUR) }
}

fn campaign(name: &str, treatment: Treatment) -> Policy {
    let matches = Matches { campaign: Words::new(&[name]).unwrap(), ..Matches::default() };
    Policy { name: name.to_lowercase(), matches, treatment }
}

/// A world with these rules, and call records to be told.
fn world(policies: Vec<Policy>) -> (World, Arc<Told>) {
    let mut world = World::with(&["one"]);
    let told = Arc::new(Told::default());
    world.calls = Some(told.clone());
    world.rules.policies = policies;
    world.start();
    (world, told)
}

#[test]
fn each_recording_is_archived_and_released_in_the_times_of_its_rule() {
    // The mount's own: after 300 s, and kept for an hour.
    let (world, told) = world(vec![
        campaign("SLOW", treatment(HOUR * 2, HOUR)),
        campaign("LONG", treatment(Duration::from_secs(60), HOUR * 50)),
    ]);
    told.tell("slow.wav", of_campaign("SLOW"));
    told.tell("long.wav", of_campaign("LONG"));
    told.tell("other.wav", of_campaign("OTHER"));
    let [slow, long, other] =
        ["slow.wav", "long.wav", "other.wav"].map(|path| world.record(path, &audio(900, 1)));
    world.pass(61);
    world.until_state(long, State::Archived);
    assert_eq!((world.state(slow), world.state(other)), (State::Closed, State::Closed));
    world.pass(240);
    world.until_state(other, State::Archived);
    world.idle();
    assert_eq!(world.state(slow), State::Closed);
    assert!(
        world.explain("slow.wav").contains("campaign \"SLOW\""),
        "{}",
        world.explain("slow.wav")
    );
    world.pass(7200);
    world.until_state(slow, State::Archived);
    world.until_state(other, State::Released);
    world.pass(3700);
    world.until_state(slow, State::Released);
    world.idle();
    assert_eq!(world.state(long), State::Archived);
    world.pass(50 * 3600);
    world.until_state(long, State::Released);
}

#[test]
fn what_is_not_known_yet_is_archived_at_the_earliest_and_kept_the_longest() {
    let (world, told) = world(vec![
        campaign("SLOW", treatment(HOUR * 2, HOUR * 100)),
        campaign("SOON", treatment(Duration::from_secs(10), Duration::from_secs(10))),
    ]);
    let id = world.record("call.wav", &audio(900, 1));
    world.pass(11);
    world.until_state(id, State::Archived);
    world.pass(99 * 3600);
    world.idle();
    assert_eq!(world.state(id), State::Archived, "it could be one that is kept for 100 hours");
    let said = world.explain("call.wav");
    assert!(said.contains("\"slow\" or \"soon\" or the mount's"), "{said}");
    // Its record comes at last.
    told.tell("call.wav", of_campaign("SOON"));
    world.pass(700);
    world.until_state(id, State::Released);
    assert!(world.explain("call.wav").contains("Rule: \"soon\""), "{}", world.explain("call.wav"));
}

#[test]
fn a_source_of_calls_that_hangs_or_fails_keeps_nothing_from_being_archived() {
    let (world, told) = world(vec![campaign("SOON", treatment(HOUR, HOUR * 9))]);
    *told.broken.lock() = Some("the database is locked".into());
    let one = world.record("one.wav", &audio(900, 1));
    world.pass(301);
    world.until_state(one, State::Archived);
    let said = world.explain("one.wav");
    assert!(said.contains("the database is locked"), "{said}");
    *told.broken.lock() = None;
    *told.silent.lock() = Duration::from_millis(600);
    let many: Vec<NodeId> =
        (0..20).map(|n| world.record(&format!("many-{n}.wav"), &audio(900, n))).collect();
    world.pass(301);
    // Each would take 600 ms and more, if it were asked for.
    let begin = std::time::Instant::now();
    many.iter().for_each(|id| world.until_state(*id, State::Archived));
    assert!(begin.elapsed() < Duration::from_secs(20), "{:?}", begin.elapsed());
}

#[test]
fn what_is_not_due_yet_does_not_hold_back_what_stands_behind_it() {
    let (world, told) = world(vec![campaign("SLOW", treatment(HOUR * 10, HOUR))]);
    // More than a page of the planner.
    let slow: Vec<NodeId> = (0..300)
        .map(|n| {
            let path = format!("slow-{n}.wav");
            told.tell(&path, of_campaign("SLOW"));
            world.record(&path, &[1, n as u8, (n >> 8) as u8])
        })
        .collect();
    // Far from the time at which the last of them was made, which goes by the real clock.
    world.pass(600);
    for some in slow.chunks(50) {
        world.until("they are hashed", || some.iter().all(|id| world.row(*id).hashed.is_some()));
    }
    told.tell("now.wav", of_campaign("OTHER"));
    let now = world.record("now.wav", &audio(900, 1));
    world.pass(400);
    world.until_state(now, State::Archived);
    assert!(slow.iter().all(|id| world.state(*id) == State::Closed));
}

#[test]
fn a_reload_puts_other_rules_in_force_and_a_rule_for_paths_needs_no_calls() {
    let mut world = World::with(&["one"]);
    world.start();
    let id = world.record("call.wav", &audio(900, 1));
    let path = Patterns::new(&["*.wav"]).unwrap();
    let matches = Matches { path, ..Matches::default() };
    let wav = Policy { name: "wav".into(), matches, treatment: treatment(HOUR * 9, HOUR) };
    let mut rules = world.rules.clone();
    rules.policies = vec![wav];
    world.engine().reload(rules.clone());
    world.pass(500);
    world.until_hashed(id);
    world.idle();
    assert_eq!(world.state(id), State::Closed);
    assert!(world.explain("call.wav").contains("path \"*.wav\""), "{}", world.explain("call.wav"));
    rules.policies.clear();
    world.engine().reload(rules);
    world.until_state(id, State::Archived);
}

#[test]
fn with_require_cdr_what_has_no_record_waits_and_is_archived_anyway() {
    let (world, told) = {
        let mut world = World::with(&["one"]);
        let told = Arc::new(Told::default());
        world.calls = Some(told.clone());
        world.rules.require_cdr = Some(HOUR);
        world.start();
        (world, told)
    };
    told.tell("told.wav", of_campaign(""));
    let [first, late, never] =
        ["told.wav", "late.wav", "never.wav"].map(|path| world.record(path, &audio(900, 1)));
    world.pass(301);
    world.until_state(first, State::Archived);
    world.until("two are counted", || world.engine().status().without_record == 2);
    assert_eq!((world.state(late), world.state(never)), (State::Closed, State::Closed));
    let said = world.explain("late.wav");
    assert!(said.contains("no record of its call"), "{said}");
    told.tell("late.wav", of_campaign(""));
    world.pass(60);
    world.until_state(late, State::Archived);
    world.until("one is counted", || world.engine().status().without_record == 1);
    assert_eq!(world.state(never), State::Closed);
    world.pass(3600);
    world.until_state(never, State::Archived);
    world.until("none is counted", || world.engine().status().without_record == 0);
}

/// Two targets, of which the mount requires the first.
fn two_targets(policies: Vec<Policy>) -> World {
    let mut world = World::with(&["one", "two"]);
    world.required = vec!["one".into()];
    world.rules.policies = policies;
    world.start();
    world.until("both are up", || {
        world.engine().status().targets.iter().all(|t| t.standing == Standing::Up)
    });
    world
}

fn has(world: &World, target: usize, path: &str) -> bool {
    world.stores[target].bytes(&format!("p/pbx/{path}")).is_some()
}

#[test]
fn each_recording_is_in_the_targets_of_its_rule_and_in_no_other() {
    let mut world = two_targets(vec![
        of_path("second", "second-*.wav", in_targets(&["two"])),
        of_path("both", "both-*.wav", in_targets(&["one", "two"])),
    ]);
    let names = ["second-1.wav", "both-1.wav", "usual.wav"];
    let ids = names.map(|path| world.record(path, &audio(900, 1)));
    world.pass(400);
    ids.iter().for_each(|id| world.until_state(*id, State::Archived));
    world.until("what should be in the second is", || has(&world, 1, "usual.wav"));
    assert!(!has(&world, 0, "second-1.wav") && has(&world, 1, "second-1.wav"));
    assert!(has(&world, 0, "both-1.wav") && has(&world, 1, "both-1.wav"));
    assert!(has(&world, 0, "usual.wav"));
    let said = world.explain("second-1.wav");
    assert!(said.contains("must be in target \"two\"."), "{said}");
    world.pass(3700);
    ids.iter().for_each(|id| world.until_state(*id, State::Released));
    let report = world.fsck(false);
    assert!(report.findings.is_empty(), "{:?}", report.findings);
}

#[test]
fn what_its_rule_wants_in_an_optional_target_is_not_released_without() {
    let world = two_targets(vec![of_path("both", "both.wav", in_targets(&["one", "two"]))]);
    world.stores[1].set_down(true);
    let [both, usual] = ["both.wav", "usual.wav"].map(|path| world.record(path, &audio(900, 1)));
    world.pass(400);
    world.until_state(usual, State::Archived);
    world.pass(4000);
    world.until_state(usual, State::Released);
    assert_eq!(world.state(both), State::Closed);
    world.stores[1].set_down(false);
    world.until("it is archived", || {
        world.pass(10);
        world.state(both) != State::Closed
    });
    assert!(has(&world, 1, "both.wav"));
}

#[test]
fn a_rule_that_changes_makes_nothing_releasable_that_lacks_what_it_wants_now() {
    let mut world = World::with(&["one", "two"]);
    world.required = vec!["one".into()];
    world.rules.policies = vec![of_path("first", "*.wav", in_targets(&["one"]))];
    world.start();
    let id = world.archived("a.wav", &audio(900, 1));
    assert!(!has(&world, 1, "a.wav"));
    world.stores[1].set_down(true);
    let mut rules = world.rules.clone();
    rules.policies = vec![of_path("both", "*.wav", in_targets(&["one", "two"]))];
    world.engine().reload(rules);
    world.pass(4000);
    world.idle();
    assert_eq!(world.state(id), State::Archived);
    let said = world.explain("a.wav");
    assert!(said.contains("Target \"two\" must hold it and does not yet"), "{said}");
    assert!(matches!(world.run_one(Command::Release, "a.wav"), Outcome::Failed(_)));
    assert_eq!(world.state(id), State::Archived);
    // It is brought there by and by.
    world.stores[1].set_down(false);
    world.until("it is in both and released", || {
        world.pass(10);
        world.state(id) == State::Released
    });
    assert!(has(&world, 1, "a.wav"));
}

#[test]
fn archive_brings_what_is_archived_to_the_targets_of_its_rule() {
    let world = two_targets(vec![of_path("first", "*.wav", in_targets(&["one"]))]);
    world.archived("a.wav", &audio(900, 1));
    let already = world.run_one(Command::Archive, "a.wav");
    assert!(matches!(already, Outcome::Already(_)), "{already:?}");
    let mut rules = world.rules.clone();
    rules.policies = vec![of_path("second", "*.wav", in_targets(&["two"]))];
    rules.bandwidth = off_now(world.now());
    world.engine().reload(rules);
    world.idle();
    assert!(!has(&world, 1, "a.wav"));
    assert_eq!(world.run_one(Command::Archive, "a.wav"), Outcome::Done);
    assert!(has(&world, 1, "a.wav"));
}

#[test]
fn what_is_released_is_copied_to_the_targets_that_its_rule_wants_now() {
    let world = two_targets(vec![of_path("first", "*.wav", in_targets(&["one"]))]);
    let id = world.released("a.wav", &audio(900, 1));
    let usual = world.released("a.txt", b"a note");
    world.until("what should be in both is", || has(&world, 1, "a.txt"));
    let mut rules = world.rules.clone();
    rules.policies = vec![of_path("both", "*.wav", in_targets(&["one", "two"]))];
    // Not before uploads are allowed.
    let slow = Rules { bandwidth: off_now(world.now()), ..rules.clone() };
    world.engine().reload(slow);
    world.idle();
    assert!(!has(&world, 1, "a.wav"));
    world.engine().reload(rules);
    world.until("it is there", || has(&world, 1, "a.wav"));
    assert_eq!(world.stores[1].bytes("p/pbx/a.wav").unwrap().as_ref(), audio(900, 1));
    let verified = || {
        let all = world.catalog().objects(id, None).unwrap();
        all.iter().filter(|o| o.state == ObjectState::Verified).count() == 2
    };
    world.until("the catalog knows", verified);
    assert_eq!((world.state(id), world.state(usual)), (State::Released, State::Released));
    assert!(!world.explain("a.wav").contains("does not yet"), "{}", world.explain("a.wav"));
}

#[test]
fn regression_what_is_released_is_brought_back_when_the_last_rule_with_targets_is_gone() {
    let mut world = two_targets(vec![of_path("second", "*.wav", in_targets(&["two"]))]);
    let id = world.released("a.wav", &audio(900, 1));
    assert!(!has(&world, 0, "a.wav"));
    // No rule names a target any more, and it is found out at a start.
    world.rules.policies.clear();
    world.restart();
    world.until("the required target has it", || has(&world, 0, "a.wav"));
    assert_eq!(world.state(id), State::Released);
    // Once nothing lacks, nobody looks at all recordings again, until what is required changes.
    world.until("that is remembered", || {
        world.catalog().setting("targets.settled").unwrap().is_some()
    });
    world.required = vec!["one".into(), "two".into()];
    world.released("b.wav", &audio(900, 2));
    let lacked = !has(&world, 1, "b.wav");
    world.restart();
    world.until("the other one has it", || has(&world, 1, "b.wav"));
    assert!(has(&world, 0, "b.wav") && has(&world, 1, "a.wav"), "{lacked}");
}

#[test]
fn regression_a_target_that_refuses_copies_does_not_cost_a_download_of_each_again_and_again() {
    const RECORDINGS: u8 = 20;
    let world = two_targets(vec![of_path("first", "*.wav", in_targets(&["one"]))]);
    for n in 0..RECORDINGS {
        world.released(&format!("call-{n}.wav"), &audio(900, n));
    }
    world.stores[1].fail_next_of("call-", Operation::Put, 100_000, Fault::Denied);
    let before = world.stores[0].calls(Operation::Get);
    let mut rules = world.rules.clone();
    rules.policies = vec![of_path("both", "*.wav", in_targets(&["one", "two"]))];
    world.engine().reload(rules);
    // It is taken for down after a few, and the others are not even fetched.
    world.until("it counts as down", || {
        world.engine().status().targets[1].standing == Standing::Down
    });
    let fetched = world.stores[0].calls(Operation::Get) - before;
    assert!(fetched < u64::from(RECORDINGS) / 2, "{fetched} downloads");
    world.stores[1].fail_no_more();
    world.until("all are there", || {
        world.pass(100);
        (0..RECORDINGS).all(|n| has(&world, 1, &format!("call-{n}.wav")))
    });
}

/// Nobody takes a copy back when it turns out whose rule it is.
#[test]
fn regression_what_is_released_is_not_copied_everywhere_while_call_records_can_not_be_asked() {
    let mut world = World::with(&["one", "two"]);
    let told = Arc::new(Told::default());
    world.calls = Some(told.clone());
    world.required = vec!["one".into()];
    world.rules.policies =
        vec![campaign("SALES", in_targets(&["one"])), campaign("DISPUTES", in_targets(&["two"]))];
    for (path, name) in [("sales.wav", "SALES"), ("disputes.wav", "DISPUTES")] {
        told.tell(path, of_campaign(name));
    }
    world.start();
    for path in ["sales.wav", "disputes.wav"] {
        world.released(path, &audio(900, 1));
    }
    *told.broken.lock() = Some("the database is locked".into());
    world.restart();
    world.until("all are looked at", || {
        world.catalog().setting("targets.settled").unwrap().is_some()
    });
    assert!(has(&world, 0, "sales.wav") && !has(&world, 1, "sales.wav"));
    assert!(has(&world, 1, "disputes.wav") && !has(&world, 0, "disputes.wav"));
}

#[test]
fn archive_copies_what_is_released_and_says_what_is_in_the_way() {
    let world = two_targets(vec![of_path("first", "*.wav", in_targets(&["one"]))]);
    world.released("a.wav", &audio(900, 1));
    world.stores[1].set_down(true);
    let mut rules = world.rules.clone();
    rules.policies = vec![of_path("second", "*.wav", in_targets(&["two"]))];
    rules.bandwidth = off_now(world.now());
    world.engine().reload(rules);
    let failed = world.run_one(Command::Archive, "a.wav");
    assert!(matches!(&failed, Outcome::Failed(why) if why.contains("two")), "{failed:?}");
    world.stores[1].set_down(false);
    assert_eq!(world.run_one(Command::Archive, "a.wav"), Outcome::Done);
    assert!(has(&world, 1, "a.wav"));
    let already = world.run_one(Command::Archive, "a.wav");
    assert!(matches!(already, Outcome::Already(_)), "{already:?}");
}

#[test]
fn a_rule_for_a_target_that_is_not_in_use_yet_keeps_its_recordings_local() {
    let world = two_targets(vec![of_path("third", "third.wav", in_targets(&["one", "three"]))]);
    let [third, usual] = ["third.wav", "usual.wav"].map(|path| world.record(path, &audio(900, 1)));
    world.pass(400);
    world.until_state(usual, State::Archived);
    world.idle();
    assert_eq!(world.state(third), State::Closed);
    let said = world.explain("third.wav");
    assert!(said.contains("target \"three\", which is in use after a restart"), "{said}");
}

fn class(word: &str) -> Option<StorageClass> {
    Some(word.parse().unwrap())
}

#[test]
fn each_recording_is_in_the_storage_class_of_its_rule() {
    let cold = Treatment { storage_class: class("GLACIER"), ..treatment(HOUR / 12, HOUR) };
    let mut world = World::with(&["one"]);
    world.rules.policies = vec![of_path("cold", "cold-*.wav", cold)];
    world.start();
    let id = world.released("cold-1.wav", &audio(900, 1));
    world.released("usual.wav", &audio(900, 2));
    assert_eq!(world.store().class_of("p/pbx/cold-1.wav"), class("GLACIER"));
    assert_eq!(world.store().class_of("p/pbx/usual.wav"), None);
    let said = world.explain("cold-1.wav");
    assert!(said.contains("storage class GLACIER, from which"), "{said}");
    // It can not be read, and who asks is told what to do.
    let Outcome::Failed(why) = world.run_one(Command::Recall, "cold-1.wav") else {
        panic!("it was recalled");
    };
    assert!(why.contains("restore it first"), "{why}");
    // `verify`, like the scrub, compares the target's checksum: nothing is wrong with it.
    assert_eq!(world.run_one(Command::Verify, "cold-1.wav"), Outcome::Done);
    assert!(world.engine().status().bad.is_empty());
    assert_eq!(world.state(id), State::Released);
    // The service has restored it.
    world.store().set_class("p/pbx/cold-1.wav", None);
    assert_eq!(world.run_one(Command::Recall, "cold-1.wav"), Outcome::Done);
    assert_eq!(std::fs::read(world.below("cold-1.wav")).unwrap(), audio(900, 1));
}

#[test]
fn what_may_be_of_several_classes_is_archived_in_the_most_available() {
    let cold = Treatment { storage_class: class("GLACIER"), ..treatment(HOUR / 12, HOUR) };
    let (world, told) = world(vec![campaign("OLD", cold)]);
    told.tell("old.wav", of_campaign("OLD"));
    for (path, expected) in [("old.wav", class("GLACIER")), ("unknown.wav", class("STANDARD"))] {
        let id = world.record(path, &audio(900, 1));
        world.pass(400);
        world.until_state(id, State::Archived);
        assert_eq!(world.store().class_of(&format!("p/pbx/{path}")), expected, "{path}");
    }
}

/// Seconds of silence, which FLAC makes very short.
fn silence() -> Vec<u8> {
    let pcm = vec![0; 64_000];
    let mut wav = b"RIFF".to_vec();
    let len = |n: usize| u32::try_from(n).unwrap().to_le_bytes();
    wav.extend(len(36 + pcm.len()));
    wav.extend(b"WAVEfmt \x10\0\0\0\x01\0\x01\0\x40\x1f\0\0\x80\x3e\0\0\x02\0\x10\0data");
    wav.extend(len(pcm.len()));
    wav.extend(pcm);
    wav
}

#[test]
fn each_recording_is_stored_as_its_rule_says() {
    let flac = Some(Compress::Flac { min_gain: Percent(10) });
    let as_flac = Treatment { compress: flac, ..treatment(HOUR / 12, HOUR) };
    let (world, told) = world(vec![
        of_path("flac", "flac.wav", as_flac.clone()),
        campaign("FLAC", as_flac.clone()),
        of_path("unsure", "unsure.wav", treatment(HOUR / 12, HOUR)),
    ]);
    told.tell("told.wav", of_campaign("FLAC"));
    let names = ["flac.wav", "told.wav", "unsure.wav"];
    let ids = names.map(|name| world.record(name, &silence()));
    world.pass(400);
    ids.iter().for_each(|id| world.until_state(*id, State::Archived));
    let recordings = |key: &String| !key.contains("/.spoolfs/");
    let keys: Vec<String> = world.keys().into_iter().filter(recordings).collect();
    assert_eq!(keys, ["p/pbx/flac.wav.flac", "p/pbx/told.wav.flac", "p/pbx/unsure.wav"]);
    world.pass(4000);
    for (id, name) in ids.into_iter().zip(names) {
        world.until_state(id, State::Released);
        assert_eq!(world.run_one(Command::Recall, name), Outcome::Done);
        assert_eq!(std::fs::read(world.below(name)).unwrap(), silence());
    }
    // A reload is in force for what is archived next.
    let mut rules = world.rules.clone();
    rules.policies = vec![of_path("flac", "later.wav", as_flac)];
    world.engine().reload(rules);
    let later = world.record("later.wav", &silence());
    world.pass(400);
    world.until_state(later, State::Archived);
    assert!(world.keys().contains(&"p/pbx/later.wav.flac".to_owned()));
}

/// The usual times, sealed to these.
fn sealed_to(to: &SealTo) -> Treatment {
    Treatment { seal_to: Some(to.clone()), ..treatment(HOUR / 12, HOUR) }
}

#[test]
fn each_recording_is_sealed_to_the_keys_of_its_rule() {
    let ((health, health_key), (cards, cards_key)) = (pair(), pair());
    let (world, told) = world(vec![
        of_path("public", "public.wav", treatment(HOUR / 12, HOUR)),
        campaign("HEALTH", sealed_to(&health)),
        campaign("CARDS", sealed_to(&cards)),
    ]);
    told.tell("health.wav", of_campaign("HEALTH"));
    told.tell("other.wav", of_campaign("SALES"));
    let names = ["health.wav", "other.wav", "public.wav", "unsure.wav"];
    let ids = names.map(|name| world.record(name, &audio(90_000, 1)));
    world.pass(400);
    ids.iter().for_each(|id| world.until_state(*id, State::Archived));
    // Of what may be of several rules no one's secret is told, and each of them can open it.
    let sealed =
        ["p/pbx/health.wav.age", "p/pbx/other.wav", "p/pbx/public.wav", "p/pbx/unsure.wav.age"];
    assert_eq!(world.keys(), sealed);
    let opens = |key: &str, with: &Identities| open_all(&world.object(key), with).is_ok();
    for (key, by_health, by_cards) in [(sealed[0], true, false), (sealed[3], true, true)] {
        assert_eq!(
            (opens(key, &health_key), opens(key, &cards_key)),
            (by_health, by_cards),
            "{key}"
        );
    }
    // Who may hear some recordings only is told of all; but nobody else is.
    world.until_told();
    let mut told_of = world.store().keys();
    told_of.retain(|key| key.contains("/.spoolfs/journal/"));
    assert!(!told_of.is_empty());
    for key in &told_of {
        assert!(
            key.ends_with(".age") && opens(key, &health_key) && opens(key, &cards_key),
            "{key}"
        );
    }
    // A reload is in force for what is archived next.
    let mut rules = world.rules.clone();
    rules.policies = vec![of_path("plain", "plain.wav", treatment(HOUR / 12, HOUR))];
    rules.seal_to = Some(cards);
    world.engine().reload(rules);
    let later = ["later.wav", "plain.wav"].map(|name| world.record(name, &audio(90_000, 1)));
    world.pass(400);
    later.iter().for_each(|id| world.until_state(*id, State::Archived));
    assert!(world.keys().contains(&"p/pbx/plain.wav".to_owned()), "{:?}", world.keys());
    assert!(opens("p/pbx/later.wav.age", &cards_key) && !opens("p/pbx/later.wav.age", &health_key));
}

#[test]
fn what_failed_to_be_sent_is_not_sent_as_an_earlier_rule_said() {
    let (to, key) = pair();
    let (world, _told) = world(Vec::new());
    let mut rules =
        Rules { compress: Some(Compress::Flac { min_gain: Percent(10) }), ..world.rules.clone() };
    world.engine().reload(rules.clone());
    world.store().fail_next_of("p/pbx/", Operation::Put, 1, Fault::Unreachable);
    rules.seal_to = Some(to);
    let id = world.record("a.wav", &silence());
    world.pass(400);
    world.until("the target failed", || {
        let tried = !world.catalog().objects(id, None).unwrap().is_empty();
        tried && world.engine().status().targets[0].standing != Standing::Up
    });
    world.engine().reload(rules);
    world.pass(400);
    world.until_state(id, State::Archived);
    assert_eq!(world.keys(), ["p/pbx/a.wav.flac.age"]);
    assert!(open_all(&world.object("p/pbx/a.wav.flac.age"), &key).is_ok());
}
