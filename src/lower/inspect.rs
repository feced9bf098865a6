//! Looking at a lower directory that nothing is mounted over, without changing anything in it.

use super::dir::{Dir, PRIVATE};
use super::{LowerError, LowerStat, Result, retire};
use crate::recording::{Generation, NodeId};
use rustix::fs::OFlags;
use rustix::io::Errno;
use std::fs::File;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// A room of the private directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Room {
    /// Files without a name that were open.
    Open,
    /// Files being recalled.
    Stage,
    /// Released recordings that are written to, not yet whole.
    Partial,
    /// What held recordings were before they were written to again.
    Kept,
    /// Released copies about to be removed.
    Gone,
    /// Deleted recordings.
    Trash,
    /// What nobody expected.
    Found,
}

impl Room {
    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Room::Open => "open",
            Room::Stage => "stage",
            Room::Partial => "partial",
            Room::Kept => "kept",
            Room::Gone => "gone",
            Room::Trash => "trash",
            Room::Found => "found",
        }
    }
}

/// A lower directory to look at.
#[derive(Debug)]
pub struct Inspection {
    root: Dir,
}

impl Inspection {
    /// Opens it.
    ///
    /// # Errors
    /// As `open`.
    pub fn open(dir: &Path) -> Result<Inspection> {
        let root = Dir::open_root(dir).map_err(LowerError::io(dir))?;
        Ok(Inspection { root })
    }

    /// The names in a directory, sorted; the private directory left out.
    ///
    /// # Errors
    /// As `readdir`.
    pub fn names(&self, path: &Path) -> Result<Vec<Vec<u8>>> {
        let dir = self.root.descend(path).map_err(LowerError::io(path))?;
        let mut names = retire::names(&dir).map_err(LowerError::io(path))?;
        names.sort_unstable();
        Ok(names)
    }

    /// Looks at a path; a symbolic link is not followed.
    ///
    /// # Errors
    /// As `stat`.
    pub fn stat(&self, path: &Path) -> Result<LowerStat> {
        let (dir, name) = self.parent_of(path)?;
        dir.stat(name).map_err(LowerError::io(path))
    }

    /// Opens a file for reading.
    ///
    /// # Errors
    /// As `open`.
    pub fn read(&self, path: &Path) -> Result<File> {
        let (dir, name) = self.parent_of(path)?;
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOATIME;
        dir.open(name, flags).map_err(LowerError::io(path))
    }

    fn parent_of<'p>(&self, path: &'p Path) -> Result<(Dir, &'p [u8])> {
        let name = path.file_name().ok_or_else(|| LowerError::io(path)(Errno::INVAL))?;
        let parent = path.parent().unwrap_or(Path::new(""));
        Ok((self.root.descend(parent).map_err(LowerError::io(path))?, name.as_bytes()))
    }

    /// What is in a room of the private directory, sorted; nothing if there is none.
    ///
    /// # Errors
    /// As `open`.
    pub fn private(&self, room: Room) -> Result<Vec<(String, LowerStat)>> {
        let path = Path::new(".spl").join(room.name());
        let opened =
            self.root.open_dir(PRIVATE).and_then(|spl| spl.open_dir(room.name().as_bytes()));
        let dir = match opened {
            Ok(dir) => dir,
            Err(Errno::NOENT) => return Ok(Vec::new()),
            Err(errno) => return Err(LowerError::io(&path)(errno)),
        };
        let mut found = Vec::new();
        for name in retire::names(&dir).map_err(LowerError::io(&path))? {
            let stat = dir.stat(&name).map_err(LowerError::io(&path))?;
            found.push((String::from_utf8_lossy(&name).into_owned(), stat));
        }
        found.sort_by(|a, b| a.0.cmp(&b.0));
        Ok(found)
    }
}

/// Whether a file of this name in [`Room::Gone`] is what was released.
pub fn is_as_released(name: &str, stat: &LowerStat) -> bool {
    retire::is_as_released(name.as_bytes(), stat.version)
}

/// Node and generation of the file of this name in [`Room::Partial`]; none for its log.
pub fn partial_of(name: &str) -> Option<(NodeId, Generation)> {
    super::partial::parse_name(name).map(|(id, generation, _)| (id, generation))
}
