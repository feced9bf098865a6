//! What integration tests share: `mod support;`.
#![allow(dead_code)]

pub mod seaweedfs;
pub mod sloppy;
