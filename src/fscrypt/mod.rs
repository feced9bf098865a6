//! Encryption of what is on the local disk, by the kernel (fscrypt): which directories have it, the
//! key they need, and moving them in.
//!
//! **Invariants:** nothing is opened in a directory that is encrypted before its key was there:
//! without it names are nonsense, and would be taken for recordings. A key is never in an error, a
//! log or `Debug`.

mod disk;
mod key;
mod mirror;
mod settle;
mod setup;
mod tree;

pub use disk::Tables;
pub use key::LocalKey;
pub use setup::{Holds, Move, SetupError, Stage, Tell};

use crate::sys::fscrypt::{self as kernel, KeyName, Policy};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

/// A directory with recordings, or with what is known of them.
#[derive(Debug)]
pub struct Place {
    /// What it is for.
    pub what: &'static str,
    /// Where it is, for messages.
    pub path: PathBuf,
    dir: OwnedFd,
}

/// How a directory stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// Not encrypted by the kernel's fscrypt.
    Plain,
    /// Encrypted, and the key is there.
    Unlocked(KeyName),
    /// Encrypted, and the key is not there: names can not be read, nothing can be made.
    Locked(KeyName),
    /// Encrypted in a way that spoolfs does not know.
    Old,
}

/// Why an encrypted directory can not be used, or one that is not encrypted may not be.
#[derive(Debug, thiserror::Error)]
pub enum Refused {
    /// The directory could not be looked at.
    #[error("{what} {path} can not be looked at: {source}")]
    Io {
        /// What it is for.
        what: &'static str,
        /// Which.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// No key is configured.
    #[error(
        "{what} {path} is encrypted, and its key is not there: until it is, nothing can be recorded \
         into it, with spoolfs or without. Set local_key_file in [encryption] to the file with the \
         key, or give the service a credential `local-key` (docs/SECURITY.md)"
    )]
    NoKey {
        /// What it is for.
        what: &'static str,
        /// Which.
        path: PathBuf,
    },
    /// The key can not be had.
    #[error(
        "{what} {path} is encrypted, and its key can not be had: {why}. Until it is there nothing can \
         be recorded into it, with spoolfs or without"
    )]
    BadKey {
        /// What it is for.
        what: &'static str,
        /// Which.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
    /// It is another key.
    #[error(
        "{what} {path} is encrypted with another key than that in {key}: give the one that it was \
         set up with, or restore it from where the copy is kept. Until it is there nothing can be \
         recorded into it, with spoolfs or without"
    )]
    OtherKey {
        /// What it is for.
        what: &'static str,
        /// Which.
        path: PathBuf,
        /// The file with the wrong key.
        key: PathBuf,
    },
    /// It is not encrypted and must be.
    #[error(
        "require_local_encryption is set, and {what} {path} is not encrypted: {why}. Run \"spoolfs \
         setup-encryption\" with spoolfs stopped, or put it on a disk that LUKS encrypts"
    )]
    Unencrypted {
        /// What it is for.
        what: &'static str,
        /// Which.
        path: PathBuf,
        /// What it is on.
        why: String,
    },
}

impl Place {
    /// The directory at `path`, or as much of the way to it as there is: what is made in an
    /// encrypted directory is encrypted too.
    ///
    /// # Errors
    /// As `open`.
    pub fn at(what: &'static str, path: &Path) -> Result<Place, Refused> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let mut on_the_way = path.ancestors();
        let opened = loop {
            let Some(at) = on_the_way.next() else { break Err(Errno::NOENT) };
            match rustix::fs::open(at, flags, Mode::empty()) {
                Err(Errno::NOENT) => {}
                opened => break opened,
            }
        };
        let io = |errno: Errno| Refused::Io { what, path: path.to_owned(), source: errno.into() };
        Ok(Place { what, path: path.to_owned(), dir: opened.map_err(io)? })
    }

    /// A directory that is open already, and that another mount may cover.
    ///
    /// # Errors
    /// As `dup`.
    pub fn open(what: &'static str, path: &Path, dir: BorrowedFd<'_>) -> Result<Place, Refused> {
        let dir = dir.try_clone_to_owned();
        let io = |source| Refused::Io { what, path: path.to_owned(), source };
        Ok(Place { what, path: path.to_owned(), dir: dir.map_err(io)? })
    }

    /// How it stands.
    ///
    /// # Errors
    /// As `ioctl`.
    pub fn standing(&self) -> Result<Standing, Refused> {
        let io = |source| self.io(source);
        Ok(match kernel::policy(&self.dir).map_err(io)? {
            Policy::None => Standing::Plain,
            Policy::Old => Standing::Old,
            Policy::Key(name) if kernel::has_key(&self.dir, name).map_err(io)? => {
                Standing::Unlocked(name)
            }
            Policy::Key(name) => Standing::Locked(name),
        })
    }

    /// Sees to it that what is in it can be read and written: gives its file system the key, if it
    /// needs one. Tells whether it did.
    ///
    /// # Errors
    /// What is missing, and what to do.
    pub fn unlock(&self, key_file: Option<&Path>) -> Result<bool, Refused> {
        let Standing::Locked(wanted) = self.standing()? else { return Ok(false) };
        let (what, path) = (self.what, self.path.clone());
        let key = match LocalKey::configured(key_file) {
            Ok(Some(key)) => key,
            Ok(None) => return Err(Refused::NoKey { what, path }),
            Err(why) => return Err(Refused::BadKey { what, path, why }),
        };
        let given = key.give_to(&self.dir).map_err(|source| self.io(source))?;
        if given == wanted {
            return Ok(true);
        }
        // Of no use there.
        if let Err(error) = kernel::remove_key(&self.dir, given) {
            tracing::debug!(%error, "a key that fits nothing stays in the kernel until a restart");
        }
        Err(Refused::OtherKey { what, path, key: key.path().to_owned() })
    }

    /// Whether nobody can read it from the disk alone: by fscrypt, or because of what it lies on.
    ///
    /// # Errors
    /// Why not, and what to do.
    pub fn require_encryption(&self, tables: &Tables) -> Result<(), Refused> {
        match self.standing()? {
            Standing::Plain => disk::encrypted(tables, &self.dir).map_err(|why| {
                Refused::Unencrypted { what: self.what, path: self.path.clone(), why }
            }),
            Standing::Unlocked(_) | Standing::Locked(_) | Standing::Old => Ok(()),
        }
    }

    fn io(&self, source: io::Error) -> Refused {
        Refused::Io { what: self.what, path: self.path.clone(), source }
    }
}

impl AsFd for Place {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.dir.as_fd()
    }
}
