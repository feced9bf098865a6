//! What `done` carries, by request. Fields are only ever added, so that scripts that read
//! `--json` go on working.

use super::calls::CallsReport;
use super::holds::HoldsReport;
use super::protocol::{PathFailure, WirePath};
use super::utc;
use crate::clock::Timestamp;
use crate::limits;
use crate::recording::{Generation, Sha256, State};
use crate::units::Money;
use serde::{Deserialize, Serialize};

/// `status`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StatusReport {
    /// Version of the daemon.
    pub version: String,
    /// Its process.
    pub pid: u32,
    /// Seconds since it started.
    pub uptime_seconds: u64,
    /// "plain" or "passthrough".
    pub mode: String,
    /// Where it is mounted.
    pub mountpoint: WirePath,
    /// Name of this machine in the archive.
    pub node: String,
    /// Files and bytes per state.
    pub states: Vec<StateCount>,
    /// What waits to be archived.
    pub backlog: Backlog,
    /// How fast recordings may be uploaded now.
    #[serde(default)]
    pub uploads: UploadsReport,
    /// Recordings whose last try failed.
    pub failing: u64,
    /// Recordings whose local copy may not be on the disk, because syncing it failed.
    #[serde(default)]
    pub suspect: u64,
    /// Everything that happened up to this time survives a power cut, as far as known.
    #[serde(with = "utc::option", default)]
    pub durable_until: Option<Timestamp>,
    /// The latest error.
    pub last_error: Option<LastError>,
    /// The targets.
    pub targets: Vec<TargetReport>,
    /// What is wrong with the catalog, in a sentence; nothing if nothing.
    pub catalog_trouble: Option<String>,
    /// How often its database was read since the start.
    #[serde(default)]
    pub catalog_reads: u64,
    /// What will happen to a recording closed now, in words.
    pub next_recording: String,
    /// The cache of bytes read lately.
    pub cache: CacheUse,
    /// The disk of the lower directory.
    pub disk: DiskUse,
    /// Anything else an operator should know, each a sentence.
    #[serde(default)]
    pub warnings: Vec<String>,
    /// Archived copies that are gone or damaged, and were not replaced.
    #[serde(default)]
    pub bad_copies: u64,
    /// Archived copies that no key opens (SSE-C), so that nothing is known of them.
    #[serde(default)]
    pub unopened_copies: u64,
    /// The connection to the kernel.
    #[serde(default)]
    pub link: LinkReport,
    /// Call records; nothing if none are configured.
    #[serde(default)]
    pub calls: Option<CallsReport>,
    /// What is in the trash.
    #[serde(default)]
    pub trash: TrashCount,
    /// Legal holds.
    #[serde(default)]
    pub holds: HoldsReport,
    /// Stored joins of calls; nothing if none are, or ever were.
    #[serde(default)]
    pub joins: Option<JoinsReport>,
    /// What was done so far.
    #[serde(default)]
    pub counters: Counters,
}

/// What was done since the daemon started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counters {
    /// Files archived.
    pub archived: FileSum,
    /// Files that were synced to the disk.
    pub synced: u64,
    /// Chunks of released recordings that were found in memory.
    pub memory_hits: u64,
    /// The same in the cache on disk.
    pub disk_hits: u64,
    /// Chunks that came from a target.
    pub fetched: u64,
    /// Requests for them.
    pub requests: u64,
    /// Chunks that could not be had.
    pub failed: u64,
    /// Reads that waited because their process reads through the archive.
    pub held_back: u64,
    /// Answers of targets that were not what was archived.
    pub corrupt: u64,
    /// Objects that were not there.
    pub gone: u64,
    /// Chunks of the cache on disk that were torn or changed.
    pub cache_dropped: u64,
}

/// Joins of calls that are stored in the targets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct JoinsReport {
    /// Those that are stored.
    pub stored: u64,
    /// Calls whose join is not stored yet, because they, or their recordings, are not ready.
    pub waiting: u64,
    /// Calls and stored joins of which the last try failed.
    pub failing: u64,
    /// Stored joins that are to be deleted.
    pub leaving: u64,
    /// Objects found damaged or gone since the start.
    pub bad: u64,
    /// Objects that may be stored joins, and that no key opens, or that are refused.
    #[serde(default)]
    pub unopened: u64,
    /// Whether all calls were looked at since the start.
    pub swept: bool,
}

/// How much is in the trash.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TrashCount {
    /// Recordings.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
}

/// The connection to the kernel, and how much of it outlives the daemon.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LinkReport {
    /// Why files are not passed through to the kernel.
    pub plain_because: Option<String>,
    /// What survives the death of the daemon, a sentence.
    pub survives: String,
    /// How often a daemon went on with this mount.
    pub taken_over: u64,
    /// Requests that failed by a fault of spoolfs.
    pub faults: u64,
}

/// Files in one state.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StateCount {
    /// Which.
    pub state: State,
    /// How many.
    pub files: u64,
    /// Their length together.
    pub bytes: u64,
}

/// What waits to be archived.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Backlog {
    /// Files.
    pub files: u64,
    /// Bytes.
    pub bytes: u64,
    /// The one that has waited longest.
    pub oldest: Option<Waiting>,
    /// What was archived in the last minutes; nothing if it is too early to tell.
    #[serde(default)]
    pub drain: Option<DrainReport>,
    /// When the backlog is gone, if things go on as in the last minutes; nothing if there is none,
    /// or if it does not shrink.
    #[serde(with = "utc::option", default)]
    pub ends_at: Option<Timestamp>,
}

/// What was archived in the last minutes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct DrainReport {
    /// Length of the time that was looked at.
    pub seconds: u64,
    /// Files archived in it.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Files a second.
    pub files_per_second: f64,
    /// Bytes a second.
    pub bytes_per_second: f64,
}

/// How fast recordings may be uploaded, which can depend on the time of the day.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct UploadsReport {
    /// Nothing is uploaded now, unless `spoolfs archive` asks for it.
    pub off: bool,
    /// Bytes a second; nothing: no limit.
    pub bytes_per_second: Option<u64>,
    /// Until when that is so; nothing: always.
    #[serde(with = "utc::option", default)]
    pub until: Option<Timestamp>,
    /// When uploads go on, if they are off.
    #[serde(with = "utc::option", default)]
    pub opens_at: Option<Timestamp>,
}

/// A recording that waits.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Waiting {
    /// Which.
    pub path: WirePath,
    /// Its last close.
    #[serde(with = "utc")]
    pub since: Timestamp,
}

/// The latest error.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LastError {
    /// The recording.
    pub path: WirePath,
    /// What happened, in a sentence.
    pub error: String,
    /// When.
    #[serde(with = "utc")]
    pub at: Timestamp,
    /// When it is tried again.
    #[serde(with = "utc::option", default)]
    pub next_try: Option<Timestamp>,
}

/// How a target was last found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TargetState {
    /// It answered.
    Reachable,
    /// It did not answer.
    Unreachable,
    /// It answered that we may not, or it is another archive's.
    Refused,
    /// It was not asked yet.
    Unknown,
}

impl TargetState {
    /// The word shown.
    pub fn word(self) -> &'static str {
        match self {
            TargetState::Reachable => "reachable",
            TargetState::Unreachable => "unreachable",
            TargetState::Refused => "refused",
            TargetState::Unknown => "not asked yet",
        }
    }
}

/// One target.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TargetReport {
    /// Its name.
    pub name: String,
    /// Where it is.
    pub url: String,
    /// Whether it must hold a recording before that is released.
    pub required: bool,
    /// How it was last found.
    pub state: TargetState,
    /// Its last words, if they were bad ones.
    pub detail: Option<String>,
    /// When it last did as asked.
    #[serde(with = "utc::option", default)]
    pub last_ok: Option<Timestamp>,
    /// When the newest snapshot of the catalog was taken that it holds, or was still right.
    #[serde(with = "utc::option", default)]
    pub last_snapshot: Option<Timestamp>,
    /// Its length; nothing if that is not known.
    #[serde(default)]
    pub snapshot_bytes: Option<u64>,
}

/// The cache.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CacheUse {
    /// Bytes in it.
    pub used: u64,
    /// Its bound.
    pub max: u64,
}

/// A disk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiskUse {
    /// Bytes free now.
    pub free: u64,
    /// Bytes in all.
    pub size: u64,
    /// The fuller of bytes and inodes, as `df` shows it.
    #[serde(default)]
    pub used_percent: u8,
    /// Whether it is too full.
    #[serde(default)]
    pub pressure: DiskPressure,
}

/// Whether a disk is too full.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DiskPressure {
    /// There is room.
    #[default]
    None,
    /// It was above its high mark: local copies are released early.
    High,
    /// The same, and nothing is left to release.
    Stuck,
}

/// `status PATH` and `explain PATH`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PathReport {
    /// Which.
    pub path: WirePath,
    /// Where it stands.
    pub state: State,
    /// Length in bytes.
    pub size: u64,
    /// Whether its bytes are on the local disk.
    pub local: bool,
    /// Distinct closed contents so far.
    pub generation: Generation,
    /// Digest of the present generation, once known.
    pub sha256: Option<Sha256>,
    /// The objects of the present generation.
    pub objects: Vec<ObjectReport>,
    /// Last change of content.
    #[serde(with = "utc")]
    pub modified_at: Timestamp,
    /// Last close.
    #[serde(with = "utc::option", default)]
    pub closed_at: Option<Timestamp>,
    /// When it was verified in every required target.
    #[serde(with = "utc::option", default)]
    pub archived_at: Option<Timestamp>,
    /// When it was last brought back.
    #[serde(with = "utc::option", default)]
    pub recalled_at: Option<Timestamp>,
    /// When it is to be archived.
    #[serde(with = "utc::option", default)]
    pub archive_due: Option<Timestamp>,
    /// When its local copy is to be released.
    #[serde(with = "utc::option", default)]
    pub release_due: Option<Timestamp>,
    /// When it expires.
    #[serde(with = "utc::option", default)]
    pub expire_due: Option<Timestamp>,
    /// The name of its rule, or of all that it could be; nothing where there are no rules.
    #[serde(default)]
    pub rule: Option<String>,
    /// Names of the targets that must hold it before its local copy may be released.
    #[serde(default)]
    pub must: Vec<String>,
    /// The cases whose legal holds are on it.
    #[serde(default)]
    pub holds: Vec<String>,
    /// Why it is not archived, or why it is still local: each a sentence, the decisive one first.
    pub reasons: Vec<String>,
    /// The latest error with it.
    pub last_error: Option<LastError>,
}

/// Some files.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileSum {
    /// How many.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
}

/// What one rule would do.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RulePlan {
    /// Its name, or those of all that it could be.
    pub rule: String,
    /// Files archived.
    pub archive: FileSum,
    /// Files whose local copies are removed.
    pub release: FileSum,
    /// Files deleted everywhere.
    pub expire: FileSum,
    /// Files that would be, if no legal hold kept them.
    pub held: FileSum,
}

/// What a target costs in a month for what the rules leave in it, by its `price_per_gb_month`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TargetCost {
    /// Its name.
    pub target: String,
    /// Bytes that stay.
    pub bytes: u64,
    /// What these cost in a month.
    pub monthly: Money,
    /// Bytes of what expires.
    pub expired: u64,
    /// What these cost in a month.
    pub saved: Money,
}

/// What the rules would do.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlanReport {
    /// Until then.
    #[serde(with = "utc")]
    pub at: Timestamp,
    /// By rule; rules that do nothing are not among them.
    pub rules: Vec<RulePlan>,
    /// All of them together.
    pub total: RulePlan,
    /// Files that there are now.
    pub files: u64,
    /// Of which so many may expire in a day.
    pub max_delete_per_day: u64,
    /// The rules in force expire others, or at other times.
    pub others: bool,
    /// Why nothing expires now, by the rules in force.
    pub halted: Option<String>,
    /// Targets that have a price, and what they cost.
    #[serde(default)]
    pub costs: Vec<TargetCost>,
    /// Targets that can not do what the rules ask for, and why: whole sentences.
    #[serde(default)]
    pub notes: Vec<String>,
}

/// What `retention run` deleted.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RetentionReport {
    /// Files deleted.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Files that are due and stay for now.
    pub kept: u64,
    /// Deleted files of which some target still has an object.
    pub left: u64,
    /// Why one of them stays, or is left.
    pub why: Option<String>,
    /// Why nothing more is deleted.
    pub halted: Option<String>,
}

/// One object.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ObjectReport {
    /// Name of the target.
    pub target: String,
    /// Its full key.
    pub key: String,
    /// Its address for people.
    pub url: String,
    /// When it was verified; unknown: not yet.
    #[serde(with = "utc::option", default)]
    pub verified_at: Option<Timestamp>,
}

/// `audit erase`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct EraseReport {
    /// How many texts were erased, or would be.
    pub count: u64,
    /// With `--dry-run`: which.
    pub texts: Vec<String>,
    /// Nothing was erased.
    pub dry_run: bool,
}

/// `url`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UrlReport {
    /// The recording.
    pub path: WirePath,
    /// The target that has the object.
    pub target: String,
    /// The object's full key.
    pub key: String,
    /// The address.
    pub url: String,
    /// When it stops to be valid; none: whoever can reach the target can read it, without end.
    #[serde(with = "utc::option", default)]
    pub expires_at: Option<Timestamp>,
    /// The generation that it gives.
    pub generation: Generation,
    /// Its digest.
    pub sha256: Sha256,
}

/// `archive`, `release` and `recall`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MoveReport {
    /// Files moved.
    pub done: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Files that needed nothing or may not be moved now, and why.
    pub skipped: Vec<PathFailure>,
    /// Files that could not be moved, and why.
    pub failed: Vec<PathFailure>,
    /// More of the former than are listed.
    #[serde(default)]
    pub more_skipped: u64,
    /// More of the latter than are listed.
    #[serde(default)]
    pub more_failed: u64,
}

impl MoveReport {
    /// Adds a file that was skipped, or counts it if there are too many to list: the client reads
    /// an answer up to a limit.
    pub fn skip(&mut self, failure: PathFailure) {
        if self.skipped.len() < limits::REPORT_PATHS_MAX {
            self.skipped.push(failure);
        } else {
            self.more_skipped += 1;
        }
    }

    /// The same for one that failed.
    pub fn fail(&mut self, failure: PathFailure) {
        if self.failed.len() < limits::REPORT_PATHS_MAX {
            self.failed.push(failure);
        } else {
            self.more_failed += 1;
        }
    }

    /// How many were skipped.
    pub fn skips(&self) -> u64 {
        self.skipped.len() as u64 + self.more_skipped
    }

    /// How many failed.
    pub fn failures(&self) -> u64 {
        self.failed.len() as u64 + self.more_failed
    }
}

/// `recompress` and `reseal`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecompressReport {
    /// Nothing was done: this is what would be.
    pub plan: bool,
    /// What became of each recording.
    #[serde(flatten)]
    pub moved: MoveReport,
    /// Bytes that the targets had of those that were stored anew.
    pub bytes_before: u64,
    /// Bytes that they have of them without the old objects; of a plan an estimate.
    pub bytes_after: u64,
    /// Of the skipped ones those on legal hold.
    pub held: u64,
    /// Of the skipped ones those that a target has locked.
    pub locked: u64,
}

/// `reload`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReloadReport {
    /// Keys that changed but take effect only at the next start.
    pub needs_restart: Vec<String>,
    /// What is legal but probably not meant.
    pub warnings: Vec<String>,
    /// What will now happen to a recording closed now, in words.
    pub next_recording: String,
}
