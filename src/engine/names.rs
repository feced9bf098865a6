//! What new objects are called, and what is written beside them; where names are hidden, the key that
//! they are made with.
//!
//! **Invariant:** a target is given an object with a hidden name only if it was proved to have the name
//! key before, sealed to those who may read what is told.

use super::error::{EngineError, Result};
use super::shared::Shared;
use super::target::Target;
use crate::clock::Timestamp;
use crate::codec::seal::{self, Identities, Recipients};
use crate::limits;
use crate::recording::{Sha256, Stored, hmac};
use crate::store::hidden::{self, NameKey, Named};
use crate::store::joined::JoinLabel;
use crate::store::meta::{Label, LabelError};
use crate::store::{self, Body, Head, ObjectMeta, key};
use parking_lot::Mutex;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The name key of this machine, made when it is first needed.
#[derive(Debug)]
pub(super) struct Names {
    path: PathBuf,
    key: Mutex<Option<Arc<NameKey>>>,
    /// Held while a target is told of it.
    telling: Mutex<()>,
}

/// What a new object may be called, best first, and what is written beside it.
pub(super) struct NewNames {
    pub keys: Vec<String>,
    pub meta: ObjectMeta,
    hidden: bool,
}

impl NewNames {
    /// Whether a key that an object was given before is one of this kind.
    pub fn fit(&self, key: &str) -> bool {
        hidden::is_hidden(key) == self.hidden
    }
}

impl Names {
    pub fn new(state_dir: &Path) -> Names {
        let path = state_dir.join(hidden::FILE);
        Names { path, key: Mutex::default(), telling: Mutex::default() }
    }

    fn known(&self) -> Result<Option<Arc<NameKey>>> {
        let mut known = self.key.lock();
        if known.is_none() {
            let loaded = NameKey::load(&self.path);
            *known = loaded.map_err(|why| EngineError::refused(&self.path, why))?.map(Arc::new);
        }
        Ok(known.clone())
    }

    fn needed(&self) -> Result<Arc<NameKey>> {
        if let Some(known) = self.known()? {
            return Ok(known);
        }
        let mut key = self.key.lock();
        if let Some(made) = &*key {
            return Ok(Arc::clone(made));
        }
        let failed = |why: String| EngineError::refused(&self.path, why);
        let new = NameKey::fresh().map_err(failed)?;
        new.store(&self.path).map_err(|e| failed(format!("it can not be written: {e}")))?;
        tracing::info!(path = %self.path.display(), "a name key was made");
        let new = Arc::new(new);
        *key = Some(Arc::clone(&new));
        Ok(new)
    }

    /// Another one, which opens what this did, too.
    fn renew(&self, old: &NameKey) -> Result<Arc<NameKey>> {
        let failed = |why: String| EngineError::refused(&self.path, why);
        let new = NameKey::fresh().and_then(|new| new.and(old)).map_err(failed)?;
        new.store(&self.path).map_err(|e| failed(format!("it can not be written: {e}")))?;
        tracing::info!(path = %self.path.display(), "a name key was added, since a key was given up");
        let new = Arc::new(new);
        *self.key.lock() = Some(Arc::clone(&new));
        Ok(new)
    }

    /// What opens hidden metadata; none if there is no name key.
    pub fn identities(&self) -> Identities {
        match self.known() {
            Ok(Some(key)) => key.identities().clone(),
            Ok(None) => Identities::none(&format!("there is no {}", self.path.display())),
            Err(error) => Identities::none(&error.to_string()),
        }
    }
}

impl Shared {
    /// What an object of the recording at `path` is called in a target.
    ///
    /// # Errors
    /// The target can not be told the name key, or there is none.
    pub fn names_for(&self, target: &Target, path: &Path, label: &Label) -> Result<NewNames> {
        let random = random();
        let open = label.to_meta(path);
        if !self.hides(&label.stored) {
            let named = key::object_path(path, &label.stored.encoding);
            let (prefix, node) = (target.store.prefix(), &label.node);
            let keys = key::candidates(prefix, node, &named, label.generation, &random);
            return Ok(NewNames { keys, meta: open, hidden: false });
        }
        let named = Named::Recording(label.id, label.generation, label.sha256);
        self.hidden(target, named, &open, Some(path))
    }

    /// What the stored join of a call is called there, whose file in the mount has this name.
    ///
    /// # Errors
    /// As `names_for`; it has more recordings than the object could tell of.
    pub fn names_for_join(
        &self,
        target: &Target,
        name: &str,
        label: &JoinLabel,
    ) -> Result<NewNames> {
        let open = label.to_meta().ok_or_else(|| too_much(name))?;
        if !self.hides(&label.stored) {
            let name = format!("{name}{}", key::suffix(&label.stored.encoding));
            let numbers = [None, Some(fastrand::u64(..)), Some(fastrand::u64(..))];
            let keys = numbers.map(|number| key::joined(target.store.prefix(), &name, number));
            return Ok(NewNames { keys: keys.to_vec(), meta: open, hidden: false });
        }
        self.hidden(target, Named::Join(&label.call), &open, None)
    }

    fn hidden(
        &self,
        target: &Target,
        named: Named<'_>,
        open: &ObjectMeta,
        path: Option<&Path>,
    ) -> Result<NewNames> {
        let refused = || EngineError::refused(Path::new("hide_names"), "nothing is sealed");
        let to = self.told_to()?.ok_or_else(refused)?;
        let key = self.name_key(&to)?;
        let (node, prefix) = (self.catalog.identity().node, target.store.prefix());
        let keys = key.keys(prefix, &node, named, &random());
        let failed =
            |e: std::io::Error| EngineError::refused(Path::new("spoolfs-label"), e.to_string());
        let what = || path.map_or_else(|| "a join".to_owned(), |path| path.display().to_string());
        let meta = key.hide(open, path).map_err(failed)?.ok_or_else(|| too_much(&what()))?;
        self.tell_name_key(target, &key, &to)?;
        Ok(NewNames { keys, meta, hidden: true })
    }

    /// Whether an object that is stored like this has a hidden name.
    pub fn hides(&self, stored: &Stored) -> bool {
        stored.encoding.is_sealed() && self.rules().hide_names
    }

    /// What the object of a recording says of itself.
    ///
    /// # Errors
    /// As `Label::from_user`; `Hidden`.
    pub fn label_of(&self, head: &Head) -> std::result::Result<Label, LabelError> {
        Label::from_user(&hidden::revealed(&head.user, &self.names.identities())?)
    }

    /// What the object of a stored join says of itself.
    ///
    /// # Errors
    /// As `JoinLabel::from_user`; `Hidden`.
    pub fn join_label_of(&self, head: &Head) -> std::result::Result<JoinLabel, LabelError> {
        JoinLabel::from_user(&hidden::revealed(&head.user, &self.names.identities())?)
    }

    /// Whether an object can tell of so many recordings of a call, whatever else it tells.
    pub fn can_be_told(&self, open: &JoinLabel) -> bool {
        let Some(meta) = open.to_meta() else { return false };
        if !self.hides(&open.stored) {
            return true;
        }
        // Without a key nothing is said of this one.
        self.names.needed().map_or(true, |key| !matches!(key.hide(&meta, None), Ok(None)))
    }

    /// The key that names are made with, which these may read: another one when somebody who could
    /// may not any more, or he would read what is named from now on.
    fn name_key(&self, to: &Recipients) -> Result<Arc<NameKey>> {
        let words = to.words().join("\n");
        let before = self.catalog.setting(READERS)?;
        if before.as_deref() == Some(&*words) {
            return self.names.needed();
        }
        let _one_at_a_time = self.names.telling.lock();
        let before = self.catalog.setting(READERS)?.unwrap_or_default();
        let mut key = self.names.needed()?;
        if before.lines().any(|word| words.lines().all(|other| other != word)) {
            key = self.names.renew(&key)?;
        }
        self.catalog.set_setting(READERS, &words)?;
        Ok(key)
    }

    /// Gives a target the name key once more if that was long ago, and it has names that were made
    /// with it.
    ///
    /// # Errors
    /// As of `put`.
    pub fn name_key_stays(&self, target: &Target) -> Result<()> {
        let (Some(key), Some(to)) = (self.names.known()?, self.told_to()?) else { return Ok(()) };
        match self.catalog.setting(&hidden::told_setting(target.name()))? {
            Some(_) => self.tell_name_key(target, &key, &to),
            None => Ok(()),
        }
    }

    /// The same at once, if a repair asks for it.
    ///
    /// # Errors
    /// As of `put`.
    pub fn name_key_again(&self, target: &Target) -> Result<()> {
        let told = self.catalog.setting(&hidden::told_setting(target.name()))?;
        if told.is_some_and(|told| told.is_empty()) { self.name_key_stays(target) } else { Ok(()) }
    }

    /// Sees to it that a target has the name key, sealed to whom it is sealed to what is told, and that
    /// this is not long ago.
    fn tell_name_key(&self, target: &Target, name_key: &NameKey, to: &Recipients) -> Result<()> {
        let refused = |why: &str| EngineError::refused(Path::new("hide_names"), why);
        let setting = hidden::told_setting(target.name());
        let (told, now) = (told(name_key, to), self.now());
        let is_told = || -> Result<bool> {
            let before = self.catalog.setting(&setting)?.unwrap_or_default();
            let (word, at) = before.split_once(' ').unwrap_or_default();
            let at = Timestamp(at.parse().unwrap_or_default());
            Ok(word == told && at <= now && now < at.plus(limits::NAME_KEY_TOLD_EVERY))
        };
        if is_told()? {
            return Ok(());
        }
        let _one_at_a_time = self.names.telling.lock();
        if is_told()? {
            return Ok(());
        }
        // Whoever had the turn before may have found that it does not answer.
        if !target.is_up() {
            return Err(target.trouble().into());
        }
        let sealed = seal::seal_all(to, name_key.text().as_bytes());
        let sealed = sealed.map_err(|error| refused(&error.to_string()))?;
        let (size, sha256) = (sealed.len() as u64, Sha256::of(&sealed));
        let node = self.catalog.identity().node;
        let key = hidden::told_key(target.store.prefix(), &node, fastrand::u32(..));
        let content_type = "application/octet-stream".to_owned();
        let meta = ObjectMeta { content_type, ..ObjectMeta::default() };
        let body = Body::Bytes(sealed.into());
        self.ask(target, target.store.put(&key, body, sha256, &meta))?;
        self.ask(target, store::verify(&*target.store, &key, size, sha256))?;
        Ok(self.catalog.set_setting(&setting, &format!("{told} {}", now.0))?)
    }
}

/// The setting that tells who could read the name key when a name was made last, a line for each.
const READERS: &str = "names.readers";

/// What a target was told, in a word that gives nothing away.
fn told(key: &NameKey, to: &Recipients) -> String {
    hmac(key.text().as_bytes(), &[format!("{to:?}").as_bytes()]).to_string()
}

fn too_much(what: &str) -> EngineError {
    EngineError::refused(
        Path::new(what),
        "there is more to be told beside its object than has room",
    )
}

fn random() -> Vec<u32> {
    std::iter::repeat_with(|| fastrand::u32(..)).take(limits::KEY_CANDIDATES).collect()
}
