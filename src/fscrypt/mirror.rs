//! Making the new directory like the old one, while somebody may still change the old one.

use super::setup::{SetupError, Tell};
use super::tree::{Dir, Stamp, alike, copy_file, copy_other, has_writer, hash, kind, make_dir};
use crate::clock::Timestamp;
use crate::recording::Sha256;
use crate::{faults, limits};
use rustix::fs::{FileType, RenameFlags, Stat};
use std::collections::HashMap;
use std::path::PathBuf;

type Result<T> = std::result::Result<T, SetupError>;

/// What is known of a file of the old directory.
struct Known {
    stamp: Stamp,
    sha256: Sha256,
    /// Its copy.
    ino: u64,
    /// One of the names of the copy, below the new directory.
    name: PathBuf,
    /// The disk was seen to hold it.
    proved: bool,
}

pub(super) struct Mirror<'a> {
    tell: Tell<'a>,
    /// By inode number.
    known: HashMap<u64, Known>,
    /// What the look that goes on has found to do.
    changes: u64,
    /// Files that somebody has open for writing.
    written: Vec<PathBuf>,
    /// Changes before it are seen by the look that goes on.
    until: Timestamp,
}

impl<'a> Mirror<'a> {
    pub fn new(tell: Tell<'a>) -> Mirror<'a> {
        let (known, written, until) = (HashMap::new(), Vec::new(), Timestamp(0));
        Mirror { tell, known, changes: 0, written, until }
    }

    /// Looks until nothing is left to do and nobody writes. What was changed before the time that is
    /// returned is in the new directory; what is changed now has a later one.
    pub fn until_alike(
        mut self,
        old: &Dir,
        new: &Dir,
        now: &dyn Fn() -> Timestamp,
    ) -> Result<Timestamp> {
        let mut busy = 0;
        loop {
            self.until = now().minus(limits::SETUP_STAMP_AGE);
            (self.changes, self.written) = (0, Vec::new());
            self.dir(old, new)?;
            if self.changes == 0 && self.written.is_empty() {
                return Ok(self.until);
            }
            if let Some(file) = self.written.first() {
                busy += 1;
                if busy > limits::SETUP_BUSY_LOOKS {
                    let (file, more) = (file.display(), self.written.len() - 1);
                    return Err(SetupError::Unfit(format!(
                        "{file} is being written ({more} others too): do this while no call is \
                         recorded, or stop the PBX. What was copied stays; begin again later"
                    )));
                }
                (self.tell)("waiting for the writer of", file);
                std::thread::sleep(limits::SETUP_BUSY_WAIT);
            } else {
                // What was changed in this very moment could be changed once more unnoticed.
                std::thread::sleep(limits::SETUP_STAMP_AGE);
            }
            rustix::fs::syncfs(&new.fd).map_err(SetupError::at(&new.path))?;
        }
    }

    fn dir(&mut self, old: &Dir, new: &Dir) -> Result<()> {
        let names = old.names()?;
        for name in new.names()? {
            if names.binary_search(&name).is_err() {
                new.remove(&name)?;
                self.changes += 1;
            }
        }
        for name in &names {
            let Some(stat) = old.stat(name)? else {
                self.changes += 1;
                continue;
            };
            self.entry(old, new, name, &stat)?;
        }
        Ok(())
    }

    fn entry(&mut self, old: &Dir, new: &Dir, name: &[u8], stat: &Stat) -> Result<()> {
        let there = new.stat(name)?;
        if there.as_ref().is_some_and(|there| kind(there) != kind(stat)) {
            new.remove(name)?;
            self.changes += 1;
            return self.entry(old, new, name, stat);
        }
        match kind(stat) {
            FileType::Directory => {
                self.changes += u64::from(there.is_none());
                let made = make_dir(new, name)?;
                self.dir(&old.sub(name)?, &made)?;
                // Now, as what is made in it changes its times.
                alike(old, name, stat, new, name)
            }
            FileType::RegularFile => self.file(old, new, name, stat, there.as_ref()),
            _ => {
                let seen = self.known.get(&stat.st_ino).is_some_and(|k| k.stamp == Stamp::of(stat));
                if seen && there.is_some() {
                    return Ok(());
                }
                new.remove(name)?;
                copy_other(old, name, stat, new)?;
                self.learn(new, name, stat, Sha256([0; 32]), true)
            }
        }
    }

    fn file(
        &mut self,
        old: &Dir,
        new: &Dir,
        name: &[u8],
        stat: &Stat,
        there: Option<&Stat>,
    ) -> Result<()> {
        let (stamp, file) = (Stamp::of(stat), old.file(name)?);
        if has_writer(&file) {
            self.written.push(old.at(name));
        }
        let young = stamp.ctime >= parts(self.until);
        self.changes += u64::from(young);
        match self.known.get_mut(&stat.st_ino).filter(|known| known.stamp == stamp) {
            Some(known) if there.is_some_and(|there| there.st_ino == known.ino) => {
                if known.proved {
                    return Ok(());
                }
                self.changes += 1;
                known.proved = true;
                let wanted = known.sha256;
                return proved(new, name, wanted);
            }
            // Another name of one that has a copy.
            Some(known) => {
                self.changes += 1;
                new.remove(name)?;
                let from = known.name.as_path();
                return rustix::fs::linkat(
                    rustix::fs::CWD,
                    from,
                    &new.fd,
                    name,
                    rustix::fs::AtFlags::empty(),
                )
                .map_err(new.failed(name));
            }
            None => {}
        }
        self.changes += 1;
        // Of a run that was cut off.
        let copy = there.filter(|there| stamp.is_copied_by(&Stamp::of(there)));
        let sha256 = match copy {
            Some(_) => {
                (self.tell)("comparing", &old.at(name));
                let sha256 = hash(&file).map_err(|e| SetupError::io(&old.at(name), e))?;
                let same = hash(&new.file(name)?).map_err(|e| SetupError::io(&new.at(name), e))?;
                (sha256 == same).then_some(sha256)
            }
            None => None,
        };
        let sha256 = match sha256 {
            Some(sha256) => {
                alike(old, name, stat, new, name)?;
                sha256
            }
            None => {
                (self.tell)("copying", &old.at(name));
                copy_file(old, name, new, RenameFlags::empty())?
            }
        };
        faults::point("setup.after_file");
        self.learn(new, name, stat, sha256, false)
    }

    fn learn(
        &mut self,
        new: &Dir,
        name: &[u8],
        stat: &Stat,
        sha256: Sha256,
        proved: bool,
    ) -> Result<()> {
        let Some(made) = new.stat(name)? else {
            return Err(new.failed(name)(rustix::io::Errno::NOENT));
        };
        let path = if stat.st_nlink > 1 { new.at(name) } else { PathBuf::new() };
        let (stamp, ino) = (Stamp::of(stat), made.st_ino);
        self.known.insert(stat.st_ino, Known { stamp, sha256, ino, name: path, proved });
        Ok(())
    }
}

/// Whether the disk has the copy as it was read from the old directory.
fn proved(new: &Dir, name: &[u8], wanted: Sha256) -> Result<()> {
    let found = hash(&new.file(name)?).map_err(|e| SetupError::io(&new.at(name), e))?;
    if found == wanted {
        return Ok(());
    }
    Err(SetupError::Unfit(format!(
        "the copy {} has SHA-256 {found}, and {wanted} was written: look at the disk",
        new.at(name).display()
    )))
}

/// As `stat` tells it.
pub(super) fn parts(at: Timestamp) -> (i64, u64) {
    (at.secs(), u64::from(at.subsec_nanos()))
}
