//! Giving a partial recording its name, once it is whole.

use super::{End, Partial, set_mtime};
use crate::faults;
use crate::lower::dir::stat_file;
use crate::lower::stage::{KeepTimes, dress_file};
use crate::lower::{Looks, Lower, LowerError, LowerStat, Result};
use crate::recording::NodeId;
use rustix::fs::RenameFlags;
use rustix::io::Errno;
use std::path::Path;
use std::sync::atomic::Ordering;

impl Lower {
    /// Syncs a partial recording and gives it its name at `path`, if that still leads into
    /// directory `parent` and all of its bytes are there. Asked as [`Lower::install`] asks.
    /// `placed` is called with the number of those who may write to it, before any of them can
    /// be closed.
    ///
    /// # Errors
    /// `Changed` if it is no longer wanted or whole, or the name is taken.
    pub fn place_partial(
        &self,
        partial: &Partial,
        (parent, path): (NodeId, &Path),
        wanted: &dyn Fn() -> Option<Looks>,
        placed: &dyn Fn(u32),
    ) -> Result<LowerStat> {
        let changed = || LowerError::Changed { path: path.to_owned() };
        let explain = || LowerError::io(path);
        let looks = wanted().ok_or_else(changed)?;
        // Most of the work before anybody is kept out.
        let dress = |mut looks: Looks, mtime| {
            looks.attr.mtime = mtime;
            dress_file(&partial.file, partial.id, &looks)
        };
        let mtime = partial.state.lock().mtime;
        dress(looks.clone(), mtime).map_err(explain())?;
        partial.sync(true).map_err(|source| LowerError::Io { path: path.into(), source })?;
        faults::point("partial.after_sync");
        let (dir, name) = self.parent_of(path)?;
        let _names = self.names_still_at(&dir)?;
        let home = dir.stat_self().map_err(explain())?.node;
        let looks_now = wanted().filter(|_| home == Some(parent)).ok_or_else(changed)?;
        let mut state = partial.state.lock();
        if state.end.is_some() || !state.is_whole() {
            return Err(changed());
        }
        let _times = KeepTimes::of(&dir);
        if looks_now != looks {
            dress(looks_now, state.mtime).map_err(explain())?;
        }
        set_mtime(&partial.file, state.mtime).map_err(explain())?;
        match partial.room.rename(partial.name.as_bytes(), &dir, name, RenameFlags::NOREPLACE) {
            Ok(()) => {}
            Err(Errno::EXIST) => return Err(changed()),
            Err(errno) => return Err(explain()(errno)),
        }
        state.end = Some(End::Placed);
        self.placed.fetch_add(1, Ordering::AcqRel);
        faults::point("partial.after_place");
        placed(state.writers);
        let stat = stat_file(&partial.file).map_err(explain());
        drop(state);
        partial.unlink();
        self.forget_partial(partial.id);
        stat
    }
}
