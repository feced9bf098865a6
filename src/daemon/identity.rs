//! The secret keys that open sealed recordings.

use crate::codec::seal::Identities;
use crate::config::Config;
use crate::limits;
use std::fs::File;
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use zeroize::Zeroizing;

/// The name of a systemd credential that is taken if the configuration names no file.
const CREDENTIAL: &str = "identity";

/// Those of the configuration, else of a systemd credential, else none.
///
/// # Errors
/// What is wrong with the file, and what to do.
pub fn identities(config: &Config) -> Result<Identities, String> {
    match config.read.identity_file.clone().or_else(credential) {
        Some(file) => load(&file),
        None => Ok(Identities::default()),
    }
}

/// The same; without them, recordings are recorded and archived all the same.
pub(super) fn identities_or_none(config: &Config) -> Identities {
    let identities = identities(config).unwrap_or_else(|error| {
        tracing::error!(error, "sealed recordings can not be read");
        Identities::none(&error)
    });
    if let Some(recipients) = &config.write_back.encrypt_to {
        if identities.is_empty() {
            tracing::info!(
                "recordings are sealed, and can not be read here once they are released"
            );
        } else if !identities.open_what_is_for(recipients) {
            tracing::warn!(
                keys = identities.told(),
                "no key in it opens what is sealed to encrypt_to: what is archived from now on can \
                 not be read here once it is released"
            );
        }
    }
    identities
}

fn credential() -> Option<PathBuf> {
    let directory = PathBuf::from(std::env::var_os("CREDENTIALS_DIRECTORY")?);
    Some(directory.join(CREDENTIAL)).filter(|file| file.exists())
}

fn load(path: &Path) -> Result<Identities, String> {
    let name = path.display();
    let unreadable = |e: std::io::Error| format!("identity_file {name} can not be read: {e}");
    let file = File::open(path).map_err(unreadable)?;
    let stat = file.metadata().map_err(unreadable)?;
    if !stat.is_file() {
        return Err(format!("identity_file {name} is no file"));
    }
    let (mode, own) = (stat.mode() & 0o7777, rustix::process::geteuid().as_raw());
    if mode & 0o077 != 0 {
        return Err(format!(
            "identity_file {name} has mode {mode:04o}, so that others may read it: chmod 400 {name}"
        ));
    }
    if stat.uid() != 0 && stat.uid() != own {
        let uid = stat.uid();
        return Err(format!("identity_file {name} belongs to user {uid}: chown root {name}"));
    }
    // Of its full length at once: what grows leaves copies behind.
    let mut text = Zeroizing::new(Vec::with_capacity(limits::IDENTITY_BYTES_MAX as usize + 1));
    file.take(limits::IDENTITY_BYTES_MAX + 1).read_to_end(&mut text).map_err(unreadable)?;
    if text.len() as u64 > limits::IDENTITY_BYTES_MAX {
        return Err(format!("identity_file {name} is too long to be one"));
    }
    let from = format!("identity_file {name}");
    Identities::parse(&text, &from).map_err(|why| format!("{from}: {why}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::{self, Permissions};
    use std::os::unix::fs::PermissionsExt;

    /// Of the tests of the age crate.
    const SECRET: &str =
        "AGE-SECRET-KEY-1GQ9778VQXMMJVE8SK7J6VT8UJ4HDQAJUVSFCWCM02D8GEWQ72PVQ2Y5J33";

    #[test]
    fn a_file_that_others_may_read_is_not_used() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("identity");
        fs::write(&path, format!("# created: today\n{SECRET}\n")).unwrap();
        for (mode, good) in [(0o400, true), (0o600, true), (0o440, false), (0o604, false)] {
            fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
            let loaded = load(&path);
            assert_eq!(loaded.is_ok(), good, "{mode:o}: {loaded:?}");
            if let Err(why) = loaded {
                assert!(why.contains("chmod 400") && !why.contains(SECRET), "{why}");
            }
        }
    }

    #[test]
    fn what_is_no_key_is_told_without_a_word_of_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("identity");
        for text in ["hunter2", "", &SECRET[..40]] {
            fs::write(&path, text).unwrap();
            fs::set_permissions(&path, Permissions::from_mode(0o400)).unwrap();
            let why = load(&path).unwrap_err();
            assert!(!why.contains("hunter2") && !why.contains("SECRET-KEY-1G"), "{why}");
            fs::remove_file(&path).unwrap();
        }
        assert!(load(&path).unwrap_err().contains("can not be read"));
        assert!(load(dir.path()).unwrap_err().contains("no file"));
    }
}
