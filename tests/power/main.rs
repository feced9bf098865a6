//! Power cuts: the daemon, its state and its target on a disk that forgets what was not flushed.

#[path = "../support/mod.rs"]
mod support;

mod manifest;
mod rig;

use rig::{Promised, Rig};
use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::time::Duration;
use support::lossy_disk::{self, LossyDisk};

/// The shortest that can be configured.
const SYNC_AFTER: Duration = Duration::from_secs(1);

/// How long programs are at work before a cut.
const LOAD: Duration = Duration::from_millis(2500);

/// Cuts after which a missing fsync must have been found: on a busy machine one catches little.
const CONTROL_CUTS: usize = 30;

/// As direct I/O wants it.
#[repr(align(4096))]
struct Page([u8; 4096]);

/// The rig itself: a flush of ext4 reaches the disk, and what was not flushed is lost.
#[test]
fn what_was_synced_survives_a_cut_and_nothing_else_need() {
    if support::no_mount("what_was_synced_survives_a_cut_and_nothing_else_need") {
        return;
    }
    lossy_disk::apart(|| {
        let scratch = tempfile::tempdir().unwrap();
        let at = scratch.path().join("at");
        let blank = LossyDisk::format(scratch.path(), 64);
        let disk = LossyDisk::mount(blank, scratch.path(), &at);
        let write = |name: &str| {
            let mut file = File::create(at.join(name)).unwrap();
            file.write_all(&[7; 100_000]).unwrap();
            file
        };
        let (_, before) = disk.counts();
        write("synced").sync_all().unwrap();
        let (written, after) = disk.counts();
        assert!(after > before, "an fsync is a flush");
        // Past the page cache to the disk, which keeps it to itself.
        let file =
            OpenOptions::new().write(true).custom_flags(libc::O_DIRECT).open(at.join("synced"));
        let page = Page([8; 4096]);
        file.unwrap().write_all_at(&page.0, 4096).unwrap();
        drop(write("never synced"));
        let (now, flushes) = disk.counts();
        assert!(now > written && flushes == after, "it was written and not flushed");
        let mut rng = fastrand::Rng::with_seed(1);
        let (nothing, cut) = disk.cut(0.0, &mut rng);
        assert!(cut.writes > 0 && cut.kept == 0, "{cut:?}");
        drop(disk);
        let checked = lossy_disk::check(&nothing, scratch.path());
        assert!(checked.status.code().is_some_and(|code| code <= 1), "{checked:?}");
        let disk = LossyDisk::mount(nothing, scratch.path(), &at);
        assert_eq!(fs::read(at.join("synced")).unwrap(), [7; 100_000]);
        assert!(!at.join("never synced").exists());
        drop(disk);
    });
}

fn cuts() -> usize {
    std::env::var("SPOOLFS_TEST_CUTS").ok().and_then(|n| n.parse().ok()).unwrap_or(3)
}

fn seed() -> u64 {
    let given = std::env::var("SPOOLFS_TEST_SEED").ok().and_then(|s| s.parse().ok());
    given.unwrap_or_else(|| u64::from(fastrand::u16(..)))
}

/// Cuts the power, on a new disk from time to time; what was promised is there.
#[test]
fn what_was_promised_survives_power_cuts() {
    if support::no_mount("what_was_promised_survives_power_cuts") {
        return;
    }
    lossy_disk::apart(|| {
        let seed = seed();
        for (n, first) in (0..cuts()).step_by(10).enumerate() {
            println!("seed {}", seed + n as u64);
            let mut rig = Rig::new(seed + n as u64, Promised::Told, "1s", &[]);
            rig.fills = true;
            for _ in first..cuts().min(first + 10) {
                rig.cut(LOAD);
                assert!(rig.tally.wrong.is_empty(), "{:#?}", rig.tally);
            }
            rig.end();
            println!("{:?}", rig.tally);
        }
    });
}

/// It came back empty, and the empty file counted as its next generation; the recalled one was not
/// to be seen until the tree had been compared.
#[test]
fn regression_what_was_archived_or_recalled_a_moment_ago_survives_a_power_cut() {
    if support::no_mount("regression_what_was_archived_or_recalled_a_moment_ago") {
        return;
    }
    use manifest::Command::{Archive, Recall, Release};
    lossy_disk::apart(|| {
        for commands in [&[Archive][..], &[Archive, Release], &[Archive, Release, Recall]] {
            let mut rng = fastrand::Rng::with_seed(7);
            let mut rig = Rig::new(7, Promised::Nothing, "forever", &[]);
            rig.record(&mut rng).unwrap();
            rig.administer(commands, &mut rng);
            rig.cut_now();
            assert!(rig.tally.wrong.is_empty() && rig.tally.promised == 1, "{:#?}", rig.tally);
        }
    });
}

/// With one fsync left out of the code the rig finds a loss: it is no rig otherwise.
#[cfg(feature = "faults")]
#[test]
fn without_an_fsync_the_rig_finds_a_loss() {
    if support::no_mount("without_an_fsync_the_rig_finds_a_loss") {
        return;
    }
    lossy_disk::apart(|| {
        let left_out = [("SPOOLFS_FAIL", "lower.persist_left_out:1:EIO:forever")];
        let mut rig = Rig::new(seed(), Promised::Nothing, "forever", &left_out);
        for _ in 0..CONTROL_CUTS {
            rig.cut(LOAD);
            if let Some(wrong) = rig.tally.wrong.first() {
                println!("found at cut {}: {wrong}", rig.tally.cuts);
                return;
            }
        }
        panic!("a missing fsync goes unnoticed: {:?}", rig.tally);
    });
}

/// The same for what was closed and nobody archived.
#[test]
fn without_the_background_sync_the_rig_finds_a_loss() {
    if support::no_mount("without_the_background_sync_the_rig_finds_a_loss") {
        return;
    }
    lossy_disk::apart(|| {
        let mut rig = Rig::new(seed(), Promised::After(SYNC_AFTER), "forever", &[]);
        for _ in 0..CONTROL_CUTS {
            rig.cut(LOAD);
            if let Some(wrong) = rig.tally.wrong.first() {
                println!("found at cut {}: {wrong}", rig.tally.cuts);
                return;
            }
        }
        panic!("a missing sync goes unnoticed: {:?}", rig.tally);
    });
}
