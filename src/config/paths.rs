//! Where a path really leads, as far as it exists.

use std::ffi::OsString;
use std::path::{Component, Path, PathBuf};

/// `path` with every link and `..` resolved as far as it exists; the rest by its words alone.
/// Never fails: an existing part that can not be looked at (a dead mount) counts as not there.
pub fn resolve(path: &Path) -> PathBuf {
    let mut tail: Vec<OsString> = Vec::new();
    let mut head = path;
    let mut ups = 0_usize;
    let mut real = loop {
        if let Ok(real) = std::fs::canonicalize(head) {
            break real;
        }
        match head.components().next_back() {
            Some(Component::ParentDir) => ups = ups.saturating_add(1),
            Some(Component::Normal(_)) if ups > 0 => ups -= 1,
            Some(Component::Normal(name)) => tail.push(name.to_owned()),
            _ => {}
        }
        match head.parent() {
            Some(parent) => head = parent,
            None => break head.to_owned(),
        }
    };
    for _ in 0..ups {
        real.pop();
    }
    real.extend(tail.into_iter().rev());
    real
}

/// Whether `path` is `dir` or below it, wherever both really are.
pub fn beneath(path: &Path, dir: &Path) -> bool {
    resolve(path).starts_with(resolve(dir))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_and_dots_are_seen_through() {
        let dir = tempfile::tempdir().expect("tempdir");
        let root = resolve(dir.path());
        std::fs::create_dir_all(root.join("a/b")).expect("mkdir");
        std::os::unix::fs::symlink(root.join("a"), root.join("link")).expect("symlink");
        for (path, want) in [
            ("a/b", "a/b"),
            ("link/b", "a/b"),
            ("link/new/deep", "a/new/deep"),
            ("a/../a/b/../x", "a/x"),
            ("none/../a/b", "a/b"),
            ("none/deeper/../../a/x", "a/x"),
            ("a/none/../../../a", "../a"),
        ] {
            let want = match want.strip_prefix("../") {
                Some(rest) => root.parent().expect("parent").join(rest),
                None => root.join(want),
            };
            assert_eq!(resolve(&root.join(path)), want, "{path}");
        }
        assert!(beneath(&root.join("link/x"), &root.join("a")));
        assert!(beneath(&root.join("a"), &root.join("link")));
        assert!(!beneath(&root.join("ab"), &root.join("a")));
    }
}
