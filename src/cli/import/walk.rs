//! What there is to be imported.

use crate::recording::stem;
use std::fs::Metadata;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

/// The private directory of a lower directory that was once mounted.
const PRIVATE: &str = ".spl";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum What {
    Dir,
    File,
    Link,
}

/// One of them, and where it is to go.
#[derive(Clone, Debug)]
pub(super) struct Item {
    pub source: PathBuf,
    /// Relative to the mount.
    pub below: PathBuf,
    pub what: What,
    pub size: u64,
}

type Fail<'a> = &'a mut dyn FnMut(&Path, String);

/// All of the sources, directories before what is in them.
pub(super) fn all(sources: &[PathBuf], to: &Path, fail: Fail<'_>) -> Vec<Item> {
    let mut items = Vec::new();
    // The directories of `--to` have no source.
    for source in sources {
        match std::fs::symlink_metadata(source) {
            Ok(meta) if meta.is_dir() => walk(source, to, true, &mut items, fail),
            Ok(_) => group(source, to, &mut items, fail),
            Err(error) => fail(source, error.to_string()),
        }
    }
    items
}

fn walk(dir: &Path, to: &Path, top: bool, items: &mut Vec<Item>, fail: Fail<'_>) {
    let listed = std::fs::read_dir(dir).and_then(|entries| {
        let mut names: Vec<_> =
            entries.map(|e| e.map(|e| e.file_name())).collect::<std::io::Result<_>>()?;
        names.sort();
        Ok(names)
    });
    let names = match listed {
        Ok(names) => names,
        Err(error) => return fail(dir, error.to_string()),
    };
    for name in names {
        let (source, below) = (dir.join(&name), to.join(&name));
        if top && name == PRIVATE {
            continue;
        }
        match std::fs::symlink_metadata(&source) {
            Ok(meta) if meta.is_dir() => {
                let (what, size) = (What::Dir, 0);
                items.push(Item { source: source.clone(), below: below.clone(), what, size });
                walk(&source, &below, false, items, fail);
            }
            Ok(meta) => one(source, below, &meta, items, fail),
            Err(error) => fail(&source, error.to_string()),
        }
    }
}

/// A file, and what belongs to it.
fn group(file: &Path, to: &Path, items: &mut Vec<Item>, fail: Fail<'_>) {
    let (Some(dir), Some(name)) = (file.parent(), file.file_name()) else { return };
    let own = stem(name.as_bytes());
    let listed = std::fs::read_dir(dir);
    let mut names = vec![name.to_owned()];
    names.extend(
        listed
            .into_iter()
            .flatten()
            .flatten()
            .map(|e| e.file_name())
            .filter(|other| other != name && stem(other.as_bytes()) == own),
    );
    names.sort();
    for name in names {
        let (source, below) = (dir.join(&name), to.join(&name));
        // Named twice, as a recording and as its sidecar.
        if items.iter().any(|item| item.source == source) {
            continue;
        }
        match std::fs::symlink_metadata(&source) {
            Ok(meta) if meta.is_dir() => {}
            Ok(meta) => one(source, below, &meta, items, fail),
            Err(error) => fail(&source, error.to_string()),
        }
    }
}

fn one(source: PathBuf, below: PathBuf, meta: &Metadata, items: &mut Vec<Item>, fail: Fail<'_>) {
    let kind = meta.file_type();
    let what = if kind.is_file() {
        What::File
    } else if kind.is_symlink() {
        What::Link
    } else {
        let what = if kind.is_fifo() { "a FIFO" } else { "a socket or a device" };
        return fail(&source, format!("it is {what}, and no recording"));
    };
    items.push(Item { source, below, what, size: meta.size() });
}
