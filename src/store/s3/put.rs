//! Writing an object: in one request, or in parts.

use super::customer::CustomerKey;
use super::sse::{CustomerHeaders, check_customer};
use super::{PutChecksum, S3Store, call};
use crate::limits;
use crate::recording::Sha256;
use crate::store::body::{changed, part_size};
use crate::store::fault::Fault;
use crate::store::{Body, ObjectMeta, StoreErrorKind};
use aws_sdk_s3::primitives::ByteStream;
use aws_sdk_s3::types::{ChecksumAlgorithm, CompletedMultipartUpload, CompletedPart, StorageClass};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use sha2::Digest;
use std::sync::Arc;

type Answer<T> = Result<T, Fault>;

/// What an upload in parts must be found to be: the checksum over the parts' checksums as S3
/// writes it, and the digest of the whole that was read at the same time.
#[derive(Clone, Debug)]
pub(super) struct Composite {
    pub(super) checksum: String,
    pub(super) whole: Sha256,
}

/// An upload in parts.
struct Upload<'a> {
    key: &'a str,
    /// The service's number for it.
    id: String,
    /// What all of its parts are encrypted with, also if there are other keys meanwhile.
    secret: Option<Arc<CustomerKey>>,
}

impl Upload<'_> {
    fn secret(&self) -> Option<&CustomerKey> {
        self.secret.as_deref()
    }
}

impl S3Store {
    /// Without a server that refuses, asks first: by GET, whose 404 says what is missing.
    async fn must_be_free(&self, key: &str) -> Answer<()> {
        match self.try_get(key, 0..1).await {
            Ok(_) => Err(Fault::own(StoreErrorKind::Exists, "the key is taken")),
            Err(f) if f.kind == StoreErrorKind::NotFound => Ok(()),
            Err(f) if f.kind == StoreErrorKind::Locked => {
                let what = format!("the key is taken: {}", f.detail);
                Err(Fault::own(StoreErrorKind::Exists, what))
            }
            Err(f) => Err(f),
        }
    }

    fn sends_checksums(&self) -> bool {
        self.options.checksum == PutChecksum::Sha256
    }

    fn condition(&self) -> Option<String> {
        self.conditional().then(|| "*".to_owned())
    }

    pub(super) async fn put_single(
        &self,
        key: &str,
        body: Body,
        sha256: Sha256,
        meta: &ObjectMeta,
    ) -> Answer<()> {
        let bytes = body.region(0, body.len()).await?;
        if Sha256::of(&bytes) != sha256 {
            return Err(changed());
        }
        if !self.conditional() {
            self.must_be_free(key).await?;
        }
        self.send(key, bytes, sha256, meta, self.condition()).await
    }

    /// One put request, exactly as told.
    pub(super) async fn send(
        &self,
        key: &str,
        bytes: Bytes,
        sha256: Sha256,
        meta: &ObjectMeta,
        condition: Option<String>,
    ) -> Answer<()> {
        let len = bytes.len() as u64;
        let secret = self.key_for_writing()?;
        let customer = CustomerHeaders::of(secret.as_deref());
        let client = self.client().await;
        let request = client
            .put_object()
            .bucket(&self.options.bucket)
            .key(key)
            .set_metadata(Some(meta.user.iter().cloned().collect()))
            .set_content_type(content_type(meta))
            .set_storage_class(class(meta))
            .set_checksum_sha256(self.sends_checksums().then(|| STANDARD.encode(sha256.0)))
            .set_if_none_match(condition)
            .set_server_side_encryption(self.sse_method())
            .set_ssekms_key_id(self.sse_key())
            .set_ssekms_encryption_context(self.sse_context())
            .set_bucket_key_enabled(self.sse_bucket_key())
            .set_sse_customer_algorithm(customer.algorithm)
            .set_sse_customer_key(customer.key)
            .set_sse_customer_key_md5(customer.md5)
            .body(ByteStream::from(bytes));
        let put = call(len, request.send()).await?;
        let told = self.check_sse(put.server_side_encryption(), put.ssekms_key_id());
        match told.and(check_customer(secret.as_deref(), put.sse_customer_key_md5())) {
            Ok(()) => Ok(()),
            Err(fault) => Err(self.take_back(key, fault).await),
        }
    }

    pub(super) async fn put_parts(
        &self,
        key: &str,
        body: Body,
        sha256: Sha256,
        meta: &ObjectMeta,
    ) -> Answer<()> {
        // Whether the condition is heeded when parts are completed was not tried by `probe`.
        self.must_be_free(key).await?;
        let _in_flight = self.in_flight.begin(key)?;
        let upload = self.create_upload(key, meta).await?;
        let done = self.send_parts(&upload, &body, sha256).await;
        if done.is_err()
            && let Err(left) = self.abort(key, &upload.id).await
            && left.kind != StoreErrorKind::NotFound
        {
            tracing::warn!(target_name = %self.options.name, key, error = ?left,
                "the parts of a failed upload are still there; the next start ends it");
        }
        done
    }

    async fn create_upload<'a>(&self, key: &'a str, meta: &ObjectMeta) -> Answer<Upload<'a>> {
        let secret = self.key_for_writing()?;
        let customer = CustomerHeaders::of(secret.as_deref());
        let client = self.client().await;
        let request = client
            .create_multipart_upload()
            .bucket(&self.options.bucket)
            .key(key)
            .set_metadata(Some(meta.user.iter().cloned().collect()))
            .set_content_type(content_type(meta))
            .set_storage_class(class(meta))
            .set_server_side_encryption(self.sse_method())
            .set_ssekms_key_id(self.sse_key())
            .set_ssekms_encryption_context(self.sse_context())
            .set_bucket_key_enabled(self.sse_bucket_key())
            .set_sse_customer_algorithm(customer.algorithm)
            .set_sse_customer_key(customer.key)
            .set_sse_customer_key_md5(customer.md5)
            .set_checksum_algorithm(self.sends_checksums().then_some(ChecksumAlgorithm::Sha256));
        let answer = call(0, request.send()).await?;
        let id = answer.upload_id().map(str::to_owned).ok_or_else(|| {
            Fault::own(StoreErrorKind::Unsupported, "the service gives an upload no number")
        })?;
        Ok(Upload { key, id, secret })
    }

    async fn send_parts(&self, upload: &Upload<'_>, body: &Body, sha256: Sha256) -> Answer<()> {
        let (len, size) = (body.len(), part_size(body.len()));
        let (mut whole, mut over_parts) = (sha2::Sha256::new(), sha2::Sha256::new());
        let mut parts = Vec::new();
        let mut offset = 0;
        while offset < len {
            let bytes = body.region(offset, size.min(len - offset)).await?;
            offset += bytes.len() as u64;
            whole.update(&bytes);
            let digest = Sha256::of(&bytes);
            over_parts.update(digest.0);
            let number = i32::try_from(parts.len() + 1).unwrap_or(i32::MAX);
            parts.push(self.send_part(upload, number, bytes, digest).await?);
        }
        if Sha256(whole.finalize().into()) != sha256 {
            return Err(changed());
        }
        let checksum = format!("{}-{}", STANDARD.encode(over_parts.finalize()), parts.len());
        self.complete(upload, parts).await?;
        self.parts.insert(upload.key.to_owned(), Composite { checksum, whole: sha256 });
        Ok(())
    }

    async fn send_part(
        &self,
        upload: &Upload<'_>,
        number: i32,
        bytes: Bytes,
        digest: Sha256,
    ) -> Answer<CompletedPart> {
        let len = bytes.len() as u64;
        let checksum = self.sends_checksums().then(|| STANDARD.encode(digest.0));
        let customer = CustomerHeaders::of(upload.secret());
        let client = self.client().await;
        let request = client
            .upload_part()
            .bucket(&self.options.bucket)
            .key(upload.key)
            .upload_id(&upload.id)
            .part_number(number)
            .set_checksum_sha256(checksum.clone())
            .set_sse_customer_algorithm(customer.algorithm)
            .set_sse_customer_key(customer.key)
            .set_sse_customer_key_md5(customer.md5)
            .body(ByteStream::from(bytes));
        let answer = call(len, request.send()).await?;
        check_customer(upload.secret(), answer.sse_customer_key_md5())?;
        Ok(CompletedPart::builder()
            .part_number(number)
            .set_e_tag(answer.e_tag().map(str::to_owned))
            .set_checksum_sha256(checksum)
            .build())
    }

    /// What SSE-C made of it is in no answer to this, but in those to the parts; some services say nothing
    /// of other encryption here, either.
    async fn complete(&self, upload: &Upload<'_>, parts: Vec<CompletedPart>) -> Answer<()> {
        let (key, customer) = (upload.key, CustomerHeaders::of(upload.secret()));
        self.must_be_free(key).await?;
        let client = self.client().await;
        let request = client
            .complete_multipart_upload()
            .bucket(&self.options.bucket)
            .key(key)
            .upload_id(&upload.id)
            .set_if_none_match(self.condition())
            .set_sse_customer_algorithm(customer.algorithm)
            .set_sse_customer_key(customer.key)
            .set_sse_customer_key_md5(customer.md5)
            .multipart_upload(CompletedMultipartUpload::builder().set_parts(Some(parts)).build());
        // Putting the parts together may take the service as long as they took to send.
        let put = call(limits::PART_BYTES, request.send()).await?;
        let told = match put.server_side_encryption() {
            None if self.sse_method().is_some() => {
                // Without an answer nothing is known of it, and nothing taken away.
                let (head, _) = self.head_as(key, None).await?;
                self.check_sse(head.server_side_encryption(), head.ssekms_key_id())
            }
            method => self.check_sse(method, put.ssekms_key_id()),
        };
        match told {
            Ok(()) => Ok(()),
            Err(fault) => Err(self.take_back(key, fault).await),
        }
    }

    pub(super) async fn abort(&self, key: &str, upload: &str) -> Answer<()> {
        let client = self.client().await;
        let request =
            client.abort_multipart_upload().bucket(&self.options.bucket).key(key).upload_id(upload);
        match call(0, request.send()).await {
            Err(f) if f.code != "NoSuchUpload" => Err(f),
            _ => Ok(()),
        }
    }
}

fn class(meta: &ObjectMeta) -> Option<StorageClass> {
    meta.storage_class.as_ref().map(|class| StorageClass::from(class.word()))
}

fn content_type(meta: &ObjectMeta) -> Option<String> {
    (!meta.content_type.is_empty()).then(|| meta.content_type.clone())
}
