//! `spoolfs import`: recordings that lie elsewhere come under the mount.
//!
//! **Invariants:** nothing below the mount is ever overwritten. A file appears under its name whole
//! and verified, or not at all. A source is removed only with `--move`, after the archive was proved
//! to hold exactly its bytes.

mod copy;
mod moved;
mod room;
mod walk;

use super::context::{Common, Context, list};
use super::{Exit, output};
use crate::config;
use crate::control::{PathFailure, Progress, Request, WirePath};
use crate::limits;
use crate::units::humane_size;
use copy::{Copied, Copier};
use serde::Serialize;
use std::path::{Component, Path, PathBuf};
use walk::{Item, What};

pub(super) const EXAMPLES: &str = "Examples:
  spoolfs import /mnt/old-server/monitor
  spoolfs import --dry-run /mnt/old-server/monitor
  spoolfs import --to 2019/salvaged /home/me/a.wav
  spoolfs import --move /var/spool/asterisk/monitor.old

Files come under the same paths as they have below the directory that is named, with their times,
owner and mode, and are counted as adopted: adopt_keep_local applies to them. What is there already
with the same content is left as it is; with other content it is a failure. It can be broken off and
begun again at any time.";

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    pub common: Common,
    /// Directories with all that is below them, or files with their sidecars
    #[arg(required = true, value_name = "DIR|FILE")]
    sources: Vec<PathBuf>,
    /// A directory below the mount to import into
    #[arg(long, value_name = "PATH")]
    to: Option<PathBuf>,
    /// Only say what would be done
    #[arg(long)]
    dry_run: bool,
    /// Remove each source once its recording is archived and verified
    #[arg(long = "move")]
    moves: bool,
}

/// What was done.
#[derive(Debug, Default, Serialize)]
struct Report {
    /// Nothing was done.
    dry_run: bool,
    /// Files that were copied, or would be.
    copied: u64,
    /// Their bytes.
    bytes: u64,
    /// Files that were there already, with the same content.
    already: u64,
    /// Sources that were removed.
    moved: u64,
    /// Sources that stay because they are empty, and nothing empty is archived.
    kept_empty: u64,
    /// What could not be imported, by its source, and why.
    failed: Vec<PathFailure>,
    /// More of those than are listed.
    more_failed: u64,
}

impl Report {
    fn fail(&mut self, path: &Path, reason: impl Into<String>) {
        if self.failed.len() < limits::REPORT_PATHS_MAX {
            let (path, reason) = (path.to_owned().into(), reason.into());
            self.failed.push(PathFailure { path, reason });
        } else {
            self.more_failed += 1;
        }
    }
}

pub(super) fn run(arguments: &Arguments) -> Result<(), Exit> {
    let context = Context::load(&arguments.common)?;
    let to = below(&context, arguments.to.as_deref().unwrap_or(Path::new("")))?;
    let sources = sources(&context, &arguments.sources)?;
    if arguments.moves && !context.config.has_needed_target() {
        return Err(Exit::Usage(
            "--move removes what is archived, and no target is required".into(),
        ));
    }
    let mounted = crate::fuse::own_mounts_at(&context.config.mountpoint);
    if mounted.map_err(|e| Exit::Usage(e.to_string()))? == 0 {
        return Err(Exit::failed(format!(
            "{} is not mounted: start spoolfs first",
            context.config.mountpoint.display()
        )));
    }
    let mut report = Report { dry_run: arguments.dry_run, ..Report::default() };
    let items = walk::all(&sources, &to, &mut |path, reason| report.fail(path, reason));
    let mut import = Import::new(&context, items, report);
    import.copy()?;
    if arguments.moves && !arguments.dry_run {
        import.remove_sources()?;
    }
    let report = import.report;
    if context.json {
        output::json(&report);
    } else {
        output::text(&words(&report));
        output::note(&list("Failed", &report.failed, report.more_failed));
    }
    if report.failed.is_empty() { Ok(()) } else { Err(Exit::Shown) }
}

/// `--to`, relative to the mount.
fn below(context: &Context, to: &Path) -> Result<PathBuf, Exit> {
    if to.is_absolute() {
        return context.relative(to).map(|path| path.0);
    }
    let plain = |c: Component<'_>| matches!(c, Component::Normal(_) | Component::CurDir);
    if !to.components().all(plain) {
        return Err(Exit::Usage(format!("--to {}: give a path below the mount", to.display())));
    }
    Ok(to.components().filter(|c| matches!(c, Component::Normal(_))).collect())
}

/// The sources, resolved; none of them may have to do with the mount.
fn sources(context: &Context, given: &[PathBuf]) -> Result<Vec<PathBuf>, Exit> {
    let mount = config::resolve(&context.config.mountpoint);
    let mut all = Vec::new();
    for path in given {
        let real = std::fs::canonicalize(path)
            .map_err(|e| Exit::Usage(format!("{}: {e}", path.display())))?;
        if real.starts_with(&mount) || mount.starts_with(&real) {
            return Err(Exit::Usage(format!(
                "{} and the mount {} lie in each other: give a directory beside it",
                real.display(),
                mount.display()
            )));
        }
        all.push(real);
    }
    Ok(all)
}

struct Import<'a> {
    context: &'a Context,
    items: Vec<Item>,
    report: Report,
    /// Files that are there with the bytes of their source: their items.
    there: Vec<Copied>,
    room: room::Room,
    line: output::ProgressLine,
    progress: Progress,
}

impl<'a> Import<'a> {
    fn new(context: &'a Context, items: Vec<Item>, report: Report) -> Import<'a> {
        let files = || items.iter().filter(|item| item.what == What::File);
        let progress = Progress {
            total: files().count() as u64,
            bytes_total: files().map(|item| item.size).sum(),
            ..Progress::default()
        };
        let line = output::ProgressLine::new("imported", context.json);
        let (there, room) = (Vec::new(), room::Room::default());
        Import { context, items, report, there, room, line, progress }
    }

    fn copy(&mut self) -> Result<(), Exit> {
        let copier =
            Copier { mount: &self.context.config.mountpoint, dry_run: self.report.dry_run };
        let items = std::mem::take(&mut self.items);
        let mut directories = Vec::new();
        // Files that the daemon was not told of yet.
        let mut untold: Vec<(PathBuf, u64)> = Vec::new();
        for item in &items {
            self.line.show(&Progress {
                current: Some(item.below.clone().into()),
                ..self.progress.clone()
            });
            match item.what {
                What::Dir => match copier.directory(item) {
                    Ok(true) => directories.push(item),
                    Ok(false) => {}
                    Err(reason) => self.report.fail(&item.source, reason),
                },
                What::Link => {
                    if let Err(reason) = copier.link(item) {
                        self.report.fail(&item.source, reason);
                    }
                }
                What::File => {
                    if !self.report.dry_run && !copier.is_there(item) {
                        self.room.wait(self.context, item, &mut self.line)?;
                    }
                    match copier.file(item) {
                        Ok(copied) => {
                            if copied.new {
                                self.report.copied += 1;
                                self.report.bytes += item.size;
                                untold.push((item.below.clone(), item.size));
                            } else {
                                self.report.already += 1;
                            }
                            self.there.push(copied);
                        }
                        Err(reason) => self.report.fail(&item.source, reason),
                    }
                    self.progress.done += 1;
                    self.progress.bytes += item.size;
                }
            }
            if untold.len() >= limits::IMPORT_BATCH {
                self.tell(&mut untold)?;
            }
        }
        self.tell(&mut untold)?;
        // The deepest first: what is made in a directory changes its time.
        for item in directories.into_iter().rev() {
            if let Err(reason) = copier.finish(item) {
                self.report.fail(&item.source, reason);
            }
        }
        self.line.clear();
        Ok(())
    }

    /// The daemon counts them as adopted, and puts them on record.
    fn tell(&mut self, untold: &mut Vec<(PathBuf, u64)>) -> Result<(), Exit> {
        if self.report.dry_run || untold.is_empty() {
            return Ok(());
        }
        let bytes = untold.iter().map(|(_, size)| size).sum();
        let paths: Vec<WirePath> = untold.drain(..).map(|(path, _)| path.into()).collect();
        let _count: u64 = self.context.ask(&Request::Imported { paths, bytes }, "imported")?;
        Ok(())
    }

    fn remove_sources(&mut self) -> Result<(), Exit> {
        let there = std::mem::take(&mut self.there);
        moved::remove(self.context, &there, &mut self.report, &mut self.line)
    }
}

fn words(report: &Report) -> String {
    let (files, bytes) = (output::files(report.copied), humane_size(report.bytes));
    let would = if report.dry_run { "would import" } else { "imported" };
    let mut text = format!("{would} {files}, {bytes}; {} there already", report.already);
    if report.moved > 0 {
        text.push_str(&format!("; {} removed where they were", output::files(report.moved)));
    }
    let failed = report.failed.len() as u64 + report.more_failed;
    if failed > 0 {
        text.push_str(&format!("; {failed} failed"));
    }
    text + "\n"
}
