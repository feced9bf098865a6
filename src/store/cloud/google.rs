//! Google: where the service is, and whose credentials are used.

use super::share::Signer;
use super::{Connection, Environment, Options};
use crate::store::StoreErrorKind::Unsupported;
use crate::store::endpoint;
use crate::store::fault::Fault;
use opendal::Builder;
use opendal::services::Gcs;
use reqsign_core::{Context, ProvideCredentialChain};
use reqsign_google::{
    Credential, DefaultCredentialProvider, FileCredentialProvider, RequestSigner,
};
use std::sync::Arc;
use url::Url;

const ENDPOINT: &str = "https://storage.googleapis.com";
/// Reading, writing and deleting objects; nothing of buckets.
const SCOPE: &str = "https://www.googleapis.com/auth/devstorage.read_write";

pub(super) fn connect(options: &Options, env: Environment<'_>) -> Result<Connection, Fault> {
    let endpoint = options.endpoint.as_deref().unwrap_or(ENDPOINT).trim_end_matches('/').to_owned();
    endpoint::check(&endpoint, options.allow_http)
        .map_err(|e| Fault { hint: e.hint, ..Fault::own(Unsupported, e.detail) })?;
    let named = options.credentials_file.is_some()
        || env("GOOGLE_APPLICATION_CREDENTIALS").is_some_and(|file| !file.is_empty());
    // An emulator on this machine asks for nothing.
    let local = Url::parse(&endpoint).is_ok_and(|url| endpoint::is_loopback(&url));
    let anonymous = local && !named;
    let mut gcs = Gcs::default().bucket(&options.bucket).endpoint(&endpoint).scope(SCOPE);
    if anonymous {
        gcs = gcs.skip_signature();
    } else {
        gcs = gcs
            .disable_config_load()
            .disable_vm_metadata()
            .credential_provider_chain(credentials(options));
    }
    let service = gcs.build().map_err(|e| Fault::own(Unsupported, e.message()))?;
    let share = match anonymous {
        true => Signer::None("there is no service account to sign it with"),
        false => Signer::Google(reqsign_core::Signer::new(
            Context::new(),
            credentials(options),
            RequestSigner::new("storage").with_scope(SCOPE),
        )),
    };
    Ok(Connection { service: Arc::new(service), endpoint, share, anonymous })
}

/// The file that the configuration names and no other; else the places that Google's tools look at.
fn credentials(options: &Options) -> ProvideCredentialChain<Credential> {
    let chain = ProvideCredentialChain::new();
    match &options.credentials_file {
        Some(file) => {
            chain.push(FileCredentialProvider::new(file.to_string_lossy()).with_scope(SCOPE))
        }
        None => chain.push(DefaultCredentialProvider::new()),
    }
}
