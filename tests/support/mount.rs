//! A daemon of one's own: its directories, its configuration, its life and its death.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::mount::UnmountFlags;
use rustix::process::{Pid, Signal, kill_process};

use super::look::PATIENCE;
use super::run::{Ran, run};

const READY_DEADLINE: Duration = PATIENCE;
const STOP_DEADLINE: Duration = PATIENCE;
/// A command may archive thousands of recordings on a slow disk.
const COMMAND_DEADLINE: Duration = Duration::from_secs(400);
/// How often a deadline looks whether the daemon has died meanwhile.
const LOOK: Duration = Duration::from_millis(20);

/// Where recordings are archived to.
#[derive(Clone, Debug)]
pub enum Target {
    /// Nowhere: local only.
    None,
    /// A directory beside the mount.
    Directory,
    /// A server that speaks S3.
    S3 {
        /// `s3://bucket/prefix`.
        url: String,
        /// The server's own URL.
        endpoint: String,
        /// Access key id.
        id: String,
        /// Secret access key.
        secret: String,
    },
}

/// How a mount is set up.
#[derive(Clone, Debug)]
pub struct Setup {
    /// Where to archive to.
    pub target: Target,
    /// `write_back.archive_after`.
    pub archive_after: String,
    /// `write_back.keep_local`.
    pub keep_local: String,
    /// `write_back.settle`.
    pub settle: String,
    /// `write_back.sync_after`.
    pub sync_after: String,
    /// `space.high_water`, `space.low_water` and `space.reserve`. By default the disk of the machine
    /// that tests run on may be as full as it likes.
    pub space: (String, String, String),
    /// Further lines for `[write_back]`.
    pub write_back: String,
    /// Further lines for the top of the configuration file.
    pub top: String,
    /// Further lines for its end, tables included.
    pub end: String,
    /// The disk that the recordings, the state and the target are on; none: that of everything.
    pub disk: Option<PathBuf>,
    /// Where the runtime directory is made; none: beside everything else.
    pub memory: Option<PathBuf>,
    /// Run it under `spoolfs keeper` with these options, which starts it again when it dies.
    pub keeper: Option<&'static [&'static str]>,
}

impl Default for Setup {
    /// Nothing moves by itself; what a command asks for is done at once.
    fn default() -> Setup {
        Setup {
            target: Target::Directory,
            archive_after: "365d".into(),
            keep_local: "forever".into(),
            settle: "10ms".into(),
            sync_after: "5s".into(),
            space: ("100%".into(), "100%".into(), "0".into()),
            write_back: String::new(),
            top: String::new(),
            end: String::new(),
            disk: None,
            memory: None,
            keeper: None,
        }
    }
}

impl Setup {
    /// Makes the directories and the configuration; nothing runs yet.
    pub fn prepare(self) -> Mount {
        let scratch = tempfile::Builder::new().prefix("mount-").tempdir().expect("a directory");
        let root = scratch.path().canonicalize().expect("it is there");
        let disk = self.disk.as_ref().unwrap_or(&root);
        let memory = self.memory.as_ref().map(|memory| {
            tempfile::Builder::new().prefix("mount-").tempdir_in(memory).expect("a directory")
        });
        let mount = Mount {
            mountpoint: disk.join("monitor"),
            state: disk.join("state"),
            runtime: memory.as_ref().map_or(&*root, |memory| memory.path()).join("run"),
            target: disk.join("target"),
            config: root.join("spoolfs.toml"),
            log: root.join("daemon.log"),
            pid_file: root.join("daemon.pid"),
            notify: root.join("notify"),
            root,
            keeper: self.keeper,
            program: PathBuf::from(env!("CARGO_BIN_EXE_spoolfs")),
            env: Vec::new(),
            arguments: Vec::new(),
            daemon: None,
            scratch: Some(scratch),
            _memory: memory,
        };
        for directory in [&mount.mountpoint, &mount.state, &mount.runtime, &mount.target] {
            std::fs::create_dir(directory).expect("a directory can be made");
        }
        std::fs::write(&mount.config, self.config(&mount)).expect("a file can be written");
        mount
    }

    /// Makes everything and mounts it.
    pub fn mount(self) -> Mount {
        let mut mount = self.prepare();
        mount.start();
        mount
    }

    fn config(&self, mount: &Mount) -> String {
        let mut toml = lines(&[
            ("mountpoint", &mount.mountpoint.display()),
            ("state_dir", &mount.state.display()),
            ("runtime_dir", &mount.runtime.display()),
        ]);
        toml += &self.top;
        toml += "\n[write_back]\n";
        toml += &lines(&[
            ("archive_after", &self.archive_after),
            ("keep_local", &self.keep_local),
            ("settle", &self.settle),
            ("sync_after", &self.sync_after),
        ]);
        toml += &self.write_back;
        toml += "\n[space]\n";
        toml += &lines(&[
            ("high_water", &self.space.0),
            ("low_water", &self.space.1),
            ("reserve", &self.space.2),
        ]);
        toml += &match &self.target {
            Target::None => String::new(),
            Target::Directory => {
                let url = format!("file://{}", mount.target.display());
                "\n[[target]]\n".to_owned() + &lines(&[("name", &"archive"), ("url", &url)])
            }
            Target::S3 { url, endpoint, id, secret } => {
                "\n[[target]]\n".to_owned()
                    + &lines(&[
                        ("name", &"archive"),
                        ("url", url),
                        ("endpoint", endpoint),
                        ("region", &"us-east-1"),
                        ("access_key_id", id),
                        ("secret_access_key", secret),
                    ])
            }
        };
        toml + &self.end
    }
}

fn lines(pairs: &[(&str, &dyn std::fmt::Display)]) -> String {
    pairs.iter().map(|(key, value)| format!("{key} = \"{value}\"\n")).collect()
}

/// One set of directories with at most one daemon. Dropping it takes everything down.
#[derive(Debug)]
pub struct Mount {
    /// The directory above all the others.
    pub root: PathBuf,
    /// The mount point; while nothing is mounted, the lower directory.
    pub mountpoint: PathBuf,
    /// `state_dir`.
    pub state: PathBuf,
    /// `runtime_dir`.
    pub runtime: PathBuf,
    /// What a `file://` target holds.
    pub target: PathBuf,
    /// The configuration file.
    pub config: PathBuf,
    /// What the daemon says, over all its lives.
    pub log: PathBuf,
    pid_file: PathBuf,
    notify: PathBuf,
    keeper: Option<&'static [&'static str]>,
    /// What the daemon is started from.
    pub program: PathBuf,
    /// Further variables of its environment.
    pub env: Vec<(&'static str, String)>,
    /// Further words of its command line.
    pub arguments: Vec<OsString>,
    daemon: Option<Child>,
    scratch: Option<tempfile::TempDir>,
    _memory: Option<tempfile::TempDir>,
}

impl Mount {
    /// A path below the mount point.
    pub fn path(&self, below: impl AsRef<Path>) -> PathBuf {
        self.mountpoint.join(below)
    }

    /// Starts the daemon and waits until it says that it is ready.
    #[track_caller]
    pub fn start(&mut self) {
        assert!(self.try_start(), "the daemon ended before it was ready\n{}", self.said());
    }

    /// The same, unless it ends first.
    #[track_caller]
    pub fn try_start(&mut self) -> bool {
        let started = self.start_or_end();
        if let Err(status) = started {
            eprintln!("the daemon ended before it was ready: {status}");
            self.daemon = None;
        }
        started.is_ok()
    }

    /// The same for a daemon whose end is waited for.
    #[track_caller]
    pub fn start_or_end(&mut self) -> Result<(), ExitStatus> {
        assert!(self.daemon.is_none(), "the daemon runs already");
        let _ = std::fs::remove_file(&self.notify);
        let ready = UnixDatagram::bind(&self.notify).expect("a socket can be bound");
        ready.set_read_timeout(Some(LOOK)).expect("a timeout can be set");
        let log = File::options().create(true).append(true).open(&self.log).expect("a log");
        let mut command = Command::new(&self.program);
        if let Some(options) = self.keeper {
            command = Command::new(env!("CARGO_BIN_EXE_spoolfs"));
            command.arg("keeper").args(options).arg("--").arg(&self.program);
        }
        let child = command
            .args([OsStr::new("mount"), OsStr::new("--config"), self.config.as_os_str()])
            .args(&self.arguments)
            .env("NOTIFY_SOCKET", &self.notify)
            .envs(self.env.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a file can be shared"))
            .stderr(log)
            .spawn()
            .expect("the daemon can be started");
        std::fs::write(&self.pid_file, child.id().to_string()).expect("a file can be written");
        self.daemon = Some(child);

        let until = Instant::now() + READY_DEADLINE;
        let mut message = [0_u8; 4096];
        while Instant::now() < until {
            if let Ok(bytes) = ready.recv(&mut message)
                && message[..bytes].split(|&byte| byte == b'\n').any(|line| line == b"READY=1")
            {
                assert!(is_mounted(&self.mountpoint), "ready but not mounted\n{}", self.said());
                return Ok(());
            }
            if let Some(status) = self.exited() {
                return Err(status);
            }
        }
        panic!("the daemon was not ready within {READY_DEADLINE:?}\n{}", self.said());
    }

    /// The end of the daemon, if it has come.
    pub fn exited(&mut self) -> Option<ExitStatus> {
        self.daemon.as_mut().and_then(|child| child.try_wait().expect("a child can be waited for"))
    }

    /// After a daemon died by itself: takes the dead mount away, so that `start` finds what a crash
    /// leaves on disk.
    pub fn bury(&mut self) {
        self.forget_dead();
        unmount(&self.mountpoint);
    }

    /// Checks what a daemon that stopped left, with every byte read; nothing may be found but notes.
    #[track_caller]
    pub fn fsck(&self) {
        let ran = self.cli(["fsck", "--deep"]);
        assert!(ran.status.success(), "{}{}\n{}", ran.out, ran.err, self.said());
    }

    /// Takes note of a daemon that ended by itself, so that another can be started.
    pub fn forget_dead(&mut self) {
        assert!(self.exited().is_some(), "the daemon runs\n{}", self.said());
        self.daemon = None;
    }

    /// The daemon's process id.
    pub fn pid(&self) -> Pid {
        Pid::from_child(self.daemon.as_ref().expect("the daemon runs"))
    }

    /// Whether a daemon was started and not taken note of as ended.
    pub fn is_started(&self) -> bool {
        self.daemon.is_some()
    }

    /// The process that serves the mount now: of a keeper the daemon it started last.
    pub fn server(&self) -> Option<Pid> {
        let text = std::fs::read_to_string(self.state.join("lock")).ok()?;
        Pid::from_raw(text.trim().parse().ok()?)
    }

    /// Asks the daemon to end, and expects it to do so in good order with nothing mounted.
    #[track_caller]
    pub fn stop(&mut self) {
        kill_process(self.pid(), Signal::TERM).expect("the daemon can be signalled");
        let until = Instant::now() + STOP_DEADLINE;
        let status = loop {
            if let Some(status) = self.exited() {
                break status;
            }
            assert!(
                Instant::now() < until,
                "the daemon did not stop within {STOP_DEADLINE:?}\n{}",
                self.said()
            );
            std::thread::sleep(LOOK);
        };
        self.daemon = None;
        assert!(status.success(), "the daemon stopped with {status}\n{}", self.said());
        assert!(!is_mounted(&self.mountpoint), "still mounted after a stop\n{}", self.said());
    }

    /// Stops and starts the daemon.
    #[track_caller]
    pub fn restart(&mut self) {
        self.stop();
        self.start();
    }

    /// Kills the daemon without a word, as a power cut or the OOM killer would, and takes the dead
    /// mount away, so that `start` finds what a crash leaves on disk.
    pub fn kill9(&mut self) {
        let mut child = self.daemon.take().expect("the daemon runs");
        child.kill().expect("a child can be killed");
        child.wait().expect("a child can be waited for");
        unmount(&self.mountpoint);
    }

    /// Runs a command of the CLI with this configuration.
    #[track_caller]
    pub fn cli<I, A>(&self, arguments: I) -> Ran
    where
        I: IntoIterator<Item = A>,
        A: AsRef<OsStr>,
    {
        let mut command = Command::new(env!("CARGO_BIN_EXE_spoolfs"));
        command.args(arguments).arg("--config").arg(&self.config);
        run(&mut command, COMMAND_DEADLINE)
    }

    /// What `status --json` says.
    #[track_caller]
    pub fn status(&self) -> serde_json::Value {
        let ran = self.cli(["status", "--json"]).ok();
        serde_json::from_str(&ran.out).expect("status --json prints JSON")
    }

    /// All that the daemon has said so far.
    pub fn said_all(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(&self.log).unwrap_or_default()).into_owned()
    }

    /// The end of what the daemon has said so far.
    pub fn said(&self) -> String {
        let all = std::fs::read(&self.log).unwrap_or_default();
        let all = String::from_utf8_lossy(&all);
        let skip = all.lines().count().saturating_sub(60);
        let tail: Vec<_> = all.lines().skip(skip).collect();
        format!("--- the daemon said:\n{}\n---", tail.join("\n"))
    }

    /// The directory that everything of this mount is in, to outlive it.
    pub fn take_scratch(&mut self) -> Option<tempfile::TempDir> {
        self.scratch.take()
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        if let Some(mut child) = self.daemon.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
        unmount(&self.mountpoint);
        if std::thread::panicking() {
            eprintln!("{}", self.said());
            if std::env::var_os("SPOOLFS_TEST_KEEP").is_some()
                && let Some(scratch) = self.scratch.take()
            {
                eprintln!("kept: {}", scratch.keep().display());
            }
        }
    }
}

/// Takes away whatever is mounted on exactly this path.
fn unmount(path: &Path) {
    while is_mounted(path) {
        if rustix::mount::unmount(path, UnmountFlags::DETACH).is_err() {
            return;
        }
    }
}

/// Whether something is mounted on exactly this path.
pub fn is_mounted(path: &Path) -> bool {
    let mounts = std::fs::read_to_string("/proc/thread-self/mountinfo");
    let mounts = mounts.expect("Linux tells its mounts");
    let path = path.to_str().expect("the tests' own paths are plain");
    mounts.lines().any(|line| line.split(' ').nth(4) == Some(path))
}
