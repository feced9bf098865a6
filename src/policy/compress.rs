//! How recordings are stored smaller.

use crate::units::Percent;

/// How recordings are stored smaller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compress {
    /// PCM as FLAC.
    Flac {
        /// Of what does not become smaller by this share of its length the original is stored.
        min_gain: Percent,
    },
}
