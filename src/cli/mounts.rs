//! What is mounted where, from /proc/self/mountinfo (proc_pid_mountinfo(5)).

use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

/// One mount.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Mount {
    /// Its number.
    pub id: u64,
    /// The number of the mount it lies on.
    pub parent: u64,
    pub point: PathBuf,
    pub kind: String,
}

/// All mounts this process sees.
pub(super) fn all() -> std::io::Result<Vec<Mount>> {
    Ok(parse(&std::fs::read("/proc/self/mountinfo")?))
}

/// Fields: id, parent, device, root, mount point, options, any number of others, "-", kind.
fn parse(bytes: &[u8]) -> Vec<Mount> {
    let lines = bytes.split(|b| *b == b'\n');
    lines
        .filter_map(|line| {
            let mut fields = line.split(|b| *b == b' ');
            let id = number(fields.next()?)?;
            let parent = number(fields.next()?)?;
            let point = unescape(fields.nth(2)?);
            let kind = fields.skip_while(|f| *f != b"-").nth(1)?;
            let kind = String::from_utf8_lossy(kind).into_owned();
            Some(Mount { id, parent, point: OsString::from_vec(point).into(), kind })
        })
        .collect()
}

fn number(field: &[u8]) -> Option<u64> {
    std::str::from_utf8(field).ok()?.parse().ok()
}

/// Space, tab, newline and backslash are written as three octal digits.
fn unescape(field: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((first, after)) = rest.split_first() {
        let digits = after.get(..3).filter(|_| *first == b'\\');
        let byte = digits
            .and_then(|d| std::str::from_utf8(d).ok())
            .and_then(|d| u8::from_str_radix(d, 8).ok());
        match byte {
            Some(byte) => {
                out.push(byte);
                rest = after.get(3..).unwrap_or_default();
            }
            None => {
                out.push(*first);
                rest = after;
            }
        }
    }
    out
}

/// The mount that `path` lies on: the longest, and of several at one place the last.
pub(super) fn holding<'a>(mounts: &'a [Mount], path: &Path) -> Option<&'a Mount> {
    mounts
        .iter()
        .filter(|m| path.starts_with(&m.point))
        .max_by_key(|m| m.point.as_os_str().as_bytes().len())
}

/// Of the mounts exactly at `path` the one that is seen: no other there lies on it.
pub(super) fn top<'a>(mounts: &'a [Mount], path: &Path) -> Option<&'a Mount> {
    let covered = |m: &Mount| mounts.iter().any(|o| o.point == path && o.parent == m.id);
    mounts.iter().rev().find(|m| m.point == path && !covered(m))
}

/// The mounts below `path`, not `path` itself.
pub(super) fn below<'a>(mounts: &'a [Mount], path: &Path) -> Vec<&'a Mount> {
    mounts.iter().filter(|m| m.point.starts_with(path) && m.point != path).collect()
}

/// Whether a spoolfs is mounted exactly there.
pub(super) fn is_spoolfs(mounts: &[Mount], path: &Path) -> bool {
    mounts
        .iter()
        .any(|m| m.point == path && m.kind.starts_with("fuse") && m.kind.contains("spoolfs"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SAMPLE: &[u8] = b"22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw\n\
        30 22 0:30 / /var/spool/a\\040b rw master:1 propagate_from:2 - xfs /dev/sdb rw\n\
        31 30 0:31 / /var/spool/a\\040b rw - fuse.spoolfs spoolfs rw\n\
        32 31 0:32 / /var/spool/a\\040b/deep rw - tmpfs tmpfs rw\n\
        garbage\n";

    #[test]
    fn mounts_are_read_with_their_escapes() {
        let mounts = parse(SAMPLE);
        assert_eq!(mounts.len(), 4);
        let tree = Path::new("/var/spool/a b");
        assert_eq!(
            holding(&mounts, &tree.join("x")).map(|m| m.kind.as_str()),
            Some("fuse.spoolfs")
        );
        assert_eq!(
            holding(&mounts, Path::new("/var/spool/ab")).map(|m| m.kind.as_str()),
            Some("ext4")
        );
        let nested: Vec<_> = below(&mounts, tree).into_iter().map(|m| m.point.clone()).collect();
        assert_eq!(nested, [tree.join("deep")]);
        assert!(is_spoolfs(&mounts, tree));
        assert!(!is_spoolfs(&mounts, Path::new("/")));
    }

    #[test]
    fn the_top_of_a_stack_is_what_nothing_covers() {
        let tree = Path::new("/var/spool/a b");
        assert_eq!(top(&parse(SAMPLE), tree).map(|m| m.id), Some(31));
        // The kernel promises no order.
        let turned: Vec<&[u8]> = SAMPLE.split(|b| *b == b'\n').rev().collect();
        assert_eq!(top(&parse(&turned.join(&b'\n')), tree).map(|m| m.id), Some(31));
        assert_eq!(top(&parse(SAMPLE), Path::new("/var/spool")), None);
    }
}
