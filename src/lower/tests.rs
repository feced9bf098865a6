//! The lower directory on a real one.

use super::*;
use crate::recording::{Evidence, Generation, ReleasePermit, Sha256, State};
use rustix::fs::OFlags;
use std::io::Write;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

fn tree() -> (tempfile::TempDir, Arc<Lower>) {
    let dir = tempfile::tempdir().expect("a directory");
    let lower = Lower::open(dir.path()).expect("a lower directory");
    (dir, lower)
}

fn permit(stat: &LowerStat) -> ReleasePermit {
    let required = ["t".to_owned()];
    ReleasePermit::grant(&Evidence {
        node: stat.node.expect("identified"),
        state: State::Archived,
        generation: Generation(1),
        sha256: Some(Sha256::of(b"")),
        hashed: Some(stat.version),
        present: stat.version,
        required: &required,
        verified: &required,
        suspect: false,
        forbidden: None,
    })
    .expect("granted")
}

fn gone(dir: &tempfile::TempDir) -> Vec<PathBuf> {
    std::fs::read_dir(dir.path().join(".spl/gone")).unwrap().map(|e| e.unwrap().path()).collect()
}

#[test]
fn the_fuller_of_bytes_and_inodes_counts_as_df_shows_it() {
    let usage = |bytes_used, bytes_free, inodes_used, inodes_free| {
        Usage { bytes: 0, bytes_used, bytes_free, inodes_used, inodes_free }.percent()
    };
    assert_eq!(usage(0, 100, 0, 0), 0);
    assert_eq!(usage(90, 10, 1, 99), 90);
    assert_eq!(usage(901, 99, 0, 0), 91, "rounded up");
    assert_eq!(usage(10, 90, 97, 3), 97);
    assert_eq!(usage(u64::MAX, u64::MAX, 0, 0), 50);
    assert_eq!(usage(5, 0, 0, 0), 100);
}

#[test]
fn nothing_outside_the_lower_directory_can_be_reached() {
    let (dir, lower) = tree();
    symlink("/etc", dir.path().join("out")).unwrap();
    symlink("/etc/passwd", dir.path().join("file")).unwrap();
    for path in ["../x", "out/passwd", "/etc/passwd", "file/..", ".spl/gone", "a/../../x"] {
        assert!(lower.stat(Path::new(path)).is_err(), "{path}");
    }
    assert!(lower.quiet(Path::new("file")).is_err());
    assert_eq!(lower.stat(Path::new("file")).unwrap().attr.kind, crate::recording::Kind::Symlink);
    assert!(lower.root().subdir(b"out").is_err());
    assert!(lower.root().open(b"file", OFlags::RDONLY).is_err());
    assert!(lower.root().chmod(b"file", 0o600).is_err());
}

#[test]
fn the_private_directory_is_hidden_and_private() {
    let (dir, lower) = tree();
    std::fs::write(dir.path().join("a.wav"), b"x").unwrap();
    assert_eq!(lower.names(Path::new("")).unwrap(), [b"a.wav"]);
    assert_eq!(dir.path().join(".spl").metadata().unwrap().permissions().mode() & 0o777, 0o700);
    assert!(lower.root().mkdir(b".spl", 0o755).is_err());
}

#[test]
fn an_identity_survives_a_rename_but_not_a_copy() {
    let (dir, lower) = tree();
    std::fs::write(dir.path().join("a"), b"x").unwrap();
    assert_eq!(lower.stat(Path::new("a")).unwrap().node, None);
    assert_eq!(lower.identify(Path::new("a"), NodeId(7)).unwrap().node, Some(NodeId(7)));
    std::fs::rename(dir.path().join("a"), dir.path().join("b")).unwrap();
    assert_eq!(lower.stat(Path::new("b")).unwrap().node, Some(NodeId(7)));
    let status = std::process::Command::new("cp")
        .args(["-a", "--preserve=all", "b", "c"])
        .current_dir(dir.path())
        .status();
    assert!(status.unwrap().success());
    assert_eq!(lower.stat(Path::new("c")).unwrap().node, None);
}

#[test]
fn a_file_with_a_writer_is_never_quiet_and_never_retired() {
    let (dir, lower) = tree();
    let path = dir.path().join("a");
    std::fs::write(&path, b"audio").unwrap();
    let stat = lower.identify(Path::new("a"), NodeId(7)).unwrap();
    let writer = std::fs::OpenOptions::new().append(true).open(&path).unwrap();
    assert!(matches!(lower.quiet(Path::new("a")), Err(LowerError::Busy { .. })));
    assert!(matches!(lower.retire(Path::new("a"), permit(&stat)), Err(LowerError::InUse { .. })));
    drop(writer);
    let quiet = lower.quiet(Path::new("a")).unwrap();
    assert!(lower.still_quiet(&quiet).unwrap());
    assert!(path.exists());
}

#[test]
fn only_the_version_of_the_permit_is_retired_and_its_bytes_go_at_the_second_purge() {
    let (dir, lower) = tree();
    let path = dir.path().join("a");
    std::fs::write(&path, b"audio").unwrap();
    let stat = lower.identify(Path::new("a"), NodeId(7)).unwrap();
    std::fs::OpenOptions::new().append(true).open(&path).unwrap().write_all(b"more").unwrap();
    assert!(matches!(lower.retire(Path::new("a"), permit(&stat)), Err(LowerError::Changed { .. })));
    let stat = lower.stat(Path::new("a")).unwrap();
    lower.retire(Path::new("a"), permit(&stat)).unwrap();
    assert!(!path.exists());
    assert!(lower.purge().is_empty());
    assert_eq!(gone(&dir).len(), 1);
    assert!(lower.purge().is_empty());
    assert!(gone(&dir).is_empty());
}

#[test]
fn regression_a_recording_released_twice_in_a_second() {
    let (dir, lower) = tree();
    for _ in 0..2 {
        std::fs::write(dir.path().join("a"), b"audio").unwrap();
        let stat = lower.identify(Path::new("a"), NodeId(7)).unwrap();
        lower.retire(Path::new("a"), permit(&stat)).unwrap();
    }
    assert_eq!(gone(&dir).len(), 2);
}

#[test]
fn a_writer_that_turns_up_after_all_gets_its_file_back() {
    let (dir, lower) = tree();
    let path = dir.path().join("a");
    std::fs::write(&path, b"audio").unwrap();
    let stat = lower.identify(Path::new("a"), NodeId(7)).unwrap();
    lower.retire(Path::new("a"), permit(&stat)).unwrap();
    let late = std::fs::OpenOptions::new().append(true).open(&gone(&dir)[0]);
    assert!(lower.purge().is_empty());
    assert_eq!(lower.purge(), [PathBuf::from("a")]);
    late.unwrap().write_all(b" and more").unwrap();
    assert_eq!(std::fs::read(&path).unwrap(), b"audio and more");
}

#[test]
fn a_recalled_file_looks_as_it_did_and_replaces_nothing() {
    let (dir, lower) = tree();
    let path = dir.path().join("a");
    std::fs::write(&path, b"audio").unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o640)).unwrap();
    std::os::unix::fs::chown(&path, Some(12), Some(34)).unwrap();
    let before = lower.identify(Path::new("a"), NodeId(7)).unwrap();
    let xattrs = vec![(b"user.note".to_vec(), b"hi".to_vec())];

    let stage = |bytes: &[u8]| {
        let stage = lower.stage(NodeId(7)).unwrap();
        stage.write_at(0, bytes).unwrap();
        stage
    };
    let place = (NodeId::ROOT, Path::new("a"));
    let looks = || Some(Looks { attr: before.attr.clone(), xattrs: xattrs.clone() });
    let taken = lower.install(stage(b"other"), place, &looks);
    assert!(matches!(taken, Err(LowerError::Changed { .. })));
    assert_eq!(std::fs::read(&path).unwrap(), b"audio");
    std::fs::remove_file(&path).unwrap();
    assert!(lower.install(stage(b"audio"), place, &|| None).is_err());
    let after = lower.install(stage(b"audio"), place, &looks).unwrap();
    assert_eq!(after.node, Some(NodeId(7)));
    let meta = path.metadata().unwrap();
    assert_eq!((meta.uid(), meta.gid(), meta.mode() & 0o7777), (12, 34, 0o640));
    assert_eq!(after.attr.mtime, before.attr.mtime);
    assert_eq!(lower.xattrs(&std::fs::File::open(&path).unwrap()).unwrap(), xattrs);
    assert_eq!(std::fs::read_dir(dir.path().join(".spl/stage")).unwrap().count(), 0);
}

#[test]
fn leftovers_of_a_dead_daemon_are_cleared_but_a_changed_copy_is_kept() {
    let (dir, lower) = tree();
    let spl = dir.path().join(".spl");
    std::fs::write(spl.join("gone/7-5-0"), b"audio").unwrap();
    std::fs::write(spl.join("gone/8-5-0"), b"audio and more").unwrap();
    std::fs::write(spl.join("stage/9-00"), b"half").unwrap();
    drop(lower);
    Lower::open(dir.path()).unwrap();
    assert_eq!(std::fs::read_dir(spl.join("gone")).unwrap().count(), 0);
    assert_eq!(std::fs::read_dir(spl.join("stage")).unwrap().count(), 0);
    assert_eq!(std::fs::read(spl.join("found/8-5-0")).unwrap(), b"audio and more");
}

#[test]
fn a_leftover_copy_that_was_written_to_without_growing_is_kept() {
    let (dir, lower) = tree();
    for name in ["a", "b"] {
        std::fs::write(dir.path().join(name), b"audio").unwrap();
        let stat = lower.identify(Path::new(name), NodeId(7)).unwrap();
        lower.retire(Path::new(name), permit(&stat)).unwrap();
    }
    // A program had looked the name up, and wrote while the daemon was dead.
    let late = gone(&dir).pop().unwrap();
    std::fs::write(&late, b"AUDIO").unwrap();
    drop(lower);
    Lower::open(dir.path()).unwrap();
    assert_eq!(gone(&dir).len(), 0);
    let found = dir.path().join(".spl/found").join(late.file_name().unwrap());
    assert_eq!(std::fs::read(found).unwrap(), b"AUDIO");
    assert_eq!(std::fs::read_dir(dir.path().join(".spl/found")).unwrap().count(), 1);
}

#[test]
fn regression_a_leftover_copy_that_somebody_has_open_is_kept() {
    let (dir, lower) = tree();
    for name in ["a", "b", "c"] {
        std::fs::write(dir.path().join(name), name).unwrap();
        let stat = lower.identify(Path::new(name), NodeId(7)).unwrap();
        lower.retire(Path::new(name), permit(&stat)).unwrap();
    }
    // Two programs had looked the name up just before it was taken away.
    let named = |text: &[u8]| {
        gone(&dir).into_iter().find(|path| std::fs::read(path).unwrap() == text).unwrap()
    };
    let mut writer = std::fs::OpenOptions::new().append(true).open(named(b"a")).unwrap();
    let reader = std::fs::File::open(named(b"b")).unwrap();
    drop(lower);
    Lower::open(dir.path()).unwrap();
    assert_eq!(gone(&dir).len(), 0);
    writer.write_all(b" and more").unwrap();
    drop(reader);
    let found = std::fs::read_dir(dir.path().join(".spl/found")).unwrap();
    let mut found: Vec<_> = found.map(|e| std::fs::read(e.unwrap().path()).unwrap()).collect();
    found.sort();
    assert_eq!(found, [b"a and more".to_vec(), b"b".to_vec()]);
}
