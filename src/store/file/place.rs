//! How a file gets its name: complete, synced, and never over another.

use crate::faults;
use crate::limits;
use crate::recording::Sha256;
use crate::store::Body;
use parking_lot::Mutex;
use sha2::Digest;
use std::collections::HashSet;
use std::fs::{self, File};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

/// Bytes copied at once.
const PIECE: usize = 256 << 10;

/// Why there is no new file.
pub(super) enum Failure {
    /// The name is in use, or a file has the name of a directory it needs.
    Taken,
    /// The body is not what it should be.
    WrongBody(String),
    /// The body can not be read.
    Unreadable(io::Error),
    /// The kernel said no.
    Io(io::Error),
}

impl From<io::Error> for Failure {
    fn from(e: io::Error) -> Failure {
        Failure::Io(e)
    }
}

/// Directories whose own names are known to survive a power cut. One that is merely there may have
/// been made a moment ago, by another thread or a daemon that died before it synced it.
#[derive(Debug, Default)]
pub(super) struct Known(Mutex<HashSet<PathBuf>>);

/// Writes `body` to `path` below `root`, by way of the temporary file `temp`.
pub(super) fn place(
    (root, known): (&Path, &Known),
    temp: &str,
    path: &Path,
    body: &Body,
    sha256: Sha256,
) -> Result<(), Failure> {
    let temp_dir = root.join(super::TEMP_DIR);
    make_dirs(root, &temp_dir, known)?;
    make_dirs(root, path.parent().unwrap_or(root), known)?;
    let temp = temp_dir.join(temp);
    let written = write(&temp, body, sha256).and_then(|file| give_name(&temp, &file, path));
    // What can not be removed is found by `abort_orphans`.
    let _left = fs::remove_file(&temp);
    written?;
    Ok(sync_parent(path)?)
}

/// Sees to it that the name of a file that is there survives a power cut.
pub(super) fn settle((root, known): (&Path, &Known), path: &Path) -> Result<(), Failure> {
    make_dirs(root, path.parent().unwrap_or(root), known)?;
    Ok(sync_parent(path)?)
}

/// Syncs the directory of `path`, so that the name survives a power cut.
pub(super) fn sync_parent(path: &Path) -> io::Result<()> {
    faults::fail("store.sync_dir")?;
    path.parent().map_or(Ok(()), |dir| File::open(dir)?.sync_all())
}

fn each_piece(body: &Body, sink: &mut dyn FnMut(&[u8]) -> io::Result<()>) -> Result<(), Failure> {
    match body {
        Body::Bytes(bytes) => Ok(sink(bytes)?),
        Body::File { file, len } => {
            let mut buffer = vec![0; PIECE];
            let mut at = 0;
            while at < *len {
                let now = usize::try_from(len - at).map_or(PIECE, |left| left.min(PIECE));
                let Some(piece) = buffer.get_mut(..now) else { break };
                file.read_exact_at(piece, at).map_err(unread)?;
                sink(piece)?;
                at += now as u64;
            }
            Ok(())
        }
    }
}

fn unread(error: io::Error) -> Failure {
    match error.kind() {
        ErrorKind::UnexpectedEof => Failure::WrongBody("the file is shorter than it was".into()),
        _ => Failure::Unreadable(error),
    }
}

fn write(temp: &Path, body: &Body, sha256: Sha256) -> Result<File, Failure> {
    let mut file = File::options().write(true).create_new(true).mode(OBJECT_MODE).open(temp)?;
    let mut hash = sha2::Sha256::new();
    each_piece(body, &mut |piece| {
        hash.update(piece);
        file.write_all(piece)
    })?;
    let found = Sha256(hash.finalize().into());
    if found != sha256 {
        return Err(Failure::WrongBody(format!("SHA-256 {found}, {sha256} was meant")));
    }
    file.sync_all()?;
    // So that reading back asks the disk and not the cache; only advice.
    let _refused = rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed);
    Ok(file)
}

fn give_name(temp: &Path, file: &File, path: &Path) -> Result<(), Failure> {
    match fs::hard_link(temp, path) {
        Ok(()) => Ok(()),
        // NFS: the answer to the first try was lost, and the second found its own work.
        Err(e) if e.kind() == ErrorKind::AlreadyExists => match file.metadata() {
            Ok(stat) if stat.nlink() == 2 => Ok(()),
            _ => Err(Failure::Taken),
        },
        Err(e) if e.kind() == ErrorKind::NotADirectory => Err(Failure::Taken),
        // No hard links here (FAT, some network file systems).
        Err(e) if matches!(e.kind(), ErrorKind::PermissionDenied | ErrorKind::Unsupported) => {
            rename_no_replace(temp, path).map_err(|renamed| match renamed.kind() {
                ErrorKind::AlreadyExists => Failure::Taken,
                ErrorKind::InvalidInput | ErrorKind::Unsupported => Failure::Io(e),
                _ => Failure::Io(renamed),
            })
        }
        Err(e) => Err(e.into()),
    }
}

fn rename_no_replace(from: &Path, to: &Path) -> io::Result<()> {
    use rustix::fs::{CWD, RenameFlags, renameat_with};
    Ok(renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE)?)
}

/// Recordings are nobody's business but root's and the group's that the directory was given to.
const OBJECT_MODE: u32 = 0o640;
/// The same for directories of objects.
const DIRECTORY_MODE: u32 = 0o750;

/// Makes `dir` below `root` where it is not there, and syncs the directory above each level that
/// is not known yet. Never makes `root`.
fn make_dirs(root: &Path, dir: &Path, known: &Known) -> Result<(), Failure> {
    if dir == root || (known.0.lock().contains(dir) && dir.is_dir()) {
        return Ok(());
    }
    if let Some(parent) = dir.parent() {
        make_dirs(root, parent, known)?;
    }
    match fs::DirBuilder::new().mode(DIRECTORY_MODE).create(dir) {
        Ok(()) => {}
        Err(e) if e.kind() == ErrorKind::AlreadyExists && dir.is_dir() => {}
        Err(e) if matches!(e.kind(), ErrorKind::AlreadyExists | ErrorKind::NotADirectory) => {
            return Err(Failure::Taken);
        }
        Err(e) => return Err(e.into()),
    }
    sync_parent(dir)?;
    let mut known = known.0.lock();
    if known.len() >= limits::SYNCED_DIRS_MAX {
        known.clear();
    }
    known.insert(dir.to_owned());
    Ok(())
}
