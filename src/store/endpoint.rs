//! Addresses of services: recordings cross no network unencrypted unless somebody says so.

use url::{Host, Url};

/// Why an address can not be used, and what to do about it.
pub(super) struct Unusable {
    pub(super) detail: String,
    pub(super) hint: &'static str,
}

/// Checks what can be checked without a network.
pub(super) fn check(endpoint: &str, allow_http: bool) -> Result<(), Unusable> {
    let url = Url::parse(endpoint).ok().filter(|u| u.host().is_some());
    match url.as_ref().map(|u| (u.scheme(), u)) {
        Some(("https", _)) => Ok(()),
        Some(("http", url)) if allow_http || is_loopback(url) => Ok(()),
        Some(("http", _)) => Err(Unusable {
            detail: "recordings would cross the network unencrypted".into(),
            hint: "use an `https://` endpoint, or set `allow_http = true` if the network is trusted",
        }),
        _ => Err(Unusable {
            detail: format!("the endpoint {endpoint:?} is no address"),
            hint: "write it like `https://s3.example.org`",
        }),
    }
}

/// Whether it is this machine.
pub(super) fn is_loopback(url: &Url) -> bool {
    match url.host() {
        Some(Host::Domain(name)) => name == "localhost",
        Some(Host::Ipv4(ip)) => ip.is_loopback(),
        Some(Host::Ipv6(ip)) => ip.is_loopback(),
        None => false,
    }
}
