//! `spoolfs archive`.

use super::{Exit, moves};
use crate::control::Request;

pub(super) const EXAMPLES: &str = "Examples:
  spoolfs archive /var/spool/asterisk/monitor/2026/11/21
  spoolfs archive --json call.wav

A recording that is still being written is skipped.";

pub(super) fn run(arguments: &moves::Arguments) -> Result<(), Exit> {
    moves::run(arguments, "archived", |paths| Request::Archive { paths })
}
