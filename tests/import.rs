//! `spoolfs import`: recordings from elsewhere, under a mount.

mod support;

use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};
use support::mount::{Mount, Setup};

fn old_server() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for (path, bytes) in [
        ("2019/01/a.wav", vec![1; 70_000]),
        ("2019/01/a.wav.txt", b"a sidecar".to_vec()),
        ("2019/02/b.wav", vec![2; 300_000]),
        ("2019/02/empty.wav", Vec::new()),
        ("top \u{fc} name.wav", vec![3; 44]),
    ] {
        let path = dir.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, bytes).unwrap();
        chown(&path, Some(1234), Some(321)).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        touch(&path, 1_546_300_800, 123_456_789);
    }
    rustix::fs::setxattr(
        dir.path().join("2019/01/a.wav"),
        "user.agent",
        b"1001",
        rustix::fs::XattrFlags::empty(),
    )
    .unwrap();
    symlink("a.wav", dir.path().join("2019/01/link.wav")).unwrap();
    touch(&dir.path().join("2019/01"), 1_546_300_900, 7);
    fs::create_dir(dir.path().join(".spl")).unwrap();
    fs::write(dir.path().join(".spl/private"), b"x").unwrap();
    dir
}

fn touch(path: &Path, seconds: i64, nanos: i64) {
    use rustix::fs::{AtFlags, CWD, Timespec, Timestamps, utimensat};
    let at = Timespec { tv_sec: seconds, tv_nsec: nanos };
    let times = Timestamps { last_access: at, last_modification: at };
    utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW).unwrap();
}

/// What `import` said, and its exit status.
fn import(mount: &Mount, arguments: &[&OsStr]) -> (i32, serde_json::Value) {
    let all = ["import".as_ref(), "--json".as_ref()].into_iter().chain(arguments.iter().copied());
    let ran = mount.cli(all);
    let report = serde_json::from_str(&ran.out).unwrap_or_else(|e| panic!("{e}: {ran:?}"));
    (ran.status.code().unwrap(), report)
}

/// Path, size, mtime, mode, owner and content.
type File = (PathBuf, u64, (i64, i64), u32, (u32, u32), Vec<u8>);

/// Every file below.
fn tree(root: &Path) -> Vec<File> {
    let mut found = Vec::new();
    let mut dirs = vec![root.to_owned()];
    while let Some(dir) = dirs.pop() {
        for entry in fs::read_dir(dir).unwrap().flatten() {
            let (path, name) = (entry.path(), entry.file_name());
            if name == ".spl" || name == "stitched" {
                continue;
            }
            let meta = fs::symlink_metadata(&path).unwrap();
            let below = path.strip_prefix(root).unwrap().to_owned();
            if meta.is_dir() {
                dirs.push(path);
                continue;
            }
            let bytes = if meta.is_file() { fs::read(&path).unwrap() } else { Vec::new() };
            let times = (meta.mtime(), meta.mtime_nsec());
            found.push((below, meta.size(), times, meta.mode(), (meta.uid(), meta.gid()), bytes));
        }
    }
    found.sort();
    found
}

#[test]
fn recordings_from_elsewhere_come_with_all_that_they_have() {
    if support::no_mount("recordings_from_elsewhere_come_with_all_that_they_have") {
        return;
    }
    let (mount, old) = (Setup::default().mount(), old_server());
    let before = tree(old.path());
    let (code, dry) = import(&mount, &["--dry-run".as_ref(), old.path().as_os_str()]);
    assert_eq!((code, &dry["copied"], &dry["dry_run"]), (0, &5.into(), &true.into()), "{dry}");
    assert!(tree(&mount.mountpoint).is_empty());

    let (code, report) = import(&mount, &[old.path().as_os_str()]);
    assert_eq!(
        (code, &report["copied"], &report["already"]),
        (0, &5.into(), &0.into()),
        "{report}"
    );
    assert_eq!(tree(&mount.mountpoint), before);
    assert_eq!(tree(old.path()), before, "the source is only read");
    let dir = fs::metadata(mount.path("2019/01")).unwrap();
    assert_eq!((dir.mtime(), dir.mtime_nsec()), (1_546_300_900, 7));
    let mut value = [0; 8];
    let len = rustix::fs::getxattr(mount.path("2019/01/a.wav"), "user.agent", &mut value[..]);
    assert_eq!(&value[..len.unwrap()], b"1001");
    assert_eq!(fs::read_link(mount.path("2019/01/link.wav")).unwrap(), Path::new("a.wav"));

    // Again: everything is there, also where the local copy is gone.
    for step in ["archive", "release"] {
        mount.cli([OsStr::new(step), mount.mountpoint.as_os_str()]).ok();
    }
    let (code, report) = import(&mount, &[old.path().as_os_str()]);
    assert_eq!(
        (code, &report["copied"], &report["already"]),
        (0, &0.into(), &5.into()),
        "{report}"
    );
    let text = mount.cli(["audit", "show", "--json"]).out;
    let log: serde_json::Value = serde_json::from_str(&text).unwrap();
    let lines = log["lines"].as_array().unwrap();
    let imported = lines.iter().find(|l| l["event"] == "imported").expect("on record");
    assert_eq!(imported["details"]["files"], 5);
}

#[test]
fn what_is_there_with_other_content_is_never_touched() {
    if support::no_mount("what_is_there_with_other_content_is_never_touched") {
        return;
    }
    let (mount, old) = (Setup::default().mount(), old_server());
    fs::create_dir_all(mount.path("2019/01")).unwrap();
    let other = vec![9; 70_000];
    fs::write(mount.path("2019/01/a.wav"), &other).unwrap();
    fs::write(mount.path("2019/02"), b"a file where a directory should be").unwrap();
    let fifo = old.path().join("fifo");
    rustix::fs::mknodat(
        rustix::fs::CWD,
        &fifo,
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::from_raw_mode(0o600),
        0,
    )
    .unwrap();
    assert!(fs::symlink_metadata(&fifo).unwrap().file_type().is_fifo());
    let (code, report) = import(&mount, &[old.path().as_os_str()]);
    assert_eq!((code, &report["copied"]), (1, &2.into()), "{report}");
    let failed = report["failed"].as_array().unwrap();
    let names: Vec<_> = failed
        .iter()
        .map(|f| Path::new(f["path"].as_str().unwrap()).file_name().unwrap().to_str().unwrap())
        .collect();
    assert_eq!(names, ["fifo", "a.wav", "02", "b.wav", "empty.wav"], "{report}");
    assert_eq!(fs::read(mount.path("2019/01/a.wav")).unwrap(), other);
    assert_eq!(fs::read(mount.path("2019/02")).unwrap(), b"a file where a directory should be");
    let stray = fs::read_dir(mount.path("2019/01")).unwrap().flatten();
    assert!(!stray.into_iter().any(|e| e.file_name().to_string_lossy().starts_with(".import-")));
}

#[test]
fn an_import_that_was_broken_off_goes_on() {
    if support::no_mount("an_import_that_was_broken_off_goes_on") {
        return;
    }
    let (mount, old) = (Setup::default().mount(), old_server());
    let mut child = std::process::Command::new(env!("CARGO_BIN_EXE_spoolfs"))
        .args(["import", "--config"])
        .arg(&mount.config)
        .arg(old.path())
        .spawn()
        .unwrap();
    // Wherever it is just now.
    while !mount.path("2019").exists() && child.try_wait().unwrap().is_none() {
        std::thread::yield_now();
    }
    let _it_may_be_through = child.kill();
    child.wait().unwrap();
    let (code, report) = import(&mount, &[old.path().as_os_str()]);
    assert_eq!(code, 0, "{report}");
    let (copied, already) = (&report["copied"], &report["already"]);
    assert_eq!(copied.as_u64().unwrap() + already.as_u64().unwrap(), 5, "{report}");
    assert_eq!(tree(&mount.mountpoint), tree(old.path()), "and no half copy is left");
}

#[test]
fn a_file_by_itself_brings_its_sidecars_and_goes_where_it_is_told() {
    if support::no_mount("a_file_by_itself_brings_its_sidecars_and_goes_where_it_is_told") {
        return;
    }
    let (mount, old) = (Setup::default().mount(), old_server());
    let one = old.path().join("2019/01/a.wav");
    let (code, report) = import(&mount, &["--to".as_ref(), "x/y".as_ref(), one.as_os_str()]);
    assert_eq!((code, &report["copied"]), (0, &2.into()), "{report}");
    assert_eq!(fs::read(mount.path("x/y/a.wav.txt")).unwrap(), b"a sidecar");
    for wrong in [
        vec!["--to".as_ref(), "../out".as_ref(), one.as_os_str()],
        vec![mount.mountpoint.as_os_str()],
        vec![mount.mountpoint.parent().unwrap().as_os_str()],
        vec!["/nowhere".as_ref()],
    ] {
        let (code, report) = import(&mount, &wrong);
        assert_eq!(code, 2, "{wrong:?}: {report}");
    }
}

#[test]
fn a_source_goes_only_when_its_recording_is_archived() {
    if support::no_mount("a_source_goes_only_when_its_recording_is_archived") {
        return;
    }
    let (mount, old) = (Setup::default().mount(), old_server());
    let before = tree(old.path());
    fs::write(mount.path("top \u{fc} name.wav"), b"another").unwrap();
    let (code, report) = import(&mount, &["--move".as_ref(), old.path().as_os_str()]);
    // An empty file is not archived, and another file had one's name.
    assert_eq!((code, &report["moved"]), (1, &3.into()), "{report}");
    let left: Vec<PathBuf> = tree(old.path()).into_iter().map(|(path, ..)| path).collect();
    let kept = ["2019/01/link.wav", "2019/02/empty.wav", "top \u{fc} name.wav"];
    assert_eq!(left, kept.map(PathBuf::from), "{report}");
    let there = tree(&mount.mountpoint);
    assert_eq!(there.len(), before.len());
    for (a, b) in there.iter().zip(&before).filter(|(a, _)| a.0.parent() != Some(Path::new(""))) {
        assert_eq!(a, b);
    }
}
