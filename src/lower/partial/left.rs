//! Partial recordings that a predecessor left, of which a start may not have been able to load some.

use super::log::Log;
use super::{LOG, Partial, State, parse_name};
use crate::clock::Timestamp;
use crate::lower::dir::stat_file;
use crate::lower::{Dir, Lower, LowerError, Result, retire};
use crate::recording::{Generation, NodeId};
use parking_lot::MutexGuard;
use rustix::fs::OFlags;
use rustix::io::Errno;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;

impl Lower {
    /// Loads those that a predecessor left and that could not be loaded before; none is loaded by
    /// others while the answer is kept.
    pub fn load_left_partials(&self) -> Option<impl Sized + '_> {
        self.unread()
    }

    fn unread(&self) -> Option<MutexGuard<'_, Option<Vec<String>>>> {
        if self.unread_count.load(Ordering::Acquire) == 0 {
            return None;
        }
        let mut unread = self.unread_partials.lock();
        self.load_partials(&mut unread);
        Some(unread)
    }

    /// The partial recording that a released one is; also one that could not be loaded before.
    ///
    /// # Errors
    /// It can not be told now: who went on would lose what was written to it.
    pub fn partial_for_sure(&self, id: NodeId) -> Result<Option<Arc<Partial>>> {
        let Some(unread) = self.unread() else { return Ok(self.partial(id)) };
        let of_it = |names: &Vec<String>| {
            names.iter().any(|name| parse_name(name).is_some_and(|(of, ..)| of == id))
        };
        match unread.as_ref().is_none_or(of_it) {
            true => Err(LowerError::io(Path::new(".spl/partial"))(Errno::AGAIN)),
            false => Ok(self.partial(id)),
        }
    }

    /// Finds the partial recordings that a predecessor left: all, or those that are left.
    pub(in crate::lower) fn load_partials(&self, unread: &mut Option<Vec<String>>) {
        let told = self.unread_count.load(Ordering::Acquire) > 0;
        if unread.is_none() {
            match list(&self.private.partial) {
                Ok(names) => *unread = Some(names),
                Err(error) if told => tracing::debug!(%error, "partial recordings are not known"),
                Err(error) => tracing::error!(
                    %error,
                    "recordings that were written to while they were released can not be listed; \
                     this is tried again"
                ),
            }
        }
        if let Some(names) = unread {
            names.retain(|name| !self.is_loaded(name, told));
        }
        let left = unread.as_ref().map_or(1, Vec::len);
        self.unread_count.store(left, Ordering::Release);
    }

    /// Loads one, and tells whether there is nothing more to do for it.
    fn is_loaded(&self, name: &str, told: bool) -> bool {
        let Some(it) = parse_name(name).filter(|(id, ..)| self.partial(*id).is_none()) else {
            return true;
        };
        match load(&self.private.partial, name, it) {
            Ok(partial) => {
                self.add_partial(partial);
                return true;
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => return true,
            Err(error) if told => tracing::debug!(name, %error, "a partial recording is left"),
            Err(error) => tracing::error!(
                name, %error,
                "a recording that was written to while it was released can not be opened; it \
                 stays in .spl/partial of the lower directory, and this is tried again"
            ),
        }
        false
    }
}

/// Names of the partial recordings; logs of those that got their names are removed.
fn list(room: &Dir) -> rustix::io::Result<Vec<String>> {
    let names = retire::names(room)?;
    let mut names: Vec<String> =
        names.into_iter().filter_map(|name| String::from_utf8(name).ok()).collect();
    let all = names.clone();
    names.retain(|name| parse_name(name).is_some());
    for log in &all {
        let whose = log.strip_suffix(LOG);
        if whose.is_some_and(|whose| !all.iter().any(|other| other == whose)) {
            let _next_start_tries_again = room.unlink(log.as_bytes());
        }
    }
    Ok(names)
}

fn load(
    room: &Dir,
    name: &str,
    (id, generation, archived): (NodeId, Generation, u64),
) -> io::Result<Partial> {
    let file = room.open(name.as_bytes(), OFlags::RDWR)?;
    let stat = stat_file(&file)?;
    let mut state = State::new(archived, stat.attr.mtime, Timestamp(i64::MIN));
    match room.open(format!("{name}{LOG}").as_bytes(), OFlags::RDWR) {
        Ok(log) => {
            let (log, told) = Log::resume(log, archived)?;
            state.base = told.base;
            state.here = told.own.clone();
            state.own = told.own;
            state.log = Some(log);
        }
        Err(Errno::NOENT) => {}
        Err(errno) => return Err(errno.into()),
    }
    // Cut, and the record of it is lost.
    state.base = state.base.min(stat.attr.size);
    state.own.clip(state.base);
    state.here.clip(state.base);
    state.touched = state.base != archived || stat.attr.size != archived || !state.own.is_empty();
    state.unsynced = state.touched;
    Ok(Partial::new((id, generation), room, name.to_owned(), file, state))
}
