//! What is compared, and how each is brought up and taken down.

use crate::support::mount::{Mount, Setup, Target, is_mounted};
use crate::support::seaweedfs::SeaweedFs;
use clap::ValueEnum;
use rustix::process::{Pid, Signal, kill_process};
use std::cell::RefCell;
use std::ffi::OsString;
use std::fs::File;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const READY_DEADLINE: Duration = Duration::from_secs(20);
const STOP_DEADLINE: Duration = Duration::from_secs(10);
const LOOK: Duration = Duration::from_millis(20);

/// Longest wait until a daemon has done all that it can.
const QUIET_DEADLINE: Duration = Duration::from_secs(300);
const QUIET_LOOK: Duration = Duration::from_millis(500);
/// A daemon that uses less than this part of a core has nothing to do.
const QUIET_CPU: f64 = 0.1;

/// Ticks a second in `/proc/<pid>/stat`: 100 on every Linux that spoolfs runs on (`proc(5)`).
const USER_HZ: u64 = 100;

/// What is compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub enum System {
    /// A directory of the same file system as all the others use below.
    Raw,
    /// spoolfs where the kernel writes and reads local files by itself.
    Passthrough,
    /// spoolfs where the daemon does.
    Plain,
    /// `rclone mount --vfs-cache-mode writes`.
    Rclone,
    /// s3fs with its local cache.
    S3fs,
}

impl System {
    pub const ALL: [System; 5] =
        [System::Raw, System::Passthrough, System::Plain, System::Rclone, System::S3fs];

    pub fn is_spoolfs(self) -> bool {
        matches!(self, System::Passthrough | System::Plain)
    }
}

impl std::fmt::Display for System {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(match self {
            System::Raw => "raw directory",
            System::Passthrough => "spoolfs passthrough",
            System::Plain => "spoolfs plain",
            System::Rclone => "rclone mount",
            System::S3fs => "s3fs",
        })
    }
}

/// A target that spoolfs is given.
pub enum Far {
    /// The S3 server, or a directory if there is none.
    Answers,
    /// A directory.
    Directory,
    /// It takes connections and never says a word.
    Silent(String),
}

/// Which spoolfs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Build {
    This,
    /// The one that `SPOOLFS_TEST_BEFORE` names, to compare with.
    Before,
}

impl Build {
    /// Where it is; none if there is none, or it is this one.
    pub fn program(self) -> Option<PathBuf> {
        match self {
            Build::This => None,
            Build::Before => std::env::var_os("SPOOLFS_TEST_BEFORE").map(PathBuf::from),
        }
    }

    /// A mount of it.
    pub fn of(self, mut mount: Mount) -> Mount {
        if let Some(program) = self.program() {
            mount.program = program;
        }
        mount
    }
}

impl std::fmt::Display for Build {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Build::This => "",
            Build::Before => ", before",
        })
    }
}

/// What the systems stand on.
pub struct Ground<'s> {
    server: Option<&'s SeaweedFs>,
    /// The bucket of the systems that know nothing but one, and whether its names were made.
    bucket: RefCell<Option<String>>,
    /// Files of the rounds that are over. ext4 passes over each inode number that was freed in the
    /// last minutes, so removing them in between would be measured as the next one's `create`.
    attic: RefCell<Vec<tempfile::TempDir>>,
}

impl<'s> Ground<'s> {
    pub fn new(server: Option<&'s SeaweedFs>) -> Ground<'s> {
        Ground { server, bucket: RefCell::default(), attic: RefCell::default() }
    }

    /// Whether a system can be measured here; the reason if not.
    pub fn possible(&self, system: System) -> Result<(), String> {
        match system {
            System::Raw | System::Plain => Ok(()),
            System::Passthrough => {
                let mounted = spoolfs(System::Passthrough, self.target(&Far::Answers), "").mount();
                match mounted.status()["mode"].as_str() {
                    Some("passthrough") => Ok(()),
                    mode => Err(format!("spoolfs runs in mode {}", mode.unwrap_or("unknown"))),
                }
            }
            System::Rclone => self.program(system).map(drop),
            System::S3fs => self.program(system).map(drop),
        }
    }

    fn program(&self, system: System) -> Result<OsString, String> {
        let variable = match system {
            System::Rclone => "SPOOLFS_TEST_RCLONE",
            _ => "SPOOLFS_TEST_S3FS",
        };
        if self.server.is_none() {
            return Err("there is no S3 server".into());
        }
        std::env::var_os(variable)
            .filter(|program| Path::new(program).exists())
            .ok_or_else(|| format!("{variable} names no program; scripts/bench installs it"))
    }

    fn target(&self, far: &Far) -> Target {
        let Some(server) = self.server else { return Target::Directory };
        let (endpoint, bucket) = match far {
            Far::Answers => (server.endpoint(), server.new_bucket()),
            Far::Directory => return Target::Directory,
            Far::Silent(endpoint) => (endpoint.clone(), "nothing".into()),
        };
        Target::S3 {
            url: format!("s3://{bucket}/recordings"),
            endpoint,
            id: SeaweedFs::ACCESS_KEY.into(),
            secret: SeaweedFs::SECRET_KEY.into(),
        }
    }

    /// A spoolfs that is not mounted yet, with the defaults of an installation.
    pub fn spoolfs(&self, system: System, far: &Far, archive_after: &str) -> Mount {
        spoolfs(system, self.target(far), archive_after).prepare()
    }

    /// The same with its own `sync_after`.
    pub fn syncing(&self, system: System, far: &Far, sync_after: &str) -> Mount {
        let setup = spoolfs(system, self.target(far), "365d");
        Setup { sync_after: sync_after.into(), ..setup }.prepare()
    }

    /// One whose readers wait so long for a target, and as often as they like.
    pub fn listened_to(&self, system: System, read_timeout: Duration) -> Mount {
        let setup = spoolfs(system, self.target(&Far::Answers), "365d");
        let seconds = read_timeout.as_secs();
        let end = format!("[read]\nread_timeout = \"{seconds}s\"\nrecordings_per_minute = 0\n");
        Setup { end, ..setup }.prepare()
    }

    /// Stops the S3 server in the middle of what it does.
    pub fn stall(&self) -> Result<Stalled, String> {
        let server = self.server.ok_or("there is no S3 server")?;
        let pid = i32::try_from(server.pid()).ok().and_then(Pid::from_raw).ok_or("no process")?;
        kill_process(pid, Signal::STOP).map_err(|e| e.to_string())?;
        Ok(Stalled(pid))
    }

    /// Brings a system up on an empty directory.
    pub fn start(&self, system: System) -> Result<Running, String> {
        match system {
            System::Raw => {
                let scratch = scratch()?;
                Ok(Running { dir: scratch.path().join("raw"), keep: Keep::Raw(scratch) }.made()?)
            }
            System::Passthrough | System::Plain => {
                let mut mount = self.spoolfs(system, &Far::Answers, "");
                mount.start();
                Ok(Running { dir: mount.path("calls"), keep: Keep::Spoolfs(Box::new(mount)) }
                    .made()?)
            }
            System::Rclone | System::S3fs => {
                let server = self.server.ok_or("there is no S3 server")?;
                let foreign = self.foreign(system, server, &server.new_bucket())?;
                let dir = foreign.mountpoint.join("calls");
                Ok(Running { dir, keep: Keep::Foreign(foreign) }.made()?)
            }
        }
    }

    /// Takes a system down; its files stay until the end of the benchmark.
    pub fn put_away(&self, running: Running) {
        let scratch = match running.keep {
            Keep::Raw(scratch) => Some(scratch),
            Keep::Spoolfs(mut mount) => mount.take_scratch(),
            Keep::Foreign(mut foreign) => foreign.scratch.take(),
        };
        self.attic.borrow_mut().extend(scratch);
    }

    /// Brings a system up that shows what `bucket` holds.
    pub fn foreign(
        &self,
        system: System,
        server: &SeaweedFs,
        bucket: &str,
    ) -> Result<Foreign, String> {
        let scratch = scratch()?;
        let root = scratch.path().to_owned();
        let mountpoint = root.join("mount");
        let cache = root.join("cache");
        for dir in [&mountpoint, &cache] {
            std::fs::create_dir(dir).map_err(|e| format!("{}: {e}", dir.display()))?;
        }
        let mut command = Command::new(self.program(system)?);
        match system {
            System::Rclone => rclone(&mut command, server, bucket, &mountpoint, &cache),
            _ => s3fs(&mut command, server, bucket, &mountpoint, &cache)?,
        }
        let log = File::create(root.join("log")).map_err(|e| format!("log: {e}"))?;
        let errors = log.try_clone().map_err(|e| format!("log: {e}"))?;
        let child = command.stdin(Stdio::null()).stdout(log).stderr(errors).spawn();
        let child = child.map_err(|e| format!("{system}: {e}"))?;
        let pid_file = root.join("daemon.pid");
        std::fs::write(pid_file, child.id().to_string()).map_err(|e| format!("pid: {e}"))?;
        let log = root.join("log");
        let mut foreign = Foreign { child, mountpoint, scratch: Some(scratch), log };
        foreign.wait_until_mounted()?;
        Ok(foreign)
    }

    /// The server and a bucket that is made only once.
    pub fn bucket_of_names(&self) -> Option<(&'s SeaweedFs, String, bool)> {
        let server = self.server?;
        let mut bucket = self.bucket.borrow_mut();
        let is_new = bucket.is_none();
        let name = bucket.get_or_insert_with(|| server.new_bucket()).clone();
        Some((server, name, is_new))
    }
}

/// A server that goes on when this is dropped.
pub struct Stalled(Pid);

impl Drop for Stalled {
    fn drop(&mut self) {
        let _it_has_ended = kill_process(self.0, Signal::CONT);
    }
}

fn scratch() -> Result<tempfile::TempDir, String> {
    let made = tempfile::Builder::new().prefix("bench-").tempdir();
    made.map_err(|e| format!("a directory can not be made: {e}"))
}

/// A tmpfs: an installation has its runtime directory on one, and each call writes there.
fn memory() -> Option<PathBuf> {
    const TMPFS: rustix::fs::FsWord = 0x0102_1994;
    let places = ["/run", "/dev/shm"].map(PathBuf::from);
    places.into_iter().find(|place| rustix::fs::statfs(place).is_ok_and(|s| s.f_type == TMPFS))
}

fn spoolfs(system: System, target: Target, archive_after: &str) -> Setup {
    let passthrough = if system == System::Passthrough { "auto" } else { "never" };
    let archive_after = if archive_after.is_empty() { "5m" } else { archive_after };
    Setup {
        target,
        archive_after: archive_after.into(),
        keep_local: "24h".into(),
        settle: "2s".into(),
        top: format!("passthrough = \"{passthrough}\"\n"),
        memory: memory(),
        ..Setup::default()
    }
}

fn rclone(command: &mut Command, server: &SeaweedFs, bucket: &str, at: &Path, cache: &Path) {
    command
        .env("RCLONE_CONFIG", "")
        .env("RCLONE_CONFIG_BENCH_TYPE", "s3")
        .env("RCLONE_CONFIG_BENCH_PROVIDER", "SeaweedFS")
        .env("RCLONE_CONFIG_BENCH_ENDPOINT", server.endpoint())
        .env("RCLONE_CONFIG_BENCH_ACCESS_KEY_ID", SeaweedFs::ACCESS_KEY)
        .env("RCLONE_CONFIG_BENCH_SECRET_ACCESS_KEY", SeaweedFs::SECRET_KEY)
        .args(["mount", "--vfs-cache-mode", "writes", "--cache-dir"])
        .arg(cache)
        .arg(format!("bench:{bucket}"))
        .arg(at);
}

fn s3fs(
    command: &mut Command,
    server: &SeaweedFs,
    bucket: &str,
    at: &Path,
    cache: &Path,
) -> Result<(), String> {
    let keys = cache.with_file_name("keys");
    let text = format!("{}:{}\n", SeaweedFs::ACCESS_KEY, SeaweedFs::SECRET_KEY);
    std::fs::write(&keys, text)
        .and_then(|()| std::fs::set_permissions(&keys, std::fs::Permissions::from_mode(0o600)))
        .map_err(|e| format!("{}: {e}", keys.display()))?;
    let option = |name: &str, path: &Path| format!("{name}={}", path.display());
    command.arg(bucket).arg(at).arg("-f");
    for option in [
        format!("url={}", server.endpoint()),
        "use_path_request_style".into(),
        "endpoint=us-east-1".into(),
        option("passwd_file", &keys),
        option("use_cache", cache),
        option("tmpdir", cache),
    ] {
        command.arg("-o").arg(option);
    }
    Ok(())
}

/// A system that is up; dropped, it is taken down and its files are removed.
pub struct Running {
    /// Where its recordings go.
    pub dir: PathBuf,
    keep: Keep,
}

enum Keep {
    Raw(tempfile::TempDir),
    Spoolfs(Box<Mount>),
    Foreign(Foreign),
}

impl Running {
    fn made(self) -> Result<Running, String> {
        std::fs::create_dir(&self.dir).map_err(|e| format!("{}: {e}", self.dir.display()))?;
        Ok(self)
    }

    /// CPU time its daemon has used so far; none if it has none.
    pub fn cpu(&self) -> Option<Duration> {
        match &self.keep {
            Keep::Raw(_) => None,
            Keep::Spoolfs(mount) => cpu_of(daemon_of(mount)),
            Keep::Foreign(foreign) => cpu_of(foreign.child.id()),
        }
    }
}

/// CPU time a process has used so far, of all its threads (`proc_pid_stat(5)`, 14 and 15).
pub fn cpu_of(pid: u32) -> Option<Duration> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let after_name = stat.rsplit_once(')')?.1;
    let mut fields = after_name.split_whitespace().skip(11);
    let mut ticks = || fields.next()?.parse::<u64>().ok();
    let ticks = ticks()? + ticks()?;
    Some(Duration::from_millis(ticks * 1000 / USER_HZ))
}

/// The process of a spoolfs.
pub fn daemon_of(mount: &Mount) -> u32 {
    mount.pid().as_raw_nonzero().get().cast_unsigned()
}

/// Waits until a daemon has nothing to do and `done` says so, too.
pub fn wait_until_quiet(pid: u32, mut done: impl FnMut() -> bool) -> Result<(), String> {
    let until = Instant::now() + QUIET_DEADLINE;
    let mut last = cpu_of(pid).unwrap_or_default();
    let mut quiet = 0;
    while Instant::now() < until {
        std::thread::sleep(QUIET_LOOK);
        let now = cpu_of(pid).unwrap_or_default();
        let busy = now.saturating_sub(last) > QUIET_LOOK.mul_f64(QUIET_CPU);
        last = now;
        quiet = if busy || !done() { 0 } else { quiet + 1 };
        if quiet == 3 {
            return Ok(());
        }
    }
    Err(format!("the daemon was not quiet within {} s", QUIET_DEADLINE.as_secs()))
}

/// A daemon of somebody else's.
pub struct Foreign {
    child: Child,
    pub mountpoint: PathBuf,
    scratch: Option<tempfile::TempDir>,
    log: PathBuf,
}

impl Foreign {
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    fn wait_until_mounted(&mut self) -> Result<(), String> {
        let until = Instant::now() + READY_DEADLINE;
        while Instant::now() < until && matches!(self.child.try_wait(), Ok(None)) {
            if is_mounted(&self.mountpoint) {
                return Ok(());
            }
            std::thread::sleep(LOOK);
        }
        let log = std::fs::read_to_string(&self.log).unwrap_or_default();
        let tail: Vec<&str> = log.lines().rev().take(3).collect();
        Err(format!("it did not mount: {}", tail.join(" | ")))
    }
}

impl Drop for Foreign {
    fn drop(&mut self) {
        // Not reaped yet, so the id is still its own.
        let _already_gone = kill_process(Pid::from_child(&self.child), Signal::TERM);
        let until = Instant::now() + STOP_DEADLINE;
        while Instant::now() < until && matches!(self.child.try_wait(), Ok(None)) {
            std::thread::sleep(LOOK);
        }
        let _already_gone = self.child.kill();
        let _reaped = self.child.wait();
        while is_mounted(&self.mountpoint) {
            let detach = rustix::mount::UnmountFlags::DETACH;
            if rustix::mount::unmount(&self.mountpoint, detach).is_err() {
                break;
            }
        }
    }
}
