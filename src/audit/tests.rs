//! The log as a whole.

use super::*;
use crate::clock::{Clock, ManualClock};
use crate::recording::{Generation, NodeId, Sha256};
use std::fs;

mod shortened;

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
        Audit::start(Options { state_dir, node: "pbx".into(), clock: self.clock.clone() })
            .expect("a thread")
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

/// Waits until the log has line `seq`: a flush waits for a slow disk only a moment.
fn written(audit: &Audit, seq: u64) {
    while audit.health().head.is_none_or(|head| head.seq < seq) {
        audit.flush();
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
        written(&audit, 1 + (round + 1) * 2000);
        audit.stop();
        assert_eq!(audit.health().head.expect("a head").seq, 1 + (round + 1) * 2000);
    }
    let segments = chain::segments(&directory(world.dir.path())).expect("listed");
    assert!(segments.len() > 1, "{segments:?}");
    let text = world.text();
    assert!(is_chained(&text));
    assert_eq!(text.lines().count(), 6001);
}

impl World {
    fn dir(&self) -> PathBuf {
        directory(self.dir.path())
    }

    /// A log of `lines` lines.
    fn of(lines: u64) -> World {
        let world = World::new();
        let audit = world.start();
        for n in 1..lines {
            audit.record(Entry::new(Event::Restored).on(subject(n % 500)).why("asked for"));
            if n % 10_000 == 0 {
                written(&audit, n);
            }
        }
        written(&audit, lines);
        audit.stop();
        assert_eq!(audit.health().head.expect("a head").seq, lines);
        world
    }

    /// Where line `seq` is: file and line in it.
    fn place(&self, seq: u64) -> (PathBuf, usize) {
        let segments = chain::segments(&self.dir()).expect("listed");
        let (first, path) = segments.iter().rev().find(|(first, _)| *first <= seq).expect("there");
        (path.clone(), (seq - first) as usize)
    }

    /// Does something to the lines of the file that line `seq` is in, and puts it back afterwards.
    fn with_lines<T>(
        &self,
        seq: u64,
        change: impl FnOnce(&mut Vec<Vec<u8>>, usize),
        look: impl FnOnce(&World) -> T,
    ) -> T {
        let (path, at) = self.place(seq);
        let before = fs::read(&path).expect("read");
        let mut lines: Vec<Vec<u8>> =
            before.split_inclusive(|b| *b == b'\n').map(<[u8]>::to_vec).collect();
        change(&mut lines, at);
        fs::write(&path, lines.concat()).expect("written");
        let seen = look(self);
        fs::write(&path, before).expect("put back");
        seen
    }

    fn verdict(&self) -> Verdict {
        verify(&self.dir(), &[]).expect("a verdict")
    }

    fn anchor(&self, seq: u64) -> Anchor {
        let (path, at) = self.place(seq);
        let text = fs::read_to_string(path).expect("text");
        let line = text.lines().nth(at).expect("the line");
        let chain = self.verdict().chain.expect("a name");
        Anchor { chain, seq, sha256: Sha256::of(line.as_bytes()) }
    }

    fn is_at(&self, finding: &Finding, seq: u64) -> bool {
        let (path, at) = self.place(seq);
        let file = path.file_name().expect("a name").to_string_lossy().into_owned();
        (finding.file.as_str(), finding.line, finding.seq) == (&*file, at as u64 + 1, seq)
    }
}

fn flip(line: &mut [u8], byte: usize, bit: u32) {
    line[byte] ^= 1 << bit;
}

#[test]
fn every_flipped_bit_is_found_in_its_line() {
    let world = World::of(40);
    let mut random = fastrand::Rng::with_seed(7);
    for _ in 0..600 {
        let seq = random.u64(1..=40);
        let mut what = (0, 0);
        let verdict = world.with_lines(
            seq,
            |lines, at| {
                what = (random.usize(..lines[at].len()), random.u32(..8));
                flip(&mut lines[at], what.0, what.1);
            },
            World::verdict,
        );
        // Without its end a line runs into the next one.
        let torn = seq == 40 && verdict.findings.iter().any(|f| f.fault == Fault::Torn);
        let first = verdict.findings.first().expect("found");
        assert!(!verdict.valid && (world.is_at(first, seq) || torn), "{seq} {what:?}: {verdict:?}");
        assert!(verdict.findings.len() <= 2, "{seq} {what:?}: {verdict:?}");
    }
    assert!(world.verdict().valid);
}

#[test]
fn each_damage_to_a_hundred_thousand_lines_is_found_and_located() {
    const LINES: u64 = 100_000;
    let world = World::of(LINES);
    let good = world.verdict();
    assert!(good.valid && good.lines == LINES && good.last == LINES, "{good:?}");
    assert!(good.files > 3 && (good.first, &good.left) == (1, &None), "{good:?}");
    each_damage_is_found(&world, LINES);
    // And in what is left of it when the first lines left by `audit_keep`.
    world.shorten();
    let (left, lines) = (world.shorten(), LINES + 2);
    let good = world.verdict();
    assert!(good.valid && good.files > 2 && good.last == lines, "{good:?}");
    assert_eq!((good.first, good.lines), (left.last + 1, lines - left.last), "{good:?}");
    let told = good.left.expect("told");
    assert_eq!((told.last, told.sha256, told.seq), (left.last, left.sha256, lines));
    each_damage_is_found(&world, lines);
}

/// Damages a log of whole files, whose last line is `lines`, and puts it back as it was.
fn each_damage_is_found(world: &World, lines: u64) {
    let segments = chain::segments(&world.dir()).expect("listed");
    let (early, edge) = (segments[0].0 + 2000, segments[1].0);

    // Each of them beside the others.
    let verdict = world.with_lines(
        edge - 1,
        |lines, at| flip(&mut lines[at], 90, 0),
        |world| {
            world.with_lines(
                77_777,
                |lines, at| drop(lines.remove(at)),
                |world| world.with_lines(early, |lines, at| lines.swap(at, at + 1), World::verdict),
            )
        },
    );
    let found: Vec<_> = verdict.findings.iter().map(|f| (f.fault, f.seq)).collect();
    let expected =
        [(Fault::Swapped, early + 1), (Fault::Altered, edge - 1), (Fault::Missing, 77_777)];
    assert_eq!(found, expected, "{verdict:?}");
    assert_eq!(verdict.findings[0].line as usize, world.place(early).1 + 1, "{verdict:?}");
    assert!(world.is_at(&verdict.findings[1], edge - 1), "{verdict:?}");
    assert!(world.is_at(&verdict.findings[2], 77_777), "{verdict:?}");

    let whole = fs::read(&segments[1].1).expect("read");
    fs::remove_file(&segments[1].1).expect("removed");
    let verdict =
        world.with_lines(lines, |lines, _| lines.truncate(lines.len() - 3), World::verdict);
    let found: Vec<_> = verdict.findings.iter().map(|f| (f.fault, f.seq)).collect();
    // With its end a shortened log loses the line that tells why it is short.
    let short = (segments[0].0 > 1).then_some((Fault::Missing, 1));
    let expected: Vec<_> = [(Fault::Missing, segments[1].0)]
        .into_iter()
        .chain(short)
        .chain([(Fault::EndMissing, lines - 2)])
        .collect();
    assert_eq!(found, expected, "{verdict:?}");
    fs::write(&segments[1].1, whole).expect("put back");

    // Somebody removed the beginning, whether there is a line that tells of an earlier one or not.
    let whole = fs::read(&segments[0].1).expect("read");
    fs::remove_file(&segments[0].1).expect("removed");
    let verdict = world.verdict();
    let found: Vec<_> = verdict.findings.iter().map(|f| (f.fault, f.seq)).collect();
    assert_eq!(found, [(Fault::Missing, segments[0].0)], "{verdict:?}");
    assert_eq!(verdict.left, None);
    fs::write(&segments[0].1, whole).expect("put back");

    // Who can write the files can write the rest of the log anew, so that it fits.
    let forged = lines - 500;
    let anchors = [50_000, forged - 40, lines].map(|seq| world.anchor_at(seq));
    let told: Vec<Anchor> = (forged - 60..=lines).map(|seq| world.anchor_at(seq)).collect();
    let (tail, head) = (world.place(lines).0, world.dir().join("head.json"));
    let before = [&tail, &head].map(|path| (path.clone(), fs::read(path).expect("read")));
    world.forge(forged);
    assert!(world.verdict().valid, "by itself it can not be told");
    let verdict = verify(&world.dir(), &anchors).expect("a verdict");
    assert_eq!((verdict.compared, verdict.anchored), (3, Some(forged - 40)));
    assert_eq!(verdict.findings.len(), 1, "{verdict:?}");
    assert_eq!(verdict.findings[0].fault, Fault::Rewritten);
    assert!(world.is_at(&verdict.findings[0], lines), "{verdict:?}");
    // With the lines that the target has the first that was changed is named.
    let verdict = verify(&world.dir(), &told).expect("a verdict");
    assert_eq!(verdict.findings[0].fault, Fault::Rewritten);
    assert!(world.is_at(&verdict.findings[0], forged), "{verdict:?}");
    before.into_iter().for_each(|(path, bytes)| fs::write(path, bytes).expect("put back"));
}

impl World {
    /// As `anchor`, from what the file holds now, without a check of all.
    fn anchor_at(&self, seq: u64) -> Anchor {
        let head = chain::head(&self.dir()).expect("a head");
        let part = next_part(&self.dir(), seq - 1, &Head { seq, ..head.clone() }, true);
        let bytes = part.expect("read").expect("there").bytes;
        anchors_in(&head.chain, &bytes).pop().expect("one")
    }

    /// Changes line `seq` and makes all that follows fit.
    fn forge(&self, seq: u64) {
        let (path, at) = self.place(seq);
        let text = fs::read_to_string(&path).expect("text");
        let mut out: Vec<String> = Vec::new();
        let mut prev = None;
        for (n, line) in text.lines().enumerate() {
            let mut line = line.to_owned();
            if n == at {
                line = line.replace("restored", "expired_");
            }
            if let Some(prev) = prev.filter(|_| n > at) {
                let old = line::Link::of(line.as_bytes()).expect("a line").prev.to_string();
                line = line.replace(&old, &Sha256::to_string(&prev));
            }
            prev = Some(Sha256::of(line.as_bytes()));
            out.push(line);
        }
        fs::write(&path, out.join("\n") + "\n").expect("written");
        let mut head = chain::head(&self.dir()).expect("a head");
        head.sha256 = prev.expect("a line");
        fs::write(self.dir().join("head.json"), serde_json::to_vec(&head).expect("json"))
            .expect("written");
    }
}

#[test]
fn a_log_that_was_cut_is_known_by_its_target() {
    let world = World::of(50);
    let anchor = world.anchor(50);
    let (path, _) = world.place(50);
    let text = fs::read_to_string(&path).expect("text");
    let kept: Vec<&str> = text.lines().take(45).collect();
    fs::write(&path, kept.join("\n") + "\n").expect("written");
    fs::remove_file(world.dir().join("head.json")).expect("removed");
    assert!(world.verdict().valid, "by itself it can not be told");
    let verdict = verify(&world.dir(), std::slice::from_ref(&anchor)).expect("a verdict");
    assert_eq!(verdict.findings[0].fault, Fault::TargetKnowsMore, "{verdict:?}");
    assert_eq!(verdict.findings[0].seq, 46);
    // Going on does not hide it.
    let audit = world.start();
    (0..20).for_each(|_| audit.record(Event::Restored));
    audit.stop();
    let verdict = verify(&world.dir(), &[anchor]).expect("a verdict");
    assert_eq!(verdict.findings[0].fault, Fault::Rewritten, "{verdict:?}");
}

#[test]
fn what_is_missing_at_the_end_is_on_record_after_the_next_start() {
    let world = World::of(50);
    let (path, _) = world.place(50);
    let text = fs::read_to_string(&path).expect("text");
    let kept: Vec<&str> = text.lines().take(45).collect();
    fs::write(&path, kept.join("\n") + "\n").expect("written");
    let audit = world.start();
    audit.flush();
    let what = "lines 46 to 50 at the end are missing";
    assert_eq!(audit.health().damage.as_deref(), Some(what));
    audit.stop();
    let verdict = world.verdict();
    assert_eq!((verdict.findings.len(), verdict.findings[0].fault), (1, Fault::Missing));
    assert_eq!((verdict.findings[0].seq, verdict.last), (46, 51), "{verdict:?}");
    assert!(world.text().contains(what));
    let audit = world.start();
    audit.flush();
    assert_eq!(audit.health().damage, None, "it is told once");
}

#[test]
fn an_end_that_a_crash_has_cut_is_set_aside_at_every_byte() {
    let world = World::of(6);
    let (path, _) = world.place(6);
    let whole = fs::read(&path).expect("read");
    let start =
        whole.len() - whole.split_inclusive(|b| *b == b'\n').next_back().expect("a line").len();
    // What was not synced: the head tells of the line before.
    let line = &whole[..start].split(|b| *b == b'\n').nth(4).expect("a line");
    let mut head = chain::head(&world.dir()).expect("a head");
    (head.seq, head.sha256) = (5, Sha256::of(line));
    let head = serde_json::to_vec(&head).expect("json");
    for cut in start + 1..whole.len() {
        let zeros = cut % 3 == 0;
        let mut torn = whole[..cut].to_vec();
        if zeros {
            torn.resize(whole.len() + 100, 0);
            torn.extend_from_slice(b"\n{\"seq\":7}\n");
        }
        fs::write(&path, &torn).expect("written");
        fs::write(world.dir().join("head.json"), &head).expect("written");
        let audit = world.start();
        audit.record_synced(Event::Restored).expect("on record");
        audit.stop();
        let verdict = world.verdict();
        assert!(verdict.valid, "{cut}: {verdict:?}");
        assert_eq!((verdict.last, verdict.torn), (7, 1), "{cut}: {verdict:?}");
        let text = world.text();
        let told: serde_json::Value =
            serde_json::from_str(text.lines().nth(5).expect("told")).expect("json");
        assert_eq!(told["details"]["offset"], start, "{cut}");
        let aside = world.dir().join(told["details"]["aside"].as_str().expect("a name"));
        assert_eq!(fs::read(&aside).expect("kept"), &torn[start..], "{cut}");
        fs::remove_dir_all(world.dir().join("aside")).expect("removed");
    }
}

#[test]
fn the_log_is_valid_and_silent_after_an_erasure() {
    let world = World::of(20);
    let audit = world.start();
    let (old, number) = (subject(3), Clear::number("05550000003"));
    let hold = Event::HoldAdded { hold: 1, case: Clear::name("Doe"), query: Some(number) };
    audit.record_synced(Entry::new(hold).on(subject(4)).why("asked by Doe")).expect("recorded");
    let shown = show(&world.dir(), &Filter { limit: 100, ..Filter::default() }).expect("shown");
    let line = shown.lines.last().expect("a line");
    assert_eq!((&line["details"]["case"], &line["why"]), (&"Doe".into(), &"asked by Doe".into()));
    assert_eq!(line["recording"]["path"], subject(4).path.to_str().expect("text"));
    let of = Filter {
        recording: Some(old.path.to_str().expect("text").into()),
        limit: 100,
        ..Filter::default()
    };
    assert_eq!(show(&world.dir(), &of).expect("shown").lines.len(), 1);

    let dry = audit.erase("0555 0000003", Who::Engine, true).expect("looked");
    assert_eq!(dry.texts.len(), 2, "{dry:?}");
    assert_eq!(audit.erase("05550000003", Who::Engine, false).expect("erased"), dry);
    assert_eq!(audit.erase("doe", Who::Engine, false).expect("erased").texts.len(), 2);
    audit.stop();
    let verdict = world.verdict();
    assert!(verdict.valid && verdict.last == 23, "{verdict:?}");
    assert_eq!(show(&world.dir(), &of).expect("shown").lines.len(), 0);
    let shown = show(&world.dir(), &Filter { limit: 100, ..Filter::default() }).expect("shown");
    let text = serde_json::to_string(&shown.lines).expect("json");
    assert!(!text.contains("Doe") && !text.contains("0000003"), "{text}");
    assert!(text.contains("(erased)") && text.contains("05550000004"), "{text}");
    assert_eq!(shown.lines.last().expect("a line")["event"], "erased");
    for file in fs::read_dir(world.dir()).expect("listed").flatten() {
        let bytes = fs::read(file.path()).unwrap_or_default();
        assert!(!bytes.windows(3).any(|part| part == b"Doe"), "{:?}", file.path());
    }
}

#[test]
fn nobody_else_can_read_the_log_or_its_names() {
    use std::os::unix::fs::MetadataExt;
    let world = World::new();
    let audit = world.start();
    audit.record_synced(Entry::new(Event::Restored).on(subject(1))).expect("on record");
    let mut seen = 0;
    for file in fs::read_dir(world.dir()).expect("listed").flatten() {
        let mode = file.metadata().expect("there").mode();
        assert_eq!(mode & 0o077, 0, "{:?} {mode:o}", file.path());
        seen += 1;
    }
    assert!(seen > 5, "{seen} files");
}

#[test]
fn times_choose_lines() {
    let world = World::new();
    let audit = world.start();
    let mut at = Vec::new();
    for _ in 0..3 {
        audit.record_synced(Event::Restored).expect("recorded");
        at.push(world.clock.now());
        world.clock.advance(std::time::Duration::from_secs(60));
    }
    let lines = |since, until| {
        let filter = Filter { since, until, limit: 10, ..Filter::default() };
        show(&world.dir(), &filter).expect("shown").lines.len()
    };
    assert_eq!(lines(Some(at[1]), None), 2);
    assert_eq!(lines(Some(at[1]), Some(at[2])), 1);
    assert_eq!(lines(None, None), 4);
    let newest = show(&world.dir(), &Filter { limit: 1, ..Filter::default() }).expect("shown");
    assert!(newest.more && newest.lines[0]["seq"] == 4);
}

#[test]
fn two_do_not_write_the_same_log() {
    let world = World::new();
    let first = world.start();
    first.record_synced(Event::Restored).expect("on record");
    let second = world.start();
    assert!(second.record_synced(Event::Restored).is_err());
    first.stop();
    drop(first);
    second.record_synced(Event::Restored).expect("by now");
    drop(second);
    assert_eq!(world.verdict().last, 3);
}
