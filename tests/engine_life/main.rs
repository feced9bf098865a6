//! The engine with its real parts: catalog, lower directory and content, targets in memory. Needs
//! root, as the daemon does.

#![allow(clippy::unwrap_used)]

#[path = "../support/mod.rs"]
mod support;

mod archive;
mod audit;
mod decade;
mod expiry;
mod faults;
mod flac;
mod fsck;
mod headers;
mod hidden;
mod holds;
mod joins;
mod locks;
mod outage;
mod panics;
mod pins;
mod policy;
mod rebuild;
mod reconcile;
mod release;
mod restart;
mod rewrite;
mod scrub;
mod sealed;
mod snapshots;
mod space;
mod sync;
mod trash;
mod trash_expiry;
mod world;
mod worm;
