//! A listing goes on over deaths while recordings are released and recalled.

use super::support;
use super::support::mount::Mount;
use super::takeover::{kept, replace};
use rustix::process::Signal;
use std::ffi::OsString;
use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// More than fit into one reply, since the names are long.
const FILES: usize = 280;

fn name(number: usize) -> String {
    format!("{number:03}-{}.wav", "x".repeat(180))
}

/// Asks until it is done: a daemon that takes over may not listen yet.
#[track_caller]
fn ask(mount: &Mount, command: &str, paths: &[PathBuf]) {
    let until = Instant::now() + support::look::PATIENCE;
    loop {
        let paths = paths.iter().map(|path| path.clone().into_os_string());
        let ran = mount.cli([OsString::from(command)].into_iter().chain(paths));
        if ran.status.success() {
            return;
        }
        assert!(Instant::now() < until, "{ran:?}\n{}", mount.said());
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Every seventh.
fn ask_for(mount: &Mount, command: &str, group: usize) {
    let numbers = (0..FILES).filter(|number| number % 7 == group);
    let paths: Vec<_> = numbers.map(|number| mount.path(name(number))).collect();
    ask(mount, command, &paths);
}

/// Group 0 stays local, 1 is released and 2 came back before; the others move while it is listed.
fn lists_each_once(mode: &str) {
    let mount = kept(mode);
    for number in 0..FILES {
        fs::write(mount.path(name(number)), b"call").unwrap();
    }
    ask(&mount, "archive", std::slice::from_ref(&mount.mountpoint));
    [1, 2, 5, 6].iter().for_each(|group| ask_for(&mount, "release", *group));
    ask_for(&mount, "recall", 2);

    let mut listing = fs::read_dir(&mount.mountpoint).unwrap();
    let mut names = vec![listing.next().unwrap().unwrap().file_name()];
    ask_for(&mount, "release", 3);
    ask_for(&mount, "recall", 5);
    replace(&mount, Signal::KILL);
    ask_for(&mount, "release", 4);
    ask_for(&mount, "recall", 6);
    replace(&mount, Signal::KILL);
    names.extend(listing.map(|entry| entry.unwrap().file_name()));

    names.sort();
    let expected: Vec<_> = (0..FILES).map(|number| OsString::from(name(number))).collect();
    let twice: Vec<_> = names.windows(2).filter(|w| w[0] == w[1]).map(|w| &w[0]).collect();
    assert!(twice.is_empty(), "{mode}: {} twice, first {:?}", twice.len(), twice[0]);
    let lost: Vec<_> = expected.iter().filter(|name| !names.contains(name)).collect();
    assert!(lost.is_empty(), "{mode}: {} not listed, first {:?}", lost.len(), lost[0]);
    assert_eq!(names, expected);
    let left = || {
        let names = fs::read_dir(&mount.runtime).unwrap().map(|e| e.unwrap().file_name());
        names.filter(|name| name.to_string_lossy().starts_with("listing.")).count()
    };
    super::edges::wait_for(&mount, "a note is left", || (left() == 0).then_some(()));
}

#[test]
fn regression_a_listing_over_a_death_gives_each_name_once() {
    if !support::no_mount("regression_a_listing_over_a_death_gives_each_name_once") {
        lists_each_once("auto");
        lists_each_once("relay");
    }
}
