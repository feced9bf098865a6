//! `spoolfs unpin`.

use super::{Exit, moves};
use crate::control::Request;

pub(super) const EXAMPLES: &str = "Examples:
  spoolfs unpin /var/spool/asterisk/monitor/2026/10/21

Its local copy is released when its time comes, as that of every other recording.";

pub(super) fn run(arguments: &moves::Arguments) -> Result<(), Exit> {
    moves::run(arguments, "unpinned", |paths| Request::Unpin { paths })
}
