//! How fast a backlog goes to a target, by turns through spoolfs and with a plain S3 client that
//! sends the same files with as many requests at once, each followed by a HEAD. With `--outage N` the
//! backlog of an outage: how much memory it takes, and what a cron that deletes can not take from it.
//! docs/TESTING.md, "Benchmarks".
#![allow(clippy::unwrap_used)]

#[path = "../tests/support/mod.rs"]
mod support;

use aws_sdk_s3::Client;
use clap::Parser;
use rustix::process::{Pid, Signal};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};
use support::mount::{Mount, Setup, Target};
use support::seaweedfs::SeaweedFs;
use tokio::sync::Semaphore;

#[derive(Debug, Parser)]
struct Arguments {
    /// Recordings in each round.
    #[arg(long, default_value_t = 500)]
    recordings: usize,
    /// Bytes of each.
    #[arg(long, default_value_t = 160_000)]
    bytes: usize,
    /// Requests at once, of both.
    #[arg(long, default_values_t = [4, 16])]
    uploads: Vec<usize>,
    /// How often each is measured.
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// So many recordings wait for a server that hangs, a fifth of them deleted; nothing else is measured.
    #[arg(long)]
    outage: Option<usize>,
    /// Given by cargo.
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() {
    let arguments = Arguments::parse();
    let Some(server) = SeaweedFs::start() else { return };
    if let Some(recordings) = arguments.outage {
        return outage(&server, recordings, arguments.bytes);
    }
    for uploads in &arguments.uploads {
        let (mut own, mut plain) = (Vec::new(), Vec::new());
        let mount = mount(&server, *uploads);
        for round in 0..arguments.rounds {
            let dir = fill(&mount, &arguments, round);
            if round % 2 == 0 {
                plain.push(by_hand(&server, &dir, *uploads));
                own.push(by_spoolfs(&mount, &dir));
            } else {
                own.push(by_spoolfs(&mount, &dir));
                plain.push(by_hand(&server, &dir, *uploads));
            }
        }
        let rate = |all: &mut Vec<Duration>| {
            all.sort_unstable();
            arguments.recordings as f64 / all[all.len() / 2].as_secs_f64()
        };
        let (own, plain) = (rate(&mut own), rate(&mut plain));
        println!(
            "{uploads} at once: spoolfs {own:.0} recordings/s, plain client {plain:.0}/s, ratio {:.2}",
            own / plain
        );
    }
}

/// Recordings of days in which the server says nothing. Those of three days ago are deleted by a cron
/// before they are archived, all are looked for in the bucket in the end.
fn outage(server: &SeaweedFs, recordings: usize, bytes: usize) {
    const UPLOADS: usize = 4;
    const DIRECTORY: usize = 1_000;
    let (mount, bucket) = mount_with(server, UPLOADS, "1s");
    let signal = |signal| rustix::process::kill_process(pid(server), signal).unwrap();
    signal(Signal::STOP);
    let mut random = fastrand::Rng::with_seed(1);
    let mut content = vec![0; bytes];
    let paths: Vec<PathBuf> =
        (0..recordings).map(|n| mount.path(format!("{:03}/{n}.wav", n / DIRECTORY))).collect();
    let begin = Instant::now();
    for (n, path) in paths.iter().enumerate() {
        if n % DIRECTORY == 0 {
            fs::create_dir(path.parent().unwrap()).unwrap();
        }
        random.fill(&mut content);
        fs::write(path, &content).unwrap();
        if n % 5 == 0 {
            let then = SystemTime::now() - Duration::from_secs(3 * 86_400);
            fs::File::open(path).unwrap().set_modified(then).unwrap();
        }
    }
    println!("{recordings} of {bytes} B recorded in {:?}", begin.elapsed());
    let hashed = |path: &PathBuf| xattr(path, "user.spoolfs.sha256").is_some_and(|h| !h.is_empty());
    for path in &paths {
        while !hashed(path) {
            std::thread::sleep(Duration::from_millis(50));
        }
    }
    let begin = Instant::now();
    let mut find = Command::new("find");
    find.arg(mount.path("")).args(["-type", "f", "-mtime", "+1", "-delete"]);
    assert!(find.status().unwrap().success());
    println!("find -mtime +1 -delete: {:?}", begin.elapsed());
    let status = mount.status();
    println!("waiting: {}; memory at most {} MiB", status["backlog"], peak(&mount));

    signal(Signal::CONT);
    let begin = Instant::now();
    let waits = || mount.status()["backlog"]["files"].as_u64().unwrap();
    // A target that hung is asked again after a while.
    let mut left = waits();
    let mut first = None;
    while left > 0 {
        assert!(begin.elapsed() < Duration::from_secs(3_600), "{}", mount.said());
        std::thread::sleep(Duration::from_millis(500));
        let now = waits();
        if now < left && first.is_none() {
            first = Some((Instant::now(), now));
        }
        left = now;
    }
    let (since, count) = first.expect("it went away");
    let own = count as f64 / since.elapsed().as_secs_f64();
    println!("began after {:?}", since - begin);
    let memory = peak(&mount);
    let dir = mount.path("001");
    let sample = fs::read_dir(&dir).unwrap().count();
    let plain = sample as f64 / by_hand(server, &dir, UPLOADS).as_secs_f64();
    println!("drained at {own:.0}/s, plain client {plain:.0}/s, ratio {:.2}", own / plain);
    println!("memory at most {memory} MiB");
    let objects = count_objects(server, &bucket);
    println!("recordings in the bucket: {objects} of {recordings}");
    assert_eq!(objects, recordings, "lost");
}

fn pid(server: &SeaweedFs) -> Pid {
    Pid::from_raw(i32::try_from(server.pid()).unwrap()).unwrap()
}

/// The most memory that the daemon ever had, in MiB.
fn peak(mount: &Mount) -> u64 {
    let status = format!("/proc/{}/status", mount.pid().as_raw_nonzero());
    let status = fs::read_to_string(status).unwrap();
    let line = status.lines().find_map(|l| l.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() / 1024
}

/// Objects with the names of recordings.
fn count_objects(server: &SeaweedFs, bucket: &str) -> usize {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let client = server.client();
        let mut pages = client.list_objects_v2().bucket(bucket).into_paginator().send();
        let mut count = 0;
        while let Some(page) = pages.next().await {
            let page = page.unwrap();
            let keys = page.contents().iter().filter_map(|object| object.key());
            count += keys.filter(|key| key.ends_with(".wav")).count();
        }
        count
    })
}

fn mount(server: &SeaweedFs, uploads: usize) -> Mount {
    mount_with(server, uploads, "365d").0
}

/// Also the name of its bucket.
fn mount_with(server: &SeaweedFs, uploads: usize, archive_after: &str) -> (Mount, String) {
    let bucket = server.new_bucket();
    let target = Target::S3 {
        url: format!("s3://{bucket}/pbx"),
        endpoint: server.endpoint(),
        id: SeaweedFs::ACCESS_KEY.into(),
        secret: SeaweedFs::SECRET_KEY.into(),
    };
    let write_back = format!("uploads = {uploads}\n");
    let archive_after = archive_after.into();
    (Setup { target, write_back, archive_after, ..Setup::default() }.mount(), bucket)
}

/// Recordings that are hashed already, as those of a backlog are.
fn fill(mount: &Mount, arguments: &Arguments, round: usize) -> PathBuf {
    let dir = mount.path(format!("round-{round}"));
    fs::create_dir(&dir).unwrap();
    let mut random = fastrand::Rng::with_seed(round as u64);
    let mut bytes = vec![0; arguments.bytes];
    for n in 0..arguments.recordings {
        random.fill(&mut bytes);
        fs::write(dir.join(format!("{n}.wav")), &bytes).unwrap();
    }
    let until = Instant::now() + Duration::from_secs(300);
    let hash = |n: usize| xattr(&dir.join(format!("{n}.wav")), "user.spoolfs.sha256");
    while (0..arguments.recordings).any(|n| hash(n).is_none_or(|h| h.is_empty())) {
        assert!(Instant::now() < until, "not hashed: {}", mount.said());
        std::thread::sleep(Duration::from_millis(50));
    }
    dir
}

fn xattr(path: &Path, name: &str) -> Option<Vec<u8>> {
    let mut value = [0; 256];
    let len = rustix::fs::getxattr(path, name, &mut value[..]).ok()?;
    Some(value[..len].to_vec())
}

fn by_spoolfs(mount: &Mount, dir: &Path) -> Duration {
    let begin = Instant::now();
    let ran = mount.cli(["archive".as_ref(), dir.as_os_str()]);
    assert!(ran.status.success(), "{ran:?}\n{}", mount.said());
    begin.elapsed()
}

fn by_hand(server: &SeaweedFs, dir: &Path, uploads: usize) -> Duration {
    let (client, bucket) = (server.client(), server.new_bucket());
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let files: Vec<PathBuf> = fs::read_dir(dir).unwrap().map(|e| e.unwrap().path()).collect();
    let begin = Instant::now();
    runtime.block_on(async {
        let turns = Arc::new(Semaphore::new(uploads));
        let mut tasks = Vec::new();
        for file in files {
            let turn = Arc::clone(&turns).acquire_owned().await.unwrap();
            let (client, bucket) = (client.clone(), bucket.clone());
            tasks.push(tokio::spawn(async move {
                send(&client, &bucket, &file).await;
                drop(turn);
            }));
        }
        for task in tasks {
            task.await.unwrap();
        }
    });
    begin.elapsed()
}

async fn send(client: &Client, bucket: &str, file: &Path) {
    let key = file.file_name().unwrap().to_str().unwrap();
    let bytes = fs::read(file).unwrap();
    let put = client.put_object().bucket(bucket).key(key).body(bytes.into());
    put.send().await.unwrap();
    client.head_object().bucket(bucket).key(key).send().await.unwrap();
}
