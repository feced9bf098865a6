use crate::world::{World, audio, rules};
use spoolfs::catalog::{Digest, ObjectState};
use spoolfs::clock::Clock;
use spoolfs::engine::{Command, Outcome, Standing};
use spoolfs::policy::{Patterns, Rules};
use spoolfs::recording::{ChunkHashes, Generation, NodeId, Sha256, State, Stored};
use spoolfs::store::marker::{self, Claim};
use spoolfs::store::memory::{Fault, MemoryStore, Operation};
use spoolfs::store::{Body, ObjectMeta, Store};
use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::sync::Arc;

#[test]
fn a_recording_is_archived_released_and_comes_back_as_it_was() {
    let world = World::new();
    world.mkdir("2026");
    let bytes = audio(700_001, 3);
    let id = world.record("2026/a.wav", &bytes);
    let before = std::fs::metadata(world.below("2026/a.wav")).unwrap();
    world.until_hashed(id);
    world.pass(250);
    world.idle();
    assert_eq!(world.state(id), State::Closed, "the retention window is not over");
    world.pass(100);
    world.until_state(id, State::Archived);
    assert_eq!(world.keys(), ["p/pbx/2026/a.wav"]);
    assert_eq!(world.object("p/pbx/2026/a.wav"), bytes);
    world.pass(3700);
    world.until_state(id, State::Released);
    world.until("the local copy is gone", || !world.below("2026/a.wav").exists());
    assert_eq!(world.run_one(Command::Recall, "2026/a.wav"), Outcome::Done);
    assert_eq!(std::fs::read(world.below("2026/a.wav")).unwrap(), bytes);
    let after = std::fs::metadata(world.below("2026/a.wav")).unwrap();
    assert_eq!(after.mtime_nsec(), before.mtime_nsec());
    assert_eq!((after.mtime(), after.mode()), (before.mtime(), before.mode()));
    assert_eq!(world.state(id), State::Archived);
    // It stays for `keep_local` again, and nothing is uploaded a second time.
    world.pass(3700);
    world.until_state(id, State::Released);
    assert_eq!(world.keys().len(), 1);
}

#[test]
fn a_file_that_changes_during_its_upload_is_never_archived_torn() {
    let world = World::new();
    let (first, second) = (audio(300_000, 1), audio(300_000, 2));
    let id = world.record("a.wav", &first);
    world.until_hashed(id);
    world.until_standing(Standing::Up);
    world.store().set_paused(true);
    world.pass(400);
    world.until("an upload is under way", || {
        world.catalog().objects(id, None).unwrap().iter().any(|o| o.state == ObjectState::Assigned)
    });
    world.overwrite("a.wav", id, &second);
    world.store().set_paused(false);
    world.until("archived", || {
        world.pass(5);
        world.state(id) == State::Archived
    });
    assert_eq!(world.row(id).sha256, Some(Sha256::of(&second)));
    for object in world.catalog().objects(id, None).unwrap() {
        if object.state == ObjectState::Verified {
            assert_eq!(Sha256::of(&world.object(&object.key)), object.sha256);
        }
    }
    for key in world.keys() {
        let object = world.object(&key);
        assert!(object == first || object == second, "{key} is torn");
    }
}

#[test]
fn bytes_that_are_not_those_that_were_hashed_are_a_new_generation() {
    let mut world = World::with(&["one"]);
    let id = world.record("a.wav", b"audio");
    // As if a bit had changed on the disk: the stamp is the same.
    let stat = world.lower().stat("a.wav".as_ref()).unwrap();
    let (sha256, version, attr) = (Sha256::of(b"AUDIO"), stat.version, stat.attr);
    let chunks = ChunkHashes(vec![sha256]);
    world.catalog().hashed(id, Digest { sha256, chunks, version, attr }).unwrap();
    world.start();
    world.pass(400);
    world.until("archived", || {
        world.pass(5);
        world.state(id) == State::Archived
    });
    let row = world.row(id);
    assert_eq!((row.generation.0, row.sha256), (2, Some(Sha256::of(b"audio"))));
    let objects = world.catalog().objects(id, Some(row.generation)).unwrap();
    assert_eq!(world.object(&objects[0].key), b"audio");
    assert_eq!(world.engine().status().targets[0].last_error, None);
}

#[test]
fn promise_2_a_file_with_a_writer_is_neither_archived_nor_released() {
    let world = World::new();
    // Open since before the mount: the catalog believes it closed.
    let id = world.record("a.wav", b"begin");
    let mut writer = world.writer("a.wav");
    world.pass(400);
    world.until("noticed", || world.catalog().trouble_of(id).unwrap().is_some());
    assert!(world.explain("a.wav").contains("open for writing"), "{}", world.explain("a.wav"));
    for _ in 0..3 {
        writer.write_all(b" more").unwrap();
        world.pass(400);
        world.idle();
        assert_eq!(world.state(id), State::Closed);
        assert_eq!(world.keys(), [""; 0]);
    }
    drop(writer);
    world.until("archived", || {
        world.pass(5);
        world.state(id) == State::Archived
    });
    assert_eq!(world.object("p/pbx/a.wav"), b"begin more more more");
    let writer = world.writer("a.wav");
    for _ in 0..3 {
        world.pass(7200);
        world.idle();
        assert_eq!(world.state(id), State::Archived);
        assert!(world.below("a.wav").exists());
    }
    drop(writer);
    world.until("released", || {
        world.pass(400);
        world.state(id) == State::Released
    });
}

#[test]
fn a_put_whose_answer_was_lost_is_found_and_not_repeated() {
    let world = World::new();
    world.until_standing(Standing::Up);
    let id = world.record("a.wav", b"audio");
    world.until_hashed(id);
    let puts = world.store().calls(Operation::Put);
    world.store().fail_next(Operation::Put, 1, Fault::ReplyLost);
    world.pass(310);
    world.until("archived", || {
        world.pass(5);
        world.state(id) == State::Archived
    });
    assert_eq!(world.keys(), ["p/pbx/a.wav"]);
    assert!(world.catalog().trouble_of(id).unwrap().is_none(), "it is not the recording's fault");
    // The lost put, at most a journal segment or two, and no second put of the recording.
    let objects = world.catalog().objects(id, None).unwrap();
    assert_eq!(objects.len(), 1);
    assert!(world.store().calls(Operation::Put) > puts);
}

#[test]
fn promise_9_a_taken_key_is_left_alone_and_another_is_used() {
    let world = World::new();
    world.until_standing(Standing::Up);
    let foreign = b"somebody else's";
    let meta = ObjectMeta::default();
    let put = world.store().put(
        "p/pbx/a.wav",
        Body::Bytes(foreign.as_slice().into()),
        Sha256::of(foreign),
        &meta,
    );
    world.runtime.block_on(put).unwrap();
    let id = world.archived("a.wav", b"audio");
    assert_eq!(world.object("p/pbx/a.wav"), foreign);
    let objects = world.catalog().objects(id, None).unwrap();
    let ours = objects.iter().find(|o| o.state == ObjectState::Verified).unwrap();
    assert!(ours.key.starts_with("p/pbx/a~1-"), "{}", ours.key);
    assert_eq!(world.object(&ours.key), b"audio");
}

/// What an earlier try left, and what somebody else put there.
#[test]
fn what_no_key_opens_is_left_alone_and_another_key_is_used() {
    for left_over in [true, false] {
        let mut world = World::new();
        world.until_standing(Standing::Up);
        let taken = "p/pbx/a.wav";
        match left_over {
            true => world.store().fail_next(Operation::Put, 1, Fault::ReplyLost),
            false => world.store().tamper(taken, Some(b"of somebody else")),
        }
        world.store().set_key_lost(taken, true);
        let id = world.record("a.wav", b"audio");
        if left_over {
            world.pass(400);
            let standing = || world.engine().status().targets[0].standing;
            world.until("the answer is lost", || standing() != Standing::Up);
            world.die();
            world.store().set_key_lost(taken, true);
            world.open();
            world.start();
        }
        let bytes = world.object(taken);
        let other = world.record("b.wav", b"more audio");
        world.pass(400);
        for id in [id, other] {
            world.until_state(id, State::Archived);
        }
        let objects = world.catalog().objects(id, None).unwrap();
        let [old, new] = &objects[..] else { panic!("{objects:?}") };
        assert_eq!((&*old.key, old.state), (taken, ObjectState::Abandoned));
        assert_eq!(new.state, ObjectState::Verified);
        assert_eq!((world.object(taken), &*world.object(&new.key)), (bytes, &b"audio"[..]));
    }
}

#[test]
fn a_target_gets_released_recordings_beside_what_no_key_opens_there() {
    let mut world = World::new();
    let name = |i| format!("{i}.wav");
    let ids: Vec<_> = (0..3).map(|i| world.released(&name(i), &audio(1000, i))).collect();
    world.die();
    world.stores.push(Arc::new(MemoryStore::new("two", "p/")));
    world.required.push("two".into());
    world.open();
    // The first is in the way, the second may be ours: a rebuild without this target knows its key.
    for (id, i) in ids.iter().zip(0..2) {
        let key = format!("p/pbx/{i}.wav");
        world.stores[1].tamper(&key, Some(b"locked"));
        world.stores[1].set_key_lost(&key, true);
        if i == 1 {
            let (stored, first) = (Stored::plain(1000, Sha256::of(&audio(1000, 1))), Generation(1));
            world.catalog().assign_key_for(*id, first, "two", &[key], &stored).unwrap();
        }
    }
    world.start();
    let has = |id: &NodeId| {
        let all = world.catalog().objects(*id, None).unwrap();
        all.iter().any(|o| o.target == "two" && o.state == ObjectState::Verified)
    };
    world.until("it has all", || {
        world.pass(60);
        ids.iter().all(has)
    });
    for i in 0..2 {
        assert_eq!(&*world.stores[1].bytes(&format!("p/pbx/{i}.wav")).unwrap(), b"locked");
    }
}

#[test]
fn generations_have_their_own_keys_and_none_is_lost() {
    let world = World::new();
    let id = world.archived("a.wav", b"first");
    world.overwrite("a.wav", id, b"second");
    world.until("archived", || {
        world.pass(5);
        world.state(id) == State::Archived
    });
    let mut stored: Vec<Vec<u8>> = world.keys().iter().map(|k| world.object(k)).collect();
    stored.sort();
    assert_eq!(stored, [b"first".to_vec(), b"second".to_vec()]);
}

#[test]
fn attributes_alone_are_no_new_generation() {
    let world = World::new();
    let id = world.archived("a.wav", b"audio");
    // Behind the mount, so that only the hash can tell.
    let past = std::fs::FileTimes::new().set_modified(std::time::UNIX_EPOCH);
    std::fs::File::open(world.below("a.wav")).unwrap().set_times(past).unwrap();
    world.pass(3700);
    world.until("released", || {
        world.pass(400);
        world.state(id) == State::Released
    });
    assert_eq!((world.keys().len(), world.row(id).generation.0), (1, 1));
}

#[test]
fn nothing_is_hashed_while_the_catalog_can_not_be_written() {
    let world = World::new();
    // Large enough to be seen while it is read.
    let id = world.record("a.wav", &audio(32 << 20, 1));
    world.catalog().drain().unwrap();
    let lock = rusqlite::Connection::open(world.database()).unwrap();
    lock.execute_batch("BEGIN IMMEDIATE").unwrap();
    world.until("trouble", || {
        world.catalog().set_setting("a", "b").is_err() && world.catalog().trouble().is_some()
    });
    world.pass(3);
    for _ in 0..100 {
        world.engine().nudge();
        std::thread::sleep(std::time::Duration::from_millis(10));
        assert_eq!(world.engine().status().hashing, 0);
    }
    lock.execute_batch("ROLLBACK").unwrap();
    world.until_hashed(id);
}

#[test]
fn a_target_that_is_down_is_not_held_against_recordings() {
    let world = World::new();
    world.until_standing(Standing::Up);
    world.store().set_down(true);
    let ids: Vec<_> = (0..20).map(|i| world.record(&format!("{i}.wav"), b"audio")).collect();
    world.pass(400);
    world.until_standing(Standing::Down);
    world.pass(60);
    world.idle();
    for id in &ids {
        assert_eq!(world.state(*id), State::Closed);
        assert!(world.catalog().trouble_of(*id).unwrap().is_none());
    }
    assert!(world.explain("3.wav").contains("down"), "{}", world.explain("3.wav"));
    world.store().set_down(false);
    world.until("all archived", || {
        world.pass(10);
        ids.iter().all(|id| world.state(*id) == State::Archived)
    });
    let status = world.engine().status();
    assert_eq!(status.targets[0].standing, Standing::Up);
    assert!(status.targets[0].last_error.is_some(), "it is told that it was down");
}

#[test]
fn one_refused_recording_is_not_held_against_the_target() {
    let mut world = World::with(&["one"]);
    world.journal_interval = std::time::Duration::from_secs(100_000_000);
    world.start();
    world.until_standing(Standing::Up);
    let ids: Vec<_> = (0..6).map(|i| world.record(&format!("{i}.wav"), b"audio")).collect();
    world.until("hashed", || {
        world.pass(3);
        ids.iter().all(|id| world.row(*id).hashed.is_some())
    });
    world.store().fail_next(Operation::Put, 2, Fault::Denied);
    world.pass(400);
    let archived = || ids.iter().filter(|id| world.state(**id) == State::Archived).count();
    world.until("the others are archived", || archived() >= 4);
    let status = &world.engine().status().targets[0];
    assert_eq!((status.standing, &status.last_error), (Standing::Up, &None));
    world.until("tried again", || {
        world.pass(10);
        archived() == ids.len()
    });
    // One that refuses everything is the one to blame.
    world.store().fail_next(Operation::Put, 100, Fault::Denied);
    (0..6).for_each(|i| {
        world.record(&format!("n{i}.wav"), b"audio");
    });
    world.pass(400);
    world.until_standing(Standing::Down);
    let failing = world.catalog().counts().unwrap().failing;
    assert!(failing < 6, "{failing}");
}

#[test]
fn with_two_required_targets_both_must_hold_it() {
    let mut world = World::with(&["one", "two"]);
    world.start();
    world.until("both up", || {
        world.engine().status().targets.iter().all(|t| t.standing == Standing::Up)
    });
    world.stores[1].set_down(true);
    let id = world.record("a.wav", b"audio");
    world.pass(400);
    world.until("the first has it", || world.keys() == ["p/pbx/a.wav"]);
    world.pass(10_000);
    world.idle();
    assert_eq!(world.state(id), State::Closed);
    assert!(world.below("a.wav").exists());
    world.stores[1].set_down(false);
    world.until("archived", || {
        world.pass(10);
        world.state(id) == State::Archived
    });
    assert_eq!(world.stores[1].bytes("p/pbx/a.wav").unwrap().as_ref(), b"audio");
}

#[test]
fn an_optional_target_does_not_hold_back() {
    let mut world = World::with(&["one", "two"]);
    world.required = vec!["one".into()];
    world.stores[1].set_down(true);
    world.start();
    world.archived("a.wav", b"audio");
}

#[test]
fn an_optional_target_that_was_down_gets_what_it_missed() {
    let mut world = World::with(&["one", "two"]);
    world.required = vec!["one".into()];
    world.stores[1].set_down(true);
    world.start();
    world.archived("a.wav", b"audio");
    world.stores[1].set_down(false);
    world.until("the second has it", || {
        world.pass(10);
        world.stores[1].bytes("p/pbx/a.wav").is_some()
    });
    world.until("that is in the journal", || {
        world.pass(61);
        let told = |k: &String| {
            k.contains("/journal/") && {
                let text = String::from_utf8(world.object(k)).unwrap();
                text.contains("\"target\":\"two\"")
            }
        };
        world.store().keys().iter().any(told)
    });
}

#[test]
fn a_new_required_target_gets_what_is_archived_and_releases_go_on() {
    let mut world = World::new();
    let ids: Vec<_> =
        (0..3).map(|i| world.archived(&format!("{i}.wav"), &audio(1000, i))).collect();
    world.die();
    world.stores.push(Arc::new(MemoryStore::new("two", "p/")));
    world.required.push("two".into());
    world.open();
    world.start();
    world.until("the new one has all", || {
        (0..3).all(|i| world.stores[1].bytes(&format!("p/pbx/{i}.wav")).is_some())
    });
    assert!(ids.iter().all(|id| world.row(*id).generation.0 == 1));
    assert_eq!(world.keys().len(), 3, "the first has it already");
    world.pass(3700);
    for id in ids {
        world.until_state(id, State::Released);
    }
}

#[test]
fn without_a_target_recordings_are_hashed_and_stay() {
    let mut world = World::with(&[]);
    world.start();
    let id = world.record("a.wav", b"audio");
    world.pass(1_000_000);
    world.until_hashed(id);
    world.idle();
    assert_eq!(world.state(id), State::Closed);
    assert!(world.explain("a.wav").contains("no target"), "{}", world.explain("a.wav"));
    match world.run_one(Command::Archive, "a.wav") {
        Outcome::Failed(why) => assert!(why.contains("no target"), "{why}"),
        other => panic!("{other:?}"),
    }
}

#[test]
fn another_archives_target_is_refused_and_not_written_to() {
    let mut world = World::with(&["one"]);
    let claim = Claim {
        expected: None,
        archive_name: "somebody-elses",
        node: "other",
        instance: "ff",
        now: world.clock.now(),
    };
    world.runtime.block_on(marker::attach(world.store(), &claim)).unwrap();
    let before = world.store().keys();
    world.start();
    world.until_standing(Standing::Refused);
    let id = world.record("a.wav", b"audio");
    world.pass(400);
    world.until_hashed(id);
    world.idle();
    assert_eq!(world.store().keys(), before);
    assert_eq!(world.state(id), State::Closed);
    let (_, why) = world.engine().status().targets[0].last_error.clone().unwrap();
    assert!(why.contains("somebody-elses"), "{why}");
    match world.run_one(Command::Archive, "a.wav") {
        Outcome::Failed(why) => assert!(why.contains("somebody-elses"), "{why}"),
        other => panic!("{other:?}"),
    }
}

#[test]
fn the_archive_command_does_not_wait_and_says_what_it_can_not_do() {
    let mut world = World::with(&["one"]);
    world.rules = Rules { exclude: Patterns::new(&["*.tmp"]).unwrap(), ..rules() };
    world.start();
    world.until_standing(Standing::Up);
    world.mkdir("d");
    let a = world.record("d/a.wav", b"audio");
    let empty = world.record("d/empty.wav", b"");
    let excluded = world.record("d/x.tmp", b"x");
    let (open, _writer) = world.begin("d/open.wav", b"begin");
    let (summary, told) = world.run(Command::Archive, "d");
    assert_eq!((summary.done, summary.already, summary.failed), (1, 1, 2), "{told:?}");
    assert_eq!(world.state(a), State::Archived);
    assert_eq!(world.state(empty), State::Closed);
    assert_eq!(world.state(excluded), State::Closed);
    assert_eq!(world.state(open), State::Recording);
    let why = |name: &str| match &told.iter().find(|(p, _)| p.ends_with(name)).unwrap().1 {
        Outcome::Failed(why) | Outcome::Already(why) => why.clone(),
        Outcome::Done => String::new(),
    };
    assert!(why("open.wav").contains("has it open"));
    assert!(why("x.tmp").contains("*.tmp"));
    assert!(why("empty.wav").contains("empty"));
    assert_eq!(world.run(Command::Archive, "d/a.wav").0.already, 1);
    assert_eq!(world.run(Command::Archive, "nowhere").0.failed, 1);
}

#[test]
fn the_journal_is_shipped_and_begins_with_what_was_archived() {
    let world = World::new();
    world.archived("a.wav", b"audio");
    let segments = || {
        let is_segment = |k: &String| k.contains("/journal/");
        world.store().keys().into_iter().filter(is_segment).collect::<Vec<_>>()
    };
    world.until("shipped", || {
        world.pass(61);
        !segments().is_empty()
    });
    let text = String::from_utf8(world.object(&segments()[0])).unwrap();
    assert!(text.contains("a.wav"), "{text}");
    world.until("nothing is left", || {
        world.pass(61);
        world.catalog().journal_pending("one", 10).unwrap().is_empty()
    });
}
