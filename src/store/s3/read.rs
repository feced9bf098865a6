//! Asking a bucket: head, ranged get, list, delete.

use super::sse::CustomerHeaders;
use super::{PutChecksum, S3Store, call, patience};
use crate::limits;
use crate::recording::Sha256;
use crate::store::fault::Fault;
use crate::store::{Head, Listed, StoreErrorKind};
use aws_sdk_s3::operation::get_object::GetObjectOutput;
use aws_sdk_s3::operation::head_object::HeadObjectOutput;
use aws_sdk_s3::presigning::PresigningConfig;
use aws_sdk_s3::types::{ChecksumMode, ChecksumType};
use base64::Engine;
use bytes::Bytes;
use std::ops::Range;
use std::time::Duration;
use tokio::sync::mpsc::Sender;

type Answer<T> = Result<T, Fault>;

impl S3Store {
    pub(super) async fn try_head(&self, key: &str) -> Answer<Head> {
        let head = match self.raw_head(key).await {
            Ok(head) => head,
            Err(f) => {
                return Err(match f.kind {
                    StoreErrorKind::NotFound | StoreErrorKind::Locked | StoreErrorKind::Awaited => {
                        self.why(key).await
                    }
                    // It may be a key that is missing.
                    _ if f.status == 400 => self.try_get(key, 0..1).await.err().unwrap_or(f),
                    _ => f,
                });
            }
        };
        let size = head.content_length().and_then(|n| u64::try_from(n).ok());
        let user = head.metadata().into_iter().flatten();
        Ok(Head {
            size: size.ok_or_else(|| {
                Fault::own(StoreErrorKind::Unsupported, "the answer has no Content-Length")
            })?,
            sha256: self.checksum(key, &head),
            user: user.map(|(k, v)| (k.clone(), v.clone())).collect(),
        })
    }

    async fn raw_head(&self, key: &str) -> Answer<HeadObjectOutput> {
        let mode = (self.options.checksum == PutChecksum::Sha256).then_some(ChecksumMode::Enabled);
        self.head_as(key, mode).await.map(|(head, _)| head)
    }

    /// Also tells whether it was opened with a key of ours.
    pub(super) async fn head_as(
        &self,
        key: &str,
        mode: Option<ChecksumMode>,
    ) -> Answer<(HeadObjectOutput, bool)> {
        let client = self.client().await;
        let mut tries = self.tries(key);
        loop {
            let customer = CustomerHeaders::of(tries.now());
            let request = client
                .head_object()
                .bucket(&self.options.bucket)
                .key(key)
                .set_sse_customer_algorithm(customer.algorithm)
                .set_sse_customer_key(customer.key)
                .set_sse_customer_key_md5(customer.md5)
                .set_checksum_mode(mode.clone());
            match call(0, request.send()).await {
                Ok(head) => {
                    self.opened(key, &tries);
                    return Ok((head, tries.now().is_some()));
                }
                Err(fault) => tries.refused(fault)?,
            }
        }
    }

    /// An answer to HEAD has no body: whether it is the object that is missing or the whole
    /// bucket, the key of an object that is wrong, or missing, or the one of the account, only a GET tells.
    async fn why(&self, key: &str) -> Fault {
        match self.try_get(key, 0..1).await {
            Ok(_) => Fault::own(StoreErrorKind::Unreachable, "it appeared while it was asked for"),
            Err(fault) => fault,
        }
    }

    /// The digest of the whole, if the server is known to compute what it returns.
    fn checksum(&self, key: &str, head: &HeadObjectOutput) -> Option<Sha256> {
        if !self.trusts_checksums() {
            return None;
        }
        let returned = head.checksum_sha256()?;
        if let Some(expected) = self.parts.get(key) {
            return (expected.checksum == returned).then_some(expected.whole);
        }
        if head.checksum_type() == Some(&ChecksumType::Composite) {
            return None;
        }
        let bytes = base64::engine::general_purpose::STANDARD.decode(returned).ok()?;
        Sha256::from_slice(&bytes)
    }

    pub(super) async fn try_get(&self, key: &str, range: Range<u64>) -> Answer<Bytes> {
        match self.ask(key, &range).await? {
            Some(answer) => self.body(answer, &range).await,
            None => Ok(Bytes::new()),
        }
    }

    /// The same, part by part.
    pub(super) async fn try_get_into(
        &self,
        key: &str,
        range: Range<u64>,
        parts: &Sender<Bytes>,
    ) -> Answer<()> {
        let Some(mut answer) = self.ask(key, &range).await? else { return Ok(()) };
        if answer.content_range().is_none() {
            let bytes = self.body(answer, &range).await?;
            let _unheard = parts.send(bytes).await;
            return Ok(());
        }
        let promised = promised(&answer, range.end - range.start)?;
        let timeout = patience(promised);
        let mut came = 0;
        let pass_on = async {
            while let Some(part) =
                answer.body.try_next().await.map_err(|e| Fault::broken_off(&e))?
            {
                came += part.len() as u64;
                if parts.send(part).await.is_err() {
                    // Who listens no more needs nothing more.
                    return Ok::<bool, Fault>(false);
                }
            }
            Ok(true)
        };
        let whole =
            tokio::time::timeout(timeout, pass_on).await.map_err(|_| Fault::timeout(timeout))??;
        if whole && came != promised { Err(Fault::short(came, promised)) } else { Ok(()) }
    }

    /// Asks for a range; none if there is nothing in it.
    async fn ask(&self, key: &str, range: &Range<u64>) -> Answer<Option<GetObjectOutput>> {
        // Servers keep these numbers with a sign.
        let end = range.end.min(i64::MAX.unsigned_abs());
        let Some(last) = end.checked_sub(1).filter(|last| *last >= range.start) else {
            return Ok(None);
        };
        let client = self.client().await;
        let mut tries = self.tries(key);
        loop {
            let customer = CustomerHeaders::of(tries.now());
            let request = client
                .get_object()
                .bucket(&self.options.bucket)
                .key(key)
                .set_sse_customer_algorithm(customer.algorithm)
                .set_sse_customer_key(customer.key)
                .set_sse_customer_key_md5(customer.md5)
                .range(format!("bytes={}-{last}", range.start));
            match call(0, request.send()).await {
                Ok(answer) => {
                    self.opened(key, &tries);
                    return Ok(Some(answer));
                }
                // The range begins behind the end.
                Err(f) if f.status == 416 => return Ok(None),
                Err(fault) => tries.refused(fault)?,
            }
        }
    }

    async fn body(&self, answer: GetObjectOutput, range: &Range<u64>) -> Answer<Bytes> {
        let partial = answer.content_range().is_some();
        let wanted = range.end - range.start;
        let most = if partial { wanted } else { wanted.max(limits::WHOLE_ANSWER_BYTES_MAX) };
        let promised = promised(&answer, most)?;
        let timeout = patience(promised);
        let collected = match tokio::time::timeout(timeout, answer.body.collect()).await {
            Ok(Ok(collected)) => collected.into_bytes(),
            Ok(Err(e)) => return Err(Fault::broken_off(&e)),
            Err(_) => return Err(Fault::timeout(timeout)),
        };
        if promised != collected.len() as u64 {
            return Err(Fault::short(collected.len() as u64, promised));
        }
        if partial {
            return Ok(collected);
        }
        // The whole object came instead.
        let limit = |at: u64| usize::try_from(at).unwrap_or(usize::MAX).min(collected.len());
        Ok(collected.slice(limit(range.start)..limit(range.end)))
    }

    /// Whether it is encrypted with a key of ours. That a service takes one says nothing: some ignore keys
    /// for what has none.
    async fn needs_key(&self, key: &str) -> Answer<bool> {
        let client = self.client().await;
        let head = client.head_object().bucket(&self.options.bucket).key(key);
        match call(0, head.send()).await {
            Ok(head) => Ok(head.sse_customer_algorithm().is_some()),
            // Without its key it is refused; which answer stands for that, `head_as` knows.
            Err(fault) if matches!(fault.status, 400 | 403) => {
                self.head_as(key, None).await.map(|(_, with_a_key)| with_a_key)
            }
            Err(fault) => Err(fault),
        }
    }

    /// A GET signed beforehand (AWS Signature Version 4, in the query).
    pub(super) async fn presign(&self, key: &str, valid: Duration) -> Answer<String> {
        let wrong = |what: String| Fault::own(StoreErrorKind::Unsupported, what);
        if self.options.customer_keys.is_some() && self.needs_key(key).await? {
            let what = "it is encrypted with a key of ours (SSE-C), which whoever opens an address of it \
                        would have to send along, in headers that no browser sends";
            return Err(Fault::own(StoreErrorKind::Unsupported, what)
                .advice("copy the recording from the mount, and give that"));
        }
        let config = PresigningConfig::expires_in(valid).map_err(|e| wrong(e.to_string()))?;
        let client = self.client().await;
        let request = client.get_object().bucket(&self.options.bucket).key(key);
        let signed = request.presigned(config).await.map_err(Fault::from)?;
        Ok(signed.uri().to_owned())
    }

    pub(super) async fn try_list(&self, prefix: &str, after: &str) -> Answer<Vec<Listed>> {
        let client = self.client().await;
        let mut token = None;
        for _ in 0..limits::EMPTY_PAGES_MAX {
            let request = client
                .list_objects_v2()
                .bucket(&self.options.bucket)
                .prefix(prefix)
                .set_start_after((!after.is_empty()).then(|| after.to_owned()))
                .set_continuation_token(token)
                .max_keys(i32::try_from(limits::LIST_PAGE_MAX).unwrap_or(1000));
            let answer = call(0, request.send()).await?;
            let rows = answer.contents().iter().filter_map(|o| {
                let size = o.size().and_then(|n| u64::try_from(n).ok())?;
                Some(Listed { key: o.key()?.to_owned(), size })
            });
            // Some servers take `start-after` as inclusive. No other comparison: SeaweedFS has an
            // order of its own.
            let rows: Vec<_> = rows.filter(|row| row.key != after).collect();
            token = answer.next_continuation_token().map(str::to_owned);
            // A page may be empty (deleted versions) and not the last.
            if !rows.is_empty() || token.is_none() || answer.is_truncated() != Some(true) {
                return Ok(rows);
            }
        }
        Err(Fault::own(StoreErrorKind::Unreachable, "the listing does not get anywhere"))
    }

    pub(super) async fn try_delete(&self, key: &str) -> Answer<()> {
        let client = self.client().await;
        let request = client.delete_object().bucket(&self.options.bucket).key(key);
        call(0, request.send()).await.map(drop)
    }
}

/// How many bytes an answer says that it has; more than `most` were not asked for.
fn promised(answer: &GetObjectOutput, most: u64) -> Answer<u64> {
    let promised = answer.content_length().and_then(|n| u64::try_from(n).ok());
    promised.filter(|n| *n <= most).ok_or_else(|| {
        let what = "the service does not answer with the range that was asked for";
        Fault::own(StoreErrorKind::Unsupported, what)
    })
}
