//! What every target must do alike: the model in memory, a directory, a real S3 server, and the
//! emulators of Azure and Google.
#![allow(clippy::unwrap_used)]

mod support;

use aws_sdk_s3::presigning::PresigningConfig;
use bytes::Bytes;
use spoolfs::clock::Timestamp;
use spoolfs::recording::Sha256;
use spoolfs::store::file::FileStore;
use spoolfs::store::marker::{self, Claim};
use spoolfs::store::memory::MemoryStore;
use spoolfs::store::s3::{CustomerKeys, PutChecksum, Sse};
use spoolfs::store::{
    Body, ObjectMeta, Proof, Secret, Store, StoreError, StoreErrorKind, TargetOptions, open, verify,
};
use std::any::Any;
use std::fs::File;
use std::io::{Read, Write};
use std::sync::Arc;
use std::time::{Duration, Instant};
use support::emulators::{Emulator, Kind};
use support::hitch::Hitches;
use support::seaweedfs::SeaweedFs;

/// An empty target, and what keeps it alive.
struct Subject {
    store: Arc<dyn Store>,
    _alive: Box<dyn Any + Send>,
}

fn memory() -> Option<Subject> {
    let store = Arc::new(MemoryStore::new("memory", "calls/"));
    Some(Subject { store, _alive: Box::new(()) })
}

fn file() -> Option<Subject> {
    let dir = tempfile::tempdir().unwrap();
    let store = Arc::new(FileStore::new("file", dir.path().to_owned()));
    Some(Subject { store, _alive: Box::new(dir) })
}

fn seaweedfs() -> Option<Subject> {
    let server = SeaweedFs::shared()?;
    let url = format!("s3://{}/calls/é+ 1", server.new_bucket());
    let store = open(&server.target("s3", &url)).unwrap();
    Some(Subject { store, _alive: Box::new(server) })
}

/// The same, encrypted by the server with a key that only we have.
fn seaweedfs_with_our_key() -> Option<Subject> {
    let server = SeaweedFs::shared()?;
    let url = format!("s3://{}/calls/é+ 1", server.new_bucket());
    let store = open(&with_keys(server.target("s3", &url), &[KEYS[0]])).unwrap();
    Some(Subject { store, _alive: Box::new(server) })
}

fn azurite() -> Option<Subject> {
    emulated(Kind::Azure)
}

fn fake_gcs() -> Option<Subject> {
    emulated(Kind::Google)
}

fn emulated(kind: Kind) -> Option<Subject> {
    let server = Emulator::shared(kind)?;
    let store = open(&server.target(&format!("{}/calls/é+ 1", server.new_bucket()))).unwrap();
    Some(Subject { store, _alive: Box::new(server) })
}

macro_rules! contract {
    ($($subject:ident)*; $cases:tt) => { $(contract!(@one $subject $cases);)* };
    (@one $subject:ident [$($case:ident)*]) => {
        mod $subject {
            $(#[tokio::test]
            async fn $case() {
                let Some(subject) = super::$subject() else { return };
                super::cases::$case(subject.store).await;
            })*
        }
    };
}

/// As one test: Azurite takes seconds to start.
macro_rules! contract_in_one_go {
    ($subject:ident; [$($case:ident)*]) => {
        #[tokio::test]
        async fn every_case_on_azurite() {
            let Some(_keeps_it_running) = $subject() else { return };
            $(
                println!("{}", stringify!($case));
                cases::$case($subject().unwrap().store).await;
            )*
        }
    };
}

macro_rules! every_case {
    ($macro:ident $($subject:ident)*) => {
        $macro!($($subject)*; [
            what_is_put_comes_back
            ranges_end_where_the_object_ends
            a_listing_is_complete_and_in_order
            a_deleted_object_is_not_found
            a_taken_key_is_not_written
            a_body_that_is_not_what_was_meant_is_not_stored
            a_body_that_can_not_be_read_is_not_the_targets_fault
            long_and_odd_keys_are_kept_exactly
            a_large_object_goes_and_comes_back
            of_many_writers_of_a_key_one_wins
            of_many_writers_of_a_large_object_one_wins
            what_was_written_is_proved
            an_archive_is_founded_once
        ]);
    };
}

every_case!(contract memory file seaweedfs seaweedfs_with_our_key fake_gcs);
every_case!(contract_in_one_go azurite);

fn key(store: &dyn Store, rest: &str) -> String {
    format!("{}{rest}", store.prefix())
}

/// Keys of SSE-C, each of 32 equal bytes.
const KEYS: [&str; 2] = [
    "AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE=",
    "AgICAgICAgICAgICAgICAgICAgICAgICAgICAgICAgI=",
];

fn with_keys(target: TargetOptions, keys: &[&str]) -> TargetOptions {
    let keys = CustomerKeys::parse(keys.join("\n").as_bytes(), "keys").unwrap();
    TargetOptions { sse: Some(Sse::C), customer_keys: Some(keys), ..target }
}

/// Bytes that differ from those of another seed everywhere.
fn noise(seed: u64, len: usize) -> Bytes {
    let mut rng = fastrand::Rng::with_seed(seed);
    let mut bytes = vec![0; len];
    rng.fill(&mut bytes);
    bytes.into()
}

async fn put(store: &dyn Store, key: &str, bytes: &Bytes) -> Result<(), StoreError> {
    let sha256 = Sha256::of(bytes);
    store.put(key, Body::Bytes(bytes.clone()), sha256, &ObjectMeta::default()).await
}

async fn list_all(store: &dyn Store, prefix: &str) -> Vec<String> {
    let mut keys: Vec<String> = Vec::new();
    loop {
        let after = keys.last().cloned().unwrap_or_default();
        let page = store.list(prefix, &after).await.unwrap();
        assert!(page.len() <= 1000);
        if page.is_empty() {
            return keys;
        }
        keys.extend(page.into_iter().map(|row| row.key));
    }
}

/// For servers with an order of their own.
async fn list_sorted(store: &dyn Store, prefix: &str) -> Vec<String> {
    let mut keys = list_all(store, prefix).await;
    keys.sort();
    keys
}

mod cases {
    use super::*;

    pub async fn what_is_put_comes_back(store: Arc<dyn Store>) {
        for len in [0, 1, 44, 65_537, 8 << 20] {
            let bytes = noise(len as u64, len);
            let key = key(&*store, &format!("n/{len}.wav"));
            let meta = ObjectMeta {
                content_type: "audio/wav".into(),
                user: vec![
                    ("spoolfs-node".into(), "pbx-1".into()),
                    ("spoolfs-mtime".into(), "-1731425999123456789".into()),
                ],
                ..ObjectMeta::default()
            };
            let body = Body::Bytes(bytes.clone());
            store.put(&key, body, Sha256::of(&bytes), &meta).await.unwrap();
            assert_eq!(store.get(&key, 0..len as u64).await.unwrap(), bytes);
            let head = store.head(&key).await.unwrap();
            let mut user = head.user;
            user.sort();
            let mut meant = meta.user;
            meant.sort();
            assert_eq!((head.size, user), (len as u64, meant));
            assert!(head.sha256.is_none_or(|found| found == Sha256::of(&bytes)));
        }
    }

    pub async fn a_body_that_can_not_be_read_is_not_the_targets_fault(store: Arc<dyn Store>) {
        // Reading at 0 is EIO.
        let file = Arc::new(File::open("/proc/self/mem").unwrap());
        for len in [5, 9 << 20] {
            let body = Body::File { file: file.clone(), len };
            let key = key(&*store, "n/a.wav");
            let put = store.put(&key, body, Sha256::of(b"audio"), &ObjectMeta::default()).await;
            let error = put.unwrap_err();
            assert_eq!(error.kind, StoreErrorKind::Unreadable, "{error}");
            assert!(error.to_string().contains("local file"), "{error}");
            assert_eq!(store.head(&key).await.unwrap_err().kind, StoreErrorKind::NotFound);
        }
    }

    pub async fn ranges_end_where_the_object_ends(store: Arc<dyn Store>) {
        let (key, bytes) = (key(&*store, "n/a"), noise(1, 1000));
        put(&*store, &key, &bytes).await.unwrap();
        for (range, want) in [
            (0..1, 0..1),
            (0..1000, 0..1000),
            (10..500, 10..500),
            (999..1000, 999..1000),
            (990..5000, 990..1000),
            (0..u64::MAX, 0..1000),
            (1000..1001, 0..0),
            (5000..6000, 0..0),
            (7..7, 0..0),
        ] {
            let mut got = store.get(&key, range.clone()).await;
            // fake-gcs-server closes the connection behind each 416, which the next one may find
            // out too late. Who reads asks again then, as `content::fetch` does.
            if got.as_ref().is_err_and(|e| e.kind == StoreErrorKind::Unreachable) {
                got = store.get(&key, range.clone()).await;
            }
            assert_eq!(got.unwrap(), bytes.slice(want), "{range:?}");
        }
    }

    pub async fn a_listing_is_complete_and_in_order(store: Arc<dyn Store>) {
        store.probe("probe").await.unwrap();
        let mut keys: Vec<String> =
            ["n/a.wav", "n/a/b.wav", "n/a/c.wav", "n/a-b", "n/a b", "n/ä", "n/Z", "other/x"]
                .into_iter()
                .map(str::to_owned)
                .chain((0..1_050).map(|i| format!("n/d/{i:04}.wav")))
                .map(|rest| key(&*store, &rest))
                .collect();
        let puts = keys.iter().map(|k| {
            let (store, k) = (store.clone(), k.clone());
            async move { put(&*store, &k, &Bytes::from_static(b"x")).await.unwrap() }
        });
        let mut tasks = tokio::task::JoinSet::new();
        for put in puts {
            if tasks.len() >= 16 {
                tasks.join_next().await.unwrap().unwrap();
            }
            tasks.spawn(put);
        }
        tasks.join_all().await;
        keys.sort();
        assert_eq!(list_sorted(&*store, store.prefix()).await, keys);
        let below = key(&*store, "n/a");
        let some: Vec<_> = keys.iter().filter(|k| k.starts_with(&below)).cloned().collect();
        assert_eq!(list_sorted(&*store, &below).await, some);
        let within = key(&*store, "n/d/");
        let in_order: Vec<_> = keys.iter().filter(|k| k.starts_with(&within)).cloned().collect();
        assert_eq!(list_all(&*store, &within).await, in_order);
        // Also when a listing goes on at every single row.
        let few = key(&*store, "n/a");
        for row in store.list(&few, "").await.unwrap() {
            let rest = store.list(&few, &row.key).await.unwrap();
            assert!(rest.iter().all(|r| r.key != row.key));
        }
        let first = store.list(store.prefix(), "").await.unwrap();
        assert!(first.iter().all(|row| row.size == 1));
        assert!(store.list(&key(&*store, "nothing/"), "").await.unwrap().is_empty());
    }

    pub async fn a_deleted_object_is_not_found(store: Arc<dyn Store>) {
        let (one, other) = (key(&*store, "n/one"), key(&*store, "n/other"));
        for k in [&one, &other] {
            put(&*store, k, &noise(1, 10)).await.unwrap();
        }
        store.delete(&one).await.unwrap();
        store.delete(&one).await.unwrap();
        store.delete(&key(&*store, "n/never/there")).await.unwrap();
        assert_eq!(store.head(&one).await.unwrap_err().kind, StoreErrorKind::NotFound);
        assert_eq!(store.get(&one, 0..5).await.unwrap_err().kind, StoreErrorKind::NotFound);
        assert_eq!(list_all(&*store, store.prefix()).await, [other]);
    }

    pub async fn a_taken_key_is_not_written(store: Arc<dyn Store>) {
        let (key, first) = (key(&*store, "n/a"), noise(1, 100));
        // Before the target was tried out, and after.
        for nonce in ["", "probe-1"] {
            if !nonce.is_empty() {
                // What it finds decides how a taken key is left alone, not whether: a server that
                // once lets a condition pass is not trusted with it, and asked first instead.
                let found = store.probe(nonce).await.unwrap();
                println!("conditional put: {}", found.conditional_put);
            }
            let _first_time = put(&*store, &key, &first).await;
            for other in [noise(2, 100), first.clone()] {
                let error = put(&*store, &key, &other).await.unwrap_err();
                assert_eq!(error.kind, StoreErrorKind::Exists, "{error}");
            }
            assert_eq!(store.get(&key, 0..200).await.unwrap(), first);
        }
        assert_eq!(list_all(&*store, store.prefix()).await, [key], "a probe is left");
    }

    pub async fn a_body_that_is_not_what_was_meant_is_not_stored(store: Arc<dyn Store>) {
        for len in [100, 9 << 20] {
            let key = key(&*store, "n/a");
            let body = Body::Bytes(noise(1, len));
            let meta = ObjectMeta::default();
            let error = store.put(&key, body, Sha256::of(b"another"), &meta).await.unwrap_err();
            assert_eq!(error.kind, StoreErrorKind::Corrupt, "{error}");
            assert_eq!(store.head(&key).await.unwrap_err().kind, StoreErrorKind::NotFound);
        }
    }

    pub async fn long_and_odd_keys_are_kept_exactly(store: Arc<dyn Store>) {
        let longest = {
            let start = key(&*store, "n/");
            let mut key = start + &format!("{}/", "d".repeat(255)).repeat(3);
            key.push_str(&format!("{}/", "ü".repeat(20)));
            let left = 1024 - key.len() - ".wav".len();
            format!("{key}{}.wav", "x".repeat(left))
        };
        assert_eq!(longest.len(), 1024);
        let odd = [
            "n/a b+c&d=e#f?g;h:i,j@k!l$m.wav",
            "n/ a ",
            "n/(1)*'2'\"<3>|~`^[]{}.wav",
            "n/%41%0A%25.wav",
            "n/ünïcödé 漢字 🎧.wav",
            "n/...",
            "n/.hidden",
            "n/a..b",
            "n/-",
            "n/trailing.",
            "n/A",
            "n/a",
        ];
        let mut keys: Vec<String> = odd.iter().map(|rest| key(&*store, rest)).collect();
        keys.push(longest);
        for (i, k) in keys.iter().enumerate() {
            put(&*store, k, &noise(i as u64, 50)).await.unwrap_or_else(|e| panic!("{e}"));
        }
        for (i, k) in keys.iter().enumerate() {
            assert_eq!(store.get(k, 0..50).await.unwrap(), noise(i as u64, 50), "{k}");
            assert_eq!(store.head(k).await.unwrap().size, 50, "{k}");
        }
        let mut sorted = keys.clone();
        sorted.sort();
        assert_eq!(list_sorted(&*store, store.prefix()).await, sorted);
        for k in &keys {
            store.delete(k).await.unwrap();
        }
        assert!(list_all(&*store, store.prefix()).await.is_empty());
    }

    pub async fn a_large_object_goes_and_comes_back(store: Arc<dyn Store>) {
        let bytes = noise(5, (40 << 20) + 12_345);
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&bytes).unwrap();
        file.write_all(b"appended later").unwrap();
        let (key, sha256) = (key(&*store, "n/large.wav"), Sha256::of(&bytes));
        let body = || Body::File { file: Arc::new(clone(&file)), len: bytes.len() as u64 };
        let meta = ObjectMeta {
            content_type: "audio/wav".into(),
            user: vec![("spoolfs-sha256".into(), sha256.to_string())],
            ..ObjectMeta::default()
        };
        store.probe("probe").await.unwrap();
        store.put(&key, body(), sha256, &meta).await.unwrap();
        let head = store.head(&key).await.unwrap();
        assert_eq!((head.size, &head.user), (bytes.len() as u64, &meta.user));
        verify(&*store, &key, bytes.len() as u64, sha256).await.unwrap();
        let middle = 16_777_000..16_778_000;
        let got = store.get(&key, middle.start as u64..middle.end as u64).await.unwrap();
        assert_eq!(got, bytes.slice(middle));
        let again = store.put(&key, body(), sha256, &meta).await.unwrap_err();
        assert_eq!(again.kind, StoreErrorKind::Exists);
        assert_eq!(list_all(&*store, store.prefix()).await, [key]);
    }

    fn clone(file: &File) -> File {
        file.try_clone().unwrap()
    }

    pub async fn of_many_writers_of_a_key_one_wins(store: Arc<dyn Store>) {
        store.probe("probe").await.unwrap();
        race(store, 4, 2_000).await;
    }

    pub async fn of_many_writers_of_a_large_object_one_wins(store: Arc<dyn Store>) {
        store.probe("probe").await.unwrap();
        race(store, 2, 9 << 20).await;
    }

    async fn race(store: Arc<dyn Store>, writers: u64, len: usize) {
        let key = key(&*store, "n/raced.wav");
        let mut tasks = tokio::task::JoinSet::new();
        for seed in 0..writers {
            let (store, key) = (store.clone(), key.clone());
            tasks.spawn(async move { (seed, put(&*store, &key, &noise(seed, len)).await) });
        }
        let (mut winners, mut losers) = (Vec::new(), Vec::new());
        for (seed, result) in tasks.join_all().await {
            match result {
                Ok(()) => winners.push(seed),
                Err(e) => losers.push(e),
            }
        }
        assert_eq!(winners.len(), 1, "{losers:?}");
        assert!(losers.iter().all(|e| e.kind == StoreErrorKind::Exists), "{losers:?}");
        let stored = store.get(&key, 0..len as u64).await.unwrap();
        assert_eq!(stored, noise(winners[0], len));
    }

    pub async fn what_was_written_is_proved(store: Arc<dyn Store>) {
        let (k, bytes) = (key(&*store, "n/a"), noise(1, 70_000));
        let (size, sha256) = (bytes.len() as u64, Sha256::of(&bytes));
        put(&*store, &k, &bytes).await.unwrap();
        let untried = verify(&*store, &k, size, sha256).await.unwrap();
        let capable = store.probe("probe").await.unwrap();
        let tried = verify(&*store, &k, size, sha256).await.unwrap();
        assert_eq!(tried == Proof::Checksum, capable.checksum);
        assert!(tried == Proof::Checksum || untried == Proof::ReadBack);
        for (size, sha256) in [(size, Sha256::of(b"x")), (size - 1, sha256)] {
            let error = verify(&*store, &k, size, sha256).await.unwrap_err();
            assert_eq!(error.kind, StoreErrorKind::Corrupt);
        }
        let missing = verify(&*store, &key(&*store, "n/b"), size, sha256).await.unwrap_err();
        assert_eq!(missing.kind, StoreErrorKind::NotFound);
    }

    pub async fn an_archive_is_founded_once(store: Arc<dyn Store>) {
        let mut tasks = tokio::task::JoinSet::new();
        for i in 0..3 {
            let store = store.clone();
            tasks.spawn(async move {
                let name = format!("pbx{i}");
                let claim = Claim {
                    expected: None,
                    archive_name: marker::DEFAULT_ARCHIVE_NAME,
                    node: &name,
                    instance: &name,
                    now: Timestamp(0),
                };
                marker::attach(&*store, &claim).await.unwrap()
            });
        }
        let mut ids = tasks.join_all().await;
        ids.dedup();
        assert_eq!(ids.len(), 1);
        assert_eq!(list_all(&*store, store.prefix()).await.len(), 4);
    }
}

/// Every call once, with the error it gave.
async fn every_error(store: &dyn Store) -> Vec<StoreError> {
    let key = key(store, "n/a.wav");
    vec![
        put(store, &key, &noise(1, 10)).await.unwrap_err(),
        put(store, &key, &noise(1, 9 << 20)).await.unwrap_err(),
        store.head(&key).await.unwrap_err(),
        store.get(&key, 0..1).await.unwrap_err(),
        store.list(store.prefix(), "").await.unwrap_err(),
        store.delete(&key).await.unwrap_err(),
        store.abort_orphans("n").await.unwrap_err(),
        store.probe("probe").await.unwrap_err(),
        verify(store, &key, 1, Sha256::of(b"")).await.unwrap_err(),
    ]
}

#[tokio::test]
async fn a_dead_port_is_unreachable_and_never_not_found() {
    let port = {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.local_addr().unwrap().port()
    };
    for (url, keys) in [
        ("s3://calls", Some(("k", "aHVudGVyMg=="))),
        ("az://calls", Some(("k", "aHVudGVyMg=="))),
        ("gs://calls", None),
    ] {
        let store = open(&TargetOptions {
            name: "dead".into(),
            url: url.into(),
            endpoint: Some(format!("http://127.0.0.1:{port}")),
            access_key_id: keys.map(|(id, _)| id.into()),
            secret_access_key: keys.map(|(_, secret)| Secret::new(secret)),
            ..TargetOptions::default()
        })
        .unwrap();
        assert!(!format!("{store:?}").contains("aHVudGVyMg"), "{url}");
        let scratch = tempfile::tempdir().unwrap();
        let hitches = Hitches::beside(scratch.path());
        let begin = Instant::now();
        for error in every_error(&*store).await {
            assert_eq!(error.kind, StoreErrorKind::Unreachable, "{url}: {error}");
            assert!(error.to_string().contains("refused"), "{error}");
            assert!(!format!("{error} {error:?}").contains("aHVudGVyMg"));
        }
        let (took, hitches) = (begin.elapsed(), hitches.allowance());
        let bound = Duration::from_secs(5) + hitches;
        assert!(took < bound, "{url}: it was tried again inside: {took:?}");
    }
}

#[tokio::test]
async fn wrong_credentials_are_denied() {
    let Some(server) = SeaweedFs::shared() else { return };
    let url = format!("s3://{}", server.new_bucket());
    let wrong_secret = TargetOptions {
        secret_access_key: Some(Secret::new("wrong")),
        ..server.target("s3", &url)
    };
    let wrong_key =
        TargetOptions { access_key_id: Some("nobody".into()), ..server.target("s3", &url) };
    for options in [wrong_secret, wrong_key] {
        for error in every_error(&*open(&options).unwrap()).await {
            assert_eq!(error.kind, StoreErrorKind::Denied, "{error}");
            assert!(error.hint.contains("secret_access_key"), "{error}");
        }
    }
}

#[tokio::test]
async fn a_missing_bucket_is_not_a_missing_object() {
    let Some(server) = SeaweedFs::shared() else { return };
    let store = open(&server.target("s3", "s3://no-such-bucket")).unwrap();
    let k = key(&*store, "n/a");
    for error in [
        store.head(&k).await.unwrap_err(),
        store.get(&k, 0..1).await.unwrap_err(),
        put(&*store, &k, &noise(1, 10)).await.unwrap_err(),
    ] {
        assert_eq!(error.kind, StoreErrorKind::Unsupported, "{error}");
        assert!(error.hint.contains("bucket"), "{error}");
    }
}

/// What Azurite shows beside the contract, in one go as well.
#[tokio::test]
async fn of_azure_a_wrong_key_a_missing_container_and_a_deleted_place_in_a_listing() {
    let Some(server) = Emulator::shared(Kind::Azure) else { return };
    let url = server.new_bucket();
    let wrong =
        TargetOptions { secret_access_key: Some(Secret::new("d3Jvbmc=")), ..server.target(&url) };
    for error in every_error(&*open(&wrong).unwrap()).await {
        assert_eq!(error.kind, StoreErrorKind::Denied, "{error}");
        assert!(error.hint.contains("secret_access_key"), "{error}");
        assert!(!error.to_string().contains("d3Jvbmc"), "{error}");
    }
    missing(&server.target("az://no-such-container")).await;
    let store = open(&server.target(&url)).unwrap();
    for key in ["a", "c", "d"] {
        put(&*store, key, &noise(1, 1)).await.unwrap();
    }
    let rows = store.list("", "b").await.unwrap();
    assert_eq!(rows.iter().map(|row| &*row.key).collect::<Vec<_>>(), ["c", "d"]);
    // The fields of metadata are C# identifiers there.
    let meta = ObjectMeta {
        content_type: "audio/wav".into(),
        user: vec![("spoolfs-node".into(), "pbx".into())],
        ..ObjectMeta::default()
    };
    store.put("m", Body::Bytes(noise(1, 1)), Sha256::of(&noise(1, 1)), &meta).await.unwrap();
    assert_eq!(store.head("m").await.unwrap().user, meta.user);
}

#[tokio::test]
async fn of_google_a_missing_bucket_is_not_a_missing_object() {
    let Some(server) = Emulator::shared(Kind::Google) else { return };
    missing(&server.target("gs://no-such-bucket")).await;
}

/// Of a bucket or container that is not there no object is "not found".
async fn missing(options: &TargetOptions) {
    let store = open(options).unwrap();
    for error in every_error(&*store).await {
        assert_eq!(error.kind, StoreErrorKind::Unsupported, "{error}");
        assert!(error.hint.contains("correct `url`"), "{error}");
    }
}

#[tokio::test]
async fn a_missing_directory_is_unreachable() {
    let dir = tempfile::tempdir().unwrap();
    let store = FileStore::new("file", dir.path().join("unmounted"));
    for error in every_error(&store).await {
        assert_eq!(error.kind, StoreErrorKind::Unreachable, "{error}");
    }
    assert!(!dir.path().join("unmounted").exists());
}

#[tokio::test]
async fn orphaned_uploads_of_this_node_are_ended_and_no_others() {
    let Some(server) = SeaweedFs::shared() else { return };
    let bucket = server.new_bucket();
    let client = server.client();
    let begin = async |key: &str| {
        let upload = client.create_multipart_upload().bucket(&bucket).key(key).send().await;
        let id = upload.unwrap().upload_id.unwrap();
        let body = noise(1, 5 << 20).into();
        let part = client.upload_part().bucket(&bucket).key(key).upload_id(&id).part_number(1);
        part.body(body).send().await.unwrap();
    };
    for key in ["calls/pbx/a.wav", "calls/pbx/b.wav", "calls/pbx2/a.wav", "pbx/a.wav"] {
        begin(key).await;
    }
    let store = open(&server.target("s3", &format!("s3://{bucket}/calls"))).unwrap();
    assert_eq!(store.abort_orphans("pbx").await.unwrap(), 2);
    assert_eq!(store.abort_orphans("pbx").await.unwrap(), 0);
    let left = client.list_multipart_uploads().bucket(&bucket).send().await.unwrap();
    let mut keys: Vec<_> = left.uploads().iter().filter_map(|u| u.key()).collect();
    keys.sort_unstable();
    assert_eq!(keys, ["calls/pbx2/a.wav", "pbx/a.wav"]);
}

#[tokio::test]
async fn a_failed_upload_leaves_no_part() {
    let Some(server) = SeaweedFs::shared() else { return };
    let bucket = server.new_bucket();
    let store = open(&server.target("s3", &format!("s3://{bucket}/"))).unwrap();
    let body = Body::Bytes(noise(1, 20 << 20));
    store.put("n/a", body, Sha256::of(b"another"), &ObjectMeta::default()).await.unwrap_err();
    let left = server.client().list_multipart_uploads().bucket(&bucket).send().await.unwrap();
    assert!(left.uploads().is_empty());
}

#[tokio::test]
async fn a_large_object_is_proved_by_the_checksum_of_its_parts_or_by_reading() {
    let Some(server) = SeaweedFs::shared() else { return };
    let target = server.target("s3", &format!("s3://{}/", server.new_bucket()));
    let store = open(&target).unwrap();
    store.probe("probe").await.unwrap();
    let bytes = noise(1, 17 << 20);
    let (size, sha256) = (bytes.len() as u64, Sha256::of(&bytes));
    put(&*store, "n/a", &bytes).await.unwrap();
    assert_eq!(verify(&*store, "n/a", size, sha256).await.unwrap(), Proof::Checksum);
    // After a restart nothing is remembered of the parts.
    let later = open(&target).unwrap();
    later.probe("later").await.unwrap();
    assert_eq!(verify(&*later, "n/a", size, sha256).await.unwrap(), Proof::ReadBack);
}

#[tokio::test]
async fn without_checksum_headers_everything_is_read_back() {
    let Some(server) = SeaweedFs::shared() else { return };
    let target = server.target("s3", &format!("s3://{}/", server.new_bucket()));
    let store = open(&TargetOptions { checksum: PutChecksum::None, ..target }).unwrap();
    assert!(!store.probe("probe").await.unwrap().checksum);
    for (key, len) in [("n/small", 100), ("n/large", 9 << 20)] {
        let bytes = noise(1, len);
        put(&*store, key, &bytes).await.unwrap();
        let proof = verify(&*store, key, len as u64, Sha256::of(&bytes)).await.unwrap();
        assert_eq!(proof, Proof::ReadBack);
    }
}

#[test]
fn a_store_outlives_the_runtime_that_used_it_first() {
    let Some(server) = SeaweedFs::shared() else { return };
    outlives(&*open(&server.target("s3", &format!("s3://{}/", server.new_bucket()))).unwrap());
    let Some(server) = Emulator::shared(Kind::Google) else { return };
    outlives(&*open(&server.target(&server.new_bucket())).unwrap());
}

fn outlives(store: &dyn Store) {
    let mut idle = Vec::new();
    for i in 0..6 {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let begin = Instant::now();
        runtime.block_on(async {
            let k = format!("n/{i}");
            put(store, &k, &noise(i, 100)).await.unwrap();
            assert_eq!(store.get(&k, 0..100).await.unwrap(), noise(i, 100));
        });
        assert!(begin.elapsed() < Duration::from_secs(30));
        // Every second one stays, but is not driven any more.
        if i % 2 == 0 {
            idle.push(runtime);
        }
    }
}

#[tokio::test]
async fn two_machines_do_not_both_write_a_large_object() {
    let Some(server) = SeaweedFs::shared() else { return };
    let target = server.target("s3", &format!("s3://{}/", server.new_bucket()));
    let mut tasks = tokio::task::JoinSet::new();
    for seed in 0..2 {
        let store = open(&target).unwrap();
        tasks.spawn(async move {
            store.probe(&format!("probe-{seed}")).await.unwrap();
            (seed, put(&*store, "n/a", &noise(seed, 9 << 20)).await.map_err(|e| e.kind))
        });
    }
    let outcomes = tasks.join_all().await;
    let winners: Vec<u64> = outcomes.iter().filter(|o| o.1.is_ok()).map(|o| o.0).collect();
    assert_eq!(winners.len(), 1, "{outcomes:?}");
    let stored = open(&target).unwrap().get("n/a", 0..9 << 20).await.unwrap();
    assert!(stored == noise(winners[0], 9 << 20));
}

#[tokio::test]
async fn a_customer_key_is_what_a_server_encrypts_with_and_wants() {
    let Some(server) = SeaweedFs::shared() else { return };
    let bucket = server.new_bucket();
    let target = server.target("s3", &format!("s3://{bucket}/"));
    let bytes = [noise(1, 1000), noise(2, 9 << 20)];
    let stores = [open(&target), open(&with_keys(target.clone(), &KEYS[1..]))];
    let names = ["n/small", "n/large"];
    for (at, store) in stores.into_iter().enumerate() {
        for (name, bytes) in names.iter().zip(&bytes) {
            put(&**store.as_ref().unwrap(), &format!("{name}{at}"), bytes).await.unwrap();
        }
    }
    // Another client needs the key, too: here one that has only an address and the headers.
    let get = server.client().get_object().bucket(&bucket).key("n/small1");
    get.clone().send().await.unwrap_err();
    let get = get
        .sse_customer_algorithm("AES256")
        .sse_customer_key(KEYS[1])
        .sse_customer_key_md5("F3apf5enN9TQbA8CaOS4/g==");
    let hour = PresigningConfig::expires_in(Duration::from_secs(3600)).unwrap();
    let signed = get.presigned(hour).await.unwrap();
    assert_eq!(signed.headers().count(), 3);
    for with_headers in [true, false] {
        let headers = signed.headers().filter(|_| with_headers);
        let headers: String = headers.map(|(name, value)| format!("{name}: {value}\r\n")).collect();
        let (host, path) = signed.uri().strip_prefix("http://").unwrap().split_once('/').unwrap();
        let mut stream = std::net::TcpStream::connect(host).unwrap();
        write!(stream, "GET /{path} HTTP/1.0\r\nHost: {host}\r\n{headers}\r\n").unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).unwrap();
        assert_eq!(answer.ends_with(&bytes[0]), with_headers);
    }
    // With the other key and this one all can be read, as what was never encrypted.
    let both = open(&with_keys(target.clone(), &KEYS)).unwrap();
    for (name, bytes) in names.iter().zip(&bytes) {
        for at in [0, 1] {
            let key = format!("{name}{at}");
            verify(&*both, &key, bytes.len() as u64, Sha256::of(bytes)).await.unwrap();
            assert_eq!(both.get(&key, 500..900).await.unwrap(), bytes.slice(500..900), "{key}");
            // Of what is not encrypted there is an address, though the server takes a key for it.
            let address = both.shared_url(&key, Duration::from_secs(60)).await;
            assert_eq!(address.is_ok(), at == 0, "{key}: {address:?}");
        }
    }
    // And with the other alone, or with none, what is encrypted can not.
    let (wrong, none) = (open(&with_keys(target.clone(), &KEYS[..1])), open(&target));
    for store in [wrong.unwrap(), none.unwrap()] {
        for name in names {
            store.get(&format!("{name}0"), 0..1).await.unwrap();
            let key = format!("{name}1");
            for error in
                [store.get(&key, 0..1).await.unwrap_err(), store.head(&key).await.unwrap_err()]
            {
                assert_eq!(error.kind, StoreErrorKind::Locked, "{error}");
            }
        }
    }
}
