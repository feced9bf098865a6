//! Metrics on a mount: over HTTP and from `status --prometheus`, and what documents say of them.

mod support;

use std::collections::BTreeSet;
use std::io::{ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::time::{Duration, Instant};
use support::mount::{Mount, Setup};
use support::{fixture, no_mount};

/// The value of a sample, labels included in its name.
fn sample(text: &str, name: &str) -> Option<f64> {
    let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    value.map(|value| value.parse().expect("a number"))
}

fn families(text: &str) -> BTreeSet<String> {
    let types = text.lines().filter_map(|line| line.strip_prefix("# TYPE "));
    types.filter_map(|line| Some(line.split_once(' ')?.0.to_owned())).collect()
}

/// Where the daemon says that it serves metrics.
fn address(mount: &Mount) -> String {
    let until = Instant::now() + support::look::PATIENCE;
    loop {
        let said = mount.said_all();
        let line = said.lines().find(|line| line.contains("metrics are served"));
        if let Some((_, rest)) = line.and_then(|line| line.split_once("address=")) {
            return rest.split_whitespace().next().expect("an address").to_owned();
        }
        assert!(Instant::now() < until, "no metrics\n{}", mount.said());
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Head and body of the answer to one request.
fn ask(address: &str, request: &str) -> (String, String) {
    let mut stream = TcpStream::connect(address).expect("somebody listens");
    stream.set_read_timeout(Some(support::look::PATIENCE)).expect("settable");
    write!(stream, "{request} HTTP/1.1\r\nHost: pbx\r\n\r\n").expect("sent");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("an answer that ends");
    let (head, body) = answer.split_once("\r\n\r\n").expect("a head");
    (head.to_owned(), body.to_owned())
}

#[test]
fn metrics_tell_what_status_knows_and_name_no_recording() {
    if no_mount("metrics_tell_what_status_knows_and_name_no_recording") {
        return;
    }
    let calls = fixture("cdr/custom-Master.csv");
    let end = format!(
        "[metrics]\nlisten = \"127.0.0.1:0\"\n[calls]\nsource = \"csv\"\npath = {calls:?}\n\
         columns = [\"start\", {}]\n",
        vec!["\"-\""; 25].join(", ")
    );
    let mount = Setup { end, ..Setup::default() }.mount();
    for name in ["02079460001-secret.wav", "waits.wav"] {
        std::fs::write(mount.path(name), vec![7u8; 300_000]).expect("written");
    }
    let recording = mount.path("02079460001-secret.wav");
    for command in ["archive", "release"] {
        mount.cli([command.as_ref(), recording.as_os_str()]).ok();
    }
    assert_eq!(std::fs::read(&recording).expect("read back").len(), 300_000);

    // Left out until something was synced.
    let complete = |page: &str| page.contains("durable_until_timestamp_seconds");
    let until = Instant::now() + support::look::PATIENCE;
    let (head, page) = loop {
        let (head, page) = ask(&address(&mount), "GET /metrics");
        if complete(&page) {
            break (head, page);
        }
        assert!(Instant::now() < until, "{page}");
        std::thread::sleep(Duration::from_millis(50));
    };
    assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
    assert!(head.to_lowercase().contains("content-type: text/plain; version=0.0.4"), "{head}");
    for (name, value) in [
        ("spoolfs_recordings{state=\"released\"}", 1.0),
        ("spoolfs_recordings_bytes{state=\"released\"}", 300_000.0),
        ("spoolfs_backlog_files", 1.0),
        ("spoolfs_archived_files_total", 1.0),
        ("spoolfs_archived_bytes_total", 300_000.0),
        ("spoolfs_target_up{target=\"archive\"}", 1.0),
        ("spoolfs_target_required{target=\"archive\"}", 1.0),
        ("spoolfs_catalog_up", 1.0),
        ("spoolfs_disk_pressure", 0.0),
        ("spoolfs_call_record_sources", 1.0),
        ("spoolfs_bad_copies", 0.0),
        ("spoolfs_unopened_copies", 0.0),
    ] {
        assert_eq!(sample(&page, name), Some(value), "{name}\n{page}");
    }
    let fetched = sample(&page, "spoolfs_read_chunks_total{from=\"target\"}");
    assert!(fetched.is_some_and(|chunks| chunks >= 2.0), "{page}");
    let oldest = sample(&page, "spoolfs_backlog_oldest_timestamp_seconds").expect("one waits");
    assert!(oldest > 1.7e9, "{oldest}");
    assert!(!page.contains("0207946") && !page.contains(".wav"), "a recording is named\n{page}");

    let printed = mount.cli(["status", "--prometheus"]).ok().out;
    assert_eq!(families(&printed), families(&page));
    let both = mount.cli(["status", "--prometheus", "--json"]);
    assert_eq!(both.status.code(), Some(2), "{}", both.err);

    // The document has each family and no other.
    let document = std::fs::read_to_string("docs/OPERATIONS.md").expect("readable");
    let rows = document.lines().filter(|line| line.starts_with("| `spoolfs_"));
    let named: BTreeSet<String> = rows
        .flat_map(|row| row.split('|').nth(1).unwrap_or_default().split('`'))
        .filter(|word| word.starts_with("spoolfs_"))
        .map(str::to_owned)
        .collect();
    // Snapshots are taken once a day.
    let mut shown = families(&page);
    shown.insert("spoolfs_target_snapshot_timestamp_seconds".into());
    assert_eq!(named, shown);
}

#[test]
fn whoever_asks_wrongly_or_never_keeps_no_metrics_from_others() {
    if no_mount("whoever_asks_wrongly_or_never_keeps_no_metrics_from_others") {
        return;
    }
    let end = "[metrics]\nlisten = \"127.0.0.1:0\"\n".into();
    let mount = Setup { end, ..Setup::default() }.mount();
    let address = address(&mount);
    // More than are served at a time, and none of them says a word.
    let silent: Vec<_> =
        (0..8).map(|_| TcpStream::connect(&address).expect("somebody listens")).collect();
    for (request, status) in [
        ("GET /", "404"),
        ("GET /metrics/../../etc/passwd", "404"),
        ("POST /metrics", "405"),
        ("HEAD /metrics", "200"),
        ("GET /metrics", "200"),
    ] {
        let (head, _) = ask(&address, request);
        assert!(head.starts_with(&format!("HTTP/1.1 {status} ")), "{request}: {head}");
    }
    let mut long = TcpStream::connect(&address).expect("somebody listens");
    long.set_read_timeout(Some(support::look::PATIENCE)).expect("settable");
    // It may break off while we are still sending.
    let _sent = write!(long, "GET /metrics HTTP/1.1\r\nA: {}\r\n\r\n", "x".repeat(1 << 20));
    let mut answer = Vec::new();
    match long.read_to_end(&mut answer) {
        Ok(_) => assert!(!answer.starts_with(b"HTTP/1.1 200"), "a head of a megabyte is taken"),
        Err(error) => assert_eq!(error.kind(), ErrorKind::ConnectionReset),
    }
    drop(silent);
}

#[test]
fn a_taken_address_keeps_no_call_from_being_recorded() {
    if no_mount("a_taken_address_keeps_no_call_from_being_recorded") {
        return;
    }
    let taken = TcpListener::bind("127.0.0.1:0").expect("a port");
    let listen = taken.local_addr().expect("an address");
    let end = format!("[metrics]\nlisten = \"{listen}\"\n");
    let mount = Setup { end, ..Setup::default() }.mount();
    std::fs::write(mount.path("call.wav"), b"a call").expect("recorded");
    let until = Instant::now() + support::look::PATIENCE;
    while !mount.said_all().contains("there are no metrics") {
        assert!(Instant::now() < until, "not a word of it\n{}", mount.said());
        std::thread::sleep(Duration::from_millis(20));
    }
}
