//! Which records and recordings are of one call.

use super::*;

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_parts(1_795_228_000 + seconds, 0)
}

fn row(uniqueid: &str, linkedid: &str, sequence: i64, start: i64, file: &str) -> CallRecord {
    CallRecord {
        uniqueid: uniqueid.to_owned(),
        linkedid: linkedid.to_owned(),
        sequence: Some(sequence),
        start: at(start),
        end: at(start + 10),
        billsec: 10,
        answered: true,
        recordingfile: file.to_owned(),
        ..CallRecord::default()
    }
}

fn event(kind: &str, uniqueid: &str, linkedid: &str, seconds: i64) -> CelEvent {
    CelEvent {
        kind: kind.to_owned(),
        at: at(seconds),
        uniqueid: uniqueid.to_owned(),
        linkedid: linkedid.to_owned(),
        ..CelEvent::default()
    }
}

#[derive(Clone)]
#[allow(clippy::large_enum_variant, reason = "a test has few")]
enum Step {
    Row(CallRecord),
    Event(CelEvent),
    Name(u64, &'static str),
}

/// An attended transfer: a customer (1) calls an agent (2); the agent puts him on hold and calls a
/// colleague from a second line (7 calls 8): a call of its own, with its own linkedid. Then the
/// agent hangs up, customer and colleague are bridged, and channel 8 takes the older linkedid. The
/// record of 7 was finished before and keeps the linkedid 7.
fn attended_transfer() -> Vec<Step> {
    vec![
        Step::Name(21, "external-1.wav"),
        Step::Name(22, "exten-2.wav"),
        Step::Name(23, "internal-7.wav"),
        Step::Name(24, "exten-8.wav"),
        Step::Row(row("1.7", "1.7", 7, 30, "internal-7.wav")),
        Step::Row(row("1.2", "1.1", 2, 5, "exten-2.wav")),
        Step::Row(row("1.8", "1.7", 8, 31, "internal-7.wav")),
        Step::Row(row("1.8", "1.1", 9, 45, "exten-8.wav")),
        Step::Row(row("1.1", "1.1", 1, 0, "external-1.wav")),
    ]
}

const TRANSFERRED: &str = "1.1 external exten internal exten";

fn with_events() -> Vec<Step> {
    let mut steps = attended_transfer();
    // Here the rows alone do not tie the two calls together: only events of channel 8 do.
    steps.retain(|s| !matches!(s, Step::Row(r) if r.sequence == Some(8)));
    steps.extend([
        Step::Event(event("CHAN_START", "1.1", "1.1", 0)),
        Step::Event(event("CHAN_START", "1.8", "1.7", 31)),
        Step::Event(event("BRIDGE_ENTER", "1.8", "1.1", 45)),
        Step::Event(event("LINKEDID_END", "1.7", "1.7", 45)),
    ]);
    steps
}

/// Writes the steps, in this order, and tells the calls.
fn after(steps: &[Step]) -> (Place, Arc<Calls>) {
    let place = Place::new();
    let calls = place.start(Source::Names);
    calls.stop();
    let mut conn = Connection::open(&calls.path).expect("open");
    let tx = conn.transaction().expect("begin");
    let writer = ingest::Writer {
        conn: &tx,
        now: at(0),
        zone: &Zone::utc(),
        patterns: &Pattern::usual(),
        refused: Default::default(),
    };
    for step in steps {
        match step {
            Step::Row(record) => writer.record(record).map(|_| ()),
            Step::Event(event) => writer.event(event),
            Step::Name(node, path) => {
                place.name(*node, path);
                let path = path.as_bytes().to_vec();
                let recording = Recording { node: NodeId(*node), path, at: at(100) };
                writer.recording(&recording).map(|_| ())
            }
        }
        .expect("written");
    }
    tx.commit().expect("commit");
    (place, calls)
}

#[test]
fn regression_an_attended_transfer_drops_no_leg_in_any_order() {
    for steps in [attended_transfer(), with_events()] {
        let mut steps = steps;
        let mut random = fastrand::Rng::with_seed(7);
        for round in 0..200 {
            if round > 0 {
                random.shuffle(&mut steps);
            }
            let (_place, calls) = after(&steps);
            let text = told(&calls, 1);
            let legs = text.rsplit_once(' ').map_or("", |(legs, _)| legs);
            assert_eq!(legs, TRANSFERRED, "round {round}");
            for id in ["1.1", "1.2", "1.7", "1.8"] {
                let call = calls.legs(id).expect("ask").expect(id);
                assert_eq!(call.legs.len(), 4, "by {id}");
            }
        }
    }
}

/// Any set of records gives the components of the graph of their ids, in any order, as a simple
/// closure finds them.
#[test]
fn calls_are_the_closure_over_both_ids() {
    let mut random = fastrand::Rng::with_seed(11);
    for round in 0..60 {
        let mut records: Vec<CallRecord> = (0..random.i64(1..30))
            .map(|n| {
                let id = |r: &mut fastrand::Rng| format!("9.{}", r.u8(0..20));
                row(&id(&mut random), &id(&mut random), n, n, "")
            })
            .collect();
        let mut want: Vec<Vec<i64>> = Vec::new();
        let mut left: Vec<&CallRecord> = records.iter().collect();
        while let Some(first) = left.pop() {
            let mut ids: Vec<String> = first.ids().map(str::to_owned).collect();
            let mut own = vec![first.sequence.unwrap_or(0)];
            loop {
                let (in_it, out): (Vec<&CallRecord>, Vec<&CallRecord>) =
                    left.iter().partition(|r| r.ids().any(|id| ids.iter().any(|i| i == id)));
                if in_it.is_empty() {
                    break;
                }
                for record in in_it {
                    ids.extend(record.ids().map(str::to_owned));
                    own.push(record.sequence.unwrap_or(0));
                }
                left = out;
            }
            own.sort_unstable();
            want.push(own);
        }
        want.sort();
        random.shuffle(&mut records);
        let steps: Vec<Step> = records.iter().cloned().map(Step::Row).collect();
        let (_place, calls) = after(&steps);
        let mut have: Vec<Vec<i64>> = Vec::new();
        for listed in calls.list(0, 0, 1000).expect("list") {
            let call = calls.legs(&listed.linkedid).expect("ask").expect("call");
            have.push(call.records.iter().map(|r| r.sequence.unwrap_or(0)).collect());
        }
        have.iter_mut().for_each(|call| call.sort_unstable());
        have.sort();
        assert_eq!(have, want, "round {round}");
    }
}

#[test]
fn a_call_is_complete_when_its_last_linkedid_ends() {
    let (_place, calls) = after(&with_events());
    let complete = |calls: &Calls| calls.legs("1.1").expect("ask").expect("call").complete;
    assert!(!complete(&calls), "1.1 still has channels");
    let mut steps = with_events();
    steps.push(Step::Event(event("LINKEDID_END", "1.1", "1.1", 60)));
    let (_place, calls) = after(&steps);
    assert!(complete(&calls));
}

#[test]
fn legs_of_another_account_are_kept_apart() {
    let mut steps = attended_transfer();
    for step in &mut steps {
        if let Step::Row(record) = step {
            let own = if record.uniqueid == "1.8" { "" } else { "sales" };
            record.accountcode = if record.uniqueid == "1.7" { "other" } else { own }.to_owned();
        }
    }
    // Both rows of internal-7.wav are of the other account then.
    steps.retain(|s| !matches!(s, Step::Row(r) if r.sequence == Some(8)));
    steps.push(Step::Row(CallRecord {
        accountcode: "other".to_owned(),
        ..row("1.8", "1.7", 8, 31, "internal-7.wav")
    }));
    let (_place, calls) = after(&steps);
    let call = calls.legs("1.1").expect("ask").expect("call");
    assert_eq!((call.legs.len(), call.apart), (3, 1));
    let other = calls.legs("1.7").expect("ask").expect("call");
    let names: Vec<_> = other.legs.iter().map(|l| l.path.display().to_string()).collect();
    assert_eq!(names, ["internal-7.wav", "exten-8.wav"], "and the leg of no account");
}

#[test]
fn a_linkedid_that_is_the_same_for_everything_does_not_tie_all_calls_together() {
    let mut steps = Vec::new();
    for n in 0..40 {
        let (own, linked) = (format!("5.{n}"), format!("6.{}", n / 2));
        steps.push(Step::Row(row(&own, &linked, n, n, "")));
    }
    let (place, calls) = after(&steps);
    assert_eq!(calls.list(0, 0, 100).expect("list").len(), 20);
    drop((place, calls));
    let (_place, calls) =
        after(&[Step::Row(row("", "", 1, 1, "")), Step::Row(row("", "", 2, 2, ""))]);
    assert_eq!(calls.list(0, 0, 100).expect("list").len(), 0, "without an id a call has no name");
}

#[test]
fn records_of_one_lead_that_adjoin_are_one_call() {
    let lead = |id: &str, sequence: i64, start: i64| {
        let record = row(id, "", sequence, start, &format!("{id}.wav"));
        Step::Row(CallRecord { lead: "77".to_owned(), ..record })
    };
    let steps = [lead("M1", 1, 0), lead("M2", 2, 25), lead("M3", 3, 4000)];
    let (_place, calls) = after(&steps);
    let of = |id: &str| calls.legs(id).expect("ask").expect("call").records.len();
    assert_eq!((of("M1"), of("M2"), of("M3")), (2, 2, 1));
}

#[test]
fn a_path_in_a_record_tells_recordings_of_one_name_apart() {
    let steps = [
        Step::Name(31, "2026/11/20/1001.wav"),
        Step::Name(32, "2026/11/21/1001.wav"),
        Step::Row(row("1.1", "1.1", 1, 0, "/var/spool/asterisk/monitor/2026/11/21/1001.wav")),
        Step::Row(row("2.1", "2.1", 1, 50, "/var/spool/asterisk/monitor/2026/11/20/1001.wav")),
    ];
    let (_place, calls) = after(&steps);
    for (id, node) in [("1.1", 32), ("2.1", 31)] {
        let call = calls.legs(id).expect("ask").expect("call");
        let nodes: Vec<_> = call.legs.iter().map(|l| l.node.0).collect();
        assert_eq!(nodes, [node]);
    }
}

#[test]
fn a_record_that_changes_is_the_same_record() {
    let longer = CallRecord { billsec: 99, ..row("1.1", "1.1", 1, 0, "a.wav") };
    let steps =
        [Step::Row(row("1.1", "1.1", 1, 0, "a.wav")), Step::Row(longer.clone()), Step::Row(longer)];
    let (_place, calls) = after(&steps);
    let call = calls.legs("1.1").expect("ask").expect("call");
    assert_eq!(call.records.len(), 1);
    assert_eq!(call.records[0].billsec, 99);
}

#[test]
fn calls_are_told_in_the_order_in_which_they_were_heard_of() {
    let place = Place::new();
    let file = |node: u64, id: &str| Recording {
        node: NodeId(node),
        path: format!("{id}.wav").into_bytes(),
        at: Timestamp::from_parts(1_795_228_040, 0),
    };
    let path = place.dir.path().join("calls.sqlite");
    let conn = schema::open(&path, "x").expect("open");
    let patterns = Pattern::usual();
    let write = |record: Option<CallRecord>, named: Option<Recording>| {
        let writer = ingest::Writer {
            conn: &conn,
            now: at(60),
            patterns: &patterns,
            zone: &Zone::utc(),
            refused: Default::default(),
        };
        if let Some(record) = &record {
            writer.record(record).expect("record");
        }
        if let Some(named) = &named {
            writer.recording(named).expect("recording");
        }
    };
    let heard = |position: u64| reads::heard_after(&conn, position, 10).expect("ask");
    assert_eq!(heard(u64::MAX), Heard::default(), "nothing was heard yet");
    write(Some(row("1.1", "1.1", 1, 0, "1.1.wav")), None);
    assert_eq!(heard(0), Heard::default(), "it has no recording");
    write(None, Some(file(1, "1.1")));
    write(Some(row("2.1", "2.1", 1, 0, "2.1.wav")), Some(file(2, "2.1")));
    let first = heard(0);
    assert_eq!(first.calls, ["1.1", "2.1"]);
    assert_eq!(heard(first.position), Heard { calls: Vec::new(), ..first.clone() });
    // A late record of the first, and a late recording of the second.
    write(Some(row("1.2", "1.1", 2, 5, "")), None);
    write(Some(row("2.2", "2.1", 2, 5, "2.2.wav")), Some(file(3, "2.2")));
    assert_eq!(heard(first.position).calls, ["1.1", "2.1"]);
    // They become one.
    let last = heard(0).position;
    write(Some(row("1.1", "2.1", 3, 9, "")), None);
    assert_eq!(heard(last).calls.len(), 1);
    assert_eq!(heard(0).calls, heard(last).calls);
    assert_eq!(heard(1 << 40).position, heard(0).position, "never reached: the last");
    assert_eq!(reads::calls_of_node(&conn, NodeId(3)).expect("ask"), heard(0).calls);
    for text in [reads::HEARD_AFTER, reads::CALLS_OF_NODE] {
        let mut statement = conn.prepare(&format!("EXPLAIN QUERY PLAN {text}")).expect(text);
        let lines: Vec<String> =
            statement.query_map([1, 1], |r| r.get(3)).and_then(Iterator::collect).expect("a plan");
        assert!(lines.iter().all(|line| line.starts_with("SEARCH")), "{lines:?}");
    }
}

#[test]
fn regression_a_new_id_does_not_look_through_all_recordings() {
    let place = Place::new();
    let conn = schema::open(&place.dir.path().join("calls.sqlite"), "x").expect("open");
    let text = format!("EXPLAIN QUERY PLAN {}", ingest::LEGS_OF_ID);
    let plan: Vec<String> = conn
        .prepare(&text)
        .and_then(|mut s| s.query_map(["1.1", "1", "1"], |r| r.get(3))?.collect())
        .expect("a plan");
    assert!(plan.iter().any(|line| line.contains("INDEX recording_uniqueid")), "{plan:?}");
}

#[test]
fn regression_a_statement_with_a_limit_is_prepared_once() {
    let place = Place::new();
    let path = place.dir.path().join("calls.sqlite");
    let writer = schema::open(&path, "x").expect("open");
    let reader = schema::open_reader(&path).expect("open");
    for conn in [writer, reader] {
        let text = "SELECT id FROM record WHERE call = ?1 ORDER BY start LIMIT ?2";
        let mut statement = conn.prepare(text).expect(text);
        for value in 0..10 {
            let rows: rusqlite::Result<Vec<i64>> =
                statement.query_map([value, 5 + value], |r| r.get(0)).and_then(Iterator::collect);
            assert_eq!(rows.expect("rows"), [0; 0]);
        }
        assert_eq!(statement.get_status(rusqlite::StatementStatus::RePrepare), 0);
    }
}
