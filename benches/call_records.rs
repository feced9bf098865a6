//! How fast call records are read and calls are listed. `SPOOLFS_TEST_ROWS`: rows of call records, a
//! tenth as many recordings beside them; `SPOOLFS_TEST_CALLS`: calls of two recordings each on a
//! mount; `SPOOLFS_TEST_STORED`: the same while joins are stored; 0: not measured. docs/TESTING.md, "Benchmarks".
#![allow(clippy::unwrap_used)]

#[path = "../tests/support/mod.rs"]
mod support;

use spoolfs::calls::{self, Calls, Page, Recording, Recordings};
use spoolfs::clock::{SystemClock, Timestamp};
use spoolfs::codec::{Coding, wav_header};
use spoolfs::recording::{NodeId, State};
use std::fmt::Write as _;
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};
use support::mount::{Mount, Setup};

fn main() {
    let of = |variable: &str, usual: u64| {
        std::env::var(variable).ok().and_then(|n| n.parse().ok()).unwrap_or(usual)
    };
    let (rows, calls) = (of("SPOOLFS_TEST_ROWS", 1_000_000), of("SPOOLFS_TEST_CALLS", 50_000));
    let stored = of("SPOOLFS_TEST_STORED", 100_000);
    if rows > 0 {
        read(rows);
    }
    if calls > 0 {
        list(calls);
    }
    if stored > 0 {
        store(stored);
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

/// A mount that knows so many calls of two recordings each, and where its call records are.
fn many(count: u64, end: &str) -> (Mount, PathBuf) {
    let mut mount = Setup::default().prepare();
    let records = mount.root.join("Master.csv");
    let calls = format!(
        "\n[calls]\nsource = \"csv\"\npath = {records:?}\ntime_zone = \"UTC\"\nevery = \"1s\"\n\
         quiet = \"1s\"\n{end}"
    );
    fs::write(&mount.config, fs::read_to_string(&mount.config).unwrap() + &calls).unwrap();
    let mut text = String::new();
    for call in 0..count {
        let dir = mount.path(format!("{:04}", call / 1000));
        if call % 1000 == 0 {
            fs::create_dir(&dir).unwrap();
        }
        record(&mut text, &dir, call);
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
            return (mount, records);
        }
        println!("{:4.0} s: {listed} joins, listed in {took:?}", begun.elapsed().as_secs_f64());
        assert!(begun.elapsed() < Duration::from_secs(900), "{}", mount.said());
        std::thread::sleep(Duration::from_secs(5));
    }
}

/// Two recordings of a call in a directory, and their call records; where they are.
fn record(text: &mut String, dir: &Path, call: u64) -> [PathBuf; 2] {
    let mut audio = wav_header(Coding::Pcm16, 8000, 1, 160);
    audio.extend([0; 160]);
    [(0, id(call)), (1, format!("{}1", id(call)))].map(|(leg, id)| {
        row(text, call, leg, call * 2 + leg);
        let path = dir.join(Path::new(&name(&id)).file_name().unwrap());
        fs::write(&path, &audio).unwrap();
        path
    })
}

/// `ls stitched` of so many calls.
fn list(count: u64) {
    if support::no_mount("ls stitched") {
        return;
    }
    let (mount, _) = many(count, "");
    for arguments in [&["-f"][..], &[], &["-l"]] {
        let looked = Instant::now();
        let output =
            Command::new("ls").args(arguments).arg(mount.path("stitched")).output().unwrap();
        assert!(output.status.success());
        println!("ls {} of {count} joins: {:?}", arguments.concat(), looked.elapsed());
    }
}

/// `stitched.archive` beside so many calls that are not archived: what looking at them all costs, and
/// how soon the join of a new call is stored meanwhile.
fn store(count: u64) {
    if support::no_mount("stored joins") {
        return;
    }
    let (mount, records) = many(count, "\n[stitched]\narchive = true\n");
    let threads = fs::read_dir(format!("/proc/{}/task", mount.pid().as_raw_nonzero())).unwrap();
    let named = |path: &PathBuf| fs::read_to_string(path.join("comm")).unwrap().trim() == "joins";
    let thread = threads.map(|task| task.unwrap().path()).find(named).unwrap();
    // Nanoseconds on a processor (proc(5), schedstat).
    let busy = || {
        let text = fs::read_to_string(thread.join("schedstat")).unwrap();
        Duration::from_nanos(text.split(' ').next().unwrap().parse().unwrap())
    };
    let (begun, before) = (Instant::now(), busy());
    let waiting = || mount.status()["joins"]["waiting"].as_u64().unwrap();
    let first = waiting();
    for new in 0..5 {
        let (dir, mut text) = (mount.path("new"), String::new());
        fs::create_dir_all(&dir).unwrap();
        let call = count + new;
        let recordings = record(&mut text, &dir, call);
        let mut all = fs::OpenOptions::new().append(true).open(&records).unwrap();
        all.write_all(text.as_bytes()).unwrap();
        let path = recordings.each_ref().map(|path| path.as_os_str());
        mount.cli(["archive".as_ref()].into_iter().chain(path)).ok();
        let archived = Instant::now();
        let object = mount.target.join("stitched").join(format!("{}.wav", id(call)));
        while !object.exists() {
            assert!(archived.elapsed() < Duration::from_secs(120), "{}", mount.said());
            std::thread::sleep(Duration::from_millis(20));
        }
        println!("a new call is stored {:.1?} after it was archived", archived.elapsed());
        std::thread::sleep(Duration::from_secs(10));
    }
    let (took, worked) = (begun.elapsed(), busy() - before);
    let looked = waiting() - first;
    println!(
        "{looked} of {count} calls looked at in {took:.0?}, {worked:.1?} of a processor ({:.1} %): {:.2?} each",
        100.0 * worked.as_secs_f64() / took.as_secs_f64(),
        worked / u32::try_from(looked.max(1)).unwrap()
    );
}
