//! A mount must answer as a plain directory does.
//!
//! Random operations are played on the mount and on a plain directory of the same file system;
//! answers, error numbers and from time to time the whole trees are compared, and after the
//! unmount the lower directory too. SPOOLFS_TEST_OPS and SPOOLFS_TEST_SEED choose how many
//! operations and which; a failure prints both, and the last operations before it.
#![allow(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

mod support;

use std::ffi::OsString;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use support::differential::op::NAMES;
use support::differential::world::World;
use support::differential::{Run, Tally, closed_files, now, run, tree};
use support::mount::{Mount, Setup, Target};

const OPERATIONS: u64 = 10_000;

fn number(variable: &str) -> Option<u64> {
    let text = std::env::var(variable).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{variable} is not a number: {text}")))
}

fn options(seed: u64, operations: u64) -> Run<'static> {
    Run {
        seed: number("SPOOLFS_TEST_SEED").unwrap_or(seed),
        operations: number("SPOOLFS_TEST_OPS").unwrap_or(operations),
        compare_every: 500,
        between: None,
    }
}

/// A run that never got as far as some operation would prove nothing about it.
fn covers_everything(tally: &Tally, operations: u64) {
    println!("{tally}");
    if operations < OPERATIONS {
        return;
    }
    for name in NAMES {
        let done = tally.0.get(*name).map_or(0, |counts| counts.0);
        assert!(done > 0, "{name} never succeeded in {operations} operations: {tally}");
    }
}

fn mount_and_directory_agree(test: &str, seed: u64) {
    if support::no_mount(test) {
        return;
    }
    let options = options(seed, OPERATIONS);
    let operations = options.operations;
    let mut mount = Setup { target: Target::None, ..Setup::default() }.mount();
    let plain = mount.root.join("plain");
    std::fs::create_dir(&plain).unwrap();

    let started = now() - 1;
    let tally = run(&mount.mountpoint, &plain, options).unwrap_or_else(|found| panic!("{found}"));
    covers_everything(&tally, operations);

    mount.stop();
    tree::compare(&mount.mountpoint, &plain, Some(tree::PRIVATE), started)
        .unwrap_or_else(|what| panic!("seed {seed}: in the lower directory {what}"));
    nothing_left_in_private(&mount.mountpoint);
}

/// Files that were unlinked while open are gone with their last close.
fn nothing_left_in_private(lower: &Path) {
    let private = lower.join(tree::PRIVATE);
    if !private.exists() {
        return;
    }
    let left: Vec<_> = tree::read(&private, None)
        .unwrap()
        .into_iter()
        .filter(|(_, node)| node.kind() == rustix::fs::FileType::RegularFile)
        .map(|(path, node)| (path, node.attributes.size))
        .collect();
    assert!(left.is_empty(), "left in the private directory: {left:?}");
}

#[test]
fn differential_seed_1() {
    mount_and_directory_agree("differential_seed_1", 1);
}

#[test]
fn differential_seed_2() {
    mount_and_directory_agree("differential_seed_2", 2);
}

/// Between the operations random closed files are archived, released and recalled: nobody who
/// uses the files may see a difference.
#[test]
fn differential_moving() {
    const TEST: &str = "differential_moving";
    if support::no_mount(TEST) {
        return;
    }
    let options = options(5, OPERATIONS / 5);
    let mut mount = Setup::default().mount();
    let plain = mount.root.join("plain");
    std::fs::create_dir(&plain).unwrap();
    let mut moves =
        Moves { mount: &mount, rng: fastrand::Rng::with_seed(options.seed), done: [0; 3] };
    let mut between = |number: u64, oracle: &World| {
        if number % MOVE_EVERY == MOVE_EVERY - 1 { moves.some(oracle) } else { Ok(()) }
    };
    let tally = run(&mount.mountpoint, &plain, Run { between: Some(&mut between), ..options })
        .unwrap_or_else(|found| panic!("{found}"));
    println!("{tally}\narchived, released, recalled: {:?}", moves.done);
    assert!(moves.done.iter().all(|done| *done > 0), "some move never happened: {:?}", moves.done);
    mount.stop();
}

const MOVE_EVERY: u64 = 25;

struct Moves<'a> {
    mount: &'a Mount,
    rng: fastrand::Rng,
    /// Files archived, released, recalled.
    done: [u64; 3],
}

impl Moves<'_> {
    /// Archives a few files that nobody has open; mostly releases, sometimes recalls them.
    fn some(&mut self, oracle: &World) -> Result<(), String> {
        let mut closed = closed_files(oracle)?;
        // An empty file is never archived, one with several names never released.
        closed.retain(|path| {
            let metadata = oracle.root().join(path).symlink_metadata();
            metadata.is_ok_and(|metadata| metadata.len() > 0 && metadata.nlink() == 1)
        });
        self.rng.shuffle(&mut closed);
        closed.truncate(3);
        if closed.is_empty() {
            return Ok(());
        }
        self.command(0, "archive", &closed)?;
        if self.rng.u8(..4) > 0 {
            self.command(1, "release", &closed)?;
            if self.rng.u8(..4) == 0 {
                self.command(2, "recall", &closed)?;
            }
        }
        Ok(())
    }

    fn command(&mut self, kind: usize, name: &str, files: &[PathBuf]) -> Result<(), String> {
        let mut arguments = vec![OsString::from(name)];
        arguments.extend(files.iter().map(|file| self.mount.path(file).into_os_string()));
        let ran = self.mount.cli(arguments);
        if name == "release"
            && !ran.status.success()
            && ran.err.lines().skip(1).all(stays_with_reason)
        {
            return Ok(());
        }
        if !ran.status.success() {
            return Err(format!("{name} {files:?}: {}\n{}{}", ran.status, ran.out, ran.err));
        }
        self.done[kind] += files.len() as u64;
        Ok(())
    }
}

/// Groups stay together, and what has several names or a writer keeps its group local.
fn stays_with_reason(line: &str) -> bool {
    ["several names", "has it open", "not archived yet", "it is recording"]
        .iter()
        .any(|reason| line.contains(reason))
}

#[test]
fn two_plain_directories_agree() {
    let scratch = tempfile::tempdir().unwrap();
    let (one, other) = (scratch.path().join("one"), scratch.path().join("other"));
    std::fs::create_dir(&one).unwrap();
    std::fs::create_dir(&other).unwrap();
    let options = options(3, OPERATIONS);
    let operations = options.operations;
    let tally = run(&one, &other, options).unwrap_or_else(|found| panic!("{found}"));
    covers_everything(&tally, operations);
}

/// The comparison is worth what it can find: each fault planted in one world must be reported.
#[test]
fn a_planted_fault_is_found() {
    type Fault = fn(&Path);
    let faults: &[(&str, Fault)] = &[
        ("a byte changed", |root| std::fs::write(root.join("crowd/n001"), b"x").unwrap()),
        ("a name gone", |root| std::fs::remove_file(root.join("crowd/n002")).unwrap()),
        ("a name too many", |root| std::fs::write(root.join("crowd/extra"), b"").unwrap()),
        ("other permissions", |root| {
            rustix::fs::chmod(root.join("crowd/n003"), rustix::fs::Mode::RWXU).unwrap();
        }),
        ("another time", |root| {
            let file = std::fs::File::open(root.join("crowd/n004")).unwrap();
            file.set_modified(std::time::UNIX_EPOCH).unwrap();
        }),
        ("a second link", |root| {
            std::fs::remove_file(root.join("crowd/n005")).unwrap();
            std::fs::hard_link(root.join("crowd/n006"), root.join("crowd/n005")).unwrap();
        }),
    ];
    for (fault, plant) in faults {
        let scratch = tempfile::tempdir().unwrap();
        let (one, other) = (scratch.path().join("one"), scratch.path().join("other"));
        std::fs::create_dir(&one).unwrap();
        std::fs::create_dir(&other).unwrap();
        let mut between = |number: u64, _: &World| {
            if number == 5 {
                plant(&one);
            }
            Ok(())
        };
        let found = run(
            &one,
            &other,
            Run { seed: 4, operations: 20, compare_every: 10, between: Some(&mut between) },
        );
        let found = found.expect_err(fault);
        assert!((5..=10).contains(&found.number), "{fault}: {found}");
    }
}
