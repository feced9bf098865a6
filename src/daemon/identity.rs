//! The secret keys that open sealed recordings.

use crate::codec::seal::Identities;
use crate::config::Config;
use crate::{limits, private_file};
use std::io::Read;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use zeroize::Zeroizing;

/// The name of a systemd credential that is taken if the configuration names no file.
const CREDENTIAL: &str = "identity";

/// Those of the configuration, else of a systemd credential, else none. A command is waited for.
///
/// # Errors
/// What is wrong with the file or the command, or that there is a credential besides; what to do.
pub fn identities(config: &Config) -> Result<Identities, String> {
    let read = &config.read;
    let named = match (&read.identity_file, read.identity_command.is_empty()) {
        (Some(_), _) => "identity_file",
        (None, false) => "identity_command",
        (None, true) => return credential().map_or(Ok(Identities::default()), |c| load(&c)),
    };
    if let Some(credential) = credential() {
        let credential = credential.display();
        return Err(format!(
            "{named} is set, and there is a credential, {credential}: take one of the two away"
        ));
    }
    match &read.identity_file {
        Some(file) => load(file),
        None => asked(&read.identity_command),
    }
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
    let ask = move || {
        loop {
            match identities(&config) {
                Ok(identities) => {
                    found.become_as(&identities);
                    return tell(&config, &found);
                }
                Err(error) => {
                    tracing::error!(error, "sealed recordings can not be read; it is asked again");
                    found.become_as(&Identities::awaited(&error));
                }
            }
            std::thread::sleep(limits::IDENTITY_COMMAND_AGAIN);
        }
    };
    if let Err(error) = std::thread::Builder::new().name("identity".into()).spawn(ask) {
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

fn credential() -> Option<PathBuf> {
    let directory = PathBuf::from(std::env::var_os("CREDENTIALS_DIRECTORY")?);
    Some(directory.join(CREDENTIAL)).filter(|file| file.exists())
}

/// What a command prints. Neither that nor what it says on stderr is repeated.
fn asked(command: &[String]) -> Result<Identities, String> {
    let Some((program, arguments)) = command.split_first() else {
        return Ok(Identities::default());
    };
    let from = format!("identity_command {program}");
    let failed = |what: &str| format!("{from} {what}");
    let mut child = Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        // What it started ends with it.
        .process_group(0)
        .spawn()
        .map_err(|e| failed(&format!("can not be run: {e}")))?;
    let output = child.stdout.take().ok_or_else(|| failed("has no output"))?;
    let (done, answer) = crossbeam_channel::bounded(1);
    let reader = move || {
        let _nobody_waits_any_more = done.send(secret(output));
    };
    let read = std::thread::Builder::new().name("identity-read".into()).spawn(reader);
    let answer = match read {
        Ok(_) => answer.recv_timeout(limits::IDENTITY_COMMAND_TIMEOUT).ok(),
        Err(_) => None,
    };
    let whole =
        matches!(&answer, Some(Ok(text)) if text.len() as u64 <= limits::IDENTITY_BYTES_MAX);
    if !whole && let Ok(group) = i32::try_from(child.id()) {
        // It may have ended meanwhile.
        let group = rustix::process::Pid::from_raw(group);
        let _gone =
            group.map(|g| rustix::process::kill_process_group(g, rustix::process::Signal::KILL));
    }
    let status = child.wait().map_err(|e| failed(&format!("was lost: {e}")))?;
    match answer {
        None => {
            let seconds = limits::IDENTITY_COMMAND_TIMEOUT.as_secs();
            Err(failed(&format!("has printed no key within {seconds} s")))
        }
        Some(Err(error)) => Err(failed(&format!("can not be read from: {error}"))),
        Some(Ok(_)) if !whole => Err(failed("printed more than keys")),
        Some(Ok(_)) if !status.success() => {
            Err(failed(&format!("failed ({status}); run it by hand, as the user of the daemon")))
        }
        Some(Ok(text)) => Identities::parse(&text, &from).map_err(|why| format!("{from}: {why}")),
    }
}

/// All of it, up to one byte too many. Of its full length at once: what grows leaves copies behind.
fn secret(from: impl Read) -> std::io::Result<Zeroizing<Vec<u8>>> {
    let mut text = Zeroizing::new(Vec::with_capacity(limits::IDENTITY_BYTES_MAX as usize + 1));
    from.take(limits::IDENTITY_BYTES_MAX + 1).read_to_end(&mut text)?;
    Ok(text)
}

fn load(path: &Path) -> Result<Identities, String> {
    let text = private_file::read("identity_file", path, limits::IDENTITY_BYTES_MAX)?;
    let from = format!("identity_file {}", path.display());
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
