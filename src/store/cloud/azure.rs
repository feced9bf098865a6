//! Azure: which account, where it is, and what proves that we may.

use super::share::Signer;
use super::{Connection, Environment, Options};
use crate::store::Secret;
use crate::store::StoreErrorKind::Unsupported;
use crate::store::endpoint;
use crate::store::fault::Fault;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use opendal::Builder;
use opendal::services::Azblob;
use reqsign_azure_storage::{
    ClientSecretCredentialProvider, Credential, ImdsCredentialProvider, RequestSigner,
    StaticCredentialProvider, WorkloadIdentityCredentialProvider,
};
use reqsign_core::{Context, ProvideCredentialChain};
use std::collections::HashMap;
use std::sync::Arc;
use url::Url;

/// Where accounts are, unless a connection string says otherwise.
const SUFFIX: &str = "core.windows.net";

/// What requests are signed with.
#[derive(Debug, PartialEq, Eq)]
enum Key {
    Account(Secret),
    /// A shared access signature.
    Sas(Secret),
    /// A service principal, workload identity or managed identity, asked for at the first request.
    Identity,
}

#[derive(Debug, PartialEq, Eq)]
struct Account {
    name: String,
    endpoint: String,
    key: Key,
}

pub(super) fn connect(options: &Options, env: Environment<'_>) -> Result<Connection, Fault> {
    let account = resolve(options, env)?;
    let service = Azblob::default()
        .container(&options.bucket)
        .endpoint(&account.endpoint)
        .credential_provider_chain(credentials(&account))
        .build()
        .map_err(|e| Fault::own(Unsupported, e.message()))?;
    let share = match &account.key {
        Key::Sas(_) => Signer::None(
            "a SAS can not be narrowed to one object, and would be given away; set the account's key",
        ),
        Key::Identity => Signer::None(
            "it takes the key of the storage account, and this machine has an identity only",
        ),
        Key::Account(_) => Signer::Azure(reqsign_core::Signer::new(
            Context::new(),
            credentials(&account),
            RequestSigner::new().with_service_sas_permissions("r"),
        )),
    };
    let endpoint = account.endpoint;
    Ok(Connection { service: Arc::new(service), endpoint, share, anonymous: false })
}

fn credentials(account: &Account) -> ProvideCredentialChain<Credential> {
    let chain = ProvideCredentialChain::new();
    match &account.key {
        Key::Account(key) => {
            chain.push(StaticCredentialProvider::new_shared_key(&account.name, key.reveal()))
        }
        Key::Sas(token) => chain.push(StaticCredentialProvider::new_sas_token(token.reveal())),
        Key::Identity => chain
            .push(ClientSecretCredentialProvider::new())
            .push(WorkloadIdentityCredentialProvider::new())
            .push(ImdsCredentialProvider::new()),
    }
}

/// The configuration first, then a connection string, then the variables that Azure's own tools use.
fn resolve(options: &Options, env: Environment<'_>) -> Result<Account, Fault> {
    let env = |name: &str| env(name).filter(|value| !value.is_empty());
    let first = |names: &[&str]| names.iter().find_map(|name| env(name));
    let string = match options.account {
        Some(_) => HashMap::new(),
        None => parts(&env("AZURE_STORAGE_CONNECTION_STRING").unwrap_or_default()),
    };
    let from_string = |name: &str| string.get(name).cloned();
    let given = options.endpoint.clone().or_else(|| from_string("BlobEndpoint"));
    let name = options
        .account
        .clone()
        .or_else(|| from_string("AccountName"))
        .or_else(|| first(&["AZURE_STORAGE_ACCOUNT", "AZURE_STORAGE_ACCOUNT_NAME"]))
        .or_else(|| given.as_deref().and_then(account_of));
    let Some(name) = name else {
        let hint =
            "set `access_key_id` to the name of the storage account, or AZURE_STORAGE_ACCOUNT";
        return Err(Fault { hint, ..Fault::own(Unsupported, "no storage account is named") });
    };
    let endpoint = match given {
        Some(endpoint) => local(&endpoint, &name),
        None => {
            let suffix = from_string("EndpointSuffix").unwrap_or_else(|| SUFFIX.into());
            format!("https://{name}.blob.{suffix}")
        }
    };
    endpoint::check(&endpoint, options.allow_http)
        .map_err(|e| Fault { hint: e.hint, ..Fault::own(Unsupported, e.detail) })?;
    let account_key =
        options.account_key.clone().or_else(|| from_string("AccountKey").map(Secret::new)).or_else(
            || first(&["AZURE_STORAGE_KEY", "AZURE_STORAGE_ACCOUNT_KEY"]).map(Secret::new),
        );
    let sas = from_string("SharedAccessSignature").or_else(|| env("AZURE_STORAGE_SAS_TOKEN"));
    let key = match (account_key, sas) {
        (Some(key), _) if STANDARD.decode(key.reveal()).is_err() => {
            let hint = "copy `key1` of the storage account (it ends in `==`)";
            let what = "the key of the storage account is not base64";
            return Err(Fault { hint, ..Fault::own(Unsupported, what) });
        }
        (Some(key), _) => Key::Account(key),
        (None, Some(sas)) => Key::Sas(Secret::new(sas.trim_start_matches('?'))),
        (None, None) => Key::Identity,
    };
    Ok(Account { name, endpoint, key })
}

/// The fields of a connection string.
fn parts(string: &str) -> HashMap<String, String> {
    let fields = string.split(';').filter_map(|field| field.trim().split_once('='));
    fields.map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
}

/// `https://ACCOUNT.blob.core.windows.net`.
fn account_of(endpoint: &str) -> Option<String> {
    let url = Url::parse(endpoint).ok()?;
    let (name, rest) = url.domain()?.split_once('.')?;
    rest.starts_with("blob.").then(|| name.to_owned())
}

/// An emulator has its accounts in the path.
fn local(endpoint: &str, account: &str) -> String {
    let endpoint = endpoint.trim_end_matches('/');
    match Url::parse(endpoint) {
        Ok(url) if endpoint::is_loopback(&url) && url.path() == "/" => {
            format!("{endpoint}/{account}")
        }
        _ => endpoint.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::cloud::Cloud;

    fn options() -> Options {
        Options {
            name: "t".into(),
            cloud: Cloud::Azure,
            endpoint: None,
            bucket: "calls".into(),
            prefix: String::new(),
            account: None,
            account_key: None,
            credentials_file: None,
            allow_http: false,
        }
    }

    fn resolved(options: &Options, env: &[(&str, &str)]) -> Result<Account, Fault> {
        resolve(options, &|name| {
            env.iter().find(|(n, _)| *n == name).map(|(_, value)| (*value).to_owned())
        })
    }

    fn account(name: &str, endpoint: &str, key: Key) -> Account {
        Account { name: name.into(), endpoint: endpoint.into(), key }
    }

    #[test]
    fn the_configuration_comes_before_the_environment() {
        let configured = Options {
            account: Some("mine".into()),
            account_key: Some(Secret::new("bWluZQ==")),
            ..options()
        };
        let env = [
            ("AZURE_STORAGE_ACCOUNT", "other"),
            ("AZURE_STORAGE_KEY", "b3RoZXI="),
            ("AZURE_STORAGE_CONNECTION_STRING", "AccountName=third;AccountKey=dGhpcmQ="),
        ];
        let key = |key: &str| Key::Account(Secret::new(key));
        let own = account("mine", "https://mine.blob.core.windows.net", key("bWluZQ=="));
        assert_eq!(resolved(&configured, &env).unwrap(), own);
        let third = account("third", "https://third.blob.core.windows.net", key("dGhpcmQ="));
        assert_eq!(resolved(&options(), &env).unwrap(), third);
        let other = account("other", "https://other.blob.core.windows.net", key("b3RoZXI="));
        assert_eq!(resolved(&options(), &env[..2]).unwrap(), other);
    }

    #[test]
    fn a_sas_an_identity_and_other_clouds_are_understood() {
        let sas = [("AZURE_STORAGE_ACCOUNT", "a"), ("AZURE_STORAGE_SAS_TOKEN", "?sv=1&sig=x")];
        let found = resolved(&options(), &sas).unwrap();
        assert_eq!(found.key, Key::Sas(Secret::new("sv=1&sig=x")));
        assert_eq!(resolved(&options(), &sas[..1]).unwrap().key, Key::Identity);
        let china = "AccountName=a;AccountKey=YQ==;EndpointSuffix=core.chinacloudapi.cn";
        let found = resolved(&options(), &[("AZURE_STORAGE_CONNECTION_STRING", china)]).unwrap();
        assert_eq!(found.endpoint, "https://a.blob.core.chinacloudapi.cn");
        let endpoint = Some("https://b.blob.core.windows.net/".into());
        let found = resolved(&Options { endpoint, ..options() }, &[]).unwrap();
        assert_eq!((&*found.name, &*found.endpoint), ("b", "https://b.blob.core.windows.net"));
        let emulator = Some("http://127.0.0.1:10000".into());
        let found = resolved(&Options { endpoint: emulator, ..options() }, &sas).unwrap();
        assert_eq!(found.endpoint, "http://127.0.0.1:10000/a");
    }

    #[test]
    fn what_can_not_work_is_refused_at_once() {
        assert!(resolved(&options(), &[]).unwrap_err().hint.contains("access_key_id"));
        let env = [("AZURE_STORAGE_ACCOUNT", "a"), ("AZURE_STORAGE_KEY", "no base 64")];
        let fault = resolved(&options(), &env).unwrap_err();
        assert!(fault.detail.contains("base64") && !fault.detail.contains("no base 64"));
        let endpoint = Some("http://blob.example.org".into());
        let plain = Options { endpoint, ..options() };
        assert!(resolved(&plain, &env).unwrap_err().hint.contains("allow_http"));
    }
}
