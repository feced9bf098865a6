//! Legal holds in the target itself: who has its credentials can not delete there what is held
//! (S3 Object Lock); and locks that end by themselves.

use super::{StoreError, StoreErrorKind};
use crate::clock::Timestamp;
use crate::policy::WormMode;

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

/// A lock on a version of an object that ends by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retention {
    /// Until then; targets know whole seconds.
    pub until: Timestamp,
    /// Who may take it off before.
    pub mode: WormMode,
}

impl Retention {
    /// Whether it is as long and as strict as the other.
    pub fn covers(&self, other: &Retention) -> bool {
        self.until >= other.until && self.mode >= other.mode
    }

    /// As long as the longer and as strict as the stricter of two.
    pub fn both(self, other: Retention) -> Retention {
        Retention { until: self.until.max(other.until), mode: self.mode.max(other.mode) }
    }
}

/// Of a target that was asked for what it can not do.
pub(super) fn none(target: &str, key: &str) -> StoreError {
    let what = "it can not lock objects";
    StoreError::new(StoreErrorKind::Unsupported, target, "legal hold", key, what)
}
