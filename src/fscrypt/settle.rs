//! After the exchange: what is in the old directory is compared with the new one, what came in the
//! last moment is brought after, and the old one is overwritten and removed.

use super::mirror::parts;
use super::setup::{SetupError, Tell};
use super::tree::{Dir, Stamp, copy_file, copy_other, has_writer, kind, make_dir};
use crate::clock::Timestamp;
use crate::faults;
use rustix::fs::{AtFlags, FileType, OFlags, RenameFlags, Stat};
use rustix::io::Errno;
use std::collections::HashSet;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

type Result<T> = std::result::Result<T, SetupError>;

/// In the old directory: files that are not needed any more, by numbers.
const ASIDE: &[u8] = b".spoolfs-aside";

struct Settle<'a> {
    tell: Tell<'a>,
    /// What was changed before is in the new directory.
    until: Timestamp,
    aside: Dir,
    number: u64,
    /// Files with a name that is aside already: to rename one counts as a change of it.
    seen: HashSet<u64>,
    /// What stays, and why.
    left: Vec<(PathBuf, &'static str)>,
}

/// Empties the old directory.
pub(super) fn settle(
    old: &Path,
    new: &Path,
    until: Option<Timestamp>,
    tell: Tell<'_>,
) -> Result<()> {
    let (old, new) = (Dir::open(old)?, Dir::open(new)?);
    let until = until.unwrap_or(Timestamp(0));
    let aside = make_dir(&old, ASIDE)?;
    let number = aside.names()?.len() as u64;
    let (seen, left) = (HashSet::new(), Vec::new());
    let mut settle = Settle { tell, until, aside, number, seen, left };
    settle.dir(&old, &new, true)?;
    // What was brought after must be on the disk before anything is overwritten.
    rustix::fs::syncfs(&new.fd).map_err(SetupError::at(&new.path))?;
    faults::point("setup.after_aside");
    settle.wipe()?;
    if settle.left.is_empty() {
        return old.remove(ASIDE);
    }
    let mut text = format!(
        "{} is encrypted, but not everything in {} could be removed; begin again when this is settled:",
        new.path.display(),
        old.path.display()
    );
    for (path, why) in settle.left.iter().take(crate::limits::REBUILD_NAMED_MAX) {
        text.push_str(&format!("\n  {}: {why}", path.display()));
    }
    Err(SetupError::Unfit(text))
}

impl Settle<'_> {
    fn dir(&mut self, old: &Dir, new: &Dir, root: bool) -> Result<()> {
        for name in old.names()? {
            if root && name == ASIDE {
                continue;
            }
            let Some(stat) = old.stat(&name)? else { continue };
            if kind(&stat) == FileType::Directory {
                self.sub(old, new, &name, &stat)?;
                continue;
            }
            (self.tell)("comparing", &old.at(&name));
            let why = match kind(&stat) {
                FileType::RegularFile => self.file(old, new, &name, &stat)?,
                _ => self.other(old, new, &name, &stat)?,
            };
            match why {
                Some(why) => self.left.push((old.at(&name), why)),
                None => self.set_aside(old, &name, &stat)?,
            }
        }
        Ok(())
    }

    fn sub(&mut self, old: &Dir, new: &Dir, name: &[u8], stat: &Stat) -> Result<()> {
        let below = old.sub(name)?;
        let into = match new.stat(name)? {
            Some(there) if kind(&there) == FileType::Directory => new.sub(name)?,
            // Removed since; only what came in the last moment needs it.
            None if self.has_late(&below)? => {
                let made = make_dir(new, name)?;
                super::tree::alike(old, name, stat, new, name)?;
                made
            }
            _ => {
                // As an empty one: nothing in it is needed any more.
                make_dir(&self.aside, b"none")?
            }
        };
        self.dir(&below, &into, false)?;
        match rustix::fs::unlinkat(&old.fd, name, AtFlags::REMOVEDIR) {
            // Something in it stays.
            Ok(()) | Err(Errno::NOTEMPTY) => Ok(()),
            Err(errno) => Err(old.failed(name)(errno)),
        }
    }

    fn is_late(&self, stat: &Stat) -> bool {
        Stamp::of(stat).ctime >= parts(self.until) && !self.seen.contains(&stat.st_ino)
    }

    fn has_late(&self, dir: &Dir) -> Result<bool> {
        for name in dir.names()? {
            let Some(stat) = dir.stat(&name)? else { continue };
            let late = match kind(&stat) {
                FileType::Directory => self.has_late(&dir.sub(&name)?)?,
                _ => self.is_late(&stat),
            };
            if late {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Why a file must stay, if it must.
    fn file(
        &mut self,
        old: &Dir,
        new: &Dir,
        name: &[u8],
        stat: &Stat,
    ) -> Result<Option<&'static str>> {
        let file = old.file(name)?;
        if has_writer(&file) {
            return Ok(Some("it is being written"));
        }
        let (late, there) = (self.is_late(stat), new.stat(name)?);
        let there = there.filter(|there| kind(there) == FileType::RegularFile);
        let as_copied = |there: &Stat| Stamp::of(stat).is_copied_by(&Stamp::of(there));
        let untouched = there.as_ref().is_some_and(as_copied);
        if !late && !untouched {
            // It was there, whole, when the names were exchanged; since then it was changed or
            // removed there, as recordings are.
            return Ok(None);
        }
        if there.is_some() {
            let hash = |dir: &Dir, file: &File| {
                super::tree::hash(file).map_err(|e| SetupError::io(&dir.at(name), e))
            };
            if hash(old, &file)? == hash(new, &new.file(name)?)? {
                return Ok(None);
            }
        }
        match there {
            _ if !late => Ok(Some(
                "the copy has other content, and was not changed: look at the disk; this one is right",
            )),
            None => {
                self.bring(old, new, name, RenameFlags::NOREPLACE)?;
                // It may have got its name in the last moment, and its copy be there under the other.
                new.forget_identity(name)?;
                Ok(None)
            }
            Some(there) if Stamp::of(&there).ctime < parts(self.until) => {
                self.bring(old, new, name, RenameFlags::empty())?;
                Ok(None)
            }
            Some(_) => Ok(Some(
                "it was changed here and there in the moment of the exchange: compare the two, keep \
                 what is right there, and remove this one",
            )),
        }
    }

    fn bring(&self, old: &Dir, new: &Dir, name: &[u8], flags: RenameFlags) -> Result<()> {
        (self.tell)("bringing after", &old.at(name));
        copy_file(old, name, new, flags).map(|_| ())
    }

    fn other(
        &self,
        old: &Dir,
        new: &Dir,
        name: &[u8],
        stat: &Stat,
    ) -> Result<Option<&'static str>> {
        if self.is_late(stat) && new.stat(name)?.is_none() {
            copy_other(old, name, stat, new)?;
        }
        Ok(None)
    }

    fn set_aside(&mut self, old: &Dir, name: &[u8], stat: &Stat) -> Result<()> {
        self.seen.insert(stat.st_ino);
        loop {
            self.number += 1;
            let to = self.number.to_string().into_bytes();
            let flags = RenameFlags::NOREPLACE;
            match rustix::fs::renameat_with(&old.fd, name, &self.aside.fd, &to, flags) {
                Err(Errno::EXIST) => {}
                done => return done.map_err(old.failed(name)),
            }
        }
    }

    /// Overwrites what is aside, and removes it. Before the zeros are on the disk no name goes: what
    /// nobody can reach is never written.
    fn wipe(&mut self) -> Result<()> {
        let names = self.aside.names()?;
        let mut aside = std::collections::HashMap::<u64, u64>::new();
        for name in &names {
            if let Some(stat) = self.aside.stat(name)? {
                *aside.entry(stat.st_ino).or_default() += 1;
            }
        }
        for name in &names {
            let Some(stat) = self.aside.stat(name)? else { continue };
            let elsewhere = aside.get(&stat.st_ino).is_none_or(|all| *all < stat.st_nlink);
            if kind(&stat) != FileType::RegularFile || elsewhere {
                continue;
            }
            (self.tell)("overwriting", &self.aside.at(name));
            self.zero(name, &stat)?;
        }
        rustix::fs::syncfs(&self.aside.fd).map_err(SetupError::at(&self.aside.path))?;
        faults::point("setup.after_wipe");
        names.iter().try_for_each(|name| self.aside.remove(name))
    }

    fn zero(&self, name: &[u8], stat: &Stat) -> Result<()> {
        let failed = |error| SetupError::io(&self.aside.at(name), error);
        let flags = OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = rustix::fs::openat(&self.aside.fd, name, flags, rustix::fs::Mode::empty());
        let file = File::from(file.map_err(self.aside.failed(name))?);
        let zeros = vec![0; 1 << 20];
        let (mut at, end) = (0, stat.st_size.unsigned_abs());
        while at < end {
            let len = (end - at).min(zeros.len() as u64);
            let piece = zeros.get(..usize::try_from(len).unwrap_or(0)).unwrap_or_default();
            file.write_all_at(piece, at).map_err(failed)?;
            at += len;
        }
        Ok(())
    }
}
