//! Encryption by the service itself.
//!
//! **Invariant:** what was to be encrypted there and was not is no success: a service that does not know
//! the headers passes them over, and stores the object as it is.

use super::customer::CustomerKey;
use super::{S3Store, Sse};
use crate::store::StoreErrorKind;
use crate::store::fault::Fault;
use aws_sdk_s3::config::interceptors::BeforeDeserializationInterceptorContextMut;
use aws_sdk_s3::config::{ConfigBag, Intercept, RuntimeComponents};
use aws_sdk_s3::error::BoxError;
use aws_sdk_s3::types::ServerSideEncryption;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use std::collections::BTreeMap;
use std::sync::Arc;

/// The one cipher of SSE-C.
const AES256: &str = "AES256";
const KEY_MD5: &str = "x-amz-server-side-encryption-customer-key-md5";
const PUT_BACK: &str =
    "put the key back into `sse_c_key_file` of the target, and see docs/SECURITY.md";
const KEYS: &str = "see `sse_c_key_file` of the target, and docs/SECURITY.md";

impl Sse {
    /// `x-amz-server-side-encryption`; SSE-C has headers of its own.
    fn method(&self) -> Option<ServerSideEncryption> {
        match self {
            Sse::S3 => Some(ServerSideEncryption::Aes256),
            Sse::Kms { .. } => Some(ServerSideEncryption::AwsKms),
            Sse::C => None,
        }
    }
}

/// The headers of SSE-C: cipher, key, and the MD5 of the key.
pub(super) struct CustomerHeaders {
    pub(super) algorithm: Option<String>,
    pub(super) key: Option<String>,
    pub(super) md5: Option<String>,
}

impl CustomerHeaders {
    pub(super) fn of(key: Option<&CustomerKey>) -> CustomerHeaders {
        CustomerHeaders {
            algorithm: key.map(|_| AES256.to_owned()),
            key: key.map(CustomerKey::reveal),
            md5: key.map(|key| key.md5().to_owned()),
        }
    }
}

/// What a request for an object is tried with, one after the other: nothing tells which key it was
/// encrypted with, and a service refuses both a wrong key and one where none belongs.
pub(super) struct Tries {
    left: std::vec::IntoIter<Option<Arc<CustomerKey>>>,
    now: Option<Arc<CustomerKey>>,
    /// What those that were tried were refused with, the first of them.
    refused: Option<Fault>,
    /// What the try without a key was refused with.
    plain: Option<u16>,
    keys: usize,
    /// There are none yet.
    awaited: bool,
    /// Where the keys are from, or why there are none; none: the target has no such keys at all.
    told: Option<Arc<str>>,
}

impl Tries {
    pub(super) fn now(&self) -> Option<&CustomerKey> {
        self.now.as_deref()
    }

    /// Goes on to the next if it may be the key that is wrong.
    ///
    /// # Errors
    /// It is something else, or there is no other.
    pub(super) fn refused(&mut self, fault: Fault) -> Result<(), Fault> {
        let Some(told) = &self.told else { return Err(without_keys(fault)) };
        if !may_be_the_key(&fault) {
            return Err(fault);
        }
        if self.now.is_none() {
            self.plain = Some(fault.status);
        }
        let first = self.refused.get_or_insert(fault);
        if let Some(next) = self.left.next() {
            self.now = next;
            return Ok(());
        }
        // Without the key that it needs a request is no good (400); 403 is about who asks.
        if self.plain == Some(403) {
            return Err(first.clone());
        }
        let kind = match self.awaited {
            true => StoreErrorKind::Awaited,
            false => StoreErrorKind::Locked,
        };
        let what = match self.keys {
            0 => {
                format!("it may be encrypted with a key of ours (SSE-C), and there is none: {told}")
            }
            keys => format!("none of the {keys} keys (SSE-C) of {told} opens it"),
        };
        let what = format!("{what}; the service says {}", first.detail);
        Err(Fault { status: first.status, ..Fault::own(kind, what).advice(KEYS) })
    }
}

/// What a fault is where no keys are configured: services refuse what needs one with these codes, which only
/// the answer to a GET has.
fn without_keys(fault: Fault) -> Fault {
    if fault.status != 400 || !matches!(fault.code.as_str(), "InvalidRequest" | "InvalidArgument") {
        return fault;
    }
    let what = format!(
        "it may be encrypted with a key of yours (SSE-C), and none is configured; the service says {}",
        fault.detail
    );
    Fault { status: fault.status, ..Fault::own(StoreErrorKind::Locked, what).advice(PUT_BACK) }
}

/// Whether a service may have refused the key rather than who asks. An answer to HEAD has no code.
fn may_be_the_key(fault: &Fault) -> bool {
    let who = [
        "AllAccessDisabled",
        "AuthorizationHeaderMalformed",
        "ExpiredToken",
        "InvalidAccessKeyId",
        "InvalidToken",
        "RequestTimeTooSkewed",
        "SignatureDoesNotMatch",
        "TokenRefreshRequired",
    ];
    let kind = matches!(fault.kind, StoreErrorKind::Denied | StoreErrorKind::Unsupported);
    kind && matches!(fault.status, 400 | 403) && !who.contains(&fault.code.as_str())
}

impl S3Store {
    pub(super) fn sse_method(&self) -> Option<ServerSideEncryption> {
        self.options.sse.as_ref().and_then(Sse::method)
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

    /// As the header has it: a JSON object, in base64.
    pub(super) fn sse_context(&self) -> Option<String> {
        let Some(Sse::Kms { context, .. }) = &self.options.sse else { return None };
        let pairs: BTreeMap<_, _> = context.iter().map(|(name, value)| (name, value)).collect();
        let json = serde_json::to_string(&pairs).ok().filter(|_| !pairs.is_empty())?;
        Some(STANDARD.encode(json))
    }

    /// The key that what is written is encrypted with, if that is how.
    ///
    /// # Errors
    /// `Denied`: there is none, or none yet.
    pub(super) fn key_for_writing(&self) -> Result<Option<Arc<CustomerKey>>, Fault> {
        if self.options.sse != Some(Sse::C) {
            return Ok(None);
        }
        let none = "there is no sse_c_key_file";
        let first = self.options.customer_keys.as_ref().map(|keys| (keys.all(), keys.told()));
        let (keys, told) =
            first.map_or((None, none.into()), |(all, told)| (all.first().cloned(), told));
        keys.map(Some).ok_or_else(|| {
            let what =
                format!("nothing is written without a key to encrypt it with (SSE-C): {told}");
            Fault::own(StoreErrorKind::Denied, what).advice(KEYS)
        })
    }

    /// What to ask for an object with: as it was last read, then as it would be written, then the rest.
    pub(super) fn tries(&self, key: &str) -> Tries {
        let Some(keys) = &self.options.customer_keys else {
            return Tries {
                left: Vec::new().into_iter(),
                now: None,
                refused: None,
                plain: None,
                keys: 0,
                awaited: false,
                told: None,
            };
        };
        // First: of keys that come in between it is not said that there are none.
        let awaited = keys.are_awaited();
        let (all, told) = (keys.all(), Some(keys.told()));
        let mut order: Vec<_> = all.iter().cloned().map(Some).collect();
        let plain = if self.options.sse == Some(Sse::C) { order.len() } else { 0 };
        order.insert(plain, None);
        if let Some(known) = self.opened_by.get(key) {
            let md5 = |key: &Option<Arc<CustomerKey>>| key.as_ref().map(|key| key.md5().to_owned());
            order.sort_by_key(|key| md5(key) != known);
        }
        let mut left = order.into_iter();
        let now = left.next().flatten();
        Tries { left, now, refused: None, plain: None, keys: all.len(), awaited, told }
    }

    /// Remembers what an object was opened with, if it was not the first try.
    pub(super) fn opened(&self, key: &str, tries: &Tries) {
        if tries.refused.is_some() {
            self.opened_by.insert(key.to_owned(), tries.now().map(|key| key.md5().to_owned()));
        }
    }

    /// Compares what was asked for with what the answer says of it: the method, and the key.
    pub(super) fn check_sse(
        &self,
        method: Option<&ServerSideEncryption>,
        key: Option<&str>,
    ) -> Result<(), Fault> {
        let Some(wanted) = self.sse_method() else { return Ok(()) };
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

/// Takes an answer that names the key twice as if it did once: SeaweedFS does, and the SDK would refuse it.
#[derive(Debug)]
pub(super) struct NamedOnce;

impl Intercept for NamedOnce {
    fn name(&self) -> &'static str {
        "NamedOnce"
    }

    fn modify_before_deserialization(
        &self,
        context: &mut BeforeDeserializationInterceptorContextMut<'_>,
        _components: &RuntimeComponents,
        _config: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        let headers = context.response_mut().headers_mut();
        let mut named = headers.get_all(KEY_MD5);
        if let (Some(first), Some(second)) = (named.next().map(str::to_owned), named.next())
            && first == second
            && named.all(|more| more == first)
        {
            drop(named);
            headers.insert(KEY_MD5, first);
        }
        Ok(())
    }
}

/// Compares the key that was sent with the one that the answer says was used.
pub(super) fn check_customer(sent: Option<&CustomerKey>, told: Option<&str>) -> Result<(), Fault> {
    match sent {
        Some(key) if told != Some(key.md5()) => {
            let found = told.map_or("nothing of a key", |_| "that it was another");
            Err(Fault::unencrypted("a key of ours (SSE-C)", found))
        }
        _ => Ok(()),
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
