//! The disk refuses to sync. Calls of the whole process fail, so these tests take turns.

#![cfg(feature = "faults")]
#![allow(clippy::unwrap_used)]

#[path = "support/mod.rs"]
mod support;
#[path = "engine_life/world.rs"]
#[allow(dead_code, reason = "made for more than these tests")]
mod world;

use bytes::Bytes;
use spoolfs::engine::{Command, Outcome};
use spoolfs::faults;
use spoolfs::lower::Lower;
use spoolfs::recording::{Generation, NodeId, Sha256, State};
use spoolfs::store::file::FileStore;
use spoolfs::store::{Body, ObjectMeta, Store};
use std::fs::File;
use std::io::Write;
use std::sync::{Mutex, MutexGuard};
use support::mount::Setup;
use world::{World, audio};

/// A directory that is merely there may have been made a moment ago by a daemon that died before it
/// synced it: an object in it did not survive a power cut, although its own directory was synced.
#[test]
fn regression_each_level_of_a_targets_directories_is_synced_once() {
    let _turn = Turn::take();
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir_all(dir.path().join("pbx/2026")).unwrap();
    let store = FileStore::new("t", dir.path().to_owned());
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let put = |key: &str| {
        let body = Body::Bytes(Bytes::from_static(b"audio"));
        let sha256 = Sha256::of(b"audio");
        runtime.block_on(store.put(key, body, sha256, &ObjectMeta::default()))
    };
    faults::set("").unwrap();
    put("pbx/2026/a.wav").unwrap();
    // Below the root: pbx, 2026; .spoolfs, its tmp, its meta with both again; and both new names.
    assert_eq!(faults::passed("store.sync_dir"), 9);
    put("pbx/2026/b.wav").unwrap();
    assert_eq!(faults::passed("store.sync_dir"), 11, "the names alone");
    faults::set("store.sync_dir:1:EIO").unwrap();
    put("pbx/2027/c.wav").unwrap_err();
}

/// What the comparison after a start left out was never archived, nor tried again before the next start.
#[test]
fn regression_what_could_not_be_taken_over_for_a_moment_is_taken_over_later() {
    let _turn = Turn::take();
    // No room for an identity, of a directory and of a file; a directory and a name that can not be read.
    for fault in ["lower.adopt:1:ENOSPC", "lower.adopt:2:ENOSPC", "lower.list:2:EIO"] {
        let mut world = World::with(&["one"]);
        std::fs::create_dir(world.below("d")).unwrap();
        std::fs::write(world.below("d/a.wav"), b"audio").unwrap();
        faults::set(fault).unwrap();
        world.start();
        world.until_reconciled();
        assert_eq!((faults::fired(), world.engine().status().left_out), (1, 1), "{fault}");
        world.until("taken over", || {
            world.pass(1);
            world.engine().status().left_out == 0
        });
        let id = world.find("d/a.wav").unwrap().id;
        world.pass(400);
        world.until_state(id, State::Archived);
    }
}

/// It was taken for another file: it got a new identity, and what was archived of it was not its own.
#[test]
fn regression_a_recording_whose_identity_can_not_be_read_for_a_moment_stays_what_it_is() {
    let _turn = Turn::take();
    let mut world = World::new();
    let id = world.record("a.wav", b"audio");
    world.pass(400);
    world.until_state(id, State::Archived);
    world.die();
    std::fs::rename(world.below("a.wav"), world.below("b.wav")).unwrap();
    world.open();
    faults::set("lower.identity:1:EIO:forever").unwrap();
    world.start();
    world.until_reconciled();
    assert!(faults::fired() > 0);
    faults::clear();
    world.until("compared", || {
        world.pass(1);
        world.engine().status().left_out == 0
    });
    assert_eq!(world.find("b.wav").unwrap().id, id);
    assert!(world.find("a.wav").is_none());
}

/// It could not be opened for writing before the next start, and to try that lost the log of what was
/// written to it: archived bytes came over it.
#[test]
fn regression_a_partial_recording_that_a_start_can_not_load_for_a_moment_is_loaded_later() {
    let _turn = Turn::take();
    let dir = tempfile::tempdir().unwrap();
    let (id, generation) = (NodeId(77), Generation(3));
    std::fs::write(dir.path().join("like"), [0; 100]).unwrap();
    let before = Lower::open(dir.path()).unwrap();
    let attr = before.stat("like".as_ref()).unwrap().attr;
    let partial = before.begin_partial(id, generation, &attr).unwrap();
    let file = partial.open(rustix::fs::OFlags::WRONLY).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&file, b"call", 0).unwrap();
    partial.change().wrote(0, 4).unwrap();
    drop((partial, before));
    let mut missed = 0;
    for site in ["lower.list", "lower.open", "lower.stat", "lower.identity"] {
        for nth in 1.. {
            faults::set(&format!("{site}:{nth}:EMFILE")).unwrap();
            let opened = Lower::open(dir.path());
            let fired = faults::fired() > 0;
            faults::set("").unwrap();
            let Ok(lower) = opened else { continue };
            missed += u32::from(lower.partial(id).is_none());
            assert!(lower.partial_for_sure(id).unwrap().is_some(), "call {nth} of {site}");
            let partial = lower.begin_partial(id, generation, &attr).unwrap();
            assert_eq!(partial.gaps(), std::slice::from_ref(&(4..100)), "call {nth} of {site}");
            if !fired {
                break;
            }
        }
    }
    assert!(missed >= 4, "of the list, the file, its log and the look at it: {missed}");
    faults::set("lower.list:1:EMFILE:forever").unwrap();
    if let Ok(lower) = Lower::open(dir.path()) {
        assert!(lower.partial_for_sure(id).is_err(), "nobody takes it for one without");
    }
    faults::set("").unwrap();
}

/// A program hears of it, and the kernel tells nobody else.
#[test]
fn a_failed_fsync_of_a_program_makes_its_recording_suspect() {
    let name = "a_failed_fsync_of_a_program_makes_its_recording_suspect";
    if support::no_mount(name) {
        return;
    }
    let mut mount = Setup::default().prepare();
    // And the disk stays as it is.
    let faults = "vfs.fsync:1:EIO,lower.sync_file:1:EIO:forever";
    mount.env.push(("SPOOLFS_FAIL", faults.to_owned()));
    mount.start();
    let path = mount.path("a.wav");
    let mut call = File::create(&path).unwrap();
    call.write_all(b"audio").unwrap();
    let told = call.sync_all().unwrap_err();
    assert_eq!(told.raw_os_error(), Some(5), "{told}");
    assert_eq!(mount.status()["suspect"], 1);
    call.write_all(b" goes on").unwrap();
    drop(call);
    let explained = mount.cli(["explain".as_ref(), path.as_os_str()]);
    assert!(explained.out.contains("SUSPECT"), "{explained:?}");
    let status = mount.cli(["status"]);
    assert!(status.out.contains("SUSPECT: 1 file"), "{status:?}");
    let check = mount.cli(["check"]);
    assert!(!check.status.success() && check.out.contains("could not be synced"), "{check:?}");
    for command in ["archive", "release"] {
        let ran = mount.cli([command.as_ref(), path.as_os_str()]);
        assert_eq!(ran.status.success(), command == "archive", "{ran:?}");
    }
    assert_eq!(std::fs::read(&path).unwrap(), b"audio goes on");
    mount.stop();
    assert_eq!(std::fs::read(&path).unwrap(), b"audio goes on", "it is local");
}

static TURN: Mutex<()> = Mutex::new(());

/// One test at a time; afterwards nothing fails any more.
struct Turn(#[allow(dead_code, reason = "held")] MutexGuard<'static, ()>);

impl Turn {
    fn take() -> Turn {
        Turn(TURN.lock().unwrap_or_else(|failed| failed.into_inner()))
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        faults::clear();
    }
}

/// A world that has done what every start does.
fn calm() -> World {
    let world = World::new();
    world.until("the first sync", || world.engine().status().syncs == 1);
    world.until("the tree was compared", || world.engine().status().reconciled);
    world
}

fn suspects(world: &World) -> u64 {
    world.catalog().counts().unwrap().suspect
}

fn is_suspect(world: &World, id: NodeId) -> bool {
    world.row(id).suspect.is_some()
}

#[test]
fn one_failed_sync_makes_one_recording_suspect_until_it_is_proved() {
    let _turn = Turn::take();
    for site in ["lower.sync_file", "lower.write_out"] {
        let world = calm();
        faults::set(&format!("{site}:1:EIO")).unwrap();
        let ids = [world.record("a.wav", &audio(9000, 1)), world.record("b.wav", b"audio")];
        world.pass(3);
        world.until("it failed", || faults::fired() == 1);
        world.until("one of them was archived before its time", || {
            ids.iter().any(|id| world.state(*id) == State::Archived)
        });
        world.until("proved", || suspects(&world) == 0);
        let closed = ids.iter().filter(|id| world.state(**id) == State::Closed).count();
        assert_eq!(closed, 1, "the other one was never suspect");
    }
}

#[test]
fn a_disk_that_never_syncs_keeps_every_recording_and_calls_go_on() {
    let _turn = Turn::take();
    let mut world = calm();
    faults::set("lower.sync_file:1:EIO:forever").unwrap();
    let ids: Vec<_> = (0..3).map(|n| world.record(&format!("{n}.wav"), &audio(9000, n))).collect();
    world.pass(3);
    world.until("all are suspect", || suspects(&world) == 3);
    ids.iter().for_each(|id| world.until_state(*id, State::Archived));
    world.pass(36_000);
    world.idle();
    assert!(ids.iter().all(|id| world.state(*id) == State::Archived && is_suspect(&world, *id)));
    let outcome = world.run_one(Command::Release, "1.wav");
    assert!(!matches!(outcome, Outcome::Done), "{outcome:?}");
    // What was known before is known after a restart, and a later call is recorded as ever.
    world.restart();
    assert_eq!(suspects(&world), 3);
    let later = world.record("later.wav", b"audio");
    world.pass(3);
    world.until_state(later, State::Archived);
    faults::clear();
    world.pass(600);
    world.until("proved", || suspects(&world) == 0);
    world.pass(3700);
    ids.iter().for_each(|id| world.until_state(*id, State::Released));
}

#[test]
fn if_names_can_not_be_synced_everything_since_the_last_time_is_suspect() {
    let _turn = Turn::take();
    let world = calm();
    let before = world.record("before.wav", b"audio");
    world.pass(120);
    // A round at this time covers it for good.
    let rounds = world.engine().status().syncs;
    world.record("between.wav", b"audio");
    world.pass(3);
    world.until("synced", || world.engine().status().syncs > rounds);
    world.until_hashed(before);
    faults::set("lower.sync_dir:1:EIO").unwrap();
    let id = world.record("a.wav", b"audio");
    world.pass(3);
    world.until("it failed", || faults::fired() == 1);
    world.until_state(id, State::Archived);
    world.until("proved", || suspects(&world) == 0);
    assert_eq!(world.state(before), State::Closed, "it was never suspect");
}

/// The kernel tells of a failure once. The catalog must not count the next round, which goes well, as
/// having synced what failed.
#[test]
fn regression_a_failed_sync_is_kept_until_the_catalog_takes_it() {
    let _turn = Turn::take();
    let mut world = World::with(&["one"]);
    world.rules.archive_after = Some(std::time::Duration::from_secs(30 * 86_400));
    world.start();
    world.until("the first sync", || world.engine().status().syncs == 1);
    let rounds = || world.engine().status().syncs;
    let id = world.record("a.wav", &audio(9000, 1));
    faults::set("lower.sync_dir:1:EIO,sqlite.write:1:EIO:forever").unwrap();
    world.pass(3);
    world.until("it failed", || faults::passed("lower.sync_dir") >= 1);
    let before = rounds();
    world.pass(3);
    world.until("a round went well below", || rounds() > before);
    // The disk is well again, and nobody hears of it any more.
    faults::set("").unwrap();
    world.until("it is suspect, or was archived as such", || {
        world.pass(3);
        is_suspect(&world, id) || world.state(id) == State::Archived
    });
    world.until("proved", || {
        world.pass(3);
        !is_suspect(&world, id)
    });
}

/// The daemon dies before the catalog could take it; the kernel tells the next one nothing.
#[test]
fn regression_a_failed_sync_that_the_catalog_has_not_taken_is_not_lost_with_the_daemon() {
    let _turn = Turn::take();
    let mut world = World::with(&["one"]);
    world.rules.archive_after = Some(std::time::Duration::from_secs(30 * 86_400));
    world.start();
    world.until("the first sync", || world.engine().status().syncs == 1);
    let id = world.record("a.wav", &audio(9000, 1));
    faults::set("lower.sync_dir:1:EIO,sqlite.write:1:EIO:forever").unwrap();
    world.pass(3);
    world.until("it failed", || faults::passed("lower.sync_dir") >= 1);
    let rounds = world.engine().status().syncs;
    world.pass(3);
    world.until("a round went well below", || world.engine().status().syncs > rounds);
    world.die();
    faults::set("").unwrap();
    world.open();
    // Before anything is synced again.
    world.catalog().drain().unwrap();
    assert!(is_suspect(&world, id));
    world.start();
    world.until("proved", || {
        world.pass(3);
        !is_suspect(&world, id)
    });
}

#[test]
fn what_a_predecessor_left_is_synced_at_the_start_or_suspect() {
    let _turn = Turn::take();
    let mut world = World::with(&["one"]);
    let id = world.record("a.wav", b"audio");
    world.die();
    world.open();
    faults::set("lower.sync_all:1:EIO").unwrap();
    world.start();
    world.until("it failed", || faults::fired() == 1);
    world.until("suspect", || is_suspect(&world, id));
    world.restart();
    world.until("synced", || world.engine().status().syncs == 1);
    assert!(faults::passed("lower.sync_all") >= 2);
    world.pass(3);
    world.until("proved", || !is_suspect(&world, id));
}
