//! What sealing costs who reads: the first 8 KiB and reads at random of recordings that are stored as
//! they are, as FLAC, and as FLAC and sealed, by turns over a line of 30 ms; and how fast bytes are
//! sealed and opened. docs/TESTING.md, "Benchmarks".
#![allow(clippy::unwrap_used)]

#[path = "../tests/support/mod.rs"]
mod support;

use age::secrecy::ExposeSecret;
use clap::Parser;
use spoolfs::codec::seal::{Identities, Recipients, open_all, seal_all};
use spoolfs::codec::{Coding, wav_header};
use std::fs::{self, File, Permissions};
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::PathBuf;
use std::time::{Duration, Instant};
use support::mount::{Mount, Setup, Target};
use support::seaweedfs::SeaweedFs;
use support::slow_line::SlowLine;

const KINDS: [&str; 3] = ["plain", "flac", "flac+age"];
const MIB: usize = 1 << 20;

#[derive(Debug, Parser)]
struct Arguments {
    /// Recordings of each kind.
    #[arg(long, default_value_t = 20)]
    files: usize,
    /// Bytes of each: three minutes.
    #[arg(long, default_value_t = 2_880_000)]
    bytes: usize,
    /// Reads at random in each.
    #[arg(long, default_value_t = 5)]
    reads: usize,
    /// Given by cargo.
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() {
    let arguments = Arguments::parse();
    let key = age::x25519::Identity::generate();
    speed(&key);
    if support::no_mount("sealing") {
        return;
    }
    let Some(server) = SeaweedFs::start() else { return };
    let line = SlowLine::to(&server.endpoint());
    let target = Target::S3 {
        url: format!("s3://{}/pbx", server.new_bucket()),
        endpoint: line.endpoint(),
        id: SeaweedFs::ACCESS_KEY.into(),
        secret: SeaweedFs::SECRET_KEY.into(),
    };
    let mount = prepare(Setup { target, ..Setup::default() }, &key, &arguments);
    line.set(Duration::from_millis(30), 0);
    let mut random = fastrand::Rng::with_seed(2);
    let read = |kind: usize, n: usize, at: usize, bytes: usize| {
        let began = Instant::now();
        let file = File::open(path(&mount, kind, n)).unwrap();
        file.read_exact_at(&mut vec![0; bytes], at as u64).unwrap();
        began.elapsed()
    };
    let (mut first, mut others) = (vec![Vec::new(); 3], vec![Vec::new(); 3]);
    for n in 0..arguments.files {
        for turn in 0..KINDS.len() {
            let kind = (n + turn) % KINDS.len();
            first[kind].push(read(kind, n, 0, 8192));
        }
    }
    for n in 0..arguments.files * arguments.reads {
        let at = random.usize(MIB / 2..arguments.bytes - 4096);
        for turn in 0..KINDS.len() {
            let kind = (n + turn) % KINDS.len();
            others[kind].push(read(kind, n % arguments.files, at, 4096));
        }
    }
    shown("first 8 KiB", &mut first);
    shown("4 KiB at random", &mut others);
}

fn path(mount: &Mount, kind: usize, n: usize) -> PathBuf {
    mount.path(format!("{}-{n}.wav", KINDS[kind]))
}

/// A mount with released recordings of each kind, of which nothing is at hand.
fn prepare(setup: Setup, key: &age::x25519::Identity, arguments: &Arguments) -> Mount {
    let mut mount = setup.prepare();
    let file = mount.root.join("identity");
    fs::write(&file, key.to_string().expose_secret()).unwrap();
    fs::set_permissions(&file, Permissions::from_mode(0o400)).unwrap();
    mount.env.push(("SPOOLFS_READ__IDENTITY_FILE", file.display().to_string()));
    mount.env.push(("SPOOLFS_WRITE_BACK__SCRUB_EVERY", "forever".to_owned()));
    for kind in 0..KINDS.len() {
        match kind {
            1 => mount.env.push(("SPOOLFS_WRITE_BACK__COMPRESS", "flac".to_owned())),
            2 => {
                let public = key.to_public().to_string();
                mount.env.push(("SPOOLFS_WRITE_BACK__ENCRYPT_TO", public));
            }
            _ => {}
        }
        mount.start();
        for n in 0..arguments.files {
            fs::write(path(&mount, kind, n), call(arguments.bytes, n as u64)).unwrap();
        }
        for what in ["archive", "release"] {
            mount.cli([what.as_ref(), mount.mountpoint.as_os_str()]).ok();
        }
        mount.stop();
    }
    mount.start();
    let until = Instant::now() + Duration::from_secs(60);
    while mount.said_all().matches("the target is ready").count() <= KINDS.len() {
        assert!(Instant::now() < until, "{}", mount.said());
        std::thread::sleep(Duration::from_millis(20));
    }
    mount
}

/// A tone in noise, which becomes half as long as FLAC.
fn call(bytes: usize, seed: u64) -> Vec<u8> {
    let mut random = fastrand::Rng::with_seed(seed);
    let mut wav = wav_header(Coding::Pcm16, 8000, 1, bytes as u64);
    let tone = |n: usize| ((n as f64 / 9.0).sin() * 3000.0) as i16 + random.i16(-90..90);
    wav.extend((0..bytes / 2).map(tone).flat_map(i16::to_le_bytes));
    wav
}

fn shown(what: &str, times: &mut [Vec<Duration>]) {
    times.iter_mut().for_each(|times| times.sort());
    let plain = times[0][times[0].len() / 2].as_secs_f64();
    for (kind, times) in KINDS.iter().zip(times) {
        let at = |share: usize| times[(times.len() * share / 100).min(times.len() - 1)];
        let ratio = at(50).as_secs_f64() / plain;
        println!(
            "{what:<16} {kind:<9} median {:>9.2?}  p95 {:>9.2?}  {ratio:.2} of plain",
            at(50),
            at(95)
        );
    }
}

fn speed(key: &age::x25519::Identity) {
    let to = Recipients::parse(&[key.to_public().to_string()]).unwrap().unwrap();
    let keys = Identities::parse(key.to_string().expose_secret().as_bytes(), "memory").unwrap();
    let bytes = call(64 * MIB, 1);
    let rate = |began: Instant| bytes.len() as f64 / began.elapsed().as_secs_f64() / 1e6;
    let began = Instant::now();
    let sealed = seal_all(&to, &bytes).unwrap();
    let sealing = rate(began);
    let began = Instant::now();
    assert!(open_all(&sealed, &keys).unwrap() == bytes);
    println!("on one thread: sealed {sealing:.0} MB/s, opened {:.0} MB/s", rate(began));
}
