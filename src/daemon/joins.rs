//! Recordings as the directory of joined calls needs them: the lower directory for local ones,
//! content for released ones, and the catalog to tell which is which.

use crate::catalog::{Catalog, CatalogError, NodeRow, ObjectRow};
use crate::config;
use crate::content::{Content, Objects};
use crate::limits;
use crate::lower::{Dir, Lower, LowerStat, stat_file};
use crate::recording::{Attr, ErrorClass, Generation, NodeId, State, is_audio};
use crate::stitch::{
    self, Calls, Kept, Leg, Looked, Named, Recordings, Setting, Source, Standing, StitchError,
    Stitched, Tier,
};
use crate::vfs::Vfs;
use bytes::Bytes;
use rustix::fs::OFlags;
use rustix::io::Errno;
use std::collections::HashMap;
use std::fs::File;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};

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
    let above = stitched.directory.parent().unwrap_or(Path::new(""));
    let name = stitched.directory.file_name().unwrap_or_default().as_bytes();
    if places.lower.dir(above).is_ok_and(|dir| dir.stat(name).is_ok()) {
        tracing::error!(
            directory = %stitched.directory.display(),
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

/// Shows the directory of joined calls, if what is to be above it is there.
pub(super) fn show(vfs: &Vfs, stitched: &Arc<Stitched>) {
    if let Err(error) = vfs.set_stitched(stitched.clone()) {
        tracing::error!(
            %error,
            directory = %stitched.directory().display(),
            "joined calls are not shown: make the directory that theirs is to be in and restart \
             spoolfs, or choose another stitched.directory"
        );
    }
}

/// Which joins are stored, if any are to be, or were.
///
/// # Errors
/// It can not be told.
pub(super) fn stored(config: &config::Config) -> stitch::Result<Option<Arc<Kept>>> {
    let wanted = config.stitched.enabled && config.stitched.archive && !config.targets.is_empty();
    if !wanted && !Kept::exists(&config.state_dir) {
        return Ok(None);
    }
    let opened = Kept::open(&config.state_dir).inspect_err(|error| {
        tracing::error!(
            %error,
            "stored joins are not used, nor deleted, and nothing that users deleted is deleted for \
             good, until spoolfs is restarted; move the file away if it stays so, and targets are \
             asked what they have"
        );
    });
    opened.map(|kept| Some(Arc::new(kept)))
}

/// Where recordings and stored joins are.
pub(super) fn objects(catalog: &Arc<Catalog>, stored: Option<&Arc<Kept>>) -> Arc<dyn Objects> {
    match stored {
        Some(kept) => Arc::new(Both { catalog: catalog.clone(), kept: kept.clone() }),
        None => catalog.clone(),
    }
}

#[derive(Debug)]
struct Both {
    catalog: Arc<Catalog>,
    kept: Arc<Kept>,
}

impl Objects for Both {
    fn current(&self, id: NodeId) -> Result<Option<Generation>, CatalogError> {
        if Kept::owns(id) {
            return Ok(Some(Kept::GENERATION));
        }
        self.catalog.current(id)
    }

    fn objects_of(&self, id: NodeId, of: Generation) -> Result<Vec<ObjectRow>, CatalogError> {
        if !Kept::owns(id) {
            return self.catalog.objects_of(id, of);
        }
        // What can not be told is said to have no copy.
        let failed = |error: &StitchError| tracing::warn!(%error, "a stored join can not be read");
        Ok(self.kept.objects_of(id).inspect_err(failed).unwrap_or_default())
    }
}

/// Finds out what recordings are, while they are local. Ends when the answer is dropped.
pub(super) fn look_ahead(stitched: Arc<Stitched>) -> std::io::Result<Sender<()>> {
    let (stop, stopped) = channel::<()>();
    let look = move || {
        let mut looked = Looked::default();
        loop {
            let mut pause = limits::STITCH_LOOK;
            match stitched.look_ahead(&mut looked) {
                Ok(true) => pause = limits::STITCH_PAUSE,
                Ok(false) => {}
                Err(error) => tracing::debug!(%error, "recordings can not be looked at now"),
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
    fn rows(&self, ids: &[NodeId]) -> stitch::Result<Vec<Option<(NodeRow, PathBuf)>>> {
        let rows = self.catalog.nodes_at(ids);
        let said = |e: CatalogError| error(Path::new(""), e.to_string(), e.class());
        let there = |row: &(NodeRow, PathBuf)| row.0.state != State::Deleted;
        Ok(rows.map_err(said)?.into_iter().map(|row| row.filter(there)).collect())
    }

    fn row(&self, id: NodeId) -> stitch::Result<Option<(NodeRow, PathBuf)>> {
        Ok(self.rows(&[id])?.pop().flatten())
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

    fn tier(&self, id: NodeId, path: &Path) -> Tier {
        if self.content.holds(id, path) { Tier::Cache } else { Tier::Target }
    }
}

/// Directories of the recordings that are asked for at once: each is opened and looked at once.
#[derive(Default)]
struct Directories(HashMap<PathBuf, Rc<Directory>>);

struct Directory {
    /// None if it is not there.
    dir: Option<Dir>,
    /// What it shows; none if it can not be told.
    attr: Option<Attr>,
}

impl Directories {
    fn at(&mut self, lower: &Lower, path: &Path) -> stitch::Result<Rc<Directory>> {
        if let Some(known) = self.0.get(path) {
            return Ok(known.clone());
        }
        let dir = match lower.dir(path) {
            Ok(dir) => Some(dir),
            Err(e) if e.is_not_found() => None,
            Err(e) => return Err(error(path, e.to_string(), e.class())),
        };
        let attr = dir.as_ref().and_then(|dir| dir.stat_self().ok()).map(|stat| stat.attr);
        let found = Rc::new(Directory { dir, attr });
        self.0.insert(path.to_owned(), found.clone());
        Ok(found)
    }

    /// What is below at a path.
    fn stat(&mut self, lower: &Lower, path: &Path) -> stitch::Result<Option<LowerStat>> {
        let parent = self.at(lower, path.parent().unwrap_or(Path::new("")))?;
        let Some(dir) = &parent.dir else { return Ok(None) };
        match dir.stat(path.file_name().unwrap_or_default().as_bytes()) {
            Ok(stat) => Ok(Some(stat)),
            Err(Errno::NOENT | Errno::NOTDIR) => Ok(None),
            Err(e) => Err(error(path, e.to_string(), ErrorClass::Transient)),
        }
    }

    /// A recording as whoever passes the directories above it sees it.
    fn reached(&mut self, lower: &Lower, path: &Path, attr: Attr) -> Attr {
        let above = path.ancestors().skip(1).filter(|dir| !dir.as_os_str().is_empty());
        let mode = above.fold(attr.mode, |mode, dir| {
            let dir = self.at(lower, dir).ok();
            let Some(dir) = dir.as_ref().and_then(|dir| dir.attr.as_ref()) else {
                return mode & 0o700;
            };
            let others = dir.mode & 0o001 != 0;
            let group = if dir.gid == attr.gid { dir.mode & 0o010 != 0 } else { others };
            mode & !(if others { 0 } else { 0o007 }) & !(if group { 0 } else { 0o070 })
        });
        Attr { mode, ..attr }
    }
}

impl Places {
    fn standing(
        &self,
        node: NodeId,
        (row, path): (NodeRow, PathBuf),
        above: &mut Directories,
    ) -> stitch::Result<Option<Standing>> {
        // What is partly below is being written to.
        let growing = row.state == State::Recording || self.lower.partial(node).is_some();
        let local = above.stat(&self.lower, &path)?.filter(|stat| stat.node == Some(node));
        let (attr, tier, growing) = match local {
            Some(stat) => (stat.attr, Tier::Local, growing),
            None if matches!(row.state, State::Released | State::Archived) => {
                (row.attr, self.tier(node, &path), false)
            }
            None => return Ok(None),
        };
        let attr = above.reached(&self.lower, &path, attr);
        Ok(Some(Standing { path, attr, tier, growing }))
    }
}

impl Recordings for Places {
    fn standings(&self, nodes: &[NodeId]) -> Vec<stitch::Result<Option<Standing>>> {
        let mut above = Directories::default();
        match self.rows(nodes) {
            Ok(rows) => {
                let each = nodes.iter().zip(rows).map(|(node, row)| match row {
                    Some(row) => self.standing(*node, row, &mut above),
                    None => Ok(None),
                });
                each.collect()
            }
            Err(error) => nodes.iter().map(|_| Err(error.clone())).collect(),
        }
    }

    fn named_after(&self, cursor: u64, limit: usize) -> stitch::Result<Named> {
        let page = self.catalog.names_after(cursor, limit);
        let page = page.map_err(|e| error(Path::new(""), e.to_string(), e.class()))?;
        let recordings = page.rows.iter().filter(|named| is_audio(&named.path));
        let nodes = recordings.map(|named| named.row.id).collect();
        Ok(Named { nodes, cursor: page.cursor, more: page.more })
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

    fn tier_of_stored(&self, id: NodeId) -> Tier {
        self.tier(id, Path::new("a stored join"))
    }

    fn read_stored(&self, id: NodeId, offset: u64, len: usize) -> stitch::Result<Bytes> {
        let read = self.content.read(id, Path::new("a stored join"), offset, len);
        read.map_err(|e| StitchError { leg: e.path, detail: e.detail, class: e.class })
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
