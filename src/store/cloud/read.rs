//! Asking: head, ranged get, delete.

use super::fault::{names_the_object, no_bucket};
use super::{Cloud, CloudStore, patience};
use crate::store::fault::Fault;
use crate::store::{Head, StoreErrorKind};
use bytes::{Bytes, BytesMut};
use opendal::options::ListOptions;
use opendal::raw::oio::ReadStreamDyn;
use opendal::raw::{OpDelete, OpList, OpRead, OpStat};
use opendal::{BytesRange, Metadata};
use std::ops::Range;
use tokio::sync::mpsc::Sender;

type Answer<T> = Result<T, Fault>;

/// The beginning of an answer: what is to come, and how much of it.
struct Coming {
    stream: Box<dyn ReadStreamDyn>,
    bytes: u64,
    came: u64,
}

impl CloudStore {
    pub(super) async fn try_head(&self, key: &str) -> Answer<Head> {
        let asked = self.call(0, self.service.stat_dyn(&self.context, key, OpStat::new())).await;
        let metadata = match asked {
            Ok(answer) => answer.into_metadata(),
            Err(fault) => return Err(self.why_missing(fault).await),
        };
        Ok(Head { size: metadata.content_length(), sha256: None, user: self.user(&metadata) })
    }

    fn user(&self, metadata: &Metadata) -> Vec<(String, String)> {
        let fields = metadata.user_metadata().into_iter().flatten();
        let name = |name: &str| match self.options.cloud {
            Cloud::Azure => name.replace('_', "-"),
            Cloud::Google => name.to_owned(),
        };
        fields.map(|(field, value)| (name(field), value.to_owned())).collect()
    }

    pub(super) async fn try_get(&self, key: &str, range: Range<u64>) -> Answer<Bytes> {
        let Some(mut coming) = self.ask(key, &range).await? else { return Ok(Bytes::new()) };
        let timeout = patience(coming.bytes);
        let collect = async {
            let mut whole = BytesMut::new();
            while let Some(part) = self.next_part(&mut coming).await? {
                whole.extend_from_slice(&part);
            }
            Ok(whole.freeze())
        };
        tokio::time::timeout(timeout, collect).await.map_err(|_| Fault::timeout(timeout))?
    }

    /// The same, part by part.
    pub(super) async fn try_get_into(
        &self,
        key: &str,
        range: Range<u64>,
        parts: &Sender<Bytes>,
    ) -> Answer<()> {
        let Some(mut coming) = self.ask(key, &range).await? else { return Ok(()) };
        let timeout = patience(coming.bytes);
        let pass_on = async {
            while let Some(part) = self.next_part(&mut coming).await? {
                if parts.send(part).await.is_err() {
                    // Who listens no more needs nothing more.
                    break;
                }
            }
            Ok(())
        };
        tokio::time::timeout(timeout, pass_on).await.map_err(|_| Fault::timeout(timeout))?
    }

    /// Asks for a range; none if there is nothing in it.
    async fn ask(&self, key: &str, range: &Range<u64>) -> Answer<Option<Coming>> {
        // Servers keep these numbers with a sign.
        let end = range.end.min(i64::MAX.unsigned_abs());
        let Some(wanted) = end.checked_sub(range.start).filter(|n| *n > 0) else {
            return Ok(None);
        };
        let reader = self.service.read_dyn(&self.context, key, OpRead::new());
        let reader = reader.map_err(|e| self.fault(e))?;
        let opened = reader.open_dyn(BytesRange::new(range.start, Some(wanted)));
        match self.call(0, opened).await {
            Ok((answer, stream)) => {
                // The length of the whole object, from Content-Range.
                let size = answer.metadata().map_or(0, Metadata::content_length);
                let bytes = size.min(end).saturating_sub(range.start);
                Ok(Some(Coming { stream, bytes, came: 0 }))
            }
            // The range begins behind the end.
            Err(f) if f.status == 416 => Ok(None),
            Err(f) => Err(self.why_missing(f).await),
        }
    }

    /// What comes next; none when all of it was there.
    async fn next_part(&self, coming: &mut Coming) -> Answer<Option<Bytes>> {
        let left = coming.bytes - coming.came;
        if left == 0 {
            return Ok(None);
        }
        let part = coming.stream.read_dyn().await.map_err(|e| self.fault(e))?.to_bytes();
        if part.is_empty() {
            return Err(Fault::short(coming.came, coming.bytes));
        }
        // A service that ignores ranges sends more.
        let part = part.slice(..part.len().min(usize::try_from(left).unwrap_or(usize::MAX)));
        coming.came += part.len() as u64;
        Ok(Some(part))
    }

    /// Whether it is the object that is missing, or the whole bucket.
    async fn why_missing(&self, fault: Fault) -> Fault {
        let missing = fault.kind == StoreErrorKind::NotFound;
        if !missing || names_the_object(self.options.cloud, &fault) {
            return fault;
        }
        match self.reach_bucket().await {
            Ok(()) => fault,
            Err(fault) => fault,
        }
    }

    /// Whether there is a bucket, and it lets us list.
    pub(super) async fn reach_bucket(&self) -> Answer<()> {
        let prefix = match self.options.prefix.as_str() {
            "" => "/",
            prefix => prefix,
        };
        let few = ListOptions { limit: Some(1), recursive: true, ..ListOptions::default() };
        let mut lister = self.service.list_dyn(&self.context, prefix, OpList::from(few));
        let lister =
            lister.as_mut().map_err(|e| Fault::own(StoreErrorKind::Unsupported, e.to_string()))?;
        match self.call(0, lister.next_dyn()).await {
            Err(f) if f.kind == StoreErrorKind::NotFound => Err(no_bucket(self.options.cloud, f)),
            answer => answer.map(drop),
        }
    }

    pub(super) async fn try_delete(&self, key: &str) -> Answer<()> {
        let mut deleter = self.service.delete_dyn(&self.context).map_err(|e| self.fault(e))?;
        let delete = async {
            deleter.delete_dyn(key, OpDelete::new()).await?;
            deleter.close_dyn().await
        };
        match self.call(0, delete).await {
            Err(fault) => Err(self.why_missing(fault).await),
            Ok(()) => Ok(()),
        }
    }
}
