//! `spoolfs url`: whoever has the address can read the recording, and nobody else can.

mod support;

use std::io::{Read, Write};
use std::net::TcpStream;
use support::chromium;
use support::mount::{Mount, Setup, Target};
use support::seaweedfs::SeaweedFs;

const CONTENT: &[u8] = b"what an auditor is to hear";

fn archived(target: Target) -> Mount {
    let mount = Setup { target, ..Setup::default() }.mount();
    let path = mount.path("call \u{fc}+1%.wav");
    std::fs::write(&path, CONTENT).unwrap();
    for step in ["archive", "release"] {
        mount.cli([step.as_ref(), path.as_os_str()]).ok();
    }
    mount
}

fn ask(mount: &Mount, more: &[&str]) -> support::run::Ran {
    let path = mount.path("call \u{fc}+1%.wav");
    let arguments = ["url".as_ref(), path.as_os_str()].into_iter();
    mount.cli(arguments.chain(more.iter().map(|a| std::ffi::OsStr::new(*a))))
}

/// What a browser gets: the status line and the body.
fn fetch(url: &str) -> (String, Vec<u8>) {
    let (host, path) = url.strip_prefix("http://").unwrap().split_once('/').unwrap();
    let mut stream = TcpStream::connect(host).unwrap();
    write!(stream, "GET /{path} HTTP/1.0\r\nHost: {host}\r\n\r\n").unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap();
    let end = answer.windows(4).position(|w| w == b"\r\n\r\n").unwrap();
    let status = String::from_utf8_lossy(&answer[..end]).lines().next().unwrap().to_owned();
    (status, answer.split_off(end + 4))
}

#[test]
fn who_has_the_address_can_read_the_recording_and_nobody_else() {
    if support::no_mount("who_has_the_address_can_read_the_recording_and_nobody_else") {
        return;
    }
    let Some(server) = SeaweedFs::start() else { return };
    let mount = archived(Target::S3 {
        url: format!("s3://{}/pbx", server.new_bucket()),
        endpoint: server.endpoint(),
        id: SeaweedFs::ACCESS_KEY.to_owned(),
        secret: SeaweedFs::SECRET_KEY.to_owned(),
    });
    let given = ask(&mount, &["--for", "10m"]);
    assert_eq!(given.status.code(), Some(0), "{given:?}");
    let url = given.out.trim();
    let (status, body) = fetch(url);
    assert!(status.contains(" 200 ") && body == CONTENT, "{status}");
    let (status, body) = fetch(url.split_once('?').unwrap().0);
    assert!(status.contains(" 403 ") && body != CONTENT, "without the signature: {status}");
    let (status, _) = fetch(&url.replace("X-Amz-Expires=600", "X-Amz-Expires=601"));
    assert!(status.contains(" 403 "), "a longer time than was given: {status}");
    let report: serde_json::Value = serde_json::from_str(&ask(&mount, &["--json"]).out).unwrap();
    assert_eq!(report["sha256"], spoolfs::recording::Sha256::of(CONTENT).to_string());
    assert!(report["expires_at"].is_string() && report["generation"] == 1, "{report}");
    let said = mount.said();
    assert!(said.contains("an address was given out") && !said.contains("X-Amz"), "{said}");
}

#[test]
fn chromium_plays_a_flac_object_by_its_address_and_seeks_in_it() {
    const NAME: &str = "chromium_plays_a_flac_object_by_its_address_and_seeks_in_it";
    if support::no_mount(NAME) {
        return;
    }
    let Some(program) = chromium::program(NAME) else { return };
    let Some(server) = SeaweedFs::start() else { return };
    let target = Target::S3 {
        url: format!("s3://{}/pbx", server.new_bucket()),
        endpoint: server.endpoint(),
        id: SeaweedFs::ACCESS_KEY.to_owned(),
        secret: SeaweedFs::SECRET_KEY.to_owned(),
    };
    let write_back = "compress = \"flac\"\n".to_owned();
    let mount = Setup { target, write_back, ..Setup::default() }.mount();
    // Two minutes of a tone that rises: seeking is something there.
    let samples = 120 * 8000u32;
    let tone = |n: u32| ((f64::from(n) * f64::from(n) / 4e6).sin() * 9000.0) as i16;
    let mut wav =
        spoolfs::codec::wav_header(spoolfs::codec::Coding::Pcm16, 8000, 1, u64::from(samples) * 2);
    wav.extend((0..samples).map(tone).flat_map(i16::to_le_bytes));
    let path = mount.path("call.wav");
    std::fs::write(&path, &wav).unwrap();
    for step in ["archive", "release"] {
        mount.cli([step.as_ref(), path.as_os_str()]).ok();
    }
    let url = mount.cli(["url".as_ref(), path.as_os_str()]).ok().out.trim().to_owned();
    assert!(url.contains("call.wav.flac?"), "{url}");
    let played = chromium::plays(&program, &chromium::Media::Address(&url));
    println!("{played} s by Chromium, 120 s were recorded");
    assert!((played - 120.0).abs() < 0.01, "{played} s");
}

#[test]
fn an_address_that_can_not_be_given_is_a_failure_in_words() {
    if support::no_mount("an_address_that_can_not_be_given_is_a_failure_in_words") {
        return;
    }
    let mount = archived(Target::Directory);
    let given = ask(&mount, &[]);
    let path = given.out.trim().strip_prefix("file://").unwrap();
    assert_eq!(std::fs::read(path).unwrap(), CONTENT);
    std::fs::write(mount.path("new.wav"), CONTENT).unwrap();
    let early = mount.cli(["url".as_ref(), mount.path("new.wav").as_os_str()]);
    assert!(early.status.code() == Some(1) && early.err.contains("not archived yet"), "{early:?}");
    for (more, why) in [
        (&["--for", "8d"][..], "at most 7 days"),
        (&["--target", "elsewhere"], "no target \"elsewhere\""),
    ] {
        let refused = ask(&mount, more);
        assert!(refused.status.code() == Some(1) && refused.err.contains(why), "{refused:?}");
    }
}
