//! How soon a join of released legs is heard, by turns through spoolfs and by fetching the legs with
//! an S3 client and joining them with ffmpeg; and how much memory a long one takes.
//! docs/TESTING.md, "Benchmarks".
#![allow(clippy::unwrap_used)]

#[path = "../tests/support/mod.rs"]
mod support;

use aws_sdk_s3::Client;
use clap::Parser;
use spoolfs::codec::{Coding, wav_header};
use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::{BufWriter, Read, Write};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};
use support::mount::{Mount, Setup, Target};
use support::seaweedfs::SeaweedFs;
use tokio::runtime::Runtime;

const LEGS: usize = 3;
const HEAD: usize = 8192;

#[derive(Debug, Parser)]
struct Arguments {
    /// Calls, each measured once in both ways.
    #[arg(long, default_value_t = 20)]
    calls: usize,
    /// Bytes of each leg: three minutes.
    #[arg(long, default_value_t = 2_880_000)]
    bytes: usize,
    /// Bytes of each leg of the long join; 0: it is not measured.
    #[arg(long, default_value_t = 128 << 20)]
    long: usize,
    /// Given by cargo.
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() {
    let arguments = Arguments::parse();
    if support::no_mount("joins") {
        return;
    }
    let Some(server) = SeaweedFs::start() else { return };
    let place = tempfile::tempdir().unwrap();
    let bucket = server.new_bucket();
    let mount = prepare(&server, &bucket, place.path(), &arguments);
    if arguments.calls > 0 {
        first_bytes(&mount, &server, &bucket, &arguments);
    }
    if arguments.long > 0 {
        memory(&mount, &join(&mount, arguments.calls));
    }
}

fn id(call: usize, leg: usize) -> String {
    format!("{}.{}", 1_795_228_000 + call * 60, leg + 1)
}

fn leg(call: usize, leg: usize) -> String {
    format!("external-3001-0207946{call:04}-20261121-022709-{}.wav", id(call, leg))
}

fn join(mount: &Mount, call: usize) -> PathBuf {
    mount.path("stitched").join(format!("{}.wav", id(call, 0)))
}

/// A mount with calls of released legs; the last one, if it is wanted, is the long one.
fn prepare(server: &SeaweedFs, bucket: &str, place: &Path, arguments: &Arguments) -> Mount {
    let calls = arguments.calls + usize::from(arguments.long > 0);
    let (records, mut text) = (place.join("Master.csv"), String::new());
    for call in 0..calls {
        for leg in 0..LEGS {
            let (own, linked) = (id(call, leg), id(call, 0));
            let _ = writeln!(
                text,
                "\"\",\"0207946{call:04}\",\"3001\",\"ctx\",\"\",\"SIP/a\",\"SIP/b\",\"Dial\",\"\",\
                 \"2026-11-21 02:27:{leg:02}\",\"2026-11-21 02:27:{leg:02}\",\
                 \"2026-11-21 02:27:{leg:02}\",6,3,\"ANSWERED\",\"DOCUMENTATION\",\"{own}\",\"\",\
                 \"\",\"{linked}\",{leg}"
            );
        }
    }
    fs::write(&records, text).unwrap();
    let target = Target::S3 {
        url: format!("s3://{bucket}/pbx"),
        endpoint: server.endpoint(),
        id: SeaweedFs::ACCESS_KEY.into(),
        secret: SeaweedFs::SECRET_KEY.into(),
    };
    let end = format!("[calls]\nsource = \"csv\"\npath = {records:?}\ntime_zone = \"UTC\"\n");
    let mut mount = Setup { target, end, ..Setup::default() }.mount();
    let dir = mount.path("calls");
    fs::create_dir(&dir).unwrap();
    let mut random = fastrand::Rng::with_seed(1);
    for call in 0..calls {
        let bytes = if call < arguments.calls { arguments.bytes } else { arguments.long };
        (0..LEGS).for_each(|n| record(&dir.join(leg(call, n)), bytes, &mut random));
    }
    let until = Instant::now() + Duration::from_secs(300);
    let known = |call| xattr(&join(&mount, call), "user.spoolfs.legs").matches("duration").count();
    while (0..calls).any(|call| known(call) < LEGS) {
        assert!(Instant::now() < until, "not all joins are known\n{}", mount.said());
        std::thread::sleep(Duration::from_millis(200));
    }
    for what in ["archive", "release"] {
        let ran = Command::new(&mount.program)
            .args([what, "--config"])
            .args([mount.config.as_os_str(), dir.as_os_str()])
            .output();
        assert!(ran.unwrap().status.success(), "{}", mount.said());
    }
    // Nothing is left in memory; the cache never had them.
    mount.restart();
    let ready = || mount.said_all().matches("the target is ready").count() >= 2;
    while !ready() {
        assert!(Instant::now() < until, "{}", mount.said());
        std::thread::sleep(Duration::from_millis(20));
    }
    mount
}

fn record(path: &Path, bytes: usize, random: &mut fastrand::Rng) {
    let mut file = BufWriter::new(File::create(path).unwrap());
    file.write_all(&wav_header(Coding::Pcm16, 8000, 1, bytes as u64)).unwrap();
    let mut piece = vec![0; 64 << 10];
    let mut left = bytes;
    while left > 0 {
        random.fill(&mut piece);
        let part = &piece[..left.min(64 << 10)];
        file.write_all(part).unwrap();
        left -= part.len();
    }
    file.flush().unwrap();
}

fn xattr(path: &Path, name: &str) -> String {
    let mut value = vec![0; 65_536];
    let len = rustix::fs::getxattr(path, name, &mut value[..]).unwrap_or(0);
    value.truncate(len);
    String::from_utf8(value).unwrap()
}

fn first_bytes(mount: &Mount, server: &SeaweedFs, bucket: &str, arguments: &Arguments) {
    let (mut own, mut theirs) = (Vec::new(), Vec::new());
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let by_hand = ByHand { client: server.client(), bucket: bucket.to_owned(), runtime };
    for call in 0..arguments.calls {
        // Who is first has not the advantage that the server read the objects a moment ago.
        let keys: Vec<String> = (0..LEGS)
            .map(|n| xattr(&mount.path("calls").join(leg(call, n)), "user.spoolfs.key"))
            .collect();
        let mut heads = [Vec::new(), Vec::new()];
        for turn in 0..2 {
            if (call + turn) % 2 == 0 {
                let (took, head) = by_spoolfs(&join(mount, call));
                own.push(took);
                heads[0] = head;
            } else {
                let (took, head) = by_hand.measure(&keys);
                theirs.push(took);
                heads[1] = head;
            }
        }
        assert!(heads[0][44..] == heads[1][44..], "not the same");
    }
    let median = |all: &mut Vec<Duration>| {
        all.sort_unstable();
        all[all.len() / 2]
    };
    let (own, theirs) = (median(&mut own), median(&mut theirs));
    println!(
        "first 8 KiB of {} joins of {LEGS} released legs of {} bytes: spoolfs {own:.1?}, three GETs and \
         ffmpeg {theirs:.1?}, ratio {:.1}",
        arguments.calls,
        arguments.bytes,
        theirs.as_secs_f64() / own.as_secs_f64()
    );
}

/// stat, open, and the first 8 KiB, as a player does.
fn by_spoolfs(path: &Path) -> (Duration, Vec<u8>) {
    let begin = Instant::now();
    assert!(fs::metadata(path).unwrap().len() > HEAD as u64);
    let mut head = vec![0; HEAD];
    File::open(path).unwrap().read_exact(&mut head).unwrap();
    (begin.elapsed(), head)
}

struct ByHand {
    client: Client,
    bucket: String,
    runtime: Runtime,
}

impl ByHand {
    /// The legs are fetched at once, joined without decoding them, and the beginning is read.
    fn measure(&self, keys: &[String]) -> (Duration, Vec<u8>) {
        let place = tempfile::tempdir().unwrap();
        let file = |n: usize| place.path().join(format!("{n}.wav"));
        let begin = Instant::now();
        self.runtime.block_on(async {
            let gets: Vec<_> = keys
                .iter()
                .map(|key| {
                    let get = self.client.get_object().bucket(&self.bucket).key(key).send();
                    tokio::spawn(async {
                        get.await.unwrap().body.collect().await.unwrap().into_bytes()
                    })
                })
                .collect();
            for (n, get) in gets.into_iter().enumerate() {
                fs::write(file(n), get.await.unwrap()).unwrap();
            }
        });
        let lines: String =
            (0..keys.len()).map(|n| format!("file '{}'\n", file(n).display())).collect();
        let (list, out) = (place.path().join("list"), place.path().join("out.wav"));
        fs::write(&list, lines).unwrap();
        let status = Command::new("ffmpeg")
            .args(["-v", "error", "-f", "concat", "-safe", "0", "-i"])
            .arg(&list)
            .args(["-c", "copy", "-bitexact"])
            .arg(&out)
            .status();
        assert!(status.expect("ffmpeg; scripts/test installs it").success());
        let mut head = vec![0; HEAD];
        File::open(&out).unwrap().read_exact(&mut head).unwrap();
        (begin.elapsed(), head)
    }
}

/// Peak of what the daemon has in memory, in KiB, while a long join is read.
fn memory(mount: &Mount, path: &Path) {
    let pid = mount.pid().as_raw_nonzero();
    let status = |field: &str| {
        let text = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        let line = text.lines().find(|line| line.starts_with(field)).unwrap().to_owned();
        line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap()
    };
    // From now on the peak counts anew (proc_pid_clear_refs(5)).
    fs::write(format!("/proc/{pid}/clear_refs"), "5").unwrap();
    let before = status("VmRSS:");
    let (mut file, size) = (File::open(path).unwrap(), fs::metadata(path).unwrap().len());
    let (mut piece, mut done, mut quarters) = (vec![0; 1 << 20], 0u64, Vec::new());
    let begin = Instant::now();
    loop {
        let read = file.read(&mut piece).unwrap();
        if read == 0 {
            break;
        }
        done += read as u64;
        while done * 4 >= size * (quarters.len() as u64 + 1) {
            quarters.push(format!("{} KiB", status("VmHWM:")));
        }
    }
    assert_eq!(done, size);
    println!(
        "a join of {size} bytes read in {:.1?}: the daemon had {before} KiB in memory before, and at most \
         {} by each quarter of it",
        begin.elapsed(),
        quarters.join(", ")
    );
}
