//! fsx on a mount: random reads, writes, mappings, truncations and allocations of one file,
//! each read checked against what the tool remembers.
#![allow(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

mod support;

use std::path::Path;
use std::process::Command;
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

/// The tool and its configuration are right where they must be right.
#[test]
fn fsx_on_a_plain_directory() {
    let Some(tool) = support::tool("fsx_on_a_plain_directory", "SPOOLFS_TEST_FSX") else { return };
    let scratch = tempfile::tempdir().unwrap();
    fsx(&tool, &scratch.path().join("file"), scratch.path(), 1);
}
