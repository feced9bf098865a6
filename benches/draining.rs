//! How fast a backlog goes to a target, by turns through spoolfs and with a plain S3 client that
//! sends the same files with as many requests at once, each followed by a HEAD.
//! docs/TESTING.md, "Benchmarks".
#![allow(clippy::unwrap_used)]

#[path = "../tests/support/mod.rs"]
mod support;

use aws_sdk_s3::Client;
use clap::Parser;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};
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
    /// Given by cargo.
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() {
    let arguments = Arguments::parse();
    let Some(server) = SeaweedFs::start() else { return };
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

fn mount(server: &SeaweedFs, uploads: usize) -> Mount {
    let target = Target::S3 {
        url: format!("s3://{}/pbx", server.new_bucket()),
        endpoint: server.endpoint(),
        id: SeaweedFs::ACCESS_KEY.into(),
        secret: SeaweedFs::SECRET_KEY.into(),
    };
    let write_back = format!("uploads = {uploads}\n");
    Setup { target, write_back, ..Setup::default() }.mount()
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
