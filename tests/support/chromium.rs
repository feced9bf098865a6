//! A headless Chromium that plays a recording: from the beginning, from three quarters, from one
//! quarter, and to the end. `scripts/chromium` installs it.

use serde_json::Value;
use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Sender, channel};
use std::time::Duration;

/// Names the program.
const PROGRAM: &str = "SPOOLFS_TEST_CHROMIUM";
const PAGE: &str = include_str!("../tools/player.html");

/// What is played.
pub enum Media<'a> {
    /// A file, by a small server that answers to ranges.
    File(&'a Path),
    /// Something that is served elsewhere.
    Address(&'a str),
}

/// The program, if there is one; else the test does not run, and that is said.
pub fn program(test: &str) -> Option<PathBuf> {
    let path = std::env::var_os(PROGRAM).map(PathBuf::from);
    if path.is_none() {
        let reason = format!("needs {PROGRAM}; scripts/chromium installs it");
        super::skip(test, "chromium", &reason);
    }
    path
}

/// Plays something; how long it is by Chromium's word, in seconds.
#[track_caller]
pub fn plays(program: &Path, media: &Media<'_>) -> f64 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let here = format!("http://{}", listener.local_addr().unwrap());
    let (file, address) = match media {
        Media::File(path) => (Some(path.to_path_buf()), format!("{here}/media")),
        Media::Address(address) => (None, (*address).to_owned()),
    };
    let (said, answer) = channel();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let (file, said) = (file.clone(), said.clone());
            std::thread::spawn(move || serve(stream, file.as_deref(), &said));
        }
    });
    let profile = tempfile::tempdir().unwrap();
    let log = File::create(profile.path().join("log")).unwrap();
    let child = Command::new(program)
        .args(["--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run"])
        .arg("--autoplay-policy=no-user-gesture-required")
        .arg(format!("--user-data-dir={}", profile.path().display()))
        .arg(format!("{here}/#{}", encoded(&address)))
        .stdin(Stdio::null())
        .stdout(log.try_clone().unwrap())
        .stderr(log)
        .spawn()
        .unwrap_or_else(|e| panic!("{}: {e}", program.display()));
    let _ends_with_this = Killed(child);
    let told: Value = answer.recv_timeout(Duration::from_secs(180)).unwrap_or_else(|_| {
        let log = std::fs::read_to_string(profile.path().join("log")).unwrap_or_default();
        panic!("Chromium says nothing about {address}: {log}")
    });
    assert_eq!(told.get("error"), None, "{address}: {told}");
    let duration = told["duration"].as_f64().unwrap_or_default();
    let ended = told["ended"].as_f64().unwrap_or_default();
    assert!((duration - ended).abs() < 0.1, "it is heard to its end: {told}");
    duration
}

struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ended = self.0.kill();
        let _ended = self.0.wait();
    }
}

fn encoded(address: &str) -> String {
    let byte = |b: u8| match b {
        b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b':' | b'/' | b'.' | b'-' => {
            char::from(b).to_string()
        }
        other => format!("%{other:02X}"),
    };
    address.bytes().map(byte).collect()
}

/// One request.
fn serve(stream: TcpStream, file: Option<&Path>, said: &Sender<Value>) {
    let mut reader = BufReader::new(&stream);
    let mut head = Vec::new();
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line).is_err() || line.trim().is_empty() {
            break;
        }
        head.push(line.trim().to_owned());
    }
    let field = |name: &str| {
        let is = |line: &&String| line.to_lowercase().starts_with(&format!("{name}:"));
        head.iter().find(is).and_then(|line| Some(line.split_once(':')?.1.trim().to_owned()))
    };
    let first = head.first().cloned().unwrap_or_default();
    let path = first.split(' ').nth(1).unwrap_or_default();
    let answer = |status: &str, kind: &str, more: &str, body: &[u8]| {
        let len = body.len();
        let head = format!(
            "HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {len}\r\n\
             Connection: close\r\n{more}\r\n"
        );
        // Who has heard enough hangs up.
        let _gone = (&stream).write_all(head.as_bytes()).and_then(|()| (&stream).write_all(body));
    };
    match (path, file) {
        ("/said", _) => {
            let len = field("content-length").and_then(|l| l.parse().ok()).unwrap_or(0);
            let mut body = vec![0; len];
            let read = reader.read_exact(&mut body);
            answer("204 No Content", "text/plain", "", b"");
            let _nobody_waits = read.map(|()| said.send(serde_json::from_slice(&body).unwrap()));
        }
        ("/media", Some(path)) => {
            let file = File::open(path).unwrap();
            let size = file.metadata().unwrap().len();
            let range = field("range").unwrap_or_default();
            let (from, to) = range.trim_start_matches("bytes=").split_once('-').unwrap_or_default();
            let from: u64 = from.parse().unwrap_or(0);
            let end = to.parse().map_or(size, |to: u64| to + 1).min(size).max(from);
            let mut body = vec![0; (end - from) as usize];
            file.read_exact_at(&mut body, from).unwrap();
            let last = end.saturating_sub(1);
            let more =
                format!("Accept-Ranges: bytes\r\nContent-Range: bytes {from}-{last}/{size}\r\n");
            answer("206 Partial Content", "audio/wav", &more, &body);
        }
        ("/", _) => answer("200 OK", "text/html", "", PAGE.as_bytes()),
        _ => answer("404 Not Found", "text/plain", "", b""),
    }
}
