//! What an answer of a server, or its absence, means to us.

use crate::store::StoreErrorKind;
use crate::store::fault::{Fault, NETWORK, root_cause};
use aws_sdk_s3::config::http::HttpResponse;
use aws_sdk_s3::error::{DisplayErrorContext, ProvideErrorMetadata, SdkError};

use StoreErrorKind::{Corrupt, Denied, Exists, Frozen, NotFound, Unreachable, Unsupported};

const KEYS: &str = "check `access_key_id` and `secret_access_key`, and what they permit on the \
                    bucket (PutObject, GetObject, ListBucket, DeleteObject, AbortMultipartUpload; for legal \
                    holds GetObjectLegalHold, PutObjectLegalHold, GetObjectVersionTagging, PutObjectVersionTagging; for `worm` GetObjectRetention, \
                    PutObjectRetention)";
const NO_KEYS: &str = "set `access_key_id` and `secret_access_key`, or give the machine a role";

impl<E> From<SdkError<E, HttpResponse>> for Fault
where
    E: ProvideErrorMetadata + std::error::Error + Send + Sync + 'static,
{
    fn from(error: SdkError<E, HttpResponse>) -> Fault {
        match &error {
            SdkError::ServiceError(answer) => {
                let status = answer.raw().status().as_u16();
                let code = answer.err().code().unwrap_or_default().to_owned();
                let message = answer.err().message().unwrap_or_default();
                from_answer(status, code, message)
            }
            SdkError::ResponseError(answer) => {
                let status = answer.raw().status().as_u16();
                let detail = format!("the answer (HTTP {status}) can not be read");
                Fault { status, hint: NETWORK, ..Fault::own(Unreachable, detail) }
            }
            SdkError::TimeoutError(_) | SdkError::DispatchFailure(_) => not_sent(&error),
            _ => not_sent(&error),
        }
    }
}

/// Nothing came back, or nothing was sent.
fn not_sent<E>(error: &SdkError<E, HttpResponse>) -> Fault
where
    E: std::error::Error + 'static,
{
    let text = format!("{}", DisplayErrorContext(error));
    // The SDK reports missing keys by a chain of opaque errors, as a failure to send.
    if text.contains("CredentialsNotLoaded") {
        return Fault { hint: NO_KEYS, ..Fault::own(Denied, "there are no credentials") };
    }
    if text.contains("loading credentials") {
        let detail = format!("the machine's role gave no credentials: {}", root_cause(error));
        return Fault { hint: NO_KEYS, ..Fault::own(Unreachable, detail) };
    }
    match error {
        SdkError::ConstructionFailure(_) => {
            Fault::own(Unsupported, format!("the request could not be made: {}", root_cause(error)))
        }
        _ => Fault { hint: NETWORK, ..Fault::own(Unreachable, root_cause(error)) },
    }
}

fn from_answer(status: u16, code: String, message: &str) -> Fault {
    let (kind, hint) = classify(status, &code);
    let detail = match (code.is_empty(), message.is_empty()) {
        (true, _) if status < 300 => format!("the answer (HTTP {status}) can not be read"),
        (true, _) => format!("HTTP {status}"),
        (false, true) => format!("{code} (HTTP {status})"),
        (false, false) => format!("{code} (HTTP {status}): {message}"),
    };
    Fault { kind, status, code, detail, hint }
}

fn classify(status: u16, code: &str) -> (StoreErrorKind, &'static str) {
    match (status, code) {
        (_, "NoSuchBucket") => (Unsupported, "make the bucket, or correct `url`"),
        (_, "NoSuchUpload") => (Unreachable, "the upload was ended from outside; it begins anew"),
        (404, _) => (NotFound, ""),
        (412, _) | (_, "PreconditionFailed") => (Exists, ""),
        // Two writers at the same moment: one of them won, the next try tells which.
        (409, _) => (Unreachable, "it is tried again"),
        (_, "RequestTimeTooSkewed") => (Denied, "set this machine's clock"),
        (_, "InvalidObjectState") => (
            Frozen,
            "it is in a class that must be restored before it is read: restore it in the service \
             (`aws s3api restore-object`), and try again when that is through, after some hours",
        ),
        (_, "ExpiredToken" | "TokenRefreshRequired") => (Denied, "renew the session's credentials"),
        (401 | 403, _) => (Denied, KEYS),
        (400, "BadDigest" | "InvalidDigest" | "XAmzContentSHA256Mismatch")
        | (400, "XAmzContentChecksumMismatch") => (Corrupt, "it is tried again"),
        (400, "RequestTimeout" | "IncompleteBody") | (408 | 429, _) => (Unreachable, NETWORK),
        (301 | 307 | 308, _)
        | (_, "AuthorizationHeaderMalformed" | "IllegalLocationConstraintException") => {
            (Unsupported, "set `region` (and `endpoint`) to those of the bucket")
        }
        (501, _) => (Unsupported, ""),
        // Completing an upload can fail after the status was sent.
        (200..=299, _) => (Unreachable, NETWORK),
        (500.., _) => (Unreachable, "the service is in trouble; it is tried again"),
        _ => (Unsupported, "see the service's description of this error"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_plain_404_is_not_found() {
        for (status, code, kind) in [
            (404, "NoSuchKey", NotFound),
            (404, "", NotFound),
            (404, "NoSuchBucket", Unsupported),
            (404, "NoSuchUpload", Unreachable),
            (403, "AccessDenied", Denied),
            (403, "InvalidObjectState", Frozen),
            (400, "BadDigest", Corrupt),
            (400, "RequestTimeout", Unreachable),
            (400, "InvalidArgument", Unsupported),
            (409, "ConditionalRequestConflict", Unreachable),
            (200, "InternalError", Unreachable),
            (200, "PreconditionFailed", Exists),
            (412, "PreconditionFailed", Exists),
            (429, "SlowDown", Unreachable),
            (503, "SlowDown", Unreachable),
            (500, "", Unreachable),
            (501, "NotImplemented", Unsupported),
            (301, "PermanentRedirect", Unsupported),
        ] {
            assert_eq!(classify(status, code).0, kind, "{status} {code}");
        }
    }
}
