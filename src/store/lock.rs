//! Legal holds in the target itself: who has its credentials can not delete there what is held
//! (S3 Object Lock).

use super::{StoreError, StoreErrorKind};

/// Whether a target can keep an object from being deleted by whoever has its credentials.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Locks {
    /// It can.
    Yes,
    /// It can not, or may not be asked: why, as the end of a sentence.
    No(String),
}

/// What a target says of an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LegalHold {
    /// The version that the answer is about.
    pub version: String,
    /// Whether a legal hold is on it.
    pub on: bool,
}

/// Of a target that was asked for what it can not do.
pub(super) fn none(target: &str, key: &str) -> StoreError {
    let what = "it can not lock objects";
    StoreError::new(StoreErrorKind::Unsupported, target, "legal hold", key, what)
}
