//! Moves a directory into one of the same name that is encrypted.
//!
//! 1. An encrypted directory is made beside it, and made like it: copied, and compared by SHA-256 with
//!    what the disk holds.
//! 2. When a whole look finds nothing changed and no writer, the two exchange their names, in one step.
//! 3. What is in the old one is compared once more. What somebody changed in the last moment is
//!    brought after. Then the old one is overwritten with zeros and removed.
//!
//! Where it is follows from the two directories alone, so it can be cut off anywhere and begun again.
//!
//! **Invariant:** before the exchange the old directory, after it the new one has everything; and
//! nothing in the old one is removed that was not seen to be in the new one.

use super::key::LocalKey;
use super::mirror::Mirror;
use super::tree::{Dir, alike};
use super::{Place, Standing, settle};
use crate::clock::Timestamp;
use crate::faults;
use crate::sys::fscrypt::{self as kernel, KeyName};
use rustix::fs::{CWD, Mode, RenameFlags, XattrFlags};
use rustix::io::Errno;
use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};

/// On the old directory: until when what was changed is in the new one, in nanoseconds of 1970.
pub(super) const MARK: &str = "trusted.spoolfs.moved";

/// Why a directory is not, or not completely, moved.
#[derive(Debug, thiserror::Error)]
pub enum SetupError {
    /// A step with a file failed.
    #[error("{path}: {source}")]
    Io {
        /// Which.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// It can not be done, or not now.
    #[error("{0}")]
    Unfit(String),
}

impl SetupError {
    pub(super) fn io(path: &Path, source: io::Error) -> SetupError {
        SetupError::Io { path: path.to_owned(), source }
    }

    pub(super) fn at(path: &Path) -> impl FnOnce(Errno) -> SetupError + use<> {
        let path = path.to_owned();
        move |errno| SetupError::Io { path, source: errno.into() }
    }
}

type Result<T> = std::result::Result<T, SetupError>;

/// How far a directory is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Not begun.
    Plain,
    /// What is in it is being copied.
    Copying,
    /// The encrypted one has its name; the old one is still there.
    Exchanged,
    /// Encrypted, and nothing is left to do.
    Done,
}

/// What a directory holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Holds {
    /// Files of any kind.
    pub files: u64,
    /// Bytes that they take up on the disk.
    pub bytes: u64,
}

/// Told while it goes on: what is done, and with which file.
pub type Tell<'a> = &'a dyn Fn(&str, &Path);

/// A directory to be moved.
#[derive(Debug)]
pub struct Move {
    dir: PathBuf,
    /// First the new one, then the old one.
    beside: PathBuf,
}

impl Move {
    /// Of the directory at `dir`, which must exist, with nothing of ours mounted over it.
    ///
    /// # Errors
    /// It can not be looked at, or is the root of a file system.
    pub fn of(dir: &Path) -> Result<Move> {
        let dir = dir.canonicalize().map_err(|e| SetupError::io(dir, e))?;
        let (Some(parent), Some(name)) = (dir.parent(), dir.file_name()) else {
            return Err(SetupError::Unfit("/ can not be moved".into()));
        };
        let stat = |path: &Path| rustix::fs::stat(path).map_err(SetupError::at(path));
        if stat(parent)?.st_dev != stat(&dir)?.st_dev {
            return Err(SetupError::Unfit(format!(
                "{} is the root of a file system, which the kernel does not encrypt: mount that file \
                 system elsewhere and make the directory in it, or put it on a disk that LUKS encrypts",
                dir.display()
            )));
        }
        let mut beside = OsString::from(".");
        beside.push(name);
        beside.push(".spoolfs-encryption");
        Ok(Move { beside: parent.join(beside), dir })
    }

    /// The directory of the other name: the new one before the exchange, the old one after it.
    pub fn beside(&self) -> &Path {
        &self.beside
    }

    /// How far it is.
    ///
    /// # Errors
    /// What is beside it was not made by this.
    pub fn stage(&self) -> Result<Stage> {
        let there = std::fs::symlink_metadata(&self.beside).is_ok();
        let beside = if there { Some(standing(&self.beside)?) } else { None };
        let strange = || {
            SetupError::Unfit(format!(
                "{} is there, and is not what setup-encryption leaves: look at it, and move it away",
                self.beside.display()
            ))
        };
        match (standing(&self.dir)?, beside) {
            (Standing::Plain, None) => Ok(Stage::Plain),
            (Standing::Plain, Some(Standing::Unlocked(_) | Standing::Locked(_))) => {
                Ok(Stage::Copying)
            }
            // Cut off between making it and giving it its policy.
            (Standing::Plain, Some(_)) if Dir::open(&self.beside)?.names()?.is_empty() => {
                Ok(Stage::Copying)
            }
            (Standing::Unlocked(_) | Standing::Locked(_), Some(Standing::Plain)) => {
                if self.mark()?.is_some() { Ok(Stage::Exchanged) } else { Err(strange()) }
            }
            (Standing::Unlocked(_) | Standing::Locked(_) | Standing::Old, None) => Ok(Stage::Done),
            _ => Err(strange()),
        }
    }

    /// What is to be copied.
    ///
    /// # Errors
    /// Something can not be looked at.
    pub fn holds(&self) -> Result<Holds> {
        let mut holds = Holds::default();
        count(&Dir::open(&self.dir)?, &mut holds)?;
        Ok(holds)
    }

    /// Whether the file system can encrypt, and has room for a copy of this size.
    ///
    /// # Errors
    /// Why not, and what to do.
    pub fn check(&self, holds: Holds) -> Result<()> {
        self.can_encrypt()?;
        let stat = rustix::fs::statvfs(&self.dir).map_err(SetupError::at(&self.dir))?;
        let free = stat.f_bfree.saturating_mul(stat.f_frsize);
        let mut there = Holds::default();
        if self.stage()? == Stage::Copying {
            count(&Dir::open(&self.beside)?, &mut there)?;
        }
        // A fiftieth for directories.
        let needed = (holds.bytes + holds.bytes / 50).saturating_sub(there.bytes);
        if needed < free {
            return Ok(());
        }
        let humane = crate::units::humane_size;
        Err(SetupError::Unfit(format!(
            "{}: a copy takes {}, and {} are free on its disk: release recordings (spoolfs release) or \
             make room",
            self.dir.display(),
            humane(needed),
            humane(free)
        )))
    }

    /// Found out with a key that is taken away again.
    fn can_encrypt(&self) -> Result<()> {
        let dir = Dir::open(&self.dir)?;
        let probe = LocalKey::random().map_err(|e| SetupError::io(&self.dir, e))?;
        let path = self.dir.display();
        match probe.give_to(&dir.fd).map_err(|error| (error.raw_os_error(), error)) {
            Ok(name) => kernel::remove_key(&dir.fd, name).map_err(|e| SetupError::io(&self.dir, e)),
            Err((Some(libc::EOPNOTSUPP), _)) => Err(SetupError::Unfit(format!(
                "the file system of {path} could encrypt, but it is not turned on: \"tune2fs -O encrypt \
                 DEVICE\" for ext4 (it may stay mounted; `findmnt -T {path}` tells the device), \
                 \"fsck.f2fs -O encrypt DEVICE\" for f2fs (unmounted)"
            ))),
            Err((Some(libc::ENOTTY), _)) => Err(SetupError::Unfit(format!(
                "the file system of {path} can not encrypt directories; ext4 and f2fs can, any other \
                 needs a disk that LUKS encrypts"
            ))),
            Err((_, error)) => Err(SetupError::io(&self.dir, error)),
        }
    }

    /// Does what is left to do. `lock` is called with the new directory before it gets the name, and
    /// keeps others out of it.
    ///
    /// # Errors
    /// What is in the way. Begun again, it goes on from there.
    pub fn run<L>(
        &self,
        key: &LocalKey,
        now: &dyn Fn() -> Timestamp,
        lock: &mut dyn FnMut(&Path) -> Result<L>,
        tell: Tell<'_>,
    ) -> Result<()> {
        crate::sys::ignore_sigio();
        let mut held = None;
        loop {
            match self.stage()? {
                Stage::Plain => {
                    let mode = Mode::RWXU;
                    rustix::fs::mkdir(&self.beside, mode).map_err(SetupError::at(&self.beside))?;
                    faults::point("setup.after_dir");
                }
                Stage::Copying => {
                    self.encrypt(key)?;
                    self.fill(now, tell)?;
                    held = Some(lock(&self.beside)?);
                    self.exchange(tell)?;
                }
                Stage::Exchanged => {
                    self.unlock(&self.dir, key)?;
                    settle::settle(&self.beside, &self.dir, self.mark()?, tell)?;
                    faults::point("setup.before_end");
                    rustix::fs::rmdir(&self.beside).map_err(SetupError::at(&self.beside))?;
                    self.sync_parent()?;
                }
                Stage::Done => {
                    drop(held);
                    return Ok(());
                }
            }
        }
    }

    /// Gives the new directory its policy.
    fn encrypt(&self, key: &LocalKey) -> Result<()> {
        let dir = Dir::open(&self.beside)?;
        let io = |error| SetupError::io(&self.beside, error);
        let name = key.give_to(&dir.fd).map_err(io)?;
        match standing(&self.beside)? {
            Standing::Plain => kernel::set_policy(&dir.fd, name).map_err(io)?,
            Standing::Unlocked(has) if has == name => {}
            _ => return Err(self.other_key(&self.beside, key)),
        }
        faults::point("setup.after_policy");
        Ok(())
    }

    fn unlock(&self, dir: &Path, key: &LocalKey) -> Result<()> {
        let open = Dir::open(dir)?;
        let given: KeyName = key.give_to(&open.fd).map_err(|error| SetupError::io(dir, error))?;
        match standing(dir)? {
            Standing::Unlocked(name) if name == given => Ok(()),
            _ => Err(self.other_key(dir, key)),
        }
    }

    fn other_key(&self, dir: &Path, key: &LocalKey) -> SetupError {
        SetupError::Unfit(format!(
            "{} was begun with another key than that in {}: give that one",
            dir.display(),
            key.path().display()
        ))
    }

    /// Makes the new directory like the old one, until a whole look finds nothing to do.
    fn fill(&self, now: &dyn Fn() -> Timestamp, tell: Tell<'_>) -> Result<()> {
        let (old, new) = (Dir::open(&self.dir)?, Dir::open(&self.beside)?);
        let until = Mirror::new(tell).until_alike(&old, &new, now)?;
        // Up to now nobody else could look into it.
        let stat = rustix::fs::fstat(&old.fd).map_err(SetupError::at(&old.path))?;
        alike(&old, b".", &stat, &new, b".")?;
        let mark = until.0.to_string();
        rustix::fs::fsetxattr(&old.fd, MARK, mark.as_bytes(), XattrFlags::empty())
            .map_err(SetupError::at(&self.dir))?;
        rustix::fs::syncfs(&new.fd).map_err(SetupError::at(&self.beside))?;
        faults::point("setup.after_copy");
        Ok(())
    }

    fn exchange(&self, tell: Tell<'_>) -> Result<()> {
        tell("exchanging names", &self.dir);
        let (dir, beside) = (&self.dir, &self.beside);
        rustix::fs::renameat_with(CWD, beside, CWD, dir, RenameFlags::EXCHANGE)
            .map_err(SetupError::at(dir))?;
        faults::point("setup.after_exchange");
        self.sync_parent()
    }

    fn sync_parent(&self) -> Result<()> {
        let parent = Dir::open(self.dir.parent().unwrap_or(Path::new("/")))?;
        rustix::fs::fsync(&parent.fd).map_err(SetupError::at(&parent.path))
    }

    fn mark(&self) -> Result<Option<Timestamp>> {
        let mut value = [0; 32];
        let len = match rustix::fs::getxattr(&self.beside, MARK, &mut value[..]) {
            Err(Errno::NODATA) => return Ok(None),
            len => len.map_err(SetupError::at(&self.beside))?,
        };
        let text = std::str::from_utf8(value.get(..len).unwrap_or_default());
        Ok(text.ok().and_then(|text| text.parse().ok()).map(Timestamp))
    }
}

fn standing(dir: &Path) -> Result<Standing> {
    let unfit = |refused: super::Refused| SetupError::Unfit(refused.to_string());
    Place::at("the directory", dir).and_then(|place| place.standing()).map_err(unfit)
}

fn count(dir: &Dir, holds: &mut Holds) -> Result<()> {
    for name in dir.names()? {
        let Some(stat) = dir.stat(&name)? else { continue };
        if super::tree::kind(&stat) == rustix::fs::FileType::Directory {
            count(&dir.sub(&name)?, holds)?;
        } else {
            holds.files += 1;
        }
        holds.bytes += stat.st_blocks.unsigned_abs() * 512;
    }
    Ok(())
}
