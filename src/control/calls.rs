//! `find` and `gaps`: what is asked, and what `done` carries.

use super::protocol::WirePath;
use super::utc;
use crate::clock::Timestamp;
use crate::recording::State;
use serde::{Deserialize, Serialize};
use std::path::Path;

/// What `find` looks for. All that is given must fit, of `paths` one.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FindQuery {
    /// A number of either side, or its end.
    pub number: Option<String>,
    /// Campaign or in-group.
    pub campaign: Option<String>,
    /// Agent or user.
    pub agent: Option<String>,
    /// Began then or later.
    #[serde(with = "utc::option", default)]
    pub from: Option<Timestamp>,
    /// Began before.
    #[serde(with = "utc::option", default)]
    pub to: Option<Timestamp>,
    /// Linkedid or uniqueid.
    pub linkedid: Option<String>,
    /// State of the recording.
    pub state: Option<State>,
    /// Only recordings at or below one of these; none: all.
    #[serde(default)]
    pub paths: Vec<WirePath>,
    /// Calls instead of recordings.
    pub calls: bool,
    /// At most so many.
    pub limit: u64,
}

impl FindQuery {
    /// Whether a path relative to the mount is at or below one of those asked for.
    pub fn is_at(&self, path: &Path) -> bool {
        self.paths.is_empty() || self.paths.iter().any(|wanted| path.starts_with(&wanted.0))
    }
}

/// `find`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FindReport {
    /// Recordings, the newest first.
    pub recordings: Vec<FoundReport>,
    /// With `--calls`: calls, the newest first.
    pub calls: Vec<CallReport>,
    /// There are more.
    pub more: bool,
}

/// A recording and what is known of its call.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FoundReport {
    /// Which.
    pub path: WirePath,
    /// Where it stands; nothing if the catalog can not say.
    pub state: Option<State>,
    /// Name of its call; empty if nothing ties it to one.
    pub linkedid: String,
    /// A call record names it, not only its own name.
    pub matched: bool,
    /// When it began.
    #[serde(with = "utc")]
    pub start: Timestamp,
    /// How long it was, by its call record.
    pub seconds: u64,
    /// Caller.
    pub src: String,
    /// Called.
    pub dst: String,
    /// How it ended.
    pub disposition: String,
    /// Whom it is charged to.
    pub accountcode: String,
    /// Campaign.
    pub campaign: String,
    /// In-group.
    pub ingroup: String,
    /// List.
    pub list: String,
    /// Agent or user.
    pub agent: String,
    /// Lead.
    pub lead: String,
    /// The customer's number.
    pub phone: String,
    /// The number dialled from outside.
    pub did: String,
}

/// A call.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CallReport {
    /// Its name.
    pub linkedid: String,
    /// When it began.
    #[serde(with = "utc")]
    pub start: Timestamp,
    /// Until its last record ended.
    pub seconds: u64,
    /// Nothing more is to come.
    pub complete: bool,
    /// Caller.
    pub src: String,
    /// Called.
    pub dst: String,
    /// Campaign.
    pub campaign: String,
    /// Agent or user.
    pub agent: String,
    /// Its recordings, the longest first.
    pub legs: Vec<LegReport>,
}

/// A recording of a call.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LegReport {
    /// Which.
    pub path: WirePath,
    /// Where it stands.
    pub state: Option<State>,
    /// When it began.
    #[serde(with = "utc")]
    pub start: Timestamp,
    /// How long, by its call records.
    pub seconds: u64,
}

/// `gaps`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct GapsReport {
    /// Answered calls without a recording.
    pub calls: Vec<MissingReport>,
    /// Recordings without a call record.
    pub recordings: Vec<UncoveredReport>,
    /// There are more than are listed.
    pub more: bool,
}

/// An answered call without a recording.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MissingReport {
    /// Name of the call; empty if its source has none.
    pub linkedid: String,
    /// When its longest leg began.
    #[serde(with = "utc")]
    pub start: Timestamp,
    /// How long was talked.
    pub seconds: u64,
    /// Caller.
    pub src: String,
    /// Called.
    pub dst: String,
    /// The recording that its record names, and that is not there.
    pub recordingfile: String,
}

/// A recording without a call record.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UncoveredReport {
    /// Which.
    pub path: WirePath,
    /// When it began, by its name, or was closed.
    #[serde(with = "utc")]
    pub start: Timestamp,
}

/// Call records, in `status`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CallsReport {
    /// Where they are read from.
    pub sources: Vec<CallsSource>,
    /// What is wrong with what is remembered of them.
    pub trouble: Option<String>,
    /// Bytes that are remembered.
    pub bytes: u64,
    /// Records that had to go for newer ones.
    pub evicted: u64,
    /// Ties between calls that were left out, because the call would be larger than any real one.
    pub refused_ties: u64,
    /// Recordings that are not archived yet because no record of their call has come.
    #[serde(default)]
    pub awaited: u64,
}

/// A source of call records.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CallsSource {
    /// File or database.
    pub place: String,
    /// What is wrong with it.
    pub trouble: Option<String>,
    /// When it last answered.
    #[serde(with = "utc::option", default)]
    pub last_ok: Option<Timestamp>,
    /// Rows taken since the start of the daemon.
    pub rows: u64,
    /// Rows that are none.
    pub bad_rows: u64,
    /// The last of those: where, and why.
    pub last_bad: Option<String>,
    /// All that it had was read.
    pub caught_up: bool,
}
