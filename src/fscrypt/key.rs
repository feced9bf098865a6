//! The key of the local disk's encryption.

use crate::private_file;
use crate::sys::fscrypt::{self as kernel, KEY_BYTES, KeyName};
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use zeroize::Zeroizing;

/// What the configuration calls its file.
const KEY: &str = "local_key_file";
/// The name of a systemd credential that is taken if the configuration names no file.
const CREDENTIAL: &str = "local-key";

/// A key: 64 random bytes. Overwritten when it is dropped.
pub struct LocalKey {
    bytes: Zeroizing<[u8; KEY_BYTES]>,
    /// Where it came from.
    path: PathBuf,
}

impl std::fmt::Debug for LocalKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "LocalKey({})", self.path.display())
    }
}

impl LocalKey {
    /// The key in the configured file, else in the systemd credential `local-key`, else none.
    ///
    /// # Errors
    /// What is wrong with the file, and what to do.
    pub fn configured(file: Option<&Path>) -> Result<Option<LocalKey>, String> {
        file.map(Path::to_owned).or_else(credential).map(|path| LocalKey::read(&path)).transpose()
    }

    /// Reads a file that holds nothing but the key, and that root alone can read.
    ///
    /// # Errors
    /// What is wrong with the file, and what to do.
    pub fn read(path: &Path) -> Result<LocalKey, String> {
        let wrong = |found: &str| {
            format!(
                "{KEY} {} holds {found}, a key is {KEY_BYTES}: name the file that \"spoolfs \
                 setup-encryption --make-key\" made, as it was made",
                path.display()
            )
        };
        let content = match private_file::read(KEY, path, KEY_BYTES as u64) {
            Err(why) if why.ends_with("too long to be one") => {
                return Err(wrong("more bytes"));
            }
            content => content?,
        };
        let mut bytes = Zeroizing::new([0; KEY_BYTES]);
        if content.len() != KEY_BYTES {
            return Err(wrong(&format!("{} bytes", content.len())));
        }
        bytes.copy_from_slice(&content);
        if bytes.iter().all(|byte| *byte == bytes[0]) {
            return Err(wrong("one byte over and over"));
        }
        Ok(LocalKey { bytes, path: path.to_owned() })
    }

    /// One that nobody else has, to try things with.
    ///
    /// # Errors
    /// There are no random bytes.
    pub(super) fn random() -> io::Result<LocalKey> {
        let mut bytes = Zeroizing::new([0; KEY_BYTES]);
        File::open("/dev/urandom")?.read_exact(&mut *bytes)?;
        Ok(LocalKey { bytes, path: PathBuf::new() })
    }

    /// Makes a new one in a new file that root alone can read, and gets it onto the disk.
    ///
    /// # Errors
    /// As `open`: a file that is there is never touched.
    pub fn make(path: &Path) -> io::Result<LocalKey> {
        let key = LocalKey { path: path.to_owned(), ..LocalKey::random()? };
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o400).open(path)?;
        file.write_all(&*key.bytes)?;
        file.sync_all()?;
        File::open(path.parent().unwrap_or(Path::new("/")))?.sync_all()?;
        Ok(key)
    }

    /// Where it came from.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Gives it to the file system that `dir` is on, for all processes until it is unmounted.
    ///
    /// # Errors
    /// As `ioctl`.
    pub fn give_to(&self, dir: impl AsFd) -> io::Result<KeyName> {
        kernel::add_key(dir, &self.bytes)
    }
}

fn credential() -> Option<PathBuf> {
    let directory = PathBuf::from(std::env::var_os("CREDENTIALS_DIRECTORY")?);
    Some(directory.join(CREDENTIAL)).filter(|file| file.exists())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::{self, Permissions};
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn a_key_is_64_bytes_that_root_alone_can_read() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key");
        let made = LocalKey::make(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o7777, 0o400);
        assert_eq!(LocalKey::read(&path).unwrap().bytes, made.bytes);
        assert_eq!(LocalKey::make(&path).unwrap_err().kind(), io::ErrorKind::AlreadyExists);
        let hex: String = made.bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        assert!(!format!("{made:?}").contains(&hex[..8]) && format!("{made:?}").contains("key"));

        fs::set_permissions(&path, Permissions::from_mode(0o440)).unwrap();
        assert!(LocalKey::read(&path).unwrap_err().contains("chmod 400"));
        fs::remove_file(&path).unwrap();
        for (bytes, why) in [
            (made.bytes[..63].to_vec(), "holds 63 bytes, a key is 64"),
            ([&made.bytes[..], b"\n"].concat(), "holds more bytes, a key is 64"),
            (vec![0; 64], "one byte over and over"),
        ] {
            fs::write(&path, &bytes).unwrap();
            fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
            let said = LocalKey::read(&path).unwrap_err();
            assert!(said.contains(why) && said.contains("--make-key"), "{said}");
        }
        assert!(LocalKey::read(dir.path()).unwrap_err().contains("no file"));
    }
}
