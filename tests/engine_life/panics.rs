//! A fault in spoolfs itself is one recording's trouble, not everybody's.

use crate::world::World;
use bytes::Bytes;
use spoolfs::engine::{Command, Outcome};
use spoolfs::recording::{Sha256, State};
use spoolfs::store::memory::MemoryStore;
use spoolfs::store::{Body, Capabilities, Head, Listed, ObjectMeta, Result, Store};
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// A target whose code has a fault that some keys bring to light.
#[derive(Debug)]
struct Faulty {
    inner: MemoryStore,
    mended: AtomicBool,
}

#[async_trait::async_trait]
impl Store for Faulty {
    fn name(&self) -> &str {
        self.inner.name()
    }
    fn prefix(&self) -> &str {
        self.inner.prefix()
    }
    fn url(&self, key: &str) -> String {
        self.inner.url(key)
    }
    async fn probe(&self, nonce: &str) -> Result<Capabilities> {
        self.inner.probe(nonce).await
    }
    async fn put(&self, key: &str, body: Body, sha256: Sha256, meta: &ObjectMeta) -> Result<()> {
        let fault = key.contains("odd") && !self.mended.load(Ordering::SeqCst);
        assert!(!fault, "the odd one");
        self.inner.put(key, body, sha256, meta).await
    }
    async fn head(&self, key: &str) -> Result<Head> {
        self.inner.head(key).await
    }
    async fn get(&self, key: &str, range: Range<u64>) -> Result<Bytes> {
        self.inner.get(key, range).await
    }
    async fn list(&self, prefix: &str, after: &str) -> Result<Vec<Listed>> {
        self.inner.list(prefix, after).await
    }
    async fn delete(&self, key: &str) -> Result<()> {
        self.inner.delete(key).await
    }
    async fn abort_orphans(&self, node: &str) -> Result<usize> {
        self.inner.abort_orphans(node).await
    }
}

#[test]
fn a_panic_is_the_trouble_of_one_recording_and_the_engine_goes_on() {
    let mut world = World::with(&[]);
    let inner = MemoryStore::new("one", "p/");
    let store = Arc::new(Faulty { inner, mended: AtomicBool::new(false) });
    world.others.push(store.clone());
    world.required.push("one".into());
    world.start();
    // More than there are threads.
    let odd: Vec<_> = (0..6).map(|i| world.record(&format!("odd{i}.wav"), b"audio")).collect();
    world.pass(400);
    world.until("all were tried", || {
        odd.iter().all(|id| world.catalog().trouble_of(*id).unwrap().is_some())
    });
    let good = world.archived("good.wav", b"audio");
    assert!(odd.iter().all(|id| world.state(*id) == State::Closed));
    assert!(world.explain("odd3.wav").contains("the odd one"), "{}", world.explain("odd3.wav"));
    assert_eq!(world.catalog().counts().unwrap().failing, 6);
    world.until("nothing is under way", || {
        let status = world.engine().status();
        (status.archiving, status.hashing) == (0, 0)
    });
    match world.run_one(Command::Archive, "odd0.wav") {
        Outcome::Failed(why) => assert!(why.contains("report"), "{why}"),
        other => panic!("{other:?}"),
    }
    store.mended.store(true, Ordering::SeqCst);
    world.until("archived", || {
        world.pass(60);
        odd.iter().all(|id| world.state(*id) != State::Closed)
    });
    world.pass(4000);
    world.until_state(good, State::Released);
}
