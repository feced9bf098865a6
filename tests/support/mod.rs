//! What the integration tests share. Each test binary takes the parts it needs.
#![allow(dead_code, reason = "every test binary compiles this module and uses a part of it")]

pub mod chromium;
pub mod databases;
pub mod differential;
pub mod emulators;
pub mod ext4;
pub mod faulty_proxy;
pub mod faulty_store;
pub mod hitch;
pub mod look;
pub mod lossy_disk;
pub mod many;
pub mod mixmonitor;
pub mod mount;
pub mod run;
pub mod seaweedfs;
pub mod sloppy;
pub mod slow_line;

use std::path::PathBuf;

/// Why a test on a mount cannot run here, if it cannot.
///
/// `scripts/test` names in SPOOLFS_TEST_REQUIRE what must be possible ("mount", "databases", "clouds"), so that
/// nothing is skipped there by a mistake in this very check.
pub fn no_mount(test: &str) -> bool {
    let reason = if !rustix::process::geteuid().is_root() {
        "needs root to mount"
    } else if rustix::fs::stat("/dev/fuse").is_err() {
        "needs /dev/fuse"
    } else {
        return false;
    };
    skip(test, "mount", reason);
    true
}

/// A tool that `scripts/test` installs, named by an environment variable.
pub fn tool(test: &str, variable: &str) -> Option<PathBuf> {
    let path = std::env::var_os(variable).map(PathBuf::from);
    if path.is_none() {
        let reason = format!("needs {variable}; scripts/test installs the tool and sets it");
        skip(test, "mount", &reason);
    }
    path
}

/// Says past any capturing of output that a test does not run, or fails where it must run.
pub(crate) fn skip(test: &str, what: &str, reason: &str) {
    let required = std::env::var("SPOOLFS_TEST_REQUIRE").unwrap_or_default();
    assert!(
        !required.split(',').any(|one| one == what),
        "{test} {reason}, and SPOOLFS_TEST_REQUIRE forbids to skip it"
    );
    use std::io::Write;
    let _ = writeln!(std::io::stderr(), "SKIPPED {test}: {reason}");
}

/// A WAV of noise with one channel of 16 bits at 8 kHz: another for each seed. Shorter than its header it
/// is the beginning of one.
pub fn noise_wav(seed: u64, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    fastrand::Rng::with_seed(seed).fill(&mut bytes);
    let data = u32::try_from(len.saturating_sub(44)).expect("less than 4 GiB");
    let mut head = b"RIFF".to_vec();
    head.extend((data + 36).to_le_bytes());
    head.extend(b"WAVEfmt ");
    for word in [16u32, 0x0001_0001, 8000, 16_000, 0x0010_0002] {
        head.extend(word.to_le_bytes());
    }
    head.extend(b"data");
    head.extend(data.to_le_bytes());
    let room = head.len().min(len);
    bytes[..room].copy_from_slice(&head[..room]);
    bytes
}

/// A file of tests/fixtures.
pub fn fixture(path: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(path)
}

/// Every recording of a folder of tests/fixtures, sorted, as paths below that folder.
pub fn fixtures(folder: &str) -> Vec<PathBuf> {
    let root = fixture(folder);
    let mut found = Vec::new();
    let mut directories = vec![root.clone()];
    while let Some(directory) = directories.pop() {
        for entry in std::fs::read_dir(directory).expect("the fixtures are readable") {
            let path = entry.expect("the fixtures are readable").path();
            if path.is_dir() {
                directories.push(path);
            } else if path.extension().is_some_and(|extension| extension != "md") {
                found.push(path.strip_prefix(&root).expect("it is below").to_path_buf());
            }
        }
    }
    found.sort();
    found
}

/// Several at a time; the first that fails is told.
pub fn each_of<T: Sync + std::fmt::Debug>(at_a_time: usize, all: &[T], test: impl Fn(&T) + Sync) {
    let next = std::sync::Mutex::new(all.iter());
    let work = || {
        loop {
            let one = next.lock().expect("nobody panics with it").next();
            let Some(one) = one else { return };
            let began = std::time::Instant::now();
            test(one);
            println!("{one:?}: {:.1} s", began.elapsed().as_secs_f64());
        }
    };
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..at_a_time).map(|_| scope.spawn(work)).collect();
        for worker in workers {
            if let Err(panic) = worker.join() {
                std::panic::resume_unwind(panic);
            }
        }
    });
}
