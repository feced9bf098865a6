//! Files with secrets, which are read only if nobody else can read them.

use std::fs::File;
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use zeroize::Zeroizing;

/// Reads a file of at most `bytes_max` bytes that belongs to root, or to the user of this process,
/// and that nobody else may read. `key` is what the configuration calls it.
///
/// # Errors
/// What is wrong with the file, and what to do; never a word of what is in it.
pub fn read(key: &str, path: &Path, bytes_max: u64) -> Result<Zeroizing<Vec<u8>>, String> {
    let name = path.display();
    let unreadable = |e: std::io::Error| format!("{key} {name} can not be read: {e}");
    let file = File::open(path).map_err(unreadable)?;
    let stat = file.metadata().map_err(unreadable)?;
    if !stat.is_file() {
        return Err(format!("{key} {name} is no file"));
    }
    let (mode, own) = (stat.mode() & 0o7777, rustix::process::geteuid().as_raw());
    if mode & 0o077 != 0 {
        return Err(format!(
            "{key} {name} has mode {mode:04o}, so that others may read it: chmod 400 {name}"
        ));
    }
    if stat.uid() != 0 && stat.uid() != own {
        let uid = stat.uid();
        return Err(format!("{key} {name} belongs to user {uid}: chown root {name}"));
    }
    // Of its full length at once: what grows leaves copies behind.
    let room = usize::try_from(bytes_max).map_or(usize::MAX, |max| max.saturating_add(1));
    let mut content = Zeroizing::new(Vec::with_capacity(room));
    file.take(bytes_max.saturating_add(1)).read_to_end(&mut content).map_err(unreadable)?;
    if content.len() as u64 > bytes_max {
        return Err(format!("{key} {name} is too long to be one"));
    }
    Ok(content)
}
