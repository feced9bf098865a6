//! fsx on a mount: random reads, writes, mappings, truncations and allocations of one file,
//! each read checked against what the tool remembers.
#![allow(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

mod support;

use std::ffi::OsStr;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use support::mount::{Setup, Target};
use support::run::run;

const OPERATIONS: u64 = 25_000;
/// For 100,000 operations on a slow, busy machine.
const DEADLINE: Duration = Duration::from_secs(280);

fn fsx(fsx: &Path, file: &Path, artifacts: &Path, seed: u64) {
    let operations = std::env::var("SPOOLFS_TEST_FSX_OPS")
        .map_or(OPERATIONS, |text| text.parse().expect("SPOOLFS_TEST_FSX_OPS is a number"));
    let tools = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/tools");
    let ran = run(
        Command::new(fsx)
            .arg("-f")
            .arg(tools.join("fsx.toml"))
            .args(["-N", &operations.to_string(), "-S", &seed.to_string(), "-P"])
            .arg(artifacts)
            .arg(file),
        DEADLINE,
    );
    assert!(
        ran.status.success() && ran.out.contains("A-OK"),
        "fsx -S {seed} -N {operations}: {}\n{}{}",
        ran.status,
        ran.out,
        ran.err
    );
}

fn on_a_mount(test: &str, seed: u64) {
    if support::no_mount(test) {
        return;
    }
    let Some(tool) = support::tool(test, "SPOOLFS_TEST_FSX") else { return };
    let mut mount = Setup { target: Target::None, ..Setup::default() }.mount();
    let file = mount.path("fsx.wav");
    fsx(&tool, &file, &mount.root, seed);
    let seen = std::fs::read(&file).unwrap();
    mount.stop();
    assert!(seen == std::fs::read(&file).unwrap(), "the lower file is not what the mount showed");
}

#[test]
fn fsx_seed_1() {
    on_a_mount("fsx_seed_1", 1);
}

#[test]
fn fsx_seed_2() {
    on_a_mount("fsx_seed_2", 2);
}

#[test]
fn fsx_seed_3() {
    on_a_mount("fsx_seed_3", 3);
}

#[test]
fn fsx_seed_4() {
    on_a_mount("fsx_seed_4", 4);
}

/// The engine tries to archive, release and recall the file all the time; what it manages between a
/// close and the next open must not show.
#[test]
fn fsx_moving() {
    if support::no_mount("fsx_moving") {
        return;
    }
    let Some(tool) = support::tool("fsx_moving", "SPOOLFS_TEST_FSX") else { return };
    let mut mount = Setup { settle: "0s".into(), ..Setup::default() }.mount();
    let file = mount.path("fsx.wav");
    std::fs::write(&file, b"before").unwrap();
    let done = AtomicBool::new(false);
    let tries = std::thread::scope(|scope| {
        let mover = scope.spawn(|| {
            let mut tries = 0;
            while !done.load(Ordering::Relaxed) {
                for command in ["archive", "release", "recall"] {
                    let ran = mount.cli([OsStr::new(command), file.as_os_str()]);
                    assert!(ran.status.code().is_some_and(|code| code <= 1), "{}", ran.err);
                    tries += 1;
                }
            }
            tries
        });
        let played = catch_unwind(AssertUnwindSafe(|| fsx(&tool, &file, &mount.root, 5)));
        done.store(true, Ordering::Relaxed);
        let tries = mover.join().unwrap();
        played.unwrap_or_else(|panic| resume_unwind(panic));
        tries
    });
    println!("{tries} moves tried");
    // Closed for good: now each of them must do its work.
    let seen = std::fs::read(&file).unwrap();
    for command in ["archive", "release", "recall", "release"] {
        mount.cli([OsStr::new(command), file.as_os_str()]).ok();
        assert!(seen == std::fs::read(&file).unwrap(), "after {command}");
    }
    mount.stop();
}

/// The tool and its configuration are right where they must be right.
#[test]
fn fsx_on_a_plain_directory() {
    let Some(tool) = support::tool("fsx_on_a_plain_directory", "SPOOLFS_TEST_FSX") else { return };
    let scratch = tempfile::tempdir().unwrap();
    fsx(&tool, &scratch.path().join("file"), scratch.path(), 1);
}
