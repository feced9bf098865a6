//! The commands as a person runs them: what they print, what they refuse, how they exit. A stand-in
//! answers at the control socket.

use serde_json::{Value, json};
use spoolfs::clock::Timestamp;
use spoolfs::control::{
    Backlog, CacheUse, DiskPressure, DiskUse, DrainReport, Failure, Handler, HoldsReport,
    JoinsReport, LastError, LinkReport, MoveReport, ObjectReport, PathFailure, PathReport, Peer,
    Progress, ReloadReport, Request, Server, StateCount, StatusReport, TargetReport, TargetState,
    TrashCount, UploadsReport, Waiting, WirePath, next_recording,
};
use spoolfs::recording::{Generation, Sha256, State};
use spoolfs::units::Age;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::{Arc, Mutex};
use std::time::Duration;

const COMMANDS: [&str; 27] = [
    "mount",
    "status",
    "archive",
    "release",
    "recall",
    "explain",
    "check",
    "fsck",
    "reload",
    "rebuild",
    "verify",
    "pin",
    "unpin",
    "url",
    "stitch",
    "find",
    "gaps",
    "trash list",
    "trash restore",
    "trash empty",
    "hold add",
    "hold list",
    "hold show",
    "hold lift",
    "retention plan",
    "retention run",
    "setup-encryption",
];

/// A configuration in a directory of its own.
struct Place {
    dir: tempfile::TempDir,
}

impl Place {
    fn new(more: &str) -> Place {
        let dir = tempfile::tempdir().expect("tempdir");
        for name in ["rec/2026", "state", "archive"] {
            std::fs::create_dir_all(dir.path().join(name)).expect("mkdir");
        }
        let place = Place { dir };
        let text = format!(
            "mountpoint = {:?}\nstate_dir = {:?}\nruntime_dir = {:?}\nnode = \"pbx\"\n{more}",
            place.path("rec"),
            place.path("state"),
            place.path("run")
        );
        std::fs::write(place.path("c.toml"), text).expect("write");
        place
    }

    fn with_target() -> Place {
        let place = Place::new("");
        let mut text = std::fs::read_to_string(place.path("c.toml")).expect("read");
        text.push_str(&format!(
            "[[target]]\nname = \"main\"\nurl = \"file://{}\"\n",
            place.path("archive").display()
        ));
        std::fs::write(place.path("c.toml"), text).expect("write");
        place
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn serve(&self, answers: Answers) -> (Server, Arc<Answers>) {
        let answers = Arc::new(answers);
        let handler = Arc::clone(&answers) as Arc<dyn Handler>;
        (Server::start(&self.path("state/control.sock"), handler).expect("serve"), answers)
    }

    /// Runs a command with this configuration, from inside the mount.
    fn run(&self, arguments: &[&str]) -> Output {
        command(arguments)
            .arg("--config")
            .arg(self.path("c.toml"))
            .current_dir(self.path("rec/2026"))
            .output()
            .expect("run")
    }
}

fn command(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_spoolfs"));
    command.args(arguments);
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("SPOOLFS_") {
            command.env_remove(name);
        }
    }
    // Times of the day are those of the wall clock.
    command.env("TZ", "UTC");
    command
}

fn out(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn err(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn code(output: &Output) -> Option<i32> {
    output.status.code()
}

fn one_json(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout).unwrap_or_else(|e| panic!("{e}: {}", out(output)))
}

#[derive(Default)]
struct Answers {
    asked: Mutex<Vec<Request>>,
    no_target: bool,
    moved: MoveReport,
    refuse: Option<Failure>,
}

impl Handler for Answers {
    fn handle(
        &self,
        request: Request,
        _peer: &Peer,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<Value, Failure> {
        self.asked.lock().expect("lock").push(request.clone());
        if let Some(failure) = &self.refuse {
            return Err(failure.clone());
        }
        progress(Progress { done: 1, total: 2, bytes: 3, bytes_total: 0, current: None });
        let value = match request {
            Request::Status { path: None } if self.no_target => {
                let next_recording = next_recording(&[], Age::Forever, Age::Forever);
                let targets = Vec::new();
                serde_json::to_value(StatusReport { targets, next_recording, ..status_report() })
            }
            Request::Status { path: None } => serde_json::to_value(status_report()),
            Request::Status { path: Some(path) } | Request::Explain { path } => {
                serde_json::to_value(path_report(path))
            }
            Request::Reload => serde_json::to_value(ReloadReport {
                needs_restart: vec!["node".into()],
                warnings: vec!["hm".into()],
                next_recording: "Next.".into(),
            }),
            _ => serde_json::to_value(&self.moved),
        };
        Ok(value.expect("json"))
    }
}

fn status_report() -> StatusReport {
    let at = Timestamp::from_parts(1_795_234_020, 0);
    StatusReport {
        counters: Default::default(),
        version: "9.9.9".into(),
        pid: 77,
        uptime_seconds: 3 * 86_400,
        mode: "plain".into(),
        mountpoint: WirePath("/srv/rec".into()),
        node: "pbx".into(),
        states: vec![StateCount { state: State::Closed, files: 12, bytes: 3 << 20 }],
        backlog: Backlog {
            files: 12,
            bytes: 3 << 20,
            oldest: Some(Waiting { path: WirePath("2026/a.wav".into()), since: at }),
            drain: Some(DrainReport {
                seconds: 300,
                files: 3750,
                bytes: 600 << 20,
                files_per_second: 12.5,
                bytes_per_second: f64::from(2 << 20),
            }),
            ends_at: Some(at.plus(Duration::from_secs(50 * 365 * 86_400))),
        },
        uploads: UploadsReport {
            off: true,
            bytes_per_second: None,
            until: Some(at),
            opens_at: Some(at),
        },
        failing: 1,
        suspect: 2,
        durable_until: None,
        last_error: Some(LastError {
            path: WirePath("2026/b.wav".into()),
            error: "target \"main\" does not answer".into(),
            at,
            next_try: Some(at),
        }),
        targets: vec![TargetReport {
            name: "main".into(),
            url: "s3://b/p".into(),
            required: true,
            state: TargetState::Unreachable,
            detail: Some("timed out".into()),
            last_ok: None,
            last_snapshot: Some(at),
            snapshot_bytes: Some(3 << 20),
        }],
        catalog_trouble: Some("the catalog can not be written".into()),
        next_recording: "A recording closed now is archived.".into(),
        catalog_reads: 0,
        cache: CacheUse { used: 1 << 30, max: 10 << 30 },
        disk: DiskUse {
            free: 5 << 30,
            size: 50 << 30,
            used_percent: 90,
            pressure: DiskPressure::None,
        },
        warnings: vec![],
        bad_copies: 0,
        unopened_copies: 0,
        link: LinkReport {
            plain_because: Some("the kernel is old".into()),
            survives: "calls go on".into(),
            taken_over: 2,
            faults: 1,
        },
        calls: None,
        trash: TrashCount { files: 5, bytes: 1 << 20 },
        holds: HoldsReport { holds: 2, recordings: 31, unarchived: 1 },
        joins: Some(JoinsReport {
            stored: 700,
            waiting: 4,
            failing: 1,
            leaving: 3,
            bad: 2,
            unopened: 0,
            swept: false,
        }),
    }
}

fn path_report(path: WirePath) -> PathReport {
    let at = Timestamp::from_parts(1_795_234_020, 0);
    PathReport {
        path,
        state: State::Archived,
        size: 2048,
        local: true,
        generation: Generation(2),
        sha256: Some(Sha256::of(b"x")),
        objects: vec![ObjectReport {
            target: "main".into(),
            key: "p/pbx/a.wav".into(),
            url: "s3://b/p/pbx/a.wav".into(),
            verified_at: Some(at),
        }],
        modified_at: at,
        closed_at: Some(at),
        archived_at: Some(at),
        recalled_at: None,
        archive_due: None,
        release_due: Some(at),
        expire_due: None,
        rule: Some("\"sales\"".into()),
        must: vec!["main".into()],
        holds: vec!["Smith v. Jones".into()],
        reasons: vec!["keep_local is not over".into()],
        last_error: None,
    }
}

#[test]
fn help_shows_examples_and_wrong_usage_exits_2() {
    let all = command(&["--help"]).output().expect("run");
    assert_eq!(code(&all), Some(0));
    for name in COMMANDS {
        let words: Vec<&str> = name.split(' ').chain(["--help"]).collect();
        assert!(out(&all).contains(&format!("  {} ", words[0])), "{name}: {}", out(&all));
        let help = command(&words).output().expect("run");
        assert_eq!(code(&help), Some(0));
        let text = out(&help);
        for part in ["Examples:", "--config", "--json", "/etc/spoolfs/spoolfs.toml"] {
            assert!(text.contains(part), "{name} --help lacks {part}: {text}");
        }
    }
    for wrong in
        [&[][..], &["dance"], &["archive"], &["explain"], &["status", "a", "b"], &["check", "--no"]]
    {
        let output = command(wrong).output().expect("run");
        assert_eq!(code(&output), Some(2), "{wrong:?}: {}", err(&output));
        assert!(out(&output).is_empty());
    }
}

#[test]
fn the_options_of_every_command_stand_before_its_second_word_too() {
    let audit = ["audit verify", "audit show", "audit erase"];
    for name in COMMANDS.into_iter().chain(audit) {
        let Some((group, what)) = name.split_once(' ') else { continue };
        let help = command(&[group, "--config", "x", "--json", "--help"]).output().expect("run");
        assert_eq!(code(&help), Some(0), "{name}: {}", err(&help));
        let rest: &[&str] = match name {
            "hold add" => &["--case", "A", "--reason", "b", "a.wav"],
            "hold lift" => &["--case", "A", "--reason", "b"],
            "trash restore" => &["--all"],
            "audit erase" => &["--subject", "A"],
            _ => &[],
        };
        let options = ["--config", "/nonexistent.toml", "--json"];
        let before = [&[group][..], &options, &[what], rest].concat();
        let after = [&[group, what][..], rest, &options].concat();
        let [before, after] = [before, after].map(|a| command(&a).output().expect("run"));
        assert_eq!(code(&before), Some(2), "{name}: {}", err(&before));
        assert!(out(&before).contains("/nonexistent.toml"), "{name}: {}", out(&before));
        assert_eq!(out(&before), out(&after), "{name}");
    }
}

#[test]
fn a_bad_configuration_exits_2_with_one_sentence() {
    for name in ["status", "reload", "mount"] {
        let place = Place::new("colour = 1\n");
        let output = place.run(&[name]);
        assert_eq!(code(&output), Some(2), "{}", err(&output));
        let want = format!(
            "spoolfs: {}:5:1: colour is not a known key; remove it, or see \
             docs/CONFIGURATION.md for the keys there are\n",
            place.path("c.toml").display()
        );
        assert_eq!(err(&output), want);
    }
    let output = command(&["status", "--config", "/nonexistent.toml"]).output().expect("run");
    assert_eq!(code(&output), Some(2));
}

#[test]
fn without_a_daemon_commands_exit_1_and_say_how_to_start_one() {
    let place = Place::new("");
    let want = format!(
        "no spoolfs is running for this configuration (socket {}): start it with \"spoolfs mount \
         --config {}\"",
        place.path("state/control.sock").display(),
        place.path("c.toml").display()
    );
    for arguments in [
        &["status"][..],
        &["archive", "a.wav"],
        &["release", "a.wav"],
        &["recall", "a.wav"],
        &["recall", "--since", "7d"],
        &["pin", "a.wav"],
        &["unpin", "a.wav"],
        &["explain", "a.wav"],
        &["hold", "list"],
        &["url", "a.wav"],
        &["reload"],
    ] {
        let output = place.run(arguments);
        assert_eq!(code(&output), Some(1), "{arguments:?}");
        assert_eq!(err(&output), format!("spoolfs: {want}\n"));
    }
    let output = place.run(&["status", "--json"]);
    assert_eq!(code(&output), Some(1));
    assert_eq!(one_json(&output), json!({"error": {"message": want, "failures": []}}));
}

#[test]
fn a_path_outside_the_mount_is_wrong_usage() {
    let place = Place::new("");
    let (_server, answers) = place.serve(Answers::default());
    for path in ["/etc/passwd", "../../state/x", ".."] {
        let output = place.run(&["archive", path]);
        if path == ".." {
            assert_eq!(code(&output), Some(0), "the mount itself: {}", err(&output));
            continue;
        }
        assert_eq!(code(&output), Some(2), "{path}");
        let want = format!(
            " is not under the mountpoint {} of {}; give a path below it, or another --config\n",
            place.path("rec").display(),
            place.path("c.toml").display()
        );
        assert!(err(&output).ends_with(&want), "{}", err(&output));
    }
    let asked = answers.asked.lock().expect("lock");
    assert_eq!(*asked, [Request::Archive { paths: vec![WirePath(PathBuf::new())] }]);
}

#[test]
fn paths_are_sent_relative_to_the_mount() {
    let place = Place::new("");
    let (_server, answers) = place.serve(Answers::default());
    let link = place.path("link");
    std::os::unix::fs::symlink(place.path("rec"), &link).expect("symlink");
    std::os::unix::fs::symlink("/etc/passwd", place.path("rec/2026/l.wav")).expect("symlink");
    let absolute = place.path("rec/2026/b.wav");
    let through = link.join("2026/c.wav");
    let output = place.run(&[
        "recall",
        "a.wav",
        &absolute.to_string_lossy(),
        &through.to_string_lossy(),
        "l.wav",
        "./../2026/d.wav",
        &link.to_string_lossy(),
    ]);
    assert_eq!(code(&output), Some(0), "{}", err(&output));
    let asked = answers.asked.lock().expect("lock");
    let want = ["2026/a.wav", "2026/b.wav", "2026/c.wav", "2026/l.wav", "2026/d.wav", ""];
    let paths = want.map(|p| WirePath(p.into())).to_vec();
    assert_eq!(*asked, [Request::Recall { paths, since: None, until: None }]);
}

/// "Targets: none", and two lines below that no target is configured.
#[test]
fn regression_status_says_once_that_there_is_no_target() {
    let place = Place::new("");
    let (_server, _) = place.serve(Answers { no_target: true, ..Answers::default() });
    let text = out(&place.run(&["status"]));
    let said = text.lines().filter(|line| line.to_lowercase().contains("target"));
    let last = "A recording closed now stays on the local disk only: no target is configured.";
    assert!(said.filter(|line| !line.starts_with("Last error")).eq([last]), "{text}");
}

#[test]
fn status_is_readable_by_people_and_programs() {
    let place = Place::new("");
    let (_server, _) = place.serve(Answers::default());
    let output = place.run(&["status"]);
    assert_eq!(code(&output), Some(0), "{}", err(&output));
    let text = out(&output);
    for part in [
        "spoolfs 9.9.9 on /srv/rec as node pbx, plain mode, up 3 days, pid 77",
        "Plain mode: the kernel is old.",
        "Restart: calls go on.",
        "Faults of spoolfs: 1;",
        "closed     12  3.0 MiB",
        "Waiting to be archived: 12 files, 3.0 MiB; the oldest, 2026/a.wav, was closed",
        "Archived in the last 5 minutes: 12.5 files and 2.0 MiB a second; the backlog ends in ",
        "Uploads: off until 04:07 (",
        "2026/b.wav: target \"main\" does not answer",
        "main  s3://b/p  unreachable: timed out",
        "CATALOG: the catalog can not be written",
        "Joined calls: 700 stored, 4 not ready to be stored, 3 to be deleted, 1 FAILING, tried again later, \
         2 found damaged or gone since the start; not all calls were looked at yet\n",
        "Cache: 1.0 GiB of 10.0 GiB",
        "Disk: 5.0 GiB free of 50.0 GiB",
        "A recording closed now is archived.",
    ] {
        assert!(text.contains(part), "{part} is not in\n{text}");
    }
    let report: StatusReport =
        serde_json::from_value(one_json(&place.run(&["status", "--json"]))).expect("typed");
    assert_eq!(report, status_report());
    let one = one_json(&place.run(&["status", "--json", "a.wav"]));
    assert_eq!(one["state"], "archived");
    assert_eq!(one["closed_at"], "2026-11-21T04:07:00Z");
    let text = out(&place.run(&["status", "a.wav"]));
    for part in ["archived, on the local disk", "s3://b/p/pbx/a.wav in target \"main\"", "2.0 KiB"]
    {
        assert!(text.contains(part), "{part} is not in\n{text}");
    }
    let text = out(&place.run(&["explain", "a.wav"]));
    assert!(
        text.contains("is archived, on the local disk.\n  - keep_local is not over\n"),
        "{text}"
    );
}

#[test]
fn a_move_reports_what_it_did_and_fails_if_anything_failed() {
    let place = Place::new("");
    let failure = |path: &str, reason: &str| PathFailure {
        path: WirePath(path.into()),
        reason: reason.into(),
    };
    let mut moved = MoveReport { done: 3, bytes: 4096, ..MoveReport::default() };
    moved.skipped.push(failure("2026/s.wav", "it is held"));
    {
        let (_server, _) = place.serve(Answers { moved: moved.clone(), ..Answers::default() });
        let output = place.run(&["archive", "."]);
        assert_eq!(code(&output), Some(0));
        let want = "archived 3 files, 4.0 KiB; 1 skipped\nSkipped:\n  2026/s.wav: it is held\n";
        assert_eq!((out(&output).as_str(), err(&output).as_str()), (want, ""));
    }
    moved.failed.push(failure("2026/f.wav", "target \"main\" does not answer"));
    let (_server, _) = place.serve(Answers { moved: moved.clone(), ..Answers::default() });
    let output = place.run(&["release", "."]);
    assert_eq!(code(&output), Some(1));
    assert_eq!(err(&output), "Failed:\n  2026/f.wav: target \"main\" does not answer\n");
    let output = place.run(&["recall", "--json", "."]);
    assert_eq!(code(&output), Some(1));
    assert_eq!(one_json(&output), serde_json::to_value(&moved).expect("json"));
}

#[test]
fn a_refusal_lists_its_paths() {
    let place = Place::new("");
    let failures =
        vec![PathFailure { path: WirePath("a.wav".into()), reason: "no such file".into() }];
    let refuse = Some(Failure { message: "nothing was released".into(), failures });
    let (_server, _) = place.serve(Answers { refuse, ..Answers::default() });
    let output = place.run(&["release", "a.wav"]);
    assert_eq!(code(&output), Some(1));
    assert_eq!(err(&output), "spoolfs: nothing was released\n  a.wav: no such file\n");
}

#[test]
fn reload_checks_the_file_before_it_asks() {
    let place = Place::new("");
    let (_server, answers) = place.serve(Answers::default());
    let output = place.run(&["reload"]);
    assert_eq!(
        out(&output),
        "The new configuration is in force.\nWarning: hm.\nChanged, but in force only after a \
         restart: node.\nNext.\n"
    );
    let mut text = std::fs::read_to_string(place.path("c.toml")).expect("read");
    text.push_str("colour = 1\n");
    std::fs::write(place.path("c.toml"), text).expect("write");
    assert_eq!(code(&place.run(&["reload"])), Some(2));
    assert_eq!(answers.asked.lock().expect("lock").len(), 1, "the bad one was not sent");
}

/// Whether this process may do what the daemon may: some findings depend on it.
fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

fn finding<'a>(report: &'a Value, what: &str) -> Vec<&'a Value> {
    let all = report["findings"].as_array().expect("findings");
    all.iter().filter(|f| f["what"] == what).collect()
}

fn snapshot(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut queue = vec![dir.to_owned()];
    while let Some(dir) = queue.pop() {
        for entry in std::fs::read_dir(&dir).expect("read") {
            let entry = entry.expect("entry");
            if entry.file_type().expect("type").is_dir() {
                queue.push(entry.path());
            } else {
                found.push(entry.path());
            }
        }
    }
    found.sort();
    found
}

#[test]
fn check_tries_everything_and_leaves_no_file() {
    let place = Place::with_target();
    let before = snapshot(place.dir.path());
    let output = place.run(&["check", "--json"]);
    let report = one_json(&output);
    let target = finding(&report, "target \"main\"");
    assert!(target.iter().all(|f| f["outcome"] == "ok"), "{report:#}");
    let details: Vec<_> = target.iter().filter_map(|f| f["detail"].as_str()).collect();
    for part in ["holds no archive yet", "refused second put", "delete works", "clock"] {
        assert!(details.iter().any(|d| d.contains(part)), "{part}: {details:?}");
    }
    assert_eq!(snapshot(place.dir.path()), before);
    assert!(!place.path("rec/.spl").exists());
    assert_eq!(finding(&report, "daemon")[0]["detail"], "none runs for this configuration");
    assert_eq!(
        report["next_recording"],
        "A recording closed now is archived to target \"main\" after 5 minutes, and its local \
         copy is released 24 hours after that."
    );
    if is_root() && Path::new("/dev/fuse").exists() {
        assert_eq!(report["ok"], true, "{report:#}");
        assert_eq!(code(&output), Some(0));
        assert_eq!(finding(&report, "private directory")[0]["outcome"], "ok");
    }
}

#[test]
fn check_names_what_is_missing_with_its_cure_and_exits_1() {
    let place = Place::with_target();
    std::fs::remove_dir_all(place.path("rec")).expect("remove");
    let output = command(&["check", "--config"]).arg(place.path("c.toml")).output().expect("run");
    assert_eq!(code(&output), Some(1));
    let rec = place.path("rec");
    let want = format!(
        "FAILED   mountpoint: {0} does not exist\n         -> create it (mkdir -p {0}) or correct \
         mountpoint\n",
        rec.display()
    );
    assert!(out(&output).contains(&want), "{}", out(&output));
}

#[test]
fn check_reports_a_bad_configuration_as_a_finding() {
    let place = Place::new("mountpiont = \"/x\"\n");
    let output = place.run(&["check", "--json"]);
    assert_eq!(code(&output), Some(1));
    let report = one_json(&output);
    assert_eq!(report["ok"], false);
    let found = finding(&report, "configuration");
    assert_eq!(found[0]["cure"], "did you mean mountpoint?");
    assert!(found[0]["detail"].as_str().is_some_and(|d| d.contains(":5:1: mountpiont")));
}

#[test]
fn check_refuses_the_archive_of_somebody_else_and_writes_nothing_to_it() {
    let place = Place::with_target();
    let marker = place.path("archive/.spoolfs");
    std::fs::create_dir(&marker).expect("mkdir");
    std::fs::write(marker.join("archive.json"), r#"{"name":"other"}"#).expect("write");
    let before = snapshot(&place.path("archive"));
    let output = place.run(&["check", "--json"]);
    assert_eq!(code(&output), Some(1));
    let report = one_json(&output);
    let found = finding(&report, "target \"main\"");
    assert_eq!(found.len(), 1, "{report:#}");
    assert_eq!(
        found[0]["cure"],
        "choose another prefix in url, or set archive = \"other\" to join it"
    );
    assert_eq!(snapshot(&place.path("archive")), before);
}

#[test]
fn check_says_that_a_target_does_not_answer() {
    // Nobody listens at a port that was just given back.
    let port = std::net::TcpListener::bind("127.0.0.1:0")
        .and_then(|l| l.local_addr())
        .expect("a free port")
        .port();
    let place = Place::new(&format!(
        "[[target]]\nname = \"main\"\nurl = \"s3://b/p\"\nendpoint = \"http://127.0.0.1:{port}\"\n\
         access_key_id = \"k\"\nsecret_access_key = \"hunter2\"\n"
    ));
    let output = place.run(&["check", "--json"]);
    assert_eq!(code(&output), Some(1));
    let report = one_json(&output);
    let found = finding(&report, "target \"main\"");
    assert_eq!(found[0]["outcome"], "failed");
    assert!(found[0]["cure"].as_str().is_some_and(|c| !c.is_empty()), "{report:#}");
    assert!(!out(&output).contains("hunter2") && !err(&output).contains("hunter2"));
}

#[test]
fn check_says_that_a_daemon_runs() {
    let place = Place::new("");
    let (_server, _) = place.serve(Answers::default());
    let report = one_json(&place.run(&["check", "--json"]));
    let detail = finding(&report, "daemon")[0]["detail"].as_str().expect("detail").to_owned();
    assert!(detail.contains(&format!("runs, pid {}", std::process::id())), "{detail}");
}
