//! Asking targets: markers, listings, journal segments, single objects. Every request is counted,
//! and tried again a few times if there is no answer.

use super::error::{RebuildError, Result};
use crate::codec::Unreadable;
use crate::codec::seal::{self, Identities};
use crate::recording::{ChunkHashes, Encoding, ErrorClass, Hasher, Sealed, Sha256, Stored};
use crate::store::{Head, Listed, Store, StoreError, StoreErrorKind, journal, key};
use crate::{codec, limits};
use bytes::Bytes;
use std::future::Future;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use tokio::task::JoinSet;

/// A target that is read.
#[derive(Clone, Debug)]
pub(super) struct Source {
    pub store: Arc<dyn Store>,
    /// What opens what is sealed.
    pub identities: Identities,
    /// What opens hidden metadata.
    pub names: Identities,
    /// What nothing opens is passed over.
    pub leave_sealed: bool,
    pub requests: Arc<AtomicU64>,
}

impl Source {
    pub fn name(&self) -> &str {
        self.store.name()
    }

    pub fn failed(&self, error: StoreError) -> RebuildError {
        RebuildError::Target { target: self.name().to_owned(), error: error.to_string() }
    }

    /// A request, counted and tried again.
    pub async fn ask<T, F: Future<Output = std::result::Result<T, StoreError>>>(
        &self,
        request: impl Fn() -> F,
    ) -> std::result::Result<T, StoreError> {
        let mut pause = limits::REBUILD_RETRY;
        for _ in 1..limits::REBUILD_TRIES {
            self.requests.fetch_add(1, Ordering::Relaxed);
            match request().await {
                Err(e) if e.class() == ErrorClass::Transient => tokio::time::sleep(pause).await,
                answer => return answer,
            }
            pause *= 2;
        }
        self.requests.fetch_add(1, Ordering::Relaxed);
        request().await
    }

    /// What follows `after` below a prefix. Only an empty answer is the end.
    async fn page(&self, prefix: &str, after: &str) -> Result<Vec<Listed>> {
        let page = self.ask(|| self.store.list(prefix, after)).await;
        page.map_err(|e| self.failed(e))
    }

    /// Everything below a prefix.
    pub async fn list(&self, prefix: &str) -> Result<Vec<Listed>> {
        let mut all: Vec<Listed> = Vec::new();
        loop {
            let after = all.last().map_or("", |l| l.key.as_str());
            let page = self.page(prefix, after).await?;
            if page.is_empty() {
                return Ok(all);
            }
            all.extend(page);
        }
    }

    fn recordings_of(&self, node: &str) -> String {
        format!("{}{}/", self.store.prefix(), key::node_component(node))
    }

    /// Whether there is any recording of a node.
    pub async fn has_recordings(&self, node: &str) -> Result<bool> {
        Ok(!self.page(&self.recordings_of(node), "").await?.is_empty())
    }

    /// The recordings of a node, page by page.
    pub async fn recordings(
        &self,
        node: &str,
        mut each: impl FnMut(&Listed) -> Result<()>,
    ) -> Result<()> {
        let prefix = self.recordings_of(node);
        let mut after = String::new();
        loop {
            let page = self.page(&prefix, &after).await?;
            let Some(last) = page.last() else { return Ok(()) };
            after.clone_from(&last.key);
            page.iter().try_for_each(&mut each)?;
        }
    }

    /// What the target says of an object; `None` if there is none.
    pub async fn head(&self, key: &str) -> Result<Option<Head>> {
        match self.ask(|| self.store.head(key)).await {
            Ok(head) => Ok(Some(head)),
            Err(e) if e.kind == StoreErrorKind::NotFound => Ok(None),
            Err(e) if e.kind == StoreErrorKind::Locked => {
                let why = self.locked(key, &e)?;
                tracing::warn!(why, "an object is passed over");
                Ok(None)
            }
            Err(e) => Err(self.failed(e)),
        }
    }

    /// Reads an object and hashes the recording that it holds; the reason if it is not what was stored,
    /// the recording does not have this digest, or it is sealed.
    pub async fn read_back(
        &self,
        key: &str,
        stored: &Stored,
        sha256: Sha256,
    ) -> Result<std::result::Result<ChunkHashes, String>> {
        let (mut hasher, mut object) = (Hasher::default(), Hasher::default());
        let mut restorer = codec::Restorer::new(&stored.encoding, &self.identities);
        let wrong = || Ok(Err("its bytes are not what its metadata says".to_owned()));
        while object.len() < stored.size {
            let range = object.len()..stored.size.min(object.len() + limits::READ_BACK_BYTES);
            let wanted = range.end - range.start;
            match self.ask(|| self.store.get(key, range.clone())).await {
                Ok(bytes) if bytes.len() as u64 == wanted => {
                    object.update(&bytes);
                    match restorer.push(&bytes, &mut |part| hasher.update(part)) {
                        Ok(()) => {}
                        Err(error) if error.is_locked() => return Ok(Err(error.to_string())),
                        Err(_) => return wrong(),
                    }
                }
                Ok(_) => return wrong(),
                Err(e) if e.class() == ErrorClass::Corrupt => return wrong(),
                Err(e) if e.kind == StoreErrorKind::NotFound => return wrong(),
                Err(e) if e.kind == StoreErrorKind::Locked => {
                    return Ok(Err(self.locked(key, &e)?));
                }
                Err(e) => return Err(self.failed(e)),
            }
        }
        let (found, chunks) = hasher.finish();
        let whole = found == sha256 && object.finish().0 == stored.sha256;
        if whole { Ok(Ok(chunks)) } else { wrong() }
    }

    /// Where the parts of a recording are in an object, which its metadata has no room for; what is
    /// wrong with it, if it is none, or sealed.
    pub async fn look_into(
        &self,
        key: &str,
        stored: &mut Stored,
    ) -> Result<std::result::Result<(), String>> {
        let found = match &stored.encoding {
            Encoding::Flac(None) => self.flac(key, None, stored.size).await?,
            Encoding::Sealed(sealed) if sealed.head().is_none() => {
                self.sealed(key, sealed.inner(), stored.size).await?
            }
            _ => return Ok(Ok(())),
        };
        Ok(found.map(|encoding| stored.encoding = encoding))
    }

    /// The same of a sealed object.
    async fn sealed(
        &self,
        key: &str,
        inner: &Encoding,
        size: u64,
    ) -> Result<std::result::Result<Encoding, String>> {
        let range = 0..limits::SEAL_HEAD_BYTES_MAX.min(size);
        let start = match self.part(key, range).await? {
            Ok(start) => start,
            Err(reason) => return Ok(Err(reason)),
        };
        let sealed = match seal::sealed(&start, inner.clone(), size) {
            Ok(sealed) => sealed,
            Err(error) => return Ok(Err(error.to_string())),
        };
        let (Encoding::Flac(None), Some(bytes)) = (inner, sealed.inner_bytes()) else {
            return Ok(Ok(sealed.into()));
        };
        let head = sealed.head().unwrap_or_default().to_vec();
        let outer = Sealed::new(head.clone(), Encoding::Plain, size);
        let flac = match self.flac(key, outer.map(Encoding::from).as_ref(), bytes).await? {
            Ok(flac) => flac,
            Err(reason) => return Ok(Err(reason)),
        };
        let sealed = Sealed::new(head, flac, size);
        Ok(sealed.map(Encoding::from).ok_or_else(|| "it is not whole".to_owned()))
    }

    /// The same of FLAC of `size` bytes: the object, or what is sealed in it.
    async fn flac(
        &self,
        key: &str,
        outer: Option<&Encoding>,
        size: u64,
    ) -> Result<std::result::Result<Encoding, String>> {
        let mut bytes = limits::FLAC_HEAD_BYTES.min(size);
        loop {
            let outer = outer.unwrap_or(&Encoding::Plain);
            let place = match codec::stored_range(outer, &(0..bytes)) {
                Ok(place) => place,
                Err(error) => return Ok(Err(error.to_string())),
            };
            let start = match self.part(key, place).await? {
                Ok(start) => codec::restored(outer, &(0..bytes), start, &self.identities),
                Err(reason) => return Ok(Err(reason)),
            };
            let found = start.and_then(|start| Ok(codec::flac::head(&start, size)?));
            match found {
                Ok(codec::flac::Head::Map(map)) => return Ok(Ok(map.into())),
                Ok(codec::flac::Head::Longer(more)) if more > bytes => bytes = more,
                Ok(codec::flac::Head::Longer(_)) => {
                    return Ok(Err("it ends in its metadata".to_owned()));
                }
                Err(error) => return Ok(Err(error.to_string())),
            }
        }
    }

    /// A part of an object, or why there is none.
    async fn part(
        &self,
        key: &str,
        range: Range<u64>,
    ) -> Result<std::result::Result<Bytes, String>> {
        match self.ask(|| self.store.get(key, range.clone())).await {
            Ok(bytes) => Ok(Ok(bytes)),
            Err(e) if e.class() == ErrorClass::Corrupt || e.kind == StoreErrorKind::NotFound => {
                Ok(Err(e.to_string()))
            }
            Err(e) if e.kind == StoreErrorKind::Locked => Ok(Err(self.locked(key, &e)?)),
            Err(e) => Err(self.failed(e)),
        }
    }

    /// A journal segment, opened; what is wrong with it.
    pub async fn segment(&self, key: &str) -> Result<std::result::Result<Bytes, String>> {
        match self.ask(|| self.store.get(key, 0..limits::JOURNAL_SEGMENT_BYTES_MAX)).await {
            Ok(bytes) => match journal::opened(bytes, &self.identities) {
                Ok(text) => Ok(Ok(text)),
                Err(why) => Ok(Err(self.not_opened(key, &why)?)),
            },
            Err(e) if matches!(e.kind, StoreErrorKind::NotFound | StoreErrorKind::Corrupt) => {
                Ok(Err("it is listed and can not be read".to_owned()))
            }
            Err(e) if e.kind == StoreErrorKind::Locked => Ok(Err(self.locked(key, &e)?)),
            Err(e) => Err(self.failed(e)),
        }
    }

    /// What is wrong with what the service does not give without a key that is not there.
    ///
    /// # Errors
    /// `Locked`, unless it is to be passed over.
    pub fn locked(&self, key: &str, error: &StoreError) -> Result<String> {
        let (url, why) = (self.store.url(key), error.to_string());
        if self.leave_sealed { Ok(why) } else { Err(RebuildError::Locked { url, why }) }
    }

    /// What is wrong with what could not be opened.
    ///
    /// # Errors
    /// `Locked`, unless it is to be passed over.
    pub fn not_opened(&self, key: &str, why: &Unreadable) -> Result<String> {
        if why.is_locked() && !self.leave_sealed {
            let (url, why) = (self.store.url(key), why.to_string());
            return Err(RebuildError::Locked { url, why });
        }
        Ok(why.to_string())
    }
}

/// Runs a question about each of many things, a few at a time, in no order.
pub(super) async fn each<T, R, F>(things: Vec<T>, ask: impl Fn(T) -> F) -> Result<Vec<R>>
where
    R: Send + 'static,
    F: Future<Output = Result<R>> + Send + 'static,
{
    let mut answers = Vec::with_capacity(things.len());
    let keep = |answer| {
        answers.push(answer);
        Ok(())
    };
    each_to(things, ask, keep).await?;
    Ok(answers)
}

/// The same; each answer is handed on before more is asked.
pub(super) async fn each_to<T, R, F>(
    things: impl IntoIterator<Item = T>,
    ask: impl Fn(T) -> F,
    mut to: impl FnMut(R) -> Result<()>,
) -> Result<()>
where
    R: Send + 'static,
    F: Future<Output = Result<R>> + Send + 'static,
{
    let mut running = JoinSet::new();
    let mut things = things.into_iter();
    loop {
        while running.len() < limits::REBUILD_REQUESTS
            && let Some(thing) = things.next()
        {
            running.spawn(ask(thing));
        }
        match running.join_next().await {
            None => return Ok(()),
            Some(Ok(answer)) => to(answer?)?,
            Some(Err(error)) => return Err(RebuildError::Panic(error.to_string())),
        }
    }
}
