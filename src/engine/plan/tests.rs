use super::*;
use crate::catalog::NodeRow;
use crate::policy::{Matches, Patterns, Policy, Treatment, Words};
use crate::recording::{Attr, Generation, LowerVersion, NodeId, Sha256, stem};
use std::time::Duration;

const SECOND: i64 = 1_000_000_000;
const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3600);

fn at(secs: i64) -> Timestamp {
    Timestamp(secs * SECOND)
}

fn rules() -> Rules {
    Rules {
        archive_after: Some(5 * MINUTE),
        keep_local: Some(24 * HOUR),
        adopt_keep_local: Some(7 * 24 * HOUR),
        settle: Duration::from_secs(2),
        exclude: Patterns::new(&["*.tmp", "*.xml"]).unwrap(),
        ..Rules::default()
    }
}

/// A file closed at second 1000, hashed.
fn file(id: u64, name: &str, state: State) -> Candidate {
    let version = LowerVersion { ino: id, size: 10, mtime: at(999), ctime: at(999) };
    let archived = matches!(state, State::Archived | State::Released);
    Candidate {
        row: NodeRow {
            id: NodeId(id),
            state,
            attr: Attr {
                kind: Kind::File,
                mode: 0o644,
                uid: 0,
                gid: 0,
                size: 10,
                mtime: at(999),
                atime: at(999),
                ctime: at(999),
                nlink: 1,
                rdev: 0,
                blocks: 8,
                special: 0o100_000,
            },
            generation: Generation(1),
            sha256: Some(Sha256::of(b"x")),
            hashed: Some(version),
            closed_at: Some(at(1000)),
            archived_at: archived.then(|| at(2000)),
            recalled_at: None,
            adopted: false,
            xattrs: Vec::new(),
            suspect: None,
        },
        path: PathBuf::from("d").join(name),
        parent: NodeId::ROOT,
        stem: stem(name.as_bytes()),
        not_before: None,
        trashed: false,
    }
}

/// A file for the tests of others.
pub(in crate::engine) fn file_for_tests(id: u64, name: &str) -> Candidate {
    file(id, name, State::Closed)
}

fn step(it: &Candidate, group: &[Candidate], secs: i64) -> Action {
    step_with(it, group, secs, &rules(), &["a".to_owned()])
}

fn step_with(it: &Candidate, group: &[Candidate], secs: i64, r: &Rules, t: &[String]) -> Action {
    let (pins, holds) = (Pins::default(), Holds::default());
    let (now, known) = (at(secs), &Campaign);
    next(it, group, Facts { rules: r, required: t, pins: &pins, holds: &holds, known, now })
}

/// Knows that "c-sales.wav" is of the campaign SALES, "c-none.wav" of none, and nothing else.
#[derive(Debug)]
struct Campaign;

impl Known for Campaign {
    fn call_of(&self, it: &Candidate) -> Arc<CallFacts> {
        let campaign = match it.path.file_name().and_then(|name| name.to_str()) {
            Some("c-sales.wav") => Some("SALES".to_owned()),
            Some("c-none.wav") => Some(String::new()),
            _ => None,
        };
        Arc::new(CallFacts { campaign, ..CallFacts::default() })
    }
}

/// The usual rules, and one for the campaign SALES: archived after an hour, kept for an hour.
fn rules_with_a_policy() -> Rules {
    let campaign = Words::new(&["SALES"]).unwrap();
    let treatment = Treatment {
        archive_after: Some(HOUR),
        keep_local: Some(HOUR),
        adopt_keep_local: Some(HOUR),
        ..Treatment::default()
    };
    let matches = Matches { campaign, ..Matches::default() };
    let policies = vec![Policy { name: "sales".into(), matches, treatment }];
    Rules { policies, ..rules() }
}

#[test]
fn a_recording_is_archived_in_the_time_of_its_rule_and_at_the_earliest_while_that_is_not_known() {
    let rules = rules_with_a_policy();
    let step = |name: &str, secs: i64| {
        step_with(&file(7, name, State::Closed), &[], secs, &rules, &["a".to_owned()])
    };
    assert_eq!(step("c-sales.wav", 4599), wait(4600, Why::Window));
    assert_eq!(step("c-sales.wav", 4600), Action::Archive);
    for name in ["c-none.wav", "c-unknown.wav"] {
        assert_eq!(step(name, 1299), wait(1300, Why::Window), "{name}");
        assert_eq!(step(name, 1300), Action::Archive, "{name}");
    }
}

#[test]
fn what_has_no_call_record_waits_for_it_as_long_as_is_configured() {
    let rules = Rules { require_cdr: Some(HOUR), ..rules() };
    let targets = ["a".to_owned()];
    let step = |it: &Candidate, secs| step_with(it, &[], secs, &rules, &targets);
    let (told, unknown) =
        (file(7, "c-none.wav", State::Closed), file(8, "c-unknown.wav", State::Closed));
    assert_eq!(step(&told, 1300), Action::Archive);
    assert_eq!(step(&unknown, 1299), wait(1300, Why::Window));
    for secs in [1300, 4599] {
        assert_eq!(step(&unknown, secs), wait(4600, Why::NoRecord), "{secs}");
    }
    assert_eq!(step(&unknown, 4600), Action::Archive);
    let hurried = rules.hurried();
    assert_eq!(step_with(&unknown, &[], 1300, &hurried, &targets), Action::Archive, "a full disk");
    let mut suspect = unknown.clone();
    suspect.row.suspect = Some(at(1000));
    assert_eq!(step(&suspect, 1300), Action::Archive, "it may be in memory only");
}

#[test]
fn a_local_copy_stays_for_the_time_of_its_rule_and_the_longest_while_that_is_not_known() {
    let rules = rules_with_a_policy();
    let (hour, day) = (3600, 24 * 3600);
    for (name, keep) in [("c-sales.wav", hour), ("c-none.wav", day), ("c-unknown.wav", day)] {
        let it = file(7, name, State::Archived);
        let step = |secs: i64| step_with(&it, &[], secs, &rules, &["a".to_owned()]);
        assert_eq!(step(2000 + keep - 1), wait(2000 + keep, Why::KeepLocal), "{name}");
        assert_eq!(step(2000 + keep), Action::Release, "{name}");
    }
}

fn wait(secs: i64, why: Why) -> Action {
    Action::Wait { until: Some(at(secs)), why }
}

fn keep(why: Why) -> Action {
    Action::Keep { why }
}

#[test]
fn a_closed_file_is_settled_then_hashed_then_archived() {
    let mut it = file(7, "a.wav", State::Closed);
    assert_eq!(step(&it, &[], 1301), Action::Archive);
    assert_eq!(step(&it, &[], 1299), wait(1300, Why::Window));
    it.row.hashed = None;
    assert_eq!(step(&it, &[], 1001), wait(1002, Why::Settling));
    assert_eq!(step(&it, &[], 1002), Action::Hash);
    // An earlier generation's stamp is no hash of what is there now.
    it.row.hashed = Some(LowerVersion { ino: 7, size: 9, mtime: at(999), ctime: at(999) });
    assert_eq!(step(&it, &[], 5000), Action::Hash);
}

#[test]
fn what_is_open_empty_or_no_file_is_left_alone() {
    let open = file(7, "a.wav", State::Recording);
    assert_eq!(step(&open, &[], 9000), Action::Wait { until: None, why: Why::Open });
    let mut it = file(7, "a.wav", State::Closed);
    it.row.attr.size = 0;
    assert_eq!(step(&it, &[], 9000), keep(Why::Empty));
    it.row.attr.kind = Kind::Symlink;
    assert_eq!(step(&it, &[], 9000), keep(Why::NoFile));
    assert_eq!(step(&file(7, "a.wav", State::Deleted), &[], 9000), keep(Why::Deleted));
    assert_eq!(step(&file(7, "a.wav", State::Released), &[], 9000), keep(Why::Released));
}

#[test]
fn rules_and_failures_hold_an_archive_back() {
    let mut it = file(7, "a.wav", State::Closed);
    let never = Rules { archive_after: None, ..rules() };
    assert_eq!(step_with(&it, &[], 9000, &never, &["a".into()]), keep(Why::Never));
    assert_eq!(step_with(&it, &[], 9000, &rules(), &[]), keep(Why::NoTarget));
    it.not_before = Some(at(9500));
    assert_eq!(step(&it, &[], 9000), wait(9500, Why::Failed));
    assert_eq!(step(&it, &[], 9500), Action::Archive);
    let excluded = file(7, "a.tmp", State::Closed);
    assert!(matches!(step(&excluded, &[], 9000), Action::Keep { why: Why::Excluded(_) }));
}

#[test]
fn keep_local_counts_from_the_archive_or_the_last_recall() {
    let day = 24 * 3600;
    let mut it = file(7, "a.wav", State::Archived);
    assert_eq!(step(&it, &[], 2000 + day - 1), wait(2000 + day, Why::KeepLocal));
    assert_eq!(step(&it, &[], 2000 + day), Action::Release);
    it.row.recalled_at = Some(at(5000));
    assert_eq!(step(&it, &[], 2000 + day), wait(5000 + day, Why::KeepLocal));
    it.row.recalled_at = None;
    it.row.adopted = true;
    assert_eq!(step(&it, &[], 2000 + day), wait(2000 + 7 * day, Why::KeepLocal));
    let forever = Rules { adopt_keep_local: None, ..rules() };
    assert_eq!(step_with(&it, &[], i64::MAX / SECOND, &forever, &["a".into()]), keep(Why::Forever));
}

#[test]
fn a_file_with_several_names_stays() {
    let mut it = file(7, "a.wav", State::Archived);
    it.row.attr.nlink = 2;
    assert_eq!(step(&it, &[], 900_000), keep(Why::Linked));
}

#[test]
fn a_group_is_released_together() {
    let it = file(7, "a.wav", State::Archived);
    let blocked = |why| Why::Group { path: "d/a.txt".into(), why: Box::new(why) };
    let closed = [it.clone(), file(8, "a.txt", State::Closed)];
    let waits = Action::Wait { until: None, why: blocked(Why::NotArchived) };
    assert_eq!(step(&it, &closed, 900_000), waits);
    let open = [file(8, "a.txt", State::Recording)];
    let waits = Action::Wait { until: None, why: blocked(Why::Open) };
    assert_eq!(step(&it, &open, 900_000), waits);
    let mut late = file(8, "a.txt", State::Archived);
    late.row.archived_at = Some(at(800_000));
    let until = 800_000 + 24 * 3600;
    assert_eq!(step(&it, &[late.clone()], 850_000), wait(until, blocked(Why::KeepLocal)));
    assert_eq!(step(&it, &[late], until), Action::Release);
    assert_eq!(step(&it, &[file(8, "a.txt", State::Archived)], 900_000), Action::Release);
}

#[test]
fn of_several_that_hold_back_the_last_to_be_ready_is_told() {
    let it = file(7, "a.wav", State::Archived);
    let mut late = file(8, "a.txt", State::Archived);
    late.row.archived_at = Some(at(800_000));
    let group = [late, file(9, "a.md5", State::Closed)];
    match step(&it, &group, 850_000) {
        Action::Wait { until: None, why: Why::Group { path, .. } } => {
            assert_eq!(path, PathBuf::from("d/a.md5"));
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn what_is_never_archived_does_not_hold_its_group_back() {
    let it = file(7, "a.wav", State::Archived);
    let mut empty = file(8, "a.txt", State::Closed);
    empty.row.attr.size = 0;
    let mut link = file(9, "a.mp3", State::Recording);
    link.row.attr.kind = Kind::Symlink;
    let excluded = file(10, "a.xml", State::Closed);
    let group = [
        empty,
        link,
        excluded,
        file(11, "a.md5", State::Released),
        file(12, "a.ogg", State::Deleted),
    ];
    assert_eq!(step(&it, &group, 900_000), Action::Release);
}

#[test]
fn a_late_sidecar_of_a_released_recording_goes_when_its_own_time_has_come() {
    let mut sidecar = file(8, "a.txt", State::Archived);
    sidecar.row.archived_at = Some(at(500_000));
    let group = [file(7, "a.wav", State::Released), sidecar.clone()];
    let until = 500_000 + 24 * 3600;
    assert_eq!(step(&sidecar, &group, 500_100), wait(until, Why::KeepLocal));
    assert_eq!(step(&sidecar, &group, until), Action::Release);
}
