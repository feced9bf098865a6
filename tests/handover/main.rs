//! The daemon dies, is killed or replaced, and nobody who uses the file system notices: `spoolfs
//! keeper` stands for the service manager.

#[path = "../support/mod.rs"]
mod support;

mod clients;
mod edges;
mod listing;
mod relay;
mod storm;
mod takeover;
#[cfg(feature = "faults")]
mod twice;
mod upgrade;
