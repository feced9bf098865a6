//! What is sent to an S3 service, byte for byte, and what is made of the answers of bad ones.
#![allow(clippy::unwrap_used)]

mod support;

use base64::Engine;
use bytes::Bytes;
use spoolfs::policy::StorageClass;
use spoolfs::recording::Sha256;
use spoolfs::store::s3::{CustomerKeys, Sse};
use spoolfs::store::{
    Body, Capabilities, ObjectMeta, Proof, Secret, Store, StoreErrorKind, TargetOptions, open,
    verify,
};
use std::collections::BTreeMap;
use std::io::Write;
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use support::sloppy::{Answer, Request, Sloppy};

const AUDIO: &[u8] = b"a recording";

fn target(server: &Sloppy) -> Arc<dyn Store> {
    open(&options(server)).unwrap()
}

fn options(server: &Sloppy) -> TargetOptions {
    TargetOptions {
        name: "s3".into(),
        url: "s3://calls/p".into(),
        endpoint: Some(server.endpoint()),
        access_key_id: Some("AK".into()),
        secret_access_key: Some(Secret::new("SK")),
        ..TargetOptions::default()
    }
}

async fn put(store: &dyn Store, key: &str, bytes: &'static [u8]) -> Result<(), StoreErrorKind> {
    let body = Body::Bytes(Bytes::from_static(bytes));
    let meta = ObjectMeta {
        content_type: "audio/wav".into(),
        user: vec![("spoolfs-id".into(), "7".into())],
        storage_class: None,
    };
    store.put(key, body, Sha256::of(bytes), &meta).await.map_err(|e| e.kind)
}

/// A request with a body is plain: its length and digest are known, signed, and of all of it.
fn assert_plain(request: &Request) {
    let header = |name: &str| request.headers.get(name).map(String::as_str);
    let sum = Sha256::of(&request.body);
    let base64 = base64::engine::general_purpose::STANDARD.encode(sum.0);
    assert_eq!(header("x-amz-checksum-sha256"), Some(&*base64), "{request:?}");
    assert_eq!(header("x-amz-content-sha256"), Some(&*sum.to_string()));
    assert!(header("authorization").unwrap().starts_with("AWS4-HMAC-SHA256 "));
    for absent in [
        "transfer-encoding",
        "content-encoding",
        "x-amz-trailer",
        "x-amz-checksum-crc32",
        "x-amz-sdk-checksum-algorithm",
        "content-md5",
    ] {
        assert_eq!(header(absent), None, "{absent}");
    }
}

#[tokio::test]
async fn a_put_is_plain_and_signed_with_its_own_sha256() {
    let server = Sloppy::careless();
    let store = target(&server);
    put(&*store, "p/a b+c.wav", AUDIO).await.unwrap();
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(AUDIO).unwrap();
    file.write_all(b"later").unwrap();
    let body = Body::File { file: Arc::new(file), len: AUDIO.len() as u64 };
    store.put("p/file", body, Sha256::of(AUDIO), &ObjectMeta::default()).await.unwrap();
    let puts: Vec<_> = server.seen().into_iter().filter(|r| r.method == "PUT").collect();
    assert_eq!(puts.len(), 2);
    for request in &puts {
        assert_plain(request);
        assert_eq!(request.body, AUDIO);
    }
    assert!(puts[0].path.starts_with("/calls/p/a%20b%2Bc.wav"), "{}", puts[0].path);
    assert_eq!(puts[0].headers["content-type"], "audio/wav");
    assert_eq!(puts[0].headers["x-amz-meta-spoolfs-id"], "7");
}

#[tokio::test]
async fn parts_are_plain_and_signed_too_and_a_failed_one_aborts() {
    let server = Sloppy::start(|request| match (request.method.as_str(), &*request.path) {
        ("HEAD" | "GET", _) => Answer::error(404, "NoSuchKey"),
        ("POST", path) if path.contains("uploads") => Answer {
            body: b"<InitiateMultipartUploadResult><UploadId>u1</UploadId>\
                    </InitiateMultipartUploadResult>"
                .to_vec(),
            ..Answer::status(200)
        },
        ("PUT", path) if path.contains("partNumber=2") => Answer::error(503, "SlowDown"),
        ("PUT", _) => Answer { headers: vec![("etag", "e".into())], ..Answer::status(200) },
        _ => Answer::status(204),
    });
    let store = target(&server);
    let bytes = Bytes::from(vec![7; 20 << 20]);
    let sum = Sha256::of(&bytes);
    let failed = store.put("p/a", Body::Bytes(bytes), sum, &ObjectMeta::default()).await;
    let failed = failed.unwrap_err();
    assert_eq!(failed.kind, StoreErrorKind::Unreachable, "{failed}");
    let seen = server.seen();
    let parts: Vec<_> = seen.iter().filter(|r| r.method == "PUT").collect();
    assert_eq!(parts.len(), 2, "a failed part was sent again, or another after it");
    for part in parts {
        assert_plain(part);
        assert_eq!(part.body.len(), 8 << 20);
    }
    let last = seen.last().unwrap();
    assert!(last.method == "DELETE" && last.path.contains("uploadId=u1"), "{last:?}");
}

#[tokio::test]
async fn the_storage_class_is_a_header_of_what_has_one_and_of_nothing_else() {
    let server = Sloppy::start(|request| match (request.method.as_str(), &*request.path) {
        ("HEAD" | "GET", _) => Answer::error(404, "NoSuchKey"),
        ("POST", path) if path.contains("uploads") => Answer {
            body: b"<InitiateMultipartUploadResult><UploadId>u1</UploadId>\
                    </InitiateMultipartUploadResult>"
                .to_vec(),
            ..Answer::status(200)
        },
        ("PUT", path) if path.contains("partNumber") => Answer::error(503, "SlowDown"),
        _ => Answer::status(200),
    });
    let store = target(&server);
    let class = Some("DEEP_ARCHIVE".parse::<StorageClass>().unwrap());
    let meta = ObjectMeta { storage_class: class, ..ObjectMeta::default() };
    let small = Body::Bytes(Bytes::from_static(AUDIO));
    store.put("p/cold", small.clone(), Sha256::of(AUDIO), &meta).await.unwrap();
    store.put("p/usual", small, Sha256::of(AUDIO), &ObjectMeta::default()).await.unwrap();
    let large = Bytes::from(vec![7; 20 << 20]);
    let sum = Sha256::of(&large);
    store.put("p/large", Body::Bytes(large), sum, &meta).await.unwrap_err();
    let seen = server.seen();
    let class_of = |what: &str, method: &str| {
        let request = seen.iter().find(|r| r.method == method && r.path.contains(what)).unwrap();
        request.headers.get("x-amz-storage-class").cloned()
    };
    assert_eq!(class_of("p/cold", "PUT").as_deref(), Some("DEEP_ARCHIVE"));
    assert_eq!(class_of("p/usual", "PUT"), None);
    assert_eq!(class_of("p/large", "POST").as_deref(), Some("DEEP_ARCHIVE"));
}

#[tokio::test]
async fn what_must_be_restored_before_it_is_read_says_so() {
    let server = Sloppy::start(|_| Answer::error(403, "InvalidObjectState"));
    let error = target(&server).get("p/cold", 0..9).await.unwrap_err();
    assert_eq!(error.kind, StoreErrorKind::Frozen, "{error}");
    assert!(error.to_string().contains("restore-object"), "{error}");
}

#[tokio::test]
async fn a_careless_server_is_found_out_and_not_believed() {
    let server = Sloppy::careless();
    let store = target(&server);
    let found = store.probe("x").await.unwrap();
    assert_eq!(found, Capabilities { conditional_put: false, checksum: false });
    put(&*store, "p/a", AUDIO).await.unwrap();
    assert_eq!(put(&*store, "p/a", b"another").await, Err(StoreErrorKind::Exists));
    let proof = verify(&*store, "p/a", AUDIO.len() as u64, Sha256::of(AUDIO)).await.unwrap();
    assert_eq!(proof, Proof::ReadBack);
    // It ignores ranges as well.
    assert_eq!(store.get("p/a", 2..5).await.unwrap(), &AUDIO[2..5]);
    assert!(server.seen().iter().filter(|r| r.path.contains("probe")).count() >= 4);
}

#[tokio::test]
async fn a_condition_that_is_not_implemented_is_left_out() {
    let server = Sloppy::start(|request| match request.method.as_str() {
        "PUT" if request.headers.contains_key("if-none-match") => {
            Answer::error(501, "NotImplemented")
        }
        "HEAD" | "GET" => Answer::error(404, "NoSuchKey"),
        _ => Answer::status(200),
    });
    let store = target(&server);
    assert!(!store.probe("x").await.unwrap().conditional_put);
    put(&*store, "p/a", AUDIO).await.unwrap();
}

#[tokio::test]
async fn every_failure_is_one_request_and_the_right_kind() {
    for (answer, kind) in [
        (Answer::error(500, "InternalError"), StoreErrorKind::Unreachable),
        (Answer::error(503, "SlowDown"), StoreErrorKind::Unreachable),
        (Answer::error(429, "TooManyRequests"), StoreErrorKind::Unreachable),
        (Answer::error(409, "ConditionalRequestConflict"), StoreErrorKind::Unreachable),
        (Answer::error(403, "AccessDenied"), StoreErrorKind::Denied),
        (Answer::error(403, "RequestTimeTooSkewed"), StoreErrorKind::Denied),
        (Answer::error(404, "NoSuchKey"), StoreErrorKind::NotFound),
        (Answer::error(404, "NoSuchBucket"), StoreErrorKind::Unsupported),
        (Answer::error(301, "PermanentRedirect"), StoreErrorKind::Unsupported),
    ] {
        let text = String::from_utf8(answer.body.clone()).unwrap();
        let server = Sloppy::start(move |_| answer.clone());
        let error = target(&server).get("p/a", 0..1).await.unwrap_err();
        assert_eq!((error.kind, server.seen().len()), (kind, 1), "{text}: {error}");
    }
}

#[tokio::test]
async fn an_answer_that_breaks_off_is_not_an_answer() {
    let server = Sloppy::start(|_| Answer {
        headers: vec![("content-range", "bytes 0-999/1000".into())],
        body: vec![1; 1000],
        break_after: Some(400),
        ..Answer::status(206)
    });
    let error = target(&server).get("p/a", 0..1000).await.unwrap_err();
    assert_eq!(error.kind, StoreErrorKind::Unreachable, "{error}");
}

#[tokio::test]
async fn a_connection_that_was_closed_meanwhile_is_unreachable_and_then_made_anew() {
    let first = AtomicU32::new(0);
    let server = Sloppy::start(move |_| match first.fetch_add(1, Ordering::SeqCst) {
        0 => Answer { body: vec![1; 10], break_after: Some(0), ..Answer::status(200) },
        _ => Answer { body: vec![1; 10], ..Answer::status(200) },
    });
    let store = target(&server);
    assert_eq!(store.get("p/a", 0..10).await.unwrap_err().kind, StoreErrorKind::Unreachable);
    assert_eq!(store.get("p/a", 0..10).await.unwrap().len(), 10);
}

/// Run by the tests below in a process of its own, whose environment they choose.
#[tokio::test]
#[ignore = "part of other tests"]
async fn child_with_an_environment() {
    let server = Sloppy::careless();
    let store = open(&TargetOptions {
        name: "s3".into(),
        url: "s3://calls".into(),
        endpoint: Some(server.endpoint()),
        ..TargetOptions::default()
    })
    .unwrap();
    let begin = Instant::now();
    let answer = store.head("a").await.unwrap_err();
    println!("kind={:?} in {:?}: {answer}", answer.kind, begin.elapsed());
    for request in server.seen() {
        println!("authorization={}", request.headers["authorization"]);
    }
    assert!(begin.elapsed() < Duration::from_secs(30));
}

fn child(environment: &[(&str, &str)]) -> String {
    let home = tempfile::tempdir().unwrap();
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "child_with_an_environment", "--ignored", "--nocapture"]);
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("AWS_")) {
        command.env_remove(name);
    }
    command.env("HOME", home.path()).envs(environment.iter().copied());
    let output = command.output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{text}");
    text
}

#[test]
fn keys_and_region_come_from_the_environment() {
    let text = child(&[
        ("AWS_ACCESS_KEY_ID", "AKENV"),
        ("AWS_SECRET_ACCESS_KEY", "secret"),
        ("AWS_REGION", "eu-north-9"),
    ]);
    assert!(text.contains("kind=NotFound"), "{text}");
    assert!(text.contains("Credential=AKENV/") && text.contains("/eu-north-9/s3/"), "{text}");
}

#[test]
fn without_keys_nothing_is_sent_and_it_is_said_soon() {
    // A metadata service that accepts connections and never answers, as where there is none.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = format!("http://{}", silent.local_addr().unwrap());
    for environment in
        [("AWS_EC2_METADATA_DISABLED", "true"), ("AWS_EC2_METADATA_SERVICE_ENDPOINT", &endpoint)]
    {
        let begin = Instant::now();
        let text = child(&[environment]);
        assert!(text.contains("kind=Denied") && text.contains("access_key_id"), "{text}");
        assert!(!text.contains("authorization="), "{text}");
        assert!(begin.elapsed() < Duration::from_secs(30), "{text}");
    }
}

/// A server that says of what it stores that it is encrypted so, or nothing; when an upload in parts is
/// completed, or only when it is asked later.
fn encrypting(says: &'static [(&'static str, &'static str)], at_once: bool) -> Sloppy {
    let complete = AtomicBool::new(false);
    Sloppy::start(move |request| {
        let headers = || says.iter().map(|(name, value)| (*name, (*value).to_owned())).collect();
        match (request.method.as_str(), &*request.path) {
            ("HEAD", _) if complete.load(Ordering::SeqCst) => {
                Answer { headers: headers(), ..Answer::status(200) }
            }
            ("HEAD" | "GET", _) => Answer::error(404, "NoSuchKey"),
            ("POST", path) if path.contains("uploads") => Answer {
                body: b"<InitiateMultipartUploadResult><UploadId>u1</UploadId>\
                        </InitiateMultipartUploadResult>"
                    .to_vec(),
                ..Answer::status(200)
            },
            ("POST", _) => {
                complete.store(true, Ordering::SeqCst);
                Answer {
                    body: b"<CompleteMultipartUploadResult></CompleteMultipartUploadResult>"
                        .to_vec(),
                    headers: if at_once { headers() } else { Vec::new() },
                    ..Answer::status(200)
                }
            }
            ("PUT", path) if path.contains("partNumber") => {
                Answer { headers: vec![("etag", "e".into())], ..Answer::status(200) }
            }
            ("PUT", _) => Answer { headers: headers(), ..Answer::status(200) },
            _ => Answer::status(204),
        }
    })
}

#[tokio::test]
async fn what_a_service_was_to_encrypt_and_did_not_is_a_failure_and_taken_back() {
    let kms = |id: &str| {
        let context = vec![("pbx".into(), "one".into()), ("for".into(), "\"calls\"".into())];
        Some(Sse::Kms { key_id: Some(id.to_owned()), bucket_key: Some(true), context })
    };
    let (method, key) =
        ("x-amz-server-side-encryption", "x-amz-server-side-encryption-aws-kms-key-id");
    const S3: &[(&str, &str)] = &[("x-amz-server-side-encryption", "AES256")];
    const KMS: &[(&str, &str)] = &[
        ("x-amz-server-side-encryption", "aws:kms"),
        ("x-amz-server-side-encryption-aws-kms-key-id", "arn:aws:kms:eu:1:key/one"),
    ];
    for (sse, says, good) in [
        (None, &[][..], true),
        (Some(Sse::S3), S3, true),
        (Some(Sse::S3), &[], false),
        (kms("one"), KMS, true),
        (kms("alias/mine"), KMS, true),
        (kms("two"), KMS, false),
        (kms("one"), S3, false),
    ] {
        let large = Bytes::from(vec![7; 9 << 20]);
        let puts = [(Bytes::from_static(AUDIO), true), (large.clone(), true), (large, false)];
        for (bytes, at_once) in puts {
            let server = encrypting(says, at_once);
            let options = TargetOptions { sse: sse.clone(), ..options(&server) };
            let (store, sum) = (open(&options).unwrap(), Sha256::of(&bytes));
            let meta = ObjectMeta::default();
            let put = store.put("p/a", Body::Bytes(bytes), sum, &meta).await;
            assert_eq!(
                put.as_ref().map_err(|e| e.kind).err(),
                (!good).then_some(StoreErrorKind::Unsupported),
                "{sse:?} {says:?} {put:?}"
            );
            assert!(good || put.unwrap_err().hint.contains("`sse`"));
            let seen = server.seen();
            let asked = seen.iter().find(|r| {
                r.path.contains("uploads") || (r.method == "PUT" && !r.path.contains("partNumber"))
            });
            let header = |name: &str| asked.unwrap().headers.get(name).map(String::as_str);
            let (wanted, id, bucket) = match &sse {
                None => (None, None, None),
                Some(Sse::S3) => (Some("AES256"), None, None),
                Some(Sse::Kms { key_id, .. }) => (Some("aws:kms"), key_id.as_deref(), Some("true")),
                Some(Sse::C) => unreachable!("has a test of its own"),
            };
            let enabled = header("x-amz-server-side-encryption-bucket-key-enabled");
            assert_eq!((header(method), header(key), enabled), (wanted, id, bucket));
            let context = header("x-amz-server-side-encryption-context");
            let context =
                context.map(|c| base64::engine::general_purpose::STANDARD.decode(c).unwrap());
            assert_eq!(context, id.map(|_| br#"{"for":"\"calls\"","pbx":"one"}"#.to_vec()));
            let deleted = seen.iter().any(|r| r.method == "DELETE" && !r.path.contains("uploadId"));
            assert_eq!(deleted, !good, "{seen:?}");
        }
    }
    // It is found out before a recording is sent.
    let server = encrypting(&[], true);
    let store = open(&TargetOptions { sse: Some(Sse::S3), ..options(&server) }).unwrap();
    assert_eq!(store.probe("x").await.unwrap_err().kind, StoreErrorKind::Unsupported);
}

/// Keys of SSE-C in base64, each of 32 equal bytes, and what they are known by.
const NEW: (&str, &str) =
    ("AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE=", "4Funlf7OsLF0HL+vKU+fkg==");
const OLD: (&str, &str) =
    ("AgICAgICAgICAgICAgICAgICAgICAgICAgICAgICAgI=", "F3apf5enN9TQbA8CaOS4/g==");

/// A service that encrypts with the key that it is sent, and says so as `says` has it.
fn encrypting_with_customer_keys(says: fn(&str) -> Option<String>) -> Sloppy {
    type Object = (Vec<u8>, Option<String>);
    let objects: Mutex<BTreeMap<String, Object>> = Mutex::default();
    Sloppy::start(move |request| {
        let mut objects = objects.lock().unwrap();
        let key = request.path.split('?').next().unwrap().to_owned();
        let md5 = request.headers.get("x-amz-server-side-encryption-customer-key-md5").cloned();
        let told = md5.as_deref().and_then(says);
        let mut headers: Vec<_> = told
            .map(|md5| ("x-amz-server-side-encryption-customer-key-md5", md5))
            .into_iter()
            .collect();
        headers.push(("etag", "e".into()));
        let answer = |body: &[u8]| Answer { headers, body: body.to_vec(), ..Answer::status(200) };
        match (request.method.as_str(), request.path.contains("uploads")) {
            ("POST", true) => {
                answer(b"<InitiateMultipartUploadResult><UploadId>u1</UploadId></InitiateMultipartUploadResult>")
            }
            ("POST", false) => {
                objects.insert(key, (vec![7; 9 << 20], md5));
                Answer { body: b"<CompleteMultipartUploadResult/>".to_vec(), ..Answer::status(200) }
            }
            ("PUT", _) if request.path.contains("partNumber") => answer(b""),
            ("PUT", _) => {
                objects.insert(key, (request.body.clone(), md5));
                answer(b"")
            }
            ("DELETE", _) => {
                objects.remove(&key);
                Answer::status(204)
            }
            _ if request.path.contains("list-type") => {
                answer(b"<ListBucketResult><IsTruncated>false</IsTruncated></ListBucketResult>")
            }
            _ => match objects.get(&key) {
                None => Answer::error(404, "NoSuchKey"),
                Some((body, with)) if *with == md5 => answer(body),
                Some((_, Some(_))) if md5.is_some() => Answer::error(403, "AccessDenied"),
                Some(_) => Answer::error(400, "InvalidRequest"),
            },
        }
    })
}

fn says_so(md5: &str) -> Option<String> {
    Some(md5.to_owned())
}

fn with_keys(server: &Sloppy, sse: Option<Sse>, keys: &[(&str, &str)]) -> Arc<dyn Store> {
    let text: String = keys.iter().map(|(key, _)| format!("{key}\n")).collect();
    let keys = CustomerKeys::parse(text.as_bytes(), "sse_c_key_file /keys").unwrap();
    open(&TargetOptions { sse, customer_keys: Some(keys), ..options(server) }).unwrap()
}

async fn put_large(store: &dyn Store, key: &str) -> spoolfs::store::Result<()> {
    let bytes = Bytes::from(vec![7; 9 << 20]);
    let sum = Sha256::of(&bytes);
    store.put(key, Body::Bytes(bytes), sum, &ObjectMeta::default()).await
}

#[tokio::test]
async fn a_customer_key_goes_with_what_needs_it_and_with_nothing_else() {
    let server = encrypting_with_customer_keys(says_so);
    let store = with_keys(&server, Some(Sse::C), &[NEW, OLD]);
    put(&*store, "p/a", AUDIO).await.unwrap();
    put_large(&*store, "p/large").await.unwrap();
    assert_eq!(store.head("p/a").await.unwrap().size, AUDIO.len() as u64);
    assert_eq!(store.get("p/a", 2..5).await.unwrap(), &AUDIO[2..5]);
    assert_eq!(store.head("p/none").await.unwrap_err().kind, StoreErrorKind::NotFound);
    store.list("p/", "").await.unwrap();
    store.delete("p/a").await.unwrap();
    for request in server.seen() {
        let header = |name: &str| {
            let name = format!("x-amz-server-side-encryption-customer-{name}");
            request.headers.get(&name).map(String::as_str)
        };
        let needs = request.method != "DELETE" && !request.path.contains("list-type");
        let sent = (header("algorithm"), header("key"), header("key-md5"));
        let wanted = (Some("AES256"), Some(NEW.0), Some(NEW.1));
        assert_eq!(sent, if needs { wanted } else { (None, None, None) }, "{request:?}");
        assert!(!request.headers.contains_key("x-amz-server-side-encryption"));
    }
    assert_eq!(server.seen().iter().filter(|r| r.path.contains("partNumber")).count(), 2);
}

#[tokio::test]
async fn a_service_that_does_not_say_which_customer_key_it_used_is_no_success() {
    for says in [|_: &str| None, |_: &str| Some(OLD.1.to_owned())] as [fn(&str) -> _; 2] {
        let server = encrypting_with_customer_keys(says);
        let store = with_keys(&server, Some(Sse::C), &[NEW]);
        assert_eq!(put(&*store, "p/a", AUDIO).await, Err(StoreErrorKind::Unsupported));
        let error = put_large(&*store, "p/large").await.unwrap_err();
        assert_eq!(error.kind, StoreErrorKind::Unsupported, "{error}");
        assert!(error.to_string().contains("SSE-C") && !error.to_string().contains(NEW.0));
        assert_eq!(store.probe("x").await.unwrap_err().kind, StoreErrorKind::Unsupported);
        let deleted: Vec<_> =
            server.seen().into_iter().filter(|r| r.method == "DELETE").map(|r| r.path).collect();
        assert!(deleted[0].starts_with("/calls/p/a") && deleted[1].contains("uploadId=u1"));
        let parts = server.seen().into_iter().filter(|r| r.path.contains("partNumber"));
        assert_eq!(parts.count(), 1, "it went on");
    }
}

#[tokio::test]
async fn what_was_written_before_is_read_with_the_key_that_it_was_written_with() {
    let server = encrypting_with_customer_keys(says_so);
    put(&*target(&server), "p/plain", AUDIO).await.unwrap();
    put(&*with_keys(&server, Some(Sse::C), &[OLD]), "p/old", AUDIO).await.unwrap();
    let store = with_keys(&server, Some(Sse::C), &[NEW, OLD]);
    put(&*store, "p/new", AUDIO).await.unwrap();
    // What is encrypted stays readable where nothing is encrypted any more.
    let later = with_keys(&server, None, &[NEW, OLD]);
    for (store, requests) in [(&store, [1, 2, 3]), (&later, [2, 3, 1])] {
        for (key, requests) in ["p/new", "p/old", "p/plain"].into_iter().zip(requests) {
            let before = server.seen().len();
            assert_eq!(store.get(key, 0..100).await.unwrap(), AUDIO, "{key}");
            assert_eq!(server.seen().len() - before, requests, "{key}");
            // It is known by now.
            store.get(key, 0..100).await.unwrap();
            assert_eq!(store.head(key).await.unwrap().size, AUDIO.len() as u64);
            assert_eq!(server.seen().len() - before, requests + 2, "{key}");
        }
    }
    // A key that is taken is taken, whatever it is encrypted with.
    assert_eq!(put(&*store, "p/old", b"another").await, Err(StoreErrorKind::Exists));
}

#[tokio::test]
async fn without_the_right_customer_key_it_is_said_and_nothing_is_written_or_lost() {
    let server = encrypting_with_customer_keys(says_so);
    put(&*target(&server), "p/plain", AUDIO).await.unwrap();
    put(&*with_keys(&server, Some(Sse::C), &[OLD]), "p/old", AUDIO).await.unwrap();
    let why = "sse_c_key_file /keys has mode 0644";
    let none = open(&TargetOptions {
        sse: Some(Sse::C),
        customer_keys: Some(CustomerKeys::none(why)),
        ..options(&server)
    });
    let (wrong, none) = (with_keys(&server, Some(Sse::C), &[NEW]), none.unwrap());
    for (store, said) in [(&wrong, "none of the 1 keys"), (&none, why)] {
        let got = store.get("p/old", 0..9).await.unwrap_err();
        for error in [got, store.head("p/old").await.unwrap_err()] {
            assert_eq!(error.kind, StoreErrorKind::Locked, "{error}");
            assert!(error.to_string().contains(said), "{error}");
            assert!(!format!("{error} {error:?}").contains(NEW.0), "{error}");
        }
        assert_eq!(store.get("p/plain", 0..100).await.unwrap(), AUDIO);
    }
    let before = server.seen().len();
    assert_eq!(put(&*none, "p/a", AUDIO).await, Err(StoreErrorKind::Denied));
    let error = put_large(&*none, "p/large").await.unwrap_err();
    assert!(error.kind == StoreErrorKind::Denied && error.to_string().contains(why), "{error}");
    assert!(server.seen()[before..].iter().all(|r| r.method == "GET"), "something was written");
    assert!(!format!("{wrong:?}").contains(NEW.0));
}

#[tokio::test]
async fn what_needs_a_customer_key_is_not_locked_while_the_keys_are_awaited() {
    let server = encrypting_with_customer_keys(says_so);
    put(&*with_keys(&server, Some(Sse::C), &[OLD]), "p/old", AUDIO).await.unwrap();
    let keys = CustomerKeys::awaited("sse_c_key_command has not answered yet");
    let options = TargetOptions { customer_keys: Some(keys.clone()), ..options(&server) };
    let store = open(&options).unwrap();
    let got = store.get("p/old", 0..9).await.unwrap_err();
    for error in [got, store.head("p/old").await.unwrap_err()] {
        assert_eq!(error.kind, StoreErrorKind::Awaited, "{error}");
        assert!(error.to_string().contains("has not answered yet"), "{error}");
    }
    keys.become_as(&CustomerKeys::parse(NEW.0.as_bytes(), "sse_c_key_command").unwrap());
    assert_eq!(store.head("p/old").await.unwrap_err().kind, StoreErrorKind::Locked);
    keys.become_as(&CustomerKeys::parse(OLD.0.as_bytes(), "sse_c_key_command").unwrap());
    assert_eq!(store.get("p/old", 0..100).await.unwrap(), AUDIO);
}

#[tokio::test]
async fn what_needs_a_customer_key_is_told_as_that_where_none_is_configured() {
    let server = encrypting_with_customer_keys(says_so);
    put(&*with_keys(&server, Some(Sse::C), &[OLD]), "p/old", AUDIO).await.unwrap();
    let store = target(&server);
    let got = store.get("p/old", 0..9).await.unwrap_err();
    for error in [got, store.head("p/old").await.unwrap_err()] {
        assert_eq!(error.kind, StoreErrorKind::Locked, "{error}");
        let said = error.to_string();
        assert!(said.contains("none is configured") && said.contains("sse_c_key_file"), "{said}");
    }
    // Another reason to refuse is none of a key.
    for code in ["ExpiredToken", "KMS.DisabledException"] {
        let server = Sloppy::start(move |_| Answer::error(400, code));
        let error = target(&server).head("p/old").await.unwrap_err();
        assert!(error.kind != StoreErrorKind::Locked && error.detail.contains(code), "{error}");
    }
}

#[tokio::test]
async fn an_address_of_what_a_customer_key_encrypts_is_refused_with_the_reason() {
    let server = encrypting_with_customer_keys(says_so);
    put(&*target(&server), "p/plain", AUDIO).await.unwrap();
    let store = with_keys(&server, Some(Sse::C), &[NEW]);
    put(&*store, "p/a", AUDIO).await.unwrap();
    let hour = Duration::from_secs(3600);
    let error = store.shared_url("p/a", hour).await.unwrap_err();
    assert!(error.to_string().contains("SSE-C") && !error.hint.is_empty(), "{error}");
    let plain = store.shared_url("p/plain", hour).await.unwrap().unwrap();
    assert!(!plain.contains("customer"), "{plain}");
}
