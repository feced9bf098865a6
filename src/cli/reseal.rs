//! `spoolfs reseal`.

use super::context::Common;
use super::{Context, Exit, recompress};
use crate::codec::seal::Recipients;
use crate::control::{Request, WirePath};
use std::path::PathBuf;

pub(super) const EXAMPLES: &str = "Examples:
  spoolfs reseal --add age1... --remove age1... --plan
  spoolfs reseal --add age1... --remove 'ssh-ed25519 AAAA...'
  spoolfs reseal --json /var/spool/asterisk/monitor/2024

Seals archived recordings anew, to the keys that encrypt_to of [write_back] or of their rule names now, and
for the first time what was archived before it did. So change encrypt_to, `spoolfs reload`, and then this: --add
and --remove are keys of which encrypt_to must have the former and must not have the latter. What is
sealed is opened for it, with identity_file or identity_command, unless there is a local copy. Each is
opened again and compared, put into every target that has it under a new key, and verified there; then the
old object goes, an hour later at the earliest. Broken off, it goes on where it was when it is given again. What is
on legal hold or locked in a target stays as it is. --plan only counts.";

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    pub common: Common,
    /// Recordings, or directories with all that is below them; everything, unless given
    #[arg(value_name = "PATH")]
    paths: Vec<PathBuf>,
    /// A public key that encrypt_to has now
    #[arg(long, value_name = "RECIPIENT")]
    add: Vec<String>,
    /// A public key that encrypt_to has no more
    #[arg(long, value_name = "RECIPIENT")]
    remove: Vec<String>,
    /// Only tell how many there are
    #[arg(long)]
    plan: bool,
}

pub(super) fn run(arguments: &Arguments) -> Result<(), Exit> {
    for (option, keys) in [("--add", &arguments.add), ("--remove", &arguments.remove)] {
        Recipients::parse(keys).map_err(|error| {
            Exit::Usage(format!("{option} {error}; write a public key, such as age1..."))
        })?;
    }
    let context = Context::load(&arguments.common)?;
    let mut paths = context.all_relative(&arguments.paths)?;
    if paths.is_empty() {
        paths.push(WirePath(PathBuf::new()));
    }
    let (add, remove) = (arguments.add.clone(), arguments.remove.clone());
    recompress::ask(&context, &Request::Reseal { paths, plan: arguments.plan, add, remove })
}
