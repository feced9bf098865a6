//! The log as a whole.

use super::*;
use crate::clock::ManualClock;
use crate::recording::{Generation, NodeId, Sha256};
use std::fs;

struct World {
    dir: tempfile::TempDir,
    clock: Arc<ManualClock>,
}

impl World {
    fn new() -> World {
        let dir = tempfile::tempdir().expect("a directory");
        World { dir, clock: ManualClock::at(Timestamp::from_parts(1_795_234_020, 5)) }
    }

    fn start(&self) -> Arc<Audit> {
        let state_dir = self.dir.path().to_owned();
        Audit::start(Options { state_dir, clock: self.clock.clone() }).expect("a thread")
    }

    fn text(&self) -> String {
        let dir = directory(self.dir.path());
        let segments = chain::segments(&dir).expect("listed");
        segments.iter().map(|(_, path)| fs::read_to_string(path).expect("text")).collect()
    }
}

fn subject(n: u64) -> Subject {
    Subject {
        id: NodeId(n),
        path: format!("2026/11/out-0555{n:07}.wav").into(),
        generation: Generation(1),
        sha256: Some(Sha256::of(&n.to_le_bytes())),
    }
}

/// Whether every line holds the digest of the one before.
fn is_chained(text: &str) -> bool {
    let mut prev = line::NOTHING;
    text.lines().enumerate().all(|(n, text)| {
        let link = line::Link::of(text.as_bytes()).expect("a line");
        let fits = link.prev == prev && link.seq == n as u64 + 1;
        prev = Sha256::of(text.as_bytes());
        fits
    })
}

#[test]
fn a_line_tells_who_what_when_and_why_without_naming_anybody() {
    let world = World::new();
    let audit = world.start();
    let user = User { uid: 1000, gid: Some(100), pid: Some(7), ..User::default() };
    audit
        .record_synced(
            Entry::new(Event::HoldAdded {
                hold: 3,
                case: Clear::name("Smith v. Jones"),
                query: Some(Clear::number("02079460001")),
            })
            .by(Who::User(user))
            .on(subject(9))
            .why("complaint of J. Smith")
            .change((), serde_json::json!({"number": Clear::number("02079460001")})),
        )
        .expect("on record");
    let text = world.text();
    let line: serde_json::Value =
        serde_json::from_str(text.lines().last().expect("a line")).expect("json");
    assert_eq!(line["seq"], 2);
    assert_eq!(line["at"], "2026-11-21T04:07:00.000000005Z");
    assert_eq!(line["event"], "hold_added");
    assert_eq!(line["who"]["user"]["uid"], 1000);
    assert_eq!(line["recording"]["id"], 9);
    let number = line["details"]["query"].as_str().expect("a pseudonym");
    assert!(number.starts_with("number:") && number.len() == 39, "{number}");
    assert_eq!(line["after"]["number"], number, "the same text, the same pseudonym");
    assert_eq!(line.get("before"), None);
    for personal in ["Smith", "0207", "0555"] {
        assert!(!text.contains(personal), "{text}");
    }
    assert!(is_chained(&text));
}

#[test]
fn a_log_goes_on_after_a_restart_and_over_its_files() {
    let world = World::new();
    let line = "x".repeat(2000);
    for round in 0..3 {
        let audit = world.start();
        for n in 0..2000 {
            audit.record(Entry::new(Event::Restored).on(subject(n)).because(&*line));
        }
        audit.stop();
        assert_eq!(audit.health().head.expect("a head").seq, 1 + (round + 1) * 2000);
    }
    let segments = chain::segments(&directory(world.dir.path())).expect("listed");
    assert!(segments.len() > 1, "{segments:?}");
    let text = world.text();
    assert!(is_chained(&text));
    assert_eq!(text.lines().count(), 6001);
}
