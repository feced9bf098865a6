//! What a server does rather than what it says: five of eight accept bytes with a wrong checksum,
//! four overwrite in spite of `If-None-Match`.

use super::{PutChecksum, S3Store};
use crate::recording::Sha256;
use crate::store::fault::Fault;
use crate::store::{Capabilities, ObjectMeta, Result, StoreErrorKind, marker};
use bytes::Bytes;

const BYTES: &[u8] = b"spoolfs";

impl S3Store {
    pub(super) async fn try_out(&self, nonce: &str) -> Result<Capabilities> {
        let dir = format!("{}{}{nonce}", self.options.prefix, marker::PROBE_DIR);
        let error = |f: Fault, key: &str| f.into_error(&self.options.name, "put", key);
        let taken = format!("{dir}-taken");
        let conditional_put = self.refuses_taken(&taken).await.map_err(|f| error(f, &taken))?;
        let wrong = format!("{dir}-wrong");
        let checksum = self.refuses_wrong(&wrong).await.map_err(|f| error(f, &wrong))?;
        Ok(Capabilities { conditional_put, checksum })
    }

    /// Writes an object, and then again on the condition that there is none.
    async fn refuses_taken(&self, key: &str) -> std::result::Result<bool, Fault> {
        self.probe_put(key, BYTES, None).await?;
        let refused = match self.probe_put(key, BYTES, Some("*".into())).await {
            Ok(()) => false,
            Err(f) if f.kind == StoreErrorKind::Exists => true,
            // The header is not known here.
            Err(f) if matches!(f.status, 400 | 501) => false,
            Err(f) => return Err(f),
        };
        self.remove_probe(key).await;
        Ok(refused)
    }

    /// Writes bytes under the checksum of others.
    async fn refuses_wrong(&self, key: &str) -> std::result::Result<bool, Fault> {
        if self.options.checksum == PutChecksum::None {
            return Ok(false);
        }
        match self.probe_put(key, b"others", None).await {
            Ok(()) => {
                self.remove_probe(key).await;
                Ok(false)
            }
            Err(f) if f.status == 400 => Ok(true),
            Err(f) => Err(f),
        }
    }

    /// Puts the probe's bytes under the checksum of `summed`.
    async fn probe_put(
        &self,
        key: &str,
        summed: &[u8],
        condition: Option<String>,
    ) -> std::result::Result<(), Fault> {
        let (bytes, sha256) = (Bytes::from_static(BYTES), Sha256::of(summed));
        self.send(key, bytes, sha256, &ObjectMeta::default(), condition).await
    }

    /// A probe that can not be deleted (write-once buckets) stays, a few bytes long.
    async fn remove_probe(&self, key: &str) {
        if let Err(left) = self.try_delete(key).await {
            tracing::debug!(target_name = %self.options.name, key, error = ?left, "probe left");
        }
    }
}
