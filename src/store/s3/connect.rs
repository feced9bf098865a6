//! The client: what is asked of the SDK, and what it is kept from doing by itself.

use super::sse::NamedOnce;
use super::{Options, Sse};
use crate::limits;
use crate::store::{Result, StoreError, StoreErrorKind, endpoint};
use aws_config::default_provider::credentials::DefaultCredentialsChain;
use aws_config::environment::region::EnvironmentVariableRegionProvider;
use aws_config::imds;
use aws_config::meta::region::RegionProviderChain;
use aws_config::profile::ProfileFileRegionProvider;
use aws_config::provider_config::ProviderConfig;
use aws_sdk_s3::config::retry::RetryConfig;
use aws_sdk_s3::config::timeout::TimeoutConfig;
use aws_sdk_s3::config::{
    BehaviorVersion, Credentials, Region, RequestChecksumCalculation, ResponseChecksumValidation,
    SharedCredentialsProvider, SharedHttpClient, StalledStreamProtectionConfig,
};
use aws_sdk_s3::{Client, Config};
use aws_smithy_http_client::Builder as HttpBuilder;
use aws_smithy_http_client::tls::{Provider, rustls_provider::CryptoMode};
use std::time::Duration;

/// The region when nothing names one: Cloudflare R2 and most other services accept it.
const DEFAULT_REGION: &str = "us-east-1";
/// How long a machine that is no EC2 instance waits to find that out.
const INSTANCE_ROLE_TIMEOUT: Duration = Duration::from_secs(1);

/// Checks what can be checked without a network.
pub(super) fn check(options: &Options) -> Result<()> {
    if options.access_key_id.is_some() != options.secret_access_key.is_some() {
        return Err(refused(
            options,
            "one of `access_key_id` and `secret_access_key` is missing",
            "set both, or neither to use the environment or the instance's role",
        ));
    }
    let Some(endpoint) = &options.endpoint else { return Ok(()) };
    let secret = options.sse == Some(Sse::C) || options.customer_keys.is_some();
    endpoint::check(endpoint, options.allow_http && !secret).map_err(|unusable| match secret {
        true => refused(
            options,
            &format!("with SSE-C each request has the key, and {}", unusable.detail),
            "use an `https://` endpoint",
        ),
        false => refused(options, &unusable.detail, unusable.hint),
    })
}

/// Makes the client. Without configured keys the usual places are asked for them at the first
/// request; requests are always signed.
pub(super) async fn connect(options: &Options) -> Client {
    let http = http_client();
    let provider = ProviderConfig::default().with_http_client(http.clone());
    let region = match &options.region {
        Some(region) => Region::new(region.clone()),
        None => environment_region().await,
    };
    let credentials = match (&options.access_key_id, &options.secret_access_key) {
        (Some(id), Some(secret)) => SharedCredentialsProvider::new(Credentials::new(
            id,
            secret.reveal(),
            None,
            None,
            "spoolfs configuration",
        )),
        _ => environment_credentials(&provider, region.clone()).await,
    };
    let mut config = Config::builder()
        .behavior_version(BehaviorVersion::latest())
        .http_client(http)
        .region(region)
        .credentials_provider(credentials)
        // The only modes that every server tried stores correctly, with a checksum of our own.
        .request_checksum_calculation(RequestChecksumCalculation::WhenRequired)
        .response_checksum_validation(ResponseChecksumValidation::WhenRequired)
        .interceptor(NamedOnce)
        .retry_config(RetryConfig::disabled())
        .stalled_stream_protection(StalledStreamProtectionConfig::disabled())
        .timeout_config(TimeoutConfig::builder().connect_timeout(limits::CONNECT_TIMEOUT).build())
        .force_path_style(options.endpoint.is_some() || options.bucket.contains('.'));
    if let Some(endpoint) = &options.endpoint {
        config = config.endpoint_url(endpoint);
    }
    Client::from_conf(config.build())
}

fn http_client() -> SharedHttpClient {
    HttpBuilder::new()
        .tls_provider(Provider::Rustls(CryptoMode::Ring))
        .pool_max_idle_per_host(limits::IDLE_CONNECTIONS)
        .build_https()
}

/// From the environment or the profile. Not from the instance: that costs seconds elsewhere.
async fn environment_region() -> Region {
    RegionProviderChain::first_try(EnvironmentVariableRegionProvider::new())
        .or_else(ProfileFileRegionProvider::new())
        .or_else(Region::from_static(DEFAULT_REGION))
        .region()
        .await
        .unwrap_or(Region::from_static(DEFAULT_REGION))
}

async fn environment_credentials(
    provider: &ProviderConfig,
    region: Region,
) -> SharedCredentialsProvider {
    let instance = imds::Client::builder()
        .configure(provider)
        .max_attempts(1)
        .connect_timeout(INSTANCE_ROLE_TIMEOUT)
        .read_timeout(INSTANCE_ROLE_TIMEOUT)
        .build();
    let chain = DefaultCredentialsChain::builder()
        .configure(provider.clone())
        .region(region)
        .imds_client(instance)
        .build()
        .await;
    SharedCredentialsProvider::new(chain)
}

fn refused(options: &Options, detail: &str, hint: &str) -> StoreError {
    let key = options.endpoint.as_deref().unwrap_or("s3");
    StoreError::new(StoreErrorKind::Unsupported, &options.name, "open", key, detail).hint(hint)
}
