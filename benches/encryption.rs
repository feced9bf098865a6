//! What encryption of the local disk costs who records: the same calls by turns on spoolfs over two ext4
//! file systems in files, of which one is encrypted by fscrypt. docs/TESTING.md, "Benchmarks".
#![allow(clippy::unwrap_used)]

#[path = "../tests/support/mod.rs"]
mod support;

use clap::Parser;
use hdrhistogram::Histogram;
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use support::ext4::Ext4;
use support::mount::{Mount, Setup, Target};

#[derive(Debug, Parser)]
struct Arguments {
    /// Times that each case is measured on each of the two.
    #[arg(long, default_value_t = 7)]
    rounds: usize,
    /// Files open at a time.
    #[arg(long, default_value_t = 200)]
    files: usize,
    /// Bytes of the file that is written and synced.
    #[arg(long, default_value_t = 64 << 20)]
    bytes: usize,
    /// Another build of spoolfs to mount with.
    #[arg(long)]
    program: Option<PathBuf>,
    /// Given by cargo.
    #[arg(long, hide = true)]
    bench: bool,
}

/// Microseconds: the middle and the slowest thousandth.
#[derive(Clone, Copy, Debug)]
struct Times {
    p50: f64,
    p999: f64,
}

fn main() {
    let arguments = Arguments::parse();
    if support::no_mount("encryption") {
        return;
    }
    let place = tempfile::tempdir().unwrap();
    let (plain, encrypted) = (place.path().join("plain"), place.path().join("encrypted"));
    let Some((_disk, plain)) = mount(&plain, false, &arguments) else { return };
    let Some((_other, encrypted)) = mount(&encrypted, true, &arguments) else { return };
    let mode = |mount: &Mount| mount.status()["mode"].as_str().unwrap_or_default().to_owned();
    println!("spoolfs in {} mode, plain; {} mode, encrypted", mode(&plain), mode(&encrypted));
    for (name, piece, pieces) in
        [("write(2) of 320 B", 320, 400), ("write(2) of 32 KiB", 32 << 10, 8)]
    {
        let mut all = Vec::new();
        for round in 0..arguments.rounds {
            let one =
                |mount: &Mount| write(mount.path("w").as_ref(), arguments.files, piece, pieces);
            all.push(by_turns(round, || one(&plain), || one(&encrypted)));
        }
        let times = |which: fn(&(Times, Times)) -> f64| median(all.iter().map(which).collect());
        println!(
            "{name}: p50 {:.1} us plain, {:.1} encrypted, x {:.2}; p99.9 {:.0} us, {:.0}, x {:.2}",
            times(|(a, _)| a.p50),
            times(|(_, b)| b.p50),
            times(|(a, b)| b.p50 / a.p50),
            times(|(a, _)| a.p999),
            times(|(_, b)| b.p999),
            times(|(a, b)| b.p999 / a.p999)
        );
    }
    let mut all = Vec::new();
    for round in 0..arguments.rounds {
        let one = |mount: &Mount| synced(&mount.path("s"), arguments.bytes);
        all.push(by_turns(round, || one(&plain), || one(&encrypted)));
    }
    let times = |which: fn(&(f64, f64)) -> f64| median(all.iter().map(which).collect());
    let speed = |seconds: f64| arguments.bytes as f64 / seconds / 1e6;
    println!(
        "write and fsync: {:.0} MB/s plain, {:.0} encrypted, time x {:.2}",
        speed(times(|(a, _)| *a)),
        speed(times(|(_, b)| *b)),
        times(|(a, b)| b / a)
    );
}

fn mount(at: &Path, encrypted: bool, arguments: &Arguments) -> Option<(Ext4, Mount)> {
    fs::create_dir(at).unwrap();
    let disk = Ext4::new(&at.with_extension("image"), at, 2048, &["-O", "encrypt"])?;
    let end = format!("[encryption]\nlocal_key_file = {:?}\n", at.with_extension("key"));
    let (target, on) = (Target::None, Some(at.to_owned()));
    let mut mount = Setup { target, end, disk: on, ..Setup::default() }.prepare();
    if encrypted {
        mount.cli(["setup-encryption", "--make-key", "--yes"]).ok();
    }
    if let Some(program) = &arguments.program {
        mount.program = program.clone();
        // It may be one that does not know of encryption yet; the kernel has the key.
        let config = fs::read_to_string(&mount.config).unwrap();
        let (before, _) = config.split_once("[encryption]").unwrap();
        fs::write(&mount.config, before).unwrap();
    }
    mount.start();
    Some((disk, mount))
}

fn by_turns<T>(round: usize, plain: impl FnOnce() -> T, encrypted: impl FnOnce() -> T) -> (T, T) {
    if round.is_multiple_of(2) {
        let first = plain();
        (first, encrypted())
    } else {
        let first = encrypted();
        (plain(), first)
    }
}

/// Writes to many files in turn, as calls do.
fn write(dir: &Path, files: usize, piece: usize, pieces: usize) -> Times {
    fs::create_dir(dir).unwrap();
    let mut open: Vec<File> =
        (0..files).map(|n| File::create(dir.join(format!("{n}.wav"))).unwrap()).collect();
    let piece: Vec<u8> = std::iter::repeat_with(|| fastrand::u8(..)).take(piece).collect();
    let mut times = Histogram::<u64>::new_with_bounds(1, 60_000_000_000, 3).unwrap();
    for _ in 0..pieces {
        for file in &mut open {
            let begun = Instant::now();
            file.write_all(&piece).unwrap();
            times.record(begun.elapsed().as_nanos().try_into().unwrap_or(u64::MAX)).unwrap();
        }
    }
    drop(open);
    settle(dir);
    let micros = |quantile| times.value_at_quantile(quantile) as f64 / 1000.0;
    Times { p50: micros(0.5), p999: micros(0.999) }
}

/// Seconds until a new file is on the disk.
fn synced(path: &Path, bytes: usize) -> f64 {
    let piece: Vec<u8> = std::iter::repeat_with(|| fastrand::u8(..)).take(1 << 20).collect();
    let begun = Instant::now();
    let mut file = File::create(path).unwrap();
    for _ in 0..bytes >> 20 {
        file.write_all(&piece).unwrap();
    }
    file.sync_all().unwrap();
    let took = begun.elapsed();
    drop(file);
    settle(path);
    took.as_secs_f64()
}

/// What was measured is taken away, and nothing of it waits to be written when the next begins.
fn settle(path: &Path) {
    let removed = if path.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) };
    removed.unwrap();
    let parent = File::open(path.parent().unwrap()).unwrap();
    rustix::fs::syncfs(&parent).unwrap();
    rustix::fs::sync();
    std::thread::sleep(Duration::from_millis(200));
}

fn median(mut all: Vec<f64>) -> f64 {
    all.sort_by(f64::total_cmp);
    all.get(all.len() / 2).copied().unwrap_or(f64::NAN)
}
