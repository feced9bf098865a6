//! A note in the runtime directory of where `mount --mountpoint` mounted, so that commands with the
//! same configuration speak of that mount. It stays after a stop, for `fsck` and `rebuild`, until
//! the next start.

use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

/// Notes the directory that the command line named; none: the configuration's is meant.
///
/// # Errors
/// As writing a file.
pub(crate) fn note(runtime_dir: &Path, mountpoint: Option<&Path>) -> io::Result<()> {
    // In one step: who reads it meanwhile finds the one before or this one.
    let place = place(runtime_dir);
    let new = place.with_extension("new");
    std::fs::write(&new, mountpoint.map_or(&[][..], |path| path.as_os_str().as_bytes()))?;
    std::fs::rename(new, place)
}

/// Where the daemon was told to mount when it was started last, if not where the configuration says.
pub(crate) fn noted(runtime_dir: &Path) -> Option<PathBuf> {
    let path = PathBuf::from(std::ffi::OsString::from_vec(std::fs::read(place(runtime_dir)).ok()?));
    path.is_absolute().then_some(path)
}

fn place(runtime_dir: &Path) -> PathBuf {
    runtime_dir.join("mountpoint")
}
