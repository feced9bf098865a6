//! `spoolfs recall`.

use super::{Exit, moves};
use crate::control::Request;

pub(super) const EXAMPLES: &str = "Examples:
  spoolfs recall /var/spool/asterisk/monitor/2026/10/21
  spoolfs recall --json call.wav

A recalled recording stays local for keep_local again.";

pub(super) fn run(arguments: &moves::Arguments) -> Result<(), Exit> {
    moves::run(arguments, "recalled", |paths| Request::Recall { paths })
}
