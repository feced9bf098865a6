//! docs/SEMANTICS.md, section by section, on a real mount.

mod support;

use rustix::fs::{FallocateFlags, OFlags, RenameFlags, SeekFrom, XattrFlags};
use rustix::io::Errno;
use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{IsTerminal, Read, Seek, Write};
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use support::ext4::Ext4;
use support::hitch::Hitches;
use support::look::{state, wait_for_state, xattr};
use support::mount::{Mount, Setup};

#[track_caller]
fn command(mount: &Mount, what: &str, path: &Path) {
    mount.cli([what.as_ref(), path.as_os_str()]).ok();
}

#[track_caller]
fn release(mount: &Mount, path: &Path) {
    command(mount, "archive", path);
    command(mount, "release", path);
    assert_eq!(xattr(path, "user.spoolfs.source").as_deref(), Some("archive"));
}

fn objects(mount: &Mount) -> Vec<PathBuf> {
    fn walk(dir: &Path, found: &mut Vec<PathBuf>) {
        for entry in fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.file_name().is_some_and(|n| n == ".spoolfs") {
                continue;
            }
            if path.is_dir() { walk(&path, found) } else { found.push(path) }
        }
    }
    let mut found = Vec::new();
    walk(&mount.target, &mut found);
    found.sort();
    found
}

fn noise(len: usize, seed: u64) -> Vec<u8> {
    let mut rng = fastrand::Rng::with_seed(seed);
    std::iter::repeat_with(|| rng.u8(..)).take(len).collect()
}

#[derive(Debug, PartialEq, Eq)]
struct Look {
    size: u64,
    mtime: (i64, i64),
    mode: u32,
    owner: (u32, u32),
    ino: u64,
}

fn look(path: &Path) -> Look {
    let m = fs::symlink_metadata(path).unwrap();
    Look {
        size: m.size(),
        mtime: (m.mtime(), m.mtime_nsec()),
        mode: m.mode(),
        owner: (m.uid(), m.gid()),
        ino: m.ino(),
    }
}

#[test]
fn existing_recordings_are_adopted() {
    if support::no_mount("existing_recordings_are_adopted") {
        return;
    }
    let mut mount = Setup::default().prepare();
    let path = mount.path("2024/05/06/old.wav");
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(&path, noise(100_000, 1)).unwrap();
    let before = fs::metadata(&path).unwrap();
    mount.start();
    let after = fs::metadata(&path).unwrap();
    assert_eq!((after.len(), after.mtime_nsec()), (before.len(), before.mtime_nsec()));
    assert_eq!(fs::read(&path).unwrap(), noise(100_000, 1));
    release(&mount, &path);
    assert_eq!(fs::read(&path).unwrap(), noise(100_000, 1));
}

#[test]
fn promise_5_unmounted_the_directory_is_plain() {
    if support::no_mount("promise_5_unmounted_the_directory_is_plain") {
        return;
    }
    let mut mount = Setup::default().mount();
    fs::create_dir_all(mount.path("a/b")).unwrap();
    fs::write(mount.path("a/b/local.wav"), b"local").unwrap();
    fs::write(mount.path("a/gone.wav"), b"gone").unwrap();
    release(&mount, &mount.path("a/gone.wav"));
    mount.stop();
    assert_eq!(fs::read(mount.path("a/b/local.wav")).unwrap(), b"local");
    assert!(!mount.path("a/gone.wav").exists());
    // The PBX goes on without us: a new file, a rename, a change.
    fs::write(mount.path("a/meanwhile.wav"), b"meanwhile").unwrap();
    fs::rename(mount.path("a/b/local.wav"), mount.path("a/moved.wav")).unwrap();
    OpenOptions::new()
        .append(true)
        .open(mount.path("a/moved.wav"))
        .unwrap()
        .write_all(b"+")
        .unwrap();
    mount.start();
    assert_eq!(fs::read(mount.path("a/meanwhile.wav")).unwrap(), b"meanwhile");
    assert_eq!(fs::read(mount.path("a/moved.wav")).unwrap(), b"local+");
    assert!(!mount.path("a/b/local.wav").exists());
    assert_eq!(fs::read(mount.path("a/gone.wav")).unwrap(), b"gone");
    command(&mount, "archive", &mount.path("a/moved.wav"));
}

#[test]
fn sizes_are_exact_and_live() {
    if support::no_mount("sizes_are_exact_and_live") {
        return;
    }
    let mount = Setup::default().mount();
    let path = mount.path("live.wav");
    let mut file = File::create(&path).unwrap();
    let reader = File::open(&path).unwrap();
    for n in 1..=20 {
        file.write_all(&[7; 320]).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().len(), n * 320);
        assert_eq!(reader.metadata().unwrap().len(), n * 320);
    }
    file.write_all_at(b"RIFF", 0).unwrap();
    assert_eq!(fs::metadata(&path).unwrap().len(), 6400);
}

#[test]
fn closed_means_the_last_writer_closed() {
    if support::no_mount("closed_means_the_last_writer_closed") {
        return;
    }
    let mount = Setup::default().mount();
    let path = mount.path("two.wav");
    let first = File::create(&path).unwrap();
    let mut second = OpenOptions::new().append(true).open(&path).unwrap();
    let shared = second.try_clone().unwrap();
    second.write_all(b"audio").unwrap();
    drop(first);
    drop(second);
    // A FLUSH was sent for each; one writer is left.
    assert_eq!(state(&path), "recording");
    let busy = mount.cli(["archive".as_ref(), path.as_os_str()]);
    assert_eq!(busy.status.code(), Some(1), "{busy:?}");
    drop(shared);
    wait_for_state(&path, "closed");
    command(&mount, "archive", &path);
    assert_eq!(state(&path), "archived");
}

#[test]
fn a_released_recording_can_be_appended_to() {
    if support::no_mount("a_released_recording_can_be_appended_to") {
        return;
    }
    let mount = Setup::default().mount();
    let path = mount.path("call.wav");
    fs::write(&path, noise(70_000, 2)).unwrap();
    release(&mount, &path);
    let mut file = OpenOptions::new().read(true).write(true).open(&path).unwrap();
    file.write_all_at(b"HEAD", 0).unwrap();
    file.seek(std::io::SeekFrom::End(0)).unwrap();
    file.write_all(b"more").unwrap();
    drop(file);
    let mut expected = noise(70_000, 2);
    expected[..4].copy_from_slice(b"HEAD");
    expected.extend_from_slice(b"more");
    assert_eq!(fs::read(&path).unwrap(), expected);
    release(&mount, &path);
    assert_eq!(xattr(&path, "user.spoolfs.generation").as_deref(), Some("2"));
    assert_eq!(fs::read(&path).unwrap(), expected);
    let sizes: Vec<u64> = objects(&mount).iter().map(|o| o.metadata().unwrap().len()).collect();
    assert_eq!(sizes.len(), 2, "both generations have an object");
    assert!(sizes.contains(&70_000) && sizes.contains(&70_004));

    // Without anything fetched: the archive is taken away, and O_TRUNC still works.
    let aside = mount.root.join("aside");
    fs::rename(&mount.target, &aside).unwrap();
    fs::write(&path, b"new").unwrap();
    assert_eq!(fs::read(&path).unwrap(), b"new");
    fs::rename(&aside, &mount.target).unwrap();
    release(&mount, &path);
    assert_eq!(fs::read(&path).unwrap(), b"new");
    assert_eq!(objects(&mount).len(), 3);
}

#[test]
fn attributes_are_not_content() {
    if support::no_mount("attributes_are_not_content") {
        return;
    }
    let mount = Setup::default().mount();
    let path = mount.path("a.wav");
    fs::write(&path, b"audio").unwrap();
    command(&mount, "archive", &path);
    let change = |mode, at| {
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        std::os::unix::fs::chown(&path, Some(mode), Some(7)).unwrap();
        let times = rustix::fs::Timestamps {
            last_access: rustix::fs::Timespec { tv_sec: 5, tv_nsec: 6 },
            last_modification: rustix::fs::Timespec { tv_sec: at, tv_nsec: 123_456_789 },
        };
        rustix::fs::utimensat(rustix::fs::CWD, &path, &times, rustix::fs::AtFlags::empty())
            .unwrap();
        let m = fs::metadata(&path).unwrap();
        assert_eq!((m.mode() & 0o7777, m.uid(), m.gid()), (mode, mode, 7));
        assert_eq!((m.mtime(), m.mtime_nsec()), (at, 123_456_789));
    };
    change(0o640, 1_000_000);
    release(&mount, &path);
    change(0o600, 2_000_000);
    assert_eq!(xattr(&path, "user.spoolfs.source").as_deref(), Some("archive"));
    let released = look(&path);
    command(&mount, "recall", &path);
    assert_eq!(look(&path), released);
    release(&mount, &path);
    assert_eq!(look(&path), released);
    assert_eq!(xattr(&path, "user.spoolfs.generation").as_deref(), Some("1"));
    assert_eq!(objects(&mount).len(), 1, "nothing was uploaded again");
}

#[test]
fn rename_moves_local_and_released_recordings() {
    if support::no_mount("rename_moves_local_and_released_recordings") {
        return;
    }
    let mount = Setup::default().mount();
    let at = |name: &str| mount.path(name);
    let rename = |a: &str, b: &str, flags| {
        rustix::fs::renameat_with(rustix::fs::CWD, at(a), rustix::fs::CWD, at(b), flags)
    };
    fs::create_dir_all(at("d1/sub")).unwrap();
    fs::write(at("d1/sub/released.wav"), b"released").unwrap();
    fs::write(at("local.wav"), b"local").unwrap();
    release(&mount, &at("d1/sub/released.wav"));
    let ino = look(&at("d1/sub/released.wav")).ino;

    fs::rename(at("d1"), at("d2")).unwrap();
    assert_eq!(look(&at("d2/sub/released.wav")).ino, ino);
    assert_eq!(fs::read(at("d2/sub/released.wav")).unwrap(), b"released");
    fs::rename(at("d2/sub/released.wav"), at("r.wav")).unwrap();
    assert_eq!(fs::read(at("r.wav")).unwrap(), b"released");
    assert_eq!(rename("local.wav", "r.wav", RenameFlags::NOREPLACE), Err(Errno::EXIST));
    assert_eq!(rename("r.wav", "local.wav", RenameFlags::NOREPLACE), Err(Errno::EXIST));
    rename("r.wav", "local.wav", RenameFlags::EXCHANGE).unwrap();
    assert_eq!(fs::read(at("r.wav")).unwrap(), b"local");
    assert_eq!(fs::read(at("local.wav")).unwrap(), b"released");
    assert_eq!(rename("r.wav", "x.wav", RenameFlags::EXCHANGE), Err(Errno::NOENT));

    // Over each other, both ways; the one that is replaced stays in the archive.
    fs::rename(at("local.wav"), at("r.wav")).unwrap();
    assert_eq!(fs::read(at("r.wav")).unwrap(), b"released");
    assert!(!at("local.wav").exists());
    fs::write(at("new.wav"), b"new").unwrap();
    fs::rename(at("new.wav"), at("r.wav")).unwrap();
    assert_eq!(fs::read(at("r.wav")).unwrap(), b"new");
    assert_eq!(objects(&mount).len(), 1);

    // While open.
    let mut open = File::create(at("open.wav")).unwrap();
    fs::rename(at("open.wav"), at("d2/open.wav")).unwrap();
    open.write_all(b"patched").unwrap();
    drop(open);
    assert_eq!(fs::read(at("d2/open.wav")).unwrap(), b"patched");
    command(&mount, "archive", &at("d2/open.wav"));

    // A directory that is empty below but has a released recording.
    fs::create_dir(at("full")).unwrap();
    fs::write(at("full/r.wav"), b"r").unwrap();
    release(&mount, &at("full/r.wav"));
    fs::create_dir(at("other")).unwrap();
    assert_eq!(rename("other", "full", RenameFlags::empty()), Err(Errno::NOTEMPTY));
    assert_eq!(rename("d2/open.wav", "full", RenameFlags::empty()), Err(Errno::ISDIR));
    assert_eq!(rename("other", "full/r.wav", RenameFlags::empty()), Err(Errno::NOTDIR));
}

#[test]
fn deleting_leaves_the_object_and_open_files_usable() {
    if support::no_mount("deleting_leaves_the_object_and_open_files_usable") {
        return;
    }
    let mount = Setup::default().mount();
    let path = mount.path("d/a.wav");
    fs::create_dir(mount.path("d")).unwrap();
    fs::write(&path, b"archived").unwrap();
    release(&mount, &path);
    assert_eq!(fs::remove_dir(mount.path("d")).unwrap_err().raw_os_error(), Some(libc::ENOTEMPTY));
    fs::remove_file(&path).unwrap();
    assert!(!path.exists());
    assert_eq!(fs::read_dir(mount.path("d")).unwrap().count(), 0);
    fs::write(&path, b"another").unwrap();
    assert_eq!(fs::read(&path).unwrap(), b"another");
    command(&mount, "archive", &path);
    assert_eq!(objects(&mount).len(), 2);
    fs::remove_file(&path).unwrap();
    assert!(!path.exists(), "an archived local copy stays deleted");
    fs::remove_dir(mount.path("d")).unwrap();

    let mut open = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(true)
        .open(mount.path("open.wav"))
        .unwrap();
    open.write_all(b"one").unwrap();
    fs::remove_file(mount.path("open.wav")).unwrap();
    open.write_all(b"two").unwrap();
    open.set_len(5).unwrap();
    assert_eq!(open.metadata().unwrap().nlink(), 0);
    open.rewind().unwrap();
    let mut text = String::new();
    open.read_to_string(&mut text).unwrap();
    assert_eq!(text, "onetw");
}

#[test]
fn promise_4_metadata_is_local_and_survives_release() {
    if support::no_mount("promise_4_metadata_is_local_and_survives_release") {
        return;
    }
    let mut mount = Setup::default().mount();
    let path = mount.path("2026/11/21/a.wav");
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(&path, noise(300_000, 3)).unwrap();
    std::os::unix::fs::chown(&path, Some(33), Some(44)).unwrap();
    let before = look(&path);
    release(&mount, &path);
    // With the archive gone, everything but reading works.
    let aside = mount.root.join("aside");
    fs::rename(&mount.target, &aside).unwrap();
    assert_eq!(look(&path), before);
    // The kernel may answer with what it was told a second ago.
    let until = Instant::now() + support::look::PATIENCE;
    while fs::metadata(&path).unwrap().blocks() != 1 {
        assert!(Instant::now() < until);
        std::thread::sleep(Duration::from_millis(50));
    }
    let names: Vec<_> =
        fs::read_dir(path.parent().unwrap()).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(names, ["a.wav"]);
    let file = File::open(&path).unwrap();
    assert_eq!(rustix::fs::seek(&file, SeekFrom::Data(0)).unwrap(), 0);
    assert_eq!(rustix::fs::seek(&file, SeekFrom::Hole(0)).unwrap(), 300_000);
    assert_eq!(rustix::fs::seek(&file, SeekFrom::Data(300_000)), Err(Errno::NXIO));
    drop(file);
    mount.restart();
    assert_eq!(look(&path), before, "after a restart");
    fs::rename(&aside, &mount.target).unwrap();
    assert_eq!(fs::read(&path).unwrap(), noise(300_000, 3));
    command(&mount, "recall", &path);
    assert_eq!(look(&path), before, "after a recall");
    for tool in [&["tar", "-Scf"][..], &["rsync", "-aS"], &["cp", "-a"]] {
        release(&mount, &path);
        let out = mount.root.join(format!("out-{}", tool[0]));
        let copied = match tool[0] {
            "tar" => {
                let ok = std::process::Command::new("tar")
                    .args(["-Scf"])
                    .arg(&out)
                    .arg("-C")
                    .arg(&mount.mountpoint)
                    .arg("2026/11/21/a.wav")
                    .status();
                assert!(ok.unwrap().success());
                let text = std::process::Command::new("tar").args(["-xOf"]).arg(&out).output();
                text.unwrap().stdout
            }
            name => {
                let ran =
                    std::process::Command::new(name).args(&tool[1..]).arg(&path).arg(&out).status();
                match ran {
                    Ok(status) => assert!(status.success(), "{name}"),
                    Err(error) => {
                        eprintln!("SKIPPED {name}: {error}");
                        continue;
                    }
                }
                fs::read(&out).unwrap()
            }
        };
        assert_eq!(copied, noise(300_000, 3), "{tool:?}");
    }
}

#[test]
fn a_listing_gives_local_and_released_files_once() {
    if support::no_mount("a_listing_gives_local_and_released_files_once") {
        return;
    }
    let mount = Setup::default().mount();
    let dir = mount.path("day");
    fs::create_dir(&dir).unwrap();
    let names: Vec<String> = (0..400).map(|n| format!("recording-number-{n:04}.wav")).collect();
    for name in &names {
        fs::write(dir.join(name), name).unwrap();
    }
    for name in names.iter().step_by(2) {
        fs::File::open(dir.join(name)).unwrap();
    }
    command(&mount, "archive", &dir);
    for name in names.iter().step_by(3) {
        command(&mount, "release", &dir.join(name));
    }
    let count = |dir: &Path| {
        let mut seen = BTreeMap::<String, usize>::new();
        for entry in fs::read_dir(dir).unwrap() {
            *seen.entry(entry.unwrap().file_name().into_string().unwrap()).or_default() += 1;
        }
        seen
    };
    let expected: BTreeMap<String, usize> = names.iter().map(|n| (n.clone(), 1)).collect();
    assert_eq!(count(&dir), expected);

    // What moves between disk and archive while a listing is under way is given once.
    let mut listing = fs::read_dir(&dir).unwrap();
    let mut seen = BTreeMap::<String, usize>::new();
    let mut take = |listing: &mut fs::ReadDir, n| {
        for entry in listing.take(n) {
            *seen.entry(entry.unwrap().file_name().into_string().unwrap()).or_default() += 1;
        }
    };
    take(&mut listing, 50);
    command(&mount, "release", &dir);
    command(&mount, "recall", &dir.join(&names[0]));
    command(&mount, "recall", &dir.join(&names[3]));
    take(&mut listing, 1000);
    assert_eq!(seen, expected);
}

#[test]
fn a_corrupt_object_is_eio_and_never_audio() {
    if support::no_mount("a_corrupt_object_is_eio_and_never_audio") {
        return;
    }
    let mount = Setup::default().mount();
    let path = mount.path("a.wav");
    fs::write(&path, noise(400_000, 4)).unwrap();
    release(&mount, &path);
    let object = objects(&mount).pop().unwrap();
    let file = OpenOptions::new().write(true).open(&object).unwrap();
    file.write_all_at(&[0xff; 10], 390_000).unwrap();
    let reader = File::open(&path).unwrap();
    let mut bytes = vec![0; 60_000];
    reader.read_exact_at(&mut bytes, 0).unwrap();
    assert_eq!(bytes, noise(400_000, 4)[..60_000], "the first chunk is right");
    let wrong = reader.read_at(&mut bytes, 385_000).unwrap_err();
    assert_eq!(wrong.raw_os_error(), Some(libc::EIO));
    let recall = mount.cli(["recall".as_ref(), path.as_os_str()]);
    assert_eq!(recall.status.code(), Some(1));
    assert_eq!(xattr(&path, "user.spoolfs.source").as_deref(), Some("archive"));
}

#[test]
fn names_are_bytes() {
    if support::no_mount("names_are_bytes") {
        return;
    }
    let mount = Setup::default().mount();
    let mut names: Vec<Vec<u8>> = vec![
        b"a.wav".to_vec(),
        b"a.WAV".to_vec(),
        b"A.wav".to_vec(),
        b"with space + % # '.wav".to_vec(),
        b"new\nline.wav".to_vec(),
        b"-leading".to_vec(),
        b".hidden".to_vec(),
        vec![b'x'; 255],
        "\u{fc}n\u{ef}.wav".as_bytes().to_vec(),
        b"~1-aaaaaaaa.wav".to_vec(),
    ];
    names.push((1..=255).filter(|b| *b != b'/').step_by(3).collect());
    for name in &names {
        let path = mount.path(std::ffi::OsString::from_vec(name.clone()));
        fs::write(&path, name).unwrap();
        release(&mount, &path);
    }
    for name in &names {
        let path = mount.path(std::ffi::OsString::from_vec(name.clone()));
        assert_eq!(&fs::read(&path).unwrap(), name);
    }
    let mut listed: Vec<Vec<u8>> = fs::read_dir(&mount.mountpoint)
        .unwrap()
        .map(|e| e.unwrap().file_name().into_vec())
        .collect();
    listed.sort();
    names.sort();
    assert_eq!(listed, names);
    assert_eq!(objects(&mount).len(), names.len());
}

#[test]
fn mkdir_of_what_exists_says_so() {
    if support::no_mount("mkdir_of_what_exists_says_so") {
        return;
    }
    let mut mount = Setup::default().mount();
    let exists = |path: &Path| fs::create_dir(path).unwrap_err().raw_os_error();
    assert_eq!(exists(&mount.mountpoint), Some(libc::EEXIST));
    fs::create_dir_all(mount.path("2026/11/21")).unwrap();
    assert_eq!(exists(&mount.path("2026/11")), Some(libc::EEXIST));
    fs::write(mount.path("f.wav"), b"f").unwrap();
    release(&mount, &mount.path("f.wav"));
    assert_eq!(exists(&mount.path("f.wav")), Some(libc::EEXIST));
    mount.restart();
    assert!(mount.path("2026/11/21").is_dir());
}

#[test]
fn a_recording_may_have_two_names() {
    if support::no_mount("a_recording_may_have_two_names") {
        return;
    }
    let mut mount = Setup::default().mount();
    let (a, b) = (mount.path("a.wav"), mount.path("d/b.wav"));
    fs::create_dir(mount.path("d")).unwrap();
    fs::write(&a, b"audio").unwrap();
    fs::hard_link(&a, &b).unwrap();
    assert_eq!(look(&a), look(&b));
    assert_eq!(fs::metadata(&a).unwrap().nlink(), 2);
    command(&mount, "archive", &a);
    assert_eq!(objects(&mount).len(), 1);
    assert_eq!(mount.cli(["release".as_ref(), a.as_os_str()]).status.code(), Some(1));
    let ino = look(&b).ino;
    fs::remove_file(&a).unwrap();
    assert_eq!(fs::read(&b).unwrap(), b"audio");
    command(&mount, "release", &b);
    assert_eq!(look(&b).ino, ino);
    assert_eq!(fs::read(&b).unwrap(), b"audio");

    std::os::unix::fs::symlink("/etc/hostname", mount.path("link")).unwrap();
    mount.restart();
    assert_eq!(fs::read_link(mount.path("link")).unwrap(), Path::new("/etc/hostname"));
    assert_eq!(objects(&mount).len(), 1);
}

#[test]
fn extended_attributes_tell_about_a_recording() {
    if support::no_mount("extended_attributes_tell_about_a_recording") {
        return;
    }
    let mount = Setup::default().mount();
    let path = mount.path("a.wav");
    fs::write(&path, b"audio").unwrap();
    rustix::fs::setxattr(&path, "user.note", b"hello", XattrFlags::empty()).unwrap();
    command(&mount, "archive", &path);
    let sha = "c57ebb8ad6b1e4df9cb3c5cbb0b0aa2e2c0a2e6cf3a0f1e5a0d3d8c8d6b7ffef";
    let real = xattr(&path, "user.spoolfs.sha256").unwrap();
    assert_eq!(real.len(), sha.len());
    let sum = std::process::Command::new("sha256sum").arg(&path).output().unwrap();
    assert!(String::from_utf8(sum.stdout).unwrap().starts_with(&real));
    assert_eq!(xattr(&path, "user.spoolfs.generation").as_deref(), Some("1"));
    let url = xattr(&path, "user.spoolfs.url").unwrap();
    assert_eq!(fs::read(url.strip_prefix("file://").unwrap()).unwrap(), b"audio");
    assert!(url.ends_with(&xattr(&path, "user.spoolfs.key").unwrap()));
    command(&mount, "release", &path);
    assert_eq!(xattr(&path, "user.note").as_deref(), Some("hello"));
    let mut list = vec![0; 4096];
    let len = rustix::fs::listxattr(&path, &mut list[..]).unwrap();
    assert_eq!(&list[..len], b"user.note\0");
    let refused = rustix::fs::setxattr(&path, "user.spoolfs.state", b"x", XattrFlags::empty());
    assert_eq!(refused, Err(Errno::OPNOTSUPP));
    rustix::fs::setxattr(&path, "user.second", b"2", XattrFlags::CREATE).unwrap();
    command(&mount, "recall", &path);
    assert_eq!(xattr(&path, "user.note").as_deref(), Some("hello"));
    assert_eq!(xattr(&path, "user.second").as_deref(), Some("2"));
}

#[test]
fn holes_read_as_zeros_and_sync_works() {
    if support::no_mount("holes_read_as_zeros_and_sync_works") {
        return;
    }
    let mount = Setup::default().mount();
    let path = mount.path("sparse.wav");
    let file =
        OpenOptions::new().read(true).write(true).create(true).truncate(true).open(&path).unwrap();
    file.write_all_at(b"tail", 1_000_000).unwrap();
    rustix::fs::fallocate(&file, FallocateFlags::empty(), 0, 1_048_576).unwrap();
    file.sync_all().unwrap();
    file.sync_data().unwrap();
    File::open(&mount.mountpoint).unwrap().sync_all().unwrap();
    drop(file);
    release(&mount, &path);
    let bytes = fs::read(&path).unwrap();
    assert_eq!(bytes.len(), 1_048_576);
    assert!(bytes[..1_000_000].iter().all(|b| *b == 0));
    assert_eq!(&bytes[1_000_000..1_000_004], b"tail");
}

#[test]
fn new_files_belong_to_their_maker() {
    if support::no_mount("new_files_belong_to_their_maker") {
        return;
    }
    let mount = Setup::default().mount();
    // The scratch directory is private; the maker must be able to get through it.
    for dir in [&mount.root, &mount.mountpoint] {
        fs::set_permissions(dir, fs::Permissions::from_mode(0o777)).unwrap();
    }
    fs::create_dir(mount.path("shared")).unwrap();
    std::os::unix::fs::chown(mount.path("shared"), Some(0), Some(55)).unwrap();
    fs::set_permissions(mount.path("shared"), fs::Permissions::from_mode(0o2777)).unwrap();
    let script = "umask 027; echo x > own.wav; mkdir dir; echo x > shared/s.wav; mkdir shared/d; \
                  cat secret 2>/dev/null && exit 9; exit 0";
    fs::write(mount.path("secret"), b"s").unwrap();
    fs::set_permissions(mount.path("secret"), fs::Permissions::from_mode(0o600)).unwrap();
    let status = std::process::Command::new("setpriv")
        .args(["--reuid", "1234", "--regid", "2345", "--clear-groups", "sh", "-c", script])
        .current_dir(&mount.mountpoint)
        .status()
        .unwrap();
    assert!(status.success());
    let who = |name: &str| {
        let m = fs::metadata(mount.path(name)).unwrap();
        (m.uid(), m.gid(), m.mode() & 0o7777)
    };
    assert_eq!(who("own.wav"), (1234, 2345, 0o640));
    assert_eq!(who("dir"), (1234, 2345, 0o750));
    assert_eq!(who("shared/s.wav"), (1234, 55, 0o640));
    assert_eq!(who("shared/d"), (1234, 55, 0o2750));
}

#[test]
fn df_answers_without_a_target() {
    if support::no_mount("df_answers_without_a_target") {
        return;
    }
    let mount = Setup::default().mount();
    fs::rename(&mount.target, mount.root.join("aside")).unwrap();
    let hitches = Hitches::beside(&mount.root);
    let begun = Instant::now();
    let here = rustix::fs::statvfs(&mount.mountpoint).unwrap();
    let took = begun.elapsed();
    assert!(took < Duration::from_secs(1) + hitches.allowance(), "{took:?}");
    let below = rustix::fs::statvfs(&mount.state).unwrap();
    assert_eq!((here.f_blocks, here.f_frsize), (below.f_blocks, below.f_frsize));
    assert!(here.f_bavail > 0 && here.f_bavail <= here.f_blocks);
}

#[test]
fn the_private_directory_is_not_visible() {
    if support::no_mount("the_private_directory_is_not_visible") {
        return;
    }
    let mount = Setup::default().mount();
    assert_eq!(fs::read_dir(&mount.mountpoint).unwrap().count(), 0);
    assert!(fs::metadata(mount.path(".spl")).is_err());
    assert!(fs::create_dir(mount.path(".spl")).is_err());
    assert!(File::create(mount.path(".spl")).is_err());
    let file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .custom_flags(OFlags::NOFOLLOW.bits().cast_signed())
        .open(mount.path("ok"));
    file.unwrap();
}

#[test]
fn regression_a_released_recording_deleted_while_it_is_read() {
    if support::no_mount("regression_a_released_recording_deleted_while_it_is_read") {
        return;
    }
    let mount = Setup::default().mount();
    let path = mount.path("a.wav");
    fs::write(&path, noise(400_000, 9)).unwrap();
    release(&mount, &path);
    let reader = File::open(&path).unwrap();
    fs::remove_file(&path).unwrap();
    let mut bytes = vec![0; 400_000];
    reader.read_exact_at(&mut bytes, 0).unwrap();
    assert!(bytes == noise(400_000, 9));
}

#[test]
fn regression_lookups_unlinks_and_renames_of_one_name_at_once() {
    if support::no_mount("regression_lookups_unlinks_and_renames_of_one_name_at_once") {
        return;
    }
    let mount = Setup::default().mount();
    let (a, b) = (mount.path("a.wav"), mount.path("b.wav"));
    let until = Instant::now() + Duration::from_secs(5);
    std::thread::scope(|scope| {
        for n in 0..6 {
            let (a, b) = (&a, &b);
            scope.spawn(move || {
                while Instant::now() < until {
                    // What is there at which moment is luck; that each call returns is not.
                    let _ = match n {
                        0 => fs::write(a, b"audio"),
                        1 => fs::rename(a, b),
                        2 => fs::remove_file(b),
                        3 => fs::rename(b, a),
                        4 => fs::metadata(a).map(|_| ()),
                        _ => fs::hard_link(a, b),
                    };
                }
            });
        }
    });
    fs::write(&a, b"alive").unwrap();
    assert_eq!(fs::read(&a).unwrap(), b"alive");
}

#[test]
fn regression_a_listing_can_be_left_and_taken_up_again() {
    if support::no_mount("regression_a_listing_can_be_left_and_taken_up_again") {
        return;
    }
    let mount = Setup::default().mount();
    for n in 0..100 {
        fs::write(mount.path(format!("{n:03}.wav")), b"x").unwrap();
    }
    command(&mount, "archive", &mount.mountpoint);
    for n in 0..50 {
        command(&mount, "release", &mount.path(format!("{n:03}.wav")));
    }
    let dir = File::open(&mount.mountpoint).unwrap();
    let mut names = Vec::new();
    let mut positions = vec![0];
    let mut page = [std::mem::MaybeUninit::uninit(); 8192];
    let mut read = rustix::fs::RawDir::new(&dir, &mut page);
    while let Some(entry) = read.next() {
        let entry = entry.unwrap();
        names.push(entry.file_name().to_owned());
        positions.push(entry.next_entry_cookie());
    }
    assert_eq!(names.len(), 102);
    for at in [10, 90, 3, 60, 101, 0, 75] {
        rustix::fs::seek(&dir, SeekFrom::Start(positions[at])).unwrap();
        let mut page = [std::mem::MaybeUninit::uninit(); 8192];
        let mut read = rustix::fs::RawDir::new(&dir, &mut page);
        let next = read.next().unwrap().unwrap().file_name().to_owned();
        assert_eq!(next, names[at], "at {at}");
    }
}

const ACCESS_LIST: &str = "system.posix_acl_access";

/// Owner, group, group 33, mask and others, in the form the kernel takes.
fn access_list(may: [u16; 5]) -> Vec<u8> {
    let mut list = 2_u32.to_le_bytes().to_vec();
    for ((tag, id), may) in
        [(1_u16, u32::MAX), (4, u32::MAX), (8, 33), (16, u32::MAX), (32, u32::MAX)].iter().zip(may)
    {
        list.extend(tag.to_le_bytes());
        list.extend(may.to_le_bytes());
        list.extend(id.to_le_bytes());
    }
    list
}

#[test]
fn regression_mode_and_acl_of_a_released_recording_follow_each_other() {
    if support::no_mount("regression_mode_and_acl_of_a_released_recording_follow_each_other") {
        return;
    }
    let mount = Setup::default().mount();
    let path = mount.path("a.wav");
    let mode = || fs::metadata(&path).unwrap().mode() & 0o7777;
    let list = || {
        let mut value = vec![0; 200];
        let len = rustix::fs::getxattr(&path, ACCESS_LIST, &mut value[..])?;
        value.truncate(len);
        Ok::<_, Errno>(value)
    };
    let set = |list: &[u8]| rustix::fs::setxattr(&path, ACCESS_LIST, list, XattrFlags::empty());
    // The same steps twice: on the lower file system, which sets the example, and released.
    let steps = |released: bool| {
        let mut seen = Vec::new();
        let mut note = || seen.push((mode(), list()));
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        set(&access_list([6, 4, 7, 6, 0])).unwrap();
        note();
        if released {
            release(&mount, &path);
        }
        fs::set_permissions(&path, fs::Permissions::from_mode(0o2715)).unwrap();
        note();
        set(&access_list([7, 0, 5, 4, 1])).unwrap();
        note();
        // Says no more than a mode: none is kept.
        set(&access_list([6, 4, 0, 0, 4])[..4 + 2 * 8]).unwrap_err();
        let plain = access_list([6, 4, 0, 0, 4]);
        set(&[&plain[..4 + 2 * 8], &plain[4 + 4 * 8..]].concat()).unwrap();
        note();
        rustix::fs::removexattr(&path, ACCESS_LIST).unwrap();
        note();
        set(&access_list([6, 4, 7, 5, 0])).unwrap();
        note();
        if released {
            assert_eq!(xattr(&path, "user.spoolfs.source").as_deref(), Some("archive"));
            command(&mount, "recall", &path);
        }
        note();
        rustix::fs::removexattr(&path, ACCESS_LIST).unwrap();
        note();
        seen
    };
    fs::write(&path, b"audio").unwrap();
    let example = steps(false);
    assert_eq!(example[1], (0o2715, Ok(access_list([7, 4, 7, 1, 5]))));
    assert_eq!(steps(true), example);
}

#[test]
fn regression_large_xattrs_of_a_released_recording_are_refused() {
    if support::no_mount("regression_large_xattrs_of_a_released_recording_are_refused") {
        return;
    }
    let mount = Setup::default().mount();
    let path = mount.path("a.wav");
    fs::write(&path, b"audio").unwrap();
    release(&mount, &path);
    let set = |name: &str, len: usize| {
        rustix::fs::setxattr(&path, name, &vec![b'x'; len], XattrFlags::empty())
    };
    assert_eq!(set("user.note", 3_072), Err(Errno::NOSPC));
    assert_eq!(set("user.note", 3_072 - "user.note".len() + 1), Err(Errno::NOSPC));
    assert_eq!(xattr(&path, "user.note"), None, "nothing is left of what was refused");
    set("user.note", 3_072 - "user.note".len()).unwrap();
    assert_eq!(set("user.more", 1), Err(Errno::NOSPC));
    // It could be recalled only if the lower file system takes as much.
    command(&mount, "recall", &path);
    assert_eq!(xattr(&path, "user.note").map(|v| v.len()), Some(3_072 - "user.note".len()));
    assert_eq!(xattr(&path, "user.more"), None);
}

#[test]
fn regression_attributes_of_what_has_lost_its_last_name() {
    if support::no_mount("regression_attributes_of_what_has_lost_its_last_name") {
        return;
    }
    let mount = Setup::default().mount();
    let change_everything = |file: &File| {
        use rustix::fs::{Gid, Mode, Timespec, Timestamps, Uid};
        assert_eq!(file.metadata().unwrap().nlink(), 0);
        rustix::fs::fchmod(file, Mode::from_raw_mode(0o640)).unwrap();
        rustix::fs::fchown(file, Some(Uid::from_raw(33)), Some(Gid::from_raw(44))).unwrap();
        let time = |tv_sec| Timespec { tv_sec, tv_nsec: 9 };
        let times = Timestamps { last_access: time(5), last_modification: time(1_000_000) };
        rustix::fs::futimens(file, &times).unwrap();
        let m = file.metadata().unwrap();
        assert_eq!((m.mode() & 0o7777, m.uid(), m.gid()), (0o640, 33, 44));
        assert_eq!((m.atime(), m.mtime(), m.mtime_nsec()), (5, 1_000_000, 9));

        let set = |flags| rustix::fs::fsetxattr(file, "trusted.note", b"kept", flags);
        let get = || {
            let mut value = [0; 20];
            rustix::fs::fgetxattr(file, "trusted.note", &mut value[..])
                .map(|len| value[..len] == *b"kept")
        };
        assert_eq!(get(), Err(Errno::NODATA));
        set(XattrFlags::CREATE).unwrap();
        assert_eq!(set(XattrFlags::CREATE), Err(Errno::EXIST));
        assert_eq!(get(), Ok(true));
        let mut list = [0; 200];
        let len = rustix::fs::flistxattr(file, &mut list[..]).unwrap();
        assert_eq!(&list[..len], b"trusted.note\0");
        rustix::fs::fremovexattr(file, "trusted.note").unwrap();
        assert_eq!(rustix::fs::fremovexattr(file, "trusted.note"), Err(Errno::NODATA));
        assert_eq!(get(), Err(Errno::NODATA));
    };
    let open = |path: &Path| {
        let flags = OFlags::NONBLOCK.bits().cast_signed();
        OpenOptions::new().read(true).custom_flags(flags).open(path).unwrap()
    };

    let directory = mount.path("removed");
    fs::create_dir(&directory).unwrap();
    let removed = open(&directory);
    fs::remove_dir(&directory).unwrap();
    change_everything(&removed);
    removed.sync_all().unwrap();

    for name in ["replaced", "other"] {
        fs::create_dir(mount.path(name)).unwrap();
    }
    let replaced = open(&mount.path("replaced"));
    fs::rename(mount.path("other"), mount.path("replaced")).unwrap();
    change_everything(&replaced);

    let fifo = mount.path("fifo");
    rustix::fs::mkfifoat(rustix::fs::CWD, &fifo, rustix::fs::Mode::RUSR).unwrap();
    let pipe = open(&fifo);
    fs::remove_file(&fifo).unwrap();
    change_everything(&pipe);

    let path = mount.path("a.wav");
    fs::write(&path, b"audio").unwrap();
    release(&mount, &path);
    let mut reader = open(&path);
    fs::remove_file(&path).unwrap();
    change_everything(&reader);
    let mut text = String::new();
    reader.read_to_string(&mut text).unwrap();
    assert_eq!(text, "audio");
}

#[test]
fn regression_a_recall_meets_chmod_and_setxattr() {
    if support::no_mount("regression_a_recall_meets_chmod_and_setxattr") {
        return;
    }
    let mount = Setup::default().mount();
    let path = mount.path("a.wav");
    fs::write(&path, b"audio").unwrap();
    for round in 0..10 {
        release(&mount, &path);
        let stop = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let changes = scope.spawn(|| {
                let mut last = (0, "");
                // At least one: the recall may be over before this begins.
                for mode in (0o600..0o700).cycle() {
                    let (set, removed) =
                        if mode % 2 == 0 { ("user.a", "user.b") } else { ("user.b", "user.a") };
                    fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
                    rustix::fs::setxattr(&path, set, b"x", XattrFlags::empty()).unwrap();
                    let _not_there_at_first = rustix::fs::removexattr(&path, removed);
                    last = (mode, set);
                    if stop.load(Ordering::Relaxed) {
                        break;
                    }
                }
                last
            });
            let recalled = mount.cli(["recall".as_ref(), path.as_os_str()]);
            stop.store(true, Ordering::Relaxed);
            let (mode, set) = changes.join().unwrap();
            assert!(recalled.status.success(), "round {round}: {recalled:?}");
            assert_eq!(xattr(&path, "user.spoolfs.source").as_deref(), Some("local"));
            assert_eq!(look(&path).mode & 0o7777, mode, "round {round}");
            let has = |name| xattr(&path, name).is_some();
            assert_eq!((has("user.a"), has("user.b")), (set == "user.a", set == "user.b"));
        });
    }
}

/// Before each write the kernel asks for `security.capability`, unless it was told not to: forty
/// times the time of a write that is passed through. A daemon that stands still shows it.
#[test]
fn regression_a_write_that_is_passed_through_needs_no_daemon() {
    const TEST: &str = "regression_a_write_that_is_passed_through_needs_no_daemon";
    if support::no_mount(TEST) {
        return;
    }
    let mount = Setup::default().mount();
    if mount.status()["mode"] != "passthrough" {
        eprintln!("SKIPPED {TEST}: files are not passed through here");
        return;
    }
    let mut file = File::create(mount.path("a.wav")).unwrap();
    // The first one may ask whatever it likes.
    file.write_all(b"RIFF").unwrap();
    let (done, wait) = std::sync::mpsc::channel();
    rustix::process::kill_process(mount.pid(), rustix::process::Signal::STOP).unwrap();
    let writer = std::thread::spawn(move || {
        for _ in 0..1_000 {
            file.write_all(&[7; 320]).unwrap();
        }
        done.send(()).unwrap();
        file
    });
    let written = wait.recv_timeout(support::look::PATIENCE);
    rustix::process::kill_process(mount.pid(), rustix::process::Signal::CONT).unwrap();
    assert_eq!(written, Ok(()), "1,000 writes with the daemon standing still");
    drop(writer.join().unwrap());
    assert_eq!(fs::metadata(mount.path("a.wav")).unwrap().len(), 320_004);
}

#[test]
fn writing_cutting_and_giving_away_take_setuid_away() {
    if support::no_mount("writing_cutting_and_giving_away_take_setuid_away") {
        return;
    }
    let mount = Setup::default().mount();
    let plain = mount.root.join("plain");
    fs::create_dir(&plain).unwrap();
    for dir in [&mount.root, &mount.mountpoint, &plain] {
        fs::set_permissions(dir, fs::Permissions::from_mode(0o777)).unwrap();
    }
    let changes = [
        "echo x >> f",
        "echo x > f",
        "truncate -s 1 f",
        "echo x 1<> f",
        "dd if=/dev/zero of=f bs=1 count=1 seek=2 conv=notrunc",
        "fallocate -l 5000 f",
        "chgrp 1234 f",
        "perl -e 'chown(-1, -1, \"f\") or die'",
    ];
    let after = |dir: &Path, mode: u32, who: &str, change: &str| {
        let path = dir.join("f");
        let _not_there_at_first = fs::remove_file(&path);
        fs::write(&path, b"audio").unwrap();
        std::os::unix::fs::chown(&path, Some(1234), Some(1234)).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        let status = std::process::Command::new("setpriv")
            .args(["--reuid", who, "--regid", who, "--clear-groups", "sh", "-c", change])
            .current_dir(dir)
            .stderr(std::process::Stdio::null())
            .status()
            .unwrap();
        assert!(status.success(), "{who}: {change}");
        fs::metadata(&path).unwrap().mode() & 0o7777
    };
    for who in ["0", "1234"] {
        for mode in [0o6777, 0o6767, 0o4755, 0o2755, 0o2745, 0o755] {
            for change in changes {
                let (ours, theirs) =
                    (after(&mount.mountpoint, mode, who, change), after(&plain, mode, who, change));
                // Setgid of a file that its group may not execute means nothing any more (it was
                // the mark of mandatory locks): it may go where it might have stayed.
                let meaningless = if mode & 0o010 == 0 && who != "0" { 0o2000 } else { 0 };
                assert_eq!(
                    format!("{:o}", ours & !meaningless),
                    format!("{:o}", theirs & !meaningless),
                    "user {who}, {mode:o}: {change}"
                );
            }
        }
    }
    let path = mount.path("released.wav");
    fs::write(&path, b"audio").unwrap();
    for (mode, left) in [(0o6777, 0o777), (0o6767, 0o2767)] {
        release(&mount, &path);
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        std::os::unix::fs::chown(&path, Some(33), Some(44)).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o7777, left);
        command(&mount, "recall", &path);
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o7777, left);
    }
}

#[test]
fn root_s_reserve_is_root_s() {
    if support::no_mount("root_s_reserve_is_root_s") {
        return;
    }
    for mode in ["auto", "never"] {
        let top = format!("passthrough = \"{mode}\"\n");
        let mut mount = Setup { top, ..Setup::default() }.prepare();
        let over = mount.mountpoint.clone();
        let Some(_disk) = Ext4::new(&mount.root.join("image"), &over, 64, &["-m", "25"]) else {
            return;
        };
        for dir in [&mount.root, &over] {
            fs::set_permissions(dir, fs::Permissions::from_mode(0o777)).unwrap();
        }
        mount.start();
        let fill = |who: &str, name: &str| {
            let of = format!("of={name}");
            let out = std::process::Command::new("setpriv")
                .args(["--reuid", who, "--regid", who, "--clear-groups"])
                .args(["dd", "if=/dev/zero", "bs=64k", &of])
                .current_dir(&over)
                .output()
                .unwrap();
            let said = String::from_utf8_lossy(&out.stderr).into_owned();
            assert!(said.contains("No space left"), "{mode}, user {who}: {said}");
            let stat = rustix::fs::statvfs(&over).unwrap();
            stat.f_bfree * 100 / stat.f_blocks
        };
        let left = fill("1234", "theirs");
        assert!(left >= 20, "{mode}: {left} % are free, 25 % are root's");
        let left = fill("0", "ours");
        assert!(left < 5, "{mode}: root may have all, but {left} % are free");
    }
}

/// Python asks it of every file that it opens.
#[test]
fn regression_who_asks_for_a_terminal_leaves_no_word_in_the_log() {
    if support::no_mount("regression_who_asks_for_a_terminal_leaves_no_word_in_the_log") {
        return;
    }
    let mount = Setup::default().mount();
    let path = mount.path("call.wav");
    fs::write(&path, "call").unwrap();
    let file = File::open(&path).unwrap();
    assert!(!file.is_terminal());
    assert!(!mount.said().contains("ioctl"), "{}", mount.said());
}

/// They were told to be recordings in progress.
#[test]
fn regression_directories_are_told_as_directories() {
    if support::no_mount("regression_directories_are_told_as_directories") {
        return;
    }
    let mount = Setup::default().mount();
    fs::create_dir(mount.path("day")).unwrap();
    for (what, path) in [("status", "day"), ("explain", "day"), ("url", "day"), ("status", "")] {
        let ran = mount.cli([what.as_ref(), mount.path(path).as_os_str()]);
        assert_eq!(ran.status.code(), Some(1), "{what}: {}", ran.out);
        assert!(ran.err.contains("it is a directory"), "{what}: {}", ran.err);
    }
}
