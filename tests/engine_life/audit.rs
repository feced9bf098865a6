//! Targets are told of the audit log.

use crate::world::World;
use spoolfs::audit::{self, Anchor, Audit, Event, Fault, Options, verify};
use spoolfs::recording::Sha256;
use spoolfs::store::audit::{parse_head, parse_part};
use std::sync::Arc;
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
    world.until_standing(spoolfs::engine::Standing::Up);
    world.pass(601);
    let told = |seq: u64| heads(&world).iter().any(|key| parse_head(key).unwrap().seq == seq);
    world.until("the head", || told(last.seq));
    let seqs: Vec<u64> = heads(&world).iter().map(|k| parse_head(k).unwrap().seq).collect();
    let mut once = seqs.clone();
    once.dedup();
    assert_eq!(seqs, once);
}
