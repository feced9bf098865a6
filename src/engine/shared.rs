//! What every part of the engine needs, and the small questions they all ask.

use super::alarms::Alarms;
use super::bandwidth::Bandwidth;
use super::claims::Claims;
use super::complete::Completions;
use super::drain::Drained;
use super::error::{EngineError, Result};
use super::expiry::Expiring;
use super::joins::JoinStatus;
use super::known::Calls;
use super::names::Names;
use super::pins::Pins;
use super::plan::Facts;
use super::space::{Pressure, Space};
use super::stop::Stop;
use super::target::Target;
use super::unsent::Unsent;
use super::{Activity, backoff};
use crate::audit::Audit;
use crate::catalog::{Candidate, Catalog, NodeRow, TrashRow, Trouble};
use crate::clock::{SharedClock, Timestamp};
use crate::codec::seal::Identities;
use crate::content::Content;
use crate::limits;
use crate::lower::Lower;
use crate::policy::Rules;
use crate::recording::{Kind, NodeId, stem};
use crate::stitch::{Kept, StitchError};
use crate::store;
use crossbeam_channel::Sender;
use parking_lot::{Mutex, RwLock};
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};
use tokio::runtime::Handle;
use tokio::sync::Semaphore;

/// Deepest directory; a longer chain of parents is a damaged catalog, not a path.
pub(super) const DEPTH_MAX: usize = 2048;
/// How often it is looked whether a target was asked.
const LOOK: Duration = Duration::from_millis(20);

#[derive(Debug)]
pub(super) struct Shared {
    pub catalog: Arc<Catalog>,
    pub lower: Arc<Lower>,
    pub content: Content,
    pub clock: SharedClock,
    pub audit: Arc<Audit>,
    /// Why no lines leave that, if somebody must do something about it.
    pub lines_stay: Mutex<Option<String>>,
    pub runtime: Handle,
    /// The rules as configured.
    pub configured: RwLock<Arc<Rules>>,
    /// The rules in force: others while the disk is too full.
    pub rules: RwLock<Arc<Rules>>,
    pub space: Space,
    /// The archived copy of a cut call is given the sizes that its header lacks.
    pub repair_headers: bool,
    /// What opens sealed recordings.
    pub identities: Identities,
    /// The key that hidden names are made with.
    pub names: Names,
    /// Held while one is encoded: all of them together take one processor at most.
    pub encoding: Mutex<()>,
    /// What was made to be sent, and was not.
    pub unsent: Unsent,
    /// Bytes that a recall leaves free below, for calls in progress.
    pub reserve: u64,
    pub targets: Vec<Arc<Target>>,
    /// Names of the targets that must hold a recording.
    pub required: Vec<String>,
    pub claims: Claims,
    /// What an operator keeps local.
    pub pins: Pins,
    /// What the rules ask of calls.
    pub calls: Calls,
    /// How far expiry is.
    pub expiring: Mutex<Expiring>,
    /// Files that are open to be synced: a release would take that for a reader.
    pub syncing: Claims,
    /// Held while the catalog and the lower directory are moved between local and released, so
    /// that nobody looks at the two in between.
    pub tier: Mutex<()>,
    pub stop: Stop,
    /// Bounds uploads over all targets, those of commands included.
    pub uploads: Semaphore,
    /// Threads that archive.
    pub upload_threads: usize,
    pub bandwidth: Bandwidth,
    pub drained: Drained,
    pub activity: Activity,
    /// When to look for archived recordings that some target lacks; see [`Shared::fill_at`].
    pub fill: Mutex<Option<Timestamp>>,
    /// Bad copies, and how far the scrub has come.
    pub alarms: Mutex<Alarms>,
    /// Held while they are stored.
    pub storing_alarms: Mutex<()>,
    /// Asks the main thread to plan again; full means that it was asked.
    pub wake: Sender<()>,
    /// Partial recordings that could not be completed yet.
    pub completions: Completions,
    /// Whether objects are to be deleted that others took the place of.
    pub leaving: super::leaving::Noted,
    /// Held while something is taken out of the trash, or moved within it.
    pub trash: Mutex<()>,
    /// Which joins are stored, if any are to be, or were; or why that can not be told.
    pub joins: std::result::Result<Option<Arc<Kept>>, StitchError>,
    /// How far that is. Held for a moment, alone.
    pub joined: Mutex<JoinStatus>,
}

impl Shared {
    pub fn now(&self) -> Timestamp {
        self.clock.now()
    }

    pub fn rules(&self) -> Arc<Rules> {
        Arc::clone(&self.rules.read())
    }

    /// Puts in force what is configured, as the disk allows.
    pub fn apply_rules(&self) {
        let configured = Arc::clone(&self.configured.read());
        let hurried = self.space.pressure() != Pressure::None;
        *self.rules.write() = if hurried { Arc::new(configured.hurried()) } else { configured };
    }

    pub fn facts<'a>(&'a self, rules: &'a Rules) -> Facts<'a> {
        // Unusable: nothing is released then either.
        let _asked_again = self.pins.load(&self.catalog);
        let _asked_again = self.catalog.know_holds();
        Facts {
            rules,
            required: &self.required,
            pins: &self.pins,
            holds: self.catalog.holds(),
            known: &self.calls,
            now: self.now(),
        }
    }

    pub fn wake(&self) {
        let _already_asked = self.wake.try_send(());
    }

    /// Asks for a look at what is archived, whether a target lacks some of it: one that is new, was
    /// down, or refused a recording.
    pub fn fill_at(&self, at: Timestamp) {
        let mut fill = self.fill.lock();
        *fill = Some(fill.map_or(at, |sooner| sooner.min(at)));
    }

    /// The answer of a request, unless the engine stops first.
    pub fn until_stop<T>(&self, request: impl Future<Output = store::Result<T>>) -> Result<T> {
        self.runtime.block_on(async {
            tokio::select! {
                answer = request => Ok(answer?),
                () = self.stop.reached() => Err(EngineError::Stopping),
            }
        })
    }

    /// The same; a target that does not answer counts as down.
    pub fn ask<T>(
        &self,
        target: &Target,
        request: impl Future<Output = store::Result<T>>,
    ) -> Result<T> {
        let answer = self.until_stop(request);
        if let Err(error) = &answer
            && error.is_target_down()
        {
            target.failed(error.to_string(), self.now());
        }
        answer
    }

    /// Waits a moment until each target was asked once since the start: whoever gives a command need not
    /// know when that was.
    pub fn until_asked(&self) -> Result<()> {
        let until = Instant::now() + limits::FIRST_ANSWER_WAIT;
        while self.targets.iter().any(|t| !t.has_answered()) && Instant::now() < until {
            self.stop.wait(LOOK);
            self.check_stop()?;
        }
        Ok(())
    }

    pub fn is_releasing(&self) -> bool {
        self.activity.releasing.load(Ordering::Relaxed) > 0
    }

    pub fn check_stop(&self) -> Result<()> {
        if self.stop.is_set() { Err(EngineError::Stopping) } else { Ok(()) }
    }

    /// The first name of a node as a path relative to the mount.
    pub fn path_of(&self, id: NodeId) -> Result<Option<PathBuf>> {
        let mut names: Vec<Vec<u8>> = Vec::new();
        let mut at = id;
        while at != NodeId::ROOT {
            match self.catalog.name_of(at)? {
                Some((parent, name)) if names.len() < DEPTH_MAX => {
                    names.push(name);
                    at = parent;
                }
                _ => return Ok(None),
            }
        }
        Ok(Some(names.into_iter().rev().map(OsString::from_vec).collect()))
    }

    /// The node at a path relative to the mount, with its directory.
    pub fn resolve(&self, path: &Path) -> Result<Option<(NodeId, NodeRow)>> {
        let mut parent = NodeId::ROOT;
        let mut found = None;
        for component in path.components() {
            let name = match component {
                Component::Normal(name) => name,
                Component::CurDir | Component::RootDir => continue,
                _ => return Ok(None),
            };
            if let Some((_, row)) = found.take() {
                let row: NodeRow = row;
                parent = row.id;
            }
            match self.catalog.lookup(parent, name.as_bytes())? {
                Some(row) => found = Some((parent, row)),
                None => return Ok(None),
            }
        }
        Ok(found)
    }

    /// The directory at a path relative to the mount.
    pub fn directory_at(&self, path: &Path) -> Result<Option<NodeId>> {
        if path.as_os_str().is_empty() {
            return Ok(Some(NodeId::ROOT));
        }
        Ok(self.resolve(path)?.filter(|(_, row)| row.attr.kind == Kind::Dir).map(|(_, row)| row.id))
    }

    /// A node with its place, as it is now; `None` if it has no name any more.
    pub fn candidate(&self, id: NodeId) -> Result<Option<Candidate>> {
        let Some(row) = self.catalog.node(id)? else { return Ok(None) };
        let not_before = self.catalog.trouble_of(id)?.map(|t| t.not_before);
        let Some((parent, name)) = self.catalog.name_of(id)? else {
            let in_trash = self.catalog.trashed(id)?.filter(|one| one.local);
            return Ok(in_trash.map(|TrashRow { path, .. }| {
                let stem = stem(path.file_name().unwrap_or_default().as_bytes());
                Candidate { row, path, parent: NodeId(0), stem, not_before, trashed: true }
            }));
        };
        let Some(path) = self.path_of(id)? else { return Ok(None) };
        let stem = stem(&name);
        Ok(Some(Candidate { row, path, parent, stem, not_before, trashed: false }))
    }

    /// Whether the lower directory surely lacks a node that the catalog names: its directory is
    /// the one that is meant, no name can change in it, and there is none like this.
    pub fn is_gone(&self, id: NodeId) -> Result<bool> {
        let Some((parent, name)) = self.catalog.name_of(id)? else { return Ok(false) };
        self.is_gone_from(id, parent, &name)
    }

    pub fn is_gone_from(&self, id: NodeId, parent: NodeId, name: &[u8]) -> Result<bool> {
        let _names = self.lower.names_still_in(parent);
        let named = self.catalog.lookup(parent, name)?.is_some_and(|row| row.id == id);
        let Some(dir) = self.path_of(parent)? else { return Ok(false) };
        let there = self.lower.stat(&dir).is_ok_and(|stat| stat.node == Some(parent));
        if !named || !there {
            return Ok(false);
        }
        let path = dir.join(OsStr::from_bytes(name));
        Ok(self.lower.stat(&path).is_err_and(|e| e.is_not_found()))
    }

    /// Remembers that a step failed, unless it says nothing about this recording.
    pub fn note_failure(&self, id: NodeId, error: &EngineError) {
        if error.is_of_the_moment() {
            tracing::debug!(%id, %error, "a step was put off");
            return;
        }
        let now = self.now();
        let attempts = self.catalog.trouble_of(id).ok().flatten().map_or(0, |t| t.attempts) + 1;
        let not_before = now.plus(backoff::after(attempts));
        let deleted = matches!(error, EngineError::Lower(e) if e.is_not_found());
        if deleted || matches!(error.class(), crate::recording::ErrorClass::Refused) {
            tracing::debug!(%error, attempts, "a recording is not ready");
        } else {
            tracing::warn!(%error, attempts, "a step failed and will be tried again");
        }
        let trouble = Trouble { attempts, not_before, error: error.to_string(), at: now };
        if let Err(error) = self.catalog.failed(id, &trouble) {
            tracing::debug!(%error, "a failure could not be remembered");
        }
    }

    /// A file that should be below was not found there. Most likely it is being renamed or deleted
    /// right now, so only what is still gone at the second look was deleted behind the mount.
    /// Tells whether the catalog was changed.
    pub fn missing(&self, candidate: &Candidate) -> Result<bool> {
        let id = candidate.row.id;
        let seen_before = self.catalog.trouble_of(id)?.is_some_and(|t| t.attempts > 0);
        if candidate.trashed {
            return super::trash::is_lost(self, candidate, seen_before);
        }
        if !seen_before || !self.is_gone(id)? {
            return Ok(false);
        }
        tracing::warn!(path = %candidate.path.display(), "a local copy was deleted behind the mount");
        self.catalog.missing_below(id)?;
        Ok(true)
    }
}
