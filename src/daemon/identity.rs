//! The secret keys that open sealed recordings.

use super::secret::{self, Source};
use crate::codec::seal::Identities;
use crate::config::Config;
use std::path::Path;

fn source<'a>(file: Option<&'a Path>, command: &'a [String]) -> Source<'a> {
    let (file_key, command_key) = ("identity_file", "identity_command");
    Source { file_key, file, command_key, command, credential: "identity".into() }
}

/// Those of the configuration, else of a systemd credential, else none. A command is waited for.
///
/// # Errors
/// What is wrong with the file or the command, or that there is a credential besides; what to do.
pub fn identities(config: &Config) -> Result<Identities, String> {
    found(&source(config.read.identity_file.as_deref(), &config.read.identity_command))
}

fn found(source: &Source<'_>) -> Result<Identities, String> {
    let found = source.read()?;
    found.map_or_else(|| Ok(Identities::default()), |found| found.parse(Identities::parse))
}

/// The same; without them, recordings are recorded and archived all the same. What a command answers
/// comes later: nobody waits for it to be recorded.
pub(super) fn identities_or_none(config: &Config) -> Identities {
    if config.read.identity_command.is_empty() {
        let identities = identities(config).unwrap_or_else(|error| {
            tracing::error!(error, "sealed recordings can not be read");
            Identities::none(&error)
        });
        tell(config, &identities);
        return identities;
    }
    let later = Identities::awaited("identity_command has not answered yet");
    let (config, found) = (config.clone(), later.clone());
    let ask = move || match identities(&config) {
        Ok(identities) => {
            found.become_as(&identities);
            tell(&config, &found);
            true
        }
        Err(error) => {
            tracing::error!(error, "sealed recordings can not be read; it is asked again");
            found.become_as(&Identities::awaited(&error));
            false
        }
    };
    if let Err(error) = secret::ask_until(ask) {
        later.become_as(&Identities::none(&format!("identity_command was not run: {error}")));
    }
    later
}

/// Tells whether they are of use.
fn tell(config: &Config, identities: &Identities) {
    let sealed = config.sealed_to();
    if sealed.is_empty() {
        return;
    }
    if identities.is_empty() {
        tracing::info!("recordings are sealed, and can not be read here once they are released");
        return;
    }
    for (place, to) in sealed {
        if !identities.open_what_is_for(&to) {
            let keys = &*identities.told();
            tracing::warn!(
                keys,
                "no key in it opens what is sealed to encrypt_to of {place}: what is archived so \
                 from now on can not be read here once it is released"
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::{self, Permissions};
    use std::os::unix::fs::PermissionsExt;

    /// Of the tests of the age crate.
    const SECRET: &str =
        "AGE-SECRET-KEY-1GQ9778VQXMMJVE8SK7J6VT8UJ4HDQAJUVSFCWCM02D8GEWQ72PVQ2Y5J33";

    fn load(path: &Path) -> Result<Identities, String> {
        found(&source(Some(path), &[]))
    }

    fn asked(command: &[String]) -> Result<Identities, String> {
        found(&source(None, command))
    }

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
    fn a_command_is_asked_and_nothing_that_it_prints_is_told() {
        let run = |text: &str| asked(&["/bin/sh", "-c", text].map(str::to_owned));
        let keys = run(&format!("echo '# key'; echo {SECRET}; echo hunter2 >&2")).unwrap();
        assert!(!keys.is_empty() && keys.told().contains("identity_command /bin/sh"));
        for (text, said) in [
            (format!("echo {SECRET}; exit 3"), "failed (exit status: 3)"),
            (format!("echo {SECRET}hunter2"), "no secret key of age"),
            ("true".to_owned(), "no secret key in it"),
            ("while :; do echo hunter2; done".to_owned(), "more than keys"),
        ] {
            let why = run(&text).unwrap_err();
            assert!(why.contains(said), "{text}: {why}");
            assert!(!why.contains("hunter2") && !why.contains("SECRET-KEY-1G"), "{why}");
        }
        let why = asked(&["/nowhere/at/all".to_owned()]).unwrap_err();
        assert!(why.contains("can not be run"), "{why}");
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
