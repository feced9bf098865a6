//! A log whose first lines left.

use super::*;

/// `audit_keep` of these tests.
const KEEP: std::time::Duration = limits::AUDIT_KEEP_LEAST;

impl World {
    /// A year later the oldest file leaves, as the engine lets it.
    pub fn shorten(&self) -> Leaving {
        self.clock.advance(KEEP + std::time::Duration::from_secs(1));
        let audit = self.start();
        audit.flush();
        let left = self.let_leave(&audit);
        audit.stop();
        left
    }

    pub fn let_leave(&self, audit: &Audit) -> Leaving {
        written(audit, 1);
        let before = self.clock.now().minus(KEEP);
        let oldest = leaving(&self.dir(), before).expect("read").expect("old enough");
        let Leaving { first, last, sha256, newest } = oldest.clone();
        let event = Event::LinesLeft {
            chain: audit.health().head.expect("a head").chain,
            node: "pbx".into(),
            first,
            last,
            sha256,
            newest,
            audit_keep: crate::units::duration_text(KEEP),
        };
        audit.record_synced(event).expect("on record");
        audit.leave(last).expect("gone");
        oldest
    }

    /// A log of three files: two of `lines` lines, and what was begun after them.
    pub fn of_files(lines: u64) -> World {
        let world = World::of(lines);
        let audit = world.start();
        for _ in 0..2 {
            audit.renew();
            (0..lines).for_each(|n| audit.record(Entry::new(Event::Restored).on(subject(n))));
            audit.flush();
        }
        audit.stop();
        assert_eq!(chain::segments(&world.dir()).expect("listed").len(), 3);
        world
    }
}

#[test]
fn every_flipped_bit_of_a_shortened_log_is_found_in_its_line() {
    let world = World::of_files(12);
    let (first, last) = (world.shorten().last + 1, 37);
    let mut random = fastrand::Rng::with_seed(9);
    for _ in 0..600 {
        let seq = random.u64(first..=last);
        let mut what = (0, 0);
        let verdict = world.with_lines(
            seq,
            |lines, at| {
                what = (random.usize(..lines[at].len()), random.u32(..8));
                flip(&mut lines[at], what.0, what.1);
            },
            World::verdict,
        );
        let torn = seq == last && verdict.findings.iter().any(|f| f.fault == Fault::Torn);
        let found = verdict.findings.iter().any(|f| world.is_at(f, seq));
        assert!(!verdict.valid && (found || torn), "{seq} {what:?}: {verdict:?}");
        assert!(verdict.findings.len() <= 3, "{seq} {what:?}: {verdict:?}");
    }
    assert!(world.verdict().valid);
}

#[test]
fn a_log_whose_beginning_left_goes_on_under_its_name_also_without_its_head() {
    let world = World::of_files(12);
    let chain = world.verdict().chain.expect("a name");
    world.shorten();
    fs::remove_file(world.dir().join("head.json")).expect("removed");
    let verdict = world.verdict();
    assert!(verdict.valid, "{verdict:?}");
    assert_eq!((verdict.chain.as_ref(), verdict.node.as_deref()), (Some(&chain), Some("pbx")));
    let audit = world.start();
    audit.record_synced(Event::Restored).expect("on record");
    assert_eq!(audit.health().head.expect("a head").chain, chain);
    assert_eq!(audit.health().damage, None);
    // The next file leaves in the same way, and the line that told of the first one some day, too.
    let second = world.let_leave(&audit);
    audit.stop();
    let verdict = world.verdict();
    assert!(verdict.valid, "{verdict:?}");
    assert_eq!(verdict.left.map(|left| left.last), Some(second.last));
    let edge = world.anchor(verdict.last);
    let verdict = verify(&world.dir(), &[edge]).expect("a verdict");
    assert!(verdict.valid && verdict.anchored == Some(verdict.last), "{verdict:?}");
}

/// A check had listed the files when the oldest left.
#[test]
fn a_log_that_is_shortened_while_it_is_read_is_checked_as_it_is_then() {
    let world = World::of_files(12);
    let mut left = Vec::new();
    let mut looks = 0;
    let verdict = chain::steadily(&world.dir(), |all| {
        looks += 1;
        match left.len() {
            // Before any file is opened.
            0 => left.push(world.shorten().last),
            // With all of it read.
            1 => {
                let verdict = check::look(&world.dir(), all, &[]);
                let audit = world.start();
                left.push(world.let_leave(&audit).last);
                audit.stop();
                return verdict;
            }
            _ => {}
        }
        check::look(&world.dir(), all, &[])
    });
    let verdict = verdict.expect("a verdict");
    assert!(verdict.valid, "{verdict:?}");
    assert_eq!((looks, verdict.first), (3, left[1] + 1));
    assert_eq!(verdict.left.map(|left| left.last), Some(left[1]));
    // What is missing for another reason is an error, and looked at once.
    let (path, _) = world.place(verdict.first);
    let mut looks = 0;
    let found = chain::steadily(&world.dir(), |all| {
        looks += 1;
        fs::create_dir_all(world.dir().join("aside")).expect("made");
        fs::rename(&path, world.dir().join("aside/x")).expect("taken away");
        let found = check::look(&world.dir(), all, &[]);
        fs::rename(world.dir().join("aside/x"), &path).expect("put back");
        found
    });
    assert!(found.is_err() && looks == 1, "{found:?}");
}

#[test]
fn who_says_himself_that_lines_left_is_found_out() {
    let world = World::of_files(12);
    let anchor = world.anchor(30);
    world.shorten();
    let (path, _) = world.place(37);
    let good = fs::read_to_string(&path).expect("text");
    let head = fs::read(world.dir().join("head.json")).expect("read");
    // The last line tells it: nothing behind it holds its digest, but the head does.
    let told = |from: &str, to: &str| {
        assert!(good.contains(from), "{good}");
        fs::write(&path, good.replace(from, to)).expect("written");
        fs::remove_file(world.dir().join("head.json")).expect("removed");
        let verdict = world.verdict();
        fs::write(&path, &good).expect("put back");
        fs::write(world.dir().join("head.json"), &head).expect("put back");
        verdict
    };
    assert!(told("lines_left", "lines_left").valid);
    let seq = |verdict: Verdict| -> Vec<_> {
        verdict.findings.iter().map(|f| (f.fault, f.seq)).collect()
    };
    // Less than can be configured, younger than was configured, and fewer lines.
    assert_eq!(seq(told("\"365d\"", "\"364d\"")), [(Fault::Missing, 1)]);
    assert_eq!(seq(told("\"365d\"", "\"366d\"")), [(Fault::Missing, 1)]);
    assert_eq!(seq(told("\"last\":12,", "\"last\":11,")), [(Fault::Missing, 12)]);
    assert_eq!(seq(told("\"last\":12,", "\"last\":13,")), [(Fault::Missing, 1)]);
    let digest = world.verdict().left.expect("told").sha256.to_string();
    let other = Sha256::of(b"other").to_string();
    assert_eq!(seq(told(&digest, &other)), [(Fault::Altered, 13)]);
    // One that fits, and of which no target was told.
    let verdict = verify(&world.dir(), std::slice::from_ref(&anchor)).expect("a verdict");
    assert_eq!(seq(verdict.clone()), [(Fault::Missing, 12)], "{verdict:?}");
    assert!(verdict.findings[0].detail.contains("line 37"), "{verdict:?}");
    // A target that was told of the last line before knows which one that was.
    let edge = |sha256| Anchor { seq: 12, sha256, ..anchor.clone() };
    let left = verdict.left.expect("told").sha256;
    let of = |sha256| seq(verify(&world.dir(), &[world.anchor(37), edge(sha256)]).expect("one"));
    assert_eq!(of(left), []);
    assert_eq!(of(Sha256::of(b"other")), [(Fault::Rewritten, 13)]);
}

#[test]
fn with_its_lines_go_the_names_that_no_other_line_has() {
    let world = World::new();
    let audit = world.start();
    let record = |n| audit.record(Entry::new(Event::Restored).on(subject(n)));
    (0..20).for_each(record);
    audit.flush();
    audit.renew();
    (10..30).for_each(record);
    audit.flush();
    fs::write(world.dir().join("aside/000000000001-77-1.told"), b"torn").expect("written");
    fs::write(world.dir().join("aside/000000000022-99-1.told"), b"torn").expect("written");
    world.clock.advance(KEEP);
    let before = world.clock.now().minus(KEEP);
    assert_eq!(leaving(&world.dir(), before).expect("read"), None, "not a moment too soon");
    world.clock.advance(std::time::Duration::from_secs(1));
    assert_eq!(world.let_leave(&audit).last, 21);
    audit.stop();
    let names = names::Names::look(&world.dir()).expect("opened");
    let known = names.about("wav").expect("read");
    let of = |n: u64| subject(n).path.to_string_lossy().into_owned();
    let there = |n: u64| known.iter().any(|(_, text)| *text == of(n));
    assert_eq!((0..10).find(|n| there(*n)), None);
    assert_eq!((10..30).find(|n| !there(*n)), None);
    let files = fs::read_dir(world.dir()).expect("listed").flatten();
    for file in files.filter(|file| file.path().is_file()) {
        let bytes = fs::read(file.path()).expect("read");
        assert!(!String::from_utf8_lossy(&bytes).contains(&of(3)), "{:?}", file.path());
    }
    let aside = fs::read_dir(world.dir().join("aside")).expect("listed").flatten();
    let aside: Vec<_> = aside.map(|file| file.file_name()).collect();
    assert_eq!(aside, ["000000000022-99-1.told"]);
    let shown = show(&world.dir(), &Filter { limit: 100, ..Filter::default() }).expect("shown");
    assert_eq!(shown.lines.len(), 21);
    assert_eq!(shown.lines[0]["recording"]["path"], of(10));
    // The file that is written to never leaves.
    world.clock.advance(KEEP * 2);
    assert_eq!(leaving(&world.dir(), world.clock.now()).expect("read"), None);
}

#[test]
fn only_what_is_no_more_in_the_log_is_taken_for_lines_that_left() {
    let world = World::of_files(12);
    let strange = [
        // Of a backup that was taken while lines left.
        "000000000001-000000000020.left",
        "000000000001-999999999999.left",
        "000000000009-000000000002.left",
        "1-12.left",
        "old-000000000003.left",
    ];
    for name in strange {
        fs::write(world.dir().join(name), b"somebody's").expect("written");
    }
    let known = || {
        let names = names::Names::look(&world.dir()).expect("opened");
        names.about("wav").expect("read").len()
    };
    let before = known();
    let audit = world.start();
    audit.leave(0).expect("nothing left");
    audit.stop();
    assert_eq!(known(), before);
    assert!(!is_cut_off(&world.dir()).expect("read"));
    // Beside them lines leave as ever.
    assert_eq!(world.shorten().last, 12);
    assert!(!is_cut_off(&world.dir()).expect("read"));
    for name in strange {
        assert_eq!(fs::read(world.dir().join(name)).expect("there"), b"somebody's", "{name}");
    }
}
