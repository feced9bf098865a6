use crate::world::{World, audio, rules};
use spoolfs::clock::Clock;
use spoolfs::engine::{Command, Outcome};
use spoolfs::policy::Rules;
use spoolfs::recording::{NodeId, State};
use spoolfs::store::memory::Operation;
use std::path::Path;
use std::time::{Duration, Instant};

#[test]
fn a_group_stays_until_every_file_of_it_may_go() {
    let world = World::new();
    let wav = world.archived("call-all.wav", b"audio");
    world.pass(3000);
    let txt = world.archived("call.txt", b"note");
    world.pass(1000);
    world.idle();
    assert_eq!(world.state(wav), State::Archived, "its sidecar's time has not come");
    assert!(
        world.explain("call-all.wav").contains("call.txt"),
        "{}",
        world.explain("call-all.wav")
    );
    world.pass(3000);
    world.until_state(wav, State::Released);
    world.until_state(txt, State::Released);
}

#[test]
fn a_writer_on_a_sidecar_keeps_the_group() {
    let world = World::new();
    let wav = world.archived("call.wav", b"audio");
    let txt = world.archived("call.txt", b"note");
    let writer = world.writer("call.txt");
    for _ in 0..3 {
        world.pass(4000);
        world.idle();
        assert_eq!((world.state(wav), world.state(txt)), (State::Archived, State::Archived));
        assert!(world.below("call.wav").exists());
    }
    drop(writer);
    world.until("both released", || {
        world.pass(400);
        [wav, txt].iter().all(|id| world.state(*id) == State::Released)
    });
}

#[test]
fn a_late_sidecar_of_a_released_recording_goes_in_its_own_time() {
    let world = World::new();
    let wav = world.released("call.wav", b"audio");
    let txt = world.archived("call.txt", b"note");
    world.idle();
    assert_eq!(world.state(txt), State::Archived);
    world.pass(3700);
    world.until_state(txt, State::Released);
    assert_eq!(world.state(wav), State::Released);
}

#[test]
fn an_empty_sidecar_does_not_hold_its_group_back_and_stays() {
    let world = World::new();
    world.record("call.txt", b"");
    world.released("call.wav", b"audio");
    assert!(world.below("call.txt").exists());
}

#[test]
fn the_release_command_does_not_wait_but_keeps_the_rules() {
    let world = World::new();
    let wav = world.archived("call.wav", b"audio");
    let txt = world.record("call.txt", b"note");
    match world.run_one(Command::Release, "call.wav") {
        Outcome::Failed(why) => assert!(why.contains("not archived yet"), "{why}"),
        other => panic!("{other:?}"),
    }
    assert_eq!(world.state(wav), State::Archived);
    assert_eq!(world.run_one(Command::Archive, "call.txt"), Outcome::Done);
    let (summary, told) = world.run(Command::Release, "call.wav");
    assert_eq!((summary.done, summary.failed), (2, 0), "{told:?}");
    assert_eq!((world.state(wav), world.state(txt)), (State::Released, State::Released));
    assert!(matches!(world.run_one(Command::Release, "call.wav"), Outcome::Already(_)));
}

#[test]
fn keep_local_forever_means_that_until_an_operator_says_otherwise() {
    let mut world = World::with(&["one"]);
    world.rules = Rules { keep_local: None, ..rules() };
    world.start();
    let id = world.archived("a.wav", b"audio");
    let other = world.archived("b.wav", b"audio");
    world.pass(1_000_000_000);
    world.idle();
    assert_eq!(world.state(id), State::Archived);
    assert!(world.explain("a.wav").contains("forever"), "{}", world.explain("a.wav"));
    assert_eq!(world.run_one(Command::Release, "a.wav"), Outcome::Done);
    assert_eq!((world.state(id), world.state(other)), (State::Released, State::Archived));
    world.engine().reload(rules());
    world.until_state(other, State::Released);
}

#[test]
fn a_file_with_two_names_is_archived_and_not_released() {
    let world = World::new();
    let id = world.archived("a.wav", b"audio");
    std::fs::hard_link(world.below("a.wav"), world.below("b.wav")).unwrap();
    world.pass(100_000);
    world.idle();
    assert!(world.below("a.wav").exists() && world.below("b.wav").exists());
    assert_ne!(world.state(id), State::Released);
}

#[test]
fn what_comes_back_wrong_is_not_installed() {
    let world = World::new();
    let id = world.released("a.wav", &audio(200_000, 1));
    assert!(world.store().corrupt("p/pbx/a.wav", 150_000));
    match world.run_one(Command::Recall, "a.wav") {
        Outcome::Failed(why) => assert!(!why.is_empty()),
        other => panic!("{other:?}"),
    }
    assert_eq!(world.state(id), State::Released);
    assert!(!world.below("a.wav").exists());
}

#[test]
fn a_recall_that_lost_its_file_leaves_nothing() {
    let world = World::new();
    let id = world.released("a.wav", b"audio");
    // Renamed through the mount after the recall was asked for: it is found at its new name.
    let (parent, at) = (NodeId::ROOT, world.clock.now());
    world.catalog().record(spoolfs::catalog::Op::Rename {
        fate: spoolfs::catalog::Fate::Kept,
        id,
        parent,
        name: b"a.wav".to_vec(),
        new_parent: parent,
        new_name: b"b.wav".to_vec(),
        replaced: None,
        at,
    });
    let soon = Instant::now() + Duration::from_secs(120);
    world.engine().recall_blocking(id, soon).unwrap();
    assert!(!world.below("a.wav").exists());
    assert_eq!(std::fs::read(world.below("b.wav")).unwrap(), b"audio");
    assert_eq!(world.state(id), State::Archived);
}

#[test]
fn many_recalls_of_one_recording_are_one() {
    let world = World::new();
    let bytes = audio(900_000, 9);
    let id = world.released("a.wav", &bytes);
    let soon = Instant::now() + Duration::from_secs(120);
    std::thread::scope(|scope| {
        for _ in 0..6 {
            scope.spawn(|| world.engine().recall_blocking(id, soon).unwrap());
        }
    });
    assert_eq!(std::fs::read(world.below("a.wav")).unwrap(), bytes);
    assert_eq!(world.state(id), State::Archived);
    assert_eq!(world.lower().stat(Path::new("a.wav")).unwrap().node, Some(id));
}

#[test]
fn regression_a_stop_leaves_no_spare_copy_of_what_was_released_last() {
    let mut world = World::new();
    world.until_reconciled();
    let id = world.archived("a.wav", b"audio");
    assert_eq!(world.run_one(Command::Release, "a.wav"), Outcome::Done);
    let gone = || std::fs::read_dir(world.below(".spl/gone")).unwrap().count();
    assert_eq!(gone(), 1, "it is removed later");
    world.engine().stop();
    assert_eq!(gone(), 0);
    assert_eq!(world.state(id), State::Released);
    let report = world.fsck(false);
    assert!(report.findings.is_empty(), "{report:?}");
}

#[test]
fn a_target_that_had_a_key_is_asked_before_a_release_also_without_one() {
    let mut world = World::new();
    world.store().set_needs_key(true);
    world.restart();
    world.until("it is remembered", || {
        world.catalog().setting("target.one.sse_c").unwrap().is_some()
    });
    let (lost, read) = (world.archived("a.wav", b"audio"), world.archived("b.wav", b"more"));
    let key = world.catalog().objects(lost, None).unwrap()[0].key.clone();
    world.store().set_key_lost(&key, true);
    // The keys are taken out of the configuration.
    world.store().set_needs_key(false);
    world.restart();
    world.pass(3700);
    world.until_state(read, State::Released);
    let outcome = world.run_one(Command::Release, "a.wav");
    assert!(matches!(&outcome, Outcome::Failed(why) if why.contains("no key")), "{outcome:?}");
    assert_eq!(world.state(lost), State::Archived);
    assert_eq!(std::fs::read(world.below("a.wav")).unwrap(), b"audio", "nobody else has it");
    world.store().set_key_lost(&key, false);
    assert_eq!(world.run_one(Command::Release, "a.wav"), Outcome::Done);
}

#[test]
fn a_target_is_asked_before_a_release_once_an_object_there_was_locked() {
    let world = World::new();
    world.archived("a.wav", b"audio");
    let met = world.archived("b.wav", b"more");
    let key = |id| world.catalog().objects(id, None).unwrap()[0].key.clone();
    world.store().set_key_lost(&key(met), true);
    let outcome = world.run_one(Command::Verify, "b.wav");
    assert!(matches!(outcome, Outcome::Failed(_)), "{outcome:?}");
    let before = world.store().calls(Operation::Head);
    assert_eq!(world.run_one(Command::Release, "a.wav"), Outcome::Done);
    assert!(world.store().calls(Operation::Head) > before);
    assert!(matches!(world.run_one(Command::Release, "b.wav"), Outcome::Failed(_)));
    assert_eq!(std::fs::read(world.below("b.wav")).unwrap(), b"more");
}
