//! The engine with its real parts: catalog, lower directory and content, targets in memory. Needs
//! root, as the daemon does.

#![allow(clippy::unwrap_used)]

mod archive;
mod panics;
mod reconcile;
mod release;
mod restart;
mod sync;
mod world;
