//! Taking local bytes away, by permit.

use super::dir::stat_file;
use super::quiet::under_lease;
use super::stage::KeepTimes;
use super::{Lower, LowerError, Result};
use crate::faults;
use crate::recording::{ExpiryPermit, LowerVersion, NodeId, ReleasePermit};
use crate::sys::Lease;
use rustix::fs::{OFlags, RenameFlags};
use std::collections::HashSet;
use std::fs::File;
use std::path::{Path, PathBuf};

/// A file in `gone`, open so that its name does not matter.
#[derive(Debug)]
pub(super) struct Retired {
    name: Vec<u8>,
    path: PathBuf,
    file: File,
    /// What it was when it was taken away.
    version: LowerVersion,
    /// Passed over by the purge that ran right after it was taken away.
    seen: bool,
}

impl Lower {
    /// Takes the local bytes away: moves the file to the private directory if it is still the
    /// version of the permit and nobody has it open, and puts it back if somebody turned up. The
    /// bytes are removed by a later `purge`. Readers count too: in passthrough the kernel ties
    /// every open of a file to the lower file of the first, so that who opens it for writing
    /// while it is still being read would write to the copy that was taken away.
    ///
    /// # Errors
    /// `InUse`, `Changed`: the file is where it was.
    pub fn retire(&self, path: &Path, permit: ReleasePermit) -> Result<()> {
        self.take_away(path, permit.node(), permit.version(), || ())
    }

    /// The same for a recording that a rule lets go; `gone` is called while no name can change in
    /// its directory.
    ///
    /// # Errors
    /// `InUse`, `Changed`: the file is where it was.
    pub fn retire_expired(
        &self,
        path: &Path,
        permit: ExpiryPermit,
        gone: impl FnOnce(),
    ) -> Result<()> {
        match permit.version() {
            Some(version) => self.take_away(path, permit.node(), version, gone),
            None => Err(LowerError::Changed { path: path.to_owned() }),
        }
    }

    fn take_away(
        &self,
        path: &Path,
        node: NodeId,
        version: LowerVersion,
        gone: impl FnOnce(),
    ) -> Result<()> {
        let (dir, name) = self.parent_of(path)?;
        let _names = self.names_still_at(&dir)?;
        let _times = KeepTimes::of(&dir);
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOATIME;
        let file = dir.open(name, flags).map_err(LowerError::io(path))?;
        let changed = || LowerError::Changed { path: path.to_owned() };
        let aside = gone_name(node, version);
        under_lease(&file, Lease::Alone, path, || {
            let now = stat_file(&file).map_err(LowerError::io(path))?;
            if now.version != version || now.node != Some(node) {
                return Err(changed());
            }
            dir.rename(name, &self.private.gone, &aside, RenameFlags::NOREPLACE)
                .map_err(LowerError::io(path))
        })?;
        faults::point("release.after_gone");
        // A writer that had looked the name up before it moved is counted by now.
        if let Err(busy) = under_lease(&file, Lease::Alone, path, || Ok(())) {
            self.private
                .gone
                .rename(&aside, &dir, name, RenameFlags::NOREPLACE)
                .map_err(LowerError::io(path))?;
            return Err(busy);
        }
        let version = stat_file(&file).map_err(LowerError::io(path))?.version;
        let path = path.to_owned();
        self.retired.lock().push(Retired { name: aside, path, file, version, seen: false });
        gone();
        Ok(())
    }

    /// Removes what `retire` took away before the last purge. A file that got a writer after all
    /// is put back, and its path returned.
    pub fn purge(&self) -> Vec<PathBuf> {
        let mut due = Vec::new();
        self.retired.lock().retain_mut(|r| {
            let now = std::mem::replace(&mut r.seen, true);
            if now {
                due.push((r.name.clone(), r.path.clone(), r.file.try_clone(), r.version));
            }
            !now
        });
        let mut put_back = Vec::new();
        for (name, path, file, version) in due {
            // A writer that came and went in between counts as well as one that is still there.
            let quiet = file.is_ok_and(|f| {
                let look = || stat_file(&f).map_err(LowerError::io(&path));
                under_lease(&f, Lease::Alone, &path, look).is_ok_and(|now| now.version == version)
            });
            if quiet {
                faults::point("purge.before_removal");
                if let Err(errno) = self.private.gone.unlink(&name) {
                    tracing::warn!(path = %path.display(), %errno, "a released copy could not be removed");
                }
                faults::point("purge.after_removal");
            } else if self.put_back(&name, &path) {
                put_back.push(path);
            }
        }
        put_back
    }

    /// Whether anything that was taken away is still to be removed.
    pub fn has_retired(&self) -> bool {
        !self.retired.lock().is_empty()
    }

    fn put_back(&self, name: &[u8], path: &Path) -> bool {
        let back = self.parent_of(path).and_then(|(dir, old)| {
            let _names = self.names_still_at(&dir)?;
            let _times = KeepTimes::of(&dir);
            self.private
                .gone
                .rename(name, &dir, old, RenameFlags::NOREPLACE)
                .map_err(LowerError::io(path))
        });
        if let Err(error) = &back {
            self.keep_found(name);
            tracing::error!(%error, "a program wrote to a copy that was being released; \
                it is kept in .spl/found of the lower directory");
        }
        back.is_ok()
    }

    fn keep_found(&self, name: &[u8]) {
        let _best_effort =
            self.private.gone.rename(name, &self.private.found, name, RenameFlags::NOREPLACE);
    }

    /// Removes files without a name that no open handle needs any more.
    pub fn clear_held(&self, needed: &HashSet<NodeId>) {
        let needed: HashSet<Vec<u8>> =
            needed.iter().map(|id| id.to_string().into_bytes()).collect();
        for name in names(&self.private.open)
            .unwrap_or_default()
            .into_iter()
            .filter(|name| !needed.contains(name))
        {
            let _next_start_tries_again = self.private.open.unlink(&name);
        }
    }

    /// What a dead daemon left in the private directory. `stage` holds nothing that anybody can
    /// reach any more. `gone` holds copies whose release was committed; one that does
    /// not have the size and mtime it was released with is kept in `found`.
    pub(super) fn clear_leftovers(&self) {
        for name in names(&self.private.stage).unwrap_or_default() {
            let _next_start_tries_again = self.private.stage.unlink(&name);
        }
        for name in names(&self.private.gone).unwrap_or_default() {
            // A program that found the name just before it was taken away may have it open.
            let path = Path::new(".spl/gone");
            let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOATIME;
            let as_released = |file: File| {
                let look = || stat_file(&file).map_err(LowerError::io(path));
                let now = under_lease(&file, Lease::Alone, path, look);
                now.is_ok_and(|now| is_as_released(&name, now.version))
            };
            if self.private.gone.open(&name, flags).is_ok_and(as_released) {
                let _next_start_tries_again = self.private.gone.unlink(&name);
            } else {
                self.keep_found(&name);
                let name = String::from_utf8_lossy(&name).into_owned();
                tracing::error!(
                    name,
                    "an unexpected file was kept in .spl/found of the lower directory"
                );
            }
        }
    }
}

/// All names in a directory.
pub(super) fn names(dir: &super::Dir) -> rustix::io::Result<Vec<Vec<u8>>> {
    let mut names = Vec::new();
    let mut position = 0;
    let mut stream = dir.stream()?;
    loop {
        let before = names.len();
        stream.read(position, &mut |entry| {
            position = entry.next;
            names.push(entry.name.to_vec());
            true
        })?;
        if names.len() == before {
            return Ok(names);
        }
    }
}

/// Node, size, mtime and a random number: a recording may be released again before the last purge.
fn gone_name(id: NodeId, version: LowerVersion) -> Vec<u8> {
    let LowerVersion { size, mtime, .. } = version;
    let mtime = mtime.0.cast_unsigned();
    format!("{id}-{size}-{mtime:016x}-{:08x}", fastrand::u32(..)).into_bytes()
}

/// Whether a file of such a name is what was taken away. ctime moves with every rename; names of
/// an earlier version had no mtime.
pub(super) fn is_as_released(name: &[u8], now: LowerVersion) -> bool {
    let parts: Vec<&str> = std::str::from_utf8(name).unwrap_or_default().split('-').collect();
    let size = |text: &str| text.parse() == Ok(now.size);
    match parts.as_slice() {
        [_, bytes, _] => size(bytes),
        [_, bytes, mtime, _] => {
            size(bytes) && u64::from_str_radix(mtime, 16) == Ok(now.mtime.0.cast_unsigned())
        }
        _ => false,
    }
}
