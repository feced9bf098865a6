//! Sources that grow, are rotated, emptied, damaged, or do not answer.

use super::*;
use crate::clock::Clock;
use std::fs::OpenOptions;
use std::io::Write;

/// A line of cdr_csv with the new columns.
fn line(number: u32) -> String {
    let (uniqueid, at) = (format!("1795228029.{number}"), 1_795_228_029 + i64::from(number));
    let start = crate::control::utc::people(Timestamp::from_parts(at, 0));
    format!(
        "\"acct\",\"0207946{number:04}\",\"200\",\"ctx\",\"\"\"C\"\" <1>\",\"SIP/a-{number}\",\"\",\"Dial\",\"x\",\
         \"{start}\",\"{start}\",\"{start}\",6,3,\"ANSWERED\",\"DOCUMENTATION\",\"{uniqueid}\",\"\",\
         \"\",\"{uniqueid}\",{number}\n"
    )
}

fn lines(numbers: std::ops::Range<u32>) -> String {
    numbers.map(line).collect()
}

fn append(path: &Path, text: &str) {
    let mut file = OpenOptions::new().append(true).open(path).expect("open");
    file.write_all(text.as_bytes()).expect("append");
}

fn count(calls: &Calls) -> usize {
    assert!(calls.refresh(Duration::from_secs(20)), "{:?}", calls.status());
    calls.list(0, 0, 10_000).expect("list").len()
}

#[test]
fn a_growing_file_is_followed_and_half_a_line_waits() {
    let place = Place::new();
    let path = place.file("Master.csv", &lines(0..3));
    let calls = place.start(csv(path.clone()));
    assert_eq!(count(&calls), 3);
    let next = line(3);
    append(&path, &next[..40]);
    assert_eq!(count(&calls), 3);
    append(&path, &next[40..]);
    assert_eq!(count(&calls), 4);
    let feed = calls.status().feeds[0].clone();
    assert_eq!((feed.rows, feed.bad, feed.error), (4, 0, None), "no line was read twice");
}

#[test]
fn rotation_loses_no_line_whoever_looks() {
    for restarted in [false, true] {
        let place = Place::new();
        let path = place.file("Master.csv", &lines(0..3));
        let mut calls = place.start(csv(path.clone()));
        assert_eq!(count(&calls), 3);
        if restarted {
            calls.stop();
        }
        append(&path, &lines(3..5));
        std::fs::rename(&path, place.dir.path().join("Master.csv.1")).expect("rotate");
        std::fs::write(&path, lines(5..7)).expect("new");
        if restarted {
            calls = place.start(csv(path.clone()));
        }
        assert_eq!(count(&calls), 7, "restarted: {restarted}");
        append(&path, &lines(7..8));
        assert_eq!(count(&calls), 8);
        let rows = calls.status().feeds[0].rows;
        assert_eq!(rows, if restarted { 5 } else { 8 });
    }
}

#[test]
fn a_file_that_was_emptied_is_read_from_its_beginning_however_long_it_is_now() {
    let place = Place::new();
    let path = place.file("Master.csv", &lines(0..3));
    let calls = place.start(csv(path.clone()));
    // Same length, and longer: only its content tells.
    std::fs::write(&path, lines(4..7)).expect("truncate");
    assert_eq!(count(&calls), 6);
    std::fs::write(&path, lines(10..20)).expect("truncate");
    assert_eq!(count(&calls), 16);
    std::fs::write(&path, "").expect("truncate");
    assert_eq!(count(&calls), 16);
    append(&path, &lines(30..31));
    assert_eq!(count(&calls), 17);
}

#[test]
fn a_bad_row_is_named_and_stops_nothing() {
    let place = Place::new();
    let mut text = line(0);
    text.push_str("\"broken\n\n1,2,3\n");
    text.push_str(&line(1).replace("1795228030", "x").replace("2026-", "soon-"));
    text.push_str(&line(2));
    let path = place.file("Master.csv", &text);
    let calls = place.start(csv(path.clone()));
    assert_eq!(count(&calls), 2);
    let feed = calls.status().feeds[0].clone();
    let told: Vec<_> = feed.bad_rows.iter().map(|b| format!("{}: {}", b.place, b.reason)).collect();
    let shown = path.display();
    assert_eq!(feed.bad, 3);
    assert_eq!(told[0], format!("{shown}:2: a quote is not closed in \"\\\"broken\""));
    assert_eq!(told[1], format!("{shown}:4: 3 columns, not 16 to 21"));
    assert!(told[2].starts_with(&format!("{shown}:5: \"soon-")), "{}", told[2]);
}

#[test]
fn a_file_without_the_new_columns_is_read_too() {
    let place = Place::new();
    let short = |columns: usize, number: u32| {
        let line = line(number);
        let kept: Vec<_> = line.trim_end().split(',').take(columns).collect();
        kept.join(",") + "\n"
    };
    let text = short(16, 0) + &short(17, 1) + &short(18, 2);
    let calls = place.start(csv(place.file("Master.csv", &text)));
    assert_eq!(calls.status().feeds[0].bad, 0);
    assert_eq!(calls.status().feeds[0].rows, 3);
    assert!(calls.legs("1795228029.1").expect("ask").is_some());
    assert!(calls.legs("1795228029.2").expect("ask").is_some());
}

#[test]
fn a_restart_goes_on_where_it_stood() {
    let place = Place::new();
    let path = place.file("Master.csv", &lines(0..5000));
    let calls = place.start(csv(path.clone()));
    assert_eq!(count(&calls), 5000);
    calls.stop();
    append(&path, &lines(5000..5001));
    let calls = place.start(csv(path));
    assert_eq!(count(&calls), 5001);
    assert_eq!(calls.status().feeds[0].rows, 1);
}

#[test]
fn a_cache_that_is_damaged_deleted_or_of_another_source_is_read_anew() {
    let place = Place::new();
    place.name(3, "out-7-8-20261121-022709-1795228029.2.wav");
    let path = place.file("Master.csv", &lines(0..50));
    let cache = place.dir.path().join("calls.sqlite");
    place.start(csv(path.clone())).stop();
    for damage in ["deleted", "no database", "torn"] {
        match damage {
            "deleted" => std::fs::remove_file(&cache).expect("remove"),
            "no database" => std::fs::write(&cache, "hello").expect("write"),
            _ => {
                let mut bytes = std::fs::read(&cache).expect("read");
                bytes.iter_mut().skip(5000).step_by(3).for_each(|b| *b = b.wrapping_add(7));
                std::fs::write(&cache, bytes).expect("write");
            }
        }
        let calls = place.start(csv(path.clone()));
        assert_eq!(count(&calls), 50, "{damage}");
        let call = calls.legs("1795228029.2").expect("ask").expect("call");
        assert_eq!(call.legs.len(), 1, "{damage}");
    }
    let other = place.file("Other.csv", &lines(0..2));
    assert_eq!(count(&place.start(csv(other))), 3, "two and the name");
}

#[test]
fn an_sqlite_source_is_followed_by_row_also_after_it_was_emptied() {
    let place = Place::new();
    let path = place.dir.path().join("master.db");
    let source = Connection::open(&path).expect("open");
    let add = |numbers: std::ops::Range<u32>| {
        for n in numbers {
            let insert = "INSERT INTO cdr(calldate, src, dst, uniqueid, billsec, disposition)
                          VALUES('2026-11-21 02:27:09', ?1, '200', ?1, 3, 'ANSWERED')";
            source.execute(insert, [format!("1795228029.{n}")]).expect("insert");
        }
    };
    source
        .execute_batch(
            "CREATE TABLE cdr(AcctId INTEGER PRIMARY KEY, calldate, src, dst, uniqueid, billsec,
             disposition, mood)",
        )
        .expect("create");
    add(0..10);
    let from = From::Table("cdr".to_owned());
    let calls = place.start(Source::Sqlite { path: path.clone(), from, cel: None });
    assert_eq!(count(&calls), 10);
    add(10..12);
    assert_eq!(count(&calls), 12);
    source.execute_batch("DELETE FROM cdr").expect("empty");
    assert_eq!(count(&calls), 12);
    add(20..23);
    assert_eq!(count(&calls), 15);
    let query = "SELECT AcctId AS position, calldate AS start, src AS phone, 'C1' AS campaign,
                 uniqueid FROM cdr WHERE AcctId <> 2";
    let from = From::Query(query.to_owned());
    let calls = place.start(Source::Sqlite { path, from, cel: None });
    assert_eq!(count(&calls), 2);
    let filter = Filter { campaign: Some("C1".to_owned()), ..Filter::default() };
    let mut found = 0;
    let mut each = |_| {
        found += 1;
        true
    };
    calls.find_calls(&filter, &mut each).expect("find");
    assert_eq!(found, 2);
}

#[test]
fn a_source_that_hangs_or_is_missing_is_told_and_names_go_on() {
    let place = Place::new();
    // Opening a pipe that nobody writes to does not return.
    let pipe = place.dir.path().join("pipe");
    rustix::fs::mknodat(
        rustix::fs::CWD,
        &pipe,
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::RUSR,
        0,
    )
    .expect("mkfifo");
    let calls = Calls::start(place.options(csv(pipe.clone())), place.names.clone()).expect("start");
    assert!(!calls.refresh(Duration::from_millis(100)), "it hangs");
    place.name(7, "out-7-8-20261121-022709-1795228029.2.wav");
    let deadline = std::time::Instant::now() + Duration::from_secs(20);
    while calls.legs("1795228029.2").ok().flatten().is_none() {
        assert!(std::time::Instant::now() < deadline, "names wait for the source");
        std::thread::yield_now();
    }
    place.clock.advance(Duration::from_secs(60));
    let (status, now) = (calls.status(), place.clock.now());
    let trouble = status.feeds[0].trouble(now, Duration::from_secs(5)).expect("told");
    assert_eq!(trouble, format!("{} has not answered for 1 minute", pipe.display()));
    calls.stop();

    let place = Place::new();
    place.name(7, "out-7-8-20261121-022709-1795228029.2.wav");
    let missing = place.dir.path().join("nothing.csv");
    let calls = place.start(csv(missing.clone()));
    let trouble = calls.status().feeds[0].trouble(place.clock.now(), Duration::from_secs(5));
    let want = format!("{}: No such file or directory (os error 2)", missing.display());
    assert_eq!(trouble, Some(want));
    assert!(calls.legs("1795228029.2").expect("ask").is_some());
    std::fs::write(&missing, lines(0..1)).expect("write");
    let deadline = std::time::Instant::now() + Duration::from_secs(20);
    while count(&calls) < 2 {
        assert!(std::time::Instant::now() < deadline, "it is not tried again");
    }
}

#[test]
fn renamed_and_removed_recordings_are_noticed() {
    let place = Place::new();
    place.name(7, "a/out-7-8-20261121-022709-1795228029.2.wav");
    place.name(8, "a/out-7-8-20261121-022709-1795228029.3.wav");
    place.start(Source::Names).stop();
    place.name(7, "b/out-7-8-20261121-022709-1795228029.2.wav");
    place.names.0.lock().remove(&8);
    let calls = place.start(Source::Names);
    let moved = Path::new("b/out-7-8-20261121-022709-1795228029.2.wav");
    assert!(calls.call_of(moved).expect("ask").is_some());
    assert!(calls.legs("1795228029.3").expect("ask").is_none());
}

/// `ls stitched` right after a start said "Input/output error".
#[test]
fn regression_who_asks_right_after_a_start_waits_until_the_records_are_open() {
    for _ in 0..20 {
        let place = Place::new();
        let calls = Calls::start(place.options(Source::Names), place.names.clone()).expect("start");
        assert!(calls.list(0, 2, 10).expect("it is opened").is_empty());
        assert!(calls.is_open());
        calls.stop();
    }
}

#[test]
fn the_oldest_records_go_when_there_is_no_room() {
    let place = Place::new();
    let path = place.file("Master.csv", &lines(0..9000));
    let mut options = place.options(csv(path));
    options.bytes_max = 2 << 20;
    let calls = Calls::start(options, place.names.clone()).expect("start");
    assert!(calls.refresh(Duration::from_secs(60)));
    let status = calls.status();
    assert!(status.evicted >= 2000, "{status:?}");
    assert!(calls.legs("1795228029.0").expect("ask").is_none(), "the oldest");
    assert!(calls.legs("1795228029.8999").expect("ask").is_some(), "the newest");
}
