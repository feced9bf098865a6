//! spoolfs: a file system mounted over an Asterisk PBX's recordings directory.
//!
//! docs/ARCHITECTURE.md is the map. Imports point down only; `tests/architecture.rs` enforces it.

#![cfg_attr(not(test), deny(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

pub mod cli;
pub mod daemon;

pub mod config;
pub mod control;
pub mod fuse;

pub mod engine;
pub mod fsck;
pub mod fscrypt;
pub mod rebuild;
pub mod vfs;

pub mod stitch;

pub mod content;

pub mod audit;
pub mod calls;
pub mod catalog;
pub mod lower;
pub mod store;

pub mod codec;
pub mod policy;

pub mod clock;
pub mod faults;
pub mod limits;
pub mod private_file;
pub mod recording;
pub mod sys;
pub mod telemetry;
pub mod units;
