//! The requests for legal holds, several at a time, and what their answers mean.

use super::plan::Step;
use super::{Job, Locker};
use crate::audit::{Entry, Event, Subject};
use crate::catalog::{LockRow, LockState, ObjectRow};
use crate::codec::seal::Identities;
use crate::engine::error::{EngineError, Result};
use crate::engine::shared::Shared;
use crate::engine::target::Target;
use crate::limits;
use crate::store::meta::Label;
use crate::store::{self, LegalHold, Store, StoreError, StoreErrorKind, hidden};
use std::future::Future;
use std::path::Path;
use std::sync::Arc;
use tokio::task::JoinSet;

/// What became of a request.
type Answered<T> = Vec<(Job, store::Result<T>)>;

impl Locker {
    /// Does what is to be done. An error: nothing is known of the rest.
    pub(super) fn carry_out(&mut self, jobs: Vec<Job>) -> Result<()> {
        let of = |step: &[Step]| -> Vec<Job> {
            jobs.iter().filter(|job| step.contains(&job.step)).cloned().collect()
        };
        let forgotten: Vec<i64> = of(&[Step::Forget]).iter().map(|job| job.object.id).collect();
        if !forgotten.is_empty() {
            self.shared.catalog.drop_locks(&forgotten)?;
        }
        let mut asked = self.look(of(&[Step::Look, Step::See]))?;
        asked.extend(of(&[Step::Set]));
        self.set(asked)?;
        self.take_off(of(&[Step::Off]))
    }

    /// Looks at what is there. Those that are to be set are remembered as asked for, on the disk,
    /// before they are.
    fn look(&mut self, jobs: Vec<Job>) -> Result<Vec<Job>> {
        let names = self.shared.names.identities();
        let answers = self.each(jobs, |store, job| {
            let (object, known) = (job.object.clone(), job.known.clone());
            let names = names.clone();
            async move {
                match known.filter(|_| job.step == Step::See) {
                    Some(row) => {
                        let found = store.legal_hold(&object.key, Some(&row.version)).await?;
                        Ok((found, row.state))
                    }
                    None => first_look(&*store, &object, &names).await,
                }
            }
        })?;
        let now = self.shared.now();
        let (mut rows, mut asked) = (Vec::new(), Vec::new());
        for (job, answer) in answers {
            let was = job.known.as_ref().map(|row| row.state);
            match answer {
                Ok((LegalHold { version, on: true }, state)) => {
                    self.done += 1;
                    rows.push(job.now(state, &version, now));
                }
                Ok((LegalHold { version, on: false }, _)) => {
                    if was == Some(LockState::On) {
                        let (target, key) = (self.target.name(), &job.object.key);
                        tracing::error!(
                            target,
                            key,
                            "somebody took a legal hold off; it is set again"
                        );
                    }
                    let row = job.now(LockState::Asked, &version, now);
                    rows.push(row.clone());
                    asked.push(Job { known: Some(row), ..job });
                }
                // The version is gone: whatever is there now is looked at.
                Err(e) if e.kind == StoreErrorKind::NotFound && job.step == Step::See => {
                    rows.push(job.now(LockState::Wanted, "", now));
                }
                Err(error) => rows.push(self.refused(&job, error)?),
            }
        }
        if !rows.is_empty() {
            self.shared.catalog.set_locks(&rows, true)?;
        }
        Ok(asked)
    }

    fn set(&mut self, jobs: Vec<Job>) -> Result<()> {
        let answers = self.each(jobs, |store, job| {
            let (key, version) = (job.object.key.clone(), job.version());
            async move {
                // Who may not note it sets it all the same.
                unless_refused(store.sign(&key, &version, true).await)?;
                change(&*store, &key, &version, true).await
            }
        })?;
        let mut rows = Vec::new();
        for (job, answer) in answers {
            rows.push(match answer {
                Ok(()) => {
                    self.done += 1;
                    on_record(&self.shared, &job.object, true);
                    job.now(LockState::On, &job.version(), self.shared.now())
                }
                Err(error) => self.refused(&job, error)?,
            });
        }
        if rows.is_empty() { Ok(()) } else { Ok(self.shared.catalog.set_locks(&rows, false)?) }
    }

    fn take_off(&mut self, jobs: Vec<Job>) -> Result<()> {
        let answers = self.each(jobs, |store, job| {
            let (key, version) = (job.object.key.clone(), job.version());
            async move { take_off(&*store, &key, &version).await }
        })?;
        let (mut rows, mut gone) = (Vec::new(), Vec::new());
        for (job, answer) in answers {
            match answer {
                Ok(()) => {
                    self.done += 1;
                    on_record(&self.shared, &job.object, false);
                    gone.push(job.object.id);
                }
                Err(error) => rows.push(self.refused(&job, error)?),
            }
        }
        if !gone.is_empty() {
            self.shared.catalog.drop_locks(&gone)?;
        }
        if rows.is_empty() { Ok(()) } else { Ok(self.shared.catalog.set_locks(&rows, false)?) }
    }

    /// What is remembered of an object that the target refused. If it is the target that can not be
    /// reached, that is the error.
    fn refused(&mut self, job: &Job, error: StoreError) -> Result<LockRow> {
        let error = EngineError::from(error);
        if error.is_target_down() {
            self.target.failed(error.to_string(), self.shared.now());
            return Err(error);
        }
        self.refused += 1;
        let row = job.failed(&error, self.shared.now());
        if row.attempts == 1 {
            tracing::warn!(%error, "a legal hold can not be set or taken off in a target; it is tried again");
        }
        Ok(row)
    }

    /// Asks the same of each, a few at a time.
    fn each<T, F>(
        &self,
        jobs: Vec<Job>,
        ask: impl Fn(Arc<dyn Store>, Job) -> F,
    ) -> Result<Answered<T>>
    where
        T: Send + 'static,
        F: Future<Output = store::Result<T>> + Send + 'static,
    {
        if jobs.is_empty() {
            return Ok(Vec::new());
        }
        self.shared.until_stop(async {
            let (mut jobs, mut tasks, mut answers) = (jobs.into_iter(), JoinSet::new(), Vec::new());
            loop {
                while tasks.len() < limits::LOCKS_IN_FLIGHT
                    && let Some(job) = jobs.next()
                {
                    let answer = ask(Arc::clone(&self.target.store), job.clone());
                    tasks.spawn(async move { (job, answer.await) });
                }
                match tasks.join_next().await {
                    Some(Ok(answered)) => answers.push(answered),
                    Some(Err(fault)) => tracing::error!(%fault, "a legal hold is tried again"),
                    None => return Ok(answers),
                }
            }
        })
    }
}

impl Job {
    fn version(&self) -> String {
        self.known.as_ref().map(|row| row.version.clone()).unwrap_or_default()
    }
}

/// Whether a legal hold is on what is under the key now, if that is what was archived; and whose it is.
async fn first_look(
    store: &dyn Store,
    object: &ObjectRow,
    names: &Identities,
) -> store::Result<(LegalHold, LockState)> {
    let head = store.head(&object.key).await?;
    // Some servers keep no metadata.
    let label = hidden::revealed(&head.user, names).and_then(|user| Label::from_user(&user));
    let other = label.is_ok_and(|label| label.sha256 != object.sha256);
    if other || head.size != object.stored.size {
        let what = "another object is under this key than was archived; a scrub replaces it";
        let kind = StoreErrorKind::Corrupt;
        return Err(StoreError::new(kind, store.name(), "put legal hold", &object.key, what));
    }
    let found = store.legal_hold(&object.key, None).await?;
    let signed = found.on && unless_refused(store.signed(&object.key, &found.version).await)?;
    // A catalog that is lost may have set it.
    Ok((found, if signed { LockState::On } else { LockState::Foreign }))
}

/// What is not allowed, or not known to the target, is not so.
fn unless_refused<T: Default>(answer: store::Result<T>) -> store::Result<T> {
    match answer {
        Err(e) if matches!(e.kind, StoreErrorKind::Denied | StoreErrorKind::Unsupported) => {
            Ok(T::default())
        }
        answer => answer,
    }
}

/// Sets it or takes it off, and sees whether that is so.
async fn change(store: &dyn Store, key: &str, version: &str, on: bool) -> store::Result<()> {
    store.set_legal_hold(key, version, on).await?;
    if store.legal_hold(key, Some(version)).await?.on == on {
        return Ok(());
    }
    let what =
        if on { "it was set and is not there" } else { "it was taken off and is still there" };
    let kind = StoreErrorKind::Unsupported;
    Err(StoreError::new(kind, store.name(), "put legal hold", key, what))
}

/// Takes it off; from what is not there it is off.
async fn take_off(store: &dyn Store, key: &str, version: &str) -> store::Result<()> {
    match change(store, key, version, false).await {
        Err(e) if e.kind == StoreErrorKind::NotFound => Ok(()),
        Ok(()) => unless_refused(store.sign(key, version, false).await),
        answer => answer,
    }
}

fn on_record(shared: &Shared, object: &ObjectRow, held: bool) {
    let path = shared.catalog.last_path(object.node).ok().flatten().unwrap_or_default();
    let (id, generation, sha256) = (object.node, object.generation, Some(object.sha256));
    let event = Event::HoldMirrored { target: object.target.clone(), held };
    shared.audit.record(Entry::new(event).on(Subject { id, path, generation, sha256 }));
}

/// An object of what expired is about to be deleted: the legal hold that was set from here goes first.
/// One that the target refused to delete is not tried again too soon, unless an operator asks.
pub(in crate::engine) fn before_delete(
    shared: &Shared,
    target: &Target,
    object: &ObjectRow,
    asked: bool,
) -> Result<()> {
    let known = shared.catalog.locks(object.node, target.name())?;
    let Some(row) = known.into_iter().find(|row| row.object == object.id) else { return Ok(()) };
    match row.state {
        LockState::Asked | LockState::On => {
            shared.ask(target, take_off(&*target.store, &object.key, &row.version))?;
            on_record(shared, object, false);
            Ok(shared.catalog.drop_locks(&[object.id])?)
        }
        LockState::Undeletable if !asked && row.not_before > shared.now() => {
            let why = row.error.unwrap_or_default();
            Err(EngineError::refused(Path::new(&object.key), why))
        }
        LockState::Undeletable | LockState::Wanted | LockState::Foreign => Ok(()),
    }
}

/// A target refused to delete an object: that is remembered, and tried again in a day. The same with
/// what may be the reason.
pub(in crate::engine) fn delete_refused(
    shared: &Shared,
    object: &ObjectRow,
    error: &EngineError,
) -> Result<EngineError> {
    let now = shared.now();
    let why = format!(
        "{error}. Object Lock may protect it: a retention period, or somebody else's legal hold"
    );
    let row = LockRow {
        object: object.id,
        node: object.node,
        target: object.target.clone(),
        state: LockState::Undeletable,
        version: String::new(),
        at: now,
        attempts: 1,
        not_before: now.plus(limits::REFUSED_DELETE_RETRY),
        error: Some(why.clone()),
    };
    shared.catalog.set_locks(&[row], false)?;
    Ok(EngineError::refused(Path::new(&object.key), why))
}
