//! `hold`: what is asked, and what `done` carries.

use super::calls::FindQuery;
use super::protocol::{PathFailure, WirePath};
use super::utc;
use crate::clock::Timestamp;
use crate::recording::{Generation, Sha256, State};
use serde::{Deserialize, Serialize};

/// What is asked about legal holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase", deny_unknown_fields)]
pub enum HoldRequest {
    /// Put a new one on recordings: a [`HoldAddReport`].
    Add {
        /// The case.
        case: String,
        /// Why.
        reason: String,
        /// Files, or directories with all that is below now.
        paths: Vec<WirePath>,
        /// Also what this finds, now and later.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        query: Option<FindQuery>,
    },
    /// All of them: a [`HoldListReport`].
    List,
    /// What they are on: a [`HoldShowReport`].
    Show {
        /// Those of this case; none: by number, or all that are on.
        case: Option<String>,
        /// The one with this number.
        id: Option<u64>,
    },
    /// End one, or those of a case: a [`HoldLiftReport`].
    Lift {
        /// Those of this case; none: by number.
        case: Option<String>,
        /// The one with this number.
        id: Option<u64>,
        /// Why.
        reason: String,
    },
}

/// `hold add`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HoldAddReport {
    /// Number of the new hold.
    pub id: u64,
    /// Its case.
    pub case: String,
    /// Recordings that it is on now.
    pub recordings: u64,
    /// Those of them that are being recorded.
    pub open: u64,
    /// Those that are archived.
    pub archived: u64,
    /// Held, and not archived yet; it is tried again. At most so many as reports name.
    pub waiting: Vec<PathFailure>,
    /// How many more there are.
    pub more_waiting: u64,
    /// Not there.
    pub missing: Vec<WirePath>,
    /// What else should be known, each a sentence.
    pub notes: Vec<String>,
}

/// `hold list`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HoldListReport {
    /// Each, the newest first.
    pub holds: Vec<HoldReport>,
}

/// A legal hold.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HoldReport {
    /// Its number.
    pub id: u64,
    /// Its case.
    pub case: String,
    /// Why.
    pub reason: String,
    /// Who asked for it.
    pub by: String,
    /// When.
    #[serde(with = "utc")]
    pub at: Timestamp,
    /// The paths that it was put on.
    pub paths: Vec<WirePath>,
    /// What it also catches.
    pub query: Option<FindQuery>,
    /// Recordings that it is, or was, on.
    pub recordings: u64,
    /// Its end.
    pub lifted: Option<LiftedReport>,
    /// Somebody wants it lifted, and another user must, too.
    #[serde(default)]
    pub lift_asked: Option<LiftAskedReport>,
    /// What protects them in each target; of a hold that was lifted only where something still does.
    #[serde(default)]
    pub targets: Vec<LockReport>,
}

/// What protects held recordings in a target.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LockReport {
    /// The target.
    pub target: String,
    /// Whether it locks objects; nothing: it has not answered so far.
    pub locks: Option<bool>,
    /// Why it does not.
    pub why: Option<String>,
    /// Objects that are archived there.
    pub objects: u64,
    /// Those of them on which the target was seen to have a legal hold.
    pub locked: u64,
    /// Why one of the others has none, if that failed.
    pub error: Option<String>,
}

/// A wish to lift a hold that waits for a second user.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LiftAskedReport {
    /// When it was asked for.
    #[serde(with = "utc")]
    pub at: Timestamp,
    /// By whom.
    pub by: String,
    /// Why.
    pub reason: String,
    /// Until when another user may lift it.
    #[serde(with = "utc")]
    pub until: Timestamp,
}

/// The end of a hold.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LiftedReport {
    /// When.
    #[serde(with = "utc")]
    pub at: Timestamp,
    /// By whom.
    pub by: String,
    /// Why.
    pub reason: String,
}

/// `hold show`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HoldShowReport {
    /// Each, with what it is on.
    pub holds: Vec<HoldShown>,
}

/// A hold and its recordings.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HoldShown {
    /// The hold.
    pub hold: HoldReport,
    /// What it is on; at most so many as reports name.
    pub recordings: Vec<HeldReport>,
    /// How many more there are.
    pub more: u64,
}

/// A recording on hold.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HeldReport {
    /// Which.
    pub path: WirePath,
    /// Where it stands; nothing: it is not there.
    pub state: Option<State>,
    /// Since when it is held.
    #[serde(with = "utc")]
    pub since: Timestamp,
    /// Its call record is not known yet, so that the hold may not mean it.
    pub provisional: bool,
    /// What was archived of it, the earliest content first.
    pub generations: Vec<GenerationReport>,
}

/// A content of a recording.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GenerationReport {
    /// Which.
    pub generation: Generation,
    /// Length in bytes.
    pub size: u64,
    /// SHA-256 of the recording.
    pub sha256: Sha256,
    /// Addresses of its verified objects.
    pub urls: Vec<String>,
    /// Targets that were seen to have a legal hold on its object.
    #[serde(default)]
    pub locked_in: Vec<String>,
}

/// `hold lift`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HoldLiftReport {
    /// Numbers of those that were lifted.
    pub lifted: Vec<u64>,
    /// Those that another user must lift, too.
    #[serde(default)]
    pub waiting: Vec<u64>,
    /// Recordings that they were on.
    pub recordings: u64,
    /// Recordings that are on some hold, of all there are.
    pub still_held: u64,
    /// What was held by these alone is not expired before.
    #[serde(with = "utc")]
    pub kept_until: Timestamp,
}

/// Legal holds, in `status`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HoldsReport {
    /// How many are on.
    pub holds: u64,
    /// Recordings that they are on.
    pub recordings: u64,
    /// Those of them that may not be in the archive as they are now.
    #[serde(default)]
    pub unarchived: u64,
}
