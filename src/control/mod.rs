//! The control socket: how the commands speak to the daemon. One JSON document a line.
//!
//! **Invariant:** only root and the daemon's own user are answered, and nobody can make the
//! daemon hold more than a bounded number of connections and bytes.

mod calls;
mod client;
mod holds;
pub mod metrics;
mod peer;
mod protocol;
mod report;
mod server;
mod trash;
pub mod utc;
mod words;

pub use calls::{
    CallReport, CallsReport, CallsSource, FindQuery, FindReport, FoundReport, GapsReport,
    LegReport, MissingReport, UncoveredReport,
};
pub use client::{Client, ClientError};
pub use holds::{
    GenerationReport, HeldReport, HoldAddReport, HoldLiftReport, HoldListReport, HoldReport,
    HoldRequest, HoldShowReport, HoldShown, HoldsReport, LiftAskedReport, LiftedReport, LockReport,
};
pub use peer::Peer;
pub use protocol::{
    Failure, PROTOCOL, PathFailure, Progress, Request, Response, VersionReport, WirePath,
};
pub use report::{
    Backlog, CacheUse, Counters, DiskPressure, DiskUse, DrainReport, EraseReport, FileSum,
    JoinsReport, LastError, LinkReport, MoveReport, ObjectReport, PathReport, PlanReport,
    RecompressReport, ReloadReport, RetentionReport, RulePlan, StateCount, StatusReport,
    TargetCost, TargetReport, TargetState, TrashCount, UploadsReport, UrlReport, Waiting,
};
pub use server::{Handler, Server, ServerError};
pub use trash::{TrashItem, TrashReport, TrashRequest, TrashedReport};
pub use words::{TargetName, next_recording};
