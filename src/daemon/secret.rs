//! Secrets that the daemon is given: in a file, by a program, or as a credential of systemd.

use crate::{limits, private_file};
use std::io::Read;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use zeroize::Zeroizing;

/// Where one is from.
pub(super) struct Source<'a> {
    /// What the configuration calls the file.
    pub file_key: &'static str,
    pub file: Option<&'a Path>,
    /// What the configuration calls the program.
    pub command_key: &'static str,
    /// The program and its arguments; empty: none.
    pub command: &'a [String],
    /// The name of a systemd credential that is taken if the configuration names neither.
    pub credential: String,
}

/// A secret, and where it is from.
pub(super) struct Found {
    text: Zeroizing<Vec<u8>>,
    from: String,
}

impl Found {
    /// What it is, by `parse`, which is told where it is from.
    ///
    /// # Errors
    /// Those of `parse`, with where it is from.
    pub fn parse<T>(
        &self,
        parse: impl FnOnce(&[u8], &str) -> Result<T, String>,
    ) -> Result<T, String> {
        parse(&self.text, &self.from).map_err(|why| format!("{}: {why}", self.from))
    }
}

impl Source<'_> {
    /// What is there; none if nothing is named. A command is waited for.
    ///
    /// # Errors
    /// What is wrong with the file or the command, or that there is a credential besides; what to do.
    /// Never a word of what is in it.
    pub fn read(&self) -> Result<Option<Found>, String> {
        let named = match (self.file, self.command.first()) {
            (Some(_), _) => self.file_key,
            (None, Some(_)) => self.command_key,
            (None, None) => return self.given().map(|path| self.load(&path)).transpose(),
        };
        if let Some(credential) = self.given() {
            let credential = credential.display();
            return Err(format!(
                "{named} is set, and there is a credential, {credential}: take one of the two away"
            ));
        }
        self.file.map_or_else(|| self.asked(), |file| self.load(file)).map(Some)
    }

    /// The credential.
    fn given(&self) -> Option<PathBuf> {
        let directory = PathBuf::from(std::env::var_os("CREDENTIALS_DIRECTORY")?);
        Some(directory.join(&self.credential)).filter(|file| file.exists())
    }

    fn load(&self, path: &Path) -> Result<Found, String> {
        let text = private_file::read(self.file_key, path, limits::SECRET_BYTES_MAX)?;
        Ok(Found { text, from: format!("{} {}", self.file_key, path.display()) })
    }

    /// What a command prints. Neither that nor what it says on stderr is repeated.
    fn asked(&self) -> Result<Found, String> {
        let (program, arguments) =
            self.command.split_first().ok_or_else(|| format!("{} is empty", self.command_key))?;
        let from = format!("{} {program}", self.command_key);
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
            let _nobody_waits_any_more = done.send(whole(output));
        };
        let read = std::thread::Builder::new().name("secret-read".into()).spawn(reader);
        let answer = match read {
            Ok(_) => answer.recv_timeout(limits::SECRET_COMMAND_TIMEOUT).ok(),
            Err(_) => None,
        };
        let whole =
            matches!(&answer, Some(Ok(text)) if text.len() as u64 <= limits::SECRET_BYTES_MAX);
        if !whole && let Ok(group) = i32::try_from(child.id()) {
            // It may have ended meanwhile.
            let group = rustix::process::Pid::from_raw(group);
            let _gone = group
                .map(|g| rustix::process::kill_process_group(g, rustix::process::Signal::KILL));
        }
        let status = child.wait().map_err(|e| failed(&format!("was lost: {e}")))?;
        match answer {
            None => {
                let seconds = limits::SECRET_COMMAND_TIMEOUT.as_secs();
                Err(failed(&format!("has printed no key within {seconds} s")))
            }
            Some(Err(error)) => Err(failed(&format!("can not be read from: {error}"))),
            Some(Ok(_)) if !whole => Err(failed("printed more than keys")),
            Some(Ok(_)) if !status.success() => Err(failed(&format!(
                "failed ({status}); run it by hand, as the user of the daemon"
            ))),
            Some(Ok(text)) => Ok(Found { text, from }),
        }
    }
}

/// All of it, up to one byte too many. Of its full length at once: what grows leaves copies behind.
fn whole(from: impl Read) -> std::io::Result<Zeroizing<Vec<u8>>> {
    let mut text = Zeroizing::new(Vec::with_capacity(limits::SECRET_BYTES_MAX as usize + 1));
    from.take(limits::SECRET_BYTES_MAX + 1).read_to_end(&mut text)?;
    Ok(text)
}

/// Asks on a thread of its own, again and again, until `ask` says that it was answered.
pub(super) fn ask_until(mut ask: impl FnMut() -> bool + Send + 'static) -> std::io::Result<()> {
    let asking = move || {
        while !ask() {
            std::thread::sleep(limits::SECRET_COMMAND_AGAIN);
        }
    };
    std::thread::Builder::new().name("secret".into()).spawn(asking).map(drop)
}
