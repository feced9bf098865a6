//! The command line: one file per command.
//!
//! **Invariant:** exit 0 done, 1 tried and failed, 2 asked for wrongly (arguments, configuration,
//! a path outside the mount) with nothing tried. With `--json` standard output carries exactly
//! one JSON document, also for a failure.

mod archive;
mod audit;
mod bypass;
mod check;
mod context;
mod explain;
mod find;
mod fsck;
mod gaps;
mod hold;
mod import;
mod keeper;
mod mount;
mod mounts;
mod moves;
mod output;
mod path_report;
mod pin;
mod rebuild;
mod recall;
mod recompress;
mod release;
mod reload;
mod reseal;
mod retention;
mod setup_encryption;
mod status;
mod stitch;
mod trash;
mod unpin;
mod url;
mod verify;

pub use check::{Finding, Outcome};

use clap::{Parser, Subcommand};
use context::{Context, Exit};
use std::process::ExitCode;

/// A file system over a PBX's recordings directory that archives to object storage.
#[derive(Debug, Parser)]
#[command(
    name = "spoolfs",
    version,
    about,
    subcommand_required = true,
    arg_required_else_help = true,
    after_help = "Begin with:\n  spoolfs check\n  spoolfs mount --config /etc/spoolfs/spoolfs.toml"
)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Mount over the recordings directory and serve until stopped.
    #[command(after_help = mount::EXAMPLES)]
    Mount(mount::Arguments),
    /// Show how things stand: all, or one recording.
    #[command(after_help = status::EXAMPLES)]
    Status(status::Arguments),
    /// Archive closed recordings now, without waiting for archive_after.
    #[command(after_help = archive::EXAMPLES)]
    Archive(moves::Arguments),
    /// Release the local copies of archived recordings now, without waiting for keep_local.
    #[command(after_help = release::EXAMPLES)]
    Release(moves::Arguments),
    /// Bring released recordings back to the local disk.
    #[command(after_help = recall::EXAMPLES)]
    Recall(recall::Arguments),
    /// Bring recordings back and never release them.
    #[command(after_help = pin::EXAMPLES)]
    Pin(moves::Arguments),
    /// Let pinned recordings be released again.
    #[command(after_help = unpin::EXAMPLES)]
    Unpin(moves::Arguments),
    /// Read archived copies and compare their hashes.
    #[command(after_help = verify::EXAMPLES)]
    Verify(verify::Arguments),
    /// Store archived recordings as FLAC, where the rules say so now.
    #[command(after_help = recompress::EXAMPLES)]
    Recompress(recompress::Arguments),
    /// Seal archived recordings to the keys that encrypt_to names now.
    #[command(after_help = reseal::EXAMPLES)]
    Reseal(reseal::Arguments),
    /// Print an address that others can read an archived recording by, for a while.
    #[command(after_help = url::EXAMPLES)]
    Url(url::Arguments),
    /// Say why a recording is where it is.
    #[command(after_help = explain::EXAMPLES)]
    Explain(explain::Arguments),
    /// Write the joined recordings of a call to a file.
    #[command(after_help = stitch::EXAMPLES)]
    Stitch(stitch::Arguments),
    /// Find recordings, or calls, by where and when they are and what the PBX knows of them.
    #[command(after_help = find::EXAMPLES)]
    Find(find::Arguments),
    /// Show answered calls without a recording, and recordings without a call.
    #[command(after_help = gaps::EXAMPLES)]
    Gaps(gaps::Arguments),
    /// Bring recordings that lie elsewhere under the mount.
    #[command(after_help = import::EXAMPLES)]
    Import(import::Arguments),
    /// Put recordings on legal hold, so that they can not be changed or deleted; show and lift holds.
    #[command(after_help = hold::EXAMPLES)]
    Hold(hold::Arguments),
    /// Try everything a mount needs, and say how to mend what is missing.
    #[command(after_help = check::EXAMPLES)]
    Check(check::Arguments),
    /// Show what was deleted and is kept, and bring it back.
    #[command(after_help = trash::EXAMPLES, subcommand_required = true, arg_required_else_help = true)]
    Trash(trash::Arguments),
    /// Check, with spoolfs stopped, that directory, catalog, journal and targets agree.
    #[command(after_help = fsck::EXAMPLES)]
    Fsck(fsck::Arguments),
    /// Make the catalog anew from the directory and the targets.
    #[command(after_help = rebuild::EXAMPLES)]
    Rebuild(rebuild::Arguments),
    /// Check, show and erase what is on record: who did what to which recording.
    #[command(after_help = audit::EXAMPLES)]
    Audit(audit::Arguments),
    /// Delete what the rules let expire.
    #[command(after_help = retention::EXAMPLES)]
    Retention(retention::Arguments),
    /// Encrypt recordings, state and cache on the local disk, and move what is there in.
    #[command(after_help = setup_encryption::EXAMPLES)]
    SetupEncryption(setup_encryption::Arguments),
    /// Make the running spoolfs read its configuration again.
    #[command(after_help = reload::EXAMPLES)]
    Reload(reload::Arguments),
    /// Take the mount away in an emergency, so that calls land in the plain directory.
    #[command(after_help = bypass::EXAMPLES)]
    Bypass(bypass::Arguments),
    /// Keep a daemon running, and what it needs to go on, where there is no systemd.
    #[command(after_help = keeper::EXAMPLES)]
    Keeper(keeper::Arguments),
    #[command(name = keeper::stage::NAME, hide = true)]
    KeeperStage(keeper::stage::Arguments),
}

impl Command {
    /// Whether the answer is wanted as one JSON document.
    fn json(&self) -> bool {
        let common = match self {
            Command::Mount(a) => &a.common,
            Command::Status(a) => &a.common,
            Command::Archive(a) | Command::Release(a) => &a.common,
            Command::Pin(a) | Command::Unpin(a) => &a.common,
            Command::Recall(a) => &a.common,
            Command::Recompress(a) => &a.common,
            Command::Reseal(a) => &a.common,
            Command::Url(a) => &a.common,
            Command::Explain(a) => &a.common,
            Command::Stitch(a) => &a.common,
            Command::Find(a) => &a.common,
            Command::Gaps(a) => &a.common,
            Command::Trash(a) => a.common(),
            Command::Import(a) => &a.common,
            Command::Hold(a) => a.common(),
            Command::Check(a) => &a.common,
            Command::Fsck(a) => &a.common,
            Command::Verify(a) => &a.common,
            Command::Rebuild(a) => &a.common,
            Command::Audit(a) => a.common(),
            Command::Retention(a) => a.common(),
            Command::SetupEncryption(a) => &a.common,
            Command::Reload(a) => &a.common,
            Command::Bypass(a) => &a.common,
            Command::Keeper(_) | Command::KeeperStage(_) => return false,
        };
        common.json
    }

    fn run(&self) -> Result<(), Exit> {
        match self {
            Command::Mount(a) => mount::run(a),
            Command::Status(a) => status::run(a),
            Command::Archive(a) => archive::run(a),
            Command::Release(a) => release::run(a),
            Command::Recall(a) => recall::run(a),
            Command::Pin(a) => pin::run(a),
            Command::Unpin(a) => unpin::run(a),
            Command::Recompress(a) => recompress::run(a),
            Command::Reseal(a) => reseal::run(a),
            Command::Url(a) => url::run(a),
            Command::Explain(a) => explain::run(a),
            Command::Stitch(a) => stitch::run(a),
            Command::Find(a) => find::run(a),
            Command::Gaps(a) => gaps::run(a),
            Command::Trash(a) => trash::run(a),
            Command::Import(a) => import::run(a),
            Command::Hold(a) => hold::run(a),
            Command::Check(a) => check::run(a),
            Command::Fsck(a) => fsck::run(a),
            Command::Verify(a) => verify::run(a),
            Command::Rebuild(a) => rebuild::run(a),
            Command::Audit(a) => audit::run(a),
            Command::Retention(a) => retention::run(a),
            Command::SetupEncryption(a) => setup_encryption::run(a),
            Command::Reload(a) => reload::run(a),
            Command::Bypass(a) => bypass::run(a),
            Command::Keeper(a) => keeper::run(a),
            Command::KeeperStage(a) => keeper::stage::run(a),
        }
    }
}

/// Runs the command given on the command line.
pub fn main() -> ExitCode {
    if let Err(e) = crate::sys::forbid_core_dumps() {
        eprintln!("spoolfs: a core dump of this process would have its keys: {e}");
    }
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(e) => {
            let _nobody_reads = e.print();
            return ExitCode::from(u8::try_from(e.exit_code()).unwrap_or(2));
        }
    };
    match arguments.command.run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(exit) => ExitCode::from(exit.show(arguments.command.json())),
    }
}
