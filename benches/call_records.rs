//! How fast call records are read and calls are listed. `SPOOLFS_TEST_ROWS`: rows of call records, a
//! tenth as many recordings beside them; `SPOOLFS_TEST_CALLS`: calls of two recordings each on a
//! mount; 0: not measured. docs/TESTING.md, "Benchmarks".
#![allow(clippy::unwrap_used)]

#[path = "../tests/support/mod.rs"]
mod support;

use spoolfs::calls::{self, Calls, Page, Recording, Recordings};
use spoolfs::clock::{SystemClock, Timestamp};
use spoolfs::codec::{Coding, wav_header};
use spoolfs::recording::{NodeId, State};
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};
use support::mount::Setup;

fn main() {
    let of = |variable: &str, usual: u64| {
        std::env::var(variable).ok().and_then(|n| n.parse().ok()).unwrap_or(usual)
    };
    let (rows, calls) = (of("SPOOLFS_TEST_ROWS", 1_000_000), of("SPOOLFS_TEST_CALLS", 50_000));
    if rows > 0 {
        read(rows);
    }
    if calls > 0 {
        list(calls);
    }
}

/// As many recordings as asked for, each of a call of its own.
struct Many(u64);

fn name(id: &str) -> String {
    format!("2026/11/21/external-3001-0207946{}-20261121-022709-{id}.wav", id.replace('.', ""))
}

fn id(number: u64) -> String {
    format!("{}.{number}", 1_790_000_000 + number)
}

impl Recordings for Many {
    fn after(&self, cursor: u64, limit: usize) -> Result<Page, String> {
        let last = (cursor + limit as u64).min(self.0);
        let of = |number: u64| Recording {
            node: NodeId(number),
            path: name(&id(number)).into_bytes(),
            at: Timestamp::from_parts(1_795_228_000, 0),
        };
        let recordings = (cursor + 1..=last).map(of).collect();
        Ok(Page { recordings, cursor: last, more: last < self.0 })
    }

    fn standing(&self, node: NodeId) -> Result<Option<(State, PathBuf)>, String> {
        Ok(Some((State::Closed, name(&id(node.0)).into())))
    }
}

/// A row as cdr_csv writes it with all columns, of a leg of a call.
fn row(text: &mut String, call: u64, leg: u64, number: u64) {
    let start = Timestamp::from_parts((1_790_000_000 + call) as i64, 0);
    let start = spoolfs::control::utc::people(start);
    let linked = id(call);
    let own = if leg == 0 { linked.clone() } else { format!("{linked}{leg}") };
    let _ = writeln!(
        text,
        "\"acct\",\"0207946{call}\",\"30{leg}\",\"ctx\",\"\"\"C\"\" <0207946{call}>\",\"SIP/a-{number:08x}\",\
         \"SIP/b-{number:08x}\",\"Dial\",\"SIP/b,30\",\"{start}\",\"{start}\",\"{start}\",6,3,\
         \"ANSWERED\",\"DOCUMENTATION\",\"{own}\",\"\",\"\",\"{linked}\",{number}"
    );
}

/// Five rows for each call, every second of which has a recording.
fn read(rows: u64) {
    let place = tempfile::tempdir().unwrap();
    let path = place.path().join("Master.csv");
    let mut text = String::new();
    (0..rows).for_each(|number| row(&mut text, number / 5, number % 5, number));
    fs::write(&path, text).unwrap();
    let options = calls::Options {
        state_dir: place.path().to_owned(),
        clock: Arc::new(SystemClock),
        source: calls::Source::Csv { path, columns: calls::Columns::Asterisk, cel: None },
        zone: calls::Zone::utc(),
        names: calls::Pattern::usual(),
        every: Duration::from_secs(1),
        timeout: Duration::from_secs(5),
        quiet: Duration::from_secs(120),
        bytes_max: 8 << 30,
        same_account: true,
    };
    let begun = Instant::now();
    let calls = Calls::start(options, Arc::new(Many(rows / 10))).unwrap();
    let mut last = 0;
    while !calls.refresh(Duration::from_secs(5)) {
        let now = calls.status().feeds[0].rows;
        println!(
            "{:4.0} s: {now} rows, {} a second",
            begun.elapsed().as_secs_f64(),
            (now - last) / 5
        );
        last = now;
    }
    let took = begun.elapsed().as_secs_f64();
    assert_eq!(calls.status().feeds[0].rows, rows);
    let begun = Instant::now();
    let (mut listed, mut after) = (0, 0);
    while let Some(last) = calls.list(after, 1, 10_000).unwrap().last() {
        (after, listed) = (last.id, listed + 1);
    }
    let listing = begun.elapsed().as_secs_f64();
    let bytes = fs::metadata(place.path().join("calls.sqlite")).unwrap().len();
    println!(
        "{rows} rows and {} recordings in {took:.1} s: {:.0} rows a second, {} bytes a row; {listed} pages \
         of calls in {listing:.2} s",
        rows / 10,
        rows as f64 / took,
        bytes / rows
    );
}

/// `ls stitched` on a mount that knows so many calls of two recordings each.
fn list(count: u64) {
    if support::no_mount("ls stitched") {
        return;
    }
    let place = tempfile::tempdir().unwrap();
    let records = place.path().join("Master.csv");
    let end = format!("[calls]\nsource = \"csv\"\npath = {records:?}\ntime_zone = \"UTC\"\n");
    let mut mount = Setup { end, ..Setup::default() }.prepare();
    let mut audio = wav_header(Coding::Pcm16, 8000, 1, 160);
    audio.extend([0; 160]);
    let mut text = String::new();
    for call in 0..count {
        let dir = mount.path(format!("{:04}", call / 1000));
        if call % 1000 == 0 {
            fs::create_dir(&dir).unwrap();
        }
        for (leg, id) in [(0, id(call)), (1, format!("{}1", id(call)))] {
            row(&mut text, call, leg, call * 2 + leg);
            let file = name(&id);
            fs::write(dir.join(Path::new(&file).file_name().unwrap()), &audio).unwrap();
        }
    }
    fs::write(&records, text).unwrap();
    mount.start();
    let begun = Instant::now();
    loop {
        let looked = Instant::now();
        let output = Command::new("ls").arg("-f").arg(mount.path("stitched")).output().unwrap();
        let took = looked.elapsed();
        let listed = output.stdout.iter().filter(|b| **b == b'\n').count() as u64;
        if listed >= count {
            println!("ls -f of {listed} joins: {took:?}");
            break;
        }
        println!("{:4.0} s: {listed} joins, listed in {took:?}", begun.elapsed().as_secs_f64());
        assert!(begun.elapsed() < Duration::from_secs(900), "{}", mount.said());
        std::thread::sleep(Duration::from_secs(5));
    }
    for arguments in [&["-f"][..], &[], &["-l"]] {
        let looked = Instant::now();
        let output =
            Command::new("ls").args(arguments).arg(mount.path("stitched")).output().unwrap();
        assert!(output.status.success());
        println!("ls {} of {count} joins: {:?}", arguments.concat(), looked.elapsed());
    }
}
