//! A held recording is attacked by every system call and every command that could change or remove it,
//! as root, in every state.

use super::{audio, cases, error, hold, lift, s3, strict, truncate};
use crate::support;
use crate::support::faulty_proxy::{Proxy, Spoil};
use crate::support::look::{closed, eventually, state, wait_for_state, xattr};
use crate::support::mount::{Mount, Target};
use crate::support::seaweedfs::SeaweedFs;
use rustix::fs::{AtFlags, CWD, FallocateFlags, Mode, OFlags, RenameFlags, XattrFlags};
use rustix::io::Errno;
use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// What somebody can try to do to `path`; `spare` is another file in the same directory.
type Attack = fn(&Path, &Path) -> std::io::Result<()>;

fn open(path: &Path, flags: OFlags) -> std::io::Result<()> {
    Ok(rustix::fs::open(path, flags, Mode::RUSR).map(drop)?)
}

/// Takes the name away, in whatever way: refused with EPERM from the first moment on, and on record
/// under this operation.
const NAMES: &[(&str, &str, Attack)] = &[
    ("unlink", "unlink", |p, _| fs::remove_file(p)),
    ("unlinkat", "unlink", |p, _| {
        let dir = File::open(p.parent().unwrap())?;
        Ok(rustix::fs::unlinkat(&dir, p.file_name().unwrap(), AtFlags::empty())?)
    }),
    ("rename over it", "rename", |p, spare| fs::rename(spare, p)),
    ("renameat2 over it", "rename", |p, spare| {
        Ok(rustix::fs::renameat_with(CWD, spare, CWD, p, RenameFlags::empty())?)
    }),
];

/// Changes its bytes, by its name.
const BYTES: &[(&str, &str, Attack)] = &[
    ("open for writing", "open", |p, _| open(p, OFlags::WRONLY)),
    ("open for appending", "open", |p, _| open(p, OFlags::WRONLY | OFlags::APPEND)),
    ("open for both", "open", |p, _| open(p, OFlags::RDWR)),
    ("open for direct writing", "open", |p, _| open(p, OFlags::WRONLY | OFlags::DIRECT)),
    ("open or make", "open", |p, _| open(p, OFlags::WRONLY | OFlags::CREATE)),
    ("open and cut", "open", |p, _| open(p, OFlags::WRONLY | OFlags::TRUNC)),
    ("creat", "open", |p, _| File::create(p).map(drop)),
    ("open for reading, and cut", "open", |p, _| open(p, OFlags::RDONLY | OFlags::TRUNC)),
    ("open what is open for reading anew", "open", |p, _| {
        let file = File::open(p)?;
        open(Path::new(&format!("/proc/self/fd/{}", file.as_raw_fd())), OFlags::RDWR)
    }),
    ("overwrite it with a copy", "open", |p, spare| fs::copy(spare, p).map(drop)),
    ("open by a second name", "open", |p, spare| {
        let link = spare.with_extension("link");
        std::os::unix::fs::symlink(p, &link)?;
        let opened = open(&link, OFlags::WRONLY);
        fs::remove_file(&link).and(opened)
    }),
    ("truncate to nothing", "truncate", |p, _| Ok(truncate(p, 0)?)),
    ("truncate by a byte", "truncate", |p, _| Ok(truncate(p, 99_999)?)),
    ("truncate to more", "truncate", |p, _| Ok(truncate(p, 1 << 20)?)),
];

/// What the kernel refuses by itself, or nobody can do at all.
const IMPOSSIBLE: &[(&str, Errno, Attack)] = &[
    ("make it anew", Errno::EXIST, |p, _| open(p, OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL)),
    ("rename over it, if it is not there", Errno::EXIST, |p, spare| {
        Ok(rustix::fs::renameat_with(CWD, spare, CWD, p, RenameFlags::NOREPLACE)?)
    }),
    ("link over it", Errno::EXIST, |p, spare| fs::hard_link(spare, p)),
    ("symlink over it", Errno::EXIST, |p, spare| std::os::unix::fs::symlink(spare, p)),
    ("mkdir over it", Errno::EXIST, |p, _| fs::create_dir(p)),
    ("mknod over it", Errno::EXIST, |p, _| {
        Ok(rustix::fs::mknodat(CWD, p, rustix::fs::FileType::Fifo, Mode::RUSR, 0)?)
    }),
    ("rmdir of it", Errno::NOTDIR, |p, _| fs::remove_dir(p)),
    ("rmdir of its directory", Errno::NOTEMPTY, |p, _| fs::remove_dir(p.parent().unwrap())),
    ("rename of a directory over its directory", Errno::NOTEMPTY, |p, spare| {
        let other = spare.with_extension("dir");
        fs::create_dir(&other)?;
        let renamed = fs::rename(&other, p.parent().unwrap());
        fs::remove_dir(&other).and(renamed)
    }),
    ("write to what is open for reading", Errno::BADF, |p, _| File::open(p)?.write_all_at(b"x", 0)),
    ("ftruncate of what is open for reading", Errno::INVAL, |p, _| File::open(p)?.set_len(0)),
    ("fallocate of what is open for reading", Errno::BADF, |p, _| {
        let mode = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        Ok(rustix::fs::fallocate(File::open(p)?, mode, 0, 10)?)
    }),
    ("copy_file_range to what is open for reading", Errno::BADF, |p, spare| {
        let (from, to) = (File::open(spare)?, File::open(p)?);
        Ok(rustix::fs::copy_file_range(&from, None, &to, None, 10).map(drop)?)
    }),
    ("clone into what is open for reading", Errno::BADF, |p, spare| {
        Ok(rustix::fs::ioctl_ficlone(File::open(p)?, File::open(spare)?)?)
    }),
    ("set what spoolfs says of it", Errno::OPNOTSUPP, |p, _| {
        Ok(rustix::fs::setxattr(p, "user.spoolfs.hold", b"", XattrFlags::empty())?)
    }),
];

/// What is allowed, and changes no content.
const HARMLESS: &[(&str, Attack)] = &[
    ("read", |p, _| fs::read(p).map(drop)),
    ("chmod", |p, _| fs::set_permissions(p, fs::Permissions::from_mode(0o600))),
    ("chown", |p, _| std::os::unix::fs::chown(p, Some(77), Some(78))),
    ("utimens", |p, _| {
        let time = rustix::fs::Timespec { tv_sec: 1_600_000_000, tv_nsec: 5 };
        let times = rustix::fs::Timestamps { last_access: time, last_modification: time };
        Ok(rustix::fs::utimensat(CWD, p, &times, AtFlags::empty())?)
    }),
    ("setxattr", |p, _| Ok(rustix::fs::setxattr(p, "user.note", b"1", XattrFlags::empty())?)),
    ("removexattr", |p, _| Ok(rustix::fs::removexattr(p, "user.note")?)),
    ("rename it away and back", |p, _| {
        let away = p.with_extension("away");
        fs::rename(p, &away)?;
        fs::rename(&away, p)
    }),
    ("rename its directory away and back", |p, _| {
        let (dir, away) = (p.parent().unwrap(), p.parent().unwrap().with_extension("away"));
        fs::rename(dir, &away)?;
        fs::rename(&away, dir)
    }),
    ("exchange it twice", |p, spare| {
        let exchange = || rustix::fs::renameat_with(CWD, spare, CWD, p, RenameFlags::EXCHANGE);
        exchange()?;
        Ok(exchange()?)
    }),
];

/// Every command that could take it, its objects or its place away, or write something else there,
/// while a rule says that all is to expire. PATH is it, ELSEWHERE another file of the same name.
const COMMANDS: &[&[&str]] = &[
    &["archive", "PATH"],
    &["release", "PATH"],
    &["recall", "PATH"],
    &["pin", "PATH"],
    &["unpin", "PATH"],
    &["verify", "PATH"],
    &["recompress", "PATH"],
    &["reseal", "PATH"],
    &["import", "ELSEWHERE"],
    &["import", "--move", "ELSEWHERE"],
    &["trash", "empty", "--now", "--confirm"],
    &["trash", "restore", "--all"],
    &["hold", "lift", "--case", "another", "--reason", "x"],
    &["reload"],
    &["release", "PATH"],
    &["retention", "run", "--now", "--confirm"],
];

/// What is old is to go, here and from the trash, whatever part of all that is.
const RULES: &str = "[[policy]]\nname = \"all\"\npath = [\"**\"]\nexpire_after = \"1d\"\n\
     [delete]\ntrash_keep = \"1s\"\n[retention]\nmax_delete_per_day = \"100%\"\n";
/// Eleven days, in seconds.
const LATER: u64 = 11 * 86_400;

/// Brings a held recording into a state; content `audio(1)`. What is partial is so as long as the
/// target is away.
#[track_caller]
fn made(mount: &Mount, proxy: &Proxy, wanted: &str) -> PathBuf {
    let dir = mount.path(wanted);
    fs::create_dir(&dir).unwrap();
    let path = dir.join("call.wav");
    let run = |command: &str| drop(mount.cli([command.as_ref(), path.as_os_str()]).ok());
    let content = audio(1);
    match wanted {
        "partial" => {
            fs::write(&path, &content[..60_000]).unwrap();
            ["archive", "release"].into_iter().for_each(run);
            away(proxy, true);
            let mut call = OpenOptions::new().append(true).open(&path).unwrap();
            call.write_all(&content[60_000..]).unwrap();
            let words = ["hold", "add", "--case", "A", "--reason", super::REASON];
            let _not_archived =
                mount.cli(words.iter().map(|w| w.as_ref()).chain([path.as_os_str()]));
            return path;
        }
        _ => fs::write(&path, &content).unwrap(),
    }
    closed(&path);
    match wanted {
        "closed" => away(proxy, true),
        "archived" => run("archive"),
        _ => ["archive", "release"].into_iter().for_each(run),
    }
    let words = ["hold", "add", "--case", "A", "--reason", super::REASON];
    let _archived_or_not = mount.cli(words.iter().map(|w| w.as_ref()).chain([path.as_os_str()]));
    wait_for_state(&path, wanted);
    path
}

fn away(proxy: &Proxy, away: bool) {
    let (first, long) = if away { (1, 1_000_000) } else { (0, 0) };
    proxy.set(Spoil::Busy, first, long);
}

/// All that is refused, counted by how it is put on record.
fn attacked(mount: &Mount, path: &Path, what: &str, refused: &mut BTreeMap<&'static str, u64>) {
    let spare = mount.path(format!("{what}/spare.wav"));
    let again = || fs::write(&spare, audio(2)).unwrap();
    again();
    let before = path.metadata().unwrap();
    let same = |attack: &str| {
        let now = path.metadata().unwrap();
        assert_eq!((now.len(), now.ino()), (before.len(), before.ino()), "{what}: {attack}");
        assert_eq!(fs::read(&spare).unwrap(), audio(2), "{what}: {attack}");
    };
    for (attack, operation, run) in NAMES.iter().chain(BYTES) {
        let got = error(run(path, &spare));
        assert_eq!(got, Some(Errno::PERM), "{what}: {attack}\n{}", mount.said());
        *refused.entry(operation).or_default() += 1;
        same(attack);
    }
    for (attack, errno, run) in IMPOSSIBLE {
        let got = error(run(path, &spare));
        assert_eq!(got, Some(*errno), "{what}: {attack}\n{}", mount.said());
        same(attack);
    }
    for (attempt, run) in HARMLESS {
        if *attempt == "read" && ["released", "partial"].contains(&what) {
            // Its target is away.
            continue;
        }
        assert_eq!(error(run(path, &spare)), None, "{what}: {attempt}\n{}", mount.said());
        again();
    }
    assert_eq!(path.metadata().unwrap().uid(), 77, "{what}");
    assert_eq!(cases(path).as_deref(), Some("A"), "{what}");
}

/// The words of a command, about this recording.
fn words(command: &[&str], path: &Path, elsewhere: &Path) -> Vec<PathBuf> {
    let word = |word: &&str| match *word {
        "PATH" => path.to_owned(),
        "ELSEWHERE" => elsewhere.to_owned(),
        word => PathBuf::from(word),
    };
    command.iter().map(word).collect()
}

fn attacked_in_every_state(server: &SeaweedFs, passthrough: &str) {
    let proxy = Proxy::before(&server.endpoint());
    let mut setup = strict(s3(proxy.endpoint(), &server.new_bucket()));
    setup.top = format!("passthrough = \"{passthrough}\"\n");
    setup.end += RULES;
    let mut mount = setup.mount();
    let mut refused = BTreeMap::new();
    // What nobody holds: all that is tried does work.
    let free = mount.path("free.wav");
    fs::write(&free, audio(3)).unwrap();
    mount.cli(["archive".as_ref(), free.as_os_str()]).ok();
    // In the trash, and held because its path is.
    let again = mount.path("again.wav");
    fs::write(&again, audio(1)).unwrap();
    mount.cli(["archive".as_ref(), again.as_os_str()]).ok();
    fs::remove_file(&again).unwrap();
    fs::write(&again, audio(4)).unwrap();
    hold(&mount, "A", &again);

    let states = ["archived", "released", "partial", "closed"];
    let paths: Vec<PathBuf> = states.iter().map(|wanted| made(&mount, &proxy, wanted)).collect();
    for (path, wanted) in paths.iter().zip(states) {
        attacked(&mount, path, wanted, &mut refused);
    }
    // While it is recorded its name stays, and a call may write to it.
    let live = mount.path("live.wav");
    let mut call = File::create(&live).unwrap();
    call.write_all(&audio(1)[..50_000]).unwrap();
    let add = ["hold", "add", "--case", "A", "--reason", super::REASON];
    mount.cli(add.iter().map(|w| w.as_ref()).chain([live.as_os_str()])).ok();
    let spare = mount.path("spare.wav");
    for (attack, operation, run) in NAMES {
        fs::write(&spare, audio(2)).unwrap();
        assert_eq!(error(run(&live, &spare)), Some(Errno::PERM), "recording: {attack}");
        *refused.entry(operation).or_default() += 1;
    }
    open(&live, OFlags::WRONLY | OFlags::APPEND).unwrap();
    call.write_all(&audio(1)[50_000..]).unwrap();
    drop(call);

    away(&proxy, false);
    let mut all: Vec<PathBuf> = paths.clone();
    all.extend([live, again.clone()]);
    for path in &all {
        eventually(&mount, "it is archived", || {
            ["archived", "released"].contains(&state(path).as_str())
                && xattr(path, "user.spoolfs.generation").is_some()
        });
    }
    let whole = |mount: &Mount, after: &str| {
        for path in &all {
            let wanted = if *path == again { audio(4) } else { audio(1) };
            let read = fs::read(path).unwrap_or_else(|e| panic!("{after}: {path:?}: {e}"));
            assert!(read == wanted, "{after}: {path:?}\n{}", mount.said());
        }
    };
    mount.stop();
    mount.env = vec![("SPOOLFS_AHEAD", LATER.to_string())];
    mount.start();
    let elsewhere = tempfile::tempdir().unwrap();
    for path in &all {
        let to = elsewhere.path().join(path.strip_prefix(&mount.mountpoint).unwrap());
        fs::create_dir_all(to.parent().unwrap()).unwrap();
        fs::write(to, audio(6)).unwrap();
    }
    for command in COMMANDS {
        let about = if command.contains(&"PATH") { all.len() } else { 1 };
        for path in all.iter().take(about) {
            let _done_or_not = mount.cli(words(command, path, elsewhere.path()));
            whole(&mount, &command.join(" "));
        }
    }
    // That was no empty threat.
    assert!(!free.exists(), "{}", mount.said());
    // Off line, too.
    mount.stop();
    mount.cli(["fsck", "--repair"]);
    mount.cli(["rebuild"]);
    mount.start();
    whole(&mount, "fsck and rebuild");
    let back = mount.path("back");
    let list = mount.cli(["trash", "list", "--json"]).ok();
    let list: serde_json::Value = serde_json::from_str(&list.out).unwrap();
    let kept = &list["recordings"][0];
    assert_eq!(kept["path"], "again.wav", "{list:#}\n{}", mount.said());
    let id = kept["id"].to_string();
    mount.cli(["trash", "restore", &id, "--to", back.to_str().unwrap()]).ok();
    assert!(fs::read(back.join("again.wav")).unwrap() == audio(1));
    attacked(&mount, &back.join("again.wav"), "back", &mut refused);
    mount.stop();
    recorded(&mount, &refused);
}

/// Each refusal is on record, by itself or in a sum.
fn recorded(mount: &Mount, refused: &BTreeMap<&'static str, u64>) {
    let shown = mount.cli(["audit", "show", "--json"]).ok().out;
    let shown: serde_json::Value = serde_json::from_str(&shown).unwrap();
    let lines = shown["lines"].as_array().unwrap();
    for (operation, times) in refused {
        let of_it = lines.iter().filter(|line| {
            line["event"] == "hold_refused" && line["details"]["operation"] == *operation
        });
        let told: u64 = of_it.map(|line| line["details"]["times"].as_u64().unwrap()).sum();
        assert_eq!(told, *times, "{operation}");
    }
    mount.cli(["audit", "verify"]).ok();
}

#[test]
fn promise_8_what_is_held_can_not_be_changed_or_deleted() {
    if support::no_mount("promise_8_what_is_held_can_not_be_changed_or_deleted") {
        return;
    }
    let Some(server) = SeaweedFs::start() else { return };
    attacked_in_every_state(&server, "auto");
    attacked_in_every_state(&server, "never");
}

/// Lifted, all of it can be done.
#[test]
fn what_was_held_can_be_deleted_when_the_hold_is_lifted() {
    if support::no_mount("what_was_held_can_be_deleted_when_the_hold_is_lifted") {
        return;
    }
    let mount = strict(Target::Directory).mount();
    for (attack, _, run) in NAMES.iter().chain(BYTES) {
        let (path, spare) = (mount.path("call.wav"), mount.path("spare.wav"));
        for path in [&path, &spare] {
            fs::write(path, audio(1)).unwrap();
        }
        hold(&mount, "A", &path);
        assert_eq!(error(run(&path, &spare)), Some(Errno::PERM), "{attack}");
        lift(&mount, "A");
        assert_eq!(error(run(&path, &spare)), None, "{attack}");
    }
}
