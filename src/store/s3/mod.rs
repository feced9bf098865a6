//! Whatever speaks S3.
//!
//! **Invariant:** requests are signed, never retried here, never in aws-chunked framing; a
//! success is believed only as far as `probe` saw the server refuse what is wrong.

mod connect;
mod customer;
mod fault;
mod lock;
mod probe;
mod put;
mod read;
mod sse;
mod uploads;

pub use customer::CustomerKeys;

use super::fault::Fault;
use super::in_flight::InFlight;
use super::{
    Body, Capabilities, Head, LegalHold, Listed, Locks, ObjectMeta, Result, Retention, Secret,
    Store, StoreErrorKind,
};
use crate::limits;
use crate::policy::StorageClass;
use crate::recording::Sha256;
use async_trait::async_trait;
use aws_sdk_s3::Client;
use aws_sdk_s3::config::http::HttpResponse;
use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};
use bytes::Bytes;
use std::collections::HashMap;
use std::ops::Range;
use std::sync::OnceLock;
use std::time::Duration;
use tokio::runtime::{Handle, Id};
use tokio::sync::mpsc::Sender;

/// The checksum sent with each object.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum PutChecksum {
    /// `x-amz-checksum-sha256`.
    #[default]
    Sha256,
    /// None, for services that refuse the header (Backblaze B2): every object is read back.
    None,
}

/// How the service is to encrypt what it is given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Sse {
    /// With keys of its own (`AES256`).
    S3,
    /// With a key of its key management (`aws:kms`).
    Kms {
        /// Which key: its id, ARN or alias; none: that of the account.
        key_id: Option<String>,
        /// Whether a key of the bucket stands in for a question each; none: as the bucket is set.
        bucket_key: Option<bool>,
        /// What else must be named to decrypt (the encryption context): names and values.
        context: Vec<(String, String)>,
    },
    /// With the first of the target's [`CustomerKeys`], which the service does not keep (SSE-C).
    C,
}

/// Where and how.
#[derive(Clone, Debug)]
pub struct Options {
    /// Name of the target.
    pub name: String,
    /// Address of the service; none: Amazon's for the region.
    pub endpoint: Option<String>,
    /// Region; none: from the environment or profile, else `us-east-1`.
    pub region: Option<String>,
    /// The bucket.
    pub bucket: String,
    /// "" or ending in "/".
    pub prefix: String,
    /// Access key; none: environment, profile, container or instance role.
    pub access_key_id: Option<String>,
    /// Its secret.
    pub secret_access_key: Option<Secret>,
    /// Permits plain `http://` beyond this machine.
    pub allow_http: bool,
    /// The storage class of recordings, unless their rule has another; none: the service's.
    pub storage_class: Option<StorageClass>,
    /// The checksum sent with each object.
    pub checksum: PutChecksum,
    /// What is put is to be encrypted there; none: as the bucket is set.
    pub sse: Option<Sse>,
    /// Keys of SSE-C: what was encrypted with one of them can be read, whatever `sse` is now.
    pub customer_keys: Option<CustomerKeys>,
}

/// A bucket.
#[derive(Debug)]
pub struct S3Store {
    options: Options,
    /// A client's idle connections are driven by the runtime that opened them, so each runtime
    /// has its own client.
    clients: tokio::sync::Mutex<HashMap<Id, Client>>,
    found: OnceLock<Capabilities>,
    /// Keys being uploaded in parts now.
    in_flight: InFlight,
    parts: moka::sync::Cache<String, put::Composite>,
    /// What objects were opened with where that was not the first try: the MD5 of a key, or none.
    opened_by: moka::sync::Cache<String, Option<String>>,
}

impl S3Store {
    /// A store; nothing is contacted yet.
    ///
    /// # Errors
    /// `Unsupported` if the options can not be used: a key without its secret, an endpoint that is
    /// no address, `http://` beyond this machine without `allow_http`.
    pub fn new(options: Options) -> Result<S3Store> {
        connect::check(&options)?;
        Ok(S3Store {
            options,
            clients: tokio::sync::Mutex::default(),
            found: OnceLock::new(),
            in_flight: InFlight::default(),
            parts: moka::sync::Cache::new(limits::S3_COMPOSITES),
            opened_by: moka::sync::Cache::new(limits::SSE_C_OPENED),
        })
    }

    async fn client(&self) -> Client {
        let runtime = Handle::current().id();
        let mut clients = self.clients.lock().await;
        if let Some(client) = clients.get(&runtime) {
            return client.clone();
        }
        let client = connect::connect(&self.options).await;
        if clients.len() >= limits::CLIENTS {
            clients.clear();
        }
        clients.insert(runtime, client.clone());
        client
    }

    /// Whether the server itself refuses a put under a taken key.
    fn conditional(&self) -> bool {
        self.found.get().is_some_and(|f| f.conditional_put)
    }

    /// Whether a checksum that the server returns is one it has checked.
    fn trusts_checksums(&self) -> bool {
        self.found.get().is_some_and(|f| f.checksum)
    }
}

/// Runs a request, within the time that `bytes` may take on a slow line.
async fn call<T, E>(
    bytes: u64,
    request: impl Future<Output = std::result::Result<T, SdkError<E, HttpResponse>>>,
) -> std::result::Result<T, Fault>
where
    E: ProvideErrorMetadata + std::error::Error + Send + Sync + 'static,
{
    let timeout = patience(bytes);
    match tokio::time::timeout(timeout, request).await {
        Ok(answer) => answer.map_err(Fault::from),
        Err(_) => Err(Fault::timeout(timeout)),
    }
}

/// How long a request with a body of this length may take.
fn patience(bytes: u64) -> Duration {
    limits::REQUEST_TIMEOUT + Duration::from_secs(bytes / limits::SLOWEST_BYTES_PER_SECOND)
}

#[async_trait]
impl Store for S3Store {
    fn name(&self) -> &str {
        &self.options.name
    }

    fn prefix(&self) -> &str {
        &self.options.prefix
    }

    fn url(&self, key: &str) -> String {
        format!("s3://{}/{key}", self.options.bucket)
    }

    async fn shared_url(&self, key: &str, valid: Duration) -> Result<Option<String>> {
        self.presign(key, valid).await.map(Some).map_err(|f| f.into_error(self.name(), "url", key))
    }

    fn needs_key(&self) -> bool {
        self.options.customer_keys.is_some()
    }

    fn storage_class(&self) -> Option<&StorageClass> {
        self.options.storage_class.as_ref()
    }

    async fn probe(&self, nonce: &str) -> Result<Capabilities> {
        let found = self.try_out(nonce).await?;
        Ok(*self.found.get_or_init(|| found))
    }

    async fn put(&self, key: &str, body: Body, sha256: Sha256, meta: &ObjectMeta) -> Result<()> {
        let put = match body.len() {
            0..=limits::SINGLE_PUT_BYTES_MAX => self.put_single(key, body, sha256, meta).await,
            _ => self.put_parts(key, body, sha256, meta).await,
        };
        put.map_err(|f| f.into_error(self.name(), "put", key))
    }

    async fn head(&self, key: &str) -> Result<Head> {
        self.try_head(key).await.map_err(|f| f.into_error(self.name(), "head", key))
    }

    async fn get(&self, key: &str, range: Range<u64>) -> Result<Bytes> {
        self.try_get(key, range).await.map_err(|f| f.into_error(self.name(), "get", key))
    }

    async fn get_into(&self, key: &str, range: Range<u64>, parts: Sender<Bytes>) -> Result<()> {
        let got = self.try_get_into(key, range, &parts).await;
        got.map_err(|f| f.into_error(self.name(), "get", key))
    }

    async fn list(&self, prefix: &str, after: &str) -> Result<Vec<Listed>> {
        self.try_list(prefix, after).await.map_err(|f| f.into_error(self.name(), "list", prefix))
    }

    async fn locks(&self) -> Result<Locks> {
        let locks = self.try_locks().await;
        locks.map_err(|f| f.into_error(self.name(), "get Object Lock of", &self.options.bucket))
    }

    async fn legal_hold(&self, key: &str, version: Option<&str>) -> Result<LegalHold> {
        let found = self.try_legal_hold(key, version).await;
        found.map_err(|f| f.into_error(self.name(), "get legal hold", key))
    }

    async fn set_legal_hold(&self, key: &str, version: &str, on: bool) -> Result<()> {
        let set = self.try_set_legal_hold(key, version, on).await;
        set.map_err(|f| f.into_error(self.name(), "put legal hold", key))
    }

    async fn sign(&self, key: &str, version: &str, on: bool) -> Result<()> {
        let signed = self.try_sign(key, version, on).await;
        signed.map_err(|f| f.into_error(self.name(), "put tags", key))
    }

    async fn signed(&self, key: &str, version: &str) -> Result<bool> {
        let tags = self.tags(key, version).await;
        let tags = tags.map_err(|f| f.into_error(self.name(), "get tags", key))?;
        Ok(lock::is_signed(&tags))
    }

    async fn retain(&self, key: &str, wanted: Retention) -> Result<Retention> {
        let found = self.try_retain(key, wanted).await;
        found.map_err(|f| f.into_error(self.name(), "put retention", key))
    }

    async fn delete(&self, key: &str) -> Result<()> {
        match self.try_delete(key).await {
            Err(f) if f.kind != StoreErrorKind::NotFound => {
                Err(f.into_error(self.name(), "delete", key))
            }
            _ => Ok(()),
        }
    }

    async fn abort_orphans(&self, node: &str) -> Result<usize> {
        let own = super::key::node_component(node);
        let prefix = format!("{}{own}/", self.options.prefix);
        self.abort_below(&prefix).await.map_err(|f| f.into_error(self.name(), "list", &prefix))
    }
}
