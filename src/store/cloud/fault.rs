//! What an answer of Azure or Google, or its absence, means to us.

use super::{Cloud, Options};
use crate::store::StoreErrorKind::{
    self, Corrupt, Denied, Exists, Frozen, NotFound, Unreachable, Unsupported,
};
use crate::store::fault::{Fault, NETWORK, root_cause};
use std::error::Error;

const AGAIN: &str = "it is tried again";
const AZURE_KEYS: &str = "check `access_key_id` (the storage account) and `secret_access_key` (its key), and \
                          this machine's clock; a SAS or an identity must be allowed to read, create, write, \
                          delete and list blobs of the container";
const GOOGLE_KEYS: &str = "check `credentials_file` or GOOGLE_APPLICATION_CREDENTIALS; the service account needs \
                           storage.objects.create, get, list and delete on the bucket \
                           (roles/storage.objectUser)";
const AZURE_NONE: &str = "set `access_key_id` and `secret_access_key` (the storage account and its key), or give \
                          the machine a managed identity";
const GOOGLE_NONE: &str = "set `credentials_file` or GOOGLE_APPLICATION_CREDENTIALS, or give the machine a \
                           service account";

/// The fault that the transport put into an error, or what OpenDAL made of an answer by itself.
pub(super) fn of(options: &Options, error: &opendal::Error) -> Fault {
    let mut inner: Option<&(dyn Error + 'static)> = Some(error);
    let mut signing = None;
    while let Some(e) = inner {
        if let Some(fault) = e.downcast_ref::<Fault>() {
            return fault.clone();
        }
        signing = signing.or_else(|| e.downcast_ref::<reqsign_core::Error>());
        inner = e.source();
    }
    match signing {
        Some(e) => signed(options, e),
        None => Fault::own(Unreachable, format!("the answer can not be read: {}", error.message())),
    }
}

/// Nothing was sent: there was nothing to sign it with.
pub(super) fn signed(options: &Options, error: &reqsign_core::Error) -> Fault {
    let none = match options.cloud {
        Cloud::Azure => AZURE_NONE,
        Cloud::Google => GOOGLE_NONE,
    };
    match (error.kind(), &options.credentials_file) {
        (reqsign_core::ErrorKind::RequestInvalid, _) => {
            Fault::own(Unsupported, format!("the request can not be signed: {}", root_cause(error)))
        }
        (reqsign_core::ErrorKind::CredentialInvalid, Some(file)) => {
            let what = format!("the credentials in {} can not be used", file.display());
            Fault { hint: GOOGLE_KEYS, ..Fault::own(Denied, what) }
        }
        (reqsign_core::ErrorKind::CredentialInvalid, None) => {
            Fault { hint: none, ..Fault::own(Denied, "there are no credentials") }
        }
        _ => {
            let what = format!("the credentials can not be used: {}", root_cause(error));
            Fault { hint: none, ..Fault::own(Denied, what) }
        }
    }
}

/// What a service's error answer says.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Words {
    /// Azure's `x-ms-error-code`; Google's `reason`.
    pub(super) code: String,
    pub(super) message: String,
}

impl Words {
    /// From the body of an answer; `header` is Azure's code, which HEAD has as well.
    pub(super) fn read(cloud: Cloud, header: Option<&str>, body: &[u8]) -> Words {
        let text = String::from_utf8_lossy(body);
        let (code, message) = match cloud {
            Cloud::Azure => (element(&text, "Code"), element(&text, "Message")),
            Cloud::Google => google_words(body),
        };
        let code = header.map(str::to_owned).or(code).unwrap_or_default();
        let line = message.as_deref().unwrap_or_default().lines().next().unwrap_or_default();
        Words { code, message: line.trim().chars().take(300).collect() }
    }
}

fn element(xml: &str, name: &str) -> Option<String> {
    let (_, rest) = xml.split_once(&format!("<{name}>"))?;
    Some(rest.split_once("</")?.0.to_owned())
}

fn google_words(body: &[u8]) -> (Option<String>, Option<String>) {
    let Ok(json) = serde_json::from_slice::<serde_json::Value>(body) else { return (None, None) };
    let text = |value: &serde_json::Value| value.as_str().map(str::to_owned);
    let error = &json["error"];
    (text(&error["errors"][0]["reason"]), text(&error["message"]))
}

/// An answer that is no success.
pub(super) fn from_answer(cloud: Cloud, status: u16, words: Words) -> Fault {
    let Words { code, message } = words;
    let (kind, hint) = match cloud {
        Cloud::Azure => azure(status, &code),
        Cloud::Google => google(status, &code, &message),
    };
    let detail = match (code.is_empty(), message.is_empty()) {
        (true, true) => format!("HTTP {status}"),
        (true, false) => format!("HTTP {status}: {message}"),
        (false, true) => format!("{code} (HTTP {status})"),
        (false, false) => format!("{code} (HTTP {status}): {message}"),
    };
    Fault { kind, status, code, detail, hint }
}

/// An answer of the service that gives tokens.
pub(super) fn from_identity(cloud: Cloud, host: &str, status: u16) -> Fault {
    let kind = if matches!(status, 408 | 429 | 500..) { Unreachable } else { Denied };
    let hint = match cloud {
        Cloud::Azure => AZURE_KEYS,
        Cloud::Google => GOOGLE_KEYS,
    };
    let detail = format!("{host} gives no token (HTTP {status})");
    Fault { status, hint, ..Fault::own(kind, detail) }
}

/// Whether an answer of 404 names the object. Any other may be about the bucket or container.
pub(super) fn names_the_object(cloud: Cloud, fault: &Fault) -> bool {
    match cloud {
        Cloud::Azure => fault.code == "BlobNotFound",
        Cloud::Google => fault.detail.contains("No such object"),
    }
}

/// There is no bucket or container of that name.
pub(super) fn no_bucket(cloud: Cloud, fault: Fault) -> Fault {
    let hint = match cloud {
        Cloud::Azure => "make the container, or correct `url`",
        Cloud::Google => "make the bucket, or correct `url`",
    };
    Fault { kind: Unsupported, hint, ..fault }
}

fn azure(status: u16, code: &str) -> (StoreErrorKind, &'static str) {
    match (status, code) {
        (_, "ContainerNotFound") => (Unsupported, "make the container, or correct `url`"),
        (404, _) => (NotFound, ""),
        (_, "BlobAlreadyExists" | "UnauthorizedBlobOverwrite" | "ConditionNotMet") => (Exists, ""),
        (_, "BlobArchived" | "BlobBeingRehydrated") => (
            Frozen,
            "bring the blob back from the archive tier (`az storage blob set-tier`), and try again when that is through",
        ),
        (_, "BlobImmutableDueToPolicy" | "LeaseIdMissing" | "SnapshotsPresent") => {
            (Denied, "a policy, a lease or a snapshot protects the blob")
        }
        (_, "Md5Mismatch" | "Crc64Mismatch") => (Corrupt, AGAIN),
        // Another writer of the key committed, or a week went by: the blocks are gone.
        (_, "InvalidBlockList" | "InvalidBlobOrBlock") => (Unreachable, "the upload begins anew"),
        (_, "InvalidAuthenticationInfo") => (Denied, AZURE_KEYS),
        (409, _) => (Unreachable, AGAIN),
        _ => common(status, AZURE_KEYS),
    }
}

fn google(status: u16, code: &str, message: &str) -> (StoreErrorKind, &'static str) {
    match (status, code) {
        (404, _) if message.contains("bucket does not exist") => {
            (Unsupported, "make the bucket, or correct `url`")
        }
        (404, _) => (NotFound, ""),
        (403, "retentionPolicyNotMet" | "objectUnderActiveHold") => {
            (Denied, "a retention policy or hold of the bucket protects the object")
        }
        (412, _) => (Exists, ""),
        // Two writers at the same moment: one of them won, the next try tells which.
        (409, _) => (Unreachable, AGAIN),
        (410, _) => (Unreachable, "the upload was ended from outside; it begins anew"),
        _ => common(status, GOOGLE_KEYS),
    }
}

fn common(status: u16, keys: &'static str) -> (StoreErrorKind, &'static str) {
    match status {
        401 | 403 => (Denied, keys),
        408 | 429 => (Unreachable, NETWORK),
        301..=399 => (Unsupported, "set `endpoint` to that of the account or bucket"),
        501 => (Unsupported, ""),
        500.. => (Unreachable, "the service is in trouble; it is tried again"),
        _ => (Unsupported, "see the service's description of this error"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kind(cloud: Cloud, status: u16, code: &str, message: &str) -> StoreErrorKind {
        from_answer(cloud, status, Words { code: code.into(), message: message.into() }).kind
    }

    #[test]
    fn of_azure_only_a_missing_blob_is_not_found() {
        for (status, code, meant) in [
            (404, "BlobNotFound", NotFound),
            (404, "ContainerNotFound", Unsupported),
            (409, "BlobAlreadyExists", Exists),
            (412, "ConditionNotMet", Exists),
            (403, "UnauthorizedBlobOverwrite", Exists),
            (403, "AuthenticationFailed", Denied),
            (403, "AuthorizationPermissionMismatch", Denied),
            (400, "InvalidAuthenticationInfo", Denied),
            (412, "LeaseIdMissing", Denied),
            (409, "BlobImmutableDueToPolicy", Denied),
            (409, "BlobArchived", Frozen),
            (409, "ContainerBeingDeleted", Unreachable),
            (400, "InvalidBlockList", Unreachable),
            (400, "Md5Mismatch", Corrupt),
            (400, "InvalidQueryParameterValue", Unsupported),
            (429, "", Unreachable),
            (500, "OperationTimedOut", Unreachable),
            (503, "ServerBusy", Unreachable),
            (302, "", Unsupported),
        ] {
            assert_eq!(kind(Cloud::Azure, status, code, ""), meant, "{status} {code}");
        }
        let unclear = from_answer(Cloud::Azure, 404, Words::default());
        assert!(!names_the_object(Cloud::Azure, &unclear), "it may be about the container");
    }

    #[test]
    fn of_google_only_a_missing_object_is_not_found() {
        for (status, code, message, meant) in [
            (404, "notFound", "No such object: calls/a.wav", NotFound),
            (404, "notFound", "The specified bucket does not exist.", Unsupported),
            (412, "conditionNotMet", "", Exists),
            (401, "required", "Anonymous caller does not have access", Denied),
            (403, "forbidden", "", Denied),
            (403, "retentionPolicyNotMet", "", Denied),
            (409, "conflict", "", Unreachable),
            (410, "gone", "", Unreachable),
            (400, "invalid", "", Unsupported),
            (429, "rateLimitExceeded", "", Unreachable),
            (503, "backendError", "", Unreachable),
        ] {
            assert_eq!(kind(Cloud::Google, status, code, message), meant, "{status} {code}");
        }
        let unclear = from_answer(Cloud::Google, 404, Words::default());
        assert!(!names_the_object(Cloud::Google, &unclear), "it may be about the bucket");
    }

    #[test]
    fn errors_are_read_as_each_service_writes_them() {
        let azure = "\u{feff}<?xml version=\"1.0\"?><Error><Code>AuthenticationFailed</Code>\
                     <Message>Server failed.\nRequestId:1</Message>\
                     <AuthenticationErrorDetail>secret</AuthenticationErrorDetail></Error>";
        let words = Words::read(Cloud::Azure, None, azure.as_bytes());
        assert_eq!((&*words.code, &*words.message), ("AuthenticationFailed", "Server failed."));
        assert_eq!(Words::read(Cloud::Azure, Some("BlobNotFound"), b"").code, "BlobNotFound");
        let google = br#"{"error":{"code":404,"message":"No such object: b/o",
                          "errors":[{"reason":"notFound","message":"x"}]}}"#;
        let words = Words::read(Cloud::Google, None, google);
        assert_eq!((&*words.code, &*words.message), ("notFound", "No such object: b/o"));
        assert_eq!(Words::read(Cloud::Google, None, b"Not Found"), Words::default());
    }
}
