//! Recordings that are sealed with age: on a mount, and without spoolfs by what docs/FORMAT.md says.

mod support;

use age::secrecy::ExposeSecret;
use rustix::io::Errno;
use rustix::process::{Pid, Resource, Rlimit, Signal, getrlimit, kill_process, setrlimit};
use spoolfs::codec::{Coding, wav_header};
use std::fs::{self, File, OpenOptions, Permissions};
use std::io::Write;
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};
use support::look::eventually;
use support::mount::{Mount, Setup, Target};
use support::run::run;
use support::seaweedfs::SeaweedFs;

/// A secret key, and its public one.
fn pair() -> (String, String) {
    let key = age::x25519::Identity::generate();
    (key.to_string().expose_secret().to_owned(), key.to_public().to_string())
}

fn call(len: u64, seed: u64) -> Vec<u8> {
    let mut wav = wav_header(Coding::Pcm16, 8000, 1, len);
    wav.extend(pcm(len, seed));
    wav
}

fn pcm(len: u64, seed: u64) -> Vec<u8> {
    let mut random = fastrand::Rng::with_seed(seed);
    let tone = |n: u64| ((n as f64 / 9.0).sin() * 3000.0) as i16 + random.i16(-90..90);
    (0..len / 2).map(tone).flat_map(i16::to_le_bytes).collect()
}

/// The recordings that are tried, by name; what their objects are called.
fn recordings() -> Vec<(&'static str, Vec<u8>, &'static str)> {
    let mut noise = vec![0; 400_001];
    fastrand::Rng::with_seed(3).fill(&mut noise);
    vec![
        ("call.wav", call(1_300_000, 1), "call.wav.flac.age"),
        ("short.wav", call(30_000, 2), "short.wav.flac.age"),
        ("noise.mp3", noise, "noise.mp3.age"),
        ("note.txt", b"a sidecar".to_vec(), "note.txt.age"),
    ]
}

/// Writes a secret key to a file that nobody else may read.
fn key_file(mount: &Mount, name: &str, secret: &str) -> PathBuf {
    let path = mount.root.join(name);
    fs::write(&path, format!("# a key\n{secret}\n")).unwrap();
    fs::set_permissions(&path, Permissions::from_mode(0o400)).unwrap();
    path
}

/// What is archived is FLAC where it can be, and sealed.
fn prepared(public: &str) -> Mount {
    let mut mount = Setup::default().prepare();
    mount.env.push(("SPOOLFS_WRITE_BACK__COMPRESS", "flac".to_owned()));
    mount.env.push(("SPOOLFS_WRITE_BACK__SCRUB_EVERY", "forever".to_owned()));
    mount.env.push(("SPOOLFS_WRITE_BACK__JOURNAL_INTERVAL", "1s".to_owned()));
    mount.env.push(("SPOOLFS_WRITE_BACK__ENCRYPT_TO", public.to_owned()));
    mount
}

fn use_key(mount: &mut Mount, file: Option<&Path>) {
    mount.env.retain(|(name, _)| *name != "SPOOLFS_READ__IDENTITY_FILE");
    if let Some(file) = file {
        let name = file.to_str().unwrap().to_owned();
        mount.env.push(("SPOOLFS_READ__IDENTITY_FILE", name));
    }
}

#[track_caller]
fn command(mount: &Mount, what: &str, path: &Path) -> support::run::Ran {
    mount.cli([what.as_ref(), path.as_os_str()]).ok()
}

#[track_caller]
fn release(mount: &Mount, path: &Path) {
    command(mount, "archive", path);
    command(mount, "release", path);
    assert_eq!(xattr(path, "user.spoolfs.source"), "archive");
}

fn xattr(path: &Path, name: &str) -> String {
    let mut value = [0; 4096];
    let len = rustix::fs::getxattr(path, name, &mut value[..]).unwrap_or(0);
    String::from_utf8_lossy(&value[..len]).into_owned()
}

/// The object that `spoolfs url` leads to.
fn object(mount: &Mount, path: &Path) -> PathBuf {
    let url = command(mount, "url", path).out;
    PathBuf::from(url.trim().strip_prefix("file://").unwrap())
}

/// Reading it whole fails with this.
#[track_caller]
fn refused(mount: &Mount, path: &Path, errno: Errno) {
    let error = fs::read(path).expect_err("it could be read");
    assert_eq!(error.raw_os_error(), Some(errno.raw_os_error()), "{}", mount.said());
}

/// Whether a file below a directory holds these bytes.
fn found_below(dir: &Path, bytes: &[u8]) -> Option<PathBuf> {
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let path = entry.path();
        let kind = entry.file_type().unwrap();
        let found = match kind.is_dir() {
            true => found_below(&path, bytes),
            false if kind.is_file() => {
                let all = fs::read(&path).unwrap_or_default();
                all.windows(bytes.len()).any(|window| window == bytes).then_some(path)
            }
            false => None,
        };
        if found.is_some() {
            return found;
        }
    }
    None
}

#[test]
fn sealed_recordings_are_what_they_were() {
    if support::no_mount("sealed_recordings_are_what_they_were") {
        return;
    }
    let (secret, public) = pair();
    let mut mount = prepared(&public);
    let key = key_file(&mount, "identity", &secret);
    use_key(&mut mount, Some(&key));
    mount.start();
    for (name, bytes, stored) in &recordings() {
        fs::write(mount.path(name), bytes).unwrap();
        release(&mount, &mount.path(name));
        let object = object(&mount, &mount.path(name));
        assert!(object.to_string_lossy().ends_with(stored), "{}", object.display());
        assert!(fs::read(&object).unwrap().starts_with(b"age-encryption.org/v1\n"), "{name}");
    }
    mount.restart();
    let mut random = fastrand::Rng::with_seed(8);
    for (name, bytes, _) in &recordings() {
        let path = mount.path(name);
        let file = File::open(&path).unwrap();
        assert_eq!(file.metadata().unwrap().len(), bytes.len() as u64);
        for _ in 0..20 {
            let start = random.usize(..bytes.len());
            let mut part = vec![0; random.usize(1..50_000).min(bytes.len() - start)];
            file.read_exact_at(&mut part, start as u64).unwrap();
            assert!(part == bytes[start..start + part.len()], "{name} from {start}");
        }
        assert!(fs::read(&path).unwrap() == *bytes, "{name}");
        command(&mount, "verify", &path);
    }
    // Nothing that was read is on the disk, in the archive, or said.
    let audio = &recordings()[2].1[200_000..200_032];
    for dir in [&mount.state, &mount.target, &mount.runtime] {
        assert_eq!(found_below(dir, audio), None);
        assert_eq!(found_below(dir, secret.as_bytes()), None);
    }
    assert!(!mount.said_all().contains(&secret));
    let status = mount.status().to_string();
    assert!(!status.contains(&secret));
    for (name, bytes, _) in &recordings() {
        command(&mount, "recall", &mount.path(name));
        assert_eq!(xattr(&mount.path(name), "user.spoolfs.source"), "local");
        assert!(fs::read(mount.path(name)).unwrap() == *bytes, "{name}");
    }
    mount.stop();
    mount.fsck();
}

/// The table of docs/SECURITY.md: 64 bytes of audio, a number and the id of a call that are in a name,
/// and two secrets are looked for in everything that is kept, and in names and headers of objects.
#[test]
fn what_is_known_is_found_only_where_the_documents_say() {
    const TEST: &str = "what_is_known_is_found_only_where_the_documents_say";
    const NAME: &str = "out-15551234567-1795228029.7.wav";
    let (number, linkedid) = ("15551234567", "1795228029.7");
    if support::no_mount(TEST) {
        return;
    }
    let Some(server) = SeaweedFs::start() else { return };
    let bytes = call(1_300_000, 1);
    let audio = &bytes[200_000..200_064];
    for (compress, seal, hide) in [
        (false, false, false),
        (true, false, false),
        (false, true, false),
        (true, true, false),
        (true, true, true),
    ] {
        let mode = format!("compress {compress}, seal {seal}, hide {hide}");
        let (secret, public) = pair();
        let bucket = server.new_bucket();
        let cloud = format!(
            "\n[[target]]\nname = \"cloud\"\nurl = \"s3://{bucket}/pbx\"\nendpoint = \"{}\"\n\
             region = \"us-east-1\"\naccess_key_id = \"{}\"\nsecret_access_key = \"{}\"\n",
            server.endpoint(),
            SeaweedFs::ACCESS_KEY,
            SeaweedFs::SECRET_KEY,
        );
        let mut mount = Setup { end: cloud, ..Setup::default() }.prepare();
        mount.env.push(("SPOOLFS_WRITE_BACK__JOURNAL_INTERVAL", "1s".to_owned()));
        if compress {
            mount.env.push(("SPOOLFS_WRITE_BACK__COMPRESS", "flac".to_owned()));
        }
        if seal {
            let key = key_file(&mount, "identity", &secret);
            mount.env.push(("SPOOLFS_WRITE_BACK__ENCRYPT_TO", public));
            mount.env.push(("SPOOLFS_WRITE_BACK__HIDE_NAMES", hide.to_string()));
            use_key(&mut mount, Some(&key));
        }
        mount.start();
        let path = mount.path(NAME);
        fs::write(&path, &bytes).unwrap();
        release(&mount, &path);
        mount.restart();
        let file = File::open(&path).unwrap();
        let mut part = vec![0; 100_000];
        file.read_exact_at(&mut part, 150_000).unwrap();
        assert!(part == bytes[150_000..250_000]);
        drop(file);
        assert!(fs::read(&path).unwrap() == bytes);
        // The disk cache is written behind the reads, and has what was decoded.
        let until = Instant::now() + support::look::PATIENCE;
        while !seal && found_below(&mount.state, audio).is_none() {
            assert!(Instant::now() < until, "{mode}: the cache holds nothing");
            std::thread::sleep(Duration::from_millis(20));
        }
        // One of each target.
        let (keys, url) = (xattr(&path, "user.spoolfs.key"), command(&mount, "url", &path).out);
        assert!(keys.lines().any(|key| url.trim().ends_with(key)), "{mode}: {keys} at {url}");
        assert!(keys.lines().all(|key| key.contains(number) != hide), "{mode}: {keys}");
        mount.stop();
        let told = mount.root.join("told");
        let headers = fetch_all(&server, &bucket, &told);
        assert!(keys.lines().any(|key| headers.contains(key)), "{mode}: {headers}");
        let digest = spoolfs::recording::Sha256::of(&bytes).to_string();
        let listed = names_below(&mount.target);
        for (what, places) in [
            (number, &[&headers, &listed][..]),
            (linkedid, &[&headers, &listed]),
            (&digest, &[&headers]),
        ] {
            for place in places {
                assert_eq!(place.contains(what), !hide, "{mode}: {what} in {place}");
            }
        }
        for target in [&mount.target, &told] {
            let holds = |what| found_below(target, what).is_some();
            assert_eq!(holds(audio), !compress && !seal, "{mode}: audio in {}", target.display());
            assert_eq!(holds(number.as_bytes()), !seal, "{mode}: {}", target.display());
        }
        assert_eq!(found_below(&mount.mountpoint, audio), None, "{mode}: it is released");
        let names = found_below(&mount.state, number.as_bytes());
        assert!(names.is_some(), "{mode}: the catalog has names");
        let cached = found_below(&mount.state, audio);
        assert_eq!(cached.is_some(), !seal, "{mode}: {cached:?}\n{}", mount.said_all());
        for place in [&mount.mountpoint, &mount.state, &mount.target, &told, &mount.runtime] {
            for secret in [secret.as_bytes(), SeaweedFs::SECRET_KEY.as_bytes()] {
                assert_eq!(found_below(place, secret), None, "{mode}");
            }
        }
        let said = mount.said_all();
        assert!(!said.contains(&secret) && !said.contains(SeaweedFs::SECRET_KEY), "{mode}");
    }
}

/// The names of all that is below a directory.
fn names_below(dir: &Path) -> String {
    let found = Command::new("find").arg(dir).output().unwrap();
    assert!(found.status.success());
    String::from_utf8(found.stdout).unwrap()
}

/// All objects of a bucket, as files without their names; those, and all that is told beside them.
fn fetch_all(server: &SeaweedFs, bucket: &str, dir: &Path) -> String {
    fs::create_dir(dir).unwrap();
    let mut headers = String::new();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let client = server.client();
        let listed = client.list_objects_v2().bucket(bucket).send().await.unwrap();
        assert_eq!(listed.is_truncated(), Some(false));
        for (n, object) in listed.contents().iter().enumerate() {
            let key = object.key().unwrap();
            let head = client.head_object().bucket(bucket).key(key).send().await.unwrap();
            headers += &format!("{key} {head:?}\n");
            let got = client.get_object().bucket(bucket).key(key).send().await;
            let bytes = got.unwrap().body.collect().await.unwrap().into_bytes();
            fs::write(dir.join(n.to_string()), bytes).unwrap();
        }
        assert!(listed.contents().len() > 3, "too little to look into");
    });
    headers
}

#[test]
fn a_daemon_that_dies_leaves_no_core_dump() {
    if support::no_mount("a_daemon_that_dies_leaves_no_core_dump") {
        return;
    }
    let limit = getrlimit(Resource::Core).maximum;
    setrlimit(Resource::Core, Rlimit { current: limit, maximum: limit }).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let mut other = Command::new("sleep").arg("600").current_dir(&dir).spawn().unwrap();
    kill_process(Pid::from_child(&other), Signal::ABORT).unwrap();
    if !other.wait().unwrap().core_dumped() {
        support::skip("a_daemon_that_dies_leaves_no_core_dump", "core", "this machine makes none");
        return;
    }
    let mut mount = Setup::default().mount();
    kill_process(mount.pid(), Signal::ABORT).unwrap();
    let until = Instant::now() + support::look::PATIENCE;
    let status = loop {
        match mount.exited() {
            Some(status) => break status,
            None => assert!(Instant::now() < until, "it goes on"),
        }
        std::thread::sleep(Duration::from_millis(5));
    };
    assert_eq!(status.signal(), Some(Signal::ABORT.as_raw()));
    assert!(!status.core_dumped(), "all its memory is on the disk");
    mount.bury();
}

#[test]
fn without_the_key_a_sealed_recording_is_eacces_and_calls_go_on() {
    if support::no_mount("without_the_key_a_sealed_recording_is_eacces_and_calls_go_on") {
        return;
    }
    let ((secret, public), (other, _)) = (pair(), pair());
    let mut mount = prepared(&public);
    mount.start();
    let (path, bytes) = (mount.path("call.wav"), call(1_300_000, 1));
    fs::write(&path, &bytes).unwrap();
    assert!(fs::read(&path).unwrap() == bytes, "the local copy is read");
    release(&mount, &path);
    refused(&mount, &path, Errno::ACCESS);
    assert!(
        mount.said_all().contains("there is no identity_file or identity_command"),
        "{}",
        mount.said()
    );
    // Metadata is there, and other recordings are made and archived.
    assert_eq!(fs::metadata(&path).unwrap().len(), bytes.len() as u64);
    command(&mount, "verify", &path);
    fs::write(mount.path("next.wav"), call(100_000, 2)).unwrap();
    release(&mount, &mount.path("next.wav"));
    // A key that is not the right one, and one that others may read, do no better.
    let wrong = key_file(&mount, "wrong", &other);
    let open = key_file(&mount, "open", &secret);
    fs::set_permissions(&open, Permissions::from_mode(0o644)).unwrap();
    for (file, why) in [(&wrong, "no key in identity_file"), (&open, "chmod 400")] {
        mount.stop();
        use_key(&mut mount, Some(file));
        mount.start();
        refused(&mount, &path, Errno::ACCESS);
        assert!(mount.said_all().contains(why), "{}", mount.said());
    }
    let key = key_file(&mount, "identity", &secret);
    mount.stop();
    use_key(&mut mount, Some(&key));
    mount.start();
    assert!(fs::read(&path).unwrap() == bytes);
    mount.stop();
    mount.fsck();
}

/// FreePBX goes on in a recording after each transfer.
#[test]
fn what_is_appended_to_a_sealed_recording_waits_for_the_key() {
    if support::no_mount("what_is_appended_to_a_sealed_recording_waits_for_the_key") {
        return;
    }
    let (secret, public) = pair();
    let mut mount = prepared(&public);
    mount.start();
    let (path, mut bytes) = (mount.path("call.wav"), call(900_000, 1));
    fs::write(&path, &bytes).unwrap();
    release(&mount, &path);
    let more = pcm(300_000, 2);
    OpenOptions::new().append(true).open(&path).unwrap().write_all(&more).unwrap();
    bytes.extend(&more);
    let length = bytes.len() as u64;
    assert_eq!(fs::metadata(&path).unwrap().len(), length);
    // What was written is read; what is archived is not.
    let mut end = vec![0; 100_000];
    File::open(&path).unwrap().read_exact_at(&mut end, length - 100_000).unwrap();
    assert!(end == bytes[bytes.len() - 100_000..]);
    refused(&mount, &path, Errno::ACCESS);
    mount.restart();
    assert_eq!(fs::metadata(&path).unwrap().len(), length, "nothing is lost by a restart");
    let key = key_file(&mount, "identity", &secret);
    mount.stop();
    use_key(&mut mount, Some(&key));
    mount.start();
    let until = Instant::now() + support::look::PATIENCE;
    while xattr(&path, "user.spoolfs.source") != "local" {
        assert!(Instant::now() < until, "{}", mount.said());
        std::thread::sleep(Duration::from_millis(20));
    }
    assert!(fs::read(&path).unwrap() == bytes);
    release(&mount, &path);
    assert!(fs::read(&path).unwrap() == bytes);
    mount.stop();
    mount.fsck();
}

#[test]
fn a_sealed_object_that_was_changed_is_eio_and_never_audio() {
    if support::no_mount("a_sealed_object_that_was_changed_is_eio_and_never_audio") {
        return;
    }
    let (secret, public) = pair();
    let mut mount = prepared(&public);
    let key = key_file(&mount, "identity", &secret);
    use_key(&mut mount, Some(&key));
    mount.start();
    let (name, bytes, _) = recordings().remove(2);
    let path = mount.path(name);
    fs::write(&path, &bytes).unwrap();
    release(&mount, &path);
    let object = object(&mount, &path);
    let whole = fs::read(&object).unwrap();
    let head = whole.len() - (bytes.len() + bytes.len().div_ceil(65_536) * 16);
    let mut swapped = whole.clone();
    let (first, second) = swapped[head..].split_at_mut(65_552);
    first.swap_with_slice(&mut second[..65_552]);
    let mut flipped = whole.clone();
    flipped[head + 40_000] ^= 1;
    let (cut, between) = (whole[..whole.len() - 1].to_vec(), whole[..head + 2 * 65_552].to_vec());
    for (what, bad) in [("swapped", swapped), ("flipped", flipped), ("cut", cut), ("less", between)]
    {
        fs::write(&object, &bad).unwrap();
        mount.restart();
        eprintln!("{what}");
        refused(&mount, &path, Errno::IO);
    }
    fs::write(&object, &whole).unwrap();
    mount.restart();
    assert!(fs::read(&path).unwrap() == bytes);
}

#[test]
fn a_rebuild_brings_a_tree_of_sealed_recordings_back() {
    if support::no_mount("a_rebuild_brings_a_tree_of_sealed_recordings_back") {
        return;
    }
    for hide in [false, true] {
        rebuilt_from_objects(hide);
    }
}

fn rebuilt_from_objects(hide: bool) {
    let (secret, public) = pair();
    let mut mount = prepared(&public);
    mount.env.push(("SPOOLFS_WRITE_BACK__HIDE_NAMES", hide.to_string()));
    let key = key_file(&mount, "identity", &secret);
    use_key(&mut mount, Some(&key));
    mount.start();
    for (name, bytes, _) in &recordings() {
        fs::write(mount.path(name), bytes).unwrap();
        release(&mount, &mount.path(name));
        assert_eq!(xattr(&mount.path(name), "user.spoolfs.key").contains(name), !hide);
    }
    mount.stop();
    for name in ["names.key", "catalog.db", "catalog.db-wal", "catalog.db-shm"] {
        let _may_be_missing = fs::remove_file(mount.state.join(name));
    }
    // What the journal does not tell of is looked into, with the key.
    fs::remove_dir_all(mount.target.join(".spoolfs/journal")).unwrap();
    let mut rebuild = Command::new(&mount.program);
    rebuild.arg("rebuild").arg("--config").arg(&mount.config);
    rebuild.envs(mount.env.iter().map(|(name, value)| (name, value)));
    run(&mut rebuild, support::look::PATIENCE).ok();
    mount.start();
    for (name, bytes, _) in &recordings() {
        assert!(fs::read(mount.path(name)).unwrap() == *bytes, "{name}");
    }
    mount.stop();
    mount.fsck();
}

/// What docs/FORMAT.md tells to do, word for word.
fn recipe(which: &str) -> String {
    let format = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/FORMAT.md");
    let text = fs::read_to_string(format).unwrap();
    let (_, rest) = text.split_once(&format!("```sh\n# {which}:")).expect("there is a recipe");
    format!("set -eu\n#{}\n", rest.split_once("```").unwrap().0)
}

#[test]
fn stock_tools_restore_what_is_sealed() {
    if support::no_mount("stock_tools_restore_what_is_sealed") {
        return;
    }
    let installed = |tool: &str| Command::new(tool).arg("--version").output().is_ok();
    if let Some(missing) = ["age", "flac", "python3"].into_iter().find(|tool| !installed(tool)) {
        let required = std::env::var_os("SPOOLFS_TEST_REQUIRE").is_some();
        assert!(!required, "{missing} is missing; scripts/test installs it");
        eprintln!("SKIPPED: {missing} is missing");
        return;
    }
    let ((secret, public), (other, second)) = (pair(), pair());
    let ssh = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/sealed"));
    let ssh_public = fs::read_to_string(ssh.join("key.pub")).unwrap();
    let to = format!("{public},{second},{}", ssh_public.trim());
    let mut mount = prepared(&to);
    mount.start();
    let minute = Duration::from_secs(60);
    let shell = |text: &str, work: &Path| {
        let mut shell = Command::new("sh");
        run(shell.args(["-c", text]).current_dir(work), minute)
    };
    for (name, bytes, stored) in recordings() {
        let path = mount.path(name);
        fs::write(&path, &bytes).unwrap();
        release(&mount, &path);
        let object = object(&mount, &path);
        for (turn, key) in [&secret, &other, "ssh"].into_iter().enumerate() {
            let work = mount.root.join(format!("restored-{turn}-{name}"));
            fs::create_dir(&work).unwrap();
            fs::copy(&object, work.join("a.wav.flac.age")).unwrap();
            match key {
                "ssh" => drop(fs::copy(ssh.join("key"), work.join("key.txt")).unwrap()),
                key => fs::write(work.join("key.txt"), key).unwrap(),
            }
            shell(&recipe("open"), &work).ok();
            let told = match stored.ends_with(".flac.age") {
                true => shell(&recipe("restore"), &work).ok().out,
                false => shell("mv a.wav.flac a.wav; sha256sum a.wav", &work).ok().out,
            };
            let sha256 = spoolfs::recording::Sha256::of(&bytes).to_string();
            assert_eq!(told.split_whitespace().next(), Some(&*sha256), "{name}");
            assert!(fs::read(work.join("a.wav")).unwrap() == bytes, "{name}");
        }
        // Nor does age itself open it with a key that it is not for, or what was changed.
        let work = mount.root.join(format!("restored-0-{name}"));
        fs::write(work.join("key.txt"), pair().0).unwrap();
        assert!(!shell(&recipe("open"), &work).status.success());
    }
    // One whose name is hidden is found by what is told.
    mount.stop();
    mount.env.push(("SPOOLFS_WRITE_BACK__HIDE_NAMES", "true".to_owned()));
    mount.start();
    let bytes = call(200_000, 9);
    let path = mount.path("out-15551234567-1795228029.7.wav");
    fs::write(&path, &bytes).unwrap();
    release(&mount, &path);
    let work = mount.root.join("told");
    fs::create_dir(&work).unwrap();
    fs::write(work.join("key.txt"), &other).unwrap();
    let until = Instant::now() + support::look::PATIENCE;
    let copy = format!("cp -r {}/.spoolfs/journal/* journal", mount.target.display());
    loop {
        shell(&format!("rm -rf journal && {copy}"), &work);
        shell(&recipe("told"), &work).ok();
        let told = fs::read_to_string(work.join("journal.jsonl")).unwrap();
        let archived = |name: &str| {
            let row = |line: &str| line.contains("\"archived\"") && line.contains(name);
            told.lines().any(row)
        };
        if recordings().iter().all(|(name, ..)| archived(name)) && archived("15551234567") {
            break;
        }
        assert!(Instant::now() < until, "{told}");
        std::thread::sleep(Duration::from_millis(50));
    }
    let found = shell(&format!("part=15551234567\n{}", recipe("find")), &work).ok().out;
    let key = found.trim();
    assert_eq!(key, xattr(&path, "user.spoolfs.key"));
    assert!(!key.contains("15551234567"), "{key}");
    fs::copy(mount.target.join(key), work.join("a.wav.flac.age")).unwrap();
    shell(&recipe("open"), &work).ok();
    shell(&recipe("restore"), &work).ok();
    assert!(fs::read(work.join("a.wav")).unwrap() == bytes);
    // And what its object says of itself is opened with the name key.
    let meta = fs::read_to_string(mount.target.join(".spoolfs/meta").join(key)).unwrap();
    let meta: serde_json::Value = serde_json::from_str(&meta).unwrap();
    let label = meta["user"].as_array().unwrap().iter().find(|pair| pair[0] == "spoolfs-label");
    fs::write(work.join("label"), label.unwrap()[1].as_str().unwrap()).unwrap();
    shell(&format!("cp {}/.spoolfs/names/*/* names.age", mount.target.display()), &work).ok();
    let told = shell(&recipe("label"), &work).ok().out;
    assert!(told.contains("spoolfs-path=out-15551234567-1795228029.7.wav\n"), "{told}");
    let sha256 = spoolfs::recording::Sha256::of(&bytes);
    assert!(told.contains(&format!("spoolfs-sha256={sha256}\n")), "{told}");
    assert_eq!(found_below(&mount.target.join(".spoolfs/journal"), b"archived"), None);
}

#[test]
fn check_tells_whether_the_key_fits() {
    let ((secret, public), (other, _)) = (pair(), pair());
    let mount = prepared(&public);
    let check = |key: Option<&Path>| {
        let mut command = Command::new(&mount.program);
        command.arg("check").arg("--config").arg(&mount.config);
        command.envs(mount.env.iter().map(|(name, value)| (name, value)));
        command.envs(key.map(|key| ("SPOOLFS_READ__IDENTITY_FILE", key)));
        run(&mut command, support::look::PATIENCE).out
    };
    assert!(check(None).contains("can not be read here once released"));
    let (good, bad) = (key_file(&mount, "good", &secret), key_file(&mount, "bad", &other));
    assert!(check(Some(&good)).contains("opens what is sealed to encrypt_to"));
    assert!(check(Some(&bad)).contains("no key in it opens"));
    fs::set_permissions(&good, Permissions::from_mode(0o640)).unwrap();
    let told = check(Some(&good));
    assert!(told.contains("0640") && !told.contains(&secret), "{told}");
}

/// Keys of SSE-C, in base64.
fn customer_key(byte: u8) -> String {
    use base64::Engine;
    base64::engine::general_purpose::STANDARD.encode([byte; 32])
}

/// A bucket whose service encrypts with a key of ours, on a mount: rotation, the wrong key, a rebuild.
#[test]
fn what_a_bucket_encrypts_with_our_key_is_read_with_it_alone() {
    if support::no_mount("what_a_bucket_encrypts_with_our_key_is_read_with_it_alone") {
        return;
    }
    let Some(server) = SeaweedFs::start() else { return };
    let bucket = server.new_bucket();
    let target = Target::S3 {
        url: format!("s3://{bucket}/pbx"),
        endpoint: server.endpoint(),
        id: SeaweedFs::ACCESS_KEY.to_owned(),
        secret: SeaweedFs::SECRET_KEY.to_owned(),
    };
    let mut mount = Setup { target, ..Setup::default() }.prepare();
    let (old, new) = (customer_key(1), customer_key(2));
    let keys = key_file(&mount, "keys", &old);
    let mut config = OpenOptions::new().append(true).open(&mount.config).unwrap();
    writeln!(config, "sse = \"c\"\nsse_c_key_file = \"{}\"", keys.display()).unwrap();
    mount.env.push(("SPOOLFS_WRITE_BACK__JOURNAL_INTERVAL", "1s".to_owned()));
    mount.env.push(("SPOOLFS_LOG", "trace".to_owned()));
    let have = |mount: &mut Mount, text: &str| {
        fs::remove_file(&keys).unwrap();
        key_file(mount, "keys", text);
        mount.restart();
    };
    let mut recordings = vec![
        ("small.wav", call(30_000, 1)),
        ("large.wav", call(9_000_000, 2)),
        ("unread.wav", call(30_000, 3)),
    ];
    mount.start();
    for (name, bytes) in &recordings {
        fs::write(mount.path(name), bytes).unwrap();
        release(&mount, &mount.path(name));
    }
    let asked = mount.cli(["url".as_ref(), mount.path("small.wav").as_os_str()]);
    assert!(asked.status.code() == Some(1) && asked.err.contains("SSE-C"), "{asked:?}");
    let both = format!("{new}\n{old}");
    have(&mut mount, &both);
    for (name, bytes) in &recordings[..2] {
        assert!(fs::read(mount.path(name)).unwrap() == *bytes, "{name}");
    }
    recordings.push(("rotated.wav", call(30_000, 4)));
    fs::write(mount.path("rotated.wav"), &recordings[3].1).unwrap();
    release(&mount, &mount.path("rotated.wav"));

    // With the new key alone nothing is lost, and nothing is written beside what can not be read.
    have(&mut mount, &new);
    assert!(fs::read(mount.path("rotated.wav")).unwrap() == recordings[3].1);
    refused(&mount, &mount.path("unread.wav"), Errno::ACCESS);
    assert!(mount.said_all().contains("none of the 1 keys"), "{}", mount.said());
    recordings.push(("later.wav", call(30_000, 5)));
    fs::write(mount.path("later.wav"), &recordings[4].1).unwrap();
    let archived = mount.cli(["archive".as_ref(), mount.path("later.wav").as_os_str()]);
    assert_eq!(archived.status.code(), Some(1), "{archived:?}");
    let status = mount.status().to_string();
    assert!(status.contains("none of the 1 keys"), "{status}");

    // With the old one alone the target is used, and what it does not open is told.
    have(&mut mount, &old);
    eventually(&mount, "the target answers", || {
        mount.status()["targets"][0]["state"] == "reachable"
    });
    let verified = mount.cli(["verify".as_ref(), mount.path("rotated.wav").as_os_str()]);
    assert_eq!(verified.status.code(), Some(1), "{verified:?}");
    let told = mount.status();
    assert_eq!((&told["unopened_copies"], &told["bad_copies"]), (&1.into(), &0.into()), "{told}");
    let checked = mount.cli(["check"]);
    assert!(checked.out.contains("no key opens 1 of them"), "{checked:?}");

    have(&mut mount, &both);
    release(&mount, &mount.path("later.wav"));
    mount.cli(["verify", "--all"]).ok();
    assert_eq!(mount.status()["unopened_copies"], 0);
    mount.stop();
    mount.fsck();
    nothing_is_read_without_the_key(&server, &bucket);
    for name in ["catalog.db", "catalog.db-wal", "catalog.db-shm"] {
        let _may_be_missing = fs::remove_file(mount.state.join(name));
    }
    mount.cli(["rebuild"]).ok();
    mount.start();
    for (name, bytes) in &recordings {
        assert!(fs::read(mount.path(name)).unwrap() == *bytes, "{name}");
    }
    fs::set_permissions(&keys, Permissions::from_mode(0o640)).unwrap();
    let checked = mount.cli(["check"]);
    assert!(checked.out.contains("0640") && checked.out.contains("chmod 400"), "{checked:?}");
    mount.stop();
    let told = mount.said_all() + &status + &checked.out + &archived.err;
    assert!(!told.contains(&old) && !told.contains(&new));
    for place in [&mount.mountpoint, &mount.state, &mount.runtime] {
        for key in [&old, &new] {
            assert_eq!(found_below(place, key.as_bytes()), None);
        }
    }
}

/// Keys that nothing is written with any more, but read.
#[test]
fn check_tells_of_keys_of_a_bucket_that_can_not_be_used() {
    let Some(server) = SeaweedFs::start() else { return };
    let target = Target::S3 {
        url: format!("s3://{}/pbx", server.new_bucket()),
        endpoint: server.endpoint(),
        id: SeaweedFs::ACCESS_KEY.to_owned(),
        secret: SeaweedFs::SECRET_KEY.to_owned(),
    };
    let mount = Setup { target, ..Setup::default() }.prepare();
    let keys = mount.root.join("sse-c.keys");
    let mut config = OpenOptions::new().append(true).open(&mount.config).unwrap();
    writeln!(config, "sse_c_key_file = \"{}\"", keys.display()).unwrap();
    let check = |mount: &Mount| mount.cli(["check"]);
    let name = keys.display().to_string();
    let missing = check(&mount);
    assert!(missing.out.contains(&name) && missing.out.contains("mend that"), "{missing:?}");
    assert_eq!(missing.status.code(), Some(1));
    key_file(&mount, "sse-c.keys", "no key");
    let bad = check(&mount);
    assert!(bad.out.contains(&name) && bad.out.contains("line 2 is no key"), "{bad:?}");
    assert_eq!(bad.status.code(), Some(1));
    fs::remove_file(&keys).unwrap();
    key_file(&mount, "sse-c.keys", &customer_key(1));
    let good = check(&mount);
    assert!(good.status.success() && !good.out.contains("mend that"), "{good:?}");
}

/// Of a bucket no object is given to who has the password and not the key.
fn nothing_is_read_without_the_key(server: &SeaweedFs, bucket: &str) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let client = server.client();
        let listed = client.list_objects_v2().bucket(bucket).send().await.unwrap();
        let keys: Vec<_> = listed.contents().iter().filter_map(|object| object.key()).collect();
        for kind in ["/journal/", "/archive.json", "small.wav", "large.wav"] {
            assert!(keys.iter().any(|key| key.contains(kind)), "{kind}: {keys:?}");
        }
        for key in keys {
            let got = client.get_object().bucket(bucket).key(key).send().await;
            let status = got.err().and_then(|e| Some(e.raw_response()?.status().as_u16()));
            assert_eq!(status, Some(400), "{key}");
        }
    });
}
