//! Azure Blob Storage and Google Cloud Storage: what is sent to them, what is made of bad answers,
//! and recordings on a mount that come back from their emulators.
#![allow(clippy::unwrap_used, reason = "a failed step of the test is its failure")]

mod support;

use bytes::Bytes;
use spoolfs::recording::Sha256;
use spoolfs::store::{Body, ObjectMeta, Secret, Store, StoreErrorKind, TargetOptions, open};
use std::fs;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;
use support::emulators::{Emulator, Kind, exchange};
use support::mixmonitor::Play;
use support::mount::{Setup, Target};
use support::sloppy::{Answer, Request, Sloppy};

const AUDIO: &[u8] = b"a recording";
const KEYS: (&str, &str) = ("acct", "c2VjcmV0LWtleQ==");

fn options(kind: Kind, server: &Sloppy) -> TargetOptions {
    let azure = kind == Kind::Azure;
    TargetOptions {
        name: "cloud".into(),
        url: format!("{}://calls/p", if azure { "az" } else { "gs" }),
        endpoint: Some(server.endpoint()),
        access_key_id: azure.then(|| KEYS.0.into()),
        secret_access_key: azure.then(|| Secret::new(KEYS.1)),
        ..TargetOptions::default()
    }
}

fn target(kind: Kind, server: &Sloppy) -> Arc<dyn Store> {
    open(&options(kind, server)).unwrap()
}

async fn put(store: &dyn Store, key: &str) -> Result<(), StoreErrorKind> {
    let body = Body::Bytes(Bytes::from_static(AUDIO));
    let meta = ObjectMeta {
        content_type: "audio/wav".into(),
        user: vec![("spoolfs-id".into(), "7".into())],
        ..ObjectMeta::default()
    };
    store.put(key, body, Sha256::of(AUDIO), &meta).await.map_err(|e| e.kind)
}

/// Each of the calls that ask for one object, with the kind of its error.
async fn kinds(store: &dyn Store) -> [StoreErrorKind; 3] {
    [
        store.head("p/a").await.unwrap_err().kind,
        store.get("p/a", 0..10).await.unwrap_err().kind,
        put(store, "p/a").await.unwrap_err(),
    ]
}

fn part(range: &str, body: &[u8]) -> Answer {
    let headers = vec![("content-range", format!("bytes {range}"))];
    Answer { headers, body: body.to_vec(), ..Answer::status(206) }
}

#[tokio::test]
async fn an_azure_put_is_one_signed_request_on_the_condition_that_the_key_is_free() {
    let server = Sloppy::start(|request| match request.method.as_str() {
        "PUT" => Answer::status(201),
        _ => Answer::error(404, "BlobNotFound"),
    });
    put(&*target(Kind::Azure, &server), "p/a b+c.wav").await.unwrap();
    let seen = server.seen();
    let puts: Vec<&Request> = seen.iter().filter(|r| r.method == "PUT").collect();
    let [sent] = puts[..] else { panic!("{puts:?}") };
    assert_eq!(sent.path, "/acct/calls/p/a%20b%2Bc.wav");
    assert_eq!(sent.body, AUDIO);
    for (name, value) in [
        ("if-none-match", "*"),
        ("x-ms-blob-type", "BlockBlob"),
        ("x-ms-meta-spoolfs_id", "7"),
        ("content-type", "audio/wav"),
    ] {
        assert_eq!(sent.headers[name], value, "{name}");
    }
    for request in &seen {
        assert!(request.headers["authorization"].starts_with("SharedKey acct:"), "{request:?}");
    }
}

#[tokio::test]
async fn every_failure_is_one_request_and_the_right_kind() {
    for kind in [Kind::Azure, Kind::Google] {
        for (status, code, meant) in [
            (500, "InternalError", StoreErrorKind::Unreachable),
            (503, "ServerBusy", StoreErrorKind::Unreachable),
            (429, "", StoreErrorKind::Unreachable),
            (401, "", StoreErrorKind::Denied),
            (403, "AuthenticationFailed", StoreErrorKind::Denied),
            (400, "InvalidInput", StoreErrorKind::Unsupported),
        ] {
            let server = Sloppy::start(move |_| Answer::error(status, code));
            let store = target(kind, &server);
            assert_eq!(kinds(&*store).await, [meant; 3], "{kind:?} {status} {code}");
            assert_eq!(server.seen().len(), 3, "{kind:?} {status}: it was tried again inside");
            let error = store.list("p/", "").await.unwrap_err();
            assert_eq!(error.kind, meant, "{error}");
            assert!(!format!("{error} {error:?} {store:?}").contains(KEYS.1));
        }
    }
}

#[tokio::test]
async fn a_404_that_names_nothing_is_asked_about() {
    for kind in [Kind::Azure, Kind::Google] {
        for there in [true, false] {
            let server = Sloppy::start(move |request| {
                let listing =
                    request.path.contains("comp=list") || request.path.contains("prefix=");
                let body = match kind {
                    Kind::Azure => {
                        "<EnumerationResults><Blobs></Blobs><NextMarker/></EnumerationResults>"
                    }
                    Kind::Google => "{\"kind\":\"storage#objects\"}",
                };
                match listing && there {
                    true => Answer { body: body.into(), ..Answer::status(200) },
                    false => Answer::status(404),
                }
            });
            let store = target(kind, &server);
            let meant = match there {
                true => StoreErrorKind::NotFound,
                false => StoreErrorKind::Unsupported,
            };
            assert_eq!(store.head("p/a").await.unwrap_err().kind, meant, "{kind:?} {there}");
            assert_eq!(store.get("p/a", 0..1).await.unwrap_err().kind, meant, "{kind:?} {there}");
            assert_eq!(store.delete("p/a").await.is_ok(), there, "{kind:?}");
        }
    }
}

#[tokio::test]
async fn an_answer_that_is_cut_off_or_of_other_bytes_is_no_answer() {
    for kind in [Kind::Azure, Kind::Google] {
        for (answer, meant) in [
            (
                Answer { break_after: Some(4), ..part("0-9/10", &[7; 10]) },
                StoreErrorKind::Unreachable,
            ),
            (part("0-4/10", &[7; 5]), StoreErrorKind::Corrupt),
            (part("5-9/10", &[7; 5]), StoreErrorKind::Unsupported),
        ] {
            let server = Sloppy::start(move |_| answer.clone());
            let store = target(kind, &server);
            let error = store.get("p/a", 0..10).await.unwrap_err();
            assert_eq!(error.kind, meant, "{kind:?} {error}");
            let (parts, _listener) = tokio::sync::mpsc::channel(4);
            let error = store.get_into("p/a", 0..10, parts).await.unwrap_err();
            assert_eq!(error.kind, meant, "{kind:?} {error}");
        }
        let server = Sloppy::start(|_| Answer { body: vec![7; 10], ..Answer::status(200) });
        let store = target(kind, &server);
        // The whole, from its beginning: the end of it is left out.
        assert_eq!(store.get("p/a", 0..4).await.unwrap(), &[7; 4][..]);
        let error = store.get("p/a", 2..4).await.unwrap_err();
        assert_eq!(error.kind, StoreErrorKind::Unsupported, "it ignores ranges: {error}");
    }
}

#[tokio::test]
async fn a_service_can_not_send_recordings_elsewhere() {
    for kind in [Kind::Azure, Kind::Google] {
        let server = Sloppy::start(|_| Answer {
            headers: vec![("location", "http://127.0.0.1:1/elsewhere".into())],
            ..Answer::status(302)
        });
        let meant = [StoreErrorKind::Unsupported; 3];
        assert_eq!(kinds(&*target(kind, &server)).await, meant, "{kind:?} followed a redirect");
    }
    // The address of an upload in chunks is Google's to choose, but not without encryption.
    let server = Sloppy::start(|request| match request.method.as_str() {
        "POST" => Answer {
            headers: vec![("location", "http://192.0.2.1/upload?upload_id=1".into())],
            ..Answer::status(200)
        },
        _ => Answer {
            body: br#"{"error":{"message":"No such object: calls/p/a"}}"#.to_vec(),
            ..Answer::status(404)
        },
    });
    let store = target(Kind::Google, &server);
    let body = Body::Bytes(Bytes::from_static(AUDIO));
    let error =
        store.put("p/a", body, Sha256::of(AUDIO), &ObjectMeta::default()).await.unwrap_err();
    assert_eq!(error.kind, StoreErrorKind::Unsupported, "{error}");
    assert!(error.detail.contains("without encryption"), "{error}");
}

#[tokio::test]
async fn without_credentials_nothing_is_sent() {
    let server = Sloppy::start(|_| Answer::status(200));
    let file = "/nonexistent/credentials.json";
    let options =
        TargetOptions { credentials_file: Some(file.into()), ..options(Kind::Google, &server) };
    let store = open(&options).unwrap();
    for kind in kinds(&*store).await {
        assert_eq!(kind, StoreErrorKind::Denied);
    }
    let error = store.head("p/a").await.unwrap_err();
    assert!(error.detail.contains(file) && error.hint.contains("credentials_file"), "{error}");
    assert!(server.seen().is_empty(), "{:?}", server.seen());
}

#[tokio::test]
async fn an_emulator_that_dies_in_the_middle_is_unreachable() {
    for kind in [Kind::Azure, Kind::Google] {
        let Some(mut server) = Emulator::start(kind) else { continue };
        let store = open(&server.target(&server.new_bucket())).unwrap();
        let bytes = Bytes::from(vec![7; 32 << 20]);
        let body = Body::Bytes(bytes.clone());
        store.put("a", body, Sha256::of(&bytes), &ObjectMeta::default()).await.unwrap();
        let (parts, mut listener) = tokio::sync::mpsc::channel(1);
        let read = {
            let store = store.clone();
            tokio::spawn(async move { store.get_into("a", 0..32 << 20, parts).await })
        };
        let first = listener.recv().await.unwrap();
        assert!(first.iter().all(|byte| *byte == 7));
        server.kill();
        while listener.recv().await.is_some() {}
        let error = read.await.unwrap().unwrap_err();
        assert_eq!(error.kind, StoreErrorKind::Unreachable, "{kind:?} {error}");
        for found in kinds(&*store).await {
            assert_eq!(found, StoreErrorKind::Unreachable, "{kind:?}");
        }
    }
}

#[test]
fn recordings_come_back_from_azure() {
    come_back("recordings_come_back_from_azure", Kind::Azure);
}

#[test]
fn recordings_come_back_from_google() {
    come_back("recordings_come_back_from_google", Kind::Google);
}

/// Recorded as Asterisk does, archived, released, read back; then the catalog is lost.
fn come_back(test: &str, kind: Kind) {
    if support::no_mount(test) {
        return;
    }
    let Some(server) = Emulator::start(kind) else { return };
    let end = server.config(&format!("{}/pbx one", server.new_bucket()));
    let mut mount = Setup { target: Target::None, end, ..Setup::default() }.mount();
    let mut recordings = Vec::new();
    for (number, source) in support::fixtures("monitor").into_iter().enumerate() {
        let bytes = fs::read(support::fixture("monitor").join(source)).unwrap();
        let path = format!("2026/11/{:02}/call é+{number}%.wav", 1 + number % 3);
        Play::new(&bytes).onto(&mount.path(&path)).unwrap();
        recordings.push((path, bytes));
    }
    // In blocks, or the chunks of a session.
    let long = [&recordings[0].1[..44], &vec![9; 20 << 20]].concat();
    Play::new(&long).onto(&mount.path("2026/long.wav")).unwrap();
    recordings.push(("2026/long.wav".into(), long));
    let whole = |mount: &support::mount::Mount| {
        for (path, bytes) in &recordings {
            assert!(fs::read(mount.path(path)).unwrap() == *bytes, "{path}\n{}", mount.said());
        }
    };
    let root = mount.mountpoint.clone();
    for step in ["archive", "release"] {
        mount.cli([step.as_ref(), root.as_os_str()]).ok();
    }
    let states = mount.status()["states"].clone();
    let released = states.as_array().unwrap().iter().find(|row| row["state"] == "released");
    assert!(released.is_some_and(|row| row["files"] == recordings.len()), "{states}");
    whole(&mount);

    let url = mount.cli(["url".as_ref(), mount.path(&recordings[0].0).as_os_str()]);
    match kind {
        Kind::Azure => only_the_address_reads_it(url.ok().out.trim(), &recordings[0].1),
        Kind::Google => {
            assert!(url.status.code() == Some(1), "{url:?}");
            assert!(url.err.contains("no service account"), "{url:?}");
        }
    }
    let check = mount.cli(["check"]).ok().out;
    for said in ["put, head, get, list and a refused second put work", "holds yet", "delete works"]
    {
        assert!(check.contains(said), "{said}\n{check}");
    }
    mount.stop();
    mount.fsck();
    for entry in fs::read_dir(&mount.state).unwrap().flatten() {
        if entry.file_name().to_string_lossy().starts_with("catalog.db") {
            fs::remove_file(entry.path()).unwrap();
        }
    }
    mount.cli(["rebuild"]).ok();
    mount.start();
    whole(&mount);
    let said = mount.said_all();
    assert!(!said.contains(Emulator::KEY) && !said.contains("sig="), "{said}");
}

/// The signed address gives the recording; without its signature, or for longer, it does not.
fn only_the_address_reads_it(url: &str, bytes: &[u8]) {
    let fetch = |url: &str| {
        let (host, path) = url.strip_prefix("http://").unwrap().split_once('/').unwrap();
        let port = host.split_once(':').unwrap().1.parse().unwrap();
        exchange("GET", port, &format!("/{path}"), &[], "").unwrap()
    };
    let answer = fetch(url);
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer:.300}");
    assert!(
        answer.contains(&format!("ontent-length: {}", bytes.len())) || answer.contains("chunked")
    );
    for wrong in [url.split_once('?').unwrap().0.to_owned(), url.replace("se=20", "se=21")] {
        let answer = fetch(&wrong);
        assert!(answer.starts_with("HTTP/1.1 40"), "{wrong}: {answer:.300}");
    }
    assert!(url.contains("sp=r&") || url.ends_with("sp=r"), "it may only be read: {url}");
}

/// What Google's documents say of signed URLs (V4), checked with the public key: no emulator does.
#[tokio::test]
async fn an_address_of_google_is_signed_as_google_says() {
    let dir = tempfile::tempdir().unwrap();
    let file = |name: &str| dir.path().join(name);
    let openssl = |arguments: &[&str]| {
        let run = Command::new("openssl").args(arguments).current_dir(dir.path()).output();
        run.is_ok_and(|output| output.status.success())
    };
    let made = openssl(&["genpkey", "-algorithm", "RSA", "-out", "key.pem"])
        && openssl(&["pkey", "-in", "key.pem", "-pubout", "-out", "public.pem"]);
    if !made {
        support::skip("an_address_of_google_is_signed_as_google_says", "clouds", "needs openssl");
        return;
    }
    let account = serde_json::json!({
        "type": "service_account",
        "client_email": "pbx@project.iam.gserviceaccount.com",
        "private_key": fs::read_to_string(file("key.pem")).unwrap(),
    });
    fs::write(file("account.json"), account.to_string()).unwrap();
    let store = open(&TargetOptions {
        name: "cloud".into(),
        url: "gs://calls/p".into(),
        credentials_file: Some(file("account.json")),
        ..TargetOptions::default()
    })
    .unwrap();
    let hour = Duration::from_secs(3600);
    let url = store.shared_url("p/call é+1.wav", hour).await.unwrap().unwrap();
    let (address, query) = url.split_once('?').unwrap();
    assert_eq!(address, "https://storage.googleapis.com/calls/p/call%20%C3%A9%2B1.wav");
    let mut fields: Vec<&str> = query.split('&').collect();
    let place = fields.iter().position(|f| f.starts_with("X-Goog-Signature=")).unwrap();
    let signature = hex::decode(fields.remove(place).split_once('=').unwrap().1).unwrap();
    fields.sort_unstable();
    let field =
        |name: &str| fields.iter().find_map(|f| f.strip_prefix(&format!("{name}="))).unwrap();
    assert_eq!((field("X-Goog-Expires"), field("X-Goog-SignedHeaders")), ("3600", "host"));
    let request = format!(
        "GET\n/calls/p/call%20%C3%A9%2B1.wav\n{}\nhost:storage.googleapis.com\n\nhost\nUNSIGNED-PAYLOAD",
        fields.join("&")
    );
    let date = field("X-Goog-Date");
    let scope = format!("{}/auto/storage/goog4_request", &date[..8]);
    let email = "pbx%40project.iam.gserviceaccount.com";
    assert_eq!(field("X-Goog-Credential"), format!("{email}/{scope}").replace('/', "%2F"));
    let signed = format!("GOOG4-RSA-SHA256\n{date}\n{scope}\n{}", Sha256::of(request.as_bytes()));
    fs::write(file("signed"), signed).unwrap();
    fs::write(file("signature"), signature).unwrap();
    let verify = ["dgst", "-sha256", "-verify", "public.pem", "-signature", "signature", "signed"];
    assert!(openssl(&verify), "{url}");
    let week = store.shared_url("p/a", Duration::from_secs(8 * 24 * 3600)).await.unwrap_err();
    assert_eq!(week.kind, StoreErrorKind::Unsupported, "{week}");
    assert!(!format!("{store:?} {week:?}").contains("PRIVATE KEY"));
}
