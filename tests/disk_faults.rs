//! The lower disk and SQLite's files fail at the Nth call: with EIO, ENOSPC, EROFS, once or from
//! then on. A program is told what the disk said, and nothing else is lost; what SQLite is told no
//! program ever hears of.
#![cfg(feature = "faults")]

mod support;

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::Path;
use std::time::{Duration, Instant};
use support::mount::{Mount, Setup};

/// Recordings of one run.
const FILES: usize = 8;

/// What a run must leave of one recording: any of these, as name and content. None: it may be gone.
#[derive(Debug)]
struct Expected(Vec<Option<(String, Vec<u8>)>>);

/// How far apart the calls are that fail; 1 tries every call.
fn stride() -> usize {
    std::env::var("SPOOLFS_TEST_STRIDE").ok().and_then(|n| n.parse().ok()).unwrap_or(5)
}

/// Makes, renames, appends to and removes recordings, each step of each as far as it goes; what
/// failed, and what must be there.
fn work(mount: &Mount) -> (Vec<io::Error>, Vec<Expected>) {
    let (mut errors, mut expected) = (Vec::new(), Vec::new());
    for n in 0..FILES {
        let mut states = vec![None];
        if let Err(error) = one(mount, n, &mut states) {
            errors.push(error);
        }
        expected.push(Expected(states));
    }
    (errors, expected)
}

/// One recording. `states` is what may be there whenever it ends early: before a step also what
/// the step leads to.
fn one(mount: &Mount, n: usize, states: &mut Vec<Option<(String, Vec<u8>)>>) -> io::Result<()> {
    let (part, name) = (format!("{n}.part"), format!("{n}.wav"));
    let (first, more) = (vec![n as u8; 5000], b"appended".to_vec());
    let state = |name: &str, bytes: &[u8]| Some((name.to_owned(), bytes.to_vec()));
    states.push(state(&part, b""));
    states.push(state(&part, &first));
    let mut file = File::create_new(mount.path(&part))?;
    file.write_all(&first)?;
    drop(file);
    *states = vec![state(&part, &first), state(&name, &first)];
    fs::rename(mount.path(&part), mount.path(&name))?;
    let both = [first.clone(), more.clone()].concat();
    *states = vec![state(&name, &first), state(&name, &both)];
    let mut file = OpenOptions::new().append(true).open(mount.path(&name))?;
    file.write_all(&more)?;
    drop(file);
    *states = vec![state(&name, &both)];
    let listed = fs::read_dir(&mount.mountpoint)?.collect::<io::Result<Vec<_>>>()?;
    let listed: Vec<_> = listed.iter().map(fs::DirEntry::file_name).collect();
    assert!(listed.iter().any(|it| *it == name.as_str()), "no {name} in {listed:?}");
    assert_eq!(fs::read(mount.path(&name))?, both);
    if n.is_multiple_of(3) {
        states.push(None);
        fs::remove_file(mount.path(&name))?;
        *states = vec![None];
    }
    Ok(())
}

#[track_caller]
fn check(root: &Path, expected: &[Expected], what: &str) {
    for (n, Expected(states)) in expected.iter().enumerate() {
        let found: Vec<(String, Vec<u8>)> = [format!("{n}.part"), format!("{n}.wav")]
            .into_iter()
            .filter_map(|name| Some((name.clone(), fs::read(root.join(&name)).ok()?)))
            .collect();
        let right = match found.as_slice() {
            [] => states.contains(&None),
            [one] => states.contains(&Some(one.clone())),
            _ => false,
        };
        let names: Vec<_> = found.iter().map(|(name, bytes)| (name, bytes.len())).collect();
        assert!(right, "{what}: recording {n} is {names:?}");
    }
}

/// A daemon whose Nth call at a site fails; then one without faults. Whether it came to it.
fn run(site: &str, n: usize, errno: &str, how: &str, tell: &dyn Fn(&io::Error) -> bool) -> bool {
    let what = format!("{site}:{n}:{errno}:{how}");
    let top = "passthrough = \"never\"\n".to_owned();
    let mut mount = Setup { top, ..Setup::default() }.prepare();
    // Everything is made before anything fails.
    mount.start();
    mount.stop();
    fs::write(&mount.log, "").unwrap();
    mount.env = vec![("SPOOLFS_FAIL", what.clone())];
    if !mount.try_start() {
        // It said why, and nothing was written.
        assert!(mount.said().contains("spoolfs: call"), "{what}\n{}", mount.said());
        return true;
    }
    let (errors, expected) = work(&mount);
    for error in &errors {
        assert!(tell(error), "{what}: a program was told {error}\n{}", mount.said());
    }
    let hit = mount.said_all().contains("spoolfs: call");
    mount.kill9();
    check(&mount.mountpoint, &expected, &format!("{what}, below"));
    mount.env.clear();
    mount.start();
    check(&mount.mountpoint, &expected, &what);
    let until = Instant::now() + support::look::PATIENCE;
    loop {
        let ran = mount.cli(["archive".as_ref(), mount.mountpoint.as_os_str()]);
        if ran.status.success() {
            break;
        }
        assert!(Instant::now() < until, "{what}: {ran:?}\n{}", mount.said());
        std::thread::sleep(Duration::from_millis(50));
    }
    mount.cli(["release".as_ref(), mount.mountpoint.as_os_str()]).ok();
    check(&mount.mountpoint, &expected, &format!("{what}, released"));
    hit
}

fn every_call(sites: &[&str], tell: &dyn Fn(&io::Error, &str) -> bool) {
    let (mut runs, mut hits) = (0, 0);
    let cases = [("EIO", "once"), ("ENOSPC", "forever"), ("EROFS", "once"), ("EIO", "forever")];
    for (which, site) in sites.iter().enumerate() {
        for (case, (errno, how)) in cases.into_iter().enumerate() {
            // Not all cases at each site, but all of both.
            if stride() > 1 && (which + case) % 2 == 1 {
                continue;
            }
            for n in (1 + (which + case) % stride()..).step_by(stride() * 3) {
                let hit = run(site, n, errno, how, &|error| tell(error, errno));
                runs += 1;
                hits += usize::from(hit);
                if !hit {
                    break;
                }
            }
        }
    }
    println!("{sites:?}: {runs} runs, {hits} of them hit");
}

#[test]
fn an_error_of_the_lower_disk_is_told_and_costs_nothing_else() {
    if support::no_mount("an_error_of_the_lower_disk_is_told_and_costs_nothing_else") {
        return;
    }
    let sites = [
        "lower.open",
        "lower.stat",
        "lower.identify",
        "lower.write",
        "lower.read",
        "lower.rename",
        "lower.unlink",
        "lower.list",
    ];
    every_call(&sites, &|error, errno| {
        let code = match errno {
            "EIO" => libc::EIO,
            "ENOSPC" => libc::ENOSPC,
            _ => libc::EROFS,
        };
        error.raw_os_error() == Some(code)
    });
}

/// It was left out of the listing, and nobody heard of it.
#[test]
fn regression_what_a_listing_can_not_look_at_is_an_error() {
    if support::no_mount("regression_what_a_listing_can_not_look_at_is_an_error") {
        return;
    }
    let mut mount = Setup::default().mount();
    for n in 0..5 {
        fs::write(mount.path(format!("{n}.wav")), "audio").unwrap();
    }
    mount.stop();
    let mut told = 0;
    // Until one of the listing's own is met; those before are of the start.
    for n in 1..400 {
        if told > 0 {
            break;
        }
        mount.env = vec![("SPOOLFS_FAIL", format!("lower.stat:{n}:EIO"))];
        if !mount.try_start() {
            continue;
        }
        let listed = fs::read_dir(&mount.mountpoint).and_then(|dir| {
            dir.map(|entry| entry.map(|e| e.file_name())).collect::<io::Result<Vec<_>>>()
        });
        match listed {
            Ok(names) => assert_eq!(names.len(), 5, "lower.stat:{n}: {names:?}"),
            Err(error) => {
                assert_eq!(error.raw_os_error(), Some(libc::EIO));
                told += 1;
            }
        }
        mount.kill9();
    }
    assert!(told > 0, "no call of a listing was hit");
}

#[test]
fn an_error_of_sqlites_files_is_heard_by_no_program() {
    if support::no_mount("an_error_of_sqlites_files_is_heard_by_no_program") {
        return;
    }
    let sites = ["sqlite.open", "sqlite.read", "sqlite.write", "sqlite.truncate"];
    every_call(&sites, &|_, _| false);
}
