//! `spoolfs pin`.

use super::{Exit, moves};
use crate::control::Request;

pub(super) const EXAMPLES: &str = "Examples:
  spoolfs pin /var/spool/asterisk/monitor/2026/10/21
  spoolfs pin call.wav

A pinned recording is brought back and never released, whatever keep_local and the disk say, until
`spoolfs unpin`. Of a directory it pins what is below now.";

pub(super) fn run(arguments: &moves::Arguments) -> Result<(), Exit> {
    moves::run(arguments, "pinned", |paths| Request::Pin { paths })
}
