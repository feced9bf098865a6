//! Reading archived recordings, by turns on spoolfs, `rclone mount --vfs-cache-mode full`, s3fs and
//! with a plain S3 client: the same server, files that none of them has read before, over a local
//! line and slow ones. `SPOOLFS_TEST_RCLONE` and `SPOOLFS_TEST_S3FS` name the programs, and
//! `SPOOLFS_TEST_BEFORE` another build of spoolfs to compare with.
//! docs/TESTING.md, "Benchmarks".
#![allow(clippy::unwrap_used)]

#[path = "../tests/support/mod.rs"]
mod support;

use aws_sdk_s3::Client;
use clap::{Parser, ValueEnum};
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use support::many;
use support::mount::{Mount, Setup, Target, is_mounted};
use support::noise_wav;
use support::seaweedfs::SeaweedFs;
use support::slow_line::SlowLine;

const MIB: usize = 1 << 20;
const MANY: &str = "many";
/// Between two measurements: what the one before left to do is not the next one's. So long nothing
/// may have come over the line...
const PAUSE: Duration = Duration::from_millis(500);
/// ...unless somebody goes on for longer than this.
const PAUSE_MAX: Duration = Duration::from_secs(30);

#[derive(Debug, Parser)]
struct Arguments {
    /// Over which line.
    #[arg(long, value_enum, default_value = "local")]
    line: Line,
    /// Only these cases; all but `list-many`, which takes minutes to set up, if none is named.
    #[arg(long, value_enum)]
    only: Vec<Case>,
    /// How many names `list-many` lists.
    #[arg(long, default_value_t = 100_000)]
    names: usize,
    /// How often each is measured.
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// Seconds that one measurement may take. Who takes longer is started anew and left out of the
    /// case's other rounds.
    #[arg(long, default_value_t = 60)]
    patience: u64,
    /// Given by cargo.
    #[arg(long, hide = true)]
    bench: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Line {
    /// None to speak of.
    Local,
    /// 30 ms there and back.
    Far,
    /// 30 ms, and 1 Gbit/s: what the server sends is not bounded by the processors that it shares
    /// with its clients here.
    Wide,
    /// 30 ms, and 10 Mbit/s.
    Thin,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum System {
    Spoolfs,
    /// Another build.
    Before,
    Rclone,
    S3fs,
    Plain,
}

const SYSTEMS: [System; 5] =
    [System::Spoolfs, System::Before, System::Rclone, System::S3fs, System::Plain];

/// What is measured, and the length of the files that it takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
enum Case {
    First8kOf1m,
    First8kOf60m,
    CatOf1m,
    Cat,
    Loop8k,
    Soxi,
    /// Of a minute each. Of what ends with a page of memory nobody reads the end.
    SoxiOf1m,
    List,
    /// Each system is started anew for it.
    ListMany,
}

const CASES: [Case; 8] = [
    Case::First8kOf1m,
    Case::First8kOf60m,
    Case::CatOf1m,
    Case::Cat,
    Case::Loop8k,
    Case::Soxi,
    Case::SoxiOf1m,
    Case::List,
];

struct Scale {
    cat: usize,
    looped: usize,
    soxi: usize,
    names: usize,
}

impl Scale {
    fn of(line: Line) -> Scale {
        match line {
            Line::Local | Line::Far | Line::Wide => {
                Scale { cat: 60 * MIB, looped: 10 * MIB, soxi: 200, names: 2000 }
            }
            Line::Thin => Scale { cat: 6 * MIB, looped: 2 * MIB, soxi: 20, names: 2000 },
        }
    }

    fn files(&self, case: Case) -> (usize, usize) {
        match case {
            Case::First8kOf1m | Case::CatOf1m => (1, MIB),
            Case::First8kOf60m => (1, 60 * MIB),
            Case::Cat => (1, self.cat),
            Case::Loop8k => (1, self.looped),
            Case::Soxi => (self.soxi, 120_000),
            Case::SoxiOf1m => (self.soxi / 4, 60 * 16_000 + 44),
            Case::List | Case::ListMany => (self.names, 10),
        }
    }
}

struct Ground {
    line: SlowLine,
    /// Through the line.
    client: Client,
    runtime: tokio::runtime::Runtime,
    bucket: String,
    mounts: BTreeMap<System, Mount>,
    foreign: BTreeMap<System, Foreign>,
}

/// `rclone mount` or s3fs.
struct Foreign {
    child: Child,
    at: PathBuf,
    _scratch: tempfile::TempDir,
}

impl Drop for Foreign {
    fn drop(&mut self) {
        let flags = rustix::mount::UnmountFlags::DETACH;
        let _gone = rustix::mount::unmount(&self.at, flags);
        let _gone = self.child.kill();
        let _reaped = self.child.wait();
    }
}

fn main() {
    let arguments = Arguments::parse();
    let Some(server) = SeaweedFs::start() else { return };
    let mut scale = Scale::of(arguments.line);
    let cases = if arguments.only.is_empty() { CASES.to_vec() } else { arguments.only.clone() };
    let mut ground = Ground::new(&server);
    if cases.contains(&Case::ListMany) {
        scale.names = arguments.names;
        ground.fill_many(&server, scale.names);
    }
    ground.fill(&server, &scale, &cases, arguments.rounds);
    ground.start_foreign();
    match arguments.line {
        Line::Local => {}
        Line::Far => ground.line.set(Duration::from_millis(30), 0),
        Line::Wide => ground.line.set(Duration::from_millis(30), 1_000_000_000 / 8),
        Line::Thin => ground.line.set(Duration::from_millis(30), 10_000_000 / 8),
    }
    let mut took: BTreeMap<(Case, System), Vec<Cost>> = BTreeMap::new();
    let patience = Duration::from_secs(arguments.patience);
    for round in 0..arguments.rounds {
        for case in &cases {
            let case = *case;
            for turn in 0..SYSTEMS.len() {
                let system = SYSTEMS[(turn + round) % SYSTEMS.len()];
                let costs = took.entry((case, system)).or_default();
                if costs.iter().any(|cost| cost.time.is_none()) {
                    continue;
                }
                if case == Case::ListMany {
                    ground.restart(system);
                }
                if !ground.line.until_idle(PAUSE, PAUSE_MAX) {
                    println!("{case:?} of {system:?}: somebody still reads over the line");
                }
                let before = worked();
                let Some(time) = ground.measure(system, case, &scale, (round, patience)) else {
                    continue;
                };
                costs.push(Cost { time, work: worked().saturating_sub(before) });
                if time.is_none() {
                    println!("{case:?} of {system:?}: not done in {patience:?}");
                    ground.begin_anew(system);
                }
            }
        }
    }
    report(arguments.line, &cases, &took);
}

/// What one measurement took.
#[derive(Clone, Copy)]
struct Cost {
    /// None: too long.
    time: Option<Duration>,
    /// Of all processors, whoever they worked for.
    work: Duration,
}

/// What the processors of this machine have worked since it started (proc_stat(5)): the server's
/// and the line's share as well.
fn worked() -> Duration {
    let stat = fs::read_to_string("/proc/stat").unwrap_or_default();
    let ticks = stat.lines().next().unwrap_or_default().split_whitespace().skip(1);
    let ticks: Vec<u64> = ticks.filter_map(|n| n.parse().ok()).collect();
    // All but idle and waiting for a disk, in hundredths of a second.
    let busy = [0, 1, 2, 5, 6].iter().filter_map(|at| ticks.get(*at)).sum::<u64>();
    Duration::from_millis(busy * 10)
}

fn report(line: Line, cases: &[Case], took: &BTreeMap<(Case, System), Vec<Cost>>) {
    println!("line {line:?}; medians in ms, how many times spoolfs, and ms that processors worked");
    for case in cases.iter().copied() {
        let median = |system, of: fn(&Cost) -> Option<Duration>| {
            let mut all = took.get(&(case, system))?.iter().map(of).collect::<Option<Vec<_>>>()?;
            all.sort_unstable();
            Some(all.get(all.len() / 2)?.as_secs_f64() * 1000.0)
        };
        let time = |system| median(system, |cost| cost.time);
        let own = time(System::Spoolfs).unwrap_or(f64::NAN);
        let is_over = |system| took.get(&(case, system)).is_some_and(|costs| !costs.is_empty());
        let cells: Vec<String> = SYSTEMS
            .iter()
            .map(|system| match time(*system).zip(median(*system, |cost| Some(cost.work))) {
                Some((ms, work)) => format!("{system:?} {ms:.1} ({:.2}; {work:.0})", ms / own),
                None if is_over(*system) => format!("{system:?} too long"),
                None => format!("{system:?} -"),
            })
            .collect();
        println!("{:14} {}", format!("{case:?}"), cells.join("  "));
    }
}

fn dir(case: Case, round: usize) -> String {
    if case == Case::ListMany {
        return MANY.to_owned();
    }
    format!("{case:?}-{round}")
}

impl Ground {
    fn new(server: &SeaweedFs) -> Ground {
        let line = SlowLine::to(&server.endpoint());
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
        let mount = |program: Option<PathBuf>| {
            let target = Target::S3 {
                url: format!("s3://{}/pbx", server.new_bucket()),
                endpoint: line.endpoint(),
                id: SeaweedFs::ACCESS_KEY.into(),
                secret: SeaweedFs::SECRET_KEY.into(),
            };
            let end = "[read]\nrecordings_per_minute = 0\n".into();
            let mut mount = Setup { target, end, ..Setup::default() }.prepare();
            mount.program = program.unwrap_or(mount.program.clone());
            mount.start();
            mount
        };
        let mut mounts = BTreeMap::from([(System::Spoolfs, mount(None))]);
        if let Some(before) = std::env::var_os("SPOOLFS_TEST_BEFORE") {
            mounts.insert(System::Before, mount(Some(before.into())));
        }
        let client = SeaweedFs::client_at(line.endpoint());
        let (bucket, foreign) = (server.new_bucket(), BTreeMap::new());
        Ground { line, client, runtime: runtime.unwrap(), bucket, mounts, foreign }
    }

    /// The same files in the mount, archived and released, and in a bucket of the others.
    fn fill(&mut self, server: &SeaweedFs, scale: &Scale, cases: &[Case], rounds: usize) {
        let direct = server.client();
        for round in 0..rounds {
            let cases = cases.iter().copied().filter(|case| *case != Case::ListMany);
            for (at, case) in cases.enumerate() {
                let (count, len) = scale.files(case);
                let below = self.mounts.values().map(|mount| mount.path(dir(case, round)));
                let below: Vec<_> = below.inspect(|below| fs::create_dir(below).unwrap()).collect();
                for n in 0..count {
                    let bytes = noise_wav((round * 1000 + at * 10_000 + n) as u64, len);
                    for below in &below {
                        fs::write(below.join(format!("{n}.wav")), &bytes).unwrap();
                    }
                    let key = format!("{}/{n}.wav", dir(case, round));
                    let put = direct.put_object().bucket(&self.bucket).key(key);
                    self.runtime.block_on(put.body(bytes.into()).send()).unwrap();
                }
            }
        }
        for (mount, step) in self.mounts.values().flat_map(|m| [(m, "archive"), (m, "release")]) {
            let ran = mount.cli([step.as_ref(), mount.mountpoint.as_os_str()]);
            assert!(ran.status.success(), "{ran:?}\n{}", mount.said());
        }
    }

    /// A directory of very many archived recordings, and of as many objects for the others.
    fn fill_many(&mut self, server: &SeaweedFs, names: usize) {
        for mount in self.mounts.values_mut() {
            let below = mount.path(MANY);
            fs::create_dir(&below).unwrap();
            let template = below.join(format!("call-{}.wav", many::TEMPLATE));
            fs::write(&template, noise_wav(1, 1000)).unwrap();
            for step in ["archive", "release"] {
                let ran = mount.cli([step.as_ref(), template.as_os_str()]);
                assert!(ran.status.success(), "{ran:?}\n{}", mount.said());
            }
            let ino = fs::metadata(&below).unwrap().ino();
            mount.stop();
            let more = names as u64 - 1;
            many::fill(&mount.state.join("catalog.db"), &[ino], more, more);
            mount.start();
        }
        let direct = server.client();
        self.runtime.block_on(async {
            let mut running = tokio::task::JoinSet::new();
            for n in 0..names {
                if running.len() >= 32 {
                    running.join_next().await.unwrap().unwrap();
                }
                let key = format!("{MANY}/call-{n:08}.wav");
                let put = direct.put_object().bucket(&self.bucket).key(key);
                running.spawn(async move { drop(put.send().await.unwrap()) });
            }
            running.join_all().await;
        });
    }

    /// As after a boot: nothing is remembered by the kernel or the program.
    fn restart(&mut self, system: System) {
        match system {
            System::Spoolfs | System::Before => {
                if let Some(mount) = self.mounts.get_mut(&system) {
                    mount.restart();
                }
            }
            System::Rclone | System::S3fs => {
                if self.foreign.remove(&system).is_some() {
                    self.start_one(system);
                }
            }
            System::Plain => {}
        }
    }

    /// After a measurement that was given up: whoever still reads gets an error.
    fn begin_anew(&mut self, system: System) {
        if let Some(mount) = self.mounts.get_mut(&system) {
            mount.kill9();
            mount.start();
        } else {
            self.restart(system);
        }
    }

    fn start_foreign(&mut self) {
        self.start_one(System::Rclone);
        self.start_one(System::S3fs);
    }

    fn start_one(&mut self, system: System) {
        let variable =
            if system == System::Rclone { "SPOOLFS_TEST_RCLONE" } else { "SPOOLFS_TEST_S3FS" };
        match std::env::var_os(variable) {
            Some(program) => {
                let foreign = self.foreign(system, Path::new(&program));
                self.foreign.extend(foreign.map(|foreign| (system, foreign)));
            }
            None => println!("SKIPPED {system:?}: {variable} names no program"),
        }
    }

    fn foreign(&self, system: System, program: &Path) -> Option<Foreign> {
        let scratch = tempfile::tempdir().unwrap();
        let [at, cache] = ["mount", "cache"].map(|name| scratch.path().join(name));
        fs::create_dir(&at).unwrap();
        fs::create_dir(&cache).unwrap();
        let mut command = Command::new(program);
        if system == System::Rclone {
            command
                .env("RCLONE_CONFIG", "")
                // It refuses to start with one.
                .env_remove("AWS_CA_BUNDLE")
                .env("RCLONE_CONFIG_BENCH_TYPE", "s3")
                .env("RCLONE_CONFIG_BENCH_PROVIDER", "Other")
                .env("RCLONE_CONFIG_BENCH_ENDPOINT", self.line.endpoint())
                .env("RCLONE_CONFIG_BENCH_ACCESS_KEY_ID", SeaweedFs::ACCESS_KEY)
                .env("RCLONE_CONFIG_BENCH_SECRET_ACCESS_KEY", SeaweedFs::SECRET_KEY)
                .args(["mount", "--vfs-cache-mode", "full", "--cache-dir"])
                .arg(&cache)
                .arg(format!("bench:{}", self.bucket))
                .arg(&at);
        } else {
            let keys = scratch.path().join("keys");
            fs::write(&keys, format!("{}:{}\n", SeaweedFs::ACCESS_KEY, SeaweedFs::SECRET_KEY))
                .unwrap();
            fs::set_permissions(&keys, fs::Permissions::from_mode(0o600)).unwrap();
            command.arg(&self.bucket).arg(&at).arg("-f");
            for option in [
                format!("url={}", self.line.endpoint()),
                "use_path_request_style".into(),
                "endpoint=us-east-1".into(),
                format!("passwd_file={}", keys.display()),
                format!("use_cache={}", cache.display()),
            ] {
                command.arg("-o").arg(option);
            }
        }
        let log = scratch.path().join("log");
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(File::create(&log).unwrap());
        let mut child = command.spawn().unwrap();
        let until = Instant::now() + Duration::from_secs(20);
        while !is_mounted(&at) {
            if Instant::now() > until || !matches!(child.try_wait(), Ok(None)) {
                let said = fs::read_to_string(&log).unwrap_or_default();
                println!("SKIPPED {system:?}: it did not mount: {said}");
                let _gone = child.kill();
                let _reaped = child.wait();
                return None;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Some(Foreign { child, at, _scratch: scratch })
    }

    /// None if there is no such system here; what it took, if it was not too long.
    fn measure(
        &self,
        system: System,
        case: Case,
        scale: &Scale,
        (round, patience): (usize, Duration),
    ) -> Option<Option<Duration>> {
        let name = dir(case, round);
        let (count, len) = scale.files(case);
        if system == System::Plain {
            let plain =
                async { tokio::time::timeout(patience, self.plain(case, &name, count)).await };
            return Some(self.runtime.block_on(plain).ok());
        }
        let root = match system {
            System::Spoolfs | System::Before => self.mounts.get(&system)?.mountpoint.clone(),
            other => self.foreign.get(&other)?.at.clone(),
        };
        let below = root.join(name);
        let (tell, told) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            let begin = Instant::now();
            let done = perform(case, &below, count, len);
            let _given_up = tell.send(done.map(|()| begin.elapsed()));
        });
        let done = told.recv_timeout(patience).ok();
        Some(done.map(|done| done.unwrap_or_else(|error| panic!("{system:?}, {case:?}: {error}"))))
    }

    /// The same bytes in one request each; a listing in as many as it takes.
    async fn plain(&self, case: Case, dir: &str, count: usize) -> Duration {
        let get = async |n: usize, range: Option<&str>| {
            let key = format!("{dir}/{n}.wav");
            let get = self.client.get_object().bucket(&self.bucket).key(key);
            let get = get.set_range(range.map(str::to_owned));
            drop(get.send().await.unwrap().body.collect().await.unwrap());
        };
        // A connection that is there already, as a mount has.
        if !matches!(case, Case::List | Case::ListMany) {
            get(0, Some("bytes=0-0")).await;
        }
        let begin = Instant::now();
        match case {
            Case::First8kOf1m | Case::First8kOf60m => get(0, Some("bytes=0-8191")).await,
            Case::Cat | Case::CatOf1m | Case::Loop8k => get(0, None).await,
            Case::Soxi | Case::SoxiOf1m => {
                for n in 0..count {
                    get(n, Some("bytes=0-8191")).await;
                }
            }
            Case::List | Case::ListMany => {
                let list = self.client.list_objects_v2().bucket(&self.bucket);
                let mut pages =
                    list.prefix(format!("{dir}/")).into_paginator().page_size(1000).send();
                while pages.next().await.is_some() {}
            }
        }
        begin.elapsed()
    }
}

/// What users do in a mount, with the `count` files of `len` bytes in a directory.
fn perform(case: Case, below: &Path, count: usize, len: usize) -> io::Result<()> {
    let one = below.join("0.wav");
    let succeeded = |command: &mut Command| {
        let status = command.stdout(Stdio::null()).status()?;
        status.success().then_some(()).ok_or_else(|| io::Error::other(format!("{status}")))
    };
    match case {
        Case::First8kOf1m | Case::First8kOf60m => read_at(&one, 0),
        Case::Cat | Case::CatOf1m => succeeded(Command::new("cat").arg(&one)),
        Case::Loop8k => (0..len).step_by(8192).try_for_each(|at| read_at(&one, at as u64)),
        Case::Soxi | Case::SoxiOf1m => {
            let files = (0..count).map(|n| below.join(format!("{n}.wav")));
            succeeded(Command::new("soxi").arg("-D").args(files))
        }
        Case::List | Case::ListMany => {
            let out = Command::new("ls").arg("-l").arg(below).output()?;
            let lines = out.stdout.iter().filter(|b| **b == b'\n').count();
            (lines == count + 1).then_some(()).ok_or_else(|| io::Error::other("not all names"))
        }
    }
}

fn read_at(path: &Path, at: u64) -> io::Result<()> {
    File::open(path)?.read_exact_at(&mut [0; 8192], at)
}
