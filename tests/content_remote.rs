//! Reading from a real S3 server, and from one that dies.
#![allow(clippy::unwrap_used)]

mod support;

use spoolfs::catalog::{self, ObjectRow, ObjectState};
use spoolfs::clock::SystemClock;
use spoolfs::content::{Content, Objects, Options};
use spoolfs::recording::{ErrorClass, Generation, Hasher, NodeId, Stored};
use spoolfs::store::{Body, ObjectMeta, open};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};
use support::hitch::Hitches;
use support::seaweedfs::SeaweedFs;

#[derive(Debug)]
struct One(ObjectRow);

impl Objects for One {
    fn current(&self, _: NodeId) -> catalog::Result<Option<Generation>> {
        Ok(Some(self.0.generation))
    }

    fn objects_of(&self, _: NodeId, _: Generation) -> catalog::Result<Vec<ObjectRow>> {
        Ok(vec![self.0.clone()])
    }
}

#[test]
fn a_recording_is_read_from_a_server_and_its_death_is_an_error_within_a_second() {
    let Some(server) = SeaweedFs::start() else { return };
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let url = format!("s3://{}/calls", server.new_bucket());
    let store = open(&server.target("s3", &url)).unwrap();

    let mut audio = vec![0; 12_345_678];
    fastrand::Rng::with_seed(1).fill(&mut audio);
    let mut hasher = Hasher::default();
    hasher.update(&audio);
    let (sha256, chunks) = hasher.finish();
    let key = "calls/n/a b.wav".to_owned();
    let body = Body::Bytes(audio.clone().into());
    let meta = ObjectMeta::default();
    runtime.block_on(store.put(&key, body, sha256, &meta)).unwrap();
    let (node, generation, target) = (NodeId(7), Generation(1), "s3".to_owned());
    let (size, state) = (audio.len() as u64, ObjectState::Verified);
    let row = ObjectRow {
        id: 1,
        node,
        generation,
        target,
        key,
        state,
        size,
        sha256,
        stored: Stored::plain(size, sha256),
        chunks,
        verified_at: None,
    };
    let objects = Arc::new(One(row));
    let reader = || {
        let (stores, handle) = (vec![store.clone()], runtime.handle().clone());
        let clock = Arc::new(SystemClock);
        Content::new(Options::default(), objects.clone(), stores, handle, clock)
    };
    let content = reader();
    let mut whole = Vec::new();
    let mut sink = |_: u64, bytes: &[u8]| {
        whole.extend_from_slice(bytes);
        Ok(())
    };
    content.fetch_all(node, Path::new("a b.wav"), &mut sink).unwrap();
    assert!(whole == audio);
    // One with nothing in memory.
    let content = reader();
    let read = |offset: u64| content.read(node, Path::new("a b.wav"), offset, 100_000);
    let scratch = tempfile::tempdir().unwrap();
    let hitches = Hitches::beside(scratch.path());
    let begin = Instant::now();
    assert!(read(1_000_000).unwrap() == audio[1_000_000..1_100_000]);
    let first = begin.elapsed();

    drop(server);
    let mut longest = Duration::ZERO;
    for _ in 0..20 {
        let begin = Instant::now();
        let read = read(3_000_000).map(|bytes| bytes.len());
        assert_eq!(read.unwrap_err().class, ErrorClass::Transient);
        longest = longest.max(begin.elapsed());
    }
    let hitches = hitches.allowance();
    assert!(first < Duration::from_secs(2) + hitches, "{first:?}, {hitches:?}");
    assert!(longest < Duration::from_secs(1) + hitches, "{longest:?}, {hitches:?}");
}
