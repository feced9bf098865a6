//! The model of a target: in memory, exact, and able to fail on request. Tests use it; nothing
//! else may.

use super::{
    Body, Capabilities, Head, LegalHold, Listed, Locks, ObjectMeta, Result, Retention, Store,
    StoreError, StoreErrorKind,
};
use crate::limits;
use crate::policy::StorageClass;
use crate::recording::Sha256;
use async_trait::async_trait;
use bytes::Bytes;
use parking_lot::Mutex;
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::ops::Range;
use std::os::unix::fs::FileExt;
use tokio::sync::watch;

/// A call of the trait.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Operation {
    /// `put`
    Put,
    /// `head`
    Head,
    /// `get`
    Get,
    /// `list`
    List,
    /// `delete`
    Delete,
    /// `legal_hold`
    GetHold,
    /// `set_legal_hold`
    SetHold,
    /// `retain`
    Retain,
    /// `sign`, `signed`
    Sign,
}

impl Operation {
    fn word(self) -> &'static str {
        match self {
            Operation::Put => "put",
            Operation::Head => "head",
            Operation::Get => "get",
            Operation::List => "list",
            Operation::Delete => "delete",
            Operation::GetHold => "get legal hold",
            Operation::SetHold => "put legal hold",
            Operation::Retain => "put retention",
            Operation::Sign => "tags",
        }
    }
}

/// How a call is made to fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// No answer, and nothing was done.
    Unreachable,
    /// It was done, and the answer was lost.
    ReplyLost,
    /// The target says that we may not.
    Denied,
    /// The target says that no key opens it, whether it is there or not.
    Locked,
    /// The same while the keys are awaited.
    Awaited,
}

#[derive(Clone, Debug, Default)]
struct Object {
    bytes: Bytes,
    user: Vec<(String, String)>,
    class: Option<StorageClass>,
    held: bool,
    retained: Option<Retention>,
    signed: bool,
    /// It is encrypted with a key that is not here.
    key_lost: bool,
}

#[derive(Debug, Default)]
struct State {
    objects: BTreeMap<String, Object>,
    faults: HashMap<Operation, VecDeque<(&'static str, Fault)>>,
    calls: HashMap<Operation, u64>,
    down: bool,
    without_checksums: bool,
    locks: bool,
    needs_key: bool,
}

/// Objects in memory.
#[derive(Debug)]
pub struct MemoryStore {
    name: String,
    prefix: String,
    state: Mutex<State>,
    paused: watch::Sender<bool>,
}

impl MemoryStore {
    /// An empty target. `prefix` is "" or ends in "/".
    pub fn new(name: &str, prefix: &str) -> MemoryStore {
        MemoryStore {
            name: name.to_owned(),
            prefix: prefix.to_owned(),
            state: Mutex::default(),
            paused: watch::Sender::new(false),
        }
    }

    /// Makes the next `n` calls of an operation on recordings fail, after those already set to fail.
    /// What is below `.spoolfs/` is asked for at times of its own, and does not count.
    pub fn fail_next(&self, operation: Operation, n: usize, fault: Fault) {
        self.fail_next_of("", operation, n, fault);
    }

    /// The same for keys with that part, which is one of `.spoolfs/...`.
    pub fn fail_next_of(&self, part: &'static str, operation: Operation, n: usize, fault: Fault) {
        let mut state = self.state.lock();
        state.faults.entry(operation).or_default().extend(vec![(part, fault); n]);
    }

    /// Takes back what is set to fail.
    pub fn fail_no_more(&self) {
        self.state.lock().faults.clear();
    }

    /// Makes every call fail as unreachable, until it is set back.
    pub fn set_down(&self, down: bool) {
        self.state.lock().down = down;
    }

    /// Lets no call go on until it is set back. Calls are counted as soon as they are made.
    pub fn set_paused(&self, paused: bool) {
        self.paused.send_replace(paused);
    }

    /// Whether `head` returns a checksum (it does at first).
    pub fn return_checksums(&self, yes: bool) {
        self.state.lock().without_checksums = !yes;
    }

    /// The storage class of an object.
    pub fn class_of(&self, key: &str) -> Option<StorageClass> {
        self.state.lock().objects.get(key)?.class.clone()
    }

    /// Another class for an object: the service restored it, or moved it.
    pub fn set_class(&self, key: &str, class: Option<StorageClass>) {
        if let Some(object) = self.state.lock().objects.get_mut(key) {
            object.class = class;
        }
    }

    /// Whether an object is encrypted with a key that is not here (SSE-C).
    pub fn set_key_lost(&self, key: &str, yes: bool) {
        if let Some(object) = self.state.lock().objects.get_mut(key) {
            object.key_lost = yes;
        }
    }

    /// Whether keys of ours (SSE-C) are configured for it (none are at first).
    pub fn set_needs_key(&self, yes: bool) {
        self.state.lock().needs_key = yes;
    }

    /// Whether it can lock objects (it can not at first).
    pub fn set_locks(&self, yes: bool) {
        self.state.lock().locks = yes;
    }

    /// Whether a legal hold is on an object.
    pub fn is_locked(&self, key: &str) -> bool {
        self.state.lock().objects.get(key).is_some_and(|object| object.held)
    }

    /// The lock on an object that ends by itself.
    pub fn retained(&self, key: &str) -> Option<Retention> {
        self.state.lock().objects.get(key)?.retained
    }

    /// Puts a legal hold on an object, or takes it off, as somebody else with access to the bucket
    /// could.
    pub fn lock_from_outside(&self, key: &str, on: bool) {
        if let Some(object) = self.state.lock().objects.get_mut(key) {
            object.held = on;
        }
    }

    /// Changes the byte at `offset` of an object; false if there is none.
    pub fn corrupt(&self, key: &str, offset: usize) -> bool {
        let mut state = self.state.lock();
        let Some(object) = state.objects.get_mut(key) else { return false };
        let mut bytes = object.bytes.to_vec();
        let Some(byte) = bytes.get_mut(offset) else { return false };
        *byte ^= 0x55;
        object.bytes = bytes.into();
        true
    }

    /// Puts other bytes under a key, or takes the object away, as somebody with access to the
    /// bucket could.
    pub fn tamper(&self, key: &str, bytes: Option<&[u8]>) {
        let mut state = self.state.lock();
        match bytes {
            Some(bytes) => {
                let object = state.objects.entry(key.to_owned()).or_default();
                object.bytes = Bytes::copy_from_slice(bytes);
            }
            None => drop(state.objects.remove(key)),
        }
    }

    /// How often an operation was called, failed calls included.
    pub fn calls(&self, operation: Operation) -> u64 {
        self.state.lock().calls.get(&operation).copied().unwrap_or(0)
    }

    /// All keys, in order.
    pub fn keys(&self) -> Vec<String> {
        self.state.lock().objects.keys().cloned().collect()
    }

    /// The bytes of an object.
    pub fn bytes(&self, key: &str) -> Option<Bytes> {
        self.state.lock().objects.get(key).map(|o| o.bytes.clone())
    }

    fn error(&self, kind: StoreErrorKind, op: Operation, key: &str, what: &str) -> StoreError {
        StoreError::new(kind, &self.name, op.word(), key, what)
    }

    /// Counts the call, waits out a pause, and tells whether the answer is to be lost.
    async fn begin(&self, op: Operation, key: &str) -> Result<bool> {
        *self.state.lock().calls.entry(op).or_default() += 1;
        // Fails only when the sender is gone, and `self` holds it.
        let mut paused = self.paused.subscribe();
        drop(paused.wait_for(|paused| !paused).await);
        let mut state = self.state.lock();
        if state.down {
            return Err(self.error(StoreErrorKind::Unreachable, op, key, "no answer (set down)"));
        }
        let meant = |(part, _): &(&'static str, Fault)| match *part {
            "" => !key.contains(".spoolfs/"),
            part => key.contains(part),
        };
        let faults = state.faults.entry(op).or_default();
        let fault = faults.iter().position(meant).and_then(|at| faults.remove(at));
        match fault.map(|(_, fault)| fault) {
            None => Ok(false),
            Some(Fault::ReplyLost) => Ok(true),
            Some(Fault::Unreachable) => {
                Err(self.error(StoreErrorKind::Unreachable, op, key, "no answer (on request)"))
            }
            Some(Fault::Denied) => {
                Err(self.error(StoreErrorKind::Denied, op, key, "refused (on request)"))
            }
            Some(Fault::Awaited) => {
                Err(self.error(StoreErrorKind::Awaited, op, key, "no key yet (on request)"))
            }
            Some(Fault::Locked) => Err(self.locked(op, key)),
        }
    }

    fn end<T>(&self, lost: bool, op: Operation, key: &str, answer: Result<T>) -> Result<T> {
        if lost {
            return Err(self.error(StoreErrorKind::Unreachable, op, key, "the answer was lost"));
        }
        answer
    }

    fn read(&self, body: Body, key: &str) -> Result<Bytes> {
        match body {
            Body::Bytes(bytes) => Ok(bytes),
            Body::File { file, len } => {
                let mut bytes = vec![0; usize::try_from(len).unwrap_or(usize::MAX)];
                file.read_exact_at(&mut bytes, 0).map_err(|e| match e.kind() {
                    std::io::ErrorKind::UnexpectedEof => {
                        self.error(StoreErrorKind::Corrupt, Operation::Put, key, &e.to_string())
                    }
                    _ => StoreError::unreadable(&self.name, key, &e),
                })?;
                Ok(bytes.into())
            }
        }
    }

    fn insert(&self, key: &str, body: Body, sha256: Sha256, meta: &ObjectMeta) -> Result<()> {
        let bytes = self.read(body, key)?;
        let fail = |kind, what| Err(self.error(kind, Operation::Put, key, what));
        if Sha256::of(&bytes) != sha256 {
            return fail(StoreErrorKind::Corrupt, "the body does not have this SHA-256");
        }
        let mut state = self.state.lock();
        if state.objects.contains_key(key) {
            return fail(StoreErrorKind::Exists, "the key is taken");
        }
        let (user, class) = (meta.user.clone(), meta.storage_class.clone());
        let object = Object { bytes, user, class, ..Object::default() };
        state.objects.insert(key.to_owned(), object);
        Ok(())
    }

    fn find(&self, op: Operation, key: &str) -> Result<Object> {
        let found = self.state.lock().objects.get(key).cloned();
        found.ok_or_else(|| self.error(StoreErrorKind::NotFound, op, key, "no such object"))
    }

    /// The same, if it can be opened.
    fn open(&self, op: Operation, key: &str) -> Result<Object> {
        match self.find(op, key)? {
            object if object.key_lost => Err(self.locked(op, key)),
            object => Ok(object),
        }
    }

    fn locked(&self, op: Operation, key: &str) -> StoreError {
        self.error(StoreErrorKind::Locked, op, key, "no key opens it (on request)")
    }
}

/// The only version of each object.
const VERSION: &str = "1";

/// The part of `range` that an object of `size` bytes has.
fn clamp(range: &Range<u64>, size: usize) -> Range<usize> {
    let limit = |at: u64| usize::try_from(at).unwrap_or(usize::MAX).min(size);
    limit(range.start)..limit(range.end).max(limit(range.start))
}

#[async_trait]
impl Store for MemoryStore {
    fn name(&self) -> &str {
        &self.name
    }

    fn prefix(&self) -> &str {
        &self.prefix
    }

    fn url(&self, key: &str) -> String {
        format!("memory:{key}")
    }

    fn needs_key(&self) -> bool {
        self.state.lock().needs_key
    }

    async fn probe(&self, _nonce: &str) -> Result<Capabilities> {
        self.begin(Operation::Head, &self.prefix).await?;
        let checksum = !self.state.lock().without_checksums;
        Ok(Capabilities { conditional_put: true, checksum })
    }

    async fn put(&self, key: &str, body: Body, sha256: Sha256, meta: &ObjectMeta) -> Result<()> {
        let lost = self.begin(Operation::Put, key).await?;
        let answer = self.insert(key, body, sha256, meta);
        self.end(lost, Operation::Put, key, answer)
    }

    async fn head(&self, key: &str) -> Result<Head> {
        let lost = self.begin(Operation::Head, key).await?;
        let object = self.open(Operation::Head, key);
        let answer = object.map(|o| Head {
            size: o.bytes.len() as u64,
            sha256: (!self.state.lock().without_checksums).then(|| Sha256::of(&o.bytes)),
            user: o.user,
        });
        self.end(lost, Operation::Head, key, answer)
    }

    async fn get(&self, key: &str, range: Range<u64>) -> Result<Bytes> {
        let lost = self.begin(Operation::Get, key).await?;
        let object = self.open(Operation::Get, key).and_then(|o| match &o.class {
            Some(class) if class.is_cold() => {
                let what = format!("it is in {class}; restore it first");
                Err(self.error(StoreErrorKind::Frozen, Operation::Get, key, &what))
            }
            _ => Ok(o),
        });
        let answer = object.map(|o| o.bytes.slice(clamp(&range, o.bytes.len())));
        self.end(lost, Operation::Get, key, answer)
    }

    async fn list(&self, prefix: &str, after: &str) -> Result<Vec<Listed>> {
        let lost = self.begin(Operation::List, prefix).await?;
        let state = self.state.lock();
        let rows = state
            .objects
            .range(prefix.max(after).to_owned()..)
            .filter(|(key, _)| key.as_str() > after)
            .take_while(|(key, _)| key.starts_with(prefix))
            .take(limits::LIST_PAGE_MAX)
            .map(|(key, o)| Listed { key: key.clone(), size: o.bytes.len() as u64 })
            .collect();
        drop(state);
        self.end(lost, Operation::List, prefix, Ok(rows))
    }

    async fn delete(&self, key: &str) -> Result<()> {
        let lost = self.begin(Operation::Delete, key).await?;
        let answer = match self.is_locked(key) {
            true => Err(self.error(StoreErrorKind::Denied, Operation::Delete, key, "it is locked")),
            false => {
                self.state.lock().objects.remove(key);
                Ok(())
            }
        };
        self.end(lost, Operation::Delete, key, answer)
    }

    async fn locks(&self) -> Result<Locks> {
        self.begin(Operation::GetHold, &format!("{}.spoolfs/", self.prefix)).await?;
        match self.state.lock().locks {
            true => Ok(Locks::Yes),
            false => Ok(Locks::No("nothing that is in memory can be locked".to_owned())),
        }
    }

    async fn legal_hold(&self, key: &str, version: Option<&str>) -> Result<LegalHold> {
        let lost = self.begin(Operation::GetHold, key).await?;
        let object = self.find(Operation::GetHold, key);
        let version = version.unwrap_or(VERSION).to_owned();
        let answer = object.map(|object| LegalHold { version, on: object.held });
        self.end(lost, Operation::GetHold, key, answer)
    }

    async fn set_legal_hold(&self, key: &str, _version: &str, on: bool) -> Result<()> {
        let lost = self.begin(Operation::SetHold, key).await?;
        let answer = match self.state.lock().objects.get_mut(key) {
            Some(object) => {
                object.held = on;
                Ok(())
            }
            None => {
                Err(self.error(StoreErrorKind::NotFound, Operation::SetHold, key, "no such object"))
            }
        };
        self.end(lost, Operation::SetHold, key, answer)
    }

    async fn sign(&self, key: &str, _version: &str, on: bool) -> Result<()> {
        let lost = self.begin(Operation::Sign, key).await?;
        let answer = match self.state.lock().objects.get_mut(key) {
            Some(object) => {
                object.signed = on;
                Ok(())
            }
            None => {
                Err(self.error(StoreErrorKind::NotFound, Operation::Sign, key, "no such object"))
            }
        };
        self.end(lost, Operation::Sign, key, answer)
    }

    async fn signed(&self, key: &str, _version: &str) -> Result<bool> {
        let lost = self.begin(Operation::Sign, key).await?;
        let answer = self.find(Operation::Sign, key).map(|object| object.signed);
        self.end(lost, Operation::Sign, key, answer)
    }

    async fn retain(&self, key: &str, wanted: Retention) -> Result<Retention> {
        let lost = self.begin(Operation::Retain, key).await?;
        let answer = match self.state.lock().objects.get_mut(key) {
            Some(object) => {
                let found = object.retained.map_or(wanted, |found| found.both(wanted));
                object.retained = Some(found);
                Ok(found)
            }
            None => {
                Err(self.error(StoreErrorKind::NotFound, Operation::Retain, key, "no such object"))
            }
        };
        self.end(lost, Operation::Retain, key, answer)
    }

    async fn abort_orphans(&self, _node: &str) -> Result<usize> {
        Ok(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_lost_answer_is_unreachable_though_the_object_is_there() {
        let store = MemoryStore::new("m", "");
        store.fail_next(Operation::Put, 1, Fault::ReplyLost);
        let meta = ObjectMeta::default();
        let put = || store.put("k", Body::Bytes("x".into()), Sha256::of(b"x"), &meta);
        assert_eq!(put().await.unwrap_err().kind, StoreErrorKind::Unreachable);
        assert_eq!(put().await.unwrap_err().kind, StoreErrorKind::Exists);
        assert_eq!(store.keys(), ["k"]);
    }

    #[tokio::test]
    async fn a_pause_holds_calls_that_are_already_counted() {
        let store = std::sync::Arc::new(MemoryStore::new("m", ""));
        store.set_paused(true);
        let waiting = tokio::spawn({
            let store = store.clone();
            async move { store.head("k").await }
        });
        while store.calls(Operation::Head) == 0 {
            tokio::task::yield_now().await;
        }
        assert!(!waiting.is_finished());
        store.set_paused(false);
        assert_eq!(waiting.await.unwrap().unwrap_err().kind, StoreErrorKind::NotFound);
    }
}
