//! `spoolfs keeper`: with a daemon of the test's own that speaks the protocol by hand, and with the
//! real one on a real mount.
#![allow(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

mod support;

use rustix::net::{
    AddressFamily, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketAddrUnix, SocketType,
};
use rustix::process::{Pid, Signal, kill_process};
use std::io::{IoSlice, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};
use support::hitch::Hitches;
use support::mount::{Setup, is_mounted};
use support::no_mount;

const DEADLINE: Duration = support::look::PATIENCE;
const LOOK: Duration = Duration::from_millis(5);

#[track_caller]
fn wait_for<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let until = Instant::now() + DEADLINE;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < until, "{what} did not happen within {DEADLINE:?}");
        std::thread::sleep(LOOK);
    }
}

/// A keeper whose daemon is a shell script that can be replaced while it runs.
struct Kept {
    dir: tempfile::TempDir,
    keeper: Child,
    /// Stands for the keeper's own service manager.
    manager: UnixDatagram,
}

impl Kept {
    fn start(script: &str, options: &[&str]) -> Kept {
        Kept::start_in(tempfile::tempdir().unwrap(), script, options, &[])
    }

    fn start_in(dir: tempfile::TempDir, script: &str, options: &[&str], words: &[&str]) -> Kept {
        let manager = UnixDatagram::bind(dir.path().join("manager")).unwrap();
        manager.set_read_timeout(Some(DEADLINE)).unwrap();
        write_script(dir.path(), script);
        let log = std::fs::File::create(dir.path().join("keeper.log")).unwrap();
        let keeper = Command::new(env!("CARGO_BIN_EXE_spoolfs"))
            .arg("keeper")
            .args(options)
            .arg("--socket-dir")
            .arg(dir.path())
            .args(["--", "sh"])
            .arg(dir.path().join("daemon.sh"))
            .args(words)
            .env("KEEPER_TEST", dir.path())
            .env("KEEPER_TEST_SERVICE", std::env::current_exe().unwrap())
            .env("NOTIFY_SOCKET", dir.path().join("manager"))
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        Kept { dir, keeper, manager }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn replace(&self, script: &str) {
        write_script(self.dir.path(), script);
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.keeper), signal).unwrap();
    }

    /// The lines that the services wrote, once there are that many.
    #[track_caller]
    fn lives(&self, count: usize) -> Vec<Life> {
        wait_for(&format!("life number {count}\n{}", self.said()), || {
            let text = std::fs::read_to_string(self.path("lives")).unwrap_or_default();
            let lives: Vec<_> =
                text.split_inclusive('\n').filter(|l| l.ends_with('\n')).map(Life::read).collect();
            (lives.len() >= count).then_some(lives)
        })
    }

    #[track_caller]
    fn ended(&mut self) -> ExitStatus {
        wait_for("the end of the keeper", || self.keeper.try_wait().unwrap())
    }

    fn said(&self) -> String {
        std::fs::read_to_string(self.path("keeper.log")).unwrap_or_default()
    }

    #[track_caller]
    fn says(&self, words: &str) {
        wait_for(words, || self.said().contains(words).then_some(()));
    }

    #[track_caller]
    fn manager_hears(&self) -> String {
        let mut text = [0; 512];
        let bytes = self.manager.recv(&mut text).unwrap();
        String::from_utf8_lossy(&text[..bytes]).into_owned()
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- the keeper said:\n{}", self.said());
        }
        if self.keeper.try_wait().ok().flatten().is_none() {
            // Its daemon is a child of the keeper's; both are this test's own.
            for life in std::fs::read_to_string(self.path("lives")).unwrap_or_default().lines() {
                let life = Life::read(life);
                if parent_of(life.pid) == Some(self.keeper.id()) {
                    let _ = kill_process(Pid::from_raw(life.pid).unwrap(), Signal::KILL);
                }
            }
            let _ = self.keeper.kill();
            let _ = self.keeper.wait();
        }
    }
}

fn write_script(dir: &Path, script: &str) {
    let new = dir.join("daemon.new");
    std::fs::write(&new, script).unwrap();
    std::fs::rename(new, dir.join("daemon.sh")).unwrap();
}

fn parent_of(pid: i32) -> Option<u32> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(')')?.1.split_whitespace().nth(1)?.parse().ok()
}

/// What a service wrote about itself: its process, the names it was handed, what it read of them.
#[derive(Debug)]
struct Life {
    pid: i32,
    names: String,
    found: String,
}

impl Life {
    fn read(line: &str) -> Life {
        let mut words = line.trim_end().split(' ');
        Life {
            pid: words.next().unwrap().parse().unwrap(),
            names: words.next().unwrap_or_default().to_owned(),
            found: words.next().unwrap_or_default().to_owned(),
        }
    }

    fn kill(&self, signal: Signal) {
        kill_process(Pid::from_raw(self.pid).unwrap(), signal).unwrap();
    }
}

/// The script of a service that stores a file, says it is ready and waits for its end.
const SERVICE: &str = "exec \"$KEEPER_TEST_SERVICE\" --exact service --ignored --nocapture";

/// The daemon of these tests, run by the keeper. It speaks the protocol without the program's code.
#[test]
#[ignore = "run by the keeper of the other tests"]
fn service() {
    let dir = PathBuf::from(std::env::var_os("KEEPER_TEST").unwrap());
    let own = std::process::id().to_string();
    let handed = std::env::var("LISTEN_PID").ok() == Some(own.clone());
    let mut names = "-".to_owned();
    let mut found = String::new();
    if handed {
        names = std::env::var("LISTEN_FDNAMES").unwrap();
        let count: usize = std::env::var("LISTEN_FDS").unwrap().parse().unwrap();
        assert_eq!(names.split(':').count(), count);
        // The first is the file, at whatever place it stands there.
        std::fs::File::open("/proc/self/fd/3").unwrap().read_to_string(&mut found).unwrap();
        // Nothing but the standard streams and what was handed over is open.
        let beyond = 3 + i32::try_from(count).unwrap();
        assert!(std::fs::metadata(format!("/proc/self/fd/{beyond}")).is_err());
    } else {
        // Without a name in any directory: only the descriptor leads to it.
        let mut file = tempfile::tempfile_in(&dir).unwrap();
        file.write_all(format!("made-by-{own}").as_bytes()).unwrap();
        found = format!("made-by-{own}");
        say("FDSTORE=1\nFDNAME=file", Some(file.as_fd()));
    }
    let pipe = dir.join("pipe").exists().then(|| rustix::pipe::pipe().unwrap());
    if let Some((end, _)) = &pipe {
        say("FDSTORE=1\nFDNAME=dead", Some(end.as_fd()));
        say("FDSTORE=1\nFDNAME=unpolled\nFDPOLL=0", Some(end.as_fd()));
    }
    if dir.join("remove").exists() {
        say("FDSTOREREMOVE=1\nFDNAME=file", None);
    }
    let (end, theirs) = std::io::pipe().unwrap();
    say("BARRIER=1", Some(theirs.as_fd()));
    drop(theirs);
    let mut end = end;
    assert_eq!(end.read(&mut [0]).unwrap(), 0, "the keeper has read everything");
    // Only from here on is it dead.
    drop(pipe);
    say("READY=1\nSTATUS=serving", None);
    let mut lives =
        std::fs::File::options().create(true).append(true).open(dir.join("lives")).unwrap();
    lives.write_all(format!("{own} {names} {found}\n").as_bytes()).unwrap();
    loop {
        std::thread::park();
    }
}

fn say(text: &str, descriptor: Option<BorrowedFd<'_>>) {
    let socket = rustix::net::socket(AddressFamily::UNIX, SocketType::DGRAM, None).unwrap();
    let address = SocketAddrUnix::new(std::env::var_os("NOTIFY_SOCKET").unwrap()).unwrap();
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let descriptor = descriptor.as_slice();
    if !descriptor.is_empty() {
        assert!(control.push(SendAncillaryMessage::ScmRights(descriptor)));
    }
    let text = [IoSlice::new(text.as_bytes())];
    rustix::net::sendmsg_addr(&socket, &address, &text, &mut control, SendFlags::empty()).unwrap();
}

#[test]
fn the_keeper_hands_what_is_kept_from_one_daemon_to_the_next() {
    let mut kept = Kept::start(SERVICE, &["--restart-delay", "10ms"]);
    let first = kept.lives(1).remove(0);
    assert_eq!(first.names, "-");
    for count in 2..12 {
        kept.lives(count - 1)[count - 2].kill(Signal::KILL);
        let life = kept.lives(count).remove(count - 1);
        assert_eq!((life.names.as_str(), &life.found), ("file", &first.found));
    }
    kept.signal(Signal::TERM);
    assert_eq!(kept.ended().code(), Some(128 + 15), "as its daemon, which TERM killed");
    let left = std::fs::read_dir(kept.dir.path()).unwrap();
    let left = left.filter(|e| {
        e.as_ref().unwrap().file_name().to_string_lossy().starts_with("spoolfs-keeper")
    });
    assert_eq!(left.count(), 0, "its socket is gone");
}

#[test]
fn the_keeper_drops_dead_descriptors_and_those_it_is_told_to() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("pipe"), "").unwrap();
    let kept = Kept::start_in(dir, SERVICE, &["--restart-delay", "10ms"], &[]);
    kept.lives(1)[0].kill(Signal::KILL);
    // Both are copies of one pipe: it is kept once, under the first name, and found dead.
    assert_eq!(kept.lives(2)[1].names, "file");
    kept.says("a kept descriptor is dead");
    std::fs::write(kept.path("remove"), "").unwrap();
    kept.lives(2)[1].kill(Signal::KILL);
    assert_eq!(kept.lives(3)[2].names, "file");
    kept.lives(3)[2].kill(Signal::KILL);
    assert_eq!(kept.lives(4)[3].names, "-");
}

#[test]
fn the_keeper_replaces_the_daemon_on_usr1_without_a_delay() {
    let kept = Kept::start(SERVICE, &["--restart-delay", "1h"]);
    let first = kept.lives(1).remove(0);
    kept.replace(&format!("echo upgraded\n{SERVICE}"));
    kept.signal(Signal::USR1);
    let second = kept.lives(2).remove(1);
    assert_eq!(second.found, first.found);
    assert!(kept.said().contains("upgraded"), "the new program runs");
}

#[test]
fn the_keeper_passes_signals_and_states_on() {
    let script = "trap 'echo reloading' HUP; trap 'echo stopping; exit 7' TERM; \"$KEEPER_TEST_SERVICE\" \
                  --exact service --ignored --nocapture & child=$!; \
                  while :; do wait; sleep 0.01; done";
    let mut kept = Kept::start(script, &[]);
    // Also the datagrams of a child of the daemon count.
    let service = kept.lives(1).remove(0);
    assert_eq!(kept.manager_hears(), "READY=1\nSTATUS=serving");
    kept.signal(Signal::HUP);
    // The shell's own service is killed by this test, so that nothing is left behind.
    kept.says("reloading");
    service.kill(Signal::KILL);
    kept.signal(Signal::TERM);
    assert_eq!(kept.ended().code(), Some(7));
    assert!(kept.said().contains("stopping"));
}

/// A keeper of the real daemon.
struct Mounted {
    mount: support::mount::Mount,
    kept: Kept,
}

impl Mounted {
    fn start(options: &[&str]) -> Mounted {
        let mount = Setup::default().prepare();
        let script = Mounted::script(&mount.config);
        // The script needs no words; the keeper finds in them what it is about.
        let words = ["mount", "--config", mount.config.to_str().unwrap()];
        let kept = Kept::start_in(tempfile::tempdir().unwrap(), &script, options, &words);
        let mounted = Mounted { mount, kept };
        mounted.is_served();
        // It answers before it has told the keeper, who would wait for that all the time of a start.
        while !mounted.kept.manager_hears().contains("READY=1") {}
        mounted
    }

    fn script(config: &Path) -> String {
        let spoolfs = env!("CARGO_BIN_EXE_spoolfs");
        format!("echo $$ >\"$KEEPER_TEST/pid\"; exec {spoolfs} mount --config {}", config.display())
    }

    #[track_caller]
    fn is_served(&self) {
        wait_for("a status", || self.mount.cli(["status"]).status.success().then_some(()));
        assert!(is_mounted(&self.mount.mountpoint));
    }

    fn kill(&self) {
        let pid = std::fs::read_to_string(self.kept.path("pid")).unwrap();
        kill_process(Pid::from_raw(pid.trim().parse().unwrap()).unwrap(), Signal::KILL).unwrap();
    }

    /// Writes into the directory, which has to work again within five seconds.
    #[track_caller]
    fn records(&self, name: &str) {
        let (hitches, began) = (Hitches::of_syncing_beside(&self.mount.root), Instant::now());
        let (path, (told, tell)) = (self.mount.path(name), std::sync::mpsc::channel());
        std::thread::spawn(move || {
            // A call that fails is tried again; one that hangs counts with its whole time.
            while std::fs::write(&path, "call").is_err() {
                std::thread::sleep(LOOK);
            }
            let _ = told.send(());
        });
        tell.recv_timeout(DEADLINE).expect("calls can be recorded");
        let (took, hitches) = (began.elapsed(), hitches.allowance());
        assert!(took < Duration::from_secs(5) + hitches, "calls had to wait {took:?}, {hitches:?}");
    }

    /// The mount is gone, the call is in the plain directory; with the old program it is adopted.
    #[track_caller]
    fn bypassed_until_mended(mut self) {
        wait_for("the bypass", || (!is_mounted(&self.mount.mountpoint)).then_some(()));
        self.records("bypassed.wav");
        self.kept.says("RECORDINGS ARE NOT ARCHIVED");
        assert!(self.mount.cli(["status"]).err.contains("RECORDINGS ARE NOT ARCHIVED"));
        self.kept.replace(&Mounted::script(&self.mount.config));
        self.is_served();
        assert_eq!(std::fs::read(self.mount.path("bypassed.wav")).unwrap(), b"call");
        self.kept.signal(Signal::TERM);
        assert_eq!(self.kept.ended().code(), Some(0));
        assert!(!is_mounted(&self.mount.mountpoint));
        assert_eq!(std::fs::read(self.mount.path("bypassed.wav")).unwrap(), b"call");
    }
}

#[test]
fn a_daemon_that_ends_at_once_is_bypassed() {
    if no_mount("a_daemon_that_ends_at_once_is_bypassed") {
        return;
    }
    let mounted = Mounted::start(&["--retry", "500ms"]);
    mounted.kept.replace("exit 3");
    mounted.kill();
    mounted.records("call.wav");
    mounted.bypassed_until_mended();
}

#[test]
fn a_daemon_that_hangs_at_its_start_is_bypassed() {
    if no_mount("a_daemon_that_hangs_at_its_start_is_bypassed") {
        return;
    }
    let mounted = Mounted::start(&["--start-timeout", "2s", "--retry", "2s"]);
    mounted.kept.replace("exec sleep 1000");
    mounted.kill();
    mounted.records("call.wav");
    mounted.bypassed_until_mended();
}

#[test]
fn a_daemon_that_answers_no_more_is_replaced() {
    if no_mount("a_daemon_that_answers_no_more_is_replaced") {
        return;
    }
    let mut mounted = Mounted::start(&["--watchdog", "1s"]);
    let pid = std::fs::read_to_string(mounted.kept.path("pid")).unwrap();
    kill_process(Pid::from_raw(pid.trim().parse().unwrap()).unwrap(), Signal::STOP).unwrap();
    mounted.records("call.wav");
    mounted.is_served();
    mounted.kept.signal(Signal::TERM);
    assert_eq!(mounted.kept.ended().code(), Some(0));
    assert_eq!(std::fs::read(mounted.mount.path("call.wav")).unwrap(), b"call");
}

#[test]
fn a_stop_leaves_nothing_mounted_even_if_the_daemon_is_killed_at_it() {
    if no_mount("a_stop_leaves_nothing_mounted_even_if_the_daemon_is_killed_at_it") {
        return;
    }
    let mut mounted = Mounted::start(&["--stop-timeout", "1ms"]);
    // A daemon that does not even see the signal.
    let pid = std::fs::read_to_string(mounted.kept.path("pid")).unwrap();
    let pid = Pid::from_raw(pid.trim().parse().unwrap()).unwrap();
    kill_process(pid, Signal::STOP).unwrap();
    mounted.kept.signal(Signal::TERM);
    assert_eq!(mounted.kept.ended().code(), Some(128 + 9));
    assert!(!is_mounted(&mounted.mount.mountpoint));
}
