//! The audit log where its disk fails, and with a daemon.

mod support;

#[cfg(feature = "faults")]
mod disk {
    use spoolfs::audit::{
        Audit, Entry, Event, Fault, Finding, Leaving, Options, Subject, Who, directory, is_cut_off,
        leaving, verify,
    };
    use spoolfs::clock::{Clock, ManualClock, Timestamp};
    use spoolfs::faults;
    use spoolfs::recording::{Generation, NodeId};
    use std::path::Path;
    use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

    /// `audit_keep`.
    const KEEP: std::time::Duration = spoolfs::limits::AUDIT_KEEP_LEAST;

    /// What shall fail is chosen for the whole process.
    static TURN: Mutex<()> = Mutex::new(());

    fn turn() -> MutexGuard<'static, ()> {
        TURN.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn start(dir: &Path) -> Arc<Audit> {
        let clock = ManualClock::at(Timestamp::from_parts(1_795_234_020, 0));
        let options = Options { state_dir: dir.to_owned(), node: "pbx".into(), clock };
        Audit::start(options).unwrap()
    }

    fn until(what: &str, holds: impl Fn() -> bool) {
        let began = std::time::Instant::now();
        while !holds() {
            assert!(began.elapsed().as_secs() < 240, "not within four minutes: {what}");
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
    }

    fn events(dir: &Path, event: &str) -> usize {
        let files = std::fs::read_dir(directory(dir)).unwrap().flatten();
        let logs = files.filter(|f| f.path().extension().is_some_and(|e| e == "jsonl"));
        let wanted = format!("\"event\":\"{event}\"");
        logs.map(|f| std::fs::read_to_string(f.path()).unwrap().matches(&wanted).count()).sum()
    }

    /// Some events that are waited for; returns how many of them were promised.
    fn work(dir: &Path) -> usize {
        let audit = start(dir);
        (0..6).filter(|_| audit.record_synced(Event::Restored).is_ok()).count()
    }

    #[test]
    fn whatever_is_not_written_any_more_the_log_goes_on_valid_and_with_all_that_was_promised() {
        let _turn = turn();
        let mut nth = 1;
        loop {
            let dir = tempfile::tempdir().unwrap();
            // From here on no file of the log changes any more, as after a death; first in a new
            // log, then in one whose end is cut.
            faults::set(&format!("audit.write:{nth}:EIO:forever")).unwrap();
            let mut promised = work(dir.path());
            let first = faults::fired() > 0;
            faults::clear();
            promised += work(dir.path());
            let log = directory(dir.path()).join("000000000001.jsonl");
            let mut text = std::fs::read(&log).unwrap();
            text.extend_from_slice(b"{\"seq\":99,\"prev\":\"ab");
            std::fs::write(&log, text).unwrap();
            faults::set(&format!("audit.write:{nth}:EIO:forever")).unwrap();
            promised += work(dir.path());
            let second = faults::fired() > 0;
            faults::clear();
            promised += work(dir.path());
            let verdict = verify(&directory(dir.path()), &[]).unwrap();
            assert!(verdict.valid, "{nth}: {verdict:?}");
            assert_eq!(events(dir.path(), "restored"), promised, "{nth}: {verdict:?}");
            assert_eq!(events(dir.path(), "torn_tail"), 1, "{nth}");
            if !first && !second {
                break;
            }
            nth += 1;
        }
        assert!(nth > 15, "only {nth} writes were cut off");
    }

    #[test]
    fn lines_that_could_not_leave_whatever_fails_leave_later_and_the_log_is_valid_meanwhile() {
        let _turn = turn();
        let mut nth = 1;
        loop {
            let dir = tempfile::tempdir().unwrap();
            let log = directory(dir.path());
            let audit = start(dir.path());
            audit.record_synced(Event::Restored).unwrap();
            audit.renew();
            audit.record_synced(Event::Restored).unwrap();
            std::fs::write(log.join("aside/000000000001-77-1.told"), b"torn").unwrap();
            let told = |audit: &Audit, clock: &ManualClock| {
                let before = clock.now().minus(KEEP);
                // Or it was cut off.
                let Some(old) = leaving(&log, before).unwrap() else { return audit.leave(0) };
                let chain = audit.health().head.unwrap().chain;
                let (node, audit_keep) = ("pbx".into(), "365d".into());
                let Leaving { first, last, sha256, newest } = old;
                audit.record_synced(Event::LinesLeft {
                    chain,
                    node,
                    first,
                    last,
                    sha256,
                    newest,
                    audit_keep,
                })?;
                audit.leave(last)
            };
            audit.stop();
            // A year later.
            let clock = ManualClock::at(Timestamp::from_parts(1_795_234_020 + 366 * 86_400, 0));
            let options = Options {
                state_dir: dir.path().to_owned(),
                node: "pbx".into(),
                clock: clock.clone(),
            };
            let audit = Audit::start(options.clone()).unwrap();
            audit.flush();
            faults::set(&format!("audit.write:{nth}:EIO:forever")).unwrap();
            let failed = told(&audit, &clock).is_err();
            let fired = faults::fired() > 0;
            drop(audit);
            let verdict = verify(&log, &[]).unwrap();
            faults::clear();
            // What was just being written may be cut; the next start says so in the log.
            let cut = |found: &Finding| matches!(found.fault, Fault::Torn | Fault::EndMissing);
            assert!(verdict.findings.iter().all(cut), "{nth}: {verdict:?}");
            assert!(verdict.valid || failed, "{nth}: {verdict:?}");
            let audit = Audit::start(options).unwrap();
            audit.flush();
            told(&audit, &clock).unwrap();
            audit.stop();
            let verdict = verify(&log, &[]).unwrap();
            assert!(verdict.valid && verdict.first == 3, "{nth}: {verdict:?}");
            assert_eq!(verdict.left.map(|left| left.last), Some(2), "{nth}");
            assert!(!log.join("aside/000000000001-77-1.told").exists(), "{nth}");
            if !fired {
                break;
            }
            nth += 1;
        }
        assert!(nth > 4, "only {nth} writes were cut off");
    }

    #[test]
    fn no_name_is_forgotten_while_a_power_cut_could_bring_its_lines_back() {
        let _turn = turn();
        let dir = tempfile::tempdir().unwrap();
        let audit = start(dir.path());
        let subject = Subject {
            id: NodeId(9),
            path: "a.wav".into(),
            generation: Generation(1),
            sha256: None,
        };
        audit.record_synced(Entry::new(Event::Restored).on(subject)).unwrap();
        audit.renew();
        audit.record_synced(Event::Restored).unwrap();
        let known = || audit.erase("a.wav", Who::Engine, true).unwrap().texts.len();
        faults::set("audit.sync_dir:1:EIO:forever").unwrap();
        assert!(audit.leave(2).is_err());
        assert!(is_cut_off(&directory(dir.path())).unwrap(), "the file has its other name");
        assert!(audit.leave(0).is_err() && known() == 1);
        faults::clear();
        audit.leave(0).unwrap();
        assert_eq!(known(), 0);
    }

    #[test]
    fn a_full_disk_is_told_and_what_was_recorded_meanwhile_is_written_later() {
        let _turn = turn();
        let dir = tempfile::tempdir().unwrap();
        let audit = start(dir.path());
        audit.record_synced(Event::Restored).unwrap();
        faults::set("audit.write:1:ENOSPC:forever").unwrap();
        audit.record(Event::Pinned);
        until("trouble", || audit.health().trouble.is_some());
        assert!(audit.record_synced(Event::Restored).is_err(), "it must not be done then");
        // More than there is room for, and none of it is waited for.
        let began = std::time::Instant::now();
        for _ in 0..40_000 {
            audit.record(Event::Unpinned);
        }
        assert!(began.elapsed().as_secs() < 240, "{:?}", began.elapsed());
        until("losses", || audit.health().lost > 0);
        faults::clear();
        until("it is written again", || {
            let health = audit.health();
            health.trouble.is_none() && health.lost == 0
        });
        audit.record_synced(Event::Restored).unwrap();
        audit.stop();
        let verdict = verify(&directory(dir.path()), &[]).unwrap();
        assert!(verdict.valid, "{verdict:?}");
        assert_eq!(events(dir.path(), "restored"), 2);
        assert_eq!(events(dir.path(), "pinned"), 1);
        let unpinned = events(dir.path(), "unpinned") as u64;
        assert_eq!(unpinned + verdict.lost, 40_000, "{verdict:?}");
        assert!(verdict.lost > 0 && events(dir.path(), "gap") > 0);
    }

    #[test]
    fn after_a_failed_sync_another_file_is_written() {
        let _turn = turn();
        let dir = tempfile::tempdir().unwrap();
        let audit = start(dir.path());
        audit.record_synced(Event::Restored).unwrap();
        faults::set("audit.sync:1:EIO").unwrap();
        assert!(audit.record_synced(Event::Restored).is_err());
        faults::clear();
        audit.record_synced(Event::Pinned).unwrap();
        audit.stop();
        let verdict = verify(&directory(dir.path()), &[]).unwrap();
        assert!(verdict.valid && verdict.files == 2 && verdict.last == 3, "{verdict:?}");
        assert_eq!(events(dir.path(), "restored"), 1, "what failed did not happen");
        assert!(!verdict.findings.iter().any(|f| f.fault == Fault::Missing));
    }
}

/// What docs/AUDIT.md tells people to run where there is no spoolfs.
fn script() -> String {
    let document = include_str!("../docs/AUDIT.md");
    let after = document.split_once("Without spoolfs:").unwrap().1;
    after.split("```").nth(1).unwrap().to_owned()
}

#[test]
fn what_a_daemon_does_is_on_record_checked_shown_and_erased() {
    use std::process::Command;
    use support::mount::Setup;
    if support::no_mount("what_a_daemon_does_is_on_record_checked_shown_and_erased") {
        return;
    }
    let mut mount = Setup::default().mount();
    let path = mount.path("out-5551212-100.wav");
    std::fs::write(&path, b"hello").unwrap();
    mount.cli([std::ffi::OsStr::new("archive"), path.as_os_str()]).ok();
    mount.cli([std::ffi::OsStr::new("url"), path.as_os_str()]).ok();
    mount.cli(["reload"]).ok();
    let config = std::fs::read_to_string(&mount.config).unwrap();
    std::fs::write(&mount.config, format!("{config}\n# changed\n")).unwrap();
    mount.cli(["reload"]).ok();

    let json = |arguments: &[&str]| -> serde_json::Value {
        let ran = mount.cli(arguments);
        serde_json::from_str(&ran.out).unwrap_or_else(|e| panic!("{e}: {ran:?}"))
    };
    let shown = json(&["audit", "show", "--json"]);
    let lines = shown["lines"].as_array().unwrap();
    let of = |event: &str| lines.iter().filter(|l| l["event"] == event).collect::<Vec<_>>();
    let changed = of("policy_changed");
    assert_eq!(changed.len(), 2, "at the start, and when it was another one: {lines:?}");
    assert_eq!(changed[1]["details"]["old"], changed[0]["details"]["new"]);
    assert_eq!(changed[1]["who"]["user"]["uid"], 0);
    let url = of("url_issued");
    assert_eq!(url.len(), 1, "{lines:?}");
    assert_eq!(url[0]["recording"]["path"], "out-5551212-100.wav");
    assert_eq!(url[0]["who"]["user"]["program"], "spoolfs");
    let recording = path.to_str().unwrap();
    let one = json(&["audit", "show", "--json", "--recording", recording]);
    assert_eq!(one["lines"].as_array().unwrap().len(), 1);
    assert!(mount.cli(["audit", "show"]).out.contains("url_issued  uid "));

    let dry = json(&["audit", "erase", "--subject", "5551212", "--dry-run", "--json"]);
    assert_eq!((&dry["count"], &dry["dry_run"]), (&2.into(), &true.into()), "{dry}");
    let erased = json(&["audit", "erase", "--subject", "5551212", "--json"]);
    assert_eq!(erased["count"], 2, "{erased}");
    assert!(!mount.cli(["audit", "show"]).out.contains("5551212"));

    let verdict = json(&["audit", "verify", "--json"]);
    assert_eq!(verdict["valid"], true, "{verdict}");
    mount.stop();
    let ran = mount.cli(["audit", "verify"]);
    assert_eq!(ran.status.code(), Some(0), "{ran:?}");
    let log = mount.state.join("audit/000000000001.jsonl");
    let check = || {
        let script = script().replace("/var/lib/spoolfs/monitor", mount.state.to_str().unwrap());
        Command::new("bash").args(["-c", &script]).output().unwrap()
    };
    let stock = check();
    let text = std::fs::read_to_string(&log).unwrap();
    let last = spoolfs::recording::Sha256::of(text.lines().last().unwrap().as_bytes());
    let told = String::from_utf8_lossy(&stock.stdout).into_owned();
    assert_eq!(told.trim(), format!("{} {last}", text.lines().count()), "{stock:?}");

    std::fs::write(&log, text.replacen("url_issued", "url_issuee", 1)).unwrap();
    let ran = mount.cli(["audit", "verify"]);
    let line = text.lines().position(|l| l.contains("url_issued")).unwrap() + 1;
    let place = format!("000000000001.jsonl:{line}: line {line} of the log: altered");
    assert!(ran.status.code() == Some(1) && ran.out.contains(&place), "{ran:?}");
    assert!(!check().status.success());
    let nowhere = mount.cli(["audit", "verify", "--against", "nowhere"]);
    assert_eq!(nowhere.status.code(), Some(2), "{nowhere:?}");
}

/// Lines leave by `audit_keep` on a mount.
mod leaving {
    use crate::support::mount::{Mount, Setup, Target};
    use crate::support::seaweedfs::SeaweedFs;
    use aws_sdk_s3::types::{ObjectLockLegalHold, ObjectLockLegalHoldStatus};

    use serde_json::Value;
    use spoolfs::audit::{self, Audit, Entry, Event, Options, Subject, directory};
    use spoolfs::catalog::{self, Catalog};
    use spoolfs::clock::{Clock, ManualClock, SystemClock};
    use spoolfs::policy::Ledger;
    use spoolfs::recording::{Generation, NodeId};
    use spoolfs::store::audit::parse_part;
    use std::fs;
    use std::path::PathBuf;
    use std::sync::Arc;
    use std::time::{Duration, Instant};

    const DAY: u64 = 86_400;
    /// The last line that is old enough to leave, in the second file of the log.
    const OLD: u64 = 11;
    /// Known of one of them alone.
    const NAME: &str = "of-a-line-that-leaves.wav";

    #[track_caller]
    fn eventually(mount: &Mount, what: &str, mut is: impl FnMut() -> bool) {
        let until = Instant::now() + Duration::from_secs(120);
        while !is() {
            assert!(Instant::now() < until, "{what}\n{}", mount.said());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn verdict(mount: &Mount, options: &[&str]) -> Value {
        let ran = mount.cli(["audit", "verify", "--json"].iter().chain(options));
        let verdict: Value =
            serde_json::from_str(&ran.out).unwrap_or_else(|e| panic!("{e}: {ran:?}"));
        assert_eq!(ran.status.success(), verdict["valid"] == true, "{ran:?}");
        verdict
    }

    #[track_caller]
    fn is_valid(mount: &Mount, what: &str) {
        for options in [&[][..], &["--against", "archive"]] {
            let verdict = verdict(mount, options);
            assert_eq!(verdict["valid"], true, "{what} {options:?}: {verdict:#}");
        }
    }

    /// Writes the log that there is before the first start: two files of 400 days ago, which a
    /// crash had cut, and a third.
    fn old_lines(mount: &Mount) {
        let now = SystemClock.now();
        let clock = ManualClock::at(now.minus(Duration::from_secs(400 * DAY)));
        let state_dir = mount.state.clone();
        let audit =
            Audit::start(Options { state_dir, node: "pbx".into(), clock: clock.clone() }).unwrap();
        let subject =
            Subject { id: NodeId(9), path: NAME.into(), generation: Generation(1), sha256: None };
        audit.record_synced(Entry::new(Event::Restored).on(subject)).unwrap();
        for lines in [4, 5] {
            (0..lines).for_each(|_| audit.record_synced(Event::Restored).unwrap());
            audit.renew();
        }
        clock.advance(Duration::from_secs(400 * DAY));
        audit.record_synced(Event::Pinned).unwrap();
        audit.stop();
        assert_eq!(files(mount).len(), 3);
        let torn = directory(&mount.state).join("aside/000000000001-77-1.told");
        fs::write(torn, b"torn").unwrap();
    }

    /// A target has all of that, and the time in which nothing leaves after `audit_keep` was
    /// configured is over.
    fn with_old_lines(setup: Setup) -> Mount {
        let top = "node = \"pbx\"\n".into();
        let mut mount = Setup { top, ..setup }.prepare();
        old_lines(&mount);
        mount.start();
        let told = || {
            let verdict = verdict(&mount, &["--against", "archive"]);
            verdict["valid"] == true && in_catalog(&mount)["lines"].as_u64() >= Some(OLD)
        };
        eventually(&mount, "the target is told", told);
        mount.stop();
        let config = fs::read_to_string(&mount.config).unwrap();
        let config = format!("{config}\n[retention]\naudit_keep = \"365d\"\n");
        fs::write(&mount.config, config).unwrap();
        let now = SystemClock.now();
        let mut ledger = Ledger::default();
        ledger.rules("365d", now.minus(Duration::from_secs(4 * DAY)));
        ledger.look(now);
        let ledger = serde_json::to_string(&ledger).unwrap();
        open(&mount).set_setting("audit.keep", &ledger).unwrap();
        mount
    }

    fn open(mount: &Mount) -> Arc<Catalog> {
        let options = catalog::Options {
            state_dir: mount.state.clone(),
            runtime_dir: mount.runtime.clone(),
            clock: Arc::new(SystemClock),
            node: "pbx".into(),
        };
        Catalog::open(options).unwrap()
    }

    /// What the catalog of a daemon that runs, or died, knows of what the target was told.
    fn in_catalog(mount: &Mount) -> Value {
        let flags = rusqlite::OpenFlags::SQLITE_OPEN_READ_ONLY;
        let told = rusqlite::Connection::open_with_flags(mount.state.join("catalog.db"), flags)
            .and_then(|db| {
                let sql = "SELECT value FROM setting WHERE key = 'audit.told.archive'";
                db.query_row(sql, [], |row| row.get::<_, String>(0))
            });
        told.ok().and_then(|told| serde_json::from_str(&told).ok()).unwrap_or_default()
    }

    fn files(mount: &Mount) -> Vec<PathBuf> {
        let files = fs::read_dir(directory(&mount.state)).unwrap().map(|f| f.unwrap().path());
        let mut files: Vec<_> =
            files.filter(|f| f.extension().is_some_and(|e| e == "jsonl")).collect();
        files.sort();
        files
    }

    #[cfg(feature = "faults")]
    fn log(mount: &Mount) -> String {
        files(mount).iter().map(|file| fs::read_to_string(file).unwrap()).collect()
    }

    fn first(mount: &Mount) -> u64 {
        audit::first_line(&directory(&mount.state)).unwrap().unwrap()
    }

    /// Whether something here still tells of the lines that leave.
    #[cfg(feature = "faults")]
    fn is_known(mount: &Mount) -> bool {
        let dir = directory(&mount.state);
        let files = [&dir, &dir.join("aside")].map(|dir| fs::read_dir(dir).unwrap().flatten());
        let mut files = files.into_iter().flatten().map(|file| file.path());
        files.any(|file| {
            let name = file.file_name().unwrap().to_string_lossy().into_owned();
            let bytes = fs::read(&file).unwrap_or_default();
            name.starts_with("000000000001")
                || name.ends_with(".left")
                || bytes.windows(NAME.len()).any(|part| part == NAME.as_bytes())
        })
    }

    #[cfg(feature = "faults")]
    fn is_cut_off_and_completed(point: &str) {
        let mut mount = with_old_lines(Setup::default());
        let before = log(&mount);
        let stays = before.lines().nth(OLD as usize).unwrap();
        let parts = |mount: &Mount| {
            let dir = mount.target.join(".spoolfs/audit/pbx");
            let chain = fs::read_dir(dir).unwrap().next().unwrap().unwrap().path();
            let of = |name: &str| {
                let files = fs::read_dir(chain.join(name)).unwrap().flatten();
                files.map(|file| file.path().display().to_string()).collect::<Vec<_>>()
            };
            (of("lines"), of("heads"))
        };
        let (_, heads) = parts(&mount);
        assert!(is_known(&mount));
        mount.env = vec![("SPOOLFS_CRASH_AT", point.to_owned())];
        let _may_end_before_it_is_ready = mount.start_or_end();
        let until = Instant::now() + Duration::from_secs(120);
        while mount.exited().is_none() {
            assert!(Instant::now() < until, "{point}: it lives on\n{}", mount.said());
            std::thread::sleep(Duration::from_millis(20));
        }
        let name = point.split(':').next().unwrap();
        assert!(mount.said().contains(&format!("dies at crash point {name}")), "{}", mount.said());
        is_valid(&mount, point);
        let cut = log(&mount);
        assert!(cut.contains(stays), "{point}: {cut}");
        mount.bury();
        mount.env.clear();
        mount.start();
        let is_old = |part: &String| parse_part(part).is_some_and(|part| part.last <= OLD);
        let done = || !is_known(&mount) && !parts(&mount).0.iter().any(is_old);
        eventually(&mount, &format!("{point}: the leaving is completed"), done);
        eventually(&mount, "the target is known to", || in_catalog(&mount)["left"] == OLD);
        mount.stop();
        is_valid(&mount, point);
        assert_eq!(first(&mount), OLD + 1, "{point}");
        let after = log(&mount);
        assert!(after.starts_with(&cut[cut.find(stays).unwrap()..]), "{point}: {after}");
        assert_eq!(verdict(&mount, &[])["left"]["last"], OLD, "{point}");
        let (_, now) = parts(&mount);
        assert!(heads.iter().all(|head| now.contains(head)), "{point}: {heads:?} {now:?}");
    }

    /// Wherever the daemon dies while lines leave, the log is valid, here and against its target, and
    /// later nothing is left of those that leave, and everything of the others.
    #[cfg(feature = "faults")]
    #[test]
    fn lines_leave_whenever_the_daemon_dies_and_the_log_is_valid_at_any_moment() {
        let name = "lines_leave_whenever_the_daemon_dies_and_the_log_is_valid_at_any_moment";
        if crate::support::no_mount(name) {
            return;
        }
        let all = spoolfs::faults::POINTS.iter().filter(|point| point.starts_with("lines."));
        let mut points: Vec<String> = all.map(|point| (*point).to_owned()).collect();
        // With the last file, after which nothing else leaves.
        let last = ["after_record", "after_left", "after_forget", "after_removal"];
        points.extend(last.map(|point| format!("lines.{point}:2")));
        crate::support::each_of(3, &points, |point| is_cut_off_and_completed(point));
    }

    /// Versions of what a bucket was told of the log: key and version.
    async fn versions(client: &aws_sdk_s3::Client, bucket: &str) -> Vec<(String, String)> {
        let list = client.list_object_versions().bucket(bucket).prefix("pbx/.spoolfs/audit/");
        let all = list.send().await.unwrap();
        let of = |text: Option<&str>| text.unwrap_or_default().to_owned();
        all.versions().iter().map(|one| (of(one.key()), of(one.version_id()))).collect()
    }

    async fn lock(client: &aws_sdk_s3::Client, bucket: &str, at: &(String, String), on: bool) {
        let status =
            if on { ObjectLockLegalHoldStatus::On } else { ObjectLockLegalHoldStatus::Off };
        let hold = ObjectLockLegalHold::builder().status(status).build();
        let ask = client.put_object_legal_hold().bucket(bucket).key(&at.0).version_id(&at.1);
        ask.legal_hold(hold).send().await.unwrap();
    }

    /// Lines leave here although somebody locked them in the bucket; there they stay.
    #[test]
    fn lines_that_are_locked_in_a_bucket_stay_there_and_the_log_is_valid() {
        let name = "lines_that_are_locked_in_a_bucket_stay_there_and_the_log_is_valid";
        if crate::support::no_mount(name) {
            return;
        }
        let Some(server) = SeaweedFs::start() else { return };
        let bucket = server.new_locked_bucket();
        let target = Target::S3 {
            url: format!("s3://{bucket}/pbx"),
            endpoint: server.endpoint(),
            id: SeaweedFs::ACCESS_KEY.to_owned(),
            secret: SeaweedFs::SECRET_KEY.to_owned(),
        };
        let mut mount = with_old_lines(Setup { target, ..Setup::default() });
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let client = server.client();
        let told = runtime.block_on(versions(&client, &bucket));
        let is_old = |at: &(String, String)| parse_part(&at.0).is_some_and(|part| part.last <= OLD);
        assert_eq!(told.iter().filter(|at| is_old(at)).count(), 2, "{told:?}");
        assert!(told.len() > 2, "where it ended, too: {told:?}");
        for at in &told {
            runtime.block_on(lock(&client, &bucket, at, true));
        }
        mount.start();
        eventually(&mount, "they leave here", || first(&mount) == OLD + 1);
        eventually(&mount, "the target was asked", || in_catalog(&mount)["left"] == OLD);
        is_valid(&mount, "with what is locked hidden");
        assert_eq!(verdict(&mount, &["--against", "archive"])["left"]["last"], OLD);
        mount.stop();
        // All of it is there, and nobody can delete it before the locks are taken off.
        let there = runtime.block_on(versions(&client, &bucket));
        assert!(told.iter().all(|at| there.contains(at)), "{told:?} {there:?}");
        for at in &told {
            let delete =
                || client.delete_object().bucket(&bucket).key(&at.0).version_id(&at.1).send();
            assert!(runtime.block_on(delete()).is_err(), "{at:?}");
            if is_old(at) {
                runtime.block_on(lock(&client, &bucket, at, false));
                runtime.block_on(delete()).unwrap();
            }
        }
        is_valid(&mount, "without what left");
    }
}
