//! The daemon dies between any two steps, and the next one goes on.

use crate::world::{World, audio, rules};
use spoolfs::catalog::ObjectState;
use spoolfs::engine::{Command, Outcome, Standing};
use spoolfs::lower::Looks;
use spoolfs::policy::Rules;
use spoolfs::recording::{Evidence, ReleasePermit, State};
use spoolfs::store::journal::{self, Author, Segment};
use spoolfs::store::memory::{Fault, Operation};
use std::path::Path;
use std::time::Duration;

pub fn permit(world: &World, path: &str) -> ReleasePermit {
    let quiet = world.lower().quiet(Path::new(path)).unwrap();
    let row = world.row(quiet.stat.node.unwrap());
    let required = ["one".to_owned()];
    let evidence = Evidence {
        node: row.id,
        state: row.state,
        generation: row.generation,
        sha256: row.sha256,
        hashed: row.hashed,
        present: quiet.stat.version,
        required: &required,
        verified: &required,
        suspect: false,
        forbidden: None,
    };
    ReleasePermit::grant(&evidence).unwrap()
}

#[test]
fn after_the_hash() {
    let mut world = World::new();
    let id = world.record("a.wav", b"audio");
    world.until_hashed(id);
    world.restart();
    world.pass(400);
    world.until_state(id, State::Archived);
    assert_eq!(world.keys(), ["p/pbx/a.wav"]);
}

#[test]
fn during_an_upload_that_was_not_done() {
    let mut world = World::new();
    world.until_standing(Standing::Up);
    let id = world.record("a.wav", b"audio");
    world.until_hashed(id);
    world.store().set_paused(true);
    world.pass(400);
    world.until("a key is taken", || !world.catalog().objects(id, None).unwrap().is_empty());
    world.die();
    world.store().set_paused(false);
    world.open();
    world.start();
    world.until_state(id, State::Archived);
    assert_eq!(world.keys(), ["p/pbx/a.wav"]);
    assert_eq!(world.object("p/pbx/a.wav"), b"audio");
}

#[test]
fn after_an_upload_that_was_done_but_not_proved() {
    let mut world = World::new();
    world.until_standing(Standing::Up);
    let id = world.record("a.wav", b"audio");
    world.until_hashed(id);
    world.store().fail_next(Operation::Put, 1, Fault::ReplyLost);
    world.pass(310);
    world.until("the object is there", || world.keys() == ["p/pbx/a.wav"]);
    world.restart();
    world.pass(60);
    world.until_state(id, State::Archived);
    let objects = world.catalog().objects(id, None).unwrap();
    assert_eq!((objects.len(), objects[0].state), (1, ObjectState::Verified));
    assert_eq!(world.keys(), ["p/pbx/a.wav"]);
}

#[test]
fn between_the_catalog_and_the_bytes_of_a_release_leaves_a_spare_copy() {
    let mut world = World::new();
    let id = world.archived("a.wav", b"audio");
    let attr = world.row(id).attr;
    let permit = permit(&world, "a.wav");
    assert!(world.catalog().released(&permit, attr, Vec::new()).unwrap());
    world.restart();
    world.until_reconciled();
    assert_eq!(world.state(id), State::Archived);
    assert_eq!(std::fs::read(world.below("a.wav")).unwrap(), b"audio");
    world.pass(8000);
    world.until_state(id, State::Released);
    assert_eq!(world.run_one(Command::Recall, "a.wav"), Outcome::Done);
}

#[test]
fn between_taking_the_bytes_away_and_removing_them() {
    let mut world = World::new();
    let id = world.archived("a.wav", b"audio");
    let attr = world.row(id).attr;
    let permit = permit(&world, "a.wav");
    assert!(world.catalog().released(&permit, attr, Vec::new()).unwrap());
    world.lower().retire(Path::new("a.wav"), permit).unwrap();
    world.restart();
    world.until_reconciled();
    assert_eq!(world.state(id), State::Released);
    assert!(!world.below("a.wav").exists());
    assert_eq!(world.run_one(Command::Recall, "a.wav"), Outcome::Done);
    assert_eq!(std::fs::read(world.below("a.wav")).unwrap(), b"audio");
}

#[test]
fn between_installing_a_recalled_file_and_telling_the_catalog() {
    let mut world = World::new();
    let id = world.released("a.wav", b"audio");
    let row = world.row(id);
    let stage = world.lower().stage(id).unwrap();
    stage.write_at(0, b"audio").unwrap();
    world
        .lower()
        .install(stage, (spoolfs::recording::NodeId::ROOT, Path::new("a.wav")), &|| {
            Some(Looks { attr: row.attr.clone(), xattrs: Vec::new() })
        })
        .unwrap();
    // Its time has long come: it would be released again at once.
    world.rules = Rules { keep_local: None, ..rules() };
    world.restart();
    world.until_reconciled();
    world.until("archived", || {
        world.pass(5);
        world.state(id) == State::Archived
    });
    assert_eq!((world.row(id).generation.0, world.keys().len()), (1, 1));
}

#[test]
fn a_recall_that_was_cut_off_keeps_its_copy_for_keep_local() {
    let mut world = World::new();
    let id = world.released("a.wav", b"audio");
    let row = world.row(id);
    world.pass(100_000);
    let stage = world.lower().stage(id).unwrap();
    stage.write_at(0, b"audio").unwrap();
    let place = (spoolfs::recording::NodeId::ROOT, Path::new("a.wav"));
    let looks = Looks { attr: row.attr.clone(), xattrs: Vec::new() };
    world.lower().install(stage, place, &|| Some(looks.clone())).unwrap();
    world.restart();
    world.until_reconciled();
    world.until_state(id, State::Archived);
    world.pass(3000);
    world.idle();
    assert_eq!(world.state(id), State::Archived, "`keep_local` counts from the recall");
    world.pass(3000);
    world.until_state(id, State::Released);
}

#[test]
fn in_the_middle_of_fetching_a_recall() {
    let mut world = World::new();
    let id = world.released("a.wav", &audio(300_000, 1));
    let stage = world.lower().stage(id).unwrap();
    stage.write_at(0, b"half").unwrap();
    std::mem::forget(stage);
    world.restart();
    world.until_reconciled();
    assert_eq!(world.state(id), State::Released);
    assert!(!world.below("a.wav").exists());
    assert_eq!(world.run_one(Command::Recall, "a.wav"), Outcome::Done);
}

#[test]
fn a_journal_number_that_is_used_by_us_begins_a_new_epoch() {
    let mut world = World::new();
    world.rules = Rules { keep_local: None, ..rules() };
    world.journal_interval = Duration::from_secs(100_000);
    world.restart();
    world.archived("a.wav", b"audio");
    let me = world.catalog().identity();
    let author = Author {
        archive: world.catalog().setting("target.one.archive").unwrap().unwrap(),
        node: me.node,
        instance: me.instance,
        epoch: me.epoch,
    };
    // Lines that this catalog knows nothing of, for example after it lost its last seconds.
    let other = Segment::new(&author, 1, 1, 1, vec!["{\"seq\":1}".into()]).unwrap();
    world
        .runtime
        .block_on(journal::ship(world.store(), &other.shipment("p/", None).unwrap(), true))
        .unwrap();
    world.until("shipped", || {
        world.pass(100_001);
        world.catalog().journal_pending("one", 10).unwrap().is_empty()
    });
    assert_eq!(world.catalog().identity().epoch, 2);
    let text = String::from_utf8(world.object("p/.spoolfs/journal/pbx/000002-0000000001.jsonl"));
    assert!(text.unwrap().contains("a.wav"));
    assert_eq!(world.engine().status().targets[0].standing, Standing::Up);
}

#[test]
fn a_journal_segment_that_no_key_opens_holds_up_no_other() {
    let mut world = World::new();
    world.journal_interval = Duration::from_secs(100_000);
    world.restart();
    world.archived("a.wav", b"audio");
    world.store().fail_next_of(".spoolfs/journal/", Operation::Put, 1, Fault::ReplyLost);
    world.pass(100_001);
    world.until_standing(Standing::Down);
    let segments = |world: &World| {
        let keys = world.store().keys();
        keys.into_iter().filter(|key| key.contains("/journal/")).collect::<Vec<_>>()
    };
    let [lost] = &segments(&world)[..] else { panic!("{:?}", world.store().keys()) };
    world.store().set_key_lost(lost, true);
    world.journal_interval = Duration::from_secs(60);
    world.restart();
    world.archived("b.wav", b"more");
    world.until_told();
    assert_eq!(world.engine().status().targets[0].standing, Standing::Up);
    let told: Vec<u8> =
        segments(&world).iter().filter(|key| *key != lost).fold(Vec::new(), |mut all, key| {
            all.extend(world.object(key));
            all
        });
    let told = String::from_utf8(told).unwrap();
    assert!(told.contains("a.wav") && told.contains("b.wav"), "{told}");
    assert_eq!(world.catalog().lost_since().unwrap(), None);
}

/// As a service does that refuses every request with a key: nothing is known of any segment.
#[test]
fn regression_a_target_that_calls_every_segment_locked_is_given_one_epoch_and_then_a_rest() {
    let mut world = World::new();
    world.journal_interval = Duration::from_secs(100_000);
    world.restart();
    world.archived("a.wav", b"audio");
    world.store().fail_next_of(".spoolfs/journal/", Operation::Put, 1, Fault::ReplyLost);
    world.pass(100_001);
    world.until_standing(Standing::Down);
    let before = world.catalog().identity().epoch;
    for operation in [Operation::Head, Operation::Get] {
        world.store().fail_next_of(".spoolfs/journal/", operation, 100, Fault::Locked);
    }
    world.pass(100_001);
    world.until("the target is blamed", || {
        let error = world.engine().status().targets[0].last_error.clone();
        error.is_some_and(|(_, error)| error.contains("no key opens"))
    });
    assert_eq!(world.catalog().identity().epoch, before + 1);
    world.store().fail_no_more();
    world.until("the journal is shipped", || {
        world.pass(100_001);
        world.catalog().journal_pending("one", 1).unwrap().is_empty()
    });
}

#[test]
fn a_lost_answer_to_a_journal_segment_repeats_no_line() {
    let mut world = World::new();
    world.rules = Rules { keep_local: None, ..rules() };
    world.journal_interval = Duration::from_secs(100_000);
    world.restart();
    world.archived("a.wav", b"audio");
    world.archived("b.wav", b"more");
    world.store().fail_next_of(".spoolfs/journal/", Operation::Put, 1, Fault::ReplyLost);
    world.pass(100_001);
    world.until_standing(Standing::Down);
    assert!(!world.catalog().journal_pending("one", 10).unwrap().is_empty());
    // The segment is there, the catalog does not know, and further lines follow.
    world.journal_interval = Duration::from_secs(60);
    world.restart();
    world.archived("c.wav", b"even more");
    world.until("shipped", || {
        world.pass(61);
        world.catalog().journal_pending("one", 10).unwrap().is_empty()
    });
    let lines: Vec<String> = world
        .store()
        .keys()
        .iter()
        .filter(|k| k.contains("/journal/"))
        .flat_map(|k| {
            let text = String::from_utf8(world.object(k)).unwrap();
            text.lines().skip(1).map(str::to_owned).collect::<Vec<_>>()
        })
        .collect();
    let mut unique = lines.clone();
    unique.sort();
    unique.dedup();
    assert_eq!(unique.len(), lines.len());
    for name in ["a.wav", "b.wav", "c.wav"] {
        assert!(lines.iter().any(|l| l.contains(name)), "{name}");
    }
}
