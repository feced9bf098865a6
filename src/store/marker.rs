//! Whose archive a target holds (docs/FORMAT.md, "Identity").
//!
//! **Invariant:** nothing is written to a target before it was found to be ours: the marker of
//! the archive that this node remembers, or of the configured name, and this node's own.

use super::meta::{FORMAT_PLAIN, FORMAT_VERSION};
use super::{Body, ObjectMeta, Store, StoreError, StoreErrorKind, key};
use crate::clock::Timestamp;
use crate::recording::{ErrorClass, Sha256};
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// The archive's marker, below the prefix.
pub const ARCHIVE_KEY: &str = ".spoolfs/archive.json";
/// The directory of objects made by `Store::probe`, below the prefix.
pub const PROBE_DIR: &str = ".spoolfs/probe/";
/// The name of an archive that was given none.
pub const DEFAULT_ARCHIVE_NAME: &str = "default";

const ARCHIVE: &str = "archive";
const NODE: &str = "node";
/// A marker is small; what is longer is none.
const MARKER_BYTES_MAX: u64 = 64 << 10;
/// Where the target can not refuse the second of two puts, the loser reads the winner's marker
/// after this time.
const UNCONDITIONAL_WAIT: Duration = Duration::from_secs(2);

/// What this node holds of the target.
#[derive(Clone, Debug)]
pub struct Claim<'a> {
    /// The archive's identity, remembered from an earlier start.
    pub expected: Option<&'a str>,
    /// The archive's name from the configuration.
    pub archive_name: &'a str,
    /// This machine's name in keys.
    pub node: &'a str,
    /// Tells machines of the same name apart.
    pub instance: &'a str,
    /// The present, for the marker.
    pub now: Timestamp,
}

/// Why a target can not be used.
#[derive(Clone, Debug, thiserror::Error)]
pub enum AttachError {
    /// The marker is not there, though this node archived here before.
    #[error(
        "target {target:?}: {url} is missing, but this node has archived to {expected} before; mount the \
         right directory or correct `url`, or, if the archive was deleted on purpose, give the target \
         a new name"
    )]
    Missing {
        /// The target.
        target: String,
        /// Where the marker should be.
        url: String,
        /// The remembered identity.
        expected: String,
    },
    /// It is not the archive that this node remembers.
    #[error(
        "target {target:?} holds archive {found} ({name:?}), but this node has archived to {expected} \
         before; correct `url`, or give the target a new name if the change is meant"
    )]
    Other {
        /// The target.
        target: String,
        /// The identity found.
        found: String,
        /// Its name.
        name: String,
        /// The remembered identity.
        expected: String,
    },
    /// It is an archive with another name.
    #[error(
        "target {target:?} holds the archive named {found:?}, not {configured:?}; choose another prefix \
         in `url`, or set `archive = {found:?}` to join it"
    )]
    OtherName {
        /// The target.
        target: String,
        /// Its name.
        found: String,
        /// The configured name.
        configured: String,
    },
    /// The archive was made by a newer spoolfs.
    #[error(
        "target {target:?}: {url} has format version {found}, this spoolfs knows up to {FORMAT_VERSION}; install a newer one"
    )]
    Newer {
        /// The target.
        target: String,
        /// The marker.
        url: String,
        /// Its version.
        found: u32,
    },
    /// Another machine has this name.
    #[error(
        "target {target:?}: another machine (or an earlier installation of this one) archives as \
         node {node:?}; set another `node`; or, if that machine is gone for good (marker {url}), take its place with `spoolfs rebuild --node {node}`"
    )]
    NodeTaken {
        /// The target.
        target: String,
        /// The name.
        node: String,
        /// The node's marker.
        url: String,
    },
    /// The marker is not readable as one.
    #[error(
        "target {target:?}: {url} is no spoolfs marker ({reason}); choose another prefix in `url`"
    )]
    NoMarker {
        /// The target.
        target: String,
        /// Where it is.
        url: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The target answered something else.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl AttachError {
    /// How it may end.
    pub fn class(&self) -> ErrorClass {
        match self {
            AttachError::Store(e) => e.class(),
            AttachError::Newer { .. } | AttachError::NoMarker { .. } => ErrorClass::Permanent,
            AttachError::Missing { .. }
            | AttachError::Other { .. }
            | AttachError::OtherName { .. }
            | AttachError::NodeTaken { .. } => ErrorClass::Refused,
        }
    }
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Archive {
    spoolfs: String,
    format: u32,
    archive: String,
    name: String,
    /// Seconds since 1970-01-01 UTC.
    created: i64,
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Node {
    spoolfs: String,
    format: u32,
    archive: String,
    node: String,
    instance: String,
    /// Seconds since 1970-01-01 UTC.
    created: i64,
}

/// Makes sure that the target holds the archive meant, founding it if the target holds none, and
/// that this node's name in it is its own. Returns the identity of the archive, to be remembered.
/// Finds out what the target can do, first.
///
/// # Errors
/// Each with its cure; after one that is not transient nothing may be written to the target.
pub async fn attach(store: &dyn Store, claim: &Claim<'_>) -> Result<String, AttachError> {
    let key = format!("{}{ARCHIVE_KEY}", store.prefix());
    let mut found: Option<Archive> = read(store, &key, ARCHIVE).await?;
    if let Some(archive) = &found {
        check(store, claim, archive)?;
    } else if let Some(expected) = claim.expected {
        let (target, url) = (store.name().to_owned(), store.url(&key));
        return Err(AttachError::Missing { target, url, expected: expected.to_owned() });
    }
    let conditional = store.probe(&random_hex()).await?.conditional_put;
    if found.is_none() {
        let new = Archive {
            spoolfs: ARCHIVE.into(),
            format: FORMAT_PLAIN,
            archive: random_hex(),
            name: claim.archive_name.to_owned(),
            created: claim.now.secs(),
        };
        found = Some(found_or_join(store, &key, ARCHIVE, new, conditional).await?);
    }
    let Some(archive) = found else { return Err(vanished(store, &key)) };
    check(store, claim, &archive)?;
    claim_node(store, claim, &archive.archive, conditional).await?;
    Ok(archive.archive)
}

/// Whose archive a target holds, without founding one or writing anything: identity of the
/// archive, or `None` if it holds none.
///
/// # Errors
/// As [`attach`].
pub async fn look(
    store: &dyn Store,
    expected: Option<&str>,
    archive_name: &str,
) -> Result<Option<String>, AttachError> {
    let key = format!("{}{ARCHIVE_KEY}", store.prefix());
    let Some(found): Option<Archive> = read(store, &key, ARCHIVE).await? else { return Ok(None) };
    let now = Timestamp::default();
    check(store, &Claim { expected, archive_name, node: "", instance: "", now }, &found)?;
    Ok(Some(found.archive))
}

/// The instance of the machine that archives as `node`; `None` if no machine does.
///
/// # Errors
/// As [`attach`].
pub async fn instance_of(store: &dyn Store, node: &str) -> Result<Option<String>, AttachError> {
    let found: Option<Node> = read(store, &node_key(store.prefix(), node), NODE).await?;
    Ok(found.filter(|n| n.node == node).map(|n| n.instance))
}

/// Names of the machines that archive to a target, the first thousand.
///
/// # Errors
/// As [`attach`].
pub async fn nodes(store: &dyn Store) -> Result<Vec<String>, AttachError> {
    let mut names = Vec::new();
    for row in store.list(&format!("{}{}/nodes/", store.prefix(), key::RESERVED), "").await? {
        let found: Option<Node> = read(store, &row.key, NODE).await?;
        names.extend(found.map(|n| n.node));
    }
    Ok(names)
}

/// The key of a node's marker.
pub fn node_key(prefix: &str, node: &str) -> String {
    format!("{prefix}{}/nodes/{}.json", key::RESERVED, key::node_component(node))
}

fn check(store: &dyn Store, claim: &Claim<'_>, found: &Archive) -> Result<(), AttachError> {
    let target = store.name().to_owned();
    if let Some(expected) = claim.expected.filter(|e| *e != found.archive) {
        return Err(AttachError::Other {
            target,
            found: found.archive.clone(),
            name: found.name.clone(),
            expected: expected.to_owned(),
        });
    }
    if found.name != claim.archive_name {
        let (found, configured) = (found.name.clone(), claim.archive_name.to_owned());
        return Err(AttachError::OtherName { target, found, configured });
    }
    Ok(())
}

async fn claim_node(
    store: &dyn Store,
    claim: &Claim<'_>,
    archive: &str,
    conditional: bool,
) -> Result<(), AttachError> {
    let key = node_key(store.prefix(), claim.node);
    let found: Node = match read(store, &key, NODE).await? {
        Some(found) => found,
        None => {
            let new = Node {
                spoolfs: NODE.into(),
                format: FORMAT_PLAIN,
                archive: archive.to_owned(),
                node: claim.node.to_owned(),
                instance: claim.instance.to_owned(),
                created: claim.now.secs(),
            };
            found_or_join(store, &key, NODE, new, conditional).await?
        }
    };
    if found.instance == claim.instance && found.node == claim.node {
        return Ok(());
    }
    let (target, node) = (store.name().to_owned(), claim.node.to_owned());
    Err(AttachError::NodeTaken { target, node, url: store.url(&key) })
}

/// Writes a marker, and returns what is there then: ours, or that of another who was faster.
async fn found_or_join<M>(
    store: &dyn Store,
    key: &str,
    kind: &'static str,
    new: M,
    conditional: bool,
) -> Result<M, AttachError>
where
    M: Serialize + for<'de> Deserialize<'de>,
{
    // Strings and numbers always serialise.
    let mut json = serde_json::to_vec_pretty(&new).unwrap_or_default();
    json.push(b'\n');
    let sha256 = Sha256::of(&json);
    let meta = ObjectMeta { content_type: "application/json".into(), ..ObjectMeta::default() };
    match store.put(key, Body::Bytes(json.into()), sha256, &meta).await {
        Ok(()) => {}
        Err(e) if e.kind == StoreErrorKind::Exists => {}
        Err(e) => return Err(e.into()),
    }
    if !conditional {
        tokio::time::sleep(UNCONDITIONAL_WAIT).await;
    }
    read(store, key, kind).await?.ok_or_else(|| vanished(store, key))
}

async fn read<M>(store: &dyn Store, key: &str, kind: &str) -> Result<Option<M>, AttachError>
where
    M: for<'de> Deserialize<'de>,
{
    let bytes = match store.get(key, 0..MARKER_BYTES_MAX).await {
        Ok(bytes) => bytes,
        Err(e) if e.kind == StoreErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(e.into()),
    };
    /// What every version of a marker has.
    #[derive(Deserialize)]
    struct Any {
        spoolfs: String,
        format: u32,
    }
    let (target, url) = (store.name().to_owned(), store.url(key));
    let any: Any = match serde_json::from_slice(&bytes) {
        Ok(any) => any,
        Err(e) => return Err(AttachError::NoMarker { target, url, reason: e.to_string() }),
    };
    if any.spoolfs != kind {
        let reason = format!("it is a {:?}", any.spoolfs);
        return Err(AttachError::NoMarker { target, url, reason });
    }
    if any.format > FORMAT_VERSION {
        return Err(AttachError::Newer { target, url, found: any.format });
    }
    match serde_json::from_slice(&bytes) {
        Ok(marker) => Ok(Some(marker)),
        Err(e) => Err(AttachError::NoMarker { target, url, reason: e.to_string() }),
    }
}

fn vanished(store: &dyn Store, key: &str) -> AttachError {
    let what = "the marker was written and is not there";
    StoreError::new(StoreErrorKind::Unreachable, store.name(), "get", key, what).into()
}

fn random_hex() -> String {
    format!("{:032x}", fastrand::u128(..))
}

#[cfg(test)]
mod tests;
