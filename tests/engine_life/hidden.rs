//! `hide_names`: what targets can tell of recordings, and what a machine can that has the name key.

use crate::expiry::{DAY, pass_by, path, rule};
use crate::sealed::pair;
use crate::world::{World, audio};
use spoolfs::catalog::{NewHold, ObjectRow, ObjectState, Scope};
use spoolfs::codec::seal::open_all;
use spoolfs::engine::{Command, Keys, Outcome};
use spoolfs::policy::{ExpireFrom, SealTo};
use spoolfs::recording::{NodeId, Sha256, State};
use spoolfs::store::hidden::{self, NameKey, is_hidden};
use spoolfs::store::memory::{Fault, Operation};
use spoolfs::store::{Store, meta};
use std::fs;
use std::path::{Path, PathBuf};

const DIR: &str = "2026-11-12";
const CALL: &str = "2026-11-12/out-15551234567-HEALTH-1794.7.wav";
const NOTE: &str = "2026-11-12/out-15551234567-HEALTH-1794.7.txt";

/// Sealed, names hidden, in two targets.
fn hiding() -> World {
    let mut world = World::with(&["one", "two"]);
    let (public, secret) = pair();
    (world.seal_to, world.identities) = (Some(public), secret);
    world.rules.hide_names = true;
    world.start();
    world.mkdir(DIR);
    world
}

fn live(world: &World, id: NodeId) -> Vec<ObjectRow> {
    let mut all = world.catalog().objects(id, None).unwrap();
    all.retain(|o| o.state == ObjectState::Verified);
    all
}

fn are_hidden(world: &World, id: NodeId) -> bool {
    let all = live(world, id);
    all.len() == world.stores.len() && all.iter().all(|o| is_hidden(&o.key))
}

/// All that the targets tell without a key: names, metadata, content.
fn told(world: &World) -> String {
    let mut told = String::new();
    for store in &world.stores {
        for key in store.keys() {
            let head = world.runtime.block_on(store.head(&key)).unwrap();
            let bytes = store.bytes(&key).unwrap();
            told += &format!("{key} {:?} {}\n", head.user, String::from_utf8_lossy(&bytes));
        }
    }
    told
}

fn name_key(world: &World) -> NameKey {
    NameKey::load(&world.catalog().state_dir().join(hidden::FILE)).unwrap().unwrap()
}

/// The name keys that a target was given, opened.
fn told_keys(world: &World, target: usize) -> Vec<String> {
    let store = &world.stores[target];
    let prefix = hidden::directory("p/", "pbx");
    let keys = store.keys().into_iter().filter(|key| key.starts_with(&prefix));
    let open = |key: String| open_all(&store.bytes(&key).unwrap(), &world.identities);
    keys.filter_map(|key| Some(String::from_utf8(open(key).ok()?).unwrap())).collect()
}

#[test]
fn targets_tell_nothing_of_a_hidden_recording_and_another_machine_gets_all_back() {
    let mut world = hiding();
    let ids = [world.released(CALL, &audio(90_000, 1)), world.released(NOTE, b"15551234567")];
    assert!(ids.iter().all(|id| are_hidden(&world, *id)));
    world.until_told();
    let told = told(&world);
    let digest = Sha256::of(b"15551234567").to_string();
    let mtime = world.row(ids[0]).attr.mtime.0.to_string();
    for part in ["15551234567", "HEALTH", "1794.", "2026-11", ".wav", ".txt", &digest, &mtime] {
        assert!(!told.contains(part), "{part}: {told}");
    }
    let text = name_key(&world).text();
    assert!(!told.contains(text.trim()), "the name key is in clear");
    assert_eq!(told_keys(&world, 0), [text.to_string()]);
    assert_eq!(told_keys(&world, 1), [text.to_string()]);
    let (tree, before) = (world.tree(), ids.map(|id| live(&world, id)));

    // Burnt, with nothing left but the targets and the secret key.
    world.die();
    world.lose_catalog();
    let report = world.rebuild(Some("pbx"), &[]).unwrap();
    assert!(report.is_complete() && report.released == 2, "{report:?}");
    world.open();
    world.start();
    assert_eq!(world.tree().keys().collect::<Vec<_>>(), tree.keys().collect::<Vec<_>>());
    for (id, before) in ids.into_iter().zip(&before) {
        let keys = |all: &[ObjectRow]| all.iter().map(|o| o.key.clone()).collect::<Vec<_>>();
        assert_eq!(keys(&live(&world, id)), keys(before));
    }
    // It goes on with a key of its own, and opens what the other one sealed.
    let both = name_key(&world).text();
    assert!(both.ends_with(&**text) && both.len() == 2 * text.len());
    let id = world.released("next.wav", &audio(900, 2));
    assert!(are_hidden(&world, id));
    assert!(told_keys(&world, 0).iter().any(|told| told == &*both));
    assert_eq!(world.run_one(Command::Recall, NOTE), Outcome::Done);
    assert_eq!(fs::read(world.below(NOTE)).unwrap(), b"15551234567");
    world.until_told();
    let report = world.fsck(false);
    assert!(report.clean, "{:?}", report.findings);
}

#[test]
fn hidden_objects_that_no_journal_tells_of_say_who_they_are_to_who_has_the_key() {
    let mut world = hiding();
    let id = world.released(CALL, &audio(900, 1));
    world.die();
    world.lose_catalog();
    for store in &world.stores {
        for key in store.keys().iter().filter(|key| key.contains(".spoolfs/journal/")) {
            store.tamper(key, None);
        }
    }
    // Without a key nothing is told, and nothing is touched.
    let secret = std::mem::take(&mut world.identities);
    let report = world.rebuild(Some("pbx"), &[]).unwrap();
    assert_eq!((report.unknown.len(), report.released), (2, 0), "{report:?}");
    assert!(report.unknown.iter().all(|(_, why)| why.contains("metadata is sealed")), "{report:?}");
    world.identities = secret;
    let report = world.rebuild(Some("pbx"), &[]).unwrap();
    assert_eq!((report.unknown.len(), report.released), (0, 1), "{report:?}");
    assert_eq!(report.found, [PathBuf::from(CALL)]);
    world.open();
    world.start();
    assert_eq!(world.find(CALL).map(|row| row.id), Some(id));
    assert_eq!(world.run_one(Command::Recall, CALL), Outcome::Done);
    assert_eq!(fs::read(world.below(CALL)).unwrap(), audio(900, 1));
}

#[test]
fn what_was_given_before_an_answer_was_lost_is_found_under_the_same_name() {
    let mut world = hiding();
    world.required = vec!["one".into()];
    world.restart();
    world.store().fail_next_of("p/pbx/", Operation::Put, 1, Fault::ReplyLost);
    let id = world.record("a.wav", &audio(900, 1));
    world.pass(400);
    world.until_state(id, State::Archived);
    assert_eq!(world.keys().len(), 1, "{:?}", world.keys());
    let object = live(&world, id).into_iter().find(|o| o.target == "one").unwrap();
    let named = hidden::Named::Recording(id, object.generation, Sha256::of(&audio(900, 1)));
    assert_eq!(object.key, name_key(&world).keys("p/", "pbx", named, &[])[0]);
    // Of another generation it is another, and what is in the way stays.
    world.overwrite("a.wav", id, &audio(900, 2));
    world.until_hashed(id);
    let next = hidden::Named::Recording(id, world.row(id).generation, Sha256::of(&audio(900, 2)));
    let taken = name_key(&world).keys("p/", "pbx", next, &[]).remove(0);
    world.store().tamper(&taken, Some(b"of somebody else"));
    world.pass(400);
    world.until("it is archived again", || live(&world, id).len() >= 2);
    world.until_state(id, State::Archived);
    assert_eq!(world.object(&taken), b"of somebody else");
    let new = live(&world, id).into_iter().find(|o| o.target == "one" && o.key != object.key);
    assert!(is_hidden(&new.unwrap().key));
}

#[test]
fn a_target_has_the_name_key_before_anything_hidden_and_gets_it_anew_for_other_keys() {
    let mut world = hiding();
    world.required = vec!["one".into()];
    world.restart();
    // Long enough for the pause after a failure to be over.
    world.store().fail_next_of("p/.spoolfs/names/", Operation::Put, 1, Fault::Denied);
    let id = world.record("a.wav", &audio(900, 1));
    world.pass(400);
    world.until("it was tried", || world.catalog().trouble_of(id).unwrap().is_some());
    assert_eq!(world.keys(), [""; 0]);
    world.pass(3600);
    world.until_state(id, State::Archived);
    assert_eq!(told_keys(&world, 0).len(), 1);
    // Another daemon does not tell it again; one with other keys does.
    world.restart();
    world.archived("b.wav", &audio(900, 2));
    assert_eq!(told_keys(&world, 0).len(), 1);
    let old = name_key(&world).text().to_string();
    let (public, secret) = pair();
    let before = std::mem::replace(&mut world.identities, secret);
    world.seal_to = Some(public);
    world.restart();
    world.archived("c.wav", &audio(900, 3));
    // Who has the key that was given up opens what was named, not what is named from now on.
    let new = name_key(&world).text().to_string();
    assert!(new.ends_with(&old) && new.lines().count() == 2);
    assert_eq!(told_keys(&world, 0), std::slice::from_ref(&new));
    let given_up = std::mem::replace(&mut world.identities, before);
    assert_eq!(told_keys(&world, 0), [old], "that for the old keys stays");
    world.identities = given_up;
    // A copy may be deleted there, or moved to an archive class.
    world.pass(8 * DAY);
    world.archived("d.wav", &audio(900, 4));
    assert_eq!(told_keys(&world, 0), [new.clone(), new]);
}

#[test]
fn a_damaged_name_key_keeps_recordings_local_and_says_so() {
    let mut world = hiding();
    let first = world.archived("a.wav", &audio(900, 1));
    let file = world.catalog().state_dir().join(hidden::FILE);
    let text = fs::read(&file).unwrap();
    fs::write(&file, "rubbish").unwrap();
    world.restart();
    let id = world.record("b.wav", &audio(900, 2));
    world.pass(400);
    world.until("it was tried", || world.catalog().trouble_of(id).unwrap().is_some());
    let said = world.catalog().trouble_of(id).unwrap().unwrap().error;
    assert!(said.contains("names.key") && said.contains("put it back"), "{said}");
    assert_eq!(world.run_one(Command::Verify, "a.wav"), Outcome::Done, "what is there is read");
    fs::write(&file, text).unwrap();
    world.pass(3600);
    world.until_state(id, State::Archived);
    assert!(are_hidden(&world, id) && are_hidden(&world, first));
}

#[test]
fn hidden_recordings_expire_on_a_machine_that_can_not_read_them_and_not_without_the_name_key() {
    let mut world = hiding();
    world.identities = Default::default();
    world.rules.policies = vec![rule("short", path("*.wav"), Some(3), ExpireFrom::Close)];
    for policy in &mut world.rules.policies {
        policy.treatment.seal_to = world.seal_to.clone();
    }
    world.restart();
    world.until("the rules are known", || world.engine().expiry_halted().is_some());
    let id = world.released("a.wav", &audio(900, 1));
    assert!(are_hidden(&world, id));
    let file = world.catalog().state_dir().join(hidden::FILE);
    let aside = file.with_extension("aside");
    fs::rename(&file, &aside).unwrap();
    world.restart();
    pass_by(&world, 4 * DAY);
    world.until("it is kept", || {
        let done = world.engine().expire(true, true).unwrap();
        assert_eq!(done.files, 0, "{done:?}");
        done.why.is_some_and(|why| why.contains("metadata is sealed"))
    });
    assert!(world.find("a.wav").is_some());
    fs::rename(&aside, &file).unwrap();
    for store in &world.stores {
        store.fail_next(Operation::Delete, 100, Fault::Unreachable);
    }
    world.restart();
    world.until("it expires", || {
        world.engine().expire(true, true).unwrap();
        world.find("a.wav").is_none()
    });
    // regression: without the key it was forgotten here that there are objects.
    fs::rename(&file, &aside).unwrap();
    world.stores.iter().for_each(|store| store.fail_no_more());
    world.restart();
    let purged = || world.engine().expire(true, true).unwrap().why.unwrap_or_default();
    world.until("its objects are kept in mind", || purged().contains("metadata is sealed"));
    fs::rename(&aside, &file).unwrap();
    world.restart();
    world.until("its objects are gone", || {
        world.engine().expire(true, true).unwrap();
        world.stores.iter().all(|s| !s.keys().iter().any(|key| is_hidden(key)))
    });
}

fn reseal(world: &World) -> usize {
    let (summary, _) =
        world.engine().reseal(&Keys::default(), false, &[PathBuf::new()], &|_| ()).unwrap();
    assert_eq!(summary.failed, 0);
    summary.done
}

#[test]
fn a_reseal_hides_names_and_shows_them_again_and_a_mixed_archive_is_whole() {
    let mut world = hiding();
    world.rules.hide_names = false;
    world.restart();
    let old = world.released(CALL, &audio(900, 1));
    let clear = live(&world, old);
    assert!(clear.iter().all(|o| o.key.contains("15551234567") && !is_hidden(&o.key)));
    world.rules.hide_names = true;
    world.restart();
    let new = world.released("new.wav", &audio(900, 2));
    assert!(are_hidden(&world, new) && !are_hidden(&world, old));
    // What is there stays readable, and what rots in a target is replaced under a hidden name.
    let path = |o: &ObjectRow| o.key.clone();
    world.store().tamper(&clear[0].key, Some(b"rot"));
    let outcome = world.run_one(Command::Verify, CALL);
    assert!(matches!(&outcome, Outcome::Failed(why) if why.contains("replaced")), "{outcome:?}");
    let now = live(&world, old);
    assert!(is_hidden(&now[0].key) && path(&now[1]) == path(&clear[1]), "{now:?}");
    world.until_told();
    assert!(world.fsck(false).clean);
    world.lose_database();
    world.rebuild(None, &[]).unwrap();
    world.open();
    world.start();
    world.until("all targets are up", || {
        world.engine().status().targets.iter().all(|t| t.standing.word() == "up")
    });

    assert_eq!(reseal(&world), 2, "all that there was");
    assert_eq!(reseal(&world), 0);
    assert!(are_hidden(&world, old) && are_hidden(&world, new));
    world.until_told();
    world.pass(3700);
    world.until("the old object is gone", || world.stores[1].bytes(&clear[1].key).is_none());
    assert_eq!(world.run_one(Command::Recall, CALL), Outcome::Done);
    assert_eq!(fs::read(world.below(CALL)).unwrap(), audio(900, 1));
    world.rules.hide_names = false;
    world.restart();
    world.until("all targets are up", || {
        world.engine().status().targets.iter().all(|t| t.standing.word() == "up")
    });
    assert_eq!(reseal(&world), 2);
    assert!(live(&world, old).iter().all(|o| !is_hidden(&o.key)));
    world.until_told();
    assert!(world.fsck(false).clean);
}

#[test]
fn what_a_rule_does_not_seal_keeps_its_name() {
    let mut world = hiding();
    let mut plain = rule("plain", path("training/**"), None, ExpireFrom::Close);
    plain.treatment.seal_to = None::<SealTo>;
    world.rules.policies = vec![plain];
    world.restart();
    world.mkdir("training");
    let clear = world.archived("training/a.wav", &audio(900, 1));
    let hid = world.archived("b.wav", &audio(900, 2));
    assert!(live(&world, clear).iter().all(|o| o.key == "p/pbx/training/a.wav"));
    assert!(are_hidden(&world, hid));
    let key = &live(&world, clear)[0].key;
    let head = world.runtime.block_on(world.store().head(key)).unwrap();
    assert_eq!(meta::Label::from_user(&head.user).unwrap().id, clear);
}

#[test]
fn a_hidden_object_is_locked_while_it_is_held_unless_another_took_its_place() {
    let mut world = hiding();
    world.store().set_locks(true);
    world.restart();
    let ids = [world.archived("a.wav", &audio(900, 1)), world.archived("b.wav", &audio(900, 2))];
    let keys = ids.map(|id| live(&world, id).remove(0).key);
    // As long as it was, with the metadata of the other.
    let (other, head) = (world.object(&keys[0]), world.store().head(&keys[0]));
    let head = world.runtime.block_on(head).unwrap();
    world.runtime.block_on(world.store().delete(&keys[1])).unwrap();
    let meta = spoolfs::store::ObjectMeta { user: head.user, ..Default::default() };
    let (sha256, body) = (Sha256::of(&other), spoolfs::store::Body::Bytes(other.into()));
    world.runtime.block_on(world.store().put(&keys[1], body, sha256, &meta)).unwrap();
    let scope = Scope::of_paths([Path::new("a.wav")]);
    let new = NewHold { case: "A".into(), reason: "a letter".into(), by: "eve".into(), scope };
    let paths = [PathBuf::from("a.wav"), PathBuf::from("b.wav")];
    let hold = world.engine().hold(&new, &paths, &|_, _| (), &|_| ()).unwrap().id;
    world.until("one is locked", || world.store().is_locked(&keys[0]));
    world.until("the other is told of", || {
        let counts = world.catalog().lock_counts(hold).unwrap();
        counts["one"].error.as_ref().is_some_and(|why| why.contains("another object"))
    });
    assert!(!world.store().is_locked(&keys[1]));
}
