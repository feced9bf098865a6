//! Writing an object: in one request, or in blocks (Azure) or the chunks of a session (Google).

use super::{Cloud, CloudStore};
use crate::limits;
use crate::recording::Sha256;
use crate::store::body::{changed, part_size};
use crate::store::fault::Fault;
use crate::store::{Body, ObjectMeta, StoreErrorKind};
use bytes::Bytes;
use opendal::Buffer;
use opendal::options::WriteOptions;
use opendal::raw::{OpWrite, oio};
use sha2::Digest;

type Answer<T> = Result<T, Fault>;

impl CloudStore {
    pub(super) async fn try_put(
        &self,
        key: &str,
        body: &Body,
        sha256: Sha256,
        meta: &ObjectMeta,
    ) -> Answer<()> {
        let put = match body.len() {
            0..=limits::SINGLE_PUT_BYTES_MAX => self.put_single(key, body, sha256, meta).await,
            _ => self.put_parts(key, body, sha256, meta).await,
        };
        match put {
            Err(fault) if fault.kind == StoreErrorKind::NotFound => {
                Err(self.nowhere_to_put(fault).await)
            }
            put => put,
        }
    }

    async fn put_single(
        &self,
        key: &str,
        body: &Body,
        sha256: Sha256,
        meta: &ObjectMeta,
    ) -> Answer<()> {
        let bytes = body.region(0, body.len()).await?;
        if Sha256::of(&bytes) != sha256 {
            return Err(changed());
        }
        if self.conditional() {
            return self.send(key, bytes, meta).await;
        }
        let _one_at_a_time = self.asking.of(key).lock().await;
        self.must_be_free(key).await?;
        self.send(key, bytes, meta).await
    }

    /// Asks first: by GET, whose 404 says what is missing.
    async fn must_be_free(&self, key: &str) -> Answer<()> {
        match self.try_get(key, 0..1).await {
            Ok(_) => Err(Fault::own(StoreErrorKind::Exists, "the key is taken")),
            Err(f) if f.kind == StoreErrorKind::NotFound => Ok(()),
            Err(f) => Err(f),
        }
    }

    /// Bytes in as few requests as the service takes them in, on the condition that the key is free.
    pub(super) async fn send(&self, key: &str, bytes: Bytes, meta: &ObjectMeta) -> Answer<()> {
        let len = bytes.len() as u64;
        let mut writer = self.writer(key, meta)?;
        let whole = async {
            writer.write_dyn(Buffer::from(bytes)).await?;
            writer.close_dyn().await
        };
        self.call(len, whole).await.map(drop)
    }

    async fn put_parts(
        &self,
        key: &str,
        body: &Body,
        sha256: Sha256,
        meta: &ObjectMeta,
    ) -> Answer<()> {
        // Whether the condition is heeded when blocks are put together was not tried by `probe`.
        self.must_be_free(key).await?;
        let _in_flight = self.in_flight.begin(key)?;
        let mut writer = self.writer(key, meta)?;
        let sent = self.send_parts(&mut writer, body, sha256).await;
        let Err(fault) = sent else { return Ok(()) };
        // What is left behind is no object, is in no listing, and goes within a week.
        if fault.kind != StoreErrorKind::Unreachable
            && let Err(left) = self.call(0, writer.abort_dyn()).await
        {
            tracing::debug!(target_name = %self.options.name, key, error = ?left, "parts are left");
        }
        match fault.code.as_str() {
            // Another writer was first, and its commit dropped our blocks.
            "InvalidBlockList" | "InvalidBlobOrBlock" => {
                self.must_be_free(key).await?;
                Err(fault)
            }
            _ => Err(fault),
        }
    }

    async fn send_parts(
        &self,
        writer: &mut oio::Writer,
        body: &Body,
        sha256: Sha256,
    ) -> Answer<()> {
        let (len, size) = (body.len(), part_size(body.len()));
        let mut whole = sha2::Sha256::new();
        let mut offset = 0;
        while offset < len {
            let bytes = body.region(offset, size.min(len - offset)).await?;
            offset += bytes.len() as u64;
            whole.update(&bytes);
            // It sends the part before this one, and keeps this one.
            self.call(size, writer.write_dyn(Buffer::from(bytes))).await?;
        }
        if Sha256(whole.finalize().into()) != sha256 {
            return Err(changed());
        }
        // Putting the parts together may take the service as long as they took to send.
        self.call(2 * size, writer.close_dyn()).await.map(drop)
    }

    fn writer(&self, key: &str, meta: &ObjectMeta) -> Answer<oio::Writer> {
        let user = meta.user.iter().map(|(name, value)| (self.field(name), value.clone()));
        let options = WriteOptions {
            content_type: (!meta.content_type.is_empty()).then(|| meta.content_type.clone()),
            user_metadata: (!meta.user.is_empty()).then(|| user.collect()),
            if_not_exists: true,
            ..WriteOptions::default()
        };
        let (args, _) = OpWrite::from_options(&self.service.capability_dyn(), options)
            .map_err(|e| self.fault(e))?;
        self.service.write_dyn(&self.context, key, args).map_err(|e| self.fault(e))
    }

    /// The name of a field of metadata: Azure's are C# identifiers, which have no hyphen.
    fn field(&self, name: &str) -> String {
        match self.options.cloud {
            Cloud::Azure => name.replace('-', "_"),
            Cloud::Google => name.to_owned(),
        }
    }

    /// A put that was answered with 404: no bucket, or an upload that is no more.
    pub(super) async fn nowhere_to_put(&self, fault: Fault) -> Fault {
        match self.reach_bucket().await {
            Err(fault) => fault,
            Ok(()) => Fault {
                kind: StoreErrorKind::Unreachable,
                hint: "the upload was ended from outside; it begins anew",
                ..fault
            },
        }
    }
}
