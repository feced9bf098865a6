//! `[stitched]`: joined calls.

use super::error::ConfigError;
use super::raw::RawStitched;
use super::source::Source;
use crate::stitch::{Layout, Rate};
use std::path::PathBuf;

/// `[stitched]`: the legs of a call as one file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stitched {
    /// Whether there are joined calls.
    pub enabled: bool,
    /// Their directory, relative to the mount. What is above it is a directory of recordings.
    pub directory: PathBuf,
    /// Whether the root's listing has it.
    pub listed: bool,
    /// How legs become one.
    pub layout: Layout,
    /// The rate of a join whose legs have several, or must be decoded.
    pub rate: Rate,
    /// Whether a join of more than 4 GiB is RF64; otherwise it can not be opened.
    pub riff64: bool,
    /// Whether joins of calls that are over are stored in the targets.
    pub archive: bool,
    /// Whether they keep what a recording said that has expired, while another of the call is kept.
    pub keep_expired: bool,
}

/// Rates that a join can be given, in samples a second.
const RATES: [u32; 6] = [8_000, 12_000, 16_000, 24_000, 32_000, 48_000];

pub(super) fn resolve(
    raw: &RawStitched,
    preset: Option<&str>,
    source: &Source,
) -> Result<Stitched, ConfigError> {
    let directory = raw.directory.clone().unwrap_or_else(|| "stitched".to_owned());
    for name in directory.split('/') {
        super::check::word(source, "stitched.directory", name)?;
    }
    let layout = match raw.layout.as_deref() {
        None | Some("concat") => Layout::Concat,
        Some("timeline") => Layout::Timeline,
        Some("stereo") => Layout::Stereo,
        Some(other) => {
            let message = format_args!("{other:?} is no layout");
            let cure = "write \"concat\", \"timeline\" or \"stereo\"";
            return Err(source.fault("stitched.layout", message, cure));
        }
    };
    let rate = match raw.rate.as_deref() {
        None => Rate::default(),
        Some("highest") => Rate::Highest,
        Some(text) => match text.parse().ok().filter(|rate| RATES.contains(rate)) {
            Some(rate) => Rate::Fixed(rate),
            None => {
                let message = format_args!("{text:?} is no rate");
                let cure = "write \"highest\", \"8000\" (which is all that Asterisk plays as .wav), \
                            \"12000\", \"16000\", \"24000\", \"32000\" or \"48000\"";
                return Err(source.fault("stitched.rate", message, cure));
            }
        },
    };
    Ok(Stitched {
        enabled: raw.enabled.unwrap_or(true),
        directory: directory.into(),
        // VICIdial's scripts move directories of long names out of the one they look through.
        listed: raw.listed.unwrap_or(preset != Some("vicidial")),
        layout,
        rate,
        riff64: raw.riff64.unwrap_or(true),
        archive: raw.archive.unwrap_or(false),
        keep_expired: raw.keep_expired.unwrap_or(false),
    })
}
