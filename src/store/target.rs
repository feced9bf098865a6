//! From the options of one target to a store.

use super::cloud::{self, Cloud, CloudStore};
use super::file::FileStore;
use super::key::PREFIX_BYTES_MAX;
use super::s3::{self, S3Store};
use super::{Result, Store, StoreError, StoreErrorKind};
use crate::policy::StorageClass;
use std::path::PathBuf;
use std::sync::Arc;
use url::Url;

/// A password or key. Debug and logs show nothing of it.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Wraps a secret.
    pub fn new(secret: impl Into<String>) -> Secret {
        Secret(secret.into())
    }

    /// The secret itself, for the one call that needs it.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secret(..)")
    }
}

impl From<String> for Secret {
    fn from(secret: String) -> Secret {
        Secret(secret)
    }
}

/// One target as the configuration describes it.
#[derive(Clone, Debug, Default)]
pub struct TargetOptions {
    /// Its name.
    pub name: String,
    /// `s3://bucket/prefix`, `az://container/prefix`, `gs://bucket/prefix` or `file:///directory`.
    pub url: String,
    /// Address of the service; none: Amazon's for the region, or the cloud's own.
    pub endpoint: Option<String>,
    /// Region of an S3 bucket; none: from the environment, else `us-east-1`.
    pub region: Option<String>,
    /// S3: access key; none: the usual chain (environment, profile files, container, instance
    /// role). Azure: name of the storage account.
    pub access_key_id: Option<String>,
    /// The secret that belongs to the access key; Azure: key of the storage account.
    pub secret_access_key: Option<Secret>,
    /// Google: file with the credentials.
    pub credentials_file: Option<PathBuf>,
    /// Permits an `http://` endpoint that is not on this machine.
    pub allow_http: bool,
    /// The storage class of recordings, unless their rule has another; none: the service's.
    pub storage_class: Option<StorageClass>,
    /// Whether a SHA-256 header is sent with each object; some services refuse it.
    pub checksum: s3::PutChecksum,
    /// How the S3 service is to encrypt what it is given; none: as the bucket is set.
    pub sse: Option<s3::Sse>,
    /// Keys of SSE-C; none: the target never had any.
    pub customer_keys: Option<s3::CustomerKeys>,
}

const FORMS: &str = "write `s3://bucket/prefix`, `gs://bucket/prefix`, `az://container/prefix` or `file:///directory`";

/// Makes the store of a target. Nothing is contacted yet, and no runtime is needed.
///
/// # Errors
/// `Unsupported`, with the cure, if the URL or the options can not be used.
pub fn open(options: &TargetOptions) -> Result<Arc<dyn Store>> {
    let refuse = |detail: String, hint: &str| Err(refused(options, detail, hint));
    let url = match Url::parse(&options.url) {
        Ok(url) => url,
        Err(e) => {
            return refuse(format!("not a URL ({e})"), FORMS);
        }
    };
    if url.query().is_some() || url.fragment().is_some() {
        return refuse(
            "a target's URL has no `?` or `#`".into(),
            "put further settings in the target's section of the configuration",
        );
    }
    if !url.username().is_empty() || url.password().is_some() {
        return refuse(
            "credentials do not belong in the URL".into(),
            "set `access_key_id` and `secret_access_key`",
        );
    }
    match url.scheme() {
        "file" => open_file(options, &url),
        "s3" => open_s3(options, &url),
        "az" => open_cloud(options, &url, Cloud::Azure),
        "gs" => open_cloud(options, &url, Cloud::Google),
        scheme => refuse(format!("`{scheme}://` is no kind of target"), FORMS),
    }
}

fn open_file(options: &TargetOptions, url: &Url) -> Result<Arc<dyn Store>> {
    let dir: PathBuf = match url.to_file_path() {
        Ok(dir) if dir.parent().is_some() => dir,
        _ => {
            return Err(refused(
                options,
                "not the URL of a local directory".into(),
                "write `file:///` and an absolute path",
            ));
        }
    };
    Ok(Arc::new(FileStore::new(&options.name, dir)))
}

fn open_s3(options: &TargetOptions, url: &Url) -> Result<Arc<dyn Store>> {
    let (bucket, prefix) = bucket_and_prefix(options, url, "write `s3://bucket/prefix`")?;
    let store = S3Store::new(s3::Options {
        name: options.name.clone(),
        endpoint: options.endpoint.clone(),
        region: options.region.clone(),
        bucket,
        prefix,
        access_key_id: options.access_key_id.clone(),
        secret_access_key: options.secret_access_key.clone(),
        allow_http: options.allow_http,
        storage_class: options.storage_class.clone(),
        checksum: options.checksum,
        sse: options.sse.clone(),
        customer_keys: options.customer_keys.clone(),
    })?;
    Ok(Arc::new(store))
}

fn open_cloud(options: &TargetOptions, url: &Url, cloud: Cloud) -> Result<Arc<dyn Store>> {
    let form = match cloud {
        Cloud::Azure => "write `az://container/prefix`",
        Cloud::Google => "write `gs://bucket/prefix`",
    };
    let (bucket, prefix) = bucket_and_prefix(options, url, form)?;
    if cloud == Cloud::Google && options.access_key_id.is_some() {
        return Err(refused(
            options,
            "`gs://` takes no access key".into(),
            "set `credentials_file`; with an HMAC key write `s3://` and the endpoint \
             `https://storage.googleapis.com`",
        ));
    }
    let store = CloudStore::new(cloud::Options {
        name: options.name.clone(),
        cloud,
        endpoint: options.endpoint.clone(),
        bucket,
        prefix,
        account: options.access_key_id.clone(),
        account_key: options.secret_access_key.clone(),
        credentials_file: options.credentials_file.clone(),
        allow_http: options.allow_http,
    })?;
    Ok(Arc::new(store))
}

/// Not the parsed path: `Url` percent-encodes what is meant as it stands.
fn bucket_and_prefix(options: &TargetOptions, url: &Url, form: &str) -> Result<(String, String)> {
    let bucket = url.host_str().unwrap_or_default().to_owned();
    if bucket.is_empty() {
        return Err(refused(options, "there is no bucket in the URL".into(), form));
    }
    let rest = options.url.split_once("://").map_or("", |(_, rest)| rest);
    let path = rest.split_once('/').map_or("", |(_, path)| path).trim_matches('/');
    let prefix = if path.is_empty() { String::new() } else { format!("{path}/") };
    check_prefix(options, &prefix)?;
    Ok((bucket, prefix))
}

fn check_prefix(options: &TargetOptions, prefix: &str) -> Result<()> {
    let bad_component = prefix.trim_end_matches('/').split('/').any(|c| {
        matches!(c, "." | ".." | ".spoolfs") || c.is_empty() || c.contains(char::is_control)
    });
    if !prefix.is_empty() && bad_component {
        return Err(refused(
            options,
            "the prefix has a part that is empty, `.`, `..`, `.spoolfs` or has control characters"
                .into(),
            "choose another prefix",
        ));
    }
    if prefix.len() > PREFIX_BYTES_MAX {
        return Err(refused(
            options,
            format!("the prefix is longer than {PREFIX_BYTES_MAX} bytes"),
            "choose a shorter prefix",
        ));
    }
    Ok(())
}

fn refused(options: &TargetOptions, detail: String, hint: &str) -> StoreError {
    StoreError {
        kind: StoreErrorKind::Unsupported,
        target: options.name.clone(),
        operation: "open",
        key: options.url.clone(),
        detail,
        hint: hint.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(url: &str) -> TargetOptions {
        TargetOptions { name: "t".into(), url: url.into(), ..TargetOptions::default() }
    }

    #[test]
    fn the_prefix_is_the_path_of_the_url() {
        for (url, prefix) in [
            ("s3://calls", ""),
            ("s3://calls/", ""),
            ("s3://calls/pbx", "pbx/"),
            ("s3://calls/pbx/one two/", "pbx/one two/"),
            ("file:///srv/archive", ""),
        ] {
            assert_eq!(open(&options(url)).unwrap().prefix(), prefix, "{url}");
        }
    }

    #[test]
    fn what_can_not_be_used_is_refused_with_a_cure() {
        let long = format!("s3://b/{}", "x".repeat(600));
        for url in [
            "calls",
            "s3:///x",
            "gs:///x",
            "az:///x",
            "ftp://b/",
            "file:///",
            "file://nas/share",
            "s3://k:s@b/",
            "s3://b/../x",
            "s3://b/.spoolfs/",
            "s3://b/a//b",
            "s3://b/?x=1",
            &long,
        ] {
            let error = open(&options(url)).expect_err(url);
            assert_eq!(error.kind, StoreErrorKind::Unsupported, "{url}");
            assert!(!error.hint.is_empty(), "{url}");
        }
        let keyed = TargetOptions { access_key_id: Some("AK".into()), ..options("gs://b") };
        let error = open(&keyed).unwrap_err();
        assert!(error.hint.contains("HMAC"), "{error}");
    }

    #[test]
    fn plain_http_is_for_this_machine_unless_allowed() {
        let with = |endpoint: &str, allow_http| {
            open(&TargetOptions {
                endpoint: Some(endpoint.into()),
                allow_http,
                ..options("s3://calls")
            })
        };
        assert!(with("http://10.0.0.5:9000", false).unwrap_err().hint.contains("allow_http"));
        assert!(with("http://10.0.0.5:9000", true).is_ok());
        for endpoint in ["http://localhost:8333", "http://127.0.0.2:1", "http://[::1]:9"] {
            assert!(with(endpoint, false).is_ok(), "{endpoint}");
        }
        // A key of SSE-C crosses none in clear, whatever is allowed.
        for (endpoint, good) in
            [("http://10.0.0.5", false), ("http://[::1]:9", true), ("https://10.0.0.5", true)]
        {
            let sse = Some(s3::Sse::C);
            let keyed = TargetOptions { endpoint: Some(endpoint.into()), sse, ..options("s3://b") };
            let opened = open(&TargetOptions { allow_http: true, ..keyed });
            assert_eq!(opened.is_ok(), good, "{endpoint}");
            assert!(good || opened.unwrap_err().to_string().contains("SSE-C"));
        }
        assert!(with("https://s3.example.org", false).is_ok());
        assert!(with("s3.example.org", false).is_err());
    }

    #[test]
    fn a_key_without_its_secret_is_refused() {
        let half = TargetOptions { access_key_id: Some("AK".into()), ..options("s3://calls") };
        assert!(open(&half).unwrap_err().to_string().contains("secret_access_key"));
    }

    #[test]
    fn debug_output_shows_no_secret() {
        let options = TargetOptions {
            access_key_id: Some("AK".into()),
            secret_access_key: Some(Secret::new("hunter2")),
            ..options("s3://calls")
        };
        assert!(!format!("{options:?}").contains("hunter2"));
        assert!(!format!("{:?}", open(&options).unwrap()).contains("hunter2"));
    }
}
