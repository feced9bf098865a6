//! Joined calls: the legs of a call as one file that nobody stored.
//!
//! **Invariant:** a join is a function of its legs. Its plan is made once, from headers that were
//! read before, and frozen; from then on the same position gives the same byte, whoever asks, in
//! whatever order, wherever the legs are by then. A leg that changed is an error, never other
//! audio.
//!
//! docs/STITCHED.md is the contract.

mod given;
mod keeping;
mod kept;
mod legs;
mod listing;
mod memory;
mod name;
mod notes;
mod plan;
mod read;
mod service;
#[cfg(test)]
mod tests;
mod watch;

pub use given::{CallLeg, Calls, Heard, ListedCall, Named, Recordings, Source, Standing, Tier};
pub use keeping::{Sink, Whole};
pub use kept::{Kept, KeptCounts, KeptJoin, KeptLeg, KeptObject, KeptState, NewJoin};
pub use name::{file_name, is_hashed, linkedid};
pub use plan::{Form, LargeFiles, Layout, Leg, Options, Placed, Plan, Rate, Side};
pub use read::{Join, LegReader};
pub use service::{Missing, Setting, Stitched};
pub use watch::Looked;

use crate::recording::ErrorClass;

/// Why bytes of a join could not be had.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{leg}: {detail}")]
pub struct StitchError {
    /// The leg, relative to the mount.
    pub leg: String,
    /// What happened, and the next step.
    pub detail: String,
    /// How it may end.
    pub class: ErrorClass,
}

impl StitchError {
    /// How it may end.
    pub fn class(&self) -> ErrorClass {
        self.class
    }
}

/// Result of an operation.
pub type Result<T> = std::result::Result<T, StitchError>;
