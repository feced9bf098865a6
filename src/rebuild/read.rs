//! Asking targets: markers, listings, journal segments, single objects. Every request is counted,
//! and tried again a few times if there is no answer.

use super::error::{RebuildError, Result};
use crate::recording::{ChunkHashes, Encoding, ErrorClass, Hasher, Sha256, Stored};
use crate::store::{Head, Listed, Store, StoreError, StoreErrorKind, key};
use crate::{codec, limits};
use bytes::Bytes;
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use tokio::task::JoinSet;

/// A target that is read.
#[derive(Clone, Debug)]
pub(super) struct Source {
    pub store: Arc<dyn Store>,
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

    /// The recordings of a node, page by page.
    pub async fn recordings(
        &self,
        node: &str,
        mut each: impl FnMut(&Listed) -> Result<()>,
    ) -> Result<()> {
        let prefix = format!("{}{}/", self.store.prefix(), key::node_component(node));
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
            Err(e) => Err(self.failed(e)),
        }
    }

    /// Reads an object and hashes the recording that it holds; `None` if it is not what was stored,
    /// or the recording does not have this digest.
    pub async fn read_back(
        &self,
        key: &str,
        stored: &Stored,
        sha256: Sha256,
    ) -> Result<Option<ChunkHashes>> {
        let (mut hasher, mut object) = (Hasher::default(), Hasher::default());
        let mut restorer = codec::Restorer::new(&stored.encoding);
        while object.len() < stored.size {
            let range = object.len()..stored.size.min(object.len() + limits::READ_BACK_BYTES);
            let wanted = range.end - range.start;
            match self.ask(|| self.store.get(key, range.clone())).await {
                Ok(bytes) if bytes.len() as u64 == wanted => {
                    object.update(&bytes);
                    if restorer.push(&bytes, &mut |part| hasher.update(part)).is_err() {
                        return Ok(None);
                    }
                }
                Ok(_) => return Ok(None),
                Err(e) if e.class() == ErrorClass::Corrupt => return Ok(None),
                Err(e) if e.kind == StoreErrorKind::NotFound => return Ok(None),
                Err(e) => return Err(self.failed(e)),
            }
        }
        let (found, chunks) = hasher.finish();
        let whole = found == sha256 && object.finish().0 == stored.sha256;
        Ok(whole.then_some(chunks))
    }

    /// Where the parts of a recording are in a FLAC object, which its metadata has no room for; what
    /// is wrong with it, if it is none.
    pub async fn look_into(
        &self,
        key: &str,
        stored: &mut Stored,
    ) -> Result<std::result::Result<(), String>> {
        if stored.encoding != Encoding::Flac(None) {
            return Ok(Ok(()));
        }
        let mut bytes = limits::FLAC_HEAD_BYTES.min(stored.size);
        loop {
            let start = match self.ask(|| self.store.get(key, 0..bytes)).await {
                Ok(start) => start,
                Err(e)
                    if e.class() == ErrorClass::Corrupt || e.kind == StoreErrorKind::NotFound =>
                {
                    return Ok(Err(e.to_string()));
                }
                Err(e) => return Err(self.failed(e)),
            };
            match codec::flac::head(&start, stored.size) {
                Ok(codec::flac::Head::Map(map)) => {
                    stored.encoding = map.into();
                    return Ok(Ok(()));
                }
                Ok(codec::flac::Head::Longer(more)) if more > bytes => bytes = more,
                Ok(codec::flac::Head::Longer(_)) => {
                    return Ok(Err("it ends in its metadata".to_owned()));
                }
                Err(error) => return Ok(Err(error.to_string())),
            }
        }
    }

    pub async fn segment(&self, key: &str) -> Result<Option<Bytes>> {
        match self.ask(|| self.store.get(key, 0..limits::JOURNAL_SEGMENT_BYTES_MAX)).await {
            Ok(bytes) => Ok(Some(bytes)),
            Err(e) if matches!(e.kind, StoreErrorKind::NotFound | StoreErrorKind::Corrupt) => {
                Ok(None)
            }
            Err(e) => Err(self.failed(e)),
        }
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
