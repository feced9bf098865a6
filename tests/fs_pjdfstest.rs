//! pjdfstest on a mount: what POSIX asks of a file system, case by case, with other users.
//!
//! A plain ext4 directory passes all of it. `tests/tools/pjdfstest.toml` lists what the mount is
//! excused from, each case with its reason; a case that begins to pass must leave the list.
#![allow(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

mod support;

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use support::mount::{Setup, Target};
use support::run::run;

const DEADLINE: Duration = Duration::from_secs(280);
/// pjdfstest 0.2.2 has 398 cases, 13 of which remount.
const CASES_MIN: u32 = 380;

/// Cases whose outcome is not ours to decide and may go either way, each with the reason.
const UNSTEADY: &[(&str, &str)] = &[(
    "open::etxtbsy",
    "opens a running program with O_TRUNC: the kernel lets FUSE cut it before it refuses \
     (FUSE_ATOMIC_O_TRUNC), and if the program dies of that first, it does not refuse",
)];

#[derive(Debug, Default)]
struct Counts {
    failed: u32,
    skipped: u32,
    passed: u32,
    expected: u32,
}

/// The closing line: `Summary: 0 failed, 13 skipped, 385 passed, 0 expected failures, 398 total`.
fn counts(out: &str) -> Counts {
    let line = out.lines().rfind(|line| line.starts_with("Summary")).unwrap_or_default();
    let count = |word: &str| {
        let before = line.split(word).next().unwrap_or_default();
        before.split([' ', ':', ',']).rfind(|part| !part.is_empty()).and_then(|n| n.parse().ok())
    };
    Counts {
        failed: count(" failed").unwrap_or(u32::MAX),
        skipped: count(" skipped").unwrap_or(u32::MAX),
        passed: count(" passed").unwrap_or(0),
        expected: count(" expected").unwrap_or(u32::MAX),
    }
}

fn configuration() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/tools/pjdfstest.toml")
}

/// Another file system, for the cases about EXDEV; without one they are skipped.
fn second_file_system(first: &Path) -> Option<PathBuf> {
    let second = PathBuf::from("/dev/shm");
    let device = |path: &Path| std::fs::metadata(path).map(|metadata| metadata.dev());
    (device(&second).ok()? != device(first).ok()?).then_some(second)
}

fn pjdfstest(tool: &Path, directory: &Path) -> Counts {
    let mut command = Command::new(tool);
    command.env("NO_COLOR", "1").arg("-c").arg(configuration()).arg("-p").arg(directory);
    if let Some(second) = second_file_system(directory) {
        command.arg("-s").arg(second);
    }
    let ran = run(&mut command, DEADLINE);
    let counts = counts(&ran.out);
    println!("{counts:?}");
    let mut told = String::new();
    let mut unsteady = 0;
    let mut lines = ran.out.lines().peekable();
    while let Some(line) = lines.next() {
        let name = line.split_whitespace().next().unwrap_or_default();
        if line.contains("FAILED") && UNSTEADY.iter().any(|(case, _)| *case == name) {
            unsteady += 1;
        } else if line.contains("FAILED") || line.contains("UNEXPECTEDLY") {
            told += line;
            told += "\n";
            // What a failed case says stands below it, indented.
            while let Some(reason) = lines.next_if(|line| line.starts_with(['\t', ' '])) {
                told += reason;
                told += "\n";
            }
        }
    }
    let excused = counts.failed == unsteady && told.is_empty();
    assert!(excused && (ran.status.success() || unsteady > 0), "{counts:?}\n{told}{}", ran.err);
    assert!(counts.passed + counts.expected >= CASES_MIN, "hardly anything ran: {counts:?}");
    counts
}

#[test]
fn pjdfstest_on_a_mount() {
    const TEST: &str = "pjdfstest_on_a_mount";
    if support::no_mount(TEST) {
        return;
    }
    let Some(tool) = support::tool(TEST, "SPOOLFS_TEST_PJDFSTEST") else { return };
    let mut mount = Setup { target: Target::None, ..Setup::default() }.mount();
    // The tool works as other users, too: they must get as far as the mount.
    for directory in [&mount.root, &mount.mountpoint] {
        rustix::fs::chmod(directory, rustix::fs::Mode::from_raw_mode(0o755)).unwrap();
    }
    pjdfstest(&tool, &mount.mountpoint);
    let left: Vec<_> = std::fs::read_dir(&mount.mountpoint).unwrap().collect();
    assert!(left.is_empty(), "the tool could not take away what it made: {left:?}");
    mount.stop();
}

#[test]
fn every_exclusion_has_a_reason() {
    let text = std::fs::read_to_string(configuration()).unwrap();
    let list = text.split("expected_failures = [").nth(1).expect("the list is there");
    let mut reasoned = false;
    for line in list.lines().skip(1).map(str::trim).take_while(|line| !line.starts_with(']')) {
        if line.starts_with('"') {
            assert!(reasoned, "{line} is excluded without a reason above it");
        }
        // A reason covers the names that follow it, up to an empty line.
        reasoned = line.starts_with('#') || (reasoned && line.starts_with('"'));
    }
}

#[test]
fn the_counts_are_read_from_the_closing_line() {
    let line = "Summary: 2 failed, 13 skipped, 380 passed, 3 expected failures, 398 total";
    let counts = counts(&format!("chmod::x ok\n\n{line}\n"));
    let all = (counts.failed, counts.skipped, counts.passed, counts.expected);
    assert_eq!(all, (2, 13, 380, 3));
    assert_eq!(self::counts("no summary").failed, u32::MAX);
}
