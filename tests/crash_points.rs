//! The daemon dies at every point that `faults::POINTS` names, and nothing that was promised is
//! lost: once with the dead mount taken away, as after a crash without a keeper, and once under a
//! keeper, where nobody may notice.
#![cfg(feature = "faults")]

mod support;

use age::secrecy::ExposeSecret;
use rustix::fs::RenameFlags;
use rustix::process::{Signal, kill_process};
use spoolfs::faults;
use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::time::{Duration, Instant};
use support::mount::{Mount, Setup};

/// Files of the tree, by their path below the mount.
type Tree = BTreeMap<String, Vec<u8>>;

/// Points passed only when a mount is taken over.
const TAKE_OVER: &[&str] =
    &["handover.after_resend", "handover.after_resume", "handover.before_resume"];

/// Passed when a start finds something in the trash. Until then no target is there, or it might be
/// archived, and gone from the trash.
const TRASH: &str = "trash.after_found";

/// Those that come before a mount is ready, after it was stopped, or only with what was changed
/// without a mount: nobody can notice them, or the first start would not come about.
fn before_anybody_can_notice(point: &str) -> bool {
    let places = [
        "adopt.",
        "attach.",
        "catalog.",
        "log.",
        "reconcile.",
        "sync.",
        "undecided.",
        "handover.before_c",
    ];
    places.iter().any(|place| point.starts_with(place))
        || matches!(point, "handover.after_connection" | "handover.after_kept" | TRASH)
}

/// Daemons at a time; most of the time each of them waits.
const AT_A_TIME: usize = 4;

#[derive(Clone, Copy, Debug)]
enum Step {
    Mkdir(&'static str),
    Write(&'static str, u8),
    /// A few bytes more, and another header, as a PBX does.
    Append(&'static str, u8),
    Cut(&'static str, u64),
    /// Writes all of it anew while no target is there.
    Over(&'static str, u8),
    Rename(&'static str, &'static str),
    Exchange(&'static str, &'static str),
    Unlink(&'static str),
    /// Made, written and removed while it is open.
    Nameless(&'static str),
    Rmdir(&'static str),
    Command(&'static str, &'static str),
    /// Was written long ago.
    Age(&'static str),
    /// Nothing local is left of what is in the trash.
    Buried(&'static str),
    /// Comes back out of the trash.
    Restore(&'static str, u8),
    /// For what is done a moment later.
    Rest(u64),
}

/// Together they pass every point.
const WORK: &[Step] = &[
    Step::Mkdir("d"),
    Step::Write("d/one.wav", 1),
    Step::Write("d/two.wav", 2),
    Step::Write("d/more.wav", 7),
    Step::Write("d/less.wav", 8),
    Step::Rename("d/one.wav", "d/uno.wav"),
    Step::Write("d/new.wav", 3),
    Step::Rename("d/new.wav", "d/two.wav"),
    Step::Exchange("d/uno.wav", "d/two.wav"),
    Step::Write("d/del.wav", 4),
    Step::Unlink("d/del.wav"),
    Step::Nameless("d/held.wav"),
    Step::Write("d/cut.WAV", CUT),
    Step::Write("d/call.wav", CALL),
    Step::Mkdir("e"),
    Step::Rmdir("e"),
    Step::Write("d/old.wav", 11),
    Step::Age("d/old.wav"),
    Step::Unlink("d/old.wav"),
    Step::Write("d/over.wav", 12),
    Step::Age("d/over.wav"),
    Step::Write("d/new.wav", 13),
    Step::Rename("d/new.wav", "d/over.wav"),
    Step::Write("d/here.wav", 14),
    Step::Age("d/here.wav"),
    Step::Unlink("d/here.wav"),
    Step::Restore("d/here.wav", 14),
    Step::Command("archive", ""),
    Step::Buried("d/old.wav"),
    Step::Restore("d/old.wav", 11),
    Step::Command("archive", "d"),
    Step::Command("release", "d"),
    Step::Write("d/uno.wav", 5),
    Step::Command("recall", "d/two.wav"),
    Step::Write("d/two.wav", 6),
    Step::Append("d/more.wav", 9),
    Step::Append("d/more.wav", 10),
    Step::Cut("d/less.wav", 5_000),
    Step::Rest(2500),
];

fn more(seed: u8) -> Vec<u8> {
    vec![seed; 3000]
}

/// As `seed`: the bytes are those of a call that was cut.
const CUT: u8 = 255;
/// As `seed`: those of a call that is stored as FLAC.
const CALL: u8 = 254;

/// For a second snapshot, with which the first one goes.
const ONCE_MORE: &[Step] = &[Step::Command("archive", "d"), Step::Rest(2500)];

/// However slow the writer is, nothing is fetched before it has written.
const WITHOUT_TARGET: &[Step] = &[
    Step::Write("d/without.wav", 11),
    Step::Command("archive", "d"),
    Step::Command("release", "d/without.wav"),
    Step::Over("d/without.wav", 12),
];

fn work(point: &str) -> impl Iterator<Item = &'static Step> {
    let more: &[Step] = match point {
        "partial.after_write" => WITHOUT_TARGET,
        _ if point.starts_with("snapshot.") => ONCE_MORE,
        _ => &[],
    };
    WORK.iter().chain(more)
}

fn bytes(seed: u8) -> Vec<u8> {
    let mut bytes: Vec<u8> = (0..70_000u32).map(|i| (i % 251) as u8 ^ seed).collect();
    let header: &[u8] = match seed {
        CUT => {
            b"RIFF\0\0\0\0WAVEfmt \x14\0\0\0\x31\0\x01\0\x40\x1f\0\0\x59\x06\0\0\x41\0\0\0\x02\0\x40\x01\
              fact\x04\0\0\0\0\0\0\0data\0\0\0\0"
        }
        CALL => {
            bytes.iter_mut().skip(1).step_by(2).for_each(|high| *high = 0);
            b"RIFF\0\0\0\0WAVEfmt \x10\0\0\0\x01\0\x01\0\x40\x1f\0\0\x80\x3e\0\0\x02\0\x10\0data\0\0\0\0"
        }
        _ => &[],
    };
    bytes[..header.len()].copy_from_slice(header);
    bytes
}

impl Step {
    fn run(self, mount: &Mount) -> io::Result<()> {
        let at = |path: &str| mount.path(path);
        match self {
            Step::Mkdir(path) => fs::create_dir(at(path)),
            Step::Write(path, seed) => fs::write(at(path), bytes(seed)),
            Step::Append(path, seed) => {
                let mut file = OpenOptions::new().append(true).open(at(path))?;
                file.write_all(&more(seed))?;
                let header = OpenOptions::new().write(true).open(at(path))?;
                header.write_all_at(&[seed; 44], 0)
            }
            Step::Cut(path, len) => File::options().write(true).open(at(path))?.set_len(len),
            Step::Over(path, seed) => {
                let aside = mount.root.join("aside");
                fs::rename(&mount.target, &aside)?;
                let open = OpenOptions::new().write(true).open(at(path));
                let written = open.and_then(|file| file.write_all_at(&bytes(seed), 0));
                fs::rename(&aside, &mount.target)?;
                written?;
                // Reads leave a target alone for some seconds that did not answer.
                let until = Instant::now() + support::look::PATIENCE;
                while let Err(error) = fs::read(at("d/cut.WAV")) {
                    if Instant::now() > until {
                        return Err(error);
                    }
                    std::thread::sleep(Duration::from_millis(50));
                }
                Ok(())
            }
            Step::Rename(a, b) => fs::rename(at(a), at(b)),
            Step::Exchange(a, b) => {
                let cwd = rustix::fs::CWD;
                Ok(rustix::fs::renameat_with(cwd, at(a), cwd, at(b), RenameFlags::EXCHANGE)?)
            }
            Step::Unlink(path) => fs::remove_file(at(path)),
            Step::Nameless(path) => {
                let mut file = OpenOptions::new().write(true).create_new(true).open(at(path))?;
                file.write_all(b"before")?;
                fs::remove_file(at(path))?;
                file.write_all(b"after")
            }
            Step::Rmdir(path) => fs::remove_dir(at(path)),
            Step::Command(command, path) => {
                let ran = mount.cli([command.as_ref(), at(path).as_os_str()]);
                let said = || io::Error::other(format!("{command}: {}{}", ran.out, ran.err));
                // The call that goes on through it all.
                let told = format!("{}{}", ran.out, ran.err);
                let but_one =
                    told.contains("; 1 failed") && told.contains("call.wav: a program has it open");
                if ran.status.success() || but_one { Ok(()) } else { Err(said()) }
            }
            Step::Age(path) => {
                let then = std::time::SystemTime::now() - Duration::from_secs(7200);
                // What is open when it is deleted does not go to the trash. Who died may have left it open for
                // longer than this test is.
                let until = Instant::now() + Duration::from_secs(5);
                while support::look::state(&at(path)) == "recording" && Instant::now() < until {
                    std::thread::sleep(Duration::from_millis(1));
                }
                File::open(at(path))?.set_modified(then)
            }
            Step::Buried(path) => {
                let until = Instant::now() + support::look::PATIENCE;
                loop {
                    let path = at(path).display().to_string();
                    let ran = mount.cli(["trash", "list", &path, "--json"]);
                    let list: serde_json::Value =
                        serde_json::from_str(&ran.out).unwrap_or_default();
                    if list["recordings"][0]["local"] == false {
                        return Ok(());
                    }
                    if !ran.status.success() || Instant::now() > until {
                        return Err(io::Error::other(format!("{list:#}{}", ran.err)));
                    }
                    std::thread::sleep(Duration::from_millis(50));
                }
            }
            Step::Restore(path, _) => {
                let ran = mount.cli(["trash", "restore", &at(path).display().to_string()]);
                // Asked again, it may be there already.
                let done = ran.status.success() || at(path).exists();
                let said = || io::Error::other(format!("restore: {}{}", ran.out, ran.err));
                if done { Ok(()) } else { Err(said()) }
            }
            Step::Rest(millis) => {
                std::thread::sleep(Duration::from_millis(millis));
                Ok(())
            }
        }
    }

    /// It is asked again when it is refused: something else may be done at the moment.
    fn is_asked(self) -> bool {
        matches!(self, Step::Command(..) | Step::Buried(_) | Step::Restore(..))
    }

    /// What it does to the tree.
    fn apply(self, tree: &mut Tree) {
        match self {
            Step::Write(path, seed) | Step::Over(path, seed) | Step::Restore(path, seed) => {
                tree.insert(path.into(), bytes(seed));
            }
            Step::Append(path, seed) => {
                let file = tree.get_mut(path).expect("it is there");
                file.extend(more(seed));
                file[..44].fill(seed);
            }
            Step::Cut(path, len) => {
                tree.get_mut(path).expect("it is there").truncate(len as usize);
            }
            Step::Rename(a, b) => {
                let moved = tree.remove(a).expect("it is there");
                tree.insert(b.into(), moved);
            }
            Step::Exchange(a, b) => {
                let (one, other) = (tree.remove(a), tree.remove(b));
                tree.insert(b.into(), one.expect("it is there"));
                tree.insert(a.into(), other.expect("it is there"));
            }
            Step::Unlink(path) => {
                tree.remove(path);
            }
            Step::Mkdir(_)
            | Step::Nameless(_)
            | Step::Rmdir(_)
            | Step::Age(_)
            | Step::Buried(_)
            | Step::Command(..)
            | Step::Rest(_) => {}
        }
    }

    /// Whether the tree is one that the step may leave when it is cut off.
    fn may_leave(self, before: &Tree, found: &Tree) -> bool {
        let mut after = before.clone();
        self.apply(&mut after);
        if found == before || *found == after {
            return true;
        }
        let (path, whole) = match self {
            // The header comes last.
            Step::Append(path, seed) => (path, [&before[path][..], &more(seed)].concat()),
            Step::Write(path, seed) => (path, bytes(seed)),
            Step::Nameless(path) => (path, b"before".to_vec()),
            _ => return false,
        };
        let without = |tree: &Tree| {
            let mut tree = tree.clone();
            (tree.remove(path), tree)
        };
        let (cut, rest) = without(found);
        rest == without(before).1 && cut.is_none_or(|cut| whole.starts_with(&cut))
    }
}

fn files_below(root: &Path) -> Tree {
    let mut tree = Tree::new();
    let mut dirs = vec![root.to_path_buf()];
    while let Some(dir) = dirs.pop() {
        for entry in fs::read_dir(&dir).expect("a directory can be read") {
            let path = entry.expect("a directory can be read").path();
            if path.is_dir() {
                dirs.push(path);
            } else {
                let name = path.strip_prefix(root).expect("it is below").display().to_string();
                tree.insert(name, fs::read(&path).unwrap_or_else(|e| panic!("{path:?}: {e}")));
            }
        }
    }
    tree
}

fn setup(point: &str, keeper: Option<&'static [&'static str]>) -> Setup {
    let end = "\n".to_owned();
    // Only a kernel that sends no request again has us keep them.
    let top = match point.starts_with("relay.") {
        true => "passthrough = \"never\"\nresend = \"never\"\n".to_owned(),
        false => String::new(),
    };
    let settle = "10ms\"\nrepair_headers = true\ncompress = \"flac\"\nsnapshot_every = \"1s\"\nsnapshot_keep = 1\n\
        journal_interval = \"1s"
        .to_owned();
    // Soon enough to be passed twice.
    Setup { keeper, top, end, settle, sync_after: "1s".into(), ..Setup::default() }
}

/// Not started yet. Where it is about what targets are given, that is sealed.
fn prepared(point: &str, keeper: Option<&'static [&'static str]>) -> Mount {
    let mount = setup(point, keeper).prepare();
    let sealed = ["archive.", "journal.", "seal.", "snapshot."];
    if sealed.iter().any(|place| point.starts_with(place)) {
        let key = age::x25519::Identity::generate();
        let file = mount.root.join("identity");
        fs::write(&file, key.to_string().expose_secret()).unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o400)).unwrap();
        let config = fs::read_to_string(&mount.config).unwrap();
        let hide = !(point.starts_with("seal.") || point.starts_with("snapshot."));
        let to =
            format!("[write_back]\nencrypt_to = [\"{}\"]\nhide_names = {hide}\n", key.to_public());
        let read = format!("\n[read]\nidentity_file = \"{}\"\n", file.display());
        fs::write(&mount.config, config.replacen("[write_back]\n", &to, 1) + &read).unwrap();
    }
    mount
}

/// A tree with what a start has to find out: something new, moved, gone, and a lost directory.
fn with_a_past(point: &str) -> (Mount, Tree) {
    let mut mount = prepared(point, None);
    mount.start();
    let mut tree = Tree::new();
    for dir in ["keep", "lost", "moved"] {
        fs::create_dir(mount.path(dir)).unwrap();
    }
    for (n, path) in ["keep/a.wav", "keep/gone.wav", "lost/x.wav", "moved/m.wav"].iter().enumerate()
    {
        tree.insert((*path).into(), bytes(100 + n as u8));
        fs::write(mount.path(path), &tree[*path]).unwrap();
    }
    mount.cli(["archive".as_ref(), mount.mountpoint.as_os_str()]).ok();
    mount.cli(["release".as_ref(), mount.path("lost").as_os_str()]).ok();
    if point == TRASH {
        fs::rename(&mount.target, mount.root.join("aside")).unwrap();
    }
    for step in [Step::Write("keep/t.wav", 7), Step::Age("keep/t.wav"), Step::Unlink("keep/t.wav")]
    {
        step.run(&mount).unwrap();
    }
    mount.restart();
    if point == "undecided.after_settled" {
        mount.stop();
        mount.env = vec![("SPOOLFS_CRASH_AT", "rename.after_intent".to_owned())];
        mount.start();
        fs::rename(mount.path("keep/a.wav"), mount.path("keep/b.wav")).unwrap_err();
        dies(&mut mount, "rename.after_intent");
        mount.bury();
        mount.env.clear();
    } else {
        mount.stop();
    }
    fs::write(mount.path("keep/new.wav"), bytes(50)).unwrap();
    tree.insert("keep/new.wav".into(), bytes(50));
    fs::remove_file(mount.path("keep/gone.wav")).unwrap();
    fs::remove_dir_all(mount.path("lost")).unwrap();
    fs::rename(mount.path("moved/m.wav"), mount.path("moved/n.wav")).unwrap();
    let moved = tree.remove("moved/m.wav").unwrap();
    tree.insert("moved/n.wav".into(), moved);
    (mount, tree)
}

/// Waits for the daemon's end, which must be the one that was asked for.
#[track_caller]
fn dies(mount: &mut Mount, point: &str) {
    let until = Instant::now() + support::look::PATIENCE;
    let status = loop {
        if let Some(status) = mount.exited() {
            break status;
        }
        assert!(Instant::now() < until, "{point}: it lives on\n{}", mount.said());
        std::thread::sleep(Duration::from_millis(5));
    };
    assert_eq!(status.signal(), Some(6), "{point}: {status}\n{}", mount.said());
}

/// Does the work until the daemon is dead. What is in the tree then, and the step that was cut off.
fn until_death(mount: &mut Mount, point: &str, tree: &mut Tree) -> Step {
    if mount.start_or_end().is_err() {
        dies(mount, point);
        return Step::Rest(0);
    }
    if point == TRASH {
        dies(mount, point);
        return Step::Rest(0);
    }
    for step in work(point) {
        let until = Instant::now() + support::look::PATIENCE;
        let mut done = step.run(mount);
        while done.is_err() && step.is_asked() && mount.exited().is_none() && Instant::now() < until
        {
            std::thread::sleep(Duration::from_millis(20));
            done = step.run(mount);
        }
        if done.is_err() || mount.exited().is_some() {
            println!("{point}: in {step:?}: {done:?}");
            dies(mount, point);
            return *step;
        }
        step.apply(tree);
    }
    kill_process(mount.pid(), Signal::TERM).unwrap();
    dies(mount, point);
    Step::Rest(0)
}

/// Everything is compared, settled, archived and told in the journal.
fn settle(mount: &Mount, point: &str) {
    let until = Instant::now() + support::look::PATIENCE;
    loop {
        let ran = mount.cli(["archive".as_ref(), mount.mountpoint.as_os_str()]);
        let status = mount.status();
        let compares = status["warnings"].to_string().contains("compared with the catalog");
        let database = mount.state.join("catalog.db");
        let flags = rusqlite::OpenFlags::SQLITE_OPEN_READ_ONLY;
        let untold = rusqlite::Connection::open_with_flags(database, flags)
            .and_then(|db| db.query_row("SELECT count(*) FROM journal", [], |row| row.get(0)));
        let waits = status["backlog"]["files"] != 0 || compares || untold != Ok(0_i64);
        if ran.status.success() && !waits {
            return;
        }
        assert!(Instant::now() < until, "{point}: {ran:?}\n{status:#}\n{}", mount.said());
        std::thread::sleep(Duration::from_millis(50));
    }
}

fn dies_and_starts_again(point: &str) {
    let (mut mount, mut tree) = with_a_past(point);
    // The first passing of a rotation is that of the start.
    mount.env = vec![("SPOOLFS_CRASH_AT", point.to_owned())];
    let cut = until_death(&mut mount, point, &mut tree);
    let name = point.split(':').next().unwrap();
    assert!(mount.said().contains(&format!("dies at crash point {name}")), "{}", mount.said());
    mount.bury();
    mount.env.clear();
    if point == TRASH {
        fs::rename(mount.root.join("aside"), &mount.target).unwrap();
    }
    mount.start();
    settle(&mount, point);
    let mut found = files_below(&mount.mountpoint);
    if let Some(renamed) = found.remove("keep/b.wav") {
        assert_eq!(point, "undecided.after_settled");
        found.insert("keep/a.wav".into(), renamed);
    }
    assert!(
        cut.may_leave(&tree, &found),
        "{point}, in {cut:?}: {:?} became {:?}\n{}",
        tree.keys(),
        found.iter().map(|(path, bytes)| (path, bytes.len())).collect::<Vec<_>>(),
        mount.said()
    );
    mount.stop();
    mount.fsck();
}

fn each(points: &[String], test: fn(&str)) {
    support::each_of(AT_A_TIME, points, |point| test(point));
}

fn points() -> Vec<String> {
    let only = std::env::var("SPOOLFS_TEST_POINTS").unwrap_or_default();
    let wanted = |point: &&str| only.is_empty() || only.split(',').any(|o| point.contains(o));
    // Those of expiry, of stored joins, of what holds keep, of lines that leave the audit log and of moving
    // into encrypted directories have suites of their own,
    // and those of the scrub a test; so has a second death in a row.
    let elsewhere = |point: &&str| {
        point.starts_with("expiry.")
            || point.starts_with("joins.")
            || point.starts_with("kept.")
            || point.starts_with("lines.")
            || point.starts_with("rewrite.")
            || point.starts_with("scrub.")
            || point.starts_with("setup.")
            || *point == "handover.before_answer"
    };
    let here = |point: &&str| !elsewhere(point);
    faults::POINTS.iter().copied().filter(here).filter(wanted).map(str::to_owned).collect()
}

#[test]
fn every_crash_point_is_survived() {
    if support::no_mount("every_crash_point_is_survived") {
        return;
    }
    let mut points = points();
    points.retain(|point| !TAKE_OVER.contains(&point.as_str()));
    if points.iter().any(|point| point == "log.after_rotation") {
        // The first comes at every start.
        points.push("log.after_rotation:2".to_owned());
    }
    each(&points, dies_and_starts_again);
}

fn nobody_notices(point: &str) {
    let options: &[&str] = &["--restart-delay", "1ms", "--failures", "1000"];
    let mut mount = prepared(point, Some(options));
    let mark = mount.root.join("died");
    mount.env = vec![
        ("SPOOLFS_CRASH_AT", point.to_owned()),
        ("SPOOLFS_CRASH_MARK", mark.display().to_string()),
    ];
    mount.start();
    let mut tree = Tree::new();
    // Open through it all.
    let mut call = File::create(mount.path("call.wav")).unwrap();
    if TAKE_OVER.contains(&point) {
        kill_process(mount.server().unwrap(), Signal::KILL).unwrap();
    }
    for step in work(point) {
        call.write_all(b"20 ms of somebody's voice").unwrap();
        let until = Instant::now() + support::look::PATIENCE;
        while let Err(error) = step.run(&mount) {
            // Commands are asked again; calls must not notice.
            let again = step.is_asked() && Instant::now() < until;
            assert!(again, "{point}, in {step:?}: {error}\n{}", mount.said());
            std::thread::sleep(Duration::from_millis(20));
        }
        step.apply(&mut tree);
    }
    assert!(mark.exists(), "{point} was not passed\n{}", mount.said());
    tree.insert("call.wav".into(), b"20 ms of somebody's voice".repeat(work(point).count()));
    drop(call);
    settle(&mount, point);
    let found = files_below(&mount.mountpoint);
    assert!(found == tree, "{point}: {:?} became {:?}", tree.keys(), found.keys());
    mount.stop();
    mount.fsck();
}

#[test]
fn no_crash_point_is_noticed_under_a_keeper() {
    if support::no_mount("no_crash_point_is_noticed_under_a_keeper") {
        return;
    }
    let mut points = points();
    let sync: Vec<_> = points.iter().filter(|p| p.starts_with("sync.")).cloned().collect();
    points.retain(|point| !before_anybody_can_notice(point));
    // The first comes at every start.
    points.extend(sync.into_iter().map(|point| format!("{point}:2")));
    // Between other requests than the first.
    let relay: Vec<_> = points.iter().filter(|p| p.starts_with("relay.")).cloned().collect();
    let later = |point: &String| [20, 60].map(|nth| format!("{point}:{nth}"));
    points.extend(relay.iter().flat_map(later));
    each(&points, nobody_notices);
}

/// With their seeds. Both are in two targets; the first one is released.
const SCRUBBED: [(&str, u8); 2] = [("released.wav", 21), ("local.wav", 22)];

/// A copy of each is damaged in the first target, while nobody looks.
fn with_bad_copies() -> Mount {
    let write_back = "scrub_every = \"1s\"\njournal_interval = \"1s\"\n".into();
    let mut mount = Setup { write_back, ..Setup::default() }.prepare();
    let second = mount.root.join("second");
    fs::create_dir(&second).unwrap();
    let target =
        format!("\n[[target]]\nname = \"second\"\nurl = \"file://{}\"\n", second.display());
    let config = fs::read_to_string(&mount.config).unwrap() + &target;
    fs::write(&mount.config, config).unwrap();
    mount.start();
    for (path, seed) in SCRUBBED {
        fs::write(mount.path(path), bytes(seed)).unwrap();
    }
    mount.cli(["archive".as_ref(), mount.mountpoint.as_os_str()]).ok();
    mount.cli(["release".as_ref(), mount.path(SCRUBBED[0].0).as_os_str()]).ok();
    mount.stop();
    let objects = files_below(&mount.target);
    for (_, seed) in SCRUBBED {
        let object = objects.iter().find(|(_, found)| **found == bytes(seed)).unwrap().0;
        fs::write(mount.target.join(object), &bytes(seed)[1..]).unwrap();
    }
    mount
}

fn is_replaced_all_the_same(point: &str) {
    let mut mount = with_bad_copies();
    mount.env = vec![("SPOOLFS_CRASH_AT", point.to_owned())];
    // The scrub comes by itself; it may not wait until somebody can ask.
    let _may_end_before_it_is_ready = mount.start_or_end();
    dies(&mut mount, point);
    assert!(mount.said().contains(&format!("dies at crash point {point}")), "{}", mount.said());
    mount.bury();
    mount.env.clear();
    mount.start();
    let until = Instant::now() + support::look::PATIENCE;
    loop {
        let ran = mount.cli(["verify", "--all"]);
        let bad = &mount.status()["bad_copies"];
        let objects = files_below(&mount.target);
        let whole = SCRUBBED.iter().all(|(_, seed)| objects.values().any(|o| *o == bytes(*seed)));
        if ran.status.success() && *bad == 0 && whole {
            break;
        }
        assert!(Instant::now() < until, "{point}: {bad} {whole} {ran:?}\n{}", mount.said());
        std::thread::sleep(Duration::from_millis(100));
    }
    settle(&mount, point);
    for (path, seed) in SCRUBBED {
        assert!(fs::read(mount.path(path)).unwrap() == bytes(seed), "{point}: {path}");
    }
    mount.stop();
    mount.fsck();
}

#[test]
fn a_bad_copy_is_replaced_whenever_the_daemon_dies() {
    if support::no_mount("a_bad_copy_is_replaced_whenever_the_daemon_dies") {
        return;
    }
    let here = faults::POINTS.iter().filter(|point| point.starts_with("scrub."));
    each(&here.map(|point| (*point).to_owned()).collect::<Vec<_>>(), is_replaced_all_the_same);
}
