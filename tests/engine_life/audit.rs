//! Targets are told of the audit log.

use crate::world::World;
use spoolfs::audit::{self, Anchor, Audit, Event, Fault, Options, verify};
use spoolfs::clock::{Clock, ManualClock};
use spoolfs::engine::Standing;
use spoolfs::recording::Sha256;
use spoolfs::store::audit::{HeadKey, parse_head, parse_part};
use spoolfs::store::memory::{Fault as StoreFault, Operation};
use std::sync::Arc;
use std::time::Duration;
use tempfile::TempDir;

/// A log of 21 lines, and an engine that finds it.
fn with_log() -> (World, Arc<Audit>, TempDir) {
    let (mut world, state) = (World::with(&["one"]), tempfile::tempdir().unwrap());
    let options = Options {
        state_dir: state.path().to_owned(),
        node: world.node.clone(),
        clock: world.clock.clone(),
    };
    let audit = Audit::start(options).unwrap();
    (0..20).for_each(|_| audit.record(Event::Restored));
    audit.flush();
    world.audit = Arc::clone(&audit);
    world.start();
    (world, audit, state)
}

fn heads(world: &World) -> Vec<String> {
    let mut keys = world.store().keys();
    keys.retain(|key| parse_head(key).is_some());
    keys
}

fn parts(world: &World) -> Vec<String> {
    let mut keys = world.store().keys();
    keys.retain(|key| parse_part(key).is_some());
    keys
}

#[test]
fn a_target_is_told_where_the_log_ends_and_finds_out_a_forgery() {
    let (world, audit, _state) = with_log();
    world.until("the first head", || heads(&world).len() == 1);
    let first = parse_head(&heads(&world)[0]).unwrap();
    // What was written since is told when its time comes, once.
    audit.record_synced(Event::Pinned).unwrap();
    let last = audit.health().head.unwrap();
    world.pass(601);
    let told = |seq: u64| heads(&world).iter().any(|key| parse_head(key).unwrap().seq == seq);
    world.until("the last head", || told(last.seq));
    let before = heads(&world);
    world.pass(601);
    world.idle();
    assert_eq!(heads(&world), before, "a head that did not change is not told again");
    let anchors: Vec<Anchor> = before
        .iter()
        .map(|key| parse_head(key).unwrap())
        .map(|h| Anchor { chain: h.chain, seq: h.seq, sha256: h.sha256 })
        .collect();
    let dir = audit.dir().unwrap().to_owned();
    let verdict = verify(&dir, &anchors).unwrap();
    assert!(verdict.valid && verdict.anchored == Some(last.seq), "{verdict:?}");

    // Its lines come within a day, and are those of the log.
    assert!(parts(&world).is_empty(), "{:?}", parts(&world));
    world.pass(86_400);
    world.until("the lines", || !parts(&world).is_empty());
    let key = parts(&world).pop().unwrap();
    let bytes = world.object(&key);
    let log = std::fs::read(dir.join("000000000001.jsonl")).unwrap();
    assert!(log.starts_with(&bytes));
    assert_eq!(audit::anchors_in(&first.chain, &bytes).last().unwrap().seq, last.seq);

    // The whole log written anew, so that it fits.
    audit.stop();
    let text = String::from_utf8(log).unwrap().replace("restored", "trashed_");
    let (mut forged, mut prev) = (String::new(), None);
    for line in text.lines() {
        let mut line = line.to_owned();
        if let Some(prev) = prev {
            let at = line.find("\"prev\":\"").unwrap() + 8;
            line.replace_range(at..at + 64, &Sha256::to_string(&prev));
        }
        prev = Some(Sha256::of(line.as_bytes()));
        forged += &format!("{line}\n");
    }
    std::fs::write(dir.join("000000000001.jsonl"), forged).unwrap();
    std::fs::remove_file(dir.join("head.json")).unwrap();
    assert!(verify(&dir, &[]).unwrap().valid, "by itself it can not be told");
    let found = verify(&dir, &anchors).unwrap().findings;
    assert_eq!((found[0].fault, found[0].seq), (Fault::Rewritten, first.seq), "{found:?}");
    let lines = audit::anchors_in(&first.chain, &bytes);
    let found = verify(&dir, &lines).unwrap().findings;
    assert_eq!((found[0].fault, found[0].line, found[0].seq), (Fault::Rewritten, 2, 2));
}

#[test]
fn a_target_that_was_down_is_told_afterwards_and_after_a_restart_nothing_twice() {
    let (mut world, audit, _state) = with_log();
    world.until("a head", || heads(&world).len() == 1);
    world.restart();
    audit.record_synced(Event::Pinned).unwrap();
    let last = audit.health().head.unwrap();
    world.until_standing(Standing::Up);
    world.pass(601);
    let told = |seq: u64| heads(&world).iter().any(|key| parse_head(key).unwrap().seq == seq);
    world.until("the head", || told(last.seq));
    let seqs: Vec<u64> = heads(&world).iter().map(|k| parse_head(k).unwrap().seq).collect();
    let mut once = seqs.clone();
    once.dedup();
    assert_eq!(seqs, once);
}

const DAY: u64 = 86_400;

/// Lets time go by as a clock may, until what lets lines leave has looked.
fn half_a_day(world: &World) {
    world.pass(DAY / 2);
    let seen = || {
        let kept = world.catalog().setting("audit.keep").unwrap()?;
        serde_json::from_str::<serde_json::Value>(&kept).ok()?.get("seen")?.as_i64()
    };
    world.until("a look", || seen() == Some(world.now().0));
}

fn days(world: &World, days: u64) {
    (0..days * 2).for_each(|_| half_a_day(world));
}

fn anchors(world: &World) -> Vec<Anchor> {
    let of = |key: &String| parse_head(key).unwrap();
    let anchor = |h: HeadKey| Anchor { chain: h.chain, seq: h.seq, sha256: h.sha256 };
    heads(world).iter().map(of).map(anchor).collect()
}

#[test]
fn lines_leave_by_audit_keep_here_and_in_targets_but_not_beside_a_hold() {
    let (mut world, audit, _state) = with_log();
    let dir = audit.dir().unwrap().to_owned();
    let first = || audit::first_line(&dir).unwrap().unwrap();
    world.until("a head", || heads(&world).len() == 1);
    audit.renew();
    audit.record_synced(Event::Pinned).unwrap();
    let id = world.record("a.wav", b"hello");
    world.rules.audit_keep = Some(Duration::from_secs(365 * DAY));
    world.restart();
    world.until_standing(Standing::Up);
    let hold = crate::expiry::hold(&world, &[id]);
    // A clock that goes forward by so much is not believed for 72 hours.
    world.pass(366 * DAY);
    world.until("the lines are in the target", || !parts(&world).is_empty());
    days(&world, 5);
    assert_eq!(first(), 1, "a hold keeps all");
    assert!(world.catalog().lift_hold(hold, "eve", "settled").unwrap());
    days(&world, 6);
    assert_eq!(first(), 1, "and a week longer");
    // Nothing leaves before the target can be told.
    world.store().set_down(true);
    audit.record_synced(Event::Pinned).unwrap();
    days(&world, 1);
    world.until_standing(Standing::Down);
    days(&world, 2);
    assert_eq!(first(), 1, "no target was told");
    world.store().fail_next_of("/lines/", Operation::Delete, 1, StoreFault::Denied);
    world.store().set_down(false);
    half_a_day(&world);
    world.until_standing(Standing::Up);
    if first() == 1 {
        half_a_day(&world);
    }
    assert!(first() > 1, "lines leave");
    let told = world.catalog().setting("audit.told.one").unwrap().unwrap();
    assert!(!told.contains("\"refused_at\":null"), "the target refuses: {told}");

    let first = first();
    let anchors = anchors(&world);
    let verdict = verify(&dir, &anchors).unwrap();
    assert!(verdict.valid, "{verdict:?}");
    let left = verdict.left.as_ref().expect("it is told");
    assert_eq!((left.last, &*left.audit_keep), (first - 1, "365d"));
    assert!(verdict.anchored.unwrap() >= left.seq, "{verdict:?}");

    // The target is asked again for its lines, and keeps where the log ended.
    let old = || parts(&world).iter().filter(|key| parse_part(key).unwrap().last < first).count();
    assert_eq!(old(), 1, "{:?}", parts(&world));
    days(&world, 1);
    assert_eq!(old(), 0, "its lines leave: {:?}", parts(&world));
    assert!(!parts(&world).is_empty(), "those that are here are there");
    assert!(heads(&world).iter().any(|key| parse_head(key).unwrap().seq < first));
}

#[test]
fn nothing_leaves_a_log_that_is_not_valid() {
    let (mut world, audit, _state) = with_log();
    let dir = audit.dir().unwrap().to_owned();
    audit.renew();
    audit.record_synced(Event::Pinned).unwrap();
    let path = dir.join("000000000001.jsonl");
    let text = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, text.replacen("restored", "trashed_", 1)).unwrap();
    world.rules.audit_keep = Some(Duration::from_secs(365 * DAY));
    world.restart();
    world.until_standing(Standing::Up);
    world.pass(366 * DAY);
    days(&world, 5);
    assert_eq!(audit::first_line(&dir).unwrap(), Some(1), "it is evidence");
    let why = world.engine().lines_stay().expect("somebody must look at it");
    assert!(why.contains("the log is not valid: "), "{why}");
    std::fs::write(&path, text).unwrap();
    days(&world, 1);
    world.until("the first file leaves", || audit::first_line(&dir).unwrap() != Some(1));
}

#[test]
fn lines_that_a_clock_dated_ahead_stay_until_then_and_somebody_is_told() {
    let (mut world, state) = (World::with(&["one"]), tempfile::tempdir().unwrap());
    let clock = ManualClock::at(world.now());
    let (state_dir, node) = (state.path().to_owned(), world.node.clone());
    let audit = Audit::start(Options { state_dir, node, clock: clock.clone() }).unwrap();
    let dir = audit.dir().unwrap().to_owned();
    audit.record_synced(Event::Restored).unwrap();
    clock.advance(Duration::from_secs(800 * DAY));
    audit.record_synced(Event::Restored).unwrap();
    audit.renew();
    audit.record_synced(Event::Pinned).unwrap();
    world.audit = Arc::clone(&audit);
    world.rules.audit_keep = Some(Duration::from_secs(365 * DAY));
    world.start();
    world.until_standing(Standing::Up);
    world.pass(400 * DAY);
    days(&world, 4);
    let told = || world.engine().lines_stay();
    world.until("it is told", || told().is_some());
    let why = told().unwrap();
    let date = audit::time(clock.now());
    assert!(why.contains(&format!("line 3 is dated {date}")) && why.contains("NTP"), "{why}");
    assert_eq!(audit::first_line(&dir).unwrap(), Some(1), "they stay");
    // When its time has come, and audit_keep after that.
    clock.advance(Duration::from_secs(370 * DAY));
    world.pass(765 * DAY);
    days(&world, 4);
    world.until("the first file leaves", || audit::first_line(&dir).unwrap() != Some(1));
    assert_eq!(told(), None, "nobody must do anything");
    assert!(verify(&dir, &anchors(&world)).unwrap().valid);
}

#[test]
fn without_a_target_that_could_be_told_nothing_leaves() {
    let (mut world, state) = (World::with(&[]), tempfile::tempdir().unwrap());
    let (state_dir, node) = (state.path().to_owned(), world.node.clone());
    let audit = Audit::start(Options { state_dir, node, clock: world.clock.clone() }).unwrap();
    audit.record_synced(Event::Restored).unwrap();
    audit.renew();
    audit.record_synced(Event::Pinned).unwrap();
    world.audit = Arc::clone(&audit);
    world.rules.audit_keep = Some(Duration::from_secs(365 * DAY));
    world.start();
    world.pass(366 * DAY);
    days(&world, 4);
    world.until("it is told", || world.engine().lines_stay().is_some());
    assert_eq!(audit::first_line(audit.dir().unwrap()).unwrap(), Some(1));
}

#[test]
fn a_hold_that_comes_while_a_target_is_asked_keeps_its_lines() {
    let (mut world, audit, _state) = with_log();
    let dir = audit.dir().unwrap().to_owned();
    for _ in 0..2 {
        audit.renew();
        audit.record_synced(Event::Pinned).unwrap();
    }
    let id = world.record("a.wav", b"hello");
    world.rules.audit_keep = Some(Duration::from_secs(365 * DAY));
    world.restart();
    world.until_standing(Standing::Up);
    // Not in the same moment as here, nor while it is told anything else.
    world.store().fail_next_of("/lines/", Operation::Delete, 6, StoreFault::Denied);
    world.pass(366 * DAY);
    let first = || audit::first_line(&dir).unwrap().unwrap();
    while first() == 1 {
        half_a_day(&world);
    }
    days(&world, 1);
    let first = first();
    let old = || parts(&world).iter().filter(|key| parse_part(key).unwrap().last < first).count();
    assert!(first > 1 && old() == 3, "{first} {:?}", parts(&world));
    let lists = world.store().calls(Operation::List);
    world.store().set_paused(true);
    world.pass(DAY);
    world.until("it is asked what it has", || world.store().calls(Operation::List) > lists);
    crate::expiry::hold(&world, &[id]);
    world.store().set_paused(false);
    days(&world, 3);
    assert_eq!(old(), 3, "{:?}", parts(&world));
}

#[test]
fn a_hold_keeps_what_a_leaving_that_was_cut_off_left() {
    let (mut world, audit, state) = with_log();
    let dir = audit.dir().unwrap().to_owned();
    audit.renew();
    audit.record_synced(Event::Pinned).unwrap();
    let next = audit.health().head.unwrap().seq;
    audit.stop();
    let left = dir.join(format!("000000000001-{:012}.left", next - 1));
    std::fs::rename(dir.join("000000000001.jsonl"), &left).unwrap();
    let id = world.record("a.wav", b"hello");
    let hold = crate::expiry::hold(&world, &[id]);
    let (state_dir, node) = (state.path().to_owned(), world.node.clone());
    world.audit = Audit::start(Options { state_dir, node, clock: world.clock.clone() }).unwrap();
    world.rules.audit_keep = Some(Duration::from_secs(365 * DAY));
    world.restart();
    days(&world, 5);
    assert!(left.exists(), "the hold came before it was removed");
    assert!(world.catalog().lift_hold(hold, "eve", "settled").unwrap());
    days(&world, 6);
    assert!(left.exists(), "and a week longer");
    // Also where nothing leaves any more.
    world.rules.audit_keep = None;
    world.restart();
    world.pass(2 * DAY);
    world.until("it is removed", || !left.exists());
}

#[test]
fn a_target_that_fails_for_a_moment_when_its_lines_leave_is_asked_again_soon() {
    let (mut world, audit, _state) = with_log();
    audit.renew();
    audit.record_synced(Event::Pinned).unwrap();
    let dir = audit.dir().unwrap().to_owned();
    world.rules.audit_keep = Some(Duration::from_secs(365 * DAY));
    world.restart();
    world.until_standing(Standing::Up);
    world.store().fail_next_of("/lines/", Operation::Delete, 1, StoreFault::Denied);
    world.pass(366 * DAY);
    while audit::first_line(&dir).unwrap() == Some(1) {
        half_a_day(&world);
    }
    let told = || world.catalog().setting("audit.told.one").unwrap().unwrap();
    world.until("it refused", || !told().contains("\"refused_at\":null"));
    // A day later it can not be told; as soon as it can, it is asked.
    world.store().set_down(true);
    audit.record_synced(Event::Pinned).unwrap();
    days(&world, 1);
    world.until_standing(Standing::Down);
    half_a_day(&world);
    let asked = || world.store().calls(Operation::Delete);
    let before = asked();
    world.store().fail_next_of("/lines/", Operation::Delete, 1, StoreFault::Unreachable);
    world.store().set_down(false);
    world.pass(600);
    world.until_standing(Standing::Up);
    world.until("it was asked", || asked() > before);
    let old = || parts(&world).iter().any(|key| parse_part(key).unwrap().first == 1);
    // Less than the hour until it is looked by itself.
    world.pass(1200);
    world.until("its lines leave", || !old());
}
