//! One death after the other, while a request of the first is not answered yet.

use super::edges::{state, wait_for};
use super::storm::settled;
use super::support;
use super::support::mount::{Mount, Setup};
use rustix::fs::{CWD, RenameFlags};
use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::path::Path;
use std::sync::Mutex;
use std::time::Duration;

/// What a program does, and where the first daemon dies in it.
#[derive(Clone, Copy)]
struct Case {
    point: &'static str,
    /// It is done by then: the log tells the next ones.
    done: bool,
    prepare: fn(&Path) -> io::Result<()>,
    /// What must succeed, once.
    act: fn(&Path) -> io::Result<()>,
    /// What must be there in the end.
    holds: fn(&Path) -> io::Result<bool>,
}

fn make(path: &Path, text: &[u8]) -> io::Result<()> {
    OpenOptions::new().write(true).create_new(true).open(path)?.write_all(text)
}

fn is(path: &Path, text: &[u8]) -> io::Result<bool> {
    Ok(fs::read(path)? == text)
}

fn exists(made: &io::Result<()>) -> bool {
    made.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::AlreadyExists)
}

const MKDIR: Case = Case {
    point: "make.after_make",
    done: true,
    prepare: |_| Ok(()),
    act: |root| fs::create_dir(root.join("d")),
    holds: |root| {
        make(&root.join("d/inside"), b"x")?;
        Ok(exists(&fs::create_dir(root.join("d"))))
    },
};

/// A lock file that two want.
const CREATE: Case = Case {
    point: "create.after_make",
    done: true,
    prepare: |_| Ok(()),
    act: |root| {
        let path = root.join("lock");
        let take = || make(&path, b"mine");
        let (one, other) = std::thread::scope(|scope| {
            let other = scope.spawn(take);
            (take(), other.join().unwrap())
        });
        match (&one, &other) {
            (Ok(()), refused) | (refused, Ok(())) if exists(refused) => Ok(()),
            _ => Err(io::Error::other(format!("{one:?} and {other:?}"))),
        }
    },
    holds: |root| is(&root.join("lock"), b"mine"),
};

/// Another is waiting for the name to be free.
const UNLINK: Case = Case {
    point: "unlink.after_removal",
    done: true,
    prepare: |root| make(&root.join("name"), b"mine"),
    act: |root| {
        let path = root.join("name");
        std::thread::scope(|scope| {
            let another = scope.spawn(|| {
                loop {
                    match make(&path, b"theirs") {
                        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {
                            std::thread::sleep(Duration::from_millis(1));
                        }
                        made => return made,
                    }
                }
            });
            let removed = fs::remove_file(&path);
            another.join().unwrap().and(removed)
        })
    },
    holds: |root| is(&root.join("name"), b"theirs"),
};

const RENAME: Case = Case {
    point: "rename.after_move",
    done: true,
    prepare: |root| make(&root.join("a"), b"mine").and_then(|()| make(&root.join("b"), b"old")),
    act: |root| {
        fs::rename(root.join("a"), root.join("b"))?;
        make(&root.join("a"), b"theirs")
    },
    holds: |root| Ok(is(&root.join("a"), b"theirs")? && is(&root.join("b"), b"mine")?),
};

const EXCHANGE: Case = Case {
    point: "exchange.after_move",
    done: true,
    prepare: |root| make(&root.join("a"), b"a").and_then(|()| make(&root.join("b"), b"b")),
    act: |root| {
        let (a, b) = (root.join("a"), root.join("b"));
        Ok(rustix::fs::renameat_with(CWD, a, CWD, b, RenameFlags::EXCHANGE)?)
    },
    holds: |root| Ok(is(&root.join("a"), b"b")? && is(&root.join("b"), b"a")?),
};

const RMDIR: Case = Case {
    point: "rmdir.after_removal",
    done: true,
    prepare: |root| fs::create_dir(root.join("d")),
    act: |root| {
        fs::remove_dir(root.join("d"))?;
        fs::create_dir(root.join("d"))
    },
    holds: |root| make(&root.join("d/inside"), b"x").map(|()| true),
};

const CASES: &[Case] = &[
    Case { point: "make.after_intent", done: false, ..MKDIR },
    MKDIR,
    Case { point: "create.after_intent", done: false, ..CREATE },
    CREATE,
    Case { point: "create.after_identity", ..CREATE },
    Case { point: "create.after_record", ..CREATE },
    Case { point: "handover.after_handle", ..CREATE },
    Case { point: "unlink.after_intent", done: false, ..UNLINK },
    UNLINK,
    Case { point: "unlink.after_done", ..UNLINK },
    Case { point: "rename.after_intent", done: false, ..RENAME },
    RENAME,
    Case { point: "rename.after_done", ..RENAME },
    EXCHANGE,
    RMDIR,
];

fn name_of_mark(mount: &Mount, number: usize) -> std::path::PathBuf {
    match number {
        1 => mount.root.join("died"),
        n => mount.root.join(format!("died.{n}")),
    }
}

fn is_done_once(resend: bool, case: &Case) {
    let options: &[&str] = &["--restart-delay", "1ms", "--failures", "1000"];
    let top = if resend { "" } else { "passthrough = \"never\"\nresend = \"never\"\n" };
    let mut mount =
        Setup { keeper: Some(options), top: top.to_owned(), ..Setup::default() }.prepare();
    let mut deaths = vec![case.point, "handover.before_resume", "handover.after_resume"];
    deaths.extend(resend.then_some("handover.after_resend"));
    deaths.extend(case.done.then_some("handover.before_answer"));
    if !resend {
        deaths.extend(["relay.before_answer", "relay.after_answer"]);
    }
    mount.env = vec![
        ("SPOOLFS_CRASH_AT", deaths.join(",")),
        ("SPOOLFS_CRASH_MARK", name_of_mark(&mount, 1).display().to_string()),
    ];
    mount.start();
    let root = mount.mountpoint.clone();
    let what = format!("{}, resend {resend}", case.point);
    (case.prepare)(&root).unwrap();
    (case.act)(&root).unwrap_or_else(|e| panic!("{what}: {e}\n{}", mount.said()));
    let last = name_of_mark(&mount, deaths.len());
    wait_for(&mount, &format!("{what}: not every death came"), || last.exists().then_some(()));
    let holds = (case.holds)(&root);
    assert!(holds.as_ref().is_ok_and(|holds| *holds), "{what}: {holds:?}\n{}", mount.said());
    // Whatever was opened is closed.
    for entry in fs::read_dir(&root).unwrap().map(Result::unwrap) {
        let path = entry.path();
        let open = || !path.is_dir() && state(&path) != "closed";
        wait_for(&mount, &format!("{what}: {} is open", path.display()), || {
            (!open()).then_some(())
        });
    }
    settled(&mut mount);
}

/// Several at a time; most of the time each waits for a daemon to start.
fn each_is_done_once(resend: bool) {
    let next = Mutex::new(CASES.iter());
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                loop {
                    let case = next.lock().unwrap().next();
                    let Some(case) = case else { return };
                    is_done_once(resend, case);
                }
            });
        }
    });
}

#[test]
fn what_several_daemons_died_over_is_done_once() {
    if !support::no_mount("what_several_daemons_died_over_is_done_once") {
        each_is_done_once(true);
    }
}

#[test]
fn what_several_daemons_died_over_is_done_once_without_resend() {
    if !support::no_mount("what_several_daemons_died_over_is_done_once_without_resend") {
        each_is_done_once(false);
    }
}
