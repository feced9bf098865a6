//! `[[target]]`: a place to archive to.

use super::error::ConfigError;
use super::raw::RawTarget;
use super::source::Source;
use crate::policy::StorageClass;
use crate::store::s3::Sse;
use crate::units::{Money, Secret};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use url::{Host, Url};

/// How a target is spoken to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scheme {
    /// `s3://bucket/prefix`.
    S3,
    /// `az://container/prefix`: Azure Blob Storage.
    Azure,
    /// `gs://bucket/prefix`: Google Cloud Storage.
    Google,
    /// `file:///directory`.
    File,
}

/// A place to archive to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// Its name in the catalog, in messages and in `status`.
    pub name: String,
    /// How it is spoken to.
    pub scheme: Scheme,
    /// As it is written: scheme, bucket, prefix.
    pub url: String,
    /// Where the service is, unless it is Amazon's or the cloud's own.
    pub endpoint: Option<String>,
    /// Region of an S3 bucket.
    pub region: Option<String>,
    /// The key, or Azure's storage account, unless the usual environment has it.
    pub access_key_id: Option<String>,
    /// Its secret.
    pub secret_access_key: Option<Secret>,
    /// Google's credentials, unless the usual environment names them.
    pub credentials_file: Option<PathBuf>,
    /// Whether it must hold a recording before that may be released.
    pub required: bool,
    /// Whether an endpoint beyond this machine may be spoken to without encryption.
    pub allow_http: bool,
    /// What 10^9 bytes cost in a month, for `retention plan`.
    pub price: Option<Money>,
    /// The storage class of recordings in it, unless their rule has another; none: the service's.
    pub storage_class: Option<StorageClass>,
    /// How the S3 service is to encrypt what it is given.
    pub sse: Option<Sse>,
    /// File with the keys of SSE-C.
    pub sse_c_key_file: Option<PathBuf>,
    /// A program that prints them, with its arguments; empty: none.
    pub sse_c_key_command: Vec<String>,
}

impl Scheme {
    fn with_article(self) -> &'static str {
        match self {
            Scheme::S3 => "an s3://",
            Scheme::Azure => "an az://",
            Scheme::Google => "a gs://",
            Scheme::File => "a file://",
        }
    }
}

impl Target {
    /// The directory of a `file://` target.
    pub fn directory(&self) -> Option<PathBuf> {
        Url::parse(&self.url).ok().filter(|u| u.scheme() == "file")?.to_file_path().ok()
    }
}

/// Judges one target; `index` is its place in the file.
pub(super) fn resolve(
    mut raw: RawTarget,
    index: usize,
    source: &Source,
) -> Result<Target, ConfigError> {
    let at = |key: &str| format!("target.{index}.{key}");
    let sse = sse(&raw, &at, source)?;
    let name = raw.name.take().ok_or_else(|| {
        source.fault(&at("name"), "is missing", "give the target a name, such as name = \"main\"")
    })?;
    super::check::word(source, &at("name"), &name)?;
    let url = raw.url.take().ok_or_else(|| {
        source.fault(&at("url"), "is missing", "set url = \"s3://bucket/prefix\"")
    })?;
    let scheme = scheme(&url, &at("url"), source)?;
    if let Some((key, cure)) = out_of_place(scheme, &raw) {
        let message = format_args!("means nothing for {} target", scheme.with_article());
        return Err(source.fault(&at(key), message, cure));
    }
    match (&raw.access_key_id, &raw.secret_access_key) {
        // Of Azure it is the account, whose key or identity the environment may have.
        (Some(_), None) if scheme != Scheme::Azure => {
            let cure = "set both, or neither and use the AWS_* environment";
            return Err(source.fault(&at("secret_access_key"), "is missing", cure));
        }
        (None, Some(_)) => {
            let cure = match scheme {
                Scheme::Azure => "set it to the name of the storage account",
                _ => "set both, or neither and use the AWS_* environment",
            };
            return Err(source.fault(&at("access_key_id"), "is missing", cure));
        }
        _ => {}
    }
    if let Some(file) = raw.credentials_file.as_ref().filter(|file| !file.starts_with('/')) {
        let message = format_args!("{file:?} is not an absolute path");
        return Err(source.fault(&at("credentials_file"), message, "begin it with a slash"));
    }
    customer_keys(&raw, &at, source)?;
    let allow_http = raw.allow_http.unwrap_or(false);
    if let Some(endpoint) = &raw.endpoint {
        check_endpoint(endpoint, allow_http, &at("endpoint"), source)?;
        let has_keys = sse == Some(Sse::C)
            || raw.sse_c_key_file.is_some()
            || !raw.sse_c_key_command.is_empty();
        if has_keys && check_endpoint(endpoint, false, &at("endpoint"), source).is_err() {
            let message = "is plain http://, and with SSE-C each request has the key";
            return Err(source.fault(&at("endpoint"), message, "use https://"));
        }
    }
    Ok(Target {
        name,
        scheme,
        url,
        endpoint: raw.endpoint,
        region: raw.region,
        access_key_id: raw.access_key_id,
        secret_access_key: raw.secret_access_key,
        credentials_file: raw.credentials_file.map(PathBuf::from),
        required: raw.required.unwrap_or(true),
        allow_http,
        price: raw.price_per_gb_month,
        storage_class: class(raw.storage_class.as_deref(), &at("storage_class"), source)?,
        sse,
        sse_c_key_file: raw.sse_c_key_file,
        sse_c_key_command: raw.sse_c_key_command,
    })
}

/// A storage class, as written under `key`.
pub(super) fn class(
    text: Option<&str>,
    key: &str,
    source: &Source,
) -> Result<Option<StorageClass>, ConfigError> {
    let class = |text: &str| {
        text.parse().map_err(|()| {
            let message = format_args!("{text:?} is no storage class");
            source.fault(key, message, "write one of your service's, such as \"STANDARD_IA\"")
        })
    };
    text.map(class).transpose()
}

fn sse(
    raw: &RawTarget,
    at: &dyn Fn(&str) -> String,
    source: &Source,
) -> Result<Option<Sse>, ConfigError> {
    let kms_only = [
        ("sse_kms_key_id", raw.sse_kms_key_id.is_some()),
        ("sse_bucket_key", raw.sse_bucket_key.is_some()),
        ("sse_kms_context", !raw.sse_kms_context.is_empty()),
    ];
    let given = kms_only.into_iter().find(|(_, given)| *given);
    match (raw.sse.as_deref(), given) {
        (Some("kms"), _) => Ok(Some(Sse::Kms {
            key_id: raw.sse_kms_key_id.clone(),
            bucket_key: raw.sse_bucket_key,
            context: context(&raw.sse_kms_context, &at("sse_kms_context"), source)?,
        })),
        (Some("none"), _) => Ok(None),
        (_, Some((key, _))) => {
            Err(source.fault(&at(key), "means nothing without sse = \"kms\"", "remove it"))
        }
        (None, None) => Ok(None),
        (Some("s3"), None) => Ok(Some(Sse::S3)),
        (Some("c"), None) => Ok(Some(Sse::C)),
        (Some(other), None) => {
            let message = format_args!("{other:?} is no way to encrypt");
            Err(source.fault(&at("sse"), message, "write \"s3\", \"kms\", \"c\" or \"none\""))
        }
    }
}

/// `name=value` each, no name twice.
fn context(
    pairs: &[String],
    key: &str,
    source: &Source,
) -> Result<Vec<(String, String)>, ConfigError> {
    let mut context: Vec<(String, String)> = Vec::new();
    for pair in pairs {
        let named = pair.split_once('=').filter(|(name, _)| !name.is_empty());
        let Some((name, value)) = named else {
            let message = format_args!("{pair:?} is no name and value");
            return Err(source.fault(key, message, "write for example \"department=calls\""));
        };
        if context.iter().any(|(other, _)| other == name) {
            let message = format_args!("{name:?} is in it twice");
            return Err(source.fault(key, message, "leave one of the two out"));
        }
        context.push((name.to_owned(), value.to_owned()));
    }
    Ok(context)
}

/// Where the keys of SSE-C are from.
fn customer_keys(
    raw: &RawTarget,
    at: &dyn Fn(&str) -> String,
    source: &Source,
) -> Result<(), ConfigError> {
    if let Some(file) = &raw.sse_c_key_file {
        super::check::absolute(source, &at("sse_c_key_file"), file)?;
    }
    let Some(program) = raw.sse_c_key_command.first() else { return Ok(()) };
    super::check::absolute(source, &at("sse_c_key_command"), Path::new(program))?;
    if raw.sse_c_key_file.is_some() {
        let message = "is set, and so is sse_c_key_file";
        return Err(source.fault(&at("sse_c_key_command"), message, "leave one of the two out"));
    }
    Ok(())
}

/// A key that this kind of target has no use for, and what to do instead.
fn out_of_place(scheme: Scheme, raw: &RawTarget) -> Option<(&'static str, &'static str)> {
    const HMAC: &str = "set credentials_file; for an HMAC key write s3:// and endpoint = \
                        \"https://storage.googleapis.com\"";
    const S3_ALONE: &[Scheme] = &[Scheme::File, Scheme::Azure, Scheme::Google];
    let keys: [(&str, bool, &[Scheme], &str); 9] = [
        ("endpoint", raw.endpoint.is_some(), &[Scheme::File], "remove it"),
        ("region", raw.region.is_some(), &[Scheme::File], "remove it"),
        (
            "access_key_id",
            raw.access_key_id.is_some(),
            &[Scheme::File, Scheme::Google],
            if scheme == Scheme::Google { HMAC } else { "remove it" },
        ),
        (
            "secret_access_key",
            raw.secret_access_key.is_some(),
            &[Scheme::File, Scheme::Google],
            if scheme == Scheme::Google { HMAC } else { "remove it" },
        ),
        (
            "credentials_file",
            raw.credentials_file.is_some(),
            &[Scheme::File, Scheme::S3, Scheme::Azure],
            "remove it",
        ),
        ("storage_class", raw.storage_class.is_some(), S3_ALONE, "remove it"),
        ("sse", raw.sse.is_some(), S3_ALONE, "remove it"),
        ("sse_c_key_file", raw.sse_c_key_file.is_some(), S3_ALONE, "remove it"),
        ("sse_c_key_command", !raw.sse_c_key_command.is_empty(), S3_ALONE, "remove it"),
    ];
    let found = keys.into_iter().find(|(_, given, of, _)| *given && of.contains(&scheme));
    found.map(|(key, _, _, cure)| (key, cure))
}

fn scheme(text: &str, key: &str, source: &Source) -> Result<Scheme, ConfigError> {
    let forms = "write s3://bucket/prefix, gs://bucket/prefix, az://container/prefix or \
                 file:///directory";
    let url = Url::parse(text)
        .map_err(|_| source.fault(key, format_args!("{text:?} is not a URL"), forms))?;
    if !url.username().is_empty() || url.password().is_some() {
        let cure = "use access_key_id and secret_access_key";
        return Err(source.fault(key, "must not contain a user or password", cure));
    }
    if url.query().is_some() || url.fragment().is_some() || url.port().is_some() {
        let message = format_args!("{text:?} has more than a bucket and a prefix");
        return Err(source.fault(key, message, forms));
    }
    match url.scheme() {
        known @ ("s3" | "gs" | "az") if url.host_str().is_none_or(str::is_empty) => {
            let what = if known == "az" { "container" } else { "bucket" };
            let message = format_args!("{text:?}: missing {what}");
            Err(source.fault(key, message, format!("write {known}://{what}/prefix")))
        }
        "s3" => Ok(Scheme::S3),
        "gs" => Ok(Scheme::Google),
        "az" => Ok(Scheme::Azure),
        "file" if url.to_file_path().is_err() => {
            let message = format_args!("{text:?} names no local directory");
            Err(source.fault(key, message, "write three slashes, as in file:///srv/archive"))
        }
        "file" => Ok(Scheme::File),
        _ => Err(source.fault(key, format_args!("{text:?} is of no known kind"), forms)),
    }
}

fn check_endpoint(
    text: &str,
    allow_http: bool,
    key: &str,
    source: &Source,
) -> Result<(), ConfigError> {
    let url = Url::parse(text).ok().filter(|u| matches!(u.scheme(), "http" | "https"));
    let Some(url) = url else {
        let message = format_args!("{text:?} is not an http:// or https:// URL");
        return Err(source.fault(key, message, "write for example https://s3.example.com"));
    };
    if !url.username().is_empty() || url.password().is_some() {
        let cure = "use access_key_id and secret_access_key";
        return Err(source.fault(key, "must not contain a user or password", cure));
    }
    if url.scheme() == "http" && !allow_http && !is_loopback(&url) {
        let message = format_args!("{text:?} would send recordings over the network unencrypted");
        return Err(source.fault(key, message, "use https://, or set allow_http = true"));
    }
    Ok(())
}

fn is_loopback(url: &Url) -> bool {
    match url.host() {
        Some(Host::Domain(name)) => name == "localhost" || name.ends_with(".localhost"),
        Some(Host::Ipv4(ip)) => IpAddr::V4(ip).is_loopback(),
        Some(Host::Ipv6(ip)) => IpAddr::V6(ip).is_loopback(),
        None => false,
    }
}
