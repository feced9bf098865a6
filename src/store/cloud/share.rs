//! Addresses that anybody can read an object by: a service SAS of Azure, a signed URL (V4) of Google.

use super::fault::signed;
use super::http::Transport;
use super::{Cloud, CloudStore};
use crate::store::StoreErrorKind::Unsupported;
use crate::store::fault::Fault;
use ::http::{Request, Uri};
use opendal::HttpTransporter;
use opendal::raw::percent_encode_path;
use reqsign_core::{Context, OsEnv};
use reqsign_file_read_tokio::TokioFileRead;
use std::time::Duration;

/// Google signs for no longer.
const GOOGLE_MAX: Duration = Duration::from_hours(7 * 24);

/// What an address is signed with.
pub(super) enum Signer {
    Azure(reqsign_core::Signer<reqsign_azure_storage::Credential>),
    Google(reqsign_core::Signer<reqsign_google::Credential>),
    /// Why there is none.
    None(&'static str),
}

/// All that an address takes.
pub(super) struct Sharing {
    /// Without a slash at its end.
    endpoint: String,
    signer: Signer,
    transport: HttpTransporter,
}

impl std::fmt::Debug for Sharing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Sharing({})", self.endpoint)
    }
}

impl Sharing {
    pub(super) fn new(endpoint: String, signer: Signer, transport: &Transport) -> Sharing {
        Sharing { endpoint, signer, transport: HttpTransporter::new(transport.clone()) }
    }
}

impl CloudStore {
    pub(super) async fn presign(&self, key: &str, valid: Duration) -> Result<String, Fault> {
        if self.options.cloud == Cloud::Google && valid > GOOGLE_MAX {
            return Err(Fault::own(Unsupported, "Google signs addresses for 7 days at most"));
        }
        let Sharing { endpoint, signer, transport } = &self.share;
        let object = format!("{}/{}", self.options.bucket, percent_encode_path(key));
        let address = format!("{endpoint}/{object}");
        // A SAS is of the container and blob, wherever an endpoint has its accounts.
        let uri: Uri = address.parse().map_err(|e| Fault::own(Unsupported, format!("{e}")))?;
        let signed_at = match self.options.cloud {
            Cloud::Azure => format!(
                "{}://{}/{object}",
                uri.scheme_str().unwrap_or("https"),
                uri.authority().map_or("", |a| a.as_str())
            ),
            Cloud::Google => address.clone(),
        };
        let request = Request::get(signed_at).body(()).map(|request| request.into_parts().0);
        let mut request = request.map_err(|e| Fault::own(Unsupported, e.to_string()))?;
        let context = Context::new()
            .with_file_read(TokioFileRead)
            .with_http_send(transport.clone())
            .with_env(OsEnv);
        let done = match signer {
            Signer::Azure(signer) => {
                signer.clone().with_context(context).sign(&mut request, Some(valid)).await
            }
            Signer::Google(signer) => {
                signer.clone().with_context(context).sign(&mut request, Some(valid)).await
            }
            Signer::None(why) => return Err(Fault::own(Unsupported, *why)),
        };
        done.map_err(|e| signed(&self.options, &e))?;
        Ok(format!("{address}?{}", request.uri.query().unwrap_or_default()))
    }
}
