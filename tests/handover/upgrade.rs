//! A newer program takes over in the middle of calls, and brings the catalog up to date.

use super::clients::Storm;
use super::storm::StopAtEnd;
use super::support;
use super::support::mount::{Mount, Setup};
use super::takeover::successor;
use rustix::process::{Signal, kill_process, test_kill_process};
use std::fs::{self, OpenOptions};
use std::io::Write;
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// What the later migrations made, taken away again: the catalog as the first version wrote it.
const BACK_TO_VERSION_1: &str = "ALTER TABLE object DROP COLUMN encoding;
    ALTER TABLE object DROP COLUMN stored_size; ALTER TABLE object DROP COLUMN stored_sha256;
    DROP INDEX node_suspect; ALTER TABLE node DROP COLUMN suspect;
    DROP TABLE hold; DROP TABLE held; DROP TABLE object_lock;
    DROP INDEX trash_waits; DROP INDEX trash_erase; ALTER TABLE trash DROP COLUMN erase;
    PRAGMA user_version = 1;";

fn database(mount: &Mount) -> rusqlite::Connection {
    let db = rusqlite::Connection::open(mount.state.join("catalog.db")).unwrap();
    db.busy_timeout(Duration::from_secs(5)).unwrap();
    db
}

fn version(db: &rusqlite::Connection) -> i64 {
    db.pragma_query_value(None, "user_version", |row| row.get(0)).unwrap()
}

fn has_suspect(db: &rusqlite::Connection) -> bool {
    db.prepare("SELECT suspect FROM node LIMIT 1").is_ok()
}

/// The daemon is killed under writers, its catalog is that of the version before, and the next
/// daemon migrates it while requests wait.
fn migrates_in_mid_call(passthrough: &str) {
    // Time to change the catalog in before the next start. Calls wait for it in plain mode.
    let options: &[&str] = &["--restart-delay", "1s", "--failures", "1000"];
    let top = format!("passthrough = \"{passthrough}\"\n");
    let mount = Setup { keeper: Some(options), top, ..Setup::default() }.mount();
    let newest = version(&database(&mount));
    assert!(newest >= 2);
    let storm = Storm::default();
    let dirs: Vec<PathBuf> = (0..4).map(|i| mount.path(format!("writer{i}"))).collect();
    let names = mount.path("names");
    for dir in dirs.iter().chain([&names]) {
        fs::create_dir(dir).unwrap();
    }
    let path = mount.path("long.wav");
    let mut call = OpenOptions::new().append(true).create_new(true).open(&path).unwrap();
    let mut spoken = Vec::new();
    std::thread::scope(|scope| {
        let storm = &storm;
        for dir in &dirs {
            scope.spawn(move || storm.run(|n| storm.recorder(false, dir, n)));
        }
        scope.spawn(|| storm.run(|n| storm.names(&names, n)));
        let _stop = StopAtEnd(storm);
        let mut speak = |for_: Duration| {
            let until = Instant::now() + for_;
            while Instant::now() < until {
                let piece = [u8::try_from(spoken.len() % 251).unwrap(); 320];
                call.write_all(&piece).unwrap();
                spoken.extend_from_slice(&piece);
                std::thread::sleep(Duration::from_millis(5));
            }
        };
        speak(Duration::from_millis(700));
        for _ in 0..2 {
            let before = mount.server().expect("it runs");
            kill_process(before, Signal::KILL).unwrap();
            let until = Instant::now() + support::look::PATIENCE;
            while test_kill_process(before).is_ok() {
                assert!(Instant::now() < until, "it does not die");
                std::thread::sleep(Duration::from_millis(1));
            }
            let db = database(&mount);
            db.execute_batch(BACK_TO_VERSION_1).unwrap();
            assert!(version(&db) == 1 && !has_suspect(&db));
            assert!(mount.server().is_none_or(|pid| pid == before), "the next was too early");
            drop(db);
            successor(&mount, before);
            speak(Duration::from_millis(500));
            let db = database(&mount);
            assert_eq!(version(&db), newest, "{}", mount.said());
            assert!(has_suspect(&db));
        }
    });
    drop(call);
    let wrong = storm.wrong.lock().unwrap().clone();
    assert_eq!(wrong, Vec::<String>::new(), "{}", mount.said());
    assert_eq!(fs::read(&path).unwrap(), spoken, "{}", mount.said());
    assert_eq!(mount.status()["link"]["taken_over"], 2);
    assert_eq!(mount.status()["suspect"], 0);
}

#[test]
fn a_newer_schema_comes_in_mid_call_in_passthrough() {
    if !support::no_mount("a_newer_schema_comes_in_mid_call_in_passthrough") {
        migrates_in_mid_call("auto");
    }
}

#[test]
fn a_newer_schema_comes_in_mid_call_in_plain_mode() {
    if !support::no_mount("a_newer_schema_comes_in_mid_call_in_plain_mode") {
        migrates_in_mid_call("never");
    }
}
