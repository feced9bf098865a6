//! Asking targets: markers, listings, journal segments, single objects. Every request is counted,
//! and tried again a few times if there is no answer.

use super::error::{RebuildError, Result};
use crate::catalog::Told;
use crate::recording::{ChunkHashes, Encoding, ErrorClass, Hasher, Sha256, Stored};
use crate::store::snapshot::Header;
use crate::store::{Head, Listed, Store, StoreError, StoreErrorKind, journal, key};
use crate::{codec, limits};
use bytes::Bytes;
use std::collections::{BTreeMap, BTreeSet};
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

/// A place in a segment that can not be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Damage {
    /// The target.
    pub target: String,
    /// Key of the segment.
    pub key: String,
    /// Line of the segment, from 1; 0: all of it.
    pub line: usize,
    /// What is wrong.
    pub reason: String,
}

/// Rows that no target has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gap {
    /// Epoch that they belong to.
    pub epoch: u64,
    /// `seq` of the first one.
    pub first: u64,
    /// `seq` of the last one.
    pub last: u64,
}

/// What the journals of all targets hold of one node.
#[derive(Debug, Default)]
pub(super) struct Journals {
    /// By epoch and `seq`.
    pub rows: BTreeMap<(u64, u64), Told>,
    pub damage: Vec<Damage>,
    pub segments: usize,
    /// The highest epoch that any target has heard of.
    pub epoch: u64,
    /// What they follow: epoch and last row of a snapshot.
    after: Option<(u64, u64)>,
}

/// Rows that a snapshot may hold already were told again in a later epoch: it can not be told which.
#[derive(Debug)]
pub(super) struct Repeated;

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

    /// Everything below a prefix.
    pub async fn list(&self, prefix: &str) -> Result<Vec<Listed>> {
        let mut all: Vec<Listed> = Vec::new();
        loop {
            let after = all.last().map_or("", |l| l.key.as_str()).to_owned();
            let page = self.ask(|| self.store.list(prefix, &after)).await;
            let page = page.map_err(|e| self.failed(e))?;
            // Only an empty answer is the end.
            if page.is_empty() {
                return Ok(all);
            }
            all.extend(page);
        }
    }

    /// The recordings of a node: key and length.
    pub async fn recordings(&self, node: &str) -> Result<BTreeMap<String, u64>> {
        let prefix = format!("{}{}/", self.store.prefix(), key::node_component(node));
        Ok(self.list(&prefix).await?.into_iter().map(|l| (l.key, l.size)).collect())
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

    async fn segment(&self, key: &str) -> Result<Option<Bytes>> {
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
    let mut running = JoinSet::new();
    let mut answers = Vec::with_capacity(things.len());
    let mut things = things.into_iter();
    loop {
        while running.len() < limits::REBUILD_REQUESTS
            && let Some(thing) = things.next()
        {
            running.spawn(ask(thing));
        }
        match running.join_next().await {
            None => return Ok(answers),
            Some(Ok(answer)) => answers.push(answer?),
            Some(Err(error)) => return Err(RebuildError::Panic(error.to_string())),
        }
    }
}

/// Reads the journals of a node, or what follows a snapshot in them: all of the first target that
/// has one, and of the others what the first lacks.
pub(super) async fn journals(
    sources: &[Source],
    node: &str,
    base: Option<&Header>,
    progress: &(dyn Fn(&str) + Sync),
) -> Result<std::result::Result<Journals, Repeated>> {
    let after = base.map(|b| (b.epoch, b.seq));
    let mut found = Journals { after, ..Journals::default() };
    for source in sources {
        let directory = journal::directory(source.store.prefix(), node);
        let mut segments: BTreeMap<(u64, u64), String> = BTreeMap::new();
        for listed in source.list(&directory).await? {
            match journal::parse_key(&listed.key) {
                Some(number) => drop(segments.insert(number, listed.key)),
                None => found.damaged(source, &listed.key, 0, "it is no segment"),
            }
        }
        found.epoch = found.epoch.max(segments.keys().last().map_or(0, |(epoch, _)| *epoch));
        if let Some(base) = base {
            let shipped = base.segments.get(source.name()).copied().unwrap_or(0);
            segments.retain(|number, _| *number > (base.epoch, shipped));
        }
        progress(&format!("target {:?}: {} journal segments", source.name(), segments.len()));
        let whole = found.rows.is_empty() || !found.damage.is_empty() || !found.gaps().is_empty();
        if whole {
            found.take(source, segments.into_iter().collect()).await?;
        } else {
            found.take_newer(source, segments).await?;
        }
    }
    if base.is_some_and(|base| found.leave_out(base)) {
        return Ok(Err(Repeated));
    }
    found.forget_repeated();
    Ok(Ok(found))
}

impl Journals {
    fn damaged(&mut self, source: &Source, key: &str, line: usize, reason: impl Into<String>) {
        let (target, key) = (source.name().to_owned(), key.to_owned());
        self.damage.push(Damage { target, key, line, reason: reason.into() });
    }

    /// Reads segments; tells whether they had rows that were not known.
    async fn take(&mut self, source: &Source, segments: Vec<((u64, u64), String)>) -> Result<bool> {
        let read = each(segments, |((epoch, _), key)| {
            let source = source.clone();
            async move {
                let bytes = source.segment(&key).await?;
                Ok((epoch, key, bytes))
            }
        });
        let before = self.rows.len();
        for (epoch, key, bytes) in read.await? {
            self.segments += 1;
            let Some(bytes) = bytes else {
                self.damaged(source, &key, 0, "it is listed and can not be read");
                continue;
            };
            let salvaged = journal::salvage(&bytes).map_err(|e| RebuildError::Newer {
                url: source.store.url(&key),
                reason: e.to_string(),
            })?;
            for (line, reason) in salvaged.damage {
                self.damaged(source, &key, line, reason);
            }
            for (line, text) in salvaged.lines {
                match Told::parse(&text) {
                    Ok(told) if told.seq == 0 => {
                        self.damaged(source, &key, line, "it has no number")
                    }
                    Ok(told) => drop(self.rows.entry((epoch, told.seq)).or_insert(told)),
                    Err(reason) => self.damaged(source, &key, line, reason),
                }
            }
        }
        Ok(self.rows.len() > before)
    }

    /// Reads each epoch from its end on, as long as there is something new.
    async fn take_newer(
        &mut self,
        source: &Source,
        segments: BTreeMap<(u64, u64), String>,
    ) -> Result<()> {
        let mut done = BTreeSet::new();
        for (number, key) in segments.into_iter().rev() {
            if done.contains(&number.0) {
                continue;
            }
            if !self.take(source, vec![(number, key)]).await? {
                done.insert(number.0);
            }
        }
        Ok(())
    }

    /// Leaves out what a snapshot holds. Tells whether a later epoch has rows that may be from before
    /// it: those that were shipped again, which only their first copies would tell from new ones.
    fn leave_out(&mut self, base: &Header) -> bool {
        self.rows.retain(|number, _| *number > (base.epoch, base.seq));
        let old = |((epoch, seq), told): (&(u64, u64), &Told)| {
            *epoch > base.epoch && *seq <= base.seq && told.at.0 <= base.at
        };
        self.rows.iter().any(old)
    }

    /// Rows that were shipped again in a later epoch, unchanged.
    fn forget_repeated(&mut self) {
        let mut first: BTreeMap<u64, (u64, &Told)> = BTreeMap::new();
        let mut repeated = Vec::new();
        for ((epoch, seq), told) in &self.rows {
            match first.get(seq) {
                Some((_, before)) if *before == told => repeated.push((*epoch, *seq)),
                _ => drop(first.insert(*seq, (*epoch, told))),
            }
        }
        for number in repeated {
            // Its place in the order stays filled, so that it is no gap.
            if let Some(told) = self.rows.get_mut(&number) {
                told.what = crate::catalog::What::Other;
            }
        }
    }

    /// The rows as they followed one another, each with its epoch.
    pub fn in_order(&self) -> impl Iterator<Item = (u64, &Told)> {
        self.rows.iter().map(|((epoch, _), told)| (*epoch, told))
    }

    /// Rows that are nowhere. Each epoch goes on where an earlier one was, or begins anew.
    pub fn gaps(&self) -> Vec<Gap> {
        let mut gaps = Vec::new();
        let mut present = self.after.map(|(epoch, _)| epoch);
        let mut last = self.after.map_or(0, |(_, seq)| seq);
        let mut highest = last;
        for (epoch, seq) in self.rows.keys().copied() {
            if present != Some(epoch) {
                // A restored or new catalog counts from a number that was there before.
                last = if seq <= highest + 1 { seq.saturating_sub(1) } else { highest };
                present = Some(epoch);
            }
            if seq > last + 1 {
                gaps.push(Gap { epoch, first: last + 1, last: seq - 1 });
            }
            last = seq;
            highest = highest.max(seq);
        }
        gaps
    }

    /// The highest number of a row.
    pub fn last_seq(&self) -> u64 {
        let rows = self.rows.keys().map(|(_, seq)| *seq);
        rows.chain(self.after.map(|(_, seq)| seq)).max().unwrap_or(0)
    }
}
