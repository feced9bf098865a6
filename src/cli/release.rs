//! `spoolfs release`.

use super::{Exit, moves};
use crate::control::Request;

pub(super) const EXAMPLES: &str = "Examples:
  spoolfs release /var/spool/asterisk/monitor/2026/10
  spoolfs release --json call.wav

Nothing is released that is not verified in every required target.";

pub(super) fn run(arguments: &moves::Arguments) -> Result<(), Exit> {
    moves::run(arguments, "released", |paths| Request::Release { paths })
}
