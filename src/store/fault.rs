//! What went wrong with a request to a service, before it is known which object it was about.

use super::{StoreError, StoreErrorKind};
use std::time::Duration;

/// A failed call: its status and code, if the server answered.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{detail}")]
pub(super) struct Fault {
    pub(super) kind: StoreErrorKind,
    /// HTTP status; 0 without an answer.
    pub(super) status: u16,
    /// The service's own word for it; may be empty.
    pub(super) code: String,
    pub(super) detail: String,
    /// The next step for an operator; may be empty.
    pub(super) hint: &'static str,
}

/// Hint of what is no answer.
pub(super) const NETWORK: &str = "check `endpoint` and the network; it is tried again";

impl Fault {
    /// A fault found on our side.
    pub(super) fn own(kind: StoreErrorKind, detail: impl Into<String>) -> Fault {
        Fault { kind, status: 0, code: String::new(), detail: detail.into(), hint: "" }
    }

    /// The same, with what to do about it.
    pub(super) fn advice(self, hint: &'static str) -> Fault {
        Fault { hint, ..self }
    }

    /// No answer within the time set for the call.
    pub(super) fn timeout(after: Duration) -> Fault {
        let detail = format!("no answer within {} s", after.as_secs());
        Fault { hint: NETWORK, ..Fault::own(StoreErrorKind::Unreachable, detail) }
    }

    /// An answer that ended before it was whole.
    pub(super) fn broken_off(error: &dyn std::error::Error) -> Fault {
        Fault::own(StoreErrorKind::Unreachable, format!("the answer broke off: {error}"))
    }

    /// An answer that is shorter than it said.
    pub(super) fn short(came: u64, promised: u64) -> Fault {
        let what = format!("{came} bytes came, {promised} were promised");
        Fault::own(StoreErrorKind::Corrupt, what)
    }

    /// With the words that `StoreError` adds.
    pub(super) fn into_error(self, target: &str, operation: &'static str, key: &str) -> StoreError {
        StoreError::new(self.kind, target, operation, key, self.detail).hint(self.hint)
    }
}

/// The innermost error: "Connection refused" rather than "dispatch failure".
pub(super) fn root_cause(error: &(dyn std::error::Error + 'static)) -> String {
    let mut innermost = error;
    while let Some(source) = innermost.source() {
        innermost = source;
    }
    innermost.to_string()
}
