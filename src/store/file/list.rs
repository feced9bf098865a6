//! A listing in the order of the keys, which is not that of the names: `a.wav` sorts before
//! `a/b`, because `.` does before `/`.

use crate::limits;
use crate::store::Listed;
use std::fs;
use std::io::{self, ErrorKind};
use std::path::Path;

/// The objects below `root`, as `Store::list` wants them.
pub(super) fn list(root: &Path, prefix: &str, after: &str) -> io::Result<Vec<Listed>> {
    let mut found = Vec::new();
    Walk { root, prefix, after, found: &mut found }.dir("")?;
    Ok(found)
}

struct Walk<'a> {
    root: &'a Path,
    prefix: &'a str,
    after: &'a str,
    found: &'a mut Vec<Listed>,
}

impl Walk<'_> {
    /// Lists the directory with this key, "" or ending in "/".
    fn dir(&mut self, dir: &str) -> io::Result<()> {
        for key in self.keys(dir)? {
            if self.found.len() >= limits::LIST_PAGE_MAX {
                break;
            }
            if key.ends_with('/') {
                self.dir(&key)?;
            } else {
                self.file(key)?;
            }
        }
        Ok(())
    }

    /// The keys in a directory that can matter, in order; those of directories end in "/".
    fn keys(&self, dir: &str) -> io::Result<Vec<String>> {
        let entries = match fs::read_dir(self.root.join(dir)) {
            Ok(entries) => entries,
            // Removed meanwhile; the root itself was seen by the caller.
            Err(e) if e.kind() == ErrorKind::NotFound && !dir.is_empty() => return Ok(Vec::new()),
            Err(e) => return Err(e),
        };
        let mut keys = Vec::new();
        for entry in entries {
            let entry = entry?;
            let kind = entry.file_type()?;
            // What is not UTF-8 is none of ours.
            let Ok(name) = entry.file_name().into_string() else { continue };
            let key = format!("{dir}{name}");
            if kind.is_file() && key.starts_with(self.prefix) && key.as_str() > self.after {
                keys.push(key);
            } else if kind.is_dir() && self.may_hold(&format!("{key}/")) {
                keys.push(format!("{key}/"));
            }
        }
        keys.sort_unstable();
        Ok(keys)
    }

    fn may_hold(&self, dir: &str) -> bool {
        let hidden = [super::TEMP_DIR, super::META_DIR].contains(&dir.trim_end_matches('/'));
        let wanted = dir.starts_with(self.prefix) || self.prefix.starts_with(dir);
        let ahead = dir > self.after || self.after.starts_with(dir);
        !hidden && wanted && ahead
    }

    fn file(&mut self, key: String) -> io::Result<()> {
        match fs::symlink_metadata(self.root.join(&key)) {
            Ok(stat) => self.found.push(Listed { key, size: stat.len() }),
            Err(e) if e.kind() == ErrorKind::NotFound => {}
            Err(e) => return Err(e),
        }
        Ok(())
    }
}
