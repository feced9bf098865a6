//! The descriptors that outlive the daemon, by name.

use crate::limits;
use crate::sys;
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::io::FdFlags;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

#[derive(Debug)]
struct One {
    name: String,
    descriptor: OwnedFd,
    poll: bool,
}

/// What is kept, in the order in which it came.
#[derive(Debug, Default)]
pub(super) struct Kept {
    all: Vec<One>,
}

/// Copies that the next program executed inherits, until this is dropped.
#[derive(Debug, Default)]
pub(super) struct Inheritance {
    /// Their names.
    pub names: Vec<String>,
    descriptors: Vec<OwnedFd>,
}

impl Inheritance {
    /// Their numbers, the same in the child.
    pub fn numbers(&self) -> Vec<String> {
        self.descriptors.iter().map(|d| d.as_raw_fd().to_string()).collect()
    }
}

impl Kept {
    /// Keeps a descriptor. One that is kept already is not kept twice.
    ///
    /// # Errors
    /// There are too many.
    pub fn add(&mut self, name: &str, descriptor: OwnedFd, poll: bool) -> io::Result<()> {
        if self.all.iter().any(|one| sys::same_open_file(&one.descriptor, &descriptor)) {
            return Ok(());
        }
        if self.all.len() >= limits::KEPT_DESCRIPTORS_MAX {
            let message = format!("{} descriptors are kept already", self.all.len());
            return Err(io::Error::other(message));
        }
        self.all.push(One { name: name.to_owned(), descriptor, poll });
        Ok(())
    }

    /// Closes those of this name; tells how many there were.
    pub fn remove(&mut self, name: &str) -> usize {
        let before = self.all.len();
        self.all.retain(|one| one.name != name);
        before - self.all.len()
    }

    /// Closes all; tells how many there were.
    pub fn clear(&mut self) -> usize {
        std::mem::take(&mut self.all).len()
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.all.len()
    }

    /// Closes those that are good for nothing any more; tells their names.
    pub fn drop_dead(&mut self) -> Vec<String> {
        let mut dead = Vec::new();
        self.all.retain(|one| {
            let gone = one.poll && is_dead(&one.descriptor);
            if gone {
                dead.push(one.name.clone());
            }
            !gone
        });
        dead
    }

    /// Copies for the next daemon.
    ///
    /// # Errors
    /// Out of descriptors.
    pub fn inheritance(&self) -> io::Result<Inheritance> {
        let mut inheritance = Inheritance::default();
        for one in &self.all {
            let copy = one.descriptor.try_clone()?;
            rustix::io::fcntl_setfd(&copy, FdFlags::empty())?;
            inheritance.names.push(one.name.clone());
            inheritance.descriptors.push(copy);
        }
        Ok(inheritance)
    }
}

/// POLLERR and POLLHUP are told without being asked for. A descriptor that can not be polled, such
/// as a directory's, is never dead.
fn is_dead(descriptor: impl AsFd) -> bool {
    let mut look = [PollFd::new(&descriptor, PollFlags::empty())];
    let at_once = Timespec { tv_sec: 0, tv_nsec: 0 };
    let polled = rustix::io::retry_on_intr(|| rustix::event::poll(&mut look, Some(&at_once)));
    let bad = PollFlags::ERR | PollFlags::HUP;
    polled.is_ok() && look.iter().any(|l| l.revents().intersects(bad))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pipe() -> (OwnedFd, OwnedFd) {
        rustix::pipe::pipe().expect("a pipe")
    }

    #[test]
    fn a_dead_descriptor_is_dropped_unless_it_is_not_polled() {
        let mut kept = Kept::default();
        let (first, first_end) = pipe();
        let (second, second_end) = pipe();
        let directory = std::fs::File::open("/").expect("a directory");
        kept.add("polled", first, true).expect("kept");
        kept.add("unpolled", second, false).expect("kept");
        kept.add("lower", directory.into(), true).expect("kept");
        assert!(kept.drop_dead().is_empty());
        drop((first_end, second_end));
        assert_eq!(kept.drop_dead(), ["polled"]);
        assert_eq!(kept.inheritance().expect("copies").names, ["unpolled", "lower"]);
    }

    #[test]
    fn the_same_descriptor_is_kept_once_and_a_name_may_have_several() {
        let mut kept = Kept::default();
        let (one, two) = pipe();
        kept.add("a", one.try_clone().expect("a copy"), true).expect("kept");
        kept.add("a", one, true).expect("no error");
        kept.add("a", two, true).expect("kept");
        assert_eq!(kept.remove("b"), 0);
        assert_eq!(kept.remove("a"), 2);
    }

    #[test]
    fn there_is_a_bound() {
        let mut kept = Kept::default();
        let file = || OwnedFd::from(tempfile::tempfile().expect("a file"));
        for _ in 0..limits::KEPT_DESCRIPTORS_MAX {
            kept.add("a", file(), true).expect("room");
        }
        kept.add("a", file(), true).expect_err("one too many");
        assert_eq!(kept.clear(), limits::KEPT_DESCRIPTORS_MAX);
    }

    #[test]
    fn copies_are_inherited_and_originals_are_not() {
        let mut kept = Kept::default();
        let file = OwnedFd::from(tempfile::tempfile().expect("a file"));
        kept.add("a", file, true).expect("kept");
        let inheritance = kept.inheritance().expect("copies");
        let closes =
            |fd: &OwnedFd| rustix::io::fcntl_getfd(fd).expect("open").contains(FdFlags::CLOEXEC);
        assert!(inheritance.descriptors.iter().all(|d| !closes(d)));
        assert!(kept.all.iter().all(|one| closes(&one.descriptor)));
        assert_eq!(inheritance.numbers().len(), 1);
    }
}
