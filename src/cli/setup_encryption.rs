//! `spoolfs setup-encryption`.

use super::context::{Common, Context};
use super::{Exit, output};
use crate::clock::{Clock, SystemClock};
use crate::config::{Config, beneath};
use crate::control::{Progress, WirePath};
use crate::fscrypt::{Holds, LocalKey, Move, Place, SetupError, Stage};
use crate::units::humane_size;
use rustix::fs::FlockOperation;
use serde::Serialize;
use std::cell::RefCell;
use std::fs::{DirBuilder, File, OpenOptions};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

pub(super) const EXAMPLES: &str = "Examples:
  spoolfs setup-encryption
  spoolfs setup-encryption --make-key --yes
  spoolfs setup-encryption --config /etc/spoolfs/monitor.toml --yes

With spoolfs stopped, as root, and best with no call being recorded: what is being written is waited
for. State, cache and recordings directory are each copied into an encrypted directory beside them,
compared, and exchanged with it in one step; then what was there before is overwritten and removed.
It can be broken off at any time and begun again. Without --yes it only says what it would do.

WITHOUT THE KEY NOTHING CAN BE READ AGAIN, AND NOTHING RECORDED: keep a copy of its file elsewhere.";

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    pub common: Common,
    /// Only say what would be done
    #[arg(long, conflicts_with = "yes")]
    plan: bool,
    /// Do it
    #[arg(long)]
    yes: bool,
    /// Make the key in the configured local_key_file, unless it is there
    #[arg(long)]
    make_key: bool,
}

/// One directory.
#[derive(Debug, Serialize)]
struct Directory {
    path: WirePath,
    /// "plain", "copying", "exchanged" or "encrypted".
    stage: &'static str,
    /// What is to be copied.
    files: u64,
    bytes: u64,
    /// Why it can not be done.
    #[serde(skip_serializing_if = "Option::is_none")]
    problem: Option<String>,
}

/// What `--json` prints.
#[derive(Debug, Serialize)]
struct Report {
    /// Nothing was done.
    plan: bool,
    /// All directories are encrypted.
    encrypted: bool,
    directories: Vec<Directory>,
}

pub(super) fn run(arguments: &Arguments) -> Result<(), Exit> {
    let context = Context::load(&arguments.common)?;
    let config = &context.config;
    if !rustix::process::geteuid().is_root() {
        return Err(Exit::failed("run it as root"));
    }
    let mounted = crate::fuse::own_mounts_at(&config.mountpoint);
    if mounted.map_err(|e| Exit::failed(e.to_string()))? > 0 {
        return Err(Exit::failed(format!(
            "{} is mounted: stop spoolfs first (systemctl stop spoolfs@...), best with no call being \
             recorded",
            config.mountpoint.display()
        )));
    }
    let directories = directories(config);
    if arguments.yes {
        encrypt(&context, arguments.make_key, &directories)?;
    }
    let directories: Vec<Directory> = directories.iter().map(|path| look(path)).collect();
    let encrypted = directories.iter().all(|d| d.stage == "encrypted");
    let wrong = directories.iter().any(|d| d.problem.is_some());
    let report = Report { plan: !arguments.yes, encrypted, directories };
    if context.json {
        output::json(&report);
    } else {
        output::text(&words(&report, config));
    }
    if wrong { Err(Exit::Shown) } else { Ok(()) }
}

/// The smallest first: what is wrong is noticed soon.
fn directories(config: &Config) -> Vec<PathBuf> {
    let mut all = vec![config.state_dir.clone()];
    if !beneath(&config.cache.dir, &config.state_dir) {
        all.push(config.cache.dir.clone());
    }
    all.push(config.mountpoint.clone());
    all
}

fn look(path: &Path) -> Directory {
    let mut directory = Directory {
        path: path.to_owned().into(),
        stage: "plain",
        files: 0,
        bytes: 0,
        problem: None,
    };
    if let Err(error) = look_into(path, &mut directory) {
        directory.problem = Some(error.to_string());
    }
    directory
}

fn look_into(path: &Path, directory: &mut Directory) -> Result<(), SetupError> {
    // It is made before it is encrypted.
    let there = path.exists();
    let at = if there { Move::of(path)? } else { return Ok(()) };
    let stage = at.stage()?;
    directory.stage = match stage {
        Stage::Plain => "plain",
        Stage::Copying => "copying",
        Stage::Exchanged => "exchanged",
        Stage::Done => "encrypted",
    };
    if matches!(stage, Stage::Plain | Stage::Copying) {
        let Holds { files, bytes } = at.holds()?;
        (directory.files, directory.bytes) = (files, bytes);
        at.check(Holds { files, bytes })?;
    }
    Ok(())
}

fn encrypt(context: &Context, make_key: bool, directories: &[PathBuf]) -> Result<(), Exit> {
    let config = &context.config;
    let failed = |error: SetupError| Exit::failed(error.to_string());
    for path in directories.iter().filter(|path| **path != config.mountpoint) {
        let made = DirBuilder::new().recursive(true).mode(0o700).create(path);
        made.map_err(|e| Exit::failed(format!("{}: {e}", path.display())))?;
    }
    // After a restart of the machine what is moved already is locked.
    for path in directories {
        Place::at("the directory", path)
            .and_then(|place| place.unlock(config.encryption.key_file.as_deref()))
            .map_err(|refused| Exit::failed(refused.to_string()))?;
    }
    let _nobody_starts = lock(&config.state_dir).map_err(failed)?;
    let mut work = Vec::new();
    for path in directories {
        let at = Move::of(path).map_err(failed)?;
        match at.stage().map_err(failed)? {
            Stage::Done => continue,
            // All of them, before anything is done.
            Stage::Plain | Stage::Copying => {
                at.holds().and_then(|holds| at.check(holds)).map_err(failed)?;
            }
            Stage::Exchanged => {}
        }
        work.push((at, path));
    }
    if work.is_empty() {
        return Ok(());
    }
    let key = key(config, make_key)?;
    let line = RefCell::new(output::ProgressLine::new("", context.json));
    let tell = |doing: &str, path: &Path| {
        let current = PathBuf::from(format!("{doing} {}", path.display()));
        let progress = Progress { current: Some(current.into()), ..Progress::default() };
        line.borrow_mut().show(&progress);
    };
    for (at, path) in work {
        let state = *path == config.state_dir;
        let mut keep_out = |new: &Path| if state { lock(new).map(Some) } else { Ok(None) };
        let done = at.run(&key, &|| SystemClock.now(), &mut keep_out, &tell);
        line.borrow_mut().clear();
        done.map_err(failed)?;
    }
    Ok(())
}

/// As a daemon does it, but without writing to it: writers are waited for.
fn lock(state_dir: &Path) -> Result<File, SetupError> {
    let path = state_dir.join("lock");
    let io = |source| SetupError::Io { path: path.clone(), source };
    if !path.exists() {
        OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&path)
            .map_err(io)?;
    }
    let file = File::open(&path).map_err(io)?;
    rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive).map_err(|_| {
        SetupError::Unfit(format!(
            "{} is in use by another spoolfs: stop it first",
            state_dir.display()
        ))
    })?;
    Ok(file)
}

fn key(config: &Config, make: bool) -> Result<LocalKey, Exit> {
    let file = config.encryption.key_file.as_deref();
    match file {
        Some(path) if make && !path.exists() => {
            let made = LocalKey::make(path);
            let made =
                made.map_err(|e| Exit::failed(format!("{} can not be made: {e}", path.display())))?;
            output::note(&format!(
                "{} is the key: keep a copy of it elsewhere. Without it nothing can be read again, and \
                 nothing recorded.\n",
                path.display()
            ));
            return Ok(made);
        }
        None if make => {
            return Err(Exit::Usage(
                "set local_key_file in [encryption] to where the key is to be".into(),
            ));
        }
        _ => {}
    }
    match LocalKey::configured(file) {
        Ok(Some(key)) => Ok(key),
        Ok(None) => Err(Exit::failed(
            "there is no key: set local_key_file in [encryption], and run it with --make-key",
        )),
        Err(why) => Err(Exit::failed(format!("{why}; --make-key makes one where none is"))),
    }
}

fn words(report: &Report, config: &Config) -> String {
    let mut text = String::new();
    for directory in &report.directories {
        let path = directory.path.0.display();
        let (files, size) = (output::files(directory.files), humane_size(directory.bytes));
        text.push_str(&match directory.stage {
            "encrypted" => format!("{path}: encrypted\n"),
            "exchanged" => format!("{path}: encrypted; what was there before is to be removed\n"),
            "copying" => format!("{path}: begun; {files}, {size}\n"),
            _ => format!("{path}: to be encrypted; {files}, {size}\n"),
        });
        if let Some(problem) = &directory.problem {
            text.push_str(&format!("  {problem}\n"));
        }
    }
    if report.encrypted {
        if !config.encryption.required {
            text.push_str(
                "Set require_local_encryption = true in [encryption], so that spoolfs does not start \
                 when they are not.\n",
            );
        }
    } else if report.plan {
        text.push_str("Nothing was changed. To do it, run it again with --yes.\n");
    }
    text
}
