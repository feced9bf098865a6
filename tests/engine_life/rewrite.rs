//! Storing archived recordings anew: what is gained, what is left as it is, and when the old objects go.

use crate::sealed::pair;
use crate::world::{World, audio};
use spoolfs::audit::{self, Audit};
use spoolfs::catalog::{NewHold, ObjectRow, ObjectState, Remedy, Scope};
use spoolfs::codec::seal::{Identities, open_all};
use spoolfs::codec::{Coding, wav_header};
use spoolfs::engine::{Command, Gain, Keys, Outcome, Summary};
use spoolfs::policy::{Compress, Rules, SealTo};
use spoolfs::recording::{Encoding, NodeId, State};
use spoolfs::store::memory::{Fault, Operation};
use spoolfs::units::Percent;
use std::path::{Path, PathBuf};
use std::time::Duration;

const FLAC: Option<Compress> = Some(Compress::Flac { min_gain: Percent(10) });
/// Longer than an old object stays.
const LATER: u64 = 3700;

fn call(seed: u64) -> Vec<u8> {
    let bytes = 400_000;
    let mut wav = wav_header(Coding::Pcm16, 8000, 1, bytes);
    let mut random = fastrand::Rng::with_seed(seed);
    let tone = |n: u64| ((n as f64 / 9.0).sin() * 3000.0) as i16 + random.i16(-90..90);
    wav.extend((0..bytes / 2).map(tone).flat_map(i16::to_le_bytes));
    wav
}

/// Local copies stay; what is archived from now on is FLAC.
fn compress(world: &mut World) {
    world.rules.keep_local = None;
    world.compress = FLAC;
    world.engine().reload(Rules { compress: FLAC, ..world.rules.clone() });
}

fn recompress(world: &World, plan: bool) -> (Summary, Gain) {
    world.engine().recompress(plan, &[PathBuf::new()], &|_| ()).unwrap()
}

fn verified(world: &World, id: NodeId) -> Vec<ObjectRow> {
    let mut all = world.catalog().objects(id, None).unwrap();
    all.retain(|o| o.state == ObjectState::Verified);
    all
}

fn are_flac(objects: &[ObjectRow]) -> bool {
    objects.iter().all(|o| matches!(o.stored.encoding, Encoding::Flac(Some(_))))
}

fn has(world: &World, object: &ObjectRow) -> bool {
    let store = world.stores.iter().find(|s| spoolfs::store::Store::name(&***s) == object.target);
    store.unwrap().bytes(&object.key).is_some()
}

#[test]
fn what_is_plain_is_stored_anew_in_each_target_and_the_old_objects_go() {
    let mut world = World::with(&["one", "two"]);
    world.start();
    let released = world.released("a.wav", &call(1));
    compress(&mut world);
    world.engine().reload(Rules { compress: None, ..world.rules.clone() });
    let local = world.archived("b.wav", &call(2));
    let header = wav_header(Coding::Pcm16, 8000, 1, 300_000);
    world.archived("noise.wav", &[header, audio(300_000, 1)].concat());
    world.archived("note.txt", b"a sidecar");
    compress(&mut world);
    let already = world.archived("flac.wav", &call(3));
    let old: Vec<_> = [released, local].iter().flat_map(|id| verified(&world, *id)).collect();
    assert_eq!(old.len(), 4);
    let keys = world.store().keys().len();

    // Noise is known to be noise only when it was tried.
    let (summary, gain) = recompress(&world, true);
    assert_eq!((summary.done, summary.already, summary.failed), (3, 2, 0));
    assert_eq!(gain.before, 2 * (2 * call(1).len() as u64 + 300_044));
    assert_eq!((gain.after, world.store().keys().len()), (gain.before / 2, keys));

    let (summary, gain) = recompress(&world, false);
    assert_eq!((summary.done, summary.already, summary.failed), (2, 3, 0));
    let new: Vec<_> = [released, local].iter().flat_map(|id| verified(&world, *id)).collect();
    assert!(new.len() == 4 && are_flac(&new), "{new:?}");
    let sizes = |all: &[ObjectRow]| all.iter().map(|o| o.stored.size).sum::<u64>();
    assert_eq!((gain.before, gain.after), (sizes(&old), sizes(&new)));
    assert!(gain.after * 10 < gain.before * 8, "{gain:?}");
    assert!(old.iter().all(|o| has(&world, o)), "they stay for those who read them");
    assert_eq!(recompress(&world, false).0.done, 0);

    world.until_told();
    world.pass(LATER);
    world.until("the old objects are gone", || !old.iter().any(|o| has(&world, o)));
    assert!(new.iter().all(|o| has(&world, o)));
    assert!(are_flac(&verified(&world, already)));
    for name in ["a.wav", "b.wav"] {
        assert_eq!(world.run_one(Command::Verify, name), Outcome::Done);
    }
    assert_eq!(world.state(released), State::Released);
    assert_eq!(world.run_one(Command::Recall, "a.wav"), Outcome::Done);
    assert_eq!(std::fs::read(world.below("a.wav")).unwrap(), call(1));
    world.until_told();
    let report = world.fsck(true);
    assert!(report.clean, "{:?}", report.findings);
    // Who loses the catalog has them as they are.
    world.lose_database();
    world.rebuild(None, &[]).unwrap();
    world.open();
    world.start();
    let found = verified(&world, released);
    assert!(found.len() == 2 && are_flac(&found), "{found:?}");
}

/// It was looked for again after five minutes only.
#[test]
fn regression_what_a_target_lacks_while_somebody_works_on_it_is_brought_soon_after() {
    let mut world = World::with(&["one", "two"]);
    world.start();
    compress(&mut world);
    world.engine().reload(Rules { compress: None, ..world.rules.clone() });
    let id = world.archived("a.wav", &call(1));
    let second = verified(&world, id).into_iter().find(|o| o.target == "two").unwrap();
    assert_eq!(world.catalog().object_bad(&second, false).unwrap(), Remedy::Local);
    compress(&mut world);
    let puts = world.store().calls(Operation::Put);
    world.store().set_paused(true);
    std::thread::scope(|scope| {
        let rewriting = scope.spawn(|| recompress(&world, false));
        world.until("it is being written", || world.store().calls(Operation::Put) > puts);
        // What targets lack is looked for.
        world.engine().reload(Rules { compress: FLAC, ..world.rules.clone() });
        world.idle();
        world.store().set_paused(false);
        assert_eq!(rewriting.join().unwrap().0.done, 1);
    });
    world.until("the other has it, too", || verified(&world, id).len() == 2);
}

fn hold(world: &World, path: &str) {
    let scope = Scope::of_paths([Path::new(path)]);
    let new = NewHold { case: "A".into(), reason: "a letter".into(), by: "eve".into(), scope };
    world.engine().hold(&new, &[PathBuf::from(path)], &|_, _| (), &|_| ()).unwrap();
}

#[test]
fn what_is_on_hold_is_left_as_it_is_and_so_is_the_old_object_of_what_is_held_later() {
    let mut world = World::with(&["one"]);
    world.start();
    let ids = ["held.wav", "later.wav", "free.wav"].map(|name| world.released(name, &call(1)));
    let old = ids.map(|id| verified(&world, id).remove(0));
    hold(&world, "held.wav");
    compress(&mut world);
    assert_eq!(recompress(&world, true).1.held, 1);
    let (summary, gain) = recompress(&world, false);
    assert_eq!((summary.done, summary.already, gain.held), (2, 1, 1));
    assert_eq!(verified(&world, ids[0]), [old[0].clone()]);
    hold(&world, "later.wav");
    world.until_told();
    world.pass(LATER);
    world.until("that of the free one is gone", || !has(&world, &old[2]));
    world.pass(60);
    world.idle();
    assert!(has(&world, &old[0]) && has(&world, &old[1]));
    assert!(are_flac(&verified(&world, ids[1])));
}

#[test]
fn an_old_object_stays_until_the_new_one_is_told_and_right() {
    let mut world = World::with(&["one"]);
    world.journal_interval = Duration::from_secs(100_000);
    world.start();
    let ids = ["a.wav", "b.wav"].map(|name| world.released(name, &call(1)));
    let old = ids.map(|id| verified(&world, id).remove(0));
    compress(&mut world);
    assert_eq!(recompress(&world, false).0.done, 2);
    let new = ids.map(|id| verified(&world, id).remove(0));
    world.pass(LATER);
    world.pass(60);
    world.idle();
    assert!(old.iter().all(|o| has(&world, o)), "a rebuild would know of nothing else");
    // The one that took its place rots.
    let mut rotten = world.object(&new[1].key);
    rotten[10_000] ^= 1;
    world.store().tamper(&new[1].key, Some(&rotten));
    world.pass(100_001);
    world.until("that of the good one is gone", || {
        world.pass(60);
        !has(&world, &old[0])
    });
    world.pass(60);
    world.idle();
    assert!(has(&world, &old[1]));
}

/// The line is written before the object goes, so it must be known before that it can go; and a
/// target that refuses is not asked twice a minute.
#[test]
fn regression_an_old_object_that_can_not_be_asked_for_is_not_on_record_as_removed() {
    let (mut world, state) = (World::with(&["one"]), tempfile::tempdir().unwrap());
    let (state_dir, node) = (state.path().to_owned(), world.node.clone());
    let options = spoolfs::audit::Options { state_dir, node, clock: world.clock.clone() };
    let audit = spoolfs::audit::Audit::start(options).unwrap();
    world.audit = audit.clone();
    world.start();
    let id = world.released("a.wav", &call(1));
    let old = verified(&world, id);
    compress(&mut world);
    assert_eq!(recompress(&world, false).0.done, 1);
    let removed = || {
        audit.flush();
        let all = spoolfs::audit::Filter { limit: 1000, ..Default::default() };
        let dir = spoolfs::audit::directory(state.path());
        let shown = spoolfs::audit::show(&dir, &all).unwrap();
        shown.lines.iter().filter(|line| line["event"] == "object_removed").count()
    };
    world.until_told();
    world.store().fail_next_of("a.wav", Operation::Head, 100_000, Fault::Denied);
    world.pass(LATER);
    let before = world.store().calls(Operation::Head);
    world.until("it is asked for", || world.store().calls(Operation::Head) > before);
    for _ in 0..6 {
        world.pass(31);
        world.idle();
    }
    let asked = world.store().calls(Operation::Head) - before;
    assert!(asked < 3, "{asked} times in three minutes");
    assert!(has(&world, &old[0]));
    assert_eq!(removed(), 0);
    world.store().fail_no_more();
    world.pass(3601);
    world.until("it is gone", || !has(&world, &old[0]));
    world.until("it is on record", || removed() == 1);
}

#[test]
fn a_rebuild_does_not_forget_the_objects_that_others_took_the_place_of() {
    // By the journal, or by a snapshot that knows nothing of the old ones any more.
    for snapshot in [false, true] {
        goes_after_a_rebuild(snapshot);
    }
}

fn goes_after_a_rebuild(snapshot: bool) {
    let mut world = World::with(&["one", "two"]);
    world.start();
    let id = world.released("a.wav", &call(1));
    // A bad copy that was replaced is no such object.
    let bad = world.released("bad.wav", b"no audio at all");
    let spoilt = verified(&world, bad).remove(0);
    world.stores[0].tamper(&spoilt.key, Some(b"No audio at all"));
    assert!(matches!(world.run_one(Command::Verify, "bad.wav"), Outcome::Failed(_)));
    let old = verified(&world, id);
    compress(&mut world);
    assert_eq!(recompress(&world, false).0.done, 1);
    world.until_told();
    let new = verified(&world, id);
    if snapshot {
        crate::snapshots::taking(&mut world, 3);
        crate::snapshots::until_taken(&world);
        world.snapshots = None;
    }
    assert!(old.len() == 2 && old.iter().chain(&new).all(|o| has(&world, o)));

    world.die();
    world.lose_database();
    let report = world.rebuild(None, &[]).unwrap();
    assert!(report.is_complete(), "{report:?}");
    world.open();
    world.start();
    // The journal goes on.
    world.archived("later.wav", b"a recording after that");
    world.until_told();
    assert!(old.iter().all(|o| has(&world, o)), "as long as they stay without a rebuild");
    world.pass(LATER);
    world.until("the old objects are gone", || !old.iter().any(|o| has(&world, o)));
    assert!(new.iter().chain([&spoilt]).all(|o| has(&world, o)));
    assert_eq!(world.run_one(Command::Recall, "a.wav"), Outcome::Done);
    assert_eq!(std::fs::read(world.below("a.wav")).unwrap(), call(1));
}

#[test]
fn what_leaves_and_can_not_be_read_is_not_on_record_as_removed() {
    let state = tempfile::tempdir().unwrap();
    let mut world = World::with(&["one"]);
    let audit = Audit::start(audit::Options {
        state_dir: state.path().to_owned(),
        node: world.node.clone(),
        clock: world.clock.clone(),
    });
    world.audit = audit.unwrap();
    world.start();
    let id = world.released("a.wav", &call(1));
    let old = verified(&world, id).remove(0);
    compress(&mut world);
    assert_eq!(recompress(&world, false).0.done, 1);
    world.until_told();
    world.store().set_key_lost(&old.key, true);
    let removed = || {
        world.audit.flush();
        let files = std::fs::read_dir(state.path().join("audit")).unwrap();
        let read = |file: std::fs::DirEntry| std::fs::read(file.path()).unwrap_or_default();
        let text: Vec<u8> = files.flat_map(|file| read(file.unwrap())).collect();
        String::from_utf8_lossy(&text).matches("object_removed").count()
    };
    let asked = world.store().calls(Operation::Head);
    world.pass(LATER);
    world.until("it is asked for", || {
        world.pass(31);
        world.store().calls(Operation::Head) > asked + 3
    });
    assert_eq!((removed(), has(&world, &old)), (0, true));
    world.store().set_key_lost(&old.key, false);
    world.until("with the key it goes", || {
        world.pass(31);
        !has(&world, &old)
    });
    world.until("and that is on record", || removed() == 1);
}

#[test]
fn what_one_target_does_not_take_is_stored_anew_in_none() {
    for fault in [Fault::Unreachable, Fault::ReplyLost, Fault::Denied] {
        let mut world = World::with(&["one", "two"]);
        world.start();
        let id = world.released("a.wav", &call(1));
        let old = verified(&world, id);
        compress(&mut world);
        world.stores[1].fail_next_of("p/pbx/", Operation::Put, 1, fault);
        let (summary, gain) = recompress(&world, false);
        assert_eq!((summary.failed, gain), (1, Gain::default()), "{fault:?}");
        assert_eq!(verified(&world, id), old, "{fault:?}");
        // What the first one took goes, and what the second one may have.
        let count = || world.stores.iter().map(|s| s.keys().len()).sum::<usize>();
        world.until_told();
        world.pass(LATER);
        let recordings =
            |keys: Vec<String>| keys.iter().filter(|k| !k.contains("/.spoolfs/")).count();
        world.until("nothing is left of it", || {
            world.pass(60);
            world.stores.iter().all(|s| recordings(s.keys()) == 1)
        });
        assert!(count() > 2 && old.iter().all(|o| has(&world, o)), "{fault:?}");
        world.until("the target is asked again", || {
            world.pass(60);
            recompress(&world, false).0.done == 1
        });
        assert!(are_flac(&verified(&world, id)));
    }
}

#[test]
fn what_is_sealed_is_sealed_anew_and_never_opened_for_good() {
    let mut world = World::with(&["one"]);
    let (to, key) = pair();
    (world.seal_to, world.identities) = (Some(to.clone()), key);
    world.start();
    let id = world.released("a.wav", &call(1));
    compress(&mut world);
    let plain = Rules { compress: FLAC, ..world.rules.clone() };
    world.engine().reload(plain.clone());
    assert_eq!(recompress(&world, false).0.already, 1, "it stays sealed");
    world.engine().reload(Rules { seal_to: Some(to), ..plain });
    assert_eq!(recompress(&world, false).0.done, 1);
    let new = verified(&world, id).remove(0);
    let Encoding::Sealed(sealed) = &new.stored.encoding else { panic!("{new:?}") };
    assert!(matches!(sealed.inner(), Encoding::Flac(Some(_))) && new.key.ends_with(".flac.age"));
    assert_eq!(world.run_one(Command::Recall, "a.wav"), Outcome::Done);
    assert_eq!(std::fs::read(world.below("a.wav")).unwrap(), call(1));
}

fn reseal(world: &World, keys: &Keys) -> spoolfs::engine::Result<Summary> {
    world.engine().reseal(keys, false, &[PathBuf::new()], &|_| ()).map(|(summary, _)| summary)
}

fn opens(world: &World, object: &ObjectRow, key: &Identities) -> bool {
    open_all(&world.object(&object.key), key).is_ok()
}

/// Both keys of somebody who has them for a time.
fn sealing_to(world: &mut World, to: &SealTo) {
    world.seal_to = Some(to.clone());
    world.engine().reload(Rules {
        seal_to: Some(to.clone()),
        compress: world.compress,
        ..world.rules.clone()
    });
}

#[test]
fn what_is_sealed_is_sealed_to_other_keys_and_what_was_not_is() {
    let mut world = World::with(&["one", "two"]);
    let ((old, old_key), (new, new_key)) = (pair(), pair());
    world.identities = old_key.clone();
    world.start();
    let plain = world.released("plain.wav", &call(1));
    world.compress = FLAC;
    sealing_to(&mut world, &old);
    let sealed = world.released("sealed.wav", &call(2));
    let note = world.released("note.txt", b"a sidecar");
    let before = [plain, sealed, note].map(|id| verified(&world, id).remove(0));
    // Nobody seals anew what would be sealed as before the next minute.
    let keys = Keys { added: new.keys(), removed: old.keys() };
    for (keys, why) in [
        (Keys { removed: Vec::new(), ..keys.clone() }, "no rule seals to"),
        (Keys { added: Vec::new(), ..keys.clone() }, "still sealed to"),
    ] {
        let error = reseal(&world, &keys).unwrap_err().to_string();
        assert!(error.contains(why), "{error}");
    }
    sealing_to(&mut world, &new);
    let summary = reseal(&world, &keys).unwrap();
    assert_eq!((summary.done, summary.failed), (3, 0));
    for (id, old) in [plain, sealed, note].into_iter().zip(&before) {
        let now = verified(&world, id);
        assert_eq!(now.len(), 2);
        assert!(now[0].key != old.key && opens(&world, &now[0], &new_key), "{now:?}");
        assert!(!opens(&world, &now[0], &old_key));
        let Encoding::Sealed(sealed) = &now[0].stored.encoding else { panic!("{now:?}") };
        let is_flac = matches!(sealed.inner(), Encoding::Flac(Some(_)));
        assert_eq!(is_flac, id != note, "as its rule says now");
    }
    // Given again it goes on where it was, also for what comes then.
    let later = world.released("later.wav", &call(3));
    let summary = reseal(&world, &keys).unwrap();
    assert_eq!((summary.done, summary.already), (0, 4));
    assert!(opens(&world, &verified(&world, later)[0], &new_key));
    // The old objects go with the old key.
    world.until_told();
    world.pass(LATER);
    world.until("the old objects are gone", || !before.iter().any(|o| has(&world, o)));
    world.identities = new_key;
    world.restart();
    world.until_standing(spoolfs::engine::Standing::Up);
    for (id, name, bytes) in [(plain, "plain.wav", call(1)), (sealed, "sealed.wav", call(2))] {
        assert_eq!(world.state(id), State::Released);
        assert_eq!(world.run_one(Command::Recall, name), Outcome::Done);
        assert_eq!(std::fs::read(world.below(name)).unwrap(), bytes, "{name}");
    }
}

#[test]
fn without_a_key_only_what_is_local_is_sealed_anew() {
    let mut world = World::with(&["one"]);
    let ((old, _lost), (new, new_key)) = (pair(), pair());
    world.start();
    sealing_to(&mut world, &old);
    let released = world.released("released.wav", &call(1));
    world.rules.keep_local = None;
    sealing_to(&mut world, &new);
    sealing_to(&mut world, &old);
    let local = world.archived("local.wav", &call(2));
    sealing_to(&mut world, &new);
    let told = parking_lot::Mutex::new(Vec::new());
    let tell = |p: &spoolfs::engine::Progress| told.lock().push(p.outcome.clone());
    let (summary, _) =
        world.engine().reseal(&Keys::default(), false, &[PathBuf::new()], &tell).unwrap();
    assert_eq!((summary.done, summary.failed), (1, 1));
    let locked = |o: &Outcome| matches!(o, Outcome::Failed(why) if why.contains("sealed"));
    assert!(told.lock().iter().any(locked), "{told:?}");
    assert!(opens(&world, &verified(&world, local)[0], &new_key));
    assert!(!opens(&world, &verified(&world, released)[0], &new_key));
}

/// A copy of what was sealed to the old keys is as old as that, whenever it was made.
#[test]
fn what_was_replaced_from_an_old_copy_is_sealed_anew_all_the_same() {
    let mut world = World::with(&["one", "two"]);
    let ((old, old_key), (new, new_key)) = (pair(), pair());
    world.identities = old_key;
    world.start();
    sealing_to(&mut world, &old);
    let id = world.released("a.wav", &call(1));
    let objects = verified(&world, id);
    sealing_to(&mut world, &new);
    // A run is begun, and does not come to this one.
    world.engine().reseal(&Keys::default(), false, &[PathBuf::from("no.wav")], &|_| ()).unwrap();
    world.store().tamper(&objects[0].key, None);
    let outcome = world.run_one(Command::Verify, "a.wav");
    assert!(matches!(&outcome, Outcome::Failed(why) if why.contains("replaced")), "{outcome:?}");
    assert_eq!(reseal(&world, &Keys::default()).unwrap().done, 1);
    let now = verified(&world, id);
    assert_eq!(now.len(), 2);
    assert!(opens(&world, &now[0], &new_key));
}
