//! Encryption by the service itself.
//!
//! **Invariant:** what was to be encrypted there and was not is no success: a service that does not know
//! the headers passes them over, and stores the object as it is.

use super::{S3Store, Sse};
use crate::store::StoreErrorKind;
use crate::store::fault::Fault;
use aws_sdk_s3::types::ServerSideEncryption;

impl Sse {
    fn method(&self) -> ServerSideEncryption {
        match self {
            Sse::S3 => ServerSideEncryption::Aes256,
            Sse::Kms { .. } => ServerSideEncryption::AwsKms,
        }
    }
}

impl S3Store {
    pub(super) fn sse_method(&self) -> Option<ServerSideEncryption> {
        self.options.sse.as_ref().map(Sse::method)
    }

    pub(super) fn sse_key(&self) -> Option<String> {
        match &self.options.sse {
            Some(Sse::Kms { key_id, .. }) => key_id.clone(),
            _ => None,
        }
    }

    pub(super) fn sse_bucket_key(&self) -> Option<bool> {
        match &self.options.sse {
            Some(Sse::Kms { bucket_key, .. }) => *bucket_key,
            _ => None,
        }
    }

    /// Compares what was asked for with what the answer says of it: the method, and the key.
    pub(super) fn check_sse(
        &self,
        method: Option<&ServerSideEncryption>,
        key: Option<&str>,
    ) -> Result<(), Fault> {
        let Some(sse) = &self.options.sse else { return Ok(()) };
        let wanted = sse.method();
        if method != Some(&wanted) {
            let found = method.map_or("none", ServerSideEncryption::as_str);
            return Err(Fault::unencrypted(wanted.as_str(), found));
        }
        // An alias stands for a key that only the service knows.
        let wanted = self.sse_key().filter(|id| !id.contains("alias/"));
        match (wanted, key) {
            (Some(wanted), Some(found)) if !found.ends_with(wanted.as_str()) => {
                Err(Fault::unencrypted(&wanted, found))
            }
            _ => Ok(()),
        }
    }

    /// Takes away what was just written and is not encrypted as it was to be.
    pub(super) async fn take_back(&self, key: &str, fault: Fault) -> Fault {
        if let Err(left) = self.try_delete(key).await {
            tracing::error!(target_name = %self.options.name, key, error = ?left,
                "an object that the service did not encrypt as it was asked to is still there");
        }
        fault
    }
}

impl Fault {
    fn unencrypted(wanted: &str, found: &str) -> Fault {
        let what = format!("the service was to encrypt it with {wanted}, and says {found}");
        Fault::own(StoreErrorKind::Unsupported, what).advice(
            "check `sse` and `sse_kms_key_id` of the target, and whether the service knows them",
        )
    }
}
