//! What storing recordings as FLAC gains and costs: the length against zstd -19 and WavPack, where
//! these are installed, and the speed of encoding, comparing and reading. docs/TESTING.md,
//! "Benchmarks".
//!
//! Corpora: the fixtures, and each directory below `$SPOOLFS_BENCH_CORPUS`.
#![allow(clippy::unwrap_used)]

use bytes::Bytes;
use spoolfs::codec::flac::{Encoder, candidate, decode};
use spoolfs::recording::{FlacMap, Hasher, chunk_at, chunk_range};
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// Bytes of 16-bit mono that 300 calls record in a second.
const CALLS_300: f64 = 300.0 * 16_000.0;

#[derive(Default)]
struct Sum {
    files: u64,
    /// Stored as they are.
    plain: u64,
    bytes: u64,
    flac: u64,
    zstd: Option<u64>,
    wavpack: Option<u64>,
    encoding: Duration,
    decoding: Duration,
}

fn wavs(below: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(below).unwrap().map(Result::unwrap) {
        match entry.file_type().unwrap().is_dir() {
            true => wavs(&entry.path(), found),
            false => found.push(entry.path()),
        }
    }
    found.sort();
}

/// The length of what a program makes of a file; none if it is not installed, or makes nothing of it.
fn made_by(program: &str, arguments: &[&str], file: &Path) -> Option<u64> {
    let mut command = Command::new(program);
    let output = command.args(arguments).arg(file).stderr(Stdio::null()).output().ok()?;
    output.status.success().then_some(output.stdout.len() as u64)
}

fn encode(name: &str, bytes: &[u8]) -> Option<(File, FlacMap)> {
    let mut read = |at: u64, len: usize| {
        let at = (at as usize).min(bytes.len());
        Ok::<_, std::io::Error>(Bytes::copy_from_slice(&bytes[at..(at + len).min(bytes.len())]))
    };
    let found = candidate(name.as_bytes(), bytes.len() as u64, &mut read).unwrap()?;
    let file = tempfile::tempfile().unwrap();
    let mut encoder = Encoder::new(found, &file).unwrap();
    bytes.chunks(256 << 10).for_each(|part| encoder.push(part).unwrap());
    let map = encoder.finish().unwrap().unwrap();
    Some((file, map))
}

fn decoded(file: &File, map: &FlacMap) -> Hasher {
    let (size, mut hasher) = (map.recording_bytes(), Hasher::default());
    while hasher.len() < size {
        let range = chunk_range(chunk_at(hasher.len()), size);
        let piece = map.piece(&range).stored;
        let mut frames = vec![0; (piece.end - piece.start) as usize];
        file.read_exact_at(&mut frames, piece.start).unwrap();
        hasher.update(&decode(map, &range, &frames).unwrap());
    }
    hasher
}

fn measure(corpus: &Path) -> Sum {
    let mut files = Vec::new();
    wavs(corpus, &mut files);
    let mut sum = Sum { zstd: Some(0), wavpack: Some(0), ..Sum::default() };
    for file in files {
        let bytes = fs::read(&file).unwrap();
        let began = Instant::now();
        let Some((stored, map)) = encode(&file.to_string_lossy(), &bytes) else {
            sum.plain += 1;
            continue;
        };
        sum.encoding += began.elapsed();
        let began = Instant::now();
        let hasher = decoded(&stored, &map);
        sum.decoding += began.elapsed();
        let mut whole = Hasher::default();
        whole.update(&bytes);
        assert_eq!(hasher.finish().0, whole.finish().0, "{}", file.display());
        sum.files += 1;
        sum.bytes += bytes.len() as u64;
        sum.flac += stored.metadata().unwrap().len();
        let add = |to: Option<u64>, one: Option<u64>| Some(to? + one?);
        sum.zstd = add(sum.zstd, made_by("zstd", &["-19", "-q", "-c"], &file));
        // Raw PCM that it would have to be told of is left out.
        let is_wav = bytes.starts_with(b"RIFF");
        let packed =
            if is_wav { made_by("wavpack", &["-q", "-i", "-o", "-"], &file) } else { None };
        sum.wavpack = add(sum.wavpack, packed);
    }
    sum
}

fn main() {
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures");
    let mut corpora: Vec<PathBuf> =
        ["monitor", "crashed", "formats"].iter().map(|name| fixtures.join(name)).collect();
    if let Some(more) = std::env::var_os("SPOOLFS_BENCH_CORPUS") {
        let mut kinds: Vec<_> = fs::read_dir(more).unwrap().map(|e| e.unwrap().path()).collect();
        kinds.sort();
        corpora.extend(kinds);
    }
    println!(
        "{:<18} {:>5} {:>5} {:>7}  {:>5} {:>8} {:>7}  {:>11} {:>11}  300 calls",
        "corpus",
        "files",
        "plain",
        "MB",
        "FLAC",
        "zstd -19",
        "WavPack",
        "encode MB/s",
        "decode MB/s"
    );
    for corpus in corpora {
        let sum = measure(&corpus);
        let ratio = |len: Option<u64>| match len {
            Some(len) if len > 0 => format!("{:.2}", sum.bytes as f64 / len as f64),
            _ => "-".to_owned(),
        };
        let speed = |took: Duration| sum.bytes as f64 / 1e6 / took.as_secs_f64().max(1e-9);
        let took = (sum.encoding + sum.decoding).as_secs_f64();
        println!(
            "{:<18} {:>5} {:>5} {:>7.1}  {:>5} {:>8} {:>7}  {:>11.0} {:>11.0}  {:.1} % of a processor",
            corpus.file_name().unwrap().to_string_lossy(),
            sum.files,
            sum.plain,
            sum.bytes as f64 / 1e6,
            ratio(Some(sum.flac)),
            ratio(sum.zstd),
            ratio(sum.wavpack),
            speed(sum.encoding),
            speed(sum.decoding),
            CALLS_300 / (sum.bytes as f64 / took.max(1e-9)) * 100.0,
        );
    }
}
