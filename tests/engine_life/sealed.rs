//! `encrypt_to`: what is stored is sealed, and only who has a key can read it.

use crate::world::{World, audio};
use age::secrecy::ExposeSecret;
use spoolfs::audit::{Audit, Event};
use spoolfs::catalog::{Digest, ObjectRow, ObjectState};
use spoolfs::codec::seal::{Identities, Recipients};
use spoolfs::codec::{Coding, wav_header};
use spoolfs::engine::{Command, Outcome, Snapshots, Standing};
use spoolfs::policy::{Compress, SealTo};
use spoolfs::rebuild::RebuildError;
use spoolfs::recording::{Encoding, Hasher, NodeId, Sha256, State};
use spoolfs::store::Store;
use spoolfs::store::journal::{self, Author, Segment};
use spoolfs::store::memory::{Fault, Operation};
use spoolfs::store::meta::Label;
use spoolfs::units::Percent;
use std::fs;
use std::time::Duration;

const FLAC: Option<Compress> = Some(Compress::Flac { min_gain: Percent(10) });

/// A public key, and what opens what is sealed to it.
pub fn pair() -> (SealTo, Identities) {
    let key = age::x25519::Identity::generate();
    let public = [key.to_public().to_string()];
    let secret = Identities::parse(key.to_string().expose_secret().as_bytes(), "a test");
    (SealTo::new(&public).unwrap(), secret.unwrap())
}

fn sealing(targets: &[&str], compress: Option<Compress>) -> World {
    let mut world = World::with(targets);
    let (public, secret) = pair();
    (world.seal_to, world.identities, world.compress) = (Some(public), secret, compress);
    world.start();
    world
}

/// A call of some 90 seconds, so that it has several chunks and blocks; `seed`: which.
fn call(seed: u64) -> Vec<u8> {
    let bytes = 1_400_000;
    let mut wav = wav_header(Coding::Pcm16, 8000, 1, bytes);
    let mut random = fastrand::Rng::with_seed(seed);
    let tone = |n: u64| ((n as f64 / 9.0).sin() * 3000.0) as i16 + random.i16(-90..90);
    wav.extend((0..bytes / 2).map(tone).flat_map(i16::to_le_bytes));
    wav
}

fn verified(world: &World, id: NodeId, target: &str) -> ObjectRow {
    let all = world.catalog().objects(id, None).unwrap();
    let live = |o: &ObjectRow| o.target == target && o.state == ObjectState::Verified;
    all.into_iter().find(live).unwrap()
}

/// Sealed, and as FLAC inside.
fn kind(object: &ObjectRow) -> (bool, bool) {
    match &object.stored.encoding {
        Encoding::Sealed(sealed) => (true, matches!(sealed.inner(), Encoding::Flac(Some(_)))),
        _ => (false, false),
    }
}

/// All bytes of a released recording, as they are read.
fn content(world: &World, id: NodeId, path: &str) -> Vec<u8> {
    assert_eq!(world.state(id), State::Released);
    assert_eq!(world.run_one(Command::Recall, path), Outcome::Done);
    fs::read(world.below(path)).unwrap()
}

fn holds(all: &[u8], part: &[u8]) -> bool {
    all.windows(part.len()).any(|window| window == part)
}

#[test]
fn a_recording_is_sealed_and_stays_what_it_was() {
    for (compress, suffix) in [(None, "a.wav.age"), (FLAC, "a.wav.flac.age")] {
        let (mut world, bytes) = (sealing(&["one"], compress), call(1));
        world.mkdir("2026");
        let id = world.released("2026/a.wav", &bytes);
        let object = verified(&world, id, "one");
        let stored = world.object(&object.key);
        assert!(object.key.ends_with(&format!("/2026/{suffix}")), "{}", object.key);
        assert_eq!(kind(&object), (true, compress.is_some()));
        assert!(stored.starts_with(b"age-encryption.org/v1\n-> X25519 "));
        assert!(!holds(&stored, &bytes[1000..1016]) && !holds(&stored, b"fLaC"));
        assert_eq!((object.sha256, object.size), (Sha256::of(&bytes), bytes.len() as u64));
        let what = (object.stored.sha256, object.stored.size);
        assert_eq!(what, (Sha256::of(&stored), stored.len() as u64));
        let head = world.runtime.block_on(world.store().head(&object.key)).unwrap();
        let label = Label::from_user(&head.user).unwrap();
        assert_eq!((label.sha256, label.size), (object.sha256, object.size));
        assert_eq!(label.stored.encoding.label(), object.stored.encoding.label());
        let format = head.user.iter().find(|(name, _)| name == "spoolfs-format").unwrap();
        assert_eq!(format.1, "5", "an older spoolfs would take it for damaged");
        assert_eq!(world.run_one(Command::Verify, "2026/a.wav"), Outcome::Done);
        assert_eq!(content(&world, id, "2026/a.wav"), bytes);
        world.pass(3700);
        world.until_state(id, State::Released);
        world.until_told();
        let report = world.fsck(true);
        assert!(report.clean, "{:?}", report.findings);
    }
}

#[test]
fn without_a_key_all_goes_on_but_reading() {
    let mut world = sealing(&["one", "two"], FLAC);
    let secret = std::mem::take(&mut world.identities);
    world.restart();
    let bytes = call(2);
    let id = world.released("a.wav", &bytes);
    let object = verified(&world, id, "one");
    assert_eq!(kind(&object), (true, true));
    let outcome = world.run_one(Command::Recall, "a.wav");
    let told = |outcome: &Outcome| matches!(outcome, Outcome::Failed(w) if w.contains("sealed"));
    assert!(told(&outcome), "{outcome:?}");
    // A copy that rots is seen, and replaced from the other.
    let mut rotten = world.object(&object.key);
    rotten[100_000] ^= 1;
    world.store().tamper(&object.key, Some(&rotten));
    let outcome = world.run_one(Command::Verify, "a.wav");
    assert!(matches!(&outcome, Outcome::Failed(why) if why.contains("replaced")), "{outcome:?}");
    assert_eq!(world.run_one(Command::Verify, "a.wav"), Outcome::Done);
    // Another key does not open it; the right one does.
    world.identities = pair().1;
    world.restart();
    let outcome = world.run_one(Command::Recall, "a.wav");
    assert!(told(&outcome), "{outcome:?}");
    world.identities = secret;
    world.restart();
    assert_eq!(content(&world, id, "a.wav"), bytes);
}

#[test]
fn another_setting_leaves_what_is_sealed_or_not_readable() {
    let mut world = sealing(&["one"], None);
    let sealed = world.released("sealed.wav", &call(3));
    let to = world.seal_to.take();
    world.restart();
    let plain = world.released("plain.wav", &call(4));
    assert!(kind(&verified(&world, sealed, "one")).0 && !kind(&verified(&world, plain, "one")).0);
    assert_eq!(content(&world, sealed, "sealed.wav"), call(3));
    world.seal_to = to;
    world.restart();
    assert_eq!(content(&world, plain, "plain.wav"), call(4));
    for path in ["sealed.wav", "plain.wav"] {
        assert_eq!(world.run_one(Command::Verify, path), Outcome::Done);
    }
}

#[test]
fn a_cut_call_is_sealed_with_its_sizes() {
    let mut world = sealing(&["one"], None);
    world.repair_headers = true;
    world.restart();
    let mut cut = call(5);
    [4, 40].into_iter().for_each(|at| cut[at..at + 4].fill(0));
    let id = world.released("cut.wav", &cut);
    let label = verified(&world, id, "one").stored.encoding.label();
    assert_eq!(label, "age;patched:4=00000000,40=00000000");
    assert_eq!(content(&world, id, "cut.wav"), cut);
}

#[test]
fn a_rebuild_brings_sealed_objects_back() {
    for journal in [true, false] {
        let mut world = sealing(&["one"], FLAC);
        let released = world.released("a.wav", &call(6));
        let text = world.released("a.txt", b"a sidecar");
        world.start_again_with_keep(Duration::from_secs(1_000_000));
        let local = world.archived("local.wav", &call(7));
        let before = [released, text, local].map(|id| verified(&world, id, "one"));
        assert!(before.iter().all(|object| kind(object).0));
        world.until_told();
        world.die();
        world.lose_database();
        if !journal {
            let segments = world.store().keys().into_iter().filter(|k| k.contains("/journal/"));
            segments.for_each(|key| world.store().tamper(&key, None));
        }
        let report = world.rebuild(None, &[]).unwrap();
        let whole = [report.lost.len(), report.missing.len(), report.unknown.len()];
        assert_eq!(whole, [0; 3], "{report:?}");
        world.open();
        world.start();
        for object in &before {
            let after = verified(&world, object.node, "one");
            let facts = |o: &ObjectRow| (o.key.clone(), o.size, o.sha256, o.stored.clone());
            assert_eq!(facts(&after), facts(object), "journal: {journal}");
        }
        assert_eq!(content(&world, released, "a.wav"), call(6));
        assert_eq!(content(&world, text, "a.txt"), b"a sidecar");
        world.pass(400);
        world.until_state(local, State::Archived);
        assert_eq!(world.keys().len(), 3, "nothing was uploaded again");
        let report = world.fsck(true);
        assert!(report.clean, "{:?}", report.findings);
    }
}

/// What a target is told of recordings: journal, snapshots, audit log.
fn told(world: &World) -> Vec<String> {
    let mut keys = world.store().keys();
    keys.retain(|key| ["/journal/", "/snapshots/", "/audit/"].iter().any(|dir| key.contains(dir)));
    keys
}

#[test]
fn what_a_target_is_told_is_sealed_and_a_pbx_without_a_key_goes_on_telling_it() {
    let mut world = sealing(&["one"], None);
    let secret = std::mem::take(&mut world.identities);
    world.snapshots = Some(Snapshots { every: Duration::from_secs(1), keep: 2 });
    let log = tempfile::tempdir().unwrap();
    world.audit = Audit::start(spoolfs::audit::Options {
        state_dir: log.path().to_owned(),
        node: "pbx".into(),
        clock: world.clock.clone(),
    })
    .unwrap();
    world.audit.record_synced(Event::Pinned).unwrap();
    world.restart();
    let id = world.released("out-5551212.wav", &call(6));
    for _ in 0..3 {
        world.archived(&format!("{}.wav", fastrand::u32(..)), b"audio");
        world.until_told();
    }
    crate::snapshots::until_taken(&world);
    world.pass(86_401);
    let kinds = ["/journal/", "/snapshots/", "/heads/", "/lines/"];
    let all = || kinds.iter().all(|kind| told(&world).iter().any(|key| key.contains(kind)));
    world.until("each kind is told", all);
    let sha256 = Sha256::of(&call(6)).to_string();
    for key in told(&world) {
        let bytes = world.object(&key);
        assert!(key.ends_with(".age"), "{key}");
        assert!(spoolfs::codec::seal::is_sealed(&bytes), "{key}");
        assert!(!holds(&bytes, b"5551212") && !holds(&bytes, sha256.as_bytes()), "{key}");
        assert!(!holds(&bytes, b"spoolfs\":"), "{key}");
    }
    // It is whole as far as can be told here; with the key, as far as it goes.
    let notes = world.fsck(false);
    assert!(notes.clean && notes.findings.iter().any(|f| f.rule == 47), "{notes:?}");
    world.identities = secret;
    let whole = world.fsck(false);
    assert!(whole.clean && whole.findings.is_empty() && whole.looked.segments > 0, "{whole:?}");
    world.lose_database();
    let report = world.rebuild(None, &[]).unwrap();
    assert!(report.is_complete() && report.snapshot.is_some(), "{report:?}");
    world.open();
    world.start();
    assert_eq!(content(&world, id, "out-5551212.wav"), call(6));
}

#[test]
fn without_the_key_nothing_is_rebuilt_unless_it_is_lost_for_good() {
    for snapshots in [false, true] {
        let mut world = sealing(&["one"], FLAC);
        let every = Duration::from_secs(1);
        world.snapshots = snapshots.then_some(Snapshots { every, keep: 2 });
        world.restart();
        let local = world.archived("a.wav", &call(8));
        world.until_told();
        if snapshots {
            crate::snapshots::until_taken(&world);
        }
        world.die();
        world.lose_database();
        let secret = world.identities.clone();
        for keys in [Identities::default(), pair().1] {
            world.identities = keys;
            let error = world.rebuild(None, &[]).unwrap_err();
            let words = error.to_string();
            assert!(matches!(error, RebuildError::Locked { .. }), "{words}");
            assert!(words.contains("identity_file") && words.contains("--leave-sealed"), "{words}");
            assert!(!world.database().exists(), "nothing was rebuilt");
        }
        world.leave_sealed = true;
        let report = world.rebuild(None, &[]).unwrap();
        assert!(!report.is_complete() && !report.damage.is_empty(), "{report:?}");
        assert!(report.damage.iter().all(|d| d.reason.contains("sealed")), "{report:?}");
        assert_eq!(report.bad_snapshots.is_empty(), !snapshots);
        world.lose_database();
        (world.identities, world.leave_sealed) = (secret, false);
        assert!(world.rebuild(None, &[]).unwrap().is_complete());
        world.open();
        assert_eq!(world.find("a.wav").unwrap().id, local);
    }
}

/// The answer to a segment is lost; whoever put it can not open what is there.
#[test]
fn a_sealed_segment_whose_answer_was_lost_is_known_again_without_a_key() {
    for sealed_before in [true, false] {
        let mut world = sealing(&["one"], None);
        let secret = std::mem::take(&mut world.identities);
        let to = world.seal_to.clone();
        if !sealed_before {
            world.seal_to = None;
        }
        world.journal_interval = Duration::from_secs(100_000);
        world.restart();
        world.archived("a.wav", b"audio");
        world.store().fail_next_of(".spoolfs/journal/", Operation::Put, 1, Fault::ReplyLost);
        world.pass(100_001);
        world.until_standing(Standing::Down);
        assert!(!world.catalog().journal_pending("one", 10).unwrap().is_empty());
        world.journal_interval = Duration::from_secs(60);
        world.seal_to = to;
        world.restart();
        world.archived("b.wav", b"even more");
        world.until("shipped", || {
            world.pass(61);
            world.catalog().journal_pending("one", 10).unwrap().is_empty()
        });
        assert_eq!(world.catalog().identity().epoch, 1, "it was found to be ours");
        let segments = told(&world);
        let plain = segments.iter().filter(|key| key.ends_with(".jsonl")).count();
        assert_eq!((segments.len(), plain), (2, usize::from(!sealed_before)), "{segments:?}");
        world.identities = secret;
        let report = world.fsck(false);
        assert!(report.clean && report.findings.is_empty(), "{report:?}");
    }
}

/// An older copy of the catalog was put back: the number is used, by rows that it does not know.
#[test]
fn a_sealed_segment_of_another_life_begins_a_new_epoch() {
    let mut world = sealing(&["one"], None);
    world.identities = Identities::default();
    world.journal_interval = Duration::from_secs(100_000);
    world.restart();
    world.archived("a.wav", b"audio");
    let identity = world.catalog().identity();
    let author = Author {
        archive: "other".into(),
        node: identity.node,
        instance: identity.instance,
        epoch: identity.epoch,
    };
    let lines = vec![r#"{"seq":1,"at":"1.0","kind":"pinned","id":1,"path":"x"}"#.to_owned()];
    let segment = Segment::new(&author, 1, 1, 1, lines).unwrap();
    let to = Recipients::parse(&world.seal_to.as_ref().unwrap().keys()).unwrap();
    let shipment = segment.shipment("p/", to.as_ref()).unwrap();
    world.runtime.block_on(journal::ship(world.store(), &shipment, true)).unwrap();
    world.pass(100_001);
    world.until("shipped", || {
        world.pass(100_001);
        world.catalog().journal_pending("one", 10).unwrap().is_empty()
    });
    assert_eq!(world.catalog().identity().epoch, identity.epoch + 1);
    let segments = told(&world);
    assert!(segments[1].ends_with("/000002-0000000001.jsonl.age"), "{segments:?}");
    assert_eq!(world.object(&shipment.key), shipment.bytes, "it is left alone");
}

#[test]
fn a_rebuild_without_journal_and_key_says_what_it_can_not_read() {
    let mut world = sealing(&["one"], FLAC);
    let ids = [world.released("a.wav", &call(8)), world.released("a.txt", b"a sidecar")];
    world.until_told();
    world.die();
    world.lose_database();
    for key in world.store().keys() {
        if key.contains("/journal/") {
            world.store().tamper(&key, None);
        }
    }
    let secret = std::mem::take(&mut world.identities);
    let report = world.rebuild(None, &[]).unwrap();
    assert!(!report.is_complete());
    assert_eq!(report.unknown.len(), 2, "{report:?}");
    assert!(report.unknown.iter().all(|(_, why)| why.contains("sealed")), "{report:?}");
    // With the key they are found the next time.
    world.identities = secret;
    let report = world.rebuild(None, &[]).unwrap();
    assert_eq!(report.unknown.len(), 0, "{report:?}");
    world.open();
    world.start();
    assert_eq!(content(&world, ids[0], "a.wav"), call(8));
    assert_eq!(content(&world, ids[1], "a.txt"), b"a sidecar");
}

#[test]
fn a_snapshot_tells_of_sealed_objects() {
    let mut world = sealing(&["one"], FLAC);
    let every = Duration::from_secs(3600);
    world.snapshots = Some(spoolfs::engine::Snapshots { every, keep: 2 });
    world.restart();
    let id = world.released("a.wav", &call(9));
    let object = verified(&world, id, "one");
    world.until_told();
    let snapshots = || world.store().keys().iter().filter(|k| k.contains("/snapshots/")).count();
    world.until("there is a snapshot", || {
        world.pass(600);
        snapshots() > 0
    });
    world.until_told();
    world.die();
    world.lose_database();
    let report = world.rebuild(None, &[]).unwrap();
    assert!(report.snapshot.is_some(), "{report:?}");
    world.open();
    world.start();
    assert_eq!(verified(&world, id, "one").stored, object.stored);
    assert_eq!(content(&world, id, "a.wav"), call(9));
}

#[test]
fn what_is_sealed_again_is_never_written_over_what_may_have_arrived() {
    for (fault, keys) in [(Fault::ReplyLost, 1), (Fault::Unreachable, 1)] {
        let mut world = sealing(&["one"], None);
        world.until_standing(Standing::Up);
        world.store().fail_next(Operation::Put, 1, fault);
        let id = world.record("a.wav", &audio(300_000, 1));
        world.pass(400);
        let all = |world: &World| world.catalog().objects(id, None).unwrap();
        world.until("the target failed", || {
            !all(&world).is_empty() && world.engine().status().targets[0].standing != Standing::Up
        });
        let tried = all(&world).pop().unwrap();
        world.restart();
        world.pass(400);
        world.until_state(id, State::Archived);
        let object = verified(&world, id, "one");
        let arrived = fault == Fault::ReplyLost;
        assert_eq!(object.key == tried.key, arrived, "what arrived is taken, else another key");
        assert_eq!(world.keys().len(), keys);
        assert_eq!(object.stored.sha256, Sha256::of(&world.object(&object.key)));
        assert_eq!(world.run_one(Command::Release, "a.wav"), Outcome::Done);
        assert_eq!(content(&world, id, "a.wav"), audio(300_000, 1));
    }
}

/// Each try made another file, which needed another key, and the rows of all of them stayed.
#[test]
fn regression_a_target_that_fails_again_and_again_costs_no_keys() {
    for fault in [Fault::Unreachable, Fault::Denied] {
        no_keys_are_spent(fault);
    }
}

fn no_keys_are_spent(fault: Fault) {
    let world = sealing(&["one"], FLAC);
    world.until_standing(Standing::Up);
    world.store().fail_next_of("p/pbx/", Operation::Put, 4, fault);
    let id = world.record("a.wav", &call(10));
    world.until("it is archived in the end", || {
        world.pass(120);
        world.state(id) == State::Archived
    });
    let all = world.catalog().objects(id, None).unwrap();
    assert_eq!(all.len(), 1, "{all:?}");
    assert!(all[0].key.ends_with("/a.wav.flac.age"), "{all:?}");
    assert_eq!(all[0].stored.sha256, Sha256::of(&world.object(&all[0].key)));
    // What was made of an earlier content is of no use to the next.
    world.store().fail_next_of("p/pbx/", Operation::Put, 1, Fault::Unreachable);
    let again = world.record("b.wav", &call(11));
    world.until("it failed", || {
        world.pass(120);
        !world.catalog().objects(again, None).unwrap().is_empty()
    });
    world.overwrite("b.wav", again, &call(12));
    world.until("the newer one is archived", || {
        world.pass(120);
        world.state(again) == State::Archived && world.row(again).generation.0 == 2
    });
    assert_eq!(world.run_one(Command::Release, "b.wav"), Outcome::Done);
    assert_eq!(content(&world, again, "b.wav"), call(12));
}

/// The disk gives other bytes than were hashed, and no program wrote to it.
#[test]
fn what_rots_on_the_disk_is_sealed_as_what_is_there_now() {
    let mut world = World::with(&["one"]);
    world.start();
    world.store().set_down(true);
    let (id, bytes) = (world.record("a.wav", &audio(200_000, 2)), audio(200_000, 2));
    world.until_hashed(id);
    world.die();
    world.open();
    let mut before = Hasher::default();
    before.update(&audio(200_000, 3));
    let (sha256, chunks) = before.finish();
    let row = world.row(id);
    let (version, attr) = (row.hashed.unwrap(), row.attr.clone());
    world.catalog().hashed(id, Digest { sha256, chunks, version, attr }).unwrap();
    world.store().set_down(false);
    (world.seal_to, world.identities) = (Some(pair().0), Identities::default());
    world.start();
    world.pass(400);
    world.until_state(id, State::Archived);
    let object = verified(&world, id, "one");
    assert_eq!((kind(&object).0, object.sha256), (true, Sha256::of(&bytes)));
    assert_eq!(world.keys().len(), 1, "nothing else was stored");
}
