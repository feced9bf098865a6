//! Azure Blob Storage and Google Cloud Storage, by OpenDAL's services.
//!
//! **Invariant:** keys go out and come back byte for byte; requests are signed (but to an emulator
//! on this machine) and never retried here; nothing is taken as stored until it was read back.
//!
//! OpenDAL's `Operator` is left out: it trims and joins what it takes for paths, and it reduces
//! answers to kinds that can not tell a missing object from a missing container. Its services are
//! used directly, over a transport of our own (`http`), which sees each answer as it came.

mod azure;
mod fault;
mod google;
mod http;
mod list;
mod probe;
mod put;
mod read;
mod share;

use super::fault::Fault;
use super::in_flight::InFlight;
use super::{
    Body, Capabilities, Head, Listed, Locks, ObjectMeta, Result, Secret, Store, StoreErrorKind,
};
use crate::limits;
use crate::recording::Sha256;
use async_trait::async_trait;
use bytes::Bytes;
use opendal::OperationContext;
use opendal::raw::Servicer;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::OnceLock;
use std::time::Duration;
use tokio::sync::mpsc::Sender;

/// Whose service it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cloud {
    /// Azure Blob Storage, `az://container/prefix`.
    Azure,
    /// Google Cloud Storage, `gs://bucket/prefix`.
    Google,
}

impl Cloud {
    /// The scheme of its URLs.
    fn scheme(self) -> &'static str {
        match self {
            Cloud::Azure => "az",
            Cloud::Google => "gs",
        }
    }
}

/// Where and how.
#[derive(Clone, Debug)]
pub struct Options {
    /// Name of the target.
    pub name: String,
    /// Whose service.
    pub cloud: Cloud,
    /// Address of the service; none: the cloud's own.
    pub endpoint: Option<String>,
    /// The bucket; Azure's word is container.
    pub bucket: String,
    /// "" or ending in "/".
    pub prefix: String,
    /// Azure: name of the storage account; none: from the environment or the endpoint.
    pub account: Option<String>,
    /// Azure: key of the storage account; none: from the environment, or an identity.
    pub account_key: Option<Secret>,
    /// Google: JSON file with the credentials; none: `GOOGLE_APPLICATION_CREDENTIALS`, what gcloud
    /// left, or the machine's service account.
    pub credentials_file: Option<PathBuf>,
    /// Permits plain `http://` beyond this machine.
    pub allow_http: bool,
}

/// A bucket or container.
#[derive(Debug)]
pub struct CloudStore {
    options: Options,
    service: Servicer,
    context: OperationContext,
    share: share::Sharing,
    found: OnceLock<Capabilities>,
    asking: Asking,
    /// Keys of large objects being written now.
    in_flight: InFlight,
    listings: list::Listings,
}

/// What a cloud's own module makes of the options.
struct Connection {
    service: Servicer,
    /// Without a slash at its end.
    endpoint: String,
    share: share::Signer,
    /// Whether requests go out unsigned.
    anonymous: bool,
}

impl CloudStore {
    /// A store; nothing is contacted yet.
    ///
    /// # Errors
    /// `Unsupported` if the options can not be used, or name no account.
    pub fn new(options: Options) -> Result<CloudStore> {
        CloudStore::with_environment(options, &|name| std::env::var(name).ok())
    }

    fn with_environment(options: Options, env: Environment<'_>) -> Result<CloudStore> {
        let connection = match options.cloud {
            Cloud::Azure => azure::connect(&options, env),
            Cloud::Google => google::connect(&options, env),
        }
        .map_err(|fault| fault.into_error(&options.name, "open", &options.bucket))?;
        let transport = http::Transport::new(&options, &connection);
        Ok(CloudStore {
            share: share::Sharing::new(connection.endpoint, connection.share, &transport),
            service: connection.service,
            context: http::context(transport),
            found: OnceLock::new(),
            asking: Asking::default(),
            in_flight: InFlight::default(),
            listings: list::Listings::default(),
            options,
        })
    }

    /// Whether the service itself was seen to refuse a put under a taken key.
    fn conditional(&self) -> bool {
        self.found.get().is_some_and(|f| f.conditional_put)
    }

    fn fault(&self, error: opendal::Error) -> Fault {
        fault::of(&self.options, &error)
    }

    /// What a request came to, within the time that `bytes` may take on a slow line.
    async fn call<T>(
        &self,
        bytes: u64,
        request: impl Future<Output = opendal::Result<T>>,
    ) -> std::result::Result<T, Fault> {
        let timeout = patience(bytes);
        match tokio::time::timeout(timeout, request).await {
            Ok(answer) => answer.map_err(|e| self.fault(e)),
            Err(_) => Err(Fault::timeout(timeout)),
        }
    }
}

/// Where a service does not refuse a taken key, asking and writing are one step within this process.
#[derive(Debug, Default)]
struct Asking([tokio::sync::Mutex<()>; 16]);

impl Asking {
    fn of(&self, key: &str) -> &tokio::sync::Mutex<()> {
        let place = crc32fast::hash(key.as_bytes()) as usize % self.0.len();
        &self.0[place]
    }
}

/// Looks up a variable of the environment.
type Environment<'a> = &'a dyn Fn(&str) -> Option<String>;

/// How long a request with a body of this length may take.
fn patience(bytes: u64) -> Duration {
    limits::REQUEST_TIMEOUT + Duration::from_secs(bytes / limits::SLOWEST_BYTES_PER_SECOND)
}

#[async_trait]
impl Store for CloudStore {
    fn name(&self) -> &str {
        &self.options.name
    }

    fn prefix(&self) -> &str {
        &self.options.prefix
    }

    fn url(&self, key: &str) -> String {
        format!("{}://{}/{key}", self.options.cloud.scheme(), self.options.bucket)
    }

    async fn shared_url(&self, key: &str, valid: Duration) -> Result<Option<String>> {
        self.presign(key, valid).await.map(Some).map_err(|f| f.into_error(self.name(), "url", key))
    }

    async fn probe(&self, nonce: &str) -> Result<Capabilities> {
        let found = self.try_out(nonce).await?;
        Ok(*self.found.get_or_init(|| found))
    }

    async fn put(&self, key: &str, body: Body, sha256: Sha256, meta: &ObjectMeta) -> Result<()> {
        let put = self.try_put(key, &body, sha256, meta).await;
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

    async fn delete(&self, key: &str) -> Result<()> {
        match self.try_delete(key).await {
            Err(f) if f.kind != StoreErrorKind::NotFound => {
                Err(f.into_error(self.name(), "delete", key))
            }
            _ => Ok(()),
        }
    }

    async fn locks(&self) -> Result<Locks> {
        let why = match self.options.cloud {
            Cloud::Azure => "spoolfs does not use Azure's legal holds yet",
            Cloud::Google => "spoolfs does not use Google's object holds yet",
        };
        Ok(Locks::No(why.to_owned()))
    }

    /// Nothing to do: blocks and sessions that nobody finishes are no objects, are in no listing,
    /// and both services drop them within a week.
    async fn abort_orphans(&self, _node: &str) -> Result<usize> {
        // A target that can not be reached says so here as elsewhere.
        self.try_list(self.prefix(), "")
            .await
            .map_err(|f| f.into_error(self.name(), "list", self.prefix()))?;
        Ok(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn store(cloud: Cloud, env: &[(&str, &str)]) -> CloudStore {
        let options = Options {
            name: "t".into(),
            cloud,
            endpoint: (cloud == Cloud::Google).then(|| "http://localhost:1".into()),
            bucket: "calls".into(),
            prefix: String::new(),
            account: None,
            account_key: None,
            credentials_file: None,
            allow_http: false,
        };
        let look_up =
            |name: &str| env.iter().find(|(n, _)| *n == name).map(|(_, value)| (*value).to_owned());
        CloudStore::with_environment(options, &look_up).unwrap()
    }

    #[tokio::test]
    async fn who_holds_no_key_can_give_no_address() {
        let sas = [("AZURE_STORAGE_ACCOUNT", "a"), ("AZURE_STORAGE_SAS_TOKEN", "sv=1&sig=hunter2")];
        for (store, why) in [
            (store(Cloud::Azure, &sas), "given away"),
            (store(Cloud::Azure, &sas[..1]), "key of the storage account"),
            (store(Cloud::Google, &[]), "no service account"),
        ] {
            let error = store.shared_url("a", Duration::from_secs(60)).await.unwrap_err();
            assert_eq!(error.kind, StoreErrorKind::Unsupported, "{error}");
            assert!(error.detail.contains(why), "{error}");
            assert!(!format!("{store:?} {error:?}").contains("hunter2"));
        }
    }
}
