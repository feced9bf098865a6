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
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use support::many;
use support::mount::{Mount, Setup, Target, is_mounted};
use support::seaweedfs::SeaweedFs;
use support::slow_line::SlowLine;

const MIB: usize = 1 << 20;
const MANY: &str = "many";
/// Between two measurements: what the one before left to do is not the next one's.
const PAUSE: Duration = Duration::from_millis(500);

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
    List,
    /// Each system is started anew for it.
    ListMany,
}

const CASES: [Case; 7] = [
    Case::First8kOf1m,
    Case::First8kOf60m,
    Case::CatOf1m,
    Case::Cat,
    Case::Loop8k,
    Case::Soxi,
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
    for round in 0..arguments.rounds {
        for case in &cases {
            let case = *case;
            for turn in 0..SYSTEMS.len() {
                let system = SYSTEMS[(turn + round) % SYSTEMS.len()];
                if case == Case::ListMany {
                    ground.restart(system);
                }
                std::thread::sleep(PAUSE);
                let before = worked();
                if let Some(time) = ground.measure(system, case, &scale, round) {
                    let cost = Cost { time, work: worked().saturating_sub(before) };
                    took.entry((case, system)).or_default().push(cost);
                }
            }
        }
    }
    report(arguments.line, &cases, &took);
}

/// What one measurement took.
#[derive(Clone, Copy)]
struct Cost {
    time: Duration,
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
        let median = |system, of: fn(&Cost) -> Duration| {
            let mut all: Vec<_> = took.get(&(case, system))?.iter().map(of).collect();
            all.sort_unstable();
            Some(all[all.len() / 2].as_secs_f64() * 1000.0)
        };
        let time = |system| median(system, |cost| cost.time);
        let own = time(System::Spoolfs).unwrap_or(f64::NAN);
        let cells: Vec<String> = SYSTEMS
            .iter()
            .map(|system| match time(*system).zip(median(*system, |cost| cost.work)) {
                Some((ms, work)) => format!("{system:?} {ms:.1} ({:.2}; {work:.0})", ms / own),
                None => format!("{system:?} -"),
            })
            .collect();
        println!("{:14} {}", format!("{case:?}"), cells.join("  "));
    }
}

fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    fastrand::Rng::with_seed(seed).fill(&mut bytes);
    // So that soxi takes it for a recording.
    let data = u32::try_from(len.saturating_sub(44)).unwrap();
    let mut head = b"RIFF".to_vec();
    head.extend((data + 36).to_le_bytes());
    head.extend(b"WAVEfmt ");
    for word in [16u32, 0x0001_0001, 8000, 16_000, 0x0010_0002] {
        head.extend(word.to_le_bytes());
    }
    head.extend(b"data");
    head.extend(data.to_le_bytes());
    let room = head.len().min(len);
    bytes[..room].copy_from_slice(&head[..room]);
    bytes
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
                    let bytes = noise((round * 100 + at * 10_000 + n) as u64, len);
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
            fs::write(&template, noise(1, 1000)).unwrap();
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

    fn measure(&self, system: System, case: Case, scale: &Scale, round: usize) -> Option<Duration> {
        let name = dir(case, round);
        let (count, len) = scale.files(case);
        if system == System::Plain {
            return self.plain(case, &name, count);
        }
        let root = match system {
            System::Spoolfs | System::Before => self.mounts.get(&system)?.mountpoint.clone(),
            other => self.foreign.get(&other)?.at.clone(),
        };
        let below = root.join(name);
        let one = below.join("0.wav");
        let begin = Instant::now();
        match case {
            Case::First8kOf1m | Case::First8kOf60m => read_at(&one, 0),
            Case::Cat | Case::CatOf1m => {
                assert!(
                    Command::new("cat").arg(&one).stdout(Stdio::null()).status().ok()?.success()
                )
            }
            Case::Loop8k => (0..len).step_by(8192).for_each(|at| read_at(&one, at as u64)),
            Case::Soxi => {
                let files = (0..count).map(|n| below.join(format!("{n}.wav")));
                let mut soxi = Command::new("soxi");
                assert!(soxi.arg("-D").args(files).stdout(Stdio::null()).status().ok()?.success());
            }
            Case::List | Case::ListMany => {
                let out = Command::new("ls").arg("-l").arg(&below).output().ok()?;
                assert_eq!(out.stdout.split(|b| *b == b'\n').count(), count + 2);
            }
        }
        Some(begin.elapsed())
    }

    /// The same bytes in one request each; a listing in as many as it takes.
    fn plain(&self, case: Case, dir: &str, count: usize) -> Option<Duration> {
        let get = |n: usize, range: Option<&str>| {
            let key = format!("{dir}/{n}.wav");
            let get = self.client.get_object().bucket(&self.bucket).key(key);
            let get = get.set_range(range.map(str::to_owned));
            self.runtime.block_on(async { get.send().await.unwrap().body.collect().await.unwrap() })
        };
        // A connection that is there already, as a mount has.
        if !matches!(case, Case::List | Case::ListMany) {
            get(0, Some("bytes=0-0"));
        }
        let begin = Instant::now();
        match case {
            Case::First8kOf1m | Case::First8kOf60m => drop(get(0, Some("bytes=0-8191"))),
            Case::Cat | Case::CatOf1m | Case::Loop8k => drop(get(0, None)),
            Case::Soxi => (0..count).for_each(|n| drop(get(n, Some("bytes=0-8191")))),
            Case::List | Case::ListMany => {
                let list = self.client.list_objects_v2().bucket(&self.bucket);
                let mut pages =
                    list.prefix(format!("{dir}/")).into_paginator().page_size(1000).send();
                self.runtime.block_on(async { while pages.next().await.is_some() {} });
            }
        }
        Some(begin.elapsed())
    }
}

fn read_at(path: &Path, at: u64) {
    File::open(path).unwrap().read_exact_at(&mut [0; 8192], at).unwrap();
}
