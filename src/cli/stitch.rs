//! `spoolfs stitch`.

use super::context::Common;
use super::{Context, Exit, output};
use crate::stitch::file_name;
use crate::units::humane_size;
use std::fs::File;
use std::io::{self, Write};
use std::path::PathBuf;

pub(super) const EXAMPLES: &str = "Examples:
  spoolfs stitch 1795228029.4 -o call.wav
  spoolfs stitch 1795228029.4 -o - | play -

The same bytes as in the directory of joined calls, also where that is not listed.";

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    pub common: Common,
    /// The call, as call records name it
    #[arg(value_name = "LINKEDID")]
    linkedid: String,
    /// Where to write the joined call; "-": standard output
    #[arg(short, long, value_name = "FILE")]
    output: PathBuf,
}

pub(super) fn run(arguments: &Arguments) -> Result<(), Exit> {
    let context = Context::load(&arguments.common)?;
    let stitched = &context.config.stitched;
    if !stitched.enabled {
        return Err(Exit::Usage("calls are not joined: set stitched.enabled".to_owned()));
    }
    let directory = context.config.mountpoint.join(&stitched.directory);
    let name = file_name(arguments.linkedid.as_bytes());
    let mut call = File::open(directory.join(&name)).map_err(|e| match e.kind() {
        io::ErrorKind::NotFound => Exit::failed(format!(
            "there is no recording of a call {:?} in {}; is spoolfs running, and does it know the \
             call records? \"spoolfs status\" tells",
            arguments.linkedid,
            directory.display()
        )),
        _ => Exit::failed(format!("{}: {e}", directory.join(&name).display())),
    })?;
    let failed = |e: io::Error| Exit::failed(format!("{}: {e}", arguments.output.display()));
    if arguments.output.as_os_str() == "-" {
        let mut out = io::stdout().lock();
        io::copy(&mut call, &mut out).and_then(|_| out.flush()).map_err(failed)?;
        return Ok(());
    }
    let mut out = File::create(&arguments.output).map_err(failed)?;
    let bytes = io::copy(&mut call, &mut out).map_err(failed)?;
    if context.json {
        output::json(&serde_json::json!({ "bytes": bytes }));
    } else {
        let written = arguments.output.display();
        output::text(&format!("{written}: {}\n", humane_size(bytes)));
    }
    Ok(())
}
