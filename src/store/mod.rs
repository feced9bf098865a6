//! Targets: where objects go. One trait, one contract suite, several implementations.
//!
//! **Invariant:** "not found" and "can not be reached" are different errors everywhere, and a
//! write's success is never taken as proof: `verify` is.

pub mod audit;
mod body;
pub mod cloud;
mod endpoint;
mod fault;
pub mod file;
pub mod hidden;
mod in_flight;
pub mod joined;
pub mod journal;
pub mod key;
mod lock;
pub mod marker;
pub mod memory;
pub mod meta;
mod proof;
pub mod s3;
pub mod snapshot;
mod target;

pub use body::Body;
pub use lock::{LegalHold, Locks, Retention};
pub use proof::verify;
pub use target::{Secret, TargetOptions, open};

use crate::limits;
use crate::policy::StorageClass;
use crate::recording::{ErrorClass, Sha256};
use async_trait::async_trait;
use bytes::Bytes;
use std::ops::Range;
use std::time::Duration;
use tokio::sync::mpsc::Sender;

/// What is written beside the bytes (docs/FORMAT.md, "Object metadata"): plain ASCII, together at
/// most 2,000 bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ObjectMeta {
    /// `Content-Type`.
    pub content_type: String,
    /// User metadata, `x-amz-meta-*` on S3: lower-case names.
    pub user: Vec<(String, String)>,
    /// `x-amz-storage-class` on S3, where others have no such thing; none: the service's own.
    pub storage_class: Option<StorageClass>,
}

/// What a target says of an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Head {
    /// Length in bytes.
    pub size: u64,
    /// SHA-256 of the whole, if the target computed one itself and returns it. For an upload in
    /// parts: if the target's checksum over the parts is the one that belongs to this SHA-256.
    pub sha256: Option<Sha256>,
    /// User metadata, as far as the target returns it.
    pub user: Vec<(String, String)>,
}

/// How an object was found to be right.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Proof {
    /// The target returned the SHA-256 it computed itself, and the length.
    Checksum,
    /// All bytes were read back and hashed.
    ReadBack,
}

/// What went wrong, without the target's wording.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StoreErrorKind {
    /// The target answered, and there is no such object.
    NotFound,
    /// The key is taken: nothing was written.
    Exists,
    /// No answer, or an answer that says "later": it may or may not have been done.
    Unreachable,
    /// The target answered that we may not.
    Denied,
    /// The bytes in the target are not those that were meant.
    Corrupt,
    /// It is encrypted with a key that is not here (SSE-C).
    Locked,
    /// It may be, and the program that prints the keys has not answered yet.
    Awaited,
    /// The object must be restored from an archive class before it can be read.
    Frozen,
    /// The target can not do this, or the request is wrong.
    Unsupported,
    /// The body could not be read here: the target has no part in it.
    Unreadable,
}

/// What an operator does about a body that can not be read.
const UNREADABLE: &str = "look at the disk that the recordings are on";

/// An error of a target, with what an operator needs to act. Never contains a secret.
#[derive(Clone, Debug, thiserror::Error)]
#[error("target {target:?}: {operation} {key:?}: {detail}{}{hint}", if hint.is_empty() { "" } else { "; " })]
pub struct StoreError {
    /// What kind.
    pub kind: StoreErrorKind,
    /// Name of the target.
    pub target: String,
    /// What was tried: "put", "get", "head", "list", "delete", "put legal hold".
    pub operation: &'static str,
    /// The object's full key, or the prefix of a list.
    pub key: String,
    /// What the target or the network said.
    pub detail: String,
    /// The next step for an operator; may be empty.
    pub hint: String,
}

impl StoreError {
    /// An error without a hint.
    pub(crate) fn new(
        kind: StoreErrorKind,
        target: &str,
        operation: &'static str,
        key: &str,
        detail: impl Into<String>,
    ) -> StoreError {
        StoreError {
            kind,
            target: target.to_owned(),
            operation,
            key: key.to_owned(),
            detail: detail.into(),
            hint: String::new(),
        }
    }

    /// The body of a put could not be read.
    pub(crate) fn unreadable(target: &str, key: &str, error: &std::io::Error) -> StoreError {
        let what = format!("the local file can not be read: {error}");
        StoreError::new(StoreErrorKind::Unreadable, target, "put", key, what).hint(UNREADABLE)
    }

    /// The same with the next step for an operator.
    pub(crate) fn hint(mut self, hint: impl Into<String>) -> StoreError {
        self.hint = hint.into();
        self
    }

    /// How it may end.
    pub fn class(&self) -> ErrorClass {
        match self.kind {
            StoreErrorKind::Unreachable | StoreErrorKind::Awaited | StoreErrorKind::Unreadable => {
                ErrorClass::Transient
            }
            StoreErrorKind::Corrupt => ErrorClass::Corrupt,
            StoreErrorKind::Locked => ErrorClass::Sealed,
            StoreErrorKind::NotFound
            | StoreErrorKind::Exists
            | StoreErrorKind::Denied
            | StoreErrorKind::Frozen
            | StoreErrorKind::Unsupported => ErrorClass::Permanent,
        }
    }
}

/// Result of a call to a target.
pub type Result<T> = std::result::Result<T, StoreError>;

/// One row of a listing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    /// Full key.
    pub key: String,
    /// Length in bytes.
    pub size: u64,
}

/// What a target was seen to do, by trying.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capabilities {
    /// A put under a taken key is refused by the target itself. Otherwise the store asks first,
    /// which leaves a gap between two machines that write the same key at the same moment.
    pub conditional_put: bool,
    /// The target refuses bytes that do not match their SHA-256, and returns it. Otherwise every
    /// object is read back before it counts.
    pub checksum: bool,
}

/// A target. Keys are full keys, with the prefix of the target's URL; every implementation
/// retries nothing by itself: the engine does, with its own bounds.
#[async_trait]
pub trait Store: Send + Sync + std::fmt::Debug {
    /// The name from the configuration.
    fn name(&self) -> &str;

    /// The prefix of the target's URL, "" or ending in "/". Every key given begins with it.
    fn prefix(&self) -> &str;

    /// The address of an object for people, such as `s3://bucket/key`.
    fn url(&self, key: &str) -> String;

    /// An address that anybody can read the object by, for as long as `valid` and no longer than
    /// our own credentials live. `None`: who reaches the target needs no permission of ours.
    /// Nothing is asked of the target.
    ///
    /// # Errors
    /// `Denied`, `Unsupported`: there are no credentials, or `valid` is too long.
    async fn shared_url(&self, _key: &str, _valid: Duration) -> Result<Option<String>> {
        Ok(None)
    }

    /// Whether what is there may be encrypted with a key that we alone have (SSE-C), so that it is to be
    /// seen that there is that key still, before something relies on it.
    fn needs_key(&self) -> bool {
        false
    }

    /// The storage class of recordings whose rule has none.
    fn storage_class(&self) -> Option<&StorageClass> {
        None
    }

    /// Finds out by trying what the target can do, and acts accordingly from then on. `nonce` must
    /// be new each time: objects are made below `<prefix>.spoolfs/probe/<nonce>` and deleted.
    /// Before it is called nothing is assumed of the target.
    ///
    /// # Errors
    /// `Unreachable`, `Denied`, `Unsupported`.
    async fn probe(&self, nonce: &str) -> Result<Capabilities>;

    /// Writes an object under a key that has none. `sha256` is that of the body; the target is
    /// made to check it where it can. Large bodies go in parts; a failed upload leaves no part
    /// behind, as far as the target can be reached.
    ///
    /// # Errors
    /// `Exists` if the key is taken. `Unreachable` leaves open whether it was written.
    /// `Unreadable` if the body can not be read.
    async fn put(&self, key: &str, body: Body, sha256: Sha256, meta: &ObjectMeta) -> Result<()>;

    /// Asks for size, checksum and metadata.
    ///
    /// # Errors
    /// `NotFound` only if the target said so.
    async fn head(&self, key: &str) -> Result<Head>;

    /// Reads the bytes in `range` (end exclusive); shorter only where the object ends.
    ///
    /// # Errors
    /// `NotFound` only if the target said so; `Corrupt` if fewer bytes came than promised.
    async fn get(&self, key: &str, range: Range<u64>) -> Result<Bytes>;

    /// As `get`, but hands the bytes on in their order as they come. What came before an error is
    /// what the target sent.
    ///
    /// # Errors
    /// As `get`.
    async fn get_into(&self, key: &str, range: Range<u64>, parts: Sender<Bytes>) -> Result<()> {
        let mut at = range.start;
        while at < range.end {
            let end = range.end.min(at.saturating_add(limits::ANSWER_PART_BYTES));
            let bytes = self.get(key, at..end).await?;
            let whole = bytes.len() as u64 == end - at;
            // Who listens no more needs nothing more.
            if parts.send(bytes).await.is_err() || !whole {
                break;
            }
            at = end;
        }
        Ok(())
    }

    /// Sees to it that an object that is there survives a power cut of the target, where that is not its
    /// own affair: part of every proof (`verify`).
    ///
    /// # Errors
    /// `Unreachable`: it may not.
    async fn settle(&self, _key: &str) -> Result<()> {
        Ok(())
    }

    /// Objects whose key begins with `prefix`, at most 1,000: the first ones, or those that follow
    /// `after`, the last key of the page before. The order is that of the bytes of the keys, but
    /// for servers with an order of their own (SeaweedFS lists directory by directory).
    ///
    /// # Errors
    /// `Unreachable`, `Denied`. An empty answer means that there are no more.
    async fn list(&self, prefix: &str, after: &str) -> Result<Vec<Listed>>;

    /// Deletes an object. Deleting one that is not there succeeds.
    ///
    /// # Errors
    /// `Unreachable`, `Denied`.
    async fn delete(&self, key: &str) -> Result<()>;

    /// Whether it can lock objects now; buckets get and lose that.
    ///
    /// # Errors
    /// `Unreachable`. One that can not, or does not let us ask, is an answer.
    async fn locks(&self) -> Result<Locks> {
        Ok(Locks::No("it is no bucket with Object Lock".to_owned()))
    }

    /// Whether a legal hold is on a version of an object; none: on the one that is there now.
    ///
    /// # Errors
    /// `NotFound` only if the target said so; `Unsupported` if it can not lock objects.
    async fn legal_hold(&self, key: &str, _version: Option<&str>) -> Result<LegalHold> {
        Err(lock::none(self.name(), key))
    }

    /// Puts a legal hold on a version of an object, or takes it off. It is no proof that it is.
    ///
    /// # Errors
    /// As `legal_hold`; `Denied`.
    async fn set_legal_hold(&self, key: &str, _version: &str, _on: bool) -> Result<()> {
        Err(lock::none(self.name(), key))
    }

    /// Notes on a version of an object that its legal hold is set from here, or was, where that can be
    /// noted.
    ///
    /// # Errors
    /// As `set_legal_hold`.
    async fn sign(&self, _key: &str, _version: &str, _on: bool) -> Result<()> {
        Ok(())
    }

    /// Whether that is noted.
    ///
    /// # Errors
    /// As `legal_hold`.
    async fn signed(&self, _key: &str, _version: &str) -> Result<bool> {
        Ok(false)
    }

    /// Sees to it that what is under a key now can not be deleted before a time, and tells what the
    /// target was then seen to have; a lock that is longer or stricter stays.
    ///
    /// # Errors
    /// As `legal_hold`; `Denied`; `Unsupported` also if it says that it did and has none.
    async fn retain(&self, key: &str, _wanted: Retention) -> Result<Retention> {
        Err(lock::none(self.name(), key))
    }

    /// Ends uploads in parts below the prefix that were begun by `node` before this daemon
    /// started, and tells how many.
    ///
    /// # Errors
    /// `Unreachable`, `Denied`.
    async fn abort_orphans(&self, node: &str) -> Result<usize>;
}
