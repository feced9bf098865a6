//! Call records on a mount: `find` and `gaps` with and without a daemon, sources that hang.

mod support;

use serde_json::Value;
use std::time::{Duration, Instant};
use support::mount::{Mount, Setup};
use support::{fixture, fixtures, no_mount};

/// The columns of the fixture of cdr_custom.
const COLUMNS: &str = "start clid src dst dcontext channel dstchannel - - duration billsec \
    disposition - accountcode uniqueid - did recordingfile - - linkedid - sequence start answer end";

fn setup(source: &str) -> Setup {
    Setup {
        end: format!("[calls]\nquiet = \"1s\"\ntime_zone = \"UTC\"\n{source}\n"),
        ..Setup::default()
    }
}

fn json(mount: &Mount, arguments: &[&str], status: i32) -> Value {
    let mut all = arguments.to_vec();
    all.push("--json");
    let ran = mount.cli(all);
    assert_eq!(ran.status.code(), Some(status), "{}{}\n{}", ran.out, ran.err, mount.said());
    serde_json::from_str(&ran.out).expect("one document")
}

/// The kinds of the recordings found, sorted.
fn kinds(found: &Value) -> Vec<String> {
    let kind = |one: &Value| {
        let path = one["path"].as_str().expect("a path");
        let name = path.rsplit('/').next().expect("a name");
        name.split('-').next().expect("a kind").to_owned()
    };
    let mut kinds: Vec<_> = found.as_array().expect("a list").iter().map(kind).collect();
    kinds.sort();
    kinds
}

fn eventually(what: &str, mut is: impl FnMut() -> bool) {
    let until = Instant::now() + support::look::PATIENCE;
    while !is() {
        assert!(Instant::now() < until, "{what}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn find_and_gaps_answer_from_real_records_with_and_without_a_daemon() {
    if no_mount("find_and_gaps_answer_from_real_records_with_and_without_a_daemon") {
        return;
    }
    let columns: Vec<_> = COLUMNS.split(' ').map(|c| format!("{c:?}")).collect();
    let source = format!(
        "source = \"csv\"\npath = {:?}\ncolumns = [{}]",
        fixture("cdr/custom-Master.csv"),
        columns.join(", ")
    );
    let mut mount = setup(&source).mount();
    for path in fixtures("monitor") {
        let to = mount.path(&path);
        std::fs::create_dir_all(to.parent().expect("a parent")).expect("mkdir");
        std::fs::copy(fixture("monitor").join(&path), to).expect("copy");
    }
    let all = ["exten", "external", "q"];
    let number = ["find", "--number", "2079460001"];
    eventually("the recordings are found", || {
        kinds(&json(&mount, &number, 0)["recordings"]) == all
    });
    let found = json(&mount, &number, 0);
    let first = &found["recordings"][0];
    assert_eq!(
        (&first["src"], &first["matched"]),
        (&Value::from("02079460001"), &Value::from(true))
    );

    let external = "2026/11/21/external-3001-02079460001-20261121-022709-1795228029.1.wav";
    let path = mount.path(external);
    let path = path.to_str().expect("plain");
    // It was closed a moment ago, and may be settling still.
    eventually("it is archived", || {
        mount.cli(["archive", path]).ok();
        mount.cli(["release", path]).ok();
        !json(&mount, &["find", "--state", "released"], 0)["recordings"]
            .as_array()
            .expect("a list")
            .is_empty()
    });
    let released = json(&mount, &["find", "--state", "released"], 0);
    assert_eq!(kinds(&released["recordings"]), ["external"]);
    assert_eq!(released["recordings"][0]["state"], "released");
    let at = |path: &str| {
        let path = mount.path(path).display().to_string();
        kinds(&json(&mount, &["find", "--number", "2079460001", &path], 0)["recordings"])
    };
    assert_eq!(
        (at(external), at("2026/11"), at("2026/1")),
        (vec!["external".into()], all.map(String::from).to_vec(), vec![])
    );

    let day = ["--from", "2026-11-20", "--to", "2026-11-22"];
    let mut gaps = vec!["gaps"];
    gaps.extend(day);
    eventually("only the calls without a recording are left", || {
        let gaps = json(&mount, &gaps, 1);
        gaps["calls"].as_array().map(Vec::len) == Some(2)
            && gaps["recordings"].as_array().map(Vec::len) == Some(0)
    });
    json(&mount, &["gaps", "--from", "2026-11-22", "--to", "2026-11-23"], 0);
    let mut by_call = vec!["find", "--calls"];
    by_call.extend(number.iter().skip(1));
    eventually("the call is complete", || {
        json(&mount, &by_call, 0)["calls"][0]["complete"] == true
    });
    let calls = json(&mount, &by_call, 0);
    assert_eq!(calls["calls"].as_array().map(Vec::len), Some(1), "{calls}");
    let call = &calls["calls"][0];
    assert_eq!(call["linkedid"], "1795228029.1");
    assert_eq!(kinds(&call["legs"]), all);
    assert_eq!(call["seconds"], 6, "the copies of the fixtures are younger than the call");
    assert_eq!(call["legs"][0]["seconds"], 6, "the longest first");

    let report = mount.status()["calls"].clone();
    assert_eq!(report["sources"][0]["rows"], 20);
    assert_eq!(report["sources"][0]["trouble"], Value::Null);
    let answers =
        |mount: &Mount| [json(mount, &number, 0), json(mount, &by_call, 0), json(mount, &gaps, 1)];
    let running = answers(&mount);
    mount.stop();
    assert_eq!(answers(&mount), running);
    mount.start();
    eventually("a start goes on with it", || answers(&mount) == running);
    assert_eq!(mount.status()["calls"]["sources"][0]["rows"], 0, "nothing was read twice");
}

#[test]
fn a_source_that_hangs_keeps_no_recording_from_the_archive() {
    if no_mount("a_source_that_hangs_keeps_no_recording_from_the_archive") {
        return;
    }
    let place = tempfile::tempdir().expect("a directory");
    let pipe = place.path().join("Master.csv");
    let made = std::process::Command::new("mkfifo").arg(&pipe).status().expect("mkfifo");
    assert!(made.success());
    let source = format!("source = \"csv\"\npath = {pipe:?}\ntimeout = \"1s\"");
    let mut mount = Setup { archive_after: "0s".into(), ..setup(&source) }.mount();
    let name = "out-7-8-20261121-022709-1795228029.2.wav";
    std::fs::write(mount.path(name), b"RIFF").expect("a recording");
    eventually("it is archived", || {
        json(&mount, &["status", mount.path(name).to_str().expect("plain")], 0)["state"]
            == "archived"
    });
    let want = format!("Call records: {} has not answered for", pipe.display());
    eventually("status says so", || mount.cli(["status"]).ok().out.contains(&want));
    eventually("what is known by the name is found", || {
        kinds(&json(&mount, &["find", "--linkedid", "1795228029.2"], 0)["recordings"]) == ["out"]
    });
    mount.stop();
}

/// Command lines of all processes that speak of a port.
fn command_lines(port: u16) -> Vec<String> {
    let processes = std::fs::read_dir("/proc").expect("/proc").flatten();
    let lines = processes.filter_map(|one| std::fs::read(one.path().join("cmdline")).ok());
    let lines = lines.map(|line| String::from_utf8_lossy(&line).replace('\0', " "));
    lines.filter(|line| line.contains(&port.to_string())).collect()
}

#[test]
fn a_database_that_hangs_keeps_no_recording_from_the_archive() {
    if no_mount("a_database_that_hangs_keeps_no_recording_from_the_archive") {
        return;
    }
    for (kind, client) in [("mysql", "mariadb"), ("postgres", "psql")] {
        let installed = std::process::Command::new(client).arg("--version").output();
        if installed.is_err() {
            eprintln!("SKIPPED {kind}: {client} is not installed");
            continue;
        }
        // It takes connections and says nothing.
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let source = format!(
            "source = \"{kind}\"\nurl = \"{kind}://reader@127.0.0.1:{port}/pbx\"\n\
             password = \"hunter-4711\"\ntimeout = \"2s\"\nevery = \"1s\""
        );
        let mut mount = Setup { archive_after: "0s".into(), ..setup(&source) }.mount();
        let record = |number: u32| {
            let name = format!("out-7-8-20261121-022709-1795228029.{number}.wav");
            std::fs::write(mount.path(&name), b"RIFF").expect("a recording");
            eventually("it is archived", || {
                json(&mount, &["status", mount.path(&name).to_str().expect("plain")], 0)["state"]
                    == "archived"
            });
        };
        record(1);
        eventually("it is asked", || !command_lines(port).is_empty());
        let lines = command_lines(port);
        assert!(!lines.iter().any(|line| line.contains("hunter")), "{lines:?}");
        record(2);
        let want = format!("Call records: {kind}://127.0.0.1:{port}/pbx: no answer within");
        eventually("status says so", || mount.cli(["status"]).ok().out.contains(&want));
        eventually("what is known by the name is found", || {
            kinds(&json(&mount, &["find", "--linkedid", "1795228029.2"], 0)["recordings"])
                == ["out"]
        });
        assert!(!mount.said_all().contains("hunter"), "{}", mount.said_all());
        mount.stop();
    }
}

#[test]
fn without_call_records_find_answers_by_state_time_and_path() {
    if no_mount("without_call_records_find_answers_by_state_time_and_path") {
        return;
    }
    let mut mount = Setup::default().mount();
    for path in fixtures("monitor") {
        let to = mount.path(&path);
        std::fs::create_dir_all(to.parent().expect("a parent")).expect("mkdir");
        std::fs::copy(fixture("monitor").join(&path), to).expect("copy");
    }
    std::fs::write(mount.path("2026/notes.txt"), b"no recording").expect("a file");
    let newest = "2026/11/21/out-7-8-20261121-031500-1795230900.1.wav";
    std::fs::write(mount.path(newest), b"RIFF").expect("a recording");
    let old = "2026/11/21/external-3001-02079460001-20261121-022709-1795228029.1.wav";
    let path = mount.path(old).display().to_string();
    eventually("it is released", || {
        mount.cli(["archive", &path]).ok();
        mount.cli(["release", &path]).status.success()
            && json(&mount, &["status", &path], 0)["state"] == "released"
    });
    let names = |mount: &Mount, arguments: &[&str]| -> Vec<String> {
        let found = json(mount, &[&["find"], arguments].concat(), 0);
        let path = |one: &Value| one["path"].as_str().expect("a path").to_owned();
        found["recordings"].as_array().expect("a list").iter().map(path).collect()
    };
    let mut every: Vec<String> =
        fixtures("monitor").iter().map(|path| path.display().to_string()).collect();
    every.push(newest.to_owned());
    let began = |path: &String| path.rsplit('-').nth(1).expect("a time").to_owned();
    let answers = |mount: &Mount| {
        let one_hour = ["--from", "2026-11-21 02:00", "--to", "2026-11-21 03:00"];
        let below = mount.path("2026/11/21").display().to_string();
        let nothing = mount.path("2026/1").display().to_string();
        [
            names(mount, &[]),
            names(mount, &["--state", "released"]),
            names(mount, &one_hour),
            names(mount, &[&below, "--limit", "2"]),
            names(mount, &[&nothing]),
            names(mount, &[&path, "--from", "2026-11-22"]),
        ]
    };
    let running = answers(&mount);
    let [all, released, hour, below, nothing, later] = &running;
    assert_eq!(released, &[old]);
    assert!(all.is_sorted_by_key(|path| std::cmp::Reverse(began(path))), "{all:?}");
    assert_eq!(below, &all[..2]);
    assert_eq!((all[0].as_str(), &all[1..]), (newest, hour.as_slice()));
    assert!(nothing.is_empty() && later.is_empty());
    let mut sorted = all.clone();
    sorted.sort();
    every.sort();
    assert_eq!(sorted, every);
    assert!(mount.cli(["find", "--limit", "2"]).ok().out.contains("There are more"));
    mount.stop();
    assert_eq!(answers(&mount), running, "what the daemon left says the same");
}

#[test]
fn without_a_source_find_says_what_to_set() {
    let mount = Setup::default().prepare();
    for asked in [&["--number", "1"][..], &["--calls", "--state", "closed"]] {
        let ran = mount.cli([&["find"], asked].concat());
        assert_eq!(ran.status.code(), Some(1));
        let want = "spoolfs: no call records are configured: set calls.preset or calls.source in ";
        assert!(ran.err.starts_with(want), "{}", ran.err);
        let rest = format!("without call records {} finds nothing", asked[0]);
        assert!(ran.err.contains(&rest), "{}", ran.err);
    }
    let ran = mount.cli(["find", "--from", "soon"]);
    assert_eq!(ran.status.code(), Some(2));
    let mount = setup("source = \"filename\"").prepare();
    let ran = mount.cli(["gaps", "--from", "2026-11-21"]);
    assert_eq!(ran.status.code(), Some(1), "there is no catalog: {}", ran.err);
}
