//! What is sent to an S3 service, byte for byte, and what is made of the answers of bad ones.
#![allow(clippy::unwrap_used)]

mod support;

use base64::Engine;
use bytes::Bytes;
use spoolfs::policy::StorageClass;
use spoolfs::recording::Sha256;
use spoolfs::store::s3::Sse;
use spoolfs::store::{
    Body, Capabilities, ObjectMeta, Proof, Secret, Store, StoreErrorKind, TargetOptions, open,
    verify,
};
use std::io::Write;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
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
    assert!(begin.elapsed() < Duration::from_secs(10));
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
        assert!(begin.elapsed() < Duration::from_secs(5), "{text}");
    }
}

/// A server that says of what it stores that it is encrypted so, or nothing.
fn encrypting(says: &'static [(&'static str, &'static str)]) -> Sloppy {
    Sloppy::start(move |request| {
        let headers = || says.iter().map(|(name, value)| (*name, (*value).to_owned())).collect();
        match (request.method.as_str(), &*request.path) {
            ("HEAD" | "GET", _) => Answer::error(404, "NoSuchKey"),
            ("POST", path) if path.contains("uploads") => Answer {
                body: b"<InitiateMultipartUploadResult><UploadId>u1</UploadId>\
                        </InitiateMultipartUploadResult>"
                    .to_vec(),
                ..Answer::status(200)
            },
            ("POST", _) => Answer {
                body: b"<CompleteMultipartUploadResult></CompleteMultipartUploadResult>".to_vec(),
                headers: headers(),
                ..Answer::status(200)
            },
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
    let kms = |id: &str| Some(Sse::Kms { key_id: Some(id.to_owned()), bucket_key: Some(true) });
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
        for bytes in [Bytes::from_static(AUDIO), Bytes::from(vec![7; 9 << 20])] {
            let server = encrypting(says);
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
            };
            let enabled = header("x-amz-server-side-encryption-bucket-key-enabled");
            assert_eq!((header(method), header(key), enabled), (wanted, id, bucket));
            let deleted = seen.iter().any(|r| r.method == "DELETE" && !r.path.contains("uploadId"));
            assert_eq!(deleted, !good, "{seen:?}");
        }
    }
    // It is found out before a recording is sent.
    let server = encrypting(&[]);
    let store = open(&TargetOptions { sse: Some(Sse::S3), ..options(&server) }).unwrap();
    assert_eq!(store.probe("x").await.unwrap_err().kind, StoreErrorKind::Unsupported);
}
