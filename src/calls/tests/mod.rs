//! Call records of real calls, read from each kind of source.

mod following;
mod ties;

use super::*;
use crate::clock::ManualClock;
use std::collections::BTreeMap;
use std::fmt::Write as _;

/// A catalog that holds what a test says.
#[derive(Default)]
pub(super) struct Names(pub Mutex<BTreeMap<u64, (String, State)>>);

impl Recordings for Names {
    fn after(&self, cursor: u64, limit: usize) -> std::result::Result<Page, String> {
        let names = self.0.lock();
        let of = |(node, (path, _)): (&u64, &(String, State))| Recording {
            node: NodeId(*node),
            path: path.clone().into_bytes(),
            at: Timestamp::from_parts(1_795_228_040, 0),
        };
        let recordings: Vec<_> = names.range(cursor + 1..).take(limit).map(of).collect();
        let cursor = recordings.last().map_or(cursor, |r| r.node.0);
        Ok(Page { more: recordings.len() == limit, recordings, cursor })
    }

    fn standing(&self, node: NodeId) -> std::result::Result<Option<(State, PathBuf)>, String> {
        Ok(self.0.lock().get(&node.0).map(|(path, state)| (*state, path.into())))
    }
}

pub(super) struct Place {
    pub dir: tempfile::TempDir,
    pub clock: Arc<ManualClock>,
    pub names: Arc<Names>,
}

impl Place {
    pub fn new() -> Place {
        let dir = tempfile::tempdir().expect("tempdir");
        // An hour after the calls of the fixtures.
        let clock = ManualClock::at(Timestamp::from_parts(1_795_231_700, 0));
        Place { dir, clock, names: Arc::default() }
    }

    pub fn options(&self, source: Source) -> Options {
        Options {
            state_dir: self.dir.path().to_owned(),
            clock: self.clock.clone(),
            source,
            zone: Zone::utc(),
            names: Pattern::usual(),
            every: Duration::from_millis(20),
            timeout: Duration::from_secs(5),
            quiet: Duration::from_secs(120),
            bytes_max: 1 << 30,
            same_account: true,
        }
    }

    pub fn name(&self, node: u64, path: &str) {
        self.names.0.lock().insert(node, (path.to_owned(), State::Closed));
    }

    pub fn fixtures(&self) {
        let root = fixture("monitor");
        let mut files: Vec<_> = walk(&root);
        files.sort();
        // Names do not come in the order of the calls.
        files.reverse();
        for (number, path) in files.iter().enumerate() {
            let path = path.strip_prefix(&root).expect("below");
            self.name(10 + number as u64, &path.to_string_lossy());
        }
    }

    pub fn start(&self, source: Source) -> Arc<Calls> {
        let calls = Calls::start(self.options(source), self.names.clone()).expect("start");
        assert!(calls.refresh(Duration::from_secs(20)), "{:?}", calls.status());
        calls
    }

    pub fn file(&self, name: &str, text: &str) -> PathBuf {
        let path = self.dir.path().join(name);
        std::fs::write(&path, text).expect("write");
        path
    }
}

fn fixture(path: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(path)
}

fn walk(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).expect("fixtures").flatten() {
        let path = entry.path();
        if path.is_dir() { found.extend(walk(&path)) } else { found.push(path) }
    }
    found
}

pub(super) fn csv(path: PathBuf) -> Source {
    Source::Csv { path, columns: Columns::Asterisk, cel: None }
}

/// The columns of the fixture of cdr_custom.
fn custom() -> Columns {
    let names = "start clid src dst dcontext channel dstchannel lastapp lastdata duration billsec \
                 disposition amaflags accountcode uniqueid userfield did recordingfile cnum cnam \
                 linkedid peeraccount sequence start answer end";
    Columns::Custom(names.split(' ').map(|n| Field::of(n).expect(n)).collect())
}

fn sources() -> Vec<(&'static str, Source)> {
    let from = From::Table("cdr".to_owned());
    vec![
        ("csv", csv(fixture("cdr/csv-Master.csv"))),
        (
            "custom",
            Source::Csv { path: fixture("cdr/custom-Master.csv"), columns: custom(), cel: None },
        ),
        ("sqlite", Source::Sqlite { path: fixture("cdr/master.db"), from, cel: None }),
    ]
}

/// Every call as text: its name, its legs in order with their kinds, whether it is complete.
pub(super) fn told(calls: &Calls, at_least: usize) -> String {
    let mut text = String::new();
    let mut listed = calls.list(0, at_least, 1000).expect("list");
    listed.sort_by(|a, b| a.linkedid.cmp(&b.linkedid));
    for one in listed {
        let call = calls.legs(&one.linkedid).expect("legs").expect("a call");
        assert_eq!(call.legs.len(), one.recordings, "{}", one.linkedid);
        let kinds: Vec<_> = call.legs.iter().map(|l| kind(&l.path)).collect();
        let done = if call.complete { "complete" } else { "open" };
        let _ = writeln!(text, "{} {} {done}", call.linkedid, kinds.join(" "));
    }
    text
}

fn kind(path: &Path) -> String {
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    name.split('-').next().unwrap_or_default().to_owned()
}

#[test]
fn real_calls_have_their_legs_in_order_from_every_kind_of_source() {
    for (kind, source) in sources() {
        let place = Place::new();
        place.fixtures();
        let expected: Vec<String> = {
            let names = place.names.0.lock();
            let of = |(path, _): &(String, State)| {
                path.rsplit('-').next().unwrap_or_default().trim_end_matches(".wav").to_owned()
            };
            names.values().filter(|(p, _)| p.contains("external")).map(of).collect()
        };
        let calls = place.start(source);
        place.clock.advance(Duration::from_secs(120));
        let mut want: Vec<_> =
            expected.iter().map(|id| format!("{id} external q exten complete\n")).collect();
        want.sort();
        assert_eq!(told(&calls, 2), want.concat(), "{kind}");
        assert_eq!(calls.status().feeds[0].rows, 20, "{kind}");
        assert_eq!(calls.status().feeds[0].bad, 0, "{kind}");
    }
}

#[test]
fn every_leg_leads_to_its_call_and_its_facts() {
    for (kind, source) in sources() {
        let place = Place::new();
        place.fixtures();
        let calls = place.start(source);
        let names = place.names.0.lock().clone();
        for (path, _) in names.values() {
            let path = Path::new(path);
            let call = calls.call_of(path).expect("ask").expect("a call");
            assert_eq!(call.legs.len(), 3, "{kind} {}", path.display());
            let facts = calls.facts_of(path).expect("ask").expect("facts");
            assert!(facts.matched, "{kind} {}", path.display());
            assert_eq!(facts.linkedid, call.linkedid);
            assert!(facts.record.src.starts_with("0207946000"), "{:?}", facts.record);
            assert!(facts.record.accountcode.starts_with("acct"));
        }
        assert_eq!(calls.facts_of(Path::new("nobody.wav")).expect("ask"), None);
        assert_eq!(calls.legs("nobody").expect("ask"), None);
    }
}

#[test]
fn names_alone_tell_of_calls_too() {
    let place = Place::new();
    place.fixtures();
    let calls = place.start(Source::Names);
    assert_eq!(calls.list(0, 1, 100).expect("list").len(), 6, "each a call of its own");
    let path = place.names.0.lock().values().next().expect("one").0.clone();
    let facts = calls.facts_of(Path::new(&path)).expect("ask").expect("facts");
    assert!(!facts.matched);
    assert!(facts.record.src.starts_with("0207946"));
}

fn found(calls: &Calls, filter: &Filter) -> Vec<String> {
    let mut paths = Vec::new();
    calls
        .find(filter, &mut |found| {
            paths.push(kind(&found.path));
            true
        })
        .expect("find");
    paths.sort();
    paths
}

#[test]
fn recordings_are_found_by_what_the_records_say() {
    let place = Place::new();
    place.fixtures();
    let (_, source) = sources().remove(1);
    let calls = place.start(source);
    let some = |text: &str| Some(text.to_owned());
    let all = ["exten", "external", "q"];
    let number = |text: &str| found(&calls, &Filter { number: some(text), ..Filter::default() });
    let caller = place
        .names
        .0
        .lock()
        .values()
        .find(|(p, _)| p.contains("external"))
        .map(|(p, _)| p.split('-').nth(2).expect("caller").to_owned());
    let caller = caller.expect("a caller");
    assert_eq!(number(&caller), all);
    assert_eq!(number(&format!("+44 {}", &caller[1..])), [""; 0], "another country's dialling");
    assert_eq!(number(&caller[caller.len() - 7..]), all, "its end");
    let agent = format!("200{}", 0);
    assert_eq!(number(&agent), [""; 0], "a short number is compared whole");
    let at = |secs| Some(Timestamp::from_parts(secs, 0));
    let time = |from, to| found(&calls, &Filter { from, to, ..Filter::default() }).len();
    assert_eq!(time(at(1_795_228_000), at(1_795_229_000)), 6);
    assert_eq!(time(at(1_795_229_000), None), 0);
    assert_eq!(time(None, at(1_795_228_000)), 0);
    let linkedid = calls.list(0, 2, 1).expect("list")[0].linkedid.clone();
    assert_eq!(found(&calls, &Filter { linkedid: Some(linkedid), ..Filter::default() }), all);
    let mut calls_found = 0;
    let filter = Filter { number: some(&caller), ..Filter::default() };
    calls
        .find_calls(&filter, &mut |call| {
            calls_found += call.legs.len();
            true
        })
        .expect("find");
    assert_eq!(calls_found, 3, "one call");
}

#[test]
fn gaps_are_answered_calls_without_recording_and_recordings_without_record() {
    let place = Place::new();
    place.fixtures();
    place.name(900, "2026/11/21/out-7-8-20261121-022709-1795228029.999.wav");
    place.name(901, "2026/11/21/out-7-8-20261121-022709-1795228029.999.txt");
    let (_, source) = sources().remove(1);
    let calls = place.start(source);
    let at = |secs| Timestamp::from_parts(secs, 0);
    let gaps = calls.gaps(at(1_795_228_000), at(1_795_229_000), 100).expect("gaps");
    // Of the four calls of the fixtures two have their recordings in the repository.
    assert_eq!(gaps.calls.len(), 2, "{:?}", gaps.calls);
    assert_eq!(gaps.recordings.len(), 1);
    assert_eq!(gaps.recordings[0].0, NodeId(900));
    place.names.0.lock().get_mut(&900).expect("it").1 = State::Recording;
    let gaps = calls.gaps(at(1_795_228_000), at(1_795_229_000), 100).expect("gaps");
    assert!(gaps.recordings.is_empty(), "one in progress is not missing its record");
    let none = calls.gaps(at(1_795_238_000), at(1_795_239_000), 100).expect("gaps");
    assert_eq!(none, Gaps::default());
}

#[test]
fn what_joining_needs_is_the_same_by_the_page_and_by_the_call() {
    for (source, from) in sources() {
        let place = Place::new();
        place.fixtures();
        let calls = place.start(from);
        for at_least in [1, 2] {
            let page = calls.list_joined(0, at_least, 100).expect("list");
            let ids: Vec<u64> = page.iter().map(|one| one.id).collect();
            let listed = calls.list(0, at_least, 100).expect("list");
            assert_eq!(ids, listed.iter().map(|one| one.id).collect::<Vec<_>>(), "{source}");
            let mut one_by_one = Vec::new();
            while let Some(next) = calls
                .list_joined(one_by_one.last().copied().unwrap_or(0), at_least, 1)
                .expect("list")
                .pop()
            {
                one_by_one.push(next.id);
            }
            assert_eq!(one_by_one, ids, "{source}");
            for one in page {
                let call = calls.legs(&one.linkedid).expect("ask").expect("call");
                let legs: Vec<_> = one.legs.iter().map(|l| (l.node, l.start)).collect();
                assert_eq!(legs, call.legs.iter().map(|l| (l.node, l.start)).collect::<Vec<_>>());
                assert_eq!(calls.joined(&one.linkedid).expect("ask"), one.legs, "{source}");
            }
        }
        // Who called is heard on the channel that the call is named after.
        let call = calls.legs("1795228029.1").expect("ask").expect("call");
        let kinds = call.legs.iter().map(|leg| kind(&leg.path));
        let called = calls.joined("1795228029.1").expect("ask");
        let told: Vec<_> = kinds.zip(called.iter().map(|leg| leg.called)).collect();
        let wanted = [("external", Some(false)), ("q", Some(true)), ("exten", Some(true))];
        assert_eq!(told, wanted.map(|(kind, called)| (kind.to_owned(), called)), "{source}");
        assert_eq!(calls.joined("1795228032.23").expect("ask"), called, "by any of its ids");
    }
}

#[test]
fn a_call_in_progress_is_not_complete() {
    let place = Place::new();
    place.fixtures();
    let calls = place.start(csv(fixture("cdr/csv-Master.csv")));
    place.clock.advance(Duration::from_secs(120));
    let id = calls.list(0, 2, 1).expect("list")[0].linkedid.clone();
    assert!(calls.legs(&id).expect("ask").expect("call").complete);
    let node = calls.legs(&id).expect("ask").expect("call").legs[0].node;
    place.names.0.lock().get_mut(&node.0).expect("it").1 = State::Recording;
    let call = calls.legs(&id).expect("ask").expect("call");
    assert!(!call.complete && call.legs.len() == 3);
    place.names.0.lock().remove(&node.0);
    assert_eq!(calls.legs(&id).expect("ask").expect("call").legs.len(), 2, "it was removed");
}

#[test]
fn a_recording_of_several_files_is_one_leg() {
    let place = Place::new();
    let path = place
        .file("c.csv", "\"2026-11-21 02:27:09\",\"1\",\"20261121-022709_555\",\"1795228029.1\"\n");
    let columns = ["start", "src", "recordingfile", "uniqueid"];
    let columns = Columns::Custom(columns.iter().map(|n| Field::of(n).expect(n)).collect());
    for (node, name) in [
        (5, "ORIG/20261121-022709_555-in.wav"),
        (6, "ORIG/20261121-022709_555-out.wav"),
        (7, "MP3/20261121-022709_555-all.mp3"),
    ] {
        place.name(node, name);
    }
    let calls = place.start(Source::Csv { path, columns, cel: None });
    let call = calls.legs("1795228029.1").expect("ask").expect("call");
    assert_eq!(call.legs.len(), 1);
    assert_eq!(call.legs[0].path, Path::new("MP3/20261121-022709_555-all.mp3"));
}
