//! Whole trees compared: names, attributes, links, extended attributes, content.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, FileType};

use super::listing;
use super::world::{Attributes, xattrs};

/// The daemon's private directory in the root of the lower directory; hidden while mounted.
pub const PRIVATE: &str = ".spl";

/// One file of a tree.
#[derive(Debug)]
pub struct Node {
    /// What `stat` tells.
    pub attributes: Attributes,
    /// The first path, in order, that leads to the same inode.
    pub same_as: PathBuf,
    /// The inode number in its own world.
    pub ino: u64,
    /// Where a symbolic link leads.
    pub target: Option<OsString>,
    /// Extended attributes.
    pub xattrs: Vec<(String, Vec<u8>)>,
}

impl Node {
    /// Its type.
    pub fn kind(&self) -> FileType {
        FileType::from_raw_mode(self.attributes.mode)
    }
}

/// Everything below `root`, by its path below it. Fails on anything that contradicts itself.
pub fn read(root: &Path, leave_out: Option<&str>) -> Result<BTreeMap<PathBuf, Node>, String> {
    let mut tree = BTreeMap::new();
    let mut directories = vec![PathBuf::new()];
    while let Some(directory) = directories.pop() {
        let full = root.join(&directory);
        let fail = |error: rustix::io::Errno| format!("{}: {error}", full.display());
        let fd = listing::open(&full).map_err(fail)?;
        for entry in listing::entries(&fd, usize::MAX).map_err(fail)? {
            if entry.name == "." || entry.name == ".." {
                continue;
            }
            if directory.as_os_str().is_empty() && leave_out.is_some_and(|name| entry.name == name)
            {
                continue;
            }
            let below = directory.join(&entry.name);
            let node = node(&root.join(&below))?;
            if entry.kind != FileType::Unknown && entry.kind != node.kind() {
                return Err(format!("{below:?} is listed as {:?}: {node:?}", entry.kind));
            }
            if entry.ino != node.ino {
                return Err(format!("{below:?} is listed with inode {}: {node:?}", entry.ino));
            }
            if node.kind() == FileType::Directory {
                directories.push(below.clone());
            }
            if tree.insert(below.clone(), node).is_some() {
                return Err(format!("{below:?} is listed twice"));
            }
        }
    }
    let mut first = BTreeMap::new();
    for (path, node) in &mut tree {
        node.same_as = first.entry(node.ino).or_insert_with(|| path.clone()).clone();
    }
    Ok(tree)
}

fn node(path: &Path) -> Result<Node, String> {
    let fail = |error: rustix::io::Errno| format!("{}: {error}", path.display());
    let stat = rustix::fs::statat(CWD, path, AtFlags::SYMLINK_NOFOLLOW).map_err(fail)?;
    let link = FileType::from_raw_mode(stat.st_mode) == FileType::Symlink;
    let target = if link {
        let target = rustix::fs::readlink(path, Vec::new()).map_err(fail)?;
        Some(OsString::from_vec(target.into_bytes()))
    } else {
        None
    };
    Ok(Node {
        attributes: Attributes::of(&stat, false),
        same_as: PathBuf::new(),
        ino: stat.st_ino,
        target,
        // What spoolfs keeps on a lower file is nobody else's business (decisions/0002).
        xattrs: xattrs(path)
            .map_err(fail)?
            .into_iter()
            .filter(|(name, _)| name != "trusted.spoolfs")
            .collect(),
    })
}

/// Tells the first difference between two trees. `started` as for `Attributes::agree`.
pub fn compare(
    subject: &Path,
    oracle: &Path,
    leave_out: Option<&str>,
    started: i64,
) -> Result<(), String> {
    let (ours, theirs) = (read(subject, leave_out)?, read(oracle, None)?);
    for path in ours.keys() {
        if !theirs.contains_key(path) {
            return Err(format!("{path:?} is there and should not be"));
        }
    }
    for (path, expected) in &theirs {
        let Some(got) = ours.get(path) else {
            return Err(format!("{path:?} is missing"));
        };
        let same = got.attributes.agree(&expected.attributes, started)
            && got.same_as == expected.same_as
            && got.target == expected.target
            && got.xattrs == expected.xattrs;
        if !same {
            return Err(format!("{path:?} differs\n  expected {expected:?}\n  got      {got:?}"));
        }
        if got.kind() == FileType::RegularFile {
            content(&subject.join(path), &oracle.join(path))?;
        }
    }
    Ok(())
}

fn content(subject: &Path, oracle: &Path) -> Result<(), String> {
    let read =
        |path: &Path| std::fs::read(path).map_err(|error| format!("{}: {error}", path.display()));
    let (got, expected) = (read(subject)?, read(oracle)?);
    if got == expected {
        return Ok(());
    }
    Err(format!("{}: {}", subject.display(), bytes_differ(&got, &expected)))
}

/// Where two contents differ, in words.
pub fn bytes_differ(got: &[u8], expected: &[u8]) -> String {
    let at = got.iter().zip(expected).position(|(a, b)| a != b);
    format!(
        "{} bytes, expected {}; first differing byte at {}",
        got.len(),
        expected.len(),
        at.map_or_else(|| "the end of the shorter".to_owned(), |at| at.to_string())
    )
}
