//! docs/STITCHED.md on a real mount: the fixtures' calls joined, with their legs local, released
//! and both; what sox and ffmpeg make of the same legs.

mod support;

use age::secrecy::ExposeSecret;
use rustix::io::Errno;
use rustix::process::{Signal, kill_process};
use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};
use support::chromium;
use support::databases::{Database, Engine};
use support::faulty_proxy::{Proxy, Spoil};
use support::mount::{Mount, Setup, Target};
use support::seaweedfs::SeaweedFs;

const DAY: &str = "2026/11/21";
/// The fixtures' first call, in the order of its legs.
const LEGS: [&str; 3] = [
    "external-3001-02079460001-20261121-022709-1795228029.1.wav",
    "q-rigq-02079460001-20261121-022709-1795228029.11.wav",
    "exten-4001-02079460001-20261121-022712-1795228032.23.wav",
];
const CALL: &str = "1795228029.1";

/// Calls as the daemon's test source reads them.
fn write_calls(mount: &Mount, calls: &[(&str, Vec<String>)]) {
    let line = |(id, legs): &(&str, Vec<String>)| format!("{id}\t{}\n", legs.join("\t"));
    let text: String = calls.iter().map(line).collect();
    fs::write(mount.root.join("calls"), text).unwrap();
}

fn first_call() -> (&'static str, Vec<String>) {
    (CALL, LEGS.iter().map(|leg| format!("{DAY}/{leg}")).collect())
}

fn prepare(setup: Setup) -> Mount {
    let mut mount = setup.prepare();
    let calls = mount.root.join("calls").display().to_string();
    mount.env.push(("SPOOLFS_TEST_CALLS", calls));
    // Requests are counted; a scrub would make some of its own.
    mount.env.push(("SPOOLFS_WRITE_BACK__SCRUB_EVERY", "forever".to_owned()));
    write_calls(&mount, &[first_call()]);
    mount
}

/// A mount with the first call's legs, recorded through it.
fn with_call(setup: Setup) -> Mount {
    let mut mount = prepare(setup);
    mount.start();
    copy_legs(&mount);
    mount
}

fn copy_legs(mount: &Mount) {
    fs::create_dir_all(mount.path(DAY)).unwrap();
    for leg in LEGS {
        let from = support::fixture("monitor").join(DAY).join(leg);
        fs::copy(from, mount.path(DAY).join(leg)).unwrap();
    }
}

fn leg(mount: &Mount, index: usize) -> PathBuf {
    mount.path(DAY).join(LEGS[index])
}

fn xattr(path: &Path, name: &str) -> Option<String> {
    let mut value = vec![0; 65_536];
    let len = rustix::fs::getxattr(path, name, &mut value[..]).ok()?;
    value.truncate(len);
    String::from_utf8(value).ok()
}

/// The join, once the daemon knows its legs as closed.
#[track_caller]
fn joined(mount: &Mount, call: &str, legs: usize) -> PathBuf {
    let path = mount.path("stitched").join(format!("{call}.wav"));
    let until = Instant::now() + support::look::PATIENCE;
    loop {
        let told = xattr(&path, "user.spoolfs.legs").unwrap_or_default();
        if told.lines().filter(|l| l.contains("duration")).count() == legs {
            return path;
        }
        assert!(Instant::now() < until, "{path:?} has not {legs} legs: {told}\n{}", mount.said());
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Waits until so many recordings are known for what they are, though nobody asked.
#[track_caller]
fn known(mount: &Mount, count: i64) {
    let path = mount.state.join("stitched.sqlite");
    let rows = || -> rusqlite::Result<i64> {
        let flags = rusqlite::OpenFlags::SQLITE_OPEN_READ_ONLY;
        let memory = rusqlite::Connection::open_with_flags(&path, flags)?;
        memory.query_row("SELECT count(*) FROM audio", [], |row| row.get(0))
    };
    let until = Instant::now() + support::look::PATIENCE;
    while rows().ok() != Some(count) {
        assert!(Instant::now() < until, "{:?}\n{}", rows(), mount.said());
        std::thread::sleep(Duration::from_millis(100));
    }
}

fn source(path: &Path) -> String {
    xattr(path, "user.spoolfs.source").unwrap_or_default()
}

#[track_caller]
fn release(mount: &Mount, path: &Path) {
    for what in ["archive", "release"] {
        mount.cli([what.as_ref(), path.as_os_str()]).ok();
    }
    assert_eq!(source(path), "archive");
}

/// The samples of a file, as a program says them.
fn samples_by(program: &str, arguments: &[&str], files: &[PathBuf]) -> Vec<u8> {
    let mut command = Command::new(program);
    for argument in arguments {
        match *argument {
            "FILES" => command.args(files),
            other => command.arg(other),
        };
    }
    let output =
        command.output().unwrap_or_else(|e| panic!("{program}: {e}; scripts/test installs it"));
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    output.stdout
}

fn sox(files: &[PathBuf]) -> Vec<u8> {
    samples_by("sox", &["FILES", "-t", "raw", "-e", "signed", "-b", "16", "-"], files)
}

fn expected() -> Vec<u8> {
    join_of(&support::fixture("monitor").join(DAY), &LEGS)
}

/// The join of recordings of 44 bytes of header each.
fn join_of(root: &Path, legs: &[&str]) -> Vec<u8> {
    let data: Vec<u8> =
        legs.iter().flat_map(|leg| fs::read(root.join(leg)).unwrap()[44..].to_vec()).collect();
    let mut out =
        spoolfs::codec::wav_header(spoolfs::codec::Coding::Pcm16, 8000, 1, data.len() as u64);
    out.extend(data);
    out
}

/// The samples of recordings joined by ffmpeg.
fn ffmpeg(mount: &Mount, legs: &[PathBuf]) -> Vec<u8> {
    let list = mount.root.join("list");
    let lines: String = legs.iter().map(|leg| format!("file '{}'\n", leg.display())).collect();
    fs::write(&list, lines).unwrap();
    let input = ["-v", "error", "-f", "concat", "-safe", "0", "-i", list.to_str().unwrap()];
    samples_by("ffmpeg", &[&input[..], &["-f", "s16le", "-"]].concat(), &[])
}

fn names(path: &Path) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(path)
        .unwrap()
        .map(|e| e.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

#[test]
fn three_legs_are_one_file_as_sox_and_ffmpeg_join_them() {
    if support::no_mount("three_legs_are_one_file_as_sox_and_ffmpeg_join_them") {
        return;
    }
    let mount = with_call(Setup::default());
    let path = joined(&mount, CALL, 3);
    assert_eq!(names(&mount.mountpoint), ["2026", "stitched"]);
    assert_eq!(names(&mount.path("stitched")), [format!("{CALL}.wav")]);
    let bytes = fs::read(&path).unwrap();
    assert!(bytes == expected());
    let meta = fs::metadata(&path).unwrap();
    assert_eq!((meta.len(), meta.blocks()), (bytes.len() as u64, 1));
    assert_eq!(source(&path), "stitched-local");

    let root = support::fixture("monitor").join(DAY);
    let legs: Vec<PathBuf> = LEGS.iter().map(|leg| root.join(leg)).collect();
    assert!(sox(&legs) == bytes[44..], "sox joins the legs otherwise");
    assert!(sox(std::slice::from_ref(&path)) == bytes[44..], "sox reads the join otherwise");
    assert!(ffmpeg(&mount, &legs) == bytes[44..], "ffmpeg joins the legs otherwise");
    let read = ["-v", "error", "-i", path.to_str().unwrap(), "-f", "s16le", "-"];
    assert!(samples_by("ffmpeg", &read, &[]) == bytes[44..], "ffmpeg reads the join otherwise");
    let said = |program: &str, arguments: &[&str]| {
        let said =
            samples_by(program, &[arguments, &["FILES"]].concat(), std::slice::from_ref(&path));
        String::from_utf8(said).unwrap().trim().to_owned()
    };
    let samples = (bytes.len() - 44) / 2;
    assert_eq!(said("soxi", &["-s"]), samples.to_string());
    let shown = "stream=codec_name,sample_rate,channels,duration_ts";
    let probe = ["-v", "error", "-show_entries", shown, "-of", "csv=p=0"];
    assert_eq!(said("ffprobe", &probe), format!("pcm_s16le,8000,1,{samples}"));
}

#[test]
fn wherever_the_legs_are_the_bytes_are_the_same() {
    if support::no_mount("wherever_the_legs_are_the_bytes_are_the_same") {
        return;
    }
    let mut mount = with_call(Setup::default());
    let path = joined(&mount, CALL, 3);
    let expected = expected();
    let ino = fs::metadata(&path).unwrap().ino();
    release(&mount, &leg(&mount, 1));
    assert_eq!(source(&path), "stitched-mixed");
    assert!(fs::read(&path).unwrap() == expected, "one released");
    release(&mount, &leg(&mount, 0));
    release(&mount, &leg(&mount, 2));
    mount.restart();
    let path = joined(&mount, CALL, 3);
    assert_eq!(fs::metadata(&path).unwrap().ino(), ino, "the same legs are the same file");
    assert!(fs::read(&path).unwrap() == expected, "all released");
    assert_eq!(source(&path), "stitched-cache");
    let told = xattr(&path, "user.spoolfs.legs").unwrap();
    let told: Vec<serde_json::Value> =
        told.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!((told.len(), &told[0]["tier"]), (3, &"cache".into()));
    assert_eq!((told[0]["offset"].as_f64(), told[0]["duration"].as_f64()), (Some(0.0), Some(5.98)));
    assert_eq!(told[1]["offset"].as_f64(), Some(5.98));
    // One local, one cached, one in the target.
    mount.cli(["recall".as_ref(), leg(&mount, 0).as_os_str()]).ok();
    assert_eq!(source(&path), "stitched-mixed");
    assert!(fs::read(&path).unwrap() == expected, "one recalled");
}

/// What `user.spoolfs.legs` says of where each leg is.
fn tiers(join: &Path) -> Vec<String> {
    let told = xattr(join, "user.spoolfs.legs").unwrap_or_default();
    let tier = |line: &str| {
        let leg: serde_json::Value = serde_json::from_str(line).unwrap();
        leg["tier"].as_str().unwrap().to_owned()
    };
    told.lines().map(tier).collect()
}

#[test]
fn a_join_of_three_tiers_is_right_and_tells_the_tier_of_each_leg() {
    if support::no_mount("a_join_of_three_tiers_is_right_and_tells_the_tier_of_each_leg") {
        return;
    }
    let Some(server) = SeaweedFs::start() else { return };
    // The leg in each tier, in every order.
    for (local, cached, away) in [(0, 1, 2), (1, 2, 0), (2, 0, 1)] {
        let target = Target::S3 {
            url: format!("s3://{}/pbx", server.new_bucket()),
            endpoint: server.endpoint(),
            id: SeaweedFs::ACCESS_KEY.to_owned(),
            secret: SeaweedFs::SECRET_KEY.to_owned(),
        };
        let mount = with_call(Setup { target, ..Setup::default() });
        let path = joined(&mount, CALL, 3);
        assert_eq!(
            (tiers(&path), source(&path)),
            (vec!["local".into(); 3], "stitched-local".into())
        );
        release(&mount, &leg(&mount, cached));
        release(&mount, &leg(&mount, away));
        let own = support::fixture("monitor").join(DAY).join(LEGS[cached]);
        assert!(fs::read(leg(&mount, cached)).unwrap() == fs::read(own).unwrap());
        let mut where_they_are = vec![String::new(); 3];
        for (leg, tier) in [(local, "local"), (cached, "cache"), (away, "target")] {
            where_they_are[leg] = tier.to_owned();
        }
        assert_eq!(tiers(&path), where_they_are);
        assert_eq!(source(&path), "stitched-mixed");
        assert!(fs::read(&path).unwrap() == expected(), "{where_they_are:?}");
        where_they_are[away] = "cache".to_owned();
        assert_eq!(tiers(&path), where_they_are, "what was read is at hand");
        release(&mount, &leg(&mount, local));
        where_they_are[local] = "target".to_owned();
        assert_eq!(tiers(&path), where_they_are);
    }
}

#[test]
fn chromium_plays_joins_and_seeks_in_them_wherever_their_legs_are() {
    const NAME: &str = "chromium_plays_joins_and_seeks_in_them_wherever_their_legs_are";
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
    let mut mount = prepare(Setup { target, ..Setup::default() });
    mount.env.push(("SPOOLFS_WRITE_BACK__COMPRESS", "flac".to_owned()));
    mount.start();
    copy_legs(&mount);
    let path = joined(&mount, CALL, 3);
    let seconds = (expected().len() - 44) as f64 / 16_000.0;
    for (released, tier) in
        [(&[][..], "local"), (&[1][..], "in two tiers"), (&[0, 2][..], "released")]
    {
        released.iter().for_each(|n| release(&mount, &leg(&mount, *n)));
        let played = chromium::plays(&program, &chromium::Media::File(&path));
        println!("{tier}: {played} s by Chromium, {seconds} s were recorded");
        assert!((played - seconds).abs() < 0.01, "{tier}: {played} s, not {seconds} s");
    }
}

#[test]
fn the_first_8_kib_of_released_legs_are_one_request() {
    if support::no_mount("the_first_8_kib_of_released_legs_are_one_request") {
        return;
    }
    the_first_8_kib_are_one_request("none");
}

/// Nothing but what is served is decoded: more would be asked for.
#[test]
fn the_first_8_kib_of_legs_stored_as_flac_are_one_request() {
    if support::no_mount("the_first_8_kib_of_legs_stored_as_flac_are_one_request") {
        return;
    }
    the_first_8_kib_are_one_request("flac");
}

#[track_caller]
fn the_first_8_kib_are_one_request(compress: &str) {
    let Some(server) = SeaweedFs::start() else { return };
    let proxy = Proxy::before(&server.endpoint());
    let bucket = server.new_bucket();
    let target = Target::S3 {
        url: format!("s3://{bucket}/pbx"),
        endpoint: proxy.endpoint(),
        id: SeaweedFs::ACCESS_KEY.to_owned(),
        secret: SeaweedFs::SECRET_KEY.to_owned(),
    };
    let mut mount = prepare(Setup { target, ..Setup::default() });
    mount.env.push(("SPOOLFS_WRITE_BACK__COMPRESS", compress.to_owned()));
    mount.start();
    copy_legs(&mount);
    match compress {
        "none" => known(&mount, 3),
        _ => drop(joined(&mount, CALL, 3)),
    }
    (0..3).for_each(|n| release(&mount, &leg(&mount, n)));
    let key = xattr(&leg(&mount, 0), "user.spoolfs.key").unwrap();
    assert_eq!(key.ends_with(".flac"), compress == "flac", "{key}");
    // Nothing is left in memory; the cache never had them.
    mount.restart();
    let until = Instant::now() + support::look::PATIENCE;
    while mount.said_all().matches("the target is ready").count() < 2 {
        assert!(Instant::now() < until, "{}", mount.said());
        std::thread::sleep(Duration::from_millis(20));
    }
    proxy.set(Spoil::Busy, u64::MAX, 0);
    let path = mount.path("stitched").join(format!("{CALL}.wav"));
    let began = Instant::now();
    assert_eq!(fs::metadata(&path).unwrap().len(), expected().len() as u64);
    // The daemon's own go on beside: its marker, its journal.
    let asked = || {
        let mut asked = proxy.asked();
        asked.retain(|line| line.contains(".wav"));
        asked
    };
    assert_eq!(asked(), [""; 0], "requests for a stat");
    let mut head = vec![0; 8192];
    File::open(&path).unwrap().read_exact_at(&mut head, 0).unwrap();
    let took = began.elapsed();
    assert!(head == expected()[..8192]);
    println!("stat, open and the first 8 KiB took {took:?}: {:?}", asked());
    assert_eq!(asked().len(), 1, "{:?}", asked());
    assert!(fs::read(&path).unwrap() == expected(), "all of it");
}

#[track_caller]
/// One plain, one FLAC, one FLAC and sealed: what is asked of the target is what is served.
#[test]
fn a_join_of_a_plain_a_flac_and_a_sealed_leg_fetches_nothing_that_it_does_not_serve() {
    if support::no_mount(
        "a_join_of_a_plain_a_flac_and_a_sealed_leg_fetches_nothing_that_it_does_not_serve",
    ) {
        return;
    }
    let Some(server) = SeaweedFs::start() else { return };
    let proxy = Proxy::before(&server.endpoint());
    let target = Target::S3 {
        url: format!("s3://{}/pbx", server.new_bucket()),
        endpoint: proxy.endpoint(),
        id: SeaweedFs::ACCESS_KEY.to_owned(),
        secret: SeaweedFs::SECRET_KEY.to_owned(),
    };
    let mut mount = prepare(Setup { target, ..Setup::default() });
    let key = age::x25519::Identity::generate();
    let file = mount.root.join("identity");
    fs::write(&file, key.to_string().expose_secret()).unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o400)).unwrap();
    mount.env.push(("SPOOLFS_READ__IDENTITY_FILE", file.display().to_string()));
    mount.start();
    copy_legs(&mount);
    drop(joined(&mount, CALL, 3));
    for (n, suffix) in ["1.wav", ".wav.flac", ".wav.flac.age"].into_iter().enumerate() {
        release(&mount, &leg(&mount, n));
        let key_of = xattr(&leg(&mount, n), "user.spoolfs.key").unwrap();
        assert!(key_of.ends_with(suffix), "{key_of}");
        mount.stop();
        match n {
            0 => mount.env.push(("SPOOLFS_WRITE_BACK__COMPRESS", "flac".to_owned())),
            1 => {
                let public = key.to_public().to_string();
                mount.env.push(("SPOOLFS_WRITE_BACK__ENCRYPT_TO", public));
            }
            _ => {}
        }
        // Nothing is left in memory, and what is sealed is never in the cache.
        let cache = mount.state.join("cache");
        let _there_may_be_none = fs::remove_dir_all(cache);
        mount.start();
    }
    let until = Instant::now() + support::look::PATIENCE;
    while mount.said_all().matches("the target is ready").count() < 4 {
        assert!(Instant::now() < until, "{}", mount.said());
        std::thread::sleep(Duration::from_millis(20));
    }
    proxy.set(Spoil::Busy, u64::MAX, 0);
    let (path, all) = (joined(&mount, CALL, 3), expected());
    let join = File::open(&path).unwrap();
    let mut start = 44;
    for leg in LEGS {
        let before = proxy.asked().len();
        let own = fs::metadata(support::fixture("monitor").join(DAY).join(leg)).unwrap().len() - 44;
        // From the middle of the leg.
        let at = (start + own / 2) as usize;
        let mut part = vec![0; 4096.min(own as usize / 2)];
        join.read_exact_at(&mut part, at as u64).unwrap();
        assert!(part == all[at..at + part.len()], "{leg}");
        let asked: Vec<String> =
            proxy.asked().into_iter().skip(before).filter(|line| line.contains(".wav")).collect();
        println!("4 KiB of {leg}: {asked:?}");
        assert_eq!(asked.len(), 1, "{asked:?}");
        assert!(asked[0].contains(leg), "{asked:?}");
        start += own;
    }
    assert!(fs::read(&path).unwrap() == all, "all of it");
    let files: Vec<PathBuf> =
        LEGS.iter().map(|leg| support::fixture("monitor").join(DAY).join(leg)).collect();
    assert!(fs::read(&path).unwrap()[44..] == sox(&files), "as sox joins the originals");
}

fn refused<T: std::fmt::Debug>(result: std::io::Result<T>, errno: Errno) {
    let error = result.expect_err("it was done");
    assert_eq!(error.raw_os_error(), Some(errno.raw_os_error()), "{error}");
}

#[test]
fn joins_can_be_read_and_nothing_else() {
    if support::no_mount("joins_can_be_read_and_nothing_else") {
        return;
    }
    let mount = with_call(Setup::default());
    let path = joined(&mount, CALL, 3);
    let (dir, other) = (mount.path("stitched"), mount.path("other.wav"));
    fs::write(&other, b"x").unwrap();
    // `ls -l` asks for it once then, and not for each name.
    let acl = rustix::fs::getxattr(&path, "system.posix_acl_access", &mut [0; 64][..]);
    refused(acl.map_err(Into::into), Errno::OPNOTSUPP);
    refused(OpenOptions::new().write(true).open(&path), Errno::PERM);
    refused(OpenOptions::new().append(true).open(&path), Errno::PERM);
    refused(File::create(&path), Errno::PERM);
    refused(File::create(dir.join("new.wav")), Errno::PERM);
    refused(fs::remove_file(&path), Errno::PERM);
    refused(fs::rename(&path, mount.path("moved.wav")), Errno::PERM);
    refused(fs::rename(&other, &path), Errno::PERM);
    refused(fs::rename(&other, dir.join("new.wav")), Errno::PERM);
    refused(fs::hard_link(&path, mount.path("linked.wav")), Errno::PERM);
    refused(fs::hard_link(&other, dir.join("new.wav")), Errno::PERM);
    refused(fs::create_dir(dir.join("new")), Errno::PERM);
    refused(std::os::unix::fs::symlink("x", dir.join("new")), Errno::PERM);
    refused(fs::rename(&dir, mount.path("moved")), Errno::PERM);
    refused(fs::remove_dir(&dir), Errno::PERM);
    refused(fs::create_dir(&dir), Errno::EXIST);
    refused(
        rustix::fs::setxattr(&path, "user.a", b"b", rustix::fs::XattrFlags::empty())
            .map_err(Into::into),
        Errno::PERM,
    );
    // As `fwconsole chown` does for a whole tree.
    chown(&path, Some(1234), Some(1234)).unwrap();
    chown(&dir, Some(1234), Some(1234)).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o777)).unwrap();
    let meta = fs::metadata(&path).unwrap();
    assert_eq!((meta.uid(), meta.mode() & 0o7777), (0, 0o444));
    refused(File::open(dir.join("no such call.wav")), Errno::NOENT);
    refused(File::open(dir.join("no suffix")), Errno::NOENT);
    // Who can not get at a leg can not get at it by the join.
    fs::set_permissions(mount.path("2026/11"), fs::Permissions::from_mode(0o750)).unwrap();
    let path = joined(&mount, CALL, 3);
    let until = Instant::now() + support::look::PATIENCE;
    while fs::metadata(&path).unwrap().mode() & 0o7777 != 0o440 {
        assert!(Instant::now() < until, "{:o}", fs::metadata(&path).unwrap().mode());
    }
    // Copied as a backup would, by every way the kernel has.
    fs::copy(&path, mount.path("copy.wav")).unwrap();
    assert!(fs::read(mount.path("copy.wav")).unwrap() == fs::read(&path).unwrap());
    assert!(fs::read(&path).unwrap() == expected());
}

#[test]
fn an_open_join_stays_as_it_is() {
    if support::no_mount("an_open_join_stays_as_it_is") {
        return;
    }
    let mount = with_call(Setup::default());
    let (id, legs) = first_call();
    write_calls(&mount, &[(id, legs[..2].to_vec())]);
    let path = joined(&mount, CALL, 2);
    let before = fs::read(&path).unwrap();
    let old = File::open(&path).unwrap();
    // A late leg.
    write_calls(&mount, &[(id, legs)]);
    let path = joined(&mount, CALL, 3);
    assert!(fs::read(&path).unwrap() == expected());
    assert_eq!(old.metadata().unwrap().len(), before.len() as u64);
    let mut again = vec![0; before.len()];
    old.read_exact_at(&mut again, 0).unwrap();
    assert!(again == before, "what is open changed");
    // A leg that changes is an error to who has the join open, never other audio.
    let late = File::open(&path).unwrap();
    rustix::fs::fadvise(&late, 0, None, rustix::fs::Advice::DontNeed).unwrap();
    fs::write(leg(&mount, 1), vec![1; 1000]).unwrap();
    let mut tail = vec![0; 40_000];
    let read = late.read_exact_at(&mut tail, 95_724);
    refused(read, Errno::IO);
    // And the next open finds the join without what can no more be decoded.
    let path = joined(&mount, CALL, 2);
    assert_ne!(fs::metadata(&path).unwrap().ino(), late.metadata().unwrap().ino());
}

#[test]
fn an_open_join_survives_the_daemon() {
    if support::no_mount("an_open_join_survives_the_daemon") {
        return;
    }
    for top in ["", "passthrough = \"never\"\nresend = \"never\"\n"] {
        survives_the_daemon(top);
    }
}

fn survives_the_daemon(top: &str) {
    let options: &[&str] = &["--restart-delay", "1ms", "--failures", "1000"];
    let mount = with_call(Setup { keeper: Some(options), top: top.into(), ..Setup::default() });
    let path = joined(&mount, CALL, 3);
    release(&mount, &leg(&mount, 2));
    let open = File::open(&path).unwrap();
    let before = mount.server().unwrap();
    // The call has other legs by the time it is taken over.
    write_calls(&mount, &[(CALL, vec![format!("{DAY}/{}", LEGS[0])])]);
    kill_process(before, Signal::KILL).unwrap();
    let mut bytes = vec![0; expected().len()];
    open.read_exact_at(&mut bytes, 0).unwrap();
    assert!(bytes == expected(), "what was open changed");
    assert_ne!(mount.server(), Some(before));
    write_calls(&mount, &[first_call()]);
    let again = joined(&mount, CALL, 3);
    assert_eq!(fs::metadata(&again).unwrap().ino(), open.metadata().unwrap().ino());
    drop(open);
    assert!(fs::read(&again).unwrap() == expected());
}

#[test]
fn formats_that_differ_become_8_khz_as_sox_decodes_them() {
    if support::no_mount("formats_that_differ_become_8_khz_as_sox_decodes_them") {
        return;
    }
    let mut mount = prepare(Setup::default());
    mount.start();
    let from = support::fixture("formats");
    let mut legs = names(&from);
    for name in &legs {
        fs::copy(from.join(name), mount.path(name)).unwrap();
    }
    fs::write(mount.path("broken.wav"), b"no audio").unwrap();
    legs.iter()
        .chain([&"broken.wav".to_owned()])
        .for_each(|name| support::look::closed(&mount.path(name)));
    // The one that is resampled comes last.
    legs.sort_by_key(|name| name.ends_with("wav16"));
    let call = [legs.clone(), vec!["broken.wav".to_owned()]].concat();
    write_calls(&mount, &[("mixed", call)]);
    let path = joined(&mount, "mixed", 6);
    let told = xattr(&path, "user.spoolfs.legs").unwrap();
    assert!(told.contains("\"left_out\":\"it does not begin with RIFF\""), "{told}");
    let bytes = fs::read(&path).unwrap();
    let mut at = 44;
    for name in &legs {
        let file = from.join(name);
        let raw: &[&str] = match name.rsplit('.').next().unwrap() {
            "sln" => &["-t", "raw", "-r", "8000", "-e", "signed", "-b", "16", "-c", "1", "FILES"],
            "ulaw" => &["-t", "ul", "-r", "8000", "-c", "1", "FILES"],
            "alaw" => &["-t", "al", "-r", "8000", "-c", "1", "FILES"],
            "gsm" => &["-t", "gsm", "-r", "8000", "-c", "1", "FILES"],
            "wav16" => &["-t", "wav", "FILES", "-r", "8000"],
            _ => &["-t", "wav", "FILES"],
        };
        let arguments = [raw, &["-t", "raw", "-e", "signed", "-b", "16", "-"]].concat();
        let arguments =
            if name.ends_with("wav16") { [&["-D"], &arguments[..]].concat() } else { arguments };
        let theirs = samples_by("sox", &arguments, &[file]);
        let ours = &bytes[at..at + theirs.len()];
        let sample = |b: &[u8]| {
            b.as_chunks::<2>()
                .0
                .iter()
                .map(|b| i32::from(i16::from_le_bytes(*b)))
                .collect::<Vec<_>>()
        };
        let (ours, known) = (sample(ours), sample(&theirs));
        let power = |s: &mut dyn Iterator<Item = i32>| s.map(|s| f64::from(s).powi(2)).sum::<f64>();
        let off = power(&mut ours.iter().zip(&known).map(|(a, b)| a - b));
        let off = off / power(&mut known.iter().copied());
        // Between 3.7 and 4 kHz another filter lets through another share.
        let allowed = if name.ends_with("wav16") { 1e-3 } else { 0.0 };
        assert!(off <= allowed, "{name} differs by {off} of its power");
        at += theirs.len();
    }
    assert_eq!(at, bytes.len());
}

#[test]
fn a_command_writes_a_join_to_a_file() {
    if support::no_mount("a_command_writes_a_join_to_a_file") {
        return;
    }
    let mount = with_call(Setup {
        end: "\n[stitched]\nlisted = false\ndirectory = \"j\"\n".into(),
        ..Setup::default()
    });
    assert_eq!(names(&mount.mountpoint), ["2026"]);
    let out = mount.root.join("out.wav");
    let until = Instant::now() + support::look::PATIENCE;
    loop {
        let ran = mount.cli(["stitch".as_ref(), CALL.as_ref(), "-o".as_ref(), out.as_os_str()]);
        if ran.status.success() && fs::read(&out).unwrap() == expected() {
            break;
        }
        assert!(Instant::now() < until, "{}{}", ran.out, ran.err);
    }
    let ran = mount.cli(["stitch".as_ref(), "no.1".as_ref(), "-o".as_ref(), out.as_os_str()]);
    assert!(ran.err.contains("no recording of a call \"no.1\""), "{}", ran.err);
}

#[test]
fn a_listing_of_many_joins_asks_by_the_page_and_shows_what_is_read() {
    const COUNT: usize = 300;
    if support::no_mount("a_listing_of_many_joins_asks_by_the_page_and_shows_what_is_read") {
        return;
    }
    let place = tempfile::tempdir().unwrap();
    let records = place.path().join("Master.csv");
    let end = format!("[calls]\nsource = \"csv\"\npath = {records:?}\ntime_zone = \"UTC\"\n");
    let mut mount = Setup { end, ..Setup::default() }.prepare();
    fs::create_dir_all(mount.path(DAY)).unwrap();
    let mut text = String::new();
    for call in 0..COUNT {
        let time = "2026-11-21 02:27:09";
        for leg in 0..2 {
            let (linked, own) =
                (format!("179522{call:04}.1"), format!("179522{call:04}.{}", leg + 1));
            text += &format!(
                "\"\",\"201\",\"202\",\"ctx\",\"\",\"SIP/a\",\"SIP/b\",\"Dial\",\"\",\"{time}\",\
                 \"{time}\",\"{time}\",6,3,\"ANSWERED\",\"DOCUMENTATION\",\"{own}\",\"\",\"\",\
                 \"{linked}\",{leg}\n"
            );
            let len = 160 * (1 + (call + leg) % 5);
            let coding = spoolfs::codec::Coding::Pcm16;
            let mut audio = spoolfs::codec::wav_header(coding, 8000, 1, len as u64);
            audio.resize(audio.len() + len, leg as u8);
            fs::write(mount.path(DAY).join(format!("{own}.wav")), audio).unwrap();
        }
    }
    fs::write(&records, text).unwrap();
    mount.start();
    let listed = || {
        let ran = Command::new("ls").arg("-l").arg(mount.path("stitched")).output().unwrap();
        assert!(ran.status.success(), "{}\n{}", String::from_utf8_lossy(&ran.stderr), mount.said());
        let text = String::from_utf8(ran.stdout).unwrap();
        let size_and_name = |line: &str| {
            let words: Vec<&str> = line.split_whitespace().collect();
            (words[4].parse::<u64>().unwrap(), (*words.last().unwrap()).to_owned())
        };
        text.lines().skip(1).map(size_and_name).collect::<Vec<_>>()
    };
    let reads = || mount.status()["catalog_reads"].as_u64().unwrap();
    let until = Instant::now() + Duration::from_secs(180);
    // Others read the catalog, too: what was found below is hashed, and names are followed.
    let joins = loop {
        let before = reads();
        let joins = listed();
        let cost = reads() - before;
        if joins.len() == COUNT && cost < COUNT as u64 / 2 {
            break joins;
        }
        let found = joins.len();
        assert!(Instant::now() < until, "{cost} reads for {found} joins\n{}", mount.said());
        std::thread::sleep(Duration::from_millis(100));
    };
    for (size, name) in joins {
        let path = mount.path("stitched").join(&name);
        assert_eq!(fs::read(&path).unwrap().len() as u64, size, "{name}");
        assert_eq!(fs::metadata(&path).unwrap().len(), size, "{name}");
    }
}

#[test]
fn a_directory_that_is_there_is_not_hidden() {
    if support::no_mount("a_directory_that_is_there_is_not_hidden") {
        return;
    }
    let mut mount = prepare(Setup::default());
    fs::create_dir(mount.path("stitched")).unwrap();
    fs::write(mount.path("stitched/real.wav"), b"x").unwrap();
    mount.start();
    assert_eq!(names(&mount.path("stitched")), ["real.wav"]);
    assert!(mount.said_all().contains("stitched.directory"));
    fs::write(mount.path("stitched/another.wav"), b"y").unwrap();
}

#[test]
fn joins_are_shown_where_they_are_wanted() {
    if support::no_mount("joins_are_shown_where_they_are_wanted") {
        return;
    }
    let end = "[stitched]\ndirectory = \"ORIG/a/calls\"\n".to_owned();
    let mut mount = prepare(Setup { end, ..Setup::default() });
    fs::create_dir_all(mount.path("ORIG/a")).unwrap();
    mount.start();
    copy_legs(&mount);
    let place = mount.path("ORIG/a/calls");
    let join = format!("{CALL}.wav");
    let shows = |mount: &Mount, place: &Path| {
        let until = Instant::now() + support::look::PATIENCE;
        while fs::read(place.join(&join)).ok() != Some(expected()) {
            assert!(Instant::now() < until, "{place:?}\n{}", mount.said());
            std::thread::sleep(Duration::from_millis(20));
        }
        assert_eq!(names(place.parent().unwrap()), ["calls"]);
        assert_eq!(names(place), [join.as_str()]);
    };
    shows(&mount, &place);
    assert_eq!(names(&mount.mountpoint), ["2026", "ORIG"]);
    assert!(!mount.path("calls").exists() && !mount.path("ORIG/calls").exists());
    let refused = |done: std::io::Result<()>| {
        assert_eq!(done.unwrap_err().raw_os_error(), Some(Errno::PERM.raw_os_error()));
    };
    refused(fs::rename(&place, mount.path("elsewhere")));
    refused(fs::remove_dir(&place));
    refused(fs::create_dir(place.join("a")));
    fs::create_dir(mount.path("calls")).unwrap();
    let out = mount.root.join("out.wav");
    mount.cli(["stitch".as_ref(), CALL.as_ref(), "-o".as_ref(), out.as_os_str()]).ok();
    assert!(fs::read(&out).unwrap() == expected());
    // It goes with what it is in, until the next start.
    fs::rename(mount.path("ORIG"), mount.path("OLD")).unwrap();
    shows(&mount, &mount.path("OLD/a/calls"));
    mount.restart();
    assert!(mount.said_all().contains("joined calls are not shown: make the directory"));
    assert_eq!(names(&mount.path("OLD/a")), [""; 0]);
    fs::rename(mount.path("OLD"), mount.path("ORIG")).unwrap();
    mount.restart();
    shows(&mount, &place);
}

/// Workers for the local disk waited up to 2 s each, and writes with O_SYNC behind them.
#[test]
fn regression_who_asks_for_joins_before_call_records_are_open_delays_no_write() {
    if support::no_mount(
        "regression_who_asks_for_joins_before_call_records_are_open_delays_no_write",
    ) {
        return;
    }
    let top = "passthrough = \"never\"\n".to_owned();
    let mut mount = prepare(Setup { top, ..Setup::default() });
    let (calls, fifo) = (mount.root.join("calls"), mount.root.join("fifo"));
    fs::remove_file(&calls).unwrap();
    rustix::fs::mkfifoat(rustix::fs::CWD, &calls, rustix::fs::Mode::RUSR).unwrap();
    mount.start();
    let (begun, begins) = std::sync::mpsc::channel();
    let ask = |number: usize| {
        let (join, begun) = (mount.path("stitched").join(format!("{number}.wav")), begun.clone());
        std::thread::spawn(move || {
            begun.send(rustix::thread::gettid()).unwrap();
            fs::metadata(join).map(|_| ())
        })
    };
    let asking: Vec<_> = (0..12).map(ask).collect();
    for thread in begins.iter().take(asking.len()) {
        let doing = format!("/proc/self/task/{thread}/syscall");
        let asks = format!("{} ", libc::SYS_statx);
        support::look::eventually(&mount, "all of them wait", || {
            fs::read_to_string(&doing).unwrap().starts_with(&asks)
        });
    }
    let (call, (told, tell)) = (mount.path("call.wav"), std::sync::mpsc::channel());
    std::thread::spawn(move || {
        let mut options = OpenOptions::new();
        options.write(true).create(true).custom_flags(libc::O_SYNC);
        let mut file = options.open(call)?;
        file.write_all(b"recorded")?;
        file.sync_all()?;
        let _only_if_too_late = told.send(());
        std::io::Result::Ok(())
    });
    tell.recv_timeout(support::look::PATIENCE).expect("the write waits for nobody");
    assert!(asking.iter().all(|asking| !asking.is_finished()), "\n{}", mount.said());
    fs::rename(&calls, &fifo).unwrap();
    write_calls(&mount, &[]);
    drop(OpenOptions::new().write(true).open(fifo).unwrap());
    for asking in asking {
        assert_eq!(asking.join().unwrap().unwrap_err().kind(), std::io::ErrorKind::NotFound);
    }
}

/// What Asterisk wrote of the fixtures' calls, in three of its formats.
#[test]
fn calls_are_joined_as_asterisk_s_own_records_tell() {
    if support::no_mount("calls_are_joined_as_asterisk_s_own_records_tell") {
        return;
    }
    const CUSTOM: &str = "start clid src dst dcontext channel dstchannel - - duration billsec \
        disposition - accountcode uniqueid - did recordingfile - - linkedid - sequence start answer \
        end";
    let columns: Vec<_> = CUSTOM.split_whitespace().map(|c| format!("{c:?}")).collect();
    let path = |name: &str| support::fixture("cdr").join(name).display().to_string();
    for source in [
        format!(
            "source = \"csv\"\npath = {:?}\ncolumns = [{}]",
            path("custom-Master.csv"),
            columns.join(", ")
        ),
        format!("source = \"csv\"\npath = {:?}", path("csv-Master.csv")),
        format!("source = \"sqlite\"\npath = {:?}", path("master.db")),
    ] {
        joined_by(&source);
    }
}

/// The same rows in real servers, as FreePBX and Asterisk keep them there.
#[test]
fn calls_are_joined_as_rows_of_a_database_server_tell() {
    let test = "calls_are_joined_as_rows_of_a_database_server_tell";
    if support::no_mount(test) {
        return;
    }
    for engine in Engine::ALL {
        let Some(database) = Database::start(test, engine) else { continue };
        database.create_with_fixtures("asteriskcdrdb");
        let preset = if engine == Engine::Mariadb { "preset = \"freepbx\"\n" } else { "" };
        joined_by(&format!("{preset}{}", database.toml("asteriskcdrdb")));
    }
}

/// The fixtures' calls: in which folder the legs are, and their names in the order of their time.
const CALLS: [(&str, &str, [&str; 3]); 4] = [
    (
        "1795228029.0",
        "monitor",
        [
            "external-3002-02079460002-20261121-022709-1795228029.0.wav",
            "q-rigq-02079460002-20261121-022709-1795228029.15.wav",
            "exten-4002-02079460002-20261121-022712-1795228032.21.wav",
        ],
    ),
    (CALL, "monitor", LEGS),
    (
        "1795228029.4",
        "more",
        [
            "external-3003-02079460003-20261121-022709-1795228029.4.wav",
            "q-rigq-02079460003-20261121-022709-1795228029.13.wav",
            "exten-4003-02079460003-20261121-022712-1795228032.17.wav",
        ],
    ),
    (
        "1795228029.6",
        "more",
        [
            "external-3004-02079460004-20261121-022709-1795228029.6.wav",
            "q-rigq-02079460004-20261121-022709-1795228029.9.wav",
            "exten-4004-02079460004-20261121-022712-1795228032.20.wav",
        ],
    ),
];

/// The fixtures' calls, with their legs recorded through the mount and the records of `source`.
#[track_caller]
fn joined_by(source: &str) {
    let end = format!("[calls]\nquiet = \"1s\"\ntime_zone = \"UTC\"\n{source}\n");
    let mount = Setup { end, ..Setup::default() }.mount();
    fs::create_dir_all(mount.path(DAY)).unwrap();
    for (_, folder, legs) in CALLS {
        for leg in legs {
            let from = support::fixture(folder).join(DAY).join(leg);
            fs::copy(from, mount.path(DAY).join(leg)).unwrap();
        }
    }
    let check = |call: &str, folder: &str, legs: [&str; 3]| {
        let join = joined(&mount, call, 3);
        let bytes = fs::read(&join).unwrap();
        let root = support::fixture(folder).join(DAY);
        assert!(bytes == join_of(&root, &legs), "{call} by {source}");
        let legs = legs.map(|leg| root.join(leg));
        assert!(sox(&legs) == bytes[44..], "sox joins {call} otherwise, {source}");
        assert!(ffmpeg(&mount, &legs) == bytes[44..], "ffmpeg joins {call} otherwise, {source}");
    };
    for (call, folder, legs) in CALLS {
        check(call, folder, legs);
    }
    let listed = CALLS.map(|(call, ..)| format!("{call}.wav"));
    assert_eq!(names(&mount.path("stitched")), listed, "{source}");
    release(&mount, &leg(&mount, 1));
    check(CALL, "monitor", LEGS);
    assert_eq!(fs::read_dir(mount.path(DAY)).unwrap().count(), 12);
}

/// A customer (1) calls an agent (2), who calls a colleague (7 to 8) from a second line and hangs
/// up: customer and colleague are bridged. Channel 8 takes the older linkedid; the record of 7 was
/// finished before and keeps its own. Without the row in which 8 still has it, only events tell.
#[test]
fn an_attended_transfer_in_cdr_and_cel_rows_drops_no_leg() {
    if support::no_mount("an_attended_transfer_in_cdr_and_cel_rows_drops_no_leg") {
        return;
    }
    let id = |channel: u32| format!("1795228000.{channel}");
    let time = |second: u32| format!("2026-11-21 02:26:{second:02}");
    let row = |own: u32, linked: u32, second: u32, sequence: u32| {
        let (own, linked, time) = (id(own), id(linked), time(second));
        format!(
            "\"\",\"201\",\"202\",\"ctx\",\"\",\"SIP/a\",\"SIP/b\",\"Dial\",\"\",\"{time}\",\"{time}\",\
             \"{time}\",6,3,\"ANSWERED\",\"DOCUMENTATION\",\"{own}\",\"\",\"\",\"{linked}\",\
             {sequence}\n"
        )
    };
    let event = |kind: &str, own: u32, linked: u32, second: u32| {
        let (own, linked, time) = (id(own), id(linked), time(second));
        format!(
            "\"{kind}\",\"{time}\",\"\",\"\",\"\",\"\",\"\",\"\",\"ctx\",\"SIP/a\",\"\",\"\",\"3\",\"\",\
             \"{own}\",\"{linked}\",\"\",\"\",\"\",\"\"\n"
        )
    };
    let rows = [row(7, 7, 30, 7), row(2, 1, 5, 2), row(8, 1, 45, 9), row(1, 1, 0, 1)].concat();
    let events = [
        event("CHAN_START", 1, 1, 0),
        event("CHAN_START", 8, 7, 31),
        event("BRIDGE_ENTER", 8, 1, 45),
        event("LINKEDID_END", 7, 7, 45),
    ];
    let by_a_row = (format!("{}{rows}", row(8, 7, 31, 8)), String::new());
    for (rows, events) in [by_a_row, (rows, events.concat())] {
        let place = tempfile::tempdir().unwrap();
        let (cdr, cel) = (place.path().join("Master.csv"), place.path().join("cel.csv"));
        fs::write(&cdr, rows).unwrap();
        fs::write(&cel, &events).unwrap();
        let end = format!(
            "[calls]\nquiet = \"1s\"\ntime_zone = \"UTC\"\nsource = \"csv\"\npath = {cdr:?}\n\
             cel = {cel:?}\n"
        );
        let mount = Setup { end, ..Setup::default() }.mount();
        // Channels in the order of their recordings, each with audio of its own.
        let (root, audio) =
            (support::fixture("monitor").join(DAY), [LEGS[1], LEGS[2], LEGS[0], CALLS[0].2[1]]);
        for (channel, audio) in [1, 2, 7, 8].into_iter().zip(audio) {
            let name = format!("leg-202-201-20261121-022640-{}.wav", id(channel));
            fs::copy(root.join(audio), mount.path(name)).unwrap();
        }
        let path = joined(&mount, &id(1), 4);
        assert!(fs::read(&path).unwrap() == join_of(&root, &audio), "events: {events:?}");
        assert_eq!(names(&mount.path("stitched")), [format!("{}.wav", id(1))]);
        for channel in [2, 7, 8] {
            let other = mount.path("stitched").join(format!("{}.wav", id(channel)));
            assert_eq!(fs::metadata(&other).unwrap().ino(), fs::metadata(&path).unwrap().ino());
        }
    }
}
