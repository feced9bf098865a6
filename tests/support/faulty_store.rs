//! A target that fails, lies, or loses its answers at the Nth call, around one that does not.

use spoolfs::recording::Sha256;
use spoolfs::store::{
    Body, Capabilities, Head, Listed, ObjectMeta, Result, Store, StoreError, StoreErrorKind,
};
use std::collections::HashMap;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use bytes::Bytes;

/// What a call does instead of what it should.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lie {
    /// Nothing is done, and nothing comes back (503, a dead line).
    Unreachable,
    /// It is done, and the answer is lost.
    ReplyLost,
    /// Nothing is done, and the time for it runs out.
    Stalled,
    /// "You may not" (403: expired keys, a clock that is off).
    Denied,
    /// Bytes that are read end early.
    ShortBody,
    /// One bit of what is read is another.
    WrongBytes,
    /// 200, and nothing in it.
    EmptyBody,
    /// A put is said to have been done and was not.
    NotKept,
    /// A put of a recording keeps half of it.
    HalfKept,
    /// Size and checksum of something else.
    WrongHead,
    /// What is there is not found.
    NotFound,
    /// What was there at the first listing.
    StaleListing,
}

impl Lie {
    pub const ALL: [Lie; 12] = [
        Lie::Unreachable,
        Lie::ReplyLost,
        Lie::Stalled,
        Lie::Denied,
        Lie::ShortBody,
        Lie::WrongBytes,
        Lie::EmptyBody,
        Lie::NotKept,
        Lie::HalfKept,
        Lie::WrongHead,
        Lie::NotFound,
        Lie::StaleListing,
    ];
}

/// Which calls are false.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum When {
    Never,
    /// The Nth, counted from 1.
    Once(u64),
    /// The Nth and so many after it; then all is well.
    Outage(u64, u64),
    /// By chance, one in so many.
    OneIn(u64),
}

/// What is wrong with the target all the time.
#[derive(Clone, Copy, Debug, Default)]
pub struct Lacks {
    /// Metadata is forgotten.
    pub metadata: bool,
    /// No checksum is returned.
    pub checksum: bool,
    /// A put under a taken key overwrites.
    pub conditions: bool,
}

#[derive(Debug)]
struct Script {
    lie: Lie,
    when: When,
    calls: u64,
    told: u64,
    rng: fastrand::Rng,
    listings: HashMap<(String, String), Vec<Listed>>,
    /// What each key was first given.
    puts: HashMap<String, Sha256>,
    wrong: Vec<String>,
}

/// The target.
#[derive(Debug)]
pub struct FaultyStore {
    inner: Arc<dyn Store>,
    lacks: Lacks,
    script: Mutex<Script>,
}

impl FaultyStore {
    pub fn new(inner: Arc<dyn Store>, lacks: Lacks, seed: u64) -> FaultyStore {
        FaultyStore {
            inner,
            lacks,
            script: Mutex::new(Script {
                lie: Lie::Unreachable,
                when: When::Never,
                calls: 0,
                told: 0,
                rng: fastrand::Rng::with_seed(seed),
                listings: HashMap::new(),
                puts: HashMap::new(),
                wrong: Vec::new(),
            }),
        }
    }

    fn script(&self) -> MutexGuard<'_, Script> {
        self.script.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// From now on; calls are counted anew.
    pub fn set(&self, lie: Lie, when: When) {
        let mut script = self.script();
        (script.lie, script.when, script.calls) = (lie, when, 0);
    }

    /// How many calls were false, of how many.
    pub fn told(&self) -> (u64, u64) {
        let script = self.script();
        (script.told, script.calls)
    }

    /// What must never happen to a target, and did.
    pub fn wrong(&self) -> Vec<String> {
        self.script().wrong.clone()
    }

    /// The lie for this call, if it is its turn. One that means nothing for a call of this kind is
    /// not told, and does not count.
    fn turn(&self, fits: &[Lie]) -> Option<Lie> {
        let mut script = self.script();
        let general = [Lie::Unreachable, Lie::ReplyLost, Lie::Stalled, Lie::Denied];
        if !general.contains(&script.lie) && !fits.contains(&script.lie) {
            return None;
        }
        script.calls += 1;
        let now = match script.when {
            When::Never => false,
            When::Once(n) => script.calls == n,
            When::Outage(n, long) => (n..n + long).contains(&script.calls),
            When::OneIn(n) => script.rng.u64(..n) == 0,
        };
        if now {
            script.told += 1;
        }
        now.then_some(script.lie)
    }

    fn error<T>(&self, kind: StoreErrorKind, operation: &'static str, key: &str) -> Result<T> {
        Err(StoreError {
            kind,
            target: self.inner.name().to_owned(),
            operation,
            key: key.to_owned(),
            detail: "on request".into(),
            hint: String::new(),
        })
    }

    /// What fails in every kind of call; `done` does it.
    async fn refuse<T>(
        &self,
        lie: Option<Lie>,
        operation: &'static str,
        key: &str,
        done: impl Future<Output = Result<T>>,
    ) -> Result<T> {
        match lie {
            Some(Lie::Unreachable) => self.error(StoreErrorKind::Unreachable, operation, key),
            Some(Lie::Denied) => self.error(StoreErrorKind::Denied, operation, key),
            Some(Lie::NotFound) => self.error(StoreErrorKind::NotFound, operation, key),
            Some(Lie::Stalled) => {
                tokio::time::sleep(Duration::from_millis(30)).await;
                self.error(StoreErrorKind::Unreachable, operation, key)
            }
            Some(Lie::ReplyLost) => {
                let _lost = done.await;
                self.error(StoreErrorKind::Unreachable, operation, key)
            }
            _ => done.await,
        }
    }

    async fn store(&self, key: &str, body: Body, sha256: Sha256, meta: &ObjectMeta) -> Result<()> {
        let none = ObjectMeta::default();
        let meta = if self.lacks.metadata { &none } else { meta };
        let first = self.inner.put(key, body.clone(), sha256, meta).await;
        let taken = matches!(&first, Err(e) if e.kind == StoreErrorKind::Exists);
        if first.is_ok() {
            self.script().puts.entry(key.to_owned()).or_insert(sha256);
        }
        if !taken || !self.lacks.conditions {
            return first;
        }
        let before = self.script().puts.insert(key.to_owned(), sha256);
        if before.is_some_and(|before| before != sha256) {
            self.script().wrong.push(format!("{key} was overwritten with something else"));
        }
        self.inner.delete(key).await?;
        self.inner.put(key, body, sha256, meta).await
    }
}

/// What of a body is kept by a server that loses the rest.
fn half(body: &Body) -> Bytes {
    match body {
        Body::Bytes(bytes) => bytes.slice(..bytes.len() / 2),
        Body::File { file, len } => {
            let mut bytes = vec![0; usize::try_from(*len / 2).unwrap_or(0)];
            let read = std::os::unix::fs::FileExt::read_exact_at(&**file, &mut bytes, 0);
            read.map(|()| bytes.into()).unwrap_or_default()
        }
    }
}

#[async_trait::async_trait]
impl Store for FaultyStore {
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
        let lie = self.turn(&[]);
        let Lacks { checksum, conditions, .. } = self.lacks;
        let answer = self.refuse(lie, "probe", nonce, self.inner.probe(nonce)).await?;
        Ok(Capabilities {
            conditional_put: answer.conditional_put && !conditions,
            checksum: answer.checksum && !checksum,
        })
    }

    async fn put(&self, key: &str, body: Body, sha256: Sha256, meta: &ObjectMeta) -> Result<()> {
        // Half an archive's marker is for the operator to look at: nothing goes on from there.
        let own = key.contains(".spoolfs/");
        let lie = self.turn(if own { &[Lie::NotKept] } else { &[Lie::NotKept, Lie::HalfKept] });
        match lie {
            Some(Lie::NotKept) => Ok(()),
            Some(Lie::HalfKept) => {
                let half = half(&body);
                self.inner.put(key, Body::Bytes(half.clone()), Sha256::of(&half), meta).await
            }
            _ => self.refuse(lie, "put", key, self.store(key, body, sha256, meta)).await,
        }
    }

    async fn head(&self, key: &str) -> Result<Head> {
        let lie = self.turn(&[Lie::WrongHead, Lie::NotFound, Lie::EmptyBody]);
        let mut head = self.refuse(lie, "head", key, self.inner.head(key)).await?;
        match lie {
            Some(Lie::WrongHead) => head.sha256 = Some(Sha256::of(b"something else")),
            Some(Lie::EmptyBody) => (head.size, head.sha256) = (0, None),
            _ => {}
        }
        if self.lacks.checksum {
            head.sha256 = None;
        }
        if self.lacks.metadata {
            head.user.clear();
        }
        Ok(head)
    }

    async fn get(&self, key: &str, range: Range<u64>) -> Result<Bytes> {
        let lie = self.turn(&[Lie::ShortBody, Lie::WrongBytes, Lie::EmptyBody, Lie::NotFound]);
        let bytes = self.refuse(lie, "get", key, self.inner.get(key, range)).await?;
        Ok(match lie {
            Some(Lie::ShortBody) => bytes.slice(..bytes.len() / 2),
            Some(Lie::EmptyBody) => Bytes::new(),
            Some(Lie::WrongBytes) => {
                let mut bytes = bytes.to_vec();
                let middle = bytes.len() / 2;
                if let Some(byte) = bytes.get_mut(middle) {
                    *byte ^= 0x10;
                }
                bytes.into()
            }
            _ => bytes,
        })
    }

    async fn list(&self, prefix: &str, after: &str) -> Result<Vec<Listed>> {
        let lie = self.turn(&[Lie::StaleListing]);
        let rows = self.refuse(lie, "list", prefix, self.inner.list(prefix, after)).await?;
        let mut script = self.script();
        let of = (prefix.to_owned(), after.to_owned());
        let first = script.listings.entry(of).or_insert_with(|| rows.clone()).clone();
        Ok(if lie == Some(Lie::StaleListing) { first } else { rows })
    }

    async fn delete(&self, key: &str) -> Result<()> {
        let lie = self.turn(&[]);
        self.refuse(lie, "delete", key, self.inner.delete(key)).await
    }

    async fn abort_orphans(&self, node: &str) -> Result<usize> {
        let lie = self.turn(&[]);
        self.refuse(lie, "list", node, self.inner.abort_orphans(node)).await
    }
}
