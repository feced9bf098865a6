//! Recordings as the directory of joined calls needs them: the lower directory for local ones,
//! content for released ones, and the catalog to tell which is which.

use crate::catalog::{Catalog, CatalogError, NodeRow};
use crate::config;
use crate::content::Content;
use crate::limits;
use crate::lower::{Lower, stat_file};
use crate::recording::{Attr, ErrorClass, NodeId, State};
use crate::stitch::{
    self, Calls, Leg, Recordings, Setting, Source, Standing, StitchError, Stitched, Tier,
};
use bytes::Bytes;
use rustix::fs::OFlags;
use rustix::io::Errno;
use std::ffi::OsString;
use std::fs::File;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};

/// Names above each other, more than a path can have.
const DEPTH_MAX: usize = 4096;

/// Where recordings are.
#[derive(Clone)]
pub(super) struct Places {
    pub lower: Arc<Lower>,
    pub catalog: Arc<Catalog>,
    pub content: Content,
}

/// The directory of joined calls, unless something has its name already.
pub(super) fn directory(
    config: &config::Config,
    places: Places,
    calls: Option<Arc<dyn Calls>>,
    resume: bool,
) -> Option<Arc<Stitched>> {
    let calls = calls?;
    let stitched = config.stitched.enabled.then_some(&config.stitched)?;
    // What is there may be recordings: they are not to be hidden.
    if places.lower.root().stat(stitched.directory.as_bytes()).is_ok() {
        tracing::error!(
            directory = stitched.directory,
            "joined calls are not shown: the recordings directory has something of that name; \
             move it, or choose another stitched.directory"
        );
        return None;
    }
    let setting = Setting {
        directory: stitched.directory.clone(),
        listed: stitched.listed,
        join: stitch::Options {
            layout: stitched.layout,
            rate: stitched.rate,
            large: match stitched.riff64 {
                true => stitch::LargeFiles::Rf64,
                false => stitch::LargeFiles::Refuse,
            },
        },
    };
    let (state, runtime) = (&config.state_dir, Some(config.runtime_dir.as_path()));
    Some(Arc::new(Stitched::new(setting, calls, Arc::new(places), state, runtime, resume)))
}

/// Finds out what legs are, while they are local. Ends when the answer is dropped.
pub(super) fn look_ahead(stitched: Arc<Stitched>) -> std::io::Result<Sender<()>> {
    let (stop, stopped) = channel::<()>();
    let look = move || {
        let mut cursor = 0;
        loop {
            let mut pause = limits::STITCH_LOOK;
            match stitched.look_ahead(cursor) {
                Ok(Some(next)) => (cursor, pause) = (next, limits::STITCH_PAUSE),
                Ok(None) => {}
                Err(error) => tracing::debug!(%error, "calls can not be looked at now"),
            }
            if stopped.recv_timeout(pause) != Err(RecvTimeoutError::Timeout) {
                return;
            }
        }
    };
    std::thread::Builder::new().name("spoolfs-joins".to_owned()).spawn(look)?;
    Ok(stop)
}

impl Places {
    /// The first name of a node as a path relative to the mount.
    fn path_of(&self, id: NodeId) -> Result<Option<PathBuf>, CatalogError> {
        let mut names: Vec<Vec<u8>> = Vec::new();
        let mut at = id;
        while at != NodeId::ROOT {
            match self.catalog.name_of(at)? {
                Some((parent, name)) if names.len() < DEPTH_MAX => {
                    names.push(name);
                    at = parent;
                }
                _ => return Ok(None),
            }
        }
        Ok(Some(names.into_iter().rev().map(OsString::from_vec).collect()))
    }

    fn row(&self, id: NodeId) -> stitch::Result<Option<(NodeRow, PathBuf)>> {
        let said = |e: CatalogError| error(Path::new(""), e.to_string(), e.class());
        let Some(row) = self.catalog.node(id).map_err(said)? else { return Ok(None) };
        let path = self.path_of(id).map_err(said)?;
        Ok(path.filter(|_| row.state != State::Deleted).map(|path| (row, path)))
    }

    /// The lower file of a node, if it is there.
    fn local(&self, id: NodeId, path: &Path) -> stitch::Result<Option<(File, Attr)>> {
        let failed = |e: Errno| error(path, e.to_string(), ErrorClass::Transient);
        let name = path.file_name().unwrap_or_default().as_bytes();
        let dir = match self.lower.dir(path.parent().unwrap_or(Path::new(""))) {
            Ok(dir) => dir,
            Err(e) if e.is_not_found() => return Ok(None),
            Err(e) => return Err(error(path, e.to_string(), e.class())),
        };
        let file = match dir.open(name, OFlags::RDONLY) {
            Ok(file) => file,
            Err(Errno::NOENT) => return Ok(None),
            Err(errno) => return Err(failed(errno)),
        };
        let stat = stat_file(&file).map_err(failed)?;
        Ok((stat.node == Some(id)).then_some((file, stat.attr)))
    }

    /// A recording as whoever passes the directories above it sees it.
    fn reached(&self, path: &Path, attr: Attr) -> Attr {
        let above = path.ancestors().skip(1).filter(|dir| !dir.as_os_str().is_empty());
        let mode = above.fold(attr.mode, |mode, dir| {
            let Ok(dir) = self.lower.stat(dir).map(|stat| stat.attr) else { return mode & 0o700 };
            let others = dir.mode & 0o001 != 0;
            let group = if dir.gid == attr.gid { dir.mode & 0o010 != 0 } else { others };
            mode & !(if others { 0 } else { 0o007 }) & !(if group { 0 } else { 0o070 })
        });
        Attr { mode, ..attr }
    }

    fn tier(&self, id: NodeId, path: &Path) -> Tier {
        if self.content.holds(id, path) { Tier::Cache } else { Tier::Target }
    }
}

impl Recordings for Places {
    fn standing(&self, node: NodeId) -> stitch::Result<Option<Standing>> {
        let Some((row, path)) = self.row(node)? else { return Ok(None) };
        // What is partly below is being written to.
        let growing = row.state == State::Recording || self.lower.partial(node).is_some();
        match self.lower.stat(&path) {
            Ok(stat) if stat.node == Some(node) => {
                let (attr, tier) = (self.reached(&path, stat.attr), Tier::Local);
                return Ok(Some(Standing { path, attr, tier, growing }));
            }
            Ok(_) => {}
            Err(e) if e.is_not_found() => {}
            Err(e) => return Err(error(&path, e.to_string(), e.class())),
        }
        let released = matches!(row.state, State::Released | State::Archived);
        if !released {
            return Ok(None);
        }
        let (tier, attr) = (self.tier(node, &path), self.reached(&path, row.attr));
        Ok(Some(Standing { path, attr, tier, growing: false }))
    }

    fn open(&self, leg: &Leg) -> stitch::Result<Box<dyn Source>> {
        let Some((row, path)) = self.row(leg.node)? else {
            return Err(changed(Path::new(&leg.path)));
        };
        let local = self.local(leg.node, &path)?;
        // Asked after it was opened: a file that lacks parts is known before it has the name.
        if self.lower.partial(leg.node).is_some() {
            return Err(changed(&path));
        }
        let attr = local.as_ref().map_or(&row.attr, |(_, attr)| attr);
        if (attr.size, attr.mtime) != (leg.size, leg.mtime) {
            return Err(changed(&path));
        }
        let attr = attr.clone();
        Ok(match local {
            Some((file, _)) => Box::new(Local { file, path, attr }),
            None => Box::new(Remote { places: self.clone(), id: leg.node, path, attr }),
        })
    }

    fn root(&self) -> stitch::Result<Attr> {
        let stat = self.lower.root().stat_self();
        let failed = |e: Errno| error(Path::new(""), e.to_string(), ErrorClass::Transient);
        Ok(stat.map_err(failed)?.attr)
    }
}

/// A lower file, held open: it stays readable when it is released or removed.
struct Local {
    file: File,
    path: PathBuf,
    attr: Attr,
}

impl Source for Local {
    fn read(&self, offset: u64, len: usize) -> stitch::Result<Bytes> {
        let failed = |e: std::io::Error| error(&self.path, e.to_string(), ErrorClass::Transient);
        let mut buffer = vec![0; len];
        let mut done = 0;
        while let Some(rest) = buffer.get_mut(done..).filter(|r| !r.is_empty()) {
            match self.file.read_at(rest, offset + done as u64) {
                Ok(0) => break,
                Ok(read) => done += read,
                Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
                Err(e) => return Err(failed(e)),
            }
        }
        // After reading: what was read was there while it was unchanged.
        let now = stat_file(&self.file).map_err(|e| failed(e.into()))?.attr;
        if (now.size, now.mtime) != (self.attr.size, self.attr.mtime) {
            return Err(changed(&self.path));
        }
        buffer.truncate(done);
        Ok(buffer.into())
    }

    fn is_remote(&self) -> bool {
        false
    }
}

/// A released recording.
struct Remote {
    places: Places,
    id: NodeId,
    path: PathBuf,
    attr: Attr,
}

impl Source for Remote {
    fn read(&self, offset: u64, len: usize) -> stitch::Result<Bytes> {
        let Some((row, _)) = self.places.row(self.id)? else { return Err(changed(&self.path)) };
        if (row.attr.size, row.attr.mtime) != (self.attr.size, self.attr.mtime) {
            return Err(changed(&self.path));
        }
        let read = self.places.content.read(self.id, &self.path, offset, len);
        read.map_err(|e| StitchError { leg: e.path, detail: e.detail, class: e.class })
    }

    fn is_remote(&self) -> bool {
        true
    }
}

fn error(path: &Path, detail: String, class: ErrorClass) -> StitchError {
    StitchError { leg: path.display().to_string(), detail, class }
}

fn changed(path: &Path) -> StitchError {
    let detail = "it changed since the join was opened; open the join again".to_owned();
    error(path, detail, ErrorClass::Corrupt)
}
