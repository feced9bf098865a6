//! Writes recordings as Asterisk's MixMonitor does, for a demonstration without a PBX.
//!
//! `mixmonitor [--append] [--killed] [--pace MILLISECONDS] SOURCE DESTINATION` plays one file.
//! With a directory as SOURCE every recording below it is played into the same place below
//! DESTINATION, all calls at the same time, each in a thread of its own as in Asterisk.

#[path = "../tests/support/mixmonitor.rs"]
#[allow(dead_code, reason = "shared with the tests, which use more of it")]
mod mixmonitor;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use mixmonitor::{End, Play, Start};

struct Options {
    start: Start,
    end: End,
    pace: Duration,
    source: PathBuf,
    destination: PathBuf,
}

const USAGE: &str =
    "usage: mixmonitor [--append] [--killed] [--pace MILLISECONDS] SOURCE DESTINATION";

fn main() -> ExitCode {
    let Some(options) = options(std::env::args().skip(1)) else {
        eprintln!("{USAGE}");
        return ExitCode::from(2);
    };
    let calls = match calls(&options) {
        Ok(calls) => calls,
        Err(error) => {
            eprintln!("mixmonitor: {}: {error}", options.source.display());
            return ExitCode::FAILURE;
        }
    };
    let failures: usize = std::thread::scope(|scope| {
        let threads: Vec<_> = calls
            .iter()
            .map(|(source, destination)| {
                let options = &options;
                scope.spawn(move || match play(options, source, destination) {
                    Ok(()) => 0,
                    Err(error) => {
                        eprintln!("mixmonitor: {}: {error}", destination.display());
                        1
                    }
                })
            })
            .collect();
        threads.into_iter().map(|thread| thread.join().unwrap_or(1)).sum()
    });
    println!("{} recordings written, {failures} failed", calls.len() - failures);
    if failures == 0 && !calls.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn play(options: &Options, source: &Path, destination: &Path) -> std::io::Result<()> {
    let bytes = std::fs::read(source)?;
    let play = Play { source: &bytes, start: options.start, end: options.end, pace: options.pace };
    play.onto(destination)
}

fn options(arguments: impl Iterator<Item = String>) -> Option<Options> {
    let (mut start, mut end, mut pace) = (Start::Fresh, End::HungUp, Duration::ZERO);
    let mut paths = Vec::new();
    let mut arguments = arguments;
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--append" => start = Start::Append,
            "--killed" => end = End::Killed,
            "--pace" => pace = Duration::from_millis(arguments.next()?.parse().ok()?),
            option if option.starts_with('-') => return None,
            path => paths.push(PathBuf::from(path)),
        }
    }
    let [source, destination] = <[PathBuf; 2]>::try_from(paths).ok()?;
    Some(Options { start, end, pace, source, destination })
}

/// Pairs of source and destination; notes beside the recordings are no calls.
fn calls(options: &Options) -> std::io::Result<Vec<(PathBuf, PathBuf)>> {
    if !options.source.is_dir() {
        return Ok(vec![(options.source.clone(), options.destination.clone())]);
    }
    let mut calls = Vec::new();
    let mut directories = vec![PathBuf::new()];
    while let Some(directory) = directories.pop() {
        for entry in std::fs::read_dir(options.source.join(&directory))? {
            let entry = entry?;
            let below = directory.join(entry.file_name());
            if entry.file_type()?.is_dir() {
                directories.push(below);
            } else if below.extension().is_some_and(|extension| extension != "md") {
                calls.push((options.source.join(&below), options.destination.join(&below)));
            }
        }
    }
    calls.sort();
    Ok(calls)
}
